//! The command line against the environment, the file and the defaults.

use super::{EXIT_USAGE, Outcome, parse};
use crate::config::{Config, Endpoint, LogFormat, LogLevel, Place, Secret, Upstream};
use std::ffi::OsString;
use std::io::Write;
use tempfile::NamedTempFile;

#[test]
fn no_argument_runs_the_defaults() {
    assert_eq!(run(&[], &[]), (Config::default(), vec![]));
}

#[test]
fn every_flag_reaches_its_option() {
    let (config, _) = run(
        &[
            "--upstream=redis://h:1",
            "--listen=127.0.0.1:7",
            "--listen=unix:/tmp/s",
            "--port=0",
            "--admin=off",
            "--workers=3",
            "--l1=1GiB",
            "--log-level=debug",
            "--log-format=json",
            "--dashboard=off",
        ],
        &[],
    );
    assert_eq!(host_of(&config), "h");
    let listen: Vec<String> = config.listen.iter().map(ToString::to_string).collect();
    assert_eq!(listen, ["127.0.0.1:7", "unix:/tmp/s", "127.0.0.1:0"]);
    assert_eq!(config.admin, None);
    assert_eq!((config.workers, config.worker_threads()), (3, 3));
    assert_eq!(config.cache.l1_bytes, 1 << 30);
    assert_eq!(config.log.level, LogLevel::Debug);
    assert_eq!(config.log.format, LogFormat::Json);
}

#[test]
fn every_variable_of_its_own_reaches_its_option() {
    let file = file("workers = 9\n");
    let (config, warnings) = run(
        &[],
        &[
            ("NEARCACHE_CONFIG", file.path().to_str().unwrap()),
            ("NEARCACHE_UPSTREAM", "redis://h:1"),
            ("NEARCACHE_LISTEN", "127.0.0.1:7,unix:/tmp/s 127.0.0.1:8"),
            ("NEARCACHE_PORT", "9"),
            ("NEARCACHE_ADMIN", "off"),
            ("NEARCACHE_L1", "1GiB"),
            ("NEARCACHE_LOG_LEVEL", "WARN"),
            ("NEARCACHE_LOG_FORMAT", "json"),
        ],
    );
    assert_eq!(warnings, Vec::<String>::new());
    assert_eq!(host_of(&config), "h");
    assert_eq!(config.listen.len(), 4);
    assert_eq!(config.admin, None);
    assert_eq!(config.workers, 9);
    assert_eq!(config.cache.l1_bytes, 1 << 30);
    assert_eq!(config.log.level, LogLevel::Warn);
    assert_eq!(config.log.format, LogFormat::Json);
}

#[test]
fn flags_win_over_the_environment_and_the_environment_over_the_file() {
    let file = file("listen = \"127.0.0.1:1\"\nworkers = 1\nadmin = \"127.0.0.1:1\"\n[cache]\nl1 = \"1MiB\"\n");
    let path = file.path().to_str().unwrap();
    let env = [
        ("NEARCACHE_LISTEN", "127.0.0.1:2"),
        ("NEARCACHE_WORKERS", "2"),
        ("METRICS_PORT", "2"),
    ];
    let (config, _) = run(&["--config", path, "--port", "3"], &env);
    let listen: Vec<String> = config.listen.iter().map(ToString::to_string).collect();
    assert_eq!(listen, ["127.0.0.1:3"]);
    assert_eq!(config.workers, 2);
    assert_eq!(config.admin.unwrap().to_string(), "127.0.0.1:2");
    assert_eq!(config.cache.l1_bytes, 1 << 20);
}

#[test]
fn the_variables_of_other_services_are_understood() {
    let (config, warnings) = run(
        &[],
        &[
            ("REDIS_ADDR", "10.0.0.5:6380"),
            ("REDIS_PASSWORD", "p"),
            ("METRICS_PORT", "9100"),
            ("LOG_LEVEL", "warning"),
            ("CACHE_ENABLED", "true"),
            ("CACHE_L1_ENABLED", "false"),
            ("CACHE_L2_ENABLED", "true"),
            ("CACHE_L3_ENABLED", "false"),
        ],
    );
    assert_eq!(warnings, Vec::<String>::new());
    assert_eq!(config.upstream.to_string(), "redis://:***@10.0.0.5:6380");
    assert!(password(&config).matches(b"p"));
    assert_eq!(config.admin.unwrap().port(), 9100);
    assert_eq!(config.log.level, LogLevel::Warn);
    assert!(!config.cache.enabled, "without L1 nothing is cached");
    let (config, _) = run(&[], &[("REDIS_ADDR", "[::1]:1"), ("CACHE_L1_ENABLED", "true")]);
    assert_eq!(config.upstream.to_string(), "redis://[::1]:1");
    assert!(config.cache.enabled);
}

#[test]
fn every_variable_of_the_upstream_reaches_its_option() {
    let (secret, pem) = (file("hush\n"), file("a certificate\n"));
    let [secret, pem] = [&secret, &pem].map(|file| file.path().to_str().unwrap());
    let env = [
        ("NEARCACHE_UPSTREAM", "rediss+sentinel://u@s1/m"),
        ("NEARCACHE_UPSTREAM_PASSWORD_FILE", secret),
        ("NEARCACHE_SENTINEL_USER", "watcher"),
        ("NEARCACHE_SENTINEL_PASSWORD", "own"),
        ("NEARCACHE_TLS_CA", pem),
        ("NEARCACHE_TLS_CERT", pem),
        ("NEARCACHE_TLS_KEY", pem),
        ("NEARCACHE_TLS_SERVER_NAME", "redis.internal"),
    ];
    let (config, warnings) = run(&[], &env);
    assert_eq!(warnings, Vec::<String>::new());
    let Upstream::Url {
        place: Place::Sentinel(sentinels),
        tls: Some(tls),
        password,
        ..
    } = config.upstream
    else {
        panic!("{:?}", config.upstream);
    };
    assert!(password.value.unwrap().matches(b"hush"));
    assert_eq!(sentinels.user.as_deref(), Some("watcher"));
    assert!(sentinels.password.value.unwrap().matches(b"own"));
    assert!(tls.ca.is_some() && tls.identity.is_some());
    assert_eq!(tls.server_name.as_deref(), Some("redis.internal"));
    let (config, _) = run(
        &[],
        &[
            ("NEARCACHE_UPSTREAM", "sentinel://s1/m"),
            ("NEARCACHE_SENTINEL_PASSWORD_FILE", secret),
        ],
    );
    assert!(config.to_toml().contains("sentinel_password_file"));
}

#[test]
fn sentinels_of_other_services_are_understood() {
    let env = [
        ("REDIS_ADDR", "10.0.0.5:6380"),
        ("REDIS_PASSWORD", "p"),
        ("SENTINEL_ADDRS", "a:1, b,[::1]:3"),
        ("SENTINEL_MASTER_NAME", "cache"),
    ];
    let (config, warnings) = run(&[], &env);
    assert_eq!(warnings, Vec::<String>::new());
    assert_eq!(
        config.upstream.to_string(),
        "redis+sentinel://:***@a:1,b:26379,[::1]:3/cache"
    );
    let (config, _) = run(&[], &[("SENTINEL_ADDRS", "a"), ("NEARCACHE_UPSTREAM", "redis://own:2")]);
    assert_eq!(host_of(&config), "own");
}

#[test]
fn what_gives_way_to_an_own_variable_is_not_warned_of() {
    let env = [
        ("REDIS_ADDR", "unix:///s"),
        ("SENTINEL_ADDRS", "a"),
        ("NEARCACHE_UPSTREAM", "redis://own:2"),
    ];
    let (config, warnings) = run(&[], &env);
    assert_eq!((host_of(&config), warnings), ("own", Vec::new()));
}

#[test]
fn what_the_address_says_of_the_data_nodes_is_kept_beside_sentinels() {
    let env = [
        ("REDIS_ADDR", "rediss://u:p%40@h:1/3"),
        ("SENTINEL_ADDRS", "a"),
        ("SENTINEL_MASTER_NAME", "my/name %"),
    ];
    let (config, warnings) = run(&[], &env);
    assert_eq!(warnings, Vec::<String>::new());
    assert_eq!(
        config.upstream.to_string(),
        "rediss+sentinel://u:***@a:26379/my%2Fname%20%25/3"
    );
    for address in ["unix:///s?password=p", "redis+sentinel://b:1/m"] {
        let (config, warnings) = run(&[], &[("REDIS_ADDR", address), ("SENTINEL_ADDRS", "a")]);
        assert!(
            warnings.len() == 1 && warnings[0].starts_with("REDIS_ADDR is ignored"),
            "{warnings:?}"
        );
        assert_eq!(config.upstream.to_string(), "redis+sentinel://a:26379/mymaster");
    }
    let (_, warnings) = run(&[], &[("SENTINEL_MASTER_NAME", "m")]);
    assert!(
        warnings.len() == 1 && warnings[0].starts_with("SENTINEL_MASTER_NAME is ignored"),
        "{warnings:?}"
    );
}

#[test]
fn its_own_password_file_wins_over_a_password_of_other_services() {
    let secret = file("hush\n");
    let secret = ("NEARCACHE_UPSTREAM_PASSWORD_FILE", secret.path().to_str().unwrap());
    for other in [("REDIS_PASSWORD", "p"), ("REDIS_ADDR", "redis://:p@h")] {
        let (config, _) = run(&[], &[secret, other, ("REDIS_ADDR", "h")]);
        assert!(password(&config).matches(b"hush"));
    }
    let text = refused(&[], &[secret, ("NEARCACHE_UPSTREAM", "redis://:p@h")]);
    assert!(
        text.contains("NEARCACHE_UPSTREAM_PASSWORD_FILE: has no effect: upstream.url carries a password"),
        "{text}"
    );
}

#[test]
fn its_own_variables_win_over_those_of_other_services() {
    let env = [
        ("REDIS_ADDR", "other:1"),
        ("NEARCACHE_UPSTREAM", "redis://own:2"),
        ("METRICS_PORT", "1"),
        ("NEARCACHE_ADMIN", "127.0.0.1:2"),
    ];
    let (config, _) = run(&[], &env);
    assert_eq!(host_of(&config), "own");
    assert_eq!(config.admin.unwrap().port(), 2);
}

#[test]
fn variables_without_effect_yet_are_warned_of() {
    let env = [
        ("REDIS_SLAVE_ADDRS", "a:1,b:2"),
        ("CACHE_L3_ENABLED", "true"),
        ("CACHE_L2_ENABLED", "false"),
        ("WEBUI_PORT", "8082"),
        ("NEARCACHE_PORT", "tcp://10.1.2.3:6379"),
        ("NEARCACHE_WORKERS", ""),
    ];
    let (config, warnings) = run(&[], &env);
    assert_eq!(config, Config::default());
    for name in [
        "REDIS_SLAVE_ADDRS",
        "CACHE_L3_ENABLED",
        "CACHE_L2_ENABLED",
        "WEBUI_PORT",
        "NEARCACHE_PORT",
    ] {
        assert!(
            warnings.iter().any(|warning| warning.starts_with(name)),
            "{name}: {warnings:?}"
        );
    }
    assert_eq!(warnings.len(), 5);
}

#[test]
fn problems_of_all_sources_are_told_together() {
    let file = file("[cache]\nbound = \"5ms\"\n");
    let path = file.path().to_str().unwrap();
    let env = [
        ("LOG_LEVEL", "loud"),
        ("REDIS_ADDR", "h:x"),
        ("CACHE_ENABLED", "perhaps"),
    ];
    let text = refused(
        &[
            "--config",
            path,
            "--l1=4",
            "--port=x",
            "--upstream=redis+cluster://h/1",
            "--dashboard=127.0.0.1:1",
        ],
        &env,
    );
    for part in [
        "REDIS_ADDR: \"h:x\": the port must be a number",
        "--upstream: names a database: a cluster has only database 0",
        "--port: \"127.0.0.1:x\" is not an address",
        "CACHE_ENABLED: must be true or false, found \"perhaps\"",
        "--l1: \"4\" needs a unit",
        &format!("{path}:2: cache.bound: must be at least 100ms, found 5ms"),
        "LOG_LEVEL: must be one of",
        "--dashboard: the dashboard: this part of nearcache does not exist yet",
        "8 problems",
    ] {
        assert!(text.contains(part), "{part} is missing in:\n{text}");
    }
}

#[test]
fn a_file_that_cannot_be_read_is_named() {
    let text = refused(&["--config", "/nowhere/n.toml"], &[]);
    assert!(text.contains("--config: cannot read /nowhere/n.toml: "), "{text}");
    let text = refused(&[], &[("NEARCACHE_CONFIG", "/nowhere/n.toml")]);
    assert!(
        text.contains("NEARCACHE_CONFIG: cannot read /nowhere/n.toml: "),
        "{text}"
    );
}

#[test]
fn an_unknown_flag_is_refused() {
    assert!(refused(&["--cash"], &[]).contains("--cash"));
    assert!(refused(&["stray"], &[]).contains("stray"));
}

#[test]
fn what_is_asked_for_is_printed() {
    let printed = |args: &[&str]| match call(args, &[("REDIS_SLAVE_ADDRS", "a:1")]) {
        Outcome::Print(text) | Outcome::Check(_, text) => text,
        other => panic!("{other:?}"),
    };
    assert!(printed(&["--version"]).starts_with("nearcache "));
    let help = printed(&["--help"]);
    assert!(
        help.contains("--upstream") && !help.contains("--dashboard") && help.ends_with('\n'),
        "{help}"
    );
    assert!(printed(&["--print-config", "--l1=2GiB"]).contains("l1 = \"2GiB\""));
    let check = printed(&["--check-config"]);
    assert!(
        check.starts_with("warning: REDIS_SLAVE_ADDRS") && check.ends_with("the configuration is valid\n"),
        "{check}"
    );
}

fn call(args: &[&str], env: &[(&str, &str)]) -> Outcome {
    let args = std::iter::once("nearcache")
        .chain(args.iter().copied())
        .map(OsString::from);
    parse(args, |name| {
        env.iter()
            .find(|(set, _)| *set == name)
            .map(|(_, value)| (*value).to_owned())
    })
}

fn run(args: &[&str], env: &[(&str, &str)]) -> (Config, Vec<String>) {
    match call(args, env) {
        Outcome::Run(config, warnings) => (*config, warnings.iter().map(ToString::to_string).collect()),
        other => panic!("{other:?}"),
    }
}

fn refused(args: &[&str], env: &[(&str, &str)]) -> String {
    match call(args, env) {
        Outcome::Exit { code, text } => {
            assert_eq!(code, EXIT_USAGE);
            text
        }
        other => panic!("{other:?}"),
    }
}

fn file(text: &str) -> NamedTempFile {
    let mut file = NamedTempFile::new().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    file
}

fn password(config: &Config) -> &Secret {
    match &config.upstream {
        Upstream::Url { password, .. } => password.value.as_ref().expect("there is a password"),
        other => panic!("{other:?}"),
    }
}

fn host_of(config: &Config) -> &str {
    match &config.upstream {
        Upstream::Url {
            place: Place::Node(Endpoint::Tcp { host, .. }),
            ..
        } => host,
        other => panic!("{other:?}"),
    }
}
