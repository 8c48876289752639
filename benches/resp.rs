//! The reading of requests and replies: how long it takes to find their ends, and to turn a RESP3 reply into RESP2.
//!
//! `cargo bench --bench resp [-- FILTER]`. Every request and every reply passes through this, so nanoseconds count; what
//! repeats better than they do are the instructions (`cargo bench --bench instructions`).

mod frames;

use std::hint::black_box;

use criterion::{Criterion, Throughput};
use nearcache::resp::convert::{Rule, is_same_in_resp2, to_resp2};
use nearcache::resp::limits::Limits;
use nearcache::resp::reply::FrameScanner;
use nearcache::resp::request::{Scan, Scanner, Span};

/// What one TCP segment carries on an Ethernet.
const SEGMENT: usize = 1448;

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    requests(&mut criterion);
    replies(&mut criterion);
    conversion(&mut criterion);
    criterion.final_summary();
}

fn requests(criterion: &mut Criterion) {
    let mget = [
        &b"*11\r\n$4\r\nMGET\r\n"[..],
        &b"$16\r\nkey:000000000001\r\n".repeat(10),
    ]
    .concat();
    let value = "v".repeat(1024);
    let set = format!("*3\r\n$3\r\nSET\r\n$16\r\nkey:000000000001\r\n$1024\r\n{value}\r\n");
    let mut group = criterion.benchmark_group("requests");
    for (name, buf) in [
        ("GET", frames::get(1)),
        ("pipeline of 16 GETs", frames::pipeline(16)),
        ("pipeline of 1000 GETs", frames::pipeline(1000)),
        ("MGET of 10", mget),
        ("SET of 1 KiB", set.into_bytes()),
        ("inline GET", b"GET key:000000000001\r\n".to_vec()),
    ] {
        let (limits, mut spans) = (Limits::AUTHENTICATED, Vec::new());
        group.throughput(Throughput::Bytes(buf.len() as u64));
        group.bench_function(name, |b| b.iter(|| scan(black_box(&buf), &limits, &mut spans)));
    }
    group.finish();
}

fn replies(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("end of a reply");
    for (name, frame, piece) in [
        ("value of 64 bytes", frames::value(), usize::MAX),
        ("10 values", values(10), usize::MAX),
        ("map of 10", frames::map(10), usize::MAX),
        ("1000 values", values(1000), usize::MAX),
        // The scanner keeps its place: it must not cost more than in one piece, but for the calls.
        ("1000 values, in segments", values(1000), SEGMENT),
    ] {
        group.throughput(Throughput::Bytes(frame.len() as u64));
        group.bench_function(name, |b| b.iter(|| find_end(black_box(&frame), piece)));
    }
    group.finish();
}

fn conversion(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("RESP3 to RESP2");
    let scores = [&b"*10\r\n"[..], &b"*2\r\n$6\r\nmember\r\n,3.25\r\n".repeat(10)].concat();
    for (name, rule, frame) in [
        ("value of 64 bytes", Rule::General, frames::value()),
        ("10 values", Rule::General, values(10)),
        ("map of 10", Rule::General, frames::map(10)),
        ("ZRANGE WITHSCORES of 10", Rule::Flatten, scores),
        ("map of 1000", Rule::General, frames::map(1000)),
    ] {
        let mut out = Vec::with_capacity(2 * frame.len());
        group.throughput(Throughput::Bytes(frame.len() as u64));
        group.bench_function(name, |b| {
            b.iter(|| {
                out.clear();
                to_resp2(&rule, black_box(&frame), &mut out).expect("a whole frame");
                out.len()
            })
        });
    }
    let frame = values(10);
    group.bench_function("that 10 values need none", |b| {
        b.iter(|| assert!(is_same_in_resp2(black_box(&frame))))
    });
    group.finish();
}

/// As a session does with its read buffer.
fn scan(mut buf: &[u8], limits: &Limits, spans: &mut Vec<Span>) -> usize {
    let (mut scanner, mut args) = (Scanner::default(), 0);
    while !buf.is_empty() {
        spans.clear();
        let len = match scanner.scan(buf, limits, spans) {
            Ok(Scan::Complete { len }) => {
                args += spans.len();
                len
            }
            Ok(Scan::Inline { len, args: words }) => {
                args += words.len();
                len
            }
            other => panic!("not a whole request: {other:?}"),
        };
        buf = &buf[len..];
    }
    args
}

/// As an upstream connection does with a buffer that grows by what each read brings.
fn find_end(frame: &[u8], piece: usize) -> usize {
    let mut scanner = FrameScanner::default();
    let (mut at, mut arrived) = (0, 0_usize);
    loop {
        arrived = frame.len().min(arrived.saturating_add(piece));
        let (taken, is_complete) = scanner.advance(&frame[at..arrived]).expect("a valid frame");
        at += taken;
        if is_complete {
            return at;
        }
        assert!(arrived < frame.len(), "the frame is whole");
    }
}

/// The reply to an `MGET`.
fn values(count: usize) -> Vec<u8> {
    let mut frame = format!("*{count}\r\n").into_bytes();
    (0..count).for_each(|_| frame.extend(frames::value()));
    frame
}
