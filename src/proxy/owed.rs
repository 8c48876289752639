//! Acknowledgements that wait for the disk: a client whose write has overwritten something that L3 has is answered once the
//! tombstone is in the file, so that a process that is killed right behind the answer leaves nothing that contradicts it.
//!
//! What waits is everything that the client is sent, since its replies are written in one piece; its requests go on. It is
//! woken like one that waits for a read of the disk, by a message to its worker.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use super::client::{Client, State};
use super::outbox::Touched;
use super::shared::Message;
use super::worker::Worker;
use crate::cache::l3::Owed;

/// Clients of a worker that wait, oldest first.
#[derive(Default)]
pub struct Held {
    clients: Vec<(u64, Rc<Client>)>,
    /// A message is on its way, or will be.
    is_expected: bool,
}

/// These keys were written by this client, and what L1 and L3 had of them is void.
pub fn hold(worker: &Worker, client: &Client, written: &Touched) {
    let Some(l3) = worker.shared.cache.l3() else { return };
    let owed = match written {
        Touched::All => l3.owed_for_all(),
        written => {
            let each = written.hashes().iter().map(|&hash| l3.owed(hash));
            each.max().unwrap_or_default()
        }
    };
    if owed.is_nothing() {
        return;
    }
    let clients = worker.clients.borrow();
    let Some(client) = clients
        .get(client.place.get() as usize)
        .filter(|one| one.meta.id == client.meta.id)
    else {
        return;
    };
    let before = {
        let mut state = client.state.borrow_mut();
        let newest = state.owed.max(owed);
        std::mem::replace(&mut state.owed, newest)
    };
    let mut held = worker.held.borrow_mut();
    if before.is_nothing() {
        held.clients.push((worker.now_us(), Rc::clone(client)));
    }
    if !std::mem::replace(&mut held.is_expected, true) {
        drop(held);
        expect(worker, owed);
    }
}

fn expect(worker: &Worker, owed: Owed) {
    let Some(l3) = worker.shared.cache.l3() else { return };
    let (shared, index) = (Arc::clone(&worker.shared), usize::from(worker.index));
    l3.when_paid(owed, move || shared.inboxes[index].send(Message::Paid));
}

/// Whether the client may be sent what is ready for it.
#[inline]
pub fn may_be_answered(worker: &Worker, state: &mut State) -> bool {
    state.owed.is_nothing() || is_paid(worker, state)
}

#[cold]
fn is_paid(worker: &Worker, state: &mut State) -> bool {
    let is_paid = worker.shared.cache.l3().is_none_or(|l3| l3.is_paid(state.owed));
    if is_paid {
        state.owed = Owed::NOTHING;
    }
    is_paid
}

/// The disk has what somebody waited for.
pub fn paid(worker: &Worker) {
    let mut held = worker.held.borrow_mut();
    held.is_expected = false;
    let mut next: Option<Owed> = None;
    held.clients.retain(|(_, client)| {
        let mut state = client.state.borrow_mut();
        if may_be_answered(worker, &mut state) {
            drop(state);
            client.touch(&worker.touched);
            return false;
        }
        next = Some(next.map_or(state.owed, |least| least.min(state.owed)));
        true
    });
    if let Some(owed) = next {
        held.is_expected = true;
        drop(held);
        expect(worker, owed);
    }
}

/// A disk that hangs is not waited for.
pub fn look(worker: &Worker, now_us: u64) {
    let oldest_us = worker.held.borrow().clients.first().map(|(since_us, _)| *since_us);
    if let (Some(since_us), Some(l3)) = (oldest_us, worker.shared.cache.l3()) {
        l3.is_slow(Duration::from_micros(now_us.saturating_sub(since_us)));
    }
}
