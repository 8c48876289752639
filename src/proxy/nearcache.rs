//! `NEARCACHE …`: the proxy's own command, for anyone with redis-cli.

use std::rc::Rc;

use tokio::sync::oneshot;

use super::client::Client;
use super::info;
use super::invalidation::Mode;
use super::local::wrong_arity;
use super::outbox::{Source, Touched};
use super::owed;
use super::read::revalidation;
use super::readers;
use super::request::{Request, Step};
use super::waiter::Answer;
use super::worker::Worker;
use crate::cache::l3::Origin;
use crate::cache::l3::codec::Codec;
use crate::cache::{Explained, JOINT, name_hash};
use crate::command::slot::slot;
use crate::config::Consistency;
use crate::resp::{Version, encode};

const HELP: [&str; 11] = [
    "NEARCACHE <subcommand> [<arg> ...]. Subcommands are:",
    "STATS",
    "    What the proxy has counted, as in the nearcache section of INFO.",
    "EXPLAIN <key>",
    "    How a read of the key would be answered, and what L1 and L3 hold of it.",
    "INVALIDATE <key> [<key> ...]",
    "    Drop what L1 and L3 hold of these keys, in every database; the number of entries dropped.",
    "L3 CHECK",
    "    Read all that is on the disk while it is used, as nearcache l3-check does when it is not; what is there and what is damaged.",
    "HELP",
    "    Print this help.",
];

pub fn answer(worker: &Rc<Worker>, client: &Rc<Client>, request: &Request<'_>) -> Step {
    let args = request.args;
    let sub = args.arg(1).to_ascii_lowercase();
    let mut state = client.state.borrow_mut();
    let version = state.version;
    match (&sub[..], args.len()) {
        (b"help", 2) => state.outbox.answer_now(|ready| {
            encode::array_header(&mut ready.bytes, HELP.len());
            HELP.iter().for_each(|line| encode::simple(&mut ready.bytes, line));
        }),
        (b"stats", 2) => {
            let facts = info::facts(worker);
            state
                .outbox
                .answer_now(|ready| write_pairs(&mut ready.bytes, version, &facts));
        }
        (b"explain", 3) => {
            let facts = explain(worker, request, state.db);
            state
                .outbox
                .answer_now(|ready| write_pairs(&mut ready.bytes, version, &facts));
        }
        (b"invalidate", 3..) => {
            let dropped: usize = args
                .iter()
                .skip(2)
                .map(|name| worker.shared.cache.purge(name_hash(name)))
                .sum();
            let hashes: Vec<u64> = args.iter().skip(2).map(name_hash).collect();
            drop(state);
            owed::hold(worker, client, &Touched::from_hashes(&hashes));
            state = client.state.borrow_mut();
            tracing::info!(
                client = client.meta.id,
                keys = args.len() - 2,
                dropped,
                "invalidated by a client"
            );
            state
                .outbox
                .answer_now(|ready| encode::integer(&mut ready.bytes, dropped as i64));
        }
        (b"l3", 3) if args.arg(2).eq_ignore_ascii_case(b"check") => {
            drop(state);
            check(worker, client);
        }
        (b"help" | b"stats" | b"explain" | b"invalidate" | b"l3", _) => {
            state.error(wrong_arity(&format!("nearcache|{}", String::from_utf8_lossy(&sub))));
        }
        _ => {
            let sub = String::from_utf8_lossy(args.arg(1)).into_owned();
            state.error(format!("ERR unknown subcommand '{sub}'. Try NEARCACHE HELP."));
        }
    }
    Step::DONE
}

/// The client is answered when all of the disk was read; who comes behind it on this worker does not wait.
fn check(worker: &Rc<Worker>, client: &Rc<Client>) {
    let refuse = |why: String| client.state.borrow_mut().error(format!("ERR nearcache: L3: {why}"));
    let Some(l3) = worker.shared.cache.l3() else {
        return refuse("there is none (l3.path)".to_owned());
    };
    let (tell, told) = oneshot::channel();
    if let Err(why) = l3.check(move |report| drop(tell.send(report))) {
        return refuse(why);
    }
    let sequence = client.state.borrow_mut().outbox.expect(Touched::None, Source::Sent);
    let (worker, client) = (Rc::clone(worker), Rc::clone(client));
    tokio::task::spawn_local(async move {
        match told.await {
            Ok(Ok(report)) => {
                let mut text = Vec::new();
                encode::bulk(&mut text, report.to_string());
                client.answer(sequence, Answer::Converted(text.into()), &worker.touched);
            }
            Ok(Err(why)) => {
                let error = format!("ERR nearcache: L3: {why}");
                client.answer(sequence, Answer::Error(&error), &worker.touched);
            }
            Err(_) => {
                let error = "ERR nearcache: L3: the check has failed";
                client.answer(sequence, Answer::Error(error), &worker.touched);
            }
        }
        worker.wake_touched();
    });
}

fn write_pairs(out: &mut Vec<u8>, version: Version, pairs: &[(impl AsRef<str>, String)]) {
    encode::map_header(out, version, pairs.len());
    for (name, value) in pairs {
        encode::bulk(out, name.as_ref());
        encode::bulk(out, value);
    }
}

fn explain(worker: &Rc<Worker>, request: &Request<'_>, db: u32) -> Vec<(String, String)> {
    let name = request.args.arg(2);
    let hash = name_hash(name);
    let slot = slot(name);
    let now_us = worker.now_us();
    let mut facts = vec![
        ("caching".to_owned(), info::caching(worker).to_owned()),
        ("db".to_owned(), db.to_string()),
        (
            "path".to_owned(),
            if worker.large_keys.borrow().contains(&hash) {
                "pinned (large)"
            } else {
                "shared"
            }
            .to_owned(),
        ),
    ];
    if !worker.is_watched(name) {
        let why = "not kept: it begins with none of cache.broadcast_prefixes";
        facts.push(("watched".to_owned(), why.to_owned()));
    }
    facts.extend(readers::explain(worker, slot, db, name).map(|node| ("read from".to_owned(), node)));
    let entries: Vec<Explained> = worker.shared.cache.explain(hash, now_us);
    facts.push((
        "entries".to_owned(),
        entries.iter().filter(|entry| !entry.is_lease).count().to_string(),
    ));
    for (i, entry) in entries.iter().enumerate() {
        facts.push((format!("entry.{i}"), describe(worker, entry, slot, now_us)));
    }
    if let Some(l3) = worker.shared.cache.l3() {
        let below = l3.explain(hash);
        facts.push(("l3.entries".to_owned(), below.len().to_string()));
        let asked = revalidation::explain(worker, db, slot);
        facts.push((
            "l3.revalidation".to_owned(),
            asked.map_or_else(str::to_owned, |least| format!("of strings from {least} bytes on")),
        ));
        let is_away = worker.stale_link(db, slot).is_some();
        for (i, kept) in below.into_iter().enumerate() {
            let origin = kept.origin;
            let is_asked_about = asked.is_ok_and(|least| kept.is_of_get(db) && kept.bytes >= least);
            let state = match (worker.shared.cache.stale_below_for_us(origin, now_us), origin) {
                _ if worker.shared.config.cache.consistency == Consistency::Eventual => {
                    "good until its time is over".to_owned()
                }
                (_, Origin::EarlierLife) if is_away => {
                    "of an earlier life: a stale hit if it was vouched for within max_stale (the upstream cannot be asked)"
                        .to_owned()
                }
                (_, Origin::EarlierLife) if is_asked_about => {
                    "of an earlier life: a GET asks the upstream by DIGEST whether it has the same".to_owned()
                }
                (_, Origin::EarlierLife) => "of an earlier life".to_owned(),
                (Some(us), _) if is_away => {
                    format!("stale hit (the upstream cannot be asked; for {} ms more)", us / 1000)
                }
                (_, Origin::ThisLife { link, epoch }) if worker.shared.links.epoch(link) == epoch => {
                    format!("vouched for by link {}", link.index())
                }
                (_, Origin::ThisLife { link, .. }) if is_asked_about => format!(
                    "link {} was lost since: a GET asks the upstream by DIGEST whether it has the same",
                    link.index()
                ),
                (_, Origin::ThisLife { link, .. }) => format!("dead (link {} was lost since)", link.index()),
            };
            facts.push((
                format!("l3.entry.{i}"),
                format!("{state}; segment={:016x}", kept.segment),
            ));
        }
    }
    facts
}

fn describe(worker: &Worker, entry: &Explained, slot: u16, now_us: u64) -> String {
    let command = match entry.variant.first_chunk::<2>() {
        None => "get".to_owned(),
        Some(id) => {
            let id = usize::from(u16::from_le_bytes(*id) & !(u16::from(JOINT) << 8));
            worker
                .facts()
                .table
                .rows()
                .nth(id)
                .map_or_else(|| "?".to_owned(), |spec| spec.name.to_string())
        }
    };
    let is_fresh = worker.shared.links.fresh_until_us(entry.link) > now_us;
    let is_by_age = worker.shared.config.cache.consistency == Consistency::Eventual;
    let stale;
    let state = match entry {
        Explained { is_lease: true, .. } => "being read",
        Explained { ttl_us: Some(0), .. } if is_by_age => "over (its time has ended)",
        // Nobody vouches for it, and nobody is asked to.
        _ if is_by_age && Mode::of(&worker.shared) == Mode::None => "kept, not shown while nothing is cached",
        Explained { is_absent: true, .. } if is_by_age => "hit (absent)",
        _ if is_by_age => "hit",
        Explained {
            stale_for_us: Some(us), ..
        } => {
            let ms = us / 1000;
            stale = match worker.stale_link(entry.db, slot).is_some() {
                true => format!("stale hit (the upstream cannot be asked; for {ms} ms more)"),
                false => format!("stale (not shown, since the upstream can be asked; kept for {ms} ms more)"),
            };
            &stale
        }
        Explained {
            is_epoch_current: false,
            ..
        } => "dead (its connection was lost, or a flush)",
        _ if !is_fresh => {
            "suspended (its connection has not answered, or no majority of sentinels has named its node, within the bound)"
        }
        Explained { is_absent: true, .. } => "hit (absent)",
        _ => "hit",
    };
    let ttl = entry
        .ttl_us
        .map_or_else(|| "none".to_owned(), |us| format!("{} ms", us / 1000));
    let compressed = match entry.codec {
        Codec::Plain => String::new(),
        codec => format!(" compressed={} of={}", codec.name(), entry.shown_bytes),
    };
    format!(
        "{state}; command={command} db={} bytes={}{compressed} age={} ms ttl={ttl} frequency={} link={}",
        entry.db,
        entry.bytes,
        entry.age_us / 1000,
        entry.frequency,
        entry.link.index(),
    )
}
