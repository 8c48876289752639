//! Where the chain of a tag begins: from the tag to a slot.
//!
//! The index is cut into tables of about a thousand places, so that growing and shrinking move only what is in one of them.
//! How many there are is set when the shard is made, by its share.
//!
//! A table is a row of cache lines. A tag begins to look for a place in the line that its bits name, and goes on to the next
//! one while they are full; each full line counts who went by, so that a search ends where nobody did, which is mostly
//! the first line (Bronson and Shi, "Open-sourcing F14", 2019). Where a place comes free, one that went by moves back: it would
//! else keep searches going for as long as it lives. Nothing marks what was removed, so that a table in which entries come and
//! go does not grow.

use wide::u8x16;

use super::budget::{malloc_bytes, size_class};

/// First in a shard: its address is in the cache line in which the lock is.
#[repr(C)]
pub(super) struct Index {
    tables: Box<[Table]>,
    bytes: usize,
    /// The table that the next `shrink` looks at.
    cursor: usize,
}

struct Table {
    lines: Box<[Line]>,
    tags: usize,
}

/// Places side by side, in one cache line with what is known of who is there.
#[derive(Clone)]
#[repr(C, align(64))]
struct Line {
    /// For each place [`FREE`] or the [`mark`] of its tag.
    /// Then how many tags went by because all places were taken, up to [`MANY`], and two bits for each place: how many lines
    /// its tag has gone by, up to [`FAR`].
    head: [u8; 16],
    slots: [u32; WAYS],
}

/// Where a tag is, until the index is changed.
#[derive(Clone, Copy)]
pub(super) struct Place {
    table: usize,
    line: usize,
    way: usize,
}

const WAYS: usize = 12;
const LINE_BYTES: usize = size_of::<Line>();
const _: () = assert!(LINE_BYTES == 64);

/// Of six places of a table one at least is free: a fuller one would send many searches to a second line.
const MOST_TAKEN: (usize, usize) = (5, 6);

/// Of a share for each table. Small entries take some 130 B: at most about a thousand of them.
const SHARE_A_TABLE: usize = 128 << 10;
const MOST_TABLES: usize = 1 << 16;

impl Index {
    pub fn new(share_bytes: usize) -> Index {
        let tables = (share_bytes / SHARE_A_TABLE).clamp(1, MOST_TABLES).next_power_of_two();
        Index {
            bytes: malloc_bytes(tables * size_of::<Table>()),
            tables: (0..tables).map(|_| Table::of(0)).collect(),
            cursor: 0,
        }
    }

    /// The place of `tag`, whose slot `is_it` tells, and what is there.
    #[inline]
    pub fn find(&self, tag: u32, is_it: impl Fn(u32) -> bool) -> Option<(Place, u32)> {
        let table = self.number(tag);
        let (line, way, at) = self.tables[table].find(tag, is_it)?;
        Some((Place { table, line, way }, at))
    }

    /// Puts another slot into a place.
    pub fn set(&mut self, place: Place, at: u32) {
        self.tables[place.table].lines[place.line].slots[place.way] = at;
    }

    /// Lets the chain of a tag, which is not there, begin at `at`. May grow one table.
    pub fn put(&mut self, tag: u32, at: u32, tag_of: impl Fn(u32) -> u32) {
        let number = self.number(tag);
        let table = &mut self.tables[number];
        if !table.has_place() {
            self.bytes -= table.bytes();
            table.resize(lines_for(table.tags + 1), tag_of);
            self.bytes += table.bytes();
        }
        table.put(tag, at);
    }

    pub fn remove(&mut self, tag: u32, place: Place) {
        self.tables[place.table].remove(tag, place.line, place.way);
    }

    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Gives back what the next table has far too much of.
    pub fn shrink(&mut self, tag_of: impl Fn(u32) -> u32) {
        self.cursor = (self.cursor + 1) % self.tables.len();
        let table = &mut self.tables[self.cursor];
        let wanted = lines_for(table.tags * 5 / 4);
        if wanted < table.lines.len() / 2 {
            self.bytes -= table.bytes();
            table.resize(wanted, tag_of);
            self.bytes += table.bytes();
        }
    }

    #[cfg(test)]
    pub fn iter(&self) -> impl Iterator<Item = u32> {
        let lines = self.tables.iter().flat_map(|table| &table.lines);
        lines.flat_map(Line::taken)
    }

    /// By other bits than those that choose a line.
    #[inline]
    fn number(&self, tag: u32) -> usize {
        (spread(tag) >> 32) as usize & (self.tables.len() - 1)
    }
}

impl Table {
    fn of(lines: usize) -> Table {
        Table {
            lines: vec![Line::FREE; lines].into_boxed_slice(),
            tags: 0,
        }
    }

    #[inline]
    fn find(&self, tag: u32, is_it: impl Fn(u32) -> bool) -> Option<(usize, usize, u32)> {
        let mark = mark(tag);
        let mut number = self.home(tag);
        // Where a table is nearly full of tags that went by, each line may have been passed.
        for _ in 0..self.lines.len() {
            let line = &self.lines[number];
            let mut marked = line.marked(mark);
            while marked != 0 {
                let way = marked.trailing_zeros() as usize;
                let at = line.slots[way];
                if is_it(at) {
                    return Some((number, way, at));
                }
                marked &= marked - 1;
            }
            if line.passed() == 0 {
                break;
            }
            number = self.after(number);
        }
        None
    }

    fn has_place(&self) -> bool {
        let (taken, of) = MOST_TAKEN;
        (self.tags + 1) * of <= self.lines.len() * WAYS * taken
    }

    /// There is a place for it.
    fn put(&mut self, tag: u32, at: u32) {
        let mut number = self.home(tag);
        for gone_by in 0..self.lines.len() {
            let line = &mut self.lines[number];
            let free = line.marked(FREE);
            if free != 0 {
                line.fill(free.trailing_zeros() as usize, mark(tag), at, gone_by);
                self.tags += 1;
                return;
            }
            line.pass();
            number = self.after(number);
        }
        debug_assert!(false, "a full table");
    }

    fn remove(&mut self, tag: u32, line: usize, way: usize) {
        self.lines[line].head[way] = FREE;
        self.tags -= 1;
        let mut number = self.home(tag);
        while number != line {
            self.lines[number].unpass();
            number = self.after(number);
        }
        self.refill(line, way);
    }

    /// Lets one that went by take the place that has come free, another one the place of that one, and so on. One that has
    /// gone far stays, for nobody knows how far.
    fn refill(&mut self, mut line: usize, mut way: usize) {
        for _ in 0..self.lines.len() {
            if self.lines[line].passed() == 0 {
                return;
            }
            let next = self.after(line);
            let (from, back) = match self.lines[next].gone_by(1..FAR) {
                Some(found) => ((next, found), 1),
                None => {
                    let after_next = self.after(next);
                    match self.lines[after_next].gone_by(2..FAR) {
                        Some(found) if after_next != line => ((after_next, found), 2),
                        _ => return,
                    }
                }
            };
            let (mark, at, gone_by) = self.lines[from.0].take(from.1);
            self.lines[line].fill(way, mark, at, gone_by - back);
            self.lines[line].unpass();
            if back == 2 {
                self.lines[next].unpass();
            }
            (line, way) = from;
        }
    }

    fn resize(&mut self, lines: usize, tag_of: impl Fn(u32) -> u32) {
        let old = std::mem::replace(self, Table::of(lines));
        for at in old.lines.iter().flat_map(Line::taken) {
            self.put(tag_of(at), at);
        }
    }

    fn bytes(&self) -> usize {
        malloc_bytes(self.lines.len() * LINE_BYTES)
    }

    /// The line in which the search for a tag begins.
    #[inline]
    fn home(&self, tag: u32) -> usize {
        ((spread(tag) >> 40) as usize * self.lines.len()) >> 24
    }

    #[inline]
    fn after(&self, number: usize) -> usize {
        if number + 1 == self.lines.len() { 0 } else { number + 1 }
    }
}

impl Line {
    const FREE: Line = Line {
        head: [FREE; 16],
        slots: [0; WAYS],
    };

    /// The places with this mark, a bit each.
    #[inline]
    fn marked(&self, mark: u8) -> u32 {
        let is_equal = u8x16::new(self.head).simd_eq(u8x16::splat(mark));
        is_equal.to_bitmask() & ((1 << WAYS) - 1)
    }

    /// How many went by, up to [`MANY`].
    #[inline]
    fn passed(&self) -> u8 {
        self.head[WAYS]
    }

    fn pass(&mut self) {
        self.head[WAYS] = self.head[WAYS].saturating_add(1);
    }

    fn unpass(&mut self) {
        if self.head[WAYS] < MANY {
            self.head[WAYS] -= 1;
        }
    }

    /// The first place whose tag has gone by so many lines.
    fn gone_by(&self, lines: std::ops::Range<usize>) -> Option<usize> {
        (0..WAYS).find(|&way| self.head[way] != FREE && lines.contains(&self.distance(way)))
    }

    /// How many lines the tag of a place has gone by, up to [`FAR`].
    fn distance(&self, way: usize) -> usize {
        usize::from(self.head[WAYS + 1 + way / 4] >> (2 * (way % 4)) & 3)
    }

    fn fill(&mut self, way: usize, mark: u8, at: u32, gone_by: usize) {
        self.head[way] = mark;
        self.slots[way] = at;
        let (byte, shift) = (&mut self.head[WAYS + 1 + way / 4], 2 * (way % 4));
        *byte = *byte & !(3 << shift) | (gone_by.min(FAR) as u8) << shift;
    }

    /// Empties a place.
    fn take(&mut self, way: usize) -> (u8, u32, usize) {
        let mark = std::mem::replace(&mut self.head[way], FREE);
        (mark, self.slots[way], self.distance(way))
    }

    fn taken(&self) -> impl Iterator<Item = u32> {
        let places = self.head.iter().zip(&self.slots);
        places.filter(|&(&mark, _)| mark != FREE).map(|(_, &at)| at)
    }
}

/// The mark of a place that is not taken.
const FREE: u8 = 0;

/// A line that so many went by is thought passed until its table is made anew.
const MANY: u8 = u8::MAX;

/// A tag that has gone by so many lines, or more.
const FAR: usize = 3;

/// What a line knows of a tag: bits that choose table and line only through the others.
#[inline]
fn mark(tag: u32) -> u8 {
    (tag as u8).max(1)
}

/// The lines of a table for so many tags: what a class of the allocator's sizes holds, so that nothing of it is left over.
fn lines_for(tags: usize) -> usize {
    let (taken, of) = MOST_TAKEN;
    size_class((tags * of).div_ceil(WAYS * taken) * LINE_BYTES) / LINE_BYTES
}

/// Carries a tag into high bits, which choose the place.
#[inline]
pub(super) fn spread(tag: u32) -> u64 {
    // 2^64 divided by the golden ratio.
    u64::from(tag).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

#[cfg(test)]
mod tests;
