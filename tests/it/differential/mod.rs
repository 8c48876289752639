//! The same random commands to a server directly and to another through the proxy: whatever comes back must be the same.
//!
//! Clients take turns, so that both servers execute the same commands in the same order; they are pipelined or not,
//! transactions and watched keys run across the turns of others. Reads are drawn from few keys and repeated, so that the
//! proxy's answers come from its cache as well as from its server.
//!
//! `NEARCACHE_DIFF_OPS` is the number of commands of each run, `NEARCACHE_TEST_SEED` (a number, or `random`) makes other ones.

mod commands;
mod compare;
mod coverage;
mod documented;
mod expiry;
mod grammar;
mod malformed;
mod server;
mod states;

use std::collections::VecDeque;

use fastrand::Rng;

use crate::support::client::{children, encode, without_id};
use crate::support::server::NEWER;
use crate::support::{Client, Proxy, STEP, Server, eventually, number_from_env, seed, show, show_args};
use documented::Documented;
use grammar::{Command, Source, Template, inline};

const CLIENTS: usize = 3;

/// What a busy machine makes of one server's log of slow commands is not the other's.
const NO_SLOWLOG: [&str; 2] = ["--slowlog-log-slower-than", "-1"];

#[test]
fn random_commands_in_resp2() {
    run(
        &mut || Server::with(&NO_SLOWLOG),
        Protocol::Resp2,
        number_from_env("NEARCACHE_DIFF_OPS").unwrap_or(20_000),
    );
}

#[test]
fn random_commands_in_resp3() {
    run(
        &mut || Server::with(&NO_SLOWLOG),
        Protocol::Resp3,
        number_from_env("NEARCACHE_DIFF_OPS").unwrap_or(20_000),
    );
}

#[test]
fn random_commands_of_both_protocols_mixed_on_valkey() {
    let Some(first) = Server::valkey(&NO_SLOWLOG) else {
        return;
    };
    let mut servers = vec![first, Server::valkey(&NO_SLOWLOG).expect("it was there a moment ago")];
    let ops = number_from_env("NEARCACHE_DIFF_OPS").unwrap_or(20_000);
    run(&mut || servers.pop().expect("two are enough"), Protocol::Mixed, ops / 3);
}

#[test]
fn random_commands_of_both_protocols_mixed_on_redis_6() {
    let Some(first) = Server::redis_6(&NO_SLOWLOG) else {
        return;
    };
    let mut servers = vec![first, Server::redis_6(&NO_SLOWLOG).expect("it was there a moment ago")];
    let ops = number_from_env("NEARCACHE_DIFF_OPS").unwrap_or(20_000);
    run(&mut || servers.pop().expect("two are enough"), Protocol::Mixed, ops / 3);
}

#[test]
fn random_commands_of_both_protocols_mixed_on_newer_servers() {
    let ops = number_from_env("NEARCACHE_DIFF_OPS").unwrap_or(20_000);
    for newer in NEWER {
        let Some(first) = Server::newer(newer, &NO_SLOWLOG) else {
            continue;
        };
        let second = Server::newer(newer, &NO_SLOWLOG).expect("it was there a moment ago");
        let mut servers = vec![first, second];
        run(&mut || servers.pop().expect("two are enough"), Protocol::Mixed, ops / 6);
    }
}

/// The direct server has `HELLO`, and tells by it what the proxy has to find out in other ways.
#[test]
fn random_commands_to_a_server_without_hello() {
    let flags = [&["--rename-command", "HELLO", ""][..], &NO_SLOWLOG].concat();
    let mut servers = vec![Server::with(&flags), Server::with(&NO_SLOWLOG)];
    let ops = number_from_env("NEARCACHE_DIFF_OPS").unwrap_or(20_000);
    run(&mut || servers.pop().expect("two are enough"), Protocol::Resp2, ops / 3);
}

#[test]
fn random_commands_to_redis_5() {
    let Some(first) = Server::redis_5(&NO_SLOWLOG) else {
        return;
    };
    let mut servers = vec![first, Server::redis_5(&NO_SLOWLOG).expect("it was there a moment ago")];
    let ops = number_from_env("NEARCACHE_DIFF_OPS").unwrap_or(20_000);
    run(&mut || servers.pop().expect("two are enough"), Protocol::Resp2, ops / 3);
}

#[derive(Clone, Copy, PartialEq)]
enum Protocol {
    Resp2,
    Resp3,
    Mixed,
}

struct Turns {
    direct: Vec<Client>,
    through: Vec<Client>,
    /// What each client is still going to send, in order.
    pending: Vec<VecDeque<Command>>,
    /// What each client has queued in its open transaction.
    queued: Vec<Option<Vec<Command>>>,
    reads: Vec<Template>,
    writes: Vec<Template>,
    rare: Vec<Template>,
    server: Vec<Template>,
    documented: Vec<Documented>,
    source: Source,
    recent_reads: Vec<Command>,
    is_older: bool,
    trail: VecDeque<String>,
}

fn run(start: &mut dyn FnMut() -> Server, protocol: Protocol, ops: u64) {
    let (direct, behind) = (start(), start());
    // What is not tracked is kept, too, as long as nobody else writes.
    let has_hello = !behind.client().cmd(&["HELLO"]).starts_with(b"-");
    let toml = "[cache]\nconsistency = \"eventual\"\ninvalidation = \"own-writes\"\nmax_age = \"10m\"\n";
    let proxy = match has_hello {
        true => Proxy::start(&behind, &["--workers", "2"]),
        false => Proxy::with_config(&behind.url(), toml, &["--workers", "2"]),
    };
    for server in [&direct, &behind] {
        let mut client = server.client();
        client.expect(
            &["SCRIPT", "LOAD", commands::SCRIPTS[0]],
            &format!("$40\r\n{}", commands::LOADED),
        );
        let loaded = client.text(&["FUNCTION", "LOAD", commands::LIBRARY]);
        assert!(
            loaded == "$3\r\nlib\r\n" || loaded.contains("unknown command"),
            "{loaded}"
        );
    }
    let mut client = direct.client();
    client.expect(&["SET", "to be dumped", "from a dump"], "+OK");
    let dump = client.bulk(&["DUMP", "to be dumped"]).expect("a payload");
    client.expect(&["DEL", "to be dumped"], ":1");
    // On which server's words it answers a worker knows a moment after the start.
    let hello = without_id(&client.cmd(&["HELLO"]));
    let knows = |mut client: Client| {
        eventually("a worker knows the server", STEP, || {
            let found = without_id(&client.cmd(&["HELLO"]));
            // Redis 5 has none.
            found == hello || hello.starts_with(b"-")
        });
        client
    };
    let greet = |i: usize, client: Client| match protocol {
        Protocol::Resp2 => client,
        Protocol::Resp3 => client.hello3(),
        Protocol::Mixed if i.is_multiple_of(2) => client,
        Protocol::Mixed => client.hello3(),
    };
    let is_older = ["redis_version:5.", "redis_version:6."]
        .iter()
        .any(|version| direct.kind().contains(version));
    // There id 0 is no id, and whatever else is named decides: alone it means every client.
    let is_drawn = |text: &str| !(is_older && text.starts_with("CLIENT KILL"));
    // What a server lacks that the proxy has.
    let is_had = |text: &str| {
        has_hello
            || !["CLIENT", "COMMAND", "HELLO", "RESET"]
                .iter()
                .any(|name| text.contains(name))
    };
    let templates = |texts: &[&str]| {
        let drawn = texts.iter().filter(|text| is_drawn(text) && is_had(text));
        drawn.map(|t| Template::parse(t)).collect()
    };
    let mut turns = Turns {
        direct: (0..CLIENTS).map(|i| greet(i, direct.client())).collect(),
        through: (0..CLIENTS).map(|i| greet(i, knows(proxy.client()))).collect(),
        pending: vec![VecDeque::new(); CLIENTS],
        queued: vec![None; CLIENTS],
        reads: templates(commands::READS),
        writes: templates(commands::WRITES),
        rare: templates(commands::RARE),
        server: templates(server::SERVER),
        documented: documented_by(&mut client),
        source: Source {
            random: Rng::with_seed(seed()),
            dump,
        },
        recent_reads: Vec::new(),
        is_older,
        trail: VecDeque::new(),
    };
    let mut done = 0;
    while done < ops {
        done += turns.take_one();
    }
}

/// An older server documents nothing: it is asked for what a newer one can do, and for what both can.
fn documented_by(client: &mut Client) -> Vec<Documented> {
    let own = documented::commands(&client.cmd(&["COMMAND", "DOCS"]));
    if own.is_empty() {
        return documented::commands(&Server::start().client().cmd(&["COMMAND", "DOCS"]));
    }
    own
}

impl Turns {
    /// One client sends one batch. Returns how many commands that was.
    fn take_one(&mut self) -> u64 {
        let who = self.source.random.usize(0..CLIENTS);
        let deep = match self.source.random.u8(0..10) {
            0..=3 => 1,
            4..=7 => self.source.random.usize(2..8),
            _ => self.source.random.usize(8..60),
        };
        while self.pending[who].len() < deep {
            self.draw(who);
        }
        let batch: Vec<Command> = self.pending[who].drain(..deep).collect();
        let bytes: Vec<u8> = batch
            .iter()
            .flat_map(|c| match self.source.random.u8(0..25) {
                // Before Redis 6 an empty word of an inline command is none.
                0 if self.is_older && c.iter().any(Vec::is_empty) => encode(c),
                0 => inline(c, &mut self.source.random).unwrap_or_else(|| encode(c)),
                _ => encode(c),
            })
            .collect();
        for command in &batch {
            self.trail.push_back(format!("{who}/{deep}: {}", show_args(command)));
        }
        while self.trail.len() > 60 {
            self.trail.pop_front();
        }
        self.direct[who].raw(&bytes);
        let expected: Vec<Vec<u8>> = batch
            .iter()
            .map(|command| {
                let frame = self.direct[who].try_frame(crate::support::STEP);
                frame.unwrap_or_else(|e| panic!("the server, {}: {e}\n{}", show_args(command), self.story()))
            })
            .collect();
        // Pieces now and then: what is not whole waits for its rest.
        let mut rest = &bytes[..];
        if self.source.random.u8(0..8) == 0 {
            for _ in 0..self.source.random.usize(1..5) {
                let (piece, behind) = rest.split_at(self.source.random.usize(0..=rest.len()));
                self.through[who].raw(piece);
                rest = behind;
            }
        }
        self.through[who].raw(rest);
        for (command, expected) in batch.iter().zip(&expected) {
            let found = self.through[who].try_frame(crate::support::STEP);
            let found = found.unwrap_or_else(|e| panic!("{}: {e}\n{}", show_args(command), self.story()));
            self.check(who, command, expected, &found);
        }
        batch.len() as u64
    }

    fn check(&mut self, who: usize, command: &Command, expected: &[u8], found: &[u8]) {
        let name = command[0].to_ascii_uppercase();
        let is_same = match (&mut self.queued[who], name.as_slice()) {
            (queued @ None, b"MULTI") if expected == b"+OK\r\n" => {
                *queued = Some(Vec::new());
                found == expected
            }
            (queued @ Some(_), b"EXEC") => {
                let commands = queued.take().unwrap_or_default();
                let (a, b) = (children(expected), children(found));
                found == expected
                    || a.len() == commands.len()
                        && b.len() == a.len()
                        && commands
                            .iter()
                            .zip(a.iter().zip(&b))
                            .all(|(c, (a, b))| compare::is_same(c, a, b))
            }
            (queued @ Some(_), b"DISCARD" | b"RESET") => {
                *queued = None;
                found == expected
            }
            (Some(queued), _) => {
                if expected == b"+QUEUED\r\n" {
                    queued.push(command.clone());
                }
                found == expected
            }
            (None, _) => compare::is_same(command, expected, found),
        };
        // What the proxy answers itself it words as Redis 7 does; an error is one all the same.
        let code = |frame: &[u8]| frame.split(|byte| *byte == b' ').next().map(<[u8]>::to_vec);
        let is_worded_otherwise =
            self.is_older && expected.starts_with(b"-") && found.starts_with(b"-") && code(expected) == code(found);
        let is_same = is_same || is_worded_otherwise;
        assert!(
            is_same,
            "client {who}: {}\nserver: {}\nproxy:  {}\n{}",
            show_args(command),
            show(expected),
            show(found),
            self.story()
        );
    }

    /// Adds a command, a repeated read or a whole transaction to what `who` is going to send.
    fn draw(&mut self, who: usize) {
        match self.source.random.u8(0..100) {
            0..=2 => {
                if self.source.random.bool() {
                    let watch = Template::parse("WATCH {%k}").fill(&mut self.source);
                    self.pending[who].push_back(watch);
                }
                self.pending[who].push_back(vec![b"MULTI".to_vec()]);
                for _ in 0..self.source.random.usize(0..6) {
                    let command = self.command();
                    self.pending[who].push_back(command);
                }
                let end: &[u8] = if self.source.random.u8(0..6) == 0 {
                    b"DISCARD"
                } else {
                    b"EXEC"
                };
                self.pending[who].push_back(vec![end.to_vec()]);
            }
            3..=30 if !self.recent_reads.is_empty() => {
                let at = self.source.random.usize(0..self.recent_reads.len());
                self.pending[who].push_back(self.recent_reads[at].clone());
            }
            _ => {
                let command = self.command();
                self.pending[who].push_back(command);
            }
        }
    }

    fn command(&mut self) -> Command {
        let source = &mut self.source;
        let one = |from: &[Template], source: &mut Source| from[source.random.usize(0..from.len())].fill(source);
        let (mut command, is_read) = match source.random.u8(0..200) {
            0 => (one(&self.rare, source), false),
            1..=10 => return one(&self.server, source),
            11..=60 => {
                let at = source.random.usize(0..self.documented.len());
                (self.documented[at].fill(source), false)
            }
            61..=110 => (one(&self.writes, source), false),
            // The first reads are those of single strings: the commonest of all.
            111..=130 => (one(&self.reads[..8], source), true),
            _ => (one(&self.reads, source), true),
        };
        if self.source.random.u8(0..25) == 0 && may_be_spoilt(&command) {
            self.source.spoil(&mut command);
        }
        if is_read {
            if self.recent_reads.len() < 60 {
                self.recent_reads.push(command.clone());
            } else {
                let at = self.source.random.usize(0..60);
                self.recent_reads[at] = command.clone();
            }
        }
        command
    }

    fn story(&self) -> String {
        self.trail.iter().map(String::as_str).collect::<Vec<_>>().join("\n")
    }
}

/// Not where a wrong argument would make it wait for ever, draw by chance, or fill the memory.
fn may_be_spoilt(command: &Command) -> bool {
    let has = |word: &[u8]| command.iter().any(|arg| arg.eq_ignore_ascii_case(word));
    let name = String::from_utf8_lossy(&command[0]).to_ascii_uppercase();
    let is_delicate = matches!(
        name.as_str(),
        "SPOP" | "SRANDMEMBER" | "HRANDFIELD" | "ZRANDMEMBER" | "WAIT" | "SCAN" | "SSCAN"
    );
    let is_blocking = name.starts_with("BL") || name.starts_with("BR") || name.starts_with("BZ") || has(b"BLOCK");
    let is_timed = matches!(name.as_str(), "XADD" | "MEMORY" | "XINFO" | "XCLAIM");
    // 7.0 has named the client by the time it finds the rest wrong; later servers have not, nor has the proxy.
    // And Valkey takes any name that begins with a NUL.
    let is_early = name == "HELLO" || name == "CLIENT";
    let is_huge = matches!(name.as_str(), "COMMAND" | "CONFIG");
    !(is_delicate
        || is_blocking
        || is_timed
        || is_huge
        || is_early
        || command.len() == 1
        || command.iter().any(|a| a.len() > 100_000))
}
