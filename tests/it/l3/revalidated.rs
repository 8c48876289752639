//! Strings that nobody has watched, and a server that tells their digests.

use std::path::Path;

use super::{l3, recovered, settled};
use crate::support::{Client, Proxy, STEP, Server, eventually};

const KEYS: usize = 600;

fn value(i: usize, version: usize) -> String {
    // Every tenth is too short for a digest to be worth it.
    let length = if i % 10 == 9 { 20 } else { 3000 + i };
    format!("{i}:{version}:{}", "abcdefgh".repeat(length / 8))
}

/// An L1 that holds a part of them. `l3` are settings of that section, `cache` of the other.
fn proxy(url: &str, dir: &Path, cache: &str, l3: &str) -> Proxy {
    let path = dir.display();
    let toml = format!(
        "[cache]\nl1 = \"1MiB\"\nmax_value = \"64KiB\"\nshards = 1\n{cache}\n\
         [l3]\npath = \"{path}\"\nsize = \"64MiB\"\nadmission = \"all\"\n{l3}\n"
    );
    Proxy::with_config(url, &toml, &["--workers", "2"])
}

fn set_all(server: &Server, version: usize) {
    let mut client = server.client();
    for i in 0..KEYS {
        client.expect(&["SET", &format!("k{i}"), &value(i, version)], "+OK");
    }
}

fn read_all(client: &mut Client, version: usize) {
    for i in 0..KEYS {
        let read = client.bulk(&["GET", &format!("k{i}")]);
        assert_eq!(read, Some(value(i, version).into_bytes()), "k{i}");
    }
}

/// Clients are who the proxy is, where that has a password.
fn client_of(proxy: &Proxy, url: &str) -> Client {
    let mut client = proxy.client();
    if url.contains("u:p@") {
        client.expect(&["AUTH", "u", "p"], "+OK");
    }
    client
}

/// What most of them are is on the disk, of an earlier process.
fn left(url: &str, server: &Server, dir: &Path, settings: &str, is_killed: bool) {
    set_all(server, 1);
    let proxy = proxy(url, dir, "", settings);
    let mut client = client_of(&proxy, url);
    read_all(&mut client, 1);
    settled(&proxy);
    assert!(l3(&proxy, "entries") > KEYS as f64 * 0.4, "{}", l3(&proxy, "entries"));
    if is_killed {
        proxy.kill();
    }
}

fn outcomes(proxy: &Proxy) -> [f64; 3] {
    ["same", "changed", "refused"].map(|outcome| {
        let label = format!("operation=\"{outcome}\"");
        proxy
            .metric("nearcache_l3_revalidations_total", &[&label])
            .unwrap_or_default()
    })
}

/// It knows what the server can do, and its connections have been used.
fn knows(proxy: &Proxy, client: &mut Client) {
    recovered(proxy);
    eventually("the server's commands are known", STEP, || {
        client.cmd(&["GET", "nothing"]);
        proxy.metric("nearcache_upstream_info", &[]) == Some(1.0)
    });
    // Workers look with their tick.
    eventually("the worker knows them", STEP, || {
        let explained = client.text(&["NEARCACHE", "EXPLAIN", "k0"]);
        !explained.contains("not known yet")
    });
}

#[test]
fn what_an_earlier_process_left_is_shown_if_the_server_has_the_same() {
    let keys = tempfile::tempdir().unwrap();
    let key_file = keys.path().join("keys");
    std::fs::write(&key_file, "5a".repeat(32)).unwrap();
    std::fs::set_permissions(&key_file, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let sealed = format!(
        "compression = \"zstd\"\nrevalidate_from = \"64B\"\nencryption_key_file = \"{}\"",
        key_file.display()
    );
    for (is_killed, settings, cache) in [
        (false, "", ""),
        (true, "", "invalidation = \"broadcast\""),
        (true, &*sealed, ""),
    ] {
        let Some(server) = Server::redis_8(&[]) else { return };
        let dir = tempfile::tempdir().unwrap();
        left(&server.url(), &server, dir.path(), settings, is_killed);
        let mut direct = server.client();
        let key = |i: usize| format!("k{i}");
        for i in 0..10 {
            direct.expect(&["SET", &key(i), &value(i, 2)], "+OK");
            assert_eq!(direct.int(&["DEL", &key(i + 10)]), 1);
            assert_eq!(direct.int(&["DEL", &key(i + 20)]), 1);
            assert_eq!(direct.int(&["RPUSH", &key(i + 20), &value(i + 20, 1)]), 1);
            assert_eq!(direct.int(&["PEXPIRE", &key(i + 30), "60000"]), 1);
            direct.expect(&["SET", &key(i + 40), &value(i + 40, 1)], "+OK");
        }
        let proxy = proxy(&server.url(), dir.path(), cache, settings);
        let (mut client, mut three) = (proxy.client(), proxy.client3());
        knows(&proxy, &mut client);
        for i in 0..KEYS {
            let explained = client.text(&["NEARCACHE", "EXPLAIN", &key(i)]);
            if explained.contains("l3.entry.0") && settings.is_empty() {
                let is_said = explained.contains("a GET asks the upstream by DIGEST");
                assert_eq!(is_said, i % 10 != 9, "{explained}");
            }
        }
        server.forget_calls();
        for i in 0..KEYS {
            let client = if i % 2 == 0 { &mut client } else { &mut three };
            match i {
                10..20 => assert_eq!(client.bulk(&["GET", &key(i)]), None, "k{i}"),
                20..30 => {
                    let error = client.text(&["GET", &key(i)]);
                    assert!(error.starts_with("-WRONGTYPE"), "k{i}: {error}");
                }
                _ => {
                    let version = if i < 10 { 2 } else { 1 };
                    let read = client.bulk(&["GET", &key(i)]);
                    assert_eq!(read, Some(value(i, version).into_bytes()), "k{i}");
                }
            }
            if (30..40).contains(&i) {
                let left_ms = client.int(&["PTTL", &key(i)]);
                assert!((1..=60_000).contains(&left_ms), "k{i}: {left_ms}");
            }
        }
        let (digests, gets) = (server.calls("digest"), server.calls("get"));
        let [same, changed, refused] = outcomes(&proxy);
        assert!(
            same > KEYS as f64 * 0.3 && changed > 10.0,
            "{same} the same, {changed} not"
        );
        assert_eq!((digests as f64, refused), (same + changed, 0.0));
        let of_l3 = |name| proxy.metric(name, &["cache_layer=\"l3\""]).unwrap();
        assert_eq!(of_l3("cache_hits_total"), same);
        assert!(of_l3("cache_misses_total") >= changed);
        assert_eq!(gets, KEYS as u64 - same as u64, "{digests} digests");
        // It is kept like what was read, and watched.
        for i in (30..KEYS).step_by(7).filter(|i| i % 10 != 9) {
            assert_eq!(client.bulk(&["GET", &key(i)]), Some(value(i, 1).into_bytes()));
            server.forget_calls();
            assert_eq!(client.bulk(&["GET", &key(i)]), Some(value(i, 1).into_bytes()));
            assert_eq!(server.calls("get") + server.calls("digest"), 0, "k{i} is a hit");
            direct.expect(&["SET", &key(i), &value(i, 3)], "+OK");
            eventually("the write of another is seen", STEP, || {
                client.bulk(&["GET", &key(i)]) == Some(value(i, 3).into_bytes())
            });
        }
    }
}

#[test]
fn what_was_read_over_a_lost_connection_is_asked_for_by_its_digest() {
    let Some(server) = Server::redis_8(&[]) else { return };
    let dir = tempfile::tempdir().unwrap();
    set_all(&server, 1);
    let proxy = proxy(&server.url(), dir.path(), "", "");
    let mut client = proxy.client();
    knows(&proxy, &mut client);
    read_all(&mut client, 1);
    settled(&proxy);
    let mut direct = server.client();
    direct.int(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
    direct.expect(&["SET", "k0", &value(0, 2)], "+OK");
    eventually("the connection is back", STEP, || {
        client.bulk(&["GET", "k0"]) == Some(value(0, 2).into_bytes())
    });
    direct.expect(&["SET", "k0", &value(0, 1)], "+OK");
    eventually("it is watched", STEP, || {
        client.bulk(&["GET", "k0"]) == Some(value(0, 1).into_bytes())
    });
    knows(&proxy, &mut client);
    read_all(&mut client, 1);
    let [same, ..] = outcomes(&proxy);
    assert!(same > KEYS as f64 * 0.3, "{same}");
}

#[test]
fn a_server_that_tells_no_digests_is_not_asked() {
    let server = Server::start();
    let dir = tempfile::tempdir().unwrap();
    left(&server.url(), &server, dir.path(), "", true);
    let proxy = proxy(&server.url(), dir.path(), "", "");
    let mut client = proxy.client();
    knows(&proxy, &mut client);
    server.forget_calls();
    read_all(&mut client, 1);
    assert_eq!(server.info("total_error_replies"), 0, "an unknown command is an error");
    assert_eq!(outcomes(&proxy), [0.0; 3]);
    let explained = client.text(&["NEARCACHE", "EXPLAIN", "k0"]);
    assert!(explained.contains("the upstream has no DIGEST"), "{explained}");
}

#[test]
fn a_user_who_may_not_ask_for_digests_reads_as_ever() {
    let Some(server) = Server::redis_8(&[]) else { return };
    let dir = tempfile::tempdir().unwrap();
    let acl = ["ACL", "SETUSER", "u", "on", ">p", "~*", "&*", "+@all", "-digest"];
    server.client().expect(&acl, "+OK");
    let url = server.url_tcp().replace("redis://", "redis://u:p@");
    left(&url, &server, dir.path(), "", true);
    let proxy = proxy(&url, dir.path(), "", "");
    let mut client = client_of(&proxy, &url);
    knows(&proxy, &mut client);
    read_all(&mut client, 1);
    let [same, changed, refused] = outcomes(&proxy);
    // Each connection learns it by one question.
    assert!(
        same == 0.0 && changed == 0.0 && (1.0..=2.0).contains(&refused),
        "{refused}"
    );
    let explained = client.text(&["NEARCACHE", "EXPLAIN", "k0"]);
    assert!(explained.contains("the upstream has refused DIGEST"), "{explained}");
}

#[test]
fn nothing_is_asked_where_nothing_is_gained() {
    let Some(server) = Server::redis_8(&[]) else { return };
    for (cache, settings) in [
        ("consistency = \"eventual\"\nmax_age = \"1h\"", ""),
        ("", "revalidate_from = \"off\""),
        ("", "revalidate_from = \"1MiB\""),
    ] {
        let dir = tempfile::tempdir().unwrap();
        left(&server.url(), &server, dir.path(), "", true);
        let proxy = proxy(&server.url(), dir.path(), cache, settings);
        let mut client = proxy.client();
        knows(&proxy, &mut client);
        server.forget_calls();
        read_all(&mut client, 1);
        assert_eq!(server.calls("digest"), 0, "{cache} {settings}");
    }
}

/// Killed again and again, with writes of others while it is away: no read shows what was before.
#[test]
fn after_every_kill_9_reads_are_true() {
    let Some(server) = Server::redis_8(&[]) else { return };
    let dir = tempfile::tempdir().unwrap();
    let mut random = fastrand::Rng::with_seed(7);
    let mut versions = vec![1; KEYS];
    set_all(&server, 1);
    let mut same = 0.0;
    for round in 0..8 {
        let proxy = proxy(&server.url(), dir.path(), "", "");
        let mut client = proxy.client();
        knows(&proxy, &mut client);
        for (i, &version) in versions.iter().enumerate() {
            let read = client.bulk(&["GET", &format!("k{i}")]);
            let expected = value(i, version).into_bytes();
            assert!(read == Some(expected), "round {round}: k{i} is not version {version}");
        }
        same += outcomes(&proxy)[0];
        settled(&proxy);
        for n in 0..60 {
            let i = random.usize(..KEYS);
            versions[i] += 1;
            let (key, value) = (format!("k{i}"), value(i, versions[i]));
            // Through it and beside it; the others come while it is away.
            match n {
                0..20 => client.expect(&["SET", &key, &value], "+OK"),
                _ => server.client().expect(&["SET", &key, &value], "+OK"),
            }
        }
        proxy.kill();
        for _ in 0..30 {
            let i = random.usize(..KEYS);
            versions[i] += 1;
            let (key, value) = (format!("k{i}"), value(i, versions[i]));
            server.client().expect(&["SET", &key, &value], "+OK");
        }
    }
    assert!(same > KEYS as f64, "{same} digests were right");
}
