//! Real clusters of the tests' own: each node a process, with short timeouts.

use std::time::{Duration, Instant};

use super::certificates::{Authority, Identity};
use super::client::{children, payload};
use super::relay::Relay;
use super::server::{Newer, free_port};
use super::{Client, STEP, Server, eventually};

/// The number of slots of a cluster.
pub const SLOTS: u16 = 16_384;

/// How long it takes at most until the cluster has agreed that a primary is dead and promoted its replica.
pub const FAILOVER: Duration = Duration::from_secs(60);

pub struct Cluster {
    /// Primaries first, each with a third of the slots; then the replicas, in the same order.
    pub nodes: Vec<Server>,
    pub ids: Vec<String>,
    primaries: usize,
    scheme: &'static str,
}

impl Cluster {
    /// Three primaries without replicas.
    pub fn start() -> Cluster {
        Cluster::with(3, false, &[])
    }

    /// So many primaries, with a replica each if wanted, and more arguments for each node.
    pub fn with(primaries: usize, has_replicas: bool, extra: &[&str]) -> Cluster {
        let launch = |flags: &[&str]| Some(Server::with(flags));
        Cluster::launch(primaries, has_replicas, extra, "redis", &launch).expect("there is a redis-server")
    }

    /// The same of Valkeys; `None` with a printed reason when there is none.
    pub fn valkey(primaries: usize, has_replicas: bool, extra: &[&str]) -> Option<Cluster> {
        Cluster::launch(primaries, has_replicas, extra, "redis", &Server::valkey)
    }

    /// Primaries of another version; `None` with a printed reason when it is not there.
    pub fn newer(newer: Newer, primaries: usize, extra: &[&str]) -> Option<Cluster> {
        let launch = |flags: &[&str]| Server::newer(newer, flags);
        Cluster::launch(primaries, false, extra, "redis", &launch)
    }

    /// All of them, the bus included, speak nothing but TLS, Unix sockets aside.
    pub fn over_tls(authority: &Authority, identity: &Identity, extra: &[&str]) -> Cluster {
        let paths = [&identity.cert, &identity.key, &authority.ca].map(|path| path.display().to_string());
        let [cert, key, ca] = &paths;
        let mut flags = vec![
            "--tls-cert-file",
            cert,
            "--tls-key-file",
            key,
            "--tls-ca-cert-file",
            ca,
            "--tls-auth-clients",
            "no",
            "--tls-replication",
            "yes",
            "--tls-cluster",
            "yes",
        ];
        flags.extend(extra);
        let launch = |flags: &[&str]| Some(Server::with_tls_port(flags));
        Cluster::launch(3, true, &flags, "rediss", &launch).expect("there is a redis-server")
    }

    fn launch(
        primaries: usize,
        has_replicas: bool,
        extra: &[&str],
        scheme: &'static str,
        launch: &dyn Fn(&[&str]) -> Option<Server>,
    ) -> Option<Cluster> {
        let count = if has_replicas { 2 * primaries } else { primaries };
        let started = (0..count).map(|_| node(extra, launch)).collect::<Option<Vec<_>>>()?;
        let (nodes, buses): (Vec<Server>, Vec<String>) = started.into_iter().unzip();
        let ids: Vec<String> = nodes
            .iter()
            .map(|node| {
                let id = node.client().bulk(&["CLUSTER", "MYID"]).expect("a node has an id");
                String::from_utf8(id).expect("ids are text")
            })
            .collect();
        let cluster = Cluster {
            nodes,
            ids,
            primaries,
            scheme,
        };
        for (i, node) in cluster.nodes[..primaries].iter().enumerate() {
            let mut client = node.client();
            let (first, last) = cluster.range(i);
            client.expect(
                &["CLUSTER", "ADDSLOTSRANGE", &first.to_string(), &last.to_string()],
                "+OK",
            );
            client.expect(&["CLUSTER", "SET-CONFIG-EPOCH", &(i + 1).to_string()], "+OK");
        }
        cluster.introduce(&buses);
        for (i, node) in cluster.nodes[primaries..].iter().enumerate() {
            let mut client = node.client();
            eventually("the replica may follow its primary", STEP, || {
                client.text(&["CLUSTER", "REPLICATE", &cluster.ids[i]]) == "+OK\r\n"
            });
        }
        for (i, node) in cluster.nodes.iter().enumerate() {
            eventually("the cluster is well", STEP * 2, || {
                let state = node.client().text(&["CLUSTER", "INFO"]);
                state.contains("cluster_state:ok")
                    && (i < primaries
                        || node
                            .client()
                            .text(&["INFO", "replication"])
                            .contains("master_link_status:up"))
            });
        }
        Some(cluster)
    }

    /// A handshake that takes longer than the timeout of the nodes is given up, as it may on a busy machine.
    fn introduce(&self, buses: &[String]) {
        let mut asked: Option<Instant> = None;
        eventually("the nodes know one another", STEP * 4, || {
            let is_due = asked.is_none_or(|asked| asked.elapsed() > Duration::from_secs(2));
            for (node, bus) in self.nodes.iter().zip(buses).skip(1).filter(|_| is_due) {
                let meet = ["CLUSTER", "MEET", "127.0.0.1", &node.port().to_string(), bus];
                self.nodes[0].client().expect(&meet, "+OK");
                asked = Some(Instant::now());
            }
            self.nodes.iter().all(|node| {
                let seen = node.client().text(&["CLUSTER", "NODES"]);
                let is_complete = self.ids.iter().all(|id| seen.contains(id.as_str()));
                is_complete && !seen.contains("handshake") && !seen.contains("disconnected")
            })
        });
    }

    /// First and last slot of a primary at the start.
    pub fn range(&self, primary: usize) -> (u16, u16) {
        let share = usize::from(SLOTS) / self.primaries;
        let last = match primary + 1 == self.primaries {
            true => usize::from(SLOTS),
            false => (primary + 1) * share,
        };
        ((primary * share) as u16, (last - 1) as u16)
    }

    /// The address for `--upstream`: two of the nodes.
    pub fn url(&self) -> String {
        self.url_by("127.0.0.1")
    }

    /// The same by this name of the machine.
    pub fn url_by(&self, host: &str) -> String {
        let seeds: Vec<String> = self
            .nodes
            .iter()
            .take(2)
            .map(|node| format!("{host}:{}", node.port()))
            .collect();
        format!("{}+cluster://{}", self.scheme, seeds.join(","))
    }

    /// From now on a node names a relay as its address, so that clients of the cluster reach it by that alone.
    pub fn relay(&self, node: usize) -> Relay {
        let relay = Relay::start(&self.nodes[node].socket());
        let port = relay.port().to_string();
        self.client(node)
            .expect(&["CONFIG", "SET", "cluster-announce-port", &port], "+OK");
        let named = format!("127.0.0.1:{port}@");
        eventually("all nodes know its new address", STEP * 2, || {
            let mut nodes = self.nodes.iter();
            nodes.all(|node| node.client().text(&["CLUSTER", "NODES"]).contains(&named))
        });
        relay
    }

    /// A key in a slot of this primary at the start; others for other numbers.
    pub fn key(&self, primary: usize, nth: usize) -> String {
        let (first, last) = self.range(primary);
        let is_there = |key: &String| (first..=last).contains(&slot(key.as_bytes()));
        (0..)
            .map(|i| format!("key:{primary}:{i}"))
            .filter(is_there)
            .nth(nth)
            .expect("there are many")
    }

    pub fn client(&self, node: usize) -> Client {
        self.nodes[node].client()
    }

    /// Moves a slot as `redis-cli --cluster reshard` does, keys and all.
    pub fn move_slot(&self, slot: u16, from: usize, to: usize) {
        self.begin_move(slot, from, to);
        self.move_keys(slot, from, to);
        self.end_move(slot, from, to);
    }

    pub fn begin_move(&self, slot: u16, from: usize, to: usize) {
        let slot = slot.to_string();
        self.client(to)
            .expect(&["CLUSTER", "SETSLOT", &slot, "IMPORTING", &self.ids[from]], "+OK");
        self.client(from)
            .expect(&["CLUSTER", "SETSLOT", &slot, "MIGRATING", &self.ids[to]], "+OK");
    }

    pub fn move_keys(&self, slot: u16, from: usize, to: usize) {
        let mut source = self.client(from);
        let port = self.nodes[to].port().to_string();
        loop {
            let keys: Vec<Vec<u8>> = children(&source.cmd(&["CLUSTER", "GETKEYSINSLOT", &slot.to_string(), "10"]))
                .iter()
                .filter_map(|key| payload(key)?)
                .collect();
            if keys.is_empty() {
                return;
            }
            let mut request: Vec<&[u8]> = vec![b"MIGRATE", b"127.0.0.1", port.as_bytes(), b"", b"0", b"5000", b"KEYS"];
            request.extend(keys.iter().map(Vec::as_slice));
            let reply = source.text(&request);
            assert!(reply == "+OK\r\n" || reply == "+NOKEY\r\n", "MIGRATE answered {reply}");
        }
    }

    /// Has a Valkey 9 or Redis 8.4 move these slots by itself, and waits until it has.
    pub fn migrate(&self, slots: &[u16], from: usize, to: usize) {
        let texts: Vec<String> = slots.iter().map(u16::to_string).collect();
        let ranges = texts.iter().flat_map(|slot| [slot.as_str(), slot.as_str()]);
        let mut taker = self.client(to);
        // With Valkey the node that has them is told where they go, with Redis the one that is to have them.
        let is_taken = !taker.text(&["CLUSTER", "MIGRATION", "STATUS", "ALL"]).starts_with('-');
        let (mut asked, request) = match is_taken {
            true => (
                taker,
                ["CLUSTER", "MIGRATION", "IMPORT"].into_iter().chain(ranges).collect(),
            ),
            false => {
                let mut request = vec!["CLUSTER", "MIGRATESLOTS", "SLOTSRANGE"];
                request.extend(ranges);
                request.extend(["NODE", &self.ids[to]]);
                (self.client(from), request)
            }
        };
        // One at a time; and a node may not have heard of the one before.
        eventually("the move begins", STEP, || !asked.text(&request).starts_with('-'));
        self.agree_on(slots, to);
    }

    /// Waits until all primaries name this one as the owner of these slots, at one epoch: a node that takes a slot over before
    /// it has heard of the last owner's new epoch does not raise its own above that, and the others never believe it.
    pub fn agree_on(&self, slots: &[u16], owner: usize) {
        let epoch_at = |node: usize| {
            let all = self.client(node).text(&["CLUSTER", "NODES"]);
            let line = all.lines().find(|line| line.starts_with(&self.ids[owner]))?;
            let has_all = slots.iter().all(|slot| has_slot(line, *slot));
            has_all.then(|| line.split(' ').nth(6).map(str::to_owned))?
        };
        eventually("the slots have moved", STEP * 2, || {
            let first = epoch_at(0);
            first.is_some() && (1..self.primaries).all(|node| epoch_at(node) == first)
        });
    }

    /// The new owner first, as redis-cli does.
    pub fn end_move(&self, slot: u16, from: usize, to: usize) {
        let slot = slot.to_string();
        let others = (0..self.primaries).filter(|i| *i != from && *i != to);
        for node in [to, from].into_iter().chain(others) {
            let mut client = self.client(node);
            client.expect(&["CLUSTER", "SETSLOT", &slot, "NODE", &self.ids[to]], "+OK");
        }
    }
}

/// A node that knows no other, and the port of its bus.
fn node(extra: &[&str], launch: &dyn Fn(&[&str]) -> Option<Server>) -> Option<(Server, String)> {
    for _ in 0..20 {
        let bus = free_port().to_string();
        let mut flags = vec![
            "--cluster-enabled",
            "yes",
            "--cluster-node-timeout",
            "1000",
            "--cluster-port",
            &bus,
            "--repl-diskless-sync-delay",
            "0",
            "--repl-ping-replica-period",
            "1",
        ];
        flags.extend(extra);
        let server = launch(&flags)?;
        if server.client().text(&["CLUSTER", "INFO"]).contains("cluster_state") {
            return Some((server, bus));
        }
    }
    panic!("no node of a cluster starts");
}

/// Whether this line of `CLUSTER NODES` has the slot.
fn has_slot(line: &str, slot: u16) -> bool {
    let number = |text: &str| text.parse::<u16>().ok();
    line.split(' ').skip(8).any(|range| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        number(first)
            .zip(number(last))
            .is_some_and(|(first, last)| (first..=last).contains(&slot))
    })
}

/// The slot of a key, by a reckoning independent of the product's.
pub fn slot(key: &[u8]) -> u16 {
    let tag = match key.iter().position(|b| *b == b'{') {
        Some(open) => match key[open + 1..].iter().position(|b| *b == b'}') {
            Some(len) if len > 0 => &key[open + 1..open + 1 + len],
            _ => key,
        },
        None => key,
    };
    let mut crc: u32 = 0;
    for byte in tag {
        crc ^= u32::from(*byte) << 8;
        for _ in 0..8 {
            crc <<= 1;
            if crc & 0x1_0000 != 0 {
                crc ^= 0x1_1021;
            }
        }
    }
    (crc % u32::from(SLOTS)) as u16
}
