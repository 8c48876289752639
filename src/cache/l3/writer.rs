//! The writer: one thread that recovers, writes, syncs and frees. It takes what is queued in batches, so that many spills
//! share one write and one sync.
//!
//! A record counts only once it is published: its row enters the index after its bytes were written, under the lock of its
//! part, if its mark has not changed. What was written and is not published gets a tombstone.
//!
//! Tombstones go first, in a write of their own, and the thread is woken for those that a client waits for ([`owed`]); those that
//! come while spills are taken go before the next one.
//!
//! [`owed`]: super::owed

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering::{Relaxed, Release, SeqCst};
use std::time::Duration;

use crossbeam::sync::Parker;

use super::codec::Compressor;
use super::format::{self, HEADER_BYTES, Record};
use super::index::{Place, Row};
use super::owed::Wrote;
use super::recovery::{self, Leftovers};
use super::segments::Segment;
use super::syncing::{Syncer, Work};
use super::{Mark, Origin, Store, Sync};
use crate::clock;

mod spills;

/// Bytes written at once, at most a record more: a millisecond or two, after which whoever waits for the processor gets it.
const BATCH_BYTES: usize = 256 << 10;
/// The same while clients wait for what is written first in the next turn.
const HASTY_BATCH_BYTES: usize = 64 << 10;
/// How long a few spills wait for others, and a tombstone that no client waits for.
pub(super) const PAUSE: Duration = Duration::from_millis(20);
/// How often segments are looked at that nothing may be alive in.
const FREE_EVERY_US: u64 = 20_000;
/// From an error to the next try, doubled each time.
const FIRST_RETRY_US: u64 = 500_000;
pub(super) const LAST_RETRY_US: u64 = 30_000_000;

/// The thread's life.
pub(super) fn run(store: &Arc<Store>, leftovers: Leftovers, syncer: Syncer, parker: &Parker) {
    // A record costs less than a tenth of the read that evicted it, unless it is compressed. So only then the thread has a lower
    // priority: clients wait for its tombstones, and on a busy machine they would wait for all others first.
    if store.config.compression.is_some() {
        give_way();
    }
    let mut writer = Writer::new(store, leftovers.next_sequence, syncer);
    recovery::run(store, leftovers, clock::now_us(), || {
        writer.write_owed(clock::now_us());
        std::thread::yield_now();
    });
    loop {
        let is_closing = store.is_closing.load(SeqCst);
        let is_busy = writer.turn(clock::now_us());
        if is_closing && !is_busy {
            writer.close();
            return;
        }
        match is_busy {
            true => std::thread::yield_now(),
            false => parker.park_timeout(PAUSE),
        }
    }
}

/// Whoever answers clients goes first.
pub(super) fn give_way() {
    // There, and not elsewhere, it is of this thread alone (setpriority(2), "C library/kernel differences").
    if cfg!(target_os = "linux")
        && let Err(error) = rustix::process::setpriority_process(None, NICE)
    {
        tracing::warn!(%error, "L3: what it does has the priority of the workers");
    }
}

const NICE: i32 = 10;

pub(super) struct Writer {
    pub store: Arc<Store>,
    syncer: Syncer,
    pub active: Option<Active>,
    pub next_sequence: u64,
    /// Segments that an error ended, and where their records end, to be sealed when the medium works again: at a restart what
    /// is older than a segment without a footer is not believed.
    pub unsealed: Vec<(Arc<Segment>, u64)>,
    /// Segments whose file is removed, until nobody else has them: closing it gives the room back, which takes milliseconds,
    /// and a worker that reads must not be the last.
    pub removed: Vec<Arc<Segment>>,
    /// Nothing was refused since something was written.
    is_taken: bool,
    /// When that is tried again.
    seal_at_us: u64,
    /// Names whose records must not come back, besides those that are queued.
    pub tombstones: Vec<u64>,
    pub is_all_due: bool,
    /// The store is off, and what was open is closed.
    has_stopped: bool,
    /// Something was written since the last sync.
    is_unsynced: bool,
    synced_us: u64,
    /// When the segments were looked at last.
    pub freed_us: u64,
    retry_at_us: u64,
    retry_us: u64,
    /// Bytes that may be written now, and when that was computed.
    allowance: f64,
    allowed_us: u64,
    pub random: fastrand::Rng,
    /// Not here while it is used.
    compressor: Option<Compressor>,
}

/// The segment that is being written.
pub(super) struct Active {
    pub segment: Arc<Segment>,
    rows: Vec<format::Row>,
    /// Where the buffer goes.
    end: u64,
    buffer: Vec<u8>,
    batch: Vec<Unpublished>,
}

/// A record in the buffer.
struct Unpublished {
    hash: u64,
    identity: u16,
    place: Place,
    what: What,
}

pub(super) enum What {
    New {
        origin: Origin,
        mark: Mark,
    },
    /// A record of this place, moved.
    Moved {
        from: Place,
    },
    Tombstone,
    TombstoneOfAll,
}

impl Writer {
    pub fn new(store: &Arc<Store>, next_sequence: u64, syncer: Syncer) -> Writer {
        Writer {
            store: Arc::clone(store),
            syncer,
            active: None,
            next_sequence,
            unsealed: Vec::new(),
            removed: Vec::new(),
            is_taken: false,
            seal_at_us: 0,
            tombstones: Vec::new(),
            is_all_due: false,
            has_stopped: false,
            is_unsynced: false,
            synced_us: 0,
            freed_us: 0,
            retry_at_us: 0,
            retry_us: FIRST_RETRY_US,
            allowance: 0.0,
            allowed_us: 0,
            random: fastrand::Rng::new(),
            compressor: Some(Compressor::new(store.config.compression)),
        }
    }

    /// Does what is due. False: there was nothing to write.
    pub fn turn(&mut self, now_us: u64) -> bool {
        if self.store.is_off.load(Relaxed) {
            if !std::mem::replace(&mut self.has_stopped, true) {
                self.close();
                // What is voided from now on is written nowhere.
                self.store.distrust();
            }
            while self.store.queue.pop().is_some() || self.store.queue.pop_tombstone().is_some() {}
            return false;
        }
        self.bury_forgotten();
        self.change_keys(now_us);
        self.refill_allowance(now_us);
        let is_busy = match self.write_owed(now_us) {
            Wrote::Nothing => self.write_spills(now_us),
            Wrote::All => {
                self.write_spills(now_us);
                true
            }
            Wrote::Refused => {
                self.drop_spills();
                false
            }
        };
        let has_sealed = self.seal_unsealed(now_us);
        self.sync_if_due(now_us);
        self.store.write_vouched(now_us);
        self.close_removed();
        if now_us >= self.freed_us.saturating_add(FREE_EVERY_US) {
            self.freed_us = now_us;
            self.free_dead(now_us);
        }
        is_busy || has_sealed
    }

    /// No footer is tried again before that.
    #[cfg(test)]
    pub fn seal_late(&mut self, from_us: u64) {
        self.seal_at_us = from_us;
    }

    /// A turn in which something happens between the write of a batch and its publication.
    #[cfg(test)]
    pub fn turn_interrupted(&mut self, now_us: u64, interrupt: impl FnOnce()) {
        self.take_spills(now_us);
        interrupt();
        self.flush(now_us);
    }

    /// Seals what was written.
    pub fn close(&mut self) {
        if self.active.is_some() {
            self.flush(0);
            while self.seal_unsealed(0) {}
            self.seal(0);
        }
        if self.has_owed() {
            self.store.distrust();
        }
        self.syncer.close();
    }

    /// Puts a record into the buffer of the active segment, or of the next one if it is full. False: nothing can be written now.
    pub fn append(&mut self, record: &Record<'_>, what: What, now_us: u64) -> bool {
        if let Some(active) = &self.active
            && !active.has_room(record, self.store.config.segment_bytes)
        {
            self.flush(now_us);
            self.seal(now_us);
        }
        if self.active.is_none() && !self.begin(now_us) {
            return false;
        }
        let Some(active) = &mut self.active else { return false };
        // After a reclaim the new segment may have less room than a large record needs: then it stays out.
        active.has_room(record, self.store.config.segment_bytes) && active.append(record, what)
    }

    /// Writes a moved record. False: there is no room, or no segment.
    pub fn append_moved(&mut self, record: &Record<'_>, from: Place) -> bool {
        let Some(active) = &mut self.active else { return false };
        active.has_room(record, self.store.config.segment_bytes) && active.append(record, What::Moved { from })
    }

    /// Writes the buffer and publishes what is in it. False: the medium refused.
    pub fn flush(&mut self, now_us: u64) -> bool {
        let Some(active) = &mut self.active else { return true };
        if active.buffer.is_empty() {
            return true;
        }
        let segment = Arc::clone(&active.segment);
        let written = segment.file.write_all_at(&active.buffer, active.end);
        let batch = std::mem::take(&mut active.batch);
        if let Err(error) = written {
            // What arrived of it must not be found after a restart.
            let _ = segment.file.truncate(active.end);
            active.rows.truncate(active.rows.len() - batch.len());
            active.buffer.clear();
            batch.iter().for_each(|record| self.undo(record));
            self.failed("written", &segment.name(), &error, now_us);
            return false;
        }
        active.end += active.buffer.len() as u64;
        self.store
            .counters
            .medium_bytes
            .fetch_add(active.buffer.len() as u64, Relaxed);
        active.buffer.clear();
        segment.bytes.store(active.end, Relaxed);
        segment.records_end.store(active.end, Relaxed);
        self.is_unsynced = true;
        self.retry_us = FIRST_RETRY_US;
        self.store.all_clear();
        for record in batch {
            self.publish(&record);
        }
        self.is_taken = true;
        true
    }

    /// Once the medium takes something again: a footer for one of those that it ended. It is read for that, which takes its time;
    /// so not before those are told who wait for what was written. False: there is none, or not yet.
    fn seal_unsealed(&mut self, now_us: u64) -> bool {
        if !self.is_taken || now_us < self.seal_at_us {
            return false;
        }
        let Some((ended, end)) = self.unsealed.pop() else {
            return false;
        };
        let is_sealed = self.seal_ended(&ended, end);
        if !is_sealed {
            // The next try is for another one.
            self.unsealed.insert(0, (ended, end));
            self.seal_at_us = now_us.saturating_add(LAST_RETRY_US);
        }
        is_sealed
    }

    /// A record of the buffer was not written, or not for sure.
    fn undo(&mut self, record: &Unpublished) {
        match record.what {
            What::TombstoneOfAll => {
                self.is_all_due = true;
                self.store.debts.add_all();
            }
            _ => self.bury(record.hash),
        }
        if let What::New { .. } = record.what {
            self.store.marks.let_go(record.hash as u32);
        }
    }

    fn publish(&mut self, record: &Unpublished) {
        let store = Arc::clone(&self.store);
        let counters = &store.counters;
        match record.what {
            What::Tombstone | What::TombstoneOfAll => {
                counters.tombstones.fetch_add(1, Relaxed);
            }
            What::New { origin, mark } => {
                let mut part = store.index.part(record.hash);
                let tag = record.hash as u32;
                if store.marks.of(tag) != mark {
                    drop(part);
                    counters.overtaken.fetch_add(1, Relaxed);
                    self.bury(record.hash);
                    store.marks.let_go(tag);
                    return;
                }
                let row = Row::new(record.hash, record.identity, record.place, origin);
                store.segments.born(record.place.slot);
                if let Some(old) = part.insert(record.hash, row) {
                    store.segments.died(old.slot);
                }
                store.marks.let_go(tag);
            }
            What::Moved { from } => {
                let is_moved = store.index.part(record.hash).relocate(record.hash, from, record.place);
                if is_moved {
                    store.segments.born(record.place.slot);
                    store.segments.died(from.slot);
                    counters.reinserted.fetch_add(1, Relaxed);
                } else {
                    self.bury(record.hash);
                }
            }
        }
    }

    /// Begins a segment and makes room for it. False: not now.
    fn begin(&mut self, now_us: u64) -> bool {
        if now_us < self.retry_at_us {
            return false;
        }
        let store = Arc::clone(&self.store);
        // Until the segment is known: no key is given up that it is encrypted with.
        let keys = store.keys.read();
        let name = format::file_name(self.next_sequence);
        let made = self.header(keys.writing(), now_us).and_then(|(header, envelope)| {
            let file = store.storage.create(&name)?;
            file.write_all_at(&header.encode(&envelope), 0)?;
            if store.config.sync != Sync::Never {
                self.syncer.sync(&store, Work::Names)?;
            }
            Ok((header, envelope, file))
        });
        // Whether or not there is a file of that name now: it is not tried again.
        self.next_sequence += 1;
        let (header, envelope, file) = match made {
            Ok(made) => made,
            Err(error) => {
                let _ = store.storage.remove(&name);
                // What would have been freed for it is freed first; not while rows of it are still being read.
                let is_full = error.kind() == io::ErrorKind::StorageFull && !store.is_recovering.load(SeqCst);
                if is_full && self.is_at_its_size() && self.give_back_oldest() {
                    return self.begin(now_us);
                }
                self.failed("made", &name, &error, now_us);
                return false;
            }
        };
        let added = store.segments.add(header.sequence, |slot| {
            let segment = Segment::new(header, envelope, slot, file, HEADER_BYTES as u64);
            segment.is_active.store(true, Relaxed);
            segment
        });
        drop(keys);
        let Some(segment) = added else {
            let _ = store.storage.remove(&name);
            self.failed("made", &name, &io::Error::other("there are too many segments"), now_us);
            return false;
        };
        store.counters.medium_bytes.fetch_add(HEADER_BYTES as u64, Relaxed);
        self.active = Some(Active {
            segment,
            rows: Vec::new(),
            end: HEADER_BYTES as u64,
            buffer: Vec::new(),
            batch: Vec::new(),
        });
        // While the store recovers nobody knows yet what is alive.
        if !store.is_recovering.load(SeqCst) {
            self.make_room(now_us);
            self.close_removed();
        }
        // Moving records into it may have failed.
        self.active.is_some()
    }

    /// Gives the active segment its footer; from then on it is as durable as the policy says.
    pub fn seal(&mut self, now_us: u64) {
        let Some(active) = self.active.take() else { return };
        active.segment.is_active.store(false, Relaxed);
        self.is_unsynced = false;
        if let Err(error) = self.write_footer(&active.segment, &active.rows, active.end) {
            // Without a footer it is read record by record, and then must not end in half of one.
            let _ = active.segment.file.truncate(active.end);
            self.failed("sealed", &active.segment.name(), &error, now_us);
            self.unsealed.push((active.segment, active.end));
        }
    }

    fn write_footer(&self, segment: &Arc<Segment>, rows: &[format::Row], end: u64) -> io::Result<()> {
        let footer = format::encode_footer(rows, end, &segment.envelope)?;
        segment.file.write_all_at(&footer, end)?;
        segment.bytes.store(end + footer.len() as u64, Relaxed);
        match self.store.config.sync {
            Sync::Never => {}
            Sync::Interval(_) | Sync::EachSegment => {
                self.syncer.sync(&self.store, Work::Segment(Arc::clone(segment)))?;
            }
        }
        segment.is_sealed.store(true, Release);
        self.store.counters.medium_bytes.fetch_add(footer.len() as u64, Relaxed);
        Ok(())
    }

    /// The medium works again: a segment that it did not let be sealed gets its footer, by what can be read of it. False: not yet.
    fn seal_ended(&self, ended: &Arc<Segment>, end: u64) -> bool {
        let is_there = self.store.segments.get(ended.slot);
        if !is_there.is_some_and(|there| Arc::ptr_eq(&there, ended)) {
            return true;
        }
        let file = &ended.file;
        let sealed = recovery::scan(&**file, &ended.envelope, end, false).and_then(|scan| {
            if scan.end < end {
                // The next start sees what it is.
                tracing::warn!(
                    file = ended.name(),
                    offset = scan.end,
                    "L3: a segment is damaged and gets no footer"
                );
                return Ok(());
            }
            file.truncate(end)?;
            self.write_footer(ended, &scan.rows, end)
        });
        if let Err(error) = &sealed {
            let _ = file.truncate(end);
            self.store.counters.write_errors.fetch_add(1, Relaxed);
            self.store
                .alarm(format!("{} could not be sealed: {error}", ended.name()));
        }
        sealed.is_ok()
    }

    fn sync_if_due(&mut self, now_us: u64) {
        while let Some((name, error)) = self.store.unsynced.pop() {
            self.failed("synced", &name, &error, now_us);
        }
        let Sync::Interval(interval_us) = self.store.config.sync else {
            return;
        };
        if !self.is_unsynced || now_us < self.synced_us.saturating_add(interval_us) {
            return;
        }
        let Some(active) = &self.active else { return };
        let segment = Arc::clone(&active.segment);
        self.synced_us = now_us;
        self.is_unsynced = false;
        if let Err(error) = self.syncer.sync(&self.store, Work::Segment(Arc::clone(&segment))) {
            self.failed("synced", &segment.name(), &error, now_us);
        }
    }

    /// The active segment, if there is one, takes nothing any more; what is in it stays readable. It is tried again later.
    fn failed(&mut self, what: &str, name: &str, error: &io::Error, now_us: u64) {
        self.store.counters.write_errors.fetch_add(1, Relaxed);
        self.store.alarm(format!("{name} could not be {what}: {error}"));
        self.is_taken = false;
        if let Some(active) = self.active.take() {
            active.segment.is_active.store(false, Relaxed);
            self.store.counters.retired_segments.fetch_add(1, Relaxed);
            active.batch.iter().for_each(|record| self.undo(record));
            self.unsealed.push((active.segment, active.end));
        }
        self.retry_at_us = now_us.saturating_add(self.retry_us);
        self.retry_us = (self.retry_us * 2).min(LAST_RETRY_US);
    }

    /// A tombstone is due for a name. If too many are, one for everything is.
    pub fn bury(&mut self, hash: u64) {
        self.store.debts.add(hash);
        if self.tombstones.len() < MOST_TOMBSTONES {
            self.tombstones.push(hash);
        } else {
            self.tombstones.clear();
            self.store.void_all();
        }
    }

    /// While nothing can be written, spills do not wait: what L1 evicts meanwhile would only be older.
    fn drop_spills(&self) {
        while self.store.queue.pop().is_some() {
            self.store.counters.dropped_trouble.fetch_add(1, Relaxed);
        }
    }

    fn bury_forgotten(&self) {
        while let Some(part) = self.store.forgotten.pop() {
            for place in part.places() {
                self.store.segments.died(place.slot);
            }
        }
    }

    fn refill_allowance(&mut self, now_us: u64) {
        if let Some(rate) = self.store.config.write_bytes_a_second {
            let passed_us = now_us.saturating_sub(self.allowed_us);
            // A second's worth can be saved up.
            self.allowance = (self.allowance + rate as f64 * passed_us as f64 / 1e6).min(rate as f64);
            self.allowed_us = now_us;
        }
    }
}

const MOST_TOMBSTONES: usize = 1 << 20;

impl Active {
    fn has_room(&self, record: &Record<'_>, segment_bytes: u64) -> bool {
        let records = self.buffer.len() + format::padded(self.segment.envelope.length(record));
        self.end + (records + format::footer_bytes(self.rows.len() + 1)) as u64 <= segment_bytes
    }

    fn append(&mut self, record: &Record<'_>, what: What) -> bool {
        let offset = self.end + self.buffer.len() as u64;
        let envelope = &self.segment.envelope;
        if record.encode(envelope, offset, &mut self.buffer).is_none() {
            return false;
        }
        let row = record.row(envelope, offset as u32);
        self.segment.note(&row);
        self.rows.push(row);
        self.batch.push(Unpublished {
            hash: record.hash,
            identity: row.identity,
            place: Place::new(self.segment.slot, offset, row.length as usize),
            what,
        });
        true
    }
}
