//! In front of a real cluster: to clients it is one Redis.

mod clients;
mod commands;
mod faults;
mod moves;
mod silence;
mod states;
mod tls;
mod valkey;

use std::time::Duration;

use crate::support::cluster::{Cluster, slot};
use crate::support::{Proxy, STEP, eventually};

#[test]
fn every_key_goes_to_its_node_and_is_cached() {
    let cluster = Cluster::start();
    let proxy = Proxy::before(&cluster.url(), &[]);
    let mut client = proxy.client();
    for i in 0..300 {
        let (key, value) = (format!("k{i}"), format!("v{i}"));
        client.expect(&["SET", &key, &value], "+OK");
    }
    for round in 0..3 {
        for i in 0..300 {
            let (key, value) = (format!("k{i}"), format!("v{i}"));
            assert_eq!(client.bulk(&["GET", &key]), Some(value.into_bytes()), "round {round}");
        }
    }
    for node in 0..3 {
        assert!(cluster.client(node).int(&["DBSIZE"]) > 50);
    }
    // Once for each key, none for the second and third round.
    assert!((0..3).map(|node| cluster.nodes[node].calls("get")).sum::<u64>() <= 300);
    let hits = proxy.metric("cache_hits_total", &["l1"]).unwrap_or(0.0);
    assert!(hits >= 600.0, "{hits}");
    // A foreign write is told.
    let key = cluster.key(1, 0);
    client.expect(&["SET", &key, "before"], "+OK");
    assert_eq!(client.bulk(&["GET", &key]), Some(b"before".to_vec()));
    cluster.client(1).expect(&["SET", &key, "after"], "+OK");
    eventually("the foreign write is seen", STEP, || {
        client.bulk(&["GET", &key]) == Some(b"after".to_vec())
    });
}

#[test]
fn a_slot_that_moves_is_followed_and_nothing_stale_is_shown() {
    let cluster = Cluster::start();
    let proxy = Proxy::before(&cluster.url(), &[]);
    let mut client = proxy.client();
    let keys: Vec<String> = (0..20).map(|i| format!("{{{}}}:{i}", cluster.key(0, 0))).collect();
    let slot = slot(keys[0].as_bytes());
    for key in &keys {
        client.expect(&["SET", key, "old"], "+OK");
        assert_eq!(client.bulk(&["GET", key]), Some(b"old".to_vec()));
    }
    let absent = format!("{{{}}}:absent", cluster.key(0, 0));
    assert_eq!(client.bulk(&["GET", &absent]), None);
    cluster.begin_move(slot, 0, 1);
    // Half way: some keys here, some there.
    let reply = cluster.client(0).text(&[
        "MIGRATE",
        "127.0.0.1",
        &cluster.nodes[1].port().to_string(),
        &keys[0],
        "0",
        "5000",
    ]);
    assert_eq!(reply, "+OK\r\n");
    assert_eq!(client.bulk(&["GET", &keys[0]]), Some(b"old".to_vec()));
    client.expect(&["SET", &keys[0], "asked"], "+OK");
    assert_eq!(client.bulk(&["GET", &keys[0]]), Some(b"asked".to_vec()));
    client.expect(&["SET", &absent, "made there"], "+OK");
    assert_eq!(client.bulk(&["GET", &absent]), Some(b"made there".to_vec()));
    client.expect(&["DEL", &absent], ":1");
    cluster.move_keys(slot, 0, 1);
    cluster.end_move(slot, 0, 1);
    let mut foreign = cluster.client(1);
    for key in &keys[1..] {
        assert_eq!(client.bulk(&["GET", key]), Some(b"old".to_vec()));
        foreign.expect(&["SET", key, "new"], "+OK");
    }
    foreign.expect(&["SET", &absent, "back"], "+OK");
    for key in &keys[1..] {
        eventually("the new owner's writes are seen", STEP, || {
            client.bulk(&["GET", key]) == Some(b"new".to_vec())
        });
    }
    eventually("the absence is not believed for long", Duration::from_secs(3), || {
        client.bulk(&["GET", &absent]) == Some(b"back".to_vec())
    });
    assert!(proxy.metric("nearcache_redirects_total", &[]).unwrap_or(0.0) >= 3.0);
}
