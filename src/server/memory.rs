//! What the allocator keeps of the memory of the process.

use tikv_jemalloc_ctl::{epoch, stats};

/// Bytes that are not handed out in pages of which others are; 0 where the allocator is not jemalloc. Takes some tens of microseconds.
pub fn unused_bytes() -> usize {
    let read = || {
        epoch::advance().ok()?;
        stats::active::read().ok()?.checked_sub(stats::allocated::read().ok()?)
    };
    read().unwrap_or(0)
}
