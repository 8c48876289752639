//! Reaching the upstream: which node it is now, connect, and the handshake that makes a connection one of ours. Async, on
//! the runtime of whoever asks; every step within a timeout.
//!
//! All of the proxy's connections to the data are made by [`Target::open`], so all follow a change of node or credentials
//! in the same way: an attempt that is under way begins anew at the new node, a pause between attempts ends at once, and
//! what is up already is closed by its owner.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use parking_lot::{Mutex, RwLock};
use tokio::net::{TcpStream, UnixStream};
use tokio::runtime::Handle;
use tokio::sync::{Notify, Semaphore, watch};
use tokio::time::Instant;

use super::breaker::{self, Breaker, Cut};
use super::handshake;
pub use super::handshake::{Greeted, Greeting, Protocol, Tracking, TrackingState};
use super::spoken::Spoken;
use super::tls::{self, Tls};
use crate::clock;
use crate::config::{Credentials, Endpoint, Secret};
use crate::net::Stream;

/// Where the upstream is and as whom the proxy speaks to it. Clones share both, and both may change.
#[derive(Clone, Debug)]
pub struct Target {
    route: watch::Receiver<Route>,
    /// Locked only to look and to replace.
    access: Arc<RwLock<Arc<Access>>>,
    /// Passwords that clients have given the server, and when (µs), the latest last; tried when it refuses that of `access`.
    heard: Arc<Mutex<Vec<(Secret, u64)>>>,
    /// Held by whoever tries them.
    search: Arc<tokio::sync::Mutex<()>>,
    /// Told of every failure to reach the node: whoever names it may know better by now.
    doubts: Arc<Notify>,
    /// Of the node that it is now.
    breaker: Arc<Breaker>,
    /// The last one that was greeted wanted a password that it was not shown.
    is_locked: Arc<AtomicBool>,
    /// Of all nodes together.
    spoken: Arc<Spoken>,
    /// Told of other credentials, by which an attempt may be worth it again.
    renewed: Arc<Notify>,
    pub connect_timeout: Duration,
    /// Places for handshakes of connections of which there may be thousands, see [`DIALS_AT_ONCE`].
    pub dials: Arc<Semaphore>,
    /// Where nodes are probed whose breaker is open: the runtime in which this was made, which outlives those of the workers
    /// and does nothing that takes long.
    control: Option<Handle>,
}

/// A server keeps few connections waiting until it accepts them (`tcp-backlog`, 511 by default). One too many is not
/// refused but asks again after one second and after three, by which time its client has got an error.
const DIALS_AT_ONCE: usize = 128;

/// Which node is the upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Grows with every change. What was read from a node of an earlier generation is worth nothing.
    pub generation: u32,
    /// Or why none is known.
    pub node: Result<Endpoint, String>,
    /// Whether it has to say itself that it is the primary.
    pub role: Role,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    Any,
    Primary,
}

/// As whom, and how, the proxy speaks to a server.
#[derive(Clone, Debug, Default)]
pub struct Access {
    pub user: Option<String>,
    pub password: Option<Secret>,
    pub tls: Option<Tls>,
}

/// Why a connection could not be had. The text goes to clients, after "nearcache: upstream … is unavailable: ".
#[derive(Clone, Debug)]
pub enum DialError {
    Timeout(Duration),
    Io(String),
    /// This host has no file descriptor, port or memory left; the node has nothing to do with it.
    Local(String),
    /// The server's own error text (without the dash) for the handshake request that is named.
    Refused {
        request: &'static str,
        error: String,
    },
    Protocol(String),
    /// A reply of more bytes than are taken.
    TooLarge(usize),
    /// What went wrong with TLS, and what to do about it.
    Tls(String),
    /// No answer to the handshake of TLS.
    TlsTimeout(Duration),
    /// Sentinel has not named a node, and why.
    Unknown(String),
    /// The node that Sentinel named says that it is something else.
    NotPrimary(String),
    /// The node has failed too often to be tried.
    Cut(Cut),
    /// It speaks RESP2 alone, for the reason that is given, and clients that speak RESP3 are not gone yet.
    InResp2(String),
    /// The same, of the node that is named: where there are several it matters which.
    At(String, Box<DialError>),
}

impl fmt::Display for DialError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DialError::Timeout(after) => write!(f, "no answer within {} ms", after.as_millis()),
            DialError::Io(e) | DialError::Local(e) => f.write_str(e),
            DialError::Refused { request, error } => {
                write!(f, "{request} was refused: {error}")?;
                match *request {
                    "HELLO 3" if handshake::is_not_known(request, error) => f.write_str(
                        " (RESP3 is needed here: Redis 6.0 or later or a Valkey, and HELLO under its own name)",
                    ),
                    "AUTH" if error.contains("wrong number of arguments") => {
                        f.write_str(" (a server before Redis 6.0 knows no users: leave the name out of upstream.url)")
                    }
                    _ => Ok(()),
                }
            }
            DialError::Protocol(what) => write!(f, "not a Redis server? {what}"),
            DialError::TooLarge(most) => write!(f, "a reply of more than {most} bytes"),
            DialError::Tls(what) => write!(f, "TLS: {what}"),
            DialError::TlsTimeout(after) => write!(
                f,
                "TLS: no answer to the handshake within {} ms; {}",
                after.as_millis(),
                tls::NO_TLS
            ),
            DialError::Unknown(why) => f.write_str(why),
            DialError::NotPrimary(role) => {
                write!(
                    f,
                    "it says that it is a {role}, no primary: the sentinels are asked anew"
                )
            }
            DialError::Cut(cut) => cut.fmt(f),
            DialError::InResp2(why) => write!(f, "{why}; clients that speak RESP3 are closed first"),
            DialError::At(node, error) => write!(f, "{node}: {error}"),
        }
    }
}

impl DialError {
    /// The server's own words for a state in which it serves nobody, which clients know how to take.
    pub fn server_state(&self) -> Option<String> {
        match self {
            DialError::Refused { error, .. } if is_server_state(error) => Some(error.clone()),
            DialError::Cut(cut) if cut.is_server_state => Some(cut.to_string()),
            DialError::At(_, error) => error.server_state(),
            _ => None,
        }
    }

    /// Whether the server wants a password that it is not shown.
    pub fn wants_password(&self) -> bool {
        match self {
            DialError::Refused { error, .. } => error.starts_with("NOAUTH") || error.starts_with("WRONGPASS"),
            DialError::At(_, error) => error.wants_password(),
            _ => false,
        }
    }

    /// The same, or that it wants none and is shown one.
    fn is_of_password(&self) -> bool {
        match self {
            DialError::Refused { error, .. } if error.starts_with("ERR AUTH <password> called without any") => true,
            DialError::At(_, error) => error.is_of_password(),
            _ => self.wants_password(),
        }
    }
}

/// Passwords that are remembered besides the one that is shown.
const MOST_HEARD: usize = 8;
/// For so long one that was sent may not have been executed.
const NEWS_US: u64 = 500_000;
const FORGET_US: u64 = 600_000_000;
const NEWS_PAUSE: Duration = Duration::from_millis(5);

/// Whether the server says by this error (without its mark) that it serves nobody now.
pub fn is_server_state(error: impl AsRef<[u8]>) -> bool {
    [&b"BUSY "[..], b"LOADING ", b"MASTERDOWN "]
        .iter()
        .any(|code| error.as_ref().starts_with(code))
}

impl From<io::Error> for DialError {
    fn from(e: io::Error) -> Self {
        match tls::explain(&e, None) {
            Some(what) => DialError::Tls(what),
            None if is_local(&e) => DialError::Local(e.to_string()),
            None => DialError::Io(e.to_string()),
        }
    }
}

fn is_local(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let of = [
        Errno::MFILE,
        Errno::NFILE,
        Errno::ADDRNOTAVAIL,
        Errno::NOBUFS,
        Errno::NOMEM,
        Errno::AGAIN,
    ];
    of.iter()
        .any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

impl Target {
    /// One node for good.
    pub fn fixed(node: Endpoint, access: Access, connect_timeout: Duration, breaker: breaker::Settings) -> Target {
        let route = Route {
            generation: 0,
            node: Ok(node),
            role: Role::Any,
        };
        Target::following(watch::channel(route).1, access, connect_timeout, breaker)
    }

    /// The node that somebody else names.
    pub fn following(
        route: watch::Receiver<Route>,
        access: Access,
        connect_timeout: Duration,
        breaker: breaker::Settings,
    ) -> Target {
        Target {
            route,
            access: Arc::new(RwLock::new(Arc::new(access))),
            heard: Arc::default(),
            search: Arc::default(),
            doubts: Arc::default(),
            breaker: Arc::new(Breaker::new(breaker)),
            is_locked: Arc::default(),
            spoken: Arc::default(),
            renewed: Arc::default(),
            connect_timeout,
            dials: Arc::new(Semaphore::new(DIALS_AT_ONCE)),
            control: Handle::try_current().ok(),
        }
    }

    /// Another server that is spoken to in the same way, now and later.
    pub fn beside(&self, route: watch::Receiver<Route>) -> Target {
        Target {
            route,
            breaker: Arc::new(self.breaker.another()),
            is_locked: Arc::default(),
            dials: Arc::new(Semaphore::new(DIALS_AT_ONCE)),
            ..self.clone()
        }
    }

    /// Where it is, if that is known.
    pub fn endpoint(&self) -> Option<Endpoint> {
        self.route.borrow().node.clone().ok()
    }

    /// Why it is not known where it is.
    pub fn why_unknown(&self) -> Option<String> {
        self.route.borrow().node.clone().err()
    }

    pub fn generation(&self) -> u32 {
        self.route.borrow().generation
    }

    /// The node as it is shown to people.
    pub fn node(&self) -> String {
        match &self.route.borrow().node {
            Ok(node) => node.to_string(),
            Err(_) => "not known".to_owned(),
        }
    }

    pub fn access(&self) -> Arc<Access> {
        Arc::clone(&self.access.read())
    }

    /// From now on new connections are made in this way.
    pub fn set_access(&self, access: Access) {
        self.change_access(|_| access);
    }

    /// The same, but a password that is no longer that of `before` stays: somebody has heard of it meanwhile.
    pub fn renew_access(&self, before: &Access, access: Access) {
        self.change_access(|now| match now.password == before.password {
            true => access,
            false => Access {
                password: now.password.clone(),
                ..access
            },
        });
    }

    fn change_access(&self, change: impl FnOnce(&Access) -> Access) {
        {
            let mut access = self.access.write();
            *access = Arc::new(change(&access));
        }
        self.breaker.probe_now();
        self.renewed.notify_waiters();
    }

    /// Which version of the protocol it speaks.
    pub fn spoken(&self) -> &Arc<Spoken> {
        &self.spoken
    }

    /// A password that a client gives the server, which may take it or not, and now or later.
    pub fn hear(&self, password: &Secret) {
        let mut heard = self.heard.lock();
        let now_us = clock::now_us();
        // Of older ones it has been found out by now which the server has taken.
        heard.retain(|(other, heard_us)| other != password && now_us.saturating_sub(*heard_us) <= FORGET_US);
        if heard.len() == MOST_HEARD {
            heard.remove(0);
        }
        heard.push((password.clone(), now_us));
    }

    pub fn breaker(&self) -> &Breaker {
        &self.breaker
    }

    /// Whether the node has refused the proxy for want of a password, and nobody since knows better.
    pub fn is_locked(&self) -> bool {
        self.is_locked.load(Relaxed)
    }

    /// An attempt to get something from the node of this generation, begun at this time (µs), has come to nothing by the node's
    /// fault. Called within a runtime, unless the target was made in one.
    pub fn failed(&self, generation: u32, begun_us: u64, why: &str) {
        // What an earlier node has failed at says nothing about this one.
        if generation == self.generation() && self.breaker.failed(generation, begun_us, why) {
            let tended = breaker::tend(self.clone());
            match &self.control {
                Some(control) => drop(control.spawn(tended)),
                None => drop(tokio::spawn(tended)),
            }
        }
    }

    /// A connection to the node was lost or could not be had.
    pub fn doubt(&self) {
        self.doubts.notify_one();
    }

    pub fn doubts(&self) -> Arc<Notify> {
        Arc::clone(&self.doubts)
    }

    /// Waits until the breaker is closed, or the node is no longer that of this generation.
    pub async fn closed(&self, generation: u32) {
        tokio::select! {
            () = self.breaker.closed() => {}
            () = self.left(generation) => {}
        }
    }

    /// Waits so long, or until the node is no longer that of this generation, or until its breaker has closed, or until there
    /// are other credentials: an attempt is worth it again. Whether it is another node.
    pub async fn pause(&self, length: Duration, generation: u32) -> bool {
        tokio::select! {
            () = tokio::time::sleep(length) => false,
            () = self.breaker.closed_again() => false,
            () = self.renewed.notified() => false,
            () = self.left(generation) => true,
        }
    }

    /// Waits until the node is no longer that of this generation.
    async fn left(&self, generation: u32) {
        let mut route = self.route.clone();
        if route.wait_for(|route| route.generation != generation).await.is_err() {
            // Nobody is left who could change it.
            std::future::pending::<()>().await;
        }
    }

    /// Connects and greets, unless the breaker is open. Nothing is left in the stream: the next reply belongs to the next request.
    pub async fn open(&self, greeting: Greeting) -> Result<(Stream, Greeted), DialError> {
        if let Some(cut) = self.breaker.cut() {
            return Err(DialError::Cut(cut));
        }
        let (begun_us, generation) = (clock::now_us(), self.generation());
        let tried = self.access();
        let mut opened = self.dial(&greeting).await;
        if opened.as_ref().is_err_and(DialError::is_of_password)
            && let Some(connected) = self.dial_with_heard(tried, &greeting).await
        {
            opened = Ok(connected);
        }
        let is_locked = opened.as_ref().err().is_some_and(DialError::wants_password);
        if is_locked || opened.is_ok() {
            self.is_locked.store(is_locked, Relaxed);
        }
        if opened.is_ok() {
            self.breaker.greeted();
        }
        if let Err(error) = &opened
            && breaker::is_failure(error)
            && !(breaker::is_silence(error) && self.breaker.is_connected())
        {
            let why = error.server_state().unwrap_or_else(|| error.to_string());
            self.failed(generation, begun_us, &why);
        }
        opened
    }

    /// The same for clients' requests: one in RESP2 is not to be had before clients that speak RESP3 are gone.
    pub async fn open_for_clients(&self, greeting: Greeting) -> Result<(Stream, Greeted), DialError> {
        let (stream, mut greeted) = self.open(greeting).await?;
        if let Some(refusal) = greeted.refusal.take() {
            greeted.carrier = self.spoken.carry(&refusal, self.connect_timeout).await;
            if greeted.carrier.is_none() {
                return Err(DialError::InResp2(refusal));
            }
        }
        Ok((stream, greeted))
    }

    /// The same whatever the breaker says.
    pub(super) async fn dial(&self, greeting: &Greeting) -> Result<(Stream, Greeted), DialError> {
        self.dial_as(None, greeting).await
    }

    /// The server wants another password than that of `tried`: perhaps one that a client has given it, the latest first. One
    /// that was just sent may be executed meanwhile; what is refused later than that never was.
    ///
    /// One search at a time: all connections are refused at once, and who has waited finds what the first has found.
    async fn dial_with_heard(&self, mut tried: Arc<Access>, greeting: &Greeting) -> Option<(Stream, Greeted)> {
        let deadline = Instant::now() + self.connect_timeout;
        let _search = tokio::time::timeout_at(deadline, self.search.lock()).await.ok()?;
        let mut pause = NEWS_PAUSE;
        loop {
            let before = self.access();
            if before.password != tried.password {
                tried = before;
                match self.dial(greeting).await {
                    Ok(opened) => return Some(opened),
                    // It has been given yet another one.
                    Err(error) if error.is_of_password() && Instant::now() < deadline => continue,
                    Err(_) => return None,
                }
            }
            let heard: Vec<(Secret, u64)> = self.heard.lock().iter().rev().cloned().collect();
            for (password, heard_us) in &heard {
                let is_news = clock::now_us().saturating_sub(*heard_us) <= NEWS_US;
                let access = before.with_password(password)?;
                match self.dial_as(Some(&access), greeting).await {
                    Ok(opened) => {
                        tracing::info!(
                            "the upstream has a password that a client has given it: new connections show it"
                        );
                        self.renew_access(&before, access);
                        return Some(opened);
                    }
                    Err(error) if error.is_of_password() => {
                        let is_kept = |known: &(Secret, u64)| is_news || known.0 != *password || known.1 != *heard_us;
                        self.heard.lock().retain(is_kept);
                    }
                    Err(_) => return None,
                }
            }
            let (_, heard_us) = heard.first()?;
            if clock::now_us().saturating_sub(*heard_us) > NEWS_US || Instant::now() >= deadline {
                return None;
            }
            tokio::time::sleep(pause).await;
            pause *= 2;
        }
    }

    async fn dial_as(&self, access: Option<&Access>, greeting: &Greeting) -> Result<(Stream, Greeted), DialError> {
        let mut route = self.route.clone();
        let deadline = Instant::now() + self.connect_timeout;
        loop {
            let Route { generation, node, role } = route.borrow_and_update().clone();
            let node = match node {
                Ok(node) => node,
                Err(why) => match tokio::time::timeout_at(deadline, changed(&mut route)).await {
                    Ok(()) => continue,
                    Err(_) => return Err(DialError::Unknown(why)),
                },
            };
            let own = self.access();
            let access = access.unwrap_or(&own);
            let opened = tokio::select! {
                biased;
                () = changed(&mut route) => continue,
                opened = access.open(&node, role, greeting, self.connect_timeout) => opened,
            };
            return match opened {
                Ok((stream, greeted)) => {
                    if greeting.protocol == Protocol::Best {
                        self.spoken.heard(greeted.refusal.as_deref());
                    }
                    Ok((stream, Greeted { generation, ..greeted }))
                }
                Err(error) => {
                    self.doubt();
                    Err(match role {
                        Role::Any => error,
                        Role::Primary => DialError::At(node.to_string(), Box::new(error)),
                    })
                }
            };
        }
    }
}

/// Nobody may be left who could change it.
async fn changed(route: &mut watch::Receiver<Route>) {
    if route.changed().await.is_err() {
        std::future::pending::<()>().await;
    }
}

impl Access {
    /// The same with another password, where it is the default user's; an empty one is none.
    pub fn with_password(&self, password: &Secret) -> Option<Access> {
        let is_default = self.user.as_deref().is_none_or(|user| user == "default");
        is_default.then(|| Access {
            password: (!password.expose().is_empty()).then(|| password.clone()),
            ..self.clone()
        })
    }

    /// The user and password that are shown to the server.
    pub fn credentials(&self) -> Option<Credentials> {
        self.password.as_ref().map(|password| Credentials {
            user: self.user.clone().unwrap_or_else(|| "default".to_owned()),
            password: password.clone(),
        })
    }

    async fn connect_socket(&self, node: &Endpoint, within: Duration) -> Result<Stream, DialError> {
        use tokio::time::timeout_at;
        let deadline = Instant::now() + within;
        let late = |_| DialError::Timeout(within);
        match node {
            Endpoint::Tcp { host, port } => {
                let connecting = TcpStream::connect((host.as_str(), *port));
                let stream = timeout_at(deadline, connecting).await.map_err(late)??;
                stream.set_nodelay(true)?;
                let keepalive = socket2::TcpKeepalive::new().with_time(Duration::from_secs(60));
                socket2::SockRef::from(&stream).set_tcp_keepalive(&keepalive)?;
                match &self.tls {
                    None => Ok(Stream::Tcp(stream)),
                    Some(tls) => match timeout_at(deadline, tls.connect(stream, host)).await {
                        Ok(connected) => connected.map_err(DialError::Tls),
                        Err(_) => Err(DialError::TlsTimeout(within)),
                    },
                }
            }
            Endpoint::Unix(path) => {
                let connecting = UnixStream::connect(path);
                Ok(Stream::Unix(timeout_at(deadline, connecting).await.map_err(late)??))
            }
        }
    }

    /// Connects to this server and greets.
    pub async fn open(
        &self,
        node: &Endpoint,
        role: Role,
        greeting: &Greeting,
        connect_timeout: Duration,
    ) -> Result<(Stream, Greeted), DialError> {
        let mut stream = self.connect_socket(node, connect_timeout).await?;
        let greeted = tokio::time::timeout(
            greeting.answer_within,
            handshake::greet(self, &mut stream, role, greeting),
        )
        .await
        .map_err(|_| DialError::Timeout(greeting.answer_within))??;
        Ok((stream, greeted))
    }
}
