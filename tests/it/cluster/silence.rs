//! What no message tells: a node that was cut off from the others, and a slot that is taken over in silence.

use std::time::{Duration, Instant};

use crate::support::cluster::{Cluster, slot};
use crate::support::{Proxy, STEP, eventually};

#[test]
fn a_node_that_was_cut_off_answers_pings_and_vouches_for_nothing() {
    let cluster = Cluster::start();
    let proxy = Proxy::before(&cluster.url(), &[]);
    let mut client = proxy.client();
    let key = cluster.key(0, 0);
    client.expect(&["SET", &key, "v"], "+OK");
    for _ in 0..3 {
        assert_eq!(client.bulk(&["GET", &key]), Some(b"v".to_vec()));
    }
    for node in [1, 2] {
        cluster.nodes[node].freeze();
    }
    let mut direct = cluster.client(0);
    eventually("the node knows that it is cut off", STEP, || {
        direct.text(&["GET", &key]).starts_with("-CLUSTERDOWN")
    });
    direct.expect(&["PING"], "+PONG");
    // The staleness bound is a second; then the request is sent again for some time before its client is told.
    eventually("the copy is not shown any more", STEP, || {
        client.text(&["GET", &key]).starts_with("-CLUSTERDOWN")
    });
    for node in [1, 2] {
        cluster.nodes[node].thaw();
    }
    eventually("it is shown again", STEP, || {
        client.text(&["GET", &key]) == "$1\r\nv\r\n"
    });
}

#[test]
fn a_slot_that_is_taken_over_without_its_keys_is_not_shown_from_copies() {
    let cluster = Cluster::start();
    let proxy = Proxy::before(&cluster.url(), &[]);
    let mut client = proxy.client();
    let key = cluster.key(0, 0);
    let slot = slot(key.as_bytes()).to_string();
    client.expect(&["SET", &key, "old"], "+OK");
    assert_eq!(client.bulk(&["GET", &key]), Some(b"old".to_vec()));
    let mut taker = cluster.client(1);
    taker.expect(&["CLUSTER", "SETSLOT", &slot, "IMPORTING", &cluster.ids[0]], "+OK");
    taker.expect(&["CLUSTER", "SETSLOT", &slot, "NODE", &cluster.ids[1]], "+OK");
    taker.expect(&["SET", &key, "new"], "+OK");
    let begun = Instant::now();
    // Once the old owner has heard of it, which nobody tells the proxy.
    let mut old = cluster.client(0);
    eventually("the old owner hears of it", STEP, || {
        old.text(&["GET", &key]).starts_with("-MOVED")
    });
    let heard = Instant::now();
    eventually("the new value is shown", STEP, || {
        client.bulk(&["GET", &key]) == Some(b"new".to_vec())
    });
    assert!(
        heard.elapsed() < Duration::from_millis(1500),
        "{:?}, {:?} after the takeover",
        heard.elapsed(),
        begun.elapsed()
    );
}
