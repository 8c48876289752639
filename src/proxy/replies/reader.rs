//! What a connection to a replica does differently: the replica may refuse what its primary would serve, and what it takes with
//! it goes to the primary.

use super::LinkSink;
use crate::proxy::waiter::{Effect, Waiter};
use crate::proxy::worker::Worker;

impl LinkSink {
    /// Whether it leads to a node that is only read from.
    pub fn is_reader(&self, worker: &Worker) -> bool {
        match (&worker.cluster, self.node) {
            _ if worker.reading.is_none() => false,
            (Some(view), Some(node)) => !view.topology().primaries.contains(&node),
            _ => self.replica.is_some(),
        }
    }

    /// The key of the connection over which the primary of these lost requests is asked.
    fn primary_key(&self, worker: &Worker, lost: &[Waiter]) -> Option<u32> {
        let Some(view) = &worker.cluster else {
            return self.replica.map(|(_, db)| db);
        };
        let slot = lost.iter().find_map(|waiter| match &waiter.effect {
            Effect::Routed(routed) => Some(routed.slot),
            _ => None,
        });
        view.node_for(slot?).ok().map(u32::from)
    }

    /// Whether the replica says by this error that it serves nobody now; then it is not read from until it was looked at.
    pub(super) fn is_refusal_of_reader(&self, error: &[u8]) -> bool {
        let is_meant = [&b"-LOADING "[..], b"-MASTERDOWN "]
            .iter()
            .any(|code| error.starts_with(code));
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
            reader.doubt(String::from_utf8_lossy(&error[1..]).trim());
        }
        true
    }

    /// Sends lost reads, whose time runs since `begun_us`, to the primary.
    ///
    /// # Errors
    /// They were not: who waits for them.
    pub(super) fn to_primary(&self, requests: &[u8], begun_us: u64, waiters: Vec<Waiter>) -> Result<(), Vec<Waiter>> {
        let Some(worker) = self.worker.upgrade().filter(|worker| self.is_reader(worker)) else {
            return Err(waiters);
        };
        let key = self.primary_key(&worker, &waiters);
        let link = key.and_then(|key| worker.connection_at(key).ok());
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
