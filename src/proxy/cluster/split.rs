//! Commands over keys of several slots that mean the same key by key: each slot gets a command of its own, all commands for
//! a node in one batch, and the replies become one. A node takes no command over several slots, even where they are all its
//! own; so what one Redis would do at one moment happens slot by slot.

use std::rc::Rc;

use bytes::Bytes;

use super::View;
use super::gather::{Gather, Part};
use super::merge::Merge;
use super::redirect::Routed;
use crate::cache::{Asker, Leasing, Own, Query, Which, name_hash};
use crate::command::slot::slot;
use crate::command::{Access, Spec};
use crate::proxy::client::Client;
use crate::proxy::outbox::{Source, Touched};
use crate::proxy::read::together::{self, Missing, To, Way, What};
use crate::proxy::read::{self, MOST_KEYS, MOST_UNPACKED_BYTES, Values};
use crate::proxy::readers;
use crate::proxy::request::{Request, Road, Step, available};
use crate::proxy::waiter::{Effect, Waiter};
use crate::proxy::worker::{Link, Trust, Worker};
use crate::resp::convert::Rule;
use crate::resp::request::Args;
use crate::resp::{Version, encode};

/// Which arguments belong to a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `MGET`.
    Values,
    /// `DEL`, `UNLINK`, `EXISTS`, `TOUCH`: a number is told.
    Counted,
    /// `MSET`: a value stands behind each key.
    Pairs,
}

pub fn kind(spec: &Spec, args: Args<'_>) -> Option<Kind> {
    match &*spec.name {
        "mget" => Some(Kind::Values),
        "del" | "unlink" | "exists" | "touch" => Some(Kind::Counted),
        // A node says what is wrong with the number of arguments.
        "mset" if args.len() % 2 == 1 => Some(Kind::Pairs),
        _ => None,
    }
}

/// The keys of one slot.
struct Group {
    slot: u16,
    /// Indexes of the arguments.
    keys: Vec<usize>,
}

pub fn request(worker: &Rc<Worker>, view: &View, client: &Rc<Client>, request: &Request<'_>, kind: Kind) -> Step {
    let args = request.args;
    let (groups, places) = groups(args, if kind == Kind::Pairs { 2 } else { 1 });
    let is_alone = groups
        .iter()
        .any(|group| group.keys.len() > 1 && view.cluster.is_moving(group.slot));
    super::alone(client, is_alone, || {
        split(worker, view, client, request, kind, &groups, places)
    })
}

fn split(
    worker: &Rc<Worker>,
    view: &View,
    client: &Rc<Client>,
    request: &Request<'_>,
    kind: Kind,
    groups: &[Group],
    places: Vec<(usize, usize)>,
) -> Step {
    let args = request.args;
    let keys = || groups.iter().flat_map(|group| &group.keys).map(|at| args.arg(*at));
    let touched = Touched::from_hashes(&keys().map(name_hash).collect::<Vec<_>>());
    let (version, own) = {
        let state = client.state.borrow();
        if state.outbox.must_wait_for_flight(&touched) {
            return Step::Wait;
        }
        (state.version, state.outbox.own_all(touched.hashes()))
    };
    // Nothing is sent before it is known that everything can be.
    let mut from: Vec<From> = Vec::with_capacity(groups.len());
    for group in groups {
        let reading = worker.reading.as_ref().filter(|_| readers::is_pure_read(request.spec));
        let first = group.keys.first().map_or(&b""[..], |at| args.arg(*at));
        if let Some(link) = reading.and_then(|reading| readers::link_for(worker, reading, client, group.slot, first)) {
            from.push(From::Node(link, Leasing::Allowed));
            continue;
        }
        if kind == Kind::Values
            && let Some(values) = stale_values(worker, client, request, group)
        {
            from.push(values);
            continue;
        }
        match available(worker, client, Road::Main, group.slot) {
            Ok(link) => from.push(From::Node(link, Leasing::Allowed)),
            Err(step) => return step,
        }
    }
    let asker = |link: &Link| {
        let state = client.state.borrow();
        state.asker(own, request.now_us, link.sink.link, Trust::Vouched)
    };
    if kind == Kind::Values {
        let mut room_bytes = MOST_UNPACKED_BYTES;
        for (group, from) in groups.iter().zip(&mut from) {
            if let From::Node(link, _) = from {
                *from = kept_values(worker, Rc::clone(link), request, group, asker(link), &mut room_bytes);
            }
        }
    }
    // Later requests must not be sent before one that is looked for on the disk.
    let source = match from.iter().any(|from| matches!(from, From::Below { .. })) {
        true => Source::Below,
        false => Source::Sent,
    };
    let sequence = client.state.borrow_mut().outbox.expect(touched, source);
    let counters = worker.counters();
    match request.spec.access {
        Access::Write => counters.writes_total.add(1),
        Access::Read | Access::None => {}
    }
    let merge = match kind {
        Kind::Values => Merge::Values(places.into()),
        Kind::Counted => Merge::Sum,
        Kind::Pairs => Merge::First,
    };
    let gather = Gather::split(client, sequence, version, merge, &request.spec.name, groups.len());
    for (index, (group, from)) in groups.iter().zip(from).enumerate() {
        let part = Part {
            gather: Rc::clone(&gather),
            index,
            is_whole: false,
        };
        match from {
            From::Known(values) => gather.put(worker, index, values.count(worker), request.now_us),
            From::Below { link, asker, missing } => {
                let way = Way {
                    slot: group.slot,
                    link: link.as_ref(),
                    raw: command(request, group, 1),
                };
                let queries = queries(request, group);
                together::look(worker, To::Part(part), What::Values, (&queries, &asker, missing), way);
            }
            From::Node(link, leasing) if kind == Kind::Values => {
                values(worker, view, (&link, leasing), request, group, &asker(&link), part);
            }
            From::Node(link, _) => plain(worker, &link, request, group, kind, part),
        }
    }
    worker.wake_touched();
    Step::DONE
}

/// Whence the part of a group comes.
enum From {
    Node(Rc<Link>, Leasing),
    /// From L1, where its node cannot be asked from what nobody vouches for any more.
    Known(Known),
    /// From there and the disk.
    Below {
        link: Option<Rc<Link>>,
        asker: Asker,
        missing: Missing,
    },
}

/// Of a group whose node is away, if L1 knows all its values together, or the disk has what L1 lacks.
fn stale_values(worker: &Worker, client: &Client, request: &Request<'_>, group: &Group) -> Option<From> {
    let link = worker.stale_link(0, group.slot)?;
    let state = client.state.borrow();
    let is_first = state.road == Road::Main || state.outbox.is_all_answered();
    let queries = queries(request, group);
    let hashes: Vec<u64> = queries.iter().map(|query| query.hash).collect();
    let asker = state.asker(state.outbox.own_all(&hashes), request.now_us, link, Trust::Stale);
    if !is_first || asker.own != Own::Clear || queries.len() > MOST_KEYS {
        return None;
    }
    // Nobody else has them while the node is away.
    if let Ok(values) = known(worker, &queries, &asker, &mut { usize::MAX }) {
        return Some(From::Known(values));
    }
    let missing = together::missing(worker, &queries, &asker, What::Values)?;
    Some(From::Below {
        link: None,
        asker,
        missing,
    })
}

/// The same of a group whose node can be asked, and is if that does not do.
fn kept_values(
    worker: &Worker,
    link: Rc<Link>,
    request: &Request<'_>,
    group: &Group,
    asker: Asker,
    room_bytes: &mut usize,
) -> From {
    let queries = queries(request, group);
    if !worker.is_caching(&link) || asker.own != Own::Clear || queries.len() > MOST_KEYS {
        return From::Node(link, Leasing::Allowed);
    }
    match known(worker, &queries, &asker, room_bytes) {
        Ok(values) => {
            worker.note_queries(&queries);
            return From::Known(values);
        }
        // They are kept already.
        Err(Unknown::TooLarge) => return From::Node(link, Leasing::Denied),
        Err(Unknown::Lacks) => {}
    }
    match together::missing(worker, &queries, &asker, What::Values) {
        Some(missing) => From::Below {
            link: Some(link),
            asker,
            missing,
        },
        None => From::Node(link, Leasing::Allowed),
    }
}

fn queries<'a>(request: &Request<'a>, group: &Group) -> Vec<Query<'a>> {
    let names = group.keys.iter().map(|at| request.args.arg(*at));
    names
        .map(|name| Query {
            hash: name_hash(name),
            db: 0,
            name,
            variant: b"",
        })
        .collect()
}

/// What L1 knows of a group.
struct Known {
    reply: Bytes,
    keys: u64,
    stale: u64,
}

impl Known {
    /// The reply, which is shown now.
    fn count(self, worker: &Worker) -> Bytes {
        read::count_hits(worker, self.keys, self.stale);
        self.reply
    }
}

/// Why a group is not answered from L1.
enum Unknown {
    /// It lacks a value, or they are not of one moment.
    Lacks,
    /// More would have to be unpacked than there is room for.
    TooLarge,
}

/// The reply for these keys, if L1 knows all their values together. `room_bytes`: what may still be unpacked for this request.
fn known(worker: &Worker, queries: &[Query<'_>], asker: &Asker, room_bytes: &mut usize) -> Result<Known, Unknown> {
    let mut values = Values::new(queries.len(), Version::Resp3);
    let mut stale = 0;
    let is_known = worker.shared.cache.peek_many(queries, asker, Which::This, |_, view| {
        stale += u64::from(view.is_stale);
        values.push(&view.value);
    });
    if !is_known {
        return Err(Unknown::Lacks);
    }
    *room_bytes = room_bytes
        .checked_sub(values.unpacked_bytes())
        .ok_or(Unknown::TooLarge)?;
    let answer = values.finish().ok_or(Unknown::Lacks)?;
    Ok(Known {
        reply: answer.into_bytes(),
        keys: queries.len() as u64,
        stale,
    })
}

/// The arguments by slot, slots in the order of their first keys; and where the value of each key will be.
fn groups(args: Args<'_>, step: usize) -> (Vec<Group>, Vec<(usize, usize)>) {
    let mut groups: Vec<Group> = Vec::new();
    let mut at_slot = hashbrown::HashMap::<u16, usize, foldhash::fast::RandomState>::default();
    let mut places = Vec::with_capacity(args.len() - 1);
    for at in (1..args.len()).step_by(step) {
        let slot = slot(args.arg(at));
        let nth = *at_slot.entry(slot).or_insert_with(|| {
            groups.push(Group { slot, keys: Vec::new() });
            groups.len() - 1
        });
        places.push((nth, groups[nth].keys.len()));
        groups[nth].keys.push(at);
    }
    (groups, places)
}

/// From the node, which may fill L1.
fn values(
    worker: &Rc<Worker>,
    view: &View,
    (link, leasing): (&Link, Leasing),
    request: &Request<'_>,
    group: &Group,
    asker: &Asker,
    part: Part,
) {
    let queries = queries(request, group);
    let is_caching = worker.is_caching(link);
    if is_caching {
        worker.counters().l1_misses_total.add(queries.len() as u64);
    }
    let leasing = match is_caching && queries.len() <= MOST_KEYS && !view.cluster.is_moving(group.slot) {
        true => leasing,
        false => Leasing::Denied,
    };
    let raw = command(request, group, 1);
    let to = (link, group.slot, request.now_us);
    read::send_filling(worker, to, &raw, (&queries, asker, leasing), |effect| {
        let routed = Routed::new(effect, raw.clone(), group.slot, request.now_us);
        nobody(routed.part(part).effect())
    });
}

/// The parts of a gathering know who waits for them.
fn nobody(effect: Effect) -> Waiter {
    Waiter {
        to: None,
        version: Version::Resp3,
        rule: Rule::General,
        effect,
    }
}

fn plain(worker: &Worker, link: &Link, request: &Request<'_>, group: &Group, kind: Kind, part: Part) {
    let hashes: Vec<u64> = group.keys.iter().map(|at| name_hash(request.args.arg(*at))).collect();
    let touched = Touched::from_hashes(&hashes);
    let effect = match request.spec.access {
        Access::Write => Effect::Write(touched),
        Access::Read | Access::None => Effect::Read(touched),
    };
    worker.counters().shared_total.add(1);
    let raw = command(request, group, if kind == Kind::Pairs { 2 } else { 1 });
    let routed = Routed::new(effect, raw.clone(), group.slot, request.now_us).part(part);
    link.send_with(request.now_us, |out, expect| {
        out.extend_from_slice(&raw);
        expect(nobody(routed.effect()));
    });
}

/// The command for the keys of one slot, each with so many arguments.
fn command(request: &Request<'_>, group: &Group, step: usize) -> Bytes {
    let args = request.args;
    let mut words: Vec<&[u8]> = vec![args.arg(0)];
    for at in &group.keys {
        words.extend((*at..at + step).map(|at| args.arg(at)));
    }
    let mut raw = Vec::new();
    encode::command(&mut raw, words.into_iter());
    raw.into()
}
