//! Requests that name one key and are forwarded as they are, one behind the other, as pipelines bring them: writes, and
//! reads where nothing is kept. What does not change from one to the next is looked up once for all of them; whatever is
//! not such a request goes the way of every request, and what was looked up is forgotten.

use std::rc::Rc;

use super::{Arrived, Road};
use crate::cache::name_hash;
use crate::command::{Access, Spec};
use crate::proxy::client::{Access as ClientAccess, Client, State};
use crate::proxy::outbox::{Source, Touched};
use crate::proxy::read::hits::{Answered, Most};
use crate::proxy::waiter::{Effect, Waiter};
use crate::proxy::worker::{Link, Worker};
use crate::resp::Version;
use crate::resp::convert::Rule;
use crate::resp::request::{Args, first_argument};

/// Where such requests of a client go, until it has sent something else.
pub struct Straight<'a> {
    link: Rc<Link>,
    version: Version,
    is_cache_used: bool,
    last: Option<Last<'a>>,
}

/// What the requests like the last one have in common with it.
struct Last<'a> {
    spec: &'a Spec,
    /// The number of arguments and the name, as they were sent.
    head: [u8; MOST_HEAD_BYTES],
    head_len: usize,
    args_behind: usize,
}

/// Of longer names, which no server has of its own, each request is looked at.
const MOST_HEAD_BYTES: usize = 32;

impl<'a> Last<'a> {
    fn new(spec: &'a Spec, args: Args<'_>) -> Option<Last<'a>> {
        let args_behind = args.len().checked_sub(1).filter(|&behind| behind > 0)?;
        let sent = args.head()?;
        let mut head = [0; MOST_HEAD_BYTES];
        head.get_mut(..sent.len())?.copy_from_slice(sent);
        Some(Last {
            spec,
            head,
            head_len: sent.len(),
            args_behind,
        })
    }

    fn head(&self) -> &[u8] {
        &self.head[..self.head_len]
    }
}

impl<'a> Straight<'a> {
    /// What stands between such a client and the upstream, if anything does, is for the long way to say.
    pub fn find(worker: &Worker, client: &Client, now_us: u64) -> Option<Straight<'a>> {
        let shared = &worker.shared;
        // A cluster asks for the slot of each key, and replicas for its name.
        if worker.cluster.is_some() || worker.reading.is_some() || shared.pause.holds_writes_back(now_us) {
            return None;
        }
        let state = client.state.borrow();
        let is_usual = state.access == ClientAccess::Own
            && state.road == Road::Main
            && state.listening.is_none()
            && !state.is_closing;
        let link = if is_usual {
            worker.existing(state.db)?
        } else {
            return None;
        };
        Some(Straight {
            link,
            version: state.version,
            is_cache_used: shared.config.cache.is_used(),
            last: None,
        })
    }

    /// Whether it is such a request.
    #[inline]
    pub fn may_take(worker: &Worker, spec: &Spec, args: Args<'_>) -> bool {
        let may_be_kept = spec.cache.is_kept() && worker.shared.config.cache.is_used();
        !may_be_kept && spec.is_straight() && spec.is_arity_ok(args.len())
    }

    /// Sends such a request, unless something stands in its way.
    pub fn send(&mut self, worker: &Worker, client: &Rc<Client>, spec: &'a Spec, arrived: &Arrived<'_>) -> bool {
        self.last = None;
        if !self.may_send(worker, spec) {
            return false;
        }
        let Some(waiter) = self.waiter(&mut client.state.borrow_mut(), client, spec, arrived.args.arg(1)) else {
            return false;
        };
        client.meta.note(spec, arrived.args);
        count(worker, spec, 1);
        self.link.send(arrived.raw, arrived.now_us, waiter);
        self.last = Last::new(spec, arrived.args);
        true
    }

    /// Sends the requests at the start of `buf` that are like the last one: the same command with as many arguments, all of
    /// them short and there.
    pub fn send_alike(&self, worker: &Worker, client: &Rc<Client>, buf: &[u8], now_us: u64, most: Most) -> Answered {
        let mut sent = Answered::default();
        let Some(last) = self.last.as_ref().filter(|last| buf.starts_with(last.head())) else {
            return sent;
        };
        if !self.may_send(worker, last.spec) {
            return sent;
        }
        let mut state = client.state.borrow_mut();
        let window = state.outbox.window(worker.shared.config.clients.max_inflight_requests);
        let room = window.saturating_sub(state.outbox.waiting());
        if state.outbox.ready().len() >= most.ready_bytes {
            return sent;
        }
        self.link.send_each(now_us, || {
            if sent.requests == most.requests || sent.requests as usize == room {
                return None;
            }
            let rest = &buf[sent.bytes..];
            let (key, len) = first_argument(rest.strip_prefix(last.head())?, last.args_behind)?;
            let raw = &rest[..last.head_len + len];
            let waiter = self.waiter(&mut state, client, last.spec, key)?;
            sent.bytes += raw.len();
            sent.requests += 1;
            Some((raw, waiter))
        });
        count(worker, last.spec, sent.requests.into());
        sent
    }

    #[inline]
    fn may_send(&self, worker: &Worker, spec: &Spec) -> bool {
        self.link.is_open() && (spec.access == Access::Write || worker.large_keys.borrow().is_empty())
    }

    /// Its place in the client's outbox is taken. `None`: it must wait.
    #[inline]
    fn waiter(&self, state: &mut State, client: &Rc<Client>, spec: &Spec, key: &[u8]) -> Option<Waiter> {
        let touched = Touched::One(name_hash(key));
        if state.outbox.must_wait_for_flight(&touched) {
            return None;
        }
        // Only a hit could overtake it.
        let sequence = match self.is_cache_used {
            true => state.outbox.expect(touched.clone(), Source::Sent),
            false => state.outbox.expect(Touched::None, Source::Sent),
        };
        Some(Waiter {
            to: Some((Rc::clone(client), sequence)),
            version: self.version,
            rule: Rule::General,
            effect: match spec.access {
                Access::Write => Effect::Write(touched),
                _ => Effect::Read(touched),
            },
        })
    }
}

fn count(worker: &Worker, spec: &Spec, requests: u64) {
    let counters = worker.counters();
    counters.shared_total.add(requests);
    if spec.access == Access::Write {
        counters.writes_total.add(requests);
    }
}
