//! Flags and configuration, logs, run, exit code.

use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use nearcache::cache::l3::check::{Export, check};
use nearcache::cache::l3::keys::{KeyRing, NewSegments};
use nearcache::cache::l3::storage::Disk;
use nearcache::cli::{self, EXIT_USAGE, Outcome};
use nearcache::config::{Config, Keys};
use nearcache::server;
use tikv_jemalloc_ctl::{Access as _, AsName as _, background_thread, max_background_threads};

/// jemalloc, for what stays resident when the sizes of values change. `benches/churn` with `--l1 256MiB` (values of 1000,
/// 64, 3000, 200 bytes in turn; the allocator preloaded), peak of the resident set over the budget: jemalloc 5.3.1 1.15,
/// mimalloc 2 1.21, mimalloc 3 1.30, glibc 2.36 1.45, which glibc did not give back. User instructions for a miss: 9 % fewer
/// to 2 % more than with glibc, 4 to 11 % more than with mimalloc 2.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Time in which pages that were freed go back to the system. jemalloc's own is 10 s, in which a change of sizes leaves a
/// fifth of the budget behind, and in 500 ms a twelfth. Misses a second in `benches/churn` are the same with 500 and with 50;
/// with 0 they are a twelfth to a quarter fewer.
const DIRTY_DECAY_MS: isize = 50;

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
        Outcome::CheckL3 { path, export, keys } => check_l3(&path, export, &keys),
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
        Outcome::CheckL3 { .. } => Err("the arguments are those of l3-check".to_owned()),
    }
}

/// For this thread's arena, and for those that will be. A thread of jemalloc's own does it, also for workers that are idle.
fn give_memory_back_soon() -> Result<(), tikv_jemalloc_ctl::Error> {
    "arena.0.dirty_decay_ms\0".name().write(DIRTY_DECAY_MS)?;
    "arenas.dirty_decay_ms\0".name().write(DIRTY_DECAY_MS)?;
    max_background_threads::write(1)?;
    background_thread::write(true)
}

fn check_l3(path: &Path, export: bool, keys: &Keys) -> ExitCode {
    let keys = KeyRing::new(keys.expose(), NewSegments::Plain);
    let disk = match Disk::existing(path) {
        Ok(disk) => disk,
        Err(error) => return refuse(EXIT_USAGE, &format!("nearcache: {}: {error}\n", path.display())),
    };
    let now_ms = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_millis() as u64);
    let export = if export { Export::Entries } else { Export::Nothing };
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    let report = match check(&disk, &keys, now_ms, export, &mut out).and_then(|report| match out.flush() {
        Ok(()) => Ok(report),
        Err(error) => Err(format!("nothing more can be written: {error}")),
    }) {
        Ok(report) => report,
        Err(why) => return refuse(EXIT_USAGE, &format!("nearcache: {why}\n")),
    };
    drop(out);
    let code = if report.is_sound() { 0 } else { 1 };
    match export {
        Export::Entries => refuse(code, &report.to_string()),
        Export::Nothing => {
            print(&report.to_string());
            ExitCode::from(code)
        }
    }
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
