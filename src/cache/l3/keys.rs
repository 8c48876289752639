//! The keys that segments are encrypted with: which one writes, and which others still read.
//!
//! A key never encrypts data itself. Each segment, and each footer, has one of its own, made from the key and a salt of 96
//! random bits as XAES-256-GCM makes it (C2SP, `XAES-256-GCM.md`: a CMAC key derivation in counter mode, NIST SP 800-108r1, of
//! AES-256). So a number may count as a nonce within a segment, and what is read of one segment's key tells nothing of another's.
//!
//! Keys are wiped when the last user drops them. Nothing here prints one; what is told of it is its [`KeyId`].

use std::fmt;
use std::sync::Arc;

use aes_gcm::aes::Aes256;
use aes_gcm::aes::cipher::{Array, BlockCipherEncrypt};
use aes_gcm::{Aes256Gcm, KeyInit};
use zeroize::Zeroizing;

/// Bytes of a key.
pub const KEY_BYTES: usize = 32;
pub const SALT_BYTES: usize = 12;
pub type Salt = [u8; SALT_BYTES];

/// Names a key without telling anything of it: half of a block that is encrypted with it. 0 stands for no key.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId(pub u64);

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What is encrypted for the [`KeyId`].
const ID_OF: [u8; 16] = *b"nearcache key id";

pub struct Key {
    id: KeyId,
    cipher: Aes256,
    /// The first subkey of CMAC.
    mask: Zeroizing<[u8; 16]>,
}

impl Key {
    fn new(bytes: &[u8; KEY_BYTES]) -> Key {
        let cipher = Aes256::new(&Array::from(*bytes));
        let id = encrypt(&cipher, ID_OF);
        let mask = double(&encrypt(&cipher, [0; 16]));
        let (half, _) = id.split_at(8);
        Key {
            id: KeyId(half.iter().fold(0, |id, &byte| id << 8 | u64::from(byte)).max(1)),
            cipher,
            mask,
        }
    }

    pub fn id(&self) -> KeyId {
        self.id
    }

    /// The key that belongs to a salt.
    pub fn derive(&self, salt: &Salt) -> Aes256Gcm {
        let mut derived = Zeroizing::new([0; KEY_BYTES]);
        for (half, number) in derived.chunks_mut(16).zip(1..) {
            let mut block = [0, number, b'X', 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
            block[4..].copy_from_slice(salt);
            block.iter_mut().zip(&*self.mask).for_each(|(byte, mask)| *byte ^= mask);
            half.copy_from_slice(&*encrypt(&self.cipher, block));
        }
        Aes256Gcm::new((&*derived).into())
    }
}

fn encrypt(cipher: &Aes256, block: [u8; 16]) -> Zeroizing<[u8; 16]> {
    let mut block = Array::from(block);
    cipher.encrypt_block(&mut block);
    let encrypted = Zeroizing::new(block.into());
    zeroize::Zeroize::zeroize(block.as_mut_slice());
    encrypted
}

/// Twice the block in the field of CMAC (NIST SP 800-38B, 6.1), without a branch on what is in it.
fn double(block: &[u8; 16]) -> Zeroizing<[u8; 16]> {
    let number = u128::from_be_bytes(*block);
    let carry = (number >> 127) * 0b1000_0111;
    Zeroizing::new(((number << 1) ^ carry).to_be_bytes())
}

/// The keys of a store. Without any, nothing is encrypted.
#[derive(Clone, Default)]
pub struct KeyRing {
    /// Oldest first.
    keys: Vec<Arc<Key>>,
    is_writing: bool,
}

/// What new segments are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NewSegments {
    /// Encrypted with the last key, if there is one.
    Encrypted,
    /// In plain; the keys only read what is there.
    Plain,
}

impl KeyRing {
    /// Of keys, the newest last.
    pub fn new<'a>(keys: impl IntoIterator<Item = &'a [u8; KEY_BYTES]>, new_segments: NewSegments) -> KeyRing {
        KeyRing {
            keys: keys.into_iter().map(|bytes| Arc::new(Key::new(bytes))).collect(),
            is_writing: new_segments == NewSegments::Encrypted,
        }
    }

    /// The key that new segments are encrypted with. `None`: they are not.
    pub fn writing(&self) -> Option<&Arc<Key>> {
        self.keys.last().filter(|_| self.is_writing)
    }

    pub fn find(&self, id: KeyId) -> Option<&Arc<Key>> {
        self.keys.iter().find(|key| key.id == id)
    }

    pub fn ids(&self) -> Vec<KeyId> {
        self.keys.iter().map(|key| key.id).collect()
    }
}

impl fmt::Debug for KeyRing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.ids()).finish()
    }
}

/// For messages.
pub fn listed(keys: &[KeyId]) -> String {
    let ids: Vec<String> = keys.iter().map(KeyId::to_string).collect();
    ids.join(", ")
}

#[cfg(test)]
mod tests;
