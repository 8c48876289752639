//! The segment file, version 2: what is on the disk, byte by byte. All numbers are little-endian; times are milliseconds of
//! the Unix clock; 0 where nothing is said.
//!
//! ```text
//! segment  = header, records, [footer]           name: "NNNNNNNNNNNNNNNN.seg", its sequence in 16 hexadecimal digits
//!
//! header   96 B   0 magic "NCL3SEG\n"   8 version u32 = 2   12 salt 12 B: drawn for this segment if it is encrypted
//!                24 sequence u64: segments are ordered by it, and it is never used twice
//!                32 created u64   40 nonce u64: drawn for this segment, seed of every other checksum in it
//!                48 key u64: which key it is encrypted with, see [`KeyId`]; 0: it is not encrypted
//!                56 seed u64: of the hash of names, one for a directory
//!                64 probe u64: the hash of [`PROBE`] under that seed, and what the entries are of (upstream, command numbers); another one means others
//!                72 tag 16 B   88 checksum u64 of bytes 0..88, seed 0
//!
//! record          at a multiple of 16, padded with zeros to one
//!                 0 checksum u64 of bytes 8..length, seed: the nonce   8 length u32, without padding
//!                12 kind u8: 1 entry, 2 tombstone, 3 tombstone of everything   13 flags u8   14 class u16
//!                16 hash u64 of the name (kind 3: 0)   24 filled u64   32 expires u64 (u64::MAX: never)
//!                40 name length u16   42 variant length u16   44 database u16   46 reserved u16 = 0
//!                48 name, variant, value (kinds 2 and 3: nothing)   then, if it is encrypted, tag 16 B
//!
//! flags           bit 0: the key is absent, the value is the frame that says so   bit 1: the same bytes in RESP2
//!                 bits 2-3: the key itself 0 never ends, 1 ends when the record expires, 2 ends at an unknown time
//!                 bits 4-5: the value is 0 as it is, 1 compressed with zstd, 2 with LZ4 (block); compressed ones begin with
//!                 their length before, u32
//!                 a record with any other bit is not understood, and so not used
//! class           which commands the value answers: 0 one that the variant alone tells
//!
//! footer          rows, then the trailer, which ends the file
//! row      24 B   0 hash u64   8 offset u32 of the record   12 length u32   16 expires u32, seconds, rounded up (u32::MAX: never)
//!                20 identity u16: of database and variant, see [`identity_tag`]   22 kind u8   23 reserved u8 = 0
//! trailer  72 B   0 magic "NCL3END\n"   8 rows u32   12 tombstones u32, rows of kinds 2 and 3
//!                16 offset u64 of the first row, which is where the records end
//!                24 salt 12 B: drawn for this footer if it is encrypted   36 reserved u32 = 0   40 tag 16 B
//!                56 checksum u64 of all rows, seed: the nonce   64 checksum u64 of bytes 0..64, seed: the nonce
//!
//! encrypted       with AES-256-GCM, see [`super::envelope`] for keys and nonces; checksums are of the encrypted bytes
//!                 header: bytes 56..72; beside them, not to be changed either, bytes 0..56
//!                 record: what is behind its length, up to the tag; beside it the length, and by the nonce the offset
//!                 footer: the rows; beside them the sequence, the header's salt, and bytes 0..24 of the trailer
//!                 To be seen remain: sequence, times of segments, key ids; how many records there are, and the length of each.
//! ```
//!
//! Invariants
//! - A file is written from its start to its end once and never changed, but for a torn tail that recovery cuts off.
//! - Of two records with one identity (name, database, variant) the one of the higher sequence, then of the higher offset,
//!   counts. A tombstone undoes all records before it whose name has its hash; that of everything, all before it.
//! - So a segment with tombstones is removed only after all older ones.
//! - A footer names every record, in the order in which they are in the file.
//! - Another version is refused, version 1 too (it had neither keys nor codecs); so is a segment whose key is not given. Nothing
//!   is changed then.
//!
//! Assumed of the medium: what was written before a completed `fsync` of the file stays, and the file's name stays once
//! the directory was synced, too. What was not synced may be lost, in part and in any order, sector by sector, and a
//! removed file may be there again. Bits may flip anywhere: every byte but the padding is under a checksum of 64 bits
//! (XXH3), seeded so that a stale block of another segment does not pass for one of this. Who can write to the medium on
//! purpose can put older segments of the same key back, whole; everything else of an encrypted segment is seen by its tags.

pub(super) mod numbers;

use std::io;

use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::codec::Codec;
use super::envelope::{Envelope, TAG_BYTES};
use super::keys::{KeyId, KeyRing, SALT_BYTES, Salt};
use numbers::{number_at, put_u16, put_u32, put_u64, u16_at, u32_at, u64_at};

pub const VERSION: u32 = 2;
pub const HEADER_BYTES: usize = 96;
pub const RECORD_HEAD_BYTES: usize = 48;
pub const ROW_BYTES: usize = 24;
pub const TRAILER_BYTES: usize = 72;
/// Records begin at multiples of this.
pub const ALIGN: usize = 16;
/// Offsets of records must fit the index.
pub const MAX_SEGMENT_BYTES: u64 = 64 << 20;
/// No value is longer, compressed or not.
pub const MAX_VALUE_BYTES: usize = MAX_SEGMENT_BYTES as usize / 4;
/// What [`Header::probe`] is the hash of.
pub const PROBE: &[u8] = b"nearcache: are names hashed as they were?";
/// `expires` of what does not expire.
pub const NEVER: u64 = u64::MAX;

const MAGIC: &[u8; 8] = b"NCL3SEG\n";
const TRAILER_MAGIC: &[u8; 8] = b"NCL3END\n";

/// Why bytes are not what they should be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Damage {
    /// The file or the record is shorter than it says.
    Short,
    Magic,
    Checksum,
    /// A field has a value that no writer gives it, under a checksum that fits.
    Field,
    /// Written by another version of the program.
    Version(u32),
    /// Encrypted with a key that was not given.
    Key(KeyId),
    /// It was encrypted for another place, or changed by somebody who computes checksums.
    Tag,
    /// The value does not give what its length says.
    Compression,
}

impl std::fmt::Display for Damage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Damage::Short => f.write_str("it ends too early"),
            Damage::Magic => f.write_str("the magic number is not there"),
            Damage::Checksum => f.write_str("the checksum does not fit"),
            Damage::Field => f.write_str("a field has an impossible value"),
            Damage::Key(id) => write!(f, "it is encrypted with the key {id}, which was not given"),
            Damage::Tag => f.write_str("it was changed since it was encrypted"),
            Damage::Compression => f.write_str("it cannot be decompressed"),
            Damage::Version(version) => write!(f, "it has version {version}, and this program knows version {VERSION}"),
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Header {
    pub sequence: u64,
    pub created_ms: u64,
    pub nonce: u64,
    pub salt: Salt,
    /// `None`: in plain.
    pub key: Option<KeyId>,
    pub seed: u64,
    pub probe: u64,
}

/// Where the secrets of a header begin and end.
const SECRETS_AT: usize = 56;
const SECRETS_END: usize = 72;

impl Header {
    /// What guards the segment.
    ///
    /// # Errors
    /// [`Damage::Key`]: there is no such key.
    pub fn envelope(&self, keys: &KeyRing) -> Result<Envelope, Damage> {
        match self.key {
            None => Ok(Envelope::plain(self.nonce)),
            Some(id) => {
                let key = keys.find(id).ok_or(Damage::Key(id))?;
                Ok(Envelope::locked(self.nonce, self.sequence, self.salt, key))
            }
        }
    }

    /// The envelope is that of this header.
    pub fn encode(&self, envelope: &Envelope) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[..8].copy_from_slice(MAGIC);
        put_u32(&mut bytes, 8, VERSION);
        bytes[12..24].copy_from_slice(&self.salt);
        for (at, number) in [
            (24, self.sequence),
            (32, self.created_ms),
            (40, self.nonce),
            (48, self.key.map_or(0, |key| key.0)),
            (56, self.seed),
            (64, self.probe),
        ] {
            put_u64(&mut bytes, at, number);
        }
        let (clear, secrets) = bytes.split_at_mut(SECRETS_AT);
        let tag = envelope.lock_header(clear, &mut secrets[..SECRETS_END - SECRETS_AT]);
        bytes[SECRETS_END..88].copy_from_slice(&tag);
        let sum = xxh3_64_with_seed(&bytes[..88], 0);
        put_u64(&mut bytes, 88, sum);
        bytes
    }

    /// The header, and what guards the segment.
    ///
    /// # Errors
    /// A version that is not known is told from damage only where the magic number is right; a key that is not, only where
    /// the checksum is.
    pub fn decode(bytes: &[u8], keys: &KeyRing) -> Result<(Header, Envelope), Damage> {
        if bytes.len() < 12 {
            return Err(Damage::Short);
        }
        if &bytes[..8] != MAGIC {
            return Err(Damage::Magic);
        }
        let version = u32_at(bytes, 8);
        if version != VERSION {
            // Not even where the checksum is belongs to what is known of another version.
            return Err(Damage::Version(version));
        }
        let mut bytes: [u8; HEADER_BYTES] = *bytes.first_chunk().ok_or(Damage::Short)?;
        if u64_at(&bytes, 88) != xxh3_64_with_seed(&bytes[..88], 0) {
            return Err(Damage::Checksum);
        }
        let mut header = Header {
            sequence: u64_at(&bytes, 24),
            created_ms: u64_at(&bytes, 32),
            nonce: u64_at(&bytes, 40),
            salt: number_at(&bytes, 12).unwrap_or([0; SALT_BYTES]),
            key: Some(KeyId(u64_at(&bytes, 48))).filter(|id| id.0 != 0),
            seed: 0,
            probe: 0,
        };
        let envelope = header.envelope(keys)?;
        let (clear, rest) = bytes.split_at_mut(SECRETS_AT);
        let (secrets, rest) = rest.split_at_mut(SECRETS_END - SECRETS_AT);
        envelope.unlock_header(clear, secrets, rest.first_chunk().ok_or(Damage::Short)?)?;
        (header.seed, header.probe) = (u64_at(secrets, 0), u64_at(secrets, 8));
        Ok((header, envelope))
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    Entry,
    Tombstone,
    TombstoneOfAll,
}

impl Kind {
    fn from_byte(byte: u8) -> Option<Kind> {
        match byte {
            1 => Some(Kind::Entry),
            2 => Some(Kind::Tombstone),
            3 => Some(Kind::TombstoneOfAll),
            _ => None,
        }
    }

    fn byte(self) -> u8 {
        match self {
            Kind::Entry => 1,
            Kind::Tombstone => 2,
            Kind::TombstoneOfAll => 3,
        }
    }
}

/// When the key itself ends, which is not always when the copy does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum KeyEnd {
    Never,
    /// When the record expires.
    WithRecord,
    Unknown,
}

/// A record as it is in a buffer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Record<'a> {
    pub kind: Kind,
    pub is_absent: bool,
    pub is_plain: bool,
    pub key_end: KeyEnd,
    pub class: u16,
    pub hash: u64,
    pub filled_ms: u64,
    /// [`NEVER`]: it does not.
    pub expires_ms: u64,
    pub db: u16,
    pub name: &'a [u8],
    pub variant: &'a [u8],
    pub codec: Codec,
    /// As the codec gave it.
    pub value: &'a [u8],
}

const ABSENT: u8 = 1;
const PLAIN: u8 = 2;
const KEY_END: u8 = 0b1100;
const CODEC: u8 = 0b11_0000;

impl<'a> Record<'a> {
    pub fn tombstone(hash: u64) -> Record<'static> {
        Record {
            kind: Kind::Tombstone,
            hash,
            ..Record::tombstone_of_all()
        }
    }

    pub fn tombstone_of_all() -> Record<'static> {
        Record {
            kind: Kind::TombstoneOfAll,
            is_absent: false,
            is_plain: false,
            key_end: KeyEnd::Never,
            class: 0,
            hash: 0,
            filled_ms: 0,
            expires_ms: NEVER,
            db: 0,
            name: b"",
            variant: b"",
            codec: Codec::Plain,
            value: b"",
        }
    }

    /// Without padding, and without what encryption adds: see [`Envelope::length`].
    pub fn length(&self) -> usize {
        RECORD_HEAD_BYTES + self.name.len() + self.variant.len() + self.value.len()
    }

    /// Appends the record, as it is to be at `offset`, and its padding. `None`, with nothing appended: a part is too long.
    pub fn encode(&self, envelope: &Envelope, offset: u64, out: &mut Vec<u8>) -> Option<()> {
        let length = envelope.length(self);
        let announced = u32::try_from(length).ok()?;
        let (name_len, variant_len) = (
            u16::try_from(self.name.len()).ok()?,
            u16::try_from(self.variant.len()).ok()?,
        );
        let mut head = [0; RECORD_HEAD_BYTES];
        put_u32(&mut head, 8, announced);
        head[12] = self.kind.byte();
        let key_end = match self.key_end {
            KeyEnd::Never => 0,
            KeyEnd::WithRecord => 1 << 2,
            KeyEnd::Unknown => 2 << 2,
        };
        let codec = match self.codec {
            Codec::Plain => 0,
            Codec::Zstd => 1 << 4,
            Codec::Lz4 => 2 << 4,
        };
        head[13] = (u8::from(self.is_absent) * ABSENT) | (u8::from(self.is_plain) * PLAIN) | key_end | codec;
        put_u16(&mut head, 14, self.class);
        put_u64(&mut head, 16, self.hash);
        put_u64(&mut head, 24, self.filled_ms);
        put_u64(&mut head, 32, self.expires_ms);
        put_u16(&mut head, 40, name_len);
        put_u16(&mut head, 42, variant_len);
        put_u16(&mut head, 44, self.db);
        let start = out.len();
        // At once: a block that is outgrown would keep what is not encrypted yet.
        out.reserve(padded(length));
        for part in [&head, self.name, self.variant, self.value] {
            out.extend_from_slice(part);
        }
        let (clear, body) = out[start + 8..].split_at_mut(4);
        if let Some(tag) = envelope.lock_record(offset, clear, body) {
            out.extend_from_slice(&tag);
        }
        let sum = xxh3_64_with_seed(&out[start + 8..], envelope.nonce());
        put_u64(out, start, sum);
        out.resize(start + padded(length), 0);
        Some(())
    }

    /// Reads the record at the start of `bytes`, of which there may be more, and which were read at `offset`. An encrypted one is
    /// decrypted where it is; so it can be read once.
    ///
    /// # Errors
    /// What is wrong with it; the bytes are as they were. Nothing that is returned has been taken from bytes that no checksum
    /// vouches for.
    pub fn decode(bytes: &'a mut [u8], envelope: &Envelope, offset: u64) -> Result<Record<'a>, Damage> {
        let length = Record::announced_length(bytes).ok_or(Damage::Short)?;
        let bytes = bytes.get_mut(..length).ok_or(Damage::Short)?;
        if length < RECORD_HEAD_BYTES + envelope.record_extra_bytes() {
            return Err(Damage::Field);
        }
        if u64_at(bytes, 0) != xxh3_64_with_seed(&bytes[8..], envelope.nonce()) {
            return Err(Damage::Checksum);
        }
        let (head, body) = bytes.split_at_mut(12);
        let body_bytes = envelope.unlock_record(offset, &head[8..], body)?.len();
        Record::parse(&bytes[..12 + body_bytes])
    }

    fn parse(bytes: &'a [u8]) -> Result<Record<'a>, Damage> {
        let kind = Kind::from_byte(bytes[12]).ok_or(Damage::Field)?;
        let flags = bytes[13];
        let key_end = match (flags & KEY_END) >> 2 {
            0 => KeyEnd::Never,
            1 => KeyEnd::WithRecord,
            2 => KeyEnd::Unknown,
            _ => return Err(Damage::Field),
        };
        let codec = match (flags & CODEC) >> 4 {
            0 => Codec::Plain,
            1 => Codec::Zstd,
            2 => Codec::Lz4,
            _ => return Err(Damage::Field),
        };
        if flags & !(ABSENT | PLAIN | KEY_END | CODEC) != 0 || u16_at(bytes, 46) != 0 {
            return Err(Damage::Field);
        }
        let rest = &bytes[RECORD_HEAD_BYTES..];
        let (name, rest) = rest.split_at_checked(u16_at(bytes, 40).into()).ok_or(Damage::Field)?;
        let (variant, value) = rest.split_at_checked(u16_at(bytes, 42).into()).ok_or(Damage::Field)?;
        Ok(Record {
            kind,
            is_absent: flags & ABSENT != 0,
            is_plain: flags & PLAIN != 0,
            key_end,
            class: u16_at(bytes, 14),
            hash: u64_at(bytes, 16),
            filled_ms: u64_at(bytes, 24),
            expires_ms: u64_at(bytes, 32),
            db: u16_at(bytes, 44),
            name,
            variant,
            codec,
            value,
        })
    }

    /// Whether a record may begin here, by what no writer does and without a look at its checksum.
    pub fn may_begin(bytes: &[u8], envelope: &Envelope) -> bool {
        let least = RECORD_HEAD_BYTES + envelope.record_extra_bytes();
        let most = least + 2 * usize::from(u16::MAX) + MAX_VALUE_BYTES;
        let length = Record::announced_length(bytes).filter(|length| (least..=most).contains(length));
        let Some((record, behind)) = length.and_then(|length| bytes.split_at_checked(length)) else {
            return false;
        };
        let padding = padded(record.len()) - record.len();
        behind.iter().take(padding).all(|&byte| byte == 0)
            && (envelope.key_id().is_some() || Record::parse(record).is_ok())
    }

    /// The length that a record claims, unchecked. `None`: there is not even that.
    pub fn announced_length(bytes: &[u8]) -> Option<usize> {
        (bytes.len() >= 12).then(|| u32_at(bytes, 8) as usize)
    }

    /// The row that a footer has for this record.
    pub fn row(&self, envelope: &Envelope, offset: u32) -> Row {
        Row {
            hash: self.hash,
            offset,
            length: envelope.length(self) as u32,
            expires_s: match self.expires_ms {
                NEVER => u32::MAX,
                ms => u32::try_from(ms.div_ceil(1000)).unwrap_or(u32::MAX),
            },
            identity: identity_tag(self.db, self.variant),
            kind: self.kind,
        }
    }
}

/// One record in a footer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Row {
    pub hash: u64,
    pub offset: u32,
    pub length: u32,
    /// `u32::MAX`: never.
    pub expires_s: u32,
    pub identity: u16,
    pub kind: Kind,
}

impl Row {
    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.hash.to_le_bytes());
        out.extend_from_slice(&self.offset.to_le_bytes());
        out.extend_from_slice(&self.length.to_le_bytes());
        out.extend_from_slice(&self.expires_s.to_le_bytes());
        out.extend_from_slice(&self.identity.to_le_bytes());
        out.extend_from_slice(&[self.kind.byte(), 0]);
    }

    fn decode(bytes: &[u8; ROW_BYTES]) -> Option<Row> {
        Some(Row {
            hash: u64_at(bytes, 0),
            offset: u32_at(bytes, 8),
            length: u32_at(bytes, 12),
            expires_s: u32_at(bytes, 16),
            identity: u16_at(bytes, 20),
            kind: Kind::from_byte(bytes[22])?,
        })
    }
}

/// The end of a sealed segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Trailer {
    pub rows: u32,
    pub tombstones: u32,
    pub rows_at: u64,
    bytes: [u8; TRAILER_BYTES],
}

/// Bytes of a footer with so many rows.
pub fn footer_bytes(rows: usize) -> usize {
    rows * ROW_BYTES + TRAILER_BYTES
}

/// The footer of a segment whose records end at `rows_at`.
///
/// # Errors
/// There is nothing random to encrypt it with.
pub fn encode_footer(rows: &[Row], rows_at: u64, envelope: &Envelope) -> io::Result<Vec<u8>> {
    let mut out = Vec::with_capacity(footer_bytes(rows.len()));
    rows.iter().for_each(|row| row.encode(&mut out));
    let tombstones = rows.iter().filter(|row| row.kind != Kind::Entry).count();
    let mut trailer = [0; TRAILER_BYTES];
    trailer[..8].copy_from_slice(TRAILER_MAGIC);
    put_u32(&mut trailer, 8, rows.len() as u32);
    put_u32(&mut trailer, 12, tombstones as u32);
    put_u64(&mut trailer, 16, rows_at);
    let (salt, tag) = envelope.lock_rows(&trailer[..24], &mut out)?;
    trailer[24..36].copy_from_slice(&salt);
    trailer[40..56].copy_from_slice(&tag);
    put_u64(&mut trailer, 56, xxh3_64_with_seed(&out, envelope.nonce()));
    let sum = xxh3_64_with_seed(&trailer[..64], envelope.nonce());
    put_u64(&mut trailer, 64, sum);
    out.extend_from_slice(&trailer);
    Ok(out)
}

impl Trailer {
    /// From the last bytes of a file of `file_bytes`.
    ///
    /// # Errors
    /// [`Damage::Magic`]: the segment was never sealed, or its end is damaged.
    pub fn decode(bytes: &[u8], envelope: &Envelope, file_bytes: u64) -> Result<Trailer, Damage> {
        let bytes: [u8; TRAILER_BYTES] = bytes.try_into().map_err(|_| Damage::Short)?;
        if &bytes[..8] != TRAILER_MAGIC {
            return Err(Damage::Magic);
        }
        if u64_at(&bytes, 64) != xxh3_64_with_seed(&bytes[..64], envelope.nonce()) {
            return Err(Damage::Checksum);
        }
        let trailer = Trailer {
            rows: u32_at(&bytes, 8),
            tombstones: u32_at(&bytes, 12),
            rows_at: u64_at(&bytes, 16),
            bytes,
        };
        let end = trailer.rows_at.checked_add(footer_bytes(trailer.rows as usize) as u64);
        if trailer.rows_at < HEADER_BYTES as u64 || end != Some(file_bytes) || file_bytes > MAX_SEGMENT_BYTES {
            return Err(Damage::Field);
        }
        Ok(trailer)
    }

    /// Hands out the rows in the order of the file; `bytes` is exactly them, and is decrypted where it is.
    ///
    /// # Errors
    /// With nothing handed out, what is wrong.
    pub fn rows<'a>(
        &self,
        bytes: &'a mut [u8],
        envelope: &Envelope,
    ) -> Result<impl Iterator<Item = Row> + use<'a>, Damage> {
        if bytes.len() != self.rows as usize * ROW_BYTES {
            return Err(Damage::Short);
        }
        if xxh3_64_with_seed(bytes, envelope.nonce()) != u64_at(&self.bytes, 56) {
            return Err(Damage::Checksum);
        }
        let salt: Salt = number_at(&self.bytes, 24).unwrap_or([0; SALT_BYTES]);
        let tag = number_at(&self.bytes, 40).unwrap_or([0; TAG_BYTES]);
        envelope.unlock_rows(&self.bytes[..24], &salt, bytes, &tag)?;
        let (rows, _) = bytes.as_chunks::<ROW_BYTES>();
        Ok(rows.iter().filter_map(Row::decode))
    }
}

/// Tells the replies to different reads of one name apart; two in 65,536 look alike, and the newer then displaces the older.
pub fn identity_tag(db: u16, variant: &[u8]) -> u16 {
    xxh3_64_with_seed(variant, u64::from(db)) as u16
}

pub fn padded(length: usize) -> usize {
    length.next_multiple_of(ALIGN)
}

pub fn file_name(sequence: u64) -> String {
    format!("{sequence:016x}.seg")
}

/// The sequence in a name; `None`: not a segment's.
pub fn sequence_in(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(".seg")?;
    let sequence = u64::from_str_radix(digits, 16).ok()?;
    (file_name(sequence) == name).then_some(sequence)
}

#[cfg(test)]
mod tests;
