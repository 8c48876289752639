//! The place of a large transfer: few go on at once over all workers, so that neither the server nor the workers are kept
//! from everybody else. A transfer that is slow, since its client is, gives its place up and goes on without. And its rest,
//! while others are served: see [`Transfers`](crate::proxy::transfers::Transfers).

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, Sleep};

use super::{Ended, Pipe, READ_AHEAD_BYTES};
use crate::clock;
use crate::downstream::session::Session;
use crate::proxy::request::Reason;
use crate::proxy::worker::Worker;
use crate::resp::first::First;

/// A transfer of less than this in a period is slow.
const FAST_BYTES: usize = 4 << 20;
/// A reply of which so much has come is a transfer that rests for others.
const LARGE_BYTES: usize = 1 << 20;
const PERIOD: Duration = Duration::from_millis(250);

pub struct Lane {
    _place: OwnedSemaphorePermit,
    pub moved_bytes: usize,
    period: Pin<Box<Sleep>>,
    /// Of the period, in which nothing could be moved.
    rested: Duration,
}

/// The rest of a transfer while others are served.
#[derive(Default)]
pub struct Rest(Option<Pin<Box<Sleep>>>);

impl Lane {
    /// Waits for a place; there is none for a client that is to be closed.
    ///
    /// # Errors
    /// The client is gone, and nothing is to be done for it any more.
    pub async fn enter(session: &mut Session, reason: &Reason) -> Result<Option<Lane>, Ended> {
        let mut place = pin!(Arc::clone(&session.worker.shared.bulk).acquire_owned());
        let mut has_waited = false;
        let place = std::future::poll_fn(|cx| {
            session.client.remember(cx);
            if session.client.meta.is_killed() {
                return Poll::Ready(Err(Ended::Closed));
            }
            if session.client.state.borrow().is_closing {
                return Poll::Ready(Ok(None));
            }
            let place = place.as_mut().poll(cx);
            has_waited |= place.is_pending();
            if has_waited && *reason == Reason::Bulk && has_hung_up(cx, session) {
                return Poll::Ready(Err(Ended::Closed));
            }
            place.map(|place| Ok(place.ok()))
        });
        Ok(place.await?.map(|place| Lane {
            _place: place,
            moved_bytes: 0,
            period: Box::pin(tokio::time::sleep(PERIOD)),
            rested: Duration::ZERO,
        }))
    }

    /// Whether the transfer was too slow in the period that has just ended.
    pub fn is_over(&mut self, cx: &mut Context<'_>) -> bool {
        while self.period.as_mut().poll(cx).is_ready() {
            let moving = PERIOD.saturating_sub(std::mem::take(&mut self.rested));
            let least = FAST_BYTES * moving.as_millis() as usize / PERIOD.as_millis() as usize;
            if std::mem::take(&mut self.moved_bytes) < least {
                return true;
            }
            self.period.as_mut().reset(Instant::now() + PERIOD);
        }
        false
    }
}

/// Whether a client that has asked for nothing but one large reply has gone before it was asked for upstream. Many that lose
/// their patience at once would keep the server busy with what nobody takes. A server that has read a client's last byte gives
/// it no more of such a reply either, but does what else the client has sent before.
fn has_hung_up(cx: &mut Context<'_>, session: &mut Session) -> bool {
    while !session.is_ended && session.input.len() < READ_AHEAD_BYTES {
        let mut buffer = session.worker.take_read_buffer();
        let read = session.stream.poll_read_into(cx, &mut buffer);
        if let Poll::Ready(Ok(n)) = read {
            session.worker.counters().bytes_in_total.add(n as u64);
            session.input.extend_from_slice(&buffer[..n]);
            session.is_ended = n == 0;
        }
        session.worker.return_read_buffer(buffer);
        match read {
            Poll::Pending => break,
            Poll::Ready(Err(_)) => return true,
            Poll::Ready(Ok(_)) => {}
        }
    }
    session.is_ended && First::of(&session.input).is_some_and(|first| first.len == Some(session.input.len()))
}

impl Pipe {
    /// A turn, and what it owes others.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>, session: &mut Session) -> Poll<Ended> {
        session.client.remember(cx);
        if self.lane.as_mut().is_some_and(|lane| lane.is_over(cx)) {
            self.lane = None;
        }
        if self.rest.is_on(cx) && !session.client.meta.is_killed() {
            return Poll::Pending;
        }
        let started_us = clock::now_us();
        let polled = self.turn(cx, session);
        // Whoever waits for a client or the server has nothing to make up for, and holds its place no longer for the rest of others.
        if polled.is_pending() && self.turn_bytes > 0 && self.is_large() {
            self.rest.after(cx, &session.worker, self.lane.as_mut(), started_us);
        }
        polled
    }

    /// Whether one request or reply is under way that is larger than those on the shared path. Many small ones are not a
    /// transfer, however fast they come.
    fn is_large(&self) -> bool {
        self.streamed.is_some() || self.is_streaming && self.streamed_bytes >= LARGE_BYTES
    }
}

impl Rest {
    /// Whether the transfer must not move yet.
    pub fn is_on(&mut self, cx: &mut Context<'_>) -> bool {
        let is_on = self
            .0
            .as_mut()
            .is_some_and(|sleep| sleep.as_mut().poll(cx).is_pending());
        if !is_on {
            self.0 = None;
        }
        is_on
    }

    /// After a turn: it rests if it has to.
    pub fn after(&mut self, cx: &mut Context<'_>, worker: &Worker, lane: Option<&mut Lane>, started_us: u64) {
        let now_us = clock::now_us();
        worker.transfers.moved(started_us, now_us);
        let rest_us = worker.transfers.rest_us(now_us, worker.is_anybody_served(now_us));
        if rest_us > 0 {
            let rest = Duration::from_micros(rest_us);
            if let Some(lane) = lane {
                lane.rested += rest;
            }
            // Polled, it wakes the task.
            let sleep = self.0.insert(Box::pin(tokio::time::sleep(rest)));
            let _ = sleep.as_mut().poll(cx);
        }
    }
}

/// Waits for what must come before the transfer. The place is not kept for longer than a transfer could that moves nothing.
pub async fn kept_while<T>(lane: &mut Option<Lane>, waited: impl Future<Output = T>) -> T {
    let mut waited = pin!(waited);
    std::future::poll_fn(|cx| {
        if lane.as_mut().is_some_and(|lane| lane.is_over(cx)) {
            *lane = None;
        }
        waited.as_mut().poll(cx)
    })
    .await
}
