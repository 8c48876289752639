//! One row of the command table: what a command is called, what it does to its keys, whether its reply may be kept, and
//! which way a request of it travels. Rows are plain values; the answers that depend on the options of a request are
//! methods that read its arguments and nothing else.

use std::borrow::Cow;

use super::kept::{Absent, Cache, NotCached};
use super::keys::{Keys, Shape};
use super::rule::Replies;
use crate::resp::convert::Rule;
use crate::resp::request::Args;

#[cfg(test)]
mod tests;

/// One command. Containers (`CLIENT`, `XGROUP`, …) are one row for all their subcommands.
#[derive(Clone, Debug)]
pub struct Spec {
    /// Lower case.
    pub name: Cow<'static, str>,
    /// The place of the row in its table. The static rows have the same ids in every table.
    pub id: u16,
    /// As in `COMMAND`: the exact number of arguments, the name included; when negative, the least number.
    pub arity: i32,
    /// What the command does to the keys it names, or, with [`Keys::All`], to any key. With [`Keys::None`] (some
    /// subcommands of containers) it says nothing.
    pub access: Access,
    /// Whether and how its reply may be kept.
    pub cache: Cache,
    /// The reply of this read for a key that does not exist.
    pub absent: Absent,
    /// Its first argument names a subcommand.
    pub has_subcommands: bool,
    /// Names, in lower case, and arities, as far as the server has told.
    pub(super) subcommands: Subcommands,
    shape: Shape,
    route: Route,
    replies: Replies,
}

/// The subcommands of a container and their arities.
pub(super) type Subcommands = Vec<(Box<str>, i32)>;

/// What a command does to the keys it names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Nothing: it names none, or only its subcommands that name none are meant.
    None,
    Read,
    /// It writes, or may write with some options, or may do anything (scripts).
    Write,
}

/// Which way a request travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Path {
    /// Over the multiplexed RESP3 connection; [`Spec::rule`] says how its reply is converted.
    Shared,
    /// Answered by the proxy.
    Local(Local),
    /// Needs an upstream connection of its own for a while.
    Pin(Pin),
    /// One request on a connection of its own, in the client's RESP version: administrative, rare, large, or without a
    /// conversion rule.
    Side,
    /// Not served. The complete text of the error, without the leading `-`.
    Refused(&'static str),
}

/// Who in the proxy answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Local {
    Ping,
    Echo,
    Select,
    Hello,
    Auth,
    Client,
    Reset,
    Quit,
    Info,
    Nearcache,
}

/// Why a request needs an upstream connection of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pin {
    Multi,
    Watch,
    /// Until its reply: it may keep the connection waiting.
    Blocking,
    Subscribe,
    Monitor,
    /// `CLIENT TRACKING`, `CACHING`, `REPLY`, `NO-EVICT`, `NO-TOUCH`: settings of the connection itself.
    Client,
    /// `SCRIPT DEBUG`, and what an unknown command's flags suggest.
    Stateful,
}

impl Spec {
    pub fn path(&self, args: Args<'_>) -> Path {
        match self.route {
            Route::Fixed(path) => path,
            Route::Client => client_path(args.arg(1)),
            Route::Script => script_path(args.arg(1)),
            Route::Function => function_path(args.arg(1)),
            Route::Streams if super::keys::stream_options(args).is_blocking => Path::Pin(Pin::Blocking),
            Route::Streams => Path::Shared,
            Route::Pending if args.len() <= 3 => Path::Side,
            Route::Pending => Path::Shared,
        }
    }

    pub(super) fn is_plain_get(&self) -> bool {
        self.cache == Cache::Get && self.is_arity_ok(2) && matches!(self.route, Route::Fixed(Path::Shared))
    }

    /// Whether every request of it that has the right number of arguments reads or writes the key in its first one and nothing
    /// else, and is forwarded as it is, with a reply that takes the general rule.
    #[inline]
    pub fn is_straight(&self) -> bool {
        matches!(self.shape, Shape::One)
            && matches!(self.route, Route::Fixed(Path::Shared))
            && matches!(self.replies, Replies::General)
            && matches!(self.access, Access::Read | Access::Write)
            && !self.has_subcommands
    }

    /// How the RESP3 reply to this request becomes a RESP2 one. Right for every request whose path is
    /// [`Path::Shared`], except that an `EXEC` needs the rules of what was queued as well.
    pub fn rule(&self, args: Args<'_>) -> Rule {
        self.replies.rule(args)
    }

    /// Gives every key that the arguments name to `each`, in the order of the arguments, except that the destination
    /// of `SORT` and `GEORADIUS` comes last. A key that stands there twice is given twice. What was given counts also when
    /// the answer is [`Keys::All`].
    pub fn keys<'a>(&self, args: Args<'a>, each: &mut dyn FnMut(&'a [u8])) -> Keys {
        self.shape.keys(args, each)
    }

    /// Whether and how the reply to this request may be kept.
    #[inline]
    pub fn cache_of(&self, args: Args<'_>) -> Cache {
        self.cache.of(args)
    }

    /// The index of the only key that the request names, for [`Cache::Reply`] and its like; `None` if there are
    /// several, or if it reads more than the keys it names. Key and other arguments together make out the request: where the
    /// key stood follows from what is around it.
    #[inline]
    pub fn only_key(&self, args: Args<'_>) -> Option<usize> {
        self.shape.only(args)
    }

    /// Whether the reply depends on nothing but the keys that [`Spec::keys`] gives and the arguments; for [`Cache::Reply`].
    pub fn is_of_its_keys(&self, args: Args<'_>) -> bool {
        self.shape.is_whole(args)
    }

    /// `argc` counts the command's name.
    pub fn is_arity_ok(&self, argc: usize) -> bool {
        is_arity_ok(self.arity, argc)
    }

    /// Whether `CLIENT PAUSE … WRITE` holds it back.
    pub fn may_be_paused(&self) -> bool {
        self.access == Access::Write || self.runs_code() || matches!(&*self.name, "publish" | "spublish")
    }

    /// Whether the server has told of this subcommand, given in lower case.
    pub fn has_subcommand(&self, name: &[u8]) -> bool {
        self.subcommands.iter().any(|(known, _)| known.as_bytes() == name)
    }

    /// What the server says of a subcommand that it does not have, or that has another number of arguments; both come before
    /// any other reason to refuse a request.
    pub fn wrong_subcommand(&self, args: Args<'_>) -> Option<WrongSubcommand> {
        if self.subcommands.is_empty() || args.len() < 2 {
            return None;
        }
        let named = self
            .subcommands
            .iter()
            .find(|(name, _)| args.arg(1).eq_ignore_ascii_case(name.as_bytes()));
        match named {
            None => Some(WrongSubcommand::Unknown),
            Some((_, arity)) if !is_arity_ok(*arity, args.len()) => Some(WrongSubcommand::Arity),
            Some(_) => None,
        }
    }

    /// Whether its reply tells a number of clients that listen.
    pub fn counts_listeners(&self) -> bool {
        matches!(&*self.name, "publish" | "spublish" | "pubsub")
    }

    /// Whether it waits until replicas, or the disk, have what was written.
    pub fn waits_for_writes(&self) -> bool {
        matches!(&*self.name, "wait" | "waitaof")
    }

    /// Whether the server runs a program for it, for as long as that takes.
    pub fn runs_code(&self) -> bool {
        matches!(self.shape, Shape::Script)
    }

    /// The name as the server's errors have it: with the subcommand, where there are any.
    pub fn full_name(&self, args: Args<'_>) -> String {
        match self.has_subcommands && args.len() > 1 {
            true => format!("{}|{}", self.name, String::from_utf8_lossy(args.arg(1)).to_lowercase()),
            false => self.name.to_string(),
        }
    }

    /// Whether the reply grows with the keyspace or with everything that was ever loaded, not with one key.
    pub fn is_likely_large(&self, args: Args<'_>) -> bool {
        let sub = args.arg(1);
        match &*self.name {
            "keys" => true,
            "function" if sub.eq_ignore_ascii_case(b"dump") => true,
            "function" if sub.eq_ignore_ascii_case(b"list") => {
                (2..args.len()).any(|i| args.arg(i).eq_ignore_ascii_case(b"withcode"))
            }
            "cluster" => sub.eq_ignore_ascii_case(b"getkeysinslot"),
            _ => false,
        }
    }
}

fn is_arity_ok(arity: i32, argc: usize) -> bool {
    let required = arity.unsigned_abs() as usize;
    if arity < 0 { argc >= required } else { argc == required }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WrongSubcommand {
    Unknown,
    Arity,
}

/// Commands with subcommands.
pub(super) const CONTAINERS: [&[u8]; 17] = [
    b"acl",
    b"client",
    b"cluster",
    b"command",
    b"commandlog",
    b"config",
    b"function",
    b"hotkeys",
    b"latency",
    b"memory",
    b"module",
    b"object",
    b"pubsub",
    b"script",
    b"slowlog",
    b"xgroup",
    b"xinfo",
];

/// What decides the path of a request.
#[derive(Clone, Copy, Debug)]
pub(super) enum Route {
    Fixed(Path),
    Client,
    Script,
    Function,
    /// `XREAD`, `XREADGROUP`: `BLOCK` decides.
    Streams,
    /// `XPENDING`: of a group without pending entries, the summary form has a null bulk and a null array side by side in
    /// RESP2, both `_` in RESP3, so it goes where nothing is converted.
    Pending,
}

fn client_path(sub: &[u8]) -> Path {
    const CONNECTION_SETTINGS: [&[u8]; 5] = [b"tracking", b"caching", b"reply", b"no-evict", b"no-touch"];
    if is_one_of(sub, &CONNECTION_SETTINGS) {
        Path::Pin(Pin::Client)
    } else {
        Path::Local(Local::Client)
    }
}

/// `SCRIPT KILL` must not wait behind the script it is to end: a server does not read from a connection while it runs a
/// script for it.
fn script_path(sub: &[u8]) -> Path {
    if sub.eq_ignore_ascii_case(b"debug") {
        Path::Pin(Pin::Stateful)
    } else if is_one_of(sub, &[b"load", b"exists", b"flush", b"show", b"help"]) {
        Path::Shared
    } else {
        Path::Side
    }
}

/// `FUNCTION KILL` and `STATS` are for the moment when a function runs, see [`script_path`].
fn function_path(sub: &[u8]) -> Path {
    const PLAIN: [&[u8]; 7] = [b"load", b"delete", b"flush", b"list", b"dump", b"restore", b"help"];
    if is_one_of(sub, &PLAIN) {
        Path::Shared
    } else {
        Path::Side
    }
}

pub(super) fn is_one_of(word: &[u8], names: &[&[u8]]) -> bool {
    names.iter().any(|name| word.eq_ignore_ascii_case(name))
}

/// A shared command that reads the key in its first argument.
pub(super) const fn read(name: &'static str, arity: i32) -> Spec {
    plain(name, arity).naming(Access::Read, Shape::One)
}

/// A shared command that writes the key in its first argument.
pub(super) const fn write(name: &'static str, arity: i32) -> Spec {
    plain(name, arity).naming(Access::Write, Shape::One)
}

/// A shared command that has nothing to do with keys.
pub(super) const fn plain(name: &'static str, arity: i32) -> Spec {
    Spec {
        name: Cow::Borrowed(name),
        id: 0,
        arity,
        access: Access::None,
        cache: Cache::No,
        absent: Absent::Unknown,
        has_subcommands: false,
        subcommands: Vec::new(),
        shape: Shape::None,
        route: Route::Fixed(Path::Shared),
        replies: Replies::General,
    }
}

/// A command that the proxy answers, and that has nothing to do with keys.
pub(super) const fn local(name: &'static str, arity: i32, who: Local) -> Spec {
    plain(name, arity).by(Path::Local(who))
}

/// A command on a connection of its own for one request, and that has nothing to do with keys.
pub(super) const fn side(name: &'static str, arity: i32) -> Spec {
    plain(name, arity).by(Path::Side)
}

/// What follows changes one column of a row.
impl Spec {
    pub(super) const fn naming(mut self, access: Access, shape: Shape) -> Spec {
        self.access = access;
        self.shape = shape;
        self
    }

    pub(super) const fn keyed(mut self, shape: Shape) -> Spec {
        self.shape = shape;
        self
    }

    pub(super) const fn kept(mut self, cache: Cache, absent: Absent) -> Spec {
        self.cache = cache;
        self.absent = absent;
        self
    }

    pub(super) const fn never_kept(mut self, why: NotCached) -> Spec {
        self.cache = Cache::Never(why);
        self
    }

    pub(super) const fn by(mut self, path: Path) -> Spec {
        self.route = Route::Fixed(path);
        self
    }

    pub(super) const fn routed(mut self, route: Route) -> Spec {
        self.route = route;
        self
    }

    pub(super) const fn replying(mut self, replies: Replies) -> Spec {
        self.replies = replies;
        self
    }
}
