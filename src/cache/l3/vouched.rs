//! How long ago an entry of an earlier life was last known to be true, for those who take stale entries.
//!
//! While the process runs it notes here until when all of its links have vouched for what they filled, and when one of them was
//! lost: what was filled before that was vouched for until then and no longer. A file beside the segments keeps it for the next
//! process. Whatever is not in there (the list is short, the file may be missing) makes entries older, never younger: then
//! what counts is when they were filled.
//!
//! The file also keeps the store's clock from going back when somebody sets that of the machine: a process continues no earlier
//! than where the last one was seen, and in the same life of the machine at the speed of its time since it was started. In another
//! life of it nobody knows how much time has passed, and nothing is used of what is there.
//!
//! ```text
//! file "vouched"  0 magic "NCL3VCH\n"   8 version u32 = 1   12 count u32 of intervals
//!                16 boot u64: which life of the machine, 0 if not known   24 its age, ms   32 the store's clock, ms
//!                40 intervals, oldest first: since u64, vouched until u64, ms of the store's clock
//!                   checksum u64 (XXH3, seed 0) of all that
//! ```

use std::collections::VecDeque;
use std::io;

use xxhash_rust::xxh3::xxh3_64;

use super::format::numbers::{u32_at, u64_at};
use super::storage::{SegmentFile, Storage, read_up_to};
use super::{L3, Store};

/// Which life of the machine this is, and how old that was at 0 µs of the process's clock.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Boot {
    pub id: u64,
    pub age_ms: u64,
}

const NAME: &str = "vouched";
const MAGIC: &[u8; 8] = b"NCL3VCH\n";
const VERSION: u32 = 1;
const HEAD_BYTES: usize = 40;
const INTERVAL_BYTES: usize = 16;
const SUM_BYTES: usize = 8;
const MOST_INTERVALS: usize = 16;
/// Longer than a fill is under way: what it brought was true when the server sent it.
const FILL_MS: u64 = 10_000;
/// How often the file is written, unless a link was lost.
const PERIOD_MS: u64 = 500;
/// By so much the clock is behind now and then without having been set.
const USUAL_MS: u64 = 100;
/// Times of entries are rounded up, and the end of an interval is not to be before them.
const ROUNDING_MS: u64 = 2;

#[derive(Default)]
pub(super) struct Vouched {
    intervals: VecDeque<Interval>,
    /// Of this life; `None` before the first look.
    losses: Option<u64>,
    written_ms: u64,
    is_due: bool,
    file: Option<Box<dyn SegmentFile>>,
}

/// Between two losses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Interval {
    since_ms: u64,
    /// Everything that was filled in it was true at this time; 0: not known.
    vouched_ms: u64,
}

/// Where the clocks were.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
struct Clocks {
    boot: u64,
    age_ms: u64,
    unix_ms: u64,
}

impl L3 {
    /// So many epochs of links have ended with their connection until now, and before that all links that were up had vouched
    /// for what they filled until `all_vouched_us` (`None`: none was up, or that is not known). To be told several times a
    /// second, where links vouch for entries at all.
    pub fn vouch(&self, losses: u64, all_vouched_us: Option<u64>, now_us: u64) {
        let store = &self.store;
        store.vouched.lock().note_at(
            losses,
            all_vouched_us.map(|us| store.unix_ms(us)),
            store.unix_ms(now_us),
        );
    }
}

impl L3 {
    /// For how long nobody has vouched for anything that is there. `None`: nobody ever has, as far as is known.
    pub fn unvouched_us(&self, now_us: u64) -> Option<u64> {
        let vouched = self.store.vouched.lock();
        let last_ms = vouched.intervals.iter().map(|interval| interval.vouched_ms).max()?;
        (last_ms > 0).then(|| self.store.unix_ms(now_us).saturating_sub(last_ms).saturating_mul(1000))
    }
}

impl Vouched {
    pub fn note_at(&mut self, losses: u64, vouched_ms: Option<u64>, now_ms: u64) {
        if self.losses.replace(losses) != Some(losses) {
            if self.intervals.len() == MOST_INTERVALS {
                self.intervals.pop_front();
            }
            self.intervals.push_back(Interval {
                since_ms: now_ms.saturating_add(ROUNDING_MS),
                vouched_ms: 0,
            });
            self.is_due = true;
        } else if let (Some(vouched_ms), Some(last)) = (vouched_ms, self.intervals.back_mut()) {
            last.vouched_ms = last.vouched_ms.max(vouched_ms);
        }
    }

    /// When an entry that was filled at this time was last known to be true.
    pub fn of(&self, filled_ms: u64) -> u64 {
        let own = self
            .intervals
            .iter()
            .rev()
            .find(|interval| interval.since_ms < filled_ms);
        match own {
            Some(interval) if interval.vouched_ms >= filled_ms => interval.vouched_ms,
            _ => filled_ms.saturating_sub(FILL_MS),
        }
    }

    fn encode(&self, clocks: Clocks) -> Vec<u8> {
        let mut out = MAGIC.to_vec();
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&(self.intervals.len() as u32).to_le_bytes());
        let intervals = self.intervals.iter().flat_map(|one| [one.since_ms, one.vouched_ms]);
        for number in [clocks.boot, clocks.age_ms, clocks.unix_ms]
            .into_iter()
            .chain(intervals)
        {
            out.extend_from_slice(&number.to_le_bytes());
        }
        let sum = xxh3_64(&out);
        out.extend_from_slice(&sum.to_le_bytes());
        out
    }

    fn decode(bytes: &[u8]) -> Option<(Vouched, Clocks)> {
        let (head, _) = bytes.split_first_chunk::<HEAD_BYTES>()?;
        let is_known = head.starts_with(MAGIC) && u32_at(head, 8) == VERSION;
        let count = Some(u32_at(head, 12) as usize).filter(|&count| is_known && count <= MOST_INTERVALS)?;
        let (told, sum) = bytes.split_at_checked(HEAD_BYTES + INTERVAL_BYTES * count)?;
        if sum.len() < SUM_BYTES || u64_at(sum, 0) != xxh3_64(told) {
            return None;
        }
        let (intervals, _) = told[HEAD_BYTES..].as_chunks::<INTERVAL_BYTES>();
        let intervals = intervals.iter().map(|bytes| Interval {
            since_ms: u64_at(bytes, 0),
            vouched_ms: u64_at(bytes, 8),
        });
        let clocks = Clocks {
            boot: u64_at(head, 16),
            age_ms: u64_at(head, 24),
            unix_ms: u64_at(head, 32),
        };
        let vouched = Vouched {
            intervals: intervals.collect(),
            ..Vouched::default()
        };
        Some((vouched, clocks))
    }
}

impl Clocks {
    fn is_of_boot_of(self, now: Clocks) -> bool {
        self.boot != 0 && self.boot == now.boot
    }

    /// What the store's clock must not be behind of now.
    fn least_ms(self, now: Clocks) -> u64 {
        let passed_ms = if self.is_of_boot_of(now) {
            now.age_ms.saturating_sub(self.age_ms)
        } else {
            0
        };
        self.unix_ms.saturating_add(passed_ms)
    }
}

impl Store {
    /// Before anything else is read: what an earlier process has left, by which the clock goes on.
    pub(super) fn remember(&self, now_us: u64) {
        let Some((vouched, clocks)) = self.read_vouched() else {
            return;
        };
        let now = self.clocks(now_us);
        let behind_ms = clocks.least_ms(now).saturating_sub(now.unix_ms);
        if behind_ms > 0 {
            // The two clocks of the machine are not read at the same moment, and one is corrected all the time.
            if behind_ms > USUAL_MS {
                tracing::warn!(
                    behind_ms,
                    "L3: the clock was set back, and goes on where it was for what is on the disk"
                );
            }
            self.ahead_ms.fetch_add(behind_ms, std::sync::atomic::Ordering::Relaxed);
            // Nor does anybody know for how long the machine was off.
            if !clocks.is_of_boot_of(now)
                && let Some(voided) = &mut *self.voided.lock()
            {
                voided.is_all = true;
            }
        }
        *self.vouched.lock() = vouched;
    }

    fn read_vouched(&self) -> Option<(Vouched, Clocks)> {
        let file = self.storage.open(NAME).ok()?;
        let mut bytes = vec![0; HEAD_BYTES + INTERVAL_BYTES * MOST_INTERVALS + SUM_BYTES];
        let read = read_up_to(&*file, &mut bytes, 0).ok()?;
        Vouched::decode(&bytes[..read])
    }

    fn clocks(&self, now_us: u64) -> Clocks {
        let boot = self.config.boot;
        Clocks {
            boot: boot.map_or(0, |boot| boot.id),
            age_ms: boot.map_or(0, |boot| boot.age_ms + now_us / 1000),
            unix_ms: self.unix_ms(now_us),
        }
    }

    /// Writes the file if it is time to. What the medium refuses is tried again, and is as if it had never been said.
    pub(super) fn write_vouched(&self, now_us: u64) {
        let now_ms = self.unix_ms(now_us);
        let mut vouched = self.vouched.lock();
        if vouched.losses.is_none() || !vouched.is_due && now_ms < vouched.written_ms.saturating_add(PERIOD_MS) {
            return;
        }
        (vouched.written_ms, vouched.is_due) = (now_ms, false);
        let bytes = vouched.encode(self.clocks(now_us));
        let file = vouched.file.take();
        drop(vouched);
        let file = file.map_or_else(|| create_or_open(&*self.storage), Ok);
        match file.and_then(|file| file.write_all_at(&bytes, 0).map(|()| file)) {
            Ok(file) => self.vouched.lock().file = Some(file),
            Err(error) => tracing::debug!(%error, "L3: it could not be written until when entries were vouched for"),
        }
    }
}

fn create_or_open(storage: &dyn Storage) -> io::Result<Box<dyn SegmentFile>> {
    match storage.open(NAME) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => storage.create(NAME),
        opened => opened,
    }
}

#[cfg(test)]
mod tests;
