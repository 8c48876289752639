//! What is kept in memory, how true it must be, and for how long.
//!
//! Immutable; when the configuration is read again only the budget of L1 is taken from it.

use super::l3::Compression;
use super::reader::{Reader, print_bytes, print_length, print_length_or_off};
use super::{Printed, integer};
use std::time::Duration;

/// The settings of L1.
#[derive(Clone, Debug, PartialEq)]
pub struct Cache {
    /// Whether anything is cached at all; default yes.
    pub enabled: bool,
    /// Budget of L1, keys, values and overhead together; default 256 MiB, minimum 1 MiB.
    pub l1_bytes: usize,
    /// What eviction keeps low; default [`Objective::Requests`].
    pub l1_objective: Objective,
    /// A larger value is never kept; default 1 MiB, minimum 1 B, at most `l1_bytes`.
    pub max_value_bytes: usize,
    /// How true a hit must be; default [`Consistency::Coherent`].
    pub consistency: Consistency,
    /// How the proxy learns what others change; default [`Invalidation::Auto`].
    pub invalidation: Invalidation,
    /// With [`Invalidation::Broadcast`]: only keys that begin with one of these are kept; empty (default) = all. None begins
    /// with another.
    pub broadcast_prefixes: Vec<String>,
    /// The staleness bound T: silence of the upstream after which hits become misses; default 1 s, minimum
    /// 100 ms.
    pub bound: Duration,
    /// No entry is served longer than this after it was read, whatever its own expiry; default none, and 60 s
    /// for [`Consistency::Eventual`], where nothing else ends an entry; minimum 1 ms.
    pub max_age: Option<Duration>,
    /// While the upstream cannot be asked, entries that nobody vouches for are shown for so long after somebody last did;
    /// `None` (default) = not at all; minimum 1 ms. Not with [`Consistency::Strong`].
    pub max_stale: Option<Duration>,
    /// How long the absence of a key is kept; `None` = not at all; default 60 s, minimum 1 ms.
    pub negative_ttl: Option<Duration>,
    /// Of so many hits one is reported to the upstream (`TOUCH`), so that it does not evict what is read here; 0 (default) =
    /// none.
    pub touch_sample: usize,
    /// What values are compressed with in L1, up to level 6; default [`Compression::Off`].
    pub compression: Compression,
    /// Smaller values are not compressed; default and minimum 1 KiB, at most [`MOST_COMPRESSED_BYTES`].
    pub compress_from_bytes: usize,
    /// Number of shards of L1, a power of two; `None` (default) = chosen from the budget.
    pub shards: Option<usize>,
}

/// How true a hit must be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Consistency {
    /// No hits: every read goes to the upstream.
    Strong,
    /// Own writes and monotonic reads for every client; staleness bounded by the invalidation delay, and by
    /// `bound` when the link is broken.
    #[default]
    Coherent,
    /// Entries live out their time and are not invalidated by others' writes.
    Eventual,
}

/// How the proxy learns what others change at the upstream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Invalidation {
    /// The best that the upstream offers and that is enough for the consistency: tracking; for [`Consistency::Eventual`]
    /// also keyspace events, and nothing at all.
    #[default]
    Auto,
    /// `CLIENT TRACKING`: the server remembers what each connection has read, and tells it once when that changes.
    Tracking,
    /// The same in broadcast mode: the server remembers nothing, and tells of every change of a key with one of the prefixes.
    Broadcast,
    /// The messages of `notify-keyspace-events`, which nobody sends again: [`Consistency::Eventual`] only.
    KeyspaceEvents,
    /// What its own clients write, and the time that an entry lives: [`Consistency::Eventual`] only.
    OwnWrites,
}

/// What L1 keeps low when it has to evict.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Objective {
    /// The number of misses: small entries stay longer than large ones that are read as often.
    #[default]
    Requests,
    /// The bytes that misses bring from the upstream.
    Bytes,
}

impl Default for Cache {
    fn default() -> Self {
        Self {
            enabled: true,
            l1_bytes: 256 << 20,
            l1_objective: Objective::Requests,
            max_value_bytes: 1 << 20,
            consistency: Consistency::Coherent,
            invalidation: Invalidation::Auto,
            broadcast_prefixes: Vec::new(),
            bound: Duration::from_secs(1),
            max_age: None,
            max_stale: None,
            negative_ttl: Some(Duration::from_secs(60)),
            touch_sample: 0,
            compression: Compression::default(),
            compress_from_bytes: 1 << 10,
            shards: None,
        }
    }
}

impl Cache {
    /// Whether anything will ever be in it.
    pub fn is_used(&self) -> bool {
        self.enabled && self.consistency != Consistency::Strong
    }

    /// Whether entries may live out their time with nobody to say what becomes of them.
    pub fn takes_own_writes(&self) -> bool {
        self.consistency == Consistency::Eventual
            && matches!(self.invalidation, Invalidation::Auto | Invalidation::OwnWrites)
    }

    /// Whether keyspace events will do.
    pub fn takes_events(&self) -> bool {
        self.consistency == Consistency::Eventual
            && matches!(self.invalidation, Invalidation::Auto | Invalidation::KeyspaceEvents)
    }

    pub(super) fn read(reader: &mut Reader) -> Self {
        let default = Self::default();
        let consistency = reader.choice("cache.consistency", default.consistency, &CONSISTENCIES);
        let eventual = consistency == Consistency::Eventual;
        let cache = Self {
            enabled: reader.flag("cache.enabled", default.enabled),
            l1_bytes: reader.bytes("cache.l1", default.l1_bytes, 1 << 20),
            l1_objective: reader.choice("cache.l1_objective", default.l1_objective, &OBJECTIVES),
            max_value_bytes: reader.bytes("cache.max_value", default.max_value_bytes, 1),
            consistency,
            invalidation: reader.choice("cache.invalidation", default.invalidation, &INVALIDATIONS),
            broadcast_prefixes: reader.texts("cache.broadcast_prefixes").unwrap_or_default(),
            bound: reader.length("cache.bound", default.bound, Duration::from_millis(100)),
            max_age: reader.length_or_off("cache.max_age", eventual.then_some(EVENTUAL_MAX_AGE), MILLISECOND),
            max_stale: reader.length_or_off("cache.max_stale", default.max_stale, MILLISECOND),
            negative_ttl: reader.length_or_off("cache.negative_ttl", default.negative_ttl, MILLISECOND),
            touch_sample: reader.number("cache.touch_sample", default.touch_sample, 0, 1_000_000),
            compression: Compression::read(reader, "cache.compression", MOST_LEVEL),
            compress_from_bytes: reader.bytes("cache.compress_from", default.compress_from_bytes, 1 << 10),
            shards: read_shards(reader),
        };
        if cache.max_value_bytes > cache.l1_bytes {
            reader.problem("cache.max_value", "must not be more than cache.l1");
        }
        if consistency == Consistency::Strong && cache.max_stale.is_some() {
            reader.problem(
                "cache.max_stale",
                "must be off where cache.consistency is \"strong\", which shows no copies",
            );
        }
        let is_from_changed = cache.compress_from_bytes != default.compress_from_bytes;
        if cache.compression == Compression::Off && is_from_changed {
            reader.problem(
                "cache.compress_from",
                "has no effect: set cache.compression to lz4 or zstd",
            );
        }
        if cache.compress_from_bytes > MOST_COMPRESSED_BYTES {
            reader.problem(
                "cache.compress_from",
                "must be at most 64KiB: larger values are not compressed in L1",
            );
        }
        if consistency == Consistency::Strong && cache.compression != Compression::Off {
            reader.problem(
                "cache.compression",
                "must be off where cache.consistency is \"strong\", which keeps nothing",
            );
        }
        if consistency == Consistency::Strong && cache.touch_sample > 0 {
            reader.problem(
                "cache.touch_sample",
                "must be 0 where cache.consistency is \"strong\", which has no hits",
            );
        }
        cache.check_invalidation(reader);
        if eventual && cache.max_age.is_none() {
            reader.problem(
                "cache.max_age",
                "must not be off where cache.consistency is \"eventual\"",
            );
        }
        cache
    }

    fn check_invalidation(&self, reader: &mut Reader) {
        let written = name(&INVALIDATIONS, self.invalidation);
        match (self.consistency, self.invalidation) {
            (_, Invalidation::Auto) => {}
            (Consistency::Strong, _) => reader.problem(
                "cache.invalidation",
                "must be auto where cache.consistency is \"strong\", which keeps nothing",
            ),
            (Consistency::Coherent, Invalidation::KeyspaceEvents | Invalidation::OwnWrites) => reader.problem(
                "cache.invalidation",
                format!(
                    "\"{written}\" cannot keep what cache.consistency = \"coherent\" promises; it needs \"eventual\""
                ),
            ),
            _ => {}
        }
        let prefixes = &self.broadcast_prefixes;
        if self.invalidation != Invalidation::Broadcast && !prefixes.is_empty() {
            reader.problem(
                "cache.broadcast_prefixes",
                "has a meaning only where cache.invalidation is \"broadcast\"",
            );
        }
        for (i, prefix) in prefixes.iter().enumerate() {
            let mut others = prefixes.iter().enumerate().filter(|(j, _)| *j != i);
            // As the server does.
            if let Some((_, other)) = others.find(|(_, other)| other.starts_with(prefix.as_str())) {
                reader.problem(
                    "cache.broadcast_prefixes",
                    format!("\"{prefix}\" is the beginning of \"{other}\": name only the shorter one"),
                );
                break;
            }
        }
    }

    pub(super) fn settings(&self) -> Vec<Printed> {
        let prefixes = self.broadcast_prefixes.iter().map(|prefix| prefix.as_str().into());
        vec![
            ("enabled", self.enabled.into()),
            ("l1", print_bytes(self.l1_bytes)),
            ("l1_objective", name(&OBJECTIVES, self.l1_objective).into()),
            ("max_value", print_bytes(self.max_value_bytes)),
            ("consistency", name(&CONSISTENCIES, self.consistency).into()),
            ("invalidation", name(&INVALIDATIONS, self.invalidation).into()),
            ("broadcast_prefixes", toml::Value::Array(prefixes.collect())),
            ("bound", print_length(self.bound)),
            ("max_age", print_length_or_off(self.max_age)),
            ("max_stale", print_length_or_off(self.max_stale)),
            ("negative_ttl", print_length_or_off(self.negative_ttl)),
            ("touch_sample", integer(self.touch_sample)),
            ("compression", self.compression.print().into()),
            ("compress_from", print_bytes(self.compress_from_bytes)),
            ("shards", integer(self.shards.unwrap_or(0))),
        ]
    }
}

/// Under which name a choice is written.
fn name<T: PartialEq>(choices: &[(&'static str, T)], value: T) -> &'static str {
    choices
        .iter()
        .find(|(_, choice)| *choice == value)
        .map_or("", |&(name, _)| name)
}

fn read_shards(reader: &mut Reader) -> Option<usize> {
    let shards = reader.number("cache.shards", 0, 0, 64);
    if shards != 0 && !shards.is_power_of_two() {
        reader.problem(
            "cache.shards",
            format!("must be a power of two, or 0 for automatic, found {shards}"),
        );
    }
    (shards != 0).then_some(shards)
}

const CONSISTENCIES: [(&str, Consistency); 3] = [
    ("strong", Consistency::Strong),
    ("coherent", Consistency::Coherent),
    ("eventual", Consistency::Eventual),
];
const INVALIDATIONS: [(&str, Invalidation); 5] = [
    ("auto", Invalidation::Auto),
    ("tracking", Invalidation::Tracking),
    ("broadcast", Invalidation::Broadcast),
    ("keyspace-events", Invalidation::KeyspaceEvents),
    ("own-writes", Invalidation::OwnWrites),
];
const OBJECTIVES: [(&str, Objective); 2] = [("requests", Objective::Requests), ("bytes", Objective::Bytes)];
const EVENTUAL_MAX_AGE: Duration = Duration::from_secs(60);
/// Values are compressed by workers, on which others wait.
const MOST_LEVEL: i32 = 6;
/// Nor are larger ones compressed at all.
pub const MOST_COMPRESSED_BYTES: usize = 64 << 10;
const MILLISECOND: Duration = Duration::from_millis(1);
