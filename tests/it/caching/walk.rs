//! Every row of the command table that is cached, on real servers and in both protocol versions: a miss, then hits, all of
//! them byte for byte what the server says, until another client changes, deletes or creates the key.

use std::collections::BTreeSet;

use nearcache::command::{Cache, Table};

use super::samples::{KEPT, NEVER_KEPT, NEVER_KEPT_DATA, NEVER_KEPT_NEWER, Sample};
use super::split;
use crate::command_table::is_of;
use crate::command_table::readonly::caches;
use crate::support::client::children;
use crate::support::server::NEWER;
use crate::support::{Client, Proxy, STEP, Server, eventually, show};

#[test]
fn every_cached_command_of_redis_7_is_a_hit_until_its_key_changes() {
    walk(&Server::start(), false);
}

#[test]
fn every_cached_command_of_valkey_is_a_hit_until_its_key_changes() {
    let Some(server) = Server::valkey(&[]) else { return };
    walk(&server, true);
}

#[test]
fn every_cached_command_of_newer_servers_is_a_hit_until_its_key_changes() {
    for server in NEWER.into_iter().filter_map(|newer| Server::newer(newer, &[])) {
        walk(&server, true);
    }
}

#[test]
fn every_row_of_the_table_has_a_sample() {
    let mut missing = BTreeSet::new();
    for (name, cache) in caches(&Table::builtin()) {
        let is_sampled = match cache {
            Cache::No | Cache::Sub(_) => true,
            Cache::Never(_) => [NEVER_KEPT, NEVER_KEPT_NEWER]
                .concat()
                .iter()
                .any(|(form, _)| is_of(form, &name)),
            _ => KEPT.iter().any(|sample| is_of(sample.form, &name)),
        };
        if !is_sampled {
            missing.insert(name);
        }
    }
    assert_eq!(missing, BTreeSet::new());
}

#[test]
fn what_has_a_reason_not_to_be_cached_goes_upstream_every_time() {
    let redis = Server::start();
    forwards(&redis, NEVER_KEPT);
    let newer = NEWER.into_iter().map(|newer| Server::newer(newer, &[]));
    for server in newer.chain([Server::valkey(&[])]).flatten() {
        // An error where it has no vectors.
        server.client().cmd(&split("VADD v VALUES 2 0 1 a"));
        forwards(&server, &[NEVER_KEPT, NEVER_KEPT_NEWER].concat());
    }
}

/// A hash of thousands of fields, read field by field, beside keys that are read again and again.
#[test]
fn a_key_that_is_read_in_thousands_of_ways_keeps_its_place_small() {
    const FIELDS: usize = 5_000;
    let server = Server::start();
    let proxy = Proxy::start(&server, &["--workers", "1", "--l1", "1MiB"]);
    let (mut client, mut direct) = (proxy.client(), server.client());
    let names: Vec<String> = (0..200).map(|i| format!("hot:{i}")).collect();
    for name in &names {
        direct.expect(&["SET", name, &"x".repeat(200)], "+OK");
    }
    for field in 0..FIELDS {
        direct.send(&["HSET", "h", &format!("f{field}"), &"y".repeat(200)]);
    }
    direct.frames(FIELDS);
    let mut stats = proxy.client();
    let mut read_all = || {
        let before = fact(&mut stats, STATS, "nearcache_l1_hits");
        for name in &names {
            client.bulk(&["GET", name]);
        }
        fact(&mut stats, STATS, "nearcache_l1_hits") - before
    };
    eventually("all are hits", STEP, || read_all() == names.len() as i64);
    let mut reader = proxy.client();
    for first in (0..FIELDS).step_by(100) {
        for field in first..first + 100 {
            reader.send(&["HGET", "h", &format!("f{field}")]);
            reader.send(&["GETRANGE", &names[field % names.len()], "0", &field.to_string()]);
        }
        reader.frames(200);
    }
    let entries = fact(&mut reader, &["NEARCACHE", "EXPLAIN", "h"], "entries");
    assert!((1..=64).contains(&entries), "{entries} entries of one hash");
    let hits = read_all();
    assert!(hits + 10 >= names.len() as i64, "{hits} hits after the hash was read");
    let used = fact(&mut reader, STATS, "nearcache_l1_used_bytes");
    assert!(used <= 1 << 20, "{used} bytes used of 1 MiB");
    assert!(used >= 200 * 200 + 64 * 200, "{used} bytes are less than what is there");
}

#[track_caller]
fn walk(server: &Server, knows_newer: bool) {
    let proxy = Proxy::start(server, &[]);
    let clients = [
        (proxy.client(), server.client()),
        (proxy.client3(), server.client().hello3()),
    ];
    let mut versions = clients.map(|(near, direct)| Pair {
        near,
        direct,
        stats: proxy.client(),
    });
    let mut walked = 0;
    for (nth, sample) in KEPT.iter().enumerate() {
        for (version, pair) in versions.iter_mut().enumerate() {
            let name = split(sample.form)[0];
            let info = pair.direct.cmd(&["COMMAND", "INFO", name]);
            if sample.is_newer && (!knows_newer || children(&children(&info)[0]).is_empty()) {
                continue;
            }
            pair.walk(sample, &format!("key:{nth}:{version}"));
            walked += 1;
        }
    }
    assert!(walked >= 160, "{walked} samples");
}

/// A client of the proxy and one of its server, in the same protocol version.
struct Pair {
    near: Client,
    direct: Client,
    stats: Client,
}

impl Pair {
    fn walk(&mut self, sample: &Sample, name: &str) {
        if !sample.is_refused_if_absent {
            self.hit(sample, name);
        }
        self.all(sample.create, name);
        self.agree(sample, name, "the key was created");

        let changing = format!("{name}:changing");
        self.all(sample.create, &changing);
        if sample.first.is_empty() {
            let request = words(sample.form, &changing);
            let expected = self.direct.cmd(&request);
            let before = self.counts();
            assert_eq!(show(&self.near.cmd(&request)), show(&expected), "{}", sample.form);
            assert!(
                self.counts().misses > before.misses,
                "{}: no miss at first",
                sample.form
            );
        }
        let before = self.hit(sample, &changing);
        self.all(sample.change, &changing);
        let after = self.agree(sample, &changing, "the key was changed");
        assert_ne!(show(&before), show(&after), "{}: not a change", sample.form);

        let mortal = format!("{name}:mortal");
        self.all(sample.create, &mortal);
        self.hit(sample, &mortal);
        self.all(&["DEL k"], &mortal);
        self.agree(sample, &mortal, "the key was deleted");
    }

    /// Asks until L1 answers, which must be the second time, were it not for a machine that stops for longer than the bound.
    fn hit(&mut self, sample: &Sample, name: &str) -> Vec<u8> {
        let request = words(sample.form, name);
        let mut reply = Vec::new();
        eventually(&format!("{} is a hit", sample.form), STEP, || {
            for first in sample.first {
                self.near.cmd(&words(first, name));
            }
            let expected = self.direct.cmd(&request);
            let before = self.counts();
            reply = self.near.cmd(&request);
            let after = self.counts();
            let is_same = reply == expected;
            assert!(
                is_same || is_of(sample.form, "TTL"),
                "{}: {}, not {}",
                sample.form,
                show(&reply),
                show(&expected)
            );
            is_same && after.hits > before.hits && after.misses == before.misses
        });
        reply
    }

    /// The reply once it is the server's again.
    fn agree(&mut self, sample: &Sample, name: &str, after: &str) -> Vec<u8> {
        let request = words(sample.form, name);
        let mut reply = Vec::new();
        eventually(&format!("{}: {after}", sample.form), STEP, || {
            reply = self.near.cmd(&request);
            reply == self.direct.cmd(&request)
        });
        reply
    }

    fn counts(&mut self) -> Counts {
        Counts {
            hits: fact(&mut self.stats, STATS, "nearcache_l1_hits"),
            misses: fact(&mut self.stats, STATS, "nearcache_l1_misses"),
        }
    }

    fn all(&mut self, lines: &[&str], name: &str) {
        for line in lines {
            let reply = self.direct.cmd(&words(line, name));
            assert_ne!(reply.first(), Some(&b'-'), "{line}: {}", show(&reply));
        }
    }
}

/// What the proxy has counted, of all workers.
struct Counts {
    hits: i64,
    misses: i64,
}

const STATS: &[&str] = &["NEARCACHE", "STATS"];

/// The number beside `name` in a reply of pairs.
#[track_caller]
fn fact(client: &mut Client, request: &[&str], name: &str) -> i64 {
    let pairs = children(&client.cmd(request));
    let texts: Vec<_> = pairs
        .iter()
        .filter_map(|frame| nearcache::resp::reply::text(frame))
        .collect();
    let at = texts.iter().step_by(2).position(|text| *text == name.as_bytes());
    let value = texts[2 * at.unwrap_or_else(|| panic!("{request:?} says {name}")) + 1];
    String::from_utf8_lossy(value).parse().expect("a number")
}

#[track_caller]
fn forwards(server: &Server, samples: &[(&str, &str)]) {
    const TIMES: u64 = 5;
    let proxy = Proxy::start(server, &["--workers", "1"]);
    let mut direct = server.client();
    for line in NEVER_KEPT_DATA {
        let reply = direct.cmd(&split(line));
        assert_ne!(reply.first(), Some(&b'-'), "{line}: {}", show(&reply));
    }
    for (form, command) in samples {
        let info = direct.cmd(&["COMMAND", "INFO", split(form)[0]]);
        if children(&children(&info)[0]).is_empty() {
            continue;
        }
        let mut client = proxy.client();
        server.forget_calls();
        for _ in 0..TIMES {
            client.cmd(&split(form));
        }
        assert_eq!(server.calls(command), TIMES, "{form}");
    }
}

fn words(form: &str, name: &str) -> Vec<String> {
    let other = format!("{name}:other");
    let word = |word| match word {
        "k" => name.to_owned(),
        "j" => other.clone(),
        word => word.to_owned(),
    };
    split(form).into_iter().map(word).collect()
}
