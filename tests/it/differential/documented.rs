//! Random commands made from what the server itself says of its commands (`COMMAND DOCS`): every option it documents, in the
//! order it documents them, so that a newer server's commands are drawn without anybody having heard of them.

use crate::support::client::{children, payload};

use super::grammar::{Command, Source};

/// Kinds of data and the kind of key that each wants, as in [`Source::value`].
const GROUPS: &[(&str, char)] = &[
    ("string", 's'),
    ("list", 'l'),
    ("set", 't'),
    ("sorted-set", 'z'),
    ("hash", 'h'),
    ("stream", 'x'),
    ("geo", 'g'),
    ("bitmap", 'b'),
    ("hyperloglog", 'p'),
    ("generic", 'k'),
    ("scripting", 'k'),
];

/// Drawn by templates only, for a reason.
const BY_TEMPLATE: &[(&str, &str)] = &[
    ("spop", "what it takes is chance: the servers would part"),
    ("srandmember", "chance"),
    ("hrandfield", "chance"),
    ("zrandmember", "chance"),
    ("randomkey", "chance"),
    ("sort", "unsorted it has the order of a hash table, and stores it"),
    ("sort_ro", "unsorted it has the order of a hash table"),
    ("scan", "cursors follow the servers' hash seeds"),
    ("sscan", "cursors follow the servers' hash seeds"),
    ("hscan", "cursors follow the servers' hash seeds"),
    ("clusterscan", "cursors follow the servers' hash seeds"),
    ("migrate", "needs another server"),
    ("wait", "may wait for ever"),
    ("waitaof", "may wait for ever"),
    ("pfdebug", "internals"),
    ("pfselftest", "takes seconds"),
    ("function", "a container: templates"),
    ("script", "a container: templates"),
    ("object", "a container: templates"),
    ("xinfo", "a container: templates"),
    ("xgroup", "a container: templates"),
    ("eval", "needs a number of keys that a script of ours expects"),
    ("evalsha", "the same"),
    ("eval_ro", "the same"),
    ("evalsha_ro", "the same"),
];

#[derive(Debug)]
pub struct Documented {
    pub name: String,
    /// Kind of its keys.
    key: char,
    arguments: Vec<Argument>,
}

#[derive(Debug, Default)]
struct Argument {
    name: String,
    kind: String,
    token: Option<String>,
    is_optional: bool,
    is_multiple: bool,
    is_token_repeated: bool,
    inner: Vec<Argument>,
}

/// The data commands in a RESP2 reply of `COMMAND DOCS`.
pub fn commands(reply: &[u8]) -> Vec<Documented> {
    let pairs = children(reply);
    let mut commands: Vec<Documented> = pairs
        .chunks_exact(2)
        .filter_map(|pair| {
            let name = text(&pair[0]);
            let group = text(&field(&pair[1], "group")?);
            let key = GROUPS.iter().find(|(known, _)| *known == group)?.1;
            let is_drawn = !BY_TEMPLATE.iter().any(|(other, _)| *other == name);
            let arguments = field(&pair[1], "arguments").map_or_else(Vec::new, |list| arguments(&list));
            is_drawn.then_some(Documented { name, key, arguments })
        })
        .collect();
    // The servers list them in the order of a hash table, which no seed repeats.
    commands.sort_by(|a, b| a.name.cmp(&b.name));
    commands
}

impl Documented {
    pub fn fill(&self, source: &mut Source) -> Command {
        let mut out = vec![self.name.to_ascii_uppercase().into_bytes()];
        self.sequence(&self.arguments, source, &mut out);
        if self.name == "xadd" {
            // An id that the server makes up is the time.
            for arg in out.iter_mut().skip(2).filter(|arg| *arg == b"*") {
                *arg = source.value('X');
            }
        }
        out
    }

    fn sequence(&self, arguments: &[Argument], source: &mut Source, out: &mut Command) {
        let mut count_at = None;
        for argument in arguments {
            let before = out.len();
            if argument.name == "numkeys" || argument.name == "numfields" {
                count_at = Some(before);
            }
            self.argument(argument, source, out);
            // The number of keys is right, but for now and then.
            let is_counted = argument.is_multiple && out.len() > before;
            if let Some(at) = count_at.take_if(|_| is_counted)
                && source.random.u8(0..12) > 0
            {
                let each = match argument.kind.as_str() {
                    "block" => argument.inner.len().max(1),
                    _ => 1,
                };
                let tokens = usize::from(argument.token.is_some());
                out[at] = ((out.len() - before - tokens) / each).to_string().into_bytes();
            }
        }
    }

    fn argument(&self, argument: &Argument, source: &mut Source, out: &mut Command) {
        if argument.is_optional && source.random.u8(0..5) < 3 {
            return;
        }
        let times = match argument.is_multiple && source.random.bool() {
            true => source.random.usize(1..=3),
            false => 1,
        };
        for nth in 0..times {
            if let Some(token) = &argument.token
                && (nth == 0 || argument.is_token_repeated)
            {
                out.push(odd_case(token, source));
            }
            match argument.kind.as_str() {
                "pure-token" => {}
                "oneof" if argument.inner.is_empty() => {}
                "oneof" => {
                    let at = source.random.usize(0..argument.inner.len());
                    self.argument(&argument.inner[at], source, out);
                }
                "block" => self.sequence(&argument.inner, source, out),
                _ => {
                    let value = self.value(argument, source);
                    out.push(value);
                }
            }
        }
    }

    fn value(&self, argument: &Argument, source: &mut Source) -> Vec<u8> {
        let command = self.name.as_str();
        let is_stream = self.key == 'x';
        let kind = match (argument.kind.as_str(), argument.name.as_str()) {
            ("key", _) => self.key,
            ("pattern", _) => 'P',
            ("unix-time", name) if name.contains("milliseconds") => 'B',
            ("unix-time", _) => 'A',
            // Never a wait that is worth its name.
            (_, "timeout") => return b"0.002".to_vec(),
            (_, "milliseconds") if is_stream => return b"1".to_vec(),
            (_, "milliseconds" | "ttl") => 'E',
            (_, "seconds") => 'e',
            (_, "min-idle-time" | "cursor" | "ms") => return b"0".to_vec(),
            (_, "db" | "destination-db") => return vec![b'0' + source.random.u8(0..2)],
            (_, "id" | "last-id" | "max_deleted_entry_id") => 'd',
            // A stream's own ids are always the largest, so that nothing depends on the clock.
            (_, "start" | "end") if is_stream => 'D',
            (_, "start") if command == "xautoclaim" => 'd',
            (_, "min" | "max") if command.contains("lex") => 'L',
            (_, "min" | "max") => 'q',
            (_, "longitude") => 'O',
            (_, "latitude") => 'a',
            (_, "radius" | "width" | "height") => 'R',
            (_, "score") => 'w',
            ("double", _) => 'f',
            (_, "offset") if matches!(self.key, 'b') || command == "setrange" => 'o',
            (_, "encoding") => 'y',
            (_, "bit") => return vec![b'0' + source.random.u8(0..2)],
            (_, "increment" | "decrement") => 'I',
            (_, "operation") => {
                let word = ["AND", "or", "XOR", "NOT"][source.random.usize(0..4)];
                return word.as_bytes().to_vec();
            }
            (_, "limit" | "count" | "len" | "num-matches" | "threshold") => 'n',
            ("integer", _) => 'i',
            // Of ZRANGE: ranks, scores or names.
            (_, "start" | "stop") => ['i', 'i', 'q', 'L'][source.random.usize(0..4)],
            (_, "group" | "groupname") => 'G',
            (_, "consumer" | "consumername") => 'C',
            (_, "serialized-value") => 'U',
            (_, "script") => 'S',
            (_, "function") => return [&b"echo"[..], b"put", b"look", b"nope"][source.random.usize(0..4)].to_vec(),
            (_, "member" | "member1" | "member2" | "field" | "element" | "pivot") => 'm',
            _ => 'v',
        };
        source.value(kind)
    }
}

/// A word of an option, as typed by somebody or other.
fn odd_case(word: &str, source: &mut Source) -> Vec<u8> {
    match source.random.u8(0..4) {
        0 => word.to_ascii_lowercase().into_bytes(),
        1 => word
            .bytes()
            .map(|b| match source.random.bool() {
                true => b.to_ascii_lowercase(),
                false => b,
            })
            .collect(),
        _ => word.as_bytes().to_vec(),
    }
}

fn arguments(list: &[u8]) -> Vec<Argument> {
    children(list)
        .iter()
        .map(|one| {
            let flags: Vec<String> =
                field(one, "flags").map_or_else(Vec::new, |f| children(&f).iter().map(|f| text(f)).collect());
            let has = |flag: &str| flags.iter().any(|own| own == flag);
            Argument {
                name: field(one, "name").map(|f| text(&f)).unwrap_or_default(),
                kind: field(one, "type").map(|f| text(&f)).unwrap_or_default(),
                token: field(one, "token").map(|f| text(&f)),
                is_optional: has("optional"),
                is_multiple: has("multiple"),
                is_token_repeated: has("multiple_token"),
                inner: field(one, "arguments").map_or_else(Vec::new, |inner| arguments(&inner)),
            }
        })
        .collect()
}

/// The value of a field in an array of pairs.
fn field(pairs: &[u8], name: &str) -> Option<Vec<u8>> {
    let pairs = children(pairs);
    let mut pairs = pairs.chunks_exact(2);
    pairs.find(|pair| text(&pair[0]) == name).map(|pair| pair[1].clone())
}

fn text(frame: &[u8]) -> String {
    String::from_utf8_lossy(&payload(frame).flatten().unwrap_or_default()).into_owned()
}
