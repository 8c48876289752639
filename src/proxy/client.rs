//! One downstream client as the proxy sees it: what it has said about itself, its outbox, and how to wake its session.
//! Lives on one worker; the session (downstream) owns the socket and is the only one that writes to it.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{
    AtomicBool, AtomicI32, AtomicI64, AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering::Relaxed,
};
use std::task::{Context, Waker};

use parking_lot::Mutex;

use super::cluster::detours::Detours;
use super::outbox::{Charge, Outbox, Ready};
use super::pubsub::Listening;
use super::request::Road;
use super::waiter::Answer;
use super::worker::Trust;
use crate::cache::l3::Owed;
use crate::cache::{Asker, LinkId, Own};
use crate::clock;
use crate::command::Spec;
use crate::resp::Version;
use crate::resp::convert::{self, Rule};
use crate::resp::encode;
use crate::resp::request::Args;
use crate::upstream::spoken::{Speaker, Spoken};

pub struct Client {
    pub meta: Arc<ClientMeta>,
    /// Index in the worker's list of clients.
    pub place: Cell<u32>,
    pub state: RefCell<State>,
    waker: RefCell<Option<Waker>>,
    /// Its session was woken by something else than its socket, as a rule by an answer.
    pub is_woken: Cell<bool>,
    /// Got an answer in the batch that is being applied; its session is woken at the end of it.
    is_touched: Cell<bool>,
    /// Among those that its worker looks at with the next tick.
    pub is_looked_at: Cell<bool>,
    /// Since when it has left more than the soft limit of its class unread (0: it has not).
    pub over_soft_limit_since_us: Cell<u64>,
    /// Bytes that the budget of all buffers knows of.
    pub accounted_bytes: Cell<usize>,
}

/// What other threads may know of a client, for `CLIENT LIST` and `CLIENT KILL`.
#[derive(Debug)]
pub struct ClientMeta {
    pub id: u64,
    pub worker: u16,
    pub address: String,
    pub local_address: String,
    pub connected_us: u64,
    pub active_us: AtomicU64,
    pub db: AtomicU32,
    pub is_resp3: AtomicBool,
    /// Has an upstream connection of its own: subscribed, blocked, in a transaction.
    pub is_pinned: AtomicBool,
    /// Channels, patterns and shard channels that it listens to, by way of the worker's hub.
    pub subscriptions: [AtomicU32; 3],
    /// The row of its last command in the table; `u16::MAX`: none yet.
    pub command: AtomicU16,
    /// What it does with an upstream connection of its own: bits of [`ClientMeta::MULTI`] and its neighbours.
    pub modes: AtomicU8,
    /// Commands in its open transaction; -1: there is none.
    pub queued: AtomicI32,
    /// The client to which its invalidations go; 0: itself, -1: it tracks nothing.
    pub redirect: AtomicI64,
    /// That connection's id at the server; 0: none, or not known.
    pub upstream_id: AtomicI64,
    /// Name, user, library name and version, last subcommand: changed rarely.
    pub words: Mutex<Words>,
    /// Set by whoever wants the client gone; its worker is told by a message.
    pub is_killed: AtomicBool,
    /// Another client has named it as the one to which invalidations go; ends when its session has taken a connection.
    pub is_called: AtomicBool,
}

#[derive(Clone, Debug, Default)]
pub struct Words {
    pub name: Box<str>,
    pub user: Box<str>,
    pub library: Box<str>,
    pub library_version: Box<str>,
    /// Of its last command with subcommands.
    pub subcommand: Box<str>,
}

pub struct State {
    pub outbox: Outbox,
    /// Changed by [`State::speak`] alone.
    pub version: Version,
    /// That is RESP3.
    speaker: Option<Speaker>,
    pub db: u32,
    pub access: Access,
    /// A reply whose keys nobody knows was shown at this time: L1 may answer only with what is vouched for since (0: none).
    pub floor_us: u64,
    /// The shared connection that its last request took.
    pub road: Road,
    /// Under which topology of a cluster its unanswered requests were sent.
    pub path: u64,
    /// Where those are of them that were sent again to other nodes.
    pub detours: Detours,
    /// What the disk must have before anything more is written to it.
    pub owed: Owed,
    /// Close once everything ready is written.
    pub is_closing: bool,
    /// What the client listens to by way of the worker's hub; `None` if it never did.
    pub listening: Option<Box<Listening>>,
}

/// As whom the client speaks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Access {
    /// Must authenticate first.
    Unauthenticated,
    /// As the proxy's own upstream user.
    Own,
    /// As another upstream user: a connection of its own in that name, and no hits.
    Foreign,
}

impl Client {
    pub fn new(meta: Arc<ClientMeta>, access: Access, db: u32) -> Client {
        Client {
            meta,
            place: Cell::new(u32::MAX),
            state: RefCell::new(State {
                outbox: Outbox::default(),
                version: Version::Resp2,
                speaker: None,
                db,
                access,
                floor_us: 0,
                road: Road::Main,
                path: 0,
                detours: Detours::default(),
                owed: Owed::NOTHING,
                is_closing: false,
                listening: None,
            }),
            waker: RefCell::new(None),
            is_woken: Cell::new(false),
            is_touched: Cell::new(false),
            is_looked_at: Cell::new(false),
            over_soft_limit_since_us: Cell::new(0),
            accounted_bytes: Cell::new(0),
        }
    }

    pub fn remember(&self, cx: &Context<'_>) {
        let mut waker = self.waker.borrow_mut();
        if !waker.as_ref().is_some_and(|w| w.will_wake(cx.waker())) {
            *waker = Some(cx.waker().clone());
        }
    }

    pub fn waker(&self) -> Option<Waker> {
        self.waker.borrow().clone()
    }

    pub fn wake(&self) {
        self.is_woken.set(true);
        if let Some(waker) = &*self.waker.borrow() {
            waker.wake_by_ref();
        }
    }

    /// Whether no budget or limit knows of bytes that are held for it.
    #[inline]
    pub fn has_nothing_booked(&self) -> bool {
        self.accounted_bytes.get() == 0 && self.over_soft_limit_since_us.get() == 0
    }

    pub fn kill(&self) {
        self.meta.is_killed.store(true, Relaxed);
        self.wake();
    }

    /// Puts an answer into its place and notes that the session has something to write.
    pub fn answer(self: &Rc<Self>, sequence: u64, answer: Answer<'_>, touched: &RefCell<Vec<Rc<Client>>>) {
        self.state
            .borrow_mut()
            .outbox
            .answer(sequence, |ready| answer.write(ready));
        self.touch(touched);
    }

    /// The session has something to do once the batch is over.
    #[inline]
    pub fn touch(self: &Rc<Self>, touched: &RefCell<Vec<Rc<Client>>>) {
        if !self.is_touched.replace(true) {
            touched.borrow_mut().push(Rc::clone(self));
        }
    }

    /// The batch is over.
    pub fn wake_touched(&self) {
        self.is_touched.set(false);
        self.wake();
    }
}

impl State {
    /// As whom L1 is asked for this client, whose own requests on the keys are so.
    #[inline]
    pub fn asker(&self, own: Own, now_us: u64, link: LinkId, trust: Trust) -> Asker {
        Asker {
            now_us,
            link,
            own,
            floor_us: self.floor_us,
            takes_stale: trust == Trust::Stale,
        }
    }

    /// From now on replies are of this version. False: the upstream has no such.
    #[must_use]
    pub fn speak(&mut self, version: Version, upstream: &Arc<Spoken>) -> bool {
        match version {
            Version::Resp2 => self.speaker = None,
            Version::Resp3 if self.speaker.is_some() => {}
            Version::Resp3 => match upstream.admit() {
                Some(speaker) => self.speaker = Some(speaker),
                None => return false,
            },
        }
        self.version = version;
        true
    }

    /// The client is gone.
    pub fn fall_silent(&mut self) {
        self.speaker = None;
    }

    /// An error reply; the text starts with its code ("ERR …").
    pub fn error(&mut self, text: impl AsRef<[u8]>) {
        self.outbox.answer_now(|ready| encode::error(&mut ready.bytes, text));
    }

    pub fn ok(&mut self) {
        self.outbox.answer_now(|ready| encode::simple(&mut ready.bytes, "OK"));
    }
}

impl ClientMeta {
    /// One that has just come; `addresses` are its own and the one it came to.
    pub fn new(id: u64, worker: u16, addresses: (String, String), db: u32) -> ClientMeta {
        let now_us = clock::now_us();
        let (address, local_address) = addresses;
        ClientMeta {
            id,
            worker,
            address,
            local_address,
            connected_us: now_us,
            active_us: AtomicU64::new(now_us),
            db: AtomicU32::new(db),
            is_resp3: AtomicBool::new(false),
            is_pinned: AtomicBool::new(false),
            subscriptions: Default::default(),
            command: AtomicU16::new(u16::MAX),
            modes: AtomicU8::new(0),
            queued: AtomicI32::new(-1),
            redirect: AtomicI64::new(-1),
            upstream_id: AtomicI64::new(0),
            words: Mutex::new(Words {
                user: "default".into(),
                ..Words::default()
            }),
            is_killed: AtomicBool::new(false),
            is_called: AtomicBool::new(false),
        }
    }

    pub const MULTI: u8 = 1;
    pub const BLOCKED: u8 = 2;
    pub const MONITOR: u8 = 4;
    pub const TRACKING: u8 = 8;
    pub const NO_EVICT: u8 = 16;
    pub const NO_TOUCH: u8 = 32;

    /// As in `CLIENT LIST`.
    pub fn flags(&self) -> String {
        let modes = self.modes.load(Relaxed);
        let mut flags = String::new();
        for (is_set, letter) in [
            (modes & ClientMeta::MONITOR != 0, 'O'),
            (self.is_subscribed(), 'P'),
            (modes & ClientMeta::MULTI != 0, 'x'),
            (modes & ClientMeta::BLOCKED != 0, 'b'),
            (modes & ClientMeta::TRACKING != 0, 't'),
            (modes & ClientMeta::NO_EVICT != 0, 'e'),
            (modes & ClientMeta::NO_TOUCH != 0, 'T'),
        ] {
            if is_set {
                flags.push(letter);
            }
        }
        if flags.is_empty() {
            flags.push('N');
        }
        flags
    }

    /// Remembers what it asked last.
    #[inline]
    pub fn note(&self, spec: &Spec, args: Args<'_>) {
        self.command.store(spec.id, Relaxed);
        if spec.has_subcommands {
            self.words.lock().subcommand = String::from_utf8_lossy(args.arg(1)).to_lowercase().into();
        }
    }

    pub fn is_killed(&self) -> bool {
        self.is_killed.load(Relaxed)
    }

    /// Whether it is to have an upstream connection of its own, see [`super::shared::Shared::call`].
    pub fn is_called(&self) -> bool {
        self.is_called.load(Relaxed)
    }

    /// Listens to something, by way of the worker's hub.
    pub fn is_subscribed(&self) -> bool {
        self.subscriptions.iter().any(|count| count.load(Relaxed) > 0)
    }

    pub fn idle_seconds(&self) -> u64 {
        clock::now_us().saturating_sub(self.active_us.load(Relaxed)) / 1_000_000
    }
}

/// Appends one reply of the shared RESP3 connection in the client's version.
#[inline]
pub fn write_frame(ready: &mut Ready, frame: &[u8], shared: Option<&bytes::Bytes>, version: Version, rule: &Rule) {
    let is_same = version == Version::Resp3 || matches!(frame, [b'$', b'0'..=b'9', ..] | [b':' | b'+' | b'-', ..]);
    match shared {
        Some(shared) if is_same => ready.push_shared(shared.clone(), Charge::Own),
        _ if is_same => ready.bytes.extend_from_slice(frame),
        _ => {
            if let Err(error) = convert::to_resp2(rule, frame, &mut ready.bytes) {
                encode::error(
                    &mut ready.bytes,
                    format!("ERR nearcache: reply could not be converted to RESP2: {error}"),
                );
            }
        }
    }
}
