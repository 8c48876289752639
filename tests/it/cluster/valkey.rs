//! In front of a cluster of Valkeys.

use std::time::Duration;

use crate::support::cluster::{Cluster, FAILOVER, slot};
use crate::support::server::REDIS_8;
use crate::support::{Proxy, STEP, eventually, show};

#[test]
fn a_cluster_of_valkeys_is_served_and_a_dead_primary_replaced() {
    let Some(mut cluster) = Cluster::valkey(3, true, &[]) else {
        return;
    };
    let proxy = Proxy::before(&cluster.url(), &["--workers", "2"]);
    let mut client = proxy.client3();
    for i in 0..100 {
        let key = format!("k{i}");
        client.expect(&["SET", &key, "v"], "+OK");
        client.expect(&["GET", &key], "$1\r\nv");
        client.expect(&["GET", &key], "$1\r\nv");
    }
    assert!(proxy.metric("cache_hits_total", &["l1"]) >= Some(100.0));
    assert_eq!(client.int(&["DBSIZE"]), 100);
    client.expect(&["MSET", "k1", "a", "k2", "b", "k3", "c"], "+OK");
    client.expect(
        &["MGET", "k1", "k2", "k3", "none"],
        "*4\r\n$1\r\na\r\n$1\r\nb\r\n$1\r\nc\r\n_",
    );
    cluster.nodes[2].kill();
    let key = cluster.key(2, 0);
    eventually("its replica has taken over", FAILOVER, || {
        client.text(&["SET", &key, "after"]) == "+OK\r\n"
    });
    client.expect(&["GET", &key], "$5\r\nafter");
}

#[test]
fn what_was_absent_is_not_believed_for_long_behind_an_atomic_move() {
    if let Some(cluster) = Cluster::valkey(3, false, &[]) {
        is_not_believed(&cluster);
    }
}

#[test]
fn what_was_absent_is_not_believed_for_long_behind_an_atomic_move_of_redis() {
    if let Some(cluster) = Cluster::newer(REDIS_8, 3, &[]) {
        is_not_believed(&cluster);
    }
}

fn is_not_believed(cluster: &Cluster) {
    let proxy = Proxy::before(&cluster.url(), &["--workers", "2"]);
    let mut client = proxy.client();
    let (key, absent) = (cluster.key(0, 0), format!("{{{}}}absent", cluster.key(0, 0)));
    for (round, (from, to)) in [(0, 1), (1, 0), (0, 2)].into_iter().enumerate() {
        let old = format!("old{round}");
        client.expect(&["SET", &key, &old], "+OK");
        client.expect(&["DEL", &absent], if round == 0 { ":0" } else { ":1" });
        for _ in 0..3 {
            assert_eq!(client.bulk(&["GET", &key]), Some(old.clone().into_bytes()));
            assert_eq!(client.bulk(&["GET", &absent]), None);
        }
        cluster.migrate(&[slot(key.as_bytes())], from, to);
        let mut foreign = cluster.client(to);
        foreign.expect(&["SET", &key, "new"], "+OK");
        foreign.expect(&["SET", &absent, "made"], "+OK");
        eventually("the new value is shown", Duration::from_secs(3), || {
            let reply = client.cmd(&["GET", &key]);
            assert!(!reply.starts_with(b"-"), "{}", show(&reply));
            reply == b"$3\r\nnew\r\n"
        });
        eventually("what was made is shown", STEP, || {
            client.bulk(&["GET", &absent]) == Some(b"made".to_vec())
        });
    }
}
