//! What counts as a number, and where a header line ends.

use super::*;

#[test]
fn numbers_are_those_of_string2ll() {
    for (text, expected) in [
        ("0", Some(0)),
        ("1", Some(1)),
        ("-1", Some(-1)),
        ("10", Some(10)),
        ("9223372036854775807", Some(i64::MAX)),
        ("-9223372036854775808", Some(i64::MIN)),
        ("9223372036854775808", None),
        ("-9223372036854775809", None),
        ("99999999999999999999999", None),
        ("", None),
        ("-", None),
        ("-0", None),
        ("+1", None),
        ("01", None),
        ("00", None),
        (" 1", None),
        ("1 ", None),
        ("1a", None),
        ("--1", None),
    ] {
        assert_eq!(parse(text.as_bytes()), expected, "{text:?}");
    }
}

#[test]
fn fast_and_thorough_reading_of_a_header_agree() {
    for text in [
        "0",
        "1",
        "16",
        "01",
        "-1",
        "",
        "123456789012345678",
        "1234567890123456789",
        "9223372036854775808",
        "1x",
    ] {
        let line = format!("${text}\r\n");
        let expected = match parse(text.as_bytes()) {
            Some(value) => Header::Number(value, line.len()),
            None => Header::Bad,
        };
        assert_eq!(header(line.as_bytes(), 0, &mut 0), expected, "{text:?}");
        for cut in 0..line.len() {
            assert_eq!(
                header(&line.as_bytes()[..cut], 0, &mut 0),
                Header::More,
                "{text:?} cut at {cut}"
            );
        }
    }
}

#[test]
fn a_header_may_have_64_kib_and_not_a_byte_more() {
    let mut line = vec![b'1'; MAX_HEADER_BYTES];
    assert_eq!(header(&line, 0, &mut 0), Header::More);
    line.extend_from_slice(b"\r\n");
    assert_eq!(header(&line, 0, &mut 0), Header::Bad);
    line.insert(0, b'$');
    assert_eq!(header(&line, 0, &mut 0), Header::TooLong);
    assert_eq!(header(&line[..=MAX_HEADER_BYTES], 0, &mut 0), Header::TooLong);
}
