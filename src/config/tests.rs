//! The configuration by itself: what each section accepts, what it refuses, and that all of it is said at once.

use super::auth::DEFAULT_USER;
use super::{Auth, Config, Consistency, Endpoint, ListenAddr, Origin, Password, Place, Secret, Settings, Upstream};
use proptest::prelude::*;
use std::path::PathBuf;
use std::time::Duration;

mod compression;
mod listen;

#[test]
fn nothing_set_gives_the_defaults() {
    assert_eq!(Config::from_settings(Settings::default()), Ok(Config::default()));
}

#[test]
fn what_is_printed_is_read_back() {
    assert_eq!(read(&Config::default().to_toml()), Ok(Config::default()));
    let text = r#"
        listen = ["[::1]:7000", "unix:/tmp/n.sock"]
        admin = "off"
        workers = 3
        [upstream]
        url = "unix:///tmp/a b.sock?db=4"
        [clients]
        idle_timeout = "90s"
        tcp_keepalive = "off"
        protected_mode = false
        [auth]
        mode = "none"
        [cache]
        consistency = "eventual"
        negative_ttl = "off"
        shards = 8
    "#;
    let config = read(text).unwrap();
    assert_eq!(config.cache.max_age, Some(Duration::from_secs(60)));
    assert_eq!(config.clients.tcp_keepalive, Duration::ZERO);
    assert_eq!(read(&config.to_toml()), Ok(config));
}

#[test]
fn all_problems_are_told_with_their_places() {
    let text = "listen = 5\ncolour = 1\n[cache]\nbound = \"5ms\"\nbond = \"1s\"\nl1 = 256\n[l9]\nsize = 1\n";
    let problems = read(text).unwrap_err();
    let expected = [
        "test.toml:1: listen: must be a text or a list of texts, found a whole number",
        "test.toml:6: cache.l1: \"256\" needs a unit (B, KiB, MiB, GiB, TiB)",
        "test.toml:4: cache.bound: must be at least 100ms, found 5ms",
        "test.toml:5: cache.bond: unknown option; there are bound, broadcast_prefixes, compress_from, compression, consistency, enabled, invalidation, l1, l1_objective, max_age, max_stale, \
         max_value, negative_ttl, shards, touch_sample",
        "test.toml:2: colour: unknown option; there are admin, listen, workers",
        "test.toml:8: l9.size: unknown section [l9]; there are auth, breaker, cache, clients, l3, log, shutdown, upstream",
    ];
    assert_eq!(problems, expected);
}

#[test]
fn every_error_of_syntax_is_told() {
    let problems = read("workers = = 1\n\n[cache\nl1 = \"1MiB\"\n").unwrap_err();
    assert!(problems.len() >= 2, "{problems:?}");
    assert!(problems[0].starts_with("test.toml:1: "), "{problems:?}");
}

#[test]
fn values_out_of_range_are_refused() {
    for (text, problem) in [
        ("workers = -1", "workers: must be from 0 to 1024, found -1"),
        ("workers = \"4\"", "workers: must be a whole number, found \"4\""),
        ("listen = []", "listen: must name at least one address"),
        (
            "listen = [\"127.0.0.1:1\", \"127.0.0.1:1\"]",
            "listen: names 127.0.0.1:1 twice",
        ),
        (
            "listen = [1]",
            "listen: must be a text or a list of texts, found a list of other things than texts",
        ),
        (
            "[cache]\nshards = 12",
            "cache.shards: must be a power of two, or 0 for automatic, found 12",
        ),
        (
            "[cache]\nmax_value = \"1GiB\"",
            "cache.max_value: must not be more than cache.l1",
        ),
        (
            "[cache]\nbound = 1.5",
            "cache.bound: must be a duration such as \"500ms\", found a number with a fraction",
        ),
        (
            "[cache]\nbound = \"900d\"",
            "cache.bound: must be at most 366d, found 900d",
        ),
        (
            "[cache]\nconsistency = \"weak\"",
            "cache.consistency: must be one of strong, coherent, eventual, found \"weak\"",
        ),
        (
            "[cache]\nconsistency = \"eventual\"\nmax_age = \"off\"",
            "cache.max_age: must not be off where cache.consistency is \"eventual\"",
        ),
        (
            "[clients]\nmax_clients = 0",
            "clients.max_clients: must be from 1 to 1000000, found 0",
        ),
        (
            "[clients]\nprotected_mode = \"no\"",
            "clients.protected_mode: must be true or false, found \"no\"",
        ),
        (
            "[clients]\nidle_timeout = \"10ms\"",
            "clients.idle_timeout: must be at least 1s, found 10ms",
        ),
        (
            "[upstream]\nreconnect_max = \"1ms\"",
            "upstream.reconnect_max: must not be less than upstream.reconnect_min",
        ),
        ("[upstream]\ndata_dir = \"\"", "upstream.data_dir: must not be empty"),
        (
            "[l3]\npath = \"\"",
            "l3.path: must not be empty; \"off\" means that there is no L3",
        ),
        ("[l3]\nsize = \"1MiB\"", "l3.size: must be at least 16MiB, found 1MiB"),
        (
            "[l3]\nsize = \"16MiB\"\nmax_value = \"1MiB\"",
            "l3.max_value: must not be more than 128KiB, a 128th of l3.size or 8MiB",
        ),
        (
            "[l3]\nsync = \"often\"",
            "l3.sync: must be one of never, interval, each-segment, found \"often\"",
        ),
        (
            "[l3]\nwrite_rate = \"1KiB\"",
            "l3.write_rate: must be at least 64KiB, found 1KiB",
        ),
        (
            "[log]\nlevel = \"loud\"",
            "log.level: must be one of error, warn, info, debug, trace, warning, found \"loud\"",
        ),
    ] {
        let problems = read(text).unwrap_err();
        assert_eq!(problems.len(), 1, "{problems:?}");
        assert!(problems[0].ends_with(problem), "{problems:?}");
    }
}

#[test]
fn parts_that_do_not_exist_yet_are_refused_with_a_way_out() {
    let text = "dashboard = \"127.0.0.1:8082\"";
    let problems = read(text).unwrap_err();
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert!(problems[0].contains("does not exist yet; "), "{problems:?}");
    assert_eq!(read("dashboard = \"off\""), Ok(Config::default()));
}

#[test]
fn upstream_urls_are_taken_apart() {
    for (url, host, port, user, password, db) in [
        ("redis://h", "h", 6379, None, None, 0),
        ("redis://h:1/", "h", 1, None, None, 0),
        ("redis://10.0.0.5:6380/12", "10.0.0.5", 6380, None, None, 12),
        ("REDIS://[::1]:7/1", "::1", 7, None, None, 1),
        ("redis://:p%40%2F@h", "h", 6379, None, Some("p@/"), 0),
        ("redis://u%3A:p:q@h?db=3", "h", 6379, Some("u:"), Some("p:q"), 3),
    ] {
        let expected = Upstream::Url {
            place: Place::Node(Endpoint::Tcp {
                host: host.to_owned(),
                port,
            }),
            tls: None,
            user: user.map(str::to_owned),
            password: of(password),
            db,
        };
        assert_eq!(upstream(url), Ok(expected), "{url}");
    }
    let expected = Upstream::Url {
        place: Place::Node(Endpoint::Unix(PathBuf::from("/a b/s.sock"))),
        tls: None,
        user: Some("u".to_owned()),
        password: of(Some("p&")),
        db: 2,
    };
    assert_eq!(
        upstream("unix:///a%20b/s.sock?db=2&user=u&password=p%26"),
        Ok(expected.clone())
    );
    assert_eq!(upstream("redis+unix:///a b/s.sock?db=2&user=u&pass=p%26"), Ok(expected));
}

#[test]
fn sentinels_are_read_from_the_url() {
    for (url, nodes, name, db, is_tls, printed) in [
        (
            "redis+sentinel://s1,s2:7,[::1]:8/m",
            vec![("s1", 26379), ("s2", 7), ("::1", 8)],
            "m",
            0,
            false,
            "redis+sentinel://s1:26379,s2:7,[::1]:8/m",
        ),
        (
            "rediss+sentinel://u:p%2C@s1/a%20b/3",
            vec![("s1", 26379)],
            "a b",
            3,
            true,
            "rediss+sentinel://u:***@s1:26379/a%20b/3",
        ),
        (
            "sentinel://s1/m/?db=2",
            vec![("s1", 26379)],
            "m",
            2,
            false,
            "redis+sentinel://s1:26379/m/2",
        ),
    ] {
        let read = upstream(url).unwrap();
        assert_eq!(read.to_string(), printed);
        let Upstream::Url {
            place: Place::Sentinel(sentinels),
            tls,
            db: found,
            ..
        } = read
        else {
            panic!("{url}");
        };
        let nodes: Vec<Endpoint> = nodes
            .into_iter()
            .map(|(host, port)| Endpoint::Tcp {
                host: host.to_owned(),
                port,
            })
            .collect();
        assert_eq!(
            (sentinels.nodes, &*sentinels.name, found, tls.is_some()),
            (nodes, name, db, is_tls)
        );
    }
    for url in [
        "redis+sentinel://s1:1",
        "redis+sentinel://s1:1/",
        "redis+sentinel://s1,,s2/m",
        "redis+sentinel:///m",
        "redis+sentinel://s1:1,s1:1/m",
        "redis+sentinel://s1/m/x",
        "redis+sentinel://s1/m/1/2",
    ] {
        assert_eq!(upstream(url).unwrap_err().len(), 1, "{url}");
    }
}

#[test]
fn options_without_effect_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("f");
    std::fs::write(&file, "hush\n").unwrap();
    let file = file.display();
    for (text, problem) in [
        (
            format!("url = \"redis://h\"\ntls_ca = \"{file}\""),
            "does not begin with rediss",
        ),
        (
            "url = \"redis://h\"\ntls_server_name = \"n\"".into(),
            "does not begin with rediss",
        ),
        (
            "url = \"rediss://h\"\ntls_ca = \"/nowhere\"".into(),
            "/nowhere cannot be read",
        ),
        (
            format!("url = \"rediss://h\"\ntls_cert = \"{file}\""),
            "needs upstream.tls_key",
        ),
        (
            format!("url = \"rediss://h\"\ntls_key = \"{file}\""),
            "needs upstream.tls_cert",
        ),
        (
            "url = \"redis://h\"\nsentinel_password = \"p\"".into(),
            "upstream.url is not redis+sentinel",
        ),
        ("sentinel_user = \"u\"".into(), "upstream.url is not redis+sentinel"),
        (
            "url = \"redis+sentinel://h/m\"\nsentinel_user = \"u\"".into(),
            "needs upstream.sentinel_password",
        ),
        (
            format!("url = \"redis://h\"\npassword = \"p\"\npassword_file = \"{file}\""),
            "remove one of them",
        ),
        (format!("password_file = \"{file}\""), "has no upstream to go with"),
        (
            format!("url = \"redis://:p@h\"\npassword_file = \"{file}\""),
            "password_file: has no effect: upstream.url carries a password",
        ),
        (
            "url = \"redis://h\"\npassword_file = \"/nowhere\"".into(),
            "/nowhere cannot be read",
        ),
        (
            "url = \"redis://h\"\npassword_file = \"/dev/null\"".into(),
            "/dev/null is empty",
        ),
    ] {
        let problems = read(&format!("[upstream]\n{text}\n")).unwrap_err();
        assert_eq!(problems.len(), 1, "{text}: {problems:?}");
        assert!(problems[0].contains(problem), "{problems:?}");
    }
}

#[test]
fn a_password_may_stand_in_a_file() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("f");
    std::fs::write(&file, "hush\r\n").unwrap();
    let text = format!(
        "[upstream]\nurl = \"redis+sentinel://u@h/m\"\npassword_file = {file:?}\nsentinel_password_file = {file:?}\n"
    );
    let config = read(&text).unwrap();
    let shown = clients_show(&config).unwrap();
    assert!(shown.user == "u" && shown.password.matches(b"hush"));
    let printed = config.to_toml();
    assert!(
        !printed.contains("hush") && printed.contains("sentinel_password_file = "),
        "{printed}"
    );
    let Upstream::Url { password, .. } = &config.upstream else {
        panic!()
    };
    assert_eq!(password.file.as_deref(), Some(&*file));
    std::fs::write(&file, "newer").unwrap();
    assert!(clients_show(&read(&text).unwrap()).unwrap().password.matches(b"newer"));
    std::fs::write(&file, "").unwrap();
    assert!(read(&text).is_err());
}

#[test]
fn the_user_of_the_url_is_printed_where_the_password_comes_from_a_file() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("f");
    std::fs::write(&file, "hush").unwrap();
    for url in [
        "redis://u%2F@h:1",
        "unix:///s?user=u%2F",
        "redis+sentinel://u%2F@h:1/my%2Fname",
    ] {
        let config = read(&format!("[upstream]\nurl = {url:?}\npassword_file = {file:?}\n")).unwrap();
        assert_eq!(config.upstream.to_string(), url);
        assert_eq!(read(&config.to_toml()), Ok(config));
    }
}

#[test]
fn wrong_upstream_urls_are_refused_without_repeating_a_password() {
    for url in [
        "",
        "h:6379",
        "http://h",
        "redis:h",
        "redis://",
        "redis://:6379",
        "redis://h:0",
        "redis://h:65536",
        "redis://h:x",
        "redis://::1:6379",
        "redis://[::1",
        "redis://h/x",
        "redis://h/-1",
        "redis://h/4294967295",
        "redis://user@h",
        "redis://:@h",
        "redis://:hush%zz@h",
        "redis://:hush%4",
        "redis://u:123/hush@h",
        "redis://u:1?hush@h",
        "unix://relative.sock",
        "unix:///s.sock?user=u",
    ] {
        let problems = upstream(url).unwrap_err();
        assert_eq!(problems.len(), 1, "{url}: {problems:?}");
        assert!(!problems[0].contains("hush"), "{problems:?}");
    }
}

#[test]
fn the_password_of_the_stronger_source_is_taken() {
    let password = |url_origin, own_origin| {
        let mut settings = Settings::default();
        settings.set("upstream.url", "redis://:of-url@h", url_origin);
        settings.set("upstream.password", "own", own_origin);
        let config = Config::from_settings(settings).unwrap();
        shown_upstream(&config).unwrap().password
    };
    let env = || Origin::Environment("E");
    assert!(password(env(), env()).matches(b"of-url"));
    assert!(password(Origin::Flag("--f"), env()).matches(b"of-url"));
    assert!(password(env(), Origin::Flag("--f")).matches(b"own"));
    let with_user = read("[upstream]\nurl = \"redis://u@h\"\npassword = \"p\"").unwrap();
    let credentials = clients_show(&with_user).unwrap();
    assert_eq!(credentials.user, "u");
    assert!(credentials.password.matches(b"p"));
}

#[test]
fn clients_must_show_what_the_configuration_says() {
    let with_url = |auth: &str| {
        let text = format!("[upstream]\nurl = \"redis://:up@h\"\n[auth]\n{auth}");
        clients_show(&read(&text).unwrap())
    };
    let upstream = with_url("").unwrap();
    assert_eq!(upstream.user, "default");
    assert!(upstream.password.matches(b"up"));
    assert_eq!(with_url("mode = \"none\""), None);
    let own = with_url("mode = \"password\"\nuser = \"u\"\npassword = \"own\"").unwrap();
    assert_eq!(own.user, "u");
    assert!(own.password.matches(b"own") && !own.password.matches(b"owned"));
    assert_eq!(clients_show(&Config::default()), None);
}

#[test]
fn a_password_that_would_be_ignored_is_refused() {
    for (text, problem) in [
        (
            "[auth]\npassword = \"p\"",
            "must be \"password\" where auth.user or auth.password is set",
        ),
        (
            "[auth]\nmode = \"none\"\nuser = \"u\"",
            "must be \"password\" where auth.user or auth.password is set",
        ),
        (
            "[auth]\nmode = \"password\"",
            "\"password\" needs auth.password, not empty",
        ),
        (
            "[auth]\nmode = \"password\"\npassword = \"\"",
            "\"password\" needs auth.password, not empty",
        ),
        ("[upstream]\npassword = \"p\"", "has no upstream to go with"),
        (
            "[upstream]\nurl = \"redis://h\"\ndata_dir = \"d\"",
            "has no effect together with upstream.url",
        ),
    ] {
        let problems = read(text).unwrap_err();
        assert_eq!(problems.len(), 1, "{problems:?}");
        assert!(problems[0].contains(problem), "{problems:?}");
    }
}

#[test]
fn secrets_are_never_printed() {
    let text = "[upstream]\nurl = \"redis://u:hush@h/1\"\n[auth]\nmode = \"password\"\npassword = \"hush\"\n";
    let config = read(text).unwrap();
    assert!(matches!(config.auth, Auth::Password(_)));
    for printed in [format!("{config:?}"), config.to_toml(), config.upstream.to_string()] {
        assert!(!printed.contains("hush"), "{printed}");
        assert!(printed.contains("***"), "{printed}");
    }
}

#[test]
fn only_eventual_hits_need_an_age() {
    let max_age = |text: &str| read(text).unwrap().cache.max_age;
    assert_eq!(max_age(""), None);
    assert_eq!(max_age("[cache]\nmax_age = \"5s\""), Some(Duration::from_secs(5)));
    assert_eq!(
        read("[cache]\nconsistency = \"strong\"").unwrap().cache.consistency,
        Consistency::Strong
    );
}

proptest! {
    #[test]
    fn no_file_makes_the_reader_panic(text in "(\\[?[a-z.\"]{1,9}\\]? ?=? ?[0-9a-zA-Z\"\\[\\]{}., -]{0,9}\n){0,6}") {
        let _ = read(&text);
    }

    #[test]
    fn no_url_makes_the_reader_panic(url in "(redis|rediss|redis\\+sentinel|unix)://[a-z0-9:@,/?%&=\\[\\]é]{0,24}") {
        let _ = upstream(&url);
    }

    #[test]
    fn an_upstream_without_secrets_is_read_back(
        host in "[a-z0-9.-]{1,12}",
        port in 1u16..,
        db in 0u32..1000,
        path in "(/[a-zA-Z0-9 %?&é]{1,8}){1,3}",
    ) {
        for endpoint in [Endpoint::Tcp { host, port }, Endpoint::Unix(PathBuf::from(path))] {
            let original = Upstream::Url { place: Place::Node(endpoint), tls: None, user: None, password: of(None), db };
            prop_assert_eq!(upstream(&original.to_string()), Ok(original));
        }
    }
}

fn of(password: Option<&str>) -> Password {
    Password {
        value: password.map(Secret::new),
        file: None,
    }
}

fn clients_show(config: &Config) -> Option<super::Credentials> {
    config.auth.required(shown_upstream(config))
}

fn shown_upstream(config: &Config) -> Option<super::Credentials> {
    let Upstream::Url { user, password, .. } = &config.upstream else {
        return None;
    };
    Some(super::Credentials {
        user: user.clone().unwrap_or_else(|| DEFAULT_USER.to_owned()),
        password: password.value.clone()?,
    })
}

fn read(text: &str) -> Result<Config, Vec<String>> {
    let mut settings = Settings::default();
    settings.add_file("test.toml", text);
    from(settings)
}

fn upstream(url: &str) -> Result<Upstream, Vec<String>> {
    let mut settings = Settings::default();
    settings.set("upstream.url", url, Origin::Flag("--upstream"));
    from(settings).map(|config| config.upstream)
}

fn from(settings: Settings) -> Result<Config, Vec<String>> {
    Config::from_settings(settings).map_err(|problems| problems.iter().map(ToString::to_string).collect())
}

#[test]
fn a_cluster_is_read_and_printed_as_some_of_its_nodes() {
    for (url, nodes, printed) in [
        (
            "redis+cluster://a,b:7001",
            vec![("a", 6379), ("b", 7001)],
            "redis+cluster://a:6379,b:7001",
        ),
        (
            "rediss+cluster://u:p@[::1]:1",
            vec![("::1", 1)],
            "rediss+cluster://u:***@[::1]:1",
        ),
        ("cluster://a/0", vec![("a", 6379)], "redis+cluster://a:6379"),
    ] {
        let read = upstream(url).unwrap();
        assert_eq!(read.to_string(), printed);
        let Upstream::Url {
            place: Place::Cluster(found),
            ..
        } = read
        else {
            panic!("{url}");
        };
        let expected: Vec<Endpoint> = nodes
            .into_iter()
            .map(|(host, port)| Endpoint::Tcp {
                host: host.to_owned(),
                port,
            })
            .collect();
        assert_eq!(found, expected);
    }
    for wrong in [
        "redis+cluster://",
        "redis+cluster://a,a",
        "redis+cluster://a/2",
        "redis+cluster://a?db=1",
    ] {
        assert!(upstream(wrong).is_err(), "{wrong}");
    }
}
