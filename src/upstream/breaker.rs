//! The breaker of one node. Closed: the node is used. Open: it has failed several times in a row, so whoever wants something
//! from it gets an error at once instead of waiting, and the node gets no more than one probe. Half-open: that probe is under
//! way.
//!
//! A failure is a connection that cannot be had, silence beyond a time limit, an answer that is no RESP, and `LOADING`; never
//! an error that a client has caused. It counts only if the node has answered nobody since the attempt began: what still
//! answers others is slow or full, not away.
//!
//! Every connection to a node looks at the same breaker, through its [`Target`]. A node that becomes another one (Sentinel)
//! begins anew with a closed one.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Notify, watch};

use super::dial::{DialError, Target};
use super::exchange::Exchange;
use crate::clock;
use crate::command::own;
use crate::resp::reply;

/// When it opens, and for how long.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// So many failures in a row open it; 0: none does.
    pub failures: usize,
    /// Only those of this time count.
    pub window: Duration,
    /// Until the first probe, and the longest pause before a later one: it is doubled after each that fails.
    pub pause: (Duration, Duration),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    Closed,
    Open,
    HalfOpen,
}

impl State {
    pub const ALL: [State; 3] = [State::Closed, State::Open, State::HalfOpen];

    pub fn name(self) -> &'static str {
        match self {
            State::Closed => "closed",
            State::Open => "open",
            State::HalfOpen => "half_open",
        }
    }
}

/// Why the node is not asked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Cut {
    state: State,
    /// Until the probe; 0: it is under way.
    probe_in_ms: u64,
    failures: usize,
    /// The last failure.
    last: String,
    /// The last failure is the server's own word for a state in which it serves nobody.
    pub is_server_state: bool,
}

impl fmt::Display for Cut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_server_state {
            // Clients know it by its first word.
            write!(f, "{} (nearcache: ", self.last)?;
        }
        write!(
            f,
            "its breaker is {} after {} failures in a row, ",
            self.state.name().replace('_', "-"),
            self.failures
        )?;
        match self.state {
            State::HalfOpen => f.write_str("a probe is under way")?,
            _ => write!(f, "the next probe is in {} ms", self.probe_in_ms)?,
        }
        if self.is_server_state {
            f.write_str(")")
        } else {
            write!(f, "; the last failure: {}", self.last)
        }
    }
}

pub struct Breaker {
    settings: Settings,
    /// Not closed; what every request that goes upstream looks at.
    is_cut: AtomicBool,
    /// When the node last answered, to [`ANSWERED_GRAIN_US`].
    answered_us: AtomicU64,
    /// When a handshake with it was last done. It does not say whether the node is `LOADING`.
    greeted_us: AtomicU64,
    /// Sent to under the lock of `count`.
    state: watch::Sender<State>,
    count: Mutex<Count>,
    /// How often it has come into each state, in the order of [`State::ALL`].
    changes: [AtomicU64; 3],
    probe_now: Notify,
    /// Shared connections to the node that are up.
    connections: AtomicUsize,
    /// How often it, or the breaker of any other node of the same upstream, has opened.
    openings: Arc<AtomicU64>,
}

/// A shared connection that is up, as long as it is.
pub(super) struct Up<'a>(&'a Breaker);

impl Drop for Up<'_> {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Relaxed);
    }
}

#[derive(Default)]
struct Count {
    /// Of the node to which all of it belongs.
    generation: u32,
    /// The attempts that have failed in a row, the latest ones.
    attempts: VecDeque<Attempt>,
    /// Failures in a row, for people.
    failures: usize,
    last: String,
    probe_us: u64,
}

struct Attempt {
    begun_us: u64,
    failed_us: u64,
    /// The node was there, and still `LOADING`.
    is_loading: bool,
}

/// Characters of the last failure that are told in each error.
const MOST_TOLD: usize = 200;
/// Answers come by the thousand, on every worker.
const ANSWERED_GRAIN_US: u64 = 10_000;

impl Breaker {
    pub fn new(settings: Settings) -> Breaker {
        Breaker {
            settings,
            is_cut: AtomicBool::new(false),
            answered_us: AtomicU64::new(0),
            greeted_us: AtomicU64::new(0),
            state: watch::Sender::new(State::Closed),
            count: Mutex::default(),
            changes: Default::default(),
            probe_now: Notify::new(),
            connections: AtomicUsize::new(0),
            openings: Arc::default(),
        }
    }

    /// One with the same settings, for another node.
    pub fn another(&self) -> Breaker {
        Breaker {
            openings: Arc::clone(&self.openings),
            ..Breaker::new(self.settings)
        }
    }

    /// A shared connection has come up.
    pub(super) fn connected(&self) -> Up<'_> {
        self.connections.fetch_add(1, Relaxed);
        Up(self)
    }

    /// Whether a shared connection to the node is up.
    pub fn is_connected(&self) -> bool {
        self.connections.load(Relaxed) > 0
    }

    /// How often the breakers of all nodes have opened: whoever waits for one of them has to look again.
    #[inline]
    pub fn openings(&self) -> u64 {
        self.openings.load(Relaxed)
    }

    pub fn state(&self) -> State {
        *self.state.borrow()
    }

    /// How often it has come into this state since the start.
    pub fn changes(&self, state: State) -> u64 {
        self.changes[state as usize].load(Relaxed)
    }

    #[inline]
    pub fn is_cut(&self) -> bool {
        self.is_cut.load(Relaxed)
    }

    /// Why the node is not to be asked now, if it is not.
    #[inline]
    pub fn cut(&self) -> Option<Cut> {
        self.is_cut().then(|| self.cut_now()).flatten()
    }

    #[cold]
    fn cut_now(&self) -> Option<Cut> {
        let count = self.count.lock();
        let state = self.state();
        (state != State::Closed).then(|| Cut {
            state,
            probe_in_ms: count.probe_us.saturating_sub(clock::now_us()).div_ceil(1000),
            failures: count.failures,
            last: count.last.clone(),
            is_server_state: count.last.starts_with(LOADING),
        })
    }

    /// The node has answered something other than `LOADING`, at this time.
    #[inline]
    pub fn answered(&self, now_us: u64) {
        if now_us > self.answered_us.load(Relaxed) + ANSWERED_GRAIN_US {
            self.answered_us.store(now_us, Relaxed);
        }
    }

    /// Whether the node has answered anything for so long before this time, or the process is no older.
    pub fn has_answered_within(&self, length: Duration, now_us: u64) -> bool {
        self.answered_us().saturating_add(length.as_micros() as u64) > now_us
    }

    /// When it last answered a request; 0: not yet.
    pub fn answered_us(&self) -> u64 {
        self.answered_us.load(Relaxed)
    }

    /// The node has answered a handshake.
    pub(super) fn greeted(&self) {
        self.greeted_us.store(clock::now_us(), Relaxed);
    }

    /// An attempt that began at this time has failed, with the node of this generation. True: that has opened it, and somebody
    /// must [`tend`] it now.
    #[must_use]
    pub fn failed(&self, generation: u32, begun_us: u64, why: &str) -> bool {
        let mut count = self.count.lock();
        if self.settings.failures == 0 || self.state() != State::Closed || generation < count.generation {
            return false;
        }
        if generation > count.generation {
            *count = Count {
                generation,
                ..Count::default()
            };
        }
        let (answered_us, greeted_us) = (self.answered_us.load(Relaxed), self.greeted_us.load(Relaxed));
        let now_us = clock::now_us();
        let oldest_us = now_us.saturating_sub(self.settings.window.as_micros() as u64);
        if count.attempts.back().is_none_or(|last| begun_us > last.failed_us) {
            count.attempts.push_back(Attempt {
                begun_us,
                failed_us: now_us,
                is_loading: why.starts_with(LOADING),
            });
        }
        count.attempts.retain(|attempt| {
            let was_answered = attempt.begun_us <= answered_us || !attempt.is_loading && attempt.begun_us <= greeted_us;
            !was_answered && attempt.failed_us >= oldest_us
        });
        count.failures = count.attempts.len();
        if count.failures < self.settings.failures {
            return false;
        }
        count.last = why.chars().take(MOST_TOLD).collect();
        self.enter(State::Open);
        true
    }

    fn enter(&self, state: State) {
        self.changes[state as usize].fetch_add(1, Relaxed);
        if state == State::Open {
            self.openings.fetch_add(1, Relaxed);
        }
        self.is_cut.store(state != State::Closed, Relaxed);
        self.state.send_replace(state);
    }

    /// Open for so long.
    fn wait_for_probe(&self, pause: Duration) {
        let mut count = self.count.lock();
        count.probe_us = clock::now_us() + pause.as_micros() as u64;
        if self.state() != State::Open {
            self.enter(State::Open);
        }
    }

    fn begin_probe(&self) {
        let _count = self.count.lock();
        self.enter(State::HalfOpen);
    }

    fn probe_failed(&self, why: String) {
        let mut count = self.count.lock();
        count.failures += 1;
        count.last = why;
    }

    fn close(&self) {
        let mut count = self.count.lock();
        count.attempts.clear();
        self.enter(State::Closed);
    }

    /// What made it fail may be mended: the next probe is due now.
    pub fn probe_now(&self) {
        self.probe_now.notify_waiters();
    }

    /// Waits until it is closed.
    pub async fn closed(&self) {
        // The sender is `self`, so this does not fail.
        let _ = self.state.subscribe().wait_for(|state| *state == State::Closed).await;
    }

    /// Waits until it is not closed; why the node is not to be asked.
    pub async fn opened(&self) -> Cut {
        let mut state = self.state.subscribe();
        loop {
            let _ = state.wait_for(|state| *state != State::Closed).await;
            if let Some(cut) = self.cut() {
                return cut;
            }
        }
    }

    /// Waits until it is closed after it was open.
    pub async fn closed_again(&self) {
        let mut state = self.state.subscribe();
        let _ = state.wait_for(|state| *state != State::Closed).await;
        let _ = state.wait_for(|state| *state == State::Closed).await;
    }
}

impl fmt::Debug for Breaker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Breaker").field(&self.state()).finish()
    }
}

/// Whether it is the node's fault, and about the node as a whole.
pub(super) fn is_failure(error: &DialError) -> bool {
    match error {
        DialError::Timeout(_)
        | DialError::Io(_)
        | DialError::Protocol(_)
        | DialError::TooLarge(_)
        | DialError::Tls(_)
        | DialError::TlsTimeout(_) => true,
        DialError::Refused { error, .. } => error.starts_with(LOADING),
        DialError::At(_, error) => is_failure(error),
        // It answers, and says what has to be changed; or nobody knows which node it is; or this host is at fault.
        DialError::Local(_)
        | DialError::Unknown(_)
        | DialError::NotPrimary(_)
        | DialError::Cut(_)
        | DialError::InResp2(_) => false,
    }
}

/// Whether it was silence, not an answer, that the attempt failed by.
pub(super) fn is_silence(error: &DialError) -> bool {
    match error {
        DialError::Timeout(_) | DialError::TlsTimeout(_) => true,
        DialError::At(_, error) => is_silence(error),
        _ => false,
    }
}

/// The server reads its data from disk, and refuses everything until it has.
pub(super) const LOADING: &str = "LOADING ";

/// The life of a breaker that has just opened, until it is closed: probes the node, one probe at a time.
pub(super) async fn tend(target: Target) {
    let breaker = target.breaker();
    let Settings {
        pause: (mut pause, longest),
        ..
    } = breaker.settings;
    let (node, generation) = (target.node(), target.generation());
    let cut = || breaker.cut().map_or_else(String::new, |cut| cut.to_string());
    loop {
        // Many proxies should not come in one wave.
        let pause_now = pause.mul_f64(0.75 + 0.25 * fastrand::f64());
        // Asked for from here on, a probe now is not missed.
        let mut asked = std::pin::pin!(breaker.probe_now.notified());
        asked.as_mut().enable();
        breaker.wait_for_probe(pause_now);
        tracing::error!(upstream = %node, "the node is given up: {}", cut());
        let is_other = tokio::select! {
            is_other = target.pause(pause_now, generation) => is_other,
            () = asked => false,
        };
        if is_other || target.generation() != generation {
            breaker.close();
            tracing::info!(upstream = %target.node(), was = %node, "breaker closed: the node is not the upstream any more");
            return;
        }
        breaker.begin_probe();
        tracing::info!(upstream = %node, "breaker half-open: the node is probed");
        match probe(&target).await {
            Ok(()) => {
                breaker.close();
                tracing::info!(upstream = %node, "breaker closed: the node answers");
                return;
            }
            Err(why) => breaker.probe_failed(why),
        }
        pause = pause.saturating_mul(2).min(longest);
    }
}

/// Whether the node serves somebody; if not, why.
async fn probe(target: &Target) -> Result<(), String> {
    let within = target.connect_timeout;
    let pong = match target.dial(&Exchange::greeting(within)).await {
        Ok((stream, _)) => Exchange::over(stream).ask(&[own::PING], within).await,
        Err(error) => Err(error),
    };
    match pong {
        Ok(pong) if reply::is_error(&pong) && pong[1..].starts_with(LOADING.as_bytes()) => {
            Err(reply::error_text(&pong))
        }
        Err(error) if is_failure(&error) => Err(error.server_state().unwrap_or_else(|| error.to_string())),
        // It answers, whatever it says.
        Ok(_) | Err(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests;
