//! Flags and configuration, logs, run, exit code.

use std::io::Write as _;
use std::process::ExitCode;

use nearcache::cli::{self, EXIT_USAGE, Outcome};
use nearcache::config::Config;
use nearcache::server;
use tikv_jemalloc_ctl::{Access as _, AsName as _, background_thread, max_background_threads};

/// jemalloc, for what stays resident when the sizes of values change. `benches/churn` with `--l1 256MiB` (values of 1000,
/// 64, 3000, 200 bytes in turn; the allocator preloaded), peak of the resident set over the budget: jemalloc 5.3.1 1.15,
/// mimalloc 2 1.21, mimalloc 3 1.30, glibc 2.36 1.45, which glibc did not give back. User instructions for a miss: 9 % fewer
/// to 2 % more than with glibc, 4 to 11 % more than with mimalloc 2.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Time in which pages that were freed go back to the system. jemalloc's own is 10 s, in which a change of sizes leaves a
/// fifth of the budget behind.
const DIRTY_DECAY_MS: isize = 500;

fn main() -> ExitCode {
    if let Err(error) = give_memory_back_soon() {
        eprintln!("nearcache: more memory than needed stays resident: the allocator refused its settings: {error}");
    }
    match read() {
        Outcome::Run(config, warnings) => server::run(*config, &warnings, reread),
        Outcome::Print(text) => print(&text),
        Outcome::Check(config, text) => match server::check(&config) {
            Ok(()) => print(&text),
            Err(why) => refuse(EXIT_USAGE, &cli::describe(&[why])),
        },
        Outcome::Exit { code, text } => refuse(code, &text),
    }
}

fn read() -> Outcome {
    cli::parse(std::env::args_os(), |name| std::env::var(name).ok())
}

/// The configuration as it would be if the process started now; else what is wrong with it.
fn reread() -> Result<Config, String> {
    match read() {
        Outcome::Run(config, _) => Ok(*config),
        Outcome::Exit { text, .. } | Outcome::Print(text) | Outcome::Check(_, text) => Err(text),
    }
}

/// For this thread's arena, and for those that will be. A thread of jemalloc's own does it, also for workers that are idle.
fn give_memory_back_soon() -> Result<(), tikv_jemalloc_ctl::Error> {
    "arena.0.dirty_decay_ms\0".name().write(DIRTY_DECAY_MS)?;
    "arenas.dirty_decay_ms\0".name().write(DIRTY_DECAY_MS)?;
    max_background_threads::write(1)?;
    background_thread::write(true)
}

fn print(text: &str) -> ExitCode {
    // A reader that has gone is no failure of ours.
    let _ = std::io::stdout().write_all(text.as_bytes());
    ExitCode::SUCCESS
}

fn refuse(code: u8, text: &str) -> ExitCode {
    let _ = std::io::stderr().write_all(text.as_bytes());
    ExitCode::from(code)
}
