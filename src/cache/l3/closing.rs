//! The end of the store: what is queued is written and the threads end, unless the medium hangs. Nobody's shutdown waits for
//! that: threads that hang end with the process.

use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::L3;

/// For all that is to be written at the end: the queue, a footer and a sync.
const PATIENCE: Duration = Duration::from_secs(5);
/// For the removal of the marker, and for readers, when there is no patience left.
const LEAST: Duration = Duration::from_millis(200);

impl L3 {
    /// Writes what is queued, seals the active segment and ends the threads, within some seconds.
    pub fn close(&self) {
        self.store.is_closing.store(true, SeqCst);
        self.store.wake.unpark();
        let end = Instant::now() + PATIENCE;
        if let Some(thread) = self.writer.lock().take()
            && !ends(thread, end)
        {
            tracing::error!(
                place = self.store.storage.place(),
                "L3: the medium does not answer, and what was to be written is given up"
            );
            let store = Arc::clone(&self.store);
            if let Ok(thread) = std::thread::Builder::new().spawn(move || store.distrust()) {
                let _ = ends(thread, Instant::now() + LEAST);
            }
        }
        let end = end.max(Instant::now() + LEAST);
        self.reads.close(|thread| ends(thread, end));
    }
}

impl Drop for L3 {
    fn drop(&mut self) {
        self.close();
    }
}

/// False: it goes on.
fn ends(thread: JoinHandle<()>, end: Instant) -> bool {
    while !thread.is_finished() {
        if Instant::now() >= end {
            return false;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    thread.join().is_ok()
}
