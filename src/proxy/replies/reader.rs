//! What a connection to a replica does differently: the replica may refuse what its primary would serve. And where that goes
//! which a lost connection has left unanswered, if not to the next one: to the primary, or to the new node of the slot.

use super::LinkSink;
use crate::proxy::waiter::{Effect, Waiter};
use crate::proxy::worker::Worker;
use crate::resp::reply;
use crate::upstream::dial::is_server_state;

impl LinkSink {
    /// Whether it leads to a node that is only read from.
    pub fn is_reader(&self, worker: &Worker) -> bool {
        match (&worker.cluster, self.node) {
            _ if worker.reading.is_none() => false,
            (Some(view), Some(node)) => !view.topology().primaries.contains(&node),
            _ => self.replica.is_some(),
        }
    }

    /// Whom it leads to, as it is shown to people.
    pub fn name(&self, worker: &Worker) -> String {
        let replica = || worker.reading.as_ref()?.readers.at(self.replica?.0);
        match (&worker.cluster, self.node) {
            (Some(view), Some(node)) => view.name(node),
            _ => match replica() {
                Some(replica) => replica.endpoint.to_string(),
                None => worker.shared.upstream_name.clone(),
            },
        }
    }

    /// The key of another connection over which these requests belong now.
    fn owner_key(&self, worker: &Worker, waiters: &[Waiter]) -> Option<u32> {
        let Some(view) = &worker.cluster else {
            return self.replica.map(|(_, db)| db);
        };
        let slot = waiters.iter().find_map(|waiter| match &waiter.effect {
            Effect::Routed(routed) => Some(routed.slot),
            _ => None,
        });
        let owner = view.node_for(slot?).ok()?;
        (Some(owner) != self.node).then(|| u32::from(owner))
    }

    /// Whether the replica says by this error that it serves nobody now; then it is not read from until it was looked at.
    pub(super) fn is_refusal_of_reader(&self, error: &[u8]) -> bool {
        let is_meant = error.get(1..).is_some_and(is_server_state);
        let Some(worker) = self.worker.upgrade().filter(|_| is_meant) else {
            return false;
        };
        if !self.is_reader(&worker) {
            return false;
        }
        let id = self.node.or(self.replica.map(|(id, _)| id));
        let readers = worker
            .reading
            .iter()
            .flat_map(|reading| reading.readers.list().to_vec());
        for reader in readers.filter(|reader| Some(reader.id) == id) {
            reader.doubt(&reply::error_text(error));
        }
        true
    }

    /// Sends what was not executed, or may be executed again, and whose time runs since `begun_us`, where it belongs now: to
    /// the primary of a replica, and in a cluster to whoever has the slot by now.
    ///
    /// # Errors
    /// It is this connection's own: who waits for it.
    pub(super) fn to_owner(&self, requests: &[u8], begun_us: u64, waiters: Vec<Waiter>) -> Result<(), Vec<Waiter>> {
        let Some(worker) = self.worker.upgrade() else {
            return Err(waiters);
        };
        let key = self.owner_key(&worker, &waiters);
        let link = key.and_then(|key| worker.connection_by(self.road(), key).ok());
        let Some(link) = link.filter(|link| link.availability().is_ok()) else {
            return Err(waiters);
        };
        link.send_begun(worker.now_us(), begun_us, |out, expect| {
            out.extend_from_slice(requests);
            waiters.into_iter().for_each(expect);
        });
        Ok(())
    }
}
