//! Passwords that may stand in a file of their own, which is read whenever the configuration is.

use std::path::{Path, PathBuf};

use super::reader::{HereOrInFile, Reader};
use super::{Origin, Printed, Secret};

/// A password, or that there is none.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Password {
    /// What it is now.
    pub value: Option<Secret>,
    /// The file from which it comes.
    pub file: Option<PathBuf>,
}

/// A password and the option that sets it.
pub(super) struct Sourced {
    pub password: Password,
    pub set_by: Option<(&'static str, Origin)>,
}

impl Password {
    pub(super) fn fixed(value: Secret) -> Self {
        Self {
            value: Some(value),
            file: None,
        }
    }

    pub(super) fn file_setting(&self, name: &'static str) -> Option<Printed> {
        let file = self.file.as_ref()?;
        Some((name, file.display().to_string().into()))
    }

    pub(super) fn setting(&self, name: &'static str, file_name: &'static str) -> Option<Printed> {
        let value = self.value.as_ref().map(|value| (name, value.to_string().into()));
        self.file_setting(file_name).or(value)
    }
}

/// Reads a password that one option gives and another one gives the file of.
pub(super) fn read(reader: &mut Reader, key: &'static str, file_key: &'static str) -> Sourced {
    let value = reader.text(key).filter(|password| !password.is_empty());
    let (password, set_by) = match reader.here_or_in_file(value, key, file_key) {
        None => (Password::default(), None),
        Some(HereOrInFile::Here(value)) => (Password::fixed(Secret::new(value)), Some(key)),
        Some(HereOrInFile::InFile(file)) => {
            let read = read_file(&file).map(|value| Password {
                value: Some(value),
                file: Some(file),
            });
            let password = read.unwrap_or_else(|why| {
                reader.problem(file_key, why);
                Password::default()
            });
            (password, Some(file_key))
        }
    };
    let set_by = set_by.and_then(|key| Some((key, reader.origin(key)?)));
    Sourced { password, set_by }
}

/// All of the file but the line break at its end.
fn read_file(file: &Path) -> Result<Secret, String> {
    let mut bytes = std::fs::read(file).map_err(|e| format!("{} cannot be read: {e}", file.display()))?;
    while matches!(bytes.last(), Some(b'\n' | b'\r')) {
        bytes.pop();
    }
    if bytes.is_empty() {
        return Err(format!("{} is empty", file.display()));
    }
    Ok(Secret::new(bytes))
}
