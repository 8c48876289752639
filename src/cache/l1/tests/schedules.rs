//! Random schedules of a whole small proxy around L1: a server that tracks reads, three links and a pinned connection whose
//! requests and frames wait in queues, and clients that pipeline. What a client sees is checked as a client would.
//!
//! The rules of sessions (who waits behind what) are written here the short way; those of L1 are the ones under test.

use std::collections::{BTreeSet, VecDeque};

use super::*;

const KEYS: usize = 2;
const LINKS: usize = 3;
const PINNED: usize = LINKS;
const VARIANTS: [&str; 2] = ["", "STRLEN"];
/// A step of the clock, and the staleness bound in steps.
const STEP: u64 = 1000;
const BOUND: u64 = 100;

#[derive(Clone, Debug)]
enum Wire {
    /// The read of a lease, the `PTTL` that follows it, any other read, one of all keys, writes, a flush.
    Lead(usize, LeaseId),
    Pttl(LeaseId),
    Read(usize),
    ReadAll(Vec<(usize, LeaseId)>),
    Write(Vec<usize>),
    Flush,
}

#[derive(Clone, Debug)]
struct Request {
    wire: Wire,
    sent_us: u64,
    /// The slot that waits for it.
    of: Option<(usize, u64)>,
}

#[derive(Clone, Debug)]
enum Frame {
    Reply(Request, [u64; KEYS]),
    Push(usize),
    Null,
}

#[derive(Default)]
struct Conn {
    requests: VecDeque<Request>,
    frames: VecDeque<Frame>,
    watched: [bool; KEYS],
}

#[derive(Clone, Copy, PartialEq, Debug)]
enum Wait {
    Sent,
    Flight(FlightId, usize),
    Done([u64; KEYS]),
    Failed,
}

struct Slot {
    number: u64,
    keys: Vec<usize>,
    writes: bool,
    is_pinned: bool,
    wait: Wait,
    /// Acknowledged to anybody before this was issued.
    least: [u64; KEYS],
    issued_us: u64,
}

struct Flight {
    lease: LeaseId,
    conn: usize,
    leader: Option<(usize, u64)>,
    version: Option<u64>,
}

struct World {
    l1: L1<(usize, u64)>,
    links: Arc<Links>,
    ids: Vec<LinkId>,
    now: u64,
    conns: Vec<Conn>,
    /// Writes of lost connections that may still be executed.
    orphans: Vec<Request>,
    versions: [u64; KEYS],
    pairs: BTreeSet<[u64; KEYS]>,
    overwritten: Vec<Vec<u64>>,
    acked: [u64; KEYS],
    sessions: Vec<VecDeque<Slot>>,
    floors: Vec<[u64; KEYS]>,
    flights: Vec<Flight>,
    numbers: u64,
    hits: u64,
    trace: Vec<String>,
    names: Vec<String>,
}

impl World {
    fn new() -> World {
        let links = Arc::new(Links::new(BOUND * STEP));
        let mut ids: Vec<_> = (0..LINKS).map(|_| links.add().unwrap()).collect();
        ids.push(LinkId::PINNED);
        World {
            l1: L1::new(
                Config {
                    shards: Some(2),
                    ..config()
                },
                links.clone(),
            ),
            links,
            ids,
            now: STEP,
            conns: (0..=LINKS).map(|_| Conn::default()).collect(),
            orphans: Vec::new(),
            versions: [1; KEYS],
            pairs: BTreeSet::from([[1; KEYS]]),
            overwritten: vec![vec![0, 0]; KEYS],
            acked: [0; KEYS],
            sessions: (0..4).map(|_| VecDeque::new()).collect(),
            floors: vec![[0; KEYS]; 4],
            flights: Vec::new(),
            numbers: 0,
            hits: 0,
            trace: Vec::new(),
            names: (0..KEYS).map(|k| format!("key {k}")).collect(),
        }
    }

    fn conn_of(s: usize) -> usize {
        [0, 0, 1, 2][s]
    }

    fn hash(&self, k: usize) -> u64 {
        get(&self.names[k]).hash
    }

    // ------------------------------------------------------------ sessions

    fn issue(&mut self, s: usize, rng: &mut fastrand::Rng) {
        // Now and then a client pipelines; mostly it waits, or it would never be let in front of its own requests.
        let most = if rng.u8(0..4) == 0 { 3 } else { 1 };
        if self.sessions[s].len() >= most {
            return;
        }
        let (k, c) = (rng.usize(0..KEYS), World::conn_of(s));
        let all: Vec<usize> = (0..KEYS).collect();
        let (keys, writes, pinned, hit) = match rng.u8(0..50) {
            0 | 1 => (vec![k], false, false, false),
            2..8 => (all, false, false, true),
            8..10 => (vec![k], true, false, false),
            10 => (all, true, false, false),
            11 => (vec![k], true, true, false),
            12 => (vec![k], false, true, false),
            _ => (vec![k], false, false, true),
        };
        let open: Vec<_> = self.sessions[s]
            .iter()
            .filter(|slot| matches!(slot.wait, Wait::Sent | Wait::Flight(..)))
            .collect();
        // A change of path waits for all answers.
        if self.sessions[s].iter().any(|slot| slot.is_pinned != pinned) {
            return;
        }
        let touching: Vec<_> = open
            .iter()
            .filter(|slot| slot.keys.iter().any(|k| keys.contains(k)))
            .map(|slot| slot.wait)
            .collect();
        let own = match touching.first() {
            None => Own::Clear,
            Some(&Wait::Flight(flight, _)) if touching.iter().all(|&w| w == touching[0]) => Own::InFlight(flight),
            Some(_) => Own::Blocked,
        };
        let follows_elsewhere = touching
            .iter()
            .any(|w| matches!(w, Wait::Flight(_, conn) if *conn != c));
        self.numbers += 1;
        let number = self.numbers;
        let variant = if rng.u8(0..4) == 0 { 1 } else { 0 };
        let a = Asker {
            now_us: self.now,
            link: self.ids[c],
            own,
            floor_us: 0,
            takes_stale: false,
        };
        let mut slot = Slot {
            number,
            keys: keys.clone(),
            writes,
            is_pinned: pinned,
            wait: Wait::Sent,
            least: self.acked,
            issued_us: self.now,
        };
        if hit && keys.len() == 1 {
            let names = self.names.clone();
            let q = read(&names[k], VARIANTS[variant]);
            // Behind another worker's flight there is only joining it, too.
            let leasing = if follows_elsewhere {
                Leasing::Denied
            } else {
                Leasing::Allowed
            };
            match self.l1.decide(&q, &a, leasing, || (s, number), text) {
                Decision::Hit(version) => {
                    let mut seen = [0; KEYS];
                    seen[k] = version.parse().unwrap();
                    self.hits += 1;
                    slot.wait = Wait::Done(seen);
                    self.check_age(k, seen[k], self.now);
                }
                Decision::Joined { flight, link } => slot.wait = Wait::Flight(flight, link.index().into()),
                Decision::Leased(lease) => {
                    slot.wait = Wait::Flight(lease.flight(), c);
                    self.flights.push(Flight {
                        lease,
                        conn: c,
                        leader: Some((s, number)),
                        version: None,
                    });
                    self.send(c, Wire::Lead(k, lease), None);
                    self.send(c, Wire::Pttl(lease), None);
                }
                Decision::Forward if follows_elsewhere => return,
                Decision::Forward => self.send(c, Wire::Read(k), Some((s, number))),
            }
            self.sessions[s].push_back(slot);
            return self.show(s);
        }
        if follows_elsewhere {
            return;
        }
        if hit {
            let names = self.names.clone();
            let queries: Vec<_> = names.iter().map(|name| get(name)).collect();
            let mut seen = [0; KEYS];
            if self.l1.peek_many(&queries, &a, Which::This, |i, view| {
                seen[i] = text(view).parse().unwrap()
            }) {
                assert!(
                    self.pairs.contains(&seen),
                    "{seen:?} never existed together\n{}",
                    self.story()
                );
                self.hits += 1;
                slot.wait = Wait::Done(seen);
            } else {
                let mut leases = Vec::new();
                for (k, q) in queries.iter().enumerate() {
                    if let Some(lease) = self.l1.lease_only(q, &a) {
                        leases.push((k, lease));
                        self.flights.push(Flight {
                            lease,
                            conn: c,
                            leader: None,
                            version: None,
                        });
                    }
                }
                self.send(c, Wire::ReadAll(leases.clone()), Some((s, number)));
                leases
                    .into_iter()
                    .for_each(|(_, lease)| self.send(c, Wire::Pttl(lease), None));
            }
        } else {
            let wire = match (writes, keys.len()) {
                (true, 2) if rng.u8(0..6) == 0 => Wire::Flush,
                (true, _) => Wire::Write(keys),
                (false, _) => Wire::Read(k),
            };
            self.send(if pinned { PINNED } else { c }, wire, Some((s, number)));
        }
        self.sessions[s].push_back(slot);
        self.show(s);
    }

    fn send(&mut self, c: usize, wire: Wire, of: Option<(usize, u64)>) {
        self.trace.push(format!("{} send on {c} {wire:?} for {of:?}", self.now));
        self.conns[c].requests.push_back(Request {
            wire,
            sent_us: self.now,
            of,
        });
    }

    fn answer(&mut self, of: (usize, u64), wait: Wait) {
        if let Some(slot) = self.sessions[of.0].iter_mut().find(|slot| slot.number == of.1) {
            slot.wait = wait;
        }
        self.show(of.0);
    }

    /// Shows what is answered, in the order of the requests.
    fn show(&mut self, s: usize) {
        while let Some(slot) = self.sessions[s].front() {
            match slot.wait {
                Wait::Done(seen) => {
                    for &k in &slot.keys {
                        let floor = &mut self.floors[s][k];
                        let (is_in_order, is_recent) = match slot.writes {
                            true => (seen[k] > *floor, true),
                            false => (seen[k] >= *floor, seen[k] >= slot.least[k]),
                        };
                        let told = format!("client {s} is shown v{} of key {k} after v{floor}", seen[k]);
                        *floor = seen[k];
                        if slot.writes {
                            self.acked[k] = self.acked[k].max(seen[k]);
                        }
                        assert!(is_in_order, "{told}\n{}", self.story());
                        assert!(
                            is_recent,
                            "{told}, and v{} was acknowledged\n{}",
                            slot.least[k],
                            self.story()
                        );
                    }
                }
                Wait::Failed => {}
                Wait::Sent | Wait::Flight(..) => return,
            }
            self.sessions[s].pop_front();
        }
    }

    fn check_age(&self, k: usize, version: u64, issued_us: u64) {
        if version < self.versions[k] {
            let overwritten = self.overwritten[k][version as usize];
            assert!(
                overwritten + BOUND * STEP > issued_us,
                "v{version} of key {k} was overwritten at {overwritten}\n{}",
                self.story()
            );
        }
    }

    // ------------------------------------------------------------ server

    fn execute(&mut self, c: usize) {
        let Some(request) = self.conns[c].requests.pop_front() else {
            return;
        };
        let mut shown = self.versions;
        match &request.wire {
            Wire::Lead(k, _) | Wire::Read(k) => self.conns[c].watched[*k] = c != PINNED,
            Wire::ReadAll(_) => self.conns[c].watched = [true; KEYS],
            Wire::Pttl(_) => {}
            Wire::Write(_) | Wire::Flush => {
                let own = self.write(&request.wire, Some(c));
                shown = self.versions;
                self.conns[c].frames.push_back(Frame::Reply(request, shown));
                self.conns[c].frames.extend(own);
                return;
            }
        }
        self.conns[c].frames.push_back(Frame::Reply(request, shown));
    }

    /// Writes, and tells every connection but `by`, which is told after its reply.
    fn write(&mut self, wire: &Wire, by: Option<usize>) -> Vec<Frame> {
        let (keys, is_flush) = match wire {
            Wire::Write(keys) => (keys.clone(), false),
            _ => ((0..KEYS).collect(), true),
        };
        let mut own = Vec::new();
        for &k in &keys {
            self.versions[k] += 1;
            self.overwritten[k][self.versions[k] as usize - 1] = self.now;
            self.overwritten[k].push(0);
        }
        self.pairs.insert(self.versions);
        for (c, conn) in self.conns.iter_mut().enumerate().take(LINKS) {
            let mut told: Vec<_> = keys
                .iter()
                .filter(|&&k| std::mem::take(&mut conn.watched[k]))
                .map(|&k| Frame::Push(k))
                .collect();
            if is_flush {
                told = vec![Frame::Null];
            }
            if by == Some(c) {
                own = told
            } else {
                conn.frames.extend(told)
            }
        }
        own
    }

    // ------------------------------------------------------------ frames

    fn parse(&mut self, c: usize) {
        let Some(frame) = self.conns[c].frames.pop_front() else {
            return;
        };
        self.trace.push(format!("{} parse on {c} {frame:?}", self.now));
        let link = self.ids[c];
        let (request, shown) = match frame {
            Frame::Push(k) => return self.l1.push(link, self.hash(k)),
            Frame::Null => return self.links.void_all(link),
            Frame::Reply(request, shown) => (request, shown),
        };
        match request.wire {
            Wire::Lead(k, lease) => self.landed(lease, shown[k]),
            Wire::Pttl(lease) => self.end_flight(lease),
            Wire::Read(k) => self.l1.passed_by(link, self.hash(k)),
            Wire::ReadAll(leases) => {
                (0..KEYS).for_each(|k| self.l1.passed_by(link, self.hash(k)));
                leases.into_iter().for_each(|(k, lease)| self.landed(lease, shown[k]));
            }
            Wire::Write(keys) => keys.into_iter().for_each(|k| self.l1.acked(link, self.hash(k))),
            Wire::Flush => self.links.void_everything(),
        }
        self.links.answered(link, request.sent_us);
        if let Some(of) = request.of {
            self.answer(of, Wait::Done(shown));
        }
    }

    fn landed(&mut self, lease: LeaseId, version: u64) {
        self.l1.got(lease);
        if let Some(flight) = self.flights.iter_mut().find(|f| f.lease == lease) {
            flight.version = Some(version);
        }
    }

    fn end_flight(&mut self, lease: LeaseId) {
        let Some(at) = self.flights.iter().position(|f| f.lease == lease) else {
            return;
        };
        let flight = self.flights.swap_remove(at);
        let version = flight.version.expect("PTTL is answered after its read");
        let followers = self.l1.complete(lease, value(&version.to_string()), self.now);
        for of in flight.leader.into_iter().chain(followers) {
            if let Some(slot) = self.sessions[of.0].iter().find(|slot| slot.number == of.1) {
                self.check_age(slot.keys[0], version, slot.issued_us);
                self.answer(of, Wait::Done([version; KEYS]));
            }
        }
    }

    /// The connection is lost; of what was sent, some may be executed later.
    fn lose(&mut self, c: usize, rng: &mut fastrand::Rng) {
        self.trace.push(format!("{} lost {c}", self.now));
        let conn = std::mem::take(&mut self.conns[c]);
        self.links.lost(self.ids[c]);
        let sent = conn.requests.into_iter().inspect(|r| {
            if rng.bool() {
                self.orphans.push(r.clone())
            }
        });
        let unread = conn.frames.into_iter().filter_map(|f| match f {
            Frame::Reply(request, _) => Some(request),
            _ => None,
        });
        let failed: Vec<_> = sent
            .collect::<Vec<_>>()
            .into_iter()
            .chain(unread)
            .filter_map(|r| r.of)
            .collect();
        failed.into_iter().for_each(|of| self.answer(of, Wait::Failed));
        let (lost, kept) = std::mem::take(&mut self.flights).into_iter().partition(|f| f.conn == c);
        self.flights = kept;
        let lost: Vec<Flight> = lost;
        for flight in lost {
            let followers = self.l1.abandon(flight.lease);
            flight
                .leader
                .into_iter()
                .chain(followers)
                .for_each(|of| self.answer(of, Wait::Failed));
        }
    }

    fn step(&mut self, rng: &mut fastrand::Rng) {
        self.now += rng.u64(0..2) * STEP;
        let c = rng.usize(0..=LINKS);
        match rng.u16(0..1000) {
            0..350 => self.issue(rng.usize(0..4), rng),
            350..640 => self.execute(c),
            640..970 => self.parse(c),
            970..980 => drop(self.write(&Wire::Write(vec![rng.usize(0..KEYS)]), None)),
            980..984 => drop(self.write(&Wire::Write((0..KEYS).collect()), None)),
            984..986 => drop(self.write(&Wire::Flush, None)),
            986..990 => drop(self.l1.purge(self.hash(rng.usize(0..KEYS)))),
            990..993 => self.lose(c, rng),
            993..996 => drop(self.l1.sweep(self.now, 20)),
            _ => {
                if let Some(at) = (!self.orphans.is_empty()).then(|| rng.usize(0..self.orphans.len())) {
                    let orphan = self.orphans.swap_remove(at);
                    if matches!(orphan.wire, Wire::Write(_) | Wire::Flush) {
                        self.write(&orphan.wire, None);
                    }
                }
            }
        }
    }

    /// Everything that is under way arrives; then L1 holds the truth, and nobody waits.
    fn drain(&mut self) {
        for c in 0..=LINKS {
            while !self.conns[c].requests.is_empty() || !self.conns[c].frames.is_empty() {
                self.execute(c);
                self.parse(c);
            }
            self.links.answered(self.ids[c], self.now);
        }
        assert!(
            self.sessions.iter().all(|s| s.is_empty()),
            "somebody waits for ever\n{}",
            self.story()
        );
        assert_eq!(self.l1.stats().leases, 0);
        let names = self.names.clone();
        for (k, name) in names.iter().enumerate() {
            for variant in VARIANTS {
                let shown = self.l1.peek(&read(name, variant), &on(LinkId::PINNED, self.now), text);
                let is_true = shown.as_ref().is_none_or(|s| *s == self.versions[k].to_string());
                assert!(
                    is_true,
                    "{shown:?} stays of key {k}, v{}\n{}",
                    self.versions[k],
                    self.story()
                );
            }
        }
    }

    fn story(&self) -> String {
        self.trace[self.trace.len().saturating_sub(60)..].join("\n")
    }
}

#[test]
fn random_schedules_show_nothing_that_a_client_could_object_to() {
    let schedules = std::env::var("NEARCACHE_SCHEDULES")
        .ok()
        .and_then(|n| n.parse().ok())
        .unwrap_or(800);
    let mut hits = 0;
    for seed in 0..schedules {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut world = World::new();
        for _ in 0..3 {
            (0..400).for_each(|_| world.step(&mut rng));
            world.drain();
        }
        hits += world.hits;
    }
    assert!(hits > schedules * 5, "{hits} hits prove little");
}
