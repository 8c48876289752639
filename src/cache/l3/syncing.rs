//! Making files durable: on a thread of its own, since it takes as long as the medium likes, and clients may wait for what the
//! writer writes meanwhile.

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;

use crossbeam::channel::{Sender, bounded};

use super::segments::Segment;
use super::{OpenError, Store};

/// What is to be made durable.
#[derive(Clone)]
pub(super) enum Work {
    Names,
    Segment(Arc<Segment>),
}

/// Who does it.
pub(super) struct Syncer {
    thread: Option<(Sender<Work>, JoinHandle<()>)>,
}

/// What may wait. Behind that the writer waits, too.
const MOST_QUEUED: usize = 16;

impl Syncer {
    /// Whoever asks does it himself, and waits.
    pub fn here() -> Syncer {
        Syncer { thread: None }
    }

    pub fn start(store: &Arc<Store>) -> Result<Syncer, OpenError> {
        let (sender, receiver) = bounded::<Work>(MOST_QUEUED);
        let store = Arc::clone(store);
        let thread = std::thread::Builder::new()
            .name("l3-syncer".to_owned())
            .spawn(move || {
                for work in receiver {
                    if let Err(error) = work.done(&store) {
                        store.unsynced.push((work.name(&store), error));
                    }
                }
            })
            .map_err(|error| OpenError::Io("the syncer's thread does not start".to_owned(), error))?;
        Ok(Syncer {
            thread: Some((sender, thread)),
        })
    }

    /// # Errors
    /// What the medium says, if it is asked at once; otherwise it is in [`Store::unsynced`] later.
    pub fn sync(&self, store: &Store, work: Work) -> io::Result<()> {
        match &self.thread {
            Some((sender, _)) if sender.send(work.clone()).is_ok() => Ok(()),
            _ => work.done(store),
        }
    }

    /// Ends when all of it is done.
    pub fn close(&mut self) {
        if let Some((sender, thread)) = self.thread.take() {
            drop(sender);
            let _ = thread.join();
        }
    }
}

impl Work {
    fn done(&self, store: &Store) -> io::Result<()> {
        match self {
            Work::Names => store.storage.sync_names(),
            Work::Segment(segment) => segment.file.sync(),
        }
    }

    fn name(&self, store: &Store) -> String {
        match self {
            Work::Names => store.storage.place(),
            Work::Segment(segment) => segment.name(),
        }
    }
}
