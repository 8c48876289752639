//! Upstream connections of different age, and such that break: each link vouches for what it filled and for nothing else.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use fastrand::Rng;

use super::world::{World, Writer};
use crate::support::client::{children, encode};
use crate::support::relay::Relay;
use crate::support::{Proxy, STEP, Server, eventually, seed, show};

const LENGTH: Duration = Duration::from_secs(6);

#[test]
fn links_of_different_delay() {
    let server = Server::start();
    let relay = Relay::start(&server.socket());
    relay.skew(Duration::from_millis(30));
    relay.jitter(Duration::from_millis(3));
    let proxy = Proxy::before(&relay.url(), &["--workers", "4"]);
    race(&server, &proxy, 2, 1, 300, "links of different delay");
}

#[test]
fn links_that_stutter() {
    let server = Server::start();
    let relay = Relay::start(&server.socket());
    let proxy = Proxy::before(&relay.url(), &["--workers", "2"]);
    relay.jitter(Duration::from_millis(12));
    race(&server, &proxy, 2, 2, 300, "links that stutter");
}

#[test]
fn a_server_that_broadcasts() {
    let toml = "[cache]\ninvalidation = \"broadcast\"\n";
    for server in Server::of_each_kind(&[]) {
        let relay = Relay::start(&server.socket());
        relay.skew(Duration::from_millis(20));
        let proxy = Proxy::with_config(&relay.url(), toml, &["--workers", "2"]);
        race(&server, &proxy, 2, 1, 300, &format!("broadcasts of {}", server.kind()));
    }
}

#[test]
fn a_tracking_table_that_overflows() {
    let server = Server::with(&["--tracking-table-max-keys", "3"]);
    let proxy = Proxy::start(&server, &["--workers", "2"]);
    race(&server, &proxy, 1, 1, 1000, "a tracking table of three keys");
}

#[test]
fn links_that_break_while_others_write() {
    let server = Server::start();
    let relay = Relay::start(&server.socket());
    let proxy = Proxy::before(&relay.url(), &["--workers", "2"]);
    let seed = seed();
    let world = World::new(&server, 3, LENGTH);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !world.is_over() {
                thread::sleep(Duration::from_millis(120));
                relay.cut();
            }
        });
        for i in 0..2_u64 {
            let pause = Duration::from_micros(200 + 1800 * i);
            let random = Rng::with_seed(seed + i);
            let (world, server) = (&world, &server);
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
    world.report("links that break", 500);
    let mut client = proxy.client();
    eventually("service is back", STEP, || {
        !client.cmd(&["GET", "text:0"]).starts_with(b"-")
    });
}

#[test]
fn a_reply_never_goes_to_another_request_when_a_link_breaks() {
    let server = Server::start();
    const KEYS: usize = 5000;
    let mut direct = server.client();
    for i in 0..KEYS {
        direct.send(&["SET", &format!("key:{i}"), &format!("value:{i}")]);
    }
    assert!(direct.frames(KEYS).iter().all(|f| f == b"+OK\r\n"));
    let relay = Relay::start(&server.socket());
    let proxy = Proxy::before(&relay.url(), &["--workers", "2", "--l1", "1MiB"]);
    let over = AtomicBool::new(false);
    let served = AtomicU64::new(0);
    let seed = seed();
    thread::scope(|scope| {
        let readers: Vec<_> = (0..4_u64)
            .map(|reader| {
                let (proxy, served) = (&proxy, &served);
                scope.spawn(move || {
                    let mut random = Rng::with_seed(seed + reader);
                    let mut client = if reader % 2 == 0 {
                        proxy.client()
                    } else {
                        proxy.client3()
                    };
                    let (mut right, mut refused) = (0, 0);
                    let end = Instant::now() + Duration::from_secs(4);
                    while Instant::now() < end || right <= 100 && Instant::now() < end + STEP {
                        let mut bytes = Vec::new();
                        let mut expected = Vec::new();
                        for _ in 0..random.usize(1..60) {
                            let i = random.usize(0..KEYS);
                            let (key, value) = (format!("key:{i}"), format!("value:{i}"));
                            match random.u8(0..4) {
                                0 => bytes.extend(encode(&["EVAL", "return ARGV[1]", "0", &value])),
                                1 => bytes.extend(encode(&["GETRANGE", &key, "0", "-1"])),
                                _ => bytes.extend(encode(&["GET", &key])),
                            }
                            expected.push(format!("${}\r\n{value}\r\n", value.len()));
                        }
                        client.raw(&bytes);
                        for expected in expected {
                            let found = client.frame();
                            if found.starts_with(b"-") {
                                refused += 1;
                            } else {
                                assert_eq!(show(&found), show(expected.as_bytes()));
                                right += 1;
                                served.fetch_add(1, Ordering::Relaxed);
                            }
                        }
                    }
                    (right, refused)
                })
            })
            .collect();
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                thread::sleep(Duration::from_millis(60));
                // A server behind which no connection ever comes up on a busy machine would rightly be given up.
                let before = served.load(Ordering::Relaxed);
                while served.load(Ordering::Relaxed) == before && !over.load(Ordering::Relaxed) {
                    thread::sleep(Duration::from_millis(1));
                }
                relay.cut();
            }
        });
        let counts: Vec<_> = readers.into_iter().map(thread::ScopedJoinHandle::join).collect();
        over.store(true, Ordering::Relaxed);
        for count in counts {
            let (right, refused) = count.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            eprintln!("{right} right replies, {refused} refused");
            assert!(right > 100, "only {right} right replies, {refused} refused");
        }
    });
}

#[test]
fn killed_at_the_server_the_link_takes_its_copies_along() {
    let server = Server::start();
    let proxy = Proxy::start(&server, &["--workers", "2"]);
    let mut clients = [proxy.client(), proxy.client3(), proxy.client(), proxy.client()];
    for round in 0..30 {
        let (old, new) = (format!("old{round}"), format!("new{round}"));
        server.client().expect(&["MSET", "k", &old, "quiet", &old], "+OK");
        for client in &mut clients {
            for key in ["k", "quiet"] {
                eventually("the value is hot", STEP, || {
                    client.bulk(&["GET", key]).is_some_and(|v| v == old.as_bytes())
                });
            }
        }
        // In one transaction, so that no push about the write can reach the links: only their death can tell.
        let mut killer = server.client();
        for line in [
            vec!["MULTI"],
            vec!["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"],
            vec!["MSET", "k", &new, "quiet", &new],
            vec!["EXEC"],
        ] {
            killer.send(&line);
        }
        killer.frames(4);
        for client in &mut clients {
            let end = Instant::now() + STEP;
            // A hit may be on its way while the end of the link is; then it is a miss, and never old again.
            let mut has_changed = false;
            loop {
                let reply = client.cmd(&["GET", "k"]);
                let is_old = reply == format!("${}\r\n{old}\r\n", old.len()).into_bytes();
                assert!(!(has_changed && is_old), "back to {old} in round {round}");
                has_changed |= !is_old;
                if reply == format!("${}\r\n{new}\r\n", new.len()).into_bytes() {
                    break;
                }
                assert!(Instant::now() < end, "no new value: {}", show(&reply));
                thread::sleep(Duration::from_micros(200));
            }
        }
        // Nobody has asked for this one since. The links live again, but what they filled before they died does not.
        for client in &mut clients {
            eventually("the links are up", STEP, || {
                client.cmd(&["SET", "other", &new]) == b"+OK\r\n"
            });
        }
        for client in &mut clients {
            assert_eq!(
                client.bulk(&["GET", "quiet"]),
                Some(new.clone().into_bytes()),
                "round {round}"
            );
        }
    }
}

#[test]
fn halves_filled_by_links_of_different_delay_are_no_snapshot() {
    let server = Server::start();
    let relay = Relay::start(&server.socket());
    relay.stagger();
    let proxy = Proxy::before(&relay.url(), &["--workers", "2"]);
    let mut clients = [proxy.client(), proxy.client()];
    let mut foreign = server.client();
    let mut torn = Vec::new();
    for round in 0..60_usize {
        let (old, new) = (format!("old{round}"), format!("new{round}"));
        foreign.expect(&["MSET", "a", &old, "b", &old], "+OK");
        // Each half is filled by another worker's link, the first by the quicker one in one round and the slower in the next.
        let (first, second) = (round % 2, (round + 1) % 2);
        for (client, half) in [(first, "a"), (second, "b")] {
            for _ in 0..2 {
                eventually("the half is hot", STEP, || {
                    clients[client]
                        .bulk(&["GET", half])
                        .is_some_and(|v| v == old.as_bytes())
                });
            }
        }
        // No longer under way but there: also the last reply of the slowest link.
        thread::sleep(Duration::from_millis(40));
        foreign.expect(&["MSET", "a", &new, "b", &new], "+OK");
        eventually("one half is new", STEP, || {
            clients[first].bulk(&["GET", "a"]).is_some_and(|v| v == new.as_bytes())
        });
        let both = children(&clients[first].cmd(&["MGET", "a", "b"]));
        if both[0] != both[1] {
            torn.push(format!("round {round}: {} and {}", show(&both[0]), show(&both[1])));
        }
    }
    assert!(
        torn.is_empty(),
        "{} times: {:?}",
        torn.len(),
        &torn[..torn.len().min(5)]
    );
}

#[test]
fn existence_told_by_links_of_different_delay_is_no_snapshot() {
    let server = Server::start();
    let relay = Relay::start(&server.socket());
    relay.stagger();
    let proxy = Proxy::before(&relay.url(), &["--workers", "2"]);
    let mut clients = [proxy.client(), proxy.client()];
    let mut foreign = server.client();
    foreign.expect(&["HSET", "a", "f", "v"], ":1");
    let mut torn = Vec::new();
    for round in 0..60_usize {
        // One of the two is there, always; each is known through another worker's link, as the reply to a read of hashes.
        let (there, gone) = [("a", "b"), ("b", "a")][round % 2];
        let (first, second) = (round / 2 % 2, (round / 2 + 1) % 2);
        for (client, name, fields) in [(first, there, 1), (second, gone, 0)] {
            for _ in 0..2 {
                eventually("the half is hot", STEP, || {
                    clients[client].int(&["HLEN", name]) == fields
                });
            }
        }
        thread::sleep(Duration::from_millis(40));
        foreign.expect(&["RENAME", there, gone], "+OK");
        eventually("one half is new", STEP, || clients[first].int(&["HLEN", there]) == 0);
        let count = clients[first].int(&["EXISTS", "a", "b", "a", "b"]);
        if count != 2 {
            torn.push(format!("round {round}: {count} of 4 arguments name the one key"));
        }
    }
    assert!(
        torn.is_empty(),
        "{} times: {:?}",
        torn.len(),
        &torn[..torn.len().min(5)]
    );
}

fn race(server: &Server, proxy: &Proxy, own: u64, foreign: u64, at_least: u64, title: &str) {
    let seed = seed();
    let world = World::new(server, 2, LENGTH);
    thread::scope(|scope| {
        for i in 0..own {
            let client = if i % 2 == 0 { proxy.client() } else { proxy.client3() };
            let random = Rng::with_seed(seed + i);
            let world = &world;
            scope.spawn(move || world.write(client, Writer::Own, Duration::ZERO, random));
        }
        for i in 0..foreign {
            let random = Rng::with_seed(seed + 100 + i);
            let world = &world;
            scope.spawn(move || world.write(server.client(), Writer::Foreign, Duration::from_millis(4), random));
        }
        for i in 0..6_usize {
            let random = Rng::with_seed(seed + 200 + i as u64);
            let (world, proxy) = (&world, &proxy);
            let connect = move || {
                if i.is_multiple_of(2) {
                    proxy.client()
                } else {
                    proxy.client3()
                }
            };
            scope.spawn(move || world.read(connect, [1, 1, 2, 4, 8, 16][i], random));
        }
    });
    world.report(title, at_least);
}
