//! Subscriptions: every client hears what it would hear from the server, in the server's order, while all clients of a
//! worker are one subscriber there.

use std::thread;
use std::time::{Duration, Instant};

use crate::support::client::{children, encode, payload, without_id};
use crate::support::{Client, Proxy, STEP, Server, eventually, show};

/// What a server and a proxy answer to the same conversation.
fn same(steps: &[&[&str]], replies: &[usize], is_resp3: bool) {
    let server = Server::start();
    let behind = Server::start();
    let proxy = Proxy::start(&behind, &[]);
    let mut direct = if is_resp3 {
        server.client().hello3()
    } else {
        server.client()
    };
    let mut through = if is_resp3 { proxy.client3() } else { proxy.client() };
    for (step, replies) in steps.iter().zip(replies) {
        direct.send(step);
        through.send(step);
        for _ in 0..*replies {
            let (expected, got) = (direct.frame(), through.frame());
            assert_eq!(show(&without_id(&got)), show(&without_id(&expected)), "after {step:?}");
        }
    }
}

#[test]
fn a_conversation_in_resp2_is_that_of_the_server() {
    same(
        &[
            &["SUBSCRIBE", "a", "b", "a"],
            &["PSUBSCRIBE", "x*"],
            &["SSUBSCRIBE", "s"],
            &["PING"],
            &["PING", "hello"],
            &["GET", "k"],
            &["CONFIG", "GET", "save"],
            &["NOSUCH", "k"],
            &["SUBSCRIBE"],
            &["UNSUBSCRIBE", "nothing"],
            &["UNSUBSCRIBE", "a", "b", "b"],
            &["PUNSUBSCRIBE"],
            &["PUNSUBSCRIBE"],
            &["UNSUBSCRIBE"],
            &["SUNSUBSCRIBE", "s"],
            &["SUNSUBSCRIBE"],
            &["GET", "k"],
            &["SUBSCRIBE", "a"],
            &["RESET"],
            &["GET", "k"],
            &["PING"],
            &["UNSUBSCRIBE"],
            &["UNSUBSCRIBE", "a", "b"],
        ],
        &[3, 1, 1, 1, 1, 1, 1, 1, 1, 1, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 2],
        false,
    );
}

#[test]
fn a_conversation_in_resp3_is_that_of_the_server() {
    same(
        &[
            &["SUBSCRIBE", "a", "b"],
            &["PSUBSCRIBE", "a*"],
            &["GET", "k"],
            &["SET", "k", "v"],
            // Heard twice before the number of receivers.
            &["PUBLISH", "a", "to myself"],
            &["PING"],
            &["SSUBSCRIBE", "s"],
            &["SPUBLISH", "s", "to myself"],
            &["SPUBLISH", "a", "to nobody"],
            &["HELLO", "2", "SETNAME", "n"],
            &["GET", "k"],
            &["UNSUBSCRIBE", "a", "b"],
            &["PUNSUBSCRIBE", "a*"],
            &["SUNSUBSCRIBE"],
            &["GET", "k"],
        ],
        &[2, 1, 1, 1, 3, 1, 1, 2, 1, 1, 1, 2, 1, 1, 1],
        true,
    );
}

#[test]
fn all_patterns_end_in_the_order_in_which_they_began() {
    let patterns: Vec<String> = (0..12).map(|n| format!("p{}*", (n * 5) % 12)).collect();
    let begin: Vec<&str> = ["PSUBSCRIBE"]
        .into_iter()
        .chain(patterns.iter().map(String::as_str))
        .collect();
    let steps: &[&[&str]] = &[
        &begin,
        &["PUNSUBSCRIBE", patterns[3].as_str()],
        &["PSUBSCRIBE", &patterns[3]],
        &["PUNSUBSCRIBE"],
    ];
    for is_resp3 in [false, true] {
        same(steps, &[12, 1, 1, 12], is_resp3);
    }
}

#[test]
fn a_refused_exec_ends_the_watches() {
    let steps: &[&[&str]] = &[
        &["CLIENT", "TRACKING", "ON"],
        &["WATCH", "k"],
        &["SUBSCRIBE", "a"],
        &["EXEC"],
        &["UNSUBSCRIBE", "a"],
        &["SET", "k", "1"],
        &["MULTI"],
        &["GET", "k"],
        &["EXEC"],
    ];
    same(steps, &[1; 9], false);
}

#[test]
fn nobody_hears_what_was_published_before() {
    let server = Server::start();
    let proxy = Proxy::start(&server, &["--workers", "1"]);
    let mut publisher = server.client();
    let mut first = proxy.client();
    first.expect(&["SUBSCRIBE", "c"], "*3\r\n$9\r\nsubscribe\r\n$1\r\nc\r\n:1");
    for round in 0..200 {
        let text = format!("{round}");
        publisher.expect(&["PUBLISH", "c", &text], ":1");
        let mut late = proxy.client();
        late.expect(&["SUBSCRIBE", "c"], "*3\r\n$9\r\nsubscribe\r\n$1\r\nc\r\n:1");
        publisher.expect(&["PUBLISH", "c", "later"], ":1");
        assert_eq!(show(&children(&late.frame())[2]), "$5\\r\\nlater\\r\\n");
        // What was published before the end is heard before it is confirmed.
        publisher.expect(&["PUBLISH", "c", "last"], ":1");
        late.send(&["UNSUBSCRIBE", "c"]);
        assert_eq!(show(&children(&late.frame())[2]), "$4\\r\\nlast\\r\\n");
        assert_eq!(show(&children(&late.frame())[0]), "$11\\r\\nunsubscribe\\r\\n");
        for expected in [&*text, "later", "last"] {
            assert_eq!(
                children(&first.frame())[2],
                format!("${}\r\n{expected}\r\n", expected.len()).into_bytes()
            );
        }
    }
}

#[test]
fn numbers_of_receivers_are_those_of_clients() {
    let server = Server::start();
    let proxy = Proxy::start(&server, &["--workers", "2"]);
    let mut clients: Vec<Client> = (0..6).map(|_| proxy.client()).collect();
    for client in &mut clients {
        client.cmd(&["SUBSCRIBE", "news"]);
    }
    for client in &mut clients[..4] {
        client.cmd(&["PSUBSCRIBE", "n?ws"]);
    }
    clients[0].cmd(&["SSUBSCRIBE", "news"]);
    clients[2].cmd(&["SSUBSCRIBE", "news"]);
    let mut other = proxy.client();
    other.expect(&["PUBLISH", "news", "m"], ":10");
    other.expect(&["PUBLISH", "nows", "m"], ":4");
    other.expect(&["PUBLISH", "none", "m"], ":0");
    other.expect(&["SPUBLISH", "news", "m"], ":2");
    other.expect(
        &["PUBSUB", "NUMSUB", "news", "none"],
        "*4\r\n$4\r\nnews\r\n:6\r\n$4\r\nnone\r\n:0",
    );
    other.expect(&["PUBSUB", "SHARDNUMSUB", "news"], "*2\r\n$4\r\nnews\r\n:2");
    other.expect(&["PUBSUB", "NUMPAT"], ":1");
    other.expect(&["PUBSUB", "CHANNELS"], "*1\r\n$4\r\nnews");
    // A client that listens itself is told the same.
    let mut listening = proxy.client3();
    listening.cmd(&["SUBSCRIBE", "mine"]);
    listening.expect(&["PUBLISH", "news", "m"], ":10");
    drop(clients);
    eventually("the server forgets clients that have gone", STEP, || {
        server.client().int(&["PUBSUB", "NUMPAT"]) == 0 && other.int(&["PUBLISH", "news", "m"]) == 0
    });
}

#[test]
fn five_thousand_clients_listen_to_one_channel() {
    const CLIENTS: usize = 5_000;
    const MESSAGES: usize = 20;
    let server = Server::start();
    let proxy = Proxy::start(&server, &["--workers", "2"]);
    let mut clients: Vec<Client> = (0..CLIENTS)
        .map(|i| {
            let mut client = proxy.client();
            if i % 2 == 1 {
                client = client.hello3();
            }
            client.send(&["SUBSCRIBE", "news"]);
            client
        })
        .collect();
    for client in &mut clients {
        client.frame();
    }
    let mut direct = server.client();
    assert_eq!(
        show(&direct.cmd(&["PUBSUB", "NUMSUB", "news"])),
        r"*2\r\n$4\r\nnews\r\n:2\r\n",
        "each worker subscribes once"
    );
    assert_eq!(proxy.metric("nearcache_subscriptions", &[]), Some(2.0));
    assert_eq!(proxy.client().int(&["PUBLISH", "news", "0"]), CLIENTS as i64);
    for i in 1..MESSAGES {
        direct.cmd(&["PUBLISH", "news", &i.to_string()]);
    }
    for client in &mut clients {
        for i in 0..MESSAGES {
            let message = client.frame();
            assert_eq!(reply_text(&children(&message)[2]), i.to_string());
        }
    }
}

fn reply_text(frame: &[u8]) -> String {
    let text = payload(frame).flatten().unwrap_or_default();
    String::from_utf8_lossy(&text).into_owned()
}

#[test]
fn messages_come_between_the_replies_of_a_client_with_a_connection_of_its_own() {
    let server = Server::start();
    let proxy = Proxy::start(&server, &[]);
    let mut publisher = server.client();
    let mut client = proxy.client3();
    client.cmd(&["SUBSCRIBE", "c"]);
    client.expect(&["WATCH", "k"], "+OK");
    publisher.expect(&["PUBLISH", "c", "1"], ":1");
    assert_eq!(reply_text(&children(&client.frame())[2]), "1");
    client.expect(&["MULTI"], "+OK");
    client.expect(&["SET", "k", "v"], "+QUEUED");
    publisher.expect(&["PUBLISH", "c", "2"], ":1");
    assert_eq!(reply_text(&children(&client.frame())[2]), "2");
    client.expect(&["EXEC"], "*1\r\n+OK");
    client.send(&["BLPOP", "list", "0"]);
    eventually("it is blocked", STEP, || server.info("blocked_clients") == 1);
    publisher.expect(&["PUBLISH", "c", "3"], ":1");
    assert_eq!(reply_text(&children(&client.frame())[2]), "3");
    publisher.expect(&["RPUSH", "list", "e"], ":1");
    assert_eq!(show(&client.frame()), r"*2\r\n$4\r\nlist\r\n$1\r\ne\r\n");
    // A subscription more while keys are watched.
    client.expect(&["WATCH", "k"], "+OK");
    client.expect(&["SUBSCRIBE", "d"], ">3\r\n$9\r\nsubscribe\r\n$1\r\nd\r\n:2");
    client.expect(&["UNWATCH"], "+OK");
    client.expect(&["UNSUBSCRIBE", "c"], ">3\r\n$11\r\nunsubscribe\r\n$1\r\nc\r\n:1");
}

#[test]
fn a_large_reply_is_not_torn_by_messages() {
    let server = Server::start();
    let proxy = Proxy::start(&server, &[]);
    let mut publisher = server.client();
    let large = vec![b'x'; 8 << 20];
    publisher.cmd(&[&b"SET"[..], b"large", &large]);
    let mut client = proxy.client3();
    client.cmd(&["SUBSCRIBE", "c"]);
    // On a connection of its own, since the key is known to be large.
    for _ in 0..2 {
        client.cmd(&["GET", "large"]);
    }
    client.send(&["GET", "large"]);
    let messages = 200;
    for _ in 0..messages {
        publisher.cmd(&["PUBLISH", "c", "m"]);
    }
    let (mut replies, mut pushes) = (0, 0);
    while replies < 1 || pushes < messages {
        let frame = client.frame();
        if frame[0] == b'>' {
            assert_eq!(show(&frame), r">3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$1\r\nm\r\n");
            pushes += 1;
        } else {
            assert_eq!(frame.len(), large.len() + 12);
            replies += 1;
        }
    }
}

#[test]
fn a_client_that_does_not_read_its_messages_is_closed_and_others_are_not() {
    let server = Server::start();
    let proxy = Proxy::with_config(
        &server.url(),
        "[clients]\npubsub_output_limit = \"2MiB\"\npubsub_output_soft_limit = \"1MiB\"\n",
        &["--workers", "1"],
    );
    let mut slow = proxy.client();
    let mut good = proxy.client();
    slow.cmd(&["SUBSCRIBE", "c"]);
    good.cmd(&["SUBSCRIBE", "c"]);
    let mut publisher = server.client();
    let text = "m".repeat(100_000);
    let end = Instant::now() + STEP;
    let mut sent = 0;
    while proxy.metric("nearcache_clients_refused_total", &[]) != Some(1.0) {
        assert!(Instant::now() < end, "not closed after {sent} messages");
        publisher.cmd(&["PUBLISH", "c", &text]);
        assert_eq!(children(&good.frame()).len(), 3);
        sent += 1;
    }
    slow.until_closed();
    publisher.expect(&["PUBLISH", "c", "m"], ":1");
    assert_eq!(reply_text(&children(&good.frame())[2]), "m");
    assert!(proxy.log().contains("clients.pubsub_output_limit"), "{}", proxy.log());
}

#[test]
fn listeners_are_closed_when_messages_may_have_been_lost() {
    let server = Server::start();
    let proxy = Proxy::start(&server, &["--workers", "1"]);
    let mut listening = proxy.client();
    let mut other = proxy.client();
    listening.cmd(&["SUBSCRIBE", "c"]);
    other.expect(&["SET", "k", "v"], "+OK");
    server.client().cmd(&["CLIENT", "KILL", "TYPE", "pubsub"]);
    listening.until_closed();
    other.expect(&["GET", "k"], "$1\r\nv");
    let mut again = proxy.client();
    eventually("one can subscribe again", STEP, || {
        show(&again.cmd(&["SUBSCRIBE", "c"])).contains("subscribe")
    });
    server.client().expect(&["PUBLISH", "c", "m"], ":1");
    assert_eq!(reply_text(&children(&again.frame())[2]), "m");
}

#[test]
fn without_an_upstream_a_subscription_is_an_error() {
    let server = Server::absent();
    let proxy = Proxy::start(&server, &[]);
    let mut client = proxy.client();
    let error = client.text(&["SUBSCRIBE", "c", "d"]);
    assert!(error.contains("unavailable"), "{error}");
}

#[test]
fn a_refused_channel_is_the_servers_error_and_the_next_one_is_not() {
    let server = Server::start();
    server.client().expect(
        &[
            "ACL",
            "SETUSER",
            "app",
            "on",
            ">secret",
            "~*",
            "+@all",
            "resetchannels",
            "&ok*",
        ],
        "+OK",
    );
    let url = server.url_tcp().replace("redis://", "redis://app:secret@");
    let proxy = Proxy::before(&url, &[]);
    let mut client = proxy.client();
    client.expect(&["AUTH", "app", "secret"], "+OK");
    let error = client.text(&["SUBSCRIBE", "no"]);
    assert!(error.contains("NOPERM"), "{error}");
    client.expect(&["GET", "k"], "$-1");
    client.expect(&["SUBSCRIBE", "ok1"], "*3\r\n$9\r\nsubscribe\r\n$3\r\nok1\r\n:1");
    server.client().expect(&["PUBLISH", "ok1", "m"], ":1");
    assert_eq!(reply_text(&children(&client.frame())[2]), "m");
}

#[test]
fn clients_come_and_go_while_messages_flow() {
    let server = Server::start();
    let proxy = Proxy::start(&server, &["--workers", "2"]);
    let mut publisher = server.client();
    let port = proxy.port();
    let coming: Vec<_> = (0..4)
        .map(|thread| {
            thread::spawn(move || {
                for round in 0..100 {
                    let mut client = Client::tcp(port);
                    if round % 2 == 0 {
                        client = client.hello3();
                    }
                    let name = format!("c{}", (round + thread) % 3);
                    client.raw(&[encode(&["SUBSCRIBE", &name]), encode(&["PSUBSCRIBE", "c*"])].concat());
                    let mut numbers = Vec::new();
                    let mut confirmed = 0;
                    while numbers.len() < 10 {
                        let frame = client.frame();
                        let parts = children(&frame);
                        match &*reply_text(&parts[0]) {
                            "subscribe" | "psubscribe" => confirmed += 1,
                            "message" => numbers.push(reply_text(&parts[2]).parse::<u64>().unwrap()),
                            "pmessage" => {}
                            other => panic!("{other}"),
                        }
                    }
                    assert_eq!(confirmed, 2);
                    // Every third number is on this channel, none missing, none twice.
                    assert!(numbers.windows(2).all(|pair| pair[1] == pair[0] + 3), "{numbers:?}");
                }
            })
        })
        .collect();
    let mut i = 0_u64;
    while coming.iter().any(|thread| !thread.is_finished()) {
        publisher.cmd(&["PUBLISH", &format!("c{}", i % 3), &i.to_string()]);
        i += 1;
    }
    for thread in coming {
        thread.join().unwrap();
    }
    eventually("nobody is left", Duration::from_secs(5), || {
        publisher.cmd(&["PUBSUB", "CHANNELS"]) == b"*0\r\n" && publisher.int(&["PUBSUB", "NUMPAT"]) == 0
    });
}

#[test]
fn a_large_request_waits_for_the_confirmations_before_it() {
    let server = Server::start();
    let proxy = Proxy::start(&server, &[]);
    let value = "x".repeat(1_200_000);
    for state in [&["CLIENT", "TRACKING", "ON"][..], &["WATCH", "w"], &["PING"]] {
        let mut client = proxy.client3();
        client.cmd(state);
        let requests = [
            encode(&["SUBSCRIBE", "c"]),
            encode(&["SET", "k", &value]),
            encode(&["INFO", "server"]),
            encode(&["SET", "k", &value]),
            encode(&["ECHO", "done"]),
        ];
        client.raw(&requests.concat());
        assert_eq!(show(&client.frame()), r">3\r\n$9\r\nsubscribe\r\n$1\r\nc\r\n:1\r\n");
        assert_eq!(show(&client.frame()), r"+OK\r\n");
        assert!(show(&client.frame()).contains("redis_version"));
        assert_eq!(show(&client.frame()), r"+OK\r\n");
        assert_eq!(show(&client.frame()), r"$4\r\ndone\r\n");
        client.raw(
            &[
                encode(&["RESET"]),
                encode(&["SET", "k", &value]),
                encode(&["ECHO", "done"]),
            ]
            .concat(),
        );
        assert_eq!(show(&client.frame()), r"+RESET\r\n");
        assert_eq!(show(&client.frame()), r"+OK\r\n");
        assert_eq!(show(&client.frame()), r"$4\r\ndone\r\n");
    }
}

#[test]
fn replies_that_a_listener_may_not_switch_off_are_awaited() {
    let (server, behind) = (Server::start(), Server::start());
    let proxy = Proxy::start(&behind, &[]);
    let commands = [
        &["MULTI"][..],
        &["EXEC", "x"],
        &["SUBSCRIBE", "c"],
        &["CLIENT", "REPLY", "SKIP"],
        &["SET", "k", "1"],
        &["UNSUBSCRIBE"],
        &["QUIT"],
    ];
    let all: Vec<u8> = commands.iter().flat_map(|command| encode(command)).collect();
    let [direct, through] = [server.client(), proxy.client()].map(|mut client| {
        client.raw(&all);
        show(&client.until_closed())
    });
    assert_eq!(through, direct);
}

#[test]
fn what_was_ended_before_its_start_was_confirmed_is_not_listened_to() {
    let server = Server::start();
    let behind = Server::start();
    let proxy = Proxy::start(&behind, &[]);
    let answers = [server.client(), proxy.client()].map(|mut client| {
        client.raw(&[encode(&["SUBSCRIBE", "c"]), encode(&["UNSUBSCRIBE", "c"])].concat());
        let mut frames = client.frames(2);
        // Of nothing.
        client.send(&["UNSUBSCRIBE"]);
        frames.push(client.frame());
        show(&frames.concat())
    });
    assert_eq!(answers[1], answers[0]);
}
