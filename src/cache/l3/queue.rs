//! What the writer has still to do: spills, bounded in bytes, and tombstones, bounded in number.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};

use bytes::Bytes;
use crossbeam::queue::SegQueue;

use super::Mark;
use super::codec::Codec;
use super::format::KeyEnd;
use super::index::Origin;

/// An entry on its way to the disk. Its parts are where L1 had them.
#[derive(Debug)]
pub struct Spill {
    pub hash: u64,
    pub db: u16,
    pub block: Box<[u8]>,
    /// Where in it name, variant and, unless `value` has it, the value are, one behind the other.
    pub parts: Range<usize>,
    pub name_len: usize,
    pub variant_len: usize,
    pub value: Option<Bytes>,
    /// What the value is compressed with already.
    pub codec: Codec,
    pub is_absent: bool,
    pub is_plain: bool,
    pub key_end: KeyEnd,
    /// Microseconds of the process's clock.
    pub filled_us: u64,
    pub deadline_us: Option<u64>,
    pub origin: Origin,
    /// Taken while L1 still had the entry, under the lock of its shard.
    pub mark: Mark,
}

impl Spill {
    pub fn name(&self) -> &[u8] {
        self.part(0, self.name_len)
    }

    pub fn variant(&self) -> &[u8] {
        self.part(self.name_len, self.variant_len)
    }

    pub fn value(&self) -> &[u8] {
        match &self.value {
            Some(value) => value,
            None => self.parts().get(self.name_len + self.variant_len..).unwrap_or_default(),
        }
    }

    fn part(&self, start: usize, len: usize) -> &[u8] {
        self.parts().get(start..start + len).unwrap_or_default()
    }

    fn parts(&self) -> &[u8] {
        self.block.get(self.parts.clone()).unwrap_or_default()
    }

    fn queued_bytes(&self) -> usize {
        size_of::<Spill>() + self.block.len() + self.value.as_ref().map_or(0, Bytes::len)
    }
}

pub(super) struct Queue {
    spills: SegQueue<Spill>,
    queued_bytes: AtomicUsize,
    most_bytes: usize,
    /// Hashes of names that are on the disk and must not come back.
    tombstones: SegQueue<u64>,
    queued_tombstones: AtomicUsize,
    /// One tombstone for everything that was written before it.
    is_all_due: AtomicBool,
}

/// 8 MiB of hashes. More pile up only while nothing can be written.
const MOST_TOMBSTONES: usize = 1 << 20;

impl Queue {
    pub fn new(most_bytes: usize) -> Queue {
        Queue {
            spills: SegQueue::new(),
            queued_bytes: AtomicUsize::new(0),
            most_bytes,
            tombstones: SegQueue::new(),
            queued_tombstones: AtomicUsize::new(0),
            is_all_due: AtomicBool::new(false),
        }
    }

    /// The bytes that are queued now. `None`: there is no room for it.
    pub fn push(&self, spill: Spill) -> Option<usize> {
        let bytes = spill.queued_bytes();
        let queued = self.queued_bytes.fetch_add(bytes, SeqCst) + bytes;
        if queued > self.most_bytes {
            self.queued_bytes.fetch_sub(bytes, SeqCst);
            return None;
        }
        self.spills.push(spill);
        Some(queued)
    }

    pub fn pop(&self) -> Option<Spill> {
        let spill = self.spills.pop()?;
        self.queued_bytes.fetch_sub(spill.queued_bytes(), SeqCst);
        Some(spill)
    }

    /// False: there are too many, and one for everything is due instead.
    pub fn push_tombstone(&self, hash: u64) -> bool {
        if self.queued_tombstones.fetch_add(1, SeqCst) >= MOST_TOMBSTONES {
            self.queued_tombstones.fetch_sub(1, SeqCst);
            return false;
        }
        self.tombstones.push(hash);
        true
    }

    pub fn pop_tombstone(&self) -> Option<u64> {
        let hash = self.tombstones.pop()?;
        self.queued_tombstones.fetch_sub(1, SeqCst);
        Some(hash)
    }

    pub fn push_all(&self) {
        self.is_all_due.store(true, SeqCst);
    }

    pub fn pop_all(&self) -> bool {
        self.is_all_due.swap(false, SeqCst)
    }

    pub fn queued_tombstones(&self) -> usize {
        self.tombstones.len()
    }

    pub fn has_tombstones(&self) -> bool {
        !self.tombstones.is_empty() || self.is_all_due.load(SeqCst)
    }

    #[cfg(test)]
    pub fn is_idle(&self) -> bool {
        self.spills.is_empty() && !self.has_tombstones()
    }

    pub fn queued_bytes(&self) -> usize {
        self.queued_bytes.load(SeqCst)
    }
}
