//! What a client may announce, and how Redis says that it went too far.
//!
//! A limit is checked when a header is read, before a byte of what it announces arrives, so a request that breaks one
//! costs no memory. Sessions choose the limits anew for each request, because `AUTH` changes them.

use std::fmt;

/// Bounds of one request. Sizes in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Most arguments in one request, the command's name included.
    pub max_args: u64,
    /// Longest argument.
    pub max_bulk_bytes: u64,
    /// Longest inline request, its line end not included.
    pub max_inline_bytes: usize,
}

impl Limits {
    /// What Redis 7.0 allows by default: `INT_MAX` arguments, `proto-max-bulk-len`, `PROTO_INLINE_MAX_SIZE`.
    pub const AUTHENTICATED: Limits = Limits {
        max_args: 2_147_483_647,
        max_bulk_bytes: 512 * 1024 * 1024,
        max_inline_bytes: 64 * 1024,
    };

    /// What Redis (since 6.2.6) allows a client that has yet to prove who it is.
    pub const UNAUTHENTICATED: Limits = Limits {
        max_args: 10,
        max_bulk_bytes: 16_384,
        max_inline_bytes: 64 * 1024,
    };

    /// The number of arguments that a `*` line announced; none for zero and below.
    pub(super) fn args(&self, announced: i64) -> Result<u32, ProtocolError> {
        let count = u64::try_from(announced).unwrap_or(0);
        if count <= self.max_args {
            // A configured maximum above Redis' own cannot be kept in the scanner's counter.
            return u32::try_from(count).map_err(|_| ProtocolError::InvalidMultibulkLength);
        }
        Err(
            if *self == Limits::UNAUTHENTICATED && count <= Limits::AUTHENTICATED.max_args {
                ProtocolError::UnauthenticatedMultibulk
            } else {
                ProtocolError::InvalidMultibulkLength
            },
        )
    }

    /// The length that a `$` line of a request announced.
    pub(super) fn bulk(&self, announced: i64) -> Result<u64, ProtocolError> {
        let Ok(len) = u64::try_from(announced) else {
            return Err(ProtocolError::InvalidBulkLength);
        };
        if len <= self.max_bulk_bytes {
            return Ok(len);
        }
        Err(
            if *self == Limits::UNAUTHENTICATED && len <= Limits::AUTHENTICATED.max_bulk_bytes {
                ProtocolError::UnauthenticatedBulk
            } else {
                ProtocolError::InvalidBulkLength
            },
        )
    }
}

/// Longest `*` or `$` line of a request, up to its carriage return (`PROTO_INLINE_MAX_SIZE` in Redis).
pub const MAX_HEADER_BYTES: usize = 64 * 1024;

/// Why a request cannot be understood. The session writes `-ERR ` and the [`ProtocolError::text`], then closes; after
/// [`ProtocolError::CrossProtocol`] it closes without a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProtocolError {
    /// A `*` line without a number, or above the limit.
    InvalidMultibulkLength,
    /// A `$` line without a number, negative, or above the limit; or a request that would pass 4 GiB in one piece.
    InvalidBulkLength,
    /// More arguments than an unauthenticated client may send.
    UnauthenticatedMultibulk,
    /// A longer argument than an unauthenticated client may send.
    UnauthenticatedBulk,
    /// An argument began with this byte.
    ExpectedDollar(u8),
    /// An inline request without an end.
    TooBigInline,
    /// A `*` line without an end.
    TooBigMbulkCount,
    /// A `$` line without an end.
    TooBigBulkCount,
    /// An inline request whose quotes do not match.
    UnbalancedQuotes,
    /// A browser or another HTTP client was talked into sending a request here: `POST …` or `Host:` as command.
    CrossProtocol,
}

impl fmt::Display for ProtocolError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Protocol error: ")?;
        f.write_str(match self {
            ProtocolError::InvalidMultibulkLength => "invalid multibulk length",
            ProtocolError::InvalidBulkLength => "invalid bulk length",
            ProtocolError::UnauthenticatedMultibulk => "unauthenticated multibulk length",
            ProtocolError::UnauthenticatedBulk => "unauthenticated bulk length",
            ProtocolError::ExpectedDollar(got) => return write!(f, "expected '$', got '{}'", char::from(*got)),
            ProtocolError::TooBigInline => "too big inline request",
            ProtocolError::TooBigMbulkCount => "too big mbulk count string",
            ProtocolError::TooBigBulkCount => "too big bulk count string",
            ProtocolError::UnbalancedQuotes => "unbalanced quotes in request",
            ProtocolError::CrossProtocol => "request of another protocol",
        })
    }
}

impl std::error::Error for ProtocolError {}

impl ProtocolError {
    /// As the server says it, byte for byte.
    pub fn text(&self) -> Vec<u8> {
        match self {
            ProtocolError::ExpectedDollar(got) => [b"Protocol error: expected '$', got '", &[*got][..], b"'"].concat(),
            other => other.to_string().into_bytes(),
        }
    }
}

#[cfg(test)]
mod tests;
