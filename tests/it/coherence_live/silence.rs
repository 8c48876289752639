//! What nobody tells: a link that is silent without being broken, a proxy that was stopped, exchanged databases,
//! eviction at the server.

use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::{BOUND, SLACK};
use crate::support::relay::Relay;
use crate::support::{Client, Proxy, STEP, Server, eventually, show};

#[test]
fn a_silent_link_vouches_for_nothing_after_the_bound() {
    let server = Server::start();
    let relay = Relay::start(&server.socket());
    let proxy = Proxy::before(&relay.url(), &["--workers", "2"]);
    let mut foreign = server.client();
    foreign.expect(&["MSET", "k", "old", "quiet", "same"], "+OK");
    let mut askers: Vec<Client> = (0..40).map(|_| proxy.client()).collect();
    for asker in askers.iter_mut().chain([&mut proxy.client()]) {
        asker.expect(&["GET", "k"], "$3\r\nold");
        asker.expect(&["GET", "quiet"], "$4\r\nsame");
    }
    relay.hold();
    foreign.expect(&["SET", "k", "new"], "+OK");
    let acked = Instant::now();
    let mut pending = Vec::new();
    let mut hits = 0;
    for (tick, mut asker) in askers.into_iter().enumerate() {
        // One every 60 ms, for 2.4 seconds: well beyond the bound.
        let due = Duration::from_millis(60) * tick as u32;
        thread::sleep(due.saturating_sub(acked.elapsed()));
        let age = acked.elapsed();
        asker.send(&["GET", "k"]);
        match asker.try_frame(Duration::from_millis(60)) {
            Ok(reply) if reply == b"$3\r\nold\r\n" => {
                assert!(age <= BOUND + SLACK, "still the old value {age:?} after the write");
                hits += 1;
            }
            Ok(reply) => assert!(
                reply.starts_with(b"-"),
                "nothing new can have come through: {}",
                show(&reply)
            ),
            Err(_) => pending.push(asker),
        }
    }
    assert!(acked.elapsed() > BOUND + SLACK, "the test looked beyond the bound");
    assert!(!pending.is_empty(), "{hits} hits and no miss in {:?}", acked.elapsed());
    // The proxy itself is well, also for those who come now.
    let mut late = proxy.client();
    late.expect(&["PING"], "+PONG");
    let mut late = late.hello3();
    late.expect(&["SELECT", "1"], "+OK");
    server.forget_calls();
    relay.release();
    for mut asker in pending {
        let reply = asker.frame();
        assert!(
            reply == b"$3\r\nnew\r\n" || reply.starts_with(b"-"),
            "a miss was answered {}",
            show(&reply)
        );
        asker.expect(&["GET", "k"], "$3\r\nnew");
        asker.expect(&["GET", "quiet"], "$4\r\nsame");
    }
    let reads = server.calls("get");
    assert!(
        reads <= 60,
        "what nobody wrote is a hit again when the link speaks again: {reads} reads"
    );
}

#[test]
fn entries_survive_a_silence() {
    let server = Server::start();
    let relay = Relay::start(&server.socket());
    let proxy = Proxy::before(&relay.url(), &["--workers", "1"]);
    let mut client = proxy.client();
    server.client().expect(&["SET", "k", "v"], "+OK");
    client.expect(&["GET", "k"], "$1\r\nv");
    client.expect(&["GET", "k"], "$1\r\nv");
    let links = relay.accepted();
    server.forget_calls();
    relay.hold();
    thread::sleep(BOUND + SLACK);
    relay.release();
    // The first read may go upstream: the link has not answered yet. Then it vouches again for what it filled.
    client.expect(&["GET", "k"], "$1\r\nv");
    client.expect(&["PING"], "+PONG");
    for _ in 0..50 {
        client.expect(&["GET", "k"], "$1\r\nv");
    }
    assert!(server.calls("get") <= 2, "{} reads", server.calls("get"));
    assert_eq!(
        relay.accepted(),
        links,
        "a silence of {:?} breaks no link",
        BOUND + SLACK
    );
}

#[test]
fn a_paused_server_is_waited_for() {
    let server = Server::start();
    let proxy = Proxy::start(&server, &["--workers", "2"]);
    let mut clients = [proxy.client(), proxy.client3()];
    for client in &mut clients {
        client.expect(&["SET", "k", "before"], "+OK");
        client.expect(&["GET", "k"], "$6\r\nbefore");
    }
    let mut foreign = server.client();
    let links = foreign.int(&["CLIENT", "ID"]);
    foreign.expect(&["CLIENT", "PAUSE", "1800"], "+OK");
    let paused = Instant::now();
    for client in &mut clients {
        client.send(&["SET", "k", "after"]);
    }
    for client in &mut clients {
        assert_eq!(show(&client.frame()), "+OK\\r\\n");
        client.expect(&["GET", "k"], "$5\r\nafter");
    }
    assert!(
        paused.elapsed() >= Duration::from_millis(1500),
        "the pause was felt: {:?}",
        paused.elapsed()
    );
    let now = server.client().int(&["CLIENT", "ID"]);
    assert!(now <= links + 3, "links were opened anew: ids {links} to {now}");
}

#[test]
fn a_proxy_that_was_stopped_does_not_trust_its_memory() {
    let server = Server::start();
    let proxy = Proxy::start(&server, &["--workers", "2"]);
    let pid = Pid::from_raw(proxy.pid() as i32).expect("a process id is not zero");
    let mut clients: Vec<Client> = (0..6).map(|_| proxy.client()).collect();
    let mut foreign = server.client();
    for round in 0..4 {
        let (old, new) = (format!("old{round}"), format!("new{round}"));
        foreign.expect(&["SET", "k", &old], "+OK");
        for client in &mut clients {
            eventually("the old value is hot", STEP, || {
                client.bulk(&["GET", "k"]).is_some_and(|v| v == old.as_bytes())
            });
        }
        kill_process(pid, Signal::STOP).expect("the proxy is alive");
        foreign.expect(&["SET", "k", &new], "+OK");
        thread::sleep(BOUND + Duration::from_millis(150));
        for client in &mut clients {
            client.send(&["GET", "k"]);
        }
        kill_process(pid, Signal::CONT).expect("the proxy is alive");
        for client in &mut clients {
            let expected = format!("${}\r\n{new}\r\n", new.len());
            assert_eq!(
                show(&client.frame()),
                show(expected.as_bytes()),
                "asked more than the bound after the write"
            );
        }
    }
}

#[test]
fn databases_exchanged_behind_the_proxys_back_are_noticed() {
    let server = Server::start();
    let proxy = Proxy::start(&server, &["--workers", "2"]);
    let mut foreign = server.client();
    foreign.expect(&["SET", "k", "zero"], "+OK");
    foreign.expect(&["SELECT", "1"], "+OK");
    foreign.expect(&["SET", "k", "one"], "+OK");
    let mut clients = [proxy.client(), proxy.client3()];
    for _ in 0..3 {
        let before = clients[0].bulk(&["GET", "k"]);
        for client in &mut clients {
            assert_eq!(client.bulk(&["GET", "k"]), before);
        }
        foreign.expect(&["SWAPDB", "0", "1"], "+OK");
        for client in &mut clients {
            eventually("the exchange is seen", 2 * BOUND + SLACK, || {
                client.bulk(&["GET", "k"]) != before
            });
        }
    }
}

#[test]
fn databases_exchanged_through_the_proxy_are_seen_at_once() {
    let server = Server::start();
    let proxy = Proxy::start(&server, &["--workers", "2"]);
    let mut clients = [proxy.client(), proxy.client3(), proxy.client()];
    clients[0].expect(&["SET", "k", "0"], "+OK");
    clients[0].expect(&["SELECT", "1"], "+OK");
    clients[0].expect(&["SET", "k", "1"], "+OK");
    clients[0].expect(&["SELECT", "0"], "+OK");
    for round in 1..100 {
        for client in &mut clients {
            client.cmd(&["GET", "k"]);
        }
        clients[round % 3].expect(&["SWAPDB", "0", "1"], "+OK");
        for client in &mut clients {
            assert_eq!(
                client.bulk(&["GET", "k"]),
                Some((round % 2).to_string().into_bytes()),
                "round {round}"
            );
        }
    }
}

#[test]
fn keys_that_the_server_evicts_are_evicted_here() {
    let server = Server::with(&["--maxmemory", "4mb", "--maxmemory-policy", "allkeys-random"]);
    let proxy = Proxy::start(&server, &["--workers", "2"]);
    let (mut writer, mut reader, mut truth) = (proxy.client(), proxy.client3(), server.client());
    let value = "x".repeat(2000);
    const KEYS: usize = 3000;
    for i in 0..KEYS {
        let key = format!("key:{i}");
        writer.expect(&["SET", &key, &value], "+OK");
        reader.cmd(&["GET", &key]);
    }
    assert!(server.info("evicted_keys") > 100, "the server had to evict");
    eventually("cache and server agree", BOUND + SLACK, || {
        (0..KEYS).step_by(7).all(|i| {
            let key = format!("key:{i}");
            reader.bulk(&["GET", &key]) == truth.bulk(&["GET", &key])
        })
    });
}

#[test]
fn a_writer_that_leaves_without_waiting_has_written_all_the_same() {
    let server = Server::start();
    let proxy = Proxy::start(&server, &["--workers", "2"]);
    let mut readers = [proxy.client(), proxy.client3()];
    for round in 0..50 {
        for reader in &mut readers {
            reader.cmd(&["GET", "k"]);
        }
        let value = format!("v{round}");
        let mut writer = proxy.client();
        writer.send(&["SET", "k", &value]);
        if round % 2 == 0 {
            writer.close();
        } else {
            writer.close_write();
        }
        let mut direct = server.client();
        eventually("the write arrives", STEP, || {
            direct.bulk(&["GET", "k"]).is_some_and(|v| v == value.as_bytes())
        });
        for reader in &mut readers {
            eventually("and is seen", BOUND + SLACK, || {
                reader.bulk(&["GET", "k"]).is_some_and(|v| v == value.as_bytes())
            });
        }
    }
}
