//! One lock's worth of L1: index, slab, queues and leases.
//!
//! The index leads from a tag to the first of a chain of slots: every reply, of every command and database, to reads of a
//! name (and of the rare other name with the same tag). A void walks one chain and so reaches all of them; that it reaches
//! a stranger's now and then costs a fill.

use super::budget::Limits;
use super::entry::{Body, Identity, MAX_FREQUENCY, NIL, Payload, Queue, Reply, Slot, Stamp, tag};
use super::eviction::Queues;
use super::expiry::Lifetime;
use super::index::Index;
use super::lease::{Lease, Leases};
use super::rules::{Hit, Rules, Verdict};
use super::slab::{CHUNK, Slab};
use super::{Asker, Explained, MAX_REPLIES_A_KEY, Own, View};
use crate::cache::link::{LinkId, Links};

/// Index and slab come first: with the lock before them they fill the cache line that every hit reads.
#[repr(C)]
pub(super) struct Shard<F> {
    index: Index,
    store: Store,
    pub leases: Leases<F>,
    limits: Limits,
    /// The place at which the next sweep of this shard begins.
    cursor: u32,
    /// Who goes from place to place, in several steps, and must miss none: nothing changes its place meanwhile.
    visitors: u32,
}

/// Everything about entries but the index, which has to be borrowed beside it.
#[repr(C)]
struct Store {
    slab: Slab,
    queues: Queues,
    payload_bytes: usize,
    data_bytes: usize,
    counters: Counters,
    /// Evicted in this critical section, to be handed on behind it; stays empty where nobody takes it.
    evicted: Vec<Slot>,
    is_spilling: bool,
}

/// Since the start.
#[derive(Clone, Copy, Default)]
pub(super) struct Counters {
    pub inserts: u64,
    pub evictions: u64,
    pub expirations: u64,
    pub voids: u64,
    pub refused_too_large: u64,
    pub refused_voided: u64,
}

/// Why an entry ends.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    Evicted,
    Expired,
    /// An event said that it may be wrong, or its link is lost.
    Voided,
    /// A newer reply to the same read takes its place.
    Replaced,
}

/// What became of the entries of a tag.
struct Dropped {
    dropped: usize,
    /// Where its chain begins now, or [`NIL`].
    first: u32,
}

impl<F> Shard<F> {
    pub fn new(number: u8, limits: Limits) -> Shard<F> {
        let store = Store {
            slab: Slab::new(),
            queues: Queues::new(limits.objective),
            payload_bytes: 0,
            data_bytes: 0,
            counters: Counters::default(),
            evicted: Vec::new(),
            is_spilling: false,
        };
        Shard {
            index: Index::new(limits.share_bytes),
            store,
            leases: Leases::new(number),
            limits,
            cursor: 0,
            visitors: 0,
        }
    }

    /// The slot of a reply that may be shown to `a`, with what its filler vouched with. Drops it when it cannot be shown to
    /// anybody again.
    #[inline]
    pub fn hit(&mut self, of: Identity<'_>, a: &Asker, rules: &Rules) -> Option<Hit> {
        if a.own != Own::Clear {
            return None;
        }
        let (at, slot) = self.find(of)?;
        match rules.verdict(slot, a.now_us, a.floor_us) {
            Verdict::Live { answered_us } => Some(Hit {
                at,
                answered_us,
                is_stale: a.takes_stale && rules.is_by_age(),
            }),
            verdict => self.bury(at, a, verdict, rules),
        }
    }

    /// The same for any reply to a read of the name in that database, best the one with the empty variant. Drops nothing:
    /// slots that were found before stay what they are.
    pub fn hit_any(&self, of: Identity<'_>, a: &Asker, rules: &Rules) -> Option<Hit> {
        if a.own != Own::Clear {
            return None;
        }
        let mut found = None;
        let mut at = self.first(of.tag())?;
        loop {
            let slot = &self.store.slab[at];
            let head = slot.payload.head();
            if (found.is_none() || head.variant.is_empty())
                && head.db == of.db
                && head.name == of.name
                && let Some(hit) = Hit::of(at, a, rules.verdict(slot, a.now_us, a.floor_us), rules)
            {
                found = Some(hit);
                if head.variant.is_empty() {
                    return found;
                }
            }
            at = slot.chain();
            if at == NIL {
                return found;
            }
        }
    }

    /// Notes a hit and shows it.
    #[inline]
    pub fn touch(&mut self, hit: Hit) -> View<'_> {
        let slot = &mut self.store.slab[hit.at];
        let frequency = slot.stamp.frequency();
        if frequency < MAX_FREQUENCY {
            slot.stamp.set_frequency(frequency + 1);
        }
        slot.view(hit.is_stale)
    }

    pub fn slot(&self, at: u32) -> &Slot {
        &self.store.slab[at]
    }

    #[inline]
    pub fn find(&self, of: Identity<'_>) -> Option<(u32, &Slot)> {
        self.find_from(self.first(of.tag())?, of)
    }

    /// In the chain that begins at `at`.
    #[inline(always)]
    fn find_from(&self, mut at: u32, of: Identity<'_>) -> Option<(u32, &Slot)> {
        loop {
            let slot = &self.store.slab[at];
            if slot.payload.matches(of) {
                return Some((at, slot));
            }
            at = slot.chain();
            if at == NIL {
                return None;
            }
        }
    }

    /// A push of `link` names the key: what `link` filled is old, and so is what it has read and not yet inserted. A lease
    /// whose read is still to be answered stands, for that answer is newer. Other links hear for themselves, unless they are lost.
    pub fn push(&mut self, link: LinkId, hash: u64, links: &Links) {
        let is_lost = |slot: &Slot| links.epoch(slot.stamp.link()) != slot.epoch;
        self.void_entries(hash, |slot| slot.stamp.link() == link || is_lost(slot));
        self.void_leases(hash, |lease| lease.link == link && lease.is_got);
    }

    /// A reply of `link` is shown without coming from L1: what other links filled or fill may be older than it. So may what
    /// `link` itself has filled, or has got and not yet filled, where its pushes come by turn.
    /// Returns where the chain of its tag begins now, or [`NIL`].
    pub fn passed_by(&mut self, link: LinkId, hash: u64, links: &Links) -> u32 {
        let is_by_turn = links.is_by_turn();
        self.void_leases(hash, |lease| lease.link != link || is_by_turn && lease.is_got);
        self.void_entries(hash, |slot| is_by_turn || slot.stamp.link() != link)
            .first
    }

    /// A write on `link` is about to be acknowledged: no entry can be trusted to be as new, and no foreign lease. A lease of
    /// `link` itself stands: if its read was executed before the write, the push that follows the acknowledgement on the
    /// same stream finds it got and voids it; if after, it brings what was written.
    pub fn acked(&mut self, link: LinkId, hash: u64) {
        self.void_entries(hash, |_| true);
        self.void_leases(hash, |lease| lease.link != link);
    }

    /// Drops all of a name. Returns how many entries went.
    pub fn purge(&mut self, hash: u64) -> usize {
        self.void_leases(hash, |_| true);
        self.void_entries(hash, |_| true).dropped
    }

    /// Notes a fill that came to nothing because its lease no longer stood.
    pub fn refused_voided(&mut self) {
        self.store.counters.refused_voided += 1;
    }

    /// Looks at `count` places from the cursor on and drops what nobody can be shown again. Returns how many were looked
    /// at and how many went; none looked at: the end was reached, and the cursor is at the start again.
    pub fn sweep(&mut self, rules: &Rules, now_us: u64, count: usize) -> (usize, usize) {
        let from = self.cursor;
        let (seen, dropped) = self.visit(from, count, |slot| match rules.verdict(slot, now_us, 0) {
            Verdict::Expired => Some(End::Expired),
            Verdict::Dead => Some(End::Voided),
            Verdict::Live { .. } | Verdict::Stale { .. } | Verdict::Suspect => None,
        });
        self.cursor = if seen == 0 { 0 } else { from + seen as u32 };
        (seen, dropped)
    }

    /// Until the end of the visit no entry changes its place.
    pub fn begin_visit(&mut self) {
        self.visitors += 1;
    }

    pub fn end_visit(&mut self) {
        self.visitors -= 1;
    }

    /// Looks at `count` places from `from` on. Returns how many places there were and how many entries went.
    pub fn visit(&mut self, from: u32, count: usize, doomed: impl Fn(&Slot) -> Option<End>) -> (usize, usize) {
        let end = self
            .store
            .slab
            .places()
            .min(from.saturating_add(u32::try_from(count).unwrap_or(u32::MAX)));
        let mut dropped = 0;
        for at in from..end {
            let slot = &self.store.slab[at];
            if !slot.is_free()
                && let Some(why) = doomed(slot)
            {
                self.remove(at, why);
                dropped += 1;
            }
        }
        (end.saturating_sub(from) as usize, dropped)
    }

    pub fn explain(&self, hash: u64, now_us: u64, rules: &Rules) -> Vec<Explained> {
        let mut all: Vec<_> = self
            .leases
            .of_name(hash)
            .map(|lease| Explained::of_lease(lease, now_us, rules))
            .collect();
        let mut next = self.first(tag(hash));
        while let Some(at) = next {
            let slot = &self.store.slab[at];
            if super::name_hash(slot.payload.head().name) == hash {
                all.push(Explained::of_entry(slot, now_us, rules));
            }
            next = Some(slot.chain()).filter(|&next| next != NIL);
        }
        all
    }

    /// From now on what is evicted waits to be taken, at the end of each critical section.
    pub fn keep_evicted(&mut self) {
        self.store.is_spilling = true;
    }

    /// What was evicted since the last time.
    pub fn take_evicted(&mut self) -> Vec<Slot> {
        std::mem::take(&mut self.store.evicted)
    }

    pub fn entries(&self) -> usize {
        self.store.slab.occupied()
    }

    pub fn counters(&self) -> Counters {
        self.store.counters
    }

    /// Bytes of names, variants and values.
    pub fn data_bytes(&self) -> usize {
        self.store.data_bytes
    }

    pub fn used_bytes(&self) -> usize {
        let Store {
            slab,
            queues,
            payload_bytes,
            ..
        } = &self.store;
        payload_bytes + slab.bytes() + queues.bytes() + self.index.bytes()
    }

    /// An entry that is not live: a hit for those who take stale ones, or dropped if it can never be shown again.
    #[cold]
    fn bury(&mut self, at: u32, a: &Asker, verdict: Verdict, rules: &Rules) -> Option<Hit> {
        match verdict {
            Verdict::Live { .. } | Verdict::Stale { .. } | Verdict::Suspect => {}
            Verdict::Expired => self.remove(at, End::Expired),
            Verdict::Dead => self.remove(at, End::Voided),
        }
        Hit::of(at, a, verdict, rules)
    }

    #[inline]
    fn first(&self, tag: u32) -> Option<u32> {
        let slab = &self.store.slab;
        self.index.find(tag, |at| slab[at].tag == tag).map(|(_, at)| at)
    }

    /// From now on the shard has these limits; what is above its share goes by and by.
    pub fn set_limits(&mut self, limits: Limits) {
        self.limits = limits;
    }

    /// Evicts `count` entries at most that are above the share, and gives back room in slab, index and ghost that far fewer
    /// entries than before do not need. Returns what of `count` it took: 0 when there is nothing left to do.
    pub fn shrink(&mut self, count: usize) -> usize {
        let mut evicted = 0;
        while evicted < count && self.used_bytes() > self.limits.share_bytes && !self.may_give_back() {
            let Some(at) = self.store.queues.victim(&mut self.store.slab) else {
                break;
            };
            self.remove(at, End::Evicted);
            evicted += 1;
        }
        let mut spent = evicted;
        while spent < count && self.may_give_back() {
            self.give_back_chunk();
            spent += CHUNK;
        }
        let slab = &self.store.slab;
        self.index.shrink(|first| slab[first].tag);
        self.store.queues.shrink(self.store.slab.occupied());
        spent
    }

    fn may_give_back(&self) -> bool {
        self.visitors == 0 && self.store.slab.has_spare_chunk()
    }

    /// Moves what is in the last chunk of the slab to free places before it.
    fn give_back_chunk(&mut self) {
        for from in self.store.slab.close_last() {
            if self.store.slab[from].is_free() {
                continue;
            }
            let tag = self.store.slab[from].tag;
            // There are more free places than a chunk has.
            let Some(to) = self.store.slab.relocate(from) else {
                return;
            };
            let slab = &mut self.store.slab;
            self.store.queues.relocated(slab, to);
            // What was at `from` is no longer there.
            let is_it = |first: u32| first == from || slab[first].tag == tag;
            let Some((place, first)) = self.index.find(tag, is_it) else {
                continue;
            };
            if first == from {
                self.index.set(place, to);
                continue;
            }
            let mut at = first;
            let mut next = slab[at].chain();
            while next != from && next != NIL {
                (at, next) = (next, slab[next].chain());
            }
            slab[at].set_chain(to);
        }
        self.store.slab.give_back_last();
    }

    fn remove(&mut self, at: u32, why: End) {
        let tag = self.store.slab[at].tag;
        self.drop_from_chain(tag, why, |place, _| place == at);
    }

    fn void_entries(&mut self, hash: u64, doomed: impl Fn(&Slot) -> bool) -> Dropped {
        self.drop_from_chain(tag(hash), End::Voided, |_, slot| doomed(slot))
    }

    fn void_leases(&mut self, hash: u64, doomed: impl Fn(&Lease<F>) -> bool) {
        self.store.counters.voids += self.leases.void(hash, doomed) as u64;
    }

    fn drop_from_chain(&mut self, tag: u32, why: End, doomed: impl Fn(u32, &Slot) -> bool) -> Dropped {
        let store = &mut self.store;
        let Some((place, mut at)) = self.index.find(tag, |at| store.slab[at].tag == tag) else {
            return Dropped { dropped: 0, first: NIL };
        };
        let (mut first, mut last, mut dropped) = (NIL, NIL, 0);
        while at != NIL {
            let next = store.slab[at].chain();
            if doomed(at, &store.slab[at]) {
                store.release(at, why);
                dropped += 1;
            } else {
                match last {
                    NIL => first = at,
                    last => store.slab[last].set_chain(at),
                }
                last = at;
            }
            at = next;
        }
        match last {
            _ if dropped == 0 => {}
            NIL => self.index.remove(tag, place),
            last => {
                store.slab[last].set_chain(NIL);
                self.index.set(place, first);
            }
        }
        Dropped { dropped, first }
    }
}

impl Store {
    /// Frees a slot that its chain no longer names.
    fn release(&mut self, at: u32, why: End) {
        match why {
            End::Evicted => self.counters.evictions += 1,
            End::Expired => self.counters.expirations += 1,
            End::Voided => self.counters.voids += 1,
            End::Replaced => {}
        }
        if matches!(why, End::Expired | End::Voided) {
            self.queues.ended(&self.slab, at);
        }
        let weight = self.slab[at].payload.weight();
        self.queues.unlink(&mut self.slab, at, weight);
        let slot = self.slab.take(at);
        self.payload_bytes -= weight;
        self.data_bytes -= slot.payload.data_bytes();
        debug_assert!(slot.stamp.queue() != Queue::None);
        if self.is_spilling && why == End::Evicted {
            self.evicted.push(slot);
        }
    }
}

mod insert;
pub(super) use insert::New;
#[cfg(test)]
mod tests;
