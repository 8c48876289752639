//! What is logged, and how. Logs go to standard error; standard output carries `listening on …` only.
//!
//! Read once at start; immutable afterwards.

use super::Printed;
use super::reader::Reader;

/// The settings of the log.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Log {
    /// The least serious level that is written; default info.
    pub level: LogLevel,
    /// One form for people, one for machines; default text.
    pub format: LogFormat,
}

/// Levels, the most serious first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogLevel {
    /// Something is lost or refused.
    Error,
    /// Something will need attention.
    Warn,
    /// What an operator wants to read afterwards.
    #[default]
    Info,
    /// For whoever looks for a fault.
    Debug,
    /// Everything.
    Trace,
}

/// The form of a log line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// One readable line for each event.
    #[default]
    Text,
    /// One JSON object for each event.
    Json,
}

impl LogLevel {
    /// The name, as `tracing` spells it too.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }
}

impl Log {
    pub(super) fn read(reader: &mut Reader) -> Self {
        Self {
            level: reader.choice("log.level", LogLevel::default(), &LEVELS),
            format: reader.choice("log.format", LogFormat::default(), &FORMATS),
        }
    }

    pub(super) fn settings(&self) -> Vec<Printed> {
        let format = match self.format {
            LogFormat::Text => "text",
            LogFormat::Json => "json",
        };
        vec![("level", self.level.name().into()), ("format", format.into())]
    }
}

const LEVELS: [(&str, LogLevel); 6] = [
    ("error", LogLevel::Error),
    ("warn", LogLevel::Warn),
    ("info", LogLevel::Info),
    ("debug", LogLevel::Debug),
    ("trace", LogLevel::Trace),
    ("warning", LogLevel::Warn),
];
const FORMATS: [(&str, LogFormat); 2] = [("text", LogFormat::Text), ("json", LogFormat::Json)];
