//! One answer to a client out of several replies of the cluster: the parts of a split command, or all replies of a
//! transaction. The parts come in any order, each on the connection of its node.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use bytes::Bytes;

use super::merge::{self, Merge};
use super::redirect::{Redirect, Routed};
use super::{View, redirect};
use crate::command::own;
use crate::proxy::client::Client;
use crate::proxy::outbox::Touched;
use crate::proxy::request::Road;
use crate::proxy::waiter::{Answer, Effect, Waiter};
use crate::proxy::worker::{Link, Worker};
use crate::resp::convert::Rule;
use crate::resp::{Version, encode};
use crate::upstream::cluster::NodeId;

pub struct Gather {
    pub client: Rc<Client>,
    /// The place of the answer, of a transaction's first one.
    pub sequence: u64,
    version: Version,
    frames: RefCell<Vec<Option<Bytes>>>,
    left: Cell<usize>,
    what: What,
    /// Of a transaction: where a node wants it to go.
    redirect: RefCell<Option<Redirect>>,
    /// A part got the error of the proxy.
    is_failed: Cell<bool>,
}

enum What {
    Split(Merge, Box<str>),
    Whole(Box<Whole>),
}

/// Whose part a request is.
pub struct Part {
    pub gather: Rc<Gather>,
    pub index: usize,
    /// Of a transaction, which is sent again only as a whole.
    pub is_whole: bool,
}

/// A transaction, `MULTI` to `EXEC`.
#[derive(Clone)]
pub struct Whole {
    pub raw: Bytes,
    pub slot: u16,
    pub road: Road,
    /// For the replies in that of `EXEC`; none if it ends with `DISCARD`.
    pub rules: Option<Rc<[Rule]>>,
    pub commands: usize,
    pub read: Touched,
    pub written: Touched,
    pub first_us: u64,
    pub tries: u32,
}

impl Gather {
    /// For the parts of a command of this name.
    pub fn split(
        client: &Rc<Client>,
        sequence: u64,
        version: Version,
        merge: Merge,
        name: &str,
        parts: usize,
    ) -> Rc<Gather> {
        Gather::of(client, sequence, version, What::Split(merge, name.into()), parts)
    }

    fn of(client: &Rc<Client>, sequence: u64, version: Version, what: What, parts: usize) -> Rc<Gather> {
        Rc::new(Gather {
            client: Rc::clone(client),
            sequence,
            version,
            frames: RefCell::new(vec![None; parts]),
            left: Cell::new(parts),
            what,
            redirect: RefCell::default(),
            is_failed: Cell::new(false),
        })
    }

    /// A part has come: a RESP3 frame.
    pub fn put(&self, worker: &Rc<Worker>, index: usize, frame: Bytes, now_us: u64) {
        match self.frames.borrow_mut().get_mut(index) {
            Some(place @ None) => *place = Some(frame),
            _ => return,
        }
        self.left.set(self.left.get() - 1);
        if self.left.get() == 0 {
            self.finish(worker, now_us);
        }
    }

    /// A node has refused a part of a transaction.
    pub fn redirected(&self, redirect: Redirect) {
        self.redirect.borrow_mut().get_or_insert(redirect);
    }

    pub fn fail(&self, worker: &Rc<Worker>, index: usize, error: &str) {
        let frame = encode::error_frame(error);
        // What was given up is not sent again.
        self.is_failed.set(true);
        self.put(worker, index, frame.into(), worker.now_us());
    }

    fn finish(&self, worker: &Rc<Worker>, now_us: u64) {
        let frames: Vec<Bytes> = self.frames.take().into_iter().flatten().collect();
        match &self.what {
            What::Split(merge, name) => {
                let merged = merge::merged(merge, name, &frames);
                let answer = Answer::Frame {
                    bytes: &merged,
                    shared: None,
                    version: self.version,
                    rule: &Rule::General,
                };
                self.client.answer(self.sequence, answer, &worker.touched);
            }
            What::Whole(whole) => {
                if !self.is_failed.get()
                    && let Some(redirect) = self.redirect.take()
                    && let Some(view) = &worker.cluster
                    && whole.send_again(worker, view, self, redirect, now_us)
                {
                    return;
                }
                self.answer_whole(worker, whole, &frames);
            }
        }
    }

    fn answer_whole(&self, worker: &Worker, whole: &Whole, frames: &[Bytes]) {
        let exec_rule = match &whole.rules {
            Some(rules) => Rule::Exec(rules.to_vec().into()),
            None => Rule::General,
        };
        for (at, frame) in (0..).zip(frames) {
            let is_last = at + 1 == frames.len() as u64;
            let error = merge::without_address(frame);
            let answer = Answer::Frame {
                bytes: error.as_deref().unwrap_or(frame),
                shared: None,
                version: self.version,
                rule: if is_last { &exec_rule } else { &Rule::General },
            };
            self.client.answer(self.sequence + at, answer, &worker.touched);
        }
    }
}

/// Before it is sent again, unless it goes to another node for the first time.
const PAUSE: std::time::Duration = std::time::Duration::from_millis(25);

impl Whole {
    /// Sends it to the node of this link; its answers begin at this place.
    pub fn send(self, worker: &Rc<Worker>, link: &Link, to: (&Rc<Client>, u64, Version), is_asking: bool, now_us: u64) {
        let (client, sequence, version) = to;
        let parts = self.commands + 2;
        let (raw, slot) = (self.raw.clone(), self.slot);
        let mut exec = match self.rules {
            Some(_) => Effect::Exec {
                read: self.read.clone(),
                written: self.written.clone(),
            },
            None => Effect::None,
        };
        let first_us = self.first_us;
        let gather = Gather::of(client, sequence, version, What::Whole(Box::new(self)), parts);
        worker.counters().shared_total.add(parts as u64);
        link.send_begun(now_us, first_us, |out, expect| {
            let nobody = |effect| Waiter {
                to: None,
                version: Version::Resp3,
                rule: Rule::General,
                effect,
            };
            if is_asking {
                out.extend_from_slice(own::ASKING_REQUEST);
                expect(nobody(Effect::None));
            }
            out.extend_from_slice(&raw);
            for index in 0..parts {
                let is_last = index + 1 == parts;
                let effect = if is_last {
                    std::mem::replace(&mut exec, Effect::None)
                } else {
                    Effect::None
                };
                // MULTI and EXEC are answered without a look at the slot.
                let sent_us = if index == 0 || is_last { 0 } else { now_us };
                let part = Part {
                    gather: Rc::clone(&gather),
                    index,
                    is_whole: true,
                };
                expect(nobody(
                    Routed::new(effect, Bytes::new(), slot, sent_us).part(part).effect(),
                ));
            }
        });
    }

    /// `false`: it is given up.
    fn send_again(&self, worker: &Rc<Worker>, view: &View, gather: &Gather, redirect: Redirect, now_us: u64) -> bool {
        redirect::note(view, self.slot, &redirect);
        if !redirect::is_due(worker, view, &redirect, self.first_us, now_us) {
            return false;
        }
        let is_first = self.tries == 0;
        let touched = crate::proxy::transaction::Hashes::of(&[&self.read, &self.written]);
        let last = gather.sequence + self.commands as u64 + 1;
        let is_delayed = !is_first || matches!(redirect, Redirect::TryAgain | Redirect::Down);
        let mut state = gather.client.state.borrow_mut();
        if is_delayed && state.outbox.later(last, &touched).next().is_some() {
            return false;
        }
        state.path = super::DETOUR;
        drop(state);
        let (endpoint, is_asking) = match redirect {
            Redirect::Moved(endpoint) => (endpoint, false),
            Redirect::Ask(endpoint) => (endpoint, true),
            Redirect::TryAgain | Redirect::Down => (None, false),
        };
        let node = endpoint.and_then(|endpoint| view.cluster.node_at(&endpoint));
        let whole = Whole {
            tries: self.tries + 1,
            ..self.clone()
        };
        let to = (Rc::clone(&gather.client), gather.sequence, gather.version);
        if !is_delayed && let Some(node) = node {
            whole.send_to(worker, view, node, &to, is_asking, now_us);
            return true;
        }
        let worker = Rc::clone(worker);
        tokio::task::spawn_local(async move {
            tokio::time::sleep(PAUSE).await;
            let Some(view) = &worker.cluster else { return };
            match node.map_or_else(|| view.node_for(whole.slot), Ok) {
                Ok(node) => whole.send_to(&worker, view, node, &to, is_asking, crate::clock::now_us()),
                Err(why) => whole.refuse(&worker, &to, &why),
            }
            worker.wake_touched();
        });
        true
    }

    fn send_to(
        self,
        worker: &Rc<Worker>,
        view: &View,
        node: NodeId,
        to: &(Rc<Client>, u64, Version),
        is_asking: bool,
        now_us: u64,
    ) {
        let link = match worker.connection_by(self.road, node.into()) {
            Ok(link) => link,
            Err(why) => return self.refuse(worker, to, &why),
        };
        match link.availability() {
            Ok(()) => {
                worker.counters().redirects_total.add(1);
                self.send(worker, &link, (&to.0, to.1, to.2), is_asking, now_us);
            }
            Err(failure) => {
                let error = worker.unavailable_at(view, node, &failure);
                self.refuse(worker, to, &error);
            }
        }
    }

    /// Nothing of it was executed.
    fn refuse(&self, worker: &Worker, (client, sequence, _): &(Rc<Client>, u64, Version), error: &str) {
        for at in 0..self.commands as u64 + 1 {
            client.answer(sequence + at, Answer::Error(error), &worker.touched);
        }
        let last = sequence + self.commands as u64 + 1;
        let error = "EXECABORT Transaction discarded because of previous errors.";
        client.answer(last, Answer::Error(error), &worker.touched);
    }
}
