//! Which entry goes when the budget is spent: S3-FIFO (Yang and others, "FIFO queues are all you need for cache eviction",
//! SOSP 2023), with queues that are links in the slots.
//!
//! New entries wait in a small queue of a tenth of the bytes; what was hit there moves on to the main queue, the rest goes
//! and leaves its tag in the ghost, so that a quick return enters the main queue. A hit only raises two bits.

use super::entry::{NIL, Queue};
use super::slab::Slab;

pub(super) struct Queues {
    small: Fifo,
    main: Fifo,
    ghost: Ghost,
}

impl Queues {
    pub fn new() -> Queues {
        Queues {
            small: Fifo::EMPTY,
            main: Fifo::EMPTY,
            ghost: Ghost::new(),
        }
    }

    /// Where a new entry of `tag` belongs.
    pub fn admit(&mut self, tag: u32) -> Queue {
        if self.ghost.forget(tag) {
            Queue::Main
        } else {
            Queue::Small
        }
    }

    /// Puts the slot at the head of the queue that its stamp names.
    pub fn push(&mut self, slab: &mut Slab, at: u32) {
        self.fifo(slab[at].stamp.queue()).push(slab, at);
    }

    pub fn unlink(&mut self, slab: &mut Slab, at: u32) {
        self.fifo(slab[at].stamp.queue()).unlink(slab, at);
    }

    /// The next entry to go. It is still linked; the caller drops it.
    pub fn victim(&mut self, slab: &mut Slab) -> Option<u32> {
        loop {
            let is_small_due = self.small.bytes * 10 > self.small.bytes + self.main.bytes;
            let at = match (self.small.tail, self.main.tail) {
                (NIL, NIL) => return None,
                (small, main) if main == NIL || (is_small_due && small != NIL) => small,
                (_, main) => main,
            };
            let frequency = slab[at].stamp.frequency();
            let is_small = slab[at].stamp.queue() == Queue::Small;
            if is_small && frequency < PROMOTE_AT {
                self.ghost.remember(slab[at].tag, slab.occupied());
                return Some(at);
            }
            if !is_small && frequency == 0 {
                return Some(at);
            }
            self.unlink(slab, at);
            let stamp = &mut slab[at].stamp;
            stamp.set_frequency(if is_small { 0 } else { frequency - 1 });
            stamp.set_queue(Queue::Main);
            self.push(slab, at);
        }
    }

    /// An entry ends for another reason than eviction. One that had proved itself enters the main queue when it is filled
    /// again: that its value changed says nothing against its popularity.
    pub fn ended(&mut self, slab: &Slab, at: u32) {
        let stamp = &slab[at].stamp;
        if stamp.queue() == Queue::Main || stamp.frequency() >= PROMOTE_AT {
            self.ghost.remember(slab[at].tag, slab.occupied());
        }
    }

    /// Bytes of the ghost; the queues themselves take none.
    pub fn bytes(&self) -> usize {
        self.ghost.bytes()
    }

    fn fifo(&mut self, queue: Queue) -> &mut Fifo {
        match queue {
            Queue::Main => &mut self.main,
            Queue::Small | Queue::None => &mut self.small,
        }
    }
}

/// Hits in the small queue that carry an entry into the main one.
const PROMOTE_AT: u8 = 2;

/// A queue of slots and the weight of what is in it.
struct Fifo {
    head: u32,
    tail: u32,
    bytes: usize,
}

impl Fifo {
    const EMPTY: Fifo = Fifo {
        head: NIL,
        tail: NIL,
        bytes: 0,
    };

    fn push(&mut self, slab: &mut Slab, at: u32) {
        let slot = &mut slab[at];
        (slot.newer, slot.older) = (NIL, self.head);
        self.bytes += slot.payload.weight();
        match self.head {
            NIL => self.tail = at,
            head => slab[head].newer = at,
        }
        self.head = at;
    }

    fn unlink(&mut self, slab: &mut Slab, at: u32) {
        let slot = &slab[at];
        let (newer, older) = (slot.newer, slot.older);
        self.bytes -= slot.payload.weight();
        match newer {
            NIL => self.head = older,
            newer => slab[newer].older = older,
        }
        match older {
            NIL => self.tail = newer,
            older => slab[older].newer = newer,
        }
    }
}

/// Tags of what was evicted lately, about as many as there are entries: sets of eight, each a queue of its own.
struct Ghost {
    sets: Box<[[u32; WAYS]]>,
}

const WAYS: usize = 8;
const FIRST_SETS: usize = 8;

impl Ghost {
    fn new() -> Ghost {
        Ghost { sets: Box::default() }
    }

    /// Remembers `tag` instead of the oldest of its set. `entries`: how many tags are worth the room.
    fn remember(&mut self, tag: u32, entries: usize) {
        if entries > self.sets.len() * WAYS {
            self.grow();
        }
        self.put(tag);
    }

    /// Whether `tag` was there; it no longer is.
    fn forget(&mut self, tag: u32) -> bool {
        if self.sets.is_empty() || tag == EMPTY {
            return false;
        }
        let set = &mut self.sets[set_of(tag, self.sets.len())];
        let Some(at) = set.iter().position(|&t| t == tag) else {
            return false;
        };
        set.copy_within(at + 1.., at);
        set[WAYS - 1] = EMPTY;
        true
    }

    fn bytes(&self) -> usize {
        super::budget::malloc_bytes(size_of_val(&*self.sets))
    }

    fn put(&mut self, tag: u32) {
        let set = &mut self.sets[set_of(tag, self.sets.len())];
        let keep = set.iter().position(|&t| t == tag).unwrap_or(WAYS - 1);
        set.copy_within(..keep, 1);
        set[0] = tag;
    }

    fn grow(&mut self) {
        let sets = (self.sets.len() * 2).max(FIRST_SETS);
        let old = std::mem::replace(&mut self.sets, vec![[EMPTY; WAYS]; sets].into_boxed_slice());
        old.iter()
            .flat_map(|set| set.iter().rev())
            .filter(|&&tag| tag != EMPTY)
            .for_each(|&tag| self.put(tag));
    }
}

/// No tag. The one name in 2^32 whose tag this is goes unremembered.
const EMPTY: u32 = 0;

/// `sets` is a power of two.
fn set_of(tag: u32, sets: usize) -> usize {
    (super::shard::spread(tag) >> 32) as usize & (sets - 1)
}

#[cfg(test)]
mod tests;
