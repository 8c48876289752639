//! What happens to a request: answered here, answered from L1, sent on the shared connection, or handed back to the
//! session because it has to wait or needs a connection of its own. Runs in the session's turn on its worker; nothing
//! in here waits.

pub mod straight;

use std::rc::Rc;
use std::sync::atomic::Ordering::Relaxed;

use bytes::Bytes;

use super::client::{Access as ClientAccess, Client};
use super::cluster::{self, NO_SLOT};
use super::outbox::{Source, Touched};
use super::pubsub::Gate;
use super::waiter::{Effect, Waiter};
use super::worker::{Link, Worker};
use super::{local, pubsub, read, readers, transaction};
use crate::cache::name_hash;
use crate::clock;
use crate::command::{Access, Keys, Local, Path, Pin, Spec};
use crate::config::Invalidation;
use crate::resp::convert::Rule;
use crate::resp::request::Args;
use crate::upstream::facts::Facts;
use straight::Straight;

/// What the session does next.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// The request is dealt with, and so many bytes behind it (the rest of a transaction).
    Done { also: usize },
    /// Not now: earlier answers, or room, must come first. The request is to be presented again.
    Wait,
    /// It needs an upstream connection of its own.
    Pin(Reason),
}

impl Step {
    pub const DONE: Step = Step::Done { also: 0 };
}

/// Why a client gets an upstream connection of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// For one request.
    Side,
    /// The same for one that has nothing to do with keys: a connection in any database will do. A server that is busy with
    /// a script lets nobody change the database, but lets him kill the script.
    Anywhere,
    /// For what starts a state that lives in the connection.
    State(Pin),
    /// A read of a large value.
    Bulk,
    /// A request too large to hold.
    Large,
    /// Another client's invalidations are to go to this one: there is no request.
    Called,
    /// Credentials that only the upstream can judge; if it accepts them, a connection in that user's name for as long as the
    /// client stays.
    Foreign,
}

/// One request of a client and what is known about it.
#[derive(Clone, Copy)]
pub struct Request<'a> {
    pub args: Args<'a>,
    /// The request as it goes on the wire.
    pub raw: &'a [u8],
    /// What the client has sent behind it.
    pub rest: &'a [u8],
    pub spec: &'a Spec,
    pub facts: &'a Facts,
    /// Read once for a batch.
    pub now_us: u64,
    /// Of a cluster: that of its keys.
    pub slot: u16,
}

/// One complete request as it came from the client.
#[derive(Clone, Copy)]
pub struct Arrived<'a> {
    pub args: Args<'a>,
    /// The request as it goes on the wire.
    pub raw: &'a [u8],
    /// What the client has sent behind it.
    pub rest: &'a [u8],
    /// Read once for a batch.
    pub now_us: u64,
}

impl<'a> Arrived<'a> {
    /// With nothing behind it that could belong to it.
    pub fn alone(args: Args<'a>, raw: &'a [u8], now_us: u64) -> Arrived<'a> {
        Arrived {
            args,
            raw,
            rest: &[],
            now_us,
        }
    }
}

/// Decides one request of a batch. `straight` is kept from one to the next.
#[inline]
pub fn next<'a>(
    worker: &Rc<Worker>,
    client: &Rc<Client>,
    facts: &'a Facts,
    arrived: Arrived<'_>,
    straight: &mut Option<Straight<'a>>,
) -> Step {
    let spec = facts.table.find(arrived.args.arg(0));
    if let Some(spec) = spec.filter(|spec| Straight::may_take(worker, spec, arrived.args)) {
        if straight.is_none() {
            *straight = Straight::find(worker, client, arrived.now_us);
        }
        if let Some(straight) = straight
            && straight.send(worker, client, spec, &arrived)
        {
            return Step::DONE;
        }
    }
    // It may change what was looked up.
    *straight = None;
    decide(worker, client, facts, spec, arrived)
}

/// Decides one request.
pub fn handle(worker: &Rc<Worker>, client: &Rc<Client>, facts: &Facts, arrived: Arrived<'_>) -> Step {
    decide(worker, client, facts, facts.table.find(arrived.args.arg(0)), arrived)
}

fn decide(worker: &Rc<Worker>, client: &Rc<Client>, facts: &Facts, spec: Option<&Spec>, arrived: Arrived<'_>) -> Step {
    let Arrived {
        args,
        raw,
        rest,
        now_us,
    } = arrived;
    let (is_unauthenticated, has_listened) = {
        let mut state = client.state.borrow_mut();
        if state.access == ClientAccess::Unauthenticated {
            // Whether there is a password may have changed since the client came.
            state.access = worker.initial_access();
        }
        if matches!(state.road, Road::Held { .. }) {
            drop(state);
            return pin(client, Reason::State(Pin::Multi));
        }
        (state.access == ClientAccess::Unauthenticated, state.listening.is_some())
    };
    let Some(spec) = spec else {
        if is_unauthenticated {
            client.state.borrow_mut().error(local::unknown_command(args));
            return Step::DONE;
        }
        return pin(client, Reason::Side);
    };
    let request = Request {
        args,
        raw,
        rest,
        spec,
        facts,
        now_us,
        slot: NO_SLOT,
    };
    if !spec.is_arity_ok(args.len()) {
        return wrong_arity(worker, client, &request, is_unauthenticated);
    }
    client.meta.note(spec, args);
    let path = spec.path(args);
    if is_unauthenticated
        && !matches!(
            path,
            Path::Local(Local::Auth | Local::Hello | Local::Reset | Local::Quit)
        )
    {
        if let Some(error) = local::wrong_subcommand(spec, args) {
            client.state.borrow_mut().error(error);
            return Step::DONE;
        }
        client.state.borrow_mut().error(match &*spec.name {
            "exec" => "EXECABORT Transaction discarded because of: NOAUTH Authentication required.",
            _ => "NOAUTH Authentication required.",
        });
        return Step::DONE;
    }
    if has_listened {
        let gate = pubsub::gate(&client.state.borrow(), spec, path, args);
        match gate {
            Gate::Open => {}
            Gate::Wait => return Step::Wait,
            Gate::Refused(error) => {
                client.state.borrow_mut().error(error);
                return Step::DONE;
            }
        }
    }
    if let Some(view) = &worker.cluster
        && let Some(step) = cluster::request(worker, view, client, &request, path, has_listened)
    {
        return step;
    }
    match path {
        Path::Shared if has_listened => match pubsub::publish(worker, client, &request) {
            Some(step) => step,
            None => shared(worker, client, &request),
        },
        Path::Shared => shared(worker, client, &request),
        Path::Local(which) => local::answer(worker, client, &request, which),
        Path::Pin(Pin::Multi) => match transaction::whole(worker, client, &request) {
            Some(step) => step,
            None => pin(client, Reason::State(Pin::Multi)),
        },
        Path::Pin(Pin::Subscribe) => pubsub::request(worker, client, &request),
        Path::Pin(why) => pin(client, Reason::State(why)),
        Path::Side if touched(worker, spec, args) == Touched::None => pin(client, Reason::Anywhere),
        Path::Side => pin(client, Reason::Side),
        Path::Refused(error) => {
            client.state.borrow_mut().error(error);
            Step::DONE
        }
    }
}

/// The server says it in its own words, and counts it, where it may be asked.
fn wrong_arity(worker: &Rc<Worker>, client: &Rc<Client>, request: &Request<'_>, is_unauthenticated: bool) -> Step {
    // An arity that is only assumed could be wrong, and the request be executed.
    if request.facts.is_known && !is_unauthenticated && is_up(worker, client) {
        return match available(worker, client, Road::Main, NO_SLOT) {
            Ok(link) => send(worker, client, &link, request, Touched::None, Effect::None),
            Err(step) => step,
        };
    }
    let error = local::wrong_arity(&request.spec.name);
    client.state.borrow_mut().error(match &*request.spec.name {
        "exec" => format!(
            "EXECABORT Transaction discarded because of: {}",
            error.trim_start_matches("ERR ")
        ),
        _ => error,
    });
    Step::DONE
}

/// Whether there is a server to be asked.
pub fn is_up(worker: &Rc<Worker>, client: &Client) -> bool {
    let db = client.state.borrow().db;
    worker.connection(db).is_ok_and(|link| link.is_up())
}

/// The client's earlier requests must have been answered before it changes its path.
pub fn pin(client: &Client, reason: Reason) -> Step {
    if client.state.borrow().outbox.is_all_answered() {
        Step::Pin(reason)
    } else {
        Step::Wait
    }
}

pub fn shared(worker: &Rc<Worker>, client: &Rc<Client>, request: &Request<'_>) -> Step {
    let road = if request.spec.runs_code() {
        Road::Scripts
    } else {
        Road::Main
    };
    // Not that a script is coming, when it is held back.
    if road == Road::Scripts && worker.shared.pause.holds_writes_back(request.now_us) {
        return pin(client, Reason::Side);
    }
    // What L1 still has is shown before the client is told that the upstream is away, unless a replica can be asked.
    let is_kept = request.spec.cache.is_kept();
    let replica = readers::link(worker, client, request);
    if replica.is_none()
        && is_kept
        && worker.shared.config.cache.max_stale.is_some()
        && let Some(step) = read::stale(worker, client, request)
    {
        return step;
    }
    let link = match replica {
        Some(link) => link,
        None => match available(worker, client, road, request.slot) {
            Ok(link) => link,
            Err(step) => return step,
        },
    };
    if is_kept && worker.is_caching(&link) {
        return read::cached(worker, client, &link, request);
    }
    forward(worker, client, &link, request)
}

/// Which of a worker's shared connections for a database.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Road {
    #[default]
    Main,
    Scripts,
    /// A `MULTI` was answered, and where it is to be sent is not known yet, or the server lets nobody in now.
    Held {
        /// A command behind it was refused, and so must be its `EXEC`.
        is_doomed: bool,
    },
}

/// The shared connection for the client's database, or to the node of this slot, if it takes requests now; otherwise the client has its error, or has
/// to wait: for room, or, when it changes from one road to the other, for its earlier answers.
pub fn available(worker: &Rc<Worker>, client: &Rc<Client>, road: Road, slot: u16) -> Result<Rc<Link>, Step> {
    let mut state = client.state.borrow_mut();
    if let Some(view) = &worker.cluster
        && !view.may_go_on(&mut state)
    {
        return Err(Step::Wait);
    }
    if state.road != road {
        if !state.outbox.is_all_answered() {
            return Err(Step::Wait);
        }
        state.road = road;
    }
    let key = match &worker.cluster {
        None => Ok(state.db),
        Some(view) => view.node_for(slot).map(u32::from),
    };
    let connection = key.and_then(|key| match road {
        Road::Main | Road::Held { .. } => worker.connection_at(key),
        Road::Scripts => worker.script_connection_at(key),
    });
    let link = match connection {
        Ok(link) => link,
        Err(error) => {
            state.error(&error);
            return Err(Step::DONE);
        }
    };
    drop(state);
    if !link.is_open() {
        refuse_or_wait(worker, client, &link)?;
    }
    if road == Road::Scripts {
        worker.script_is_coming();
    }
    Ok(link)
}

/// The connection is closed to requests, or full.
#[cold]
fn refuse_or_wait(worker: &Rc<Worker>, client: &Rc<Client>, link: &Rc<Link>) -> Result<(), Step> {
    if let Err(failure) = link.availability() {
        worker.counters().l2_errors_total.add(1);
        client
            .state
            .borrow_mut()
            .error(worker.unavailable_on(&link.sink, &failure));
        return Err(Step::DONE);
    }
    if link.is_full() && link.is_overdue() {
        // Whoever came now would not be answered in time either.
        worker.counters().shed_total.add(1);
        worker.counters().l2_errors_total.add(1);
        client.state.borrow_mut().error(worker.overloaded(&link.sink));
        return Err(Step::DONE);
    }
    if link.is_full()
        && let Some(waker) = client.waker()
    {
        link.wake_when_room(waker);
        return Err(Step::Wait);
    }
    Ok(())
}

/// Sends a request as it is; what it touches is dealt with when its reply comes.
pub fn forward(worker: &Rc<Worker>, client: &Rc<Client>, link: &Rc<Link>, request: &Request<'_>) -> Step {
    let is_held_back = || worker.shared.pause.holds_writes_back(request.now_us) && request.spec.may_be_paused();
    if request.spec.is_likely_large(request.args) || is_held_back() {
        return pin(client, Reason::Side);
    }
    let touched = touched(worker, request.spec, request.args);
    if request.spec.access == Access::Read && worker.is_known_large(&touched) {
        return pin(client, Reason::Bulk);
    }
    let effect = match request.spec.access {
        Access::Write => {
            worker.counters().writes_total.add(1);
            Effect::Write(touched.clone())
        }
        Access::Read => Effect::Read(touched.clone()),
        Access::None => pubsub::effect(worker, request),
    };
    send(worker, client, link, request, touched, effect)
}

/// Puts a request on the shared connection and its slot into the outbox.
pub fn send(
    worker: &Rc<Worker>,
    client: &Rc<Client>,
    link: &Rc<Link>,
    request: &Request<'_>,
    touched: Touched,
    effect: Effect,
) -> Step {
    let mut state = client.state.borrow_mut();
    if state.outbox.must_wait_for_flight(&touched) {
        return Step::Wait;
    }
    let version = state.version;
    // Only a hit could overtake it, or what a cluster makes it wait for, or what was sent to a replica and goes to the primary.
    let is_noted = worker.shared.config.cache.is_used() || request.slot != NO_SLOT || worker.reading.is_some();
    let touched = if is_noted { touched } else { Touched::None };
    let sequence = state.outbox.expect(touched, Source::Sent);
    drop(state);
    worker.counters().shared_total.add(1);
    let rule = match version {
        crate::resp::Version::Resp2 => request.spec.rule(request.args),
        crate::resp::Version::Resp3 => Rule::General,
    };
    let waiter = Waiter {
        to: Some((Rc::clone(client), sequence)),
        version,
        rule,
        effect: request.routed(effect, || Bytes::copy_from_slice(request.raw)),
    };
    link.send(request.raw, request.now_us, waiter);
    Step::DONE
}

/// The keys of a request, as name hashes.
pub fn touched(worker: &Worker, spec: &Spec, args: Args<'_>) -> Touched {
    let mut hashes = worker.hashes.borrow_mut();
    hashes.clear();
    match spec.keys(args, &mut |name| hashes.push(name_hash(name))) {
        Keys::Known => Touched::from_hashes(&hashes),
        Keys::All if spec.access == Access::None => Touched::None,
        Keys::All => Touched::All,
        Keys::None => Touched::None,
    }
}

impl Worker {
    /// Whether what this connection reads may be kept.
    pub fn is_caching(&self, link: &Link) -> bool {
        let cache = &self.shared.config.cache;
        // While a connection comes up its requests queue; if it then turns out untracked, their leases are dead.
        let is_watched = || match cache.invalidation {
            Invalidation::KeyspaceEvents => self.shared.has_events.load(Relaxed),
            _ => link.is_tracking() || !link.is_up(),
        };
        cache.is_used() && (cache.takes_own_writes() || is_watched())
    }

    /// Now, for what must not be older than this moment.
    pub fn now_us(&self) -> u64 {
        clock::now_us()
    }
}
