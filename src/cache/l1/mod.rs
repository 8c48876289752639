//! L1: replies in memory, shared by all workers and locked by shard.
//!
//! An entry is the reply to one read (a *variant*: the command and its arguments) of one name in one database. Every worker
//! calls in with the time in microseconds of the process's monotonic clock (never 0); each call is one critical section of
//! one shard, short and without I/O.
//!
//! What it promises (the names of the rules are those of the functions):
//! - at most one *standing* lease for each reply, and only a standing lease inserts; what voids it voids it for good;
//! - an entry is a hit only while the link that filled it is in the epoch of the fill and answered a command that was sent
//!   less than the staleness bound ago, and before its deadline;
//! - [`L1::push`], [`L1::passed_by`] and [`L1::acked`] name a key, not a reply: all commands and all databases go;
//! - a client's own order: nobody is shown an entry while requests of his own on that key are unanswered.
//!
//! What it does not promise: that a flight ends. The caller completes or abandons each lease, on every path.

mod below;
mod budget;
mod entry;
mod eviction;
mod expiry;
mod explain;
mod index;
mod lease;
mod packed;
mod rules;
mod shard;
mod slab;
mod together;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use bytes::Bytes;
use crossbeam::utils::CachePadded;
use parking_lot::{Mutex, MutexGuard};

use super::l3::codec::Codec;
use super::l3::{Compression, L3};
use super::link::{LinkId, Links};
use super::name::name_hash;
pub use below::Wanting;
use budget::Limits;
pub(super) use budget::{malloc_bytes, size_class};
use entry::Identity;
pub use entry::JOINT;
pub use explain::{Explained, Stats};
use packed::{Later, Packing};
pub use packed::{MOST_PACKED_BYTES, Packed};
use rules::Rules;
use shard::{End, New, Shard};
pub use together::FoundBelow;

/// `F` tells the caller who waits for a flight; it is opaque here.
pub struct L1<F> {
    shards: Box<[CachePadded<Mutex<Shard<F>>>]>,
    rules: Rules,
    packing: Packing,
    /// Of all shards together, as it was set last, and what of it is left unused.
    budget_bytes: AtomicUsize,
    withheld_bytes: AtomicUsize,
    /// The shard that the sweep is in.
    sweeping: AtomicUsize,
}

/// What L1 is built with. Durations in microseconds.
#[derive(Clone, Debug)]
pub struct Config {
    /// Of all shards together, the allocator's part and the index included.
    pub budget_bytes: usize,
    /// `None`: by the budget. Rounded up to a power of two, at most 64.
    pub shards: Option<usize>,
    /// Larger values are not kept.
    pub max_value_bytes: usize,
    /// The longest that the absence of a key is believed.
    pub negative_ttl_us: Option<u64>,
    /// The longest that any reply is believed; [`Consistency::Eventual`] has nothing else to bound its staleness.
    pub max_age_us: Option<u64>,
    /// How long after its link last vouched for it an entry is kept for those who take stale ones; `None`: there are none.
    pub max_stale_us: Option<u64>,
    pub consistency: Consistency,
    pub objective: Objective,
    /// `None`: values are kept as they are.
    pub compression: Option<Compression>,
}

/// What eviction keeps low.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Objective {
    /// Misses, each counting the same: of two entries that are read as often the smaller stays longer.
    #[default]
    Requests,
    /// The bytes that misses bring: size decides nothing.
    Bytes,
}

/// What makes an entry a hit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Consistency {
    /// Its link vouches for it, and its deadline is not over.
    Coherent,
    /// Its deadline is not over.
    Eventual,
}

/// Which reply is asked for.
#[derive(Clone, Copy, Debug)]
pub struct Query<'a> {
    /// [`name_hash`] of `name`, computed once by the caller.
    pub hash: u64,
    pub db: u32,
    pub name: &'a [u8],
    /// Empty for `GET`, whose entry is the string itself; otherwise bytes that stand for command and arguments, and the
    /// entry is the RESP3 reply.
    pub variant: &'a [u8],
}

/// Who asks, and when.
#[derive(Clone, Copy, Debug)]
pub struct Asker {
    /// A clock reading not later than the moment at which a read that this call leases is sent.
    pub now_us: u64,
    /// The connection on which the asker's requests travel; [`LinkId::PINNED`] takes no lease.
    pub link: LinkId,
    pub own: Own,
    /// Only what was vouched for or read by a command sent after this time will do; 0: anything.
    pub floor_us: u64,
    /// An entry for which nobody vouches now will do, within [`Config::max_stale_us`].
    pub takes_stale: bool,
}

/// The asker's own unanswered upstream requests that touch the key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Own {
    Clear,
    /// All of them wait for this flight.
    InFlight(FlightId),
    Blocked,
}

/// Names a lease while somebody may follow it. Unique in the process.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct FlightId(u64);

/// Names a lease to the one who has to complete or abandon it. Using it again afterwards does nothing.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct LeaseId {
    id: u64,
    place: u32,
    shard: u8,
}

impl LeaseId {
    pub fn flight(self) -> FlightId {
        FlightId(self.id)
    }

    /// Unique in the process.
    pub fn number(self) -> u64 {
        self.id
    }
}

/// Whether a miss may take a lease.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Leasing {
    Allowed,
    Denied,
}

/// What becomes of a read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Decision<R> {
    /// Answered from L1.
    Hit(R),
    /// The follower was put down with a flight on `link`, whose end returns it.
    Joined { flight: FlightId, link: LinkId },
    /// The asker leads: it sends the read and `PTTL` on its own connection, in this order.
    Leased(LeaseId),
    /// To be sent as it is; the reply is [`L1::passed_by`].
    Forward,
}

/// Which replies of each name [`L1::peek_many`] may use.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Which {
    /// The one that is asked for.
    This,
    /// Any about the name in that database, as [`L1::peek_any`].
    Any,
}

/// An entry that is hit, as long as its shard is locked.
#[derive(Debug)]
pub struct View<'a> {
    pub value: ViewValue<'a>,
    /// As given to the fill: the reply has the same bytes in RESP2.
    pub is_plain: bool,
    /// Nobody vouches for it now.
    pub is_stale: bool,
    pub expiry: Expiry,
    pub link: LinkId,
    /// When it was filled, rounded up to milliseconds.
    pub inserted_us: u64,
}

#[derive(Debug)]
pub enum ViewValue<'a> {
    /// The key does not exist; the frame that says so.
    Absent(&'a [u8]),
    /// To be copied.
    Small(&'a [u8]),
    /// 2 KiB or more, to be cloned by reference.
    Large(&'a Bytes),
    /// Compressed; only [`L1::peek_kept`], [`L1::peek_any`] and those for several show it so.
    Packed { codec: Codec, bytes: &'a Bytes },
}

/// What is known of the end of the key itself, for `TTL` and its kin.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Expiry {
    /// The key has no TTL, or does not exist.
    Never,
    /// Microseconds on the process's clock, never later than the server's deadline.
    At(u64),
    /// The key has a TTL, but only the age of the copy, which ends sooner, was kept.
    Unknown,
}

/// What a leased read brought.
#[derive(Clone, Debug)]
pub struct Fill<'a> {
    pub value: Value<'a>,
    /// The reply to `PTTL` as it came: -2 goes with [`Value::Absent`], -1 (no TTL) and milliseconds with the others. Any
    /// other pair tells of two different moments and is not kept.
    pub pttl_ms: i64,
    /// Opaque here.
    pub is_plain: bool,
    /// The longest that this reply is believed, from the moment at which the read was sent.
    pub most_us: Option<u64>,
}

#[derive(Clone, Debug)]
pub enum Value<'a> {
    /// The key does not exist; the frame to answer with.
    Absent(&'a [u8]),
    Bytes(&'a [u8]),
    /// A value that owns exactly its bytes; a slice of a larger buffer would keep all of that in memory, uncounted.
    Shared(Bytes),
}

/// Entries under one name; a further one displaces the one that came first.
pub const MAX_REPLIES_A_KEY: usize = 64;

impl<F> L1<F> {
    pub fn new(config: Config, links: Arc<Links>) -> L1<F> {
        L1::over(config, links, None)
    }

    /// The same with a tier below it, which gets what is evicted and is told of all that is voided.
    pub fn over(config: Config, links: Arc<Links>, l3: Option<Arc<L3>>) -> L1<F> {
        let count = budget::shard_count(&config);
        let limits = Limits::new(&config, config.budget_bytes, count);
        let shards = (0..count)
            .map(|number| {
                let mut shard = Shard::new(number as u8, limits);
                if l3.is_some() {
                    shard.keep_evicted();
                }
                CachePadded::new(Mutex::new(shard))
            })
            .collect();
        L1 {
            shards,
            budget_bytes: AtomicUsize::new(config.budget_bytes),
            withheld_bytes: AtomicUsize::new(0),
            packing: Packing::new(config.compression),
            rules: Rules { links, config, l3 },
            sweeping: AtomicUsize::new(0),
        }
    }

    /// [`name_hash`].
    pub fn hash(name: &[u8]) -> u64 {
        name_hash(name)
    }

    /// Decides a read in one critical section: hit, else join, else lease, else forward. `follower` and `on_hit` run inside
    /// it: they must be short and not call L1.
    pub fn decide<R>(
        &self,
        q: &Query<'_>,
        a: &Asker,
        leasing: Leasing,
        follower: impl FnOnce() -> F,
        on_hit: impl FnOnce(View<'_>) -> R,
    ) -> Decision<R> {
        let Some(of) = Identity::of(q) else {
            return Decision::Forward;
        };
        let mut shard = self.shard(q.hash);
        if let Some(hit) = shard.hit(of, a, &self.rules) {
            let view = shard.touch(hit);
            let Some(later) = Later::of(&view) else {
                return Decision::Hit(on_hit(view));
            };
            drop(shard);
            return later.show(on_hit).map_or(Decision::Forward, Decision::Hit);
        }
        if let Some(lease) = shard.leases.standing(of, &self.rules.links) {
            if !self.rules.may_join(lease, a) {
                return Decision::Forward;
            }
            lease.followers.push(follower());
            lease.floor_us = lease.floor_us.max(a.floor_us);
            return Decision::Joined {
                flight: lease.flight(),
                link: lease.link,
            };
        }
        if leasing == Leasing::Denied || a.link == LinkId::PINNED {
            return Decision::Forward;
        }
        Decision::Leased(shard.leases.take(of, a, self.rules.links.epoch(a.link)))
    }

    /// A hit or nothing. `on_hit` runs under the lock, unless the value had to be unpacked first.
    pub fn peek<R>(&self, q: &Query<'_>, a: &Asker, on_hit: impl FnOnce(View<'_>) -> R) -> Option<R> {
        let of = Identity::of(q)?;
        let mut shard = self.shard(q.hash);
        let hit = shard.hit(of, a, &self.rules)?;
        let view = shard.touch(hit);
        let Some(later) = Later::of(&view) else {
            return Some(on_hit(view));
        };
        drop(shard);
        later.show(on_hit)
    }

    /// The same of the value as it is kept. `on_hit` runs under the lock.
    pub fn peek_kept<R>(&self, q: &Query<'_>, a: &Asker, on_hit: impl FnOnce(View<'_>) -> R) -> Option<R> {
        let of = Identity::of(q)?;
        let mut shard = self.shard(q.hash);
        let hit = shard.hit(of, a, &self.rules)?;
        Some(on_hit(shard.touch(hit)))
    }

    /// A hit on any reply about the name in that database, best on the one with the empty variant: whether the key exists
    /// and when it ends. `on_hit` runs under the lock.
    pub fn peek_any<R>(&self, q: &Query<'_>, a: &Asker, on_hit: impl FnOnce(View<'_>) -> R) -> Option<R> {
        let of = Identity::of(q)?;
        let mut shard = self.shard(q.hash);
        let hit = shard.hit_any(of, a, &self.rules)?;
        Some(on_hit(shard.touch(hit)))
    }

    /// A lease for one key of a read that is forwarded whole. `None` if one stands, and if an entry of `a.link` itself does:
    /// the forwarded reply, which drops what other links filled, leaves that one in place.
    pub fn lease_only(&self, q: &Query<'_>, a: &Asker) -> Option<LeaseId> {
        let of = Identity::of(q)?;
        let mut shard = self.shard(q.hash);
        if a.link == LinkId::PINNED || shard.leases.standing(of, &self.rules.links).is_some() {
            return None;
        }
        if shard
            .find(of)
            .is_some_and(|(_, slot)| self.rules.is_kept_by(slot, a.link, a.now_us))
        {
            return None;
        }
        Some(shard.leases.take(of, a, self.rules.links.epoch(a.link)))
    }

    /// The same, also where an entry stands: what several keep together has to be of one read.
    pub fn lease_anew(&self, q: &Query<'_>, a: &Asker) -> Option<LeaseId> {
        let of = Identity::of(q)?;
        let mut shard = self.shard(q.hash);
        let is_free = a.link != LinkId::PINNED && shard.leases.standing(of, &self.rules.links).is_none();
        is_free.then(|| shard.leases.take(of, a, self.rules.links.epoch(a.link)))
    }

    /// The reply to the lease's read was parsed: from now on a push of its link is newer than that reply, and voids it.
    pub fn got(&self, lease: LeaseId) {
        self.shard_numbered(lease.shard).leases.got(lease);
    }

    /// The fill has come in: its `PTTL` reply was parsed. Inserts `fill` if the lease stands, and returns the followers.
    ///
    /// `now_us` is a clock reading taken after the reply to the read came off the socket: entries of several links pass for
    /// a snapshot by the times of their inserts.
    pub fn complete(&self, lease: LeaseId, fill: Option<Fill<'_>>, now_us: u64) -> Vec<F> {
        // A large value is copied, or compressed, before the lock is taken.
        let fill = fill
            .as_ref()
            .map(|fill| (self.body(&fill.value), fill.pttl_ms, fill.most_us, fill.is_plain));
        let mut shard = self.shard_numbered(lease.shard);
        let Some(lease) = shard.leases.end(lease) else {
            return Vec::new();
        };
        // Whether or not it is inserted, this reply is shown: to what other links know of the name, through other commands or
        // from before this lease was voided, it is as new as any reply that passes by L1. The insert comes behind.
        let chain = shard.passed_by(lease.link, lease.hash, &self.rules.links);
        // A lease may have been taken on a link to the old primary after everything was voided at a switch, and the old
        // confirmation may hold for a while: nothing of that node is kept any more.
        if !lease.stands(&self.rules.links) || !self.rules.links.is_current(lease.link) {
            shard.refused_voided();
        } else if let Some((body, pttl_ms, most_us, is_plain)) = fill
            && let Some(lifetime) = expiry::lifetime(&self.rules.config, lease.sent_us, now_us, &body, pttl_ms, most_us)
        {
            let filler = (lease.link, lease.epoch);
            let new = New::of(lease.identity(), filler, body, is_plain, &lifetime);
            shard.insert(new.into_chain(chain));
        }
        // Marked before the void: what the insert evicts is no older than what this reply takes away, and goes with it.
        let evicted = self.marked(&mut shard);
        self.void_below(lease.hash);
        let followers = shard.leases.bury(lease);
        drop(shard);
        self.spill(evicted);
        followers
    }

    /// Some followers cannot wait any longer: takes them out of the flight, which goes on.
    pub fn dismiss(&self, lease: LeaseId, is_dismissed: impl Fn(&F) -> bool) -> Vec<F> {
        self.shard_numbered(lease.shard).leases.dismiss(lease, is_dismissed)
    }

    /// The fill came to nothing, by a loss or an error. Returns the followers.
    pub fn abandon(&self, lease: LeaseId) -> Vec<F> {
        let mut shard = self.shard_numbered(lease.shard);
        match shard.leases.end(lease) {
            Some(ended) => shard.leases.bury(ended),
            None => Vec::new(),
        }
    }

    /// A push on `link` says that the name changed. To be called before the next frame of that stream is looked at.
    pub fn push(&self, link: LinkId, hash: u64) {
        let mut shard = self.shard(hash);
        shard.push(link, hash, &self.rules.links);
        self.void_below(hash);
    }

    /// A reply to a read of the name, on `link`, is about to be shown without coming from L1.
    pub fn passed_by(&self, link: LinkId, hash: u64) {
        let mut shard = self.shard(hash);
        shard.passed_by(link, hash, &self.rules.links);
        self.void_below(hash);
    }

    /// A write of the name, on `link`, was answered. To be called before the client sees that answer.
    pub fn acked(&self, link: LinkId, hash: u64) {
        let mut shard = self.shard(hash);
        shard.acked(link, hash);
        self.void_below(hash);
    }

    /// An operator removes a name. Returns how many entries went.
    pub fn purge(&self, hash: u64) -> usize {
        let mut shard = self.shard(hash);
        let dropped = shard.purge(hash);
        dropped + self.void_below(hash)
    }

    /// An operator removes everything that is there when the call begins. Returns how many entries went.
    pub fn purge_all(&self) -> usize {
        let _gate = self.rules.l3.as_ref().map(|l3| l3.shut());
        let mut dropped = 0;
        for shard in &self.shards {
            let mut from = 0;
            loop {
                let mut shard = shard.lock();
                if from == 0 {
                    shard.leases.void_all();
                    shard.begin_visit();
                }
                let (seen, gone) = shard.visit(from, SLOTS_A_LOCK, |_| Some(End::Voided));
                dropped += gone;
                from += seen as u32;
                if seen == 0 {
                    shard.end_visit();
                    break;
                }
            }
        }
        dropped
    }

    /// Gives L1 another budget. A higher one holds at once; to a lower one the sweep brings L1 down, and until then an insert
    /// evicts more than it brings. The number of shards stays: an entry larger than a quarter of a shard's share, which is what
    /// this returns, is not kept.
    pub fn set_budget(&self, budget_bytes: usize) -> usize {
        self.budget_bytes.store(budget_bytes, Ordering::Relaxed);
        self.set_limits()
    }

    /// The allocator keeps so many bytes that it has not handed out, in pages of which others are in use: where they are many,
    /// as much of the budget is left unused.
    pub fn make_up_for(&self, unused_bytes: usize) {
        let bytes = budget::withheld_bytes(self.budget_bytes.load(Ordering::Relaxed), unused_bytes);
        if self.withheld_bytes.swap(bytes, Ordering::Relaxed) != bytes {
            self.set_limits();
        }
    }

    fn set_limits(&self) -> usize {
        let budget_bytes = self.budget_bytes.load(Ordering::Relaxed);
        let mut limits = Limits::new(&self.rules.config, budget_bytes, self.shards.len());
        let withheld_bytes = self.withheld_bytes.load(Ordering::Relaxed) / self.shards.len();
        limits.share_bytes = limits.share_bytes.saturating_sub(withheld_bytes);
        for shard in &self.shards {
            shard.lock().set_limits(limits);
        }
        limits.max_entry_bytes
    }

    /// Looks at the next `slots` places, over all shards in turn, and drops what expired or lost its epoch. Returns how many
    /// entries went. Called about ten times a second, by any thread. Also brings shards down that are above their share,
    /// by at most `slots` entries in all. No lock is held for more than 64 places; where nearly
    /// everything was hit, shrinking also moves up to 128 entries for each that goes.
    pub fn sweep(&self, now_us: u64, slots: usize) -> usize {
        self.shrink(slots);
        let (mut left, mut ends, mut dropped) = (slots, 0, 0);
        while left > 0 && ends < self.shards.len() {
            let number = self.sweeping.load(Ordering::Relaxed) % self.shards.len();
            let (seen, gone) = self.shards[number]
                .lock()
                .sweep(&self.rules, now_us, left.min(SLOTS_A_LOCK));
            left -= seen.min(left);
            dropped += gone;
            if seen == 0 {
                ends += 1;
                self.sweeping.store((number + 1) % self.shards.len(), Ordering::Relaxed);
            }
        }
        dropped
    }

    /// Evicts what is above a budget that was lowered, and gives back memory that few entries do not need.
    fn shrink(&self, most: usize) {
        let mut left = most;
        for shard in &self.shards {
            while left > 0 {
                let mut shard = shard.lock();
                let spent = shard.shrink(left.min(SLOTS_A_LOCK));
                let evicted = self.marked(&mut shard);
                drop(shard);
                self.spill(evicted);
                left = left.saturating_sub(spent);
                if spent == 0 {
                    break;
                }
            }
        }
    }

    pub fn stats(&self) -> Stats {
        let mut stats = Stats {
            shards: self.shards.len(),
            budget_bytes: self.budget_bytes.load(Ordering::Relaxed),
            withheld_bytes: self.withheld_bytes.load(Ordering::Relaxed),
            ..Stats::default()
        };
        self.shards.iter().for_each(|shard| stats.add(&shard.lock()));
        let packing = &self.packing;
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        stats.compressed_zstd = read(&packing.zstd);
        stats.compressed_lz4 = read(&packing.lz4);
        stats.compressed_not = read(&packing.not);
        stats.compress_from_bytes = read(&packing.from_bytes);
        stats.compress_to_bytes = read(&packing.to_bytes);
        stats
    }

    /// All that is known of a name, for an operator.
    pub fn explain(&self, hash: u64, now_us: u64) -> Vec<Explained> {
        self.shard(hash).explain(hash, now_us, &self.rules)
    }

    fn shard(&self, hash: u64) -> MutexGuard<'_, Shard<F>> {
        self.shards[self.shard_of(hash)].lock()
    }

    fn shard_numbered(&self, number: u8) -> MutexGuard<'_, Shard<F>> {
        self.shards[usize::from(number) & (self.shards.len() - 1)].lock()
    }

    /// By the half of the hash that a tag leaves out. The number of shards is a power of two.
    fn shard_of(&self, hash: u64) -> usize {
        (hash >> 32) as usize & (self.shards.len() - 1)
    }
}

/// Places looked at before a shard is unlocked for others: where all of them go, that takes some 15 µs.
const SLOTS_A_LOCK: usize = 64;

#[cfg(test)]
mod tests;
