//! Settings from environment variables: those of nearcache's own flags, and those that the services of its
//! first user set already.
//!
//! Of two variables for the same option nearcache's own (`NEARCACHE_…`) wins. Variables that will mean
//! something to a later part are answered with a warning: silence would let an operator believe in them.
//! Pure but for the function that is asked for a variable.

use super::layers::{Origin, Settings};
use super::reader::{Reader, parse_flag};
use super::url::{DEFAULT_PORT, Seat, UpstreamUrl, absent, percent_encode, raw_user_info, split_host_port};
use super::{Endpoint, OFF};
use std::fmt;

/// Something an operator should know that does not keep the proxy from starting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning(String);

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Settings {
    /// Puts the environment over what is set. An empty variable counts as not set.
    pub fn add_environment(&mut self, env: impl Fn(&str) -> Option<String>) -> Vec<Warning> {
        let env = |name: &str| env(name).filter(|value| !value.trim().is_empty());
        let mut warnings = Vec::new();
        self.add_borrowed_names(&env, &mut warnings);
        self.add_own_names(&env, &mut warnings);
        warnings.extend(
            WITHOUT_EFFECT
                .into_iter()
                .filter(|(name, harmless)| {
                    env(name).is_some_and(|value| harmless.is_none() || parse_flag(&value) != *harmless)
                })
                .map(|(name, _)| Warning(format!("{name} is set but has no effect: {NOT_YET}"))),
        );
        warnings
    }

    fn add_borrowed_names(&mut self, env: &impl Fn(&str) -> Option<String>, warnings: &mut Vec<Warning>) {
        let address = env("REDIS_ADDR");
        if let Some(address) = address.clone() {
            let origin = Origin::Environment("REDIS_ADDR");
            if address.contains("://") {
                self.set("upstream.url", address, origin);
            } else {
                match split_host_port(&address, DEFAULT_PORT) {
                    Ok((host, port)) if host.contains(':') => {
                        self.set("upstream.url", format!("redis://[{host}]:{port}"), origin);
                    }
                    Ok((host, port)) => self.set("upstream.url", format!("redis://{host}:{port}"), origin),
                    Err(why) => self.problem("REDIS_ADDR", format!("\"{address}\": {why}")),
                }
            }
        }
        // Whoever has sentinels means them: the address is then that of the primary of the day.
        if let Some(sentinels) = env("SENTINEL_ADDRS") {
            let name = env("SENTINEL_MASTER_NAME").unwrap_or_else(|| "mymaster".to_owned());
            let sentinels: Vec<&str> = sentinels.split([',', ' ']).filter(|one| !one.is_empty()).collect();
            // Of what nearcache's own variable overrides nothing need be said.
            let mut unheard = Vec::new();
            let warnings = if env("NEARCACHE_UPSTREAM").is_some() {
                &mut unheard
            } else {
                &mut *warnings
            };
            let url = beside_sentinels(address.as_deref(), &sentinels.join(","), name.trim(), warnings);
            self.set("upstream.url", url, Origin::Environment("SENTINEL_ADDRS"));
        } else if env("SENTINEL_MASTER_NAME").is_some() {
            warnings.push(Warning(
                "SENTINEL_MASTER_NAME is ignored: SENTINEL_ADDRS, the sentinels to ask, is not set".to_owned(),
            ));
        }
        if let Some(password) = env("REDIS_PASSWORD") {
            self.set("upstream.password", password, Origin::Environment("REDIS_PASSWORD"));
        }
        if let Some(port) = env("METRICS_PORT") {
            self.set("admin", on_loopback(&port), Origin::Environment("METRICS_PORT"));
        }
        if let Some(level) = env("LOG_LEVEL") {
            self.set("log.level", level, Origin::Environment("LOG_LEVEL"));
        }
        // L3 holds what L1 evicts: without L1 nothing is cached, and it needs caching to be on at all.
        if let Some(value) = env("CACHE_ENABLED") {
            self.set("cache.enabled", value, Origin::Environment("CACHE_ENABLED"));
        }
        if let Some(value) = env("CACHE_L1_ENABLED").filter(|value| parse_flag(value) != Some(true)) {
            self.set("cache.enabled", value, Origin::Environment("CACHE_L1_ENABLED"));
        }
        if let Some(path) = env("CACHE_L3_PATH") {
            self.set("l3.path", path, Origin::Environment("CACHE_L3_PATH"));
        }
        if let Some(value) = env("CACHE_L3_ENABLED") {
            match parse_flag(&value) {
                Some(true) if env("CACHE_L3_PATH").is_none() && env("NEARCACHE_L3").is_none() => {
                    warnings.push(Warning(
                        "CACHE_L3_ENABLED is ignored: CACHE_L3_PATH, the directory, is not set".to_owned(),
                    ));
                }
                Some(true) => {}
                Some(false) => self.set("l3.path", OFF, Origin::Environment("CACHE_L3_ENABLED")),
                None => self.problem("CACHE_L3_ENABLED", format!("must be true or false, found \"{value}\"")),
            }
        }
    }

    fn add_own_names(&mut self, env: &impl Fn(&str) -> Option<String>, warnings: &mut Vec<Warning>) {
        for (name, key) in OWN {
            if let Some(value) = env(name) {
                self.set(key, value, Origin::Environment(name));
            }
        }
        if let Some(value) = env("NEARCACHE_LISTEN") {
            let list = value
                .split([',', ' '])
                .filter(|part| !part.is_empty())
                .map(str::to_owned);
            self.add_to_list("listen", list, Origin::Environment("NEARCACHE_LISTEN"));
        }
        if let Some(port) = env("NEARCACHE_PORT") {
            // Kubernetes sets this name to a URL in every pod beside a service called nearcache.
            if port.contains("://") {
                warnings.push(Warning(format!(
                    "NEARCACHE_PORT is ignored: \"{port}\" is no port but looks like the link of a Kubernetes service"
                )));
            } else {
                self.add_to_list("listen", [on_loopback(&port)], Origin::Environment("NEARCACHE_PORT"));
            }
        }
    }
}

/// The URL of sentinels, with what the address of the primary says of the data nodes: as whom, in which database, and whether
/// over TLS.
fn beside_sentinels(address: Option<&str>, sentinels: &str, name: &str, warnings: &mut Vec<Warning>) -> String {
    let (mut scheme, mut user_info, mut db) = ("redis", String::new(), String::new());
    if let Some(address) = address.filter(|address| address.contains("://")) {
        match UpstreamUrl::parse(address) {
            Ok(url) if matches!(url.seat, Seat::Node(Endpoint::Tcp { .. })) => {
                scheme = if url.is_tls { "rediss" } else { "redis" };
                user_info = raw_user_info(address).map_or_else(String::new, |raw| format!("{raw}@"));
                db = format!("/{}", url.db);
            }
            // It may hold a password, so it is not repeated.
            _ => warnings.push(Warning(
                "REDIS_ADDR is ignored: SENTINEL_ADDRS is set, and only a redis:// or rediss:// URL can say more"
                    .to_owned(),
            )),
        }
    }
    format!(
        "{scheme}+sentinel://{user_info}{sentinels}/{}{db}",
        percent_encode(name)
    )
}

/// The address that a port alone stands for: loopback, since a port says nothing about who may come.
pub fn on_loopback(port: &str) -> String {
    format!("127.0.0.1:{}", port.trim())
}

/// Refuses options of parts that do not exist yet, with words of their own rather than as unknown.
pub(super) fn refuse_absent_parts(reader: &mut Reader) {
    for (key, part, instead) in ABSENT {
        if reader.is_set_though_absent(key) {
            reader.problem(key, absent(part, instead));
        }
    }
}

const OWN: [(&str, &str); 19] = [
    ("NEARCACHE_UPSTREAM", "upstream.url"),
    ("NEARCACHE_UPSTREAM_PASSWORD_FILE", "upstream.password_file"),
    ("NEARCACHE_SENTINEL_USER", "upstream.sentinel_user"),
    ("NEARCACHE_SENTINEL_PASSWORD", "upstream.sentinel_password"),
    ("NEARCACHE_SENTINEL_PASSWORD_FILE", "upstream.sentinel_password_file"),
    ("NEARCACHE_TLS_CA", "upstream.tls_ca"),
    ("NEARCACHE_TLS_CERT", "upstream.tls_cert"),
    ("NEARCACHE_TLS_KEY", "upstream.tls_key"),
    ("NEARCACHE_TLS_SERVER_NAME", "upstream.tls_server_name"),
    ("NEARCACHE_ADMIN", "admin"),
    ("NEARCACHE_WORKERS", "workers"),
    ("NEARCACHE_L1", "cache.l1"),
    ("NEARCACHE_LOG_LEVEL", "log.level"),
    ("NEARCACHE_LOG_FORMAT", "log.format"),
    ("NEARCACHE_DASHBOARD", "dashboard"),
    ("NEARCACHE_L3", "l3.path"),
    ("NEARCACHE_L3_SIZE", "l3.size"),
    ("NEARCACHE_L3_ENCRYPTION_KEY", "l3.encryption_key"),
    ("NEARCACHE_L3_ENCRYPTION_KEY_FILE", "l3.encryption_key_file"),
];

/// Options of the grammar whose part is missing, and what to do instead.
const ABSENT: [(&str, &str, &str); 1] = [(
    "dashboard",
    "the dashboard",
    "leave it \"off\" and read /metrics at the admin address",
)];

/// Variables without effect, with the truth value that asks for nothing which is missing.
const WITHOUT_EFFECT: [(&str, Option<bool>); 8] = [
    ("REDIS_MASTER_ADDR", NO_VALUE),
    ("REDIS_SLAVE_ADDRS", NO_VALUE),
    ("CACHE_L2_ENABLED", Some(true)),
    ("CACHE_DEFAULT_TTL", NO_VALUE),
    ("CACHE_VM_STATE_TTL", NO_VALUE),
    ("CACHE_VM_METRICS_TTL", NO_VALUE),
    ("WEBUI_PORT", NO_VALUE),
    ("HEALTH_CHECK_INTERVAL", NO_VALUE),
];
const NO_VALUE: Option<bool> = None;
const NOT_YET: &str = "the part of nearcache that would use it does not exist yet";
