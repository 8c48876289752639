//! A shared upstream connection: the requests of many clients, pipelined, their replies matched by order.
//!
//! One task on the worker's own thread reads, hands every frame to the [`Sink`] in stream order before it looks at
//! the next one, and writes what sessions have queued since its last turn in one go. Nothing here locks: sessions of
//! the same worker append to the queue directly. The queue is bounded in bytes ([`FULL_BYTES`]); a session that finds
//! it full waits until it is told.
//!
//! Life: connect (requests queue meanwhile, once after a loss or at the first use), pump, and at a loss everything
//! unanswered fails with the reason. While the upstream stays away requests fail at once.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::fmt;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use tokio::time::Instant;

use super::dial::{Greeted, Greeting, Target, TrackingState};
use crate::clock;
use crate::net::Stream;
use crate::resp::reply::FrameScanner;

/// Unsent bytes beyond which sessions have to wait.
pub const FULL_BYTES: usize = 32 << 20;
/// A frame from this size on is handed over by reference instead of being copied.
pub const SHARED_FRAME_BYTES: usize = 64 << 10;

const READ_BYTES: usize = 64 << 10;
/// Reads in one turn before other tasks of the worker get theirs.
const READS_A_TURN: usize = 8;

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
    /// Set by `hang_up`: the pump ends with this reason.
    doomed: RefCell<Option<String>>,
    tracking: Cell<bool>,
    /// Of the node to which it leads, or led last.
    generation: Cell<u32>,
    /// Until when the server may rightly be silent.
    pub patient_until_us: Cell<u64>,
}

/// How long a shared connection waits.
#[derive(Clone, Copy, Debug)]
pub struct Timeouts {
    /// For bytes, while a reply is owed.
    pub read: Duration,
    /// For the upstream to take bytes.
    pub write: Duration,
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

struct Queue<W> {
    out: Vec<u8>,
    written: usize,
    /// When bytes were last written, or queued behind nothing.
    stuck_since_us: u64,
    /// When each was queued (µs), and who waits.
    waiters: VecDeque<(u64, W)>,
    last_sent_us: u64,
    /// When bytes last arrived, or the first unanswered request was queued, whichever is later.
    silent_since_us: u64,
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
            queue: RefCell::new(Queue {
                out: Vec::new(),
                written: 0,
                stuck_since_us: 0,
                waiters: VecDeque::new(),
                last_sent_us: 0,
                silent_since_us: 0,
            }),
            phase: RefCell::new(Phase::Connecting),
            waker: RefCell::new(None),
            is_woken: Cell::new(false),
            blocked: RefCell::new(Vec::new()),
            doomed: RefCell::new(None),
            tracking: Cell::new(false),
            generation: Cell::new(0),
            patient_until_us: Cell::new(0),
        }
    }

    /// Whether requests are taken, and if not, why.
    pub fn availability(&self) -> Result<(), Failure> {
        match &*self.phase.borrow() {
            Phase::Down(failure) => Err(failure.clone()),
            _ => Ok(()),
        }
    }

    pub fn is_taking(&self) -> bool {
        !matches!(*self.phase.borrow(), Phase::Down(_))
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
        let queue = self.queue.borrow();
        queue.out.len() - queue.written > FULL_BYTES
    }

    /// Wakes this session when there is room again.
    pub fn wake_when_room(&self, waker: Waker) {
        self.blocked.borrow_mut().push(waker);
    }

    /// When the oldest unanswered request was queued.
    pub fn oldest_unanswered_us(&self) -> Option<u64> {
        self.queue.borrow().waiters.front().map(|(sent_us, _)| *sent_us)
    }

    pub fn unanswered(&self) -> usize {
        self.queue.borrow().waiters.len()
    }

    /// Queues one request, complete and well-formed. The caller has asked `availability`.
    pub fn send(&self, request: &[u8], now_us: u64, waiter: S::Waiter) {
        self.send_with(now_us, |out, expect| {
            out.extend_from_slice(request);
            expect(waiter);
        });
    }

    /// Queues requests that the closure writes, with one `expect` for each.
    pub fn send_with(&self, now_us: u64, write: impl FnOnce(&mut Vec<u8>, &mut dyn FnMut(S::Waiter))) {
        let mut queue = self.queue.borrow_mut();
        let Queue {
            out,
            waiters,
            last_sent_us,
            silent_since_us,
            stuck_since_us,
            ..
        } = &mut *queue;
        if waiters.is_empty() {
            *silent_since_us = now_us;
        }
        if out.is_empty() {
            *stuck_since_us = now_us;
        }
        *last_sent_us = now_us;
        write(out, &mut |waiter| waiters.push_back((now_us, waiter)));
        drop(queue);
        self.wake();
    }

    /// Called some times within the staleness bound: asks a quiet link whether it still answers, and gives up one that
    /// has been silent for the read timeout.
    pub fn tick(&self, now_us: u64, probe_after: Duration) {
        if !self.is_up() {
            return;
        }
        let queue = self.queue.borrow();
        let silent_since_us = queue.silent_since_us.max(self.patient_until_us.get());
        let silent =
            !queue.waiters.is_empty() && now_us.saturating_sub(silent_since_us) >= self.timeouts.read_at_tick_us();
        let stuck = queue.written < queue.out.len()
            && now_us.saturating_sub(queue.stuck_since_us) >= self.timeouts.write.as_micros() as u64;
        let quiet =
            queue.waiters.is_empty() && now_us.saturating_sub(queue.last_sent_us) >= probe_after.as_micros() as u64;
        drop(queue);
        if silent {
            self.hang_up(format!(
                "no answer within the read timeout of {} ms",
                self.timeouts.read.as_millis()
            ));
        } else if stuck {
            self.hang_up(format!(
                "it took no data within the write timeout of {} ms",
                self.timeouts.write.as_millis()
            ));
        } else if quiet {
            let request = self.sink.probe_request();
            let request = request.as_deref().unwrap_or(b"*1\r\n$4\r\nPING\r\n");
            self.send(request, now_us, self.sink.probe(now_us));
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
        *self.doomed.borrow_mut() = Some(why);
        self.wake();
    }

    /// Once for all requests of a turn.
    fn wake(&self) {
        if !self.is_woken.replace(true)
            && let Some(waker) = &*self.waker.borrow()
        {
            waker.wake_by_ref();
        }
    }

    /// The connection's task: never ends by itself.
    pub async fn run(self: Rc<Self>) {
        let mut failures: u32 = 0;
        // Connections in a row that came up and did not last.
        let mut losses: u32 = 0;
        loop {
            let (begun_us, known) = (clock::now_us(), self.target.generation());
            match self.target.open(self.greeting).await {
                Ok((
                    stream,
                    Greeted {
                        tracking, generation, ..
                    },
                )) => {
                    failures = 0;
                    self.generation.set(generation);
                    self.sink.reached(generation);
                    self.begin(&tracking, begun_us);
                    let up = Instant::now();
                    let why = self.pump(stream).await;
                    tracing::warn!(upstream = %self.target.node(), db = self.greeting.db, reason = %why, "upstream connection lost");
                    self.target.doubt();
                    self.end(why.clone());
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
                Err(error) => {
                    failures = failures.saturating_add(1);
                    if failures == 1 {
                        tracing::error!(upstream = %self.target.node(), db = self.greeting.db, %error, "upstream is unavailable");
                    }
                    self.go_down(match error.server_state() {
                        Some(state) => Failure::Refused(state.to_owned()),
                        None => Failure::Unavailable(error.to_string()),
                    });
                    if self.target.pause(self.pause(failures), known).await {
                        failures = 0;
                    }
                }
            }
        }
    }

    /// The handshake, begun at this time (µs), is done. With `end`, `arrived` and `take_unsent` this is what the task does
    /// but for the I/O, so that a test can be the server.
    pub fn begin(&self, tracking: &TrackingState, begun_us: u64) {
        self.tracking.set(*tracking == TrackingState::On);
        *self.doomed.borrow_mut() = None;
        self.sink.up(tracking, begun_us);
        *self.phase.borrow_mut() = Phase::Up;
        self.requests_start_now();
    }

    /// The stream is gone, with everything that was unanswered.
    pub fn end(&self, why: String) {
        self.tracking.set(false);
        *self.phase.borrow_mut() = Phase::Connecting;
        self.sink.lost();
        self.fail_all(&Failure::Lost(why));
    }

    /// Bytes were appended to the input at this time: every frame that is complete is applied.
    ///
    /// # Errors
    /// Why the connection must be given up.
    pub fn arrived(&self, input: &mut Input, now_us: u64) -> Result<(), String> {
        self.queue.borrow_mut().silent_since_us = now_us;
        self.sink.received(now_us);
        self.take_frames(input)
    }

    /// Everything that is queued and not yet written.
    pub fn take_unsent(&self) -> Vec<u8> {
        let mut queue = self.queue.borrow_mut();
        let written = std::mem::take(&mut queue.written);
        let mut out = std::mem::take(&mut queue.out);
        out.drain(..written);
        out
    }

    /// When the oldest unanswered request was queued (µs), and who waits for it.
    pub fn next_waiter(&self) -> Option<(u64, S::Waiter)> {
        self.queue.borrow_mut().waiters.pop_front()
    }

    fn is_reply(&self, push: &[u8]) -> bool {
        let queue = self.queue.borrow();
        queue
            .waiters
            .front()
            .is_some_and(|(_, waiter)| self.sink.is_reply(waiter, push))
    }

    fn requests_start_now(&self) {
        let now_us = clock::now_us();
        let mut queue = self.queue.borrow_mut();
        queue.silent_since_us = now_us;
        queue.stuck_since_us = now_us;
    }

    fn go_down(&self, failure: Failure) {
        *self.phase.borrow_mut() = Phase::Down(failure.clone());
        self.fail_all(&failure);
    }

    /// Doubling from the smaller to the larger bound, each with up to half of it taken off at random, so that many
    /// proxies do not come back in one wave.
    fn pause(&self, failures: u32) -> Duration {
        let (least, most) = self.timeouts.back_off;
        let full = least.saturating_mul(1 << (failures - 1).min(16)).min(most);
        full.mul_f64(0.5 + 0.5 * fastrand::f64())
    }

    fn fail_all(&self, failure: &Failure) {
        drop(self.take_unsent());
        let waiters = std::mem::take(&mut self.queue.borrow_mut().waiters);
        for (_, waiter) in waiters {
            self.sink.failed(waiter, failure);
        }
        self.sink.batch_done(0, 0);
        self.unblock();
    }

    fn unblock(&self) {
        self.blocked.borrow_mut().drain(..).for_each(Waker::wake);
    }

    async fn pump(&self, mut stream: Stream) -> String {
        let mut input = Input {
            bytes: BytesMut::with_capacity(READ_BYTES),
            ..Input::default()
        };
        let end = poll_fn(|cx| {
            self.remember(cx);
            self.is_woken.set(false);
            if let Some(why) = self.doomed.borrow_mut().take() {
                return Poll::Ready(why);
            }
            if let Some(why) = self.read(cx, &mut stream, &mut input) {
                return Poll::Ready(why);
            }
            match self.write(cx, &mut stream) {
                Some(why) => Poll::Ready(why),
                None => Poll::Pending,
            }
        })
        .await;
        *self.waker.borrow_mut() = None;
        end
    }

    fn remember(&self, cx: &mut Context<'_>) {
        let mut waker = self.waker.borrow_mut();
        if !waker.as_ref().is_some_and(|w| w.will_wake(cx.waker())) {
            *waker = Some(cx.waker().clone());
        }
    }

    fn read(&self, cx: &mut Context<'_>, stream: &mut Stream, input: &mut Input) -> Option<String> {
        for turn in 0.. {
            if turn == READS_A_TURN {
                cx.waker().wake_by_ref();
                return None;
            }
            let pending = input.frames.pending_payload();
            let room = usize::try_from(pending)
                .unwrap_or(usize::MAX)
                .clamp(READ_BYTES, 1 << 30);
            if input.bytes.capacity() - input.bytes.len() < READ_BYTES / 4 {
                input.bytes.reserve(room);
            }
            match stream.poll_read_append(cx, &mut input.bytes) {
                Poll::Pending => return None,
                Poll::Ready(Err(e)) => return Some(e.to_string()),
                Poll::Ready(Ok(0)) => return Some("the upstream closed the connection".into()),
                Poll::Ready(Ok(_)) => {}
            }
            if let Err(why) = self.arrived(input, clock::now_us()) {
                return Some(why);
            }
        }
        None
    }

    fn take_frames(&self, input: &mut Input) -> Result<(), String> {
        let Input {
            bytes: input,
            frames,
            scanned,
        } = input;
        let mut start = 0;
        let (mut answered_us, mut answers) = (0, 0);
        let result = loop {
            let (consumed, complete) = match frames.advance(&input[*scanned..]) {
                Ok(progress) => progress,
                Err(e) => break Err(format!("the upstream sent what is no RESP: {e}")),
            };
            *scanned += consumed;
            if !complete {
                break Ok(());
            }
            let bytes = *scanned - start;
            if input[start] == b'>' && !self.is_reply(&input[start..*scanned]) {
                self.sink.push(&input[start..*scanned]);
            } else {
                let Some((sent_us, waiter)) = self.next_waiter() else {
                    break Err("the upstream sent a reply that nobody asked for".into());
                };
                answered_us = sent_us;
                answers += 1;
                if bytes >= SHARED_FRAME_BYTES {
                    input.advance(start);
                    *scanned -= start;
                    start = 0;
                    let shared = input.split_to(bytes).freeze();
                    *scanned = 0;
                    self.sink.reply(
                        waiter,
                        Frame {
                            bytes: &shared,
                            shared: Some(shared.clone()),
                        },
                    );
                    continue;
                }
                self.sink.reply(
                    waiter,
                    Frame {
                        bytes: &input[start..*scanned],
                        shared: None,
                    },
                );
            }
            start = *scanned;
        };
        input.advance(start);
        *scanned -= start;
        if input.is_empty() && input.capacity() > 4 * READ_BYTES {
            *input = BytesMut::with_capacity(READ_BYTES);
        }
        self.sink.batch_done(answered_us, answers);
        result
    }

    fn write(&self, cx: &mut Context<'_>, stream: &mut Stream) -> Option<String> {
        let mut queue = self.queue.borrow_mut();
        while queue.written < queue.out.len() {
            match stream.poll_write_some(cx, &queue.out[queue.written..]) {
                Poll::Pending => break,
                Poll::Ready(Ok(n)) => {
                    queue.written += n;
                    if queue.written < queue.out.len() {
                        queue.stuck_since_us = clock::now_us();
                    }
                }
                Poll::Ready(Err(e)) => return Some(e.to_string()),
            }
        }
        if queue.written == queue.out.len() {
            queue.written = 0;
            if queue.out.capacity() > 4 * READ_BYTES {
                queue.out = Vec::with_capacity(READ_BYTES);
            }
            queue.out.clear();
        } else if queue.written > READ_BYTES && queue.written > queue.out.len() / 2 {
            let written = queue.written;
            queue.out.drain(..written);
            queue.written = 0;
        }
        let has_room = queue.out.len() - queue.written <= FULL_BYTES / 2;
        drop(queue);
        if has_room && !self.blocked.borrow().is_empty() {
            self.unblock();
        }
        None
    }
}
