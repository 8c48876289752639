//! What L1 takes from the allocator, and how its budget is shared out.
//!
//! Counted are the blocks and values of entries, the slab, the index and the ghost, each as jemalloc rounds it.
//! Not counted: leases and waiting followers, which the number of commands in flight bounds.

use super::slab::CHUNK_BYTES;
use super::{Config, Objective};

/// Bytes that `malloc(request)` takes: jemalloc has no headers, but rounds to classes of sizes, and above the last one to pages
/// (its option `disable_large_size_classes`, which is on since 5.3.1).
#[inline]
pub(in crate::cache) const fn malloc_bytes(request: usize) -> usize {
    match request {
        0..=LAST_CLASS => size_class(request),
        _ => round_up(request, PAGE),
    }
}

/// The next size of a series in which tables grow: jemalloc's classes, and as far apart above the last of them. 8, multiples of
/// 16 up to 128, then four between one power of two and the next (jemalloc.3, "SIZE CLASSES").
#[inline]
pub(in crate::cache) const fn size_class(bytes: usize) -> usize {
    match bytes {
        0 => 0,
        1..=8 => 8,
        9..=128 => round_up(bytes, 16),
        _ => round_up(bytes, bytes.next_power_of_two() / 8),
    }
}

/// `step` is a power of two; `next_multiple_of` would divide.
const fn round_up(bytes: usize, step: usize) -> usize {
    (bytes + (step - 1)) & !(step - 1)
}

const LAST_CLASS: usize = 32 << 10;
const PAGE: usize = 4096;

/// What each shard may do.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// A shard's part of the budget.
    pub share_bytes: usize,
    /// The largest value that is kept.
    pub max_value_bytes: usize,
    /// The largest entry that is kept, all included: a quarter of the share, so that one does not displace all others.
    pub max_entry_bytes: usize,
    pub objective: Objective,
}

impl Limits {
    pub fn new(config: &Config, budget_bytes: usize, shards: usize) -> Limits {
        let share_bytes = budget_bytes / shards;
        Limits {
            share_bytes,
            max_value_bytes: config.max_value_bytes,
            max_entry_bytes: share_bytes / 4,
            objective: config.objective,
        }
    }
}

/// What of a budget is left unused when the allocator keeps `unused_bytes` in pages that are used in part. Some of that is
/// ordinary, and nobody knows how much of it is for others than L1; more than a quarter is never taken from entries.
pub(super) fn withheld_bytes(budget_bytes: usize, unused_bytes: usize) -> usize {
    unused_bytes
        .saturating_sub(budget_bytes / 16 + (4 << 20))
        .min(budget_bytes / 4)
}

/// How many shards: a power of two, at most [`MAX_SHARDS`], and unless the configuration names a number, so few that each
/// holds four of the largest entries and several chunks of slots.
pub(super) fn shard_count(config: &Config) -> usize {
    if let Some(wanted) = config.shards {
        return wanted.clamp(1, MAX_SHARDS).next_power_of_two();
    }
    // Two pages beside the value: name and slot must not push the largest value over a quarter.
    let largest = malloc_bytes(config.max_value_bytes.min(1 << 40)) + 2 * PAGE;
    let least_share = (16 * CHUNK_BYTES).max(largest.saturating_mul(4));
    match config.budget_bytes / least_share {
        0 => 1,
        fit => 1 << fit.min(MAX_SHARDS).ilog2(),
    }
}

pub(super) const MAX_SHARDS: usize = 64;

#[cfg(test)]
mod tests;
