//! Clients that people really use, unchanged, doing what applications do with them. The scripts are in `tests/clients/`;
//! each runs to its end or fails with its own trace.

use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::server::clients_dir;
use crate::support::{Proxy, Server, skip};

#[test]
fn redis_py() {
    let Some(python) = python() else { return };
    let server = Server::start();
    let proxy = Proxy::start(&server, &[]);
    for script in ["redis_py_sync.py", "redis_py_asyncio.py"] {
        for protocol in ["2", "3"] {
            let mut command = Command::new(&python);
            command
                .arg(script_path(script))
                .arg(proxy.port().to_string())
                .arg(protocol);
            ends_well(command, &format!("{script} with protocol {protocol}"));
        }
    }
}

#[test]
fn redis_py_in_front_of_valkey() {
    let (Some(python), Some(server)) = (python(), Server::valkey(&[])) else {
        return;
    };
    let proxy = Proxy::start(&server, &[]);
    let mut command = Command::new(&python);
    command
        .arg(script_path("redis_py_sync.py"))
        .arg(proxy.port().to_string())
        .arg("3");
    ends_well(command, "redis-py in front of Valkey");
}

#[test]
fn ioredis() {
    node("ioredis.cjs", "ioredis");
}

#[test]
fn node_redis() {
    node("node_redis.cjs", "redis");
}

#[test]
fn redis_rs() {
    let server = Server::start();
    let proxy = Proxy::start(&server, &[]);
    for url in [
        format!("redis://127.0.0.1:{}/2", proxy.port()),
        format!("redis://127.0.0.1:{}/2?protocol=resp3", proxy.port()),
    ] {
        let client = redis::Client::open(url.as_str()).expect("a valid address");
        let mut c = client.get_connection().expect("the handshake is answered");
        let run = |c: &mut redis::Connection| -> redis::RedisResult<()> {
            redis::cmd("SET").arg("k").arg("v").exec(c)?;
            let v: String = redis::cmd("GET").arg("k").query(c)?;
            assert_eq!(v, "v");
            let none: Option<String> = redis::cmd("GET").arg("none").query(c)?;
            assert_eq!(none, None);
            redis::cmd("HSET").arg("h").arg("a").arg(1).exec(c)?;
            let h: std::collections::HashMap<String, i64> = redis::cmd("HGETALL").arg("h").query(c)?;
            assert_eq!(h["a"], 1);
            let (n, m): (i64, i64) = redis::pipe().atomic().incr("n", 1).incr("n", 1).query(c)?;
            assert_eq!(m, n + 1);
            let many: Vec<i64> = (0..100)
                .fold(redis::pipe(), |mut p, _| p.incr("n", 1).clone())
                .query(c)?;
            assert_eq!(many.len(), 100);
            let script = "return redis.call('INCRBY', KEYS[1], ARGV[1])";
            let sum: i64 = redis::cmd("EVAL").arg(script).arg(1).arg("n").arg(5).query(c)?;
            assert_eq!(sum, many[99] + 5);
            redis::cmd("ZADD").arg("z").arg(1.5).arg("m").exec(c)?;
            let z: Vec<(String, f64)> = redis::cmd("ZRANGE")
                .arg("z")
                .arg(0)
                .arg(-1)
                .arg("WITHSCORES")
                .query(c)?;
            assert_eq!(z, [("m".to_owned(), 1.5)]);
            Ok(())
        };
        run(&mut c).unwrap_or_else(|e| panic!("{url}: {e}"));
    }
}

#[test]
fn redis_cli() {
    let server = Server::start();
    let proxy = Proxy::start(&server, &[]);
    let port = proxy.port().to_string();
    let cli = |args: &[&str], input: &str| {
        let mut command = Command::new("redis-cli");
        command.args(["-p", &port]).args(args);
        let output = run(command, input);
        assert!(output.status.success(), "redis-cli {args:?}: {output:?}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    assert_eq!(cli(&["SET", "k", "v"], ""), "OK\n");
    assert_eq!(cli(&["GET", "k"], ""), "v\n");
    assert_eq!(cli(&["-3", "HSET", "h", "f", "v"], ""), "1\n");
    assert_eq!(cli(&["-3", "--no-raw", "HGETALL", "h"], ""), "1# \"f\" => \"v\"\n");
    assert_eq!(cli(&["-n", "4", "GET", "k"], ""), "\n");
    assert_eq!(cli(&["-x", "SET", "piped"], "from standard input"), "OK\n");
    assert_eq!(cli(&["GET", "piped"], ""), "from standard input\n");
    assert_eq!(cli(&["--raw", "EVAL", "return ARGV[1]", "0", "x"], ""), "x\n");
    assert_eq!(cli(&["-r", "3", "INCR", "n"], ""), "1\n2\n3\n");
    // As somebody types, with the table of commands fetched for the hints.
    let typed = cli(
        &[],
        "SET typed 1\nGET typed\nMULTI\nINCR typed\nEXEC\nHELLO 3\nHGETALL h\nCOMMAND DOCS get\nGET nokey\n",
    );
    for expected in ["OK", "QUEUED", "2", "summary"] {
        assert!(typed.contains(expected), "{expected} in {typed}");
    }
    let piped: String = (0..5000).map(|i| format!("SET pipe:{i} {i}\r\n")).collect();
    let report = cli(&["--pipe"], &piped);
    assert!(report.contains("errors: 0, replies: 5000"), "{report}");
    assert_eq!(cli(&["GET", "pipe:4999"], ""), "4999\n");
    let big = cli(&["--bigkeys"], "");
    assert!(big.contains("Biggest string found"), "{big}");
    let memory = cli(&["--memkeys"], "");
    assert!(memory.contains("Biggest"), "{memory}");
    let scanned = cli(&["--scan", "--pattern", "pipe:1*"], "");
    assert_eq!(scanned.lines().count(), 1111);
    let info = cli(&["INFO", "server"], "");
    assert!(info.contains("redis_version:"), "{info}");
}

#[test]
fn redis_benchmark() {
    let server = Server::start();
    let proxy = Proxy::start(&server, &[]);
    for options in [
        &["-n", "1000"][..],
        &["-n", "5000", "-P", "16"],
        &["-n", "1000", "-3"],
        &["-n", "2000", "-r", "1000", "-c", "20"],
    ] {
        let mut command = Command::new("redis-benchmark");
        command.args(["-p", &proxy.port().to_string(), "--csv"]).args(options);
        let output = run(command, "");
        let text = [output.stdout, output.stderr]
            .map(|t| String::from_utf8_lossy(&t).into_owned())
            .concat();
        assert!(output.status.success(), "{options:?}: {text}");
        assert!(!text.to_ascii_lowercase().contains("error"), "{options:?}: {text}");
        assert!(text.contains("\"MSET (10 keys)\""), "all tests ran: {text}");
    }
}

fn node(script: &str, module: &str) {
    let modules = clients_dir().join("node/node_modules");
    let has_node = Command::new("node")
        .arg("--version")
        .stdout(Stdio::null())
        .status()
        .is_ok_and(|s| s.success());
    if !has_node || !modules.join(module).exists() {
        return skip(&format!(
            "node or its module {module} is not installed: run docker/setup.sh test"
        ));
    }
    let server = Server::start();
    let proxy = Proxy::start(&server, &[]);
    let mut command = Command::new("node");
    command
        .arg(script_path(script))
        .arg(proxy.port().to_string())
        .arg(modules);
    ends_well(command, script);
}

/// A Python that has the `redis` package of the version we want.
fn python() -> Option<PathBuf> {
    let own = std::env::var("NEARCACHE_TEST_VENV").map(|v| PathBuf::from(v).join("bin/python"));
    let mut pythons = own
        .into_iter()
        .chain([clients_dir().join("venv/bin/python"), PathBuf::from("python3")]);
    let found = pythons.find(|python| {
        let has_redis = Command::new(python)
            .args(["-c", "import redis"])
            .stderr(Stdio::null())
            .status();
        has_redis.is_ok_and(|s| s.success())
    });
    if found.is_none() {
        skip("no redis-py: run docker/setup.sh test");
    }
    found
}

fn script_path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/clients")
        .join(name)
}

fn ends_well(command: Command, what: &str) {
    let output = run(command, "");
    let [out, err] = [output.stdout, output.stderr].map(|t| String::from_utf8_lossy(&t).into_owned());
    // ioredis loses its count when a monitored command arrives in one packet with the OK of MONITOR, as it may from any
    // server that is in use.
    if err.contains("Command queue state error") && err.contains("Last reply: 1") {
        eprintln!("{what}: its own race with MONITOR: {err}");
        return;
    }
    assert!(
        output.status.success() && out.trim_end().ends_with("ok"),
        "{what}: {out}{err}"
    );
}

/// Runs it to its end, which has to come within a minute.
fn run(mut command: Command, input: &str) -> Output {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|e| panic!("{command:?}: {e}"));
    let mut stdin = child.stdin.take().expect("it is piped");
    let input = input.to_owned();
    let writer = thread::spawn(move || {
        let _ = stdin.write_all(input.as_bytes());
    });
    let drain = |mut pipe: Box<dyn Read + Send>| {
        thread::spawn(move || {
            let mut all = Vec::new();
            let _ = pipe.read_to_end(&mut all);
            all
        })
    };
    let stdout = drain(Box::new(child.stdout.take().expect("it is piped")));
    let stderr = drain(Box::new(child.stderr.take().expect("it is piped")));
    let end = Instant::now() + Duration::from_secs(60);
    let status = loop {
        if let Some(status) = child.try_wait().expect("a child can be waited for") {
            break status;
        }
        if Instant::now() > end {
            let _ = child.kill();
            break child.wait().expect("a child can be waited for");
        }
        thread::sleep(Duration::from_millis(5));
    };
    let _ = writer.join();
    Output {
        status,
        stdout: stdout.join().unwrap_or_default(),
        stderr: stderr.join().unwrap_or_default(),
    }
}
