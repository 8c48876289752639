//! `CLIENT PAUSE` that passed through the proxy. The server stops reading from a connection whose command it holds back,
//! so while writes are paused they must not travel where reads do; and its silence is no sign that it is gone.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

#[derive(Debug, Default)]
pub struct Pause {
    until_us: AtomicU64,
    is_all: AtomicBool,
}

impl Pause {
    /// The server has agreed to a pause from now on. Of several the longest and the widest counts.
    pub fn set(&self, now_us: u64, length_ms: u64, is_all: bool) {
        let end_us = now_us.saturating_add(length_ms.saturating_mul(1000));
        if self.is_on(now_us) {
            self.until_us.fetch_max(end_us, Relaxed);
            self.is_all.fetch_or(is_all, Relaxed);
        } else {
            self.is_all.store(is_all, Relaxed);
            self.until_us.store(end_us, Relaxed);
        }
    }

    pub fn end(&self) {
        self.until_us.store(0, Relaxed);
    }

    pub fn is_on(&self, now_us: u64) -> bool {
        self.until_us.load(Relaxed) > now_us
    }

    /// Whether the server answers reads and holds back what may write.
    pub fn holds_writes_back(&self, now_us: u64) -> bool {
        self.is_on(now_us) && !self.is_all.load(Relaxed)
    }

    /// Whether the server answers nobody.
    pub fn holds_all_back(&self, now_us: u64) -> bool {
        self.is_on(now_us) && self.is_all.load(Relaxed)
    }

    /// When the last pause ends or has ended.
    pub fn until_us(&self) -> u64 {
        self.until_us.load(Relaxed)
    }
}
