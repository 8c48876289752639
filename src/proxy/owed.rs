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

/// Clients of a worker that wait, each once.
#[derive(Default)]
pub struct Held {
    clients: Vec<Rc<Client>>,
    /// Since when the disk has owed them something and written nothing. Not since when one of them waits: whoever writes on
    /// and on owes a newer round whenever an older one is over, and that tells nothing of the disk.
    since_us: u64,
    /// Of what a message is on its way, or will be; none.
    expected: Owed,
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
        held.clients.push(Rc::clone(client));
    }
    if held.expected.is_nothing() {
        (held.expected, held.since_us) = (owed, worker.now_us());
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
pub fn may_be_answered(worker: &Worker, state: &State) -> bool {
    state.owed.is_nothing() || is_paid(worker, state)
}

#[cold]
fn is_paid(worker: &Worker, state: &State) -> bool {
    worker.shared.cache.l3().is_none_or(|l3| l3.is_paid(state.owed))
}

/// The disk has what somebody waited for.
pub fn paid(worker: &Worker) {
    let mut held = worker.held.borrow_mut();
    held.expected = Owed::NOTHING;
    let mut next: Option<Owed> = None;
    held.clients.retain(|client| {
        let mut state = client.state.borrow_mut();
        if may_be_answered(worker, &state) {
            // Only here: as long as it owes something it is in the list, and not twice.
            state.owed = Owed::NOTHING;
            drop(state);
            client.touch(&worker.touched);
            return false;
        }
        next = Some(next.map_or(state.owed, |least| least.min(state.owed)));
        true
    });
    if let Some(owed) = next {
        (held.expected, held.since_us) = (owed, worker.now_us());
        drop(held);
        expect(worker, owed);
    }
}

/// A disk that hangs is not waited for.
pub fn look(worker: &Worker, now_us: u64) {
    let (expected, since_us) = {
        let held = worker.held.borrow();
        (held.expected, held.since_us)
    };
    if let Some(l3) = worker.shared.cache.l3()
        && !expected.is_nothing()
        && !l3.is_paid(expected)
    {
        l3.is_slow(Duration::from_micros(now_us.saturating_sub(since_us)));
    }
}
