//! A cluster that speaks nothing but TLS, with certificates for addresses or for host names.

use crate::support::certificates::{Authority, Validity};
use crate::support::cluster::{Cluster, FAILOVER, slot};
use crate::support::{Proxy, STEP, eventually};

#[test]
fn every_node_is_spoken_to_over_tls() {
    let authority = Authority::new();
    let identity = authority.sign("node", &["127.0.0.1"], Validity::Now);
    let mut cluster = Cluster::over_tls(&authority, &identity, &[]);
    let proxy = Proxy::with_config(&cluster.url(), &trusting(&authority, ""), &["--workers", "2"]);
    works(&cluster, &proxy);
    // A failover is one of TLS connections, too.
    let mut client = proxy.client();
    let key = cluster.key(1, 0);
    cluster.nodes[1].kill();
    eventually("its replica has taken over", FAILOVER, || {
        client.text(&["SET", &key, "after"]) == "+OK\r\n"
    });
}

#[test]
fn nodes_are_called_by_their_host_names_where_they_prefer_it() {
    let authority = Authority::new();
    // Nothing that is called by its address has a certificate for it.
    let identity = authority.sign("node", &["localhost"], Validity::Now);
    let names = [
        "--cluster-announce-hostname",
        "localhost",
        "--cluster-preferred-endpoint-type",
        "hostname",
    ];
    let cluster = Cluster::over_tls(&authority, &identity, &names);
    let proxy = Proxy::with_config(
        &cluster.url_by("localhost"),
        &trusting(&authority, ""),
        &["--workers", "2"],
    );
    works(&cluster, &proxy);
    let nodes = proxy.client().text(&["INFO", "nearcache"]);
    assert!(nodes.contains("nearcache_cluster_primaries:localhost:"), "{nodes}");
    drop(proxy);
    // Those that are called by their addresses are not known by that certificate, unless its name is told.
    for node in &cluster.nodes {
        node.client()
            .expect(&["CONFIG", "SET", "cluster-preferred-endpoint-type", "ip"], "+OK");
    }
    let proxy = Proxy::with_config(
        &cluster.url_by("localhost"),
        &trusting(&authority, ""),
        &["--workers", "1"],
    );
    let mut client = proxy.client();
    eventually("the error tells of the certificate", STEP, || {
        let told = client.text(&["SET", &cluster.key(0, 0), "v"]);
        told.contains("TLS: ") && told.contains("tls_server_name")
    });
    drop(proxy);
    let named = trusting(&authority, "tls_server_name = \"localhost\"\n");
    let proxy = Proxy::with_config(&cluster.url(), &named, &["--workers", "1"]);
    works(&cluster, &proxy);
}

#[test]
fn replicas_are_read_from_over_tls() {
    let authority = Authority::new();
    let identity = authority.sign("node", &["127.0.0.1"], Validity::Now);
    let cluster = Cluster::over_tls(&authority, &identity, &[]);
    let toml = trusting(&authority, "read_from = \"prefer-replica\"\n")
        + "[cache]\nenabled = false\nconsistency = \"eventual\"\n";
    let proxy = Proxy::with_config(&cluster.url(), &toml, &["--workers", "1"]);
    let mut client = proxy.client();
    for node in 0..3 {
        let key = cluster.key(node, 0);
        client.expect(&["SET", &key, "v"], "+OK");
        eventually("it is read from the replica", STEP, || {
            client.cmd(&["GET", &key]);
            cluster.nodes[3 + node].calls("get") > 0
        });
    }
}

fn trusting(authority: &Authority, rest: &str) -> String {
    format!("[upstream]\ntls_ca = \"{}\"\n{rest}", authority.ca.display())
}

/// On all kinds of connections, and where nodes send requests elsewhere.
fn works(cluster: &Cluster, proxy: &Proxy) {
    let mut client = proxy.client();
    for node in 0..3 {
        let key = cluster.key(node, 0);
        client.expect(&["SET", &key, "v"], "+OK");
        client.expect(&["GET", &key], "$1\r\nv");
        eventually("it is a hit", STEP, || {
            let before = cluster.nodes[node].calls("get");
            client.expect(&["GET", &key], "$1\r\nv");
            cluster.nodes[node].calls("get") == before
        });
        client.expect(&["EVAL", "return redis.call('GET', KEYS[1])", "1", &key], "$1\r\nv");
        client.expect(&["WATCH", &key], "+OK");
        client.expect(&["MULTI"], "+OK");
        client.expect(&["STRLEN", &key], "+QUEUED");
        client.expect(&["EXEC"], "*1\r\n:1");
    }
    let mut listener = proxy.client();
    assert!(listener.text(&["SUBSCRIBE", "c"]).starts_with("*3"));
    eventually("it listens", STEP, || client.int(&["PUBLISH", "c", "m"]) == 1);
    assert!(client.int(&["DBSIZE"]) >= 3);
    let key = cluster.key(0, 5);
    client.expect(&["SET", &key, "moving"], "+OK");
    let slot = slot(key.as_bytes());
    cluster.begin_move(slot, 0, 1);
    cluster.move_keys(slot, 0, 1);
    client.expect(&["APPEND", &key, "!"], ":7");
    cluster.end_move(slot, 0, 1);
    client.expect(&["GET", &key], "$7\r\nmoving!");
    cluster.agree_on(&[slot], 1);
    cluster.move_slot(slot, 1, 0);
    cluster.agree_on(&[slot], 0);
    client.expect(&["GET", &key], "$7\r\nmoving!");
    client.expect(&["DEL", &key], ":1");
}
