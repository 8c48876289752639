//! What transfers of large values may take of a worker's time. Each of their turns is short, but there is always a next one:
//! they keep the worker, and through it the server and the clients at the other end, busy for as long as they last, and
//! whoever asks for little waits for a core. So while anybody is served besides, on whichever worker, the transfers of a
//! worker move for a part of the time only and rest between. Alone they do not rest.
//!
//! Everything here is in microseconds of [`crate::clock`].
//!
//! The part is `clients.transfer_share`.

use std::cell::Cell;
use std::sync::atomic::Ordering::Relaxed;

use super::worker::Worker;

/// One worker's account.
pub struct Transfers {
    share_percent: u64,
    /// When all that its transfers have taken is made up for by rest.
    paid_us: Cell<u64>,
}

impl Transfers {
    /// For transfers that have so many hundredths of the time.
    pub fn new(share_percent: usize) -> Transfers {
        Transfers {
            share_percent: share_percent as u64,
            paid_us: Cell::new(0),
        }
    }

    /// They have moved from `start_us` to `end_us`.
    pub fn moved(&self, start_us: u64, end_us: u64) {
        let paid_us = self.paid_us.get().max(start_us.saturating_sub(CREDIT_US));
        let took_us = end_us.saturating_sub(start_us).min(MOST_TURN_US);
        self.paid_us.set(paid_us + took_us * 100 / self.share_percent);
    }

    /// For how long they rest now; 0: they may move.
    pub fn rest_us(&self, now_us: u64, is_anybody_served: bool) -> u64 {
        if !is_anybody_served {
            self.paid_us.set(0);
        }
        self.paid_us.get().saturating_sub(now_us)
    }
}

impl Worker {
    /// Somebody was served besides the transfers: one with a deep pipeline, or one who asks for little.
    #[inline]
    pub fn served(&self, now_us: u64, is_deep: bool) {
        self.shared.served_us[usize::from(self.index)].store(now_us, Relaxed);
        if !is_deep {
            self.polite_us.set(now_us);
        }
    }

    /// Whether somebody who asks for little is served at present, on this worker.
    pub fn is_polite_served(&self, now_us: u64) -> bool {
        self.polite_us.get() + RECENT_US > now_us
    }

    /// Whether somebody is at present, on whichever worker.
    pub fn is_anybody_served(&self, now_us: u64) -> bool {
        let mut served_us = self.shared.served_us.iter().map(|served_us| served_us.load(Relaxed));
        served_us.any(|served_us| served_us + RECENT_US > now_us)
    }
}

/// Whoever was served so recently is served at present: longer than one waits who asks a hundred times a second.
const RECENT_US: u64 = 20_000;
/// No turn takes longer. If it seems so the process was stopped, or the machine gave its time to others, and there is nothing to
/// make up for.
const MOST_TURN_US: u64 = 5_000;
/// Timers are coarse. What transfers have rested for too long they may move for at once, up to what this much rest pays.
const CREDIT_US: u64 = 2_000;

#[cfg(test)]
mod tests;
