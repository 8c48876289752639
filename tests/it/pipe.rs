//! The wire as a client sees it: what is no command, what is too long, where a stream is cut, and the words of the
//! handshake, each compared with the bytes of the server itself.

use std::thread;

use crate::support::client::{encode, without_id};
use crate::support::{Client, Proxy, Server, show};

/// What the connection does after the bytes of a case.
#[derive(Clone, Copy, PartialEq)]
enum Then {
    Open,
    Closed,
}
use Then::{Closed, Open};

const SENTINEL: &str = "nearcache-end-of-case";

#[test]
fn protocol_errors_and_inline_commands_are_those_of_the_server() {
    let server = Server::start();
    let proxy = Proxy::start(&server, &[]);
    let long_inline = [b"GET ".as_slice(), &[b'a'; 70_000]].concat();
    let long_count = [b"*".as_slice(), &[b'1'; 70_000]].concat();
    let long_length = [b"*1\r\n$".as_slice(), &[b'1'; 70_000]].concat();
    let cases: &[(&[u8], Then)] = &[
        (b"PING\r\n", Open),
        (b"PING\n", Open),
        (b"ping hello\r\n", Open),
        (b"  PING  \r\n", Open),
        (b"\tPING\r\n", Open),
        (b"\r\n\r\n\nPING\r\n", Open),
        (b"*0\r\n*-1\r\n*-10\r\nPING\r\n", Open),
        (
            b"SET inline \"a b\\x41\\n\\r\\t\\b\\a\\\\\\\"\"\r\nGET inline\r\n",
            Open,
        ),
        (b"SET inline 'single \\' \\x41 \\n'\r\nGET inline\r\n", Open),
        (b"SET inline \"\"\r\nGET inline\r\nSTRLEN ''\r\n", Open),
        (b"SET inline a\"b\"\r\nGET inline\r\n", Open),
        (b"SET inline \"unbalanced\r\n", Closed),
        (b"SET inline 'unbalanced\r\n", Closed),
        (b"SET inline \"a\"b\r\n", Closed),
        (b"SET \"a\\x\" 1\r\nGET \"a\\x\"\r\nGET ax\r\n", Open),
        (b"FOO bar\r\n", Open),
        (b"FOO\r\n", Open),
        (b"GET\r\n", Open),
        (b"*1\r\n$3\r\nGET\r\n", Open),
        (b"*1\r\n$0\r\n\r\n", Open),
        (b"*2\r\n$0\r\n\r\n$1\r\na\r\n", Open),
        (b"*2\r\n$3\r\nGET\r\n$0\r\n\r\n", Open),
        (b"*1\r\n$4\r\nPINGxx*1\r\n$4\r\nPING\r\n", Open),
        (b"*1\r\nPING\r\n", Closed),
        (b"*1\r\nx4\r\nPING\r\n", Closed),
        (b"*1\r\n+OK\r\n", Closed),
        (b"*1\r\n\r\n", Closed),
        (b"*x\r\n", Closed),
        (b"*1x\r\n", Closed),
        (b"* 1\r\n", Closed),
        (b"*+1\r\n", Closed),
        (b"*01\r\n", Closed),
        (b"*-0\r\n", Closed),
        (b"*\r\n", Closed),
        (b"*2147483648\r\n", Closed),
        (b"*99999999999999999999\r\n", Closed),
        (b"*1\r\n$-1\r\n", Closed),
        (b"*1\r\n$x\r\n", Closed),
        (b"*1\r\n$\r\n", Closed),
        (b"*1\r\n$+4\r\nPING\r\n", Closed),
        (b"*1\r\n$04\r\nPING\r\n", Closed),
        (b"*1\r\n$ 4\r\nPING\r\n", Closed),
        (b"*1\r\n$536870913\r\n", Closed),
        (b"*1\r\n$9223372036854775808\r\n", Closed),
        (b"*2\r\n$3\r\nGET\r\n$-5\r\n", Closed),
        (&long_inline, Closed),
        (&long_count, Closed),
        (&long_length, Closed),
        (b"POST / HTTP/1.1\r\n", Closed),
        (b"post / HTTP/1.1\r\n", Closed),
        (b"Host: 127.0.0.1\r\n", Closed),
        (b"host: 127.0.0.1\r\n", Closed),
        (b"*2\r\n$4\r\nPOST\r\n$1\r\n/\r\n", Closed),
        (b"*1\r\n$5\r\nHost:\r\n", Closed),
        (b"QUIT\r\n", Closed),
        (b"QUIT now please\r\n", Closed),
        (b"*1\r\n$4\r\nquit\r\n", Closed),
        (b"SET before 1\r\nGET before\r\nQUIT\r\n", Closed),
        (b"SET before 1\r\nGET before\r\n*1\r\n$x\r\n", Closed),
        (b"EXEC\r\nDISCARD\r\n", Open),
        (b"PING a b\r\n", Open),
        (b"ECHO\r\nECHO a b\r\n", Open),
        (b"RESET\r\n", Open),
        (b"RESET x\r\n", Open),
    ];
    for &(bytes, then) in cases {
        eprintln!("case {}", show(bytes));
        let direct = exchange(server.client(), bytes, then);
        let through = exchange(proxy.client(), bytes, then);
        assert_eq!(show(&through), show(&direct), "after {}", show(bytes));
    }
}

#[test]
fn replies_of_the_handshake_are_those_of_the_server() {
    let server = Server::start();
    let proxy = Proxy::start(&server, &[]);
    let cases = [
        "HELLO",
        "HELLO 2",
        "HELLO 3",
        "HELLO 3 2",
        "HELLO 1",
        "HELLO 4",
        "HELLO x",
        "HELLO 3 FOO",
        "HELLO 3 AUTH default",
        "HELLO 3 AUTH default any",
        "HELLO 3 AUTH nobody any",
        "HELLO 3 SETNAME",
        "HELLO 3 SETNAME me\nCLIENT GETNAME",
        "HELLO 3 SETNAME bad\\x20name\nCLIENT GETNAME",
        "HELLO 2 AUTH default any SETNAME me\nCLIENT GETNAME",
        "HELLO 3\nHELLO\nHELLO 2\nHELLO",
        "HELLO 3\nGET nokey\nHGETALL nokey\nSMEMBERS nokey\nHELLO 2\nGET nokey\nHGETALL nokey",
        "AUTH x",
        "AUTH default x",
        "AUTH nobody x",
        "AUTH",
        "AUTH a b c",
        "SELECT 1\nSET only-in-1 x\nSELECT 0\nEXISTS only-in-1\nSELECT 1\nEXISTS only-in-1",
        "SELECT 99",
        "SELECT -1",
        "SELECT x",
        "SELECT 1x",
        "SELECT",
        "SELECT 1 2",
        "CLIENT",
        "CLIENT SETINFO LIB-NAME x",
        "CLIENT setinfo LIB-NAME x",
        "CLIENT NO-TOUCH ON",
        "CLIENT MAINT_NOTIFICATIONS ON moving-endpoint-type internal-fqdn",
        "CLIENT FOO",
        "CLIENT SETNAME a\\x20b",
        "CLIENT SETNAME",
        "CLIENT SETNAME me\nCLIENT GETNAME\nRESET\nCLIENT GETNAME",
        "CLIENT SETNAME me\nCLIENT SETNAME \"\"\nCLIENT GETNAME",
        "CLIENT GETNAME",
        "CLIENT GETREDIR",
        "CLIENT REPLY foo",
        "CLIENT REPLY",
        "CLIENT TRACKING",
        "CLIENT TRACKING maybe",
        "CLIENT KILL",
        "CLIENT KILL ID x",
        "CLIENT UNPAUSE",
        "CLIENT PAUSE x",
        "CLIENT UNBLOCK x",
        "CLIENT NO-EVICT maybe",
        "CLIENT CACHING yes",
        "CLIENT ID x",
        "CLUSTER INFO",
        "CLUSTER NODES",
        "CLUSTER SLOTS",
        "READONLY",
        "READWRITE",
        "ASKING",
        "CONFIG GET save",
        "CONFIG GET appendonly",
        "CONFIG GET databases",
        "CONFIG GET nope",
        "CONFIG FOO",
        "SENTINEL MASTERS",
        "HELLO 3\nCONFIG GET save",
        "FOO bar",
        "FOO",
        "foo \"a\\nb\" c",
        "COMMAND COUNT",
        "COMMAND DOCS nope",
        "COMMAND DOCS get",
        "HELLO 3\nCOMMAND DOCS get set",
        "COMMAND INFO get nope",
        "HELLO 3\nCOMMAND INFO get nope",
        "COMMAND GETKEYS set a b",
        "COMMAND GETKEYSANDFLAGS set a b",
        "PING\nECHO \"a\\x00b\"\nPING \"\"",
        "TIME x",
        "DBSIZE x",
        "LATENCY HISTOGRAM get",
        "OBJECT",
        "OBJECT FREQ nokey",
        "SHUTDOWN WAT",
        "DEBUG STRINGMATCH-LEN",
        "SCRIPT EXISTS 0123456789012345678901234567890123456789",
        "FUNCTION STATS",
        "HELLO 3\nFUNCTION STATS",
        "SUBSCRIBE",
        "HELLO 3\nDEBUG PROTOCOL attrib",
        "DEBUG PROTOCOL double",
        "DEBUG PROTOCOL verbatim",
        "DEBUG PROTOCOL bignum",
        "HELLO 3\nDEBUG PROTOCOL map\nDEBUG PROTOCOL set\nDEBUG PROTOCOL bignum\nDEBUG PROTOCOL true\nDEBUG PROTOCOL null",
    ];
    for case in cases {
        let bytes = format!("{}\r\n", case.replace('\n', "\r\n"));
        let direct = without_id(&exchange(server.client(), bytes.as_bytes(), Open));
        let through = without_id(&exchange(proxy.client(), bytes.as_bytes(), Open));
        assert_eq!(show(&through), show(&direct), "after {case}");
    }
}

#[test]
fn client_id_is_stable_unique_and_survives_reset() {
    let server = Server::start();
    let proxy = Proxy::start(&server, &[]);
    let (mut a, mut b) = (proxy.client(), proxy.client3());
    let id = a.int(&["CLIENT", "ID"]);
    assert_ne!(id, b.int(&["CLIENT", "ID"]), "two clients, two ids");
    a.expect(&["RESET"], "+RESET");
    assert_eq!(id, a.int(&["CLIENT", "ID"]), "RESET keeps the id");
    a.expect(&["CLIENT", "SETNAME", "alice"], "+OK");
    let list = String::from_utf8(b.bulk(&["CLIENT", "LIST"]).expect("a list")).expect("text");
    assert!(
        list.lines()
            .any(|l| l.contains(&format!("id={id} ")) && l.contains("name=alice")),
        "{list}"
    );
    let info = String::from_utf8(a.bulk(&["CLIENT", "INFO"]).expect("its own line")).expect("text");
    assert!(info.contains(&format!("id={id} ")), "{info}");
}

#[test]
fn a_pipeline_split_at_every_byte_gives_the_same_replies() {
    let server = Server::start();
    let commands: &[&[&str]] = &[
        &["SET", "k", "value"],
        &["GET", "k"],
        &["APPEND", "k", "\r\n$5\r\n"],
        &["GET", "k"],
        &["STRLEN", "k"],
        &["GET", "missing"],
        &["PING"],
        // One behind the other as they are, they are looked at together.
        &["INCR", "n"],
        &["INCR", "n"],
        &["incr", "n"],
        &["incr", "k"],
        &["SET", "a", "1", "NX"],
        &["SET", "a", "2", "NX"],
        &["SET", "a", "", "XX"],
        &["SET", "", "3", "XX"],
        &["GET", "a"],
        &["DEL", "k"],
        &["DEL", "n"],
        &["DEL", "a"],
        &["GET", "k"],
    ];
    let mut bytes = Vec::new();
    for command in commands {
        bytes.extend(encode(command));
    }
    bytes.extend_from_slice(b"ECHO \"in line\"\r\n*0\r\n\r\nEXISTS k\r\n");
    let mut expected = exchange(server.client(), &bytes, Open);
    expected.truncate(expected.len() - format!("${}\r\n{SENTINEL}\r\n", SENTINEL.len()).len());
    for is_cached in [true, false] {
        let proxy = Proxy::with_config(&server.url(), &format!("[cache]\nenabled = {is_cached}\n"), &[]);
        let mut client = proxy.client();
        for at in 0..=bytes.len() {
            client.raw(&bytes[..at]);
            // What is complete before the cut must be answered before the rest comes: that is also what orders the two reads.
            let whole = exchange_prefix(commands, at);
            let early = client.frames(whole).concat();
            client.raw(&bytes[at..]);
            let late = client.bytes(expected.len() - early.len());
            assert_eq!(show(&[early, late].concat()), show(&expected), "cut at byte {at}");
        }
        for byte in &bytes {
            client.raw(&[*byte]);
            thread::yield_now();
        }
        assert_eq!(show(&client.bytes(expected.len())), show(&expected), "a byte at a time");
    }
}

#[test]
fn requests_alike_are_those_of_the_server() {
    let server = Server::start();
    let set = |value: &str| encode(&["SET", "k", value]);
    let get = || encode(&["GETRANGE", "k", "0", "20"]);
    let long = "x".repeat(20_000);
    let pipelines = [
        // Some too long to be looked at with the others.
        [
            "",
            &long[..9],
            &long[..99],
            &long[..999],
            &long[..1000],
            "1",
            &long,
            "2",
        ]
        .map(|value| [set(value), get()].concat())
        .concat(),
        [
            set("1"),
            set("2"),
            set(&long[..1000]),
            set("3"),
            get(),
            get(),
            encode(&["GETRANGE", "k", "0"]),
            get(),
        ]
        .concat(),
        // What follows an argument is not looked at, in Redis neither.
        [
            set("1"),
            set("2"),
            b"*3\r\n$3\r\nSET\r\n$1\r\nkxx$1\r\n3yy".to_vec(),
            set("4"),
            get(),
        ]
        .concat(),
    ];
    let broken = [
        "$x\r\n",
        "$-1\r\n",
        "x1\r\n",
        "$01\r\nk\r\n$1\r\nv\r\n",
        "$536870913\r\n",
    ];
    for is_cached in [true, false] {
        let proxy = Proxy::with_config(&server.url(), &format!("[cache]\nenabled = {is_cached}\n"), &[]);
        let both = |bytes: &[u8], then: Then| {
            let shown = [server.client(), proxy.client()].map(|client| show(&exchange(client, bytes, then)));
            assert_eq!(shown[0], shown[1], "{}", show(bytes));
        };
        pipelines.iter().for_each(|pipeline| both(pipeline, Open));
        for argument in broken {
            let bytes = [
                set("1"),
                set("2"),
                b"*3\r\n$3\r\nSET\r\n".to_vec(),
                argument.into(),
                set("3"),
            ]
            .concat();
            both(&bytes, Closed);
        }
    }
}

#[test]
fn a_client_that_stops_sending_still_gets_its_replies() {
    let server = Server::start();
    let proxy = Proxy::start(&server, &[]);
    let mut bytes = b"SET half open\r\n".to_vec();
    for _ in 0..200 {
        bytes.extend_from_slice(b"GET half\r\nINCR counter\r\nGET nokey\r\n");
    }
    let replies = |mut client: Client| {
        client.cmd(&["DEL", "counter"]);
        client.raw(&bytes);
        client.close_write();
        client.until_closed()
    };
    assert_eq!(show(&replies(proxy.client())), show(&replies(server.client())));
}

#[test]
fn a_deep_pipeline_keeps_its_order() {
    let server = Server::start();
    let proxy = Proxy::start(&server, &[]);
    const DEEP: usize = 20_000;
    let mut bytes = Vec::new();
    for i in 0..DEEP {
        bytes.extend(encode(&["ECHO", &i.to_string()]));
        bytes.extend(encode(&["INCR", "n"]));
        bytes.extend(encode(&["GET", "n"]));
    }
    // Written by another thread: a peer that answers while it reads may push back on both sides.
    thread::scope(|scope| {
        let mut client = proxy.client();
        let mut writer = client.second_handle();
        scope.spawn(move || writer.raw(&bytes));
        for i in 0..DEEP {
            assert_eq!(
                show(&client.frame()),
                show(format!("${}\r\n{i}\r\n", i.to_string().len()).as_bytes())
            );
            let n = i + 1;
            assert_eq!(show(&client.frame()), show(format!(":{n}\r\n").as_bytes()));
            assert_eq!(
                show(&client.frame()),
                show(format!("${}\r\n{n}\r\n", n.to_string().len()).as_bytes())
            );
        }
    });
}

#[test]
fn a_stranger_meets_the_limits_of_the_server() {
    let server = Server::with(&["--requirepass", "secret"]);
    let proxy = Proxy::before(&format!("redis://:secret@127.0.0.1:{}", server.port()), &[]);
    let long_argument = [b"*2\r\n$4\r\nPING\r\n$16385\r\n".as_slice(), &[b'a'; 16_385], b"\r\n"].concat();
    let fitting_argument = [b"*2\r\n$4\r\nAUTH\r\n$16384\r\n".as_slice(), &[b'a'; 16_384], b"\r\n"].concat();
    let cases: &[(&[u8], Then)] = &[
        (b"PING\r\n", Open),
        (b"COMMAND\r\nGET k\r\nSET k v\r\nCLIENT ID\r\nECHO x\r\nINFO\r\nSELECT 1\r\n", Open),
        (b"FOO bar\r\nGET\r\n", Open),
        (b"MULTI\r\nEXEC\r\nWATCH k\r\nSUBSCRIBE c\r\nMONITOR\r\n", Open),
        (b"HELLO\r\nHELLO 3\r\nHELLO 4\r\nHELLO x\r\n", Open),
        (b"HELLO 3 AUTH default bad\r\nHELLO 3 AUTH bad secret\r\nHELLO\r\n", Open),
        (b"HELLO 3 SETNAME x\r\n", Open),
        (b"AUTH bad\r\nAUTH default bad\r\nAUTH nobody secret\r\nAUTH\r\nAUTH a b c\r\n", Open),
        (b"RESET\r\n", Open),
        (b"QUIT\r\n", Closed),
        (b"POST / HTTP/1.1\r\n", Closed),
        (b"*11\r\n", Closed),
        (b"*10\r\n$4\r\nPING\r\n$1\r\na\r\n$1\r\na\r\n$1\r\na\r\n$1\r\na\r\n$1\r\na\r\n$1\r\na\r\n$1\r\na\r\n$1\r\na\r\n$1\r\na\r\n", Open),
        (b"*2\r\n$4\r\nPING\r\n$16385\r\n", Closed),
        (&long_argument, Closed),
        (&fitting_argument, Open),
        (b"NEARCACHE STATS\r\n", Open),
    ];
    for &(bytes, then) in cases {
        let mut sentinel = server.stranger();
        sentinel.expect(&["ECHO", SENTINEL], "-NOAUTH Authentication required.");
        let direct = exchange_unauthenticated(server.stranger(), bytes, then);
        let through = exchange_unauthenticated(proxy.client(), bytes, then);
        if bytes.starts_with(b"NEARCACHE") {
            assert!(
                through.starts_with(b"-"),
                "a stranger may not ask the proxy either: {}",
                show(&through)
            );
        } else {
            assert_eq!(show(&through), show(&direct), "after {}", show(bytes));
        }
    }
    let after_auth =
        b"AUTH secret\r\nPING\r\n*12\r\n$4\r\nMGET\r\n$1\r\na\r\n$1\r\na\r\n$1\r\na\r\n$1\r\na\r\n$1\r\na\r\n\
                       $1\r\na\r\n$1\r\na\r\n$1\r\na\r\n$1\r\na\r\n$1\r\na\r\n$1\r\na\r\nRESET\r\n";
    let direct = exchange_unauthenticated(server.stranger(), after_auth, Open);
    let through = exchange_unauthenticated(proxy.client(), after_auth, Open);
    assert_eq!(
        show(&through),
        show(&direct),
        "limits are lifted by AUTH and come back with RESET"
    );
}

/// Sends `bytes`; for an open connection reads up to the answer of a sentinel, for a closed one to its end.
#[track_caller]
fn exchange(client: Client, bytes: &[u8], then: Then) -> Vec<u8> {
    exchange_until(client, bytes, then, format!("{SENTINEL}\r\n").as_bytes())
}

/// The same for a client whose sentinel is refused.
#[track_caller]
fn exchange_unauthenticated(mut client: Client, bytes: &[u8], then: Then) -> Vec<u8> {
    client.raw(bytes);
    if then == Closed {
        return client.until_closed();
    }
    client.raw(b"FOO sentinel\r\n");
    let end = b"-ERR unknown command 'FOO', with args beginning with: 'sentinel' \r\n".to_vec();
    read_up_to(&mut client, &end)
}

#[track_caller]
fn exchange_until(mut client: Client, bytes: &[u8], then: Then, end: &[u8]) -> Vec<u8> {
    // A peer that closes at once may reset the connection while the rest is still being written.
    let sent = client.try_raw(bytes);
    if then == Closed {
        return client.until_closed();
    }
    sent.expect("an open connection takes everything");
    client.send(&["ECHO", SENTINEL]);
    read_up_to(&mut client, end)
}

#[track_caller]
fn read_up_to(client: &mut Client, end: &[u8]) -> Vec<u8> {
    let mut all = Vec::new();
    while !all.ends_with(end) {
        all.extend(client.frame());
    }
    all
}

/// How many of the pipeline's first commands end at or before byte `at`.
fn exchange_prefix(commands: &[&[&str]], at: usize) -> usize {
    let mut end = 0;
    commands
        .iter()
        .take_while(|c| {
            end += encode(c).len();
            end <= at
        })
        .count()
}
