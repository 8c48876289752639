//! What is owed to the files: tombstones that must be written before a client is told that its write is done, so that what it
//! has overwritten does not come back when the process is killed.
//!
//! The writer works in rounds, each of which takes what is queued when it begins and ends with a write. Whoever voids puts
//! the tombstone into the queue first and is then told the round that surely takes it: the one after the newest that has begun.
//! A later void of the same name finds nothing on the disk any more and owes the same round; so the newest round is remembered
//! for each name, by its hash, and names that share a place wait for one another.
//!
//! Nobody waits while the files are not believed at the next start anyway. That is so while the *marker* is missing: a file
//! that says that whatever was voided is in the segments. When tombstones cannot be written it is removed, which also works on a
//! full disk; once all of them are written it is made again. Where the medium lets nothing be removed either (it became
//! read-only, or hangs), clients wait for a moment and are answered all the same: a process that ends in that state leaves files
//! that a later one believes, should the medium work again by then. The log then names the directory to be removed.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst, fence};
use std::time::Duration;

use parking_lot::Mutex;

use super::format::Record;
use super::writer::{What, Writer};
use super::{L3, Store, Sync};

/// A round that has to be over before a client may be told. The default: none.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Owed(u64);

impl Owed {
    pub const NOTHING: Owed = Owed(0);

    #[inline]
    pub fn is_nothing(self) -> bool {
        self == Owed::NOTHING
    }
}

/// The file without which nothing of an earlier life is believed.
pub(super) const MARKER: &str = "complete";
/// After so long a wait the files are given up for the next start, and after twice that nobody waits any more.
const PATIENCE: Duration = Duration::from_millis(500);

type Done = Box<dyn FnOnce() + Send>;

pub(super) struct Debts {
    begun: AtomicU64,
    written: AtomicU64,
    /// The newest round that anybody was told.
    newest: AtomicU64,
    /// The same by name, and for everything.
    names: Box<[AtomicU64]>,
    all: AtomicU64,
    /// The files are not believed at the next start, so nobody waits.
    is_forgiven: AtomicBool,
    waiting: Mutex<Vec<(u64, Done)>>,
    marker: Mutex<Marker>,
    is_being_removed: AtomicBool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Marker {
    There,
    /// It should be missing, and the medium does not let it.
    Stuck,
    Missing,
    /// Everybody waits again, and it is made once all is written that was owed before.
    Due(u64),
}

const NAMES: usize = 1 << 12;

impl Debts {
    pub fn new(has_marker: bool) -> Debts {
        Debts {
            begun: AtomicU64::new(0),
            written: AtomicU64::new(0),
            newest: AtomicU64::new(0),
            names: (0..NAMES).map(|_| AtomicU64::new(0)).collect(),
            all: AtomicU64::new(0),
            is_forgiven: AtomicBool::new(!has_marker),
            waiting: Mutex::default(),
            marker: Mutex::new(if has_marker { Marker::There } else { Marker::Missing }),
            is_being_removed: AtomicBool::new(false),
        }
    }

    /// A tombstone of the name was queued, under the lock of its part.
    pub fn add(&self, hash: u64) {
        let round = self.next_round();
        self.name(hash).fetch_max(round, SeqCst);
        self.newest.fetch_max(round, SeqCst);
    }

    /// The tombstone of everything was queued.
    pub fn add_all(&self) {
        let round = self.next_round();
        self.all.fetch_max(round, SeqCst);
        self.newest.fetch_max(round, SeqCst);
    }

    fn next_round(&self) -> u64 {
        // What was queued is seen by whoever begins a round after this.
        fence(SeqCst);
        self.begun.load(SeqCst) + 1
    }

    pub fn of(&self, hash: u64) -> Owed {
        if self.is_over(self.newest.load(SeqCst)) {
            return Owed::NOTHING;
        }
        self.unless_paid(self.name(hash).load(SeqCst).max(self.all.load(SeqCst)))
    }

    fn unless_paid(&self, round: u64) -> Owed {
        match self.is_over(round) {
            true => Owed::NOTHING,
            false => Owed(round),
        }
    }

    pub fn is_paid(&self, owed: Owed) -> bool {
        self.is_over(owed.0)
    }

    fn is_over(&self, round: u64) -> bool {
        round <= self.written.load(SeqCst) || self.is_forgiven.load(SeqCst)
    }

    /// The writer begins a round: what it finds in the queue from now on is what it takes.
    pub fn begin(&self) -> u64 {
        let round = self.begun.fetch_add(1, SeqCst) + 1;
        fence(SeqCst);
        round
    }

    /// All that was queued when this round began is in the file.
    pub fn wrote(&self, round: u64) {
        self.written.store(round, SeqCst);
        self.tell();
    }

    /// Whether anybody waits.
    pub fn is_awaited(&self) -> bool {
        !self.waiting.lock().is_empty()
    }

    fn forgive(&self) {
        self.is_forgiven.store(true, SeqCst);
        self.tell();
    }

    fn tell(&self) {
        let mut waiting = self.waiting.lock();
        if waiting.is_empty() {
            return;
        }
        let done: Vec<(u64, Done)> = waiting.extract_if(.., |(round, _)| self.is_over(*round)).collect();
        drop(waiting);
        done.into_iter().for_each(|(_, done)| done());
    }

    fn name(&self, hash: u64) -> &AtomicU64 {
        &self.names[hash as usize % NAMES]
    }
}

/// What became of the tombstones that were due.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Wrote {
    /// There were none.
    Nothing,
    All,
    Refused,
}

impl L3 {
    /// What has to be written before a client is told that its write of this name is done. To be asked after the void.
    #[inline]
    pub fn owed(&self, hash: u64) -> Owed {
        self.hurry(self.store.debts.of(hash))
    }

    /// The same for a write that voided everything.
    pub fn owed_for_all(&self) -> Owed {
        let debts = &self.store.debts;
        self.hurry(debts.unless_paid(debts.all.load(SeqCst)))
    }

    #[inline]
    fn hurry(&self, owed: Owed) -> Owed {
        if !owed.is_nothing() {
            self.store.wake.unpark();
        }
        owed
    }

    #[inline]
    pub fn is_paid(&self, owed: Owed) -> bool {
        self.store.debts.is_paid(owed)
    }

    /// Calls `done` once, on this thread or another, when it is paid.
    pub fn when_paid(&self, owed: Owed, done: impl FnOnce() + Send + 'static) {
        let debts = &self.store.debts;
        debts.waiting.lock().push((owed.0, Box::new(done)));
        // It may have been written before that.
        debts.tell();
    }

    /// Somebody has waited for so long. A medium that hangs is not waited for much longer.
    pub fn is_slow(&self, waited: Duration) {
        let debts = &self.store.debts;
        if waited < PATIENCE || debts.is_forgiven.load(SeqCst) {
            return;
        }
        if waited >= 2 * PATIENCE {
            self.store.alarm(format!(
                "tombstones have not been written for {} ms",
                waited.as_millis()
            ));
            debts.forgive();
        } else if !debts.is_being_removed.swap(true, SeqCst) {
            // On a thread of its own, which may hang as well.
            let store = Arc::clone(&self.store);
            let removal = std::thread::Builder::new().name("l3-marker".to_owned());
            let begun = removal.spawn(move || {
                store.distrust();
                store.debts.is_being_removed.store(false, SeqCst);
            });
            if begun.is_err() {
                debts.is_being_removed.store(false, SeqCst);
            }
        }
    }
}

impl Writer {
    /// Writes the tombstones that are due: all that were queued when this began.
    pub fn write_owed(&mut self, now_us: u64) -> Wrote {
        let store = Arc::clone(&self.store);
        let round = store.debts.begin();
        self.take_owed();
        let is_any = self.is_all_due || !self.tombstones.is_empty();
        if !(self.append_owed(now_us) && self.flush(now_us)) {
            store.distrust();
            return Wrote::Refused;
        }
        store.debts.wrote(round);
        store.regain_trust();
        if is_any { Wrote::All } else { Wrote::Nothing }
    }

    /// Takes what is queued now.
    pub fn take_owed(&mut self) {
        let queue = &self.store.queue;
        let queued = queue.queued_tombstones();
        self.is_all_due |= queue.pop_all();
        self.tombstones.extend((0..queued).map_while(|_| queue.pop_tombstone()));
    }

    pub fn has_owed(&self) -> bool {
        self.is_all_due || !self.tombstones.is_empty() || self.store.queue.has_tombstones()
    }

    pub fn has_work(&self) -> bool {
        self.has_owed() || self.store.queue.queued_bytes() > 0
    }

    /// False: they cannot be written now.
    pub fn append_owed(&mut self, now_us: u64) -> bool {
        // Nothing else may be written before it that it must not undo.
        if self.is_all_due {
            if !self.append(&Record::tombstone_of_all(), What::TombstoneOfAll, now_us) {
                return false;
            }
            self.is_all_due = false;
        }
        while let Some(hash) = self.tombstones.pop() {
            if !self.append(&Record::tombstone(hash), What::Tombstone, now_us) {
                self.bury(hash);
                return false;
            }
        }
        true
    }
}

impl Store {
    /// Tombstones cannot be written: at the next start nothing is believed that is on the disk now, unless they are by then.
    pub(super) fn distrust(&self) {
        let debts = &self.debts;
        if let Some(mut marker) = debts.marker.try_lock() {
            *marker = match *marker {
                was @ (Marker::There | Marker::Stuck) => match self.storage.remove(MARKER) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => {
                        if was == Marker::There {
                            tracing::error!(
                                place = self.storage.place(),
                                %error,
                                "L3: the medium takes no tombstones and lets nothing be removed; if this process ends before \
                                 it works again, remove the directory before the next one starts"
                            );
                        }
                        Marker::Stuck
                    }
                    _ => Marker::Missing,
                },
                Marker::Missing | Marker::Due(_) => Marker::Missing,
            };
        }
        debts.forgive();
    }

    /// The writer has written all that it knew of. Those who come from now on wait again; what earlier ones were told without
    /// waiting is written by the next round, and behind that the marker is made.
    pub(super) fn regain_trust(&self) {
        let debts = &self.debts;
        // Whoever removes the marker may hang.
        let Some(mut marker) = debts.marker.try_lock() else {
            return;
        };
        match *marker {
            // Where it could not be removed, it is true again.
            Marker::There | Marker::Stuck | Marker::Missing if debts.is_forgiven.swap(false, SeqCst) => {
                *marker = Marker::Due(debts.next_round());
            }
            Marker::Due(round) if debts.written.load(SeqCst) >= round => match self.make_marker() {
                // Nobody has waited since, and so not all is written.
                Ok(()) if debts.is_forgiven.load(SeqCst) => {
                    *marker = match self.storage.remove(MARKER) {
                        Ok(()) => Marker::Missing,
                        Err(_) => Marker::Stuck,
                    };
                }
                Ok(()) => *marker = Marker::There,
                Err(error) => {
                    self.alarm(format!("{MARKER} could not be made: {error}"));
                    *marker = Marker::Missing;
                    debts.is_forgiven.store(true, SeqCst);
                }
            },
            _ => {}
        }
    }

    pub(super) fn make_marker(&self) -> io::Result<()> {
        match self.storage.create(MARKER) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        match self.config.sync {
            Sync::Never => Ok(()),
            Sync::Interval(_) | Sync::EachSegment => self.storage.sync_names(),
        }
    }
}
