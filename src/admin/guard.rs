//! Who may ask: on a loopback address only those who call it by a name of this machine. A web page that has its own name
//! resolve to 127.0.0.1 (DNS rebinding) would otherwise read everything from the browser of whoever visits it; the
//! browser sends that name as `Host`.
//!
//! Runs before every handler, also those of errors, and ends every connection behind its reply.

use std::net::{IpAddr, SocketAddr};

use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::http::uri::Authority;
use axum::http::{HeaderValue, StatusCode, Version, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

/// Nothing here takes a body; a small one is read all the same, so that its sender gets to read the reply.
const MOST_BODY_BYTES: usize = 32 << 10;

/// The address that the admin API is bound to.
#[derive(Clone, Copy, Debug)]
pub struct Guard(IpAddr);

impl Guard {
    pub fn new(bound: SocketAddr) -> Guard {
        Guard(bound.ip().to_canonical())
    }

    /// Whether a `Host` (`name`, `name:port`, `[v6]:port`) may be asked for. The port is not looked at: it may have been
    /// forwarded from another one.
    fn admits(self, host: &str) -> bool {
        if !self.0.is_loopback() {
            return true;
        }
        // A user in front of the name has no place in Host.
        let Some(authority) = host.parse::<Authority>().ok().filter(|_| !host.contains('@')) else {
            return false;
        };
        let name = authority.host();
        let bare = name
            .strip_prefix('[')
            .and_then(|name| name.strip_suffix(']'))
            .unwrap_or(name);
        match bare.parse::<IpAddr>() {
            Ok(ip) => ip.to_canonical().is_loopback(),
            // RFC 6761: localhost and everything below it is this machine, wherever it is looked up.
            Err(_) => {
                let name = bare.strip_suffix('.').unwrap_or(bare).to_ascii_lowercase();
                name == "localhost" || name.ends_with(".localhost")
            }
        }
    }

    fn judge(self, request: &Request) -> Result<(), (StatusCode, &'static str)> {
        let mut hosts = request.headers().get_all(header::HOST).iter();
        let in_uri = request.uri().authority().map(Authority::as_str);
        let is_admitted = match (hosts.next(), hosts.next()) {
            // No browser speaks HTTP/1.0; simple probes do, and need not send a Host.
            (None, _) if request.version() < Version::HTTP_11 => true,
            (None, _) | (_, Some(_)) => return Err((StatusCode::BAD_REQUEST, "one Host header is needed\n")),
            (Some(host), None) => host.to_str().is_ok_and(|host| self.admits(host)),
        };
        match is_admitted && in_uri.is_none_or(|host| self.admits(host)) {
            true => Ok(()),
            false => Err((
                StatusCode::FORBIDDEN,
                "this Host is not served here: ask for localhost\n",
            )),
        }
    }
}

pub async fn check(State(guard): State<Guard>, request: Request, next: Next) -> Response {
    let judgement = guard.judge(&request);
    let (head, body) = request.into_parts();
    let mut response = match (to_bytes(body, MOST_BODY_BYTES).await, judgement) {
        (Err(_), _) => (StatusCode::PAYLOAD_TOO_LARGE, "no body is expected here\n").into_response(),
        (Ok(_), Err(refusal)) => refusal.into_response(),
        (Ok(_), Ok(())) => next.run(Request::from_parts(head, Body::empty())).await,
    };
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

#[cfg(test)]
mod tests;
