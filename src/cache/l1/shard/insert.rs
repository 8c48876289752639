//! How a reply comes into a shard, and what goes for it.

use super::*;

/// A reply that is to be stored.
pub(in crate::cache::l1) struct New<'a> {
    of: Identity<'a>,
    /// Who filled it, and in which epoch that one was.
    link: LinkId,
    epoch: u32,
    reply: Reply<'a>,
    /// Where the chain of its tag begins, or [`NIL`]. `None`: that is still to be looked up.
    chain: Option<u32>,
}

impl<'a> New<'a> {
    pub fn of(
        of: Identity<'a>,
        (link, epoch): (LinkId, u32),
        body: Body<'a>,
        is_plain: bool,
        lifetime: &'a Lifetime,
    ) -> New<'a> {
        New {
            of,
            link,
            epoch,
            reply: Reply {
                body,
                is_plain,
                lifetime,
            },
            chain: None,
        }
    }

    /// The caller knows, from the same critical section, where the chain of its tag begins, or that there is none: [`NIL`].
    pub fn into_chain(self, first: u32) -> New<'a> {
        New {
            chain: Some(first),
            ..self
        }
    }
}

/// Entries that an insert evicts at most, unless it needs the room of more.
const MOST_EVICTED: usize = 32;

impl<F> Shard<F> {
    /// Stores a reply, in place of an older one. False: it is too large.
    pub fn insert(&mut self, new: New<'_>) -> bool {
        if new.reply.body.len() > self.limits.max_value_bytes {
            self.store.counters.refused_too_large += 1;
            return false;
        }
        let tag = new.of.tag();
        let first = new.chain.unwrap_or_else(|| self.chain_of(tag));
        let earlier = match first {
            NIL => None,
            first => self.find_from(first, new.of).map(|(at, _)| at),
        };
        if let Some(at) = earlier
            && self.rewrite(at, &new)
        {
            return true;
        }
        // Beside others of its tag, not instead of the only one.
        let is_chained = first != NIL && (earlier != Some(first) || self.slot(first).chain() != NIL);
        let lifetime = new.reply.lifetime;
        let payload = Payload::new(new.of, new.reply, is_chained);
        let weight = payload.weight();
        if weight + size_of::<Slot>() > self.limits.max_entry_bytes {
            self.store.counters.refused_too_large += 1;
            return false;
        }
        let rank = earlier.map(|at| {
            let stamp = self.store.slab[at].stamp;
            self.remove(at, End::Replaced);
            (stamp.queue(), stamp.frequency())
        });
        if !self.make_room(weight) {
            self.store.counters.refused_too_large += 1;
            return false;
        }
        let (queue, frequency) = rank.unwrap_or_else(|| (self.store.queues.admit(tag, self.store.slab.occupied()), 0));
        let stamp = Stamp::new(lifetime, new.link, queue, frequency);
        if !self.link(Slot::new(payload, tag, new.epoch, stamp), weight) {
            return false;
        }
        self.store.counters.inserts += 1;
        // The index or the ghost may have grown.
        self.make_room(0);
        true
    }

    #[cold]
    fn chain_of(&self, tag: u32) -> u32 {
        self.first(tag).unwrap_or(NIL)
    }

    /// Lets the entry at `at`, which is another reply to the same read, be this one, if it fits into the same block. It stays
    /// where it is in its queue and its chain, and no room is made, as it takes none. False: nothing has changed.
    fn rewrite(&mut self, at: u32, new: &New<'_>) -> bool {
        let slot = &mut self.store.slab[at];
        let is_rewritten = slot.payload.weight() + size_of::<Slot>() <= self.limits.max_entry_bytes
            && slot.rewrite(&new.reply, new.link, new.epoch);
        self.store.counters.inserts += u64::from(is_rewritten);
        is_rewritten
    }

    /// Evicts until `weight` more bytes fit into the share. False: they cannot.
    #[inline]
    fn make_room(&mut self, weight: usize) -> bool {
        self.has_room(weight) || self.evict_for(weight)
    }

    #[inline]
    fn has_room(&self, weight: usize) -> bool {
        let growth_bytes = if weight > 0 { self.store.slab.growth_bytes() } else { 0 };
        self.used_bytes() + weight + growth_bytes <= self.limits.share_bytes
    }

    /// Where far more is in use than may be, because the share was lowered or the ghost has just grown, an insert only evicts
    /// more than it brings, so that none takes long; the next ones and [`Shard::shrink`] do the rest.
    fn evict_for(&mut self, weight: usize) -> bool {
        let payload_bytes = self.store.payload_bytes;
        let mut evicted = 0;
        while !self.has_room(weight) {
            // A slot that came free is not given back at once; where entries have no payload it is all that they have.
            let freed = payload_bytes - self.store.payload_bytes + evicted * size_of::<Slot>();
            if evicted >= MOST_EVICTED && freed >= weight {
                return true;
            }
            if self.may_give_back() {
                self.give_back_chunk();
                evicted += MOST_EVICTED;
                continue;
            }
            let Some(at) = self.store.queues.victim(&mut self.store.slab) else {
                return false;
            };
            self.remove(at, End::Evicted);
            evicted += 1;
        }
        true
    }

    /// Puts a slot, whose payload has this weight, into slab, chain and queue.
    fn link(&mut self, slot: Slot, weight: usize) -> bool {
        let (tag, data_bytes) = (slot.tag, slot.payload.data_bytes());
        let Some(at) = self.store.slab.put(slot) else {
            return false;
        };
        self.store.payload_bytes += weight;
        self.store.data_bytes += data_bytes;
        self.store.queues.push(&mut self.store.slab, at, weight);
        let slab = &self.store.slab;
        // What has no room for a next entry is the first of its tag.
        let chain = match slab[at].payload.kind().is_chained() {
            true => self.index.find(tag, |first| slab[first].tag == tag),
            false => None,
        };
        match chain {
            Some((place, first)) => {
                self.index.set(place, at);
                self.store.slab[at].set_chain(first);
                self.shorten(at);
            }
            None => self.index.put(tag, at, |first| slab[first].tag),
        }
        true
    }

    /// Drops the last of a chain that has become too long: the one that came first, written over or not.
    fn shorten(&mut self, first: u32) {
        let (mut last, mut length) = (first, 1);
        while self.slot(last).chain() != NIL {
            last = self.slot(last).chain();
            length += 1;
        }
        if length > MAX_REPLIES_A_KEY {
            self.remove(last, End::Evicted);
        }
    }
}
