//! A password that cannot be printed by accident.
//!
//! Owned by the configuration for the life of the process. Promises: `Debug` and `Display` never show the
//! bytes, and comparison with what a client sent takes the same time wherever the two differ (their lengths
//! may show). Does not promise to wipe memory.

use std::fmt;
use subtle::ConstantTimeEq;

/// Bytes of a password; Redis passwords need not be text.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Box<[u8]>);

impl Secret {
    /// Takes the bytes of a password.
    pub fn new(bytes: impl Into<Vec<u8>>) -> Self {
        Self(bytes.into().into_boxed_slice())
    }

    /// The bytes, for the one place that sends them.
    #[must_use]
    pub fn expose(&self) -> &[u8] {
        &self.0
    }

    /// Whether `offered` is this password, in constant time.
    #[must_use]
    pub fn matches(&self, offered: &[u8]) -> bool {
        self.0.ct_eq(offered).into()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(MASK)
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(MASK)
    }
}

const MASK: &str = "***";
