//! The configuration: from what was written (file, environment, flags) to values that can be used.
//!
//! Everything past this module may trust what it is given: an out-of-range value, a key nobody knows or an
//! address that does not resolve has been refused here, with every other problem, before a port is bound.
//! Runs at the start, and whenever the process is told to read its configuration again. Units: sizes in bytes, lengths of time as [`Duration`](std::time::Duration).
//!
//! The walk: [`layers`] puts the settings of all sources over one another and remembers where each came
//! from; `reader` takes typed values out of them; each section turns its part into its valid form; what
//! nobody took is unknown and refused.

mod auth;
mod breaker;
mod cache;
mod clients;
mod credentials;
mod environment;
mod keys;
mod l3;
mod layers;
mod listen;
mod log;
mod reader;
mod reads;
mod secret;
mod shutdown;
mod tls;
mod upstream;
mod url;

pub use auth::{Auth, Credentials};
pub use breaker::Breaker;
pub use cache::{Cache, Consistency, Invalidation, MOST_COMPRESSED_BYTES, Objective};
pub use clients::Clients;
pub use credentials::Password;
pub use environment::{Warning, on_loopback};
pub use keys::Keys;
pub use l3::{Admission, Compression, L3, Recovery, Sync};
pub use layers::{Origin, Problem, Settings};
pub use listen::ListenAddr;
pub use log::{Log, LogFormat, LogLevel};
pub use reads::{ReadFrom, Reads};
pub use secret::Secret;
pub use shutdown::Shutdown;
pub use tls::TlsOptions;
pub use upstream::{Endpoint, Place, Sentinels, Upstream, UpstreamTimeouts};

use reader::Reader;
use std::fmt::Write as _;
use std::net::SocketAddr;

/// The valid configuration, whole.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Where clients are served; at least one.
    pub listen: Vec<ListenAddr>,
    /// Where the admin API is served; `None` = off.
    pub admin: Option<SocketAddr>,
    /// Worker threads, one runtime each; 0 = one for each core but one. See [`Config::worker_threads`].
    pub workers: usize,
    /// The Redis behind the proxy.
    pub upstream: Upstream,
    /// Which nodes answer reads.
    pub reads: Reads,
    /// How long each step with the upstream may take.
    pub upstream_timeouts: UpstreamTimeouts,
    /// When a node is given up for a while.
    pub breaker: Breaker,
    /// Most upstream connections that belong to one client each.
    pub pinned_max: usize,
    /// Bounds on what clients may take.
    pub clients: Clients,
    /// Who may use the proxy.
    pub auth: Auth,
    /// What is kept in memory, and for how long.
    pub cache: Cache,
    /// What is kept on the disk.
    pub l3: L3,
    /// What is logged, and how.
    pub log: Log,
    /// How the proxy ends.
    pub shutdown: Shutdown,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: vec![ListenAddr::Tcp(SocketAddr::from(([127, 0, 0, 1], 6390)))],
            admin: Some(SocketAddr::from(([127, 0, 0, 1], 9091))),
            workers: 0,
            upstream: Upstream::default(),
            reads: Reads::default(),
            upstream_timeouts: UpstreamTimeouts::default(),
            breaker: Breaker::default(),
            pinned_max: Clients::default().max_clients,
            clients: Clients::default(),
            auth: Auth::default(),
            cache: Cache::default(),
            l3: L3::default(),
            log: Log::default(),
            shutdown: Shutdown::default(),
        }
    }
}

impl Config {
    /// Turns settings into the valid form, taking the default for what is not set.
    ///
    /// # Errors
    /// All problems found, in the order of the sections.
    pub fn from_settings(settings: Settings) -> Result<Self, Vec<Problem>> {
        let mut reader = Reader::new(settings);
        let config = Self::read(&mut reader);
        let problems = reader.finish();
        if problems.is_empty() { Ok(config) } else { Err(problems) }
    }

    /// The number of worker threads really wanted: `workers`, or one for each core but one, at least one.
    ///
    /// The proxy shares its node with clients, often with the server: a worker on the last core takes it from those that it
    /// waits for. Measured on two cores beside redis-benchmark and redis-server, one worker answers hits at 1.04, 1.11 and
    /// 1.39 times the rate of two (pipelines of 1, 16, 64) and forwards at 1.15 and 1.08 times, with half the p95.
    #[must_use]
    pub fn worker_threads(&self) -> usize {
        match self.workers {
            0 => std::thread::available_parallelism().map_or(1, |cores| (cores.get() - 1).max(1)),
            some => some,
        }
    }

    /// The effective configuration as TOML that this module reads back; secrets appear as `***`.
    #[must_use]
    pub fn to_toml(&self) -> String {
        let mut out = String::new();
        print_settings(&mut out, &self.top_settings());
        let mut upstream = self.upstream.settings();
        upstream.extend(self.reads.settings());
        upstream.push(("pinned_max", integer(self.pinned_max)));
        upstream.extend(self.upstream_timeouts.settings());
        for (section, settings) in [
            ("upstream", upstream),
            ("breaker", self.breaker.settings()),
            ("clients", self.clients.settings()),
            ("auth", self.auth.settings()),
            ("cache", self.cache.settings()),
            ("l3", self.l3.settings()),
            ("log", self.log.settings()),
            ("shutdown", self.shutdown.settings()),
        ] {
            // Writing to a `String` cannot fail.
            let _ = writeln!(out, "\n[{section}]");
            print_settings(&mut out, &settings);
        }
        out
    }

    fn read(reader: &mut Reader) -> Self {
        let default = Self::default();
        let clients = Clients::read(reader);
        let upstream = Upstream::read(reader);
        let mut config = Self {
            listen: listen::read_list(reader, default.listen),
            admin: listen::read_admin(reader, default.admin),
            workers: reader.number("workers", default.workers, 0, 1024),
            pinned_max: reader.number("upstream.pinned_max", clients.max_clients, 1, 1_000_000),
            upstream_timeouts: UpstreamTimeouts::read(reader),
            breaker: Breaker::read(reader),
            auth: Auth::read(reader),
            cache: Cache::read(reader),
            l3: L3::read(reader),
            log: Log::read(reader),
            shutdown: Shutdown::read(reader),
            reads: Reads::default(),
            clients,
            upstream,
        };
        config.reads = Reads::read(reader, &config.upstream, &config.cache);
        environment::refuse_absent_parts(reader);
        config
    }

    fn top_settings(&self) -> Vec<Printed> {
        let listen = self
            .listen
            .iter()
            .map(|address| toml::Value::from(address.to_string()))
            .collect();
        let admin = self.admin.map_or_else(|| OFF.to_owned(), |address| address.to_string());
        vec![
            ("listen", toml::Value::Array(listen)),
            ("admin", admin.into()),
            ("workers", integer(self.workers)),
        ]
    }
}

/// An option as it is printed: its name within the section, and its value.
type Printed = (&'static str, toml::Value);

fn print_settings(out: &mut String, settings: &[Printed]) {
    for (name, value) in settings {
        let _ = writeln!(out, "{name} = {value}");
    }
}

fn integer<N: TryInto<i64>>(number: N) -> toml::Value {
    toml::Value::Integer(number.try_into().unwrap_or(i64::MAX))
}

/// How "not at all" is written for an option that may be absent.
const OFF: &str = "off";

#[cfg(test)]
mod tests;
