//! A shared upstream connection: the requests of many clients, pipelined, their replies matched by order.
//!
//! One task on the worker's own thread reads, hands every frame to the [`Sink`] in stream order before it looks at
//! the next one, and writes what sessions have queued since its last turn in one go. Nothing here locks: sessions of
//! the same worker append to the queue directly. The queue is bounded in bytes ([`FULL_BYTES`]); a session that finds
//! it full waits until it is told.
//!
//! Life: connect (requests queue meanwhile, once after a loss or at the first use), pump, and at a loss everything
//! unanswered fails with the reason, but for what was not sent yet and for reads that may be sent again. While the upstream stays away, or its breaker is open, requests fail at once.

mod pump;
mod queue;
mod quickest;
mod send;

use std::cell::{Cell, RefCell};
use std::fmt;
use std::rc::Rc;
use std::task::Waker;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::time::Instant;

use queue::{Fate, Piece, Queue};
use quickest::Quickest;

use super::dial::{DialError, Greeting, Target, TrackingState};
use crate::clock;
use crate::command::own;
use crate::resp::reply::FrameScanner;

/// Unanswered bytes beyond which sessions have to wait.
pub const FULL_BYTES: usize = 32 << 20;
/// A frame from this size on is handed over by reference instead of being copied.
pub const SHARED_FRAME_BYTES: usize = 64 << 10;

/// What the connection's owner does with what arrives; called in stream order on the worker's thread.
pub trait Sink: 'static {
    /// What a request leaves behind to be matched with its reply.
    type Waiter;

    /// Comes before `up`: which node it is.
    fn reached(&self, _generation: u32) {}
    /// The handshake, begun at this time, is done; no request was sent yet.
    fn up(&self, tracking: &TrackingState, begun_us: u64);
    /// Bytes came off the socket at this time; what is in them follows.
    fn received(&self, now_us: u64);
    fn push(&self, frame: &[u8]);
    /// Whether an array is a message: over RESP2 pushes have no type of their own.
    fn is_message(&self, _array: &[u8]) -> bool {
        false
    }
    /// Whether a push is the reply that the oldest unanswered request waits for: a subscription's confirmation is.
    fn is_reply(&self, _oldest: &Self::Waiter, _push: &[u8]) -> bool {
        false
    }
    fn reply(&self, waiter: Self::Waiter, frame: Frame<'_>);
    /// All frames that were there are applied. `answered_us`: when the newest answered request was queued (0: none);
    /// `answers`: how many replies there were.
    fn batch_done(&self, answered_us: u64, answers: u64);
    /// The connection is gone: comes before the `failed` of everything that was unanswered.
    fn lost(&self);
    fn failed(&self, waiter: Self::Waiter, failure: &Failure);
    /// Comes before the `failed` of later requests: whether these, which were queued together and are now lost, are to be sent
    /// on the next connection, and so wait on. At most once for what was sent.
    fn may_go_again(&self, _lost: &[Self::Waiter], _was_sent: bool) -> bool {
        false
    }
    /// What may go again is taken over by another connection; its time has run since `begun_us`.
    ///
    /// # Errors
    /// It is not: who waits for it.
    fn goes_elsewhere(
        &self,
        _requests: &[u8],
        _begun_us: u64,
        waiters: Vec<Self::Waiter>,
    ) -> Result<(), Vec<Self::Waiter>> {
        Err(waiters)
    }
    /// Whether the server refuses by this error what another one would serve: the connection is given up, and the request that
    /// it answers with it.
    fn is_refusal(&self, _error: &[u8]) -> bool {
        false
    }
    /// Whether it carries scripts, which may answer with any error.
    fn carries_scripts(&self) -> bool {
        false
    }
    /// The deadline of a request has passed. A reply may come all the same, or its failure.
    fn expired(&self, _waiter: &mut Self::Waiter) {}
    /// The request that only asks whether the link still answers, if it is not a PING.
    fn probe_request(&self) -> Option<Vec<u8>> {
        None
    }
    /// Its waiter, sent at this time.
    fn probe(&self, now_us: u64) -> Self::Waiter;
}

/// One complete reply.
pub struct Frame<'a> {
    pub bytes: &'a [u8],
    /// The same bytes by reference, for frames of [`SHARED_FRAME_BYTES`] and more.
    pub shared: Option<Bytes>,
}

/// Why a request got no reply.
#[derive(Clone, Debug)]
pub enum Failure {
    /// It was never sent.
    Unavailable(String),
    /// The same, since the server serves nobody now; its own error.
    Refused(String),
    /// It may have been executed.
    Lost(String),
}

impl Failure {
    fn of(error: &DialError) -> Failure {
        match error.server_state() {
            Some(state) => Failure::Refused(state),
            None => Failure::Unavailable(error.to_string()),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Unavailable(why) | Failure::Refused(why) | Failure::Lost(why) => f.write_str(why),
        }
    }
}

pub struct Connection<S: Sink> {
    pub sink: S,
    target: Rc<Target>,
    greeting: Greeting,
    timeouts: Timeouts,
    queue: RefCell<Queue<S::Waiter>>,
    phase: RefCell<Phase>,
    waker: RefCell<Option<Waker>>,
    /// The task has been woken and has not run since.
    is_woken: Cell<bool>,
    /// Sessions that found the queue full.
    blocked: RefCell<Vec<Waker>>,
    /// The pump ends with this.
    doomed: RefCell<Option<Ending>>,
    tracking: Cell<bool>,
    /// Of the node to which it leads, or led last.
    generation: Cell<u32>,
    /// Until when the server may rightly be silent.
    pub patient_until_us: Cell<u64>,
    quickest: Cell<Quickest>,
}

/// How long a shared connection waits.
#[derive(Clone, Copy, Debug)]
pub struct Timeouts {
    /// For bytes, while a reply is owed.
    pub read: Duration,
    /// For the upstream to take bytes.
    pub write: Duration,
    /// For the reply to a request, whatever else is answered meanwhile.
    pub request: Duration,
    /// For the answers of the handshake while another connection to the node is up, which then says how silent it may be.
    pub greet: Duration,
    /// Between attempts to connect: the first pause, and the longest.
    pub back_off: (Duration, Duration),
    /// Between calls of `tick`.
    pub tick: Duration,
}

impl Timeouts {
    /// Silence that would pass the read timeout before the next tick could see it: nobody is to wait longer than that.
    fn read_at_tick_us(&self) -> u64 {
        self.read.saturating_sub(self.tick).as_micros() as u64
    }
}

/// What has arrived and is not applied yet: starts at the first byte of a frame.
#[derive(Default)]
pub struct Input {
    pub bytes: BytesMut,
    frames: FrameScanner,
    scanned: usize,
}

/// Why a connection is over.
struct Ending {
    why: String,
    /// Since when the node has not done what it should (µs), if that is the reason.
    failed_since_us: Option<u64>,
}

impl Ending {
    /// By nobody's fault, as far as is known: a server may close what a client has caused.
    fn of(why: impl Into<String>) -> Ending {
        Ending {
            why: why.into(),
            failed_since_us: None,
        }
    }
}

enum Phase {
    /// Requests are queued and sent once the connection is there.
    Connecting,
    Up,
    Down(Failure),
}

impl<S: Sink> Connection<S> {
    pub fn new(target: Rc<Target>, greeting: Greeting, timeouts: Timeouts, sink: S) -> Self {
        Connection {
            sink,
            target,
            greeting,
            timeouts,
            queue: RefCell::new(Queue::new()),
            phase: RefCell::new(Phase::Connecting),
            waker: RefCell::new(None),
            is_woken: Cell::new(false),
            blocked: RefCell::new(Vec::new()),
            doomed: RefCell::new(None),
            tracking: Cell::new(false),
            generation: Cell::new(0),
            patient_until_us: Cell::new(0),
            quickest: Cell::new(Quickest::UNKNOWN),
        }
    }

    /// Whether requests are taken, and if not, why.
    pub fn availability(&self) -> Result<(), Failure> {
        if let Some(cut) = self.target.breaker().cut() {
            return Err(Failure::of(&DialError::Cut(cut)));
        }
        match &*self.phase.borrow() {
            Phase::Down(failure) => Err(failure.clone()),
            _ => Ok(()),
        }
    }

    /// Whether it takes requests and has room for one: nothing else need be asked before `send`.
    #[inline]
    pub fn is_open(&self) -> bool {
        self.is_taking() && !self.target.breaker().is_cut() && !self.is_full()
    }

    /// Whether the server cannot be asked on it now: there is no connection, or the breaker is open.
    pub fn is_away(&self) -> bool {
        !self.is_up() || self.target.breaker().is_cut()
    }

    /// Whether its node has answered anybody for so long before now.
    pub fn has_answered_within(&self, length: Duration) -> bool {
        self.target.breaker().has_answered_within(length, clock::now_us())
    }

    /// Nobody runs it any more, and nothing is unanswered: it takes nothing from now on.
    pub fn retire(&self, why: &str) {
        *self.phase.borrow_mut() = Phase::Down(Failure::Unavailable(why.to_owned()));
    }

    pub fn is_taking(&self) -> bool {
        !matches!(*self.phase.borrow(), Phase::Down(_))
    }

    /// The node to which it leads, as it is shown to people.
    pub fn node(&self) -> String {
        self.target.node()
    }

    pub fn is_up(&self) -> bool {
        matches!(*self.phase.borrow(), Phase::Up)
    }

    /// Whether the server sends invalidations for what this connection reads.
    pub fn is_tracking(&self) -> bool {
        self.tracking.get()
    }

    /// Whether sessions have to wait before they send more.
    pub fn is_full(&self) -> bool {
        self.queue.borrow().is_full()
    }

    /// Whether requests wait on it whose deadline has passed.
    pub fn is_overdue(&self) -> bool {
        self.queue.borrow().is_overdue()
    }

    /// Wakes this session when there is room again, or when none is to be expected.
    pub fn wake_when_room(&self, waker: Waker) {
        self.blocked.borrow_mut().push(waker);
    }

    /// When the oldest unanswered request was queued.
    pub fn oldest_unanswered_us(&self) -> Option<u64> {
        self.queue.borrow().oldest_us()
    }

    pub fn unanswered(&self) -> usize {
        self.queue.borrow().len()
    }

    /// Called some times within the staleness bound: asks a quiet link whether it still answers, and gives up one that
    /// has been silent for the read timeout.
    pub fn tick(&self, now_us: u64, probe_after: Duration) {
        self.expire(now_us);
        if !self.is_up() {
            return;
        }
        let queue = self.queue.borrow();
        let silent_since_us = queue.silent_since_us.max(self.patient_until_us.get());
        let silent = !queue.is_empty() && now_us.saturating_sub(silent_since_us) >= self.timeouts.read_at_tick_us();
        let stuck_since_us = queue.stuck_since_us;
        let stuck =
            stuck_since_us > 0 && now_us.saturating_sub(stuck_since_us) >= self.timeouts.write.as_micros() as u64;
        let quiet = queue.is_empty() && now_us.saturating_sub(queue.last_sent_us) >= probe_after.as_micros() as u64;
        let is_unsent = !queue.is_written();
        drop(queue);
        if silent {
            let why = format!(
                "no answer within the read timeout of {} ms",
                self.timeouts.read.as_millis()
            );
            self.give_up(why, silent_since_us);
        } else if stuck {
            let why = format!(
                "it took no data within the write timeout of {} ms",
                self.timeouts.write.as_millis()
            );
            self.give_up(why, stuck_since_us);
        } else if quiet {
            let request = self.sink.probe_request();
            let request = request.as_deref().unwrap_or(own::PING_REQUEST);
            self.send(request, now_us, self.sink.probe(now_us));
        } else if is_unsent {
            // It may have been held back for an answer that does not come.
            self.wake();
        }
    }

    /// Tells those whose deadline has passed.
    fn expire(&self, now_us: u64) {
        let request_us = self.timeouts.request.as_micros() as u64;
        let before_us = now_us.saturating_sub(request_us);
        if before_us <= self.patient_until_us.get() {
            return;
        }
        let (mut late, mut since_us) = (0, 0);
        let mut queue = self.queue.borrow_mut();
        queue.each_late(before_us, |begun_us, waiter| {
            self.sink.expired(waiter);
            late += 1;
            since_us = begun_us;
        });
        drop(queue);
        if late > 0 {
            tracing::warn!(upstream = %self.target.node(), db = self.greeting.db, requests = late, "not answered within the request timeout");
            // Unless it has answered others meanwhile.
            let why = format!(
                "no answer within the request timeout of {} ms",
                self.timeouts.request.as_millis()
            );
            self.target.failed(self.generation.get(), since_us, &why);
            self.sink.batch_done(0, 0);
            self.unblock();
        }
    }

    /// The upstream is another node from this generation on: ends the connection if it leads to an earlier one.
    pub fn leave_before(&self, generation: u32, why: &str) {
        if self.is_up() && self.generation.get() < generation {
            self.hang_up(why.to_owned());
        }
    }

    /// Ends the connection; it is built anew.
    pub fn hang_up(&self, why: String) {
        self.doom(why, None);
    }

    /// The same by the fault of the node, which has failed since this time.
    fn give_up(&self, why: String, since_us: u64) {
        self.doom(why, Some(since_us));
    }

    fn doom(&self, why: String, failed_since_us: Option<u64>) {
        *self.doomed.borrow_mut() = Some(Ending { why, failed_since_us });
        self.wake();
    }

    /// The connection's task: never ends by itself.
    pub async fn run(self: Rc<Self>) {
        let mut failures: u32 = 0;
        // Connections in a row that came up and did not last.
        let mut losses: u32 = 0;
        loop {
            let (begun_us, known) = (clock::now_us(), self.target.generation());
            match self.target.open_for_clients(self.greeting_now()).await {
                Ok((stream, greeted)) => {
                    let generation = greeted.generation;
                    failures = 0;
                    self.generation.set(generation);
                    self.sink.reached(generation);
                    self.begin(&greeted.tracking, begun_us);
                    let up = Instant::now();
                    // One for scripts may be silent for ever, and says nothing about the others.
                    let counted = (!self.sink.carries_scripts()).then(|| self.target.breaker().connected());
                    let Ending { why, failed_since_us } = self.pump(stream).await;
                    drop(counted);
                    tracing::warn!(upstream = %self.target.node(), db = self.greeting.db, reason = %why, "upstream connection lost");
                    self.target.doubt();
                    if let Some(since_us) = failed_since_us {
                        self.target.failed(generation, since_us, &why);
                    }
                    self.end(why.clone());
                    drop(greeted);
                    if up.elapsed() > self.timeouts.back_off.1 || self.target.generation() != generation {
                        losses = 0;
                    }
                    // The first loss is mended at once. A server that greets and hangs up, again and again, is not to be
                    // dialled without a pause; requests wait meanwhile, if no longer than for a connection.
                    if losses > 0 {
                        let pause = self.pause(losses);
                        if pause > self.target.connect_timeout {
                            self.go_down(Failure::Unavailable(why));
                        }
                        self.target.pause(pause, generation).await;
                    }
                    losses = losses.saturating_add(1);
                }
                Err(error @ DialError::Cut(_)) => {
                    self.go_down(Failure::of(&error));
                    self.target.closed(known).await;
                    (failures, losses) = (0, 0);
                    // Requests wait for the connection again.
                    *self.phase.borrow_mut() = Phase::Connecting;
                }
                Err(error) => {
                    failures = failures.saturating_add(1);
                    if failures == 1 {
                        tracing::error!(upstream = %self.target.node(), db = self.greeting.db, %error, "upstream is unavailable");
                    }
                    self.go_down(Failure::of(&error));
                    if self.target.pause(self.pause(failures), known).await {
                        failures = 0;
                    }
                }
            }
        }
    }

    fn greeting_now(&self) -> Greeting {
        let mut greeting = self.greeting.clone();
        if self.target.breaker().is_connected() {
            greeting.answer_within = greeting.answer_within.max(self.timeouts.greet);
        }
        greeting
    }

    /// The handshake, begun at this time (µs), is done. With `end`, `arrived` and `take_unsent` this is what the task does
    /// but for the I/O, so that a test can be the server.
    pub fn begin(&self, tracking: &TrackingState, begun_us: u64) {
        self.tracking.set(*tracking == TrackingState::On);
        *self.doomed.borrow_mut() = None;
        self.quickest.set(Quickest::UNKNOWN);
        self.sink.up(tracking, begun_us);
        *self.phase.borrow_mut() = Phase::Up;
        self.requests_start_now();
    }

    /// The stream is gone, with everything that was unanswered.
    pub fn end(&self, why: String) {
        self.tracking.set(false);
        *self.phase.borrow_mut() = Phase::Connecting;
        self.sink.lost();
        let failure = Failure::Lost(why);
        let lost = self.queue.borrow_mut().pieces();
        for piece in lost {
            let goes_again = match piece.fate {
                _ if piece.is_expired() => false,
                Fate::Unsent => self.sink.may_go_again(&piece.waiters, false),
                Fate::Sent => self.sink.may_go_again(&piece.waiters, true),
                Fate::SentAgain => false,
            };
            if goes_again {
                self.pass_on(piece);
            } else {
                piece
                    .waiters
                    .into_iter()
                    .for_each(|waiter| self.sink.failed(waiter, &failure));
            }
        }
        self.sink.batch_done(0, 0);
        self.unblock();
    }

    /// Bytes were appended to the input at this time: every frame that is complete is applied.
    ///
    /// # Errors
    /// Why the connection must be given up.
    pub fn arrived(&self, input: &mut Input, now_us: u64) -> Result<(), String> {
        self.queue.borrow_mut().silent_since_us = now_us;
        self.sink.received(now_us);
        self.take_frames(input, now_us)
    }

    /// Everything that is queued and not yet written, which passes for written from now on.
    pub fn take_unsent(&self) -> Vec<u8> {
        self.queue.borrow_mut().take_unsent()
    }

    /// When the oldest unanswered request was queued (µs), and who waits for it.
    pub fn next_waiter(&self) -> Option<(u64, S::Waiter)> {
        self.queue.borrow_mut().pop()
    }

    fn is_reply(&self, push: &[u8]) -> bool {
        let queue = self.queue.borrow();
        queue.oldest().is_some_and(|waiter| self.sink.is_reply(waiter, push))
    }

    fn requests_start_now(&self) {
        let now_us = clock::now_us();
        let mut queue = self.queue.borrow_mut();
        queue.silent_since_us = now_us;
        queue.stuck_since_us = 0;
    }

    fn go_down(&self, failure: Failure) {
        *self.phase.borrow_mut() = Phase::Down(failure.clone());
        self.hand_over();
        self.fail_all(&failure);
    }

    /// Not up: what waits for a connection goes elsewhere, as far as the sink knows where.
    pub fn hand_over(&self) {
        let waiting = self.queue.borrow_mut().pieces();
        waiting.into_iter().for_each(|piece| self.pass_on(piece));
        self.unblock();
    }

    /// A piece that may go again goes elsewhere, or to the next connection.
    fn pass_on(&self, piece: Piece<S::Waiter>) {
        let left = piece.hand_over(|bytes, begun_us, waiters| self.sink.goes_elsewhere(bytes, begun_us, waiters));
        if let Some(piece) = left {
            self.queue.borrow_mut().put_back(piece);
        }
    }

    /// Whether it is not up, and there is no node any more to which it could lead.
    pub fn leads_nowhere(&self) -> bool {
        !self.is_up() && self.target.endpoint().is_none()
    }

    /// Doubling from the smaller to the larger bound, each with up to half of it taken off at random, so that many
    /// proxies do not come back in one wave.
    fn pause(&self, failures: u32) -> Duration {
        let (least, most) = self.timeouts.back_off;
        let full = least.saturating_mul(1 << (failures - 1).min(16)).min(most);
        full.mul_f64(0.5 + 0.5 * fastrand::f64())
    }

    fn fail_all(&self, failure: &Failure) {
        let unanswered = self.queue.borrow_mut().clear();
        unanswered.for_each(|waiter| self.sink.failed(waiter, failure));
        self.sink.batch_done(0, 0);
        self.unblock();
    }

    fn unblock(&self) {
        self.blocked.borrow_mut().drain(..).for_each(Waker::wake);
    }
}

#[cfg(test)]
mod tests;
