//! Asks the nodes what the cluster looks like: one after the other, in turn, so that one which is cut off and does not know
//! it does not stay the only witness; at once, and the one that was named, when somebody was sent to another node.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::super::dial::{Role, Route};
use super::super::exchange::Exchange;
use super::nodes::{self, Seen};
use super::{Cluster, Node, NodeId, Topology};
use crate::command::own;
use crate::config::Endpoint;
use crate::resp::reply;

pub struct Watcher {
    cluster: Arc<Cluster>,
    seeds: Vec<Endpoint>,
    period: Duration,
    timeout: Duration,
    /// Some primary, for what any may be asked.
    route: watch::Sender<Route>,
    line: Option<(Endpoint, Exchange)>,
    /// Questions over this line.
    asked: u32,
    turn: usize,
    /// Answers in a row that claimed what is believed to be over.
    contradicted: u32,
    /// The node that was asked last has not answered.
    is_in_trouble: bool,
    /// Why nodes that were asked have not answered, until they do or are nodes of the cluster no longer.
    troubles: BTreeMap<Endpoint, String>,
    next: Instant,
}

/// A topology that is to be published, and whose copies are to be voided then.
pub struct Change {
    pub topology: Topology,
    pub nodes: Vec<NodeId>,
}

/// Hints come in swarms: no more questions than this.
const HINTS_APART: Duration = Duration::from_millis(10);
/// While something is wrong.
const HURRIED: Duration = Duration::from_millis(100);
/// Questions to one node before another has its turn.
const QUESTIONS_A_LINE: u32 = 4;
/// An older claim that is made so often is believed: the cluster was set up anew.
const CONTRADICTIONS: u32 = 10;

impl Watcher {
    pub fn new(
        cluster: Arc<Cluster>,
        seeds: Vec<Endpoint>,
        period: Duration,
        timeout: Duration,
        route: watch::Sender<Route>,
    ) -> Watcher {
        Watcher {
            cluster,
            seeds,
            period,
            timeout,
            route,
            line: None,
            asked: 0,
            turn: 0,
            contradicted: 0,
            is_in_trouble: false,
            troubles: BTreeMap::new(),
            next: Instant::now(),
        }
    }

    /// Asks until there is news.
    pub async fn change(&mut self) -> Change {
        loop {
            let doubts = self.cluster.any.doubts();
            tokio::select! {
                () = tokio::time::sleep_until(self.next) => {}
                () = self.cluster.is_hinted.notified() => tokio::time::sleep(HINTS_APART).await,
                () = doubts.notified() => tokio::time::sleep(HINTS_APART).await,
            }
            let hint = self.cluster.hint.lock().take();
            let answer = self.ask(hint).await;
            self.is_in_trouble = answer.is_err();
            let is_well = matches!(&answer, Ok((_, seen)) if !seen.iter().any(|seen| seen.is_failed));
            self.next = Instant::now() + if is_well { self.period } else { self.period.min(HURRIED) };
            match answer {
                Ok((asked, seen)) => {
                    self.troubles.remove(&asked);
                    self.troubles.retain(|node, _| {
                        let is_named = seen.iter().any(|seen| seen.endpoint.as_ref() == Some(node));
                        is_named || self.seeds.contains(node)
                    });
                    if let Some(change) = self.judge(&asked, &seen) {
                        return change;
                    }
                }
                Err((node, why)) => self.failed(node, why),
            }
        }
    }

    fn failed(&mut self, node: Endpoint, why: String) {
        if self.troubles.get(&node) != Some(&why) {
            tracing::warn!(%node, error = why, "a node of the cluster cannot be asked about it");
        }
        self.troubles.insert(node, why);
        if self.cluster.version() > 0 {
            return;
        }
        let troubles: Vec<String> = self
            .troubles
            .iter()
            .map(|(node, why)| format!("{node}: {why}"))
            .collect();
        let why = format!("no node of the cluster answers: {}", troubles.join("; "));
        self.route.send_if_modified(|route| {
            let is_news = route.node.as_ref().err() != Some(&why);
            route.node = Err(why);
            is_news
        });
    }

    async fn ask(&mut self, hint: Option<Endpoint>) -> Result<(Endpoint, Vec<Seen>), (Endpoint, String)> {
        let is_elsewhere = |line: &(Endpoint, Exchange)| hint.as_ref().is_some_and(|hint| *hint != line.0);
        if self.asked >= QUESTIONS_A_LINE || self.line.as_ref().is_some_and(is_elsewhere) {
            self.line = None;
        }
        let (endpoint, mut exchange) = match self.line.take() {
            Some(line) => line,
            None => {
                self.asked = 0;
                let endpoint = match hint {
                    Some(hint) => hint,
                    None => self.next_node(),
                };
                let access = self.cluster.any.access();
                let greeting = Exchange::greeting(self.timeout);
                let opened = access.open(&endpoint, Role::Any, &greeting, self.timeout).await;
                let stream = match opened {
                    Ok((stream, _)) => stream,
                    Err(error) => return Err((endpoint, error.to_string())),
                };
                (endpoint, Exchange::over(stream))
            }
        };
        self.asked += 1;
        let frame = match exchange.ask(&[own::CLUSTER, b"NODES"], self.timeout).await {
            Ok(frame) => frame,
            Err(error) => return Err((endpoint, error.to_string())),
        };
        if reply::is_error(&frame) {
            let error = String::from_utf8_lossy(&frame)
                .trim_start_matches('-')
                .trim()
                .to_owned();
            let remedy = match error.contains("cluster support disabled") {
                true => " (it is no node of a cluster: use redis:// for a server that stands alone)",
                false => " (the user of upstream.url must be allowed CLUSTER NODES)",
            };
            return Err((endpoint, format!("CLUSTER NODES is refused: {error}{remedy}")));
        }
        let text = String::from_utf8_lossy(reply::text(&frame).unwrap_or_default());
        // A setting of each node, taken for the same in all of them, and once: by another name a node would be another node.
        if self.cluster.version() == 0 && nodes::has_hostnames(&text) {
            match exchange.ask(&[own::CLUSTER, b"SLOTS"], self.timeout).await {
                Ok(slots) => self.cluster.prefer(nodes::preferred(&slots)),
                Err(error) => return Err((endpoint, error.to_string())),
            }
        }
        let seen = nodes::parse(&text, &endpoint, self.cluster.preferred());
        self.line = Some((endpoint.clone(), exchange));
        Ok((endpoint, seen))
    }

    /// Primaries first, then replicas and what was configured.
    fn next_node(&mut self) -> Endpoint {
        let topology = self.cluster.topology();
        let well = topology.primaries.iter().filter(|id| !topology.failed.contains(id));
        let mut all: Vec<Endpoint> = well
            .filter_map(|id| Some(self.cluster.node(*id)?.endpoint.clone()))
            .collect();
        // In trouble everybody is asked.
        if all.is_empty() || self.is_in_trouble {
            all.extend(topology.replicas.iter().map(|replica| replica.endpoint.clone()));
            all.extend(self.seeds.iter().cloned());
        }
        self.turn = self.turn.wrapping_add(1);
        let at = self.turn % all.len().max(1);
        all.swap_remove(at)
    }

    fn judge(&mut self, asked: &Endpoint, seen: &[Seen]) -> Option<Change> {
        let cluster = &self.cluster;
        let known = cluster.topology();
        let number = |endpoint: &Endpoint| cluster.node_at(endpoint);
        let is_contradicted = known.after(seen, number, true).is_some();
        let mut change = known.after(seen, number, false);
        match (&change, is_contradicted) {
            (None, true) if self.contradicted >= CONTRADICTIONS => {
                self.contradicted = 0;
                change = known.after(seen, number, true);
            }
            (None, true) => self.contradicted += 1,
            _ => self.contradicted = 0,
        }
        cluster.forget_moving();
        let moving = seen.iter().flat_map(|seen| &seen.moving);
        moving.for_each(|slot| cluster.note_moving(*slot));
        if known.version == 0 && change.as_ref().is_none_or(|(new, _)| new.assigned() == 0) {
            let why = format!("{asked} knows no node that has slots");
            self.route.send_modify(|route| route.node = Err(why));
            return None;
        }
        let Some((topology, nodes)) = change else {
            cluster.leave_others(&known);
            self.lead_to(&known, asked);
            return None;
        };
        self.lead_to(&topology, asked);
        Some(Change { topology, nodes })
    }

    /// What any node may be asked is asked of one that is there, and that the proxy can reach.
    fn lead_to(&self, topology: &Topology, asked: &Endpoint) {
        let is_well = |endpoint: &Endpoint| {
            let node = self.cluster.known_at(endpoint);
            let is_cut = |node: &Node| node.target.breaker().is_cut();
            let is_in = |id| topology.primaries.contains(&id) && !topology.failed.contains(&id);
            !self.troubles.contains_key(endpoint) && node.is_some_and(|node| is_in(node.id) && !is_cut(&node))
        };
        let now = self.route.borrow().node.clone();
        if now.as_ref().is_ok_and(is_well) && !self.cluster.any.breaker().is_cut() {
            return;
        }
        let primaries = topology.primaries.iter().filter_map(|id| self.cluster.node(*id));
        let Some(node) = std::iter::once(asked.clone())
            .chain(primaries.map(|node| node.endpoint.clone()))
            .find(|endpoint| now.as_ref() != Ok(endpoint) && is_well(endpoint))
        else {
            return;
        };
        self.route.send_modify(|route| {
            route.node = Ok(node);
            route.generation += 1;
        });
    }
}
