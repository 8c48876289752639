//! `CLIENT LIST`, `INFO` and `KILL`: the proxy's own clients, as Redis describes them.

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use crate::clock;
use crate::proxy::client::{Client, ClientMeta};
use crate::proxy::request::Request;
use crate::proxy::worker::Worker;

/// The line of one client, without its end. Of the buffers only that of the asking request is known.
pub fn describe(meta: &ClientMeta, request: &Request<'_>, asking: &Client) -> String {
    let words = meta.words.lock().clone();
    let age = clock::now_us().saturating_sub(meta.connected_us) / 1_000_000;
    let [channels, patterns, shard_channels] = meta.subscriptions.each_ref().map(|count| count.load(Relaxed));
    let is_asking = meta.id == asking.meta.id;
    let mut line = format!(
        "id={} addr={} laddr={} fd=-1 name={} age={age} idle={} flags={} db={} sub={channels} psub={patterns} ssub={shard_channels} multi={} qbuf={} qbuf-free=0 argv-mem={} multi-mem=0 rbs=0 rbp=0 obl=0 oll=0 omem=0 tot-mem=0 events=r cmd={} user={} redir={} resp={}",
        meta.id,
        meta.address,
        meta.local_address,
        words.name,
        meta.idle_seconds(),
        meta.flags(),
        meta.db.load(Relaxed),
        meta.queued.load(Relaxed),
        if is_asking { request.raw.len() } else { 0 },
        if is_asking { request.raw.len() } else { 0 },
        last_command(meta, request, &words.subcommand),
        words.user,
        meta.redirect.load(Relaxed),
        if meta.is_resp3.load(Relaxed) { 3 } else { 2 },
    );
    if request.facts.is_at_least(7, 2) {
        let _ = write!(line, " lib-name={} lib-ver={}", words.library, words.library_version);
    }
    line
}

fn last_command(meta: &ClientMeta, request: &Request<'_>, subcommand: &str) -> String {
    let id = meta.command.load(Relaxed);
    match request.facts.table.row(id) {
        Some(row) if row.has_subcommands && !subcommand.is_empty() => format!("{}|{subcommand}", row.name),
        Some(row) => row.name.to_string(),
        None => "NULL".into(),
    }
}

pub fn list(worker: &Worker, client: &Client, request: &Request<'_>) -> Result<String, String> {
    let all: Vec<_> = worker.shared.registry.lock().values().map(Arc::clone).collect();
    let filter = Filter::parse(request, Purpose::List)?;
    let mut text = String::new();
    let is_skipped = |meta: &ClientMeta| filter.skips_me == Some(true) && meta.id == client.meta.id;
    for meta in all.iter().filter(|meta| filter.fits(meta) && !is_skipped(meta)) {
        let _ = writeln!(text, "{}", describe(meta, request, client));
    }
    Ok(text)
}

/// What `TYPE` means.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    Normal,
    Pubsub,
    /// Replicas and masters: there are none.
    Nobody,
}

impl Class {
    fn of(name: &[u8]) -> Result<Class, String> {
        match &name.to_ascii_lowercase()[..] {
            b"normal" => Ok(Class::Normal),
            b"pubsub" => Ok(Class::Pubsub),
            b"master" | b"replica" | b"slave" => Ok(Class::Nobody),
            _ => Err(format!("ERR Unknown client type '{}'", String::from_utf8_lossy(name))),
        }
    }

    fn has(self, meta: &ClientMeta) -> bool {
        match self {
            Class::Normal => !meta.is_subscribed(),
            Class::Pubsub => meta.is_subscribed(),
            Class::Nobody => false,
        }
    }
}

pub fn number(text: &[u8]) -> Option<u64> {
    std::str::from_utf8(text).ok()?.parse().ok().filter(|&id| id > 0)
}

/// What a `KILL` has come to.
pub enum Killed {
    /// By the form with an address alone.
    Old {
        is_own: bool,
    },
    Count {
        count: usize,
        is_own: bool,
    },
    /// Nobody here is of this user; the server knows whether there is one.
    Elsewhere,
}

/// Ends clients; the one that asks, if it is among them, is to be closed after its reply.
pub fn kill(worker: &Worker, client: &Client, request: &Request<'_>) -> Result<Killed, String> {
    let args = request.args;
    let own = &client.meta;
    if args.len() == 3 {
        let address = String::from_utf8_lossy(args.arg(2)).into_owned();
        let others = worker.shared.kill(|meta| meta.address == address && meta.id != own.id);
        let is_own = own.address == address;
        return if others == 0 && !is_own {
            Err("ERR No such client".into())
        } else {
            Ok(Killed::Old { is_own })
        };
    }
    let filter = Filter::parse(request, Purpose::Kill)?;
    if let Some(user) = filter.user() {
        let is_known = user == "default" || {
            let registry = worker.shared.registry.lock();
            registry.values().any(|meta| *meta.words.lock().user == *user)
        };
        if !is_known {
            return Ok(Killed::Elsewhere);
        }
    }
    let others = worker.shared.kill(|meta| meta.id != own.id && filter.fits(meta));
    let is_own = filter.skips_me == Some(false) && filter.fits(own);
    Ok(Killed::Count {
        count: others + usize::from(is_own),
        is_own,
    })
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Purpose {
    List,
    Kill,
}

/// What the clients meant have in common. Redis 7.0 knows few of the tests, and for `LIST` one at a time.
struct Filter {
    tests: Vec<Test>,
    skips_me: Option<bool>,
}

struct Test {
    is_negated: bool,
    what: What,
}

enum What {
    Ids(Vec<u64>),
    Class(Class),
    User(String),
    Address(String),
    LocalAddress(String),
    Ip(String),
    Name(String),
    Library(String),
    LibraryVersion(String),
    /// Letters, all of which are there.
    Flags(String),
    Db(u32),
    /// Seconds at least.
    Age(u64),
    Idle(u64),
}

const SYNTAX: &str = "ERR syntax error";

impl Filter {
    fn parse(request: &Request<'_>, purpose: Purpose) -> Result<Filter, String> {
        let (args, facts) = (request.args, request.facts);
        // Valkey 9 has all tests for both, and any number of ids.
        let has_all = facts.is_valkey_at_least(9, 0);
        let has_age = has_all || facts.is_at_least(7, 4);
        let mut filter = Filter {
            tests: Vec::new(),
            skips_me: None,
        };
        let mut i = 2;
        while i < args.len() {
            let option = args.arg(i).to_ascii_lowercase();
            let (is_negated, option) = match option.strip_prefix(b"not-") {
                Some(rest) if has_all => (true, rest),
                _ => (false, &option[..]),
            };
            i += 1;
            if i == args.len() {
                return Err(SYNTAX.into());
            }
            let value = args.arg(i);
            let word = || String::from_utf8_lossy(value).into_owned();
            i += 1;
            let seconds = |name: &str| {
                number(value).ok_or(match has_all {
                    true => format!("ERR {name} should be greater than 0"),
                    false => format!("ERR {name} is not an integer or out of range"),
                })
            };
            let is_kill = purpose == Purpose::Kill || has_all;
            let what = match option {
                b"id" => {
                    let mut ids = vec![number(value).ok_or(match (purpose, has_all) {
                        (_, true) => SYNTAX,
                        (Purpose::List, _) => "ERR Invalid client ID",
                        (Purpose::Kill, _) => "ERR client-id should be greater than 0",
                    })?];
                    while i < args.len() && (purpose == Purpose::List || has_all) {
                        match number(args.arg(i)) {
                            Some(id) => ids.push(id),
                            None if has_all => break,
                            None => return Err("ERR Invalid client ID".into()),
                        }
                        i += 1;
                    }
                    What::Ids(ids)
                }
                b"type" if has_all || purpose == Purpose::Kill || args.len() == 4 => What::Class(Class::of(value)?),
                b"user" if is_kill => What::User(word()),
                b"addr" if is_kill => What::Address(word()),
                b"laddr" if is_kill => What::LocalAddress(word()),
                b"maxage" if is_kill && has_age => What::Age(seconds("maxage")?),
                b"skipme" if is_kill && !is_negated => {
                    filter.skips_me = Some(match &value.to_ascii_lowercase()[..] {
                        b"yes" => true,
                        b"no" => false,
                        _ => return Err(SYNTAX.into()),
                    });
                    continue;
                }
                b"ip" if has_all => What::Ip(word()),
                b"name" if has_all => What::Name(word()),
                b"lib-name" if has_all => What::Library(word()),
                b"lib-ver" if has_all => What::LibraryVersion(word()),
                b"flags" if has_all => What::Flags(word()),
                b"idle" if has_all => What::Idle(seconds("idle")?),
                b"db" if has_all => {
                    let db = std::str::from_utf8(value).ok().and_then(|db| db.parse().ok());
                    What::Db(db.filter(|db| *db < facts.databases).ok_or_else(|| {
                        format!(
                            "ERR DB number should be between 0 and {}",
                            facts.databases.saturating_sub(1)
                        )
                    })?)
                }
                _ => return Err(SYNTAX.into()),
            };
            filter.tests.push(Test { is_negated, what });
        }
        if purpose == Purpose::Kill {
            filter.skips_me.get_or_insert(true);
        }
        Ok(filter)
    }

    fn fits(&self, meta: &ClientMeta) -> bool {
        self.tests.iter().all(|test| test.what.fits(meta) != test.is_negated)
    }

    /// The user who is meant, if it is one.
    fn user(&self) -> Option<&str> {
        self.tests.iter().find_map(|test| match &test.what {
            What::User(user) if !test.is_negated => Some(&**user),
            _ => None,
        })
    }
}

impl What {
    fn fits(&self, meta: &ClientMeta) -> bool {
        match self {
            What::Ids(ids) => ids.contains(&meta.id),
            What::Class(class) => class.has(meta),
            What::User(user) => **user == *meta.words.lock().user,
            What::Address(address) => *address == meta.address,
            What::LocalAddress(address) => *address == meta.local_address,
            What::Ip(ip) => meta.address.rsplit_once(':').is_some_and(|(host, _)| host == ip),
            What::Name(name) => **name == *meta.words.lock().name,
            What::Library(name) => **name == *meta.words.lock().library,
            What::LibraryVersion(version) => **version == *meta.words.lock().library_version,
            What::Flags(letters) => {
                let flags = meta.flags();
                letters.chars().all(|letter| flags.contains(letter))
            }
            What::Db(db) => meta.db.load(Relaxed) == *db,
            What::Age(seconds) => clock::now_us().saturating_sub(meta.connected_us) / 1_000_000 >= *seconds,
            What::Idle(seconds) => meta.idle_seconds() >= *seconds,
        }
    }
}
