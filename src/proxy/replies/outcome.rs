//! What a reply says, and who is told when there is none.

use std::rc::Rc;

use bytes::Bytes;

use super::LinkSink;
use crate::cache::{Fill, Value};
use crate::config::{Compression, MOST_COMPRESSED_BYTES};
use crate::proxy::cluster::gather::Part;
use crate::proxy::read::joint::Parts;
use crate::proxy::waiter::{Answer, Effect, FillKind, Waiter};
use crate::proxy::worker::Worker;
use crate::resp::{convert, reply};
use crate::upstream::connection::SHARED_FRAME_BYTES;

impl LinkSink {
    /// What the PTTLs before such a read have brought, for each of its keys; `None` where the node did not serve it.
    pub fn take_ttls(&self, parts: &Parts) -> Vec<Option<i64>> {
        let mut held = self.held.borrow_mut();
        let mut ttl = |lease| reply::integer(&held.pop_front_if(|held| Some(held.lease) == lease)?.frame);
        parts.leases().map(&mut ttl).collect()
    }

    /// Whether so many bytes may be kept, which L1 compresses: after a read of many keys the PTTLs come at once, and everybody
    /// on this worker would wait until all values are compressed.
    pub(super) fn has_time_for(&self, worker: &Worker, bytes: usize) -> bool {
        let cache = &worker.shared.config.cache;
        let is_packed = (cache.compress_from_bytes..=MOST_COMPRESSED_BYTES + 32).contains(&bytes);
        if cache.compression == Compression::Off || !is_packed {
            return true;
        }
        let batch_us = self.received_us.get();
        let packed = match self.packed.get() {
            (us, packed) if us == batch_us => packed + bytes,
            _ => bytes,
        };
        self.packed.set((batch_us, packed));
        packed <= MOST_PACKED_A_BATCH_BYTES
    }
}

/// About 7 ms.
const MOST_PACKED_A_BATCH_BYTES: usize = 2 << 20;

impl Worker {
    /// Whoever waits for this gets the error.
    pub fn refuse(self: &Rc<Self>, mut waiter: Waiter, error: &str) {
        if let Effect::FillDigest(_) = waiter.effect.own() {
            // What was found on the disk was not shown.
            self.counters().l3_misses_total.add(1);
        }
        self.tell(&mut waiter, error);
    }

    /// The same, of something that may still be answered. Returns how many requests were waiting.
    pub fn tell(self: &Rc<Self>, waiter: &mut Waiter, error: &str) -> u64 {
        let mut told = 0;
        let (effect, part) = match &mut waiter.effect {
            Effect::Routed(routed) => (&mut routed.effect, routed.part.take()),
            effect => (effect, None),
        };
        let followers = match effect {
            Effect::FillTtl(guard, _) => guard.end().map(|lease| self.shared.cache.abandon(lease)),
            Effect::Followed { followers, .. } => Some(std::mem::take(followers)),
            _ => None,
        };
        if let Some(followers) = followers {
            told += followers.len() as u64;
            self.fail_followers(&followers, error);
        }
        if let Some(Part { gather, index, .. }) = part {
            told += 1;
            gather.fail(self, index, error);
        }
        if let Some((client, sequence)) = &waiter.to {
            told += 1;
            client.answer(*sequence, Answer::Error(error), &self.touched);
        }
        told
    }
}

/// Whether the upstream had what was read.
#[inline]
pub fn count(worker: &Worker, effect: &Effect, frame: &[u8]) {
    match effect {
        Effect::Read(_) | Effect::FillRead(..) | Effect::Joint(_) | Effect::Followed { .. } => match frame.first() {
            Some(b'_') => worker.counters().l2_misses_total.add(1),
            Some(b'-') => {}
            _ => worker.counters().l2_hits_total.add(1),
        },
        Effect::Mget { .. } => count_parts(worker, frame),
        _ => {}
    }
}

fn count_parts(worker: &Worker, frame: &[u8]) {
    let Some(parts) = reply::elements(frame) else { return };
    let (all, nulls) = parts.fold((0, 0), |(all, nulls), part| {
        (all + 1, nulls + u64::from(matches!(part, b"_\r\n" | b"$-1\r\n")))
    });
    worker.counters().l2_hits_total.add(all - nulls);
    worker.counters().l2_misses_total.add(nulls);
}

/// What a read and the PTTL behind it say together; `None` if nothing that may be kept.
pub fn fill_of(frame: &Bytes, kind: FillKind, pttl_ms: i64) -> Option<Fill<'_>> {
    if reply::is_error(frame) || pttl_ms < -2 {
        return None;
    }
    let is_gone = pttl_ms == -2;
    let (value, is_plain) = match kind {
        FillKind::Payload => match reply::bulk(frame)? {
            Some(payload) if !is_gone && frame.len() >= SHARED_FRAME_BYTES => {
                (Value::Shared(Bytes::copy_from_slice(payload)), true)
            }
            Some(payload) if !is_gone => (Value::Bytes(payload), true),
            None if is_gone => (Value::Absent(frame), false),
            _ => return None,
        },
        FillKind::Reply { absent, .. } => {
            let is_plain = convert::is_same_in_resp2(frame);
            match is_gone {
                true if absent.is(frame) => (Value::Absent(frame), is_plain),
                true => return None,
                false => (Value::Bytes(frame), is_plain),
            }
        }
    };
    let most_us = match kind {
        FillKind::Payload => None,
        FillKind::Reply { most_us, .. } => most_us,
    };
    Some(Fill {
        value,
        pttl_ms,
        is_plain,
        most_us,
    })
}
