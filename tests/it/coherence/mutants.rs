//! Known mistakes, each made at a seam around the product's own code: a call that is left out, comes too late, or is made
//! where it must not be. They prove that the walks can fail: every one of them must be found.

use std::rc::Rc;

use nearcache::cache::l3::{Found, KeyEnd, Origin};
use nearcache::cache::{
    Asker, Decision, Expiry, Fill, JOINT, L1, Leasing, LinkId, Own, Query, Value, View, ViewValue, name_hash,
};
use nearcache::proxy::Follower;
use nearcache::proxy::outbox::{Source, Touched};
use nearcache::proxy::read::revalidation::Told;
use nearcache::proxy::request::Step;
use nearcache::proxy::waiter::{Effect, FillKind, Waiter};
use nearcache::resp::convert::Rule;
use nearcache::resp::request::Args;
use nearcache::resp::{Version, reply};
use nearcache::upstream::connection::{Failure, Frame, Sink};

use super::check::Checked;
use super::plan::{
    ALL, CORE, CORE_BROADCAST, CORE_L3, FLOOR, FLOOR_L3, FLUSH, FLUSH_L3, JOINT as JOINT_SCENARIO, LOSS,
    LOSS_WHILE_READ_L3, MGET_FILLERS_L3, MGET_L3, MGET_LOSS_L3, MGET_MIXED, MGET_STALE_L3, MGET_TIME_L3, Op, PINNED,
    PINNED_L3, RESTART, RESTART_ALONE, RESTART_FLUSH, RESTART_LOSS, RESTART_TIME, SILENCE, SILENCE_BROADCAST, STALE,
    STALE_L3, STALE_TIME, STALE_TIME_L3, Scenario, TIME_WIDE, TIME_WIDE_L3, TWO_KEYS, TWO_KEYS_BROADCAST,
};
use super::rig::Rig;
use super::server::{Out, What};
use super::wire;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutant {
    /// What holds of pushes in order is taken to hold of those that come at the end of a turn.
    BroadcastAsTracking,
    /// An answer vouches for writes of its own turn, of which it may be ahead.
    OnePing,
    /// No mistake at all, by the way that the mutants take.
    Control,
    /// Pushes are not applied.
    IgnorePush,
    /// Pushes are applied in a later step than the replies behind them.
    PushThroughQueue,
    /// A push leaves a fill standing whose read was parsed and whose PTTL was not.
    PushSparesLanded,
    /// Of a push that names two keys only the first is used.
    FirstKeyOnly,
    IgnoreNullPush,
    /// A reply that passes by L1 leaves entries and leases.
    NoPassedBy,
    /// It drops entries, but leaves leases.
    PassedByKeepsLeases,
    /// The reply of a pinned connection leaves everything.
    PinnedPassesNothing,
    /// The acknowledgement of a write leaves everything.
    NoAckVoid,
    /// It drops entries, but leaves leases.
    AckKeepsLeases,
    /// It is applied after the client has seen it.
    LateAckVoid,
    /// It leaves what its own connection filled to the push that follows.
    AckSparesOwn,
    /// The acknowledgement of a flush leaves everything.
    NoFlushVoid,
    /// A voided lease inserts.
    InsertAfterVoid,
    /// The insert comes in a later step than the parse, and nothing voids it meanwhile.
    LateInsert,
    /// The value of an acknowledged SET is put into L1.
    PopulateOnWrite,
    /// A hit while the session's own request on the key is unanswered.
    HitOvertakesOwn,
    /// A join while it is.
    JoinOvertakesOwn,
    /// Later requests on the key are sent while the session follows another worker's flight.
    NoWaitForFlight,
    /// A flight is joined however long ago it was sent.
    JoinAnyAge,
    /// A connection of its own is used before earlier answers are there.
    NoPathWait,
    /// A reply about keys that nobody named sets no floor.
    NoFloor,
    /// A hit asks for the freshness of the session's connection, not of the filler's.
    FreshOfSession,
    /// A reply vouches from its parse on, not from the send of its request.
    FreshFromParse,
    /// Deadlines count from the parse.
    DeadlineFromParse,
    /// A value with the PTTL of an absent key is stored.
    IgnorePttlOfAbsent,
    /// An MGET takes entries of any fillers for a snapshot.
    MgetAnyFiller,
    /// Or if only the older one's filler has answered since.
    MgetOlderVouches,
    /// A reply about two keys is kept under the first of them alone.
    JointByFirstKey,
    /// Entries of a lost connection stay.
    KeepOnLoss,
    /// Nobody is told when a connection is lost.
    NoWakeOnLoss,
    /// Fills on a new connection to which the server sends no pushes.
    UntrackedReconnect,
    /// A lost read is sent again although its session has sent something later on its key.
    RepeatBehindWrite,
    /// Stale entries are shown however long ago anybody vouched for them.
    StaleForEver,
    /// What a lost connection filled is good again once it is there again.
    StaleSurvivesReturn,
    /// A stale entry is shown while the session's own request on the key is unanswered.
    StaleOvertakesOwn,
    /// A write of unknown outcome leaves the stale entry.
    UnknownWriteKeepsStale,
    /// What the disk has answered is shown though it was voided meanwhile.
    FoundThoughVoided,
    /// Or though its filler was lost.
    FoundOfAnyEpoch,
    /// It is kept as what the asker's connection filled.
    FoundAsOwn,
    /// It never expires.
    FoundForEver,
    /// It is taken for older than it is, and so for one moment with whatever is shown with it.
    FoundOfAnyMoment,
    /// A client is told of its write before the tombstone of what that has overwritten is written.
    AckBeforeTombstone,
    /// Whatever digest the server tells, the copy on the disk is shown.
    AnyDigestWillDo,
    /// What has the right digest lives as long as it did when it was written.
    RevalidatedForEver,
    /// A server that tells a digest does not register the key.
    DigestInPassing,
    /// A right digest of a connection that is lost holds for the next one.
    DigestOutlivesLoss,
}

/// Every real mutant, and where it is looked for.
pub const MUTANTS: &[(Mutant, &Scenario)] = &[
    (Mutant::BroadcastAsTracking, &CORE_BROADCAST),
    (Mutant::BroadcastAsTracking, &TWO_KEYS_BROADCAST),
    (Mutant::BroadcastAsTracking, &SILENCE_BROADCAST),
    (Mutant::OnePing, &SILENCE_BROADCAST),
    (Mutant::IgnorePush, &CORE_BROADCAST),
    (Mutant::NoAckVoid, &CORE_BROADCAST),
    (Mutant::IgnorePush, &CORE),
    (Mutant::PushThroughQueue, &CORE),
    (Mutant::PushSparesLanded, &CORE),
    (Mutant::FirstKeyOnly, &TWO_KEYS),
    (Mutant::IgnoreNullPush, &FLUSH),
    (Mutant::NoPassedBy, &CORE),
    (Mutant::PassedByKeepsLeases, &CORE),
    (Mutant::PinnedPassesNothing, &PINNED),
    (Mutant::NoAckVoid, &CORE),
    (Mutant::AckKeepsLeases, &CORE),
    (Mutant::LateAckVoid, &CORE),
    (Mutant::AckSparesOwn, &CORE),
    (Mutant::NoFlushVoid, &FLUSH),
    (Mutant::InsertAfterVoid, &CORE),
    (Mutant::LateInsert, &CORE),
    (Mutant::PopulateOnWrite, &CORE),
    (Mutant::HitOvertakesOwn, &CORE),
    (Mutant::JoinOvertakesOwn, &CORE),
    (Mutant::NoWaitForFlight, &CORE),
    (Mutant::JoinAnyAge, &SILENCE),
    (Mutant::NoPathWait, &PINNED),
    (Mutant::NoFloor, &FLOOR),
    (Mutant::FreshOfSession, &SILENCE),
    (Mutant::FreshFromParse, &SILENCE),
    (Mutant::DeadlineFromParse, &TIME_WIDE),
    (Mutant::IgnorePttlOfAbsent, &TIME_WIDE),
    (Mutant::MgetAnyFiller, &MGET_MIXED),
    (Mutant::MgetOlderVouches, &MGET_MIXED),
    (Mutant::JointByFirstKey, &JOINT_SCENARIO),
    (Mutant::IgnorePush, &JOINT_SCENARIO),
    (Mutant::NoAckVoid, &JOINT_SCENARIO),
    (Mutant::NoPassedBy, &JOINT_SCENARIO),
    (Mutant::KeepOnLoss, &LOSS),
    (Mutant::NoWakeOnLoss, &LOSS),
    (Mutant::UntrackedReconnect, &ALL),
    (Mutant::RepeatBehindWrite, &LOSS),
    (Mutant::StaleForEver, &STALE_TIME),
    (Mutant::StaleSurvivesReturn, &STALE),
    (Mutant::StaleOvertakesOwn, &STALE),
    (Mutant::UnknownWriteKeepsStale, &STALE),
    (Mutant::FoundThoughVoided, &CORE_L3),
    (Mutant::FoundOfAnyEpoch, &LOSS_WHILE_READ_L3),
    (Mutant::FoundAsOwn, &CORE_L3),
    (Mutant::FoundForEver, &TIME_WIDE_L3),
    (Mutant::AckBeforeTombstone, &CORE_L3),
    (Mutant::AckBeforeTombstone, &PINNED_L3),
    (Mutant::FoundThoughVoided, &STALE_L3),
    (Mutant::FoundForEver, &STALE_TIME_L3),
    (Mutant::UnknownWriteKeepsStale, &STALE_L3),
    // What nobody has watched, and the server is asked about.
    (Mutant::FoundAsOwn, &RESTART_ALONE),
    (Mutant::AnyDigestWillDo, &RESTART_ALONE),
    (Mutant::AnyDigestWillDo, &RESTART_LOSS),
    (Mutant::RevalidatedForEver, &RESTART_TIME),
    (Mutant::DigestInPassing, &RESTART_ALONE),
    (Mutant::DigestOutlivesLoss, &RESTART_LOSS),
    (Mutant::InsertAfterVoid, &RESTART_ALONE),
    (Mutant::LateInsert, &RESTART_ALONE),
    (Mutant::PushSparesLanded, &RESTART_ALONE),
    (Mutant::DeadlineFromParse, &RESTART_TIME),
    (Mutant::IgnorePush, &RESTART),
    (Mutant::NoPassedBy, &RESTART),
    (Mutant::NoAckVoid, &RESTART),
    (Mutant::NoWaitForFlight, &RESTART),
    (Mutant::AckBeforeTombstone, &RESTART_ALONE),
    (Mutant::NoFlushVoid, &RESTART_FLUSH),
    // Of several keys at once.
    (Mutant::FoundThoughVoided, &MGET_L3),
    (Mutant::FoundAsOwn, &MGET_L3),
    (Mutant::FoundForEver, &MGET_TIME_L3),
    (Mutant::FoundOfAnyEpoch, &MGET_LOSS_L3),
    (Mutant::FoundOfAnyMoment, &MGET_FILLERS_L3),
    (Mutant::FoundThoughVoided, &MGET_STALE_L3),
    (Mutant::UnknownWriteKeepsStale, &MGET_STALE_L3),
    (Mutant::NoWaitForFlight, &MGET_L3),
    (Mutant::NoFloor, &MGET_L3),
    (Mutant::NoAckVoid, &MGET_L3),
    (Mutant::IgnorePush, &MGET_L3),
    // Over a tier on the disk the old mistakes are still ones.
    (Mutant::IgnorePush, &CORE_L3),
    (Mutant::NoPassedBy, &CORE_L3),
    (Mutant::NoAckVoid, &CORE_L3),
    (Mutant::LateAckVoid, &CORE_L3),
    (Mutant::NoFlushVoid, &FLUSH_L3),
    (Mutant::IgnoreNullPush, &FLUSH_L3),
    (Mutant::NoWaitForFlight, &CORE_L3),
    (Mutant::NoFloor, &FLOOR_L3),
    (Mutant::PinnedPassesNothing, &PINNED_L3),
];

/// Something that a mutant does later than it should.
pub enum Late {
    Acked(usize, Touched),
    Push(usize, Vec<u8>),
    Insert(usize, usize, Vec<u8>, i64),
}

/// The end of a fill as a mutant sees it.
struct Filled {
    k: usize,
    value: Vec<u8>,
    pttl_ms: i64,
    inserts: u64,
}

impl Rig {
    fn is(&self, mutant: Mutant) -> bool {
        self.mutant == Some(mutant)
    }

    fn cache(&self) -> &L1<Follower> {
        &self.shared.cache
    }

    // ---- decisions

    /// A decision that the product would not make, in place of its own.
    pub fn mutant_decides(&mut self, s: usize, args: Args<'_>) -> Option<Step> {
        let mutant = self.mutant?;
        let session = &self.sessions[s];
        let client = Rc::clone(&session.client);
        let worker = Rc::clone(&self.workers[session.worker]);
        let link = self.tracked[session.worker].link.sink.link;
        let mut state = client.state.borrow_mut();
        if mutant == Mutant::NoFloor {
            state.floor_us = 0;
        }
        let version = state.version;
        let asker = Asker {
            now_us: self.now_us,
            link,
            own: Own::Clear,
            floor_us: 0,
            takes_stale: false,
        };
        let queries: Vec<Query<'_>> = args
            .iter()
            .skip(1)
            .map(|name| Query {
                hash: name_hash(name),
                db: 0,
                name,
                variant: b"",
            })
            .collect();
        let hit = |query: &Query<'_>, asker: &Asker| {
            self.cache().peek(query, asker, |view| {
                (bytes_of(&view), view.link, view.inserted_us, view.expiry)
            })
        };
        if args.arg(0) == b"MGET" && matches!(mutant, Mutant::MgetAnyFiller | Mutant::MgetOlderVouches) {
            let hashes: Vec<u64> = queries.iter().map(|query| query.hash).collect();
            if state.outbox.own_all(&hashes) != Own::Clear {
                return None;
            }
            let hits: Vec<_> = queries.iter().map(|query| hit(query, &asker)).collect::<Option<_>>()?;
            let (older, younger) = if hits[0].2 <= hits[1].2 { (0, 1) } else { (1, 0) };
            let is_one = hits[0].1 == hits[1].1;
            if mutant == Mutant::MgetOlderVouches
                && !is_one
                && self.shared.links.answered_us(hits[older].1) <= hits[younger].2
            {
                return None;
            }
            let parts: Vec<_> = hits.iter().map(|hit| wire::bulk(hit.0.as_deref(), version)).collect();
            state
                .outbox
                .answer_now(|ready| ready.bytes.extend_from_slice(&wire::array(&parts)));
            return Some(Step::DONE);
        }
        if args.arg(0) == b"SUNION" && mutant == Mutant::JointByFirstKey {
            let hashes: Vec<u64> = queries.iter().map(|query| query.hash).collect();
            let kept = self.cache().explain(hashes[0], self.now_us);
            let kept = kept
                .iter()
                .find(|kept| !kept.is_lease && kept.variant.get(1).is_some_and(|byte| byte & JOINT != 0))?;
            let query = Query {
                variant: &kept.variant,
                ..queries[0]
            };
            let own = state.outbox.own_all(&hashes);
            let part = self
                .cache()
                .peek(&query, &Asker { own, ..asker }, |view| match view.value {
                    ViewValue::Absent(bytes) | ViewValue::Small(bytes) => bytes.to_vec(),
                    ViewValue::Large(bytes) | ViewValue::Packed { bytes, .. } => bytes.to_vec(),
                })?;
            let reply = &part[reply::frame_len(&part).ok()??..];
            let parts: Vec<_> = reply::elements(reply)?
                .map(|part| wire::bulk(reply::bulk(part).flatten(), version))
                .collect();
            worker.counters().l1_hits_total.add(2);
            state
                .outbox
                .answer_now(|ready| ready.bytes.extend_from_slice(&wire::array(&parts)));
            return Some(Step::DONE);
        }
        if args.arg(0) != b"GET" {
            return None;
        }
        let query = &queries[0];
        let own = state.outbox.own(query.hash);
        let is_away = !self.tracked[session.worker].is_up;
        let mut is_stale = false;
        let answer = match mutant {
            Mutant::StaleForEver | Mutant::StaleOvertakesOwn if is_away => {
                let own = match mutant {
                    Mutant::StaleOvertakesOwn => Own::Clear,
                    _ => own,
                };
                let now_us = match mutant {
                    Mutant::StaleForEver => 1,
                    _ => self.now_us,
                };
                let asker = Asker {
                    now_us,
                    own,
                    takes_stale: true,
                    ..asker
                };
                let (bytes, _, _, expiry) = hit(query, &asker)?;
                if matches!(expiry, Expiry::At(at_us) if at_us <= self.now_us) {
                    return None;
                }
                is_stale = true;
                bytes
            }
            Mutant::HitOvertakesOwn => hit(query, &asker)?.0,
            Mutant::FreshOfSession => {
                let is_fresh = self.shared.links.answered_us(link) + self.scenario.bound_ms * 1000 > self.now_us;
                let (bytes, _, _, expiry) = hit(
                    query,
                    &Asker {
                        now_us: 1,
                        own,
                        ..asker
                    },
                )?;
                let is_over = matches!(expiry, Expiry::At(at_us) if at_us <= self.now_us);
                if !is_fresh || is_over {
                    return None;
                }
                bytes
            }
            Mutant::JoinOvertakesOwn | Mutant::JoinAnyAge => {
                let earliest = Asker { now_us: 1, ..asker };
                if hit(query, &earliest).is_some() || mutant == Mutant::JoinOvertakesOwn && own == Own::Clear {
                    return None;
                }
                let asker = if mutant == Mutant::JoinAnyAge {
                    Asker { own, ..earliest }
                } else {
                    asker
                };
                let follower = Follower {
                    worker: worker.index,
                    place: client.place.get(),
                    client: client.meta.id,
                    sequence: state.outbox.next_sequence(),
                    version,
                };
                let decision = self.cache().decide(query, &asker, Leasing::Denied, || follower, |_| ());
                let Decision::Joined { flight, link: leader } = decision else {
                    return None;
                };
                let source = if leader == link {
                    Source::Flight(flight)
                } else {
                    Source::FlightElsewhere(flight)
                };
                let _ = state.outbox.expect(Touched::One(query.hash), source);
                return Some(Step::DONE);
            }
            _ => return None,
        };
        worker.counters().l1_hits_total.add(1);
        worker.counters().l1_stale_total.add(u64::from(is_stale));
        let frame = wire::bulk(answer.as_deref(), version);
        state.outbox.answer_now(|ready| ready.bytes.extend_from_slice(&frame));
        Some(Step::DONE)
    }

    /// The product waits; a mutant may not.
    pub fn mutant_goes_on(&mut self, s: usize, args: Args<'_>, raw: &[u8]) -> Step {
        let client = Rc::clone(&self.sessions[s].client);
        let mut state = client.state.borrow_mut();
        if self.is(Mutant::NoPathWait) && args.arg(0) == b"WATCH" {
            drop(state);
            let (conn, version) = (self.own_conn(s), client.state.borrow().version);
            self.server.connect(conn, false, version);
            self.sessions[s].pipe.get_or_insert_default().places = Some(Default::default());
            return Step::Wait;
        }
        let touched = Touched::One(name_hash(args.arg(1)));
        let effect = match args.arg(0) {
            b"GET" | b"DUMP" => Effect::Read(touched.clone()),
            b"SET" => Effect::Write(touched.clone()),
            _ => return Step::Wait,
        };
        if !self.is(Mutant::NoWaitForFlight) || !state.outbox.must_wait_for_flight(&touched) {
            return Step::Wait;
        }
        let version = state.version;
        let sequence = state.outbox.expect(touched, Source::Sent);
        drop(state);
        let waiter = Waiter {
            to: Some((client, sequence)),
            version,
            rule: Rule::General,
            effect,
        };
        self.tracked[self.sessions[s].worker]
            .link
            .send(raw, self.now_us, waiter);
        Step::DONE
    }

    // ---- frames

    pub fn arrive_mutated(&mut self, w: usize, outs: Vec<Out>) -> Checked {
        let link = Rc::clone(&self.tracked[w].link);
        link.sink.received(self.now_us);
        let (mut answered_us, mut answers) = (0, 0);
        for Out { bytes, what } in outs {
            match what {
                What::Push(keys) => match self.mutant {
                    Some(Mutant::IgnorePush) => {}
                    Some(Mutant::PushThroughQueue) => self.late.push_back(Late::Push(w, bytes)),
                    Some(Mutant::PushSparesLanded) if self.has_landed(w, &keys) => {}
                    Some(Mutant::FirstKeyOnly) => {
                        link.sink.push(&wire::invalidation(&[&self.server.keys[keys[0]].name]));
                    }
                    _ => link.sink.push(&bytes),
                },
                What::Null if self.is(Mutant::IgnoreNullPush) => {}
                What::Null => link.sink.push(&bytes),
                What::Reply => {
                    let (sent_us, waiter) = link.next_waiter().ok_or("a reply without a request")?;
                    let (waiter, bytes, filled) = self.mutate(w, waiter, bytes);
                    link.sink.reply(
                        waiter,
                        Frame {
                            bytes: &bytes,
                            shared: None,
                        },
                    );
                    if let Some(filled) = filled {
                        self.after_fill(w, filled);
                    }
                    answered_us = if self.is(Mutant::FreshFromParse) {
                        self.now_us
                    } else {
                        sent_us
                    };
                    answers += 1;
                }
            }
        }
        link.sink.batch_done(answered_us, answers);
        if self.is(Mutant::OnePing) {
            self.shared.links.answered(link.sink.link, answered_us);
        }
        Ok(())
    }

    /// What a reply leaves behind with a mutant, and what the end of a fill brings.
    fn mutate(&mut self, w: usize, waiter: Waiter, bytes: Vec<u8>) -> (Waiter, Vec<u8>, Option<Filled>) {
        let mutant = self.mutant;
        let mut bytes = bytes;
        let mut filled = None;
        let Waiter {
            to,
            version,
            rule,
            effect,
        } = waiter;
        let effect = match (mutant, effect) {
            (Some(Mutant::NoAckVoid), Effect::Write(_)) => Effect::None,
            (Some(Mutant::NoFlushVoid), Effect::Write(Touched::All)) => Effect::None,
            (Some(Mutant::LateAckVoid), Effect::Write(touched)) => {
                self.late.push_back(Late::Acked(w, touched));
                Effect::None
            }
            (Some(Mutant::AckKeepsLeases), Effect::Write(touched)) => {
                self.drop_entries(&touched, |_| true);
                Effect::None
            }
            (Some(Mutant::PassedByKeepsLeases), Effect::Read(touched)) => {
                self.drop_entries(&touched, |other| other != w);
                Effect::None
            }
            (Some(Mutant::AckSparesOwn), Effect::Write(touched)) => Effect::Read(touched),
            (Some(Mutant::NoPassedBy), Effect::Read(_)) => Effect::None,
            (Some(Mutant::NoPassedBy), Effect::Mget { leases, .. }) => Effect::Mget {
                touched: Touched::None,
                leases,
            },
            (Some(Mutant::NoPassedBy), Effect::Joint(mut parts)) => {
                parts.touched = Touched::None;
                Effect::Joint(parts)
            }
            (Some(Mutant::PopulateOnWrite), Effect::Write(Touched::One(hash))) => {
                if let Some(k) = self.key_of(hash)
                    && let Some(written) = to.as_ref().and_then(|(client, _)| self.value_written(client))
                {
                    self.late
                        .push_back(Late::Insert(w, k, wire::bulk(Some(&written), version), -1));
                }
                Effect::Write(Touched::One(hash))
            }
            (_, Effect::FillDigest(check)) => {
                if mutant == Some(Mutant::AnyDigestWillDo) && !reply::is_error(&bytes) {
                    bytes = wire::bulk(Some(&wire::digest(check.value())), version);
                }
                let is_same = Told::of(&bytes, check.value()) == Told::Same;
                let copy = wire::bulk(Some(check.value()), version);
                self.tracked[w].filled = is_same.then_some((check.hash, copy));
                self.tracked[w].is_filled_below = is_same;
                Effect::FillDigest(check)
            }
            (_, Effect::FillRead(lease, hash)) => {
                self.tracked[w].is_filled_below = false;
                self.tracked[w].filled = Some((hash, bytes.clone()));
                Effect::FillRead(lease, hash)
            }
            (_, Effect::FillTtl(guard, FillKind::Payload)) => {
                if let Some((hash, value)) = self.tracked[w].filled.take()
                    && let Some(k) = self.key_of(hash)
                    && let Some(pttl_ms) = reply::integer(&bytes)
                {
                    let is_absent = reply::bulk(&value) == Some(None);
                    let is_wrong = match mutant {
                        Some(Mutant::IgnorePttlOfAbsent) => !is_absent && pttl_ms == -2,
                        Some(Mutant::RevalidatedForEver) => self.tracked[w].is_filled_below && pttl_ms >= 0,
                        _ => false,
                    };
                    if is_wrong {
                        bytes = wire::integer(-1);
                    }
                    filled = Some(Filled {
                        k,
                        value,
                        pttl_ms,
                        inserts: self.cache().stats().inserts,
                    });
                }
                Effect::FillTtl(guard, FillKind::Payload)
            }
            (_, effect) => effect,
        };
        (
            Waiter {
                to,
                version,
                rule,
                effect,
            },
            bytes,
            filled,
        )
    }

    fn after_fill(&mut self, w: usize, filled: Filled) {
        let Filled {
            k,
            value,
            pttl_ms,
            inserts,
        } = filled;
        let was_inserted = self.cache().stats().inserts > inserts;
        match self.mutant {
            Some(Mutant::InsertAfterVoid) if !was_inserted => self.insert(w, k, &value, pttl_ms),
            Some(Mutant::DeadlineFromParse) if was_inserted && pttl_ms >= 0 => {
                self.cache().purge(name_hash(&self.server.keys[k].name));
                self.insert(w, k, &value, pttl_ms);
            }
            Some(Mutant::LateInsert) if was_inserted => {
                self.cache().purge(name_hash(&self.server.keys[k].name));
                self.late.push_back(Late::Insert(w, k, value, pttl_ms));
            }
            _ => {}
        }
    }

    /// Does what is overdue, the oldest first.
    pub fn do_late(&mut self) {
        match self.late.pop_front() {
            Some(Late::Acked(_, Touched::All)) => self.workers[0].void_everything(),
            Some(Late::Acked(w, touched)) => {
                let link = self.tracked[w].link.sink.link;
                touched.hashes().iter().for_each(|&hash| self.cache().acked(link, hash));
            }
            Some(Late::Push(w, bytes)) => self.tracked[w].link.sink.push(&bytes),
            Some(Late::Insert(w, k, value, pttl_ms)) => self.insert(w, k, &value, pttl_ms),
            None => {}
        }
    }

    /// Puts a reply into L1 as if its lease had been taken just now.
    fn insert(&self, w: usize, k: usize, frame: &[u8], pttl_ms: i64) {
        let name = &self.server.keys[k].name[..];
        let query = Query {
            hash: name_hash(name),
            db: 0,
            name,
            variant: b"",
        };
        let link = self.tracked[w].link.sink.link;
        let asker = Asker {
            now_us: self.now_us,
            link,
            own: Own::Clear,
            floor_us: 0,
            takes_stale: false,
        };
        let Some(lease) = self.cache().lease_only(&query, &asker) else {
            return;
        };
        let value = match reply::bulk(frame).flatten() {
            Some(payload) => Value::Bytes(payload),
            None => Value::Absent(b"_\r\n"),
        };
        self.cache().got(lease);
        let followers = self.cache().complete(
            lease,
            Some(Fill {
                value,
                pttl_ms,
                is_plain: false,
                most_us: None,
            }),
            self.now_us,
        );
        assert!(followers.is_empty());
    }

    // ---- the disk

    /// What the disk has answered, before it is judged.
    pub fn mutant_finds(&self, w: usize, found: &mut Found) {
        let own = self.tracked[w].link.sink.link;
        let links = &self.shared.links;
        match (self.mutant, found.origin) {
            (Some(Mutant::FoundThoughVoided), _) => {
                if let Some(l3) = self.cache().l3() {
                    found.mark = l3.mark(found.hash as u32);
                }
            }
            (Some(Mutant::FoundOfAnyEpoch), Origin::ThisLife { link, .. }) => {
                let epoch = links.epoch(link);
                found.origin = Origin::ThisLife { link, epoch };
            }
            (Some(Mutant::FoundAsOwn), _) => {
                let epoch = links.epoch(own);
                found.origin = Origin::ThisLife { link: own, epoch };
            }
            (Some(Mutant::FoundOfAnyMoment), _) => found.filled_us = 0,
            (Some(Mutant::FoundForEver), _) => (found.expires_us, found.key_end) = (None, KeyEnd::Never),
            _ => {}
        }
    }

    // ---- loss

    /// What is there of each key before a connection comes back, for the mutant that goes on with it.
    pub fn mutant_keeps(&self, w: usize) -> Vec<Option<Option<Vec<u8>>>> {
        if !self.is(Mutant::StaleSurvivesReturn) {
            return Vec::new();
        }
        let link = self.tracked[w].link.sink.link;
        self.server.keys.iter().map(|key| self.held(link, &key.name)).collect()
    }

    /// Puts it into L1 as if the connection had just read it.
    pub fn mutant_puts_back(&self, w: usize, kept: Vec<Option<Option<Vec<u8>>>>) {
        for (k, payload) in kept.into_iter().enumerate() {
            if let Some(payload) = payload {
                let pttl_ms = if payload.is_some() { -1 } else { -2 };
                self.insert(w, k, &wire::bulk(payload.as_deref(), Version::Resp3), pttl_ms);
            }
        }
    }

    /// True: the loss was dealt with, wrongly.
    pub fn mutant_loses(&mut self, w: usize) -> bool {
        let link = Rc::clone(&self.tracked[w].link);
        match self.mutant {
            Some(Mutant::KeepOnLoss) => {
                let kept: Vec<_> = self
                    .server
                    .keys
                    .iter()
                    .map(|key| self.held(link.sink.link, &key.name))
                    .collect();
                link.end("lost".into());
                self.mutant_puts_back(w, kept);
                true
            }
            Some(Mutant::RepeatBehindWrite) => {
                let waiters: Vec<(u64, Waiter)> = std::iter::from_fn(|| link.next_waiter()).collect();
                link.end("lost".into());
                for (sent_us, waiter) in waiters {
                    match &waiter.effect {
                        Effect::Read(Touched::One(hash)) if self.key_of(*hash).is_some() => {
                            let k = self.key_of(*hash).expect("it is one");
                            let again = wire::command(&[b"DUMP", &self.server.keys[k].name]);
                            link.send(&again, sent_us, waiter);
                        }
                        _ => link.sink.failed(waiter, &Failure::Lost("lost".into())),
                    }
                }
                true
            }
            Some(Mutant::UnknownWriteKeepsStale) => {
                let waiters: Vec<Waiter> = std::iter::from_fn(|| link.next_waiter()).map(|(_, w)| w).collect();
                link.end("lost".into());
                for waiter in waiters {
                    let effect = match waiter.effect {
                        Effect::Write(_) => Effect::None,
                        effect => effect,
                    };
                    link.sink
                        .failed(Waiter { effect, ..waiter }, &Failure::Lost("lost".into()));
                }
                true
            }
            Some(Mutant::DigestOutlivesLoss) => {
                let filled = self.tracked[w].filled.take();
                let filled = filled.filter(|_| self.tracked[w].is_filled_below);
                if let Some((hash, value)) = filled
                    && let Some(k) = self.key_of(hash)
                {
                    self.late.push_back(Late::Insert(w, k, value, -1));
                }
                false
            }
            Some(Mutant::NoWakeOnLoss) => {
                while let Some(waiter) = link.next_waiter() {
                    std::mem::forget(waiter);
                }
                false
            }
            _ => false,
        }
    }

    /// Whether the read of a fill of one of these keys was parsed, and its PTTL was not.
    fn has_landed(&self, w: usize, keys: &[usize]) -> bool {
        let hash = self.tracked[w].filled.as_ref().map(|(hash, _)| *hash);
        keys.iter().any(|&k| hash == Some(name_hash(&self.server.keys[k].name)))
    }

    /// Entries of some workers, and none of the leases whose reads are still to be answered.
    fn drop_entries(&self, touched: &Touched, whose: impl Fn(usize) -> bool) {
        for w in (0..self.tracked.len()).filter(|&w| whose(w)) {
            let link = self.tracked[w].link.sink.link;
            touched.hashes().iter().for_each(|&hash| self.cache().push(link, hash));
        }
    }

    /// What a link has filled of a key.
    fn held(&self, link: LinkId, name: &[u8]) -> Option<Option<Vec<u8>>> {
        let query = Query {
            hash: name_hash(name),
            db: 0,
            name,
            variant: b"",
        };
        let asker = Asker {
            now_us: 1,
            link,
            own: Own::Clear,
            floor_us: 0,
            takes_stale: true,
        };
        self.cache()
            .peek(&query, &asker, |view| (view.link == link).then(|| bytes_of(&view)))
            .flatten()
    }

    fn key_of(&self, hash: u64) -> Option<usize> {
        self.server.keys.iter().position(|key| name_hash(&key.name) == hash)
    }

    /// What the SET wrote whose acknowledgement the client gets next.
    fn value_written(&self, client: &Rc<nearcache::proxy::client::Client>) -> Option<Vec<u8>> {
        let session = self
            .sessions
            .iter()
            .find(|session| Rc::ptr_eq(&session.client, client))?;
        session
            .expected
            .front()
            .filter(|expected| expected.op == Op::Set)
            .map(|expected| wire::value(expected.token))
    }
}

fn bytes_of(view: &View<'_>) -> Option<Vec<u8>> {
    match view.value {
        ViewValue::Absent(_) => None,
        ViewValue::Small(bytes) => Some(bytes.to_vec()),
        ViewValue::Large(bytes) => Some(bytes.to_vec()),
        ViewValue::Packed { .. } => view.value.packed()?.unpack().map(Vec::from),
    }
}
