//! Flags and configuration, logs, run, exit code.

use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use nearcache::cache::l3::check::{Export, check};
use nearcache::cache::l3::storage::Disk;
use nearcache::cli::{self, EXIT_USAGE, Outcome};
use nearcache::server;

/// jemalloc, for what stays resident when the sizes of values change. `benches/churn` with `--l1 256MiB` (values of 1000,
/// 64, 3000, 200 bytes in turn; the allocator preloaded), peak of the resident set over the budget: jemalloc 5.3.1 1.15,
/// mimalloc 2 1.21, mimalloc 3 1.30, glibc 2.36 1.45, which glibc did not give back. User instructions for a miss: 9 % fewer
/// to 2 % more than with glibc, 4 to 11 % more than with mimalloc 2.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    match cli::parse(std::env::args_os(), |name| std::env::var(name).ok()) {
        Outcome::Run(config, warnings) => server::run(*config, &warnings),
        Outcome::Print(text) => print(&text),
        Outcome::Check(config, text) => match server::check(&config) {
            Ok(()) => print(&text),
            Err(why) => refuse(EXIT_USAGE, &cli::describe(&[why])),
        },
        Outcome::CheckL3 { path, export } => check_l3(&path, export),
        Outcome::Exit { code, text } => refuse(code, &text),
    }
}

fn check_l3(path: &Path, export: bool) -> ExitCode {
    let disk = match Disk::existing(path) {
        Ok(disk) => disk,
        Err(error) => return refuse(EXIT_USAGE, &format!("nearcache: {}: {error}\n", path.display())),
    };
    let now_ms = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_millis() as u64);
    let export = if export { Export::Entries } else { Export::Nothing };
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    let report = match check(&disk, now_ms, export, &mut out).and_then(|report| match out.flush() {
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
