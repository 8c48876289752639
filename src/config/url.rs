//! The URL of an upstream, in the forms the Redis clients agree on.
//!
//! `redis://[[user]:password@]host[:port][/db]` (the IANA registration of the scheme), `rediss://` for the same over TLS,
//! `redis+sentinel://[[user]:password@]host[:port][,host[:port]…]/name[/db]` where sentinels know the primary,
//! `redis+cluster://[[user]:password@]host[:port][,host[:port]…]` for a cluster that some of its nodes know, and
//! `unix:///path[?db=…&user=…&password=…]`. What other clients read in two ways is refused rather than
//! guessed. Pure functions; errors are words for the person who wrote the URL and never repeat a password.

use super::{Endpoint, Secret};
use std::fmt;
use std::path::PathBuf;

/// The parts of an upstream URL.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct UpstreamUrl {
    pub seat: Seat,
    pub is_tls: bool,
    /// May stand without a password, which then comes from elsewhere.
    pub user: Option<String>,
    pub password: Option<Secret>,
    pub db: u32,
}

/// What the host part of the URL names.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Seat {
    Node(Endpoint),
    /// Sentinels, and the name under which they know the primary.
    Sentinels(Vec<Endpoint>, String),
    /// Some nodes of a cluster.
    Cluster(Vec<Endpoint>),
}

impl UpstreamUrl {
    /// Takes a URL apart.
    pub fn parse(url: &str) -> Result<Self, String> {
        let Some((scheme, rest)) = url.split_once(':') else {
            return Err(NOT_A_URL.to_owned());
        };
        match scheme.to_ascii_lowercase().as_str() {
            scheme @ ("redis" | "rediss" | "redis+sentinel" | "rediss+sentinel" | "sentinel" | "redis+cluster"
            | "rediss+cluster" | "cluster") => {
                let kind = match scheme.rsplit('+').next() {
                    Some("sentinel") => Kind::Sentinels,
                    Some("cluster") => Kind::Cluster,
                    _ => Kind::Node,
                };
                let mut parsed = Self::parse_tcp(rest.strip_prefix("//").ok_or(NOT_A_URL)?, kind)?;
                parsed.is_tls = scheme.starts_with("rediss");
                Ok(parsed)
            }
            "unix" | "redis+unix" => Self::parse_unix(rest.strip_prefix("//").unwrap_or(rest)),
            _ => Err(NOT_A_URL.to_owned()),
        }
    }

    fn parse_tcp(rest: &str, kind: Kind) -> Result<Self, String> {
        let (rest, query) = split_query(rest);
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let (user_info, host_port) = match authority.rsplit_once('@') {
            Some((user_info, host_port)) => (Some(user_info), host_port),
            None => (None, authority),
        };
        let (user, password) = user_info.map_or(Ok((None, None)), parse_user_info)?;
        let (seat, path) = match kind {
            Kind::Node => (Seat::Node(endpoint(host_port, DEFAULT_PORT)?), path),
            Kind::Cluster => (Seat::Cluster(several(host_port, DEFAULT_PORT, "node")?), path),
            Kind::Sentinels => {
                let (name, path) = path.split_once('/').unwrap_or((path, ""));
                if name.is_empty() {
                    return Err(NO_NAME.to_owned());
                }
                let name = String::from_utf8(percent_decode(name)?).map_err(|_| "the name is not UTF-8".to_owned())?;
                (
                    Seat::Sentinels(several(host_port, SENTINEL_PORT, "sentinel")?, name),
                    path,
                )
            }
        };
        let mut parsed = Self {
            seat,
            is_tls: false,
            user,
            password,
            db: 0,
        };
        let path = path.trim_end_matches('/');
        if !path.is_empty() {
            parsed.db = parse_db(path)?;
        }
        parsed.apply_query(query)?;
        if matches!(parsed.seat, Seat::Cluster(_)) && parsed.db != 0 {
            return Err(ONE_DATABASE.to_owned());
        }
        Ok(parsed)
    }

    fn parse_unix(rest: &str) -> Result<Self, String> {
        let (path, query) = split_query(rest);
        let path = String::from_utf8(percent_decode(path)?).map_err(|_| "the path is not UTF-8".to_owned())?;
        if !path.starts_with('/') {
            return Err("a Unix socket needs an absolute path: unix:///path/to/redis.sock".to_owned());
        }
        let mut parsed = Self {
            seat: Seat::Node(Endpoint::Unix(PathBuf::from(path))),
            is_tls: false,
            user: None,
            password: None,
            db: 0,
        };
        parsed.apply_query(query)?;
        Ok(parsed)
    }

    fn apply_query(&mut self, query: Option<&str>) -> Result<(), String> {
        let is_unix = matches!(self.seat, Seat::Node(Endpoint::Unix(_)));
        for pair in query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            match name {
                "db" => self.db = parse_db(value)?,
                "user" | "username" if is_unix => self.user = Some(decode_text(value)?).filter(|user| !user.is_empty()),
                "pass" | "password" if is_unix => self.password = Some(Secret::new(percent_decode(value)?)),
                _ => return Err(UNKNOWN_PARAMETER.to_owned()),
            }
        }
        Ok(())
    }
}

/// Which servers the host part names.
#[derive(Clone, Copy)]
enum Kind {
    Node,
    Sentinels,
    Cluster,
}

/// The servers of a list with commas.
fn several(list: &str, default_port: u16, what: &str) -> Result<Vec<Endpoint>, String> {
    let mut found: Vec<Endpoint> = Vec::new();
    for one in list.split(',') {
        let one = endpoint(one, default_port)?;
        if found.contains(&one) {
            return Err(format!("names the {what} {one} twice"));
        }
        found.push(one);
    }
    Ok(found)
}

fn endpoint(text: &str, default_port: u16) -> Result<Endpoint, String> {
    let (host, port) = split_host_port(text, default_port)?;
    Ok(Endpoint::Tcp { host, port })
}

/// Reads `host:port`, `[v6]:port`, `host` or `[v6]`.
pub(super) fn split_host_port(text: &str, default_port: u16) -> Result<(String, u16), String> {
    let (host, port) = if let Some(rest) = text.strip_prefix('[') {
        let (host, after) = rest.split_once(']').ok_or("an IPv6 address is written [::1]:port")?;
        match after.strip_prefix(':') {
            Some(port) => (host, Some(port)),
            None if after.is_empty() => (host, None),
            None => return Err("an IPv6 address is written [::1]:port".to_owned()),
        }
    } else {
        match text.split_once(':') {
            Some((_, port)) if port.contains(':') => {
                return Err("an IPv6 address is written in brackets: [::1]:port".to_owned());
            }
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        }
    };
    if host.is_empty() || host.contains(|c: char| c.is_whitespace() || c.is_control()) {
        return Err("the host is missing".to_owned());
    }
    let port = match port {
        None | Some("") => default_port,
        Some(port) => port
            .parse()
            .ok()
            .filter(|&port| port != 0)
            .ok_or_else(|| "the port must be a number from 1 to 65535".to_owned())?,
    };
    Ok((host.to_owned(), port))
}

/// Writes the URL that [`UpstreamUrl::parse`] reads, the password masked.
pub(super) fn write_url(f: &mut fmt::Formatter<'_>, url: &UpstreamUrl) -> fmt::Result {
    let UpstreamUrl {
        seat,
        is_tls,
        user,
        password,
        db,
    } = url;
    let user_info = |f: &mut fmt::Formatter<'_>| match (user, password) {
        (user, Some(password)) => write!(f, "{}:{password}@", percent_encode(user.as_deref().unwrap_or_default())),
        (Some(user), None) => write!(f, "{}@", percent_encode(user)),
        (None, None) => Ok(()),
    };
    let s = if *is_tls { "s" } else { "" };
    match seat {
        Seat::Node(Endpoint::Unix(path)) => {
            write!(
                f,
                "unix://{}",
                percent_encode(&path.to_string_lossy()).replace("%2F", "/")
            )?;
            let mut parameters = Vec::new();
            if *db != 0 {
                parameters.push(format!("db={db}"));
            }
            parameters.extend(user.iter().map(|user| format!("user={}", percent_encode(user))));
            parameters.extend(password.iter().map(|password| format!("password={password}")));
            for (index, parameter) in parameters.iter().enumerate() {
                write!(f, "{}{parameter}", if index == 0 { '?' } else { '&' })?;
            }
            return Ok(());
        }
        Seat::Node(node) => {
            write!(f, "redis{s}://")?;
            user_info(f)?;
            write!(f, "{node}")?;
        }
        Seat::Sentinels(nodes, name) => {
            write!(f, "redis{s}+sentinel://")?;
            user_info(f)?;
            write!(f, "{}/{}", list(nodes), percent_encode(name))?;
        }
        Seat::Cluster(nodes) => {
            write!(f, "redis{s}+cluster://")?;
            user_info(f)?;
            f.write_str(&list(nodes))?;
        }
    }
    if *db != 0 {
        write!(f, "/{db}")?;
    }
    Ok(())
}

/// As [`several`] reads it.
fn list(nodes: &[Endpoint]) -> String {
    let nodes: Vec<String> = nodes.iter().map(ToString::to_string).collect();
    nodes.join(",")
}

/// The words for a part that the grammar knows and the product does not have.
pub(super) fn absent(part: &str, instead: &str) -> String {
    format!("{part}: this part of nearcache does not exist yet; {instead}")
}

fn split_query(text: &str) -> (&str, Option<&str>) {
    match text.split_once('?') {
        Some((before, query)) => (before, Some(query)),
        None => (text, None),
    }
}

fn parse_user_info(user_info: &str) -> Result<(Option<String>, Option<Secret>), String> {
    let (user, password) = user_info.split_once(':').unwrap_or((user_info, ""));
    let user = decode_text(user)?;
    let password = percent_decode(password)?;
    if user.is_empty() && password.is_empty() {
        return Err(EMPTY_USER_INFO.to_owned());
    }
    Ok((
        (!user.is_empty()).then_some(user),
        (!password.is_empty()).then(|| Secret::new(password)),
    ))
}

fn parse_db(text: &str) -> Result<u32, String> {
    text.parse::<u32>()
        .ok()
        .filter(|&db| i32::try_from(db).is_ok())
        .ok_or_else(|| NOT_A_DATABASE.to_owned())
}

fn decode_text(text: &str) -> Result<String, String> {
    String::from_utf8(percent_decode(text)?).map_err(|_| "the user is not UTF-8".to_owned())
}

/// RFC 3986, section 2.1.
fn percent_decode(text: &str) -> Result<Vec<u8>, String> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            out.push(byte);
            continue;
        }
        let mut digit = || bytes.next().and_then(|byte| char::from(byte).to_digit(16));
        let (Some(high), Some(low)) = (digit(), digit()) else {
            return Err("a % must be followed by two hexadecimal digits (write %25 for a % itself)".to_owned());
        };
        out.push(u8::try_from(high * 16 + low).unwrap_or_default());
    }
    Ok(out)
}

/// The part of a TCP URL before the `@`, as written.
pub(super) fn raw_user_info(url: &str) -> Option<&str> {
    let (rest, _) = split_query(url.split_once("://")?.1);
    let authority = rest.split_once('/').map_or(rest, |(authority, _)| authority);
    authority.rsplit_once('@').map(|(user_info, _)| user_info)
}

/// Encodes all but the unreserved characters of RFC 3986.
pub(super) fn percent_encode(text: &str) -> String {
    text.bytes().fold(String::with_capacity(text.len()), |mut out, byte| {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
        out
    })
}

pub(super) const DEFAULT_PORT: u16 = 6379;
const SENTINEL_PORT: u16 = 26379;
const NOT_A_URL: &str = "is not an upstream URL (redis://[[user]:password@]host[:port][/db], rediss:// for TLS, \
                         redis+sentinel://host[:port],host[:port]/name[/db], redis+cluster://host[:port],host[:port] or unix:///path)";
const ONE_DATABASE: &str = "names a database: a cluster has only database 0";
const NO_NAME: &str =
    "does not say under which name the sentinels know the primary: redis+sentinel://host:port,host:port/name";
/// These do not quote what they found: it may be a part of a password that should have been encoded.
const UNKNOWN_PARAMETER: &str =
    "has an unknown parameter after the ? (known: db; for a Unix socket also user, password; a ? in a password is %3F)";
const NOT_A_DATABASE: &str = "does not name the database by a whole number (a / in a password is written %2F)";
const EMPTY_USER_INFO: &str = "has nothing before the @: write redis://user:password@host or redis://:password@host";
