use super::super::entry::{Body, Identity, Payload, Reply, Slot, Stamp};
use super::super::expiry::Lifetime;
use super::super::{Expiry, LinkId};
use super::*;

/// A shard's queues with entries of one weight, and room for `room` of them.
struct Rig {
    slab: Slab,
    queues: Queues,
    room: usize,
    slots: std::collections::HashMap<u32, u32>,
}

impl Rig {
    fn new(room: usize) -> Rig {
        Rig {
            slab: Slab::new(),
            queues: Queues::new(Objective::Requests),
            room,
            slots: Default::default(),
        }
    }

    fn read_all(&mut self, tags: impl IntoIterator<Item = u32>) {
        for tag in tags {
            self.read(tag);
        }
    }

    /// A read of `tag`; whether it was a hit.
    fn read(&mut self, tag: u32) -> bool {
        if let Some(&at) = self.slots.get(&tag) {
            let stamp = &mut self.slab[at].stamp;
            stamp.set_frequency(stamp.frequency() + 1);
            return true;
        }
        while self.slots.len() >= self.room {
            let at = self.queues.victim(&mut self.slab).unwrap();
            let weight = self.slab[at].payload.weight();
            self.queues.unlink(&mut self.slab, at, weight);
            let gone = self.slab.take(at);
            self.slots.remove(&gone.tag);
        }
        let queue = self.queues.admit(tag, self.slots.len());
        let lifetime = Lifetime {
            deadline_ms: 1,
            inserted_ms: 0,
            expiry: Expiry::Never,
        };
        let of = Identity {
            hash: tag.into(),
            db: 0,
            name: &tag.to_le_bytes(),
            variant: b"",
        };
        let reply = Reply {
            body: Body::Small(b""),
            is_plain: false,
            lifetime: &lifetime,
        };
        let stamp = Stamp::new(&lifetime, LinkId::PINNED, queue, 0);
        let slot = Slot::new(Payload::new(of, reply, false), tag, 0, stamp);
        let at = self.slab.put(slot).unwrap();
        let weight = self.slab[at].payload.weight();
        self.queues.push(&mut self.slab, at, weight);
        self.slots.insert(tag, at);
        false
    }
}

#[test]
fn nothing_is_evicted_from_nothing() {
    let mut rig = Rig::new(1);
    assert_eq!(rig.queues.victim(&mut rig.slab), None);
}

#[test]
fn what_is_read_often_survives_a_scan() {
    let mut rig = Rig::new(100);
    for _ in 0..4 {
        rig.read_all(1..=50);
    }
    rig.read_all(1000..3000);
    assert!((1..=50).all(|tag| rig.read(tag)));
}

#[test]
fn a_quick_return_enters_the_main_queue() {
    let mut rig = Rig::new(100);
    rig.read_all(1..=101);
    assert!(!rig.slots.contains_key(&1));
    rig.read(1);
    assert_eq!(rig.slab[rig.slots[&1]].stamp.queue(), Queue::Main);
    rig.read_all(1000..1300);
    assert!(rig.slots.contains_key(&1), "although it was not read again");
}

#[test]
fn bytes_are_counted_as_they_come_and_go() {
    let mut rig = Rig::new(50);
    let mut rng = fastrand::Rng::with_seed(1);
    for _ in 0..5000 {
        rig.read(rng.u32(1..200));
    }
    let weight: usize = rig.slots.values().map(|&at| bytes_of(&rig.slab[at])).sum();
    assert_eq!(rig.queues.small.bytes + rig.queues.main.bytes, weight);
    while let Some(at) = rig.queues.victim(&mut rig.slab) {
        let weight = rig.slab[at].payload.weight();
        rig.queues.unlink(&mut rig.slab, at, weight);
        rig.slab.take(at);
    }
    assert_eq!(
        (rig.queues.small.bytes, rig.queues.main.bytes, rig.slab.occupied()),
        (0, 0, 0)
    );
    assert_eq!((rig.queues.small.head, rig.queues.main.tail), (NIL, NIL));
}

#[test]
fn bursts_lengthen_the_small_queue_and_a_steady_set_shortens_it() {
    let mut rig = Rig::new(200);
    let mut rng = fastrand::Rng::with_seed(3);
    // Read once more before long, often after it has left a small queue of a tenth, and then hardly ever.
    for tag in 100..40_000 {
        rig.read(tag);
        rig.read(tag - rng.u32(1..80));
    }
    let bursty = rig.queues.part;
    assert!(bursty > 0.2, "{bursty}");
    for fresh in 100_000..200_000 {
        rig.read(rng.u32(50_000..50_300));
        rig.read(fresh);
    }
    assert!(rig.queues.part < bursty / 2.0, "{}", rig.queues.part);
}

#[test]
fn a_search_for_a_victim_is_bounded_even_if_everything_was_hit() {
    let mut rig = Rig::new(5000);
    rig.read_all(1..=5000);
    for _ in 0..3 {
        rig.read_all(1..=5000);
    }
    let main = rig.queues.main.entries;
    assert!(rig.queues.victim(&mut rig.slab).is_some());
    assert!(rig.queues.main.entries <= main + MOST_MOVES);
}
