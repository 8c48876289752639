//! How the proxy is, by what the links to the upstream say at the moment of asking: they are probed several times within
//! the staleness bound anyway, so asking costs the upstream nothing.
//!
//! Healthy: everything works. Degraded: clients are served, with less than was configured; with stale copies alone, too, as
//! long as the operator lets these be shown: who took the proxy out of service then would take the last answers away.
//! Unhealthy: the upstream cannot be reached, so only errors can be answered.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Serialize, Serializer};

use crate::cache::LinkId;
use crate::clock;
use crate::config::Consistency;
use crate::proxy::invalidation::Mode;
use crate::proxy::shared::Shared;
use crate::upstream::dial::Target;

/// The worse the greater.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Status {
    Healthy,
    Degraded,
    Unhealthy,
}

impl Status {
    pub const ALL: [Status; 3] = [Status::Healthy, Status::Degraded, Status::Unhealthy];

    pub fn name(self) -> &'static str {
        match self {
            Status::Healthy => "healthy",
            Status::Degraded => "degraded",
            Status::Unhealthy => "unhealthy",
        }
    }
}

/// By what right anything is cached.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Caching {
    /// Switched off, or the consistency is `strong`.
    Off,
    /// Entries live out their time.
    ByAge,
    /// The upstream says what changes.
    Tracked,
    /// It should, and refuses to.
    Refused,
}

impl Caching {
    pub fn name(self) -> &'static str {
        match self {
            Caching::Off => "off",
            Caching::ByAge => "by_age",
            Caching::Tracked => "tracked",
            Caching::Refused => "refused",
        }
    }
}

/// The shared connections to the upstream.
#[derive(Clone, Copy, Default, Debug)]
pub struct Links {
    /// Those in use: one for each worker and database.
    pub wanted: usize,
    pub tracked: usize,
    /// Up, with nothing to track.
    pub untracked: usize,
    /// Up, but the server refused to track.
    pub refused: usize,
    /// Of the tracked ones: without an answer within the staleness bound. What they filled is not served.
    pub silent: usize,
}

impl Links {
    pub fn of(shared: &Shared) -> Links {
        let bound_us = shared.config.cache.bound.as_micros() as u64;
        let (links, now_us) = (&shared.links, clock::now_us());
        let tracked = shared.links_tracked.load(Relaxed);
        let fresh = (0..links.len())
            .filter_map(|index| u16::try_from(index).ok())
            .map(|index| links.answered_us(LinkId::from_index(index)))
            .filter(|&answered_us| answered_us != 0 && answered_us.saturating_add(bound_us) >= now_us)
            .count();
        Links {
            wanted: links
                .len()
                .saturating_sub(shared.links_retired.load(Relaxed))
                .max(shared.inboxes.len()),
            tracked,
            untracked: shared.links_untracked.load(Relaxed),
            refused: shared.links_refused.load(Relaxed),
            silent: tracked.saturating_sub(fresh),
        }
    }

    pub fn up(self) -> usize {
        self.tracked + self.untracked + self.refused
    }

    fn down(self) -> usize {
        self.wanted.saturating_sub(self.up())
    }
}

/// What is less than it should be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reason {
    UpstreamUnreachable,
    /// The upstream cannot be asked, and copies are shown for so much longer.
    StaleReads {
        left_ms: u64,
    },
    /// So many of so many nodes are not asked.
    BreakersOpen {
        open: usize,
        nodes: usize,
    },
    LinksDown {
        down: usize,
        wanted: usize,
    },
    LinksSilent {
        silent: usize,
        wanted: usize,
    },
    /// Copies are not shown: another node may have become the primary.
    PrimaryUnconfirmed,
    TrackingRefused,
    NoEvents,
    FactsUnknown,
    Draining,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reason::UpstreamUnreachable => f.write_str("the upstream cannot be reached"),
            Reason::StaleReads { left_ms } => {
                write!(
                    f,
                    "reads are answered by stale copies for {left_ms} ms more (cache.max_stale)"
                )
            }
            Reason::BreakersOpen { open, nodes } => {
                write!(f, "the breakers of {open} of {nodes} upstream nodes are open")
            }
            Reason::LinksDown { down, wanted } => write!(f, "{down} of {wanted} upstream connections are down"),
            Reason::LinksSilent { silent, wanted } => {
                write!(
                    f,
                    "{silent} of {wanted} upstream connections have not answered within the staleness bound"
                )
            }
            Reason::PrimaryUnconfirmed => f.write_str(
                "no majority of the sentinels has named this primary within the staleness bound: no copies are shown",
            ),
            Reason::TrackingRefused => f.write_str("the upstream refuses CLIENT TRACKING: nothing is cached"),
            Reason::NoEvents => f.write_str("the upstream sends no keyspace events: nothing is cached"),
            Reason::FactsUnknown => f.write_str("the upstream's version and commands are not known yet"),
            Reason::Draining => f.write_str("the proxy is ending"),
        }
    }
}

impl Serialize for Status {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

impl Serialize for Caching {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

impl Serialize for Reason {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// What `/health` answers.
#[derive(Serialize, Debug)]
pub struct Health {
    pub status: Status,
    /// Empty when healthy.
    reasons: Vec<Reason>,
    layers: Layers,
    /// What the upstream last refused, if anything; it may be over.
    last_trouble: Option<String>,
    /// RFC 3339, UTC: now, since the links are looked at when somebody asks.
    last_check: String,
    uptime_seconds: u64,
    version: &'static str,
}

#[derive(Serialize, Debug)]
struct Layers {
    l1: L1,
    l2: L2,
}

#[derive(Serialize, Debug)]
struct L1 {
    status: Status,
    caching: Caching,
}

#[derive(Serialize, Debug)]
struct L2 {
    status: Status,
    upstream: String,
    /// The node that it is now.
    node: String,
    /// The state of each node's breaker.
    breakers: BTreeMap<String, &'static str>,
    links: usize,
    links_tracked: usize,
    links_refused: usize,
    links_silent: usize,
}

impl Health {
    pub fn of(shared: &Shared) -> Health {
        let seen = Seen::of(shared);
        let verdict = seen.judge();
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| since.as_secs());
        Health {
            status: verdict.status,
            reasons: verdict.reasons,
            layers: Layers {
                l1: L1 {
                    status: verdict.l1,
                    caching: seen.caching,
                },
                l2: L2 {
                    status: verdict.l2,
                    upstream: shared.upstream_name.clone(),
                    node: shared.target.node(),
                    breakers: shared
                        .nodes()
                        .iter()
                        .map(|node| (node.node(), node.breaker().state().name()))
                        .collect(),
                    links: seen.links.wanted,
                    links_tracked: seen.links.tracked,
                    links_refused: seen.links.refused,
                    links_silent: seen.links.silent,
                },
            },
            last_trouble: shared.last_trouble.lock().clone(),
            last_check: rfc3339(now),
            uptime_seconds: clock::now_us().saturating_sub(shared.started_us) / 1_000_000,
            version: env!("CARGO_PKG_VERSION"),
        }
    }
}

/// All that the judgement rests on.
#[derive(Clone, Copy, Debug)]
pub struct Seen {
    pub links: Links,
    pub caching: Caching,
    /// Nodes, and those of them whose breaker is not closed.
    nodes: usize,
    cut: usize,
    is_upstream_known: bool,
    is_primary_confirmed: bool,
    is_draining: bool,
    /// For how much longer copies may be shown that nobody vouches for, where there are any.
    stale_left_ms: u64,
}

#[derive(PartialEq, Eq, Debug)]
pub struct Verdict {
    pub status: Status,
    l1: Status,
    l2: Status,
    reasons: Vec<Reason>,
}

/// For how long nobody has vouched for the copies that there are; `None`: there is none that anybody ever vouched for.
fn unvouched_us(shared: &Shared, nodes: &[Target], now_us: u64) -> Option<u64> {
    let l3 = shared.cache.l3().filter(|l3| l3.stats().entries > 0);
    let in_l1_us = match shared.config.cache.consistency {
        // What counts there is when the upstream last answered, and that goes for both tiers.
        Consistency::Eventual => {
            let answered_us = nodes.iter().map(|node| node.breaker().answered_us()).max().unwrap_or(0);
            return (l3.is_some() || shared.cache.stats().entries > 0).then(|| now_us.saturating_sub(answered_us));
        }
        _ if shared.cache.stats().entries == 0 => None,
        _ => Some(shared.links.last_vouched_us())
            .filter(|vouched_us| *vouched_us > 0)
            .map(|vouched_us| now_us.saturating_sub(vouched_us)),
    };
    let in_l3_us = l3.and_then(|l3| l3.unvouched_us(now_us));
    in_l1_us.into_iter().chain(in_l3_us).min()
}

impl Seen {
    pub fn of(shared: &Shared) -> Seen {
        let links = Links::of(shared);
        let cache = &shared.config.cache;
        let caching = match cache.consistency {
            _ if !cache.enabled => Caching::Off,
            Consistency::Strong => Caching::Off,
            _ if Mode::of(shared) == Mode::None => Caching::Refused,
            Consistency::Eventual => Caching::ByAge,
            Consistency::Coherent => Caching::Tracked,
        };
        let nodes = shared.nodes();
        let now_us = clock::now_us();
        let stale_left_us = cache
            .max_stale
            .zip(unvouched_us(shared, &nodes, now_us))
            .map_or(0, |(most, past_us)| (most.as_micros() as u64).saturating_sub(past_us));
        Seen {
            stale_left_ms: stale_left_us / 1000,
            links,
            caching,
            nodes: nodes.len(),
            cut: nodes.iter().filter(|node| node.breaker().is_cut()).count(),
            is_upstream_known: shared.facts().is_known,
            is_primary_confirmed: shared
                .links
                .confirmed_us()
                .saturating_add(cache.bound.as_micros() as u64)
                > now_us,
            is_draining: shared.is_draining.load(Relaxed),
        }
    }

    pub fn judge(&self) -> Verdict {
        let Links { wanted, silent, .. } = self.links;
        let (up, down) = (self.links.up(), self.links.down());
        let mut reasons = Vec::new();
        if up == 0 {
            reasons.push(Reason::UpstreamUnreachable);
        } else if down > 0 {
            reasons.push(Reason::LinksDown { down, wanted });
        }
        if silent > 0 {
            reasons.push(Reason::LinksSilent { silent, wanted });
        }
        if self.cut > 0 {
            reasons.push(Reason::BreakersOpen {
                open: self.cut,
                nodes: self.nodes,
            });
        }
        if up > 0 && !self.is_upstream_known {
            reasons.push(Reason::FactsUnknown);
        }
        let l2 = match reasons[..] {
            [] => Status::Healthy,
            _ if up == 0 || (self.cut > 0 && self.cut == self.nodes) => Status::Unhealthy,
            _ => Status::Degraded,
        };
        if self.caching == Caching::Tracked && !self.is_primary_confirmed && up > 0 {
            reasons.push(Reason::PrimaryUnconfirmed);
        }
        if self.caching == Caching::Refused {
            reasons.push(match self.links.refused {
                0 => Reason::NoEvents,
                _ => Reason::TrackingRefused,
            });
        }
        let l1 = match self.caching {
            Caching::Off | Caching::ByAge => Status::Healthy,
            Caching::Refused => Status::Degraded,
            Caching::Tracked if down + silent > 0 || !self.is_primary_confirmed => Status::Degraded,
            Caching::Tracked => Status::Healthy,
        };
        if self.is_draining {
            reasons.push(Reason::Draining);
        }
        let whole = if self.is_draining {
            Status::Degraded
        } else {
            Status::Healthy
        };
        let serves_stale = l2 == Status::Unhealthy && self.stale_left_ms > 0;
        if serves_stale {
            reasons.push(Reason::StaleReads {
                left_ms: self.stale_left_ms,
            });
        }
        let upstream = if serves_stale { Status::Degraded } else { l2 };
        Verdict {
            status: whole.max(l1).max(upstream),
            l1,
            l2,
            reasons,
        }
    }
}

/// The civil date of a day count, by Howard Hinnant's `civil_from_days` (howardhinnant.github.io/date_algorithms.html).
fn rfc3339(unix_s: u64) -> String {
    let (days, second) = (unix_s / 86_400 + 719_468, unix_s % 86_400);
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 {
        from_march + 3
    } else {
        from_march - 9
    };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

#[cfg(test)]
mod tests;
