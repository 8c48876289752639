//! One cached reply in memory: a slot of 40 bytes, for what every entry has, and a [`Payload`] for what makes it this one.
//!
//! Times are milliseconds in 38 bits: after 8.7 years without a restart nothing is cached any more.

use super::expiry::Lifetime;
use super::{Query, View};
use crate::cache::link::LinkId;
pub(super) use payload::{Body, LARGE_BYTES, Payload, Reply};

/// The end of a list of slots.
pub(super) const NIL: u32 = u32::MAX;

/// A place in the slab: an entry, or free. What a hit looks at comes first, so that it is less often in two cache lines.
#[repr(C)]
pub(super) struct Slot {
    pub payload: Payload,
    pub stamp: Stamp,
    /// The low half of the name's hash. Names of one tag share a chain.
    pub tag: u32,
    /// The filler's epoch when the lease was taken.
    pub epoch: u32,
    /// Neighbours in the queue: `newer` towards its head, `older` towards its tail, where eviction looks. In a free slot
    /// `older` is the next free one and `newer` the one before.
    pub newer: u32,
    pub older: u32,
}

const _: () = assert!(size_of::<Slot>() == 40);

impl Slot {
    /// An entry that is in no queue and no chain yet.
    pub fn new(payload: Payload, tag: u32, epoch: u32, stamp: Stamp) -> Slot {
        let stamp = stamp.marked(&payload);
        Slot {
            payload,
            stamp,
            tag,
            epoch,
            newer: NIL,
            older: NIL,
        }
    }

    pub fn free(next: u32) -> Slot {
        Slot {
            payload: Payload::Small(Box::default()),
            stamp: Stamp::default(),
            tag: 0,
            epoch: 0,
            newer: NIL,
            older: next,
        }
    }

    pub fn is_free(&self) -> bool {
        self.stamp.queue() == Queue::None
    }

    /// [`END_OF_TIME_MS`]: it has none.
    #[inline]
    pub fn deadline_ms(&self) -> u64 {
        match self.stamp.is_timed() {
            true => self.payload.deadline_ms(self.stamp.is_chained()),
            false => END_OF_TIME_MS,
        }
    }

    /// `None`: it has no deadline.
    pub fn deadline_us(&self) -> Option<u64> {
        self.stamp.is_timed().then(|| self.deadline_ms() * 1000)
    }

    /// The next entry of the same tag, or [`NIL`].
    #[inline]
    pub fn chain(&self) -> u32 {
        match self.stamp.is_chained() {
            true => self.payload.chain(),
            false => NIL,
        }
    }

    /// Only what was made with room for it has a next entry: what came into a chain last, and so stands before the others.
    pub fn set_chain(&mut self, next: u32) {
        match self.stamp.is_chained() {
            true => self.payload.set_chain(next),
            false => debug_assert!(next == NIL, "an entry without room for a next one"),
        }
    }

    /// Lets this be another reply to the same read, if it fits into the same block. False: nothing has changed.
    pub fn rewrite(&mut self, reply: &Reply<'_>, link: LinkId, epoch: u32) -> bool {
        if !self.payload.rewrite(reply) {
            return false;
        }
        let (queue, frequency) = (self.stamp.queue(), self.stamp.frequency());
        self.stamp = Stamp::new(reply.lifetime, link, queue, frequency).marked(&self.payload);
        self.epoch = epoch;
        true
    }

    #[inline]
    pub fn view(&self, is_stale: bool) -> View<'_> {
        let kind = self.payload.kind();
        View {
            value: self.payload.value(),
            is_plain: kind.is_plain(),
            is_stale,
            expiry: kind.expiry(|| self.deadline_ms()),
            link: self.stamp.link(),
            inserted_us: self.stamp.inserted_ms() * 1000,
        }
    }
}

/// Which cached reply: a [`Query`] whose parts are known to fit.
#[derive(Clone, Copy)]
pub(super) struct Identity<'a> {
    pub hash: u64,
    pub db: u16,
    pub name: &'a [u8],
    pub variant: &'a [u8],
}

impl<'a> Identity<'a> {
    /// `None`: too long a name or variant, or a database with too high a number, to be cached at all.
    #[inline]
    pub fn of(q: &Query<'a>) -> Option<Identity<'a>> {
        let fits = q.name.len() <= usize::from(u16::MAX) && q.variant.len() <= usize::from(u16::MAX);
        let db = u16::try_from(q.db).ok()?;
        fits.then_some(Identity {
            hash: q.hash,
            db,
            name: q.name,
            variant: q.variant,
        })
    }

    pub fn tag(&self) -> u32 {
        tag(self.hash)
    }
}

/// In the second byte of a variant: the entry keeps a reply together with entries of other names, and is nothing without them.
pub const JOINT: u8 = 0x80;

pub(super) fn is_joint(variant: &[u8]) -> bool {
    variant.get(1).is_some_and(|byte| byte & JOINT != 0)
}

/// The half of a name's hash that an entry keeps; the shard is chosen by the other half.
pub(super) fn tag(hash: u64) -> u32 {
    hash as u32
}

/// Where an entry waits for its eviction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Queue {
    /// Free slots only.
    None,
    Small,
    Main,
}

/// Time of insert, filler, frequency, queue and what the payload has behind its value, in 64 bits.
#[derive(Clone, Copy, Default)]
pub(super) struct Stamp(u64);

/// One more than the last time that an entry can hold, and the deadline of what has none.
pub(super) const END_OF_TIME_MS: u64 = (1 << 38) - 1;

pub(super) const MAX_FREQUENCY: u8 = 3;

/// Above the link and the time of insert.
const FREQUENCY: u32 = 54;
const QUEUE: u32 = 56;
/// The payload has a deadline, or room for the next of its chain. Noted here, so that whoever goes from slot to slot reads
/// the payload only where it does, and only its end.
const IS_TIMED: u64 = 1 << 58;
const IS_CHAINED: u64 = 1 << 59;

impl Stamp {
    pub fn new(lifetime: &Lifetime, link: LinkId, queue: Queue, frequency: u8) -> Stamp {
        let inserted = lifetime.inserted_ms.min(END_OF_TIME_MS);
        let mut stamp = Stamp(u64::from(link.index()) | inserted << 16);
        stamp.set_queue(queue);
        stamp.set_frequency(frequency);
        stamp
    }

    fn marked(self, payload: &Payload) -> Stamp {
        let kind = payload.kind();
        let mark = |has: bool, bit: u64| if has { bit } else { 0 };
        Stamp(self.0 | mark(kind.is_timed(), IS_TIMED) | mark(kind.is_chained(), IS_CHAINED))
    }

    pub fn is_timed(self) -> bool {
        self.0 & IS_TIMED != 0
    }

    pub fn is_chained(self) -> bool {
        self.0 & IS_CHAINED != 0
    }

    #[inline]
    pub fn inserted_ms(&self) -> u64 {
        self.0 >> 16 & END_OF_TIME_MS
    }

    #[inline]
    pub fn link(&self) -> LinkId {
        LinkId::from_index(self.0 as u16)
    }

    #[inline]
    pub fn frequency(&self) -> u8 {
        (self.0 >> FREQUENCY & 3) as u8
    }

    #[inline]
    pub fn set_frequency(&mut self, frequency: u8) {
        self.0 = self.0 & !(3 << FREQUENCY) | u64::from(frequency.min(MAX_FREQUENCY)) << FREQUENCY;
    }

    pub fn queue(&self) -> Queue {
        match self.0 >> QUEUE & 3 {
            1 => Queue::Small,
            2 => Queue::Main,
            _ => Queue::None,
        }
    }

    pub fn set_queue(&mut self, queue: Queue) {
        let bits = match queue {
            Queue::None => 0,
            Queue::Small => 1,
            Queue::Main => 2,
        };
        self.0 = self.0 & !(3 << QUEUE) | bits << QUEUE;
    }
}

mod payload;

#[cfg(test)]
mod tests;
