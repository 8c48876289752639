//! Whether anything voided a name since a moment: counters by the name's hash.
//!
//! Whoever holds a copy that is in no index (in the queue, in a batch, in the hands of a reader) took the mark of its name while
//! the copy was still true, and asks again, where it is decided, whether it has changed. That another name with the same
//! counter was voided costs a copy now and then, never the truth.
//!
//! The same number says how many records of such names the writer is about to write or has just written, and has not
//! published: whoever voids one of them is told so by the same step by which he voids it, and sees to it that the record is
//! followed by a tombstone.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::SeqCst};

/// The state of a name's counters at a moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Mark {
    name: u64,
    all: u32,
}

pub(super) struct Marks {
    /// Voids in the low bits, records in the writer's hands above.
    names: Box<[AtomicU64]>,
    all: AtomicU32,
}

const NAMES: usize = if cfg!(test) { 1 << 10 } else { 1 << 16 };
/// A counter that ran over would only be taken for a record in the writer's hands.
const VOID_BITS: u32 = 40;

impl Marks {
    pub fn new() -> Marks {
        Marks {
            names: (0..NAMES).map(|_| AtomicU64::new(0)).collect(),
            all: AtomicU32::new(0),
        }
    }

    /// By the low half of a name's hash, which an entry of L1 has at hand.
    pub fn of(&self, tag: u32) -> Mark {
        self.mark(self.counter(tag).load(SeqCst))
    }

    /// True: a record of the name may be in the writer's hands.
    pub fn void(&self, tag: u32) -> bool {
        self.counter(tag).fetch_add(1, SeqCst) >> VOID_BITS > 0
    }

    /// The writer takes a record in hand. The mark of its name.
    pub fn take(&self, tag: u32) -> Mark {
        self.mark(self.counter(tag).fetch_add(1 << VOID_BITS, SeqCst))
    }

    /// A record of the name may be in the writer's hands.
    pub fn is_in_hand(&self, tag: u32) -> bool {
        self.counter(tag).load(SeqCst) >> VOID_BITS > 0
    }

    /// It is published, or has its tombstone, or was not written.
    pub fn let_go(&self, tag: u32) {
        self.counter(tag).fetch_sub(1 << VOID_BITS, SeqCst);
    }

    fn mark(&self, counter: u64) -> Mark {
        Mark {
            name: counter & ((1 << VOID_BITS) - 1),
            all: self.all.load(SeqCst),
        }
    }

    pub fn void_all(&self) {
        self.all.fetch_add(1, SeqCst);
    }

    fn counter(&self, tag: u32) -> &AtomicU64 {
        &self.names[tag as usize % NAMES]
    }
}
