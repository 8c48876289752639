//! Which node has which slot, as a value: immutable, replaced by a newer one as a whole.

use super::nodes::Seen;
use crate::command::slot::SLOTS;
use crate::config::Endpoint;

/// Names a node of the cluster, by its address, for the life of the process.
pub type NodeId = u16;

/// Nobody has the slot, as far as is known.
pub const NOBODY: NodeId = NodeId::MAX;

#[derive(Clone, Debug)]
pub struct Topology {
    /// Grows with every change; 0: nothing is known yet.
    pub version: u64,
    /// The node of each slot, and the epoch in which it has won it.
    owners: Box<[(NodeId, u64)]>,
    /// Nodes that have slots, ascending.
    pub primaries: Vec<NodeId>,
    /// Those of them that the cluster holds for dead.
    pub failed: Vec<NodeId>,
    pub replicas: Vec<Replica>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Replica {
    pub endpoint: Endpoint,
    /// Whose slots it has; `None`: of nobody who has any.
    pub primary: Option<NodeId>,
}

impl Default for Topology {
    fn default() -> Self {
        Topology {
            version: 0,
            owners: vec![(NOBODY, 0); usize::from(SLOTS)].into(),
            primaries: Vec::new(),
            failed: Vec::new(),
            replicas: Vec::new(),
        }
    }
}

impl Topology {
    /// The node of a slot, or [`NOBODY`].
    #[inline]
    pub fn owner(&self, slot: u16) -> NodeId {
        self.owners.get(usize::from(slot)).map_or(NOBODY, |owner| owner.0)
    }

    /// How many slots have a node.
    pub fn assigned(&self) -> usize {
        self.owners.iter().filter(|owner| owner.0 != NOBODY).count()
    }

    /// A slot of this node.
    pub fn a_slot_of(&self, node: NodeId) -> Option<u16> {
        let at = self.owners.iter().position(|owner| owner.0 == node)?;
        u16::try_from(at).ok()
    }

    /// The topology after a node has said what it sees, and the nodes that have lost or won slots by it. `trusts` believes it
    /// all; otherwise a claim of an earlier epoch than the known one is the word of somebody who has not heard yet.
    /// `None`: it is no news.
    pub fn after(
        &self,
        seen: &[Seen],
        mut number: impl FnMut(&Endpoint) -> Option<NodeId>,
        trusts: bool,
    ) -> Option<(Topology, Vec<NodeId>)> {
        let mut new = self.clone();
        let primaries = || seen.iter().filter(|seen| seen.is_primary && !seen.slots.is_empty());
        let mut named = Vec::new();
        for seen in primaries() {
            if let Some(id) = seen.endpoint.as_ref().and_then(&mut number) {
                named.push((id, seen));
            }
        }
        let is_still_primary = |id: NodeId| named.iter().any(|(named, seen)| *named == id && !seen.is_failed);
        for (id, seen) in &named {
            for &(first, last) in &seen.slots {
                for slot in first..=last {
                    let (owner, epoch) = self.owners[usize::from(slot)];
                    if trusts || seen.epoch >= epoch || !is_still_primary(owner) {
                        new.owners[usize::from(slot)] = (*id, seen.epoch);
                    }
                }
            }
        }
        let mut changed = Vec::new();
        for (old, new) in self.owners.iter().zip(&new.owners).filter(|(old, new)| old != new) {
            for id in [old.0, new.0] {
                if id != NOBODY && !changed.contains(&id) {
                    changed.push(id);
                }
            }
        }
        new.primaries = new
            .owners
            .iter()
            .map(|owner| owner.0)
            .filter(|id| *id != NOBODY)
            .collect();
        new.primaries.sort_unstable();
        new.primaries.dedup();
        new.failed = named
            .iter()
            .filter(|(id, seen)| seen.is_failed && new.primaries.contains(id))
            .map(|(id, _)| *id)
            .collect();
        let replicas = seen.iter().filter(|seen| !seen.is_primary && !seen.is_failed);
        new.replicas = replicas
            .filter_map(|replica| {
                let primary = named.iter().find(|(_, seen)| seen.id == replica.follows);
                Some(Replica {
                    endpoint: replica.endpoint.clone()?,
                    primary: primary.map(|(id, _)| *id).filter(|id| new.primaries.contains(id)),
                })
            })
            .collect();
        new.replicas.sort();
        let is_news = !changed.is_empty() || new.failed != self.failed || new.replicas != self.replicas;
        // A slot that goes is another version; a node that is in trouble is not.
        if !changed.is_empty() {
            new.version += 1;
        }
        is_news.then_some((new, changed))
    }
}

#[cfg(test)]
mod tests;
