//! The same for a cluster: two nodes and a slot that goes from one to the other, key by key or at once and in silence (a
//! failover, or a slot that is taken over without its keys being told of), under the product's own workers, links and
//! redirections. What the proxy knows of it comes whenever the walk has it published.
//!
//! What must hold, at every step: an entry that would be shown equals the value at the node that has it, or a push for it is
//! under way on the connection that filled it, or the change of owner is not published yet; a read shows at least what was
//! acknowledged before it was issued, and never goes back, nor forward to a later write of its own session.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use nearcache::cache::{self, Asker, L1, L1Config, LinkId, Links, Own, Query, ViewValue, name_hash};
use nearcache::command::own;
use nearcache::config::{Config, Endpoint};
use nearcache::proxy::Follower;
use nearcache::proxy::client::{Access, Client, ClientMeta};
use nearcache::proxy::request::{self, Arrived, Step};
use nearcache::proxy::shared::{FlightAnswer, Message, Shared};
use nearcache::proxy::worker::{Link, Worker};
use nearcache::resp::limits::Limits;
use nearcache::resp::request::{Args, Scan, Scanner, Span};
use nearcache::resp::{Version, reply};
use nearcache::upstream::cluster::nodes::Seen;
use nearcache::upstream::cluster::{Cluster, Topology};
use nearcache::upstream::connection::Input;
use nearcache::upstream::dial::{self, Target, TrackingState};
use nearcache::upstream::facts::Facts;
use tokio::runtime::{Builder, LocalOptions};

use super::check::Checked;
use super::rig::NO_BREAKER;
use super::wire::{self, Token};

const WORKERS: usize = 2;
const NODES: usize = 2;
const KEYS: [&[u8]; 2] = [b"{t}0", b"{t}1"];
const START_US: u64 = 1_000_000;
const WALKS: u64 = 1500;
const WALKS_FOR_A_MUTANT: u64 = 20_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mutant {
    /// A new topology voids nothing.
    NoVoid,
    /// A client goes on while its requests are under way to another node.
    NoWait,
}

#[test]
fn no_schedule_of_a_moving_slot_shows_what_must_not_be_seen() {
    let first = super::setting("SEED", 0);
    let mut walked = Walked::default();
    for seed in first..first + super::setting("WALKS", WALKS) {
        if let Err(what) = walk(seed, None, &mut walked) {
            panic!("seed {seed}: {what}");
        }
    }
    eprintln!("{walked:?}");
    assert!(walked.hits > 100 && walked.redirects > 100, "{walked:?}");
}

#[test]
fn the_known_mistakes_about_a_moving_slot_are_found() {
    for mutant in [Mutant::NoVoid, Mutant::NoWait] {
        let found = (0..WALKS_FOR_A_MUTANT)
            .find_map(|seed| Some((seed, walk(seed, Some(mutant), &mut Walked::default()).err()?)));
        let (seed, what) = found.unwrap_or_else(|| panic!("{mutant:?} is not found"));
        eprintln!("{mutant:?}: seed {seed}: {what}");
    }
}

/// Two writes of a key, one behind the other. The first is sent away, the second finds the slot there again.
#[test]
fn what_is_sent_to_and_fro_is_not_executed_behind_a_later_request() {
    with_rig(|rig| {
        let [_, second] = rig.two_writes();
        rig.serve(0, 0);
        rig.nodes[0].hold = Hold::Owner;
        rig.serve(0, 0);
        rig.arrive(0, 0);
        rig.serve(1, 0);
        // Whether the reply to the second is there already, or not.
        if rig.is_first() {
            rig.arrive(0, 0);
            rig.arrive(1, 0);
        } else {
            rig.arrive(1, 0);
            rig.arrive(0, 0);
        }
        while wire::split_request(&rig.nodes[0].conns[0].input).is_some() {
            rig.serve(0, 0);
            rig.arrive(0, 0);
        }
        let last = rig.nodes[0].data[0].expect("it was written");
        assert_eq!(rig.versions[0][last], second);
        let told = rig.shown(0);
        assert!(
            told.starts_with("-TRYAGAIN ") && told.ends_with("\r\n+OK\r\n"),
            "{told}"
        );
    });
}

/// The same, and both are sent away and back: they keep their order, so nothing need be given up.
#[test]
fn what_comes_back_with_all_that_follows_it_goes_on() {
    with_rig(|rig| {
        let [first, _] = rig.two_writes();
        rig.serve(0, 0);
        rig.serve(0, 0);
        rig.arrive(0, 0);
        rig.arrive(0, 0);
        rig.serve(1, 0);
        rig.serve(1, 0);
        rig.nodes[0].hold = Hold::Owner;
        rig.arrive(1, 0);
        rig.serve(0, 0);
        rig.arrive(0, 0);
        let last = rig.nodes[0].data[0].expect("it was written");
        assert_eq!(rig.versions[0][last], first);
        assert_eq!(rig.shown(0), "+OK\r\n");
        // The second has nothing behind it, and waits a little.
        rig.arrive(1, 0);
        assert!(rig.nodes[0].conns[0].input.is_empty());
        assert_eq!(rig.shown(0), "");
    });
}

fn with_rig(test: impl Fn(&mut Rig)) {
    for seed in 0..2 {
        let runtime = Builder::new_current_thread()
            .build_local(LocalOptions::default())
            .expect("a runtime");
        runtime.block_on(async {
            let mut random = fastrand::Rng::with_seed(seed);
            let mut rig = Rig::new(None, &mut random);
            rig.foreign = seed as usize;
            test(&mut rig);
            for (link, _) in rig.links.iter().flatten() {
                while let Some(waiter) = link.next_waiter() {
                    drop(waiter);
                }
            }
        });
    }
}

impl Rig {
    fn is_first(&self) -> bool {
        self.foreign == 0
    }

    /// A session writes a key twice, which the node will not serve: each names the other.
    fn two_writes(&mut self) -> [Token; 2] {
        self.nodes[0].hold = Hold::Other;
        let tokens = [10, 11];
        for token in tokens {
            let request = wire::command(&[b"SET", KEYS[0], &wire::value(token)]);
            self.sessions[0].input.extend(request);
        }
        self.turn(0).expect("nothing is answered yet");
        self.carry();
        tokens
    }

    fn arrive(&mut self, n: usize, w: usize) {
        self.now_us += 1;
        let (frame, _) = self.nodes[n].conns[w].output.pop_front().expect("there is one");
        let (link, input) = &mut self.links[n][w];
        input.bytes.extend_from_slice(&frame);
        link.arrived(input, self.now_us).expect("it is a reply");
        self.carry();
    }

    /// What a session has been shown since.
    fn shown(&self, s: usize) -> String {
        let mut state = self.sessions[s].client.state.borrow_mut();
        let ready = state.outbox.ready();
        let shown = ready.plain().expect("it is short").to_vec();
        ready.advance(shown.len());
        String::from_utf8(shown).expect("text")
    }
}

#[derive(Debug, Default)]
struct Walked {
    steps: u64,
    hits: u64,
    redirects: u64,
}

/// What a node says of the slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hold {
    Owner,
    Migrating,
    Importing,
    Other,
}

struct Node {
    hold: Hold,
    /// Versions of the keys that are here.
    data: [Option<usize>; 2],
    /// Bit sets of workers.
    trackers: [u32; 2],
    conns: Vec<Conn>,
}

#[derive(Default)]
struct Conn {
    input: Vec<u8>,
    /// Frames, and the key that a push is about.
    output: VecDeque<(Vec<u8>, Option<usize>)>,
    is_asking: bool,
}

struct Session {
    worker: usize,
    client: Rc<Client>,
    input: Vec<u8>,
    expected: VecDeque<Expected>,
    floor: [usize; 2],
    issued: usize,
    is_stalled: bool,
}

/// A reply that a session waits for: of a read, with the version that it must show at least, or of a write.
#[derive(Debug)]
enum Expected {
    Read { key: usize, least: usize },
    Both { least: [usize; 2] },
    Wrote { key: usize, token: Token },
}

struct Rig {
    mutant: Option<Mutant>,
    now_us: u64,
    shared: Arc<Shared>,
    cluster: Arc<Cluster>,
    facts: Arc<Facts>,
    workers: Vec<Rc<Worker>>,
    /// By node, then worker.
    links: Vec<Vec<(Rc<Link>, Input)>>,
    nodes: Vec<Node>,
    sessions: Vec<Session>,
    versions: [Vec<Token>; 2],
    acked: [usize; 2],
    next_token: Token,
    /// The slot went, or goes, in silence.
    is_silent: bool,
    is_published: bool,
    foreign: usize,
    /// Answers of other workers' flights on their way to each worker.
    pending: Vec<VecDeque<(Follower, FlightAnswer)>>,
}

#[derive(Clone, Copy, Debug)]
enum Action {
    Issue(usize),
    Turn(usize),
    Serve(usize, usize),
    Arrive(usize, usize),
    Message(usize),
    Foreign(usize),
    /// The next step of the slot on its way.
    Begin,
    TakeOver,
    MoveKey(usize),
    NewOwner,
    OldOwner,
    Publish,
}

fn walk(seed: u64, mutant: Option<Mutant>, walked: &mut Walked) -> Checked {
    let runtime = Builder::new_current_thread()
        .build_local(LocalOptions::default())
        .expect("a runtime");
    runtime.block_on(async {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut rig = Rig::new(mutant, &mut random);
        let result = rig.run(&mut random, walked);
        for worker in &rig.workers {
            walked.hits += worker.counters().l1_hits_total.value();
            walked.redirects += worker.counters().redirects_total.value();
        }
        for (link, _) in rig.links.iter().flatten() {
            while let Some(waiter) = link.next_waiter() {
                drop(waiter);
            }
        }
        result
    })
}

/// By the port the node is told.
fn seen(owner: usize, epoch: u64) -> Vec<Seen> {
    vec![Seen {
        endpoint: Some(endpoint(owner)),
        is_primary: true,
        id: String::new(),
        follows: "-".to_owned(),
        is_failed: false,
        epoch,
        slots: vec![(0, 16_383)],
        moving: Vec::new(),
    }]
}

fn endpoint(node: usize) -> Endpoint {
    Endpoint::Tcp {
        host: "n".to_owned(),
        port: 7000 + node as u16,
    }
}

impl Rig {
    fn new(mutant: Option<Mutant>, random: &mut fastrand::Rng) -> Rig {
        let (shared, cluster) = shared();
        let (topology, _) = Topology::default()
            .after(&seen(0, 1), |endpoint| cluster.node_at(endpoint), false)
            .expect("it is news");
        for node in 0..NODES {
            assert_eq!(cluster.node_at(&endpoint(node)), Some(node as u16));
        }
        cluster.publish(topology);
        let workers: Vec<Rc<Worker>> = (0..WORKERS)
            .map(|w| Worker::new(w as u16, Arc::clone(&shared)))
            .collect();
        let links: Vec<Vec<(Rc<Link>, Input)>> = (0..NODES as u32)
            .map(|node| {
                let of = |worker: &Rc<Worker>| worker.connection_at(node).expect("links are plenty");
                workers.iter().map(|worker| (of(worker), Input::default())).collect()
            })
            .collect();
        for (link, _) in links.iter().flatten() {
            link.begin(&TrackingState::On, START_US);
        }
        let node = |hold, data| Node {
            hold,
            data,
            trackers: [0; 2],
            conns: (0..WORKERS).map(|_| Conn::default()).collect(),
        };
        let sessions = (0..4)
            .map(|s| Session::new(&workers[s % WORKERS], s % WORKERS, random))
            .collect();
        Rig {
            mutant,
            now_us: START_US,
            facts: shared.facts(),
            shared,
            cluster,
            workers,
            links,
            nodes: vec![node(Hold::Owner, [Some(0); 2]), node(Hold::Other, [None; 2])],
            sessions,
            versions: [vec![1], vec![2]],
            acked: [0; 2],
            next_token: 3,
            is_silent: false,
            is_published: false,
            foreign: 3,
            pending: (0..WORKERS).map(|_| VecDeque::new()).collect(),
        }
    }

    fn run(&mut self, random: &mut fastrand::Rng, walked: &mut Walked) -> Checked {
        let briskness = [20, 60, 90][random.usize(0..3)];
        loop {
            let (progress, other) = self.actions();
            if progress.is_empty()
                && let Some((s, session)) = self.sessions.iter().enumerate().find(|(_, s)| !s.expected.is_empty())
            {
                return Err(format!("session {s} waits for ever for {:?}", session.expected));
            }
            let is_brisk = random.u8(0..100) < briskness;
            let from = if !progress.is_empty() && (is_brisk || other.is_empty()) {
                &progress
            } else {
                &other
            };
            let Some(action) = random.choice(from).copied() else {
                return Ok(());
            };
            walked.steps += 1;
            self.now_us += 1;
            self.step(action, random)
                .and_then(|()| self.check())
                .map_err(|what| format!("{action:?} at {}: {what}", self.now_us))?;
        }
    }

    /// What happens by itself, and what may happen or not.
    fn actions(&self) -> (Vec<Action>, Vec<Action>) {
        let (mut progress, mut other) = (Vec::new(), Vec::new());
        for (s, session) in self.sessions.iter().enumerate() {
            if !session.input.is_empty() && !session.is_stalled {
                progress.push(Action::Turn(s));
            }
            if session.issued < 12 && session.expected.len() < 4 {
                other.push(Action::Issue(s));
            }
        }
        for n in 0..NODES {
            for w in 0..WORKERS {
                let conn = &self.nodes[n].conns[w];
                // A node that has one of two keys says TRYAGAIN, which is about time: it is slow instead.
                let is_split =
                    self.nodes[n].data.iter().any(Option::is_some) && self.nodes[n].data.iter().any(Option::is_none);
                let next = wire::split_request(&conn.input);
                if next.is_some_and(|(words, _)| !(is_split && words[0] == b"MGET")) {
                    progress.push(Action::Serve(n, w));
                }
                if !conn.output.is_empty() {
                    progress.push(Action::Arrive(n, w));
                }
            }
        }
        for w in 0..WORKERS {
            if !self.pending[w].is_empty() {
                progress.push(Action::Message(w));
            }
        }
        if self.foreign > 0 {
            other.extend([Action::Foreign(0), Action::Foreign(1)]);
        }
        match (self.nodes[0].hold, self.nodes[1].hold) {
            (Hold::Owner, Hold::Other) => other.extend([Action::Begin, Action::TakeOver]),
            (Hold::Migrating, Hold::Importing) => {
                let other = &mut progress;
                let left: Vec<usize> = (0..2).filter(|k| self.nodes[0].data[*k].is_some()).collect();
                if left.is_empty() {
                    other.push(Action::NewOwner);
                }
                other.extend(left.into_iter().map(Action::MoveKey));
            }
            (Hold::Migrating, Hold::Owner) => other.extend([Action::OldOwner, Action::Publish]),
            _ => other.push(Action::Publish),
        }
        if self.is_published {
            other.retain(|action| !matches!(action, Action::Publish));
        }
        (progress, other)
    }

    fn step(&mut self, action: Action, random: &mut fastrand::Rng) -> Checked {
        match action {
            Action::Issue(s) => self.issue(s, random),
            Action::Turn(s) => self.turn(s)?,
            Action::Serve(n, w) => self.serve(n, w),
            Action::Arrive(n, w) => {
                let (frame, _) = self.nodes[n].conns[w].output.pop_front().expect("there is one");
                let (link, input) = &mut self.links[n][w];
                input.bytes.extend_from_slice(&frame);
                link.arrived(input, self.now_us)?;
                self.show_all(w)?;
            }
            Action::Message(w) => {
                if let Some((to, answer)) = self.pending[w].pop_front() {
                    self.workers[w].take_answer(&to, &answer);
                    self.workers[w].wake_touched();
                }
                self.show_all(w)?;
            }
            Action::Foreign(k) => {
                self.foreign -= 1;
                if let Some(n) = (0..NODES).find(|n| self.nodes[*n].data[k].is_some()) {
                    self.next_token += 1;
                    self.write(n, k, self.next_token, None);
                }
            }
            Action::Begin => (self.nodes[0].hold, self.nodes[1].hold) = (Hold::Migrating, Hold::Importing),
            Action::TakeOver => {
                self.is_silent = true;
                self.nodes[1].data = std::mem::take(&mut self.nodes[0].data);
                self.nodes[0].trackers = [0; 2];
                (self.nodes[0].hold, self.nodes[1].hold) = (Hold::Other, Hold::Owner);
            }
            Action::MoveKey(k) => {
                self.nodes[1].data[k] = self.nodes[0].data[k].take();
                self.push(0, k, None);
            }
            Action::NewOwner => self.nodes[1].hold = Hold::Owner,
            Action::OldOwner => self.nodes[0].hold = Hold::Other,
            Action::Publish => {
                self.is_published = true;
                let change =
                    self.cluster
                        .topology()
                        .after(&seen(1, 2), |endpoint| self.cluster.node_at(endpoint), false);
                let (topology, nodes) = change.expect("it is news");
                self.cluster.publish(topology);
                if self.mutant != Some(Mutant::NoVoid) {
                    nodes.iter().for_each(|node| self.shared.void_node(*node));
                }
            }
        }
        self.carry();
        Ok(())
    }

    // ---- clients

    fn issue(&mut self, s: usize, random: &mut fastrand::Rng) {
        for _ in 0..random.usize(1..=2) {
            let k = random.usize(0..2);
            let session = &mut self.sessions[s];
            session.issued += 1;
            match random.u8(0..9) {
                0 | 1 => {
                    self.next_token += 1;
                    let token = self.next_token;
                    session
                        .input
                        .extend(wire::command(&[b"SET", KEYS[k], &wire::value(token)]));
                    session.expected.push_back(Expected::Wrote { key: k, token });
                }
                2 => {
                    session.input.extend(wire::command(&[b"MGET", KEYS[0], KEYS[1]]));
                    session.expected.push_back(Expected::Both { least: self.acked });
                }
                choice => {
                    let command: &[u8] = if choice == 3 { b"DUMP" } else { b"GET" };
                    session.input.extend(wire::command(&[command, KEYS[k]]));
                    session.expected.push_back(Expected::Read {
                        key: k,
                        least: self.acked[k],
                    });
                }
            }
        }
    }

    fn turn(&mut self, s: usize) -> Checked {
        self.sessions[s].is_stalled = false;
        let worker = Rc::clone(&self.workers[self.sessions[s].worker]);
        let client = Rc::clone(&self.sessions[s].client);
        while !self.sessions[s].input.is_empty() {
            if self.mutant == Some(Mutant::NoWait) {
                client.state.borrow_mut().path = self.cluster.version();
            }
            let input = std::mem::take(&mut self.sessions[s].input);
            let mut spans: Vec<Span> = Vec::new();
            let Ok(Scan::Complete { len }) = Scanner::default().scan(&input, &Limits::AUTHENTICATED, &mut spans) else {
                return Err("a request was not understood".into());
            };
            let args = Args {
                buf: &input[..len],
                spans: &spans,
            };
            let arrived = Arrived {
                args,
                raw: &input[..len],
                rest: &input[len..],
                now_us: self.now_us,
            };
            let step = request::handle(&worker, &client, &self.facts, arrived);
            self.sessions[s].input = input;
            match step {
                Step::Done { also } => drop(self.sessions[s].input.drain(..len + also)),
                Step::Wait => {
                    self.sessions[s].is_stalled = true;
                    break;
                }
                Step::Pin(reason) => return Err(format!("a connection of its own for {reason:?}")),
            }
        }
        self.show(s)
    }

    fn show_all(&mut self, w: usize) -> Checked {
        (0..self.sessions.len()).filter(|s| s % WORKERS == w).try_for_each(|s| {
            self.sessions[s].is_stalled = false;
            self.show(s)
        })
    }

    fn show(&mut self, s: usize) -> Checked {
        let session = &mut self.sessions[s];
        let client = Rc::clone(&session.client);
        let mut state = client.state.borrow_mut();
        let ready = state.outbox.ready();
        let bytes = ready.plain().expect("values are small").to_vec();
        ready.advance(bytes.len());
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let len = reply::frame_len(rest)
                .ok()
                .flatten()
                .ok_or("a client got what is no reply")?;
            let (frame, behind) = rest.split_at(len);
            rest = behind;
            let text = String::from_utf8_lossy(frame).into_owned();
            match session.expected.pop_front().ok_or("a reply that nobody asked for")? {
                Expected::Wrote { key, token } => {
                    let version = self.versions[key].iter().position(|held| *held == token);
                    let version = version
                        .filter(|_| frame == b"+OK\r\n")
                        .ok_or_else(|| format!("SET got {text}"))?;
                    session.floor[key] = session.floor[key].max(version);
                    self.acked[key] = self.acked[key].max(version);
                }
                Expected::Read { key, least } => {
                    let token = reply::bulk(frame).flatten().and_then(wire::token);
                    read(session, &self.versions[key], key, least, token)
                        .map_err(|what| format!("session {s}: {what} by {text}"))?;
                }
                Expected::Both { least } => {
                    let tokens: Vec<Option<Token>> = reply::elements(frame)
                        .ok_or_else(|| format!("MGET got {text}"))?
                        .map(|element| reply::bulk(element).flatten().and_then(wire::token))
                        .collect();
                    for key in 0..2 {
                        read(session, &self.versions[key], key, least[key], tokens[key])
                            .map_err(|what| format!("session {s}: {what} by {text}"))?;
                    }
                }
            }
        }
        Ok(())
    }

    // ---- the nodes

    fn serve(&mut self, n: usize, w: usize) {
        let (words, len) = wire::split_request(&self.nodes[n].conns[w].input).expect("there is one");
        self.nodes[n].conns[w].input.drain(..len);
        let is_asking = std::mem::take(&mut self.nodes[n].conns[w].is_asking);
        if words[0].eq_ignore_ascii_case(own::ASKING) {
            self.nodes[n].conns[w].is_asking = true;
            self.reply(n, w, b"+OK\r\n".to_vec());
            return;
        }
        let k = KEYS
            .iter()
            .position(|key| *key == &words[1][..])
            .expect("a key of the slot");
        let keys: Vec<usize> = if words[0] == b"MGET" { vec![0, 1] } else { vec![k] };
        let elsewhere = |code: &str, node: usize| format!("-{code} 1 n:{}\r\n", 7000 + node).into_bytes();
        let refusal = match (self.nodes[n].hold, self.nodes[n].data[k]) {
            (Hold::Owner, _) | (Hold::Migrating, Some(_)) => None,
            (Hold::Migrating, None) => Some(elsewhere("ASK", 1)),
            (Hold::Importing, _) if is_asking => None,
            (Hold::Importing | Hold::Other, _) => Some(elsewhere("MOVED", 1 - n)),
        };
        if let Some(refusal) = refusal {
            return self.reply(n, w, refusal);
        }
        if words[0] == b"SET" {
            let token = wire::token(&words[2]).expect("a value of ours");
            return self.write(n, k, token, Some(w));
        }
        let values: Vec<Vec<u8>> = keys
            .iter()
            .map(|&k| {
                self.nodes[n].trackers[k] |= 1 << w;
                let version = self.nodes[n].data[k];
                wire::bulk(
                    version.map(|v| wire::value(self.versions[k][v])).as_deref(),
                    Version::Resp3,
                )
            })
            .collect();
        let is_there = self.nodes[n].data[k].is_some();
        self.reply(
            n,
            w,
            match &words[0][..] {
                b"PTTL" | own::PTTL => wire::integer(if is_there { -1 } else { -2 }),
                b"MGET" => wire::array(&values),
                _ => values[0].clone(),
            },
        );
    }

    fn write(&mut self, n: usize, k: usize, token: Token, by: Option<usize>) {
        self.versions[k].push(token);
        self.nodes[n].data[k] = Some(self.versions[k].len() - 1);
        self.push(n, k, by);
    }

    /// Everybody who has read the key there is told, the writer behind his reply.
    fn push(&mut self, n: usize, k: usize, by: Option<usize>) {
        let trackers = std::mem::take(&mut self.nodes[n].trackers[k]);
        let told = (0..WORKERS).filter(|w| trackers >> w & 1 != 0);
        let push = |node: &mut Node, w: usize| {
            node.conns[w]
                .output
                .push_back((wire::invalidation(&[KEYS[k]]), Some(k)))
        };
        told.clone()
            .filter(|w| Some(*w) != by)
            .for_each(|w| push(&mut self.nodes[n], w));
        if let Some(w) = by {
            self.reply(n, w, b"+OK\r\n".to_vec());
            told.filter(|t| *t == w).for_each(|w| push(&mut self.nodes[n], w));
        }
    }

    fn reply(&mut self, n: usize, w: usize, frame: Vec<u8>) {
        self.nodes[n].conns[w].output.push_back((frame, None));
    }

    /// What was queued is on its way.
    fn carry(&mut self) {
        for (n, links) in self.links.iter().enumerate() {
            for (w, (link, _)) in links.iter().enumerate() {
                self.nodes[n].conns[w].input.extend(link.take_unsent());
            }
        }
        for (w, pending) in self.pending.iter_mut().enumerate() {
            while let Some(message) = self.shared.inboxes[w].pop() {
                if let Message::Answer { to, answer } = message {
                    pending.push_back((to, answer));
                }
            }
        }
    }

    // ---- checks

    fn check(&self) -> Checked {
        for (k, name) in KEYS.into_iter().enumerate() {
            let query = Query {
                hash: name_hash(name),
                db: 0,
                name,
                variant: b"",
            };
            let asker = Asker {
                now_us: self.now_us,
                link: LinkId::PINNED,
                own: Own::Clear,
                floor_us: 0,
                takes_stale: false,
            };
            let found = self.shared.cache.peek(&query, &asker, |view| {
                let token = match view.value {
                    ViewValue::Small(bytes) => wire::token(bytes),
                    _ => None,
                };
                (token, view.link)
            });
            let Some((token, filler)) = found else { continue };
            if token == self.versions[k].last().copied() || self.is_silent && !self.is_published {
                continue;
            }
            let is_told = (0..NODES).any(|n| {
                (0..WORKERS).any(|w| {
                    let is_filler = self.links[n][w].0.sink.link == filler;
                    is_filler && self.nodes[n].conns[w].output.iter().any(|(_, push)| *push == Some(k))
                })
            });
            if !is_told {
                return Err(format!("key {k}: an old value is kept, and nobody will tell of it"));
            }
        }
        Ok(())
    }
}

/// A session is shown a value.
fn read(session: &mut Session, versions: &[Token], key: usize, least: usize, token: Option<Token>) -> Checked {
    let version = versions.iter().position(|held| Some(*held) == token);
    let version = version.ok_or("it was shown what never was")?;
    let floor = session.floor[key].max(least);
    if version < floor {
        return Err(format!("it was shown version {version} of key {key} after {floor}"));
    }
    let is_own = |later: &Expected| matches!(later, Expected::Wrote { token: own, .. } if Some(*own) == token);
    if session.expected.iter().any(is_own) {
        return Err(format!("it was shown its own later write of key {key}"));
    }
    session.floor[key] = version;
    Ok(())
}

impl Session {
    fn new(worker: &Rc<Worker>, w: usize, random: &mut fastrand::Rng) -> Session {
        let addresses = (String::new(), String::new());
        let meta = ClientMeta::new(worker.shared.next_client_id(), worker.index, addresses, 0);
        let client = Rc::new(Client::new(Arc::new(meta), Access::Own, 0));
        if random.bool() {
            client.state.borrow_mut().version = Version::Resp3;
        }
        worker.enter(&client);
        Session {
            worker: w,
            client,
            input: Vec::new(),
            expected: VecDeque::new(),
            floor: [0; 2],
            issued: 0,
            is_stalled: false,
        }
    }
}

fn shared() -> (Arc<Shared>, Arc<Cluster>) {
    let mut config = Config {
        workers: WORKERS,
        ..Config::default()
    };
    config.cache.bound = Duration::from_secs(60);
    let links = Arc::new(Links::new(60_000_000));
    let l1 = L1Config {
        budget_bytes: 1 << 20,
        shards: Some(1),
        max_value_bytes: 1 << 10,
        negative_ttl_us: Some(1_000_000),
        max_age_us: None,
        max_stale_us: None,
        consistency: cache::Consistency::Coherent,
        objective: cache::Objective::Requests,
        compression: None,
    };
    let nowhere = Endpoint::Unix(PathBuf::from("/nonexistent"));
    let target = Target::fixed(nowhere, dial::Access::default(), Duration::from_secs(1), NO_BREAKER);
    let cluster = Arc::new(Cluster::new(target.clone()));
    let l1 = L1::new(l1, Arc::clone(&links));
    let mut shared = Shared::new(config, target, l1, links, WORKERS);
    shared.cluster = Some(Arc::clone(&cluster));
    (Arc::new(shared), cluster)
}
