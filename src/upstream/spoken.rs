//! Which version of the protocol the upstream speaks, and with it the clients. One for all of its nodes.
//!
//! Replies pass through as the server made them, and are kept so: what RESP2 has made of a map no RESP3 client can be given. So
//! as long as one connection that carries clients' requests speaks RESP2, no client speaks RESP3: it is refused as such a server
//! would refuse it. The other way round nothing is amiss: replies in RESP3 are converted for clients in RESP2, and one in RESP2
//! is not changed by that.
//!
//! Each connection is greeted with `HELLO 3` anew, so a server that has learned it is spoken to in RESP3 as soon as it is
//! connected to again. The change is prepared by one task (`server::control`), by [`Spoken::begin`] and [`Spoken::end`]: before
//! the first connection in RESP2 carries anything, clients in RESP3 are closed; before the first client is let into RESP3 again,
//! what was read in RESP2 is gone.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Notify, watch};

use crate::resp::Version;

#[derive(Debug)]
pub struct Spoken {
    state: Mutex<State>,
    /// `why` is some: what each `HELLO` asks.
    is_resp2: AtomicBool,
    /// Connections in RESP2 may carry requests.
    has_begun: watch::Sender<bool>,
    is_news: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// The refusal of `HELLO 3`, while RESP2 is spoken.
    why: Option<String>,
    /// The last server that was greeted took it.
    has_resp3: bool,
    clients: usize,
    carriers: usize,
    /// Connections that wait until they may carry requests.
    waiting: usize,
    /// Connections in RESP2 that ever carried requests.
    carried: u64,
}

/// A client that speaks RESP3, for as long as this lives.
#[derive(Debug)]
pub struct Speaker(Arc<Spoken>);

/// A connection in RESP2 that carries clients' requests, for as long as this lives.
#[derive(Debug)]
pub struct Carrier(Arc<Spoken>);

/// A connection in RESP2 that waits until it may carry clients' requests.
struct Waiting<'a>(&'a Spoken);

/// What the task that prepares the changes has to do.
#[derive(Debug, PartialEq, Eq)]
pub enum Change {
    /// RESP2 is to be spoken, and so many clients speak RESP3.
    Begin { clients: usize, why: String },
    /// RESP3 may be spoken again, unless a connection in RESP2 has carried something since this number was told.
    End(u64),
}

impl Default for Spoken {
    fn default() -> Spoken {
        Spoken {
            state: Mutex::default(),
            is_resp2: AtomicBool::new(false),
            has_begun: watch::Sender::new(false),
            is_news: Notify::new(),
        }
    }
}

impl Spoken {
    /// What clients may speak at most.
    pub fn version(&self) -> Version {
        match self.is_resp2.load(SeqCst) {
            true => Version::Resp2,
            false => Version::Resp3,
        }
    }

    /// Why it is RESP2, if it is.
    pub fn why(&self) -> Option<String> {
        self.state.lock().why.clone()
    }

    /// A server has been greeted and speaks RESP3, or has refused to.
    pub(super) fn heard(&self, refusal: Option<&str>) {
        let mut state = self.state.lock();
        state.has_resp3 = refusal.is_none();
        if let Some(refusal) = refusal
            && state.why.is_none()
        {
            state.why = Some(refusal.to_owned());
            self.is_resp2.store(true, SeqCst);
        }
        self.is_news.notify_one();
    }

    /// A client wants to speak RESP3. `None`: it cannot.
    pub fn admit(self: &Arc<Self>) -> Option<Speaker> {
        let mut state = self.state.lock();
        if state.why.is_some() {
            return None;
        }
        state.clients += 1;
        Some(Speaker(Arc::clone(self)))
    }

    /// A connection that was refused RESP3 in this way is to carry clients' requests: waits until it may. `None`: it may not,
    /// within this time.
    pub(super) async fn carry(self: &Arc<Self>, refusal: &str, within: Duration) -> Option<Carrier> {
        let _waiting = self.wait(refusal);
        let mut has_begun = self.has_begun.subscribe();
        let begun = async {
            loop {
                if has_begun.wait_for(|has_begun| *has_begun).await.is_err() {
                    return None;
                }
                let mut state = self.state.lock();
                if *self.has_begun.borrow() {
                    state.carriers += 1;
                    state.carried += 1;
                    return Some(Carrier(Arc::clone(self)));
                }
            }
        };
        tokio::time::timeout(within, begun).await.ok().flatten()
    }

    /// What has begun does not end before the connection carries something, or waits no longer; what has ended since it was
    /// refused begins again. Otherwise other nodes that speak RESP3 could end it again and again.
    fn wait(&self, refusal: &str) -> Waiting<'_> {
        let mut state = self.state.lock();
        state.waiting += 1;
        if state.why.is_none() {
            state.why = Some(refusal.to_owned());
            self.is_resp2.store(true, SeqCst);
            self.is_news.notify_one();
        }
        Waiting(self)
    }

    /// Waits until there may be a change to prepare.
    pub async fn news(&self) {
        self.is_news.notified().await;
    }

    pub fn change(&self) -> Option<Change> {
        let state = self.state.lock();
        let why = state.why.clone()?;
        if !*self.has_begun.borrow() {
            return Some(Change::Begin {
                clients: state.clients,
                why,
            });
        }
        state.may_end().then_some(Change::End(state.carried))
    }

    /// Connections in RESP2 may carry requests now, unless there is still a client in RESP3.
    pub fn begin(&self) -> bool {
        let state = self.state.lock();
        let may_begin = state.clients == 0;
        if may_begin {
            self.has_begun.send_replace(true);
        }
        may_begin
    }

    /// Clients may speak RESP3 now, if nothing was carried in RESP2 since that number was told.
    pub fn end(&self, carried: u64) -> bool {
        let mut state = self.state.lock();
        let may_end = state.may_end() && state.carried == carried;
        if may_end {
            state.why = None;
            self.has_begun.send_replace(false);
            self.is_resp2.store(false, SeqCst);
        }
        may_end
    }
}

impl State {
    fn may_end(&self) -> bool {
        self.has_resp3 && self.carriers == 0 && self.waiting == 0
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.state.lock().waiting -= 1;
        self.0.is_news.notify_one();
    }
}

impl Drop for Speaker {
    fn drop(&mut self) {
        self.0.state.lock().clients -= 1;
        self.0.is_news.notify_one();
    }
}

impl Drop for Carrier {
    fn drop(&mut self) {
        self.0.state.lock().carriers -= 1;
        self.0.is_news.notify_one();
    }
}

#[cfg(test)]
mod tests;
