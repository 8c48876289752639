//! Clients that take more than their share, by mistake or on purpose: the proxy's memory stays bounded and the others
//! are served.

use std::io::{ErrorKind, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Resource, getrlimit, setrlimit};

use crate::support::client::encode;
use crate::support::{Client, Proxy, STEP, Server, eventually, resident_kib, show};

const GIB_IN_KIB: u64 = 1024 * 1024;

#[test]
fn one_client_too_many_is_told_so() {
    let server = Server::start();
    let proxy = Proxy::with_config(&server.url(), "[clients]\nmax_clients = 5\n", &[]);
    let mut clients: Vec<Client> = (0..5).map(|_| proxy.client()).collect();
    for client in &mut clients {
        client.expect(&["PING"], "+PONG");
    }
    let mut late = proxy.client();
    assert_eq!(show(&late.until_closed()), "-ERR max number of clients reached\\r\\n");
    clients.pop();
    eventually("there is room again", STEP, || {
        let mut client = proxy.client();
        client.try_raw(b"PING\r\n").is_ok() && client.try_frame(STEP).is_ok_and(|f| f == b"+PONG\r\n")
    });
    for client in &mut clients {
        client.expect(&["PING"], "+PONG");
    }
}

#[test]
fn an_idle_client_is_closed_where_the_operator_wants_it() {
    let server = Server::start();
    let proxy = Proxy::with_config(&server.url(), "[clients]\nidle_timeout = \"1s\"\n", &[]);
    let (mut idle, mut busy) = (proxy.client(), proxy.client());
    let (mut blocked, mut subscriber) = (proxy.client(), proxy.client());
    idle.expect(&["PING"], "+PONG");
    blocked.send(&["BLPOP", "q", "0"]);
    subscriber.cmd(&["SUBSCRIBE", "c"]);
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_millis(2600) {
        busy.expect(&["PING"], "+PONG");
        thread::sleep(Duration::from_millis(50));
    }
    assert!(idle.until_closed().is_empty());
    // As in Redis, neither who waits for an element nor who waits for messages is idle.
    busy.expect(&["RPUSH", "q", "x"], ":1");
    assert_eq!(show(&blocked.frame()), "*2\\r\\n$1\\r\\nq\\r\\n$1\\r\\nx\\r\\n");
    busy.expect(&["PUBLISH", "c", "m"], ":1");
    subscriber.frame();
}

#[test]
fn ten_thousand_idle_clients_cost_little() {
    const CLIENTS: usize = 10_000;
    let limit = getrlimit(Resource::Nofile);
    let enough = CLIENTS as u64 + 2_000;
    if limit.maximum.is_some_and(|most| most < enough) {
        eprintln!("skipped: the limit of open files is {:?}", limit.maximum);
        return;
    }
    let mut raised = limit;
    raised.current = limit.maximum.or(Some(enough * 2));
    setrlimit(Resource::Nofile, raised).expect("the soft limit can be raised up to the hard one");
    let server = Server::start();
    let proxy = Proxy::start(&server, &["--workers", "2"]);
    let mut first = proxy.client();
    first.expect(&["SET", "k", "v"], "+OK");
    first.expect(&["GET", "k"], "$1\r\nv");
    // Some to warm up what is there once.
    let mut clients: Vec<TcpStream> = Vec::new();
    let add = |n: usize, clients: &mut Vec<TcpStream>| {
        for _ in 0..n {
            let mut client = TcpStream::connect(("127.0.0.1", proxy.port())).expect("one more is accepted");
            client
                .write_all(b"*2\r\n$3\r\nGET\r\n$1\r\nk\r\n*3\r\n$3\r\nSET\r\n$5\r\nother\r\n$1\r\nv\r\n")
                .expect("a request is taken");
            clients.push(client);
        }
        // All are answered when the last worker has come to the last of them.
        for client in &clients[clients.len() - n..] {
            let mut peeked = [0; 12];
            eventually("it is answered", STEP, || {
                client.peek(&mut peeked).is_ok_and(|n| n >= 12)
            });
        }
    };
    add(500, &mut clients);
    let before = resident_kib(proxy.pid());
    add(CLIENTS - 501, &mut clients);
    let after = resident_kib(proxy.pid());
    let each = (after.saturating_sub(before)) as f64 / (CLIENTS - 501) as f64;
    eprintln!("{before} KiB with 500 clients, {after} KiB with {CLIENTS}: {each:.2} KiB each");
    assert!(each <= 4.0, "{each:.2} KiB an idle client");
    first.expect(&["GET", "k"], "$1\r\nv");
    drop(clients);
    eventually("all are gone", STEP, || {
        first.text(&["INFO", "nearcache"]).contains("nearcache_clients:1\r\n")
    });
}

#[test]
fn clients_that_send_and_never_read() {
    let server = Server::start();
    let proxy = Proxy::start(&server, &["--workers", "2"]);
    let mut other = proxy.client();
    let value = vec![b'x'; 64 * 1024];
    other.expect(&[b"SET".as_slice(), b"cached", &value], "+OK");
    other.expect(&[b"SET".as_slice(), b"list", &value], "+OK");
    let hit = encode(&["GET", "cached"]);
    let pass = encode(&["EVAL", "return redis.call('GET',KEYS[1])", "1", "list"]);
    let mut greedy: Vec<TcpStream> = (0..200)
        .map(|_| TcpStream::connect(("127.0.0.1", proxy.port())).expect("accepted"))
        .collect();
    let mut most = 0;
    for (i, client) in greedy.iter_mut().enumerate() {
        client.set_nonblocking(true).expect("a socket can be told not to block");
        let request = if i % 2 == 0 { &hit } else { &pass };
        for _ in 0..40 {
            // Full buffers are what this is about; a proxy that closes such a client does well too.
            match client.write(&request.repeat(20)) {
                Err(e) if e.kind() == ErrorKind::WouldBlock => break,
                Err(_) => break,
                Ok(_) => {}
            }
        }
        if i % 20 == 0 {
            most = most.max(resident_kib(proxy.pid()));
            is_served_within(&mut other, STEP);
        }
    }
    let end = Instant::now() + Duration::from_secs(3);
    while Instant::now() < end {
        most = most.max(resident_kib(proxy.pid()));
        is_served_within(&mut other, STEP);
        thread::sleep(Duration::from_millis(20));
    }
    eprintln!("at most {most} KiB");
    assert!(most < GIB_IN_KIB, "{most} KiB");
    drop(greedy);
    eventually("they are gone", STEP, || {
        other.text(&["INFO", "nearcache"]).contains("nearcache_clients:1\r\n")
    });
}

#[test]
fn writes_that_pile_up_before_a_server_that_hangs() {
    let server = Server::start();
    let proxy = Proxy::start(&server, &["--workers", "2"]);
    let mut other = proxy.client();
    is_served(&mut other);
    let value = vec![b'x'; 900 * 1024];
    let request = encode(&[b"SET".as_slice(), b"piled", &value]);
    server.freeze();
    let mut most = 0;
    let clients: Vec<TcpStream> = (0..100)
        .map(|_| {
            let mut client = TcpStream::connect(("127.0.0.1", proxy.port())).expect("accepted");
            client.set_nonblocking(true).expect("a socket can be told not to block");
            let end = Instant::now() + Duration::from_millis(25);
            // Whole requests one behind the other, as far as they are taken.
            let (mut sent, whole) = (0, request.repeat(20));
            while sent < whole.len() && Instant::now() < end {
                match client.write(&whole[sent..]) {
                    Ok(n) => sent += n,
                    Err(_) => thread::sleep(Duration::from_millis(1)),
                }
            }
            most = most.max(resident_kib(proxy.pid()));
            client
        })
        .collect();
    eprintln!("at most {most} KiB");
    assert!(most < GIB_IN_KIB, "{most} KiB");
    // The proxy itself is well meanwhile.
    other.expect(&["PING"], "+PONG");
    server.thaw();
    drop(clients);
    eventually("they are gone", STEP, || {
        other.text(&["INFO", "nearcache"]).contains("nearcache_clients:1\r\n")
    });
    is_served_within(&mut other, STEP);
}

#[test]
fn a_subscriber_that_never_reads() {
    let server = Server::start();
    let proxy = Proxy::start(&server, &["--workers", "1"]);
    let mut deaf: Vec<Client> = (0..5).map(|_| proxy.client3()).collect();
    for client in &mut deaf {
        client.cmd(&["SUBSCRIBE", "loud"]);
    }
    let mut publisher = proxy.client();
    let message = vec![b'm'; 100_000];
    let mut most = 0;
    for _ in 0..1500 {
        publisher.cmd(&[b"PUBLISH".as_slice(), b"loud", &message]);
        most = most.max(resident_kib(proxy.pid()));
    }
    eprintln!("at most {most} KiB");
    assert!(most < GIB_IN_KIB / 2, "{most} KiB");
    is_served(&mut publisher);
}

#[test]
fn announced_and_never_sent() {
    let server = Server::start();
    let proxy = Proxy::start(&server, &["--workers", "2"]);
    let mut other = proxy.client();
    is_served(&mut other);
    let before = resident_kib(proxy.pid());
    let mut liars: Vec<Client> = (0..100).map(|_| proxy.client()).collect();
    for (i, liar) in liars.iter_mut().enumerate() {
        match i % 4 {
            0 => liar.raw(b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$536870912\r\nbut a few bytes"),
            1 => liar.raw(b"*2147483647\r\n$4\r\nMGET\r\n$1\r\na\r\n"),
            2 => liar.raw(b"*3\r\n$3\r\nSET\r\n$536870912\r\nk"),
            _ => liar.raw(b"*1\r\n$536870912\r\nG"),
        }
        is_served(&mut other);
    }
    let after = resident_kib(proxy.pid());
    assert!(
        after < before + 64 * 1024,
        "{before} KiB before, {after} KiB after {} announcements",
        liars.len()
    );
    drop(liars);
    is_served(&mut other);
    assert_eq!(other.int(&["EXISTS", "k"]), 0, "half a request writes nothing");
}

#[test]
fn nested_a_thousand_times() {
    let server = Server::start();
    let proxy = Proxy::start(&server, &["--workers", "1"]);
    let mut other = proxy.client();
    let mut client = proxy.client();
    let _ = client.try_raw(&b"*1\r\n".repeat(20_000));
    assert_eq!(
        show(&client.until_closed()),
        "-ERR Protocol error: expected \\'$\\', got \\'*\\'\\r\\n"
    );
    is_served(&mut other);
    // Deep replies: the bytes of the server, or an error, but no end of the process.
    let script = "local t={} for i=1,tonumber(ARGV[1]) do t={t} end return t";
    for mut client in [proxy.client(), proxy.client3()] {
        for depth in ["10", "100", "500"] {
            let args = ["EVAL", script, "0", depth];
            let (direct, through) = (server.client().cmd(&args), client.cmd(&args));
            assert!(
                through == direct || through.starts_with(b"-ERR nearcache: "),
                "depth {depth}: {}",
                show(&through)
            );
            is_served(&mut other);
        }
    }
}

#[test]
fn a_large_value_that_comes_byte_by_byte() {
    let server = Server::start();
    let proxy = Proxy::start(&server, &["--workers", "1"]);
    let mut other = proxy.client();
    let before = resident_kib(proxy.pid());
    let mut slow = proxy.client();
    slow.raw(b"*3\r\n$3\r\nSET\r\n$4\r\nslow\r\n$5000000\r\n");
    for _ in 0..60 {
        slow.raw(b"x");
        is_served(&mut other);
        thread::sleep(Duration::from_millis(20));
    }
    assert!(resident_kib(proxy.pid()) < before + 16 * 1024);
    // It leaves in the middle: nothing of it was written, and the connection it had goes too.
    drop(slow);
    eventually("it is gone", STEP, || {
        other.text(&["INFO", "nearcache"]).contains("nearcache_clients:1\r\n")
    });
    assert_eq!(other.int(&["EXISTS", "slow"]), 0);
    let mut whole = proxy.client();
    let value = vec![b'y'; 5_000_000];
    whole.expect(&[b"SET".as_slice(), b"slow", &value], "+OK");
    assert_eq!(other.int(&["STRLEN", "slow"]), 5_000_000);
}

#[test]
fn many_readers_of_a_large_value() {
    let server = Server::start();
    let proxy = Proxy::start(&server, &["--workers", "2"]);
    let mut other = proxy.client();
    server.client().expect(
        &["SETRANGE", "large", &(64 * 1024 * 1024 - 1).to_string(), "x"],
        ":67108864",
    );
    // Once by somebody who reads it all, so that it is known to be large.
    assert_eq!(
        proxy.client().bulk(&["GET", "large"]).expect("a value").len(),
        64 * 1024 * 1024
    );
    // 2.5 GiB of replies: the server has to hold them, the proxy must not.
    let mut readers: Vec<Client> = (0..40)
        .map(|i| if i % 2 == 0 { proxy.client() } else { proxy.client3() })
        .collect();
    for reader in &mut readers {
        reader.send(&["GET", "large"]);
    }
    let mut most = 0;
    for (i, reader) in readers.iter_mut().enumerate() {
        // A piece each: the rest is left to wait.
        assert!(reader.bytes(1024 * 1024).starts_with(b"$67108864\r\n"));
        most = most.max(resident_kib(proxy.pid()));
        if i % 5 == 0 {
            // The server copies gigabytes meanwhile: it is not starved, that is all that can be asked for.
            is_served_within(&mut other, Duration::from_secs(10));
        }
    }
    eprintln!("at most {most} KiB");
    assert!(most < GIB_IN_KIB, "{most} KiB");
    drop(readers);
    eventually("they are gone", STEP, || {
        other.text(&["INFO", "nearcache"]).contains("nearcache_clients:1\r\n")
    });
}

#[test]
fn nothing_is_read_for_readers_of_a_large_value_that_have_gone() {
    const BYTES: usize = 4 << 20;
    const READERS: usize = 100;
    let server = Server::start();
    let proxy = Proxy::start(&server, &["--workers", "2"]);
    let mut other = proxy.client();
    other.expect(
        &["SETRANGE", "large", &(BYTES - 1).to_string(), "x"],
        &format!(":{BYTES}"),
    );
    assert_eq!(proxy.client().bulk(&["GET", "large"]).expect("a value").len(), BYTES);
    server.forget_calls();
    server.freeze();
    let mut readers: Vec<Client> = (0..READERS).map(|_| proxy.client()).collect();
    for reader in &mut readers {
        reader.send(&["GET", "large"]);
    }
    // What else was asked for is done, whoever has sent his last byte.
    let mut writer = proxy.client();
    writer.send(&["GET", "large"]);
    writer.send(&["INCR", "n"]);
    writer.close_write();
    drop(readers);
    // Those whose turn had come wait for the server.
    let clients = || proxy.metric("nearcache_clients", &[]).expect("a number");
    eventually("most are gone", STEP, || clients() < READERS as f64 / 2.0);
    server.thaw();
    assert!(writer.until_closed().ends_with(b"\r\n:1\r\n"));
    eventually("all are gone", STEP, || clients() == 1.0);
    let reads = server.calls("get");
    assert!(reads < READERS as u64 / 2, "{reads} of {READERS}");
}

/// A client that behaves is answered at once, whatever the others do: a hit, a write and a read of another key.
#[track_caller]
fn is_served(client: &mut Client) {
    is_served_within(client, Duration::from_secs(2));
}

#[track_caller]
fn is_served_within(client: &mut Client, limit: Duration) {
    let begun = Instant::now();
    client.expect(&["SET", "small", "v"], "+OK");
    client.expect(&["GET", "small"], "$1\r\nv");
    client.expect(&["GET", "small"], "$1\r\nv");
    let took = begun.elapsed();
    assert!(took < limit, "three small commands took {took:?}");
}

#[test]
fn many_clients_write_and_read_large_values_at_once() {
    const CLIENTS: usize = 60;
    const BYTES: usize = 8 << 20;
    let server = Server::start();
    let proxy = Proxy::start(&server, &[]);
    let port = proxy.port();
    let mut neighbour = proxy.client();
    neighbour.expect(&["SET", "small", "v"], "+OK");
    let threads: Vec<_> = (0..CLIENTS)
        .map(|i| {
            std::thread::spawn(move || {
                let mut client = Client::tcp(port);
                let key = format!("large{}", i % 12);
                let value = vec![b'x'; BYTES];
                for _ in 0..2 {
                    client.send(&[&b"SET"[..], key.as_bytes(), &value]);
                    let patience = std::time::Duration::from_secs(60);
                    assert_eq!(show(&client.try_frame(patience).expect("a reply")), r"+OK\r\n");
                    client.send(&["GET", &key]);
                    assert_eq!(client.try_frame(patience).expect("a reply").len(), BYTES + 12);
                }
            })
        })
        .collect();
    let mut peak = 0;
    while threads.iter().any(|thread| !thread.is_finished()) {
        neighbour.expect(&["GET", "small"], "$1\r\nv");
        peak = peak.max(resident_kib(proxy.pid()));
    }
    for thread in threads {
        thread.join().expect("every transfer succeeds");
    }
    assert!(peak < 300 << 10, "{peak} KiB");
    // A key that is smaller again is kept again.
    for bytes in [5, 200_000] {
        neighbour.expect(&["SET", "large0", &"y".repeat(bytes)], "+OK");
        eventually("it is a hit", STEP, || {
            let before = proxy.metric("cache_hits_total", &["l1"]);
            assert!(neighbour.cmd(&["GET", "large0"]).len() > bytes);
            proxy.metric("cache_hits_total", &["l1"]) > before
        });
        neighbour.expect(&["SET", "large0", &"y".repeat(2 << 20)], "+OK");
    }
}

/// A proxy at a Unix socket, of which the kernel holds little for clients that do not read.
fn with_little_between(server: &Server, toml: &str) -> (Proxy, tempfile::TempDir, std::path::PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let listen = format!("unix:{}", path.display());
    let proxy = Proxy::with_config(&server.url(), toml, &["--listen", &listen, "--listen", "127.0.0.1:0"]);
    (proxy, dir, path)
}

#[test]
fn many_clients_that_read_no_replies_together_leave_half_of_the_budget() {
    const MIB: f64 = 1048576.0;
    let server = Server::start();
    let (proxy, _dir, path) = with_little_between(&server, "[clients]\nbuffer_budget = \"16MiB\"\n");
    let mut other = proxy.client();
    other.expect(&["SET", "k", &"v".repeat(100)], "+OK");
    other.cmd(&["GET", "k"]);
    let requests = "GET k\r\n".repeat(20_000);
    let _deaf: Vec<UnixStream> = (0..20)
        .map(|_| {
            let mut client = UnixStream::connect(&path).expect("accepted");
            client.set_nonblocking(true).expect("a socket can be told not to block");
            let sent = client.write(requests.as_bytes()).expect("some of it is taken");
            assert!(sent > requests.len() / 2, "{sent}");
            client
        })
        .collect();
    let buffered = || proxy.metric("nearcache_buffered_bytes", &[]).unwrap_or(0.0);
    eventually("they have what they may have", STEP, || buffered() >= 6.0 * MIB);
    // Each of them is looked at more often meanwhile than it takes to let them have all they could.
    let end = Instant::now() + Duration::from_secs(1);
    while Instant::now() < end {
        assert!(buffered() < 12.0 * MIB, "{} bytes", buffered());
        is_served(&mut other);
    }
    assert_eq!(proxy.metric("nearcache_clients_refused_total", &[]).unwrap_or(0.0), 0.0);
}

#[test]
fn a_client_that_reads_late_is_not_closed_for_what_was_taken_meanwhile() {
    let server = Server::start();
    let (proxy, _dir, path) = with_little_between(&server, "[clients]\noutput_limit = \"1MiB\"\n");
    proxy.client().expect(&["SET", "k", &"v".repeat(1000)], "+OK");
    let mut client = Client::unix(&path).unwrap();
    let expected = client.cmd(&["GET", "k"]);
    client.raw("GET k\r\n".repeat(10_000).as_bytes());
    eventually("more is taken than from others", STEP, || {
        proxy.metric("nearcache_buffered_bytes", &[]).unwrap_or(0.0) > 400_000.0
            || proxy.metric("nearcache_clients_refused_total", &[]).unwrap_or(0.0) > 0.0
    });
    for i in 0..10_000 {
        assert!(client.frame() == expected, "reply {i}");
    }
}

/// At the server nothing is in the way of this either: what it cannot send waits.
#[test]
fn a_client_may_send_all_its_requests_before_it_reads_a_reply() {
    let server = Server::start();
    let (proxy, _dir, path) = with_little_between(&server, "");
    proxy.client().expect(&["SET", "k", &"v".repeat(1000)], "+OK");
    let (requests, reply) = (40_000, 1009);
    // Hits, and what the server answers.
    for line in ["GET k\r\n", "LPOS k x\r\n"] {
        let mut client = Client::unix(&path).unwrap();
        let expected = client.cmd(&line.split_whitespace().collect::<Vec<_>>());
        client.raw(line.repeat(requests).as_bytes());
        for i in 0..requests {
            assert!(client.frame() == expected, "reply {i} to {line}");
        }
        assert!(expected.len() == reply || expected.starts_with(b"-WRONGTYPE"));
    }
    assert_eq!(proxy.metric("nearcache_clients_refused_total", &[]).unwrap_or(0.0), 0.0);
}
