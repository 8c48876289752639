//! Where a client's requests are that were sent again to another node: what keeps their order when nodes send them on more
//! than once.
//!
//! A node that has sent a request on can serve a later one a moment after. So a request that comes back has lost its place
//! unless every later one on its keys has come behind it: to the node from which it comes, or still waiting to be sent.

use crate::upstream::cluster::NodeId;

/// Of one client, and forgotten when it goes on. In order: each of a thousand requests in flight may ask for all behind it.
#[derive(Debug, Default)]
pub struct Detours(Vec<Detour>);

/// A request, or its part for a slot: where it was sent last; `None`: it waits.
#[derive(Debug)]
struct Detour {
    sequence: u64,
    slot: u16,
    node: Option<NodeId>,
}

impl Detours {
    pub fn note(&mut self, sequence: u64, slot: u16, node: Option<NodeId>) {
        match self.find(sequence, slot) {
            Ok(at) => self.0[at].node = node,
            Err(at) => self.0.insert(at, Detour { sequence, slot, node }),
        }
    }

    /// Whether this one has come behind another that was sent to this node.
    pub fn is_behind(&self, sequence: u64, slot: u16, node: NodeId) -> bool {
        let known = self.find(sequence, slot);
        known.is_ok_and(|known| self.0[known].node.is_none_or(|at| at == node))
    }

    /// Its place, or the one that it would have.
    fn find(&self, sequence: u64, slot: u16) -> Result<usize, usize> {
        self.0
            .binary_search_by_key(&(sequence, slot), |known| (known.sequence, known.slot))
    }

    pub fn forget(&mut self) {
        self.0.clear();
    }
}
