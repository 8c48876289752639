use bytes::Bytes;

use super::{Merge, merged, without_address};

fn merge(merge: &Merge, frames: &[&'static str]) -> String {
    let frames: Vec<Bytes> = frames
        .iter()
        .map(|frame| Bytes::from_static(frame.as_bytes()))
        .collect();
    String::from_utf8(merged(merge, "del", &frames)).unwrap()
}

#[test]
fn values_come_in_the_order_of_the_keys() {
    let places = Merge::Values([(1, 0), (0, 0), (1, 1), (0, 0)].into());
    assert_eq!(
        merge(&places, &["*1\r\n$1\r\na\r\n", "*2\r\n_\r\n$1\r\nb\r\n"]),
        "*4\r\n_\r\n$1\r\na\r\n$1\r\nb\r\n$1\r\na\r\n"
    );
}

#[test]
fn numbers_and_arrays_become_one() {
    assert_eq!(merge(&Merge::Sum, &[":1\r\n", ":41\r\n"]), ":42\r\n");
    assert_eq!(merge(&Merge::Least, &[":7\r\n", ":2\r\n"]), ":2\r\n");
    assert_eq!(merge(&Merge::First, &["+OK\r\n", "+OK\r\n"]), "+OK\r\n");
    assert_eq!(merge(&Merge::AnyGood, &["-NOTBUSY\r\n", "+OK\r\n"]), "+OK\r\n");
    assert_eq!(
        merge(&Merge::AnyGood, &["-NOTBUSY\r\n", "-NOTBUSY\r\n"]),
        "-NOTBUSY\r\n"
    );
    assert_eq!(
        merge(&Merge::Union, &["*1\r\n+a\r\n", "*0\r\n", "*2\r\n+b\r\n+a\r\n"]),
        "*2\r\n+a\r\n+b\r\n"
    );
    assert_eq!(
        merge(&Merge::LeastOfEach, &["*2\r\n:1\r\n:0\r\n", "*2\r\n:1\r\n:1\r\n"]),
        "*2\r\n:1\r\n:0\r\n"
    );
    assert_eq!(
        merge(
            &Merge::Counts,
            &["*4\r\n+a\r\n:1\r\n+b\r\n:0\r\n", "*4\r\n+a\r\n:2\r\n+b\r\n:5\r\n"]
        ),
        "*4\r\n+a\r\n:3\r\n+b\r\n:5\r\n"
    );
}

#[test]
fn an_error_of_some_says_how_much_was_done_and_one_of_all_is_their_own() {
    let some = merge(&Merge::Sum, &[":1\r\n", "-OOM no\r\n", ":1\r\n"]);
    assert!(some.starts_with("-ERR nearcache: DEL was carried out in 2 of 3 parts") && some.ends_with("OOM no\r\n"));
    assert_eq!(merge(&Merge::Sum, &["-OOM no\r\n", "-OOM no\r\n"]), "-OOM no\r\n");
    assert!(merge(&Merge::Sum, &["+OK\r\n"]).starts_with("-ERR nearcache: the replies"));
    assert!(without_address(b"-MOVED 1 h:1\r\n").is_some() && without_address(b"-ERR x\r\n").is_none());
}
