//! A Redis Cluster as the proxy sees it: its nodes, and which of them has which slot. One for the process; read by every
//! worker, written by the one task that asks the nodes ([`watch`]).
//!
//! A worker keeps the topology that it has seen and compares one number for each request. What is found out between two
//! questions (`MOVED`, a node that is lost) is a hint that makes the next question come at once; only the answer of a node
//! changes the topology, so that it never follows a single reply back and forth.

pub mod nodes;
pub mod topology;
pub mod watch;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::{Mutex, RwLock};
use tokio::sync::{Notify, watch as channel};

use super::dial::{Role, Route, Target};
use crate::command::slot::SLOTS;
use crate::config::{Endpoint, ReadFrom};
use nodes::Preferred;
pub use topology::{NOBODY, NodeId, Topology};

pub struct Cluster {
    /// Of the newest topology; written behind it.
    version: AtomicU64,
    /// How many topologies there were, those included that differ in nothing but nodes without slots; written behind them.
    published: AtomicU64,
    topology: RwLock<Arc<Topology>>,
    /// By their numbers; only ever appended to.
    nodes: RwLock<Vec<Arc<Node>>>,
    /// A bit for each slot that was seen to be on its way since a node was last asked: nothing is kept of it.
    moving: Box<[AtomicU64]>,
    /// By which of their names nodes are called.
    has_hostnames: AtomicBool,
    /// Replicas are read from, and so are nodes that connections lead to.
    reads_replicas: bool,
    /// There was no number left for a node, which was said.
    is_full: AtomicBool,
    /// Who knows better, by the word of another node. Guards nothing else.
    hint: Mutex<Option<Endpoint>>,
    is_hinted: Notify,
    /// As whom nodes are spoken to; leads to some primary itself.
    pub any: Target,
}

/// One node, known by its address.
#[derive(Debug)]
pub struct Node {
    pub id: NodeId,
    pub endpoint: Endpoint,
    pub target: Target,
    /// Leads to it, or nowhere while it is no node of the cluster.
    route: channel::Sender<Route>,
}

impl Node {
    fn leave(&self) {
        let why = format!("{} has no slots of the cluster any more", self.endpoint);
        self.lead_to(Err(why));
    }

    fn rejoin(&self) {
        self.lead_to(Ok(self.endpoint.clone()));
    }

    fn lead_to(&self, node: Result<Endpoint, String>) {
        self.route.send_if_modified(|route| {
            let is_news = route.node.is_ok() != node.is_ok();
            if is_news {
                route.node = node;
                route.generation += 1;
            }
            is_news
        });
    }
}

/// More nodes than the largest cluster has, over all changes in the life of a process.
const MOST_NODES: usize = 4095;

impl Cluster {
    pub fn new(any: Target) -> Cluster {
        Cluster {
            version: AtomicU64::new(0),
            published: AtomicU64::new(0),
            topology: RwLock::default(),
            nodes: RwLock::default(),
            moving: (0..usize::from(SLOTS) / 64).map(|_| AtomicU64::new(0)).collect(),
            has_hostnames: AtomicBool::new(false),
            reads_replicas: false,
            is_full: AtomicBool::new(false),
            hint: Mutex::default(),
            is_hinted: Notify::new(),
            any,
        }
    }

    /// The same where reads go to these nodes.
    pub fn reading_from(self, from: ReadFrom) -> Cluster {
        Cluster {
            reads_replicas: from != ReadFrom::Primary,
            ..self
        }
    }

    /// Whether slots have other nodes; 0: nothing is known yet.
    #[inline]
    pub fn version(&self) -> u64 {
        self.version.load(Ordering::SeqCst)
    }

    /// What one number tells: whether the topology is another one.
    #[inline]
    pub fn published(&self) -> u64 {
        self.published.load(Ordering::SeqCst)
    }

    pub fn topology(&self) -> Arc<Topology> {
        Arc::clone(&self.topology.read())
    }

    /// From now on this one holds. What was read from nodes that it takes slots from must be voided after this and before
    /// anything else is done: whoever fills after the void sees this topology.
    pub fn publish(&self, topology: Topology) {
        let version = topology.version;
        let old = std::mem::replace(&mut *self.topology.write(), Arc::new(topology));
        self.version.store(version, Ordering::SeqCst);
        self.published.fetch_add(1, Ordering::SeqCst);
        self.leave_others(&old);
    }

    /// Nobody needs a connection to a node that has left: what tries to make one, or probes it, ends. So does what was tried at
    /// a node that somebody has named who did not know better.
    fn leave_others(&self, old: &Topology) {
        let topology = self.topology();
        for node in self.nodes.read().iter() {
            let is_replica = |topology: &Topology| {
                let mut replicas = topology.replicas.iter();
                self.reads_replicas && replicas.any(|replica| replica.endpoint == node.endpoint)
            };
            let is_in = |topology: &Topology| topology.primaries.contains(&node.id) || is_replica(topology);
            if is_in(&topology) {
                node.rejoin();
            } else if is_in(old) || node.target.breaker().is_cut() {
                node.leave();
            }
        }
    }

    pub fn node(&self, id: NodeId) -> Option<Arc<Node>> {
        self.nodes.read().get(usize::from(id)).map(Arc::clone)
    }

    /// The node at this address, if there ever was one.
    pub fn known_at(&self, endpoint: &Endpoint) -> Option<Arc<Node>> {
        let nodes = self.nodes.read();
        nodes.iter().find(|node| node.endpoint == *endpoint).map(Arc::clone)
    }

    /// The node at an address that a node has named, which may be a new one.
    pub fn node_at(&self, endpoint: &Endpoint) -> Option<NodeId> {
        if let Some(node) = self.known_at(endpoint) {
            node.rejoin();
            return Some(node.id);
        }
        let mut nodes = self.nodes.write();
        if let Some(node) = nodes.iter().find(|node| node.endpoint == *endpoint) {
            return Some(node.id);
        }
        if nodes.len() >= MOST_NODES {
            if !self.is_full.swap(true, Ordering::Relaxed) {
                tracing::error!(
                    node = %endpoint,
                    "the nodes of the cluster have had {MOST_NODES} addresses since the start, and this one cannot be reached: \
                     restart nearcache"
                );
            }
            return None;
        }
        let id = NodeId::try_from(nodes.len()).ok()?;
        let (route, routes) = channel::channel(Route {
            generation: 0,
            node: Ok(endpoint.clone()),
            role: Role::Any,
        });
        nodes.push(Arc::new(Node {
            id,
            endpoint: endpoint.clone(),
            target: self.any.beside(routes),
            route,
        }));
        Some(id)
    }

    /// A slot was seen to be on its way from one node to another.
    pub fn note_moving(&self, slot: u16) {
        if let Some(bits) = self.moving.get(usize::from(slot) / 64) {
            bits.fetch_or(1 << (slot % 64), Ordering::Relaxed);
        }
    }

    pub fn is_moving(&self, slot: u16) -> bool {
        self.moving
            .get(usize::from(slot) / 64)
            .is_some_and(|bits| bits.load(Ordering::Relaxed) >> (slot % 64) & 1 != 0)
    }

    pub fn preferred(&self) -> Preferred {
        match self.has_hostnames.load(Ordering::Relaxed) {
            true => Preferred::Hostname,
            false => Preferred::Address,
        }
    }

    fn prefer(&self, preferred: Preferred) {
        self.has_hostnames
            .store(preferred == Preferred::Hostname, Ordering::Relaxed);
    }

    fn forget_moving(&self) {
        self.moving.iter().for_each(|bits| bits.store(0, Ordering::Relaxed));
    }

    /// The topology may be another one, and this node may know it.
    pub fn doubt(&self, who_knows: Option<&Endpoint>) {
        if let Some(endpoint) = who_knows {
            *self.hint.lock() = Some(endpoint.clone());
        }
        self.is_hinted.notify_one();
    }
}

#[cfg(test)]
mod tests;
