//! Sizes and durations: what is accepted, what is refused and why, and that printing parses back.

use super::{Bytes, Length, UnitError, parse_bytes, parse_duration};
use proptest::prelude::*;
use std::time::Duration;

#[test]
fn sizes_with_every_unit_are_read() {
    for (text, bytes) in [
        ("0", 0),
        ("17B", 17),
        ("64KiB", 65_536),
        ("256mib", 268_435_456),
        ("4 GiB", 4 << 30),
        ("1TiB", 1 << 40),
        ("2KB", 2_000),
        ("3MB", 3_000_000),
        (" 1GB ", 1_000_000_000),
    ] {
        assert_eq!(parse_bytes(text), Ok(bytes), "{text}");
    }
}

#[test]
fn sizes_that_leave_something_to_guess_are_refused() {
    assert_eq!(parse_bytes("256"), Err(UnitError::SizeWithoutUnit));
    for text in ["", "MiB", "-1MiB", "1.5GiB", "256M", "1MiBs", "0x10B", "١MiB"] {
        assert_eq!(parse_bytes(text), Err(UnitError::NotASize), "{text}");
    }
    assert_eq!(parse_bytes("18446744073709551615KiB"), Err(UnitError::TooLarge));
}

#[test]
fn durations_with_every_unit_are_read() {
    for (text, micros) in [
        ("0", 0),
        ("0s", 0),
        ("7us", 7),
        ("500ms", 500_000),
        ("10s", 10_000_000),
        ("15m", 900_000_000),
        ("1m30s", 90_000_000),
        ("1h", 3_600_000_000),
        ("2d", 172_800_000_000),
    ] {
        assert_eq!(parse_duration(text), Ok(Duration::from_micros(micros)), "{text}");
    }
}

#[test]
fn durations_that_leave_something_to_guess_are_refused() {
    assert_eq!(parse_duration("10"), Err(UnitError::DurationWithoutUnit));
    for text in ["", "s", "-1s", "1.5s", "10 weeks", "1s30"] {
        assert!(parse_duration(text).is_err(), "{text}");
    }
    assert_eq!(parse_duration("18446744073709551615h"), Err(UnitError::TooLarge));
}

proptest! {
    #[test]
    fn what_is_printed_is_read_back(number in any::<u64>(), micros in 0u64..u64::MAX) {
        prop_assert_eq!(parse_bytes(&Bytes(number).to_string()), Ok(number));
        let length = Duration::from_micros(micros);
        prop_assert_eq!(parse_duration(&Length(length).to_string()), Ok(length));
    }

    #[test]
    fn no_text_makes_the_readers_panic(text in ".{0,24}") {
        let _ = parse_bytes(&text);
        let _ = parse_duration(&text);
    }
}
