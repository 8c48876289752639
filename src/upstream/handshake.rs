//! The handshake that makes a connection one of ours: protocol, credentials, database, tracking. All of it is sent at once.

use std::sync::Arc;
use std::time::Duration;

use super::dial::{Access, DialError, Role, is_server_state};
use super::frames::FrameReader;
use crate::command::own;
use crate::net::Stream;
use crate::resp::reply;
use crate::resp::{Version, encode};

/// What a new connection should be.
#[derive(Clone, Debug)]
pub struct Greeting {
    pub version: Version,
    pub db: u32,
    pub tracking: Tracking,
    /// To a node of a cluster that is to answer reads as a replica, too.
    pub is_readonly: bool,
    /// For the answers of the handshake: a server that is paused or busy accepts at once and answers late.
    pub answer_within: Duration,
}

/// A refusal is no failure, it is reported.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tracking {
    Off,
    /// Of the keys that are read: `CLIENT TRACKING ON`.
    Wanted,
    /// Of all keys that begin with one of these, or of all where there is none: `CLIENT TRACKING ON BCAST PREFIX …`.
    Broadcast(Arc<[String]>),
}

/// What the handshake found out.
#[derive(Clone, Debug)]
pub struct Greeted {
    pub tracking: TrackingState,
    /// The connection's id at the server, if the server tells (for `CLIENT UNBLOCK`).
    pub id: Option<i64>,
    /// Of the node that was reached.
    pub generation: u32,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TrackingState {
    Off,
    On,
    Refused(String),
}

/// Says what a new connection should be, and waits until the server has agreed.
pub(super) async fn greet(
    access: &Access,
    stream: &mut Stream,
    role: Role,
    greeting: &Greeting,
) -> Result<Greeted, DialError> {
    let mut out = Vec::with_capacity(128);
    let mut sent: Vec<&'static str> = Vec::with_capacity(4);
    let credentials = access
        .password
        .as_ref()
        .map(|p| (access.user.as_deref().unwrap_or("default").as_bytes(), p.expose()));
    if greeting.version == Version::Resp3 {
        match credentials {
            Some((user, password)) => {
                encode::command(&mut out, [own::HELLO, b"3", b"AUTH", user, password].into_iter());
            }
            None => encode::command(&mut out, [own::HELLO, b"3"].into_iter()),
        }
        sent.push("HELLO 3");
    } else if let Some((user, password)) = credentials {
        if user == b"default" {
            encode::command(&mut out, [own::AUTH, password].into_iter());
        } else {
            encode::command(&mut out, [own::AUTH, user, password].into_iter());
        }
        sent.push("AUTH");
    }
    if greeting.version == Version::Resp2 && role == Role::Primary {
        encode::command(&mut out, [own::HELLO, b"2"].into_iter());
        sent.push("HELLO 2");
    }
    if greeting.db != 0 {
        let db = greeting.db.to_string();
        encode::command(&mut out, [own::SELECT, db.as_bytes()].into_iter());
        sent.push("SELECT");
    }
    if greeting.is_readonly {
        encode::command(&mut out, [own::READONLY].into_iter());
        sent.push("READONLY");
    }
    let mut tracking = vec![own::CLIENT, b"TRACKING", b"ON"];
    if let Tracking::Broadcast(prefixes) = &greeting.tracking {
        tracking.push(b"BCAST");
        let prefixes = prefixes.iter().flat_map(|prefix| [&b"PREFIX"[..], prefix.as_bytes()]);
        tracking.extend(prefixes);
    }
    if greeting.tracking != Tracking::Off {
        encode::command(&mut out, tracking.into_iter());
        sent.push("CLIENT TRACKING ON");
    }
    // Asked last and of every connection: its answer also shows that the server is alive.
    encode::command(&mut out, [own::CLIENT, b"ID"].into_iter());
    sent.push("CLIENT ID");
    let mut greeted = Greeted {
        tracking: TrackingState::Off,
        id: None,
        generation: 0,
    };
    let mut frames = FrameReader::default();
    if let Err(error) = stream.write_all(&out).await {
        // A server that hangs up before it has read everything may have said why.
        if frames.read(stream).await? == 0 {
            return Err(error.into());
        }
    }
    for request in sent {
        let frame = loop {
            let frame = frames.next(stream).await?;
            // A push may come between the replies once tracking is on.
            if frame.first() != Some(&b'>') {
                break frame;
            }
        };
        let frame = &frame[..];
        if reply::is_error(frame) {
            let error = reply::error_text(frame);
            match request {
                // Not for good.
                "CLIENT TRACKING ON" if is_server_state(&error) => {
                    return Err(DialError::Refused { request, error });
                }
                "CLIENT TRACKING ON" => greeted.tracking = TrackingState::Refused(error),
                "CLIENT ID" if !error.starts_with("NOAUTH") => {}
                _ => return Err(DialError::Refused { request, error }),
            }
        } else if request.starts_with("HELLO") && role == Role::Primary {
            // What ROLE would say, of which many a user has no right to ask.
            let role = role_in_hello(frame);
            if role != "master" {
                return Err(DialError::NotPrimary(role));
            }
        } else if request == "CLIENT TRACKING ON" {
            greeted.tracking = TrackingState::On;
        } else if request == "CLIENT ID" {
            greeted.id = reply::integer(frame);
        }
    }
    Ok(greeted)
}

fn role_in_hello(frame: &[u8]) -> String {
    let mut fields = reply::elements(frame).into_iter().flatten();
    while let (Some(name), Some(value)) = (fields.next(), fields.next()) {
        if reply::text(name) == Some(b"role") {
            return String::from_utf8_lossy(reply::text(value).unwrap_or_default()).into_owned();
        }
    }
    "server without a role (a sentinel?)".to_owned()
}
