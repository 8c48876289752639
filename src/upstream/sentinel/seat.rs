//! One sentinel, asked again and again: which node is the primary, and, less often, which other sentinels and replicas it
//! knows. Between the questions its messages are heard, so that a switch is followed when it is announced.

use std::time::Duration;

use bytes::BytesMut;

use super::votes::{Other, Vote};
use super::{MOST_REPLICAS, MOST_SEATS};
use crate::clock;
use crate::config::Endpoint;
use crate::resp::{Version, reply};
use crate::upstream::dial::{Access, DialError, Greeting, Protocol, Role};
use crate::upstream::exchange::Exchange;

/// What a sentinel answers in one go.
#[derive(Debug)]
pub struct Answer {
    pub vote: Vote,
    /// `None`: it was not asked this time.
    pub surroundings: Option<Surroundings>,
}

#[derive(Debug)]
pub struct Surroundings {
    /// Or the error with which it refuses to tell.
    pub others: Result<Vec<Other>, String>,
    /// `None`: it refuses to tell.
    pub replicas: Option<Vec<Endpoint>>,
}

/// A connection to one sentinel.
pub struct Line {
    exchange: Exchange,
    pub id: String,
    name: Vec<u8>,
    within: Duration,
    turns: u32,
}

/// It is asked for its surroundings at every so many turns.
const SURROUNDINGS_EVERY: u32 = 8;

impl Line {
    pub async fn open(address: &Endpoint, name: &str, access: &Access, within: Duration) -> Result<Line, DialError> {
        // What it announces comes on the connection on which it is asked.
        let greeting = Greeting {
            protocol: Protocol::Only(Version::Resp3),
            ..Exchange::greeting(within)
        };
        let (stream, _) = access.open(address, Role::Any, &greeting, within).await?;
        let mut exchange = Exchange::over(stream);
        let id = exchange.ask(&[b"SENTINEL", b"MYID"], within).await?;
        if reply::is_error(&id) {
            return Err(DialError::Refused {
                request: "SENTINEL MYID",
                error: format!(
                    "{} (is it a sentinel, of Redis 6.2 or later or of a Valkey?)",
                    reply::error_text(&id)
                ),
            });
        }
        let channels: &[&[u8]] = &[b"SUBSCRIBE", b"+switch-master", b"+promoted-slave"];
        let refusal = exchange.subscribe(channels, &[b"SENTINEL", b"MYID"], within).await?;
        if let Some(refusal) = refusal {
            // What it would announce is seen when it is asked the next time.
            tracing::debug!(sentinel = %address, error = words(&refusal), "a sentinel refuses SUBSCRIBE");
        }
        Ok(Line {
            exchange,
            id: words(&id),
            name: name.as_bytes().to_vec(),
            within,
            turns: 0,
        })
    }

    pub async fn ask(&mut self) -> Result<Answer, DialError> {
        let asked_us = clock::now_us();
        let name = &self.name[..];
        let primary: [&[&[u8]]; 2] = [
            &[b"SENTINEL", b"GET-MASTER-ADDR-BY-NAME", name],
            &[b"SENTINEL", b"MASTER", name],
        ];
        let surroundings: [&[&[u8]]; 2] = [&[b"SENTINEL", b"SENTINELS", name], &[b"SENTINEL", b"REPLICAS", name]];
        let wants_surroundings = self.turns.is_multiple_of(SURROUNDINGS_EVERY);
        self.turns = self.turns.wrapping_add(1);
        let mut questions = primary.to_vec();
        if wants_surroundings {
            questions.extend(surroundings);
        }
        let replies = self.exchange.ask_all(&questions, self.within).await?;
        answer(asked_us, &replies)
    }

    /// Waits until it says something by itself.
    pub async fn message(&mut self) -> Result<(), DialError> {
        self.exchange.message().await
    }
}

/// The replies about the primary, and those about its surroundings if it was asked for them.
fn answer(asked_us: u64, replies: &[BytesMut]) -> Result<Answer, DialError> {
    let [address, details, surroundings @ ..] = replies else {
        return Err(DialError::Protocol("no reply".into()));
    };
    if reply::is_error(address) {
        return Err(refused("SENTINEL GET-MASTER-ADDR-BY-NAME", address));
    }
    let vote = vote(asked_us, address, details);
    // Without the details it cannot be seen whether it holds the primary for dead.
    if vote.primary.is_some() && reply::is_error(details) {
        return Err(refused("SENTINEL MASTER", details));
    }
    let surroundings = match surroundings {
        [others, replicas] => Some(Surroundings {
            others: match reply::is_error(others) {
                true => Err(reply::error_text(others)),
                false => Ok(rows(others).filter_map(other).take(MOST_SEATS).collect()),
            },
            replicas: (!reply::is_error(replicas)).then(|| {
                let endpoints = rows(replicas).filter_map(|row| row.endpoint());
                endpoints.take(MOST_REPLICAS).collect()
            }),
        }),
        _ => None,
    };
    Ok(Answer { vote, surroundings })
}

fn vote(asked_us: u64, address: &[u8], details: &[u8]) -> Vote {
    let mut pair = reply::elements(address).into_iter().flatten().filter_map(reply::text);
    let primary = match (pair.next(), pair.next()) {
        (Some(host), Some(port)) => endpoint(host, port),
        _ => None,
    };
    let details = Row(details);
    let flags = details.field("flags").unwrap_or_default();
    let is_dead = |flag: &str| flag == "s_down" || flag == "o_down";
    Vote {
        asked_us,
        // While a failover is under way the details are still those of the old primary.
        is_down: details.endpoint() == primary && flags.split(',').any(is_dead),
        epoch: details.field("config-epoch").and_then(|n| n.parse().ok()).unwrap_or(0),
        primary,
    }
}

fn other(row: Row<'_>) -> Option<Other> {
    Some(Other {
        id: row.field("runid").filter(|id| !id.is_empty())?,
        address: row.endpoint()?,
    })
}

/// A node as sentinels describe it: names and values in turn.
struct Row<'a>(&'a [u8]);

impl Row<'_> {
    fn field(&self, name: &str) -> Option<String> {
        let mut parts = reply::elements(self.0)?;
        while let (Some(key), Some(value)) = (parts.next(), parts.next()) {
            if reply::text(key) == Some(name.as_bytes()) {
                return Some(String::from_utf8_lossy(reply::text(value)?).into_owned());
            }
        }
        None
    }

    fn endpoint(&self) -> Option<Endpoint> {
        endpoint(self.field("ip")?.as_bytes(), self.field("port")?.as_bytes())
    }
}

fn rows(frame: &BytesMut) -> impl Iterator<Item = Row<'_>> {
    reply::elements(frame).into_iter().flatten().map(Row)
}

fn endpoint(host: &[u8], port: &[u8]) -> Option<Endpoint> {
    let host = std::str::from_utf8(host).ok().filter(|host| !host.is_empty())?;
    let port = std::str::from_utf8(port).ok()?.parse().ok().filter(|port| *port != 0)?;
    Some(Endpoint::Tcp {
        host: host.to_owned(),
        port,
    })
}

fn refused(request: &'static str, error: &[u8]) -> DialError {
    DialError::Refused {
        request,
        error: reply::error_text(error),
    }
}

fn words(frame: &[u8]) -> String {
    let text = match reply::text(frame) {
        Some(text) if !reply::is_error(frame) => text,
        _ => frame,
    };
    String::from_utf8_lossy(text).trim().to_owned()
}

#[cfg(test)]
mod tests;
