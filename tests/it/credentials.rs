//! A password of the upstream's user that is changed while clients are served: the new one is allowed, the proxy is told, the
//! old one is taken away, and no request is lost, whatever the upstream is.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use crate::support::cluster::Cluster;
use crate::support::sentinel::Watched;
use crate::support::{Proxy, STEP, Server, eventually};

#[test]
fn a_server_is_given_another_password() {
    let server = Server::start();
    is_rotated(&[&server], &server.url_tcp(), &["k".into(), "j".into()]);
}

#[test]
fn the_nodes_behind_sentinels_are_given_another_password() {
    let watched = Watched::start();
    let nodes: Vec<&Server> = watched.nodes.iter().collect();
    is_rotated(&nodes, &watched.url(), &["k".into(), "j".into()]);
}

#[test]
fn the_nodes_of_a_cluster_are_given_another_password() {
    let cluster = Cluster::start();
    let nodes: Vec<&Server> = cluster.nodes.iter().collect();
    let keys: Vec<String> = (0..3).map(|node| cluster.key(node, 0)).collect();
    is_rotated(&nodes, &cluster.url(), &keys);
}

fn is_rotated(nodes: &[&Server], url: &str, keys: &[String]) {
    let rules = ["on", ">first", "~*", "&*", "+@all"];
    for node in nodes {
        node.client()
            .expect(&[&["ACL", "SETUSER", "app"][..], &rules].concat(), "+OK");
    }
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("password");
    std::fs::write(&file, "first\n").expect("it can be written");
    let toml = format!("[upstream]\npassword_file = {file:?}\nreconnect_max = \"100ms\"\n[auth]\nmode = \"none\"\n");
    let proxy = Proxy::with_config(&url.replace("://", "://app@"), &toml, &["--workers", "2"]);
    let mut client = proxy.client();
    for key in keys {
        eventually("the upstream is there", STEP, || {
            client.cmd(&["SET", key, "v"]) == b"+OK\r\n"
        });
    }
    let (is_over, served) = (AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|scope| {
        for i in 0..3 {
            let (proxy, is_over, served) = (&proxy, &is_over, &served);
            scope.spawn(move || {
                let mut client = proxy.client();
                for round in 0.. {
                    let key = &keys[(round + i) % keys.len()];
                    // Over connections that are up, and such that are made for it.
                    let lines: [&[&str]; 6] = [
                        &["SET", key, "w"],
                        &["GET", key],
                        &["EVAL", "return redis.call('GET', KEYS[1])", "1", key],
                        &["WATCH", key],
                        &["UNWATCH"],
                        &["DUMP", key],
                    ];
                    for line in lines {
                        let reply = client.cmd(line);
                        assert!(
                            !reply.starts_with(b"-"),
                            "{line:?}: {}",
                            String::from_utf8_lossy(&reply)
                        );
                        served.fetch_add(1, Ordering::Relaxed);
                    }
                    if is_over.load(Ordering::Relaxed) {
                        return;
                    }
                }
            });
        }
        let more = || {
            let before = served.load(Ordering::Relaxed);
            eventually("clients are served", STEP, || {
                served.load(Ordering::Relaxed) > before + 300
            });
        };
        more();
        let set = |rule: &str| {
            let set = |node: &&Server| node.client().expect(&["ACL", "SETUSER", "app", rule], "+OK");
            nodes.iter().for_each(set);
        };
        set(">second");
        more();
        std::fs::write(&file, "second\n").expect("it can be written");
        proxy.hang_up();
        eventually("it is read", STEP, || proxy.log().contains("are read again"));
        set("<first");
        more();
        is_over.store(true, Ordering::Relaxed);
    });
    // Every connection that is made now shows the new one.
    for node in nodes {
        node.client().cmd(&["CLIENT", "KILL", "USER", "app"]);
    }
    for key in keys {
        eventually("new connections are let in", STEP, || {
            client.cmd(&["SET", key, "x"]) == b"+OK\r\n"
        });
        client.expect(&["WATCH", key], "+OK");
        client.expect(&["UNWATCH"], "+OK");
    }
    eventually("all is well", STEP, || {
        proxy.http("/health").1.contains("\"status\":\"healthy\"")
    });
    assert!(!proxy.log().contains("WRONGPASS"), "{}", proxy.log());
}
