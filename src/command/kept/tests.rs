use std::collections::HashSet;

use super::{Absent, Cache, NotCached};
use crate::command::Table;
use crate::command::sample::Sample;

#[test]
fn a_subcommand_decides_in_any_case() {
    let table = Table::builtin();
    for (line, expected) in [
        ("OBJECT ENCODING k", Cache::Brief),
        ("object Encoding k", Cache::Brief),
        ("OBJECT FREQ k", Cache::Never(NotCached::Usage)),
        ("OBJECT HELP", Cache::No),
        ("OBJECT", Cache::No),
        ("OBJECT encodin k", Cache::No),
        ("GET ENCODING", Cache::Get),
    ] {
        let sample = Sample::of(line);
        let row = table.find(sample.args().arg(0)).expect("a row");
        assert_eq!(row.cache_of(sample.args()), expected, "{line}");
    }
}

#[test]
fn the_absence_of_a_key_is_told_from_other_replies() {
    let sample = |line| Sample::of(line);
    for (line, absent, frame, expected) in [
        ("HGET k f", Absent::Is(b"_\r\n"), "_\r\n", true),
        ("HGET k f", Absent::Is(b"_\r\n"), "$1\r\nv\r\n", false),
        ("LPOS k m", Absent::IsOne(&[b"_\r\n", b"*0\r\n"]), "*0\r\n", true),
        ("LPOS k m", Absent::IsOne(&[b"_\r\n", b"*0\r\n"]), ":0\r\n", false),
        ("HMGET k f g", Absent::Each(b"_\r\n"), "*2\r\n_\r\n_\r\n", true),
        ("HMGET k f g", Absent::Each(b"_\r\n"), "*2\r\n_\r\n$1\r\nv\r\n", false),
        ("HMGET k f g", Absent::Each(b"_\r\n"), "_\r\n", false),
        ("BITPOS k 1", Absent::Position, ":-1\r\n", true),
        ("BITPOS k 1", Absent::Position, ":0\r\n", false),
        ("BITPOS k 0", Absent::Position, ":0\r\n", true),
        ("BITPOS k 0", Absent::Position, ":-1\r\n", false),
        ("GEOPOS k m", Absent::Unknown, "*1\r\n_\r\n", false),
    ] {
        let found = absent.of(sample(line).args()).is(frame.as_bytes());
        assert_eq!(found, expected, "{line}: {frame:?}");
    }
}

#[test]
fn every_reason_is_a_text_of_its_own() {
    let texts: HashSet<_> = NotCached::ALL.iter().map(|why| why.text()).collect();
    assert_eq!(texts.len(), NotCached::ALL.len());
}
