//! A client with an upstream connection of its own: what its requests and the replies to them mean for how long it keeps
//! the connection, and for L1. Pure: bytes are carried by the session.
//!
//! Both directions are forwarded as they are. Requests are still parsed, since what they write must be voided before the
//! client sees the acknowledgement. A state begins and ends with the server's reply, never with the request: only the
//! server knows whether a `MULTI`, an `EXEC` or a `SELECT` did what it says. Until that reply has come the client keeps the
//! connection.

mod answers;
mod ids;
mod kind;

use std::collections::VecDeque;
use std::sync::Arc;

pub use ids::target;
use kind::{Kind, LARGE_VALUES, Waiting, kind, word};

use super::client::{Access as ClientAccess, Client};
use super::cluster::{self, Aim};
use super::local::{self, Hello};
use super::password;
use super::request::touched;
use super::subscriptions::Subscriptions;
use super::transaction::Hashes;
use super::worker::Worker;
use crate::command::{Access, Local, Path, Pin, Spec};
use crate::config::Auth;
use crate::resp::Version;
use crate::resp::request::{Args, Span};

#[derive(Default)]
pub struct Pinned {
    waiting: VecDeque<Waiting>,
    is_multi: bool,
    /// What the open transaction has queued, in order.
    queued: Vec<Waiting>,
    is_watching: bool,
    is_tracking: bool,
    /// Counted as a monitor: held for as long as it is one.
    monitor: Option<Arc<()>>,
    /// Settings that end with the connection: another user, what nobody here knows, …
    is_settled: bool,
    /// Those that others see and that the client may turn off: bits of `ClientMeta::NO_EVICT` and its neighbour.
    marks: u8,
    /// Replies and other frames can no longer be told apart (`MONITOR`; a subscription inside a transaction; a state begun
    /// without a reply): kept until `RESET` or the end.
    is_opaque: bool,
    /// Of a transaction of which nobody can tell when it is executed, and whose `EXEC` may have fewer elements than it says: what
    /// it touches, and whatever comes behind it until `RESET`.
    unsure: Option<Hashes>,
    replies: Replies,
    subscriptions: Subscriptions,
    /// What commands without a reply have touched.
    silent: Hashes,
    has_silent: bool,
    /// A password was given to the server, and nobody will say whether it has taken it.
    has_silent_password: bool,
    /// The connection is not as it was taken.
    pub is_dirty: bool,
    pub is_quitting: bool,
    /// The client has sent a `QUIT` that is not answered.
    has_silent_quit: bool,
    /// Of a cluster: that of the keys by which its node was found.
    pub slot: Option<u16>,
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
    /// Too large to be held together: its first bytes, and how many it had.
    Large {
        head: &'a [u8],
        len: usize,
        /// What came last.
        tail: &'a [u8],
    },
}

/// What becomes of a frame of the server.
#[derive(Debug, PartialEq, Eq)]
pub enum Relay {
    Forward,
    /// This goes in its place.
    Replace(Vec<u8>),
    /// It answers a request of the proxy's own.
    Swallow,
}

/// What becomes of a request of a pinned client.
#[derive(Debug, PartialEq, Eq)]
pub enum Forwarding {
    Forward,
    /// As this request.
    ForwardAs(Vec<u8>),
    /// Not before the earlier ones are answered.
    Wait,
    /// The proxy has written the answer itself; nothing else waits.
    Answered,
}

/// Whether the first argument of a command with long ones is its key.
pub fn has_key_first(spec: &Spec) -> bool {
    LARGE_VALUES.contains(&&*spec.name)
}

impl Pinned {
    /// The client needs to be known to the server by this connection.
    pub fn be_known(&mut self) {
        self.is_settled = true;
        self.is_dirty = true;
    }

    /// Whether the state that needs the connection goes on, or may have begun.
    pub fn is_sticky(&self) -> bool {
        self.is_multi
            || self.is_watching
            || self.is_tracking
            || self.is_settled
            || self.marks != 0
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

    /// Whether this, of which there is more to come, may never be whole: an array that lacks elements.
    pub fn may_stay_in_part(&self, frame: &[u8]) -> bool {
        self.unsure.is_some() && frame.first() == Some(&b'*')
    }

    /// Whether what comes next is not answered, an error neither.
    pub fn is_muted(&self) -> bool {
        self.replies != Replies::On
    }

    /// A request of no arguments, which nobody answers; whether the server has to know: to it, it is the one to skip.
    pub fn empty_request(&mut self) -> bool {
        let is_skipped = self.replies == Replies::SkipNext;
        if is_skipped {
            self.replies = Replies::On;
        }
        is_skipped
    }

    /// Whether every request gets one reply now.
    pub fn is_plain(&self) -> bool {
        !self.is_multi
            && !self.is_opaque
            && self.replies == Replies::On
            && !self.waiting.iter().any(|waiting| waiting.kind.may_begin_a_state())
    }

    /// The same, also for a request that the proxy puts in between.
    pub fn takes_own_requests(&self) -> bool {
        self.is_plain() && !self.subscriptions.is_any()
    }

    /// Whether the server judges what the client may do.
    fn is_foreign(&self, client: &Client) -> bool {
        client.state.borrow().access == ClientAccess::Foreign
    }

    /// Whether the proxy answers this itself, as it does for other clients.
    pub fn is_proxys_affair(&self, client: &Client, spec: &Spec, path: Path, args: Args<'_>) -> bool {
        const CLIENTS: [&[u8]; 6] = [b"id", b"info", b"list", b"kill", b"unblock", b"setinfo"];
        let is_restricted = self.subscriptions.is_any() && client.state.borrow().version == Version::Resp2;
        if !self.is_plain() || self.is_foreign(client) || is_restricted {
            return false;
        }
        match path {
            Path::Local(Local::Client) => CLIENTS.iter().any(|sub| args.arg(1).eq_ignore_ascii_case(sub)),
            Path::Local(Local::Info | Local::Nearcache) => true,
            // Its form depends on the subscriptions.
            Path::Local(Local::Ping) => client.meta.is_subscribed(),
            // What has begun on this connection goes on here.
            Path::Pin(Pin::Subscribe) => !self.subscriptions.is_any(),
            Path::Shared => spec.counts_listeners() && !self.subscriptions.is_any(),
            _ => false,
        }
    }

    pub fn is_waiting(&self) -> bool {
        self.waiting() > 0
    }

    /// Requests of the client that are not answered.
    pub fn waiting(&self) -> usize {
        let is_own = |waiting: &&Waiting| matches!(waiting.kind, Kind::Own | Kind::HeldMulti);
        self.waiting.iter().filter(|waiting| !is_own(waiting)).count()
    }

    /// Whether the server may rightly be silent for long.
    pub fn may_be_silent(&self) -> bool {
        self.waiting.is_empty() || self.is_blocked() || self.is_opaque && !self.is_ending()
    }

    /// Whether a client that has sent its last byte is to be let go by the server, since no reply may ever come, or nobody
    /// could tell which it is.
    pub fn is_open_ended(&self) -> bool {
        self.is_opaque || self.is_blocked()
    }

    /// Whether the client has quit and gets nothing more. A server closes such a connection when it has written the last reply,
    /// and one that has none to write leaves it open.
    pub fn has_left(&self) -> bool {
        self.has_silent_quit && self.waiting.is_empty() && !self.is_opaque
    }

    /// Whether what is under way ends the state by which the next request would be judged.
    pub fn is_ending(&self) -> bool {
        let is_ending = |waiting: &Waiting| match waiting.kind {
            Kind::Reset | Kind::Quit => true,
            // Where a message overtakes it, it may have no reply: see `credentials`.
            Kind::Auth { .. } | Kind::Hello { .. } => !self.is_opaque,
            _ => false,
        };
        self.waiting.iter().any(is_ending)
    }

    /// The server may take its time: a client that has gone meanwhile must not be served any more.
    pub fn is_blocked(&self) -> bool {
        self.waiting.iter().any(|waiting| waiting.is_blocking)
    }

    /// The proxy sends a request of its own.
    pub fn own_request(&mut self) {
        self.expect(Waiting::of(Kind::Own));
    }

    /// The proxy sends a `MULTI` that it has answered already.
    pub fn held_multi(&mut self) {
        self.expect(Waiting::of(Kind::HeldMulti));
    }

    /// What was sent without a reply to come is executed, or never will be.
    pub fn look_at_password(&mut self, worker: &Worker) {
        if std::mem::take(&mut self.has_silent_password) {
            password::look(worker);
        }
    }

    /// Whether the next reply is one that the client waits for.
    pub fn is_answer_to_client(&self) -> bool {
        let next = self.waiting.front().map(|waiting| &waiting.kind);
        !self.is_opaque && next.is_some_and(|kind| !matches!(kind, Kind::Own | Kind::HeldMulti))
    }

    /// The proxy sends a request of its own in front of the client's last one.
    pub fn own_request_before_last(&mut self) {
        let last = self.waiting.len().saturating_sub(1);
        self.waiting.insert(last, Waiting::of(Kind::Own));
    }

    /// The proxy is about to send an `UNWATCH` of its own; `false`: there is nothing to end.
    pub fn end_watches(&mut self) -> bool {
        let has_watched = std::mem::take(&mut self.is_watching);
        if has_watched {
            self.own_request();
        }
        has_watched
    }

    /// Judges a complete request that is about to be forwarded.
    pub fn request(&mut self, worker: &Worker, client: &Client, spec: Option<&Spec>, args: Args<'_>) -> Forwarding {
        // One request on a connection that is not kept: the next belongs to another path. And what is sent behind a RESET
        // or QUIT must not be judged by the state that these end.
        if self.is_waiting() && (!self.is_sticky() || self.is_ending()) {
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
                let is_resp2 = client.state.borrow().version == Version::Resp2;
                let may_listen =
                    |waiting: &Waiting| matches!(waiting.kind, Kind::Subscribe(..) | Kind::Unsubscribe(..));
                if is_resp2 && !self.is_opaque && self.waiting.iter().any(may_listen) {
                    return Forwarding::Wait;
                }
                match is_resp2 && self.subscriptions.is_any() {
                    // The server refuses it to whoever listens.
                    true => self.expect(waiting),
                    false => self.reply_setting(args),
                }
                return Forwarding::Forward;
            }
            _ => {}
        }
        waiting.kind = kind(spec, path, args);
        let mut forwarding = Forwarding::Forward;
        if matches!(waiting.kind, Kind::TrackingOn { .. } | Kind::TrackingOff)
            && let Some((id, request)) = ids::redirection(worker, client, args)
        {
            if let Kind::TrackingOn { redirect } = &mut waiting.kind {
                *redirect = Some(id);
            }
            forwarding = Forwarding::ForwardAs(request);
        }
        match spec.access {
            Access::Read => waiting.read = touched(worker, spec, args),
            Access::Write => waiting.written = touched(worker, spec, args),
            Access::None => {}
        }
        if worker.cluster.is_some()
            && let Aim::Slot(slot) = cluster::aim(spec, args)
        {
            waiting.slot = Some(slot);
            // The transaction may have begun with what names no key.
            self.slot.get_or_insert(slot);
        }
        waiting.is_blocking = path == Path::Pin(Pin::Blocking) || worker.shared.pause.is_on(worker.now_us());
        match waiting.kind {
            Kind::Quit => self.is_quitting = true,
            Kind::Requirepass(ref password) => password::hear(worker, password),
            // Nobody will say that it was executed.
            Kind::Reset if self.replies == Replies::SkipNext => local::forget(worker, client),
            _ => {}
        }
        self.expect(waiting);
        forwarding
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
        let are_keys_known = is_whole || spec.is_some_and(has_key_first);
        match spec {
            Some(spec) if are_keys_known && matches!(spec.path(args), Path::Shared) => {
                if spec.access == Access::Write {
                    for &hash in touched(worker, spec, args).hashes() {
                        worker.remember_large(Some(hash));
                    }
                }
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
            // RESET switches replies on before it answers, unless its own is the one to skip.
            (Replies::Off, Kind::Reset) | (Replies::On, _) => false,
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
        self.has_silent_password |= matches!(waiting.kind, Kind::Requirepass(_));
        self.has_silent_quit |= waiting.kind == Kind::Quit;
        if waiting.kind == Kind::Multi {
            self.unsure.get_or_insert_default();
        }
        if !matches!(waiting.kind, Kind::Plain | Kind::Quit) {
            self.be_opaque();
        }
    }

    fn be_opaque(&mut self) {
        self.is_opaque = true;
        self.is_dirty = true;
        if self.will_be_multi() {
            let unsure = self.unsure.get_or_insert_default();
            for queued in self.queued.drain(..) {
                unsure.add(&queued.read);
                unsure.add(&queued.written);
            }
        }
    }

    fn reply_setting(&mut self, args: Args<'_>) {
        self.is_dirty = true;
        let is = |word: &[u8]| args.len() == 3 && args.arg(2).eq_ignore_ascii_case(word);
        let plain = Waiting::of(Kind::Plain);
        if !(is(b"on") || is(b"off") || is(b"skip")) {
            self.expect(plain);
        } else if self.will_be_multi() {
            // Queued in a transaction it takes effect somewhere within the reply of EXEC.
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
            self.replies = Replies::On;
            self.expect(plain);
        }
    }

    /// Whether a transaction is open once everything is answered, if nothing fails.
    fn will_be_multi(&self) -> bool {
        let mut turns = self.waiting.iter().rev().filter_map(|waiting| match waiting.kind {
            Kind::Multi | Kind::HeldMulti => Some(true),
            Kind::Exec | Kind::Discard | Kind::Reset => Some(false),
            _ => None,
        });
        turns.next().unwrap_or(self.is_multi)
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
        // Redis from 7.2 on and Valkey 8 do not answer a wrong password while other replies wait to be sent: the next reply
        // would be taken for its own.
        if !self.waiting.is_empty() && !self.is_opaque {
            return Some(Forwarding::Wait);
        }
        if self.is_multi {
            self.be_opaque();
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
}
