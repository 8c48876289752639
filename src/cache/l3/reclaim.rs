//! Giving room back: the oldest segment goes first, and what was hit since it was written moves to the newest.
//!
//! What is moved for one new segment is half of a segment at most: so at most half of what is written was written before.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use zeroize::Zeroize;

use super::format::{self, Kind, Record, Row};
use super::index::Place;
use super::segments::Segment;
use super::writer::{LAST_RETRY_US, Writer};
use super::{Store, Sync, recovery};

/// Reads that a segment's file may refuse before it is given up.
pub(super) const MOST_ERRORS: u32 = 8;

impl Writer {
    /// Frees what the segment that has just begun needs, oldest first.
    pub fn make_room(&mut self, now_us: u64) {
        let store = Arc::clone(&self.store);
        let config = &store.config;
        let mut budget = config.segment_bytes / 2;
        // After a flush, say, or when many have expired, it is not any more.
        let entries = self.is_at_its_size().then(|| store.index.len());
        store.sketch.full_with(entries);
        for segment in self.store.segments.all() {
            if !self.is_at_its_size() {
                return;
            }
            if !segment.is_active.load(Relaxed) {
                self.rescue(&segment, &mut budget, now_us);
                // The file first: what is voided while it is still there needs its rows to be known.
                if !self.give_back(&segment) {
                    return;
                }
                self.store.counters.reclaimed_segments.fetch_add(1, Relaxed);
            }
        }
    }

    /// Frees, of the closed segments, what nobody can need again: those with nothing alive, those whose entries have all
    /// expired, and those whose file cannot be read.
    pub fn free_dead(&mut self, now_us: u64) {
        let now_ms = self.store.unix_ms(now_us);
        let mut is_oldest = true;
        let closed: Vec<_> = self.closed().collect();
        for segment in closed {
            let is_bad = segment.errors.load(Relaxed) >= MOST_ERRORS;
            if !is_bad && segment.expires_ms.load(Relaxed) <= now_ms {
                let dropped = self.store.drop_rows(&segment);
                self.store.counters.expirations.fetch_add(dropped as u64, Relaxed);
            }
            // Its tombstones are needed as long as there is anything that they undo.
            let is_needed = segment.tombstones.load(Relaxed) > 0 && !is_oldest;
            let is_alive = self.store.segments.alive(segment.slot) > 0 && !is_bad;
            if is_alive || is_needed {
                is_oldest = false;
            } else if !self.give_back(&segment) {
                // What is refused now is refused in a moment, too.
                self.freed_us = now_us.saturating_add(LAST_RETRY_US);
                return;
            }
        }
    }

    /// Whether another segment needs room that is to be made.
    pub fn is_at_its_size(&self) -> bool {
        let config = &self.store.config;
        let closed: u64 = self.closed().map(|segment| segment.bytes.load(Relaxed)).sum();
        closed + config.segment_bytes > config.size_bytes
    }

    /// The disk is full before there is room to move anything: the oldest segment goes with all that is in it. False: there is
    /// none, or it cannot be removed.
    pub fn give_back_oldest(&mut self) -> bool {
        let oldest = self.closed().next();
        oldest.is_some_and(|oldest| {
            let is_given = self.give_back(&oldest);
            drop(oldest);
            self.close_removed();
            self.store
                .counters
                .reclaimed_segments
                .fetch_add(u64::from(is_given), Relaxed);
            is_given
        })
    }

    fn closed(&self) -> impl Iterator<Item = Arc<Segment>> + use<> {
        self.store
            .segments
            .all()
            .into_iter()
            .filter(|segment| !segment.is_active.load(Relaxed))
    }

    /// Moves what was hit, as far as the budget goes.
    fn rescue(&mut self, segment: &Segment, budget: &mut u64, now_us: u64) {
        let now_ms = self.store.unix_ms(now_us);
        let Some(rows) = self.store.footer_rows(segment) else {
            return;
        };
        for row in rows.into_iter().filter(|row| row.kind == Kind::Entry) {
            let place = Place::new(segment.slot, row.offset.into(), row.length as usize);
            let is_hit = self
                .store
                .index
                .part(row.hash)
                .hits_at(row.hash, place)
                .is_some_and(|hits| hits > 0);
            let bytes = format::padded(row.length as usize) as u64;
            if !is_hit || bytes > *budget {
                continue;
            }
            let Some((_, mut bytes_read)) = self.store.load(place) else {
                continue;
            };
            let mut is_full = false;
            match Record::decode(&mut bytes_read, &segment.envelope, place.offset()) {
                Ok(record) if record.expires_ms > now_ms => {
                    is_full = !self.append_moved(&record, place);
                    if !is_full {
                        *budget -= bytes;
                        self.store.counters.reinserted_bytes.fetch_add(bytes, Relaxed);
                    }
                }
                Ok(_) => {}
                Err(damage) => self.store.corrupt(segment, place, row.hash, damage),
            }
            if segment.envelope.key_id().is_some() {
                bytes_read.zeroize();
            }
            if is_full {
                break;
            }
        }
        self.flush(now_us);
    }

    /// Removes the file of a segment that no row names. False: the medium refused.
    fn give_back(&mut self, segment: &Arc<Segment>) -> bool {
        let removed = self.store.storage.remove(&segment.name()).and_then(|()| {
            match self.store.config.sync {
                Sync::Never => Ok(()),
                // A newer segment with tombstones may go only once it is certain that this one does not come back.
                Sync::Interval(_) | Sync::EachSegment => self.store.storage.sync_names(),
            }
        });
        match removed {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                self.store.counters.write_errors.fetch_add(1, Relaxed);
                self.store
                    .alarm(format!("{} could not be removed: {error}", segment.name()));
                false
            }
            _ => {
                self.store.drop_rows(segment);
                self.store.segments.remove(segment);
                // As long as its file is open, its room is not given back.
                self.unsealed.retain(|(ended, _)| !Arc::ptr_eq(ended, segment));
                self.removed.push(Arc::clone(segment));
                true
            }
        }
    }

    /// Closes the files of removed segments that nobody reads any more. Nobody can begin to: no slot names them.
    pub fn close_removed(&mut self) {
        self.removed.retain(|segment| Arc::strong_count(segment) > 1);
    }
}

impl Store {
    /// Drops all rows of a segment.
    pub(super) fn drop_rows(&self, segment: &Segment) -> usize {
        if self.segments.alive(segment.slot) == 0 {
            return 0;
        }
        let mut dropped = 0;
        if let Some(rows) = self.footer_rows(segment) {
            for row in rows.iter().filter(|row| row.kind == Kind::Entry) {
                let place = Place::new(segment.slot, row.offset.into(), row.length as usize);
                dropped += usize::from(self.drop_row(row.hash, place));
            }
        }
        if self.segments.alive(segment.slot) > 0 {
            // It has no footer that can be read.
            dropped += self.index.retain_not(|row| {
                let is_there = row.place().slot == segment.slot;
                if is_there {
                    self.segments.died(segment.slot);
                }
                is_there
            });
        }
        dropped
    }

    /// The rows of a sealed segment. `None`: it has no footer, or not a sound one.
    pub(super) fn footer_rows(&self, segment: &Segment) -> Option<Vec<Row>> {
        if !segment.is_sealed.load(Relaxed) {
            return None;
        }
        recovery::footer(&*segment.file, &segment.envelope, segment.bytes.load(Relaxed)).map(|(_, rows)| rows)
    }
}
