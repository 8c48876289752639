//! Keys whose values are versions that only grow, threads that write them in every way, and threads that read them in
//! every way and judge each answer. What the judge knows: which versions were acknowledged, to whom, and when.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use fastrand::Rng;

use super::{BOUND, SLACK};
use crate::support::client::encode;
use crate::support::{Client, STEP, Server, show};

/// What a key holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// A string: `v` and twelve digits.
    Text,
    /// A hash whose field `v` holds the same.
    Hash,
    /// Two strings, `name:a` and `name:b`, always written together.
    Pair,
}

/// Who writes: the rules differ.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Writer {
    /// Through the proxy: seen by all its clients once acknowledged.
    Own,
    /// Straight to the server: seen within the bound.
    Foreign,
}

pub struct World {
    keys: Vec<Key>,
    end: Instant,
    is_over: AtomicBool,
    reads: AtomicU64,
    refused: AtomicU64,
    /// How outdated the stale reads were, in microseconds.
    stale_us: Mutex<Vec<u64>>,
}

struct Key {
    name: String,
    kind: Kind,
    /// Guards the order of writes: the version under way is above all earlier ones at the server too.
    version: Mutex<u64>,
    own_acked: AtomicU64,
    begun: AtomicU64,
    foreign: Mutex<Vec<(Instant, u64)>>,
    /// Set when a write's outcome is unknown: it may take effect late, so nobody may write the key again.
    is_retired: AtomicBool,
}

/// One read in one of its forms: what is sent, how many frames answer it, whose versions they show, in order.
struct Read {
    bytes: Vec<u8>,
    frames: usize,
    shows: Vec<Shown>,
    is_pair: bool,
    label: &'static str,
}

/// A key, and which of its two strings where it is a pair: versions of different strings need not be of one moment.
type Shown = (usize, char);

impl World {
    /// `each` keys of each kind, all at version 1.
    pub fn new(server: &Server, each: usize, length: Duration) -> World {
        let mut keys = Vec::new();
        for (prefix, kind) in [("text", Kind::Text), ("hash", Kind::Hash), ("pair", Kind::Pair)] {
            for i in 0..each {
                server.client().cmd(&["SADD", &format!("sorted:{i}"), &i.to_string()]);
                let key = Key {
                    name: format!("{prefix}:{i}"),
                    kind,
                    version: Mutex::new(1),
                    own_acked: AtomicU64::new(1),
                    begun: AtomicU64::new(1),
                    foreign: Mutex::new(Vec::new()),
                    is_retired: AtomicBool::new(false),
                };
                let mut client = server.client();
                client.raw(&write_bytes(&key, 1, 0).0);
                assert!(!client.frame().starts_with(b"-"));
                keys.push(key);
            }
        }
        World {
            keys,
            end: Instant::now() + length,
            is_over: AtomicBool::new(false),
            reads: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            stale_us: Mutex::new(Vec::new()),
        }
    }

    pub fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Relaxed) || Instant::now() >= self.end
    }

    /// Writes random keys until the end, as fast as acknowledgements come or `pause` apart.
    pub fn write(&self, mut client: Client, who: Writer, pause: Duration, mut random: Rng) {
        let _stop = StopOnPanic(self);
        while !self.is_over() {
            let key = &self.keys[random.usize(0..self.keys.len())];
            let mut version = key.version.lock().expect("no writer panics while it writes");
            if key.is_retired.load(Ordering::SeqCst) {
                continue;
            }
            *version += 1;
            key.begun.store(*version, Ordering::SeqCst);
            let (bytes, frames) = write_bytes(key, *version, random.usize(..));
            client.raw(&bytes);
            let replies = client.frames(frames);
            let is_unknown = replies.iter().any(|r| r.starts_with(b"-") || contains(r, b"\r\n-"));
            let is_conflict = replies
                .last()
                .is_some_and(|r| r.starts_with(b"*-1") || r.starts_with(b"_"));
            assert!(
                !is_conflict,
                "EXEC found a conflict, though nobody else writes {}",
                key.name
            );
            match who {
                _ if is_unknown => {
                    key.is_retired.store(true, Ordering::SeqCst);
                    self.refused.fetch_add(1, Ordering::Relaxed);
                }
                Writer::Own => key.own_acked.store(*version, Ordering::SeqCst),
                Writer::Foreign => {
                    let mut history = key.foreign.lock().expect("no judge panics while it looks");
                    history.push((Instant::now(), *version));
                    if history.len() > 4000 {
                        history.drain(..2000);
                    }
                }
            }
            drop(version);
            if !pause.is_zero() {
                std::thread::sleep(pause);
            }
        }
    }

    /// Reads random keys in random forms, up to `deepest` in one write, until the end; panics on the first wrong answer.
    /// A client that is disconnected, as one is whose watched keys were lost with an upstream connection, comes again.
    pub fn read(&self, connect: impl Fn() -> Client, deepest: usize, mut random: Rng) {
        let _stop = StopOnPanic(self);
        let mut client = connect();
        let mut last: HashMap<Shown, u64> = HashMap::new();
        let mut trail: Vec<String> = Vec::new();
        while !self.is_over() {
            let reads: Vec<Read> = (0..random.usize(1..=deepest)).map(|_| self.pick(&mut random)).collect();
            let floors: Vec<Vec<u64>> = reads.iter().map(|r| self.floors(&r.shows)).collect();
            let sent = Instant::now();
            if client
                .try_raw(&reads.iter().flat_map(|r| r.bytes.clone()).collect::<Vec<_>>())
                .is_err()
            {
                client = connect();
                last.clear();
                continue;
            }
            for (read, floors) in reads.iter().zip(floors) {
                let replies: std::io::Result<Vec<_>> = (0..read.frames).map(|_| client.try_frame(STEP)).collect();
                let Ok(replies) = replies else {
                    self.refused.fetch_add(1, Ordering::Relaxed);
                    client = connect();
                    last.clear();
                    break;
                };
                self.reads.fetch_add(1, Ordering::Relaxed);
                if replies.iter().any(|r| r.starts_with(b"-") || contains(r, b"\r\n-")) {
                    self.refused.fetch_add(1, Ordering::Relaxed);
                    continue;
                }
                let seen = versions(replies.last().expect("at least one frame"));
                let shown = replies.last().map(|r| show(r)).unwrap_or_default();
                trail.push(format!("{} {:?} -> {seen:?}", read.label, self.names(&read.shows)));
                if trail.len() > 30 {
                    trail.remove(0);
                }
                assert_eq!(seen.len(), read.shows.len(), "{} answered {shown}", read.label);
                assert!(
                    !read.is_pair || seen[0] == seen[1],
                    "{} tore a pair apart: {seen:?}\n{trail:#?}",
                    read.label
                );
                for ((&shown, &version), floor) in read.shows.iter().zip(&seen).zip(floors) {
                    let key = shown.0;
                    let label = read.label;
                    let name = &self.keys[key].name;
                    let at_most = self.keys[key].begun.load(Ordering::SeqCst);
                    assert!(
                        version <= at_most,
                        "{label} {name} shows {version}, never written: {at_most}"
                    );
                    assert!(
                        version >= floor,
                        "{label} {name} shows {version}, although {floor} was acknowledged to a client of this proxy before: {trail:#?}"
                    );
                    let before = last.insert(shown, version).unwrap_or(0);
                    assert!(
                        version >= before,
                        "{label} {name} shows {version} after {before}: {trail:#?}"
                    );
                    self.judge_age(key, version, sent, label);
                }
            }
        }
    }

    /// What the run amounted to; fails when it proved little.
    pub fn report(&self, title: &str, at_least: u64) {
        let mut stale = self.stale_us.lock().expect("all threads are done").clone();
        stale.sort_unstable();
        let at = |share: f64| {
            stale
                .get(((stale.len() as f64 * share) as usize).min(stale.len().saturating_sub(1)))
                .copied()
        };
        let reads = self.reads.load(Ordering::Relaxed);
        let refused = self.refused.load(Ordering::Relaxed);
        eprintln!(
            "{title}: {reads} reads, {refused} refused, {} showed a value outdated behind the proxy's back, \
             by µs: median {:?}, p99 {:?}, most {:?}",
            stale.len(),
            at(0.5),
            at(0.99),
            stale.last()
        );
        assert!(
            reads - refused.min(reads) >= at_least,
            "only {reads} reads, {refused} of them refused"
        );
    }

    /// How many reads and writes were answered with an error.
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// The ages of outdated answers to foreign writes, sorted, in microseconds.
    pub fn ages_us(&self) -> Vec<u64> {
        let mut ages = self.stale_us.lock().expect("all threads are done").clone();
        ages.sort_unstable();
        ages
    }

    fn floors(&self, shown: &[Shown]) -> Vec<u64> {
        shown
            .iter()
            .map(|&(k, _)| self.keys[k].own_acked.load(Ordering::SeqCst))
            .collect()
    }

    fn names(&self, shown: &[Shown]) -> Vec<String> {
        shown
            .iter()
            .map(|&(k, half)| format!("{}{half}", self.keys[k].name))
            .collect()
    }

    fn judge_age(&self, key: usize, version: u64, sent: Instant, label: &str) {
        let history = self.keys[key].foreign.lock().expect("no judge panics while it looks");
        let from = history.partition_point(|&(_, v)| v <= version);
        let Some(&(acked, newer)) = history.get(from) else {
            return;
        };
        drop(history);
        let Some(age) = sent.checked_duration_since(acked) else {
            return;
        };
        assert!(
            age <= BOUND + SLACK,
            "{label} {} shows {version}, {age:?} after {newer} was acknowledged at the server",
            self.keys[key].name
        );
        self.stale_us
            .lock()
            .expect("no judge panics while it counts")
            .push(age.as_micros() as u64);
    }

    fn pick(&self, random: &mut Rng) -> Read {
        let at = random.usize(0..self.keys.len());
        let key = &self.keys[at];
        let name = key.name.as_str();
        let one = |label, args: &[&str]| Read {
            bytes: encode(args),
            frames: 1,
            shows: vec![(at, ' ')],
            is_pair: false,
            label,
        };
        let many = |label, lines: &[&[&str]]| Read {
            bytes: lines.iter().flat_map(|l| encode(l)).collect(),
            frames: lines.len(),
            shows: vec![(at, ' ')],
            is_pair: false,
            label,
        };
        match key.kind {
            Kind::Text => match random.u8(0..16) {
                0..=5 => one("GET", &["GET", name]),
                6 | 7 => one("GETRANGE", &["GETRANGE", name, "0", "-1"]),
                8 => one("SUBSTR", &["SUBSTR", name, "0", "99"]),
                9 | 10 => {
                    let texts: Vec<usize> = (0..self.keys.len())
                        .filter(|&k| self.keys[k].kind == Kind::Text)
                        .collect();
                    let other = texts[random.usize(0..texts.len())];
                    let args = ["MGET", name, self.keys[other].name.as_str()];
                    Read {
                        bytes: encode(&args),
                        frames: 1,
                        shows: vec![(at, ' '), (other, ' ')],
                        is_pair: other == at,
                        label: "MGET",
                    }
                }
                11 => one("EVAL_RO", &["EVAL_RO", "return redis.call('GET',KEYS[1])", "1", name]),
                12 => one(
                    "EVAL_RO undeclared",
                    &["EVAL_RO", &format!("return redis.call('GET','{name}')"), "0"],
                ),
                13 => many("whole EXEC", &[&["MULTI"], &["GET", name], &["EXEC"]]),
                14 => many(
                    "watched EXEC",
                    &[&["WATCH", "unrelated"], &["MULTI"], &["GET", name], &["EXEC"]],
                ),
                _ => {
                    let sorted = name.replace("text", "sorted");
                    one("SORT GET", &["SORT_RO", &sorted, "BY", "nosort", "GET", "text:*"])
                }
            },
            Kind::Hash => match random.u8(0..8) {
                0 | 1 => one("HGET", &["HGET", name, "v"]),
                2 => one("HGETALL", &["HGETALL", name]),
                3 => one("HMGET", &["HMGET", name, "v"]),
                4 => one("HVALS", &["HVALS", name]),
                5 => one("HSCAN", &["HSCAN", name, "0"]),
                6 => many("whole EXEC", &[&["MULTI"], &["HGET", name, "v"], &["EXEC"]]),
                _ => one("HRANDFIELD", &["HRANDFIELD", name, "1", "WITHVALUES"]),
            },
            Kind::Pair => {
                let (a, b) = (format!("{name}:a"), format!("{name}:b"));
                let half = |half, name: &str| Read {
                    shows: vec![(at, half)],
                    ..one("GET of a half", &["GET", name])
                };
                let both = |label, bytes, frames| Read {
                    bytes,
                    frames,
                    shows: vec![(at, 'a'), (at, 'b')],
                    is_pair: true,
                    label,
                };
                match random.u8(0..8) {
                    0 | 1 => half('a', &a),
                    2 => half('b', &b),
                    3..=5 => both("MGET of a pair", encode(&["MGET", &a, &b]), 1),
                    6 => {
                        let script = "return {redis.call('GET',KEYS[1]),redis.call('GET',KEYS[2])}";
                        both("EVAL_RO of a pair", encode(&["EVAL_RO", script, "2", &a, &b]), 1)
                    }
                    _ => {
                        let lines: [&[&str]; 4] = [&["MULTI"], &["GET", &a], &["GET", &b], &["EXEC"]];
                        both("EXEC of a pair", lines.iter().flat_map(|l| encode(l)).collect(), 4)
                    }
                }
            }
        }
    }
}

/// Ends the run of the others when one thread has found a wrong answer.
struct StopOnPanic<'a>(&'a World);

impl Drop for StopOnPanic<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.is_over.store(true, Ordering::SeqCst);
        }
    }
}

/// The bytes of a write in the form that `form` draws, and how many frames answer it. Form 0 is the plain one.
fn write_bytes(key: &Key, version: u64, form: usize) -> (Vec<u8>, usize) {
    let value = format!("v{version:012}");
    let (name, v) = (key.name.as_str(), value.as_str());
    let (a, b, scratch) = (format!("{name}:a"), format!("{name}:b"), format!("scratch:{name}"));
    let (a, b, scratch) = (a.as_str(), b.as_str(), scratch.as_str());
    let set_all = "for i=1,#KEYS do redis.call('SET',KEYS[i],ARGV[1]) end return 1";
    let forms: Vec<Vec<Vec<&str>>> = match key.kind {
        Kind::Text => vec![
            vec![vec!["SET", name, v]],
            vec![vec!["SET", name, v, "PX", "600000"]],
            vec![vec!["GETSET", name, v]],
            vec![vec!["SETRANGE", name, "0", v]],
            vec![vec!["MSET", name, v, scratch, v]],
            vec![vec!["SETEX", name, "600", v]],
            vec![vec!["EVAL", set_all, "1", name, v]],
            vec![vec!["MULTI"], vec!["SET", name, v], vec!["EXEC"]],
            vec![
                vec!["WATCH", scratch],
                vec!["MULTI"],
                vec!["DEL", name],
                vec!["SET", name, v],
                vec!["EXEC"],
            ],
            vec![vec!["SET", scratch, v], vec!["RENAME", scratch, name]],
            vec![vec!["SET", scratch, v], vec!["COPY", scratch, name, "REPLACE"]],
            vec![vec!["SET", name, v], vec!["GET", name]],
            vec![vec!["SET", scratch, v], vec!["BITOP", "OR", name, scratch]],
        ],
        Kind::Hash => vec![
            vec![vec!["HSET", name, "v", v]],
            vec![vec!["HMSET", name, "v", v]],
            vec![vec![
                "EVAL",
                "return redis.call('HSET',KEYS[1],'v',ARGV[1])",
                "1",
                name,
                v,
            ]],
            vec![
                vec!["MULTI"],
                vec!["DEL", name],
                vec!["HSET", name, "v", v],
                vec!["EXEC"],
            ],
            vec![vec!["HSET", scratch, "v", v], vec!["RENAME", scratch, name]],
        ],
        Kind::Pair => vec![
            vec![vec!["MSET", a, v, b, v]],
            vec![vec!["MSET", b, v, a, v]],
            vec![vec!["EVAL", set_all, "2", a, b, v]],
            vec![vec!["MULTI"], vec!["SET", a, v], vec!["SET", b, v], vec!["EXEC"]],
            vec![
                vec!["WATCH", a],
                vec!["MULTI"],
                vec!["SET", b, v],
                vec!["SET", a, v],
                vec!["EXEC"],
            ],
        ],
    };
    let form = &forms[form % forms.len()];
    (form.iter().flat_map(|line| encode(line)).collect(), form.len())
}

/// Every version that a reply shows, in order.
fn versions(frame: &[u8]) -> Vec<u64> {
    let mut out = Vec::new();
    let mut at = 0;
    while at + 13 <= frame.len() {
        let digits = &frame[at + 1..at + 13];
        if frame[at] == b'v' && digits.iter().all(u8::is_ascii_digit) {
            out.push(digits.iter().fold(0, |n, d| n * 10 + u64::from(d - b'0')));
            at += 13;
        } else {
            at += 1;
        }
    }
    out
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|w| w == needle)
}
