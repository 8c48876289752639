//! The hash of names, under which all tiers know a key.

use std::hash::Hasher;
use std::sync::OnceLock;

use foldhash::SharedSeed;
use foldhash::fast::FoldHasher;

/// Drawn by each process for itself, unless a store on the disk has one.
static SEED: OnceLock<SharedSeed> = OnceLock::new();

/// The hash of a name, by the seed of this process.
#[inline]
pub fn name_hash(name: &[u8]) -> u64 {
    hash(SEED.get_or_init(drawn), name)
}

#[cold]
fn drawn() -> SharedSeed {
    SharedSeed::from_u64(fastrand::u64(..))
}

/// From now on names are hashed by this seed. False: some were already hashed by another.
pub fn seed_names(seed: u64) -> bool {
    SEED.set(SharedSeed::from_u64(seed)).is_ok()
}

/// What [`name_hash`] is under a seed.
pub fn name_hash_by(seed: u64, name: &[u8]) -> u64 {
    hash(&SharedSeed::from_u64(seed), name)
}

/// Of the bytes alone, without the length that slices put before themselves. The hasher tells lengths apart by turning what
/// it begins with, which therefore must not look the same after a turn.
#[inline]
fn hash(seed: &SharedSeed, name: &[u8]) -> u64 {
    let mut hasher = FoldHasher::with_seed(0x9e37_79b9_7f4a_7c15, seed);
    hasher.write(name);
    hasher.finish()
}

#[cfg(test)]
mod tests;
