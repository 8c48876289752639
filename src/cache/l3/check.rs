//! Looking at a store that no process uses: whether it is sound, what is in it, and all of it as lines of JSON. Changes no
//! segment. [`live`] does the same, export aside, for the process that uses it.

use std::collections::HashMap;
use std::fmt;
use std::io::{self, Write};
use std::ops::ControlFlow;

use serde_json::{Map, Value, json};

use super::codec;
use super::envelope::Envelope;
use super::format::{self, Damage, HEADER_BYTES, Header, KeyEnd, Kind, Record};
use super::keys::{KeyId, KeyRing};
use super::owed::MARKER;
use super::recovery;
use super::storage::{SegmentFile, Storage, read_up_to};

/// What was found.
#[derive(Debug, Default)]
pub struct Report {
    pub segments: Vec<SegmentReport>,
    /// Entries that would be found, those that have expired, and those that are voided or have a newer one.
    pub alive: usize,
    pub expired: usize,
    pub dead: usize,
    pub alive_value_bytes: u64,
    /// What was voided last may be in no segment, so that the next process uses nothing of all this, unless it salvages.
    pub is_incomplete: bool,
}

#[derive(Debug)]
pub struct SegmentReport {
    pub file: String,
    pub bytes: u64,
    pub created_ms: u64,
    /// `None`: it is not encrypted.
    pub key: Option<KeyId>,
    pub is_sealed: bool,
    pub entries: usize,
    pub tombstones: usize,
    /// Offsets and what is wrong there; the first of each stretch.
    pub damage: Vec<(u64, String)>,
}

/// What to print besides.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Export {
    Nothing,
    /// A line of JSON for each entry that would be found.
    Entries,
}

/// Why nothing can be said.
pub type Refusal = String;

/// Reads everything. What is exported goes to `out` as it is found.
///
/// # Errors
/// The store is in use, cannot be accessed, has a version that this program does not know, or is encrypted with a key that is not
/// among these; or `out` takes nothing.
pub fn check(
    storage: &dyn Storage,
    keys: &KeyRing,
    now_ms: u64,
    export: Export,
    out: &mut dyn Write,
) -> Result<Report, Refusal> {
    let place = storage.place();
    let in_use = |error: &io::Error| error.kind() == io::ErrorKind::WouldBlock;
    // Elsewhere a directory that cannot be written can still be looked at.
    let _lock = match storage.lock() {
        Err(error) if in_use(&error) => return Err(format!("{place} is in use by another process")),
        lock => lock.ok(),
    };
    let names = storage
        .list()
        .map_err(|error| format!("{place} cannot be read: {error}"))?;
    let mut sequences: Vec<u64> = names.iter().filter_map(|name| format::sequence_in(name)).collect();
    sequences.sort_unstable();
    let mut report = Report {
        is_incomplete: !sequences.is_empty() && !names.iter().any(|name| name == MARKER),
        ..Report::default()
    };
    let mut log = Log::default();
    for &sequence in &sequences {
        let segment = look(storage, keys, sequence, &mut log)?;
        report.segments.push(segment);
    }
    report.dead = log.entries - log.latest.values().map(Vec::len).sum::<usize>();
    for place in log.latest.into_values().flatten() {
        match place.expires_ms <= now_ms {
            true => report.expired += 1,
            false => {
                report.alive += 1;
                report.alive_value_bytes += place.value_bytes;
                if export == Export::Entries {
                    export_one(storage, keys, &place, out)?;
                }
            }
        }
    }
    Ok(report)
}

/// What the log comes to: of each name's hash the newest entry of each identity.
#[derive(Default)]
struct Log {
    latest: HashMap<u64, Vec<Place>>,
    entries: usize,
}

struct Place {
    sequence: u64,
    offset: u64,
    length: usize,
    expires_ms: u64,
    value_bytes: u64,
    identity: (u16, Box<[u8]>, Box<[u8]>),
}

fn look(storage: &dyn Storage, keys: &KeyRing, sequence: u64, log: &mut Log) -> Result<SegmentReport, Refusal> {
    let name = format::file_name(sequence);
    let mut report = SegmentReport {
        file: name.clone(),
        bytes: 0,
        created_ms: 0,
        key: None,
        is_sealed: false,
        entries: 0,
        tombstones: 0,
        damage: Vec::new(),
    };
    let opened = storage.open(&name).and_then(|file| Ok((file.bytes()?, file)));
    let (bytes, file) = match opened {
        Ok(opened) => opened,
        Err(error) => {
            report.damage.push((0, error.to_string()));
            return Ok(report);
        }
    };
    report.bytes = bytes;
    let mut head = [0; HEADER_BYTES];
    let read = match read_up_to(&*file, &mut head, 0) {
        Ok(read) => read,
        Err(error) => {
            report.damage.push((0, error.to_string()));
            return Ok(report);
        }
    };
    let (header, envelope) = match Header::decode(&head[..read], keys) {
        Err(unknown @ (Damage::Version(_) | Damage::Key(_))) => return Err(format!("{name}: {unknown}")),
        Err(damage) => {
            report.damage.push((0, damage.to_string()));
            return Ok(report);
        }
        Ok(header) => header,
    };
    report.created_ms = header.created_ms;
    report.key = header.key;
    report.read(&*file, &envelope, bytes, None, |at, record| {
        log.note(sequence, at, envelope.length(record), record);
    });
    Ok(report)
}

impl SegmentReport {
    /// All records, and whether the footer names them; there is none yet if it is known where the records end.
    fn read(
        &mut self,
        file: &dyn SegmentFile,
        envelope: &Envelope,
        bytes: u64,
        records_end: Option<u64>,
        mut tell: impl FnMut(u64, &Record<'_>),
    ) {
        let footer = match records_end {
            None => recovery::footer(file, envelope, bytes),
            Some(_) => None,
        };
        self.is_sealed = footer.is_some();
        let end = records_end.or(footer.as_ref().map(|(trailer, _)| trailer.rows_at));
        let end = end.unwrap_or(bytes);
        let (mut rows, mut damage) = (Vec::new(), Vec::new());
        let walked = recovery::walk(file, envelope, end, |at, found| {
            match found {
                Ok(record) => {
                    if let Err(reason) = codec::decompress(record.codec, record.value) {
                        damage.push((at, reason.to_string()));
                    }
                    match record.kind {
                        Kind::Entry => self.entries += 1,
                        Kind::Tombstone | Kind::TombstoneOfAll => self.tombstones += 1,
                    }
                    tell(at, record);
                    rows.push(record.row(envelope, at as u32));
                }
                Err(reason) => damage.push((at, reason.to_string())),
            }
            ControlFlow::Continue(())
        });
        self.damage.append(&mut damage);
        match walked {
            Ok(None) => {}
            Ok(Some(at)) => self.damage.push((at, recovery::GIVEN_UP.to_owned())),
            Err(error) => return self.damage.push((0, error.to_string())),
        }
        if footer.is_some_and(|(_, in_footer)| in_footer != rows) {
            let reason = "the footer does not name the records that are there".to_owned();
            self.damage.push((end, reason));
        }
    }
}

impl Log {
    fn note(&mut self, sequence: u64, offset: u64, length: usize, record: &Record<'_>) {
        match record.kind {
            Kind::TombstoneOfAll => self.latest.clear(),
            Kind::Tombstone => drop(self.latest.remove(&record.hash)),
            Kind::Entry => {
                self.entries += 1;
                let identity = (record.db, record.name.into(), record.variant.into());
                let of_name = self.latest.entry(record.hash).or_default();
                of_name.retain(|place| place.identity != identity);
                of_name.push(Place {
                    sequence,
                    offset,
                    length,
                    expires_ms: record.expires_ms,
                    value_bytes: codec::shown_bytes(record.codec, record.value).unwrap_or(0) as u64,
                    identity,
                });
            }
        }
    }
}

fn export_one(storage: &dyn Storage, keys: &KeyRing, place: &Place, out: &mut dyn Write) -> Result<(), Refusal> {
    let name = format::file_name(place.sequence);
    let (mut head, mut bytes) = ([0; HEADER_BYTES], vec![0; place.length]);
    let read = storage
        .open(&name)
        .and_then(|file| {
            read_up_to(&*file, &mut head, 0)?;
            read_up_to(&*file, &mut bytes, place.offset)
        })
        .map_err(|error| format!("{name} can no longer be read: {error}"))?;
    let changed = |damage| format!("{name} changes meanwhile: {damage}");
    let (_, envelope) = Header::decode(&head, keys).map_err(changed)?;
    let record = Record::decode(&mut bytes[..read], &envelope, place.offset).map_err(changed)?;
    // What cannot be decompressed has been told of.
    let Ok(value) = codec::decompress(record.codec, record.value) else {
        return Ok(());
    };
    let mut line = Map::new();
    put_bytes(&mut line, "key", record.name);
    line.insert("db".to_owned(), json!(record.db));
    if !record.variant.is_empty() {
        line.insert("variant_hex".to_owned(), json!(hex(record.variant)));
    }
    put_bytes(&mut line, "value", &value);
    if record.is_absent {
        line.insert("absent".to_owned(), json!(true));
    }
    line.insert("filled_ms".to_owned(), json!(record.filled_ms));
    if record.expires_ms != format::NEVER {
        line.insert("expires_ms".to_owned(), json!(record.expires_ms));
        line.insert(
            "expires_with_key".to_owned(),
            json!(record.key_end == KeyEnd::WithRecord),
        );
    }
    line.insert("segment".to_owned(), json!(name));
    line.insert("offset".to_owned(), json!(place.offset));
    writeln!(out, "{}", Value::Object(line)).map_err(|error| format!("nothing more can be written: {error}"))
}

/// As text where it is text; else under another name, in hexadecimal digits.
fn put_bytes(line: &mut Map<String, Value>, name: &str, bytes: &[u8]) {
    match std::str::from_utf8(bytes) {
        Ok(text) => line.insert(name.to_owned(), json!(text)),
        Err(_) => line.insert(format!("{name}_hex"), json!(hex(bytes))),
    };
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Report {
    pub fn is_sound(&self) -> bool {
        self.segments.iter().all(|segment| segment.damage.is_empty())
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for segment in &self.segments {
            writeln!(
                f,
                "{}: {}{}, {} bytes, {} entries, {} tombstones",
                segment.file,
                if segment.is_sealed { "sealed" } else { "not sealed" },
                segment
                    .key
                    .map_or_else(String::new, |key| format!(", encrypted with {key}")),
                segment.bytes,
                segment.entries,
                segment.tombstones,
            )?;
            for (offset, reason) in &segment.damage {
                writeln!(f, "  damage at offset {offset}: {reason}")?;
            }
        }
        if self.is_incomplete {
            writeln!(
                f,
                "{MARKER} is missing: what was voided last may not be recorded, and the next start uses nothing of this, unless \
                 l3.recovery is \"salvage\""
            )?;
        }
        let damaged = self.segments.iter().map(|segment| segment.damage.len()).sum::<usize>();
        writeln!(
            f,
            "{} segments, {} bytes; entries: {} alive ({} bytes of values), {} expired, {} voided or replaced; damage: {}",
            self.segments.len(),
            self.segments.iter().map(|segment| segment.bytes).sum::<u64>(),
            self.alive,
            self.alive_value_bytes,
            self.expired,
            self.dead,
            match damaged {
                0 => "none".to_owned(),
                1 => "in one place".to_owned(),
                many => format!("in {many} places"),
            },
        )
    }
}

mod live;
