//! Reaching the upstream: connect, and the handshake that makes a connection one of ours. Async, on the runtime of
//! whoever asks; every step within a timeout.

use std::fmt;
use std::io;
use std::time::Duration;

use bytes::{Buf, BytesMut};
use tokio::net::{TcpStream, UnixStream};

use crate::config::{Endpoint, Secret};
use crate::net::Stream;
use crate::resp::reply::{self, frame_len};
use crate::resp::{Version, encode};

/// Where the upstream is and as whom the proxy speaks to it.
#[derive(Clone, Debug)]
pub struct Target {
    pub endpoint: Endpoint,
    pub user: Option<String>,
    pub password: Option<Secret>,
    pub connect_timeout: Duration,
}

/// Why a connection could not be had. The text goes to clients, after "nearcache: upstream … is unavailable: ".
#[derive(Clone, Debug)]
pub enum DialError {
    Timeout(Duration),
    Io(String),
    /// The server's own error text (without the dash) for the handshake request that is named.
    Refused {
        request: &'static str,
        error: String,
    },
    Protocol(String),
}

impl fmt::Display for DialError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DialError::Timeout(after) => write!(f, "no answer within {} ms", after.as_millis()),
            DialError::Io(e) => f.write_str(e),
            DialError::Refused { request, error } => write!(f, "{request} was refused: {error}"),
            DialError::Protocol(what) => write!(f, "not a Redis server? {what}"),
        }
    }
}

impl DialError {
    /// The server's own words for a state in which it serves nobody, which clients know how to take.
    pub fn server_state(&self) -> Option<&str> {
        match self {
            DialError::Refused { error, .. } if is_server_state(error) => Some(error),
            _ => None,
        }
    }
}

fn is_server_state(error: &str) -> bool {
    ["BUSY ", "LOADING ", "MASTERDOWN "]
        .iter()
        .any(|code| error.starts_with(code))
}

impl From<io::Error> for DialError {
    fn from(e: io::Error) -> Self {
        DialError::Io(e.to_string())
    }
}

/// What a new connection should be.
#[derive(Clone, Copy, Debug)]
pub struct Greeting {
    pub version: Version,
    pub db: u32,
    pub tracking: Tracking,
    /// For the answers of the handshake: a server that is paused or busy accepts at once and answers late.
    pub answer_within: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tracking {
    Off,
    /// `CLIENT TRACKING ON`; a refusal is no failure, it is reported.
    Wanted,
}

/// What the handshake found out.
#[derive(Clone, Debug)]
pub struct Greeted {
    pub tracking: TrackingState,
    /// The connection's id at the server, if the server tells (for `CLIENT UNBLOCK`).
    pub id: Option<i64>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TrackingState {
    Off,
    On,
    Refused(String),
}

impl Target {
    async fn connect_socket(&self) -> io::Result<Stream> {
        match &self.endpoint {
            Endpoint::Tcp { host, port } => {
                let stream = TcpStream::connect((host.as_str(), *port)).await?;
                stream.set_nodelay(true)?;
                let keepalive = socket2::TcpKeepalive::new().with_time(Duration::from_secs(60));
                socket2::SockRef::from(&stream).set_tcp_keepalive(&keepalive)?;
                Ok(Stream::Tcp(stream))
            }
            Endpoint::Unix(path) => Ok(Stream::Unix(UnixStream::connect(path).await?)),
        }
    }

    /// Connects and greets. Nothing is left in the stream: the next reply belongs to the next request.
    pub async fn open(&self, greeting: Greeting) -> Result<(Stream, Greeted), DialError> {
        use tokio::time::timeout;
        let mut stream = timeout(self.connect_timeout, self.connect_socket())
            .await
            .map_err(|_| DialError::Timeout(self.connect_timeout))??;
        let greeted = timeout(greeting.answer_within, self.greet(&mut stream, greeting))
            .await
            .map_err(|_| DialError::Timeout(greeting.answer_within))??;
        Ok((stream, greeted))
    }

    async fn greet(&self, stream: &mut Stream, greeting: Greeting) -> Result<Greeted, DialError> {
        let mut out = Vec::with_capacity(128);
        let mut sent: Vec<&'static str> = Vec::with_capacity(4);
        let credentials = self
            .password
            .as_ref()
            .map(|p| (self.user.as_deref().unwrap_or("default").as_bytes(), p.expose()));
        if greeting.version == Version::Resp3 {
            match credentials {
                Some((user, password)) => {
                    encode::command(&mut out, [&b"HELLO"[..], b"3", b"AUTH", user, password].into_iter());
                }
                None => encode::command(&mut out, [&b"HELLO"[..], b"3"].into_iter()),
            }
            sent.push("HELLO 3");
        } else if let Some((user, password)) = credentials {
            if user == b"default" {
                encode::command(&mut out, [&b"AUTH"[..], password].into_iter());
            } else {
                encode::command(&mut out, [&b"AUTH"[..], user, password].into_iter());
            }
            sent.push("AUTH");
        }
        if greeting.db != 0 {
            let db = greeting.db.to_string();
            encode::command(&mut out, [&b"SELECT"[..], db.as_bytes()].into_iter());
            sent.push("SELECT");
        }
        if greeting.tracking == Tracking::Wanted {
            encode::command(&mut out, [&b"CLIENT"[..], b"TRACKING", b"ON"].into_iter());
            sent.push("CLIENT TRACKING ON");
        }
        // Asked last and of every connection: its answer also shows that the server is alive.
        encode::command(&mut out, [&b"CLIENT"[..], b"ID"].into_iter());
        sent.push("CLIENT ID");
        let mut greeted = Greeted {
            tracking: TrackingState::Off,
            id: None,
        };
        stream.write_all(&out).await?;
        let mut input = BytesMut::new();
        for request in sent {
            let frame_bytes = loop {
                match frame_len(&input) {
                    // A push may come between the replies once tracking is on.
                    Ok(Some(n)) if input.first() == Some(&b'>') => input.advance(n),
                    Ok(Some(n)) => break n,
                    Ok(None) => {
                        if stream.read_append(&mut input).await? == 0 {
                            return Err(DialError::Io(
                                "the server closed the connection during the handshake".into(),
                            ));
                        }
                    }
                    Err(e) => return Err(DialError::Protocol(e.to_string())),
                }
            };
            let frame = &input[..frame_bytes];
            if reply::is_error(frame) {
                let error = String::from_utf8_lossy(frame.get(1..).unwrap_or_default())
                    .trim()
                    .to_owned();
                match request {
                    // Not for good.
                    "CLIENT TRACKING ON" if is_server_state(&error) => {
                        return Err(DialError::Refused { request, error });
                    }
                    "CLIENT TRACKING ON" => greeted.tracking = TrackingState::Refused(error),
                    "CLIENT ID" if !error.starts_with("NOAUTH") => {}
                    _ => return Err(DialError::Refused { request, error }),
                }
            } else if request == "CLIENT TRACKING ON" {
                greeted.tracking = TrackingState::On;
            } else if request == "CLIENT ID" {
                greeted.id = reply::integer(frame);
            }
            input.advance(frame_bytes);
        }
        Ok(greeted)
    }
}
