//! Every function, in both versions, against bytes written by hand.

use super::Version::{Resp2, Resp3};
use super::*;

fn written(write: impl FnOnce(&mut Vec<u8>)) -> String {
    let mut out = Vec::new();
    write(&mut out);
    String::from_utf8(out).unwrap()
}

#[test]
fn values_of_one_form() {
    assert_eq!(written(|out| bulk(out, "abc")), "$3\r\nabc\r\n");
    assert_eq!(written(|out| bulk(out, b"")), "$0\r\n\r\n");
    assert_eq!(written(|out| simple(out, "OK")), "+OK\r\n");
    assert_eq!(written(|out| integer(out, i64::MIN)), ":-9223372036854775808\r\n");
    assert_eq!(written(|out| array_header(out, 12)), "*12\r\n");
}

#[test]
fn an_error_is_one_line() {
    assert_eq!(
        written(|out| error(out, "ERR no\r\n such\nthing")),
        "-ERR no   such thing\r\n"
    );
}

#[test]
fn values_of_two_forms() {
    assert_eq!(written(|out| null(out, Resp2)), "$-1\r\n");
    assert_eq!(written(|out| null(out, Resp3)), "_\r\n");
    assert_eq!(written(|out| null_array(out, Resp2)), "*-1\r\n");
    assert_eq!(written(|out| null_array(out, Resp3)), "_\r\n");
    assert_eq!(written(|out| map_header(out, Resp2, 7)), "*14\r\n");
    assert_eq!(written(|out| map_header(out, Resp3, 7)), "%7\r\n");
    assert_eq!(written(|out| set_header(out, Resp2, 2)), "*2\r\n");
    assert_eq!(written(|out| set_header(out, Resp3, 2)), "~2\r\n");
    assert_eq!(written(|out| push_header(out, Resp2, 3)), "*3\r\n");
    assert_eq!(written(|out| push_header(out, Resp3, 3)), ">3\r\n");
    assert_eq!(written(|out| verbatim(out, Resp2, "txt", "hello")), "$5\r\nhello\r\n");
    assert_eq!(
        written(|out| verbatim(out, Resp3, "txt", "hello")),
        "=9\r\ntxt:hello\r\n"
    );
    assert_eq!(written(|out| double(out, Resp2, "1.5")), "$3\r\n1.5\r\n");
    assert_eq!(written(|out| double(out, Resp3, "1.5")), ",1.5\r\n");
    assert_eq!(written(|out| boolean(out, Resp2, true)), ":1\r\n");
    assert_eq!(written(|out| boolean(out, Resp3, false)), "#f\r\n");
}

#[test]
fn a_command_is_an_array_of_bulks() {
    let args: [&[u8]; 2] = [b"GET", b"key"];
    assert_eq!(
        written(|out| command(out, args.into_iter())),
        "*2\r\n$3\r\nGET\r\n$3\r\nkey\r\n"
    );
}
