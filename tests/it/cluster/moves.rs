//! Slots that move under load, there and back, with their keys: no client sees an error, an old value, or a lost write.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use crate::support::client::{children, encode, payload};
use crate::support::cluster::{Cluster, slot};
use crate::support::server::REDIS_8;
use crate::support::{Client, Proxy, number_from_env, show};

/// Slots that move; `NEARCACHE_TEST_SLOTS` for more.
const SLOTS: u64 = 60;
const WRITERS: usize = 4;
const READERS: usize = 4;

#[test]
fn slots_move_there_and_back_under_load() {
    let cluster = Cluster::start();
    let redirects = under_load(&cluster, &|tags| {
        for (from, to) in [(0, 1), (1, 0), (0, 2), (2, 0)] {
            for tag in tags {
                cluster.move_slot(slot(tag.as_bytes()), from, to);
            }
        }
    });
    assert!(redirects > count() as f64, "{redirects}");
}

/// Valkey 9 and Redis 8.4 move slots by themselves, with all keys at one moment, and tell nobody of keys that were not there.
#[test]
fn slots_that_valkey_moves_by_itself_are_followed_under_load() {
    if let Some(cluster) = Cluster::valkey(3, false, &[]) {
        by_itself(&cluster);
    }
}

#[test]
fn slots_that_redis_moves_by_itself_are_followed_under_load() {
    if let Some(cluster) = Cluster::newer(REDIS_8, 3, &[]) {
        by_itself(&cluster);
    }
}

fn by_itself(cluster: &Cluster) {
    under_load(cluster, &|tags| {
        for (from, to) in [(0, 1), (1, 0), (0, 2), (2, 0)] {
            for tags in tags.chunks(20) {
                let slots: Vec<u16> = tags.iter().map(|tag| slot(tag.as_bytes())).collect();
                cluster.migrate(&slots, from, to);
            }
        }
    });
}

fn count() -> usize {
    number_from_env("NEARCACHE_TEST_SLOTS").unwrap_or(SLOTS) as usize
}

/// Has clients write and read keys of slots of the first node, for as long as `moving` moves these, and looks at all of it.
/// Returns how many requests were sent elsewhere.
fn under_load(cluster: &Cluster, moving: &(dyn Fn(&[String]) + Sync)) -> f64 {
    let proxy = Proxy::before(&cluster.url(), &["--workers", "2"]);
    let count = count();
    // One name for each slot that moves, with two counters each.
    let tags: Vec<String> = (0..count).map(|nth| cluster.key(0, nth)).collect();
    let acked: Vec<AtomicU64> = tags.iter().map(|_| AtomicU64::new(0)).collect();
    let is_over = AtomicBool::new(false);
    let writes = AtomicU64::new(0);
    let mut client = proxy.client();
    for tag in &tags {
        client.expect(
            &["MSET", &format!("{{{tag}}}a"), "0", &format!("{{{tag}}}b"), "0"],
            "+OK",
        );
    }
    thread::scope(|scope| {
        for writer in 0..WRITERS {
            let (proxy, tags, acked, is_over, writes) = (&proxy, &tags, &acked, &is_over, &writes);
            scope.spawn(move || {
                let mut client = if writer % 2 == 0 {
                    proxy.client()
                } else {
                    proxy.client3()
                };
                let mut n = 0;
                while !is_over.load(Ordering::Relaxed) {
                    n += 1;
                    for (nth, tag) in tags.iter().enumerate().filter(|(nth, _)| nth % WRITERS == writer) {
                        write(&mut client, writer, tag, n);
                        acked[nth].store(n, Ordering::SeqCst);
                        writes.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        }
        for reader in 0..READERS {
            let (proxy, tags, acked, is_over) = (&proxy, &tags, &acked, &is_over);
            scope.spawn(move || {
                let mut client = if reader % 2 == 0 {
                    proxy.client()
                } else {
                    proxy.client3()
                };
                let mut seen = vec![0; tags.len()];
                while !is_over.load(Ordering::Relaxed) {
                    for (nth, tag) in tags.iter().enumerate() {
                        let least = acked[nth].load(Ordering::SeqCst).max(seen[nth]);
                        let name = format!("{{{tag}}}a");
                        let reply = match nth % 3 {
                            0 => payload(&children(&client.cmd(&["MGET", "elsewhere", &name]))[1]).expect("a string"),
                            _ => client.bulk(&["GET", &name]),
                        };
                        let reply = reply.expect("the key is there");
                        let value: u64 = String::from_utf8(reply).unwrap().parse().unwrap();
                        assert!(value >= least, "{tag}: {value} after {least} was acknowledged or seen");
                        seen[nth] = value;
                    }
                }
            });
        }
        let moving = scope.spawn(|| moving(&tags));
        let moved = moving.join();
        is_over.store(true, Ordering::Relaxed);
        moved.expect("the slots move");
    });
    for (nth, tag) in tags.iter().enumerate() {
        let last = acked[nth].load(Ordering::SeqCst).to_string();
        for name in ["a", "b"] {
            let value = cluster.client(0).bulk(&["GET", &format!("{{{tag}}}{name}")]);
            assert_eq!(value, Some(last.clone().into_bytes()), "{tag}{name}");
        }
    }
    let hits = proxy.metric("cache_hits_total", &["l1"]).unwrap_or(0.0);
    assert!(hits > 100.0, "{hits} hits: nothing could have been stale");
    let redirects = proxy.metric("nearcache_redirects_total", &[]).unwrap_or(0.0);
    eprintln!(
        "{} writes, {hits} hits, {redirects} redirections",
        writes.load(Ordering::Relaxed)
    );
    redirects
}

/// Counts both names of a tag up to `n`, in one of the ways in which clients write, and reads what it has written.
fn write(client: &mut Client, writer: usize, tag: &str, n: u64) {
    let (a, b, value) = (format!("{{{tag}}}a"), format!("{{{tag}}}b"), n.to_string());
    let bulk = format!("${}\r\n{value}\r\n", value.len());
    match (writer + n as usize) % 4 {
        0 => {
            client.expect(&["SET", &a, &value], "+OK");
            client.expect(&["SET", &b, &value], "+OK");
        }
        1 => {
            // Both pipelined, and read behind them.
            let requests = [&["INCR", &a][..], &["INCR", &b], &["GET", &a], &["GET", &b]];
            client.raw(&requests.iter().flat_map(|request| encode(request)).collect::<Vec<u8>>());
            let replies: Vec<String> = client.frames(4).iter().map(|frame| show(frame)).collect();
            let (int, bulk) = (show(format!(":{value}\r\n").as_bytes()), show(bulk.as_bytes()));
            assert_eq!(replies, [int.clone(), int, bulk.clone(), bulk]);
        }
        2 => {
            let requests = [&["MULTI"][..], &["SET", &a, &value], &["SET", &b, &value], &["EXEC"]];
            client.raw(&requests.iter().flat_map(|request| encode(request)).collect::<Vec<u8>>());
            let replies = client.frames(4);
            assert_eq!(
                show(&replies[3]),
                "*2\\r\\n+OK\\r\\n+OK\\r\\n",
                "{:?}",
                show(&replies.concat())
            );
        }
        _ => client.expect(&["MSET", &a, &value, &b, &value], "+OK"),
    }
    assert_eq!(client.bulk(&["GET", &a]), Some(value.clone().into_bytes()));
    assert_eq!(client.bulk(&["GET", &b]), Some(value.into_bytes()));
}
