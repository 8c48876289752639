//! `MULTI`, `EXEC`, `WATCH`, whether they come word by word or in one breath: atomic, in order, and in conflict when they
//! have to be.

use std::thread;
use std::time::{Duration, Instant};

use crate::support::client::{encode, without_id};
use crate::support::{Client, Proxy, Server, show};

#[test]
fn a_transaction_fails_when_a_watched_key_changed() {
    let server = Server::start();
    let proxy = Proxy::start(&server, &[]);
    let (mut a, mut b, mut c) = (proxy.client(), proxy.client3(), server.client());
    for (round, is_foreign) in [(0, false), (1, true), (2, false), (3, true)] {
        for (client, nil) in [(&mut a, "*-1"), (&mut proxy.client3(), "_")] {
            client.expect(&["SET", "watched", "1"], "+OK");
            client.expect(&["WATCH", "watched", "other"], "+OK");
            client.expect(&["GET", "watched"], "$1\r\n1");
            let other = if is_foreign { &mut c } else { &mut b };
            other.expect(&["SET", "watched", "2"], "+OK");
            client.expect(&["MULTI"], "+OK");
            client.expect(&["SET", "watched", "mine"], "+QUEUED");
            client.expect(&["EXEC"], nil);
            client.expect(&["GET", "watched"], "$1\r\n2");
            // And without a change it goes through; the watch of before is forgotten.
            client.expect(&["WATCH", "watched"], "+OK");
            client.expect(&["MULTI"], "+OK");
            client.expect(&["SET", "watched", "mine"], "+QUEUED");
            client.expect(&["GET", "watched"], "+QUEUED");
            client.expect(&["EXEC"], "*2\r\n+OK\r\n$4\r\nmine");
            client.expect(&["GET", "watched"], "$4\r\nmine");
            assert_eq!(b.bulk(&["GET", "watched"]), Some(b"mine".to_vec()), "round {round}");
        }
    }
}

#[test]
fn unwatch_reset_and_discard_forget_what_was_watched() {
    let server = Server::start();
    let proxy = Proxy::start(&server, &[]);
    let (mut a, mut b) = (proxy.client(), proxy.client());
    for forget in [
        vec!["UNWATCH"],
        vec!["RESET"],
        vec!["MULTI", "DISCARD"],
        vec!["MULTI", "RESET"],
    ] {
        a.expect(&["WATCH", "k"], "+OK");
        b.expect(&["SET", "k", "changed"], "+OK");
        for word in &forget {
            a.cmd(&[word]);
        }
        a.expect(&["MULTI"], "+OK");
        a.expect(&["SET", "k", "mine"], "+QUEUED");
        a.expect(&["EXEC"], "*1\r\n+OK");
        assert_eq!(b.bulk(&["GET", "k"]), Some(b"mine".to_vec()), "after {forget:?}");
    }
}

#[test]
fn own_writes_do_conflict_with_an_own_watch() {
    let server = Server::start();
    let proxy = Proxy::start(&server, &[]);
    for (mut client, nil) in [(proxy.client(), "*-1"), (proxy.client3(), "_")] {
        client.expect(&["WATCH", "k"], "+OK");
        client.expect(&["SET", "k", "mine"], "+OK");
        client.expect(&["MULTI"], "+OK");
        client.expect(&["SET", "k", "never"], "+QUEUED");
        client.expect(&["EXEC"], nil);
        // The same in one breath.
        let lines: [&[&str]; 5] = [
            &["WATCH", "k"],
            &["SET", "k", "again"],
            &["MULTI"],
            &["SET", "k", "never"],
            &["EXEC"],
        ];
        client.raw(&lines.iter().flat_map(|l| encode(l)).collect::<Vec<_>>());
        let replies: Vec<String> = client.frames(5).iter().map(|f| show(f)).collect();
        assert_eq!(replies[4], format!("{nil}\\r\\n"), "{replies:?}");
        client.expect(&["GET", "k"], "$5\r\nagain");
    }
}

#[test]
fn errors_in_a_transaction_are_those_of_the_server() {
    let server = Server::start();
    let proxy = Proxy::start(&server, &[]);
    for script in [
        "MULTI\nMULTI\nEXEC",
        "EXEC",
        "DISCARD",
        "MULTI\nWATCH k\nEXEC",
        "MULTI\nNOSUCH\nSET k 1\nEXEC\nGET k",
        "MULTI\nSET k\nEXEC",
        "MULTI\nSET k v\nINCR k\nGET k\nEXEC",
        "MULTI\nDISCARD\nGET k",
        "MULTI\nEXEC",
        "MULTI\nSELECT 1\nSET inside 1\nEXEC\nEXISTS inside\nSELECT 0\nEXISTS inside",
        "MULTI\nHELLO 3\nHGETALL none\nEXEC\nHGETALL none\nHELLO 2",
        "MULTI\nSELECT 99\nEXEC\nGET k",
        "MULTI\nSELECT 2\nDISCARD\nSET where here\nSELECT 0\nEXISTS where",
        "MULTI\nBLPOP none 0\nEXEC",
        "MULTI\nPING\nECHO x\nCLIENT GETNAME\nEXEC",
        "MULTI\nCLIENT SETNAME inside\nEXEC\nCLIENT GETNAME",
        "MULTI\nQUIT",
        "MULTI\nSUBSCRIBE c\nEXEC\nUNSUBSCRIBE c",
        "MULTI\nRESET\nEXEC",
        "MULTI\nEVAL return{1,2} 0\nHSET h f v\nHGETALL h\nZADD z 1 m\nZRANGE z 0 -1 WITHSCORES\nLPOP none 2\nGET none\nEXEC",
        "MULTI\nDEL h z k\nEXEC",
        "MULTI\nCONFIG GET maxmemory\nINFO nosuchsection\nEXEC",
        "MULTI\nMONITOR\nEXEC",
    ] {
        for three in [false, true] {
            for is_pipelined in [false, true] {
                let play = |mut client: Client| {
                    if three {
                        client = client.hello3();
                    }
                    let mut all = Vec::new();
                    let lines: Vec<Vec<&str>> = script.lines().map(|l| l.split(' ').collect()).collect();
                    if is_pipelined {
                        client.raw(&lines.iter().flat_map(|l| encode(l)).collect::<Vec<_>>());
                    }
                    for line in &lines {
                        if !is_pipelined && client.try_raw(&encode(line)).is_err() {
                            break;
                        }
                        match client.try_frame(Duration::from_secs(2)) {
                            Ok(frame) => all.push(show(&without_id(&frame))),
                            Err(e) => all.push(format!("{line:?}: {e}")),
                        }
                    }
                    all
                };
                server.client().expect(&["FLUSHALL"], "+OK");
                let direct = play(server.client());
                server.client().expect(&["FLUSHALL"], "+OK");
                let through = play(proxy.client());
                assert_eq!(through, direct, "{script:?} RESP3 {three} pipelined {is_pipelined}");
            }
        }
    }
}

#[test]
fn thousands_of_transactions_side_by_side_lose_no_update() {
    let server = Server::start();
    let proxy = Proxy::start(&server, &["--workers", "2"]);
    const CLIENTS: usize = 6;
    const EACH: usize = 150;
    thread::scope(|scope| {
        for n in 0..CLIENTS {
            let mut client = if n % 2 == 0 { proxy.client() } else { proxy.client3() };
            scope.spawn(move || {
                let mut done = 0;
                let end = Instant::now() + Duration::from_secs(20);
                while done < EACH {
                    assert!(Instant::now() < end, "client {n} got through {done} times");
                    client.expect(&["WATCH", "sum"], "+OK");
                    let sum: u64 = match client.bulk(&["GET", "sum"]) {
                        Some(text) => String::from_utf8_lossy(&text).parse().expect("a number"),
                        None => 0,
                    };
                    for line in [vec!["MULTI"], vec!["SET", "sum", &(sum + 1).to_string()], vec!["EXEC"]] {
                        client.send(&line);
                    }
                    let replies = client.frames(3);
                    done += usize::from(replies[2].starts_with(b"*1"));
                }
            });
        }
    });
    assert_eq!(
        server.client().bulk(&["GET", "sum"]),
        Some((CLIENTS * EACH).to_string().into_bytes())
    );
}
