//! No request waits for ever: what a lost connection has taken with it is sent again where that can do no harm, and everything
//! else is answered with an error that says what is known of it, within its deadline.

use std::time::{Duration, Instant};

use crate::support::client::encode;
use crate::support::relay::Relay;
use crate::support::{Client, Proxy, STEP, Server, eventually, show};

/// Sends it while nothing passes, and waits until it is on its way.
fn send_held(proxy: &Proxy, client: &mut Client, lines: &[&[&str]]) {
    let sent = || proxy.metric("nearcache_shared_requests_total", &[]).unwrap_or_default();
    let before = sent();
    client.raw(&lines.iter().flat_map(|line| encode(line)).collect::<Vec<_>>());
    eventually("it is on its way", STEP, || sent() >= before + lines.len() as f64);
}

#[test]
fn reads_that_a_connection_took_with_it_are_sent_again() {
    let server = Server::start();
    let relay = Relay::start(&server.socket());
    for consistency in ["coherent", "strong"] {
        let toml = format!("[cache]\nconsistency = \"{consistency}\"\n");
        let proxy = Proxy::with_config(&relay.url(), &toml, &["--workers", "1"]);
        let mut direct = server.client();
        direct.expect(&["MSET", "a", "1", "b", "2"], "+OK");
        direct.cmd(&["DEL", "h"]);
        direct.expect(&["HSET", "h", "f", "v"], ":1");
        let mut client = proxy.client();
        client.expect(&["SET", "other", "x"], "+OK");
        let reads: [(&[&str], &str); 5] = [
            (&["GET", "a"], "$1\\r\\n1\\r\\n"),
            (
                &["MGET", "a", "b", "none"],
                "*3\\r\\n$1\\r\\n1\\r\\n$1\\r\\n2\\r\\n$-1\\r\\n",
            ),
            (&["HGETALL", "h"], "*2\\r\\n$1\\r\\nf\\r\\n$1\\r\\nv\\r\\n"),
            (&["EXISTS", "a", "b"], ":2\\r\\n"),
            (&["OBJECT", "ENCODING", "b"], "$3\\r\\nint\\r\\n"),
        ];
        for (read, expected) in reads {
            // What is cached would be a hit.
            client.expect(&["MSET", "a", "1", "b", "2"], "+OK");
            relay.hold();
            send_held(&proxy, &mut client, &[read]);
            relay.cut();
            relay.release();
            assert_eq!(show(&client.frame()), expected, "{consistency}: {read:?}");
        }
        assert_eq!(proxy.metric("nearcache_repeated_reads_total", &[]), Some(5.0));
    }
}

#[test]
fn all_who_wait_for_one_read_are_answered_by_the_second() {
    let server = Server::start();
    let relay = Relay::start(&server.socket());
    let proxy = Proxy::before(&relay.url(), &["--workers", "2"]);
    server.client().expect(&["SET", "k", "v"], "+OK");
    let mut clients: Vec<Client> = (0..6).map(|_| proxy.client()).collect();
    for client in &mut clients {
        client.expect(&["SET", "warm", "x"], "+OK");
    }
    relay.hold();
    send_held(&proxy, &mut clients[0], &[&["GET", "k"]]);
    let joined = || proxy.metric("nearcache_l1_followers_total", &[]);
    for client in &mut clients[1..] {
        client.send(&["GET", "k"]);
    }
    eventually("they follow", STEP, || joined() == Some(5.0));
    // The last one is of the leader's own worker or of the other one; what it writes behind it must not be seen before.
    clients[5].send(&["SET", "k", "own"]);
    relay.cut();
    relay.release();
    for (i, client) in clients.iter_mut().enumerate() {
        let reply = show(&client.frame());
        let is_told = i == 5 && reply.starts_with("-ERR nearcache: ");
        assert!(
            reply == "$1\\r\\nv\\r\\n" || is_told || i < 5 && reply == "$3\\r\\nown\\r\\n",
            "client {i}: {reply}"
        );
    }
}

#[test]
fn a_read_before_an_own_write_is_not_sent_again() {
    let server = Server::start();
    let relay = Relay::start(&server.socket());
    for consistency in ["coherent", "strong"] {
        let toml = format!("[cache]\nconsistency = \"{consistency}\"\n");
        let proxy = Proxy::with_config(&relay.url(), &toml, &["--workers", "1"]);
        let mut client = proxy.client();
        for round in 0..5 {
            // A read that was lost once may take another way the next time.
            let key = format!("k{round}");
            eventually("the connection is there", STEP, || {
                client.cmd(&["SET", "other", "x"]) == b"+OK\r\n"
            });
            relay.hold();
            send_held(&proxy, &mut client, &[&["GET", &key], &["SET", &key, "x"]]);
            relay.cut();
            relay.release();
            let replies: Vec<String> = client.frames(2).iter().map(|reply| show(reply)).collect();
            // What was sent may or may not have been executed.
            assert!(
                replies
                    .iter()
                    .all(|reply| reply.contains("; a write may or may not have been executed")),
                "{consistency}: {replies:?}"
            );
        }
    }
}

#[test]
fn what_was_never_sent_waits_for_the_next_connection() {
    let server = Server::start();
    let relay = Relay::start(&server.socket());
    let proxy = Proxy::before(&relay.url(), &["--workers", "1"]);
    let mut client = proxy.client();
    client.expect(&["SET", "n", "0"], "+OK");
    relay.hold();
    let large = "x".repeat(900_000);
    let keys: Vec<String> = (0..20).map(|i| format!("large{i}")).collect();
    let mut lines: Vec<Vec<&str>> = keys.iter().map(|key| vec!["SET", key, &large]).collect();
    lines.extend([vec!["INCR", "n"], vec!["GET", "n"]]);
    let lines: Vec<&[&str]> = lines.iter().map(Vec::as_slice).collect();
    send_held(&proxy, &mut client, &lines);
    relay.cut();
    relay.release();
    let replies = client.frames(22);
    let lost = replies
        .iter()
        .filter(|reply| reply.starts_with(b"-ERR nearcache: the connection"))
        .count();
    let done = replies[..20].iter().filter(|reply| **reply == b"+OK\r\n").count();
    assert!(lost > 0 && done > 0 && lost + done == 20, "{lost} lost, {done} done");
    assert_eq!(
        (show(&replies[20]), show(&replies[21])),
        (":1\\r\\n".to_owned(), "$1\\r\\n1\\r\\n".to_owned())
    );
    assert_eq!(server.client().bulk(&["GET", "n"]), Some(b"1".to_vec()), "once");
}

#[test]
fn a_request_that_takes_too_long_is_answered_and_its_reply_is_not_mistaken_for_another() {
    let server = Server::start();
    let toml = "[upstream]\nrequest_timeout = \"300ms\"\n[breaker]\nfailures = 0\n";
    let proxy = Proxy::with_config(&server.url(), toml, &["--workers", "1"]);
    let mut clients: Vec<Client> = (0..3).map(|_| proxy.client()).collect();
    let lines: [&[&str]; 3] = [&["GET", "k"], &["SET", "k", "late"], &["MGET", "k", "j"]];
    for round in 0..3 {
        clients[0].expect(&["SET", "k", "old"], "+OK");
        let lost = proxy.metric("nearcache_links_lost_total", &[]);
        let accepted = server.info("total_connections_received");
        server.freeze();
        let begun = Instant::now();
        for client in &mut clients {
            for line in lines {
                client.send(line);
            }
        }
        for client in &mut clients {
            for reply in client.frames(3) {
                let told = show(&reply);
                assert!(
                    told.contains("has not answered within the request timeout of 300 ms; a write may or may not have been executed"),
                    "round {round}: {told}"
                );
            }
        }
        let took = begun.elapsed();
        assert!(
            (Duration::from_millis(250)..Duration::from_secs(5)).contains(&took),
            "{took:?}"
        );
        // More, while the old ones are still due.
        clients[1].send(&["ECHO", "x"]);
        clients[1].send(&["GET", "j"]);
        server.thaw();
        assert_eq!(show(&clients[1].frame()), "$1\\r\\nx\\r\\n");
        assert_eq!(show(&clients[1].frame()), "$-1\\r\\n");
        for client in &mut clients {
            // The write has been executed meanwhile; nothing from before it is shown, nor as the answer to something else.
            client.expect(&["GET", "k"], "$4\r\nlate");
            client.expect(&["STRLEN", "k"], ":4");
            client.expect(&["INCRBY", "n", "0"], ":0");
        }
        assert_eq!(
            proxy.metric("nearcache_links_lost_total", &[]),
            lost,
            "the connection lives"
        );
        assert!(server.info("total_connections_received") - accepted < 20);
    }
    assert_eq!(proxy.metric("nearcache_request_timeouts_total", &[]), Some(27.0));
}

#[test]
fn a_pause_is_no_slowness() {
    let server = Server::start();
    let toml = "[upstream]\nrequest_timeout = \"200ms\"\n";
    let proxy = Proxy::with_config(&server.url(), toml, &["--workers", "1"]);
    let (mut client, mut other) = (proxy.client(), proxy.client());
    other.expect(&["CLIENT", "PAUSE", "700", "ALL"], "+OK");
    let begun = Instant::now();
    client.expect(&["GET", "k"], "$-1");
    client.expect(&["SET", "k", "v"], "+OK");
    assert!(begun.elapsed() > Duration::from_millis(400), "it was paused");
    // Nor does the proxy say for the server that it answers.
    for request in [&["PING"][..], &["ECHO", "PONG"]] {
        other.expect(&["CLIENT", "PAUSE", "700", "ALL"], "+OK");
        let begun = Instant::now();
        assert!(client.text(request).contains("PONG"));
        assert!(begun.elapsed() > Duration::from_millis(400), "it was paused");
    }
}

#[test]
fn a_node_that_answers_nobody_within_the_request_timeout_is_cut_off() {
    let server = Server::start();
    let toml = "[upstream]\nrequest_timeout = \"100ms\"\n[breaker]\npause_min = \"200ms\"\npause_max = \"200ms\"\n";
    let proxy = Proxy::with_config(&server.url(), toml, &["--workers", "1"]);
    let mut client = proxy.client();
    client.expect(&["SET", "k", "v"], "+OK");
    server.freeze();
    let begun = Instant::now();
    eventually(
        "it is cut off long before the read timeout",
        Duration::from_secs(5),
        || {
            client
                .text(&["GET", "uncached"])
                .contains("its breaker is open after 5 failures")
        },
    );
    assert!(begun.elapsed() > Duration::from_millis(300), "{:?}", begun.elapsed());
    server.thaw();
    eventually("it comes back", STEP, || client.cmd(&["SET", "k", "w"]) == b"+OK\r\n");
}

#[test]
fn where_too_much_waits_for_a_node_that_does_not_answer_more_is_refused() {
    let server = Server::start();
    let toml = "[upstream]\nrequest_timeout = \"300ms\"\n[breaker]\nfailures = 0\n";
    let proxy = Proxy::with_config(&server.url(), toml, &["--workers", "1"]);
    let mut clients: Vec<Client> = (0..60).map(|_| proxy.client()).collect();
    clients[0].expect(&["SET", "k", "v"], "+OK");
    let value = "x".repeat(900_000);
    server.freeze();
    let begun = Instant::now();
    for client in &mut clients {
        client.send(&["SET", "large", &value]);
    }
    let (mut late, mut refused) = (0, 0);
    for client in &mut clients {
        let told = show(&client.frame());
        late += usize::from(told.contains("has not answered within the request timeout"));
        refused += usize::from(told.contains("does not keep up: 32 MiB of requests wait for it"));
    }
    // 32 MiB are 37 of them; one more finds room, and nobody waits for the read timeout.
    assert!(
        late + refused == 60 && (37..=39).contains(&late),
        "{late} late, {refused} refused"
    );
    assert!(begun.elapsed() < Duration::from_secs(8), "{:?}", begun.elapsed());
    assert_eq!(proxy.metric("nearcache_shed_requests_total", &[]), Some(refused as f64));
    server.thaw();
    for client in &mut clients {
        eventually("it works again", STEP, || client.cmd(&["SET", "k", "w"]) == b"+OK\r\n");
    }
}
