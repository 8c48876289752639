//! One node of the cluster is in trouble, or can be reached by everybody but the proxy: what it was asked is told in time, and
//! nobody else notices.

use std::time::{Duration, Instant};

use crate::support::client::encode;
use crate::support::cluster::{Cluster, FAILOVER, slot};
use crate::support::relay::Relay;
use crate::support::{Client, Proxy, STEP, eventually, show};

/// Short times, so that trouble is found out soon.
const TOML: &str = "[upstream]\nread_timeout = \"600ms\"\nconnect_timeout = \"200ms\"\n\
                    [breaker]\npause_min = \"200ms\"\npause_max = \"300ms\"\n";

/// Sends it while nothing passes, and waits until it is on its way.
fn send_held(proxy: &Proxy, client: &mut Client, lines: &[&[&str]]) {
    let sent = || proxy.metric("nearcache_shared_requests_total", &[]).unwrap_or_default();
    let before = sent();
    client.raw(&lines.iter().flat_map(|line| encode(line)).collect::<Vec<_>>());
    eventually("it is on its way", STEP, || sent() >= before + lines.len() as f64);
}

fn open_breakers(proxy: &Proxy) -> f64 {
    let state = |state: &str| proxy.metric("nearcache_breaker_state", &[&format!("state=\"{state}\"")]);
    state("open").unwrap_or_default() + state("half_open").unwrap_or_default()
}

#[test]
fn reads_that_a_connection_took_with_it_are_sent_again() {
    let cluster = Cluster::start();
    let relay = cluster.relay(0);
    let proxy = Proxy::before(&cluster.url(), &["--workers", "1"]);
    let mut client = proxy.client();
    let (a, b, far) = (cluster.key(0, 0), cluster.key(0, 1), cluster.key(1, 0));
    let reads: [(&[&str], &str); 4] = [
        (&["GET", &a], "$1\\r\\n1\\r\\n"),
        (
            &["MGET", &a, &far, &b],
            "*3\\r\\n$1\\r\\n1\\r\\n$1\\r\\n3\\r\\n$1\\r\\n2\\r\\n",
        ),
        (&["EXISTS", &a, &far, &b], ":3\\r\\n"),
        (&["GETRANGE", &b, "0", "-1"], "$1\\r\\n2\\r\\n"),
    ];
    for (read, expected) in reads {
        // What is cached would be a hit.
        client.expect(&["MSET", &a, "1", &b, "2", &far, "3"], "+OK");
        relay.hold();
        send_held(&proxy, &mut client, &[read]);
        relay.cut();
        relay.release();
        assert_eq!(show(&client.frame()), expected, "{read:?}");
    }
    assert!(proxy.metric("nearcache_repeated_reads_total", &[]).unwrap_or_default() >= 4.0);
    // A write is not, nor a read that its client could see overtaken by what it has written since.
    relay.hold();
    send_held(&proxy, &mut client, &[&["INCR", &a]]);
    relay.cut();
    relay.release();
    let told = show(&client.frame());
    assert!(told.contains("may or may not have been executed"), "{told}");
}

#[test]
fn a_read_that_a_node_sent_elsewhere_is_sent_again_for_all_who_wait_for_it() {
    let cluster = Cluster::start();
    let relays = [cluster.relay(0), cluster.relay(1)];
    let proxy = Proxy::before(&cluster.url(), &["--workers", "1"]);
    let mut clients = [proxy.client(), proxy.client()];
    let key = cluster.key(0, 0);
    clients[0].expect(&["SET", &key, "v"], "+OK");
    clients[0].expect(&["SET", &cluster.key(1, 0), "v"], "+OK");
    cluster.begin_move(slot(key.as_bytes()), 0, 1);
    cluster.move_keys(slot(key.as_bytes()), 0, 1);
    let count = |name: &str| proxy.metric(name, &[]).unwrap_or_default();
    relays.iter().for_each(Relay::hold);
    send_held(&proxy, &mut clients[0], &[&["GET", &key]]);
    clients[1].send(&["GET", &key]);
    eventually("the other one follows", STEP, || {
        count("nearcache_l1_followers_total") == 1.0
    });
    let before = count("nearcache_redirects_total");
    relays[0].release();
    eventually("it is sent to the other node", STEP, || {
        count("nearcache_redirects_total") > before
    });
    relays[1].cut();
    relays[1].release();
    for client in &mut clients {
        assert_eq!(show(&client.frame()), "$1\\r\\nv\\r\\n");
    }
}

#[test]
fn what_a_node_left_unanswered_goes_to_the_one_that_has_its_slots_by_now() {
    let cluster = Cluster::with(3, true, &[]);
    let relay = cluster.relay(0);
    let toml = "[upstream]\nread_timeout = \"30s\"\nrequest_timeout = \"30s\"\nconnect_timeout = \"300ms\"\n";
    let proxy = Proxy::with_config(&cluster.url(), toml, &["--workers", "1"]);
    let (mut client, mut other) = (proxy.client(), proxy.client());
    let key = cluster.key(0, 0);
    client.expect(&["SET", &key, "v"], "+OK");
    eventually("its replica has it", STEP, || {
        let mut replica = cluster.client(3);
        replica.expect(&["READONLY"], "+OK");
        replica.bulk(&["GET", &key]) == Some(b"v".to_vec())
    });
    relay.hold();
    send_held(&proxy, &mut client, &[&["GET", &key]]);
    cluster.client(3).expect(&["CLUSTER", "FAILOVER", "TAKEOVER"], "+OK");
    eventually("the new one is known", STEP, || {
        proxy.log().matches("the slots of the cluster have other nodes").count() >= 2
    });
    other.expect(&["SET", &format!("{{{key}}}other"), "w"], "+OK");
    // The old node cannot be reached any more.
    relay.cut();
    assert_eq!(show(&client.frame()), "$1\\r\\nv\\r\\n");
    relay.release();
}

#[test]
fn a_request_that_is_sent_elsewhere_keeps_its_deadline() {
    let cluster = Cluster::start();
    let relays = [cluster.relay(0), cluster.relay(1)];
    let toml = "[upstream]\nrequest_timeout = \"1500ms\"\nread_timeout = \"8s\"\n";
    let proxy = Proxy::with_config(&cluster.url(), toml, &["--workers", "1"]);
    let mut client = proxy.client();
    let key = cluster.key(0, 0);
    client.expect(&["SET", &key, "v"], "+OK");
    client.expect(&["SET", &cluster.key(1, 0), "v"], "+OK");
    cluster.begin_move(slot(key.as_bytes()), 0, 1);
    cluster.move_keys(slot(key.as_bytes()), 0, 1);
    for request in [
        &[&["APPEND", &key, "x"][..]][..],
        &[&["MULTI"], &["APPEND", &key, "x"], &["EXEC"]],
    ] {
        relays.iter().for_each(Relay::hold);
        let begun = Instant::now();
        send_held(&proxy, &mut client, request);
        let redirected = || proxy.metric("nearcache_redirects_total", &[]).unwrap_or_default();
        let before = redirected();
        eventually("more than half of its time is over", STEP, || {
            begun.elapsed() > Duration::from_millis(900)
        });
        relays[0].release();
        eventually("it is sent to the other node", STEP, || redirected() > before);
        let last = client.frames(request.len()).pop().expect("a reply");
        let took = begun.elapsed();
        assert!(
            show(&last).contains("has not answered within the request timeout of 1500 ms"),
            "{}",
            show(&last)
        );
        assert!(took < Duration::from_millis(2300), "{took:?}");
        relays[1].release();
        eventually("the slow node answers again", STEP, || {
            client.text(&["GET", &cluster.key(1, 1)]) == "$-1\r\n"
        });
    }
}

#[test]
fn what_any_node_can_do_is_not_done_by_one_that_the_proxy_cannot_reach() {
    let cluster = Cluster::start();
    let relays: Vec<Relay> = (0..3).map(|node| cluster.relay(node)).collect();
    let proxy = Proxy::with_config(&cluster.url(), TOML, &["--workers", "1"]);
    let (mut listener, mut client) = (proxy.client(), proxy.client());
    for (nth, relay) in relays.iter().enumerate() {
        relay.hold();
        relay.cut();
        eventually("subscriptions go to a node that can be reached", STEP, || {
            let channel = format!("channel{nth}");
            let mut fresh = proxy.client();
            let told = fresh.text(&["SUBSCRIBE", &channel]);
            std::mem::swap(&mut fresh, &mut listener);
            told.starts_with("*3")
        });
        eventually("and so does what names no key", STEP, || {
            client.text(&["PUBLISH", &format!("channel{nth}"), "hello"]) == ":1\r\n"
        });
        assert!(show(&listener.frame()).contains("hello"));
        // The other nodes go on.
        let other = cluster.key((nth + 1) % 3, 0);
        client.expect(&["SET", &other, "v"], "+OK");
        relay.release();
        eventually("it is used again", STEP, || {
            client.text(&["SET", &cluster.key(nth, 0), "v"]) == "+OK\r\n"
        });
    }
}

#[test]
fn a_silent_node_is_blamed_for_what_it_was_asked_over_a_connection_of_its_own() {
    let cluster = Cluster::start();
    let relay = cluster.relay(1);
    let proxy = Proxy::with_config(&cluster.url(), TOML, &["--workers", "1"]);
    let mut clients: Vec<Client> = (0..8).map(|_| proxy.client()).collect();
    let key = cluster.key(1, 0);
    for client in &mut clients {
        client.expect(&["WATCH", &key], "+OK");
    }
    relay.hold();
    for client in &mut clients {
        client.send(&["WATCH", &key]);
    }
    eventually("the node is given up", STEP, || open_breakers(&proxy) == 1.0);
    let mut client = proxy.client();
    let begun = Instant::now();
    client.expect(&["SET", &cluster.key(0, 0), "v"], "+OK");
    client.expect(&["SET", &cluster.key(2, 0), "v"], "+OK");
    assert_eq!(client.int(&["PUBLISH", "nobody", "x"]), 0);
    assert!(proxy.client().text(&["SUBSCRIBE", "channel"]).starts_with("*3"));
    let told = client.text(&["SET", &key, "v"]);
    assert!(told.contains("its breaker is "), "{told}");
    assert!(begun.elapsed() < STEP, "{:?}", begun.elapsed());
    relay.release();
    eventually("it is used again", STEP, || {
        client.text(&["SET", &key, "v"]) == "+OK\r\n"
    });
}

#[test]
fn a_node_that_answers_slowly_slows_nobody_else() {
    let cluster = Cluster::start();
    let relay = cluster.relay(1);
    let proxy = Proxy::with_config(&cluster.url(), TOML, &["--workers", "1"]);
    let (mut slow, mut fast) = (proxy.client(), proxy.client());
    let (far, near) = (cluster.key(1, 0), cluster.key(0, 0));
    slow.expect(&["SET", &far, "v"], "+OK");
    fast.expect(&["SET", &near, "v"], "+OK");
    relay.jitter(Duration::from_millis(150));
    let mut took = Vec::new();
    for round in 0..20 {
        slow.send(&["INCRBY", &format!("{{{far}}}n"), "1"]);
        for _ in 0..10 {
            let begun = Instant::now();
            fast.expect(&["SET", &near, "v"], "+OK");
            took.push(begun.elapsed());
        }
        assert_eq!(show(&slow.frame()), format!(":{}\\r\\n", round + 1));
    }
    took.sort_unstable();
    assert!(took[100] < Duration::from_millis(20), "the median of {took:?}");
    assert_eq!(open_breakers(&proxy), 0.0);
}

#[test]
fn a_node_that_never_answers_costs_its_own_slots_alone() {
    let cluster = Cluster::start();
    let relay = cluster.relay(2);
    let proxy = Proxy::with_config(&cluster.url(), TOML, &["--workers", "2"]);
    let mut client = proxy.client();
    let keys: Vec<String> = (0..3).map(|node| cluster.key(node, 0)).collect();
    for key in &keys {
        client.expect(&["SET", key, "v"], "+OK");
    }
    relay.hold();
    eventually("its breaker opens", STEP, || {
        client.text(&["SET", &keys[2], "w"]).contains("its breaker is ")
    });
    let mut took = Vec::new();
    for round in 0..100 {
        for key in &keys[..2] {
            let begun = Instant::now();
            client.expect(&["SET", key, &round.to_string()], "+OK");
            took.push(begun.elapsed());
        }
        let begun = Instant::now();
        let told = client.text(&["SET", &keys[2], "w"]);
        assert!(told.starts_with("-ERR nearcache: upstream "), "{told}");
        took.push(begun.elapsed());
    }
    took.sort_unstable();
    assert!(took[150] < Duration::from_millis(5), "the median of {took:?}");
    let told = client.text(&["MSET", &keys[0], "1", &keys[2], "1"]);
    assert!(told.contains("its breaker is "), "{told}");
    relay.release();
    eventually("it comes back", STEP, || {
        client.text(&["SET", &keys[2], "x"]) == "+OK\r\n"
    });
}

/// With stale entries for a minute.
fn lenient() -> String {
    format!("{TOML}[cache]\nmax_stale = \"60s\"\n")
}

#[test]
fn an_mget_over_several_nodes_is_answered_from_stale_entries_too() {
    let mut cluster = Cluster::start();
    let proxy = Proxy::with_config(&cluster.url(), &lenient(), &["--workers", "1"]);
    let mut client = proxy.client();
    let (a, b, none) = (cluster.key(0, 0), cluster.key(1, 0), cluster.key(1, 1));
    client.expect(&["MSET", &a, "1", &b, "2"], "+OK");
    let expected = "*3\r\n$1\r\n1\r\n$-1\r\n$1\r\n2\r\n";
    client.expect(&["MGET", &a, &none, &b], expected.trim_end());
    client.expect(&["MGET", &a, &none, &b], expected.trim_end());
    cluster.nodes[1].kill();
    // The other node refuses to serve soon, as the cluster is not whole; until then half of it is not stale.
    eventually("it is shown", STEP, || {
        client.text(&["MGET", &a, &none, &b]) == expected
    });
    assert!(proxy.metric("nearcache_l1_stale_total", &[]) >= Some(2.0));
    let told = client.text(&["MGET", &a, &cluster.key(1, 2)]);
    assert!(told.starts_with("-ERR nearcache: upstream "), "{told}");
}

#[test]
fn an_mget_over_several_nodes_is_answered_from_the_disk_too() {
    let mut cluster = Cluster::start();
    let dir = tempfile::tempdir().unwrap();
    let toml = format!(
        "{}l1 = \"1MiB\"\nshards = 1\n[l3]\npath = \"{}\"\nadmission = \"all\"\n",
        lenient(),
        dir.path().display()
    );
    let proxy = Proxy::with_config(&cluster.url(), &toml, &["--workers", "1"]);
    let mut client = proxy.client();
    let value = |i: usize| format!("{i}:{}", "x".repeat(4000));
    for i in 0..1000 {
        client.expect(&["SET", &format!("k{i}"), &value(i)], "+OK");
    }
    for i in 0..1000 {
        assert_eq!(client.bulk(&["GET", &format!("k{i}")]), Some(value(i).into_bytes()));
    }
    let l3_hits = || proxy.metric("cache_hits_total", &["cache_layer=\"l3\""]).unwrap();
    let mut ask = |from: usize| {
        let names: Vec<String> = (from..from + 6).map(|i| format!("k{i}")).collect();
        client.cmd(
            &["MGET"]
                .into_iter()
                .chain(names.iter().map(String::as_str))
                .collect::<Vec<_>>(),
        )
    };
    let right = |from: usize| {
        let bulks = (from..from + 6).map(|i| format!("$4{:03}\r\n{}\r\n", value(i).len() - 4000, value(i)));
        format!("*6\r\n{}", bulks.collect::<String>()).into_bytes()
    };
    eventually("what was evicted is on the disk", STEP, || {
        proxy.metric("nearcache_l3_queued_bytes", &[]) == Some(0.0)
            && proxy.metric("nearcache_l3_entries", &[]) > Some(500.0)
    });
    let before = l3_hits();
    (0..600)
        .step_by(6)
        .for_each(|from| assert_eq!(ask(from), right(from), "from {from}"));
    assert!(l3_hits() > before + 300.0, "{} after {before}", l3_hits());
    cluster.nodes[1].kill();
    let stale = || proxy.metric("nearcache_l3_stale_total", &[]).unwrap();
    let before = stale();
    let mut from = 0;
    eventually("stale copies from the disk are among it", STEP, || {
        from = (from + 6) % 600;
        let reply = ask(from);
        assert!(reply == right(from) || reply.starts_with(b"-"), "from {from}");
        reply == right(from) && stale() > before
    });
}

#[test]
fn a_node_that_was_cut_off_forgets_nothing_by_a_new_connection() {
    let mut cluster = Cluster::start();
    let proxy = Proxy::with_config(&cluster.url(), &lenient(), &["--workers", "1"]);
    let mut client = proxy.client();
    let key = cluster.key(0, 0);
    client.expect(&["SET", &key, "v"], "+OK");
    client.expect(&["GET", &key], "$1\r\nv");
    let mut direct = cluster.client(0);
    for node in [1, 2] {
        cluster.nodes[node].freeze();
    }
    eventually("the node knows that it is cut off", STEP, || {
        direct.text(&["GET", &key]).starts_with("-CLUSTERDOWN")
    });
    let connections = || proxy.metric("nearcache_links_lost_total", &[]).unwrap_or_default();
    let before = connections();
    direct.cmd(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
    eventually("the connection is lost, and there again", STEP, || {
        connections() > before && client.text(&["GET", &key]).starts_with("-CLUSTERDOWN")
    });
    cluster.nodes[0].kill();
    eventually("what was read before is shown", STEP, || {
        client.text(&["GET", &key]) == "$1\r\nv\r\n"
    });
    for node in [1, 2] {
        cluster.nodes[node].thaw();
    }
}

#[test]
fn a_node_that_has_left_is_not_asked_any_more() {
    let mut cluster = Cluster::with(3, true, &[]);
    let proxy = Proxy::with_config(&cluster.url(), TOML, &["--workers", "1"]);
    let mut client = proxy.client();
    let key = cluster.key(0, 0);
    client.expect(&["SET", &key, "v"], "+OK");
    cluster.nodes[0].kill();
    eventually("its breaker opens", STEP, || {
        client.text(&["SET", &key, "w"]).contains("its breaker is ")
    });
    eventually("its replica has taken over", FAILOVER, || {
        client.text(&["SET", &key, "w"]) == "+OK\r\n"
    });
    eventually("it is not probed any more", STEP, || {
        proxy
            .log()
            .contains("breaker closed: the node is not the upstream any more")
    });
    let given_up = || proxy.log().matches("the node is given up").count();
    let (before, begun) = (given_up(), Instant::now());
    // Several times the pause between probes.
    eventually("some time has passed", STEP, || {
        client.expect(&["SET", &key, "w"], "+OK");
        begun.elapsed() > Duration::from_millis(1500)
    });
    assert_eq!(given_up(), before);
    assert_eq!(open_breakers(&proxy), 0.0);
    // It comes back, and is the primary again.
    cluster.nodes[0].restart();
    let mut direct = cluster.client(0);
    eventually("it follows its replica", FAILOVER, || {
        direct.text(&["INFO", "replication"]).contains("master_link_status:up")
    });
    eventually("it takes over", STEP, || {
        direct.text(&["CLUSTER", "FAILOVER"]);
        direct.text(&["INFO", "replication"]).contains("role:master")
    });
    cluster.nodes[0].forget_calls();
    eventually("it is asked again", STEP, || {
        client.text(&["SET", &key, "x"]) == "+OK\r\n" && cluster.nodes[0].calls("set") > 0
    });
    eventually("what it says is kept", STEP, || {
        client.expect(&["GET", &key], "$1\r\nx");
        proxy.metric("cache_hits_total", &["l1"]) > Some(0.0)
    });
}

#[test]
fn a_script_at_a_node_that_loses_its_slots_is_watched_on() {
    let cluster = Cluster::with(3, true, &[]);
    let relay = cluster.relay(0);
    let proxy = Proxy::with_config(&cluster.url(), TOML, &["--workers", "1"]);
    let (mut client, mut other) = (proxy.client(), proxy.client());
    let key = cluster.key(0, 0);
    client.expect(&["SET", &key, "v"], "+OK");
    client.expect(&["EVAL", "return 1", "1", &key], ":1");
    relay.hold();
    send_held(&proxy, &mut client, &[&["EVAL", "return 2", "1", &key]]);
    cluster.client(3).expect(&["CLUSTER", "FAILOVER", "TAKEOVER"], "+OK");
    eventually("its replica serves", STEP, || {
        other.text(&["SET", &key, "w"]) == "+OK\r\n"
    });
    let told = show(&client.frame());
    assert!(told.starts_with("-ERR nearcache: "), "{told}");
    relay.release();
}
