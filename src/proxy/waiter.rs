//! What a request on a shared connection leaves behind: who waits, how the reply is turned into the client's version, and
//! what the reply does to L1 before the client sees it.

use std::rc::Rc;

use bytes::Bytes;

use super::client::{Client, write_frame};
use super::cluster::redirect::Routed;
use super::flight::{FillGuard, Follower};
use super::outbox::{Charge, Ready, Touched};
use super::read::joint::Parts;
use super::read::revalidation::Revalidation;
use crate::cache::LeaseId;
use crate::command::Absent;
use crate::resp::convert::Rule;
use crate::resp::{Version, encode};

pub struct Waiter {
    /// Who gets the reply, as which of its answers; nobody for the proxy's own requests.
    pub to: Option<(Rc<Client>, u64)>,
    pub version: Version,
    pub rule: Rule,
    pub effect: Effect,
}

impl Waiter {
    /// An `ASKING` in front of the request that it is for: its reply changes nothing.
    pub fn is_of_nobody(&self) -> bool {
        self.to.is_none() && matches!(self.effect, Effect::None)
    }

    /// Whose request it is, or a part of it, and as which of his answers.
    pub fn client(&self) -> Option<(&Rc<Client>, u64)> {
        match (&self.to, &self.effect) {
            (Some((client, sequence)), _) => Some((client, *sequence)),
            (None, Effect::Routed(routed)) => {
                let part = routed.part.as_ref()?;
                Some((&part.gather.client, part.gather.sequence))
            }
            (None, _) => None,
        }
    }
}

pub enum Effect {
    /// L1 has nothing to do with it.
    None,
    /// A read that is shown past L1.
    Read(Touched),
    Write(Touched),
    /// A transaction: what it reads and what it writes.
    Exec {
        read: Touched,
        written: Touched,
    },
    /// The read of a fill (its lease and name hash); its reply is kept until the PTTL reply that follows.
    FillRead(LeaseId, u64),
    /// The same with a digest in place of the read, of what was found on the disk and may be what the read would bring.
    FillDigest(Box<Revalidation>),
    /// The end of a fill.
    FillTtl(FillGuard, FillKind),
    /// An MGET whose parts may be filled: the PTTL replies of these (position among its keys, lease) follow.
    Mget {
        touched: Touched,
        leases: Box<[(usize, LeaseId)]>,
    },
    /// The PTTL of one of the keys of a [`Effect::Joint`], which follows; its reply is kept until then.
    JointTtl(LeaseId),
    /// A read of several keys of which each gets a part of the reply.
    Joint(Box<Parts>),
    /// A read that a node of a cluster has sent elsewhere, for everybody who waits for it.
    Followed {
        touched: Touched,
        followers: Vec<Follower>,
    },
    /// Any of these, to the node of a slot.
    Routed(Box<Routed>),
    /// INFO: the number of the proxy's clients goes in and, if wanted, its section.
    Info {
        has_own: bool,
    },
    /// A `PUBLISH`: the number of receivers that the server does not know of is added.
    Receivers {
        is_sharded: bool,
        channel: Box<[u8]>,
    },
    /// `PUBSUB NUMSUB`: the same for each channel.
    Subscribers {
        is_sharded: bool,
    },
}

impl Effect {
    /// What it would be without a cluster.
    pub fn own(&self) -> &Effect {
        match self {
            Effect::Routed(routed) => &routed.effect,
            effect => effect,
        }
    }
}

/// How the reply of a read is stored.
#[derive(Clone, Copy, Debug)]
pub enum FillKind {
    /// A string: its payload.
    Payload,
    /// Any other read: the reply, how it looks for a key that does not exist, and how long it is believed at most.
    Reply { absent: Absent, most_us: Option<u64> },
}

/// An answer on its way into an outbox.
pub enum Answer<'a> {
    Frame {
        bytes: &'a [u8],
        shared: Option<&'a Bytes>,
        version: Version,
        rule: &'a Rule,
    },
    /// In the client's version already.
    Converted(Bytes),
    Error(&'a str),
}

impl Answer<'_> {
    pub fn write(&self, ready: &mut Ready) {
        match self {
            Answer::Frame {
                bytes,
                shared,
                version,
                rule,
            } => write_frame(ready, bytes, *shared, *version, rule),
            Answer::Converted(bytes) => ready.push_shared(bytes.clone(), Charge::Leader),
            Answer::Error(text) => encode::error(&mut ready.bytes, text),
        }
    }
}
