//! The admin API: what it tells is true, is told in the form that Prometheus reads, and is told to nobody who has no
//! business with it.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use serde_json::Value;

use crate::support::server::free_port;
use crate::support::{Proxy, STEP, Server, eventually};

#[test]
fn hits_and_misses_are_those_that_happened() {
    let server = Server::start();
    let proxy = Proxy::start(&server, &["--workers", "1"]);
    wait_until(&proxy, "healthy");
    server.client().expect(&["SET", "key", "value"], "+OK");
    let mut client = proxy.client();
    for _ in 0..10 {
        client.expect(&["GET", "key"], "$5\r\nvalue");
    }
    let l1 = &["cache_layer=\"l1\"", "cache_type=\"default\""];
    assert_eq!(proxy.metric("cache_hits_total", l1), Some(9.0));
    assert_eq!(proxy.metric("cache_misses_total", l1), Some(1.0));
    assert_eq!(proxy.metric("cache_evictions_total", l1), Some(0.0));
    assert!(proxy.metric("cache_size_bytes", l1).unwrap() >= 8.0);
    let l1_get = &["cache_layer=\"l1\"", "operation=\"get\""];
    assert_eq!(proxy.metric("cache_throughput_ops_total", l1_get), Some(10.0));
    assert_eq!(
        proxy.metric(
            "cache_throughput_ops_total",
            &["cache_layer=\"l1\"", "operation=\"set\""]
        ),
        Some(1.0)
    );
    assert!(
        proxy
            .metric("cache_throughput_ops_total", &["cache_layer=\"l2\""])
            .unwrap()
            >= 2.0
    );
    assert_eq!(
        proxy.metric("cache_operation_duration_seconds_count", l1_get),
        Some(9.0)
    );
    assert!(
        proxy
            .metric("cache_operation_duration_seconds_count", &["cache_layer=\"l2\""])
            .unwrap()
            >= 2.0
    );
    assert_eq!(proxy.metric("nearcache_l1_entries", &[]), Some(1.0));
    assert_eq!(proxy.metric("nearcache_clients", &[]), Some(1.0));
    assert_eq!(proxy.metric("nearcache_requests_total", &[]), Some(10.0));
    assert_eq!(proxy.metric("nearcache_links_tracked", &[]), Some(1.0));
    assert_eq!(proxy.metric("nearcache_upstream_up", &[]), Some(1.0));
    assert_eq!(
        proxy.metric("nearcache_upstream_info", &["server=\"redis\""]),
        Some(1.0)
    );
    assert_eq!(
        proxy.metric("nearcache_build_info", &[env!("CARGO_PKG_VERSION")]),
        Some(1.0)
    );
    server.client().expect(&["SET", "key", "other"], "+OK");
    eventually("the push is counted", STEP, || {
        proxy.metric("nearcache_pushes_total", &[]) == Some(1.0)
    });
    assert_eq!(proxy.metric("nearcache_l1_voids_total", &[]), Some(1.0));
}

#[test]
fn the_text_is_what_prometheus_reads() {
    let server = Server::start();
    let port = free_port();
    let proxy = Proxy::start(&server, &["--admin", &format!("127.0.0.1:{port}")]);
    let mut client = proxy.client();
    for _ in 0..3 {
        client.expect(&["GET", "absent"], "$-1");
    }
    let (head, text) = ask(&request("GET", "/metrics", "127.0.0.1"), port);
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    assert!(
        head.to_lowercase().contains("content-type: text/plain; version=0.0.4"),
        "{head}"
    );
    let mut kinds = BTreeMap::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').expect("a type has a name and a kind");
            assert!(
                kinds.insert(name.to_owned(), kind.to_owned()).is_none(),
                "{name} is there twice"
            );
        } else if !line.starts_with("# HELP ") {
            let (series, value) = line.rsplit_once(' ').expect("a sample has a value");
            assert!(value.parse::<f64>().is_ok(), "{line}");
            let name = series.split('{').next().unwrap();
            let base = ["_bucket", "_sum", "_count"]
                .iter()
                .find_map(|end| name.strip_suffix(end))
                .unwrap_or(name);
            let kind = kinds
                .get(name)
                .or(kinds.get(base))
                .unwrap_or_else(|| panic!("{line} comes before its type"));
            assert_eq!(kind == "counter", name.ends_with("_total"), "{line}");
        }
    }
    assert_eq!(
        kinds.get("cache_operation_duration_seconds").map(String::as_str),
        Some("histogram")
    );
    // Every bucket counts at least what the one before it counts, and the last one everything.
    for layer in ["l1", "l2"] {
        let label = format!("cache_layer=\"{layer}\"");
        let of = |name: &str| -> Vec<f64> {
            let lines = text.lines().filter(|l| l.starts_with(name) && l.contains(&label));
            lines.map(|l| l.rsplit(' ').next().unwrap().parse().unwrap()).collect()
        };
        let buckets = of("cache_operation_duration_seconds_bucket{");
        assert!(buckets.len() > 10 && buckets.is_sorted(), "{layer}: {buckets:?}");
        assert_eq!(
            buckets.last(),
            of("cache_operation_duration_seconds_count{").first(),
            "{layer}"
        );
    }
}

#[test]
fn json_has_the_same_metrics_as_the_text() {
    let server = Server::start();
    let proxy = Proxy::start(&server, &[]);
    let (status, text) = proxy.http("/metrics");
    assert_eq!(status, 200);
    let (status, json) = proxy.http("/api/metrics");
    assert_eq!(status, 200);
    let json: Value = serde_json::from_str(&json).expect("/api/metrics is JSON");
    let in_json: BTreeSet<String> = json.as_object().expect("an object").keys().cloned().collect();
    assert_eq!(in_json, names_of(&text));
    assert_eq!(json["nearcache_workers"]["samples"][0]["value"], 2);
    assert_eq!(json["cache_hits_total"]["samples"][0]["labels"]["cache_layer"], "l1");
}

#[test]
fn the_readme_lists_every_metric_and_no_other() {
    let server = Server::start();
    let dir = tempfile::tempdir().unwrap();
    let proxy = Proxy::start(&server, &["--l3", dir.path().to_str().unwrap(), "--l3-size", "16MiB"]);
    let readme = include_str!("../../README.md");
    let rows = readme
        .lines()
        .filter(|line| line.starts_with("| `cache_") || line.starts_with("| `nearcache_"));
    let listed: BTreeSet<String> = rows
        .flat_map(|row| row.split('|').nth(1).unwrap_or_default().split('`'))
        .map(|name| name.split('{').next().unwrap_or_default().to_owned())
        .filter(|name| name.starts_with("cache_") || name.starts_with("nearcache_"))
        .collect();
    assert_eq!(listed, names_of(&proxy.http("/metrics").1));
}

#[test]
fn health_follows_the_upstream_down_and_up() {
    let mut server = Server::absent();
    let proxy = Proxy::start(&server, &[]);
    let health = wait_until(&proxy, "unhealthy");
    assert_eq!(proxy.http("/health").0, 503);
    assert_eq!(health["layers"]["l2"]["status"], "unhealthy");
    assert_eq!(health["reasons"][0], "the upstream cannot be reached");
    assert_eq!(proxy.metric("nearcache_upstream_up", &[]), Some(0.0));
    assert_eq!(proxy.metric("nearcache_health", &["status=\"unhealthy\""]), Some(1.0));

    server.restart();
    let health = wait_until(&proxy, "healthy");
    assert_eq!(proxy.http("/health").0, 200);
    assert_eq!(health["layers"]["l1"]["status"], "healthy");
    assert_eq!(health["layers"]["l1"]["caching"], "tracked");
    assert_eq!(health["layers"]["l2"]["links_tracked"], 2);
    assert_eq!(health["reasons"], serde_json::json!([]));
    assert!(health["uptime_seconds"].is_u64(), "{health}");
    assert!(
        health["last_check"]
            .as_str()
            .is_some_and(|at| at.len() == 20 && at.ends_with('Z')),
        "{health}"
    );
    assert_eq!(proxy.metric("nearcache_health", &["status=\"healthy\""]), Some(1.0));
    assert_eq!(proxy.metric("nearcache_health", &[]), Some(1.0));

    server.kill();
    wait_until(&proxy, "unhealthy");
    assert_eq!(proxy.metric("nearcache_links_lost_total", &[]), Some(2.0));
}

#[test]
fn an_upstream_that_falls_silent_is_degraded() {
    let server = Server::start();
    let proxy = Proxy::start(&server, &[]);
    wait_until(&proxy, "healthy");
    server.freeze();
    let health = wait_until(&proxy, "degraded");
    let reason = health["reasons"][0].as_str().unwrap_or_default().to_owned();
    server.thaw();
    assert!(reason.contains("not answered within the staleness bound"), "{health}");
    assert_eq!(health["layers"]["l1"]["status"], "degraded");
    wait_until(&proxy, "healthy");
}

#[test]
fn refused_tracking_is_degraded_and_served() {
    let server = Server::with(&["--rename-command", "CLIENT", ""]);
    let proxy = Proxy::start(&server, &[]);
    eventually("both links are up", STEP, || {
        proxy.metric("nearcache_links_refused", &[]) == Some(2.0)
    });
    let health = wait_until(&proxy, "degraded");
    assert_eq!(proxy.http("/health").0, 200);
    assert_eq!(health["layers"]["l1"]["caching"], "refused");
    assert_eq!(health["layers"]["l2"]["status"], "healthy");
    let reasons = health["reasons"].to_string();
    assert!(reasons.contains("refuses CLIENT TRACKING"), "{reasons}");
    assert!(
        health["last_trouble"].as_str().is_some_and(|t| t.contains("TRACKING")),
        "{health}"
    );
}

#[test]
fn unknown_paths_and_methods_are_told_what_there_is() {
    let server = Server::start();
    let proxy = Proxy::start(&server, &[]);
    for path in ["/", "/metric", "/metrics/", "/api/cache/invalidate", "/..%2f"] {
        let (status, body) = proxy.http(path);
        assert_eq!(status, 404, "{path}");
        assert!(
            body.contains("GET /metrics") && body.contains("GET /health"),
            "{path}: {body}"
        );
    }
    for method in ["POST", "PUT", "DELETE", "OPTIONS"] {
        assert_eq!(proxy.http_with(method, "/metrics", "{}").0, 405, "{method}");
    }
    assert_eq!(proxy.http_with("POST", "/metrics", &"x".repeat(40 << 10)).0, 413);
}

#[test]
fn a_page_that_rebinds_its_name_to_this_machine_gets_nothing() {
    let server = Server::start();
    let port = free_port();
    let proxy = Proxy::start(&server, &["--admin", &format!("127.0.0.1:{port}")]);
    wait_until(&proxy, "healthy");
    for host in ["localhost", &format!("localhost:{port}"), "127.0.0.1", "[::1]:80"] {
        let (head, _) = ask(&request("GET", "/health", host), port);
        assert!(head.starts_with("HTTP/1.1 200 "), "{host}: {head}");
    }
    for host in [
        "rebound.example",
        "localhost.rebound.example:9091",
        "10.1.2.3",
        "a@localhost",
        "",
    ] {
        for path in ["/metrics", "/api/metrics", "/health", "/elsewhere"] {
            let (head, body) = ask(&request("GET", path, host), port);
            assert!(head.starts_with("HTTP/1.1 403 "), "{host} {path}: {head}");
            assert!(!body.contains("cache_hits_total"), "{host} {path}");
        }
    }
    let (head, _) = ask("GET /health HTTP/1.1\r\n\r\n", port);
    assert!(head.starts_with("HTTP/1.1 400 "), "{head}");
    let (head, _) = ask("GET /health HTTP/1.0\r\n\r\n", port);
    assert!(head.contains(" 200 "), "{head}");
    drop(proxy);
}

#[test]
fn nobody_can_take_the_admin_api_from_the_others() {
    let server = Server::start();
    let port = free_port();
    let proxy = Proxy::start(&server, &["--admin", &format!("127.0.0.1:{port}")]);
    wait_until(&proxy, "healthy");
    // Endless headers end with the connection.
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_write_timeout(Some(STEP)).unwrap();
    let line = format!("X: {}\r\n", "x".repeat(8 << 10));
    let taken = stream
        .write_all(b"GET /health HTTP/1.1\r\n")
        .and_then(|()| (0..64).try_for_each(|_| stream.write_all(line.as_bytes())));
    let mut reply = String::new();
    let closed = stream.read_to_string(&mut reply);
    assert!(
        taken.is_err() || closed.is_err() || !reply.contains(" 200 "),
        "half a MiB of headers: {reply}"
    );
    // Idle connections lose their place to those that wait.
    let idle: Vec<TcpStream> = (0..80)
        .map(|_| TcpStream::connect(("127.0.0.1", port)).unwrap())
        .collect();
    let mut asking = TcpStream::connect(("127.0.0.1", port)).unwrap();
    asking.set_read_timeout(Some(Duration::from_secs(40))).unwrap();
    asking
        .write_all(request("GET", "/health", "localhost").as_bytes())
        .unwrap();
    let mut reply = String::new();
    asking.read_to_string(&mut reply).expect("an answer");
    assert!(reply.starts_with("HTTP/1.1 200 "), "{reply}");
    drop((idle, proxy));
}

#[test]
fn an_open_connection_does_not_keep_the_proxy_from_ending() {
    let server = Server::start();
    let port = free_port();
    let mut proxy = Proxy::start(&server, &["--admin", &format!("127.0.0.1:{port}")]);
    let idle = TcpStream::connect(("127.0.0.1", port)).unwrap();
    let mut half = TcpStream::connect(("127.0.0.1", port)).unwrap();
    half.write_all(b"GET /health HT").unwrap();
    wait_until(&proxy, "healthy");
    proxy.terminate();
    let status = proxy.wait(Duration::from_secs(5)).expect("it ends");
    assert!(status.success(), "{status}");
    drop((idle, half));
}

/// Polls `/health` until it tells `status`, and returns all that it tells.
#[track_caller]
fn wait_until(proxy: &Proxy, status: &str) -> Value {
    let mut health = Value::Null;
    eventually(&format!("/health is {status}"), STEP, || {
        let (_, body) = proxy.http("/health");
        health = serde_json::from_str(&body).unwrap_or_else(|e| panic!("/health answers JSON, {e}: {body}"));
        health["status"] == status
    });
    health
}

fn names_of(text: &str) -> BTreeSet<String> {
    let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    types
        .filter_map(|rest| rest.split(' ').next())
        .map(str::to_owned)
        .collect()
}

fn request(method: &str, path: &str, host: &str) -> String {
    format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\n\r\n")
}

/// Sends exactly this and returns head and body of the reply, up to the end of the connection.
#[track_caller]
fn ask(request: &str, port: u16) -> (String, String) {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("the admin port is open");
    stream.set_read_timeout(Some(STEP)).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut reply = String::new();
    stream.read_to_string(&mut reply).expect("a reply that ends");
    let (head, body) = reply.split_once("\r\n\r\n").unwrap_or((&reply, ""));
    (head.to_owned(), body.to_owned())
}
