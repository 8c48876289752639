//! How TLS to the upstream is made: names of files and hosts, checked for being there. What is in the files is looked at
//! where they are used.

use std::fs::File;
use std::path::PathBuf;

use super::Printed;
use super::reader::Reader;

/// Options of TLS connections to the upstream.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TlsOptions {
    /// Certificates (PEM) of those who may have signed the server's; `None` = the roots of this machine.
    pub ca: Option<PathBuf>,
    /// The proxy's own certificate with its chain, and its private key (PEM).
    pub identity: Option<(PathBuf, PathBuf)>,
    /// What the server's certificate must be for, also sent as SNI; `None` = the host of the URL.
    pub server_name: Option<String>,
}

impl TlsOptions {
    /// `None` where TLS is not asked for.
    pub(super) fn read(reader: &mut Reader, is_tls: bool) -> Option<Self> {
        let mut file = |key: &'static str| {
            let path = PathBuf::from(reader.text(key)?);
            if let Err(e) = File::open(&path) {
                reader.problem(key, format!("{} cannot be read: {e}", path.display()));
            }
            Some(path)
        };
        let (ca, cert, key) = (
            file("upstream.tls_ca"),
            file("upstream.tls_cert"),
            file("upstream.tls_key"),
        );
        let server_name = reader.text("upstream.tls_server_name");
        if !is_tls {
            for option in OPTIONS {
                if reader.origin(option).is_some() {
                    reader.problem(option, "has no effect: upstream.url does not begin with rediss");
                }
            }
            return None;
        }
        let identity = match (cert, key) {
            (Some(cert), Some(key)) => Some((cert, key)),
            (Some(_), None) => {
                reader.problem("upstream.tls_cert", "needs upstream.tls_key");
                None
            }
            (None, Some(_)) => {
                reader.problem("upstream.tls_key", "needs upstream.tls_cert");
                None
            }
            (None, None) => None,
        };
        Some(Self {
            ca,
            identity,
            server_name,
        })
    }

    pub(super) fn settings(&self) -> Vec<Printed> {
        let path = |path: &PathBuf| toml::Value::from(path.display().to_string());
        let mut settings = Vec::new();
        settings.extend(self.ca.as_ref().map(|ca| ("tls_ca", path(ca))));
        if let Some((cert, key)) = &self.identity {
            settings.extend([("tls_cert", path(cert)), ("tls_key", path(key))]);
        }
        settings.extend(
            self.server_name
                .as_ref()
                .map(|name| ("tls_server_name", name.clone().into())),
        );
        settings
    }
}

const OPTIONS: [&str; 4] = [
    "upstream.tls_ca",
    "upstream.tls_cert",
    "upstream.tls_key",
    "upstream.tls_server_name",
];
