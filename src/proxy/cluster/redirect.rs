//! Requests that a node sends elsewhere. Each request to the node of a slot keeps its bytes until it is answered; a `MOVED`,
//! `ASK`, `TRYAGAIN` or `CLUSTERDOWN` is never shown to the client while the request may still be sent again.
//!
//! What keeps the client's order: replies of a node come in the order of the requests, so what is sent again at once keeps
//! its order too, and the client sends nothing new meanwhile ([`super::View::may_go_on`]). What is sent again after a pause, or
//! for another time, could be overtaken by a later request of the client that was under way already and is executed: then it
//! is given up instead, unless all of these have come behind it ([`super::detours`]).

use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;

use super::gather::Part;
use super::{DETOUR, View};
use crate::clock;
use crate::command::own;
use crate::command::slot::name_in;
use crate::config::Endpoint;
use crate::proxy::client::Client;
use crate::proxy::flight::Follower;
use crate::proxy::outbox::Touched;
use crate::proxy::replies::{Again, LinkSink, count};
use crate::proxy::request::{Request, Road};
use crate::proxy::waiter::{Effect, Waiter};
use crate::proxy::worker::Worker;
use crate::resp::convert::Rule;
use crate::resp::{Version, encode, reply};
use crate::upstream::cluster::NodeId;
use crate::upstream::cluster::nodes::redirected;
use crate::upstream::connection::Frame;

/// A request to the node of a slot.
pub struct Routed {
    /// What it would be without a cluster.
    pub effect: Effect,
    /// To be sent again.
    pub raw: Bytes,
    pub slot: u16,
    pub sent_us: u64,
    first_us: u64,
    tries: u32,
    /// To which it was sent last; `None`: to the first one.
    node: Option<NodeId>,
    /// So many requests on these keys the client had sent behind it when it was first sent elsewhere.
    later: usize,
    /// Whose part it is, if it is one.
    pub part: Option<Part>,
    road: Road,
}

impl Routed {
    pub fn new(effect: Effect, raw: Bytes, slot: u16, now_us: u64) -> Routed {
        Routed {
            effect,
            raw,
            slot,
            sent_us: now_us,
            first_us: now_us,
            tries: 0,
            node: None,
            later: 0,
            part: None,
            road: Road::Main,
        }
    }

    pub fn part(self, part: Part) -> Routed {
        Routed {
            part: Some(part),
            ..self
        }
    }

    pub fn effect(self) -> Effect {
        Effect::Routed(Box::new(self))
    }
}

impl Request<'_> {
    /// The effect of a request of this slot, whose bytes are `raw`; as it is where there is no cluster.
    #[inline]
    pub fn routed(&self, effect: Effect, raw: impl FnOnce() -> Bytes) -> Effect {
        routed(effect, self.slot, self.now_us, raw)
    }
}

/// The effect of a request of this slot, which is sent now.
#[inline]
pub fn routed(effect: Effect, slot: u16, now_us: u64, raw: impl FnOnce() -> Bytes) -> Effect {
    match slot {
        super::NO_SLOT => effect,
        slot => Routed::new(effect, raw(), slot, now_us).effect(),
    }
}

/// Where a node wants a request to go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Redirect {
    Moved(Option<Endpoint>),
    Ask(Option<Endpoint>),
    /// Some of its keys are here and some there.
    TryAgain,
    Down,
}

impl Redirect {
    /// What the reply of the node at this address says; `None`: it has served the request.
    pub fn of(frame: &[u8], node: impl FnOnce() -> Option<Endpoint>) -> Option<Redirect> {
        if frame.first() != Some(&b'-') {
            return None;
        }
        let text = std::str::from_utf8(frame).ok()?.trim_end();
        let mut words = text.split(' ');
        let code = words.next()?;
        let address = || {
            words
                .nth(1)
                .zip(node())
                .and_then(|(address, node)| redirected(address, &node))
        };
        match code {
            "-MOVED" => Some(Redirect::Moved(address())),
            "-ASK" => Some(Redirect::Ask(address())),
            "-TRYAGAIN" => Some(Redirect::TryAgain),
            "-CLUSTERDOWN" => Some(Redirect::Down),
            _ => None,
        }
    }
}

/// Before a request is sent to another node for the second time; doubled from there on, three times, so that the nodes can
/// tell one another. Two that took a slot over from each other in short order name one another for a second or so.
const MOVE_PAUSE: Duration = Duration::from_millis(20);
const SPLIT_PAUSE: Duration = Duration::from_millis(10);
/// How long nodes may send a request to and fro, keys of it may be at two nodes, or all nodes refuse to serve: they do between the death of a primary
/// and the promotion of its replica, which takes a second or two.
const PATIENCE: Duration = Duration::from_secs(5);
/// What must not wait, as its client has sent more on its keys behind it, is sent on at once so many times, if what follows has
/// taken the same way.
const MOST_HOPS: u32 = 4;
const DOWN_PAUSE: Duration = Duration::from_millis(25);

/// Whether a request that was first sent at this time is sent again, or its client is told. Where the cluster has been down
/// for long, everybody is told at once.
pub fn is_due(worker: &Worker, view: &View, redirect: &Redirect, first_us: u64, now_us: u64) -> bool {
    let timeouts = &worker.shared.config.upstream_timeouts;
    let since_us = match redirect {
        Redirect::Down => first_us.min(view.down_since_us.get()),
        Redirect::Moved(_) | Redirect::Ask(_) | Redirect::TryAgain => first_us,
    };
    let age = Duration::from_micros(now_us.saturating_sub(since_us));
    age < PATIENCE.min(timeouts.read).min(timeouts.request)
}

/// Deals with a reply to a routed request. What comes back is to be answered as without a cluster, together with its slot.
pub fn arrived(
    worker: &Rc<Worker>,
    view: &View,
    sink: &LinkSink,
    mut waiter: Waiter,
    frame: &Frame<'_>,
) -> Option<Waiter> {
    let Effect::Routed(mut routed) = waiter.effect else {
        return Some(waiter);
    };
    let node = sink.node?;
    let redirect = Redirect::of(frame.bytes, || view.endpoint(node));
    // Errors may be older than the question whose slot it is.
    if frame.bytes.first() != Some(&b'-') {
        sink.vouched(worker, routed.sent_us);
        view.down_since_us.set(u64::MAX);
    }
    if let Some(part) = routed.part.take_if(|part| part.is_whole || redirect.is_none()) {
        if redirect.is_none() {
            count(worker, &routed.effect, frame.bytes);
            sink.apply(worker, &routed.effect, Some(&part.gather.client), frame);
        }
        if sink.road() == Road::Scripts {
            // A script may have read and written what it did not declare.
            part.gather.client.state.borrow_mut().floor_us = sink.received_us();
        }
        let bytes = frame
            .shared
            .clone()
            .unwrap_or_else(|| Bytes::copy_from_slice(frame.bytes));
        if let Some(redirect) = redirect {
            part.gather.redirected(redirect);
        }
        part.gather.put(worker, part.index, bytes, sink.received_us());
        return None;
    }
    if let Some(redirect) = &redirect {
        note(view, routed.slot, redirect);
        if *redirect == Redirect::Down {
            let since_us = view.down_since_us.get().min(sink.received_us());
            view.down_since_us.set(since_us);
        }
    }
    // What came of the read is known, whatever came of the question for its TTL.
    if let Effect::FillTtl(..) = routed.effect {
        sink.slot_of_fill.set(routed.slot);
        sink.raw_of_fill.replace(routed.raw);
        waiter.effect = routed.effect;
        return Some(waiter);
    }
    let Some(redirect) = redirect else {
        waiter.effect = routed.effect;
        return Some(waiter);
    };
    routed.road = sink.road();
    match routed.effect {
        Effect::FillRead(lease, hash) => {
            routed.effect = Effect::Read(Touched::One(hash));
            sink.hold(lease, Again::Lead(routed, redirect));
            return None;
        }
        // Where it is sent it is read: a node that does not own the slot says nothing of what is there.
        Effect::FillDigest(check) => {
            worker.counters().l3_misses_total.add(1);
            routed.effect = Effect::Read(Touched::One(check.hash));
            sink.digests.take();
            sink.hold(check.lease, Again::Lead(routed, redirect));
            return None;
        }
        Effect::Joint(parts) => {
            sink.take_ttls(&parts);
            routed.effect = Effect::Read(parts.touched);
        }
        Effect::Mget { touched, leases } => {
            for (_, lease) in leases {
                sink.hold(lease, Again::Part(redirect.clone()));
            }
            routed.effect = Effect::Read(touched);
        }
        _ => {}
    }
    waiter.effect = Effect::Routed(routed);
    follow(worker, view, waiter, redirect, frame.bytes, sink.received_us());
    None
}

pub fn note(view: &View, slot: u16, redirect: &Redirect) {
    match redirect {
        Redirect::Moved(endpoint) => view.cluster.doubt(endpoint.as_ref()),
        Redirect::Ask(_) | Redirect::TryAgain => view.cluster.note_moving(slot),
        Redirect::Down => view.cluster.doubt(None),
    }
}

/// Sends a request again where it belongs, at once or after a pause, or gives it up.
pub fn follow(worker: &Rc<Worker>, view: &View, mut waiter: Waiter, redirect: Redirect, error: &[u8], now_us: u64) {
    let (later, are_behind) = later(&waiter);
    let Effect::Routed(routed) = &mut waiter.effect else {
        return;
    };
    let is_followed = matches!(&routed.effect, Effect::Followed { followers, .. } if !followers.is_empty());
    if waiter.to.is_none() && routed.part.is_none() && !is_followed {
        // A probe, or a request whose deadline has passed.
        return;
    }
    routed.tries += 1;
    let is_first = routed.tries == 1;
    if is_first {
        routed.later = later;
        detour(worker, &waiter);
    }
    let Effect::Routed(routed) = &mut waiter.effect else {
        return;
    };
    let has_later = routed.later > 0;
    // One that is not unanswered any more was executed, elsewhere.
    let is_in_order = later == routed.later && are_behind;
    let is_at_once = is_first || has_later && is_in_order && routed.tries <= MOST_HOPS;
    let is_delayed = !is_at_once || matches!(redirect, Redirect::TryAgain | Redirect::Down);
    let is_due = is_due(worker, view, &redirect, routed.first_us, now_us);
    let age = Duration::from_micros(now_us.saturating_sub(routed.first_us));
    let is_late = age >= worker.shared.config.upstream_timeouts.request;
    let node_of = |endpoint: &Option<Endpoint>| endpoint.as_ref().and_then(|endpoint| view.cluster.node_at(endpoint));
    let next = match &redirect {
        _ if is_delayed && has_later => None,
        Redirect::Moved(endpoint) => node_of(endpoint)
            .filter(|_| is_due || is_first && !is_late)
            .map(|node| (Some(node), false, MOVE_PAUSE * (1 << routed.tries.min(5)) / 4)),
        Redirect::Ask(endpoint) => node_of(endpoint)
            .filter(|_| is_due)
            .map(|node| (Some(node), true, SPLIT_PAUSE)),
        Redirect::TryAgain => is_due.then_some((None, false, SPLIT_PAUSE)),
        Redirect::Down => is_due.then_some((None, false, DOWN_PAUSE)),
    };
    let Some((node, is_asking, pause)) = next else {
        let error = reply::error_text(error);
        let text = match redirect {
            Redirect::TryAgain | Redirect::Down => error,
            Redirect::Moved(_) | Redirect::Ask(_) => format!(
                "TRYAGAIN nearcache: nodes of the cluster have sent the request on {} times, and the last one said: {error}",
                routed.tries
            ),
        };
        worker.refuse(waiter, &text);
        return;
    };
    if !is_delayed && let Some(node) = node {
        send_again(worker, view, node, is_asking, waiter, now_us);
        return;
    }
    worker.counters().redirects_delayed_total.add(1);
    note_detour(worker, &waiter, None);
    let worker = Rc::clone(worker);
    tokio::task::spawn_local(async move {
        tokio::time::sleep(pause).await;
        let Some(view) = &worker.cluster else { return };
        let Effect::Routed(routed) = &waiter.effect else { return };
        match node.map_or_else(|| view.node_for(routed.slot), Ok) {
            Ok(node) => send_again(&worker, view, node, is_asking, waiter, clock::now_us()),
            Err(why) => worker.refuse(waiter, &why),
        }
        worker.wake_touched();
    });
}

fn send_again(worker: &Rc<Worker>, view: &View, node: NodeId, is_asking: bool, mut waiter: Waiter, now_us: u64) {
    let Effect::Routed(routed) = &waiter.effect else { return };
    let link = match worker.connection_by(routed.road, node.into()) {
        Ok(link) => link,
        Err(why) => return worker.refuse(waiter, &why),
    };
    if let Err(failure) = link.availability() {
        let error = worker.unavailable_at(view, node, &failure);
        return worker.refuse(waiter, &error);
    }
    worker.counters().redirects_total.add(1);
    note_detour(worker, &waiter, Some(node));
    let Effect::Routed(routed) = &mut waiter.effect else {
        return;
    };
    routed.node = Some(node);
    routed.sent_us = now_us;
    let (raw, first_us) = (routed.raw.clone(), routed.first_us);
    link.send_begun(now_us, first_us, |out, expect| {
        if is_asking {
            out.extend_from_slice(own::ASKING_REQUEST);
            expect(Waiter {
                to: None,
                version: Version::Resp3,
                rule: Rule::General,
                effect: Effect::None,
            });
        }
        out.extend_from_slice(&raw);
        expect(waiter);
    });
}

/// How many unanswered requests on these keys the client has sent behind it, and whether all of them have come behind it to the
/// node to which it was sent last.
fn later(waiter: &Waiter) -> (usize, bool) {
    let (Effect::Routed(routed), Some((client, sequence))) = (&waiter.effect, waiter.client()) else {
        return (0, true);
    };
    let touched = match &routed.effect {
        Effect::Read(touched) | Effect::Write(touched) | Effect::Followed { touched, .. } => touched,
        _ => return (0, true),
    };
    let state = client.state.borrow();
    let is_behind = |later| {
        let node = routed.node;
        node.is_some_and(|node| state.detours.is_behind(later, routed.slot, node))
    };
    let later = state.outbox.later(sequence, touched);
    later.fold((0, true), |(count, are_behind), later| {
        (count + 1, are_behind && is_behind(later))
    })
}

/// It is sent to this node, or waits.
fn note_detour(worker: &Worker, waiter: &Waiter, node: Option<NodeId>) {
    let Effect::Routed(routed) = &waiter.effect else { return };
    let note = |client: &Client, sequence| client.state.borrow_mut().detours.note(sequence, routed.slot, node);
    if let Some((client, sequence)) = waiter.client() {
        note(client, sequence);
    }
    if let Effect::Followed { followers, .. } = &routed.effect {
        for follower in followers {
            if let Some(client) = worker.client_of(follower) {
                note(&client, follower.sequence);
            }
        }
    }
}

/// Whoever waits for this sends nothing new meanwhile.
fn detour(worker: &Worker, waiter: &Waiter) {
    let Effect::Routed(routed) = &waiter.effect else { return };
    if let Some((client, _)) = &waiter.to {
        client.state.borrow_mut().path = DETOUR;
    }
    if let Some(part) = &routed.part {
        part.gather.client.state.borrow_mut().path = DETOUR;
    }
    if let Effect::Followed { followers, .. } = &routed.effect {
        for client in followers.iter().filter_map(|follower| worker.client_of(follower)) {
            client.state.borrow_mut().path = DETOUR;
        }
    }
}

/// A flight whose read was sent elsewhere: leader and followers get the reply, and nothing is kept.
pub fn flight(
    worker: &Rc<Worker>,
    waiter: Waiter,
    again: Again,
    followers: Vec<Follower>,
    ttl_raw: Bytes,
    now_us: u64,
) {
    let Some(view) = &worker.cluster else { return };
    let mut waiter = waiter;
    let (routed, redirect) = match again {
        Again::Lead(mut routed, redirect) => {
            if let Effect::Read(touched) = routed.effect {
                routed.effect = Effect::Followed { touched, followers };
            }
            (routed, redirect)
        }
        // The client of an `MGET` is served apart from those who follow one of its keys.
        Again::Part(redirect) if !followers.is_empty() => {
            let Some((raw, name)) = read_of(&ttl_raw) else {
                let error = "ERR nearcache: the reply of a shared read was lost";
                return worker.fail_followers(&followers, error);
            };
            let touched = Touched::One(crate::cache::name_hash(&name));
            let slot = crate::command::slot::slot(&name);
            let routed = Routed::new(Effect::Followed { touched, followers }, raw, slot, now_us);
            (Box::new(routed), redirect)
        }
        Again::Part(_) | Again::Changed(_) | Again::No => return,
    };
    waiter.effect = Effect::Routed(routed);
    let error: &[u8] = match redirect {
        Redirect::Down => b"-CLUSTERDOWN The cluster is down",
        _ => b"-TRYAGAIN the slot of the key is on its way to another node",
    };
    follow(worker, view, waiter, redirect, error, now_us);
}

/// The `GET` of the key whose `PTTL` this is, and the key.
fn read_of(ttl_raw: &[u8]) -> Option<(Bytes, Vec<u8>)> {
    let mut parts = crate::resp::reply::elements(ttl_raw)?;
    let name = crate::resp::reply::text(parts.nth(1)?)?.to_vec();
    let mut raw = Vec::new();
    encode::command(&mut raw, [&b"GET"[..], &name].into_iter());
    Some((raw.into(), name))
}

/// A request by which a node shows that it still serves a slot of its own: a `PING` is answered by one that was cut off from
/// the cluster as well. `None`: it has no slot.
pub fn probe(view: &View, node: NodeId) -> Option<(Vec<u8>, u16)> {
    let slot = view.topology().a_slot_of(node)?;
    let mut request = Vec::new();
    encode::command(&mut request, [&b"EXISTS"[..], name_in(slot).as_bytes()].into_iter());
    Some((request, slot))
}

#[cfg(test)]
mod tests;
