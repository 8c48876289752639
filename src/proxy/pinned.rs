//! A client with an upstream connection of its own: what its requests and the replies to them mean for how long it keeps
//! the connection, and for L1. Pure: bytes are carried by the session.
//!
//! Both directions are forwarded as they are. Requests are still parsed, since what they write must be voided before the
//! client sees the acknowledgement, and replies are counted, to know when the state that needed the connection has ended.

use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::atomic::Ordering::Relaxed;

use super::client::{Access as ClientAccess, Client};
use super::local::{self, Hello};
use super::outbox::Touched;
use super::request::touched;
use super::transaction::Hashes;
use super::worker::Worker;
use crate::cache::LinkId;
use crate::command::{Access, Local, Path, Pin, Spec};
use crate::config::Auth;
use crate::resp::Version;
use crate::resp::reply;
use crate::resp::request::Args;

#[derive(Default)]
pub struct Pinned {
    waiting: VecDeque<Waiting>,
    /// `MULTI` was sent and neither `EXEC` nor `DISCARD`.
    is_multi: bool,
    is_watching: bool,
    is_monitor: bool,
    is_foreign: bool,
    /// Tracking, no-evict and their like: kept until `RESET`, or until tracking is switched off.
    is_stateful: bool,
    is_tracking: bool,
    replies: Replies,
    channels: i64,
    patterns: i64,
    shard_channels: i64,
    /// A subscription command is on its way.
    is_subscribing: bool,
    /// What the commands of the open transaction touch.
    queued_read: Hashes,
    queued_written: Hashes,
    queued_version: Option<Version>,
    queued_db: Option<u32>,
    /// What commands without a reply have touched.
    silent: Hashes,
    has_silent: bool,
    /// The connection is not as it was taken.
    pub is_dirty: bool,
    pub is_quitting: bool,
}

/// `CLIENT REPLY`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Replies {
    #[default]
    On,
    Off,
    /// Not to the next command.
    SkipNext,
}

struct Waiting {
    kind: Kind,
    read: Touched,
    written: Touched,
    is_blocking: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Kind {
    Plain,
    Exec,
    Discard,
    /// So many confirmations are to come.
    Subscribe(Subscription, usize),
    /// So many, or (none named) one for each subscription there is when its turn comes.
    Unsubscribe(Subscription, Option<usize>),
    Select(u32),
    Hello { version: Option<Version>, is_foreign: bool },
    Auth { is_own: bool },
    Reset,
    Quit,
    TrackingOff,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Subscription {
    Channel,
    Pattern,
    Shard,
}

/// What becomes of a request of a pinned client.
#[derive(Debug, PartialEq, Eq)]
pub enum Forwarding {
    Forward,
    /// Not before the earlier ones are answered.
    Wait,
    /// The proxy has written the answer itself; nothing else waits.
    Answered,
}

impl Pinned {
    /// Whether the state that needs the connection goes on.
    pub fn is_sticky(&self) -> bool {
        self.is_multi
            || self.is_watching
            || self.is_monitor
            || self.is_foreign
            || self.is_stateful
            || self.is_tracking
            || self.is_subscribed()
            || self.is_subscribing
            || self.replies != Replies::On
            || self.has_silent
    }

    /// Whether the connection can be given back.
    pub fn is_over(&self) -> bool {
        self.waiting.is_empty() && !self.is_sticky()
    }

    pub fn is_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Whether the server may rightly be silent for long.
    pub fn may_be_silent(&self) -> bool {
        self.waiting.is_empty() || self.is_monitor || self.waiting.iter().any(|waiting| waiting.is_blocking)
    }

    /// A client that has gone while it was blocked: nothing must be popped for it any more.
    pub fn is_blocked(&self) -> bool {
        self.waiting.iter().any(|waiting| waiting.is_blocking)
    }

    fn is_subscribed(&self) -> bool {
        self.channels > 0 || self.patterns > 0 || self.shard_channels > 0
    }

    /// Judges a complete request that is about to be forwarded.
    pub fn request(&mut self, worker: &Worker, client: &Client, spec: Option<&Spec>, args: Args<'_>) -> Forwarding {
        // One request on a connection that is not kept: the next belongs to another path.
        if !self.waiting.is_empty() && !self.is_sticky() {
            return Forwarding::Wait;
        }
        let Some(spec) = spec else {
            self.expect(Kind::Plain, Touched::All, Touched::All, false);
            return Forwarding::Forward;
        };
        let path = spec.path(args);
        if let Path::Refused(error) = path {
            if self.is_waiting() {
                return Forwarding::Wait;
            }
            client.state.borrow_mut().error(error);
            return Forwarding::Answered;
        }
        if let Path::Local(which @ (Local::Auth | Local::Hello)) = path
            && let Some(forwarding) = self.credentials(worker, client, which, args)
        {
            return forwarding;
        }
        let (mut read, mut written) = (Touched::None, Touched::None);
        match spec.access {
            Access::Read => read = touched(worker, spec, args),
            Access::Write => written = touched(worker, spec, args),
            Access::None => {}
        }
        let kind = self.kind(spec, path, args);
        let is_ending = matches!(kind, Kind::Exec | Kind::Discard | Kind::Reset | Kind::Quit);
        if self.is_multi && !is_ending {
            self.queued_read.add(&read);
            self.queued_written.add(&written);
            (read, written) = (Touched::None, Touched::None);
        }
        let is_blocking = !self.is_multi && matches!(path, Path::Pin(Pin::Blocking));
        self.note(path, &kind, spec, args);
        if is_unanswered_reply_setting(args) && path == Path::Pin(Pin::Client) && !self.is_multi {
            // It has no reply, and must not use up the skip that it asks for.
            self.has_silent = true;
        } else {
            self.expect(kind, read, written, is_blocking);
        }
        Forwarding::Forward
    }

    /// A request too large to hold, of which the arguments that were kept are known (`None`: too long to be a key that
    /// anybody caches).
    pub fn large_request(&mut self, worker: &Worker, client: &Client, spec: Option<&Spec>, args: &[Option<Vec<u8>>]) {
        let mut buf = Vec::new();
        let mut spans = Vec::with_capacity(args.len());
        let mut is_whole = true;
        for arg in args {
            let start = buf.len() as u32;
            match arg {
                Some(arg) => buf.extend_from_slice(arg),
                None => is_whole = false,
            }
            spans.push(crate::resp::request::Span { start, end: buf.len() as u32 });
        }
        let args = Args { buf: &buf, spans: &spans };
        // A value that was not kept is no key, for all commands whose keys stand apart from their values.
        let has_unknown_keys = !is_whole && spec.is_none_or(|spec| !LARGE_VALUES.contains(&&*spec.name));
        match spec {
            Some(spec) if !has_unknown_keys => {
                let _ = self.request(worker, client, Some(spec), args);
            }
            _ => self.expect(Kind::Plain, Touched::All, Touched::All, false),
        }
    }

    fn expect(&mut self, kind: Kind, read: Touched, written: Touched, is_blocking: bool) {
        let is_silent = match (self.replies, &kind) {
            (_, Kind::Reset | Kind::Quit) | (Replies::On, _) => false,
            (Replies::Off, _) => true,
            (Replies::SkipNext, _) => {
                self.replies = Replies::On;
                true
            }
        };
        if is_silent {
            self.silent.add(&read);
            self.silent.add(&written);
            self.has_silent = true;
        } else {
            self.waiting.push_back(Waiting { kind, read, written, is_blocking });
        }
    }

    fn kind(&self, spec: &Spec, path: Path, args: Args<'_>) -> Kind {
        let named = args.len() - 1;
        match &*spec.name {
            "exec" => Kind::Exec,
            "discard" => Kind::Discard,
            _ if self.is_multi && !matches!(path, Path::Local(Local::Reset | Local::Quit)) => Kind::Plain,
            "subscribe" => Kind::Subscribe(Subscription::Channel, named),
            "psubscribe" => Kind::Subscribe(Subscription::Pattern, named),
            "ssubscribe" => Kind::Subscribe(Subscription::Shard, named),
            "unsubscribe" => Kind::Unsubscribe(Subscription::Channel, (named > 0).then_some(named)),
            "punsubscribe" => Kind::Unsubscribe(Subscription::Pattern, (named > 0).then_some(named)),
            "sunsubscribe" => Kind::Unsubscribe(Subscription::Shard, (named > 0).then_some(named)),
            _ => match path {
                Path::Local(Local::Reset) => Kind::Reset,
                Path::Local(Local::Quit) => Kind::Quit,
                Path::Local(Local::Select) => db_of(args).map_or(Kind::Plain, Kind::Select),
                Path::Local(Local::Hello) => {
                    Kind::Hello { version: Hello::parse(args).ok().and_then(|hello| hello.version), is_foreign: false }
                }
                Path::Pin(Pin::Client) if is_tracking_off(args) => Kind::TrackingOff,
                _ => Kind::Plain,
            },
        }
    }

    /// What the request starts or ends, as soon as it is sent: later requests depend on it.
    fn note(&mut self, path: Path, kind: &Kind, spec: &Spec, args: Args<'_>) {
        match kind {
            Kind::Exec | Kind::Discard => {
                self.is_multi = false;
                self.is_watching = false;
            }
            Kind::Quit => self.is_quitting = true,
            Kind::Reset => self.replies = Replies::On,
            Kind::Subscribe(..) | Kind::Unsubscribe(..) => self.is_subscribing = true,
            _ => {}
        }
        if self.is_multi {
            match path {
                Path::Local(Local::Select) => self.queued_db = db_of(args),
                Path::Local(Local::Hello) => {
                    self.queued_version = Hello::parse(args).ok().and_then(|hello| hello.version);
                }
                _ => {}
            }
        }
        match path {
            Path::Pin(Pin::Multi) => self.is_multi = true,
            Path::Pin(Pin::Watch) if !self.is_multi => self.is_watching = true,
            Path::Pin(Pin::Monitor) => {
                self.is_monitor = true;
                self.is_dirty = true;
            }
            Path::Pin(Pin::Stateful) => {
                self.is_stateful = true;
                self.is_dirty = true;
            }
            Path::Pin(Pin::Client) => self.client_setting(args),
            _ if &*spec.name == "unwatch" && !self.is_multi => self.is_watching = false,
            _ => {}
        }
    }

    fn client_setting(&mut self, args: Args<'_>) {
        self.is_dirty = true;
        let is = |i: usize, word: &[u8]| args.arg(i).eq_ignore_ascii_case(word);
        if is(1, b"reply") {
            if is(2, b"on") {
                self.replies = Replies::On;
            } else if is(2, b"off") {
                self.replies = Replies::Off;
            } else if is(2, b"skip") && self.replies == Replies::On {
                self.replies = Replies::SkipNext;
            }
        } else if is(1, b"tracking") {
            if is(2, b"on") {
                self.is_tracking = true;
            }
        } else {
            self.is_stateful = is(2, b"on") || self.is_stateful;
        }
    }

    /// `AUTH` and `HELLO … AUTH`. `None`: an ordinary `HELLO`.
    fn credentials(&mut self, worker: &Worker, client: &Client, which: Local, args: Args<'_>) -> Option<Forwarding> {
        let hello = match which {
            Local::Hello => Some(Hello::parse(args).ok()?),
            _ => None,
        };
        let (user, password) = match (&hello, args.len()) {
            (Some(hello), _) => hello.credentials?,
            (None, 2) => (&b"default"[..], args.arg(1)),
            (None, _) => (args.arg(1), args.arg(2)),
        };
        let is_own = match local::verify(worker, user, password) {
            local::Verdict::Own => true,
            local::Verdict::Foreign => false,
            local::Verdict::Wrong if self.waiting.is_empty() => {
                client.state.borrow_mut().error("WRONGPASS invalid username-password pair or user is disabled.");
                return Some(Forwarding::Answered);
            }
            local::Verdict::Wrong => return Some(Forwarding::Wait),
        };
        if worker.shared.config.auth != Auth::Upstream {
            // The password is the proxy's own; the server must not be asked about it.
            if !self.waiting.is_empty() {
                return Some(Forwarding::Wait);
            }
            client.state.borrow_mut().ok();
            return Some(Forwarding::Answered);
        }
        self.is_dirty |= !is_own;
        let kind = match hello {
            Some(hello) => Kind::Hello { version: hello.version, is_foreign: !is_own },
            None => Kind::Auth { is_own },
        };
        self.expect(kind, Touched::None, Touched::None, false);
        Some(Forwarding::Forward)
    }

    /// A complete frame has come from the server, `None` if it was too large to be held together (then it is no
    /// confirmation, push or status). Must be applied before the client can see its last byte.
    pub fn frame(&mut self, worker: &Worker, client: &Rc<Client>, frame: Option<&[u8]>) {
        if let Some(frame) = frame {
            if self.confirmation(frame) || frame.first() == Some(&b'>') || self.is_message(frame) {
                return;
            }
            if self.is_monitor && !matches!(self.waiting.front(), Some(Waiting { kind: Kind::Reset | Kind::Quit, .. })) {
                // Replies and monitored commands look alike; the state ends with RESET or the connection. What such a client
                // writes is voided now, and told by pushes in any case.
                for waiting in std::mem::take(&mut self.waiting) {
                    self.voids(worker, client, &waiting.read, &waiting.written);
                    if matches!(waiting.kind, Kind::Reset | Kind::Quit) {
                        self.waiting.push_back(waiting);
                    }
                }
                return;
            }
            if self.is_monitor && frame != b"+RESET\r\n" && frame != b"+OK\r\n" {
                return;
            }
        }
        let Some(waiting) = self.waiting.pop_front() else { return };
        let is_error = frame.is_some_and(reply::is_error);
        self.voids(worker, client, &waiting.read, &waiting.written);
        if self.has_silent && self.replies == Replies::On {
            let silent = std::mem::take(&mut self.silent).touched();
            self.has_silent = false;
            self.voids(worker, client, &silent, &silent);
        }
        match waiting.kind {
            Kind::Exec => {
                let read = std::mem::take(&mut self.queued_read).touched();
                let written = std::mem::take(&mut self.queued_written).touched();
                self.voids(worker, client, &read, &written);
                let (version, db) = (self.queued_version.take(), self.queued_db.take());
                let is_aborted = is_error || frame.is_some_and(|f| f.starts_with(b"_") || f.starts_with(b"*-1"));
                if !is_aborted {
                    version.into_iter().for_each(|version| set_version(client, version));
                    db.into_iter().for_each(|db| set_db(client, db));
                }
            }
            Kind::Discard => {
                self.queued_read = Hashes::default();
                self.queued_written = Hashes::default();
                self.queued_version = None;
                self.queued_db = None;
            }
            Kind::Select(db) if !is_error => set_db(client, db),
            Kind::Hello { version, is_foreign } if !is_error => {
                version.into_iter().for_each(|version| set_version(client, version));
                if is_foreign {
                    self.become_foreign(client);
                }
            }
            Kind::Auth { is_own: false } if !is_error => self.become_foreign(client),
            Kind::Auth { is_own: true } if !is_error => client.state.borrow_mut().access = ClientAccess::Own,
            Kind::Reset => {
                *self = Pinned { is_dirty: true, waiting: std::mem::take(&mut self.waiting), ..Pinned::default() };
                local::forget(worker, client);
            }
            Kind::TrackingOff if !is_error => self.is_tracking = false,
            _ => {}
        }
    }

    fn become_foreign(&mut self, client: &Client) {
        self.is_foreign = true;
        self.is_dirty = true;
        client.state.borrow_mut().access = ClientAccess::Foreign;
    }

    /// Replies of a pinned connection take away what any connection filled or fills.
    fn voids(&self, worker: &Worker, client: &Client, read: &Touched, written: &Touched) {
        let cache = &worker.shared.cache;
        read.hashes().iter().for_each(|&hash| cache.passed_by(LinkId::PINNED, hash));
        written.hashes().iter().for_each(|&hash| cache.acked(LinkId::PINNED, hash));
        if *written == Touched::All {
            worker.void_everything();
        }
        if *read == Touched::All {
            client.state.borrow_mut().floor_us = worker.now_us();
        }
    }

    /// Whether the frame confirms a subscription or its end; if so, it is counted.
    fn confirmation(&mut self, frame: &[u8]) -> bool {
        if !self.is_subscribing && !self.is_subscribed() || !matches!(frame.first(), Some(b'>' | b'*')) {
            return false;
        }
        let Some(mut parts) = reply::elements(frame) else { return false };
        let (subscription, is_start) = match parts.next().and_then(reply::text) {
            Some(b"subscribe") => (Subscription::Channel, true),
            Some(b"psubscribe") => (Subscription::Pattern, true),
            Some(b"ssubscribe") => (Subscription::Shard, true),
            Some(b"unsubscribe") => (Subscription::Channel, false),
            Some(b"punsubscribe") => (Subscription::Pattern, false),
            Some(b"sunsubscribe") => (Subscription::Shard, false),
            _ => return false,
        };
        let Some(count) = parts.nth(1).and_then(reply::integer) else { return false };
        let before = self.subscriptions(subscription);
        // The server counts channels and patterns together, and says so after each change.
        match subscription {
            Subscription::Channel => self.channels = count - self.patterns,
            Subscription::Pattern => self.patterns = count - self.channels,
            Subscription::Shard => self.shard_channels = count,
        }
        let is_done = match self.waiting.front_mut().map(|waiting| &mut waiting.kind) {
            Some(Kind::Subscribe(which, left)) if is_start && *which == subscription => {
                *left = left.saturating_sub(1);
                *left == 0
            }
            Some(Kind::Unsubscribe(which, left)) if !is_start && *which == subscription => {
                let left = left.get_or_insert(before.max(1) as usize);
                *left = left.saturating_sub(1);
                *left == 0
            }
            _ => false,
        };
        if is_done {
            self.waiting.pop_front();
            let more = |waiting: &Waiting| matches!(waiting.kind, Kind::Subscribe(..) | Kind::Unsubscribe(..));
            self.is_subscribing = self.waiting.iter().any(more);
        }
        true
    }

    fn subscriptions(&self, which: Subscription) -> i64 {
        match which {
            Subscription::Channel => self.channels,
            Subscription::Pattern => self.patterns,
            Subscription::Shard => self.shard_channels,
        }
    }

    /// RESP2 has no pushes: messages are arrays between the replies.
    fn is_message(&self, frame: &[u8]) -> bool {
        self.is_subscribed()
            && frame.first() == Some(&b'*')
            && reply::elements(frame)
                .and_then(|mut parts| parts.next().and_then(reply::text))
                .is_some_and(|kind| matches!(kind, b"message" | b"pmessage" | b"smessage"))
    }
}

/// Commands whose long arguments are values or members, never keys.
const LARGE_VALUES: [&str; 18] = [
    "set", "setex", "psetex", "setnx", "getset", "append", "setrange", "hset", "hmset", "hsetnx", "lpush", "rpush", "lpushx",
    "rpushx", "sadd", "zadd", "xadd", "restore",
];

fn db_of(args: Args<'_>) -> Option<u32> {
    std::str::from_utf8(args.arg(1)).ok()?.parse().ok()
}

/// `CLIENT REPLY OFF` and `SKIP`.
fn is_unanswered_reply_setting(args: Args<'_>) -> bool {
    args.arg(1).eq_ignore_ascii_case(b"reply")
        && (args.arg(2).eq_ignore_ascii_case(b"off") || args.arg(2).eq_ignore_ascii_case(b"skip"))
}

fn is_tracking_off(args: Args<'_>) -> bool {
    args.arg(1).eq_ignore_ascii_case(b"tracking") && args.arg(2).eq_ignore_ascii_case(b"off")
}

fn set_version(client: &Client, version: Version) {
    client.state.borrow_mut().version = version;
    client.meta.is_resp3.store(version == Version::Resp3, Relaxed);
}

fn set_db(client: &Client, db: u32) {
    client.state.borrow_mut().db = db;
    client.meta.db.store(db, Relaxed);
}
