//! One monotonic clock for the whole process, in microseconds.
//!
//! L1 deadlines, epochs and staleness bounds are compared across worker threads, so they must come from
//! one origin. Runs on any thread; a read costs one `clock_gettime`. Units: microseconds since the first
//! call, always at least 1, so that 0 stays free to mean "never". Promises monotonicity, not wall time.

use std::sync::OnceLock;

use rustix::time::{ClockId, clock_gettime};

/// Microseconds since the process first asked, at least 1.
#[must_use]
pub fn now_us() -> u64 {
    // In plain integers: `Instant` does it in two parts with a carry, at three times the instructions, for each batch.
    let now_us = monotonic_us();
    now_us.saturating_sub(*ORIGIN_US.get_or_init(|| now_us)) + 1
}

fn monotonic_us() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000 + now.tv_nsec as u64 / 1000
}

static ORIGIN_US: OnceLock<u64> = OnceLock::new();
