//! Misses of L1 that are looked for on the disk first. The lease is taken, the client's place in the order of its replies and
//! that of its followers are held, and nothing is sent; a message from a reader of the disk then ends it: the entry is shown and
//! kept, by the rules of a hit at that moment, or the read goes upstream as any miss does.
//!
//! Later requests of these clients on the key wait meanwhile: they could be sent before the read. A disk that does not answer
//! is not waited for.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;

use super::{Lead, revalidation, stale, together};
use crate::cache::Query;
use crate::cache::l3::Found;
use crate::proxy::client::write_frame;
use crate::proxy::cluster::NO_SLOT;
use crate::proxy::shared::Message;
use crate::proxy::waiter::{Answer, FillKind};
use crate::proxy::worker::{Link, Worker};
use crate::resp::{Version, encode};
use crate::upstream::connection::SHARED_FRAME_BYTES;

/// Reads that wait for the disk; bounded by what L3 takes: a few hundred, and those who ask for the same.
#[derive(Default)]
pub struct Waiting {
    /// By number, which is by age.
    waits: BTreeMap<u64, Wait>,
    next: u64,
    /// What all reads of several keys have been given until their last part is there.
    pub(super) found_bytes: Rc<Cell<usize>>,
    /// What the server is asked about.
    pub(super) asked_bytes: Rc<Cell<usize>>,
}

impl Waiting {
    pub fn is_empty(&self) -> bool {
        self.waits.is_empty()
    }

    /// The place that the next one gets.
    pub fn next_place(&self) -> u64 {
        self.next
    }
}

struct Wait {
    since_us: u64,
    for_what: For,
}

enum For {
    Miss(Box<Miss>),
    Stale(Box<stale::Wanted>),
    /// One of several keys, by its position.
    Part(Rc<together::Wanted>, usize),
}

pub(super) struct Miss {
    pub lead: Lead,
    pub link: Rc<Link>,
    /// The request as it would go on the wire, and the name that it reads.
    pub raw: Box<[u8]>,
    pub name: Box<[u8]>,
}

/// Has the disk asked for a read that is about to wait. False: there is nothing.
pub(super) fn look(worker: &Worker, link: &Link, query: &Query<'_>, now_us: u64) -> bool {
    let cache = &worker.shared.cache;
    if cache.l3().is_none() {
        return false;
    }
    let (_, done) = place(worker);
    let asks_from = || revalidation::least_bytes(worker, link).filter(|_| query.variant.is_empty());
    cache.look_below(query, now_us, asks_from, done)
}

/// The place of the next read that waits, and how the disk answers it.
pub(super) fn place(worker: &Worker) -> (u64, impl FnOnce(Option<Found>) + Send + 'static) {
    let place = worker.below.borrow().next;
    let (shared, index) = (Arc::clone(&worker.shared), usize::from(worker.index));
    let done = move |found: Option<Found>| {
        let found = found.map(Box::new);
        shared.inboxes[index].send(Message::Found { place, found });
    };
    (place, done)
}

/// The read waits, in the place that `look` gave away.
pub(super) fn wait(worker: &Worker, link: &Rc<Link>, lead: Lead, raw: &[u8], name: &[u8], now_us: u64) {
    let miss = Miss {
        lead,
        link: Rc::clone(link),
        raw: raw.into(),
        name: name.into(),
    };
    put(worker, For::Miss(Box::new(miss)), now_us);
}

/// The same in the place that [`place`] gave away.
pub(super) fn wait_for_stale(worker: &Worker, place: u64, wanted: stale::Wanted, now_us: u64) {
    debug_assert_eq!(worker.below.borrow().next, place);
    put(worker, For::Stale(Box::new(wanted)), now_us);
}

/// The same for one of several keys, which were asked for at `since_us`.
pub(super) fn wait_for_part(worker: &Worker, place: u64, wanted: &Rc<together::Wanted>, at: usize, since_us: u64) {
    debug_assert_eq!(worker.below.borrow().next, place);
    put(worker, For::Part(Rc::clone(wanted), at), since_us);
}

fn put(worker: &Worker, for_what: For, now_us: u64) {
    let mut below = worker.below.borrow_mut();
    let place = below.next;
    below.next += 1;
    let wait = Wait {
        since_us: now_us,
        for_what,
    };
    below.waits.insert(place, wait);
}

/// Sends what has waited for longer than `patience_us`. The answer, when it comes, finds nobody.
pub fn give_up(worker: &Rc<Worker>, patience_us: u64, now_us: u64) {
    loop {
        let mut below = worker.below.borrow_mut();
        let Some(oldest) = below.waits.first_entry() else { break };
        if oldest.get().since_us.saturating_add(patience_us) > now_us {
            break;
        }
        let wait = oldest.remove();
        drop(below);
        match wait.for_what {
            For::Miss(miss) => send(worker, *miss, now_us),
            For::Stale(wanted) => stale::answered(worker, *wanted, None, now_us),
            For::Part(wanted, at) => together::answered(worker, &wanted, at, None, now_us),
        }
    }
    worker.wake_touched();
}

/// The disk has answered.
pub fn answered(worker: &Rc<Worker>, place: u64, found: Option<&Found>, now_us: u64) {
    let Some(wait) = worker.below.borrow_mut().waits.remove(&place) else {
        return;
    };
    match (wait.for_what, found) {
        (For::Miss(miss), Some(found)) => shown_or_sent(worker, *miss, found, now_us),
        (For::Miss(miss), None) => send(worker, *miss, now_us),
        (For::Stale(wanted), found) => stale::answered(worker, *wanted, found, now_us),
        (For::Part(wanted, at), found) => together::answered(worker, &wanted, at, found, now_us),
    }
}

fn shown_or_sent(worker: &Rc<Worker>, mut wait: Miss, found: &Found, now_us: u64) {
    let lead = &mut wait.lead;
    let promoted = lead
        .guard
        .lease()
        .and_then(|lease| worker.shared.cache.promote(lease, found, now_us));
    let Some(followers) = promoted else {
        return match revalidation::is_worth_a_question(worker, &wait, found, now_us) {
            true => revalidation::ask(worker, wait, found, now_us),
            false => send(worker, wait, now_us),
        };
    };
    lead.guard.end();
    worker.counters().l3_hits_total.add(1);
    let frame = frame_of(found, lead.kind);
    let shared = (frame.len() >= SHARED_FRAME_BYTES).then_some(&frame);
    let answer = Answer::Frame {
        bytes: &frame,
        shared,
        version: lead.version,
        rule: &lead.rule,
    };
    lead.client.answer(lead.sequence, answer, &worker.touched);
    if !followers.is_empty() {
        worker.answer_followers(&followers, |ready, version| {
            write_frame(ready, &frame, shared, version, &lead.rule);
        });
    }
}

/// As the miss that it is.
pub(super) fn send(worker: &Rc<Worker>, wait: Miss, now_us: u64) {
    worker.counters().l3_misses_total.add(1);
    if let Some(wait) = on_its_way(worker, wait) {
        wait.lead.send(worker, &wait.link, &wait.raw, &wait.name, now_us);
    }
}

/// The same of one that is counted, and whose time has run since it was asked about.
pub(super) fn send_begun(worker: &Rc<Worker>, wait: Miss, begun_us: u64, now_us: u64) {
    if let Some(wait) = on_its_way(worker, wait) {
        wait.lead.send(worker, &wait.link, &wait.raw, &wait.name, now_us);
        wait.link.last_began(begun_us);
    }
}

/// With the connection on which it goes now. `None`: there is none, and who waits for it was told.
pub(super) fn on_its_way(worker: &Rc<Worker>, mut wait: Miss) -> Option<Miss> {
    if let Some(view) = &worker.cluster {
        // The slot may have gone to another node meanwhile, and nobody serves a connection to one without slots.
        let link = view
            .node_for(wait.lead.slot)
            .and_then(|node| worker.connection_at(node.into()));
        if let Ok(link) = link {
            wait.link = link;
        }
    }
    let Err(failure) = wait.link.availability() else {
        return Some(wait);
    };
    worker.counters().l2_errors_total.add(1);
    let error = worker.unavailable_on(&wait.link.sink, &failure);
    let lead = &mut wait.lead;
    if let Some(lease) = lead.guard.end() {
        worker.fail_followers(&worker.shared.cache.abandon(lease), &error);
    }
    lead.client
        .answer(lead.sequence, Answer::Error(&error), &worker.touched);
    None
}

/// Where a read of this database and slot goes that was meant for the disk.
pub(super) fn link_of(worker: &Rc<Worker>, db: u32, slot: u16) -> Result<Rc<Link>, String> {
    match &worker.cluster {
        Some(view) if slot != NO_SLOT => worker.connection_at(view.node_for(slot)?.into()),
        _ => worker.connection(db),
    }
}

/// The reply of the upstream, in RESP3, that the entry was made from.
pub(super) fn frame_of(found: &Found, kind: FillKind) -> Bytes {
    match kind {
        FillKind::Reply { .. } => found.value.clone(),
        FillKind::Payload => {
            let mut frame = Vec::with_capacity(found.value.len() + 32);
            match found.is_absent {
                true => encode::null(&mut frame, Version::Resp3),
                false => encode::bulk(&mut frame, &found.value),
            }
            frame.into()
        }
    }
}
