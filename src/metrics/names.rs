//! Every published metric: its name, its kind and what it says. The `cache_*` family is laid out by layer (`l1`: memory of
//! this process, `l2`: the upstream) and by key class; `nearcache_*` is the proxy itself. Units are in the names; sizes
//! are bytes, times seconds.

/// The layer that a sample is about.
pub const LAYER: &str = "cache_layer";
pub const L1: &str = "l1";
pub const L2: &str = "l2";
pub const L3: &str = "l3";
/// The key class that a sample is about, and the class of every key while there are no others.
pub const CLASS: &str = "cache_type";
pub const DEFAULT_CLASS: &str = "default";
/// What was done: one value for each layer's kind of work, so that a sum over it counts nothing twice.
pub const OPERATION: &str = "operation";
/// A read of one key.
pub const GET: &str = "get";
/// A value stored.
pub const SET: &str = "set";
/// Any request to the upstream on a shared connection, the proxy's own questions included.
pub const REQUEST: &str = "request";
pub const STATUS: &str = "status";
pub const REASON: &str = "reason";
pub const STATE: &str = "state";
/// With what a value was compressed.
pub const CODEC: &str = "codec";
/// The id of a key that files are encrypted with, or `none`.
pub const KEY: &str = "key";
/// A node of the upstream: `host:port`, or the path of a socket.
pub const NODE: &str = "node";

/// A metric with one number for each set of labels.
#[derive(Clone, Copy, Debug)]
pub struct Number {
    pub name: &'static str,
    pub help: &'static str,
    pub kind: Kind,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Only grows while the process lives.
    Counter,
    Gauge,
}

/// A metric that sorts durations into buckets.
#[derive(Clone, Copy, Debug)]
pub struct Histogram {
    pub name: &'static str,
    pub help: &'static str,
}

pub const CACHE_HITS: Number = counter("cache_hits_total", "Reads that the layer answered, one for each key.");
pub const CACHE_MISSES: Number = counter(
    "cache_misses_total",
    "Cacheable reads that the layer could not answer, one for each key.",
);
pub const CACHE_ERRORS: Number = counter(
    "cache_errors_total",
    "Requests that failed because the layer was away or was lost.",
);
pub const CACHE_EVICTIONS: Number = counter("cache_evictions_total", "Entries that made room for others.");
pub const CACHE_SIZE: Number = gauge("cache_size_bytes", "Memory of all entries, their overhead included.");
pub const CACHE_THROUGHPUT: Number = counter("cache_throughput_ops_total", "Operations done.");
pub const CACHE_DURATION: Histogram = Histogram {
    name: "cache_operation_duration_seconds",
    help: "How long operations took.",
};

pub const L1_ENTRIES: Number = gauge("nearcache_l1_entries", "Entries in L1.");
pub const L1_LEASES: Number = gauge("nearcache_l1_leases", "Reads for L1 that are under way.");
pub const L1_BUDGET: Number = gauge("nearcache_l1_budget_bytes", "What cache_size_bytes of L1 may come to.");
pub const L1_WITHHELD: Number = gauge(
    "nearcache_l1_withheld_bytes",
    "Part of the budget that is left unused because the allocator keeps as much in pages that are used in part.",
);
pub const L1_EXPIRATIONS: Number = counter("nearcache_l1_expirations_total", "Entries whose time had come.");
pub const L1_VOIDS: Number = counter(
    "nearcache_l1_voids_total",
    "Entries and leases ended by a change of their key, a loss or an operator.",
);
pub const L1_REFUSED: Number = counter(
    "nearcache_l1_refused_total",
    "Values that were read and not kept, by reason.",
);
pub const L1_STALE: Number = counter(
    "nearcache_l1_stale_total",
    "Of the hits of l1: those of entries that nobody vouched for any more, while the upstream could not be asked.",
);
pub const L1_COMPRESSED: Number = counter(
    "nearcache_l1_compressed_total",
    "Values that were to be compressed in L1, by what with; none: that would not have spared an eighth.",
);
pub const L1_COMPRESSION_BYTES: Number = counter(
    "nearcache_l1_compression_bytes_total",
    "Bytes of the values that were to be compressed in L1, before and after.",
);
pub const L3_STALE: Number = counter(
    "nearcache_l3_stale_total",
    "Of the hits of l3: those of entries that nobody vouched for any more, while the upstream could not be asked.",
);
pub const L1_FOLLOWERS: Number = counter(
    "nearcache_l1_followers_total",
    "Misses that waited for another client's read of the same key.",
);

pub const L3_ENTRIES: Number = gauge("nearcache_l3_entries", "Entries on the disk.");
pub const L3_SEGMENTS: Number = gauge("nearcache_l3_segments", "Segment files.");
pub const L3_INDEX: Number = gauge(
    "nearcache_l3_index_bytes",
    "Memory of the index of what is on the disk, and of what remembers which keys were missed.",
);
pub const L3_QUEUED: Number = gauge("nearcache_l3_queued_bytes", "Evicted entries that wait to be written.");
pub const L3_STATE: Number = gauge(
    "nearcache_l3_state",
    "1 for the state that L3 is in, 0 for the others: working, recovering, in trouble, off after damage.",
);
pub const L3_WRITTEN: Number = counter(
    "nearcache_l3_written_bytes_total",
    "Bytes written, by what they are: evicted entries, entries moved to a newer segment, everything.",
);
pub const L3_COMPRESSED: Number = counter(
    "nearcache_l3_compressed_total",
    "Values that were to be compressed, by what with; none: that would not have spared an eighth.",
);
pub const L3_COMPRESSION_BYTES: Number = counter(
    "nearcache_l3_compression_bytes_total",
    "Bytes of the values that were to be compressed, before and after.",
);
pub const L3_COMPRESSION_SECONDS: Number = counter(
    "nearcache_l3_compression_seconds_total",
    "Time that the writer's thread took to compress.",
);
pub const L3_KEY_SEGMENTS: Number = gauge(
    "nearcache_l3_key_segments",
    "Segment files by the id of the key that they are encrypted with; none: those that are not.",
);
pub const L3_DROPPED: Number = counter(
    "nearcache_l3_dropped_total",
    "Evicted entries that were not written, by reason.",
);
pub const L3_VOIDS: Number = counter(
    "nearcache_l3_voids_total",
    "Entries on the disk that a change of their key ended.",
);
pub const L3_EXPIRATIONS: Number = counter(
    "nearcache_l3_expirations_total",
    "Entries on the disk, or on their way there, whose time had come.",
);
pub const L3_TOMBSTONES: Number = counter(
    "nearcache_l3_tombstones_total",
    "Records written so that what was voided does not come back after a restart.",
);
pub const L3_RECLAIMED: Number = counter(
    "nearcache_l3_reclaimed_segments_total",
    "Segments given up to make room for newer ones.",
);
pub const L3_READS: Number = counter(
    "nearcache_l3_reads_total",
    "Lookups that went to the disk, by what came of it: found, read at once from the page cache, joined another's read, shed because too many waited.",
);
pub const L3_REVALIDATIONS: Number = counter(
    "nearcache_l3_revalidations_total",
    "Strings on the disk that the upstream was asked about by DIGEST, by what it said: same, changed, refused to tell.",
);
pub const L3_FAULTS: Number = counter(
    "nearcache_l3_faults_total",
    "What went wrong with the disk: damaged records, refused reads and writes, segments given up, repairs at the start.",
);

pub const REQUESTS: Number = counter("nearcache_requests_total", "Requests of clients.");
pub const LOCAL_REQUESTS: Number = counter(
    "nearcache_local_requests_total",
    "Requests answered by the proxy itself.",
);
pub const SHARED_REQUESTS: Number = counter(
    "nearcache_shared_requests_total",
    "Requests of clients sent over shared connections.",
);
pub const PINNED_SESSIONS: Number = counter(
    "nearcache_pinned_sessions_total",
    "Times that a client was given a connection of its own.",
);
pub const WRITES: Number = counter("nearcache_writes_total", "Writes sent over shared connections.");
pub const RECEIVED: Number = counter("nearcache_received_bytes_total", "Bytes received from clients.");
pub const SENT: Number = counter("nearcache_sent_bytes_total", "Bytes sent to clients.");
pub const BUFFERED: Number = gauge(
    "nearcache_buffered_bytes",
    "Bytes in buffers that grow with what clients send and ask for.",
);

pub const CLIENTS: Number = gauge("nearcache_clients", "Clients that are connected.");
pub const CLIENTS_ACCEPTED: Number = counter("nearcache_clients_accepted_total", "Clients that were let in.");
pub const CLIENTS_CLOSED: Number = counter("nearcache_clients_closed_total", "Clients that have gone.");
pub const CLIENTS_REFUSED: Number = counter(
    "nearcache_clients_refused_total",
    "Clients closed for a limit, a protocol error or idleness.",
);
pub const PINNED_CONNECTIONS: Number = gauge(
    "nearcache_pinned_connections",
    "Upstream connections that belong to one client, or wait for one.",
);

pub const UPSTREAM_UP: Number = gauge("nearcache_upstream_up", "1 while any shared connection is up.");
pub const UPSTREAM_INFO: Number = gauge("nearcache_upstream_info", "1; the labels say what the upstream is.");
pub const UPSTREAM_SWITCHES: Number = counter(
    "nearcache_upstream_switches_total",
    "Times that another node became the upstream.",
);
pub const BREAKER_STATE: Number = gauge(
    "nearcache_breaker_state",
    "1 for the state of the node's breaker, 0 for the others.",
);
pub const BREAKER_CHANGES: Number = counter(
    "nearcache_breaker_changes_total",
    "Times that the node's breaker came into the state.",
);
pub const SENTINELS: Number = gauge(
    "nearcache_sentinels",
    "Sentinels that there are, that answer, and that name the primary in use.",
);
pub const REPLICAS: Number = gauge("nearcache_replicas", "Replicas that the sentinels know.");
pub const LINKS: Number = gauge("nearcache_links", "Shared connections in use, up or not.");
pub const LINKS_TRACKED: Number = gauge("nearcache_links_tracked", "Shared connections that are up and tracked.");
pub const LINKS_REFUSED: Number = gauge(
    "nearcache_links_refused",
    "Shared connections that are up and whose tracking was refused.",
);
pub const LINKS_SILENT: Number = gauge(
    "nearcache_links_silent",
    "Tracked connections without an answer within the staleness bound.",
);
pub const LATE: Number = counter(
    "nearcache_request_timeouts_total",
    "Requests that were not answered within upstream.request_timeout.",
);
pub const SHED: Number = counter(
    "nearcache_shed_requests_total",
    "Requests refused since too much waits for the upstream already.",
);
pub const REPEATS: Number = counter(
    "nearcache_repeated_reads_total",
    "Reads sent again after the loss of the connection on which they were.",
);
pub const LINKS_LOST: Number = counter("nearcache_links_lost_total", "Losses of shared connections.");
pub const REDIRECTS: Number = counter(
    "nearcache_redirects_total",
    "Requests sent again because a node of the cluster had sent them elsewhere.",
);
pub const REPLICA_REPLIES: Number = counter(
    "nearcache_replica_replies_total",
    "Replies that came from replicas, those to questions of the proxy's own included.",
);
pub const READERS: Number = gauge(
    "nearcache_readers",
    "Nodes that reads may be spread over besides the primary alone, by whether they can be used now.",
);
pub const CLUSTER_NODES: Number = gauge(
    "nearcache_cluster_nodes",
    "Nodes of the cluster: primaries with slots, those of them that are held for dead, and replicas.",
);
pub const CLUSTER_SLOTS: Number = gauge("nearcache_cluster_slots", "Slots of the cluster that have a node.");
pub const CLUSTER_CHANGES: Number = counter(
    "nearcache_cluster_changes_total",
    "Times that slots were seen to go from one node to another, the first look included.",
);
pub const PUSHES: Number = counter("nearcache_pushes_total", "Invalidation messages received.");
pub const PROBES: Number = counter("nearcache_probes_total", "Probes sent over quiet shared connections.");

pub const SUBSCRIPTIONS: Number = gauge(
    "nearcache_subscriptions",
    "Channels and patterns subscribed to upstream, once for each worker with clients that listen.",
);
pub const MESSAGES: Number = counter(
    "nearcache_messages_total",
    "Messages handed to clients that share their worker's subscriptions.",
);

pub const HEALTH: Number = gauge(
    "nearcache_health",
    "1 for the status that /health answers, 0 for the others.",
);
pub const CACHE_INFO: Number = gauge(
    "nearcache_cache_info",
    "1; the label says by what right anything is cached.",
);
pub const PROTOCOL: Number = gauge(
    "nearcache_upstream_protocol",
    "The version of RESP that the upstream speaks, and clients at most: 2 or 3.",
);
pub const INVALIDATION: Number = gauge(
    "nearcache_invalidation_mode",
    "1 for the means by which the proxy learns what others change at the upstream, 0 for the others.",
);
pub const TOUCHES: Number = counter(
    "nearcache_touched_keys_total",
    "Keys of hits of which the upstream was told that they are used.",
);
pub const TOUCHES_DROPPED: Number = counter(
    "nearcache_touched_keys_dropped_total",
    "Keys of hits of which it was not told: too many at a time, or it could not be told or would not care.",
);
pub const KEYSPACE_EVENTS: Number = counter(
    "nearcache_keyspace_events_total",
    "Changes of which the upstream has told by keyspace events.",
);
pub const BUILD_INFO: Number = gauge("nearcache_build_info", "1; the label says which version this is.");
pub const UPTIME: Number = gauge("nearcache_uptime_seconds", "Time since the start.");
pub const WORKERS: Number = gauge("nearcache_workers", "Worker threads.");

const fn counter(name: &'static str, help: &'static str) -> Number {
    Number {
        name,
        help,
        kind: Kind::Counter,
    }
}

const fn gauge(name: &'static str, help: &'static str) -> Number {
    Number {
        name,
        help,
        kind: Kind::Gauge,
    }
}
