//! The shared connections of a worker: made at their first use, by the database or the node to which they lead.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use crossbeam::utils::CachePadded;

use super::{Link, Open, Trust, Worker};
use crate::cache::LinkId;
use crate::clock;
use crate::config::Consistency;
use crate::config::Invalidation;
use crate::proxy::cluster::{NO_SLOT, View};
use crate::proxy::readers::replica_of;
use crate::proxy::replies::LinkSink;
use crate::proxy::request::Road;
use crate::upstream::cluster::NodeId;
use crate::upstream::connection::{Connection, Timeouts};
use crate::upstream::dial::{Greeting, Protocol, Target, Tracking};
use crate::upstream::occasional::Occasional;

impl Worker {
    /// The shared connection for a database, made at its first use; of a cluster, that to some node.
    pub fn connection(self: &Rc<Self>, db: u32) -> Result<Rc<Link>, String> {
        match &self.cluster {
            None => self.connection_at(db),
            Some(view) => self.connection_at(view.node_for(NO_SLOT)?.into()),
        }
    }

    /// The shared connection for a database, or to a node of the cluster.
    pub fn connection_at(self: &Rc<Self>, key: u32) -> Result<Rc<Link>, String> {
        if let Some(open) = self.connections.borrow().iter().find(|open| open.key == key) {
            return Ok(Rc::clone(&open.link));
        }
        let (target, node, db) = self.place(key)?;
        let retired = self.reuse(key);
        if retired.is_some() {
            self.shared.links_retired.fetch_sub(1, Relaxed);
        }
        let Some(id) = retired.or_else(|| self.shared.links.add()) else {
            return Err(format!(
                "ERR nearcache: no more databases or nodes can be used, {} links are open",
                u16::MAX
            ));
        };
        if let (Some(node), None) = (node, retired) {
            self.shared.add_node_link(node, id);
        }
        let link = Rc::new(Connection::new(
            Rc::clone(&target),
            Greeting {
                protocol: Protocol::Best,
                db,
                tracking: self.tracking(),
                is_readonly: self.reading.is_some() && node.is_some(),
                answer_within: target.connect_timeout,
            },
            self.timeouts(),
            LinkSink::new(self, id, node).of_replica(replica_of(key)),
        ));
        let task = tokio::task::spawn_local(Rc::clone(&link).run()).abort_handle();
        self.connections.borrow_mut().push(Open {
            key,
            link: Rc::clone(&link),
            task,
        });
        Ok(link)
    }

    /// Where the connections of a key lead: target, node of the cluster, and database.
    fn place(&self, key: u32) -> Result<(Rc<Target>, Option<NodeId>, u32), String> {
        let Some(view) = &self.cluster else {
            let Some((replica, db)) = replica_of(key) else {
                return Ok((Rc::clone(&self.target), None, key));
            };
            let reader = self.reading.as_ref().and_then(|reading| reading.readers.at(replica));
            let reader = reader.ok_or("ERR nearcache: the replica is not known")?;
            return Ok((Rc::new(reader.target.clone()), None, db));
        };
        let node = NodeId::try_from(key).ok().and_then(|id| view.node(id));
        let node = node.ok_or("ERR nearcache: the node of the cluster is not known")?;
        Ok((Rc::new(node.target.clone()), Some(node.id), 0))
    }

    /// Connections to the primaries of the cluster that there are now and to the nodes that reads are spread over, and to no
    /// others; but one to a replica that is not read from now stays as long as it is up: it tells of changes of what was read
    /// there. Called often.
    pub(super) fn follow_nodes(self: &Rc<Self>) {
        let primaries = self.cluster.as_ref().map(View::primaries);
        let dbs: Vec<u32> = match &primaries {
            Some(_) => vec![0],
            None => {
                let connections = self.connections.borrow();
                let keys = connections.iter().map(|open| open.key);
                keys.filter(|key| replica_of(*key).is_none()).collect()
            }
        };
        let mut wanted: Vec<u32> = match &primaries {
            Some(primaries) => primaries.iter().map(|node| u32::from(*node)).collect(),
            None => dbs.clone(),
        };
        if wanted.is_empty() {
            return;
        }
        let mut known = Vec::new();
        if let Some(reading) = &self.reading {
            wanted.extend(reading.choose(primaries.as_deref(), &dbs));
            known = reading.known(primaries.is_some(), &dbs);
        }
        for key in &wanted {
            if let Err(error) = self.connection_at(*key) {
                tracing::error!(error, "no shared connection");
            }
        }
        // They would wait for a connection that nobody makes any more.
        let nowhere: Vec<Rc<Link>> = {
            let connections = self.connections.borrow();
            let left = connections.iter().filter(|open| !wanted.contains(&open.key));
            let left = left.map(|open| &open.link).filter(|link| link.leads_nowhere());
            left.map(Rc::clone).collect()
        };
        nowhere.iter().for_each(|link| link.hand_over());
        let now_us = clock::now_us();
        let bound_us = self.shared.config.cache.bound.as_micros() as u64;
        let is_over = |open: &Open| {
            if wanted.contains(&open.key) {
                return false;
            }
            let since_us = open.link.oldest_unanswered_us();
            // Reads that a replica owes are repeated elsewhere.
            if self.is_replica(open) && since_us.is_some_and(|us| now_us.saturating_sub(us) > bound_us) {
                open.link.hang_up("it is not read from any more".to_owned());
            }
            if known.contains(&open.key) && open.link.is_up() {
                return false;
            }
            // While a script runs there somebody has to see that the node lives.
            let scripts = self.script_connections.borrow();
            let mut scripts = scripts.iter().filter(|(key, _)| *key == open.key);
            since_us.is_none() && scripts.all(|(_, scripts)| scripts.link().oldest_unanswered_us().is_none())
        };
        self.connections.borrow_mut().retain(|open| {
            if is_over(open) {
                open.task.abort();
                open.link.retire("the node is not needed any more");
                open.link.sink.retire(self);
                self.retired.borrow_mut().push((open.key, open.link.sink.link));
                self.shared.links_retired.fetch_add(1, Relaxed);
                return false;
            }
            true
        });
    }

    fn is_replica(&self, open: &Open) -> bool {
        open.link.sink.is_reader(self)
    }

    /// The connection of this key, if there is one.
    pub fn existing(&self, key: u32) -> Option<Rc<Link>> {
        let connections = self.connections.borrow();
        let open = connections.iter().find(|open| open.key == key)?;
        Some(Rc::clone(&open.link))
    }

    /// The link that a connection had before it was given up.
    fn reuse(&self, key: u32) -> Option<LinkId> {
        let mut retired = self.retired.borrow_mut();
        let at = retired.iter().position(|(of, _)| *of == key)?;
        Some(retired.swap_remove(at).1)
    }

    /// What is not kept need not be watched: the server remembers every key that a tracked connection reads.
    fn tracking(&self) -> Tracking {
        let cache = &self.shared.config.cache;
        match cache.invalidation {
            _ if !cache.is_used() => Tracking::Off,
            Invalidation::Auto | Invalidation::Tracking => Tracking::Wanted,
            Invalidation::Broadcast => Tracking::Broadcast(Arc::clone(&self.shared.broadcast_prefixes)),
            Invalidation::KeyspaceEvents | Invalidation::OwnWrites => Tracking::Off,
        }
    }

    /// Whether the upstream tells of changes of this key, if it does of any.
    #[inline]
    pub fn is_watched(&self, name: &[u8]) -> bool {
        let prefixes = &self.shared.broadcast_prefixes;
        prefixes.is_empty() || prefixes.iter().any(|prefix| name.starts_with(prefix.as_bytes()))
    }

    /// The link of the shared connection for a database, if what it reads may be kept, and what its clients may be shown
    /// without asking anybody.
    pub fn caching_link(&self, db: u32) -> Option<(LinkId, Trust)> {
        if self.cluster.is_some() {
            // Who has filled an entry vouches for it. It is not said over which connection a miss would go.
            return Some((LinkId::PINNED, Trust::Vouched));
        }
        let connections = self.connections.borrow();
        let link = &connections.iter().find(|open| open.key == db)?.link;
        let trust = self.trust(link);
        (self.is_caching(link) && (trust == Trust::Stale || link.is_taking())).then_some((link.sink.link, trust))
    }

    /// The link over which a read of this database and slot would go, if whom it leads to cannot be asked now and stale
    /// entries may be shown instead.
    pub fn stale_link(&self, db: u32, slot: u16) -> Option<LinkId> {
        let key = match &self.cluster {
            None => db,
            Some(view) => view.node_for(slot).ok()?.into(),
        };
        let connections = self.connections.borrow();
        let link = &connections.iter().find(|open| open.key == key)?.link;
        (self.trust(link) == Trust::Stale && self.is_caching(link)).then_some(link.sink.link)
    }

    /// What clients of this connection may be shown without asking anybody.
    pub fn trust(&self, link: &Link) -> Trust {
        let cache = &self.shared.config.cache;
        match cache.max_stale {
            // Where nobody vouches for an entry, L1 cannot tell since when nobody does.
            Some(most) if link.is_away() && cache.consistency == Consistency::Eventual => {
                match link.has_answered_within(most) {
                    true => Trust::Stale,
                    false => Trust::Vouched,
                }
            }
            Some(_) if link.is_away() => Trust::Stale,
            _ => Trust::Vouched,
        }
    }

    /// The connection of that key for requests of this road.
    pub fn connection_by(self: &Rc<Self>, road: Road, key: u32) -> Result<Rc<Link>, String> {
        match road {
            Road::Main | Road::Held { .. } => self.connection_at(key),
            Road::Scripts => {
                let link = self.script_connection_at(key)?;
                self.script_is_coming();
                Ok(link)
            }
        }
    }

    /// The shared connection for scripts in a database, or on a node of the cluster.
    pub fn script_connection_at(self: &Rc<Self>, key: u32) -> Result<Rc<Link>, String> {
        let mut connections = self.script_connections.borrow_mut();
        if let Some((_, open)) = connections.iter().find(|(k, _)| *k == key) {
            return Ok(Rc::clone(open.link()));
        }
        let (target, node, db) = self.place(key)?;
        let greeting = Greeting {
            protocol: Protocol::Best,
            db,
            tracking: Tracking::Off,
            is_readonly: false,
            answer_within: target.connect_timeout,
        };
        // A script may run for long, and the server reads nothing behind it. That it lives is seen on the other connection,
        // where it says that it is busy.
        let for_ever = Duration::from_secs(u64::from(u32::MAX));
        let timeouts = Timeouts {
            read: for_ever,
            write: for_ever,
            request: for_ever,
            ..self.timeouts()
        };
        let sink = LinkSink::new(self, LinkId::PINNED, node);
        let open = Occasional::open(Connection::new(target, greeting, timeouts, sink));
        let link = Rc::clone(open.link());
        connections.push((key, open));
        Ok(link)
    }

    /// The server is gone, or silent for too long.
    pub fn hang_up_scripts(&self, node: Option<NodeId>, why: &str) {
        for (_, open) in self.script_connections.borrow().iter() {
            if open.link().is_up() && open.link().sink.node == node {
                open.link().hang_up(why.to_owned());
            }
        }
    }

    /// A script is about to be sent.
    pub fn script_is_coming(&self) {
        let since_us = &self.shared.scripts_since_us[usize::from(self.index)];
        let _ = since_us.compare_exchange(0, clock::now_us(), Relaxed, Relaxed);
    }

    /// Scripts have been answered, or will not be.
    pub fn note_scripts(&self) {
        let scripts = self.script_connections.borrow();
        let oldest = scripts
            .iter()
            .filter_map(|(_, open)| open.link().oldest_unanswered_us())
            .min();
        self.shared.scripts_since_us[usize::from(self.index)].store(oldest.unwrap_or(0), Relaxed);
    }

    /// Whether the server may be busy with a script, and says so to whoever asks: it owes an answer to one for some time,
    /// and not to others.
    pub fn may_be_busy(&self, now_us: u64) -> bool {
        let is_late = |sent_us: u64| now_us.saturating_sub(sent_us) > SLOW_US;
        let since_us = |since: &CachePadded<AtomicU64>| Some(since.load(Relaxed)).filter(|us| *us > 0);
        let mut scripts = self.shared.scripts_since_us.iter().filter_map(since_us);
        let is_silent = |link: &Link| link.oldest_unanswered_us().is_some_and(is_late);
        scripts.any(is_late) && !self.connections.borrow().iter().any(|open| is_silent(&open.link))
    }

    /// How long connections that many clients share wait.
    pub fn timeouts(&self) -> Timeouts {
        let timeouts = &self.shared.config.upstream_timeouts;
        Timeouts {
            read: timeouts.read,
            write: timeouts.write,
            request: timeouts.request,
            greet: timeouts.read,
            back_off: (timeouts.reconnect_min, timeouts.reconnect_max),
            tick: self.tick_period(),
        }
    }
}

/// Longer than a healthy server takes for anything but a script.
const SLOW_US: u64 = 50_000;
