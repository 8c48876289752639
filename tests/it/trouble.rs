//! The upstream dies, hangs, refuses or comes late. Clients keep their connections, get clear errors instead of silence,
//! and never a value from before.

use std::time::{Duration, Instant};

use crate::support::client::encode;
use crate::support::relay::Relay;
use crate::support::{Client, Proxy, STEP, Server, eventually, seed, show};

#[test]
fn connections_killed_at_the_upstream_come_back() {
    let server = Server::start();
    let proxy = Proxy::start(&server, &["--workers", "2"]);
    let mut clients = [proxy.client(), proxy.client3(), proxy.client()];
    for round in 0..10 {
        let value = round.to_string();
        server
            .client()
            .cmd(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
        for client in &mut clients {
            eventually("writes are possible again", STEP, || {
                client.cmd(&["SET", "k", &value]) == b"+OK\r\n"
            });
            client.expect(&["GET", "k"], &format!("$1\r\n{value}"));
            client.expect(&["PING"], "+PONG");
        }
    }
}

#[test]
fn a_server_that_was_killed_and_lost_its_data_is_believed() {
    let mut server = Server::start();
    let proxy = Proxy::start(&server, &["--workers", "2"]);
    let mut clients = [proxy.client(), proxy.client3()];
    for client in &mut clients {
        client.expect(&["SET", "k", "v"], "+OK");
        client.expect(&["GET", "k"], "$1\r\nv");
        client.expect(&["GET", "k"], "$1\r\nv");
    }
    server.kill();
    for client in &mut clients {
        let mut reply = String::new();
        eventually("reads fail while it is away", STEP, || {
            reply = client.text(&["GET", "k"]);
            reply.starts_with('-')
        });
        // The first may be about the link that was lost; from then on there is none.
        eventually("the error says what is away", STEP, || {
            reply = client.text(&["GET", "other"]);
            reply.starts_with("-ERR nearcache: upstream ") && reply.contains(" is unavailable: ")
        });
        let write = client.text(&["SET", "k", "w"]);
        assert!(write.starts_with("-ERR nearcache: upstream "), "{write}");
        let pinned = client.text(&["WATCH", "k"]);
        assert!(pinned.starts_with("-ERR nearcache: "), "{pinned}");
        client.expect(&["PING"], "+PONG");
        client.expect(&["ECHO", "x"], "$1\r\nx");
        client.expect(&["SELECT", "1"], "+OK");
        client.expect(&["SELECT", "0"], "+OK");
    }
    // New clients are welcome too.
    let mut late = proxy.client3();
    late.expect(&["CLIENT", "SETNAME", "late"], "+OK");
    let info = late.text(&["INFO"]);
    assert!(info.contains("# nearcache"), "{info}");
    server.restart();
    // The links come back first: what they filled in their former life must not come back with them.
    for client in clients.iter_mut().chain([&mut late]) {
        eventually("writes work again", STEP, || {
            client.cmd(&["SET", "unrelated", "x"]) == b"+OK\r\n"
        });
    }
    for client in clients.iter_mut().chain([&mut late]) {
        let mut reply = Vec::new();
        eventually("reads work again", STEP, || {
            reply = client.cmd(&["GET", "k"]);
            !reply.starts_with(b"-")
        });
        assert!(
            reply == b"$-1\r\n" || reply == b"_\r\n",
            "a value of its former life: {}",
            show(&reply)
        );
    }
    clients[0].expect(&["SET", "k", "new life"], "+OK");
    clients[1].expect(&["GET", "k"], "$8\r\nnew life");
}

#[test]
fn a_server_that_hangs_is_given_up_after_the_read_timeout() {
    let server = Server::start();
    let toml = "[upstream]\nread_timeout = \"1s\"\n";
    let proxy = Proxy::with_config(&server.url(), toml, &["--workers", "1"]);
    let mut clients: Vec<Client> = (0..5).map(|_| proxy.client()).collect();
    clients[0].expect(&["SET", "k", "v"], "+OK");
    server.freeze();
    let begun = Instant::now();
    for client in &mut clients {
        client.send(&["SET", "k", "hanging"]);
        client.send(&["GET", "uncached"]);
    }
    for client in &mut clients {
        for reply in client.frames(2) {
            assert!(reply.starts_with(b"-ERR nearcache: "), "{}", show(&reply));
        }
    }
    let took = begun.elapsed();
    assert!(
        (Duration::from_millis(800)..Duration::from_millis(3500)).contains(&took),
        "given up after {took:?}"
    );
    server.thaw();
    for client in &mut clients {
        eventually("it works again", STEP, || client.cmd(&["GET", "k"]).starts_with(b"$"));
    }
}

#[test]
fn a_blocked_client_is_no_hanging_server() {
    let server = Server::start();
    let toml = "[upstream]\nread_timeout = \"300ms\"\n";
    let proxy = Proxy::with_config(&server.url(), toml, &[]);
    let (mut waiter, mut other) = (proxy.client(), proxy.client());
    waiter.send(&["BLPOP", "q", "0"]);
    let mut subscriber = proxy.client3();
    subscriber.cmd(&["SUBSCRIBE", "c"]);
    assert!(
        waiter.is_silent(Duration::from_millis(1200)),
        "it waits, however long the time-out is"
    );
    other.expect(&["RPUSH", "q", "x"], ":1");
    assert_eq!(show(&waiter.frame()), "*2\\r\\n$1\\r\\nq\\r\\n$1\\r\\nx\\r\\n");
    other.expect(&["PUBLISH", "c", "still here"], ":1");
    subscriber.frame();
}

#[test]
fn an_upstream_that_comes_late_is_awaited() {
    let mut server = Server::absent();
    let proxy = Proxy::before(&server.url_tcp(), &["--workers", "2"]);
    let mut client = proxy.client();
    client.expect(&["PING"], "+PONG");
    let refused = client.text(&["GET", "k"]);
    assert!(
        refused.starts_with("-ERR nearcache: upstream ") && refused.contains(" is unavailable: "),
        "{refused}"
    );
    assert!(
        refused.contains(&server.port().to_string()),
        "the error names the upstream: {refused}"
    );
    server.restart();
    eventually("it is found", STEP, || client.cmd(&["SET", "k", "v"]) == b"+OK\r\n");
    client.expect(&["GET", "k"], "$1\r\nv");
    server.forget_calls();
    for _ in 0..20 {
        client.expect(&["GET", "k"], "$1\r\nv");
    }
    assert!(
        server.calls("get") <= 1,
        "and it is cached: {} reads",
        server.calls("get")
    );
}

#[test]
fn an_upstream_that_takes_connections_and_says_nothing() {
    let server = Server::start();
    let relay = Relay::start(&server.socket());
    relay.hold();
    let toml = "[upstream]\nconnect_timeout = \"500ms\"\nreconnect_max = \"300ms\"\n";
    let proxy = Proxy::with_config(&relay.url(), toml, &["--workers", "1"]);
    let mut client = proxy.client();
    for line in [vec!["GET", "k"], vec!["WATCH", "k"], vec!["CONFIG", "GET", "save"]] {
        let begun = Instant::now();
        let refused = client.text(&line);
        assert!(refused.starts_with("-ERR nearcache: "), "{line:?}: {refused}");
        assert!(
            begun.elapsed() < Duration::from_secs(4),
            "{line:?} took {:?}",
            begun.elapsed()
        );
    }
    relay.release();
    eventually("it works when it speaks", STEP, || {
        client.cmd(&["SET", "k", "v"]) == b"+OK\r\n"
    });
}

#[test]
fn where_tracking_is_refused_nothing_is_cached() {
    let no_right = Server::start();
    let rule = [
        "ACL",
        "SETUSER",
        "limited",
        "on",
        ">pw",
        "~*",
        "&*",
        "+@all",
        "-client|tracking",
    ];
    no_right.client().expect(&rule, "+OK");
    let no_command = Server::with(&["--rename-command", "CLIENT", ""]);
    for (server, url) in [
        (&no_right, format!("redis://limited:pw@127.0.0.1:{}", no_right.port())),
        (&no_command, no_command.url_tcp()),
    ] {
        let proxy = Proxy::with_config(&url, "[auth]\nmode = \"none\"\n", &["--workers", "2"]);
        let mut clients = [proxy.client(), proxy.client3(), proxy.client()];
        let mut direct = server.client();
        server.forget_calls();
        for i in 0..50 {
            let value = i.to_string();
            direct.expect(&["SET", "k", &value], "+OK");
            for client in &mut clients {
                assert_eq!(
                    client.bulk(&["GET", "k"]),
                    Some(value.clone().into_bytes()),
                    "{url}: a foreign write"
                );
            }
            let value = format!("own {i}");
            clients[i % 3].expect(&["SET", "k", &value], "+OK");
            for client in &mut clients {
                assert_eq!(
                    client.bulk(&["GET", "k"]),
                    Some(value.clone().into_bytes()),
                    "{url}: an own write"
                );
            }
        }
        assert_eq!(server.calls("get"), 300, "{url}");
        let stats = clients[0].text(&["NEARCACHE", "STATS"]);
        assert!(!stats.is_empty(), "{stats}");
    }
}

#[test]
fn no_write_is_executed_twice_when_links_break() {
    let server = Server::start();
    let relay = Relay::start(&server.socket());
    relay.jitter(Duration::from_millis(3));
    let proxy = Proxy::before(&relay.url(), &["--workers", "2"]);
    let mut random = fastrand::Rng::with_seed(seed());
    let mut clients = [proxy.client(), proxy.client3(), proxy.client()];
    for round in 0..60 {
        let key = format!("n{round}");
        let mut acked = [0; 3];
        let mut unknown = 0;
        let mut sent = Vec::new();
        for client in &mut clients {
            let n = random.usize(1..20);
            client.raw(&(0..n).flat_map(|_| encode(&["INCR", &key])).collect::<Vec<_>>());
            sent.push(n);
        }
        std::thread::sleep(Duration::from_micros(random.u64(0..4000)));
        relay.cut();
        for (i, client) in clients.iter_mut().enumerate() {
            for reply in client.frames(sent[i]) {
                match reply.first() {
                    Some(b':') => acked[i] += 1,
                    Some(b'-') => unknown += 1,
                    _ => panic!("INCR answered {}", show(&reply)),
                }
            }
        }
        let acked: usize = acked.iter().sum();
        // Late ones may still be on their way to the server.
        let mut direct = server.client();
        let mut count = 0;
        eventually("what was acknowledged is there", STEP, || {
            count = direct
                .bulk(&["GET", &key])
                .map_or(0, |n| String::from_utf8_lossy(&n).parse().expect("a count"));
            count >= acked
        });
        assert!(
            count <= acked + unknown,
            "round {round}: {count} executed, {acked} acknowledged, {unknown} unknown"
        );
    }
}

#[test]
fn errors_of_the_server_are_passed_on_and_not_kept() {
    let server = Server::with(&["--replica-serve-stale-data", "no", "--repl-timeout", "60"]);
    let proxy = Proxy::start(&server, &["--workers", "2"]);
    let mut clients = [proxy.client(), proxy.client3()];
    let mut direct = server.client();
    for round in 0..3 {
        let (value, fresh) = (round.to_string(), format!("nobody asked before {round}"));
        direct.expect(&["SET", "k", &value], "+OK");
        direct.expect(&["REPLICAOF", "127.0.0.1", "1"], "+OK");
        for client in &mut clients {
            let refused = client.text(&["SET", "k", "never"]);
            assert!(
                refused.starts_with("-READONLY") || refused.starts_with("-MASTERDOWN"),
                "{refused}"
            );
            let refused = client.text(&["GET", &fresh]);
            assert!(refused.starts_with("-MASTERDOWN"), "{refused}");
        }
        direct.expect(&["REPLICAOF", "NO", "ONE"], "+OK");
        for client in &mut clients {
            assert_eq!(client.bulk(&["GET", &fresh]), None);
            assert_eq!(client.bulk(&["GET", "k"]), Some(value.clone().into_bytes()));
        }
    }
    direct.expect(&["CONFIG", "SET", "maxmemory", "1"], "+OK");
    for client in &mut clients {
        let refused = client.text(&["SET", "k", "never"]);
        assert!(refused.starts_with("-OOM"), "{refused}");
        assert_eq!(client.bulk(&["GET", "k"]), Some(b"2".to_vec()));
    }
}

#[test]
fn a_pinned_client_learns_that_its_connection_is_gone() {
    let mut server = Server::start();
    let proxy = Proxy::start(&server, &[]);
    let mut subscribers = [proxy.client(), proxy.client3()];
    for subscriber in &mut subscribers {
        subscriber.cmd(&["SUBSCRIBE", "c"]);
    }
    let mut blocked = proxy.client();
    blocked.send(&["BLPOP", "q", "0"]);
    let mut watcher = proxy.client();
    watcher.expect(&["WATCH", "k"], "+OK");
    let mut queueing = proxy.client();
    queueing.expect(&["MULTI"], "+OK");
    queueing.expect(&["SET", "k", "never"], "+QUEUED");
    let mut direct = server.client();
    eventually("it is blocked", STEP, || {
        direct.text(&["INFO", "clients"]).contains("blocked_clients:1")
    });
    server.kill();
    // Whoever waits for messages would wait for ever: only an end makes a client subscribe anew.
    for subscriber in &mut subscribers {
        let rest = subscriber.until_closed();
        assert!(
            rest.is_empty() || rest.starts_with(b"-") || rest.starts_with(b">"),
            "{}",
            show(&rest)
        );
    }
    let told = blocked.try_frame(STEP);
    assert!(
        told.is_err() || told.is_ok_and(|f| f.starts_with(b"-")),
        "the blocked client got something else"
    );
    server.restart();
    for (client, line) in [
        (&mut watcher, vec!["MULTI", "SET k mine", "EXEC"]),
        (&mut queueing, vec!["EXEC"]),
    ] {
        // Closed or refused: but never as if nothing had happened.
        let mut last = None;
        for words in line {
            if client.try_raw(&encode(&words.split(' ').collect::<Vec<_>>())).is_err() {
                break;
            }
            match client.try_frame(STEP) {
                Ok(frame) => last = Some(frame),
                Err(_) => {
                    last = None;
                    break;
                }
            }
        }
        assert!(
            last.as_ref().is_none_or(|f| f.starts_with(b"-")),
            "{:?}",
            last.map(|f| show(&f))
        );
    }
    assert_eq!(server.client().int(&["EXISTS", "k"]), 0);
}

#[test]
fn a_reply_for_which_the_server_closes_the_connection_takes_another_way() {
    // Closed at once for a reply of more than a megabyte that is not taken as fast as it is written.
    let server = Server::with(&["--client-output-buffer-limit", "normal 1mb 0 0"]);
    let proxy = Proxy::start(&server, &["--workers", "1"]);
    let mut direct = server.client();
    for i in 0..100 {
        direct.cmd(&["SET", &format!("k{i}"), &"x".repeat(100_000)]);
    }
    let keys: Vec<String> = (0..100).map(|i| format!("k{i}")).collect();
    let mget: Vec<&str> = ["MGET"].into_iter().chain(keys.iter().map(String::as_str)).collect();
    let mut client = proxy.client();
    let mut other = proxy.client();
    let mut lost = 0;
    eventually(
        "the reply comes over a connection of its own, or is an error there",
        STEP,
        || {
            let Ok(reply) = ({
                client.send(&mget);
                client.try_frame(STEP)
            }) else {
                // The connection of its own was closed for it, and so was the client, as the server would have closed it.
                client = proxy.client();
                return true;
            };
            let is_lost = reply.starts_with(b"-ERR nearcache: ");
            lost += u32::from(is_lost);
            !is_lost || String::from_utf8_lossy(&reply).contains("was lost before the reply: it closed")
        },
    );
    assert!((1..=3).contains(&lost), "it was lost {lost} times");
    let before = proxy.metric("nearcache_links_lost_total", &[]);
    for _ in 0..5 {
        client.send(&mget);
        if client.try_frame(STEP).is_err() {
            client = proxy.client();
        }
        other.expect(&["SET", "small", "v"], "+OK");
        other.expect(&["GET", "small"], "$1\r\nv");
    }
    assert_eq!(
        proxy.metric("nearcache_links_lost_total", &[]),
        before,
        "others suffer no more"
    );
}
