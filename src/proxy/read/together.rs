//! Reads of several keys of which L1 lacks some that the disk may have. All of these are looked for, a few at a time; the answer
//! is made when the last is there, by the rules of hits at that moment and only if all values existed together. Otherwise the
//! whole read goes upstream, as it does at once where the disk is known to lack one. Nothing is leased meanwhile: whatever
//! happens to a key shows in its mark.
//!
//! Later requests of the client on these keys wait, as behind any read that is looked for on the disk.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use bytes::Bytes;

use super::{MOST_KEYS, MOST_UNPACKED_BYTES, Values, below, count_hits, send_filling};
use crate::cache::l3::Found;
use crate::cache::{Asker, FoundBelow, Leasing, Own, Query, ViewValue, Wanting, Which};
use crate::proxy::client::Client;
use crate::proxy::cluster::gather::Part;
use crate::proxy::cluster::redirect::{Routed, routed};
use crate::proxy::outbox::Touched;
use crate::proxy::waiter::{Answer, Effect, Waiter};
use crate::proxy::worker::{Link, Worker};
use crate::resp::convert::Rule;
use crate::resp::{Version, encode};

/// What is told of the keys.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum What {
    /// `MGET`.
    Values,
    /// `EXISTS`: how many of them are there.
    Count,
}

impl What {
    pub fn which(self) -> Which {
        match self {
            What::Values => Which::This,
            What::Count => Which::Any,
        }
    }
}

/// Who gets the answer.
pub enum To {
    Client(Rc<Client>, u64, Version),
    /// A part of a command over several slots: values, in RESP3.
    Part(Part),
}

/// A read that can be tried on the disk: the positions of the keys that L1 lacks.
pub struct Missing(Vec<usize>);

/// Whether the disk may have all that L1 lacks of these. `asker.own` is clear.
pub fn missing(worker: &Worker, queries: &[Query<'_>], asker: &Asker, what: What) -> Option<Missing> {
    let cache = &worker.shared.cache;
    if cache.l3().is_none() || asker.own != Own::Clear || queries.len() > MOST_KEYS {
        return None;
    }
    let missing = cache.missing(queries, asker, what.which());
    let wanted = missing.iter().filter_map(|&at| queries.get(at).copied());
    (cache.are_below(wanted, wanting(asker)) && !missing.is_empty()).then_some(Missing(missing))
}

fn wanting(asker: &Asker) -> Wanting {
    match asker.takes_stale {
        true => Wanting::Stale,
        false => Wanting::Vouched,
    }
}

/// A read that waits for the disk.
pub struct Wanted {
    /// `None`: it was answered, or sent.
    to: RefCell<Option<To>>,
    what: What,
    /// Each with its hash.
    names: Box<[(Box<[u8]>, u64)]>,
    db: u32,
    /// Of the cluster.
    slot: u16,
    asker: Asker,
    /// Where it goes if the disk does not help, unless that changes with the slots; `None`: it was not to be asked.
    link: Option<Rc<Link>>,
    /// As it goes on the wire.
    raw: Bytes,
    missing: Box<[usize]>,
    /// How many of the missing were asked for.
    begun: Cell<usize>,
    found: RefCell<Vec<Option<Found>>>,
    left: Cell<usize>,
    found_bytes: Cell<usize>,
    /// Of all such reads of the worker.
    all_bytes: Rc<Cell<usize>>,
}

impl Drop for Wanted {
    fn drop(&mut self) {
        self.let_go();
    }
}

/// Keys of one request that are looked for at a time.
const AT_A_TIME: usize = 32;
/// What is held of one request until the last is there.
const MOST_FOUND_BYTES: usize = 16 << 20;
/// And of all of a worker's: nobody else knows of these bytes before they are an answer.
const MOST_FOUND_BYTES_IN_ALL: usize = 64 << 20;

/// Where a read goes, and where it came from.
pub struct Way<'a> {
    pub slot: u16,
    pub link: Option<&'a Rc<Link>>,
    pub raw: Bytes,
}

/// Has the disk asked. Who gets the answer is told in any case.
pub fn look(
    worker: &Rc<Worker>,
    to: To,
    what: What,
    (queries, asker, missing): (&[Query<'_>], &Asker, Missing),
    way: Way<'_>,
) {
    let left = missing.0.len();
    let wanted = Rc::new(Wanted {
        to: RefCell::new(Some(to)),
        what,
        names: queries.iter().map(|query| (query.name.into(), query.hash)).collect(),
        db: queries.first().map_or(0, |query| query.db),
        slot: way.slot,
        asker: *asker,
        link: way.link.map(Rc::clone),
        raw: way.raw,
        missing: missing.0.into(),
        begun: Cell::new(0),
        found: RefCell::new(vec![None; queries.len()]),
        left: Cell::new(left),
        found_bytes: Cell::new(0),
        all_bytes: Rc::clone(&worker.below.borrow().found_bytes),
    });
    go_on(worker, &wanted, AT_A_TIME, asker.now_us);
}

/// Looks for so many more.
fn go_on(worker: &Rc<Worker>, wanted: &Rc<Wanted>, more: usize, now_us: u64) {
    let asked_us = wanted.asker.now_us;
    for _ in 0..more {
        let begun = wanted.begun.get();
        let Some(&at) = wanted.missing.get(begun) else { return };
        wanted.begun.set(begun + 1);
        let (place, done) = below::place(worker);
        let query = wanted.query(at);
        let cache = &worker.shared.cache;
        // All at one time: how old they are is compared.
        if !cache.look_for(&query, wanting(&wanted.asker), asked_us, done) {
            return send(worker, wanted, now_us);
        }
        below::wait_for_part(worker, place, wanted, at, asked_us);
    }
}

/// The disk has answered for one of them, or is not waited for any longer.
pub(super) fn answered(worker: &Rc<Worker>, wanted: &Rc<Wanted>, at: usize, found: Option<&Found>, now_us: u64) {
    if wanted.to.borrow().is_none() {
        return;
    }
    let more = found.map_or(0, |found| found.value.len());
    let (held, all) = (wanted.found_bytes.get() + more, wanted.all_bytes.get() + more);
    let has_room = held <= MOST_FOUND_BYTES && all <= MOST_FOUND_BYTES_IN_ALL;
    let Some(found) = found.filter(|_| has_room) else {
        return send(worker, wanted, now_us);
    };
    wanted.found_bytes.set(held);
    wanted.all_bytes.set(all);
    if let Some(place) = wanted.found.borrow_mut().get_mut(at) {
        *place = Some(found.clone());
    }
    wanted.left.set(wanted.left.get() - 1);
    if wanted.left.get() > 0 {
        return go_on(worker, wanted, 1, now_us);
    }
    match wanted.what {
        What::Values => show_values(worker, wanted, now_us),
        What::Count => show_count(worker, wanted, now_us),
    }
}

impl Wanted {
    fn query(&self, at: usize) -> Query<'_> {
        let (name, hash) = self.names.get(at).map_or((&b""[..], 0), |(name, hash)| (name, *hash));
        Query {
            hash,
            db: self.db,
            name,
            variant: b"",
        }
    }

    /// What was found is not needed any more.
    fn let_go(&self) {
        self.found.take();
        self.all_bytes.set(self.all_bytes.get() - self.found_bytes.take());
    }

    fn queries(&self) -> Vec<Query<'_>> {
        (0..self.names.len()).map(|at| self.query(at)).collect()
    }

    /// Whose it is, as he is now. Nothing of his on these keys is unanswered but this: the rest waits behind it.
    fn asker_now(&self, now_us: u64) -> Asker {
        let floor_us = match &*self.to.borrow() {
            Some(To::Client(client, ..)) => client.state.borrow().floor_us,
            Some(To::Part(part)) => part.gather.client.state.borrow().floor_us,
            None => 0,
        };
        Asker {
            now_us,
            floor_us,
            ..self.asker
        }
    }

    fn version(&self) -> Version {
        match &*self.to.borrow() {
            Some(To::Client(_, _, version)) => *version,
            Some(To::Part(_)) | None => Version::Resp3,
        }
    }

    /// Shows what there is together. `None`: that may not be.
    fn peek(&self, worker: &Worker, now_us: u64, mut each: impl FnMut(&ViewValue<'_>)) -> Option<Peeked> {
        // The upstream may be back.
        if self.asker.takes_stale && worker.stale_link(self.db, self.slot).is_none() {
            return None;
        }
        let queries = self.queries();
        let found = self.found.borrow();
        let below = FoundBelow {
            found: &found,
            asked_us: self.asker.now_us,
        };
        let asker = self.asker_now(now_us);
        let mut stale = 0;
        let used = worker
            .shared
            .cache
            .peek_together(&queries, below, &asker, self.what.which(), |_, view| {
                stale += u64::from(view.is_stale);
                each(&view.value);
            })? as u64;
        Some(Peeked { used, stale })
    }

    /// It is shown.
    fn count(&self, worker: &Worker, Peeked { used, stale }: Peeked) {
        let queries = self.queries();
        let counters = worker.counters();
        counters.l3_hits_total.add(used);
        let stale_below = if self.asker.takes_stale { used } else { 0 };
        counters.l3_stale_total.add(stale_below);
        counters.l1_misses_total.add(used);
        count_hits(worker, queries.len() as u64 - used, stale - stale_below);
        worker.note_queries(&queries);
    }
}

/// How many were from the disk, and how many of all stale.
struct Peeked {
    used: u64,
    stale: u64,
}

fn show_values(worker: &Rc<Worker>, wanted: &Wanted, now_us: u64) {
    let version = wanted.version();
    let mut values = Values::new(wanted.names.len(), version);
    let Some(peeked) = wanted.peek(worker, now_us, |value| values.push(value)) else {
        return send(worker, wanted, now_us);
    };
    // Together with what was found, which is bounded as well.
    if values.unpacked_bytes() > MOST_UNPACKED_BYTES && !wanted.asker.takes_stale {
        return send_as(worker, wanted, Leasing::Denied, now_us);
    }
    let Some(answer) = values.finish() else {
        return send(worker, wanted, now_us);
    };
    wanted.count(worker, peeked);
    match wanted.to.take() {
        Some(To::Client(client, sequence, _)) => {
            let state = &mut *client.state.borrow_mut();
            state.outbox.answer(sequence, |ready| ready.append(answer));
            client.touch(&worker.touched);
        }
        Some(To::Part(part)) => part.gather.put(worker, part.index, answer.into_bytes(), now_us),
        None => {}
    }
}

fn show_count(worker: &Rc<Worker>, wanted: &Wanted, now_us: u64) {
    let mut count = 0;
    let peeked = wanted.peek(worker, now_us, |value| {
        count += i64::from(!matches!(value, ViewValue::Absent(_)));
    });
    let Some(peeked) = peeked else {
        return send(worker, wanted, now_us);
    };
    wanted.count(worker, peeked);
    if let Some(To::Client(client, sequence, _)) = wanted.to.take() {
        let state = &mut *client.state.borrow_mut();
        state
            .outbox
            .answer(sequence, |ready| encode::integer(&mut ready.bytes, count));
        client.touch(&worker.touched);
    }
}

/// As the miss that it is, whole.
fn send(worker: &Rc<Worker>, wanted: &Wanted, now_us: u64) {
    send_as(worker, wanted, Leasing::Allowed, now_us);
}

/// What is too large to be unpacked at once is not filled again either: it would be compressed at once.
fn send_as(worker: &Rc<Worker>, wanted: &Wanted, leasing: Leasing, now_us: u64) {
    let asker = wanted.asker_now(now_us);
    let Some(to) = wanted.to.take() else { return };
    wanted.let_go();
    let counters = worker.counters();
    counters.l1_misses_total.add(wanted.names.len() as u64);
    counters.l3_misses_total.add(wanted.missing.len() as u64);
    let link = match &wanted.link {
        Some(link) if worker.cluster.is_none() => Ok(Rc::clone(link)),
        _ => below::link_of(worker, wanted.db, wanted.slot),
    };
    let link = link.and_then(|link| match link.availability() {
        Ok(()) => Ok(link),
        Err(failure) => Err(worker.unavailable_on(&link.sink, &failure)),
    });
    let link = match link {
        Ok(link) => link,
        Err(error) => {
            counters.l2_errors_total.add(1);
            return match to {
                To::Client(client, sequence, _) => client.answer(sequence, Answer::Error(&error), &worker.touched),
                To::Part(part) => part.gather.fail(worker, part.index, &error),
            };
        }
    };
    let waiter = |effect| match to {
        To::Client(client, sequence, version) => Waiter {
            to: Some((client, sequence)),
            version,
            rule: Rule::General,
            effect: routed(effect, wanted.slot, now_us, || wanted.raw.clone()),
        },
        To::Part(part) => Waiter {
            to: None,
            version: Version::Resp3,
            rule: Rule::General,
            effect: Routed::new(effect, wanted.raw.clone(), wanted.slot, now_us)
                .part(part)
                .effect(),
        },
    };
    match wanted.what {
        What::Values => {
            let asker = Asker {
                link: link.sink.link,
                takes_stale: false,
                ..asker
            };
            let leasing = match worker.is_caching(&link) && !worker.is_moving(wanted.slot) {
                true => leasing,
                false => Leasing::Denied,
            };
            let to = (&*link, wanted.slot, now_us);
            send_filling(worker, to, &wanted.raw, (&wanted.queries(), &asker, leasing), waiter);
        }
        What::Count => {
            let hashes: Vec<u64> = wanted.names.iter().map(|(_, hash)| *hash).collect();
            counters.shared_total.add(1);
            let waiter = waiter(Effect::Read(Touched::from_hashes(&hashes)));
            link.send(&wanted.raw, now_us, waiter);
        }
    }
}
