//! What one node says of the cluster: the reply of `CLUSTER NODES`, which all versions have, and which tells the epoch of
//! each node, by which an older word is told from a newer one.

use crate::command::slot::SLOTS;
use crate::config::Endpoint;

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

/// Reads the reply of the node that was asked at this address. Lines that are not understood are left out.
pub fn parse(text: &str, asked: &Endpoint) -> Vec<Seen> {
    text.lines().filter_map(|line| seen(line, asked)).collect()
}

/// `<id> <ip:port@cport[,hostname]> <flags> <primary> <ping> <pong> <epoch> <link> <slot> …`.
fn seen(line: &str, asked: &Endpoint) -> Option<Seen> {
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
            false => endpoint(address, has("myself").then_some(asked), asked),
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
fn endpoint(address: &str, own: Option<&Endpoint>, asked: &Endpoint) -> Option<Endpoint> {
    let (ip_port, hostname) = match address.split_once(',') {
        Some((ip_port, rest)) => (ip_port, rest.split(',').next().unwrap_or_default()),
        None => (address, ""),
    };
    let ip_port = ip_port.split('@').next()?;
    let (ip, port) = ip_port.rsplit_once(':')?;
    let port = port.parse().ok().filter(|port| *port != 0)?;
    let host = match (ip, own, asked) {
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
