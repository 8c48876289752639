//! `nearcache` alone: the private server it starts, shares its life with, finds again, and refuses to share.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitStatus, Output, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::support::{Client, STEP, eventually};

#[test]
fn alone_it_serves_from_a_private_server_that_ends_and_saves_with_it() {
    let dir = TempDir::new().unwrap();
    let mut alone = Alone::start(dir.path());
    alone.client().expect(&["SET", "k", "v"], "+OK");
    let server = alone.server_pid();

    alone.signal(Signal::TERM);

    assert_eq!(alone.wait().code(), Some(0));
    assert!(!is_alive(server), "the server must end with the proxy");
    let again = Alone::start(dir.path());
    assert_eq!(again.client().bulk(&["GET", "k"]), Some(b"v".to_vec()));
}

#[test]
fn killed_and_started_again_it_finds_its_server_and_data() {
    let dir = TempDir::new().unwrap();
    let mut first = Alone::start(dir.path());
    first.client().expect(&["SET", "k", "v"], "+OK");
    let server = first.server_pid();

    first.signal(Signal::KILL);
    first.wait();
    assert!(is_alive(server), "kill -9 reaches only the proxy");
    let mut second = Alone::start(dir.path());

    assert_eq!(
        second.server_pid(),
        server,
        "a second server over the same files would ruin them"
    );
    assert_eq!(second.client().bulk(&["GET", "k"]), Some(b"v".to_vec()));
    second.signal(Signal::TERM);
    assert_eq!(second.wait().code(), Some(0));
    // Nobody reaps a process whose parent was killed but init; being asked to end is what counts.
    eventually("the adopted server ends with the proxy", STEP, || !is_alive(server));
}

#[test]
fn a_server_that_is_killed_is_started_again_and_clients_stay() {
    let dir = TempDir::new().unwrap();
    let alone = Alone::start(dir.path());
    let mut client = alone.client();
    client.expect(&["SET", "k", "v"], "+OK");
    let server = alone.server_pid();
    // Every acknowledged write is on disk within a second; wait for what happens anyway.
    client.text(&["CONFIG", "SET", "appendfsync", "always"]);
    client.expect(&["SET", "k2", "v2"], "+OK");

    kill(server, Signal::KILL);

    eventually("writes succeed again on the same connection", STEP, || {
        client.text(&["SET", "k3", "v3"]) == "+OK\r\n"
    });
    assert_eq!(client.bulk(&["GET", "k2"]), Some(b"v2".to_vec()));
    assert_ne!(alone.server_pid(), server);
}

#[test]
fn a_second_proxy_on_the_same_data_is_refused_with_the_remedy() {
    let dir = TempDir::new().unwrap();
    let alone = Alone::start(dir.path());

    let refused = command(dir.path()).output().unwrap();

    assert_eq!(refused.status.code(), Some(2));
    let said = stderr(&refused);
    assert!(said.contains(&format!("process {}", alone.child.id())), "{said}");
    assert!(said.contains("upstream.data_dir"), "{said}");
    assert_eq!(alone.client().text(&["PING"]), "+PONG\r\n", "the first one goes on");
}

#[test]
fn without_a_server_program_it_says_what_to_install() {
    let dir = TempDir::new().unwrap();
    let empty = TempDir::new().unwrap();

    let refused = command(dir.path()).env("PATH", empty.path()).output().unwrap();

    assert_eq!(refused.status.code(), Some(2));
    let said = stderr(&refused);
    for part in [
        "redis-server",
        "valkey-server",
        "apt-get install redis-server",
        "--upstream",
    ] {
        assert!(said.contains(part), "{part} is missing in:\n{said}");
    }
}

#[test]
fn data_at_a_long_path_works_too() {
    let dir = TempDir::new().unwrap();
    let long = dir.path().join("d".repeat(150));
    fs::create_dir(&long).unwrap();
    let alone = Alone::start(&long);
    assert_eq!(alone.client().text(&["PING"]), "+PONG\r\n");
    let socket = PathBuf::from(fs::read_to_string(long.join("data/redis.socket")).unwrap());
    drop(alone);
    fs::remove_dir_all(socket.parent().unwrap()).unwrap();
}

/// A proxy without an upstream, its data under `DIR/data`.
struct Alone {
    child: Child,
    port: u16,
    data: PathBuf,
    /// Kept so that the proxy never writes into a closed pipe.
    _stdout: BufReader<ChildStdout>,
}

impl Alone {
    fn start(dir: &Path) -> Self {
        let log = fs::File::options()
            .create(true)
            .append(true)
            .open(dir.join("proxy.log"))
            .unwrap();
        let mut child = command(dir).stdout(Stdio::piped()).stderr(log).spawn().unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        stdout.read_line(&mut line).unwrap();
        let port = line
            .trim()
            .strip_prefix("listening on 127.0.0.1:")
            .and_then(|port| port.parse().ok());
        let log = || fs::read_to_string(dir.join("proxy.log")).unwrap();
        let port = port.unwrap_or_else(|| panic!("it said {line:?} and logged:\n{}", log()));
        Self {
            child,
            port,
            data: dir.join("data"),
            _stdout: stdout,
        }
    }

    fn client(&self) -> Client {
        Client::tcp(self.port)
    }

    /// The private server, asked directly over its socket.
    fn server_pid(&self) -> u32 {
        let socket = fs::read_to_string(self.data.join("redis.socket")).unwrap();
        let info = Client::unix(Path::new(&socket))
            .unwrap()
            .bulk(&["INFO", "server"])
            .unwrap();
        let info = String::from_utf8(info).unwrap();
        info.lines()
            .find_map(|line| line.strip_prefix("process_id:"))
            .unwrap()
            .parse()
            .unwrap()
    }

    fn signal(&self, signal: Signal) {
        kill(self.child.id(), signal);
    }

    fn wait(&mut self) -> ExitStatus {
        let mut status = None;
        eventually("the proxy ends", Duration::from_secs(40), || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        status.unwrap()
    }
}

impl Drop for Alone {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            self.signal(Signal::TERM);
            let _ = self.child.wait();
        }
    }
}

fn command(dir: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_nearcache"));
    command
        .args(["--listen", "127.0.0.1:0", "--admin", "off", "--workers", "1"])
        .current_dir(dir)
        .env_remove("REDIS_ADDR")
        .env_remove("NEARCACHE_UPSTREAM")
        .stdin(Stdio::null());
    command
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn kill(pid: u32, signal: Signal) {
    kill_process(Pid::from_raw(i32::try_from(pid).unwrap()).unwrap(), signal).unwrap();
}

/// Whether the process runs; one that has ended and was not reaped does not.
fn is_alive(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')')
        .is_some_and(|(_, rest)| !rest.trim_start().starts_with(['Z', 'X']))
}
