//! TLS to the upstream: who is trusted, what the proxy shows of itself, and in words for people what went wrong.
//!
//! Files are read when a [`Tls`] is made, at the start and at each reload; a connection that is up is not touched by either.

use std::fmt;
use std::io;
use std::path::Path;
use std::sync::Arc;

use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::{AlertDescription, CertificateError, ClientConfig, Error, RootCertStore};

use crate::config::TlsOptions;
use crate::net::Stream;

/// Makes TLS connections.
#[derive(Clone)]
pub struct Tls {
    connector: TlsConnector,
    /// Instead of the host's own name.
    server_name: Option<ServerName<'static>>,
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").field("server_name", &self.server_name).finish()
    }
}

impl Tls {
    /// Reads the files that are named.
    ///
    /// # Errors
    /// The option and what is wrong with it.
    pub fn new(options: &TlsOptions) -> Result<Tls, String> {
        let mut roots = RootCertStore::empty();
        match &options.ca {
            Some(path) => {
                for certificate in certificates("upstream.tls_ca", path)? {
                    let added = roots.add(certificate);
                    added.map_err(|e| format!("upstream.tls_ca: {}: {e}", path.display()))?;
                }
            }
            None => {
                let found = rustls_native_certs::load_native_certs();
                roots.add_parsable_certificates(found.certs);
                if roots.is_empty() {
                    return Err(
                        "upstream.tls_ca: this machine has no root certificates; name the file of the CA that signed \
                         the server's certificate"
                            .to_owned(),
                    );
                }
            }
        }
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|e| e.to_string())?
            .with_root_certificates(roots);
        let config = match &options.identity {
            None => builder.with_no_client_auth(),
            Some((cert, key)) => {
                let chain = certificates("upstream.tls_cert", cert)?;
                let private = PrivateKeyDer::from_pem_file(key).map_err(|e| {
                    format!(
                        "upstream.tls_key: {} has no private key in PEM form: {e}",
                        key.display()
                    )
                })?;
                builder
                    .with_client_auth_cert(chain, private)
                    .map_err(|e| format!("upstream.tls_cert and upstream.tls_key do not go together: {e}"))?
            }
        };
        let server_name = options
            .server_name
            .clone()
            .map(|name| {
                ServerName::try_from(name)
                    .map_err(|_| "upstream.tls_server_name: is no host name or address".to_owned())
            })
            .transpose()?;
        Ok(Tls {
            connector: TlsConnector::from(Arc::new(config)),
            server_name,
        })
    }

    /// The handshake, over a connection to this host, until this time at most.
    ///
    /// # Errors
    /// What went wrong and what to do about it.
    pub async fn connect(&self, stream: TcpStream, host: &str) -> Result<Stream, String> {
        let name = match &self.server_name {
            Some(name) => name.clone(),
            None => ServerName::try_from(host.to_owned()).map_err(|_| {
                format!("\"{host}\" is no name that a certificate could have: set upstream.tls_server_name")
            })?,
        };
        let shown = name.to_str().into_owned();
        match self.connector.connect(name, stream).await {
            Ok(stream) => Ok(stream.into()),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Err(format!(
                "the server closed the connection during the handshake; {NO_TLS}"
            )),
            Err(error) => Err(explain(&error, Some(&shown)).unwrap_or_else(|| error.to_string())),
        }
    }
}

fn certificates(option: &str, path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    match read {
        Ok(found) if !found.is_empty() => Ok(found),
        Ok(_) => Err(format!("{option}: {} has no certificate in PEM form", path.display())),
        Err(e) => Err(format!("{option}: {} cannot be read: {e}", path.display())),
    }
}

/// What may be wrong when nothing that could be TLS comes back.
pub(super) const NO_TLS: &str = "is TLS spoken at this port? If not, use redis:// instead of rediss://";

/// What a failure of TLS means and what to do about it; `None` when it is none. `name`: what the certificate should be for.
pub fn explain(error: &io::Error, name: Option<&str>) -> Option<String> {
    let error = error.get_ref()?.downcast_ref::<Error>()?;
    let name = name.unwrap_or("it");
    Some(match error {
        Error::InvalidCertificate(CertificateError::Expired | CertificateError::ExpiredContext { .. }) => {
            format!("the server's certificate has expired: renew it there, or set this machine's clock ({error})")
        }
        Error::InvalidCertificate(CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. }) => {
            format!("the server's certificate is not valid yet: is this machine's clock right? ({error})")
        }
        // A bad signature: somebody else of the same name has signed it.
        Error::InvalidCertificate(CertificateError::UnknownIssuer | CertificateError::BadSignature) => {
            "the server's certificate is signed by nobody who is trusted here: name the CA's file in upstream.tls_ca"
                .to_owned()
        }
        Error::InvalidCertificate(
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
        ) => {
            format!(
                "the server's certificate is not for \"{name}\": set upstream.tls_server_name to a name that is in it ({error})"
            )
        }
        Error::AlertReceived(AlertDescription::CertificateRequired) => {
            "the server wants a certificate of the proxy: set upstream.tls_cert and upstream.tls_key".to_owned()
        }
        Error::AlertReceived(
            alert @ (AlertDescription::UnknownCA
            | AlertDescription::BadCertificate
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateUnknown
            | AlertDescription::CertificateRevoked
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::DecryptError
            | AlertDescription::AccessDenied),
        ) => format!(
            "the server does not accept the proxy's certificate (upstream.tls_cert, upstream.tls_key): {alert:?}"
        ),
        Error::AlertReceived(AlertDescription::HandshakeFailure | AlertDescription::ProtocolVersion) => {
            format!(
                "the server and the proxy have no version or cipher of TLS in common, or it wants a certificate (upstream.tls_cert): {error}"
            )
        }
        Error::InvalidMessage(_) => format!("what the server sent is no TLS; {NO_TLS}"),
        error => error.to_string(),
    })
}
