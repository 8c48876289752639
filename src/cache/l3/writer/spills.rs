//! What L1 evicts and is worth keeping, on its way from the queue into the active segment.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use super::super::Spill;
use super::super::format::{self, Record};
use super::{BATCH_BYTES, HASTY_BATCH_BYTES, Unpublished, What, Writer};

impl Writer {
    /// False: there were none.
    pub(super) fn write_spills(&mut self, now_us: u64) -> bool {
        let is_any = self.take_spills(now_us);
        self.flush(now_us);
        if is_any
            && self.store.keys.read().writing().is_some()
            && let Some(compressor) = &mut self.compressor
        {
            compressor.wipe();
        }
        is_any
    }

    /// Puts what is queued, up to a batch, into the buffer. False: there was nothing. What was looked at counts, for a value that
    /// is compressed takes its time even if it is refused then; and clients that wait for a tombstone do not wait for a batch.
    pub fn take_spills(&mut self, now_us: u64) -> bool {
        let (mut bytes, mut is_any) = (0, false);
        while bytes < BATCH_BYTES
            && (bytes < HASTY_BATCH_BYTES || !self.store.debts.is_awaited())
            && let Some(spill) = self.store.queue.pop()
        {
            bytes += spill.value().len().max(self.spill(&spill, now_us));
            is_any = true;
        }
        is_any
    }

    /// Returns how many bytes it takes; 0: it is not written.
    fn spill(&mut self, spill: &Spill, now_us: u64) -> usize {
        let store = Arc::clone(&self.store);
        let tag = spill.hash as u32;
        if !self.write_what_is_older(spill, now_us) {
            store.counters.dropped_trouble.fetch_add(1, Relaxed);
            return 0;
        }
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

    /// Whatever voided an earlier value of the name did so before this one was queued: its tombstone goes before the record, as
    /// behind it it would undo it at the next start. False: nothing can be written now.
    fn write_what_is_older(&mut self, spill: &Spill, now_us: u64) -> bool {
        let is_overtaken = |record: &Unpublished| {
            let was_true = matches!(record.what, What::New { mark, .. } if mark == spill.mark);
            record.hash == spill.hash && !was_true
        };
        // One that is in the buffer gets its own tombstone when that is written.
        if self.store.marks.is_in_hand(spill.hash as u32)
            && let Some(active) = &self.active
            && active.batch.iter().any(is_overtaken)
        {
            self.flush(now_us);
        }
        if !self.has_owed() {
            return true;
        }
        self.take_owed();
        self.append_owed(now_us)
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
            codec: spill.codec,
            value: spill.value(),
        };
        if record.expires_ms <= store.unix_ms(now_us) {
            counters.expirations.fetch_add(1, Relaxed);
            return 0;
        }
        let is_spent = store.config.write_bytes_a_second.is_some() && self.allowance <= 0.0;
        if is_spent {
            counters.dropped_rate.fetch_add(1, Relaxed);
            return 0;
        }
        if self.active.is_none() && now_us < self.retry_at_us {
            counters.dropped_trouble.fetch_add(1, Relaxed);
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
        let written = self
            .active
            .as_ref()
            .map(|active| active.segment.envelope.length(record));
        let bytes = written.map_or(bytes, format::padded);
        self.allowance -= bytes as f64;
        counters.writes.fetch_add(1, Relaxed);
        counters.write_bytes.fetch_add(bytes as u64, Relaxed);
        bytes
    }
}
