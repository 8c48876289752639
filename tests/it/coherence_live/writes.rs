//! Every command that writes, once for each way of reaching the server, against every cached read of the keys it touches.

use std::time::Instant;

use super::{BOUND, SLACK, words};
use crate::support::client::encode;
use crate::support::{Client, Proxy, Server, eventually, seed, show};

/// What is there before, and the write. Keys are `k`, `o` and `d`; each line is a command.
const CASES: &[(&[&str], &[&str])] = &[
    (&[], &["SET k new"]),
    (&["SET k old"], &["SET k new"]),
    (&["SET k old"], &["SET k old"]),
    (&["SET k old"], &["SET k new EX 1000"]),
    (&["SET k old EX 1000"], &["SET k new KEEPTTL"]),
    (&["SET k old EX 1000"], &["SET k new"]),
    (&["SET k old"], &["SET k new XX GET"]),
    (&["HSET k f 1"], &["SET k text"]),
    (&[], &["SETNX k new"]),
    (&[], &["SETEX k 1000 new"]),
    (&["SET k old"], &["PSETEX k 1000000 new"]),
    (&["SET k old"], &["GETSET k new"]),
    (&["SET k old"], &["GETDEL k"]),
    (&["SET k old"], &["GETEX k EX 1000"]),
    (&["SET k old EX 1000"], &["GETEX k PERSIST"]),
    (&["SET k old"], &["MSET k new o new d new"]),
    (&[], &["MSETNX k new o new"]),
    (&["SET k old"], &["APPEND k more"]),
    (&[], &["APPEND k more"]),
    (&["SET k old"], &["SETRANGE k 1 xyz"]),
    (&["SET k 5"], &["INCR k"]),
    (&["SET k 5"], &["DECRBY k 3"]),
    (&[], &["INCRBY k 3"]),
    (&["SET k 5"], &["INCRBYFLOAT k 1.5"]),
    (&["SET k old"], &["SETBIT k 0 1"]),
    (&["SET k old"], &["BITFIELD k SET u8 0 255"]),
    (&["SET k abc", "SET o xyz"], &["BITOP XOR d k o"]),
    (&["SET k old", "SET o old"], &["DEL k o d"]),
    (&["SET k old", "HSET o f 1"], &["UNLINK k o"]),
    (&["SET k old"], &["EXPIRE k 1000"]),
    (&["SET k old"], &["PEXPIRE k 1000000"]),
    (&["SET k old EX 1000"], &["PERSIST k"]),
    (&["SET k old"], &["EXPIRE k -1"]),
    (&["SET k old"], &["EXPIREAT k 1"]),
    (&["SET k old"], &["PEXPIREAT k 99999999999999"]),
    (&["SET k old", "SET o other"], &["RENAME k o"]),
    (&["SET k old EX 1000"], &["RENAME k o"]),
    (&["SET k old"], &["RENAMENX k o"]),
    (&["SET k old", "SET o other"], &["COPY k o REPLACE"]),
    (&["HSET k f 1"], &["COPY k o"]),
    (&["SET k old"], &["MOVE k 3"]),
    (&["SET k old"], &["SELECT 3", "SET k three", "DEL k", "SELECT 0"]),
    (&["HSET k f old"], &["HSET k f new g more"]),
    (&["HSET k f old"], &["HMSET k f new"]),
    (&["HSET k g old"], &["HSETNX k f new"]),
    (&["HSET k f 1"], &["HINCRBY k f 4"]),
    (&["HSET k f 1"], &["HINCRBYFLOAT k f 0.5"]),
    (&["HSET k f 1 g 2"], &["HDEL k f"]),
    (&["HSET k f 1"], &["HDEL k f"]),
    (&[], &["LPUSH k a b"]),
    (&["RPUSH k a"], &["RPUSHX k b"]),
    (&["RPUSH k a"], &["LPUSHX k b"]),
    (&["RPUSH k a b c"], &["LPOP k"]),
    (&["RPUSH k a b c"], &["RPOP k 2"]),
    (&["RPUSH k a"], &["LPOP k"]),
    (&["RPUSH k a b c"], &["LSET k 1 x"]),
    (&["RPUSH k a b c"], &["LREM k 0 b"]),
    (&["RPUSH k a b c"], &["LTRIM k 1 1"]),
    (&["RPUSH k a b c"], &["LINSERT k BEFORE b x"]),
    (&["RPUSH k a b", "RPUSH o c"], &["RPOPLPUSH k o"]),
    (&["RPUSH k a b"], &["LMOVE k o LEFT RIGHT"]),
    (&["RPUSH o a b"], &["LMPOP 2 k o LEFT COUNT 2"]),
    (&["RPUSH k a b"], &["BLPOP o k 1"]),
    (&["RPUSH k a b"], &["BRPOP k 1"]),
    (&["RPUSH k a b"], &["BLMOVE k d LEFT LEFT 1"]),
    (&["RPUSH k a b"], &["BRPOPLPUSH k d 1"]),
    (&["RPUSH o a b"], &["BLMPOP 1 2 k o RIGHT"]),
    (&["SADD k a"], &["SADD k b c"]),
    (&["SADD k a b"], &["SREM k a"]),
    (&["SADD k a"], &["SPOP k"]),
    (&["SADD k a b c"], &["SPOP k 2"]),
    (&["SADD k a b", "SADD o c"], &["SMOVE k o a"]),
    (&["SADD k a b", "SADD o b c"], &["SUNIONSTORE d k o"]),
    (&["SADD k a b", "SADD o b c", "SET d x"], &["SINTERSTORE d k o"]),
    (&["SADD k a b", "SADD o a b", "SADD d x"], &["SDIFFSTORE d k o"]),
    (&["ZADD k 1 a"], &["ZADD k 2 a 3 b"]),
    (&["ZADD k 1 a"], &["ZADD k XX INCR 5 a"]),
    (&["ZADD k 1 a"], &["ZINCRBY k 2.5 a"]),
    (&["ZADD k 1 a 2 b"], &["ZREM k a"]),
    (&["ZADD k 1 a 2 b"], &["ZPOPMIN k"]),
    (&["ZADD k 1 a 2 b"], &["ZPOPMAX k 2"]),
    (&["ZADD k 1 a 2 b"], &["ZMPOP 1 k MAX"]),
    (&["ZADD k 1 a 2 b"], &["BZPOPMIN k 1"]),
    (&["ZADD k 1 a 2 b"], &["BZPOPMAX o k 1"]),
    (&["ZADD k 1 a 2 b"], &["BZMPOP 1 1 k MIN COUNT 2"]),
    (&["ZADD k 1 a 2 b 3 c"], &["ZREMRANGEBYSCORE k 1 2"]),
    (&["ZADD k 1 a 2 b 3 c"], &["ZREMRANGEBYRANK k 0 0"]),
    (&["ZADD k 0 a 0 b 0 c"], &["ZREMRANGEBYLEX k [a [b"]),
    (&["ZADD k 1 a", "ZADD o 2 b"], &["ZUNIONSTORE d 2 k o WEIGHTS 2 3"]),
    (&["ZADD k 1 a", "ZADD o 2 a"], &["ZINTERSTORE d 2 k o"]),
    (&["ZADD k 1 a", "ZADD o 2 b", "SET d x"], &["ZDIFFSTORE d 2 k o"]),
    (&["ZADD k 1 a 2 b"], &["ZRANGESTORE d k 0 -1"]),
    (&["RPUSH k 3 1 2"], &["SORT k STORE d"]),
    (&["GEOADD k 13 38 a 15 37 b"], &["GEOADD k 14 37 a"]),
    (
        &["GEOADD k 13 38 a 15 37 b"],
        &["GEOSEARCHSTORE d k FROMLONLAT 15 37 BYRADIUS 200 km"],
    ),
    (&["GEOADD k 13 38 a 15 37 b"], &["GEORADIUS k 15 37 200 km STORE d"]),
    (
        &["GEOADD k 13 38 a 15 37 b"],
        &["GEORADIUSBYMEMBER k a 500 km STOREDIST d"],
    ),
    (&["PFADD k a"], &["PFADD k b c"]),
    (&["PFADD k a", "PFADD o b"], &["PFMERGE d k o"]),
    (&["PFADD k a b", "PFADD k c"], &["PFCOUNT k"]),
    (&["XADD k 1-1 f 1"], &["XADD k 2-1 f 2"]),
    (&["XADD k 1-1 f 1", "XADD k 2-1 f 2"], &["XDEL k 1-1"]),
    (&["XADD k 1-1 f 1", "XADD k 2-1 f 2"], &["XTRIM k MAXLEN 1"]),
    (
        &["XADD k 1-1 f 1"],
        &[
            "XGROUP CREATE k g 0",
            "XREADGROUP GROUP g c STREAMS k >",
            "XACK k g 1-1",
        ],
    ),
    (&[], &["XGROUP CREATE k g $ MKSTREAM"]),
    (&["XADD k 1-1 f 1"], &["XSETID k 5-5"]),
    (&["SET k old"], &["MULTI", "SET k new", "INCR o", "EXEC"]),
    (
        &["SET k old"],
        &["WATCH k", "GET k", "MULTI", "SET k new", "RPUSH o a", "EXEC"],
    ),
    (&["SET k old"], &["MULTI", "SET k new", "DISCARD"]),
    (&["SET k old", "SET o old"], &["MULTI", "FLUSHDB", "SET o new", "EXEC"]),
    (
        &["SET k old"],
        &["EVAL return{redis.call('SET',KEYS[1],ARGV[1]),redis.call('RPUSH',KEYS[2],'a')} 2 k o new"],
    ),
    (&["SET k old"], &["EVAL return{redis.call('SET','k','new')} 0"]),
    (
        &["SET k old"],
        &[
            "FCALL_MISSING k",
            "EVALSHA 0123456789012345678901234567890123456789 1 k",
            "SET k new",
        ],
    ),
    (&["SET k old", "HSET o f 1"], &["FLUSHALL"]),
    (&["SET k old", "HSET o f 1"], &["FLUSHDB ASYNC"]),
    (&["SET k old"], &["SELECT 5", "FLUSHALL", "SELECT 0"]),
    (&["SET k old"], &["SELECT 5", "FLUSHDB", "SELECT 0"]),
    (
        &["SET k old"],
        &["CLIENT NO-EVICT on", "SET k new", "CLIENT NO-EVICT off", "SET o new"],
    ),
    (
        &["SET k old"],
        &[
            "HELLO 3",
            "SUBSCRIBE c",
            "SET k new",
            "UNSUBSCRIBE c",
            "SET o new",
            "HELLO 2",
        ],
    ),
    (
        &["SET k old"],
        &["CLIENT TRACKING on", "SET k new", "CLIENT TRACKING off", "SET o new"],
    ),
];

/// The reads that are kept hot, for every key.
const PROBES: &[&str] = &[
    "GET",
    "TYPE",
    "EXISTS",
    "STRLEN",
    "GETRANGE 0 -1",
    "GETRANGE 1 2",
    "TTL",
    "PTTL",
    "PEXPIRETIME",
    "SORT_RO ALPHA",
    "HGETALL",
    "HGET f",
    "HMGET f g",
    "HLEN",
    "HKEYS",
    "HEXISTS f",
    "HSTRLEN f",
    "LRANGE 0 -1",
    "LLEN",
    "LINDEX 0",
    "LPOS b",
    "SMEMBERS",
    "SCARD",
    "SISMEMBER a",
    "SMISMEMBER a b",
    "ZRANGE 0 -1 WITHSCORES",
    "ZREVRANGE 0 0",
    "ZRANGEBYSCORE 1 2",
    "ZSCORE a",
    "ZMSCORE a b",
    "ZCARD",
    "ZCOUNT 1 9",
    "ZRANK b",
    "XRANGE - +",
    "XLEN",
    "GETBIT 0",
    "BITCOUNT",
    "BITPOS 1",
    "GEOPOS a",
    "GEODIST a b",
    "GEOSEARCH FROMLONLAT 15 37 BYRADIUS 300 km ASC",
];
const ACROSS: &[&str] = &[
    "MGET k o d",
    "MGET d k",
    "EXISTS k o d",
    "EXISTS k k",
    "MGET k",
    "OBJECT ENCODING k",
    "XREAD STREAMS k 0",
];
const NAMES: [&str; 3] = ["k", "o", "d"];

#[test]
fn own_writes_are_seen_at_once_by_every_client() {
    own_writes_are_seen_at_once(&Server::start(), 1);
}

#[test]
fn own_writes_are_seen_at_once_in_front_of_valkey() {
    if let Some(server) = Server::valkey(&[]) {
        own_writes_are_seen_at_once(&server, 1);
    }
}

fn own_writes_are_seen_at_once(server: &Server, rounds: usize) {
    let proxy = Proxy::start(server, &["--workers", "2"]);
    let mut random = fastrand::Rng::with_seed(seed());
    let mut truth = server.client();
    let mut clients = readers(&proxy);
    for _ in 0..rounds {
        let mut order: Vec<_> = CASES.iter().collect();
        random.shuffle(&mut order);
        for (setup, write) in order {
            let writer = random.usize(0..clients.len());
            prepare(&mut clients[writer], setup);
            warm(&mut clients);
            run(&mut clients[writer], write);
            let expected = probe(&mut truth);
            for (i, client) in clients.iter_mut().enumerate() {
                compare(
                    &probe(client),
                    &expected,
                    &format!("client {i} after {write:?} by client {writer} upon {setup:?}"),
                );
            }
        }
    }
}

#[test]
fn own_writes_are_seen_by_reads_of_the_same_pipeline() {
    let server = Server::start();
    let proxy = Proxy::start(&server, &["--workers", "2"]);
    let mut truth = server.client();
    let mut clients = readers(&proxy);
    // RESP2: what a subscriber or a HELLO 3 gets in between is not the point here.
    let plain = CASES
        .iter()
        .filter(|(_, write)| !write.iter().any(|w| w.starts_with("HELLO")));
    for (i, (setup, write)) in plain.enumerate() {
        let n = i % clients.len();
        prepare(&mut clients[n], setup);
        warm(&mut clients);
        let client = &mut clients[n];
        let mut bytes = Vec::new();
        push_probes(&mut bytes);
        for line in *write {
            bytes.extend(encode(&words(line)));
        }
        push_probes(&mut bytes);
        let before = probe(&mut truth);
        client.raw(&bytes);
        compare(&replies_to_probes(client), &before, &format!("ahead of {write:?}"));
        client.frames(write.len());
        let after = replies_to_probes(client);
        compare(&after, &probe(&mut truth), &format!("behind {write:?} upon {setup:?}"));
    }
}

#[test]
fn foreign_writes_are_seen_within_the_bound() {
    let server = Server::start();
    let proxy = Proxy::start(&server, &["--workers", "2"]);
    let mut truth = server.client();
    let mut foreign = server.client();
    let mut clients = readers(&proxy);
    let mut delays = Vec::new();
    for (setup, write) in CASES {
        prepare(&mut foreign, setup);
        eventually("the preparation is seen", BOUND + SLACK, || {
            let expected = probe(&mut truth);
            clients.iter_mut().all(|c| probe(c) == expected)
        });
        warm(&mut clients);
        run(&mut foreign, write);
        let acked = Instant::now();
        let expected = probe(&mut truth);
        for (i, client) in clients.iter_mut().enumerate() {
            eventually(
                &format!("client {i} sees {write:?} upon {setup:?}"),
                BOUND + SLACK,
                || probe(client) == expected,
            );
        }
        delays.push(acked.elapsed());
        for client in &mut clients {
            compare(
                &probe(client),
                &expected,
                &format!("once {write:?} was seen it stays so"),
            );
        }
    }
    delays.sort();
    let (median, most) = (delays[delays.len() / 2], delays[delays.len() - 1]);
    eprintln!(
        "seen by {} clients after {median:?} (median), {most:?} (most)",
        clients.len()
    );
    assert!(median < BOUND / 5, "pushes, not the bound, are what tells: {median:?}");
}

/// Two of each protocol, so that both workers serve some of them.
fn readers(proxy: &Proxy) -> Vec<Client> {
    vec![proxy.client(), proxy.client3(), proxy.client(), proxy.client3()]
}

fn prepare(client: &mut Client, setup: &[&str]) {
    client.cmd(&["FLUSHALL"]);
    run(client, setup);
}

/// Sends the lines one by one; every one is answered, though not always with success.
fn run(client: &mut Client, lines: &[&str]) {
    for line in lines {
        client.cmd(&words(line));
    }
}

/// Reads everything twice on every client: the second time from the cache.
fn warm(clients: &mut [Client]) {
    for _ in 0..2 {
        for client in clients.iter_mut() {
            probe(client);
        }
    }
}

fn probe(client: &mut Client) -> Vec<String> {
    let mut bytes = Vec::new();
    push_probes(&mut bytes);
    client.raw(&bytes);
    replies_to_probes(client)
}

fn push_probes(bytes: &mut Vec<u8>) {
    // RESP2 for all, whatever the client speaks: the replies are compared with each other.
    for line in lines() {
        bytes.extend(encode(&words(&line)));
    }
}

fn replies_to_probes(client: &mut Client) -> Vec<String> {
    lines().iter().map(|line| neutral(line, &client.frame())).collect()
}

fn lines() -> Vec<String> {
    let of_a_key = PROBES.iter().flat_map(|probe| {
        NAMES.iter().map(move |name| match probe.split_once(' ') {
            Some((command, rest)) => format!("{command} {name} {rest}"),
            None => format!("{probe} {name}"),
        })
    });
    of_a_key.chain(ACROSS.iter().map(|&s| s.to_owned())).collect()
}

/// The reply without what differs between the protocols, and without the time that passes.
fn neutral(line: &str, frame: &[u8]) -> String {
    let text = String::from_utf8_lossy(frame).into_owned();
    if line.starts_with("TTL") || line.starts_with("PTTL") {
        return if text.starts_with(":-") {
            text
        } else {
            "some time".to_owned()
        };
    }
    let mut out = Vec::new();
    flatten(frame, &mut out);
    out.join("|")
}

/// The leaves in order, nulls and doubles in one spelling.
fn flatten(frame: &[u8], out: &mut Vec<String>) {
    use crate::support::client::{children, payload};
    match frame.first() {
        Some(b'*') if frame.starts_with(b"*-1") => out.push("(nil)".to_owned()),
        Some(b'*' | b'%' | b'~' | b'>') => children(frame).iter().for_each(|child| flatten(child, out)),
        Some(b',') => out.push(show(&frame[1..frame.len() - 2])),
        _ => out.push(match payload(frame) {
            Some(Some(text)) => show(&text),
            Some(None) => "(nil)".to_owned(),
            None => show(frame),
        }),
    }
}

#[track_caller]
fn compare(found: &[String], expected: &[String], when: &str) {
    for ((line, found), expected) in lines().iter().zip(found).zip(expected) {
        assert_eq!(found, expected, "{line}: {when}");
    }
}
