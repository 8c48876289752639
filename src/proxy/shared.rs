//! What all workers share: L1, the configuration, what is known of the upstream, the list of clients, and an inbox for
//! each worker.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};

use bytes::Bytes;
use crossbeam::queue::SegQueue;
use crossbeam::utils::CachePadded;
use parking_lot::{Mutex, RwLock};
use tokio::sync::{Notify, Semaphore, watch};

use super::client::ClientMeta;
use super::flight::Follower;
use super::pause::Pause;
use super::pubsub::audience::Audience;
use super::touch::Touches;
use crate::cache::l3::Found;
use crate::cache::{L1, LinkId, Links};
use crate::clock;
use crate::config::{Config, Consistency, Credentials, Place, Upstream};
use crate::metrics::Counters;
use crate::upstream::cluster::{Cluster, NodeId};
use crate::upstream::dial::Target;
use crate::upstream::facts::Facts;
use crate::upstream::readers::Readers;
use crate::upstream::sentinel::Topology;

/// Large values that travel at once, as long as they travel fast. The server copies such a value in one go, during which it
/// answers nobody, and a worker that carries many of them has little time for others: so they take turns.
const BULK_AT_ONCE: usize = 4;

pub struct Shared {
    pub config: Config,
    pub target: Target,
    /// The database in which clients begin.
    pub initial_db: u32,
    /// The upstream's address as it is shown to people.
    pub upstream_name: String,
    /// What Sentinel says, where it is asked.
    pub topology: Option<watch::Receiver<Topology>>,
    /// The nodes behind, where they are a cluster.
    pub cluster: Option<Arc<Cluster>>,
    /// Those that reads are spread over, where the primary is not the only one.
    pub readers: Option<Arc<Readers>>,
    /// Which link leads to which of them.
    node_links: Mutex<Vec<(NodeId, LinkId)>>,
    /// Links that lead to nodes without slots, and are down for that.
    pub links_retired: AtomicUsize,
    /// How often the upstream has become another node.
    pub switches: AtomicU64,
    pub links: Arc<Links>,
    pub cache: L1<Follower>,
    pub inboxes: Box<[Inbox]>,
    /// Who listens to what, over all workers.
    pub audience: Audience,
    pub pause: Pause,
    /// Each client that monitors the server holds it as well.
    pub monitors: Arc<()>,
    /// Places for transfers of large values, see [`BULK_AT_ONCE`].
    pub bulk: Arc<Semaphore>,
    /// Since when each worker waits for a script (µs; 0: it does not).
    pub scripts_since_us: Box<[CachePadded<AtomicU64>]>,
    /// When each worker has last served somebody besides the transfers of large values (µs; 0: never).
    pub served_us: Box<[CachePadded<AtomicU64>]>,
    pub counters: Box<[CachePadded<Counters>]>,
    facts: RwLock<Arc<Facts>>,
    facts_version: AtomicU64,
    /// Every client of every worker by id; guards nothing else and is never held together with another lock.
    pub registry: Mutex<BTreeMap<u64, Arc<ClientMeta>>>,
    next_client: AtomicU64,
    /// Clients that are connected, those on their way to a worker included.
    pub clients: AtomicUsize,
    /// Upstream connections that belong to one client or wait in a pool for one.
    pub pinned: Arc<AtomicUsize>,
    /// Bytes in all buffers that grow with what clients send and ask for.
    pub buffered_bytes: AtomicUsize,
    /// Links that are up: tracked, not to be tracked, and those whose server refused to track.
    pub links_tracked: AtomicUsize,
    pub links_untracked: AtomicUsize,
    pub links_refused: AtomicUsize,
    pub last_trouble: Mutex<Option<String>>,
    /// Why the server does not track, as it last said, and why there are no keyspace events.
    pub tracking_refusal: Mutex<Option<String>>,
    pub events_trouble: Mutex<Option<String>>,
    /// Keyspace events are applied now, and how many were.
    pub has_events: AtomicBool,
    pub events_total: AtomicU64,
    /// Keys of hits of which the upstream is to hear.
    pub touches: Touches,
    /// The beginnings of the keys that a server which broadcasts tells of; empty: of all.
    pub broadcast_prefixes: Arc<[String]>,
    pub is_draining: AtomicBool,
    pub started_us: u64,
    pub started_unix_s: u64,
}

/// Messages to a worker from other threads, and from itself. Holds at most one message for each client that connects, one for
/// each follower that waits and one for each read that the disk is asked for, which are all bounded.
#[derive(Default)]
pub struct Inbox {
    queue: SegQueue<Message>,
    notify: Notify,
    /// Clients that the worker has or is about to get.
    pub clients: AtomicUsize,
}

pub enum Message {
    Socket(NewClient),
    /// The flight that a request of this worker followed has ended.
    Answer {
        to: Follower,
        answer: FlightAnswer,
    },
    /// The disk has answered the miss that waits in this place.
    Found {
        place: u64,
        found: Option<Box<Found>>,
    },
    /// It has what clients of this worker wait for.
    Paid,
    /// A client was marked as killed, or as called.
    Look {
        client: u64,
    },
    /// A key has a large value, or no longer has.
    Large {
        hash: u64,
    },
    NotLarge {
        hash: u64,
    },
    /// The upstream is another node.
    Switch,
    Drain,
    /// The worker ends, with whatever is left.
    Stop,
}

#[derive(Clone, Debug)]
pub enum FlightAnswer {
    /// The reply in the follower's version.
    Reply(Bytes),
    Error(Arc<str>),
}

/// An accepted socket; a std one, since a tokio socket belongs to the runtime that made it.
#[derive(Debug)]
pub enum NewClient {
    Tcp(std::net::TcpStream, SocketAddr),
    Unix(std::os::unix::net::UnixStream, String),
}

impl Inbox {
    /// The worker is told by `notify`, once for many messages.
    pub fn push(&self, message: Message) {
        self.queue.push(message);
    }

    pub fn notify(&self) {
        self.notify.notify_one();
    }

    pub fn send(&self, message: Message) {
        self.push(message);
        self.notify();
    }

    pub fn pop(&self) -> Option<Message> {
        self.queue.pop()
    }

    pub async fn notified(&self) {
        self.notify.notified().await;
    }
}

impl Shared {
    pub fn new(config: Config, target: Target, cache: L1<Follower>, links: Arc<Links>, workers: usize) -> Shared {
        let started_unix_s = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .map_or(0, |since| since.as_secs());
        Shared {
            initial_db: match &config.upstream {
                Upstream::Url { db, .. } => *db,
                Upstream::Embedded { .. } => 0,
            },
            upstream_name: match &config.upstream {
                Upstream::Url {
                    place: Place::Sentinel(sentinels),
                    ..
                } => format!("{} (by Sentinel)", sentinels.name),
                Upstream::Url {
                    place: Place::Cluster(nodes),
                    ..
                } => {
                    let nodes: Vec<String> = nodes.iter().map(ToString::to_string).collect();
                    format!("{} (a cluster)", nodes.join(","))
                }
                _ => target.node(),
            },
            topology: None,
            cluster: None,
            readers: None,
            node_links: Mutex::default(),
            links_retired: AtomicUsize::new(0),
            switches: AtomicU64::new(0),
            broadcast_prefixes: config.cache.broadcast_prefixes.as_slice().into(),
            config,
            target,
            links,
            cache,
            audience: Audience::default(),
            pause: Pause::default(),
            monitors: Arc::default(),
            bulk: Arc::new(Semaphore::new(BULK_AT_ONCE)),
            scripts_since_us: (0..workers).map(|_| CachePadded::default()).collect(),
            served_us: (0..workers).map(|_| CachePadded::default()).collect(),
            inboxes: (0..workers).map(|_| Inbox::default()).collect(),
            counters: (0..workers).map(|_| CachePadded::default()).collect(),
            facts: RwLock::new(Arc::new(Facts::unknown())),
            facts_version: AtomicU64::new(0),
            registry: Mutex::default(),
            next_client: AtomicU64::new(1),
            clients: AtomicUsize::new(0),
            pinned: Arc::new(AtomicUsize::new(0)),
            buffered_bytes: AtomicUsize::new(0),
            links_tracked: AtomicUsize::new(0),
            links_untracked: AtomicUsize::new(0),
            links_refused: AtomicUsize::new(0),
            last_trouble: Mutex::new(None),
            tracking_refusal: Mutex::default(),
            events_trouble: Mutex::default(),
            has_events: AtomicBool::new(false),
            events_total: AtomicU64::new(0),
            touches: Touches::default(),
            is_draining: AtomicBool::new(false),
            started_us: clock::now_us(),
            started_unix_s,
        }
    }

    /// The nodes of the upstream; of a cluster, its primaries.
    pub fn nodes(&self) -> Vec<Target> {
        let Some(cluster) = &self.cluster else {
            return vec![self.target.clone()];
        };
        let primaries = &cluster.topology().primaries;
        let target = |id: &NodeId| cluster.node(*id).map(|node| node.target.clone());
        primaries.iter().filter_map(target).collect()
    }

    pub fn next_client_id(&self) -> u64 {
        self.next_client.fetch_add(1, Relaxed)
    }

    pub fn facts(&self) -> Arc<Facts> {
        Arc::clone(&self.facts.read())
    }

    pub fn facts_version(&self) -> u64 {
        self.facts_version.load(Relaxed)
    }

    pub fn learn(&self, facts: Facts) {
        *self.facts.write() = Arc::new(facts);
        self.facts_version.fetch_add(1, Relaxed);
    }

    /// What a client must show before it is served: the credentials may be new since the start.
    pub fn client_credentials(&self) -> Option<Credentials> {
        self.config.auth.required(self.target.access().credentials())
    }

    /// A flush, or a write whose keys nobody knows: nothing older survives.
    pub fn void_everything(&self) {
        self.links.void_everything();
        self.void_copies();
    }

    /// A link leads to this node of the cluster.
    pub fn add_node_link(&self, node: NodeId, link: LinkId) {
        self.node_links.lock().push((node, link));
    }

    /// Slots have gone to or from this node: nothing that was read there before is shown again.
    pub fn void_node(&self, node: NodeId) {
        let links = self.node_links.lock();
        let of_node = links.iter().filter(|(of, _)| *of == node);
        of_node.for_each(|(_, link)| self.links.void_all(*link));
    }

    /// What the end of an epoch does not reach: entries of the `eventual` consistency, which do not look at it, and what is on
    /// the disk, which may be asked when no epoch counts any more.
    pub fn void_copies(&self) {
        match self.config.cache.consistency {
            Consistency::Eventual => drop(self.cache.purge_all()),
            Consistency::Coherent | Consistency::Strong => self.cache.void_all_below(),
        }
    }

    /// The text of the one error that clients get while the upstream is away.
    pub fn unavailable(&self, why: &dyn std::fmt::Display) -> String {
        format!("ERR nearcache: upstream {} is unavailable: {why}", self.upstream_name)
    }

    /// Whether a client monitors the server: what the proxy could answer by itself is then executed where it is seen.
    pub fn has_monitors(&self) -> bool {
        Arc::strong_count(&self.monitors) > 1
    }

    /// Has the client's session take an upstream connection of its own, by which the server knows it.
    pub fn call(&self, meta: &ClientMeta) {
        meta.is_called.store(true, Relaxed);
        self.inboxes[usize::from(meta.worker)].send(Message::Look { client: meta.id });
    }

    /// Marks clients as killed and has their workers look at them.
    pub fn kill(&self, which: impl Fn(&ClientMeta) -> bool) -> usize {
        let killed: Vec<Arc<ClientMeta>> = self
            .registry
            .lock()
            .values()
            .filter(|meta| which(meta))
            .map(Arc::clone)
            .collect();
        for meta in &killed {
            meta.is_killed.store(true, Relaxed);
            self.inboxes[usize::from(meta.worker)].send(Message::Look { client: meta.id });
        }
        killed.len()
    }
}

impl NewClient {
    /// From this machine: protected mode lets it in.
    pub fn is_local(&self) -> bool {
        match self {
            NewClient::Tcp(_, peer) => peer.ip().to_canonical().is_loopback(),
            NewClient::Unix(..) => true,
        }
    }

    /// Tells the client why, if it takes it at once, and closes.
    pub fn refuse(self, text: &str) {
        use std::io::Write as _;
        let _ = match self {
            NewClient::Tcp(mut stream, _) => stream.write(text.as_bytes()),
            NewClient::Unix(mut stream, _) => stream.write(text.as_bytes()),
        };
    }
}
