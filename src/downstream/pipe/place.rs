//! Where a client's own connection leads: with a cluster to the node of the first key that it names. A node that sends the
//! first request elsewhere is left for the other one before the client has seen anything.

use std::rc::Rc;
use std::time::Duration;

use crate::command::Pin as State;
use crate::downstream::pipe::Ended;
use crate::downstream::session::Session;
use crate::proxy::cluster::redirect::Redirect;
use crate::proxy::cluster::{NO_SLOT, View, seat};
use crate::proxy::password;
use crate::proxy::pinned::Pinned;
use crate::proxy::request::{Reason, Road};
use crate::resp::Version;
use crate::resp::first::First;
use crate::resp::limits::Limits;
use crate::resp::request::Scan;
use crate::upstream::cluster::NodeId;
use crate::upstream::pool::{Lent, Pool, PoolError};

/// A request that a node did not serve, and where it wants it to go.
pub struct Again {
    pub request: Vec<u8>,
    pub redirect: Redirect,
}

/// What is known of the way of one request before a connection is there.
#[derive(Default)]
pub struct Place {
    node: Option<NodeId>,
    pub slot: Option<u16>,
    /// The next connection begins with `ASKING`.
    pub is_asking: bool,
    tries: u32,
    /// A `MULTI` that was answered is sent in front; whether its transaction is doomed.
    pub held_multi: Option<bool>,
}

/// Requests up to this size are kept until their first reply, to be sent elsewhere.
pub const KEPT_BYTES: usize = 1 << 20;
/// Times that a request is sent, and the pause before all but the second.
const MOST_TRIES: u32 = 250;
const PAUSE: Duration = Duration::from_millis(20);

impl Again {
    /// For the client, when it is given up.
    pub fn error(&self) -> &'static str {
        match self.redirect {
            Redirect::Down => "CLUSTERDOWN nearcache: the cluster is down",
            _ => "TRYAGAIN nearcache: the slot of the keys is on its way to another node",
        }
    }
}

impl Place {
    /// For the request at the start of the session's input.
    ///
    /// # Errors
    /// Why there is no node for it, for the client.
    pub fn of(session: &Session, view: &View) -> Result<Place, String> {
        let slot = seat::slot_of(&session.worker.facts(), &session.input)?;
        Ok(Place {
            node: Some(view.node_for(slot)?),
            slot: (slot != NO_SLOT).then_some(slot),
            ..Place::default()
        })
    }

    /// The pool from which the connection comes.
    pub fn pool(&self, session: &Session) -> Option<Rc<Pool>> {
        match (&session.worker.cluster, self.node) {
            (Some(view), Some(node)) => view.pool(&session.worker, node),
            _ => Some(Rc::clone(&session.worker.pool)),
        }
    }

    /// The node as it is shown to people.
    pub fn name(&self, session: &Session) -> String {
        match (&session.worker.cluster, self.node) {
            (Some(view), Some(node)) => view.name(node),
            _ => session.worker.shared.upstream_name.clone(),
        }
    }

    /// The node has sent the request elsewhere: it is in front of the input again, and this is where it goes. `false`: it has
    /// been sent often enough, or nobody knows where.
    pub async fn follow(&mut self, session: &mut Session, again: Again) -> bool {
        let Again { request, redirect } = again;
        let Some(view) = &session.worker.cluster else {
            return false;
        };
        self.tries += 1;
        if self.tries > MOST_TRIES {
            return false;
        }
        if let Some(slot) = self.slot {
            crate::proxy::cluster::redirect::note(view, slot, &redirect);
        }
        let node_of = |endpoint| view.cluster.node_at(&endpoint);
        let (node, is_asking) = match &redirect {
            Redirect::Moved(endpoint) => (endpoint.clone().and_then(node_of), false),
            Redirect::Ask(endpoint) => (endpoint.clone().and_then(node_of), true),
            Redirect::TryAgain | Redirect::Down => (None, false),
        };
        if self.tries > 1 || node.is_none() {
            tokio::time::sleep(PAUSE).await;
        }
        let node = match node {
            Some(node) => Ok(node),
            None => view.node_for(self.slot.unwrap_or(NO_SLOT)),
        };
        let Ok(node) = node else { return false };
        self.node = Some(node);
        self.is_asking = is_asking;
        session.worker.counters().redirects_total.add(1);
        session.input.splice(..0, request);
        session.scanner.reset();
        session.spans.clear();
        if let Some(is_doomed) = self.held_multi {
            session.client.state.borrow_mut().road = Road::Held { is_doomed };
        }
        true
    }
}

/// A `MULTI` that the proxy has answered goes in front of what follows it. `None`: there is none; else whether the
/// transaction is doomed: then the server is given something to refuse in it.
pub fn begin_held(session: &Session, pinned: &mut Pinned, to_server: &mut Vec<u8>) -> Option<bool> {
    let mut state = session.client.state.borrow_mut();
    let Road::Held { is_doomed } = state.road else {
        return None;
    };
    state.road = Road::Main;
    to_server.extend_from_slice(b"*1\r\n$5\r\nMULTI\r\n");
    pinned.held_multi();
    if is_doomed {
        to_server.extend_from_slice(b"*1\r\n$3\r\nGET\r\n");
        pinned.own_request();
    }
    Some(is_doomed)
}

/// Why there is no connection.
pub enum NoConnection {
    None(PoolError),
    /// The server's own words.
    Told(String),
}

/// A connection of this version and database for the session, if need be with the password that its first request shows.
pub async fn connect(
    session: &Session,
    pool: &Pool,
    (version, db): (Version, Option<u32>),
    answer_within: Duration,
) -> Result<Lent, NoConnection> {
    let taken = pool.take(version, db, answer_within).await;
    if let Err(PoolError::Dial(error)) = &taken
        && error.wants_password()
        && let Some(learnt) = password::learn(&session.worker, &session.input, answer_within).await
    {
        learnt.map_err(NoConnection::Told)?;
        return pool.take(version, db, answer_within).await.map_err(NoConnection::None);
    }
    taken.map_err(NoConnection::None)
}

impl NoConnection {
    /// The server's words for a state in which it serves nobody.
    pub fn server_state(&self) -> Option<String> {
        match self {
            NoConnection::None(PoolError::Dial(error)) => error.server_state(),
            _ => None,
        }
    }

    /// For the client.
    pub fn text(&self, session: &Session, place: &Place) -> String {
        let error = match self {
            NoConnection::Told(text) => return text.clone(),
            NoConnection::None(error @ PoolError::Exhausted(_)) => return format!("ERR nearcache: {error}"),
            NoConnection::None(PoolError::Dial(error)) => error,
        };
        if let Some(state) = error.server_state() {
            return state;
        }
        let remedy = match error.wants_password() {
            true => format!(" {}", password::remedy(&session.worker)),
            false => String::new(),
        };
        let name = place.name(session);
        format!("ERR nearcache: upstream {name} is unavailable: {error}{remedy}")
    }
}

/// The server says by this error that it lets nobody in now, to someone who begins a transaction or is in one. Over a
/// connection that was there it would go on with the transaction's own commands, and refuse the others and thereby `EXEC`;
/// so does the proxy in its place. `None`: it is not about a transaction.
pub fn refuse_meanwhile(session: &mut Session, state_of_server: &str) -> Option<Ended> {
    let first = First::of(&session.input)?;
    let (args, len) = (first.whole()?, first.len?);
    let mut state = session.client.state.borrow_mut();
    let is = |name: &[u8]| args.len() == 1 && args.arg(0).eq_ignore_ascii_case(name);
    let is_held = matches!(state.road, Road::Held { .. });
    if is_held && (is(b"reset") || is(b"quit")) {
        // The proxy's own affair.
        state.road = Road::Main;
        return Some(Ended::Back);
    }
    if is_held && is(b"multi") {
        // Refused by any server in any state, and no reason to discard the transaction.
        state.error("ERR MULTI calls can not be nested");
    } else if is_held && args.len() > 1 && args.arg(0).eq_ignore_ascii_case(b"watch") {
        state.error("ERR WATCH inside MULTI is not allowed");
    } else if is(b"multi") {
        state.road = Road::Held { is_doomed: false };
        state.ok();
    } else if is_held && is(b"discard") {
        state.road = Road::Main;
        state.ok();
    } else if is_held && is(b"exec") {
        state.road = Road::Main;
        state.error(format!("EXECABORT Transaction discarded because of: {state_of_server}"));
    } else if is_held {
        state.road = Road::Held { is_doomed: true };
        state.error(state_of_server);
    } else {
        return None;
    }
    drop(state);
    session.input.drain(..len);
    session.scanner.reset();
    session.spans.clear();
    Some(Ended::Back)
}

/// No connection: the request that asked for one gets the error.
pub fn refuse(session: &mut Session, reason: &Reason, text: &str) -> Ended {
    session.worker.counters().l2_errors_total.add(1);
    {
        let mut state = session.client.state.borrow_mut();
        state.error(text);
        if matches!(state.road, Road::Held { .. }) {
            // The transaction that was promised cannot begin; what follows must not be executed outside of one.
            state.is_closing = true;
        }
    }
    session.scanner.reset();
    session.spans.clear();
    let scan = session
        .scanner
        .scan(&session.input, &Limits::AUTHENTICATED, &mut session.spans);
    session.spans.clear();
    match scan {
        Ok(Scan::Complete { len } | Scan::Inline { len, .. } | Scan::Nothing { len }) => {
            session.input.drain(..len);
            // What was pipelined behind MULTI must not be executed outside of a transaction.
            if *reason == Reason::State(State::Multi) && !session.input.is_empty() {
                session.client.state.borrow_mut().is_closing = true;
            }
        }
        // A request too large to hold cannot be skipped.
        _ => session.client.state.borrow_mut().is_closing = true,
    }
    Ended::Back
}
