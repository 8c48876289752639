//! The tier on the disk, from outside: what L1 cannot hold is answered from there, truly, and outlives the process.

mod full_disk;
mod keys;
mod revalidated;
mod several;

use std::fs;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use crate::support::client::encode;
use crate::support::{Client, Proxy, STEP, Server, eventually};

/// An L1 that holds a few hundred of the values.
fn proxy(server: &Server, dir: &Path, toml: &str) -> Proxy {
    let path = dir.display();
    let toml = format!(
        "[cache]\nl1 = \"1MiB\"\nmax_value = \"64KiB\"\nshards = 1\n{toml}\n[l3]\npath = \"{path}\"\nsize = \"64MiB\"\nadmission = \"all\"\n"
    );
    Proxy::with_config(&server.url(), &toml, &["--workers", "2"])
}

/// Most are so short that a worker reads them itself if they are in the page cache, some are not.
fn value(i: usize, version: usize) -> String {
    let length = 1000 + i % 50 + if i % 32 == 7 { 8 << 10 } else { 0 };
    format!("{i}:{version}:{}", "x".repeat(length))
}

const KEYS: usize = 3000;

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

fn l3(proxy: &Proxy, name: &str) -> f64 {
    proxy.metric(&format!("nearcache_l3_{name}"), &[]).unwrap()
}

/// Everything that was evicted has been dealt with.
fn settled(proxy: &Proxy) {
    let mut before = -1.0;
    eventually("the queue of L3 is empty", STEP, || {
        let now = l3(proxy, "entries");
        let is_settled = l3(proxy, "queued_bytes") == 0.0 && now == before;
        before = now;
        thread::sleep(Duration::from_millis(30));
        is_settled
    });
}

/// The next process will know that what has been read until now was true: the file that tells it is written again and again,
/// and what it tells is a little older than the file.
fn vouched(dir: &Path) {
    let written = || fs::metadata(dir.join("vouched")).and_then(|file| file.modified()).ok();
    for _ in 0..2 {
        let before = written();
        eventually("until when links vouch is written", STEP, || written() != before);
    }
}

/// What an earlier process left has been read.
fn recovered(proxy: &Proxy) {
    eventually("L3 is read", STEP, || {
        proxy.metric("nearcache_l3_state", &["state=\"working\""]) == Some(1.0)
    });
}

#[test]
fn what_l1_cannot_hold_is_answered_from_the_disk() {
    let server = Server::start();
    let dir = tempfile::tempdir().unwrap();
    let proxy = proxy(&server, &dir.path().join("l3"), "");
    set_all(&server, 1);
    let mut client = proxy.client();
    read_all(&mut client, 1);
    settled(&proxy);
    assert!(l3(&proxy, "entries") > KEYS as f64 * 0.6, "{}", l3(&proxy, "entries"));
    server.forget_calls();
    read_all(&mut client, 1);
    let reads = server.calls("get");
    assert!(reads < KEYS as u64 / 10, "{reads} reads of {KEYS} went to the server");
    let hits = proxy.metric("cache_hits_total", &["cache_layer=\"l3\""]).unwrap();
    assert!(hits > KEYS as f64 * 0.5, "{hits}");
    let stats = client.text(&["NEARCACHE", "STATS"]);
    assert!(
        stats.contains("nearcache_l3_state") && stats.contains("working"),
        "{stats}"
    );
    let explained = (0..KEYS)
        .map(|i| client.text(&["NEARCACHE", "EXPLAIN", &format!("k{i}")]))
        .find(|text| text.contains("l3.entry.0"))
        .unwrap();
    assert!(explained.contains("vouched for by link"), "{explained}");
}

#[test]
fn other_reads_and_both_versions_of_the_protocol_are_answered_from_the_disk() {
    let server = Server::start();
    let dir = tempfile::tempdir().unwrap();
    let proxy = proxy(&server, dir.path(), "");
    let mut direct = server.client();
    let long = "y".repeat(30_000);
    direct.expect(&["SET", "large", &long], "+OK");
    direct.expect(&["HSET", "hash", "f", "1", "g", "2"], ":2");
    direct.expect(&["SET", "fleeting", "v", "PX", "100000"], "+OK");
    set_all(&server, 1);
    let (mut two, mut three) = (proxy.client(), proxy.client3());
    let ask = |client: &mut Client| {
        [
            client.cmd(&["GET", "large"]),
            client.cmd(&["HGETALL", "hash"]),
            client.cmd(&["HGET", "hash", "g"]),
            client.cmd(&["GET", "fleeting"]),
            client.cmd(&["GET", "missing"]),
            client.cmd(&["HGETALL", "missing"]),
        ]
    };
    let expected = (ask(&mut server.client()), ask(&mut server.client().hello3()));
    assert_eq!((ask(&mut two), ask(&mut three)), expected);
    read_all(&mut two, 1);
    settled(&proxy);
    for _ in 0..3 {
        server.forget_calls();
        assert_eq!(ask(&mut two), expected.0);
        assert_eq!(
            server.calls("hgetall") + server.calls("hget"),
            0,
            "answered from the disk"
        );
        assert_eq!(ask(&mut three), expected.1);
        let ttl = two.int(&["PTTL", "fleeting"]);
        assert!((1..=100_000).contains(&ttl), "{ttl}");
        read_all(&mut two, 1);
        settled(&proxy);
        server.forget_calls();
        assert_eq!(ask(&mut three), expected.1);
        assert_eq!(
            server.calls("hgetall") + server.calls("hget"),
            0,
            "answered from the disk"
        );
        read_all(&mut two, 1);
        settled(&proxy);
    }
}

#[test]
fn writes_of_others_and_own_ones_are_seen() {
    let server = Server::start();
    let dir = tempfile::tempdir().unwrap();
    let proxy = proxy(&server, dir.path(), "");
    set_all(&server, 1);
    let mut client = proxy.client();
    read_all(&mut client, 1);
    settled(&proxy);
    let voids = l3(&proxy, "voids_total");
    set_all(&server, 2);
    eventually("the pushes have come", STEP, || {
        l3(&proxy, "voids_total") - voids > KEYS as f64 * 0.5
    });
    // The last push of a write that was acknowledged may still be on its way.
    eventually("the last write is seen", STEP, || {
        client.bulk(&["GET", &format!("k{}", KEYS - 1)]) == Some(value(KEYS - 1, 2).into_bytes())
    });
    read_all(&mut client, 2);
    settled(&proxy);
    for i in 0..KEYS {
        client.expect(&["SET", &format!("k{i}"), &value(i, 3)], "+OK");
        assert_eq!(client.bulk(&["GET", &format!("k{i}")]), Some(value(i, 3).into_bytes()));
    }
    read_all(&mut client, 3);
    settled(&proxy);
    assert!(l3(&proxy, "entries") > 0.0);
    // Own flushes at once, others' by their push.
    client.expect(&["FLUSHALL"], "+OK");
    assert_eq!(l3(&proxy, "entries"), 0.0);
    for i in (0..KEYS).step_by(50) {
        assert_eq!(client.bulk(&["GET", &format!("k{i}")]), None);
    }
    assert!(client.int(&["NEARCACHE", "INVALIDATE", "k0"]) >= 1);
}

#[test]
fn pipelined_requests_on_a_key_keep_their_order_while_the_disk_is_asked() {
    let server = Server::start();
    let dir = tempfile::tempdir().unwrap();
    let proxy = proxy(&server, dir.path(), "");
    set_all(&server, 1);
    let mut clients: Vec<Client> = (0..4).map(|_| proxy.client()).collect();
    read_all(&mut clients[0], 1);
    settled(&proxy);
    let before = proxy.metric("cache_hits_total", &["cache_layer=\"l3\""]).unwrap();
    for i in 0..KEYS {
        let key = format!("k{i}");
        let writer = i % 4;
        for client in &mut clients {
            client.send(&["GET", &key]);
        }
        let new = value(i, 2);
        let client = &mut clients[writer];
        client.send(&["SET", &key, &new]);
        client.send(&["GET", &key]);
        client.send(&["STRLEN", &key]);
        for (c, client) in clients.iter_mut().enumerate() {
            let seen = client.frame();
            let old = value(i, 1);
            let is_old = seen == format!("${}\r\n{old}\r\n", old.len()).into_bytes();
            let is_new = seen == format!("${}\r\n{new}\r\n", new.len()).into_bytes();
            assert!(is_old || (is_new && c != writer), "client {c}, {key}");
        }
        let client = &mut clients[writer];
        assert_eq!(client.frame(), b"+OK\r\n");
        assert_eq!(
            client.frame(),
            format!("${}\r\n{new}\r\n", new.len()).into_bytes(),
            "{key}"
        );
        assert_eq!(client.frame(), format!(":{}\r\n", new.len()).into_bytes(), "{key}");
    }
    let hits = proxy.metric("cache_hits_total", &["cache_layer=\"l3\""]).unwrap() - before;
    assert!(hits > KEYS as f64 * 0.3, "{hits}");
}

#[test]
fn a_restart_reads_what_was_there_and_shows_it_only_where_age_alone_counts() {
    let server = Server::start();
    let dir = tempfile::tempdir().unwrap();
    set_all(&server, 1);
    {
        let mut proxy = proxy(&server, dir.path(), "");
        read_all(&mut proxy.client(), 1);
        settled(&proxy);
        proxy.terminate();
        assert!(proxy.wait(STEP).unwrap().success());
    }
    set_all(&server, 2);
    let entries = {
        let proxy = proxy(&server, dir.path(), "");
        eventually("L3 is read", STEP, || l3(&proxy, "entries") > KEYS as f64 * 0.6);
        assert_eq!(
            proxy.metric("nearcache_l3_faults_total", &["reason=\"repair\""]),
            Some(0.0)
        );
        let mut client = proxy.client();
        for i in 0..20 {
            assert_eq!(client.bulk(&["GET", &format!("k{i}")]), Some(value(i, 2).into_bytes()));
        }
        settled(&proxy);
        let entries = l3(&proxy, "entries");
        proxy.kill();
        entries
    };
    // Killed: what was read is on its way to nowhere, and what it replaced must not come back.
    assert!(entries < KEYS as f64);
    let proxy = proxy(&server, dir.path(), "consistency = \"eventual\"\nmax_age = \"1h\"\n");
    recovered(&proxy);
    let mut client = proxy.client();
    server.forget_calls();
    let (mut old, mut new) = (0, 0);
    for i in 0..KEYS {
        let read = client.bulk(&["GET", &format!("k{i}")]);
        if read == Some(value(i, 1).into_bytes()) {
            assert!(i >= 20, "k{i} was replaced");
            old += 1;
        } else {
            assert_eq!(read, Some(value(i, 2).into_bytes()), "k{i}");
            new += 1;
        }
    }
    assert!(old > KEYS / 2 && new >= 20, "{old} {new}");
}

#[test]
fn kill_9_under_load_many_times_loses_no_truth() {
    let server = Server::start();
    let dir = tempfile::tempdir().unwrap();
    set_all(&server, 1);
    for round in 2..22 {
        let proxy = proxy(&server, dir.path(), "");
        let mut client = proxy.client();
        let mut random = fastrand::Rng::with_seed(round as u64);
        // Long enough that something is evicted and written, of another length each time.
        for _ in 0..800 + round * 20 {
            let i = random.usize(..KEYS);
            let key = format!("k{i}");
            if random.u8(..10) == 0 {
                client.expect(&["SET", &key, &value(i, round)], "+OK");
            }
            let seen = client.bulk(&["GET", &key]).unwrap();
            let direct = server.client().bulk(&["GET", &key]).unwrap();
            assert!(seen == direct, "{key} is {} and not {}", seen.len(), direct.len());
        }
        assert_eq!(
            proxy.metric("nearcache_l3_faults_total", &["reason=\"damaged_record\""]),
            Some(0.0)
        );
        proxy.kill();
    }
    let checked = Command::new(env!("CARGO_BIN_EXE_nearcache"))
        .arg("l3-check")
        .arg(dir.path())
        .output()
        .unwrap();
    let report = String::from_utf8_lossy(&checked.stdout).into_owned();
    assert!(checked.status.success() && report.contains("damage: none"), "{report}");
    // What earlier lives left is only shown where age alone decides; of a value that was never that key's there may be none.
    let proxy = proxy(&server, dir.path(), "consistency = \"eventual\"\nmax_age = \"1h\"\n");
    let mut client = proxy.client();
    recovered(&proxy);
    for i in 0..KEYS {
        let seen = client.text(&["GET", &format!("k{i}")]);
        let is_own = (1..22).any(|round| seen.contains(&format!("\r\n{}\r\n", value(i, round))));
        assert!(is_own, "k{i} is {}", &seen[..seen.len().min(40)]);
    }
    let hits = proxy.metric("cache_hits_total", &["cache_layer=\"l3\""]).unwrap();
    // How many depends on how much the disk took in each life.
    assert!(hits > 20.0, "{hits} answers of the disk");
}

#[test]
fn what_was_overwritten_before_a_kill_9_does_not_come_back_where_age_alone_counts() {
    let server = Server::start();
    let dir = tempfile::tempdir().unwrap();
    set_all(&server, 1);
    let mut versions = [1; KEYS];
    let mut random = fastrand::Rng::with_seed(1);
    let (mut written, mut unsure): (Vec<usize>, Vec<usize>) = Default::default();
    let mut below = 0.0;
    for round in 0..12 {
        let proxy = proxy(&server, dir.path(), "consistency = \"eventual\"\nmax_age = \"1h\"\n");
        let (mut client, mut other) = (proxy.client(), proxy.client3());
        recovered(&proxy);
        // Of these nobody knows whether they were executed.
        for i in unsure.drain(..) {
            versions[i] += 1;
            client.expect(&["SET", &format!("k{i}"), &value(i, versions[i])], "+OK");
        }
        // What the last life wrote last, of which nothing older may be left, then what fills the disk.
        for i in written.drain(..).chain((0..1500).map(|_| random.usize(..KEYS))) {
            let seen = client.bulk(&["GET", &format!("k{i}")]);
            let is_newest = seen == Some(value(i, versions[i]).into_bytes());
            assert!(is_newest, "round {round}: k{i} is not version {}", versions[i]);
        }
        if round == 0 {
            settled(&proxy);
        }
        if let Some(hits) = proxy.metric("cache_hits_total", &["cache_layer=\"l3\""]) {
            below += hits;
        }
        // In every form in which something can be acknowledged; the last ones in one go, amidst which the process is killed.
        for n in 0..40 {
            let i = random.usize(..KEYS);
            versions[i] += 1;
            let (key, value) = (format!("k{i}"), value(i, versions[i]));
            if n % 2 == 0 {
                other.expect(&["MULTI"], "+OK");
                other.expect(&["SET", &key, &value], "+QUEUED");
                other.expect(&["EXEC"], "*1\r\n+OK");
            } else {
                let script = "return redis.call('SET', KEYS[1], ARGV[1])";
                other.expect(&["EVAL", script, "1", &key, &value], "+OK");
            }
            written.push(i);
        }
        let mut burst: Vec<usize> = (0..KEYS).collect();
        random.shuffle(&mut burst);
        burst.truncate(400);
        let requests = burst.iter().flat_map(|i| {
            versions[*i] += 1;
            encode(&["SET", &format!("k{i}"), &value(*i, versions[*i])])
        });
        let requests: Vec<u8> = requests.collect();
        let mut sender = client.second_handle();
        let sender = thread::spawn(move || drop(sender.try_raw(&requests)));
        let mut told = random.usize(1..350);
        client.frames(told);
        // What it has answered before that may still be on its way.
        proxy.kill();
        while client.try_frame(STEP).is_ok() {
            told += 1;
        }
        sender.join().unwrap();
        unsure = burst.split_off(told);
        written.extend(burst);
    }
    assert!(below > 2000.0, "the disk answered {below} reads");
}

#[test]
fn a_flush_before_a_kill_9_leaves_nothing() {
    let server = Server::start();
    let dir = tempfile::tempdir().unwrap();
    for round in 0..4 {
        let proxy = proxy(&server, dir.path(), "consistency = \"eventual\"\nmax_age = \"1h\"\n");
        let mut client = proxy.client();
        for i in 0..50 {
            assert_eq!(client.bulk(&["GET", &format!("k{i}")]), None, "round {round}");
        }
        client.expect(&["FLUSHALL"], "+OK");
        set_all(&server, 1);
        read_all(&mut client, 1);
        settled(&proxy);
        assert!(l3(&proxy, "entries") > 500.0);
        let flush: &[&str] = match round % 2 {
            0 => &["FLUSHALL"],
            _ => &["EVAL", "return redis.call('FLUSHALL')", "0"],
        };
        client.expect(flush, "+OK");
        proxy.kill();
    }
}

/// Whoever writes on and on is always owed something newer; the disk is no slower for that.
#[test]
fn a_client_that_never_stops_writing_does_not_make_the_disk_look_slow() {
    let server = Server::start();
    let dir = tempfile::tempdir().unwrap();
    let proxy = proxy(&server, dir.path(), "");
    let mut client = proxy.client();
    set_all(&server, 1);
    read_all(&mut client, 1);
    settled(&proxy);
    let end = Instant::now() + Duration::from_millis(2500);
    let mut sender = client.second_handle();
    let sender = thread::spawn(move || {
        let requests = encode(&["FLUSHALL"]).repeat(100);
        while Instant::now() < end && sender.try_raw(&requests).is_ok() {}
    });
    let mut other = proxy.client();
    while Instant::now() < end {
        client.frames(1);
        assert!(dir.path().join("complete").exists(), "{}", proxy.log());
        let stats = other.text(&["NEARCACHE", "STATS"]);
        assert!(!stats.contains("l3_trouble"), "{stats}");
    }
    drop(proxy);
    sender.join().unwrap();
}

#[test]
fn the_disk_can_be_checked_while_it_is_used() {
    let server = Server::start();
    let dir = tempfile::tempdir().unwrap();
    let without = Proxy::start(&server, &[]);
    let refused = without.client().text(&["NEARCACHE", "L3", "CHECK"]);
    assert!(refused.starts_with("-ERR nearcache: L3: there is none"), "{refused}");
    let proxy = proxy(&server, dir.path(), "");
    set_all(&server, 1);
    let mut client = proxy.client();
    read_all(&mut client, 1);
    settled(&proxy);
    // Others are answered meanwhile, and who is checked gets his replies in order.
    let request = [encode(&["NEARCACHE", "l3", "check"]), encode(&["PING"])].concat();
    client.try_raw(&request).unwrap();
    let report = String::from_utf8(client.frame()).unwrap();
    assert_eq!(client.frame(), b"+PONG\r\n");
    let alive = format!("entries: {} alive", l3(&proxy, "entries"));
    assert!(report.contains(&alive) && report.contains("damage: none"), "{report}");
    // A bit of the first record.
    let mut segments: Vec<_> = std::fs::read_dir(dir.path())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    segments.retain(|path| path.extension().is_some_and(|end| end == "seg"));
    let first = segments.iter().min().unwrap();
    let mut bytes = std::fs::read(first).unwrap();
    bytes[200] ^= 1;
    std::fs::write(first, bytes).unwrap();
    let report = client.text(&["NEARCACHE", "L3", "CHECK"]);
    assert!(
        report.contains("damage at offset 96: the checksum does not fit"),
        "{report}"
    );
    assert!(report.contains("damage: in one place"), "{report}");
    let wrong = client.text(&["NEARCACHE", "L3"]);
    assert!(wrong.starts_with("-ERR wrong number of arguments"), "{wrong}");
}

/// Stale reads for so long.
const MOST: Duration = Duration::from_secs(6);

fn stale_toml(consistency: &str) -> String {
    format!(
        "max_stale = \"6s\"\nconsistency = \"{consistency}\"\nmax_age = \"1h\"\n[upstream]\nconnect_timeout = \"150ms\"\n"
    )
}

/// How many keys are answered for without the upstream; for the others that is told.
fn answered_without_upstream(client: &mut Client, is_right: impl Fn(usize, &[u8]) -> bool) -> usize {
    let mut answered = 0;
    for i in 0..KEYS {
        let reply = client.cmd(&["GET", &format!("k{i}")]);
        if reply.starts_with(b"$") {
            assert!(is_right(i, &reply), "k{i} is {}", String::from_utf8_lossy(&reply[..20]));
            answered += 1;
        } else {
            assert!(reply.starts_with(b"-ERR nearcache: upstream "), "k{i}");
        }
    }
    answered
}

fn bulk_of(value: &str) -> Vec<u8> {
    format!("${}\r\n{value}\r\n", value.len()).into_bytes()
}

#[test]
fn while_the_upstream_is_away_the_disk_answers_for_as_long_as_stale_entries_may_be_shown() {
    let mut server = Server::start();
    let dir = tempfile::tempdir().unwrap();
    let proxy = proxy(&server, dir.path(), &stale_toml("coherent"));
    set_all(&server, 1);
    server.client().expect(&["HSET", "hash", "f", "1"], ":1");
    let mut client = proxy.client();
    let hash = client.cmd(&["HGETALL", "hash"]);
    read_all(&mut client, 1);
    for i in 0..KEYS / 10 {
        client.expect(&["SET", &format!("k{i}"), &value(i, 2)], "+OK");
    }
    settled(&proxy);
    server.kill();
    let killed = Instant::now();
    eventually("it is away", STEP, || {
        client.cmd(&["SET", "other", "x"]).starts_with(b"-")
    });
    let answered = answered_without_upstream(&mut client, |i, reply| i >= KEYS / 10 && reply == bulk_of(&value(i, 1)));
    assert!(killed.elapsed() < MOST, "this machine is too slow");
    assert!(answered > KEYS / 2, "{answered} answered");
    assert_eq!(client.cmd(&["HGETALL", "hash"]), hash);
    let explained = (KEYS / 10..KEYS)
        .map(|i| client.text(&["NEARCACHE", "EXPLAIN", &format!("k{i}")]))
        .find(|text| text.contains("l3.entry.0"))
        .unwrap();
    assert!(
        explained.contains("stale hit (the upstream cannot be asked; for "),
        "{explained}"
    );
    assert!(
        l3(&proxy, "stale_total") > KEYS as f64 * 0.3,
        "{}",
        l3(&proxy, "stale_total")
    );
    // Pipelined with what must not be overtaken.
    let last = format!("k{}", KEYS / 2);
    for _ in 0..5 {
        client.send(&["GET", &last]);
    }
    client.send(&["SET", &last, "new"]);
    client.send(&["GET", &last]);
    let replies = client.frames(7);
    assert!(replies[..5].iter().all(|reply| *reply == bulk_of(&value(KEYS / 2, 1))));
    assert!(replies[5].starts_with(b"-ERR nearcache: upstream "));
    eventually("after max_stale it is an error", MOST + STEP, || {
        client.cmd(&["GET", "k2000"]).starts_with(b"-")
    });
    assert_eq!(answered_without_upstream(&mut client, |_, _| false), 0);
    server.restart();
    eventually("it is there again", STEP, || {
        client.cmd(&["SET", "k2000", "new"]) == b"+OK\r\n"
    });
    client.expect(&["GET", "k2000"], "$3\r\nnew");
    assert_eq!(client.bulk(&["GET", "k2001"]), None);
}

#[test]
fn a_proxy_that_starts_without_its_upstream_answers_from_the_disk_alone() {
    for (ends_by_kill, consistency) in [(true, "coherent"), (false, "coherent"), (true, "eventual")] {
        let mut server = Server::start();
        let dir = tempfile::tempdir().unwrap();
        let toml = stale_toml(consistency).replace("6s", "60s");
        let mut first = proxy(&server, dir.path(), &toml);
        set_all(&server, 1);
        let mut client = first.client();
        read_all(&mut client, 1);
        settled(&first);
        vouched(dir.path());
        for i in 0..KEYS / 10 {
            client.expect(&["SET", &format!("k{i}"), &value(i, 2)], "+OK");
        }
        server.kill();
        if ends_by_kill {
            first.kill();
        } else {
            first.terminate();
            assert!(first.wait(STEP).unwrap().success());
        }
        let second = proxy(&server, dir.path(), &toml);
        recovered(&second);
        let mut client = second.client();
        let answered =
            answered_without_upstream(&mut client, |i, reply| i >= KEYS / 10 && reply == bulk_of(&value(i, 1)));
        assert!(answered > KEYS / 3, "{consistency}: {answered} answered");
        let stale = l3(&second, "stale_total");
        assert_eq!(stale, answered as f64, "{consistency}");
        let (status, health) = second.http("/health");
        assert!(
            status == 200 && health.contains("degraded"),
            "{consistency}: {status} {health}"
        );
        assert!(client.text(&["GET", "never"]).starts_with("-ERR nearcache: upstream "));
        drop(second);
        // Not where every read must be as new as the upstream's, nor where nobody has allowed it.
        for refused in ["consistency = \"strong\"\n", "consistency = \"coherent\"\n"] {
            let third = proxy(&server, dir.path(), refused);
            assert_eq!(
                answered_without_upstream(&mut third.client(), |_, _| false),
                0,
                "{refused}"
            );
        }
        // And what was read then is not shown to anybody who can have better.
        server.restart();
        let fourth = proxy(&server, dir.path(), &stale_toml("coherent"));
        recovered(&fourth);
        assert_eq!(fourth.client().bulk(&["GET", "k2999"]), None);
    }
}

#[test]
fn a_second_process_and_a_bad_directory_are_refused_in_words() {
    let server = Server::start();
    let dir = tempfile::tempdir().unwrap();
    let _first = proxy(&server, dir.path(), "");
    let path = dir.path().display().to_string();
    let error = Proxy::try_start(&server.url(), "", &["--l3", &path, "--l3-size", "64MiB"])
        .err()
        .unwrap();
    assert!(
        error.contains("in use by another process") && error.contains("l3.path"),
        "{error}"
    );
    let file = dir.path().join("file");
    std::fs::write(&file, "").unwrap();
    let error = Proxy::try_start(&server.url(), "", &["--l3", file.to_str().unwrap()])
        .err()
        .unwrap();
    assert!(error.contains("l3.path"), "{error}");
    let other = tempfile::tempdir().unwrap();
    let mut header = b"NCL3SEG\n\x09\0\0\0".to_vec();
    header.resize(64, 0);
    std::fs::write(other.path().join("0000000000000001.seg"), header).unwrap();
    let error = Proxy::try_start(&server.url(), "", &["--l3", other.path().to_str().unwrap()])
        .err()
        .unwrap();
    assert!(error.contains("version 9"), "{error}");
}

#[test]
fn a_directory_that_is_taken_away_is_told_of_and_costs_only_itself() {
    let server = Server::start();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("l3");
    let proxy = proxy(&server, &path, "");
    set_all(&server, 1);
    let mut client = proxy.client();
    read_all(&mut client, 1);
    settled(&proxy);
    std::fs::remove_dir_all(&path).unwrap();
    // What is open stays readable; the next segment cannot be made.
    for _ in 0..4 {
        client.expect(&["FLUSHALL"], "+OK");
        set_all(&server, 1);
        read_all(&mut client, 1);
        if proxy.metric("nearcache_l3_state", &["state=\"trouble\""]) == Some(1.0) {
            break;
        }
    }
    eventually("the trouble is told", STEP, || {
        read_all(&mut client, 1);
        proxy.metric("nearcache_l3_state", &["state=\"trouble\""]) == Some(1.0)
    });
    assert!(proxy.log().contains("L3: "), "{}", proxy.log());
    assert!(client.text(&["INFO", "nearcache"]).contains("nearcache_l3_trouble:"));
    std::fs::create_dir_all(&path).unwrap();
    eventually("it works again", Duration::from_secs(60), || {
        read_all(&mut client, 1);
        l3(&proxy, "entries") > 500.0 && proxy.metric("nearcache_l3_state", &["state=\"working\""]) == Some(1.0)
    });
}

#[test]
fn the_files_can_be_verified_and_exported_while_no_process_uses_them() {
    let server = Server::start();
    let dir = tempfile::tempdir().unwrap();
    let run = |args: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_nearcache"))
            .arg("l3-check")
            .arg(dir.path())
            .args(args)
            .output()
            .unwrap();
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        (output.status.code(), text(&output.stdout), text(&output.stderr))
    };
    {
        // Small entries go like others.
        let mut proxy = proxy(&server, dir.path(), "l1_objective = \"bytes\"\n");
        let mut direct = server.client();
        direct.expect(&["SET", "fleeting", "v", "PX", "100000000"], "+OK");
        direct.expect(&[&b"SET"[..], b"binary", b"\xff\xfe"], "+OK");
        set_all(&server, 1);
        let mut client = proxy.client();
        client.cmd(&["GET", "fleeting"]);
        client.cmd(&["GET", "binary"]);
        client.cmd(&["HGETALL", "hash"]);
        read_all(&mut client, 1);
        settled(&proxy);
        client.expect(&["SET", "k0", "new"], "+OK");
        let (code, _, said) = run(&[]);
        assert!(code == Some(2) && said.contains("in use by another process"), "{said}");
        proxy.terminate();
        assert!(proxy.wait(STEP).unwrap().success());
    }
    let (code, report, _) = run(&[]);
    assert_eq!(code, Some(0), "{report}");
    assert!(
        report.contains(": sealed, ") && report.contains("damage: none"),
        "{report}"
    );
    let (code, lines, summary) = run(&["--export"]);
    assert_eq!(code, Some(0));
    let lines: Vec<serde_json::Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(summary.contains(&format!(" {} alive", lines.len())), "{summary}");
    assert!(lines.len() > KEYS / 2);
    let of = |key: &str| lines.iter().find(|line| line["key"] == key);
    assert_eq!(of("k0"), None, "it was overwritten");
    assert_eq!(of("k1").unwrap()["value"], value(1, 1));
    assert_eq!(of("binary").unwrap()["value_hex"], "fffe");
    assert_eq!(of("fleeting").unwrap()["expires_with_key"], true);
    assert!(of("hash").unwrap()["absent"] == true && of("hash").unwrap()["variant_hex"].is_string());

    let segment = dir.path().join("0000000000000001.seg");
    let mut bytes = std::fs::read(&segment).unwrap();
    bytes[5000] ^= 1;
    std::fs::write(&segment, bytes).unwrap();
    let (code, report, _) = run(&[]);
    assert_eq!(code, Some(1));
    assert!(
        report.contains("damage at offset ") && report.contains("the checksum does not fit"),
        "{report}"
    );
    let missing = dir.path().join("missing");
    let output = Command::new(env!("CARGO_BIN_EXE_nearcache"))
        .arg("l3-check")
        .arg(missing)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
}
