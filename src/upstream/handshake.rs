//! The handshake that makes a connection one of ours: protocol, credentials, database, tracking. All of it is sent at once.

use std::sync::Arc;
use std::time::Duration;

use super::dial::{Access, DialError, Role, is_server_state};
use super::frames::FrameReader;
use super::info::field;
use super::spoken::Carrier;
use crate::command::own;
use crate::net::Stream;
use crate::resp::reply;
use crate::resp::{Version, encode};

/// What a new connection should be.
#[derive(Clone, Debug)]
pub struct Greeting {
    pub protocol: Protocol,
    pub db: u32,
    pub tracking: Tracking,
    /// To a node of a cluster that is to answer reads as a replica, too.
    pub is_readonly: bool,
    /// For the answers of the handshake: a server that is paused or busy accepts at once and answers late.
    pub answer_within: Duration,
}

/// Of which version of the protocol it is to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    Only(Version),
    /// RESP3, and where the server has none, RESP2.
    Best,
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
#[derive(Debug)]
pub struct Greeted {
    pub version: Version,
    /// Why it is not RESP3, where that was tried.
    pub refusal: Option<String>,
    pub tracking: TrackingState,
    /// The connection's id at the server, if the server tells (for `CLIENT UNBLOCK`).
    pub id: Option<i64>,
    /// Of the node that was reached.
    pub generation: u32,
    /// Of one in RESP2 that may carry clients' requests.
    pub carrier: Option<Carrier>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TrackingState {
    Off,
    On,
    Refused(String),
    /// Pushes need RESP3, which was refused in this way.
    NoPushes(String),
}

/// Says what a new connection should be, and waits until the server has agreed.
pub(super) async fn greet(
    access: &Access,
    stream: &mut Stream,
    role: Role,
    greeting: &Greeting,
) -> Result<Greeted, DialError> {
    let mut frames = FrameReader::default();
    let version = match greeting.protocol {
        Protocol::Only(version) => version,
        Protocol::Best => Version::Resp3,
    };
    let refusal = match round(access, (stream, &mut frames), role, greeting, version).await {
        Err(DialError::Refused { request, error })
            if greeting.protocol == Protocol::Best && has_no_resp3(access, request, &error) =>
        {
            // The rest of it are the words of the request.
            let what = error.split(", with args").next().unwrap_or_default();
            format!("{request} was refused: {what}")
        }
        greeted => return greeted,
    };
    let mut greeted = round(access, (stream, &mut frames), role, greeting, Version::Resp2).await?;
    if greeting.tracking != Tracking::Off {
        greeted.tracking = TrackingState::NoPushes(refusal.clone());
    }
    greeted.refusal = Some(refusal);
    Ok(greeted)
}

/// All that is to be said in one version of the protocol, and the answers to it: to all of it, if that version is refused.
async fn round(
    access: &Access,
    (stream, frames): (&mut Stream, &mut FrameReader),
    role: Role,
    greeting: &Greeting,
    version: Version,
) -> Result<Greeted, DialError> {
    let mut out = Vec::with_capacity(128);
    let mut sent: Vec<&'static str> = Vec::with_capacity(4);
    let credentials = access
        .password
        .as_ref()
        .map(|p| (access.user.as_deref().unwrap_or("default").as_bytes(), p.expose()));
    if version == Version::Resp3 {
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
    if version == Version::Resp2 && role == Role::Primary {
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
        match version {
            Version::Resp3 => {
                encode::command(&mut out, tracking.into_iter());
                sent.push("CLIENT TRACKING ON");
            }
            // It may have been switched on behind the `HELLO 3` that was refused, for nobody.
            Version::Resp2 => {
                encode::command(&mut out, [own::CLIENT, b"TRACKING", b"OFF"].into_iter());
                sent.push("CLIENT TRACKING OFF");
            }
        }
    }
    // Asked last and of every connection: its answer also shows that the server is alive.
    encode::command(&mut out, [own::CLIENT, b"ID"].into_iter());
    sent.push("CLIENT ID");
    let mut greeted = Greeted {
        version,
        refusal: None,
        tracking: TrackingState::Off,
        id: None,
        generation: 0,
        carrier: None,
    };
    if let Err(error) = stream.write_all(&out).await {
        // A server that hangs up before it has read everything may have said why.
        if frames.read(stream).await? == 0 {
            return Err(error.into());
        }
    }
    let mut refused_version = None;
    let mut knows_role = role == Role::Any;
    for request in sent {
        let frame = loop {
            let frame = frames.next(stream).await?;
            // A push may come between the replies once tracking is on.
            if frame.first() != Some(&b'>') {
                break frame;
            }
        };
        let frame = &frame[..];
        if refused_version.is_some() {
            continue;
        }
        if reply::is_error(frame) {
            let error = reply::error_text(frame);
            match request {
                // Not for good.
                "CLIENT TRACKING ON" if is_server_state(&error) => {
                    return Err(DialError::Refused { request, error });
                }
                "CLIENT TRACKING ON" => greeted.tracking = TrackingState::Refused(error),
                "CLIENT TRACKING OFF" => {}
                "CLIENT ID" if !error.starts_with("NOAUTH") => {}
                "HELLO 3" if has_no_resp3(access, request, &error) => refused_version = Some(error),
                "HELLO 2" if is_not_known(request, &error) => {}
                _ => return Err(DialError::Refused { request, error }),
            }
        } else if request.starts_with("HELLO") && role == Role::Primary {
            // What ROLE would say, of which many a user has no right to ask.
            is_primary(role_in_hello(frame))?;
            knows_role = true;
        } else if request == "CLIENT TRACKING ON" {
            greeted.tracking = TrackingState::On;
        } else if request == "CLIENT ID" {
            greeted.id = reply::integer(frame);
        }
    }
    if let Some(error) = refused_version {
        return Err(DialError::Refused {
            request: "HELLO 3",
            error,
        });
    }
    if !knows_role {
        is_primary(role_otherwise(stream, frames).await?)?;
    }
    Ok(greeted)
}

/// Whether the server cannot be spoken to in RESP3.
fn has_no_resp3(access: &Access, request: &str, error: &str) -> bool {
    // Valkey tells nobody what it knows before he has authenticated; one that knows HELLO AUTH says that the password is wrong.
    let is_hidden = request == "HELLO 3" && access.password.is_some() && error.starts_with("NOAUTH");
    is_hidden || is_not_known(request, error)
}

/// Whether the server, or its rules for the user, know no such `HELLO`.
pub(super) fn is_not_known(request: &str, error: &str) -> bool {
    let codes = ["ERR unknown command", "NOPERM", "NOPROTO"];
    request.starts_with("HELLO") && codes.iter().any(|code| error.starts_with(code))
}

fn is_primary(role: String) -> Result<(), DialError> {
    match &*role {
        "master" => Ok(()),
        _ => Err(DialError::NotPrimary(role)),
    }
}

/// The role of a server without `HELLO`.
async fn role_otherwise(stream: &mut Stream, frames: &mut FrameReader) -> Result<String, DialError> {
    let mut out = Vec::new();
    encode::command(&mut out, [own::ROLE].into_iter());
    encode::command(&mut out, [own::INFO, b"replication"].into_iter());
    stream.write_all(&out).await?;
    let (role, info) = (frames.next(stream).await?, frames.next(stream).await?);
    let told = reply::elements(&role).and_then(|mut parts| parts.next().and_then(reply::text));
    if let Some(told) = told {
        return Ok(String::from_utf8_lossy(told).into_owned());
    }
    if reply::is_error(&info) {
        return Err(DialError::Refused {
            request: "ROLE",
            error: reply::error_text(&role),
        });
    }
    let text = String::from_utf8_lossy(reply::text(&info).unwrap_or_default()).into_owned();
    Ok(field(&text, "role").unwrap_or(NO_ROLE).to_owned())
}

fn role_in_hello(frame: &[u8]) -> String {
    let mut fields = reply::elements(frame).into_iter().flatten();
    while let (Some(name), Some(value)) = (fields.next(), fields.next()) {
        if reply::text(name) == Some(b"role") {
            return String::from_utf8_lossy(reply::text(value).unwrap_or_default()).into_owned();
        }
    }
    NO_ROLE.to_owned()
}

const NO_ROLE: &str = "server without a role (a sentinel?)";
