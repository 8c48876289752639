//! Reads of several keys, answered from L1 if their entries existed together at one moment; otherwise the whole request goes
//! upstream.

use std::rc::Rc;

use bytes::Bytes;

use super::{missed, write_view};
use crate::cache::{Asker, LeaseId, Own, Query, ViewValue, Which, name_hash};
use crate::proxy::client::{Client, State};
use crate::proxy::flight::FillGuard;
use crate::proxy::outbox::{Ready, Source, Touched};
use crate::proxy::request::{Reason, Request, Step, pin};
use crate::proxy::waiter::{Effect, FillKind, Waiter};
use crate::proxy::worker::{Link, Worker};
use crate::resp::convert::Rule;
use crate::resp::encode;

/// All keys from L1, if their entries existed together; otherwise the whole command goes upstream and fills what it may.
pub(super) fn values(worker: &Rc<Worker>, client: &Rc<Client>, link: &Rc<Link>, request: &Request<'_>) -> Step {
    let keys = request.args.len() - 1;
    let hashes: Vec<u64> = request.args.iter().skip(1).map(name_hash).collect();
    let mut state = client.state.borrow_mut();
    let State {
        outbox,
        version,
        db,
        floor_us,
        ..
    } = &mut *state;
    let queries: Vec<Query<'_>> = request
        .args
        .iter()
        .skip(1)
        .zip(&hashes)
        .map(|(name, &hash)| Query {
            hash,
            db: *db,
            name,
            variant: b"",
        })
        .collect();
    let own = outbox.own_all(&hashes);
    let asker = Asker {
        now_us: request.now_us,
        link: link.sink.link,
        own,
        floor_us: *floor_us,
    };
    let cache = &worker.shared.cache;
    let counters = worker.counters();
    if keys <= MOST_KEYS && own == Own::Clear {
        let mut answer = Ready::default();
        encode::array_header(&mut answer.bytes, keys);
        if cache.peek_many(&queries, &asker, Which::This, |_, view| {
            write_view(&mut answer, &view, FillKind::Payload, *version, request);
        }) {
            counters.l1_hits_total.add(keys as u64);
            outbox.answer_now(|ready| ready.append(answer));
            return Step::DONE;
        }
    }
    let touched = Touched::from_hashes(&hashes);
    if outbox.must_wait_for_flight(&touched) {
        return Step::Wait;
    }
    if worker.is_known_large(&touched) {
        drop(state);
        return pin(client, Reason::Bulk);
    }
    let leases: Box<[(usize, LeaseId)]> = if keys > MOST_KEYS || worker.is_moving(request.slot) {
        Box::default()
    } else {
        queries
            .iter()
            .enumerate()
            .filter_map(|(i, query)| Some((i, cache.lease_only(query, &asker)?)))
            .collect()
    };
    counters.l1_misses_total.add(keys as u64);
    counters.shared_total.add(1);
    let version = *version;
    let sequence = outbox.expect(touched.clone(), Source::Sent);
    drop(state);
    let guards: Vec<(usize, FillGuard)> = leases
        .iter()
        .map(|&(i, lease)| (i, FillGuard::new(worker, lease)))
        .collect();
    link.send_with(request.now_us, |out, expect| {
        out.extend_from_slice(request.raw);
        let effect = Effect::Mget { touched, leases };
        expect(Waiter {
            to: Some((Rc::clone(client), sequence)),
            version,
            rule: Rule::General,
            effect: request.routed(effect, || Bytes::copy_from_slice(request.raw)),
        });
        for (i, guard) in guards {
            let start = out.len();
            encode::command(out, [&b"PTTL"[..], request.args.arg(i + 1)].into_iter());
            let effect = Effect::FillTtl(guard, FillKind::Payload);
            expect(Waiter {
                to: None,
                version,
                rule: Rule::General,
                effect: request.routed(effect, || Bytes::copy_from_slice(&out[start..])),
            });
        }
    });
    Step::DONE
}

/// EXISTS of several keys: how many of the arguments name a key that is there, by whatever L1 knows of each.
pub(super) fn existence(worker: &Rc<Worker>, client: &Rc<Client>, link: &Rc<Link>, request: &Request<'_>) -> Step {
    let keys = request.args.len() - 1;
    if keys <= MOST_KEYS
        && let Some(count) = count_known(worker, client, link, request)
    {
        worker.counters().l1_hits_total.add(keys as u64);
        let mut state = client.state.borrow_mut();
        state
            .outbox
            .answer_now(|ready| encode::integer(&mut ready.bytes, count));
        return Step::DONE;
    }
    missed(worker, client, link, request, keys as u64)
}

fn count_known(worker: &Worker, client: &Client, link: &Link, request: &Request<'_>) -> Option<i64> {
    let names = || request.args.iter().skip(1);
    let hashes: Vec<u64> = names().map(name_hash).collect();
    let state = client.state.borrow();
    let asker = Asker {
        now_us: request.now_us,
        link: link.sink.link,
        own: state.outbox.own_all(&hashes),
        floor_us: state.floor_us,
    };
    let queries: Vec<Query<'_>> = names()
        .zip(&hashes)
        .map(|(name, &hash)| Query {
            hash,
            db: state.db,
            name,
            variant: b"",
        })
        .collect();
    let mut count = 0;
    let is_known = worker.shared.cache.peek_many(&queries, &asker, Which::Any, |_, view| {
        count += i64::from(!matches!(view.value, ViewValue::Absent(_)));
    });
    is_known.then_some(count)
}

/// A request of more keys neither asks nor fills L1: it would hold many shards at once.
const MOST_KEYS: usize = 1024;
