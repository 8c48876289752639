//! Frames whole and in pieces, measured against an independent decoder; and what the helpers see in them.

use proptest::prelude::*;

use super::super::samples::{self, Value};
use super::*;

/// Presents a frame as it would arrive: bytes not taken are presented again with more after them.
fn in_pieces(pieces: &[&[u8]]) -> Result<Option<usize>, FrameError> {
    let (mut scanner, mut pending, mut len) = (FrameScanner::default(), Vec::new(), 0);
    for piece in pieces {
        pending.extend_from_slice(piece);
        let (taken, is_complete) = scanner.advance(&pending)?;
        len += taken;
        if is_complete {
            assert!(scanner.is_between_frames());
            return Ok(Some(len));
        }
        assert_eq!(scanner.is_between_frames(), len == 0);
        pending.drain(..taken);
    }
    Ok(None)
}

fn assert_same_in_any_two_pieces_and_bytewise(bytes: &[u8]) {
    let expected = frame_len(bytes);
    for cut in 0..=bytes.len() {
        let (left, right) = bytes.split_at(cut);
        assert_eq!(
            in_pieces(&[left, right]),
            expected,
            "{} cut at {cut}",
            bytes.escape_ascii()
        );
    }
    let single: Vec<&[u8]> = bytes.chunks(1).collect();
    assert_eq!(in_pieces(&single), expected, "{} bytewise", bytes.escape_ascii());
}

#[test]
fn frames_of_every_type_end_where_they_end() {
    let frames: &[&[u8]] = &[
        b"+OK\r\n",
        b"+\r\n",
        b"+a\rb\nc\r\n",
        b"-ERR no\r\n",
        b":0\r\n",
        b":-12\r\n",
        b"$0\r\n\r\n",
        b"$5\r\nhe\r\no\r\n",
        b"$-1\r\n",
        b"*-1\r\n",
        b"*0\r\n",
        b"*2\r\n$1\r\na\r\n*1\r\n:1\r\n",
        b"_\r\n",
        b",3.1000000000000001\r\n",
        b",-inf\r\n",
        b"#t\r\n",
        b"!5\r\nERR x\r\n",
        b"=7\r\ntxt:abc\r\n",
        b"%2\r\n+a\r\n:1\r\n+b\r\n~1\r\n_\r\n",
        b"~1\r\n+a\r\n",
        b">2\r\n+invalidate\r\n*1\r\n$1\r\nk\r\n",
        b"|1\r\n+ttl\r\n:3600\r\n$1\r\nv\r\n",
        b"*2\r\n|1\r\n+k\r\n|0\r\n%0\r\n:1\r\n:2\r\n",
        b"(3492890328409238509324850943850943825024385\r\n",
        b"%0\r\n",
    ];
    for frame in frames {
        assert_eq!(frame_len(frame), Ok(Some(frame.len())), "{}", frame.escape_ascii());
        assert_eq!(
            frame_len(&[frame, b"+more\r\n".as_slice()].concat()),
            Ok(Some(frame.len()))
        );
        assert_same_in_any_two_pieces_and_bytewise(frame);
    }
}

#[test]
fn streams_out_of_step_are_noticed() {
    let table: &[(&[u8], FrameError)] = &[
        (b"GET\r\n", FrameError::UnknownType(b'G')),
        (b"\r\n", FrameError::UnknownType(b'\r')),
        (b"$x\r\n", FrameError::BadLength),
        (b"$-2\r\n", FrameError::BadLength),
        (b"$\r\n", FrameError::BadLength),
        (b"$01\r\n", FrameError::BadLength),
        (b"%-1\r\n", FrameError::BadLength),
        (b"~-1\r\n", FrameError::BadLength),
        (b"$?\r\n", FrameError::StreamedType),
        (b"*?\r\n", FrameError::StreamedType),
        (b"$2\r\nabcd", FrameError::BadTerminator),
        (b"$2\r\nab\r\r", FrameError::BadTerminator),
        (
            b"*1\r\n*9223372036854775807\r\n%9223372036854775807\r\n",
            FrameError::TooManyValues,
        ),
        (
            b"%9223372036854775807\r\n|1\r\n%9223372036854775807\r\n",
            FrameError::TooManyValues,
        ),
    ];
    for (bytes, error) in table {
        assert_eq!(frame_len(bytes), Err(*error), "{}", bytes.escape_ascii());
        assert_same_in_any_two_pieces_and_bytewise(bytes);
    }
}

#[test]
fn lines_have_bounds() {
    let line = |kind: u8, len: usize| [&[kind], vec![b'1'; len - 3].as_slice(), b"\r\n"].concat();
    for (kind, max) in [
        (b'+', MAX_TEXT_BYTES),
        (b'-', MAX_TEXT_BYTES),
        (b',', MAX_LINE_BYTES),
        (b'(', MAX_LINE_BYTES),
    ] {
        assert_eq!(frame_len(&line(kind, max)), Ok(Some(max)));
        assert_eq!(frame_len(&line(kind, max + 1)), Err(FrameError::LineTooLong));
        assert_eq!(frame_len(&line(kind, max + 5)[..max + 1]), Err(FrameError::LineTooLong));
        assert_eq!(frame_len(&line(kind, max + 5)[..max]), Ok(None));
    }
    assert_eq!(frame_len(&line(b'$', MAX_LINE_BYTES + 1)), Err(FrameError::LineTooLong));
}

#[test]
fn a_long_line_is_searched_once() {
    let line = [b"-ERR ".as_slice(), &vec![b'x'; MAX_TEXT_BYTES - 100], b"\r\n"].concat();
    let mut scanner = FrameScanner::default();
    for end in (1000..line.len()).step_by(1000) {
        assert_eq!(scanner.advance(&line[..end]), Ok((0, false)));
        assert_eq!(scanner.looked, end);
    }
    assert_eq!(scanner.advance(&line), Ok((line.len(), true)));
}

#[test]
fn a_payload_is_taken_as_it_comes() {
    let mut scanner = FrameScanner::default();
    assert_eq!(scanner.advance(b"*2\r\n$1000\r\nabc"), Ok((14, false)));
    assert_eq!(scanner.pending_payload(), 999);
    assert_eq!(scanner.advance(&[b'x'; 997]), Ok((997, false)));
    assert_eq!(scanner.advance(b"\r"), Ok((1, false)));
    assert_eq!(scanner.pending_payload(), 1);
    assert_eq!(scanner.advance(b"\n:1"), Ok((1, false)));
    assert_eq!(scanner.pending_payload(), 0);
    assert!(!scanner.is_between_frames());
    assert_eq!(scanner.advance(b":1\r\n+next\r\n"), Ok((4, true)));
    assert!(scanner.is_between_frames());
}

#[test]
fn depth_costs_nothing() {
    let mut bytes = b"*1\r\n".repeat(20_000);
    assert_eq!(frame_len(&bytes), Ok(None));
    bytes.extend_from_slice(b":1\r\n");
    assert_eq!(frame_len(&bytes), Ok(Some(80_004)));
    assert_eq!(elements(&bytes).map(|elements| elements.count()), Some(1));
}

#[test]
fn helpers_see_what_a_frame_holds() {
    assert_eq!(bulk(b"$3\r\nabc\r\n"), Some(Some(&b"abc"[..])));
    assert_eq!(bulk(b"$-1\r\n"), Some(None));
    assert_eq!(bulk(b"_\r\n"), Some(None));
    assert_eq!(bulk(b"+abc\r\n"), None);
    assert_eq!(integer(b":-42\r\n"), Some(-42));
    assert_eq!(integer(b":x\r\n"), None);
    assert_eq!(integer(b"$1\r\n1\r\n"), None);
    assert!(is_error(b"-ERR x\r\n") && is_error(b"!3\r\nERR\r\n") && !is_error(b"+x\r\n") && !is_error(b""));
    assert_eq!(text(b"+OK\r\n"), Some(&b"OK"[..]));
    assert_eq!(text(b"$2\r\nOK\r\n"), Some(&b"OK"[..]));
    assert_eq!(text(b"=6\r\ntxt:OK\r\n"), Some(&b"OK"[..]));
    assert_eq!(text(b"=2\r\ntx\r\n"), None);
    assert_eq!(text(b"$-1\r\n"), None);
    let map = elements(b"%2\r\n+a\r\n:1\r\n+b\r\n*1\r\n_\r\n").unwrap();
    assert_eq!(map.len(), 4);
    assert_eq!(
        map.collect::<Vec<_>>(),
        [&b"+a\r\n"[..], b":1\r\n", b"+b\r\n", b"*1\r\n_\r\n"]
    );
    assert!(elements(b"*0\r\n").unwrap().is_empty());
    assert!(elements(b"*-1\r\n").is_none() && elements(b"_\r\n").is_none() && elements(b"$1\r\na\r\n").is_none());
}

#[test]
fn helpers_look_behind_attributes() {
    assert_eq!(bulk(b"|1\r\n+k\r\n+v\r\n$1\r\na\r\n"), Some(Some(&b"a"[..])));
    assert_eq!(integer(b"|0\r\n|0\r\n:7\r\n"), Some(7));
    let array = elements(b"|0\r\n*2\r\n|1\r\n+k\r\n+v\r\n:1\r\n:2\r\n").unwrap();
    assert_eq!(array.collect::<Vec<_>>(), [&b":1\r\n"[..], b":2\r\n"]);
}

#[test]
fn helpers_survive_what_is_no_frame() {
    assert!(
        elements(b"*2147483647\r\n:1\r\n").is_none(),
        "a made-up count must not be reserved for"
    );
    assert_eq!(elements(b"*2\r\n:1\r\nxxxxxx").unwrap().count(), 1);
    for bytes in [
        &b""[..],
        b"$",
        b"$5\r\nab",
        b"$5\r\nabcde",
        b"|1\r\n",
        b"|9223372036854775807\r\n",
        b"=9",
        b":",
        b"*3\r\n",
    ] {
        assert_eq!(
            (bulk(bytes), integer(bytes), text(bytes)),
            (None, None, None),
            "{}",
            bytes.escape_ascii()
        );
    }
}

/// Whether `redis-protocol` decodes the value at all: its maps and sets are hash tables, which refuse some keys, and it
/// knows attributes in few places.
fn is_known_to_the_decoder(value: &Value) -> bool {
    let is_hashed = |value: &Value| matches!(value, Value::Bulk(_) | Value::Simple(_) | Value::Integer(_));
    match value {
        Value::Array(values) => values.iter().all(is_known_to_the_decoder),
        Value::Set(values) => values.iter().all(is_hashed),
        Value::Map(pairs) => pairs
            .iter()
            .all(|(key, value)| is_hashed(key) && is_known_to_the_decoder(value)),
        Value::Push(_) | Value::Attributed(..) => false,
        _ => true,
    }
}

proptest! {
    #![proptest_config(samples::config(500))]

    #[test]
    fn a_value_in_any_pieces_ends_where_it_was_written_to(
        value in samples::value(),
        tail in prop::collection::vec(any::<u8>(), 0..20),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..8),
    ) {
        let frame = value.resp3();
        let len = frame.len();
        let bytes = [frame, tail].concat();
        prop_assert_eq!(in_pieces(&samples::pieces(&bytes, &cuts)), Ok(Some(len)));
    }

    #[test]
    fn an_independent_decoder_sees_the_same_end(
        value in samples::value().prop_filter("known", is_known_to_the_decoder),
    ) {
        let bytes = value.resp3();
        let decoded = redis_protocol::resp3::decode::complete::decode(&bytes);
        if let Ok(Some((_, len))) = decoded {
            prop_assert_eq!(frame_len(&bytes), Ok(Some(len)));
        } else {
            prop_assert!(false, "not decoded: {:?}", decoded);
        }
    }

    #[test]
    fn elements_are_the_values_inside(value in samples::value()) {
        let frame = value.resp3();
        let expected: Option<Vec<Vec<u8>>> = match value.bare() {
            Value::Array(values) | Value::Set(values) | Value::Push(values) => {
                Some(values.iter().map(|value| value.bare().resp3()).collect())
            }
            Value::Map(pairs) => {
                Some(pairs.iter().flat_map(|(key, value)| [key.bare().resp3(), value.bare().resp3()]).collect())
            }
            _ => None,
        };
        let found = elements(&frame).map(|elements| elements.map(<[u8]>::to_vec).collect::<Vec<_>>());
        prop_assert_eq!(found, expected);
    }

    #[test]
    fn any_bytes_in_any_pieces_end_in_the_same_answer(
        bytes in prop_oneof![
            prop::collection::vec(samples::protocol_byte(), 0..80),
            prop::collection::vec(any::<u8>(), 0..200),
            (samples::value(), any::<prop::sample::Index>(), samples::protocol_byte()).prop_map(|(value, index, byte)| {
                let mut bytes = value.resp3();
                let at = index.index(bytes.len());
                bytes[at] = byte;
                bytes
            }),
        ],
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..6),
    ) {
        prop_assert_eq!(in_pieces(&samples::pieces(&bytes, &cuts)), frame_len(&bytes));
        // Whatever they answer, they answer.
        let _ = (bulk(&bytes), integer(&bytes), is_error(&bytes), text(&bytes));
        let _ = elements(&bytes).map(|all| all.count());
    }
}
