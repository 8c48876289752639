//! What is kept on the disk.
//!
//! Read once at start; immutable afterwards.

use super::keys::{self, Keys};
use super::reader::{Reader, print_bytes, print_length};
use super::{OFF, Printed, integer};
use std::path::PathBuf;
use std::time::Duration;

/// The settings of L3.
#[derive(Clone, Debug, PartialEq)]
pub struct L3 {
    /// The directory of the segments; `None` (default) = there is no L3.
    pub path: Option<PathBuf>,
    /// What the files may take, one segment left aside; default 4 GiB, minimum 16 MiB.
    pub size_bytes: usize,
    /// A larger value is not written; default 1 MiB, minimum 1 B, at most an eighth of a segment.
    pub max_value_bytes: usize,
    /// What may wait to be written; default 16 MiB, minimum 1 MiB.
    pub queue_bytes: usize,
    /// How often a key must have been missed in L1; default [`Admission::SecondSight`].
    pub admission: Admission,
    /// When what was written is made to survive a loss of power; default [`Sync::Interval`].
    pub sync: Sync,
    /// For [`Sync::Interval`]; default 1 s, minimum 10 ms.
    pub sync_interval: Duration,
    /// What is written of values in a second; `None` (default) = whatever comes; minimum 64 KiB.
    pub write_rate_bytes: Option<usize>,
    /// What is done about damage; default [`Recovery::TolerateTornTail`].
    pub recovery: Recovery,
    /// From which size on, as it takes room on the disk, the upstream is asked for the digest of a string that may have changed
    /// while nobody watched it, instead of for the string; default 1 KiB, minimum 1 B; `None` = never.
    pub revalidate_from_bytes: Option<usize>,
    /// Threads that read; default 2, 1 to 64.
    pub readers: usize,
    /// What values are compressed with; default [`Compression::Off`].
    pub compression: Compression,
    /// Smaller values are not compressed; default 512 B, minimum 64 B.
    pub compress_from_bytes: usize,
    /// What the files are encrypted with, the newest last; none (default) = they are not.
    pub keys: Keys,
    /// The file from which they come.
    pub key_file: Option<PathBuf>,
    /// Whether the keys only read what is there, and new segments are not encrypted; default false.
    pub is_writing_plain: bool,
}

/// What values are compressed with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Compression {
    #[default]
    Off,
    Lz4,
    /// The level: 1 to 19.
    Zstd(i32),
}

impl Compression {
    const DEFAULT_LEVEL: i32 = 3;

    fn parse(text: &str, most_level: i32) -> Option<Self> {
        match text.split_once(':') {
            None if text == OFF => Some(Self::Off),
            None if text == "lz4" => Some(Self::Lz4),
            None if text == "zstd" => Some(Self::Zstd(Self::DEFAULT_LEVEL)),
            Some(("zstd", level)) => level
                .parse()
                .ok()
                .filter(|level| (1..=most_level).contains(level))
                .map(Self::Zstd),
            _ => None,
        }
    }

    pub(super) fn print(self) -> String {
        match self {
            Self::Off => OFF.to_owned(),
            Self::Lz4 => "lz4".to_owned(),
            Self::Zstd(Self::DEFAULT_LEVEL) => "zstd".to_owned(),
            Self::Zstd(level) => format!("zstd:{level}"),
        }
    }

    /// With levels up to this one.
    pub(super) fn read(reader: &mut Reader, option: &'static str, most_level: i32) -> Self {
        let Some(text) = reader.text(option) else {
            return Self::default();
        };
        Self::parse(&text.to_ascii_lowercase(), most_level).unwrap_or_else(|| {
            reader.problem(
                option,
                format!(
                    "must be one of off, lz4, zstd, or zstd:LEVEL with a level from 1 to {most_level}, found \"{text}\""
                ),
            );
            Self::default()
        })
    }
}

/// How often a key must have been missed in L1 before its value is worth a write.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Admission {
    All,
    #[default]
    SecondSight,
    ThirdSight,
}

/// When what was written is synced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sync {
    Never,
    #[default]
    Interval,
    EachSegment,
}

/// What is done about damage that is found at the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Recovery {
    Strict,
    #[default]
    TolerateTornTail,
    Salvage,
}

impl Default for L3 {
    fn default() -> Self {
        Self {
            path: None,
            size_bytes: 4 << 30,
            max_value_bytes: 1 << 20,
            queue_bytes: 16 << 20,
            admission: Admission::default(),
            sync: Sync::default(),
            sync_interval: Duration::from_secs(1),
            write_rate_bytes: None,
            recovery: Recovery::default(),
            revalidate_from_bytes: Some(1 << 10),
            readers: 2,
            compression: Compression::default(),
            compress_from_bytes: 512,
            keys: Keys::default(),
            key_file: None,
            is_writing_plain: false,
        }
    }
}

impl L3 {
    /// A sixteenth of the size, at least 1 MiB and at most 64 MiB.
    #[must_use]
    pub fn segment_bytes(&self) -> usize {
        (self.size_bytes / 16).clamp(1 << 20, 64 << 20)
    }

    /// Files that are open at most.
    #[must_use]
    pub fn most_files(&self) -> usize {
        match self.path {
            Some(_) => self.size_bytes / self.segment_bytes() + 2,
            None => 0,
        }
    }

    pub(super) fn read(reader: &mut Reader) -> Self {
        let default = Self::default();
        let (keys, key_file) = keys::read(reader, "l3.encryption_key", "l3.encryption_key_file");
        let l3 = Self {
            path: reader.text("l3.path").filter(|path| path != OFF).map(PathBuf::from),
            size_bytes: reader.bytes("l3.size", default.size_bytes, 16 << 20),
            max_value_bytes: reader.bytes("l3.max_value", default.max_value_bytes, 1),
            queue_bytes: reader.bytes("l3.queue", default.queue_bytes, 1 << 20),
            admission: reader.choice("l3.admission", default.admission, &ADMISSIONS),
            sync: reader.choice("l3.sync", default.sync, &SYNCS),
            sync_interval: reader.length("l3.sync_interval", default.sync_interval, Duration::from_millis(10)),
            write_rate_bytes: reader.bytes_or_off("l3.write_rate", default.write_rate_bytes, 64 << 10),
            recovery: reader.choice("l3.recovery", default.recovery, &RECOVERIES),
            revalidate_from_bytes: reader.bytes_or_off("l3.revalidate_from", default.revalidate_from_bytes, 1),
            readers: reader.number("l3.readers", default.readers, 1, 64),
            compression: Compression::read(reader, "l3.compression", 19),
            compress_from_bytes: reader.bytes("l3.compress_from", default.compress_from_bytes, 64),
            keys,
            key_file,
            is_writing_plain: reader.flag("l3.write_plain", default.is_writing_plain),
        };
        if l3.path.as_ref().is_some_and(|path| path.as_os_str().is_empty()) {
            reader.problem("l3.path", "must not be empty; \"off\" means that there is no L3");
        }
        if l3.compression == Compression::Off && l3.compress_from_bytes != default.compress_from_bytes {
            reader.problem("l3.compress_from", "has no effect: set l3.compression to lz4 or zstd");
        }
        let is_set = reader.origin("l3.max_value").is_some();
        if is_set && l3.max_value_bytes > l3.segment_bytes() / 8 {
            let most = crate::units::Bytes(l3.segment_bytes() as u64 / 8);
            reader.problem(
                "l3.max_value",
                format!("must not be more than {most}, a 128th of l3.size or 8MiB"),
            );
        }
        l3.bounded()
    }

    /// A small size has small segments, which bound the default.
    fn bounded(mut self) -> Self {
        self.max_value_bytes = self.max_value_bytes.min(self.segment_bytes() / 8);
        self
    }

    pub(super) fn settings(&self) -> Vec<Printed> {
        let path = self
            .path
            .as_ref()
            .map_or_else(|| OFF.to_owned(), |path| path.display().to_string());
        let keys = match &self.key_file {
            Some(file) => Some(("encryption_key_file", file.display().to_string().into())),
            None if self.keys.is_empty() => None,
            None => Some(("encryption_key", "***".into())),
        };
        let mut settings = vec![
            ("path", path.into()),
            ("size", print_bytes(self.size_bytes)),
            ("max_value", print_bytes(self.max_value_bytes)),
            ("queue", print_bytes(self.queue_bytes)),
            ("admission", name(&ADMISSIONS, self.admission).into()),
            ("sync", name(&SYNCS, self.sync).into()),
            ("sync_interval", print_length(self.sync_interval)),
            (
                "write_rate",
                self.write_rate_bytes.map_or_else(|| OFF.into(), print_bytes),
            ),
            ("recovery", name(&RECOVERIES, self.recovery).into()),
            (
                "revalidate_from",
                self.revalidate_from_bytes.map_or_else(|| OFF.into(), print_bytes),
            ),
            ("readers", integer(self.readers)),
            ("compression", self.compression.print().into()),
            ("compress_from", print_bytes(self.compress_from_bytes)),
            ("write_plain", self.is_writing_plain.into()),
        ];
        settings.extend(keys);
        settings
    }
}

/// Under which name a choice is written.
fn name<T: PartialEq>(choices: &[(&'static str, T)], value: T) -> &'static str {
    choices
        .iter()
        .find(|(_, choice)| *choice == value)
        .map_or("", |&(name, _)| name)
}

const ADMISSIONS: [(&str, Admission); 3] = [
    ("all", Admission::All),
    ("second-sight", Admission::SecondSight),
    ("third-sight", Admission::ThirdSight),
];
const SYNCS: [(&str, Sync); 3] = [
    ("never", Sync::Never),
    ("interval", Sync::Interval),
    ("each-segment", Sync::EachSegment),
];
const RECOVERIES: [(&str, Recovery); 3] = [
    ("strict", Recovery::Strict),
    ("tolerate-torn-tail", Recovery::TolerateTornTail),
    ("salvage", Recovery::Salvage),
];
