use proptest::prelude::*;

use super::{Access, Local, Path, Pin};
use crate::command::Table;
use crate::command::sample::Sample;
use crate::command::{Absent, Cache, Keys};
use crate::resp::convert::Rule;

#[track_caller]
fn path(line: &str) -> Path {
    let table = Table::builtin();
    let name = line.split(' ').next().unwrap_or_default();
    table
        .find(name.as_bytes())
        .expect("a row")
        .path(Sample::of(line).args())
}

#[test]
fn blocking_reads_of_streams_leave_the_shared_connection() {
    assert_eq!(path("XREAD STREAMS k 0"), Path::Shared);
    assert_eq!(path("XREAD COUNT 1 block 0 STREAMS k 0"), Path::Pin(Pin::Blocking));
    assert_eq!(path("XREAD STREAMS BLOCK 0"), Path::Shared);
    assert_eq!(path("XREADGROUP GROUP g BLOCK STREAMS k >"), Path::Shared);
    assert_eq!(
        path("XREADGROUP GROUP g c BLOCK 0 STREAMS k >"),
        Path::Pin(Pin::Blocking)
    );
    assert_eq!(path("BLPOP k 0"), Path::Pin(Pin::Blocking));
    assert_eq!(path("WAIT 1 0"), Path::Pin(Pin::Blocking));
}

#[test]
fn subcommands_decide() {
    assert_eq!(path("CLIENT id"), Path::Local(Local::Client));
    assert_eq!(path("CLIENT"), Path::Local(Local::Client));
    assert_eq!(path("CLIENT Tracking ON"), Path::Pin(Pin::Client));
    assert_eq!(path("CLIENT NO-TOUCH ON"), Path::Pin(Pin::Client));
    assert_eq!(path("CLIENT TRACKINGINFO"), Path::Local(Local::Client));
    assert_eq!(path("SCRIPT LOAD x"), Path::Shared);
    assert_eq!(path("SCRIPT KILL"), Path::Side);
    assert_eq!(path("SCRIPT DEBUG YES"), Path::Pin(Pin::Stateful));
    assert_eq!(path("FUNCTION LIST"), Path::Shared);
    assert_eq!(path("FUNCTION KILL"), Path::Side);
    assert_eq!(path("FUNCTION nope"), Path::Side);
}

#[test]
fn a_summary_of_pending_entries_is_not_converted() {
    assert_eq!(path("XPENDING k g"), Path::Side);
    assert_eq!(path("XPENDING k g - + 10"), Path::Shared);
}

#[test]
fn state_of_a_connection_is_pinned_and_replication_refused() {
    assert_eq!(path("MULTI"), Path::Pin(Pin::Multi));
    assert_eq!(path("WATCH k"), Path::Pin(Pin::Watch));
    assert_eq!(path("SSUBSCRIBE c"), Path::Pin(Pin::Subscribe));
    assert_eq!(path("UNSUBSCRIBE"), Path::Pin(Pin::Subscribe));
    assert_eq!(path("MONITOR"), Path::Pin(Pin::Monitor));
    assert_eq!(path("KEYS *"), Path::Side);
    assert_eq!(path("FLUSHALL"), Path::Shared);
    assert!(matches!(path("PSYNC ? -1"), Path::Refused(text) if text.starts_with("ERR ")));
}

#[test]
fn arity_is_exact_or_a_least_number() {
    let table = Table::builtin();
    let is_ok = |name: &str, argc| table.find(name.as_bytes()).is_some_and(|row| row.is_arity_ok(argc));
    assert!(is_ok("get", 2) && !is_ok("get", 1) && !is_ok("get", 3));
    assert!(is_ok("set", 3) && is_ok("set", 7) && !is_ok("set", 2));
}

#[test]
fn replies_that_grow_with_the_keyspace() {
    let table = Table::builtin();
    for (line, expected) in [
        ("KEYS *", true),
        ("FUNCTION DUMP", true),
        ("FUNCTION LIST LIBRARYNAME x WITHCODE", true),
        ("FUNCTION LIST", false),
        ("CLUSTER GETKEYSINSLOT 1 9", true),
        ("LRANGE k 0 -1", false),
        ("KEYSPACE", false),
    ] {
        let name = line.split(' ').next().unwrap_or_default();
        let found = table
            .find(name.as_bytes())
            .is_some_and(|row| row.is_likely_large(Sample::of(line).args()));
        assert_eq!(found, expected, "{line}");
    }
}

#[test]
fn only_reads_on_the_shared_connection_are_kept() {
    let any = Sample::of("x k a b c");
    for row in Table::builtin().rows() {
        let subcommands: &[(&str, Cache)] = match row.cache {
            Cache::Sub(subcommands) => subcommands,
            cache => &[("", cache)],
        };
        if subcommands.iter().any(|(_, cache)| cache.is_kept()) {
            assert_eq!(
                (row.access, row.path(any.args())),
                (Access::Read, Path::Shared),
                "{}",
                row.name
            );
            // VDIM of no key is an error.
            assert_eq!(row.absent == Absent::Unknown, row.name == "vdim", "{}", row.name);
        } else {
            assert_eq!(row.absent, Absent::Unknown, "{}", row.name);
        }
    }
}

#[test]
fn every_read_is_kept_or_has_its_reason() {
    for row in Table::builtin().rows() {
        if row.access == Access::Read {
            assert_ne!(row.cache, Cache::No, "{}", row.name);
        }
    }
}

#[test]
fn a_reply_is_kept_under_the_only_key_of_its_request() {
    let table = Table::builtin();
    for (line, expected) in [
        ("HGET k f", Some("k")),
        ("EXISTS k", Some("k")),
        ("EXISTS k k", None),
        ("OBJECT ENCODING k", Some("k")),
        ("OBJECT HELP", None),
        ("SORT_RO k", Some("k")),
        ("SORT_RO k LIMIT 0 1 ALPHA GET # BY nosort", Some("k")),
        ("SORT_RO k BY w_*", None),
        ("SORT_RO k GET #  GET o_*->f", None),
        ("XREAD STREAMS k 0", Some("k")),
        ("XREAD COUNT 1 STREAMS k 0", Some("k")),
        ("XREAD COUNT STREAMS STREAMS k 0", Some("k")),
        ("XREAD NEW STREAMS k 0", None),
        ("XREAD STREAMS k j 0 0", None),
        ("XREAD BLOCK 0 STREAMS k 0", None),
        ("XREAD STREAMS k", None),
        ("XREAD COUNT 1", None),
        ("SINTER k j", None),
        ("ZUNION 1 k", None),
    ] {
        let sample = Sample::of(line);
        let args = sample.args();
        let row = table.find(args.arg(0)).expect("a row");
        let found = row.only_key(args).map(|at| String::from_utf8_lossy(args.arg(at)));
        assert_eq!(found.as_deref(), expected, "{line}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    /// Every question about every row, with arguments that are words of the protocol, numbers and rubbish.
    #[test]
    fn no_arguments_make_a_row_panic(row in 0_usize..400, words in proptest::collection::vec(word(), 0..12)) {
        let table = Table::builtin();
        let row = table.rows().nth(row % table.rows().count()).expect("a row");
        let sample = Sample::from(words.iter().map(Vec::as_slice));
        let args = sample.args();
        let mut given = 0;
        let _ = row.keys(args, &mut |key| {
            given += 1;
            assert!(words.iter().any(|word| word == key));
        });
        prop_assert!(given <= words.len());
        if let Some(key) = row.only_key(args) {
            prop_assert!(key > 0 && key < words.len());
        }
        let _ = (row.cache_of(args), row.absent.of(args), row.path(args), row.rule(args), row.is_likely_large(args), row.is_arity_ok(args.len()));
    }
}

fn word() -> impl Strategy<Value = Vec<u8>> {
    const WORDS: &[&str] = &[
        "STREAMS",
        "BLOCK",
        "COUNT",
        "GROUP",
        "STORE",
        "STOREDIST",
        "BY",
        "GET",
        "LIMIT",
        "KEYS",
        "AUTH",
        "AUTH2",
        "WITHSCORES",
        "WEIGHTS",
        "AGGREGATE",
        "WITHVALUES",
        "WITHSCORE",
        "USAGE",
        "LIST",
        "WITHCODE",
        "DUMP",
        "",
        "*",
        "0",
        "1",
        "2",
        "3",
        "-1",
        "4294967295",
        "9223372036854775807",
        "18446744073709551615",
        "9999999999",
    ];
    prop_oneof![
        4 => proptest::sample::select(WORDS).prop_map(|word| word.as_bytes().to_vec()),
        1 => proptest::collection::vec(any::<u8>(), 0..6),
    ]
}

#[test]
fn a_straight_request_is_of_one_key_and_forwarded_as_it_is() {
    let table = Table::builtin();
    let is_straight = |name: &str| table.find(name.as_bytes()).expect("a row").is_straight();
    assert!(["GET", "SET", "INCR", "HSET", "DEL", "LRANGE"].map(is_straight) == [true, true, true, true, false, true]);
    assert!(
        ![
            "MGET", "EVAL", "BLPOP", "PUBLISH", "PING", "CLIENT", "OBJECT", "SORT", "XREAD", "WAIT"
        ]
        .map(is_straight)
        .contains(&true)
    );
    for spec in table.rows().filter(|spec| spec.is_straight()) {
        for rest in [
            "k",
            "k 1 2 STORE d",
            "k WITHSCORES BLOCK 0 STREAMS a b",
            "k GET BY KEYS 1 x",
        ] {
            let sample = Sample::of(&format!("{} {rest}", spec.name));
            let args = sample.args();
            let mut keys = Vec::new();
            assert_eq!(spec.keys(args, &mut |key| keys.push(key)), Keys::Known, "{}", spec.name);
            assert_eq!(keys, [b"k"], "{}", spec.name);
            assert_eq!(
                (spec.path(args), spec.rule(args)),
                (Path::Shared, Rule::General),
                "{}",
                spec.name
            );
            let is_special = spec.is_likely_large(args) || spec.runs_code() || spec.counts_listeners();
            assert!(!is_special && !spec.waits_for_writes(), "{}", spec.name);
        }
    }
}
