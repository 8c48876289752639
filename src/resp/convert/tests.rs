//! Replies of redis-server 7.0.15, recorded in both versions, and random values against a tree that knows the rules.

use proptest::prelude::*;

use super::super::samples::{self, Value};
use super::*;

fn converted(rule: &Rule, frame: &[u8]) -> Result<Vec<u8>, ConvertError> {
    let mut out = b"before".to_vec();
    let outcome = to_resp2(rule, frame, &mut out);
    assert_eq!(&out[..6], b"before");
    match outcome {
        Ok(()) => Ok(out.split_off(6)),
        Err(error) => {
            assert_eq!(out.len(), 6, "nothing is left behind by {error}");
            Err(error)
        }
    }
}

fn assert_converts(rule: &Rule, resp3: &str, resp2: &str) {
    let found = converted(rule, resp3.as_bytes()).unwrap_or_else(|error| panic!("{resp3:?}: {error}"));
    assert_eq!(String::from_utf8_lossy(&found), resp2, "{rule:?} of {resp3:?}");
}

#[test]
fn general_rules_of_each_type() {
    for (resp3, resp2) in [
        ("+OK\r\n", "+OK\r\n"),
        ("-ERR no\r\n", "-ERR no\r\n"),
        (":-7\r\n", ":-7\r\n"),
        ("$3\r\na\r\n\r\n", "$3\r\na\r\n\r\n"),
        ("$0\r\n\r\n", "$0\r\n\r\n"),
        ("$-1\r\n", "$-1\r\n"),
        ("_\r\n", "$-1\r\n"),
        ("#t\r\n", ":1\r\n"),
        ("#f\r\n", ":0\r\n"),
        (",3.1000000000000001\r\n", "$18\r\n3.1000000000000001\r\n"),
        (",inf\r\n", "$3\r\ninf\r\n"),
        (",1e+21\r\n", "$5\r\n1e+21\r\n"),
        (
            "(1234567999999999999999999999999999999\r\n",
            "$37\r\n1234567999999999999999999999999999999\r\n",
        ),
        ("=15\r\ntxt:Some string\r\n", "$11\r\nSome string\r\n"),
        ("=4\r\nmkd:\r\n", "$0\r\n\r\n"),
        ("!10\r\nERR a\r\nb c\r\n", "-ERR a  b c\r\n"),
        ("*0\r\n", "*0\r\n"),
        ("*-1\r\n", "*-1\r\n"),
        ("%0\r\n", "*0\r\n"),
        ("~0\r\n", "*0\r\n"),
        ("*2\r\n$1\r\na\r\n_\r\n", "*2\r\n$1\r\na\r\n$-1\r\n"),
        (
            "%2\r\n$1\r\nb\r\n:1\r\n$1\r\na\r\n:2\r\n",
            "*4\r\n$1\r\nb\r\n:1\r\n$1\r\na\r\n:2\r\n",
        ),
        ("~2\r\n+b\r\n+a\r\n", "*2\r\n+b\r\n+a\r\n"),
        (
            ">3\r\n$9\r\nsubscribe\r\n$1\r\nc\r\n:1\r\n",
            "*3\r\n$9\r\nsubscribe\r\n$1\r\nc\r\n:1\r\n",
        ),
        (
            ">3\r\n$11\r\nunsubscribe\r\n_\r\n:0\r\n",
            "*3\r\n$11\r\nunsubscribe\r\n$-1\r\n:0\r\n",
        ),
        ("|1\r\n$3\r\nttl\r\n%1\r\n:1\r\n_\r\n$1\r\nv\r\n", "$1\r\nv\r\n"),
        ("*1\r\n|1\r\n|0\r\n+a\r\n,1\r\n#t\r\n", "*1\r\n:1\r\n"),
    ] {
        assert_converts(&Rule::General, resp3, resp2);
    }
}

#[test]
fn commands_that_the_general_rules_cover() {
    for (resp3, resp2) in [
        // ZPOPMIN z
        ("*2\r\n$1\r\na\r\n,1.5\r\n", "*2\r\n$1\r\na\r\n$3\r\n1.5\r\n"),
        // ZMSCORE z a nope
        ("*2\r\n,1.5\r\n_\r\n", "*2\r\n$3\r\n1.5\r\n$-1\r\n"),
        // BZMPOP 1 1 z MIN
        (
            "*2\r\n$1\r\nz\r\n*1\r\n*2\r\n$1\r\na\r\n,1\r\n",
            "*2\r\n$1\r\nz\r\n*1\r\n*2\r\n$1\r\na\r\n$1\r\n1\r\n",
        ),
        // GEOSEARCH … WITHCOORD
        (
            "*1\r\n*2\r\n$1\r\nP\r\n*2\r\n,13.36138933897018433\r\n,38.11555639549629859\r\n",
            "*1\r\n*2\r\n$1\r\nP\r\n*2\r\n$20\r\n13.36138933897018433\r\n$20\r\n38.11555639549629859\r\n",
        ),
        // COMMAND INFO, the flags and key specifications of one command
        (
            "*1\r\n*3\r\n~2\r\n+readonly\r\n+fast\r\n~0\r\n~1\r\n%2\r\n\
             $5\r\nflags\r\n~1\r\n+RO\r\n$1\r\nb\r\n%1\r\n$1\r\nt\r\n%0\r\n",
            "*1\r\n*3\r\n*2\r\n+readonly\r\n+fast\r\n*0\r\n*1\r\n*4\r\n\
             $5\r\nflags\r\n*1\r\n+RO\r\n$1\r\nb\r\n*2\r\n$1\r\nt\r\n*0\r\n",
        ),
        // FUNCTION LIST: nulls inside maps
        ("*1\r\n%1\r\n$1\r\nd\r\n_\r\n", "*1\r\n*2\r\n$1\r\nd\r\n$-1\r\n"),
        // EVAL with pairs stays in pairs
        ("*1\r\n*2\r\n$1\r\na\r\n,1\r\n", "*1\r\n*2\r\n$1\r\na\r\n$1\r\n1\r\n"),
        // DEBUG PROTOCOL map
        (
            "%3\r\n:0\r\n#f\r\n:1\r\n#t\r\n:2\r\n#f\r\n",
            "*6\r\n:0\r\n:0\r\n:1\r\n:1\r\n:2\r\n:0\r\n",
        ),
    ] {
        assert_converts(&Rule::General, resp3, resp2);
    }
}

#[test]
fn pairs_are_flattened_one_level() {
    for (resp3, resp2) in [
        // ZRANGE z 0 -1 WITHSCORES
        (
            "*2\r\n*2\r\n$1\r\na\r\n,1.5\r\n*2\r\n$1\r\nb\r\n,2\r\n",
            "*4\r\n$1\r\na\r\n$3\r\n1.5\r\n$1\r\nb\r\n$1\r\n2\r\n",
        ),
        // ZPOPMIN z 1
        ("*1\r\n*2\r\n$1\r\na\r\n,1.5\r\n", "*2\r\n$1\r\na\r\n$3\r\n1.5\r\n"),
        // HRANDFIELD h -2 WITHVALUES
        (
            "*2\r\n*2\r\n$1\r\nf\r\n$1\r\nv\r\n*2\r\n$1\r\ng\r\n$1\r\nw\r\n",
            "*4\r\n$1\r\nf\r\n$1\r\nv\r\n$1\r\ng\r\n$1\r\nw\r\n",
        ),
        ("*0\r\n", "*0\r\n"),
        ("*1\r\n*1\r\n*1\r\n_\r\n", "*1\r\n*1\r\n$-1\r\n"),
        ("*2\r\n*1\r\n:1\r\n:2\r\n", "*2\r\n*1\r\n:1\r\n:2\r\n"),
        ("*1\r\n~1\r\n:1\r\n", "*1\r\n*1\r\n:1\r\n"),
        ("-WRONGTYPE x\r\n", "-WRONGTYPE x\r\n"),
        ("_\r\n", "$-1\r\n"),
    ] {
        assert_converts(&Rule::Flatten, resp3, resp2);
    }
}

#[test]
fn a_null_can_be_a_null_array() {
    // LPOP nokey 2, LMPOP and ZMPOP of nothing, BLPOP after its timeout
    assert_converts(&Rule::NullArray, "_\r\n", "*-1\r\n");
    assert_converts(&Rule::NullArray, "|1\r\n+a\r\n+b\r\n_\r\n", "*-1\r\n");
    assert_converts(&Rule::NullArray, "*2\r\n$1\r\na\r\n_\r\n", "*2\r\n$1\r\na\r\n$-1\r\n");
    // ZMPOP 1 z MIN
    assert_converts(
        &Rule::NullArray,
        "*2\r\n$1\r\nz\r\n*1\r\n*2\r\n$1\r\na\r\n,1.5\r\n",
        "*2\r\n$1\r\nz\r\n*1\r\n*2\r\n$1\r\na\r\n$3\r\n1.5\r\n",
    );
}

#[test]
fn streams_are_pairs_in_an_array() {
    // XREAD STREAMS st st2 0 0
    assert_converts(
        &Rule::Streams,
        "%2\r\n$2\r\nst\r\n*1\r\n*2\r\n$3\r\n1-1\r\n*2\r\n$1\r\na\r\n$1\r\nb\r\n\
         $3\r\nst2\r\n*1\r\n*2\r\n$3\r\n1-2\r\n*2\r\n$1\r\nc\r\n$1\r\nd\r\n",
        "*2\r\n*2\r\n$2\r\nst\r\n*1\r\n*2\r\n$3\r\n1-1\r\n*2\r\n$1\r\na\r\n$1\r\nb\r\n\
         *2\r\n$3\r\nst2\r\n*1\r\n*2\r\n$3\r\n1-2\r\n*2\r\n$1\r\nc\r\n$1\r\nd\r\n",
    );
    // XREADGROUP of the own history, the first entry deleted meanwhile
    assert_converts(
        &Rule::Streams,
        "%1\r\n$2\r\nst\r\n*2\r\n*2\r\n$3\r\n1-1\r\n_\r\n*2\r\n$3\r\n1-2\r\n*2\r\n$1\r\na\r\n$1\r\nb\r\n",
        "*1\r\n*2\r\n$2\r\nst\r\n*2\r\n*2\r\n$3\r\n1-1\r\n*-1\r\n*2\r\n$3\r\n1-2\r\n*2\r\n$1\r\na\r\n$1\r\nb\r\n",
    );
    assert_converts(&Rule::Streams, "_\r\n", "*-1\r\n");
    assert_converts(&Rule::Streams, "%0\r\n", "*0\r\n");
}

#[test]
fn places_that_are_missing_are_null_arrays() {
    // GEOPOS g Palermo Nope
    assert_converts(
        &Rule::NullElements,
        "*2\r\n*2\r\n,13.36138933897018433\r\n,38.11555639549629859\r\n_\r\n",
        "*2\r\n*2\r\n$20\r\n13.36138933897018433\r\n$20\r\n38.11555639549629859\r\n*-1\r\n",
    );
    assert_converts(&Rule::NullElements, "*2\r\n_\r\n_\r\n", "*2\r\n*-1\r\n*-1\r\n");
    assert_converts(&Rule::NullElements, "*1\r\n*1\r\n_\r\n", "*1\r\n*1\r\n$-1\r\n");
}

#[test]
fn a_transaction_has_the_rules_of_its_commands() {
    let rules = [
        Rule::General,
        Rule::General,
        Rule::General,
        Rule::NullArray,
        Rule::Flatten,
        Rule::NullElements,
    ];
    let rule = Rule::Exec(Rc::from(rules));
    // HGETALL h · ZSCORE z m · GET no · LPOP no 2 · ZRANGE z 0 -1 WITHSCORES · GEOPOS z q · LPOP h
    assert_converts(
        &rule,
        "*7\r\n%1\r\n$1\r\na\r\n$1\r\n1\r\n,1\r\n_\r\n_\r\n*1\r\n*2\r\n$1\r\nm\r\n,1\r\n*1\r\n_\r\n\
         -WRONGTYPE Operation\r\n",
        "*7\r\n*2\r\n$1\r\na\r\n$1\r\n1\r\n$1\r\n1\r\n$-1\r\n*-1\r\n*2\r\n$1\r\nm\r\n$1\r\n1\r\n*1\r\n*-1\r\n\
         -WRONGTYPE Operation\r\n",
    );
    // A watched key was changed.
    assert_converts(&rule, "_\r\n", "*-1\r\n");
    assert_converts(&rule, "-EXECABORT x\r\n", "-EXECABORT x\r\n");
}

#[test]
fn depth_costs_nothing() {
    let frame = |header: &str| [header.repeat(20_000).as_bytes(), b"_\r\n"].concat();
    let expected = [b"*1\r\n".repeat(20_000).as_slice(), b"$-1\r\n"].concat();
    assert_eq!(converted(&Rule::General, &frame("~1\r\n")), Ok(expected.clone()));
    assert_eq!(converted(&Rule::NullElements, &frame("*1\r\n")), Ok(expected));
    assert!(!is_same_in_resp2(&frame("*1\r\n")));
}

#[test]
fn what_is_no_frame_is_refused_and_leaves_nothing() {
    for frame in [
        "",
        "$5\r\nab",
        "*2\r\n:1\r\n",
        "%1\r\n:1\r\n",
        "|1\r\n+a\r\n+b\r\n",
        "#x\r\n",
        "=2\r\ntx\r\n",
        "*1\r\n*1\r\n",
        "x\r\n",
        "*1\r\n$1\r\nabc",
        "+OK",
        "~1\r\n$?\r\n",
        "*9223372036854775807\r\n_\r\n",
        "+OK\r\n+OK\r\n",
        "_\r\n_\r\n",
        "*1\r\n_\r\n_\r\n",
    ] {
        for rule in [
            Rule::General,
            Rule::Flatten,
            Rule::NullArray,
            Rule::Streams,
            Rule::NullElements,
            Rule::Exec(Rc::from([])),
        ] {
            assert!(converted(&rule, frame.as_bytes()).is_err(), "{rule:?} of {frame:?}");
        }
        assert!(!is_same_in_resp2(frame.as_bytes()), "{frame:?}");
    }
    assert_eq!(converted(&Rule::General, b"_\r\n_\r\n"), Err(ConvertError::Trailing));
}

#[test]
fn sameness_is_told_without_converting() {
    for (frame, is_same) in [
        ("+OK\r\n", true),
        ("$-1\r\n", true),
        ("*0\r\n", true),
        ("*-1\r\n", true),
        ("*2\r\n$1\r\na\r\n*1\r\n:1\r\n", true),
        ("*2\r\n$1\r\na\r\n*1\r\n_\r\n", false),
        ("_\r\n", false),
        ("%0\r\n", false),
        (",1\r\n", false),
        ("*1\r\n|0\r\n:1\r\n", false),
    ] {
        assert_eq!(is_same_in_resp2(frame.as_bytes()), is_same, "{frame:?}");
    }
}

fn rule() -> BoxedStrategy<Rule> {
    let simple = prop::sample::select(vec![
        Rule::General,
        Rule::Flatten,
        Rule::NullArray,
        Rule::Streams,
        Rule::NullElements,
    ]);
    let exec = prop::collection::vec(simple.clone(), 0..6).prop_map(|rules| Rule::Exec(Rc::from(rules)));
    prop_oneof![3 => simple, 1 => exec].boxed()
}

/// Values of the shapes that the special rules are made for, now and then with something else inside.
fn shaped() -> BoxedStrategy<Value> {
    let pairs = prop::collection::vec(samples::leaf(), 0..3).prop_map(Value::Array);
    let part = prop_oneof![6 => pairs.clone(), 1 => Just(Value::Null), 1 => samples::value()];
    let fields = prop_oneof![2 => pairs, 1 => Just(Value::Null)];
    let entry = prop_oneof![
        4 => (samples::leaf(), fields).prop_map(|(id, fields)| Value::Array(vec![id, fields])),
        1 => samples::value(),
    ];
    let entries = prop_oneof![6 => prop::collection::vec(entry, 0..4).prop_map(Value::Array), 1 => samples::value()];
    prop_oneof![
        2 => prop::collection::vec(part, 0..5).prop_map(Value::Array),
        2 => prop::collection::vec((samples::leaf(), entries), 0..4).prop_map(Value::Map),
        1 => samples::value(),
    ]
    .boxed()
}

proptest! {
    #![proptest_config(samples::config(1000))]

    #[test]
    fn any_value_becomes_what_the_tree_says(value in shaped(), rule in rule()) {
        let found = converted(&rule, &value.resp3()).unwrap();
        prop_assert_eq!(found.escape_ascii().to_string(), value.resp2(&rule).escape_ascii().to_string());
    }

    #[test]
    fn an_independent_decoder_reads_the_result_to_its_end(value in samples::value(), rule in rule()) {
        let found = converted(&rule, &value.resp3()).unwrap();
        let decoded = redis_protocol::resp2::decode::decode(&found).unwrap();
        prop_assert_eq!(decoded.map(|(_, len)| len), Some(found.len()));
    }

    #[test]
    fn sameness_agrees_with_the_conversion(value in samples::value()) {
        let frame = value.resp3();
        prop_assert_eq!(is_same_in_resp2(&frame), converted(&Rule::General, &frame).unwrap() == frame);
    }

    #[test]
    fn no_bytes_make_it_panic(
        value in shaped(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), samples::protocol_byte()), 0..4),
        rule in rule(),
    ) {
        let mut frame = value.resp3();
        for (index, byte) in changes {
            let at = index.index(frame.len());
            frame[at] = byte;
        }
        // A frame that measures as one is converted, unless a line in it says what its type cannot.
        let outcome = converted(&rule, &frame);
        if outcome.is_ok() {
            prop_assert_eq!(reply::frame_len(&frame), Ok(Some(frame.len())));
        }
    }
}
