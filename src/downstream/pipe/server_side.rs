//! The server's side of a pipe: its frames, its silence and its end.

use std::task::{Context, Poll};

use tokio::time::Instant;

use super::place::Again;
use super::{BYTES_A_TURN, Ended, HEAD_BYTES, Pipe, WHOLE_FRAME_BYTES};
use crate::clock;
use crate::downstream::session::{HIGH_WATER_BYTES, Session};
use crate::proxy::cluster::redirect::Redirect;
use crate::proxy::pinned::{Frame, Relay};

impl Pipe {
    pub(super) fn write_server(&mut self, cx: &mut Context<'_>) -> std::io::Result<bool> {
        let mut has_progress = false;
        while self.written < self.to_server.len() && self.turn_bytes < BYTES_A_TURN {
            let piece = self.to_server.len().min(self.written + BYTES_A_TURN);
            match self
                .lent
                .stream
                .poll_write_some(cx, &self.to_server[self.written..piece])
            {
                Poll::Pending => break,
                Poll::Ready(Ok(n)) => {
                    self.moved(n);
                    self.written += n;
                    has_progress = true;
                    let is_sent = self.written == self.to_server.len();
                    let patience = if is_sent { self.read_timeout } else { self.write_timeout };
                    self.timer.as_mut().reset(Instant::now() + patience);
                }
                Poll::Ready(Err(e)) => return Err(e),
            }
        }
        if self.written == self.to_server.len() && self.written > 0 {
            self.to_server = Vec::new();
            self.written = 0;
        } else if self.written >= HIGH_WATER_BYTES {
            // Of a request that comes as fast as it goes nothing may stay until it is whole.
            self.to_server.drain(..self.written);
            self.written = 0;
        }
        Ok(has_progress)
    }

    pub(super) fn read_server(&mut self, cx: &mut Context<'_>, session: &mut Session) -> Result<bool, String> {
        if session.client.state.borrow_mut().outbox.ready().len() >= HIGH_WATER_BYTES {
            return Ok(false);
        }
        let mut buffer = session.worker.take_read_buffer();
        let read = self.lent.stream.poll_read_into(cx, &mut buffer);
        let result = match read {
            Poll::Pending => Ok(false),
            Poll::Ready(Err(e)) => Err(e.to_string()),
            Poll::Ready(Ok(0)) => Err("it closed the connection".to_owned()),
            Poll::Ready(Ok(n)) => {
                self.timer.as_mut().reset(Instant::now() + self.read_timeout);
                self.moved(n);
                self.held.extend_from_slice(&buffer[..n]);
                self.take_frames(session).map(|()| true)
            }
        };
        session.worker.return_read_buffer(buffer);
        result
    }

    pub(super) fn take_frames(&mut self, session: &mut Session) -> Result<(), String> {
        let mut start = 0;
        loop {
            let (consumed, is_complete) = self
                .frames
                .advance(&self.held[self.scanned..])
                .map_err(|e| format!("it sent what is no RESP: {e}"))?;
            self.scanned += consumed;
            let frame = &self.held[start..self.scanned];
            if is_complete {
                let seen = if self.is_streaming {
                    Frame::Large {
                        head: &self.head,
                        len: self.streamed_bytes + frame.len(),
                        tail: frame,
                    }
                } else {
                    Frame::Whole(frame)
                };
                self.is_streaming = false;
                if frame.first() == Some(&b'-')
                    && self.kept.is_some()
                    && self.pinned.is_answer_to_client()
                    && let Some(redirect) = Redirect::of(frame, || self.lent.endpoint.clone())
                    && let Some(request) = self.kept.take()
                {
                    self.again = Some(Again { request, redirect });
                    return Ok(());
                }
                match self.pinned.frame(&session.worker, &session.client, seen) {
                    Relay::Forward => {}
                    Relay::Replace(frame) => {
                        let mut state = session.client.state.borrow_mut();
                        state.outbox.ready().bytes.extend_from_slice(&frame);
                        start = self.scanned;
                        continue;
                    }
                    Relay::Swallow => {
                        start = self.scanned;
                        continue;
                    }
                }
            } else if !self.is_streaming {
                if frame.len() <= WHOLE_FRAME_BYTES && !self.pinned.may_stay_in_part(frame) {
                    break;
                }
                self.is_streaming = true;
                self.streamed_bytes = 0;
                self.head = frame[..frame.len().min(HEAD_BYTES)].into();
            }
            if !is_complete {
                self.pinned.void_unsure(&session.worker, &session.client);
            }
            let mut state = session.client.state.borrow_mut();
            state.outbox.ready().bytes.extend_from_slice(frame);
            state.outbox.set_mid_frame(!is_complete);
            self.streamed_bytes += frame.len();
            drop(state);
            start = self.scanned;
            if !is_complete {
                break;
            }
        }
        self.held.drain(..start);
        self.scanned -= start;
        if self.held.is_empty() {
            self.held = Vec::new();
        }
        // Replies may have ended what requests waited for.
        self.is_stalled |= !session.input.is_empty() || self.broken.is_some();
        Ok(())
    }

    /// Whether the client has sent its last request, and the server is to hear of it and to say when all is answered.
    pub(super) fn is_let_go(&self, session: &Session) -> bool {
        session.is_ended && self.pinned.is_open_ended() || self.pinned.has_left() && !self.is_streaming
    }

    /// Fails when the upstream has become another node than the one to which the connection leads.
    pub(super) fn is_current(&self, session: &Session) -> Result<(), String> {
        if self.lent.generation < session.worker.generation.get() {
            return Err(format!("the primary is now {}", session.worker.target.node()));
        }
        Ok(())
    }

    /// The server is gone: a client that only waited for a reply is told and goes on; one with a state is closed, as Redis
    /// would close it, once it has taken what there is.
    pub(super) fn server_lost(&mut self, session: &mut Session, why: &str) -> Option<Ended> {
        session.worker.counters().l2_errors_total.add(1);
        let is_told = self.has_started
            && !self.pinned.is_quitting
            && !self.pinned.is_sticky()
            && !self.pinned.is_blocked()
            && !self.is_streaming
            && self.streamed.is_none();
        self.is_lost = true;
        self.pinned.is_dirty = true;
        self.pinned.lost(&session.worker, &session.client);
        if !is_told {
            session.client.state.borrow_mut().is_closing = true;
            return None;
        }
        let text = format!(
            "ERR nearcache: upstream {} was lost before the reply: {why}; a write may or may not have been executed",
            self.upstream
        );
        for _ in 0..self.pinned.waiting() {
            session.client.state.borrow_mut().error(&text);
        }
        Some(Ended::Back)
    }

    pub(super) fn check_silence(&mut self, cx: &mut Context<'_>, session: &mut Session) -> Poll<Ended> {
        let is_gone = self.is_let_go(session);
        let is_due = !self.pinned.may_be_silent() || self.written < self.to_server.len();
        // A client that does not read is slow, not the server.
        let is_client_slow = session.client.state.borrow_mut().outbox.ready().len() >= HIGH_WATER_BYTES;
        // Sent or not, nobody answers it: its worker has had it looked at when the breaker opened.
        if is_due
            && !self.is_lost
            && !is_client_slow
            && let Some(cut) = self.target.breaker().cut()
        {
            return self.give_up(cx, session, &cut.to_string());
        }
        if self.is_lost || !is_gone && (!is_due || is_client_slow) || self.timer.as_mut().poll(cx).is_pending() {
            return Poll::Pending;
        }
        if is_gone {
            return Poll::Ready(Ended::Closed);
        }
        let why = if self.written < self.to_server.len() {
            format!(
                "it took no data within the write timeout of {} ms",
                self.write_timeout.as_millis()
            )
        } else {
            format!(
                "no answer within the read timeout of {} ms",
                self.read_timeout.as_millis()
            )
        };
        let since_us = clock::now_us().saturating_sub(self.read_timeout.as_micros() as u64);
        self.target.failed(self.lent.generation, since_us, &why);
        self.give_up(cx, session, &why)
    }

    fn give_up(&mut self, cx: &mut Context<'_>, session: &mut Session, why: &str) -> Poll<Ended> {
        match self.server_lost(session, why) {
            Some(ended) => Poll::Ready(ended),
            None => {
                cx.waker().wake_by_ref();
                Poll::Pending
            }
        }
    }
}
