//! Real threads: each owns a link and follows the rules; the truth is a version that only grows.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use parking_lot::Mutex;

use super::*;

/// The server: versions of the keys, and for each link whether it watches a key and what was pushed to it.
struct Server {
    versions: Vec<u64>,
    watched: Vec<Vec<bool>>,
    pushes: Vec<Vec<usize>>,
}

impl Server {
    fn read(&mut self, link: usize, key: usize) -> u64 {
        self.watched[link][key] = true;
        self.versions[key]
    }

    fn write(&mut self, key: usize) -> u64 {
        self.versions[key] += 1;
        for (watched, pushes) in self.watched.iter_mut().zip(&mut self.pushes) {
            if std::mem::take(&mut watched[key]) {
                pushes.push(key);
            }
        }
        self.versions[key]
    }
}

const KEYS: usize = 6;
const WORKERS: usize = 3;

/// Two clients and one link on each thread; fills, writes, pushes and purges at once. No client may see less than was
/// acknowledged to anybody before it asked.
#[test]
fn no_thread_is_shown_what_was_overwritten_before_it_asked() {
    let links = Arc::new(Links::new(T));
    let l1 = Arc::new(L1::<()>::new(
        Config {
            shards: Some(2),
            ..config()
        },
        links.clone(),
    ));
    let server = Mutex::new(Server {
        versions: vec![0; KEYS],
        watched: vec![vec![false; KEYS]; WORKERS],
        pushes: vec![Vec::new(); WORKERS],
    });
    let acked: Vec<AtomicU64> = (0..KEYS).map(|_| AtomicU64::new(0)).collect();
    let clock = AtomicU64::new(1);
    let hits = AtomicU64::new(0);
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        let sweeper = scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                l1.sweep(clock.load(Ordering::Relaxed), 8);
                thread::yield_now();
            }
        });
        let workers: Vec<_> = (0..WORKERS)
            .map(|_| {
                let (links, l1, server, acked, clock, hits) = (&links, &l1, &server, &acked, &clock, &hits);
                scope.spawn(move || {
                    let link = links.add().unwrap();
                    let me = usize::from(link.index());
                    let mut rng = fastrand::Rng::with_seed(me as u64);
                    let names: Vec<_> = (0..KEYS).map(|k| format!("key {k}")).collect();
                    for _ in 0..30_000 {
                        let key = rng.usize(0..KEYS);
                        let q = get(&names[key]);
                        let now_us = clock.fetch_add(1, Ordering::SeqCst);
                        // The stream of this link: what was pushed comes before the next reply.
                        let apply = |server: &mut Server| std::mem::take(&mut server.pushes[me]);
                        match rng.u8(0..20) {
                            0 => {
                                let (version, pushed) = {
                                    let mut server = server.lock();
                                    let version = server.write(key);
                                    // The push of the own write comes after its reply: it stays for the next reply.
                                    let own = server.pushes[me].iter().rposition(|&k| k == key);
                                    let own = own.map(|at| server.pushes[me].remove(at));
                                    let pushed = apply(&mut server);
                                    server.pushes[me].extend(own);
                                    (version, pushed)
                                };
                                pushed.iter().for_each(|&k| l1.push(link, get(&names[k]).hash));
                                l1.acked(link, q.hash);
                                links.answered(link, now_us);
                                acked[key].fetch_max(version, Ordering::SeqCst);
                            }
                            1 if rng.u8(0..10) == 0 => drop(l1.purge(q.hash)),
                            _ => {
                                let least = acked[key].load(Ordering::SeqCst);
                                let a = on(link, now_us);
                                let shown = |view: View<'_>| text(view).parse::<u64>().unwrap();
                                match l1.decide(&q, &a, Leasing::Allowed, || (), shown) {
                                    Decision::Hit(version) => {
                                        hits.fetch_add(1, Ordering::Relaxed);
                                        assert!(
                                            version >= least,
                                            "{version} of key {key} after {least} was acknowledged"
                                        );
                                    }
                                    Decision::Leased(lease) => {
                                        let (version, before) = {
                                            let mut server = server.lock();
                                            let before = apply(&mut server);
                                            (server.read(me, key), before)
                                        };
                                        before.iter().for_each(|&k| l1.push(link, get(&names[k]).hash));
                                        l1.got(lease);
                                        thread::yield_now();
                                        let between = apply(&mut server.lock());
                                        between.iter().for_each(|&k| l1.push(link, get(&names[k]).hash));
                                        let fill = version.to_string();
                                        l1.complete(lease, value(&fill), clock.load(Ordering::SeqCst));
                                        links.answered(link, now_us);
                                        assert!(version >= least);
                                    }
                                    Decision::Joined { .. } | Decision::Forward => {
                                        let (version, pushed) = {
                                            let mut server = server.lock();
                                            let pushed = apply(&mut server);
                                            (server.read(me, key), pushed)
                                        };
                                        pushed.iter().for_each(|&k| l1.push(link, get(&names[k]).hash));
                                        l1.passed_by(link, q.hash);
                                        links.answered(link, now_us);
                                        assert!(version >= least);
                                    }
                                }
                            }
                        }
                    }
                })
            })
            .collect();
        let ends: Vec<_> = workers.into_iter().map(|worker| worker.join()).collect();
        is_over.store(true, Ordering::Relaxed);
        sweeper.join().unwrap();
        ends.into_iter().for_each(|end| end.unwrap());
    });
    assert!(hits.load(Ordering::Relaxed) > 1000);
    assert_eq!(l1.stats().leases, 0);
    // With every push applied, what is left is the truth.
    let mut server = server.into_inner();
    for me in 0..WORKERS {
        let link = LinkId::from_index(me as u16);
        for k in std::mem::take(&mut server.pushes[me]) {
            l1.push(link, get(&format!("key {k}")).hash);
        }
    }
    for (k, &version) in server.versions.iter().enumerate() {
        let a = on(LinkId::PINNED, clock.load(Ordering::SeqCst));
        let shown = l1.peek(&get(&format!("key {k}")), &a, text);
        assert!(shown.is_none_or(|s| s == version.to_string()));
    }
}

/// Readers of pairs while writers of pairs and single fills are under way, one link each.
#[test]
fn a_pair_shown_together_existed_together() {
    let links = Arc::new(Links::new(T));
    let l1 = L1::<()>::new(
        Config {
            shards: Some(8),
            ..config()
        },
        links.clone(),
    );
    let names: Vec<_> = (0..4).map(|k| format!("key {k}")).collect();
    let clock = AtomicU64::new(1000);
    // All four keys are written at once: a version for each moment. The lock is the server.
    let server = Mutex::new((0u64, vec![[false; 4]; 2], [const { Vec::new() }; 2]));
    let shown = AtomicU64::new(0);
    thread::scope(|scope| {
        for me in 0..2 {
            let link = links.add().unwrap();
            assert_eq!(usize::from(link.index()), me);
            let (l1, links, names, clock, server, shown) = (&l1, &links, &names, &clock, &server, &shown);
            scope.spawn(move || {
                let mut rng = fastrand::Rng::with_seed(me as u64 + 9);
                let queries: Vec<_> = names.iter().map(|name| get(name)).collect();
                for _ in 0..30_000 {
                    let now_us = clock.fetch_add(rng.u64(1..400), Ordering::SeqCst);
                    let a = on(link, now_us);
                    let mut seen = Vec::new();
                    if l1.peek_many(&queries, &a, Which::This, |_, view| seen.push(text(view))) {
                        shown.fetch_add(1, Ordering::Relaxed);
                        assert!(seen.windows(2).all(|w| w[0] == w[1]), "{seen:?}");
                    }
                    if rng.u8(0..30) == 0 {
                        let mut guard = server.lock();
                        let (version, watched, pushes) = &mut *guard;
                        *version += 1;
                        for (watched, pushes) in watched.iter_mut().zip(pushes) {
                            pushes.extend((0..4).filter(|&k| std::mem::take(&mut watched[k])));
                        }
                    }
                    let at = rng.usize(0..4);
                    let leased = match l1.decide(&queries[at], &a, Leasing::Allowed, || (), |_| ()) {
                        Decision::Leased(lease) => Some(lease),
                        _ => None,
                    };
                    if leased.is_none() && rng.u8(0..4) > 0 {
                        continue;
                    }
                    let (version, pushed): (u64, Vec<usize>) = {
                        let mut guard = server.lock();
                        let (version, watched, pushes) = &mut *guard;
                        watched[me][at] |= leased.is_some();
                        (*version, std::mem::take(&mut pushes[me]))
                    };
                    pushed.iter().for_each(|&k| l1.push(link, queries[k].hash));
                    if let Some(lease) = leased {
                        l1.got(lease);
                        l1.complete(lease, value(&version.to_string()), clock.load(Ordering::SeqCst));
                    }
                    links.answered(link, now_us);
                }
            });
        }
    });
    assert!(shown.load(Ordering::Relaxed) > 100, "{shown:?}");
}
