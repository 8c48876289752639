//! The same while the store works: every record that is on the disk at that moment is read. What counts is what the index
//! names, so nothing has to be remembered of what was read.

use std::sync::Arc;
use std::sync::atomic::Ordering::{Acquire, Relaxed, SeqCst};

use super::{Kind, Refusal, Report, SegmentReport, codec};
use crate::cache::l3::index::Place;
use crate::cache::l3::segments::Segment;
use crate::cache::l3::writer::give_way;
use crate::cache::l3::{L3, Store};
use crate::clock;

impl L3 {
    /// Reads everything, on a thread of its own that gives way to others, and calls `done` there, once.
    ///
    /// # Errors
    /// It is being checked already, or an earlier life is still being read, or there is no thread.
    pub fn check(&self, done: impl FnOnce(Result<Report, Refusal>) + Send + 'static) -> Result<(), Refusal> {
        if self.store.is_recovering.load(SeqCst) {
            return Err("it still reads what an earlier life left".to_owned());
        }
        if self.store.is_being_checked.swap(true, SeqCst) {
            return Err("it is being checked".to_owned());
        }
        let store = Arc::clone(&self.store);
        let thread = std::thread::Builder::new().name("l3-check".to_owned());
        let begun = thread.spawn(move || {
            give_way();
            let report = store.check();
            store.is_being_checked.store(false, SeqCst);
            done(report);
        });
        begun.map(drop).map_err(|error| {
            self.store.is_being_checked.store(false, SeqCst);
            format!("its thread does not start: {error}")
        })
    }
}

impl Store {
    fn check(&self) -> Result<Report, Refusal> {
        let mut report = Report::default();
        // By their numbers: the room of those that are removed meanwhile is not given back as long as somebody has them.
        let number = |segment: Arc<Segment>| (segment.slot, segment.header.sequence);
        let all: Vec<(u16, u64)> = self.segments.all().into_iter().map(number).collect();
        for (slot, sequence) in all {
            if self.is_closing.load(SeqCst) {
                return Err("the process ends".to_owned());
            }
            let Some(segment) = self.segments.get(slot).filter(|now| now.header.sequence == sequence) else {
                continue;
            };
            let one = self.check_segment(&segment, &mut report);
            let is_there = self.segments.get(segment.slot);
            // One that was given back meanwhile may have been read when it was no longer what the index knows.
            if is_there.is_some_and(|there| Arc::ptr_eq(&there, &segment)) {
                report.segments.push(one);
            }
        }
        Ok(report)
    }

    fn check_segment(&self, segment: &Segment, report: &mut Report) -> SegmentReport {
        // In this order: what is being written has an end that only moves on.
        let is_sealed = segment.is_sealed.load(Acquire);
        let end = segment.records_end.load(Relaxed);
        let mut one = SegmentReport {
            file: segment.name(),
            bytes: segment.bytes.load(Relaxed),
            created_ms: segment.header.created_ms,
            key: segment.envelope.key_id(),
            is_sealed: false,
            entries: 0,
            tombstones: 0,
            damage: Vec::new(),
        };
        let now_ms = self.unix_ms(clock::now_us());
        let records_end = (!is_sealed).then_some(end);
        let bytes = one.bytes;
        one.read(&*segment.file, &segment.envelope, bytes, records_end, |at, record| {
            if record.kind != Kind::Entry {
                return;
            }
            let place = Place::new(segment.slot, at, segment.envelope.length(record));
            let is_alive = self.index.part(record.hash).hits_at(record.hash, place).is_some();
            match is_alive {
                false => report.dead += 1,
                true if record.expires_ms <= now_ms => report.expired += 1,
                true => {
                    report.alive += 1;
                    report.alive_value_bytes += codec::shown_bytes(record.codec, record.value).unwrap_or(0) as u64;
                }
            }
        });
        one
    }
}
