//! Passwords that may stand in a file of their own, which is read whenever the configuration is.

use std::path::{Path, PathBuf};

use super::reader::Reader;
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

    /// The same as its file has it now.
    ///
    /// # Errors
    /// What is wrong with the file.
    #[cfg(test)]
    pub(super) fn reread(&self) -> Result<Self, String> {
        match &self.file {
            None => Ok(self.clone()),
            Some(file) => Ok(Self {
                value: Some(read_file(file)?),
                file: Some(file.clone()),
            }),
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
    let file = reader.text(file_key);
    let origin = |reader: &Reader, key: &'static str| reader.origin(key).map(|origin| (key, origin));
    let (mut password, mut set_by) = (Password::default(), None);
    if let Some(value) = value {
        password = Password::fixed(Secret::new(value));
        set_by = origin(reader, key);
    }
    if let Some(file) = file {
        let file_by = origin(reader, file_key);
        let rank = |by: &Option<(&'static str, Origin)>| by.as_ref().map(|(_, origin)| origin.rank());
        if set_by.is_some() && rank(&set_by) == rank(&file_by) {
            reader.problem(
                file_key,
                format!("has no effect together with {key}: remove one of them"),
            );
        } else if rank(&file_by) > rank(&set_by) {
            let file = PathBuf::from(file);
            match read_file(&file) {
                Ok(value) => {
                    password = Password {
                        value: Some(value),
                        file: Some(file),
                    }
                }
                Err(why) => reader.problem(file_key, why),
            }
            set_by = file_by;
        }
    }
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
