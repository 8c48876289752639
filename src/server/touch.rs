//! Tells the upstream which keys are hit in L1 (`TOUCH`), so that it does not evict them for want of use. On the control
//! runtime, over connections that nobody tracks: `TOUCH` changes nothing that an invalidation would tell of.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::command::own;
use crate::command::slot::slot;
use crate::proxy::shared::Shared;
use crate::resp::reply;
use crate::upstream::cluster::NodeId;
use crate::upstream::dial::{DialError, Target};
use crate::upstream::exchange::Exchange;

/// Redis's clock of use goes by the second.
const PERIOD: Duration = Duration::from_secs(1);
/// Keys in one command: the server does nothing else meanwhile.
const KEYS_A_COMMAND: usize = 128;

/// An open connection and what is known of its server.
struct Seat {
    upstream: Exchange,
    db: u32,
}

/// Keys of one node: with their database.
type Keys = Vec<(u32, Box<[u8]>)>;

/// Sends what the workers have noted, about every second.
pub async fn tell(shared: Arc<Shared>, cancel: CancellationToken) {
    if shared.config.cache.touch_sample == 0 || !shared.config.cache.is_used() {
        return;
    }
    let mut seats: BTreeMap<Option<NodeId>, Seat> = BTreeMap::new();
    let mut tick = tokio::time::interval(PERIOD);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut told: BTreeMap<Option<NodeId>, Option<String>> = BTreeMap::new();
    loop {
        tokio::select! {
            () = cancel.cancelled() => return,
            _ = tick.tick() => {}
        }
        // Of nodes that have left nothing is kept.
        if let Some(cluster) = &shared.cluster {
            let topology = cluster.topology();
            let has_slots = |node: &Option<NodeId>| node.is_some_and(|node| topology.primaries.contains(&node));
            seats.retain(|node, _| has_slots(node));
            told.retain(|node, _| has_slots(node));
        }
        for (node, keys) in by_node(&shared, shared.touches.take()) {
            let Some(target) = target_of(&shared, node) else {
                shared.touches.dropped_total.fetch_add(keys.len() as u64, Relaxed);
                continue;
            };
            let seat = seats.remove(&node);
            let all = keys.len() as u64;
            let one = tokio::select! {
                () = cancel.cancelled() => return,
                one = tell_one(&shared, &target, seat, keys) => one,
            };
            match one {
                Ok((seat, advice)) => {
                    if advice.is_none() {
                        shared.touches.sent_total.fetch_add(all, Relaxed);
                    } else {
                        shared.touches.dropped_total.fetch_add(all, Relaxed);
                    }
                    if told.get(&node) != Some(&advice) {
                        match &advice {
                            Some(why) => {
                                tracing::warn!(upstream = %target.node(), "cache.touch_sample has no effect: {why}")
                            }
                            None => tracing::info!(upstream = %target.node(), "keys that are hit are touched there"),
                        }
                        told.insert(node, advice);
                    }
                    seats.insert(node, seat);
                }
                Err(error) => {
                    shared.touches.dropped_total.fetch_add(all, Relaxed);
                    tracing::debug!(upstream = %target.node(), %error, "keys that are hit could not be touched");
                }
            }
        }
    }
}

/// Of a cluster by the nodes that have their slots.
fn by_node(shared: &Shared, keys: Keys) -> BTreeMap<Option<NodeId>, Keys> {
    let topology = shared.cluster.as_ref().map(|cluster| cluster.topology());
    let mut nodes: BTreeMap<Option<NodeId>, Keys> = BTreeMap::new();
    for (db, name) in keys {
        let node = topology.as_ref().map(|topology| topology.owner(slot(&name)));
        nodes.entry(node).or_default().push((db, name));
    }
    nodes
}

fn target_of(shared: &Shared, node: Option<NodeId>) -> Option<Target> {
    match (&shared.cluster, node) {
        (Some(cluster), Some(id)) => cluster.node(id).map(|node| node.target.clone()),
        _ => Some(shared.target.clone()),
    }
}

/// Touches keys of one node. With the connection comes why it was of no use, if it was not.
async fn tell_one(
    shared: &Shared,
    target: &Target,
    seat: Option<Seat>,
    mut keys: Keys,
) -> Result<(Seat, Option<String>), DialError> {
    let within = shared.config.upstream_timeouts.read;
    let mut seat = match seat.filter(|seat| seat.upstream.generation == target.generation()) {
        Some(seat) => seat,
        None => Seat {
            upstream: Exchange::open(target).await?,
            db: 0,
        },
    };
    let questions: [&[&[u8]]; 2] = [
        &[own::CONFIG, b"GET", b"maxmemory"],
        &[own::CONFIG, b"GET", b"maxmemory-policy"],
    ];
    let answers = seat.upstream.ask_all(&questions, within).await?;
    let value = |i: usize| {
        let value = reply::setting(answers.get(i)?)?;
        Some(String::from_utf8_lossy(value).into_owned())
    };
    if let Some(why) = is_of_no_use(value(0).as_deref(), value(1).as_deref()) {
        return Ok((seat, Some(why)));
    }
    // Each database once.
    keys.sort_unstable();
    // A node of a cluster takes no command over several slots.
    let most = if shared.cluster.is_some() { 1 } else { KEYS_A_COMMAND };
    let mut refusal = None;
    for of_db in keys.chunk_by(|one, other| one.0 == other.0) {
        let db = of_db.first().map_or(0, |(db, _)| *db);
        if seat.db != db {
            let selected = seat
                .upstream
                .ask(&[own::SELECT, db.to_string().as_bytes()], within)
                .await?;
            if reply::is_error(&selected) {
                continue;
            }
            seat.db = db;
        }
        for batch in of_db.chunks(KEYS_A_COMMAND) {
            let commands: Vec<Vec<&[u8]>> = batch
                .chunks(most)
                .map(|keys| {
                    [own::TOUCH]
                        .into_iter()
                        .chain(keys.iter().map(|(_, name)| &**name))
                        .collect()
                })
                .collect();
            let commands: Vec<&[&[u8]]> = commands.iter().map(Vec::as_slice).collect();
            let answers = seat.upstream.ask_all(&commands, within).await?;
            // A slot that has gone elsewhere is nobody's fault.
            let is_refused = |answer: &&bytes::BytesMut| reply::is_error(answer) && !answer.starts_with(b"-MOVED");
            if let Some(error) = answers.iter().find(is_refused) {
                refusal = Some(format!("TOUCH was refused: {}", reply::error_text(error)));
            }
        }
    }
    Ok((seat, refusal))
}

/// Why the server would not care, by its `maxmemory` and `maxmemory-policy`; `None`: it does, or does not say.
fn is_of_no_use(maxmemory: Option<&str>, policy: Option<&str>) -> Option<String> {
    if maxmemory == Some("0") {
        return Some("maxmemory is 0 at the server, which then evicts nothing".to_owned());
    }
    let policy = policy?;
    let is_by_use = policy.ends_with("-lru") || policy.ends_with("-lfu");
    (!is_by_use).then(|| format!("maxmemory-policy is \"{policy}\" at the server, which does not ask what is used"))
}

#[cfg(test)]
mod tests;
