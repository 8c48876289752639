use super::First;

fn words(input: &[u8]) -> Option<(Vec<String>, Option<usize>)> {
    let first = First::of(input)?;
    let words = first.args().iter().map(|arg| String::from_utf8_lossy(arg).into_owned());
    Some((words.collect(), first.len))
}

#[test]
fn a_whole_request_an_inline_one_and_the_start_of_one() {
    let get = b"*2\r\n$3\r\nGET\r\n$1\r\nk\r\n";
    let both = ["GET".to_owned(), "k".to_owned()].to_vec();
    assert_eq!(
        words(&[get, &b"*1\r\n"[..]].concat()),
        Some((both.clone(), Some(get.len())))
    );
    assert_eq!(words(b"GET \"k\"\r\nSET"), Some((both.clone(), Some(9))));
    assert_eq!(words(b"*3\r\n$3\r\nGET\r\n$1\r\nk\r\n$9\r\nab"), Some((both, None)));
    assert_eq!(words(b"SET a b"), Some((Vec::new(), None)), "no end of the line yet");
}

#[test]
fn what_is_no_request() {
    for nothing in [&b"*0\r\n"[..], b"\r\n", b"*1\r\nGET\r\n"] {
        assert_eq!(words(nothing), None);
    }
    let part = First::of(b"*2\r\n$4\r\nAUTH\r\n").unwrap();
    assert!(part.whole().is_none() && part.args().len() == 1);
}
