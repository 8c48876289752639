//! What is kept in memory, how true it must be, and for how long.
//!
//! Immutable; when the configuration is read again only the budget of L1 is taken from it.

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
    /// The staleness bound T: silence of the upstream after which hits become misses; default 1 s, minimum
    /// 100 ms.
    pub bound: Duration,
    /// No entry is served longer than this after it was read, whatever its own expiry; default none, and 60 s
    /// for [`Consistency::Eventual`], where nothing else ends an entry; minimum 1 ms.
    pub max_age: Option<Duration>,
    /// While the upstream cannot be asked, entries that nobody vouches for are shown for so long after somebody last did;
    /// `None` (default) = not at all; minimum 1 ms. Only with [`Consistency::Coherent`].
    pub max_stale: Option<Duration>,
    /// How long the absence of a key is kept; `None` = not at all; default 60 s, minimum 1 ms.
    pub negative_ttl: Option<Duration>,
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
            bound: Duration::from_secs(1),
            max_age: None,
            max_stale: None,
            negative_ttl: Some(Duration::from_secs(60)),
            shards: None,
        }
    }
}

impl Cache {
    /// Whether anything will ever be in it.
    pub fn is_used(&self) -> bool {
        self.enabled && self.consistency != Consistency::Strong
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
            bound: reader.length("cache.bound", default.bound, Duration::from_millis(100)),
            max_age: reader.length_or_off("cache.max_age", eventual.then_some(EVENTUAL_MAX_AGE), MILLISECOND),
            max_stale: reader.length_or_off("cache.max_stale", default.max_stale, MILLISECOND),
            negative_ttl: reader.length_or_off("cache.negative_ttl", default.negative_ttl, MILLISECOND),
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
        if eventual && cache.max_stale.is_some() {
            reader.problem(
                "cache.max_stale",
                "must be off where cache.consistency is \"eventual\": its entries are shown until cache.max_age, whether \
                 the upstream can be asked or not, so that is what to raise",
            );
        }
        if eventual && cache.max_age.is_none() {
            reader.problem(
                "cache.max_age",
                "must not be off where cache.consistency is \"eventual\"",
            );
        }
        cache
    }

    pub(super) fn settings(&self) -> Vec<Printed> {
        vec![
            ("enabled", self.enabled.into()),
            ("l1", print_bytes(self.l1_bytes)),
            ("l1_objective", name(&OBJECTIVES, self.l1_objective).into()),
            ("max_value", print_bytes(self.max_value_bytes)),
            ("consistency", name(&CONSISTENCIES, self.consistency).into()),
            ("bound", print_length(self.bound)),
            ("max_age", print_length_or_off(self.max_age)),
            ("max_stale", print_length_or_off(self.max_stale)),
            ("negative_ttl", print_length_or_off(self.negative_ttl)),
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
const OBJECTIVES: [(&str, Objective); 2] = [("requests", Objective::Requests), ("bytes", Objective::Bytes)];
const EVENTUAL_MAX_AGE: Duration = Duration::from_secs(60);
const MILLISECOND: Duration = Duration::from_millis(1);
