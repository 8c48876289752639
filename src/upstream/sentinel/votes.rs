//! What the sentinels say, counted. Pure: who is the primary, how many would have to agree, and since when they do.
//!
//! A sentinel votes by answering which node is the primary. One that is down has no say and still counts, so that the part
//! of a split network with fewer sentinels knows that it is the smaller one. How many there are is what the configuration
//! lists and what the sentinels tell of one another: a sentinel that only one of several has heard of is not believed in,
//! so that a liar can neither outvote the others with sentinels of his own nor make a majority impossible.

use std::collections::{BTreeMap, BTreeSet};

use crate::config::Endpoint;

/// One sentinel's standing.
#[derive(Clone, Debug)]
pub struct Seat {
    pub address: Endpoint,
    pub is_configured: bool,
    /// By which the sentinels know one another; `None` until it has answered once.
    pub id: Option<String>,
    /// The sentinels of which it told last.
    pub others: Vec<Other>,
    pub replicas: Vec<Endpoint>,
    /// Its last answer, however old.
    pub vote: Option<Vote>,
    /// Why it does not answer now.
    pub trouble: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Other {
    pub id: String,
    pub address: Endpoint,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vote {
    /// When it was asked: its answer was true at some moment since.
    pub asked_us: u64,
    /// `None`: it knows no primary of that name.
    pub primary: Option<Endpoint>,
    /// It holds the primary that it names for dead.
    pub is_down: bool,
    /// The more recent the failover that it knows of, the higher.
    pub epoch: u64,
}

/// The result of a count.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Count {
    /// Sentinels that there are, up or not.
    pub known: usize,
    /// What most of all sentinels say.
    pub majority: Option<Endpoint>,
    /// What most of those say that answer; of as many the more recent.
    pub most: Option<Candidate>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    pub node: Endpoint,
    pub votes: usize,
    pub epoch: u64,
}

impl Seat {
    pub fn new(address: Endpoint, is_configured: bool) -> Seat {
        Seat {
            address,
            is_configured,
            id: None,
            others: Vec::new(),
            replicas: Vec::new(),
            vote: None,
            trouble: None,
        }
    }
}

/// Counts the votes that were asked for after this time.
pub fn count(seats: &[Seat], after_us: u64) -> Count {
    let known = known(seats);
    let mut candidates: Vec<Candidate> = Vec::new();
    for vote in votes(seats).filter(|vote| vote.asked_us > after_us) {
        let Some(node) = &vote.primary else { continue };
        match candidates.iter_mut().find(|candidate| candidate.node == *node) {
            Some(candidate) => {
                candidate.votes += 1;
                candidate.epoch = candidate.epoch.max(vote.epoch);
            }
            None => candidates.push(Candidate {
                node: node.clone(),
                votes: 1,
                epoch: vote.epoch,
            }),
        }
    }
    let most = candidates
        .into_iter()
        .max_by_key(|candidate| (candidate.votes, candidate.epoch));
    Count {
        known,
        majority: most
            .as_ref()
            .filter(|most| most.votes * 2 > known)
            .map(|most| most.node.clone()),
        most,
    }
}

/// When a majority of all sentinels was last asked and said that this node is the primary and alive; 0: never.
pub fn confirmed_us(seats: &[Seat], node: &Endpoint) -> u64 {
    let mut asked: Vec<u64> = votes(seats)
        .filter(|vote| vote.primary.as_ref() == Some(node) && !vote.is_down)
        .map(|vote| vote.asked_us)
        .collect();
    asked.sort_unstable_by(|a, b| b.cmp(a));
    asked.get(known(seats) / 2).copied().unwrap_or(0)
}

/// Sentinels other than the given seats' own, of which enough of them tell.
pub fn discovered(seats: &[Seat]) -> Vec<Other> {
    let mut told: BTreeMap<&str, (&Other, usize)> = BTreeMap::new();
    for other in seats.iter().flat_map(|seat| &seat.others) {
        told.entry(&other.id).or_insert((other, 0)).1 += 1;
    }
    // A sentinel does not tell of itself.
    let tellers_of = |id: &str| {
        seats
            .iter()
            .filter(|seat| seat.vote.is_some() && seat.id.as_deref() != Some(id))
            .count()
    };
    told.into_values()
        .filter(|(other, times)| times * 2 > tellers_of(&other.id))
        .map(|(other, _)| other.clone())
        .collect()
}

/// How many sentinels there are. One of the configuration that has never answered may be one of which the others tell.
fn known(seats: &[Seat]) -> usize {
    let mut ids: BTreeSet<String> = discovered(seats).into_iter().map(|other| other.id).collect();
    let mut configured: BTreeSet<&str> = BTreeSet::new();
    let mut nameless = 0;
    for seat in seats.iter().filter(|seat| seat.is_configured) {
        match &seat.id {
            Some(id) => {
                configured.insert(id);
                ids.insert(id.clone());
            }
            None => nameless += 1,
        }
    }
    ids.len().max(configured.len() + nameless)
}

/// One vote for each sentinel; none of one that says different things at different addresses.
fn votes(seats: &[Seat]) -> impl Iterator<Item = &Vote> {
    let mut by_id: BTreeMap<&str, Option<&Vote>> = BTreeMap::new();
    let of_known = |seat: &&Seat| seat.is_configured || is_discovered(seats, seat);
    for seat in seats.iter().filter(of_known) {
        if let (Some(id), Some(vote)) = (&seat.id, &seat.vote) {
            let one = by_id.entry(id).or_insert(Some(vote));
            *one = one
                .filter(|one| one.primary == vote.primary)
                .map(|one| if one.asked_us < vote.asked_us { vote } else { one });
        }
    }
    by_id.into_values().flatten()
}

fn is_discovered(seats: &[Seat], seat: &Seat) -> bool {
    let of_id = |other: &Other| seat.id.as_deref() == Some(&*other.id);
    discovered(seats).iter().any(of_id)
}

#[cfg(test)]
mod tests;
