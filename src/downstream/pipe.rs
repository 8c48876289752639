//! A session while its client has an upstream connection of its own: both directions are forwarded as they are, with
//! back-pressure, until the state that needed the connection has ended. What the bytes mean is followed by
//! [`Pinned`]; nothing else is decided here.

mod lane;
mod place;
mod server_side;
mod target;

use std::future::Future as _;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep};

use lane::{Lane, Rest};
use place::{Again, KEPT_BYTES, Place, begin_held, connect, refuse, refuse_meanwhile};

use super::session::{HIGH_WATER_BYTES, Session, limits};
use crate::clock;
use crate::command::{Path, Pin as State, own};
use crate::proxy::client::Access;
use crate::proxy::pinned::{Forwarding, Pinned};
use crate::proxy::pubsub::{self, Gate};
use crate::proxy::request::{self, Arrived, Reason, Step};
use crate::resp::encode;
use crate::resp::first::encode_inline;
use crate::resp::limits::{Limits, ProtocolError};
use crate::resp::reply::FrameScanner;
use crate::resp::request::{Args, Scan};
use crate::resp::stream::Streamed;
use crate::upstream::dial::Target;
use crate::upstream::facts::Facts;
use crate::upstream::pool::Lent;

/// How the pinned part of a session has ended.
#[derive(Debug, PartialEq, Eq)]
pub enum Ended {
    /// The client is back on the shared path.
    Back,
    Closed,
}

/// Frames up to this size are looked at whole; larger ones are forwarded as they come.
const WHOLE_FRAME_BYTES: usize = 64 << 10;
/// Enough to tell a message from a reply.
const HEAD_BYTES: usize = 64;
/// Input that is read ahead while requests wait, so that the client's end is noticed.
const READ_AHEAD_BYTES: usize = 64 << 10;
const TURNS: usize = 4;
/// Bytes of the server's in one turn: carrying so many takes a worker about as long as two or three hits, and what it takes
/// others wait for.
const BYTES_A_TURN: usize = 32 << 10;
/// How soon that is noticed for a blocked client that has sent more.
const LOOK_PERIOD: Duration = Duration::from_millis(5);

/// Runs the client's requests over a connection of its own, the one at the start of `session.input` first.
pub async fn run(session: &mut Session, reason: Reason) -> Ended {
    let mut place = match &session.worker.cluster {
        None => Place::default(),
        Some(view) => match Place::of(session, view) {
            Ok(place) => place,
            Err(why) => return refuse(session, &reason, &why),
        },
    };
    loop {
        match over_one(session, &reason, &mut place).await {
            (_, Some(again)) => {
                let error = again.error();
                if !place.follow(session, again).await {
                    let mut state = session.client.state.borrow_mut();
                    state.error(error);
                    // What follows must not be executed outside of the transaction that was promised.
                    state.is_closing |= place.held_multi.is_some();
                    return Ended::Back;
                }
            }
            (ended, None) => return ended,
        }
    }
}

/// The same over one connection, until the end or until its node sends the first request elsewhere.
async fn over_one(session: &mut Session, reason: &Reason, place: &mut Place) -> (Ended, Option<Again>) {
    let (version, db) = {
        let state = session.client.state.borrow();
        (state.version, state.db)
    };
    let mut lane = match reason {
        Reason::Bulk | Reason::Large => match Lane::enter(session, reason).await {
            Ok(lane) => lane,
            Err(ended) => return (ended, None),
        },
        _ => None,
    };
    let db = (*reason != Reason::Anywhere).then_some(db);
    // A server that answers others is busy, or paused; one that answers nobody may never answer.
    let timeouts = &session.worker.shared.config.upstream_timeouts;
    let answer_within = match request::is_up(&session.worker, &session.client) {
        true => timeouts.read,
        false => session.worker.target.connect_timeout,
    };
    let Some(pool) = place.pool(session) else {
        return (
            refuse(session, reason, "ERR nearcache: the node is not known any more"),
            None,
        );
    };
    // Whoever has not shown a password may get a connection to have one judged, not to keep it: the server would take him for
    // the proxy.
    let is_own = session.client.state.borrow().access == Access::Own;
    let is_called = is_own && session.client.meta.is_called.swap(false, Relaxed);
    let taken = lane::kept_while(&mut lane, connect(session, &pool, (version, db), answer_within)).await;
    let mut lent = match taken {
        Ok(lent) => lent,
        // The one who has called hears from the server that nobody is there.
        Err(_) if *reason == Reason::Called => return (Ended::Back, None),
        Err(error) => {
            let meanwhile = error.server_state().and_then(|state| refuse_meanwhile(session, &state));
            let refused = || refuse(session, reason, &error.text(session, place));
            return (meanwhile.unwrap_or_else(refused), None);
        }
    };
    session.worker.counters().pinned_total.add(1);
    session.client.meta.upstream_id.store(lent.id, Relaxed);
    if *reason == Reason::State(State::Client) {
        // Two that name each other wait for each other's connection, not for each other.
        target::call(session).await;
    }
    let read_timeout = session.worker.shared.config.upstream_timeouts.read;
    let mut pinned = Pinned::default();
    if is_called {
        pinned.be_known();
    }
    let mut to_server = Vec::new();
    // Inside a transaction the server itself tells the name.
    let name = session.client.meta.words.lock().name.clone();
    if lent.name != name {
        encode::command(&mut to_server, [own::CLIENT, b"SETNAME", name.as_bytes()].into_iter());
        pinned.own_request();
        lent.name = name;
    }
    if std::mem::take(&mut place.is_asking) {
        to_server.extend_from_slice(own::ASKING_REQUEST);
        pinned.own_request();
    }
    place.held_multi = begin_held(session, &mut pinned, &mut to_server);
    pinned.slot = place.slot;
    let mut pipe = Pipe {
        lent,
        target: Rc::clone(pool.target()),
        lane,
        rest: Rest::default(),
        turn_bytes: 0,
        pinned,
        has_started: *reason == Reason::Called,
        is_stalled: true,
        to_server,
        written: 0,
        streamed: None,
        held: Vec::new(),
        frames: FrameScanner::default(),
        scanned: 0,
        is_streaming: false,
        streamed_bytes: 0,
        head: Box::default(),
        broken: None,
        kept: None,
        again: None,
        upstream: place.name(session),
        has_ended: false,
        is_lost: false,
        read_timeout,
        write_timeout: session.worker.shared.config.upstream_timeouts.write,
        timer: Box::pin(tokio::time::sleep(read_timeout)),
        look: Box::pin(tokio::time::sleep(LOOK_PERIOD)),
    };
    session.client.meta.is_pinned.store(true, Relaxed);
    let ended = std::future::poll_fn(|cx| pipe.poll(cx, session)).await;
    session.client.meta.is_pinned.store(false, Relaxed);
    session.client.meta.upstream_id.store(0, Relaxed);
    Pinned::default().publish(&session.client.meta);
    pipe.pinned.look_at_password(&session.worker);
    let Pipe {
        mut lent,
        pinned,
        held,
        again,
        ..
    } = pipe;
    if again.is_some() {
        // What else is on its way over this connection does not matter any more.
        return (ended, again);
    }
    if ended == Ended::Back && !pinned.is_dirty && held.is_empty() {
        let state = session.client.state.borrow();
        lent.version = state.version;
        if *reason != Reason::Anywhere {
            lent.db = state.db;
        }
        lent.name = session.client.meta.words.lock().name.clone();
        pool.give_back(lent);
    }
    (ended, None)
}

struct Pipe {
    lent: Lent,
    /// The node at its other end.
    target: Rc<Target>,
    /// The place of a large transfer, while it is fast.
    lane: Option<Lane>,
    /// A transfer's, for others.
    rest: Rest,
    /// Moved in this turn.
    turn_bytes: usize,
    pinned: Pinned,
    /// The request that asked for the connection was forwarded.
    has_started: bool,
    /// Requests in the session's input have not been looked at, or must wait.
    is_stalled: bool,
    to_server: Vec<u8>,
    written: usize,
    /// A request too large to hold is under way.
    streamed: Option<Streamed>,
    /// Bytes of the server that are not forwarded yet.
    held: Vec<u8>,
    frames: FrameScanner,
    scanned: usize,
    /// Part of a frame is forwarded already; its first bytes.
    is_streaming: bool,
    streamed_bytes: usize,
    head: Box<[u8]>,
    /// A protocol error that is told once everything before it is answered.
    broken: Option<ProtocolError>,
    /// The only request so far, to be sent to another node of a cluster if this one does not serve it.
    kept: Option<Vec<u8>>,
    again: Option<Again>,
    /// Where it leads, for people.
    upstream: String,
    /// The server has been told that nothing more comes.
    has_ended: bool,
    /// The server's end is gone.
    is_lost: bool,
    read_timeout: Duration,
    write_timeout: Duration,
    timer: Pin<Box<Sleep>>,
    /// When to look again whether a blocked client that is not read from is still there.
    look: Pin<Box<Sleep>>,
}

impl Pipe {
    fn turn(&mut self, cx: &mut Context<'_>, session: &mut Session) -> Poll<Ended> {
        self.turn_bytes = 0;
        for _ in 0..TURNS {
            if session.client.meta.is_killed() {
                return Poll::Ready(Ended::Closed);
            }
            if self.turn_bytes >= BYTES_A_TURN {
                break;
            }
            let mut has_progress = false;
            if self.is_stalled && !session.client.state.borrow().is_closing {
                let before = session.input.len();
                self.requests(session);
                has_progress |= session.input.len() != before;
            }
            if !self.is_lost {
                let served = self
                    .is_current(session)
                    .and_then(|()| self.write_server(cx).map_err(|e| e.to_string()));
                match served.and_then(|progress| Ok(progress | self.read_server(cx, session)?)) {
                    Ok(progress) => has_progress |= progress,
                    Err(why) => match self.server_lost(session, &why) {
                        Some(ended) => return Poll::Ready(ended),
                        None => has_progress = true,
                    },
                }
            }
            let is_sent = self.written == self.to_server.len() && !self.lent.stream.has_unsent();
            if is_sent && !self.has_ended && self.is_let_go(session) {
                self.end(session);
                has_progress = true;
            }
            let is_full =
                |session: &Session| session.client.state.borrow_mut().outbox.ready().len() >= HIGH_WATER_BYTES;
            let was_full = is_full(session);
            // Before the client knows: others may be asked what it is doing as soon as it does.
            self.pinned.publish(&session.client.meta);
            if session.flush(cx).is_err() || !session.account() {
                return Poll::Ready(Ended::Closed);
            }
            // The server was not read from while the client had too much to take.
            has_progress |= was_full && !is_full(session);
            if let Some(ended) = self.state(session) {
                return Poll::Ready(ended);
            }
            match self.read_client(cx, session) {
                Ok(progress) => has_progress |= progress,
                Err(()) => return Poll::Ready(Ended::Closed),
            }
            if !has_progress {
                return self.check_silence(cx, session);
            }
        }
        // After the others, and after what their sockets have brought meanwhile.
        let _ = std::pin::pin!(tokio::task::yield_now()).poll(cx);
        Poll::Pending
    }

    /// The client has sent its last byte, and nobody knows when the last reply will have come. The server hears of it behind the requests, as it would from the
    /// client itself: it answers what it has executed, and pops nothing more.
    fn end(&mut self, session: &mut Session) {
        self.has_ended = true;
        self.pinned.is_dirty = true;
        self.timer.as_mut().reset(Instant::now() + self.read_timeout);
        if self.lent.stream.end_writing().is_err() {
            session.client.state.borrow_mut().is_closing = true;
        }
    }

    fn moved(&mut self, bytes: usize) {
        self.turn_bytes += bytes;
        if let Some(lane) = &mut self.lane {
            lane.moved_bytes += bytes;
        }
    }

    /// Whether the pinned part is over.
    fn state(&mut self, session: &mut Session) -> Option<Ended> {
        if self.again.is_some() {
            return Some(Ended::Back);
        }
        if session.client.state.borrow().is_closing {
            // A drain lets the reply come that is due; a blocked client would wait for ever.
            let is_due = !self.is_lost && self.pinned.is_waiting() && !self.pinned.may_be_silent();
            let is_written = session.client.state.borrow_mut().outbox.ready().is_empty();
            return (is_written && !is_due).then_some(Ended::Closed);
        }
        if session.is_ended && self.streamed.is_some() && session.input.is_empty() {
            // It will never be whole.
            return Some(Ended::Closed);
        }
        let is_sent = self.written == self.to_server.len() && self.streamed.is_none();
        if self.has_started && is_sent && !self.is_streaming && self.broken.is_none() && self.pinned.is_over() {
            let is_own = session.client.state.borrow().access == Access::Own;
            if is_own && session.client.meta.is_called.swap(false, Relaxed) {
                // This connection is the one to which they go.
                self.pinned.be_known();
                return None;
            }
            return Some(Ended::Back);
        }
        if session.is_ended && is_sent && !self.is_stalled && !self.pinned.is_waiting() {
            session.client.state.borrow_mut().is_closing = true;
            return self.state(session);
        }
        None
    }

    /// Forwards complete requests from the session's input.
    fn requests(&mut self, session: &mut Session) {
        let worker = Rc::clone(&session.worker);
        let facts = worker.facts();
        let most = worker.shared.config.clients.max_inflight_requests;
        if self.broken.is_some() || self.pinned.is_quitting {
            // Nothing behind a protocol error or a QUIT is looked at.
            session.input = Vec::new();
        }
        let most_held = worker.shared.config.clients.max_request_held_bytes as u64;
        let input = std::mem::take(&mut session.input);
        let mut consumed = 0;
        self.is_stalled = false;
        loop {
            let rest = &input[consumed..];
            if let Some(streamed) = &mut self.streamed {
                if self.to_server.len() - self.written >= HIGH_WATER_BYTES {
                    self.is_stalled = !rest.is_empty();
                    break;
                }
                match streamed.advance(rest, &Limits::AUTHENTICATED) {
                    Ok((n, is_complete)) => {
                        self.to_server.extend_from_slice(&rest[..n]);
                        consumed += n;
                        if !is_complete {
                            break;
                        }
                        let args = streamed.args();
                        let spec = args
                            .first()
                            .and_then(Option::as_ref)
                            .and_then(|name| facts.table.find(name));
                        let is_complete = args.len() as u64 == streamed.args_total();
                        self.pinned
                            .large_request(&worker, &session.client, spec, args, is_complete);
                        self.streamed = None;
                        self.has_started = true;
                        continue;
                    }
                    Err(error) => {
                        self.broken = Some(error);
                        break;
                    }
                }
            }
            if rest.is_empty() {
                break;
            }
            let is_first = !self.has_started;
            if self.has_started && self.pinned.is_over()
                || self.pinned.waiting() >= most
                || self.to_server.len() - self.written >= HIGH_WATER_BYTES
            {
                self.is_stalled = true;
                break;
            }
            let is_unauthenticated = session.client.state.borrow().access == Access::Unauthenticated;
            let (len, raw) = match session
                .scanner
                .scan(rest, limits(is_unauthenticated), &mut session.spans)
            {
                Ok(Scan::Complete { len }) => (len, None),
                Ok(Scan::Inline { len, args }) => (len, Some(encode_inline(&args))),
                Ok(Scan::Nothing { len }) => {
                    if self.pinned.empty_request() {
                        self.to_server.extend_from_slice(&rest[..len]);
                    }
                    consumed += len;
                    session.spans.clear();
                    continue;
                }
                Ok(Scan::Incomplete { need }) if need > most_held => {
                    let is_answered = session.client.state.borrow().outbox.is_all_answered();
                    let is_alone = !self.pinned.is_sticky() || session.client.meta.is_subscribed();
                    if !is_answered || self.pinned.is_ending() || !is_first && self.pinned.is_waiting() && is_alone {
                        self.is_stalled = true;
                        break;
                    }
                    self.streamed = Some(Streamed::begin(session.scanner.clone(), rest, &session.spans));
                    self.to_server.extend_from_slice(rest);
                    consumed = input.len();
                    session.scanner.reset();
                    session.spans.clear();
                    break;
                }
                Ok(Scan::Incomplete { .. }) => break,
                Err(error) => {
                    self.broken = Some(error);
                    consumed = input.len();
                    break;
                }
            };
            let (raw, spans) = match &raw {
                None => (&rest[..len], &session.spans[..]),
                Some((raw, spans)) => (&raw[..], &spans[..]),
            };
            let args = Args { buf: raw, spans };
            let spec = facts.table.find(args.arg(0));
            // The server waits for the writes before the connection's last command, and the client's were on another one.
            let is_catching_up = self.pinned.takes_own_requests() && spec.is_some_and(|spec| spec.waits_for_writes());
            let forwarding = match self.aside(session, &facts, args, raw) {
                Some(forwarding) => forwarding,
                None => self.pinned.request(&worker, &session.client, spec, args),
            };
            let sent = match &forwarding {
                Forwarding::Forward => Some(raw),
                Forwarding::ForwardAs(request) => Some(&request[..]),
                Forwarding::Wait | Forwarding::Answered => None,
            };
            if let Some(raw) = sent {
                if is_catching_up {
                    self.pinned.own_request_before_last();
                    self.pinned.own_request_before_last();
                    self.to_server.extend_from_slice(own::CATCH_UP_REQUESTS);
                }
                self.to_server.extend_from_slice(raw);
                let may_be_kept = !self.has_started && worker.cluster.is_some() && raw.len() <= KEPT_BYTES;
                self.kept = may_be_kept.then(|| raw.to_vec());
                worker.counters().requests_total.add(1);
                self.timer.as_mut().reset(Instant::now() + self.write_timeout);
            }
            session.spans.clear();
            if forwarding == Forwarding::Wait {
                self.is_stalled = true;
                break;
            }
            self.has_started = true;
            consumed += len;
        }
        // The server would not look at it before it has answered what came earlier.
        if !self.pinned.is_waiting()
            && let Some(error) = self.broken.take()
        {
            match self.pinned.is_muted() {
                true => session.client.state.borrow_mut().is_closing = true,
                false => session.refuse(&error),
            }
        }
        session.input = input;
        if consumed == session.input.len() {
            session.input = Vec::new();
        } else {
            session.input.drain(..consumed);
        }
        self.is_stalled |= self.broken.is_some();
    }

    /// Deals with a request that is not this connection's affair: the proxy's own commands, and subscriptions, which the
    /// worker has for all its clients. `None`: it is.
    fn aside(&mut self, session: &Session, facts: &Facts, args: Args<'_>, raw: &[u8]) -> Option<Forwarding> {
        let (worker, client) = (&session.worker, &session.client);
        let spec = facts
            .table
            .find(args.arg(0))
            .filter(|spec| spec.is_arity_ok(args.len()));
        let path = spec.map(|spec| spec.path(args));
        let is_subscription = path == Some(Path::Pin(State::Subscribe));
        if !is_subscription && !client.state.borrow().outbox.is_all_answered() {
            return Some(Forwarding::Wait);
        }
        // Messages come from elsewhere: one at a time, so that they and the replies keep their order.
        if client.meta.is_subscribed() && self.pinned.is_waiting() {
            return Some(Forwarding::Wait);
        }
        let (spec, path) = (spec?, path?);
        client.meta.note(spec, args);
        let gate = pubsub::gate(&client.state.borrow(), spec, path, args);
        let is_aside = match &gate {
            Gate::Open => self.pinned.is_proxys_affair(client, spec, path, args),
            Gate::Wait => return Some(Forwarding::Wait),
            Gate::Refused(_) => true,
        };
        if !is_aside {
            // Replies to what came earlier are still due from elsewhere.
            let is_first = client.state.borrow().outbox.is_all_answered();
            return (!is_first).then_some(Forwarding::Wait);
        }
        if self.pinned.is_waiting() {
            return Some(Forwarding::Wait);
        }
        if let Gate::Refused(error) = gate {
            // The server, which does not hear of it, would have ended these too.
            if &*spec.name == "exec" && self.pinned.end_watches() {
                self.to_server.extend_from_slice(own::UNWATCH_REQUEST);
            }
            client.state.borrow_mut().error(error);
            return Some(Forwarding::Answered);
        }
        match request::handle(worker, client, facts, Arrived::alone(args, raw, clock::now_us())) {
            Step::Done { .. } => Some(Forwarding::Answered),
            Step::Wait => Some(Forwarding::Wait),
            Step::Pin(_) => None,
        }
    }

    fn read_client(&mut self, cx: &mut Context<'_>, session: &mut Session) -> Result<bool, ()> {
        if session.is_ended || session.client.state.borrow().is_closing {
            return Ok(false);
        }
        let most = if self.is_stalled { READ_AHEAD_BYTES } else { usize::MAX };
        if session.input.len() >= most || self.to_server.len() - self.written >= HIGH_WATER_BYTES {
            // Nothing is read, so the client's end has to be looked for: nothing must be popped for a client that is gone.
            if self.pinned.is_blocked() && self.look.as_mut().poll(cx).is_ready() {
                if session.stream.is_read_closed(cx) {
                    return Err(());
                }
                self.look.as_mut().reset(Instant::now() + LOOK_PERIOD);
                return Ok(true);
            }
            return Ok(false);
        }
        let mut buffer = session.worker.take_read_buffer();
        let read = session.stream.poll_read_into(cx, &mut buffer);
        let result = match read {
            Poll::Pending => Ok(false),
            Poll::Ready(Err(_)) => Err(()),
            Poll::Ready(Ok(0)) => {
                session.is_ended = true;
                Ok(true)
            }
            Poll::Ready(Ok(n)) => {
                session.worker.counters().bytes_in_total.add(n as u64);
                session.input.extend_from_slice(&buffer[..n]);
                if !self.is_stalled {
                    self.requests(session);
                }
                Ok(true)
            }
        };
        session.worker.return_read_buffer(buffer);
        result
    }
}
