//! What every black-box test stands on: real servers, the real proxy binary, and a client that keeps the exact bytes.
//!
//! Nothing here sleeps for the sake of time: waiting is polling with a deadline, and a deadline that passes fails the
//! test with what it waited for. Processes are ended by their own id when their owner is dropped.

pub mod certificates;
pub mod client;
pub mod cluster;
pub mod proxy;
pub mod relay;
pub mod sentinel;
pub mod server;

use std::collections::BTreeSet;
use std::env;
use std::fs;
use std::io::Write as _;
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

pub use client::Client;
pub use proxy::Proxy;
pub use server::Server;

/// How long a single step of a test may take before it counts as hung.
pub const STEP: Duration = Duration::from_secs(20);

/// Polls until `done` answers true; panics with `what` when `within` has passed.
pub fn eventually(what: &str, within: Duration, mut done: impl FnMut() -> bool) {
    let end = Instant::now() + within;
    loop {
        if done() {
            return;
        }
        assert!(Instant::now() < end, "not within {within:?}: {what}");
        thread::sleep(Duration::from_micros(500));
    }
}

/// Seed of a random test: the same in each run, so that a red build is a change; `NEARCACHE_TEST_SEED` is a number, or `random`.
pub fn seed() -> u64 {
    let seed = match env::var("NEARCACHE_TEST_SEED").as_deref() {
        Ok("random") => fastrand::u64(..),
        _ => number_from_env("NEARCACHE_TEST_SEED").unwrap_or(1),
    };
    eprintln!("NEARCACHE_TEST_SEED={seed}");
    seed
}

/// A count that the environment may override.
pub fn number_from_env(name: &str) -> Option<u64> {
    env::var(name).ok()?.parse().ok()
}

/// Whether a missing tool is a failure (on the build server) or only a printed reason (on a developer's machine).
pub fn is_ci() -> bool {
    env::var("CI").is_ok_and(|v| v == "true" || v == "1")
}

/// Says why a test does nothing; fails instead where nothing may be missing.
pub fn skip(reason: &str) {
    assert!(!is_ci(), "CI has to have everything installed: {reason}");
    tell(reason);
}

/// Says it in the output of a test that passes, too, where what `eprintln` prints is not shown; once is enough.
pub fn tell(reason: &str) {
    static TOLD: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());
    let is_new = TOLD.lock().is_ok_and(|mut told| told.insert(reason.to_owned()));
    if is_new {
        let _ = writeln!(std::io::stderr(), "skipped: {reason}");
    }
}

/// Bytes as text that can be read in a failure message; long ones are cut.
pub fn show(bytes: &[u8]) -> String {
    const MOST: usize = 400;
    let cut = &bytes[..bytes.len().min(MOST)];
    let more = if bytes.len() > MOST {
        format!("… ({} bytes)", bytes.len())
    } else {
        String::new()
    };
    format!("{}{more}", cut.escape_ascii())
}

/// A command line as somebody would type it.
pub fn show_args<A: AsRef<[u8]>>(args: &[A]) -> String {
    args.iter().map(|a| show(a.as_ref())).collect::<Vec<_>>().join(" ")
}

/// Sends a process SIGSTOP and waits until it is halted.
pub fn freeze(pid: u32) {
    signal(pid, Signal::STOP);
    let stat = format!("/proc/{pid}/stat");
    eventually("the process is stopped", STEP, || {
        fs::read_to_string(&stat).is_ok_and(|s| s.rsplit(')').next().is_some_and(|s| s.trim_start().starts_with('T')))
    });
}

/// SIGCONT after [`freeze`].
pub fn thaw(pid: u32) {
    signal(pid, Signal::CONT);
}

fn signal(pid: u32, signal: Signal) {
    let pid = Pid::from_raw(pid as i32).expect("a process id is not zero");
    kill_process(pid, signal).expect("the process is alive");
}

/// Resident memory of a process in KiB, from `/proc/PID/status`.
pub fn resident_kib(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("the process is alive");
    let line = status
        .lines()
        .find(|l| l.starts_with("VmRSS:"))
        .expect("status has VmRSS");
    line.split_whitespace()
        .nth(1)
        .and_then(|n| n.parse().ok())
        .expect("VmRSS is a number")
}
