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
    let args = request.args;
    let all: Vec<_> = worker.shared.registry.lock().values().map(Arc::clone).collect();
    let mut text = String::new();
    let mut write = |meta: &ClientMeta| {
        let _ = writeln!(text, "{}", describe(meta, request, client));
    };
    match args.len() {
        2 => all.iter().for_each(|meta| write(meta)),
        4 if args.arg(2).eq_ignore_ascii_case(b"type") => {
            let class = Class::of(args.arg(3))?;
            all.iter().filter(|meta| class.has(meta)).for_each(|meta| write(meta));
        }
        4.. if args.arg(2).eq_ignore_ascii_case(b"id") => {
            for i in 3..args.len() {
                let id = number(args.arg(i)).ok_or("ERR Invalid client ID")?;
                all.iter().filter(|meta| meta.id == id).for_each(|meta| write(meta));
            }
        }
        _ => return Err("ERR syntax error".into()),
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
    let filter = Filter::parse(request)?;
    if let Some(user) = &filter.user {
        let is_known = user == "default" || {
            let registry = worker.shared.registry.lock();
            registry.values().any(|meta| *meta.words.lock().user == **user)
        };
        if !is_known {
            return Ok(Killed::Elsewhere);
        }
    }
    let others = worker.shared.kill(|meta| meta.id != own.id && filter.fits(meta));
    let is_own = !filter.skip_me && filter.fits(own);
    Ok(Killed::Count {
        count: others + usize::from(is_own),
        is_own,
    })
}

struct Filter {
    id: Option<u64>,
    address: Option<String>,
    local_address: Option<String>,
    user: Option<String>,
    class: Option<Class>,
    /// Seconds; Redis 7.4.
    least_age: Option<u64>,
    skip_me: bool,
}

impl Filter {
    fn parse(request: &Request<'_>) -> Result<Filter, String> {
        let args = request.args;
        let mut filter = Filter {
            id: None,
            address: None,
            local_address: None,
            user: None,
            class: None,
            least_age: None,
            skip_me: true,
        };
        const SYNTAX: &str = "ERR syntax error";
        for i in (2..args.len()).step_by(2) {
            if i + 1 == args.len() {
                return Err(SYNTAX.into());
            }
            let value = args.arg(i + 1);
            let word = || Some(String::from_utf8_lossy(value).into_owned());
            match &args.arg(i).to_ascii_lowercase()[..] {
                b"id" => filter.id = Some(number(value).ok_or("ERR client-id should be greater than 0")?),
                b"addr" => filter.address = word(),
                b"laddr" => filter.local_address = word(),
                b"user" => filter.user = word(),
                b"type" => filter.class = Some(Class::of(value)?),
                b"maxage" if request.facts.is_at_least(7, 4) => {
                    filter.least_age = Some(number(value).ok_or("ERR maxage is not an integer or out of range")?);
                }
                b"skipme" if value.eq_ignore_ascii_case(b"yes") => filter.skip_me = true,
                b"skipme" if value.eq_ignore_ascii_case(b"no") => filter.skip_me = false,
                _ => return Err(SYNTAX.into()),
            }
        }
        Ok(filter)
    }

    fn fits(&self, meta: &ClientMeta) -> bool {
        let age = clock::now_us().saturating_sub(meta.connected_us) / 1_000_000;
        self.id.is_none_or(|id| meta.id == id)
            && self.address.as_ref().is_none_or(|a| *a == meta.address)
            && self.local_address.as_ref().is_none_or(|a| *a == meta.local_address)
            && self.user.as_ref().is_none_or(|u| **u == *meta.words.lock().user)
            && self.class.is_none_or(|class| class.has(meta))
            && self.least_age.is_none_or(|least| age >= least)
    }
}
