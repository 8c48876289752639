//! By which means the proxy learns what others change, of those that the upstream offers and the configuration allows, and
//! why by no better one. What is too weak for the consistency that was asked for is not used: then nothing is cached.

use std::sync::atomic::Ordering::Relaxed;

use super::shared::Shared;
use crate::config::{Consistency, Invalidation};
use crate::upstream::dial::TrackingState;

/// The rungs of the ladder, the best last.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Mode {
    /// Nothing is cached.
    None,
    OwnWrites,
    KeyspaceEvents,
    Broadcast,
    Tracking,
}

impl Mode {
    pub const ALL: [Mode; 5] = [
        Mode::None,
        Mode::OwnWrites,
        Mode::KeyspaceEvents,
        Mode::Broadcast,
        Mode::Tracking,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Mode::None => "none",
            Mode::OwnWrites => "own_writes",
            Mode::KeyspaceEvents => "keyspace_events",
            Mode::Broadcast => "broadcast",
            Mode::Tracking => "tracking",
        }
    }

    /// The one that is in effect. With several nodes that differ, the worst.
    pub fn of(shared: &Shared) -> Mode {
        let cache = &shared.config.cache;
        let is_refused = shared.links_refused.load(Relaxed) > 0;
        match cache.invalidation {
            _ if !cache.is_used() => Mode::None,
            Invalidation::Auto | Invalidation::Tracking if !is_refused => Mode::Tracking,
            Invalidation::Broadcast if !is_refused => Mode::Broadcast,
            _ if cache.takes_events() && shared.has_events.load(Relaxed) => Mode::KeyspaceEvents,
            _ if cache.takes_own_writes() => Mode::OwnWrites,
            _ => Mode::None,
        }
    }

    /// Why it is no better one.
    pub fn reason(self, shared: &Shared) -> String {
        let cache = &shared.config.cache;
        if !cache.enabled {
            return "cache.enabled is false".to_owned();
        }
        if cache.consistency == Consistency::Strong {
            return "cache.consistency is \"strong\"".to_owned();
        }
        let mut reasons = Vec::new();
        if shared.links_refused.load(Relaxed) > 0 {
            reasons.extend(shared.tracking_refusal.lock().clone());
        }
        if self < Mode::KeyspaceEvents && cache.takes_events() {
            reasons.extend(shared.events_trouble.lock().clone());
        }
        if cache.invalidation != Invalidation::Auto {
            reasons.push("cache.invalidation is set".to_owned());
        }
        reasons.join("; ")
    }
}

/// The server does not track for a connection.
pub fn refused(shared: &Shared, tracking: &TrackingState) {
    let cache = &shared.config.cache;
    let what = match cache.invalidation {
        Invalidation::Broadcast => "CLIENT TRACKING ON BCAST",
        _ => "CLIENT TRACKING",
    };
    let (told, remedy) = match tracking {
        TrackingState::Off | TrackingState::On => return,
        TrackingState::Refused(error) => (
            format!("{what} was refused: {error}"),
            "allow it to the user (ACL SETUSER <user> +client|tracking)",
        ),
        TrackingState::NoPushes(refusal) => (
            format!("{what} needs RESP3, and {refusal}"),
            "use a Redis 6.0 or later or a Valkey that takes HELLO 3",
        ),
    };
    let instead = if cache.takes_events() && shared.cluster.is_none() {
        "keyspace events are used if the server sends them, and else entries live for cache.max_age".to_owned()
    } else if cache.takes_own_writes() {
        "entries live for cache.max_age".to_owned()
    } else if cache.consistency == Consistency::Coherent {
        format!("nothing is cached: {remedy}, or do with cache.consistency = \"eventual\"")
    } else {
        format!("nothing is cached: {remedy}, or do with cache.invalidation = \"auto\"")
    };
    tracing::warn!(upstream = shared.upstream_name, "{told}: {instead}");
    *shared.last_trouble.lock() = Some(told.clone());
    *shared.tracking_refusal.lock() = Some(told);
}
