//! Reads that L1 may answer: hit, join, lease or pass by, decided in one critical section of L1 for one key. Strings are
//! kept as their payload, from which `STRLEN`, `GETRANGE`, `EXISTS`, `TTL` and `TYPE` are answered as well; every other
//! read is kept as its reply.

use std::rc::Rc;

use super::client::{Client, State, write_frame};
use super::flight::{FillGuard, Follower};
use super::local::integer;
use super::outbox::{BY_REFERENCE_BYTES, Charge, Ready, Source, Touched};
use super::request::{Reason, Request, Step, forward, pin, send};
use super::waiter::{Effect, FillKind, Waiter};
use super::worker::{Link, Worker};
use crate::cache::{Asker, Decision, Expiry, LeaseId, Leasing, Own, Query, View, ViewValue, name_hash};
use crate::command::Cache;
use crate::resp::convert::Rule;
use crate::resp::{Version, encode};

/// A read that L1 may know. Its connection takes requests.
pub fn cached(worker: &Rc<Worker>, client: &Rc<Client>, link: &Rc<Link>, request: &Request<'_>) -> Step {
    let args = request.args;
    match request.spec.cache {
        Cache::Get => single(worker, client, link, request, b"", FillKind::Payload),
        Cache::Mget => mget(worker, client, link, request),
        Cache::Exists if args.len() != 2 => forward(worker, client, link, request),
        Cache::Exists | Cache::Strlen | Cache::Getrange | Cache::Type => {
            if derived(worker, client, link, request) {
                return Step::DONE;
            }
            reply(worker, client, link, request)
        }
        Cache::Ttl | Cache::Pttl => {
            if derived(worker, client, link, request) {
                return Step::DONE;
            }
            forward(worker, client, link, request)
        }
        Cache::Reply => reply(worker, client, link, request),
        Cache::No => forward(worker, client, link, request),
    }
}

/// A read that is kept as its reply: the variant is the command and every argument but the key.
fn reply(worker: &Rc<Worker>, client: &Rc<Client>, link: &Rc<Link>, request: &Request<'_>) -> Step {
    let mut variant = std::mem::take(&mut *worker.variant.borrow_mut());
    variant.clear();
    variant.extend_from_slice(&request.spec.id.to_le_bytes());
    for arg in request.args.iter().skip(2) {
        variant.extend_from_slice(&(arg.len() as u32).to_le_bytes());
        variant.extend_from_slice(arg);
    }
    let step = if variant.len() > LONGEST_VARIANT_BYTES {
        forward(worker, client, link, request)
    } else {
        single(
            worker,
            client,
            link,
            request,
            &variant,
            FillKind::Reply {
                absent: request.spec.absent,
            },
        )
    };
    *worker.variant.borrow_mut() = variant;
    step
}

/// Arguments longer than this are not worth keeping.
const LONGEST_VARIANT_BYTES: usize = 4096;

fn single(
    worker: &Rc<Worker>,
    client: &Rc<Client>,
    link: &Rc<Link>,
    request: &Request<'_>,
    variant: &[u8],
    kind: FillKind,
) -> Step {
    let name = request.args.arg(1);
    let hash = name_hash(name);
    let is_large = worker.is_known_large(&Touched::One(hash));
    let mut state = client.state.borrow_mut();
    let State {
        outbox,
        version,
        db,
        floor_us,
        ..
    } = &mut *state;
    let query = Query {
        hash,
        db: *db,
        name,
        variant,
    };
    let asker = Asker {
        now_us: request.now_us,
        link: link.sink.link,
        own: outbox.own(hash),
        floor_us: *floor_us,
    };
    let must_wait = outbox.must_wait_for_flight(&Touched::One(hash));
    let leasing = if must_wait || is_large {
        Leasing::Denied
    } else {
        Leasing::Allowed
    };
    let follower = Follower {
        worker: worker.index,
        place: client.place.get(),
        client: client.meta.id,
        sequence: outbox.next_sequence(),
        version: *version,
    };
    let decision = worker.shared.cache.decide(
        &query,
        &asker,
        leasing,
        || follower,
        |view| outbox.answer_now(|ready| write_view(ready, &view, kind, *version, request)),
    );
    let counters = worker.counters();
    match decision {
        Decision::Hit(()) => {
            counters.l1_hits_total.add(1);
            Step::DONE
        }
        Decision::Joined { flight, link: leader } => {
            counters.l1_misses_total.add(1);
            counters.followers_total.add(1);
            let source = if leader == link.sink.link {
                Source::Flight(flight)
            } else {
                Source::FlightElsewhere(flight)
            };
            outbox.expect(Touched::One(hash), source);
            Step::DONE
        }
        Decision::Leased(lease) => {
            counters.l1_misses_total.add(1);
            let sequence = outbox.expect(Touched::One(hash), Source::Flight(lease.flight()));
            let version = *version;
            drop(state);
            lead(worker, client, link, request, lease, kind, sequence, version);
            Step::DONE
        }
        Decision::Forward if must_wait => Step::Wait,
        Decision::Forward => {
            counters.l1_misses_total.add(1);
            drop(state);
            if is_large {
                return pin(client, Reason::Side);
            }
            send(
                worker,
                client,
                link,
                request,
                Touched::One(hash),
                Effect::Read(Touched::One(hash)),
            )
        }
    }
}

/// Sends the read and its PTTL; the reply of the second answers the leader and all followers.
#[expect(clippy::too_many_arguments, reason = "the parts of one miss, used once")]
fn lead(
    worker: &Rc<Worker>,
    client: &Rc<Client>,
    link: &Rc<Link>,
    request: &Request<'_>,
    lease: LeaseId,
    kind: FillKind,
    sequence: u64,
    version: Version,
) {
    let hash = name_hash(request.args.arg(1));
    worker.counters().shared_total.add(1);
    let rule = request.spec.rule(request.args);
    let guard = FillGuard::new(worker, lease);
    link.send_with(request.now_us, |out, expect| {
        out.extend_from_slice(request.raw);
        expect(Waiter {
            to: None,
            version,
            rule: Rule::General,
            effect: Effect::FillRead(lease, hash),
        });
        encode::command(out, [&b"PTTL"[..], request.args.arg(1)].into_iter());
        expect(Waiter {
            to: Some((Rc::clone(client), sequence)),
            version,
            rule,
            effect: Effect::FillTtl(guard, kind),
        });
    });
}

/// Tries to answer from an entry that some other read has left. True: answered.
fn derived(worker: &Rc<Worker>, client: &Rc<Client>, link: &Rc<Link>, request: &Request<'_>) -> bool {
    let name = request.args.arg(1);
    let hash = name_hash(name);
    let mut state = client.state.borrow_mut();
    let State {
        outbox, db, floor_us, ..
    } = &mut *state;
    let own = outbox.own(hash);
    if own != Own::Clear {
        return false;
    }
    let query = Query {
        hash,
        db: *db,
        name,
        variant: b"",
    };
    let asker = Asker {
        now_us: request.now_us,
        link: link.sink.link,
        own,
        floor_us: *floor_us,
    };
    let cache = &worker.shared.cache;
    let derived = match cache
        .peek(&query, &asker, |view| derive(&view, Of::String, request))
        .flatten()
    {
        None if matches!(
            request.spec.cache,
            Cache::Exists | Cache::Type | Cache::Ttl | Cache::Pttl
        ) =>
        {
            cache
                .peek_any(&query, &asker, |view| derive(&view, Of::Any, request))
                .flatten()
        }
        derived => derived,
    };
    let Some(derived) = derived else { return false };
    outbox.answer_now(|ready| derived.write(ready));
    worker.counters().l1_hits_total.add(1);
    true
}

/// What kind of entry is looked at.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Of {
    /// That of GET: the key is a string or absent.
    String,
    /// Some read's.
    Any,
}

/// What can be said from an entry of the key.
enum Derived {
    Integer(i64),
    Simple(&'static str),
    Bulk(Vec<u8>),
}

impl Derived {
    fn write(&self, ready: &mut Ready) {
        match self {
            Derived::Integer(n) => encode::integer(&mut ready.bytes, *n),
            Derived::Simple(text) => encode::simple(&mut ready.bytes, text),
            Derived::Bulk(bytes) => encode::bulk(&mut ready.bytes, bytes),
        }
    }
}

fn derive(view: &View<'_>, of: Of, request: &Request<'_>) -> Option<Derived> {
    let payload: Option<&[u8]> = match view.value {
        ViewValue::Absent(_) => None,
        ViewValue::Small(payload) => Some(payload),
        ViewValue::Large(payload) => Some(payload),
    };
    match request.spec.cache {
        Cache::Exists => Some(Derived::Integer(i64::from(payload.is_some()))),
        Cache::Strlen => Some(Derived::Integer(payload.map_or(0, |p| p.len() as i64))),
        Cache::Getrange => {
            let bound = |i| integer(request.args.arg(i));
            let (from, to) = (bound(2)?, bound(3)?);
            Some(Derived::Bulk(range(payload.unwrap_or_default(), from, to).to_vec()))
        }
        Cache::Type if payload.is_none() => Some(Derived::Simple("none")),
        Cache::Type if of == Of::String => Some(Derived::Simple("string")),
        Cache::Ttl | Cache::Pttl => {
            let left_ms = match (payload, view.expiry) {
                (None, _) => return Some(Derived::Integer(-2)),
                (_, Expiry::Unknown) => return None,
                (_, Expiry::Never) => return Some(Derived::Integer(-1)),
                (_, Expiry::At(at_us)) => (at_us.saturating_sub(request.now_us) / 1000) as i64,
            };
            // Redis rounds to the nearest second (ttlGenericCommand).
            Some(Derived::Integer(if request.spec.cache == Cache::Ttl {
                (left_ms + 500) / 1000
            } else {
                left_ms
            }))
        }
        _ => None,
    }
}

/// The part of a string that GETRANGE means.
fn range(payload: &[u8], from: i64, to: i64) -> &[u8] {
    let len = payload.len() as i64;
    if from < 0 && to < 0 && from > to {
        return &[];
    }
    let clamp = |i: i64| if i < 0 { (len.saturating_add(i)).max(0) } else { i };
    let (from, to) = (clamp(from), clamp(to).min(len - 1));
    if len == 0 || from > to {
        &[]
    } else {
        &payload[from as usize..=to as usize]
    }
}

fn write_view(ready: &mut Ready, view: &View<'_>, kind: FillKind, version: Version, request: &Request<'_>) {
    match (&view.value, kind) {
        (ViewValue::Absent(_), FillKind::Payload) => encode::null(&mut ready.bytes, version),
        (ViewValue::Small(payload), FillKind::Payload) => encode::bulk(&mut ready.bytes, payload),
        (ViewValue::Large(payload), FillKind::Payload) => write_large(ready, payload),
        (ViewValue::Absent(frame) | ViewValue::Small(frame), FillKind::Reply { .. }) => {
            write_reply(ready, frame, None, view.is_plain, version, request);
        }
        (ViewValue::Large(frame), FillKind::Reply { .. }) => {
            write_reply(ready, frame, Some(frame), view.is_plain, version, request);
        }
    }
}

fn write_large(ready: &mut Ready, payload: &bytes::Bytes) {
    ready.bytes.push(b'$');
    ready
        .bytes
        .extend_from_slice(itoa::Buffer::new().format(payload.len()).as_bytes());
    ready.bytes.extend_from_slice(b"\r\n");
    if payload.len() < BY_REFERENCE_BYTES {
        ready.bytes.extend_from_slice(payload);
    } else {
        ready.push_shared(payload.clone(), Charge::Own);
    }
    ready.bytes.extend_from_slice(b"\r\n");
}

fn write_reply(
    ready: &mut Ready,
    frame: &[u8],
    shared: Option<&bytes::Bytes>,
    is_plain: bool,
    version: Version,
    request: &Request<'_>,
) {
    if is_plain || version == Version::Resp3 {
        match shared {
            Some(shared) => ready.push_shared(shared.clone(), Charge::Own),
            None => ready.bytes.extend_from_slice(frame),
        }
    } else {
        write_frame(ready, frame, shared, version, &request.spec.rule(request.args));
    }
}

/// All keys from L1, if their entries existed together; otherwise the whole command goes upstream and fills what it may.
fn mget(worker: &Rc<Worker>, client: &Rc<Client>, link: &Rc<Link>, request: &Request<'_>) -> Step {
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
        if cache.peek_many(&queries, &asker, |_, view| {
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
        return pin(client, Reason::Side);
    }
    let leases: Box<[(usize, LeaseId)]> = if keys > MOST_KEYS {
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
            effect,
        });
        for (i, guard) in guards {
            encode::command(out, [&b"PTTL"[..], request.args.arg(i + 1)].into_iter());
            let effect = Effect::FillTtl(guard, FillKind::Payload);
            expect(Waiter {
                to: None,
                version,
                rule: Rule::General,
                effect,
            });
        }
    });
    Step::DONE
}

/// An MGET of more keys neither asks nor fills L1: it would hold many shards at once.
const MOST_KEYS: usize = 1024;
