//! TLS to the upstream: everything works as without it, on every kind of connection; whatever is wrong with a certificate
//! is told in words that name it and say what to do; certificates and passwords are read again at SIGHUP.

use std::fs;

use crate::support::certificates::{Authority, Identity, Validity};
use crate::support::sentinel::Watched;
use crate::support::server::free_port;
use crate::support::{Client, Proxy, STEP, Server, eventually, show};

#[test]
fn every_kind_of_connection_speaks_tls() {
    let authority = Authority::new();
    let server = Tls::start(
        &authority.sign("server", &["localhost", "127.0.0.1"], Validity::Now),
        &authority,
        "no",
    );
    for host in ["localhost", "127.0.0.1"] {
        let proxy = Proxy::with_config(&server.url(host), &trusting(&authority), &["--workers", "2"]);
        let mut client = proxy.client3();
        client.expect(&["SET", "k", "v"], "+OK");
        client.expect(&["GET", "k"], "$1\r\nv");
        let before = server.server.calls("get");
        client.expect(&["GET", "k"], "$1\r\nv");
        assert_eq!(server.server.calls("get"), before, "a hit");
        // Another writer's change is pushed.
        server.server.client().expect(&["SET", "k", "w"], "+OK");
        eventually("the push arrives", STEP, || client.cmd(&["GET", "k"]) == b"$1\r\nw\r\n");
        // A connection of its own, the one for scripts, the one for subscriptions.
        let mut plain = proxy.client();
        plain.expect(&["WATCH", "k"], "+OK");
        plain.expect(&["MULTI"], "+OK");
        plain.expect(&["INCR", "n"], "+QUEUED");
        assert!(plain.cmd(&["EXEC"]).starts_with(b"*1\r\n:"));
        plain.expect(&["EVAL", "return redis.call('GET', KEYS[1])", "1", "k"], "$1\r\nw");
        let mut listener = proxy.client();
        listener.cmd(&["SUBSCRIBE", "c"]);
        plain.expect(&["PUBLISH", "c", "m"], ":1");
        assert!(listener.frame().ends_with(b"m\r\n"));
        // What is larger than a record, and than every buffer on the way, both ways.
        let large = "x".repeat(6 << 20);
        plain.expect(&["SET", "large", &large], "+OK");
        assert_eq!(plain.bulk(&["GET", "large"]).map(|v| v.len()), Some(large.len()));
        let medium = "y".repeat(300_000);
        for i in 0..40 {
            plain.send(&["SET", &format!("m{i}"), &medium]);
        }
        assert!(plain.frames(40).iter().all(|reply| reply == b"+OK\r\n"));
        for i in 0..40 {
            plain.send(&["GET", &format!("m{i}")]);
        }
        assert!(plain.frames(40).iter().all(|reply| reply.len() == medium.len() + 11));
        eventually("the upstream is known", STEP, || {
            proxy.http("/health").1.contains("\"healthy\"")
        });
    }
}

#[test]
fn a_client_certificate_is_shown_where_the_server_wants_one() {
    let authority = Authority::new();
    let server = Tls::start(
        &authority.sign("server", &["localhost"], Validity::Now),
        &authority,
        "yes",
    );
    let own = authority.sign("proxy", &["proxy"], Validity::Now);
    let proxy = Proxy::with_config(&server.url("localhost"), &with_identity(&authority, &own), &[]);
    proxy.client().expect(&["SET", "k", "v"], "+OK");

    let refused = refusal(&server.url("localhost"), &trusting(&authority));
    assert!(
        refused.contains("set upstream.tls_cert and upstream.tls_key"),
        "{refused}"
    );
    let stranger = Authority::new();
    let foreign = stranger.sign("proxy", &["proxy"], Validity::Now);
    let refused = refusal(&server.url("localhost"), &with_identity(&authority, &foreign));
    assert!(refused.contains("does not accept the proxy's certificate"), "{refused}");
}

#[test]
fn what_is_wrong_with_a_certificate_is_told() {
    let authority = Authority::new();
    let (good, expired) = (
        authority.sign("good", &["redis.example"], Validity::Now),
        authority.sign("expired", &["localhost"], Validity::Expired),
    );
    let server = Tls::start(&good, &authority, "no");
    let refused = refusal(&server.url("localhost"), &trusting(&authority));
    assert!(
        refused.contains("the server's certificate is not for \"localhost\": set upstream.tls_server_name"),
        "{refused}"
    );
    // The name may be said, and goes out as SNI.
    let named = format!("{}tls_server_name = \"redis.example\"\n", trusting(&authority));
    let proxy = Proxy::with_config(&server.url("localhost"), &named, &[]);
    proxy.client().expect(&["SET", "k", "v"], "+OK");

    let refused = refusal(&server.url("localhost"), &trusting(&Authority::new()));
    assert!(
        refused.contains("signed by nobody who is trusted here: name the CA's file in upstream.tls_ca"),
        "{refused}"
    );

    let server = Tls::start(&expired, &authority, "no");
    let refused = refusal(&server.url("localhost"), &trusting(&authority));
    assert!(
        refused.contains("the server's certificate has expired: renew it there"),
        "{refused}"
    );
}

#[test]
fn a_server_without_tls_is_told_from_one_that_is_away() {
    let (authority, server) = (Authority::new(), Server::start());
    let refused = refusal(&format!("rediss://localhost:{}", server.port()), &trusting(&authority));
    assert!(refused.contains("use redis:// instead of rediss://"), "{refused}");
    let absent = Server::absent();
    let refused = refusal(&format!("rediss://127.0.0.1:{}", absent.port()), &trusting(&authority));
    assert!(refused.contains("refused") && !refused.contains("TLS"), "{refused}");
}

#[test]
fn files_that_hold_nothing_useful_are_refused_at_the_start() {
    let authority = Authority::new();
    let empty = authority.path("empty");
    fs::write(&empty, "nothing\n").unwrap();
    let own = authority.sign("own", &["x"], Validity::Now);
    let other = authority.sign("other", &["x"], Validity::Now);
    for (toml, problem) in [
        (format!("[upstream]\ntls_ca = {empty:?}\n"), "upstream.tls_ca: "),
        (
            with_identity(
                &authority,
                &Identity {
                    key: empty.clone(),
                    ..own.clone()
                },
            ),
            "upstream.tls_key: ",
        ),
        (
            with_identity(&authority, &Identity { key: other.key, ..own }),
            "upstream.tls_cert and upstream.tls_key do not go together",
        ),
    ] {
        let why = Proxy::try_start("rediss://localhost:1", &toml, &[]).unwrap_err();
        assert!(why.contains(problem), "{why}");
    }
}

#[test]
fn certificates_are_read_again_at_a_signal() {
    let authority = Authority::new();
    let server = Tls::start(
        &authority.sign("server", &["localhost"], Validity::Now),
        &authority,
        "no",
    );
    let ca = authority.path("trusted.pem");
    fs::copy(&Authority::new().ca, &ca).unwrap();
    let toml = format!("[upstream]\ntls_ca = {ca:?}\nreconnect_max = \"100ms\"\n");
    let proxy = Proxy::with_config(&server.url("localhost"), &toml, &[]);
    let mut client = proxy.client();
    assert!(client.text(&["GET", "k"]).contains("upstream.tls_ca"));
    // A file that is broken changes nothing, and is told.
    fs::write(&ca, "broken\n").unwrap();
    proxy.hang_up();
    eventually("the failure is told", STEP, || {
        proxy
            .log()
            .contains("what was in effect stays in effect: upstream.tls_ca")
    });
    fs::copy(&authority.ca, &ca).unwrap();
    proxy.hang_up();
    eventually("the new one is used", STEP, || {
        client.cmd(&["SET", "k", "v"]) == b"+OK\r\n"
    });
}

#[test]
fn a_password_is_read_again_at_a_signal() {
    let server = Server::with(&["--requirepass", "first"]);
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("password");
    fs::write(&file, "first\n").unwrap();
    let toml = format!("[upstream]\npassword_file = {file:?}\nreconnect_max = \"100ms\"\n");
    let proxy = Proxy::with_config(&server.url_tcp(), &toml, &[]);
    let mut client = proxy.client();
    client.expect(&["AUTH", "first"], "+OK");
    client.expect(&["SET", "k", "v"], "+OK");
    let mut direct = server.client();
    direct.expect(&["CONFIG", "SET", "requirepass", "second"], "+OK");
    fs::write(&file, "second\n").unwrap();
    proxy.hang_up();
    eventually("it is read", STEP, || proxy.log().contains("are read again"));
    // What is up stays up; what is made anew uses the new one.
    client.expect(&["GET", "k"], "$1\r\nv");
    direct.cmd(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
    eventually("new connections use the new one", STEP, || {
        client.cmd(&["SET", "k", "w"]) == b"+OK\r\n"
    });
    // And so must clients.
    let mut late = proxy.client();
    assert!(late.text(&["AUTH", "first"]).starts_with("-WRONGPASS"));
    late.expect(&["AUTH", "second"], "+OK");
    // The other worker's connection may still be on its way.
    eventually("the late client is served", STEP, || {
        late.cmd(&["GET", "k"]) == b"$1\r\nw\r\n"
    });
}

#[test]
fn the_configuration_is_read_again_at_a_signal_and_applied_whole_or_not_at_all() {
    let server = Server::with(&["--requirepass", "first"]);
    let toml =
        |l1: &str, upstream: &str| format!("[cache]\nl1 = {l1:?}\n[upstream]\nreconnect_max = \"100ms\"\n{upstream}\n");
    let proxy = Proxy::with_config(&server.url_tcp(), &toml("8MiB", "password = \"first\""), &[]);
    let budget = || proxy.metric("nearcache_l1_budget_bytes", &[]);
    let mut client = proxy.client();
    client.expect(&["AUTH", "first"], "+OK");
    client.expect(&["SET", "k", "v"], "+OK");
    // A file that is not there, and the rest is as good as not read.
    proxy.rewrite_config(&toml("6MiB", "password_file = \"/nowhere/password\""));
    proxy.hang_up();
    eventually("it is refused", STEP, || proxy.log().contains("stays in effect"));
    assert_eq!(budget(), Some((8 << 20) as f64));
    // A password that stands in the file itself, and a budget for which the largest values are too large.
    let mut direct = server.client();
    direct.expect(&["CONFIG", "SET", "requirepass", "second"], "+OK");
    proxy.rewrite_config(&toml("2MiB", "password = \"second\""));
    proxy.hang_up();
    eventually("it is read", STEP, || budget() == Some((2 << 20) as f64));
    direct.cmd(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
    eventually("new connections use the new password", STEP, || {
        client.cmd(&["SET", "k", "w"]) == b"+OK\r\n"
    });
    assert!(proxy.log().contains("cache.max_value allows are not kept"));
    // What needs a restart is told, and no password goes where it was not meant to.
    proxy.rewrite_config(&toml("2MiB", "password = \"third\"\nread_timeout = \"5s\""));
    proxy.hang_up();
    eventually("it is read too", STEP, || {
        proxy.log().matches("are read again").count() == 2
    });
    proxy.client().expect(&["AUTH", "third"], "+OK");
}

#[test]
fn a_signal_without_files_is_no_end() {
    let server = Server::start();
    let proxy = Proxy::start(&server, &[]);
    proxy.hang_up();
    eventually("it says so", STEP, || proxy.log().contains("nothing to read again"));
    proxy.client().expect(&["SET", "k", "v"], "+OK");
}

#[test]
fn an_upstream_on_ipv6() {
    let server = Server::with(&["--bind", "::1"]);
    let proxy = Proxy::before(&format!("redis://[::1]:{}", server.port()), &[]);
    let mut client = proxy.client();
    client.expect(&["SET", "k", "v"], "+OK");
    client.expect(&["WATCH", "k"], "+OK");
    client.expect(&["UNWATCH"], "+OK");
    drop(server);
    eventually("the error names it", STEP, || {
        client.text(&["GET", "other"]).contains("upstream [::1]:")
    });
}

#[test]
fn sentinels_and_nodes_over_tls() {
    let authority = Authority::new();
    let identity = authority.sign("all", &["127.0.0.1"], Validity::Now);
    let watched = Watched::over_tls(&authority, &identity);
    let proxy = Proxy::with_config(&watched.url(), &trusting(&authority), &[]);
    let mut client = proxy.client();
    client.expect(&["SET", "k", "v"], "+OK");
    client.expect(&["GET", "k"], "$1\r\nv");
    watched.fail_over(0);
    eventually("it is followed", STEP, || {
        proxy.metric("nearcache_upstream_switches_total", &[]) == Some(1.0)
            && client.cmd(&["SET", "k", "w"]) == b"+OK\r\n"
    });
    let new = watched.primary_other_than(0).unwrap();
    assert_eq!(watched.nodes[new].client().bulk(&["GET", "k"]), Some(b"w".to_vec()));
}

/// A server that speaks TLS at a port of its own.
struct Tls {
    server: Server,
    port: u16,
}

impl Tls {
    fn start(identity: &Identity, authority: &Authority, clients_need_one: &str) -> Tls {
        for _ in 0..20 {
            let port = free_port();
            let path = |path: &std::path::Path| path.to_str().expect("a temporary path is text").to_owned();
            let (cert, key, ca) = (path(&identity.cert), path(&identity.key), path(&authority.ca));
            let number = port.to_string();
            let server = Server::with(&[
                "--tls-port",
                &number,
                "--tls-cert-file",
                &cert,
                "--tls-key-file",
                &key,
                "--tls-ca-cert-file",
                &ca,
                "--tls-auth-clients",
                clients_need_one,
            ]);
            if std::net::TcpStream::connect(("127.0.0.1", port)).is_ok() {
                return Tls { server, port };
            }
        }
        panic!("no server with TLS starts");
    }

    fn url(&self, host: &str) -> String {
        format!("rediss://{host}:{}", self.port)
    }
}

/// What a client is told when the upstream cannot be reached in this way; it is in the log, too.
fn refusal(url: &str, toml: &str) -> String {
    let proxy = Proxy::with_config(url, toml, &[]);
    let mut client: Client = proxy.client();
    let refused = client.text(&["GET", "k"]);
    assert!(
        refused.starts_with("-ERR nearcache: upstream ") && refused.contains(" is unavailable: "),
        "{refused}"
    );
    let why = refused.split(" is unavailable: ").nth(1).unwrap_or_default().trim();
    // Each attempt tells the time at which it looked at the certificate.
    let why = why.split("verification time").next().unwrap_or_default();
    assert!(
        proxy.log().contains(why.split('"').next().unwrap()),
        "{}",
        show(proxy.log().as_bytes())
    );
    let pinned = client.text(&["WATCH", "k"]);
    assert!(pinned.contains(why), "{pinned}");
    refused
}

fn trusting(authority: &Authority) -> String {
    format!("[upstream]\ntls_ca = {:?}\n", authority.ca)
}

fn with_identity(authority: &Authority, own: &Identity) -> String {
    format!(
        "{}tls_cert = {:?}\ntls_key = {:?}\n",
        trusting(authority),
        own.cert,
        own.key
    )
}
