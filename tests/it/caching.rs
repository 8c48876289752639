//! What the cache is for: reads that the upstream never sees, for as long as they are true and not a moment longer.

use std::thread;
use std::time::{Duration, Instant};

mod compressed;
mod samples;
mod walk;

use crate::support::{Client, Proxy, STEP, Server, eventually, resident_kib, show};

#[test]
fn a_hundred_thousand_gets_cost_the_upstream_one_read_a_key() {
    let server = Server::start();
    let proxy = Proxy::start(&server, &["--workers", "2"]);
    let mut direct = server.client();
    for i in 0..100 {
        direct.expect(&["SET", &format!("there:{i}"), &format!("value {i}")], "+OK");
    }
    server.forget_calls();
    const CLIENTS: usize = 4;
    const ROUNDS: usize = 125;
    thread::scope(|scope| {
        for n in 0..CLIENTS {
            let mut client = if n % 2 == 0 { proxy.client() } else { proxy.client3() };
            let nil = if n % 2 == 0 { "$-1\r\n" } else { "_\r\n" };
            scope.spawn(move || {
                for _ in 0..ROUNDS {
                    let mut expected = Vec::new();
                    let mut bytes = Vec::new();
                    for i in 0..100 {
                        bytes.extend(crate::support::client::encode(&["GET", &format!("there:{i}")]));
                        bytes.extend(crate::support::client::encode(&["GET", &format!("missing:{i}")]));
                        let value = format!("value {i}");
                        expected.push(format!("${}\r\n{value}\r\n", value.len()));
                        expected.push(nil.to_owned());
                    }
                    client.raw(&bytes);
                    for expected in expected {
                        assert_eq!(show(&client.frame()), show(expected.as_bytes()));
                    }
                }
            });
        }
    });
    let reads = server.calls("get");
    assert!(
        reads <= 200,
        "{} GETs of 200 keys, {reads} reads upstream",
        CLIENTS * ROUNDS * 200
    );
}

#[test]
fn a_thousand_clients_missing_one_key_cost_one_read() {
    let server = Server::start();
    let proxy = Proxy::start(&server, &["--workers", "2"]);
    server.client().expect(&["SET", "wanted", "by all"], "+OK");
    let mut clients: Vec<Client> = (0..1000).map(|_| proxy.client()).collect();
    server.forget_calls();
    // The server keeps them waiting, so that all are on their way together.
    server.freeze();
    for client in &mut clients {
        client.send(&["GET", "wanted"]);
    }
    thread::sleep(Duration::from_millis(100));
    server.thaw();
    for client in &mut clients {
        assert_eq!(show(&client.frame()), "$6\\r\\nby all\\r\\n");
    }
    assert_eq!(server.calls("get"), 1);
}

#[test]
fn an_expired_value_is_gone_to_the_millisecond() {
    let server = Server::start();
    let proxy = Proxy::start(&server, &["--workers", "2"]);
    let mut direct = server.client();
    // Nothing tells the proxy: no push comes from a server that does not expire by itself.
    direct.expect(&["DEBUG", "SET-ACTIVE-EXPIRE", "0"], "+OK");
    let mut client = proxy.client();
    let mut hits = 0;
    for round in 0..20 {
        let key = format!("short:{round}");
        let begun = Instant::now();
        direct.expect(&["SET", &key, "v", "PX", "100"], "+OK");
        let acked = Instant::now();
        server.forget_calls();
        let mut seen = 0_u64;
        loop {
            let asked = Instant::now();
            let reply = client.bulk(&["GET", &key]);
            let answered = Instant::now();
            match reply {
                Some(_) => {
                    let age = asked - acked;
                    assert!(
                        age <= Duration::from_millis(102),
                        "still there {age:?} after SET PX 100"
                    );
                    seen += 1;
                }
                None => {
                    let age = answered - begun;
                    assert!(age >= Duration::from_millis(98), "gone {age:?} after SET PX 100");
                    break;
                }
            }
        }
        hits += seen.saturating_sub(server.calls("get"));
        assert_eq!(client.int(&["EXISTS", &key]), 0);
        assert_eq!(client.int(&["PTTL", &key]), -2);
    }
    assert!(hits > 200, "the values were cached while they lived: {hits} hits");
}

#[test]
fn the_rest_of_a_life_counts_down_in_the_cache() {
    let server = Server::start();
    let proxy = Proxy::start(&server, &["--workers", "2"]);
    let (mut client, mut direct) = (proxy.client(), server.client());
    for read in [vec!["GET", "k"], vec!["HGETALL", "h"]] {
        direct.expect(&["SET", "k", "v", "PX", "60000"], "+OK");
        direct.cmd(&["HSET", "h", "f", "1"]);
        direct.expect(&["PEXPIRE", "h", "60000"], ":1");
        client.cmd(&read);
        client.cmd(&read);
        let key = read[1];
        let mut last = i64::MAX;
        for _ in 0..200 {
            let low = direct.int(&["PTTL", key]);
            let found = client.int(&["PTTL", key]);
            assert!(found <= last, "PTTL grows: {found} after {last}");
            assert!(
                found <= low + 2 && found > low - 2000,
                "PTTL {found}, the server says {low}"
            );
            last = found;
            let seconds = client.int(&["TTL", key]);
            assert!((58..=60).contains(&seconds), "TTL {seconds}");
        }
    }
}

#[test]
fn an_absent_key_is_remembered_until_somebody_creates_it() {
    let server = Server::start();
    let proxy = Proxy::start(&server, &["--workers", "2"]);
    let mut clients = [proxy.client(), proxy.client3(), proxy.client()];
    let mut direct = server.client();
    for round in 0..60 {
        let key = format!("absent:{round}");
        for client in &mut clients {
            assert_eq!(client.bulk(&["GET", &key]), None);
        }
        server.forget_calls();
        for client in &mut clients {
            for _ in 0..10 {
                assert_eq!(client.bulk(&["GET", &key]), None);
                assert_eq!(client.int(&["EXISTS", &key]), 0);
            }
        }
        assert_eq!(
            server.calls("get") + server.calls("exists"),
            0,
            "an absent key is asked for once"
        );
        if round % 2 == 0 {
            direct.expect(&["SET", &key, "now"], "+OK");
            for client in &mut clients {
                eventually("the new key is seen", STEP / 5, || {
                    client.bulk(&["GET", &key]).is_some()
                });
            }
        } else {
            clients[round % 3].expect(&["SET", &key, "now"], "+OK");
            for client in &mut clients {
                assert_eq!(
                    client.bulk(&["GET", &key]),
                    Some(b"now".to_vec()),
                    "an own write is seen at once"
                );
            }
        }
    }
}

#[test]
fn other_reads_are_answered_from_the_value_that_get_left() {
    let server = Server::start();
    let proxy = Proxy::start(&server, &["--workers", "1"]);
    let mut direct = server.client();
    direct.expect(&["MSET", "a", "hello world", "b", "two"], "+OK");
    direct.expect(&["EXPIRE", "b", "1000"], ":1");
    for mut client in [proxy.client(), proxy.client3()] {
        let nil = client.cmd(&["GET", "missing"]);
        for key in ["a", "b", "missing"] {
            client.cmd(&["GET", key]);
        }
        // The second read may still have met the first one under way.
        client.cmd(&["GET", "b"]);
        client.cmd(&["GET", "missing"]);
        let commands = [
            "mget", "exists", "strlen", "getrange", "substr", "ttl", "pttl", "type", "get",
        ];
        server.forget_calls();
        for _ in 0..20 {
            let expected = format!(
                "*3\r\n$11\r\nhello world\r\n{}$3\r\ntwo\r\n",
                String::from_utf8_lossy(&nil)
            );
            assert_eq!(
                show(&client.cmd(&["MGET", "a", "missing", "b"])),
                show(expected.as_bytes())
            );
            client.expect(&["EXISTS", "a"], ":1");
            client.expect(&["EXISTS", "missing"], ":0");
            client.expect(&["STRLEN", "a"], ":11");
            client.expect(&["STRLEN", "missing"], ":0");
            client.expect(&["GETRANGE", "a", "-5", "-1"], "$5\r\nworld");
            client.expect(&["GETRANGE", "a", "3", "1"], "$0\r\n");
            client.expect(&["SUBSTR", "a", "0", "4"], "$5\r\nhello");
            client.expect(&["TTL", "a"], ":-1");
            client.expect(&["TTL", "missing"], ":-2");
            assert!((990..=1000).contains(&client.int(&["TTL", "b"])));
            assert!((990_000..=1_000_000).contains(&client.int(&["PTTL", "b"])));
            client.expect(&["TYPE", "a"], "+string");
            client.expect(&["TYPE", "missing"], "+none");
        }
        for command in commands {
            assert_eq!(server.calls(command), 0, "{command} went upstream");
        }
    }
}

#[test]
fn exists_of_several_keys_is_answered_from_what_is_known_of_each() {
    let server = Server::start();
    let proxy = Proxy::start(&server, &["--workers", "2"]);
    let mut direct = server.client();
    direct.expect(&["SET", "text", "v"], "+OK");
    direct.cmd(&["HSET", "hash", "f", "v"]);
    for mut client in [proxy.client(), proxy.client3(), proxy.client()] {
        direct.expect(&["DEL", "later"], ":0");
        let all = ["EXISTS", "text", "hash", "missing", "text", "later"];
        server.forget_calls();
        client.expect(&all, ":3");
        assert_eq!(server.calls("exists"), 1, "what nothing is known of is asked for");
        for read in [
            &["GET", "text"][..],
            &["HGET", "hash", "f"],
            &["HLEN", "missing"],
            &["GET", "later"],
        ] {
            client.cmd(read);
        }
        eventually("all are known", STEP, || {
            server.forget_calls();
            client.expect(&all, ":3");
            server.calls("exists") == 0
        });
        server.forget_calls();
        client.expect(&["EXISTS", "missing", "hash", "unknown"], ":1");
        assert_eq!(server.calls("exists"), 1, "one that is not known sends all of them");

        direct.expect(&["SET", "later", "v"], "+OK");
        eventually("the new key is counted", STEP / 5, || client.int(&all) == 4);
        client.expect(&["SET", "later", "w"], "+OK");
        client.expect(&all, ":4");
        client.expect(&["DEL", "later"], ":1");
        client.expect(&all, ":3");
        // Behind a write of the same pipeline nothing is known.
        client.cmd(&["GET", "later"]);
        client.send(&["SET", "later", "v"]);
        client.send(&all);
        client.send(&["DEL", "later"]);
        client.send(&all);
        let replies: Vec<String> = client.frames(4).iter().map(|frame| show(frame)).collect();
        assert_eq!(replies, ["+OK\\r\\n", ":4\\r\\n", ":1\\r\\n", ":3\\r\\n"]);
    }
}

/// Its first part is refused then, and what the reply was before stands beside the new parts of the others.
#[test]
fn a_reply_about_several_keys_that_has_grown_too_large_is_not_mixed_with_an_older_one() {
    let server = Server::start();
    let proxy = Proxy::start(&server, &["--workers", "1"]);
    let (mut client, mut direct) = (proxy.client(), server.client());
    direct.expect(&["SADD", "a", "one"], ":1");
    direct.expect(&["SADD", "b", "one"], ":1");
    let union = ["SUNION", "a", "b"];
    eventually("the reply is a hit", STEP, || {
        server.forget_calls();
        client.expect(&union, "*1\r\n$3\r\none");
        server.calls("sunion") == 0
    });
    let large = "x".repeat(2 << 20);
    direct.expect(&["SADD", "b", &large], ":1");
    eventually("the new member is seen", STEP, || {
        client.cmd(&union).len() > large.len()
    });
    for _ in 0..5 {
        assert_eq!(client.cmd(&union).len(), direct.cmd(&union).len());
    }
    direct.expect(&["SREM", "b", &large], ":1");
    eventually("it is gone again", STEP, || client.cmd(&union).len() < 100);
}

/// Whatever happens to one of the keys happens to the reply.
#[test]
fn a_reply_about_several_keys_ends_with_the_first_of_them() {
    let server = Server::start();
    let proxy = Proxy::start(&server, &["--workers", "1"]);
    let (mut client, mut direct) = (proxy.client(), server.client());
    direct.expect(&["SADD", "lasting", "l"], ":1");
    let diff = ["SDIFF", "lasting", "mortal"];
    for _ in 0..3 {
        direct.expect(&["SADD", "mortal", "l", "m"], ":2");
        direct.expect(&["PEXPIRE", "mortal", "300"], ":1");
        loop {
            let was_over = direct.int(&["EXISTS", "mortal"]) == 0;
            if client.text(&diff) != "*0\r\n" {
                assert!(direct.int(&["EXISTS", "mortal"]) == 0, "over too early");
                break;
            }
            assert!(!was_over, "shown though it is over");
        }
        client.expect(&diff, "*1\r\n$1\r\nl");
        client.expect(&["SADD", "mortal", "l"], ":1");
        client.expect(&diff, "*0");
        // What stands for a key says that it exists, and when it ends.
        client.expect(&["EXISTS", "lasting", "mortal"], ":2");
        client.expect(&["TTL", "lasting"], ":-1");
        client.expect(&["DEL", "mortal"], ":1");
        client.expect(&diff, "*1\r\n$1\r\nl");
    }
}

#[test]
fn an_encoding_that_changes_without_a_message_is_believed_no_longer_than_the_bound() {
    let server = Server::start();
    let proxy = Proxy::with_config(&server.url(), "[cache]\nbound = \"300ms\"\n", &[]);
    let (mut client, mut direct) = (proxy.client(), server.client());
    direct.expect(&["SET", "k", "100"], "+OK");
    client.expect(&["OBJECT", "ENCODING", "k"], "$3\r\nint");
    let asked = Instant::now();
    direct.expect(&["SETBIT", "k", "1", "0"], ":0");
    direct.expect(&["OBJECT", "ENCODING", "k"], "$3\r\nraw");
    loop {
        let begun = Instant::now();
        if client.bulk(&["OBJECT", "ENCODING", "k"]) == Some(b"raw".to_vec()) {
            break;
        }
        assert!(begun < asked + Duration::from_millis(300));
    }
    // An own write is seen at once, even if it changes nothing else.
    for _ in 0..20 {
        client.expect(&["SET", "k", "100"], "+OK");
        client.expect(&["OBJECT", "ENCODING", "k"], "$3\r\nint");
        client.expect(&["SETBIT", "k", "1", "0"], ":0");
        client.expect(&["OBJECT", "ENCODING", "k"], "$3\r\nraw");
    }
}

#[test]
fn errors_are_not_kept() {
    let server = Server::start();
    let proxy = Proxy::start(&server, &["--workers", "1"]);
    let (mut client, mut direct) = (proxy.client(), server.client());
    for _ in 0..10 {
        direct.cmd(&["DEL", "k"]);
        direct.expect(&["HSET", "k", "f", "1"], ":1");
        eventually("the hash is seen", STEP / 5, || {
            client.text(&["GET", "k"]).starts_with("-WRONGTYPE")
        });
        client.text(&["GET", "k"]);
        direct.expect(&["DEL", "k"], ":1");
        direct.expect(&["SET", "k", "text"], "+OK");
        eventually("the text is seen", STEP / 5, || {
            client.text(&["GET", "k"]) == "$4\r\ntext\r\n"
        });
    }
}

#[test]
fn a_large_value_passes_by_the_cache() {
    let server = Server::start();
    let proxy = Proxy::start(&server, &["--workers", "1"]);
    let mut client = proxy.client();
    let value = vec![b'x'; 2 * 1024 * 1024];
    client.expect(&[b"SET".as_slice(), b"large", &value], "+OK");
    server.forget_calls();
    for _ in 0..3 {
        assert!(client.bulk(&["GET", "large"]) == Some(value.clone()));
    }
    assert_eq!(server.calls("get"), 3);
}

#[test]
fn memory_stays_within_the_budget_of_the_cache() {
    let server = Server::start();
    let proxy = Proxy::start(&server, &["--workers", "1", "--l1", "8MiB"]);
    let mut client = proxy.client();
    let value = "x".repeat(1000);
    const KEYS: usize = 40_000;
    let mut fill = |upto: usize| {
        for first in (0..upto).step_by(200) {
            for i in first..first + 200 {
                client.send(&["SET", &format!("key:{i}"), &value]);
                client.send(&["GET", &format!("key:{i}")]);
            }
            client.frames(400);
        }
    };
    fill(12_000);
    let full = resident_kib(proxy.pid());
    fill(KEYS);
    let later = resident_kib(proxy.pid());
    assert!(
        later < full + 4 * 1024,
        "{full} KiB when the cache was full, {later} KiB after {KEYS} keys"
    );
    let used = proxy
        .metric("cache_size_bytes", &["l1"])
        .expect("the cache tells its size");
    assert!(
        (1_000_000.0..=8.0 * 1024.0 * 1024.0).contains(&used),
        "{used} bytes used of 8 MiB"
    );
    let evicted = proxy
        .metric("cache_evictions_total", &["l1"])
        .expect("evictions are counted");
    assert!(evicted > 1000.0, "{evicted} evictions");
}

#[test]
fn without_a_cache_everything_goes_upstream() {
    let server = Server::start();
    let proxy = Proxy::with_config(&server.url(), "[cache]\nenabled = false\n", &[]);
    let mut client = proxy.client();
    server.forget_calls();
    for _ in 0..10 {
        assert_eq!(client.bulk(&["GET", "k"]), None);
    }
    assert_eq!(server.calls("get"), 10);
}

#[test]
fn strong_consistency_asks_the_server_every_time() {
    let server = Server::start();
    let proxy = Proxy::with_config(&server.url(), "[cache]\nconsistency = \"strong\"\n", &[]);
    let (mut client, mut direct) = (proxy.client(), server.client());
    for i in 0..500 {
        let value = i.to_string();
        direct.expect(&["SET", "k", &value], "+OK");
        assert_eq!(
            client.bulk(&["GET", "k"]),
            Some(value.into_bytes()),
            "no write is ever missed"
        );
    }
}

fn split(line: &str) -> Vec<&str> {
    line.split(' ').collect()
}
