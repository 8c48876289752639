//! Whether two servers of the same state may answer a command so differently: byte for byte the same, except where the
//! order of a hash table, the clock or chance has a say.

use crate::support::client::{children, without_id};

use super::grammar::Command;

/// What of a reply has to be equal.
#[derive(Clone, Copy)]
enum Sameness {
    Bytes,
    /// The elements, in whatever order: the servers hash with different seeds.
    Elements,
    /// The elements of the elements too, and so on.
    Leaves,
    /// The second of two elements, sorted: a scan.
    Scanned,
    /// A time that runs: within a few seconds.
    Time,
    /// Times that run, and codes below zero.
    Times,
    /// Types and lengths: a payload that may hold a set.
    Length,
    /// Types and counts, not what they say.
    Shape,
    /// The type of the outermost value.
    Kind,
    /// Everything but the connection's id.
    Handshake,
}

pub fn is_same(command: &Command, a: &[u8], b: &[u8]) -> bool {
    if a == b {
        return true;
    }
    if a.first() == Some(&b'-') || b.first() == Some(&b'-') {
        return false;
    }
    match sameness(command) {
        Sameness::Bytes => false,
        Sameness::Elements => sorted(a) == sorted(b),
        Sameness::Leaves => sorted_deep(a) == sorted_deep(b),
        Sameness::Scanned => {
            let (a, b) = (children(a), children(b));
            a.len() == 2 && b.len() == 2 && a[0] == b[0] && sorted(&a[1]) == sorted(&b[1])
        }
        Sameness::Time => {
            matches!((number(a), number(b)), (Some(a), Some(b)) if a > 0 && b > 0 && a.abs_diff(b) <= 10_000)
        }
        Sameness::Times => {
            let (a, b) = (children(a), children(b));
            a.len() == b.len() && a.iter().zip(&b).all(|(a, b)| {
                a == b
                    || matches!((number(a), number(b)), (Some(a), Some(b)) if a > 0 && b > 0 && a.abs_diff(b) <= 10_000)
            })
        }
        Sameness::Kind => a.first() == b.first(),
        Sameness::Length => a.len() == b.len() && a.first() == b.first(),
        Sameness::Shape => shape(a) == shape(b),
        Sameness::Handshake => without_id(a) == without_id(b),
    }
}

/// Everything that is not compared byte for byte: command, subcommand or nothing, what is compared, why. The first that
/// fits holds.
const RULES: &[(&str, &str, Sameness, &str)] = &[
    // The order of a hash table, which each server seeds by itself.
    ("SMEMBERS", "", Sameness::Elements, "order"),
    ("SDIFF", "", Sameness::Elements, "order"),
    ("SINTER", "", Sameness::Elements, "order"),
    ("SUNION", "", Sameness::Elements, "order"),
    ("SPOP", "", Sameness::Elements, "order: all are taken"),
    ("KEYS", "", Sameness::Elements, "order"),
    (
        "SORT",
        "",
        Sameness::Elements,
        "a list by name may be a set by now: RENAME and COPY take any key anywhere",
    ),
    ("SORT_RO", "", Sameness::Elements, "the same"),
    (
        "HGETALL",
        "",
        Sameness::Elements,
        "order: a hash with fields that expire is a hash table",
    ),
    ("HKEYS", "", Sameness::Elements, "the same"),
    ("HVALS", "", Sameness::Elements, "the same"),
    ("SCAN", "", Sameness::Scanned, "order"),
    ("SSCAN", "", Sameness::Scanned, "order"),
    ("HSCAN", "", Sameness::Scanned, "order"),
    ("COMMAND", "", Sameness::Leaves, "order"),
    ("FUNCTION", "STATS", Sameness::Bytes, ""),
    ("FUNCTION", "DUMP", Sameness::Length, "order of libraries"),
    ("FUNCTION", "", Sameness::Leaves, "order of libraries and functions"),
    ("ACL", "CAT", Sameness::Elements, "order"),
    ("CONFIG", "GET", Sameness::Leaves, "order"),
    ("PUBSUB", "CHANNELS", Sameness::Elements, "order"),
    ("PUBSUB", "SHARDCHANNELS", Sameness::Elements, "order"),
    ("DUMP", "", Sameness::Length, "a payload holds a set in its order"),
    // Time.
    ("TTL", "", Sameness::Time, "runs"),
    ("PTTL", "", Sameness::Time, "runs"),
    (
        "EXPIRETIME",
        "",
        Sameness::Time,
        "counted from the moment of the command",
    ),
    ("PEXPIRETIME", "", Sameness::Time, "the same"),
    ("HTTL", "", Sameness::Times, "runs"),
    ("HPTTL", "", Sameness::Times, "runs"),
    (
        "HEXPIRETIME",
        "",
        Sameness::Times,
        "counted from the moment of the command",
    ),
    ("HPEXPIRETIME", "", Sameness::Times, "the same"),
    ("LASTSAVE", "", Sameness::Time, "start of the server"),
    ("TIME", "", Sameness::Shape, "runs"),
    ("XPENDING", "", Sameness::Shape, "idle times"),
    ("XINFO", "CONSUMERS", Sameness::Shape, "idle times"),
    ("OBJECT", "IDLETIME", Sameness::Shape, "runs"),
    (
        "ACL",
        "LOG",
        Sameness::Kind,
        "ages and addresses; a wrong password that the proxy refuses is not logged",
    ),
    ("SLOWLOG", "GET", Sameness::Kind, "times"),
    ("COMMANDLOG", "", Sameness::Kind, "times"),
    // Chance.
    ("RANDOMKEY", "", Sameness::Shape, "chance"),
    ("SRANDMEMBER", "", Sameness::Shape, "chance"),
    ("HRANDFIELD", "", Sameness::Shape, "chance"),
    ("ZRANDMEMBER", "", Sameness::Shape, "chance"),
    ("ACL", "GENPASS", Sameness::Length, "chance"),
    ("LOLWUT", "", Sameness::Kind, "a picture drawn by chance"),
    // What a process knows of itself: memory, addresses, counters, who is connected.
    ("MEMORY", "USAGE", Sameness::Shape, "allocations"),
    ("MEMORY", "", Sameness::Kind, "allocations"),
    ("DEBUG", "OBJECT", Sameness::Kind, "addresses and times"),
    ("LATENCY", "", Sameness::Kind, "what was executed how fast"),
    ("INFO", "", Sameness::Kind, "counters"),
    ("CLIENT", "ID", Sameness::Kind, "ids are of the proxy"),
    ("CLIENT", "INFO", Sameness::Kind, "ids and addresses"),
    (
        "CLIENT",
        "LIST",
        Sameness::Kind,
        "the proxy's clients, not the server's",
    ),
    ("CLIENT", "TRACKINGINFO", Sameness::Bytes, ""),
    ("HELLO", "", Sameness::Handshake, "the id"),
];

fn sameness(command: &Command) -> Sameness {
    let word = |at: usize| {
        command
            .get(at)
            .map(|a| String::from_utf8_lossy(a).to_ascii_uppercase())
            .unwrap_or_default()
    };
    let (name, second) = (word(0), word(1));
    match name.as_str() {
        // The whole set in any order is compared as such; a single draw is a string of some length.
        "SRANDMEMBER" if command.len() > 2 => return Sameness::Elements,
        "XINFO" if command.len() > 3 => return Sameness::Shape,
        _ => {}
    }
    RULES
        .iter()
        .find(|(rule, sub, ..)| *rule == name && (sub.is_empty() || *sub == second))
        .map_or(Sameness::Bytes, |rule| rule.2)
}

fn sorted(frame: &[u8]) -> (Option<u8>, Vec<Vec<u8>>) {
    let mut elements = children(frame);
    elements.sort();
    (frame.first().copied(), elements)
}

fn sorted_deep(frame: &[u8]) -> Vec<u8> {
    let mut inner: Vec<Vec<u8>> = children(frame).iter().map(|c| sorted_deep(c)).collect();
    if inner.is_empty() {
        return frame.to_vec();
    }
    inner.sort();
    [vec![frame[0]], inner.concat()].concat()
}

fn number(frame: &[u8]) -> Option<i64> {
    std::str::from_utf8(frame.strip_prefix(b":")?)
        .ok()?
        .trim_end()
        .parse()
        .ok()
}

fn shape(frame: &[u8]) -> String {
    let inner: Vec<String> = children(frame).iter().map(|c| shape(c)).collect();
    let is_null = frame.starts_with(b"$-1") || frame.starts_with(b"*-1");
    format!(
        "{}{}[{}]",
        char::from(*frame.first().unwrap_or(&b' ')),
        if is_null { "null" } else { "" },
        inner.join(",")
    )
}
