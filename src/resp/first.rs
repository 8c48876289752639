//! The request at the start of an input, for whoever wants to know what it asks before its turn: it stays where it is.

use std::borrow::Cow;

use super::encode;
use super::limits::Limits;
use super::request::{Args, Scan, Scanner, Span};

/// One request, inline or not.
pub struct First<'a> {
    raw: Cow<'a, [u8]>,
    spans: Vec<Span>,
    /// Bytes of the input that it takes. `None`: it has not come as a whole, and these are the arguments that have.
    pub len: Option<usize>,
}

impl<'a> First<'a> {
    /// `None`: there is none, or what is there is no request.
    pub fn of(input: &'a [u8]) -> Option<First<'a>> {
        let mut spans = Vec::new();
        let (raw, len) = match Scanner::default().scan(input, &Limits::AUTHENTICATED, &mut spans) {
            Ok(Scan::Complete { len }) => (Cow::Borrowed(input), Some(len)),
            Ok(Scan::Incomplete { .. }) => (Cow::Borrowed(input), None),
            Ok(Scan::Inline { len, args }) => {
                let (raw, of_args) = encode_inline(&args);
                spans = of_args;
                (Cow::Owned(raw), Some(len))
            }
            Ok(Scan::Nothing { .. }) | Err(_) => return None,
        };
        Some(First { raw, spans, len })
    }

    pub fn args(&self) -> Args<'_> {
        Args {
            buf: &self.raw,
            spans: &self.spans,
        }
    }

    /// The same of one that has come as a whole.
    pub fn whole(&self) -> Option<Args<'_>> {
        self.len.map(|_| self.args())
    }
}

/// An inline request in the form in which everything else travels.
pub fn encode_inline(args: &[Vec<u8>]) -> (Vec<u8>, Vec<Span>) {
    let mut raw = Vec::new();
    encode::command(&mut raw, args.iter().map(Vec::as_slice));
    let mut spans = Vec::with_capacity(args.len());
    let mut end = raw.len();
    for arg in args.iter().rev() {
        end -= 2;
        spans.push(Span {
            start: (end - arg.len()) as u32,
            end: end as u32,
        });
        end -= arg.len() + header_len(arg.len());
    }
    spans.reverse();
    (raw, spans)
}

/// Length of `$n\r\n`.
fn header_len(n: usize) -> usize {
    3 + itoa::Buffer::new().format(n).len()
}

#[cfg(test)]
mod tests;
