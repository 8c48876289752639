//! Reads of several keys whose reply is one thing: `SUNION`, `ZINTER`, `LCS` and their kin.
//!
//! Each of the keys gets an entry of its own, filled by one and the same read: that of the first key has the reply, those of the
//! others only stand for their keys. So everything that voids one of the keys, or ends its time, takes a part away. The reply
//! is shown if all parts are hits that existed together at one moment, as the values of an `MGET` have to be, and if all of
//! them carry the number of the same read: then at that moment none of the keys had changed since it.
//!
//! The PTTLs go in front of the read, not behind it as elsewhere: a key that is gone behind it may have been there for it, and
//! have expired since.
//!
//! Where pushes come by turn, nothing is kept: the read may be newer than the PTTLs without a push between them, and so voids
//! their leases as any reply does.

use std::rc::Rc;

use bytes::Bytes;

use super::{LONGEST_VARIANT_BYTES, count_hits, write_reply};
use crate::cache::{Asker, Fill, JOINT, LeaseId, LinkId, Own, Query, Value, ViewValue, Which, name_hash};
use crate::command::{Keys, own};
use crate::proxy::client::{Client, State};
use crate::proxy::flight::FillGuard;
use crate::proxy::outbox::{Outbox, Ready, Source, Touched};
use crate::proxy::request::{Reason, Request, Step, pin, send};
use crate::proxy::waiter::{Effect, Waiter};
use crate::proxy::worker::{Link, Trust, Worker};
use crate::resp::convert::Rule;
use crate::resp::{Version, encode, reply};

/// Reads of more keys are not kept: each costs an entry.
const MOST_PARTS: usize = 64;

/// `None`: it is not a read whose reply depends on the keys that it names alone, or one of too many.
pub(super) fn read(worker: &Rc<Worker>, client: &Rc<Client>, link: &Rc<Link>, request: &Request<'_>) -> Option<Step> {
    let joint = Joint::of(request).filter(|_| !worker.shared.links.is_by_turn())?;
    let mut state = client.state.borrow_mut();
    let asker = state.asker(
        state.outbox.own_all(&joint.hashes),
        request.now_us,
        link.sink.link,
        Trust::Vouched,
    );
    let State {
        outbox, version, db, ..
    } = &mut *state;
    let queries = joint.queries(*db);
    if show(worker, outbox, &queries, &asker, *version, request) {
        return Some(Step::DONE);
    }
    let touched = Touched::from_hashes(&joint.hashes);
    if outbox.must_wait_for_flight(&touched) {
        return Some(Step::Wait);
    }
    if worker.is_known_large(&touched) {
        drop(state);
        return Some(pin(client, Reason::Bulk));
    }
    worker.counters().l1_misses_total.add(queries.len() as u64);
    let Some(guards) = guards(worker, request, &queries, &asker) else {
        drop(state);
        let effect = Effect::Read(touched.clone());
        return Some(send(worker, client, link, request, touched, effect));
    };
    let version = *version;
    let sequence = outbox.expect(touched.clone(), Source::Sent);
    drop(state);
    worker.counters().shared_total.add(1);
    // Each for itself: should the connection be lost, the read alone is sent again.
    for (query, lease) in queries.iter().zip(guards.iter().filter_map(FillGuard::lease)) {
        let mut ttl = Vec::with_capacity(32 + query.name.len());
        encode::command(&mut ttl, [own::PTTL, query.name].into_iter());
        let waiter = Waiter {
            to: None,
            version: Version::Resp3,
            rule: Rule::General,
            effect: request.routed(Effect::JointTtl(lease), || Bytes::copy_from_slice(&ttl)),
        };
        link.send(&ttl, request.now_us, waiter);
    }
    let parts = Parts {
        touched,
        slot: request.slot,
        guards,
    };
    let waiter = Waiter {
        to: Some((Rc::clone(client), sequence)),
        version,
        rule: request.spec.rule(request.args),
        effect: request.routed(Effect::Joint(Box::new(parts)), || Bytes::copy_from_slice(request.raw)),
    };
    link.send(request.raw, request.now_us, waiter);
    Some(Step::DONE)
}

/// The same from entries that may be stale, or nothing. True: answered.
pub(super) fn stale(worker: &Worker, client: &Client, link: LinkId, request: &Request<'_>) -> bool {
    let Some(joint) = Joint::of(request) else { return false };
    let mut state = client.state.borrow_mut();
    let asker = state.asker(state.outbox.own_all(&joint.hashes), request.now_us, link, Trust::Stale);
    let State {
        outbox, version, db, ..
    } = &mut *state;
    show(worker, outbox, &joint.queries(*db), &asker, *version, request)
}

/// A read whose reply is kept in parts.
struct Joint<'a> {
    /// Each once, in the order in which they are named.
    names: Vec<&'a [u8]>,
    hashes: Vec<u64>,
    /// Stands for the request: the variant of the part with the reply.
    whole: Vec<u8>,
    /// That of the others. It need not tell requests apart, as the number of the read does.
    part: [u8; 10],
}

impl<'a> Joint<'a> {
    fn of(request: &Request<'a>) -> Option<Joint<'a>> {
        let args = request.args;
        if !request.spec.is_of_its_keys(args) || request.raw.len() > LONGEST_VARIANT_BYTES {
            return None;
        }
        let mut names: Vec<&[u8]> = Vec::new();
        let keys = request.spec.keys(args, &mut |name| names.push(name));
        if keys != Keys::Known || names.is_empty() || names.len() > MOST_PARTS {
            return None;
        }
        let mut count = 0;
        for i in 0..names.len() {
            if !names[..count].contains(&names[i]) {
                names[count] = names[i];
                count += 1;
            }
        }
        names.truncate(count);
        let mut head = request.spec.id.to_le_bytes();
        head[1] |= JOINT;
        let mut whole = Vec::with_capacity(head.len() + request.raw.len());
        whole.extend_from_slice(&head);
        for arg in args.iter().skip(1) {
            whole.extend_from_slice(&(arg.len() as u32).to_le_bytes());
            whole.extend_from_slice(arg);
        }
        let mut part = [0; 10];
        part[..2].copy_from_slice(&head);
        part[2..].copy_from_slice(&name_hash(&whole).to_le_bytes());
        Some(Joint {
            hashes: names.iter().map(|name| name_hash(name)).collect(),
            names,
            whole,
            part,
        })
    }

    fn queries(&self, db: u32) -> Vec<Query<'_>> {
        let names = self.names.iter().zip(&self.hashes).enumerate();
        names
            .map(|(i, (name, &hash))| Query {
                hash,
                db,
                name,
                variant: if i == 0 { &self.whole } else { &self.part },
            })
            .collect()
    }
}

/// The right to fill every part, or none: what is not there altogether is never shown.
fn guards(worker: &Rc<Worker>, request: &Request<'_>, queries: &[Query<'_>], asker: &Asker) -> Option<Vec<FillGuard>> {
    if worker.is_moving(request.slot) || !queries.iter().all(|query| worker.is_watched(query.name)) {
        return None;
    }
    let lease = |query| worker.shared.cache.lease_anew(query, asker);
    let each = queries.iter();
    each.map(|query| Some(FillGuard::new(worker, lease(query)?))).collect()
}

/// Answers with the reply, if L1 has all its parts of one read and of one moment.
fn show(
    worker: &Worker,
    outbox: &mut Outbox,
    queries: &[Query<'_>],
    asker: &Asker,
    version: Version,
    request: &Request<'_>,
) -> bool {
    if asker.own != Own::Clear {
        return false;
    }
    let mut answer = Ready::default();
    let (mut first, mut others, mut packed, mut stale) = (None, None, None, 0);
    let mut is_one = true;
    let is_known = worker.shared.cache.peek_many(queries, asker, Which::This, |i, view| {
        stale += u64::from(view.is_stale);
        if i > 0 {
            let number = Part::of(&view.value).map(|part| part.number);
            is_one &= number.is_some() && (i == 1 || number == others);
            others = number;
        } else {
            packed = view.value.packed();
            first = Part::of(&view.value).and_then(|part| part.write(&mut answer, version, request));
        }
    });
    // Not under the locks.
    if let Some(bytes) = packed.filter(|_| is_known).and_then(|packed| packed.unpack()) {
        first = Part::of(&ViewValue::Large(&bytes)).and_then(|part| part.write(&mut answer, version, request));
    }
    is_one &= first.is_some() && (queries.len() == 1 || first == others);
    let is_known = is_known && is_one;
    if is_known {
        count_hits(worker, queries.len() as u64, stale);
        worker.note_queries(queries);
        outbox.answer_now(|ready| ready.append(answer));
    }
    is_known
}

/// What an entry of a joint read has: the number of the read as an integer frame, and behind it, in the first, its reply.
struct Part<'a> {
    number: i64,
    reply: &'a [u8],
    shared: Option<Bytes>,
}

impl<'a> Part<'a> {
    /// `None`: it has to be unpacked.
    fn of(value: &ViewValue<'a>) -> Option<Part<'a>> {
        let (bytes, shared) = match *value {
            ViewValue::Absent(bytes) | ViewValue::Small(bytes) => (bytes, None),
            ViewValue::Large(bytes) => (&bytes[..], Some(bytes)),
            ViewValue::Packed { .. } => return None,
        };
        let len = reply::frame_len(bytes).ok().flatten()?;
        let (number, reply) = bytes.split_at_checked(len)?;
        Some(Part {
            number: reply::integer(number)?,
            reply,
            shared: shared.map(|bytes| bytes.slice(len..)),
        })
    }

    /// Writes the reply, and returns its number. `None`: there is no reply.
    fn write(self, answer: &mut Ready, version: Version, request: &Request<'_>) -> Option<i64> {
        if self.reply.is_empty() {
            return None;
        }
        write_reply(answer, self.reply, self.shared.as_ref(), false, version, request);
        Some(self.number)
    }
}

/// The right to keep the reply of a read that is under way, a part for each of its keys.
pub struct Parts {
    /// The keys.
    pub touched: Touched,
    /// Of the cluster.
    pub slot: u16,
    guards: Vec<FillGuard>,
}

impl Parts {
    pub fn leases(&self) -> impl Iterator<Item = Option<LeaseId>> {
        self.guards.iter().map(FillGuard::lease)
    }

    /// The reply is there, and before it came those to the PTTLs: keeps it, if each of them has told something. What has become
    /// of a key since its PTTL was answered has voided its lease, so the reply is of keys that were as the PTTLs said; whatever
    /// expired in between is over.
    pub fn land(&mut self, worker: &Worker, frame: &[u8], ttls: &[Option<i64>], now_us: u64) {
        let Some(number) = self.leases().next().flatten().map(LeaseId::number) else {
            return;
        };
        if reply::is_error(frame) || ttls.contains(&None) {
            return;
        }
        let mark = format!(":{number}\r\n").into_bytes();
        let first = [&mark[..], frame].concat();
        for (i, (guard, pttl_ms)) in self.guards.iter_mut().zip(ttls.iter().flatten()).enumerate() {
            let part = if i == 0 { &first } else { &mark };
            let fill = Fill {
                value: match *pttl_ms == -2 {
                    true => Value::Absent(part),
                    false => Value::Bytes(part),
                },
                pttl_ms: *pttl_ms,
                is_plain: false,
                most_us: None,
            };
            if let Some(lease) = guard.end() {
                // Nobody follows it: none is decided by such a variant.
                worker.shared.cache.complete(lease, Some(fill), now_us);
            }
        }
    }
}
