//! What the proxy remembers of its upstream, and what makes it forget.
//!
//! `L1` holds replies in memory, the right to fill it (leases) and who waits for a fill; `Links` says what each tracked
//! upstream connection still vouches for. A lookup asks both under one lock. Nothing here does I/O, knows a runtime or
//! reads a clock: workers call in with the time, and the task that parses an upstream stream applies its pushes and fills
//! before it looks at the next frame.

mod l1;
pub mod l3;
mod link;

pub use l1::{
    Asker, Config as L1Config, Consistency, Decision, Expiry, Explained, Fill, FlightId, L1, LeaseId, Leasing,
    MAX_REPLIES_A_KEY, Objective, Own, Query, Stats, Value, View, ViewValue, Which, name_hash,
};
pub use link::{LinkId, Links};
