//! Keeping hot keys alive upstream: a server that evicts by use does not see the hits of L1, and takes what is read most here
//! for what nobody reads. So one in so many hits is noted, and its key is marked as used there (`server::touch`).
//!
//! Each worker counts its hits down by itself; what is due goes into one bounded set for all, from which the control runtime
//! takes it about every second. Where the set is full the key is dropped and counted: it will come again if it is hot.

use std::cell::Cell;
use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use parking_lot::Mutex;

use super::worker::Worker;
use crate::cache::Query;

/// Different keys that wait at a time.
const MOST_KEYS: usize = 8192;

/// When a worker's next hit is due.
#[derive(Debug)]
pub struct Sampler {
    /// One in so many; 0: none.
    one_in: u32,
    /// Hits before it; `u32::MAX`: it never is.
    left: Cell<u32>,
}

impl Sampler {
    pub fn new(one_in: usize) -> Sampler {
        let sampler = Sampler {
            one_in: u32::try_from(one_in).unwrap_or(u32::MAX),
            left: Cell::new(u32::MAX),
        };
        sampler.draw();
        sampler
    }

    /// Which of the next hits, counted from 0, is due.
    #[inline]
    pub fn due(&self) -> u32 {
        self.left.get()
    }

    /// By chance, so that no client's rhythm hides a key.
    fn draw(&self) {
        if self.one_in > 0 {
            self.left.set(fastrand::u32(0..=(self.one_in - 1).saturating_mul(2)));
        }
    }

    fn passed(&self, hits: u32) {
        self.left.set(self.left.get().saturating_sub(hits));
    }
}

/// Keys of which the upstream is to be told that they are used.
#[derive(Debug, Default)]
pub struct Touches {
    /// By database. Held to add one or to take all.
    keys: Mutex<HashSet<(u32, Box<[u8]>)>>,
    pub dropped_total: AtomicU64,
    pub sent_total: AtomicU64,
}

impl Touches {
    fn add(&self, db: u32, name: &[u8]) {
        let mut keys = self.keys.lock();
        if keys.len() < MOST_KEYS {
            keys.insert((db, name.into()));
        } else if !keys.contains(&(db, name.into())) {
            self.dropped_total.fetch_add(1, Relaxed);
        }
    }

    pub fn take(&self) -> Vec<(u32, Box<[u8]>)> {
        std::mem::take(&mut *self.keys.lock()).into_iter().collect()
    }
}

impl Worker {
    /// So many keys were answered for from L1; among them was the one that was due, if it is given.
    #[inline]
    pub fn note_hits(&self, db: u32, hits: u32, due: Option<&[u8]>) {
        if self.sampler.one_in > 0 {
            self.note_sample(db, hits, due);
        }
    }

    /// The same of one key.
    #[inline]
    pub fn note_hit(&self, db: u32, name: &[u8]) {
        self.note_hits(db, 1, (self.sampler.due() == 0).then_some(name));
    }

    /// The same of all of these.
    pub fn note_queries(&self, queries: &[Query<'_>]) {
        if let Some(first) = queries.first() {
            let due = queries.get(self.sampler.due() as usize).map(|query| query.name);
            self.note_hits(first.db, queries.len() as u32, due);
        }
    }

    #[cold]
    fn note_sample(&self, db: u32, hits: u32, due: Option<&[u8]>) {
        match due {
            Some(name) => {
                self.shared.touches.add(db, name);
                self.sampler.draw();
            }
            None => self.sampler.passed(hits),
        }
    }
}

#[cfg(test)]
mod tests;
