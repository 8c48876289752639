//! The slots of a shard: chunks that are never moved and never given back, so that growing costs one allocation and no
//! copy, and a 32-bit number names a slot for as long as it is occupied.

use std::ops::{Index, IndexMut};

use super::budget::malloc_bytes;
use super::entry::{NIL, Slot};

pub(super) struct Slab {
    chunks: Vec<Box<[Slot]>>,
    /// Slots in a chunk, a power of two: its logarithm.
    chunk_log2: u32,
    free: u32,
    occupied: usize,
}

impl Slab {
    /// For a shard with a budget of `share_bytes`.
    pub fn new(share_bytes: usize) -> Slab {
        // A chunk is at most a 64th of the share, lest the first one eats a small budget.
        let slots = (share_bytes / 64 / size_of::<Slot>()).clamp(16, 1024);
        Slab { chunks: Vec::new(), chunk_log2: slots.ilog2(), free: NIL, occupied: 0 }
    }

    /// Puts `slot` into a free place. `None`: the slab has 2^32 slots, which no budget reaches.
    pub fn put(&mut self, slot: Slot) -> Option<u32> {
        if self.free == NIL {
            self.grow()?;
        }
        let at = self.free;
        self.free = self[at].chain;
        self[at] = slot;
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
        (self.chunks.len() as u32) << self.chunk_log2
    }

    pub fn bytes(&self) -> usize {
        self.chunks.len() * self.chunk_bytes() + malloc_bytes(self.chunks.capacity() * size_of::<Box<[Slot]>>())
    }

    /// What the next `put` takes from the allocator.
    pub fn growth_bytes(&self) -> usize {
        if self.free == NIL { self.chunk_bytes() } else { 0 }
    }

    fn chunk_bytes(&self) -> usize {
        malloc_bytes(size_of::<Slot>() << self.chunk_log2)
    }

    fn grow(&mut self) -> Option<()> {
        let size = 1u32 << self.chunk_log2;
        let first = self.places();
        let end = first.checked_add(size).filter(|&end| end < NIL)?;
        self.chunks.push((first..end).map(|at| Slot::free(if at + 1 == end { NIL } else { at + 1 })).collect());
        self.free = first;
        Some(())
    }

    fn place(&self, at: u32) -> (usize, usize) {
        ((at >> self.chunk_log2) as usize, (at & ((1 << self.chunk_log2) - 1)) as usize)
    }
}

impl Index<u32> for Slab {
    type Output = Slot;

    fn index(&self, at: u32) -> &Slot {
        let (chunk, place) = self.place(at);
        &self.chunks[chunk][place]
    }
}

impl IndexMut<u32> for Slab {
    fn index_mut(&mut self, at: u32) -> &mut Slot {
        let (chunk, place) = self.place(at);
        &mut self.chunks[chunk][place]
    }
}
