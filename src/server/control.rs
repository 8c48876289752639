//! What runs beside the workers, on the control runtime: learning about the upstream, watching for what it does not tell,
//! and clearing expired entries out of L1.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use tokio::signal::unix::Signal;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{memory, tiers, upstream};
use crate::clock;
use crate::command::own;
use crate::config::Config;
use crate::proxy::shared::Shared;
use crate::resp::reply;
use crate::upstream::dial::Access;
use crate::upstream::exchange::Exchange;
use crate::upstream::facts::Facts;
use crate::upstream::info;
use crate::upstream::spoken::Change;

/// How long the start waits for the upstream, so that the first clients find its command table.
const FIRST_CONTACT: Duration = Duration::from_secs(1);
/// Pauses between attempts to learn.
const LEARN_AGAIN: Duration = Duration::from_millis(200);

/// Asks once; whoever starts the process then finds it complete, unless the upstream is away.
pub async fn first_contact(shared: &Arc<Shared>) {
    if let Ok(Ok(facts)) = tokio::time::timeout(FIRST_CONTACT, Facts::ask(&shared.target)).await {
        shared.learn(facts);
    }
}

/// Learns about the upstream as soon as it can be reached, and again after each loss of a link: another server may have
/// come back.
pub async fn learn(shared: Arc<Shared>, cancel: CancellationToken) {
    let mut learned_at_losses = None;
    loop {
        tokio::select! {
            () = cancel.cancelled() => return,
            () = tokio::time::sleep(LEARN_AGAIN) => {}
        }
        let losses: u64 = shared
            .counters
            .iter()
            .map(|counters| counters.links_lost_total.value())
            .sum();
        if learned_at_losses == Some(losses) || learned_at_losses.is_none() && losses == 0 && shared.facts().is_known {
            learned_at_losses = Some(losses);
            continue;
        }
        match Facts::ask(&shared.target).await {
            Ok(facts) => {
                tracing::debug!(
                    version = facts.version,
                    databases = facts.databases,
                    "learned about the upstream"
                );
                shared.learn(facts);
                learned_at_losses = Some(losses);
            }
            Err(error) => tracing::debug!(%error, "the upstream cannot be asked about itself"),
        }
    }
}

/// Prepares what changes with the version of the protocol that the upstream speaks, see [`spoken`].
///
/// [`spoken`]: crate::upstream::spoken
pub async fn follow_version(shared: Arc<Shared>, cancel: CancellationToken) {
    let spoken = shared.target.spoken();
    // What is kept in RESP2 would be of no use to a later life in RESP3, and could not be told from what is.
    let mut _l3_is_shut = None;
    let (mut is_told, mut is_waiting) = (false, false);
    loop {
        tokio::select! {
            () = cancel.cancelled() => return,
            () = spoken.news() => {}
            // One that was let in just before is not on the list of clients in RESP3 yet.
            () = tokio::time::sleep(LEARN_AGAIN), if is_waiting => {}
        }
        match spoken.change() {
            Some(Change::Begin { clients, why }) => {
                if !std::mem::replace(&mut is_told, true) {
                    _l3_is_shut = shared.cache.l3().map(|l3| l3.shut());
                    tracing::warn!(
                        upstream = shared.upstream_name,
                        clients,
                        "{why}: it is spoken to in RESP2, and clients in RESP3 are closed"
                    );
                }
                is_waiting = !spoken.begin();
                if is_waiting {
                    shared.kill(|meta| meta.is_resp3.load(Relaxed));
                }
            }
            Some(Change::End(carried)) => {
                shared.void_everything();
                if spoken.end(carried) {
                    (is_told, _l3_is_shut) = (false, None);
                    tracing::info!(upstream = shared.upstream_name, "it speaks RESP3: clients may, too");
                }
            }
            None => {}
        }
    }
}

/// `SWAPDB` sends no invalidation. When it does not pass through the proxy, only the server's count of calls tells: it is
/// read often enough that what it made stale is not served longer than the staleness bound.
pub async fn watch_swapdb(shared: Arc<Shared>, cancel: CancellationToken) {
    let cache = &shared.config.cache;
    // A cluster has one database.
    if !cache.is_used() || shared.cluster.is_some() {
        return;
    }
    let period = cache.bound / 3;
    // An answer that comes later would be about a time at which copies could be older than the bound.
    let within = shared.config.upstream_timeouts.read.min(cache.bound);
    // Of which node, and how many.
    let mut known: Option<(u32, u64)> = None;
    let (mut has_warned, mut is_away) = (false, false);
    let watched = async {
        'connect: loop {
            let mut upstream = match Exchange::open(&shared.target).await {
                Ok(upstream) => upstream,
                Err(error) => {
                    tracing::debug!(%error, "the upstream cannot be watched for SWAPDB");
                    // Once for each time it is away: what others have to say about it is not to be hidden.
                    if !std::mem::replace(&mut is_away, true) {
                        *shared.last_trouble.lock() = Some(format!("SWAPDB cannot be watched for: {error}"));
                    }
                    tokio::time::sleep(period).await;
                    continue;
                }
            };
            is_away = false;
            let generation = upstream.generation;
            while generation == shared.target.generation() {
                let answer = match upstream.ask(&[own::INFO, b"commandstats"], within).await {
                    Ok(answer) => answer,
                    Err(_) => {
                        tokio::time::sleep(period).await;
                        continue 'connect;
                    }
                };
                let text = String::from_utf8_lossy(reply::text(&answer).unwrap_or_default());
                if reply::is_error(&answer) {
                    if !has_warned {
                        has_warned = true;
                        let error = String::from_utf8_lossy(&answer).trim().to_owned();
                        tracing::warn!(
                            error,
                            "INFO commandstats is refused: a SWAPDB behind the proxy would go unnoticed"
                        );
                        *shared.last_trouble.lock() = Some(format!("SWAPDB cannot be watched for: {error}"));
                    }
                } else {
                    let calls = info::calls(&text, "swapdb");
                    // Another node has a count of its own.
                    let earlier = known.and_then(|(of, known)| (of == generation).then_some(known));
                    if is_missed(earlier, calls) {
                        if earlier.is_some() {
                            tracing::info!(calls, "the upstream has executed SWAPDB: everything cached is dropped");
                        }
                        shared.void_everything();
                    }
                    known = Some((generation, calls));
                }
                tokio::time::sleep(period).await;
            }
        }
    };
    tokio::select! {
        () = cancel.cancelled() => {}
        () = watched => {}
    }
}

/// Whether there may have been a `SWAPDB` since the earlier look at this node, by its count of calls then and now. After
/// `CONFIG RESETSTAT` or a restart the count is lower. Before the first look there may have been one too, unless the node has
/// never executed any.
fn is_missed(earlier: Option<u64>, calls: u64) -> bool {
    calls != earlier.unwrap_or(0)
}

/// Slots of L1 that one sweep visits, and how often it runs: a million entries are seen in ten seconds.
const SWEEP_SLOTS: usize = 10_000;
const SWEEP_PERIOD: Duration = Duration::from_millis(100);

/// Expired entries give up their memory soon after, not when they are evicted.
pub async fn sweep(shared: Arc<Shared>, cancel: CancellationToken) {
    let mut tick = tokio::time::interval(SWEEP_PERIOD);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = cancel.cancelled() => return,
            _ = tick.tick() => {}
        }
        shared.cache.make_up_for(memory::unused_bytes());
        shared.cache.sweep(clock::now_us(), SWEEP_SLOTS);
        close_idle(&shared);
    }
}

/// `SIGHUP` has the configuration read again, by whoever read it at the start. What can change without a restart
/// does: `cache.l1`, passwords, certificates and the keys of L3. A configuration that is wrong changes nothing, nor does one that names a
/// file in which something is wrong.
pub async fn reload(
    shared: Arc<Shared>,
    mut hangup: Signal,
    reread: impl Fn() -> Result<Config, String>,
    sentinel_access: Option<watch::Sender<Arc<Access>>>,
    cancel: CancellationToken,
) {
    // Nobody has changed it yet.
    let mut configured = shared.target.access().password.clone();
    loop {
        tokio::select! {
            () = cancel.cancelled() => return,
            signal = hangup.recv() => if signal.is_none() {
                return;
            }
        }
        // All of it is looked at before any of it is applied.
        let read = reread().and_then(|config| upstream::access(&config.upstream).map(|access| (config, access)));
        match read {
            Ok((config, access)) => {
                let l1_bytes = config.cache.l1_bytes;
                tracing::info!(
                    l1_bytes,
                    "SIGHUP: cache.l1 is read again; what is not said here needs a restart"
                );
                let largest_bytes = shared.cache.set_budget(l1_bytes);
                let max_value_bytes = shared.config.cache.max_value_bytes;
                if shared.config.cache.is_used() && largest_bytes < max_value_bytes {
                    tracing::warn!(
                        largest_bytes,
                        max_value_bytes,
                        "with so little in cache.l1 the largest values that cache.max_value allows are not kept: a restart \
                         divides it into fewer shards"
                    );
                }
                tiers::reload_keys(&shared, &config);
                let sentinel_access = sentinel_access.as_ref();
                upstream::reload(&shared, &config.upstream, access, sentinel_access, &mut configured).await;
            }
            Err(why) => {
                tracing::error!("SIGHUP: what was in effect stays in effect: {}", why.trim_end());
                *shared.last_trouble.lock() = Some(format!("the reload failed: {}", why.trim_end()));
            }
        }
    }
}

/// Tells L3 until when its entries were vouched for, for a process that may come after this one; and has it keep where the clock
/// was, which counts where age alone does, too.
pub async fn vouch(shared: Arc<Shared>, cancel: CancellationToken) {
    let Some(l3) = shared.cache.l3() else { return };
    let mut look = tokio::time::interval((shared.config.cache.bound / 4).min(LONGEST_LOOK));
    while cancel.run_until_cancelled(look.tick()).await.is_some() {
        let losses = shared.links.losses();
        // If one was lost meanwhile, nothing is said about those that are left.
        let all_vouched_us = shared
            .links
            .all_vouched_us()
            .filter(|_| shared.links.losses() == losses);
        l3.vouch(losses, all_vouched_us, clock::now_us());
    }
}

const LONGEST_LOOK: Duration = Duration::from_millis(250);

/// Clients that have said nothing for `clients.idle_timeout` and wait for nothing.
fn close_idle(shared: &Shared) {
    let timeout = shared.config.clients.idle_timeout;
    if timeout.is_zero() {
        return;
    }
    let now_us = clock::now_us();
    let timeout_us = timeout.as_micros() as u64;
    shared.kill(|meta| {
        !meta.is_pinned.load(Relaxed)
            && !meta.is_subscribed()
            && now_us.saturating_sub(meta.active_us.load(Relaxed)) > timeout_us
    });
}

#[cfg(test)]
mod tests;
