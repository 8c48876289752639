//! How long an entry may be shown, computed once, when it is filled.
//!
//! Deadlines count from the moment the fill was *sent*: the server computed the PTTL later, so an entry ends no later than
//! its key does. Expiry pushes come late or never, so nothing but this deadline ends an expired entry.

use super::entry::{Body, END_OF_TIME_MS};
use super::{Config, Expiry};

/// The times of a new entry.
pub(super) struct Lifetime {
    /// A hit needs a time before this one, rounded down.
    pub deadline_ms: u64,
    /// Rounded up: the snapshot rule asks for answers to commands sent after it.
    pub inserted_ms: u64,
    /// What is known of the key's own end.
    pub expiry: Expiry,
}

/// The reply to `PTTL` for a key that does not exist, and for one without a TTL: <https://redis.io/commands/pttl>.
const PTTL_ABSENT: i64 = -2;
const PTTL_NONE: i64 = -1;

/// The lifetime of a fill that was sent at `sent_us` and lasts for `most_us` at most. `None`: it must not be inserted, because
/// value and `pttl_ms` are of two moments, or because it is over already.
pub(super) fn lifetime(
    config: &Config,
    sent_us: u64,
    now_us: u64,
    body: &Body<'_>,
    pttl_ms: i64,
    most_us: Option<u64>,
) -> Option<Lifetime> {
    let own_end_us = match (body, pttl_ms) {
        (Body::Absent(_), PTTL_ABSENT) => None,
        (Body::Absent(_), _) => return None,
        (_, PTTL_NONE) => None,
        (_, 0..) => Some(sent_us.saturating_add(pttl_ms.unsigned_abs().saturating_mul(1000))),
        _ => return None,
    };
    let most = |most_us: Option<u64>| most_us.unwrap_or(u64::MAX);
    let mut most_us = most(config.max_age_us).min(most(most_us));
    if matches!(body, Body::Absent(_)) {
        most_us = most_us.min(most(config.negative_ttl_us));
    }
    let cap_us = sent_us.saturating_add(most_us).min(END_OF_TIME_MS * 1000);
    let deadline_us = own_end_us.unwrap_or(u64::MAX).min(cap_us);
    let expiry = match own_end_us {
        None => Expiry::Never,
        Some(end) if end <= cap_us => Expiry::At(end),
        Some(_) => Expiry::Unknown,
    };
    let lifetime = Lifetime {
        deadline_ms: deadline_us / 1000,
        inserted_ms: now_us.div_ceil(1000),
        expiry,
    };
    (now_us < lifetime.deadline_ms * 1000).then_some(lifetime)
}

/// Whether `deadline_ms` is over at `now_us`.
pub(super) fn is_over(deadline_ms: u64, now_us: u64) -> bool {
    now_us >= deadline_ms * 1000
}

#[cfg(test)]
mod tests;
