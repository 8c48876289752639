//! Keys that end by their time, set and read in every way there is. What is read before the end may be either, so it is
//! only read, to have it cached; what is read a little after must be the same on both sides: nothing.

use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fastrand::Rng;

use super::compare;
use super::grammar::Command;
use crate::support::client::encode;
use crate::support::{Client, Proxy, Server, number_from_env, seed, show, show_args};

/// What the servers' clock and ours may be apart, and how long a busy machine may take to notice.
const MARGIN: Duration = Duration::from_millis(4);

/// `K` is a key, `P` its time to live in milliseconds, `A` the moment of its end, in milliseconds too.
const BY_NAME: &[&[&str]] = &[
    &["SET K v PX P"],
    &["PSETEX K P v"],
    &["SET K v PXAT A"],
    &["SET K v", "PEXPIRE K P"],
    &["SET K v", "PEXPIREAT K A"],
    &["SET K v", "GETEX K PX P"],
    &["SET K v", "GETEX K PXAT A"],
    &["SET K old PX 100000", "SET K v PX P"],
    &["SET K v PX P", "SET K w KEEPTTL"],
    &["SET K v PX P", "APPEND K w"],
    &["SET K 1 PX P", "INCR K"],
    &["SET K v PX 100000", "PEXPIRE K P LT"],
    &["SET K v", "PEXPIRE K P NX"],
    &["SET other v PX P", "RENAME other K"],
    &["SET other v PX P", "COPY other K REPLACE"],
    &["MULTI", "SET K v", "PEXPIRE K P", "EXEC"],
    &["EVAL return(redis.call('set',KEYS[1],'v','px',ARGV[1])) 1 K P"],
    &["RPUSH K a b", "PEXPIRE K P"],
    &["HSET K f v", "PEXPIRE K P"],
    &["SADD K m", "PEXPIRE K P"],
    &["ZADD K 1 m", "PEXPIREAT K A"],
    &["XADD K 1-1 f v", "PEXPIRE K P"],
    &["PFADD K m", "PEXPIRE K P"],
    &["GEOADD K 1 1 m", "PEXPIRE K P"],
    &["SET K v PX P", "PERSIST K", "PEXPIRE K P"],
    // These do not end.
    &["SET K v PX P", "PERSIST K"],
    &["SET K v PX P", "SET K w"],
    &["SET K v PX P", "PEXPIRE K 100000"],
    &["SET K v PX P", "GETEX K PERSIST"],
    &["SET K v PX P", "GETSET K w"],
    &["SET K v PX 100000", "PEXPIRE K P GT"],
    &["SET K v PX 100000", "PEXPIRE K P NX"],
];

const READS: &[&str] = &[
    "GET K",
    "MGET K surely-missing K",
    "EXISTS K",
    "STRLEN K",
    "GETRANGE K 0 1",
    "TYPE K",
    "TTL K",
    "PTTL K",
    "HGETALL K",
    "HGET K f",
    "LRANGE K 0 -1",
    "LLEN K",
    "SMEMBERS K",
    "SISMEMBER K m",
    "ZRANGE K 0 -1 WITHSCORES",
    "ZSCORE K m",
    "XLEN K",
    "XRANGE K - +",
    "GEOPOS K m",
    "BITCOUNT K",
    "EXPIRETIME K",
    "TOUCH K",
    "OBJECT ENCODING K",
    "DUMP K",
];

#[test]
fn keys_end_at_the_same_time() {
    let (direct, behind) = (Server::start(), Server::start());
    let proxy = Proxy::start(&behind, &[]);
    let mut random = Rng::with_seed(seed());
    let rounds = number_from_env("NEARCACHE_DIFF_OPS").unwrap_or(3_000) / 100;
    for round in 0..rounds {
        let mut direct = direct.client();
        let mut through = match round % 2 {
            0 => proxy.client(),
            _ => {
                direct = direct.hello3();
                proxy.client3()
            }
        };
        let ttl = random.u64(1..25);
        let keys: Vec<(String, &[&str])> = BY_NAME
            .iter()
            .enumerate()
            .map(|(i, ways)| (format!("{round}:{i}"), *ways))
            .collect();
        let at = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .expect("after 1970")
            .as_millis() as u64
            + ttl;
        let sets: Vec<Command> = keys
            .iter()
            .flat_map(|(key, ways)| ways.iter().map(|way| fill(way, key, ttl, at)))
            .collect();
        for client in [&mut direct, &mut through] {
            send(client, &sets);
            client.frames(sets.len());
        }
        // Now and then they are read while they live, by the same reads that come after.
        let mut reads: Vec<Command> = Vec::new();
        for (key, _) in &keys {
            for _ in 0..3 {
                reads.push(fill(READS[random.usize(0..READS.len())], key, 0, 0));
            }
        }
        random.shuffle(&mut reads);
        if random.u8(0..4) > 0 {
            for client in [&mut direct, &mut through] {
                send(client, &reads);
                client.frames(reads.len());
            }
        }
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .expect("after 1970")
            .as_millis() as u64;
        thread::sleep(Duration::from_millis((at + ttl).saturating_sub(now)) + MARGIN);
        send(&mut direct, &reads);
        let expected = direct.frames(reads.len());
        send(&mut through, &reads);
        for (read, expected) in reads.iter().zip(expected) {
            let found = through.frame();
            let key = String::from_utf8_lossy(&read[1]).into_owned();
            assert!(
                compare::is_same(read, &expected, &found),
                "{} after {ttl} ms, set by {:?}\nserver: {}\nproxy:  {}",
                show_args(read),
                keys.iter().find(|(k, _)| *k == key).map(|(_, ways)| ways),
                show(&expected),
                show(&found)
            );
        }
    }
}

fn send(client: &mut Client, commands: &[Command]) {
    let bytes: Vec<u8> = commands.iter().flat_map(|c| encode(c)).collect();
    client.raw(&bytes);
}

fn fill(text: &str, key: &str, ttl: u64, at: u64) -> Command {
    text.split(' ')
        .map(|word| match word {
            "K" => key.as_bytes().to_vec(),
            "P" => ttl.to_string().into_bytes(),
            "A" => at.to_string().into_bytes(),
            "other" => format!("other:{key}").into_bytes(),
            word => word.as_bytes().to_vec(),
        })
        .collect()
}
