//! A hit allocates nothing: the proxy, run inside this process, is asked for cached keys while every allocation is counted.
//!
//! A test binary of its own, because it counts what the whole process allocates.

use std::alloc::System;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nearcache::cli::{self, Outcome};
use nearcache::server;
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// What ticks, probes and the health check may allocate meanwhile. One allocation for each batch would be many times that.
const MOST_BESIDE: usize = 400;

struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_hit_allocates_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (upstream, listen) = (dir.path().join("redis.sock"), dir.path().join("nearcache.sock"));
    let redis = Command::new("redis-server")
        .args(["--port", "0", "--save", "", "--unixsocket"])
        .arg(&upstream)
        .current_dir(dir.path())
        .stdout(Stdio::null())
        .spawn();
    let _redis = Ended(redis.expect("redis-server is installed"));
    drop(connect(&upstream));
    start(&upstream, &listen);

    let mut client = connect(&listen);
    for i in 0..100 {
        let set = format!("SET key:{i} {}\r\n", "v".repeat(64));
        ask(&mut client, set.as_bytes(), 5);
    }
    let get = |i: usize| format!("*2\r\n$3\r\nGET\r\n${}\r\nkey:{i}\r\n", format!("key:{i}").len()).into_bytes();
    let one: Vec<Vec<u8>> = (0..100).map(get).collect();
    let sixteen: Vec<Vec<u8>> = one.chunks(16).map(<[_]>::concat).collect();
    let a_reply = "$64\r\n".len() + 64 + 2;
    for (depth, batches) in [(1, &one), (16, &sixteen)] {
        // Read twice, all is cached, and buffers have their size.
        for batch in batches.iter().cycle().take(1000) {
            ask(&mut client, batch, a_reply * requests(batch));
        }
        let hits_before = hits(&mut client);
        let region = Region::new(ALLOCATOR);
        let (mut asked, mut read) = (0, 0);
        for batch in batches.iter().cycle().take(20_000) {
            asked += 1;
            read += requests(batch);
            ask(&mut client, batch, a_reply * requests(batch));
        }
        let allocations = region.change().allocations;
        assert!(
            allocations < MOST_BESIDE,
            "{allocations} allocations in {asked} batches of {depth}"
        );
        // The probes that keep the link fresh may come late now and then, and then a read goes to the server.
        let hits = hits(&mut client) - hits_before;
        assert!(hits * 100 > read * 99, "{hits} hits of {read} reads");
    }
}

fn hits(client: &mut UnixStream) -> usize {
    client.write_all(b"INFO nearcache\r\nPING\r\n").unwrap();
    let mut info = Vec::new();
    while !info.ends_with(b"+PONG\r\n") {
        let mut piece = [0; 4096];
        let n = client.read(&mut piece).unwrap();
        info.extend_from_slice(&piece[..n]);
    }
    let info = String::from_utf8(info).unwrap();
    let line = info.lines().find_map(|line| line.strip_prefix("nearcache_l1_hits:"));
    line.and_then(|hits| hits.parse().ok()).expect("a line of INFO")
}

fn requests(batch: &[u8]) -> usize {
    batch.iter().filter(|byte| **byte == b'*').count()
}

/// The proxy's threads live as long as this process.
fn start(upstream: &Path, listen: &Path) {
    let args = [
        "nearcache".to_owned(),
        "--upstream".to_owned(),
        format!("unix://{}", upstream.display()),
        "--listen".to_owned(),
        format!("unix:{}", listen.display()),
        "--admin".to_owned(),
        "off".to_owned(),
        "--workers".to_owned(),
        "1".to_owned(),
        "--log-level".to_owned(),
        "error".to_owned(),
    ];
    match cli::parse(args.map(Into::into), |_| None) {
        Outcome::Run(config, warnings) => drop(thread::spawn(move || {
            server::run(*config, &warnings, || Err("nobody sends SIGHUP".to_owned()))
        })),
        _ => panic!("the flags are refused"),
    }
}

fn connect(path: &Path) -> UnixStream {
    let end = Instant::now() + Duration::from_secs(20);
    loop {
        match UnixStream::connect(path) {
            Ok(stream) => return stream,
            Err(why) => assert!(Instant::now() < end, "{}: {why}", path.display()),
        }
        thread::sleep(Duration::from_millis(5));
    }
}

/// Sends a batch and reads so many bytes, without an allocation of its own.
fn ask(client: &mut UnixStream, batch: &[u8], reply_bytes: usize) {
    let mut reply = [0; 4096];
    client.write_all(batch).unwrap();
    client.read_exact(&mut reply[..reply_bytes]).unwrap();
    assert_ne!(reply[0], b'-', "{}", String::from_utf8_lossy(&reply[..reply_bytes]));
}
