//! Commands that Redis 7.0 does not have, on servers that have them; and one that no table has.

use std::time::Duration;

use crate::ladder::{EVENTUAL, is_in};
use crate::support::client::children;
use crate::support::cluster::Cluster;
use crate::support::server::{NEWER, REDIS_8};
use crate::support::{Proxy, STEP, Server, eventually, show};

/// What is there before, a write, and reads of what it changes.
const WRITES: &[(&[&str], &str, &[&str])] = &[
    (
        &["HSET h f v"],
        "HEXPIRE h 1000 FIELDS 1 f",
        &["HEXPIRETIME h FIELDS 1 f"],
    ),
    (
        &["HSET h f v"],
        "HPEXPIREAT h 4102444800000 FIELDS 1 f",
        &["HPEXPIRETIME h FIELDS 1 f"],
    ),
    (
        &["HSET h f v g w"],
        "HEXPIREAT h 1 FIELDS 1 f",
        &["HGETALL h", "HLEN h", "HGET h f"],
    ),
    (
        &["HSET h f v", "HEXPIRE h 1000 FIELDS 1 f"],
        "HPERSIST h FIELDS 1 f",
        &["HEXPIRETIME h FIELDS 1 f"],
    ),
    (
        &["HSET h f v"],
        "HSETEX h EX 1000 FIELDS 1 f w",
        &["HGET h f", "HGETALL h"],
    ),
    (
        &["HSET h f v"],
        "HGETEX h EX 1000 FIELDS 1 f",
        &["HEXPIRETIME h FIELDS 1 f"],
    ),
    (
        &["HSET h f v g w"],
        "HGETDEL h FIELDS 1 f",
        &["HGETALL h", "HEXISTS h f"],
    ),
    (&["HSET h f v"], "HGETDEL h FIELDS 1 f", &["EXISTS h", "HLEN h"]),
    (&["SET k v"], "SET k w IFEQ v", &["GET k", "STRLEN k"]),
    (&["SET k v"], "SET k ww IFNE w GET", &["GET k", "STRLEN k"]),
    (&["SET k v"], "DELEX k IFEQ v", &["GET k", "EXISTS k", "TYPE k"]),
    (&["SET k v"], "DELIFEQ k v", &["GET k", "EXISTS k"]),
    (
        &["SET k v"],
        "MSETEX 2 k a o b EX 1000",
        &["GET k", "GET o", "MGET k o"],
    ),
    (&["SET k v"], "APPEND k more", &["DIGEST k"]),
    (
        &["SET a x", "SET b y", "SET k v"],
        "BITOP DIFF k a b",
        &["GET k", "BITCOUNT k"],
    ),
    (
        &["SET a x", "SET b y", "SET k v"],
        "BITOP ANDOR k a b",
        &["GET k", "BITCOUNT k"],
    ),
    (
        &["SET a x", "SET b y", "SET k v"],
        "BITOP ONE k a b",
        &["GET k", "BITCOUNT k"],
    ),
    (
        &["XADD s 1-1 f v", "XADD s 2-1 f v"],
        "XDELEX s DELREF IDS 1 1-1",
        &["XRANGE s - +", "XLEN s"],
    ),
    (
        &[
            "XADD s 1-1 f v",
            "XGROUP CREATE s g 0",
            "XREADGROUP GROUP g c STREAMS s >",
        ],
        "XACKDEL s g DELREF IDS 1 1-1",
        &["XRANGE s - +", "XLEN s"],
    ),
    (
        &["XADD s 1-1 f v"],
        "XADD s MAXLEN = 1 KEEPREF 2-1 f v",
        &["XRANGE s - +", "XREAD STREAMS s 0"],
    ),
    (&["XADD s 1-1 f v"], "XTRIM s MAXLEN 0 KEEPREF", &["XLEN s"]),
    (&["XADD s 1-1 f v"], "XADD s IDMP p i * f v", &["XLEN s"]),
    (
        &["VADD v VALUES 2 0 1 a"],
        "VADD v VALUES 2 1 0 b",
        &["VCARD v", "VISMEMBER v b", "VRANGE v - +"],
    ),
    (
        &["VADD v VALUES 2 0 1 a"],
        "VADD v VALUES 2 1 0 b CAS",
        &["VCARD v", "VISMEMBER v b"],
    ),
    (
        &["VADD v VALUES 2 0 1 a"],
        "VSETATTR v a {}",
        &["VGETATTR v a", "VINFO v"],
    ),
    (
        &["VADD v VALUES 2 0 1 a", "VADD v VALUES 2 1 0 b"],
        "VREM v a",
        &["VCARD v", "VEMB v a", "VLINKS v b"],
    ),
];

#[test]
fn newer_writes_are_seen_at_once_by_clients_and_soon_by_others() {
    let newer = NEWER.into_iter().map(|newer| Server::newer(newer, &[]));
    for server in newer.chain([Server::valkey(&[])]).flatten() {
        are_seen(&server, &Proxy::start(&server, &["--workers", "2"]));
    }
}

/// Vector sets send none: what is read of them is not believed for long.
#[test]
fn newer_writes_are_seen_by_keyspace_events() {
    if let Some(server) = Server::newer(REDIS_8, &["--notify-keyspace-events", "KA"]) {
        let toml = format!("{EVENTUAL}invalidation = \"keyspace-events\"\n");
        let proxy = Proxy::with_config(&server.url(), &toml, &["--workers", "2"]);
        is_in(&proxy, "keyspace_events");
        are_seen(&server, &proxy);
    }
}

#[track_caller]
fn are_seen(server: &Server, proxy: &Proxy) {
    let (mut truth, mut foreign) = (server.client(), server.client());
    let mut readers = [proxy.client(), proxy.client(), proxy.client(), proxy.client()];
    let mut tried = 0;
    for (setup, write, reads) in WRITES {
        for is_own in [true, false] {
            truth.expect(&["FLUSHALL"], "+OK");
            for line in *setup {
                truth.cmd(&split(line));
            }
            // A server that lacks the command or the option says so, and nothing else is to be seen.
            if truth.cmd(&["COMMAND", "INFO", split(write)[0]]) == b"*1\r\n*-1\r\n" {
                continue;
            }
            for reader in &mut readers {
                for read in *reads {
                    let expected = truth.cmd(&split(read));
                    eventually(&format!("{read} of what is there"), STEP, || {
                        reader.cmd(&split(read)) == expected
                    });
                }
            }
            let writer = if is_own { &mut readers[0] } else { &mut foreign };
            let reply = writer.cmd(&split(write));
            if reply.starts_with(b"-") {
                let direct = truth.cmd(&split(write));
                assert_eq!(show(&reply), show(&direct), "{write} on {}", server.kind());
                continue;
            }
            tried += 1;
            for reader in &mut readers {
                for read in *reads {
                    let expected = truth.cmd(&split(read));
                    let what = format!("{read} behind {write} (own: {is_own}) on {}", server.kind());
                    if is_own {
                        assert_eq!(show(&reader.cmd(&split(read))), show(&expected), "{what}");
                    } else {
                        eventually(&what, STEP, || reader.cmd(&split(read)) == expected);
                    }
                }
            }
        }
    }
    let kind = server.kind();
    let known = [
        ("redis_version:8.6", 48),
        ("redis_version:8.0", 26),
        ("valkey_version:8.1", 4),
        ("valkey_version:9.", 24),
    ];
    let least = known.iter().find(|(version, _)| kind.contains(version));
    let least = least.map_or(1, |(_, least)| *least);
    assert!(tried >= least, "{tried} writes on {kind}");
}

#[test]
fn a_field_that_expires_by_itself_is_gone_from_the_cache_when_the_server_deletes_it() {
    for server in [Server::redis_8(&[]), Server::valkey(&[])].into_iter().flatten() {
        let proxy = Proxy::start(&server, &[]);
        let (mut client, mut direct) = (proxy.client(), server.client());
        direct.expect(&["HSET", "h", "f", "v", "g", "w"], ":2");
        direct.expect(&["HPEXPIRE", "h", "300", "FIELDS", "1", "f"], "*1\r\n:1");
        assert_eq!(client.int(&["HLEN", "h"]), 2);
        assert_eq!(client.bulk(&["HGET", "h", "f"]).as_deref(), Some(&b"v"[..]));
        eventually("the field is gone", STEP, || {
            client.int(&["HLEN", "h"]) == 1 && client.bulk(&["HGET", "h", "f"]).is_none()
        });
        assert_eq!(direct.int(&["HLEN", "h"]), 1);
    }
}

/// The server has `SET` under a name that the command table lacks, and says of it what it says of any command.
#[test]
fn a_write_that_the_table_lacks_voids_what_it_touches() {
    let server = Server::with(&[
        "--rename-command",
        "SET",
        "FOO.PUT",
        "--rename-command",
        "EVAL",
        "FOO.RUN",
    ]);
    let proxy = Proxy::start(&server, &["--workers", "2"]);
    let mut clients = [proxy.client(), proxy.client3(), proxy.client(), proxy.client()];
    for nth in 0..20 {
        for writer in 0..clients.len() {
            let value = format!("{nth}:{writer}");
            let reply = match nth % 2 {
                0 => clients[writer].text(&["FOO.PUT", "k", &value]),
                // Which keys it touches nobody knows.
                _ => clients[writer].text(&["FOO.RUN", "return redis.call('APPEND', 'k', ARGV[1])", "0", &value]),
            };
            assert!(!reply.starts_with('-'), "{reply}");
            let expected = server.client().cmd(&["GET", "k"]);
            for client in &mut clients {
                for _ in 0..2 {
                    assert_eq!(show(&client.cmd(&["GET", "k"])), show(&expected));
                }
            }
        }
    }
}

#[test]
fn newer_clusters_are_one_server_to_a_client() {
    for newer in NEWER {
        let Some(cluster) = Cluster::newer(newer, 3, &[]) else {
            continue;
        };
        let proxy = Proxy::before(&cluster.url(), &["--workers", "2"]);
        let mut client = proxy.client();
        eventually("the cluster is served", STEP, || {
            client.text(&["SET", "k", "v"]) == "+OK\r\n"
        });
        let keys: Vec<String> = (0..3).map(|primary| cluster.key(primary, 0)).collect();
        for key in &keys {
            client.expect(&["SET", key, "old"], "+OK");
        }
        let mget = [vec!["MGET"], keys.iter().map(String::as_str).collect()].concat();
        assert_eq!(children(&client.cmd(&mget)).len(), 3);
        for (primary, key) in keys.iter().enumerate() {
            cluster.client(primary).expect(&["SET", key, "new"], "+OK");
            eventually("a foreign write is seen", STEP, || {
                client.bulk(&["GET", key]).as_deref() == Some(b"new")
            });
        }
        for request in [
            &["CLUSTER", "SHARDS"][..],
            &["CLUSTER", "SLOTS"],
            &["CLUSTER", "NODES"],
            &["CLUSTER", "INFO"],
        ] {
            let reply = client.text(request);
            assert!(!reply.starts_with('-'), "{request:?}: {reply}");
        }
        let slot = crate::support::cluster::slot(keys[0].as_bytes());
        cluster.move_slot(slot, 0, 1);
        eventually("the slot's new owner answers", STEP, || {
            client.text(&["SET", &keys[0], "moved"]) == "+OK\r\n"
                && client.bulk(&["GET", &keys[0]]).as_deref() == Some(b"moved")
        });
        cluster.client(1).expect(&["SET", &keys[0], "by others"], "+OK");
        eventually(
            "a foreign write at the new owner is seen",
            Duration::from_secs(10),
            || client.bulk(&["GET", &keys[0]]).as_deref() == Some(b"by others"),
        );
    }
}

fn split(line: &str) -> Vec<&str> {
    line.split(' ').collect()
}
