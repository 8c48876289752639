//! How long a write made behind the proxy's back can still be missed through it: a foreign client writes directly to the
//! upstream, and from the moment of its acknowledgement on the key is read through the proxy until the new value shows.
//!
//! `cargo bench --bench staleness -- [ROUNDS] [WRITES]`; needs redis-server. Prints the lag of each round (p50, p99, most)
//! and the median of the rounds. A quiet machine is needed for figures that mean something.

#![expect(clippy::print_stdout, reason = "its figures are what a bench is for")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

fn main() {
    let mut args = std::env::args().skip(1).filter(|arg| !arg.starts_with("--"));
    let mut number = |default: usize| args.next().and_then(|arg| arg.parse().ok()).unwrap_or(default);
    let (rounds, writes) = (number(5), number(5000));
    let dir = tempfile::tempdir().expect("a temporary directory");
    let redis_port = free_port();
    let _redis = Process::start(
        Command::new("redis-server")
            .args(["--port", &redis_port.to_string(), "--save", "", "--appendonly", "no"])
            .current_dir(dir.path())
            .stdout(Stdio::null()),
    );
    let mut upstream = Client::connect(redis_port);
    let mut proxy = Command::new(env!("CARGO_BIN_EXE_nearcache"));
    proxy.args([
        "--upstream",
        &format!("redis://127.0.0.1:{redis_port}"),
        "--listen",
        "127.0.0.1:0",
        "--admin",
        "off",
    ]);
    let (_proxy, port) = Process::listening(&mut proxy);
    let mut through = Client::connect(port);
    let mut medians = Vec::new();
    for round in 1..=rounds {
        let mut lags: Vec<Duration> = (0..writes)
            .map(|i| lag(&mut upstream, &mut through, round, i))
            .collect();
        lags.sort_unstable();
        let at = |p: f64| lags[((lags.len() - 1) as f64 * p) as usize];
        println!(
            "round {round}: p50 {:?}  p99 {:?}  most {:?}",
            at(0.5),
            at(0.99),
            at(1.0)
        );
        medians.push(at(0.99));
    }
    medians.sort_unstable();
    println!(
        "p99, median of {rounds} rounds of {writes} writes: {:?}",
        medians[medians.len() / 2]
    );
}

/// From the acknowledgement of a foreign write to the first read through the proxy that shows it.
fn lag(upstream: &mut Client, through: &mut Client, round: usize, i: usize) -> Duration {
    let key = format!("key:{}", i % 100);
    let value = format!("{round}:{i}");
    through.command(&["GET", &key]);
    through.command(&["GET", &key]);
    upstream.command(&["SET", &key, &value]);
    let acknowledged = Instant::now();
    let expected = format!("${}\r\n{value}\r\n", value.len());
    let mut asked = acknowledged;
    while through.command(&["GET", &key]) != expected.as_bytes() {
        asked = Instant::now();
        assert!(
            acknowledged.elapsed() < Duration::from_secs(5),
            "{key} never showed {value}"
        );
    }
    // The last read that was still stale was asked for no later than this.
    asked - acknowledged
}

struct Client(BufReader<TcpStream>);

impl Client {
    fn connect(port: u16) -> Client {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            match TcpStream::connect(("127.0.0.1", port)) {
                Ok(stream) => {
                    stream.set_nodelay(true).expect("TCP_NODELAY");
                    return Client(BufReader::new(stream));
                }
                Err(error) => assert!(Instant::now() < deadline, "port {port}: {error}"),
            }
            std::thread::yield_now();
        }
    }

    /// One command, one simple, bulk or null reply.
    fn command(&mut self, words: &[&str]) -> Vec<u8> {
        let mut request = format!("*{}\r\n", words.len());
        for word in words {
            request.push_str(&format!("${}\r\n{word}\r\n", word.len()));
        }
        self.0.get_mut().write_all(request.as_bytes()).expect("a connection");
        let mut reply = Vec::new();
        self.0.read_until(b'\n', &mut reply).expect("a reply");
        if let Some(length) = reply
            .strip_prefix(b"$")
            .and_then(|rest| std::str::from_utf8(rest).ok()?.trim().parse().ok())
        {
            let length: i64 = length;
            if length >= 0 {
                let mut payload = vec![0; length as usize + 2];
                self.0.read_exact(&mut payload).expect("a payload");
                reply.extend_from_slice(&payload);
            }
        }
        reply
    }
}

struct Process(Child);

impl Process {
    fn start(command: &mut Command) -> Process {
        Process(command.spawn().expect("the program starts"))
    }

    /// Starts the proxy and waits for the address that it prints.
    fn listening(command: &mut Command) -> (Process, u16) {
        let mut child = command.stdout(Stdio::piped()).spawn().expect("the program starts");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("its output"))
            .read_line(&mut line)
            .expect("a line");
        let port = line
            .trim()
            .rsplit(':')
            .next()
            .and_then(|port| port.parse().ok())
            .expect("an address");
        (Process(child), port)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("its address").port()
}
