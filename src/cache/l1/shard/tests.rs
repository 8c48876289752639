use std::sync::Arc;

use super::super::expiry::lifetime;
use super::super::{Config, Consistency, Objective};
use super::*;
use crate::cache::link::Links;

/// A shard, and the rules that it is asked under.
fn rig() -> (Shard<()>, Rules) {
    let config = Config {
        budget_bytes: 1 << 16,
        shards: Some(1),
        max_value_bytes: 1 << 12,
        negative_ttl_us: None,
        max_age_us: None,
        max_stale_us: None,
        consistency: Consistency::Eventual,
        objective: Objective::Requests,
        compression: None,
    };
    (
        Shard::new(0, Limits::new(&config, config.budget_bytes, 1)),
        Rules {
            links: Arc::new(Links::new(1000)),
            config,
            l3: None,
        },
    )
}

fn fill(shard: &mut Shard<()>, rules: &Rules, hash: u64, name: &[u8], value: &[u8]) {
    fill_for(shard, rules, hash, name, value, -1);
}

fn fill_for(shard: &mut Shard<()>, rules: &Rules, hash: u64, name: &[u8], value: &[u8], pttl_ms: i64) {
    let of = Identity {
        hash,
        db: 0,
        name,
        variant: b"",
    };
    let body = Body::Small(value);
    let times = lifetime(&rules.config, 1, 2, &body, pttl_ms, None).unwrap();
    assert!(shard.insert(New::of(of, (LinkId::PINNED, 0), body, false, &times)));
}

/// Every chain leads to exactly the occupied slots, and the bytes add up.
fn check(shard: &Shard<()>) {
    let mut reached = 0;
    for head in shard.index.iter() {
        let mut at = head;
        while at != NIL {
            let slot = &shard.store.slab[at];
            assert!(!slot.is_free());
            assert_eq!(slot.tag, shard.store.slab[head].tag);
            let kind = slot.payload.kind();
            assert_eq!(
                (slot.stamp.is_timed(), slot.stamp.is_chained()),
                (kind.is_timed(), kind.is_chained())
            );
            reached += 1;
            at = slot.chain();
        }
    }
    assert_eq!(reached, shard.entries());
    let slots = (0..shard.store.slab.places())
        .map(|at| &shard.store.slab[at])
        .filter(|slot| !slot.is_free());
    assert_eq!(
        slots.map(|slot| slot.payload.weight()).sum::<usize>(),
        shard.store.payload_bytes
    );
    assert!(shard.used_bytes() <= shard.limits.share_bytes);
}

#[test]
fn chains_slots_and_bytes_agree_whatever_comes_and_goes() {
    let (mut shard, rules) = rig();
    let mut rng = fastrand::Rng::with_seed(3);
    for round in 0..20_000 {
        // Few hashes, so that names share chains.
        let number = rng.u32(0..2000);
        let hash = u64::from(number % 400);
        match rng.u8(0..10) {
            0 => drop(shard.purge(hash)),
            1 => {
                let name = number.to_le_bytes();
                if let Some((at, _)) = shard.find(Identity {
                    hash,
                    db: 0,
                    name: &name,
                    variant: b"",
                }) {
                    shard.touch(Hit { at, ..Hit::NONE });
                }
            }
            of => fill_for(
                &mut shard,
                &rules,
                hash,
                &number.to_le_bytes(),
                &vec![b'v'; rng.usize(0..200)],
                if of < 6 { -1 } else { 1_000_000 },
            ),
        }
        if round % 500 == 0 {
            check(&shard);
        }
    }
    check(&shard);
    let counters = shard.counters();
    assert!(counters.evictions > 1000 && counters.voids > 100);
    // What is left moves to the places before it.
    shard.set_limits(Limits::new(&rules.config, 1 << 14, 1));
    while shard.shrink(64) > 0 {}
    assert!(shard.entries() > 50);
    check(&shard);
}

#[test]
fn a_name_that_is_filled_again_after_a_void_is_still_thought_popular() {
    let (mut shard, rules) = rig();
    fill(&mut shard, &rules, 9, b"k", b"v");
    let of = Identity {
        hash: 9,
        db: 0,
        name: b"k",
        variant: b"",
    };
    let at = shard.find(of).unwrap().0;
    shard.touch(Hit { at, ..Hit::NONE });
    shard.touch(Hit { at, ..Hit::NONE });
    shard.acked(LinkId::PINNED, 9);
    fill(&mut shard, &rules, 9, b"k", b"w");
    let at = shard.find(of).unwrap().0;
    assert_eq!(shard.slot(at).stamp.queue(), Queue::Main);
}

#[test]
fn a_reply_that_is_filled_again_in_place_keeps_its_rank() {
    let (mut shard, rules) = rig();
    fill(&mut shard, &rules, 9, b"k", b"v");
    let of = Identity {
        hash: 9,
        db: 0,
        name: b"k",
        variant: b"",
    };
    let at = shard.find(of).unwrap().0;
    shard.touch(Hit { at, ..Hit::NONE });
    fill(&mut shard, &rules, 9, b"k", b"w");
    let at = shard.find(of).unwrap().0;
    assert_eq!(shard.slot(at).stamp.frequency(), 1);
    assert_eq!((shard.entries(), shard.counters().evictions), (1, 0));
}

/// Of one length or of another, of a string or of an absence: the last reply is what is shown, in as many bytes as it takes.
#[test]
fn a_reply_in_the_place_of_another_is_shown_whole() {
    let (mut shard, rules) = rig();
    let of = Identity {
        hash: 9,
        db: 0,
        name: b"k",
        variant: b"",
    };
    let long = [b'x'; 300];
    let replies: [(&[u8], bool); 6] = [
        (b"v", false),
        (b"w", false),
        (b"$-1\r\n", true),
        (b"12345", false),
        (&long, false),
        (b"", false),
    ];
    for (bytes, is_absent) in replies {
        let (body, pttl_ms) = match is_absent {
            true => (Body::Absent(bytes), -2),
            false => (Body::Small(bytes), 5_000),
        };
        let times = lifetime(&rules.config, 1, 2, &body, pttl_ms, None).unwrap();
        assert!(shard.insert(New::of(of, (LinkId::PINNED, 7), body, is_absent, &times)));
        let (_, slot) = shard.find(of).unwrap();
        let view = slot.view(false);
        let shown = match view.value {
            crate::cache::l1::ViewValue::Absent(shown) => (shown, true),
            crate::cache::l1::ViewValue::Small(shown) => (shown, false),
            _ => panic!("a small one"),
        };
        assert_eq!((shown, view.is_plain), ((bytes, is_absent), is_absent));
        assert_eq!(slot.epoch, 7);
        assert_eq!(view.expiry == super::super::Expiry::Never, is_absent);
        assert_eq!(slot.payload.data_bytes(), 1 + bytes.len());
        assert_eq!(shard.data_bytes(), 1 + bytes.len());
        check(&shard);
    }
    assert_eq!((shard.entries(), shard.counters().inserts), (1, 6));
}
