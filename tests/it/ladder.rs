//! Servers that offer less than others: by which means the proxy learns what changes there, what it promises then, and what
//! it says about it.

use std::time::{Duration, Instant};

use crate::support::cluster::Cluster;
use crate::support::{Client, Proxy, STEP, Server, eventually};

const MODES: [&str; 5] = ["none", "own_writes", "keyspace_events", "broadcast", "tracking"];
/// Nothing but invalidation ends an entry within a test.
pub const EVENTUAL: &str = "[cache]\nconsistency = \"eventual\"\nmax_age = \"10m\"\n";
/// No user may have the server track.
const NO_CLIENT: [&str; 3] = ["--rename-command", "CLIENT", ""];

#[test]
fn every_kind_of_server_tracks() {
    for server in Server::of_each_kind(&[]) {
        let kind = server.kind();
        let proxy = Proxy::start(&server, &[]);
        let (mut client, mut direct) = (proxy.client(), server.client());
        is_in(&proxy, "tracking");
        direct.expect(&["SET", "k", "0"], "+OK");
        for round in 1..20 {
            is_cached(&server, &mut client, "k");
            direct.expect(&["SET", "k", &round.to_string()], "+OK");
            follows(&mut client, "k", &round.to_string(), &kind);
        }
        client.expect(&["GET", "absent"], "$-1");
        direct.expect(&["SET", "absent", "x"], "+OK");
        follows(&mut client, "absent", "x", &kind);
        client.expect(&["SET", "k", "own"], "+OK");
        client.expect(&["GET", "k"], "$3\r\nown");
        direct.expect(&["FLUSHALL"], "+OK");
        eventually("the flush is seen", STEP, || client.cmd(&["GET", "k"]) == b"$-1\r\n");
    }
}

#[test]
fn a_server_that_broadcasts_remembers_no_key_and_tells_of_its_prefixes() {
    let toml = "[cache]\ninvalidation = \"broadcast\"\nbroadcast_prefixes = [\"user:\", \"cart:\"]\n";
    for server in Server::of_each_kind(&[]) {
        let kind = server.kind();
        let proxy = Proxy::with_config(&server.url(), toml, &[]);
        let (mut client, mut direct) = (proxy.client(), server.client());
        is_in(&proxy, "broadcast");
        for key in ["user:1", "cart:1", "user:absent", "other"] {
            direct.expect(&["DEL", key], ":0");
            for round in 0..10 {
                if key != "other" {
                    is_cached(&server, &mut client, key);
                }
                direct.expect(&["SET", key, &round.to_string()], "+OK");
                follows(&mut client, key, &round.to_string(), &kind);
            }
        }
        // Of what the server would not tell nothing is kept, by whatever command it is read.
        let before = server.calls("get");
        for _ in 0..10 {
            client.expect(&["GET", "other"], "$1\r\n9");
        }
        assert_eq!(server.calls("get") - before, 10, "{kind}");
        let before = server.calls("mget");
        for _ in 0..10 {
            client.expect(&["MGET", "other", "other"], "*2\r\n$1\r\n9\r\n$1\r\n9");
        }
        assert_eq!(server.calls("mget") - before, 10, "{kind}");
        let explained = client.text(&["NEARCACHE", "EXPLAIN", "other"]);
        assert!(explained.contains("none of cache.broadcast_prefixes"), "{explained}");
        assert_eq!(server.info("tracking_total_keys"), 0, "{kind}: it remembers none");
        assert_eq!(server.info("tracking_total_prefixes"), 2, "{kind}");
        direct.expect(&["FLUSHALL"], "+OK");
        eventually("the flush is seen", STEP, || {
            client.cmd(&["GET", "user:1"]) == b"$-1\r\n"
        });
    }
}

#[test]
fn the_nodes_of_a_cluster_broadcast_too() {
    let cluster = Cluster::start();
    let toml = "[cache]\ninvalidation = \"broadcast\"\n";
    let proxy = Proxy::with_config(&cluster.url(), toml, &[]);
    let mut client = proxy.client();
    is_in(&proxy, "broadcast");
    for node in 0..3 {
        let (key, mut direct) = (cluster.key(node, 0), cluster.client(node));
        for round in 0..10 {
            direct.expect(&["SET", &key, &round.to_string()], "+OK");
            follows(&mut client, &key, &round.to_string(), "a cluster");
            is_cached(&cluster.nodes[node], &mut client, &key);
        }
    }
}

#[test]
fn several_keys_of_a_broadcast_are_served_together() {
    let toml = "[cache]\ninvalidation = \"broadcast\"\nbound = \"400ms\"\n";
    let server = Server::start();
    let proxy = Proxy::with_config(&server.url(), toml, &["--workers", "1"]);
    let mut client = proxy.client();
    client.expect(&["MSET", "a", "1", "b", "2"], "+OK");
    let read = |client: &mut Client| client.expect(&["MGET", "a", "b"], "*2\r\n$1\r\n1\r\n$1\r\n2");
    read(&mut client);
    // Hits as soon as later turns have answered; and for as long as the link is asked now and then.
    eventually("it is a hit", STEP, || {
        let before = server.calls("mget");
        for _ in 0..3 {
            client.expect(&["DUMP", "absent"], "$-1");
        }
        read(&mut client);
        server.calls("mget") == before
    });
    // One reply about both is not kept then, so nothing is asked for its sake.
    let before = server.calls("pttl");
    for _ in 0..3 {
        client.expect(&["SUNION", "none", "nothing"], "*0");
    }
    assert_eq!((server.calls("sunion"), server.calls("pttl") - before), (3, 0));
    let begun = Instant::now();
    let before = server.calls("get");
    let mut hits = 0;
    client.expect(&["GET", "a"], "$1\r\n1");
    while begun.elapsed() < Duration::from_secs(2) {
        client.expect(&["GET", "a"], "$1\r\n1");
        hits += 1;
    }
    let missed = server.calls("get") - before;
    assert!(missed < 20 && hits > 1000, "{missed} of {hits} were asked for");
}

#[test]
fn keyspace_events_serve_where_nothing_tracks() {
    let flags = [&NO_CLIENT[..], &["--notify-keyspace-events", "KA"]].concat();
    for server in Server::of_each_kind(&flags) {
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
        assert!(
            proxy.metric("nearcache_keyspace_events_total", &[]) > Some(15.0),
            "{kind}"
        );
        for (write, reply) in [
            (&["HSET", "h", "f", "1"][..], ":1"),
            (&["RENAME", "k", "renamed"], "+OK"),
            (&["EVAL", "return redis.call('SET', 'hidden', 'x')", "0"], "+OK"),
        ] {
            for key in ["k", "hidden"] {
                client.cmd(&["GET", key]);
            }
            direct.expect(write, reply);
        }
        eventually("it is gone", STEP, || client.cmd(&["GET", "k"]) == b"$-1\r\n");
        follows(&mut client, "hidden", "x", &kind);
        // A flush sends no event; its count is looked at.
        direct.expect(&["FLUSHALL"], "+OK");
        eventually("the flush is seen", STEP, || {
            client.cmd(&["GET", "hidden"]) == b"$-1\r\n"
        });
        // Whoever may can turn them off, and on again.
        direct.expect(&["CONFIG", "SET", "notify-keyspace-events", "Kg"], "+OK");
        is_in(&proxy, "own_writes");
        let stats = client.text(&["NEARCACHE", "STATS"]);
        assert!(stats.contains("CLIENT TRACKING was refused"), "{stats}");
        assert!(
            stats.contains("notify-keyspace-events is \"gK\" at the server"),
            "{stats}"
        );
        direct.expect(&["SET", "missed", "1"], "+OK");
        is_cached(&server, &mut client, "missed");
        direct.expect(&["SET", "missed", "2"], "+OK");
        direct.expect(&["CONFIG", "SET", "notify-keyspace-events", "KA"], "+OK");
        is_in(&proxy, "keyspace_events");
        follows(&mut client, "missed", "2", &kind);
    }
}

#[test]
fn keyspace_events_of_which_not_all_can_be_known_are_not_used() {
    let server = Server::with(&[&NO_CLIENT[..], &["--notify-keyspace-events", "KA"]].concat());
    let mut direct = server.client();
    direct.expect(&["ACL", "SETUSER", "app", "on", ">secret", "~*", "&*", "+@all"], "+OK");
    let url = format!("redis://app:secret@127.0.0.1:{}", server.port());
    for (rule, allowed, told) in [
        (
            "-config|get",
            "+config|get",
            "CONFIG GET notify-keyspace-events was refused, so nobody knows which events there are",
        ),
        (
            "-info",
            "+info",
            "INFO commandstats was refused, so nobody knows of a FLUSHALL or SWAPDB",
        ),
    ] {
        direct.expect(&["ACL", "SETUSER", "app", rule], "+OK");
        let proxy = Proxy::with_config(&url, &format!("{EVENTUAL}[auth]\nmode = \"none\"\n"), &[]);
        is_in(&proxy, "own_writes");
        eventually("it is said why, and what to do", STEP, || {
            let stats = proxy.client().text(&["NEARCACHE", "STATS"]);
            stats.contains(told) && stats.contains(&format!("ACL SETUSER <user> {allowed}"))
        });
        direct.expect(&["ACL", "SETUSER", "app", allowed], "+OK");
        is_in(&proxy, "keyspace_events");
    }
}

#[test]
fn keyspace_events_that_are_demanded_and_not_there_keep_nothing() {
    let server = Server::start();
    let toml = format!("{EVENTUAL}invalidation = \"keyspace-events\"\n");
    let proxy = Proxy::with_config(&server.url(), &toml, &[]);
    let mut client = proxy.client();
    client.expect(&["SET", "k", "v"], "+OK");
    is_in(&proxy, "none");
    nothing_is_kept(&server, &mut client);
    let told = proxy.http("/health").1;
    assert!(
        told.contains("the upstream sends no keyspace events: nothing is cached"),
        "{told}"
    );
    server
        .client()
        .expect(&["CONFIG", "SET", "notify-keyspace-events", "KA"], "+OK");
    is_in(&proxy, "keyspace_events");
    is_cached(&server, &mut client, "k");
    server.client().expect(&["SET", "k", "w"], "+OK");
    follows(&mut client, "k", "w", "redis");
    assert_eq!(server.info("tracking_clients"), 0, "nothing else was asked for");
    server
        .client()
        .expect(&["CONFIG", "SET", "notify-keyspace-events", ""], "+OK");
    is_in(&proxy, "none");
    nothing_is_kept(&server, &mut client);
}

#[test]
fn a_user_who_may_not_track_gets_what_the_consistency_allows_and_is_told_the_remedy() {
    for server in Server::of_each_kind(&[]) {
        let kind = server.kind();
        let is_old = kind.contains("redis_version:6.");
        let rule = if is_old { "-client" } else { "-client|tracking" };
        let mut direct = server.client();
        direct.expect(
            &["ACL", "SETUSER", "app", "on", ">secret", "~*", "&*", "+@all", rule],
            "+OK",
        );
        let url = format!("redis://app:secret@127.0.0.1:{}", server.port());
        let start = |toml: &str| {
            let proxy = Proxy::with_config(&url, toml, &[]);
            let mut client = proxy.client();
            client.expect(&["AUTH", "app", "secret"], "+OK");
            client.expect(&["SET", "k", "v"], "+OK");
            (proxy, client)
        };
        // What is promised cannot be kept, so nothing is.
        let (proxy, mut client) = start("");
        is_in(&proxy, "none");
        nothing_is_kept(&server, &mut client);
        let log = proxy.log();
        assert!(
            log.contains("nothing is cached: allow it to the user (ACL SETUSER <user> +client|tracking)"),
            "{kind}: {log}"
        );
        let info = client.text(&["INFO", "nearcache"]);
        assert!(
            info.contains("nearcache_invalidation:none")
                && info.contains("nearcache_invalidation_reason:CLIENT TRACKING was refused: NOPERM"),
            "{kind}: {info}"
        );
        // No better than what was chosen.
        let (proxy, mut client) = start(&format!("{EVENTUAL}invalidation = \"tracking\"\n"));
        is_in(&proxy, "none");
        nothing_is_kept(&server, &mut client);
        let (proxy, mut client) = start(&format!("{EVENTUAL}invalidation = \"broadcast\"\n"));
        is_in(&proxy, "none");
        nothing_is_kept(&server, &mut client);
        assert!(
            proxy.log().contains("CLIENT TRACKING ON BCAST was refused"),
            "{}",
            proxy.log()
        );
        // Own writes, and time.
        let (proxy, mut client) = start("[cache]\nconsistency = \"eventual\"\nmax_age = \"2s\"\n");
        is_in(&proxy, "own_writes");
        is_cached(&server, &mut client, "k");
        let explained = client.text(&["NEARCACHE", "EXPLAIN", "k"]);
        assert!(explained.contains("hit; command=get"), "{explained}");
        client.expect(&["SET", "k", "own"], "+OK");
        client.expect(&["GET", "k"], "$3\r\nown");
        direct.expect(&["SET", "k", "foreign"], "+OK");
        client.expect(&["GET", "k"], "$3\r\nown");
        follows(&mut client, "k", "foreign", &kind);
        // Allowed at last: the next connection tracks.
        direct.expect(&["ACL", "SETUSER", "app", "+client"], "+OK");
        direct.cmd(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
        is_in(&proxy, "tracking");
    }
}

#[test]
fn a_user_who_may_do_little_is_served_all_the_same() {
    let rules = [
        "on",
        ">secret",
        "~*",
        "+@all",
        "-command",
        "-config",
        "-info",
        "-cluster",
        "-client",
        "+client|tracking",
    ];
    for server in Server::of_each_kind(&[]) {
        server
            .client()
            .expect(&[&["ACL", "SETUSER", "app"][..], &rules].concat(), "+OK");
        let url = format!("redis://app:secret@127.0.0.1:{}", server.port());
        let proxy = Proxy::with_config(&url, "[auth]\nmode = \"none\"\n", &[]);
        let mut client = proxy.client();
        // The table that is built in serves.
        client.expect(&["RPUSH", "list", "a", "b"], ":2");
        client.expect(&["LRANGE", "list", "0", "-1"], "*2\r\n$1\r\na\r\n$1\r\nb");
        client.expect(&["HSET", "h", "f", "v"], ":1");
        client.expect(&["COPY", "h", "copied"], ":1");
        is_in(&proxy, "tracking");
        client.expect(&["SET", "k", "v"], "+OK");
        is_cached(&server, &mut client, "k");
        server.client().expect(&["SET", "k", "w"], "+OK");
        follows(&mut client, "k", "w", &server.kind());
    }
}

#[test]
fn what_cannot_be_kept_is_refused_at_the_start() {
    let server = Server::start();
    for (toml, problem) in [
        (
            "invalidation = \"keyspace-events\"",
            "cannot keep what cache.consistency = \"coherent\" promises",
        ),
        ("invalidation = \"own-writes\"", "it needs \"eventual\""),
        (
            "consistency = \"strong\"\ninvalidation = \"tracking\"",
            "must be auto where",
        ),
        (
            "broadcast_prefixes = [\"a\"]",
            "only where cache.invalidation is \"broadcast\"",
        ),
        (
            "invalidation = \"broadcast\"\nbroadcast_prefixes = [\"user:\", \"user:1\"]",
            "\"user:\" is the beginning of \"user:1\"",
        ),
        (
            "invalidation = \"resp2\"",
            "must be one of auto, tracking, broadcast, keyspace-events, own-writes",
        ),
    ] {
        let refused = Proxy::try_start(&server.url(), &format!("[cache]\n{toml}\n"), &[]).unwrap_err();
        assert!(refused.contains(problem), "{toml}: {refused}");
    }
    let events = "[cache]\nconsistency = \"eventual\"\ninvalidation = \"keyspace-events\"\n";
    let refused = Proxy::try_start("redis+cluster://127.0.0.1:1", events, &[]).unwrap_err();
    assert!(refused.contains("does not work with a cluster"), "{refused}");
}

/// Waits until that is how the proxy learns of changes, and nothing else is.
pub fn is_in(proxy: &Proxy, mode: &str) {
    let value = |mode: &str| proxy.metric("nearcache_invalidation_mode", &[&format!("mode=\"{mode}\"")]);
    eventually(mode, STEP, || value(mode) == Some(1.0));
    let sum: f64 = MODES.iter().filter_map(|mode| value(mode)).sum();
    assert_eq!(sum, 1.0);
}

/// Waits until a read of the key does not reach the server.
pub fn is_cached(server: &Server, client: &mut Client, key: &str) {
    eventually("it is cached", STEP, || {
        let before = server.calls("get");
        client.cmd(&["GET", key]);
        server.calls("get") == before
    });
}

/// Waits until the key is what another client has made it, for much less than an entry lives.
pub fn follows(client: &mut Client, key: &str, value: &str, kind: &str) {
    eventually(&format!("{kind}: {key} is {value}"), STEP, || {
        client.bulk(&["GET", key]) == Some(value.as_bytes().to_vec())
    });
}

pub fn nothing_is_kept(server: &Server, client: &mut Client) {
    let before = server.calls("get");
    for _ in 0..10 {
        client.cmd(&["GET", "k"]);
    }
    assert_eq!(server.calls("get") - before, 10);
}
