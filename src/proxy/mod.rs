//! Every decision about a request: answered here, from L1, by somebody else's read, or by the upstream, on which path and
//! in which order. Runs on the workers, one thread each; what workers share is in [`shared`].
//!
//! The walk of a request: [`request`] decides its path; [`read`] asks L1; [`transaction`] recognises a whole one;
//! [`local`] and its neighbours answer what concerns the proxy; [`replies`] applies what comes back; [`pinned`] follows
//! a client that has an upstream connection of its own; [`pubsub`] has the subscriptions of all the others. [`cluster`] finds the node of each request where there are
//! several. [`outbox`] keeps a client's answers in order.

pub mod client;
mod client_command;
pub mod cluster;
mod flight;
pub mod info;
pub mod invalidation;
mod local;
mod nearcache;
pub mod outbox;
pub mod owed;
pub mod password;
mod pause;
pub mod pinned;
pub mod pubsub;
pub mod read;
pub mod readers;
mod replies;
pub mod request;
pub mod shared;
mod subscriptions;
pub mod touch;
mod transaction;
pub mod transfers;
pub mod waiter;
pub mod worker;

pub use flight::Follower;
