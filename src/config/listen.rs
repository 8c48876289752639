//! Where the proxy is reached: addresses for clients and for the admin API.
//!
//! Names are resolved here, once, at start: a name that does not resolve is a wrong configuration and is
//! refused with the others. Of a name's addresses the first IPv4 one is taken, else the first.

use super::OFF;
use super::reader::Reader;
use std::fmt;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;

/// An address on which clients are served.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ListenAddr {
    /// TCP; port 0 = one that is free.
    Tcp(SocketAddr),
    /// The path of a Unix socket.
    Unix(PathBuf),
}

impl ListenAddr {
    /// Reads `host:port`, `[::1]:port` or `unix:/path`.
    ///
    /// # Errors
    /// Says what is wrong in words fit for the person who wrote it.
    pub fn parse(text: &str) -> Result<Self, String> {
        match text.strip_prefix("unix:") {
            Some(path) => {
                let path = path.strip_prefix("//").unwrap_or(path);
                if path.is_empty() || path.ends_with('/') {
                    return Err(format!("\"{text}\" does not name a socket (unix:/path)"));
                }
                if path.len() > SUN_PATH_MAX_BYTES {
                    return Err(format!(
                        "\"{text}\" is too long for a socket (at most {SUN_PATH_MAX_BYTES} bytes)"
                    ));
                }
                Ok(Self::Unix(PathBuf::from(path)))
            }
            None => resolve(text).map(Self::Tcp),
        }
    }
}

/// The form that [`ListenAddr::parse`] reads.
impl fmt::Display for ListenAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

pub(super) fn read_list(reader: &mut Reader, default: Vec<ListenAddr>) -> Vec<ListenAddr> {
    let Some(texts) = reader.texts("listen") else {
        return default;
    };
    if texts.is_empty() {
        reader.problem("listen", "must name at least one address");
    }
    let mut list: Vec<ListenAddr> = Vec::with_capacity(texts.len());
    for text in texts {
        match ListenAddr::parse(&text) {
            Ok(ListenAddr::Tcp(address)) if address.port() == 0 => list.push(ListenAddr::Tcp(address)),
            Ok(address) if list.contains(&address) => reader.problem("listen", format!("names {address} twice")),
            Ok(address) => list.push(address),
            Err(why) => reader.problem("listen", why),
        }
    }
    list
}

pub(super) fn read_admin(reader: &mut Reader, default: Option<SocketAddr>) -> Option<SocketAddr> {
    let Some(text) = reader.text("admin") else {
        return default;
    };
    if text == OFF {
        return None;
    }
    match resolve(&text) {
        Ok(address) => Some(address),
        Err(why) => {
            reader.problem("admin", why);
            default
        }
    }
}

/// An address and port, or a name that has one; the port must be written, 0 is allowed.
fn resolve(text: &str) -> Result<SocketAddr, String> {
    if let Ok(address) = text.parse() {
        return Ok(address);
    }
    let form = || format!("\"{text}\" is not an address (host:port, [::1]:port or unix:/path)");
    let (host, port) = text.rsplit_once(':').ok_or_else(form)?;
    let port: u16 = port.parse().map_err(|_| form())?;
    // Brackets and colons belong to literal addresses, which would have been read above.
    if host.is_empty() || host.contains([':', '[', ']', ' ']) {
        return Err(form());
    }
    let addresses: Vec<SocketAddr> = (host, port)
        .to_socket_addrs()
        .map_err(|error| format!("\"{host}\" cannot be resolved: {error}"))?
        .collect();
    addresses
        .iter()
        .find(|address| address.is_ipv4())
        .or(addresses.first())
        .copied()
        .ok_or_else(|| format!("\"{host}\" has no address"))
}

/// `sizeof(sun_path)` on Linux is 108 with the closing zero (unix(7)).
const SUN_PATH_MAX_BYTES: usize = 107;
