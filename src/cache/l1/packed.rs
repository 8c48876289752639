//! Compressed values of L1. They are compressed where they come in, by the thread that brings them and before a lock is taken,
//! and unpacked by the one that shows them, after the lock was given back; both are workers, on which everything else waits
//! meanwhile. So values of more than [`MOST_PACKED_BYTES`] are kept as they are.
//!
//! A compressed value is what [`codec`] makes of it, which begins with its length: that is known without unpacking.

use std::cell::RefCell;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use bytes::Bytes;

use super::entry::{Body, LARGE_BYTES};
use super::{Expiry, L1, Value, View, ViewValue};
use crate::cache::l3::codec::{self, Codec, Compression, Compressor, Method};
use crate::cache::link::LinkId;

/// Larger values are not compressed: about 0.2 ms of a worker's time at 300 MB/s.
pub const MOST_PACKED_BYTES: usize = 64 << 10;

/// What is compressed of one answer: about 7 ms.
const MOST_AT_ONCE_BYTES: usize = 2 << 20;

/// A compressed value.
#[derive(Clone, Debug)]
pub struct Packed {
    pub(super) codec: Codec,
    pub(super) bytes: Bytes,
}

impl Packed {
    /// Of the value as it is shown.
    pub fn shown_bytes(&self) -> usize {
        codec::shown_bytes(self.codec, &self.bytes).unwrap_or_default()
    }

    /// The value as it is shown, a copy. `None`: it is not what was compressed.
    pub fn unpack(&self) -> Option<Bytes> {
        codec::decompress(self.codec, &self.bytes).ok().map(Bytes::from)
    }
}

impl ViewValue<'_> {
    /// `None`: it is not compressed.
    #[inline]
    pub fn packed(&self) -> Option<Packed> {
        match *self {
            ViewValue::Packed { codec, bytes } => Some(Packed {
                codec,
                bytes: bytes.clone(),
            }),
            _ => None,
        }
    }
}

/// What values are compressed with, and what came of it.
pub(super) struct Packing {
    compression: Option<Compression>,
    pub zstd: AtomicU64,
    pub lz4: AtomicU64,
    pub not: AtomicU64,
    pub from_bytes: AtomicU64,
    pub to_bytes: AtomicU64,
}

thread_local! {
    /// Of a worker, and for what it was made.
    static COMPRESSOR: RefCell<Option<(Method, Compressor)>> = const { RefCell::new(None) };
}

impl Packing {
    pub fn new(compression: Option<Compression>) -> Packing {
        let zero = || AtomicU64::new(0);
        Packing {
            compression,
            zstd: zero(),
            lz4: zero(),
            not: zero(),
            from_bytes: zero(),
            to_bytes: zero(),
        }
    }

    /// Whether a value of this size is compressed.
    fn packs(&self, compression: Compression, bytes: usize) -> bool {
        (compression.from_bytes..=MOST_PACKED_BYTES).contains(&bytes)
    }

    /// Whether there is time to compress a value of this size as well, of several that are kept in one go.
    pub fn has_time_for(&self, bytes: usize, packed_bytes: &mut usize) -> bool {
        if !self
            .compression
            .is_some_and(|compression| self.packs(compression, bytes))
        {
            return true;
        }
        *packed_bytes += bytes;
        *packed_bytes <= MOST_AT_ONCE_BYTES
    }

    /// `None`: it is to be kept as it is.
    #[inline]
    pub fn pack(&self, value: &[u8]) -> Option<Packed> {
        let compression = self.compression?;
        self.packs(compression, value.len())
            .then(|| self.compress(compression, value))?
    }

    fn compress(&self, compression: Compression, value: &[u8]) -> Option<Packed> {
        let packed = COMPRESSOR.with_borrow_mut(|kept| {
            if kept.as_ref().is_none_or(|(method, _)| *method != compression.method) {
                *kept = Some((compression.method, Compressor::new(Some(compression))));
            }
            let (codec, bytes) = kept.as_mut()?.1.compress(value)?;
            Some(Packed {
                codec,
                bytes: Bytes::copy_from_slice(bytes),
            })
        });
        let count = match packed.as_ref().map(|packed| packed.codec) {
            Some(Codec::Zstd) => &self.zstd,
            Some(Codec::Lz4) => &self.lz4,
            Some(Codec::Plain) | None => &self.not,
        };
        count.fetch_add(1, Relaxed);
        let to_bytes = packed.as_ref().map_or(value.len(), |packed| packed.bytes.len());
        self.from_bytes.fetch_add(value.len() as u64, Relaxed);
        self.to_bytes.fetch_add(to_bytes as u64, Relaxed);
        packed
    }
}

impl<F> L1<F> {
    pub(super) fn body<'a>(&self, value: &'a Value<'_>) -> Body<'a> {
        match value {
            Value::Absent(frame) => Body::Absent(frame),
            Value::Bytes(bytes) => self.body_of_bytes(bytes),
            Value::Shared(bytes) => match self.pack(bytes) {
                Some(packed) => Body::Packed(packed),
                None if self.is_kept_by_reference(bytes) => Body::Large(bytes.clone()),
                None => Body::Small(bytes),
            },
        }
    }

    pub(super) fn body_of_bytes<'a>(&self, bytes: &'a [u8]) -> Body<'a> {
        match self.pack(bytes) {
            Some(packed) => Body::Packed(packed),
            None if self.is_kept_by_reference(bytes) => Body::Large(Bytes::copy_from_slice(bytes)),
            None => Body::Small(bytes),
        }
    }

    fn pack(&self, value: &[u8]) -> Option<Packed> {
        // What is too large to be kept at all is only measured.
        match value.len() <= self.rules.config.max_value_bytes {
            true => self.packing.pack(value),
            false => None,
        }
    }

    /// Not what is too large to be kept at all: that is only measured.
    pub(super) fn is_kept_by_reference(&self, bytes: &[u8]) -> bool {
        (LARGE_BYTES..=self.rules.config.max_value_bytes).contains(&bytes.len())
    }
}

/// A view of a compressed value, for when the lock is given back.
pub(super) struct Later {
    packed: Packed,
    is_plain: bool,
    is_stale: bool,
    expiry: Expiry,
    link: LinkId,
    inserted_us: u64,
}

impl Later {
    /// `None`: the view can be shown as it is.
    #[inline]
    pub fn of(view: &View<'_>) -> Option<Later> {
        match view.value {
            ViewValue::Packed { codec, bytes } => Some(Later {
                packed: Packed {
                    codec,
                    bytes: bytes.clone(),
                },
                is_plain: view.is_plain,
                is_stale: view.is_stale,
                expiry: view.expiry,
                link: view.link,
                inserted_us: view.inserted_us,
            }),
            _ => None,
        }
    }

    pub fn show<R>(self, on_hit: impl FnOnce(View<'_>) -> R) -> Option<R> {
        let value = self.packed.unpack()?;
        Some(on_hit(View {
            value: ViewValue::Large(&value),
            is_plain: self.is_plain,
            is_stale: self.is_stale,
            expiry: self.expiry,
            link: self.link,
            inserted_us: self.inserted_us,
        }))
    }
}
