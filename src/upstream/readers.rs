//! Nodes that may answer reads: replicas, and with `nearest` the primary as well. A task for each, on the control runtime,
//! looks whether the replica follows its primary and how soon it answers; workers read what was found out, without a lock
//! for each request.
//!
//! How far a replica lags is not known. One whose link to its primary is down, which loads its data or copies them anew,
//! which follows somebody else, or which does not answer, is not read from.

mod lag;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use parking_lot::{Mutex, RwLock};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use lag::Lag;

use super::cluster::{Cluster, NodeId, Topology};
use super::dial::{DialError, Role, Route, Target, is_server_state};
use super::exchange::Exchange;
use super::info::field;
use crate::clock;
use crate::command::own;
use crate::config::{Endpoint, ReadFrom};
use crate::glob;
use crate::resp::reply;

pub struct Readers {
    settings: Settings,
    /// Those that there are now.
    list: RwLock<Arc<[Arc<Reader>]>>,
    /// All that there ever were outside of a cluster, by their numbers.
    known: Mutex<Vec<Arc<Reader>>>,
    cancel: CancellationToken,
}

/// How readers are chosen and watched.
#[derive(Clone, Debug)]
pub struct Settings {
    pub from: ReadFrom,
    /// Patterns of the addresses of nodes in the proxy's own availability zone.
    pub zone: Vec<String>,
    /// How often each is looked at, and how long it may take to answer.
    pub period: Duration,
    pub timeout: Duration,
    /// A replica that is further behind its primary is not read from.
    pub most_lag: Duration,
}

/// One node that may be read from.
pub struct Reader {
    /// Names it for the life of the process; in a cluster it is the number of the node.
    pub id: NodeId,
    pub endpoint: Endpoint,
    pub target: Target,
    /// Outside of a cluster: where the target leads.
    route: Option<watch::Sender<Route>>,
    of: Mutex<Of>,
    /// Whom it follows.
    primary: Mutex<Target>,
    is_near: bool,
    is_usable: AtomicBool,
    /// Moving average of its answer times (µs); 0: not known yet.
    latency_us: AtomicU64,
    /// How far it was behind at most when it was last looked at (µs); [`NOT_KNOWN`].
    behind_us: AtomicU64,
    /// Why it is not usable, for people.
    why: Mutex<String>,
    /// Of the task that looks at it; none while it is not in the list.
    watched: Mutex<Option<CancellationToken>>,
}

/// Whose data it has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Of {
    /// Of a cluster: the primary of the slots.
    pub primary: Option<NodeId>,
    pub is_replica: bool,
}

/// What the choice is made by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    pub id: NodeId,
    pub is_replica: bool,
    pub is_near: bool,
    pub latency_us: u64,
}

/// Answer times that differ by less are the same: a fifth, and the noise of a quick node.
const SAME_LATENCY_US: u64 = 200;
/// A primary has at least so long to say how long its stream is.
const LEAST_PATIENCE: Duration = Duration::from_millis(100);
/// More nodes than this are not read from.
const MOST_READERS: usize = 4095;
const NOT_KNOWN: u64 = u64::MAX;
/// In place of its primary's generation: it is nobody's replica.
const GONE: u32 = u32::MAX;

/// Those of the candidates that reads are spread over; none: the primary, as if there were no replicas.
pub fn choose(from: ReadFrom, candidates: &[Candidate]) -> Vec<Candidate> {
    let mut left: Vec<Candidate> = match from {
        ReadFrom::Primary => return Vec::new(),
        ReadFrom::PreferReplica => candidates.iter().filter(|one| one.is_replica).copied().collect(),
        ReadFrom::Nearest => candidates.iter().filter(|one| one.latency_us > 0).copied().collect(),
    };
    if left.iter().any(|one| one.is_near) {
        left.retain(|one| one.is_near);
    }
    if from == ReadFrom::Nearest {
        let best_us = left.iter().map(|one| one.latency_us).min().unwrap_or(0);
        left.retain(|one| one.latency_us <= best_us + best_us / 5 + SAME_LATENCY_US);
    }
    left
}

impl Readers {
    pub fn new(settings: Settings, cancel: CancellationToken) -> Readers {
        Readers {
            settings,
            list: RwLock::new(Arc::new([])),
            known: Mutex::default(),
            cancel,
        }
    }

    pub fn list(&self) -> Arc<[Arc<Reader>]> {
        Arc::clone(&self.list.read())
    }

    /// The node of this number outside of a cluster.
    pub fn at(&self, id: NodeId) -> Option<Arc<Reader>> {
        self.known.lock().get(usize::from(id)).map(Arc::clone)
    }

    pub fn from(&self) -> ReadFrom {
        self.settings.from
    }

    /// Those that reads of the data of this primary (of a cluster) are spread over.
    pub fn chosen(&self, primary: Option<NodeId>) -> Vec<Candidate> {
        let candidates: Vec<Candidate> = self
            .list()
            .iter()
            .filter(|reader| reader.is_usable() && !reader.target.breaker().is_cut())
            .filter_map(|reader| {
                let of = reader.of.lock();
                (of.primary == primary).then(|| Candidate {
                    id: reader.id,
                    is_replica: of.is_replica,
                    is_near: reader.is_near,
                    latency_us: reader.latency_us.load(Relaxed),
                })
            })
            .collect();
        choose(self.settings.from, &candidates)
    }

    /// There are these replicas of one primary now, which is the node of this generation. Called within a runtime.
    pub fn follow(&self, primary: &Target, replicas: &[Endpoint]) {
        let (generation, node) = (primary.generation(), primary.endpoint());
        let mut list: Vec<Arc<Reader>> = Vec::with_capacity(replicas.len() + 1);
        let nearest = node.filter(|_| self.settings.from == ReadFrom::Nearest);
        let of = |is_replica: bool| Of {
            primary: None,
            is_replica,
        };
        let replicas = replicas.iter().map(|replica| (replica, of(true)));
        for (endpoint, of) in nearest.iter().map(|node| (node, of(false))).chain(replicas) {
            let Some(reader) = self.known_at(endpoint, primary) else {
                tracing::warn!(%endpoint, "too many nodes were read from already: this one is not");
                continue;
            };
            if let Some(route) = &reader.route {
                route.send_if_modified(|route| {
                    let is_news = route.generation != generation;
                    (route.generation, route.node) = (generation, Ok(reader.endpoint.clone()));
                    is_news
                });
            }
            *reader.of.lock() = of;
            list.push(reader);
        }
        self.replace(list);
    }

    /// The same of a cluster.
    pub fn follow_cluster(&self, cluster: &Cluster, topology: &Topology) {
        let old = self.list();
        let is_nearest = self.settings.from == ReadFrom::Nearest;
        let primaries = topology.primaries.iter().filter(|_| is_nearest).map(|id| (*id, *id));
        let replicas = topology
            .replicas
            .iter()
            .filter_map(|replica| Some((cluster.node_at(&replica.endpoint)?, replica.primary?)));
        let list = primaries.chain(replicas).filter_map(|(id, primary)| {
            let of = Of {
                primary: Some(primary),
                is_replica: id != primary,
            };
            let follows = &cluster.node(primary)?.target;
            if let Some(reader) = old.iter().find(|reader| reader.id == id) {
                *reader.of.lock() = of;
                *reader.primary.lock() = follows.clone();
                return Some(Arc::clone(reader));
            }
            let node = cluster.node(id)?;
            let targets = (node.target.clone(), follows.clone());
            Some(Arc::new(self.reader(id, &node.endpoint, targets, None, of)))
        });
        let list = list.collect();
        self.replace(list);
    }

    fn known_at(&self, endpoint: &Endpoint, primary: &Target) -> Option<Arc<Reader>> {
        let mut known = self.known.lock();
        if let Some(reader) = known.iter().find(|reader| reader.endpoint == *endpoint) {
            return Some(Arc::clone(reader));
        }
        let id = NodeId::try_from(known.len())
            .ok()
            .filter(|_| known.len() < MOST_READERS)?;
        let (route, routes) = watch::channel(Route {
            generation: primary.generation(),
            node: Ok(endpoint.clone()),
            role: Role::Any,
        });
        let of = Of {
            primary: None,
            is_replica: true,
        };
        let targets = (primary.beside(routes), primary.clone());
        let reader = Arc::new(self.reader(id, endpoint, targets, Some(route), of));
        known.push(Arc::clone(&reader));
        Some(reader)
    }

    fn reader(
        &self,
        id: NodeId,
        endpoint: &Endpoint,
        (target, primary): (Target, Target),
        route: Option<watch::Sender<Route>>,
        of: Of,
    ) -> Reader {
        let name = endpoint.to_string();
        let mut zone = self.settings.zone.iter();
        Reader {
            id,
            endpoint: endpoint.clone(),
            target,
            route,
            of: Mutex::new(of),
            primary: Mutex::new(primary),
            is_near: zone.any(|pattern| glob::fits(pattern.as_bytes(), name.as_bytes())),
            is_usable: AtomicBool::new(false),
            latency_us: AtomicU64::new(0),
            behind_us: AtomicU64::new(NOT_KNOWN),
            why: Mutex::new("it was not looked at yet".to_owned()),
            watched: Mutex::default(),
        }
    }

    fn replace(&self, list: Vec<Arc<Reader>>) {
        for reader in self.list().iter() {
            if !list.iter().any(|other| Arc::ptr_eq(reader, other)) {
                reader.is_usable.store(false, Relaxed);
                // Whoever probes it ends.
                if let Some(route) = &reader.route {
                    let why = format!("{} is no replica any more", reader.endpoint);
                    route.send_modify(|route| (route.generation, route.node) = (GONE, Err(why)));
                }
                if let Some(task) = reader.watched.lock().take() {
                    task.cancel();
                }
            }
        }
        for reader in &list {
            let mut watched = reader.watched.lock();
            if watched.is_none() {
                let cancel = self.cancel.child_token();
                *watched = Some(cancel.clone());
                let (reader, settings) = (Arc::clone(reader), self.settings.clone());
                tokio::spawn(async move {
                    tokio::select! {
                        () = cancel.cancelled() => {}
                        () = reader.attend(&settings) => {}
                    }
                });
            }
        }
        *self.list.write() = list.into();
    }
}

impl Reader {
    pub fn is_usable(&self) -> bool {
        self.is_usable.load(Relaxed)
    }

    pub fn is_replica(&self) -> bool {
        self.of.lock().is_replica
    }

    /// What is known of it, for people.
    pub fn state(&self) -> String {
        let kind = if self.is_replica() { "replica" } else { "primary" };
        let zone = if self.is_near { ", in this zone" } else { "" };
        match self.is_usable() {
            true => {
                let behind = match self.behind_us.load(Relaxed) {
                    NOT_KNOWN => String::new(),
                    behind_us => format!(", at most {} ms behind", behind_us / 1000),
                };
                format!(
                    "{} {kind}, {} us{behind}{zone}",
                    self.endpoint,
                    self.latency_us.load(Relaxed)
                )
            }
            false => format!("{} {kind}, not used: {}{zone}", self.endpoint, self.why.lock()),
        }
    }

    /// It has refused to serve a read; until it is looked at again it gets none.
    pub fn doubt(&self, why: &str) {
        self.judge(Err(why.to_owned()));
    }

    async fn attend(&self, settings: &Settings) {
        let mut line: Option<Exchange> = None;
        let mut primary: Option<(Endpoint, Exchange)> = None;
        let mut lag = Lag::up_to(settings.most_lag);
        loop {
            if self.is_replica() {
                let asked_us = clock::now_us();
                let told = self.ask_primary(&mut primary, settings).await;
                lag.heard(asked_us, told.as_deref().map_err(Clone::clone));
            }
            let seen = self.look(&mut line, &lag, settings.timeout).await;
            match seen {
                Ok(seen) => self.judge(seen),
                Err(error) => {
                    line = None;
                    self.judge(Err(error.to_string()));
                }
            }
            tokio::time::sleep(settings.period).await;
        }
    }

    /// What its primary says of the replication.
    ///
    /// # Errors
    /// Why it does not.
    async fn ask_primary(
        &self,
        line: &mut Option<(Endpoint, Exchange)>,
        settings: &Settings,
    ) -> Result<String, String> {
        let target = self.primary.lock().clone();
        let Some(node) = target.endpoint() else {
            *line = None;
            return Err(target.why_unknown().unwrap_or_default());
        };
        // One that is away is not to keep the replica from being looked at.
        let within = settings.timeout.min(settings.period.max(LEAST_PATIENCE));
        let asked = tokio::time::timeout(within, async {
            let is_same = |line: &(Endpoint, Exchange)| line.0 == node && line.1.generation == target.generation();
            if !line.as_ref().is_some_and(is_same) {
                *line = Some((node.clone(), Exchange::open(&target).await?));
            }
            match line {
                Some((_, exchange)) => exchange.ask(&[own::INFO, b"replication"], within).await,
                None => Err(DialError::Timeout(within)),
            }
        });
        let frame = match asked.await.unwrap_or(Err(DialError::Timeout(within))) {
            Ok(frame) => frame,
            Err(error) => {
                *line = None;
                return Err(error.to_string());
            }
        };
        if reply::is_error(&frame) {
            return Err(format!("INFO replication is refused: {}", reply::error_text(&frame)));
        }
        Ok(String::from_utf8_lossy(reply::text(&frame).unwrap_or_default()).into_owned())
    }

    /// How soon it answers (µs), or why it is not to be read from.
    async fn look(
        &self,
        line: &mut Option<Exchange>,
        lag: &Lag,
        timeout: Duration,
    ) -> Result<Result<u64, String>, DialError> {
        let exchange = match line {
            Some(exchange) => exchange,
            None => line.insert(Exchange::open(&self.target).await?),
        };
        let begun = Instant::now();
        let pong = exchange.ask(&[own::PING], timeout).await?;
        let took_us = begun.elapsed().as_micros() as u64;
        if reply::is_error(&pong) {
            let error = reply::error_text(&pong);
            // Whoever may not ask for it may read all the same.
            if is_server_state(&error) {
                return Ok(Err(error));
            }
        }
        if !self.is_replica() {
            self.behind_us.store(NOT_KNOWN, Relaxed);
            return Ok(Ok(took_us));
        }
        let frame = exchange.ask(&[own::INFO, b"replication"], timeout).await?;
        if reply::is_error(&frame) {
            let error = reply::error_text(&frame);
            return Ok(Err(format!("INFO replication is refused: {error}")));
        }
        let text = String::from_utf8_lossy(reply::text(&frame).unwrap_or_default());
        let fit = fitness(&text).and_then(|()| lag.of(&text, clock::now_us()));
        Ok(fit.map(|behind_us| {
            self.behind_us.store(behind_us.unwrap_or(NOT_KNOWN), Relaxed);
            took_us
        }))
    }

    fn judge(&self, seen: Result<u64, String>) {
        match seen {
            Ok(took_us) => {
                let old_us = self.latency_us.load(Relaxed);
                let new_us = if old_us == 0 {
                    took_us
                } else {
                    (old_us * 7 + took_us) / 8
                };
                self.latency_us.store(new_us.max(1), Relaxed);
                if !self.is_usable.swap(true, Relaxed) && self.is_replica() {
                    tracing::info!(node = %self.endpoint, "the replica is read from");
                }
            }
            Err(why) => {
                let is_news = {
                    let mut told = self.why.lock();
                    let is_news = *told != why;
                    told.clone_from(&why);
                    is_news
                };
                if self.is_usable.swap(false, Relaxed) || is_news {
                    tracing::warn!(node = %self.endpoint, why, "the node is not read from");
                }
            }
        }
    }
}

/// Whether a replica that says this of itself may be read from.
///
/// # Errors
/// Why not.
fn fitness(info: &str) -> Result<(), String> {
    let field = |name| field(info, name);
    match field("role") {
        Some("slave") => {}
        role => {
            return Err(format!(
                "it says that it is a {}, no replica",
                role.unwrap_or("server without a role")
            ));
        }
    }
    if field("master_link_status") != Some("up") {
        return Err("its link to the primary is down".to_owned());
    }
    if field("master_sync_in_progress") == Some("1") {
        return Err("it copies the data of its primary".to_owned());
    }
    Ok(())
}

#[cfg(test)]
mod tests;
