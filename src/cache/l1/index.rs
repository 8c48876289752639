//! Where the chain of a tag begins: from the spread tag to a slot.
//!
//! The index is cut into tables of about a thousand places by other bits than those that the tables use, so that growing
//! and shrinking move only what is in one of them. How many there are is set when the shard is made, by its share.

use hashbrown::HashTable;
use hashbrown::hash_table::Entry;

use super::budget::malloc_bytes;

/// First in a shard: its address is in the cache line in which the lock is.
#[repr(C)]
pub(super) struct Index {
    tables: Box<[HashTable<u32>]>,
    bytes: usize,
    /// The table that the next `shrink` looks at.
    cursor: usize,
}

/// Of a share for each table. Small entries take some 130 B: at most about a thousand of them.
const SHARE_A_TABLE: usize = 128 << 10;
const MOST_TABLES: usize = 1 << 16;

impl Index {
    pub fn new(share_bytes: usize) -> Index {
        let tables = (share_bytes / SHARE_A_TABLE).clamp(1, MOST_TABLES).next_power_of_two();
        Index {
            bytes: malloc_bytes(tables * size_of::<HashTable<u32>>()),
            tables: (0..tables).map(|_| HashTable::new()).collect(),
            cursor: 0,
        }
    }

    /// The table in which `spread` belongs.
    #[inline]
    pub fn table(&self, spread: u64) -> &HashTable<u32> {
        &self.tables[self.number(spread)]
    }

    #[inline]
    pub fn table_mut(&mut self, spread: u64) -> &mut HashTable<u32> {
        &mut self.tables[self.number(spread)]
    }

    /// Lets the chain of a tag begin at `at`; `is_it` tells the slot at which it began. Returns that. May grow one table.
    pub fn put(
        &mut self,
        spread: u64,
        at: u32,
        is_it: impl Fn(&u32) -> bool,
        respread: impl Fn(&u32) -> u64,
    ) -> Option<u32> {
        let number = self.number(spread);
        let table = &mut self.tables[number];
        let before = table.allocation_size();
        let first = match table.entry(spread, is_it, respread) {
            Entry::Occupied(mut first) => Some(std::mem::replace(first.get_mut(), at)),
            Entry::Vacant(place) => {
                place.insert(at);
                None
            }
        };
        let after = table.allocation_size();
        if after != before {
            self.bytes = self.bytes - malloc_bytes(before) + malloc_bytes(after);
        }
        first
    }

    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Gives back what the next table has far too much of.
    pub fn shrink(&mut self, respread: impl Fn(&u32) -> u64) {
        self.cursor = (self.cursor + 1) % self.tables.len();
        let table = &mut self.tables[self.cursor];
        if table.len() < table.capacity() / 4 {
            let before = malloc_bytes(table.allocation_size());
            table.shrink_to(table.len() * 5 / 4, respread);
            self.bytes = self.bytes - before + malloc_bytes(table.allocation_size());
        }
    }

    #[cfg(test)]
    pub fn iter(&self) -> impl Iterator<Item = &u32> {
        self.tables.iter().flatten()
    }

    #[inline]
    fn number(&self, spread: u64) -> usize {
        (spread >> 32) as usize & (self.tables.len() - 1)
    }
}
