//! A connection that is up: its task reads, applies and writes until it ends, and says why it did.

use std::future::poll_fn;
use std::task::{Context, Poll};

use bytes::{Buf, BytesMut};

use super::{Connection, Ending, Frame, Input, SHARED_FRAME_BYTES, Sink};
use crate::clock;
use crate::net::{Stream, noted};
use crate::upstream::breaker::LOADING;

const READ_BYTES: usize = 64 << 10;
/// From then on it is not near, or busy with something else: what is written then is on the way to it when it is lost.
const MOST_HELD_US: u64 = 1000;
/// Reads in one turn before other tasks of the worker get theirs.
const READS_A_TURN: usize = 8;

impl<S: Sink> Connection<S> {
    pub(super) async fn pump(&self, mut stream: Stream) -> Ending {
        let mut input = Input {
            bytes: BytesMut::with_capacity(READ_BYTES),
            ..Input::default()
        };
        // The socket wakes this task once it has something to read.
        let mut is_listening = false;
        let end = poll_fn(|cx| {
            self.remember(cx);
            self.is_woken.set(false);
            if let Some(ending) = self.doomed.borrow_mut().take() {
                return Poll::Ready(ending);
            }
            // Woken to write, as a rule, it need not be told again that there is nothing to read.
            if !is_listening || stream.may_be_readable() {
                is_listening = false;
                if let Some(ending) = self.read(cx, &mut stream, &mut input, &mut is_listening) {
                    return Poll::Ready(ending);
                }
            }
            match self.write(cx, &mut stream) {
                Some(ending) => Poll::Ready(ending),
                None => Poll::Pending,
            }
        })
        .await;
        *self.waker.borrow_mut() = None;
        end
    }

    fn remember(&self, cx: &mut Context<'_>) {
        let mut waker = self.waker.borrow_mut();
        if !waker.as_ref().is_some_and(|w| w.will_wake(cx.waker())) {
            *waker = Some(cx.waker().clone());
        }
    }

    fn read(
        &self,
        cx: &mut Context<'_>,
        stream: &mut Stream,
        input: &mut Input,
        is_listening: &mut bool,
    ) -> Option<Ending> {
        for turn in 0.. {
            if turn == READS_A_TURN {
                cx.waker().wake_by_ref();
                return None;
            }
            // As a rule one read has found everything.
            if turn > 0 && stream.poll_readable(cx).is_pending() {
                *is_listening = noted();
                return None;
            }
            let pending = input.frames.pending_payload();
            let room = usize::try_from(pending)
                .unwrap_or(usize::MAX)
                .clamp(READ_BYTES, 1 << 30);
            if input.bytes.capacity() - input.bytes.len() < READ_BYTES / 4 {
                input.bytes.reserve(room);
            }
            match stream.poll_read_append(cx, &mut input.bytes) {
                Poll::Pending => {
                    *is_listening = noted();
                    return None;
                }
                Poll::Ready(Err(e)) => return Some(Ending::of(e.to_string())),
                Poll::Ready(Ok(0)) => return Some(Ending::of("the upstream closed the connection")),
                Poll::Ready(Ok(_)) => {}
            }
            let now_us = clock::now_us();
            if let Err(why) = self.arrived(input, now_us) {
                return Some(Ending {
                    why,
                    failed_since_us: Some(now_us),
                });
            }
        }
        None
    }

    pub(super) fn take_frames(&self, input: &mut Input, now_us: u64) -> Result<(), String> {
        let Input {
            bytes: input,
            frames,
            scanned,
        } = input;
        let mut start = 0;
        let (mut answered_us, mut answers, mut loading) = (0, 0, 0);
        let result = loop {
            let (consumed, complete) = match frames.advance(&input[*scanned..]) {
                Ok(progress) => progress,
                Err(e) => break Err(format!("the upstream sent what is no RESP: {e}")),
            };
            *scanned += consumed;
            if !complete {
                break Ok(());
            }
            let bytes = *scanned - start;
            let is_push = match input[start] {
                b'>' => true,
                b'*' => self.sink.is_message(&input[start..*scanned]),
                _ => false,
            };
            if is_push && !self.is_reply(&input[start..*scanned]) {
                self.sink.push(&input[start..*scanned]);
            } else {
                if input[start] == b'-' && self.sink.is_refusal(&input[start..*scanned]) {
                    let why = String::from_utf8_lossy(&input[start + 1..*scanned]);
                    break Err(format!("it does not serve: {}", why.trim()));
                }
                let Some((sent_us, waiter)) = self.next_waiter() else {
                    break Err("the upstream sent a reply that nobody asked for".into());
                };
                answered_us = sent_us;
                answers += 1;
                if input[start] == b'-'
                    && input[start + 1..*scanned].starts_with(LOADING.as_bytes())
                    && !self.sink.carries_scripts()
                {
                    loading += 1;
                    let why = String::from_utf8_lossy(&input[start + 1..*scanned]);
                    self.target.failed(self.generation.get(), sent_us, why.trim());
                }
                if bytes >= SHARED_FRAME_BYTES {
                    input.advance(start);
                    *scanned -= start;
                    start = 0;
                    let shared = input.split_to(bytes).freeze();
                    *scanned = 0;
                    self.sink.reply(
                        waiter,
                        Frame {
                            bytes: &shared,
                            shared: Some(shared.clone()),
                        },
                    );
                    continue;
                }
                self.sink.reply(
                    waiter,
                    Frame {
                        bytes: &input[start..*scanned],
                        shared: None,
                    },
                );
            }
            start = *scanned;
        };
        input.advance(start);
        *scanned -= start;
        if input.is_empty() && input.capacity() > 4 * READ_BYTES {
            *input = BytesMut::with_capacity(READ_BYTES);
        }
        if answers > 0 {
            let mut quickest = self.quickest.get();
            quickest.answered(answered_us, now_us);
            self.quickest.set(quickest);
        }
        if answers > loading {
            self.target.breaker().answered(now_us);
        }
        self.sink.batch_done(answered_us, answers);
        result
    }

    fn write(&self, cx: &mut Context<'_>, stream: &mut Stream) -> Option<Ending> {
        let mut queue = self.queue.borrow_mut();
        // A server nearby is often woken on the core on which this runs. What it would be given in twos and threes costs it and us
        // more than to wait for its answer does, which comes as soon as it is done with what it has, and nothing else is behind.
        let is_held = self.quickest.get().is_near() && queue.is_small_behind_others(MOST_HELD_US);
        while !is_held && !queue.is_written() {
            match stream.poll_write_some(cx, queue.unsent()) {
                Poll::Pending => {
                    queue.note_stuck(clock::now_us());
                    break;
                }
                Poll::Ready(Ok(n)) => queue.wrote(n),
                Poll::Ready(Err(e)) => return Some(Ending::of(e.to_string())),
            }
        }
        queue.trim();
        let has_room = queue.has_room();
        drop(queue);
        if has_room && !self.blocked.borrow().is_empty() {
            self.unblock();
        }
        None
    }
}
