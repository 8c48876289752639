//! Why the store cannot be opened, in words that name the file and what to do.

use std::io;

use super::format;
use super::keys::{KeyId, listed};

/// Why the store cannot be opened.
#[derive(Debug)]
pub enum OpenError {
    /// Another process has it.
    Locked(String),
    /// A segment of a version that this program does not know, or of a key that it was not given. Nothing was changed.
    Unknown {
        file: String,
        damage: format::Damage,
        /// The keys that were given.
        keys: Vec<KeyId>,
    },
    Io(String, io::Error),
}

impl std::fmt::Display for OpenError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            OpenError::Locked(place) => write!(
                f,
                "{place} is in use by another process: each process needs a directory of its own"
            ),
            OpenError::Unknown { file, damage, keys } => {
                write!(f, "the segment {file} cannot be used: {damage}")?;
                match (damage, keys.as_slice()) {
                    (format::Damage::Key(_), []) => f.write_str("; nor was any other: give it, or move the file away"),
                    (format::Damage::Key(_), keys) => {
                        write!(f, " (given: {}); give it, too, or move the file away", listed(keys))
                    }
                    _ => f.write_str("; run that version, or move the file away"),
                }
            }
            OpenError::Io(what, error) => write!(f, "{what}: {error}"),
        }
    }
}

impl std::error::Error for OpenError {}
