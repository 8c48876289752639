//! Name and value of an entry.
//!
//! The block of a small reply is `kind, name length, variant length, database` (a byte, then three varints), `name`, `variant`,
//! `value`, and behind them what not all entries have: the deadline in 5 bytes and the next entry of the chain in 4, little-endian.
//! A reply of [`LARGE_BYTES`] or more, or one that is compressed, keeps its value in `Bytes` beside such a block, so that many
//! clients can be sent it without a copy.

use std::ops::Range;

use bytes::Bytes;

use super::super::budget::malloc_bytes;
use super::super::expiry::Lifetime;
use super::super::packed::Packed;
use super::super::{Expiry, ViewValue};
use super::{END_OF_TIME_MS, Identity, NIL};
use crate::cache::l3::codec::Codec;

/// From this size on a reference costs less than a copy.
pub(in crate::cache::l1) const LARGE_BYTES: usize = 2048;

/// 16 bytes: the large form hides behind the small one's non-null pointer.
pub(in crate::cache::l1) enum Payload {
    Small(Box<[u8]>),
    Large(Box<Large>),
}

const _: () = assert!(size_of::<Payload>() == 16);

pub(in crate::cache::l1) struct Large {
    /// As in the small form, without a value.
    block: Box<[u8]>,
    value: Bytes,
}

/// What a fill brings, in the form in which it will be kept.
pub(in crate::cache::l1) enum Body<'a> {
    Absent(&'a [u8]),
    Small(&'a [u8]),
    Large(Bytes),
    Packed(Packed),
}

impl Body<'_> {
    /// Of the value as it is shown.
    pub fn len(&self) -> usize {
        match self {
            Body::Absent(bytes) | Body::Small(bytes) => bytes.len(),
            Body::Large(bytes) => bytes.len(),
            Body::Packed(packed) => packed.shown_bytes(),
        }
    }
}

/// What a fill brings and how long it may be shown.
pub(in crate::cache::l1) struct Reply<'a> {
    pub body: Body<'a>,
    pub is_plain: bool,
    pub lifetime: &'a Lifetime,
}

impl Payload {
    /// `is_chained`: with room for the number of a next entry.
    pub fn new(of: Identity<'_>, reply: Reply<'_>, is_chained: bool) -> Payload {
        let kind = Kind::of(&reply, is_chained);
        let deadline_ms = reply.lifetime.deadline_ms;
        match reply.body {
            Body::Absent(value) | Body::Small(value) => Payload::Small(block(kind, of, value, deadline_ms)),
            Body::Large(value) => Payload::Large(Box::new(Large {
                block: block(kind, of, &[], deadline_ms),
                value,
            })),
            Body::Packed(packed) => Payload::Large(Box::new(Large {
                block: block(kind, of, &[], deadline_ms),
                value: packed.bytes,
            })),
        }
    }

    /// Puts another reply to the same read into the same block. False: it takes another one, or is not small.
    pub fn rewrite(&mut self, reply: &Reply<'_>) -> bool {
        let (Body::Absent(value) | Body::Small(value)) = reply.body else {
            return false;
        };
        let Payload::Small(block) = self else {
            return false;
        };
        let earlier = Kind::at(block);
        let kind = Kind::of(reply, earlier.is_chained());
        let end = block.len() - earlier.tail_bytes();
        let start = end - value_in(block).len();
        if kind.tail_bytes() != earlier.tail_bytes() || end - start != value.len() {
            return false;
        }
        block[0] = kind.0;
        block[start..end].copy_from_slice(value);
        if kind.is_timed() {
            block[end..end + DEADLINE_BYTES].copy_from_slice(&deadline(reply.lifetime.deadline_ms));
        }
        true
    }

    #[inline(always)]
    pub fn matches(&self, of: Identity<'_>) -> bool {
        match self.block() {
            // Nearly all are short, and then no length has to be read before the bytes are compared.
            [_, a, b, c, rest @ ..] if (a | b | c) & 0x80 == 0 => {
                usize::from(*a) == of.name.len()
                    && usize::from(*b) == of.variant.len()
                    && u16::from(*c) == of.db
                    && rest.starts_with(of.name)
                    && (of.variant.is_empty() || rest[of.name.len()..].starts_with(of.variant))
            }
            block => Head::of(block).is_of(of),
        }
    }

    /// What it really takes, the allocator's part included.
    pub fn weight(&self) -> usize {
        match self {
            Payload::Small(block) => malloc_bytes(block.len()),
            Payload::Large(large) => {
                malloc_bytes(size_of::<Large>())
                    + malloc_bytes(large.block.len())
                    + malloc_bytes(large.value.len())
                    + malloc_bytes(BYTES_SHARED)
            }
        }
    }

    pub fn address(&self) -> usize {
        self.block().as_ptr().addr()
    }

    pub fn head(&self) -> Head<'_> {
        Head::of(self.block())
    }

    #[inline]
    pub fn kind(&self) -> Kind {
        Kind::at(self.block())
    }

    #[inline]
    pub fn value(&self) -> ViewValue<'_> {
        let kind = self.kind();
        match self {
            Payload::Large(large) if kind.0 & PACKED == 0 => ViewValue::Large(&large.value),
            Payload::Large(large) => ViewValue::Packed {
                codec: kind.codec(),
                bytes: &large.value,
            },
            Payload::Small(block) if kind.is_absent() => ViewValue::Absent(value_in(block)),
            Payload::Small(block) => ViewValue::Small(value_in(block)),
        }
    }

    /// Of one that has a deadline. Whether it has room for a next entry, too, is said by who asks: to read it from the block's
    /// kind would take another cache line, and only then the one of the deadline.
    #[inline(never)]
    pub fn deadline_ms(&self, is_chained: bool) -> u64 {
        let block = self.block();
        let chain_bytes = if is_chained { CHAIN_BYTES } else { 0 };
        match block[..block.len().saturating_sub(chain_bytes)].last_chunk::<DEADLINE_BYTES>() {
            Some(&[a, b, c, d, e]) => u64::from_le_bytes([a, b, c, d, e, 0, 0, 0]),
            None => END_OF_TIME_MS,
        }
    }

    /// The next entry of the chain, or [`NIL`], of one that has room for it.
    #[inline(never)]
    pub fn chain(&self) -> u32 {
        self.block().last_chunk().map_or(NIL, |next| u32::from_le_bytes(*next))
    }

    /// Of one that has room for it.
    pub fn set_chain(&mut self, next: u32) {
        let block = match self {
            Payload::Small(block) => block,
            Payload::Large(large) => &mut large.block,
        };
        if let Some(place) = block.last_chunk_mut() {
            *place = next.to_le_bytes();
        }
    }

    /// The block, where in it name, variant and value are, and the value if it is not in there.
    pub fn into_parts(self) -> (Box<[u8]>, Range<usize>, Option<Bytes>) {
        let end = self.block().len().saturating_sub(self.kind().tail_bytes());
        let start = end - self.head().bytes();
        match self {
            Payload::Small(block) => (block, start..end, None),
            Payload::Large(large) => (large.block, start..end, Some(large.value)),
        }
    }

    /// Bytes of name, variant and value.
    pub fn data_bytes(&self) -> usize {
        let in_block = match self.block() {
            [kind, a, b, c, rest @ ..] if (a | b | c) & 0x80 == 0 => {
                rest.len().saturating_sub(Kind(*kind).tail_bytes())
            }
            block => Head::of(block).bytes(),
        };
        match self {
            Payload::Small(_) => in_block,
            Payload::Large(large) => in_block + large.value.len(),
        }
    }

    pub fn codec(&self) -> Codec {
        self.kind().codec()
    }

    /// Bytes of the value alone, as it is kept.
    pub fn value_bytes(&self) -> usize {
        match self {
            Payload::Small(block) => value_in(block).len(),
            Payload::Large(large) => large.value.len(),
        }
    }

    #[inline]
    fn block(&self) -> &[u8] {
        match self {
            Payload::Small(block) => block,
            Payload::Large(large) => &large.block,
        }
    }
}

/// The parts of a block.
pub(in crate::cache::l1) struct Head<'a> {
    kind: Kind,
    pub db: u16,
    pub name: &'a [u8],
    pub variant: &'a [u8],
    /// The value, if it is in the block.
    rest: &'a [u8],
}

impl<'a> Head<'a> {
    #[inline(never)]
    fn of(block: &'a [u8]) -> Head<'a> {
        let kind = Kind::at(block);
        let end = block.len().saturating_sub(kind.tail_bytes());
        let rest = block[..end].get(1..).unwrap_or_default();
        let (name_len, rest) = varint(rest);
        let (variant_len, rest) = varint(rest);
        let (db, rest) = varint(rest);
        let (name, rest) = rest.split_at_checked(name_len.into()).unwrap_or((rest, &[]));
        let (variant, rest) = rest.split_at_checked(variant_len.into()).unwrap_or((rest, &[]));
        Head {
            kind,
            db,
            name,
            variant,
            rest,
        }
    }

    pub fn is_absent(&self) -> bool {
        self.kind.is_absent()
    }

    /// Bytes of name, variant and value, which follow each other.
    pub fn bytes(&self) -> usize {
        self.name.len() + self.variant.len() + self.rest.len()
    }

    fn is_of(&self, of: Identity<'_>) -> bool {
        self.db == of.db && self.name == of.name && self.variant == of.variant
    }
}

/// The first byte of a block.
#[derive(Clone, Copy)]
pub(in crate::cache::l1) struct Kind(u8);

const ABSENT: u8 = 1;
const PLAIN: u8 = 2;
const EXPIRY: u8 = 0b1100;
const EXPIRY_NEVER: u8 = 0;
const EXPIRY_AT: u8 = 0b0100;
const EXPIRY_UNKNOWN: u8 = 0b1000;
/// The value, in the large form whatever its size, is compressed.
const PACKED: u8 = 0b11_0000;
const PACKED_LZ4: u8 = 0b01_0000;
const PACKED_ZSTD: u8 = 0b10_0000;
/// The block ends with a deadline, and that with a number of the chain.
const TIMED: u8 = 0b0100_0000;
const CHAINED: u8 = 0b1000_0000;

/// 40 bits, of which [`END_OF_TIME_MS`] has 38.
const DEADLINE_BYTES: usize = 5;
const CHAIN_BYTES: usize = size_of::<u32>();

impl Kind {
    fn of(reply: &Reply<'_>, is_chained: bool) -> Kind {
        let expiry = match reply.lifetime.expiry {
            Expiry::Never => EXPIRY_NEVER,
            Expiry::At(_) => EXPIRY_AT,
            Expiry::Unknown => EXPIRY_UNKNOWN,
        };
        let form = match &reply.body {
            Body::Absent(_) => ABSENT,
            Body::Small(_) | Body::Large(_) => 0,
            Body::Packed(packed) => match packed.codec {
                Codec::Plain => 0,
                Codec::Lz4 => PACKED_LZ4,
                Codec::Zstd => PACKED_ZSTD,
            },
        };
        let bit = |is_set: bool, bit: u8| if is_set { bit } else { 0 };
        let is_timed = reply.lifetime.deadline_ms < END_OF_TIME_MS;
        Kind(expiry | form | bit(reply.is_plain, PLAIN) | bit(is_timed, TIMED) | bit(is_chained, CHAINED))
    }

    #[inline]
    fn at(block: &[u8]) -> Kind {
        Kind(block.first().copied().unwrap_or_default())
    }

    pub fn is_absent(self) -> bool {
        self.0 & ABSENT != 0
    }

    pub fn is_plain(self) -> bool {
        self.0 & PLAIN != 0
    }

    pub fn is_timed(self) -> bool {
        self.0 & TIMED != 0
    }

    pub fn is_chained(self) -> bool {
        self.0 & CHAINED != 0
    }

    #[inline]
    pub fn expiry(self, deadline_ms: impl FnOnce() -> u64) -> Expiry {
        match self.0 & EXPIRY {
            EXPIRY_NEVER => Expiry::Never,
            EXPIRY_AT => Expiry::At(deadline_ms() * 1000),
            _ => Expiry::Unknown,
        }
    }

    fn codec(self) -> Codec {
        match self.0 & PACKED {
            PACKED_LZ4 => Codec::Lz4,
            PACKED_ZSTD => Codec::Zstd,
            _ => Codec::Plain,
        }
    }

    /// What is behind the value.
    #[inline]
    fn tail_bytes(self) -> usize {
        if self.0 & (TIMED | CHAINED) == 0 {
            return 0;
        }
        usize::from(self.is_timed()) * DEADLINE_BYTES + usize::from(self.is_chained()) * CHAIN_BYTES
    }
}

/// What follows name and variant.
#[inline]
fn value_in(block: &[u8]) -> &[u8] {
    match block {
        [kind, a, b, c, rest @ ..] if (a | b | c) & 0x80 == 0 => {
            let end = rest.len().saturating_sub(Kind(*kind).tail_bytes());
            rest.get(usize::from(*a) + usize::from(*b)..end).unwrap_or_default()
        }
        _ => Head::of(block).rest,
    }
}

fn block(kind: Kind, of: Identity<'_>, value: &[u8], deadline_ms: u64) -> Box<[u8]> {
    let numbers = [of.name.len() as u16, of.variant.len() as u16, of.db];
    let mut head = [kind.0; 10];
    let mut used = 1;
    if numbers.iter().all(|&number| number < 0x80) {
        for number in numbers {
            head[used] = number as u8;
            used += 1;
        }
    } else {
        for number in numbers {
            used += put_varint(&mut head[used..], number);
        }
    }
    // Of exactly its size: a later shrink would ask the allocator a second time.
    let mut bytes = Vec::with_capacity(used + of.name.len() + of.variant.len() + value.len() + kind.tail_bytes());
    bytes.extend_from_slice(&head[..used]);
    bytes.extend_from_slice(of.name);
    if !of.variant.is_empty() {
        bytes.extend_from_slice(of.variant);
    }
    bytes.extend_from_slice(value);
    if kind.0 & (TIMED | CHAINED) != 0 {
        put_tail(&mut bytes, kind, deadline_ms);
    }
    bytes.into_boxed_slice()
}

#[inline(never)]
fn put_tail(bytes: &mut Vec<u8>, kind: Kind, deadline_ms: u64) {
    if kind.is_timed() {
        bytes.extend_from_slice(&deadline(deadline_ms));
    }
    if kind.is_chained() {
        bytes.extend_from_slice(&NIL.to_le_bytes());
    }
}

fn deadline(ms: u64) -> [u8; DEADLINE_BYTES] {
    let [a, b, c, d, e, ..] = ms.to_le_bytes();
    [a, b, c, d, e]
}

fn put_varint(into: &mut [u8], mut number: u16) -> usize {
    for (i, byte) in into.iter_mut().enumerate() {
        *byte = number as u8 & 0x7f;
        number >>= 7;
        if number == 0 {
            return i + 1;
        }
        *byte |= 0x80;
    }
    into.len()
}

fn varint(bytes: &[u8]) -> (u16, &[u8]) {
    match bytes {
        [a, rest @ ..] if *a < 0x80 => (u16::from(*a), rest),
        [a, b, rest @ ..] if *b < 0x80 => (u16::from(*a & 0x7f) | u16::from(*b) << 7, rest),
        [a, b, c, rest @ ..] => (
            u16::from(*a & 0x7f) | u16::from(*b & 0x7f) << 7 | u16::from(*c) << 14,
            rest,
        ),
        _ => (0, &[]),
    }
}

/// What the `bytes` crate allocates beside the value once it is shared: pointer, capacity, count.
const BYTES_SHARED: usize = 24;

#[cfg(test)]
mod tests;
