//! Servers that speak RESP2 alone: older ones, and those whose `HELLO` has another name. Clients are served as such a server
//! serves them, what is cached is kept true by what it offers, and a server that learns RESP3, or loses it, is followed.

use crate::ladder::{EVENTUAL, follows, is_cached, is_in, nothing_is_kept};
use crate::support::client::children;
use crate::support::cluster::Cluster;
use crate::support::sentinel::Watched;
use crate::support::{Client, Proxy, STEP, Server, eventually};

const NO_HELLO: [&str; 3] = ["--rename-command", "HELLO", ""];
const NOPROTO: &str = "-NOPROTO unsupported protocol version";

/// Without `HELLO`: Redis 7, and what there is of Redis 5 and Valkey.
fn servers(extra: &[&str]) -> Vec<Server> {
    let hidden = [&NO_HELLO[..], extra].concat();
    let others = [Server::redis_5(extra), Server::valkey(&hidden)];
    others.into_iter().flatten().chain([Server::with(&hidden)]).collect()
}

/// Waits until the proxy speaks this version with the upstream.
fn speaks(proxy: &Proxy, version: f64) {
    eventually(&format!("RESP{version}"), STEP, || {
        proxy.metric("nearcache_upstream_protocol", &[]) == Some(version)
    });
}

/// What the server answers, and the proxy: to everything the same.
#[track_caller]
fn same(direct: &mut Client, through: &mut Client, commands: &[&[&str]]) {
    for command in commands {
        let expected = direct.text(command);
        assert_eq!(through.text(command), expected, "{command:?}");
    }
}

#[test]
fn a_server_without_hello_is_served_in_resp2() {
    for server in servers(&[]) {
        let kind = server.kind();
        let proxy = Proxy::start(&server, &[]);
        speaks(&proxy, 2.0);
        let (mut client, mut direct) = (proxy.client(), server.client());
        client.expect(&["HELLO", "3"], NOPROTO);
        let hello = client.text(&["HELLO", "2"]);
        assert!(hello.contains("$5\r\nproto\r\n:2\r\n"), "{kind}: {hello}");
        let (name, version) = match kind.rsplit_once("valkey_version:") {
            Some((_, version)) => ("valkey", version),
            None => ("redis", kind.trim_start_matches("redis_version:")),
        };
        assert!(hello.contains(name) && hello.contains(version), "{kind}: {hello}");
        // A shape of its own in RESP3 has each of these.
        let writes: [&[&str]; 6] = [
            &["RPUSH", "list", "a", "b"],
            &["HSET", "hash", "f", "v"],
            &["SADD", "set", "m"],
            &["ZADD", "sorted", "1.5", "a", "2", "b"],
            &["XADD", "stream", "1-1", "f", "v"],
            &["GEOADD", "geo", "13.361389", "38.115556", "Palermo"],
        ];
        let reads: [&[&str]; 22] = [
            &["GET", "absent"],
            &["MGET", "absent", "k"],
            &["HGET", "hash", "absent"],
            &["HGETALL", "hash"],
            &["HGETALL", "absent"],
            &["HMGET", "hash", "f", "absent"],
            &["SMEMBERS", "set"],
            &["SMEMBERS", "absent"],
            &["ZRANGE", "sorted", "0", "-1", "WITHSCORES"],
            &["ZSCORE", "sorted", "a"],
            &["ZSCORE", "sorted", "absent"],
            &["ZPOPMIN", "absent", "2"],
            &["XREAD", "STREAMS", "stream", "0"],
            &["XREAD", "STREAMS", "stream", "9"],
            &["GEOPOS", "geo", "Palermo", "absent"],
            &["BLPOP", "absent", "0.01"],
            &["LPOP", "absent"],
            &["EVAL", "return {1, false, 'x'}", "0"],
            &["CONFIG", "GET", "maxmemory"],
            &["OBJECT", "ENCODING", "absent"],
            &["LRANGE", "list", "0", "-1"],
            &["TYPE", "absent"],
        ];
        for write in writes {
            let told = client.text(write);
            assert!(!told.starts_with('-'), "{kind}: {write:?}: {told}");
        }
        for _ in 0..3 {
            same(&mut direct, &mut client, &reads);
        }
        let transaction: [&[&str]; 6] = [
            &["WATCH", "k"],
            &["MULTI"],
            &["HGETALL", "hash"],
            &["ZSCORE", "sorted", "a"],
            &["GET", "absent"],
            &["EXEC"],
        ];
        same(&mut direct, &mut client, &transaction);
        // What is promised cannot be kept, so nothing is; and it is said what to do.
        is_in(&proxy, "none");
        client.expect(&["SET", "k", "v"], "+OK");
        nothing_is_kept(&server, &mut client);
        let info = client.text(&["INFO", "nearcache"]);
        for told in [
            "nearcache_upstream_protocol:2 (HELLO 3 was refused: ERR unknown command",
            "nearcache_invalidation_reason:CLIENT TRACKING needs RESP3, and HELLO 3 was refused",
        ] {
            assert!(info.contains(told), "{kind}: {info}");
        }
        let log = proxy.log();
        assert!(
            log.contains("nothing is cached: use a Redis 6.0 or later or a Valkey that takes HELLO 3"),
            "{kind}: {log}"
        );
    }
}

#[test]
fn messages_and_states_of_connections_are_those_of_resp2() {
    for server in servers(&[]) {
        let kind = server.kind();
        let proxy = Proxy::start(&server, &[]);
        speaks(&proxy, 2.0);
        let (mut listener, mut other, mut direct) = (proxy.client(), proxy.client(), server.client());
        listener.expect(&["SUBSCRIBE", "a"], "*3\r\n$9\r\nsubscribe\r\n$1\r\na\r\n:1");
        listener.expect(&["PSUBSCRIBE", "b*"], "*3\r\n$10\r\npsubscribe\r\n$2\r\nb*\r\n:2");
        assert_eq!(listener.cmd(&["PING"]), b"*2\r\n$4\r\npong\r\n$0\r\n\r\n");
        other.expect(&["SUBSCRIBE", "a"], "*3\r\n$9\r\nsubscribe\r\n$1\r\na\r\n:1");
        for round in 0..5 {
            let text = format!("{kind} {round}");
            direct.cmd(&["PUBLISH", "a", &text]);
            let message = format!("*3\r\n$7\r\nmessage\r\n$1\r\na\r\n${}\r\n{text}\r\n", text.len());
            assert_eq!(String::from_utf8_lossy(&listener.frame()), message);
            assert_eq!(String::from_utf8_lossy(&other.frame()), message);
        }
        // One leaves what the other needs, and comes back.
        other.expect(&["UNSUBSCRIBE", "a"], "*3\r\n$11\r\nunsubscribe\r\n$1\r\na\r\n:0");
        other.expect(&["PUBLISH", "bb", "hello"], ":1");
        let message = "*4\r\n$8\r\npmessage\r\n$2\r\nb*\r\n$2\r\nbb\r\n$5\r\nhello\r\n";
        assert_eq!(String::from_utf8_lossy(&listener.frame()), message);
        listener.expect(&["PUNSUBSCRIBE", "b*"], "*3\r\n$12\r\npunsubscribe\r\n$2\r\nb*\r\n:1");
        listener.expect(&["UNSUBSCRIBE"], "*3\r\n$11\r\nunsubscribe\r\n$1\r\na\r\n:0");
        listener.expect(&["PING"], "+PONG");
        // Blocked, and woken by another.
        listener.send(&["BLPOP", "queue", "0"]);
        eventually("it is blocked", STEP, || server.info("blocked_clients") == 1);
        other.expect(&["RPUSH", "queue", "x"], ":1");
        assert_eq!(listener.frame(), b"*2\r\n$5\r\nqueue\r\n$1\r\nx\r\n");
        other.expect(&["SELECT", "3"], "+OK");
        other.expect(&["SET", "k", "3"], "+OK");
        direct.expect(&["SELECT", "3"], "+OK");
        direct.expect(&["GET", "k"], "$1\r\n3");
        assert_eq!(proxy.metric("nearcache_clients_closed_total", &[]), Some(0.0));
    }
}

#[test]
fn what_resp2_allows_is_cached() {
    for server in servers(&["--notify-keyspace-events", "KA"]) {
        let kind = server.kind();
        let proxy = Proxy::with_config(&server.url(), EVENTUAL, &[]);
        let (mut client, mut direct) = (proxy.client(), server.client());
        is_in(&proxy, "keyspace_events");
        direct.expect(&["SET", "k", "0"], "+OK");
        for round in 1..20 {
            is_cached(&server, &mut client, "k");
            direct.expect(&["SET", "k", &round.to_string()], "+OK");
            follows(&mut client, "k", &round.to_string(), &kind);
        }
        // Absence too, and what has another shape in RESP3.
        let asked = |command: &str, words: &[&str]| {
            let (mut client, before) = (proxy.client(), server.calls(command));
            client.cmd(words);
            server.calls(command) == before
        };
        direct.expect(&["HSET", "hash", "f", "v"], ":1");
        for (command, words) in [
            ("get", &["GET", "absent"][..]),
            ("hgetall", &["HGETALL", "hash"]),
            ("hgetall", &["HGETALL", "absent"]),
            ("hget", &["HGET", "hash", "absent"]),
            ("hmget", &["HMGET", "absent", "a", "b"]),
            ("smembers", &["SMEMBERS", "absent"]),
        ] {
            eventually(&format!("{kind}: {words:?} is kept"), STEP, || asked(command, words));
            same(&mut direct, &mut client, &[words]);
        }
        // The absence of a key under one command answers others.
        client.expect(&["HGETALL", "absent"], "*0");
        client.expect(&["SMEMBERS", "absent"], "*0");
        client.expect(&["ZSCORE", "absent", "m"], "$-1");
        direct.expect(&["HSET", "absent", "f", "v"], ":1");
        eventually("it is there", STEP, || {
            client.cmd(&["HGETALL", "absent"]).starts_with(b"*2")
        });
        direct.expect(&["FLUSHALL"], "+OK");
        eventually("the flush is seen", STEP, || client.cmd(&["GET", "k"]) == b"$-1\r\n");
        direct.expect(&["CONFIG", "SET", "notify-keyspace-events", ""], "+OK");
        is_in(&proxy, "own_writes");
        client.expect(&["SET", "k", "mine"], "+OK");
        is_cached(&server, &mut client, "k");
        client.expect(&["SET", "k", "mine too"], "+OK");
        client.expect(&["GET", "k"], "$8\r\nmine too");
    }
}

#[test]
fn a_password_and_a_user_are_shown_in_resp2_too() {
    for server in servers(&["--requirepass", "secret"]) {
        let kind = server.kind();
        let url = format!("redis://:secret@127.0.0.1:{}/2", server.port());
        let proxy = Proxy::before(&url, &[]);
        speaks(&proxy, 2.0);
        let mut client = proxy.client();
        client.expect(&["GET", "k"], "-NOAUTH Authentication required.");
        client.expect(&["HELLO", "3", "AUTH", "default", "secret"], NOPROTO);
        client.expect(&["GET", "k"], "-NOAUTH Authentication required.");
        client.expect(&["AUTH", "secret"], "+OK");
        client.expect(&["SET", "k", "v"], "+OK");
        let mut direct = server.client();
        direct.expect(&["SELECT", "2"], "+OK");
        direct.expect(&["GET", "k"], "$1\r\nv");
        let url = format!("redis://app:secret@127.0.0.1:{}", server.port());
        let is_old = kind.contains("redis_version:5.");
        let toml = "[auth]\nmode = \"none\"\n";
        if is_old {
            let told = Proxy::with_config(&url, toml, &[]).client().text(&["GET", "k"]);
            assert!(
                told.contains("AUTH was refused: ERR wrong number of arguments for 'auth' command")
                    && told.contains("a server before Redis 6.0 knows no users"),
                "{told}"
            );
        } else {
            server
                .client()
                .expect(&["ACL", "SETUSER", "app", "on", ">secret", "~*", "&*", "+@all"], "+OK");
            let proxy = Proxy::with_config(&url, toml, &[]);
            proxy.client().expect(&["ACL", "WHOAMI"], "$3\r\napp");
            speaks(&proxy, 2.0);
        }
        let proxy = Proxy::before(&format!("redis://127.0.0.1:{}", server.port()), &[]);
        let told = proxy.client().text(&["GET", "k"]);
        assert!(told.contains("NOAUTH"), "{kind}: {told}");
    }
}

/// One and the same address, behind which the server is another one at times.
#[test]
fn a_server_that_loses_resp3_and_learns_it_again_is_followed() {
    let toml = format!("{EVENTUAL}invalidation = \"own-writes\"\n");
    let mut server = Server::with(&["--appendonly", "yes"]);
    let proxy = Proxy::with_config(&server.url_tcp(), &toml, &["--workers", "2"]);
    speaks(&proxy, 3.0);
    let mut plain: Vec<Client> = (0..4).map(|_| proxy.client()).collect();
    let modern = || (0..4).map(|_| proxy.client3()).collect::<Vec<_>>();
    let mut others = modern();
    plain[0].expect(&["HSET", "hash", "f", "v"], ":1");
    for round in 0..2 {
        for client in &mut others {
            eventually("it is served in RESP3", STEP, || {
                let told = client.cmd(&["HGETALL", "hash"]);
                assert!(told.starts_with(b"%1") || told.starts_with(b"-"), "{round}: {told:?}");
                told.starts_with(b"%1")
            });
        }
        server.restart_with(&[&["--appendonly", "yes"][..], &NO_HELLO].concat());
        // Never a wrong shape: an error, or the end.
        for client in &mut others {
            let mut last = Vec::new();
            eventually("clients in RESP3 are closed", STEP, || {
                if client.try_raw(b"HGETALL hash\r\n").is_err() {
                    return true;
                }
                match client.try_frame(STEP) {
                    Ok(frame) => last = frame,
                    Err(_) => return true,
                }
                assert!(last.starts_with(b"%1") || last.starts_with(b"-"), "{round}: {last:?}");
                false
            });
        }
        speaks(&proxy, 2.0);
        for client in &mut plain {
            eventually("it is served in RESP2", STEP, || {
                client.cmd(&["HGETALL", "hash"]) == b"*2\r\n$1\r\nf\r\n$1\r\nv\r\n"
            });
            client.expect(&["HELLO", "3"], NOPROTO);
        }
        server.restart_with(&["--appendonly", "yes"]);
        speaks(&proxy, 3.0);
        // Entries of before were of RESP2, and live for ten minutes.
        others = modern();
    }
    for client in &mut plain {
        client.expect(&["HGETALL", "hash"], "*2\r\n$1\r\nf\r\n$1\r\nv");
    }
}

#[test]
fn a_cluster_without_hello_is_served_in_resp2() {
    let cluster = Cluster::with(3, false, &NO_HELLO);
    let proxy = Proxy::with_config(&cluster.url(), EVENTUAL, &[]);
    speaks(&proxy, 2.0);
    is_in(&proxy, "own_writes");
    let mut client = proxy.client();
    client.expect(&["HELLO", "3"], NOPROTO);
    let keys: Vec<String> = (0..3).map(|node| cluster.key(node, 0)).collect();
    let [a, b, c] = [&*keys[0], &*keys[1], &*keys[2]];
    for _ in 0..3 {
        client.expect(&["MSET", a, "1", b, "2", c, "3"], "+OK");
        for _ in 0..3 {
            client.expect(
                &["MGET", c, "absent", a, b],
                "*4\r\n$1\r\n3\r\n$-1\r\n$1\r\n1\r\n$1\r\n2",
            );
        }
        client.expect(&["DBSIZE"], ":3");
        assert_eq!(children(&client.cmd(&["KEYS", "*"])).len(), 3);
        assert_ne!(client.cmd(&["RANDOMKEY"]), b"$-1\r\n");
        client.expect(&["EXISTS", a, b, c, "absent"], ":3");
        assert_eq!(
            client.text(&["CONFIG", "GET", "cluster-enabled"]),
            "*2\r\n$15\r\ncluster-enabled\r\n$3\r\nyes\r\n"
        );
        let mut found = 0;
        let mut cursor = "0".to_owned();
        loop {
            let parts = children(&client.cmd(&["SCAN", &cursor]));
            found += children(&parts[1]).len();
            cursor = String::from_utf8_lossy(&parts[0])
                .lines()
                .nth(1)
                .unwrap_or("0")
                .to_owned();
            if cursor == "0" {
                break;
            }
        }
        assert_eq!(found, 3);
        client.expect(&["SCRIPT", "EXISTS", "x"], "*1\r\n:0");
        client.expect(
            &["EVAL", "return {KEYS[1], false}", "1", a],
            &format!("*2\r\n${}\r\n{a}\r\n$-1", a.len()),
        );
        client.expect(&["DEL", a, b, c], ":3");
        client.expect(&["RANDOMKEY"], "$-1");
        assert_eq!(children(&client.cmd(&["CLUSTER", "SLOTS"])).len(), 1);
    }
    // Everything else of a cluster is as ever: a slot that moves takes its keys along.
    let slot = crate::support::cluster::slot(a.as_bytes());
    client.expect(&["HSET", a, "f", "v"], ":1");
    is_cached(&cluster.nodes[0], &mut client, b);
    cluster.move_slot(slot, 0, 1);
    eventually("the slot is followed", STEP, || {
        client.cmd(&["HGETALL", a]) == b"*2\r\n$1\r\nf\r\n$1\r\nv\r\n"
    });
    client.expect(&["HSET", a, "f", "w"], ":0");
    client.expect(&["HGETALL", a], "*2\r\n$1\r\nf\r\n$1\r\nw");
}

#[test]
fn a_primary_without_hello_is_asked_for_its_role_otherwise() {
    let watched = Watched::of_nodes_with(&NO_HELLO);
    let proxy = Proxy::with_config(&watched.url(), EVENTUAL, &[]);
    let mut client = proxy.client();
    client.expect(&["SET", "k", "v"], "+OK");
    // On a connection of its own, too.
    client.expect(&["WATCH", "k"], "+OK");
    client.expect(&["UNWATCH"], "+OK");
    speaks(&proxy, 2.0);
    let old = watched.named().expect("there is a primary");
    watched.nodes[old].client().expect(&["WAIT", "2", "5000"], ":2");
    watched.fail_over(old);
    let new = watched.primary_other_than(old).expect("another node was promoted");
    eventually("the new primary is followed", STEP, || {
        client.cmd(&["SET", "k", "w"]);
        watched.nodes[new].client().cmd(&["GET", "k"]) == b"$1\r\nw\r\n"
    });
    eventually("a connection of its own, too", STEP, || {
        client.cmd(&["WATCH", "k"]) == b"+OK\r\n"
    });
}
