//! One worker: a thread with its own runtime, its clients, its shared connections (one for each database in use) and
//! its pool of pinned ones. Nothing in here is seen by another thread; what is shared is behind [`Shared`].

mod links;

use std::cell::{Cell, RefCell};
use std::num::NonZeroUsize;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use bytes::Bytes;
use lru::LruCache;
use slab::Slab;
use tokio::task::AbortHandle;

use super::client::Client;
use super::cluster::{NO_SLOT, View};
use super::flight::Follower;
use super::outbox::{Ready, Touched};
use super::owed;
use super::pubsub;
use super::pubsub::hub::Hub;
use super::read::below;
use super::readers::Reading;
use super::replies::LinkSink;
use super::shared::{FlightAnswer, Message, Shared};
use super::touch::Sampler;
use super::transfers::Transfers;
use super::waiter::{Answer, Effect};
use crate::cache::LinkId;
use crate::clock;
use crate::metrics::Counters;
use crate::resp::Version;
use crate::upstream::cluster::NodeId;
use crate::upstream::connection::{Connection, FULL_BYTES, Failure};
use crate::upstream::dial::Target;
use crate::upstream::facts::Facts;
use crate::upstream::occasional::Occasional;
use crate::upstream::pool::Pool;

/// Keys whose values were too large for a shared connection, remembered by name hash.
const LARGE_KEYS: usize = 1024;
/// Replies from this size on travel on a connection of their own the next time.
const LARGE_REPLY_BYTES: usize = 1 << 20;
/// Write buffers kept for the next client that has something to say.
const SPARE_BUFFERS: usize = 64;
const SPARE_BYTES: usize = 64 << 10;
/// For longer no read waits for the disk: the upstream is asked instead.
const MOST_BELOW_US: u64 = 250_000;
/// What a session takes from its socket at once.
const READ_BUFFER_BYTES: usize = 32 << 10;

pub type Link = Connection<LinkSink>;

pub struct Worker {
    pub index: u16,
    pub shared: Arc<Shared>,
    pub target: Rc<Target>,
    /// Of the node that is the upstream; what leads to an earlier one is given up.
    pub generation: Cell<u32>,
    /// Openings of breakers of which its clients know.
    openings: Cell<u64>,
    pub clients: RefCell<Slab<Rc<Client>>>,
    /// What it knows of the cluster, where the upstream is one.
    pub cluster: Option<View>,
    /// Where reads go to replicas: to which.
    pub reading: Option<Reading>,
    /// Links of connections that are not needed now, for when they are again, each under the key of its connection.
    retired: RefCell<Vec<(u32, LinkId)>>,
    /// Shared connections by database, or by the node of a cluster; few, so a list.
    connections: RefCell<Vec<Open>>,
    /// The same for scripts: a server reads nothing from a connection while it runs a script for it, so nothing else may
    /// wait behind one.
    script_connections: RefCell<Vec<(u32, Occasional<LinkSink>)>>,
    pub pool: Rc<Pool>,
    /// The subscriptions of its clients.
    pub hub: Hub,
    /// Counted by this worker alone: every batch takes it.
    facts: RefCell<Rc<Facts>>,
    facts_version: Cell<u64>,
    /// Clients that got an answer in the batch that is being applied.
    pub touched: RefCell<Vec<Rc<Client>>>,
    /// Workers that got a message in it.
    posted: RefCell<Vec<u16>>,
    /// Clients that are looked at with the next tick: they leave their replies unread.
    unread: RefCell<Vec<Rc<Client>>>,
    spare: RefCell<Vec<Vec<u8>>>,
    /// The one that came last, with a capacity of 0 if there is none.
    newest_spare: Cell<Vec<u8>>,
    /// What all sessions read into, one after the other.
    read_buffer: RefCell<Box<[u8]>>,
    pub large_keys: RefCell<LruCache<u64, ()>>,
    /// Scratch for the name hashes of a request.
    pub hashes: RefCell<Vec<u64>>,
    pub variant: RefCell<Vec<u8>>,
    /// Misses that wait for the disk.
    pub below: RefCell<below::Waiting>,
    /// Which of its hits the upstream is to hear of.
    pub sampler: Sampler,
    /// How long its transfers of large values have to rest.
    pub transfers: Transfers,
    /// When a client was last served that has no deep pipeline.
    pub polite_us: Cell<u64>,
    /// Clients whose acknowledgements wait for it.
    pub held: RefCell<owed::Held>,
}

/// Which entries of L1 will do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Trust {
    /// Those for which their link vouches.
    Vouched,
    /// Those as well for which none does any more: the upstream cannot be asked.
    Stale,
}

/// A shared connection and its task.
struct Open {
    key: u32,
    link: Rc<Link>,
    task: AbortHandle,
}

impl Worker {
    pub fn new(index: u16, shared: Arc<Shared>) -> Rc<Worker> {
        let target = Rc::new(shared.target.clone());
        let pool = Pool::new(Rc::clone(&target), Arc::clone(&shared.pinned), shared.config.pinned_max);
        Rc::new(Worker {
            index,
            // The nodes of a cluster stay what they are.
            generation: Cell::new(if shared.cluster.is_some() {
                0
            } else {
                target.generation()
            }),
            cluster: shared.cluster.as_ref().map(|cluster| View::new(Arc::clone(cluster))),
            openings: Cell::new(0),
            reading: shared.readers.as_ref().map(|readers| Reading::new(Arc::clone(readers))),
            retired: RefCell::default(),
            target,
            clients: RefCell::default(),
            connections: RefCell::default(),
            script_connections: RefCell::default(),
            pool: Rc::new(pool),
            hub: Hub::default(),
            facts: RefCell::new(Rc::new(Facts::clone(&shared.facts()))),
            facts_version: Cell::new(shared.facts_version()),
            touched: RefCell::default(),
            posted: RefCell::default(),
            unread: RefCell::default(),
            spare: RefCell::default(),
            newest_spare: Cell::default(),
            read_buffer: RefCell::default(),
            large_keys: RefCell::new(LruCache::new(NonZeroUsize::MIN.saturating_add(LARGE_KEYS - 1))),
            hashes: RefCell::default(),
            variant: RefCell::default(),
            below: RefCell::default(),
            sampler: Sampler::new(shared.config.cache.touch_sample),
            transfers: Transfers::new(shared.config.clients.transfer_share_percent),
            polite_us: Cell::new(0),
            held: RefCell::default(),
            shared,
        })
    }

    pub fn counters(&self) -> &Counters {
        &self.shared.counters[usize::from(self.index)]
    }

    pub fn facts(&self) -> Rc<Facts> {
        Rc::clone(&self.facts.borrow())
    }

    /// Keeps links watched, facts fresh and pools small; called several times within the staleness bound.
    pub fn tick(self: &Rc<Self>) {
        let now_us = clock::now_us();
        let probe_after = self.shared.config.cache.bound / 4;
        if let Some(view) = &self.cluster {
            view.tick_pools(now_us);
        }
        if self.cluster.is_some() || self.reading.is_some() {
            self.follow_nodes();
        }
        for Open { link, .. } in self.connections.borrow().iter() {
            link.patient_until_us.set(self.shared.pause.until_us());
            link.tick(now_us, probe_after);
            self.shared.links.renew(link.sink.link);
        }
        self.script_connections
            .borrow_mut()
            .retain(|(_, open)| !open.tick(now_us, probe_after, false));
        self.hub.tick(now_us, probe_after, self.shared.pause.until_us());
        self.pool.tick(now_us);
        for client in self.unread.take() {
            client.is_looked_at.set(false);
            client.wake();
        }
        owed::look(self, now_us);
        below::give_up(self, (probe_after.as_micros() as u64).min(MOST_BELOW_US), now_us);
        let openings = self.target.breaker().openings();
        if openings != self.openings.replace(openings) {
            self.look_at_pinned();
        }
        let version = self.shared.facts_version();
        if version != self.facts_version.replace(version) {
            *self.facts.borrow_mut() = Rc::new(Facts::clone(&self.shared.facts()));
        }
    }

    /// The upstream is another node: every connection to the earlier one is closed, and clients that have one of their own
    /// look at it.
    pub fn follow_switch(&self) {
        let generation = self.target.generation();
        self.generation.set(generation);
        let why = format!("the primary is now {}", self.target.node());
        for Open { link, .. } in self.connections.borrow().iter() {
            link.leave_before(generation, &why);
        }
        for (_, open) in self.script_connections.borrow().iter() {
            open.link().leave_before(generation, &why);
        }
        if let Some(link) = self.hub.existing() {
            link.leave_before(generation, &why);
        }
        self.pool.clear();
        for (_, client) in self.clients.borrow().iter() {
            client.wake();
        }
    }

    /// A node is given up: clients with a connection of their own look whether it is theirs.
    fn look_at_pinned(&self) {
        for (_, client) in self.clients.borrow().iter() {
            if client.meta.is_pinned.load(Relaxed) {
                client.wake();
            }
        }
    }

    /// How often `tick` is due.
    pub fn tick_period(&self) -> Duration {
        let cache = &self.shared.config.cache;
        let timeouts = &self.shared.config.upstream_timeouts;
        let shortest = timeouts.read.min(timeouts.request);
        (cache.bound / 8).min(shortest / 10).max(Duration::from_millis(5))
    }

    // ---- clients

    pub fn enter(&self, client: &Rc<Client>) {
        let place = self.clients.borrow_mut().insert(Rc::clone(client));
        client.place.set(place as u32);
        self.shared
            .registry
            .lock()
            .insert(client.meta.id, Arc::clone(&client.meta));
        self.counters().clients_accepted_total.add(1);
        if self.shared.is_draining.load(Relaxed) {
            client.state.borrow_mut().is_closing = true;
        }
    }

    pub fn exit(&self, client: &Rc<Client>) {
        let _ = self.clients.borrow_mut().try_remove(client.place.get() as usize);
        self.shared.registry.lock().remove(&client.meta.id);
        self.counters().clients_closed_total.add(1);
        pubsub::forget(self, client);
        client.state.borrow_mut().fall_silent();
        self.leave();
    }

    /// A client is no longer counted.
    pub fn leave(&self) {
        self.shared.inboxes[usize::from(self.index)]
            .clients
            .fetch_sub(1, Relaxed);
        self.shared.clients.fetch_sub(1, Relaxed);
    }

    /// Somebody has marked this client.
    pub fn look(&self, id: u64) {
        let clients = self.clients.borrow();
        if let Some((_, client)) = clients.iter().find(|(_, client)| client.meta.id == id) {
            client.wake();
        }
    }

    /// This client is to be looked at again soon.
    pub fn look_later(&self, client: &Rc<Client>) {
        if !client.is_looked_at.replace(true) {
            self.unread.borrow_mut().push(Rc::clone(client));
        }
    }

    /// Clients get the answers that are due and are closed.
    pub fn drain(&self) {
        for (_, client) in self.clients.borrow().iter() {
            client.state.borrow_mut().is_closing = true;
            client.wake();
        }
    }

    // ---- what voids more than one key

    /// A flush, or a write whose keys nobody knows: nothing older survives.
    pub fn void_everything(&self) {
        self.shared.void_everything();
    }

    /// The server has forgotten everything that this link read.
    pub fn void_link(&self, link: LinkId) {
        self.shared.links.void_all(link);
        self.shared.void_copies();
    }

    /// A read whose reply was too large for a shared connection goes another way next time.
    pub fn remember_large_reply(&self, effect: &Effect, bytes: usize) {
        if bytes < LARGE_REPLY_BYTES {
            return;
        }
        match effect {
            Effect::Read(touched) | Effect::Mget { touched, .. } => self.remember_large(large_name(touched)),
            Effect::Joint(parts) => self.remember_large(large_name(&parts.touched)),
            Effect::FillRead(_, hash) => self.remember_large(Some(*hash)),
            _ => {}
        }
    }

    /// A key, or several that are read together, with a large value: every worker is told.
    pub fn remember_large(&self, name: Option<u64>) {
        let Some(hash) = name else { return };
        let is_news = self.large_keys.borrow_mut().put(hash, ()).is_none();
        if is_news {
            self.tell_others(|| Message::Large { hash });
        }
    }

    /// The reply to a read had so many bytes.
    pub fn note_size(&self, read: &Touched, bytes: usize) {
        if bytes >= LARGE_REPLY_BYTES {
            return;
        }
        let own = large_name(read).into_iter();
        for hash in own.chain(read.hashes().iter().copied()) {
            if self.large_keys.borrow_mut().pop(&hash).is_some() {
                self.tell_others(|| Message::NotLarge { hash });
            }
        }
    }

    /// Whether what is read had a large reply the last time, or one of the keys has a large value.
    pub fn is_known_large(&self, read: &Touched) -> bool {
        let large = self.large_keys.borrow();
        !large.is_empty()
            && (read.hashes().iter().any(|hash| large.contains(hash))
                || large_name(read).is_some_and(|name| large.contains(&name)))
    }

    fn tell_others(&self, message: impl Fn() -> Message) {
        let others = (0..)
            .zip(&self.shared.inboxes)
            .filter(|(index, _)| *index != self.index);
        others.for_each(|(_, inbox)| inbox.send(message()));
    }

    // ---- answers to followers

    /// The flight has ended with a reply (a RESP3 frame): followers of this worker at once, others by message.
    pub fn answer_followers(&self, followers: &[Follower], convert: impl Fn(&mut Ready, Version)) {
        let mut converted: [Option<Bytes>; 2] = [None, None];
        for follower in followers {
            let bytes = converted[usize::from(follower.version == Version::Resp3)].get_or_insert_with(|| {
                let mut ready = Ready::default();
                convert(&mut ready, follower.version);
                ready.into_bytes()
            });
            self.answer_follower(follower, FlightAnswer::Reply(bytes.clone()));
        }
    }

    pub fn fail_followers(&self, followers: &[Follower], error: &str) {
        if followers.is_empty() {
            return;
        }
        let error: Arc<str> = error.into();
        for follower in followers {
            self.answer_follower(follower, FlightAnswer::Error(Arc::clone(&error)));
        }
    }

    /// The same by message even to this worker: for guards that are dropped anywhere.
    pub fn fail_followers_later(&self, followers: &[Follower], error: &str) {
        for follower in followers {
            let answer = FlightAnswer::Error(error.into());
            self.shared.inboxes[usize::from(follower.worker)].send(Message::Answer { to: *follower, answer });
        }
    }

    fn answer_follower(&self, follower: &Follower, answer: FlightAnswer) {
        if follower.worker == self.index {
            self.take_answer(follower, &answer);
        } else {
            self.shared.inboxes[usize::from(follower.worker)].push(Message::Answer { to: *follower, answer });
            let mut posted = self.posted.borrow_mut();
            if !posted.contains(&follower.worker) {
                posted.push(follower.worker);
            }
        }
    }

    /// The client that follows, if it is one of this worker and still there.
    pub fn client_of(&self, follower: &Follower) -> Option<Rc<Client>> {
        let clients = self.clients.borrow();
        let client = clients
            .get(follower.place as usize)
            .filter(|c| c.meta.id == follower.client);
        client.filter(|_| follower.worker == self.index).map(Rc::clone)
    }

    /// An answer for a client of this worker, if it is still there.
    pub fn take_answer(&self, to: &Follower, answer: &FlightAnswer) {
        let Some(client) = self.client_of(to) else { return };
        match answer {
            FlightAnswer::Reply(bytes) => client.answer(to.sequence, Answer::Converted(bytes.clone()), &self.touched),
            FlightAnswer::Error(text) => client.answer(to.sequence, Answer::Error(text), &self.touched),
        }
    }

    /// Ends a batch: sessions and workers that got something are woken, each once.
    pub fn wake_touched(&self) {
        while let Some(client) = self.touched.borrow_mut().pop() {
            client.wake_touched();
        }
        for worker in self.posted.borrow_mut().drain(..) {
            self.shared.inboxes[usize::from(worker)].notify();
        }
    }

    // ---- buffers

    /// The buffer to read into; whoever has it gives it back before his turn ends.
    pub fn take_read_buffer(&self) -> Box<[u8]> {
        let buffer = std::mem::take(&mut *self.read_buffer.borrow_mut());
        if buffer.is_empty() {
            vec![0; READ_BUFFER_BYTES].into()
        } else {
            buffer
        }
    }

    pub fn return_read_buffer(&self, buffer: Box<[u8]>) {
        *self.read_buffer.borrow_mut() = buffer;
    }

    pub fn lend_buffer(&self, ready: &mut Ready) {
        if ready.bytes.capacity() == 0 {
            ready.bytes = self.newest_spare.take();
            if ready.bytes.capacity() == 0
                && let Some(spare) = self.spare.borrow_mut().pop()
            {
                ready.bytes = spare;
            }
        }
    }

    /// An empty buffer that its client does not need now.
    pub fn return_buffer(&self, ready: &mut Ready) {
        let bytes = std::mem::take(&mut ready.bytes);
        if !(1..=SPARE_BYTES).contains(&bytes.capacity()) {
            return;
        }
        let older = self.newest_spare.replace(bytes);
        if older.capacity() > 0 {
            let mut spare = self.spare.borrow_mut();
            if spare.len() < SPARE_BUFFERS {
                spare.push(older);
            }
        }
    }

    /// Books what a client holds now. Over the budget of all buffers the large holders are the ones that go; false: this
    /// one must.
    #[must_use]
    pub fn account(&self, client: &Client, bytes: usize) -> bool {
        let before = client.accounted_bytes.replace(bytes);
        let total = &self.shared.buffered_bytes;
        if bytes > before {
            let now = total.fetch_add(bytes - before, Relaxed) + (bytes - before);
            now <= self.shared.config.clients.buffer_budget_bytes || bytes < LARGE_HOLDER_BYTES
        } else {
            if bytes < before {
                total.fetch_sub(before - bytes, Relaxed);
            }
            true
        }
    }

    /// A client of this worker that follows a flight may be answered by a read that is sent again.
    pub fn may_follow_again(&self, follower: &Follower, touched: &Touched) -> bool {
        self.client_of(follower)
            .is_some_and(|client| client.state.borrow().outbox.may_go_again(follower.sequence, touched))
    }

    /// The text of the error for a request whose deadline has passed.
    pub fn late(&self, sink: &LinkSink) -> String {
        format!(
            "ERR nearcache: upstream {} has not answered within the request timeout of {} ms; a write may or may not have been executed",
            sink.name(self),
            self.shared.config.upstream_timeouts.request.as_millis()
        )
    }

    /// The text of the error for a request that is not even queued.
    pub fn overloaded(&self, sink: &LinkSink) -> String {
        format!(
            "ERR nearcache: upstream {} does not keep up: {} MiB of requests wait for it, some for longer than the request timeout; \
             this one was not sent",
            sink.name(self),
            FULL_BYTES >> 20
        )
    }

    /// Subscriptions go to one node, with a cluster to some primary.
    pub fn unavailable_to_listen(&self, failure: &Failure) -> String {
        match &self.cluster {
            Some(_) => unavailable(&self.target.node(), failure),
            None => unavailable(&self.shared.upstream_name, failure),
        }
    }

    /// The same of one node of the cluster.
    pub fn unavailable_at(&self, view: &View, node: NodeId, failure: &Failure) -> String {
        unavailable(&view.name(node), failure)
    }

    /// The same of whatever this connection leads to.
    pub fn unavailable_on(&self, sink: &LinkSink, failure: &Failure) -> String {
        unavailable(&sink.name(self), failure)
    }

    /// Whether a slot of the cluster is on its way to another node: nothing is kept of it.
    #[inline]
    pub fn is_moving(&self, slot: u16) -> bool {
        slot != NO_SLOT && self.cluster.as_ref().is_some_and(|view| view.cluster.is_moving(slot))
    }
}

fn unavailable(upstream: &str, failure: &Failure) -> String {
    match failure {
        Failure::Unavailable(why) => format!("ERR nearcache: upstream {upstream} is unavailable: {why}"),
        Failure::Refused(error) => error.clone(),
        Failure::Lost(why) => format!(
            "ERR nearcache: the connection to upstream {upstream} was lost before the reply: {why}; a write may or may not have been executed"
        ),
    }
}

/// Under what the size of a reply is remembered: the key, or several in this order.
fn large_name(read: &Touched) -> Option<u64> {
    read.hashes()
        .iter()
        .copied()
        .reduce(|name, hash| name.rotate_left(7).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ hash)
}

/// A client with fewer bytes in buffers is never the one that is closed when the budget of all buffers is used up.
const LARGE_HOLDER_BYTES: usize = 64 << 10;
