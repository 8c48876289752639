//! The product under test: its real binary, with its own ports, ended by SIGTERM like in production.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::{Client, STEP, Server};

/// A running proxy. Dropped means SIGTERM, then a wait, then SIGKILL for one that hangs.
#[derive(Debug)]
pub struct Proxy {
    child: Child,
    port: u16,
    admin: u16,
    /// Holds the configuration file and the log.
    dir: TempDir,
}

impl Proxy {
    /// In front of `server`, over its Unix socket, with two workers unless `extra` says otherwise.
    pub fn start(server: &Server, extra: &[&str]) -> Proxy {
        Proxy::before(&server.url(), extra)
    }

    /// In front of any `--upstream` address.
    pub fn before(url: &str, extra: &[&str]) -> Proxy {
        Proxy::with_config(url, "", extra)
    }

    /// With a configuration file besides the flags.
    pub fn with_config(url: &str, toml: &str, extra: &[&str]) -> Proxy {
        match Proxy::try_start(url, toml, extra) {
            Ok(proxy) => proxy,
            Err(why) => panic!("the proxy does not start: {why}"),
        }
    }

    /// The reason is what the process printed before it ended.
    pub fn try_start(url: &str, toml: &str, extra: &[&str]) -> Result<Proxy, String> {
        let dir = tempfile::tempdir().expect("a directory for the proxy");
        let log = dir.path().join("log");
        let mut args = vec!["--upstream", url];
        if !extra.contains(&"--listen") {
            args.extend(["--listen", "127.0.0.1:0"]);
        }
        if !extra.contains(&"--admin") {
            args.extend(["--admin", "127.0.0.1:0"]);
        }
        if !extra.contains(&"--workers") {
            args.extend(["--workers", "2"]);
        }
        let file = dir.path().join("nearcache.toml");
        let file_name = file.to_str().expect("a temporary path is text").to_owned();
        if !toml.is_empty() {
            std::fs::write(&file, toml).expect("the configuration can be written");
            args.extend(["--config", &file_name]);
        }
        args.extend(extra);
        let mut child = Command::new(env!("CARGO_BIN_EXE_nearcache"))
            .args(&args)
            .current_dir(dir.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(File::create(&log).expect("a file for the log"))
            .spawn()
            .expect("the binary can be started");
        let mut proxy_lines = lines_of(child.stdout.take().expect("its output is piped"));
        let has_admin = !extra.windows(2).any(|w| w == ["--admin", "off"]);
        let (mut port, mut admin) = (0, if has_admin { 0 } else { u16::MAX });
        while port == 0 || admin == 0 {
            let Some(line) = proxy_lines.next() else {
                let _ = child.kill();
                let _ = child.wait();
                return Err(std::fs::read_to_string(&log).unwrap_or_default());
            };
            let number = |at: &str| at.rsplit(':').next().and_then(|n| n.trim().parse().ok()).unwrap_or(0);
            if let Some(at) = line.strip_prefix("listening on ") {
                // A Unix socket has no port; one listed alone satisfies the wait all the same.
                port = number(at).max(u16::from(at.starts_with("unix")));
            } else if let Some(at) = line.strip_prefix("admin listening on ") {
                admin = number(at);
            }
        }
        Ok(Proxy {
            child,
            port,
            admin,
            dir,
        })
    }

    /// Replaces the configuration file with which it was started.
    pub fn rewrite_config(&self, toml: &str) {
        std::fs::write(self.dir.path().join("nearcache.toml"), toml).expect("the configuration can be written");
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn client(&self) -> Client {
        Client::tcp(self.port)
    }

    pub fn client3(&self) -> Client {
        self.client().hello3()
    }

    /// `GET path` at the admin address: status and body.
    pub fn http(&self, path: &str) -> (u16, String) {
        self.http_with("GET", path, "")
    }

    pub fn http_with(&self, method: &str, path: &str, body: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(("127.0.0.1", self.admin)).expect("the admin port is open");
        stream.set_read_timeout(Some(STEP)).expect("a timeout can be set");
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{}\r\nConnection: close\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\n\r\n{body}",
            self.admin,
            body.len()
        );
        stream.write_all(request.as_bytes()).expect("the request is taken");
        let mut reply = String::new();
        stream.read_to_string(&mut reply).expect("a reply that ends");
        let status = reply.split(' ').nth(1).and_then(|s| s.parse().ok()).unwrap_or(0);
        let body = reply.split_once("\r\n\r\n").map_or("", |(_, body)| body);
        (status, body.to_owned())
    }

    /// The sum of all samples of a metric whose line begins with `name` and contains every one of `labels`.
    pub fn metric(&self, name: &str, labels: &[&str]) -> Option<f64> {
        let (status, body) = self.http("/metrics");
        assert_eq!(status, 200, "/metrics answers: {body}");
        let samples: Vec<f64> = body
            .lines()
            .filter(|l| l.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' '])))
            .filter(|l| labels.iter().all(|label| l.contains(label)))
            .filter_map(|l| l.rsplit(' ').next()?.parse().ok())
            .collect();
        (!samples.is_empty()).then(|| samples.iter().sum())
    }

    /// SIGHUP: the configuration and the files that it names are read again.
    pub fn hang_up(&self) {
        let pid = Pid::from_raw(self.pid() as i32).expect("a process id is not zero");
        kill_process(pid, Signal::HUP).expect("the proxy is alive");
    }

    /// SIGTERM, without waiting.
    pub fn terminate(&self) {
        let pid = Pid::from_raw(self.pid() as i32).expect("a process id is not zero");
        kill_process(pid, Signal::TERM).expect("the proxy is alive");
    }

    /// SIGKILL: dropping it is SIGTERM.
    pub fn kill(mut self) {
        self.child.kill().expect("the proxy is alive");
        self.child.wait().expect("the child can be waited for");
    }

    /// SIGSTOP: alive and silent.
    pub fn freeze(&self) {
        super::freeze(self.pid());
    }

    /// SIGCONT after [`Proxy::freeze`].
    pub fn thaw(&self) {
        super::thaw(self.pid());
    }

    /// The exit status once it has ended by itself.
    pub fn wait(&mut self, within: Duration) -> Option<ExitStatus> {
        let end = Instant::now() + within;
        while Instant::now() < end {
            if let Some(status) = self.child.try_wait().expect("the child can be waited for") {
                return Some(status);
            }
            thread::sleep(Duration::from_millis(1));
        }
        None
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let gone = matches!(self.child.try_wait(), Ok(Some(_)));
        if thread::panicking() {
            let log = self.log();
            let tail = log.lines().rev().take(30).collect::<Vec<_>>();
            let state = if gone { "had ended" } else { "was running" };
            eprintln!("the proxy {state}; its log, newest first:\n{}", tail.join("\n"));
        }
        if !gone {
            self.terminate();
            if self.wait(STEP).is_none() {
                let _ = self.child.kill();
                let _ = self.child.wait();
                assert!(thread::panicking(), "the proxy does not end within {STEP:?} of SIGTERM");
            }
        }
    }
}

/// Lines of a pipe, each awaited for a bounded time. The pipe is read to its end, so that the writer never blocks on it.
fn lines_of(pipe: impl Read + Send + 'static) -> impl Iterator<Item = String> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(pipe).lines().map_while(Result::ok) {
            let _ = sender.send(line);
        }
    });
    std::iter::from_fn(move || receiver.recv_timeout(STEP).ok())
}
