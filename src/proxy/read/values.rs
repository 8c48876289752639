//! Values of several keys as one answer. They are shown while L1 is locked; compressed ones are noted then, and unpacked when it
//! no longer is.

use super::write_payload;
use crate::cache::{Packed, ViewValue};
use crate::proxy::outbox::Ready;
use crate::resp::{Version, encode};

/// What is unpacked for one request while the upstream can be asked: some ten milliseconds of a worker, on which everybody else
/// waits, and memory that nobody knows of before it is an answer.
pub const MOST_UNPACKED_BYTES: usize = 8 << 20;

pub struct Values {
    version: Version,
    /// What was written before each of the compressed ones.
    packed: Vec<(Ready, Packed)>,
    unpacked_bytes: usize,
    rest: Ready,
}

impl Values {
    pub fn new(count: usize, version: Version) -> Values {
        let mut rest = Ready::default();
        encode::array_header(&mut rest.bytes, count);
        Values {
            version,
            packed: Vec::new(),
            unpacked_bytes: 0,
            rest,
        }
    }

    #[inline]
    pub fn push(&mut self, value: &ViewValue<'_>) {
        match value.packed() {
            None => write_payload(&mut self.rest, value, self.version),
            Some(packed) => {
                self.unpacked_bytes += packed.shown_bytes();
                self.packed.push((std::mem::take(&mut self.rest), packed));
            }
        }
    }

    /// What the compressed ones take in the answer.
    pub fn unpacked_bytes(&self) -> usize {
        self.unpacked_bytes
    }

    /// `None`: a value cannot be unpacked.
    pub fn finish(self) -> Option<Ready> {
        if self.packed.is_empty() {
            return Some(self.rest);
        }
        let mut answer = Ready::default();
        for (before, packed) in self.packed {
            answer.append(before);
            write_payload(&mut answer, &ViewValue::Large(&packed.unpack()?), self.version);
        }
        answer.append(self.rest);
        Some(answer)
    }
}
