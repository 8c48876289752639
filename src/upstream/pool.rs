//! Upstream connections for clients whose state lives in their connection. Each belongs to one client while it is lent;
//! one that comes back clean waits some time for the next. All workers together keep within one bound, and whoever finds
//! it reached is told at once: nobody waits for a connection.

use std::cell::RefCell;
use std::fmt;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use super::dial::{DialError, Greeting, Protocol, Target, Tracking};
use super::frames::FrameReader;
use crate::clock;
use crate::command::own;
use crate::config::Endpoint;
use crate::net::Stream;
use crate::resp::reply::is_error;
use crate::resp::{Version, encode};

/// How many idle connections a worker keeps, and for how long.
const IDLE_MOST: usize = 32;
const IDLE_US: u64 = 30_000_000;

pub struct Pool {
    target: Rc<Target>,
    lent: Arc<AtomicUsize>,
    most: usize,
    /// The one used last is last.
    idle: RefCell<Vec<Idle>>,
}

/// A connection that is lent to one client.
pub struct Lent {
    pub stream: Stream,
    pub version: Version,
    pub db: u32,
    /// Its id at the server (0: unknown), and the name that it was given there.
    pub id: i64,
    pub name: Box<str>,
    /// Of the node to which it leads.
    pub generation: u32,
    /// Where that is, as far as is known.
    pub endpoint: Option<Endpoint>,
    _place: Place,
}

struct Idle {
    lent: Lent,
    since_us: u64,
}

/// One of the places under the bound; given back when dropped.
struct Place(Arc<AtomicUsize>);

#[derive(Debug)]
pub enum PoolError {
    /// The bound, which is reached.
    Exhausted(usize),
    Dial(DialError),
}

impl fmt::Display for PoolError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PoolError::Exhausted(most) => {
                write!(
                    f,
                    "all {most} upstream connections for clients with a state of their own are in use (upstream.pinned_max)"
                )
            }
            PoolError::Dial(error) => error.fmt(f),
        }
    }
}

impl Pool {
    pub fn new(target: Rc<Target>, lent: Arc<AtomicUsize>, most: usize) -> Pool {
        Pool {
            target,
            lent,
            most,
            idle: RefCell::default(),
        }
    }

    /// Where its connections lead.
    pub fn target(&self) -> &Rc<Target> {
        &self.target
    }

    /// A clean connection that speaks `version` and is in database `db`, or in any. The answers of its handshake are awaited
    /// for so long.
    pub async fn take(&self, version: Version, db: Option<u32>, answer_within: Duration) -> Result<Lent, PoolError> {
        // Not even one that is idle: nobody would answer on it.
        if let Some(cut) = self.target.breaker().cut() {
            return Err(PoolError::Dial(DialError::Cut(cut)));
        }
        while let Some(mut lent) = self.take_idle(version, db) {
            let wanted = db.unwrap_or(lent.db);
            if !lent.stream.is_disturbed()
                && (lent.db == wanted || self.select(&mut lent, wanted, answer_within).await.is_ok())
            {
                return Ok(lent);
            }
        }
        let db = db.unwrap_or(0);
        let place = match Place::take(&self.lent, self.most) {
            Some(place) => place,
            // An idle one of the other version makes room.
            None if self.idle.borrow_mut().pop().is_some() => {
                Place::take(&self.lent, self.most).ok_or(PoolError::Exhausted(self.most))?
            }
            None => return Err(PoolError::Exhausted(self.most)),
        };
        let greeting = Greeting {
            protocol: Protocol::Only(version),
            db,
            tracking: Tracking::Off,
            is_readonly: false,
            answer_within,
        };
        let opening = async {
            let turn = tokio::time::timeout(answer_within, self.target.dials.acquire()).await;
            let _turn = turn.map_err(|_| DialError::Timeout(answer_within))?;
            self.target.open(greeting).await
        };
        let opened = tokio::select! {
            biased;
            opened = opening => opened,
            // Whoever waits is not to wait longer than who comes now.
            cut = self.target.breaker().opened() => Err(DialError::Cut(cut)),
        };
        let (stream, greeted) = opened.map_err(PoolError::Dial)?;
        Ok(Lent {
            stream,
            version,
            db,
            id: greeted.id.unwrap_or(0),
            name: "".into(),
            generation: greeted.generation,
            endpoint: self.target.endpoint(),
            _place: place,
        })
    }

    /// A connection in the state in which it was taken, but for its version and database, which it knows.
    pub fn give_back(&self, lent: Lent) {
        let mut idle = self.idle.borrow_mut();
        if idle.len() < IDLE_MOST {
            idle.push(Idle {
                lent,
                since_us: clock::now_us(),
            });
        }
    }

    /// The upstream is another node: what is idle leads nowhere.
    pub fn clear(&self) {
        self.idle.borrow_mut().clear();
    }

    /// Closes what has been idle for long.
    pub fn tick(&self, now_us: u64) {
        let mut idle = self.idle.borrow_mut();
        if !idle.is_empty() {
            idle.retain(|idle| now_us.saturating_sub(idle.since_us) < IDLE_US);
        }
    }

    fn take_idle(&self, version: Version, db: Option<u32>) -> Option<Lent> {
        let mut idle = self.idle.borrow_mut();
        let same = |idle: &Idle| idle.lent.version == version && db.is_none_or(|db| idle.lent.db == db);
        let place = idle
            .iter()
            .rposition(same)
            .or_else(|| idle.iter().rposition(|i| i.lent.version == version))?;
        Some(idle.swap_remove(place).lent)
    }

    async fn select(&self, lent: &mut Lent, db: u32, answer_within: Duration) -> Result<(), DialError> {
        let mut request = Vec::new();
        encode::command(&mut request, [own::SELECT, db.to_string().as_bytes()].into_iter());
        let exchange = async {
            lent.stream.write_all(&request).await?;
            let reply = FrameReader::default().next(&mut lent.stream).await?;
            Ok(is_error(&reply))
        };
        match tokio::time::timeout(answer_within, exchange).await {
            Ok(Ok(false)) => {
                lent.db = db;
                Ok(())
            }
            Ok(Ok(true)) => Err(DialError::Protocol("SELECT was refused".into())),
            Ok(Err(e)) => Err(e),
            Err(_) => Err(DialError::Timeout(answer_within)),
        }
    }
}

impl Place {
    fn take(count: &Arc<AtomicUsize>, most: usize) -> Option<Place> {
        count
            .fetch_update(Relaxed, Relaxed, |n| (n < most).then_some(n + 1))
            .ok()?;
        Some(Place(Arc::clone(count)))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}
