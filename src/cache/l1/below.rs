//! What L1 has to do with the tier below it: evicted entries go there, come back under a lease, and are voided there in the
//! critical section in which they are voided here.
//!
//! Because of that last rule a mark that is taken in a critical section of a name's shard is of the state of both: whatever voids
//! the name afterwards changes it, whatever did before has taken the entry away.

use std::sync::Arc;

use super::entry::{Body, END_OF_TIME_MS, Identity, Slot, is_joint};
use super::expiry::{Lifetime, is_over};
use super::shard::{New, Shard};
use super::{Asker, Consistency, Expiry, L1, LeaseId, Query, ViewValue};
use crate::cache::l3::{Found, KeyEnd, L3, Mark, Origin, Spill};
use crate::cache::link::LinkId;
use crate::cache::name::name_hash;

/// What will do for a read that L1 cannot answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Wanting {
    /// What would be a hit.
    Vouched,
    /// What may be shown while the upstream cannot be asked.
    Stale,
}

impl<F> L1<F> {
    pub fn l3(&self) -> Option<&Arc<L3>> {
        self.rules.l3.as_ref()
    }

    /// A read was leased: looks below for what it asks for. False: it is surely not there, and `done` is not called.
    ///
    /// What nobody vouches for is looked for as well if it takes at least the bytes that `asks_from` tells: whoever asks can ask
    /// the server about it. `asks_from` is called only where there is such a copy.
    #[inline]
    pub fn look_below(
        &self,
        q: &Query<'_>,
        now_us: u64,
        asks_from: impl Fn() -> Option<usize>,
        done: impl FnOnce(Option<Found>) + Send + 'static,
    ) -> bool {
        let Some(l3) = &self.rules.l3 else { return false };
        l3.missed(q.hash);
        let will_do = |origin, bytes| self.will_do(origin) || asks_from().is_some_and(|least| bytes >= least);
        l3.lookup(q, now_us, will_do, done)
    }

    /// Whether what was found below for a lease, and may not be shown as it is, may be shown if the server has the same: nothing
    /// has happened to the name since it was found, and the lease can still keep it.
    pub fn may_be_same(&self, lease: LeaseId, found: &Found, now_us: u64) -> bool {
        let shard = self.shard_numbered(lease.shard);
        let stands = shard
            .leases
            .get(lease)
            .is_some_and(|lease| lease.stands(&self.rules.links));
        let is_over = is_over(self.lifetime_of(found).deadline_ms, now_us);
        stands && !found.is_absent && !is_over && self.is_unvoided(found)
    }

    /// What is below of a name is wrong.
    pub fn drop_below(&self, hash: u64) {
        let _shard = self.shard(hash);
        self.void_below(hash);
    }

    /// What L1 had to forward, of a read of several keys: counted for what is worth a place below. Whether there may be a copy
    /// of each below that would do.
    pub fn are_below<'a>(&self, mut missing: impl Iterator<Item = Query<'a>>, wanting: Wanting) -> bool {
        let Some(l3) = &self.rules.l3 else { return false };
        if wanting == Wanting::Stale {
            return missing.all(|q| l3.may_have(&q, |_| true));
        }
        let mut may_all = true;
        for q in missing {
            l3.missed(q.hash);
            may_all = may_all && l3.may_have(&q, |origin| self.will_do(origin));
        }
        may_all
    }

    /// Looks below. False: it is surely not there, and `done` is not called.
    pub fn look_for(
        &self,
        q: &Query<'_>,
        wanting: Wanting,
        now_us: u64,
        done: impl FnOnce(Option<Found>) + Send + 'static,
    ) -> bool {
        let Some(l3) = &self.rules.l3 else { return false };
        match wanting {
            Wanting::Vouched => l3.lookup(q, now_us, |origin, _| self.will_do(origin), done),
            Wanting::Stale => l3.lookup(q, now_us, |_, _| true, done),
        }
    }

    /// What nobody may be shown is not worth a read of the medium.
    fn will_do(&self, origin: Origin) -> bool {
        match (self.rules.config.consistency, origin) {
            (Consistency::Eventual, _) => true,
            (Consistency::Coherent, Origin::EarlierLife) => false,
            (Consistency::Coherent, Origin::ThisLife { link, epoch }) => self.rules.links.epoch(link) == epoch,
        }
    }

    /// What was found below for a lease. If it may be shown, by the rules of a hit and at this moment, it is inserted as what its
    /// filler brought, the lease ends and its followers are returned. Otherwise nothing has changed, and the read is to be sent.
    pub fn promote(&self, lease: LeaseId, found: &Found, now_us: u64) -> Option<Vec<F>> {
        let body = self.body_of(found);
        let mut shard = self.shard_numbered(lease.shard);
        let standing = shard
            .leases
            .get(lease)
            .filter(|lease| lease.stands(&self.rules.links))?;
        let by = (standing.link, standing.epoch);
        let (filler, _) = self.vouched_below(found, standing.floor_us, by, now_us)?;
        let lease = shard.leases.end(lease)?;
        let lifetime = self.lifetime_of(found);
        shard.insert(New::of(lease.identity(), filler, body, found.is_plain, &lifetime));
        let evicted = self.marked(&mut shard);
        drop(shard);
        self.spill(evicted);
        Some(lease.followers)
    }

    /// The filler of what was found below and what it vouches with, if that may be shown at this moment by the rules of a hit.
    /// `by` stands for the filler where nobody vouches. To be called in a critical section of the name's shard.
    pub(super) fn vouched_below(
        &self,
        found: &Found,
        floor_us: u64,
        by: (LinkId, u32),
        now_us: u64,
    ) -> Option<((LinkId, u32), u64)> {
        let is_over = is_over(self.lifetime_of(found).deadline_ms, now_us);
        if is_over || !self.is_unvoided(found) {
            return None;
        }
        match (self.rules.config.consistency, found.origin) {
            (Consistency::Coherent, Origin::ThisLife { link, epoch }) => {
                let vouched = self.rules.links.vouched(link);
                let is_true =
                    vouched.epoch == epoch && vouched.fresh_until_us > now_us && vouched.answered_us > floor_us;
                is_true.then_some(((link, epoch), vouched.answered_us))
            }
            // Nobody has watched it.
            (Consistency::Coherent, Origin::EarlierLife) => None,
            (Consistency::Eventual, Origin::ThisLife { link, epoch }) => Some(((link, epoch), 0)),
            (Consistency::Eventual, Origin::EarlierLife) => Some((by, 0)),
        }
    }

    /// Keeps what was found below and has just been shown, unless something has happened to the name or L1 has it again.
    pub(super) fn keep_found(&self, of: Identity<'_>, found: &Found, a: &Asker) {
        let body = self.body_of(found);
        let mut shard = self.shard(of.hash);
        let by = (a.link, self.rules.links.epoch(a.link));
        if shard.find(of).is_none()
            && let Some((filler, _)) = self.vouched_below(found, a.floor_us, by, a.now_us)
        {
            let lifetime = self.lifetime_of(found);
            shard.insert(New::of(of, filler, body, found.is_plain, &lifetime));
        }
        let evicted = self.marked(&mut shard);
        drop(shard);
        self.spill(evicted);
    }

    /// A value of its own, as what was read has more in it; and made before a lock is taken.
    fn body_of<'a>(&self, found: &'a Found) -> Body<'a> {
        match found.is_absent {
            true => Body::Absent(&found.value),
            false => self.body_of_bytes(&found.value),
        }
    }

    /// Whatever voids a name changes its mark.
    fn is_unvoided(&self, found: &Found) -> bool {
        let l3 = self.rules.l3.as_ref();
        l3.is_some_and(|l3| l3.mark(found.hash as u32) == found.mark)
    }

    /// Whether what was found below may be shown as stale, by the rules of a stale hit and at this moment, to somebody who takes such
    /// entries and has seen what is as new as `floor_us`.
    pub fn may_be_stale(&self, found: &Found, floor_us: u64, now_us: u64) -> bool {
        let _shard = self.shard(found.hash);
        self.stale_below(found, floor_us, now_us)
    }

    /// The same within a critical section of the name's shard.
    pub(super) fn stale_below(&self, found: &Found, floor_us: u64, now_us: u64) -> bool {
        let Some(most_us) = self.rules.config.max_stale_us else {
            return false;
        };
        let is_over = is_over(self.lifetime_of(found).deadline_ms, now_us);
        if is_over || !self.is_unvoided(found) {
            return false;
        }
        let is_by_age = self.rules.is_by_age();
        match found.origin {
            // Whoever asks has seen to it that the upstream has not been away for too long.
            Origin::ThisLife { .. } if is_by_age => true,
            Origin::ThisLife { link, epoch } => {
                let now_in = self.rules.links.epoch(link);
                let vouched_us = self.rules.last_vouched_us((link, epoch), now_in);
                vouched_us > floor_us && now_us.saturating_sub(vouched_us) < most_us
            }
            // Whatever he has seen is newer.
            Origin::EarlierLife => {
                let waited_us = now_us.saturating_sub(found.asked_us);
                (floor_us == 0 || is_by_age) && found.unvouched_us.saturating_add(waited_us) < most_us
            }
        }
    }

    /// For how much longer an entry of this origin may be shown as stale, its own end aside; for people. `None`: it may not, or
    /// that is not known of it.
    pub fn stale_below_for_us(&self, origin: Origin, now_us: u64) -> Option<u64> {
        let Origin::ThisLife { link, epoch } = origin else {
            return None;
        };
        let now_in = self.rules.links.epoch(link);
        let vouched_us = self.rules.last_vouched_us((link, epoch), now_in);
        let until_us = vouched_us.saturating_add(self.rules.config.max_stale_us?);
        (vouched_us > 0 && until_us > now_us).then(|| until_us - now_us)
    }

    pub(super) fn lifetime_of(&self, found: &Found) -> Lifetime {
        let config = &self.rules.config;
        let mut deadline_ms = found.expires_us.map_or(END_OF_TIME_MS, |us| us / 1000);
        if found.origin == Origin::EarlierLife {
            // By what is configured now, not by what was then.
            let absence_us = config.negative_ttl_us.filter(|_| found.is_absent);
            for most_us in config.max_age_us.into_iter().chain(absence_us) {
                deadline_ms = deadline_ms.min((found.asked_us + most_us).saturating_sub(found.age_us) / 1000);
            }
        }
        Lifetime {
            deadline_ms,
            inserted_ms: found.filled_us.div_ceil(1000),
            expiry: match found.key_end {
                KeyEnd::Never => Expiry::Never,
                KeyEnd::WithRecord => Expiry::At(found.expires_us.map_or(END_OF_TIME_MS, |us| us / 1000) * 1000),
                KeyEnd::Unknown => Expiry::Unknown,
            },
        }
    }

    /// Everything may have changed, and the epochs that this ends are over already.
    pub fn void_all_below(&self) {
        if let Some(l3) = &self.rules.l3 {
            l3.void_all();
        }
    }

    /// To be called in the critical section in which L1 drops the name.
    #[inline]
    pub(super) fn void_below(&self, hash: u64) -> usize {
        match &self.rules.l3 {
            Some(l3) => l3.void(hash),
            None => 0,
        }
    }

    /// What was evicted in this critical section, each with the mark of its name as long as nothing has voided that.
    #[inline]
    pub(super) fn marked(&self, shard: &mut Shard<F>) -> Vec<(Slot, Mark)> {
        match &self.rules.l3 {
            Some(l3) => self.mark_all(l3, shard.take_evicted()),
            None => Vec::new(),
        }
    }

    fn mark_all(&self, l3: &L3, evicted: Vec<Slot>) -> Vec<(Slot, Mark)> {
        let mark = |slot: Slot| {
            let mark = l3.mark(slot.tag);
            // A flush ends the epochs first and voids what is below then. So either the epoch is over, or the mark is old.
            let is_current = self.rules.config.consistency == Consistency::Eventual
                || self.rules.links.epoch(slot.stamp.link()) == slot.epoch;
            (is_current && !is_joint(slot.payload.head().variant)).then_some((slot, mark))
        };
        evicted.into_iter().filter_map(mark).collect()
    }

    /// Hands on what was evicted, outside of any critical section.
    #[inline]
    pub(super) fn spill(&self, evicted: Vec<(Slot, Mark)>) {
        if let Some(l3) = &self.rules.l3 {
            for (slot, mark) in evicted {
                l3.spill(spill_of(slot, mark));
            }
        }
    }
}

fn spill_of(slot: Slot, mark: Mark) -> Spill {
    let view = slot.view(false);
    let (is_absent, is_plain) = (matches!(view.value, ViewValue::Absent(_)), view.is_plain);
    let key_end = match view.expiry {
        Expiry::Never => KeyEnd::Never,
        Expiry::At(_) => KeyEnd::WithRecord,
        Expiry::Unknown => KeyEnd::Unknown,
    };
    let (filled_us, origin) = (
        view.inserted_us,
        Origin::ThisLife {
            link: view.link,
            epoch: slot.epoch,
        },
    );
    let deadline_us = slot.deadline_us();
    let head = slot.payload.head();
    let (hash, db) = (name_hash(head.name), head.db);
    let (name_len, variant_len) = (head.name.len(), head.variant.len());
    let codec = slot.payload.codec();
    let (block, parts, value) = slot.payload.into_parts();
    Spill {
        hash,
        db,
        name_len,
        variant_len,
        block,
        parts,
        value,
        codec,
        is_absent,
        is_plain,
        key_end,
        filled_us,
        deadline_us,
        origin,
        mark,
    }
}
