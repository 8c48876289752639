//! One cached reply in memory: a slot of 48 bytes and one block of bytes.
//!
//! The block of a small reply is `kind, name length, variant length, database` (a byte, then three varints), `name`,
//! `variant`, `value`. A reply of [`LARGE_BYTES`] or more, or one that is compressed, keeps its value in `Bytes` beside such a
//! block, so that many clients can be sent it without a copy. Times in a slot are milliseconds in 38 bits: after 8.7 years
//! without a restart nothing is cached any more.

use bytes::Bytes;

use super::budget::malloc_bytes;
use super::expiry::Lifetime;
use super::packed::Packed;
use super::{Expiry, Query, View, ViewValue};
use crate::cache::l3::codec::Codec;
use crate::cache::link::LinkId;

/// The end of a list of slots.
pub(super) const NIL: u32 = u32::MAX;

/// From this size on a reference costs less than a copy.
pub(super) const LARGE_BYTES: usize = 2048;

/// A place in the slab: an entry, or free. What a hit looks at comes first, so that it is rarely in two cache lines.
#[repr(C)]
pub(super) struct Slot {
    pub payload: Payload,
    /// The low half of the name's hash. Names of one tag share a chain.
    pub tag: u32,
    /// The filler's epoch when the lease was taken.
    pub epoch: u32,
    pub stamp: Stamp,
    /// The next entry of the same tag; in a free slot the next free one.
    pub chain: u32,
    /// Neighbours in the queue: `newer` towards its head, `older` towards its tail, where eviction looks.
    pub newer: u32,
    pub older: u32,
}

const _: () = assert!(size_of::<Slot>() == 48);

impl Slot {
    pub fn free(next: u32) -> Slot {
        Slot {
            payload: Payload::Small(Box::default()),
            tag: 0,
            epoch: 0,
            chain: next,
            newer: NIL,
            older: NIL,
            stamp: Stamp::default(),
        }
    }

    pub fn is_free(&self) -> bool {
        self.stamp.queue() == Queue::None
    }

    #[inline]
    pub fn view(&self, is_stale: bool) -> View<'_> {
        let block = self.payload.block();
        let kind = block.first().copied().unwrap_or_default();
        let value = match &self.payload {
            Payload::Large(large) if kind & PACKED == 0 => ViewValue::Large(&large.value),
            Payload::Large(large) => ViewValue::Packed {
                codec: codec_of(kind),
                bytes: &large.value,
            },
            Payload::Small(_) if kind & ABSENT != 0 => ViewValue::Absent(value_in(block)),
            Payload::Small(_) => ViewValue::Small(value_in(block)),
        };
        let expiry = match kind & EXPIRY {
            EXPIRY_NEVER => Expiry::Never,
            EXPIRY_AT => Expiry::At(self.stamp.deadline_ms() * 1000),
            _ => Expiry::Unknown,
        };
        View {
            value,
            is_plain: kind & PLAIN != 0,
            is_stale,
            expiry,
            link: self.stamp.link(),
            inserted_us: self.stamp.inserted_ms() * 1000,
        }
    }
}

/// Name and value of an entry. 16 bytes: the large form hides behind the small one's non-null pointer.
pub(super) enum Payload {
    Small(Box<[u8]>),
    Large(Box<Large>),
}

const _: () = assert!(size_of::<Payload>() == 16);

pub(super) struct Large {
    /// As in the small form, with nothing after the variant.
    block: Box<[u8]>,
    value: Bytes,
}

/// What a fill brings, in the form in which it will be kept.
pub(super) enum Body<'a> {
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

/// Which cached reply: a [`Query`] whose parts are known to fit.
#[derive(Clone, Copy)]
pub(super) struct Identity<'a> {
    pub hash: u64,
    pub db: u16,
    pub name: &'a [u8],
    pub variant: &'a [u8],
}

impl<'a> Identity<'a> {
    /// `None`: too long a name or variant, or a database with too high a number, to be cached at all.
    #[inline]
    pub fn of(q: &Query<'a>) -> Option<Identity<'a>> {
        let fits = q.name.len() <= usize::from(u16::MAX) && q.variant.len() <= usize::from(u16::MAX);
        let db = u16::try_from(q.db).ok()?;
        fits.then_some(Identity {
            hash: q.hash,
            db,
            name: q.name,
            variant: q.variant,
        })
    }

    pub fn tag(&self) -> u32 {
        tag(self.hash)
    }
}

/// In the second byte of a variant: the entry keeps a reply together with entries of other names, and is nothing without them.
pub const JOINT: u8 = 0x80;

pub(super) fn is_joint(variant: &[u8]) -> bool {
    variant.get(1).is_some_and(|byte| byte & JOINT != 0)
}

/// The half of a name's hash that an entry keeps; the shard is chosen by the other half.
pub(super) fn tag(hash: u64) -> u32 {
    hash as u32
}

impl Payload {
    pub fn new(of: Identity<'_>, body: Body<'_>, is_plain: bool, lifetime: &Lifetime) -> Payload {
        let kind = kind(is_plain, lifetime);
        match body {
            Body::Absent(frame) => Payload::Small(block(kind | ABSENT, of, frame)),
            Body::Small(value) => Payload::Small(block(kind, of, value)),
            Body::Large(value) => Payload::Large(Box::new(Large {
                block: block(kind, of, &[]),
                value,
            })),
            Body::Packed(packed) => Payload::Large(Box::new(Large {
                block: block(kind | kind_of(packed.codec), of, &[]),
                value: packed.bytes,
            })),
        }
    }

    /// Puts another reply to the same read into the same block. False: it has another length, or is not small.
    pub fn rewrite(&mut self, body: &Body<'_>, is_plain: bool, lifetime: &Lifetime) -> bool {
        let (absent, value) = match body {
            Body::Absent(frame) => (ABSENT, *frame),
            Body::Small(value) => (0, *value),
            Body::Large(_) | Body::Packed(_) => return false,
        };
        let Payload::Small(block) = self else {
            return false;
        };
        let start = block.len() - value_in(block).len();
        if block.len() - start != value.len() {
            return false;
        }
        block[0] = kind(is_plain, lifetime) | absent;
        block[start..].copy_from_slice(value);
        true
    }

    #[inline]
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

    /// The block, and the value if it is not in there.
    pub fn into_parts(self) -> (Box<[u8]>, Option<Bytes>) {
        match self {
            Payload::Small(block) => (block, None),
            Payload::Large(large) => (large.block, Some(large.value)),
        }
    }

    /// Bytes of name, variant and value.
    pub fn data_bytes(&self) -> usize {
        let in_block = match self.block() {
            [_, a, b, c, rest @ ..] if (a | b | c) & 0x80 == 0 => rest.len(),
            block => {
                let head = Head::of(block);
                head.name.len() + head.variant.len() + head.rest.len()
            }
        };
        match self {
            Payload::Small(_) => in_block,
            Payload::Large(large) => in_block + large.value.len(),
        }
    }

    pub fn codec(&self) -> Codec {
        codec_of(self.block().first().copied().unwrap_or_default())
    }

    /// Bytes of the value alone, as it is kept.
    pub fn value_bytes(&self) -> usize {
        match self {
            Payload::Small(block) => Head::of(block).rest.len(),
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
pub(super) struct Head<'a> {
    kind: u8,
    pub db: u16,
    pub name: &'a [u8],
    pub variant: &'a [u8],
    /// The value, if it is in the block.
    rest: &'a [u8],
}

impl<'a> Head<'a> {
    #[inline]
    fn of(block: &'a [u8]) -> Head<'a> {
        let (kind, [name_len, variant_len, db], rest) = match block {
            [kind, a, b, c, rest @ ..] if (a | b | c) & 0x80 == 0 => (*kind, [*a, *b, *c].map(u16::from), rest),
            _ => Head::lengths(block),
        };
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

    /// Kind, the three numbers, and what follows them.
    #[cold]
    fn lengths(block: &'a [u8]) -> (u8, [u16; 3], &'a [u8]) {
        let Some((&kind, rest)) = block.split_first() else {
            return (0, [0; 3], &[]);
        };
        let (name_len, rest) = varint(rest);
        let (variant_len, rest) = varint(rest);
        let (db, rest) = varint(rest);
        (kind, [name_len, variant_len, db], rest)
    }

    pub fn is_absent(&self) -> bool {
        self.kind & ABSENT != 0
    }

    /// Bytes of name, variant and value, which end the block.
    pub fn bytes(&self) -> usize {
        self.name.len() + self.variant.len() + self.rest.len()
    }

    fn is_of(&self, of: Identity<'_>) -> bool {
        self.db == of.db && self.name == of.name && self.variant == of.variant
    }
}

/// The first byte of a block, of what is there as it is.
fn kind(is_plain: bool, lifetime: &Lifetime) -> u8 {
    let expiry = match lifetime.expiry {
        Expiry::Never => EXPIRY_NEVER,
        Expiry::At(_) => EXPIRY_AT,
        Expiry::Unknown => EXPIRY_UNKNOWN,
    };
    if is_plain { expiry | PLAIN } else { expiry }
}

/// What follows name and variant.
#[inline]
fn value_in(block: &[u8]) -> &[u8] {
    match block {
        [_, a, b, c, rest @ ..] if (a | b | c) & 0x80 == 0 => {
            rest.get(usize::from(*a) + usize::from(*b)..).unwrap_or_default()
        }
        _ => Head::of(block).rest,
    }
}

fn block(kind: u8, of: Identity<'_>, value: &[u8]) -> Box<[u8]> {
    let numbers = [of.name.len() as u16, of.variant.len() as u16, of.db];
    let mut head = [kind; 10];
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
    let mut bytes = Vec::with_capacity(used + of.name.len() + of.variant.len() + value.len());
    bytes.extend_from_slice(&head[..used]);
    bytes.extend_from_slice(of.name);
    if !of.variant.is_empty() {
        bytes.extend_from_slice(of.variant);
    }
    bytes.extend_from_slice(value);
    bytes.into_boxed_slice()
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

fn kind_of(codec: Codec) -> u8 {
    match codec {
        Codec::Plain => 0,
        Codec::Lz4 => PACKED_LZ4,
        Codec::Zstd => PACKED_ZSTD,
    }
}

fn codec_of(kind: u8) -> Codec {
    match kind & PACKED {
        PACKED_LZ4 => Codec::Lz4,
        PACKED_ZSTD => Codec::Zstd,
        _ => Codec::Plain,
    }
}

/// What the `bytes` crate allocates beside the value once it is shared: pointer, capacity, count.
const BYTES_SHARED: usize = 24;

/// Where an entry waits for its eviction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Queue {
    /// Free slots only.
    None,
    Small,
    Main,
}

/// Deadline, time of insert, filler, frequency and queue in 96 bits.
#[derive(Clone, Copy, Default)]
#[repr(C)]
pub(super) struct Stamp {
    deadline_low: u32,
    /// link 16, high bits of the deadline 6, of the time of insert 6, frequency 2, queue 2.
    rest: u32,
    inserted_low: u32,
}

/// One more than the last time that a slot can hold, and the deadline of what has none.
pub(super) const END_OF_TIME_MS: u64 = (1 << 38) - 1;

pub(super) const MAX_FREQUENCY: u8 = 3;

impl Stamp {
    pub fn new(lifetime: &Lifetime, link: LinkId, queue: Queue, frequency: u8) -> Stamp {
        let (deadline, inserted) = (
            lifetime.deadline_ms.min(END_OF_TIME_MS),
            lifetime.inserted_ms.min(END_OF_TIME_MS),
        );
        let mut stamp = Stamp {
            deadline_low: deadline as u32,
            inserted_low: inserted as u32,
            rest: u32::from(link.index()) | ((deadline >> 32) as u32) << 16 | ((inserted >> 32) as u32) << 22,
        };
        stamp.set_queue(queue);
        stamp.set_frequency(frequency);
        stamp
    }

    #[inline]
    pub fn deadline_ms(&self) -> u64 {
        u64::from(self.rest >> 16 & 0x3f) << 32 | u64::from(self.deadline_low)
    }

    /// `None`: it has no deadline.
    pub fn deadline_us(&self) -> Option<u64> {
        Some(self.deadline_ms())
            .filter(|&ms| ms < END_OF_TIME_MS)
            .map(|ms| ms * 1000)
    }

    #[inline]
    pub fn inserted_ms(&self) -> u64 {
        u64::from(self.rest >> 22 & 0x3f) << 32 | u64::from(self.inserted_low)
    }

    #[inline]
    pub fn link(&self) -> LinkId {
        LinkId::from_index(self.rest as u16)
    }

    #[inline]
    pub fn frequency(&self) -> u8 {
        (self.rest >> 28 & 3) as u8
    }

    #[inline]
    pub fn set_frequency(&mut self, frequency: u8) {
        self.rest = self.rest & !(3 << 28) | u32::from(frequency.min(MAX_FREQUENCY)) << 28;
    }

    pub fn queue(&self) -> Queue {
        match self.rest >> 30 {
            1 => Queue::Small,
            2 => Queue::Main,
            _ => Queue::None,
        }
    }

    pub fn set_queue(&mut self, queue: Queue) {
        let bits = match queue {
            Queue::None => 0,
            Queue::Small => 1,
            Queue::Main => 2,
        };
        self.rest = self.rest & !(3 << 30) | bits << 30;
    }
}

#[cfg(test)]
mod tests;
