//! Reads of several keys, answered from L1, and the disk ([`together`]), if their entries existed together at one moment;
//! otherwise the whole request goes upstream.

use std::rc::Rc;

use bytes::Bytes;

use super::together::{self, To, Way, What};
use super::{MOST_UNPACKED_BYTES, Values, count_hits, missed};
use crate::cache::{Asker, LeaseId, Leasing, LinkId, Own, Query, ViewValue, Which, name_hash};
use crate::command::own;
use crate::proxy::client::{Client, State};
use crate::proxy::cluster::redirect::routed;
use crate::proxy::flight::FillGuard;
use crate::proxy::outbox::{Outbox, Source, Touched};
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
    let asker = state.asker(
        state.outbox.own_all(&hashes),
        request.now_us,
        link.sink.link,
        Trust::Vouched,
    );
    let State {
        outbox, version, db, ..
    } = &mut *state;
    let queries = queries(request, &hashes, *db);
    let counters = worker.counters();
    let shown = show(worker, outbox, &queries, &asker, *version);
    if shown == Shown::All {
        return Step::DONE;
    }
    let touched = Touched::from_hashes(&hashes);
    if outbox.must_wait_for_flight(&touched) {
        return Step::Wait;
    }
    if shown == Shown::TooLarge || worker.is_known_large(&touched) {
        drop(state);
        return pin(client, Reason::Bulk);
    }
    let version = *version;
    if let Some(missing) = together::missing(worker, &queries, &asker, What::Values) {
        let sequence = outbox.expect(touched, Source::Below);
        drop(state);
        let to = To::Client(Rc::clone(client), sequence, version);
        let way = way(request, Some(link));
        together::look(worker, to, What::Values, (&queries, &asker, missing), way);
        return Step::DONE;
    }
    counters.l1_misses_total.add(keys as u64);
    let sequence = outbox.expect(touched, Source::Sent);
    drop(state);
    let leasing = match keys > MOST_KEYS || worker.is_moving(request.slot) {
        true => Leasing::Denied,
        false => Leasing::Allowed,
    };
    send_filling(
        worker,
        (link, request.slot, request.now_us),
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
/// what waits for the first reply. The slot is that of the cluster.
pub fn send_filling(
    worker: &Rc<Worker>,
    (link, slot, now_us): (&Link, u16, u64),
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
    link.send_with(now_us, |out, expect| {
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
                effect: routed(effect, slot, now_us, || Bytes::copy_from_slice(&out[start..])),
            });
        }
    });
}

fn way<'a>(request: &Request<'_>, link: Option<&'a Rc<Link>>) -> Way<'a> {
    Way {
        slot: request.slot,
        link,
        raw: Bytes::copy_from_slice(request.raw),
    }
}

/// The same from entries that may be stale, and what the disk has for those that L1 lacks. `None`: there is nothing to answer
/// from.
pub(super) fn stale_values(
    worker: &Rc<Worker>,
    client: &Rc<Client>,
    link: LinkId,
    request: &Request<'_>,
) -> Option<Step> {
    let hashes: Vec<u64> = request.args.iter().skip(1).map(name_hash).collect();
    let mut state = client.state.borrow_mut();
    let asker = state.asker(state.outbox.own_all(&hashes), request.now_us, link, Trust::Stale);
    let State {
        outbox, version, db, ..
    } = &mut *state;
    let queries = queries(request, &hashes, *db);
    if show(worker, outbox, &queries, &asker, *version) == Shown::All {
        return Some(Step::DONE);
    }
    drop(state);
    look_for_stale(worker, client, request, (&queries, &asker), What::Values)
}

/// Has the disk asked while the upstream cannot be. `None`: it does not have all that L1 lacks.
fn look_for_stale(
    worker: &Rc<Worker>,
    client: &Rc<Client>,
    request: &Request<'_>,
    (queries, asker): (&[Query<'_>], &Asker),
    what: What,
) -> Option<Step> {
    worker.shared.cache.l3()?;
    let hashes: Vec<u64> = queries.iter().map(|query| query.hash).collect();
    let touched = Touched::from_hashes(&hashes);
    let mut state = client.state.borrow_mut();
    if state.outbox.must_wait_for_flight(&touched) {
        return Some(Step::Wait);
    }
    let missing = together::missing(worker, queries, asker, what)?;
    let sequence = state.outbox.expect(touched, Source::Below);
    let to = To::Client(Rc::clone(client), sequence, state.version);
    drop(state);
    together::look(worker, to, what, (queries, asker, missing), way(request, None));
    Some(Step::DONE)
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

#[derive(Clone, Copy, PartialEq, Eq)]
enum Shown {
    All,
    /// L1 lacks one, or they are not of one moment.
    Nothing,
    /// L1 has them, and it is too much to be unpacked at once.
    TooLarge,
}

/// Answers with all values, if L1 has them of one moment.
fn show(worker: &Worker, outbox: &mut Outbox, queries: &[Query<'_>], asker: &Asker, version: Version) -> Shown {
    let keys = queries.len();
    if keys > MOST_KEYS || asker.own != Own::Clear {
        return Shown::Nothing;
    }
    let mut values = Values::new(keys, version);
    let mut stale = 0;
    let is_known = worker.shared.cache.peek_many(queries, asker, Which::This, |_, view| {
        stale += u64::from(view.is_stale);
        values.push(&view.value);
    });
    // Nobody else has them while the upstream is away.
    if is_known && values.unpacked_bytes() > MOST_UNPACKED_BYTES && !asker.takes_stale {
        return Shown::TooLarge;
    }
    let Some(answer) = is_known.then(|| values.finish()).flatten() else {
        return Shown::Nothing;
    };
    count_hits(worker, keys as u64, stale);
    worker.note_queries(queries);
    outbox.answer_now(|ready| ready.append(answer));
    Shown::All
}

/// EXISTS of several keys: how many of the arguments name a key that is there, by whatever L1 knows of each.
pub(super) fn existence(worker: &Rc<Worker>, client: &Rc<Client>, link: &Rc<Link>, request: &Request<'_>) -> Step {
    let hashes: Vec<u64> = request.args.iter().skip(1).map(name_hash).collect();
    let mut state = client.state.borrow_mut();
    let asker = state.asker(
        state.outbox.own_all(&hashes),
        request.now_us,
        link.sink.link,
        Trust::Vouched,
    );
    let queries = queries(request, &hashes, state.db);
    if show_existence(worker, &mut state.outbox, &queries, &asker) {
        return Step::DONE;
    }
    let touched = Touched::from_hashes(&hashes);
    if !state.outbox.must_wait_for_flight(&touched)
        && let Some(missing) = together::missing(worker, &queries, &asker, What::Count)
    {
        let sequence = state.outbox.expect(touched, Source::Below);
        let to = To::Client(Rc::clone(client), sequence, state.version);
        drop(state);
        let way = way(request, Some(link));
        together::look(worker, to, What::Count, (&queries, &asker, missing), way);
        return Step::DONE;
    }
    drop(state);
    missed(worker, client, link, request, hashes.len() as u64)
}

/// The same from entries that may be stale, and what the disk has. `None`: there is nothing to answer from.
pub(super) fn stale_existence(
    worker: &Rc<Worker>,
    client: &Rc<Client>,
    link: LinkId,
    request: &Request<'_>,
) -> Option<Step> {
    let hashes: Vec<u64> = request.args.iter().skip(1).map(name_hash).collect();
    let mut state = client.state.borrow_mut();
    let asker = state.asker(state.outbox.own_all(&hashes), request.now_us, link, Trust::Stale);
    let queries = queries(request, &hashes, state.db);
    if show_existence(worker, &mut state.outbox, &queries, &asker) {
        return Some(Step::DONE);
    }
    drop(state);
    look_for_stale(worker, client, request, (&queries, &asker), What::Count)
}

/// Answers with the number of those that are there, if L1 knows all of one moment.
fn show_existence(worker: &Worker, outbox: &mut Outbox, queries: &[Query<'_>], asker: &Asker) -> bool {
    if queries.len() > MOST_KEYS {
        return false;
    }
    let (mut count, mut stale) = (0, 0);
    let is_known = worker.shared.cache.peek_many(queries, asker, Which::Any, |_, view| {
        count += i64::from(!matches!(view.value, ViewValue::Absent(_)));
        stale += u64::from(view.is_stale);
    });
    if is_known {
        count_hits(worker, queries.len() as u64, stale);
        worker.note_queries(queries);
        outbox.answer_now(|ready| encode::integer(&mut ready.bytes, count));
    }
    is_known
}

/// A request of more keys neither asks nor fills L1: it would hold many shards at once.
pub const MOST_KEYS: usize = 1024;
