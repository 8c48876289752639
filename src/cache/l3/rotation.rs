//! One key after another, while the store works: new segments have the newest, the others keep theirs until they are reclaimed.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::time::{Duration, Instant};

use super::Store;
use super::envelope::{Envelope, random_salt};
use super::format::Header;
use super::keys::{Key, KeyId, KeyRing, Salt, listed};
use super::writer::Writer;

/// Why keys cannot be exchanged.
#[derive(Debug)]
pub enum KeysRefused {
    /// These encrypt segments that are there, and are not among the new ones.
    InUse(Vec<KeyId>),
    /// A segment is being made with the key that counts now, and the medium does not answer.
    Busy,
}

impl std::fmt::Display for KeysRefused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            KeysRefused::InUse(keys) => write!(
                f,
                "segments are still encrypted with {}: give it, too, until nearcache_l3_key_segments says that there is none",
                listed(keys)
            ),
            KeysRefused::Busy => f.write_str("the medium does not answer; try again when it does"),
        }
    }
}

impl std::error::Error for KeysRefused {}

/// Segments are made in less.
const PATIENCE: Duration = Duration::from_millis(200);

impl Store {
    pub(super) fn set_keys(&self, keys: KeyRing) -> Result<(), KeysRefused> {
        let begun = Instant::now();
        // Whoever waited in line would keep those waiting who only read, workers among them.
        let mut current = loop {
            if let Some(current) = self.keys.try_write() {
                break current;
            }
            if begun.elapsed() >= PATIENCE {
                return Err(KeysRefused::Busy);
            }
            std::thread::sleep(Duration::from_millis(1));
        };
        let in_use: Vec<KeyId> = match self.is_recovering.load(SeqCst) {
            // Not all segments are known yet, and any of the keys may be that of one.
            true => current.ids(),
            false => {
                let segments = self.segments.all();
                segments
                    .iter()
                    .filter_map(|segment| segment.envelope.key_id())
                    .collect()
            }
        };
        let mut missing: Vec<KeyId> = in_use.into_iter().filter(|&id| keys.find(id).is_none()).collect();
        missing.sort_unstable();
        missing.dedup();
        if !missing.is_empty() {
            return Err(KeysRefused::InUse(missing));
        }
        *current = Arc::new(keys);
        Ok(())
    }

    pub(super) fn key_segments(&self) -> Vec<(Option<KeyId>, usize)> {
        let segments = self.segments.all();
        let count = |id| {
            segments
                .iter()
                .filter(|segment| segment.envelope.key_id() == id)
                .count()
        };
        let keys = self.keys.read();
        let others = keys.ids().into_iter().map(Some);
        let mut ids: Vec<_> = std::iter::once(None).chain(others).collect();
        if keys.writing().is_none() {
            ids.rotate_left(1);
        }
        ids.into_iter().map(|id| (id, count(id))).collect()
    }
}

impl Writer {
    /// What is written from now on is written with the key that is wanted now.
    pub(super) fn change_keys(&mut self, now_us: u64) {
        let Some(active) = &self.active else { return };
        let wanted = self.store.keys.read().writing().map(|key| key.id());
        if active.segment.envelope.key_id() != wanted {
            self.flush(now_us);
            self.seal(now_us);
        }
    }

    /// The header of the next segment, and what will guard it.
    pub(super) fn header(&mut self, key: Option<&Arc<Key>>, now_us: u64) -> io::Result<(Header, Envelope)> {
        let header = Header {
            sequence: self.next_sequence,
            created_ms: self.store.unix_ms(now_us),
            nonce: self.random.u64(..),
            salt: if key.is_some() { random_salt()? } else { Salt::default() },
            key: key.map(|key| key.id()),
            seed: self.store.seed,
            probe: self.store.probe,
        };
        let envelope = match key {
            Some(key) => Envelope::locked(header.nonce, header.sequence, header.salt, key),
            None => Envelope::plain(header.nonce),
        };
        Ok((header, envelope))
    }
}
