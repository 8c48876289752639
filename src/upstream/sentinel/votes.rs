//! What the sentinels say, counted. Pure: who is the primary, how many would have to agree, and since when they do.
//!
//! A sentinel votes by answering which node is the primary. One that is down has no say and still counts, so that the part
//! of a split network with fewer sentinels knows that it is the smaller one. How many there are is what the configuration
//! lists and what the sentinels tell of one another: a sentinel that only one of several has heard of is not believed in,
//! so that a liar among three can neither outvote the others with sentinels of his own nor make a majority impossible.
//! What a liar can do is to take a vote away, by answering under another's id, and so turn caching off.

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

/// Who has a say, by what the seats are now. Made once for each judgement.
pub struct Roll<'a> {
    /// Sentinels that there are, up or not.
    pub known: usize,
    /// Sentinels of which most others tell, each where most of them say that it is.
    discovered: Vec<Other>,
    /// Those with a say by their ids; several seats are one sentinel under several addresses.
    voters: BTreeMap<&'a str, Vec<&'a Seat>>,
}

impl<'a> Roll<'a> {
    pub fn of(seats: &'a [Seat]) -> Roll<'a> {
        // Whoever is not configured is heard only if the configured ones tell of him. Otherwise whom the first sentinel to
        // answer invents could vouch for one another. It makes no difference whether the others are late or cannot be reached.
        let unheard = seats
            .iter()
            .filter(|seat| seat.is_configured && seat.vote.is_none())
            .count();
        let configured = by_id(seats.iter().filter(|seat| seat.is_configured));
        let (first, _) = told(&configured, unheard);
        let tellers = by_id(seats.iter().filter(|seat| has_say(seat, &first)));
        let (discovered, told_of) = told(&tellers, unheard);
        let known = known(seats, told_of);
        let voters = by_id(seats.iter().filter(|seat| has_say(seat, &discovered)));
        Roll {
            known,
            discovered,
            voters,
        }
    }

    /// Counts the votes that were asked for after this time.
    pub fn count(&self, after_us: u64) -> Count {
        let mut candidates: Vec<Candidate> = Vec::new();
        for vote in self.votes().filter(|vote| vote.asked_us > after_us) {
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
            known: self.known,
            majority: most
                .as_ref()
                .filter(|most| most.votes * 2 > self.known)
                .map(|most| most.node.clone()),
            most,
        }
    }

    /// When a majority of all sentinels was last asked and said that this node is the primary and alive; 0: never.
    pub fn confirmed_us(&self, node: &Endpoint) -> u64 {
        let mut asked: Vec<u64> = self
            .votes()
            .filter(|vote| vote.primary.as_ref() == Some(node) && !vote.is_down)
            .map(|vote| vote.asked_us)
            .collect();
        asked.sort_unstable_by(|a, b| b.cmp(a));
        asked.get(self.known / 2).copied().unwrap_or(0)
    }

    /// Whether this sentinel answers at one of the places where it has a say; at another one than a configured seat's own
    /// only at this.
    fn is_heard(&self, other: &Other) -> bool {
        self.voters.get(&*other.id).is_some_and(|seats| {
            seats
                .iter()
                .any(|seat| seat.trouble.is_none() && (seat.is_configured || seat.address == other.address))
        })
    }

    /// Sentinels of which most others tell and which do not answer yet where these say that they are.
    pub fn sought(&self) -> impl Iterator<Item = &Other> {
        self.discovered.iter().filter(|other| !self.is_heard(other))
    }

    /// Sentinels that answer now, and those of them whose last vote is such.
    pub fn answering(&self, is_such: impl Fn(&Vote) -> bool) -> usize {
        let answers = |seat: &&Seat| seat.trouble.is_none() && seat.vote.as_ref().is_some_and(&is_such);
        self.voters.values().filter(|seats| seats.iter().any(answers)).count()
    }

    /// One vote for each sentinel; none of one that says different things at different addresses.
    fn votes(&self) -> impl Iterator<Item = &'a Vote> {
        self.voters.values().filter_map(|seats| {
            let mut votes = seats.iter().filter_map(|seat| seat.vote.as_ref());
            let first = votes.next()?;
            votes.try_fold(first, |one, vote| {
                (one.primary == vote.primary).then_some(if one.asked_us < vote.asked_us { vote } else { one })
            })
        })
    }
}

/// A seat at an address that most do not give for it has no say: a liar could have its sentinels there.
fn has_say(seat: &Seat, discovered: &[Other]) -> bool {
    let is_it = |other: &Other| seat.id.as_deref() == Some(&*other.id) && seat.address == other.address;
    seat.is_configured || discovered.iter().any(is_it)
}

/// Seats that have answered, by the sentinel. One that is in trouble does not speak for a sentinel that answers elsewhere:
/// it has moved.
fn by_id<'a>(seats: impl Iterator<Item = &'a Seat>) -> BTreeMap<&'a str, Vec<&'a Seat>> {
    let mut found: BTreeMap<&str, Vec<&Seat>> = BTreeMap::new();
    for seat in seats.filter(|seat| seat.vote.is_some()) {
        if let Some(id) = &seat.id {
            found.entry(id).or_default().push(seat);
        }
    }
    for seats in found.values_mut() {
        if seats.iter().any(|seat| seat.trouble.is_none()) {
            seats.retain(|seat| seat.trouble.is_none());
        }
    }
    found
}

/// The sentinels of which more than half of the others tell, where more than half say that they are; and the ids of those of
/// which at least half tell. Those from whom an answer is still to come tell of nobody.
///
/// The latter count, the former vote as well: one counted too many can only prevent a majority, one too few could make one.
fn told<'a>(tellers: &BTreeMap<&'a str, Vec<&'a Seat>>, unheard: usize) -> (Vec<Other>, BTreeSet<&'a str>) {
    // By the sentinel told of, what each teller says. However often it says it, it says it once.
    let mut told: BTreeMap<&str, BTreeMap<&str, &Endpoint>> = BTreeMap::new();
    for (teller, seats) in tellers {
        for other in seats.iter().flat_map(|seat| &seat.others) {
            told.entry(&other.id)
                .or_default()
                .entry(teller)
                .or_insert(&other.address);
        }
    }
    let (mut discovered, mut counted) = (Vec::new(), BTreeSet::new());
    for (id, mut by) in told {
        // A sentinel does not tell of itself.
        by.remove(id);
        let others = tellers.len() - usize::from(tellers.contains_key(id));
        if by.is_empty() || by.len() * 2 < others {
            continue;
        }
        counted.insert(id);
        let mut places: BTreeMap<&Endpoint, usize> = BTreeMap::new();
        for &address in by.values() {
            *places.entry(address).or_default() += 1;
        }
        let place = places.into_iter().find(|(_, times)| times * 2 > others + unheard);
        discovered.extend(place.map(|(address, _)| Other {
            id: id.to_owned(),
            address: address.clone(),
        }));
    }
    (discovered, counted)
}

/// How many sentinels there are. One of the configuration that has never answered may be one of which the others tell.
fn known<'a>(seats: &'a [Seat], told_of: BTreeSet<&'a str>) -> usize {
    let mut ids = told_of;
    let mut configured: BTreeSet<&str> = BTreeSet::new();
    let mut nameless = 0;
    for seat in seats.iter().filter(|seat| seat.is_configured) {
        match &seat.id {
            Some(id) => {
                configured.insert(id);
                ids.insert(id);
            }
            None => nameless += 1,
        }
    }
    ids.len().max(configured.len() + nameless)
}

#[cfg(test)]
mod tests;
