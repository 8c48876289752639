//! The command line: what a user asks of the process, turned into a configuration or into text to print.
//!
//! Flags win over the environment, the environment over the file, the file over the defaults. Runs before anything else,
//! and again when the process is told to read its configuration anew; apart from reading files it only looks at what
//! it is given, and it never prints or exits itself.

use crate::config::{Config, Keys, Origin, Settings, Warning, on_loopback};
use clap::error::ErrorKind;
use clap::{Parser, Subcommand};
use std::ffi::OsString;
use std::fmt::Display;
use std::path::{Path, PathBuf};

/// What the process should do.
#[derive(Debug)]
pub enum Outcome {
    /// Serve with this configuration, after logging the warnings.
    Run(Box<Config>, Vec<Warning>),
    /// Print this on standard output and end with code 0.
    Print(String),
    /// The same, if the files that the configuration names hold what they should.
    Check(Box<Config>, String),
    /// Look at the files of L3 in this directory, print what is in them, and end.
    CheckL3 {
        path: PathBuf,
        /// Print each entry as a line of JSON, and the summary on standard error.
        export: bool,
        /// What the files may be encrypted with.
        keys: Keys,
    },
    /// Print this on standard error and end with this code.
    Exit {
        /// The code: [`EXIT_USAGE`].
        code: u8,
        /// Lines that end with a line break.
        text: String,
    },
}

/// The code of a process that was asked for something it cannot do: a wrong flag or configuration.
pub const EXIT_USAGE: u8 = 2;

/// Decides what to do from the arguments (the program's name first) and the environment.
pub fn parse(args: impl IntoIterator<Item = OsString>, env: impl Fn(&str) -> Option<String>) -> Outcome {
    let flags = match Flags::try_parse_from(args) {
        Ok(flags) => flags,
        Err(error) if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) => {
            return Outcome::Print(format!("{}\n", error.to_string().trim_end()));
        }
        Err(error) => return refused(error.to_string()),
    };
    if let Some(Tool::L3Check {
        path,
        export,
        encryption_key_file,
    }) = flags.tool
    {
        return match keys(encryption_key_file, env) {
            Ok(keys) => Outcome::CheckL3 { path, export, keys },
            Err(why) => refused(format!("nearcache: {why}\n")),
        };
    }
    let mut settings = Settings::default();
    add_file(&mut settings, &flags, &env);
    let warnings = settings.add_environment(env);
    let action = Action::of(&flags);
    add_flags(&mut settings, flags);
    match (Config::from_settings(settings), action) {
        (Err(problems), _) => refused(describe(&problems)),
        (Ok(config), Action::Run) => Outcome::Run(Box::new(config), warnings),
        (Ok(config), Action::PrintConfig) => Outcome::Print(config.to_toml()),
        (Ok(config), Action::CheckConfig) => {
            let warnings: String = warnings.iter().map(|warning| format!("warning: {warning}\n")).collect();
            Outcome::Check(Box::new(config), format!("{warnings}the configuration is valid\n"))
        }
    }
}

/// A RESP-compatible caching proxy: hot keys from memory, coherently, in front of Redis or Valkey.
///
/// Without an upstream it starts a private Redis server on a Unix socket, with its data under ./data, and
/// fronts that. Every flag has an environment variable: --l1 is NEARCACHE_L1. Flags win over the environment,
/// the environment over the file.
#[derive(Parser)]
#[command(
    name = "nearcache",
    version,
    max_term_width = 100,
    args_conflicts_with_subcommands = true,
    disable_help_subcommand = true
)]
struct Flags {
    #[command(subcommand)]
    tool: Option<Tool>,
    /// The Redis to front: redis://[[user]:password@]host[:port][/db], rediss:// for TLS,
    /// redis+sentinel://[[user]:password@]host[:port][,host[:port]...]/name[/db],
    /// redis+cluster://[[user]:password@]host[:port][,host[:port]...] or unix:///path
    #[arg(long, value_name = "URL")]
    upstream: Option<String>,
    /// The configuration file (TOML); conf/nearcache.toml lists every option
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Serve clients here: host:port, [::1]:port or unix:/path; may be repeated [default: 127.0.0.1:6390]
    #[arg(long, value_name = "ADDR")]
    listen: Vec<String>,
    /// Serve clients on this port of 127.0.0.1; 0 takes a free one
    #[arg(long, value_name = "N")]
    port: Option<String>,
    /// Serve the admin API and metrics here, or off [default: 127.0.0.1:9091]
    #[arg(long, value_name = "ADDR|off")]
    admin: Option<String>,
    /// Worker threads; 0 takes one for each core but one [default: 0]
    #[arg(long, value_name = "N")]
    workers: Option<String>,
    /// Memory for cached entries [default: 256MiB]
    #[arg(long, value_name = "SIZE")]
    l1: Option<String>,
    /// Keep what L1 evicts in this directory, or off [default: off]
    #[arg(long, value_name = "PATH|off")]
    l3: Option<String>,
    /// What the files of L3 may take [default: 4GiB]
    #[arg(long, value_name = "SIZE")]
    l3_size: Option<String>,
    /// error, warn, info, debug or trace [default: info]
    #[arg(long, value_name = "LEVEL")]
    log_level: Option<String>,
    /// text or json [default: text]
    #[arg(long, value_name = "FORMAT")]
    log_format: Option<String>,
    /// Say whether the configuration is valid, and end
    #[arg(long, conflicts_with = "print_config")]
    check_config: bool,
    /// Print the configuration in effect, without secrets, and end
    #[arg(long)]
    print_config: bool,
    // Known to the grammar so that they are refused with a reason, and not shown as if they could be used.
    #[arg(long, value_name = "ADDR|off", hide = true)]
    dashboard: Option<String>,
}

/// What the program does besides serving.
#[derive(Subcommand)]
enum Tool {
    /// Verify the files of L3 while no process uses them: code 0 if they are sound, 1 if not
    #[command(name = "l3-check")]
    L3Check {
        /// The directory
        path: PathBuf,
        /// Print each entry that would be found as a line of JSON; the summary goes to standard error
        #[arg(long)]
        export: bool,
        /// The keys that the files are encrypted with; else those of NEARCACHE_L3_ENCRYPTION_KEY_FILE or
        /// NEARCACHE_L3_ENCRYPTION_KEY
        #[arg(long, value_name = "FILE")]
        encryption_key_file: Option<PathBuf>,
    },
}

/// The keys for a tool, which reads no configuration.
fn keys(file: Option<PathBuf>, env: impl Fn(&str) -> Option<String>) -> Result<Keys, String> {
    let set = |name| env(name).filter(|value| !value.is_empty());
    match (file, set(KEY_FILE_VARIABLE), set(KEY_VARIABLE)) {
        (Some(file), _, _) => Keys::from_file(&file),
        (None, Some(file), _) => Keys::from_file(Path::new(&file)),
        (None, None, Some(text)) => Keys::parse(&text).map_err(|why| format!("{KEY_VARIABLE}: {why}")),
        (None, None, None) => Ok(Keys::default()),
    }
}

const KEY_FILE_VARIABLE: &str = "NEARCACHE_L3_ENCRYPTION_KEY_FILE";
const KEY_VARIABLE: &str = "NEARCACHE_L3_ENCRYPTION_KEY";

#[derive(Clone, Copy)]
enum Action {
    Run,
    CheckConfig,
    PrintConfig,
}

impl Action {
    fn of(flags: &Flags) -> Self {
        if flags.check_config {
            Self::CheckConfig
        } else if flags.print_config {
            Self::PrintConfig
        } else {
            Self::Run
        }
    }
}

fn add_file(settings: &mut Settings, flags: &Flags, env: &impl Fn(&str) -> Option<String>) {
    let (path, place) = match (&flags.config, env("NEARCACHE_CONFIG").filter(|path| !path.is_empty())) {
        (Some(path), _) => (path.clone(), "--config"),
        (None, Some(path)) => (PathBuf::from(path), "NEARCACHE_CONFIG"),
        (None, None) => return,
    };
    let name = path.display().to_string();
    match std::fs::read_to_string(&path) {
        Ok(text) => settings.add_file(&name, &text),
        Err(error) => settings.problem(place, format!("cannot read {name}: {error}")),
    }
}

fn add_flags(settings: &mut Settings, flags: Flags) {
    for (flag, key, value) in [
        ("--upstream", "upstream.url", flags.upstream),
        ("--admin", "admin", flags.admin),
        ("--workers", "workers", flags.workers),
        ("--l1", "cache.l1", flags.l1),
        ("--log-level", "log.level", flags.log_level),
        ("--log-format", "log.format", flags.log_format),
        ("--dashboard", "dashboard", flags.dashboard),
        ("--l3", "l3.path", flags.l3),
        ("--l3-size", "l3.size", flags.l3_size),
    ] {
        if let Some(value) = value {
            settings.set(key, value, Origin::Flag(flag));
        }
    }
    if !flags.listen.is_empty() {
        settings.add_to_list("listen", flags.listen, Origin::Flag("--listen"));
    }
    if let Some(port) = flags.port {
        settings.add_to_list("listen", [on_loopback(&port)], Origin::Flag("--port"));
    }
}

/// The words for problems with the configuration, as lines.
pub fn describe(problems: &[impl Display]) -> String {
    let count = match problems.len() {
        1 => "1 problem".to_owned(),
        many => format!("{many} problems"),
    };
    problems.iter().fold(
        format!("nearcache: the configuration has {count}\n"),
        |text, problem| text + &format!("  {problem}\n"),
    )
}

fn refused(text: String) -> Outcome {
    Outcome::Exit { code: EXIT_USAGE, text }
}

#[cfg(test)]
mod tests;
