//! A client with an upstream connection of its own: what its requests and the replies to them mean for how long it keeps
//! the connection, and for L1. Pure: bytes are carried by the session.
//!
//! Both directions are forwarded as they are. Requests are still parsed, since what they write must be voided before the
//! client sees the acknowledgement. A state begins and ends with the server's reply, never with the request: only the
//! server knows whether a `MULTI`, an `EXEC` or a `SELECT` did what it says. Until that reply has come the client keeps the
//! connection.

mod kind;

use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::atomic::Ordering::Relaxed;

use kind::{Kind, LARGE_VALUES, Waiting, kind, word};

use super::client::{Access as ClientAccess, Client};
use super::local::{self, Hello};
use super::outbox::Touched;
use super::request::touched;
use super::subscriptions::Subscriptions;
use super::transaction::Hashes;
use super::worker::Worker;
use crate::cache::LinkId;
use crate::command::{Access, Local, Path, Pin, Spec};
use crate::config::Auth;
use crate::resp::Version;
use crate::resp::reply;
use crate::resp::request::{Args, Span};

#[derive(Default)]
pub struct Pinned {
    waiting: VecDeque<Waiting>,
    is_multi: bool,
    /// What the open transaction has queued, in order.
    queued: Vec<Waiting>,
    is_watching: bool,
    is_tracking: bool,
    /// Settings that end with the connection: no-evict, another user, …
    is_settled: bool,
    /// Replies and other frames can no longer be told apart (`MONITOR`; a subscription inside a transaction; a state begun
    /// without a reply): kept until `RESET` or the end.
    is_opaque: bool,
    replies: Replies,
    subscriptions: Subscriptions,
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

/// A frame of the server.
#[derive(Clone, Copy, Debug)]
pub enum Frame<'a> {
    Whole(&'a [u8]),
    /// Too large to be held together: its first bytes.
    Large {
        head: &'a [u8],
    },
}

/// What becomes of a frame of the server.
#[derive(Debug, PartialEq, Eq)]
pub enum Relay {
    Forward,
    /// It answers a request of the proxy's own.
    Swallow,
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
    /// Whether the state that needs the connection goes on, or may have begun.
    pub fn is_sticky(&self) -> bool {
        self.is_multi
            || self.is_watching
            || self.is_tracking
            || self.is_settled
            || self.is_opaque
            || self.subscriptions.is_any()
            || self.replies != Replies::On
            || self.has_silent
            || self
                .waiting
                .iter()
                .any(|waiting| waiting.silent.is_some() || waiting.kind.may_begin_a_state())
    }

    /// Whether the connection can be given back.
    pub fn is_over(&self) -> bool {
        self.waiting.is_empty() && !self.is_sticky()
    }

    /// Whether every request gets one reply now.
    pub fn is_plain(&self) -> bool {
        !self.is_multi
            && !self.is_opaque
            && self.replies == Replies::On
            && !self.waiting.iter().any(|waiting| waiting.kind.may_begin_a_state())
    }

    /// Whether what the client subscribes to is this connection's affair: it begins in a transaction, without replies, or
    /// where others have begun.
    pub fn has_own_subscriptions(&self) -> bool {
        self.is_multi
            || self.is_opaque
            || self.replies != Replies::On
            || self.subscriptions.is_any()
            || self.waiting.iter().any(|waiting| waiting.kind.may_begin_a_state())
    }

    pub fn is_waiting(&self) -> bool {
        self.waiting() > 0
    }

    /// Requests of the client that are not answered.
    pub fn waiting(&self) -> usize {
        self.waiting.iter().filter(|waiting| waiting.kind != Kind::Own).count()
    }

    /// Whether the server may rightly be silent for long.
    pub fn may_be_silent(&self) -> bool {
        self.waiting.is_empty() || self.is_opaque || self.is_blocked()
    }

    /// The server may take its time: a client that has gone meanwhile must not be served any more.
    pub fn is_blocked(&self) -> bool {
        self.waiting.iter().any(|waiting| waiting.is_blocking)
    }

    /// The proxy sends a request of its own.
    pub fn own_request(&mut self) {
        self.expect(Waiting::of(Kind::Own));
    }

    /// The proxy sends a request of its own in front of the client's last one.
    pub fn own_request_before_last(&mut self) {
        let last = self.waiting.len().saturating_sub(1);
        self.waiting.insert(last, Waiting::of(Kind::Own));
    }

    /// Judges a complete request that is about to be forwarded.
    pub fn request(&mut self, worker: &Worker, client: &Client, spec: Option<&Spec>, args: Args<'_>) -> Forwarding {
        // One request on a connection that is not kept: the next belongs to another path. And what is sent behind a RESET
        // or QUIT must not be judged by the state that these end.
        let is_ending = |waiting: &Waiting| matches!(waiting.kind, Kind::Reset | Kind::Quit);
        if self.is_waiting() && (!self.is_sticky() || self.waiting.iter().any(is_ending)) {
            return Forwarding::Wait;
        }
        let Some(spec) = spec else {
            self.is_dirty = true;
            self.expect(Waiting::anything());
            return Forwarding::Forward;
        };
        let mut waiting = Waiting::of(Kind::Plain);
        if !spec.is_arity_ok(args.len()) {
            // Refused by the server; only an EXEC ends its transaction all the same.
            if &*spec.name == "exec" {
                waiting.kind = Kind::Exec;
            }
            self.expect(waiting);
            return Forwarding::Forward;
        }
        let path = spec.path(args);
        match path {
            Path::Refused(_) if self.is_waiting() => return Forwarding::Wait,
            Path::Refused(error) => {
                client.state.borrow_mut().error(error);
                return Forwarding::Answered;
            }
            Path::Local(which @ (Local::Auth | Local::Hello)) => {
                if let Some(forwarding) = self.credentials(worker, client, which, args) {
                    return forwarding;
                }
            }
            Path::Pin(Pin::Client) if args.arg(1).eq_ignore_ascii_case(b"reply") => {
                self.reply_setting(args);
                return Forwarding::Forward;
            }
            _ => {}
        }
        waiting.kind = kind(spec, path, args);
        match spec.access {
            Access::Read => waiting.read = touched(worker, spec, args),
            Access::Write => waiting.written = touched(worker, spec, args),
            Access::None => {}
        }
        waiting.is_blocking = path == Path::Pin(Pin::Blocking);
        if waiting.kind == Kind::Quit {
            self.is_quitting = true;
        }
        self.expect(waiting);
        Forwarding::Forward
    }

    /// A request too large to hold, of which the arguments that were kept are known (`None`: not kept), and whether
    /// these are all.
    pub fn large_request(
        &mut self,
        worker: &Worker,
        client: &Client,
        spec: Option<&Spec>,
        args: &[Option<Vec<u8>>],
        is_complete: bool,
    ) {
        let mut buf = Vec::new();
        let mut spans = Vec::with_capacity(args.len());
        let mut is_whole = is_complete;
        for arg in args {
            let start = buf.len() as u32;
            match arg {
                Some(arg) => buf.extend_from_slice(arg),
                None => is_whole = false,
            }
            spans.push(Span {
                start,
                end: buf.len() as u32,
            });
        }
        let args = Args {
            buf: &buf,
            spans: &spans,
        };
        // A value that was not kept is no key, for all commands whose keys stand before their values.
        let are_keys_known = is_whole || spec.is_some_and(|spec| LARGE_VALUES.contains(&&*spec.name));
        match spec {
            Some(spec) if are_keys_known && matches!(spec.path(args), Path::Shared) => {
                let _ = self.request(worker, client, Some(spec), args);
            }
            // Nobody subscribes or authenticates with a megabyte; whoever tries keeps the connection.
            spec => {
                if spec.is_none_or(|spec| !matches!(spec.path(args), Path::Shared | Path::Side)) {
                    self.be_opaque();
                }
                self.is_dirty = true;
                self.expect(Waiting::anything());
            }
        }
    }

    fn expect(&mut self, mut waiting: Waiting) {
        let is_silent = match (self.replies, &waiting.kind) {
            // RESET switches replies on before it answers.
            (_, Kind::Reset) | (Replies::On, _) => false,
            (Replies::Off, _) => true,
            (Replies::SkipNext, _) => {
                self.replies = Replies::On;
                true
            }
        };
        if !is_silent {
            if std::mem::take(&mut self.has_silent) {
                waiting.silent = Some(std::mem::take(&mut self.silent).touched());
            }
            self.waiting.push_back(waiting);
            return;
        }
        self.silent.add(&waiting.read);
        self.silent.add(&waiting.written);
        self.has_silent = true;
        if !matches!(waiting.kind, Kind::Plain | Kind::Quit) {
            self.be_opaque();
        }
    }

    fn be_opaque(&mut self) {
        self.is_opaque = true;
        self.is_dirty = true;
    }

    fn reply_setting(&mut self, args: Args<'_>) {
        self.is_dirty = true;
        let is = |word: &[u8]| args.len() == 3 && args.arg(2).eq_ignore_ascii_case(word);
        let plain = Waiting::of(Kind::Plain);
        // Queued in a transaction it takes effect somewhere within the reply of EXEC.
        if self.is_multi || self.waiting.iter().any(|waiting| waiting.kind == Kind::Multi) {
            self.expect(plain);
            self.be_opaque();
        } else if is(b"off") {
            self.replies = Replies::Off;
            self.has_silent = true;
        } else if is(b"skip") {
            if self.replies == Replies::On {
                self.replies = Replies::SkipNext;
            }
            self.has_silent = true;
        } else {
            if is(b"on") {
                self.replies = Replies::On;
            }
            self.expect(plain);
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
            local::Verdict::Wrong if self.is_waiting() => return Some(Forwarding::Wait),
            local::Verdict::Wrong => {
                client.state.borrow_mut().error(local::WRONG_PASSWORD);
                return Some(Forwarding::Answered);
            }
        };
        if worker.shared.config.auth != Auth::Upstream {
            // The password is the proxy's own; the server must not be asked about it.
            if self.is_waiting() {
                return Some(Forwarding::Wait);
            }
            client.state.borrow_mut().ok();
            return Some(Forwarding::Answered);
        }
        self.is_dirty |= !is_own;
        let kind = match hello {
            Some(hello) => Kind::Hello {
                version: hello.version,
                name: hello.name.map(word),
                is_foreign: !is_own,
            },
            None => Kind::Auth { is_own },
        };
        self.expect(Waiting::of(kind));
        Some(Forwarding::Forward)
    }

    /// A complete frame has come from the server. Must be applied before the client can see its last byte.
    pub fn frame(&mut self, worker: &Worker, client: &Rc<Client>, frame: Frame<'_>) -> Relay {
        let frame = match frame {
            Frame::Whole(frame) => Some(frame),
            // Confirmations and statuses are never that large, messages may be.
            Frame::Large { head } if head.first() == Some(&b'>') || self.subscriptions.is_large_message(head) => {
                return Relay::Forward;
            }
            Frame::Large { .. } => None,
        };
        if self.is_opaque {
            self.opaque_frame(worker, client, frame);
            return Relay::Forward;
        }
        if let Some(frame) = frame
            && (self.confirmation(frame) || frame.first() == Some(&b'>') || self.subscriptions.is_message(frame))
        {
            return Relay::Forward;
        }
        let Some(waiting) = self.waiting.pop_front() else {
            return Relay::Forward;
        };
        if waiting.kind == Kind::Own {
            return Relay::Swallow;
        }
        self.voids(worker, client, &waiting.read, &waiting.written);
        if let Some(silent) = &waiting.silent {
            self.voids(worker, client, silent, silent);
        }
        if self.is_multi && frame == Some(b"+QUEUED\r\n") {
            self.queued.push(waiting);
        } else {
            self.answered(worker, client, waiting.kind, frame);
        }
        Relay::Forward
    }

    /// The server has executed (or refused) a command; `frame` is its reply, an element of a transaction's too.
    fn answered(&mut self, worker: &Worker, client: &Rc<Client>, kind: Kind, frame: Option<&[u8]>) {
        let is_error = frame.is_some_and(reply::is_error);
        match kind {
            Kind::Exec => self.executed(worker, client, frame),
            _ if is_error => {}
            Kind::Multi => self.is_multi = true,
            Kind::Discard => self.end_transaction(),
            Kind::Watch => self.is_watching = true,
            Kind::Unwatch => self.is_watching = false,
            // Inside a transaction, where the confirmations are no frames of their own.
            Kind::Subscribe(..) | Kind::Unsubscribe(..) | Kind::Monitor => self.be_opaque(),
            Kind::TrackingOn => {
                self.is_tracking = true;
                self.is_dirty = true;
            }
            Kind::TrackingOff => self.is_tracking = false,
            Kind::Setting => {
                self.is_settled = true;
                self.is_dirty = true;
            }
            Kind::Select(db) => {
                client.state.borrow_mut().db = db;
                client.meta.db.store(db, Relaxed);
            }
            Kind::SetName(name) => client.meta.words.lock().name = name,
            Kind::Hello {
                version,
                name,
                is_foreign,
            } => {
                if let Some(name) = name {
                    client.meta.words.lock().name = name;
                }
                if let Some(version) = version {
                    client.state.borrow_mut().version = version;
                    client.meta.is_resp3.store(version == Version::Resp3, Relaxed);
                }
                if is_foreign {
                    self.become_foreign(client);
                }
            }
            Kind::Auth { is_own: false } => self.become_foreign(client),
            Kind::Auth { is_own: true } => client.state.borrow_mut().access = ClientAccess::Own,
            Kind::Reset => {
                *self = Pinned {
                    is_dirty: true,
                    waiting: std::mem::take(&mut self.waiting),
                    ..Pinned::default()
                };
                local::forget(worker, client);
            }
            Kind::Plain | Kind::Quit | Kind::Own => {}
        }
    }

    fn executed(&mut self, worker: &Worker, client: &Rc<Client>, frame: Option<&[u8]>) {
        match frame {
            // Without a transaction nothing ends, a watch neither.
            Some([b'-', rest @ ..]) if !rest.starts_with(b"EXECABORT") => {}
            Some([b'-', ..] | [b'_', ..] | [b'*', b'-', ..]) => self.end_transaction(),
            _ => {
                let queued = std::mem::take(&mut self.queued);
                self.end_transaction();
                let mut elements = frame.and_then(reply::elements);
                for Waiting {
                    kind, read, written, ..
                } in queued
                {
                    self.voids(worker, client, &read, &written);
                    let element = elements.as_mut().and_then(Iterator::next);
                    if element.is_none() && kind != Kind::Plain {
                        // Too large to be looked at: what it did to the connection is not known.
                        self.be_opaque();
                    }
                    self.answered(worker, client, kind, element);
                }
            }
        }
    }

    fn end_transaction(&mut self) {
        self.is_multi = false;
        self.is_watching = false;
        self.queued.clear();
    }

    fn become_foreign(&mut self, client: &Client) {
        self.is_settled = true;
        self.is_dirty = true;
        client.state.borrow_mut().access = ClientAccess::Foreign;
    }

    /// Nobody can say which request a frame answers. What such a client writes is voided with the next frame, and told by
    /// pushes in any case. A `RESET` ends the state.
    fn opaque_frame(&mut self, worker: &Worker, client: &Rc<Client>, frame: Option<&[u8]>) {
        let has_reset = self.waiting.iter().any(|waiting| waiting.kind == Kind::Reset);
        if has_reset && frame == Some(b"+RESET\r\n") {
            while let Some(waiting) = self.waiting.pop_front() {
                if waiting.kind == Kind::Reset {
                    break;
                }
            }
            self.answered(worker, client, Kind::Reset, frame);
            return;
        }
        for waiting in std::mem::take(&mut self.waiting) {
            self.voids(worker, client, &waiting.read, &waiting.written);
            if has_reset {
                self.waiting.push_back(Waiting::of(waiting.kind));
            }
        }
    }

    /// Replies of a pinned connection take away what any connection filled or fills.
    fn voids(&self, worker: &Worker, client: &Client, read: &Touched, written: &Touched) {
        let cache = &worker.shared.cache;
        read.hashes()
            .iter()
            .for_each(|&hash| cache.passed_by(LinkId::PINNED, hash));
        written
            .hashes()
            .iter()
            .for_each(|&hash| cache.acked(LinkId::PINNED, hash));
        if *written == Touched::All {
            worker.void_everything();
        }
        if *read == Touched::All {
            client.state.borrow_mut().floor_us = worker.now_us();
        }
    }

    /// Whether the frame confirms a subscription or its end; if so, it is counted.
    fn confirmation(&mut self, frame: &[u8]) -> bool {
        let is_expected = |waiting: &Waiting| matches!(waiting.kind, Kind::Subscribe(..) | Kind::Unsubscribe(..));
        if !self.subscriptions.is_any() && !self.waiting.iter().any(is_expected) {
            return false;
        }
        let Some(confirmed) = self.subscriptions.confirm(frame) else {
            return false;
        };
        let is_done = match self.waiting.front_mut().map(|waiting| &mut waiting.kind) {
            Some(Kind::Subscribe(which, left)) if confirmed.is_start && *which == confirmed.which => {
                *left = left.saturating_sub(1);
                *left == 0
            }
            Some(Kind::Unsubscribe(which, left)) if !confirmed.is_start && *which == confirmed.which => {
                let left = left.get_or_insert(confirmed.before.max(1));
                *left = left.saturating_sub(1);
                *left == 0
            }
            _ => false,
        };
        if is_done {
            self.waiting.pop_front();
        }
        true
    }
}
