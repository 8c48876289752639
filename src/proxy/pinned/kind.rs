//! What a request of a pinned client does to its connection if the server agrees, and what waits for the reply that tells.

use crate::command::{Local, Path, Pin, Spec};
use crate::config::Secret;
use crate::proxy::client::ClientMeta;
use crate::proxy::client_command;
use crate::proxy::local::{Hello, integer};
use crate::proxy::outbox::Touched;
use crate::proxy::password;
use crate::proxy::subscriptions::Subscription;
use crate::resp::Version;
use crate::resp::request::Args;

/// A request of which the reply is still to come.
pub struct Waiting {
    pub kind: Kind,
    pub read: Touched,
    pub written: Touched,
    pub is_blocking: bool,
    /// What earlier commands without a reply have touched: they are executed when this one is answered.
    pub silent: Option<Touched>,
    /// Of a cluster: that of its keys.
    pub slot: Option<u16>,
}

impl Waiting {
    pub fn of(kind: Kind) -> Waiting {
        Waiting {
            kind,
            read: Touched::None,
            written: Touched::None,
            is_blocking: false,
            silent: None,
            slot: None,
        }
    }

    /// A request of which nothing is known.
    pub fn anything() -> Waiting {
        Waiting {
            read: Touched::All,
            written: Touched::All,
            ..Waiting::of(Kind::Plain)
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    Plain,
    Multi,
    /// One that the proxy has answered before it knew where to send it.
    HeldMulti,
    Exec,
    Discard,
    Watch,
    Unwatch,
    /// So many confirmations are to come.
    Subscribe(Subscription, usize),
    /// So many, or (none named) one for each subscription there is when its turn comes.
    Unsubscribe(Subscription, Option<usize>),
    Monitor,
    /// The invalidations go to this client, to this connection itself if none is named.
    TrackingOn {
        redirect: Option<i64>,
    },
    TrackingOff,
    /// `CLIENT ID`, `GETREDIR` and `TRACKINGINFO`: the reply tells an id.
    ClientId,
    Redirection,
    TrackingInfo,
    /// `CLIENT PAUSE`, for so long (ms), and of everything or of writes only.
    Pause {
        length_ms: u64,
        is_all: bool,
    },
    Unpause,
    /// `PUBLISH` and `PUBSUB NUMSUB`: the reply tells a number of clients that listen.
    Receivers {
        is_sharded: bool,
        channel: Box<[u8]>,
    },
    Subscribers {
        is_sharded: bool,
    },
    Setting,
    /// `CLIENT NO-EVICT` and `NO-TOUCH`: a bit of [`ClientMeta::flags`].
    Mark {
        mode: u8,
        is_on: bool,
    },
    /// `CONFIG SET requirepass`.
    Requirepass(Secret),
    Select(u32),
    SetName(Box<str>),
    Hello {
        version: Option<Version>,
        name: Option<Box<str>>,
        is_foreign: bool,
    },
    Auth {
        is_own: bool,
    },
    Reset,
    Quit,
    /// The proxy's own request: its reply is not the client's.
    Own,
}

impl Kind {
    /// Whether, if the server agrees, a state begins that needs the connection.
    pub fn may_begin_a_state(&self) -> bool {
        matches!(
            self,
            Kind::Multi
                | Kind::HeldMulti
                | Kind::Watch
                | Kind::Subscribe(..)
                | Kind::Unsubscribe(..)
                | Kind::Monitor
                | Kind::TrackingOn { .. }
                | Kind::Setting
                | Kind::Mark { is_on: true, .. }
        )
    }
}

/// What a request does to its connection if the server agrees.
pub fn kind(spec: &Spec, path: Path, args: Args<'_>) -> Kind {
    let named = args.len() - 1;
    let is = |i: usize, word: &[u8]| args.arg(i).eq_ignore_ascii_case(word);
    match &*spec.name {
        "multi" => Kind::Multi,
        "exec" => Kind::Exec,
        "discard" => Kind::Discard,
        "watch" => Kind::Watch,
        "unwatch" => Kind::Unwatch,
        "config" => password::set_by(args).map_or(Kind::Plain, Kind::Requirepass),
        name @ ("publish" | "spublish") => Kind::Receivers {
            is_sharded: name == "spublish",
            channel: args.arg(1).into(),
        },
        "pubsub" if is(1, b"numsub") => Kind::Subscribers { is_sharded: false },
        "pubsub" if is(1, b"shardnumsub") => Kind::Subscribers { is_sharded: true },
        name => match path {
            Path::Pin(Pin::Subscribe) => match Subscription::of_command(name) {
                Some((which, true)) => Kind::Subscribe(which, named),
                Some((which, false)) => Kind::Unsubscribe(which, (named > 0).then_some(named)),
                None => Kind::Plain,
            },
            Path::Local(Local::Reset) => Kind::Reset,
            Path::Local(Local::Quit) => Kind::Quit,
            Path::Local(Local::Client) if args.len() == 3 && is(1, b"setname") => Kind::SetName(word(args.arg(2))),
            Path::Local(Local::Client) if args.len() == 2 && is(1, b"unpause") => Kind::Unpause,
            Path::Local(Local::Client) if is(1, b"pause") => Kind::Pause {
                length_ms: integer(args.arg(2)).and_then(|ms| u64::try_from(ms).ok()).unwrap_or(0),
                is_all: !is(3, b"write"),
            },
            Path::Local(Local::Client) if args.len() == 2 && is(1, b"id") => Kind::ClientId,
            Path::Local(Local::Client) if args.len() == 2 && is(1, b"getredir") => Kind::Redirection,
            Path::Local(Local::Client) if args.len() == 2 && is(1, b"trackinginfo") => Kind::TrackingInfo,
            // A setting of newer servers.
            Path::Local(Local::Client) if !client_command::is_known(args.arg(1)) => Kind::Setting,
            Path::Local(Local::Select) => integer(args.arg(1))
                .and_then(|db| u32::try_from(db).ok())
                .map_or(Kind::Plain, Kind::Select),
            Path::Local(Local::Hello) => {
                let hello = Hello::parse(args).ok();
                let version = hello.as_ref().and_then(|hello| hello.version);
                Kind::Hello {
                    version,
                    name: hello.and_then(|hello| hello.name).map(word),
                    is_foreign: false,
                }
            }
            Path::Pin(Pin::Monitor) => Kind::Monitor,
            Path::Pin(Pin::Client) if is(1, b"tracking") && is(2, b"off") => Kind::TrackingOff,
            Path::Pin(Pin::Client) if is(1, b"tracking") => Kind::TrackingOn { redirect: None },
            Path::Pin(Pin::Client) if args.len() == 3 && is(1, b"no-evict") => Kind::Mark {
                mode: ClientMeta::NO_EVICT,
                is_on: is(2, b"on"),
            },
            Path::Pin(Pin::Client) if args.len() == 3 && is(1, b"no-touch") => Kind::Mark {
                mode: ClientMeta::NO_TOUCH,
                is_on: is(2, b"on"),
            },
            Path::Pin(Pin::Client | Pin::Stateful) => Kind::Setting,
            _ => Kind::Plain,
        },
    }
}

pub fn word(bytes: &[u8]) -> Box<str> {
    String::from_utf8_lossy(bytes).into()
}

/// Commands whose long arguments are values or members, never keys.
pub const LARGE_VALUES: [&str; 18] = [
    "set", "setex", "psetex", "setnx", "getset", "append", "setrange", "hset", "hmset", "hsetnx", "lpush", "rpush",
    "lpushx", "rpushx", "sadd", "zadd", "xadd", "restore",
];
