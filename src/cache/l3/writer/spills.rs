//! What L1 evicts and is worth keeping, on its way from the queue into the active segment.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use super::super::Spill;
use super::super::codec::Codec;
use super::super::format::{self, Record};
use super::{BATCH_BYTES, What, Writer};

impl Writer {
    /// False: there were none.
    pub(super) fn write_spills(&mut self, now_us: u64) -> bool {
        let (mut bytes, mut is_any) = (0, false);
        while bytes < BATCH_BYTES
            && let Some(spill) = self.store.queue.pop()
        {
            bytes += self.spill(&spill, now_us);
            is_any = true;
        }
        self.flush(now_us);
        if is_any
            && self.store.keys.read().writing().is_some()
            && let Some(compressor) = &mut self.compressor
        {
            compressor.wipe();
        }
        is_any
    }

    /// Returns how many bytes it takes; 0: it is not written.
    pub(super) fn spill(&mut self, spill: &Spill, now_us: u64) -> usize {
        let store = Arc::clone(&self.store);
        let tag = spill.hash as u32;
        // From here on whoever voids the name sees to a tombstone behind the record.
        let is_true = store.marks.take(tag) == spill.mark;
        let bytes = match is_true {
            true => self.append_spill(spill, now_us),
            false => {
                store.counters.overtaken.fetch_add(1, Relaxed);
                0
            }
        };
        if bytes == 0 {
            store.marks.let_go(tag);
        }
        bytes
    }

    fn append_spill(&mut self, spill: &Spill, now_us: u64) -> usize {
        let store = Arc::clone(&self.store);
        let counters = &store.counters;
        let record = Record {
            kind: format::Kind::Entry,
            is_absent: spill.is_absent,
            is_plain: spill.is_plain,
            key_end: spill.key_end,
            class: 0,
            hash: spill.hash,
            filled_ms: store.unix_ms(spill.filled_us),
            expires_ms: spill.deadline_us.map_or(format::NEVER, |us| store.unix_ms(us)),
            db: spill.db,
            name: spill.name(),
            variant: spill.variant(),
            codec: Codec::Plain,
            value: spill.value(),
        };
        if record.expires_ms <= store.unix_ms(now_us) {
            counters.expirations.fetch_add(1, Relaxed);
            return 0;
        }
        let mut compressor = self.compressor.take();
        let record = match &mut compressor {
            Some(compressor) => compressor.pack(record, counters),
            None => record,
        };
        let bytes = self.write_entry(spill, &record, now_us);
        self.compressor = compressor;
        bytes
    }

    fn write_entry(&mut self, spill: &Spill, record: &Record<'_>, now_us: u64) -> usize {
        let store = Arc::clone(&self.store);
        let counters = &store.counters;
        let bytes = format::padded(record.length());
        if store.config.write_bytes_a_second.is_some() && self.allowance < bytes as f64 {
            counters.dropped_rate.fetch_add(1, Relaxed);
            return 0;
        }
        let what = What::New {
            origin: spill.origin,
            mark: spill.mark,
        };
        if !self.append(record, what, now_us) {
            counters.dropped_trouble.fetch_add(1, Relaxed);
            return 0;
        }
        self.allowance -= bytes as f64;
        counters.writes.fetch_add(1, Relaxed);
        counters.write_bytes.fetch_add(bytes as u64, Relaxed);
        bytes
    }
}
