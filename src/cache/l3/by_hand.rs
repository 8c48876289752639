//! The store without its threads, for whoever wants to decide what happens when: models and schedules.

use std::sync::Arc;

use super::Store;
use super::reader::ReadQueue;
use super::recovery::{self, Leftovers};
use super::syncing::Syncer;
use super::writer::Writer;

/// What the threads of the store would do.
pub struct Hand {
    writer: Writer,
    reads: ReadQueue,
}

impl Hand {
    pub(super) fn new(store: &Arc<Store>, found: Leftovers, reads: ReadQueue, now_us: u64) -> Hand {
        let writer = Writer::new(store, found.next_sequence, Syncer::here());
        recovery::run(store, found, now_us, || {});
        Hand { writer, reads }
    }

    /// One turn of the writer. False: there was nothing to write.
    pub fn write(&mut self, now_us: u64) -> bool {
        self.writer.turn(now_us)
    }

    /// Whether anything waits to be written.
    pub fn has_write(&self) -> bool {
        self.writer.has_work()
    }

    /// Whether a read waits.
    pub fn has_read(&self) -> bool {
        self.reads.is_waiting()
    }

    /// One read, and its answer to all who wait for it. False: none waits.
    pub fn read(&mut self) -> bool {
        self.reads.serve_one()
    }
}
