//! What the proxy counts. Each worker adds to cells of its own: one writer, so an addition is a plain load and store, and a
//! scrape reads them from another thread. Names of the published metrics are in [`names`]; [`expose`] puts both together.

pub mod expose;
pub mod names;

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// A counter with one writing thread.
#[derive(Debug, Default)]
pub struct Tally(AtomicU64);

impl Tally {
    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(n), Relaxed);
    }

    pub fn value(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// Durations in powers of two of a microsecond: bucket `i` counts those below `2^i` µs (the last one all).
#[derive(Debug)]
pub struct Durations {
    buckets: [Tally; Durations::BUCKETS],
    sum_us: Tally,
}

impl Durations {
    /// The last bucket but one ends at 2^24 µs, about 17 s: beyond every time-out.
    pub const BUCKETS: usize = 26;

    /// `n` operations (at least one) that took `total_us` microseconds together.
    pub fn add_batch(&self, total_us: u64, n: u64) {
        let bucket = (u64::BITS - (total_us / n.max(1)).leading_zeros()) as usize;
        self.buckets[bucket.min(Self::BUCKETS - 1)].add(n);
        self.sum_us.add(total_us);
    }

    pub fn values(&self) -> ([u64; Durations::BUCKETS], u64) {
        (std::array::from_fn(|i| self.buckets[i].value()), self.sum_us.value())
    }
}

impl Default for Durations {
    fn default() -> Self {
        Durations {
            buckets: std::array::from_fn(|_| Tally::default()),
            sum_us: Tally::default(),
        }
    }
}

/// One worker's counters. Every field is a total since the start.
#[derive(Debug, Default)]
pub struct Counters {
    pub requests_total: Tally,
    /// Reads answered from L1.
    pub l1_hits_total: Tally,
    /// Of the hits: those of entries that nobody vouched for any more.
    pub l1_stale_total: Tally,
    /// Cacheable reads that L1 could not answer: leaders, followers and those that passed by.
    pub l1_misses_total: Tally,
    /// Of the misses: reads that waited for somebody else's.
    pub followers_total: Tally,
    /// Misses that the disk was asked about: answered from there, and sent on.
    pub l3_hits_total: Tally,
    /// Of these, those for which nobody vouched any more.
    pub l3_stale_total: Tally,
    pub l3_misses_total: Tally,
    /// Copies on the disk that the server was asked about: those that it has as well, those that it does not, and questions
    /// that it does not answer.
    pub l3_same_total: Tally,
    pub l3_changed_total: Tally,
    pub l3_refused_total: Tally,
    /// Requests answered by the proxy itself.
    pub local_total: Tally,
    /// Requests sent over shared connections (a transaction counts all of its requests).
    pub shared_total: Tally,
    /// Times that a client got an upstream connection of its own.
    pub pinned_total: Tally,
    pub writes_total: Tally,
    /// Replies on shared connections: to clients' requests, to the proxy's PTTLs and PINGs.
    pub l2_replies_total: Tally,
    /// Reads that reached the upstream over a shared connection and found something, or a null.
    pub l2_hits_total: Tally,
    pub l2_misses_total: Tally,
    /// Requests that failed because the upstream was away or was lost.
    pub l2_errors_total: Tally,
    /// Requests whose deadline passed before their reply came.
    pub late_total: Tally,
    /// Requests refused since too much waits for the upstream already.
    pub shed_total: Tally,
    /// Reads sent again after the loss of the connection on which they were.
    pub repeats_total: Tally,
    pub links_lost_total: Tally,
    /// Requests sent again to another node of the cluster, and those that waited before.
    pub redirects_total: Tally,
    pub redirects_delayed_total: Tally,
    /// Replies of replicas.
    pub replica_replies_total: Tally,
    pub pushes_total: Tally,
    pub probes_total: Tally,
    /// Messages handed to clients that share the subscriptions of their worker.
    pub messages_total: Tally,
    pub clients_accepted_total: Tally,
    pub clients_closed_total: Tally,
    /// Clients closed for a reason of the proxy's: limits, budget, protocol errors, idle.
    pub clients_refused_total: Tally,
    pub bytes_in_total: Tally,
    pub bytes_out_total: Tally,
    /// From the arrival of a batch of hits to its last one, for each hit its share.
    pub l1_durations: Durations,
    /// From the queueing of a request to its reply.
    pub l2_durations: Durations,
}
