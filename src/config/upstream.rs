//! The Redis behind the proxy: where it is, as whom to speak to it, and how long each step may take.
//!
//! Immutable; when the configuration is read again, what differs of passwords and certificates is used for connections made
//! from then on. Host names are kept as written: they are resolved at each connection, so that a moved upstream is found again.

use super::credentials::{self, Password};
use super::reader::{Reader, print_length};
use super::url::{Seat, UpstreamUrl};
use super::{Printed, TlsOptions};
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

/// Which Redis is fronted.
#[derive(Clone, Debug, PartialEq)]
#[expect(clippy::large_enum_variant, reason = "there is one in the process")]
pub enum Upstream {
    /// A private server started as a child of the proxy.
    Embedded {
        /// Where it keeps its data; default `./data`.
        data_dir: PathBuf,
    },
    /// A server that runs on its own.
    Url {
        /// Which one.
        place: Place,
        /// Whether it, and the sentinels, are spoken to over TLS, and how.
        tls: Option<TlsOptions>,
        /// The user to authenticate as; `None` = `default`.
        user: Option<String>,
        /// The password, where one is needed.
        password: Password,
        /// The database in which clients begin; default 0.
        db: u32,
    },
}

/// Which server is the upstream.
#[derive(Clone, Debug, PartialEq)]
pub enum Place {
    /// Always this one.
    Node(Endpoint),
    /// The one that sentinels name.
    Sentinel(Sentinels),
    /// The nodes of a cluster, of which some are named: at least one, no two the same.
    Cluster(Vec<Endpoint>),
}

/// Who knows the primary.
#[derive(Clone, Debug, PartialEq)]
pub struct Sentinels {
    /// Where they listen; at least one, no two the same.
    pub nodes: Vec<Endpoint>,
    /// The name under which they know the primary.
    pub name: String,
    /// The user to authenticate as at the sentinels; `None` = `default`.
    pub user: Option<String>,
    /// The password for the sentinels, where they want one.
    pub password: Password,
}

/// Where a server listens.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
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
    /// From the arrival of a request to its reply, however much else is answered meanwhile; default 30 s, minimum 10 ms. Scripts,
    /// and what is sent over a connection of the client's own, are excepted.
    pub request: Duration,
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
            request: Duration::from_secs(30),
            reconnect_min: Duration::from_millis(20),
            reconnect_max: Duration::from_secs(2),
        }
    }
}

impl Upstream {
    pub(super) fn read(reader: &mut Reader) -> Self {
        let url_origin = reader.origin("upstream.url");
        let url = reader.text("upstream.url");
        let own = credentials::read(reader, "upstream.password", "upstream.password_file");
        let data_dir_is_set = reader.origin("upstream.data_dir").is_some();
        let data_dir = reader.text("upstream.data_dir");
        let sentinel_user = reader.text("upstream.sentinel_user").filter(|user| !user.is_empty());
        let sentinel_password =
            credentials::read(reader, "upstream.sentinel_password", "upstream.sentinel_password_file");

        let parsed = url.map(|url| UpstreamUrl::parse(&url));
        let is_tls = matches!(&parsed, Some(Ok(url)) if url.is_tls);
        let tls = TlsOptions::read(reader, is_tls);
        let is_sentinel = matches!(&parsed, Some(Ok(url)) if matches!(url.seat, Seat::Sentinels(..)));
        if !is_sentinel && !matches!(parsed, Some(Err(_))) {
            for key in SENTINEL_OPTIONS {
                if reader.origin(key).is_some() {
                    reader.problem(
                        key,
                        "has no effect: upstream.url is not redis+sentinel://host:port/name",
                    );
                }
            }
        }
        let Some(parsed) = parsed else {
            if let Some((key, _)) = own.set_by {
                reader.problem(
                    key,
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
        let parsed = match parsed {
            Ok(parsed) => parsed,
            Err(why) => {
                reader.problem("upstream.url", why);
                return Self::default();
            }
        };
        // A password of its own gives way to the one in the URL unless it was set in a stronger source.
        let own_rank = own.set_by.as_ref().map(|(_, origin)| origin.rank());
        let url_rank = url_origin.map(|origin| origin.rank());
        let own_is_stronger = own_rank > url_rank;
        // A file is written to be read; that it is not would show only when the password in it changes.
        if let Some((key @ "upstream.password_file", _)) = own.set_by
            && parsed.password.is_some()
            && own_rank == url_rank
        {
            reader.problem(key, "has no effect: upstream.url carries a password");
        }
        let password = match parsed.password {
            Some(of_url) if !own_is_stronger => Password::fixed(of_url),
            _ => own.password,
        };
        if parsed.user.is_some() && password.value.is_none() {
            reader.problem(
                "upstream.url",
                "names a user without a password: write redis://user:password@host (a password alone is redis://:password@host), \
                 or set upstream.password",
            );
        }
        if sentinel_user.is_some() && sentinel_password.password.value.is_none() {
            reader.problem(
                "upstream.sentinel_user",
                "needs upstream.sentinel_password or upstream.sentinel_password_file",
            );
        }
        Self::Url {
            place: match parsed.seat {
                Seat::Node(node) => Place::Node(node),
                Seat::Sentinels(nodes, name) => Place::Sentinel(Sentinels {
                    nodes,
                    name,
                    user: sentinel_user,
                    password: sentinel_password.password,
                }),
                Seat::Cluster(nodes) => Place::Cluster(nodes),
            },
            tls,
            user: parsed.user,
            password,
            db: parsed.db,
        }
    }

    /// Whether something of it comes from files, which may be read again.
    #[must_use]
    pub fn has_files(&self) -> bool {
        match self {
            Self::Embedded { .. } => false,
            Self::Url {
                place, tls, password, ..
            } => {
                let of_sentinels = matches!(place, Place::Sentinel(sentinels) if sentinels.password.file.is_some());
                password.file.is_some() || tls.is_some() || of_sentinels
            }
        }
    }

    pub(super) fn settings(&self) -> Vec<Printed> {
        match self {
            Self::Embedded { data_dir } => vec![("data_dir", data_dir.display().to_string().into())],
            Self::Url {
                place, tls, password, ..
            } => {
                let mut settings = vec![("url", self.to_string().into())];
                settings.extend(password.file_setting("password_file"));
                if let Place::Sentinel(Sentinels { user, password, .. }) = place {
                    settings.extend(user.as_ref().map(|user| ("sentinel_user", user.clone().into())));
                    settings.extend(password.setting("sentinel_password", "sentinel_password_file"));
                }
                settings.extend(tls.iter().flat_map(TlsOptions::settings));
                settings
            }
        }
    }
}

/// The upstream as a URL without its secrets, for the log and for `--print-config`.
impl fmt::Display for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Embedded { data_dir } => write!(f, "private server in {}", data_dir.display()),
            Self::Url {
                place,
                tls,
                user,
                password,
                db,
            } => super::url::write_url(
                f,
                &UpstreamUrl {
                    seat: match place {
                        Place::Node(node) => Seat::Node(node.clone()),
                        Place::Sentinel(sentinels) => Seat::Sentinels(sentinels.nodes.clone(), sentinels.name.clone()),
                        Place::Cluster(nodes) => Seat::Cluster(nodes.clone()),
                    },
                    is_tls: tls.is_some(),
                    user: user.clone(),
                    // One that comes from a file is told by the file.
                    password: password.value.clone().filter(|_| password.file.is_none()),
                    db: *db,
                },
            ),
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
            request: reader.length("upstream.request_timeout", default.request, ms(10)),
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
            ("request_timeout", print_length(self.request)),
            ("reconnect_min", print_length(self.reconnect_min)),
            ("reconnect_max", print_length(self.reconnect_max)),
        ]
    }
}

const SENTINEL_OPTIONS: [&str; 3] = [
    "upstream.sentinel_user",
    "upstream.sentinel_password",
    "upstream.sentinel_password_file",
];
