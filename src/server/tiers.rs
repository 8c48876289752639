//! The tiers, as the configuration wants them.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::cache::l3::codec::Method;
use crate::cache::l3::format::Damage;
use crate::cache::l3::keys::{KeyRing, NewSegments};
use crate::cache::l3::{self, L3, OpenError};
use crate::cache::{self, L1, L1Config, Links, name_hash_by, seed_names};
use crate::clock;
use crate::command::Table;
use crate::config::{
    Admission, Compression, Config, Consistency, Endpoint, Invalidation, MOST_COMPRESSED_BYTES, Objective, Place,
    Recovery, Sync, Upstream,
};
use crate::proxy::shared::Shared;
use crate::upstream::dial::Target;

/// Opens the store on the disk, if there is to be one. Before any name is hashed: its seed becomes that of the process.
///
/// # Errors
/// What is wrong with the directory, and the option that names it.
pub fn open_l3(config: &Config) -> Result<Option<Arc<L3>>, String> {
    let Some(path) = &config.l3.path else { return Ok(None) };
    if !config.cache.is_used() {
        tracing::warn!("l3.path has no effect: nothing is cached (cache.enabled, cache.consistency)");
        return Ok(None);
    }
    let disk = l3::storage::Disk::new(path).map_err(|error| format!("l3.path: {}: {error}", path.display()))?;
    let opened = L3::open(l3_config(config), Box::new(disk)).map_err(|error| match error {
        OpenError::Unknown {
            damage: Damage::Key(_), ..
        } => format!("l3.encryption_key_file: {error}"),
        _ => format!("l3.path: {error}"),
    })?;
    if !seed_names(opened.seed()) {
        return Err("l3.path: names were hashed before the store was opened".to_owned());
    }
    let key = key_ring(config).writing().map(|key| key.id().to_string());
    tracing::info!(path = %path.display(), encrypted_with = key.as_deref().unwrap_or("nothing"), "L3 is open");
    Ok(Some(Arc::new(opened)))
}

fn l3_config(config: &Config) -> l3::Config {
    let settings = &config.l3;
    let unix_ms = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_millis() as u64);
    l3::Config {
        size_bytes: settings.size_bytes as u64,
        segment_bytes: settings.segment_bytes() as u64,
        max_value_bytes: settings.max_value_bytes,
        queue_bytes: settings.queue_bytes,
        admission: match settings.admission {
            Admission::All => l3::Admission::All,
            Admission::SecondSight => l3::Admission::SecondSight,
            Admission::ThirdSight => l3::Admission::ThirdSight,
        },
        sync: match settings.sync {
            Sync::Never => l3::Sync::Never,
            Sync::Interval => l3::Sync::Interval(micros(settings.sync_interval)),
            Sync::EachSegment => l3::Sync::EachSegment,
        },
        recovery: match settings.recovery {
            Recovery::Strict => l3::Recovery::Strict,
            Recovery::TolerateTornTail => l3::Recovery::TolerateTornTail,
            Recovery::Salvage => l3::Recovery::Salvage,
        },
        write_bytes_a_second: settings.write_rate_bytes.map(|bytes| bytes as u64),
        readers: settings.readers,
        compression: compression(settings.compression, settings.compress_from_bytes),
        keys: key_ring(config),
        hash: name_hash_by,
        identity: identity(&config.upstream),
        unix_offset_ms: unix_ms.saturating_sub(clock::now_us() / 1000),
        boot: boot(),
    }
}

pub fn key_ring(config: &Config) -> KeyRing {
    let new_segments = match config.l3.is_writing_plain {
        true => NewSegments::Plain,
        false => NewSegments::Encrypted,
    };
    KeyRing::new(config.l3.keys.expose(), new_segments)
}

/// Applies the keys of L3 that have been read again.
pub fn reload_keys(shared: &Shared, config: &Config) {
    let Some(l3) = shared.cache.l3() else { return };
    let keys = key_ring(config);
    let writing = keys.writing().map(|key| key.id());
    let before = l3.key_segments().last().and_then(|&(key, _)| key);
    match l3.set_keys(keys) {
        Ok(()) if before == writing => {}
        Ok(()) => tracing::info!(
            encrypted_with = writing.map_or_else(|| "nothing".to_owned(), |key| key.to_string()),
            "SIGHUP: new segments of L3 have another key"
        ),
        Err(why) => {
            tracing::error!("SIGHUP: the keys of L3 stay as they were: {why}");
            *shared.last_trouble.lock() = Some(format!("the keys of L3 were not exchanged: {why}"));
        }
    }
}

/// The machine's own life, which no one sets back. `None`: the system does not tell.
fn boot() -> Option<l3::Boot> {
    let id = std::fs::read("/proc/sys/kernel/random/boot_id").ok()?;
    let age = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    let age_ms = age.tv_sec as u64 * 1000 + age.tv_nsec as u64 / 1_000_000;
    Some(l3::Boot {
        id: name_hash_by(0, &id).max(1),
        age_ms: age_ms.saturating_sub(clock::now_us() / 1000),
    })
}

/// Of the upstream and its user, whose values these are, and of the numbers that commands have in this program, which are a
/// part of what entries are found by.
fn identity(upstream: &Upstream) -> u64 {
    // In whatever order they are written.
    let list = |nodes: &[Endpoint]| {
        let mut names: Vec<String> = nodes.iter().map(|node| format!(" {node}")).collect();
        names.sort();
        names.concat()
    };
    let mut text = match upstream {
        Upstream::Embedded { data_dir } => format!("data {}", data_dir.display()),
        Upstream::Url { place, user, .. } => {
            let place = match place {
                Place::Node(node) => format!("node {node}"),
                // Other sentinels of the same name may watch another primary.
                Place::Sentinel(sentinels) => format!("sentinel {}{}", sentinels.name, list(&sentinels.nodes)),
                Place::Cluster(nodes) => format!("cluster{}", list(nodes)),
            };
            format!("{place} as {}", user.as_deref().unwrap_or_default())
        }
    };
    for spec in Table::builtin().rows() {
        text.push_str(&format!(" {} {}", spec.id, spec.name));
    }
    name_hash_by(0, text.as_bytes())
}

pub fn build(config: Config, target: Target, l3: Option<Arc<L3>>) -> Shared {
    // Nobody tells when a key is created in a slot that has gone to another node.
    let is_cluster = matches!(
        config.upstream,
        Upstream::Url {
            place: Place::Cluster(_),
            ..
        }
    );
    let longest_absence = if is_cluster {
        Duration::from_secs(1)
    } else {
        Duration::MAX
    };
    let links = Links::new(micros(config.cache.bound));
    let links = Arc::new(match config.cache.invalidation {
        Invalidation::Broadcast => links.by_turn(),
        _ => links,
    });
    let l1 = L1::over(
        L1Config {
            budget_bytes: config.cache.l1_bytes,
            shards: config.cache.shards,
            max_value_bytes: config.cache.max_value_bytes,
            // `None` in the configuration means that absence is not kept.
            negative_ttl_us: Some(
                config
                    .cache
                    .negative_ttl
                    .map_or(0, |ttl| micros(ttl.min(longest_absence))),
            ),
            max_age_us: config.cache.max_age.map(micros),
            max_stale_us: config.cache.max_stale.map(micros),
            consistency: match config.cache.consistency {
                Consistency::Eventual => cache::Consistency::Eventual,
                Consistency::Coherent | Consistency::Strong => cache::Consistency::Coherent,
            },
            objective: match config.cache.l1_objective {
                Objective::Requests => cache::Objective::Requests,
                Objective::Bytes => cache::Objective::Bytes,
            },
            compression: compression(config.cache.compression, config.cache.compress_from_bytes),
        },
        Arc::clone(&links),
        l3,
    );
    let workers = config.worker_threads();
    Shared::new(config, target, l1, links, workers)
}

/// What the configuration refuses is what L1 would pass over.
const _: () = assert!(MOST_COMPRESSED_BYTES == cache::MOST_PACKED_BYTES);

fn compression(configured: Compression, from_bytes: usize) -> Option<l3::Compression> {
    let method = match configured {
        Compression::Off => return None,
        Compression::Lz4 => Method::Lz4,
        Compression::Zstd(level) => Method::Zstd(level),
    };
    Some(l3::Compression { method, from_bytes })
}

fn micros(length: Duration) -> u64 {
    length.as_micros() as u64
}
