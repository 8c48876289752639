//! `CLIENT`: what it tells and does is about the proxy's own clients, whichever connection carries them just then.

use std::time::{Duration, Instant};

use crate::support::client::{children, encode};
use crate::support::{Client, Proxy, STEP, Server, eventually, show};

/// The line of one client in `CLIENT LIST`, as fields.
fn field(list: &str, id: i64, name: &str) -> String {
    let line = list
        .lines()
        .find(|line| line.contains(&format!("id={id} ")))
        .unwrap_or_else(|| panic!("no client {id} in {list}"));
    let start = format!(" {name}=");
    let value = format!(" {line}")
        .split_once(&start)
        .map(|(_, rest)| rest.split(' ').next().unwrap_or_default().to_owned());
    value.unwrap_or_else(|| panic!("no {name} in {line}"))
}

fn blocked(proxy: &Proxy, server: &Server, key: &str) -> (Client, i64) {
    let mut client = proxy.client();
    let id = client.int(&["CLIENT", "ID"]);
    let before = server.info("blocked_clients");
    client.send(&["BLPOP", key, "0"]);
    eventually("it is blocked", STEP, || server.info("blocked_clients") > before);
    (client, id)
}

#[test]
fn ids_stay_the_same_in_every_state() {
    let server = Server::start();
    let proxy = Proxy::start(&server, &[]);
    let mut client = proxy.client();
    // So that ids here and there are not the same by chance.
    let others: Vec<Client> = (0..20).map(|_| proxy.client()).collect();
    let id = client.int(&["CLIENT", "ID"]);
    client.expect(&["WATCH", "k"], "+OK");
    assert_eq!(client.int(&["CLIENT", "ID"]), id);
    client.expect(&["MULTI"], "+OK");
    client.expect(&["CLIENT", "ID"], "+QUEUED");
    client.expect(&["SET", "k", "v"], "+QUEUED");
    client.expect(&["EXEC"], &format!("*2\r\n:{id}\r\n+OK"));
    client.expect(&["WATCH", "k"], "+OK");
    let hello = client.text(&["HELLO", "3"]);
    assert!(hello.contains(&format!("$2\r\nid\r\n:{id}\r\n")), "{hello}");
    assert_eq!(client.int(&["CLIENT", "ID"]), id);
    let info = client.text(&["CLIENT", "INFO"]);
    assert!(info.contains(&format!("id={id} ")), "{info}");
    client.expect(&["UNWATCH"], "+OK");
    client.expect(&["CLIENT", "NO-EVICT", "ON"], "+OK");
    assert_eq!(client.int(&["CLIENT", "ID"]), id);
    assert!(client.text(&["NEARCACHE", "STATS"]).contains("nearcache_clients"));
    assert!(client.text(&["INFO"]).contains("nearcache_version"));
    drop(others);
}

#[test]
fn info_counts_the_clients_of_the_proxy() {
    let server = Server::start();
    let proxy = Proxy::start(&server, &[]);
    let _direct: Vec<Client> = (0..5).map(|_| server.client()).collect();
    let mut client = proxy.client();
    let connected = |info: &str| -> Vec<String> {
        let lines = info.lines().filter_map(|line| line.strip_prefix("connected_clients:"));
        lines.map(str::to_owned).collect()
    };
    for request in [
        &["INFO"][..],
        &["INFO", "clients"],
        &["info", "everything"],
        &["INFO", "server", "Clients"],
    ] {
        assert_eq!(connected(&client.text(request)), ["1"], "{request:?}");
    }
    let mut other = proxy.client3();
    assert_eq!(connected(&other.text(&["INFO", "clients"])), ["2"]);
    let clients = client.text(&["INFO", "clients"]);
    assert!(
        clients.contains("\r\nmaxclients:") && !clients.contains("nearcache"),
        "{clients}"
    );
    let length: usize = clients[1..]
        .lines()
        .next()
        .unwrap_or_default()
        .parse()
        .unwrap_or_default();
    assert_eq!(
        clients.split_once("\r\n").map(|(_, text)| text.len()),
        Some(length + 2),
        "{clients}"
    );
}

#[test]
fn what_a_client_asks_the_server_not_to_do_is_in_its_line_until_it_turns_it_off() {
    let server = Server::start();
    let proxy = Proxy::start(&server, &[]);
    let (mut client, mut other) = (proxy.client(), proxy.client());
    let id = client.int(&["CLIENT", "ID"]).to_string();
    let flags = |asking: &mut Client, words: &[&str]| {
        let line = asking.text(words);
        let (_, rest) = line.split_once("flags=").expect(&line);
        rest.split_once(' ').expect(&line).0.to_owned()
    };
    client.expect(&["CLIENT", "NO-EVICT", "ON"], "+OK");
    assert_eq!(flags(&mut client, &["CLIENT", "INFO"]), "e");
    assert_eq!(flags(&mut other, &["CLIENT", "LIST", "ID", &id]), "e");
    assert!(client.text(&["CLIENT", "NO-EVICT", "perhaps"]).starts_with('-'));
    client.expect(&["SET", "k", "v"], "+OK");
    assert_eq!(flags(&mut client, &["CLIENT", "INFO"]), "e");
    assert_eq!(proxy.metric("nearcache_pinned_connections", &[]), Some(1.0));
    client.expect(&["CLIENT", "NO-EVICT", "off"], "+OK");
    assert_eq!(flags(&mut client, &["CLIENT", "INFO"]), "N");
    eventually("it shares connections again", STEP, || {
        client.text(&["GET", "k"]) == "$1\r\nv\r\n" && proxy.metric("nearcache_pinned_connections", &[]) == Some(0.0)
    });
    client.expect(&["CLIENT", "NO-EVICT", "on"], "+OK");
    client.expect(&["RESET"], "+RESET");
    assert_eq!(flags(&mut client, &["CLIENT", "INFO"]), "N");
}

#[test]
fn the_list_tells_what_each_client_does() {
    let server = Server::start();
    let proxy = Proxy::start(&server, &[]);
    let (blocked, blocked_id) = blocked(&proxy, &server, "q");
    let mut listening = proxy.client();
    let listening_id = listening.int(&["CLIENT", "ID"]);
    listening.cmd(&["SUBSCRIBE", "a", "b"]);
    listening.frame();
    listening.cmd(&["PSUBSCRIBE", "a*"]);
    let mut queueing = proxy.client();
    let queueing_id = queueing.int(&["CLIENT", "ID"]);
    queueing.expect(&["MULTI"], "+OK");
    queueing.expect(&["GET", "k"], "+QUEUED");
    let mut asking = proxy.client();
    asking.expect(&["CLIENT", "SETNAME", "asking"], "+OK");
    let id = asking.int(&["CLIENT", "ID"]);
    eventually("the list is right", STEP, || {
        let list = asking.text(&["CLIENT", "LIST"]);
        let is = |id, name: &str, value: &str| field(&list, id, name) == value;
        is(blocked_id, "flags", "b")
            && is(blocked_id, "cmd", "blpop")
            && is(listening_id, "flags", "P")
            && is(listening_id, "sub", "2")
            && is(listening_id, "psub", "1")
            && is(listening_id, "cmd", "psubscribe")
            && is(queueing_id, "flags", "x")
            && is(queueing_id, "multi", "1")
            && is(id, "flags", "N")
            && is(id, "name", "asking")
            && is(id, "cmd", "client|list")
            && is(id, "qbuf", "26")
    });
    let pubsub = asking.text(&["CLIENT", "LIST", "TYPE", "pubsub"]);
    assert_eq!(pubsub.matches("id=").count(), 1, "{pubsub}");
    asking.expect(&["CLIENT", "KILL", "TYPE", "pubsub"], ":1");
    listening.until_closed();
    asking.expect(
        &["CLIENT", "LIST", "TYPE", "nobody"],
        "-ERR Unknown client type 'nobody'",
    );
    asking.expect(&["CLIENT", "KILL", "USER", "stranger"], "-ERR No such user 'stranger'");
    drop(blocked);
}

#[test]
fn a_client_with_a_connection_of_its_own_unblocks_and_kills_the_right_one() {
    let server = Server::start();
    let proxy = Proxy::start(&server, &[]);
    let mut asking = proxy.client();
    asking.expect(&["WATCH", "k"], "+OK");
    let (mut first, first_id) = blocked(&proxy, &server, "q1");
    asking.expect(&["CLIENT", "UNBLOCK", &first_id.to_string()], ":1");
    assert_eq!(show(&first.frame()), r"*-1\r\n");
    first.expect(&["PING"], "+PONG");
    let (mut second, second_id) = blocked(&proxy, &server, "q2");
    asking.expect(&["CLIENT", "KILL", "ID", &second_id.to_string()], ":1");
    second.until_closed();
    first.expect(&["SET", "k", "v"], "+OK");
    asking.expect(&["MULTI"], "+OK");
    asking.expect(&["GET", "k"], "+QUEUED");
    asking.expect(&["EXEC"], "*-1");
    assert_eq!(proxy.metric("nearcache_links_lost_total", &[]), Some(0.0));
}

#[test]
fn a_client_that_kills_itself_hears_of_it() {
    let server = Server::start();
    let proxy = Proxy::start(&server, &[]);
    for is_watching in [false, true] {
        let mut client = proxy.client();
        if is_watching {
            client.expect(&["WATCH", "k"], "+OK");
        }
        let id = client.int(&["CLIENT", "ID"]).to_string();
        client.send(&["CLIENT", "KILL", "ID", &id, "SKIPME", "no"]);
        assert_eq!(show(&client.until_closed()), r":1\r\n");
        let mut client = proxy.client();
        let info = client.text(&["CLIENT", "INFO"]);
        let id = client.int(&["CLIENT", "ID"]);
        client.send(&["CLIENT", "KILL", &field(&info, id, "addr")]);
        assert_eq!(show(&client.until_closed()), r"+OK\r\n");
    }
}

#[test]
fn the_filters_of_valkey_are_offered_in_front_of_valkey() {
    let Some(server) = Server::valkey(&[]) else { return };
    let proxy = Proxy::start(&server, &[]);
    let mut named = proxy.client();
    named.expect(&["CLIENT", "SETNAME", "me"], "+OK");
    let id = named.int(&["CLIENT", "ID"]).to_string();
    let mut asking = proxy.client();
    eventually("the proxy knows the server", STEP, || {
        asking.text(&["HELLO"]).contains("valkey") && named.text(&["HELLO"]).contains("valkey")
    });
    for filter in [
        &["NAME", "me"][..],
        &["ID", "9998", &id, "9999"],
        &["NOT-NAME", "", "DB", "0", "FLAGS", "N"],
        &["ID", &id, "USER", "default", "NOT-ID", "9998"],
    ] {
        let list = asking.text(&[&["CLIENT", "LIST"], filter].concat());
        assert_eq!(list.matches(" addr=").count(), 1, "{filter:?}: {list}");
        assert!(list.contains(&format!("id={id} ")), "{filter:?}: {list}");
    }
    let mut direct = server.client();
    for refused in [
        &["CLIENT", "LIST", "ID", "x"][..],
        &["CLIENT", "KILL", "ID", "x"],
        &["CLIENT", "LIST", "IDLE", "0"],
        &["CLIENT", "KILL", "MAXAGE", "100000"],
        &["CLIENT", "KILL", "NAME", "nobody", "MAXAGE", "1"],
        &["CLIENT", "LIST", "DB", "99"],
        &["CLIENT", "LIST", "SKIPME", "x"],
    ] {
        assert_eq!(asking.text(refused), direct.text(refused), "{refused:?}");
    }
    asking.expect(&["CLIENT", "KILL", "NAME", "me", "TYPE", "normal"], ":1");
    named.until_closed();
}

/// As at the server, where one thread does it all.
#[test]
fn what_a_client_was_told_others_see_in_the_list() {
    let server = Server::start();
    let proxy = Proxy::start(&server, &["--workers", "2"]);
    // One of them is on the other worker.
    let mut asking = [proxy.client(), proxy.client()];
    for round in 0..100 {
        let mut client = proxy.client();
        let id = client.int(&["CLIENT", "ID"]).to_string();
        let mut flags_are = |flags: &str| {
            for asking in &mut asking {
                let line = asking.text(&["CLIENT", "LIST", "ID", &id]);
                assert!(line.contains(&format!(" flags={flags} ")), "round {round}: {line}");
            }
        };
        client.expect(&["MONITOR"], "+OK");
        flags_are("O");
        client.send(&["RESET"]);
        while client.frame() != b"+RESET\r\n" {}
        flags_are("N");
        client.expect(&["MULTI"], "+OK");
        flags_are("x");
        client.expect(&["DISCARD"], "+OK");
        flags_are("N");
    }
}

#[test]
fn invalidations_go_to_a_client_that_the_server_did_not_know() {
    let server = Server::start();
    let proxy = Proxy::start(&server, &["--workers", "2"]);
    let mut other = server.client();
    // Pushes need no subscription. On whichever worker it is.
    for key in ["a", "b", "c"] {
        let mut target = proxy.client3();
        let id = target.int(&["CLIENT", "ID"]).to_string();
        target.expect(&["SELECT", "2"], "+OK");
        target.expect(&["GET", key], "_");
        let mut client = proxy.client();
        client.expect(&["CLIENT", "TRACKING", "ON", "REDIRECT", &id], "+OK");
        client.expect(&["CLIENT", "GETREDIR"], &format!(":{id}"));
        client.expect(&["GET", key], "$-1");
        other.expect(&["SET", key, "v"], "+OK");
        assert_eq!(
            show(&target.frame()),
            format!(r">2\r\n$10\r\ninvalidate\r\n*1\r\n$1\r\n{key}\r\n")
        );
        // It is as it was, and stays where it is.
        target.expect(&["SET", "in-two", key], "+OK");
        target.expect(&["CLIENT", "ID"], &format!(":{id}"));
        client.expect(&["CLIENT", "TRACKING", "OFF", "REDIRECT", &id], "+OK");
        client.expect(&["CLIENT", "TRACKING", "ON", "REDIRECT", &id], "+OK");
    }
    // In RESP2 the subscription may come later.
    let (mut target, mut client) = (proxy.client(), proxy.client());
    let id = target.int(&["CLIENT", "ID"]).to_string();
    client.raw(format!("CLIENT TRACKING ON BCAST REDIRECT {id}\r\n").as_bytes());
    assert_eq!(show(&client.frame()), "+OK\\r\\n");
    target.cmd(&["SUBSCRIBE", "__redis__:invalidate"]);
    other.expect(&["SET", "d", "v"], "+OK");
    assert_eq!(
        show(&target.frame()),
        r"*3\r\n$7\r\nmessage\r\n$20\r\n__redis__:invalidate\r\n*1\r\n$1\r\nd\r\n"
    );
    // Nobody who has gone, and nobody who may not be served.
    drop(target);
    let error = "-ERR The client ID you want redirect to does not exist";
    let mut client = proxy.client();
    eventually("it is gone", STEP, || {
        client.text(&["CLIENT", "TRACKING", "ON", "REDIRECT", &id]) == format!("{error}\r\n")
    });
}

#[test]
fn two_clients_send_each_other_their_invalidations() {
    let server = Server::start();
    let proxy = Proxy::start(&server, &["--workers", "2"]);
    let mut other = server.client();
    for _ in 0..4 {
        let mut pair = [proxy.client3(), proxy.client3()];
        let ids = [0, 1].map(|i| pair[i].int(&["CLIENT", "ID"]).to_string());
        let started = Instant::now();
        for (client, id) in pair.iter_mut().zip(ids.iter().rev()) {
            client.send(&["CLIENT", "TRACKING", "ON", "REDIRECT", id]);
        }
        for client in &mut pair {
            assert_eq!(show(&client.frame()), r"+OK\r\n");
        }
        assert!(
            started.elapsed() < Duration::from_millis(900),
            "one waits for the other"
        );
        for (one, two) in [(0, 1), (1, 0)] {
            let key = format!("of-{}", ids[one]);
            pair[one].expect(&["GET", &key], "_");
            other.expect(&["SET", &key, "v"], "+OK");
            let push = show(&pair[two].frame());
            assert!(push.contains("invalidate") && push.contains(&key), "{push}");
        }
    }
}

/// The connection that it had for a moment is the one to which they go.
#[test]
fn a_client_that_was_blocked_when_invalidations_were_sent_to_it_keeps_its_connection() {
    let server = Server::start();
    let proxy = Proxy::start(&server, &["--workers", "1"]);
    let (mut target, mut client, mut other) = (proxy.client3(), proxy.client(), server.client());
    let id = target.int(&["CLIENT", "ID"]).to_string();
    target.send(&["BLPOP", "q", "0"]);
    eventually("it is blocked", STEP, || server.info("blocked_clients") == 1);
    client.expect(&["CLIENT", "TRACKING", "ON", "REDIRECT", &id], "+OK");
    client.expect(&["GET", "k"], "$-1");
    other.expect(&["RPUSH", "q", "x"], ":1");
    assert!(show(&target.frame()).ends_with(r"$1\r\nx\r\n"));
    let mut next = proxy.client3();
    next.expect(&["BLPOP", "none", "0.01"], "_");
    other.expect(&["SET", "k", "v"], "+OK");
    assert_eq!(show(&target.frame()), r">2\r\n$10\r\ninvalidate\r\n*1\r\n$1\r\nk\r\n");
    assert!(next.is_silent(Duration::from_millis(50)));
}

#[test]
fn invalidations_go_where_a_client_sends_them() {
    let server = Server::start();
    let proxy = Proxy::start(&server, &[]);
    let mut target = proxy.client();
    let id = target.int(&["CLIENT", "ID"]).to_string();
    target.cmd(&["SUBSCRIBE", "__redis__:invalidate"]);
    let mut client = proxy.client();
    client.expect(
        &["CLIENT", "TRACKING", "ON", "REDIRECT", "999999"],
        "-ERR The client ID you want redirect to does not exist",
    );
    client.expect(&["CLIENT", "TRACKING", "ON", "REDIRECT", &id], "+OK");
    client.expect(&["CLIENT", "GETREDIR"], &format!(":{id}"));
    let info = client.text(&["CLIENT", "TRACKINGINFO"]);
    assert!(info.contains(&format!("$8\r\nredirect\r\n:{id}\r\n")), "{info}");
    client.expect(&["GET", "k"], "$-1");
    server.client().expect(&["SET", "k", "v"], "+OK");
    assert_eq!(
        show(&target.frame()),
        r"*3\r\n$7\r\nmessage\r\n$20\r\n__redis__:invalidate\r\n*1\r\n$1\r\nk\r\n"
    );
    client.expect(&["CLIENT", "TRACKING", "OFF"], "+OK");
    client.expect(&["CLIENT", "GETREDIR"], ":-1");
}

#[test]
fn reads_are_answered_while_writes_are_paused() {
    let server = Server::start();
    let proxy = Proxy::with_config(
        &server.url(),
        "[upstream]\nread_timeout = \"300ms\"\n",
        &["--workers", "1"],
    );
    let mut reader = proxy.client();
    let mut writer = proxy.client();
    let mut queueing = proxy.client();
    reader.expect(&["SET", "k", "v"], "+OK");
    reader.expect(&["CLIENT", "PAUSE", "60000", "WRITE"], "+OK");
    writer.send(&["SET", "k", "w"]);
    queueing.raw(&[encode(&["MULTI"]), encode(&["SET", "n", "1"]), encode(&["EXEC"])].concat());
    eventually("the writes are held back", STEP, || server.info("blocked_clients") == 2);
    reader.expect(&["STRLEN", "k"], ":1");
    reader.expect(&["GET", "k"], "$1\r\nv");
    reader.expect(&["LLEN", "none"], ":0");
    // Longer than the read timeout.
    assert!(writer.is_silent(Duration::from_millis(700)));
    reader.expect(&["CLIENT", "UNPAUSE"], "+OK");
    assert_eq!(show(&writer.frame()), r"+OK\r\n");
    assert_eq!(show(&queueing.frames(3)[2]), r"*1\r\n+OK\r\n");
    eventually("it is read", STEP, || reader.text(&["GET", "k"]) == "$1\r\nw\r\n");
    assert_eq!(proxy.metric("nearcache_links_lost_total", &[]), Some(0.0));
    // Everything at once: nothing is answered, and nothing is lost.
    reader.expect(&["CLIENT", "PAUSE", "700"], "+OK");
    reader.expect(&["LLEN", "none2"], ":0");
    assert_eq!(proxy.metric("nearcache_links_lost_total", &[]), Some(0.0));
}

#[test]
fn nothing_behind_an_end_is_looked_at() {
    let server = Server::start();
    let proxy = Proxy::start(&server, &[]);
    let mut direct = server.client();
    let mut through = proxy.client();
    for pieces in [
        [
            &b"WATCH w\r\n"[..],
            b"*1\r\n$4 \r\nPING\r\n",
            b"*3\r\n$3\r\nSET\r\n$1\r\na\r\n$1\r\n1\r\n",
        ],
        [b"MULTI\r\n", b"ECHO a\"b\r\n", b"*1\r\n$4\r\nEXEC\r\n"],
        [b"WATCH w\r\n", b"*1\r\n$4\r\nQUIT\r\n*1\r\n$x\r\n", b"SET a 1\r\n"],
        [b"CLIENT NO-EVICT x\r\nQUIT\r\n", b"SET a 1\r\n", b""],
        [
            b"CLIENT TRACKING ON PREFIX s\r\nLPUSH l\r\nQUIT\r\n",
            b"SET a 1\r\n",
            b"",
        ],
    ] {
        for client in [&mut direct, &mut through] {
            for piece in pieces {
                // It may be closed already.
                let _ = client.try_raw(piece);
            }
        }
        assert_eq!(
            show(&through.until_closed()),
            show(&direct.until_closed()),
            "{pieces:?}"
        );
        (direct, through) = (server.client(), proxy.client());
        direct.expect(&["GET", "a"], "$-1");
    }
}

#[test]
fn a_reset_whose_reply_is_skipped_is_done_all_the_same() {
    let server = Server::start();
    let proxy = Proxy::start(&server, &[]);
    let mut client = proxy.client3();
    client.expect(&["SELECT", "3"], "+OK");
    client.expect(&["SET", "k", "3"], "+OK");
    client.raw(
        &[
            encode(&["CLIENT", "REPLY", "SKIP"]),
            encode(&["RESET"]),
            encode(&["GET", "k"]),
        ]
        .concat(),
    );
    assert_eq!(show(&client.frame()), r"$-1\r\n");
    assert_eq!(children(&client.cmd(&["HGETALL", "none"])).len(), 0);
}

#[test]
fn wrong_numbers_of_arguments_are_counted_by_the_server() {
    let server = Server::start();
    let proxy = Proxy::start(&server, &[]);
    let mut client = proxy.client();
    eventually("the proxy knows the server", STEP, || {
        proxy.http("/metrics").1.contains("nearcache_upstream_info{")
    });
    client.expect(&["CONFIG", "RESETSTAT"], "+OK");
    client.expect(&["SET", "k"], "-ERR wrong number of arguments for 'set' command");
    let info = server.client().text(&["INFO", "commandstats"]);
    let line = info.lines().find(|line| line.starts_with("cmdstat_set:"));
    assert!(line.is_some_and(|line| line.contains("rejected_calls=1")), "{info}");
}
