//! Commands that name no key and mean the whole cluster: asked of every primary (or of one after the other), each over a
//! connection of its own, and merged. Rare; the client's earlier requests are answered before, its later ones wait.

use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;

use super::merge::{self, Merge};
use super::scan::Place;
use super::{DETOUR, View};
use crate::command::{Access, Spec, own};
use crate::proxy::client::Client;
use crate::proxy::local::integer;
use crate::proxy::outbox::{Source, Touched};
use crate::proxy::request::{Request, Step};
use crate::proxy::waiter::Answer;
use crate::proxy::worker::Worker;
use crate::proxy::{owed, pubsub};
use crate::resp::convert::Rule;
use crate::resp::reply;
use crate::resp::request::Args;
use crate::resp::{Version, encode};
use crate::upstream::cluster::{NodeId, nodes};
use crate::upstream::dial::DialError;
use crate::upstream::frames::FrameReader;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Plan {
    /// All primaries.
    Every(Merge),
    /// All primaries, each caught up with what was written before, for so long.
    Wait(Duration),
    /// One after the other in a random order, until one has something.
    AnyNonNull,
    Scan,
    /// The proxy does not do it.
    Refused(&'static str),
}

/// How a request without keys is answered by the cluster; `None`: by any node.
pub fn plan(spec: &Spec, args: Args<'_>) -> Option<Plan> {
    const SHUT: &str = "ERR nearcache: SHUTDOWN, DEBUG, FAILOVER and REPLICAOF are not passed on to a Redis Cluster: send them to the node";
    let is = |word: &[u8]| args.arg(1).eq_ignore_ascii_case(word);
    let every = |merge| Some(Plan::Every(merge));
    match &*spec.name {
        "dbsize" => every(Merge::Sum),
        "keys" => every(Merge::Union),
        "flushall" | "flushdb" | "save" | "bgsave" | "bgrewriteaof" => every(Merge::First),
        "randomkey" => Some(Plan::AnyNonNull),
        "scan" => Some(Plan::Scan),
        "script" if is(b"load") || is(b"flush") => every(Merge::First),
        "script" if is(b"exists") => every(Merge::LeastOfEach),
        "script" if is(b"kill") => every(Merge::AnyGood),
        "function" if is(b"load") || is(b"delete") || is(b"flush") || is(b"restore") => every(Merge::First),
        "function" if is(b"kill") => every(Merge::AnyGood),
        "config" if is(b"set") || is(b"resetstat") || is(b"rewrite") => every(Merge::First),
        "acl" if is(b"setuser") || is(b"deluser") || is(b"load") || is(b"save") => every(Merge::First),
        "module" if is(b"load") || is(b"loadex") || is(b"unload") => every(Merge::First),
        "pubsub" if is(b"channels") || is(b"shardchannels") => every(Merge::Union),
        "pubsub" if is(b"numsub") || is(b"shardnumsub") => every(Merge::Counts),
        "pubsub" if is(b"numpat") => every(Merge::Sum),
        "wait" => Some(match integer(args.arg(2)).and_then(|ms| u64::try_from(ms).ok()) {
            Some(ms) if ms > 0 => Plan::Wait(Duration::from_millis(ms)),
            Some(_) => Plan::Refused("ERR nearcache: with a Redis Cluster WAIT needs a timeout other than 0"),
            None => Plan::Refused("ERR timeout is not an integer or out of range"),
        }),
        "shutdown" | "debug" | "failover" | "replicaof" | "slaveof" => Some(Plan::Refused(SHUT)),
        "clusterscan" => Some(Plan::Refused(
            "ERR nearcache: CLUSTERSCAN is not served, SCAN goes through all nodes",
        )),
        _ => None,
    }
}

pub fn start(worker: &Rc<Worker>, view: &View, client: &Rc<Client>, request: &Request<'_>, plan: Plan) -> Step {
    let mut state = client.state.borrow_mut();
    if let Plan::Refused(error) = plan {
        state.error(error);
        return Step::DONE;
    }
    if !state.outbox.is_all_answered() {
        return Step::Wait;
    }
    let primaries = view.primaries();
    if primaries.is_empty() {
        let why = view.node_for(super::NO_SLOT).err();
        state.error(why.unwrap_or_else(|| "ERR nearcache: the cluster has no primary".to_owned()));
        return Step::DONE;
    }
    state.path = DETOUR;
    let version = state.version;
    let sequence = state.outbox.expect(Touched::All, Source::Sent);
    drop(state);
    if request.spec.access == Access::Write {
        worker.counters().writes_total.add(1);
    }
    let asked = Asked {
        name: request.spec.full_name(request.args).replace('|', " "),
        words: request.args.iter().map(<[u8]>::to_vec).collect(),
        access: request.spec.access,
    };
    let rule = match version {
        Version::Resp2 => request.spec.rule(request.args),
        Version::Resp3 => Rule::General,
    };
    let (worker, client) = (Rc::clone(worker), Rc::clone(client));
    tokio::task::spawn_local(async move {
        let frame = asked.run(&worker, primaries, plan).await;
        match asked.access {
            // Whatever it did, nothing older may be shown behind it.
            Access::Write => {
                worker.void_everything();
                owed::hold(&worker, &client, &Touched::All);
            }
            Access::Read => client.state.borrow_mut().floor_us = worker.now_us(),
            Access::None => {}
        }
        // The nodes were asked in the version that they all speak; a client that speaks more is about to be closed.
        let frame = match version == Version::Resp3 && worker.target.spoken().version() == Version::Resp2 {
            true => encode::error_frame("ERR nearcache: the upstream no longer speaks RESP3").into(),
            false => asked.corrected(&worker, frame),
        };
        let answer = Answer::Frame {
            bytes: &frame,
            shared: None,
            version,
            rule: &rule,
        };
        client.answer(sequence, answer, &worker.touched);
        worker.wake_touched();
    });
    Step::DONE
}

/// How long the end of a scan waits for a slot that is on its way, and how often it looks.
const ON_THE_WAY_FOR: Duration = Duration::from_secs(1);
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// A request that is asked of several nodes.
struct Asked {
    name: String,
    words: Vec<Vec<u8>>,
    access: Access,
}

impl Asked {
    async fn run(&self, worker: &Rc<Worker>, primaries: Vec<NodeId>, plan: Plan) -> Bytes {
        let question = Question::new(worker, encoded(&self.words));
        match plan {
            Plan::Every(merge) => self.every(worker, primaries, question, &merge).await,
            Plan::Wait(length) => {
                // A server waits for what the connection wrote last, and a PING counts as the newest.
                let question = Question {
                    raw: [own::PING_REQUEST, &question.raw[..]].concat().into(),
                    replies: 2,
                    patience: question.patience.saturating_add(length),
                };
                self.every(worker, primaries, question, &Merge::Least).await
            }
            Plan::AnyNonNull => {
                let mut left = primaries;
                let mut found = Bytes::from_static(b"_\r\n");
                while !left.is_empty() {
                    let node = left.swap_remove(fastrand::usize(..left.len()));
                    found = ask(worker, node, &question).await;
                    if !matches!(&found[..], b"_\r\n" | b"$-1\r\n") {
                        break;
                    }
                }
                found
            }
            Plan::Scan => self.scan(worker).await,
            Plan::Refused(error) => encode::error_frame(error).into(),
        }
    }

    async fn every(&self, worker: &Rc<Worker>, primaries: Vec<NodeId>, question: Question, merge: &Merge) -> Bytes {
        let tasks: Vec<_> = primaries
            .into_iter()
            .map(|node| {
                let (worker, question) = (Rc::clone(worker), question.clone());
                tokio::task::spawn_local(async move { ask(&worker, node, &question).await })
            })
            .collect();
        let mut frames = Vec::with_capacity(tasks.len());
        for task in tasks {
            frames.push(
                task.await
                    .unwrap_or_else(|_| encode::error_frame("ERR nearcache: the question was given up").into()),
            );
        }
        merge::merged(merge, &self.name, &frames).into()
    }

    /// One step, on the node whose turn it is.
    async fn scan(&self, worker: &Rc<Worker>) -> Bytes {
        let Some(view) = &worker.cluster else {
            return Bytes::new();
        };
        let topology = view.cluster.topology();
        let Some(place) = Place::decode(&self.words[1], &topology) else {
            return encode::error_frame("ERR invalid cursor").into();
        };
        let mut words = self.words.clone();
        words[1] = place.cursor.to_string().into_bytes();
        let frame = ask(worker, place.node, &Question::new(worker, encoded(&words))).await;
        let parts = || {
            let mut parts = reply::elements(&frame)?;
            let cursor = std::str::from_utf8(reply::text(parts.next()?)?).ok()?.parse().ok()?;
            Some((cursor, parts.next()?))
        };
        if reply::is_error(&frame) {
            return frame;
        }
        let Some((cursor, keys)) = parts() else {
            return encode::error_frame("ERR nearcache: the reply of the node is no SCAN reply").into();
        };
        // What has gone to another node meanwhile makes another round.
        let next = match place.after(cursor, &view.cluster.topology()) {
            None if self.is_settled(worker, view).await => Some(0),
            None => Place::first(&view.cluster.topology()).and_then(Place::encode),
            Some(next) => next.encode(),
        };
        let Some(next) = next else {
            return encode::error_frame("ERR nearcache: the cursor of the node is too large to be passed on").into();
        };
        let mut out = Vec::with_capacity(frame.len() + 24);
        encode::array_header(&mut out, 2);
        encode::bulk(&mut out, next.to_string());
        out.extend_from_slice(keys);
        out.into()
    }

    /// Whether the nodes themselves know of no slot that has another node than the topology says. One that is on its way is
    /// awaited, for some time: nobody may ever finish what he has begun.
    async fn is_settled(&self, worker: &Rc<Worker>, view: &View) -> bool {
        let mut question = Vec::new();
        encode::command(&mut question, [own::CLUSTER, b"NODES"].into_iter());
        let question = Question::new(worker, question.into());
        let end = tokio::time::Instant::now() + ON_THE_WAY_FOR;
        loop {
            let topology = view.cluster.topology();
            let mut is_moving = false;
            for node in &topology.primaries {
                let Some(endpoint) = view.endpoint(*node) else { continue };
                let frame = ask(worker, *node, &question).await;
                let text = String::from_utf8_lossy(reply::text(&frame).unwrap_or_default()).into_owned();
                let seen = nodes::parse(&text, &endpoint, view.cluster.preferred());
                is_moving |= seen.iter().any(|seen| !seen.moving.is_empty());
                let change = topology.after(&seen, |endpoint| view.cluster.node_at(endpoint), false);
                if change.is_some_and(|(_, nodes)| !nodes.is_empty()) {
                    view.cluster.doubt(Some(&endpoint));
                    return false;
                }
            }
            if !is_moving || tokio::time::Instant::now() > end {
                return true;
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    /// Numbers of listeners that only the proxy knows.
    fn corrected(&self, worker: &Worker, frame: Bytes) -> Bytes {
        let is = |word: &[u8]| self.words.get(1).is_some_and(|sub| sub.eq_ignore_ascii_case(word));
        if self.words[0].eq_ignore_ascii_case(b"pubsub")
            && (is(b"numsub") || is(b"shardnumsub"))
            && let Some(corrected) = pubsub::with_subscribers(worker, is(b"shardnumsub"), &frame)
        {
            return corrected.into();
        }
        frame
    }
}

/// What a node is asked over a connection of its own.
#[derive(Clone)]
struct Question {
    raw: Bytes,
    /// So many replies it has; the last one is the answer.
    replies: usize,
    patience: Duration,
}

impl Question {
    fn new(worker: &Worker, raw: Bytes) -> Question {
        Question {
            raw,
            replies: 1,
            patience: worker.shared.config.upstream_timeouts.read,
        }
    }
}

/// The answer of a node, or an error that names it.
async fn ask(worker: &Rc<Worker>, node: NodeId, question: &Question) -> Bytes {
    let Some(view) = &worker.cluster else {
        return Bytes::new();
    };
    let name = view.name(node);
    match exchange(worker, view, node, question).await {
        Ok(frame) => frame,
        Err(why) => encode::error_frame(format!("ERR nearcache: node {name} of the cluster: {why}")).into(),
    }
}

async fn exchange(worker: &Worker, view: &View, node: NodeId, question: &Question) -> Result<Bytes, String> {
    let pool = view.pool(worker, node).ok_or("it is not known any more")?;
    let patience = question.patience;
    let answer_within = worker.shared.config.upstream_timeouts.connect.min(patience);
    let version = worker.target.spoken().version();
    let lent = pool.take(version, Some(0), answer_within).await;
    let mut lent = lent.map_err(|error| error.to_string())?;
    let mut frames = FrameReader::up_to(worker.shared.config.clients.output_limit_bytes);
    let exchange = async {
        lent.stream.write_all(&question.raw).await?;
        let mut left = question.replies;
        loop {
            let frame = frames.next(&mut lent.stream).await?;
            left -= usize::from(frame.first() != Some(&b'>'));
            if left == 0 {
                return Ok(frame.freeze());
            }
        }
    };
    match tokio::time::timeout(patience, exchange).await {
        Ok(Ok(frame)) => {
            pool.give_back(lent);
            Ok(frame)
        }
        Ok(Err(DialError::TooLarge(_))) => Err("its reply is larger than clients.output_limit".to_owned()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("no answer within {} ms", patience.as_millis())),
    }
}

fn encoded(words: &[Vec<u8>]) -> Bytes {
    let mut raw = Vec::new();
    encode::command(&mut raw, words.iter().map(Vec::as_slice));
    raw.into()
}
