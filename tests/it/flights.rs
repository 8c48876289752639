//! Reads that wait for somebody else's read of the same key: each gets its own reply in its own protocol, in its own
//! order, whatever becomes of the one that leads.
//!
//! The server is stopped while the requests are sent, so that they are on their way together.

use std::thread;
use std::time::Duration;

use crate::support::client::encode;
use crate::support::{Client, Proxy, STEP, Server, eventually, show};

/// Long enough for what was sent to have been read by the proxy; nothing depends on it but how much a round proves.
const ARRIVAL: Duration = Duration::from_millis(8);

#[test]
fn everybody_gets_the_reply_in_the_own_protocol() {
    let server = Server::start();
    let proxy = Proxy::start(&server, &["--workers", "2"]);
    let mut direct = server.client();
    direct.expect(&["HSET", "h", "f", "v"], ":1");
    direct.expect(&["ZADD", "z", "1.5", "m"], ":1");
    direct.expect(&["SADD", "s", "m"], ":1");
    direct.expect(&["SET", "k", "v"], "+OK");
    let mut clients: Vec<Client> = (0..40)
        .map(|i| if i % 3 == 0 { proxy.client3() } else { proxy.client() })
        .collect();
    for line in [
        "GET k",
        "GET missing",
        "GET h",
        "HGETALL h",
        "HGETALL none",
        "ZRANGE z 0 -1 WITHSCORES",
        "ZSCORE z m",
        "SMEMBERS s",
        "ZSCORE z none",
        "LRANGE none 0 -1",
        "MGET k missing",
        "TYPE k",
        "STRLEN k",
        "HMGET h f g",
        "GEOPOS z none",
    ] {
        let words: Vec<&str> = line.split(' ').collect();
        let (two, three) = (server.client().cmd(&words), server.client().hello3().cmd(&words));
        // Away with what is there, so that this is a miss for all.
        direct.expect(&["SELECT", "9"], "+OK");
        direct.expect(&["FLUSHDB"], "+OK");
        direct.expect(&["SELECT", "0"], "+OK");
        server.freeze();
        clients.iter_mut().for_each(|c| c.send(&words));
        thread::sleep(ARRIVAL);
        server.thaw();
        for (i, client) in clients.iter_mut().enumerate() {
            let expected = if i % 3 == 0 { &three } else { &two };
            assert_eq!(show(&client.frame()), show(expected), "{line}, client {i}");
        }
    }
}

#[test]
fn followers_outlive_their_leader() {
    let server = Server::start();
    let proxy = Proxy::start(&server, &["--workers", "2"]);
    for round in 0..30 {
        let key = format!("k{round}");
        server.client().expect(&["SET", &key, "v"], "+OK");
        let mut leader = proxy.client();
        let mut followers: Vec<Client> = (0..6).map(|_| proxy.client()).collect();
        server.freeze();
        leader.send(&["GET", &key]);
        thread::sleep(ARRIVAL / 2);
        followers.iter_mut().for_each(|f| f.send(&["GET", &key]));
        thread::sleep(ARRIVAL / 2);
        leader.close();
        thread::sleep(ARRIVAL / 2);
        server.thaw();
        for follower in &mut followers {
            assert_eq!(show(&follower.frame()), "$1\\r\\nv\\r\\n", "round {round}");
        }
    }
}

#[test]
fn a_read_that_waits_does_not_see_what_its_client_wrote_afterwards() {
    let server = Server::start();
    let proxy = Proxy::start(&server, &["--workers", "2"]);
    let mut clients: Vec<Client> = (0..4)
        .map(|i| if i % 2 == 0 { proxy.client() } else { proxy.client3() })
        .collect();
    let mut random = fastrand::Rng::with_seed(crate::support::seed());
    for round in 0..120 {
        let key = format!("k{round}");
        server.client().expect(&["SET", &key, "old"], "+OK");
        let (leader, writer) = (random.usize(0..4), random.usize(0..4));
        let write: &[&[&str]] = match random.u8(0..4) {
            0 => &[&["SET", &key, "new"]],
            1 => &[&["EVAL", "return redis.call('SET',KEYS[1],'new')", "1", &key]],
            2 => &[&["MULTI"], &["SET", &key, "new"], &["EXEC"]],
            _ => &[&["WATCH", "x"], &["MULTI"], &["SET", &key, "new"], &["EXEC"]],
        };
        let mut bytes = encode(&["GET", &key]);
        write.iter().for_each(|line| bytes.extend(encode(line)));
        bytes.extend(encode(&["GET", &key]));
        bytes.extend(encode(&["STRLEN", &key]));
        bytes.extend(encode(&["MGET", &key, &key]));
        server.freeze();
        clients[leader].send(&["GET", &key]);
        if random.bool() {
            thread::sleep(ARRIVAL / 4);
        }
        clients[writer].raw(&bytes);
        thread::sleep(ARRIVAL / 4);
        server.thaw();
        // The leader may be the writer itself: then its first read is one more ahead.
        let led = clients[leader].frame();
        if leader == writer {
            assert_eq!(show(&led), "$3\\r\\nold\\r\\n", "round {round}: the leader's own read");
        }
        let writer = &mut clients[writer];
        assert_eq!(
            show(&writer.frame()),
            "$3\\r\\nold\\r\\n",
            "round {round}: the read ahead of the write {write:?}"
        );
        writer.frames(write.len());
        assert_eq!(
            show(&writer.frame()),
            "$3\\r\\nnew\\r\\n",
            "round {round}: the read behind the write {write:?}"
        );
        assert_eq!(show(&writer.frame()), ":3\\r\\n");
        assert_eq!(show(&writer.frame()), "*2\\r\\n$3\\r\\nnew\\r\\n$3\\r\\nnew\\r\\n");
        for client in &mut clients {
            client.expect(&["GET", &key], "$3\r\nnew");
        }
    }
}

#[test]
fn waiting_reads_end_when_the_upstream_does() {
    let mut server = Server::start();
    let proxy = Proxy::start(&server, &["--workers", "2"]);
    let mut clients: Vec<Client> = (0..30).map(|_| proxy.client()).collect();
    for round in 0..5 {
        let key = format!("k{round}");
        server.freeze();
        for client in &mut clients {
            client.send(&["GET", &key]);
            client.send(&["MGET", &key, "other"]);
            client.send(&["HGETALL", &key]);
        }
        thread::sleep(ARRIVAL);
        server.kill();
        for client in &mut clients {
            for reply in client.frames(3) {
                assert!(
                    reply.starts_with(b"-ERR nearcache: "),
                    "round {round}: {}",
                    show(&reply)
                );
            }
        }
        server.restart();
        for client in &mut clients {
            eventually("it works again", STEP, || client.cmd(&["SET", &key, "v"]) == b"+OK\r\n");
            client.expect(&["GET", &key], "$1\r\nv");
        }
    }
}
