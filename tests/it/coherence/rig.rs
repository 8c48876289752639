//! The product without its sockets: real workers, clients, shared connections and sinks on one thread, with the time and the
//! bytes of both sides in the hands of a walk. What the tasks of the product do around them (session, connection, inbox,
//! pipe) is done here in the same order; everything that decides or applies something is the product's own code.

use std::collections::VecDeque;
use std::ops::Range;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use nearcache::cache::l3::codec::Method;
use nearcache::cache::l3::{Compression, Found, Hand, L3};
use nearcache::cache::{self, L1, L1Config, LinkId, Links};
use nearcache::config::{Config, Endpoint};
use nearcache::proxy::Follower;
use nearcache::proxy::client::{Access, Client, ClientMeta};
use nearcache::proxy::owed;
use nearcache::proxy::pinned::{Forwarding, Frame, Pinned, Relay};
use nearcache::proxy::read::below;
use nearcache::proxy::read::hits::Most;
use nearcache::proxy::request::straight::Straight;
use nearcache::proxy::request::{self, Arrived, Step};
use nearcache::proxy::shared::{FlightAnswer, Message, Shared};
use nearcache::proxy::worker::{Link, Worker};
use nearcache::resp::Version;
use nearcache::resp::limits::Limits;
use nearcache::resp::reply;
use nearcache::resp::request::{Args, Scan, Scanner, Span};
use nearcache::upstream::breaker;
use nearcache::upstream::connection::Input;
use nearcache::upstream::dial::{self, Target, TrackingState};
use nearcache::upstream::facts::Facts;

use super::check::{self, Checked, Expected, Judge, Shown};
use super::disk::{self, Memory};
use super::mutants::{Late, Mutant};
use super::plan::{Op, Scenario, requests};
use super::server::{Digests, KEYS, Server};
use super::wire::{Token, value};

/// These walks are about other things.
pub const NO_BREAKER: breaker::Settings = breaker::Settings {
    failures: 0,
    window: Duration::from_secs(1),
    pause: (Duration::from_secs(1), Duration::from_secs(1)),
};

pub struct Rig {
    pub scenario: &'static Scenario,
    pub mutant: Option<Mutant>,
    pub now_us: u64,
    pub server: Server,
    pub shared: Arc<Shared>,
    pub workers: Vec<Rc<Worker>>,
    pub tracked: Vec<Tracked>,
    pub scripts: Vec<Scripts>,
    pub sessions: Vec<Session>,
    pub acked: [usize; KEYS],
    pub next_token: Token,
    /// What a mutant does later than it should.
    pub late: VecDeque<Late>,
    /// Where a mutant has the effects of pinned replies go to.
    pub nowhere: Option<Rc<Worker>>,
    /// What the threads of the tier on the disk would do, where there is one.
    pub disk: Option<Hand>,
    files: Option<Memory>,
    facts: Arc<Facts>,
}

/// A worker's shared connection; as a connection of the server it has the worker's number.
pub struct Tracked {
    pub link: Rc<Link>,
    pub input: Input,
    pub is_up: bool,
    /// Answers of other workers' flights and of the disk on their way here.
    pub inbox: VecDeque<Inbound>,
    /// The value that the newest read of a fill brought, for mutants, and whether it is the disk's.
    pub filled: Option<(u64, Vec<u8>)>,
    pub is_filled_below: bool,
}

pub enum Inbound {
    Answer(Follower, FlightAnswer),
    Found(u64, Option<Box<Found>>),
    Paid,
}

/// A worker's shared connection for scripts.
pub struct Scripts {
    pub link: Rc<Link>,
    pub input: Input,
}

pub struct Session {
    pub worker: usize,
    pub client: Rc<Client>,
    pub input: Vec<u8>,
    /// Lengths of the requests that make up `input`.
    lens: VecDeque<usize>,
    pub expected: VecDeque<Expected>,
    pub shown: Shown,
    pub issued: usize,
    pub answered: usize,
    pub is_stalled: bool,
    pub is_gone: bool,
    pub pipe: Option<Pipe>,
}

/// A connection of the session's own.
#[derive(Default)]
pub struct Pipe {
    pub pinned: Pinned,
    has_started: bool,
    /// Only for the mutant that does not wait for earlier answers: the places of its replies.
    pub places: Option<VecDeque<u64>>,
}

/// Beyond the read timeout, which is about another clock.
const START_US: u64 = 1_000_000;

impl Rig {
    pub fn new(scenario: &'static Scenario, mutant: Option<Mutant>, random: &mut fastrand::Rng) -> Rig {
        let workers = scenario.workers();
        let shards = random.usize(0..2) + 1;
        let names = [b"k0".to_vec(), b"k1".to_vec()];
        let files = scenario.has_l3.then(Memory::default);
        let first = [Some(1), if random.bool() { Some(2) } else { None }];
        let mut before = [None; KEYS];
        if let Some(files) = files.as_ref().filter(|_| scenario.has_earlier_life) {
            before = leave(files, &names, first, random);
        }
        let (l3, disk) = match files.as_ref().map(|files| disk::open(files, START_US)) {
            Some((l3, disk)) => (Some(l3), Some(disk)),
            None => (None, None),
        };
        let is_by_turn = scenario.is_broadcast && mutant != Some(Mutant::BroadcastAsTracking);
        let shared = shared(scenario, workers, shards, l3, is_by_turn);
        let mut server = Server::new(2 * workers + scenario.sessions.len(), names, first, START_US);
        server.joins_pushes = mutant == Some(Mutant::FirstKeyOnly) || random.u8(0..4) == 0;
        server.is_broadcast = scenario.is_broadcast;
        if scenario.revalidates {
            server.digests = match mutant {
                Some(Mutant::DigestInPassing) => Digests::ToldInPassing,
                None if random.u8(0..8) == 0 => Digests::Refused,
                _ => Digests::Told,
            };
            shared.learn(Facts {
                has_digest: true,
                ..Facts::unknown()
            });
        }
        for (k, token) in before.into_iter().enumerate() {
            token.into_iter().for_each(|token| server.was(k, token));
        }
        if scenario.has_earlier_life && scenario.has_ttl() {
            let ms = random.u64(1..5);
            server.keys[0].deadline_us = Some(START_US + ms * 1000);
        }
        let nowhere = (mutant == Some(Mutant::PinnedPassesNothing))
            .then(|| Worker::new(0, self::shared(scenario, 1, 1, None, is_by_turn)));
        let facts = shared.facts();
        let workers: Vec<Rc<Worker>> = (0..workers)
            .map(|w| Worker::new(w as u16, Arc::clone(&shared)))
            .collect();
        let tracked = workers.iter().map(|worker| Tracked {
            link: worker.connection(0).expect("links are plenty"),
            input: Input::default(),
            is_up: false,
            inbox: VecDeque::new(),
            filled: None,
            is_filled_below: false,
        });
        let tracked = tracked.collect();
        let scripts = workers.iter().map(|worker| Scripts {
            link: worker.script_connection_at(0).expect("there is a server"),
            input: Input::default(),
        });
        let scripts = scripts.collect();
        let sessions = scenario
            .sessions
            .iter()
            .map(|plan| Session::new(&workers[plan.worker], plan.worker, random));
        let sessions = sessions.collect();
        let mut rig = Rig {
            scenario,
            mutant,
            now_us: START_US,
            server,
            shared,
            workers,
            tracked,
            scripts,
            sessions,
            acked: [0; KEYS],
            next_token: 3,
            late: VecDeque::new(),
            nowhere,
            disk,
            files,
            facts,
        };
        (0..rig.tracked.len()).for_each(|w| {
            rig.connect(w, true);
            rig.connect_scripts(w);
        });
        rig
    }

    pub fn links(&self) -> Vec<LinkId> {
        self.tracked.iter().map(|tracked| tracked.link.sink.link).collect()
    }

    /// The connection of a session's own, as the server numbers it.
    pub fn own_conn(&self, s: usize) -> usize {
        self.workers.len() + s
    }

    /// A worker's connection for scripts, as the server numbers it.
    pub fn script_conn(&self, w: usize) -> usize {
        self.workers.len() + self.sessions.len() + w
    }

    // ---- clients

    pub fn issue(&mut self, s: usize, op: Op, k: usize, choice: usize) {
        self.next_token += 1;
        let names = [self.server.keys[0].name.clone(), self.server.keys[1].name.clone()];
        let requests = requests(op, k, self.next_token, choice, &names, self.scenario.is_hash);
        let session = &mut self.sessions[s];
        session.issued += 1;
        let last = requests.len() - 1;
        for (i, (bytes, part)) in requests.into_iter().enumerate() {
            session.lens.push_back(bytes.len());
            session.input.extend_from_slice(&bytes);
            session.expected.push_back(Expected {
                op,
                part,
                token: self.next_token,
                least: self.acked,
                decided_us: u64::MAX,
                is_hit: false,
                is_stale: false,
                places: 0..0,
                is_last: i == last,
            });
        }
    }

    /// The session deals with what it has read, as far as it may.
    pub fn turn(&mut self, s: usize) -> Checked {
        self.sessions[s].is_stalled = false;
        let facts = Arc::clone(&self.facts);
        let mut straight: Option<Straight<'_>> = None;
        loop {
            if self.sessions[s].pipe.is_some() {
                straight = None;
                if !self.pinned_requests(s) {
                    break;
                }
            }
            let input = std::mem::take(&mut self.sessions[s].input);
            if input.is_empty() {
                break;
            }
            let worker = Rc::clone(&self.workers[self.sessions[s].worker]);
            let client = Rc::clone(&self.sessions[s].client);
            if self.mutant.is_none()
                && let Some(straight) = &straight
            {
                let most = Most {
                    requests: u32::MAX,
                    ready_bytes: usize::MAX,
                };
                let sent = straight.send_alike(&worker, &client, &input, self.now_us, most);
                if sent.requests > 0 {
                    self.sessions[s].input = input;
                    let now_us = self.now_us;
                    self.sessions[s].decided(sent.bytes, now_us, false, false);
                    continue;
                }
            }
            let mut spans: Vec<Span> = Vec::new();
            let Ok(Scan::Complete { len }) = Scanner::default().scan(&input, &Limits::AUTHENTICATED, &mut spans) else {
                return Err("a request was not understood".into());
            };
            let (raw, rest) = input.split_at(len);
            let args = Args {
                buf: raw,
                spans: &spans,
            };
            let hits = worker.counters().l1_hits_total.value();
            let stale = worker.counters().l1_stale_total.value();
            let place = worker.below.borrow().next_place();
            let step = match self.mutant_decides(s, args) {
                Some(step) => step,
                None => {
                    let now_us = self.now_us;
                    let arrived = Arrived {
                        args,
                        raw,
                        rest,
                        now_us,
                    };
                    match request::next(&worker, &client, &facts, arrived, &mut straight) {
                        Step::Wait => self.mutant_goes_on(s, args, raw),
                        step => step,
                    }
                }
            };
            let is_hit = worker.counters().l1_hits_total.value() > hits;
            let is_stale = worker.counters().l1_stale_total.value() > stale;
            if is_stale && self.tracked[self.sessions[s].worker].is_up {
                return Err(format!(
                    "(10) session {s} is shown a stale entry, and its connection is up"
                ));
            }
            self.sessions[s].input = input;
            match step {
                Step::Done { also } => {
                    self.sessions[s].decided(len + also, self.now_us, is_hit, is_stale);
                    let places = place..worker.below.borrow().next_place();
                    if !places.is_empty() {
                        self.sessions[s].waits_in(places);
                    }
                }
                Step::Wait => {
                    self.sessions[s].is_stalled = true;
                    break;
                }
                Step::Pin(_) => {
                    let (conn, version) = (self.own_conn(s), client.state.borrow().version);
                    self.server.connect(conn, false, version);
                    self.sessions[s].pipe.get_or_insert_default();
                }
            }
        }
        self.carry();
        self.show(s)
    }

    /// As `downstream::pipe` forwards. True: the pinned part is over.
    fn pinned_requests(&mut self, s: usize) -> bool {
        let conn = self.own_conn(s);
        let session = &mut self.sessions[s];
        loop {
            let Some(pipe) = &mut session.pipe else { return true };
            if pipe.has_started && pipe.pinned.is_over() {
                session.pipe = None;
                return true;
            }
            if session.input.is_empty() {
                return false;
            }
            let mut spans: Vec<Span> = Vec::new();
            let Ok(Scan::Complete { len }) =
                Scanner::default().scan(&session.input, &Limits::AUTHENTICATED, &mut spans)
            else {
                return false;
            };
            let args = Args {
                buf: &session.input[..len],
                spans: &spans,
            };
            let worker = &self.workers[session.worker];
            let forwarding = pipe
                .pinned
                .request(worker, &session.client, self.facts.table.find(args.arg(0)), args);
            if forwarding == Forwarding::Wait {
                session.is_stalled = true;
                return false;
            }
            if forwarding == Forwarding::Forward {
                self.server.conns[conn].input.extend_from_slice(&session.input[..len]);
                if let Some(places) = &mut pipe.places {
                    places.push_back(session.client.state.borrow_mut().outbox.next_sequence());
                    let none = nearcache::proxy::outbox::Touched::None;
                    let _ = session
                        .client
                        .state
                        .borrow_mut()
                        .outbox
                        .expect(none, nearcache::proxy::outbox::Source::Sent);
                }
            }
            pipe.has_started = true;
            session.input.drain(..len);
            session.count_decided(len, self.now_us, false, false);
        }
    }

    /// The client receives what is ready for it.
    pub fn show(&mut self, s: usize) -> Checked {
        let session = &mut self.sessions[s];
        let client = Rc::clone(&session.client);
        let mut state = client.state.borrow_mut();
        let is_hasty = self.mutant == Some(Mutant::AckBeforeTombstone);
        if !is_hasty && !owed::may_be_answered(&self.workers[session.worker], &state) {
            return Ok(());
        }
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
            let expected = session
                .expected
                .pop_front()
                .ok_or("a client got a reply that it did not ask for")?;
            let mut judge = Judge {
                server: &self.server,
                bound_us: self.scenario.bound_ms * 1000,
                max_stale_us: self.scenario.max_stale_ms.unwrap_or(0) * 1000,
                acked: &mut self.acked,
                judges_pairs: !self.scenario.has_ttl(),
                may_fail: !self.scenario.kill.is_empty() || self.scenario.request_ms.is_some(),
            };
            judge
                .show(&mut session.shown, &expected, frame)
                .map_err(|what| format!("session {s}: {what}"))?;
            session.answered += usize::from(expected.is_last);
        }
        match &self.files {
            Some(files) if !bytes.is_empty() => check::left(&files.left(self.now_us), &self.server, &self.acked),
            _ => Ok(()),
        }
    }

    // ---- what lies between

    /// What was queued is on its way to the server, and answers to other workers' followers to their inboxes.
    pub fn carry(&mut self) {
        for w in 0..self.scripts.len() {
            let conn = self.script_conn(w);
            self.server.conns[conn]
                .input
                .extend_from_slice(&self.scripts[w].link.take_unsent());
        }
        for (w, tracked) in self.tracked.iter_mut().enumerate() {
            if tracked.is_up {
                let bytes = tracked.link.take_unsent();
                if self.server.conns[w].is_served {
                    self.server.conns[w].input.extend_from_slice(&bytes);
                }
            }
            while let Some(message) = self.shared.inboxes[w].pop() {
                match message {
                    Message::Answer { to, answer } => tracked.inbox.push_back(Inbound::Answer(to, answer)),
                    Message::Found { place, found } => tracked.inbox.push_back(Inbound::Found(place, found)),
                    Message::Paid => tracked.inbox.push_back(Inbound::Paid),
                    _ => {}
                }
            }
        }
    }

    /// A worker takes one message.
    pub fn take_message(&mut self, w: usize) -> Checked {
        match self.tracked[w].inbox.pop_front() {
            Some(Inbound::Answer(to, answer)) => self.workers[w].take_answer(&to, &answer),
            Some(Inbound::Found(place, mut found)) => {
                if let Some(found) = &mut found {
                    self.mutant_finds(w, found);
                }
                let stale = || self.workers[w].counters().l3_stale_total.value();
                let before = stale();
                below::answered(&self.workers[w], place, found.as_deref(), self.now_us);
                let is_stale = stale() > before;
                if is_stale && self.tracked[w].is_up {
                    return Err("(10) an entry of the disk is shown as stale, and the connection is up".into());
                }
                let now_us = self.now_us;
                let of_worker = self.sessions.iter_mut().filter(|session| session.worker == w);
                let waiting = of_worker.flat_map(|session| &mut session.expected);
                for expected in waiting.filter(|expected| is_stale && expected.places.contains(&place)) {
                    (expected.is_stale, expected.decided_us) = (true, now_us);
                }
            }
            Some(Inbound::Paid) => owed::paid(&self.workers[w]),
            None => {}
        }
        self.workers[w].wake_touched();
        self.show_all(w)
    }

    /// All of L1 is evicted.
    pub fn squeeze(&mut self) {
        let cache = &self.shared.cache;
        cache.set_budget(0);
        cache.sweep(self.now_us, 1000);
        cache.set_budget(L1_BYTES);
    }

    /// What `Worker::tick` does for reads that the disk does not answer.
    pub fn give_up_disk(&mut self, w: usize) -> Checked {
        below::give_up(&self.workers[w], 0, self.now_us);
        self.show_all(w)
    }

    /// One turn of the thread that writes.
    pub fn write_disk(&mut self) {
        if let Some(disk) = &mut self.disk {
            disk.write(self.now_us);
        }
        self.carry();
    }

    /// The disk serves one read.
    pub fn read_disk(&mut self) {
        if let Some(disk) = &mut self.disk {
            disk.read();
        }
        self.carry();
    }

    fn show_all(&mut self, w: usize) -> Checked {
        self.carry();
        for s in 0..self.sessions.len() {
            if self.sessions[s].worker == w {
                self.sessions[s].is_stalled = false;
                self.show(s)?;
            }
        }
        Ok(())
    }

    // ---- shared connections

    pub fn connect(&mut self, w: usize, is_tracking: bool) {
        let is_tracked = is_tracking && !(self.mutant == Some(Mutant::UntrackedReconnect) && self.now_us > START_US);
        self.server.connect(w, is_tracked, Version::Resp3);
        self.tracked[w].input = Input::default();
        self.tracked[w].is_up = true;
        let tracking = if is_tracking {
            TrackingState::On
        } else {
            TrackingState::Refused("ERR no".into())
        };
        let kept = self.mutant_keeps(w);
        self.tracked[w].link.begin(&tracking, self.now_us);
        self.mutant_puts_back(w, kept);
        self.carry();
    }

    fn connect_scripts(&mut self, w: usize) {
        let conn = self.script_conn(w);
        self.server.connect(conn, false, Version::Resp3);
        self.scripts[w].input = Input::default();
        self.scripts[w].link.begin(&TrackingState::Off, self.now_us);
        self.carry();
    }

    /// The reply of a script arrives.
    pub fn scripts_arrive(&mut self, w: usize) -> Checked {
        let conn = self.script_conn(w);
        let Scripts { link, input } = &mut self.scripts[w];
        if let Some(out) = self.server.conns[conn].output.pop_front() {
            input.bytes.extend_from_slice(&out.bytes);
            link.arrived(input, self.now_us)?;
        }
        self.show_all(w)
    }

    /// Bytes arrive: so many whole frames, and part of the next one.
    pub fn arrive(&mut self, w: usize, frames: usize, has_part: bool) -> Checked {
        if self.server.conns[w].output.is_empty() {
            return self.lose(w);
        }
        if self.mutant.is_some() {
            let outs = (0..frames)
                .filter_map(|_| self.server.conns[w].output.pop_front())
                .collect();
            self.arrive_mutated(w, outs)?;
            return self.show_all(w);
        }
        let conn = &mut self.server.conns[w];
        let Tracked { link, input, .. } = &mut self.tracked[w];
        for _ in 0..frames {
            let Some(out) = conn.output.pop_front() else { break };
            input.bytes.extend_from_slice(&out.bytes[conn.sent_bytes..]);
            conn.sent_bytes = 0;
        }
        if let Some(next) = conn.output.front()
            && has_part
            && conn.sent_bytes == 0
        {
            conn.sent_bytes = next.bytes.len() / 2;
            input.bytes.extend_from_slice(&next.bytes[..conn.sent_bytes]);
        }
        link.arrived(input, self.now_us)?;
        self.show_all(w)
    }

    /// The proxy learns that the connection is gone.
    pub fn lose(&mut self, w: usize) -> Checked {
        self.server.hang_up(w);
        self.server.conns[w] = Default::default();
        self.tracked[w].is_up = false;
        if !self.mutant_loses(w) {
            self.tracked[w].link.end("lost".into());
        }
        self.tracked[w].filled = None;
        // As `hang_up_scripts`; what was sent may still be executed.
        let conn = self.script_conn(w);
        self.server.hang_up(conn);
        self.server.orphan(conn);
        self.scripts[w].link.end("lost".into());
        self.connect_scripts(w);
        self.show_all(w)
    }

    /// What `Worker::tick` does for a quiet link.
    pub fn probe(&mut self, w: usize) -> Checked {
        self.tracked[w].link.tick(self.now_us, Duration::ZERO);
        self.show_all(w)
    }

    // ---- a session's own connection

    pub fn own_arrive(&mut self, s: usize) -> Checked {
        let conn = self.own_conn(s);
        let session = &mut self.sessions[s];
        let Some(out) = self.server.conns[conn].output.pop_front() else {
            // A client with a state loses it with its connection, and is closed.
            session.is_gone = true;
            if let Some(pipe) = &mut session.pipe {
                pipe.pinned.lost(&self.workers[session.worker], &session.client);
            }
            session.pipe = None;
            session.expected.clear();
            session.input.clear();
            session.lens.clear();
            session.client.state.borrow_mut().outbox = Default::default();
            self.server.conns[conn] = Default::default();
            return Ok(());
        };
        let Some(pipe) = &mut session.pipe else {
            return Err("a reply came on a connection that was given back".into());
        };
        let worker = self.nowhere.as_ref().unwrap_or(&self.workers[session.worker]);
        let floor_us = session.client.state.borrow().floor_us;
        let frame = Frame::Whole(&out.bytes);
        let relay = pipe.pinned.frame(worker, &session.client, frame);
        // The one time that the product reads its own clock in here.
        let mut state = session.client.state.borrow_mut();
        if state.floor_us != floor_us {
            state.floor_us = self.now_us;
        }
        drop(state);
        if relay == Relay::Forward {
            let mut state = session.client.state.borrow_mut();
            match pipe.places.as_mut().and_then(VecDeque::pop_front) {
                Some(place) => state
                    .outbox
                    .answer(place, |ready| ready.bytes.extend_from_slice(&out.bytes)),
                None => state.outbox.ready().bytes.extend_from_slice(&out.bytes),
            }
        }
        session.is_stalled = false;
        self.show(s)?;
        // The session goes on as soon as the pipe is over.
        self.turn(s)
    }

    // ---- checks

    pub fn check(&self) -> Checked {
        check::state(&self.shared.cache, &self.server, &self.links(), |c, k| {
            let is_late = |late: &Late| matches!(late, Late::Push(w, _) if *w == c);
            self.server.will_tell(c, k) || self.late.iter().any(is_late)
        })
    }

    pub fn check_quiet(&self) -> Checked {
        for (s, session) in self.sessions.iter().enumerate() {
            if let Some(expected) = session.expected.front() {
                return Err(format!("(7) session {s} waits for ever for {:?}", expected.part));
            }
        }
        let leases = self.shared.cache.stats().leases;
        let unanswered: usize = self.tracked.iter().map(|tracked| tracked.link.unanswered()).sum();
        if leases > 0 || unanswered > 0 {
            return Err(format!(
                "(7) in the end {leases} leases and {unanswered} requests are left"
            ));
        }
        Ok(())
    }

    /// Requests hold their worker, which holds their connection.
    pub fn dismantle(self) {
        for worker in &self.workers {
            let waiting = std::mem::take(&mut *worker.below.borrow_mut());
            drop(waiting);
        }
        let tracked = self.tracked.iter().map(|tracked| &tracked.link);
        for link in tracked.chain(self.scripts.iter().map(|scripts| &scripts.link)) {
            while let Some(waiter) = link.next_waiter() {
                drop(waiter);
            }
        }
    }
}

impl Session {
    fn new(worker: &Rc<Worker>, w: usize, random: &mut fastrand::Rng) -> Session {
        let addresses = (String::new(), String::new());
        let meta = Arc::new(ClientMeta::new(
            worker.shared.next_client_id(),
            worker.index,
            addresses,
            0,
        ));
        let client = Rc::new(Client::new(meta, Access::Own, 0));
        if random.bool() {
            client.state.borrow_mut().version = Version::Resp3;
        }
        worker.enter(&client);
        Session {
            worker: w,
            client,
            input: Vec::new(),
            lens: VecDeque::new(),
            expected: VecDeque::new(),
            shown: Shown::default(),
            issued: 0,
            answered: 0,
            is_stalled: false,
            is_gone: false,
            pipe: None,
        }
    }

    fn decided(&mut self, bytes: usize, now_us: u64, is_hit: bool, is_stale: bool) {
        self.input.drain(..bytes);
        self.count_decided(bytes, now_us, is_hit, is_stale);
    }

    /// The request that was decided last waits for the disk.
    fn waits_in(&mut self, places: Range<u64>) {
        let decided = self.expected.len() - self.lens.len();
        if let Some(expected) = decided.checked_sub(1).and_then(|i| self.expected.get_mut(i)) {
            expected.places = places;
        }
    }

    /// Requests of so many bytes were dealt with.
    fn count_decided(&mut self, mut bytes: usize, now_us: u64, is_hit: bool, is_stale: bool) {
        while bytes > 0 {
            let Some(len) = self.lens.pop_front() else { return };
            bytes = bytes.saturating_sub(len);
            let undecided = self.expected.len() - self.lens.len() - 1;
            if let Some(expected) = self.expected.get_mut(undecided) {
                expected.decided_us = now_us;
                expected.is_hit = is_hit;
                expected.is_stale = is_stale;
            }
        }
    }
}

/// What an earlier process has left of the keys: what they are, or what they were before.
fn leave(
    files: &Memory,
    names: &[Vec<u8>; KEYS],
    now: [Option<Token>; KEYS],
    random: &mut fastrand::Rng,
) -> [Option<Token>; KEYS] {
    let (mut left, mut before) = (Vec::new(), [None; KEYS]);
    for (k, name) in names.iter().enumerate() {
        let ttl_ms = random.bool().then(|| random.u64(1..20));
        let token = match random.u8(0..8) {
            0 => continue,
            1..3 => 0,
            _ => k as Token + 1,
        };
        before[k] = Some(token).filter(|_| now[k] != Some(token));
        left.push((&name[..], value(token), ttl_ms));
    }
    disk::leave(files, &left, START_US);
    before
}

const L1_BYTES: usize = 1 << 20;

fn shared(scenario: &Scenario, workers: usize, shards: usize, l3: Option<L3>, is_by_turn: bool) -> Arc<Shared> {
    let mut config = Config {
        workers,
        ..Config::default()
    };
    config.cache.max_stale = scenario.max_stale_ms.map(Duration::from_millis);
    config.cache.bound = Duration::from_millis(scenario.bound_ms);
    config.l3.revalidate_from_bytes = scenario.revalidates.then_some(1);
    config.upstream_timeouts.read = Duration::from_secs(1 << 20);
    config.upstream_timeouts.write = config.upstream_timeouts.read;
    config.upstream_timeouts.request = match scenario.request_ms {
        Some(ms) => Duration::from_millis(ms),
        None => config.upstream_timeouts.read,
    };
    let links = Links::new(scenario.bound_ms * 1000);
    let links = Arc::new(if is_by_turn { links.by_turn() } else { links });
    let l1 = L1Config {
        budget_bytes: L1_BYTES,
        shards: Some(shards),
        max_value_bytes: 1 << 10,
        negative_ttl_us: None,
        max_age_us: None,
        max_stale_us: scenario.max_stale_ms.map(|ms| ms * 1000),
        consistency: cache::Consistency::Coherent,
        objective: cache::Objective::Requests,
        // In half of the walks values of a dozen dots and more are.
        compression: (shards == 2).then_some(Compression {
            method: Method::Lz4,
            from_bytes: 12,
        }),
    };
    let target = Target::fixed(
        Endpoint::Unix(PathBuf::from("/nonexistent")),
        dial::Access::default(),
        Duration::from_secs(1),
        NO_BREAKER,
    );
    Arc::new(Shared::new(
        config,
        target,
        L1::over(l1, Arc::clone(&links), l3.map(Arc::new)),
        links,
        workers,
    ))
}
