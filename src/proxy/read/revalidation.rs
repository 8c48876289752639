//! Strings on the disk that nobody has watched: what an earlier process left, and what was read over a connection that was lost
//! since. Nobody may be shown one as it is, but a server that knows `DIGEST` (Redis 8.4) can say whether it has the same: sixteen
//! digits travel instead of the value.
//!
//! The flight is the ordinary one, with `DIGEST` in the place of the read: the lease is older than both, `DIGEST` registers the
//! key with the server as the read would, and its reply stands in the stream where that of the read would stand. So a push that
//! comes behind it voids the lease, and if none does, the copy is kept and shown as what the read has brought, with the time to
//! live that the `PTTL` behind it tells now: that of the disk is of another day. If the server has something else, or
//! nothing, or does not tell, the same lease goes on to the read; everybody who waits has sent nothing more on the key
//! meanwhile, as for any read that is looked for on the disk.
//!
//! A server is asked one question per connection before it is asked more: whether it knows the command, and whether the
//! proxy's user may use it. Where `COMMAND` does not list it, there is not even that one.

use std::cell::Cell;
use std::rc::Rc;

use bytes::Bytes;
use xxhash_rust::xxh3::xxh3_64;

use super::Lead;
use super::below::{self, Miss};
use crate::cache::LeaseId;
use crate::cache::l3::Found;
use crate::command::own;
use crate::config::Consistency;
use crate::proxy::flight::FillGuard;
use crate::proxy::replies::{Again, LinkSink};
use crate::proxy::waiter::{Effect, FillKind, Waiter};
use crate::proxy::worker::{Link, Worker};
use crate::resp::{encode, reply};

/// Whether the server at the end of a connection tells digests.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum Digests {
    #[default]
    Unknown,
    /// It was asked for the first one.
    Asked,
    Told,
    Refused,
}

/// What a worker holds of copies that a server is asked about. Beyond that the values are read.
const MOST_ASKED_BYTES: usize = 16 << 20;

/// From which size on a server is asked about a copy. `None`: it is not to be asked.
pub(super) fn least_bytes(worker: &Worker, link: &Link) -> Option<usize> {
    let least = worker.shared.config.l3.revalidate_from_bytes?;
    let is_told = matches!(link.sink.digests.get(), Digests::Unknown | Digests::Told);
    (is_told && worker.facts().has_digest).then_some(least)
}

/// From how many bytes on strings of this database and slot are asked for by their digest, for people.
///
/// # Errors
/// Why they are not.
pub fn explain(worker: &Rc<Worker>, db: u32, slot: u16) -> Result<usize, &'static str> {
    let Some(least) = worker.shared.config.l3.revalidate_from_bytes else {
        return Err("off (l3.revalidate_from)");
    };
    if worker.shared.config.cache.consistency != Consistency::Coherent {
        return Err("off (only entries of coherent consistency need it)");
    }
    let facts = worker.facts();
    if !facts.is_known {
        return Err("not known yet (the upstream has not been asked for its commands)");
    }
    if !facts.has_digest {
        return Err("off (the upstream has no DIGEST)");
    }
    match below::link_of(worker, db, slot) {
        Ok(link) if link.sink.digests.get() == Digests::Refused => Err("off (the upstream has refused DIGEST)"),
        _ => Ok(least),
    }
}

/// Whether to ask about what was found and may not be shown as it is.
pub(super) fn is_worth_a_question(worker: &Worker, miss: &Miss, found: &Found, now_us: u64) -> bool {
    let has_room = || asked_bytes(worker).get() + found.value.len() <= MOST_ASKED_BYTES;
    let lease = || miss.lead.guard.lease();
    matches!(miss.lead.kind, FillKind::Payload)
        && least_bytes(worker, &miss.link).is_some()
        && has_room()
        && lease().is_some_and(|lease| worker.shared.cache.may_be_same(lease, found, now_us))
}

fn asked_bytes(worker: &Worker) -> Rc<Cell<usize>> {
    Rc::clone(&worker.below.borrow().asked_bytes)
}

/// Sends the question and the PTTL behind it.
pub(super) fn ask(worker: &Rc<Worker>, miss: Miss, found: &Found, now_us: u64) {
    let counters = worker.counters();
    let Some(Miss { lead, link, raw, name }) = below::on_its_way(worker, miss) else {
        return counters.l3_misses_total.add(1);
    };
    let Some(lease) = lead.guard.lease() else { return };
    // In a cluster it may be another connection by now.
    if least_bytes(worker, &link).is_none() {
        counters.l3_misses_total.add(1);
        return lead.send(worker, &link, &raw, &name, now_us);
    }
    if link.sink.digests.get() == Digests::Unknown {
        link.sink.digests.set(Digests::Asked);
    }
    let mut question = Vec::with_capacity(name.len() + 32);
    encode::command(&mut question, [own::DIGEST, &*name].into_iter());
    let check = Revalidation {
        lease,
        hash: lead.hash,
        asked_us: now_us,
        copy: Copy::new(found.value.clone(), asked_bytes(worker)),
        link: Rc::clone(&link),
        raw,
        name,
    };
    let (raw, name) = (check.raw.clone(), check.name.clone());
    let effect = Effect::FillDigest(Box::new(check));
    lead.send_question(worker, &link, (&question, effect), &raw, &name, now_us);
}

/// A copy that a server is asked about.
pub struct Revalidation {
    pub lease: LeaseId,
    /// Of the name.
    pub hash: u64,
    asked_us: u64,
    copy: Copy,
    /// Where it was asked, and what is sent there if the server has something else: the read of this name.
    link: Rc<Link>,
    raw: Box<[u8]>,
    name: Box<[u8]>,
}

/// A value, counted as long as it is held.
struct Copy {
    value: Bytes,
    asked_bytes: Rc<Cell<usize>>,
}

impl Copy {
    fn new(value: Bytes, asked_bytes: Rc<Cell<usize>>) -> Copy {
        asked_bytes.set(asked_bytes.get() + value.len());
        Copy { value, asked_bytes }
    }
}

impl Drop for Copy {
    fn drop(&mut self) {
        self.asked_bytes.set(self.asked_bytes.get() - self.value.len());
    }
}

/// What a server says when it is asked for a digest.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Told {
    Same,
    /// Something else, or nothing.
    Changed,
    /// It does not know the command, or the proxy may not use it, or this is no digest of that kind.
    Refused,
    /// It serves nothing now.
    Nothing,
}

impl Told {
    /// The digest is the XXH3 of 64 bits, seed 0, of the string, as sixteen hexadecimal digits
    /// (<https://redis.io/docs/latest/commands/digest/>).
    pub fn of(frame: &[u8], value: &[u8]) -> Told {
        match reply::bulk(frame) {
            Some(Some(digest)) if digest == format!("{:016x}", xxh3_64(value)).as_bytes() => Told::Same,
            Some(Some(digest)) if digest.len() == 16 && digest.iter().all(u8::is_ascii_hexdigit) => Told::Changed,
            Some(None) => Told::Changed,
            Some(Some(_)) => Told::Refused,
            None if frame.starts_with(b"-WRONGTYPE ") => Told::Changed,
            None if reply::is_error(frame) && !frame.starts_with(b"-ERR ") && !frame.starts_with(b"-NOPERM ") => {
                Told::Nothing
            }
            None => Told::Refused,
        }
    }
}

impl Revalidation {
    /// What the server would have to say of the copy.
    pub fn value(&self) -> &[u8] {
        &self.copy.value
    }

    /// The server has told. In the place in the stream that the reply of the read would have.
    pub fn answered(self: Box<Self>, worker: &Worker, sink: &LinkSink, frame: &[u8]) {
        let told = Told::of(frame, &self.copy.value);
        let counters = worker.counters();
        match told {
            Told::Same | Told::Changed => sink.digests.set(Digests::Told),
            Told::Refused => {
                if sink.digests.replace(Digests::Refused) != Digests::Refused {
                    tracing::info!(
                        upstream = sink.name(worker),
                        reply = %String::from_utf8_lossy(frame).trim_end(),
                        "L3: the upstream tells no digests; what nobody has watched is read anew"
                    );
                }
            }
            Told::Nothing => drop(sink.digests.take()),
        }
        match told {
            Told::Same => {
                counters.l3_same_total.add(1);
                counters.l3_hits_total.add(1);
                let mut read = Vec::with_capacity(self.copy.value.len() + 32);
                encode::bulk(&mut read, &self.copy.value);
                return sink.hold_read(self.lease, read.into());
            }
            Told::Changed => {
                counters.l3_changed_total.add(1);
                worker.shared.cache.drop_below(self.hash);
            }
            Told::Refused | Told::Nothing => counters.l3_refused_total.add(1),
        }
        counters.l3_misses_total.add(1);
        sink.hold(self.lease, Again::Changed(self));
    }

    /// The PTTL is answered as well, and says nothing: now comes the read. The lease has got no reply, so that a push of this
    /// moment leaves it standing: what the read brings will be newer.
    pub fn read(self, worker: &Rc<Worker>, waiter: Waiter, (kind, slot): (FillKind, u16), now_us: u64) {
        let Revalidation {
            lease,
            hash,
            asked_us,
            link,
            raw,
            name,
            ..
        } = self;
        let guard = FillGuard::new(worker, lease);
        // The guard tells those who follow, should nobody lead.
        let Some((client, sequence)) = waiter.to else { return };
        let lead = Lead {
            client,
            sequence,
            version: waiter.version,
            rule: waiter.rule,
            hash,
            slot,
            kind,
            guard,
        };
        below::send_begun(worker, Miss { lead, link, raw, name }, asked_us, now_us);
    }
}

#[cfg(test)]
mod tests;
