//! Made-up values for the tests of this folder: a small tree of RESP3 values which writes itself in both versions, and
//! random requests. The tree knows the conversion rules in its own way, so that it can contradict `convert`.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::Config;

use super::convert::Rule;
use super::encode;

#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    Simple(String),
    Error(String),
    Integer(i64),
    Bulk(Vec<u8>),
    Null,
    Double(String),
    Boolean(bool),
    Big(String),
    Verbatim(Vec<u8>),
    BulkError(Vec<u8>),
    Array(Vec<Value>),
    Set(Vec<Value>),
    Push(Vec<Value>),
    Map(Vec<(Value, Value)>),
    Attributed(Vec<(Value, Value)>, Box<Value>),
}

impl Value {
    pub fn resp3(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.write_resp3(&mut out);
        out
    }

    fn write_resp3(&self, out: &mut Vec<u8>) {
        match self {
            Value::Simple(text) => line(out, '+', text),
            Value::Error(text) => line(out, '-', text),
            Value::Integer(value) => line(out, ':', &value.to_string()),
            Value::Bulk(bytes) => encode::bulk(out, bytes),
            Value::Null => line(out, '_', ""),
            Value::Double(digits) => line(out, ',', digits),
            Value::Boolean(value) => line(out, '#', if *value { "t" } else { "f" }),
            Value::Big(digits) => line(out, '(', digits),
            Value::Verbatim(text) => bytes(out, '=', &[b"txt:", text.as_slice()].concat()),
            Value::BulkError(text) => bytes(out, '!', text),
            Value::Array(values) => many(out, '*', values),
            Value::Set(values) => many(out, '~', values),
            Value::Push(values) => many(out, '>', values),
            Value::Map(pairs) => write_pairs(out, '%', pairs),
            Value::Attributed(pairs, value) => {
                write_pairs(out, '|', pairs);
                value.write_resp3(out);
            }
        }
    }

    pub fn resp2(&self, rule: &Rule) -> Vec<u8> {
        let plain = self.as_resp2(rule);
        let mut out = Vec::new();
        write_resp2(&plain, &mut out);
        out
    }

    /// The value without its attributes.
    pub fn bare(&self) -> &Value {
        match self {
            Value::Attributed(_, value) => value.bare(),
            other => other,
        }
    }

    fn as_resp2(&self, rule: &Rule) -> Plain {
        let general = |value: &Value| value.as_resp2(&Rule::General);
        let null_array = |value: &Value| value.as_resp2(&Rule::NullArray);
        match (rule, self.bare()) {
            (Rule::NullArray | Rule::Streams | Rule::Exec(_), Value::Null) => Plain::NullArray,
            (Rule::NullElements, Value::Array(values)) => Plain::Array(values.iter().map(null_array).collect()),
            (Rule::Exec(rules), Value::Array(values)) => {
                let rule_of = |index: usize| rules.get(index).cloned().unwrap_or(Rule::General);
                Plain::Array(
                    values
                        .iter()
                        .enumerate()
                        .map(|(index, value)| value.as_resp2(&rule_of(index)))
                        .collect(),
                )
            }
            (Rule::Flatten, Value::Array(values))
                if values.iter().all(|value| matches!(value.bare(), Value::Array(_))) =>
            {
                let inner = values.iter().map(|value| match value.bare() {
                    Value::Array(inner) => inner.iter().map(general).collect(),
                    _ => Vec::new(),
                });
                Plain::Array(inner.collect::<Vec<_>>().concat())
            }
            (Rule::Streams, Value::Map(pairs)) => {
                let entry = |entry: &Value| match entry.bare() {
                    Value::Array(parts) if parts.len() == 2 => {
                        Plain::Array(vec![general(&parts[0]), null_array(&parts[1])])
                    }
                    _ => general(entry),
                };
                let stream = |(key, entries): &(Value, Value)| match entries.bare() {
                    Value::Array(entries) => {
                        Plain::Array(vec![general(key), Plain::Array(entries.iter().map(entry).collect())])
                    }
                    _ => Plain::Array(vec![general(key), general(entries)]),
                };
                Plain::Array(pairs.iter().map(stream).collect())
            }
            (_, bare) => bare.as_general(),
        }
    }

    fn as_general(&self) -> Plain {
        let all = |values: &[Value]| Plain::Array(values.iter().map(|value| value.as_resp2(&Rule::General)).collect());
        match self {
            Value::Simple(text) => Plain::Line('+', text.clone()),
            Value::Error(text) => Plain::Line('-', text.clone()),
            Value::BulkError(text) => {
                let text = String::from_utf8_lossy(text).into_owned();
                Plain::Line('-', text.replace(['\r', '\n'], " "))
            }
            Value::Integer(value) => Plain::Line(':', value.to_string()),
            Value::Boolean(value) => Plain::Line(':', u8::from(*value).to_string()),
            Value::Bulk(bytes) | Value::Verbatim(bytes) => Plain::Bulk(bytes.clone()),
            Value::Double(digits) | Value::Big(digits) => Plain::Bulk(digits.clone().into_bytes()),
            Value::Null => Plain::Null,
            Value::Array(values) | Value::Set(values) | Value::Push(values) => all(values),
            Value::Map(pairs) => all(&pairs
                .iter()
                .flat_map(|(key, value)| [key.clone(), value.clone()])
                .collect::<Vec<_>>()),
            Value::Attributed(_, value) => value.as_general(),
        }
    }
}

#[derive(Clone, Debug)]
enum Plain {
    Line(char, String),
    Bulk(Vec<u8>),
    Null,
    NullArray,
    Array(Vec<Plain>),
}

fn write_resp2(value: &Plain, out: &mut Vec<u8>) {
    match value {
        Plain::Line(kind, text) => line(out, *kind, text),
        Plain::Bulk(bytes) => encode::bulk(out, bytes),
        Plain::Null => out.extend_from_slice(b"$-1\r\n"),
        Plain::NullArray => out.extend_from_slice(b"*-1\r\n"),
        Plain::Array(values) => {
            line(out, '*', &values.len().to_string());
            values.iter().for_each(|value| write_resp2(value, out));
        }
    }
}

fn line(out: &mut Vec<u8>, kind: char, text: &str) {
    out.extend_from_slice(format!("{kind}{text}\r\n").as_bytes());
}

fn bytes(out: &mut Vec<u8>, kind: char, bytes: &[u8]) {
    line(out, kind, &bytes.len().to_string());
    out.extend_from_slice(bytes);
    out.extend_from_slice(b"\r\n");
}

fn many(out: &mut Vec<u8>, kind: char, values: &[Value]) {
    line(out, kind, &values.len().to_string());
    values.iter().for_each(|value| value.write_resp3(out));
}

fn write_pairs(out: &mut Vec<u8>, kind: char, pairs: &[(Value, Value)]) {
    line(out, kind, &pairs.len().to_string());
    for (key, value) in pairs {
        key.write_resp3(out);
        value.write_resp3(out);
    }
}

/// Values of every type that has no others inside.
pub fn leaf() -> BoxedStrategy<Value> {
    prop_oneof![
        "[ -~]{0,20}".prop_map(Value::Simple),
        "[A-Z]{1,8} [ -~]{0,20}".prop_map(Value::Error),
        any::<i64>().prop_map(Value::Integer),
        payload().prop_map(Value::Bulk),
        payload().prop_map(Value::Bulk),
        Just(Value::Null),
        prop_oneof![
            Just("inf"),
            Just("-inf"),
            Just("3.1000000000000001"),
            Just("1e+21"),
            Just("0")
        ]
        .prop_map(|digits| Value::Double(digits.to_owned())),
        any::<bool>().prop_map(Value::Boolean),
        "-?[1-9][0-9]{0,40}".prop_map(Value::Big),
        "[ -~]{0,20}".prop_map(|text| Value::Verbatim(text.into_bytes())),
        "[A-Z]{1,8} [ -~\r\n]{0,20}".prop_map(|text| Value::BulkError(text.into_bytes())),
    ]
    .boxed()
}

/// Values of every type, attributes at any place among them.
pub fn value() -> BoxedStrategy<Value> {
    leaf()
        .prop_recursive(5, 60, 6, |inner| {
            let pairs = vec((inner.clone(), inner.clone()), 0..4);
            prop_oneof![
                3 => vec(inner.clone(), 0..6).prop_map(Value::Array),
                1 => vec(inner.clone(), 0..6).prop_map(Value::Set),
                1 => vec(inner.clone(), 0..4).prop_map(Value::Push),
                2 => pairs.clone().prop_map(Value::Map),
                1 => (pairs, inner).prop_map(|(pairs, value)| Value::Attributed(pairs, Box::new(value))),
            ]
        })
        .boxed()
}

/// Payloads that look like frames now and then.
pub fn payload() -> BoxedStrategy<Vec<u8>> {
    prop_oneof![
        3 => vec(any::<u8>(), 0..30),
        1 => Just(b"\r\n".to_vec()),
        1 => Just(b"$3\r\nabc\r\n".to_vec()),
        1 => vec(any::<u8>(), 100..500),
    ]
    .boxed()
}

/// The arguments of a request, at least one.
pub fn args() -> BoxedStrategy<Vec<Vec<u8>>> {
    vec(payload(), 1..12).boxed()
}

pub fn request(args: &[Vec<u8>]) -> Vec<u8> {
    let mut out = Vec::new();
    encode::command(&mut out, args.iter().map(Vec::as_slice));
    out
}

/// A request with some bytes replaced, as a faulty client sends it, or bytes that look like the start of one.
pub fn faulty_request() -> BoxedStrategy<Vec<u8>> {
    let changed = (args(), vec((any::<prop::sample::Index>(), protocol_byte()), 0..4)).prop_map(|(args, changes)| {
        let mut bytes = request(&args);
        for (index, byte) in changes {
            let at = index.index(bytes.len().min(64));
            bytes[at] = byte;
        }
        bytes
    });
    let invented = vec(protocol_byte(), 0..40).prop_map(|tail| [b"*2\r\n".as_slice(), &tail].concat());
    prop_oneof![changed, invented].boxed()
}

/// A byte that means something to somebody.
pub fn protocol_byte() -> BoxedStrategy<u8> {
    prop_oneof![
        8 => prop::sample::select(b"$*%~>=!|+-:_,#(0123459\r\n?\"'\\ x".to_vec()),
        1 => any::<u8>(),
    ]
    .boxed()
}

/// Cuts `bytes` into pieces at the given places.
pub fn pieces<'a>(bytes: &'a [u8], cuts: &[prop::sample::Index]) -> Vec<&'a [u8]> {
    let mut places: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
    places.extend([0, bytes.len()]);
    places.sort_unstable();
    places.windows(2).map(|pair| &bytes[pair[0]..pair[1]]).collect()
}

/// No file of failed cases beside the sources: a failure prints its case, which then becomes a test of its own.
pub fn config(cases: u32) -> Config {
    Config {
        cases,
        failure_persistence: None,
        ..Config::default()
    }
}
