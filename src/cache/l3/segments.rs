//! The segments that there are, by their slot: the small number by which the index names one.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};

use parking_lot::RwLock;

use super::envelope::Envelope;
use super::format::{self, Header};
use super::storage::SegmentFile;

/// A segment file. Written by the writer's thread alone, read by all readers.
pub(super) struct Segment {
    pub header: Header,
    /// What guards its bytes.
    pub envelope: Envelope,
    pub slot: u16,
    pub file: Box<dyn SegmentFile>,
    /// Of the file.
    pub bytes: AtomicU64,
    /// Where its records end; the footer, if it has one, begins there.
    pub records_end: AtomicU64,
    /// Records of kinds other than entry.
    pub tombstones: AtomicU32,
    /// When the last of its entries expires.
    pub expires_ms: AtomicU64,
    pub is_active: AtomicBool,
    /// It has a footer.
    pub is_sealed: AtomicBool,
    /// Reads that the medium refused.
    pub errors: AtomicU32,
}

impl Segment {
    pub fn new(header: Header, envelope: Envelope, slot: u16, file: Box<dyn SegmentFile>, bytes: u64) -> Segment {
        Segment {
            header,
            envelope,
            slot,
            file,
            bytes: AtomicU64::new(bytes),
            records_end: AtomicU64::new(bytes),
            tombstones: AtomicU32::new(0),
            expires_ms: AtomicU64::new(0),
            is_active: AtomicBool::new(false),
            is_sealed: AtomicBool::new(false),
            errors: AtomicU32::new(0),
        }
    }

    pub fn name(&self) -> String {
        format::file_name(self.header.sequence)
    }

    /// Notes a record that is or will be in it.
    pub fn note(&self, row: &format::Row) {
        if row.kind == format::Kind::Entry {
            let expires_ms = match row.expires_s {
                u32::MAX => format::NEVER,
                s => u64::from(s) * 1000,
            };
            self.expires_ms.fetch_max(expires_ms, Relaxed);
        } else {
            self.tombstones.fetch_add(1, Relaxed);
        }
    }
}

pub(super) struct Segments {
    /// Guards the table only; nothing is read or written under it.
    table: RwLock<Table>,
    /// Rows in the index that name each slot. Changed under the lock of the part in which the row is.
    alive: Box<[AtomicU32]>,
}

#[derive(Default)]
struct Table {
    slots: Vec<Option<Arc<Segment>>>,
    by_sequence: BTreeMap<u64, u16>,
    /// Where the search for a free slot begins: one that was given up is used again as late as possible, so that hardly any
    /// reader that has just looked it up finds another segment there. (If one does, nonce and key tell.)
    next: usize,
}

const MOST_SLOTS: usize = if cfg!(test) { 1 << 11 } else { 1 << 16 };

impl Segments {
    pub fn new() -> Segments {
        Segments {
            table: RwLock::default(),
            alive: (0..MOST_SLOTS).map(|_| AtomicU32::new(0)).collect(),
        }
    }

    /// Adds a segment under a free slot, which `make` is told. `None`: there is none.
    pub fn add(&self, sequence: u64, make: impl FnOnce(u16) -> Segment) -> Option<Arc<Segment>> {
        let mut table = self.table.write();
        let Table {
            slots,
            by_sequence,
            next,
        } = &mut *table;
        let count = slots.len();
        let at = match (0..count).map(|i| (*next + i) % count).find(|&at| slots[at].is_none()) {
            // While there are few, new slots are better than used ones.
            Some(at) if count >= FEW_SLOTS => at,
            _ if count < MOST_SLOTS => {
                slots.push(None);
                count
            }
            found => found?,
        };
        *next = at + 1;
        let segment = Arc::new(make(at as u16));
        slots[at] = Some(Arc::clone(&segment));
        by_sequence.insert(sequence, at as u16);
        self.alive[at].store(0, Relaxed);
        Some(segment)
    }

    pub fn remove(&self, segment: &Segment) {
        let mut table = self.table.write();
        table.by_sequence.remove(&segment.header.sequence);
        if let Some(slot) = table.slots.get_mut(usize::from(segment.slot)) {
            *slot = None;
        }
    }

    pub fn get(&self, slot: u16) -> Option<Arc<Segment>> {
        self.table.read().slots.get(usize::from(slot))?.clone()
    }

    /// All, oldest first.
    pub fn all(&self) -> Vec<Arc<Segment>> {
        let table = self.table.read();
        table
            .by_sequence
            .values()
            .filter_map(|&slot| table.slots.get(usize::from(slot))?.clone())
            .collect()
    }

    pub fn born(&self, slot: u16) {
        self.born_many(slot, 1);
    }

    pub fn born_many(&self, slot: u16, rows: u32) {
        self.alive[usize::from(slot)].fetch_add(rows, Relaxed);
    }

    /// A row that named the slot is gone. True: it was the last.
    pub fn died(&self, slot: u16) -> bool {
        self.alive[usize::from(slot)].fetch_sub(1, Relaxed) == 1
    }

    pub fn alive(&self, slot: u16) -> u32 {
        self.alive[usize::from(slot)].load(Relaxed)
    }
}

const FEW_SLOTS: usize = 1024;
