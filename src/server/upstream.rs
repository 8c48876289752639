//! The upstream as the control runtime sees it: made from the configuration, followed where Sentinel names it, and its
//! credentials and certificates read again when the process is told to (SIGHUP).

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::config::{self, Config, Consistency, Endpoint, Invalidation, Place, Secret, Upstream};
use crate::proxy::shared::{Message, Shared};
use crate::upstream::breaker;
use crate::upstream::cluster::Cluster;
use crate::upstream::cluster::watch::{Change, Watcher};
use crate::upstream::dial::{Access, Role, Route, Target};
use crate::upstream::embedded::Embedded;
use crate::upstream::exchange::Exchange;
use crate::upstream::readers::{self, Readers};
use crate::upstream::sentinel::{self, Settings, Topology};
use crate::upstream::tls::Tls;

/// How the upstream is reached.
pub struct Reached {
    pub target: Target,
    pub sentinel: Option<Followed>,
    pub cluster: Option<(Arc<Cluster>, Watcher)>,
}

/// A primary that Sentinel names.
pub struct Followed {
    pub topology: watch::Receiver<Topology>,
    /// As whom sentinels are spoken to.
    pub access: watch::Sender<Arc<Access>>,
    route: watch::Sender<Route>,
}

/// Whether the files that the configuration names hold what they should.
///
/// # Errors
/// The option and what is wrong with it.
pub fn check(config: &Config) -> Result<(), String> {
    let is_cluster = matches!(
        &config.upstream,
        Upstream::Url {
            place: Place::Cluster(_),
            ..
        }
    );
    if is_cluster && config.cache.invalidation == Invalidation::KeyspaceEvents {
        return Err("cache.invalidation: \"keyspace-events\" does not work with a cluster, of which each node tells of its own keys only: \
             leave it at \"auto\", by which the nodes track or, where they do not, entries live for cache.max_age".into());
    }
    access(&config.upstream).map(drop)
}

/// Begins to follow the sentinels, where there are any.
///
/// # Errors
/// What is wrong with files that the configuration names.
pub fn of(config: &Config, embedded: Option<&Embedded>, cancel: &CancellationToken) -> Result<Reached, String> {
    // Requests wait while a connection comes up, and nobody is to wait longer than for a reply.
    let connect_timeout = config.upstream_timeouts.connect.min(config.upstream_timeouts.read);
    let (access, of_sentinels) = access(&config.upstream)?;
    let fixed = |node: Endpoint| Reached {
        target: Target::fixed(node, access.clone(), connect_timeout, breaker(&config.breaker)),
        sentinel: None,
        cluster: None,
    };
    match &config.upstream {
        Upstream::Embedded { data_dir } => Ok(fixed(Endpoint::Unix(
            embedded.map_or_else(|| data_dir.clone(), |e| e.socket().to_owned()),
        ))),
        Upstream::Url {
            place: Place::Node(node),
            ..
        } => Ok(fixed(node.clone())),
        Upstream::Url {
            place: Place::Sentinel(sentinels),
            ..
        } => {
            let (route, routes) = watch::channel(Route {
                generation: 0,
                node: Topology::default().primary,
                role: Role::Primary,
            });
            let target = Target::following(routes, access, connect_timeout, breaker(&config.breaker));
            let (of_sentinels, accesses) = watch::channel(Arc::new(of_sentinels));
            let bound = config.cache.bound;
            let settings = Settings {
                nodes: sentinels.nodes.clone(),
                name: sentinels.name.clone(),
                period: (bound / 5).min(LONGEST_PERIOD),
                vote_holds: bound.clamp(LEAST_HOLD, LONGEST_HOLD),
                timeout: connect_timeout,
            };
            let topology = sentinel::follow(settings, accesses, &target, cancel.clone());
            Ok(Reached {
                target,
                sentinel: Some(Followed {
                    topology,
                    access: of_sentinels,
                    route,
                }),
                cluster: None,
            })
        }
        Upstream::Url {
            place: Place::Cluster(nodes),
            ..
        } => {
            let (route, routes) = watch::channel(Route {
                generation: 0,
                node: Err("no node of the cluster has answered yet".to_owned()),
                role: Role::Any,
            });
            let target = Target::following(routes, access, connect_timeout, breaker(&config.breaker));
            let cluster = Arc::new(Cluster::new(target.clone()).reading_from(config.reads.from));
            let period = (config.cache.bound / 3).min(LONGEST_PERIOD);
            let watcher = Watcher::new(Arc::clone(&cluster), nodes.clone(), period, connect_timeout, route);
            Ok(Reached {
                target,
                sentinel: None,
                cluster: Some((cluster, watcher)),
            })
        }
    }
}

/// Those that reads are spread over, if they are.
pub fn readers(config: &Config, target: &Target, cancel: &CancellationToken) -> Option<Arc<Readers>> {
    let timeout = config.upstream_timeouts.connect.min(config.upstream_timeouts.read);
    let settings = readers::Settings {
        from: config.reads.from,
        zone: config.reads.zone.clone(),
        period: (config.cache.bound / 3).min(LONGEST_PERIOD),
        timeout,
        most_lag: config.reads.most_lag,
    };
    let readers = config
        .reads
        .are_spread()
        .then(|| Readers::new(settings, cancel.clone()))?;
    if !config.reads.replicas.is_empty() {
        readers.follow(target, &config.reads.replicas);
    }
    Some(Arc::new(readers))
}

fn breaker(config: &config::Breaker) -> breaker::Settings {
    breaker::Settings {
        failures: config.failures,
        window: config.window,
        pause: (config.pause_min, config.pause_max),
    }
}

/// However stale copies may be, a new primary should be found soon.
const LONGEST_PERIOD: Duration = Duration::from_secs(1);
/// How long a sentinel's vote for a primary counts, at least and at most.
const LEAST_HOLD: Duration = Duration::from_secs(1);
const LONGEST_HOLD: Duration = Duration::from_secs(5);

/// Applies what the sentinels say: how long copies may be shown, and which node is dialled.
pub async fn follow(shared: Arc<Shared>, followed: Followed, cancel: CancellationToken) {
    let Followed {
        mut topology, route, ..
    } = followed;
    let follow_readers = |topology: &Topology| {
        if let Some(readers) = &shared.readers {
            readers.follow(&shared.target, &topology.replicas);
        }
    };
    loop {
        let now = topology.borrow_and_update().clone();
        let latest = now.clone();
        let (known, generation) = {
            let route = route.borrow();
            (route.node.clone(), route.generation)
        };
        if known == now.primary {
            shared.links.confirm(now.confirmed_us);
        } else if now.primary.is_ok() {
            // Before anybody can reach the new node, so that nothing that was read there is voided, and everything else is.
            shared.links.begin_generation(generation + 1, now.confirmed_us);
            shared.void_everything();
            if known.is_ok() {
                shared.switches.fetch_add(1, Relaxed);
            }
            route.send_replace(Route {
                generation: generation + 1,
                node: now.primary,
                role: Role::Primary,
            });
            // Before what leads to them is closed, so that it leads to a replica of the new primary from then on.
            follow_readers(&latest);
            for inbox in &shared.inboxes {
                inbox.send(Message::Switch);
            }
        } else {
            // Why there is none is told to clients.
            route.send_modify(|route| route.node = now.primary);
        }
        follow_readers(&latest);
        tokio::select! {
            () = cancel.cancelled() => return,
            changed = topology.changed() => if changed.is_err() {
                return;
            },
        }
    }
}

/// Applies what the nodes of a cluster say: first the topology, by which whoever fills from now on is judged, then the void
/// of what was read from the nodes that slots have gone to or from.
pub async fn follow_cluster(
    shared: Arc<Shared>,
    cluster: Arc<Cluster>,
    mut watcher: Watcher,
    cancel: CancellationToken,
) {
    loop {
        let change = tokio::select! {
            () = cancel.cancelled() => return,
            change = watcher.change() => change,
        };
        let Change { topology, nodes } = change;
        if !nodes.is_empty() {
            tracing::info!(
                version = topology.version,
                primaries = topology.primaries.len(),
                slots = topology.assigned(),
                "the slots of the cluster have other nodes"
            );
        }
        cluster.publish(topology);
        if let Some(readers) = &shared.readers {
            readers.follow_cluster(&cluster, &cluster.topology());
            if !nodes.is_empty() {
                readers.list().iter().for_each(|reader| shared.void_node(reader.id));
            }
        }
        nodes.iter().for_each(|node| shared.void_node(*node));
        if !nodes.is_empty() && shared.config.cache.consistency == Consistency::Eventual {
            shared.void_copies();
        }
    }
}

/// Applies what has been read again. Connections that are up stay as they are.
pub async fn reload(
    shared: &Shared,
    new: &Upstream,
    (mut access, of_sentinels): (Access, Access),
    sentinel_access: Option<&watch::Sender<Arc<Access>>>,
    configured: &mut Option<Secret>,
) {
    // Whoever asks for a reload may have mended something.
    shared.nodes().iter().for_each(|node| node.breaker().probe_now());
    let fixed = what_needs_a_restart(&shared.config.upstream, new);
    if !fixed.is_empty() {
        // Passwords are those of one user at one place: elsewhere they would be told to strangers, or be wrong.
        tracing::warn!(
            "SIGHUP: {} of the upstream changed, which needs a restart: until then its passwords and certificates stay, too",
            fixed.join(" and ")
        );
        return;
    }
    // The configuration says what it has said before, and the proxy has heard of another password since (`proxy::password`).
    // Whoever sends a signal for other things must not have clients served without it.
    let last = std::mem::replace(configured, access.password.clone());
    let before = shared.target.access();
    let is_news = before.password != last;
    if access.password == last && is_news && !is_accepted(shared, &access).await {
        tracing::info!(
            "SIGHUP: the upstream does not accept the password of the configuration: that of a client stays"
        );
        access.password = shared.target.access().password.clone();
    }
    let is_same = shared.target.access().password == access.password
        && sentinel_access.is_none_or(|sender| sender.borrow().password == of_sentinels.password);
    if is_same && !new.has_files() {
        tracing::info!("SIGHUP: no password or certificate comes from a file, so there is nothing to read again");
        return;
    }
    // A client may have changed it while the server was asked.
    shared.target.renew_access(&before, access);
    if let Some(sender) = sentinel_access {
        sender.send_replace(Arc::new(of_sentinels));
    }
    tracing::info!("SIGHUP: passwords and certificates are read again; new connections use them");
}

async fn is_accepted(shared: &Shared, access: &Access) -> bool {
    let (target, greeting) = (&shared.target, Exchange::greeting(shared.target.connect_timeout));
    match target.endpoint() {
        Some(node) => access
            .open(&node, Role::Any, &greeting, target.connect_timeout)
            .await
            .is_ok(),
        None => false,
    }
}

/// What differs of that which is the same for the whole life of the process.
fn what_needs_a_restart(old: &Upstream, new: &Upstream) -> Vec<&'static str> {
    const PLACE: &str = "the place";
    let (
        Upstream::Url {
            place: old_place,
            tls: old_tls,
            user: old_user,
            db: old_db,
            ..
        },
        Upstream::Url {
            place, tls, user, db, ..
        },
    ) = (old, new)
    else {
        return if old == new { vec![] } else { vec![PLACE] };
    };
    let (is_same_place, is_same_watcher) = match (old_place, place) {
        (Place::Node(old), Place::Node(new)) => (old == new, true),
        (Place::Cluster(old), Place::Cluster(new)) => (old == new, true),
        (Place::Sentinel(old), Place::Sentinel(new)) => {
            (old.nodes == new.nodes && old.name == new.name, old.user == new.user)
        }
        _ => (false, true),
    };
    [
        (PLACE, is_same_place && old_tls.is_some() == tls.is_some()),
        ("the user", old_user == user && is_same_watcher),
        ("the database", old_db == db),
    ]
    .into_iter()
    .filter_map(|(what, is_same)| (!is_same).then_some(what))
    .collect()
}

/// As whom data nodes and sentinels are spoken to, by what the configuration says and what is in its files now.
///
/// # Errors
/// The option and what is wrong with it.
pub fn access(upstream: &Upstream) -> Result<(Access, Access), String> {
    let Upstream::Url {
        place,
        tls,
        user,
        password,
        ..
    } = upstream
    else {
        return Ok((Access::default(), Access::default()));
    };
    let tls = tls.as_ref().map(Tls::new).transpose()?;
    let access = Access {
        user: user.clone(),
        password: password.value.clone(),
        tls: tls.clone(),
    };
    let of_sentinels = match place {
        Place::Node(_) | Place::Cluster(_) => Access::default(),
        Place::Sentinel(sentinels) => Access {
            user: sentinels.user.clone(),
            password: sentinels.password.value.clone(),
            tls,
        },
    };
    Ok((access, of_sentinels))
}

#[cfg(test)]
mod tests;
