//! The slots of a shard: chunks that are never moved and never given back, so that growing costs one allocation and no
//! copy, and a 32-bit number names a slot for as long as it is occupied.

use std::ops::{Index, IndexMut};

use super::budget::malloc_bytes;
use super::entry::{NIL, Slot};

/// The chunks come first: a hit reads their address from the cache line in which the lock is.
#[repr(C)]
pub(super) struct Slab {
    chunks: Vec<Chunk>,
    occupied: usize,
    free: u32,
}

type Chunk = Box<[Slot; CHUNK]>;

/// A power of two. 6 KiB: small beside the least share of a shard, and yet one pointer for many slots.
const CHUNK: usize = 128;

/// What a chunk takes from the allocator.
pub(super) const CHUNK_BYTES: usize = malloc_bytes(size_of::<Slot>() * CHUNK);

impl Slab {
    pub fn new() -> Slab {
        Slab {
            chunks: Vec::new(),
            free: NIL,
            occupied: 0,
        }
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
        (self.chunks.len() * CHUNK) as u32
    }

    pub fn bytes(&self) -> usize {
        self.chunks.len() * CHUNK_BYTES + malloc_bytes(self.chunks.capacity() * size_of::<Chunk>())
    }

    /// What the next `put` takes from the allocator.
    pub fn growth_bytes(&self) -> usize {
        if self.free == NIL { CHUNK_BYTES } else { 0 }
    }

    fn grow(&mut self) -> Option<()> {
        let first = self.places();
        let end = first.checked_add(CHUNK as u32).filter(|&end| end < NIL)?;
        let slots: Vec<Slot> = (first + 1..=end)
            .map(|next| Slot::free(if next == end { NIL } else { next }))
            .collect();
        self.chunks.push(slots.try_into().ok()?);
        self.free = first;
        Some(())
    }
}

impl Index<u32> for Slab {
    type Output = Slot;

    #[inline]
    fn index(&self, at: u32) -> &Slot {
        &self.chunks[at as usize / CHUNK][at as usize % CHUNK]
    }
}

impl IndexMut<u32> for Slab {
    #[inline]
    fn index_mut(&mut self, at: u32) -> &mut Slot {
        &mut self.chunks[at as usize / CHUNK][at as usize % CHUNK]
    }
}
