//! Reads of several keys, answered from L1 if their entries existed together at one moment; otherwise the whole request goes
//! upstream.

use std::rc::Rc;

use bytes::Bytes;

use super::{count_hits, missed, write_view};
use crate::cache::{Asker, LeaseId, Leasing, LinkId, Own, Query, ViewValue, Which, name_hash};
use crate::command::own;
use crate::proxy::client::{Client, State};
use crate::proxy::flight::FillGuard;
use crate::proxy::outbox::{Outbox, Ready, Source, Touched};
use crate::proxy::request::{Reason, Request, Step, pin};
use crate::proxy::waiter::{Effect, FillKind, Waiter};
use crate::proxy::worker::{Link, Trust, Worker};
use crate::resp::convert::Rule;
use crate::resp::{Version, encode};

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
    let queries = queries(request, &hashes, *db);
    let asker = Asker {
        now_us: request.now_us,
        link: link.sink.link,
        own: outbox.own_all(&hashes),
        floor_us: *floor_us,
        takes_stale: false,
    };
    let counters = worker.counters();
    if show(worker, outbox, &queries, &asker, *version, request) {
        return Step::DONE;
    }
    let touched = Touched::from_hashes(&hashes);
    if outbox.must_wait_for_flight(&touched) {
        return Step::Wait;
    }
    if worker.is_known_large(&touched) {
        drop(state);
        return pin(client, Reason::Bulk);
    }
    counters.l1_misses_total.add(keys as u64);
    let version = *version;
    let sequence = outbox.expect(touched, Source::Sent);
    drop(state);
    let leasing = match keys > MOST_KEYS || worker.is_moving(request.slot) {
        true => Leasing::Denied,
        false => Leasing::Allowed,
    };
    send_filling(
        worker,
        link,
        request,
        request.raw,
        (&queries, &asker, leasing),
        |effect| Waiter {
            to: Some((Rc::clone(client), sequence)),
            version,
            rule: Rule::General,
            effect: request.routed(effect, || Bytes::copy_from_slice(request.raw)),
        },
    );
    Step::DONE
}

/// Sends a read of several strings, which is `raw`, and behind it a `PTTL` for each of those that it may fill. `read` makes
/// what waits for the first reply. The request tells slot and time.
pub fn send_filling(
    worker: &Rc<Worker>,
    link: &Link,
    request: &Request<'_>,
    raw: &[u8],
    (queries, asker, leasing): (&[Query<'_>], &Asker, Leasing),
    read: impl FnOnce(Effect) -> Waiter,
) {
    let lease = |query| worker.shared.cache.lease_only(query, asker);
    let leases: Box<[(usize, LeaseId)]> = match leasing {
        Leasing::Denied => Box::default(),
        Leasing::Allowed => (0..)
            .zip(queries)
            .filter(|(_, query)| worker.is_watched(query.name))
            .filter_map(|(i, query)| Some((i, lease(query)?)))
            .collect(),
    };
    let guards: Vec<(usize, FillGuard)> = leases
        .iter()
        .map(|&(i, lease)| (i, FillGuard::new(worker, lease)))
        .collect();
    let hashes: Vec<u64> = queries.iter().map(|query| query.hash).collect();
    let touched = Touched::from_hashes(&hashes);
    worker.counters().shared_total.add(1);
    link.send_with(request.now_us, |out, expect| {
        out.extend_from_slice(raw);
        expect(read(Effect::Mget { touched, leases }));
        for (i, guard) in guards {
            let start = out.len();
            encode::command(out, [own::PTTL, queries[i].name].into_iter());
            let effect = Effect::FillTtl(guard, FillKind::Payload);
            expect(Waiter {
                to: None,
                version: Version::Resp3,
                rule: Rule::General,
                effect: request.routed(effect, || Bytes::copy_from_slice(&out[start..])),
            });
        }
    });
}

/// The same from entries that may be stale, or nothing. True: answered.
pub(super) fn stale_values(worker: &Worker, client: &Client, link: LinkId, request: &Request<'_>) -> bool {
    let hashes: Vec<u64> = request.args.iter().skip(1).map(name_hash).collect();
    let mut state = client.state.borrow_mut();
    let State {
        outbox,
        version,
        db,
        floor_us,
        ..
    } = &mut *state;
    let asker = Asker {
        now_us: request.now_us,
        link,
        own: outbox.own_all(&hashes),
        floor_us: *floor_us,
        takes_stale: true,
    };
    show(
        worker,
        outbox,
        &queries(request, &hashes, *db),
        &asker,
        *version,
        request,
    )
}

fn queries<'a>(request: &Request<'a>, hashes: &[u64], db: u32) -> Vec<Query<'a>> {
    let names = request.args.iter().skip(1);
    names
        .zip(hashes)
        .map(|(name, &hash)| Query {
            hash,
            db,
            name,
            variant: b"",
        })
        .collect()
}

/// Answers with all values, if L1 has them of one moment.
fn show(
    worker: &Worker,
    outbox: &mut Outbox,
    queries: &[Query<'_>],
    asker: &Asker,
    version: Version,
    request: &Request<'_>,
) -> bool {
    let keys = queries.len();
    if keys > MOST_KEYS || asker.own != Own::Clear {
        return false;
    }
    let mut answer = Ready::default();
    encode::array_header(&mut answer.bytes, keys);
    let mut stale = 0;
    let is_known = worker.shared.cache.peek_many(queries, asker, Which::This, |_, view| {
        stale += u64::from(view.is_stale);
        write_view(&mut answer, &view, FillKind::Payload, version, request);
    });
    if is_known {
        count_hits(worker, keys as u64, stale);
        worker.note_queries(queries);
        outbox.answer_now(|ready| ready.append(answer));
    }
    is_known
}

/// EXISTS of several keys: how many of the arguments name a key that is there, by whatever L1 knows of each.
pub(super) fn existence(worker: &Rc<Worker>, client: &Rc<Client>, link: &Rc<Link>, request: &Request<'_>) -> Step {
    if existence_known(worker, client, (link.sink.link, Trust::Vouched), request) {
        return Step::DONE;
    }
    let keys = request.args.len() - 1;
    missed(worker, client, link, request, keys as u64)
}

/// The same from L1 or not at all. True: answered.
pub(super) fn existence_known(
    worker: &Worker,
    client: &Client,
    (link, trust): (LinkId, Trust),
    request: &Request<'_>,
) -> bool {
    let hashes: Vec<u64> = request.args.iter().skip(1).map(name_hash).collect();
    if hashes.len() > MOST_KEYS {
        return false;
    }
    let mut state = client.state.borrow_mut();
    let asker = Asker {
        now_us: request.now_us,
        link,
        own: state.outbox.own_all(&hashes),
        floor_us: state.floor_us,
        takes_stale: trust == Trust::Stale,
    };
    let queries = queries(request, &hashes, state.db);
    let (mut count, mut stale) = (0, 0);
    let is_known = worker.shared.cache.peek_many(&queries, &asker, Which::Any, |_, view| {
        count += i64::from(!matches!(view.value, ViewValue::Absent(_)));
        stale += u64::from(view.is_stale);
    });
    if is_known {
        count_hits(worker, hashes.len() as u64, stale);
        worker.note_queries(&queries);
        state
            .outbox
            .answer_now(|ready| encode::integer(&mut ready.bytes, count));
    }
    is_known
}

/// A request of more keys neither asks nor fills L1: it would hold many shards at once.
pub const MOST_KEYS: usize = 1024;
