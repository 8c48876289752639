//! The slots of a shard: chunks that are never moved, so that growing costs one allocation and no copy, and a 32-bit number
//! names a slot for as long as it is occupied. Only the last chunk is ever given back, after what is in it has moved.
//!
//! Free places are a list both ways (`older` and `newer`), so that those of the last chunk can be taken out of it.

use std::ops::{Index, IndexMut};

use super::budget::malloc_bytes;
use super::entry::{NIL, Slot};

/// The chunks come first: a hit reads their address from the cache line in which the lock is.
#[repr(C)]
pub(super) struct Slab {
    chunks: Vec<Chunk>,
    occupied: usize,
    free: u32,
    bytes: usize,
}

type Chunk = Box<[Slot; CHUNK]>;

/// A power of two. 5 KiB: small beside the least share of a shard, and yet one pointer for many slots.
pub(super) const CHUNK: usize = 128;

/// What a chunk takes from the allocator.
pub(super) const CHUNK_BYTES: usize = malloc_bytes(size_of::<Slot>() * CHUNK);

impl Slab {
    pub fn new() -> Slab {
        Slab {
            chunks: Vec::new(),
            free: NIL,
            occupied: 0,
            bytes: 0,
        }
    }

    /// Puts `slot` into a free place. `None`: the slab has 2^32 slots, which no budget reaches.
    pub fn put(&mut self, slot: Slot) -> Option<u32> {
        if self.free == NIL {
            self.grow()?;
        }
        let at = self.free;
        self.unlist(at);
        self[at] = slot;
        self.occupied += 1;
        Some(at)
    }

    /// Empties an occupied place.
    pub fn take(&mut self, at: u32) -> Slot {
        self.occupied -= 1;
        if self.free != NIL {
            let first = self.free;
            self[first].newer = at;
        }
        let free = Slot::free(self.free);
        self.free = at;
        std::mem::replace(&mut self[at], free)
    }

    /// Whether the last chunk can be given back, and enough free places are left that it is not soon needed again.
    pub fn has_spare_chunk(&self) -> bool {
        let free = self.places() as usize - self.occupied;
        free >= 2 * CHUNK && free > self.occupied / 4
    }

    /// Takes the free places of the last chunk out of use. The others have to be moved before it is given back.
    pub fn close_last(&mut self) -> std::ops::Range<u32> {
        let end = self.places();
        let first = end.saturating_sub(CHUNK as u32);
        for at in first..end {
            if self[at].is_free() {
                self.unlist(at);
            }
        }
        first..end
    }

    /// Moves what is at `from`, in the closed chunk, to a free place, and returns that. `None`: there is none.
    pub fn relocate(&mut self, from: u32) -> Option<u32> {
        let to = self.free;
        if to == NIL {
            return None;
        }
        self.unlist(to);
        self[to] = std::mem::replace(&mut self[from], Slot::free(NIL));
        Some(to)
    }

    /// Gives back the closed chunk, which is empty.
    pub fn give_back_last(&mut self) {
        self.chunks.pop();
        if self.chunks.len() < self.chunks.capacity() / 4 {
            self.chunks.shrink_to(self.chunks.len() * 2);
        }
        self.count_bytes();
    }

    fn count_bytes(&mut self) {
        self.bytes = self.chunks.len() * CHUNK_BYTES + malloc_bytes(self.chunks.capacity() * size_of::<Chunk>());
    }

    /// Takes a free place out of the list.
    fn unlist(&mut self, at: u32) {
        let (next, previous) = (self[at].older, self[at].newer);
        match previous {
            NIL => self.free = next,
            previous => self[previous].older = next,
        }
        if next != NIL {
            self[next].newer = previous;
        }
    }

    pub fn occupied(&self) -> usize {
        self.occupied
    }

    /// Places, free ones included.
    pub fn places(&self) -> u32 {
        (self.chunks.len() * CHUNK) as u32
    }

    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// What the next `put` takes from the allocator.
    pub fn growth_bytes(&self) -> usize {
        if self.free == NIL { CHUNK_BYTES } else { 0 }
    }

    fn grow(&mut self) -> Option<()> {
        let first = self.places();
        let end = first.checked_add(CHUNK as u32).filter(|&end| end < NIL)?;
        let slots: Vec<Slot> = (first..end)
            .map(|at| {
                let mut slot = Slot::free(if at + 1 == end { NIL } else { at + 1 });
                slot.newer = if at == first { NIL } else { at - 1 };
                slot
            })
            .collect();
        self.chunks.push(slots.try_into().ok()?);
        self.count_bytes();
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
