use std::collections::HashSet;

use proptest::prelude::*;

use super::{Table, lower_case};
use crate::command::sample::Sample;
use crate::command::{Access, Cache, Keys, NotCached, Path, Pin, ServerCommand};

fn command(name: &str, arity: i64, flags: &[&str], keys: [i64; 3]) -> ServerCommand {
    ServerCommand {
        name: name.to_owned(),
        arity,
        flags: flags.iter().map(|flag| (*flag).to_owned()).collect(),
        first_key: keys[0],
        last_key: keys[1],
        key_step: keys[2],
        subcommands: Vec::new(),
    }
}

#[test]
fn every_row_is_found_by_its_name_in_any_case() {
    let table = Table::builtin();
    let mut names = HashSet::new();
    for (id, row) in table.rows().enumerate() {
        assert_eq!(usize::from(row.id), id);
        assert_eq!(*row.name, row.name.to_ascii_lowercase());
        assert!(names.insert(row.name.to_string()), "{} stands there twice", row.name);
        let mixed: String = row
            .name
            .chars()
            .enumerate()
            .map(|(i, c)| if i % 2 == 0 { c.to_ascii_uppercase() } else { c })
            .collect();
        for name in [row.name.to_string(), row.name.to_ascii_uppercase(), mixed] {
            assert_eq!(
                table.find(name.as_bytes()).map(|found| found.id),
                Some(row.id),
                "{name}"
            );
        }
        for wrong in [
            format!("{}x", row.name),
            format!("x{}", row.name),
            row.name[1..].to_owned(),
        ] {
            let found = table.find(wrong.as_bytes()).map(|found| found.name.to_string());
            assert!(
                found.is_none() || found == Some(wrong.clone()),
                "{wrong} found {found:?}"
            );
        }
    }
}

#[test]
fn names_that_are_nearly_right_are_not_found() {
    let table = Table::builtin();
    for name in [
        "",
        "g",
        "ge",
        "get\0",
        "\0get",
        "g\x05t",
        "geT ",
        "GET\r",
        "zrangebyscor_",
        "hget\u{e9}",
        "\u{c7}et",
    ] {
        assert!(table.find(name.as_bytes()).is_none(), "{name:?}");
    }
    assert!(table.find(&[b'a'; 100_000]).is_none());
}

#[test]
fn the_most_frequent_commands_are_found_at_the_first_place() {
    let table = Table::builtin();
    assert_eq!(table.find(b"GET").map(|row| row.id), Some(0));
    assert_eq!(table.find(b"SET").map(|row| row.id), Some(1));
}

#[test]
fn a_server_without_a_command_does_not_take_its_row_away() {
    let table = Table::join(&[command("get", 2, &["readonly", "fast"], [1, 1, 1])]);
    assert_eq!(table.rows().count(), Table::builtin().rows().count());
    assert!(table.find(b"zadd").is_some());
}

#[test]
fn the_server_knows_its_arities_and_what_writes() {
    let table = Table::join(&[
        command("ZRANK", -3, &["readonly"], [1, 1, 1]),
        command("hget", 3, &["write"], [1, 1, 1]),
    ]);
    assert_eq!(table.find(b"zrank").map(|row| row.arity), Some(-3));
    let hget = table.find(b"hget").expect("a row");
    assert_eq!((hget.access, hget.cache), (Access::Write, Cache::No));
}

#[test]
fn a_command_only_the_server_knows_gets_a_row_by_its_flags() {
    let line = Sample::of("x a b c d");
    for (flags, keys, access, path, found) in [
        (
            &["write", "module"][..],
            [1, 1, 1],
            Access::Write,
            Path::Side,
            ("a", Keys::Known),
        ),
        (
            &["readonly"],
            [1, -1, 2],
            Access::Read,
            Path::Side,
            ("a c", Keys::Known),
        ),
        (
            &["readonly"],
            [2, -2, 1],
            Access::Read,
            Path::Side,
            ("b c", Keys::Known),
        ),
        (
            &["readonly", "movablekeys"],
            [1, 1, 1],
            Access::Read,
            Path::Side,
            ("", Keys::All),
        ),
        (&["write"], [0, 0, 0], Access::Write, Path::Side, ("", Keys::All)),
        (&[], [0, 0, 0], Access::Write, Path::Side, ("", Keys::All)),
        (
            &["admin", "noscript"],
            [0, 0, 0],
            Access::Write,
            Path::Side,
            ("", Keys::All),
        ),
        (
            &["write", "blocking"],
            [1, 1, 1],
            Access::Write,
            Path::Pin(Pin::Blocking),
            ("a", Keys::Known),
        ),
        (
            &["noscript", "loading"],
            [0, 0, 0],
            Access::Write,
            Path::Pin(Pin::Stateful),
            ("", Keys::All),
        ),
        (
            &["pubsub", "readonly"],
            [0, 0, 0],
            Access::Read,
            Path::Pin(Pin::Stateful),
            ("", Keys::All),
        ),
        (
            &["write"],
            [-1, i64::MAX, i64::MIN],
            Access::Write,
            Path::Side,
            ("", Keys::All),
        ),
    ] {
        let table = Table::join(&[command("Brand.New", -2, flags, keys)]);
        let row = table.find(b"brand.new").expect("a row");
        let cache = match access {
            Access::Read => Cache::Never(NotCached::Unknown),
            Access::None | Access::Write => Cache::No,
        };
        assert_eq!(
            (row.access, row.path(line.args()), row.cache),
            (access, path, cache),
            "{flags:?}"
        );
        assert_eq!(line.keys(row), (found.0.to_owned(), found.1), "{flags:?} {keys:?}");
        assert_eq!(*row.name, *"brand.new");
    }
}

#[test]
fn odd_server_tables_do_no_harm() {
    let many: Vec<_> = (0..70_000)
        .map(|n| command(&format!("m.{n}"), i64::MAX, &[], [0, 0, 0]))
        .collect();
    let table = Table::join(&many);
    assert_eq!(table.rows().count(), usize::from(u16::MAX));
    assert_eq!(table.find(b"M.17").map(|row| row.arity), Some(-1));
    assert!(table.find(b"m.69999").is_none());
    let table = Table::join(&[command("", 1, &[], [0, 0, 0]), command("new", 1, &[], [0, 0, 0])]);
    assert!(table.find(b"").is_none());
    assert!(table.find(b"NEW").is_some());
}

proptest! {
    #[test]
    fn letters_are_lowered_eight_at_once(bytes in any::<[u8; 8]>()) {
        prop_assert_eq!(lower_case(u64::from_le_bytes(bytes)).to_le_bytes(), bytes.map(|b| b.to_ascii_lowercase()));
    }

    #[test]
    fn only_names_are_found(name in proptest::collection::vec(any::<u8>(), 0..24)) {
        let table = Table::builtin();
        let expected = table.rows().find(|row| row.name.as_bytes().eq_ignore_ascii_case(&name)).map(|row| row.id);
        prop_assert_eq!(table.find(&name).map(|row| row.id), expected);
    }
}
