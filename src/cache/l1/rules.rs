//! When a copy may be shown: the tests for a hit, for joining a flight, and for several entries as one snapshot.
//!
//! Nothing here changes anything. All of it runs under the lock of the shard that holds the copy, so that a push which was
//! applied before the link's latest answer is seen with that answer.

use std::sync::Arc;

use super::entry::{NIL, Slot};
use super::expiry::is_over;
use super::lease::Lease;
use super::{Asker, Config, Consistency, Own};
use crate::cache::l3::L3;
use crate::cache::link::{LinkId, Links, Vouched};

pub(super) struct Rules {
    pub links: Arc<Links>,
    pub config: Config,
    pub l3: Option<Arc<L3>>,
}

/// What an entry is good for, leaving aside who asks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Verdict {
    /// It may be shown. `answered_us` is what its filler vouched with.
    Live { answered_us: u64 },
    /// Nobody vouches for it now, but its filler did at this time, not too long ago for those who take stale entries.
    Stale { vouched_us: u64 },
    /// Its filler has been silent for too long: not shown, but kept, because the next answer of that link makes it true again.
    Suspect,
    /// Its deadline is over.
    Expired,
    /// Its filler lost the epoch of the fill: never to be shown again.
    Dead,
}

/// An entry that may be shown.
#[derive(Clone, Copy)]
pub(super) struct Hit {
    pub at: u32,
    /// What its filler vouched with.
    pub answered_us: u64,
    pub is_stale: bool,
}

impl Hit {
    /// A place to be filled.
    pub const NONE: Hit = Hit {
        at: NIL,
        answered_us: 0,
        is_stale: false,
    };

    pub fn of(at: u32, a: &Asker, verdict: Verdict, rules: &Rules) -> Option<Hit> {
        match verdict {
            Verdict::Live { answered_us } => Some(Hit {
                at,
                answered_us,
                is_stale: a.takes_stale && rules.is_by_age(),
            }),
            Verdict::Stale { vouched_us } if a.takes_stale => Some(Hit {
                at,
                answered_us: vouched_us,
                is_stale: true,
            }),
            Verdict::Stale { .. } | Verdict::Suspect | Verdict::Expired | Verdict::Dead => None,
        }
    }
}

impl Rules {
    /// Nobody vouches for entries: while the upstream cannot be asked, all are stale.
    pub fn is_by_age(&self) -> bool {
        self.config.consistency == Consistency::Eventual
    }

    #[inline]
    pub fn verdict(&self, slot: &Slot, now_us: u64, floor_us: u64) -> Verdict {
        let is_expired = is_over(slot.deadline_ms(), now_us);
        if self.is_by_age() {
            return if is_expired {
                Verdict::Expired
            } else {
                Verdict::Live { answered_us: 0 }
            };
        }
        let Vouched {
            answered_us,
            fresh_until_us,
            epoch,
        } = self.links.vouched(slot.stamp.link());
        let is_fresh = answered_us > floor_us && fresh_until_us > now_us;
        if epoch == slot.epoch && !is_expired && is_fresh {
            Verdict::Live { answered_us }
        } else {
            self.refusal(slot, epoch, is_expired, now_us, floor_us)
        }
    }

    #[cold]
    fn refusal(&self, slot: &Slot, epoch: u32, is_expired: bool, now_us: u64, floor_us: u64) -> Verdict {
        if epoch == slot.epoch && is_expired {
            return Verdict::Expired;
        }
        let until_us = self.stale_until_us(slot, epoch);
        let vouched_us = until_us.saturating_sub(self.config.max_stale_us.unwrap_or(0));
        let is_stale = until_us > now_us && !is_expired;
        if is_stale && vouched_us > floor_us {
            Verdict::Stale { vouched_us }
        } else if is_stale || epoch == slot.epoch {
            // Whoever has seen something newer may not be shown it; others may.
            Verdict::Suspect
        } else {
            Verdict::Dead
        }
    }

    /// Until when an entry that is not vouched for may be shown to those who take stale ones; 0: it may not. `epoch` is the
    /// one in which its link is.
    fn stale_until_us(&self, slot: &Slot, epoch: u32) -> u64 {
        let Some(max_stale_us) = self.config.max_stale_us else {
            return 0;
        };
        match self.last_vouched_us((slot.stamp.link(), slot.epoch), epoch) {
            0 => 0,
            vouched_us => vouched_us.saturating_add(max_stale_us),
        }
    }

    /// When the filler of an entry vouched for it last; 0: never, or something has happened since of which it could not tell.
    /// `epoch` is the one in which the link is.
    pub fn last_vouched_us(&self, (link, filled_in): (LinkId, u32), epoch: u32) -> u64 {
        let past = self.links.past(link);
        if epoch == filled_in {
            self.links.fresh_until_us(link).saturating_sub(self.links.bound_us())
        } else if past.epoch == filled_in {
            past.vouched_us
        } else {
            0
        }
    }

    /// The same by the link as it is now, for people. `None`: it is nothing that could be shown as stale.
    pub fn stale_for_us(&self, slot: &Slot, now_us: u64) -> Option<u64> {
        let epoch = self.links.epoch(slot.stamp.link());
        match self.verdict(slot, now_us, 0) {
            Verdict::Stale { .. } => Some(self.stale_until_us(slot, epoch).saturating_sub(now_us)),
            _ => None,
        }
    }

    /// Whether the entry is one that `link` itself filled and still watches, so that a reply of `link` leaves it alone.
    pub fn is_kept_by(&self, slot: &Slot, link: LinkId, now_us: u64) -> bool {
        !self.links.is_by_turn()
            && slot.stamp.link() == link
            && self.links.epoch(link) == slot.epoch
            && !is_over(slot.deadline_ms(), now_us)
    }

    /// Whether a request may wait for the reply of a standing lease.
    pub fn may_join<F>(&self, lease: &Lease<F>, a: &Asker) -> bool {
        let is_in_order = match a.own {
            Own::Clear => true,
            Own::InFlight(flight) => flight == lease.flight(),
            Own::Blocked => false,
        };
        // A flight that hangs is as old as a suspect entry.
        is_in_order && a.now_us < lease.sent_us.saturating_add(self.links.bound_us()) && lease.sent_us > a.floor_us
    }
}

/// Whether several entries existed together at one moment.
///
/// What one link filled in one epoch did, by the order of its stream, unless its pushes come by turn. What several filled did if every filler has answered a
/// command that was sent after the youngest insert: no push came before that answer, so each entry still stood then.
pub(super) struct Snapshot {
    filler: Option<(LinkId, u32)>,
    is_mixed: bool,
    is_by_turn: bool,
    first_answered_us: i64,
    last_inserted_us: i64,
}

impl Snapshot {
    pub fn new(links: &Links) -> Snapshot {
        Snapshot {
            is_by_turn: links.is_by_turn(),
            filler: None,
            is_mixed: false,
            first_answered_us: i64::MAX,
            last_inserted_us: i64::MIN,
        }
    }

    pub fn add(&mut self, slot: &Slot, answered_us: u64) {
        let filler = (slot.stamp.link(), slot.epoch);
        let inserted_us = slot.stamp.inserted_ms() * 1000;
        self.add_copy(filler, answered_us as i64, inserted_us as i64);
    }

    /// What [`LinkId::PINNED`] filled is of an earlier process: nobody knows which link it was. Its times may be before the start
    /// of this one.
    pub fn add_copy(&mut self, filler: (LinkId, u32), answered_us: i64, inserted_us: i64) {
        match self.filler {
            None => self.filler = Some(filler),
            Some(first) => self.is_mixed |= self.is_by_turn || first != filler || filler.0 == LinkId::PINNED,
        }
        self.first_answered_us = self.first_answered_us.min(answered_us);
        self.last_inserted_us = self.last_inserted_us.max(inserted_us);
    }

    pub fn holds(&self) -> bool {
        !self.is_mixed || self.first_answered_us > self.last_inserted_us
    }
}
