//! Requests for the tests of this module, made of words without a wire between.

use super::{Keys, Spec};
use crate::resp::request::{Args, Span};

pub(super) struct Sample {
    buf: Vec<u8>,
    spans: Vec<Span>,
}

impl Sample {
    /// Words separated by single spaces; two spaces enclose an empty argument.
    pub(super) fn of(line: &str) -> Sample {
        Sample::from(line.split(' ').map(str::as_bytes))
    }

    pub(super) fn from<'a>(words: impl IntoIterator<Item = &'a [u8]>) -> Sample {
        let mut sample = Sample {
            buf: Vec::new(),
            spans: Vec::new(),
        };
        for word in words {
            let start = sample.buf.len() as u32;
            sample.buf.extend_from_slice(word);
            sample.spans.push(Span {
                start,
                end: sample.buf.len() as u32,
            });
        }
        sample
    }

    pub(super) fn args(&self) -> Args<'_> {
        Args {
            buf: &self.buf,
            spans: &self.spans,
        }
    }

    /// The keys, separated by spaces, and what they are all of.
    pub(super) fn keys(&self, row: &Spec) -> (String, Keys) {
        let mut found = Vec::new();
        let answer = row.keys(self.args(), &mut |key| {
            found.push(String::from_utf8_lossy(key).into_owned())
        });
        (found.join(" "), answer)
    }
}
