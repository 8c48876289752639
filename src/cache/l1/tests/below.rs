//! L1 over a store on the disk, whose steps are taken by hand.

use std::sync::mpsc::{Receiver, channel};

use super::*;
use crate::cache::l3::storage::simulated::Simulated;
use crate::cache::l3::{self, Found, Hand, L3, Origin};

struct Tiers {
    rig: Rig,
    hand: Hand,
    medium: Simulated,
    now_us: u64,
}

fn l3_config() -> l3::Config {
    l3::Config {
        size_bytes: 1 << 20,
        segment_bytes: 1 << 16,
        max_value_bytes: 8 << 10,
        queue_bytes: 1 << 20,
        admission: l3::Admission::All,
        sync: l3::Sync::Never,
        recovery: l3::Recovery::TolerateTornTail,
        write_bytes_a_second: None,
        readers: 1,
        // The seed of the process is not the store's here; its names never change.
        hash: |_, name| name_hash(name),
        identity: 0,
        compression: None,
        keys: l3::keys::KeyRing::default(),
        unix_offset_ms: 1_700_000_000_000,
        boot: None,
    }
}

impl Tiers {
    fn new(config: Config) -> Tiers {
        Tiers::on(Simulated::default(), config)
    }

    fn on(medium: Simulated, config: Config) -> Tiers {
        let (l3, hand) = L3::open_by_hand(l3_config(), Box::new(medium.clone()), 1).unwrap();
        let links = Arc::new(Links::new(T));
        let (a, b) = (links.add().unwrap(), links.add().unwrap());
        let l1 = L1::over(config, links.clone(), Some(Arc::new(l3)));
        let tiers = Tiers {
            rig: Rig { l1, links, a, b },
            hand,
            medium,
            now_us: 100,
        };
        tiers.rig.links.answered(a, 100);
        tiers.rig.links.answered(b, 100);
        tiers
    }

    fn fill(&self, link: LinkId, q: Query<'_>, fill: Option<Fill<'_>>) {
        let lease = self.rig.lease(q, on(link, self.now_us));
        self.rig.l1.got(lease);
        self.rig.l1.complete(lease, fill, self.now_us);
        self.rig.links.answered(link, self.now_us);
    }

    /// All of L1 is evicted, and what is queued is written.
    fn squeeze(&mut self) {
        self.evict();
        while self.hand.write(self.now_us) {}
    }

    fn evict(&self) {
        self.rig.l1.set_budget(0);
        self.rig.l1.sweep(self.now_us, 10_000);
        self.rig.l1.set_budget(1 << 20);
        assert_eq!(self.rig.l1.stats().entries, 0);
    }

    fn look(&self, q: &Query<'_>) -> Option<Receiver<Option<Found>>> {
        let (tell, told) = channel();
        self.rig
            .l1
            .look_below(q, self.now_us, || None, move |found| tell.send(found).unwrap())
            .then_some(told)
    }

    /// A miss that asks the disk: what is shown from there, if anything is.
    fn read(&mut self, link: LinkId, q: Query<'_>) -> Option<String> {
        let lease = self.rig.lease(q, on(link, self.now_us));
        let shown = self.look(&q).and_then(|told| {
            assert!(self.hand.read());
            let found = told.recv().unwrap()?;
            let followers = self.rig.l1.promote(lease, &found, self.now_us)?;
            assert!(followers.is_empty());
            Some(String::from_utf8(found.value.to_vec()).unwrap())
        });
        if shown.is_none() {
            self.rig.l1.abandon(lease);
        }
        shown
    }
}

#[test]
fn what_is_evicted_is_found_below_and_is_a_hit_again_with_all_that_it_had() {
    let mut t = Tiers::new(config());
    let (a, b) = (t.rig.a, t.rig.b);
    t.fill(a, get("k"), expiring("v", 5000));
    let long = "x".repeat(5000);
    t.fill(a, read("k", "variant"), value(&long));
    t.fill(a, get("none"), absent());
    t.squeeze();
    assert_eq!(t.rig.l1.l3().unwrap().stats().entries, 3);
    t.now_us += 1000;
    assert_eq!(t.read(b, get("k")), Some("v".to_owned()));
    assert_eq!(t.read(b, read("k", "variant")), Some(long.clone()));
    assert_eq!(t.read(b, get("none")), Some("_\r\n".to_owned()));
    // From now on they are hits, what their filler brought.
    let seen = t.rig.l1.peek(&get("k"), &on(b, t.now_us), |view| {
        (view.expiry, view.link, view.inserted_us)
    });
    assert_eq!(seen, Some((Expiry::At(5_000_000), a, 1000)));
    assert_eq!(t.rig.l1.peek(&read("k", "variant"), &on(b, t.now_us), text), Some(long));
    assert_eq!(
        t.rig.l1.peek(&get("none"), &on(b, t.now_us), text),
        Some("absent _".to_owned())
    );
    // Evicted again they are not written again.
    t.squeeze();
    let counts = t.rig.l1.l3().unwrap().stats().counts;
    assert_eq!((counts.writes, counts.kept), (3, 3));
}

#[test]
fn whatever_voids_a_name_above_voids_it_below() {
    type Event = fn(&Tiers, u64);
    let events: [(&str, Event); 8] = [
        ("a push", |t, hash| t.rig.l1.push(t.rig.a, hash)),
        ("a push of another link", |t, hash| t.rig.l1.push(t.rig.b, hash)),
        ("a reply that passes by", |t, hash| t.rig.l1.passed_by(t.rig.a, hash)),
        ("a write", |t, hash| t.rig.l1.acked(t.rig.b, hash)),
        ("a purge", |t, hash| assert_eq!(t.rig.l1.purge(hash), 1)),
        ("a purge of all", |t, _| assert!(t.rig.l1.purge_all() <= 1)),
        ("a fill of another reply", |t, _| {
            t.fill(t.rig.b, read("k", "other"), value("w"))
        }),
        ("a flush", |t, _| {
            t.rig.links.void_everything();
            t.rig.l1.void_all_below();
        }),
    ];
    for (what, event) in events {
        // Where the entry may be meanwhile: on the disk, in the queue, in the hands of a reader.
        for place in 0..3 {
            let mut t = Tiers::new(config());
            let (a, b) = (t.rig.a, t.rig.b);
            t.fill(a, get("k"), value("v"));
            match place {
                1 => t.evict(),
                _ => t.squeeze(),
            }
            if place == 1 && what == "a purge" {
                continue;
            }
            if place == 2 {
                let lease = t.rig.lease(get("k"), on(b, t.now_us));
                let told = t.look(&get("k")).unwrap();
                assert!(t.hand.read());
                event(&t, name_hash(b"k"));
                let found = told.recv().unwrap().unwrap();
                t.rig.links.answered(a, t.now_us + 1);
                assert!(
                    t.rig.l1.promote(lease, &found, t.now_us).is_none(),
                    "{what}: in a reader's hands"
                );
                t.rig.l1.abandon(lease);
            } else {
                event(&t, name_hash(b"k"));
            }
            t.squeeze();
            assert_eq!(t.read(b, get("k")), None, "{what}, {place}");
            // Nor after a restart, for those that believe it then.
            let eventual = Config {
                consistency: Consistency::Eventual,
                ..config()
            };
            let mut t = Tiers::on(t.medium.killed(), eventual);
            assert_eq!(t.read(b, get("k")), None, "{what}, {place}: after a restart");
        }
    }
}

#[test]
fn what_its_filler_no_longer_vouches_for_is_not_shown() {
    let mut t = Tiers::new(config());
    let (a, b) = (t.rig.a, t.rig.b);
    t.fill(a, get("k"), expiring("v", 60_000));
    t.squeeze();
    // Silent for too long, then heard again.
    t.now_us += 2 * T;
    t.rig.links.answered(b, t.now_us);
    assert_eq!(t.read(b, get("k")), None);
    t.rig.links.answered(a, t.now_us);
    assert_eq!(t.read(b, get("k")), Some("v".to_owned()));
    t.squeeze();
    // Somebody was shown what may be newer, unless the filler has answered since.
    let floor_us = t.now_us + 10;
    t.now_us += 20;
    let lease = t.rig.lease(
        get("k"),
        Asker {
            floor_us,
            ..on(b, t.now_us)
        },
    );
    let told = t.look(&get("k")).unwrap();
    assert!(t.hand.read());
    let found = told.recv().unwrap().unwrap();
    assert!(t.rig.l1.promote(lease, &found, t.now_us).is_none());
    t.rig.links.answered(a, t.now_us);
    assert!(t.rig.l1.promote(lease, &found, t.now_us).is_some());
    t.squeeze();
    // Expired.
    t.now_us = 61_000_000;
    t.rig.links.answered(a, t.now_us);
    assert_eq!(t.read(b, get("k")), None);
    // Lost: nobody even reads the disk for it.
    t.fill(a, get("l"), value("v"));
    t.squeeze();
    t.rig.links.lost(a);
    t.rig.links.answered(a, t.now_us + 1);
    let lease = t.rig.lease(get("l"), on(b, t.now_us));
    assert!(t.look(&get("l")).is_none());
    t.rig.l1.abandon(lease);
}

#[test]
fn the_floor_of_a_follower_counts() {
    let mut t = Tiers::new(config());
    let (a, b) = (t.rig.a, t.rig.b);
    t.fill(a, get("k"), value("v"));
    t.squeeze();
    t.now_us += 100;
    let lease = t.rig.lease(get("k"), on(b, t.now_us));
    let floor_us = t.now_us - 10;
    let joined = t.rig.decide(
        get("k"),
        Asker {
            floor_us,
            ..on(b, t.now_us)
        },
    );
    assert!(matches!(joined, Decision::Joined { .. }), "{joined:?}");
    let told = t.look(&get("k")).unwrap();
    assert!(t.hand.read());
    let found = told.recv().unwrap().unwrap();
    assert!(
        t.rig.l1.promote(lease, &found, t.now_us).is_none(),
        "the filler has not answered since"
    );
    t.rig.links.answered(a, t.now_us);
    assert_eq!(t.rig.l1.promote(lease, &found, t.now_us), Some(vec![7]));
}

#[test]
fn a_lease_that_was_voided_promotes_nothing() {
    let mut t = Tiers::new(config());
    let (a, b) = (t.rig.a, t.rig.b);
    t.fill(a, get("k"), value("v"));
    t.squeeze();
    let lease = t.rig.lease(get("k"), on(b, t.now_us));
    let told = t.look(&get("k")).unwrap();
    assert!(t.hand.read());
    let found = told.recv().unwrap().unwrap();
    t.rig.links.lost(b);
    assert!(t.rig.l1.promote(lease, &found, t.now_us).is_none());
    assert_eq!(t.rig.l1.abandon(lease), Vec::<u32>::new());
}

#[test]
fn an_earlier_life_serves_only_what_is_believed_by_age() {
    let mut t = Tiers::new(config());
    let a = t.rig.a;
    t.fill(a, get("k"), expiring("v", 60_000));
    t.squeeze();
    let medium = t.medium.killed();
    let mut coherent = Tiers::on(medium.killed(), config());
    assert_eq!(coherent.rig.l1.l3().unwrap().stats().entries, 1);
    assert_eq!(coherent.read(a, get("k")), None);
    let eventual = Config {
        consistency: Consistency::Eventual,
        ..config()
    };
    let mut t = Tiers::on(medium, eventual);
    // In the millisecond in which it was filled nobody would know whether the clock was set back.
    t.now_us += 1000;
    assert_eq!(t.read(a, get("k")), Some("v".to_owned()));
    assert_eq!(t.rig.l1.peek(&get("k"), &on(a, t.now_us), text), Some("v".to_owned()));
    t.squeeze();
    assert_eq!(t.rig.l1.l3().unwrap().stats().counts.kept, 1);
    let origins = t.rig.l1.l3().unwrap().explain(name_hash(b"k"));
    assert_eq!(origins[0].origin, Origin::EarlierLife);
    t.now_us = 61_000_000;
    assert_eq!(t.read(a, get("k")), None, "expired");
}

#[test]
fn an_entry_of_an_earlier_life_is_not_younger_for_having_been_waited_for() {
    let mut t = Tiers::new(config());
    let a = t.rig.a;
    t.fill(a, get("k"), value("v"));
    t.squeeze();
    let eventual = Config {
        consistency: Consistency::Eventual,
        max_age_us: Some(50_000_000),
        max_stale_us: Some(60_000_000),
        ..config()
    };
    let mut t = Tiers::on(t.medium.killed(), eventual);
    t.now_us = 49_000_000;
    let lease = t.rig.lease(get("k"), on(a, t.now_us));
    let told = t.look(&get("k")).unwrap();
    assert!(t.hand.read());
    let found = told.recv().unwrap().unwrap();
    assert!(t.rig.l1.may_be_stale(&found, 0, t.now_us));
    // The disk took its time.
    t.now_us += 900_000;
    assert!(t.rig.l1.promote(lease, &found, t.now_us).is_some());
    assert_eq!(t.rig.l1.peek(&get("k"), &on(a, t.now_us), text), Some("v".to_owned()));
    t.now_us += 200_000;
    assert_eq!(t.rig.l1.peek(&get("k"), &on(a, t.now_us), text), None);
    assert!(!t.rig.l1.may_be_stale(&found, 0, t.now_us));
}

#[test]
fn entries_of_an_epoch_that_is_over_are_not_spilled() {
    let mut t = Tiers::new(config());
    let a = t.rig.a;
    t.fill(a, get("k"), value("v"));
    t.rig.links.void_everything();
    t.squeeze();
    assert_eq!(t.rig.l1.l3().unwrap().stats().counts.writes, 0);
}

#[test]
fn what_a_fill_takes_away_makes_room_for_it_and_does_not_survive_below() {
    let mut t = Tiers::new(Config {
        budget_bytes: 1 << 17,
        shards: Some(1),
        ..config()
    });
    let (a, b) = (t.rig.a, t.rig.b);
    let long = "x".repeat(8000);
    t.fill(a, read("k", "one"), value(&long));
    let (mut used, mut weight, mut fillers) = (t.rig.l1.stats().used_bytes, 0, 0);
    while used + weight <= 1 << 17 {
        t.fill(a, get(&format!("filler{fillers}")), value(&long));
        let now = t.rig.l1.stats().used_bytes;
        (used, weight, fillers) = (now, now - used, fillers + 1);
    }
    assert_eq!(t.rig.l1.stats().evictions, 0);
    // The oldest is of the same name, perhaps an older state of it, and another link's: it goes first, and not to the disk.
    t.fill(b, read("k", "two"), value(&long));
    assert_eq!(t.rig.l1.stats().evictions, 0);
    assert!(
        !t.rig
            .l1
            .explain(name_hash(b"k"), t.now_us)
            .iter()
            .any(|entry| entry.variant == b"one")
    );
    while t.hand.write(t.now_us) {}
    assert_eq!(t.read(b, read("k", "one")), None);
}

#[test]
fn without_a_tier_below_nothing_is_kept_of_what_is_evicted() {
    let rig = rig();
    let lease = rig.lease(get("k"), on(rig.a, 1));
    rig.l1.got(lease);
    rig.l1.complete(lease, value("v"), 1);
    rig.l1.set_budget(0);
    rig.l1.sweep(1, 1000);
    assert_eq!(rig.l1.stats().evictions, 1);
    assert!(!rig.l1.look_below(&get("k"), 1, || None, |_| {}));
}
