//! Who may use whom in `src/`, and the form of its files: what a reader relies on without looking.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// The layers, top first. A module may use those of the lines below its own, never its own line's or those above.
const LAYERS: [&[&str]; 8] = [
    &["main", "lib"],
    &["server"],
    &["downstream", "invalidation", "admin"],
    &["proxy"],
    &["cache", "upstream", "policy"],
    &["command"],
    &["resp"],
    BASE,
];

/// The lowest layer, whose modules may use one another.
const BASE: &[&str] = &["cli", "clock", "config", "error", "glob", "metrics", "net", "units"];

const LINES_MAX: usize = 600;

#[test]
fn no_module_uses_one_above_or_beside_it() {
    let mut wrong = Vec::new();
    for file in sources() {
        if is_test(&file) {
            continue;
        }
        let user = top_module(&file);
        let text = fs::read_to_string(&file).unwrap();
        for (line, used) in uses(&text, depth(&file)) {
            if !may_use(&user, &used) {
                wrong.push(format!("{}:{line}: {user} uses {used}", file.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "wrong way:\n{}", wrong.join("\n"));
}

#[test]
fn every_top_module_has_its_layer() {
    let known: Vec<&str> = LAYERS.concat();
    let mut unknown: Vec<String> = sources().iter().map(|file| top_module(file)).collect();
    unknown.retain(|module| !known.contains(&module.as_str()));
    unknown.dedup();
    assert!(unknown.is_empty(), "give these a layer: {unknown:?}");
}

#[test]
fn no_source_file_is_too_long_to_read_at_once() {
    let long: Vec<String> = sources()
        .iter()
        .map(|file| (file, fs::read_to_string(file).unwrap().lines().count()))
        .filter(|(_, lines)| *lines > LINES_MAX)
        .map(|(file, lines)| format!("{}: {lines}", file.display()))
        .collect();
    assert!(long.is_empty(), "more than {LINES_MAX} lines:\n{}", long.join("\n"));
}

#[test]
fn every_module_opens_with_why_it_is_there() {
    let silent: Vec<String> = sources()
        .iter()
        .filter(|file| !is_test(file) && !fs::read_to_string(file).unwrap().starts_with("//!"))
        .map(|file| file.display().to_string())
        .collect();
    assert!(silent.is_empty(), "no //! at the top:\n{}", silent.join("\n"));
}

#[test]
fn tests_are_in_files_of_their_own() {
    let inline: Vec<String> = sources()
        .iter()
        .filter(|file| fs::read_to_string(file).unwrap().contains("mod tests {"))
        .map(|file| file.display().to_string())
        .collect();
    assert!(inline.is_empty(), "inline test modules:\n{}", inline.join("\n"));
}

#[test]
fn uses_are_found_in_every_form() {
    let text = "use crate::resp::Version;\n\
                use crate::{cache, upstream::{self, pool}, clock::now_us};\n\
                // use crate::comment;\n\
                let x = crate::units::parse(\"crate::text\");\n\
                use super::super::proxy::read;\n\
                use super::sibling;\n\
                pub(crate) fn f() {}\n";
    let found: Vec<(usize, String)> = uses(text, 2);
    let expected = [
        (1, "resp"),
        (2, "cache"),
        (2, "upstream"),
        (2, "clock"),
        (4, "units"),
        (5, "proxy"),
    ];
    assert_eq!(found, expected.map(|(line, module)| (line, module.to_owned())));
}

#[test]
fn uses_upwards_and_sideways_are_refused() {
    assert!(may_use("server", "proxy") && may_use("main", "cli") && may_use("cache", "clock"));
    assert!(may_use("config", "units") && may_use("proxy", "proxy"));
    for (user, used) in [
        ("proxy", "downstream"),
        ("cache", "upstream"),
        ("upstream", "cache"),
        ("config", "resp"),
    ] {
        assert!(!may_use(user, used), "{user} uses {used}");
    }
}

fn may_use(user: &str, used: &str) -> bool {
    let layer_of = |module: &str| LAYERS.iter().position(|layer| layer.contains(&module));
    if user == used || (BASE.contains(&user) && BASE.contains(&used)) {
        return true;
    }
    match (layer_of(user), layer_of(used)) {
        (Some(user), Some(used)) => user < used,
        // Not a module of the crate's top: a macro or an item of lib.rs.
        (_, None) | (None, _) => true,
    }
}

/// The top modules that a text names by `crate::` or by climbing to the top with `super::`, each with its line.
fn uses(text: &str, depth: usize) -> Vec<(usize, String)> {
    let code: String = text
        .lines()
        .map(|line| line.split("//").next().unwrap_or_default())
        .map(without_strings)
        .collect::<Vec<_>>()
        .join("\n");
    let to_top = "super::".repeat(depth);
    let mut found = BTreeMap::new();
    for prefix in ["crate::", &to_top] {
        for (at, _) in code.match_indices(prefix) {
            let before = code[..at].chars().next_back();
            if before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':' || c == '$') {
                continue;
            }
            let line = code[..at].matches('\n').count() + 1;
            let rest = &code[at + prefix.len()..];
            for (index, module) in first_names(rest).into_iter().enumerate() {
                found.insert((at, index), (line, module));
            }
        }
    }
    found.into_values().collect()
}

/// `a::b` names a; `{a, b::{c, d}}` names a and b.
fn first_names(rest: &str) -> Vec<String> {
    let Some(group) = rest.strip_prefix('{') else {
        return vec![identifier(rest)];
    };
    let (mut level, mut item, mut names) = (1, String::new(), Vec::new());
    for c in group.chars() {
        match c {
            '{' => level += 1,
            '}' => level -= 1,
            _ => {}
        }
        if level == 0 || (level == 1 && c == ',') {
            names.push(identifier(item.trim()));
            item.clear();
            if level == 0 {
                break;
            }
        } else {
            item.push(c);
        }
    }
    names.retain(|name| !name.is_empty());
    names
}

fn identifier(text: &str) -> String {
    text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
}

fn without_strings(line: &str) -> String {
    line.split('"').step_by(2).collect::<Vec<_>>().join("\"\"")
}

/// How many `super::` lead from a file's module to the crate.
fn depth(file: &Path) -> usize {
    let inside = file.strip_prefix(source_dir()).unwrap();
    let is_mod = inside.file_name().is_some_and(|name| name == "mod.rs");
    inside.components().count() - usize::from(is_mod)
}

fn top_module(file: &Path) -> String {
    let inside = file.strip_prefix(source_dir()).unwrap();
    let first = inside.components().next().unwrap();
    Path::new(first.as_os_str())
        .file_stem()
        .unwrap()
        .to_string_lossy()
        .into_owned()
}

fn is_test(file: &Path) -> bool {
    file.components()
        .any(|part| part.as_os_str() == "tests" || part.as_os_str() == "tests.rs")
}

fn sources() -> Vec<PathBuf> {
    let (mut files, mut dirs) = (Vec::new(), vec![source_dir()]);
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                dirs.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files.push(path);
            }
        }
    }
    files.sort();
    assert!(files.len() > 20, "these are not the sources: {files:?}");
    files
}

fn source_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}
