//! The replies of one client, in the order of its requests, and what it still waits for. Pure: no I/O, one thread.
//!
//! A request that cannot be answered at once takes a slot. Bytes become ready for the socket only when every earlier
//! slot is answered. The same slots say which keys the client's unanswered requests touch, and so what a later request
//! of the same client may do: a hit or a join must not overtake an earlier request on its key, and nothing may overtake
//! a request that follows another worker's flight.

use std::collections::VecDeque;
use std::io::IoSlice;

use bytes::Bytes;
use hashbrown::HashMap;

use crate::cache::{FlightId, Own};

/// Payloads of this size and more are kept by reference in [`Ready`].
pub const BY_REFERENCE_BYTES: usize = 2 << 10;

/// What the replies that a client waits for may come to, as far as its earlier ones tell.
const WINDOW_BYTES: usize = 1 << 20;
/// What a reply is taken for until there was one: 64 requests at first.
const FIRST_GUESS_BYTES: usize = 16 << 10;
const LEAST_WINDOW: usize = 4;

/// The keys that a request touches, as name hashes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Touched {
    #[default]
    None,
    One(u64),
    Many(Box<[u64]>),
    /// Any key: they cannot be known, or are all.
    All,
}

impl Touched {
    pub fn from_hashes(hashes: &[u64]) -> Touched {
        match hashes {
            [] => Touched::None,
            [one] => Touched::One(*one),
            many => Touched::Many(many.into()),
        }
    }

    /// Whether there may be a key that both touch.
    fn meets(&self, other: &Touched) -> bool {
        match (self, other) {
            (Touched::None, _) | (_, Touched::None) => false,
            (Touched::All, _) | (_, Touched::All) => true,
            (one, other) => one.hashes().iter().any(|hash| other.hashes().contains(hash)),
        }
    }

    /// The hashes; none for `All`.
    pub fn hashes(&self) -> &[u64] {
        match self {
            Touched::One(hash) => std::slice::from_ref(hash),
            Touched::Many(hashes) => hashes,
            Touched::None | Touched::All => &[],
        }
    }
}

/// Where the answer of a slot comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// A request of its own, on the client's connection.
    Sent,
    /// The flight of a lease taken on the client's own worker.
    Flight(FlightId),
    /// A flight of another worker: later requests on the key must wait.
    FlightElsewhere(FlightId),
    /// The disk, without a flight: several keys, or while the upstream cannot be asked. They must wait, too.
    Below,
}

impl Source {
    fn flight(self) -> Option<FlightId> {
        match self {
            Source::Sent | Source::Below => None,
            Source::Flight(flight) | Source::FlightElsewhere(flight) => Some(flight),
        }
    }
}

struct Slot {
    touched: Touched,
    source: Source,
    /// The answer, while an earlier slot has none. Rare, and slots are moved for every request: so in a box.
    answer: Option<Box<Ready>>,
}

#[derive(Default)]
pub struct Outbox {
    slots: VecDeque<Slot>,
    /// Of them, those that are answered.
    answers_behind: usize,
    /// Sequence number of `slots[0]`.
    head: u64,
    ready: Ready,
    /// The last bytes in `ready` are part of a frame of which more is to come; messages wait here meanwhile.
    is_mid_frame: bool,
    messages: Option<Box<Ready>>,
    unanswered: Unanswered,
    /// Moving average of the replies that came later, in eighths of a byte; `None` before the first.
    reply_size: Option<u32>,
}

impl Outbox {
    /// Whether every request was answered (its reply may not be written yet).
    pub fn is_all_answered(&self) -> bool {
        self.slots.is_empty()
    }

    /// Whether no bytes are held for the client.
    #[inline]
    pub fn holds_nothing(&self) -> bool {
        self.ready.is_empty() && self.answers_behind == 0 && self.messages.is_none()
    }

    /// How many slots may wait at once: fewer where replies are large, so that one client's answers do not fill the shared
    /// connection for everybody, and few until the first replies have told.
    pub fn window(&self, most: usize) -> usize {
        let average = self.reply_size.map_or(FIRST_GUESS_BYTES, |size| size as usize / 8);
        (WINDOW_BYTES / average.max(1)).clamp(LEAST_WINDOW.min(most), most)
    }

    #[inline]
    fn learn_size(&mut self, bytes: usize) {
        let bytes = bytes.min(WINDOW_BYTES) as u32;
        self.reply_size = Some(self.reply_size.map_or(bytes * 8, |size| size - size / 8 + bytes));
    }

    /// Slots that wait, answered ones behind them included.
    pub fn waiting(&self) -> usize {
        self.slots.len()
    }

    pub fn own(&self, hash: u64) -> Own {
        if self.slots.is_empty() {
            Own::Clear
        } else {
            self.unanswered.own(hash)
        }
    }

    /// What may be said of several keys together: `Clear` only if it holds for each.
    pub fn own_all(&self, hashes: &[u64]) -> Own {
        if self.slots.is_empty() || hashes.iter().all(|&hash| self.unanswered.own(hash) == Own::Clear) {
            Own::Clear
        } else {
            Own::Blocked
        }
    }

    /// Whether a request on these keys must wait because an earlier one follows another worker's flight on one of them.
    pub fn must_wait_for_flight(&self, touched: &Touched) -> bool {
        let elsewhere = &self.unanswered.elsewhere;
        !elsewhere.is_empty()
            && match touched {
                Touched::All => true,
                touched => touched.hashes().iter().any(|hash| elsewhere.contains(hash)),
            }
    }

    /// Requests behind this one that are unanswered and touch one of these keys.
    pub fn later(&self, sequence: u64, touched: &Touched) -> impl Iterator<Item = u64> {
        let from = sequence.saturating_add(1).max(self.head);
        let later = (from..).zip(self.slots.iter().skip((from - self.head) as usize));
        later.filter_map(|(sequence, slot)| slot.touched.meets(touched).then_some(sequence))
    }

    /// Where an answer that is there at once can be written: straight to the ready bytes, or into a slot of its own.
    pub fn answer_now(&mut self, write: impl FnOnce(&mut Ready)) {
        if self.slots.is_empty() {
            write(&mut self.ready);
        } else {
            let mut answer = Ready::default();
            write(&mut answer);
            self.answers_behind += 1;
            self.slots.push_back(Slot {
                touched: Touched::None,
                source: Source::Sent,
                answer: Some(Box::new(answer)),
            });
        }
    }

    /// A request was sent or follows a flight; its answer comes later, by the returned sequence number.
    #[inline]
    pub fn expect(&mut self, touched: Touched, source: Source) -> u64 {
        if touched != Touched::None {
            self.unanswered.add(&touched, source);
        }
        self.slots.push_back(Slot {
            touched,
            source,
            answer: None,
        });
        self.head + self.slots.len() as u64 - 1
    }

    /// The sequence number that the next `expect` will return.
    pub fn next_sequence(&self) -> u64 {
        self.head + self.slots.len() as u64
    }

    /// The answer of a slot. A sequence number that is no longer (or not yet) waited for is ignored.
    #[inline]
    pub fn answer(&mut self, sequence: u64, write: impl FnOnce(&mut Ready)) {
        let Some(index) = sequence.checked_sub(self.head).map(|i| i as usize) else {
            return;
        };
        let Some(slot) = self.slots.get_mut(index) else { return };
        if slot.answer.is_some() {
            return;
        }
        if slot.touched != Touched::None {
            self.unanswered.remove(&slot.touched, slot.source);
        }
        if index == 0 {
            let before = self.ready.len();
            write(&mut self.ready);
            self.learn_size(self.ready.len().saturating_sub(before));
            self.slots.pop_front();
            self.head += 1;
            while self.answers_behind > 0
                && let Some(answer) = self.slots.front_mut().and_then(|slot| slot.answer.take())
            {
                self.ready.append(*answer);
                self.slots.pop_front();
                self.head += 1;
                self.answers_behind -= 1;
            }
            if self.slots.is_empty() && (self.slots.capacity() > 16 || self.unanswered.many.is_some()) {
                self.slots = VecDeque::new();
                self.unanswered = Unanswered::default();
            }
        } else {
            let mut answer = Ready::default();
            write(&mut answer);
            let bytes = answer.len();
            slot.touched = Touched::None;
            slot.answer = Some(Box::new(answer));
            self.answers_behind += 1;
            self.learn_size(bytes);
        }
    }

    /// Whether a request that waits may be sent again: the client has sent nothing later on its keys, by which it could see
    /// what it wrote itself. Those in the same flight get the same answer.
    pub fn may_go_again(&self, sequence: u64, touched: &Touched) -> bool {
        let Some(index) = sequence.checked_sub(self.head).map(|i| i as usize) else {
            return false;
        };
        let Some(slot) = self.slots.get(index).filter(|slot| slot.answer.is_none()) else {
            return false;
        };
        self.slots.range(index + 1..).all(|later| {
            let is_one = slot.source.flight().is_some() && slot.source.flight() == later.source.flight();
            // Without a cache nobody has noted what is touched.
            let may_meet = slot.touched == Touched::None || later.touched.meets(touched);
            is_one || !may_meet
        })
    }

    pub fn ready(&mut self) -> &mut Ready {
        &mut self.ready
    }

    /// Writes a message that answers nothing: it goes between any two replies.
    pub fn message(&mut self, write: impl FnOnce(&mut Ready)) {
        if self.is_mid_frame {
            write(self.messages.get_or_insert_default());
        } else {
            write(&mut self.ready);
        }
    }

    /// What is in [`Outbox::ready`] ends within a frame, or no longer does.
    pub fn set_mid_frame(&mut self, is_mid_frame: bool) {
        self.is_mid_frame = is_mid_frame;
        if !is_mid_frame && let Some(messages) = self.messages.take() {
            self.ready.append(*messages);
        }
    }

    /// Bytes held for the client, ready ones and answers behind a slot that waits: all, and those it is charged for.
    pub fn held_bytes(&self) -> (usize, usize) {
        // Most have none: then there is nothing to look for.
        let slots = if self.answers_behind > 0 { self.slots.len() } else { 0 };
        let answers = self.slots.range(..slots).filter_map(|slot| slot.answer.as_deref());
        answers.chain(self.messages.as_deref()).fold(
            (self.ready.len(), self.ready.charged_bytes()),
            |(all, charged), answer| (all + answer.len(), charged + answer.charged_bytes()),
        )
    }
}

/// Bytes for the socket: small replies copied into one buffer, large payloads by reference between them.
#[derive(Default)]
pub struct Ready {
    pub bytes: Vec<u8>,
    /// Positions ascending.
    shared: VecDeque<Shared>,
    shared_bytes: usize,
    /// Of the shared bytes: those that another client is charged for.
    uncharged_bytes: usize,
    /// How much of `bytes` is written.
    written: usize,
}

struct Shared {
    /// Position in `bytes` before which it goes.
    at: usize,
    payload: Bytes,
    charge: Charge,
}

/// Who pays for a payload by reference in the budget of all buffers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Charge {
    /// This client.
    Own,
    /// The leader of the flight that brought it.
    Leader,
}

impl Ready {
    /// Bytes that count against the budget of all buffers.
    pub fn charged_bytes(&self) -> usize {
        self.len() - self.uncharged_bytes
    }

    pub fn len(&self) -> usize {
        self.bytes.len() - self.written + self.shared_bytes
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Appends a payload without copying it.
    pub fn push_shared(&mut self, payload: Bytes, charge: Charge) {
        if payload.len() < BY_REFERENCE_BYTES {
            self.bytes.extend_from_slice(&payload);
        } else {
            self.shared_bytes += payload.len();
            if charge == Charge::Leader {
                self.uncharged_bytes += payload.len();
            }
            self.shared.push_back(Shared {
                at: self.bytes.len(),
                payload,
                charge,
            });
        }
    }

    /// All of it as one piece; without copying if it is one payload by reference.
    pub fn into_bytes(mut self) -> Bytes {
        if self.bytes.is_empty() && self.shared.len() == 1 {
            return self.shared.pop_front().map(|shared| shared.payload).unwrap_or_default();
        }
        let mut whole = Vec::with_capacity(self.len());
        while !self.is_empty() {
            let before = whole.len();
            let mut pieces = [IoSlice::new(&[]); 8];
            let filled = self.pieces(&mut pieces);
            pieces[..filled].iter().for_each(|piece| whole.extend_from_slice(piece));
            self.advance(whole.len() - before);
        }
        whole.into()
    }

    pub fn append(&mut self, other: Ready) {
        let base = self.bytes.len();
        self.bytes.extend_from_slice(&other.bytes);
        self.shared_bytes += other.shared_bytes;
        self.uncharged_bytes += other.uncharged_bytes;
        self.shared.extend(other.shared.into_iter().map(|shared| Shared {
            at: base + shared.at,
            ..shared
        }));
    }

    /// The next pieces to write, in order; how many were filled.
    pub fn pieces<'a>(&'a self, into: &mut [IoSlice<'a>]) -> usize {
        let mut filled = 0;
        let mut from = self.written;
        for Shared { at, payload, .. } in &self.shared {
            if filled + 2 > into.len() {
                return filled;
            }
            if *at > from {
                into[filled] = IoSlice::new(&self.bytes[from..*at]);
                filled += 1;
                from = *at;
            }
            into[filled] = IoSlice::new(payload);
            filled += 1;
        }
        if from < self.bytes.len() && filled < into.len() {
            into[filled] = IoSlice::new(&self.bytes[from..]);
            filled += 1;
        }
        filled
    }

    /// What was not written yet, if nothing is held by reference.
    pub fn plain(&self) -> Option<&[u8]> {
        self.shared.is_empty().then(|| &self.bytes[self.written..])
    }

    /// `n` more bytes were written.
    pub fn advance(&mut self, mut n: usize) {
        while n > 0 {
            let until = self.shared.front().map_or(self.bytes.len(), |shared| shared.at);
            let plain = (until - self.written).min(n);
            self.written += plain;
            n -= plain;
            if n == 0 {
                break;
            }
            let Some(Shared { payload, charge, .. }) = self.shared.front_mut() else {
                break;
            };
            let part = payload.len().min(n);
            bytes::Buf::advance(payload, part);
            self.shared_bytes -= part;
            if *charge == Charge::Leader {
                self.uncharged_bytes -= part;
            }
            n -= part;
            if payload.is_empty() {
                self.shared.pop_front();
            }
        }
        if self.written == self.bytes.len() && self.shared.is_empty() {
            self.written = 0;
            self.bytes.clear();
        } else if self.written > (64 << 10) && self.written > self.bytes.len() / 2 {
            let written = self.written;
            self.bytes.drain(..written);
            self.shared.iter_mut().for_each(|shared| shared.at -= written);
            self.written = 0;
        }
    }
}

/// What unanswered requests touch: a short list, and a map once a deep pipeline makes the list slow.
#[derive(Default)]
struct Unanswered {
    /// Requests that touch any key.
    all: u32,
    few: Vec<(u64, Count)>,
    many: Option<Box<HashMap<u64, Count, foldhash::fast::RandomState>>>,
    /// Keys for which another worker's flight is followed, once for each follower.
    elsewhere: Vec<u64>,
}

#[derive(Clone, Copy)]
struct Count {
    requests: u32,
    /// The flight, if all of them are in one.
    flight: Option<FlightId>,
}

/// Length from which the list becomes a map.
const FEW: usize = 24;

impl Unanswered {
    fn own(&self, hash: u64) -> Own {
        if self.all > 0 {
            return Own::Blocked;
        }
        let count = match &self.many {
            Some(many) => many.get(&hash),
            None => self.few.iter().find(|(h, _)| *h == hash).map(|(_, count)| count),
        };
        match count {
            None => Own::Clear,
            Some(Count {
                flight: Some(flight), ..
            }) => Own::InFlight(*flight),
            Some(_) => Own::Blocked,
        }
    }

    fn add(&mut self, touched: &Touched, source: Source) {
        if *touched == Touched::All {
            self.all += 1;
        }
        let flight = match source {
            Source::Sent => None,
            Source::Flight(flight) => Some(flight),
            Source::Below => {
                self.elsewhere.extend_from_slice(touched.hashes());
                None
            }
            Source::FlightElsewhere(flight) => {
                self.elsewhere.extend_from_slice(touched.hashes());
                Some(flight)
            }
        };
        for &hash in touched.hashes() {
            if self.many.is_none() && self.few.len() >= FEW {
                self.many = Some(Box::new(self.few.drain(..).collect()));
            }
            let count = match &mut self.many {
                Some(many) => Some(many.entry(hash).or_insert(Count { requests: 0, flight })),
                None => self.few.iter_mut().find(|(h, _)| *h == hash).map(|(_, count)| count),
            };
            match count {
                Some(count) => {
                    count.requests += 1;
                    if count.flight != flight {
                        count.flight = None;
                    }
                }
                None => self.few.push((hash, Count { requests: 1, flight })),
            }
        }
    }

    fn remove(&mut self, touched: &Touched, source: Source) {
        if *touched == Touched::All {
            self.all -= 1;
        }
        for &hash in touched.hashes() {
            if matches!(source, Source::FlightElsewhere(_) | Source::Below)
                && let Some(i) = self.elsewhere.iter().position(|h| *h == hash)
            {
                self.elsewhere.swap_remove(i);
            }
            if let Some(many) = &mut self.many {
                if let Some(count) = many.get_mut(&hash) {
                    count.requests -= 1;
                    if count.requests == 0 {
                        many.remove(&hash);
                    }
                }
            } else if let Some(i) = self.few.iter().position(|(h, _)| *h == hash) {
                self.few[i].1.requests -= 1;
                if self.few[i].1.requests == 0 {
                    self.few.swap_remove(i);
                }
            }
        }
    }
}
