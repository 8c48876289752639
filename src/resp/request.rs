//! Finds the end of a request and the places of its arguments, for every request of every client.
//!
//! The session runs it on its read buffer. The scanner keeps its place between reads, so a request that arrives in many
//! pieces is looked at once. Arguments are offsets and never copied: the request can be forwarded as it came.
//! Its notion of a valid request is that of Redis 7.0 (`processInputBuffer`), including what it does not check: the two
//! bytes after an argument, and the byte after the carriage return of a header.

use super::inline;
use super::limits::{Limits, ProtocolError};
use super::number::{self, Header};

/// Where an argument is, relative to the first byte of the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    pub start: u32,
    pub end: u32,
}

/// The arguments of a request, the command's name first.
#[derive(Clone, Copy, Debug)]
pub struct Args<'a> {
    /// The request from its first byte on.
    pub buf: &'a [u8],
    pub spans: &'a [Span],
}

impl<'a> Args<'a> {
    #[inline]
    pub fn len(self) -> usize {
        self.spans.len()
    }

    #[inline]
    pub fn is_empty(self) -> bool {
        self.spans.is_empty()
    }

    /// The argument at `index`; empty when there is none.
    #[inline]
    pub fn arg(self, index: usize) -> &'a [u8] {
        match self.spans.get(index) {
            Some(span) => self.at(span),
            None => &[],
        }
    }

    #[inline]
    pub fn iter(self) -> impl DoubleEndedIterator<Item = &'a [u8]> + ExactSizeIterator + Clone {
        self.spans.iter().map(move |span| self.at(span))
    }

    /// The bytes of the request until its first argument after the name; `None` if the request was not sent whole.
    #[inline]
    pub fn head(self) -> Option<&'a [u8]> {
        self.buf.get(..self.spans.first()?.end as usize + 2)
    }

    #[inline]
    fn at(self, span: &Span) -> &'a [u8] {
        self.buf.get(span.start as usize..span.end as usize).unwrap_or_default()
    }
}

/// What a call of [`Scanner::scan`] found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scan {
    /// More bytes are needed. `need` counts from the start of the request to the end of what has been announced so far,
    /// the line ends after arguments included: a lower bound of the request's length. 0 while nothing is known.
    Incomplete { need: u64 },
    /// The request is `buf[..len]`, its arguments are in `spans`.
    Complete { len: usize },
    /// `*0`, `*-1` or an empty inline line: `len` bytes to forget, and no reply.
    Nothing { len: usize },
    /// An inline request of `len` bytes, already taken apart.
    Inline { len: usize, args: Vec<Vec<u8>> },
}

/// The place in a request that has not fully arrived.
#[derive(Clone, Debug)]
pub struct Scanner {
    /// Where the next unread header or the payload of the current argument starts.
    pub(super) at: u32,
    /// Arguments still to come, the current one included. 0: the `*` line has not been read.
    pub(super) args_left: u32,
    /// Length of the current argument, or [`UNKNOWN`] before its header has been read.
    pub(super) bulk: u32,
    /// How much of the unfinished line at `at` has been searched for its end.
    looked: u32,
}

impl Default for Scanner {
    fn default() -> Self {
        Scanner {
            at: 0,
            args_left: 0,
            bulk: UNKNOWN,
            looked: 0,
        }
    }
}

impl Scanner {
    /// Goes on in the request that starts at `buf[0]`.
    ///
    /// After [`Scan::Incomplete`] call again with the same bytes, more after them, and the same `spans`. After any
    /// other result the scanner is ready for the next request, and the caller clears `spans`. An error is final:
    /// close the connection, or [`Scanner::reset`].
    ///
    /// `limits` may change between the calls; headers already read are not checked again.
    #[inline]
    pub fn scan(&mut self, buf: &[u8], limits: &Limits, spans: &mut Vec<Span>) -> Result<Scan, ProtocolError> {
        if self.args_left == 0 && !self.scan_usual(buf, limits, spans) {
            match buf.first() {
                Some(b'*') => {}
                Some(_) => return self.scan_inline(buf, limits),
                None => return Ok(Scan::Incomplete { need: 0 }),
            }
            match number::header(buf, 0, &mut self.looked) {
                Header::Number(count, next) => {
                    self.looked = 0;
                    self.args_left = limits.args(count)?;
                    if self.args_left == 0 {
                        return Ok(Scan::Nothing { len: next });
                    }
                    // A header line has at most 64 KiB.
                    self.at = next as u32;
                }
                Header::More => return Ok(Scan::Incomplete { need: 0 }),
                Header::Bad => return Err(ProtocolError::InvalidMultibulkLength),
                Header::TooLong => return Err(ProtocolError::TooBigMbulkCount),
            }
        }
        if self.args_left == 0 {
            return self.complete(buf, spans);
        }
        self.scan_args(buf, limits, spans)
    }

    /// Whether no request is begun.
    #[inline]
    pub fn is_at_start(&self) -> bool {
        self.at == 0 && self.args_left == 0 && self.looked == 0
    }

    /// Forgets the request begun, to start with another.
    pub fn reset(&mut self) {
        *self = Scanner::default();
    }

    /// Reads what a request usually starts with: up to nine short arguments that have arrived. Returns whether it has
    /// read the `*` line; what it has not read is for `scan_args`.
    #[inline]
    fn scan_usual(&mut self, buf: &[u8], limits: &Limits, spans: &mut Vec<Span>) -> bool {
        let [b'*', count @ b'1'..=b'9', b'\r', _, rest @ ..] = buf else {
            return false;
        };
        let (mut rest, mut args_left) = (rest, u32::from(count - b'0'));
        if u64::from(args_left) > limits.max_args {
            return false;
        }
        while args_left > 0
            && let Some((len, payload)) = number::short_bulk_header(rest)
            && len as u64 <= limits.max_bulk_bytes
            && let Some(next) = payload.get(len + 2..)
        {
            // Nine arguments of less than 1000 bytes.
            let start = (buf.len() - payload.len()) as u32;
            spans.push(Span {
                start,
                end: start + len as u32,
            });
            args_left -= 1;
            rest = next;
        }
        self.at = (buf.len() - rest.len()) as u32;
        self.args_left = args_left;
        self.looked = 0;
        true
    }

    fn scan_args(&mut self, buf: &[u8], limits: &Limits, spans: &mut Vec<Span>) -> Result<Scan, ProtocolError> {
        while self.args_left > 0 {
            if self.bulk == UNKNOWN {
                let at = self.at as usize;
                let (len, start) = match argument_header(buf, at, &mut self.looked, limits)? {
                    Some(found) => found,
                    None => {
                        return Ok(Scan::Incomplete {
                            need: u64::from(self.at),
                        });
                    }
                };
                // Spans count in 32 bits.
                if start as u64 + len + 2 > u64::from(u32::MAX) {
                    return Err(ProtocolError::InvalidBulkLength);
                }
                self.looked = 0;
                self.at = start as u32;
                self.bulk = len as u32;
            }
            let span = Span {
                start: self.at,
                end: self.at + self.bulk,
            };
            let next = span.end as usize + 2;
            if buf.len() < next {
                return Ok(Scan::Incomplete { need: next as u64 });
            }
            spans.push(span);
            self.at = next as u32;
            self.bulk = UNKNOWN;
            self.args_left -= 1;
        }
        self.complete(buf, spans)
    }

    #[inline]
    fn complete(&mut self, buf: &[u8], spans: &[Span]) -> Result<Scan, ProtocolError> {
        let len = self.at as usize;
        self.at = 0;
        match spans.first() {
            Some(name) if is_cross_protocol(Args { buf, spans: &[*name] }.arg(0)) => Err(ProtocolError::CrossProtocol),
            _ => Ok(Scan::Complete { len }),
        }
    }

    #[cold]
    fn scan_inline(&mut self, buf: &[u8], limits: &Limits) -> Result<Scan, ProtocolError> {
        let searched = (self.looked as usize).min(buf.len());
        let found = memchr::memchr(b'\n', buf.get(searched..).unwrap_or_default()).map(|found| searched + found);
        let Some(end) = found.filter(|end| *end <= limits.max_inline_bytes) else {
            if found.is_some() || buf.len() > limits.max_inline_bytes {
                return Err(ProtocolError::TooBigInline);
            }
            self.looked = u32::try_from(buf.len()).unwrap_or(0);
            return Ok(Scan::Incomplete { need: 0 });
        };
        self.reset();
        let line = buf.get(..end).unwrap_or_default();
        let args = inline::split(line.strip_suffix(b"\r").unwrap_or(line))?;
        match args.first() {
            None => Ok(Scan::Nothing { len: end + 1 }),
            Some(name) if is_cross_protocol(name) => Err(ProtocolError::CrossProtocol),
            Some(_) => Ok(Scan::Inline { len: end + 1, args }),
        }
    }
}

/// The key of a complete `GET` at the start of `buf`, in the form in which clients send it, and the request's length.
/// `None` says nothing.
#[inline]
pub fn usual_get(buf: &[u8]) -> Option<(&[u8], usize)> {
    const HEADERS: u64 = u64::from_le_bytes(*b"*2\r\n$3\r\n");
    const NAME: u32 = u32::from_le_bytes(*b"get\r");
    // Makes the three letters small ones.
    const SMALL: u32 = u32::from_le_bytes(*b"   \0");
    let (headers, rest) = buf.split_first_chunk::<8>()?;
    let (name, rest) = rest.split_first_chunk::<4>()?;
    if u64::from_le_bytes(*headers) != HEADERS || u32::from_le_bytes(*name) | SMALL != NAME {
        return None;
    }
    let rest = rest.strip_prefix(b"\n")?;
    let (len, payload) = number::short_bulk_header(rest)?;
    let behind = payload.get(len + 2..)?;
    Some((&payload[..len], buf.len() - behind.len()))
}

/// The first of so many arguments at the start of `buf`, if all of them are there and short, and how many bytes they take with
/// their headers. `None` says nothing.
#[inline]
pub fn first_argument(buf: &[u8], args: usize) -> Option<(&[u8], usize)> {
    let (len, payload) = number::short_bulk_header(buf)?;
    let first = payload.get(..len)?;
    let mut rest = payload.get(len + 2..)?;
    for _ in 1..args {
        let (len, payload) = number::short_bulk_header(rest)?;
        rest = payload.get(len + 2..)?;
    }
    Some((first, buf.len() - rest.len()))
}

/// Reads the `$` line at `at`: the argument's length and where its payload starts; `None` if the line is unfinished.
#[inline]
pub(super) fn argument_header(
    buf: &[u8],
    at: usize,
    looked: &mut u32,
    limits: &Limits,
) -> Result<Option<(u64, usize)>, ProtocolError> {
    if let Some(&byte) = buf.get(at)
        && byte != b'$'
    {
        return match number::line_end(buf, at, looked) {
            Ok(None) => Ok(None),
            Ok(Some(_)) => Err(ProtocolError::ExpectedDollar(byte)),
            Err(number::LineTooLong) => Err(ProtocolError::TooBigBulkCount),
        };
    }
    match number::header(buf, at, looked) {
        Header::Number(len, start) => Ok(Some((limits.bulk(len)?, start))),
        Header::More => Ok(None),
        Header::Bad => Err(ProtocolError::InvalidBulkLength),
        Header::TooLong => Err(ProtocolError::TooBigBulkCount),
    }
}

/// Whether a command's name is the start of an HTTP request or one of its header lines.
#[inline]
pub(super) fn is_cross_protocol(name: &[u8]) -> bool {
    match name {
        [b'p' | b'P', ..] => name.eq_ignore_ascii_case(b"post"),
        [b'h' | b'H', ..] => name.eq_ignore_ascii_case(b"host:"),
        _ => false,
    }
}

/// No argument is this long, because it could not be followed by its line end within 32 bits.
pub(super) const UNKNOWN: u32 = u32::MAX;

#[cfg(test)]
mod tests;
