//! The place of a large transfer: few go on at once over all workers, so that neither the server nor the workers are kept
//! from everybody else. A transfer that is slow, since its client is, gives its place up and goes on without.

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, Sleep};

use crate::downstream::session::Session;

/// A transfer of less than this in a period is slow.
const FAST_BYTES: usize = 4 << 20;
const PERIOD: Duration = Duration::from_millis(250);

pub struct Lane {
    _place: OwnedSemaphorePermit,
    pub moved_bytes: usize,
    period: Pin<Box<Sleep>>,
}

impl Lane {
    /// Waits for a place. `None`: the client was ended meanwhile.
    pub async fn enter(session: &Session) -> Option<Lane> {
        let mut place = std::pin::pin!(Arc::clone(&session.worker.shared.bulk).acquire_owned());
        let place = std::future::poll_fn(|cx| {
            session.client.remember(cx);
            if session.client.meta.is_killed() || session.client.state.borrow().is_closing {
                return Poll::Ready(None);
            }
            place.as_mut().poll(cx).map(Result::ok)
        });
        Some(Lane {
            _place: place.await?,
            moved_bytes: 0,
            period: Box::pin(tokio::time::sleep(PERIOD)),
        })
    }

    /// Whether the transfer was too slow in the period that has just ended.
    pub fn is_over(&mut self, cx: &mut Context<'_>) -> bool {
        while self.period.as_mut().poll(cx).is_ready() {
            if std::mem::take(&mut self.moved_bytes) < FAST_BYTES {
                return true;
            }
            self.period.as_mut().reset(Instant::now() + PERIOD);
        }
        false
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
