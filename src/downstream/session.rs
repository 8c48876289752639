//! One client's session on the shared path: one read, decide what it brought, one write. A task of the client's worker.
//!
//! Requests are scanned where they were read, in a buffer that all sessions of the worker share; only what is incomplete
//! or has to wait is copied into the session's own. So an idle client costs no buffer.

use std::future::Future as _;
use std::io::IoSlice;
use std::rc::Rc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll};

use super::deep::Deep;
use super::pipe::{self, Ended};
use crate::clock;
use crate::net::{Stream, noted};
use crate::proxy::client::{Access, Client};
use crate::proxy::owed;
use crate::proxy::read::hits::{self, Answered, Most};
use crate::proxy::request::straight::Straight;
use crate::proxy::request::{self, Arrived, Reason, Road, Step};
use crate::proxy::worker::Worker;
use crate::resp::first::encode_inline;
use crate::resp::limits::{Limits, ProtocolError};
use crate::resp::request::{Args, Scan, Scanner, Span};
use crate::upstream::facts::Facts;

/// Replies that wait for the socket beyond which no further requests are taken, as long as the client takes replies.
pub const HIGH_WATER_BYTES: usize = 256 << 10;
/// One that has taken none for so long perhaps wants to send all its requests first: then more replies may wait, so many
/// times as many each time, up to this part of the budget of all buffers, of which such clients leave half to the others.
const STUCK_US: u64 = 100_000;
const STUCK_GROWTH: usize = 4;
const STUCK_PART: usize = 8;
/// Unread errors beyond which a client that has not authenticated is closed.
const UNAUTHENTICATED_OUTPUT_BYTES: usize = 64 << 10;
/// Reads in one turn before other clients of the worker get theirs; one that fills the buffer is the last.
const READS_A_TURN: usize = 4;

pub struct Session {
    pub worker: Rc<Worker>,
    pub client: Rc<Client>,
    pub stream: Stream,
    /// What was read and not yet dealt with: starts at the first byte of a request.
    pub input: Vec<u8>,
    /// Where the scan of that request is.
    pub scanner: Scanner,
    pub spans: Vec<Span>,
    /// A complete request in `input` has to wait.
    is_stalled: bool,
    /// Requests that it may still have decided in this turn.
    requests_left: u32,
    deep: Deep,
    /// The client has sent its last byte.
    pub is_ended: bool,
    /// Replies that may wait for the socket, if there is room for more than [`HIGH_WATER_BYTES`].
    high_water_bytes: usize,
    /// When the client was found to take no replies, or was last granted more for it (µs); `None`: it has taken some since.
    stuck_since_us: Option<u64>,
    /// The socket wakes this task once it has something to read.
    is_listening: bool,
}

enum Event {
    Closed,
    Pin(Reason),
}

/// How far the input was dealt with.
enum Status {
    NeedsMore,
    Stalled,
    Pin(Reason),
    Closing,
}

/// Serves the client until it is gone.
pub async fn serve(worker: Rc<Worker>, client: Rc<Client>, stream: Stream) {
    let mut session = Session {
        worker,
        client,
        stream,
        input: Vec::new(),
        scanner: Scanner::default(),
        spans: Vec::new(),
        is_stalled: false,
        requests_left: 0,
        deep: Deep::default(),
        is_ended: false,
        high_water_bytes: HIGH_WATER_BYTES,
        stuck_since_us: None,
        is_listening: false,
    };
    loop {
        match std::future::poll_fn(|cx| session.poll(cx)).await {
            Event::Closed => break,
            Event::Pin(reason) => match Box::pin(pipe::run(&mut session, reason)).await {
                Ended::Back => {
                    session.is_stalled = true;
                    // It has read from the socket, too.
                    session.is_listening = false;
                }
                Ended::Closed => break,
            },
        }
    }
    let is_within_budget = session.worker.account(&session.client, 0);
    debug_assert!(is_within_budget);
    session.client.state.borrow_mut().outbox = Default::default();
}

impl Session {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Event> {
        self.client.remember(cx);
        self.requests_left = self
            .deep
            .requests_a_turn(clock::now_us, |now_us| self.worker.is_polite_served(now_us));
        let mut is_last_read = false;
        for _ in 0..READS_A_TURN {
            if !self.is_quiet() {
                if self.client.meta.is_killed() || self.flush(cx).is_err() {
                    return Poll::Ready(Event::Closed);
                }
                if self.is_stalled {
                    let input = std::mem::take(&mut self.input);
                    if let Some(event) = self.take(input, None) {
                        return Poll::Ready(event);
                    }
                    let unread_bytes = self.unread_bytes();
                    if self.flush(cx).is_err() {
                        return Poll::Ready(Event::Closed);
                    }
                    // The socket took what the requests had to wait for, so nobody will wake this session for it.
                    if self.is_stalled && unread_bytes >= HIGH_WATER_BYTES && self.unread_bytes() < unread_bytes {
                        continue;
                    }
                }
                if !self.is_quiet() {
                    if !self.account() || self.is_finished() {
                        return Poll::Ready(Event::Closed);
                    }
                    if self.client.meta.is_called() && self.may_be_known() {
                        return Poll::Ready(Event::Pin(Reason::Called));
                    }
                }
            }
            if is_last_read || self.requests_left == 0 {
                break;
            }
            if self.is_stalled || self.is_ended || self.client.state.borrow().is_closing {
                if self.is_stalled && self.unread_bytes() >= HIGH_WATER_BYTES && self.wait_for_reader() {
                    continue;
                }
                return Poll::Pending;
            }
            if !self.may_read(cx) {
                return Poll::Pending;
            }
            let mut buffer = self.worker.take_read_buffer();
            let read = self.stream.poll_read_into(cx, &mut buffer);
            self.is_listening = read.is_pending() && noted();
            let event = match read {
                Poll::Pending => {
                    self.worker.return_read_buffer(buffer);
                    return Poll::Pending;
                }
                Poll::Ready(Err(_)) => Some(Event::Closed),
                Poll::Ready(Ok(0)) => {
                    self.is_ended = true;
                    None
                }
                Poll::Ready(Ok(n)) => {
                    is_last_read = n == buffer.len();
                    self.arrived(&buffer[..n])
                }
            };
            self.worker.return_read_buffer(buffer);
            if let Some(event) = event {
                return Poll::Ready(event);
            }
        }
        if self.requests_left == 0 {
            self.deep.used_up(clock::now_us());
        }
        // Not `wake_by_ref`: alone in the run queue, this task would be polled dozens of times before the runtime looks at
        // the sockets of others. A yield comes back behind what they have brought.
        let _ = std::pin::pin!(tokio::task::yield_now()).poll(cx);
        Poll::Pending
    }

    /// Whether nothing has to be looked at but the socket: there is nothing to write, to go on with or to book, and nobody
    /// wants anything of the session.
    #[inline]
    fn is_quiet(&self) -> bool {
        let client = &*self.client;
        if self.is_stalled
            || self.is_ended
            || !self.input.is_empty()
            || client.meta.is_killed()
            || client.meta.is_called()
            || !client.has_nothing_booked()
        {
            return false;
        }
        let state = client.state.borrow();
        state.outbox.holds_nothing() && !state.is_closing
    }

    /// Whether the socket has something to read, as far as is known; it wakes this task otherwise.
    #[inline]
    fn may_read(&mut self, cx: &mut Context<'_>) -> bool {
        let is_woken = self.client.is_woken.take();
        if self.is_listening {
            // Whom nobody else has woken the socket has.
            return !is_woken || self.stream.may_be_readable();
        }
        let is_pending = self.stream.poll_readable(cx).is_pending();
        self.is_listening = is_pending && noted();
        !is_pending
    }

    /// Whether a connection of its own can be had between two requests.
    fn may_be_known(&self) -> bool {
        let state = self.client.state.borrow();
        // Over such a connection the server would serve whoever has not shown a password.
        let is_own = state.access == Access::Own;
        is_own
            && self.input.is_empty()
            && !state.is_closing
            && state.outbox.is_all_answered()
            && !matches!(state.road, Road::Held { .. })
    }

    /// Replies that wait for the socket.
    fn unread_bytes(&self) -> usize {
        self.client.state.borrow_mut().outbox.ready().len()
    }

    /// From so many unread replies on no further requests are taken now. What was granted to many in one moment ends with the
    /// room for it.
    fn high_water_bytes(&self) -> usize {
        match self.high_water_bytes {
            granted if granted > HIGH_WATER_BYTES && !self.has_room() => HIGH_WATER_BYTES,
            granted => granted,
        }
    }

    /// Whether half of the budget of all buffers is free.
    fn has_room(&self) -> bool {
        let shared = &self.worker.shared;
        shared.buffered_bytes.load(Relaxed) < shared.config.clients.buffer_budget_bytes / 2
    }

    /// The client leaves its replies unread. Whether it has done so for long, and more of them may wait now; if not, and if it
    /// may come to that, it is looked at again later.
    #[cold]
    fn wait_for_reader(&mut self) -> bool {
        let now_us = self.worker.now_us();
        let limits = &self.worker.shared.config.clients;
        // What is under way behind them must not make it a client that is closed.
        let most = (limits.output_limit_bytes / 2).min(limits.buffer_budget_bytes / STUCK_PART);
        let is_used_up = self.unread_bytes() >= self.high_water_bytes;
        if is_used_up && self.high_water_bytes >= most {
            return false;
        }
        let since_us = *self.stuck_since_us.get_or_insert(now_us);
        if is_used_up && now_us.saturating_sub(since_us) >= STUCK_US && self.has_room() {
            self.stuck_since_us = Some(now_us);
            self.high_water_bytes = (self.high_water_bytes * STUCK_GROWTH).min(most);
            return true;
        }
        self.worker.look_later(&self.client);
        false
    }

    /// Nothing more will be sent to this client, or is wanted by it.
    fn is_finished(&self) -> bool {
        if !self.is_ended && !self.client.state.borrow().is_closing {
            return false;
        }
        let mut state = self.client.state.borrow_mut();
        // QUIT and protocol errors end the session with the replies that are due; so does a client that only listens.
        state.outbox.is_all_answered() && state.outbox.ready().is_empty() && (!self.is_stalled || state.is_closing)
    }

    fn arrived(&mut self, bytes: &[u8]) -> Option<Event> {
        self.worker.counters().bytes_in_total.add(bytes.len() as u64);
        if self.input.is_empty() {
            self.take(Vec::new(), Some(bytes))
        } else {
            let mut input = std::mem::take(&mut self.input);
            input.extend_from_slice(bytes);
            self.take(input, None)
        }
    }

    /// Deals with `fresh`, or with `held` if nothing is fresh, and keeps the rest.
    fn take(&mut self, mut held: Vec<u8>, fresh: Option<&[u8]>) -> Option<Event> {
        let started_us = clock::now_us();
        self.client.meta.active_us.store(started_us, Relaxed);
        let (consumed, status) = self.requests(fresh.unwrap_or(&held), started_us);
        match fresh {
            Some(fresh) => self.input.extend_from_slice(&fresh[consumed..]),
            None if consumed == held.len() => {}
            None => {
                held.drain(..consumed);
                self.input = held;
            }
        }
        self.is_stalled = false;
        if consumed > 0 {
            self.worker.served(started_us, self.deep.is_it());
        }
        match status {
            Status::NeedsMore => None,
            Status::Stalled => {
                self.is_stalled = true;
                None
            }
            Status::Closing => {
                self.input = Vec::new();
                None
            }
            Status::Pin(reason) => Some(Event::Pin(reason)),
        }
    }

    fn requests(&mut self, buf: &[u8], started_us: u64) -> (usize, Status) {
        let worker = Rc::clone(&self.worker);
        let facts = worker.facts();
        let most = worker.shared.config.clients.max_inflight_requests;
        let is_cache_used = worker.shared.config.cache.is_used();
        let hits_before = worker.counters().l1_hits_total.value();
        let high_water_bytes = self.high_water_bytes();
        worker.lend_buffer(self.client.state.borrow_mut().outbox.ready());
        let mut consumed = 0;
        let mut requests = 0;
        let mut straight: Option<Straight<'_>> = None;
        let status = loop {
            if self.scanner.is_at_start() {
                let rest = &buf[consumed..];
                let most = Most {
                    requests: self.requests_left,
                    ready_bytes: high_water_bytes,
                };
                let done = match &straight {
                    Some(straight) => straight.send_alike(&worker, &self.client, rest, started_us, most),
                    None if is_cache_used => hits::answer(&worker, &self.client, &facts, rest, started_us, most),
                    None => Answered::default(),
                };
                consumed += done.bytes;
                requests += u64::from(done.requests);
                self.requests_left -= done.requests;
            }
            let limits = {
                let mut state = self.client.state.borrow_mut();
                if state.is_closing {
                    break Status::Closing;
                }
                if consumed == buf.len() {
                    break Status::NeedsMore;
                }
                if self.requests_left == 0
                    || state.outbox.waiting() >= state.outbox.window(most)
                    || state.outbox.ready().len() >= high_water_bytes
                {
                    break Status::Stalled;
                }
                limits(state.access == Access::Unauthenticated)
            };
            let step = match self.scanner.scan(&buf[consumed..], limits, &mut self.spans) {
                Ok(Scan::Complete { len }) => {
                    let (raw, rest) = buf[consumed..].split_at(len);
                    let args = Args {
                        buf: raw,
                        spans: &self.spans,
                    };
                    requests += 1;
                    self.requests_left -= 1;
                    let arrived = Arrived {
                        args,
                        raw,
                        rest,
                        now_us: started_us,
                    };
                    let step = request::next(&worker, &self.client, &facts, arrived, &mut straight);
                    (len, step)
                }
                Ok(Scan::Inline { len, args }) => {
                    requests += 1;
                    self.requests_left -= 1;
                    straight = None;
                    (len, self.inline(&facts, &args, started_us))
                }
                Ok(Scan::Nothing { len }) => (len, Step::DONE),
                Ok(Scan::Incomplete { need }) => {
                    if need > worker.shared.config.clients.max_request_held_bytes as u64 {
                        match request::pin(&self.client, Reason::Large) {
                            Step::Pin(reason) => break Status::Pin(reason),
                            _ => break Status::Stalled,
                        }
                    }
                    break Status::NeedsMore;
                }
                Err(error) => {
                    self.refuse(&error);
                    consumed = buf.len();
                    break Status::Closing;
                }
            };
            self.spans.clear();
            match step {
                (len, Step::Done { also }) => consumed += len + also,
                (_, Step::Wait) => break Status::Stalled,
                (_, Step::Pin(reason)) => break Status::Pin(reason),
            }
        };
        let counters = worker.counters();
        counters.requests_total.add(requests);
        let hits = counters.l1_hits_total.value() - hits_before;
        if hits > 0 {
            counters.l1_durations.add_batch(clock::now_us() - started_us, hits);
        }
        (consumed, status)
    }

    fn inline(&mut self, facts: &Facts, args: &[Vec<u8>], now_us: u64) -> Step {
        let (raw, spans) = encode_inline(args);
        let args = Args {
            buf: &raw,
            spans: &spans,
        };
        request::handle(&self.worker, &self.client, facts, Arrived::alone(args, &raw, now_us))
    }

    /// A protocol error: told as Redis tells it, then the client is closed.
    pub fn refuse(&mut self, error: &ProtocolError) {
        self.worker.counters().clients_refused_total.add(1);
        let mut state = self.client.state.borrow_mut();
        if *error != ProtocolError::CrossProtocol {
            state.error([&b"ERR "[..], &error.text()].concat());
        } else {
            tracing::warn!(
                client = self.client.meta.address,
                "possible cross-protocol attack: a request starts with POST or Host:; closed"
            );
        }
        state.is_closing = true;
    }

    /// Writes what is ready until the socket takes no more.
    pub fn flush(&mut self, cx: &mut Context<'_>) -> std::io::Result<()> {
        let mut state = self.client.state.borrow_mut();
        if state.outbox.ready().is_empty() || !owed::may_be_answered(&self.worker, &state) {
            return Ok(());
        }
        let ready = state.outbox.ready();
        while !ready.is_empty() {
            let written = match ready.plain() {
                Some(plain) => self.stream.poll_write_some(cx, plain),
                None => {
                    let mut pieces = [IoSlice::new(&[]); 64];
                    let filled = ready.pieces(&mut pieces);
                    self.stream.poll_write_pieces(cx, &pieces[..filled])
                }
            };
            match written {
                Poll::Pending => return Ok(()),
                Poll::Ready(Ok(0)) => return Err(std::io::ErrorKind::WriteZero.into()),
                Poll::Ready(Ok(n)) => {
                    ready.advance(n);
                    self.stuck_since_us = None;
                    self.worker.counters().bytes_out_total.add(n as u64);
                }
                Poll::Ready(Err(e)) => return Err(e),
            }
        }
        self.worker.return_buffer(ready);
        self.high_water_bytes = HIGH_WATER_BYTES;
        Ok(())
    }

    /// Books what the client holds; false: it holds too much and is closed.
    pub fn account(&self) -> bool {
        let state = self.client.state.borrow();
        if state.outbox.holds_nothing() && self.input.is_empty() && self.client.has_nothing_booked() {
            return true;
        }
        let (held, charged) = state.outbox.held_bytes();
        let (input, limits) = (self.input.len(), &self.worker.shared.config.clients);
        let is_listening = state.listening.as_ref().is_some_and(|listening| listening.is_any());
        let is_stranger = state.access == Access::Unauthenticated;
        drop(state);
        // Redis gives a client that has not said who it is 1 KiB; here it may leave a socket's worth.
        if is_stranger && held > UNAUTHENTICATED_OUTPUT_BYTES {
            self.worker.counters().clients_refused_total.add(1);
            return false;
        }
        if is_listening && self.is_too_slow(held) {
            self.worker.counters().clients_refused_total.add(1);
            return false;
        }
        // What L1 or another client holds as well costs nothing here, however often it is to be written.
        if charged > limits.output_limit_bytes {
            tracing::warn!(
                client = self.client.meta.address,
                held,
                "closed: more unread replies than clients.output_limit"
            );
            self.worker.counters().clients_refused_total.add(1);
            return false;
        }
        if !self.worker.account(&self.client, charged + input) {
            tracing::warn!(
                client = self.client.meta.address,
                held = charged + input,
                "closed: the budget of all buffers (clients.buffer_budget) is used up"
            );
            self.worker.counters().clients_refused_total.add(1);
            return false;
        }
        true
    }

    /// Whether a client that listens leaves more unread than such a client may.
    fn is_too_slow(&self, held: usize) -> bool {
        let limits = &self.worker.shared.config.clients;
        let since_us = &self.client.over_soft_limit_since_us;
        if held <= limits.pubsub_output_soft_limit_bytes {
            since_us.set(0);
            return false;
        }
        let now_us = self.worker.now_us();
        if since_us.get() == 0 {
            since_us.set(now_us);
        }
        let for_us = u128::from(now_us - since_us.get());
        let limit = if held > limits.pubsub_output_limit_bytes {
            "clients.pubsub_output_limit"
        } else if for_us >= limits.pubsub_output_soft_time.as_micros() {
            "clients.pubsub_output_soft_limit for too long"
        } else {
            return false;
        };
        tracing::warn!(
            client = self.client.meta.address,
            held,
            "closed: more unread messages than {limit}"
        );
        true
    }
}

pub fn limits(is_unauthenticated: bool) -> &'static Limits {
    const OPEN: &Limits = &Limits::AUTHENTICATED;
    const UNAUTHENTICATED: &Limits = &Limits::UNAUTHENTICATED;
    if is_unauthenticated { UNAUTHENTICATED } else { OPEN }
}
