//! Several replies that are shown together: from L1, and from what was found below for those that L1 does not have.
//!
//! They are shown only if all of them existed at one moment, which is decided with the locks of all their shards held.

use parking_lot::MutexGuard;

use super::budget::MAX_SHARDS;
use super::entry::{Identity, NIL};
use super::rules::{Hit, Snapshot};
use super::shard::Shard;
use super::{Asker, Consistency, L1, Query, View, ViewValue, Which};
use crate::cache::l3::{Found, Origin};
use crate::cache::link::LinkId;

/// What was found below for some of the replies that are asked for, by the position of each.
#[derive(Clone, Copy, Debug)]
pub struct FoundBelow<'a> {
    pub found: &'a [Option<Found>],
    /// When all of it was asked for.
    pub asked_us: u64,
}

impl FoundBelow<'_> {
    const NOTHING: FoundBelow<'static> = FoundBelow {
        found: &[],
        asked_us: 0,
    };

    fn at(&self, i: usize) -> Option<&Found> {
        self.found.get(i)?.as_ref()
    }
}

impl<F> L1<F> {
    /// Several replies that existed together, or nothing. `a.own` is about all keys. `each` is called in the order of `qs`,
    /// only if all are hits and a snapshot, and under the locks.
    pub fn peek_many(&self, qs: &[Query<'_>], a: &Asker, which: Which, each: impl FnMut(usize, View<'_>)) -> bool {
        self.peek_all(qs, FoundBelow::NOTHING, a, which, each).is_some()
    }

    /// The same with what was found below in the place of what L1 does not have. That is kept, as far as somebody vouches for it.
    /// Returns how many were shown from there.
    pub fn peek_together(
        &self,
        qs: &[Query<'_>],
        below: FoundBelow<'_>,
        a: &Asker,
        which: Which,
        each: impl FnMut(usize, View<'_>),
    ) -> Option<usize> {
        let used = self.peek_all(qs, below, a, which, each)?;
        if used > 0 && !a.takes_stale {
            let mut packed_bytes = 0;
            for (i, q) in qs.iter().enumerate() {
                // What there is no time for stays on the disk.
                if let (Some(found), Some(of)) = (below.at(i), Identity::of(q))
                    && self.packing.has_time_for(found.value.len(), &mut packed_bytes)
                {
                    self.keep_found(of, found, a);
                }
            }
        }
        Some(used)
    }

    /// Which of these are no hits.
    pub fn missing(&self, qs: &[Query<'_>], a: &Asker, which: Which) -> Vec<usize> {
        let is_missing = |q: &Query<'_>| {
            let Some(of) = Identity::of(q) else { return true };
            let mut shard = self.shard(q.hash);
            let hit = match which {
                Which::This => shard.hit(of, a, &self.rules),
                Which::Any => shard.hit_any(of, a, &self.rules),
            };
            hit.is_none()
        };
        (0..).zip(qs).filter(|(_, q)| is_missing(q)).map(|(i, _)| i).collect()
    }

    fn peek_all(
        &self,
        qs: &[Query<'_>],
        below: FoundBelow<'_>,
        a: &Asker,
        which: Which,
        mut each: impl FnMut(usize, View<'_>),
    ) -> Option<usize> {
        // Held together, so that all entries stand at one moment; locked by number, so that nobody waits in a circle.
        let mut guards: [Option<MutexGuard<'_, Shard<F>>>; MAX_SHARDS] = [const { None }; MAX_SHARDS];
        let wanted = qs.iter().fold(0u64, |bits, q| bits | 1 << self.shard_of(q.hash));
        for number in (0..self.shards.len()).filter(|number| wanted >> number & 1 != 0) {
            guards[number] = Some(self.shards[number].lock());
        }
        let mut few = [Hit::NONE; 64];
        let mut many = Vec::new();
        let hits = match few.get_mut(..qs.len()) {
            Some(few) => few,
            None => {
                many.resize(qs.len(), Hit::NONE);
                &mut many[..]
            }
        };
        let mut snapshot = Snapshot::new(&self.rules.links);
        let mut used = 0;
        for (i, (q, place)) in qs.iter().zip(hits.iter_mut()).enumerate() {
            let of = Identity::of(q)?;
            let shard = guards[self.shard_of(q.hash)].as_mut()?;
            let hit = match which {
                Which::This => shard.hit(of, a, &self.rules),
                Which::Any => shard.hit_any(of, a, &self.rules),
            };
            match hit {
                Some(hit) => {
                    snapshot.add(shard.slot(hit.at), hit.answered_us);
                    *place = hit;
                }
                None => {
                    let found = below.at(i)?;
                    self.add_found(&mut snapshot, found, below.asked_us, a)?;
                    used += 1;
                }
            }
        }
        if self.rules.config.consistency == Consistency::Coherent && !snapshot.holds() {
            return None;
        }
        for (i, (q, &hit)) in qs.iter().zip(hits.iter()).enumerate() {
            match (guards[self.shard_of(q.hash)].as_mut(), below.at(i)) {
                (_, Some(found)) if hit.at == NIL => each(i, self.view_of(found, a)),
                (Some(shard), _) => each(i, shard.touch(hit)),
                (None, _) => {}
            }
        }
        Some(used)
    }

    /// `None`: it may not be shown now.
    fn add_found(&self, snapshot: &mut Snapshot, found: &Found, asked_us: u64, a: &Asker) -> Option<()> {
        let (filler, answered_us, inserted_us) = if !a.takes_stale {
            let (filler, answered_us) = self.vouched_below(found, a.floor_us, (a.link, 0), a.now_us)?;
            (filler, answered_us as i64, found.filled_us as i64)
        } else {
            if !self.stale_below(found, a.floor_us, a.now_us) {
                return None;
            }
            match found.origin {
                Origin::ThisLife { link, epoch } => {
                    let now_in = self.rules.links.epoch(link);
                    let vouched_us = self.rules.last_vouched_us((link, epoch), now_in);
                    ((link, epoch), vouched_us as i64, found.filled_us as i64)
                }
                Origin::EarlierLife => {
                    // Of whole milliseconds, as the times on the disk are.
                    let before = |us: u64| (asked_us / 1000 * 1000) as i64 - us as i64;
                    ((LinkId::PINNED, 0), before(found.unvouched_us), before(found.age_us))
                }
            }
        };
        snapshot.add_copy(filler, answered_us, inserted_us);
        Some(())
    }

    fn view_of<'a>(&self, found: &'a Found, a: &Asker) -> View<'a> {
        View {
            value: match found.is_absent {
                true => ViewValue::Absent(&found.value),
                false if self.is_kept_by_reference(&found.value) => ViewValue::Large(&found.value),
                false => ViewValue::Small(&found.value),
            },
            is_plain: found.is_plain,
            is_stale: a.takes_stale,
            expiry: self.lifetime_of(found).expiry,
            link: match found.origin {
                Origin::ThisLife { link, .. } => link,
                Origin::EarlierLife => LinkId::PINNED,
            },
            inserted_us: found.filled_us,
        }
    }
}
