//! Requests that name one key and are forwarded as they are, one behind the other, as pipelines bring them: writes, and
//! reads where nothing is kept. What does not change from one to the next is looked up once for all of them; whatever is
//! not such a request goes the way of every request, and what was looked up is forgotten.

use std::rc::Rc;

use super::{Arrived, Road};
use crate::cache::name_hash;
use crate::command::{Access, Spec};
use crate::proxy::client::{Access as ClientAccess, Client};
use crate::proxy::outbox::{Source, Touched};
use crate::proxy::waiter::{Effect, Waiter};
use crate::proxy::worker::{Link, Worker};
use crate::resp::Version;
use crate::resp::convert::Rule;
use crate::resp::request::Args;

/// Where such requests of a client go, until it has sent something else.
pub struct Straight {
    link: Rc<Link>,
    version: Version,
    is_cache_used: bool,
}

impl Straight {
    /// What stands between such a client and the upstream, if anything does, is for the long way to say.
    pub fn find(worker: &Worker, client: &Client, now_us: u64) -> Option<Straight> {
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
        })
    }

    /// Whether it is such a request.
    #[inline]
    pub fn may_take(worker: &Worker, spec: &Spec, args: Args<'_>) -> bool {
        let may_be_kept = spec.cache.is_kept() && worker.shared.config.cache.is_used();
        !may_be_kept && spec.is_straight() && spec.is_arity_ok(args.len())
    }

    /// Sends such a request, unless something stands in its way.
    #[inline]
    pub fn send(&self, worker: &Worker, client: &Rc<Client>, spec: &Spec, arrived: &Arrived<'_>) -> bool {
        if !self.link.is_open() {
            return false;
        }
        let touched = Touched::One(name_hash(arrived.args.arg(1)));
        let counters = worker.counters();
        let mut state = client.state.borrow_mut();
        if state.outbox.must_wait_for_flight(&touched) {
            return false;
        }
        let effect = match spec.access {
            Access::Write => {
                counters.writes_total.add(1);
                Effect::Write(touched.clone())
            }
            _ if !worker.large_keys.borrow().is_empty() => return false,
            _ => Effect::Read(touched.clone()),
        };
        // Only a hit could overtake it.
        let touched = if self.is_cache_used { touched } else { Touched::None };
        let sequence = state.outbox.expect(touched, Source::Sent);
        drop(state);
        client.meta.note(spec, arrived.args);
        counters.shared_total.add(1);
        let waiter = Waiter {
            to: Some((Rc::clone(client), sequence)),
            version: self.version,
            rule: Rule::General,
            effect,
        };
        self.link.send(arrived.raw, arrived.now_us, waiter);
        true
    }
}
