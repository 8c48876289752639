//! Random commands that change what a connection is: databases, protocol versions, users, transactions, watches,
//! subscriptions, tracking, replies switched off, resets and ends. A command may have no reply here, or many, and messages
//! arrive that nobody asked for, so what is compared is everything that each connection receives in a turn.
//!
//! The direct server tells when a turn is over: it executes one thing after the other, and says whether somebody is blocked.
//! Then the proxy has to deliver as many frames to the same clients, and end the connections that the server has ended.

use std::collections::VecDeque;
use std::io::ErrorKind;
use std::time::{Duration, Instant};

use fastrand::Rng;

use super::grammar::{Command, Source, Template};
use crate::support::client::{children, encode, payload, without_id};
use crate::support::server::NEWER;
use crate::support::{Client, Proxy, STEP, Server, number_from_env, seed, show, show_args};

const CLIENTS: usize = 3;
const MOST_PROBLEMS: usize = 30;
/// Commands told with a difference.
const TRAIL: usize = 150;

/// Each is drawn as often as any other.
pub const STATES: &[&str] = &[
    "MULTI",
    "MULTI",
    "EXEC",
    "EXEC",
    "EXEC",
    "DISCARD",
    "WATCH {%s}",
    "WATCH",
    "UNWATCH",
    "SELECT [0|0|0|1|2|15]",
    "SELECT [16|-1|x|01|+1|''|0 0]",
    "SWAPDB [0|1|2] [0|1|2|99|x]",
    "MOVE %s [0|1|2|99|x]",
    "COPY %s %s DB [0|1|99|x] [|REPLACE]",
    "HELLO [|2|3|3|3|4|x|03|0]",
    "hello [2|3] [SETNAME|setname] %M",
    "HELLO [2|3] AUTH [default|nobody|app|low] [pw|x]",
    "HELLO 3 AUTH app pw SETNAME %M",
    "HELLO 3 SETNAME me AUTH low pw",
    "HELLO [3 NOPE|3 SETNAME|3 AUTH x|3 AUTH|2 2|3 SETNAME me SETNAME you]",
    "AUTH [x|pw|default x|default pw|nobody x|app pw|app x|low pw|low x|a b c|'' ''|'']",
    "ACL WHOAMI",
    "RESET",
    "RESET",
    "RESET x",
    "CLIENT SETNAME %M",
    "CLIENT GETNAME",
    "CLIENT NO-EVICT [on|off|x]",
    "CLIENT NO-TOUCH [on|off|x]",
    "CLIENT REPLY [ON|on|x|ON x]",
    "CLIENT REPLY [ON|OFF|SKIP]",
    "QUIT [||x]",
    "CLIENT TRACKING [ON|ON|OFF|x|ON OPTIN|ON OPTOUT|ON NOLOOP|ON OPTIN NOLOOP|ON OPTIN OPTOUT|ON PREFIX s|ON REDIRECT 99999999|OFF NOPE]",
    "CLIENT TRACKINGINFO",
    "CLIENT CACHING [yes|no|x|YES]",
    "CLIENT GETREDIR",
    "CLIENT UNPAUSE",
    "CLIENT UNBLOCK [99999999|x|99999999 ERROR]",
    "CLIENT SETINFO LIB-NAME %M",
    "CLIENT [NOPE|help|]",
    "SUBSCRIBE {%c}",
    "SUBSCRIBE",
    "PSUBSCRIBE {%Q}",
    "SSUBSCRIBE {%c}",
    "UNSUBSCRIBE [|{%c}]",
    "PUNSUBSCRIBE [|{%Q}]",
    "SUNSUBSCRIBE [|{%c}]",
    "PUBLISH %c %v",
    "PUBLISH %c %v",
    "SPUBLISH %c %v",
    "PUBSUB [NUMPAT|NUMSUB %c %c|SHARDNUMSUB %c]",
    "PING [||%v|x y]",
    "ECHO %v",
    "SET %s %v [|GET]",
    "SET %s %v",
    "GET %s",
    "GET %s",
    "MGET {%s}",
    "MSET {%s %v}",
    "INCR %s",
    "DEL {%s}",
    "HSET %h %m %v",
    "HGET %h %m",
    "HSTRLEN %h %m",
    "LPUSH %l {%m}",
    "LRANGE %l 0 -1",
    "LPOP %l 2",
    "ZADD %z %w %m",
    "ZRANGE %z 0 -1 WITHSCORES",
    "TYPE %k",
    "EXISTS {%s}",
    "DBSIZE",
    "FLUSHDB",
    "FLUSHALL",
    "BLPOP %l %l 0.002",
    "BLMOVE %l %l LEFT RIGHT 0.002",
    "BZPOPMIN %z 0.002",
    "XADD %x [%X|%d] a b",
    "XREAD COUNT 1 BLOCK 1 STREAMS %x [%d|0]",
    "WAIT 0 0",
    "EVAL %S 1 %s %v",
    "EVAL %H 0",
    "OBJECT ENCODING %s",
    "CONFIG GET maxmemory",
    "ACL [GETUSER low|SETUSER low|CAT nope]",
    "COMMAND COUNT",
    "ROLE",
    "DEBUG PROTOCOL [push|attrib|map|null|true|double|bignum|verbatim]",
    "NOSUCH %v",
    "GET",
    "LPUSH %l",
];

/// Only in turns of one command each: what the server has collected until it sleeps depends on how the commands arrive.
pub const COLLECTED: &[&str] = &[
    "CLIENT TRACKING ON BCAST [|PREFIX s|PREFIX s0 PREFIX s1|PREFIX s PREFIX s1|NOLOOP]",
    "CLIENT TRACKING ON BCAST OPTIN",
];

#[test]
fn random_states() {
    let ops = number_from_env("NEARCACHE_DIFF_OPS").unwrap_or(12_000);
    for depth in [8, 1] {
        run(&mut || Server::start(), ops / 2, depth, &[]);
    }
}

#[test]
fn random_states_behind_a_password() {
    let ops = number_from_env("NEARCACHE_DIFF_OPS").unwrap_or(4_000);
    let password = ["--requirepass", "pw"];
    run(&mut || Server::with(&password), ops, 6, &password);
}

#[test]
fn random_states_on_valkey() {
    let Some(first) = Server::valkey(&[]) else { return };
    let mut servers = vec![first, Server::valkey(&[]).expect("it was there a moment ago")];
    let ops = number_from_env("NEARCACHE_DIFF_OPS").unwrap_or(4_000);
    run(&mut || servers.pop().expect("two are enough"), ops, 8, &[]);
}

#[test]
fn random_states_on_newer_servers() {
    let ops = number_from_env("NEARCACHE_DIFF_OPS").unwrap_or(4_000);
    for newer in NEWER {
        let (Some(first), Some(second)) = (Server::newer(newer, &[]), Server::newer(newer, &[])) else {
            continue;
        };
        let mut servers = vec![first, second];
        run(&mut || servers.pop().expect("two are enough"), ops / 2, 8, &[]);
    }
}

struct Side {
    clients: Vec<Client>,
    /// What a client has received in this turn.
    got: Vec<Vec<Vec<u8>>>,
    is_closed: Vec<bool>,
    /// Past the proxy.
    control: Client,
    /// Subscribed to what says that a turn without replies was executed.
    listener: Client,
}

struct States<'a> {
    direct: Side,
    through: Side,
    server: &'a Server,
    proxy: &'a Proxy,
    /// A client of the proxy that only asks.
    asking: Client,
    trail: VecDeque<String>,
    tokens: u64,
    may_be_multi: Vec<bool>,
    /// Have asked for no replies since they came.
    was_off: Vec<bool>,
    /// Have asked to listen since they came.
    may_listen: Vec<bool>,
    /// The server sends no reply to a wrong password while other replies wait to be sent.
    loses_refusals: bool,
    /// Clients that have asked for tracking since they came.
    has_tracked: Vec<bool>,
    /// All are told at the end.
    problems: Vec<String>,
}

fn run(start: &mut dyn FnMut() -> Server, ops: u64, depth: usize, extra: &[&str]) {
    let (server, behind) = (start(), start());
    let url = match extra {
        [] => behind.url(),
        _ => format!("redis://:pw@127.0.0.1:{}", behind.port()),
    };
    let proxy = Proxy::before(&url, &[]);
    let side = |server: &Server, clients: Vec<Client>| {
        let mut control = server.client();
        control.expect(&["ACL", "SETUSER", "app", "on", ">pw", "~*", "&*", "+@all"], "+OK");
        let low = [
            "ACL",
            "SETUSER",
            "low",
            "on",
            ">pw",
            "~s*",
            "&c0",
            "-@all",
            "+@read",
            "+@connection",
            "+@pubsub",
            "+set",
        ];
        control.expect(&low, "+OK");
        let mut listener = server.client();
        listener.cmd(&["SUBSCRIBE", "barrier"]);
        Side {
            got: vec![Vec::new(); clients.len()],
            is_closed: vec![false; clients.len()],
            clients,
            control,
            listener,
        }
    };
    let mut asking = proxy.client();
    if !extra.is_empty() {
        asking.expect(&["AUTH", "pw"], "+OK");
    }
    let mut states = States {
        direct: side(&server, (0..CLIENTS).map(|_| server.stranger()).collect()),
        through: side(&behind, (0..CLIENTS).map(|_| proxy.client()).collect()),
        server: &server,
        proxy: &proxy,
        asking,
        trail: VecDeque::new(),
        tokens: 0,
        may_be_multi: vec![false; CLIENTS],
        was_off: vec![false; CLIENTS],
        may_listen: vec![false; CLIENTS],
        loses_refusals: loses_refusals(&server),
        has_tracked: vec![false; CLIENTS],
        problems: Vec::new(),
    };
    let mut source = Source {
        random: Rng::with_seed(seed()),
        dump: Vec::new(),
    };
    let is_known = |text: &str| {
        // 7.0 names a client whom it then tells to authenticate.
        let wrong = ["hello [2|3] [SETNAME", "HELLO [3 NOPE"];
        !extra.is_empty() && wrong.iter().any(|head| text.starts_with(head))
    };
    let texts = if depth == 1 {
        [STATES, COLLECTED].concat()
    } else {
        STATES.to_vec()
    };
    let templates: Vec<Template> = texts
        .iter()
        .filter(|t| !is_known(t))
        .map(|t| Template::parse(t))
        .collect();
    let mut done = 0;
    while done < ops {
        let who = source.random.usize(0..CLIENTS);
        let mut batch: Vec<Command> = (0..source.random.usize(1..=depth))
            .map(|_| {
                let mut draw = || templates[source.random.usize(0..templates.len())].fill(&mut source);
                let mut command = draw();
                while states.is_left_out(who, &command) {
                    command = draw();
                }
                states.note(who, &command);
                if source.random.u8(0..20) == 0 {
                    command[0] = command[0].to_ascii_lowercase();
                }
                command
            })
            .collect();
        // A server of today closes clients that have not authenticated for a kilobyte of output, which an authenticated one
        // may have had in front of its RESET.
        if !extra.is_empty()
            && let Some(at) = batch.iter().position(|c| c[0].eq_ignore_ascii_case(b"reset"))
        {
            batch = vec![batch.swap_remove(at)];
        }
        states.turn(who, &batch);
        done += batch.len() as u64;
        if states.problems.len() >= MOST_PROBLEMS {
            break;
        }
    }
    let problems = &states.problems;
    assert!(
        problems.is_empty(),
        "{} differences:\n{}",
        problems.len(),
        problems.join("\n\n")
    );
}

/// Redis 8 and Valkey 8.1 do: their `EXEC` then has fewer elements than it says.
fn loses_refusals(server: &Server) -> bool {
    let mut client = server.client();
    client.raw(b"MULTI\r\nAUTH app x\r\nEXEC\r\nECHO end\r\n");
    client.frames(3)[2].ends_with(b"end\r\n")
}

impl States<'_> {
    fn note(&mut self, who: usize, command: &Command) {
        match command[0].to_ascii_lowercase().as_slice() {
            b"multi" => self.may_be_multi[who] = true,
            b"exec" | b"discard" if command.len() == 1 => self.may_be_multi[who] = false,
            b"reset" if command.len() == 1 => {
                self.may_be_multi[who] = false;
                self.may_listen[who] = false;
                self.was_off[who] = false;
            }
            b"subscribe" | b"psubscribe" | b"ssubscribe" => self.may_listen[who] = true,
            _ => {}
        }
        if let [client, reply, setting] = &command[..]
            && client.eq_ignore_ascii_case(b"client")
            && reply.eq_ignore_ascii_case(b"reply")
        {
            self.was_off[who] |= setting.eq_ignore_ascii_case(b"off") || setting.eq_ignore_ascii_case(b"skip");
        }
    }

    /// Known differences, so that the others are found.
    fn is_left_out(&self, who: usize, command: &Command) -> bool {
        let is = |at: usize, word: &str| {
            command
                .get(at)
                .is_some_and(|arg| arg.eq_ignore_ascii_case(word.as_bytes()))
        };
        let is_bad_name = command
            .last()
            .is_some_and(|arg| arg.iter().any(|b| !(b'!'..=b'~').contains(b)));
        let is_one_of_ours = command.iter().any(|arg| arg == b"app" || arg == b"low");
        // 7.0 has authenticated and named the client by the time it finds the rest wrong; later servers have not, nor has the
        // proxy.
        (is(0, "hello") && (is(2, "auth") || is(2, "setname")) && (is_bad_name || command.iter().any(|arg| arg == b"NOPE")))
            // A client that listens, and then is another user or subscribes inside a transaction, gets a connection of its own
            // for that, whose numbers of subscriptions leave the others out (README, limits).
            || (is(0, "auth") || is(0, "hello")) && self.may_listen[who] && command.iter().any(|arg| arg == b"app" || arg == b"low")
            || self.loses_refusals && (is(0, "auth") || is(2, "auth")) && !(is_one_of_ours && command.iter().any(|arg| arg == b"pw"))
            || command[0].to_ascii_lowercase().ends_with(b"subscribe") && self.may_listen[who] && self.may_be_multi[who]
            // In a transaction it breaks the reply of EXEC: the server says how many elements come, and sends fewer.
            || is(1, "reply") && self.may_be_multi[who]
            // Without replies: nobody knows which subscriptions were confirmed, and the server neither answers nor closes.
            || command[0].to_ascii_lowercase().ends_with(b"subscribe") && self.was_off[who]
            || is(0, "quit") && self.was_off[who]
            || is(0, "hello") && self.was_off[who] && self.may_listen[who]
            // The server writes a client's own messages into the middle of its reply to EXEC; here they come between replies.
            || (is(0, "publish") || is(0, "spublish")) && self.may_listen[who] && self.may_be_multi[who]
            // Without replies nobody can tell which frame is the reply that counts listeners.
            || (is(0, "publish") || is(0, "spublish") || is(0, "pubsub")) && self.was_off[who]
    }

    fn turn(&mut self, who: usize, batch: &[Command]) {
        for command in batch {
            self.trail
                .push_back(format!("{who}/{}: {}", batch.len(), show_args(command)));
        }
        while self.trail.len() > TRAIL {
            self.trail.pop_front();
        }
        let bytes: Vec<u8> = batch.iter().flat_map(|c| encode(c)).collect();
        if let Err(problem) = self.both(who, &bytes, batch) {
            let trail = self.trail.iter().map(String::as_str).collect::<Vec<_>>().join("\n");
            self.problems.push(format!("{trail}\n{problem}"));
            self.start_over();
        }
    }

    fn both(&mut self, who: usize, bytes: &[u8], batch: &[Command]) -> Result<(), String> {
        self.direct.clients[who].raw(bytes);
        self.direct.settle();
        let is_silent = self.direct.got[who].len() < batch.len() && !self.direct.is_closed[who];
        // The peer may have closed already, as the server has.
        let _ = self.through.clients[who].try_raw(bytes);
        self.follow()?;
        if is_silent {
            self.barrier(who)?;
        }
        self.compare()?;
        if self.is_recycled(who, batch) {
            self.direct.is_closed[who] = true;
        }
        self.replace()
    }

    /// A server goes on telling a connection of what it read before it left tracking, once it has come back to it. The
    /// proxy gives such a client another connection, so it does not: nobody can miss it, and it cannot be compared.
    fn is_recycled(&mut self, who: usize, batch: &[Command]) -> bool {
        let is = |command: &Command, words: &[&str]| {
            words
                .iter()
                .zip(command)
                .filter(|(word, arg)| arg.eq_ignore_ascii_case(word.as_bytes()))
                .count()
                == words.len()
        };
        self.has_tracked[who] |= batch.iter().any(|c| is(c, &["CLIENT", "TRACKING", "ON"]));
        let leaves = |c: &Command| is(c, &["RESET"]) || is(c, &["CLIENT", "TRACKING", "OFF"]);
        self.has_tracked[who] && batch.iter().any(leaves)
    }

    /// The proxy's clients receive as much as the direct ones have.
    fn follow(&mut self) -> Result<(), String> {
        for i in 0..CLIENTS {
            while self.through.got[i].len() < self.direct.got[i].len() {
                match self.through.clients[i].try_frame(STEP) {
                    Ok(frame) => self.through.got[i].push(frame),
                    Err(e) => {
                        let got = show(&self.through.got[i].concat());
                        let missing = show(&self.direct.got[i][self.through.got[i].len()..].concat());
                        return Err(format!("client {i}: {e}\ngot:     {got}\nmissing: {missing}"));
                    }
                }
            }
        }
        Ok(())
    }

    /// Without replies nobody knows that the proxy's server has executed what it was sent; a message tells.
    fn barrier(&mut self, who: usize) -> Result<(), String> {
        self.tokens += 1;
        let token = self.tokens.to_string();
        let publish = encode(&["PUBLISH", "barrier", &token]);
        self.direct.clients[who].raw(&publish);
        self.direct.settle();
        let awaited = format!("\r\n{token}\r\n");
        // Earlier ones may come first, out of a transaction.
        let is_it = |frame: &[u8]| frame.ends_with(awaited.as_bytes());
        let is_heard = self.direct.listener.frames_at_hand().0.iter().any(|f| is_it(f));
        let _ = self.through.clients[who].try_raw(&publish);
        if is_heard {
            loop {
                let heard = self.through.listener.try_frame(STEP);
                let heard =
                    heard.map_err(|e| format!("client {who}: what is sent without replies is not executed: {e}"))?;
                if is_it(&heard) {
                    break;
                }
            }
        } else {
            // Not permitted, or queued, or refused while subscribed: then little else was executed.
            std::thread::sleep(Duration::from_millis(10));
        }
        self.follow()
    }

    fn compare(&mut self) -> Result<(), String> {
        for i in 0..CLIENTS {
            let direct = std::mem::take(&mut self.direct.got[i]);
            let through = std::mem::take(&mut self.through.got[i]);
            if direct != through && canonical(&direct) != canonical(&through) {
                let at = direct.iter().zip(&through).position(|(a, b)| a != b).unwrap_or(0);
                return Err(format!(
                    "client {i}, frame {at}\nserver: {}\nproxy:  {}",
                    show(&direct[at..].concat()),
                    show(&through[at..].concat()),
                ));
            }
            if self.direct.is_closed[i] {
                let rest = match self.through.clients[i].try_frame(STEP) {
                    Ok(frame) => show(&frame),
                    Err(e) if e.kind() == ErrorKind::TimedOut => "(stays open)".to_owned(),
                    Err(_) => continue,
                };
                return Err(format!(
                    "client {i} is closed by the server, and not by the proxy: {rest}"
                ));
            }
        }
        Ok(())
    }

    /// After a difference nothing is known.
    fn start_over(&mut self) {
        self.trail.clear();
        for i in 0..CLIENTS {
            self.direct.is_closed[i] = true;
            self.direct.got[i].clear();
            self.through.got[i].clear();
        }
        if let Err(problem) = self.replace() {
            panic!("{problem}\nafter\n{}", self.problems.join("\n\n"));
        }
        for side in [&mut self.direct, &mut self.through] {
            side.control.cmd(&["FLUSHALL"]);
            side.listener.frames_at_hand();
        }
    }

    /// Those that were closed come again.
    fn replace(&mut self) -> Result<(), String> {
        let mut has_gone = false;
        for i in 0..CLIENTS {
            if std::mem::take(&mut self.direct.is_closed[i]) {
                has_gone = true;
                self.has_tracked[i] = false;
                self.trail.push_back(format!("{i}: is closed and comes again"));
                self.direct.clients[i] = self.server.stranger();
                self.through.clients[i] = self.proxy.client();
            }
        }
        if has_gone {
            self.wait_for_same_subscribers()?;
        }
        Ok(())
    }

    /// The proxy ends a subscription upstream when its client has gone, a moment later.
    fn wait_for_same_subscribers(&mut self) -> Result<(), String> {
        let end = Instant::now() + STEP;
        let questions: [&[&str]; 3] = [
            &["PUBSUB", "NUMSUB", "c0", "c1", "c2", "", "c\r\n"],
            &["PUBSUB", "SHARDNUMSUB", "c0", "c1", "c2", "", "c\r\n"],
            &["PUBSUB", "NUMPAT"],
        ];
        for question in questions {
            loop {
                let expected = self.direct.control.cmd(question);
                // To its server all clients of a worker are one.
                let found = self.asking.cmd(question);
                if found == expected {
                    break;
                }
                if Instant::now() > end {
                    let (question, expected, found) = (show_args(question), show(&expected), show(&found));
                    return Err(format!(
                        "a subscription stays behind: {question}\nserver: {expected}\nproxy:  {found}"
                    ));
                }
                std::thread::sleep(Duration::from_micros(200));
            }
        }
        Ok(())
    }
}

impl Side {
    /// Waits until nothing of what was sent is left to do, and takes what has come. For the direct side.
    fn settle(&mut self) {
        let end = Instant::now() + STEP;
        loop {
            // Whatever arrived before the first was read before the second is answered.
            self.control.cmd(&["PING"]);
            self.control.cmd(&["PING"]);
            let info = self.control.text(&["INFO", "clients"]);
            if info.contains("blocked_clients:0\r\n") {
                break;
            }
            assert!(Instant::now() < end, "somebody stays blocked");
            std::thread::sleep(Duration::from_micros(300));
        }
        self.control.cmd(&["PING"]);
        self.control.cmd(&["PING"]);
        for (i, client) in self.clients.iter_mut().enumerate() {
            let (frames, is_closed) = client.frames_at_hand();
            self.got[i].extend(frames);
            self.is_closed[i] |= is_closed;
        }
    }
}

/// What may differ between two servers of the same state: the id in a handshake, and the order in which a hash table of
/// subscriptions is walked.
fn canonical(frames: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let mut out = Vec::new();
    let mut rest = frames;
    while let Some((first, behind)) = rest.split_first() {
        let kind = kind(first);
        let run = match kind.as_slice() {
            b"unsubscribe" | b"punsubscribe" | b"sunsubscribe" | b"pmessage" => {
                1 + behind.iter().take_while(|frame| self::kind(frame) == kind).count()
            }
            _ => 1,
        };
        if run > 1 {
            // Names and counts, each sorted for itself: the counts go down in any order of names.
            let mut parts: Vec<Vec<u8>> = rest[..run].iter().flat_map(|frame| children(frame)).collect();
            parts.sort();
            out.extend(parts);
        } else if first.starts_with(b"*")
            && children(first)
                .iter()
                .any(|child| self::kind(child).ends_with(b"unsubscribe"))
        {
            // In the reply of EXEC.
            out.extend(canonical(&children(first)));
        } else {
            out.push(without_id(first));
        }
        rest = &rest[run..];
    }
    out
}

/// The first word of a message or confirmation.
fn kind(frame: &[u8]) -> Vec<u8> {
    match frame.first() {
        Some(b'*' | b'>') => children(frame)
            .first()
            .and_then(|word| payload(word).flatten())
            .unwrap_or_default(),
        _ => Vec::new(),
    }
}
