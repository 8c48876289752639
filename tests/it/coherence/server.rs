//! The server that the proxy speaks to: two keys, one command at a time, in any order between connections, and pushes by
//! the rules of default-mode tracking as Redis 7 and Valkey 9 follow them. A read registers, one push ends the
//! registration; it goes at once to the stream of every other connection and to the writer's own after its reply; a flush
//! pushes a null to all; an expired key reads as absent at its deadline, but its push waits until somebody deletes it.
//!
//! Or it broadcasts: every change is told to every tracked connection, read or not, but the pushes of a turn of the event loop
//! come at its end, behind the replies of that turn, and only then does anything of the turn leave the server.
//!
//! It also remembers everything that it ever held, which is what the checks compare with.

use std::collections::{BTreeSet, HashSet, VecDeque};

use nearcache::command::own;
use nearcache::resp::Version;

use super::wire::{self, Token};

pub const KEYS: usize = 2;

pub struct Server {
    pub now_us: u64,
    pub keys: [Key; KEYS],
    pub conns: Vec<Conn>,
    /// Requests of connections that are gone, which may still be executed.
    pub orphans: VecDeque<Vec<Vec<u8>>>,
    /// Versions of both keys that existed together.
    pub pairs: HashSet<(usize, usize)>,
    /// Several keys of one command are told in one frame, as other tracking modes do.
    pub joins_pushes: bool,
    pub is_broadcast: bool,
    pub digests: Digests,
}

/// What becomes of `DIGEST`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Digests {
    Told,
    /// The proxy's user may not use it.
    Refused,
    /// A mistake: it is told, and the key is not registered.
    ToldInPassing,
}

pub struct Key {
    pub name: Vec<u8>,
    /// All that it ever was, the current one last.
    pub versions: Vec<Held>,
    pub deadline_us: Option<u64>,
    /// Expired, not yet deleted: nobody was told.
    pub is_lingering: bool,
    /// Bit set of connections.
    pub trackers: u32,
}

pub struct Held {
    /// `None`: absent.
    pub token: Option<Token>,
    /// The write that made it so; none at the start and by expiry.
    by: Option<Token>,
    pub overwritten_us: Option<u64>,
    pub has_expired: bool,
}

#[derive(Default)]
pub struct Conn {
    pub input: Vec<u8>,
    pub output: VecDeque<Out>,
    /// Of a server that broadcasts: what this turn has written, and the keys that its end will tell of.
    turn: Vec<Out>,
    changed: BTreeSet<usize>,
    /// So much of the first frame of `output` has arrived already.
    pub sent_bytes: usize,
    pub is_served: bool,
    pub is_tracking: bool,
    /// Behind `output` the stream ends.
    pub is_ended: bool,
    pub version: Version,
    queued: Option<Vec<Vec<Vec<u8>>>>,
}

pub struct Out {
    pub bytes: Vec<u8>,
    pub what: What,
}

#[derive(Debug)]
pub enum What {
    Reply,
    Push(Vec<usize>),
    Null,
}

/// What one command makes the server push, `None` for everything.
type Pushes = Vec<(usize, Option<usize>)>;

impl Key {
    pub fn now(&self) -> Option<Token> {
        self.versions.last().and_then(|held| held.token)
    }

    /// What a write left, if it was executed.
    pub fn version_of(&self, token: Token) -> Option<usize> {
        self.versions.iter().rposition(|held| held.by == Some(token))
    }
}

impl Server {
    pub fn new(conns: usize, names: [Vec<u8>; KEYS], first: [Option<Token>; KEYS], now_us: u64) -> Server {
        let mut tokens = first.into_iter();
        let keys = names.map(|name| Key {
            name,
            versions: vec![Held {
                token: tokens.next().flatten(),
                by: None,
                overwritten_us: None,
                has_expired: false,
            }],
            deadline_us: None,
            is_lingering: false,
            trackers: 0,
        });
        let conns = (0..conns).map(|_| Conn::default()).collect();
        let orphans = VecDeque::new();
        let pairs = HashSet::from([(0, 0)]);
        Server {
            now_us,
            keys,
            conns,
            orphans,
            pairs,
            joins_pushes: false,
            is_broadcast: false,
            digests: Digests::Told,
        }
    }

    /// Before the walk the key was something else, too long ago to be shown.
    pub fn was(&mut self, k: usize, token: Token) {
        let held = Held {
            token: Some(token),
            by: None,
            overwritten_us: Some(0),
            has_expired: false,
        };
        self.keys[k].versions.insert(0, held);
        self.pairs.clear();
        self.note_pair();
    }

    /// Whether something waits for the end of the turn.
    pub fn is_in_turn(&self) -> bool {
        self.conns
            .iter()
            .any(|conn| !conn.turn.is_empty() || !conn.changed.is_empty())
    }

    /// The pushes of the turn are gathered behind its replies, and all of it is sent.
    pub fn end_turn(&mut self) {
        for conn in &mut self.conns {
            conn.output.extend(conn.turn.drain(..));
            let keys: Vec<usize> = std::mem::take(&mut conn.changed).into_iter().collect();
            if !keys.is_empty() {
                let names: Vec<&[u8]> = keys.iter().map(|&k| &self.keys[k].name[..]).collect();
                conn.output.push_back(Out {
                    bytes: wire::invalidation(&names),
                    what: What::Push(keys),
                });
            }
        }
    }

    fn write_to(&mut self, c: usize, out: Out) {
        match self.is_broadcast {
            true => self.conns[c].turn.push(out),
            false => self.conns[c].output.push_back(out),
        }
    }

    pub fn connect(&mut self, c: usize, is_tracking: bool, version: Version) {
        self.conns[c] = Conn {
            is_served: true,
            is_tracking,
            version,
            ..Conn::default()
        };
    }

    pub fn has_request(&self, c: usize) -> bool {
        self.conns[c].is_served && wire::split_request(&self.conns[c].input).is_some()
    }

    /// Executes the next request of a connection.
    pub fn serve(&mut self, c: usize) -> String {
        let (words, len) = wire::split_request(&self.conns[c].input).expect("there is one");
        self.conns[c].input.drain(..len);
        self.execute(Some(c), &words);
        said(&words)
    }

    /// `None`: a client that has nothing to do with the proxy, or a connection that is gone.
    pub fn execute(&mut self, c: Option<usize>, words: &[Vec<u8>]) {
        let mut pushes = Pushes::new();
        let version = c.map_or(Version::Resp3, |c| self.conns[c].version);
        let queued = c.and_then(|c| self.conns[c].queued.as_mut());
        let reply = match (queued, &words[0][..]) {
            (Some(_), b"EXEC") => {
                let queued = c.and_then(|c| self.conns[c].queued.take()).unwrap_or_default();
                let parts: Vec<_> = queued
                    .iter()
                    .map(|words| self.run(c, words, version, &mut pushes))
                    .collect();
                wire::array(&parts)
            }
            (Some(queued), _) => {
                queued.push(words.to_vec());
                b"+QUEUED\r\n".to_vec()
            }
            (None, b"MULTI") => {
                if let Some(c) = c {
                    self.conns[c].queued = Some(Vec::new());
                }
                b"+OK\r\n".to_vec()
            }
            (None, _) => self.run(c, words, version, &mut pushes),
        };
        self.note_pair();
        self.push(&pushes, |to| Some(to) != c);
        if let Some(c) = c {
            let what = What::Reply;
            self.write_to(c, Out { bytes: reply, what });
            self.push(&pushes, |to| to == c);
        }
    }

    fn run(&mut self, c: Option<usize>, words: &[Vec<u8>], version: Version, pushes: &mut Pushes) -> Vec<u8> {
        let words: Vec<&[u8]> = words.iter().map(Vec::as_slice).collect();
        match words[..] {
            [b"GET" | b"HGET" | b"DUMP", name, ..] => {
                let token = self.read_name(c, name, pushes);
                wire::bulk(token.map(wire::value).as_deref(), version)
            }
            [own::DIGEST, _] if self.digests == Digests::Refused => {
                b"-NOPERM User p has no permissions to run the 'digest' command\r\n".to_vec()
            }
            [own::DIGEST, name] => {
                let c = c.filter(|_| self.digests != Digests::ToldInPassing);
                let token = self.read_name(c, name, pushes);
                let digest = token.map(|token| wire::digest(&wire::value(token)));
                wire::bulk(digest.as_deref(), version)
            }
            [b"STRLEN", name] => {
                let token = self.read_name(c, name, pushes);
                wire::integer(token.map_or(0, |token| wire::value(token).len() as i64))
            }
            [b"GETRANGE", name, b"0", b"2"] => {
                let token = self.read_name(c, name, pushes);
                wire::bulk(
                    Some(&token.map_or(Vec::new(), |token| wire::value(token)[..3].to_vec())),
                    version,
                )
            }
            [b"EXISTS", name] => wire::integer(i64::from(self.read_name(c, name, pushes).is_some())),
            [b"HGETALL", name] => {
                let pair = self.read_name(c, name, pushes).map(|token| (wire::value(token), b"f"));
                let parts: Vec<_> = pair
                    .iter()
                    .flat_map(|(value, f)| [wire::bulk(Some(*f), version), wire::bulk(Some(value), version)])
                    .collect();
                match version {
                    Version::Resp2 => wire::array(&parts),
                    Version::Resp3 => [format!("%{}\r\n", parts.len() / 2).into_bytes(), parts.concat()].concat(),
                }
            }
            [own::PTTL, name] => {
                let is_absent = self.read_name(c, name, pushes).is_none();
                let key = &self.keys[self.key(name)];
                wire::integer(match key.deadline_us {
                    _ if is_absent => -2,
                    None => -1,
                    Some(deadline_us) => (deadline_us / 1000 - self.now_us / 1000) as i64,
                })
            }
            // As if the values were their members.
            [b"MGET" | b"SUNION", ..] => {
                let tokens: Vec<_> = words[1..].iter().map(|name| self.read_name(c, name, pushes)).collect();
                wire::array(
                    &tokens
                        .iter()
                        .map(|t| wire::bulk(t.map(wire::value).as_deref(), version))
                        .collect::<Vec<_>>(),
                )
            }
            // Undeclared keys: read without a registration.
            [b"EVAL_RO", ..] => {
                let tokens = [0, 1].map(|k| self.read(None, k, pushes));
                wire::array(&tokens.map(|token| wire::bulk(token.map(wire::value).as_deref(), version)))
            }
            [b"EVAL", .., name, value] | [b"SET", name, value] => {
                let token = wire::token(value);
                self.write(self.key(name), token, token, None, pushes);
                b"+OK\r\n".to_vec()
            }
            [b"SET", name, value, b"PX", ms] => {
                let ms: u64 = std::str::from_utf8(ms).unwrap().parse().unwrap();
                let deadline_us = (self.now_us / 1000 + ms) * 1000;
                self.write(
                    self.key(name),
                    wire::token(value),
                    wire::token(value),
                    Some(deadline_us),
                    pushes,
                );
                b"+OK\r\n".to_vec()
            }
            [b"HSET", name, _, value] => {
                let is_new = self.keys[self.key(name)].now().is_none();
                self.write(self.key(name), wire::token(value), wire::token(value), None, pushes);
                wire::integer(i64::from(is_new))
            }
            [b"DEL", name, by] => {
                let k = self.key(name);
                let is_there = self.keys[k].now().is_some();
                if self.keys[k].is_lingering {
                    self.reap(k, pushes);
                } else if is_there {
                    self.write(k, wire::token(by), None, None, pushes);
                }
                wire::integer(i64::from(is_there))
            }
            [b"MSET", ..] => {
                for pair in words[1..].chunks(2) {
                    self.write(
                        self.key(pair[0]),
                        wire::token(pair[1]),
                        wire::token(pair[1]),
                        None,
                        pushes,
                    );
                }
                b"+OK\r\n".to_vec()
            }
            [b"FLUSHALL", by] => {
                self.flush(wire::token(by), pushes);
                b"+OK\r\n".to_vec()
            }
            [b"PING" | own::PING] => b"+PONG\r\n".to_vec(),
            [b"WATCH" | b"UNWATCH", ..] => b"+OK\r\n".to_vec(),
            _ => panic!("the model server does not know {words:?}"),
        }
    }

    fn key(&self, name: &[u8]) -> usize {
        self.keys
            .iter()
            .position(|key| key.name == name)
            .expect("only two keys are used")
    }

    fn read_name(&mut self, c: Option<usize>, name: &[u8], pushes: &mut Pushes) -> Option<Token> {
        self.read(c, self.key(name), pushes)
    }

    fn read(&mut self, c: Option<usize>, k: usize, pushes: &mut Pushes) -> Option<Token> {
        if self.keys[k].is_lingering {
            self.reap(k, pushes);
        }
        if let Some(c) = c.filter(|&c| self.conns[c].is_tracking && !self.is_broadcast) {
            self.keys[k].trackers |= 1 << c;
        }
        self.keys[k].now()
    }

    fn write(
        &mut self,
        k: usize,
        by: Option<Token>,
        token: Option<Token>,
        deadline_us: Option<u64>,
        pushes: &mut Pushes,
    ) {
        self.replace(k, by, token, self.now_us);
        self.keys[k].deadline_us = deadline_us;
        self.reap(k, pushes);
    }

    fn replace(&mut self, k: usize, by: Option<Token>, token: Option<Token>, at_us: u64) {
        let versions = &mut self.keys[k].versions;
        if let Some(last) = versions.last_mut() {
            last.overwritten_us = Some(at_us);
        }
        versions.push(Held {
            token,
            by,
            overwritten_us: None,
            has_expired: false,
        });
    }

    /// Everybody who has read the key is told, once.
    fn reap(&mut self, k: usize, pushes: &mut Pushes) {
        self.keys[k].is_lingering = false;
        if self.is_broadcast {
            let tracked = self.conns.iter_mut().filter(|conn| conn.is_tracking);
            tracked.for_each(|conn| {
                conn.changed.insert(k);
            });
        }
        let trackers = std::mem::take(&mut self.keys[k].trackers);
        pushes.extend(
            (0..self.conns.len())
                .filter(|c| trackers >> c & 1 != 0)
                .map(|c| (c, Some(k))),
        );
    }

    fn flush(&mut self, by: Option<Token>, pushes: &mut Pushes) {
        for k in 0..KEYS {
            if self.keys[k].now().is_some() {
                self.replace(k, by, None, self.now_us);
            }
            self.keys[k].deadline_us = None;
            self.keys[k].is_lingering = false;
            self.keys[k].trackers = 0;
        }
        pushes.extend(
            (0..self.conns.len())
                .filter(|&c| self.conns[c].is_tracking)
                .map(|c| (c, None)),
        );
    }

    fn push(&mut self, pushes: &Pushes, to: impl Fn(usize) -> bool) {
        for c in (0..self.conns.len()).filter(|&c| to(c)) {
            let told: Vec<Option<usize>> = pushes.iter().filter(|(conn, _)| *conn == c).map(|(_, k)| *k).collect();
            let keys: Vec<usize> = told.iter().flatten().copied().collect();
            let groups: Vec<Vec<usize>> = if self.joins_pushes && !keys.is_empty() {
                vec![keys]
            } else {
                keys.into_iter().map(|k| vec![k]).collect()
            };
            for keys in groups {
                let names: Vec<&[u8]> = keys.iter().map(|&k| &self.keys[k].name[..]).collect();
                self.conns[c].output.push_back(Out {
                    bytes: wire::invalidation(&names),
                    what: What::Push(keys),
                });
            }
            if told.contains(&None) {
                let bytes = wire::invalidation(&[]);
                let what = What::Null;
                self.write_to(c, Out { bytes, what });
            }
        }
    }

    /// The active cycle deletes an expired key.
    pub fn delete_expired(&mut self, k: usize) {
        let mut pushes = Pushes::new();
        self.reap(k, &mut pushes);
        self.push(&pushes, |_| true);
    }

    /// The table of tracked keys is full: a victim is pushed as if it were written.
    pub fn forget(&mut self, k: usize) {
        let is_lingering = self.keys[k].is_lingering;
        self.delete_expired(k);
        self.keys[k].is_lingering = is_lingering;
    }

    pub fn pass_time(&mut self, now_us: u64) {
        self.now_us = now_us;
        for k in 0..KEYS {
            if let Some(deadline_us) = self.keys[k].deadline_us.take_if(|deadline_us| *deadline_us <= now_us) {
                if let Some(last) = self.keys[k].versions.last_mut() {
                    last.has_expired = true;
                }
                self.replace(k, None, None, deadline_us);
                self.keys[k].is_lingering = true;
            }
        }
        self.note_pair();
    }

    /// The server's side of a connection ends: its registrations go with it, without a push.
    pub fn hang_up(&mut self, c: usize) {
        self.conns[c].is_served = false;
        self.conns[c].is_tracking = false;
        self.conns[c].turn.clear();
        self.conns[c].changed.clear();
        self.keys.iter_mut().for_each(|key| key.trackers &= !(1 << c));
    }

    /// What a connection was sent and not yet executed goes on without it.
    pub fn orphan(&mut self, c: usize) {
        let input = std::mem::take(&mut self.conns[c].input);
        let mut rest = &input[..];
        while let Some((words, len)) = wire::split_request(rest) {
            rest = &rest[len..];
            if matches!(
                &words[0][..],
                b"SET" | b"HSET" | b"DEL" | b"MSET" | b"EVAL" | b"FLUSHALL"
            ) && self.conns[c].queued.is_none()
            {
                self.orphans.push_back(words);
            }
        }
    }

    /// Whether something under way on the connection will tell of a change of the key.
    pub fn will_tell(&self, c: usize, k: usize) -> bool {
        let conn = &self.conns[c];
        conn.is_ended
            || conn.changed.contains(&k)
            || conn.output.iter().chain(&conn.turn).any(|out| match &out.what {
                What::Push(keys) => keys.contains(&k),
                What::Null => true,
                What::Reply => false,
            })
    }

    fn note_pair(&mut self) {
        self.pairs
            .insert((self.keys[0].versions.len() - 1, self.keys[1].versions.len() - 1));
    }
}

/// A command in a trace.
pub fn said(words: &[Vec<u8>]) -> String {
    words
        .iter()
        .map(|word| String::from_utf8_lossy(&word[..word.len().min(8)]).into_owned())
        .collect::<Vec<_>>()
        .join(" ")
}
