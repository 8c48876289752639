//! A client that writes and reads in one breath gets exactly what it wrote, while others read and write around it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use fastrand::Rng;

use crate::support::client::encode;
use crate::support::relay::Relay;
use crate::support::{Proxy, Server, seed, show};

#[test]
fn every_reply_of_a_pipeline_shows_the_writes_ahead_of_it() {
    let server = Server::start();
    write_and_read_around(&Proxy::start(&server, &["--workers", "2"]), 1500);
}

#[test]
fn over_links_of_different_delay_too() {
    let server = Server::start();
    let relay = Relay::start(&server.socket());
    relay.stagger();
    relay.jitter(Duration::from_millis(1));
    write_and_read_around(&Proxy::before(&relay.url(), &["--workers", "3"]), 40);
}

fn write_and_read_around(proxy: &Proxy, rounds: usize) {
    let over = AtomicBool::new(false);
    let seed = seed();
    thread::scope(|scope| {
        let writers: Vec<_> = (0..3)
            .map(|i| scope.spawn(move || write_and_read(proxy, i, rounds, Rng::with_seed(seed + i))))
            .collect();
        for i in 0..3_u64 {
            let over = &over;
            scope.spawn(move || read_others(proxy, over, Rng::with_seed(seed + 10 + i)));
        }
        let verdicts: Vec<_> = writers.into_iter().map(|w| w.join()).collect();
        over.store(true, Ordering::Relaxed);
        for verdict in verdicts {
            if let Err(panic) = verdict {
                std::panic::resume_unwind(panic);
            }
        }
    });
}

#[test]
fn two_pipelines_counting_on_one_key_never_see_less_than_they_added() {
    let server = Server::start();
    let proxy = Proxy::start(&server, &["--workers", "2"]);
    const DEEP: usize = 100;
    thread::scope(|scope| {
        for i in 0..4 {
            let proxy = &proxy;
            scope.spawn(move || {
                let mut client = if i % 2 == 0 { proxy.client() } else { proxy.client3() };
                let mut bytes = Vec::new();
                for _ in 0..DEEP {
                    bytes.extend(encode(&["INCR", "n"]));
                    bytes.extend(encode(&["GET", "n"]));
                    bytes.extend(encode(&["GET", "n"]));
                    bytes.extend(encode(&["STRLEN", "n"]));
                }
                let mut last = 0;
                for _ in 0..60 {
                    client.raw(&bytes);
                    for _ in 0..DEEP {
                        let added: u64 = number(&client.frame());
                        assert!(added > last, "INCR gave {added} after {last}");
                        let first = number(&client.frame());
                        assert!(first >= added, "GET gave {first} behind INCR's {added}");
                        let second = number(&client.frame());
                        assert!(second >= first, "GET gave {second} after {first}");
                        let digits = number(&client.frame());
                        assert!(
                            digits >= second.to_string().len() as u64,
                            "STRLEN gave {digits} after {second}"
                        );
                        last = second;
                    }
                }
            });
        }
    });
    assert_eq!(
        server.client().bulk(&["GET", "n"]),
        Some((4 * 60 * DEEP).to_string().into_bytes())
    );
}

#[test]
fn a_database_is_chosen_in_the_middle_of_a_pipeline() {
    let server = Server::start();
    let proxy = Proxy::start(&server, &["--workers", "2"]);
    let mut others: Vec<_> = (0..4)
        .map(|db| {
            let mut client = proxy.client();
            client.expect(&["SELECT", &db.to_string()], "+OK");
            client
        })
        .collect();
    let mut client = proxy.client();
    for round in 0..200 {
        let mut bytes = Vec::new();
        for db in 0..4 {
            bytes.extend(encode(&["SELECT", &db.to_string()]));
            bytes.extend(encode(&["GET", "same"]));
            bytes.extend(encode(&["SET", "same", &format!("{db}-{round}")]));
            bytes.extend(encode(&["GET", "same"]));
        }
        client.raw(&bytes);
        for db in 0..4 {
            assert_eq!(client.frame(), b"+OK\r\n");
            let before = if round == 0 {
                None
            } else {
                Some(format!("{db}-{}", round - 1))
            };
            let before = before.map_or("$-1\r\n".to_owned(), |v| format!("${}\r\n{v}\r\n", v.len()));
            assert_eq!(
                show(&client.frame()),
                show(before.as_bytes()),
                "database {db}, round {round}"
            );
            assert_eq!(client.frame(), b"+OK\r\n");
            let after = format!("{db}-{round}");
            assert_eq!(
                show(&client.frame()),
                show(format!("${}\r\n{after}\r\n", after.len()).as_bytes())
            );
        }
        for (db, other) in others.iter_mut().enumerate() {
            assert_eq!(
                other.bulk(&["GET", "same"]),
                Some(format!("{db}-{round}").into_bytes()),
                "database {db}"
            );
        }
    }
}

#[test]
fn writes_without_replies_are_seen_too() {
    let server = Server::start();
    let proxy = Proxy::start(&server, &["--workers", "2"]);
    let mut readers = [proxy.client(), proxy.client3(), proxy.client()];
    let mut writer = proxy.client();
    for round in 0..100 {
        let value = format!("v{round}");
        for reader in &mut readers {
            reader.cmd(&["GET", "k"]);
            reader.cmd(&["GET", "k"]);
        }
        let mut bytes = Vec::new();
        if round % 2 == 0 {
            bytes.extend(encode(&["CLIENT", "REPLY", "SKIP"]));
            bytes.extend(encode(&["SET", "k", &value]));
        } else {
            bytes.extend(encode(&["CLIENT", "REPLY", "OFF"]));
            bytes.extend(encode(&["SET", "k", &value]));
            bytes.extend(encode(&["CLIENT", "REPLY", "ON"]));
        }
        bytes.extend(encode(&["GET", "k"]));
        writer.raw(&bytes);
        if round % 2 == 1 {
            assert_eq!(show(&writer.frame()), "+OK\\r\\n", "CLIENT REPLY ON");
        }
        assert_eq!(
            show(&writer.frame()),
            show(format!("${}\r\n{value}\r\n", value.len()).as_bytes())
        );
        for reader in &mut readers {
            assert_eq!(reader.bulk(&["GET", "k"]), Some(value.clone().into_bytes()));
        }
    }
}

#[test]
fn values_that_travel_as_streams_are_seen_at_once() {
    let server = Server::start();
    let proxy = Proxy::start(&server, &["--workers", "2"]);
    let mut clients = [proxy.client(), proxy.client3(), proxy.client()];
    let sizes = [
        10, 3_000_000, 20, 1_048_576, 1_048_577, 5, 900_000, 0, 2_000_000, 2_000_001,
    ];
    for (round, size) in sizes.into_iter().cycle().take(30).enumerate() {
        let value = vec![b'a' + (round % 26) as u8; size];
        let form = round % 3;
        let writer = &mut clients[round % 3];
        match form {
            0 => writer.expect(&[b"SET".as_slice(), b"big", &value], "+OK"),
            1 => writer.expect(&[b"MSET".as_slice(), b"big", &value, b"other", &value], "+OK"),
            _ => {
                let script = b"redis.call('SET',KEYS[1],ARGV[1]) return 'done'".as_slice();
                writer.expect(&[b"EVAL".as_slice(), script, b"1", b"big", &value], "$4\r\ndone");
            }
        }
        for client in &mut clients {
            for _ in 0..2 {
                assert_eq!(
                    client.int(&["STRLEN", "big"]),
                    size as i64,
                    "STRLEN after {size} bytes by form {form}"
                );
                assert!(
                    client.bulk(&["GET", "big"]) == Some(value.clone()),
                    "GET after {size} bytes by form {form}"
                );
                assert!(client.bulk(&["GETRANGE", "big", "0", "9"]) == Some(value[..size.min(10)].to_vec()));
            }
        }
    }
}

fn write_and_read(proxy: &Proxy, writer: u64, rounds: usize, mut random: Rng) {
    let mut client = if writer.is_multiple_of(2) {
        proxy.client()
    } else {
        proxy.client3()
    };
    let nil = if writer.is_multiple_of(2) { "$-1\r\n" } else { "_\r\n" };
    let names: Vec<String> = (0..3).map(|i| format!("mine:{writer}:{i}")).collect();
    let mut values: Vec<Option<String>> = vec![None; names.len()];
    let bulk = |v: &Option<String>| {
        v.as_ref()
            .map_or(nil.to_owned(), |v| format!("${}\r\n{v}\r\n", v.len()))
    };
    for round in 0..rounds {
        let mut bytes = Vec::new();
        let mut expected = Vec::new();
        for step in 0..random.usize(1..20) {
            let at = random.usize(0..names.len());
            let name = names[at].as_str();
            let fresh = format!("{round}.{step}");
            match random.u8(0..12) {
                0 | 1 => {
                    bytes.extend(encode(&["SET", name, &fresh]));
                    values[at] = Some(fresh);
                    expected.push("+OK\r\n".to_owned());
                }
                2 => {
                    bytes.extend(encode(&["DEL", name]));
                    expected.push(format!(":{}\r\n", usize::from(values[at].take().is_some())));
                }
                3 => {
                    bytes.extend(encode(&["APPEND", name, "+"]));
                    let value = values[at].get_or_insert_default();
                    value.push('+');
                    expected.push(format!(":{}\r\n", value.len()));
                }
                4 => {
                    for line in [
                        vec!["MULTI"],
                        vec!["SET", name, &fresh],
                        vec!["GET", name],
                        vec!["EXEC"],
                    ] {
                        bytes.extend(encode(&line));
                    }
                    expected.extend(["+OK\r\n", "+QUEUED\r\n", "+QUEUED\r\n"].map(str::to_owned));
                    values[at] = Some(fresh);
                    expected.push(format!("*2\r\n+OK\r\n{}", bulk(&values[at])));
                }
                5 => {
                    bytes.extend(encode(&[
                        "EVAL",
                        "return redis.call('SET',KEYS[1],ARGV[1])",
                        "1",
                        name,
                        &fresh,
                    ]));
                    values[at] = Some(fresh);
                    expected.push("+OK\r\n".to_owned());
                }
                6 => {
                    bytes.extend(encode(&["MGET", &names[0], &names[1], &names[2]]));
                    expected.push(format!(
                        "*3\r\n{}{}{}",
                        bulk(&values[0]),
                        bulk(&values[1]),
                        bulk(&values[2])
                    ));
                }
                7 => {
                    bytes.extend(encode(&["EXISTS", name, name]));
                    expected.push(format!(":{}\r\n", 2 * usize::from(values[at].is_some())));
                }
                8 => {
                    bytes.extend(encode(&["STRLEN", name]));
                    expected.push(format!(":{}\r\n", values[at].as_ref().map_or(0, String::len)));
                }
                _ => {
                    bytes.extend(encode(&["GET", name]));
                    expected.push(bulk(&values[at]));
                }
            }
        }
        client.raw(&bytes);
        for expected in expected {
            let found = client.frame();
            assert_eq!(
                show(&found),
                show(expected.as_bytes()),
                "round {round} of {}",
                show(&bytes)
            );
        }
    }
}

/// Keeps the writers' keys in the cache and in flight, on both workers.
fn read_others(proxy: &Proxy, over: &AtomicBool, mut random: Rng) {
    let mut client = proxy.client();
    while !over.load(Ordering::Relaxed) {
        let name = format!("mine:{}:{}", random.u8(0..3), random.u8(0..3));
        match random.u8(0..4) {
            0 => client.cmd(&["MGET", &name, "mine:0:0"]),
            1 => client.cmd(&["STRLEN", &name]),
            _ => client.cmd(&["GET", &name]),
        };
    }
}

fn number(frame: &[u8]) -> u64 {
    let text = String::from_utf8_lossy(frame).into_owned();
    let digits = text
        .trim_end()
        .rsplit("\r\n")
        .next()
        .unwrap_or_default()
        .trim_start_matches(':');
    digits
        .parse()
        .unwrap_or_else(|_| panic!("a number was expected: {text}"))
}
