//! L2, the upstream Redis: how it is reached, the shared connections that carry everybody's requests, the pool of
//! connections for clients whose state lives in theirs, who the primary is where Sentinel knows, who has which slot in a cluster, and the private server that
//! is started when none is given.
//!
//! Knows nothing of the cache: the reader of a shared connection applies pushes and replies through the [`Sink`]
//! that it is handed.
//!
//! [`Sink`]: connection::Sink

pub mod breaker;
pub mod cluster;
pub mod connection;
pub mod dial;
pub mod embedded;
pub mod exchange;
pub mod facts;
pub mod frames;
mod handshake;
pub mod info;
pub mod occasional;
pub mod pool;
pub mod readers;
pub mod sentinel;
pub mod spoken;
pub mod tls;
