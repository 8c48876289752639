//! Subscriptions of clients on the shared path. All clients of a worker share one upstream connection for them, its
//! [`hub`], so any number of listeners of a channel is one subscription at the server for each worker; [`audience`] knows
//! how many there really are, for `PUBLISH` and `PUBSUB NUMSUB`.
//!
//! What Redis promises a connection holds: confirmations come in the order of the requests, messages in the server's order,
//! and a client of RESP2 that listens may do nothing else. A client that listens goes on with ordinary commands in RESP3;
//! its own `PUBLISH` travels over the hub's connection, so that it hears its message before it gets the reply.

pub mod audience;
pub mod hub;

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::rc::Rc;

use bytes::Bytes;

use super::client::{Access, Client, State};
use super::local;
use super::outbox::{Source, Touched};
use super::request::{Reason, Request, Step, pin};
use super::subscriptions::Subscription;
use super::waiter::Effect;
use super::worker::Worker;
use crate::command::{Local, Path, Pin, Spec, own};
use crate::resp::request::Args;
use crate::resp::{Version, encode, reply};
use hub::{Asked, HubWaiter};

/// What one client listens to by way of its worker's hub.
#[derive(Default)]
pub struct Listening {
    /// Names, for each kind, as they will be when all its requests are answered, and when each was asked for.
    wanted: [HashMap<Bytes, u64>; 3],
    /// Names asked for so far.
    asked: u64,
    /// Of these the server has refused the start, while there may be another request for the same under way.
    refused: [HashSet<Bytes>; 3],
    /// How many of each kind are confirmed.
    confirmed: [usize; 3],
    /// Its requests over the hub that are not answered.
    unanswered: usize,
}

impl Listening {
    pub fn is_any(&self) -> bool {
        self.confirmed != [0; 3]
    }

    /// Whether it was not wanted before.
    fn want(&mut self, kind: Subscription, name: &Bytes) -> bool {
        let Entry::Vacant(place) = self.wanted[kind as usize].entry(name.clone()) else {
            return false;
        };
        place.insert(self.asked);
        self.asked += 1;
        true
    }

    /// Whether it was wanted.
    fn unwant(&mut self, kind: Subscription, name: &Bytes) -> bool {
        self.wanted[kind as usize].remove(name).is_some()
    }

    /// All names of a kind in the order in which they were asked for: Redis ends patterns in it, and channels in none.
    fn names(&self, kind: Subscription) -> Vec<Bytes> {
        let mut names: Vec<_> = self.wanted[kind as usize].iter().collect();
        names.sort_unstable_by_key(|(_, asked)| **asked);
        names.into_iter().map(|(name, _)| name.clone()).collect()
    }

    /// The number in a confirmation: channels and patterns count together.
    fn count(&self, kind: Subscription) -> usize {
        let [channels, patterns, shard_channels] = self.confirmed;
        match kind {
            Subscription::Shard => shard_channels,
            Subscription::Channel | Subscription::Pattern => channels + patterns,
        }
    }
}

/// What a client that listens, or has asked to, may do with a request.
pub enum Gate {
    Open,
    /// Not before its subscriptions are confirmed.
    Wait,
    Refused(Vec<u8>),
}

/// Asked for every request of a client that has ever listened.
pub fn gate(state: &State, spec: &Spec, path: Path, args: Args<'_>) -> Gate {
    let Some(listening) = &state.listening else {
        return Gate::Open;
    };
    if path == Path::Pin(Pin::Subscribe) {
        return Gate::Open;
    }
    if listening.unanswered > 0 {
        return Gate::Wait;
    }
    let is_allowed = matches!(path, Path::Local(Local::Ping | Local::Quit | Local::Reset));
    if state.version == Version::Resp3 || is_allowed || !listening.is_any() {
        return Gate::Open;
    }
    let error = local::wrong_subcommand(spec, args).unwrap_or_else(|| {
        let prefix = match &*spec.name {
            "exec" => "EXECABORT Transaction discarded because of:",
            _ => "ERR",
        };
        format!(
            "{prefix} Can't execute '{}': only (P|S)SUBSCRIBE / (P|S)UNSUBSCRIBE / PING / QUIT / RESET are allowed in this context",
            spec.full_name(args)
        )
        .into_bytes()
    });
    Gate::Refused(error)
}

/// `SUBSCRIBE`, `UNSUBSCRIBE` and their kin.
pub fn request(worker: &Rc<Worker>, client: &Rc<Client>, request: &Request<'_>) -> Step {
    let Some((kind, is_start)) = Subscription::of_command(&request.spec.name) else {
        return pin(client, Reason::State(Pin::Subscribe));
    };
    let is_foreign = client.state.borrow().access == Access::Foreign;
    // The server sends these to the connection that CLIENT TRACKING … REDIRECT names by its id.
    let is_redirected = is_start && request.args.iter().skip(1).any(|name| name == INVALIDATIONS);
    // Each slot has its node, and the worker has one connection for all subscriptions.
    let is_elsewhere = kind == Subscription::Shard && worker.cluster.is_some();
    if is_foreign || is_redirected || is_elsewhere {
        return pin(client, Reason::State(Pin::Subscribe));
    }
    let mut state = client.state.borrow_mut();
    let State {
        outbox,
        listening,
        version,
        ..
    } = &mut *state;
    // Earlier requests travel another way and are answered first.
    let own = listening.as_ref().map_or(0, |listening| listening.unanswered);
    if outbox.waiting() > own {
        return Step::Wait;
    }
    let names: Vec<Option<Bytes>> = request
        .args
        .iter()
        .skip(1)
        .map(|name| Some(Bytes::copy_from_slice(name)))
        .collect();
    if !is_start && listening.is_none() {
        // Nothing to end, and nothing under way.
        let names = if names.is_empty() { vec![None] } else { names };
        for name in &names {
            outbox.answer_now(|ready| write_confirmation(&mut ready.bytes, *version, kind, false, name.as_deref(), 0));
        }
        return Step::DONE;
    }
    let link = worker.hub.link(worker);
    if let Err(failure) = link.availability() {
        worker.counters().l2_errors_total.add(1);
        state.error(worker.unavailable_to_listen(&failure));
        return Step::DONE;
    }
    let listening = listening.get_or_insert_default();
    let names = match names.is_empty() {
        false => names,
        true if listening.wanted[kind as usize].is_empty() => vec![None],
        true => listening.names(kind).into_iter().map(Some).collect(),
    };
    worker.counters().shared_total.add(names.len() as u64);
    link.send_with(request.now_us, |out, expect| {
        for name in names {
            listening.unanswered += 1;
            let sequence = outbox.expect(Touched::None, Source::Sent);
            if let Some(name) = &name {
                listening.refused[kind as usize].remove(name);
            }
            let asked = Asked {
                client: Rc::clone(client),
                sequence,
                kind,
                name: name.clone(),
            };
            match name {
                Some(name) if is_start => {
                    if listening.want(kind, &name) {
                        worker.hub.want(kind, &name);
                    }
                    encode::command(out, [kind.confirmed_as(true).as_bytes(), &name].into_iter());
                    expect(HubWaiter::Subscribe(asked));
                }
                Some(name) if listening.unwant(kind, &name) && worker.hub.release(kind, &name) => {
                    hub::end(out, expect, Some(asked), kind, name);
                }
                _ => {
                    out.extend_from_slice(own::PING_REQUEST);
                    expect(HubWaiter::Barrier(asked));
                }
            }
        }
    });
    Step::DONE
}

const INVALIDATIONS: &[u8] = b"__redis__:invalidate";

/// A `PUBLISH` of a client that listens itself. `None`: it does not, or not any more.
pub fn publish(worker: &Rc<Worker>, client: &Rc<Client>, request: &Request<'_>) -> Option<Step> {
    let mut state = client.state.borrow_mut();
    let State {
        outbox,
        listening,
        version,
        ..
    } = &mut *state;
    let listening = listening.as_mut().filter(|listening| listening.is_any())?;
    let is_paused = worker.shared.pause.holds_writes_back(request.now_us);
    if !matches!(&*request.spec.name, "publish" | "spublish") || is_paused {
        return None;
    }
    if !outbox.is_all_answered() {
        return Some(Step::Wait);
    }
    let link = worker.hub.link(worker);
    link.availability().ok()?;
    listening.unanswered += 1;
    worker.counters().shared_total.add(1);
    let waiter = HubWaiter::Publish {
        client: Rc::clone(client),
        sequence: outbox.expect(Touched::None, Source::Sent),
        version: *version,
        is_sharded: &*request.spec.name == "spublish",
        channel: request.args.arg(1).into(),
    };
    link.send(request.raw, request.now_us, waiter);
    Some(Step::DONE)
}

/// What the number in the reply to a request on a shared connection needs.
pub fn effect(worker: &Worker, request: &Request<'_>) -> Effect {
    if !worker.shared.audience.has_hidden() {
        return Effect::None;
    }
    let sub = request.args.arg(1);
    match &*request.spec.name {
        name @ ("publish" | "spublish") => Effect::Receivers {
            is_sharded: name == "spublish",
            channel: sub.into(),
        },
        "pubsub" if sub.eq_ignore_ascii_case(b"numsub") => Effect::Subscribers { is_sharded: false },
        "pubsub" if sub.eq_ignore_ascii_case(b"shardnumsub") => Effect::Subscribers { is_sharded: true },
        _ => Effect::None,
    }
}

/// A reply with the numbers of receivers or subscribers that there really are; `None` if it is right as it is.
pub fn corrected(worker: &Worker, effect: &Effect, frame: &[u8]) -> Option<Bytes> {
    let out = match effect {
        Effect::Receivers { is_sharded, channel } => {
            with_receivers(frame, worker.shared.audience.hidden_receivers(*is_sharded, channel))
        }
        Effect::Subscribers { is_sharded } => with_subscribers(worker, *is_sharded, frame),
        _ => None,
    };
    out.map(Bytes::from)
}

/// The reply of `PUBLISH` with so many more.
pub fn with_receivers(frame: &[u8], hidden: usize) -> Option<Vec<u8>> {
    let count = reply::integer(frame).filter(|_| hidden > 0)?;
    let mut out = Vec::new();
    encode::integer(&mut out, count + hidden as i64);
    Some(out)
}

/// The reply of `PUBSUB NUMSUB` with those that the server does not know of.
pub fn with_subscribers(worker: &Worker, is_sharded: bool, frame: &[u8]) -> Option<Vec<u8>> {
    let audience = &worker.shared.audience;
    let mut parts = reply::elements(frame).filter(|_| audience.has_hidden())?;
    let mut out = Vec::new();
    encode::array_header(&mut out, parts.len());
    while let (Some(name), Some(count)) = (parts.next(), parts.next()) {
        let hidden = audience.hidden_subscribers(is_sharded, reply::text(name)?);
        out.extend_from_slice(name);
        encode::integer(&mut out, reply::integer(count)? + hidden as i64);
    }
    Some(out)
}

/// The client goes, or has asked to be as new: it hears no more.
pub fn forget(worker: &Worker, client: &Client) {
    let Some(listening) = client.state.borrow_mut().listening.take() else {
        return;
    };
    for (kind, names) in Subscription::ALL.into_iter().zip(listening.wanted) {
        client.meta.subscriptions[kind as usize].store(0, std::sync::atomic::Ordering::Relaxed);
        for name in names.into_keys() {
            worker.hub.leave(worker, kind, &name, client);
            if !worker.hub.release(kind, &name) {
                continue;
            }
            let Some(link) = worker.hub.existing() else { continue };
            link.send_with(worker.now_us(), |out, expect| hub::end(out, expect, None, kind, name));
        }
    }
}

/// Gives the client this answer once the server has ended what was sent so far. `false`: there is no connection to ask over.
pub fn answer_behind_ends(worker: &Worker, client: &Rc<Client>, frame: &'static [u8]) -> bool {
    let Some(link) = worker.hub.existing().filter(|link| link.is_up()) else {
        return false;
    };
    let mut state = client.state.borrow_mut();
    state.listening.get_or_insert_default().unanswered += 1;
    let sequence = state.outbox.expect(Touched::None, Source::Sent);
    drop(state);
    let waiter = HubWaiter::Answer {
        client: Rc::clone(client),
        sequence,
        frame,
    };
    link.send(own::PING_REQUEST, worker.now_us(), waiter);
    true
}

fn write_confirmation(
    out: &mut Vec<u8>,
    version: Version,
    kind: Subscription,
    is_start: bool,
    name: Option<&[u8]>,
    count: usize,
) {
    encode::push_header(out, version, 3);
    encode::bulk(out, kind.confirmed_as(is_start));
    match name {
        Some(name) => encode::bulk(out, name),
        None => encode::null(out, version),
    }
    encode::integer(out, count as i64);
}
