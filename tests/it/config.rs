//! The configuration as a user meets it: the example file, the flags of the real binary, and what it says of mistakes.

use std::collections::BTreeSet;
use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Output};

use nearcache::config::{Config, Settings};

use crate::support::certificates::Authority;

#[test]
fn the_example_file_says_the_defaults() {
    let text = example();
    let mut settings = Settings::default();
    settings.add_file("conf/nearcache.toml", &text);
    assert_eq!(Config::from_settings(settings), Ok(Config::default()), "as it is");

    let uncommented: String = text
        .lines()
        .map(|line| format!("{}\n", option_line(line).unwrap_or(line)))
        .collect();
    let mut settings = Settings::default();
    settings.add_file("conf/nearcache.toml", &uncommented);
    assert_eq!(
        Config::from_settings(settings),
        Ok(Config::default()),
        "with every option taken out of its comment"
    );
}

#[test]
fn the_example_file_has_every_option_and_no_other() {
    let names = |text: &str, name_of: fn(&str) -> Option<&str>| {
        let mut section = String::new();
        let mut names = BTreeSet::new();
        for line in text.lines() {
            if line.starts_with('[') {
                section = line.to_owned();
            } else if let Some((name, _)) = name_of(line).and_then(|option| option.split_once(" = ")) {
                assert!(
                    names.insert(format!("{section} {name}")),
                    "{section} {name} stands twice"
                );
            }
        }
        names
    };
    let in_effect = names(&Config::default().to_toml(), |line| Some(line));
    assert!(in_effect.len() > 25, "{in_effect:?}");
    assert_eq!(names(&example(), option_line), in_effect);
}

#[test]
fn the_examples_in_the_file_are_valid() {
    let mut section = "";
    let text = example();
    let mut count = 0;
    for line in text.lines() {
        if line.starts_with('[') {
            section = line;
        } else if let Some(option) = line.strip_prefix("# Example: ") {
            // An example may lean on another one of its section.
            let company = match (section, option.split(' ').next()) {
                ("[upstream]", Some("password")) => "url = \"redis://h\"",
                ("[auth]", Some("user")) => "mode = \"password\"\npassword = \"p\"",
                ("[auth]", Some("password")) => "mode = \"password\"",
                _ => "",
            };
            let mut settings = Settings::default();
            settings.add_file("example", &format!("{section}\n{company}\n{option}\n"));
            assert!(Config::from_settings(settings).is_ok(), "{section} {option}");
            count += 1;
        }
    }
    assert!(count >= 5, "only {count} examples");
}

#[test]
fn the_example_file_is_accepted_by_the_binary() {
    let output = nearcache(&["--check-config", "--config", example_path().to_str().unwrap()], &[]);
    assert_eq!(text(&output.stdout), "the configuration is valid\n");
    assert_eq!(output.status.code(), Some(0));
}

#[test]
fn a_wrong_configuration_is_refused_with_every_problem_and_code_2_before_a_port_is_bound() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("n.toml");
    fs::write(&file, "wrokers = 1\n[cache]\nbound = \"5ms\"\n").unwrap();
    // Were the port tried first, this one would be the problem.
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let listen = taken.local_addr().unwrap().to_string();

    let output = nearcache(
        &["--config", file.to_str().unwrap(), "--listen", &listen, "--l1", "4"],
        &[],
    );

    assert_eq!(output.status.code(), Some(2));
    assert_eq!(text(&output.stdout), "");
    let said = text(&output.stderr);
    for part in [
        "wrokers: unknown option",
        "cache.bound: must be at least 100ms, found 5ms",
        "--l1: \"4\" needs a unit",
    ] {
        assert!(said.contains(part), "{part} is missing in:\n{said}");
    }
    assert!(!said.contains(&listen), "{said}");
}

#[test]
fn parts_that_do_not_exist_yet_are_refused_by_the_binary_with_code_2() {
    let args = ["--dashboard", "127.0.0.1:8082"];
    let output = nearcache(&args, &[]);
    assert_eq!(output.status.code(), Some(2), "{args:?}");
    let said = text(&output.stderr);
    assert!(
        said.contains(args[0]) && said.contains("does not exist yet; "),
        "{said}"
    );
}

#[test]
fn the_environment_and_the_flags_show_in_what_is_printed() {
    let env = [
        ("NEARCACHE_L1", "64MiB"),
        ("REDIS_ADDR", "10.0.0.5:6379"),
        ("REDIS_PASSWORD", "hush"),
    ];
    let output = nearcache(&["--print-config", "--workers", "3"], &env);
    assert_eq!(output.status.code(), Some(0));
    let printed = text(&output.stdout);
    for line in ["l1 = \"64MiB\"", "workers = 3", "url = \"redis://:***@10.0.0.5:6379\""] {
        assert!(
            printed.lines().any(|printed| printed == line),
            "{line} is missing in:\n{printed}"
        );
    }
    assert!(!printed.contains("hush"));
}

#[test]
fn a_check_looks_into_the_files_that_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let broken = dir.path().join("broken.pem");
    fs::write(&broken, "no certificate").unwrap();
    let check = |option: (&str, &str)| {
        let output = nearcache(&["--check-config"], &[("NEARCACHE_UPSTREAM", "rediss://h"), option]);
        assert_eq!(output.status.code(), Some(2), "{option:?}");
        text(&output.stderr)
    };
    let said = check(("NEARCACHE_TLS_CA", broken.to_str().unwrap()));
    assert!(
        said.contains("1 problem\n  upstream.tls_ca: ") && said.contains("broken.pem"),
        "{said}"
    );
    let authority = Authority::new();
    let ca = authority.ca.to_str().unwrap();
    let env = [
        ("NEARCACHE_UPSTREAM", "rediss://h"),
        ("NEARCACHE_TLS_CA", ca),
        ("NEARCACHE_TLS_SERVER_NAME", "no name"),
    ];
    let output = nearcache(&["--check-config"], &env);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("upstream.tls_server_name: is no host name"));
    assert_eq!(nearcache(&["--check-config"], &env[..2]).status.code(), Some(0));
}

#[test]
fn help_and_version_go_to_standard_output() {
    let help = nearcache(&["--help"], &[]);
    assert_eq!(help.status.code(), Some(0));
    for flag in [
        "--upstream",
        "--config",
        "--listen",
        "--port",
        "--admin",
        "--workers",
        "--l1",
        "--log-level",
    ] {
        assert!(text(&help.stdout).contains(flag), "{flag}");
    }
    let version = nearcache(&["--version"], &[]);
    assert_eq!(
        text(&version.stdout),
        format!("nearcache {}\n", env!("CARGO_PKG_VERSION"))
    );
}

#[test]
fn the_readme_names_every_flag_and_no_other() {
    let flags_in = |text: &str| -> BTreeSet<String> {
        text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '-'))
            .filter(|word| {
                word.strip_prefix("--")
                    .is_some_and(|name| name.starts_with(|c: char| c.is_ascii_lowercase()))
            })
            .map(str::to_owned)
            .collect()
    };
    let help_of = |args: &[&str]| flags_in(&text(&nearcache(args, &[]).stdout));
    let of_binary: BTreeSet<String> = &help_of(&["--help"]) | &help_of(&["l3-check", "--help"]);
    // The section on performance is about other programs.
    let readme = fs::read_to_string(root().join("README.md")).unwrap();
    let of_readme: BTreeSet<String> = readme
        .split("\n## ")
        .filter(|section| !section.starts_with("Performance\n"))
        .flat_map(flags_in)
        .collect();
    assert_eq!(of_readme, of_binary);
}

/// The option of a line such as `#workers = 0`.
fn option_line(line: &str) -> Option<&str> {
    line.strip_prefix('#')
        .filter(|rest| rest.starts_with(|c: char| c.is_ascii_lowercase()))
}

/// Runs the binary to its end, with nothing of the environment but what is given.
fn nearcache(args: &[&str], env: &[(&str, &str)]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_nearcache"))
        .args(args)
        .env_clear()
        .envs(env.iter().copied())
        .output()
        .unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn example() -> String {
    fs::read_to_string(example_path()).unwrap()
}

fn example_path() -> std::path::PathBuf {
    root().join("conf/nearcache.toml")
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}
