//! Values that L1 keeps compressed: nobody can tell from the replies.

use crate::support::client::encode;
use crate::support::{Client, Proxy, STEP, Server, eventually};

fn proxy(server: &Server, codec: &str, rest: &str) -> Proxy {
    let toml = format!("[cache]\ncompression = \"{codec}\"\n{rest}");
    Proxy::with_config(&server.url(), &toml, &["--workers", "2"])
}

/// So many bytes, that compress well or not at all.
fn value(random: &mut fastrand::Rng, length: usize) -> Vec<u8> {
    if random.u8(..4) == 0 {
        return std::iter::repeat_with(|| random.u8(..)).take(length).collect();
    }
    let word = random.u32(..1000).to_string();
    let text = format!("{{\"id\":{word},\"name\":\"user {word}\",\"tags\":[1,2,3]}}");
    text.bytes().cycle().take(length).collect()
}

fn compressed(proxy: &Proxy) -> f64 {
    ["lz4", "zstd"]
        .iter()
        .filter_map(|codec| {
            let label = format!("codec=\"{codec}\"");
            proxy.metric("nearcache_l1_compressed_total", &[&label])
        })
        .sum()
}

fn ask_all(client: &mut Client, k: &str, other: &str, length: usize) -> Vec<Vec<u8>> {
    let (from, to) = ((length / 3).to_string(), (length / 2).to_string());
    let hash = format!("h:{k}");
    let reads: [&[&str]; 11] = [
        &["GET", k],
        &["GET", k],
        &["STRLEN", k],
        &["GETRANGE", k, &from, &to],
        &["GETRANGE", k, "-5", "-1"],
        &["EXISTS", k, other],
        &["TYPE", k],
        &["TTL", k],
        &["MGET", k, other, "missing", k],
        &["HGETALL", &hash],
        &["HGETALL", &hash],
    ];
    reads.iter().map(|read| client.cmd(read)).collect()
}

#[test]
fn every_read_of_a_compressed_value_is_the_same() {
    for codec in ["lz4", "zstd:1", "off"] {
        let server = Server::start();
        let proxy = proxy(&server, codec, "");
        let mut random = fastrand::Rng::with_seed(3);
        let mut direct = [server.client(), server.client().hello3()];
        let mut clients = [proxy.client(), proxy.client3()];
        let mut keys = vec![("first".to_owned(), 10)];
        direct[0].expect(&["SET", "first", "0123456789"], "+OK");
        for i in 0..60 {
            let length = [random.usize(..1500), random.usize(1000..5000), random.usize(..200_000)][i % 3];
            let (name, bytes) = (format!("k{i}"), value(&mut random, length));
            direct[0].raw(&encode_bytes(&[b"SET", name.as_bytes(), &bytes]));
            assert_eq!(direct[0].frame(), b"+OK\r\n");
            let hash = format!("h:{name}");
            direct[0].raw(&encode_bytes(&[b"HSET", hash.as_bytes(), b"a", &bytes, b"b", b"2"]));
            assert_eq!(direct[0].frame(), b":2\r\n");
            keys.push((name, length));
        }
        for pair in keys.windows(2) {
            let [(other, _), (name, length)] = pair else {
                unreachable!()
            };
            for (client, direct) in clients.iter_mut().zip(&mut direct) {
                let expected = ask_all(direct, name, other, *length);
                // Once as misses, and then as hits.
                for _ in 0..2 {
                    assert!(
                        ask_all(client, name, other, *length) == expected,
                        "{codec}: {name}, {length} bytes"
                    );
                }
            }
        }
        assert_eq!(compressed(&proxy) > 20.0, codec != "off", "{codec}");
        // Others' writes are seen as ever.
        direct[0].expect(&["SET", "k1", "new"], "+OK");
        eventually("the write is seen", STEP, || {
            clients[0].bulk(&["GET", "k1"]) == Some(b"new".to_vec())
        });
    }
}

fn encode_bytes(words: &[&[u8]]) -> Vec<u8> {
    let mut out = format!("*{}\r\n", words.len()).into_bytes();
    for word in words {
        out.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
        out.extend_from_slice(word);
        out.extend_from_slice(b"\r\n");
    }
    out
}

#[test]
fn a_pipeline_of_compressed_and_other_values_is_answered_in_order() {
    let server = Server::start();
    let proxy = proxy(&server, "lz4", "");
    let mut client = proxy.client();
    let (large, small) = ("ab".repeat(20_000), "small");
    client.expect(&["SET", "large", &large], "+OK");
    client.expect(&["SET", "small", small], "+OK");
    for _ in 0..2 {
        client.bulk(&["GET", "large"]);
        client.bulk(&["GET", "small"]);
    }
    assert!(compressed(&proxy) >= 1.0);
    let explained = client.text(&["NEARCACHE", "EXPLAIN", "large"]);
    assert!(explained.contains(" compressed=lz4 of=40000"), "{explained}");
    server.forget_calls();
    let mut bytes = Vec::new();
    for _ in 0..50 {
        bytes.extend(encode(&["GET", "large"]));
        bytes.extend(encode(&["GET", "small"]));
    }
    client.raw(&bytes);
    for reply in client.frames(100).chunks(2) {
        assert_eq!(reply[0], format!("$40000\r\n{large}\r\n").into_bytes());
        assert_eq!(reply[1], b"$5\r\nsmall\r\n");
    }
    assert_eq!(server.calls("get"), 0);
}

#[test]
fn what_was_compressed_in_l1_comes_back_from_the_disk() {
    let server = Server::start();
    for l3_codec in ["off", "zstd"] {
        let dir = tempfile::tempdir().unwrap();
        let rest = format!(
            "l1 = \"1MiB\"\nshards = 1\n[l3]\npath = \"{}\"\nadmission = \"all\"\ncompression = \"{l3_codec}\"\n",
            dir.path().display()
        );
        let proxy = proxy(&server, "lz4", &rest);
        let mut client = proxy.client();
        let value = |i: usize| format!("{i} and so on ").repeat(500);
        const KEYS: usize = 8000;
        for i in 0..KEYS {
            client.send(&["SET", &format!("k{i}"), &value(i)]);
            client.send(&["GET", &format!("k{i}")]);
            assert_eq!(
                client.frames(2)[1],
                format!("${}\r\n{}\r\n", value(i).len(), value(i)).into_bytes()
            );
        }
        eventually("what was evicted is on the disk", STEP, || {
            proxy.metric("nearcache_l3_queued_bytes", &[]) == Some(0.0)
                && proxy.metric("nearcache_l3_entries", &[]) > Some(KEYS as f64 / 4.0)
        });
        let l3_hits = || proxy.metric("cache_hits_total", &["cache_layer=\"l3\""]).unwrap();
        for i in 0..KEYS / 2 {
            assert_eq!(
                client.bulk(&["GET", &format!("k{i}")]),
                Some(value(i).into_bytes()),
                "k{i}"
            );
        }
        assert!(l3_hits() > KEYS as f64 / 8.0, "{}", l3_hits());
    }
}

/// Names of values that become a hundredth, and what `MGET` says of the first of them.
const LARGE: usize = 200;

fn large_value(i: usize) -> String {
    format!("{i:04} and so on and on ").repeat(2900)
}

fn mget_large(client: &mut Client, others: &[&str], count: usize) -> Vec<u8> {
    let names: Vec<String> = (0..count).map(|i| format!("large{i}")).collect();
    let words: Vec<&str> = ["MGET"]
        .into_iter()
        .chain(others.iter().copied())
        .chain(names.iter().map(String::as_str))
        .collect();
    client.cmd(&words)
}

fn large_values(others: &[&str], count: usize) -> Vec<u8> {
    let values = others
        .iter()
        .map(|other| other.to_string())
        .chain((0..count).map(large_value));
    let bulks = values.map(|value| format!("${}\r\n{value}\r\n", value.len()));
    format!("*{}\r\n{}", others.len() + count, bulks.collect::<String>()).into_bytes()
}

/// Reads them one by one until they are hits.
fn fill_large(client: &mut Client) {
    for _ in 0..2 {
        for i in 0..LARGE {
            assert_eq!(
                client.bulk(&["GET", &format!("large{i}")]),
                Some(large_value(i).into_bytes())
            );
        }
    }
}

#[test]
fn more_than_is_unpacked_at_once_is_read_from_the_upstream_as_long_as_that_can_be_asked() {
    let mut server = Server::start();
    let proxy = proxy(&server, "lz4", "max_stale = \"1h\"\n");
    let mut client = proxy.client();
    for i in 0..LARGE {
        client.expect(&["SET", &format!("large{i}"), &large_value(i)], "+OK");
    }
    assert!(mget_large(&mut client, &[], LARGE) == large_values(&[], LARGE));
    let at_once = compressed(&proxy);
    assert!((1.0..40.0).contains(&at_once), "{at_once}");
    fill_large(&mut client);
    assert!(compressed(&proxy) >= LARGE as f64);
    server.forget_calls();
    // 6 MB, and then 13.
    assert!(mget_large(&mut client, &[], LARGE / 2) == large_values(&[], LARGE / 2));
    assert_eq!(server.calls("mget"), 0);
    let before = compressed(&proxy);
    for reads in 1..3 {
        assert!(mget_large(&mut client, &[], LARGE) == large_values(&[], LARGE));
        assert_eq!(server.calls("mget"), reads);
    }
    assert_eq!(compressed(&proxy), before, "nothing is compressed anew");
    fill_large(&mut client);
    server.kill();
    eventually("all of it is shown while the server is away", STEP, || {
        mget_large(&mut client, &[], LARGE) == large_values(&[], LARGE)
    });
}

#[test]
fn nor_is_it_unpacked_for_a_read_of_which_the_disk_has_a_part() {
    let server = Server::start();
    let dir = tempfile::tempdir().unwrap();
    let rest = format!(
        "l1 = \"2MiB\"\nshards = 1\n[l3]\npath = \"{}\"\nadmission = \"all\"\n",
        dir.path().display()
    );
    let proxy = proxy(&server, "lz4", &rest);
    let mut client = proxy.client();
    for i in 0..LARGE {
        client.expect(&["SET", &format!("large{i}"), &large_value(i)], "+OK");
    }
    let mut random = fastrand::Rng::with_seed(1);
    let others: Vec<String> = (0..400)
        .map(|_| std::iter::repeat_with(|| random.alphanumeric()).take(20_000).collect())
        .collect();
    for (i, other) in others.iter().enumerate() {
        client.expect(&["SET", &format!("other{i}"), other], "+OK");
        client.bulk(&["GET", &format!("other{i}")]);
        if i % 20 == 0 {
            fill_large(&mut client);
        }
    }
    fill_large(&mut client);
    eventually("what was evicted is on the disk", STEP, || {
        proxy.metric("nearcache_l3_queued_bytes", &[]) == Some(0.0)
    });
    let below: Vec<usize> = (0..others.len())
        .filter(|i| {
            let explained = client.text(&["NEARCACHE", "EXPLAIN", &format!("other{i}")]);
            explained.contains("$7\r\nentries\r\n$1\r\n0\r\n") && explained.contains("vouched for by link")
        })
        .collect();
    assert!(below.len() > 20, "{} are on the disk alone", below.len());
    let l3_hits = || proxy.metric("cache_hits_total", &["cache_layer=\"l3\""]).unwrap();
    for (n, &i) in below.iter().take(12).enumerate() {
        let name = format!("other{i}");
        let count = if n % 2 == 0 { LARGE / 2 } else { LARGE };
        server.forget_calls();
        let before = l3_hits();
        let reply = mget_large(&mut client, &[&name], count);
        let expected = large_values(&[&others[i]], count);
        assert!(reply == expected, "{name} and {count}");
        assert_eq!(server.calls("mget"), u64::from(count == LARGE), "{name} and {count}");
        assert_eq!(l3_hits() - before, f64::from(u8::from(count < LARGE)));
        fill_large(&mut client);
    }
}
