//! Words of inline requests, checked against redis-server 7.0.15.

use super::*;

#[test]
fn lines_split_as_redis_splits_them() {
    let table: &[(&[u8], &[&[u8]])] = &[
        (b"", &[]),
        (b"  \t ", &[]),
        (b"PING", &[b"PING"]),
        (b"  GET   key  ", &[b"GET", b"key"]),
        (b"a\tb\rc\nd", &[b"a", b"b", b"c", b"d"]),
        (b"\x0ba\x0bb\x0c", &[b"a\x0bb\x0c"]),
        (b"SET k \"a b\"", &[b"SET", b"k", b"a b"]),
        (b"\"\"", &[b""]),
        (b"''", &[b""]),
        (b"'' \"\" x", &[b"", b"", b"x"]),
        (br#""\x41\n\r\t\b\a\\\"""#, &[b"A\n\r\t\x08\x07\\\""]),
        (br#""\xfF\x0""#, &[b"\xffx0"]),
        (br#""\q\xZZ""#, &[b"qxZZ"]),
        (br"'a\'b'", &[b"a'b"]),
        (br"'a\nb'", &[br"a\nb"]),
        (br"a\x41\n", &[br"a\x41\n"]),
        (br#"a"b c""#, &[b"ab c"]),
        (br"a'b c' d", &[b"ab c", b"d"]),
        (b"'a'\x0bb", &[b"a", b"b"]),
        (b"caf\xc3\xa9 \xff", &[b"caf\xc3\xa9", b"\xff"]),
        (b"\"a\nb\"", &[b"a\nb"]),
    ];
    for (line, expected) in table {
        let words = split(line).unwrap_or_else(|error| panic!("{}: {error}", line.escape_ascii()));
        assert_eq!(words, *expected, "{}", line.escape_ascii());
    }
}

#[test]
fn quotes_that_do_not_match_are_refused() {
    for line in [
        r#"""#,
        "'",
        r#"a "b"#,
        "a 'b",
        r#""a"b"#,
        "'a'b",
        r#""\""#,
        r"'\'",
        r#""a""b""#,
        r#"""""#,
        r#""\"#,
    ] {
        assert_eq!(split(line.as_bytes()), Err(ProtocolError::UnbalancedQuotes), "{line}");
    }
}
