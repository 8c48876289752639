//! Commands over keys of several slots that mean the same key by key: each slot gets a command of its own, all commands for
//! a node in one batch, and the replies become one. A node takes no command over several slots, even where they are all its
//! own; so what one Redis would do at one moment happens slot by slot.

use std::rc::Rc;

use bytes::Bytes;

use super::View;
use super::gather::{Gather, Part};
use super::merge::Merge;
use super::redirect::Routed;
use crate::cache::{Asker, LeaseId, Own, Query, Which, name_hash};
use crate::command::slot::slot;
use crate::command::{Access, Spec, own};
use crate::proxy::client::Client;
use crate::proxy::flight::FillGuard;
use crate::proxy::outbox::{Ready, Source, Touched};
use crate::proxy::request::{Request, Road, Step, available};
use crate::proxy::waiter::{Effect, FillKind, Waiter};
use crate::proxy::worker::{Link, Worker};
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
    // Nothing is sent before it is known that everything can be.
    let mut links: Vec<Rc<Link>> = Vec::with_capacity(groups.len());
    for group in groups {
        match available(worker, client, Road::Main, group.slot) {
            Ok(link) => links.push(link),
            Err(step) => return step,
        }
    }
    let keys = || groups.iter().flat_map(|group| &group.keys).map(|at| args.arg(*at));
    let touched = Touched::from_hashes(&keys().map(name_hash).collect::<Vec<_>>());
    let mut state = client.state.borrow_mut();
    if state.outbox.must_wait_for_flight(&touched) {
        return Step::Wait;
    }
    let version = state.version;
    let own = state.outbox.own_all(touched.hashes());
    let floor_us = state.floor_us;
    let sequence = state.outbox.expect(touched, Source::Sent);
    drop(state);
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
    for (index, (group, link)) in groups.iter().zip(&links).enumerate() {
        let part = Part {
            gather: Rc::clone(&gather),
            index,
            is_whole: false,
        };
        match kind {
            Kind::Values => {
                let asker = Asker {
                    now_us: request.now_us,
                    link: link.sink.link,
                    own,
                    floor_us,
                    takes_stale: false,
                };
                values(worker, view, link, request, group, &asker, part);
            }
            Kind::Counted | Kind::Pairs => plain(worker, link, request, group, kind, part),
        }
    }
    worker.wake_touched();
    Step::DONE
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

/// From L1 if it knows all values of the group together, otherwise from the node, which may fill L1.
fn values(
    worker: &Rc<Worker>,
    view: &View,
    link: &Link,
    request: &Request<'_>,
    group: &Group,
    asker: &Asker,
    part: Part,
) {
    let args = request.args;
    let queries: Vec<Query<'_>> = group
        .keys
        .iter()
        .map(|at| Query {
            hash: name_hash(args.arg(*at)),
            db: 0,
            name: args.arg(*at),
            variant: b"",
        })
        .collect();
    let cache = &worker.shared.cache;
    let counters = worker.counters();
    let is_caching = worker.is_caching(link);
    if is_caching && asker.own == Own::Clear && queries.len() <= MOST_KEYS {
        let mut answer = Ready::default();
        encode::array_header(&mut answer.bytes, queries.len());
        if cache.peek_many(&queries, asker, Which::This, |_, view| {
            crate::proxy::read::write_value(&mut answer, &view.value, Version::Resp3);
        }) {
            counters.l1_hits_total.add(queries.len() as u64);
            part.gather.put(worker, part.index, answer.into_bytes(), request.now_us);
            return;
        }
    }
    let may_lease = is_caching && queries.len() <= MOST_KEYS && !view.cluster.is_moving(group.slot);
    let leases: Box<[(usize, LeaseId)]> = match may_lease {
        false => Box::default(),
        true => queries
            .iter()
            .enumerate()
            .filter_map(|(i, query)| Some((i, cache.lease_only(query, asker)?)))
            .collect(),
    };
    if is_caching {
        counters.l1_misses_total.add(queries.len() as u64);
    }
    counters.shared_total.add(1);
    let hashes: Vec<u64> = queries.iter().map(|query| query.hash).collect();
    let touched = Touched::from_hashes(&hashes);
    let guards: Vec<(usize, FillGuard)> = leases
        .iter()
        .map(|&(i, lease)| (i, FillGuard::new(worker, lease)))
        .collect();
    let raw = command(request, group, 1);
    let nobody = |effect| Waiter {
        to: None,
        version: Version::Resp3,
        rule: Rule::General,
        effect,
    };
    link.send_with(request.now_us, |out, expect| {
        out.extend_from_slice(&raw);
        let effect = Effect::Mget { touched, leases };
        let routed = Routed::new(effect, raw, group.slot, request.now_us);
        expect(nobody(routed.part(part).effect()));
        for (i, guard) in guards {
            let mut raw = Vec::new();
            encode::command(&mut raw, [own::PTTL, queries[i].name].into_iter());
            out.extend_from_slice(&raw);
            let effect = Effect::FillTtl(guard, FillKind::Payload);
            expect(nobody(
                Routed::new(effect, raw.into(), group.slot, request.now_us).effect(),
            ));
        }
    });
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
        expect(Waiter {
            to: None,
            version: Version::Resp3,
            rule: Rule::General,
            effect: routed.effect(),
        });
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

/// As for `MGET` of one node.
const MOST_KEYS: usize = 1024;
