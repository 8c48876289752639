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
    period: usize,
}

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
            // `benches/replay`, L1 1 % and L3 10 %, misses in percent and bytes written of what L1 evicts: as it is 37.7 and 0.49
            // (scarab-recs), 34.1 and 0.47 (oltp); with two thirds of it 38.0 and 0.34, 34.2 and 0.31; with four thirds 33.8
            // and 0.55 (oltp).
            period: words * 12,
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
        if self.counted.fetch_add(1, Relaxed) + 1 == self.period {
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
        self.counted.store(self.period / 2, Relaxed);
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
