//! Sizes and durations as people write them: `256MiB`, `500ms`, `1m30s`.
//!
//! Configuration, environment and flags all read through here, so that a unit means the same everywhere;
//! what is printed parses back to the same value. Pure functions, used at start only. Units: bytes and
//! [`Duration`], exact, no fractions, whole microseconds at the finest. A bare number is refused (except 0): a number whose unit
//! must be guessed is how a cache becomes a thousand times too large.

use std::fmt;
use std::time::Duration;

/// Reads a size such as `0`, `512B`, `64KiB`, `1MB`. `KiB`, `MiB`, `GiB`, `TiB` are powers of 1024;
/// `KB`, `MB`, `GB`, `TB` powers of 1000. Case does not matter.
///
/// # Errors
/// Says what is wrong in words fit for the person who wrote it.
pub fn parse_bytes(text: &str) -> Result<u64, UnitError> {
    let text = text.trim();
    let (number, unit) = split_number(text).ok_or(UnitError::NotASize)?;
    if unit.is_empty() {
        return if number == 0 {
            Ok(0)
        } else {
            Err(UnitError::SizeWithoutUnit)
        };
    }
    let factor = BYTE_UNITS
        .iter()
        .find(|(name, _)| name.eq_ignore_ascii_case(unit))
        .map(|&(_, factor)| factor)
        .ok_or(UnitError::NotASize)?;
    number.checked_mul(factor).ok_or(UnitError::TooLarge)
}

/// Reads a duration such as `0`, `500ms`, `10s`, `1m30s`, `1h`, `2d`; `us` is the finest unit.
///
/// # Errors
/// Says what is wrong in words fit for the person who wrote it.
pub fn parse_duration(text: &str) -> Result<Duration, UnitError> {
    let mut rest = text.trim();
    if rest == "0" {
        return Ok(Duration::ZERO);
    }
    if rest.is_empty() {
        return Err(UnitError::NotADuration);
    }
    let mut total = Duration::ZERO;
    while !rest.is_empty() {
        let (number, after) = split_number(rest).ok_or(UnitError::NotADuration)?;
        let end = after.find(|c: char| c.is_ascii_digit()).unwrap_or(after.len());
        let (unit, tail) = after.split_at(end);
        if unit.is_empty() {
            return Err(UnitError::DurationWithoutUnit);
        }
        let micros = DURATION_UNITS
            .iter()
            .find(|(name, _)| name.eq_ignore_ascii_case(unit))
            .map(|&(_, micros)| micros)
            .ok_or(UnitError::NotADuration)?;
        let part = number.checked_mul(micros).ok_or(UnitError::TooLarge)?;
        total = total
            .checked_add(Duration::from_micros(part))
            .ok_or(UnitError::TooLarge)?;
        rest = tail;
    }
    Ok(total)
}

/// A size that prints in the largest binary unit that holds it exactly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bytes(pub u64);

/// A duration that prints in the largest unit that holds it exactly, down to microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Length(pub Duration);

/// Why a size or a duration could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnitError {
    /// Not a number followed by a unit of size.
    NotASize,
    /// Not numbers followed by units of time.
    NotADuration,
    /// A size without a unit, and not 0.
    SizeWithoutUnit,
    /// A duration without a unit, and not 0.
    DurationWithoutUnit,
    /// Does not fit 64 bits.
    TooLarge,
}

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, factor) = PRINTED_BYTE_UNITS
            .into_iter()
            .find(|(_, factor)| self.0 != 0 && self.0.is_multiple_of(*factor))
            .unwrap_or(("B", 1));
        write!(f, "{}{name}", self.0 / factor)
    }
}

impl fmt::Display for Length {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let micros = self.0.as_micros();
        let (name, factor) = PRINTED_DURATION_UNITS
            .into_iter()
            .find(|(_, factor)| micros != 0 && micros.is_multiple_of(*factor))
            .unwrap_or(("s", 1_000_000));
        write!(f, "{}{name}", micros / factor)
    }
}

impl fmt::Display for UnitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotASize => "is not a size (write a whole number and a unit, for example 64KiB, 256MiB, 4GiB)",
            Self::NotADuration => {
                "is not a duration (write a whole number and a unit, for example 500ms, 10s, 1m30s, 2h)"
            }
            Self::SizeWithoutUnit => "needs a unit (B, KiB, MiB, GiB, TiB)",
            Self::DurationWithoutUnit => "needs a unit (us, ms, s, m, h, d)",
            Self::TooLarge => "is too large",
        })
    }
}

impl std::error::Error for UnitError {}

/// The leading decimal number and what follows it.
fn split_number(text: &str) -> Option<(u64, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, rest) = text.split_at(end);
    Some((digits.parse().ok()?, rest.trim_start()))
}

const BYTE_UNITS: [(&str, u64); 9] = [
    ("B", 1),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
    ("KB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
];
const PRINTED_BYTE_UNITS: [(&str, u64); 4] = [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
const DURATION_UNITS: [(&str, u64); 6] = [
    ("us", 1),
    ("ms", 1_000),
    ("s", 1_000_000),
    ("m", 60_000_000),
    ("h", 3_600_000_000),
    ("d", 86_400_000_000),
];
const PRINTED_DURATION_UNITS: [(&str, u128); 6] = [
    ("d", 86_400_000_000),
    ("h", 3_600_000_000),
    ("m", 60_000_000),
    ("s", 1_000_000),
    ("ms", 1_000),
    ("us", 1),
];

#[cfg(test)]
mod tests;
