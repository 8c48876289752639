//! Clients whose state lives in a connection: transactions, blocking commands, subscriptions.

use std::thread;
use std::time::Duration;

use crate::support::cluster::{Cluster, slot};
use crate::support::{Proxy, STEP, eventually, show};

#[test]
fn transactions_go_to_the_node_of_their_slot() {
    let cluster = Cluster::start();
    let proxy = Proxy::before(&cluster.url(), &[]);
    for node in 0..3 {
        let (key, same) = (cluster.key(node, 0), format!("{{{}}}same", cluster.key(node, 0)));
        let mut client = proxy.client();
        // In one piece.
        client.raw(&pipeline(&[
            &["MULTI"],
            &["SET", &key, "1"],
            &["INCR", &same],
            &["GET", &key],
            &["EXEC"],
        ]));
        let replies = client.frames(5);
        assert_eq!(show(&replies[4]), "*3\\r\\n+OK\\r\\n:1\\r\\n$1\\r\\n1\\r\\n");
        // Command by command.
        client.expect(&["MULTI"], "+OK");
        client.expect(&["INCR", &same], "+QUEUED");
        client.expect(&["GET", &key], "+QUEUED");
        client.expect(&["EXEC"], "*2\r\n:2\r\n$1\r\n1");
        // What names no key comes first.
        client.expect(&["MULTI"], "+OK");
        client.expect(&["PING"], "+QUEUED");
        client.expect(&["EXEC"], "*1\r\n+PONG");
        client.expect(&["MULTI"], "+OK");
        client.expect(&["DISCARD"], "+OK");
        client.expect(&["EXEC"], "-ERR EXEC without MULTI");
        // Watched, and changed by somebody else.
        client.expect(&["WATCH", &key], "+OK");
        cluster.client(node).expect(&["SET", &key, "2"], "+OK");
        client.expect(&["MULTI"], "+OK");
        client.expect(&["SET", &key, "3"], "+QUEUED");
        client.expect(&["EXEC"], "*-1");
        assert_eq!(client.bulk(&["GET", &key]), Some(b"2".to_vec()));
    }
}

#[test]
fn a_transaction_over_several_slots_is_refused_at_the_command() {
    let cluster = Cluster::start();
    let proxy = Proxy::before(&cluster.url(), &[]);
    let mut client = proxy.client();
    let (a, b) = (cluster.key(0, 0), cluster.key(1, 0));
    const CROSS: &str = "-CROSSSLOT Keys in request don't hash to the same slot";
    client.expect(&["MULTI"], "+OK");
    client.expect(&["SET", &a, "1"], "+QUEUED");
    client.expect(&["SET", &b, "1"], CROSS);
    client.expect(
        &["EXEC"],
        "-EXECABORT Transaction discarded because of previous errors.",
    );
    client.raw(&pipeline(&[
        &["MULTI"],
        &["SET", &a, "1"],
        &["SET", &b, "1"],
        &["EXEC"],
    ]));
    let replies: Vec<String> = client.frames(4).iter().map(|frame| show(frame)).collect();
    assert_eq!(replies[..2], ["+OK\\r\\n", "+QUEUED\\r\\n"]);
    assert!(
        replies[2].starts_with("-CROSSSLOT") && replies[3].starts_with("-EXECABORT"),
        "{replies:?}"
    );
    // Both in the first command.
    client.expect(&["MULTI"], "+OK");
    client.expect(&["MSET", &a, "1", &b, "1"], CROSS);
    client.expect(
        &["EXEC"],
        "-EXECABORT Transaction discarded because of previous errors.",
    );
    // Two slots of one node: the node finds out at the end.
    let c = cluster.key(0, 1);
    assert_ne!(slot(a.as_bytes()), slot(c.as_bytes()));
    client.expect(&["MULTI"], "+OK");
    client.expect(&["SET", &a, "1"], "+QUEUED");
    client.expect(&["SET", &c, "1"], "+QUEUED");
    client.expect(&["EXEC"], CROSS);
    for key in [&a, &b, &c] {
        assert_eq!(client.bulk(&["GET", key]), None);
    }
}

#[test]
fn a_transaction_follows_a_slot_that_is_moving() {
    let cluster = Cluster::start();
    let proxy = Proxy::before(&cluster.url(), &[]);
    let mut client = proxy.client();
    let key = cluster.key(0, 0);
    let slot = slot(key.as_bytes());
    client.expect(&["SET", &key, "0"], "+OK");
    cluster.begin_move(slot, 0, 1);
    cluster.move_keys(slot, 0, 1);
    for expected in 1..=2 {
        // By ASK, and by MOVED.
        client.raw(&pipeline(&[&["MULTI"], &["INCR", &key], &["EXEC"]]));
        let replies = client.frames(3);
        assert_eq!(show(&replies[2]), format!("*1\\r\\n:{expected}\\r\\n"));
        if expected == 1 {
            cluster.end_move(slot, 0, 1);
        }
    }
    cluster.move_slot(slot, 1, 2);
    client.expect(&["MULTI"], "+OK");
    client.expect(&["INCR", &key], "+QUEUED");
    client.expect(&["EXEC"], "*1\r\n:3");
}

#[test]
fn a_blocked_client_waits_at_the_node_of_its_slot_and_moves_with_it() {
    let cluster = Cluster::start();
    let proxy = Proxy::before(&cluster.url(), &[]);
    for node in 0..3 {
        let key = cluster.key(node, 0);
        let (mut waiting, mut pushing) = (proxy.client(), proxy.client());
        waiting.send(&["BLPOP", &key, "10"]);
        eventually("it is blocked", STEP, || {
            cluster.nodes[node].info("blocked_clients") == 1
        });
        pushing.expect(&["RPUSH", &key, "x"], ":1");
        assert_eq!(
            show(&waiting.frame()),
            format!("*2\\r\\n${}\\r\\n{key}\\r\\n$1\\r\\nx\\r\\n", key.len())
        );
    }
    let key = cluster.key(0, 1);
    let (mut waiting, mut pushing) = (proxy.client(), proxy.client());
    waiting.send(&["BLPOP", &key, "10"]);
    eventually("it is blocked", STEP, || cluster.nodes[0].info("blocked_clients") == 1);
    cluster.move_slot(slot(key.as_bytes()), 0, 1);
    eventually("it waits at the other node", STEP, || {
        cluster.nodes[1].info("blocked_clients") == 1
    });
    pushing.expect(&["RPUSH", &key, "y"], ":1");
    assert!(show(&waiting.frame()).ends_with("$1\\r\\ny\\r\\n"));
}

#[test]
fn messages_reach_listeners_and_sharded_ones_those_of_their_slot() {
    let cluster = Cluster::start();
    let proxy = Proxy::before(&cluster.url(), &[]);
    let mut publisher = proxy.client();
    let mut listeners: Vec<_> = (0..4).map(|_| proxy.client()).collect();
    for listener in &mut listeners {
        listener.cmd(&["SUBSCRIBE", "news"]);
    }
    publisher.expect(&["PUBLISH", "news", "hello"], ":4");
    for listener in &mut listeners {
        assert!(show(&listener.frame()).ends_with("$5\\r\\nhello\\r\\n"));
    }
    // From outside, at another node.
    cluster.client(2).cmd(&["PUBLISH", "news", "again"]);
    for listener in &mut listeners {
        assert!(show(&listener.frame()).ends_with("$5\\r\\nagain\\r\\n"));
    }
    assert_eq!(publisher.text(&["PUBSUB", "CHANNELS"]), "*1\r\n$4\r\nnews\r\n");
    assert_eq!(
        publisher.text(&["PUBSUB", "NUMSUB", "news"]),
        "*2\r\n$4\r\nnews\r\n:4\r\n"
    );
    for node in 0..3 {
        let channel = cluster.key(node, 0);
        let mut listener = proxy.client();
        listener.cmd(&["SSUBSCRIBE", &channel]);
        publisher.expect(&["SPUBLISH", &channel, "m"], ":1");
        assert!(show(&listener.frame()).ends_with("$1\\r\\nm\\r\\n"));
    }
}

#[test]
fn a_primary_that_dies_takes_only_its_own_slots_with_it() {
    // By default all nodes refuse to serve between the death and the promotion: that is waited for.
    for coverage in ["no", "yes"] {
        one_dies(Cluster::with(3, true, &["--cluster-require-full-coverage", coverage]));
    }
}

fn one_dies(mut cluster: Cluster) {
    let proxy = Proxy::before(&cluster.url(), &[]);
    let keys: Vec<String> = (0..3).map(|node| cluster.key(node, 0)).collect();
    let mut client = proxy.client();
    for key in &keys {
        client.expect(&["SET", key, "before"], "+OK");
        assert_eq!(client.bulk(&["GET", key]), Some(b"before".to_vec()));
    }
    client.expect(&["WAIT", "1", "1000"], ":1");
    cluster.nodes[0].kill();
    let mut errors = 0;
    let end = std::time::Instant::now() + crate::support::cluster::FAILOVER;
    loop {
        for key in &keys[1..] {
            client.expect(&["SET", key, "meanwhile"], "+OK");
            assert_eq!(client.bulk(&["GET", key]), Some(b"meanwhile".to_vec()));
        }
        let reply = client.text(&["SET", &keys[0], "after"]);
        if reply == "+OK\r\n" {
            break;
        }
        errors += 1;
        assert!(
            reply.starts_with("-ERR nearcache: ") || reply.starts_with("-CLUSTERDOWN"),
            "{reply}"
        );
        assert!(std::time::Instant::now() < end, "no replica took over: {reply}");
        thread::sleep(Duration::from_millis(5));
    }
    assert!(errors > 0, "the primary was really gone");
    assert_eq!(client.bulk(&["GET", &keys[0]]), Some(b"after".to_vec()));
    eventually("the metrics tell of it", STEP, || {
        proxy.metric("nearcache_cluster_nodes", &["primary"]) == Some(3.0)
            && proxy.metric("nearcache_cluster_slots", &[]) == Some(16384.0)
    });
}

#[test]
fn a_cluster_with_a_password_is_spoken_to_with_it() {
    let cluster = Cluster::with(3, false, &["--requirepass", "secret", "--masterauth", "secret"]);
    let url = cluster.url().replace("://", "://:secret@");
    let proxy = Proxy::before(&url, &[]);
    let mut client = proxy.client();
    client.expect(&["GET", "a"], "-NOAUTH Authentication required.");
    client.expect(&["AUTH", "secret"], "+OK");
    for node in 0..3 {
        let key = cluster.key(node, 0);
        client.expect(&["SET", &key, "v"], "+OK");
        assert_eq!(client.bulk(&["GET", &key]), Some(b"v".to_vec()));
        client.expect(&["BLPOP", &format!("{{{key}}}list"), "0.01"], "*-1");
    }
    client.expect(&["DBSIZE"], ":3");
    client.expect(
        &["AUTH", "other", "secret"],
        "-WRONGPASS invalid username-password pair or user is disabled.",
    );
}

fn pipeline(requests: &[&[&str]]) -> Vec<u8> {
    requests
        .iter()
        .flat_map(|request| crate::support::client::encode(request))
        .collect()
}
