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
mod tests;
