//! Readers and writers at full speed on few keys, for thousands of races.

use std::thread;
use std::time::Duration;

use fastrand::Rng;

use super::world::{World, Writer};
use crate::support::{Proxy, Server, seed};

const LENGTH: Duration = Duration::from_secs(6);

#[test]
fn own_writers_against_readers() {
    let server = Server::start();
    let proxy = Proxy::start(&server, &["--workers", "2"]);
    race(&server, &proxy, 3, 0, "own writers");
}

#[test]
fn foreign_writers_against_readers() {
    let server = Server::start();
    let proxy = Proxy::start(&server, &["--workers", "2"]);
    let ages = race(&server, &proxy, 0, 2, "foreign writers");
    if let Some(p99) = ages.get(ages.len() * 99 / 100) {
        assert!(
            *p99 < 250_000,
            "p99 of the age of outdated answers is {p99} µs: pushes do not arrive by themselves"
        );
    }
}

#[test]
fn own_and_foreign_writers_of_the_same_keys() {
    let server = Server::start();
    let proxy = Proxy::start(&server, &["--workers", "3"]);
    race(&server, &proxy, 2, 2, "own and foreign writers");
}

#[test]
fn rare_writes_between_many_hits() {
    let server = Server::start();
    let proxy = Proxy::start(&server, &["--workers", "2"]);
    let seed = seed();
    let world = World::new(&server, 3, LENGTH);
    thread::scope(|scope| {
        for (i, who) in [Writer::Own, Writer::Foreign].into_iter().enumerate() {
            let client = if who == Writer::Own {
                proxy.client()
            } else {
                server.client()
            };
            let random = Rng::with_seed(seed + i as u64);
            let world = &world;
            scope.spawn(move || world.write(client, who, Duration::from_millis(8), random));
        }
        for i in 0..5_usize {
            let random = Rng::with_seed(seed + 200 + i as u64);
            let (world, proxy) = (&world, &proxy);
            let connect = move || {
                if i.is_multiple_of(2) {
                    proxy.client()
                } else {
                    proxy.client3()
                }
            };
            scope.spawn(move || world.read(connect, [1, 1, 2, 4, 16][i], random));
        }
    });
    world.report("rare writes", 2_000);
    assert_eq!(world.refused(), 0, "nothing is refused while the upstream is well");
    let info = proxy.client().text(&["INFO", "nearcache"]);
    let rate = info
        .lines()
        .find_map(|l| l.strip_prefix("nearcache_l1_hit_rate:"))
        .expect("a hit rate");
    let rate: f64 = rate.parse().expect("a number");
    assert!(rate > 0.25, "a race without hits proves nothing: {rate}");
}

#[test]
fn own_and_foreign_writers_in_front_of_valkey() {
    let Some(server) = Server::valkey(&[]) else { return };
    let proxy = Proxy::start(&server, &["--workers", "2"]);
    race(&server, &proxy, 2, 1, "own and foreign writers, Valkey");
}

#[test]
fn a_cache_that_evicts_all_the_time() {
    let server = Server::start();
    let proxy = Proxy::start(&server, &["--workers", "2", "--l1", "1MiB"]);
    let stop = std::sync::atomic::AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut client = proxy.client();
            let value = "x".repeat(4000);
            let mut i = 0;
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                let key = format!("filler:{}", i % 2000);
                client.expect(&["SET", &key, &value], "+OK");
                client.cmd(&["GET", &key]);
                i += 1;
            }
        });
        let verdict = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            race(&server, &proxy, 2, 1, "a tiny cache")
        }));
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        if let Err(panic) = verdict {
            std::panic::resume_unwind(panic);
        }
    });
}

/// Returns the ages of the answers that were outdated behind the proxy's back, sorted, in microseconds.
fn race(server: &Server, proxy: &Proxy, own: usize, foreign: usize, title: &str) -> Vec<u64> {
    let seed = seed();
    let world = World::new(server, 3, LENGTH);
    thread::scope(|scope| {
        for i in 0..own {
            let client = if i % 2 == 0 { proxy.client() } else { proxy.client3() };
            let pause = Duration::from_micros(if i == 0 { 0 } else { 300 });
            let random = Rng::with_seed(seed + i as u64);
            let world = &world;
            scope.spawn(move || world.write(client, Writer::Own, pause, random));
        }
        for i in 0..foreign {
            let pause = Duration::from_micros(if i == 0 { 100 } else { 2000 });
            let random = Rng::with_seed(seed + 100 + i as u64);
            let world = &world;
            scope.spawn(move || world.write(server.client(), Writer::Foreign, pause, random));
        }
        for i in 0..4_usize {
            let random = Rng::with_seed(seed + 200 + i as u64);
            let (world, proxy) = (&world, &proxy);
            let connect = move || {
                if i.is_multiple_of(2) {
                    proxy.client()
                } else {
                    proxy.client3()
                }
            };
            scope.spawn(move || world.read(connect, [1, 1, 4, 16][i], random));
        }
    });
    world.report(title, 2_000);
    assert_eq!(world.refused(), 0, "nothing is refused while the upstream is well");
    world.ages_us()
}
