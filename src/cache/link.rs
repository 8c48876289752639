//! Invalidation links: what each tracked upstream connection vouches for.
//!
//! A link is the life of one tracked connection (a worker's connection to one database). Everything that L1 holds names
//! the link that filled it, and is a hit only while that link is in the same *epoch* and has answered lately. So the loss
//! of a connection, a flush of the server, or mere silence make thousands of entries misses by changing one number here.
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
}

type Block = Box<[CachePadded<Link>]>;

struct Link {
    /// The unbroken life in which the link is now. Wraps after 2^32 losses and flushes: an entry would have to stay
    /// unread, unswept and unevicted over all of them to be taken for a new one.
    epoch: AtomicU32,
    /// When the newest answered command of this epoch was sent; 0 while none was.
    answered_us: AtomicU64,
}

/// 65,534 links: the largest `u16` is [`LinkId::PINNED`], the one below stays free.
const MAX_LINKS: usize = u16::MAX as usize - 1;
const BLOCK: usize = 64;

impl Default for Links {
    fn default() -> Self {
        Links::new()
    }
}

impl Links {
    pub fn new() -> Self {
        let blocks = (0..MAX_LINKS.div_ceil(BLOCK)).map(|_| OnceLock::new()).collect();
        Links {
            blocks,
            taken: AtomicUsize::new(0),
        }
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
        self.link(link).map_or(0, |l| l.epoch.load(Ordering::Acquire))
    }

    /// A reply to a command that was sent at `sent_us` (a clock reading not later than the real send) was parsed on
    /// `link`. Called by the link's owner, after everything that the stream carried before that reply was applied.
    pub fn answered(&self, link: LinkId, sent_us: u64) {
        if let Some(l) = self.link(link)
            && l.answered_us.load(Ordering::Relaxed) < sent_us
        {
            l.answered_us.store(sent_us, Ordering::Release);
        }
    }

    /// When the newest answered command of this epoch was sent; 0: nothing was answered yet.
    pub fn answered_us(&self, link: LinkId) -> u64 {
        self.link(link).map_or(0, |l| l.answered_us.load(Ordering::Acquire))
    }

    /// The connection of `link` is gone, or can no longer be believed: nothing that it filled is a hit again. Called by
    /// its owner.
    pub fn lost(&self, link: LinkId) {
        if let Some(l) = self.link(link) {
            // The epoch first: whoever reads an `answered_us` written from here on, the 0 or any later one, then reads
            // the new epoch. In the other order an answer of the new life could stand beside the epoch of the old one
            // and vouch for what nobody watches any more.
            l.next_epoch();
            l.answered_us.store(0, Ordering::Release);
        }
    }

    /// The server told `link` that every key changed (the null push): all that it filled or is filling is dead, the
    /// connection itself is well. Called by its owner.
    pub fn void_all(&self, link: LinkId) {
        if let Some(l) = self.link(link) {
            l.next_epoch();
        }
    }

    /// Every key changed, or nobody knows which did (`FLUSHALL`, a script without keys): nothing that any link filled or
    /// is filling is a hit again. To be called before the client sees the acknowledgement. Any thread.
    pub fn void_everything(&self) {
        for index in 0..self.len() {
            if let Some(l) = self.at(index) {
                l.next_epoch();
            }
        }
    }

    /// What an entry of `link` must be held against: (`answered_us`, epoch).
    #[inline]
    pub(crate) fn vouched(&self, link: LinkId) -> (u64, u32) {
        // `answered_us` is read first: an answer of a later life is then seen together with that life's epoch, and can
        // not vouch for an entry of the earlier one. See `lost`.
        match self.link(link) {
            Some(l) => (l.answered_us.load(Ordering::Acquire), l.epoch.load(Ordering::Acquire)),
            None => (0, 0),
        }
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
    fn next_epoch(&self) {
        // 0 is "no epoch".
        let next = |epoch: u32| Some(epoch.checked_add(1).unwrap_or(1));
        let _ = self.epoch.fetch_update(Ordering::SeqCst, Ordering::SeqCst, next);
    }
}

fn new_block() -> Block {
    (0..BLOCK)
        .map(|_| {
            CachePadded::new(Link {
                epoch: AtomicU32::new(1),
                answered_us: AtomicU64::new(0),
            })
        })
        .collect()
}

#[cfg(test)]
mod tests;
