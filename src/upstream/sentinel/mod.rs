//! Who the primary is, by the word of the sentinels. Runs on the control runtime, a task for each sentinel; what they find
//! out is published through a `watch`.
//!
//! One sentinel may be down, cut off, late or lying. So a change of primary is believed when a majority of all known
//! sentinels names the new one. Where no majority can be heard, the most recent word of those that answer is followed only
//! if there is nothing better: at the start, or when the node in use is in trouble itself. Whatever is followed, each
//! connection asks the node for its role; and for how long a majority has agreed is published with it, since copies may be
//! shown no longer than the staleness bound after that (coherence of a primary that was replaced without knowing it).

mod seat;
pub mod votes;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use seat::{Answer, Line};
use votes::{Count, Roll, Seat};

use super::dial::{Access, DialError, Target};
use crate::clock;
use crate::config::Endpoint;

/// What is asked of the sentinels.
#[derive(Clone, Debug)]
pub struct Settings {
    pub nodes: Vec<Endpoint>,
    /// The name under which they know the primary.
    pub name: String,
    /// How often each is asked.
    pub period: Duration,
    /// How long a vote is believed.
    pub vote_holds: Duration,
    /// For each step with a sentinel.
    pub timeout: Duration,
}

/// What the sentinels have told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topology {
    /// Or why none is known.
    pub primary: Result<Endpoint, String>,
    /// When a majority last agreed on it; 0: it did not yet.
    pub confirmed_us: u64,
    pub replicas: Vec<Endpoint>,
    /// Sentinels that there are, that answer, and that name this primary.
    pub sentinels: Sentinels,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sentinels {
    pub known: usize,
    pub answering: usize,
    pub agreeing: usize,
}

impl Default for Topology {
    fn default() -> Self {
        Topology {
            primary: Err("the sentinels have not answered yet".to_owned()),
            confirmed_us: 0,
            replicas: Vec::new(),
            sentinels: Sentinels::default(),
        }
    }
}

/// Follows the sentinels until it is cancelled.
///
/// `access` is as whom the sentinels are spoken to; `target` is asked for its doubts about the node in use.
pub fn follow(
    settings: Settings,
    access: watch::Receiver<Arc<Access>>,
    target: &Target,
    cancel: CancellationToken,
) -> watch::Receiver<Topology> {
    let (topology, published) = watch::channel(Topology::default());
    let table = Arc::new(Table {
        seats: Mutex::new(Vec::new()),
        topology,
        ask_now: Notify::new(),
        begun_us: clock::now_us(),
        access,
        cancel,
        settings,
        has_warned: Warned::default(),
    });
    let configured = table.settings.nodes.clone();
    table.take_seats(configured, true);
    tokio::spawn(pass_doubts_on(Arc::clone(&table), target.doubts()));
    published
}

/// Where all sentinels' words come together.
struct Table {
    settings: Settings,
    /// Held only to change and count them.
    seats: Mutex<Vec<Seat>>,
    topology: watch::Sender<Topology>,
    /// All sentinels are asked at once.
    ask_now: Notify,
    begun_us: u64,
    access: watch::Receiver<Arc<Access>>,
    cancel: CancellationToken,
    has_warned: Warned,
}

/// What is said once.
#[derive(Default)]
struct Warned {
    too_many: AtomicBool,
    no_others: AtomicBool,
}

/// At the start nobody's word is taken for that of a majority before others had so long to answer.
const GRACE_US: u64 = 500_000;
/// Between two questions to one sentinel, however much there is to ask.
const LEAST_PAUSE: Duration = Duration::from_millis(20);
const DOUBTS_APART: Duration = Duration::from_millis(50);
/// Between attempts to reach a sentinel.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));
/// More sentinels than this are not asked.
const MOST_SEATS: usize = 64;
/// More replicas than this are not shown.
const MOST_REPLICAS: usize = 256;

/// Why a conversation is over.
enum Ended {
    Failed(DialError),
    Vacated,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Standing {
    Kept,
    /// The seat is gone, and its task ends.
    Vacated,
}

impl Table {
    fn take_seats(self: &Arc<Self>, addresses: Vec<Endpoint>, is_configured: bool) {
        for address in addresses {
            {
                let mut seats = self.seats.lock();
                if seats.iter().any(|seat| seat.address == address) {
                    continue;
                }
                if seats.len() >= MOST_SEATS {
                    if !self.has_warned.too_many.swap(true, Relaxed) {
                        tracing::warn!(sentinel = %address, "there are more than {MOST_SEATS} sentinels: this one is not asked");
                    }
                    continue;
                }
                seats.push(Seat::new(address.clone(), is_configured));
            }
            let table = Arc::clone(self);
            tokio::spawn(async move {
                let cancel = table.cancel.clone();
                tokio::select! {
                    () = cancel.cancelled() => {}
                    () = table.attend(&address) => {}
                }
            });
        }
    }

    /// The life of one seat.
    async fn attend(self: &Arc<Self>, address: &Endpoint) {
        let mut failures: u32 = 0;
        loop {
            let access = Arc::clone(&self.access.borrow());
            let opened = Line::open(address, &self.settings.name, &access, self.settings.timeout).await;
            let ended = match opened {
                Ok(line) => {
                    let begun = Instant::now();
                    let ended = self.converse(address, line).await;
                    // One that answers and hangs up at once is not to be dialled without a pause.
                    if begun.elapsed() > BACK_OFF.1 {
                        failures = 0;
                    }
                    ended
                }
                Err(error) => Ended::Failed(error),
            };
            let Ended::Failed(error) = ended else { return };
            if self.lost(address, &error) == Standing::Vacated {
                return;
            }
            failures = failures.saturating_add(1);
            let pause = BACK_OFF.0.saturating_mul(1 << (failures - 1).min(8)).min(BACK_OFF.1);
            tokio::time::sleep(pause.mul_f64(0.5 + 0.5 * fastrand::f64())).await;
        }
    }

    /// Asks until the connection fails or nobody needs the seat.
    async fn converse(self: &Arc<Self>, address: &Endpoint, mut line: Line) -> Ended {
        loop {
            // What is called out while it answers is about what it does not know yet.
            let mut called = std::pin::pin!(self.ask_now.notified());
            called.as_mut().enable();
            match line.ask().await {
                Ok(answer) => {
                    if self.heard(address, &line.id, answer) == Standing::Vacated {
                        return Ended::Vacated;
                    }
                }
                Err(error) => return Ended::Failed(error),
            }
            tokio::time::sleep(LEAST_PAUSE.min(self.settings.period)).await;
            let pause = self.settings.period.saturating_sub(LEAST_PAUSE);
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = called => {}
                message = line.message() => match message {
                    // The others may know it too by now.
                    Ok(()) => self.ask_now.notify_waiters(),
                    Err(error) => return Ended::Failed(error),
                },
            }
        }
    }

    fn heard(self: &Arc<Self>, address: &Endpoint, id: &str, answer: Answer) -> Standing {
        let mut seats = self.seats.lock();
        let Some(at) = seats.iter().position(|seat| seat.address == *address) else {
            return Standing::Vacated;
        };
        let seat = &mut seats[at];
        if seat.trouble.take().is_some() {
            tracing::info!(sentinel = %seat.address, "the sentinel answers");
        }
        seat.id = Some(id.to_owned());
        let knows_primary = answer.vote.primary.is_some();
        seat.vote = Some(answer.vote);
        if let Some(surroundings) = answer.surroundings {
            match surroundings.others {
                Ok(others) => seat.others = others,
                // Whoever does not know the primary's name says so in this way too.
                Err(error) if knows_primary && !self.has_warned.no_others.swap(true, Relaxed) => {
                    tracing::warn!(
                        sentinel = %seat.address,
                        error,
                        "SENTINEL SENTINELS is refused: the majority is counted among the sentinels of upstream.url only"
                    );
                }
                Err(_) => {}
            }
            if let Some(replicas) = surroundings.replicas {
                seat.replicas = replicas;
            }
        }
        // It was sought while the address of the configuration did not answer, and does now.
        let is_spare = !seat.is_configured && {
            let is_same =
                |other: &Seat| other.is_configured && other.trouble.is_none() && other.id.as_deref() == Some(id);
            seats.iter().any(is_same)
        };
        if is_spare {
            seats.swap_remove(at);
        }
        let roll = Roll::of(&seats);
        let new = roll.sought().map(|other| other.address.clone()).collect();
        self.judge(&seats, &roll);
        drop(seats);
        self.take_seats(new, false);
        if is_spare { Standing::Vacated } else { Standing::Kept }
    }

    fn lost(&self, address: &Endpoint, error: &DialError) -> Standing {
        let mut seats = self.seats.lock();
        let Some(at) = seats.iter().position(|seat| seat.address == *address) else {
            return Standing::Vacated;
        };
        let seat = &mut seats[at];
        let why = format!("{error}{}", remedy(error));
        if seat.trouble.as_deref() != Some(&*why) {
            tracing::warn!(sentinel = %seat.address, error = why, "a sentinel does not answer");
        }
        seat.trouble = Some(why);
        let is_configured = seat.is_configured;
        let roll = Roll::of(&seats);
        let is_sought = is_configured || roll.sought().any(|other| other.address == *address);
        self.judge(&seats, &roll);
        drop(roll);
        if is_sought {
            return Standing::Kept;
        }
        // Nobody expects a sentinel there any more; its word did not count either.
        seats.swap_remove(at);
        Standing::Vacated
    }

    /// Decides and publishes. Under the lock of the seats, so that nothing older is published later.
    fn judge(&self, seats: &[Seat], roll: &Roll<'_>) {
        let now_us = clock::now_us();
        let holds_us = self.settings.vote_holds.as_micros() as u64;
        let counted = roll.count(now_us.saturating_sub(holds_us));
        let earlier = self.topology.borrow().clone();
        let primary = self.choose(seats, &earlier, &counted, now_us);
        let mut topology = Topology {
            confirmed_us: 0,
            replicas: Vec::new(),
            sentinels: Sentinels {
                known: counted.known,
                answering: roll.answering(|_| true),
                agreeing: 0,
            },
            primary,
        };
        if let Ok(primary) = &topology.primary {
            topology.confirmed_us = roll.confirmed_us(primary);
            topology.sentinels.agreeing =
                roll.answering(|vote| vote.primary.as_ref() == Some(primary) && !vote.is_down);
            let replicas: BTreeMap<String, &Endpoint> = seats
                .iter()
                .flat_map(|seat| &seat.replicas)
                .filter(|replica| *replica != primary)
                .map(|replica| (replica.to_string(), replica))
                .collect();
            topology.replicas = replicas.into_values().take(MOST_REPLICAS).cloned().collect();
        }
        match (&earlier.primary, &topology.primary) {
            (Ok(old), Ok(new)) if old != new => {
                tracing::warn!(name = self.settings.name, %old, %new, "the sentinels have a new primary");
            }
            (Err(_), Ok(new)) => {
                tracing::info!(name = self.settings.name, primary = %new, "the sentinels know the primary")
            }
            (Err(old), Err(new)) if old != new => tracing::error!(name = self.settings.name, "{new}"),
            _ => {}
        }
        self.topology.send_if_modified(|published| {
            let is_news = *published != topology;
            *published = topology;
            is_news
        });
    }

    fn choose(&self, seats: &[Seat], earlier: &Topology, counted: &Count, now_us: u64) -> Result<Endpoint, String> {
        if let Some(node) = &counted.majority {
            return Ok(node.clone());
        }
        match (&earlier.primary, &counted.most) {
            // A minority is followed where it knows of a later failover than all who ever named the node in use, and none
            // of these can be asked.
            (Ok(node), Some(most)) if most.node != *node => {
                let naming = || {
                    let names_it = |vote: &&votes::Vote| vote.primary.as_ref() == Some(node);
                    seats
                        .iter()
                        .filter_map(move |seat| Some((seat, seat.vote.as_ref().filter(names_it)?)))
                };
                let is_still_named = naming().any(|(seat, _)| seat.trouble.is_none());
                let last = naming().map(|(_, vote)| vote.epoch).max();
                let is_later = last.is_none_or(|last| most.epoch > last);
                Ok(if is_still_named || !is_later { node } else { &most.node }.clone())
            }
            (Ok(node), _) => Ok(node.clone()),
            (Err(_), Some(most)) => {
                let is_everybody_heard = seats.iter().all(|seat| seat.trouble.is_some() || seat.vote.is_some());
                let is_late = now_us.saturating_sub(self.begun_us) > GRACE_US;
                if is_everybody_heard || is_late {
                    Ok(most.node.clone())
                } else {
                    earlier.primary.clone()
                }
            }
            (Err(_), None) => Err(self.nobody(seats)),
        }
    }

    /// Why there is no primary.
    fn nobody(&self, seats: &[Seat]) -> String {
        let name = &self.settings.name;
        let asked: Vec<String> = seats.iter().map(|seat| seat.address.to_string()).collect();
        if seats.iter().any(|seat| seat.trouble.is_none() && seat.vote.is_some()) {
            return format!(
                "no sentinel knows a primary named \"{name}\": check the name at the end of upstream.url (asked {})",
                asked.join(", ")
            );
        }
        let troubles: Vec<String> = seats
            .iter()
            .filter_map(|seat| Some(format!("{}: {}", seat.address, seat.trouble.as_ref()?)))
            .collect();
        match troubles.len() {
            0 => "the sentinels have not answered yet".to_owned(),
            _ => format!("no sentinel answers: {}", troubles.join("; ")),
        }
    }
}

/// What to do about a sentinel that refuses.
fn remedy(error: &DialError) -> &'static str {
    match error {
        DialError::Refused { error, .. } if error.starts_with("NOAUTH") || error.starts_with("WRONGPASS") => {
            " (the password for the sentinels is upstream.sentinel_password, that in the URL is for the data nodes)"
        }
        DialError::Refused { error, .. } if error.contains("without any password configured") => {
            " (the sentinel wants no password: remove upstream.sentinel_password)"
        }
        DialError::Refused { error, .. } if error.starts_with("NOPERM") => {
            " (the user of upstream.sentinel_user must be allowed SENTINEL MYID, GET-MASTER-ADDR-BY-NAME, MASTER, SENTINELS \
             and REPLICAS, and SUBSCRIBE)"
        }
        _ => "",
    }
}

/// The data nodes are in trouble: whoever knows better should be asked.
async fn pass_doubts_on(table: Arc<Table>, doubts: Arc<Notify>) {
    loop {
        tokio::select! {
            () = table.cancel.cancelled() => return,
            () = doubts.notified() => table.ask_now.notify_waiters(),
        }
        // All connections doubt at once, and again at each attempt.
        tokio::time::sleep(DOUBTS_APART).await;
    }
}
