//! What a scrape says: every published metric and where its number comes from.

use std::sync::atomic::Ordering::Relaxed;

use super::health::{Seen, Status};
use crate::cache::Stats;
use crate::cache::l3::codec::Codec;
use crate::cache::l3::{L3, State};
use crate::clock;
use crate::metrics::expose::{Exposition, Labels};
use crate::metrics::names::{self, Number};
use crate::metrics::{Counters, Durations, Tally};
use crate::proxy::invalidation::Mode;
use crate::proxy::shared::Shared;
use crate::resp::Version;
use crate::upstream::breaker;
use crate::upstream::sentinel::Sentinels;

pub fn collect(shared: &Shared) -> Exposition {
    let mut out = Exposition::default();
    let stats = shared.cache.stats();
    layers(&mut out, shared, &stats);
    l1(&mut out, &stats);
    if let Some(store) = shared.cache.l3() {
        l3(&mut out, shared, store);
    }
    for (metric, field) in TOTALS {
        out.add(&metric, &[], total(shared, field));
    }
    upstream(&mut out, shared);
    process(&mut out, shared);
    out
}

type Field = fn(&Counters) -> &Tally;

/// Metrics that are the sum of one counter over the workers.
const TOTALS: [(Number, Field); 21] = [
    (names::LATE, |c| &c.late_total),
    (names::SHED, |c| &c.shed_total),
    (names::REPEATS, |c| &c.repeats_total),
    (names::L1_STALE, |c| &c.l1_stale_total),
    (names::L1_FOLLOWERS, |c| &c.followers_total),
    (names::REQUESTS, |c| &c.requests_total),
    (names::LOCAL_REQUESTS, |c| &c.local_total),
    (names::SHARED_REQUESTS, |c| &c.shared_total),
    (names::PINNED_SESSIONS, |c| &c.pinned_total),
    (names::WRITES, |c| &c.writes_total),
    (names::RECEIVED, |c| &c.bytes_in_total),
    (names::SENT, |c| &c.bytes_out_total),
    (names::CLIENTS_ACCEPTED, |c| &c.clients_accepted_total),
    (names::CLIENTS_CLOSED, |c| &c.clients_closed_total),
    (names::CLIENTS_REFUSED, |c| &c.clients_refused_total),
    (names::LINKS_LOST, |c| &c.links_lost_total),
    (names::PUSHES, |c| &c.pushes_total),
    (names::REDIRECTS, |c| &c.redirects_total),
    (names::REPLICA_REPLIES, |c| &c.replica_replies_total),
    (names::PROBES, |c| &c.probes_total),
    (names::MESSAGES, |c| &c.messages_total),
];

type DurationsField = fn(&Counters) -> &Durations;

/// Layer, operation and where its durations are.
const DURATIONS: [(&str, &str, DurationsField); 2] = [
    (names::L1, names::GET, |c| &c.l1_durations),
    (names::L2, names::REQUEST, |c| &c.l2_durations),
];

/// Labels while there are no key classes.
const IN_L1: &Labels<'static> = &[(names::LAYER, names::L1), (names::CLASS, names::DEFAULT_CLASS)];
const IN_L2: &Labels<'static> = &[(names::LAYER, names::L2), (names::CLASS, names::DEFAULT_CLASS)];

const IN_L3: &Labels<'static> = &[(names::LAYER, names::L3), (names::CLASS, names::DEFAULT_CLASS)];

/// The `cache_*` family. Every number is one counter or a sum of counters, never a difference: two counters are not read
/// in one moment, and a total that seems to shrink is taken for a restart.
fn layers(out: &mut Exposition, shared: &Shared, stats: &Stats) {
    let (hits, misses) = (
        total(shared, |c| &c.l1_hits_total),
        total(shared, |c| &c.l1_misses_total),
    );
    out.add(&names::CACHE_HITS, IN_L1, hits);
    out.add(&names::CACHE_HITS, IN_L2, total(shared, |c| &c.l2_hits_total));
    out.add(&names::CACHE_MISSES, IN_L1, misses);
    out.add(&names::CACHE_MISSES, IN_L2, total(shared, |c| &c.l2_misses_total));
    out.add(&names::CACHE_ERRORS, IN_L2, total(shared, |c| &c.l2_errors_total));
    out.add(&names::CACHE_EVICTIONS, IN_L1, stats.evictions as f64);
    out.add(&names::CACHE_SIZE, IN_L1, stats.used_bytes as f64);
    for (codec, count) in [
        (Codec::Zstd, stats.compressed_zstd),
        (Codec::Lz4, stats.compressed_lz4),
        (Codec::Plain, stats.compressed_not),
    ] {
        out.add(&names::L1_COMPRESSED, &[(names::CODEC, codec.name())], count as f64);
    }
    for (when, bytes) in [
        ("before", stats.compress_from_bytes),
        ("after", stats.compress_to_bytes),
    ] {
        out.add(&names::L1_COMPRESSION_BYTES, &[(names::OPERATION, when)], bytes as f64);
    }
    for (layer, operation, done) in [
        (names::L1, names::GET, hits + misses),
        (names::L1, names::SET, stats.inserts as f64),
        (names::L2, names::REQUEST, total(shared, |c| &c.l2_replies_total)),
    ] {
        out.add(
            &names::CACHE_THROUGHPUT,
            &[(names::OPERATION, operation), (names::LAYER, layer)],
            done,
        );
    }
    for (layer, operation, field) in DURATIONS {
        let labels = [(names::OPERATION, operation), (names::LAYER, layer)];
        out.add_durations(
            &names::CACHE_DURATION,
            &labels,
            shared.counters.iter().map(|counters| field(counters)),
        );
    }
}

fn l1(out: &mut Exposition, stats: &Stats) {
    out.add(&names::L1_ENTRIES, &[], stats.entries as f64);
    out.add(&names::L1_LEASES, &[], stats.leases as f64);
    out.add(&names::L1_BUDGET, &[], stats.budget_bytes as f64);
    out.add(&names::L1_WITHHELD, &[], stats.withheld_bytes as f64);
    out.add(&names::L1_EXPIRATIONS, &[], stats.expirations as f64);
    out.add(&names::L1_VOIDS, &[], stats.voids as f64);
    out.add(
        &names::L1_REFUSED,
        &[(names::REASON, "too_large")],
        stats.refused_too_large as f64,
    );
    out.add(
        &names::L1_REFUSED,
        &[(names::REASON, "voided")],
        stats.refused_voided as f64,
    );
}

/// Nothing is published of a tier that there is not.
fn l3(out: &mut Exposition, shared: &Shared, store: &L3) {
    let stats = store.stats();
    let counts = stats.counts;
    out.add(&names::CACHE_HITS, IN_L3, total(shared, |c| &c.l3_hits_total));
    out.add(&names::L3_STALE, &[], total(shared, |c| &c.l3_stale_total));
    out.add(&names::CACHE_MISSES, IN_L3, total(shared, |c| &c.l3_misses_total));
    for (outcome, count) in [
        ("same", total(shared, |c| &c.l3_same_total)),
        ("changed", total(shared, |c| &c.l3_changed_total)),
        ("refused", total(shared, |c| &c.l3_refused_total)),
    ] {
        out.add(&names::L3_REVALIDATIONS, &[(names::OPERATION, outcome)], count);
    }
    out.add(
        &names::CACHE_ERRORS,
        IN_L3,
        (counts.read_errors + counts.write_errors) as f64,
    );
    out.add(&names::CACHE_SIZE, IN_L3, stats.file_bytes as f64);
    let stored = [(names::OPERATION, names::SET), (names::LAYER, names::L3)];
    out.add(&names::CACHE_THROUGHPUT, &stored, counts.writes as f64);
    out.add(&names::L3_ENTRIES, &[], stats.entries as f64);
    out.add(&names::L3_SEGMENTS, &[], stats.segments as f64);
    out.add(&names::L3_INDEX, &[], (stats.index_bytes + stats.sketch_bytes) as f64);
    out.add(&names::L3_QUEUED, &[], stats.queued_bytes as f64);
    let state = store.state();
    for one in State::ALL {
        out.add(
            &names::L3_STATE,
            &[(names::STATE, one.name())],
            f64::from(u8::from(state == one)),
        );
    }
    for (what, bytes) in [
        ("evicted", counts.write_bytes),
        ("moved", counts.reinserted_bytes),
        ("all", counts.medium_bytes),
    ] {
        out.add(&names::L3_WRITTEN, &[(names::OPERATION, what)], bytes as f64);
    }
    for (codec, count) in [
        (Codec::Zstd, counts.compressed_zstd),
        (Codec::Lz4, counts.compressed_lz4),
        (Codec::Plain, counts.compressed_not),
    ] {
        out.add(&names::L3_COMPRESSED, &[(names::CODEC, codec.name())], count as f64);
    }
    for (when, bytes) in [
        ("before", counts.compress_from_bytes),
        ("after", counts.compress_to_bytes),
    ] {
        out.add(&names::L3_COMPRESSION_BYTES, &[(names::OPERATION, when)], bytes as f64);
    }
    out.add(&names::L3_COMPRESSION_SECONDS, &[], counts.compress_ns as f64 / 1e9);
    for (key, segments) in store.key_segments() {
        let key = key.map_or_else(|| "none".to_owned(), |key| key.to_string());
        out.add(&names::L3_KEY_SEGMENTS, &[(names::KEY, &key)], segments as f64);
    }
    for (reason, count) in [
        ("kept", counts.kept),
        ("admission", counts.refused_admission),
        ("too_large", counts.refused_too_large),
        ("queue_full", counts.dropped_queue_full),
        ("rate", counts.dropped_rate),
        ("trouble", counts.dropped_trouble),
        ("voided", counts.overtaken),
    ] {
        out.add(&names::L3_DROPPED, &[(names::REASON, reason)], count as f64);
    }
    for (outcome, count) in [
        ("found", counts.hits),
        ("at_once", counts.reads_at_once),
        ("joined", counts.reads_joined),
        ("shed", counts.reads_shed),
    ] {
        out.add(&names::L3_READS, &[(names::OPERATION, outcome)], count as f64);
    }
    for (fault, count) in [
        ("damaged_record", counts.corrupt_records),
        ("read", counts.read_errors),
        ("write", counts.write_errors),
        ("segment", counts.retired_segments),
        ("repair", counts.repairs),
    ] {
        out.add(&names::L3_FAULTS, &[(names::REASON, fault)], count as f64);
    }
    out.add(&names::L3_VOIDS, &[], counts.voids as f64);
    out.add(&names::L3_EXPIRATIONS, &[], counts.expirations as f64);
    out.add(&names::L3_TOMBSTONES, &[], counts.tombstones as f64);
    out.add(&names::L3_RECLAIMED, &[], counts.reclaimed_segments as f64);
}

fn upstream(out: &mut Exposition, shared: &Shared) {
    let seen = Seen::of(shared);
    let links = seen.links;
    out.add(&names::UPSTREAM_UP, &[], f64::from(u8::from(links.up() > 0)));
    let facts = shared.facts();
    if facts.is_known {
        let node = shared.target.node();
        let labels = [
            ("address", &*node),
            ("server", &*facts.server),
            ("version", &*facts.version),
        ];
        out.add(&names::UPSTREAM_INFO, &labels, 1.0);
    }
    out.add(&names::UPSTREAM_SWITCHES, &[], shared.switches.load(Relaxed) as f64);
    for node in shared.nodes() {
        let (name, breaker) = (node.node(), node.breaker());
        let now = breaker.state();
        for state in breaker::State::ALL {
            let labels = [(names::NODE, &*name), (names::STATE, state.name())];
            out.add(&names::BREAKER_STATE, &labels, f64::from(u8::from(state == now)));
            out.add(&names::BREAKER_CHANGES, &labels, breaker.changes(state) as f64);
        }
    }
    let (sentinels, replicas) = match &shared.topology {
        Some(topology) => {
            let topology = topology.borrow();
            (topology.sentinels, topology.replicas.len())
        }
        None => (Sentinels::default(), 0),
    };
    for (state, count) in [
        ("known", sentinels.known),
        ("answering", sentinels.answering),
        ("agreeing", sentinels.agreeing),
    ] {
        out.add(&names::SENTINELS, &[(names::STATE, state)], count as f64);
    }
    out.add(&names::REPLICAS, &[], replicas as f64);
    let [primaries, failed, replicas, slots, changes] = match &shared.cluster {
        Some(cluster) => {
            let topology = cluster.topology();
            let nodes = [&topology.primaries, &topology.failed].map(Vec::len);
            let [primaries, failed] = nodes;
            let (replicas, changes) = (topology.replicas.len(), topology.version as usize);
            [primaries, failed, replicas, topology.assigned(), changes]
        }
        None => [0; 5],
    };
    for (state, count) in [("primary", primaries), ("failed", failed), ("replica", replicas)] {
        out.add(&names::CLUSTER_NODES, &[(names::STATE, state)], count as f64);
    }
    let readers = shared.readers.iter().flat_map(|readers| readers.list().to_vec());
    let (usable, unusable): (Vec<_>, Vec<_>) = readers.partition(|reader| reader.is_usable());
    for (state, readers) in [("usable", usable), ("unusable", unusable)] {
        out.add(&names::READERS, &[(names::STATE, state)], readers.len() as f64);
    }
    out.add(&names::CLUSTER_SLOTS, &[], slots as f64);
    out.add(&names::CLUSTER_CHANGES, &[], changes as f64);
    out.add(&names::LINKS, &[], links.wanted as f64);
    out.add(&names::LINKS_TRACKED, &[], links.tracked as f64);
    out.add(&names::LINKS_REFUSED, &[], links.refused as f64);
    out.add(&names::LINKS_SILENT, &[], links.silent as f64);
    let verdict = seen.judge();
    for status in Status::ALL {
        let is_so = u8::from(verdict.status == status);
        out.add(&names::HEALTH, &[(names::STATUS, status.name())], f64::from(is_so));
    }
    out.add(&names::SUBSCRIPTIONS, &[], shared.audience.held() as f64);
    let now = Mode::of(shared);
    for mode in Mode::ALL {
        let is_so = u8::from(mode == now);
        out.add(&names::INVALIDATION, &[("mode", mode.name())], f64::from(is_so));
    }
    let protocol = match shared.target.spoken().version() {
        Version::Resp2 => 2.0,
        Version::Resp3 => 3.0,
    };
    out.add(&names::PROTOCOL, &[], protocol);
    let touches = &shared.touches;
    out.add(&names::TOUCHES, &[], touches.sent_total.load(Relaxed) as f64);
    out.add(&names::TOUCHES_DROPPED, &[], touches.dropped_total.load(Relaxed) as f64);
    out.add(&names::KEYSPACE_EVENTS, &[], shared.events_total.load(Relaxed) as f64);
    out.add(&names::CACHE_INFO, &[("caching", seen.caching.name())], 1.0);
}

fn process(out: &mut Exposition, shared: &Shared) {
    out.add(&names::CLIENTS, &[], shared.clients.load(Relaxed) as f64);
    out.add(&names::PINNED_CONNECTIONS, &[], shared.pinned.load(Relaxed) as f64);
    out.add(&names::BUFFERED, &[], shared.buffered_bytes.load(Relaxed) as f64);
    out.add(&names::WORKERS, &[], shared.inboxes.len() as f64);
    out.add(
        &names::UPTIME,
        &[],
        clock::now_us().saturating_sub(shared.started_us) as f64 / 1e6,
    );
    out.add(&names::BUILD_INFO, &[("version", env!("CARGO_PKG_VERSION"))], 1.0);
}

fn total(shared: &Shared, field: Field) -> f64 {
    shared
        .counters
        .iter()
        .map(|counters| field(counters).value())
        .sum::<u64>() as f64
}
