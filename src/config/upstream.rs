//! The Redis behind the proxy: where it is, as whom to speak to it, and how long each step may take.
//!
//! Read once at start; immutable afterwards. Host names are kept as written: they are resolved at each
//! connection, so that a moved upstream is found again.

use super::auth::DEFAULT_USER;
use super::reader::{Reader, print_length};
use super::url::UpstreamUrl;
use super::{Credentials, Printed, Secret};
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

/// Which Redis is fronted.
#[derive(Clone, Debug, PartialEq)]
pub enum Upstream {
    /// A private server started as a child of the proxy.
    Embedded {
        /// Where it keeps its data; default `./data`.
        data_dir: PathBuf,
    },
    /// A server that runs on its own.
    Url {
        /// Where it listens.
        endpoint: Endpoint,
        /// The user to authenticate as; `None` = `default`.
        user: Option<String>,
        /// The password, where one is needed.
        password: Option<Secret>,
        /// The database in which clients begin; default 0.
        db: u32,
    },
}

/// Where a server listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// A host name or address (IPv6 without brackets) and a port.
    Tcp {
        /// Host name or address.
        host: String,
        /// Port, never 0.
        port: u16,
    },
    /// The path of a Unix socket.
    Unix(PathBuf),
}

/// How long each step with the upstream may take.
#[derive(Clone, Debug, PartialEq)]
pub struct UpstreamTimeouts {
    /// To connect and finish the handshake; default 2 s, minimum 10 ms.
    pub connect: Duration,
    /// Silence while a reply is owed after which the connection is given up; default 10 s, minimum 100 ms.
    pub read: Duration,
    /// Time without progress in writing after which it is given up; default 10 s, minimum 100 ms.
    pub write: Duration,
    /// First wait before connecting again, doubled each time, with jitter; default 20 ms, minimum 1 ms.
    pub reconnect_min: Duration,
    /// Longest such wait; default 2 s, minimum `reconnect_min`.
    pub reconnect_max: Duration,
}

impl Default for Upstream {
    fn default() -> Self {
        Self::Embedded {
            data_dir: PathBuf::from("./data"),
        }
    }
}

impl Default for UpstreamTimeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(2),
            read: Duration::from_secs(10),
            write: Duration::from_secs(10),
            reconnect_min: Duration::from_millis(20),
            reconnect_max: Duration::from_secs(2),
        }
    }
}

impl Upstream {
    /// The user and password the proxy itself shows to the upstream.
    #[must_use]
    pub fn credentials(&self) -> Option<Credentials> {
        match self {
            Self::Url {
                user,
                password: Some(password),
                ..
            } => Some(Credentials {
                user: user.clone().unwrap_or_else(|| DEFAULT_USER.to_owned()),
                password: password.clone(),
            }),
            _ => None,
        }
    }

    pub(super) fn read(reader: &mut Reader) -> Self {
        let url_origin = reader.origin("upstream.url");
        let password_origin = reader.origin("upstream.password");
        let url = reader.text("upstream.url");
        let password = reader.text("upstream.password").filter(|password| !password.is_empty());
        let data_dir_is_set = reader.origin("upstream.data_dir").is_some();
        let data_dir = reader.text("upstream.data_dir");

        let Some(url) = url else {
            if password.is_some() {
                reader.problem(
                    "upstream.password",
                    "has no upstream to go with: set upstream.url too, or auth.password to ask clients for one",
                );
            }
            return match data_dir {
                Some(dir) if dir.is_empty() => {
                    reader.problem("upstream.data_dir", "must not be empty");
                    Self::default()
                }
                Some(dir) => Self::Embedded { data_dir: dir.into() },
                None => Self::default(),
            };
        };
        if data_dir_is_set && reader.same_rank("upstream.url", "upstream.data_dir") {
            reader.problem(
                "upstream.data_dir",
                "has no effect together with upstream.url: remove one of them",
            );
        }
        let parsed = match UpstreamUrl::parse(&url) {
            Ok(parsed) => parsed,
            Err(why) => {
                reader.problem("upstream.url", why);
                return Self::default();
            }
        };
        // A password of its own gives way to the one in the URL unless it was set in a stronger source.
        let own_is_stronger = password_origin.map(|origin| origin.rank()) > url_origin.map(|origin| origin.rank());
        let password = match (parsed.password, password.map(Secret::new)) {
            (Some(of_url), Some(own)) => Some(if own_is_stronger { own } else { of_url }),
            (of_url, own) => of_url.or(own),
        };
        if parsed.user.is_some() && password.is_none() {
            reader.problem(
                "upstream.url",
                "names a user without a password: write redis://user:password@host (a password alone is redis://:password@host), \
                 or set upstream.password",
            );
        }
        Self::Url {
            endpoint: parsed.endpoint,
            user: parsed.user,
            password,
            db: parsed.db,
        }
    }

    pub(super) fn settings(&self) -> Vec<Printed> {
        match self {
            Self::Embedded { data_dir } => vec![("data_dir", data_dir.display().to_string().into())],
            Self::Url { .. } => vec![("url", self.to_string().into())],
        }
    }
}

/// The upstream as a URL without its secrets, for the log and for `--print-config`.
impl fmt::Display for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Embedded { data_dir } => write!(f, "private server in {}", data_dir.display()),
            Self::Url {
                endpoint,
                user,
                password,
                db,
            } => super::url::write_url(f, endpoint, user.as_deref(), password.as_ref(), *db),
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Tcp { host, port } => write!(f, "{host}:{port}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl UpstreamTimeouts {
    pub(super) fn read(reader: &mut Reader) -> Self {
        let default = Self::default();
        let ms = Duration::from_millis;
        let timeouts = Self {
            connect: reader.length("upstream.connect_timeout", default.connect, ms(10)),
            read: reader.length("upstream.read_timeout", default.read, ms(100)),
            write: reader.length("upstream.write_timeout", default.write, ms(100)),
            reconnect_min: reader.length("upstream.reconnect_min", default.reconnect_min, ms(1)),
            reconnect_max: reader.length("upstream.reconnect_max", default.reconnect_max, ms(1)),
        };
        if timeouts.reconnect_max < timeouts.reconnect_min {
            reader.problem("upstream.reconnect_max", "must not be less than upstream.reconnect_min");
        }
        timeouts
    }

    pub(super) fn settings(&self) -> Vec<Printed> {
        vec![
            ("connect_timeout", print_length(self.connect)),
            ("read_timeout", print_length(self.read)),
            ("write_timeout", print_length(self.write)),
            ("reconnect_min", print_length(self.reconnect_min)),
            ("reconnect_max", print_length(self.reconnect_max)),
        ]
    }
}
