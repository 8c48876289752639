//! Clients that people really use, unchanged, doing what applications do with them. The scripts are in `tests/clients/`;
//! each runs to its end or fails with its own trace.

mod redis_cli;
mod redis_rs;

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::server::clients_dir;
use crate::support::{Proxy, Server, skip};

#[test]
fn redis_py() {
    let Some(python) = python() else { return };
    before_each(|server, proxy, name| {
        for script in ["redis_py_sync.py", "redis_py_asyncio.py"] {
            for protocol in ["2", "3"] {
                let mut command = Command::new(&python);
                command
                    .arg(script_path(script))
                    .arg(proxy.port().to_string())
                    .arg(protocol)
                    .arg(server.port().to_string());
                ends_well(
                    command,
                    &format!("{script} with protocol {protocol} in front of {name}"),
                );
            }
        }
    });
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

/// Calls it with the directory of the modules of Node.js, where this one is installed.
pub fn with_node(module: &str, use_it: impl FnOnce(&Path)) {
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
    use_it(&modules);
}

fn node(script: &str, module: &str) {
    with_node(module, |modules| {
        before_each(|_, proxy, name| {
            let mut command = Command::new("node");
            command
                .arg(script_path(script))
                .arg(proxy.port().to_string())
                .arg(modules);
            ends_well(command, &format!("{script} in front of {name}"));
        });
    });
}

/// A Redis, and a newer one and a Valkey where there are, each with a proxy in front of it.
pub fn before_each(use_it: impl Fn(&Server, &Proxy, &str)) {
    let redis = Server::start();
    use_it(&redis, &Proxy::start(&redis, &[]), "Redis");
    if let Some(newer) = Server::redis_8(&[]) {
        use_it(&newer, &Proxy::start(&newer, &[]), "Redis 8");
    }
    if let Some(valkey) = Server::valkey(&[]) {
        use_it(&valkey, &Proxy::start(&valkey, &[]), "Valkey");
    }
}

/// A Python that has the `redis` package of the version we want.
pub fn python() -> Option<PathBuf> {
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

pub fn script_path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/clients")
        .join(name)
}

pub fn ends_well(command: Command, what: &str) {
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
