//! Nobody is ever shown what a write has outdated: every kind of write, by the client itself, by other clients of the
//! proxy and behind the proxy's back, against reads that are hot in the cache of both workers.
//!
//! The rules checked, by `coherent` consistency with its default bound T of one second:
//! - a write acknowledged through the proxy is seen by every client of the proxy from then on, at once;
//! - a write behind the proxy's back is seen within T, in practice within the delay of a push;
//! - what one client sees of one key never goes back, whichever way it reads;
//! - several keys read by one command were equal to that at one moment.

mod links;
mod pipelines;
mod races;
mod silence;
mod world;
mod writes;

use std::time::Duration;

/// The default staleness bound T, and what a busy test machine may add to it.
pub const BOUND: Duration = Duration::from_millis(1000);
pub const SLACK: Duration = Duration::from_millis(400);

/// A command line in words; `_` stands for an empty argument.
pub fn words(line: &str) -> Vec<&str> {
    line.split(' ').map(|w| if w == "_" { "" } else { w }).collect()
}
