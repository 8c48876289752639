use super::super::entry::{Body, Identity, Payload, Slot, Stamp};
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
            queues: Queues::new(),
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
            self.queues.unlink(&mut self.slab, at);
            let gone = self.slab.take(at);
            self.slots.remove(&gone.tag);
        }
        let queue = self.queues.admit(tag);
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
        let payload = Payload::new(of, Body::Small(b""), false, &lifetime);
        let stamp = Stamp::new(&lifetime, LinkId::PINNED, queue, 0);
        let slot = Slot {
            payload,
            tag,
            epoch: 0,
            chain: NIL,
            newer: NIL,
            older: NIL,
            stamp,
        };
        let at = self.slab.put(slot).unwrap();
        self.queues.push(&mut self.slab, at);
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
    let weight: usize = rig.slots.values().map(|&at| rig.slab[at].payload.weight()).sum();
    assert_eq!(rig.queues.small.bytes + rig.queues.main.bytes, weight);
    while let Some(at) = rig.queues.victim(&mut rig.slab) {
        rig.queues.unlink(&mut rig.slab, at);
        rig.slab.take(at);
    }
    assert_eq!(
        (rig.queues.small.bytes, rig.queues.main.bytes, rig.slab.occupied()),
        (0, 0, 0)
    );
    assert_eq!((rig.queues.small.head, rig.queues.main.tail), (NIL, NIL));
}

#[test]
fn the_ghost_remembers_about_as_many_tags_as_it_is_asked_to() {
    let mut ghost = Ghost::new();
    assert!(!ghost.forget(5));
    (1..=1000).for_each(|tag| ghost.remember(tag, 1000));
    let kept = (1..=1000).filter(|&tag| ghost.forget(tag)).count();
    assert!(kept > 800, "{kept}");
    assert_eq!((1..=1000).filter(|&tag| ghost.forget(tag)).count(), 0);
    (1..=100_000).for_each(|tag| ghost.remember(tag, 1000));
    assert!(ghost.forget(100_000) && !ghost.forget(1));
    assert_eq!(ghost.sets.len() * WAYS, 1024);
}

#[test]
fn a_tag_is_remembered_once() {
    let mut ghost = Ghost::new();
    for _ in 0..20 {
        ghost.remember(7, 8);
    }
    assert!(ghost.forget(7) && !ghost.forget(7));
}
