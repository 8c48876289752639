//! What the proxy remembers of its upstream, and what makes it forget.
//!
//! `L1` holds replies in memory, the right to fill it (leases) and who waits for a fill; `Links` says what each tracked
//! upstream connection still vouches for. A lookup asks both under one lock. Neither does I/O, knows a runtime or
//! reads a clock: workers call in with the time, and the task that parses an upstream stream applies its pushes and fills
//! before it looks at the next frame. Below L1, where the configuration wants it, is `l3`, a store on the disk with threads of
//! its own: it gets what L1 evicts, and what L1 is told of a key it is told in the same critical section.

mod l1;
pub mod l3;
mod link;
mod name;

pub use l1::{
    Asker, Config as L1Config, Consistency, Decision, Expiry, Explained, Fill, FlightId, FoundBelow, JOINT, L1,
    LeaseId, Leasing, MAX_REPLIES_A_KEY, MOST_PACKED_BYTES, Objective, Own, Packed, Query, Stats, Value, View,
    ViewValue, Wanting, Which,
};
pub use link::{LinkId, Links};
pub use name::{name_hash, name_hash_by, seed_names};
