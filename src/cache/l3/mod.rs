//! L3: what L1 evicted and is worth keeping, in segment files that survive restarts and crashes.
//!
//! Workers hand in evicted entries ([`L3::spill`]), ask ([`L3::lookup`]) and tell what changed ([`L3::void`]); none of these
//! waits for I/O. One thread writes, frees and recovers ([`writer`]); a few read ([`reader`]). What a file looks like is said in
//! [`format`]. Times are microseconds of the process's clock; on the disk they are those of the Unix clock, converted by the
//! difference at the start, so that within one life a clock that is set does not move a deadline.
//!
//! What it promises:
//! - a record that fails its checksum, or is another key's, is never returned;
//! - what was voided is not found again in this life, wherever it was at that moment: on the disk, in the queue, in a batch or
//!   in a reader's hands ([`Found::mark`] is asked again by whoever shows it);
//! - what is of an earlier life says so ([`Origin`]); whether that will do, and whether the link of this life still vouches, the
//!   caller decides;
//! - what was voided does not come back by a restart either, once its tombstone is written: for a write that a client waits for
//!   that is before he is answered ([`owed`]), for everything else (a push, a reply that is newer than what is here) 20 ms
//!   later at most, as long as the medium keeps up. That is a killed process; a machine that loses power loses what was not
//!   synced: with [`Sync::Interval`] what is younger than that, with [`Sync::EachSegment`] what is in the last segment and in
//!   those before it that are still being synced, with [`Sync::Never`] anything. A value that comes back so is of an earlier life;
//! - the files take no more than the configured size and one segment;
//! - an error of the medium costs entries, not the process.

pub mod check;
pub mod codec;
pub mod format;
pub mod keys;
pub mod storage;

mod admission;
mod by_hand;
mod closing;
mod envelope;
mod index;
mod marks;
mod open_error;
mod owed;
mod queue;
mod reader;
mod reclaim;
mod recovery;
mod rotation;
mod segments;
mod syncing;
mod vouched;
mod writer;

use std::collections::HashSet;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed, Ordering::SeqCst};

use crossbeam::queue::SegQueue;
use crossbeam::sync::{Parker, Unparker};
use parking_lot::{Mutex, RwLock};

use super::l1::Query;
pub use admission::Admission;
use admission::Sketch;
pub use by_hand::Hand;
pub use codec::Compression;
pub use format::KeyEnd;
pub use index::Origin;
use index::{Index, Part};
use keys::{KeyId, KeyRing};
pub use marks::Mark;
use marks::Marks;
pub use open_error::OpenError;
use owed::Debts;
pub use owed::Owed;
use queue::Queue;
pub use queue::Spill;
use reader::Reads;
pub use reader::{Found, Kept};
pub use recovery::Repair;
pub use rotation::KeysRefused;
use segments::{Segment, Segments};
use storage::Storage;
use syncing::Syncer;
pub use vouched::Boot;
use vouched::Vouched;

/// What L3 is built with.
#[derive(Clone, Debug)]
pub struct Config {
    /// Of all files, one segment left aside. At least four segments.
    pub size_bytes: u64,
    /// At most [`format::MAX_SEGMENT_BYTES`], at least 4 KiB.
    pub segment_bytes: u64,
    /// Larger values are not kept; nor what takes more than a quarter of a segment.
    pub max_value_bytes: usize,
    /// What may wait to be written.
    pub queue_bytes: usize,
    pub admission: Admission,
    pub sync: Sync,
    pub recovery: Recovery,
    /// `None`: values are written as they are.
    pub compression: Option<Compression>,
    pub keys: KeyRing,
    /// What is written of spills in a second; `None`: whatever comes.
    pub write_bytes_a_second: Option<u64>,
    /// Threads that read.
    pub readers: usize,
    /// The hash of a name under a seed: the caller's hashes are made with [`L3::seed`].
    pub hash: fn(u64, &[u8]) -> u64,
    /// What the entries are of, as a number: those of another are not believed.
    pub identity: u64,
    /// Milliseconds of the Unix clock at 0 µs of the process's.
    pub unix_offset_ms: u64,
    /// `None`: not known.
    pub boot: Option<Boot>,
}

/// When what was written is made to survive a loss of power.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sync {
    Never,
    /// Each segment when it is full, and what was written after so many microseconds.
    Interval(u64),
    /// Each segment when it is full.
    EachSegment,
}

/// What is done about damage that is found at the start.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Recovery {
    /// Nothing is repaired; the store stays off and the files stay as they are.
    Strict,
    /// What a crash does to the end of the last segment is cut off. Of other damage nobody knows which tombstones it took:
    /// what is older is dropped with it.
    TolerateTornTail,
    /// All records whose checksums fit are kept, those beyond damage and older ones, too. A voided value may be among them.
    Salvage,
}

/// Totals. Counters count since the start.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub struct Stats {
    pub entries: usize,
    pub segments: usize,
    pub file_bytes: u64,
    pub index_bytes: usize,
    /// What remembers which keys were asked for, for admission.
    pub sketch_bytes: usize,
    pub queued_bytes: usize,
    pub counts: Counts,
}

/// How the store does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    Working,
    /// It still reads what an earlier life left; nothing of that is shown yet.
    Recovering,
    /// The medium refused something and has not worked since.
    Trouble,
    /// Strict recovery found damage.
    Off,
}

impl State {
    pub const ALL: [State; 4] = [State::Working, State::Recovering, State::Trouble, State::Off];

    pub fn name(self) -> &'static str {
        match self {
            State::Working => "working",
            State::Recovering => "recovering",
            State::Trouble => "trouble",
            State::Off => "off",
        }
    }
}

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// What happened since the start.
        #[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
        pub struct Counts { $($(#[$doc])* pub $name: u64,)* }

        #[derive(Default)]
        pub(crate) struct Counters { $($name: AtomicU64,)* }

        impl Counters {
            fn read(&self) -> Counts {
                Counts { $($name: self.$name.load(Relaxed),)* }
            }
        }
    };
}

counters! {
    hits,
    misses,
    /// Entries and their bytes that were written, tombstones left aside.
    writes,
    write_bytes,
    /// All bytes, with tombstones, headers, footers and what was reinserted.
    medium_bytes,
    /// Values that were compressed, and those that would not have become smaller by an eighth.
    compressed_zstd,
    compressed_lz4,
    compressed_not,
    /// Bytes of all these before and after, and the time that it took.
    compress_from_bytes,
    compress_to_bytes,
    compress_ns,
    /// Entries that were on the disk as they are.
    kept,
    /// Evicted entries that were not asked for often enough.
    refused_admission,
    refused_too_large,
    dropped_queue_full,
    dropped_rate,
    /// The medium took nothing at that time.
    dropped_trouble,
    /// Voided between eviction and publication.
    overtaken,
    voids,
    tombstones,
    expirations,
    reclaimed_segments,
    reinserted,
    reinserted_bytes,
    /// Reads that were not tried because too many waited.
    reads_shed,
    /// Reads that another one of the same record answered.
    reads_joined,
    /// Lookups for which nobody had to wait: the system had the record in memory.
    reads_at_once,
    corrupt_records,
    read_errors,
    write_errors,
    retired_segments,
    repairs,
}

/// What all threads share.
pub(crate) struct Store {
    config: Config,
    storage: Box<dyn Storage>,
    seed: u64,
    probe: u64,
    index: Index,
    segments: Segments,
    sketch: Sketch,
    marks: Marks,
    /// Held while a segment is begun.
    keys: RwLock<Arc<KeyRing>>,
    queue: Queue,
    debts: Debts,
    vouched: Mutex<Vouched>,
    /// By how much the store's clock is ahead of the machine's, which was set back.
    ahead_ms: AtomicU64,
    counters: Counters,
    /// What was in the index when everything was voided; the writer counts it.
    forgotten: SegQueue<Part>,
    /// The medium can tell what needs no wait, as far as is known.
    has_memory: AtomicBool,
    is_recovering: AtomicBool,
    is_off: AtomicBool,
    is_closing: AtomicBool,
    is_being_checked: AtomicBool,
    /// What could not be made durable, for the writer.
    unsynced: SegQueue<(String, io::Error)>,
    /// How many have it shut.
    shut: AtomicUsize,
    /// Names that were voided while rows were still being read. `None`: all are read. Outer to the parts of the index.
    voided: Mutex<Option<Voided>>,
    trouble: Mutex<Option<String>>,
    repairs: Mutex<Vec<Repair>>,
    wake: Unparker,
    /// Ends with the store.
    _lock: Box<dyn Send + std::marker::Sync>,
}

#[derive(Default)]
struct Voided {
    names: HashSet<u64>,
    is_all: bool,
}

/// Names that are remembered while the store recovers; beyond that nothing of an earlier life is believed.
const MOST_VOIDED: usize = 1 << 20;

/// Spills that wait: the writer is woken for so many bytes, and comes by itself for less.
const WAKE_BYTES: usize = 256 << 10;

/// See [`L3::shut`].
pub struct Shut<'a>(&'a Store);

impl Drop for Shut<'_> {
    fn drop(&mut self) {
        self.0.void_all();
        self.0.shut.fetch_sub(1, SeqCst);
    }
}

pub struct L3 {
    store: Arc<Store>,
    reads: Reads,
    writer: Mutex<Option<std::thread::JoinHandle<()>>>,
}

impl L3 {
    /// Opens the store and starts its threads. It answers at once; what an earlier life left is read meanwhile.
    ///
    /// # Errors
    /// In use, of another version, or not accessible at all.
    pub fn open(config: Config, storage: Box<dyn Storage>) -> Result<L3, OpenError> {
        let parker = Parker::new();
        let (store, found) = recovery::open(config, storage, parker.unparker().clone())?;
        let store = Arc::new(store);
        let syncer = Syncer::start(&store)?;
        let thread = {
            let store = Arc::clone(&store);
            std::thread::Builder::new()
                .name("l3-writer".to_owned())
                .spawn(move || writer::run(&store, found, syncer, &parker))
                .map_err(|error| OpenError::Io("the writer's thread does not start".to_owned(), error))?
        };
        let reads = Reads::start(&store)?;
        Ok(L3 {
            store,
            reads,
            writer: Mutex::new(Some(thread)),
        })
    }

    /// Opens the store without threads: whatever they would do is done by the caller, step by step, with the time in his hands.
    ///
    /// # Errors
    /// As [`L3::open`].
    pub fn open_by_hand(config: Config, storage: Box<dyn Storage>, now_us: u64) -> Result<(L3, Hand), OpenError> {
        let (store, found) = recovery::open(config, storage, Parker::new().unparker().clone())?;
        let store = Arc::new(store);
        let (reads, queue) = Reads::queue(&store);
        let hand = Hand::new(&store, found, queue, now_us);
        let writer = Mutex::new(None);
        Ok((L3 { store, reads, writer }, hand))
    }

    /// By which the names on the disk are hashed: [`Query::hash`] and all other hashes given to this store must be, too.
    pub fn seed(&self) -> u64 {
        self.store.seed
    }

    /// Whether anything that happened since voided the name; `tag` is the low half of its hash.
    #[inline]
    pub fn mark(&self, tag: u32) -> Mark {
        self.store.marks.of(tag)
    }

    /// Takes an entry that L1 evicted. It is dropped if it is not worth a write or does not fit into the queue.
    pub fn spill(&self, spill: Spill) {
        self.store.spill(spill);
    }

    /// L1 had no use for the name; counted for admission, whether or not anybody looks here.
    pub fn missed(&self, hash: u64) {
        self.store.sketch.count(hash);
    }

    /// Looks for an entry that will do by its origin and by the bytes that it takes, which are known about. False: it is surely
    /// not here, and `done` is not called. Otherwise `done` is called once, with the entry or without: before this returns,
    /// if the system has the record in memory, or later on another thread.
    pub fn lookup(
        &self,
        q: &Query<'_>,
        now_us: u64,
        will_do: impl Fn(Origin, usize) -> bool,
        done: impl FnOnce(Option<Found>) + Send + 'static,
    ) -> bool {
        self.reads.lookup(&self.store, q, now_us, will_do, done)
    }

    /// Whether there may be an entry whose origin will do, by memory alone.
    pub fn may_have(&self, q: &Query<'_>, will_do: impl Fn(Origin) -> bool) -> bool {
        let Ok(db) = u16::try_from(q.db) else { return false };
        let identity = format::identity_tag(db, q.variant);
        let row = self.store.index.part(q.hash).peek(q.hash, identity);
        row.is_some_and(|row| will_do(row.origin()))
    }

    /// The name changed, or somebody was shown what is not on the disk. To be called in the critical section in which L1 is
    /// told: what is between here and L1, either way, is decided there by its mark. Returns how many entries went.
    pub fn void(&self, hash: u64) -> usize {
        self.store.void(hash)
    }

    /// Everything may have changed.
    pub fn void_all(&self) {
        self.store.void_all();
    }

    /// Voids everything, and until the returned value is dropped takes nothing and gives nothing: for as long as L1 is
    /// emptied part by part.
    pub fn shut(&self) -> Shut<'_> {
        self.store.shut.fetch_add(1, SeqCst);
        self.store.void_all();
        Shut(&self.store)
    }

    /// From now on new segments are written with the newest of these keys.
    ///
    /// # Errors
    /// A key is missing that a segment is encrypted with, which no later start could read; or the medium hangs. Nothing was
    /// changed.
    pub fn set_keys(&self, keys: KeyRing) -> Result<(), KeysRefused> {
        self.store.set_keys(keys)
    }

    /// The keys, the one for new segments last, each with the number of segments that are encrypted with it; `None`: those
    /// that are not encrypted.
    pub fn key_segments(&self) -> Vec<(Option<KeyId>, usize)> {
        self.store.key_segments()
    }

    pub fn stats(&self) -> Stats {
        self.store.stats()
    }

    pub fn state(&self) -> State {
        if self.store.is_off.load(Relaxed) {
            State::Off
        } else if self.store.is_recovering.load(Relaxed) {
            State::Recovering
        } else if self.store.trouble.lock().is_some() {
            State::Trouble
        } else {
            State::Working
        }
    }

    /// What is there under a name, for an operator.
    pub fn explain(&self, hash: u64) -> Vec<Kept> {
        self.store.explain(hash)
    }

    /// The last error of the medium; `None`: there was none since it last worked.
    pub fn trouble(&self) -> Option<String> {
        self.store.trouble.lock().clone()
    }

    /// What recovery repaired, the first hundred.
    pub fn repairs(&self) -> Vec<Repair> {
        self.store.repairs.lock().clone()
    }
}

impl Store {
    fn spill(&self, spill: Spill) {
        let counters = &self.counters;
        if self.is_off.load(Relaxed) || self.is_closing.load(Relaxed) || self.shut.load(SeqCst) > 0 {
            return;
        }
        let identity = format::identity_tag(spill.db, spill.variant());
        let there = self.index.part(spill.hash).peek(spill.hash, identity);
        match there {
            // Nothing voided it since it was written, so it is the same value: it came from here, or was spilled before.
            Some(row) if row.origin() == spill.origin || row.origin() == Origin::EarlierLife => {
                counters.kept.fetch_add(1, Relaxed);
                return;
            }
            // Another value: whoever brought it to L1 did not say so. Neither is believed.
            Some(_) => {
                counters.overtaken.fetch_add(1, Relaxed);
                self.void(spill.hash);
                return;
            }
            // It was here in an earlier life, and went. How old it is nobody knows any more.
            None if spill.filled_us == 0 => return,
            None => {}
        }
        if !self.sketch.admits(spill.hash) {
            counters.refused_admission.fetch_add(1, Relaxed);
            return;
        }
        let length = format::RECORD_HEAD_BYTES + spill.name().len() + spill.variant().len() + spill.value().len();
        // As long as it is shown, whatever L1 has made of it.
        let value_bytes = codec::shown_bytes(spill.codec, spill.value()).unwrap_or(usize::MAX);
        if value_bytes > self.config.max_value_bytes || length as u64 > self.config.segment_bytes / 4 {
            counters.refused_too_large.fetch_add(1, Relaxed);
            return;
        }
        match self.queue.push(spill) {
            Some(queued) if queued >= WAKE_BYTES => self.wake.unpark(),
            Some(_) => {}
            None => {
                counters.dropped_queue_full.fetch_add(1, Relaxed);
            }
        }
    }

    fn void(&self, hash: u64) -> usize {
        let mut is_due = false;
        if self.is_recovering.load(SeqCst)
            && let Some(voided) = &mut *self.voided.lock()
        {
            // What is on the disk is not known yet.
            is_due = true;
            if voided.names.len() < MOST_VOIDED {
                voided.names.insert(hash);
            } else {
                voided.is_all = true;
            }
        }
        let (mut is_last, mut has_room) = (false, true);
        let gone = {
            let mut part = self.index.part(hash);
            // Together with the rows: whoever publishes a copy has put its row here already, or sees the mark changed; and who
            // looks for one and finds it took the mark that was before.
            is_due |= self.marks.void(hash as u32);
            let gone = part.remove(hash, |_| true, |place| is_last |= self.segments.died(place.slot));
            if gone > 0 || is_due {
                has_room = self.queue.push_tombstone(hash);
                self.debts.add(hash);
            }
            gone
        };
        if gone > 0 {
            self.counters.voids.fetch_add(gone as u64, Relaxed);
        }
        if !has_room {
            self.void_all();
        }
        if is_last {
            self.wake.unpark();
        }
        gone
    }

    fn void_all(&self) {
        self.marks.void_all();
        if let Some(voided) = &mut *self.voided.lock() {
            voided.is_all = true;
        }
        self.forget_all();
        self.queue.push_all();
        self.debts.add_all();
        self.wake.unpark();
    }

    /// Empties the index; the writer does the rest.
    fn forget_all(&self) {
        // Those in which nothing was are many when one flush follows another, and would keep the writer busy.
        for part in self.index.clear().into_iter().filter(|part| part.rows() > 0) {
            self.counters.voids.fetch_add(part.rows() as u64, Relaxed);
            self.forgotten.push(part);
        }
    }

    fn stats(&self) -> Stats {
        let all = self.segments.all();
        Stats {
            entries: self.index.len(),
            segments: all.len(),
            file_bytes: all.iter().map(|segment| segment.bytes.load(Relaxed)).sum(),
            index_bytes: self.index.bytes(),
            sketch_bytes: self.sketch.bytes(),
            queued_bytes: self.queue.queued_bytes(),
            counts: self.counters.read(),
        }
    }

    /// Something went wrong: for the log, once until it works again, and for whoever asks.
    fn alarm(&self, text: String) {
        let mut trouble = self.trouble.lock();
        if trouble.is_none() {
            tracing::error!(place = self.storage.place(), "L3: {text}");
        }
        *trouble = Some(text);
    }

    fn all_clear(&self) {
        if self.trouble.lock().take().is_some() {
            tracing::info!(place = self.storage.place(), "L3: the medium works again");
        }
    }

    fn unix_ms(&self, us: u64) -> u64 {
        self.offset_ms().saturating_add(us / 1000)
    }

    /// The store's clock at 0 µs of the process's.
    fn offset_ms(&self) -> u64 {
        self.config.unix_offset_ms.saturating_add(self.ahead_ms.load(Relaxed))
    }
}

#[cfg(test)]
mod tests;
