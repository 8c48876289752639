//! The segment file, version 1: what is on the disk, byte by byte. All numbers are little-endian; times are milliseconds of
//! the Unix clock; 0 where nothing is said.
//!
//! ```text
//! segment  = header, records, [footer]           name: "NNNNNNNNNNNNNNNN.seg", its sequence in 16 hexadecimal digits
//!
//! header   64 B   0 magic "NCL3SEG\n"   8 version u32 = 1   12 reserved u32 = 0
//!                16 sequence u64: segments are ordered by it, and it is never used twice
//!                24 created u64   32 nonce u64: drawn for this segment, seed of every other checksum in it
//!                40 seed u64: of the hash of names, one for a directory
//!                48 probe u64: the hash of [`PROBE`] under that seed, and what the entries are of (upstream, command numbers); another one means others
//!                56 checksum u64 of bytes 0..56, seed 0
//!
//! record          at a multiple of 16, padded with zeros to one
//!                 0 checksum u64 of bytes 8..length, seed: the nonce   8 length u32, without padding
//!                12 kind u8: 1 entry, 2 tombstone, 3 tombstone of everything   13 flags u8   14 class u16
//!                16 hash u64 of the name (kind 3: 0)   24 filled u64   32 expires u64 (u64::MAX: never)
//!                40 name length u16   42 variant length u16   44 database u16   46 reserved u16 = 0
//!                48 name, variant, value (kinds 2 and 3: nothing)
//!
//! flags           bit 0: the key is absent, the value is the frame that says so   bit 1: the same bytes in RESP2
//!                 bits 2-3: the key itself 0 never ends, 1 ends when the record expires, 2 ends at an unknown time
//!                 a record with any other bit is not understood, and so not used
//! class           which commands the value answers: 0 one that the variant alone tells
//!
//! footer          rows, then the trailer, which ends the file
//! row      24 B   0 hash u64   8 offset u32 of the record   12 length u32   16 expires u32, seconds, rounded up (u32::MAX: never)
//!                20 identity u16: of database and variant, see [`identity_tag`]   22 kind u8   23 reserved u8 = 0
//! trailer  40 B   0 magic "NCL3END\n"   8 rows u32   12 tombstones u32, rows of kinds 2 and 3
//!                16 offset u64 of the first row, which is where the records end
//!                24 checksum u64 of all rows, seed: the nonce   32 checksum u64 of bytes 0..32, seed: the nonce
//! ```
//!
//! Invariants
//! - A file is written from its start to its end once and never changed, but for a torn tail that recovery cuts off.
//! - Of two records with one identity (name, database, variant) the one of the higher sequence, then of the higher offset,
//!   counts. A tombstone undoes all records before it whose name has its hash; that of everything, all before it.
//! - So a segment with tombstones is removed only after all older ones.
//! - A footer names every record, in the order in which they are in the file.
//!
//! Assumed of the medium: what was written before a completed `fsync` of the file stays, and the file's name stays once
//! the directory was synced, too. What was not synced may be lost, in part and in any order, sector by sector, and a
//! removed file may be there again. Bits may flip anywhere: every byte but the padding is under a checksum of 64 bits
//! (XXH3), seeded so that a stale block of another segment does not pass for one of this.

use xxhash_rust::xxh3::xxh3_64_with_seed;

pub const VERSION: u32 = 1;
pub const HEADER_BYTES: usize = 64;
pub const RECORD_HEAD_BYTES: usize = 48;
pub const ROW_BYTES: usize = 24;
pub const TRAILER_BYTES: usize = 40;
/// Records begin at multiples of this.
pub const ALIGN: usize = 16;
/// Offsets of records must fit the index.
pub const MAX_SEGMENT_BYTES: u64 = 64 << 20;
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
}

impl std::fmt::Display for Damage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Damage::Short => f.write_str("it ends too early"),
            Damage::Magic => f.write_str("the magic number is not there"),
            Damage::Checksum => f.write_str("the checksum does not fit"),
            Damage::Field => f.write_str("a field has an impossible value"),
            Damage::Version(version) => write!(f, "it has version {version}, and this program knows version {VERSION}"),
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Header {
    pub sequence: u64,
    pub created_ms: u64,
    pub nonce: u64,
    pub seed: u64,
    pub probe: u64,
}

impl Header {
    pub fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[..8].copy_from_slice(MAGIC);
        put_u32(&mut bytes, 8, VERSION);
        for (at, number) in [
            (16, self.sequence),
            (24, self.created_ms),
            (32, self.nonce),
            (40, self.seed),
            (48, self.probe),
        ] {
            put_u64(&mut bytes, at, number);
        }
        let sum = xxh3_64_with_seed(&bytes[..56], 0);
        put_u64(&mut bytes, 56, sum);
        bytes
    }

    /// # Errors
    /// A version that is not known is told from damage only where the magic number is right.
    pub fn decode(bytes: &[u8]) -> Result<Header, Damage> {
        let bytes: &[u8; HEADER_BYTES] = bytes
            .get(..HEADER_BYTES)
            .and_then(|bytes| bytes.try_into().ok())
            .ok_or(Damage::Short)?;
        if &bytes[..8] != MAGIC {
            return Err(Damage::Magic);
        }
        let is_sound = u64_at(bytes, 56) == xxh3_64_with_seed(&bytes[..56], 0);
        match u32_at(bytes, 8) {
            VERSION if is_sound => {}
            VERSION => return Err(Damage::Checksum),
            // Not even where the checksum is belongs to what is known of another version.
            version => return Err(Damage::Version(version)),
        }
        Ok(Header {
            sequence: u64_at(bytes, 16),
            created_ms: u64_at(bytes, 24),
            nonce: u64_at(bytes, 32),
            seed: u64_at(bytes, 40),
            probe: u64_at(bytes, 48),
        })
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
    pub value: &'a [u8],
}

const ABSENT: u8 = 1;
const PLAIN: u8 = 2;
const KEY_END: u8 = 0b1100;

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
            value: b"",
        }
    }

    /// Without padding.
    pub fn length(&self) -> usize {
        RECORD_HEAD_BYTES + self.name.len() + self.variant.len() + self.value.len()
    }

    /// Appends the record and its padding. `None`, with nothing appended: a part is too long.
    pub fn encode(&self, nonce: u64, out: &mut Vec<u8>) -> Option<()> {
        let length = u32::try_from(self.length()).ok()?;
        let (name_len, variant_len) = (
            u16::try_from(self.name.len()).ok()?,
            u16::try_from(self.variant.len()).ok()?,
        );
        let mut head = [0; RECORD_HEAD_BYTES];
        put_u32(&mut head, 8, length);
        head[12] = self.kind.byte();
        let key_end = match self.key_end {
            KeyEnd::Never => 0,
            KeyEnd::WithRecord => 1 << 2,
            KeyEnd::Unknown => 2 << 2,
        };
        head[13] = (u8::from(self.is_absent) * ABSENT) | (u8::from(self.is_plain) * PLAIN) | key_end;
        put_u16(&mut head, 14, self.class);
        put_u64(&mut head, 16, self.hash);
        put_u64(&mut head, 24, self.filled_ms);
        put_u64(&mut head, 32, self.expires_ms);
        put_u16(&mut head, 40, name_len);
        put_u16(&mut head, 42, variant_len);
        put_u16(&mut head, 44, self.db);
        let start = out.len();
        for part in [&head, self.name, self.variant, self.value] {
            out.extend_from_slice(part);
        }
        let sum = xxh3_64_with_seed(&out[start + 8..], nonce);
        put_u64(out, start, sum);
        out.resize(start + padded(self.length()), 0);
        Some(())
    }

    /// Reads the record at the start of `bytes`, of which there may be more.
    ///
    /// # Errors
    /// What is wrong with it. Nothing that is returned has been taken from bytes that no checksum vouches for.
    pub fn decode(bytes: &'a [u8], nonce: u64) -> Result<Record<'a>, Damage> {
        let length = Record::announced_length(bytes).ok_or(Damage::Short)?;
        let bytes = bytes.get(..length).ok_or(Damage::Short)?;
        if length < RECORD_HEAD_BYTES {
            return Err(Damage::Field);
        }
        if u64_at(bytes, 0) != xxh3_64_with_seed(&bytes[8..], nonce) {
            return Err(Damage::Checksum);
        }
        let kind = Kind::from_byte(bytes[12]).ok_or(Damage::Field)?;
        let flags = bytes[13];
        let key_end = match (flags & KEY_END) >> 2 {
            0 => KeyEnd::Never,
            1 => KeyEnd::WithRecord,
            2 => KeyEnd::Unknown,
            _ => return Err(Damage::Field),
        };
        if flags & !(ABSENT | PLAIN | KEY_END) != 0 || u16_at(bytes, 46) != 0 {
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
            value,
        })
    }

    /// The length that a record claims, unchecked. `None`: there is not even that.
    pub fn announced_length(bytes: &[u8]) -> Option<usize> {
        (bytes.len() >= 12).then(|| u32_at(bytes, 8) as usize)
    }

    /// The row that a footer has for this record.
    pub fn row(&self, offset: u32) -> Row {
        Row {
            hash: self.hash,
            offset,
            length: self.length() as u32,
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
    rows_sum: u64,
}

/// Bytes of a footer with so many rows.
pub fn footer_bytes(rows: usize) -> usize {
    rows * ROW_BYTES + TRAILER_BYTES
}

/// The footer of a segment whose records end at `rows_at`.
pub fn encode_footer(rows: &[Row], rows_at: u64, nonce: u64) -> Vec<u8> {
    let mut out = Vec::with_capacity(footer_bytes(rows.len()));
    rows.iter().for_each(|row| row.encode(&mut out));
    let rows_sum = xxh3_64_with_seed(&out, nonce);
    let tombstones = rows.iter().filter(|row| row.kind != Kind::Entry).count();
    let mut trailer = [0; TRAILER_BYTES];
    trailer[..8].copy_from_slice(TRAILER_MAGIC);
    put_u32(&mut trailer, 8, rows.len() as u32);
    put_u32(&mut trailer, 12, tombstones as u32);
    put_u64(&mut trailer, 16, rows_at);
    put_u64(&mut trailer, 24, rows_sum);
    let sum = xxh3_64_with_seed(&trailer[..32], nonce);
    put_u64(&mut trailer, 32, sum);
    out.extend_from_slice(&trailer);
    out
}

impl Trailer {
    /// From the last bytes of a file of `file_bytes`.
    ///
    /// # Errors
    /// [`Damage::Magic`]: the segment was never sealed, or its end is damaged.
    pub fn decode(bytes: &[u8], nonce: u64, file_bytes: u64) -> Result<Trailer, Damage> {
        if bytes.len() != TRAILER_BYTES {
            return Err(Damage::Short);
        }
        if &bytes[..8] != TRAILER_MAGIC {
            return Err(Damage::Magic);
        }
        if u64_at(bytes, 32) != xxh3_64_with_seed(&bytes[..32], nonce) {
            return Err(Damage::Checksum);
        }
        let trailer = Trailer {
            rows: u32_at(bytes, 8),
            tombstones: u32_at(bytes, 12),
            rows_at: u64_at(bytes, 16),
            rows_sum: u64_at(bytes, 24),
        };
        let end = trailer.rows_at.checked_add(footer_bytes(trailer.rows as usize) as u64);
        if trailer.rows_at < HEADER_BYTES as u64 || end != Some(file_bytes) {
            return Err(Damage::Field);
        }
        Ok(trailer)
    }

    /// Hands out the rows in the order of the file; `bytes` is exactly them.
    ///
    /// # Errors
    /// With nothing handed out, what is wrong.
    pub fn rows<'a>(&self, bytes: &'a [u8], nonce: u64) -> Result<impl Iterator<Item = Row> + use<'a>, Damage> {
        if bytes.len() != self.rows as usize * ROW_BYTES {
            return Err(Damage::Short);
        }
        if xxh3_64_with_seed(bytes, nonce) != self.rows_sum {
            return Err(Damage::Checksum);
        }
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

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    number_at(bytes, at).map_or(0, u16::from_le_bytes)
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    number_at(bytes, at).map_or(0, u32::from_le_bytes)
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    number_at(bytes, at).map_or(0, u64::from_le_bytes)
}

fn number_at<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk().copied()
}

fn put_u16(bytes: &mut [u8], at: usize, number: u16) {
    bytes[at..at + 2].copy_from_slice(&number.to_le_bytes());
}

fn put_u32(bytes: &mut [u8], at: usize, number: u32) {
    bytes[at..at + 4].copy_from_slice(&number.to_le_bytes());
}

fn put_u64(bytes: &mut [u8], at: usize, number: u64) {
    bytes[at..at + 8].copy_from_slice(&number.to_le_bytes());
}

#[cfg(test)]
mod tests;
