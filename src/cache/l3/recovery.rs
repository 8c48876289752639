//! From files to the index: what an earlier life left. Runs on the writer's thread before it writes anything, while workers
//! already void, spill into the queue, and are told that nothing is here.
//!
//! Segments are read oldest first, so that what is later in the log undoes what is earlier; nothing is shown before all are
//! read. Of a sealed segment only the footer is read. What is done about damage is [`Recovery`]'s to say, and each repair is
//! logged with file, offset and reason.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed, Ordering::Release, Ordering::SeqCst};

use crossbeam::queue::SegQueue;
use crossbeam::sync::Unparker;
use parking_lot::{Mutex, RwLock};

use super::envelope::Envelope;
use super::format::{self, Damage, HEADER_BYTES, Header, Kind};
use super::index::{Index, PARTS, Part, Place, Row, part_of};
use super::keys::{KeyRing, Salt};
use super::owed::{Debts, MARKER};
use super::segments::{Segment, Segments};
use super::storage::{SegmentFile, Storage, read_up_to};
use super::{Config, Counters, Marks, OpenError, Origin, Queue, Recovery, Sketch, Store, Voided};
pub(super) use scanning::{GIVEN_UP, footer, scan, walk};
use scanning::{Scan, trailer};

mod scanning;

/// One thing that was not as it should be, and what was done about it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Repair {
    pub file: String,
    pub offset: u64,
    pub reason: String,
}

/// What the directory holds, before it is read.
pub(super) struct Leftovers {
    found: BTreeMap<u64, Leftover>,
    pub next_sequence: u64,
    /// What was voided may be missing from them.
    are_incomplete: bool,
}

struct Leftover {
    file: Option<Box<dyn SegmentFile>>,
    header: Result<(Header, Envelope), String>,
    /// Not even the header arrived on the medium: nothing behind it was ever made durable.
    is_blank: bool,
    bytes: u64,
}

/// Names that are dropped while a client may wait for something else: half a millisecond.
const NAMES_AT_ONCE: usize = 2048;
/// Names that are dropped while workers wait.
const FEW_VOIDED: usize = 256;
const MOST_REPAIRS: usize = 100;
/// What an entry and its key take on average; decides how large the sketch is, and nothing else.
const TYPICAL_RECORD_BYTES: u64 = 256;

/// Takes the directory and reads the header of each segment. Changes nothing in it.
pub(super) fn open(config: Config, storage: Box<dyn Storage>, wake: Unparker) -> Result<(Store, Leftovers), OpenError> {
    let place = storage.place();
    let refused = |what: &str| {
        let what = format!("{place} cannot be {what}");
        move |error| OpenError::Io(what, error)
    };
    let lock = storage.lock().map_err(|error| match error.kind() {
        std::io::ErrorKind::WouldBlock => OpenError::Locked(place.clone()),
        _ => refused("locked")(error),
    })?;
    let mut found = BTreeMap::new();
    let names = storage.list().map_err(refused("read"))?;
    let mut has_marker = names.iter().any(|name| name == MARKER);
    for name in names {
        let Some(sequence) = format::sequence_in(&name) else {
            continue;
        };
        let leftover = Leftover::look(&*storage, &name, sequence, &config.keys)?;
        found.insert(sequence, leftover);
    }
    let newest = found.values().rev().find_map(|leftover| leftover.header.as_ref().ok());
    let seed = newest.map_or_else(|| fastrand::u64(..), |(header, _)| header.seed);
    let last = found.keys().next_back().copied().unwrap_or(0);
    let next_sequence = last.checked_add(1).ok_or_else(|| {
        let none = std::io::Error::other("no higher number is left for a new segment: remove the file");
        OpenError::Io(format::file_name(last), none)
    })?;
    let are_incomplete = !has_marker && !found.is_empty() && config.recovery != Recovery::Salvage;
    let is_new = !has_marker && found.is_empty();
    let leftovers = Leftovers {
        next_sequence,
        found,
        are_incomplete,
    };
    has_marker |= is_new;
    let store = Store {
        seed,
        probe: (config.hash)(seed, format::PROBE) ^ config.identity,
        index: Index::new(),
        segments: Segments::new(),
        sketch: Sketch::new(config.admission, (config.size_bytes / TYPICAL_RECORD_BYTES) as usize),
        marks: Marks::new(),
        keys: RwLock::new(Arc::new(config.keys.clone())),
        queue: Queue::new(config.queue_bytes),
        debts: Debts::new(has_marker),
        vouched: Mutex::default(),
        ahead_ms: AtomicU64::new(0),
        counters: Counters::default(),
        forgotten: SegQueue::new(),
        unsynced: SegQueue::new(),
        has_memory: AtomicBool::new(true),
        is_recovering: AtomicBool::new(true),
        is_off: AtomicBool::new(false),
        is_closing: AtomicBool::new(false),
        is_being_checked: AtomicBool::new(false),
        shut: AtomicUsize::new(0),
        voided: Mutex::new(Some(Voided::default())),
        trouble: Mutex::new(None),
        repairs: Mutex::new(Vec::new()),
        wake,
        config,
        storage,
        _lock: lock,
    };
    if is_new && let Err(error) = store.make_marker() {
        store.alarm(format!("{MARKER} could not be made: {error}"));
        store.distrust();
    }
    Ok((store, leftovers))
}

impl Leftover {
    /// `Err`: a version or a key that is not known, or nothing that is about this file.
    fn look(storage: &dyn Storage, name: &str, sequence: u64, keys: &KeyRing) -> Result<Leftover, OpenError> {
        let mut head = [0; HEADER_BYTES];
        let opened = storage.open(name).and_then(|file| {
            let (bytes, read) = (file.bytes()?, read_up_to(&*file, &mut head, 0)?);
            Ok((file, bytes, read))
        });
        let (file, bytes, read) = match opened {
            Ok(opened) => opened,
            Err(error) if is_of_process(&error) => {
                return Err(OpenError::Io(
                    format!("{}/{name} cannot be opened", storage.place()),
                    error,
                ));
            }
            Err(error) => {
                return Ok(Leftover {
                    file: None,
                    header: Err(error.to_string()),
                    is_blank: false,
                    bytes: 0,
                });
            }
        };
        let header = match Header::decode(&head[..read], keys) {
            Err(damage @ (Damage::Version(_) | Damage::Key(_))) => {
                return Err(OpenError::Unknown {
                    file: format!("{}/{name}", storage.place()),
                    damage,
                    keys: keys.ids(),
                });
            }
            Ok((header, _)) if header.sequence != sequence => Err("its sequence is not that of its name".to_owned()),
            Ok(header) => Ok(header),
            Err(damage) => Err(damage.to_string()),
        };
        Ok(Leftover {
            file: Some(file),
            header,
            is_blank: head == [0; HEADER_BYTES] || read < HEADER_BYTES,
            bytes,
        })
    }
}

impl Leftover {
    /// How many its footer has, if there is one.
    fn rows(&self) -> usize {
        let (Some(file), Ok((_, envelope))) = (&self.file, &self.header) else {
            return 0;
        };
        trailer(&**file, envelope, self.bytes).map_or(0, |trailer| trailer.rows as usize)
    }
}

/// There is no file or memory left for this process, or none for anybody: that says nothing about what was to be opened.
fn is_of_process(error: &std::io::Error) -> bool {
    use rustix::io::Errno;
    let kinds = [Errno::MFILE, Errno::NFILE, Errno::NOMEM];
    Errno::from_io_error(error).is_some_and(|errno| kinds.contains(&errno))
}

/// Reads all that was found into the index and lets it be seen. `between` is called often, for what cannot wait that long.
pub(super) fn run(store: &Store, mut leftovers: Leftovers, now_us: u64, mut between: impl FnMut()) {
    store.remember(now_us);
    if !leftovers.are_incomplete
        && let Some((&sequence, last)) = leftovers.found.iter_mut().next_back()
    {
        last.end_it(store, sequence);
    }
    let last = leftovers.found.keys().next_back().copied();
    let now_ms = store.unix_ms(now_us);
    if leftovers.are_incomplete {
        let what = match store.config.recovery {
            // Nor is any removed: whoever wants that says so.
            Recovery::Strict => {
                leftovers.found.clear();
                store.is_off.store(true, SeqCst);
                "none is used, and all stay as they are"
            }
            _ => {
                // Before the marker is made again.
                store.queue.push_all();
                store.debts.add_all();
                "none is used"
            }
        };
        let reason = format!("it is missing, so what was voided last may be in no segment: {what}");
        note(store, MARKER, 0, reason);
    } else {
        let rows = leftovers.found.values().map(|leftover| {
            between();
            leftover.rows()
        });
        store.index.expect(rows.sum());
    }
    for (sequence, leftover) in leftovers.found {
        between();
        if leftovers.are_incomplete {
            give_up_quietly(store, sequence, leftover);
            continue;
        }
        let Recovering::Goes = recover(store, sequence, leftover, Some(sequence) == last, now_ms, &mut between) else {
            store.is_off.store(true, SeqCst);
            store.forget_all();
            break;
        };
    }
    store.index.trim(&mut between);
    // Most of them while nobody has to wait for the lock.
    loop {
        let early = match &mut *store.voided.lock() {
            Some(voided) if voided.names.len() > FEW_VOIDED => std::mem::take(&mut voided.names),
            _ => break,
        };
        for (i, hash) in early.into_iter().enumerate() {
            store.drop_name(hash);
            if i % NAMES_AT_ONCE == 0 {
                between();
            }
        }
    }
    let mut voided = store.voided.lock();
    if let Some(voided) = voided.take() {
        if voided.is_all {
            store.forget_all();
        }
        for hash in voided.names {
            store.drop_name(hash);
        }
    }
    // Under the lock: a void either was in what has just been applied, or finds the rows.
    store.is_recovering.store(false, SeqCst);
}

enum Recovering {
    Goes,
    /// There is damage, and the configuration wants none repaired.
    Stops,
}

fn recover(
    store: &Store,
    sequence: u64,
    leftover: Leftover,
    is_last: bool,
    now_ms: u64,
    between: &mut impl FnMut(),
) -> Recovering {
    let recovery = store.config.recovery;
    let name = format::file_name(sequence);
    let header = leftover
        .header
        .and_then(|(header, envelope)| match is_of(store, &header) {
            true => Ok((header, envelope)),
            false => Err("it is of another upstream, or of a version that keeps things in another way".to_owned()),
        });
    let (header, envelope, file) = match (header, leftover.file) {
        (Ok((header, envelope)), Some(file)) => (header, envelope, file),
        (header, file) => {
            let reason = header.err().unwrap_or_default();
            note(store, &name, 0, format!("{reason}: the segment is not used"));
            if recovery == Recovery::Strict {
                return Recovering::Stops;
            }
            let is_harmless = is_last && leftover.is_blank;
            let (header, envelope) = (unknown_header(sequence), Envelope::plain(0));
            give_up(store, header, envelope, file, leftover.bytes, is_harmless);
            return Recovering::Goes;
        }
    };
    if let Some((trailer, rows)) = footer(&*file, &envelope, leftover.bytes) {
        if let Some(segment) = add(store, header, envelope, file, leftover.bytes) {
            segment.records_end.store(trailer.rows_at, Relaxed);
            segment.is_sealed.store(true, Release);
            apply_all(store, &segment, &rows, now_ms, between);
        }
        return Recovering::Goes;
    }
    let scan = match scan(&*file, &envelope, leftover.bytes, recovery == Recovery::Salvage) {
        Ok(scan) => scan,
        Err(error) => {
            note(store, &name, 0, format!("{error}: the segment is not used"));
            if recovery == Recovery::Strict {
                return Recovering::Stops;
            }
            give_up(store, header, envelope, Some(file), leftover.bytes, false);
            return Recovering::Goes;
        }
    };
    let (is_whole, is_cut) = (scan.is_whole(leftover.bytes), scan.end < leftover.bytes);
    if let Some((offset, damage)) = scan.damage {
        let what = match (is_whole, recovery) {
            (true, _) => FOOTER_UNUSED,
            (false, Recovery::Salvage) => "what is sound behind it is kept",
            (false, _) if is_last => TAIL_CUT,
            (false, _) => "the segment and older ones are not used: tombstones may be lost",
        };
        note(store, &name, offset, format!("{damage}: {what}"));
        if let Some(offset) = scan.given_up.filter(|_| !is_whole) {
            note(store, &name, offset, GIVEN_UP.to_owned());
        }
        if recovery == Recovery::Strict {
            return Recovering::Stops;
        }
    }
    if !is_whole && !is_last && recovery != Recovery::Salvage {
        if !is_cut {
            note(
                store,
                &name,
                scan.end,
                "it was never sealed: it and older ones are not used".to_owned(),
            );
            if recovery == Recovery::Strict {
                return Recovering::Stops;
            }
        }
        give_up(store, header, envelope, Some(file), leftover.bytes, false);
        return Recovering::Goes;
    }
    let Some(segment) = add(store, header, envelope, file, leftover.bytes) else {
        return Recovering::Goes;
    };
    segment.records_end.store(scan.end, Relaxed);
    apply_all(store, &segment, &scan.rows, now_ms, between);
    if recovery != Recovery::Salvage || !is_cut || is_whole {
        seal(store, &segment, &scan);
    }
    Recovering::Goes
}

const FOOTER_UNUSED: &str = "the footer is not used";
const TAIL_CUT: &str = "the torn tail is cut off";

impl Leftover {
    /// The segment that was being written, before a newer one is: this process may be killed while it recovers, and the next
    /// would find one in the middle that was never sealed. What cannot be done here is dealt with when it is read.
    fn end_it(&mut self, store: &Store, sequence: u64) {
        let recovery = store.config.recovery;
        let Some(file) = self.file.as_deref().filter(|_| recovery != Recovery::Strict) else {
            return;
        };
        let envelope = match &self.header {
            Ok((header, envelope)) if is_of(store, header) => envelope,
            Err(_) if self.is_blank => {
                // Told of when it is read.
                let _ = store.storage.remove(&format::file_name(sequence));
                return;
            }
            _ => return,
        };
        if footer(file, envelope, self.bytes).is_some() {
            return;
        }
        let Ok(scan) = scan(file, envelope, self.bytes, false) else {
            return;
        };
        let (is_whole, is_cut) = (scan.is_whole(self.bytes), scan.end < self.bytes);
        if recovery == Recovery::Salvage && is_cut && !is_whole {
            return;
        }
        let Ok(bytes) = scan.seal(file, envelope) else { return };
        self.bytes = bytes;
        if let Some((offset, damage)) = scan.damage.filter(|_| is_cut) {
            let what = if is_whole { FOOTER_UNUSED } else { TAIL_CUT };
            note(store, &format::file_name(sequence), offset, format!("{damage}: {what}"));
        }
    }
}

/// Whether its entries are of what this store's are of.
fn is_of(store: &Store, header: &Header) -> bool {
    header.seed == store.seed && header.probe == store.probe
}

/// Cuts off what is behind the records and gives the segment the footer that it never got.
fn seal(store: &Store, segment: &Segment, scan: &Scan) {
    match scan.seal(&*segment.file, &segment.envelope) {
        Ok(bytes) => {
            segment.bytes.store(bytes, Relaxed);
            segment.is_sealed.store(true, Release);
        }
        Err(error) => {
            store.counters.write_errors.fetch_add(1, Relaxed);
            store.alarm(format!("{} could not be sealed: {error}", segment.name()));
        }
    }
}

/// A segment that nothing is taken from. Unless it may never have held a tombstone, what is older goes, too: the file stays
/// until all older ones are removed.
fn give_up(
    store: &Store,
    header: Header,
    envelope: Envelope,
    file: Option<Box<dyn SegmentFile>>,
    bytes: u64,
    is_harmless: bool,
) {
    let file = file.unwrap_or_else(|| Box::new(Unreadable));
    if let Some(segment) = add(store, header, envelope, file, bytes)
        && !is_harmless
    {
        segment.tombstones.store(1, Relaxed);
    }
    if !is_harmless && store.config.recovery != Recovery::Salvage {
        store.forget_all();
    }
}

/// Nothing is taken from it, and what it undoes is not used either: it goes as soon as the older ones are gone.
fn give_up_quietly(store: &Store, sequence: u64, leftover: Leftover) {
    let (header, envelope) = leftover
        .header
        .unwrap_or_else(|_| (unknown_header(sequence), Envelope::plain(0)));
    let file = leftover.file.unwrap_or_else(|| Box::new(Unreadable));
    add(store, header, envelope, file, leftover.bytes);
}

fn unknown_header(sequence: u64) -> Header {
    Header {
        sequence,
        created_ms: 0,
        nonce: 0,
        salt: Salt::default(),
        key: None,
        seed: 0,
        probe: 0,
    }
}

fn add(
    store: &Store,
    header: Header,
    envelope: Envelope,
    file: Box<dyn SegmentFile>,
    bytes: u64,
) -> Option<Arc<Segment>> {
    store.segments.add(header.sequence, |slot| {
        Segment::new(header, envelope, slot, file, bytes)
    })
}

/// One part of the index after another, and in each one page after another, which is how they lie in memory: an index that is
/// larger than the processor's caches would cost several misses for each row otherwise. Rows of one name are in one page, and
/// stay in their order.
fn apply_all(store: &Store, segment: &Segment, rows: &[format::Row], now_ms: u64, between: &mut impl FnMut()) {
    rows.iter().for_each(|row| segment.note(row));
    let is_of_all = |row: &format::Row| row.kind == Kind::TombstoneOfAll;
    // What is before the last of them is undone.
    let first = rows.iter().rposition(is_of_all).map_or(0, |last| last + 1);
    if first > 0 {
        store.forget_all();
    }
    let (rows, ends) = in_parts(&rows[first..]);
    let (mut order, mut begin) = (Vec::new(), 0);
    for (number, end) in ends.into_iter().enumerate() {
        let rows = &rows[begin..end];
        begin = end;
        let names = rows.iter().map(|row| row.hash);
        store.index.part_numbered(number).by_page(names, &mut order);
        for some in order.chunks(ROWS_A_LOCK) {
            let rows = some.iter().map(|&at| &rows[at as usize]);
            let mut part = store.index.part_numbered(number);
            apply(store, &mut part, segment, rows, now_ms);
            drop(part);
            between();
        }
    }
}

/// Rows that are read into a part while a worker may wait for it: some tens of microseconds.
const ROWS_A_LOCK: usize = 256;

/// The same rows by the part of the index in which they belong, and where those of each part end.
fn in_parts(rows: &[format::Row]) -> (Vec<format::Row>, [usize; PARTS]) {
    let mut counts = [0; PARTS];
    rows.iter().for_each(|row| counts[part_of(row.hash)] += 1);
    let mut end = 0;
    let mut next = counts.map(|count| {
        end += count;
        end - count
    });
    let mut sorted = rows.to_vec();
    for row in rows {
        let next = &mut next[part_of(row.hash)];
        sorted[*next] = *row;
        *next += 1;
    }
    (sorted, next)
}

/// Entries and tombstones of names, in their part.
fn apply<'a>(
    store: &Store,
    part: &mut Part,
    segment: &Segment,
    rows: impl Iterator<Item = &'a format::Row> + Clone,
    now_ms: u64,
) {
    let is_expired = |row: &format::Row| row.expires_s != u32::MAX && u64::from(row.expires_s) * 1000 <= now_ms;
    let is_entry = |row: &&format::Row| row.kind == Kind::Entry && !is_expired(row);
    let entries = rows.clone().filter(is_entry).count();
    store.segments.born_many(segment.slot, entries as u32);
    let died = |place: Place| {
        store.segments.died(place.slot);
    };
    for row in rows {
        if is_entry(&row) {
            let place = Place::new(segment.slot, row.offset.into(), row.length as usize);
            let entry = Row::new(row.hash, row.identity, place, Origin::EarlierLife);
            if let Some(old) = part.insert(row.hash, entry) {
                died(old);
            }
        } else if row.kind == Kind::Tombstone {
            part.remove(row.hash, |_| true, died);
        }
    }
}

fn note(store: &Store, file: &str, offset: u64, reason: String) {
    store.counters.repairs.fetch_add(1, Relaxed);
    match store.config.recovery {
        Recovery::Strict => {
            store.alarm(format!(
                "{file} is damaged at offset {offset}: {reason}; strict recovery repairs nothing"
            ));
        }
        _ => tracing::warn!(file, offset, reason, "L3: damage was found at the start"),
    }
    let mut repairs = store.repairs.lock();
    if repairs.len() < MOST_REPAIRS {
        repairs.push(Repair {
            file: file.to_owned(),
            offset,
            reason,
        });
    }
}

/// Stands for a file that could not even be opened.
struct Unreadable;

impl SegmentFile for Unreadable {
    fn write_all_at(&self, _: &[u8], _: u64) -> std::io::Result<()> {
        Err(std::io::ErrorKind::Unsupported.into())
    }

    fn read_at(&self, _: &mut [u8], _: u64) -> std::io::Result<usize> {
        Err(std::io::ErrorKind::Unsupported.into())
    }

    fn truncate(&self, _: u64) -> std::io::Result<()> {
        Err(std::io::ErrorKind::Unsupported.into())
    }

    fn sync(&self) -> std::io::Result<()> {
        Err(std::io::ErrorKind::Unsupported.into())
    }

    fn bytes(&self) -> std::io::Result<u64> {
        Ok(0)
    }
}
