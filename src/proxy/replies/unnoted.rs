//! The note that a lease's read was answered ([`L1::got`](crate::cache::L1::got)), put off as long as nobody can tell.
//!
//! Only what comes behind it on the same stream asks for it, so L1 is told before a push is applied or a reply looked at, and
//! at the end of a batch. As a rule the next one is the PTTL which ends the lease, and then there is nothing left to tell: a fill
//! takes the lock of its shard once less.

use bytes::Bytes;

use super::{Again, Held, LinkSink};
use crate::cache::LeaseId;
use crate::proxy::waiter::Effect;
use crate::proxy::worker::Worker;

impl LinkSink {
    /// The reply to the read of `lease`, whose PTTL comes next.
    pub fn hold_read(&self, lease: LeaseId, frame: Bytes) {
        self.unnoted.set(Some(lease));
        self.held.borrow_mut().push_back(Held {
            lease,
            frame,
            again: Again::No,
        });
    }

    /// Tells L1 before the reply to a request with this effect is looked at, unless it is the PTTL of that lease.
    #[inline]
    pub(super) fn note_before(&self, worker: &Worker, effect: &Effect) {
        match effect.own() {
            Effect::FillTtl(guard, _) if guard.lease() == self.unnoted.get() => {}
            _ => self.note(worker),
        }
    }

    /// Tells L1.
    #[inline]
    pub(super) fn note(&self, worker: &Worker) {
        if let Some(lease) = self.unnoted.take() {
            worker.shared.cache.got(lease);
        }
    }
}
