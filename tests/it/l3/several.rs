//! Reads of several keys of which L1 has only some, or none.

use super::{
    KEYS, answered_without_upstream, bulk_of, l3, proxy, read_all, recovered, set_all, settled, stale_toml, value,
    vouched,
};
use crate::support::{Client, STEP, Server, eventually};

const A_READ: usize = 10;

fn words(command: &str, from: usize) -> Vec<String> {
    let names = (from..from + A_READ).map(|i| format!("k{i}"));
    [command.to_owned(), "missing".to_owned()]
        .into_iter()
        .chain(names)
        .collect()
}

fn ask(client: &mut Client, command: &str, from: usize) -> Vec<u8> {
    let words = words(command, from);
    client.cmd(&words.iter().map(String::as_str).collect::<Vec<_>>())
}

fn values(from: usize, version: usize, null: &str) -> Vec<u8> {
    let bulks = (from..from + A_READ).map(|i| bulk_of(&value(i, version)));
    let head = format!("*{}\r\n{null}", A_READ + 1).into_bytes();
    [head].into_iter().chain(bulks).collect::<Vec<_>>().concat()
}

const NULL_2: &str = "$-1\r\n";
const NULL_3: &str = "_\r\n";

#[test]
fn several_keys_are_answered_from_the_disk_together() {
    let server = Server::start();
    let dir = tempfile::tempdir().unwrap();
    let proxy = proxy(&server, dir.path(), "");
    set_all(&server, 1);
    let (mut two, mut three) = (proxy.client(), proxy.client3());
    two.bulk(&["GET", "missing"]);
    read_all(&mut two, 1);
    settled(&proxy);
    server.forget_calls();
    let before = l3(&proxy, "stale_total");
    for from in (0..KEYS).step_by(A_READ) {
        let (client, null) = if from % 20 == 0 {
            (&mut two, NULL_2)
        } else {
            (&mut three, NULL_3)
        };
        assert_eq!(ask(client, "MGET", from), values(from, 1, null), "from {from}");
        // Nothing is lost of what L1 has of it by now.
        assert_eq!(ask(client, "EXISTS", from), format!(":{A_READ}\r\n").into_bytes());
    }
    let reads = (KEYS / A_READ) as u64;
    assert!(
        server.calls("mget") < reads / 2,
        "{} of {reads} went upstream",
        server.calls("mget")
    );
    assert!(server.calls("exists") < reads / 2, "{}", server.calls("exists"));
    let hits = proxy.metric("cache_hits_total", &["cache_layer=\"l3\""]).unwrap();
    assert!(hits > KEYS as f64 * 0.5, "{hits}");
    assert_eq!(l3(&proxy, "stale_total"), before);
    // What one of them has become is seen in all.
    settled(&proxy);
    let mut direct = server.client();
    for from in (0..KEYS).step_by(A_READ * 7) {
        direct.expect(&["SET", &format!("k{from}"), "new"], "+OK");
        let old = bulk_of(&value(from, 1));
        let new = bulk_of("new");
        let reply = values(from, 1, NULL_2);
        let at = reply.windows(old.len()).position(|part| part == old).unwrap();
        let expected = [&reply[..at], &new, &reply[at + old.len()..]].concat();
        eventually("the write is seen", STEP, || ask(&mut two, "MGET", from) == expected);
    }
}

#[test]
fn what_is_pipelined_behind_several_keys_does_not_overtake_them() {
    let server = Server::start();
    let dir = tempfile::tempdir().unwrap();
    let proxy = proxy(&server, dir.path(), "");
    set_all(&server, 1);
    let mut client = proxy.client();
    client.bulk(&["GET", "missing"]);
    read_all(&mut client, 1);
    settled(&proxy);
    for from in (0..KEYS).step_by(A_READ) {
        let words = words("MGET", from);
        client.send(&words.iter().map(String::as_str).collect::<Vec<_>>());
        let last = format!("k{}", from + A_READ - 1);
        client.send(&["SET", &last, "new"]);
        client.send(&["GET", &last]);
        let replies = client.frames(3);
        assert_eq!(replies[0], values(from, 1, NULL_2), "from {from}");
        assert_eq!(replies[1..], [b"+OK\r\n".to_vec(), bulk_of("new")]);
    }
}

#[test]
fn while_the_upstream_is_away_several_keys_are_answered_from_the_disk() {
    let mut server = Server::start();
    let dir = tempfile::tempdir().unwrap();
    let toml = stale_toml("coherent").replace("6s", "60s");
    let first = proxy(&server, dir.path(), &toml);
    set_all(&server, 1);
    let mut client = first.client();
    client.bulk(&["GET", "missing"]);
    read_all(&mut client, 1);
    settled(&first);
    vouched(dir.path());
    client.expect(&["SET", "k0", "new"], "+OK");
    server.kill();
    eventually("it is away", STEP, || {
        client.cmd(&["SET", "other", "x"]).starts_with(b"-")
    });
    let stale = l3(&first, "stale_total");
    let answered = |client: &mut Client| {
        let mut answered = 0;
        for from in (0..KEYS).step_by(A_READ) {
            let reply = ask(client, "MGET", from);
            if reply.starts_with(b"*") {
                assert!(from > 0, "a key was overwritten");
                assert_eq!(reply, values(from, 1, NULL_2), "from {from}");
                answered += 1;
            } else {
                assert!(reply.starts_with(b"-ERR nearcache: upstream "));
            }
        }
        answered
    };
    let reads = KEYS / A_READ;
    let here = answered(&mut client);
    assert!(here > reads / 3, "{here} of {reads}");
    assert_eq!(ask(&mut client, "EXISTS", A_READ * 5).first(), Some(&b':'));
    assert!(l3(&first, "stale_total") > stale + (here * A_READ) as f64 * 0.3);
    first.kill();
    // Those of an earlier process existed together as long as all of them are known to have been true.
    let second = proxy(&server, dir.path(), &toml);
    recovered(&second);
    let mut client = second.client();
    assert!(answered_without_upstream(&mut client, |_, _| true) > KEYS / 3);
    let mut there = 0;
    for from in (A_READ..KEYS).step_by(A_READ) {
        let names: Vec<String> = (from..from + A_READ).map(|i| format!("k{i}")).collect();
        let words: Vec<&str> = ["MGET"].into_iter().chain(names.iter().map(String::as_str)).collect();
        let reply = client.cmd(&words);
        if reply.starts_with(b"*") {
            let bulks = (from..from + A_READ).map(|i| bulk_of(&value(i, 1)));
            let head = format!("*{A_READ}\r\n").into_bytes();
            assert_eq!(reply, [head].into_iter().chain(bulks).collect::<Vec<_>>().concat());
            there += 1;
        }
    }
    // A busy machine has read them over more time than all of a request were known to be true for.
    assert!(there > reads / 20, "{there} of {reads}");
    server.restart();
    eventually("it is there again", STEP, || {
        client.cmd(&["SET", "k1", "new"]) == b"+OK\r\n"
    });
    assert_eq!(client.cmd(&["MGET", "k1", "k2000"]), b"*2\r\n$3\r\nnew\r\n$-1\r\n");
}
