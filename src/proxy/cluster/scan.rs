//! The cursor of a `SCAN` over all nodes: which node, the node's own cursor, and the topology under which the scan began.
//!
//! The nodes are scanned one after the other, by their numbers. A key that is there throughout is returned unless its slot
//! goes from a node that is still to come to one that was scanned already; so, when any slot has gone since the scan began,
//! another round over all nodes follows, and so on until nothing has gone during a round: before a scan ends, all nodes are
//! asked whether something has. What is returned twice by this may be returned twice by any `SCAN`.
//!
//! A cursor is a number of 63 bits: 12 for the node (its number plus one), 11 for the version of the topology, 40 for the
//! cursor of the node.

use crate::upstream::cluster::{NodeId, Topology};

const CURSOR_BITS: u32 = 40;
const VERSION_BITS: u32 = 11;
const NODE_BITS: u32 = 12;

/// Where a scan is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    pub node: NodeId,
    /// The low bits of the version.
    version: u64,
    pub cursor: u64,
}

impl Place {
    /// What a client's cursor means; 0 begins. `None`: it is none of ours, or there is no node.
    pub fn decode(text: &[u8], topology: &Topology) -> Option<Place> {
        let number: u64 = std::str::from_utf8(text).ok()?.parse().ok()?;
        if number == 0 {
            return Place::first(topology);
        }
        let node = (number >> (CURSOR_BITS + VERSION_BITS)).checked_sub(1)?;
        let place = Place {
            node: NodeId::try_from(node)
                .ok()
                .filter(|node| u64::from(*node) < (1 << NODE_BITS) - 1)?,
            version: number >> CURSOR_BITS & mask(VERSION_BITS),
            cursor: number & mask(CURSOR_BITS),
        };
        if topology.primaries.contains(&place.node) {
            return Some(place);
        }
        // It has no slots any more; whoever has them was or will be scanned, or another round follows.
        place.next_node(topology).or_else(|| Place::first(topology))
    }

    /// The beginning of a round.
    pub fn first(topology: &Topology) -> Option<Place> {
        Some(Place {
            node: *topology.primaries.first()?,
            version: topology.version & mask(VERSION_BITS),
            cursor: 0,
        })
    }

    fn next_node(self, topology: &Topology) -> Option<Place> {
        let node = *topology.primaries.iter().find(|id| **id > self.node)?;
        Some(Place {
            node,
            cursor: 0,
            ..self
        })
    }

    /// Where the scan goes on after the node has returned this cursor; `None`: it has ended.
    pub fn after(self, returned: u64, topology: &Topology) -> Option<Place> {
        if returned != 0 {
            return Some(Place {
                cursor: returned,
                ..self
            });
        }
        self.next_node(topology).or_else(|| {
            let is_same = self.version == topology.version & mask(VERSION_BITS);
            if is_same { None } else { Place::first(topology) }
        })
    }

    /// For the client. `None`: the node's cursor does not fit.
    pub fn encode(self) -> Option<u64> {
        let node = u64::from(self.node) + 1;
        (self.cursor <= mask(CURSOR_BITS))
            .then_some(node << (CURSOR_BITS + VERSION_BITS) | self.version << CURSOR_BITS | self.cursor)
    }
}

const fn mask(bits: u32) -> u64 {
    (1 << bits) - 1
}

#[cfg(test)]
mod tests;
