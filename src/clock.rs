//! One monotonic clock for the whole process, in microseconds.
//!
//! L1 deadlines, epochs and staleness bounds are compared across worker threads, so they must come from
//! one origin. Runs on any thread; a read costs one `clock_gettime`. Units: microseconds since the first
//! call, always at least 1, so that 0 stays free to mean "never". Promises monotonicity, not wall time.

use std::sync::OnceLock;
use std::time::Instant;

/// Microseconds since the process first asked, at least 1.
#[must_use]
pub fn now_us() -> u64 {
    let elapsed = ORIGIN.get_or_init(Instant::now).elapsed();
    u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX - 1) + 1
}

static ORIGIN: OnceLock<Instant> = OnceLock::new();
