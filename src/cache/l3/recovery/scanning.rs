//! A segment that is read: its footer, or without one all of its records.

use std::ops::ControlFlow;

use zeroize::Zeroize;

use crate::cache::l3::envelope::Envelope;
use crate::cache::l3::format::{self, ALIGN, Damage, HEADER_BYTES, Record, TRAILER_BYTES, Trailer};
use crate::cache::l3::storage::{SegmentFile, read_up_to};

/// Trailer and rows of a sealed segment. `None`: it has no footer, or not a sound one.
pub(in crate::cache::l3) fn footer(
    file: &dyn SegmentFile,
    envelope: &Envelope,
    bytes: u64,
) -> Option<(Trailer, Vec<format::Row>)> {
    let trailer = trailer(file, envelope, bytes)?;
    let mut rows = vec![0; trailer.rows as usize * format::ROW_BYTES];
    let read = read_up_to(file, &mut rows, trailer.rows_at).ok()?;
    let rows = trailer.rows(&mut rows[..read], envelope).ok()?.collect();
    Some((trailer, rows))
}

pub(super) fn trailer(file: &dyn SegmentFile, envelope: &Envelope, bytes: u64) -> Option<Trailer> {
    let mut end = [0; TRAILER_BYTES];
    let read = read_up_to(file, &mut end, bytes.checked_sub(TRAILER_BYTES as u64)?).ok()?;
    Trailer::decode(&end[..read], envelope, bytes).ok()
}

/// What a walk over the records found.
pub(in crate::cache::l3) struct Scan {
    pub rows: Vec<format::Row>,
    /// Behind the last sound record.
    pub end: u64,
    /// The first offset with something else than a record.
    pub damage: Option<(u64, Damage)>,
    /// Where the first long record may be that was not looked for.
    pub given_up: Option<u64>,
}

impl Scan {
    /// Behind all of its records there is what takes exactly as much as their footer: a flipped bit, and nothing is lost.
    pub fn is_whole(&self, bytes: u64) -> bool {
        self.end + format::footer_bytes(self.rows.len()) as u64 == bytes
    }

    /// The bytes of the file with its footer, which is durable.
    pub fn seal(&self, file: &dyn SegmentFile, envelope: &Envelope) -> std::io::Result<u64> {
        let footer = format::encode_footer(&self.rows, self.end, envelope)?;
        file.truncate(self.end)?;
        file.write_all_at(&footer, self.end)?;
        file.sync()?;
        Ok(self.end + footer.len() as u64)
    }
}

/// Reads the records from the first on, to the first damage, or with `is_salvage` as far as sound ones are found.
pub(in crate::cache::l3) fn scan(
    file: &dyn SegmentFile,
    envelope: &Envelope,
    bytes: u64,
    is_salvage: bool,
) -> std::io::Result<Scan> {
    let mut scan = Scan {
        rows: Vec::new(),
        end: HEADER_BYTES as u64,
        damage: None,
        given_up: None,
    };
    scan.given_up = walk(file, envelope, bytes, |at, found| {
        match found {
            Ok(record) => {
                scan.rows.push(record.row(envelope, at as u32));
                scan.end = at + format::padded(envelope.length(record)) as u64;
            }
            Err(damage) => {
                scan.damage.get_or_insert((at, damage));
            }
        }
        match found.is_ok() || is_salvage {
            true => ControlFlow::Continue(()),
            false => ControlFlow::Break(()),
        }
    })?;
    Ok(scan)
}

/// What may be read in search of the next sound record behind damage: in what is encrypted any bytes may be the length of a
/// record, up to the checksum of what would be that long. So much for each byte of the segment, and so much more for each byte that
/// was looked at: a second or two in all. Of random bytes one place in 65 KB looks like a record, of 8 MiB on average, which is
/// 130 for each byte. What costs more than is left is passed over; short records are found all the same.
const SEARCHED_AT_ONCE: usize = 64;
const SEARCHED_A_BYTE: usize = 192;
/// What is told of the first place that was passed over.
pub(in crate::cache::l3) const GIVEN_UP: &str =
    "there is too much like a record that is none: a long record here or behind it may not be found";

/// Tells of each sound record at its offset, and of the first offset of each stretch of something else, until `tell` has enough.
/// `bytes` is where the records end at the latest. Returns what was passed over first in search of the next, if anything was.
pub(in crate::cache::l3) fn walk(
    file: &dyn SegmentFile,
    envelope: &Envelope,
    bytes: u64,
    mut tell: impl FnMut(u64, Result<&Record<'_>, Damage>) -> ControlFlow<()>,
) -> std::io::Result<Option<u64>> {
    // A segment is small enough to be read at once; a file that is far too large is none.
    let mut all = vec![0; bytes.min(2 * format::MAX_SEGMENT_BYTES) as usize];
    let read = read_up_to(file, &mut all, 0)?;
    all.truncate(read);
    let mut searched_bytes = 0;
    let (mut at, mut is_damaged, mut given_up) = (HEADER_BYTES, false, None);
    while at < all.len() {
        let rest = &mut all[at..];
        if is_damaged && !Record::may_begin(rest, envelope) {
            at += ALIGN;
            continue;
        }
        let length = Record::announced_length(rest).map_or(0, |length| length.min(rest.len()));
        let is_affordable = !is_damaged || searched_bytes + length <= SEARCHED_AT_ONCE * read + SEARCHED_A_BYTE * at;
        let decoded = match is_affordable {
            true => Record::decode(rest, envelope, at as u64),
            false => {
                given_up.get_or_insert(at as u64);
                Err(Damage::Checksum)
            }
        };
        let told = match decoded {
            Ok(record) => {
                let told = tell(at as u64, Ok(&record));
                at += format::padded(envelope.length(&record));
                is_damaged = false;
                told
            }
            Err(damage) => {
                searched_bytes += if is_affordable { length } else { 0 };
                let told = match std::mem::replace(&mut is_damaged, true) {
                    true => ControlFlow::Continue(()),
                    false => tell(at as u64, Err(damage)),
                };
                at += ALIGN;
                told
            }
        };
        if told.is_break() {
            break;
        }
    }
    if envelope.key_id().is_some() {
        all.zeroize();
    }
    Ok(given_up)
}
