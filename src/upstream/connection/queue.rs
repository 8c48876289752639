//! What a shared connection has been given to send and not been answered yet: the bytes, and who waits for which reply.
//!
//! Bytes stay until their request is answered, so that one that a lost connection has taken with it can be sent again.

use std::collections::VecDeque;

use super::FULL_BYTES;
use crate::clock;

pub(super) struct Queue<W> {
    /// From some answered request on (see [`Queue::trim`]), or from the oldest unanswered one.
    out: Vec<u8>,
    /// How many bytes were queued before the first of `out`.
    base: u64,
    written: usize,
    /// Since when the socket takes nothing of what is to be written; 0: it does, or was not asked.
    pub stuck_since_us: u64,
    waiters: VecDeque<Waiting<W>>,
    /// So many at the front have been told that their deadline has passed.
    expired: usize,
    /// What is late before its turn; in the order of the waiters, as each entry is of the last one when it is made.
    begun_earlier: Vec<Begun>,
    pub last_sent_us: u64,
    /// When bytes last arrived, or the first unanswered request was queued, whichever is later.
    pub silent_since_us: u64,
}

struct Waiting<W> {
    queued_us: u64,
    /// Where the bytes begin that were queued together with it, counted from the first byte ever.
    start: u64,
    /// They were sent before, on a connection that was lost.
    is_repeat: bool,
    waiter: W,
}

/// Requests that were queued together, and whose deadline is counted from an earlier time.
struct Begun {
    begun_us: u64,
    start: u64,
}

/// From so many bytes on requests are not held back for others to come.
const SMALL_BYTES: usize = 16 << 10;

/// Answered bytes up to this are not worth a move of what is behind them.
const TRIM_BYTES: usize = 64 << 10;

impl<W> Queue<W> {
    pub fn new() -> Queue<W> {
        Queue {
            out: Vec::new(),
            base: 0,
            written: 0,
            stuck_since_us: 0,
            waiters: VecDeque::new(),
            expired: 0,
            begun_earlier: Vec::new(),
            last_sent_us: 0,
            silent_since_us: 0,
        }
    }

    /// Queues what the closure writes at this time, with one `expect` for each request. All of it is one piece: it is sent
    /// again whole or not at all.
    #[inline]
    pub fn push(&mut self, now_us: u64, write: impl FnOnce(&mut Vec<u8>, &mut dyn FnMut(W))) {
        let start = self.begin(now_us);
        let waiters = &mut self.waiters;
        write(&mut self.out, &mut |waiter| {
            waiters.push_back(Waiting {
                queued_us: now_us,
                start,
                is_repeat: false,
                waiter,
            });
        });
    }

    /// The same of one request.
    #[inline]
    pub fn push_one(&mut self, now_us: u64, request: &[u8], waiter: W) {
        let start = self.begin(now_us);
        self.out.extend_from_slice(request);
        self.waiters.push_back(Waiting {
            queued_us: now_us,
            start,
            is_repeat: false,
            waiter,
        });
    }

    /// Something is queued now, and begins there.
    #[inline]
    fn begin(&mut self, now_us: u64) -> u64 {
        if self.waiters.is_empty() {
            self.silent_since_us = now_us;
            if self.is_written() {
                self.forget_written();
            }
        }
        self.last_sent_us = now_us;
        self.base + self.out.len() as u64
    }

    /// The deadline of what was queued last is counted from this time.
    pub fn last_began(&mut self, begun_us: u64) {
        if let Some(last) = self.waiters.back() {
            let start = last.start;
            self.begun_earlier.push(Begun { begun_us, start });
        }
    }

    /// When the oldest unanswered request was queued, and who waits for it. `None`: nothing of it has been sent.
    #[inline]
    pub fn pop(&mut self) -> Option<(u64, W)> {
        let sent_until = self.sent_until();
        let waiting = self.waiters.pop_front_if(|oldest| oldest.start < sent_until)?;
        self.expired = self.expired.saturating_sub(1);
        Some((waiting.queued_us, waiting.waiter))
    }

    /// Who waits for the next reply, if it was asked for.
    pub fn oldest(&self) -> Option<&W> {
        let oldest = self.waiters.front()?;
        (oldest.start < self.sent_until()).then_some(&oldest.waiter)
    }

    #[inline]
    fn sent_until(&self) -> u64 {
        self.base + self.written as u64
    }

    pub fn oldest_us(&self) -> Option<u64> {
        self.waiters.front().map(|waiting| waiting.queued_us)
    }

    pub fn len(&self) -> usize {
        self.waiters.len()
    }

    pub fn is_empty(&self) -> bool {
        self.waiters.is_empty()
    }

    /// Tells all whose time began before this one and who have not been told that they are late, and when it began.
    pub fn each_late(&mut self, before_us: u64, mut tell: impl FnMut(u64, &mut W)) {
        while let Some(late) = self.waiters.get_mut(self.expired)
            && late.queued_us < before_us
        {
            self.expired += 1;
            tell(late.queued_us, &mut late.waiter);
        }
        let (waiters, expired) = (&mut self.waiters, self.expired);
        let oldest = waiters.front().map_or(u64::MAX, |waiting| waiting.start);
        self.begun_earlier.retain(|begun| {
            if begun.start < oldest || begun.begun_us >= before_us {
                return begun.start >= oldest;
            }
            let first = waiters.partition_point(|waiting| waiting.start < begun.start);
            let together = waiters.range_mut(first.max(expired)..);
            together
                .take_while(|waiting| waiting.start == begun.start)
                .for_each(|waiting| tell(begun.begun_us, &mut waiting.waiter));
            false
        });
    }

    /// Whether somebody waits who has been told that it is late.
    pub fn is_overdue(&self) -> bool {
        self.expired > 0
    }

    /// Whether there is little to write, and an answer has been due for no longer than this, before which it need not be written.
    pub fn is_small_behind_others(&self, most_us: u64) -> bool {
        // Of a request of which the socket took a part no answer comes.
        self.stuck_since_us == 0
            && self.unsent().len() < SMALL_BYTES
            && self.oldest().is_some()
            && self
                .oldest_us()
                .is_some_and(|oldest_us| clock::now_us() < oldest_us + most_us)
    }

    pub fn unsent(&self) -> &[u8] {
        &self.out[self.written..]
    }

    #[inline]
    pub fn is_written(&self) -> bool {
        self.written == self.out.len()
    }

    /// The socket took so many bytes.
    pub fn wrote(&mut self, bytes: usize) {
        self.written += bytes;
        self.stuck_since_us = 0;
    }

    /// The socket takes no more for now.
    pub fn note_stuck(&mut self, now_us: u64) {
        if self.stuck_since_us == 0 {
            self.stuck_since_us = now_us;
        }
    }

    /// Bytes of what is unanswered.
    pub fn held_bytes(&self) -> usize {
        let first = self
            .waiters
            .front()
            .map_or(self.base + self.written as u64, |w| w.start);
        (self.base + self.out.len() as u64 - first) as usize
    }

    pub fn is_full(&self) -> bool {
        self.held_bytes() > FULL_BYTES
    }

    pub fn has_room(&self) -> bool {
        self.held_bytes() <= FULL_BYTES / 2
    }

    /// Gives up bytes of answered requests, once they are the larger part.
    pub fn trim(&mut self) {
        // A server that refuses a request need not have taken all of it.
        let answered = (self.out.len() - self.held_bytes()).min(self.written);
        if self.waiters.is_empty() && self.is_written() {
            self.forget_written();
        } else if answered > TRIM_BYTES && answered > self.out.len() / 2 {
            self.out.drain(..answered);
            self.written -= answered;
            self.base += answered as u64;
        }
    }

    fn forget_written(&mut self) {
        self.base += self.out.len() as u64;
        self.written = 0;
        if self.out.capacity() > 4 * TRIM_BYTES {
            self.out = Vec::with_capacity(TRIM_BYTES);
        }
        self.out.clear();
    }

    /// Everything that is unanswered, oldest first; nothing of it will be sent.
    pub fn clear(&mut self) -> impl Iterator<Item = W> + use<W> {
        self.written = self.out.len();
        self.forget_written();
        self.expired = 0;
        self.begun_earlier.clear();
        std::mem::take(&mut self.waiters)
            .into_iter()
            .map(|waiting| waiting.waiter)
    }

    /// The connection is lost: takes out everything, piece by piece, oldest first.
    pub fn pieces(&mut self) -> Vec<Piece<W>> {
        let sent_until = self.sent_until();
        let (base, end) = (self.base, self.base + self.out.len() as u64);
        let out = std::mem::take(&mut self.out);
        let mut pieces: Vec<Piece<W>> = Vec::new();
        let mut expired = std::mem::take(&mut self.expired);
        let mut begun_earlier = std::mem::take(&mut self.begun_earlier).into_iter().peekable();
        for waiting in std::mem::take(&mut self.waiters) {
            match pieces.last_mut() {
                Some(piece) if piece.start == waiting.start => {
                    piece.waiters.push(waiting.waiter);
                    piece.expired += usize::from(expired > 0);
                }
                _ => pieces.push(Piece {
                    start: waiting.start,
                    queued_us: waiting.queued_us,
                    bytes: Vec::new(),
                    fate: match waiting.start < sent_until {
                        true if waiting.is_repeat => Fate::SentAgain,
                        true => Fate::Sent,
                        false => Fate::Unsent,
                    },
                    waiters: vec![waiting.waiter],
                    expired: usize::from(expired > 0),
                    is_repeat: waiting.is_repeat,
                    begun_us: None,
                }),
            }
            expired = expired.saturating_sub(1);
        }
        let ends: Vec<u64> = pieces.iter().skip(1).map(|piece| piece.start).chain([end]).collect();
        for (piece, end) in pieces.iter_mut().zip(ends) {
            piece.bytes = out[(piece.start - base) as usize..(end - base) as usize].to_vec();
            while begun_earlier.next_if(|begun| begun.start < piece.start).is_some() {}
            let begun = begun_earlier.next_if(|begun| begun.start == piece.start);
            piece.begun_us = begun.map(|begun| begun.begun_us);
        }
        self.written = 0;
        self.base = end;
        pieces
    }

    /// A piece of the lost connection goes to the next one, behind those that were put back before.
    pub fn put_back(&mut self, piece: Piece<W>) {
        self.expired += piece.expired;
        let begun_us = piece.begun_us;
        let start = self.base + self.out.len() as u64;
        self.out.extend_from_slice(&piece.bytes);
        self.waiters.extend(piece.waiters.into_iter().map(|waiter| Waiting {
            queued_us: piece.queued_us,
            start,
            is_repeat: piece.is_repeat || piece.fate != Fate::Unsent,
            waiter,
        }));
        if let Some(begun_us) = begun_us {
            self.last_began(begun_us);
        }
    }

    /// Everything that is not written yet, which passes for written from now on.
    pub fn take_unsent(&mut self) -> Vec<u8> {
        let unsent = self.unsent().to_vec();
        self.written = self.out.len();
        unsent
    }
}

/// What was queued at once, on a connection that is lost.
pub(super) struct Piece<W> {
    start: u64,
    queued_us: u64,
    bytes: Vec<u8>,
    pub fate: Fate,
    pub waiters: Vec<W>,
    /// So many of them, the first ones, have been told that they are late.
    expired: usize,
    /// They were sent before, on an earlier connection.
    is_repeat: bool,
    /// Their time began before they were queued.
    begun_us: Option<u64>,
}

impl<W> Piece<W> {
    /// Whether all have been told that they are late, and may have been executed.
    pub fn is_expired(&self) -> bool {
        self.expired == self.waiters.len()
    }

    /// Gives it to somebody else, with the time since when it waits; what he does not take.
    pub fn hand_over(self, take: impl FnOnce(&[u8], u64, Vec<W>) -> Result<(), Vec<W>>) -> Option<Piece<W>> {
        let begun_us = self.begun_us.unwrap_or(self.queued_us);
        let waiters = take(&self.bytes, begun_us, self.waiters).err()?;
        Some(Piece { waiters, ..self })
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Fate {
    /// Nobody has seen any of it.
    Unsent,
    Sent,
    /// For the second time.
    SentAgain,
}

#[cfg(test)]
mod tests;
