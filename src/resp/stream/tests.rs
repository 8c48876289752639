//! A streamed request must be the request that the scanner would have found.

use proptest::prelude::*;

use super::super::request::Scan;
use super::super::samples;
use super::*;

const LIMITS: Limits = Limits::AUTHENTICATED;

/// Scans `bytes[..held]`, streams the rest in `pieces`. `None` when the scanner was not in the middle of a request.
fn streamed(bytes: &[u8], held: usize, piece: usize) -> Option<Result<(usize, bool, Streamed), ProtocolError>> {
    let (mut scanner, mut spans) = (Scanner::default(), Vec::new());
    let (start, rest) = bytes.split_at(held);
    let Ok(Scan::Incomplete { need: 1.. }) = scanner.scan(start, &LIMITS, &mut spans) else {
        return None;
    };
    let mut streamed = Streamed::begin(scanner, start, &spans);
    let mut len = held;
    for chunk in rest.chunks(piece) {
        match streamed.advance(chunk, &LIMITS) {
            Ok((used, true)) => return Some(Ok((len + used, true, streamed))),
            Ok((used, false)) => {
                assert_eq!(used, chunk.len(), "all of a chunk belongs to an unfinished request");
                len += used;
            }
            Err(error) => return Some(Err(error)),
        }
    }
    Some(Ok((len, false, streamed)))
}

fn assert_agrees(bytes: &[u8], held: usize, piece: usize) {
    let mut spans = Vec::new();
    let expected = Scanner::default().scan(bytes, &LIMITS, &mut spans);
    let Some(found) = streamed(bytes, held, piece) else {
        return;
    };
    let context = format!("{} held {held} piece {piece}", bytes.escape_ascii());
    match (expected, found) {
        (Ok(Scan::Complete { len }), Ok((streamed_len, true, streamed))) => {
            assert_eq!(streamed_len, len, "{context}");
            let args: Vec<_> = Args {
                buf: bytes,
                spans: &spans,
            }
            .iter()
            .map(|arg| Some(arg.to_vec()))
            .collect();
            assert_eq!(streamed.args(), args, "{context}");
            assert_eq!(streamed.args_total(), args.len() as u64, "{context}");
        }
        (Ok(Scan::Incomplete { .. }), Ok((len, false, streamed))) => {
            assert_eq!(len, bytes.len(), "{context}");
            assert_eq!(streamed.args().len(), spans.len(), "{context}");
        }
        (Err(expected), Err(found)) => assert_eq!(found, expected, "{context}"),
        (expected, found) => panic!("{context}: {expected:?}, but streamed {found:?}"),
    }
}

#[test]
fn every_split_of_a_request_agrees_with_the_scanner() {
    let requests: &[&[u8]] = &[
        b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$10\r\n0123456789\r\n*1\r\n",
        b"*2\r\n$0\r\n\r\n$0\r\n\r\n",
        b"*2\r\n$4\r\nECHO\r\n$2\r\n\r\n\r\n",
        b"*2\rX$4\rYECHO\r\n$1\rZaxx",
        b"*2\r\n$4\r\nECHO\r\nx1\r\n",
        b"*2\r\n$4\r\nECHO\r\n$-1\r\n",
        b"*2\r\n$4\r\nECHO\r\n$x\r\n",
        b"*2\r\n$4\r\nECHO\r\n$01\r\n",
        b"*2\r\n$4\r\nECHO\r\n$536870913\r\n",
        b"*2\r\n$4\r\nPOST\r\n$1\r\na\r\n",
    ];
    for request in requests {
        for held in 0..=request.len() {
            for piece in 1..=request.len() {
                assert_agrees(request, held, piece);
            }
        }
    }
}

#[test]
fn a_long_value_is_counted_and_not_kept() {
    let value = vec![b'v'; KEEP_BYTES + 1];
    let request = samples::request(&[
        b"SET".to_vec(),
        b"key".to_vec(),
        value.clone(),
        b"EX".to_vec(),
        b"9".to_vec(),
    ]);
    let (len, is_complete, found) = streamed(&request, 30, 1000).unwrap().unwrap();
    assert_eq!((len, is_complete), (request.len(), true));
    let expected = [
        Some(b"SET".to_vec()),
        Some(b"key".to_vec()),
        None,
        Some(b"EX".to_vec()),
        Some(b"9".to_vec()),
    ];
    assert_eq!(found.args(), expected);

    let (_, _, found) = streamed(&request[..1000], 999, 1).unwrap().unwrap();
    assert_eq!(found.args(), &expected[..3], "known as soon as it is announced");
    assert_eq!(found.args_total(), 5);
}

#[test]
fn no_more_is_kept_than_a_mebibyte() {
    let mut args = vec![vec![b'v'; KEEP_BYTES]; 20];
    args.insert(0, b"DEL".to_vec());
    let request = samples::request(&args);
    let (_, is_complete, found) = streamed(&request, 10, 4096).unwrap().unwrap();
    assert!(is_complete);
    assert_eq!(found.args().len(), 21);
    assert_eq!(
        found.args().iter().flatten().map(Vec::len).sum::<usize>(),
        3 + 15 * KEEP_BYTES
    );
    assert_eq!(found.args()[16], None);
}

#[test]
fn arguments_without_end_take_no_memory_without_end() {
    let args = vec![Vec::new(); KEEP_ARGS + 100];
    let request = samples::request(&args);
    let (len, is_complete, found) = streamed(&request, 100, 4096).unwrap().unwrap();
    assert_eq!((len, is_complete), (request.len(), true));
    assert_eq!(found.args().len(), KEEP_ARGS);
    assert_eq!(found.args_total(), args.len() as u64);
}

#[test]
fn a_header_without_end_is_refused() {
    let request = [b"*2\r\n$4\r\nECHO\r\n$".as_slice(), &vec![b'1'; 70_000]].concat();
    for piece in [1, 7, 4096, 65_536, 100_000] {
        assert_eq!(
            streamed(&request, 16, piece).unwrap().map(|_| ()),
            Err(ProtocolError::TooBigBulkCount)
        );
    }
}

#[test]
fn a_request_that_was_not_begun_is_refused() {
    let mut streamed = Streamed::begin(Scanner::default(), b"", &[]);
    assert_eq!(
        streamed.advance(b"*1\r\n$4\r\nPING\r\n", &LIMITS),
        Err(ProtocolError::InvalidMultibulkLength)
    );
}

proptest! {
    #![proptest_config(samples::config(1000))]

    #[test]
    fn any_request_in_any_pieces_agrees_with_the_scanner(
        bytes in prop_oneof![samples::args().prop_map(|args| samples::request(&args)), samples::faulty_request()],
        held in any::<prop::sample::Index>(),
        piece in 1_usize..50,
    ) {
        assert_agrees(&bytes, held.index(bytes.len() + 1), piece);
    }
}
