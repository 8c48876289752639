//! The slots of a shard, in one piece: a 32-bit number names a slot for as long as it is occupied.
//!
//! Growing may move the piece. That costs less than the growth of the index beside it, which visits every slot.

use std::ops::{Index, IndexMut};

use super::budget::malloc_bytes;
use super::entry::{NIL, Slot};

/// The piece comes first: a hit reads its address from the cache line in which the lock is.
#[repr(C)]
pub(super) struct Slab {
    slots: Vec<Slot>,
    occupied: usize,
    free: u32,
}

/// Slots by which the slab grows at least; otherwise by an eighth.
const STEP: usize = 64;

impl Slab {
    pub fn new() -> Slab {
        Slab {
            slots: Vec::new(),
            occupied: 0,
            free: NIL,
        }
    }

    /// Puts `slot` into a free place. `None`: the slab has 2^32 slots, which no budget reaches.
    pub fn put(&mut self, slot: Slot) -> Option<u32> {
        let at = match self.free {
            NIL => {
                let at = u32::try_from(self.slots.len()).ok().filter(|&at| at != NIL)?;
                if self.slots.len() == self.slots.capacity() {
                    self.slots.reserve_exact(self.growth());
                }
                self.slots.push(slot);
                at
            }
            at => {
                self.free = self[at].chain;
                self[at] = slot;
                at
            }
        };
        self.occupied += 1;
        Some(at)
    }

    /// Empties an occupied place.
    pub fn take(&mut self, at: u32) -> Slot {
        self.occupied -= 1;
        let free = Slot::free(self.free);
        self.free = at;
        std::mem::replace(&mut self[at], free)
    }

    pub fn occupied(&self) -> usize {
        self.occupied
    }

    /// Places, free ones included.
    pub fn places(&self) -> u32 {
        self.slots.len() as u32
    }

    pub fn bytes(&self) -> usize {
        malloc_bytes(self.slots.capacity() * size_of::<Slot>())
    }

    /// What the next `put` takes from the allocator.
    pub fn growth_bytes(&self) -> usize {
        let is_full = self.free == NIL && self.slots.len() == self.slots.capacity();
        if is_full { self.growth() * size_of::<Slot>() } else { 0 }
    }

    fn growth(&self) -> usize {
        (self.slots.len() / 8).max(STEP)
    }
}

impl Index<u32> for Slab {
    type Output = Slot;

    #[inline]
    fn index(&self, at: u32) -> &Slot {
        &self.slots[at as usize]
    }
}

impl IndexMut<u32> for Slab {
    #[inline]
    fn index_mut(&mut self, at: u32) -> &mut Slot {
        &mut self.slots[at as usize]
    }
}
