//! Numbers in header lines: read at every request and every reply, so the usual ones (a few digits) take a plain loop.
//!
//! Pure functions over bytes. They accept exactly what Redis' `string2ll` accepts, so that a request which Redis
//! refuses is refused here too.

use super::limits::MAX_HEADER_BYTES;

/// What is known of the header line of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Header {
    /// Its end has not arrived.
    More,
    /// Its number, and where the byte after the line is.
    Number(i64, usize),
    /// It is complete and holds no number.
    Bad,
    /// It has no end within [`MAX_HEADER_BYTES`].
    TooLong,
}

/// Reads the line whose type byte is at `from`. As in Redis it ends at a carriage return and whatever byte follows.
/// `looked` is how many of its bytes an earlier call has searched; the caller sets it to zero for a new line.
#[inline]
pub(super) fn header(buf: &[u8], from: usize, looked: &mut u32) -> Header {
    let line = buf.get(from..).unwrap_or_default();
    match plain(line) {
        Some((value, end)) if end + 1 < line.len() => Header::Number(value, from + end + 2),
        _ => unusual_header(buf, from, looked),
    }
}

/// The number after the first byte of a line and where its carriage return is, if it is one of not too many digits.
pub(super) fn plain(line: &[u8]) -> Option<(i64, usize)> {
    let digits = line.get(1..line.len().min(MAX_PLAIN_DIGITS + 2))?;
    let mut value = 0;
    for (index, byte) in digits.iter().enumerate() {
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 {
            // A zero stands alone, so a longer number with one in front is left to `parse`.
            let is_plain = *byte == b'\r' && index > 0 && (index == 1 || digits.first() != Some(&b'0'));
            return is_plain.then_some((value, index + 1));
        }
        // One digit too many may wrap, but then there is no answer.
        value = i64::wrapping_mul(value, 10).wrapping_add(i64::from(digit));
    }
    None
}

/// What a `$` line of one to three digits announces, and what follows the line: nearly every bulk that is read. The
/// line may end with any byte after its carriage return. `None` says nothing.
#[inline]
pub(super) fn short_bulk_header(buf: &[u8]) -> Option<(usize, &[u8])> {
    let digit = |byte: &u8| usize::from(byte.wrapping_sub(b'0'));
    match buf {
        [b'$', a @ b'0'..=b'9', b'\r', _, payload @ ..] => Some((digit(a), payload)),
        [b'$', a @ b'1'..=b'9', b @ b'0'..=b'9', b'\r', _, payload @ ..] => Some((digit(a) * 10 + digit(b), payload)),
        [
            b'$',
            a @ b'1'..=b'9',
            b @ b'0'..=b'9',
            c @ b'0'..=b'9',
            b'\r',
            _,
            payload @ ..,
        ] => Some((digit(a) * 100 + digit(b) * 10 + digit(c), payload)),
        _ => None,
    }
}

/// Where the line that starts at `from` has its carriage return, if the byte after it has arrived too.
/// `Err` when it is too long; `looked` as in [`header`].
pub(super) fn line_end(buf: &[u8], from: usize, looked: &mut u32) -> Result<Option<usize>, LineTooLong> {
    let line = buf.get(from..).unwrap_or_default();
    let within = line.get(..line.len().min(MAX_HEADER_BYTES + 1)).unwrap_or_default();
    let start = (*looked as usize).min(within.len());
    match memchr::memchr(b'\r', within.get(start..).unwrap_or_default()) {
        Some(found) if start + found + 1 < line.len() => Ok(Some(from + start + found)),
        Some(found) => {
            *looked = (start + found) as u32;
            Ok(None)
        }
        None if line.len() > MAX_HEADER_BYTES => Err(LineTooLong),
        None => {
            *looked = line.len() as u32;
            Ok(None)
        }
    }
}

/// A line without an end where one had to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LineTooLong;

/// A signed decimal number as Redis' `string2ll` takes it: no plus, no blanks, no leading zeros, no `-0`.
pub(super) fn parse(text: &[u8]) -> Option<i64> {
    let (is_negative, digits) = match text {
        [b'-', rest @ ..] => (true, rest),
        all => (false, all),
    };
    match digits {
        [b'0'] if !is_negative => return Some(0),
        [b'1'..=b'9', ..] => {}
        _ => return None,
    }
    let mut value = 0_i64;
    for byte in digits {
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 {
            return None;
        }
        // Downwards, because the least number has no positive twin.
        value = value.checked_mul(10)?.checked_sub(i64::from(digit))?;
    }
    if is_negative { Some(value) } else { value.checked_neg() }
}

/// As many digits as surely fit into an `i64`.
const MAX_PLAIN_DIGITS: usize = 18;

#[cold]
fn unusual_header(buf: &[u8], from: usize, looked: &mut u32) -> Header {
    match line_end(buf, from, looked) {
        Err(LineTooLong) => Header::TooLong,
        Ok(None) => Header::More,
        Ok(Some(end)) => match buf.get(from + 1..end).and_then(parse) {
            Some(value) => Header::Number(value, end + 2),
            None => Header::Bad,
        },
    }
}

#[cfg(test)]
mod tests;
