//! When a node of the upstream is given up for a while.
//!
//! Immutable.

use super::reader::{Reader, print_length};
use super::{Printed, integer};
use std::time::Duration;

/// The settings of the breaker, of which each node has its own.
#[derive(Clone, Debug, PartialEq)]
pub struct Breaker {
    /// So many failures in a row open it; default 5, 0 = none does.
    pub failures: usize,
    /// Only failures of this time count; default 10 s, minimum 100 ms.
    pub window: Duration,
    /// From the opening to the first probe; default 500 ms, minimum 10 ms.
    pub pause_min: Duration,
    /// The pause is doubled after each probe that fails, up to this; default 30 s, minimum `pause_min`.
    pub pause_max: Duration,
}

impl Default for Breaker {
    fn default() -> Self {
        Self {
            failures: 5,
            window: Duration::from_secs(10),
            pause_min: Duration::from_millis(500),
            pause_max: Duration::from_secs(30),
        }
    }
}

impl Breaker {
    pub(super) fn read(reader: &mut Reader) -> Self {
        let default = Self::default();
        let ms = Duration::from_millis;
        let breaker = Self {
            failures: reader.number("breaker.failures", default.failures, 0, 1000),
            window: reader.length("breaker.window", default.window, ms(100)),
            pause_min: reader.length("breaker.pause_min", default.pause_min, ms(10)),
            pause_max: reader.length("breaker.pause_max", default.pause_max, ms(10)),
        };
        if breaker.pause_max < breaker.pause_min {
            reader.problem("breaker.pause_max", "must not be less than breaker.pause_min");
        }
        breaker
    }

    pub(super) fn settings(&self) -> Vec<Printed> {
        vec![
            ("failures", integer(self.failures)),
            ("window", print_length(self.window)),
            ("pause_min", print_length(self.pause_min)),
            ("pause_max", print_length(self.pause_max)),
        ]
    }
}
