//! What is read here and nowhere else stays alive at a server that evicts what nobody reads there.

use std::time::{Duration, Instant};

use crate::support::cluster::Cluster;
use crate::support::{Client, Proxy, STEP, Server, eventually};

/// Each hit is due: how often one in many is, is the sampler's own test.
const EACH: &str = "[cache]\ntouch_sample = 1\n";

#[test]
fn a_key_that_is_hot_here_survives_where_what_is_not_used_is_evicted() {
    let with = [("with", EACH), ("without", "")].map(|(name, toml)| {
        let server = Server::with(&["--maxmemory-policy", "allkeys-lru", "--maxmemory-samples", "64"]);
        let proxy = Proxy::with_config(&server.url(), toml, &["--workers", "1"]);
        let mut client = proxy.client();
        client.expect(&["SET", "hot", "value"], "+OK");
        client.expect(&["GET", "hot"], "$5\r\nvalue");
        client.expect(&["GET", "hot"], "$5\r\nvalue");
        let most = (server.info("used_memory") + (2 << 20)).to_string();
        let mut direct = server.client();
        direct.expect(&["CONFIG", "SET", "maxmemory", &most], "+OK");
        server.forget_calls();
        (name, server, proxy, client, direct)
    });
    let [mut with, mut without] = with;
    let filler = "x".repeat(4000);
    let mut is_gone = false;
    let begun = Instant::now();
    // A few hundred fit in: what is written now is evicted some seconds later, unless the hot key goes first.
    for i in 0.. {
        for (name, _, _, client, direct) in [&mut with, &mut without] {
            direct.expect(&["SET", &format!("filler{i}"), &filler], "+OK");
            let reply = client.cmd(&["GET", "hot"]);
            is_gone |= *name == "without" && reply == b"$-1\r\n";
            assert!(
                reply == b"$5\r\nvalue\r\n" || *name == "without",
                "{:?}",
                begun.elapsed()
            );
        }
        let until = Duration::from_millis(10) * i;
        while begun.elapsed() < until {
            with.3.expect(&["GET", "hot"], "$5\r\nvalue");
        }
        if is_gone && begun.elapsed() > Duration::from_secs(8) {
            break;
        }
        assert!(begun.elapsed() < STEP * 3, "nothing is evicted");
    }
    let (_, server, proxy, ..) = &with;
    assert!(server.info("evicted_keys") > 100, "it had to evict");
    assert_eq!(server.calls("get"), 0, "it was served from L1 alone");
    assert!(server.calls("touch") >= 5);
    assert!(proxy.metric("nearcache_touched_keys_total", &[]) >= Some(5.0));
    assert_eq!(without.1.calls("touch"), 0, "nothing is sent unless it is asked for");
}

#[test]
fn keys_are_touched_in_their_database_and_once_each() {
    let server = Server::with(&["--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lfu"]);
    let proxy = Proxy::with_config(&server.url(), EACH, &["--workers", "2"]);
    let mut clients: Vec<Client> = (0..4).map(|_| proxy.client()).collect();
    for (i, client) in clients.iter_mut().enumerate() {
        client.expect(&["SELECT", &(i / 2).to_string()], "+OK");
        client.expect(&["MSET", "a", "1", "b", "2"], "+OK");
    }
    let touched = || {
        proxy
            .metric("nearcache_touched_keys_total", &[])
            .expect("it is published")
    };
    let before = touched();
    let use_of = |db: &str, key: &str| {
        let mut direct = server.client();
        direct.expect(&["SELECT", db], "+OK");
        direct.int(&["OBJECT", "FREQ", key])
    };
    let first = use_of("1", "b");
    eventually("each is touched", STEP, || {
        for client in &mut clients {
            for _ in 0..50 {
                client.expect(&["GET", "a"], "$1\r\n1");
            }
            client.expect(&["MGET", "a", "b"], "*2\r\n$1\r\n1\r\n$1\r\n2");
            client.expect(&["STRLEN", "b"], ":1");
        }
        touched() >= before + 12.0 && use_of("1", "b") > first
    });
    let (keys, commands) = (touched(), server.calls("touch") as f64);
    assert!(
        keys <= commands * 2.0,
        "{keys} keys in {commands} commands, of two keys each at most"
    );
    assert_eq!(server.info("tracking_clients"), 4, "those of the workers alone");
}

#[test]
fn a_server_that_would_not_care_is_not_bothered() {
    let server = Server::start();
    let proxy = Proxy::with_config(&server.url(), EACH, &["--workers", "1"]);
    let mut client = proxy.client();
    client.expect(&["SET", "k", "v"], "+OK");
    let dropped = || proxy.metric("nearcache_touched_keys_dropped_total", &[]);
    let hit = |client: &mut Client| client.expect(&["GET", "k"], "$1\r\nv");
    eventually("it is told", STEP, || {
        hit(&mut client);
        dropped() > Some(0.0) && proxy.log().contains("cache.touch_sample has no effect: maxmemory is 0")
    });
    let mut direct = server.client();
    direct.expect(&["CONFIG", "SET", "maxmemory", "100mb"], "+OK");
    eventually("it is told", STEP, || {
        hit(&mut client);
        proxy
            .log()
            .contains("has no effect: maxmemory-policy is \"noeviction\"")
    });
    assert_eq!(server.calls("touch"), 0);
    direct.expect(&["CONFIG", "SET", "maxmemory-policy", "allkeys-lru"], "+OK");
    eventually("now it cares", STEP, || {
        hit(&mut client);
        server.calls("touch") > 0
    });
    let refused = Proxy::try_start(
        &server.url(),
        "[cache]\nconsistency = \"strong\"\ntouch_sample = 1\n",
        &[],
    );
    assert!(refused.unwrap_err().contains("cache.touch_sample: must be 0"));
}

#[test]
fn each_node_of_a_cluster_hears_of_its_own_keys() {
    let cluster = Cluster::with(3, false, &["--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru"]);
    let proxy = Proxy::with_config(&cluster.url(), EACH, &["--workers", "1"]);
    let mut client = proxy.client();
    let keys: Vec<String> = (0..3)
        .flat_map(|node| [cluster.key(node, 0), cluster.key(node, 1)])
        .collect();
    for key in &keys {
        client.expect(&["SET", key, "v"], "+OK");
    }
    eventually("all nodes have heard", STEP, || {
        for key in &keys {
            client.expect(&["GET", key], "$1\r\nv");
        }
        cluster.nodes.iter().all(|node| node.calls("touch") >= 2)
    });
    for node in &cluster.nodes {
        let stats = node.client().text(&["INFO", "commandstats"]);
        let line = stats
            .lines()
            .find(|line| line.starts_with("cmdstat_touch:"))
            .expect("it was called");
        assert!(line.contains("rejected_calls=0,failed_calls=0"), "{line}");
    }
}
