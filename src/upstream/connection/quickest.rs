//! How soon a server answers at best, which tells one on the same machine from one behind a network.

/// An answer within this comes from nearby (µs): over loopback it takes 15 to 60, between machines of one zone 100 and more.
const NEAR_US: u64 = 80;
/// For how long the best time counts at least; twice as long at most (µs).
const WINDOW_US: u64 = 10_000_000;

/// The best time of this window and of the one before it.
#[derive(Clone, Copy)]
pub(super) struct Quickest {
    now_us: u64,
    before_us: u64,
    since_us: u64,
}

impl Quickest {
    /// Nothing has been answered yet.
    pub const UNKNOWN: Quickest = Quickest {
        now_us: u64::MAX,
        before_us: u64::MAX,
        since_us: 0,
    };

    /// An answer came at this time to what was queued at that one.
    #[inline]
    pub fn answered(&mut self, queued_us: u64, now_us: u64) {
        if now_us.saturating_sub(self.since_us) >= WINDOW_US {
            self.before_us = self.now_us;
            self.now_us = u64::MAX;
            self.since_us = now_us;
        }
        self.now_us = self.now_us.min(now_us.saturating_sub(queued_us));
    }

    #[inline]
    pub fn is_near(&self) -> bool {
        self.now_us.min(self.before_us) <= NEAR_US
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_near_while_one_of_its_answers_of_the_last_windows_was_quick() {
        let mut quickest = Quickest::UNKNOWN;
        assert!(!quickest.is_near());
        let mut now_us = 2 * WINDOW_US;
        quickest.answered(now_us - NEAR_US - 1, now_us);
        assert!(!quickest.is_near());
        quickest.answered(now_us - NEAR_US, now_us);
        assert!(quickest.is_near());
        for is_near in [true, false] {
            now_us += WINDOW_US;
            quickest.answered(now_us - 200, now_us);
            assert_eq!(quickest.is_near(), is_near);
        }
    }
}
