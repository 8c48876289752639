//! What guards the bytes of one segment: the seed of its checksums and, if it is encrypted, its key.
//!
//! Encryption is AES-256-GCM under a key of the segment's own ([`super::keys`]); a footer has a key of its own, too, from a salt that
//! is drawn whenever one is written. **Why no nonce repeats under one key.** The nonce says what is encrypted and, of a record,
//! at which offset. A header is written once, when its salt has just been drawn. A record is written only by the process that drew
//! the salt, and at an offset behind all that it wrote before: a segment whose write fails takes no further record, and
//! nobody appends to a segment of an earlier life (recovery cuts off and adds a footer, which has a new salt). So neither a
//! crash nor a cut, nor what is read past damage, brings the same nonce again. Two salts of 96 random bits are equal by
//! chance with less than 2⁻³² after 2³² segments.
//!
//! Bytes that were moved to another offset, segment or directory of another key do not open: offset and salt are in nonce and key.

use std::io;
use std::sync::Arc;

use aes_gcm::{AeadInOut, Aes256Gcm};

use super::format::{Damage, Record};
use super::keys::{Key, KeyId, SALT_BYTES, Salt};

/// Of what is encrypted, to see that it was not changed.
pub const TAG_BYTES: usize = 16;
pub type Tag = [u8; TAG_BYTES];

pub struct Envelope {
    nonce: u64,
    sequence: u64,
    lock: Option<Lock>,
}

struct Lock {
    key: Arc<Key>,
    salt: Salt,
    cipher: Aes256Gcm,
}

/// What is encrypted; the first byte of its nonce.
#[derive(Clone, Copy)]
enum Part {
    Header = 0,
    Record = 1,
    Footer = 2,
}

impl Envelope {
    /// Of a segment in plain.
    pub fn plain(nonce: u64) -> Envelope {
        Envelope {
            nonce,
            sequence: 0,
            lock: None,
        }
    }

    /// Of the segment with this sequence and salt.
    pub fn locked(nonce: u64, sequence: u64, salt: Salt, key: &Arc<Key>) -> Envelope {
        Envelope {
            nonce,
            sequence,
            lock: Some(Lock {
                key: Arc::clone(key),
                salt,
                cipher: key.derive(&salt),
            }),
        }
    }

    /// Seed of the checksums.
    pub fn nonce(&self) -> u64 {
        self.nonce
    }

    /// The key; `None`: nothing is encrypted.
    pub fn key_id(&self) -> Option<KeyId> {
        self.lock.as_ref().map(|lock| lock.key.id())
    }

    /// Bytes that a record takes in this segment, without padding.
    pub fn length(&self, record: &Record<'_>) -> usize {
        record.length() + self.record_extra_bytes()
    }

    /// What a record takes besides what is in it.
    pub fn record_extra_bytes(&self) -> usize {
        if self.lock.is_some() { TAG_BYTES } else { 0 }
    }

    /// Encrypts the secrets of a header. `clear` is what stands in the open before them.
    pub fn lock_header(&self, clear: &[u8], secrets: &mut [u8]) -> Tag {
        match &self.lock {
            Some(lock) => seal(&lock.cipher, Part::Header, 0, clear, secrets),
            None => [0; TAG_BYTES],
        }
    }

    /// # Errors
    /// They were not encrypted with this key, or changed since.
    pub fn unlock_header(&self, clear: &[u8], secrets: &mut [u8], tag: &Tag) -> Result<(), Damage> {
        match &self.lock {
            Some(lock) => open(&lock.cipher, Part::Header, 0, clear, secrets, tag),
            None => Ok(()),
        }
    }

    /// Encrypts what of a record is behind its length. Nothing is encrypted: no tag.
    pub fn lock_record(&self, offset: u64, length: &[u8], body: &mut [u8]) -> Option<Tag> {
        let lock = self.lock.as_ref()?;
        Some(seal(&lock.cipher, Part::Record, offset, length, body))
    }

    /// Decrypts in place what is behind the length of a record, and returns it. What cannot be decrypted stays as it is.
    ///
    /// # Errors
    /// It was not written to this place, or changed since.
    pub fn unlock_record<'a>(&self, offset: u64, length: &[u8], body: &'a mut [u8]) -> Result<&'a [u8], Damage> {
        let Some(lock) = &self.lock else { return Ok(body) };
        let (body, tag) = body.split_last_chunk_mut().ok_or(Damage::Field)?;
        open(&lock.cipher, Part::Record, offset, length, body, tag)?;
        Ok(body)
    }

    /// Encrypts the rows of a footer under a new salt; `clear` is what the trailer says of them. In plain both are zeros.
    ///
    /// # Errors
    /// The system has no random bytes.
    pub fn lock_rows(&self, clear: &[u8], rows: &mut [u8]) -> io::Result<(Salt, Tag)> {
        let Some(lock) = &self.lock else {
            return Ok(([0; SALT_BYTES], [0; TAG_BYTES]));
        };
        let salt = random_salt()?;
        let tag = seal(
            &lock.key.derive(&salt),
            Part::Footer,
            0,
            &lock.bind(self.sequence, clear),
            rows,
        );
        Ok((salt, tag))
    }

    /// # Errors
    /// They are not of this segment, or changed since.
    pub fn unlock_rows(&self, clear: &[u8], salt: &Salt, rows: &mut [u8], tag: &Tag) -> Result<(), Damage> {
        let Some(lock) = &self.lock else { return Ok(()) };
        let bound = lock.bind(self.sequence, clear);
        open(&lock.key.derive(salt), Part::Footer, 0, &bound, rows, tag)
    }
}

impl Lock {
    /// The key of a footer knows nothing of its segment, so this is said beside it.
    fn bind(&self, sequence: u64, clear: &[u8]) -> Vec<u8> {
        [&sequence.to_le_bytes()[..], &self.salt, clear].concat()
    }
}

/// A salt that nobody can foretell.
///
/// # Errors
/// The system has none.
pub fn random_salt() -> io::Result<Salt> {
    let mut salt = [0; SALT_BYTES];
    let mut done = 0;
    while done < SALT_BYTES {
        match rustix::rand::getrandom(&mut salt[done..], rustix::rand::GetRandomFlags::empty()) {
            Ok(drawn) => done += drawn,
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(salt)
}

fn nonce(part: Part, offset: u64) -> [u8; 12] {
    let mut nonce = [part as u8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    nonce[4..].copy_from_slice(&offset.to_le_bytes());
    nonce
}

fn seal(cipher: &Aes256Gcm, part: Part, offset: u64, clear: &[u8], bytes: &mut [u8]) -> Tag {
    let sealed = cipher.encrypt_inout_detached(&nonce(part, offset).into(), clear, bytes.into());
    match sealed {
        Ok(tag) => tag.into(),
        // Only of more than 64 GiB, a thousand times what a segment may be; no tag of this kind is ever right.
        Err(_) => [0; TAG_BYTES],
    }
}

fn open(cipher: &Aes256Gcm, part: Part, offset: u64, clear: &[u8], bytes: &mut [u8], tag: &Tag) -> Result<(), Damage> {
    cipher
        .decrypt_inout_detached(&nonce(part, offset).into(), clear, bytes.into(), &(*tag).into())
        .map_err(|_| Damage::Tag)
}

#[cfg(test)]
mod tests;
