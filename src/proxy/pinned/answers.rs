//! What the server's frames say of the connection's state, and what they do to L1.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use super::kind::{Kind, Waiting};
use super::{Frame, Pinned, Relay, ids};
use crate::cache::LinkId;
use crate::command::own;
use crate::proxy::client::{Access as ClientAccess, Client, ClientMeta};
use crate::proxy::cluster::{CROSS_SLOT, merge};
use crate::proxy::local;
use crate::proxy::outbox::Touched;
use crate::proxy::owed;
use crate::proxy::password;
use crate::proxy::worker::Worker;
use crate::resp::Version;
use crate::resp::reply;

impl Pinned {
    /// A complete frame has come from the server. Must be applied before the client can see its last byte.
    pub fn frame(&mut self, worker: &Worker, client: &Rc<Client>, frame: Frame<'_>) -> Relay {
        let (len, tail) = match frame {
            Frame::Whole(frame) => (frame.len(), frame),
            Frame::Large { len, tail, .. } => (len, tail),
        };
        let frame = match frame {
            Frame::Whole(frame) => Some(frame),
            // Confirmations and statuses are never that large, messages may be.
            Frame::Large { head, .. } if head.first() == Some(&b'>') || self.subscriptions.is_large_message(head) => {
                return Relay::Forward;
            }
            Frame::Large { .. } => None,
        };
        // The proxy's own requests are answered by a status, a number or an error, whatever else comes between.
        let is_status = frame.is_some_and(|frame| matches!(frame.first(), Some(b'+' | b'-')));
        let is_own = is_status || frame.is_some_and(|frame| frame.first() == Some(&b':'));
        if is_own && self.waiting.front().is_some_and(|waiting| waiting.kind == Kind::Own) {
            self.waiting.pop_front();
            return Relay::Swallow;
        }
        if is_status
            && self
                .waiting
                .front()
                .is_some_and(|waiting| waiting.kind == Kind::HeldMulti)
        {
            self.waiting.pop_front();
            self.is_multi = frame == Some(b"+OK\r\n");
            // What follows must not be executed outside of the transaction that was promised.
            client.state.borrow_mut().is_closing |= !self.is_multi;
            return Relay::Swallow;
        }
        if self.monitor.is_some() && frame.is_some_and(own::is_shown_by) {
            return Relay::Swallow;
        }
        if self.is_opaque {
            self.opaque_frame(worker, client, frame, tail);
            return Relay::Forward;
        }
        if let Some(frame) = frame
            && (self.confirmation(frame) || frame.first() == Some(&b'>') || self.subscriptions.is_message(frame))
        {
            return Relay::Forward;
        }
        let Some(waiting) = self.waiting.pop_front() else {
            return Relay::Forward;
        };
        self.voids(worker, client, &waiting.read, &waiting.written);
        if !self.is_multi {
            worker.note_size(&waiting.read, len);
        }
        if let Some(silent) = &waiting.silent {
            self.voids(worker, client, silent, silent);
        }
        if self.is_multi && frame == Some(b"+QUEUED\r\n") {
            self.queued.push(waiting);
            return Relay::Forward;
        }
        let translated = frame.and_then(|frame| match waiting.kind {
            Kind::Exec => ids::translated_all(worker, client, self.queued.iter().map(|queued| &queued.kind), frame),
            _ => ids::translated(worker, client, &waiting.kind, frame),
        });
        let translated = translated.or_else(|| self.without_address(worker, &waiting, frame?));
        self.answered(worker, client, waiting.kind, frame);
        translated.map_or(Relay::Forward, Relay::Replace)
    }

    /// In a cluster, the error that sends the client to another node, as one about the connection that it has.
    fn without_address(&self, worker: &Worker, waiting: &Waiting, frame: &[u8]) -> Option<Vec<u8>> {
        if frame.first() != Some(&b'-') || worker.cluster.is_none() {
            return None;
        }
        let error = merge::without_address(frame)?;
        // Keys of another slot are on another node, as a rule.
        let is_other_slot = waiting.slot.is_some() && self.slot.is_some() && waiting.slot != self.slot;
        Some(if is_other_slot {
            [b"-", CROSS_SLOT.as_bytes(), b"\r\n"].concat()
        } else {
            error
        })
    }

    /// Tells others what the client is doing, for `CLIENT LIST`.
    pub fn publish(&self, meta: &ClientMeta) {
        let mut modes = self.marks;
        for (is_set, mode) in [
            (self.is_multi, ClientMeta::MULTI),
            (self.is_blocked(), ClientMeta::BLOCKED),
            (self.monitor.is_some(), ClientMeta::MONITOR),
            (self.is_tracking, ClientMeta::TRACKING),
        ] {
            if is_set {
                modes |= mode;
            }
        }
        meta.modes.store(modes, Relaxed);
        meta.queued
            .store(if self.is_multi { self.queued.len() as i32 } else { -1 }, Relaxed);
        if !self.is_tracking {
            meta.redirect.store(-1, Relaxed);
        }
    }

    /// The server has executed (or refused) a command; `frame` is its reply, an element of a transaction's too.
    fn answered(&mut self, worker: &Worker, client: &Rc<Client>, kind: Kind, frame: Option<&[u8]>) {
        let is_error = frame.is_some_and(reply::is_error);
        match kind {
            Kind::Exec => self.executed(worker, client, frame),
            _ if is_error => {}
            Kind::Multi => self.is_multi = true,
            Kind::Discard => self.end_transaction(),
            Kind::Watch => self.is_watching = true,
            Kind::Unwatch => self.is_watching = false,
            // Inside a transaction, where the confirmations are no frames of their own.
            Kind::Subscribe(..) | Kind::Unsubscribe(..) => self.be_opaque(),
            Kind::Monitor => {
                self.monitor = Some(Arc::clone(&worker.shared.monitors));
                self.be_opaque();
            }
            Kind::TrackingOn { redirect } => {
                client.meta.redirect.store(redirect.unwrap_or(0), Relaxed);
                self.is_tracking = true;
                self.is_dirty = true;
            }
            Kind::Pause { length_ms, is_all } => worker.shared.pause.set(worker.now_us(), length_ms, is_all),
            Kind::Unpause => worker.shared.pause.end(),
            Kind::TrackingOff => self.is_tracking = false,
            Kind::Setting => {
                self.is_settled = true;
                self.is_dirty = true;
            }
            Kind::Mark { mode, is_on: true } => {
                self.marks |= mode;
                self.is_dirty = true;
            }
            Kind::Mark { mode, is_on: false } => self.marks &= !mode,
            Kind::Select(db) => {
                client.state.borrow_mut().db = db;
                client.meta.db.store(db, Relaxed);
            }
            Kind::Requirepass(password) => password::follow(worker, &password),
            Kind::SetName(name) => client.meta.words.lock().name = name,
            Kind::Hello {
                version,
                name,
                is_foreign,
            } => {
                if let Some(name) = name {
                    client.meta.words.lock().name = name;
                }
                if let Some(version) = version {
                    let mut state = client.state.borrow_mut();
                    // Over shared connections it would be answered in another version than here.
                    state.is_closing |= !state.speak(version, worker.target.spoken());
                    drop(state);
                    client.meta.is_resp3.store(version == Version::Resp3, Relaxed);
                }
                if is_foreign {
                    self.become_foreign(client);
                }
            }
            Kind::Auth { is_own: false } => self.become_foreign(client),
            Kind::Auth { is_own: true } => client.state.borrow_mut().access = ClientAccess::Own,
            Kind::Reset => {
                *self = Pinned {
                    is_dirty: true,
                    waiting: std::mem::take(&mut self.waiting),
                    ..Pinned::default()
                };
                local::forget(worker, client);
            }
            // The server closes the connection; nothing behind it may be looked at before that is seen.
            Kind::Quit => client.state.borrow_mut().is_closing = true,
            Kind::Plain
            | Kind::HeldMulti
            | Kind::Own
            | Kind::ClientId
            | Kind::Redirection
            | Kind::TrackingInfo
            | Kind::Receivers { .. }
            | Kind::Subscribers { .. } => {}
        }
    }

    fn executed(&mut self, worker: &Worker, client: &Rc<Client>, frame: Option<&[u8]>) {
        match frame {
            // Without a transaction nothing ends, a watch neither.
            Some([b'-', rest @ ..]) if !rest.starts_with(b"EXECABORT") && !is_of_cluster(rest) => {}
            Some([b'-', ..] | [b'_', ..] | [b'*', b'-', ..]) => self.end_transaction(),
            _ => {
                let queued = std::mem::take(&mut self.queued);
                self.end_transaction();
                let mut elements = frame.and_then(reply::elements);
                for Waiting {
                    kind, read, written, ..
                } in queued
                {
                    self.voids(worker, client, &read, &written);
                    let element = elements.as_mut().and_then(Iterator::next);
                    if element.is_none() && kind != Kind::Plain {
                        // Too large to be looked at: what it did to the connection is not known.
                        self.be_opaque();
                    }
                    self.answered(worker, client, kind, element);
                }
            }
        }
    }

    fn end_transaction(&mut self) {
        self.is_multi = false;
        self.is_watching = false;
        self.queued.clear();
    }

    fn become_foreign(&mut self, client: &Client) {
        self.is_settled = true;
        self.is_dirty = true;
        client.state.borrow_mut().access = ClientAccess::Foreign;
    }

    /// Nobody can say which request a frame answers. What such a client writes is voided with the next frame, and told by
    /// pushes in any case. A `RESET` ends the state.
    fn opaque_frame(&mut self, worker: &Worker, client: &Rc<Client>, frame: Option<&[u8]>, tail: &[u8]) {
        self.look_at_password(worker);
        self.void_unsure(worker, client);
        let has_reset = self.waiting.iter().any(|waiting| waiting.kind == Kind::Reset);
        let is_reset = |frame: &[u8]| frame == b"+RESET\r\n";
        // An EXEC with too few elements takes the replies behind it for its own.
        let is_in = |frame: &[u8]| reply::elements(frame).is_some_and(|mut all| all.any(is_reset));
        let is_last = is_reset(tail) || tail.ends_with(b"\r\n+RESET\r\n");
        if has_reset && (is_last || frame.is_some_and(is_in)) {
            while let Some(waiting) = self.waiting.pop_front() {
                if waiting.kind == Kind::Reset {
                    break;
                }
            }
            self.answered(worker, client, Kind::Reset, None);
            return;
        }
        for waiting in std::mem::take(&mut self.waiting) {
            self.voids(worker, client, &waiting.read, &waiting.written);
            if let Some(silent) = &waiting.silent {
                self.voids(worker, client, silent, silent);
            }
            if has_reset || waiting.kind == Kind::Own {
                self.waiting.push_back(Waiting {
                    is_blocking: waiting.is_blocking,
                    ..Waiting::of(waiting.kind)
                });
            }
        }
    }

    /// The client is about to see something. It may be the reply of any request of such a transaction, or of one behind it.
    pub fn void_unsure(&mut self, worker: &Worker, client: &Client) {
        let Some(mut unsure) = self.unsure.take() else { return };
        for waiting in &self.waiting {
            unsure.add(&waiting.read);
            unsure.add(&waiting.written);
        }
        let touched = unsure.touched();
        self.voids(worker, client, &touched, &touched);
        self.unsure.get_or_insert_default().add(&touched);
    }

    /// The connection is gone. What was under way may have been executed, or may yet be: the client must not be shown as stale
    /// what it has overwritten.
    pub fn lost(&mut self, worker: &Worker, client: &Client) {
        // A script may have written what it did not declare.
        client.state.borrow_mut().floor_us = worker.now_us();
        if worker.shared.config.cache.max_stale.is_none() {
            return;
        }
        for waiting in self.waiting.iter().chain(&self.queued) {
            self.voids(worker, client, &Touched::None, &waiting.written);
            if let Some(silent) = &waiting.silent {
                self.voids(worker, client, &Touched::None, silent);
            }
        }
    }

    /// Replies of a pinned connection take away what any connection filled or fills.
    fn voids(&self, worker: &Worker, client: &Client, read: &Touched, written: &Touched) {
        let cache = &worker.shared.cache;
        read.hashes()
            .iter()
            .for_each(|&hash| cache.passed_by(LinkId::PINNED, hash));
        written
            .hashes()
            .iter()
            .for_each(|&hash| cache.acked(LinkId::PINNED, hash));
        if *written == Touched::All {
            worker.void_everything();
        }
        owed::hold(worker, client, written);
        if *read == Touched::All {
            client.state.borrow_mut().floor_us = worker.now_us();
        }
    }

    /// Whether the frame confirms a subscription or its end; if so, it is counted.
    fn confirmation(&mut self, frame: &[u8]) -> bool {
        let is_expected = |waiting: &Waiting| matches!(waiting.kind, Kind::Subscribe(..) | Kind::Unsubscribe(..));
        if !self.subscriptions.is_any() && !self.waiting.iter().any(is_expected) {
            return false;
        }
        let Some(confirmed) = self.subscriptions.confirm(frame) else {
            return false;
        };
        let is_done = match self.waiting.front_mut().map(|waiting| &mut waiting.kind) {
            Some(Kind::Subscribe(which, left)) if confirmed.is_start && *which == confirmed.which => {
                *left = left.saturating_sub(1);
                *left == 0
            }
            Some(Kind::Unsubscribe(which, left)) if !confirmed.is_start && *which == confirmed.which => {
                let left = left.get_or_insert(confirmed.before.max(1));
                *left = left.saturating_sub(1);
                *left == 0
            }
            _ => false,
        };
        if is_done {
            self.waiting.pop_front();
        }
        true
    }
}

/// Whether a node of a cluster has refused an `EXEC` for the slot of its keys, which discards the transaction.
fn is_of_cluster(error: &[u8]) -> bool {
    let codes = [&b"MOVED "[..], b"ASK ", b"TRYAGAIN ", b"CLUSTERDOWN ", b"CROSSSLOT "];
    codes.iter().any(|code| error.starts_with(code))
}
