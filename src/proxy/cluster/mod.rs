//! A Redis Cluster behind the proxy: clients see one Redis. Every request that names keys goes to the node of their slot, on
//! the worker's one connection to that node; what names keys of several slots is split, or refused as a node would refuse it;
//! what names none goes to one node or to all. What the cluster says about itself is not passed on: to clients the proxy is
//! the node that has all slots.
//!
//! A client's order is the order on one connection, and the node of a slot can change. So a client whose requests were sent
//! under an earlier topology, or are sent again to another node, waits with the next one until all are answered.

mod answers;
pub mod detours;
mod fan_out;
pub mod gather;
pub mod merge;
pub mod redirect;
mod scan;
pub mod seat;
mod split;

use std::cell::{Cell, Ref, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use super::client::{Client, State};
use super::pubsub;
use super::request::{self, Request, Step};
use super::worker::Worker;
use crate::command::slot::slot;
use crate::command::{Local, Path, Pin, Spec};
use crate::config::Endpoint;
use crate::resp::request::Args;
use crate::upstream::cluster::{Cluster, NOBODY, Node, NodeId, Topology};
use crate::upstream::pool::Pool;

/// What a request names no slot by.
pub const NO_SLOT: u16 = u16::MAX;

/// In place of the version of a topology: a request is on its way to another node than the one it was sent to first.
pub const DETOUR: u64 = u64::MAX;

pub const CROSS_SLOT: &str = "CROSSSLOT Keys in request don't hash to the same slot";

/// What a worker knows of the cluster.
pub struct View {
    pub cluster: Arc<Cluster>,
    topology: RefCell<Arc<Topology>>,
    /// Of that topology: how many were published with it, and its version.
    published: Cell<u64>,
    version: Cell<u64>,
    pools: RefCell<Vec<(NodeId, Rc<Pool>)>>,
    /// Since when all nodes refuse to serve; `u64::MAX`: they do not.
    pub down_since_us: Cell<u64>,
}

impl View {
    pub fn new(cluster: Arc<Cluster>) -> View {
        let published = cluster.published();
        let topology = cluster.topology();
        View {
            published: Cell::new(published),
            version: Cell::new(topology.version),
            topology: RefCell::new(topology),
            cluster,
            pools: RefCell::default(),
            down_since_us: Cell::new(u64::MAX),
        }
    }

    /// The topology that holds now.
    pub fn topology(&self) -> Ref<'_, Arc<Topology>> {
        let published = self.cluster.published();
        if published != self.published.get() {
            let topology = self.cluster.topology();
            self.published.set(published);
            self.version.set(topology.version);
            *self.topology.borrow_mut() = topology;
        }
        self.topology.borrow()
    }

    /// The node of a slot, or, without one, some node.
    ///
    /// # Errors
    /// Why there is none, for the client.
    pub fn node_for(&self, slot: u16) -> Result<NodeId, String> {
        if slot == NO_SLOT {
            return self.any_node();
        }
        let owner = self.topology().owner(slot);
        match owner {
            NOBODY if self.version.get() > 0 => Err(format!(
                "CLUSTERDOWN nearcache: no node of the cluster has hash slot {slot}"
            )),
            NOBODY => self.any_node(),
            node => Ok(node),
        }
    }

    /// Where what any node may be asked is asked.
    fn any_node(&self) -> Result<NodeId, String> {
        let endpoint = self.cluster.any.endpoint();
        let node = endpoint.and_then(|endpoint| Some(self.cluster.known_at(&endpoint)?.id));
        let is_cut = |id: NodeId| self.node(id).is_some_and(|node| node.target.breaker().is_cut());
        match node {
            None => Err(format!(
                "ERR nearcache: the cluster is not known yet: {}",
                self.why_unknown()
            )),
            // The others may not have noticed yet that it is away.
            Some(node) if is_cut(node) => Ok(self.primaries().into_iter().find(|id| !is_cut(*id)).unwrap_or(node)),
            Some(node) => Ok(node),
        }
    }

    fn why_unknown(&self) -> String {
        self.cluster
            .any
            .why_unknown()
            .unwrap_or_else(|| "there are too many nodes".to_owned())
    }

    pub fn node(&self, id: NodeId) -> Option<Arc<Node>> {
        self.cluster.node(id)
    }

    /// The node as it is shown to people.
    pub fn name(&self, id: NodeId) -> String {
        self.node(id)
            .map_or_else(|| "?".to_owned(), |node| node.endpoint.to_string())
    }

    pub fn endpoint(&self, id: NodeId) -> Option<Endpoint> {
        Some(self.node(id)?.endpoint.clone())
    }

    pub fn primaries(&self) -> Vec<NodeId> {
        self.topology().primaries.clone()
    }

    /// Whether what this node has read of a slot may be kept. To be asked when it is stored.
    pub fn may_keep(&self, node: NodeId, slot: u16) -> bool {
        let topology = self.topology();
        let owner = topology.owner(slot);
        (owner == node || self.is_replica_of(&topology, node, owner)) && !self.cluster.is_moving(slot)
    }

    #[cold]
    fn is_replica_of(&self, topology: &Topology, node: NodeId, owner: NodeId) -> bool {
        let Some(node) = self.node(node) else { return false };
        let mut replicas = topology.replicas.iter();
        replicas.any(|replica| replica.primary == Some(owner) && replica.endpoint == node.endpoint)
    }

    /// Whether a client may send its next request now: under the topology of those that are unanswered, none of which is
    /// on its way to another node.
    pub fn may_go_on(&self, state: &mut State) -> bool {
        drop(self.topology());
        let version = self.version.get();
        if state.path != version {
            if !state.outbox.is_all_answered() {
                return false;
            }
            state.path = version;
            state.detours.forget();
        }
        true
    }

    /// The pool of connections to a node that belong to one client each.
    pub fn pool(&self, worker: &Worker, id: NodeId) -> Option<Rc<Pool>> {
        let mut pools = self.pools.borrow_mut();
        if let Some((_, pool)) = pools.iter().find(|(node, _)| *node == id) {
            return Some(Rc::clone(pool));
        }
        let target = Rc::new(self.node(id)?.target.clone());
        let pool = Rc::new(Pool::new(
            target,
            Arc::clone(&worker.shared.pinned),
            worker.shared.config.pinned_max,
        ));
        pools.push((id, Rc::clone(&pool)));
        Some(pool)
    }

    pub fn tick_pools(&self, now_us: u64) {
        self.pools.borrow().iter().for_each(|(_, pool)| pool.tick(now_us));
    }
}

/// Where a request has to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Aim {
    Slot(u16),
    /// Its keys are in several.
    Several,
    /// It names no key.
    Anywhere,
}

pub fn aim(spec: &Spec, args: Args<'_>) -> Aim {
    let mut aim = Aim::Anywhere;
    let mut look = |key: &[u8]| {
        let slot = slot(key);
        aim = match aim {
            Aim::Anywhere => Aim::Slot(slot),
            Aim::Slot(earlier) if earlier == slot => aim,
            _ => Aim::Several,
        };
    };
    if matches!(&*spec.name, "spublish") {
        look(args.arg(1));
    } else {
        let _ = spec.keys(args, &mut look);
    }
    aim
}

/// What a cluster makes different of a request; `None`: nothing.
pub fn request(
    worker: &Rc<Worker>,
    view: &View,
    client: &Rc<Client>,
    request: &Request<'_>,
    path: Path,
    has_listened: bool,
) -> Option<Step> {
    let (spec, args) = (request.spec, request.args);
    let refuse = |error: &str| {
        client.state.borrow_mut().error(error);
        Some(Step::DONE)
    };
    match path {
        Path::Shared => {
            if has_listened && let Some(step) = pubsub::publish(worker, client, request) {
                return Some(step);
            }
            Some(shared(worker, view, client, request))
        }
        Path::Side => {
            if let Some(step) = answers::local(worker, view, client, request) {
                return Some(step);
            }
            if let Some(plan) = fan_out::plan(spec, args) {
                return Some(fan_out::start(worker, view, client, request, plan));
            }
            match aim(spec, args) {
                Aim::Several => refuse(CROSS_SLOT),
                _ => None,
            }
        }
        Path::Pin(Pin::Multi) => Some(match super::transaction::whole(worker, client, request) {
            Some(step) => step,
            None => seat::hold(client),
        }),
        Path::Pin(Pin::Blocking | Pin::Watch) => match aim(spec, args) {
            Aim::Several => refuse(CROSS_SLOT),
            Aim::Slot(_) => None,
            Aim::Anywhere => match fan_out::plan(spec, args) {
                Some(plan) => Some(fan_out::start(worker, view, client, request, plan)),
                None => refuse(&not_served(&spec.full_name(args))),
            },
        },
        // A state of one connection, and there would have to be one to each node.
        Path::Pin(Pin::Client | Pin::Stateful) => refuse(&not_served(&spec.full_name(args))),
        Path::Local(Local::Client) if answers::is_about_one_node(args) => refuse(&not_served(&spec.full_name(args))),
        Path::Local(_) | Path::Pin(Pin::Subscribe | Pin::Monitor) | Path::Refused(_) => None,
    }
}

fn not_served(what: &str) -> String {
    format!(
        "ERR nearcache: {} is not served with a Redis Cluster",
        what.to_uppercase().replace('|', " ")
    )
}

fn has_several_keys(spec: &Spec, args: Args<'_>) -> bool {
    let mut count = 0;
    let _ = spec.keys(args, &mut |_| count += 1);
    count > 1
}

/// Sends what may have to wait between two nodes, since some of its keys are here and some there, behind everything that
/// the client has sent and before everything that it sends later: then it can wait without being overtaken.
pub fn alone(client: &Client, is_alone: bool, send: impl FnOnce() -> Step) -> Step {
    if is_alone && !client.state.borrow().outbox.is_all_answered() {
        return Step::Wait;
    }
    let step = send();
    if is_alone && step != Step::Wait {
        client.state.borrow_mut().path = DETOUR;
    }
    step
}

fn shared(worker: &Rc<Worker>, view: &View, client: &Rc<Client>, request: &Request<'_>) -> Step {
    match aim(request.spec, request.args) {
        Aim::Slot(slot) => {
            let is_alone = view.cluster.is_moving(slot) && has_several_keys(request.spec, request.args);
            alone(client, is_alone, || {
                request::shared(worker, client, &Request { slot, ..*request })
            })
        }
        Aim::Several => match split::kind(request.spec, request.args) {
            Some(kind) => split::request(worker, view, client, request, kind),
            None => {
                client.state.borrow_mut().error(CROSS_SLOT);
                Step::DONE
            }
        },
        Aim::Anywhere => match fan_out::plan(request.spec, request.args) {
            Some(plan) => fan_out::start(worker, view, client, request, plan),
            None => request::shared(worker, client, request),
        },
    }
}

#[cfg(test)]
mod tests;
