//! What one node says of the cluster: the reply of `CLUSTER NODES`, which all versions have, and which tells the epoch of
//! each node, by which an older word is told from a newer one.

use crate::command::slot::SLOTS;
use crate::config::Endpoint;
use crate::resp::reply;

/// One line of the reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// `None`: nobody knows where it is.
    pub endpoint: Option<Endpoint>,
    pub is_primary: bool,
    pub id: String,
    /// Of a replica: the id of whom it follows.
    pub follows: String,
    /// The majority holds it for dead.
    pub is_failed: bool,
    /// The larger, the later it has won its slots.
    pub epoch: u64,
    /// First and last slot of each range.
    pub slots: Vec<(u16, u16)>,
    /// Slots that are on their way from or to it; told only by the node itself.
    pub moving: Vec<u16>,
}

/// By which of its names a node wants to be called, where it has several.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Preferred {
    #[default]
    Address,
    /// Clients are sent to this one, and a certificate may be for nothing else.
    Hostname,
}

/// Reads the reply of the node that was asked at this address. Lines that are not understood are left out.
pub fn parse(text: &str, asked: &Endpoint, preferred: Preferred) -> Vec<Seen> {
    text.lines().filter_map(|line| seen(line, asked, preferred)).collect()
}

/// Whether any node in that reply has a host name as well.
pub fn has_hostnames(text: &str) -> bool {
    let hostname = |line: &str| Some(hostname(line.split_ascii_whitespace().nth(1)?)?.is_empty());
    text.lines().any(|line| hostname(line) == Some(false))
}

/// What `CLUSTER SLOTS` tells of it: the first field of a node is what it wants to be called, and what else it is called follows.
pub fn preferred(slots: &[u8]) -> Preferred {
    let range = reply::elements(slots).and_then(|mut ranges| ranges.next());
    let node = range.and_then(|range| reply::elements(range)?.nth(2));
    let others = node.and_then(|node| reply::elements(node)?.nth(3));
    let mut names = others.and_then(reply::elements).into_iter().flatten().step_by(2);
    match names.any(|name| reply::text(name) == Some(b"ip")) {
        true => Preferred::Hostname,
        false => Preferred::Address,
    }
}

/// Behind the first comma of an address.
fn hostname(address: &str) -> Option<&str> {
    let (_, rest) = address.split_once(',')?;
    rest.split(',').next()
}

/// `<id> <ip:port@cport[,hostname]> <flags> <primary> <ping> <pong> <epoch> <link> <slot> …`.
fn seen(line: &str, asked: &Endpoint, preferred: Preferred) -> Option<Seen> {
    let mut words = line.split_ascii_whitespace();
    let id = words.next()?.to_owned();
    let address = words.next()?;
    let flags: Vec<&str> = words.next()?.split(',').collect();
    let has = |flag: &str| flags.contains(&flag);
    let follows = words.next()?.to_owned();
    let epoch = words.nth(2)?.parse().ok()?;
    words.next()?;
    let mut seen = Seen {
        endpoint: match has("noaddr") || has("handshake") {
            true => None,
            false => endpoint(address, has("myself").then_some(asked), asked, preferred),
        },
        is_primary: has("master"),
        id,
        follows,
        is_failed: has("fail"),
        epoch,
        slots: Vec::new(),
        moving: Vec::new(),
    };
    for word in words {
        match word.strip_prefix('[') {
            // `[93-<-id]` comes, `[77->-id]` goes.
            Some(moving) => seen.moving.extend(moving.split('-').next().and_then(number)),
            None => {
                let (first, last) = word.split_once('-').unwrap_or((word, word));
                let range = (number(first)?, number(last)?);
                seen.slots.push(range);
            }
        }
    }
    Some(seen)
}

/// A node that does not know its own address is where it was asked.
fn endpoint(address: &str, own: Option<&Endpoint>, asked: &Endpoint, preferred: Preferred) -> Option<Endpoint> {
    let hostname = hostname(address).unwrap_or_default();
    let ip_port = address.split(['@', ',']).next()?;
    let (ip, port) = ip_port.rsplit_once(':')?;
    let port = port.parse().ok().filter(|port| *port != 0)?;
    let host = match (ip, own, asked) {
        _ if preferred == Preferred::Hostname && !hostname.is_empty() => hostname,
        ("" | "?", Some(Endpoint::Tcp { host, .. }), _) => host.as_str(),
        ("" | "?", ..) if hostname.is_empty() => return None,
        ("" | "?", ..) => hostname,
        _ => ip,
    };
    Some(Endpoint::Tcp {
        host: host.trim_matches(['[', ']']).to_owned(),
        port,
    })
}

/// The address in a `MOVED` or `ASK`: `host:port`, where an empty host is that of the node that said so.
pub fn redirected(address: &str, asked: &Endpoint) -> Option<Endpoint> {
    let (host, port) = address.rsplit_once(':')?;
    let port = port.parse().ok().filter(|port| *port != 0)?;
    let host = match (host, asked) {
        ("" | "?", Endpoint::Tcp { host, .. }) => host,
        ("" | "?", Endpoint::Unix(_)) => return None,
        _ => host.trim_matches(['[', ']']),
    };
    Some(Endpoint::Tcp {
        host: host.to_owned(),
        port,
    })
}

fn number(text: &str) -> Option<u16> {
    text.parse().ok().filter(|slot| *slot < SLOTS)
}

#[cfg(test)]
mod tests;
