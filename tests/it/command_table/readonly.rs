//! Every read of a real server is cached or has its reason, and README.md says of each what the table says.

use std::collections::{BTreeMap, BTreeSet};

use nearcache::command::{Cache, NotCached, Table};

use super::{args, text};
use crate::support::client::children;
use crate::support::server::NEWER;
use crate::support::{Client, Server};

#[test]
fn every_read_of_redis_7_is_cached_or_has_its_reason() {
    let server = Server::start();
    agree_on_reads(&mut server.client());
}

#[test]
fn every_read_of_valkey_is_cached_or_has_its_reason() {
    let Some(server) = Server::valkey(&[]) else { return };
    agree_on_reads(&mut server.client());
}

#[test]
fn every_read_of_newer_servers_is_cached_or_has_its_reason() {
    for server in NEWER.into_iter().filter_map(|newer| Server::newer(newer, &[])) {
        if server.is_known() {
            agree_on_reads(&mut server.client());
        }
    }
}

#[test]
fn the_readme_lists_what_is_cached_and_why_the_rest_is_not() {
    let readme = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md")).expect("README.md");
    let section = readme
        .split("\n## ")
        .find(|section| section.starts_with("What is cached"));
    let mut tables = section
        .expect("a section about what is cached")
        .split("\n\n")
        .filter(|part| part.starts_with('|'));
    let (cached, never) = (rows(tables.next()), rows(tables.next()));

    let mut listed = Vec::new();
    cached
        .iter()
        .for_each(|(commands, _)| listed.extend(commands.iter().cloned()));
    let expected = caches(&Table::builtin())
        .into_iter()
        .filter(|(_, cache)| cache.is_kept());
    assert_eq!(sorted(listed), sorted(expected.map(|(name, _)| name)));

    let mut reasons: BTreeMap<&str, BTreeSet<String>> =
        NotCached::ALL.iter().map(|why| (why.text(), BTreeSet::new())).collect();
    for (name, cache) in caches(&Table::builtin()) {
        if let Cache::Never(why) = cache {
            reasons.entry(why.text()).or_default().insert(name);
        }
    }
    let listed: BTreeMap<&str, BTreeSet<String>> = never
        .iter()
        .map(|(commands, why)| (why.as_str(), commands.iter().cloned().collect()))
        .collect();
    assert_eq!(listed, reasons);
}

/// What is flagged `readonly` there is a read here, subcommand by subcommand, and what is cached here is flagged there.
#[track_caller]
fn agree_on_reads(client: &mut Client) {
    let table = Table::builtin();
    let mut problems = Vec::new();
    let commands = commands(&client.cmd(&["COMMAND"]));
    assert!(commands.iter().filter(|(_, is_read)| *is_read).count() >= 90);
    for (name, is_read) in commands {
        let words: Vec<&str> = name.split('|').collect();
        let Some(row) = table.find(words[0].as_bytes()) else {
            problems.push(format!("{name}: no row"));
            continue;
        };
        let cache = row.cache_of(args(&words, &mut Vec::new()));
        match cache {
            Cache::No if is_read => problems.push(format!("{name}: a read, neither cached nor with a reason")),
            Cache::Never(NotCached::Unknown) => {
                problems.push(format!("{name}: known, and its reason is that it is not"))
            }
            Cache::No | Cache::Never(_) | Cache::Sub(_) => {}
            _ if !is_read => problems.push(format!("{name}: cached, and not a read")),
            _ => {}
        }
    }
    assert_eq!(problems, Vec::<String>::new());
}

/// The names of all commands, subcommands behind a `|`, and whether they are flagged `readonly`.
fn commands(reply: &[u8]) -> Vec<(String, bool)> {
    let mut all = Vec::new();
    for row in children(reply) {
        let columns = children(&row);
        let is_read = children(&columns[2]).iter().any(|flag| text(flag) == Some(b"readonly"));
        let name = text(&columns[0]).expect("a name");
        all.push((String::from_utf8_lossy(name).into_owned(), is_read));
        all.extend(
            columns
                .get(9)
                .map(|subcommands| commands(subcommands))
                .unwrap_or_default(),
        );
    }
    all
}

/// Every command of the table and, for containers, every subcommand that reads, as README.md writes them.
pub fn caches(table: &Table) -> Vec<(String, Cache)> {
    let mut all = Vec::new();
    for row in table.rows() {
        let name = row.name.to_ascii_uppercase();
        match row.cache {
            Cache::Sub(subcommands) => all.extend(
                subcommands
                    .iter()
                    .map(|(sub, cache)| (format!("{name} {}", sub.to_ascii_uppercase()), *cache)),
            ),
            cache => all.push((name, cache)),
        }
    }
    all
}

/// The commands in the first column and the text of the second, below the header.
fn rows(table: Option<&str>) -> Vec<(Vec<String>, String)> {
    let lines = table.expect("a table").lines().skip(2);
    let cells = lines.map(|line| line.trim_matches('|').split('|').map(str::trim).collect::<Vec<_>>());
    cells
        .map(|cells| (commands_in(cells[0]), cells[1].to_owned()))
        .collect()
}

/// Words between backticks; a container takes the next word with it.
fn commands_in(cell: &str) -> Vec<String> {
    let table = Table::builtin();
    let mut found = Vec::new();
    for quoted in cell.split('`').skip(1).step_by(2) {
        let mut words = quoted.split(' ');
        while let Some(word) = words.next() {
            let is_container = table
                .find(word.as_bytes())
                .is_some_and(|row| matches!(row.cache, Cache::Sub(_)));
            let sub = if is_container { words.next() } else { None };
            found.push(sub.map_or_else(|| word.to_owned(), |sub| format!("{word} {sub}")));
        }
    }
    found
}

fn sorted(names: impl IntoIterator<Item = String>) -> Vec<String> {
    let mut names: Vec<_> = names.into_iter().collect();
    names.sort();
    names
}
