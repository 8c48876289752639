//! Values of several keys as one answer. They are shown while L1 is locked; compressed ones are noted then, and unpacked when it
//! no longer is.

use super::write_payload;
use crate::cache::{Packed, ViewValue};
use crate::proxy::outbox::Ready;
use crate::resp::{Version, encode};

pub struct Values {
    version: Version,
    /// What was written before each of the compressed ones.
    packed: Vec<(Ready, Packed)>,
    rest: Ready,
}

impl Values {
    pub fn new(count: usize, version: Version) -> Values {
        let mut rest = Ready::default();
        encode::array_header(&mut rest.bytes, count);
        Values {
            version,
            packed: Vec::new(),
            rest,
        }
    }

    #[inline]
    pub fn push(&mut self, value: &ViewValue<'_>) {
        match value.packed() {
            None => write_payload(&mut self.rest, value, self.version),
            Some(packed) => self.packed.push((std::mem::take(&mut self.rest), packed)),
        }
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
