//! Flights: one read upstream for everybody who misses a key at the same time. The lease lives in L1; the right to end it
//! is a guard that travels with the PTTL request behind the read. However that request ends, its followers are told.

use std::rc::Rc;

use super::worker::Worker;
use crate::cache::LeaseId;
use crate::resp::Version;

/// A request of some client, on any worker, that waits for a flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Follower {
    pub worker: u16,
    /// Place in that worker's list of clients, and the client's id, since places are used again.
    pub place: u32,
    pub client: u64,
    pub sequence: u64,
    pub version: Version,
}

/// The leader's right and duty to end a lease.
pub struct FillGuard {
    worker: Rc<Worker>,
    lease: Option<LeaseId>,
}

impl FillGuard {
    pub fn new(worker: &Rc<Worker>, lease: LeaseId) -> FillGuard {
        FillGuard {
            worker: Rc::clone(worker),
            lease: Some(lease),
        }
    }

    /// The lease; `None`: it was ended.
    pub fn lease(&self) -> Option<LeaseId> {
        self.lease
    }

    /// The lease, for whoever ends it now and tells the followers himself.
    pub fn end(&mut self) -> Option<LeaseId> {
        self.lease.take()
    }
}

impl Drop for FillGuard {
    fn drop(&mut self) {
        if let Some(lease) = self.lease.take() {
            let followers = self.worker.shared.cache.abandon(lease);
            self.worker.fail_followers_later(
                &followers,
                "ERR nearcache: the read that this one waited for was given up",
            );
        }
    }
}
