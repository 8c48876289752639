//! Replies to plain reads and writes, of which there are the most: what they change in L1 is looked up by name hash alone,
//! and the client gets them as they came.

use super::{LinkSink, count};
use crate::proxy::client::write_frame;
use crate::proxy::waiter::{Effect, Waiter};
use crate::proxy::worker::Worker;
use crate::upstream::connection::Frame;

impl LinkSink {
    /// Answers such a request. False: it is none.
    #[inline]
    pub(super) fn answer_usual(&self, worker: &Worker, waiter: &Waiter, frame: &Frame<'_>) -> bool {
        let Some((client, sequence)) = &waiter.to else {
            return false;
        };
        match &waiter.effect {
            Effect::Read(touched) => {
                count(worker, &waiter.effect, frame.bytes);
                self.passed_by(worker, touched, Some(client));
            }
            Effect::Write(touched) => self.acked(worker, touched, Some(client)),
            _ => return false,
        }
        if frame.shared.is_some() {
            worker.remember_large_reply(&waiter.effect, frame.bytes.len());
        }
        let mut state = client.state.borrow_mut();
        if !self.is_vouching() {
            // A script may have read and written what it did not declare.
            state.floor_us = self.received_us();
        }
        state.outbox.answer(*sequence, |ready| {
            write_frame(ready, frame.bytes, frame.shared.as_ref(), waiter.version, &waiter.rule);
        });
        drop(state);
        client.touch(&worker.touched);
        true
    }
}
