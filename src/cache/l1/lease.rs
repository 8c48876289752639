//! Leases: the right to fill one reply, and who waits for that fill.
//!
//! A lease *stands* while no event voided it and its link is in the epoch in which it was taken. A void takes away its
//! standing for good; the lease itself lives on with its followers until its leader completes or abandons it.

use hashbrown::HashTable;

use super::entry::Identity;
use super::{Asker, FlightId, LeaseId};
use crate::cache::link::{LinkId, Links};

pub(super) struct Leases<F> {
    /// All leases that have not ended.
    places: Vec<Option<Lease<F>>>,
    free: Vec<u32>,
    /// Those that no event has voided, by the hash of their name.
    index: HashTable<u32>,
    /// Blocks of ended leases, to be used again.
    blocks: Vec<Vec<u8>>,
    /// Ids are unique in the process: `shard` in the low bits, a count above.
    shard: u8,
    count: u64,
}

pub(super) struct Lease<F> {
    id: u64,
    pub hash: u64,
    pub db: u16,
    name_len: usize,
    /// Name, then variant.
    block: Vec<u8>,
    pub link: LinkId,
    pub epoch: u32,
    /// When it was taken, which is before its read was sent.
    pub sent_us: u64,
    /// The reply to its read was parsed, and L1 was told: a push from now on is newer than that reply.
    pub is_got: bool,
    /// No event has voided it.
    pub is_unvoided: bool,
    /// The latest of the floors of all who wait for it.
    pub floor_us: u64,
    pub followers: Vec<F>,
}

impl<F> Lease<F> {
    pub fn name(&self) -> &[u8] {
        self.block.get(..self.name_len).unwrap_or_default()
    }

    pub fn variant(&self) -> &[u8] {
        self.block.get(self.name_len..).unwrap_or_default()
    }

    pub fn identity(&self) -> Identity<'_> {
        Identity {
            hash: self.hash,
            db: self.db,
            name: self.name(),
            variant: self.variant(),
        }
    }

    pub fn flight(&self) -> FlightId {
        FlightId(self.id)
    }

    pub fn stands(&self, links: &Links) -> bool {
        self.is_unvoided && links.epoch(self.link) == self.epoch
    }

    fn is_of(&self, of: Identity<'_>) -> bool {
        self.hash == of.hash && self.db == of.db && self.name() == of.name && self.variant() == of.variant
    }
}

impl<F> Leases<F> {
    pub fn new(shard: u8) -> Leases<F> {
        Leases {
            places: Vec::new(),
            free: Vec::new(),
            index: HashTable::new(),
            blocks: Vec::new(),
            shard,
            count: 0,
        }
    }

    /// The one standing lease of this reply.
    pub fn standing(&mut self, of: Identity<'_>, links: &Links) -> Option<&mut Lease<F>> {
        if self.index.is_empty() {
            return None;
        }
        let places = &mut self.places;
        let found = self
            .index
            .find_entry(of.hash, |&at| place(places, at).is_some_and(|l| l.is_of(of)))
            .ok()?;
        let at = *found.get();
        if !place(places, at)?.stands(links) {
            // Of an epoch that is over: it makes room for a lease that can insert.
            found.remove();
            places.get_mut(at as usize)?.as_mut()?.is_unvoided = false;
            return None;
        }
        places.get_mut(at as usize)?.as_mut()
    }

    /// A new lease. The caller has seen that none stands.
    pub fn take(&mut self, of: Identity<'_>, a: &Asker, epoch: u32) -> LeaseId {
        self.count += 1;
        let id = self.count << SHARD_BITS | u64::from(self.shard);
        let mut block = self.blocks.pop().unwrap_or_default();
        block.reserve_exact(of.name.len() + of.variant.len());
        block.extend_from_slice(of.name);
        block.extend_from_slice(of.variant);
        let lease = Lease {
            id,
            hash: of.hash,
            db: of.db,
            name_len: of.name.len(),
            block,
            link: a.link,
            epoch,
            sent_us: a.now_us,
            is_got: false,
            is_unvoided: true,
            floor_us: a.floor_us,
            followers: Vec::new(),
        };
        let at = match self.free.pop() {
            Some(at) => at,
            None => {
                self.places.push(None);
                (self.places.len() - 1) as u32
            }
        };
        self.places[at as usize] = Some(lease);
        let places = &self.places;
        self.index
            .insert_unique(of.hash, at, |&at| place(places, at).map_or(0, |l| l.hash));
        LeaseId {
            id,
            place: at,
            shard: self.shard,
        }
    }

    /// A lease that has not ended, voided or not.
    pub fn get(&self, lease: LeaseId) -> Option<&Lease<F>> {
        place(&self.places, lease.place).filter(|l| l.id == lease.id)
    }

    pub fn got(&mut self, lease: LeaseId) {
        if let Some(Some(l)) = self.places.get_mut(lease.place as usize)
            && l.id == lease.id
        {
            l.is_got = true;
        }
    }

    /// Takes out the followers that `is_dismissed` picks.
    pub fn dismiss(&mut self, lease: LeaseId, is_dismissed: impl Fn(&F) -> bool) -> Vec<F> {
        match self.places.get_mut(lease.place as usize) {
            Some(Some(l)) if l.id == lease.id => {
                l.followers.extract_if(.., |follower| is_dismissed(follower)).collect()
            }
            _ => Vec::new(),
        }
    }

    /// Ends a lease. `None`: it has ended before.
    pub fn end(&mut self, lease: LeaseId) -> Option<Lease<F>> {
        let place = self.places.get_mut(lease.place as usize)?;
        let ended = place.take_if(|l| l.id == lease.id)?;
        self.free.push(lease.place);
        if ended.is_unvoided
            && let Ok(found) = self.index.find_entry(ended.hash, |&at| at == lease.place)
        {
            found.remove();
        }
        Some(ended)
    }

    /// An ended lease is done with. Returns its followers.
    pub fn bury(&mut self, mut lease: Lease<F>) -> Vec<F> {
        if self.blocks.len() < MOST_BLOCKS && lease.block.capacity() <= MOST_BLOCK_BYTES {
            lease.block.clear();
            self.blocks.push(lease.block);
        }
        lease.followers
    }

    /// Voids the leases of a name that `doomed` picks. Returns how many.
    pub fn void(&mut self, hash: u64, mut doomed: impl FnMut(&Lease<F>) -> bool) -> usize {
        if self.index.is_empty() {
            return 0;
        }
        let mut voided = 0;
        let places = &mut self.places;
        while let Ok(found) = self.index.find_entry(hash, |&at| {
            place(places, at).is_some_and(|l| l.hash == hash && doomed(l))
        }) {
            if let Some(Some(l)) = places.get_mut(*found.get() as usize) {
                l.is_unvoided = false;
            }
            found.remove();
            voided += 1;
        }
        voided
    }

    /// Voids all leases.
    pub fn void_all(&mut self) {
        self.index.clear();
        self.places.iter_mut().flatten().for_each(|l| l.is_unvoided = false);
    }

    /// All leases of a name, voided ones too.
    pub fn of_name(&self, hash: u64) -> impl Iterator<Item = &Lease<F>> {
        self.places.iter().flatten().filter(move |l| l.hash == hash)
    }

    /// Leases that have not ended.
    pub fn len(&self) -> usize {
        self.places.len() - self.free.len()
    }
}

fn place<F>(places: &[Option<Lease<F>>], at: u32) -> Option<&Lease<F>> {
    places.get(at as usize)?.as_ref()
}

/// Blocks that are kept for the next leases, and how large they may be: 4 KiB a shard in all.
const MOST_BLOCKS: usize = 16;
const MOST_BLOCK_BYTES: usize = 256;

/// Room for the number of a shard in a lease's id.
const SHARD_BITS: u32 = 8;
