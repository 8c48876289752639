//! Random calls, compared one by one with a plain model that keeps everything in maps and drops nothing on sight.

use std::collections::BTreeMap;

use super::*;

/// Name (0 and 1 share a hash), database, variant.
type Key = (usize, u32, usize);

const NAMES: [&str; 4] = ["one", "twin", "three", "four"];
const VARIANTS: [&str; 3] = ["", "TYPE", "HGETALL"];

#[derive(Clone, Debug)]
struct Entry {
    shown: String,
    link: usize,
    epoch: u32,
    deadline: u64,
    inserted: u64,
}

#[derive(Clone, Debug)]
struct Lease {
    id: LeaseId,
    key: Key,
    link: usize,
    epoch: u32,
    sent: u64,
    is_got: bool,
    is_voided: bool,
    followers: Vec<u32>,
}

struct Model {
    entries: BTreeMap<Key, Entry>,
    leases: Vec<Lease>,
    epochs: Vec<u32>,
    answered: Vec<u64>,
}

fn hash_of(name: usize) -> u64 {
    name_hash(NAMES[name.max(1)].as_bytes())
}

fn query(key: Key) -> Query<'static> {
    Query {
        hash: hash_of(key.0),
        db: key.1,
        name: NAMES[key.0].as_bytes(),
        variant: VARIANTS[key.2].as_bytes(),
    }
}

impl Model {
    fn is_live(&self, e: &Entry, a: &Asker) -> bool {
        a.own == Own::Clear
            && self.epochs[e.link] == e.epoch
            && a.now_us < e.deadline
            && self.answered[e.link] > a.floor_us
            && self.answered[e.link] + T > a.now_us
    }

    fn hit(&self, key: Key, a: &Asker) -> Option<String> {
        self.entries
            .get(&key)
            .filter(|e| self.is_live(e, a))
            .map(|e| e.shown.clone())
    }

    fn standing(&self, key: Key) -> Option<usize> {
        let standing = |l: &Lease| l.key == key && !l.is_voided && self.epochs[l.link] == l.epoch;
        assert!(
            self.leases.iter().filter(|l| standing(l)).count() <= 1,
            "two standing leases"
        );
        self.leases.iter().position(standing)
    }

    fn void(&mut self, name: usize, entry: impl Fn(usize) -> bool, lease: impl Fn(&Lease) -> bool) {
        self.entries
            .retain(|k, e| hash_of(k.0) != hash_of(name) || !entry(e.link));
        for l in self
            .leases
            .iter_mut()
            .filter(|l| hash_of(l.key.0) == hash_of(name) && lease(l))
        {
            l.is_voided = true;
        }
    }

    fn may_join(&self, l: &Lease, a: &Asker) -> bool {
        (a.own == Own::Clear || a.own == Own::InFlight(l.id.flight())) && a.now_us < l.sent + T && l.sent > a.floor_us
    }

    fn is_snapshot(&self, entries: &[&Entry]) -> bool {
        let is_of_one = entries.windows(2).all(|w| w[0].link == w[1].link);
        let answered = entries.iter().map(|e| self.answered[e.link]).min();
        is_of_one || answered > entries.iter().map(|e| e.inserted.div_ceil(1000) * 1000).max()
    }
}

fn run(seed: u64, calls: usize) {
    let mut rng = fastrand::Rng::with_seed(seed);
    let shards = Some(1 << rng.u32(0..3));
    let r = rig_with(Config {
        shards,
        negative_ttl_us: Some(T),
        max_age_us: Some(5 * T),
        ..config()
    });
    let ids = [r.a, r.b, r.links.add().unwrap(), LinkId::PINNED];
    let mut m = Model {
        entries: BTreeMap::new(),
        leases: Vec::new(),
        epochs: vec![1; 3],
        answered: vec![0; 3],
    };
    let mut now = 1000;
    for call in 0..calls {
        now += rng.u64(0..T / 50);
        let key = (rng.usize(0..4), rng.u32(0..2), rng.usize(0..3));
        let link = rng.usize(0..3);
        let own = match (rng.u8(0..6), m.leases.last()) {
            (0, _) => Own::Blocked,
            (1, Some(lease)) => Own::InFlight(lease.id.flight()),
            _ => Own::Clear,
        };
        let floor_us = if rng.u8(0..8) == 0 {
            now - rng.u64(0..T.min(now))
        } else {
            0
        };
        let a = Asker {
            now_us: now,
            link: ids[link],
            own,
            floor_us,
            takes_stale: false,
        };
        let q = query(key);
        match rng.u8(0..40) {
            0..14 => {
                let follower = call as u32;
                let decision = r.l1.decide(&q, &a, Leasing::Allowed, || follower, text);
                let expected = if let Some(shown) = m.hit(key, &a) {
                    Decision::Hit(shown)
                } else if let Some(at) = m.standing(key) {
                    if m.may_join(&m.leases[at], &a) {
                        m.leases[at].followers.push(follower);
                        Decision::Joined {
                            flight: m.leases[at].id.flight(),
                            link: ids[m.leases[at].link],
                        }
                    } else {
                        Decision::Forward
                    }
                } else if let Decision::Leased(id) = decision {
                    let epoch = m.epochs[link];
                    m.leases.push(Lease {
                        id,
                        key,
                        link,
                        epoch,
                        sent: now,
                        is_got: false,
                        is_voided: false,
                        followers: vec![],
                    });
                    Decision::Leased(id)
                } else {
                    panic!("seed {seed}, call {call}: {decision:?} instead of a lease");
                };
                assert_eq!(decision, expected, "seed {seed}, call {call}");
            }
            14..16 => {
                let variants = (0..VARIANTS.len()).map(|v| (key.0, key.1, v));
                let live: Vec<_> = variants.filter_map(|k| m.hit(k, &a)).collect();
                let shown = r.l1.peek_any(&q, &a, text);
                assert_eq!(shown.is_some(), !live.is_empty(), "seed {seed}, call {call}");
                assert!(shown.is_none_or(|s| live.contains(&s)));
                assert_eq!(r.l1.peek(&q, &a, text), m.hit(key, &a), "seed {seed}, call {call}");
            }
            16..19 => {
                let keys: Vec<Key> = (0..rng.usize(1..4)).map(|_| (rng.usize(0..4), 0, 0)).collect();
                let found: Option<Vec<_>> = keys
                    .iter()
                    .map(|k| m.entries.get(k).filter(|e| m.is_live(e, &a)))
                    .collect();
                let expected = found
                    .filter(|all| m.is_snapshot(all))
                    .map(|all| all.iter().map(|e| e.shown.clone()).collect());
                let queries: Vec<_> = keys.iter().map(|&k| query(k)).collect();
                assert_eq!(r.many(&queries, a), expected, "seed {seed}, call {call}");
                let live = |key: &Key| {
                    let variants = (0..VARIANTS.len()).map(|v| (key.0, key.1, v));
                    variants.filter_map(|k| m.hit(k, &a)).collect::<Vec<_>>()
                };
                if let Some(shown) = r.many_of(&queries, a, Which::Any) {
                    let is_live = keys.iter().zip(&shown).all(|(key, shown)| live(key).contains(shown));
                    assert!(is_live, "seed {seed}, call {call}");
                } else if keys.len() == 1 {
                    assert!(live(&keys[0]).is_empty(), "seed {seed}, call {call}");
                }
            }
            19..28 if !m.leases.is_empty() => {
                let at = rng.usize(0..m.leases.len());
                if !m.leases[at].is_got {
                    m.leases[at].is_got = true;
                    r.l1.got(m.leases[at].id);
                    continue;
                }
                let l = m.leases[at].clone();
                let stands = m.standing(l.key) == Some(at);
                m.leases.remove(at);
                let content = format!("{call}{}", "+".repeat(if rng.u8(0..10) == 0 { 2500 } else { 0 }));
                let (fill, shown, end) = match rng.u8(0..8) {
                    0 => (None, None, 0),
                    1 => (absent(), Some("absent _".to_string()), l.sent + T),
                    2 | 3 => {
                        let pttl_ms = rng.i64(0..(2 * T / 1000) as i64);
                        (
                            expiring(&content, pttl_ms),
                            Some(content.clone()),
                            l.sent + pttl_ms as u64 * 1000,
                        )
                    }
                    _ => (value(&content), Some(content.clone()), u64::MAX),
                };
                assert_eq!(r.l1.complete(l.id, fill, now), l.followers, "seed {seed}, call {call}");
                m.void(l.key.0, |link| link != l.link, |other| other.link != l.link);
                let deadline = end.min(l.sent + 5 * T) / 1000 * 1000;
                if let Some(shown) = shown.filter(|_| stands && now < deadline) {
                    m.entries.insert(
                        l.key,
                        Entry {
                            shown,
                            link: l.link,
                            epoch: l.epoch,
                            deadline,
                            inserted: now,
                        },
                    );
                }
            }
            28 if !m.leases.is_empty() => {
                let l = m.leases.swap_remove(rng.usize(0..m.leases.len()));
                assert_eq!(r.l1.abandon(l.id), l.followers);
                assert_eq!(r.l1.complete(l.id, value("late"), now), Vec::<u32>::new());
            }
            29..31 => {
                r.l1.push(ids[link], q.hash);
                m.void(key.0, |l| l == link, |l| l.link == link && l.is_got);
            }
            31 | 32 => {
                let by = rng.usize(0..4);
                r.l1.passed_by(ids[by], q.hash);
                m.void(key.0, |l| l != by, |l| l.link != by);
            }
            33 => {
                let by = rng.usize(0..4);
                r.l1.acked(ids[by], q.hash);
                m.void(key.0, |_| true, |l| l.link != by);
            }
            34 => match rng.u8(0..8) {
                0 => {
                    r.links.lost(ids[link]);
                    (m.epochs[link], m.answered[link]) = (m.epochs[link] + 1, 0);
                }
                1 => {
                    r.links.void_all(ids[link]);
                    m.epochs[link] += 1;
                }
                2 => {
                    r.links.void_everything();
                    m.epochs.iter_mut().for_each(|e| *e += 1);
                }
                3 => {
                    r.l1.purge(q.hash);
                    m.void(key.0, |_| true, |_| true);
                }
                _ => drop(r.l1.sweep(now, rng.usize(0..50))),
            },
            35 => {
                let lease = r.l1.lease_only(&q, &a);
                let is_kept = m
                    .entries
                    .get(&key)
                    .is_some_and(|e| e.link == link && m.epochs[link] == e.epoch && now < e.deadline);
                assert_eq!(
                    lease.is_some(),
                    !is_kept && m.standing(key).is_none(),
                    "seed {seed}, call {call}"
                );
                if let Some(id) = lease {
                    let epoch = m.epochs[link];
                    m.leases.push(Lease {
                        id,
                        key,
                        link,
                        epoch,
                        sent: now,
                        is_got: false,
                        is_voided: false,
                        followers: vec![],
                    });
                }
            }
            _ => {
                let sent = now - rng.u64(0..(T / 2).min(now));
                r.links.answered(ids[link], sent);
                m.answered[link] = m.answered[link].max(sent);
            }
        }
        assert_eq!(r.l1.stats().leases, m.leases.len());
    }
    // What the model would still show, and no more, is there after everything else was swept.
    let live = m
        .entries
        .values()
        .filter(|e| m.epochs[e.link] == e.epoch && now < e.deadline)
        .count();
    while r.l1.sweep(now, 10_000) > 0 {}
    assert_eq!(r.l1.stats().entries, live, "seed {seed}");
}

#[test]
fn random_calls_agree_with_the_model() {
    for seed in 0..150 {
        run(seed, 1500);
    }
}
