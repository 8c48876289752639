//! What arrives on a shared connection, applied in stream order: pushes and replies change L1 first, then the client gets
//! its answer. Runs in the task that reads the connection, one frame after the other, with no queue between.

mod again;
mod outcome;
mod reader;
mod unnoted;
mod usual;

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::{Rc, Weak};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use bytes::Bytes;

use super::client::{Client, write_frame};
use super::cluster::NO_SLOT;
use super::cluster::redirect::{self, Redirect, Routed};
use super::info;
use super::invalidation;
use super::outbox::Touched;
use super::owed;
use super::pubsub;
use super::read::revalidation::{Digests, Revalidation};
use super::request::Road;
use super::waiter::{Answer, Effect, FillKind, Waiter};
use super::worker::Worker;
use crate::cache::{LeaseId, LinkId, name_hash};
use crate::clock;
use crate::resp::Version;
use crate::resp::convert::Rule;
use crate::resp::reply;
use crate::upstream::cluster::NodeId;
use crate::upstream::connection::{Failure, Frame, SHARED_FRAME_BYTES, Sink};
use crate::upstream::dial::TrackingState;
pub use outcome::count;
use outcome::fill_of;

/// The sink of one shared connection: its link in the cache, and the reads of fills whose PTTL is still to come.
pub struct LinkSink {
    pub link: LinkId,
    worker: Weak<Worker>,
    /// Replies of fills, in stream order, until their PTTL reply.
    held: RefCell<VecDeque<Held>>,
    /// Of these the lease that was answered last, as long as L1 has not been told.
    unnoted: Cell<Option<LeaseId>>,
    /// When the bytes of this batch came off the socket.
    received_us: Cell<u64>,
    /// When those of a batch came that brought what L1 has compressed, and how much that was.
    packed: Cell<(u64, usize)>,
    /// Unanswered reads of the last loss that will take another way.
    suspected: Cell<usize>,
    /// How the last handshake came out, for the counts of links.
    state: Cell<LinkState>,
    /// The node of the cluster to which the connection leads.
    pub node: Option<NodeId>,
    /// Outside of a cluster: the replica to which it leads, and the database.
    replica: Option<(NodeId, u32)>,
    /// Of a cluster: when the newest request was sent that the node has answered as the one that has its slot.
    vouched_us: Cell<u64>,
    /// Of a cluster: the slot of the fill whose end is being applied, and its PTTL request where the node refused that.
    pub slot_of_fill: Cell<u16>,
    /// That of the probe that is about to be sent.
    probed_slot: Cell<u16>,
    pub raw_of_fill: Cell<Bytes>,
    /// Whether its server tells digests.
    pub digests: Cell<Digests>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum LinkState {
    Down,
    Tracked,
    /// Nothing is cached, so nothing is tracked.
    Untracked,
    Refused,
}

struct Held {
    lease: LeaseId,
    frame: Bytes,
    again: Again,
}

/// What becomes of a read that a node of a cluster did not serve.
pub enum Again {
    /// It did.
    No,
    /// The leader's request goes elsewhere.
    Lead(Box<Routed>, Redirect),
    /// It was one key of several, and these have gone elsewhere.
    Part(Redirect),
    /// It was not read at all: what the disk has is not what the server has.
    Changed(Box<Revalidation>),
}

impl LinkSink {
    pub fn new(worker: &Rc<Worker>, link: LinkId, node: Option<NodeId>) -> LinkSink {
        LinkSink {
            link,
            worker: Rc::downgrade(worker),
            held: RefCell::default(),
            unnoted: Cell::new(None),
            received_us: Cell::new(0),
            packed: Cell::default(),
            suspected: Cell::new(0),
            state: Cell::new(LinkState::Down),
            node,
            replica: None,
            vouched_us: Cell::new(0),
            slot_of_fill: Cell::new(NO_SLOT),
            probed_slot: Cell::new(NO_SLOT),
            raw_of_fill: Cell::default(),
            digests: Cell::default(),
        }
    }

    /// The same for a connection to this replica, in this database.
    pub fn of_replica(self, replica: Option<(NodeId, u32)>) -> LinkSink {
        LinkSink { replica, ..self }
    }

    pub fn received_us(&self) -> u64 {
        self.received_us.get()
    }

    /// The node has served a request of its slot that was sent at this time; its reply has not been shown yet.
    pub fn vouched(&self, worker: &Worker, sent_us: u64) {
        if self.vouched_us.get() == 0 && self.is_vouching() {
            worker.shared.links.regained(self.link);
        }
        self.vouched_us.set(self.vouched_us.get().max(sent_us));
    }

    /// The read of a fill has gone elsewhere; the PTTL behind it is still to be answered.
    pub fn hold(&self, lease: LeaseId, again: Again) {
        self.held.borrow_mut().push_back(Held {
            lease,
            frame: Bytes::new(),
            again,
        });
    }

    /// The connection is not needed any more, and nothing is unanswered on it.
    pub fn retire(&self, worker: &Worker) {
        worker.shared.links.lost(self.link);
        self.set_state(worker, LinkState::Down);
    }

    pub fn road(&self) -> Road {
        if self.is_vouching() { Road::Main } else { Road::Scripts }
    }

    /// Whether L1 is filled by this connection; that for scripts is to L1 what a pinned one is.
    fn is_vouching(&self) -> bool {
        self.link != LinkId::PINNED
    }

    fn set_state(&self, worker: &Worker, state: LinkState) {
        let count = |state| -> Option<&AtomicUsize> {
            match state {
                LinkState::Down => None,
                LinkState::Tracked => Some(&worker.shared.links_tracked),
                LinkState::Untracked => Some(&worker.shared.links_untracked),
                LinkState::Refused => Some(&worker.shared.links_refused),
            }
        };
        if let Some(old) = count(self.state.replace(state)) {
            old.fetch_sub(1, Relaxed);
        }
        if let Some(new) = count(state) {
            new.fetch_add(1, Relaxed);
        }
    }

    /// What the reply does to L1, before anybody sees it.
    pub fn apply(&self, worker: &Worker, effect: &Effect, to: Option<&Rc<Client>>, frame: &Frame<'_>) {
        let cache = &worker.shared.cache;
        match effect {
            Effect::Read(touched) | Effect::Followed { touched, .. } => self.passed_by(worker, touched, to),
            Effect::Write(touched) => self.acked(worker, touched, to),
            Effect::Exec { read, written } => {
                self.passed_by(worker, read, to);
                self.acked(worker, written, to);
            }
            Effect::Mget { touched, leases } => {
                self.passed_by(worker, touched, to);
                let mut parts = reply::elements(frame.bytes);
                let mut next = 0;
                for (position, lease) in leases {
                    cache.got(*lease);
                    let part = parts
                        .as_mut()
                        .and_then(|parts| parts.nth(position - next))
                        .unwrap_or(frame.bytes);
                    next = position + 1;
                    self.held.borrow_mut().push_back(Held {
                        lease: *lease,
                        frame: Bytes::copy_from_slice(part),
                        again: Again::No,
                    });
                }
            }
            Effect::Joint(parts) => self.passed_by(worker, &parts.touched, to),
            Effect::None
            | Effect::JointTtl(_)
            | Effect::FillRead(..)
            | Effect::FillDigest(_)
            | Effect::FillTtl(..)
            | Effect::Routed(_)
            | Effect::Info { .. }
            | Effect::Receivers { .. }
            | Effect::Subscribers { .. } => {}
        }
    }

    fn passed_by(&self, worker: &Worker, touched: &Touched, to: Option<&Rc<Client>>) {
        if !worker.shared.config.cache.is_used() {
            return;
        }
        match touched {
            Touched::All => {
                if let Some(client) = to {
                    client.state.borrow_mut().floor_us = self.received_us.get();
                }
            }
            touched => touched
                .hashes()
                .iter()
                .for_each(|&hash| worker.shared.cache.passed_by(self.link, hash)),
        }
    }

    /// A write may have been executed, or may yet be, and no push will tell of it: its client must not be shown as stale what it
    /// has overwritten.
    fn void_unknown(&self, worker: &Worker, effect: &Effect) {
        if worker.shared.config.cache.max_stale.is_none() {
            return;
        }
        match effect {
            Effect::Write(written) | Effect::Exec { written, .. } => self.acked(worker, written, None),
            _ => {}
        }
    }

    fn acked(&self, worker: &Worker, touched: &Touched, to: Option<&Rc<Client>>) {
        if !worker.shared.config.cache.is_used() {
            return;
        }
        match touched {
            Touched::All => worker.void_everything(),
            touched => touched
                .hashes()
                .iter()
                .for_each(|&hash| worker.shared.cache.acked(self.link, hash)),
        }
        if let Some(client) = to {
            owed::hold(worker, client, touched);
        }
    }

    /// Both replies of a fill are there: insert, then answer everybody who waited.
    fn land(&self, worker: &Rc<Worker>, lease: LeaseId, kind: FillKind, waiter: Waiter, pttl: &[u8]) {
        let held = self.held.borrow_mut().pop_front().filter(|held| held.lease == lease);
        let Some(Held { frame, again, .. }) = held else {
            let followers = worker.shared.cache.abandon(lease);
            let error = "ERR nearcache: the reply of a shared read was lost";
            worker.fail_followers(&followers, error);
            if let Some((client, sequence)) = &waiter.to {
                client.answer(*sequence, Answer::Error(error), &worker.touched);
            }
            return;
        };
        let ttl_raw = self.raw_of_fill.take();
        let slot = self.slot_of_fill.replace(NO_SLOT);
        if let Again::Changed(check) = again {
            return check.read(worker, waiter, (kind, slot), self.received_us.get());
        }
        if !matches!(again, Again::No) {
            let followers = worker.shared.cache.abandon(lease);
            redirect::flight(worker, waiter, again, followers, ttl_raw, self.received_us.get());
            return;
        }
        let may_keep = match (&worker.cluster, self.node) {
            (Some(view), Some(node)) => view.may_keep(node, slot),
            _ => true,
        };
        let pttl_ms = reply::integer(pttl).filter(|_| may_keep);
        let fill = pttl_ms.and_then(|pttl_ms| fill_of(&frame, kind, pttl_ms));
        let fill = fill.filter(|_| self.has_time_for(worker, frame.len()));
        self.unnoted.set(None);
        let followers = worker.shared.cache.complete(lease, fill, self.received_us.get());
        let shared = (frame.len() >= SHARED_FRAME_BYTES).then_some(&frame);
        if let Some((client, sequence)) = &waiter.to {
            let answer = Answer::Frame {
                bytes: &frame,
                shared,
                version: waiter.version,
                rule: &waiter.rule,
            };
            client.answer(*sequence, answer, &worker.touched);
        }
        if !followers.is_empty() {
            worker.answer_followers(&followers, |ready, version| {
                write_frame(ready, &frame, shared, version, &waiter.rule);
            });
        }
    }
}

impl Sink for LinkSink {
    type Waiter = Waiter;

    fn reached(&self, generation: u32) {
        // Where there are several nodes nobody is the one and only, of whom there are generations.
        if let Some(worker) = self.worker.upgrade().filter(|_| self.node.is_none()) {
            worker.shared.links.reached(self.link, generation);
        }
    }

    fn up(&self, tracking: &TrackingState, begun_us: u64) {
        let Some(worker) = self.worker.upgrade() else { return };
        if !self.is_vouching() {
            return;
        }
        // A node that the others have cut off from the cluster takes connections, too.
        if self.node.is_none() {
            worker.shared.links.regained(self.link);
        }
        let state = match tracking {
            TrackingState::Refused(_) | TrackingState::NoPushes(_) => {
                invalidation::refused(&worker.shared, tracking);
                // What was leased while the connection came up must not be inserted: no push will ever tell of it.
                worker.shared.links.lost(self.link);
                LinkState::Refused
            }
            TrackingState::Off => LinkState::Untracked,
            TrackingState::On if self.node.is_some() => LinkState::Tracked,
            TrackingState::On => {
                // It has answered the handshake, so what it fills first is a hit at once.
                worker.shared.links.answered(self.link, begun_us);
                LinkState::Tracked
            }
        };
        self.set_state(&worker, state);
    }

    fn received(&self, now_us: u64) {
        self.received_us.set(now_us);
    }

    fn push(&self, frame: &[u8]) {
        let Some(worker) = self.worker.upgrade() else { return };
        worker.counters().pushes_total.add(1);
        self.note(&worker);
        let Some(mut parts) = reply::elements(frame) else {
            return;
        };
        if parts.next().and_then(reply::text) != Some(b"invalidate") {
            return;
        }
        let Some(names) = parts.next() else { return };
        match reply::elements(names) {
            Some(names) => {
                for name in names.filter_map(reply::text) {
                    worker.shared.cache.push(self.link, name_hash(name));
                }
            }
            None => {
                worker.void_link(self.link);
                worker.shared.links.forget_stale();
            }
        }
    }

    fn reply(&self, mut waiter: Waiter, frame: Frame<'_>) {
        let Some(worker) = self.worker.upgrade() else { return };
        worker.counters().l2_replies_total.add(1);
        self.note_before(&worker, &waiter.effect);
        if let Some(view) = &worker.cluster {
            match redirect::arrived(&worker, view, self, waiter, &frame) {
                Some(own) => waiter = own,
                None => return,
            }
        }
        if self.answer_usual(&worker, &waiter, &frame) {
            return;
        }
        count(&worker, &waiter.effect, frame.bytes);
        self.apply(
            &worker,
            &waiter.effect,
            waiter.to.as_ref().map(|(client, _)| client),
            &frame,
        );
        if !self.is_vouching()
            && let Some((client, _)) = &waiter.to
        {
            // A script may have read and written what it did not declare.
            client.state.borrow_mut().floor_us = self.received_us.get();
        }
        if frame.shared.is_some() {
            worker.remember_large_reply(&waiter.effect, frame.bytes.len());
        }
        let rewritten = match &mut waiter.effect {
            Effect::FillRead(lease, _) | Effect::JointTtl(lease) => {
                let frame = frame.shared.unwrap_or_else(|| Bytes::copy_from_slice(frame.bytes));
                self.hold_read(*lease, frame);
                return;
            }
            effect @ Effect::FillDigest(_) => {
                if let Effect::FillDigest(check) = std::mem::replace(effect, Effect::None) {
                    check.answered(&worker, self, frame.bytes);
                }
                return;
            }
            Effect::Joint(parts) => {
                let ttls = self.take_ttls(parts);
                let may_keep = match (&worker.cluster, self.node) {
                    (Some(view), Some(node)) => view.may_keep(node, parts.slot),
                    _ => true,
                };
                if may_keep {
                    parts.land(&worker, frame.bytes, &ttls, self.received_us.get());
                }
                None
            }
            Effect::FillTtl(guard, kind) => {
                let kind = *kind;
                match guard.end() {
                    Some(lease) => self.land(&worker, lease, kind, waiter, frame.bytes),
                    // It was given up when its deadline had passed.
                    None => drop(self.held.borrow_mut().pop_front()),
                }
                return;
            }
            Effect::Followed { followers, .. } => {
                let followers = std::mem::take(followers);
                worker.answer_followers(&followers, |ready, version| {
                    write_frame(ready, frame.bytes, frame.shared.as_ref(), version, &waiter.rule);
                });
                None
            }
            Effect::Info { has_own } => Some(info::made_own(&worker, frame.bytes, waiter.version, *has_own)),
            effect @ (Effect::Receivers { .. } | Effect::Subscribers { .. }) => {
                pubsub::corrected(&worker, effect, frame.bytes)
            }
            _ => None,
        };
        let Some((client, sequence)) = &waiter.to else { return };
        let sequence = *sequence;
        if let Some(rewritten) = rewritten {
            client.answer(sequence, Answer::Converted(rewritten), &worker.touched);
            return;
        }
        let answer = Answer::Frame {
            bytes: frame.bytes,
            shared: frame.shared.as_ref(),
            version: waiter.version,
            rule: &waiter.rule,
        };
        client.answer(sequence, answer, &worker.touched);
    }

    fn batch_done(&self, answered_us: u64, answers: u64) {
        let Some(worker) = self.worker.upgrade() else { return };
        self.note(&worker);
        if !self.is_vouching() {
            worker.note_scripts();
        }
        if self.is_reader(&worker) {
            worker.counters().replica_replies_total.add(answers);
        }
        if answered_us != 0 {
            if self.state.get() == LinkState::Tracked {
                // A node of a cluster that was cut off from the others, or has lost its slots, answers all the same.
                let vouched_us = if self.node.is_some() {
                    self.vouched_us.get()
                } else {
                    answered_us
                };
                let received_us = self.received_us.get();
                worker.shared.links.answered_at(self.link, vouched_us, received_us);
            }
            let us = self.received_us.get().saturating_sub(answered_us);
            worker.counters().l2_durations.add_batch(us * answers, answers);
        }
        worker.wake_touched();
    }

    fn lost(&self) {
        self.held.borrow_mut().clear();
        self.unnoted.set(None);
        self.suspected.set(0);
        self.vouched_us.set(0);
        // The next server may be another one.
        self.digests.take();
        let Some(worker) = self.worker.upgrade() else { return };
        worker.counters().links_lost_total.add(1);
        if !self.is_vouching() {
            return;
        }
        if self.replica.is_none() {
            worker.hang_up_scripts(self.node, "the server is gone");
        }
        worker.shared.links.lost(self.link);
        self.set_state(&worker, LinkState::Down);
    }

    fn failed(&self, waiter: Waiter, failure: &Failure) {
        let Some(worker) = self.worker.upgrade() else { return };
        worker.counters().l2_errors_total.add(1);
        if matches!(failure, Failure::Lost(_)) && self.suspected.get() < MOST_SUSPECTED {
            // A server with a small client-output-buffer-limit closes a connection for one large reply, which it may have been.
            // On a connection of its own it is the only one to suffer; if it is small after all, that is seen there.
            self.suspected.set(self.suspected.get() + 1);
            worker.remember_large_reply(waiter.effect.own(), usize::MAX);
        }
        if matches!(failure, Failure::Lost(_)) {
            self.void_unknown(&worker, waiter.effect.own());
            if let Some((client, _)) = waiter.client().filter(|_| !self.is_vouching()) {
                // A script may have written what it did not declare.
                client.state.borrow_mut().floor_us = clock::now_us();
            }
        }
        let error = worker.unavailable_on(self, failure);
        worker.refuse(waiter, &error);
    }

    fn carries_scripts(&self) -> bool {
        !self.is_vouching()
    }

    fn may_go_again(&self, lost: &[Waiter], was_sent: bool) -> bool {
        !was_sent || self.is_repeatable(lost)
    }

    fn is_refusal(&self, error: &[u8]) -> bool {
        self.is_refusal_of_reader(error)
    }

    fn goes_elsewhere(&self, requests: &[u8], begun_us: u64, waiters: Vec<Waiter>) -> Result<(), Vec<Waiter>> {
        self.to_owner(requests, begun_us, waiters)
    }

    fn expired(&self, waiter: &mut Waiter) {
        let Some(worker) = self.worker.upgrade() else { return };
        let error = worker.late(self);
        self.void_unknown(&worker, waiter.effect.own());
        let told = worker.tell(waiter, &error);
        worker.counters().late_total.add(told);
        if matches!(waiter.effect, Effect::Routed(_)) {
            // Nobody waits for it, so that no node of the cluster is asked again.
            waiter.to = None;
        }
    }

    fn probe_request(&self) -> Option<Vec<u8>> {
        let worker = self.worker.upgrade()?;
        let (request, slot) = redirect::probe(worker.cluster.as_ref()?, self.node?)?;
        self.probed_slot.set(slot);
        Some(request)
    }

    fn probe(&self, now_us: u64) -> Waiter {
        if let Some(worker) = self.worker.upgrade() {
            worker.counters().probes_total.add(1);
        }
        Waiter {
            to: None,
            version: Version::Resp3,
            rule: Rule::General,
            effect: match self.probed_slot.replace(NO_SLOT) {
                NO_SLOT => Effect::None,
                slot => Routed::new(Effect::None, Bytes::new(), slot, now_us).effect(),
            },
        }
    }
}

/// Most reads that are suspected of the loss of a connection.
const MOST_SUSPECTED: usize = 64;
