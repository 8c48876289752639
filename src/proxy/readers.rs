//! Reads that go to replicas, where the operator allows it: a worker has a connection to each node that reads are spread
//! over, and a read takes one of them by its key, so that a key is read from the same node as long as nothing changes.
//!
//! Only what reads and names a key goes there, and nothing that must be in order with what the client does elsewhere: scripts,
//! transactions and everything over a connection of the client's own go to the primary. So does a read for which no replica
//! is up, and one that a replica took with it when its connection was lost, or refused to serve.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use super::client::Client;
use super::cluster::NO_SLOT;
use super::request::{Request, Road};
use super::worker::{Link, Worker};
use crate::cache::name_hash;
use crate::command::{Access, Cache, NotCached, Spec};
use crate::upstream::cluster::NodeId;
use crate::upstream::readers::Readers;

/// What a worker knows of them.
pub struct Reading {
    pub readers: Arc<Readers>,
    /// By the primary of a cluster: the keys of the connections that its reads are spread over, that of database 0 outside
    /// of a cluster; `None`: the primary itself.
    spread: RefCell<Vec<Spread>>,
}

struct Spread {
    primary: Option<NodeId>,
    over: Vec<Option<u32>>,
}

/// The key of a connection to a replica outside of a cluster, whose low half is the database. No database has such a number.
const REPLICA: u32 = 1 << 31;

/// The key of the connection to this replica for a database; `None`: there is none for so large a number.
fn key_of(id: NodeId, db: u32) -> Option<u32> {
    (db <= 0xffff).then_some(REPLICA | u32::from(id) << 16 | db)
}

/// The replica and the database that a key stands for.
pub fn replica_of(key: u32) -> Option<(NodeId, u32)> {
    (key & REPLICA != 0).then_some(((key >> 16 & 0x7fff) as NodeId, key & 0xffff))
}

impl Reading {
    pub fn new(readers: Arc<Readers>) -> Reading {
        Reading {
            readers,
            spread: RefCell::default(),
        }
    }

    /// Chooses anew, for these primaries of a cluster or for the one that there is, and tells which connections that takes.
    /// Called often.
    pub fn choose(&self, primaries: Option<&[NodeId]>, dbs: &[u32]) -> Vec<u32> {
        let groups: Vec<Option<NodeId>> = match primaries {
            Some(primaries) => primaries.iter().copied().map(Some).collect(),
            None => vec![None],
        };
        let mut wanted = Vec::new();
        let mut spread = Vec::with_capacity(groups.len());
        for primary in groups {
            let mut over = Vec::new();
            for reader in self.readers.chosen(primary) {
                let key = match primary {
                    Some(_) => Some(u32::from(reader.id)),
                    None => key_of(reader.id, 0),
                };
                over.push(key.filter(|_| reader.is_replica));
                match primary {
                    _ if !reader.is_replica => {}
                    Some(_) => wanted.extend(key),
                    None => wanted.extend(dbs.iter().filter_map(|db| key_of(reader.id, *db))),
                }
            }
            spread.push(Spread { primary, over });
        }
        *self.spread.borrow_mut() = spread;
        wanted
    }

    /// The keys of connections to replicas that there are, be they read from now or not. Called often.
    pub fn known(&self, is_cluster: bool, dbs: &[u32]) -> Vec<u32> {
        let list = self.readers.list();
        let replicas = list.iter().filter(|reader| reader.is_replica());
        let keys = replicas.flat_map(|reader| match is_cluster {
            true => vec![u32::from(reader.id)],
            false => dbs.iter().filter_map(|db| key_of(reader.id, *db)).collect(),
        });
        keys.collect()
    }

    /// The key of the connection for a read of this name; `None`: that of the primary.
    fn key(&self, primary: Option<NodeId>, db: u32, name: &[u8]) -> Option<u32> {
        let spread = self.spread.borrow();
        let over = &spread.iter().find(|spread| spread.primary == primary)?.over;
        let nth = name_hash(name) % (over.len().max(1) as u64);
        let key = (*over.get(nth as usize)?)?;
        match primary {
            Some(_) => Some(key),
            None => key_of(replica_of(key)?.0, db),
        }
    }
}

/// The connection over which a request goes that may be answered by a replica; `None`: by the primary alone, at least now.
#[inline]
pub fn link(worker: &Worker, client: &Client, request: &Request<'_>) -> Option<Rc<Link>> {
    let reading = worker.reading.as_ref()?;
    if !is_pure_read(request.spec) {
        return None;
    }
    let mut first = None;
    let _ = request.spec.keys(request.args, &mut |name| {
        first.get_or_insert(name);
    });
    link_for(worker, reading, client, request.slot, first?)
}

/// Whether a replica can do it as well as the primary.
pub fn is_pure_read(spec: &Spec) -> bool {
    // Such as that of TOUCH: how soon the primary evicts the key.
    let has_effect = spec.cache == Cache::Never(NotCached::Effect);
    spec.access == Access::Read && !spec.runs_code() && !has_effect
}

/// The same for a read of this name.
pub fn link_for(worker: &Worker, reading: &Reading, client: &Client, slot: u16, name: &[u8]) -> Option<Rc<Link>> {
    let mut state = client.state.borrow_mut();
    if state.road != Road::Main {
        return None;
    }
    let (primary, db) = match &worker.cluster {
        None => (None, state.db),
        Some(_) if slot == NO_SLOT => return None,
        Some(view) => {
            if view.cluster.is_moving(slot) || !view.may_go_on(&mut state) {
                return None;
            }
            (Some(view.node_for(slot).ok()?), 0)
        }
    };
    let link = worker.existing(reading.key(primary, db, name)?)?;
    (link.is_up() && link.is_open()).then_some(link)
}

/// Which node a read of this name would be sent to, for people.
pub fn explain(worker: &Worker, slot: u16, db: u32, name: &[u8]) -> Option<String> {
    let reading = worker.reading.as_ref()?;
    let primary = match &worker.cluster {
        None => None,
        Some(view) => Some(view.node_for(slot).ok()?),
    };
    let key = reading.key(primary, db, name);
    let link = key.and_then(|key| worker.existing(key)).filter(|link| link.is_up());
    Some(match link {
        Some(link) => format!("replica {}", link.node()),
        None => "primary".to_owned(),
    })
}
