//! `INFO`: the upstream's sections and, behind them, the proxy's own. Who is connected are the proxy's clients, as in
//! `CLIENT LIST`. While the upstream is away the proxy's section is all there is.

use std::fmt::Write as _;
use std::rc::Rc;
use std::sync::atomic::Ordering::Relaxed;

use bytes::Bytes;

use super::client::Client;
use super::invalidation::Mode;
use super::outbox::{Source, Touched};
use super::request::{Request, Road, Step};
use super::shared::Shared;
use super::waiter::{Effect, Waiter};
use super::worker::Worker;
use crate::clock;
use crate::config::{Consistency, ReadFrom};
use crate::resp::convert::Rule;
use crate::resp::reply;
use crate::resp::{Version, encode};
use crate::upstream::breaker::State;
use crate::upstream::sentinel::Sentinels;

pub fn answer(worker: &Rc<Worker>, client: &Rc<Client>, request: &Request<'_>) -> Step {
    let args = request.args;
    let is = |i: usize, name: &[u8]| args.arg(i).eq_ignore_ascii_case(name);
    let wants_all =
        args.len() == 1 || (1..args.len()).any(|i| is(i, b"all") || is(i, b"everything") || is(i, b"default"));
    let wants_own = wants_all || (1..args.len()).any(|i| is(i, b"nearcache"));
    let wants_clients = wants_all || (1..args.len()).any(|i| is(i, b"clients"));
    let is_own_alone = args.len() > 1 && (1..args.len()).all(|i| is(i, b"nearcache"));
    let (db, is_first) = {
        let state = client.state.borrow();
        (state.db, state.outbox.is_all_answered())
    };
    // Behind a script, which travels on a connection of its own.
    if client.state.borrow().road != Road::Main && !is_first {
        return Step::Wait;
    }
    let link = worker.connection(db).ok().filter(|link| link.availability().is_ok());
    let mut state = client.state.borrow_mut();
    let version = state.version;
    match link {
        Some(link) if !is_own_alone => {
            state.road = Road::Main;
            let sequence = state.outbox.expect(Touched::None, Source::Sent);
            drop(state);
            let effect = match wants_own || wants_clients {
                true => Effect::Info { has_own: wants_own },
                false => Effect::None,
            };
            let waiter = Waiter {
                to: Some((Rc::clone(client), sequence)),
                version,
                rule: Rule::General,
                effect,
            };
            link.send(request.raw, request.now_us, waiter);
        }
        None if !wants_own => state.error(worker.shared.unavailable(&"not connected")),
        _ => {
            let text = own_section(worker);
            state
                .outbox
                .answer_now(|ready| encode::verbatim(&mut ready.bytes, version, "txt", &text));
        }
    }
    Step::DONE
}

/// The upstream's reply (RESP3) with the number of the proxy's clients and, if wanted, with its own section, in the client's
/// version.
pub fn made_own(worker: &Worker, frame: &[u8], version: Version, has_own: bool) -> Bytes {
    let mut out = Vec::with_capacity(frame.len() + 1024);
    match reply::text(frame) {
        Some(text) if !reply::is_error(frame) => {
            let mut whole = with_clients(text, worker.shared.clients.load(Relaxed));
            if has_own {
                whole.extend_from_slice(b"\r\n");
                whole.extend_from_slice(own_section(worker).as_bytes());
            }
            encode::verbatim(&mut out, version, "txt", &whole);
        }
        _ => out.extend_from_slice(frame),
    }
    out.into()
}

/// The text with this number of clients.
fn with_clients(text: &[u8], clients: usize) -> Vec<u8> {
    let field = b"\r\nconnected_clients:";
    let start = text.windows(field.len()).position(|at| at == field);
    let Some(start) = start.map(|start| start + field.len()) else {
        return text.to_vec();
    };
    let digits = text[start..].iter().take_while(|byte| byte.is_ascii_digit()).count();
    [&text[..start], clients.to_string().as_bytes(), &text[start + digits..]].concat()
}

fn own_section(worker: &Worker) -> String {
    let mut text = String::from("# nearcache\r\n");
    for (name, value) in facts(worker) {
        let _ = write!(text, "{name}:{value}\r\n");
    }
    text
}

/// What `INFO` and `NEARCACHE STATS` tell, in order.
pub fn facts(worker: &Worker) -> Vec<(&'static str, String)> {
    let shared = &worker.shared;
    let stats = shared.cache.stats();
    let total = |field: fn(&crate::metrics::Counters) -> &crate::metrics::Tally| -> u64 {
        shared.counters.iter().map(|counters| field(counters).value()).sum()
    };
    let (hits, misses) = (total(|c| &c.l1_hits_total), total(|c| &c.l1_misses_total));
    let hit_rate = if hits + misses == 0 {
        0.0
    } else {
        hits as f64 / (hits + misses) as f64
    };
    let (mode, spoken) = (Mode::of(shared), shared.target.spoken());
    let mut facts = vec![
        ("nearcache_version", env!("CARGO_PKG_VERSION").to_owned()),
        (
            "nearcache_uptime_in_seconds",
            (clock::now_us().saturating_sub(shared.started_us) / 1_000_000).to_string(),
        ),
        ("nearcache_upstream", shared.upstream_name.clone()),
        ("nearcache_upstream_node", shared.target.node()),
        (
            "nearcache_upstream_protocol",
            match spoken.version() {
                Version::Resp2 => format!("2 ({})", spoken.why().unwrap_or_default()),
                Version::Resp3 => "3".to_owned(),
            },
        ),
        ("nearcache_breaker", breakers(shared)),
        ("nearcache_upstream_switches", shared.switches.load(Relaxed).to_string()),
        ("nearcache_workers", shared.inboxes.len().to_string()),
        ("nearcache_clients", shared.clients.load(Relaxed).to_string()),
        ("nearcache_consistency", consistency(worker).to_owned()),
        ("nearcache_caching", caching(worker).to_owned()),
        ("nearcache_invalidation", mode.name().to_owned()),
        ("nearcache_invalidation_reason", mode.reason(shared)),
        (
            "nearcache_links_tracked",
            shared.links_tracked.load(Relaxed).to_string(),
        ),
        (
            "nearcache_links_refused",
            shared.links_refused.load(Relaxed).to_string(),
        ),
        ("nearcache_links_lost", total(|c| &c.links_lost_total).to_string()),
        ("nearcache_requests", total(|c| &c.requests_total).to_string()),
        ("nearcache_l1_hits", hits.to_string()),
        ("nearcache_l1_stale_hits", total(|c| &c.l1_stale_total).to_string()),
        ("nearcache_l1_misses", misses.to_string()),
        ("nearcache_l1_hit_rate", format!("{hit_rate:.4}")),
        ("nearcache_l1_followers", total(|c| &c.followers_total).to_string()),
        ("nearcache_l1_entries", stats.entries.to_string()),
        ("nearcache_l1_used_bytes", stats.used_bytes.to_string()),
        ("nearcache_l1_budget_bytes", stats.budget_bytes.to_string()),
        ("nearcache_l1_withheld_bytes", stats.withheld_bytes.to_string()),
        ("nearcache_l1_inserts", stats.inserts.to_string()),
        ("nearcache_l1_evictions", stats.evictions.to_string()),
        ("nearcache_l1_expirations", stats.expirations.to_string()),
        ("nearcache_l1_voids", stats.voids.to_string()),
        ("nearcache_l1_refused_too_large", stats.refused_too_large.to_string()),
        ("nearcache_l1_refused_voided", stats.refused_voided.to_string()),
        ("nearcache_pushes", total(|c| &c.pushes_total).to_string()),
        ("nearcache_shared_requests", total(|c| &c.shared_total).to_string()),
        ("nearcache_pinned_sessions", total(|c| &c.pinned_total).to_string()),
        ("nearcache_pinned_connections", shared.pinned.load(Relaxed).to_string()),
        ("nearcache_upstream_errors", total(|c| &c.l2_errors_total).to_string()),
        (
            "nearcache_buffered_bytes",
            shared.buffered_bytes.load(Relaxed).to_string(),
        ),
    ];
    if let Some(l3) = shared.cache.l3() {
        let stats = l3.stats();
        let counts = stats.counts;
        let hits = total(|c| &c.l3_hits_total);
        facts.extend([
            ("nearcache_l3_state", l3.state().name().to_owned()),
            ("nearcache_l3_hits", hits.to_string()),
            ("nearcache_l3_stale_hits", total(|c| &c.l3_stale_total).to_string()),
            ("nearcache_l3_misses", total(|c| &c.l3_misses_total).to_string()),
            ("nearcache_l3_revalidated", total(|c| &c.l3_same_total).to_string()),
            ("nearcache_l3_changed", total(|c| &c.l3_changed_total).to_string()),
            ("nearcache_l3_entries", stats.entries.to_string()),
            ("nearcache_l3_segments", stats.segments.to_string()),
            ("nearcache_l3_file_bytes", stats.file_bytes.to_string()),
            ("nearcache_l3_index_bytes", stats.index_bytes.to_string()),
            ("nearcache_l3_queued_bytes", stats.queued_bytes.to_string()),
            ("nearcache_l3_writes", counts.writes.to_string()),
            ("nearcache_l3_written_bytes", counts.medium_bytes.to_string()),
            ("nearcache_l3_voids", counts.voids.to_string()),
            ("nearcache_l3_expirations", counts.expirations.to_string()),
            ("nearcache_l3_corrupt_records", counts.corrupt_records.to_string()),
            ("nearcache_l3_repairs", counts.repairs.to_string()),
        ]);
        if let Some((Some(key), _)) = l3.key_segments().last() {
            facts.push(("nearcache_l3_encrypted_with", key.to_string()));
        }
        facts.extend(l3.trouble().map(|trouble| ("nearcache_l3_trouble", trouble)));
    }
    if let Some(readers) = &shared.readers {
        let from = match readers.from() {
            ReadFrom::Primary => "primary",
            ReadFrom::PreferReplica => "prefer-replica",
            ReadFrom::Nearest => "nearest",
        };
        let states: Vec<String> = readers.list().iter().map(|reader| reader.state()).collect();
        facts.extend([
            ("nearcache_read_from", from.to_owned()),
            ("nearcache_readers", states.join(" | ")),
            (
                "nearcache_replica_replies",
                total(|c| &c.replica_replies_total).to_string(),
            ),
        ]);
    }
    if let Some(topology) = &shared.topology {
        let topology = topology.borrow();
        let Sentinels {
            known,
            answering,
            agreeing,
        } = topology.sentinels;
        let replicas: Vec<String> = topology.replicas.iter().map(ToString::to_string).collect();
        facts.push((
            "nearcache_sentinels",
            format!("known={known},answering={answering},agreeing={agreeing}"),
        ));
        facts.push(("nearcache_replicas", replicas.join(",")));
    }
    if let Some(cluster) = &shared.cluster {
        let topology = cluster.topology();
        facts.push((
            "nearcache_cluster",
            format!(
                "primaries={},failed={},replicas={},slots={},changes={}",
                topology.primaries.len(),
                topology.failed.len(),
                topology.replicas.len(),
                topology.assigned(),
                topology.version,
            ),
        ));
        let nodes = topology.primaries.iter().filter_map(|id| cluster.node(*id));
        let nodes: Vec<String> = nodes.map(|node| node.endpoint.to_string()).collect();
        facts.push(("nearcache_cluster_primaries", nodes.join(",")));
        let redirects = [total(|c| &c.redirects_total), total(|c| &c.redirects_delayed_total)];
        facts.push((
            "nearcache_redirects",
            format!("sent={},delayed={}", redirects[0], redirects[1]),
        ));
    }
    facts
}

/// The breaker of each node, how often it has opened, and why it is not closed.
fn breakers(shared: &Shared) -> String {
    let nodes = shared.nodes();
    let each = nodes.iter().map(|node| {
        let breaker = node.breaker();
        let opened = breaker.changes(State::Open);
        match breaker.cut() {
            None => format!("{} closed, opened {opened} times", node.node()),
            Some(cut) => format!(
                "{} {}, opened {opened} times: {cut}",
                node.node(),
                breaker.state().name()
            ),
        }
    });
    each.collect::<Vec<_>>().join(" | ")
}

fn consistency(worker: &Worker) -> &'static str {
    match worker.shared.config.cache.consistency {
        Consistency::Strong => "strong",
        Consistency::Coherent => "coherent",
        Consistency::Eventual => "eventual",
    }
}

/// Whether and by what right anything is cached.
pub fn caching(worker: &Worker) -> &'static str {
    let cache = &worker.shared.config.cache;
    match cache.consistency {
        _ if !cache.enabled => "off",
        Consistency::Strong => "off (strong)",
        _ if Mode::of(&worker.shared) == Mode::None => "off (nearcache_invalidation_reason says why)",
        Consistency::Eventual => "by age",
        Consistency::Coherent => "tracked",
    }
}
