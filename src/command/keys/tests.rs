use super::Keys;
use crate::command::Table;
use crate::command::sample::Sample;

fn keys(line: &str) -> (String, Keys) {
    let table = Table::builtin();
    let name = line.split(' ').next().unwrap_or_default();
    Sample::of(line).keys(table.find(name.as_bytes()).expect("a row"))
}

#[track_caller]
fn known(line: &str, expected: &str) {
    assert_eq!(keys(line), (expected.to_owned(), Keys::Known), "{line}");
}

#[track_caller]
fn all(line: &str, expected: &str) {
    assert_eq!(keys(line), (expected.to_owned(), Keys::All), "{line}");
}

#[track_caller]
fn none(line: &str) {
    assert_eq!(keys(line), (String::new(), Keys::None), "{line}");
}

#[test]
fn keys_at_fixed_places() {
    known("GET a", "a");
    known("SET GET EX", "GET");
    known("MSET a 1 b 2", "a b");
    known("BLPOP a b 0", "a b");
    known("BITOP AND d a b", "d a b");
    known("RENAME a b", "a b");
    known("DEL a a", "a a");
}

#[test]
fn too_few_arguments_give_what_is_there() {
    known("GET", "");
    known("RENAME a", "a");
    known("BITOP AND", "");
    known("BLPOP", "");
    known("OBJECT ENCODING", "");
    known("MSET", "");
}

#[test]
fn counted_keys() {
    known("LMPOP 2 a b LEFT", "a b");
    known("BZMPOP 0 1 a MIN", "a");
    known("ZUNIONSTORE d 2 a b WEIGHTS 1 2", "d a b");
    known("MSETEX 2 a 1 b 2 EX 10", "a b");
    known("ZUNION 2 withscores weights", "withscores weights");
}

#[test]
fn a_count_that_cannot_be_means_any_key() {
    for count in [
        "",
        "x",
        "-1",
        "+1",
        "01",
        "3",
        "1.0",
        "99999999999999999999",
        "18446744073709551615",
        "9999999999",
    ] {
        all(&format!("LMPOP {count} a LEFT"), "");
        all(&format!("EVAL script {count} a"), "");
        all(&format!("ZUNIONSTORE d {count} a"), "d");
    }
    all("LMPOP", "");
}

#[test]
fn scripts_without_declared_keys_may_touch_any() {
    all("EVAL script 0", "");
    all("EVAL_RO script 0 arg", "");
    all("FCALL name 0", "");
    known("EVALSHA sha 1 a arg", "a");
}

#[test]
fn streams_are_the_first_half_behind_the_word() {
    known("XREAD STREAMS a b 0 0", "a b");
    known("XREAD COUNT 1 BLOCK 0 streams a streams 0 0", "a streams");
    known("XREADGROUP GROUP streams streams NOACK STREAMS a >", "a");
    known("XREADGROUP GROUP g c CLAIM 100 STREAMS a >", "a");
    all("XREAD COUNT 1", "");
    all("XREAD STREAMS", "");
    all("XREAD STREAMS a", "");
    all("XREADGROUP GROUP g", "");
}

#[test]
fn sort_with_patterns_reads_keys_nobody_names() {
    known("SORT a", "a");
    known("SORT a LIMIT 0 1 STORE d", "a d");
    known("SORT a STORE d1 STORE d2", "a d2");
    known("SORT a BY STORE GET STORE", "a");
    known("SORT a BY nosort GET #", "a");
    known("SORT a STORE", "a");
    all("SORT a BY w_*", "a");
    all("SORT_RO a GET d_*->f", "a");
    all("SORT a GET d_* STORE d", "a d");
}

#[test]
fn radius_queries_name_their_destination_behind_the_options() {
    known("GEORADIUS a 1 2 3 km STORE d", "a d");
    known("GEORADIUS a 1 2 3 km COUNT 1 ANY STOREDIST d", "a d");
    known("GEORADIUS a store d 3 km", "a");
    known("GEORADIUSBYMEMBER a store 3 km STORE d", "a d");
    known("GEORADIUSBYMEMBER a m 3 km STORE", "a");
}

#[test]
fn migrate_names_one_key_or_a_list() {
    known("MIGRATE h 1 a 0 10", "a");
    known("MIGRATE h 1  0 10 COPY AUTH keys KEYS a b", "a b");
    known("MIGRATE h 1  0 10 AUTH2 keys keys KEYS a", "a");
    all("MIGRATE h 1  0 10", "");
    all("MIGRATE", "");
}

#[test]
fn containers_name_keys_with_some_subcommands_only() {
    known("OBJECT ENCODING a", "a");
    known("XGROUP CREATE a g $", "a");
    known("MEMORY usage a SAMPLES 0", "a");
    none("MEMORY DOCTOR");
    none("FUNCTION LIST");
    all("FUNCTION FLUSH", "");
    none("CLUSTER SLOTS");
    all("CLUSTER FLUSHSLOT 1", "");
    none("MODULE LIST");
    all("MODULE LOAD x", "");
    none("SCRIPT LOAD x");
}

#[test]
fn what_touches_the_whole_keyspace() {
    for line in [
        "FLUSHALL",
        "FLUSHDB ASYNC",
        "SWAPDB 0 1",
        "DBSIZE",
        "KEYS *",
        "SCAN 0",
        "RANDOMKEY",
        "DEBUG RELOAD",
    ] {
        all(line, "");
    }
}

#[test]
fn what_has_nothing_to_do_with_keys() {
    for line in [
        "PING",
        "TIME",
        "PUBLISH c m",
        "SPUBLISH c m",
        "SUBSCRIBE c",
        "EXEC",
        "WAIT 1 0",
        "CONFIG GET x",
    ] {
        none(line);
    }
}
