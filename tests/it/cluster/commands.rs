//! Commands over several slots, commands that name no key, and what the proxy says of itself as a node.

use std::collections::BTreeSet;

use crate::support::client::{children, payload};
use crate::support::cluster::Cluster;
use crate::support::{Client, Proxy, STEP, Server, eventually, show};

/// Keys over all nodes, and their values.
fn pairs(count: usize) -> Vec<(String, String)> {
    (0..count).map(|i| (format!("p{i}"), format!("v{i}"))).collect()
}

#[test]
fn commands_over_several_slots_are_split_and_merged_in_order() {
    let cluster = Cluster::start();
    let proxy = Proxy::before(&cluster.url(), &[]);
    let mut client = proxy.client();
    let pairs = pairs(1000);
    let mut mset = vec!["MSET"];
    mset.extend(pairs.iter().flat_map(|(k, v)| [k.as_str(), v.as_str()]));
    client.expect(&mset, "+OK");
    let mut mget = vec!["MGET", "missing"];
    mget.extend(pairs.iter().map(|(k, _)| k.as_str()));
    mget.push("p0");
    for round in 0..3 {
        let values: Vec<Option<Vec<u8>>> = children(&client.cmd(&mget))
            .iter()
            .map(|v| payload(v).unwrap())
            .collect();
        assert_eq!(values.len(), 1002);
        assert_eq!(
            (&values[0], values[1001].as_deref()),
            (&None, Some(&b"v0"[..])),
            "round {round}"
        );
        for (value, (_, expected)) in values[1..].iter().zip(&pairs) {
            assert_eq!(value.as_deref(), Some(expected.as_bytes()));
        }
    }
    // RESP3 has another null.
    let mut three = proxy.client3();
    assert_eq!(
        three.text(&["MGET", "missing", "p1", "p2"]),
        "*3\r\n_\r\n$2\r\nv1\r\n$2\r\nv2\r\n"
    );
    // The values are kept.
    let known = [&["MGET"], &mget[2..]].concat();
    // On a busy machine the nodes may not have answered within the bound.
    eventually("all of it is in L1", STEP, || {
        cluster.nodes.iter().for_each(Server::forget_calls);
        client.cmd(&known);
        cluster.nodes.iter().all(|node| node.calls("mget") == 0)
    });
    // So is a reply about several keys of one slot, until one of them changes.
    let mut other = proxy.client();
    client.expect(&["SADD", "{s}a", "x"], ":1");
    for members in 1..4 {
        other.expect(&["SADD", "{s}b", &format!("y{members}")], ":1");
        let union = ["SUNION", "{s}a", "{s}b", "{s}none"];
        eventually("the union is a hit", STEP, || {
            cluster.nodes.iter().for_each(Server::forget_calls);
            assert_eq!(children(&client.cmd(&union)).len(), 1 + members);
            cluster.nodes.iter().all(|node| node.calls("sunion") == 0)
        });
    }
    client.expect(&["EXISTS", "p1", "p2", "p3", "none", "p1"], ":4");
    client.expect(&["TOUCH", "p1", "p2", "none"], ":2");
    client.expect(&["UNLINK", "p1", "p2", "none"], ":2");
    client.expect(&["EXISTS", "p1", "p2"], ":0");
    client.expect(&["DEL", "p3", "p4", "p5", "p6"], ":4");
    assert_eq!(
        client.text(&["MGET", "p1", "p3", "p7"]),
        "*3\r\n$-1\r\n$-1\r\n$2\r\nv7\r\n"
    );
    // What is wrong with one part is told.
    client.expect(&["LPUSH", "{p7}list", "x"], ":1");
    assert_eq!(client.text(&["MGET", "p8", "{p7}list"]), "*2\r\n$2\r\nv8\r\n$-1\r\n");
    client.expect(
        &["MSET", "p8", "1", "{p8}"],
        "-ERR wrong number of arguments for 'mset' command",
    );
}

#[test]
fn what_needs_one_slot_and_has_several_is_refused_as_by_a_node() {
    let cluster = Cluster::start();
    let proxy = Proxy::before(&cluster.url(), &[]);
    let mut client = proxy.client();
    let (a, b) = (cluster.key(0, 0), cluster.key(1, 0));
    for request in [
        &["MSETNX", &a, "1", &b, "2"][..],
        &["RENAME", &a, &b],
        &["SUNION", &a, &b],
        &["EVAL", "return 1", "2", &a, &b],
        &["BLPOP", &a, &b, "1"],
        &["WATCH", &a, &b],
        &["SORT", &a, "STORE", &b],
        &["LMPOP", "2", &a, &b, "LEFT"],
    ] {
        client.expect(request, "-CROSSSLOT Keys in request don't hash to the same slot");
    }
    let (c, d) = (format!("{{{a}}}c"), format!("{{{a}}}d"));
    client.expect(&["MSETNX", &a, "1", &c, "2"], ":1");
    client.expect(&["RENAME", &a, &d], "+OK");
    client.expect(&["EVAL", "return redis.call('get', KEYS[2])", "2", &c, &d], "$1\r\n1");
    client.expect(&["SELECT", "0"], "+OK");
    client.expect(&["SELECT", "1"], "-ERR SELECT is not allowed in cluster mode");
    for request in [
        &["CLIENT", "TRACKING", "ON"][..],
        &["CLIENT", "PAUSE", "10"],
        &["CLUSTER", "RESET"],
        &["SHUTDOWN"],
    ] {
        let reply = client.text(request);
        assert!(
            reply.starts_with("-ERR nearcache: ") && reply.contains(request[0]),
            "{reply}"
        );
    }
    client.expect(&["PING"], "+PONG");
}

#[test]
fn commands_without_keys_mean_the_whole_cluster() {
    let cluster = Cluster::start();
    let proxy = Proxy::before(&cluster.url(), &[]);
    let mut client = proxy.client();
    let mut names = BTreeSet::new();
    for (key, value) in pairs(600) {
        client.expect(&["SET", &key, &value], "+OK");
        names.insert(key);
    }
    client.expect(&["DBSIZE"], ":600");
    let keys: BTreeSet<String> = strings(&client.cmd(&["KEYS", "p1*"])).into_iter().collect();
    assert_eq!(
        keys,
        names.iter().filter(|key| key.starts_with("p1")).cloned().collect()
    );
    for _ in 0..10 {
        let key = client.bulk(&["RANDOMKEY"]).expect("there are keys");
        assert!(names.contains(&String::from_utf8(key).unwrap()));
    }
    assert_eq!(scan(&mut client, |_| ()), names);
    let sha = client.bulk(&["SCRIPT", "LOAD", "return KEYS[1]"]).unwrap();
    let sha = String::from_utf8(sha).unwrap();
    for node in 0..3 {
        let key = cluster.key(node, 0);
        assert_eq!(client.bulk(&["EVALSHA", &sha, "1", &key]), Some(key.into_bytes()));
    }
    assert_eq!(client.text(&["SCRIPT", "EXISTS", &sha, "ff"]), "*2\r\n:1\r\n:0\r\n");
    client.expect(&["CONFIG", "SET", "maxmemory-samples", "7"], "+OK");
    for node in 0..3 {
        assert!(
            cluster
                .client(node)
                .text(&["CONFIG", "GET", "maxmemory-samples"])
                .ends_with("$1\r\n7\r\n")
        );
    }
    client.expect(&["WAIT", "0", "100"], ":0");
    assert!(client.text(&["TIME"]).starts_with("*2\r\n"));
    let info = client.text(&["INFO"]);
    assert!(
        info.contains("cluster_enabled:1")
            && info.contains("nearcache_cluster:primaries=3,failed=0,replicas=0,slots=16384"),
        "{info}"
    );
    // Nothing that was read before a flush is shown behind it.
    let mut other = proxy.client();
    assert_eq!(other.bulk(&["GET", "p7"]), Some(b"v7".to_vec()));
    client.expect(&["FLUSHALL"], "+OK");
    assert_eq!(other.bulk(&["GET", "p7"]), None);
    client.expect(&["DBSIZE"], ":0");
    assert_eq!(client.bulk(&["RANDOMKEY"]), None);
    assert!(scan(&mut client, |_| ()).is_empty());
    client.expect(&["SCAN", "x"], "-ERR invalid cursor");
    // In the middle of a pipeline they keep their place.
    client.raw(b"*3\r\n$3\r\nSET\r\n$2\r\np7\r\n$1\r\n1\r\n*1\r\n$6\r\nDBSIZE\r\n*2\r\n$3\r\nDEL\r\n$2\r\np7\r\n*1\r\n$6\r\nDBSIZE\r\n");
    let replies: Vec<String> = client.frames(4).iter().map(|frame| show(frame)).collect();
    assert_eq!(replies, ["+OK\\r\\n", ":1\\r\\n", ":1\\r\\n", ":0\\r\\n"]);
}

#[test]
fn a_scan_misses_nothing_while_slots_move() {
    let cluster = Cluster::start();
    let proxy = Proxy::before(&cluster.url(), &[]);
    let mut client = proxy.client();
    let mut names = BTreeSet::new();
    for i in 0..900 {
        let key = cluster.key(i % 3, i / 3 % 30);
        let key = format!("{{{key}}}{i}");
        client.expect(&["SET", &key, "v"], "+OK");
        names.insert(key);
    }
    // From the node that is scanned last to the one that is scanned first, once that is done.
    let slot = crate::support::cluster::slot(cluster.key(2, 0).as_bytes());
    let mut steps = 0;
    let found = scan(&mut client, |_| {
        steps += 1;
        if steps == 40 {
            for (from, to) in [(2, 0), (2, 1), (1, 0)] {
                let (first, _) = cluster.range(from);
                let slot = if (from, to) == (2, 0) { slot } else { first };
                cluster.move_slot(slot, from, to);
            }
        }
    });
    assert!(steps > 40, "{steps}");
    let missing: Vec<&String> = names.difference(&found).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

#[test]
fn to_clients_the_proxy_is_the_node_that_has_all_slots() {
    let cluster = Cluster::start();
    let proxy = Proxy::before(&cluster.url(), &[]);
    let port = proxy.port().to_string();
    let mut client = proxy.client();
    let id = String::from_utf8(client.bulk(&["CLUSTER", "MYID"]).unwrap()).unwrap();
    assert_eq!(id.len(), 40);
    client.expect(
        &["CLUSTER", "SLOTS"],
        &format!("*1\r\n*3\r\n:0\r\n:16383\r\n*4\r\n$9\r\n127.0.0.1\r\n:{port}\r\n$40\r\n{id}\r\n*0"),
    );
    let nodes = client.text(&["CLUSTER", "NODES"]);
    assert!(
        nodes.contains(&format!("{id} 127.0.0.1:{port}@")) && nodes.contains("myself,master - 0 0 1 connected 0-16383")
    );
    assert_eq!(children(&client.cmd(&["CLUSTER", "SHARDS"])).len(), 1);
    assert!(
        client
            .text(&["CLUSTER", "INFO"])
            .contains("cluster_state:ok\r\ncluster_slots_assigned:16384")
    );
    client.expect(&["CLUSTER", "KEYSLOT", "foo"], ":12182");
    client.expect(&["SET", "foo", "bar"], "+OK");
    client.expect(&["CLUSTER", "COUNTKEYSINSLOT", "12182"], ":1");
    client.expect(&["CLUSTER", "GETKEYSINSLOT", "12182", "5"], "*1\r\n$3\r\nfoo");
    client.expect(&["CLUSTER", "COUNTKEYSINSLOT", "16384"], "-ERR Invalid slot");
    for word in ["READONLY", "READWRITE", "ASKING"] {
        client.expect(&[word], "+OK");
    }
    assert!(client.text(&["HELLO", "3"]).contains("$4\r\nmode\r\n$7\r\ncluster\r\n"));
    assert!(
        client
            .text(&["CLUSTER", "SHARDS"])
            .starts_with("*1\r\n%2\r\n$5\r\nslots\r\n*2\r\n:0\r\n:16383\r\n$5\r\nnodes\r\n*1\r\n%7\r\n")
    );
    assert!(client.text(&["CLUSTER", "SLOTS"]).ends_with("%0\r\n"));
    // At most one connection for each worker and node, but for those of the control plane.
    eventually("there is a tracked connection for each worker and node", STEP, || {
        proxy.metric("nearcache_links_tracked", &[]) == Some(6.0)
    });
    assert_eq!(proxy.http("/health").0, 200);
}

fn strings(frame: &[u8]) -> Vec<String> {
    let text = |frame: &Vec<u8>| String::from_utf8(payload(frame)??).ok();
    children(frame).iter().filter_map(text).collect()
}

/// All keys that a scan in small steps returns.
fn scan(client: &mut Client, mut between: impl FnMut(&str)) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut cursor = "0".to_owned();
    for _ in 0..100_000 {
        let reply = client.cmd(&["SCAN", &cursor, "COUNT", "10"]);
        let parts = children(&reply);
        assert_eq!(parts.len(), 2, "{}", show(&reply));
        cursor = String::from_utf8(payload(&parts[0]).unwrap().unwrap()).unwrap();
        found.extend(strings(&parts[1]));
        if cursor == "0" {
            return found;
        }
        between(&cursor);
    }
    panic!("the scan does not end");
}

#[test]
fn what_is_unpacked_for_one_read_of_many_slots_is_bounded_together() {
    let cluster = Cluster::start();
    let toml = "[cache]\ncompression = \"lz4\"\n";
    let proxy = Proxy::with_config(&cluster.url(), toml, &["--workers", "2"]);
    let mut client = proxy.client();
    let pairs: Vec<(String, String)> = (0..200)
        .map(|i| (format!("p{i}"), format!("{i:04} and so on ").repeat(4000)))
        .collect();
    for (name, value) in &pairs {
        client.expect(&["SET", name, value], "+OK");
    }
    let calls = || cluster.nodes.iter().map(|node| node.calls("mget")).sum::<u64>();
    let ask = |client: &mut Client, count: usize| {
        let names = pairs[..count].iter().map(|(name, _)| name.as_str());
        let words: Vec<&str> = ["MGET"].into_iter().chain(names).collect();
        let reply = client.cmd(&words);
        for (value, (name, expected)) in children(&reply).iter().zip(&pairs) {
            assert!(
                payload(value).unwrap().as_deref() == Some(expected.as_bytes()),
                "{name}"
            );
        }
    };
    eventually("all of it is in L1", STEP, || {
        for (name, value) in &pairs {
            assert!(client.bulk(&["GET", name]).as_deref() == Some(value.as_bytes()));
        }
        cluster.nodes.iter().for_each(Server::forget_calls);
        ask(&mut client, 100);
        calls() == 0
    });
    // 12 MB, of which 8 MiB are unpacked.
    ask(&mut client, 200);
    assert!((20..=120).contains(&calls()), "{}", calls());
}
