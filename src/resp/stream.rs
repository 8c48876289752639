//! A request too large to be held: its bytes pass through while its arguments are counted.
//!
//! The session starts it when [`Scan::Incomplete`](super::request::Scan::Incomplete) announces more than it wants to
//! buffer, and forwards what it is fed. What is kept of the arguments is enough to know the command and, as a rule, its
//! keys. Memory: at most [`KEEP_TOTAL_BYTES`] of payload, [`KEEP_ARGS`] entries and one header line.

use super::limits::{Limits, ProtocolError};
use super::request::{self, Args, Scanner, Span};

/// An argument longer than this is not kept.
pub const KEEP_BYTES: usize = 64 * 1024;

/// Payload kept of all arguments of one request together.
pub const KEEP_TOTAL_BYTES: usize = 1024 * 1024;

/// Arguments that have an entry in [`Streamed::args`]; those after them are counted only.
pub const KEEP_ARGS: usize = 65_536;

/// The place in a request that passes through, and what has been kept of it.
#[derive(Debug)]
pub struct Streamed {
    /// Arguments still to come, the current one included.
    args_left: u64,
    args_total: u64,
    stage: Stage,
    args: Vec<Option<Vec<u8>>>,
    kept_bytes: usize,
}

#[derive(Debug)]
enum Stage {
    /// In a `$` line; what has arrived of it.
    Header(Vec<u8>),
    /// In an argument: bytes to come including its line end, and its start if it is one to keep.
    Payload { left: u64, kept: Option<Vec<u8>> },
    /// The request had no `*` line to begin with, so there is nothing to go by.
    Headless,
}

impl Streamed {
    /// Goes on where `scanner` stopped. `buf` must be what its last call saw (from the start of the request), `spans`
    /// what it filled, and that call must have announced a need above 0: a request whose `*` line is unfinished or
    /// which is inline cannot be streamed, and the first [`Streamed::advance`] refuses it.
    pub fn begin(scanner: Scanner, buf: &[u8], spans: &[Span]) -> Streamed {
        let args_left = u64::from(scanner.args_left);
        let mut streamed = Streamed {
            args_left,
            args_total: args_left + spans.len() as u64,
            stage: Stage::Headless,
            args: Vec::new(),
            kept_bytes: 0,
        };
        if args_left == 0 {
            return streamed;
        }
        for arg in (Args { buf, spans }).iter() {
            let kept = streamed.room_for(arg.len() as u64).map(|_| arg.to_vec());
            streamed.keep(kept);
        }
        let arrived = buf.get(scanner.at as usize..).unwrap_or_default();
        if scanner.bulk == request::UNKNOWN {
            streamed.stage = Stage::Header(arrived.to_vec());
        } else {
            streamed.enter_payload(u64::from(scanner.bulk));
            streamed.take_payload(arrived);
        }
        streamed
    }

    /// Feeds the bytes that follow those given to [`Streamed::begin`]. Returns how many of them belong to this
    /// request, and whether it is complete. All of `chunk` belongs to it unless it is complete.
    pub fn advance(&mut self, chunk: &[u8], limits: &Limits) -> Result<(usize, bool), ProtocolError> {
        let mut used = 0;
        while self.args_left > 0 {
            let rest = chunk.get(used..).unwrap_or_default();
            if rest.is_empty() {
                return Ok((used, false));
            }
            used += match &mut self.stage {
                Stage::Header(line) => {
                    let (taken, len) = take_header(line, rest, limits)?;
                    if let Some(len) = len {
                        self.enter_payload(len);
                    }
                    taken
                }
                Stage::Payload { .. } => self.take_payload(rest),
                Stage::Headless => break,
            };
        }
        if let Stage::Headless = self.stage {
            return Err(ProtocolError::InvalidMultibulkLength);
        }
        match self.args.first() {
            Some(Some(name)) if request::is_cross_protocol(name) => Err(ProtocolError::CrossProtocol),
            _ => Ok((used, true)),
        }
    }

    /// The arguments seen so far, in order, at most [`KEEP_ARGS`] of them. `None` is one that was not kept: it is
    /// longer than [`KEEP_BYTES`] or came after [`KEEP_TOTAL_BYTES`] of others. Such a one is listed as soon as its
    /// length is known, one that is kept when it has arrived.
    pub fn args(&self) -> &[Option<Vec<u8>>] {
        &self.args
    }

    /// How many arguments the request announced, the command's name included.
    pub fn args_total(&self) -> u64 {
        self.args_total
    }

    fn enter_payload(&mut self, len: u64) {
        let kept = self.room_for(len).map(|_| Vec::new());
        if kept.is_none() {
            self.keep(None);
        }
        self.stage = Stage::Payload { left: len + 2, kept };
    }

    /// Returns how many bytes of `arrived` belong to the argument.
    fn take_payload(&mut self, arrived: &[u8]) -> usize {
        let Stage::Payload { left, kept } = &mut self.stage else {
            return 0;
        };
        let taken = usize::try_from(*left).unwrap_or(usize::MAX).min(arrived.len());
        if let Some(kept) = kept {
            let of_payload = usize::try_from(left.saturating_sub(2)).unwrap_or(usize::MAX).min(taken);
            kept.extend_from_slice(arrived.get(..of_payload).unwrap_or_default());
        }
        *left -= taken as u64;
        if *left == 0 {
            let kept = kept.take();
            if kept.is_some() {
                self.keep(kept);
            }
            self.args_left -= 1;
            self.stage = Stage::Header(Vec::new());
        }
        taken
    }

    fn keep(&mut self, arg: Option<Vec<u8>>) {
        if self.args.len() < KEEP_ARGS {
            self.kept_bytes += arg.as_ref().map_or(0, Vec::len);
            self.args.push(arg);
        }
    }

    /// An argument's length, if it may be kept.
    fn room_for(&self, len: u64) -> Option<usize> {
        let len = usize::try_from(len).ok().filter(|len| *len <= KEEP_BYTES)?;
        (self.kept_bytes + len <= KEEP_TOTAL_BYTES && self.args.len() < KEEP_ARGS).then_some(len)
    }
}

/// Takes bytes of `rest` into the unfinished `line`. Returns how many, and the length it announces once it is complete.
fn take_header(line: &mut Vec<u8>, rest: &[u8], limits: &Limits) -> Result<(usize, Option<u64>), ProtocolError> {
    let mut looked = 0;
    if line.is_empty() {
        return Ok(match request::argument_header(rest, 0, &mut looked, limits)? {
            Some((len, start)) => (start, Some(len)),
            None => {
                line.extend_from_slice(rest);
                (rest.len(), None)
            }
        });
    }
    // The line's end: the byte after its carriage return, which may be the last byte that has arrived.
    let end = match (line.last(), memchr::memchr(b'\r', rest)) {
        (Some(b'\r'), _) => 1,
        (_, Some(found)) => rest.len().min(found + 2),
        (_, None) => rest.len(),
    };
    looked = u32::try_from(line.len()).unwrap_or(0).saturating_sub(1);
    line.extend_from_slice(rest.get(..end).unwrap_or_default());
    let found = request::argument_header(line, 0, &mut looked, limits)?;
    Ok((end, found.map(|(len, _)| len)))
}

#[cfg(test)]
mod tests;
