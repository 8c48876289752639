//! Keyspace events: what the server publishes about changes of its keys, for upstreams that refuse to track. One subscription
//! for the whole process, to all databases, on the control runtime.
//!
//! A message that is lost is lost, `FLUSHALL` and `SWAPDB` send none, and whoever may set `notify-keyspace-events` can turn all
//! of it off: so they are used for the consistency `eventual` alone, whose entries end by themselves. What can be done is
//! done: everything is dropped when the subscription begins, and whenever the counts of such commands have moved; and what is
//! being read when a message comes is not kept.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::cache::{LinkId, name_hash};
use crate::clock;
use crate::command::own;
use crate::config::Invalidation;
use crate::proxy::shared::Shared;
use crate::resp::reply;
use crate::upstream::exchange::Exchange;
use crate::upstream::info;

const PATTERN: &[u8] = b"__keyspace@*__:*";
/// The classes of events without which changes would go unnoticed; `A` stands for all of them.
const CLASSES: &str = "g$lshztxe";

/// Follows them for as long as the upstream tracks for nobody.
pub async fn follow(shared: Arc<Shared>, cancel: CancellationToken) {
    let cache = &shared.config.cache;
    if !cache.is_used() || !cache.takes_events() || shared.cluster.is_some() {
        return;
    }
    let followed = async {
        loop {
            if is_wanted(&shared)
                && let Err(why) = subscribed(&shared).await
            {
                let has_lost = shared.has_events.swap(false, Relaxed);
                let is_news = shared.events_trouble.lock().replace(why.clone()).as_ref() != Some(&why);
                if is_news || has_lost {
                    tracing::warn!(upstream = shared.upstream_name, "no keyspace events: {why}");
                }
            }
            shared.has_events.store(false, Relaxed);
            tokio::time::sleep(period(&shared)).await;
        }
    };
    tokio::select! {
        () = cancel.cancelled() => {}
        () = followed => {}
    }
}

fn is_wanted(shared: &Shared) -> bool {
    shared.config.cache.invalidation == Invalidation::KeyspaceEvents || shared.links_refused.load(Relaxed) > 0
}

fn period(shared: &Shared) -> Duration {
    shared.config.cache.bound / 4
}

/// The life of one subscription. Returns when it is not wanted any more.
///
/// # Errors
/// Why there is none, or no longer.
async fn subscribed(shared: &Shared) -> Result<(), String> {
    let bound = shared.config.cache.bound;
    let within = shared.config.upstream_timeouts.read;
    // Questions have a connection of their own: an event is no answer.
    let mut asking = Exchange::open(&shared.target).await.map_err(|e| e.to_string())?;
    look_at_flags(&mut asking, within).await?;
    let mut events = Exchange::open(&shared.target).await.map_err(|e| e.to_string())?;
    let refusal = events
        .subscribe(&[own::PSUBSCRIBE, PATTERN], &[own::PING], within)
        .await
        .map_err(|e| e.to_string())?;
    if let Some(error) = refusal {
        return Err(format!("PSUBSCRIBE was refused: {}", reply::error_text(&error)));
    }
    let mut flushes = flushes(&mut asking, within).await?;
    // Whatever has changed until now, nobody has told of it.
    shared.void_everything();
    shared.has_events.store(true, Relaxed);
    *shared.events_trouble.lock() = None;
    tracing::info!(upstream = shared.upstream_name, "keyspace events say what changes");
    let generation = events.generation;
    let mut heard_us = clock::now_us();
    let mut tick = tokio::time::interval(period(shared));
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while is_wanted(shared) && generation == shared.target.generation() {
        tokio::select! {
            frame = events.next() => {
                apply(shared, &frame.map_err(|e| e.to_string())?);
                heard_us = clock::now_us();
            }
            _ = tick.tick() => {
                if clock::now_us().saturating_sub(heard_us) > within.as_micros() as u64 {
                    return Err(format!("the subscription has been silent for {} ms", within.as_millis()));
                }
                events.send(&[&[own::PING]]).await.map_err(|e| e.to_string())?;
                look_at_flags(&mut asking, within.max(bound)).await?;
                let now = self::flushes(&mut asking, within.max(bound)).await?;
                if std::mem::replace(&mut flushes, now) != now {
                    shared.void_everything();
                }
            }
        }
    }
    Ok(())
}

fn apply(shared: &Shared, frame: &[u8]) {
    let Some(name) = changed_key(frame) else { return };
    // It is not said who reads what, so it counts for all, and for what is being read.
    shared.cache.acked(LinkId::PINNED, name_hash(name));
    shared.events_total.fetch_add(1, Relaxed);
}

/// The key that a message of the server is about, if it tells of a change.
fn changed_key(frame: &[u8]) -> Option<&[u8]> {
    let mut parts = reply::elements(frame)?;
    if reply::text(parts.next()?)? != b"pmessage" || reply::text(parts.next()?)? != PATTERN {
        return None;
    }
    let channel = reply::text(parts.next()?)?;
    if reply::text(parts.next()?)? == b"keymiss" {
        return None;
    }
    let rest = channel.strip_prefix(b"__keyspace@")?;
    let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
    rest[digits..].strip_prefix(b"__:")
}

/// Whether the server publishes all that it has to.
async fn look_at_flags(asking: &mut Exchange, within: Duration) -> Result<(), String> {
    let reply = asking
        .ask(&[own::CONFIG, b"GET", b"notify-keyspace-events"], within)
        .await;
    let reply = reply.map_err(|e| e.to_string())?;
    if reply::is_error(&reply) {
        return Err(format!(
            "CONFIG GET notify-keyspace-events was refused, so nobody knows which events there are: {} (allow it to the user: \
             ACL SETUSER <user> +config|get)",
            reply::error_text(&reply)
        ));
    }
    let flags = String::from_utf8_lossy(reply::setting(&reply).unwrap_or_default()).into_owned();
    match are_enough(&flags) {
        true => Ok(()),
        false => Err(format!(
            "notify-keyspace-events is \"{flags}\" at the server: CONFIG SET notify-keyspace-events KA there would do"
        )),
    }
}

fn are_enough(flags: &str) -> bool {
    let has_all = flags.contains('A') || CLASSES.chars().all(|class| flags.contains(class));
    flags.contains('K') && has_all
}

/// How often the server has executed what changes everything and tells nobody, or may have silenced it for a moment.
async fn flushes(asking: &mut Exchange, within: Duration) -> Result<u64, String> {
    let reply = asking.ask(&[own::INFO, b"commandstats"], within).await;
    let reply = reply.map_err(|e| e.to_string())?;
    if reply::is_error(&reply) {
        return Err(format!(
            "INFO commandstats was refused, so nobody knows of a FLUSHALL or SWAPDB: {} (allow it to the user: ACL SETUSER <user> \
             +info)",
            reply::error_text(&reply)
        ));
    }
    let text = String::from_utf8_lossy(reply::text(&reply).unwrap_or_default()).into_owned();
    // Before Redis 7 `config` counts the questions of the proxy too.
    let calls = ["flushall", "flushdb", "swapdb", "config|set"].map(|command| info::calls(&text, command));
    Ok(calls.iter().sum())
}

#[cfg(test)]
mod tests;
