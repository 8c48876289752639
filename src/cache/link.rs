//! Invalidation links: what each tracked upstream connection vouches for.
//!
//! A link is the life of one tracked connection (a worker's connection to one database). Everything that L1 holds names
//! the link that filled it, and is a hit only while that link is in the same *epoch* and has answered lately. So the loss
//! of a connection, a flush of the server, or mere silence make thousands of entries misses by changing one number here.
//!
//! Where the upstream node itself can turn out to be the wrong one (Sentinel names another primary while the old one goes on
//! answering), a link vouches no longer than somebody *confirms* the node: [`Links::confirm`] says until when that is known,
//! for the nodes of one *generation*, and a link that leads to a node of an earlier generation stays as fresh as it was.
//!
//! What a link filled in an epoch that ended with its connection is *stale*, and kept while nobody can say what it has become:
//! until the connection is there again, or something voids everything. For how long it may be shown is for L1 to decide, by
//! when the link last vouched for it.
//!
//! By default the stream of a link is in the server's order: a push comes before the replies to all later commands. A server
//! that broadcasts gathers its pushes until the end of a turn of its event loop, so that within a turn a reply may come before
//! the push of an *earlier* write ([`Links::by_turn`]). What was answered in an earlier turn is then vouched for only by the
//! reply to a command that was sent after that answer had come, and so belongs to a later turn.
//!
//! A link is written by the one thread that parses its stream (its owner), except for [`Links::void_everything`], and
//! read without a lock by every worker. Times are microseconds of the process's monotonic clock, never 0.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};

use crossbeam::utils::CachePadded;

/// Names one tracked upstream connection for the life of the process, over all its reconnections.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct LinkId(u16);

impl LinkId {
    /// An untracked connection: equal to no link, so its replies take away what every link filled.
    pub const PINNED: LinkId = LinkId(u16::MAX);

    /// A small number for logs and for packing; [`LinkId::PINNED`] is the largest.
    pub fn index(self) -> u16 {
        self.0
    }

    pub(crate) fn from_index(index: u16) -> LinkId {
        LinkId(index)
    }
}

/// All links of the process. Grows by appending; reading takes no lock.
pub struct Links {
    /// Blocks are allocated as links are added and never move.
    blocks: Box<[OnceLock<Block>]>,
    /// Ids handed out, counted before the link is used for anything.
    taken: AtomicUsize,
    bound_us: u64,
    /// How many epochs ended with their connection, counted before that shows.
    losses: AtomicU64,
    /// Which node is the upstream now.
    generation: AtomicU32,
    /// When it was last known to be the one; `u64::MAX` where nobody doubts it. Written after the generation.
    confirmed_us: AtomicU64,
    /// Replies may come before the pushes of earlier writes.
    is_by_turn: bool,
}

type Block = Box<[CachePadded<Link>]>;

struct Link {
    /// The unbroken life in which the link is now. Wraps after 2^32 losses and flushes: an entry would have to stay
    /// unread, unswept and unevicted over all of them to be taken for a new one.
    /// In the low half. In the high half the epoch that ended with the connection, while there is none; 0: there is one, or
    /// what was filled then is void. Together, so that nobody sees one without the other.
    life: AtomicU64,
    /// When the newest answered command of this epoch was sent; 0 while none was.
    answered_us: AtomicU64,
    /// Until when what it filled in this epoch may be shown: the staleness bound after the earlier of its newest answer and
    /// the newest confirmation of its node.
    fresh_until_us: AtomicU64,
    /// When the epoch in the high half of `life` was last vouched for. Written before it.
    stale_vouched_us: AtomicU64,
    /// Of the node to which its connection leads.
    generation: AtomicU32,
    /// Where pushes come by turn: when a command was sent whose answer has come, and when it came. Its owner's alone.
    turn_sent_us: AtomicU64,
    turn_received_us: AtomicU64,
}

/// What a link says for itself; all 0 for an unknown one.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(crate) struct Vouched {
    pub answered_us: u64,
    pub fresh_until_us: u64,
    pub epoch: u32,
}

/// What is known of a link whose connection is gone, and of one that is merely silent.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(crate) struct Past {
    /// The epoch whose entries are stale; 0: none.
    pub epoch: u32,
    /// When it was last vouched for.
    pub vouched_us: u64,
}

/// 65,534 links: the largest `u16` is [`LinkId::PINNED`], the one below stays free.
const MAX_LINKS: usize = u16::MAX as usize - 1;
const BLOCK: usize = 64;

impl Links {
    /// `bound_us` is the staleness bound: how long what was answered and confirmed is believed.
    pub fn new(bound_us: u64) -> Self {
        let blocks = (0..MAX_LINKS.div_ceil(BLOCK)).map(|_| OnceLock::new()).collect();
        Links {
            blocks,
            taken: AtomicUsize::new(0),
            bound_us,
            losses: AtomicU64::new(0),
            generation: AtomicU32::new(0),
            confirmed_us: AtomicU64::new(u64::MAX),
            is_by_turn: false,
        }
    }

    /// The same for servers that broadcast: pushes come at the end of a turn, behind replies to later commands of that turn.
    pub fn by_turn(self) -> Self {
        Links {
            is_by_turn: true,
            ..self
        }
    }

    /// Whether a link's own replies may be newer than what it has filled and not yet been told to drop.
    #[inline]
    pub fn is_by_turn(&self) -> bool {
        self.is_by_turn
    }

    pub fn bound_us(&self) -> u64 {
        self.bound_us
    }

    /// The upstream is a node of this generation from now on, and it was confirmed at this time (0: not yet). Links to
    /// earlier nodes do not become any fresher. Called before anybody can connect to the node. One thread.
    pub fn begin_generation(&self, generation: u32, confirmed_us: u64) {
        // The generation first: whoever reads the confirmation of the new node then sees that it is not about the old one.
        self.generation.store(generation, Ordering::SeqCst);
        self.confirmed_us.store(confirmed_us, Ordering::SeqCst);
    }

    /// The node of the current generation was the right one at this time. The same thread.
    pub fn confirm(&self, confirmed_us: u64) {
        self.confirmed_us.store(confirmed_us, Ordering::Release);
    }

    /// When the upstream node was last known to be the right one; `u64::MAX`: nobody doubts it.
    pub fn confirmed_us(&self) -> u64 {
        self.confirmed_us.load(Ordering::Acquire)
    }

    /// The connection of `link` leads to a node of this generation. Called by its owner, before its first answer.
    pub fn reached(&self, link: LinkId, generation: u32) {
        if let Some(l) = self.link(link) {
            l.generation.store(generation, Ordering::Relaxed);
        }
    }

    /// Whether `link` leads to the node that is the upstream now. To be asked with the right to fill in hand: an answer that
    /// was right is followed, once it is wrong, by `void_everything`, which ends the epoch of that right.
    pub fn is_current(&self, link: LinkId) -> bool {
        self.link(link)
            .is_some_and(|l| self.generation.load(Ordering::SeqCst) == l.generation.load(Ordering::Relaxed))
    }

    /// A new link, in its first epoch and with nothing answered. `None`: all 65,534 are taken. Ids are never given
    /// back: a connection keeps its link when it reconnects.
    pub fn add(&self) -> Option<LinkId> {
        let take = |taken: usize| (taken < MAX_LINKS).then_some(taken + 1);
        // Counted before anything is sent on the link: a flush that the server executes after a read on this link is
        // acknowledged later still, and `void_everything` then finds the link counted.
        let index = self.taken.fetch_update(Ordering::SeqCst, Ordering::SeqCst, take).ok()?;
        self.blocks.get(index / BLOCK)?.get_or_init(new_block);
        u16::try_from(index).ok().map(LinkId)
    }

    /// How many links were added.
    pub fn len(&self) -> usize {
        self.taken.load(Ordering::SeqCst)
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The epoch in which `link` is now. 0, which no lease gets, for an unknown link and for [`LinkId::PINNED`].
    pub fn epoch(&self, link: LinkId) -> u32 {
        self.link(link).map_or(0, Link::epoch)
    }

    /// A reply to a command that was sent at `sent_us` (a clock reading not later than the real send) was parsed on
    /// `link`. Called by the link's owner, after everything that the stream carried before that reply was applied.
    pub fn answered(&self, link: LinkId, sent_us: u64) {
        if let Some(l) = self.link(link)
            && l.answered_us.load(Ordering::Relaxed) < sent_us
        {
            l.answered_us.store(sent_us, Ordering::Release);
            self.renew_link(l);
        }
    }

    /// The same of a reply that came off the socket at `received_us` (a clock reading not earlier than that), wherever pushes
    /// stand in the stream.
    #[inline]
    pub fn answered_at(&self, link: LinkId, sent_us: u64, received_us: u64) {
        match self.link(link) {
            Some(l) if self.is_by_turn => {
                if sent_us > l.turn_received_us.load(Ordering::Relaxed) {
                    let earlier_us = l.turn_sent_us.swap(sent_us, Ordering::Relaxed);
                    l.turn_received_us.store(received_us, Ordering::Relaxed);
                    self.answered(link, earlier_us);
                }
            }
            _ => self.answered(link, sent_us),
        }
    }

    /// A confirmation may have come since the last answer. Called by the link's owner, some times within the bound.
    pub fn renew(&self, link: LinkId) {
        if let Some(l) = self.link(link) {
            self.renew_link(l);
        }
    }

    fn renew_link(&self, l: &Link) {
        // In this order; see `begin_generation`.
        let confirmed_us = self.confirmed_us.load(Ordering::Acquire);
        let is_current = self.generation.load(Ordering::Acquire) == l.generation.load(Ordering::Relaxed);
        let vouched_us = l.answered_us.load(Ordering::Relaxed).min(confirmed_us);
        if is_current && vouched_us > 0 {
            let until_us = vouched_us.saturating_add(self.bound_us);
            if l.fresh_until_us.load(Ordering::Relaxed) < until_us {
                l.fresh_until_us.store(until_us, Ordering::Release);
            }
        }
    }

    /// Until when what `link` fills may be shown; 0: it may not.
    pub fn fresh_until_us(&self, link: LinkId) -> u64 {
        self.link(link).map_or(0, |l| l.fresh_until_us.load(Ordering::Acquire))
    }

    /// When the newest answered command of this epoch was sent; 0: nothing was answered yet.
    pub fn answered_us(&self, link: LinkId) -> u64 {
        self.link(link).map_or(0, |l| l.answered_us.load(Ordering::Acquire))
    }

    /// The connection of `link` is gone, or can no longer be believed: nothing that it filled is vouched for again, and what
    /// it filled in the epoch that ends is stale. Called by its owner.
    pub fn lost(&self, link: LinkId) {
        self.losses.fetch_add(1, Ordering::SeqCst);
        if let Some(l) = self.link(link) {
            // A connection over which nothing was vouched for has filled nothing: what was stale before it stays so.
            let is_idle = l.answered_us.load(Ordering::Relaxed) == 0;
            let (_, stale) = halves(l.life.load(Ordering::Acquire));
            if is_idle && stale != 0 {
                l.live(|epoch, stale| (next(epoch), stale));
                return;
            }
            let fresh_until_us = l.fresh_until_us.load(Ordering::Relaxed);
            l.stale_vouched_us
                .store(fresh_until_us.saturating_sub(self.bound_us), Ordering::Release);
            // The epoch first: whoever reads an `answered_us` written from here on, the 0 or any later one, then reads
            // the new epoch. In the other order an answer of the new life could stand beside the epoch of the old one
            // and vouch for what nobody watches any more.
            l.live(|epoch, _| (next(epoch), epoch));
            l.answered_us.store(0, Ordering::Release);
            l.fresh_until_us.store(0, Ordering::Release);
            l.turn_sent_us.store(0, Ordering::Relaxed);
            l.turn_received_us.store(0, Ordering::Relaxed);
        }
    }

    /// The connection of `link` is there again: what it filled in an earlier life is dead. Called by its owner, before
    /// anything that comes by the new connection is shown.
    pub fn regained(&self, link: LinkId) {
        if let Some(l) = self.link(link) {
            l.live(|epoch, _| (epoch, 0));
        }
    }

    /// The server told `link` that every key changed (the null push): all that it filled or is filling is dead, the
    /// connection itself is well. Called by its owner.
    pub fn void_all(&self, link: LinkId) {
        if let Some(l) = self.link(link) {
            l.live(|epoch, _| (next(epoch), 0));
        }
    }

    /// Some link was told that every key changed: what lost links filled is no stale hit any more, since nobody hears for it.
    pub fn forget_stale(&self) {
        for index in 0..self.len() {
            if let Some(l) = self.at(index) {
                l.live(|epoch, _| (epoch, 0));
            }
        }
    }

    /// Every key changed, or nobody knows which did (`FLUSHALL`, a script without keys): nothing that any link filled or
    /// is filling is a hit again, a stale one neither. To be called before the client sees the acknowledgement. Any thread.
    pub fn void_everything(&self) {
        for index in 0..self.len() {
            if let Some(l) = self.at(index) {
                l.live(|epoch, _| (next(epoch), 0));
            }
        }
    }

    /// How many epochs have ended with their connection.
    pub fn losses(&self) -> u64 {
        self.losses.load(Ordering::SeqCst)
    }

    /// Until when all links that are up have vouched for what they filled. `None`: none is up, or one was lost meanwhile.
    pub fn all_vouched_us(&self) -> Option<u64> {
        let losses = self.losses();
        let fresh = (0..self.len()).filter_map(|index| self.at(index));
        let fresh = fresh
            .map(|l| l.fresh_until_us.load(Ordering::SeqCst))
            .filter(|us| *us > 0);
        let least_us = fresh.min()?;
        (self.losses() == losses).then(|| least_us.saturating_sub(self.bound_us))
    }

    /// What an entry of `link` must be held against.
    #[inline]
    pub(crate) fn vouched(&self, link: LinkId) -> Vouched {
        // The epoch is read last: an answer of a later life is then seen together with that life's epoch, and can
        // not vouch for an entry of the earlier one. See `lost`.
        match self.link(link) {
            Some(l) => Vouched {
                answered_us: l.answered_us.load(Ordering::Acquire),
                fresh_until_us: l.fresh_until_us.load(Ordering::Acquire),
                epoch: l.epoch(),
            },
            None => Vouched::default(),
        }
    }

    /// What an entry of `link` that is not of its epoch must be held against.
    pub(crate) fn past(&self, link: LinkId) -> Past {
        // In this order: a time that belongs to a later loss is then seen together with the life after that one.
        self.link(link).map_or_else(Past::default, |l| Past {
            vouched_us: l.stale_vouched_us.load(Ordering::Acquire),
            epoch: halves(l.life.load(Ordering::Acquire)).1,
        })
    }

    /// When a link, lost or not, was last vouched for of which entries may be left; 0: none was.
    pub fn last_vouched_us(&self) -> u64 {
        let links = (0..self.len()).filter_map(|index| self.at(index));
        links
            .map(|l| {
                let is_stale = l.life.load(Ordering::Acquire) >> 32 != 0;
                let past_us = if is_stale {
                    l.stale_vouched_us.load(Ordering::Acquire)
                } else {
                    0
                };
                let fresh_until_us = l.fresh_until_us.load(Ordering::Acquire);
                past_us.max(fresh_until_us.saturating_sub(self.bound_us))
            })
            .max()
            .unwrap_or(0)
    }

    #[inline]
    fn link(&self, link: LinkId) -> Option<&Link> {
        self.at(link.0.into())
    }

    #[inline]
    fn at(&self, index: usize) -> Option<&Link> {
        // The last block has room for `PINNED`, which must not find anything there.
        if index >= MAX_LINKS {
            return None;
        }
        let block = self.blocks.get(index / BLOCK)?.get()?;
        block.get(index % BLOCK).map(|padded| &**padded)
    }
}

impl Link {
    #[inline]
    fn epoch(&self) -> u32 {
        self.life.load(Ordering::Acquire) as u32
    }

    /// From the epoch and the stale one, those that come after them.
    fn live(&self, after: impl Fn(u32, u32) -> (u32, u32)) {
        let change = |life: u64| {
            let (epoch, stale) = halves(life);
            let (epoch, stale) = after(epoch, stale);
            Some(u64::from(stale) << 32 | u64::from(epoch))
        };
        let _ = self.life.fetch_update(Ordering::SeqCst, Ordering::SeqCst, change);
    }
}

/// The epoch and the stale one.
fn halves(life: u64) -> (u32, u32) {
    (life as u32, (life >> 32) as u32)
}

/// 0 is "no epoch".
fn next(epoch: u32) -> u32 {
    epoch.checked_add(1).unwrap_or(1)
}

fn new_block() -> Block {
    (0..BLOCK)
        .map(|_| {
            CachePadded::new(Link {
                life: AtomicU64::new(1),
                answered_us: AtomicU64::new(0),
                fresh_until_us: AtomicU64::new(0),
                stale_vouched_us: AtomicU64::new(0),
                generation: AtomicU32::new(0),
                turn_sent_us: AtomicU64::new(0),
                turn_received_us: AtomicU64::new(0),
            })
        })
        .collect()
}

#[cfg(test)]
mod tests;
