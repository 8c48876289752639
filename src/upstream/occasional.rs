//! A shared connection that is made at its first use and closed after some time without any.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use tokio::task::AbortHandle;

use super::connection::{Connection, Sink};

/// How long a connection that nobody needs is kept.
const IDLE_US: u64 = 30_000_000;

/// Owns the connection's task; when it is dropped the connection is closed, whatever is unanswered on it.
pub struct Occasional<S: Sink> {
    link: Rc<Connection<S>>,
    task: AbortHandle,
    /// 0: it is in use.
    idle_since_us: Cell<u64>,
}

impl<S: Sink> Occasional<S> {
    pub fn open(connection: Connection<S>) -> Self {
        let link = Rc::new(connection);
        Occasional {
            task: tokio::task::spawn_local(Rc::clone(&link).run()).abort_handle(),
            link,
            idle_since_us: Cell::new(0),
        }
    }

    pub fn link(&self) -> &Rc<Connection<S>> {
        &self.link
    }

    /// Called as often as [`Connection::tick`], which it calls; whether the connection may be dropped.
    pub fn tick(&self, now_us: u64, probe_after: Duration, is_needed: bool) -> bool {
        // Asked before the tick, which may send a PING.
        let is_idle = !is_needed && self.link.oldest_unanswered_us().is_none();
        self.link.tick(now_us, probe_after);
        match self.idle_since_us.get() {
            _ if !is_idle => self.idle_since_us.set(0),
            0 => self.idle_since_us.set(now_us),
            since_us => return now_us.saturating_sub(since_us) >= IDLE_US,
        }
        false
    }
}

impl<S: Sink> Drop for Occasional<S> {
    fn drop(&mut self) {
        self.task.abort();
    }
}
