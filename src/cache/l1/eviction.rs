//! Which entry goes when the budget is spent: S3-FIFO (Yang and others, "FIFO queues are all you need for cache eviction",
//! SOSP 2023), with queues that are links in the slots. A hit only raises two bits.
//!
//! New entries wait in a small queue; what was hit twice there moves on to the main queue, the rest goes and leaves its tag
//! in the ghost, so that a quick return enters the main queue. In the main queue a hit buys another round. Two things are
//! added to the paper:
//! - *The small queue's part of the bytes adapts*, by the shadows of both queues: tags of what each let go lately, equally
//!   many. A read that finds one says which queue should have been longer (Cidon and others, "Cliffhanger", NSDI 2016).
//!   Bursts, whose keys return soon or never, ask for a long small queue.
//! - *Size decides* where misses count ([`Objective::Requests`]): an entry pays for its stay by its size relative to the
//!   root mean square of all, twice that in hits for its promotion and less for each round, the less the more sizes differ.
//!   What is smaller than a hit is paid by chance, so that entries stay in proportion to hits by size, as under
//!   Greedy-Dual-Size-Frequency, without its heap. Where all are equal, this is the paper's rule. The exponent and the
//!   discount of the rounds are those with the fewest misses on three traces of web servers and a disk.

mod ghost;

use super::Objective;
use super::entry::{NIL, Queue, Slot};
use super::slab::Slab;
use ghost::{Ghost, Shadow};

pub(super) struct Queues {
    small: Fifo,
    main: Fifo,
    objective: Objective,
    /// The small queue's part of the bytes, within [`PART`].
    part: f64,
    ghost: Ghost,
    left_small: Shadow,
    left_main: Shadow,
    chance: Chance,
}

/// Hits in the small queue that carry an entry of mean size into the main one.
const PROMOTE_AT: f64 = 2.0;

const PART: std::ops::RangeInclusive<f64> = 0.05..=0.5;
const FIRST_PART: f64 = 0.1;
/// What a find in a shadow adds to the part, or takes away, times the number of entries.
const STEP: f64 = 0.2;

/// Entries that one search for a victim moves at most; where all of them were hit, the next one goes nevertheless. It takes
/// more only when nearly everything is hit again and again, and then it hardly matters which goes.
const MOST_MOVES: usize = 128;

impl Queues {
    pub fn new(objective: Objective) -> Queues {
        Queues {
            small: Fifo::EMPTY,
            main: Fifo::EMPTY,
            objective,
            part: FIRST_PART,
            ghost: Ghost::new(),
            left_small: Shadow::new(),
            left_main: Shadow::new(),
            chance: Chance { round: 0, moved: 0 },
        }
    }

    /// Where a new entry of `tag` belongs, beside `entries` others.
    pub fn admit(&mut self, tag: u32, entries: usize) -> Queue {
        let step = || STEP / entries.max(1) as f64;
        if self.left_small.forget(tag) {
            self.part = (self.part + step()).min(*PART.end());
        }
        if self.left_main.forget(tag) {
            self.part = (self.part - step()).max(*PART.start());
        }
        if self.ghost.forget(tag) {
            Queue::Main
        } else {
            Queue::Small
        }
    }

    /// Puts the slot at the head of the queue that its stamp names.
    pub fn push(&mut self, slab: &mut Slab, at: u32, weight: usize) {
        self.fifo(slab[at].stamp.queue()).push(slab, at, weight);
    }

    pub fn unlink(&mut self, slab: &mut Slab, at: u32, weight: usize) {
        self.fifo(slab[at].stamp.queue()).unlink(slab, at, weight);
    }

    /// An entry was moved from one place to another, its neighbours not yet knowing.
    pub fn relocated(&mut self, slab: &mut Slab, to: u32) {
        let (newer, older) = (slab[to].newer, slab[to].older);
        let fifo = self.fifo(slab[to].stamp.queue());
        match newer {
            NIL => fifo.head = to,
            newer => slab[newer].older = to,
        }
        match older {
            NIL => fifo.tail = to,
            older => slab[older].newer = to,
        }
    }

    /// The next entry to go. It is still linked; the caller drops it.
    pub fn victim(&mut self, slab: &mut Slab) -> Option<u32> {
        for _ in 0..MOST_MOVES {
            let at = self.due()?;
            let slot = &slab[at];
            let (weight, bytes) = (slot.payload.weight(), bytes_of(slot));
            let (frequency, is_small) = (slot.stamp.frequency(), slot.stamp.queue() == Queue::Small);
            if is_small && f64::from(frequency) < PROMOTE_AT && !self.is_below_mean(bytes) {
                // The price is PROMOTE_AT or more. Most victims are of this kind.
                break;
            }
            let price = match (self.objective, is_small) {
                (Objective::Requests, true) => PROMOTE_AT * self.prices().size(bytes),
                (Objective::Requests, false) => {
                    let prices = self.prices();
                    prices.discount * prices.size(bytes)
                }
                (Objective::Bytes, true) => PROMOTE_AT,
                (Objective::Bytes, false) => 1.0,
            };
            let draw = self.chance.of(slot.payload.address(), self.main.bytes);
            let price = (price + draw) as u32;
            if u32::from(frequency) < price {
                break;
            }
            if !is_small {
                self.chance.turn(bytes, self.main.bytes);
            }
            self.unlink(slab, at, weight);
            let stamp = &mut slab[at].stamp;
            stamp.set_frequency(match is_small {
                true => 0,
                // Not more than the frequency, since it is paid.
                false => frequency - price as u8,
            });
            stamp.set_queue(Queue::Main);
            self.push(slab, at, weight);
        }
        let at = self.due()?;
        let (tag, entries) = (slab[at].tag, slab.occupied());
        if slab[at].stamp.queue() == Queue::Small {
            self.ghost.remember(tag, entries);
            self.left_small.remember(tag, entries);
        } else {
            self.left_main.remember(tag, entries);
        }
        Some(at)
    }

    /// An entry ends for another reason than eviction. One that had proved itself enters the main queue when it is filled
    /// again: that its value changed says nothing against its popularity.
    pub fn ended(&mut self, slab: &Slab, at: u32) {
        let stamp = &slab[at].stamp;
        if stamp.queue() == Queue::Main || f64::from(stamp.frequency()) >= PROMOTE_AT {
            self.ghost.remember(slab[at].tag, slab.occupied());
        }
    }

    /// Bytes of ghost and shadows; the queues themselves take none.
    pub fn bytes(&self) -> usize {
        self.ghost.bytes() + self.left_small.bytes() + self.left_main.bytes()
    }

    /// Gives back what is far more than `entries` need; a large ghost forgets what it remembers.
    pub fn shrink(&mut self, entries: usize) {
        self.ghost.shrink(entries);
        self.left_small.shrink(entries);
        self.left_main.shrink(entries);
    }

    /// The tail of the queue that has to give.
    fn due(&self) -> Option<u32> {
        let is_small_due = self.small.bytes as f64 > self.part * (self.small.bytes + self.main.bytes) as f64;
        match (self.small.tail, self.main.tail) {
            (NIL, NIL) => None,
            (small, main) if main == NIL || (is_small_due && small != NIL) => Some(small),
            (_, main) => Some(main),
        }
    }

    /// Whether an entry of so many bytes is smaller than the root mean square of all.
    fn is_below_mean(&self, bytes: usize) -> bool {
        let count = (self.small.entries + self.main.entries) as u128;
        square(bytes) * count < self.small.squares + self.main.squares
    }

    fn prices(&self) -> Prices {
        let count = (self.small.entries + self.main.entries) as f64;
        let bytes = (self.small.bytes + self.main.bytes) as f64;
        let mean_square = (self.small.squares + self.main.squares) as f64 / count;
        let root_mean_square = mean_square.sqrt();
        Prices {
            root_mean_square,
            discount: bytes / count / root_mean_square,
        }
    }

    fn fifo(&mut self, queue: Queue) -> &mut Fifo {
        match queue {
            Queue::Main => &mut self.main,
            Queue::Small | Queue::None => &mut self.small,
        }
    }
}

/// What an entry takes beside the index.
fn bytes_of(slot: &Slot) -> usize {
    slot.payload.weight() + size_of::<Slot>()
}

fn square(bytes: usize) -> u128 {
    (bytes as u128).pow(2)
}

struct Prices {
    /// Of the sizes of all entries.
    root_mean_square: f64,
    /// Of the rounds in the main queue: 1 where all sizes are equal.
    discount: f64,
}

impl Prices {
    fn size(&self, bytes: usize) -> f64 {
        (bytes as f64 / self.root_mean_square).powf(1.4)
    }
}

/// A queue of slots and the weight of what is in it.
struct Fifo {
    head: u32,
    tail: u32,
    bytes: usize,
    entries: usize,
    /// Of the bytes of each.
    squares: u128,
}

impl Fifo {
    const EMPTY: Fifo = Fifo {
        head: NIL,
        tail: NIL,
        bytes: 0,
        entries: 0,
        squares: 0,
    };

    /// `weight` is that of the slot's payload.
    fn push(&mut self, slab: &mut Slab, at: u32, weight: usize) {
        let slot = &mut slab[at];
        (slot.newer, slot.older) = (NIL, self.head);
        let bytes = weight + size_of::<Slot>();
        self.bytes += bytes;
        self.entries += 1;
        self.squares += square(bytes);
        match self.head {
            NIL => self.tail = at,
            head => slab[head].newer = at,
        }
        self.head = at;
    }

    fn unlink(&mut self, slab: &mut Slab, at: u32, weight: usize) {
        let slot = &slab[at];
        let (newer, older) = (slot.newer, slot.older);
        let bytes = weight + size_of::<Slot>();
        self.bytes -= bytes;
        self.entries -= 1;
        self.squares -= square(bytes);
        match newer {
            NIL => self.head = older,
            newer => slab[newer].older = older,
        }
        match older {
            NIL => self.tail = newer,
            older => slab[older].newer = newer,
        }
    }
}

/// In so short a queue 64 KiB of neighbours would be too large a part to share a lot; 4 KiB are a page.
const FEW_BYTES: usize = 512 << 10;

/// Chance that entries which lie side by side in memory share: survivors scattered over the allocator's pages would keep
/// them from what comes next.
struct Chance {
    /// How often the main queue has gone round.
    round: u64,
    /// Bytes that moved in this round.
    moved: usize,
}

impl Chance {
    /// From 0 up to, but not, 1, another one in each round, for an entry at this address, whose queue has so many bytes.
    fn of(&self, address: usize, bytes: usize) -> f64 {
        let region = address >> if bytes < FEW_BYTES { 12 } else { 16 };
        let mut mixed = (region as u64 ^ self.round << 48).wrapping_add(0x9e37_79b9_7f4a_7c15);
        // The finalizer of SplitMix64 (Steele, Lea and Flood 2014).
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^= mixed >> 31;
        (mixed >> 32) as f64 / (1u64 << 32) as f64
    }

    /// An entry of the main queue, which has so many bytes in all, moved to its head.
    fn turn(&mut self, bytes: usize, all: usize) {
        self.moved += bytes;
        if self.moved >= all {
            (self.moved, self.round) = (0, self.round + 1);
        }
    }
}

#[cfg(test)]
mod tests;
