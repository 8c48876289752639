//! The options of the cache do what their text in the configuration file says.

use std::thread;
use std::time::{Duration, Instant};

use crate::support::relay::Relay;
use crate::support::{Client, Proxy, STEP, Server, eventually, show};

#[test]
fn max_age_ends_a_life_that_nothing_else_ends() {
    let server = Server::start();
    let proxy = Proxy::with_config(&server.url(), "[cache]\nmax_age = \"200ms\"\n", &["--workers", "1"]);
    let mut client = proxy.client();
    server.client().expect(&["SET", "k", "v"], "+OK");
    client.expect(&["GET", "k"], "$1\r\nv");
    server.forget_calls();
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_millis(1000) {
        client.expect(&["GET", "k"], "$1\r\nv");
        client.expect(&["TTL", "k"], ":-1");
    }
    let reads = server.calls("get");
    assert!((3..=8).contains(&reads), "{reads} reads in a second at 200 ms each");
}

#[test]
fn without_a_negative_ttl_absence_is_not_remembered() {
    let server = Server::start();
    let proxy = Proxy::with_config(&server.url(), "[cache]\nnegative_ttl = \"off\"\n", &["--workers", "1"]);
    let mut client = proxy.client();
    server.client().expect(&["SET", "k", "v"], "+OK");
    server.forget_calls();
    for _ in 0..10 {
        assert_eq!(client.bulk(&["GET", "missing"]), None);
        client.expect(&["HGETALL", "missing"], "*0");
        client.expect(&["GET", "k"], "$1\r\nv");
    }
    assert_eq!((server.calls("get"), server.calls("hgetall")), (11, 10));
}

#[test]
fn a_short_negative_ttl_is_kept_to() {
    let server = Server::start();
    let proxy = Proxy::with_config(
        &server.url(),
        "[cache]\nnegative_ttl = \"100ms\"\n",
        &["--workers", "1"],
    );
    let mut client = proxy.client();
    server.forget_calls();
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_millis(1000) {
        assert_eq!(client.bulk(&["GET", "missing"]), None);
    }
    let reads = server.calls("get");
    assert!((4..=12).contains(&reads), "{reads} reads in a second at 100 ms each");
}

#[test]
fn a_value_just_too_large_is_not_kept() {
    let server = Server::start();
    let proxy = Proxy::with_config(&server.url(), "[cache]\nmax_value = \"1KiB\"\n", &["--workers", "1"]);
    let mut client = proxy.client();
    for (size, is_kept) in [(1024, true), (1025, false), (100_000, false), (10, true)] {
        let value = vec![b'x'; size];
        client.expect(&[b"SET".as_slice(), b"k", &value], "+OK");
        server.forget_calls();
        for _ in 0..5 {
            assert!(client.bulk(&["GET", "k"]) == Some(value.clone()), "{size} bytes");
        }
        let reads = server.calls("get");
        assert_eq!(reads, if is_kept { 1 } else { 5 }, "{size} bytes");
    }
}

#[test]
fn eventual_consistency_is_bounded_by_age() {
    let server = Server::start();
    let toml = "[cache]\nconsistency = \"eventual\"\nmax_age = \"300ms\"\n";
    let proxy = Proxy::with_config(&server.url(), toml, &["--workers", "2"]);
    let mut clients = [proxy.client(), proxy.client3()];
    let mut foreign = server.client();
    for round in 0..6 {
        let value = format!("v{round}");
        for client in &mut clients {
            client.cmd(&["GET", "k"]);
        }
        foreign.expect(&["SET", "k", &value], "+OK");
        let acked = Instant::now();
        for client in &mut clients {
            loop {
                let asked = acked.elapsed();
                if client.bulk(&["GET", "k"]).is_some_and(|v| v == value.as_bytes()) {
                    break;
                }
                assert!(
                    asked < Duration::from_millis(320),
                    "an old value {asked:?} after the write"
                );
            }
        }
    }
    server.forget_calls();
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_millis(200) {
        clients[0].cmd(&["GET", "k"]);
    }
    assert!(server.calls("get") <= 2, "{} reads", server.calls("get"));
}

#[test]
fn a_tighter_bound_is_kept_to() {
    let server = Server::start();
    let relay = Relay::start(&server.socket());
    let proxy = Proxy::with_config(&relay.url(), "[cache]\nbound = \"200ms\"\n", &["--workers", "1"]);
    let mut foreign = server.client();
    foreign.expect(&["SET", "k", "old"], "+OK");
    let mut clients: Vec<Client> = (0..30).map(|_| proxy.client()).collect();
    for client in &mut clients {
        client.expect(&["GET", "k"], "$3\r\nold");
    }
    relay.hold();
    foreign.expect(&["SET", "k", "new"], "+OK");
    let acked = Instant::now();
    let mut pending = Vec::new();
    for (tick, mut client) in clients.into_iter().enumerate() {
        thread::sleep((Duration::from_millis(25) * tick as u32).saturating_sub(acked.elapsed()));
        let age = acked.elapsed();
        client.send(&["GET", "k"]);
        match client.try_frame(Duration::from_millis(25)) {
            Ok(reply) => {
                assert_eq!(show(&reply), "$3\\r\\nold\\r\\n");
                assert!(age < Duration::from_millis(400), "an old value {age:?} after the write");
            }
            Err(_) => pending.push(client),
        }
    }
    relay.release();
    for mut client in pending {
        assert_eq!(show(&client.frame()), "$3\\r\\nnew\\r\\n");
    }
}

#[test]
fn a_life_shortened_behind_the_proxys_back_ends_in_time() {
    let server = Server::start();
    let proxy = Proxy::start(&server, &["--workers", "2"]);
    let mut foreign = server.client();
    // The server will not tell when the time comes.
    foreign.expect(&["DEBUG", "SET-ACTIVE-EXPIRE", "0"], "+OK");
    let mut clients = [proxy.client(), proxy.client3()];
    for round in 0..10 {
        let key = format!("k{round}");
        foreign.expect(&["SET", &key, "v", "EX", "1000"], "+OK");
        foreign.expect(&["HSET", "h", "f", "v"], ":1");
        for client in &mut clients {
            client.expect(&["GET", &key], "$1\r\nv");
            client.expect(&["GET", &key], "$1\r\nv");
            client.expect(&["HGET", "h", "f"], "$1\r\nv");
        }
        foreign.expect(&["PEXPIRE", &key, "80"], ":1");
        foreign.expect(&["PEXPIRE", "h", "80"], ":1");
        let acked = Instant::now();
        eventually("the shorter life is known", STEP / 10, || {
            clients.iter_mut().all(|c| c.int(&["PTTL", &key]) <= 80)
        });
        for client in &mut clients {
            loop {
                let asked = acked.elapsed();
                if client.bulk(&["GET", &key]).is_none() && client.bulk(&["HGET", "h", "f"]).is_none() {
                    break;
                }
                assert!(
                    asked <= Duration::from_millis(85),
                    "still there {asked:?} after PEXPIRE 80"
                );
            }
        }
    }
}
