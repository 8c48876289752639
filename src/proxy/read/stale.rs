//! Reads of what only the disk has, while the upstream cannot be asked. Nothing is leased, since there is nobody to fill: what
//! is found is shown, by the rules of a stale hit at that moment, to the one who asked. Otherwise he is told that the upstream
//! is away; or, if it is back by then, the read is sent.
//!
//! His later requests on the key wait meanwhile, as they do behind any read that is looked for on the disk.

use std::rc::Rc;

use bytes::Bytes;

use super::below;
use super::{Request, Sought};
use crate::cache::l3::Found;
use crate::cache::{Own, Query, Wanting};
use crate::proxy::client::Client;
use crate::proxy::cluster::redirect::routed;
use crate::proxy::outbox::{Source, Touched};
use crate::proxy::request::Step;
use crate::proxy::waiter::{Answer, Effect, FillKind, Waiter};
use crate::proxy::worker::Worker;
use crate::resp::Version;
use crate::resp::convert::Rule;
use crate::upstream::connection::SHARED_FRAME_BYTES;

/// A client that waits for it.
pub(super) struct Wanted {
    client: Rc<Client>,
    sequence: u64,
    version: Version,
    rule: Rule,
    kind: FillKind,
    hash: u64,
    db: u32,
    /// Of the cluster.
    slot: u16,
    raw: Box<[u8]>,
}

/// Has the disk asked, if it may have the entry. `None`: it has not, and L1 has none.
pub(super) fn look(
    worker: &Rc<Worker>,
    client: &Rc<Client>,
    request: &Request<'_>,
    sought: &Sought<'_>,
) -> Option<Step> {
    worker.shared.cache.l3()?;
    let mut state = client.state.borrow_mut();
    let touched = Touched::One(sought.hash);
    if state.outbox.must_wait_for_flight(&touched) {
        return Some(Step::Wait);
    }
    if state.outbox.own(sought.hash) != Own::Clear {
        return None;
    }
    let query = Query {
        hash: sought.hash,
        db: state.db,
        name: sought.name,
        variant: sought.variant,
    };
    let (place, done) = below::place(worker);
    if !worker
        .shared
        .cache
        .look_for(&query, Wanting::Stale, request.now_us, done)
    {
        return None;
    }
    let wanted = Wanted {
        client: Rc::clone(client),
        sequence: state.outbox.expect(touched, Source::Below),
        version: state.version,
        rule: request.spec.rule(request.args),
        kind: sought.kind,
        hash: sought.hash,
        db: state.db,
        slot: request.slot,
        raw: request.raw.into(),
    };
    drop(state);
    below::wait_for_stale(worker, place, wanted, request.now_us);
    Some(Step::DONE)
}

/// The disk has answered, or is not waited for any longer.
pub(super) fn answered(worker: &Rc<Worker>, wanted: Wanted, found: Option<&Found>, now_us: u64) {
    let cache = &worker.shared.cache;
    let floor_us = wanted.client.state.borrow().floor_us;
    // The upstream may be back.
    let is_away = worker.stale_link(wanted.db, wanted.slot).is_some();
    let Some(found) = found.filter(|found| is_away && cache.may_be_stale(found, floor_us, now_us)) else {
        return refuse_or_send(worker, wanted, now_us);
    };
    worker.counters().l3_hits_total.add(1);
    worker.counters().l3_stale_total.add(1);
    let frame = below::frame_of(found, wanted.kind);
    let answer = Answer::Frame {
        bytes: &frame,
        shared: (frame.len() >= SHARED_FRAME_BYTES).then_some(&frame),
        version: wanted.version,
        rule: &wanted.rule,
    };
    wanted.client.answer(wanted.sequence, answer, &worker.touched);
}

fn refuse_or_send(worker: &Rc<Worker>, wanted: Wanted, now_us: u64) {
    worker.counters().l3_misses_total.add(1);
    let error = match below::link_of(worker, wanted.db, wanted.slot) {
        Ok(link) => match link.availability() {
            Ok(()) => {
                worker.counters().shared_total.add(1);
                let effect = Effect::Read(Touched::One(wanted.hash));
                let raw = Bytes::from(wanted.raw);
                let waiter = Waiter {
                    to: Some((wanted.client, wanted.sequence)),
                    version: wanted.version,
                    rule: wanted.rule,
                    effect: routed(effect, wanted.slot, now_us, || raw.clone()),
                };
                return link.send(&raw, now_us, waiter);
            }
            Err(failure) => worker.unavailable_on(&link.sink, &failure),
        },
        Err(error) => error,
    };
    worker.counters().l2_errors_total.add(1);
    wanted
        .client
        .answer(wanted.sequence, Answer::Error(&error), &worker.touched);
}
