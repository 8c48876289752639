//! Whether two servers of the same state may answer a command so differently: byte for byte the same, except where the
//! order of a hash table, the clock or chance has a say.

use crate::support::client::{children, without_id};

use super::grammar::Command;

/// What of a reply has to be equal.
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
    /// Types and lengths: a payload that may hold a set.
    Length,
    /// Types and counts, not what they say.
    Shape,
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
        Sameness::Length => a.len() == b.len() && a.first() == b.first(),
        Sameness::Shape => shape(a) == shape(b),
        Sameness::Handshake => without_id(a) == without_id(b),
    }
}

fn sameness(command: &Command) -> Sameness {
    let name = String::from_utf8_lossy(&command[0]).to_ascii_uppercase();
    let second = command
        .get(1)
        .map(|a| String::from_utf8_lossy(a).to_ascii_uppercase())
        .unwrap_or_default();
    match name.as_str() {
        // A list by name may be a set by now: RENAME and COPY take any key anywhere.
        "SORT" | "SORT_RO" => Sameness::Elements,
        "SMEMBERS" | "SDIFF" | "SINTER" | "SUNION" | "SPOP" | "KEYS" | "COMMAND" => Sameness::Elements,
        "FUNCTION" => Sameness::Leaves,
        "SCAN" | "SSCAN" | "HSCAN" => Sameness::Scanned,
        // The whole set in any order is compared as such; a single draw is a string of some length.
        "SRANDMEMBER" if command.len() > 2 => Sameness::Elements,
        "TTL" | "PTTL" | "EXPIRETIME" | "PEXPIRETIME" | "LASTSAVE" => Sameness::Time,
        "RANDOMKEY" | "SRANDMEMBER" | "HRANDFIELD" | "ZRANDMEMBER" | "TIME" | "MEMORY" | "XPENDING" => Sameness::Shape,
        "OBJECT" if second == "IDLETIME" => Sameness::Shape,
        "XINFO" if second == "CONSUMERS" || command.len() > 3 => Sameness::Shape,
        "DUMP" => Sameness::Length,
        "HELLO" => Sameness::Handshake,
        _ => Sameness::Bytes,
    }
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
