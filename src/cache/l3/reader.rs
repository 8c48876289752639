//! Reading: a few threads that block where workers must not, one read for everybody who wants the same record.
//!
//! What the system has in memory needs no wait, and no other thread: whoever asks reads it himself, if it is so short that
//! this costs less than to wake somebody for it.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::thread::JoinHandle;

use bytes::Bytes;
use crossbeam::channel::{Receiver, Sender, TrySendError, bounded};
use parking_lot::Mutex;

use super::codec::{self, Codec};
use super::format::{self, Damage, KeyEnd, RECORD_HEAD_BYTES, Record};
use super::index::{Place, Row};
use super::reclaim::MOST_ERRORS;
use super::storage::read_up_to;
use super::{Mark, OpenError, Origin, Segment, Store};
use crate::cache::l1::Query;

/// An entry as it was on the disk. Times are microseconds of the process's clock.
#[derive(Clone, Debug)]
pub struct Found {
    /// Of the name.
    pub hash: u64,
    pub value: Bytes,
    pub is_absent: bool,
    pub is_plain: bool,
    pub key_end: KeyEnd,
    /// When it was asked for: what is told of its age is of then.
    pub asked_us: u64,
    /// How long ago it was filled.
    pub age_us: u64,
    /// When that was; 0: before this process.
    pub filled_us: u64,
    /// Of one of an earlier life: how long ago it was last known to be true.
    pub unvouched_us: u64,
    /// `None`: the copy does not expire.
    pub expires_us: Option<u64>,
    pub origin: Origin,
    /// Of before the index was asked: if the name has another one when this is to be shown, it was voided.
    pub mark: Mark,
}

/// An entry on the disk, for people.
#[derive(Clone, Copy, Debug)]
pub struct Kept {
    /// Its sequence.
    pub segment: u64,
    pub origin: Origin,
    /// That it takes on the disk, rounded up by as much as a quarter: what is in memory knows no more of it.
    pub bytes: usize,
    identity: u16,
}

impl Kept {
    /// Whether it is what a `GET` in this database reads.
    pub fn is_of_get(&self, db: u32) -> bool {
        u16::try_from(db).is_ok_and(|db| self.identity == format::identity_tag(db, b""))
    }
}

type Done = Box<dyn FnOnce(Option<Found>) + Send>;

struct Waiting {
    row: Row,
    mark: Mark,
    hash: u64,
    db: u16,
    name: Box<[u8]>,
    variant: Box<[u8]>,
    /// When he asked, which may be long after the one whose read he has joined.
    now_us: u64,
    done: Done,
}

/// Who waits for each record; the read is queued or under way.
#[derive(Default)]
struct AllWaiting {
    of: HashMap<Place, Vec<Waiting>>,
    /// Those who have joined another's read.
    joined: usize,
}

pub(super) struct Reads {
    sender: Mutex<Option<Sender<Place>>>,
    waiting: Arc<Mutex<AllWaiting>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

/// The reads that wait.
#[derive(Clone)]
pub(super) struct ReadQueue {
    store: Arc<Store>,
    receiver: Receiver<Place>,
    waiting: Arc<Mutex<AllWaiting>>,
}

impl ReadQueue {
    /// Serves the next read, and waits for it if need be. False: there will be none.
    fn serve_next(&self) -> bool {
        let Ok(place) = self.receiver.recv() else { return false };
        serve(&self.store, &self.waiting, place);
        true
    }

    /// Whether a read waits.
    pub fn is_waiting(&self) -> bool {
        !self.receiver.is_empty()
    }

    /// The same without waiting.
    pub fn serve_one(&self) -> bool {
        let Ok(place) = self.receiver.try_recv() else {
            return false;
        };
        serve(&self.store, &self.waiting, place);
        true
    }
}

/// Reads that may wait for each thread; a medium that is this far behind is slower than asking the upstream.
const QUEUED_A_READER: usize = 64;
/// What a worker reads itself: it takes him less time than another thread to be woken and to answer, decompression and
/// decryption included.
const MOST_AT_ONCE_BYTES: usize = 8 << 10;
/// Who is not served by then has a medium that hangs; the names of all who ask meanwhile are not kept.
const MOST_JOINED: usize = 16 << 10;

impl Reads {
    pub fn start(store: &Arc<Store>) -> Result<Reads, OpenError> {
        let (reads, queue) = Reads::queue(store);
        for number in 0..store.config.readers.max(1) {
            let queue = queue.clone();
            let thread = std::thread::Builder::new()
                .name(format!("l3-reader-{number}"))
                .spawn(move || while queue.serve_next() {})
                .map_err(|error| OpenError::Io("a reader's thread does not start".to_owned(), error))?;
            reads.threads.lock().push(thread);
        }
        Ok(reads)
    }

    /// Without threads: who has the queue serves it.
    pub fn queue(store: &Arc<Store>) -> (Reads, ReadQueue) {
        let (sender, receiver) = bounded::<Place>(store.config.readers.max(1) * QUEUED_A_READER);
        let waiting: Arc<Mutex<AllWaiting>> = Arc::default();
        let queue = ReadQueue {
            store: Arc::clone(store),
            receiver,
            waiting: Arc::clone(&waiting),
        };
        let reads = Reads {
            sender: Mutex::new(Some(sender)),
            waiting,
            threads: Mutex::default(),
        };
        (reads, queue)
    }

    pub fn lookup(
        &self,
        store: &Store,
        q: &Query<'_>,
        now_us: u64,
        will_do: impl Fn(Origin, usize) -> bool,
        done: impl FnOnce(Option<Found>) + Send + 'static,
    ) -> bool {
        let Some((row, mark, db)) = store
            .probe(q)
            .filter(|(row, ..)| will_do(row.origin(), row.place().bytes()))
        else {
            store.counters.misses.fetch_add(1, Relaxed);
            return false;
        };
        let place = row.place();
        if let Some((segment, opened)) = store.read_at_once(place) {
            let wanted = Wanted::of(q, db, mark);
            done(store.judge(&row, &segment, Ok(&opened), &wanted, now_us));
            return true;
        }
        let waiter = Waiting {
            row,
            mark,
            hash: q.hash,
            db,
            name: q.name.into(),
            variant: q.variant.into(),
            now_us,
            done: Box::new(done),
        };
        let mut waiting = self.waiting.lock();
        let AllWaiting { of, joined } = &mut *waiting;
        if let Some(others) = of.get_mut(&place) {
            if *joined >= MOST_JOINED {
                store.counters.reads_shed.fetch_add(1, Relaxed);
                return false;
            }
            *joined += 1;
            others.push(waiter);
            store.counters.reads_joined.fetch_add(1, Relaxed);
            return true;
        }
        let sent = match &*self.sender.lock() {
            Some(sender) => sender.try_send(place),
            None => Err(TrySendError::Disconnected(place)),
        };
        if sent.is_err() {
            store.counters.reads_shed.fetch_add(1, Relaxed);
            return false;
        }
        of.insert(place, vec![waiter]);
        true
    }

    /// `join` ends the wait for a thread.
    pub fn close(&self, join: impl Fn(JoinHandle<()>) -> bool) {
        drop(self.sender.lock().take());
        for thread in self.threads.lock().drain(..) {
            join(thread);
        }
    }
}

/// One read of the medium, for all who wait for it.
fn serve(store: &Store, waiting: &Mutex<AllWaiting>, place: Place) {
    let loaded = store.load(place);
    let loaded = loaded.map(|(segment, bytes)| (Opened::whole(bytes, &segment, place), segment));
    // Whoever asks from here on starts a read of his own.
    let all = {
        let mut waiting = waiting.lock();
        let all = waiting.of.remove(&place).unwrap_or_default();
        waiting.joined -= all.len().saturating_sub(1);
        all
    };
    for waiter in all {
        let wanted = Wanted {
            hash: waiter.hash,
            db: waiter.db,
            name: &waiter.name,
            variant: &waiter.variant,
            mark: waiter.mark,
        };
        let found = loaded
            .as_ref()
            .and_then(|(opened, segment)| store.judge(&waiter.row, segment, opened.as_ref(), &wanted, waiter.now_us));
        (waiter.done)(found);
    }
}

struct Wanted<'a> {
    hash: u64,
    db: u16,
    name: &'a [u8],
    variant: &'a [u8],
    mark: Mark,
}

impl<'a> Wanted<'a> {
    fn of(q: &Query<'a>, db: u16, mark: Mark) -> Wanted<'a> {
        Wanted {
            hash: q.hash,
            db,
            name: q.name,
            variant: q.variant,
            mark,
        }
    }
}

/// A record as it was before it was written, once for all who wait for it.
struct Opened {
    kind: format::Kind,
    is_absent: bool,
    is_plain: bool,
    key_end: KeyEnd,
    filled_ms: u64,
    expires_ms: u64,
    db: u16,
    name: Bytes,
    variant: Bytes,
    value: Bytes,
}

impl Opened {
    fn whole(bytes: Vec<u8>, segment: &Segment, place: Place) -> Result<Opened, Damage> {
        // None is longer.
        Opened::read(bytes, segment, place, usize::MAX)?.ok_or(Damage::Field)
    }

    /// `None`: the value is longer than that.
    fn read(mut bytes: Vec<u8>, segment: &Segment, place: Place, most_bytes: usize) -> Result<Option<Opened>, Damage> {
        let record = Record::decode(&mut bytes, &segment.envelope, place.offset())?;
        if codec::shown_bytes(record.codec, record.value)? > most_bytes {
            return Ok(None);
        }
        let name_end = RECORD_HEAD_BYTES + record.name.len();
        let variant_end = name_end + record.variant.len();
        let end = variant_end + record.value.len();
        let unpacked = match record.codec {
            Codec::Plain => None,
            codec => Some(Bytes::from(codec::decompress(codec, record.value)?)),
        };
        let mut opened = Opened {
            kind: record.kind,
            is_absent: record.is_absent,
            is_plain: record.is_plain,
            key_end: record.key_end,
            filled_ms: record.filled_ms,
            expires_ms: record.expires_ms,
            db: record.db,
            name: Bytes::new(),
            variant: Bytes::new(),
            value: Bytes::new(),
        };
        let bytes = Bytes::from(bytes);
        opened.name = bytes.slice(RECORD_HEAD_BYTES..name_end);
        opened.variant = bytes.slice(name_end..variant_end);
        opened.value = unpacked.unwrap_or_else(|| bytes.slice(variant_end..end));
        Ok(Some(opened))
    }
}

impl Store {
    /// Whether there may be an entry, by memory alone.
    fn probe(&self, q: &Query<'_>) -> Option<(Row, Mark, u16)> {
        if self.is_off.load(Relaxed) {
            return None;
        }
        let db = u16::try_from(q.db).ok()?;
        let mark = self.marks.of(q.hash as u32);
        let row = self
            .index
            .part(q.hash)
            .find(q.hash, format::identity_tag(db, q.variant))?;
        let is_hidden = row.origin() == Origin::EarlierLife && self.is_recovering.load(SeqCst);
        (!is_hidden).then_some((row, mark, db))
    }

    pub(super) fn explain(&self, hash: u64) -> Vec<Kept> {
        let rows: Vec<_> = self.index.part(hash).of_name(hash).copied().collect();
        rows.iter()
            .filter_map(|row| {
                let segment = self.segments.get(row.place().slot)?;
                Some(Kept {
                    segment: segment.header.sequence,
                    origin: row.origin(),
                    bytes: row.place().bytes(),
                    identity: row.identity(),
                })
            })
            .collect()
    }

    /// Looks for an entry, and waits for the medium if need be.
    #[cfg(test)]
    pub fn read(&self, q: &Query<'_>, now_us: u64) -> Option<Found> {
        let (row, mark, db) = self.probe(q)?;
        let (segment, opened) = match self.read_at_once(row.place()) {
            Some((segment, opened)) => (segment, Ok(opened)),
            None => {
                let (segment, bytes) = self.load(row.place())?;
                let opened = Opened::whole(bytes, &segment, row.place());
                (segment, opened)
            }
        };
        let wanted = Wanted::of(q, db, mark);
        self.judge(&row, &segment, opened.as_ref(), &wanted, now_us)
    }

    /// A short and sound record that the system has in memory. `None`: it is for those who may wait, and tell what is wrong.
    fn read_at_once(&self, place: Place) -> Option<(Arc<Segment>, Opened)> {
        if place.bytes() > MOST_AT_ONCE_BYTES || !self.has_memory.load(Relaxed) {
            return None;
        }
        let segment = self.segments.get(place.slot)?;
        if segment.errors.load(Relaxed) >= MOST_ERRORS {
            return None;
        }
        let mut bytes = vec![0; place.bytes()];
        match segment.file.read_at_once(&mut bytes, place.offset()) {
            Ok(read) => bytes.truncate(read),
            Err(error) => {
                if error.kind() == std::io::ErrorKind::Unsupported && self.has_memory.swap(false, Relaxed) {
                    tracing::info!(
                        "L3: this file system cannot tell what it has in memory, so every read goes to a thread of its own"
                    );
                }
                return None;
            }
        }
        let opened = Opened::read(bytes, &segment, place, MOST_AT_ONCE_BYTES)
            .ok()
            .flatten()?;
        self.counters.reads_at_once.fetch_add(1, Relaxed);
        Some((segment, opened))
    }

    /// The bytes at a place, and what follows them. `None`: the segment is gone, or the medium refuses.
    pub(super) fn load(&self, place: Place) -> Option<(Arc<Segment>, Vec<u8>)> {
        let segment = self.segments.get(place.slot)?;
        if segment.errors.load(Relaxed) >= MOST_ERRORS {
            return None;
        }
        let mut bytes = vec![0; place.bytes()];
        match read_up_to(&*segment.file, &mut bytes, place.offset()) {
            Ok(read) => {
                bytes.truncate(read);
                Some((segment, bytes))
            }
            Err(error) => {
                self.counters.read_errors.fetch_add(1, Relaxed);
                self.alarm(format!(
                    "{} cannot be read at offset {}: {error}",
                    segment.name(),
                    place.offset()
                ));
                // Its rows stay until its file is removed, so that what is voided meanwhile gets its tombstone.
                if segment.errors.fetch_add(1, Relaxed) + 1 == MOST_ERRORS {
                    self.counters.retired_segments.fetch_add(1, Relaxed);
                }
                None
            }
        }
    }

    fn judge(
        &self,
        row: &Row,
        segment: &Segment,
        opened: Result<&Opened, &Damage>,
        wanted: &Wanted<'_>,
        now_us: u64,
    ) -> Option<Found> {
        let place = row.place();
        let record = match opened {
            Ok(opened) => opened,
            Err(&damage) => {
                self.corrupt(segment, place, wanted.hash, damage);
                return None;
            }
        };
        let is_it = record.kind == format::Kind::Entry
            && record.db == wanted.db
            && record.name == wanted.name
            && record.variant == wanted.variant;
        if !is_it {
            self.counters.misses.fetch_add(1, Relaxed);
            return None;
        }
        let now_ms = self.unix_ms(now_us);
        if record.expires_ms <= now_ms {
            if self.drop_row(wanted.hash, place) {
                self.counters.expirations.fetch_add(1, Relaxed);
            }
            self.counters.misses.fetch_add(1, Relaxed);
            return None;
        }
        if row.origin() == Origin::EarlierLife && record.filled_ms > now_ms {
            // Nobody knows how old it is.
            self.counters.misses.fetch_add(1, Relaxed);
            return None;
        }
        self.counters.hits.fetch_add(1, Relaxed);
        let to_us = |ms: u64| ms.saturating_sub(self.offset_ms()).saturating_mul(1000);
        let vouched_ms = match row.origin() {
            Origin::EarlierLife => self.vouched.lock().of(record.filled_ms),
            Origin::ThisLife { .. } => now_ms,
        };
        Some(Found {
            hash: wanted.hash,
            value: record.value.clone(),
            is_absent: record.is_absent,
            is_plain: record.is_plain,
            key_end: record.key_end,
            asked_us: now_us,
            age_us: now_ms.saturating_sub(record.filled_ms).saturating_mul(1000),
            unvouched_us: now_ms.saturating_sub(vouched_ms).saturating_mul(1000),
            filled_us: to_us(record.filled_ms),
            expires_us: (record.expires_ms != format::NEVER).then(|| to_us(record.expires_ms)),
            origin: row.origin(),
            mark: wanted.mark,
        })
    }

    /// What is at the place is not what was written; unless another segment has the slot now.
    pub(super) fn corrupt(&self, segment: &Segment, place: Place, hash: u64, damage: Damage) {
        let is_current = self
            .segments
            .get(place.slot)
            .is_some_and(|now| std::ptr::eq(&*now, segment));
        if is_current && self.drop_row(hash, place) {
            self.counters.corrupt_records.fetch_add(1, Relaxed);
            tracing::warn!(
                file = segment.name(),
                offset = place.offset(),
                reason = %damage,
                "L3: a record was damaged on the medium and is dropped"
            );
        }
    }

    /// Drops the row of a place. False: it was gone.
    pub(super) fn drop_row(&self, hash: u64, place: Place) -> bool {
        let mut part = self.index.part(hash);
        let died = |place: Place| {
            self.segments.died(place.slot);
        };
        part.remove(hash, |row| row.place() == place, died) > 0
    }

    /// Drops all rows of a name.
    pub(super) fn drop_name(&self, hash: u64) {
        let died = |place: Place| {
            self.segments.died(place.slot);
        };
        self.index.part(hash).remove(hash, |_| true, died);
    }
}
