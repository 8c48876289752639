//! A node that fails again and again is cut off: whoever needs it is told at once, it gets one probe at a time, and it comes
//! back by such a probe.

use std::time::{Duration, Instant};

use crate::support::cluster::Cluster;
use crate::support::relay::Relay;
use crate::support::{Client, Proxy, STEP, Server, eventually};

/// Short times, so that a hanging node is found out soon.
const TOML: &str = "[upstream]\nread_timeout = \"400ms\"\nconnect_timeout = \"150ms\"\n\
                    [breaker]\npause_min = \"200ms\"\npause_max = \"300ms\"\n";

#[test]
fn a_node_that_was_killed_is_cut_off_and_comes_back_by_a_probe() {
    let mut server = Server::start();
    let proxy = Proxy::with_config(&server.url_tcp(), TOML, &[]);
    let mut client = proxy.client();
    client.expect(&["SET", "k", "v"], "+OK");
    assert_eq!(state(&proxy, "closed"), 1.0);
    server.kill();
    is_cut_off(&proxy, &mut client);
    let refused = error(&mut client, &["GET", "other"]);
    assert!(refused.contains("; the last failure: Connection refused"), "{refused}");
    assert_eq!(proxy.http("/health").0, 503);
    let health = proxy.http("/health").1;
    assert!(
        health.contains("the breakers of 1 of 1 upstream nodes are open"),
        "{health}"
    );
    let info = client.text(&["INFO", "nearcache"]);
    assert!(
        info.contains(&format!("nearcache_breaker:127.0.0.1:{} open, opened ", server.port())),
        "{info}"
    );
    server.restart();
    eventually("it comes back", STEP, || client.cmd(&["SET", "k", "w"]) == b"+OK\r\n");
    client.expect(&["GET", "k"], "$1\r\nw");
    eventually("all is well", STEP, || {
        state(&proxy, "closed") == 1.0 && proxy.http("/health").1.contains("\"healthy\"")
    });
    let log = proxy.log();
    for line in [
        "the node is given up",
        "breaker half-open",
        "breaker closed: the node answers",
    ] {
        assert!(log.contains(line), "{line}");
    }
}

#[test]
fn a_node_that_hangs_is_cut_off() {
    let server = Server::start();
    let proxy = Proxy::with_config(&server.url(), TOML, &[]);
    let mut clients = [proxy.client(), proxy.client3()];
    clients[0].expect(&["SET", "k", "v"], "+OK");
    server.freeze();
    for client in &mut clients {
        is_cut_off(&proxy, client);
    }
    server.thaw();
    for client in &mut clients {
        eventually("it comes back", STEP, || client.cmd(&["SET", "k", "w"]) == b"+OK\r\n");
    }
}

#[test]
fn a_node_that_accepts_and_never_answers_gets_one_probe_at_a_time() {
    let server = Server::start();
    let relay = Relay::start(&server.socket());
    let proxy = Proxy::with_config(&relay.url(), TOML, &["--workers", "2"]);
    let mut client = proxy.client();
    client.expect(&["SET", "k", "v"], "+OK");
    relay.hold();
    is_cut_off(&proxy, &mut client);
    // Whatever is asked for meanwhile, there is a connection for each probe and no more.
    let probes = || change(&proxy, "half_open");
    let (begun, first, accepted) = (Instant::now(), probes(), relay.accepted());
    let mut kinds = [
        vec!["GET", "x"],
        vec!["WATCH", "k"],
        vec!["EVAL", "return 1", "0"],
        vec!["CONFIG", "GET", "save"],
    ]
    .into_iter()
    .cycle();
    while probes() < first + 3.0 {
        error(&mut client, &kinds.next().expect("for ever"));
        assert!(begun.elapsed() < STEP, "there are no probes");
    }
    // One that has just begun may not have been accepted yet.
    let (made, seen) = (relay.accepted() - accepted, (probes() - first) as u64);
    assert!(
        (seen - 1..=seen + 1).contains(&made),
        "{made} connections for {seen} probes"
    );
    relay.release();
    eventually("it comes back", STEP, || client.cmd(&["SET", "k", "w"]) == b"+OK\r\n");
}

#[test]
fn a_node_that_is_only_slow_is_used_on() {
    let server = Server::start();
    let relay = Relay::start(&server.socket());
    relay.jitter(Duration::from_millis(80));
    let proxy = Proxy::with_config(&relay.url(), TOML, &[]);
    let mut clients: Vec<Client> = (0..8).map(|_| proxy.client()).collect();
    for round in 0..8 {
        for client in &mut clients {
            client.send(&["SET", "k", &round.to_string()]);
            client.send(&["GET", "uncached"]);
        }
        for client in &mut clients {
            let replies = client.frames(2);
            assert!(replies[0] == b"+OK\r\n" && replies[1] == b"$-1\r\n", "{replies:?}");
        }
    }
    assert_eq!((change(&proxy, "open"), state(&proxy, "closed")), (0.0, 1.0));
}

#[test]
fn what_clients_do_wrong_opens_nothing() {
    let server = Server::start();
    let proxy = Proxy::with_config(&server.url(), TOML, &[]);
    let mut client = proxy.client();
    for _ in 0..50 {
        assert!(client.text(&["INCR"]).starts_with("-ERR"));
        assert!(
            client
                .text(&["EVAL", "return redis.error_reply('LOADING x')", "0"])
                .starts_with("-")
        );
        client.cmd(&["SET", "k", "text"]);
        assert!(client.text(&["LPUSH", "k", "x"]).starts_with("-WRONGTYPE"));
    }
    // Nor does a server that closes connections and takes them again.
    for _ in 0..10 {
        server
            .client()
            .cmd(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
        eventually("it works again", STEP, || client.cmd(&["SET", "k", "v"]) == b"+OK\r\n");
    }
    assert_eq!((change(&proxy, "open"), state(&proxy, "closed")), (0.0, 1.0));
}

#[test]
fn a_node_that_loads_its_data_is_left_alone_until_it_has() {
    let server = Server::with(&["--enable-debug-command", "yes"]);
    let mut direct = server.client();
    for i in 0..1000 {
        direct.expect(&["SET", &format!("k{i}"), &"x".repeat(1000)], "+OK");
    }
    let proxy = Proxy::with_config(&server.url(), TOML, &[]);
    let mut client = proxy.client();
    client.expect(&["GET", "none"], "$-1");
    direct.expect(
        &["CONFIG", "SET", "loading-process-events-interval-bytes", "1024"],
        "+OK",
    );
    direct.expect(&["CONFIG", "SET", "key-load-delay", "2000"], "+OK");
    direct.send(&["DEBUG", "RELOAD"]);
    let mut told = String::new();
    eventually("it is cut off", STEP, || {
        told = client.text(&["GET", "k0"]);
        told.contains("its breaker is open")
    });
    assert!(told.starts_with("-LOADING "), "clients know it: {told}");
    eventually("it comes back", STEP, || client.cmd(&["GET", "k0"]).len() > 1000);
}

#[test]
fn who_waits_on_a_connection_of_its_own_when_the_node_is_given_up_is_told_then() {
    let server = Server::start();
    let toml = "[upstream]\nread_timeout = \"60s\"\nwrite_timeout = \"60s\"\nrequest_timeout = \"100ms\"\n\
                [breaker]\npause_min = \"60s\"\npause_max = \"60s\"\n";
    let proxy = Proxy::with_config(&server.url(), toml, &[]);
    let mut client = proxy.client();
    client.expect(&["SET", "k", "v"], "+OK");
    let (mut large, mut stateful, mut blocked, mut idle) =
        (proxy.client(), proxy.client(), proxy.client(), proxy.client());
    stateful.expect(&["WATCH", "k"], "+OK");
    idle.expect(&["WATCH", "k"], "+OK");
    blocked.send(&["BLPOP", "list", "0"]);
    eventually("it is blocked", STEP, || server.info("blocked_clients") == 1);
    server.freeze();
    large.send(&["SET", "large", &"x".repeat(3 << 20)]);
    stateful.send(&["GET", "k"]);
    eventually("it is cut off", STEP, || {
        client.text(&["GET", "uncached"]).contains("its breaker is open")
    });
    let begun = Instant::now();
    let told = String::from_utf8_lossy(&large.frame()).into_owned();
    assert!(told.contains("its breaker is open after 5 failures in a row"), "{told}");
    // Its WATCH is gone with the connection, which it has to learn.
    stateful.until_closed();
    assert!(
        begun.elapsed() < Duration::from_secs(5),
        "not the timeouts: {:?}",
        begun.elapsed()
    );
    idle.send(&["GET", "k"]);
    idle.until_closed();
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    server.thaw();
    // Nobody has asked for the one who waits for an element.
    server.client().expect(&["RPUSH", "list", "x"], ":1");
    assert!(blocked.frame().ends_with(b"$1\r\nx\r\n"));
}

#[test]
fn a_server_that_is_silent_for_a_while_is_waited_for() {
    let server = Server::start();
    let toml = "[upstream]\nconnect_timeout = \"50ms\"\nread_timeout = \"20s\"\n[breaker]\npause_min = \"60s\"\npause_max = \"60s\"\n";
    let proxy = Proxy::with_config(&server.url(), toml, &["--workers", "1"]);
    let mut client = proxy.client();
    client.expect(&["SET", "k", "v"], "+OK");
    server.client().expect(&["CONFIG", "SET", "maxclients", "100"], "+OK");
    server.freeze();
    // Each needs a connection that is not there yet: for scripts, for subscriptions, to another database, and of its own.
    let lines: [(&[&str], &str); 4] = [
        (&["EVAL", "return 1", "0"], ":1\r\n"),
        (&["SUBSCRIBE", "news"], "*3\r\n$9\r\nsubscribe\r\n$4\r\nnews\r\n:1\r\n"),
        (&["SELECT", "3"], "+OK\r\n"),
        (&["WATCH", "k"], "+OK\r\n"),
    ];
    let mut waiting: Vec<Client> = lines
        .iter()
        .map(|(line, _)| {
            let mut client = proxy.client();
            client.send(line);
            client
        })
        .collect();
    waiting[2].send(&["GET", "k"]);
    let begun = Instant::now();
    // Many times what a handshake may take; the control plane has tried again and again meanwhile.
    while begun.elapsed() < Duration::from_millis(1200) {
        assert_eq!(change(&proxy, "open"), 0.0);
    }
    server.thaw();
    for (client, (line, reply)) in waiting.iter_mut().zip(lines) {
        assert_eq!(String::from_utf8_lossy(&client.frame()), reply, "{line:?}");
    }
    assert_eq!(waiting[2].frame(), b"$-1\r\n");
    assert_eq!((change(&proxy, "open"), state(&proxy, "closed")), (0.0, 1.0));
}

#[test]
fn large_values_do_not_wait_for_a_node_that_is_not_theirs() {
    let cluster = Cluster::start();
    let toml = "[upstream]\nread_timeout = \"60s\"\n";
    let proxy = Proxy::with_config(&cluster.url(), toml, &["--workers", "1"]);
    let mut client = proxy.client();
    let (hung, well) = (cluster.key(0, 0), cluster.key(1, 0));
    client.expect(&["SET", &hung, "v"], "+OK");
    client.expect(&["SET", &well, "v"], "+OK");
    cluster.nodes[0].freeze();
    let large = "x".repeat(2 << 20);
    let mut stuck: Vec<Client> = (0..8).map(|_| proxy.client()).collect();
    for client in &mut stuck {
        client.send(&["SET", &hung, &large]);
    }
    let begun = Instant::now();
    client.expect(&["SET", &well, &large], "+OK");
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    cluster.nodes[0].thaw();
}

/// Waits until every request that needs the node fails at once, and looks at how fast that is.
fn is_cut_off(proxy: &Proxy, client: &mut Client) {
    eventually("the breaker is open", STEP, || {
        let reply = client.text(&["SET", "k", "never"]);
        reply.starts_with("-ERR nearcache: upstream ") && reply.contains("its breaker is ")
    });
    let mut took: Vec<Duration> = (0..50)
        .map(|i| {
            let begun = Instant::now();
            let line = [["GET", "uncached"], ["INCR", "n"], ["WATCH", "k"]][i % 3];
            let told = error(client, &line);
            assert!(
                told.contains(" the next probe is in ") || told.contains(" a probe is under way"),
                "{told}"
            );
            begun.elapsed()
        })
        .collect();
    took.sort_unstable();
    // The machine may be busy; the proxy may not be waiting for anything.
    assert!(took[25] < Duration::from_millis(1), "the median of {took:?}");
    assert!(state(proxy, "open") + state(proxy, "half_open") == 1.0);
}

fn error(client: &mut Client, line: &[&str]) -> String {
    let told = client.text(line);
    assert!(told.starts_with("-ERR nearcache: upstream "), "{line:?}: {told}");
    told
}

fn state(proxy: &Proxy, state: &str) -> f64 {
    proxy
        .metric("nearcache_breaker_state", &[&format!("state=\"{state}\"")])
        .expect("it is published")
}

fn change(proxy: &Proxy, state: &str) -> f64 {
    proxy
        .metric("nearcache_breaker_changes_total", &[&format!("state=\"{state}\"")])
        .expect("it is published")
}
