//! Whether anything voided a name since a moment: counters by the name's hash.
//!
//! Whoever holds a copy that is in no index (in the queue, in a batch, in the hands of a reader) took the mark of its name while
//! the copy was still true, and asks again, where it is decided, whether it has changed. That another name with the same
//! counter was voided costs a copy now and then, never the truth.

use std::sync::atomic::{AtomicU32, Ordering::SeqCst};

/// The state of a name's counters at a moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Mark {
    name: u32,
    all: u32,
}

pub(super) struct Marks {
    names: Box<[AtomicU32]>,
    all: AtomicU32,
}

const NAMES: usize = if cfg!(test) { 1 << 10 } else { 1 << 16 };

impl Marks {
    pub fn new() -> Marks {
        Marks {
            names: (0..NAMES).map(|_| AtomicU32::new(0)).collect(),
            all: AtomicU32::new(0),
        }
    }

    /// By the low half of a name's hash, which an entry of L1 has at hand.
    pub fn of(&self, tag: u32) -> Mark {
        Mark {
            name: self.counter(tag).load(SeqCst),
            all: self.all.load(SeqCst),
        }
    }

    pub fn void(&self, tag: u32) {
        self.counter(tag).fetch_add(1, SeqCst);
    }

    pub fn void_all(&self) {
        self.all.fetch_add(1, SeqCst);
    }

    fn counter(&self, tag: u32) -> &AtomicU32 {
        &self.names[tag as usize % NAMES]
    }
}
