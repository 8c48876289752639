//! Compression of values, one by one: written by the writer's thread, undone by the readers'. L1 keeps values in the same form,
//! and what it spills is written as it is.
//!
//! A compressed value begins with its length before, a u32 in little-endian order; a value is compressed only if that spares an
//! eighth of it. What a record says of its codec is all that is needed to read it, so the settings may change at any time.

use std::cell::RefCell;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use lz4_flex::block::{CompressTable, compress_into_with_table, get_maximum_output_size};
use zeroize::Zeroize;

use super::Counters;
use super::format::{Damage, MAX_VALUE_BYTES, Record};

/// How the value of a record is kept.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Codec {
    Plain,
    Zstd,
    Lz4,
}

impl Codec {
    pub const ALL: [Codec; 3] = [Codec::Plain, Codec::Zstd, Codec::Lz4];

    pub fn name(self) -> &'static str {
        match self {
            Codec::Plain => "none",
            Codec::Zstd => "zstd",
            Codec::Lz4 => "lz4",
        }
    }
}

/// What new records are compressed with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Compression {
    pub method: Method,
    /// Smaller values are left alone.
    pub from_bytes: usize,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Method {
    /// The level, 1 to 19.
    Zstd(i32),
    Lz4,
}

/// Bytes before a compressed value.
const PREFIX_BYTES: usize = 4;

/// Compresses one value after another.
pub(in crate::cache) struct Compressor {
    method: Engine,
    from_bytes: usize,
    output: Vec<u8>,
}

enum Engine {
    None,
    Zstd(zstd::bulk::Compressor<'static>),
    Lz4(CompressTable),
}

impl Compressor {
    pub fn new(compression: Option<Compression>) -> Compressor {
        let method = match compression.map(|compression| compression.method) {
            None => Engine::None,
            Some(Method::Lz4) => Engine::Lz4(CompressTable::default()),
            // Only without memory it fails.
            Some(Method::Zstd(level)) => zstd::bulk::Compressor::new(level).map_or(Engine::None, Engine::Zstd),
        };
        Compressor {
            method,
            from_bytes: compression.map_or(usize::MAX, |compression| compression.from_bytes),
            output: Vec::new(),
        }
    }

    /// The record, with its value compressed where that helps and it is not yet; what came of it is counted.
    pub(super) fn pack<'a>(&'a mut self, record: Record<'a>, counters: &Counters) -> Record<'a> {
        if record.codec != Codec::Plain || !self.takes(record.value) {
            return record;
        }
        let begun = Instant::now();
        let value = record.value;
        let packed = self.compress(value);
        let count = match packed {
            Some((Codec::Zstd, _)) => &counters.compressed_zstd,
            Some((Codec::Lz4, _)) => &counters.compressed_lz4,
            _ => &counters.compressed_not,
        };
        count.fetch_add(1, Relaxed);
        let (codec, stored) = packed.unwrap_or((Codec::Plain, value));
        counters
            .compress_ns
            .fetch_add(begun.elapsed().as_nanos() as u64, Relaxed);
        counters.compress_from_bytes.fetch_add(value.len() as u64, Relaxed);
        counters.compress_to_bytes.fetch_add(stored.len() as u64, Relaxed);
        Record {
            codec,
            value: stored,
            ..record
        }
    }

    /// Whether it is worth a try.
    fn takes(&self, value: &[u8]) -> bool {
        value.len() >= self.from_bytes && value.len() <= MAX_VALUE_BYTES
    }

    /// `None`: it does not get smaller by an eighth.
    pub(in crate::cache) fn compress(&mut self, value: &[u8]) -> Option<(Codec, &[u8])> {
        let most = (value.len() - value.len() / 8).checked_sub(PREFIX_BYTES)?;
        let length = u32::try_from(value.len()).ok()?;
        let room = match &self.method {
            Engine::Lz4(_) => get_maximum_output_size(value.len()),
            // What needs more than that is given up on the way.
            _ => most,
        };
        if self.output.len() < PREFIX_BYTES + room {
            self.output.resize(PREFIX_BYTES + room, 0);
        }
        let (prefix, into) = self.output[..PREFIX_BYTES + room].split_at_mut(PREFIX_BYTES);
        prefix.copy_from_slice(&length.to_le_bytes());
        let (codec, bytes) = match &mut self.method {
            Engine::None => return None,
            Engine::Zstd(zstd) => (Codec::Zstd, zstd.compress_to_buffer(value, into).ok()?),
            Engine::Lz4(table) => (Codec::Lz4, compress_into_with_table(value, into, table).ok()?),
        };
        (bytes <= most).then(|| (codec, &self.output[..PREFIX_BYTES + bytes]))
    }

    /// Leaves nothing of any value behind.
    pub fn wipe(&mut self) {
        self.output.zeroize();
    }
}

/// The length of a value as it is shown.
///
/// # Errors
/// It claims to be longer than any value may be.
pub fn shown_bytes(codec: Codec, stored: &[u8]) -> Result<usize, Damage> {
    if codec == Codec::Plain {
        return Ok(stored.len());
    }
    let (prefix, _) = stored.split_first_chunk::<PREFIX_BYTES>().ok_or(Damage::Field)?;
    let length = u32::from_le_bytes(*prefix) as usize;
    if length > MAX_VALUE_BYTES {
        return Err(Damage::Field);
    }
    Ok(length)
}

/// The value as it is shown, of a compressed one. Never takes more memory than the length that it states, nor than a value may
/// have.
///
/// # Errors
/// It is not what a compressor gave, or not of that length.
pub fn decompress(codec: Codec, stored: &[u8]) -> Result<Vec<u8>, Damage> {
    let length = shown_bytes(codec, stored)?;
    let compressed = stored.get(PREFIX_BYTES..).unwrap_or_default();
    let value = match codec {
        Codec::Plain => stored.to_vec(),
        Codec::Zstd => unpack_zstd(compressed, length).ok_or(Damage::Compression)?,
        Codec::Lz4 => {
            let mut value = vec![0; length];
            let bytes = lz4_flex::block::decompress_into(compressed, &mut value).map_err(|_| Damage::Compression)?;
            value.truncate(bytes);
            value
        }
    };
    if value.len() != length {
        return Err(Damage::Compression);
    }
    Ok(value)
}

thread_local! {
    /// Of a reader; making one costs more than most values do.
    static UNPACK: RefCell<Option<zstd::bulk::Decompressor<'static>>> = const { RefCell::new(None) };
}

fn unpack_zstd(compressed: &[u8], length: usize) -> Option<Vec<u8>> {
    UNPACK.with_borrow_mut(|kept| {
        if kept.is_none() {
            *kept = zstd::bulk::Decompressor::new().ok();
        }
        let mut value = Vec::with_capacity(length);
        kept.as_mut()?.decompress_to_buffer(compressed, &mut value).ok()?;
        Some(value)
    })
}

#[cfg(test)]
mod tests;
