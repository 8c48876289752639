//! What an operator sees and does: `INFO`, `NEARCACHE`, metrics, health, stopping, sockets, ports that are taken.

use std::time::{Duration, Instant};

use crate::support::client::children;
use crate::support::server::free_port;
use crate::support::{Client, Proxy, STEP, Server, eventually, show};

#[test]
fn info_tells_of_the_server_and_of_the_proxy() {
    let server = Server::start();
    let proxy = Proxy::start(&server, &[]);
    for mut client in [proxy.client(), proxy.client3()] {
        let all = text(&mut client, &["INFO"]);
        assert!(
            all.contains("# Server") && all.contains("redis_version:") && all.contains("# nearcache"),
            "{all}"
        );
        assert!(all.contains("# Keyspace"), "the server's sections are complete: {all}");
        let own = text(&mut client, &["INFO", "nearcache"]);
        assert!(
            own.starts_with("# nearcache\r\n") && !own.contains("redis_version"),
            "{own}"
        );
        let some = text(&mut client, &["INFO", "server"]);
        assert!(
            some.contains("redis_version:") && !some.contains("# nearcache"),
            "{some}"
        );
        let both = text(&mut client, &["INFO", "server", "nearcache"]);
        assert!(
            both.contains("redis_version:") && both.contains("# nearcache"),
            "{both}"
        );
        assert!(text(&mut client, &["INFO", "everything"]).contains("# nearcache"));
    }
}

#[test]
fn the_counters_count() {
    let server = Server::start();
    let proxy = Proxy::start(&server, &["--workers", "1"]);
    let mut client = proxy.client();
    client.expect(&["SET", "k", "v"], "+OK");
    client.expect(&["GET", "k"], "$1\r\nv");
    client.expect(&["PING"], "+PONG");
    let before = stat(&mut client, "nearcache_l1_hits");
    for _ in 0..100 {
        client.expect(&["GET", "k"], "$1\r\nv");
    }
    let hits = stat(&mut client, "nearcache_l1_hits") - before;
    assert!((99..=100).contains(&hits), "{hits} hits in 100 reads");
    assert_eq!(stat(&mut client, "nearcache_clients"), 1);
    let mut second = proxy.client();
    second.expect(&["WATCH", "k"], "+OK");
    assert_eq!(stat(&mut client, "nearcache_clients"), 2);
    assert_eq!(stat(&mut client, "nearcache_pinned_connections"), 1);
    drop(second);
    eventually("it is gone", STEP, || stat(&mut client, "nearcache_clients") == 1);
    client.expect(&["GET", "k"], "$1\r\nv");
    client.expect(&["GET", "k"], "$1\r\nv");
    assert!(stat(&mut client, "nearcache_l1_entries") >= 1);
    assert!(stat(&mut client, "nearcache_l1_used_bytes") > 0);
}

#[test]
fn nearcache_explains_invalidates_and_helps() {
    let server = Server::start();
    let proxy = Proxy::start(&server, &["--workers", "1"]);
    for mut client in [proxy.client(), proxy.client3()] {
        let help = client.cmd(&["NEARCACHE", "HELP"]);
        for word in ["STATS", "EXPLAIN", "INVALIDATE", "HELP"] {
            assert!(
                String::from_utf8_lossy(&help).contains(word),
                "{word} in {}",
                show(&help)
            );
        }
        assert!(children(&client.cmd(&["NEARCACHE", "STATS"])).len() >= 20);
        client.expect(&["SET", "k", "v"], "+OK");
        client.expect(&["GET", "k"], "$1\r\nv");
        client.expect(&["GET", "k"], "$1\r\nv");
        client.expect(&["STRLEN", "k"], ":1");
        let cached = text_of(&client.cmd(&["NEARCACHE", "EXPLAIN", "k"]));
        let unknown = text_of(&client.cmd(&["NEARCACHE", "EXPLAIN", "nothing"]));
        assert_ne!(
            cached, unknown,
            "a cached key is explained otherwise than one that is not"
        );
        assert!(client.int(&["NEARCACHE", "INVALIDATE", "k", "nothing"]) >= 1);
        assert_eq!(client.int(&["NEARCACHE", "INVALIDATE", "k"]), 0);
        server.forget_calls();
        client.expect(&["GET", "k"], "$1\r\nv");
        assert_eq!(server.calls("get"), 1, "an invalidated key is read anew");
        for wrong in [
            vec!["NEARCACHE"],
            vec!["NEARCACHE", "NOSUCH"],
            vec!["NEARCACHE", "EXPLAIN"],
            vec!["NEARCACHE", "INVALIDATE"],
        ] {
            assert!(client.text(&wrong).starts_with("-ERR "), "{wrong:?}");
        }
    }
}

#[test]
fn the_metrics_have_the_names_that_dashboards_read() {
    let server = Server::start();
    let proxy = Proxy::start(&server, &[]);
    let mut client = proxy.client();
    client.expect(&["SET", "k", "v"], "+OK");
    for _ in 0..50 {
        client.expect(&["GET", "k"], "$1\r\nv");
        client.cmd(&["GET", "missing"]);
    }
    let (status, body) = proxy.http("/metrics");
    assert_eq!(status, 200, "{body}");
    for name in [
        "cache_hits_total",
        "cache_misses_total",
        "cache_errors_total",
        "cache_evictions_total",
        "cache_size_bytes",
        "cache_operation_duration_seconds",
        "cache_throughput_ops_total",
    ] {
        assert!(
            body.lines().any(|l| l.starts_with(&format!("# TYPE {name} "))),
            "{name} is missing: {body}"
        );
    }
    assert!(body.contains("cache_layer=\"l1\""), "{body}");
    assert!(
        body.contains("# TYPE cache_operation_duration_seconds histogram"),
        "{body}"
    );
    let hits = proxy
        .metric("cache_hits_total", &["cache_layer=\"l1\""])
        .expect("hits of L1");
    assert!(hits >= 45.0, "{hits} hits");
    // The exposition format: every line is a comment or a sample with a number.
    for line in body.lines().filter(|l| !l.starts_with('#') && !l.is_empty()) {
        let value = line.rsplit(' ').next().unwrap_or_default();
        assert!(value.parse::<f64>().is_ok() || value == "+Inf", "{line}");
    }
    let (status, _) = proxy.http("/no/such/page");
    assert_eq!(status, 404);
    let (status, _) = proxy.http_with("DELETE", "/metrics", "");
    assert_eq!(status, 405);
}

#[test]
fn health_follows_the_upstream() {
    let mut server = Server::start();
    let proxy = Proxy::start(&server, &[]);
    eventually("healthy", STEP, || {
        let (status, body) = proxy.http("/health");
        status == 200 && status_in(&body) == "healthy"
    });
    server.kill();
    eventually("not healthy", STEP, || {
        let (status, body) = proxy.http("/health");
        (status == 503 && status_in(&body) == "unhealthy") || (status == 200 && status_in(&body) == "degraded")
    });
    server.restart();
    eventually("healthy again", STEP, || {
        status_in(&proxy.http("/health").1) == "healthy"
    });
}

#[test]
fn a_request_in_flight_is_answered_before_the_proxy_ends() {
    let server = Server::start();
    let mut proxy = Proxy::start(&server, &[]);
    let (mut writer, mut idle) = (proxy.client(), proxy.client());
    writer.expect(&["SET", "k", "before"], "+OK");
    idle.expect(&["PING"], "+PONG");
    server.client().expect(&["CLIENT", "PAUSE", "700"], "+OK");
    writer.send(&["SET", "k", "after"]);
    writer.send(&["GET", "k"]);
    // The server has it when it has counted it as waiting.
    let mut direct = Client::tcp(proxy.port());
    direct.expect(&["PING"], "+PONG");
    proxy.terminate();
    let begun = Instant::now();
    assert_eq!(show(&writer.frame()), "+OK\\r\\n");
    assert_eq!(show(&writer.frame()), "$5\\r\\nafter\\r\\n");
    assert!(writer.until_closed().is_empty());
    assert!(idle.until_closed().is_empty());
    let status = proxy.wait(STEP).expect("it ends");
    assert_eq!(status.code(), Some(0));
    assert!(
        begun.elapsed() < Duration::from_secs(5),
        "it took {:?}",
        begun.elapsed()
    );
    assert!(
        Client::tcp_to("127.0.0.1", proxy.port()).is_err(),
        "nobody listens any more"
    );
}

#[test]
fn a_proxy_with_blocked_and_subscribed_clients_ends_in_time() {
    let server = Server::start();
    let toml = "[shutdown]\ndrain_timeout = \"1s\"\n";
    let mut proxy = Proxy::with_config(&server.url(), toml, &[]);
    let (mut blocked, mut subscriber) = (proxy.client(), proxy.client3());
    blocked.send(&["BLPOP", "q", "0"]);
    subscriber.cmd(&["SUBSCRIBE", "c"]);
    let mut direct = server.client();
    eventually("it is blocked", STEP, || {
        direct.text(&["INFO", "clients"]).contains("blocked_clients:1")
    });
    proxy.terminate();
    assert_eq!(proxy.wait(Duration::from_secs(5)).expect("it ends").code(), Some(0));
    let rest = blocked.until_closed();
    assert!(rest.is_empty() || rest.starts_with(b"-"), "{}", show(&rest));
    subscriber.until_closed();
    // And what was waited for is not lost.
    direct.expect(&["RPUSH", "q", "kept"], ":1");
    direct.expect(&["LPOP", "q"], "$4\r\nkept");
}

#[test]
fn an_upstream_that_is_away_does_not_keep_the_proxy_from_ending() {
    let mut server = Server::start();
    let mut proxy = Proxy::start(&server, &[]);
    let mut client = proxy.client();
    client.expect(&["SET", "k", "v"], "+OK");
    server.kill();
    client.send(&["GET", "k"]);
    proxy.terminate();
    assert_eq!(proxy.wait(Duration::from_secs(12)).expect("it ends").code(), Some(0));
}

#[test]
fn it_listens_on_sockets_and_ports_at_once() {
    let server = Server::start();
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("near.sock");
    // What a proxy that was killed leaves behind is no obstacle.
    drop(std::os::unix::net::UnixListener::bind(&path).expect("a socket file"));
    let listen = format!("unix:{}", path.display());
    let mut proxy = Proxy::start(&server, &["--listen", &listen, "--listen", "127.0.0.1:0"]);
    let (mut near, mut far) = (Client::unix(&path).expect("the socket is there"), proxy.client());
    near.expect(&["SET", "k", "v"], "+OK");
    far.expect(&["GET", "k"], "$1\r\nv");
    proxy.terminate();
    assert!(proxy.wait(STEP).is_some());
    assert!(!path.exists(), "the socket file goes with the proxy");
}

#[test]
fn a_socket_in_use_is_not_taken_away() {
    let server = Server::start();
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("near.sock");
    let listen = format!("unix:{}", path.display());
    let _first = Proxy::start(&server, &["--listen", &listen]);
    let refused = Proxy::try_start(&server.url(), "", &["--listen", &listen]).expect_err("the address is in use");
    assert!(refused.contains("near.sock"), "{refused}");
    Client::unix(&path)
        .expect("the first still listens")
        .expect(&["PING"], "+PONG");
}

#[test]
fn a_port_that_is_taken_is_named() {
    let server = Server::start();
    let port = free_port();
    let taken = std::net::TcpListener::bind(("127.0.0.1", port)).expect("it was free a moment ago");
    let address = format!("127.0.0.1:{port}");
    for extra in [["--listen", &address], ["--admin", &address]] {
        let refused = Proxy::try_start(&server.url(), "", &extra).expect_err("the port is taken");
        assert!(refused.contains(&address), "{refused}");
    }
    drop(taken);
}

#[test]
fn ipv6_is_served() {
    if std::net::TcpListener::bind("[::1]:0").is_err() {
        eprintln!("skipped: this machine has no IPv6 loopback");
        return;
    }
    let server = Server::start();
    let proxy = Proxy::start(&server, &["--listen", "[::1]:0"]);
    let mut client = Client::tcp_to("::1", proxy.port()).expect("the port is open");
    client.expect(&["SET", "k", "v"], "+OK");
    client.expect(&["GET", "k"], "$1\r\nv");
}

#[test]
fn databases_are_kept_apart() {
    let server = Server::with(&["--databases", "20"]);
    let proxy = Proxy::start(&server, &["--workers", "2"]);
    let mut clients: Vec<Client> = (0..20)
        .map(|db: usize| {
            let mut client = if db.is_multiple_of(2) {
                proxy.client()
            } else {
                proxy.client3()
            };
            client.expect(&["SELECT", &db.to_string()], "+OK");
            client.expect(&["SET", "k", &format!("in {db}")], "+OK");
            client
        })
        .collect();
    for _ in 0..3 {
        for (db, client) in clients.iter_mut().enumerate() {
            assert_eq!(client.bulk(&["GET", "k"]), Some(format!("in {db}").into_bytes()));
            assert_eq!(client.int(&["DBSIZE"]), 1);
        }
    }
    clients[7].expect(&["FLUSHDB"], "+OK");
    clients[3].expect(&["MOVE", "k", "7"], ":1");
    clients[9].expect(&["COPY", "k", "copied", "DB", "3"], ":1");
    assert_eq!(clients[7].bulk(&["GET", "k"]), Some(b"in 3".to_vec()));
    assert_eq!(clients[3].bulk(&["GET", "k"]), None);
    assert_eq!(clients[3].bulk(&["GET", "copied"]), Some(b"in 9".to_vec()));
    clients[1].expect(&["SELECT", "20"], "-ERR DB index is out of range");
    assert_eq!(clients[1].bulk(&["GET", "k"]), Some(b"in 1".to_vec()));
    // A transaction begins in the database of its client.
    clients[5].expect(&["WATCH", "k"], "+OK");
    clients[5].expect(&["MULTI"], "+OK");
    clients[5].expect(&["GET", "k"], "+QUEUED");
    clients[5].expect(&["EXEC"], "*1\r\n$4\r\nin 5");
    // A database in the address of the upstream is where clients begin.
    let url = format!("redis://127.0.0.1:{}/11", server.port());
    let elsewhere = Proxy::before(&url, &[]);
    let mut client = elsewhere.client();
    assert_eq!(client.bulk(&["GET", "k"]), Some(b"in 11".to_vec()));
    client.expect(&["SELECT", "0"], "+OK");
    assert_eq!(client.bulk(&["GET", "k"]), Some(b"in 0".to_vec()));
    client.expect(&["RESET"], "+RESET");
    let after = client.bulk(&["GET", "k"]);
    assert!(
        after == Some(b"in 11".to_vec()) || after == Some(b"in 0".to_vec()),
        "{after:?}"
    );
}

#[test]
fn standard_output_carries_addresses_and_nothing_else() {
    let server = Server::start();
    let dir = tempfile::tempdir().expect("a directory");
    let mut child = std::process::Command::new(env!("CARGO_BIN_EXE_nearcache"))
        .args([
            "--upstream",
            &server.url(),
            "--listen",
            "127.0.0.1:0",
            "--admin",
            "127.0.0.1:0",
            "--log-format",
            "json",
        ])
        .current_dir(dir.path())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .expect("the binary can be started");
    std::thread::sleep(Duration::from_millis(300));
    let pid = rustix::process::Pid::from_raw(child.id() as i32).expect("a process id is not zero");
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("it is alive");
    let end = Instant::now() + STEP;
    while child.try_wait().expect("a child can be waited for").is_none() {
        assert!(Instant::now() < end, "it does not end");
        std::thread::sleep(Duration::from_millis(2));
    }
    let output = child.wait_with_output().expect("its output can be read");
    let out = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        out.lines()
            .all(|l| l.starts_with("listening on ") || l.starts_with("admin listening on ")),
        "{out}"
    );
    let log = String::from_utf8_lossy(&output.stderr).into_owned();
    for line in log.lines() {
        assert!(
            serde_json::from_str::<serde_json::Value>(line).is_ok(),
            "a log line is JSON: {line}"
        );
    }
}

fn text(client: &mut Client, args: &[&str]) -> String {
    String::from_utf8_lossy(&client.bulk(args).expect("a text")).into_owned()
}

/// The reply with what differs from moment to moment left out.
fn text_of(frame: &[u8]) -> String {
    String::from_utf8_lossy(frame).into_owned()
}

fn stat(client: &mut Client, name: &str) -> u64 {
    let info = text(client, &["INFO", "nearcache"]);
    let line = format!("{name}:");
    let value = info
        .lines()
        .find_map(|l| l.strip_prefix(&line))
        .unwrap_or_else(|| panic!("{name} in {info}"));
    value
        .trim()
        .parse()
        .unwrap_or_else(|_| panic!("{name} is a number: {value}"))
}

fn status_in(body: &str) -> String {
    let json: serde_json::Value = serde_json::from_str(body).unwrap_or_default();
    json["status"].as_str().unwrap_or_default().to_owned()
}
