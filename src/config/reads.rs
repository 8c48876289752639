//! Which nodes answer clients' reads.
//!
//! Immutable. Replicas lag behind, and nobody tells by how much: so they are read from only where a client has been promised
//! nothing that a lagging node could break.

use super::cache::{Cache, Consistency};
use super::reader::{Reader, print_length};
use super::url::{DEFAULT_PORT, split_host_port};
use super::{Endpoint, Place, Printed, Upstream};
use std::path::PathBuf;
use std::time::Duration;

/// The settings of reads that may go to replicas.
#[derive(Clone, Debug, PartialEq)]
pub struct Reads {
    /// Who answers them; default [`ReadFrom::Primary`].
    pub from: ReadFrom,
    /// The replicas of a server that stands alone; sentinels and clusters tell of theirs.
    pub replicas: Vec<Endpoint>,
    /// Patterns of addresses: nodes in the proxy's own availability zone, which are read from before others; default none.
    pub zone: Vec<String>,
    /// A replica that may be further behind its primary is not read from; default 10 s, minimum 2 s.
    pub most_lag: Duration,
}

/// Who answers reads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ReadFrom {
    /// The primary alone.
    #[default]
    Primary,
    /// The replicas, and the primary only while none of them can be used.
    PreferReplica,
    /// Whoever answers soonest, the primary included.
    Nearest,
}

impl Default for Reads {
    fn default() -> Self {
        Self {
            from: ReadFrom::default(),
            replicas: Vec::new(),
            zone: Vec::new(),
            most_lag: Duration::from_secs(10),
        }
    }
}

impl Reads {
    /// Whether anything is read from replicas.
    pub fn are_spread(&self) -> bool {
        self.from != ReadFrom::Primary
    }

    pub(super) fn read(reader: &mut Reader, upstream: &Upstream, cache: &Cache) -> Self {
        let from = reader.choice("upstream.read_from", ReadFrom::default(), &CHOICES);
        let texts = reader.texts("upstream.replicas").unwrap_or_default();
        let mut replicas: Vec<Endpoint> = Vec::with_capacity(texts.len());
        for text in texts {
            match endpoint(&text) {
                Ok(replica) if replicas.contains(&replica) => {
                    reader.problem("upstream.replicas", format!("names {replica} twice"));
                }
                Ok(replica) => replicas.push(replica),
                Err(why) => reader.problem("upstream.replicas", format!("\"{text}\": {why}")),
            }
        }
        let zone = reader.texts("upstream.zone").unwrap_or_default();
        // A replica is looked at every second, and is behind by that in any case.
        let most_lag = reader.length(
            "upstream.max_replica_lag",
            Self::default().most_lag,
            Duration::from_secs(2),
        );
        if from == ReadFrom::Primary {
            for (key, is_set) in [
                ("upstream.replicas", !replicas.is_empty()),
                ("upstream.zone", !zone.is_empty()),
                (
                    "upstream.max_replica_lag",
                    reader.origin("upstream.max_replica_lag").is_some(),
                ),
            ] {
                if is_set {
                    reader.problem(
                        key,
                        "has no effect: set upstream.read_from to prefer-replica or nearest",
                    );
                }
            }
            return Self::default();
        }
        if cache.consistency != Consistency::Eventual {
            reader.problem(
                "upstream.read_from",
                "needs cache.consistency = \"eventual\": a replica lags behind its primary, so neither own writes nor the newest \
                 value can be promised by it; or leave it at primary",
            );
        }
        match upstream {
            Upstream::Embedded { .. } => reader.problem(
                "upstream.read_from",
                "has no replicas to read from: the private server has none; set upstream.url",
            ),
            Upstream::Url {
                place: Place::Node(_), ..
            } if replicas.is_empty() => reader.problem(
                "upstream.read_from",
                "has no replicas to read from: name them in upstream.replicas (sentinels and clusters tell of theirs)",
            ),
            Upstream::Url {
                place: Place::Node(node),
                ..
            } if replicas.contains(node) => {
                reader.problem("upstream.replicas", format!("names {node}, which is upstream.url"));
            }
            Upstream::Url {
                place: Place::Sentinel(_) | Place::Cluster(_),
                ..
            } if !replicas.is_empty() => reader.problem(
                "upstream.replicas",
                "has no effect: the sentinels or the cluster of upstream.url tell of the replicas",
            ),
            Upstream::Url { .. } => {}
        }
        Self {
            from,
            replicas,
            zone,
            most_lag,
        }
    }

    pub(super) fn settings(&self) -> Vec<Printed> {
        let from = CHOICES.iter().find(|(_, from)| *from == self.from);
        let mut settings: Vec<Printed> = vec![("read_from", from.map_or("", |(name, _)| name).into())];
        let list = |texts: Vec<String>| toml::Value::Array(texts.into_iter().map(toml::Value::from).collect());
        if !self.replicas.is_empty() {
            let replicas = self.replicas.iter().map(ToString::to_string).collect();
            settings.push(("replicas", list(replicas)));
        }
        if self.are_spread() {
            settings.push(("max_replica_lag", print_length(self.most_lag)));
        }
        if !self.zone.is_empty() {
            settings.push(("zone", list(self.zone.clone())));
        }
        settings
    }
}

fn endpoint(text: &str) -> Result<Endpoint, String> {
    if let Some(path) = text.strip_prefix("unix:") {
        return match path.is_empty() {
            true => Err("names no socket (unix:/path)".to_owned()),
            false => Ok(Endpoint::Unix(PathBuf::from(path))),
        };
    }
    let (host, port) = split_host_port(text, DEFAULT_PORT)?;
    Ok(Endpoint::Tcp { host, port })
}

/// What is printed comes first; `master` is what the field has long called it.
const CHOICES: [(&str, ReadFrom); 4] = [
    ("primary", ReadFrom::Primary),
    ("prefer-replica", ReadFrom::PreferReplica),
    ("nearest", ReadFrom::Nearest),
    ("master", ReadFrom::Primary),
];
