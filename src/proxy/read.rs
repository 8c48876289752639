//! Reads that L1 may answer: hit, join, lease or pass by, decided in one critical section of L1 for one key. Strings are
//! kept as their payload, from which `STRLEN`, `GETRANGE`, `EXISTS`, `TTL` and `TYPE` are answered as well; every other
//! read is kept as its reply. Reads of several keys are in [`several`] and [`joint`].

pub mod below;
pub mod hits;
pub mod joint;
pub mod revalidation;
mod several;
mod stale;
pub mod together;
mod values;

pub use several::{MOST_KEYS, send_filling};
pub use values::{MOST_UNPACKED_BYTES, Values};

use std::rc::Rc;

use bytes::Bytes;

use super::client::{Client, State, write_frame};
use super::cluster::redirect::routed;
use super::flight::{FillGuard, Follower};
use super::local::integer;
use super::outbox::{Charge, Ready, Source, Touched};
use super::request::{Reason, Request, Road, Step, forward, pin, send};
use super::waiter::{Effect, FillKind, Waiter};
use super::worker::{Link, Trust, Worker};
use crate::cache::{Decision, Expiry, Leasing, LinkId, Own, Packed, Query, View, ViewValue, name_hash};
use crate::command::{Cache, own};
use crate::resp::convert::Rule;
use crate::resp::{Version, encode};

/// A read that L1 may know. Its connection takes requests.
pub fn cached(worker: &Rc<Worker>, client: &Rc<Client>, link: &Rc<Link>, request: &Request<'_>) -> Step {
    let args = request.args;
    let vouched = (link.sink.link, Trust::Vouched);
    match request.spec.cache_of(args) {
        Cache::Get => {
            let sought = Sought::new(args.arg(1), b"", FillKind::Payload);
            single(worker, client, link, request, &sought)
        }
        Cache::Mget => several::values(worker, client, link, request),
        Cache::Exists if args.len() != 2 => several::existence(worker, client, link, request),
        Cache::Exists | Cache::Strlen | Cache::Getrange | Cache::Type => {
            if derived(worker, client, vouched, request) {
                return Step::DONE;
            }
            reply(worker, client, link, request, None)
        }
        Cache::Ttl | Cache::Pttl => {
            if derived(worker, client, vouched, request) {
                return Step::DONE;
            }
            missed(worker, client, link, request, 1)
        }
        Cache::Reply => reply(worker, client, link, request, None),
        Cache::Tracked if link.is_tracking() => reply(worker, client, link, request, None),
        Cache::Brief | Cache::Tracked => {
            let most_us = worker.shared.config.cache.bound.as_micros() as u64;
            reply(worker, client, link, request, Some(most_us))
        }
        Cache::No | Cache::Never(_) | Cache::Sub(_) => forward(worker, client, link, request),
    }
}

/// With `cache.max_stale`, while the upstream cannot be asked: tries to answer a cacheable read from an entry, even if nobody vouches for it any more.
/// What only the disk has comes later. `None`: there is nothing to answer from.
pub fn stale(worker: &Rc<Worker>, client: &Rc<Client>, request: &Request<'_>) -> Option<Step> {
    let (db, is_first) = {
        let state = client.state.borrow();
        (state.db, state.road == Road::Main || state.outbox.is_all_answered())
    };
    // Answers to scripts come first, as they would from the upstream.
    let link = worker.stale_link(db, request.slot).filter(|_| is_first)?;
    let args = request.args;
    let from = (link, Trust::Stale);
    let either = |sought: &Sought<'_>| match peek(worker, client, link, request, sought) {
        true => Some(Step::DONE),
        false => stale::look(worker, client, request, sought),
    };
    let is_answered = match request.spec.cache_of(args) {
        Cache::Get => return either(&Sought::new(args.arg(1), b"", FillKind::Payload)),
        Cache::Mget => return several::stale_values(worker, client, link, request),
        Cache::Exists if args.len() != 2 => return several::stale_existence(worker, client, link, request),
        Cache::Ttl | Cache::Pttl => derived(worker, client, from, request),
        Cache::Exists | Cache::Strlen | Cache::Getrange | Cache::Type if derived(worker, client, from, request) => true,
        Cache::Exists
        | Cache::Strlen
        | Cache::Getrange
        | Cache::Type
        | Cache::Reply
        | Cache::Brief
        | Cache::Tracked => {
            let found = with_variant(worker, request, |name, variant| {
                let absent = request.spec.absent.of(args);
                either(&Sought::new(name, variant, FillKind::Reply { absent, most_us: None }))
            });
            match found {
                Some(found) => return found,
                None => joint::stale(worker, client, link, request),
            }
        }
        Cache::No | Cache::Never(_) | Cache::Sub(_) => false,
    };
    is_answered.then_some(Step::DONE)
}

/// A hit or nothing.
fn peek(worker: &Worker, client: &Client, link: LinkId, request: &Request<'_>, sought: &Sought<'_>) -> bool {
    let mut state = client.state.borrow_mut();
    let asker = state.asker(state.outbox.own(sought.hash), request.now_us, link, Trust::Stale);
    let State {
        outbox, version, db, ..
    } = &mut *state;
    let query = Query {
        hash: sought.hash,
        db: *db,
        name: sought.name,
        variant: sought.variant,
    };
    let hit = worker.shared.cache.peek(&query, &asker, |view| {
        outbox.answer_now(|ready| write_view(ready, &view, sought.kind, *version, request));
        view.is_stale
    });
    if let Some(is_stale) = hit {
        count_hits(worker, 1, u64::from(is_stale));
        worker.note_hit(*db, sought.name);
    }
    hit.is_some()
}

/// So many keys were answered for from L1, of these so many from stale entries.
pub fn count_hits(worker: &Worker, keys: u64, stale: u64) {
    let counters = worker.counters();
    counters.l1_hits_total.add(keys);
    if stale > 0 {
        counters.l1_stale_total.add(stale);
    }
}

/// The one reply that is asked for.
struct Sought<'a> {
    name: &'a [u8],
    hash: u64,
    variant: &'a [u8],
    kind: FillKind,
}

impl<'a> Sought<'a> {
    fn new(name: &'a [u8], variant: &'a [u8], kind: FillKind) -> Sought<'a> {
        Sought {
            name,
            hash: name_hash(name),
            variant,
            kind,
        }
    }
}

/// A read that is kept as its reply, for `most_us` at most: the variant is the command and every argument but the key.
fn reply(
    worker: &Rc<Worker>,
    client: &Rc<Client>,
    link: &Rc<Link>,
    request: &Request<'_>,
    most_us: Option<u64>,
) -> Step {
    let step = with_variant(worker, request, |name, variant| {
        let absent = request.spec.absent.of(request.args);
        let sought = Sought::new(name, variant, FillKind::Reply { absent, most_us });
        single(worker, client, link, request, &sought)
    });
    step.or_else(|| joint::read(worker, client, link, request))
        .unwrap_or_else(|| forward(worker, client, link, request))
}

/// Does it with the one key and the bytes that stand for the command and its other arguments. `None`: there is more than one
/// key, or too much else to be kept.
fn with_variant<R>(worker: &Worker, request: &Request<'_>, with: impl FnOnce(&[u8], &[u8]) -> R) -> Option<R> {
    let args = request.args;
    let key = request.spec.only_key(args)?;
    let mut variant = std::mem::take(&mut *worker.variant.borrow_mut());
    variant.clear();
    variant.extend_from_slice(&request.spec.id.to_le_bytes());
    for (_, arg) in args.iter().enumerate().skip(1).filter(|(at, _)| *at != key) {
        variant.extend_from_slice(&(arg.len() as u32).to_le_bytes());
        variant.extend_from_slice(arg);
    }
    let done = (variant.len() <= LONGEST_VARIANT_BYTES).then(|| with(args.arg(key), &variant));
    *worker.variant.borrow_mut() = variant;
    done
}

/// Arguments longer than this are not worth keeping.
const LONGEST_VARIANT_BYTES: usize = 4096;

/// Forwards a read of so many keys that is never filled itself.
fn missed(worker: &Rc<Worker>, client: &Rc<Client>, link: &Rc<Link>, request: &Request<'_>, keys: u64) -> Step {
    let step = forward(worker, client, link, request);
    if step == Step::DONE {
        worker.counters().l1_misses_total.add(keys);
    }
    step
}

fn single(
    worker: &Rc<Worker>,
    client: &Rc<Client>,
    link: &Rc<Link>,
    request: &Request<'_>,
    sought: &Sought<'_>,
) -> Step {
    let &Sought {
        name,
        hash,
        variant,
        kind,
    } = sought;
    let is_large = worker.is_known_large(&Touched::One(hash));
    let mut state = client.state.borrow_mut();
    let asker = state.asker(state.outbox.own(hash), request.now_us, link.sink.link, Trust::Vouched);
    let State {
        outbox, version, db, ..
    } = &mut *state;
    let query = Query {
        hash,
        db: *db,
        name,
        variant,
    };
    let must_wait = outbox.must_wait_for_flight(&Touched::One(hash));
    let leasing = if must_wait || is_large || worker.is_moving(request.slot) || !worker.is_watched(name) {
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
            worker.note_hit(*db, name);
            Step::DONE
        }
        Decision::Joined { flight, link: leader } => {
            counters.l1_misses_total.add(1);
            counters.followers_total.add(1);
            // A read of this worker that is still looked for on the disk may be sent behind what comes next.
            let is_sent = worker.shared.cache.l3().is_none();
            let source = if leader == link.sink.link && is_sent {
                Source::Flight(flight)
            } else {
                Source::FlightElsewhere(flight)
            };
            outbox.expect(Touched::One(hash), source);
            Step::DONE
        }
        Decision::Leased(lease) => {
            counters.l1_misses_total.add(1);
            // What is on the disk is as little for a client with unanswered requests on the key as a hit is.
            let is_below = asker.own == Own::Clear && below::look(worker, link, &query, request.now_us);
            let source = match is_below {
                true => Source::FlightElsewhere(lease.flight()),
                false => Source::Flight(lease.flight()),
            };
            let sequence = outbox.expect(Touched::One(hash), source);
            let lead = Lead {
                client: Rc::clone(client),
                sequence,
                version: *version,
                rule: request.spec.rule(request.args),
                hash,
                slot: request.slot,
                kind,
                guard: FillGuard::new(worker, lease),
            };
            drop(state);
            match is_below {
                true => below::wait(worker, link, lead, request.raw, name, request.now_us),
                false => lead.send(worker, link, request.raw, name, request.now_us),
            }
            Step::DONE
        }
        Decision::Forward if must_wait => Step::Wait,
        Decision::Forward => {
            counters.l1_misses_total.add(1);
            drop(state);
            if is_large {
                return pin(client, Reason::Bulk);
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

/// Who leads a flight, and how its reply is to be given to him and kept.
pub struct Lead {
    client: Rc<Client>,
    sequence: u64,
    version: Version,
    rule: Rule,
    hash: u64,
    /// Of the cluster.
    slot: u16,
    kind: FillKind,
    guard: FillGuard,
}

impl Lead {
    /// Sends the read and its PTTL; the reply of the second answers the leader and all followers.
    fn send(self, worker: &Worker, link: &Link, raw: &[u8], name: &[u8], now_us: u64) {
        let Some(lease) = self.guard.lease() else { return };
        let effect = Effect::FillRead(lease, self.hash);
        self.send_question(worker, link, (raw, effect), raw, name, now_us);
    }

    /// The same with another question in place of the read, if that is what the effect takes it for. `raw` is the read.
    #[inline]
    fn send_question(
        self,
        worker: &Worker,
        link: &Link,
        (question, effect): (&[u8], Effect),
        raw: &[u8],
        name: &[u8],
        now_us: u64,
    ) {
        worker.counters().shared_total.add(1);
        link.send_with(now_us, |out, expect| {
            out.extend_from_slice(question);
            expect(Waiter {
                to: None,
                version: self.version,
                rule: Rule::General,
                effect: routed(effect, self.slot, now_us, || Bytes::copy_from_slice(raw)),
            });
            encode::command(out, [own::PTTL, name].into_iter());
            let effect = Effect::FillTtl(self.guard, self.kind);
            expect(Waiter {
                to: Some((self.client, self.sequence)),
                version: self.version,
                rule: self.rule,
                effect: routed(effect, self.slot, now_us, Bytes::new),
            });
        });
    }
}

/// Tries to answer from an entry that some other read has left. True: answered.
fn derived(worker: &Worker, client: &Client, (link, trust): (LinkId, Trust), request: &Request<'_>) -> bool {
    let name = request.args.arg(1);
    let hash = name_hash(name);
    let mut state = client.state.borrow_mut();
    let asker = state.asker(state.outbox.own(hash), request.now_us, link, trust);
    if asker.own != Own::Clear {
        return false;
    }
    let State { outbox, db, .. } = &mut *state;
    let query = Query {
        hash,
        db: *db,
        name,
        variant: b"",
    };
    let mut is_stale = false;
    let mut derive = |view: View<'_>, of| {
        is_stale = view.is_stale;
        derive(&view, of, request)
    };
    let cache = &worker.shared.cache;
    let derived = match cache
        .peek_kept(&query, &asker, |view| derive(view, Of::String))
        .flatten()
    {
        None if matches!(
            request.spec.cache,
            Cache::Exists | Cache::Type | Cache::Ttl | Cache::Pttl
        ) =>
        {
            cache.peek_any(&query, &asker, |view| derive(view, Of::Any)).flatten()
        }
        derived => derived,
    };
    let Some(derived) = derived else { return false };
    outbox.answer_now(|ready| derived.write(ready));
    count_hits(worker, 1, u64::from(is_stale));
    worker.note_hit(*db, name);
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
    /// Of a value that is still compressed.
    Part(Packed, i64, i64),
}

impl Derived {
    fn write(&self, ready: &mut Ready) {
        match self {
            Derived::Integer(n) => encode::integer(&mut ready.bytes, *n),
            Derived::Simple(text) => encode::simple(&mut ready.bytes, text),
            Derived::Bulk(bytes) => encode::bulk(&mut ready.bytes, bytes),
            Derived::Part(packed, from, to) => match packed.unpack() {
                Some(value) => encode::bulk(&mut ready.bytes, range(&value, *from, *to)),
                None => encode::error(&mut ready.bytes, UNPACKABLE),
            },
        }
    }
}

fn derive(view: &View<'_>, of: Of, request: &Request<'_>) -> Option<Derived> {
    let packed = view.value.packed();
    let payload: Option<&[u8]> = match view.value {
        ViewValue::Absent(_) => None,
        ViewValue::Small(payload) => Some(payload),
        ViewValue::Large(payload) => Some(payload),
        // That it is there, if nothing more is asked.
        ViewValue::Packed { .. } => Some(b""),
    };
    match request.spec.cache {
        Cache::Exists => Some(Derived::Integer(i64::from(payload.is_some()))),
        Cache::Strlen => {
            let length = match &packed {
                Some(packed) => packed.shown_bytes(),
                None => payload.map_or(0, <[u8]>::len),
            };
            Some(Derived::Integer(length as i64))
        }
        Cache::Getrange => {
            let bound = |i| integer(request.args.arg(i));
            let (from, to) = (bound(2)?, bound(3)?);
            if let Some(packed) = packed {
                return Some(Derived::Part(packed, from, to));
            }
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
        (value, FillKind::Payload) => write_payload(ready, value, version),
        (ViewValue::Absent(frame) | ViewValue::Small(frame), FillKind::Reply { .. }) => {
            write_reply(ready, frame, None, view.is_plain, version, request);
        }
        (ViewValue::Large(frame), FillKind::Reply { .. }) => {
            write_reply(ready, frame, Some(frame), view.is_plain, version, request);
        }
        (value @ ViewValue::Packed { .. }, FillKind::Reply { .. }) => match unpacked(value) {
            Some(frame) => write_reply(ready, &frame, Some(&frame), view.is_plain, version, request),
            None => encode::error(&mut ready.bytes, UNPACKABLE),
        },
    }
}

/// L1 unpacks what it shows; this is for what it shows as it is kept.
#[cold]
fn unpacked(value: &ViewValue<'_>) -> Option<Bytes> {
    value.packed()?.unpack()
}

const UNPACKABLE: &str = "ERR nearcache: a value in L1 cannot be decompressed";

/// The reply to `GET`.
#[inline]
fn write_payload(ready: &mut Ready, value: &ViewValue<'_>, version: Version) {
    match value {
        ViewValue::Absent(_) => encode::null(&mut ready.bytes, version),
        ViewValue::Small(payload) => encode::bulk(&mut ready.bytes, payload),
        ViewValue::Large(payload) => write_large(ready, payload),
        value @ ViewValue::Packed { .. } => match unpacked(value) {
            Some(payload) => write_large(ready, &payload),
            None => encode::error(&mut ready.bytes, UNPACKABLE),
        },
    }
}

fn write_large(ready: &mut Ready, payload: &bytes::Bytes) {
    ready.bytes.push(b'$');
    ready
        .bytes
        .extend_from_slice(itoa::Buffer::new().format(payload.len()).as_bytes());
    ready.bytes.extend_from_slice(b"\r\n");
    ready.push_shared(payload.clone(), Charge::Own);
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
