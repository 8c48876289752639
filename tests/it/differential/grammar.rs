//! From a template to a random command.
//!
//! A template is a command line with holes: `[a|b c|]` is one of its alternatives, `{…}` is repeated once to four times,
//! `''` is an empty argument, `%x` is a random value of kind x (see [`Source::value`]), `#x` is a number of keys followed by as many keys of kind x.

use fastrand::Rng;

pub type Command = Vec<Vec<u8>>;

/// A parsed template.
#[derive(Debug)]
pub struct Template {
    nodes: Vec<Node>,
}

#[derive(Debug)]
enum Node {
    Word(String),
    OneOf(Vec<Vec<Node>>),
    Repeated(Vec<Node>),
}

impl Template {
    pub fn parse(text: &str) -> Template {
        let mut rest = text;
        let nodes = sequence(&mut rest);
        assert!(rest.is_empty(), "what is left of template {text}: {rest}");
        Template { nodes }
    }

    pub fn fill(&self, source: &mut Source) -> Command {
        let mut out = Vec::new();
        fill(&self.nodes, source, &mut out);
        out
    }

    /// The commands it can become, in lower case: `name`, and `name|word` for every word that may come second.
    pub fn heads(&self) -> Vec<String> {
        let names = self.nodes.first().map_or_else(Vec::new, first_words);
        let seconds = self.nodes.get(1).map_or_else(Vec::new, first_words);
        let pairs = names
            .iter()
            .flat_map(|name| seconds.iter().map(move |second| format!("{name}|{second}")));
        names.iter().cloned().chain(pairs).collect()
    }
}

/// What a node may begin with.
fn first_words(node: &Node) -> Vec<String> {
    match node {
        Node::Word(word) => vec![word.to_ascii_lowercase()],
        Node::OneOf(choices) => choices.iter().filter_map(|c| c.first()).flat_map(first_words).collect(),
        Node::Repeated(nodes) => nodes.first().map_or_else(Vec::new, first_words),
    }
}

fn sequence(rest: &mut &str) -> Vec<Node> {
    let mut nodes = Vec::new();
    loop {
        *rest = rest.trim_start_matches(' ');
        match rest.chars().next() {
            None | Some(']' | '}' | '|') => return nodes,
            Some('[') => {
                let mut choices = Vec::new();
                while !rest.starts_with(']') {
                    *rest = &rest[1..];
                    choices.push(sequence(rest));
                }
                *rest = &rest[1..];
                nodes.push(Node::OneOf(choices));
            }
            Some('{') => {
                *rest = &rest[1..];
                nodes.push(Node::Repeated(sequence(rest)));
                *rest = &rest[1..];
            }
            Some(_) => {
                let end = rest.find([' ', '[', ']', '{', '}', '|']).unwrap_or(rest.len());
                nodes.push(Node::Word(rest[..end].to_owned()));
                *rest = &rest[end..];
            }
        }
    }
}

fn fill(nodes: &[Node], source: &mut Source, out: &mut Command) {
    for node in nodes {
        match node {
            Node::Word(word) => source.word(word, out),
            Node::OneOf(choices) => fill(&choices[source.random.usize(0..choices.len())], source, out),
            Node::Repeated(nodes) => {
                for _ in 0..source.random.usize(1..=4) {
                    fill(nodes, source, out);
                }
            }
        }
    }
}

/// The command as somebody may type it, with or without quotes; `None` for one too long to be typed.
pub fn inline(command: &Command, random: &mut Rng) -> Option<Vec<u8>> {
    let mut line = Vec::new();
    for arg in command {
        let is_plain = !arg.is_empty() && arg.iter().all(u8::is_ascii_alphanumeric);
        let is_quotable = arg.iter().all(|b| (b' '..=b'~').contains(b) && !b"\\'".contains(b));
        line.extend(vec![
            b' ';
            usize::from(!line.is_empty()) + usize::from(random.u8(0..8) == 0)
        ]);
        match random.u8(0..3) {
            0 | 1 if is_plain => line.extend_from_slice(arg),
            1 if is_quotable => line.extend_from_slice(&[b"'", &arg[..], b"'"].concat()),
            _ => {
                line.push(b'"');
                for &byte in arg {
                    match byte {
                        b'\n' => line.extend_from_slice(b"\\n"),
                        b'\r' => line.extend_from_slice(b"\\r"),
                        b'"' | b'\\' => line.extend_from_slice(&[b'\\', byte]),
                        b' '..=b'~' => line.push(byte),
                        _ => line.extend_from_slice(format!("\\x{byte:02x}").as_bytes()),
                    }
                }
                line.push(b'"');
            }
        }
    }
    line.extend_from_slice(if random.bool() { b"\r\n" } else { b"\n" });
    (line.len() < 20_000).then_some(line)
}

/// Draws the values.
pub struct Source {
    pub random: Rng,
    /// A payload of `DUMP`, as the servers at hand print it.
    pub dump: Vec<u8>,
}

/// Kinds of keys: a letter each, three names each.
const KEY_KINDS: &str = "sbhltzxgp";

impl Source {
    fn word(&mut self, word: &str, out: &mut Command) {
        if let Some(kind) = word
            .strip_prefix('#')
            .filter(|kind| kind.len() == 1 && KEY_KINDS.contains(*kind))
        {
            let n = self.random.usize(1..=3);
            out.push(n.to_string().into_bytes());
            out.extend((0..n).map(|_| self.value(char::from(kind.as_bytes()[0]))));
            return;
        }
        if word == "''" {
            return out.push(Vec::new());
        }
        let Some(hole) = word.find('%') else {
            out.push(word.as_bytes().to_vec());
            return;
        };
        let kind = word[hole + 1..].chars().next().expect("a kind behind %");
        let mut arg = word.as_bytes()[..hole].to_vec();
        arg.extend(self.value(kind));
        arg.extend_from_slice(&word.as_bytes()[hole + 1 + kind.len_utf8()..]);
        out.push(arg);
    }

    pub fn value(&mut self, kind: char) -> Vec<u8> {
        let random = &mut self.random;
        let pick = |random: &mut Rng, from: &[&str]| from[random.usize(0..from.len())].as_bytes().to_vec();
        match kind {
            _ if KEY_KINDS.contains(kind) => self.key(kind),
            // Any key.
            'k' => {
                let kind = KEY_KINDS.as_bytes()[random.usize(0..KEY_KINDS.len())];
                self.key(char::from(kind))
            }
            // A value to store; the lengths stay below where a hash would lose its order.
            'v' => match random.u8(0..20) {
                0 => Vec::new(),
                1 => b"\r\n".to_vec(),
                2 => b"a\r\n$3\r\nbin\x00\xff".to_vec(),
                3 => b"with spaces and \"quotes\"".to_vec(),
                4 => b"3.14".to_vec(),
                5 => b"9223372036854775807".to_vec(),
                6..=11 => random.i32(-100..1000).to_string().into_bytes(),
                _ => format!("value-{}", random.u16(0..1000)).into_bytes(),
            },
            // A long string.
            'V' => vec![b'a' + random.u8(0..26); [200, 5_000, 20_000, 70_000, 1_200_000][random.usize(0..5)]],
            'm' => pick(random, &["a", "b", "c", "d", "e", "1", "2", "3", "", "m\r\n"]),
            'i' => random.i32(-4..9).to_string().into_bytes(),
            'n' => random.u32(0..5).to_string().into_bytes(),
            'N' => random.u32(1..4).to_string().into_bytes(),
            'o' => random.u32(0..120).to_string().into_bytes(),
            'I' => match random.u8(0..8) {
                0 => b"9223372036854775807".to_vec(),
                1 => b"-9223372036854775808".to_vec(),
                _ => random.i32(-1000..1000).to_string().into_bytes(),
            },
            'f' => pick(random, &["0", "1.5", "-2.25", "3.1", "100", "1e3", "0.1", "-7"]),
            'w' => pick(
                random,
                &["0", "1", "2.5", "-3", "1e21", "inf", "-inf", "0.1", "17", "(1"],
            ),
            // Bounds of scores, of member names, of stream entries.
            'q' => pick(random, &["-inf", "+inf", "0", "1", "(1", "(2.5", "2.5", "17", "-3"]),
            'L' => pick(random, &["-", "+", "[a", "(a", "[c", "(d", "[", "[m"]),
            'D' => pick(random, &["-", "+", "1", "3-1", "(2-1", "(5-2", "7", "9-9", "0"]),
            'd' => format!("{}-{}", random.u8(1..10), random.u8(0..4)).into_bytes(),
            'X' => format!("{}-{}", 10 + random.u32(0..4_000_000), random.u8(0..4)).into_bytes(),
            'G' => pick(random, &["g1", "g2"]),
            'C' => pick(random, &["alice", "bob"]),
            'P' => pick(random, &["*", "s*", "h?", "[lt]*", "nope", "*1", "\\*", "[^a]0"]),
            // Times to live never come to an end within the test, and no two are alike.
            'e' => random.u32(1_000..10_000_000).to_string().into_bytes(),
            'E' => random.u64(1_000_000..10_000_000_000).to_string().into_bytes(),
            'A' => random.u64(4_000_000_000..9_000_000_000).to_string().into_bytes(),
            'B' => random
                .u64(4_000_000_000_000..9_000_000_000_000)
                .to_string()
                .into_bytes(),
            'O' => random.i32(-180..180).to_string().into_bytes(),
            'a' => random.i32(-84..84).to_string().into_bytes(),
            'R' => pick(random, &["0", "1", "100", "5000", "20000"]),
            'u' => pick(random, &["m", "km", "ft", "mi"]),
            'y' => pick(random, &["u4", "i8", "u1", "u63", "i64", "i5"]),
            'S' => super::commands::SCRIPTS[random.usize(0..super::commands::SCRIPTS.len())]
                .as_bytes()
                .to_vec(),
            'H' => super::commands::HIDDEN.as_bytes().to_vec(),
            'U' => self.dump.clone(),
            // Channels, and patterns of them.
            'c' => pick(random, &["c0", "c1", "c2", "", "c\r\n"]),
            'Q' => pick(random, &["c*", "c?", "c0", "[c]1", "*", ""]),
            // Names of commands with their subcommands.
            'T' => pick(
                random,
                &[
                    "config|get",
                    "acl|cat",
                    "client|id",
                    "get",
                    "GET|x",
                    "config|nope",
                    "xinfo|stream",
                ],
            ),
            // Code of a library that is not that of the other commands.
            'F' => {
                b"#!lua name=spare\nredis.register_function('spare_one', function(keys, args) return 1 end)".to_vec()
            }
            // Names of clients.
            'M' => pick(random, &["me", "you", "", "a b", "line\n", "\u{fc}", "~!", "tab\t"]),
            // Arguments of commands that should not have them.
            'J' => pick(
                random,
                &[
                    "",
                    "x",
                    "-1",
                    "0",
                    "1",
                    "99999999999999999999",
                    "\0",
                    "a\r\nb",
                    "HELP",
                    "ON",
                ],
            ),
            _ => panic!("no value of kind {kind}"),
        }
    }

    /// Mostly of the kind wanted; sometimes of another, for the errors of wrong types; sometimes one that nobody has.
    fn key(&mut self, kind: char) -> Vec<u8> {
        let kind = match self.random.u8(0..40) {
            0 => return b"missing".to_vec(),
            1 => char::from(KEY_KINDS.as_bytes()[self.random.usize(0..KEY_KINDS.len())]),
            _ => kind,
        };
        format!("{kind}{}", self.random.u8(0..3)).into_bytes()
    }

    /// Spoils a command: an argument too few, too many, or of the wrong kind, or a name in other letters.
    pub fn spoil(&mut self, command: &mut Command) {
        const GARBAGE: [&[u8]; 12] = [
            b"",
            b"abc",
            b"-1",
            b"0",
            b"1e400",
            b"9223372036854775807",
            b"nan",
            b"1.5",
            b"*",
            b"\x00\xff",
            b"WITHSCORES",
            b" 1",
        ];
        let random = &mut self.random;
        let at = random.usize(0..command.len());
        match random.u8(0..4) {
            0 if at > 0 => drop(command.remove(at)),
            1 => command.push(GARBAGE[random.usize(0..GARBAGE.len())].to_vec()),
            2 if at > 0 => command[at] = GARBAGE[random.usize(0..GARBAGE.len())].to_vec(),
            _ => command[0].iter_mut().for_each(|b| {
                if random.bool() {
                    b.make_ascii_lowercase();
                }
            }),
        }
    }
}
