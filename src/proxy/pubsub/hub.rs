//! One upstream connection for the subscriptions of all clients of a worker. It is there while anybody listens, and for
//! some time after.
//!
//! Every `SUBSCRIBE` is sent to the server, also for a channel that the worker has already: the server's confirmation is
//! the place in its stream of messages from which on the client listens, so that nobody hears what was published before.
//! In the same way the end of a subscription that others still need is the place of a `PONG`. All on one connection, so a
//! client gets messages, confirmations and the replies to its own `PUBLISH` in the server's order.
//!
//! When the connection is lost messages may be lost, and only a client that knows can ask again: its listeners are closed,
//! as the server would close them.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::{Rc, Weak};
use std::time::Duration;

use bytes::Bytes;

use super::{Listening, corrected, write_confirmation};
use crate::proxy::client::Client;
use crate::proxy::outbox::{BY_REFERENCE_BYTES, Charge, Ready};
use crate::proxy::subscriptions::Subscription;
use crate::proxy::waiter::{Answer, Effect};
use crate::proxy::worker::Worker;
use crate::resp::Version;
use crate::resp::convert::Rule;
use crate::resp::{encode, reply};
use crate::upstream::connection::{Connection, Failure, Frame, Sink};
use crate::upstream::dial::{Greeting, Protocol, Tracking, TrackingState};
use crate::upstream::exchange::is_message;
use crate::upstream::occasional::Occasional;

#[derive(Default)]
pub struct Hub {
    link: RefCell<Option<Occasional<HubSink>>>,
    /// For each kind of subscription.
    channels: RefCell<[HashMap<Bytes, Channel>; 3]>,
    /// Subscriptions that nobody wants and that the server, busy with a script, did not end.
    unended: RefCell<Vec<(Subscription, Bytes)>>,
}

#[derive(Default)]
struct Channel {
    /// Clients that listen or have asked to, and have not asked to stop.
    wanted: usize,
    /// Those whose subscription was confirmed, by id.
    listeners: HashMap<u64, Rc<Client>>,
}

/// What a request over the hub's connection waits for.
pub enum HubWaiter {
    Subscribe(Asked),
    /// The last listener has gone, with or without waiting for it.
    Unsubscribe(Option<Asked>, Subscription, Bytes),
    /// A `PING`: where a subscription ends that others need, or that there never was.
    Barrier(Asked),
    /// A `PING`: by then what was sent before has been done, and the client gets this.
    Answer {
        client: Rc<Client>,
        sequence: u64,
        frame: &'static [u8],
    },
    /// A `PUBLISH` of a client that listens itself.
    Publish {
        client: Rc<Client>,
        sequence: u64,
        version: Version,
        is_sharded: bool,
        channel: Box<[u8]>,
    },
    Probe,
}

pub struct Asked {
    pub client: Rc<Client>,
    pub sequence: u64,
    pub kind: Subscription,
    /// `None`: an `UNSUBSCRIBE` of everything when there was nothing.
    pub name: Option<Bytes>,
}

pub struct HubSink {
    worker: Weak<Worker>,
}

impl Hub {
    /// The connection, made if there is none.
    pub fn link(&self, worker: &Rc<Worker>) -> Rc<Connection<HubSink>> {
        let mut link = self.link.borrow_mut();
        let open = link.get_or_insert_with(|| {
            let greeting = Greeting {
                protocol: Protocol::Best,
                db: worker.shared.initial_db,
                tracking: Tracking::Off,
                is_readonly: false,
                answer_within: worker.target.connect_timeout,
            };
            let sink = HubSink {
                worker: Rc::downgrade(worker),
            };
            let target = Rc::clone(&worker.target);
            Occasional::open(Connection::new(target, greeting, worker.timeouts(), sink))
        });
        Rc::clone(open.link())
    }

    /// The connection, if there is one.
    pub fn existing(&self) -> Option<Rc<Connection<HubSink>>> {
        self.link.borrow().as_ref().map(|open| Rc::clone(open.link()))
    }

    pub fn tick(&self, now_us: u64, probe_after: Duration, patient_until_us: u64) {
        let is_needed = !self.channels.borrow().iter().all(HashMap::is_empty);
        let mut link = self.link.borrow_mut();
        if let Some(open) = &*link {
            open.link().patient_until_us.set(patient_until_us);
            for (kind, name) in self.unended.take() {
                if !self.is_wanted(kind, &name) {
                    open.link()
                        .send_with(now_us, |out, expect| end(out, expect, None, kind, name));
                }
            }
        }
        if link
            .as_ref()
            .is_some_and(|open| open.tick(now_us, probe_after, is_needed))
        {
            *link = None;
        }
    }

    fn is_wanted(&self, kind: Subscription, name: &Bytes) -> bool {
        self.channels.borrow()[kind as usize].contains_key(name)
    }

    /// One more client wants to hear of it.
    pub fn want(&self, kind: Subscription, name: &Bytes) {
        let mut channels = self.channels.borrow_mut();
        channels[kind as usize].entry(name.clone()).or_default().wanted += 1;
    }

    /// One client less; whether it was the last.
    pub fn release(&self, kind: Subscription, name: &Bytes) -> bool {
        let mut channels = self.channels.borrow_mut();
        let Some(channel) = channels[kind as usize].get_mut(name) else {
            return false;
        };
        channel.wanted -= 1;
        let is_last = channel.wanted == 0;
        if is_last && channel.listeners.is_empty() {
            channels[kind as usize].remove(name);
        }
        is_last
    }

    /// The client listens from here on; whether it did not before.
    fn join(&self, worker: &Worker, kind: Subscription, name: &Bytes, client: &Rc<Client>) -> bool {
        let mut channels = self.channels.borrow_mut();
        // It may be gone: the end of the subscription can be under way already.
        let channel = channels[kind as usize].entry(name.clone()).or_default();
        let is_new = channel.listeners.insert(client.meta.id, Rc::clone(client)).is_none();
        let count = channel.listeners.len();
        worker.shared.audience.set(worker.index, kind, name, count);
        is_new
    }

    /// The client no longer listens; whether it did.
    pub fn leave(&self, worker: &Worker, kind: Subscription, name: &Bytes, client: &Client) -> bool {
        let mut channels = self.channels.borrow_mut();
        let Some(channel) = channels[kind as usize].get_mut(name) else {
            return false;
        };
        let has_listened = channel.listeners.remove(&client.meta.id).is_some();
        let (wanted, count) = (channel.wanted, channel.listeners.len());
        if wanted == 0 && count == 0 {
            channels[kind as usize].remove(name);
        }
        worker.shared.audience.set(worker.index, kind, name, count);
        has_listened
    }

    /// A message goes to everybody who listens.
    fn deliver(&self, worker: &Worker, kind: Subscription, name: &[u8], frame: &[u8]) {
        let channels = self.channels.borrow();
        let Some(channel) = channels[kind as usize].get(name) else {
            return;
        };
        worker.counters().messages_total.add(channel.listeners.len() as u64);
        // The only difference between the versions is the first byte.
        let by_reference = (frame.len() >= BY_REFERENCE_BYTES && channel.listeners.len() > 1)
            .then(|| Bytes::copy_from_slice(&frame[1..]));
        for client in channel.listeners.values() {
            let mut state = client.state.borrow_mut();
            let first = match state.version {
                Version::Resp2 => b'*',
                Version::Resp3 => b'>',
            };
            let write = |ready: &mut Ready| {
                ready.bytes.push(first);
                match &by_reference {
                    Some(rest) => ready.push_shared(rest.clone(), Charge::Leader),
                    None => ready.bytes.extend_from_slice(&frame[1..]),
                }
            };
            worker.lend_buffer(state.outbox.ready());
            state.outbox.message(write);
            drop(state);
            client.touch(&worker.touched);
        }
    }

    /// Everybody who listens has to ask again.
    fn close_all(&self, worker: &Worker) {
        let channels = std::mem::take(&mut *self.channels.borrow_mut());
        let mut closed = 0;
        for (kind, names) in Subscription::ALL.into_iter().zip(channels) {
            for (name, channel) in names {
                worker.shared.audience.set(worker.index, kind, &name, 0);
                for client in channel.listeners.into_values() {
                    let mut state = client.state.borrow_mut();
                    closed += u64::from(state.listening.take().is_some());
                    state.is_closing = true;
                    drop(state);
                    client.touch(&worker.touched);
                }
            }
        }
        if closed > 0 {
            worker.counters().clients_refused_total.add(closed);
            tracing::warn!(
                clients = closed,
                "closed: the connection that carried their subscriptions is lost"
            );
        }
    }
}

impl HubSink {
    fn confirm(&self, worker: &Worker, asked: &Asked, is_start: bool) {
        let Asked {
            client,
            sequence,
            kind,
            name,
        } = asked;
        let mut is_changed = false;
        if let Some(name) = name {
            is_changed = match is_start {
                // Not if the client has gone meanwhile.
                true if client.state.borrow().listening.is_none() => false,
                true => worker.hub.join(worker, *kind, name, client),
                false => worker.hub.leave(worker, *kind, name, client),
            };
        }
        let mut state = client.state.borrow_mut();
        let version = state.version;
        let Some(listening) = &mut state.listening else { return };
        // An earlier request for the same, which was refused, has taken it back. Not an UNSUBSCRIBE that is under way: it ends
        // what starts here.
        if let Some(name) = name
            && is_start
            && is_changed
            && listening.refused[*kind as usize].remove(name)
            && listening.want(*kind, name)
        {
            worker.hub.want(*kind, name);
        }
        if is_changed {
            listening.changed(&client.meta, *kind, is_start);
        }
        listening.answered();
        let count = listening.count(*kind);
        drop(state);
        let mut frame = Vec::new();
        write_confirmation(&mut frame, version, *kind, is_start, name.as_deref(), count);
        client.answer(*sequence, Answer::Converted(frame.into()), &worker.touched);
    }

    /// The server refused a subscription, or nobody knows whether it took it.
    fn not_subscribed(&self, worker: &Worker, asked: &Asked) {
        let Some(name) = &asked.name else { return };
        let is_wanted = match &mut asked.client.state.borrow_mut().listening {
            Some(listening) if !worker.hub.is_listening(asked.kind, name, &asked.client) => {
                let is_wanted = listening.unwant(asked.kind, name);
                if is_wanted {
                    listening.refused[asked.kind as usize].insert(name.clone());
                }
                is_wanted
            }
            _ => false,
        };
        if is_wanted {
            worker.hub.release(asked.kind, name);
        }
    }
}

impl Hub {
    /// The server has refused to end a subscription, which its client still has.
    fn goes_on(&self, asked: &Asked) -> bool {
        let Some(name) = &asked.name else { return false };
        match &mut asked.client.state.borrow_mut().listening {
            Some(listening) => {
                if listening.want(asked.kind, name) {
                    self.want(asked.kind, name);
                }
                true
            }
            None => false,
        }
    }

    fn is_listening(&self, kind: Subscription, name: &Bytes, client: &Client) -> bool {
        let channels = self.channels.borrow();
        channels[kind as usize]
            .get(name)
            .is_some_and(|channel| channel.listeners.contains_key(&client.meta.id))
    }
}

/// Writes the end of a subscription at the server.
pub fn end(
    out: &mut Vec<u8>,
    expect: &mut dyn FnMut(HubWaiter),
    asked: Option<Asked>,
    kind: Subscription,
    name: Bytes,
) {
    encode::command(out, [kind.confirmed_as(false).as_bytes(), &name].into_iter());
    expect(HubWaiter::Unsubscribe(asked, kind, name));
}

fn answered(client: &Client) {
    if let Some(listening) = &mut client.state.borrow_mut().listening {
        listening.answered();
    }
}

impl Sink for HubSink {
    type Waiter = HubWaiter;

    fn up(&self, _: &TrackingState, _: u64) {}

    fn received(&self, _: u64) {}

    fn push(&self, frame: &[u8]) {
        let Some(worker) = self.worker.upgrade() else { return };
        let Some(mut parts) = reply::elements(frame) else {
            return;
        };
        let kind = match parts.next().and_then(reply::text) {
            Some(b"message") => Subscription::Channel,
            Some(b"pmessage") => Subscription::Pattern,
            Some(b"smessage") => Subscription::Shard,
            _ => return,
        };
        if let Some(name) = parts.next().and_then(reply::text) {
            worker.hub.deliver(&worker, kind, name, frame);
        }
    }

    fn is_message(&self, array: &[u8]) -> bool {
        is_message(array)
    }

    fn is_reply(&self, oldest: &HubWaiter, push: &[u8]) -> bool {
        let (is_start, kind, name) = match oldest {
            HubWaiter::Subscribe(asked) => (true, asked.kind, asked.name.as_deref()),
            HubWaiter::Unsubscribe(_, kind, name) => (false, *kind, Some(&**name)),
            _ => return false,
        };
        reply::elements(push).is_some_and(|mut parts| {
            parts.next().and_then(reply::text) == Some(kind.confirmed_as(is_start).as_bytes())
                && parts.next().and_then(reply::text) == name
        })
    }

    fn reply(&self, waiter: HubWaiter, frame: Frame<'_>) {
        let Some(worker) = self.worker.upgrade() else { return };
        let is_error = reply::is_error(frame.bytes);
        match waiter {
            HubWaiter::Subscribe(asked) if is_error => {
                self.not_subscribed(&worker, &asked);
                answered(&asked.client);
                let error = Bytes::copy_from_slice(frame.bytes);
                asked
                    .client
                    .answer(asked.sequence, Answer::Converted(error), &worker.touched);
            }
            HubWaiter::Subscribe(asked) => self.confirm(&worker, &asked, true),
            HubWaiter::Unsubscribe(asked, kind, name) if is_error => {
                let goes_on = asked.as_ref().is_some_and(|asked| worker.hub.goes_on(asked));
                if !goes_on {
                    worker.hub.unended.borrow_mut().push((kind, name));
                }
                if let Some(asked) = asked {
                    answered(&asked.client);
                    let error = Answer::Converted(Bytes::copy_from_slice(frame.bytes));
                    asked.client.answer(asked.sequence, error, &worker.touched);
                }
            }
            HubWaiter::Unsubscribe(Some(asked), ..) | HubWaiter::Barrier(asked) => self.confirm(&worker, &asked, false),
            HubWaiter::Answer {
                client,
                sequence,
                frame,
            } => {
                answered(&client);
                client.answer(sequence, Answer::Converted(Bytes::from_static(frame)), &worker.touched);
            }
            HubWaiter::Publish {
                client,
                sequence,
                version,
                is_sharded,
                channel,
            } => {
                answered(&client);
                let effect = Effect::Receivers { is_sharded, channel };
                let answer = match corrected(&worker, &effect, frame.bytes) {
                    Some(corrected) => Answer::Converted(corrected),
                    None => Answer::Frame {
                        bytes: frame.bytes,
                        shared: None,
                        version,
                        rule: &Rule::General,
                    },
                };
                client.answer(sequence, answer, &worker.touched);
            }
            HubWaiter::Unsubscribe(None, ..) | HubWaiter::Probe => {}
        }
    }

    fn batch_done(&self, _: u64, _: u64) {
        if let Some(worker) = self.worker.upgrade() {
            worker.wake_touched();
        }
    }

    fn lost(&self) {
        if let Some(worker) = self.worker.upgrade() {
            worker.hub.close_all(&worker);
        }
    }

    fn failed(&self, waiter: HubWaiter, failure: &Failure) {
        let Some(worker) = self.worker.upgrade() else { return };
        let (client, sequence) = match waiter {
            HubWaiter::Subscribe(asked) => {
                self.not_subscribed(&worker, &asked);
                (asked.client, asked.sequence)
            }
            HubWaiter::Unsubscribe(Some(asked), ..) | HubWaiter::Barrier(asked) => (asked.client, asked.sequence),
            HubWaiter::Publish { client, sequence, .. } | HubWaiter::Answer { client, sequence, .. } => {
                (client, sequence)
            }
            HubWaiter::Unsubscribe(None, ..) | HubWaiter::Probe => return,
        };
        worker.counters().l2_errors_total.add(1);
        answered(&client);
        let error = worker.unavailable_to_listen(failure);
        client.answer(sequence, Answer::Error(&error), &worker.touched);
    }

    fn probe(&self, _: u64) -> HubWaiter {
        HubWaiter::Probe
    }
}

impl Listening {
    fn answered(&mut self) {
        self.unanswered -= 1;
        if self.unanswered == 0 {
            self.refused = Default::default();
        }
    }

    fn changed(&mut self, meta: &crate::proxy::client::ClientMeta, kind: Subscription, is_start: bool) {
        let count = &mut self.confirmed[kind as usize];
        *count = if is_start { *count + 1 } else { *count - 1 };
        meta.subscriptions[kind as usize].store(*count as u32, std::sync::atomic::Ordering::Relaxed);
    }
}
