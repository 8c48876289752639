//! What is remembered of entries that are gone: tags only.

use super::super::budget::{malloc_bytes, size_class};
use super::super::index::spread;

/// Tags of what was evicted lately, about as many as there are entries: sets of eight, each a queue of its own.
pub(super) struct Ghost {
    sets: Box<[[u32; WAYS]]>,
    bytes: usize,
}

const WAYS: usize = 8;
const FIRST_SETS: usize = 8;
/// A ghost of more sets forgets everything when it grows: carrying the tags over would hold up one insert for too long. It
/// rarely grows at all, because the first eviction finds L1 full.
const MOST_CARRIED: usize = 512;

impl Ghost {
    pub fn new() -> Ghost {
        Ghost {
            sets: Box::default(),
            bytes: 0,
        }
    }

    /// Remembers `tag` instead of the oldest of its set. `entries`: how many tags are worth the room.
    pub fn remember(&mut self, tag: u32, entries: usize) {
        if entries > self.sets.len() * WAYS {
            self.resize(Ghost::sets_for(entries));
        }
        self.put(tag);
    }

    /// Whether `tag` was there; it no longer is.
    pub fn forget(&mut self, tag: u32) -> bool {
        if self.sets.is_empty() || tag == EMPTY {
            return false;
        }
        let set = &mut self.sets[place_of(tag, self.sets.len())];
        let Some(at) = set.iter().position(|&t| t == tag) else {
            return false;
        };
        set.copy_within(at + 1.., at);
        set[WAYS - 1] = EMPTY;
        true
    }

    pub fn bytes(&self) -> usize {
        self.bytes
    }

    pub fn shrink(&mut self, entries: usize) {
        let sets = Ghost::sets_for(entries);
        if sets < self.sets.len() / 4 {
            self.resize(sets);
        }
    }

    /// As many as fit into what the allocator gives for so many entries.
    fn sets_for(entries: usize) -> usize {
        let sets = entries.div_ceil(WAYS).max(FIRST_SETS);
        size_class(sets * size_of::<[u32; WAYS]>()) / size_of::<[u32; WAYS]>()
    }

    fn put(&mut self, tag: u32) {
        let set = &mut self.sets[place_of(tag, self.sets.len())];
        let keep = set.iter().position(|&t| t == tag).unwrap_or(WAYS - 1);
        set.copy_within(..keep, 1);
        set[0] = tag;
    }

    fn resize(&mut self, sets: usize) {
        let old = std::mem::replace(&mut self.sets, vec![[EMPTY; WAYS]; sets].into_boxed_slice());
        self.bytes = malloc_bytes(size_of_val(&*self.sets));
        if old.len() > MOST_CARRIED {
            return;
        }
        old.iter()
            .flat_map(|set| set.iter().rev())
            .filter(|&&tag| tag != EMPTY)
            .for_each(|&tag| self.put(tag));
    }
}

/// Tags of the last that a queue let go, a sixteenth as many as there are entries, or a little more. A tag stands until another
/// takes its place.
pub(super) struct Shadow {
    tags: Box<[u32]>,
    bytes: usize,
}

const ENTRIES_A_TAG: usize = 16;

impl Shadow {
    pub fn new() -> Shadow {
        Shadow {
            tags: Box::default(),
            bytes: 0,
        }
    }

    pub fn remember(&mut self, tag: u32, entries: usize) {
        let wanted = Shadow::tags_for(entries);
        if wanted > self.tags.len() {
            self.resize(wanted);
        }
        self.tags[place_of(tag, self.tags.len())] = tag;
    }

    /// Whether `tag` was there; it no longer is.
    pub fn forget(&mut self, tag: u32) -> bool {
        if self.tags.is_empty() || tag == EMPTY {
            return false;
        }
        let place = &mut self.tags[place_of(tag, self.tags.len())];
        let is_there = *place == tag;
        if is_there {
            *place = EMPTY;
        }
        is_there
    }

    pub fn bytes(&self) -> usize {
        self.bytes
    }

    pub fn shrink(&mut self, entries: usize) {
        let wanted = Shadow::tags_for(entries);
        if wanted < self.tags.len() / 4 {
            self.resize(wanted);
        }
    }

    fn tags_for(entries: usize) -> usize {
        let tags = entries.div_ceil(ENTRIES_A_TAG).max(1);
        size_class(tags * size_of::<u32>()) / size_of::<u32>()
    }

    /// Forgets everything, which costs a few adaptations of the small queue.
    fn resize(&mut self, tags: usize) {
        self.tags = vec![EMPTY; tags].into_boxed_slice();
        self.bytes = malloc_bytes(size_of_val(&*self.tags));
    }
}

/// No tag. The one name in 2^32 whose tag this is goes unremembered.
const EMPTY: u32 = 0;

fn place_of(tag: u32, places: usize) -> usize {
    (((spread(tag) >> 32) * places as u64) >> 32) as usize
}

#[cfg(test)]
mod tests;
