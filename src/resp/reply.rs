//! Finds where a reply ends, and looks into complete ones, without building a tree.
//!
//! An upstream connection runs the scanner on everything it reads; sessions and the cache use the helpers on frames
//! that the scanner has measured. RESP2 and RESP3 are read alike. Lengths are bytes. There is no stack and no
//! recursion, so depth costs nothing: a counter of values still to come is enough to find an end. The content of
//! lines is not checked, only where they end.

use std::fmt;

use super::number;

/// The place in a reply that has not fully arrived.
#[derive(Clone, Debug, Default)]
pub struct FrameScanner {
    /// Values whose header is still to come before the frame ends.
    values: u64,
    /// Payload of the current bulk still to come, its line end included.
    payload: u64,
    /// How much of the unfinished line presented last has been searched for its end.
    looked: usize,
}

/// Why a reply cannot be measured. The stream is out of step from here on: close the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameError {
    /// No value starts with this byte.
    UnknownType(u8),
    /// A length that is no number, or is negative where there is no null of that type.
    BadLength,
    /// A line without an end: 1 MiB after `+` or `-`, else 64 KiB.
    LineTooLong,
    /// `$?` and its like: no server is known to send them.
    StreamedType,
    /// A payload is not followed by a line end.
    BadTerminator,
    /// More nested values than 64 bits can count.
    TooManyValues,
}

impl fmt::Display for FrameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FrameError::UnknownType(byte) => write!(f, "no RESP value starts with '{}'", byte.escape_ascii()),
            FrameError::BadLength => f.write_str("bad length in a RESP header"),
            FrameError::LineTooLong => f.write_str("RESP line without an end"),
            FrameError::StreamedType => f.write_str("streamed RESP3 values are not supported"),
            FrameError::BadTerminator => f.write_str("RESP payload is not followed by a line end"),
            FrameError::TooManyValues => f.write_str("too many nested RESP values"),
        }
    }
}

impl std::error::Error for FrameError {}

impl FrameScanner {
    /// Takes as much of `chunk` as belongs to one frame: returns how many bytes, and whether the frame is complete.
    ///
    /// A header line is taken whole or not at all: present the bytes not taken again, with more after them. A payload
    /// is taken as it comes. So this serves a buffer that grows (call with `&buf[pos..]` and add up) as well as a
    /// stream. An attribute belongs to the value after it.
    #[inline]
    pub fn advance(&mut self, chunk: &[u8]) -> Result<(usize, bool), FrameError> {
        let mut at = 0;
        let mut values = self.values;
        if self.payload > 0 {
            at = self.take_payload(chunk)?;
            if self.payload > 0 {
                return Ok((at, false));
            }
            if values == 0 {
                return Ok((at, true));
            }
        }
        if values == 0 {
            values = 1;
        }
        loop {
            let rest = chunk.get(at..).unwrap_or_default();
            if let Some(next) = after_short_value(rest) {
                self.looked = 0;
                at = chunk.len() - next.len();
                values -= 1;
                if values == 0 {
                    self.values = 0;
                    return Ok((at, true));
                }
                continue;
            }
            let Some(header) = header(rest, self.looked)? else {
                // Only a frame of which something has been taken counts as begun.
                if at > 0 {
                    self.values = values;
                    self.looked = 0;
                }
                if !rest.is_empty() {
                    self.looked = rest.len();
                }
                return Ok((at, false));
            };
            self.looked = 0;
            at += header.len;
            match header.follows {
                Follows::Nothing => values -= 1,
                Follows::Values(count) => {
                    values = (values - 1).checked_add(count).ok_or(FrameError::TooManyValues)?;
                }
                Follows::Attribute(count) => {
                    values = values.checked_add(count).ok_or(FrameError::TooManyValues)?;
                }
                Follows::Payload(len) => {
                    values -= 1;
                    self.payload = len.saturating_add(2);
                    at += self.take_payload(chunk.get(at..).unwrap_or_default())?;
                    if self.payload > 0 {
                        self.values = values;
                        return Ok((at, false));
                    }
                }
            }
            if values == 0 {
                self.values = 0;
                return Ok((at, true));
            }
        }
    }

    /// Bytes of the current payload that are still to come, its line end included; 0 outside of a payload.
    pub fn pending_payload(&self) -> u64 {
        self.payload
    }

    /// Whether the next byte starts a new frame.
    pub fn is_between_frames(&self) -> bool {
        self.values == 0 && self.payload == 0
    }

    #[inline]
    fn take_payload(&mut self, chunk: &[u8]) -> Result<usize, FrameError> {
        let taken = usize::try_from(self.payload).unwrap_or(usize::MAX).min(chunk.len());
        let left = self.payload - taken as u64;
        if left < 2 {
            // How far before the end of the payload, line end included, the byte stands tells which one it must be.
            let is_at = |from_end: u64, byte: u8| match usize::try_from(self.payload.wrapping_sub(from_end)) {
                Ok(index) if index < taken => chunk.get(index) == Some(&byte),
                _ => true,
            };
            if !is_at(2, b'\r') || !is_at(1, b'\n') {
                return Err(FrameError::BadTerminator);
            }
        }
        self.payload = left;
        Ok(taken)
    }
}

/// The length of the whole frame at the start of `buf`, or `None` if it is not all there.
#[inline]
pub fn frame_len(buf: &[u8]) -> Result<Option<usize>, FrameError> {
    let (len, is_complete) = FrameScanner::default().advance(buf)?;
    Ok(is_complete.then_some(len))
}

/// The payload of a bulk, or `Some(None)` for a null (`$-1`, `_`).
#[inline]
pub fn bulk(frame: &[u8]) -> Option<Option<&[u8]>> {
    let frame = without_attributes(frame)?;
    match frame.first()? {
        b'$' => payload(frame),
        b'_' => header(frame, 0).ok()?.map(|_| None),
        _ => None,
    }
}

/// The number in `:n`.
#[inline]
pub fn integer(frame: &[u8]) -> Option<i64> {
    let line = line(without_attributes(frame)?, b':')?;
    number::parse(line)
}

/// Whether the reply is an error (`-` or `!`).
#[inline]
pub fn is_error(frame: &[u8]) -> bool {
    matches!(
        without_attributes(frame).and_then(|frame| frame.first()),
        Some(b'-' | b'!')
    )
}

/// What an error frame (`-text`) says, for people.
pub fn error_text(frame: &[u8]) -> String {
    String::from_utf8_lossy(frame.get(1..).unwrap_or_default())
        .trim()
        .to_owned()
}

/// The value in the reply to `CONFIG GET` of one setting. `None`: an error, or the server has no such setting.
pub fn setting(frame: &[u8]) -> Option<&[u8]> {
    elements(frame)?.nth(1).and_then(text)
}

/// The text of a bulk, a simple string or a verbatim string (its format and colon removed). Not of a null.
#[inline]
pub fn text(frame: &[u8]) -> Option<&[u8]> {
    let frame = without_attributes(frame)?;
    match frame.first()? {
        b'$' => payload(frame)?,
        b'+' => line(frame, b'+'),
        b'=' => verbatim_text(payload(frame)??),
        _ => None,
    }
}

/// The frames inside an array, set, push or map (keys and values in turn). `None` for anything else, nulls included.
pub fn elements(frame: &[u8]) -> Option<Elements<'_>> {
    let frame = without_attributes(frame)?;
    let header = header(frame, 0).ok()??;
    let Follows::Values(count) = header.follows else {
        return None;
    };
    let rest = frame.get(header.len..)?;
    // The shortest frame has three bytes: whoever reserves room by the count is safe from a made-up one.
    let count = usize::try_from(count).ok().filter(|count| *count <= rest.len() / 3)?;
    Some(Elements { rest, left: count })
}

/// Iterates over the frames inside a frame, each without the attributes before it. Ends early where the frame is
/// malformed.
#[derive(Clone, Debug)]
pub struct Elements<'a> {
    rest: &'a [u8],
    left: usize,
}

impl Elements<'_> {
    /// How many are still to come, as announced.
    pub fn len(&self) -> usize {
        self.left
    }

    pub fn is_empty(&self) -> bool {
        self.left == 0
    }
}

impl<'a> Iterator for Elements<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        if self.left == 0 {
            return None;
        }
        let Ok(Some(len)) = frame_len(self.rest) else {
            self.left = 0;
            return None;
        };
        let (element, rest) = self.rest.split_at_checked(len)?;
        self.left -= 1;
        self.rest = rest;
        without_attributes(element)
    }
}

/// A header line, read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Header {
    /// Of the line, its end included.
    pub len: usize,
    pub follows: Follows,
}

/// What belongs to a value after its header line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Follows {
    Nothing,
    /// So many bytes and a line end.
    Payload(u64),
    /// So many values (two for each pair of a map).
    Values(u64),
    /// So many values, and then the value itself.
    Attribute(u64),
}

/// Reads the header line at the start of `buf`, of which `looked` bytes are known to hold no end.
#[inline]
pub(super) fn header(buf: &[u8], looked: usize) -> Result<Option<Header>, FrameError> {
    let Some(&kind) = buf.first() else { return Ok(None) };
    match kind {
        b'$' | b'*' | b'%' | b'~' | b'>' | b'=' | b'!' | b'|' => {
            let Some((count, len)) = length(buf, looked)? else {
                return Ok(None);
            };
            let follows = match (kind, u64::try_from(count)) {
                (b'$' | b'=' | b'!', Ok(count)) => Follows::Payload(count),
                (b'*' | b'~' | b'>', Ok(count)) => Follows::Values(count),
                (b'%', Ok(count)) => Follows::Values(count.checked_mul(2).ok_or(FrameError::TooManyValues)?),
                (_, Ok(count)) => Follows::Attribute(count.checked_mul(2).ok_or(FrameError::TooManyValues)?),
                (b'$' | b'*', Err(_)) if count == -1 => Follows::Nothing,
                (_, Err(_)) => return Err(FrameError::BadLength),
            };
            Ok(Some(Header { len, follows }))
        }
        b'+' | b'-' => Ok(line_len(buf, looked, MAX_TEXT_BYTES)?.map(|len| Header {
            len,
            follows: Follows::Nothing,
        })),
        b':' | b'_' | b',' | b'#' | b'(' => Ok(line_len(buf, looked, MAX_LINE_BYTES)?.map(|len| Header {
            len,
            follows: Follows::Nothing,
        })),
        other => Err(FrameError::UnknownType(other)),
    }
}

/// What follows the bulk, integer or simple string at the start of `buf`, if it is short and all there. `None` says
/// nothing: this is the way for what replies are full of, and [`header`] the one for everything.
#[inline]
pub(super) fn after_short_value(buf: &[u8]) -> Option<&[u8]> {
    if let Some((len, payload)) = number::short_bulk_header(buf) {
        return match payload.get(len..) {
            // The length line's own end is looked at too: its last byte stands before the payload.
            Some([b'\r', b'\n', rest @ ..]) if buf.get(buf.len() - payload.len() - 1) == Some(&b'\n') => Some(rest),
            _ => None,
        };
    }
    match buf {
        [b':' | b'+', line @ ..] => {
            let end = line
                .windows(2)
                .take(SHORT_LINE_BYTES)
                .position(|pair| pair == b"\r\n")?;
            line.get(end + 2..)
        }
        _ => None,
    }
}

/// The text after `kind` in a frame that is one line.
pub(super) fn line(frame: &[u8], kind: u8) -> Option<&[u8]> {
    if *frame.first()? != kind {
        return None;
    }
    let header = header(frame, 0).ok()??;
    frame.get(1..header.len.checked_sub(2)?)
}

/// What a bulk of any type (`$ = !`) holds at the start of `frame`; `Some(None)` for a null.
pub(super) fn payload(frame: &[u8]) -> Option<Option<&[u8]>> {
    let header = header(frame, 0).ok()??;
    match header.follows {
        Follows::Payload(len) => {
            let end = header.len.checked_add(usize::try_from(len).ok()?)?;
            frame.get(end..end.checked_add(2)?)?;
            Some(Some(frame.get(header.len..end)?))
        }
        Follows::Nothing => Some(None),
        _ => None,
    }
}

/// A verbatim payload without its format and colon (`txt:`).
pub(super) fn verbatim_text(payload: &[u8]) -> Option<&[u8]> {
    match payload {
        [_, _, _, b':', text @ ..] => Some(text),
        _ => None,
    }
}

/// What is left of a frame after the attributes before its value.
#[inline]
pub(super) fn without_attributes(mut frame: &[u8]) -> Option<&[u8]> {
    while let Some(b'|') = frame.first() {
        let header = header(frame, 0).ok()??;
        let Follows::Attribute(count) = header.follows else {
            return None;
        };
        frame = frame.get(header.len..)?;
        for _ in 0..count {
            frame = frame.get(frame_len(frame).ok()??..)?;
        }
    }
    Some(frame)
}

/// The number of a header line and the line's length.
#[inline]
fn length(buf: &[u8], looked: usize) -> Result<Option<(i64, usize)>, FrameError> {
    if let [_, digit @ b'0'..=b'9', b'\r', b'\n', ..] = buf {
        return Ok(Some((i64::from(digit - b'0'), 4)));
    }
    if let Some((value, end)) = number::plain(buf)
        && buf.get(end + 1) == Some(&b'\n')
    {
        return Ok(Some((value, end + 2)));
    }
    unusual_length(buf, looked)
}

#[cold]
fn unusual_length(buf: &[u8], looked: usize) -> Result<Option<(i64, usize)>, FrameError> {
    let Some(len) = line_len(buf, looked, MAX_LINE_BYTES)? else {
        return Ok(None);
    };
    match buf.get(1..len - 2).unwrap_or_default() {
        b"?" => Err(FrameError::StreamedType),
        text => number::parse(text)
            .map(|value| Some((value, len)))
            .ok_or(FrameError::BadLength),
    }
}

/// The length of the line at the start of `buf`, its end included. A line feed or a carriage return alone does not
/// end it.
#[inline]
fn line_len(buf: &[u8], looked: usize, max: usize) -> Result<Option<usize>, FrameError> {
    match short_line_len(buf) {
        Some(len) => Ok(Some(len)),
        None => long_line_len(buf, looked, max),
    }
}

/// Most lines are `+OK` or a small number: not worth a call.
#[inline]
fn short_line_len(buf: &[u8]) -> Option<usize> {
    let mut ends = buf.windows(2).take(SHORT_LINE_BYTES);
    ends.position(|pair| pair == b"\r\n").map(|end| end + 2)
}

fn long_line_len(buf: &[u8], looked: usize, max: usize) -> Result<Option<usize>, FrameError> {
    let from = looked.min(buf.len());
    for found in memchr::memchr_iter(b'\n', buf.get(from..).unwrap_or_default()) {
        let at = from + found;
        if at > 0 && buf.get(at - 1) == Some(&b'\r') {
            return if at < max {
                Ok(Some(at + 1))
            } else {
                Err(FrameError::LineTooLong)
            };
        }
    }
    if buf.len() > max {
        Err(FrameError::LineTooLong)
    } else {
        Ok(None)
    }
}

/// Room for the text of an error that carries a script's trace.
const MAX_TEXT_BYTES: usize = 1024 * 1024;

/// Longest line of any other type, its end included.
const MAX_LINE_BYTES: usize = 64 * 1024;

const SHORT_LINE_BYTES: usize = 24;

#[cfg(test)]
mod tests;
