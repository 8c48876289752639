//! Keys that files on the disk are encrypted with: out of a file, or out of a text.
//!
//! They are wiped when dropped, and neither `Debug` nor any message shows one. A key that comes from the environment or from the
//! configuration file stays there, too; one from a file of its own is in no other place.

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use super::reader::{HereOrInFile, Reader};

/// Bytes of a key.
pub const KEY_BYTES: usize = 32;

/// AES-256 keys, the newest last.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Keys(Vec<Zeroizing<[u8; KEY_BYTES]>>);

impl Keys {
    /// Keys of 64 hexadecimal digits each, the newest last, with white space or commas between them; `#` begins a comment that ends
    /// with its line.
    ///
    /// # Errors
    /// What is wrong, and where; never what stands there.
    pub fn parse(text: &str) -> Result<Keys, String> {
        let mut keys = Keys::default();
        for (line, number) in text.lines().zip(1..) {
            let words = line.split('#').next().unwrap_or_default();
            for word in words.split([' ', '\t', ',', '\r']).filter(|word| !word.is_empty()) {
                let key = from_hex(word).ok_or_else(|| {
                    format!(
                        "line {number} has something else than keys of 64 hexadecimal digits (openssl rand -hex 32)"
                    )
                })?;
                if keys.0.contains(&key) {
                    return Err(format!("line {number} repeats a key"));
                }
                keys.0.push(key);
            }
        }
        match keys.0.as_slice() {
            [] => Err("there is no key; \"openssl rand -hex 32\" makes one".to_owned()),
            _ => Ok(keys),
        }
    }

    /// The keys in a file, which must be nobody's business but its owner's and group's.
    ///
    /// # Errors
    /// The file cannot be read, others can, or what is wrong in it.
    pub fn from_file(path: &Path) -> Result<Keys, String> {
        let name = path.display();
        let unreadable = |error| format!("{name} cannot be read: {error}");
        let file = File::open(path).map_err(unreadable)?;
        let mode = file.metadata().map_err(unreadable)?.permissions().mode() & 0o777;
        if mode & 0o027 != 0 {
            return Err(format!(
                "{name} can be used by others than its owner and its group (mode {mode:04o}): chmod 600 {name}"
            ));
        }
        // As large as it may get at once: what grows leaves its bytes behind.
        let mut text = Zeroizing::new(String::with_capacity(MOST_BYTES as usize + 1));
        file.take(MOST_BYTES + 1)
            .read_to_string(&mut text)
            .map_err(unreadable)?;
        if text.len() as u64 > MOST_BYTES {
            return Err(format!(
                "{name} is longer than {MOST_BYTES} bytes: it is no file of keys"
            ));
        }
        Keys::parse(&text).map_err(|why| format!("{name}: {why}"))
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The bytes of each, the newest last, for the one place that uses them.
    pub fn expose(&self) -> impl Iterator<Item = &[u8; KEY_BYTES]> {
        self.0.iter().map(|key| &**key)
    }
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} keys", self.0.len())
    }
}

const MOST_BYTES: u64 = 64 << 10;

fn from_hex(word: &str) -> Option<Zeroizing<[u8; KEY_BYTES]>> {
    let mut key = Zeroizing::new([0; KEY_BYTES]);
    if word.len() != 2 * KEY_BYTES {
        return None;
    }
    let (pairs, _) = word.as_bytes().as_chunks::<2>();
    for (byte, &[high, low]) in key.iter_mut().zip(pairs) {
        let digit = |c: u8| char::from(c).to_digit(16);
        *byte = (digit(high)? << 4 | digit(low)?) as u8;
    }
    Some(key)
}

/// Keys that one option gives and another one gives the file of, and that file.
pub(super) fn read(reader: &mut Reader, key: &'static str, file_key: &'static str) -> (Keys, Option<PathBuf>) {
    let value = reader.text(key).map(Zeroizing::new);
    let (option, read) = match reader.here_or_in_file(value, key, file_key) {
        Some(HereOrInFile::InFile(file)) => (file_key, Keys::from_file(&file).map(|keys| (keys, Some(file)))),
        Some(HereOrInFile::Here(text)) => (key, Keys::parse(&text).map(|keys| (keys, None))),
        None => return (Keys::default(), None),
    };
    read.unwrap_or_else(|why| {
        reader.problem(option, why);
        (Keys::default(), None)
    })
}

#[cfg(test)]
mod tests;
