//! Flags and configuration, logs, run, exit code.

use std::io::Write as _;
use std::process::ExitCode;

use nearcache::cli::{self, Outcome};
use nearcache::server;

fn main() -> ExitCode {
    match cli::parse(std::env::args_os(), |name| std::env::var(name).ok()) {
        Outcome::Run(config, warnings) => server::run(*config, &warnings),
        Outcome::Print(text) => {
            // A reader that has gone is no failure of ours.
            let _ = std::io::stdout().write_all(text.as_bytes());
            ExitCode::SUCCESS
        }
        Outcome::Exit { code, text } => {
            let _ = std::io::stderr().write_all(text.as_bytes());
            ExitCode::from(code)
        }
    }
}
