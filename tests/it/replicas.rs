//! Reads that replicas answer, where the operator allows it: which go there, and that nobody notices when a replica dies, is
//! promoted, copies its data anew or follows somebody else.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::client::{children, encode, payload};
use crate::support::cluster::{self, Cluster};
use crate::support::relay::Relay;
use crate::support::sentinel::Watched;
use crate::support::{Client, Proxy, STEP, Server, eventually, show};

/// Nothing is kept, so that every read is seen at some node.
const UNCACHED: &str = "[cache]\nenabled = false\nconsistency = \"eventual\"\n";

fn upstream(rest: &str) -> String {
    format!("[upstream]\nread_timeout = \"600ms\"\nconnect_timeout = \"200ms\"\n{rest}\n")
}

/// A primary and its replicas, which keep up.
fn group(replicas: usize, extra: &[&str]) -> (Server, Vec<Server>) {
    let primary = Server::start();
    let port = primary.port().to_string();
    let flags = [
        &["--replicaof", "127.0.0.1", &port, "--repl-ping-replica-period", "1"][..],
        extra,
    ]
    .concat();
    let replicas: Vec<Server> = (0..replicas).map(|_| Server::with(&flags)).collect();
    replicas.iter().for_each(keeps_up);
    (primary, replicas)
}

fn keeps_up(replica: &Server) {
    eventually("the replica keeps up", STEP * 2, || {
        let state = replica.client().text(&["INFO", "replication"]);
        state.contains("master_link_status:up")
    });
}

fn config(from: &str, replicas: &[String], rest: &str) -> String {
    let list: Vec<String> = replicas.iter().map(|replica| format!("\"{replica}\"")).collect();
    upstream(&format!(
        "read_from = \"{from}\"\nreplicas = [{}]\n{rest}",
        list.join(", ")
    ))
}

fn address(server: &Server) -> String {
    format!("127.0.0.1:{}", server.port())
}

fn usable(proxy: &Proxy) -> f64 {
    proxy.metric("nearcache_readers", &["\"usable\""]).unwrap_or_default()
}

/// Waits until so many nodes are read from, and connections lead there.
fn reads_from(proxy: &Proxy, count: f64) {
    eventually("the replicas are known", STEP, || usable(proxy) == count);
    let connections = || {
        proxy.metric("nearcache_links_tracked", &[]).unwrap_or_default()
            + proxy.metric("nearcache_links_untracked", &[]).unwrap_or_default()
    };
    let mut seen = -1.0;
    eventually("connections lead there", STEP, || {
        let now = connections();
        std::mem::replace(&mut seen, now) == now && proxy.http("/health").0 == 200
    });
}

fn gets(servers: &[Server]) -> Vec<u64> {
    servers.iter().map(|server| server.calls("get")).collect()
}

#[test]
fn reads_go_to_replicas_and_everything_else_to_the_primary() {
    let (primary, replicas) = group(2, &[]);
    let addresses: Vec<String> = replicas.iter().map(address).collect();
    let toml = config("prefer-replica", &addresses, "") + UNCACHED;
    let proxy = Proxy::with_config(&primary.url_tcp(), &toml, &["--workers", "1"]);
    reads_from(&proxy, 2.0);
    let mut client = proxy.client();
    let keys: Vec<String> = (0..40).map(|i| format!("k{i}")).collect();
    for key in &keys {
        client.expect(&["SET", key, "v"], "+OK");
    }
    client.expect(&["HSET", "h", "f", "1"], ":1");
    for replica in &replicas {
        eventually("the replica has it", STEP, || {
            replica.client().int(&["EXISTS", "h"]) == 1
        });
    }
    eventually("reads go to replicas", STEP, || {
        client.cmd(&["GET", &keys[0]]);
        gets(&replicas).iter().sum::<u64>() > 0
    });
    let before = primary.calls("get");
    // One that was just found may have to be asked first how far it is.
    eventually("reads go to both", STEP, || {
        for key in &keys {
            assert_eq!(client.bulk(&["GET", key]), Some(b"v".to_vec()));
        }
        gets(&replicas).iter().all(|gets| *gets > 5)
    });
    client.expect(&["MGET", "k1", "none"], "*2\r\n$1\r\nv\r\n$-1");
    client.expect(&["EXISTS", "k1", "k2", "none"], ":2");
    client.expect(&["HGETALL", "h"], "*2\r\n$1\r\nf\r\n$1\r\n1");
    assert_eq!(primary.calls("get"), before);
    for command in ["mget", "exists", "hgetall"] {
        assert_eq!(primary.calls(command), 0, "{command}");
    }
    // Not what is no pure read of keys, nor what is in a transaction, in a script or on a connection of its own.
    for (line, command) in [
        (&["DBSIZE"][..], "dbsize"),
        (&["EVAL", "return redis.call('STRLEN', KEYS[1])", "1", "k1"], "eval"),
        (&["GETEX", "k1", "PERSIST"], "getex"),
        (&["TOUCH", "k1", "k2"], "touch"),
        (&["WATCH", "k1"], "watch"),
        (&["UNWATCH"], "unwatch"),
    ] {
        let (here, there) = (
            primary.calls(command),
            replicas[0].calls(command) + replicas[1].calls(command),
        );
        let told = client.text(line);
        assert!(!told.starts_with('-'), "{line:?}: {told}");
        assert!(primary.calls(command) > here, "{command}");
        assert_eq!(
            replicas[0].calls(command) + replicas[1].calls(command),
            there,
            "{command}"
        );
    }
    let before = primary.calls("get");
    client.raw(
        &[&["MULTI"][..], &["GET", "k1"], &["EXEC"]]
            .iter()
            .flat_map(|line| encode(line))
            .collect::<Vec<_>>(),
    );
    assert_eq!(show(&client.frames(3)[2]), "*1\\r\\n$1\\r\\nv\\r\\n");
    client.expect(&["MULTI"], "+OK");
    client.expect(&["GET", "k1"], "+QUEUED");
    client.expect(&["EXEC"], "*1\r\n$1\r\nv");
    assert_eq!(primary.calls("get"), before + 2);
    // It is shown.
    let stats = client.text(&["NEARCACHE", "STATS"]);
    assert!(
        stats.contains("nearcache_read_from") && stats.contains("prefer-replica"),
        "{stats}"
    );
    assert!(stats.contains(&format!("{} replica, ", addresses[0])), "{stats}");
    let explained = client.text(&["NEARCACHE", "EXPLAIN", "k1"]);
    assert!(
        explained.contains("read from") && explained.contains("replica 127.0.0.1:"),
        "{explained}"
    );
    assert!(proxy.metric("nearcache_replica_replies_total", &[]) > Some(40.0));
}

#[test]
fn what_a_replica_has_told_is_kept_until_the_replica_tells_of_a_change() {
    let (primary, replicas) = group(1, &[]);
    let toml = config("prefer-replica", &[address(&replicas[0])], "") + "[cache]\nconsistency = \"eventual\"\n";
    let proxy = Proxy::with_config(&primary.url_tcp(), &toml, &["--workers", "2"]);
    reads_from(&proxy, 1.0);
    let mut clients = [proxy.client(), proxy.client3()];
    for db in ["0", "3"] {
        let mut direct = primary.client();
        direct.expect(&["SELECT", db], "+OK");
        direct.expect(&["SET", "k", "old"], "+OK");
        eventually("the replica has it", STEP, || {
            let mut replica = replicas[0].client();
            replica.expect(&["SELECT", db], "+OK");
            replica.bulk(&["GET", "k"]) == Some(b"old".to_vec())
        });
        for client in &mut clients {
            client.expect(&["SELECT", db], "+OK");
            eventually("it is read from the replica, once, and kept", STEP, || {
                client.bulk(&["GET", "k"]);
                let before = replicas[0].calls("get");
                assert_eq!(client.bulk(&["GET", "k"]), Some(b"old".to_vec()));
                before > 0 && replicas[0].calls("get") == before
            });
        }
        // Entries would live for a minute.
        direct.expect(&["SET", "k", "new"], "+OK");
        direct.expect(&["SET", "soon", "v", "PX", "300"], "+OK");
        for client in &mut clients {
            eventually("the change is told by the replica", STEP, || {
                client.bulk(&["GET", "k"]) == Some(b"new".to_vec())
            });
            client.cmd(&["GET", "soon"]);
        }
        for client in &mut clients {
            eventually("it expires", STEP, || client.bulk(&["GET", "soon"]).is_none());
        }
        // An own write is not hidden by what is kept.
        clients[0].expect(&["SET", "k", "own"], "+OK");
        eventually("it is seen", STEP, || {
            clients[0].bulk(&["GET", "k"]) == Some(b"own".to_vec())
        });
    }
}

/// Reads all the time, by several clients, and says how often; an error fails the test.
struct Readers {
    is_over: AtomicBool,
    reads: AtomicU64,
}

impl Readers {
    fn during(proxy: &Proxy, keys: &[String], work: impl FnOnce(&dyn Fn())) {
        let readers = Readers {
            is_over: AtomicBool::new(false),
            reads: AtomicU64::new(0),
        };
        thread::scope(|scope| {
            let readers = &readers;
            for _ in 0..3 {
                scope.spawn(move || {
                    let mut client = proxy.client();
                    while !readers.is_over.load(Ordering::Relaxed) {
                        for key in keys {
                            let reply = client.cmd(&["GET", key]);
                            if reply.starts_with(b"-") {
                                readers.is_over.store(true, Ordering::Relaxed);
                                panic!("a read got {}", show(&reply));
                            }
                            readers.reads.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                });
            }
            // So many more reads.
            let go_on = || {
                let until = readers.reads.load(Ordering::Relaxed) + 500;
                eventually("reads go on", STEP, || {
                    readers.is_over.load(Ordering::Relaxed) || readers.reads.load(Ordering::Relaxed) > until
                });
            };
            let worked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                go_on();
                work(&go_on);
                go_on();
            }));
            readers.is_over.store(true, Ordering::Relaxed);
            if let Err(why) = worked {
                std::panic::resume_unwind(why);
            }
        });
    }
}

#[test]
fn no_read_fails_while_replicas_die_hang_load_copy_or_lose_their_primary() {
    let (primary, mut replicas) = group(
        2,
        &["--replica-serve-stale-data", "no", "--repl-diskless-load", "disabled"],
    );
    let addresses: Vec<String> = replicas.iter().map(address).collect();
    let toml = config("prefer-replica", &addresses, "") + UNCACHED;
    let proxy = Proxy::with_config(&primary.url_tcp(), &toml, &["--workers", "1"]);
    reads_from(&proxy, 2.0);
    let mut direct = primary.client();
    let keys: Vec<String> = (0..20).map(|i| format!("k{i}")).collect();
    for key in &keys {
        direct.expect(&["SET", key, &"x".repeat(1000)], "+OK");
    }
    let is_read = |replica: &Server| {
        let before = replica.calls("get");
        eventually("it is read from", STEP, || replica.calls("get") > before);
    };
    let is_not_read = |go_on: &dyn Fn(), count: f64| {
        eventually("it is found out", STEP, || usable(&proxy) == count);
        go_on();
    };
    Readers::during(&proxy, &keys, |go_on| {
        replicas.iter().for_each(is_read);
        // Killed.
        replicas[0].kill();
        is_not_read(go_on, 1.0);
        replicas[0].restart();
        keeps_up(&replicas[0]);
        is_read(&replicas[0]);
        // Silent.
        replicas[0].freeze();
        is_not_read(go_on, 1.0);
        replicas[0].thaw();
        is_read(&replicas[0]);
        // Cut off from its primary: it refuses to serve, with MASTERDOWN.
        let mut control = replicas[0].client();
        control.expect(&["REPLICAOF", "127.0.0.1", "1"], "+OK");
        is_not_read(go_on, 1.0);
        let port = primary.port().to_string();
        control.expect(&["REPLICAOF", "127.0.0.1", &port], "+OK");
        keeps_up(&replicas[0]);
        is_read(&replicas[0]);
        // It loads its data, slowly.
        control.expect(
            &["CONFIG", "SET", "loading-process-events-interval-bytes", "1024"],
            "+OK",
        );
        control.expect(&["CONFIG", "SET", "key-load-delay", "50000"], "+OK");
        control.send(&["DEBUG", "RELOAD"]);
        is_not_read(go_on, 1.0);
        assert_eq!(control.frame(), b"+OK\r\n");
        control.expect(&["CONFIG", "SET", "key-load-delay", "0"], "+OK");
        is_read(&replicas[0]);
        // Promoted behind the back of everybody.
        control.expect(&["REPLICAOF", "NO", "ONE"], "+OK");
        is_not_read(go_on, 1.0);
        // Both are gone: the primary answers.
        replicas.iter_mut().for_each(Server::kill);
        let before = primary.calls("get");
        go_on();
        assert!(primary.calls("get") > before);
        replicas[1].restart();
        keeps_up(&replicas[1]);
        is_read(&replicas[1]);
    });
    let health = proxy.http("/health");
    assert_eq!(health.0, 200, "{}", health.1);
}

#[test]
fn a_pipeline_that_a_replica_took_with_it_is_answered_by_the_primary() {
    let (primary, replicas) = group(1, &[]);
    let relay = Relay::start(&replicas[0].socket());
    let toml = config("prefer-replica", &[format!("127.0.0.1:{}", relay.port())], "") + UNCACHED;
    let proxy = Proxy::with_config(&primary.url_tcp(), &toml, &["--workers", "1"]);
    reads_from(&proxy, 1.0);
    let mut client = proxy.client();
    let keys: Vec<String> = (0..10).map(|i| format!("k{i}")).collect();
    for key in &keys {
        client.expect(&["SET", key, key], "+OK");
    }
    eventually("the replica is read from", STEP, || {
        client.cmd(&["GET", &keys[9]]);
        replicas[0].calls("get") > 0
    });
    let before = primary.calls("get");
    relay.hold();
    let sent = || proxy.metric("nearcache_shared_requests_total", &[]).unwrap_or_default();
    let sent_before = sent();
    client.raw(&keys.iter().flat_map(|key| encode(&["GET", key])).collect::<Vec<_>>());
    eventually("they are on their way", STEP, || sent() >= sent_before + 10.0);
    relay.cut();
    for (key, reply) in keys.iter().zip(client.frames(10)) {
        assert_eq!(payload(&reply), Some(Some(key.clone().into_bytes())), "{key}");
    }
    assert_eq!(primary.calls("get"), before + 10);
    relay.release();
}

#[test]
fn a_replica_that_is_late_is_the_one_that_is_named() {
    let (primary, replicas) = group(1, &[]);
    let relay = Relay::start(&replicas[0].socket());
    let replica = format!("127.0.0.1:{}", relay.port());
    let toml = config(
        "prefer-replica",
        std::slice::from_ref(&replica),
        "request_timeout = \"150ms\"",
    ) + UNCACHED;
    let proxy = Proxy::with_config(&primary.url_tcp(), &toml, &["--workers", "1"]);
    reads_from(&proxy, 1.0);
    let mut client = proxy.client();
    eventually("the replica is read from", STEP, || {
        client.cmd(&["GET", "k"]);
        replicas[0].calls("get") > 0
    });
    relay.hold();
    let told = client.text(&["GET", "k"]);
    assert!(
        told.starts_with(&format!("-ERR nearcache: upstream {replica} has not answered")),
        "{told}"
    );
    relay.release();
}

#[test]
fn sentinel_tells_of_the_replicas_and_a_promoted_one_is_read_from_no_more() {
    let mut watched = Watched::start();
    let toml = upstream("read_from = \"prefer-replica\"") + UNCACHED;
    let proxy = Proxy::with_config(&watched.url(), &toml, &["--workers", "1"]);
    eventually("the sentinels have told of both replicas", STEP * 3, || {
        usable(&proxy) == 2.0
    });
    let mut client = proxy.client();
    let keys: Vec<String> = (0..20).map(|i| format!("k{i}")).collect();
    for key in &keys {
        client.expect(&["SET", key, "v"], "+OK");
    }
    let primary = 0;
    Readers::during(&proxy, &keys, |go_on| {
        eventually("both are read from", STEP, || {
            gets(&watched.nodes[1..]).iter().all(|gets| *gets > 100)
        });
        let before = watched.nodes[primary].calls("get");
        go_on();
        assert_eq!(watched.nodes[primary].calls("get"), before);
        watched.fail_over(primary);
    });
    let new = watched.primary_other_than(primary).expect("it was promoted");
    eventually("the new primary is followed", STEP, || {
        proxy.metric("nearcache_upstream_switches_total", &[]) >= Some(1.0)
    });
    eventually("writes go to the new primary", STEP, || {
        client.text(&["SET", "k0", "new"]) == "+OK\r\n"
    });
    // The old one becomes its replica, and the sentinels tell of it.
    eventually("two replicas are read from again", STEP * 4, || usable(&proxy) == 2.0);
    let is_left_alone = || {
        let before = watched.nodes[new].calls("get");
        Readers::during(&proxy, &keys, |_| {});
        watched.nodes[new].calls("get") == before
    };
    eventually("the new primary is not read from", STEP, is_left_alone);
    eventually("the replicas have what was written", STEP, || {
        client.bulk(&["GET", "k0"]) == Some(b"new".to_vec())
    });
    // A replica dies.
    let dead = (0..3).find(|i| *i != new).expect("there are three");
    watched.nodes[dead].kill();
    eventually("it is found out", STEP, || usable(&proxy) == 1.0);
    eventually("nor does the primary answer for it", STEP, || {
        let before = watched.nodes[new].calls("get");
        Readers::during(&proxy, &keys, |_| {});
        watched.nodes[new].calls("get") == before
    });
}

#[test]
fn a_replica_of_somebody_else_is_not_read_from() {
    let watched = Watched::start();
    let toml = upstream("read_from = \"prefer-replica\"") + UNCACHED;
    let proxy = Proxy::with_config(&watched.url(), &toml, &["--workers", "1"]);
    eventually("the sentinels have told of both replicas", STEP * 3, || {
        usable(&proxy) == 2.0
    });
    // The sentinels put it right after some seconds.
    let stranger = Server::start();
    let port = stranger.port().to_string();
    watched.nodes[1]
        .client()
        .expect(&["REPLICAOF", "127.0.0.1", &port], "+OK");
    eventually("it is found out", STEP, || {
        proxy
            .log()
            .contains(&format!("it follows 127.0.0.1:{port}, which is not the primary"))
            || proxy.log().contains("its link to the primary is down")
    });
}

/// It still says that its link is up, and will for a minute.
#[test]
fn a_replica_that_is_cut_off_and_does_not_know_is_not_read_from_for_long() {
    let primary = Server::start();
    let relay = Relay::start(&primary.socket());
    let port = relay.port().to_string();
    let replica = Server::with(&["--replicaof", "127.0.0.1", &port, "--repl-diskless-sync-delay", "0"]);
    keeps_up(&replica);
    let toml = format!(
        "[upstream]\nread_from = \"prefer-replica\"\nreplicas = [\"{}\"]\nmax_replica_lag = \"2s\"\n{UNCACHED}",
        address(&replica)
    );
    let proxy = Proxy::with_config(&primary.url_tcp(), &toml, &["--workers", "1"]);
    reads_from(&proxy, 1.0);
    let mut client = proxy.client();
    eventually("it is told how far it is behind", STEP, || {
        let state = client.text(&["NEARCACHE", "STATS"]);
        state.contains("replica, ") && state.contains(" ms behind")
    });
    client.expect(&["SET", "k", "old"], "+OK");
    eventually("the replica has it", STEP, || {
        client.bulk(&["GET", "k"]) == Some(b"old".to_vec())
    });
    // With nothing to copy it stays in use: the primary pings it every ten seconds only.
    let silence = || replica.info("master_last_io_seconds_ago");
    eventually("the replica has heard nothing for longer", STEP, || silence() > 3);
    reads_from(&proxy, 1.0);
    let told = "it may be more than upstream.max_replica_lag behind";
    assert!(!proxy.log().contains(told), "{}", proxy.log());
    relay.hold();
    client.expect(&["SET", "k", "new"], "+OK");
    let begun = Instant::now();
    eventually("the primary is read from", STEP, || {
        client.bulk(&["GET", "k"]) == Some(b"new".to_vec())
    });
    assert!(begun.elapsed() < Duration::from_secs(8), "{:?}", begun.elapsed());
    assert!(
        replica
            .client()
            .text(&["INFO", "replication"])
            .contains("master_link_status:up")
    );
    assert!(proxy.log().contains(told), "{}", proxy.log());
    relay.release();
    reads_from(&proxy, 1.0);
}

#[test]
fn replicas_of_a_cluster_answer_for_the_slots_of_their_primaries() {
    let mut cluster = Cluster::with(3, true, &[]);
    let toml = upstream("read_from = \"prefer-replica\"") + UNCACHED;
    let proxy = Proxy::with_config(&cluster.url(), &toml, &["--workers", "1"]);
    reads_from(&proxy, 3.0);
    let mut client = proxy.client();
    let keys: Vec<String> = (0..15).map(|i| cluster.key(i % 3, i / 3)).collect();
    for key in &keys {
        client.expect(&["SET", key, "v"], "+OK");
    }
    eventually("reads go to the replicas", STEP, || {
        keys.iter().for_each(|key| drop(client.cmd(&["GET", key])));
        gets(&cluster.nodes[3..]).iter().all(|gets| *gets > 0)
    });
    let before = gets(&cluster.nodes[..3]);
    for key in &keys {
        assert_eq!(client.bulk(&["GET", key]), Some(b"v".to_vec()));
    }
    let mut mget = vec!["MGET"];
    mget.extend(keys.iter().map(String::as_str));
    let values = children(&client.cmd(&mget));
    assert!(
        values.iter().all(|value| payload(value) == Some(Some(b"v".to_vec()))),
        "{values:?}"
    );
    assert_eq!(gets(&cluster.nodes[..3]), before);
    assert_eq!(cluster.nodes[..3].iter().map(|node| node.calls("mget")).sum::<u64>(), 0);
    // Scripts, transactions and what blocks are the primary's affair.
    client.expect(&["EVAL", "return redis.call('GET', KEYS[1])", "1", &keys[0]], "$1\r\nv");
    client.expect(&["MULTI"], "+OK");
    client.expect(&["GET", &keys[0]], "+QUEUED");
    client.expect(&["EXEC"], "*1\r\n$1\r\nv");
    Readers::during(&proxy, &keys, |go_on| {
        // A replica is promoted, and its primary becomes its replica.
        let mut replica = cluster.client(3);
        let mut asked: Option<Instant> = None;
        eventually("the replica takes over", cluster::FAILOVER, || {
            if asked.is_none_or(|asked| asked.elapsed() > Duration::from_secs(6)) {
                asked = Some(Instant::now());
                replica.cmd(&["CLUSTER", "FAILOVER"]);
            }
            replica.text(&["ROLE"]).contains("master")
        });
        let mut writer = proxy.client();
        eventually("it is written to", STEP, || {
            writer.text(&["SET", &keys[0], "new"]) == "+OK\r\n"
        });
        go_on();
        eventually("the old primary is read from", STEP * 2, || {
            let before = cluster.nodes[0].calls("get");
            go_on();
            cluster.nodes[0].calls("get") > before
        });
        eventually("what was written is read", STEP, || {
            writer.bulk(&["GET", &keys[0]]) == Some(b"new".to_vec())
        });
        // A replica of another primary dies.
        cluster.nodes[4].kill();
        eventually("it is found out", STEP, || usable(&proxy) == 2.0);
        let before = cluster.nodes[1].calls("get");
        go_on();
        assert!(cluster.nodes[1].calls("get") > before);
    });
}

#[test]
fn a_slot_that_moves_is_not_read_at_the_replica_of_its_old_node() {
    let cluster = Cluster::with(3, true, &[]);
    let toml = upstream("read_from = \"prefer-replica\"") + "[cache]\nconsistency = \"eventual\"\n";
    let proxy = Proxy::with_config(&cluster.url(), &toml, &["--workers", "1"]);
    reads_from(&proxy, 3.0);
    let mut client = proxy.client();
    let key = cluster.key(0, 0);
    client.expect(&["SET", &key, "old"], "+OK");
    eventually("it is read, and kept", STEP, || {
        client.bulk(&["GET", &key]) == Some(b"old".to_vec()) && proxy.metric("cache_hits_total", &["l1"]) > Some(0.0)
    });
    cluster.move_slot(cluster::slot(key.as_bytes()), 0, 1);
    cluster.client(1).expect(&["SET", &key, "new"], "+OK");
    eventually("the new value is shown", STEP, || {
        let reply = client.text(&["GET", &key]);
        assert!(!reply.starts_with('-'), "{reply}");
        reply == "$3\r\nnew\r\n"
    });
}

/// One in front of each, and where they are.
fn behind_relays(replicas: &[Server]) -> (Vec<Relay>, Vec<String>) {
    let relays: Vec<Relay> = replicas.iter().map(|replica| Relay::start(&replica.socket())).collect();
    let address = |relay: &Relay| format!("127.0.0.1:{}", relay.port());
    let addresses = relays.iter().map(address).collect();
    (relays, addresses)
}

#[test]
fn the_nearest_is_the_one_that_answers_soonest_or_is_in_the_zone() {
    let (primary, replicas) = group(2, &[]);
    let (relays, addresses) = behind_relays(&replicas);
    // What comes by way of a relay is never as soon as what comes at once.
    let far = Relay::start(&primary.socket());
    far.jitter(Duration::from_millis(60));
    relays[0].jitter(Duration::from_millis(60));
    let read = |proxy: &Proxy| {
        let mut client = proxy.client();
        let before = gets(&replicas);
        for i in 0..60 {
            client.cmd(&["GET", &format!("k{i}")]);
        }
        let after = gets(&replicas);
        [after[0] - before[0], after[1] - before[1]]
    };
    let toml = config("nearest", &addresses, "") + UNCACHED;
    let proxy = Proxy::with_config(&far.url(), &toml, &["--workers", "1"]);
    reads_from(&proxy, 3.0);
    eventually("the second replica is the nearest", STEP, || read(&proxy) == [0, 60]);
    relays[1].jitter(Duration::from_millis(300));
    relays[0].jitter(Duration::ZERO);
    eventually("the first one is, now", STEP * 2, || read(&proxy) == [60, 0]);
    drop(proxy);
    relays[1].jitter(Duration::ZERO);
    relays[0].jitter(Duration::from_millis(20));
    let zone = format!("zone = [\"10.0.0.*\", \"*:{}\"]", relays[0].port());
    for from in ["nearest", "prefer-replica"] {
        let proxy = Proxy::with_config(
            &far.url(),
            &(config(from, &addresses, &zone) + UNCACHED),
            &["--workers", "1"],
        );
        eventually("the one in the zone is read from", STEP, || read(&proxy) == [60, 0]);
    }
}

#[test]
fn a_replica_that_is_not_the_nearest_any_more_tells_of_changes_all_the_same() {
    let (primary, replicas) = group(2, &[]);
    let (relays, addresses) = behind_relays(&replicas);
    let far = Relay::start(&primary.socket());
    far.jitter(Duration::from_millis(60));
    relays[0].jitter(Duration::from_millis(60));
    let toml = config("nearest", &addresses, "") + "[cache]\nconsistency = \"eventual\"\nmax_age = \"1h\"\n";
    let proxy = Proxy::with_config(&far.url(), &toml, &["--workers", "1"]);
    reads_from(&proxy, 3.0);
    primary.client().expect(&["SET", "k", "old"], "+OK");
    let mut client = proxy.client();
    let is_read = |client: &mut Client, nth: usize| {
        let mut tries = 0;
        eventually("it is the nearest", STEP * 2, || {
            let before = gets(&replicas);
            tries += 1;
            client.cmd(&["GET", &format!("none{nth}:{tries}")]);
            gets(&replicas)[nth] > before[nth]
        });
    };
    is_read(&mut client, 1);
    let filled = replicas[1].calls("get");
    eventually("it is read there, and kept", STEP, || {
        client.bulk(&["GET", "k"]) == Some(b"old".to_vec())
    });
    assert!(replicas[1].calls("get") > filled);
    relays[1].jitter(Duration::from_millis(300));
    relays[0].jitter(Duration::ZERO);
    is_read(&mut client, 0);
    primary.client().expect(&["SET", "k", "new"], "+OK");
    eventually("the change is told", STEP, || {
        client.bulk(&["GET", "k"]) == Some(b"new".to_vec())
    });
}

#[test]
fn a_setting_that_could_not_be_kept_to_is_refused() {
    let server = Server::start();
    let eventual = "[cache]\nconsistency = \"eventual\"\n";
    let refused = |toml: &str| Proxy::try_start(&server.url_tcp(), toml, &[]).expect_err("it is refused");
    for consistency in ["coherent", "strong"] {
        let toml = config("prefer-replica", &["127.0.0.1:1".to_owned()], "");
        let why = refused(&format!("{toml}[cache]\nconsistency = \"{consistency}\"\n"));
        assert!(
            why.contains("upstream.read_from: needs cache.consistency = \"eventual\""),
            "{why}"
        );
    }
    let why = refused(&(upstream("read_from = \"nearest\"") + eventual));
    assert!(
        why.contains("upstream.read_from: has no replicas to read from: name them in upstream.replicas"),
        "{why}"
    );
    let why = refused(&(upstream("replicas = [\"127.0.0.1:1\"]\nzone = [\"a\"]") + eventual));
    assert!(
        why.contains("upstream.replicas: has no effect") && why.contains("upstream.zone: has no effect"),
        "{why}"
    );
    let own = [address(&server), "a:b:c".to_owned(), "x:1".to_owned(), "x:1".to_owned()];
    let why = refused(&(config("nearest", &own, "") + eventual));
    assert!(
        why.contains("which is upstream.url") && why.contains("names x:1 twice"),
        "{why}"
    );
    let why = refused(&upstream("read_from = \"somewhere\""));
    assert!(
        why.contains("upstream.read_from: must be one of primary, prefer-replica, nearest"),
        "{why}"
    );
    // And without any of it nobody opens a connection to a replica, or asks one.
    let (primary, replicas) = group(1, &[]);
    let proxy = Proxy::with_config(&primary.url_tcp(), &upstream("read_from = \"master\""), &[]);
    let mut client: Client = proxy.client();
    client.expect(&["SET", "k", "v"], "+OK");
    client.expect(&["GET", "k"], "$1\r\nv");
    assert_eq!(replicas[0].calls("hello"), 0);
    assert_eq!(proxy.metric("nearcache_readers", &[]), Some(0.0));
}
