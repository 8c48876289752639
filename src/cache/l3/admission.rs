//! Which keys were asked for often enough to be worth a write: a count-min sketch of four-bit counters that halves as it
//! ages (Einziger, Friedman, Manes, "TinyLFU: A Highly Efficient Cache Admission Policy", ACM TOS 2017).
//!
//! Shared by all threads without a lock: a word of sixteen counters is one atomic, and a lost update costs one count.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

/// How often a key must have been missed in L1 before its value is worth a write.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Admission {
    All,
    #[default]
    SecondSight,
    ThirdSight,
}

impl Admission {
    fn least(self) -> u64 {
        match self {
            Admission::All => 0,
            Admission::SecondSight => 2,
            Admission::ThirdSight => 3,
        }
    }
}

pub(super) struct Sketch {
    /// One block of 8 words (one cache line) for each key: four counters in it are the key's.
    words: Box<[AtomicU64]>,
    admission: Admission,
    counted: AtomicUsize,
    /// After so many counts all counters are halved.
    period: AtomicUsize,
}

/// After so many counts for each entry of a full store the counters are halved for the first time, and then after half as many
/// each: a key that is missed again only when the store has been filled anew finds its entry gone, so that its write was in vain.
/// `benches/replay`, L1 1 % and L3 10 %, misses in percent and bytes written of what L1 evicts: with 5.5, 7, and as many as the
/// sketch has room for, 43.6 and 0.15, 43.2 and 0.18, 44.6 and 0.48 (shop-weblog); 37.9 and 0.36, 37.6 and 0.46, 37.6 and 0.49
/// (scarab-recs); 34.7 and 0.27, 34.4 and 0.33, 34.0 and 0.47 (oltp).
const COUNTS_AN_ENTRY: usize = 7;
/// What the sketch has room for: of a word's sixteen counters each key takes four, and beyond that strangers pass.
const MOST_A_WORD: usize = 12;
/// A halving looks at each word: with this no more than one for each count, however few entries there are.
const LEAST_A_WORD: usize = 2;

const BLOCK: usize = 8;
const ROWS: u32 = 4;

impl Sketch {
    /// For a store that holds about `entries`. Takes eight bytes for each, at least 64 KiB and at most 32 MiB; nothing for
    /// [`Admission::All`].
    pub fn new(admission: Admission, entries: usize) -> Sketch {
        let words = match admission {
            Admission::All => 0,
            _ => entries.clamp(8 << 10, 4 << 20).next_power_of_two(),
        };
        Sketch {
            words: (0..words).map(|_| AtomicU64::new(0)).collect(),
            admission,
            counted: AtomicUsize::new(0),
            period: AtomicUsize::new(words * MOST_A_WORD),
        }
    }

    /// A key was missed in L1.
    pub fn count(&self, hash: u64) {
        if self.words.is_empty() {
            return;
        }
        // Only those that are lowest: the others have counted somebody else, too.
        let lowest = self.estimate(hash);
        for (word, shift) in self.counters(hash) {
            let now = word.load(Relaxed);
            if (now >> shift) & 15 == lowest && lowest < 15 {
                word.store(now + (1 << shift), Relaxed);
            }
        }
        let counted = self.counted.fetch_add(1, Relaxed) + 1;
        let period = self.period.load(Relaxed);
        // Of those who count at the same time one does it.
        if counted >= period
            && self
                .counted
                .compare_exchange(counted, period / 2, Relaxed, Relaxed)
                .is_ok()
        {
            self.age();
        }
    }

    pub fn admits(&self, hash: u64) -> bool {
        self.words.is_empty() || self.estimate(hash) >= self.admission.least()
    }

    fn estimate(&self, hash: u64) -> u64 {
        let seen = self
            .counters(hash)
            .map(|(word, shift)| word.load(Relaxed) >> shift & 15);
        seen.min().unwrap_or_default()
    }

    pub fn bytes(&self) -> usize {
        size_of_val(&*self.words)
    }

    fn age(&self) {
        for word in &self.words {
            // Each counter moves right by one; the bit that crosses into its neighbour is masked.
            word.store((word.load(Relaxed) >> 1) & 0x7777_7777_7777_7777, Relaxed);
        }
    }

    /// How many entries the store is full with. `None`: there is room left, so that no write is in vain.
    pub fn full_with(&self, entries: Option<usize>) {
        let words = self.words.len();
        let period = entries.map_or(usize::MAX, |entries| entries.saturating_mul(COUNTS_AN_ENTRY));
        self.period
            .store(period.clamp(words * LEAST_A_WORD, words * MOST_A_WORD), Relaxed);
    }

    fn counters(&self, hash: u64) -> impl Iterator<Item = (&AtomicU64, u32)> {
        let spread = hash.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let blocks = self.words.len() / BLOCK;
        let block = if blocks == 0 {
            0
        } else {
            (spread >> 32) as usize & (blocks - 1)
        };
        let block = self.words.get(block * BLOCK..(block + 1) * BLOCK).unwrap_or_default();
        // Two words of the block for each row, and seven bits of the hash to choose one of their counters.
        (0..ROWS).filter_map(move |row| {
            let bits = (spread >> (row * 7)) as usize;
            let word = block.get(row as usize * 2 + (bits & 1))?;
            Some((word, (bits >> 1 & 15) as u32 * 4))
        })
    }
}

#[cfg(test)]
mod tests;
