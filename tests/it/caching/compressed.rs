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
