//! What L1 tells operators: totals, and all that is known of one name.

use super::entry::Slot;
use super::lease::Lease;
use super::rules::Rules;
use super::shard::Shard;
use crate::cache::l3::codec::Codec;
use crate::cache::link::LinkId;

/// Totals of all shards. Counters count since the start.
#[derive(Clone, Copy, Default, Debug)]
pub struct Stats {
    pub entries: usize,
    /// Fills under way, voided ones included.
    pub leases: usize,
    pub used_bytes: usize,
    /// Of `used_bytes`, what is no overhead: names, variants and values.
    pub data_bytes: usize,
    pub budget_bytes: usize,
    /// Of `budget_bytes`, what is left unused.
    pub withheld_bytes: usize,
    pub shards: usize,
    pub inserts: u64,
    pub evictions: u64,
    pub expirations: u64,
    /// Entries and leases that a push, a reply, a write, a loss or an operator ended.
    pub voids: u64,
    pub refused_too_large: u64,
    /// Fills that came in after their lease was voided.
    pub refused_voided: u64,
    /// Values that were compressed, and those that would not have become smaller by an eighth.
    pub compressed_zstd: u64,
    pub compressed_lz4: u64,
    pub compressed_not: u64,
    /// Bytes of all these before and after.
    pub compress_from_bytes: u64,
    pub compress_to_bytes: u64,
}

impl Stats {
    pub(super) fn add<F>(&mut self, shard: &Shard<F>) {
        let counters = shard.counters();
        self.entries += shard.entries();
        self.leases += shard.leases.len();
        self.used_bytes += shard.used_bytes();
        self.data_bytes += shard.data_bytes();
        self.inserts += counters.inserts;
        self.evictions += counters.evictions;
        self.expirations += counters.expirations;
        self.voids += counters.voids;
        self.refused_too_large += counters.refused_too_large;
        self.refused_voided += counters.refused_voided;
    }
}

/// One entry or lease of a name.
#[derive(Clone, Debug)]
pub struct Explained {
    pub db: u32,
    pub variant: Vec<u8>,
    /// Of the value, as it is kept; 0 for a lease.
    pub bytes: usize,
    /// What it is compressed with, and its bytes as it is shown.
    pub codec: Codec,
    pub shown_bytes: usize,
    pub link: LinkId,
    /// Of a lease: whether it stands.
    pub is_epoch_current: bool,
    /// Since the insert, or since the lease was taken.
    pub age_us: u64,
    /// Until the entry's deadline; `None`: it has none, or this is a lease.
    pub ttl_us: Option<u64>,
    /// How much longer it may be shown to those who take stale entries; `None`: it is live, or nobody may be shown it.
    pub stale_for_us: Option<u64>,
    /// Hits since it was last considered for eviction, at most 3.
    pub frequency: u8,
    /// The entry says that the key does not exist.
    pub is_absent: bool,
    pub is_lease: bool,
}

impl Explained {
    pub(super) fn of_entry(slot: &Slot, now_us: u64, rules: &Rules) -> Explained {
        let head = slot.payload.head();
        let view = slot.view(false);
        let deadline_us = slot.deadline_us();
        Explained {
            db: head.db.into(),
            variant: head.variant.to_vec(),
            bytes: slot.payload.value_bytes(),
            codec: slot.payload.codec(),
            shown_bytes: view
                .value
                .packed()
                .map_or(slot.payload.value_bytes(), |packed| packed.shown_bytes()),
            link: view.link,
            is_epoch_current: rules.links.epoch(view.link) == slot.epoch,
            age_us: now_us.saturating_sub(view.inserted_us),
            ttl_us: deadline_us.map(|deadline| deadline.saturating_sub(now_us)),
            stale_for_us: rules.stale_for_us(slot, now_us),
            frequency: slot.stamp.frequency(),
            is_absent: head.is_absent(),
            is_lease: false,
        }
    }

    pub(super) fn of_lease<F>(lease: &Lease<F>, now_us: u64, rules: &Rules) -> Explained {
        Explained {
            db: lease.db.into(),
            variant: lease.variant().to_vec(),
            bytes: 0,
            codec: Codec::Plain,
            shown_bytes: 0,
            link: lease.link,
            is_epoch_current: lease.stands(&rules.links),
            age_us: now_us.saturating_sub(lease.sent_us),
            ttl_us: None,
            stale_for_us: None,
            frequency: 0,
            is_absent: false,
            is_lease: true,
        }
    }
}
