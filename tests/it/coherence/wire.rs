//! What clients, proxy and server say to each other, as bytes. A written value names the write: `007.......` is the seventh
//! of its walk, and so are a `STRLEN` of 10 and a prefix `007`.

use nearcache::resp::{Version, encode, reply};

/// Names one write.
pub type Token = u32;

pub fn value(token: Token) -> Vec<u8> {
    let mut text = format!("{token:03}").into_bytes();
    text.resize(3 + token as usize, b'.');
    text
}

/// The write that left this value.
pub fn token(value: &[u8]) -> Option<Token> {
    std::str::from_utf8(value.get(..3)?).ok()?.parse().ok()
}

pub fn command(words: &[&[u8]]) -> Vec<u8> {
    let mut out = Vec::new();
    encode::command(&mut out, words.iter().copied());
    out
}

/// The first complete request and its length.
pub fn split_request(input: &[u8]) -> Option<(Vec<Vec<u8>>, usize)> {
    let len = reply::frame_len(input).expect("the proxy sends RESP")?;
    let words = reply::elements(&input[..len]).expect("requests are arrays");
    Some((
        words
            .map(|word| reply::text(word).expect("arguments are bulks").to_vec())
            .collect(),
        len,
    ))
}

pub fn bulk(value: Option<&[u8]>, version: Version) -> Vec<u8> {
    let mut out = Vec::new();
    match value {
        Some(value) => encode::bulk(&mut out, value),
        None => encode::null(&mut out, version),
    }
    out
}

/// As `DIGEST` tells it.
pub fn digest(value: &[u8]) -> Vec<u8> {
    format!("{:016x}", xxhash_rust::xxh3::xxh3_64(value)).into_bytes()
}

pub fn integer(value: i64) -> Vec<u8> {
    format!(":{value}\r\n").into_bytes()
}

pub fn array(parts: &[Vec<u8>]) -> Vec<u8> {
    [format!("*{}\r\n", parts.len()).into_bytes(), parts.concat()].concat()
}

/// Of these names; none: of every name.
pub fn invalidation(names: &[&[u8]]) -> Vec<u8> {
    let mut out = Vec::new();
    encode::push_header(&mut out, Version::Resp3, 2);
    encode::bulk(&mut out, b"invalidate");
    if names.is_empty() {
        encode::null(&mut out, Version::Resp3);
    } else {
        encode::array_header(&mut out, names.len());
        names.iter().for_each(|name| encode::bulk(&mut out, name));
    }
    out
}

/// How a reply tells of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    Value,
    Length,
    Prefix,
    /// Whether it exists.
    Count,
    /// A hash of one field.
    Fields,
}

/// What a reply says of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    Token(Token),
    Absent,
    Exists,
}

impl Shape {
    pub fn seen(self, frame: &[u8]) -> Option<Seen> {
        match self {
            Shape::Value | Shape::Prefix => match reply::bulk(frame)? {
                None | Some(b"") => Some(Seen::Absent),
                Some(value) => token(value).map(Seen::Token),
            },
            Shape::Length => match reply::integer(frame)? {
                0 => Some(Seen::Absent),
                length => Some(Seen::Token(Token::try_from(length - 3).ok()?)),
            },
            Shape::Count => Some(if reply::integer(frame)? == 0 {
                Seen::Absent
            } else {
                Seen::Exists
            }),
            Shape::Fields => match reply::elements(frame)?.nth(1) {
                None => Some(Seen::Absent),
                Some(value) => token(reply::text(value)?).map(Seen::Token),
            },
        }
    }
}
