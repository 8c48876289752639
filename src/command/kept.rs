//! Which reads are kept, how, and why the others are not. What is kept is a pure function of the state of one key (or, for
//! `MGET` and `EXISTS`, of each key for itself, and for set operations of all keys that they name) and of the arguments, and
//! the server pushes an invalidation for every change of that state. A read of which either is not true has its reason in its row instead.

use crate::resp::reply;
use crate::resp::request::Args;

#[cfg(test)]
mod tests;

/// Whether and how a reply may be kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cache {
    /// Nothing to keep: it reads no data, or it writes.
    No,
    /// A read that is always forwarded.
    Never(NotCached),
    Get,
    Mget,
    Exists,
    Strlen,
    /// `GETRANGE` and its old name `SUBSTR`.
    Getrange,
    /// A function of the deadline that is kept with an entry of the key.
    Ttl,
    Pttl,
    Type,
    /// The reply to exactly these arguments, when they name one key and [`Spec::only_key`](super::Spec::only_key) says where,
    /// or several and [`Spec::is_of_its_keys`](super::Spec::is_of_its_keys) says that it depends on no more.
    Reply,
    /// The same, but believed for no longer than the staleness bound: no push tells some of its changes.
    Brief,
    /// As `Reply` where the server tracks, as `Brief` where it does not: no keyspace event tells of its changes.
    Tracked,
    /// A container: its subcommands, in lower case, that read keys.
    Sub(&'static [(&'static str, Cache)]),
}

/// Why the reply to a read is never kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum NotCached {
    Keyspace,
    Iteration,
    Chance,
    Time,
    Usage,
    Memory,
    Groups,
    Script,
    Effect,
    Beside,
    Unknown,
}

/// What a read replies when its key does not exist, in RESP3.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Absent {
    /// Not known, or nothing is kept anyway: the absence of a key is not kept under this command.
    Unknown,
    Is(&'static [u8]),
    /// The options decide which.
    IsOne(&'static [&'static [u8]]),
    /// An array of as many of these as were asked for.
    Each(&'static [u8]),
    /// `BITPOS`: the bit that is looked for decides.
    Position,
}

impl Cache {
    /// Of a container: some of its subcommands may be.
    pub fn is_kept(self) -> bool {
        !matches!(self, Cache::No | Cache::Never(_))
    }

    /// Of a request: what its subcommand says, for a container.
    #[inline]
    pub fn of(self, args: Args<'_>) -> Cache {
        let Cache::Sub(subcommands) = self else { return self };
        let named = |(name, _): &&(&str, Cache)| args.arg(1).eq_ignore_ascii_case(name.as_bytes());
        subcommands.iter().find(named).map_or(Cache::No, |(_, cache)| *cache)
    }
}

impl NotCached {
    pub const ALL: [NotCached; 11] = [
        NotCached::Keyspace,
        NotCached::Iteration,
        NotCached::Chance,
        NotCached::Time,
        NotCached::Usage,
        NotCached::Memory,
        NotCached::Groups,
        NotCached::Script,
        NotCached::Effect,
        NotCached::Beside,
        NotCached::Unknown,
    ];

    /// Completes "not cached, because …"; README.md has the same words.
    pub fn text(self) -> &'static str {
        match self {
            NotCached::Keyspace => "the reply depends on the whole keyspace, not on keys that the request names",
            NotCached::Iteration => "the reply is a step of an iteration, which has its place in the server's memory",
            NotCached::Chance => "the reply is drawn at random",
            NotCached::Time => "the reply depends on the time at which it is asked for",
            NotCached::Usage => "the reply tells when or how often the key was used, and hits do not use it",
            NotCached::Memory => {
                "the reply tells how the server holds the value in memory, and no message tells when that changes"
            }
            NotCached::Groups => "the reply shows consumer groups, and no message tells when these change",
            NotCached::Script => "a script may read what it did not declare, the time and chance included",
            NotCached::Effect => "the request has an effect at the server, which a hit would leave out",
            NotCached::Beside => {
                "the server works the reply out beside its other work, so that it may be older than a message before it"
            }
            NotCached::Unknown => "nobody knows what the reply depends on",
        }
    }
}

/// Whether a reply is this one of RESP3, or what it is in RESP2.
fn is_form(expected: &[u8], frame: &[u8]) -> bool {
    let in_resp2: &[&[u8]] = match expected {
        b"_\r\n" => &[b"$-1\r\n", b"*-1\r\n"],
        b"%0\r\n" | b"~0\r\n" => &[b"*0\r\n"],
        _ => &[],
    };
    frame == expected || in_resp2.contains(&frame)
}

impl Absent {
    /// Of a request.
    pub fn of(self, args: Args<'_>) -> Absent {
        match self {
            Absent::Position if args.arg(2) == b"0" => Absent::Is(b":0\r\n"),
            Absent::Position => Absent::Is(b":-1\r\n"),
            absent => absent,
        }
    }

    /// Whether a reply is what the request would be answered if its key did not exist.
    pub fn is(self, frame: &[u8]) -> bool {
        match self {
            Absent::Unknown | Absent::Position => false,
            Absent::Is(expected) => is_form(expected, frame),
            Absent::IsOne(forms) => forms.iter().any(|expected| is_form(expected, frame)),
            Absent::Each(expected) => {
                reply::elements(frame).is_some_and(|mut elements| elements.all(|element| is_form(expected, element)))
            }
        }
    }
}
