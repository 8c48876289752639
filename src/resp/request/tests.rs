//! Requests whole, in pieces, faulty, and as a real client would never send them.

use proptest::prelude::*;
use proptest::test_runner::{RngAlgorithm, TestRng, TestRunner};
use redis_protocol::resp2::types::OwnedFrame;

use super::super::samples;
use super::*;

const LIMITS: Limits = Limits::AUTHENTICATED;

/// What a scan found, with copies of the arguments.
type Found = Result<(Scan, Vec<Vec<u8>>), ProtocolError>;

fn whole(bytes: &[u8]) -> Found {
    in_pieces(&[bytes])
}

/// Presents ever longer starts of the request until the scanner has an answer.
fn in_pieces(pieces: &[&[u8]]) -> Found {
    let (mut scanner, mut spans, mut buf) = (Scanner::default(), Vec::new(), Vec::new());
    let mut last = Scan::Incomplete { need: 0 };
    for piece in pieces {
        buf.extend_from_slice(piece);
        last = scanner.scan(&buf, &LIMITS, &mut spans)?;
        if !matches!(last, Scan::Incomplete { .. }) {
            break;
        }
    }
    let args = Args {
        buf: &buf,
        spans: &spans,
    }
    .iter()
    .map(<[u8]>::to_vec)
    .collect();
    Ok((last, args))
}

fn assert_same_in_any_two_pieces_and_bytewise(bytes: &[u8]) {
    let expected = whole(bytes);
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
fn a_get_is_found_with_its_arguments() {
    let bytes = b"*2\r\n$3\r\nGET\r\n$5\r\nkey:1\r\n*1\r\n";
    let mut spans = Vec::new();
    let scan = Scanner::default().scan(bytes, &LIMITS, &mut spans);
    assert_eq!(scan, Ok(Scan::Complete { len: bytes.len() - 4 }));
    let args = Args {
        buf: bytes,
        spans: &spans,
    };
    assert_eq!(
        (args.len(), args.arg(0), args.arg(1), args.arg(2)),
        (2, &b"GET"[..], &b"key:1"[..], &b""[..])
    );
}

#[test]
fn requests_in_pieces_are_the_same_requests() {
    let requests: &[&[u8]] = &[
        b"*1\r\n$4\r\nPING\r\n",
        b"*2\r\n$3\r\nGET\r\n$16\r\nkey:000000000001\r\n",
        b"*3\r\n$3\r\nSET\r\n$0\r\n\r\n$2\r\n\r\n\r\n",
        b"*1\r\n$4\r\nPING\r\n*1\r\n$4\r\nPING\r\n",
        b"*0\r\n*1\r\n",
        b"*-1\r\n",
        b"\r\n",
        b"\n",
        b"  \t\r\n",
        b"PING\r\n",
        b"SET a \"b c\"\n",
        b"SET a \"b c\r\n",
        b"POST / HTTP/1.1\r\n",
        b"Host: x\r\n",
        b"*1\r\n$4\r\npOsT\r\n",
        b"*2\r\n$5\r\nHOST:\r\n$1\r\na\r\n",
        b"*1\r\n$4\r\nPINGxx",
        b"*1\rX$4\rYPING\r\n",
        b"*1\r\nx4\r\n",
        b"*1\r\n\r\n\r\n",
        b"*1\r\n$-1\r\n",
        b"*1\r\n$04\r\nPING\r\n",
        b"*01\r\n",
        b"*+1\r\n",
        b"*-0\r\n",
        b"*\r\n",
        b"*2147483648\r\n",
        b"*9223372036854775808\r\n",
        b"*1\r\n$536870913\r\n",
    ];
    for request in requests {
        assert_same_in_any_two_pieces_and_bytewise(request);
    }
}

#[test]
fn errors_are_those_of_redis() {
    use ProtocolError::*;
    let long = |start: &[u8]| [start, &vec![b'1'; 70_000]].concat();
    let table: &[(Vec<u8>, ProtocolError)] = &[
        (b"*2147483648\r\n".to_vec(), InvalidMultibulkLength),
        (b"*x\r\n".to_vec(), InvalidMultibulkLength),
        (b"* 1\r\n".to_vec(), InvalidMultibulkLength),
        (b"*1\r\n$-1\r\n".to_vec(), InvalidBulkLength),
        (b"*1\r\n$\r\n".to_vec(), InvalidBulkLength),
        (b"*1\r\n$536870913\r\n".to_vec(), InvalidBulkLength),
        (b"*1\r\nx4\r\n".to_vec(), ExpectedDollar(b'x')),
        (b"*2\r\n$4\r\nPINGab*1\r\n".to_vec(), ExpectedDollar(b'*')),
        (b"PING \"x\r\n".to_vec(), UnbalancedQuotes),
        (b"POST x\r\n".to_vec(), CrossProtocol),
        (long(b"*"), TooBigMbulkCount),
        (long(b"*1\r\n$"), TooBigBulkCount),
        (long(b"*1\r\nx"), TooBigBulkCount),
        (long(b"a"), TooBigInline),
    ];
    for (bytes, error) in table {
        assert_eq!(
            whole(bytes),
            Err(*error),
            "{}",
            bytes[..bytes.len().min(40)].escape_ascii()
        );
    }
}

#[test]
fn names_that_only_resemble_http_are_commands() {
    for name in ["HOST", "POSTS", "GET", "PING", "HGET", "PTTL"] {
        let bytes = format!("*1\r\n${}\r\n{name}\r\n", name.len());
        assert!(
            matches!(whole(bytes.as_bytes()), Ok((Scan::Complete { .. }, _))),
            "{name}"
        );
    }
}

#[test]
fn an_inline_request_may_have_64_kib() {
    let mut bytes = vec![b'a'; LIMITS.max_inline_bytes];
    assert_eq!(whole(&bytes), Ok((Scan::Incomplete { need: 0 }, Vec::new())));
    bytes.push(b'\n');
    assert!(matches!(whole(&bytes), Ok((Scan::Inline { .. }, _))));
    bytes.insert(0, b'a');
    assert_eq!(whole(&bytes), Err(ProtocolError::TooBigInline));
}

#[test]
fn the_unauthenticated_are_stopped_at_the_header() {
    let scan = |bytes: &[u8]| Scanner::default().scan(bytes, &Limits::UNAUTHENTICATED, &mut Vec::new());
    assert_eq!(scan(b"*11\r\n"), Err(ProtocolError::UnauthenticatedMultibulk));
    assert_eq!(scan(b"*10\r\n$16385\r\n"), Err(ProtocolError::UnauthenticatedBulk));
    assert_eq!(
        scan(b"*10\r\n$16384\r\n"),
        Ok(Scan::Incomplete { need: 5 + 8 + 16_386 })
    );
}

#[test]
fn need_tells_the_end_of_what_is_announced() {
    let need = |bytes: &[u8]| match whole(bytes) {
        Ok((Scan::Incomplete { need }, _)) => need,
        other => panic!("{other:?}"),
    };
    assert_eq!(need(b""), 0);
    assert_eq!(need(b"*2\r"), 0);
    assert_eq!(need(b"*2\r\n"), 4);
    assert_eq!(need(b"*2\r\n$3\r\n"), 13);
    assert_eq!(need(b"*2\r\n$3\r\nGET\r\n$10"), 13);
    assert_eq!(need(b"*2\r\n$3\r\nGET\r\n$536870912\r\n"), 25 + 536_870_912 + 2);
}

#[test]
fn a_huge_count_reserves_nothing() {
    let mut spans = Vec::new();
    let scan = Scanner::default().scan(b"*2147483647\r\n$3\r\nDEL\r\n", &LIMITS, &mut spans);
    assert_eq!(scan, Ok(Scan::Incomplete { need: 22 }));
    assert!(spans.capacity() <= 8);
}

#[test]
fn a_request_that_32_bits_cannot_address_is_refused() {
    let limits = Limits {
        max_bulk_bytes: u64::MAX,
        ..LIMITS
    };
    let scan = |bytes: &[u8]| Scanner::default().scan(bytes, &limits, &mut Vec::new());
    assert_eq!(
        scan(b"*1\r\n$4294967276\r\n"),
        Ok(Scan::Incomplete {
            need: u64::from(u32::MAX)
        })
    );
    assert_eq!(scan(b"*1\r\n$4294967277\r\n"), Err(ProtocolError::InvalidBulkLength));
    assert_eq!(
        scan(b"*1\r\n$9223372036854775807\r\n"),
        Err(ProtocolError::InvalidBulkLength)
    );
}

#[test]
fn a_pipeline_needs_one_scanner() {
    let bytes = b"*1\r\n$4\r\nPING\r\n\r\n*0\r\nPING x\r\n*2\r\n$3\r\nGET\r\n$1\r\na\r\n";
    let (mut scanner, mut spans, mut at, mut found) = (Scanner::default(), Vec::new(), 0, Vec::new());
    while at < bytes.len() {
        spans.clear();
        let scan = scanner.scan(&bytes[at..], &LIMITS, &mut spans).unwrap();
        at += match &scan {
            Scan::Complete { len } | Scan::Nothing { len } | Scan::Inline { len, .. } => *len,
            Scan::Incomplete { .. } => panic!("incomplete at {at}"),
        };
        found.push(scan);
    }
    assert_eq!(
        found,
        [
            Scan::Complete { len: 14 },
            Scan::Nothing { len: 2 },
            Scan::Nothing { len: 4 },
            Scan::Inline {
                len: 8,
                args: vec![b"PING".to_vec(), b"x".to_vec()]
            },
            Scan::Complete { len: 20 },
        ]
    );
}

#[test]
fn the_scanner_is_small() {
    assert!(size_of::<Scanner>() <= 24);
}

#[test]
fn three_thousand_faulty_requests_of_a_fixed_seed_end_in_an_answer() {
    let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    let mut runner = TestRunner::new_with_rng(samples::config(3_000), rng);
    runner
        .run(&samples::faulty_request(), |bytes| {
            let single: Vec<&[u8]> = bytes.chunks(1).collect();
            prop_assert_eq!(in_pieces(&single), whole(&bytes));
            Ok(())
        })
        .unwrap();
}

proptest! {
    #![proptest_config(samples::config(500))]

    #[test]
    fn what_was_encoded_is_found_again(
        args in samples::args(),
        tail in prop::collection::vec(any::<u8>(), 0..20),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..6),
    ) {
        let request = samples::request(&args);
        let len = request.len();
        let bytes = [request, tail].concat();
        let expected = if is_cross_protocol(&args[0]) {
            Err(ProtocolError::CrossProtocol)
        } else {
            Ok((Scan::Complete { len }, args))
        };
        prop_assert_eq!(in_pieces(&samples::pieces(&bytes, &cuts)), expected);
    }

    #[test]
    fn an_independent_decoder_sees_the_same_request(args in samples::args()) {
        let bytes = samples::request(&args);
        let (frame, len) = redis_protocol::resp2::decode::decode(&bytes).unwrap().unwrap();
        prop_assert_eq!(whole(&bytes).map(|found| found.0), Ok(Scan::Complete { len }));
        let expected = OwnedFrame::Array(args.iter().map(|arg| OwnedFrame::BulkString(arg.clone())).collect());
        prop_assert_eq!(frame, expected);
    }

    #[test]
    fn any_bytes_in_any_pieces_end_in_the_same_answer(
        bytes in prop_oneof![
            samples::faulty_request(),
            prop::collection::vec(samples::protocol_byte(), 0..80),
            prop::collection::vec(any::<u8>(), 0..200),
        ],
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..6),
    ) {
        prop_assert_eq!(in_pieces(&samples::pieces(&bytes, &cuts)), whole(&bytes));
    }
}

#[test]
fn a_usual_get_is_what_the_scanner_finds() {
    let check = |buf: &[u8]| {
        let mut spans = Vec::new();
        let scan = Scanner::default().scan(buf, &Limits::AUTHENTICATED, &mut spans);
        let args = Args { buf, spans: &spans };
        let scanned = match scan {
            Ok(Scan::Complete { len }) if args.len() == 2 && args.arg(0).eq_ignore_ascii_case(b"get") => {
                Some((args.arg(1), len))
            }
            _ => None,
        };
        // What it does not know is left to the scanner.
        assert!(usual_get(buf).is_none_or(|found| Some(found) == scanned), "{buf:?}");
    };
    let whole = b"*2\r\n$3\r\nGeT\r\n$5\r\nkey:1\r\n*2\r\n";
    assert_eq!(usual_get(whole), Some((&b"key:1"[..], whole.len() - 4)));
    assert_eq!(usual_get(b"*2\r\n$3\r\nGET\r\n$0\r\n\r\n"), Some((&b""[..], 19)));
    for end in 0..whole.len() - 4 {
        assert_eq!(usual_get(&whole[..end]), None);
    }
    for at in 0..whole.len() {
        for byte in 0..=u8::MAX {
            let mut buf = whole.to_vec();
            buf[at] = byte;
            check(&buf);
        }
    }
}

#[test]
fn what_follows_the_head_of_a_request_is_what_the_scanner_finds() {
    let check = |buf: &[u8], head_len: usize, args_behind: usize| {
        let mut spans = Vec::new();
        let scanned = match Scanner::default().scan(buf, &Limits::AUTHENTICATED, &mut spans) {
            Ok(Scan::Complete { len }) => {
                let args = Args { buf, spans: &spans };
                assert_eq!(args.len(), args_behind + 1);
                Some((args.arg(1), len - head_len))
            }
            _ => None,
        };
        // What it does not know is left to the scanner.
        let found = first_argument(&buf[head_len..], args_behind);
        assert!(found.is_none_or(|found| Some(found) == scanned), "{buf:?}");
    };
    let whole = b"*3\r\n$3\r\nSET\r\n$5\r\nkey:1\r\n$10\r\nabcdefghij\r\n*2\r\n";
    let mut spans = Vec::new();
    let end = whole.len() - 4;
    assert_eq!(
        Scanner::default().scan(whole, &Limits::AUTHENTICATED, &mut spans),
        Ok(Scan::Complete { len: end })
    );
    let args = Args {
        buf: whole,
        spans: &spans,
    };
    let head = args.head().expect("it was sent whole");
    assert_eq!(head, b"*3\r\n$3\r\nSET\r\n");
    assert_eq!(
        first_argument(&whole[head.len()..], 2),
        Some((&b"key:1"[..], end - head.len()))
    );
    for end in head.len()..end {
        assert_eq!(first_argument(&whole[head.len()..end], 2), None);
    }
    for at in head.len()..whole.len() {
        for byte in 0..=u8::MAX {
            let mut buf = whole.to_vec();
            buf[at] = byte;
            check(&buf, head.len(), 2);
        }
    }
}
