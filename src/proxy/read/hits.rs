//! `GET`s that are hits, one behind the other, as pipelines bring them and as nearly all reads are. What does not change
//! from one to the next is looked up once for all of them; whatever is not such a hit goes the way of every request.

use std::rc::Rc;
use std::sync::atomic::Ordering::Relaxed;

use super::write_payload;
use crate::cache::{Asker, Own, Query, name_hash};
use crate::proxy::client::{Access, Client, State};
use crate::proxy::request::Road;
use crate::proxy::worker::{Trust, Worker};
use crate::resp::request::usual_get;
use crate::upstream::facts::Facts;

/// How much of the input was dealt with.
#[derive(Clone, Copy, Debug, Default)]
pub struct Answered {
    pub bytes: usize,
    pub requests: u32,
}

/// Where to stop.
#[derive(Clone, Copy, Debug)]
pub struct Most {
    pub requests: u32,
    /// Waiting for the socket.
    pub ready_bytes: usize,
}

/// Answers the hits at the start of `buf`. The cache is used.
pub fn answer(worker: &Rc<Worker>, client: &Client, facts: &Facts, buf: &[u8], now_us: u64, most: Most) -> Answered {
    let mut answered = Answered::default();
    let Some(mut request) = usual_get(buf) else {
        return answered;
    };
    let mut state = client.state.borrow_mut();
    let State {
        outbox,
        version,
        db,
        access,
        floor_us,
        road,
        is_closing,
        listening,
        ..
    } = &mut *state;
    // What stands between such a client and a hit, if anything does, is for the long way to say.
    let is_usual = *access == Access::Own && *road == Road::Main && listening.is_none() && !*is_closing;
    if !is_usual || !outbox.is_all_answered() {
        return answered;
    }
    let (Some(get), Some((link, trust))) = (facts.table.plain_get(), worker.caching_link(*db)) else {
        return answered;
    };
    let asker = Asker {
        now_us,
        link,
        own: Own::Clear,
        floor_us: *floor_us,
        takes_stale: trust == Trust::Stale,
    };
    let cache = &worker.shared.cache;
    let ready = outbox.ready();
    let (mut stale, due) = (0, worker.sampler.due());
    let mut sample = None;
    loop {
        if answered.requests == most.requests || ready.len() >= most.ready_bytes {
            break;
        }
        let (name, len) = request;
        let query = Query {
            hash: name_hash(name),
            db: *db,
            name,
            variant: b"",
        };
        let hit = cache.peek(&query, &asker, |view| {
            stale += u64::from(view.is_stale);
            write_payload(ready, &view.value, *version);
        });
        if hit.is_none() {
            break;
        }
        if answered.requests == due {
            sample = Some(name);
        }
        answered.bytes += len;
        answered.requests += 1;
        match usual_get(&buf[answered.bytes..]) {
            Some(next) => request = next,
            None => break,
        }
    }
    if answered.requests > 0 {
        client.meta.command.store(get, Relaxed);
        worker.counters().l1_hits_total.add(answered.requests.into());
        worker.note_hits(*db, answered.requests, sample);
        if stale > 0 {
            worker.counters().l1_stale_total.add(stale);
        }
    }
    answered
}
