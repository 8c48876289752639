//! Clients whose state lives in their connection: blocking pops, subscriptions, monitors, client-side
//! caching, muted replies. They notice no proxy, and neither do the others.

use std::collections::BTreeSet;
use std::thread;
use std::time::{Duration, Instant};

use crate::support::client::children;
use crate::support::server::NEWER;
use crate::support::{Client, Proxy, STEP, Server, eventually, show};

#[test]
fn a_blocked_pop_is_served_by_another_client() {
    let server = Server::start();
    let proxy = Proxy::start(&server, &[]);
    let waits: [(&[&str], &[&str], &str); 9] = [
        (&["BLPOP", "q", "0"], &["RPUSH", "q", "x"], "*2\r\n$1\r\nq\r\n$1\r\nx"),
        (
            &["BRPOP", "none", "q", "5"],
            &["LPUSH", "q", "x"],
            "*2\r\n$1\r\nq\r\n$1\r\nx",
        ),
        (
            &["BLMOVE", "q", "done", "LEFT", "RIGHT", "0"],
            &["RPUSH", "q", "x"],
            "$1\r\nx",
        ),
        (&["BRPOPLPUSH", "q", "done", "0"], &["RPUSH", "q", "x"], "$1\r\nx"),
        (
            &["BLMPOP", "0", "1", "q", "LEFT"],
            &["RPUSH", "q", "x"],
            "*2\r\n$1\r\nq\r\n*1\r\n$1\r\nx",
        ),
        (
            &["BZPOPMIN", "zq", "0"],
            &["ZADD", "zq", "1", "x"],
            "*3\r\n$2\r\nzq\r\n$1\r\nx\r\n$1\r\n1",
        ),
        (
            &["BZPOPMAX", "zq", "0"],
            &["ZADD", "zq", "1", "x"],
            "*3\r\n$2\r\nzq\r\n$1\r\nx\r\n$1\r\n1",
        ),
        (
            &["BZMPOP", "0", "1", "zq", "MIN"],
            &["ZADD", "zq", "1", "x"],
            "*2\r\n$2\r\nzq\r\n*1\r\n*2\r\n$1\r\nx\r\n$1\r\n1",
        ),
        (
            &["XREAD", "BLOCK", "0", "STREAMS", "x", "$"],
            &["XADD", "x", "5-5", "f", "v"],
            "*1\r\n*2\r\n$1\r\nx\r\n*1\r\n*2\r\n$3\r\n5-5\r\n*2\r\n$1\r\nf\r\n$1\r\nv",
        ),
    ];
    for (wait, serve, expected) in waits {
        let (mut waiter, mut giver, mut reader) = (proxy.client(), proxy.client(), proxy.client3());
        giver.expect(&["FLUSHALL"], "+OK");
        for _ in 0..2 {
            reader.expect(&["LLEN", "q"], ":0");
            reader.expect(&["ZCARD", "zq"], ":0");
        }
        waiter.send(wait);
        waiter.send(&["ECHO", "behind"]);
        let mut direct = server.client();
        eventually("it is blocked", STEP, || {
            direct.text(&["INFO", "clients"]).contains("blocked_clients:1")
        });
        assert!(
            waiter.is_silent(Duration::from_millis(30)),
            "nothing behind a blocked command is answered"
        );
        giver.cmd(serve);
        assert_eq!(
            show(&waiter.frame()),
            show(format!("{expected}\r\n").as_bytes()),
            "{wait:?}"
        );
        assert_eq!(show(&waiter.frame()), "$6\\r\\nbehind\\r\\n");
        // The pop was acknowledged: whoever asks now sees it.
        reader.expect(&["LLEN", "q"], ":0");
        reader.expect(&["ZCARD", "zq"], ":0");
        reader.expect(&["LRANGE", "q", "0", "-1"], "*0");
    }
}

#[test]
fn a_blocked_pop_times_out_as_at_the_server() {
    let server = Server::start();
    let proxy = Proxy::start(&server, &[]);
    for (mut client, nil) in [(proxy.client(), "*-1"), (proxy.client3(), "_")] {
        for line in [
            "BLPOP none 0.2",
            "BLMOVE none n LEFT LEFT 0.2",
            "BZPOPMIN none 0.2",
            "BLMPOP 0.2 1 none LEFT",
            "XREAD BLOCK 200 STREAMS none 0",
        ] {
            let begun = Instant::now();
            client.expect(&line.split(' ').collect::<Vec<_>>(), nil);
            let took = begun.elapsed();
            assert!(
                (Duration::from_millis(190)..Duration::from_secs(2)).contains(&took),
                "{line} took {took:?}"
            );
        }
        client.expect(&["SET", "after", "it works"], "+OK");
        client.expect(&["GET", "after"], "$8\r\nit works");
    }
}

#[test]
fn a_client_that_leaves_while_blocked_takes_nothing_along() {
    let server = Server::start();
    let proxy = Proxy::start(&server, &[]);
    let mut direct = server.client();
    for _ in 0..20 {
        let mut leaver = proxy.client();
        leaver.send(&["BLPOP", "q", "0"]);
        eventually("it is blocked", STEP, || {
            direct.text(&["INFO", "clients"]).contains("blocked_clients:1")
        });
        leaver.close();
        eventually("nobody is blocked", STEP, || {
            direct.text(&["INFO", "clients"]).contains("blocked_clients:0")
        });
        let mut giver = proxy.client();
        giver.expect(&["RPUSH", "q", "kept"], ":1");
        giver.expect(&["LPOP", "q"], "$4\r\nkept");
    }
}

#[test]
fn a_blocked_client_can_be_unblocked_by_its_id() {
    let server = Server::start();
    let proxy = Proxy::start(&server, &[]);
    let (mut waiter, mut other) = (proxy.client(), proxy.client());
    let id = waiter.int(&["CLIENT", "ID"]).to_string();
    let mut direct = server.client();
    waiter.send(&["BLPOP", "q", "0"]);
    eventually("it is blocked", STEP, || {
        direct.text(&["INFO", "clients"]).contains("blocked_clients:1")
    });
    other.expect(&["CLIENT", "UNBLOCK", &id], ":1");
    assert_eq!(show(&waiter.frame()), "*-1\\r\\n");
    waiter.send(&["BLPOP", "q", "0"]);
    eventually("it is blocked", STEP, || {
        direct.text(&["INFO", "clients"]).contains("blocked_clients:1")
    });
    other.expect(&["CLIENT", "UNBLOCK", &id, "ERROR"], ":1");
    assert_eq!(
        show(&waiter.frame()),
        "-UNBLOCKED client unblocked via CLIENT UNBLOCK\\r\\n"
    );
    other.expect(&["CLIENT", "UNBLOCK", &id], ":0");
}

#[test]
fn a_blocked_client_can_be_killed_by_its_id() {
    let server = Server::start();
    let proxy = Proxy::start(&server, &[]);
    let (mut waiter, mut other) = (proxy.client(), proxy.client());
    let id = waiter.int(&["CLIENT", "ID"]).to_string();
    let mut direct = server.client();
    waiter.send(&["BLPOP", "q", "0"]);
    eventually("it is blocked", STEP, || {
        direct.text(&["INFO", "clients"]).contains("blocked_clients:1")
    });
    other.expect(&["CLIENT", "KILL", "ID", &id], ":1");
    assert!(waiter.until_closed().is_empty());
    eventually("it is listed no more", STEP, || {
        other.int(&["CLIENT", "KILL", "ID", &id]) == 0
    });
    eventually("nobody is blocked at the server", STEP, || {
        direct.text(&["INFO", "clients"]).contains("blocked_clients:0")
    });
    other.expect(&["RPUSH", "q", "kept"], ":1");
    other.expect(&["LPOP", "q"], "$4\r\nkept");
}

#[test]
fn messages_arrive_and_ordinary_commands_work_afterwards() {
    let server = Server::start();
    let proxy = Proxy::start(&server, &[]);
    let mut publisher = proxy.client();
    for (client, is_three) in [(proxy.client(), false), (proxy.client3(), true)] {
        let mut client = client;
        client.expect(&["SET", "k", "before"], "+OK");
        let kind = if is_three { ">" } else { "*" };
        client.send(&["SUBSCRIBE", "news", "weather"]);
        assert_eq!(
            show(&client.frame()),
            show(format!("{kind}3\r\n$9\r\nsubscribe\r\n$4\r\nnews\r\n:1\r\n").as_bytes())
        );
        assert_eq!(
            show(&client.frame()),
            show(format!("{kind}3\r\n$9\r\nsubscribe\r\n$7\r\nweather\r\n:2\r\n").as_bytes())
        );
        client.send(&["PSUBSCRIBE", "w*"]);
        assert_eq!(
            show(&client.frame()),
            show(format!("{kind}3\r\n$10\r\npsubscribe\r\n$2\r\nw*\r\n:3\r\n").as_bytes())
        );
        client.send(&["SSUBSCRIBE", "shard"]);
        assert_eq!(
            show(&client.frame()),
            show(format!("{kind}3\r\n$10\r\nssubscribe\r\n$5\r\nshard\r\n:1\r\n").as_bytes())
        );
        publisher.expect(&["PUBLISH", "news", "hello"], ":1");
        publisher.expect(&["SPUBLISH", "shard", "s"], ":1");
        publisher.expect(&["PUBLISH", "weather", "rain"], ":2");
        publisher.expect(&["PUBLISH", "silence", "x"], ":0");
        publisher.expect(&["PUBSUB", "NUMSUB", "news"], "*2\r\n$4\r\nnews\r\n:1");
        let expected = [
            format!("{kind}3\r\n$7\r\nmessage\r\n$4\r\nnews\r\n$5\r\nhello\r\n"),
            format!("{kind}3\r\n$8\r\nsmessage\r\n$5\r\nshard\r\n$1\r\ns\r\n"),
            format!("{kind}3\r\n$7\r\nmessage\r\n$7\r\nweather\r\n$4\r\nrain\r\n"),
            format!("{kind}4\r\n$8\r\npmessage\r\n$2\r\nw*\r\n$7\r\nweather\r\n$4\r\nrain\r\n"),
        ];
        for expected in expected {
            assert_eq!(show(&client.frame()), show(expected.as_bytes()));
        }
        if is_three {
            client.expect(&["GET", "k"], "$6\r\nbefore");
            client.expect(&["PING"], "+PONG");
        } else {
            let refused = client.text(&["GET", "k"]);
            assert!(
                refused.starts_with("-ERR Can't execute 'get': only (P|S)SUBSCRIBE"),
                "{refused}"
            );
            client.expect(&["PING"], "*2\r\n$4\r\npong\r\n$0\r\n");
            client.expect(&["PING", "x"], "*2\r\n$4\r\npong\r\n$1\r\nx");
        }
        client.send(&["UNSUBSCRIBE"]);
        client.send(&["PUNSUBSCRIBE"]);
        client.send(&["SUNSUBSCRIBE"]);
        let names: BTreeSet<Vec<u8>> = client.frames(4).iter().map(|f| children(f)[1].clone()).collect();
        let expected = ["news", "weather", "w*", "shard"].map(|n| format!("${}\r\n{n}\r\n", n.len()).into_bytes());
        assert_eq!(names, BTreeSet::from(expected));
        // An ordinary client again.
        publisher.expect(&["PUBLISH", "news", "nobody"], ":0");
        client.expect(&["SET", "k", "after"], "+OK");
        client.expect(&["GET", "k"], "$5\r\nafter");
        client.expect(
            &["MGET", "k", "none"],
            if is_three {
                "*2\r\n$5\r\nafter\r\n_"
            } else {
                "*2\r\n$5\r\nafter\r\n$-1"
            },
        );
        client.expect(&["MULTI"], "+OK");
        client.expect(&["EXEC"], "*0");
        assert!(client.is_silent(Duration::from_millis(20)));
    }
}

#[test]
fn many_messages_reach_many_subscribers_in_order() {
    let server = Server::start();
    let proxy = Proxy::start(&server, &[]);
    const MESSAGES: usize = 2000;
    let mut subscribers: Vec<Client> = (0..20)
        .map(|i| if i % 2 == 0 { proxy.client() } else { proxy.client3() })
        .collect();
    for subscriber in &mut subscribers {
        subscriber.cmd(&["SUBSCRIBE", "c"]);
    }
    let mut publisher = proxy.client();
    thread::scope(|scope| {
        scope.spawn(move || {
            for i in 0..MESSAGES {
                publisher.expect(&["PUBLISH", "c", &i.to_string()], ":20");
            }
        });
        for subscriber in &mut subscribers {
            scope.spawn(move || {
                for i in 0..MESSAGES {
                    let message = children(&subscriber.frame());
                    assert_eq!(
                        show(&message[2]),
                        show(format!("${}\r\n{i}\r\n", i.to_string().len()).as_bytes())
                    );
                }
            });
        }
    });
}

#[test]
fn a_subscriber_in_resp3_reads_its_own_writes_and_others() {
    let server = Server::start();
    let proxy = Proxy::start(&server, &[]);
    let (mut subscriber, mut other) = (proxy.client3(), proxy.client());
    subscriber.cmd(&["SUBSCRIBE", "c"]);
    for i in 0..200 {
        let (mine, theirs) = (format!("mine{i}"), format!("theirs{i}"));
        other.cmd(&["GET", "k"]);
        subscriber.expect(&["SET", "k", &mine], "+OK");
        assert_eq!(other.bulk(&["GET", "k"]), Some(mine.clone().into_bytes()));
        assert_eq!(subscriber.bulk(&["GET", "k"]), Some(mine.into_bytes()));
        other.expect(&["SET", "k", &theirs], "+OK");
        assert_eq!(subscriber.bulk(&["GET", "k"]), Some(theirs.into_bytes()));
    }
}

/// What the proxy asks for itself (TTLs of what it keeps, whether a server is there, the state of connections that it lends) is
/// no client's affair.
#[test]
fn a_monitor_sees_what_clients_send_and_nothing_of_the_proxys_own() {
    let server = Server::start();
    let proxy = Proxy::start(&server, &["--workers", "1"]);
    let (mut monitor, mut other) = (proxy.client(), proxy.client());
    monitor.expect(&["MONITOR"], "+OK");
    // One of the connections that are needed later, which then has another database and name.
    other.expect(&["WAIT", "0", "0"], ":0");
    other.expect(&["SELECT", "3"], "+OK");
    other.expect(&["CLIENT", "SETNAME", "me"], "+OK");
    other.expect(&["SET", "k", "v"], "+OK");
    let mut until = |last: &str| {
        let mut seen = Vec::new();
        while seen.last().is_none_or(|line: &String| !line.ends_with(last)) {
            let line = String::from_utf8_lossy(&monitor.frame()).into_owned();
            let (_, command) = line.split_once("] ").expect("a line of MONITOR");
            seen.push(command.trim_end().to_owned());
        }
        seen
    };
    until("\"SET\" \"k\" \"v\"");
    other.expect(&["GET", "k"], "$1\r\nv");
    other.expect(&["MGET", "k", "none"], "*2\r\n$1\r\nv\r\n$-1");
    other.expect(&["WAIT", "0", "0"], ":0");
    other.expect(&["PING"], "+PONG");
    other.hello3().expect(&["ECHO", "x"], "$1\r\nx");
    let mut other = proxy.client();
    other.expect(&["SELECT", "3"], "+OK");
    other.expect(&["EVAL", "return redis.call('PTTL', KEYS[1])", "1", "k"], ":-1");
    other.expect(&["SET", "k", "w"], "+OK");
    let mut seen = until("\"SET\" \"k\" \"w\"");
    // The value may be in the cache already.
    seen.retain(|line| line != "\"GET\" \"k\"" && line != "\"GET\" \"none\"" && !line.starts_with("\"MGET\""));
    assert_eq!(
        seen,
        [
            "\"WAIT\" \"0\" \"0\"",
            "\"PING\"",
            "\"ECHO\" \"x\"",
            "\"EVAL\" \"return redis.call('PTTL', KEYS[1])\" \"1\" \"k\"",
            "\"PTTL\" \"k\"",
            "\"SET\" \"k\" \"w\"",
        ]
    );
}

#[test]
fn a_monitor_sees_what_the_server_executes() {
    let server = Server::start();
    let proxy = Proxy::start(&server, &[]);
    let (mut monitor, mut other) = (proxy.client(), proxy.client());
    monitor.expect(&["MONITOR"], "+OK");
    other.expect(&["SET", "seen-by-monitor", "1"], "+OK");
    let end = Instant::now() + STEP;
    loop {
        let line = String::from_utf8_lossy(&monitor.frame()).into_owned();
        if line.contains("\"SET\" \"seen-by-monitor\" \"1\"") {
            break;
        }
        assert!(Instant::now() < end, "the write never showed");
    }
    monitor.send(&["RESET"]);
    while monitor.frame() != b"+RESET\r\n" {
        assert!(Instant::now() < end, "RESET was never answered");
    }
    monitor.expect(&["GET", "seen-by-monitor"], "$1\r\n1");
    other.expect(&["SET", "x", "1"], "+OK");
    assert!(monitor.is_silent(Duration::from_millis(50)), "a monitor no more");
}

#[test]
fn a_client_that_tracks_is_told_of_the_writes_of_others() {
    let server = Server::start();
    let proxy = Proxy::start(&server, &[]);
    let (mut tracker, mut other, mut foreign) = (proxy.client3(), proxy.client(), server.client());
    tracker.expect(&["CLIENT", "TRACKING", "ON"], "+OK");
    for (round, by_foreign) in [(0, false), (1, true), (2, false)] {
        let key = format!("k{round}");
        // Also when the value is in the proxy's cache: the server must learn that this client holds a copy.
        other.cmd(&["GET", &key]);
        other.cmd(&["GET", &key]);
        tracker.expect(&["GET", &key], "_");
        if by_foreign {
            foreign.expect(&["SET", &key, "v"], "+OK");
        } else {
            other.expect(&["SET", &key, "v"], "+OK");
        }
        let expected = format!(">2\r\n$10\r\ninvalidate\r\n*1\r\n${}\r\n{key}\r\n", key.len());
        assert_eq!(show(&tracker.frame()), show(expected.as_bytes()));
        tracker.expect(&["GET", &key], "$1\r\nv");
    }
    foreign.expect(&["FLUSHALL"], "+OK");
    assert_eq!(show(&tracker.frame()), ">2\\r\\n$10\\r\\ninvalidate\\r\\n_\\r\\n");
    tracker.expect(&["CLIENT", "TRACKING", "OFF"], "+OK");
    tracker.expect(&["GET", "k0"], "_");
    other.expect(&["SET", "k0", "quiet"], "+OK");
    tracker.expect(&["GET", "k0"], "$5\r\nquiet");
    tracker.expect(&["CLIENT", "TRACKING", "ON", "BCAST", "PREFIX", "p:"], "+OK");
    other.expect(&["SET", "p:1", "v"], "+OK");
    assert_eq!(
        show(&tracker.frame()),
        ">2\\r\\n$10\\r\\ninvalidate\\r\\n*1\\r\\n$3\\r\\np:1\\r\\n"
    );
}

#[test]
fn muted_replies_stay_away_and_come_back() {
    let server = Server::start();
    let proxy = Proxy::start(&server, &[]);
    for mut client in [proxy.client(), proxy.client3()] {
        for line in [
            "CLIENT REPLY OFF",
            "SET k off",
            "GET k",
            "PING",
            "NOSUCH",
            "GET",
            "ECHO x",
            "SELECT 1",
            "HELLO 2",
            "SELECT 0",
            "INCR n",
            "CLIENT REPLY ON",
        ] {
            client.send(&line.split(' ').collect::<Vec<_>>());
        }
        assert_eq!(show(&client.frame()), "+OK\\r\\n", "only the last is answered");
        client.expect(&["GET", "k"], "$3\r\noff");
        for _ in 0..3 {
            client.send(&["CLIENT", "REPLY", "SKIP"]);
            client.send(&["SET", "k", "skipped"]);
            client.expect(&["ECHO", "heard"], "$5\r\nheard");
        }
        client.expect(&["GET", "k"], "$7\r\nskipped");
        assert!(client.is_silent(Duration::from_millis(20)));
    }
}

/// A server that has no reply to write leaves such a connection open.
#[test]
fn a_quit_that_is_not_answered_closes_the_connection() {
    const BYTES: usize = 4 << 20;
    let server = Server::start();
    let proxy = Proxy::start(&server, &[]);
    let mut other = proxy.client();
    other.expect(
        &["SETRANGE", "large", &(BYTES - 1).to_string(), "x"],
        &format!(":{BYTES}"),
    );
    for (i, quit) in ["CLIENT REPLY SKIP\r\n", "CLIENT REPLY OFF\r\nINCR n\r\n"]
        .iter()
        .enumerate()
    {
        for hello in ["", "HELLO 2\r\n", "HELLO 3\r\n"] {
            let mut client = proxy.client();
            client.raw(format!("{hello}{quit}QUIT\r\nINCR m\r\n").as_bytes());
            let end = client.until_closed();
            assert_eq!(end.is_empty(), hello.is_empty(), "{}", show(&end));
        }
        let mut client = proxy.client();
        client.raw(format!("STRLEN large\r\nGET large\r\n{quit}QUIT\r\n").as_bytes());
        let all = client.until_closed().len();
        assert_eq!(all, ":4194304\r\n$4194304\r\n\r\n".len() + BYTES);
        let executed = (i > 0).then(|| b"4".to_vec());
        assert_eq!(server.client().bulk(&["GET", "n"]), executed);
        assert_eq!(server.client().bulk(&["GET", "m"]), None);
    }
}

#[test]
fn pinned_connections_are_bounded_and_come_back() {
    let server = Server::start();
    let toml = "[upstream]\npinned_max = 3\n";
    let proxy = Proxy::with_config(&server.url(), toml, &[]);
    let mut holders: Vec<Client> = (0..3).map(|_| proxy.client()).collect();
    for holder in &mut holders {
        holder.expect(&["WATCH", "k"], "+OK");
    }
    let mut late = proxy.client();
    let refused = late.text(&["WATCH", "k"]);
    assert!(refused.starts_with("-ERR nearcache: "), "{refused}");
    late.expect(&["SET", "k", "the rest works"], "+OK");
    late.expect(&["GET", "k"], "$14\r\nthe rest works");
    holders.pop().expect("three of them").close();
    eventually("a place is free", STEP, || late.cmd(&["WATCH", "k"]) == b"+OK\r\n");
    late.expect(&["UNWATCH"], "+OK");
}

#[test]
fn connections_are_returned_clean() {
    let server = Server::start();
    let proxy = Proxy::start(&server, &["--workers", "1"]);
    for i in 0..30 {
        let mut dirty = if i % 2 == 0 { proxy.client() } else { proxy.client3() };
        match i % 5 {
            0 => {
                dirty.expect(&["SELECT", "3"], "+OK");
                dirty.expect(&["WATCH", "k"], "+OK");
                dirty.expect(&["UNWATCH"], "+OK");
            }
            1 => {
                dirty.expect(&["MULTI"], "+OK");
                dirty.expect(&["SELECT", "5"], "+QUEUED");
            }
            2 => {
                dirty.cmd(&["SUBSCRIBE", "c"]);
            }
            3 => {
                dirty.expect(&["CLIENT", "NO-EVICT", "on"], "+OK");
                dirty.expect(&["CLIENT", "SETNAME", "dirty"], "+OK");
            }
            _ => {
                dirty.send(&["CLIENT", "REPLY", "OFF"]);
                dirty.send(&["SET", "x", "y"]);
            }
        }
        drop(dirty);
        let mut clean = proxy.client();
        clean.expect(&["WATCH", "other"], "+OK");
        clean.expect(&["SET", "k", "v"], "+OK");
        clean.expect(&["MULTI"], "+OK");
        clean.expect(&["GET", "k"], "+QUEUED");
        clean.expect(&["EXEC"], "*1\r\n$1\r\nv");
        clean.expect(&["GET", "k"], "$1\r\nv");
        assert_eq!(
            server.client().bulk(&["GET", "k"]),
            Some(b"v".to_vec()),
            "in database 0"
        );
        clean.expect(&["BLPOP", "none", "0.01"], "*-1");
        assert_eq!(server.client().int(&["DEL", "k"]), 1);
    }
}

#[test]
fn wait_waits_for_what_the_client_wrote_on_other_connections() {
    let server = Server::start();
    let replica = Server::with(&["--replicaof", "127.0.0.1", &server.port().to_string()]);
    waits_for_writes(&server, &replica);
    for newer in NEWER {
        let Some(server) = Server::newer(newer, &["--repl-diskless-sync-delay", "0"]) else {
            continue;
        };
        let port = server.port().to_string();
        let replica = Server::newer(newer, &["--replicaof", "127.0.0.1", &port]).expect("it was there a moment ago");
        waits_for_writes(&server, &replica);
    }
}

fn waits_for_writes(server: &Server, replica: &Server) {
    let proxy = Proxy::start(server, &[]);
    let mut client = proxy.client();
    eventually("the replica is there", STEP, || client.int(&["WAIT", "1", "100"]) == 1);
    replica.freeze();
    client.expect(&["SET", "k", "v"], "+OK");
    // The replica cannot have it, and the server knows only by the order on the connection that it is waited for.
    client.expect(&["WAIT", "1", "50"], ":0");
    replica.thaw();
    client.expect(&["WAIT", "1", "10000"], ":1");
    client.expect(&["GET", "k"], "$1\r\nv");
}

#[test]
fn a_long_script_holds_up_nobody_but_its_client() {
    let server = Server::with(&["--busy-reply-threshold", "50"]);
    let proxy = Proxy::with_config(
        &server.url(),
        "[upstream]\nread_timeout = \"500ms\"\n",
        &["--workers", "1"],
    );
    let mut other = proxy.client();
    let mut elsewhere = proxy.client();
    other.expect(&["SET", "k", "v"], "+OK");
    other.expect(&["GET", "k"], "$1\r\nv");
    elsewhere.expect(&["SELECT", "3"], "+OK");
    let mut runner = proxy.client();
    runner.send(&["EVAL", "while true do end", "0"]);
    eventually("the server says that it is busy", STEP, || {
        other
            .text(&["SET", "k", "w"])
            .starts_with("-BUSY Redis is busy running a script")
    });
    eventually("and tells who asks whether it is there", STEP, || {
        other.text(&["PING"]).starts_with("-BUSY")
    });
    assert!(elsewhere.text(&["GET", "k"]).starts_with("-BUSY"));
    // Longer than the read timeout.
    assert!(runner.is_silent(Duration::from_secs(1)));
    assert!(other.text(&["SET", "k", "w"]).starts_with("-BUSY"));
    elsewhere.expect(&["SCRIPT", "KILL"], "+OK");
    assert!(String::from_utf8_lossy(&runner.frame()).contains("killed by user"));
    runner.expect(&["SET", "k", "x"], "+OK");
    other.expect(&["GET", "k"], "$1\r\nx");
    assert_eq!(proxy.metric("nearcache_links_lost_total", &[]), Some(0.0));
}

/// While a script runs the server lets nobody choose a database, so such a client gets no connection of its own.
#[test]
fn a_transaction_that_begins_while_a_script_runs_is_executed_whole_or_not_at_all() {
    let server = Server::with(&["--busy-reply-threshold", "50"]);
    let proxy = Proxy::start(&server, &["--workers", "1"]);
    // Its connection in database 0 is up before the script runs.
    proxy.client().expect(&["SET", "k", "v"], "+OK");
    let mut killer = server.client();
    for is_direct in [true, false] {
        let open = || if is_direct { server.client() } else { proxy.client() };
        let mut names: Vec<&str> = vec!["late", "exec", "discard", "clean", "reset", "nested"];
        let mut clients: Vec<_> = names.iter().map(|_| open()).collect();
        for client in &mut clients {
            client.expect(&["SELECT", "3"], "+OK");
            client.expect(&["SET", "n", "1"], "+OK");
        }
        let mut runner = open();
        runner.send(&["EVAL", "while true do end", "0"]);
        eventually("the server says that it is busy", STEP, || {
            killer.text(&["PING"]).starts_with("-BUSY")
        });
        let line = |client: &mut Client, args: &[&str]| client.text(args).trim_end().to_owned();
        let mut seen = Vec::new();
        for (name, client) in names.iter().zip(&mut clients) {
            client.expect(&["MULTI"], "+OK");
            if !matches!(*name, "clean" | "nested") {
                seen.push(line(client, &["INCR", "n"]));
            }
            match *name {
                "exec" => seen.push(line(client, &["EXEC"])),
                "discard" => seen.push(line(client, &["DISCARD"])),
                "reset" => seen.push(line(client, &["RESET"])),
                "nested" => {
                    for args in [&["MULTI"][..], &["WATCH", "n"], &["multi"]] {
                        seen.push(line(client, args));
                    }
                }
                _ => {}
            }
        }
        killer.expect(&["SCRIPT", "KILL"], "+OK");
        assert!(String::from_utf8_lossy(&runner.frame()).contains("killed by user"));
        for (name, client) in names.drain(..).zip(&mut clients) {
            match name {
                "late" | "clean" | "nested" => {
                    seen.push(line(client, &["INCR", "n"]));
                    seen.push(line(client, &["EXEC"]));
                }
                _ => {
                    seen.push(line(client, &["INCR", "m"]));
                    seen.push(line(client, &["EXEC"]));
                }
            }
            seen.push(line(client, &["GET", "n"]));
            seen.push(line(client, &["PING", "x"]));
        }
        let busy = "-BUSY Redis is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE.";
        let aborted = "-EXECABORT Transaction discarded because of";
        let expected = [
            // late, exec, discard, reset: while the script runs
            busy.to_owned(),
            busy.to_owned(),
            format!("{aborted}: {}", &busy[1..]),
            busy.to_owned(),
            "+OK".to_owned(),
            busy.to_owned(),
            "+RESET".to_owned(),
            // nested, which discards nothing
            "-ERR MULTI calls can not be nested".to_owned(),
            "-ERR WATCH inside MULTI is not allowed".to_owned(),
            "-ERR MULTI calls can not be nested".to_owned(),
            // late
            "+QUEUED".to_owned(),
            format!("{aborted} previous errors."),
            "$1\r\n1".to_owned(),
            "$1\r\nx".to_owned(),
            // exec
            ":1".to_owned(),
            "-ERR EXEC without MULTI".to_owned(),
            "$1\r\n1".to_owned(),
            "$1\r\nx".to_owned(),
            // discard
            ":2".to_owned(),
            "-ERR EXEC without MULTI".to_owned(),
            "$1\r\n1".to_owned(),
            "$1\r\nx".to_owned(),
            // clean
            "+QUEUED".to_owned(),
            "*1\r\n:2".to_owned(),
            "$1\r\n2".to_owned(),
            "$1\r\nx".to_owned(),
            // reset: in database 0
            ":1".to_owned(),
            "-ERR EXEC without MULTI".to_owned(),
            "$-1".to_owned(),
            "$1\r\nx".to_owned(),
            // nested
            "+QUEUED".to_owned(),
            "*1\r\n:3".to_owned(),
            "$1\r\n3".to_owned(),
            "$1\r\nx".to_owned(),
        ];
        assert_eq!(seen, expected, "is_direct: {is_direct}");
        killer.expect(&["FLUSHALL"], "+OK");
    }
}

#[test]
fn nothing_is_popped_for_a_client_that_has_gone() {
    let server = Server::start();
    let proxy = Proxy::start(&server, &["--workers", "1"]);
    let mut pusher = server.client();
    let mut slow = 0;
    for round in 0..50 {
        let mut blocked = proxy.client();
        blocked.send(&["BRPOP", "q", "0"]);
        eventually("it is blocked", STEP, || server.info("blocked_clients") == 1);
        blocked.close();
        let closed = Instant::now();
        eventually("the server has let it go", STEP, || server.info("blocked_clients") == 0);
        slow += u32::from(closed.elapsed() > Duration::from_millis(40));
        pusher.expect(&["LPUSH", "q", "x"], ":1");
        pusher.expect(&["RPOP", "q"], "$1\r\nx");
        // What was there is given to one that sends its last byte with the request.
        if round % 10 == 0 {
            pusher.expect(&["LPUSH", "q", "y"], ":1");
            let mut last = proxy.client();
            last.send(&["BRPOP", "q", "0"]);
            last.close_write();
            assert_eq!(show(&last.until_closed()), r"*2\r\n$1\r\nq\r\n$1\r\ny\r\n");
        }
    }
    // At once, and not after a time.
    assert!(slow < 25, "{slow} of 50 were let go late");
}

#[test]
fn two_thousand_clients_block_and_half_of_them_go() {
    const CLIENTS: usize = 2_000;
    let server = Server::start();
    let proxy = Proxy::start(&server, &["--workers", "2"]);
    let mut clients: Vec<Option<Client>> = (0..CLIENTS)
        .map(|i| {
            let mut client = proxy.client();
            let queue = format!("q{}", i % 10);
            match i % 4 {
                0 => client.send(&["BLPOP", &queue, "0"]),
                1 => client.send(&["BRPOP", "none", &queue, "0"]),
                2 => client.send(&["BLMOVE", &queue, "done", "LEFT", "RIGHT", "0"]),
                _ => client.send(&["BLMPOP", "0", "1", &queue, "LEFT"]),
            }
            Some(client)
        })
        .collect();
    eventually("all are blocked", STEP, || {
        server.info("blocked_clients") == CLIENTS as u64
    });
    for client in clients.iter_mut().step_by(2) {
        client.take().expect("it is there").close();
    }
    eventually("half of them are gone", STEP, || {
        server.info("blocked_clients") == CLIENTS as u64 / 2
    });
    let mut pusher = proxy.client();
    for i in 0..CLIENTS {
        let queue = format!("q{}", i % 10);
        assert!(pusher.int(&["RPUSH", &queue, &i.to_string()]) > 0);
    }
    let mut got = BTreeSet::new();
    for (i, client) in clients.iter_mut().enumerate() {
        let Some(client) = client else { continue };
        let reply = String::from_utf8_lossy(&client.frame()).into_owned();
        let element: usize = reply
            .lines()
            .last()
            .and_then(|line| line.parse().ok())
            .unwrap_or_else(|| panic!("client {i} got {reply}"));
        assert!(got.insert(element), "{element} came twice");
    }
    assert_eq!(got.len(), CLIENTS / 2);
    for queue in 0..10 {
        for element in children(&server.client().cmd(&["LRANGE", &format!("q{queue}"), "0", "-1"])) {
            let text = String::from_utf8_lossy(&element).into_owned();
            let element = text.lines().last().and_then(|line| line.parse().ok());
            assert!(got.insert(element.expect("a number")), "{text} is there twice");
        }
    }
    assert_eq!(got.len(), CLIENTS, "an element was lost");
}

#[test]
fn the_proxys_own_requests_are_not_answered_to_clients() {
    let server = Server::start();
    let proxy = Proxy::start(&server, &[]);
    for requests in [
        &["CLIENT REPLY OFF", "SELECT 1", "SET a 1", "CLIENT REPLY ON", "PING"][..],
        &["CLIENT REPLY SKIP", "SELECT 1", "PING"],
        &["CLIENT REPLY SKIP", "MULTI", "GET a", "EXEC", "PING"],
        &["WATCH a", "MULTI", "GET a", "EXEC", "CLIENT REPLY x", "PING"],
        &["WATCH a", "MULTI", "GET a", "EXEC", "CLIENT REPLY ON", "PING"],
    ] {
        let lines = requests.join("\r\n") + "\r\nQUIT\r\n";
        let mut answers = [server.client(), proxy.client()].map(|mut client| {
            client.expect(&["CLIENT", "SETNAME", "me"], "+OK");
            client.raw(lines.as_bytes());
            show(&client.until_closed())
        });
        let direct = std::mem::take(&mut answers[0]);
        assert_eq!(answers[1], direct, "{requests:?}");
    }
}

#[test]
fn what_is_written_is_void_before_a_reply_is_seen_of_which_nobody_can_tell_whose_it_is() {
    let server = Server::start();
    // The server tells of no change.
    let toml = "[cache]\nconsistency = \"eventual\"\nmax_age = \"10m\"\ninvalidation = \"own-writes\"\n";
    let proxy = Proxy::with_config(&server.url(), toml, &["--workers", "2"]);
    let mut reader = proxy.client();
    for (i, (begun, lines, last)) in [
        (
            "MULTI\r\nSET k NEW\r\nCLIENT REPLY OFF\r\n",
            "EXEC\r\n",
            "*2\r\n+OK\r\n",
        ),
        (
            "MULTI\r\nCLIENT REPLY OFF\r\nSET k NEW\r\n",
            "GET other\r\nEXEC\r\n",
            "*3\r\n",
        ),
        (
            "MULTI\r\nCLIENT REPLY SKIP\r\nSET k NEW\r\n",
            "EXEC\r\n",
            "*2\r\n+OK\r\n",
        ),
        (
            "",
            "CLIENT REPLY OFF\r\nSET k NEW\r\nMULTI\r\nEXEC\r\nCLIENT REPLY ON\r\n",
            "+OK\r\n",
        ),
    ]
    .into_iter()
    .enumerate()
    {
        let new = format!("new{i}");
        reader.expect(&["SET", "k", "old"], "+OK");
        let mut writer = proxy.client();
        writer.raw(begun.replace("NEW", &new).as_bytes());
        let replies = writer.frames(begun.lines().count());
        assert!(replies.iter().skip(1).all(|reply| reply == b"+QUEUED\r\n"), "{begun:?}");
        eventually("it is a hit", STEP, || {
            let before = server.calls("get");
            reader.expect(&["GET", "k"], "$3\r\nold");
            server.calls("get") == before
        });
        writer.raw(lines.replace("NEW", &new).as_bytes());
        let mut seen = Vec::new();
        while !seen.ends_with(last.as_bytes()) {
            seen.extend(writer.bytes(1));
        }
        reader.expect(&["GET", "k"], &format!("$4\r\n{new}"));
    }
}

#[test]
fn what_client_reply_leaves_of_a_reply_reaches_the_client() {
    let server = Server::start();
    let proxy = Proxy::start(&server, &[]);
    for lines in [
        // An empty request is the one that is skipped.
        "CLIENT REPLY SKIP\r\n*0\r\nPING\r\nQUIT\r\n",
        "CLIENT REPLY SKIP\r\n\r\nPING\r\nQUIT\r\n",
        "CLIENT REPLY SKIP\r\n*-1\r\nSET a 1\r\nGET a\r\nQUIT\r\n",
        "CLIENT REPLY OFF\r\n*0\r\nPING\r\nCLIENT REPLY ON\r\nPING\r\nQUIT\r\n",
        // An array whose elements are left out.
        "MULTI\r\nCLIENT REPLY SKIP\r\nEXEC\r\nQUIT\r\n",
        "MULTI\r\nSET a 1\r\nCLIENT REPLY OFF\r\nEXEC\r\nQUIT\r\n",
        "MULTI\r\nCLIENT REPLY SKIP\r\nCLIENT REPLY SKIP\r\nPING\r\nEXEC\r\nPING\r\nQUIT\r\n",
        // A protocol error that nobody hears of.
        "PING\r\nCLIENT REPLY OFF\r\n*1\r\n$x\r\n",
        "PING\r\nCLIENT REPLY SKIP\r\n*1\r\n$x\r\n",
    ] {
        let mut answers = [server.client(), proxy.client()].map(|mut client| {
            client.raw(lines.as_bytes());
            show(&client.until_closed())
        });
        let direct = std::mem::take(&mut answers[0]);
        assert_eq!(answers[1], direct, "{lines:?}");
    }
}
