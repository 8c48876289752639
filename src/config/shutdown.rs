//! How the proxy ends. Read once at start; immutable afterwards.

use super::Printed;
use super::reader::{Reader, print_length};
use std::time::Duration;

/// The settings of a graceful end.
#[derive(Clone, Debug, PartialEq)]
pub struct Shutdown {
    /// How long requests already received may take to be answered; default 10 s, minimum 0 (at once).
    pub drain_timeout: Duration,
}

impl Default for Shutdown {
    fn default() -> Self {
        Self {
            drain_timeout: Duration::from_secs(10),
        }
    }
}

impl Shutdown {
    pub(super) fn read(reader: &mut Reader) -> Self {
        Self {
            drain_timeout: reader.length("shutdown.drain_timeout", Self::default().drain_timeout, Duration::ZERO),
        }
    }

    pub(super) fn settings(&self) -> Vec<Printed> {
        vec![("drain_timeout", print_length(self.drain_timeout))]
    }
}
