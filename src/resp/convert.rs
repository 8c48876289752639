//! Turns a RESP3 reply into what a RESP2 client would have got, on the bytes.
//!
//! Shared connections speak RESP3, so this runs on each reply to a RESP2 client. It never builds a tree: the order of
//! maps and the digits of doubles stay the server's. Most values are the same in both versions and are copied in
//! runs; only headers are rewritten. There is no recursion on nesting, so its depth is not limited.
//!
//! The general rules fit all replies but some whose shape the reply alone does not tell: those need a [`Rule`],
//! which belongs to the command and its options.

use std::fmt;
use std::rc::Rc;

use super::encode;
use super::reply::{self, Follows, FrameError, Header};

/// How the reply to a command, with its options, becomes RESP2.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rule {
    /// Map and set and push to array, double and big number and verbatim string to bulk, boolean to integer, null to
    /// null bulk, bulk error to error; attributes are dropped.
    General,
    /// An array of arrays loses the inner headers (scores and fields beside their members): `[[a 1] [b 2]]` to `[a 1
    /// b 2]`. Any other reply takes the general rule.
    Flatten,
    /// A null is a null array.
    NullArray,
    /// `XREAD`: a null is a null array; a map becomes an array of pairs `[key entries]`; an entry's missing fields
    /// are a null array.
    Streams,
    /// The nulls directly inside the reply are null arrays.
    NullElements,
    /// The reply to `EXEC`: a null is a null array, and each element has the rule of its command. Elements beyond the
    /// rules take the general one.
    Exec(Rc<[Rule]>),
}

/// Why a frame cannot be converted. It was not measured by the frame scanner, or is of no version known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConvertError {
    /// It is not one whole value.
    Malformed(FrameError),
    /// It ends before its value does, or holds a line that no value of its type has.
    Invalid,
    /// There are bytes after its value.
    Trailing,
}

impl fmt::Display for ConvertError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ConvertError::Malformed(error) => error.fmt(f),
            ConvertError::Invalid => f.write_str("incomplete or invalid RESP value"),
            ConvertError::Trailing => f.write_str("bytes after a RESP value"),
        }
    }
}

impl std::error::Error for ConvertError {}

impl From<FrameError> for ConvertError {
    fn from(error: FrameError) -> ConvertError {
        ConvertError::Malformed(error)
    }
}

/// Appends the RESP2 form of one complete RESP3 frame. After an error `out` is as it was.
#[inline]
pub fn to_resp2(rule: &Rule, frame: &[u8], out: &mut Vec<u8>) -> Result<(), ConvertError> {
    // No rule touches these.
    if let Some(b'$' | b':' | b'+' | b'-') = frame.first()
        && reply::frame_len(frame) == Ok(Some(frame.len()))
    {
        out.extend_from_slice(frame);
        return Ok(());
    }
    let start = out.len();
    let mut walk = Walk { rest: frame };
    let mut converted = convert(rule, &mut walk, out);
    if converted.is_ok() && !walk.rest.is_empty() {
        converted = Err(ConvertError::Trailing);
    }
    if converted.is_err() {
        out.truncate(start);
    }
    converted
}

/// Whether the RESP2 form of a frame under [`Rule::General`] is the same bytes. False for a malformed frame.
#[inline]
pub fn is_same_in_resp2(frame: &[u8]) -> bool {
    match frame.first() {
        Some(b'$' | b':' | b'+' | b'-') => reply::frame_len(frame) == Ok(Some(frame.len())),
        Some(b'*') => is_array_same(frame),
        _ => false,
    }
}

fn is_array_same(frame: &[u8]) -> bool {
    let mut walk = Walk { rest: frame };
    let mut values = 1_u64;
    while values > 0 {
        if walk.step_short() {
            values -= 1;
            continue;
        }
        let Some(b'$' | b':' | b'+' | b'-' | b'*') = walk.rest.first() else {
            return false;
        };
        let Ok(follows) = walk.step() else { return false };
        match count_after(values, follows) {
            Ok(left) => values = left,
            Err(_) => return false,
        }
    }
    walk.rest.is_empty()
}

fn convert(rule: &Rule, walk: &mut Walk<'_>, out: &mut Vec<u8>) -> Result<(), ConvertError> {
    walk.skip_attributes()?;
    match rule {
        Rule::General => general(walk, 1, out),
        Rule::NullArray => null_array_or_general(walk, out),
        Rule::Flatten => flatten(walk, out),
        Rule::Streams => streams(walk, out),
        Rule::NullElements => match walk.enter(b'*')? {
            Some(count) => {
                encode::header(out, b'*', count);
                for _ in 0..count {
                    null_array_or_general(walk, out)?;
                }
                Ok(())
            }
            None => general(walk, 1, out),
        },
        Rule::Exec(rules) => match walk.enter(b'*')? {
            Some(count) => {
                encode::header(out, b'*', count);
                let mut rules = rules.iter();
                for _ in 0..count {
                    convert(rules.next().unwrap_or(&Rule::General), walk, out)?;
                }
                Ok(())
            }
            None => null_array_or_general(walk, out),
        },
    }
}

/// The next `values` values under the general rules.
fn general(walk: &mut Walk<'_>, mut values: u64, out: &mut Vec<u8>) -> Result<(), ConvertError> {
    // What is the same in both versions is copied when something else comes.
    let mut run = walk.rest;
    while values > 0 {
        if walk.step_short() {
            values -= 1;
            continue;
        }
        let value = walk.rest;
        let Some(&kind) = value.first() else {
            return Err(ConvertError::Invalid);
        };
        let follows = walk.step()?;
        if !matches!(kind, b'$' | b':' | b'+' | b'-' | b'*') {
            copy_run(run, value, out);
            if let Follows::Attribute(count) = follows {
                walk.skip(count)?;
            } else {
                rewrite(kind, value, value.len() - walk.rest.len(), follows, out)?;
            }
            run = walk.rest;
        }
        values = match follows {
            Follows::Attribute(_) => values,
            other => count_after(values, other)?,
        };
    }
    copy_run(run, walk.rest, out);
    Ok(())
}

/// One value, or for one that holds others its header.
fn rewrite(kind: u8, value: &[u8], line_len: usize, follows: Follows, out: &mut Vec<u8>) -> Result<(), ConvertError> {
    match (kind, follows) {
        (_, Follows::Values(count)) => encode::header(out, b'*', count),
        (b'_', _) => out.extend_from_slice(b"$-1\r\n"),
        (b'#', _) => match reply::line(value, b'#') {
            Some(b"t") => out.extend_from_slice(b":1\r\n"),
            Some(b"f") => out.extend_from_slice(b":0\r\n"),
            _ => return Err(ConvertError::Invalid),
        },
        (b',' | b'(', _) => {
            // The line has been measured: all but its type and its end is text.
            let text = value.get(1..line_len.saturating_sub(2)).ok_or(ConvertError::Invalid)?;
            encode::bulk(out, text);
        }
        (b'=', _) => {
            let text = reply::payload(value).flatten().and_then(reply::verbatim_text);
            encode::bulk(out, text.ok_or(ConvertError::Invalid)?);
        }
        (b'!', _) => encode::error(out, reply::payload(value).flatten().ok_or(ConvertError::Invalid)?),
        _ => return Err(ConvertError::Invalid),
    }
    Ok(())
}

fn null_array_or_general(walk: &mut Walk<'_>, out: &mut Vec<u8>) -> Result<(), ConvertError> {
    walk.skip_attributes()?;
    if walk.rest.first() == Some(&b'_') {
        walk.step()?;
        out.extend_from_slice(b"*-1\r\n");
        return Ok(());
    }
    general(walk, 1, out)
}

fn flatten(walk: &mut Walk<'_>, out: &mut Vec<u8>) -> Result<(), ConvertError> {
    let Some(total) = flat_len(walk.clone())? else {
        return general(walk, 1, out);
    };
    encode::header(out, b'*', total);
    let outer = walk.enter(b'*')?.unwrap_or(0);
    for _ in 0..outer {
        walk.skip_attributes()?;
        let inner = walk.enter(b'*')?.unwrap_or(0);
        general(walk, inner, out)?;
    }
    Ok(())
}

/// How many values the arrays of an array hold together; `None` if the reply is anything else.
fn flat_len(mut walk: Walk<'_>) -> Result<Option<u64>, ConvertError> {
    let Some(outer) = walk.enter(b'*')? else {
        return Ok(None);
    };
    let mut total = 0_u64;
    for _ in 0..outer {
        walk.skip_attributes()?;
        let Some(inner) = walk.enter(b'*')? else {
            return Ok(None);
        };
        walk.skip(inner)?;
        total = total.checked_add(inner).ok_or(FrameError::TooManyValues)?;
    }
    Ok(Some(total))
}

fn streams(walk: &mut Walk<'_>, out: &mut Vec<u8>) -> Result<(), ConvertError> {
    let Some(keys_and_entries) = walk.enter(b'%')? else {
        return null_array_or_general(walk, out);
    };
    let pairs = keys_and_entries / 2;
    encode::header(out, b'*', pairs);
    for _ in 0..pairs {
        encode::header(out, b'*', 2);
        general(walk, 1, out)?;
        walk.skip_attributes()?;
        let Some(entries) = walk.enter(b'*')? else {
            general(walk, 1, out)?;
            continue;
        };
        encode::header(out, b'*', entries);
        for _ in 0..entries {
            stream_entry(walk, out)?;
        }
    }
    Ok(())
}

/// `[id fields]`; the fields of an entry deleted meanwhile are null.
fn stream_entry(walk: &mut Walk<'_>, out: &mut Vec<u8>) -> Result<(), ConvertError> {
    walk.skip_attributes()?;
    match walk.enter(b'*')? {
        Some(2) => {
            encode::header(out, b'*', 2);
            general(walk, 1, out)?;
            null_array_or_general(walk, out)
        }
        Some(other) => {
            encode::header(out, b'*', other);
            general(walk, other, out)
        }
        None => general(walk, 1, out),
    }
}

/// A place in a frame.
#[derive(Clone)]
struct Walk<'a> {
    rest: &'a [u8],
}

impl Walk<'_> {
    /// Past the next header line, and past the payload of a bulk.
    #[inline]
    fn step(&mut self) -> Result<Follows, ConvertError> {
        let Header { len, follows } = reply::header(self.rest, 0)?.ok_or(ConvertError::Invalid)?;
        let mut end = len;
        if let Follows::Payload(payload) = follows {
            end = usize::try_from(payload)
                .ok()
                .and_then(|payload| end.checked_add(payload))
                .ok_or(ConvertError::Invalid)?;
            if self.rest.get(end..).and_then(|rest| rest.get(..2)) != Some(b"\r\n") {
                return Err(ConvertError::Invalid);
            }
            end += 2;
        }
        self.rest = self.rest.get(end..).ok_or(ConvertError::Invalid)?;
        Ok(follows)
    }

    /// Past the next value if it is the same in both versions and easily read; a false answer says nothing.
    #[inline]
    fn step_short(&mut self) -> bool {
        let rest = reply::after_short_value(self.rest);
        self.rest = rest.unwrap_or(self.rest);
        rest.is_some()
    }

    /// Past the header of the next value if it is of this type and holds values: how many. Stays where it is if not.
    fn enter(&mut self, kind: u8) -> Result<Option<u64>, ConvertError> {
        if self.rest.first() != Some(&kind) {
            return Ok(None);
        }
        if let [b'*', digit @ b'0'..=b'9', b'\r', b'\n', rest @ ..] = self.rest {
            self.rest = rest;
            return Ok(Some(u64::from(digit - b'0')));
        }
        let before = self.rest;
        match self.step()? {
            Follows::Values(count) => Ok(Some(count)),
            _ => {
                self.rest = before;
                Ok(None)
            }
        }
    }

    fn skip_attributes(&mut self) -> Result<(), ConvertError> {
        while self.rest.first() == Some(&b'|') {
            if let Follows::Attribute(count) = self.step()? {
                self.skip(count)?;
            }
        }
        Ok(())
    }

    fn skip(&mut self, mut values: u64) -> Result<(), ConvertError> {
        while values > 0 {
            values = count_after(values, self.step()?)?;
        }
        Ok(())
    }
}

/// Values still to come after one of `values` (at least 1) has had its header read.
#[inline]
fn count_after(values: u64, follows: Follows) -> Result<u64, FrameError> {
    match follows {
        Follows::Nothing | Follows::Payload(_) => Ok(values - 1),
        Follows::Values(count) => (values - 1).checked_add(count).ok_or(FrameError::TooManyValues),
        Follows::Attribute(count) => values.checked_add(count).ok_or(FrameError::TooManyValues),
    }
}

/// Copies what lies between the start of `run` and the start of `end`, its later part.
#[inline]
fn copy_run(run: &[u8], end: &[u8], out: &mut Vec<u8>) {
    let len = run.len().saturating_sub(end.len());
    out.extend_from_slice(run.get(..len).unwrap_or_default());
}

#[cfg(test)]
mod tests;
