//! The upstream is away, and reads of what is in L1 go on for as long as the operator allows; what was written, has expired or
//! was never read is not shown, and nothing of it is left when the upstream is back.

use std::time::{Duration, Instant};

use crate::support::client::encode;
use crate::support::sentinel::Scripted;
use crate::support::{Client, Proxy, STEP, Server, eventually};

/// Long enough for a test to look around, short enough to be waited for.
const MOST: Duration = Duration::from_millis(2500);

fn toml(rest: &str) -> String {
    format!(
        "[upstream]\nread_timeout = \"400ms\"\nconnect_timeout = \"150ms\"\n[breaker]\npause_max = \"500ms\"\n[cache]\nmax_stale = \"2500ms\"\n{rest}"
    )
}

#[test]
fn hot_reads_go_on_until_max_stale_and_are_counted() {
    let mut server = Server::start();
    let proxy = Proxy::with_config(&server.url(), &toml(""), &["--workers", "2"]);
    let mut clients: Vec<Client> = (0..4)
        .map(|i| if i % 2 == 0 { proxy.client() } else { proxy.client3() })
        .collect();
    let mut direct = server.client();
    direct.expect(&["MSET", "k", "value", "j", "other", "cold", "x"], "+OK");
    direct.expect(&["SET", "short", "v", "PX", "700"], "+OK");
    direct.expect(&["HSET", "h", "f", "1"], ":1");
    let reads: [&[&str]; 8] = [
        &["GET", "k"],
        &["GET", "j"],
        &["GET", "none"],
        &["STRLEN", "k"],
        &["EXISTS", "k", "j", "none"],
        &["TTL", "k"],
        &["HGETALL", "h"],
        &["MGET", "k", "j", "none"],
    ];
    let expected: Vec<Vec<Vec<u8>>> = clients
        .iter_mut()
        .map(|client| reads.iter().map(|read| client.cmd(read)).collect())
        .collect();
    clients[0].expect(&["GET", "short"], "$1\r\nv");
    let stale = || proxy.metric("nearcache_l1_stale_total", &[]).expect("it is published");
    assert_eq!(stale(), 0.0);
    server.kill();
    let killed = Instant::now();
    let mut rounds = 0;
    while killed.elapsed() < MOST - Duration::from_millis(500) {
        for (client, expected) in clients.iter_mut().zip(&expected) {
            for (read, expected) in reads.iter().zip(expected) {
                assert_eq!(client.cmd(read), *expected, "{read:?} after {:?}", killed.elapsed());
            }
            // Pipelined too.
            for _ in 0..20 {
                client.send(&["GET", "k"]);
            }
            assert!(client.frames(20).iter().all(|reply| *reply == expected[0]));
        }
        rounds += 1;
    }
    assert!(rounds > 10, "{rounds} rounds: somebody waits for the upstream");
    assert!(stale() > f64::from(rounds) * 4.0 * 25.0, "{}", stale());
    // It is of use, so nobody is to take it out of service; what is wrong is told all the same.
    let (status, health) = proxy.http("/health");
    assert!(
        status == 200 && health.contains("\"status\":\"degraded\",\"reasons\":[\"the upstream cannot be reached\""),
        "{status} {health}"
    );
    assert!(health.contains("reads are answered by stale copies for "), "{health}");
    let client = &mut clients[0];
    let explained = client.text(&["NEARCACHE", "EXPLAIN", "k"]);
    assert!(
        explained.contains("stale hit (the upstream cannot be asked; for "),
        "{explained}"
    );
    assert!(client.text(&["NEARCACHE", "STATS"]).contains("nearcache_l1_stale_hits"));
    // What L1 does not have, what has expired and what is written fail at once, and nothing is made up.
    for line in [
        &["GET", "cold"][..],
        &["GET", "short"],
        &["SET", "j", "w"],
        &["MGET", "k", "cold"],
    ] {
        let told = client.text(line);
        assert!(told.starts_with("-ERR nearcache: upstream "), "{line:?}: {told}");
    }
    client.expect(&["GET", "j"], "$5\r\nother");
    eventually("after max_stale it is an error", MOST, || {
        let replies: Vec<Vec<u8>> = clients.iter_mut().map(|client| client.cmd(&["GET", "k"])).collect();
        replies
            .iter()
            .all(|reply| reply.starts_with(b"-ERR nearcache: upstream "))
    });
    let took = killed.elapsed();
    assert!(
        took > MOST - Duration::from_secs(1) && took < MOST + Duration::from_secs(1),
        "{took:?}"
    );
    eventually("it is of no use any more", STEP, || proxy.http("/health").0 == 503);
    server.restart();
    for client in &mut clients {
        eventually("it is believed again", STEP, || {
            let reply = client.cmd(&["GET", "k"]);
            reply == b"$-1\r\n" || reply == b"_\r\n"
        });
    }
}

#[test]
fn nothing_stale_is_left_when_the_upstream_is_back() {
    let mut server = Server::start();
    let proxy = Proxy::with_config(&server.url(), &toml(""), &["--workers", "1"]);
    let mut client = proxy.client();
    client.expect(&["SET", "k", "old"], "+OK");
    client.expect(&["GET", "k"], "$3\r\nold");
    for round in 0..3 {
        server.kill();
        eventually("it is away", STEP, || {
            client.cmd(&["SET", "other", "x"]).starts_with(b"-")
        });
        let shown = client.cmd(&["GET", "k"]);
        assert!(shown.starts_with(b"$"), "round {round}: {shown:?}");
        server.restart();
        let value = format!("new{round}");
        server.client().expect(&["SET", "k", &value], "+OK");
        eventually("it is there again", STEP, || {
            client.cmd(&["SET", "other", "x"]) == b"+OK\r\n"
        });
        for _ in 0..20 {
            assert_eq!(client.bulk(&["GET", "k"]), Some(value.clone().into_bytes()));
        }
        eventually("it is cached", STEP, || {
            let before = server.calls("get");
            client.cmd(&["GET", "k"]);
            server.calls("get") == before
        });
    }
}

#[test]
fn a_server_that_hangs_is_away_too() {
    let server = Server::start();
    let proxy = Proxy::with_config(&server.url(), &toml("bound = \"300ms\"\n"), &["--workers", "1"]);
    let mut client = proxy.client();
    client.expect(&["SET", "k", "v"], "+OK");
    client.expect(&["GET", "k"], "$1\r\nv");
    server.freeze();
    // Silence is not death: it is asked until the read timeout. From then on reads are answered.
    eventually("it is shown", STEP, || {
        let reply = client.cmd(&["GET", "k"]);
        reply == b"$1\r\nv\r\n" && proxy.metric("nearcache_l1_stale_total", &[]) > Some(0.0)
    });
    server.thaw();
    eventually("it is there again", STEP, || {
        client.cmd(&["SET", "k", "w"]) == b"+OK\r\n"
    });
    client.expect(&["GET", "k"], "$1\r\nw");
}

#[test]
fn a_write_that_may_have_been_executed_leaves_nothing_to_show() {
    let mut server = Server::start();
    let proxy = Proxy::with_config(&server.url(), &toml(""), &["--workers", "1"]);
    let (mut client, mut reader) = (proxy.client(), proxy.client3());
    let script = "return redis.call('SET', KEYS[1], 'new')";
    let writes: [(&str, &[&[&str]]); 3] = [
        ("a", &[&["SET", "a", "new"]]),
        ("b", &[&["EVAL", script, "1", "b"]]),
        ("c", &[&["MULTI"], &["SET", "c", "new"], &["EXEC"]]),
    ];
    for (key, write) in writes {
        for key in ["a", "b", "c", "kept"] {
            eventually("it can be written", STEP, || {
                client.cmd(&["SET", key, "old"]) == b"+OK\r\n"
            });
            client.expect(&["GET", key], "$3\r\nold");
        }
        // Its connection is there: what was never sent has changed nothing.
        eventually("scripts run", STEP, || {
            client.cmd(&["EVAL", "return 1", "1", "none"]) == b":1\r\n"
        });
        server.freeze();
        let sent = || proxy.metric("nearcache_shared_requests_total", &[]);
        let before = sent();
        client.raw(&write.iter().flat_map(|line| encode(line)).collect::<Vec<_>>());
        eventually("it is on its way", STEP, || sent() > before);
        server.kill();
        for _ in write {
            let told = client.frame();
            assert!(told.starts_with(b"-"), "{key}: {}", String::from_utf8_lossy(&told));
        }
        let told = client.text(&["GET", key]);
        assert!(told.starts_with("-ERR nearcache: upstream "), "{key}: {told}");
        // It is gone for everybody, and nothing else is.
        let told = reader.text(&["GET", key]);
        assert!(told.starts_with("-ERR nearcache: upstream "), "{key}: {told}");
        reader.expect(&["GET", "kept"], "$3\r\nold");
        server.restart();
    }
}

#[test]
fn strong_reads_fail_at_once_and_max_stale_with_them_is_refused() {
    let mut server = Server::start();
    let strong = "[cache]\nconsistency = \"strong\"\n";
    let proxy = Proxy::with_config(&server.url(), strong, &["--workers", "1"]);
    let mut client = proxy.client();
    client.expect(&["SET", "k", "v"], "+OK");
    client.expect(&["GET", "k"], "$1\r\nv");
    server.kill();
    eventually("it is an error", Duration::from_secs(1), || {
        client.text(&["GET", "k"]).starts_with("-ERR nearcache: upstream ")
    });
    let refused = Proxy::try_start(&server.url(), &format!("{strong}max_stale = \"1s\"\n"), &[]).unwrap_err();
    assert!(refused.contains("cache.max_stale: must be off"), "{refused}");
}

#[test]
fn where_age_alone_counts_copies_are_shown_until_max_stale_after_the_last_answer() {
    let server = Server::start();
    let config = "[cache]\nconsistency = \"eventual\"\nmax_age = \"1h\"\nmax_stale = \"2s\"\n";
    let proxy = Proxy::with_config(&server.url(), config, &["--workers", "1"]);
    let mut client = proxy.client();
    client.expect(&["SET", "k", "v"], "+OK");
    for _ in 0..2 {
        client.expect(&["GET", "k"], "$1\r\nv");
    }
    let stale = || proxy.metric("nearcache_l1_stale_total", &[]).unwrap();
    assert_eq!(stale(), 0.0);
    drop(server);
    let gone = Instant::now();
    eventually("it is away", STEP, || {
        client.text(&["GET", "cold"]).starts_with("-ERR nearcache: upstream ")
    });
    client.expect(&["GET", "k"], "$1\r\nv");
    assert!(stale() >= 1.0);
    assert_eq!(proxy.http("/health").0, 200, "it is of use");
    eventually("it is an error", STEP, || {
        client.text(&["GET", "k"]).starts_with("-ERR nearcache: upstream ")
    });
    assert!(gone.elapsed() > Duration::from_millis(1500), "{:?}", gone.elapsed());
}

#[test]
fn copies_of_a_dead_primary_are_shown_until_there_is_another_one() {
    let (mut old, new) = (Server::start(), Server::start());
    new.client().expect(&["SET", "k", "new"], "+OK");
    old.client().expect(&["SET", "k", "old"], "+OK");
    let sentinel = Scripted::naming(Some(old.port()));
    let url = format!(
        "redis+sentinel://{}/{}",
        sentinel.address(),
        crate::support::sentinel::NAME
    );
    let proxy = Proxy::with_config(&url, &toml(""), &["--workers", "2"]);
    let mut clients = [proxy.client(), proxy.client3(), proxy.client()];
    for client in &mut clients {
        client.expect(&["GET", "k"], "$3\r\nold");
    }
    old.kill();
    for client in &mut clients {
        for _ in 0..20 {
            client.expect(&["GET", "k"], "$3\r\nold");
        }
    }
    assert!(proxy.metric("nearcache_l1_stale_total", &[]) > Some(0.0));
    sentinel.switch(new.port());
    for client in &mut clients {
        eventually("it reads from the new one", STEP, || {
            client.cmd(&["GET", "k"]) == b"$3\r\nnew\r\n"
        });
        for _ in 0..20 {
            client.expect(&["GET", "k"], "$3\r\nnew");
        }
    }
}
