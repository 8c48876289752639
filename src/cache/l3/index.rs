//! What is on the disk and where, in memory: 18 bytes an entry, a little over 20 with everything around them.
//!
//! Sixty-four parts, each under a lock of its own, which is the innermost of all. A part is a linear hash table (Litwin, "Linear
//! Hashing", VLDB 1980): it grows by one page at a time, so that there is never a table half empty, and no lock is ever held
//! while a large one is copied. A page is a short list in no order. A row names no key but 38 bits of its name's hash and 16 of
//! database and variant; the key on the disk decides.

use parking_lot::{Mutex, MutexGuard};

use super::format::ALIGN;
use crate::cache::l1::{malloc_bytes, size_class};
use crate::cache::link::LinkId;

pub(super) struct Index {
    parts: Box<[Mutex<Part>]>,
}

pub(super) const PARTS: usize = 64;

/// Rows of a page when all pages have been split equally often.
const ROWS_A_PAGE: usize = 24;

#[derive(Default)]
pub(super) struct Part {
    pages: Vec<Vec<Row>>,
    rows: usize,
    bytes: usize,
    /// Many rows are about to come: pages grow in few large steps, until the part is trimmed.
    is_filling: bool,
}

/// Where a record is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) struct Place {
    /// In the table of segments.
    pub slot: u16,
    /// In units of [`ALIGN`].
    unit: u32,
    /// See [`class_bytes`].
    class: u8,
}

impl Place {
    pub fn new(slot: u16, offset: u64, length: usize) -> Place {
        Place {
            slot,
            unit: (offset / ALIGN as u64) as u32,
            class: class_of(length),
        }
    }

    pub fn offset(self) -> u64 {
        u64::from(self.unit) * ALIGN as u64
    }

    /// Not less than the record's length, and at most a quarter more.
    pub fn bytes(self) -> usize {
        class_bytes(self.class)
    }
}

/// Who filled an entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Origin {
    /// A link of this process, in that epoch.
    ThisLife { link: LinkId, epoch: u32 },
    /// It was here when the process started: nobody has watched it since.
    EarlierLife,
}

/// One entry: tag 2, epoch 2, place 3, identity, link, in units of 16 bits, so that nothing is lost to alignment.
#[derive(Clone, Copy)]
pub(super) struct Row([u16; 9]);

pub(super) const ROW_BYTES: usize = size_of::<Row>();
const _: () = assert!(ROW_BYTES == 18);

const UNIT_BITS: u32 = 22;
const CLASS_BITS: u32 = 7;
/// Hits of an entry since it was written are counted up to here.
const MOST_HITS: u16 = 3;

impl Row {
    pub fn new(hash: u64, identity: u16, place: Place, origin: Origin) -> Row {
        let tag = hash as u32;
        let (link, epoch) = match origin {
            Origin::ThisLife { link, epoch } => (link.index(), epoch),
            Origin::EarlierLife => (LinkId::PINNED.index(), 0),
        };
        let at = u64::from(place.unit) | u64::from(place.class) << UNIT_BITS;
        Row([
            tag as u16,
            (tag >> 16) as u16,
            epoch as u16,
            (epoch >> 16) as u16,
            place.slot,
            at as u16,
            (at >> 16) as u16,
            identity,
            link,
        ])
    }

    pub fn identity(&self) -> u16 {
        self.0[7]
    }

    fn tag(&self) -> u32 {
        u32::from(self.0[0]) | u32::from(self.0[1]) << 16
    }

    pub fn place(&self) -> Place {
        let at = u32::from(self.0[5]) | u32::from(self.0[6]) << 16;
        Place {
            slot: self.0[4],
            unit: at & ((1 << UNIT_BITS) - 1),
            class: (at >> UNIT_BITS) as u8 & ((1 << CLASS_BITS) - 1),
        }
    }

    pub fn origin(&self) -> Origin {
        match LinkId::from_index(self.0[8]) {
            LinkId::PINNED => Origin::EarlierLife,
            link => Origin::ThisLife {
                link,
                epoch: u32::from(self.0[2]) | u32::from(self.0[3]) << 16,
            },
        }
    }

    fn hits(&self) -> u16 {
        // Above the 29 bits of unit and class.
        self.0[6] >> 13 & MOST_HITS
    }

    fn is_of(&self, tag: u32, identity: u16) -> bool {
        self.0[0] == tag as u16 && self.0[7] == identity && self.tag() == tag
    }
}

impl Index {
    pub fn new() -> Index {
        Index {
            parts: (0..PARTS).map(|_| Mutex::default()).collect(),
        }
    }

    /// The part in which everything about a name is.
    pub fn part(&self, hash: u64) -> MutexGuard<'_, Part> {
        self.part_numbered(part_of(hash))
    }

    /// The number is below [`PARTS`].
    pub fn part_numbered(&self, number: usize) -> MutexGuard<'_, Part> {
        self.parts[number].lock()
    }

    /// So many rows are about to come: an index in which there is nothing gets its pages at once. To be followed by
    /// [`Index::trim`].
    pub fn expect(&self, rows: usize) {
        let pages = (rows / PARTS).div_ceil(ROWS_A_PAGE);
        for part in &self.parts {
            let mut part = part.lock();
            part.is_filling = true;
            if part.pages.is_empty() {
                part.pages.resize_with(pages, Vec::new);
            }
        }
    }

    /// All rows have come that were expected: where many of them went again, pages give back what they have too much.
    pub fn trim(&self, mut between: impl FnMut()) {
        for part in &self.parts {
            let is_roomy = {
                let mut part = part.lock();
                part.is_filling = false;
                part.bytes > part.rows * ROOMY_ROW_BYTES
            };
            for first in (0..).step_by(PAGES_A_LOCK).take_while(|_| is_roomy) {
                let has_more = part.lock().trim(first);
                between();
                if !has_more {
                    break;
                }
            }
        }
    }

    /// Drops all rows. They are returned, to be counted and given back where nobody waits for it.
    pub fn clear(&self) -> Vec<Part> {
        self.parts
            .iter()
            .map(|part| std::mem::take(&mut *part.lock()))
            .collect()
    }

    /// Drops the rows that `doomed` picks, of all names, part by part, page by page.
    pub fn retain_not(&self, mut doomed: impl FnMut(&Row) -> bool) -> usize {
        let mut dropped = 0;
        for part in &self.parts {
            let mut page = 0;
            loop {
                // Whoever waits for the part gets it between two stretches. A page that is added meanwhile is added
                // behind, by a split that moves rows there: it is still to come.
                let mut part = part.lock();
                let Some(pages) = part.pages.get_mut(page..) else { break };
                if pages.is_empty() {
                    break;
                }
                let pages = pages.iter_mut().take(PAGES_A_LOCK);
                let (mut seen, mut gone) = (0, 0);
                for rows in pages {
                    let before = rows.len();
                    rows.retain(|row| !doomed(row));
                    gone += before - rows.len();
                    seen += 1;
                }
                part.rows -= gone;
                dropped += gone;
                page += seen;
            }
        }
        dropped
    }

    pub fn len(&self) -> usize {
        self.parts.iter().map(|part| part.lock().rows).sum()
    }

    /// What all of it takes, as the allocator rounds it.
    pub fn bytes(&self) -> usize {
        self.parts.iter().map(|part| part.lock().bytes()).sum::<usize>() + PARTS * size_of::<Mutex<Part>>()
    }
}

/// The number of the part in which everything about a name is.
pub(super) fn part_of(hash: u64) -> usize {
    // Other bits than a tag has.
    (hash >> 58) as usize % PARTS
}

const PAGES_A_LOCK: usize = 256;
/// Bytes of pages for each row, from which on it is worth while to look for pages that are too large.
const ROOMY_ROW_BYTES: usize = ROW_BYTES + 3;

impl Part {
    /// Notes a hit.
    pub fn find(&mut self, hash: u64, identity: u16) -> Option<Row> {
        let row = self.row_mut(hash, identity)?;
        let found = *row;
        if found.hits() < MOST_HITS {
            row.0[6] += 1 << 13;
        }
        Some(found)
    }

    /// Notes no hit.
    pub fn peek(&self, hash: u64, identity: u16) -> Option<Row> {
        let page = self.pages.get(self.page_of(hash as u32))?;
        page.iter().find(|row| row.is_of(hash as u32, identity)).copied()
    }

    pub fn places(&self) -> impl Iterator<Item = Place> {
        self.pages.iter().flatten().map(Row::place)
    }

    pub fn rows(&self) -> usize {
        self.rows
    }

    pub fn of_name(&self, hash: u64) -> impl Iterator<Item = &Row> {
        let tag = hash as u32;
        let page = self.pages.get(self.page_of(tag));
        page.into_iter().flatten().filter(move |row| row.tag() == tag)
    }

    /// Whether the row of that place is there, and how often it was hit since it was written.
    pub fn hits_at(&self, hash: u64, place: Place) -> Option<u16> {
        self.of_name(hash).find(|row| row.place() == place).map(Row::hits)
    }

    /// Returns the place of the entry that this one displaces.
    pub fn insert(&mut self, hash: u64, row: Row) -> Option<Place> {
        let mut at = self.page_of(hash as u32);
        let page = self.pages.get_mut(at).map(Vec::as_mut_slice).unwrap_or_default();
        if let Some(there) = page.iter_mut().find(|there| there.is_of(hash as u32, row.0[7])) {
            return Some(std::mem::replace(there, row).place());
        }
        if self.pages.is_empty() || self.rows >= self.pages.len() * ROWS_A_PAGE {
            self.split();
            at = self.page_of(hash as u32);
        }
        self.bytes += push(&mut self.pages[at], row, self.is_filling);
        self.rows += 1;
        None
    }

    /// The order in which so many names are found page by page; those of one page stay in theirs.
    pub fn by_page(&self, names: impl Iterator<Item = u64> + Clone, order: &mut Vec<u32>) {
        let mut ends = vec![0_u32; self.pages.len().max(1) + 1];
        names.clone().for_each(|hash| ends[self.page_of(hash as u32) + 1] += 1);
        let mut end = 0;
        for count in &mut ends {
            end += *count;
            *count = end;
        }
        order.clear();
        order.resize(end as usize, 0);
        for (i, hash) in names.enumerate() {
            let next = &mut ends[self.page_of(hash as u32)];
            order[*next as usize] = i as u32;
            *next += 1;
        }
    }

    /// Some pages from this one on give back what they have too much. False: they were the last.
    fn trim(&mut self, first: usize) -> bool {
        let pages = self.pages.iter_mut().skip(first).take(PAGES_A_LOCK);
        let seen = pages
            .map(|page| {
                let before = malloc_bytes(page.capacity() * ROW_BYTES);
                page.shrink_to(malloc_bytes(page.len() * ROW_BYTES) / ROW_BYTES);
                self.bytes -= before - malloc_bytes(page.capacity() * ROW_BYTES);
            })
            .count();
        seen == PAGES_A_LOCK
    }

    /// Puts a record that was moved in its new place, if it still stands in the old one. It keeps its origin and loses its hits.
    pub fn relocate(&mut self, hash: u64, from: Place, to: Place) -> bool {
        let at = self.page_of(hash as u32);
        let Some(row) = self.pages.get_mut(at).and_then(|page| {
            page.iter_mut()
                .find(|row| row.tag() == hash as u32 && row.place() == from)
        }) else {
            return false;
        };
        *row = Row::new(hash, row.0[7], to, row.origin());
        true
    }

    /// Drops the rows of a name that `doomed` picks; each is handed to `gone`.
    pub fn remove(&mut self, hash: u64, doomed: impl Fn(&Row) -> bool, mut gone: impl FnMut(Place)) -> usize {
        let tag = hash as u32;
        let at = self.page_of(tag);
        let Some(page) = self.pages.get_mut(at) else { return 0 };
        let before = page.len();
        page.retain(|row| {
            let is_doomed = row.tag() == tag && doomed(row);
            if is_doomed {
                gone(row.place());
            }
            !is_doomed
        });
        let dropped = before - page.len();
        self.rows -= dropped;
        dropped
    }

    fn row_mut(&mut self, hash: u64, identity: u16) -> Option<&mut Row> {
        let at = self.page_of(hash as u32);
        let page = self.pages.get_mut(at)?;
        page.iter_mut().find(|row| row.is_of(hash as u32, identity))
    }

    /// With n pages: the low bits of the tag, as many as name a page, and one less where that page is still to be made.
    fn page_of(&self, tag: u32) -> usize {
        let pages = self.pages.len().max(1);
        let mask = pages.next_power_of_two() - 1;
        let at = tag as usize & mask;
        if at < pages { at } else { at & (mask >> 1) }
    }

    /// Adds one page, and moves there what belongs there of the one page that it was split from.
    fn split(&mut self) {
        let new = self.pages.len();
        self.pages.push(Vec::new());
        if new == 0 {
            return;
        }
        let old = new ^ (1 << new.ilog2());
        let rows = std::mem::take(&mut self.pages[old]);
        self.bytes -= malloc_bytes(rows.capacity() * ROW_BYTES);
        for row in rows {
            let at = self.page_of(row.tag());
            self.bytes += push(&mut self.pages[at], row, self.is_filling);
        }
    }

    fn bytes(&self) -> usize {
        self.bytes + malloc_bytes(self.pages.capacity() * size_of::<Vec<Row>>())
    }
}

/// Adds a row; a page grows to the allocator's next size, while it is small, or about to be filled, in larger steps. Returns by
/// how many bytes.
fn push(page: &mut Vec<Row>, row: Row, is_filling: bool) -> usize {
    let mut grown = 0;
    if page.len() == page.capacity() {
        let before = malloc_bytes(page.capacity() * ROW_BYTES);
        let rows = match (page.len(), is_filling) {
            (0..4, false) => 4,
            (4..8, false) => 8,
            (0..14, _) => 14,
            (14..ROWS_A_PAGE, true) => ROWS_A_PAGE,
            (rows, _) => rows + 1,
        };
        page.reserve_exact(size_class(rows * ROW_BYTES) / ROW_BYTES - page.len());
        grown = malloc_bytes(page.capacity() * ROW_BYTES) - before;
    }
    page.push(row);
    grown
}

/// Lengths in steps of a quarter of a power of two: 16, 20, 24, 28, 32, 40, …
fn class_bytes(class: u8) -> usize {
    (4 + usize::from(class % 4)) << (class / 4 + 2)
}

/// The smallest class that holds `length`.
fn class_of(length: usize) -> u8 {
    let length = length.max(16);
    let power = length.ilog2();
    let quarter = 1usize << (power - 2);
    // The quarters above the power of two, rounded up; four of them are the next power.
    let above = (length - (1 << power)).div_ceil(quarter);
    ((power - 4) * 4) as u8 + above as u8
}

#[cfg(test)]
mod tests;
