//! Nobody gains by coming through the proxy: passwords, users, and who is served without one.

use std::net::UdpSocket;

use crate::support::{Client, Proxy, STEP, Server, eventually, show};

const NOAUTH: &str = "-NOAUTH Authentication required.";

#[test]
fn with_a_password_upstream_clients_must_show_it() {
    let server = Server::with(&["--requirepass", "s3cr3t"]);
    let proxy = Proxy::before(&format!("redis://:s3cr3t@127.0.0.1:{}", server.port()), &[]);
    let mut known = proxy.client();
    known.expect(&["AUTH", "s3cr3t"], "+OK");
    known.expect(&["SET", "k", "cached"], "+OK");
    known.expect(&["GET", "k"], "$6\r\ncached");
    known.expect(&["GET", "k"], "$6\r\ncached");
    let mut stranger = proxy.client();
    for line in [
        "GET k",
        "MGET k",
        "EXISTS k",
        "TTL k",
        "STRLEN k",
        "SET k mine",
        "DEL k",
        "PING",
        "ECHO x",
        "SELECT 1",
        "INFO",
        "CLIENT LIST",
        "COMMAND",
        "MULTI",
        "WATCH k",
        "SUBSCRIBE c",
        "MONITOR",
        "BLPOP k 0",
        "EVAL return{} 0",
        "CONFIG GET requirepass",
        "NEARCACHE EXPLAIN k",
        "NEARCACHE STATS",
        "CLIENT TRACKING on",
        "CLIENT REPLY OFF",
        "DEBUG SLEEP 0",
        "FLUSHALL",
    ] {
        stranger.expect(&line.split(' ').collect::<Vec<_>>(), NOAUTH);
    }
    stranger.expect(
        &["AUTH", "wrong"],
        "-WRONGPASS invalid username-password pair or user is disabled.",
    );
    stranger.expect(
        &["AUTH", "default", "wrong"],
        "-WRONGPASS invalid username-password pair or user is disabled.",
    );
    stranger.expect(
        &["AUTH", "nobody", "s3cr3t"],
        "-WRONGPASS invalid username-password pair or user is disabled.",
    );
    stranger.expect(
        &["AUTH", ""],
        "-WRONGPASS invalid username-password pair or user is disabled.",
    );
    stranger.expect(
        &["AUTH", "s3cr3t "],
        "-WRONGPASS invalid username-password pair or user is disabled.",
    );
    stranger.expect(&["GET", "k"], NOAUTH);
    assert!(
        stranger
            .text(&["HELLO", "3"])
            .starts_with("-NOAUTH HELLO must be called")
    );
    assert!(
        stranger
            .text(&["HELLO", "3", "AUTH", "default", "wrong"])
            .starts_with("-WRONGPASS")
    );
    stranger.expect(&["GET", "k"], NOAUTH);
    assert!(
        stranger
            .text(&["HELLO", "3", "AUTH", "default", "s3cr3t", "SETNAME", "me"])
            .starts_with('%')
    );
    stranger.expect(&["GET", "k"], "$6\r\ncached");
    stranger.expect(&["CLIENT", "GETNAME"], "$2\r\nme");
    // A wrong password afterwards changes nothing; RESET forgets.
    assert!(stranger.text(&["AUTH", "wrong"]).starts_with("-WRONGPASS"));
    stranger.expect(&["GET", "k"], "$6\r\ncached");
    stranger.expect(&["RESET"], "+RESET");
    stranger.expect(&["GET", "k"], NOAUTH);
    // In one write: what follows the AUTH is allowed, what precedes it is not.
    let mut hasty = proxy.client();
    hasty.raw(b"GET k\r\nAUTH s3cr3t\r\nGET k\r\nRESET\r\nGET k\r\n");
    let replies: Vec<String> = hasty.frames(5).iter().map(|f| show(f)).collect();
    assert_eq!(
        replies,
        [
            &format!("{NOAUTH}\\r\\n"),
            "+OK\\r\\n",
            "$6\\r\\ncached\\r\\n",
            "+RESET\\r\\n",
            &format!("{NOAUTH}\\r\\n")
        ]
    );
    assert!(
        !proxy.log().contains("s3cr3t"),
        "the log keeps the secret: {}",
        proxy.log()
    );
}

#[test]
fn a_password_of_the_proxys_own() {
    let server = Server::with(&["--requirepass", "upstream"]);
    let url = format!("redis://:upstream@127.0.0.1:{}", server.port());
    let toml = "[auth]\nmode = \"password\"\nuser = \"app\"\npassword = \"own\"\n";
    let proxy = Proxy::with_config(&url, toml, &[]);
    let mut client = proxy.client();
    client.expect(&["GET", "k"], NOAUTH);
    for wrong in [
        vec!["AUTH", "own"],
        vec!["AUTH", "upstream"],
        vec!["AUTH", "app", "upstream"],
        vec!["AUTH", "default", "own"],
    ] {
        assert!(client.text(&wrong).starts_with("-WRONGPASS"), "{wrong:?}");
    }
    client.expect(&["AUTH", "app", "own"], "+OK");
    client.expect(&["SET", "k", "v"], "+OK");
    client.expect(&["GET", "k"], "$1\r\nv");
    client.expect(&["WATCH", "k"], "+OK");
    client.expect(&["MULTI"], "+OK");
    client.expect(&["EXEC"], "*0");
}

#[test]
fn no_password_where_the_operator_says_so() {
    let server = Server::with(&["--requirepass", "upstream"]);
    let url = format!("redis://:upstream@127.0.0.1:{}", server.port());
    let proxy = Proxy::with_config(&url, "[auth]\nmode = \"none\"\n", &[]);
    let mut client = proxy.client();
    client.expect(&["SET", "k", "v"], "+OK");
    client.expect(&["BLPOP", "none", "0.01"], "*-1");
    client.hello3().expect(&["GET", "k"], "$1\r\nv");
}

#[test]
fn the_wrong_password_for_the_upstream_is_told() {
    let server = Server::with(&["--requirepass", "right"]);
    let url = format!("redis://:wrong@127.0.0.1:{}", server.port());
    let proxy = Proxy::with_config(&url, "[auth]\nmode = \"none\"\n", &[]);
    let mut client = proxy.client();
    client.expect(&["PING"], "+PONG");
    let mut refused = String::new();
    eventually("the error says why", crate::support::STEP, || {
        refused = client.text(&["GET", "k"]);
        refused.contains("WRONGPASS")
    });
    assert!(refused.starts_with("-ERR nearcache: upstream "), "{refused}");
    assert!(
        !refused.contains("wrong@") && !proxy.log().contains(":wrong@"),
        "the secret is not told: {refused}"
    );
}

#[test]
fn another_user_of_the_upstream_gets_its_rights_and_no_more() {
    let server = Server::with(&["--requirepass", "s3cr3t"]);
    let mut admin = server.client();
    admin.expect(
        &["ACL", "SETUSER", "limited", "on", ">pw", "~public:*", "&*", "+@all"],
        "+OK",
    );
    admin.expect(&["MSET", "secret", "hidden", "public:1", "open"], "+OK");
    let proxy = Proxy::before(&format!("redis://:s3cr3t@127.0.0.1:{}", server.port()), &[]);
    let mut known = proxy.client();
    known.expect(&["AUTH", "s3cr3t"], "+OK");
    known.expect(&["GET", "secret"], "$6\r\nhidden");
    known.expect(&["GET", "secret"], "$6\r\nhidden");
    let mut limited = proxy.client();
    let reply = limited.text(&["AUTH", "limited", "pw"]);
    if reply == "+OK\r\n" {
        for line in [
            "GET secret",
            "MGET secret",
            "EXISTS secret",
            "STRLEN secret",
            "TTL secret",
            "SET secret x",
            "EVAL return{redis.call('GET',KEYS[1])} 1 secret",
        ] {
            let reply = limited.text(&line.split(' ').collect::<Vec<_>>());
            assert!(reply.starts_with("-NOPERM"), "{line}: {reply}");
        }
        limited.expect(&["GET", "public:1"], "$4\r\nopen");
        limited.expect(&["SET", "public:1", "written"], "+OK");
        known.expect(&["GET", "public:1"], "$7\r\nwritten");
        assert!(limited.text(&["MULTI"]).starts_with("+OK"));
        assert!(limited.text(&["GET", "secret"]).starts_with("-NOPERM"));
    } else {
        assert!(reply.starts_with("-WRONGPASS"), "{reply}");
        limited.expect(&["GET", "public:1"], NOAUTH);
    }
}

const WRONGPASS: &str = "-WRONGPASS invalid username-password pair or user is disabled.";

#[test]
fn a_password_that_a_client_sets_changes_and_removes() {
    let server = Server::start();
    let proxy = Proxy::start(&server, &[]);
    let mut old = proxy.client();
    old.expect(&["SET", "k", "v"], "+OK");
    old.expect(&["CONFIG", "SET", "requirepass", "s3cr3t"], "+OK");
    let mut new = proxy.client();
    for line in ["GET k", "PING", "CONFIG GET requirepass", "MULTI"] {
        new.expect(&line.split(' ').collect::<Vec<_>>(), NOAUTH);
    }
    new.expect(&["AUTH", "wrong"], WRONGPASS);
    new.expect(&["AUTH", "s3cr3t"], "+OK");
    new.expect(&["GET", "k"], "$1\r\nv");
    // Whoever was there before goes on, also over connections that are only made now: none has this version yet.
    let mut old = old.hello3();
    old.expect(&["GET", "k"], "$1\r\nv");
    old.expect(&["BLPOP", "none", "0.01"], "_");
    // What the server refuses changes nothing.
    assert!(
        old.text(&["CONFIG", "SET", "requirepass", "x", "maxmemory", "y"])
            .starts_with("-ERR")
    );
    proxy.client().expect(&["AUTH", "x"], WRONGPASS);

    old.expect(&["MULTI"], "+OK");
    old.expect(&["CONFIG", "SET", "requirepass", "other"], "+QUEUED");
    old.expect(&["EXEC"], "*1\r\n+OK");
    let (mut new, mut waiting) = (proxy.client(), proxy.client());
    new.expect(&["AUTH", "s3cr3t"], WRONGPASS);
    new.expect(&["AUTH", "other"], "+OK");
    waiting.expect(&["GET", "k"], NOAUTH);

    new.expect(&["CONFIG", "SET", "requirepass", ""], "+OK");
    waiting.expect(&["GET", "k"], "$1\r\nv");
    let several: Vec<_> = (0..4)
        .map(|_| {
            let mut client = proxy.client();
            client.send(&["BLPOP", "none", "0.05"]);
            client
        })
        .collect();
    for mut client in several {
        assert_eq!(show(&client.frame()), "*-1\\r\\n");
    }
    assert!(
        !proxy.log().contains("s3cr3t"),
        "the log keeps the secret: {}",
        proxy.log()
    );
}

#[test]
fn a_password_that_is_set_without_a_reply() {
    for is_closed in [false, true] {
        let server = Server::start();
        let proxy = Proxy::start(&server, &[]);
        let mut client = proxy.client();
        client.expect(&["SET", "k", "v"], "+OK");
        client.send(&["CLIENT", "REPLY", "OFF"]);
        client.send(&["CONFIG", "SET", "requirepass", "s3cr3t"]);
        if is_closed {
            client.close();
        } else {
            client.expect(&["CLIENT", "REPLY", "ON"], "+OK");
        }
        eventually("the door is locked", STEP, || {
            show(&proxy.client().cmd(&["GET", "k"])).starts_with(NOAUTH)
        });
        let mut new = proxy.client();
        new.expect(&["AUTH", "s3cr3t"], "+OK");
        new.expect(&["GET", "k"], "$1\r\nv");
        new.expect(&["BLPOP", "none", "0.01"], "*-1");
    }
}

#[test]
fn of_two_passwords_that_are_set_at_the_same_time_the_servers_counts() {
    let server = Server::start();
    let proxy = Proxy::start(&server, &["--workers", "2"]);
    let mut clients = [proxy.client(), proxy.client(), proxy.client(), proxy.client()];
    for client in &mut clients {
        client.expect(&["PING"], "+PONG");
    }
    for round in 0..20 {
        for (i, client) in clients.iter_mut().enumerate() {
            client.send(&["CONFIG", "SET", "requirepass", &format!("{round}-{i}")]);
        }
        for client in &mut clients {
            assert_eq!(show(&client.frame()), r"+OK\r\n");
        }
        let shown = clients[0].text(&["CONFIG", "GET", "requirepass"]);
        let valid = shown.trim_end().rsplit("\r\n").next().unwrap().to_owned();
        eventually("the server's password is the proxy's", STEP, || {
            proxy.client().cmd(&["AUTH", &valid]) == b"+OK\r\n"
        });
        let others = (0..4).map(|i| format!("{round}-{i}")).filter(|other| *other != valid);
        for other in others {
            proxy.client().expect(&["AUTH", &other], WRONGPASS);
        }
    }
}

#[test]
fn a_password_that_the_upstream_gets_behind_the_proxy_is_learned_from_who_shows_it() {
    let server = Server::start();
    let proxy = Proxy::start(&server, &[]);
    let mut old = proxy.client();
    old.expect(&["SET", "k", "v"], "+OK");
    server
        .client()
        .expect(&["CONFIG", "SET", "requirepass", "s3cr3t"], "+OK");
    old.expect(&["GET", "k"], "$1\r\nv");
    let refused = old.text(&["BLPOP", "none", "0.01"]);
    assert!(refused.contains("NOAUTH") && refused.contains("SIGHUP"), "{refused}");
    let mut new = proxy.client();
    new.expect(&["AUTH", "wrong"], WRONGPASS);
    new.expect(&["AUTH", "default", "wrong"], WRONGPASS);
    new.expect(&["AUTH", ""], WRONGPASS);
    assert!(
        new.text(&["HELLO", "3", "AUTH", "default", "wrong"])
            .starts_with("-WRONGPASS")
    );
    assert!(new.text(&["HELLO", "3", "AUTH", "default", "s3cr3t"]).starts_with('%'));
    new.expect(&["GET", "k"], "$1\r\nv");
    old.expect(&["BLPOP", "none", "0.01"], "*-1");
    let mut stranger = proxy.client();
    stranger.expect(&["GET", "k"], NOAUTH);
    stranger.expect(&["AUTH", "s3cr3t"], "+OK");
    stranger.expect(&["GET", "k"], "$1\r\nv");
    assert!(
        !proxy.log().contains("s3cr3t"),
        "the log keeps the secret: {}",
        proxy.log()
    );
}

#[test]
fn a_password_is_learned_while_no_connection_is_left() {
    let server = Server::start();
    let toml = "[upstream]\nreconnect_min = \"1h\"\nreconnect_max = \"1h\"\n";
    let proxy = Proxy::with_config(&server.url(), toml, &[]);
    proxy.client().expect(&["SET", "k", "v"], "+OK");
    let mut direct = server.client();
    direct.expect(&["CONFIG", "SET", "requirepass", "s3cr3t"], "+OK");
    direct.cmd(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
    let mut client = proxy.client();
    eventually("the upstream refuses the proxy", STEP, || {
        client.text(&["GET", "k"]).contains("NOAUTH")
    });
    client.expect(&["AUTH", "wrong"], WRONGPASS);
    client.expect(&["AUTH", "s3cr3t"], "+OK");
    eventually("it is served", STEP, || client.cmd(&["GET", "k"]) == b"$1\r\nv\r\n");
    proxy.client().expect(&["GET", "k"], NOAUTH);
}

#[test]
fn a_signal_does_not_open_the_door_that_a_client_has_locked() {
    let server = Server::start();
    let proxy = Proxy::with_config(&server.url_tcp(), "", &[]);
    let (mut client, mut direct) = (proxy.client(), server.client());
    client.expect(&["SET", "k", "v"], "+OK");
    client.expect(&["CONFIG", "SET", "requirepass", "s3cr3t"], "+OK");
    proxy.client().expect(&["GET", "k"], NOAUTH);
    proxy.hang_up();
    eventually("the signal is heard", STEP, || {
        proxy.log().contains("SIGHUP: no password") || proxy.log().contains("are read again")
    });
    proxy.client().expect(&["GET", "k"], NOAUTH);
    assert!(proxy.log().contains("that of a client stays"), "{}", proxy.log());
    // Removed behind the proxy, which looks when it is told to.
    direct.expect(&["CONFIG", "SET", "requirepass", ""], "+OK");
    proxy.client().expect(&["GET", "k"], NOAUTH);
    proxy.hang_up();
    eventually("the door is open", STEP, || {
        proxy.client().cmd(&["GET", "k"]) == b"$1\r\nv\r\n"
    });
}

/// Named by a client that is served, a stranger must not be given a connection that the server takes for the proxy's.
#[test]
fn a_stranger_to_whom_invalidations_are_sent_stays_one() {
    let server = Server::with(&["--requirepass", "s3cr3t"]);
    let url = format!("redis://:s3cr3t@127.0.0.1:{}", server.port());
    let proxy = Proxy::before(&url, &["--workers", "1"]);
    let mut client = proxy.client();
    client.expect(&["AUTH", "s3cr3t"], "+OK");
    client.expect(&["SET", "k", "v"], "+OK");
    let own = client.int(&["CLIENT", "ID"]);
    let mut stranger = proxy.client();
    stranger.expect(&["GET", "k"], NOAUTH);
    let redirect = ["CLIENT", "TRACKING", "ON", "REDIRECT", &(own + 1).to_string()];
    client.expect(&redirect, "-ERR The client ID you want redirect to does not exist");
    for line in ["AUTH alice wrong", "HELLO 3 AUTH alice wrong"] {
        let told = stranger.text(&line.split(' ').collect::<Vec<_>>());
        assert!(told.starts_with("-WRONGPASS"), "{told}");
        stranger.expect(&["GET", "k"], NOAUTH);
    }
    // Once it is served it can be named.
    stranger.expect(&["AUTH", "s3cr3t"], "+OK");
    client.expect(&redirect, "+OK");
}

#[test]
fn without_a_password_only_loopback_is_served() {
    let Some(address) = own_address() else {
        eprintln!("skipped: this machine has no address but loopback");
        return;
    };
    let server = Server::start();
    let proxy = Proxy::start(&server, &["--listen", "0.0.0.0:0"]);
    proxy.client().expect(&["PING"], "+PONG");
    let mut remote = Client::tcp_to(&address, proxy.port()).expect("the port is open");
    let refused = remote.until_closed();
    assert!(refused.starts_with(b"-DENIED "), "{}", show(&refused));
    assert!(
        refused.ends_with(b"\r\n") && refused.iter().filter(|&&b| b == b'\n').count() == 1,
        "one line: {}",
        show(&refused)
    );

    let open = Proxy::with_config(
        &server.url(),
        "[clients]\nprotected_mode = false\n",
        &["--listen", "0.0.0.0:0"],
    );
    Client::tcp_to(&address, open.port())
        .expect("the port is open")
        .expect(&["PING"], "+PONG");

    let server = Server::with(&["--requirepass", "pw"]);
    let url = format!("redis://:pw@127.0.0.1:{}", server.port());
    let with_password = Proxy::before(&url, &["--listen", "0.0.0.0:0"]);
    let mut remote = Client::tcp_to(&address, with_password.port()).expect("the port is open");
    remote.expect(&["PING"], NOAUTH);
    remote.expect(&["AUTH", "pw"], "+OK");
    remote.expect(&["PING"], "+PONG");
}

/// The address that the machine would speak from to another; no packet is sent to find out.
fn own_address() -> Option<String> {
    let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
    socket.connect("198.51.100.1:9").ok()?;
    let address = socket.local_addr().ok()?.ip();
    (!address.is_loopback()).then(|| address.to_string())
}

#[test]
fn a_socket_file_counts_as_loopback() {
    let server = Server::start();
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("n.sock");
    let listen = format!("unix:{}", path.display());
    let _proxy = Proxy::start(&server, &["--listen", &listen]);
    let mut client = Client::unix(&path).expect("the socket is there");
    client.expect(&["SET", "k", "v"], "+OK");
    client.expect(&["GET", "k"], "$1\r\nv");
}

/// Redis from 7.2 on and Valkey 8 leave out the reply to a wrong password while other replies wait to be sent.
#[test]
fn a_wrong_password_is_answered_whatever_comes_before_and_behind_it() {
    for server in Server::of_each_kind(&[]) {
        let kind = server.kind();
        server
            .client()
            .expect(&["ACL", "SETUSER", "app", "on", ">pw", "~*", "&*", "+@all"], "+OK");
        let proxy = Proxy::start(&server, &["--workers", "2"]);
        let mut other = proxy.client();
        for (is_resp3, wrong) in [
            (false, "AUTH app x"),
            (false, "AUTH nobody x"),
            (false, "HELLO 2 AUTH app x"),
            (true, "AUTH app x"),
            (true, "HELLO 3 AUTH app x SETNAME you"),
        ] {
            for state in [
                // A request of the proxy's own goes in front of it.
                "CLIENT SETNAME me",
                "AUTH app pw",
                "WATCH k",
                "CLIENT NO-EVICT ON",
                "CLIENT TRACKING ON",
                "SUBSCRIBE c",
            ] {
                if !is_resp3 && (state == "SUBSCRIBE c" || state.contains("TRACKING") && kind.contains(":6.")) {
                    continue;
                }
                let what = format!("{wrong} behind {state} on {kind}");
                let mut client = if is_resp3 { proxy.client3() } else { proxy.client() };
                let began = client.text(&state.split(' ').collect::<Vec<_>>());
                if began.starts_with("-") && kind.contains(":6.") {
                    continue;
                }
                assert!(!began.starts_with('-'), "{what}: {began}");
                client.expect(&["SET", "k", "old"], "+OK");
                let lines = format!("GET k\r\n{wrong}\r\nSET k new\r\n{wrong}\r\n{wrong}\r\nGET k\r\nECHO end\r\n");
                client.raw(lines.as_bytes());
                let mut replies = Vec::new();
                while replies.len() < 7 {
                    // Of what it writes itself a client that tracks is told, too.
                    let frame = show(&client.frame());
                    if !frame.starts_with('>') {
                        replies.push(frame);
                    }
                }
                let refused = format!("{WRONGPASS}\\r\\n");
                let expected = [
                    "$3\\r\\nold\\r\\n",
                    &refused,
                    "+OK\\r\\n",
                    &refused,
                    &refused,
                    "$3\\r\\nnew\\r\\n",
                    "$3\\r\\nend\\r\\n",
                ];
                assert_eq!(replies, expected, "{what}");
                // In step: what is acknowledged is seen by others at once.
                for value in ["a", "b", "c"] {
                    other.cmd(&["GET", "k"]);
                    other.cmd(&["GET", "k"]);
                    client.send(&["SET", "k", value]);
                    while client.frame() != b"+OK\r\n" {}
                    assert_eq!(other.bulk(&["GET", "k"]).as_deref(), Some(value.as_bytes()), "{what}");
                }
            }
        }
    }
}

/// There the server names more elements than it sends.
#[test]
fn a_wrong_password_inside_a_transaction_is_what_the_server_makes_of_it() {
    for (direct, behind) in Server::of_each_kind(&[]).iter().zip(&Server::of_each_kind(&[])) {
        let proxy = Proxy::start(behind, &[]);
        for server in [direct, behind] {
            server
                .client()
                .expect(&["ACL", "SETUSER", "app", "on", ">pw", "~*", "&*", "+@all"], "+OK");
        }
        for lines in [
            "MULTI\r\nAUTH app x\r\nEXEC\r\nQUIT\r\n",
            "MULTI\r\nSET a 1\r\nAUTH app x\r\nGET a\r\nEXEC\r\nGET a\r\nSET a 2\r\nGET a\r\nQUIT\r\n",
            "MULTI\r\nHELLO 3 AUTH app x\r\nEXEC\r\nGET none\r\nQUIT\r\n",
            "MULTI\r\nAUTH app x\r\nEXEC\r\nRESET\r\nPING\r\nSET a 3\r\nGET a\r\nQUIT\r\n",
            "MULTI\r\nAUTH app x\r\nAUTH app x\r\nEXEC\r\nPING\r\nRESET\r\nGET a\r\nQUIT\r\n",
            "MULTI\r\nAUTH app pw\r\nACL WHOAMI\r\nEXEC\r\nACL WHOAMI\r\nRESET\r\nACL WHOAMI\r\nQUIT\r\n",
            "MULTI\r\nAUTH app pw\r\nDISCARD\r\nACL WHOAMI\r\nGET a\r\nQUIT\r\n",
            "MULTI\r\nAUTH app x\r\nNOSUCH\r\nEXEC\r\nGET a\r\nQUIT\r\n",
        ] {
            let mut answers = [direct.client(), proxy.client()].map(|mut client| {
                client.raw(lines.as_bytes());
                show(&client.until_closed())
            });
            let expected = std::mem::take(&mut answers[0]);
            assert_eq!(answers[1], expected, "{lines:?} on {}", direct.kind());
        }
    }
}
