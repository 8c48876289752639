//! How many clients listen to what, over all workers, so that the replies that tell a number of receivers can tell the
//! true one: to the server all listeners of a worker are one.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use parking_lot::Mutex;

use crate::glob;
use crate::proxy::subscriptions::Subscription;

/// For each name the workers with listeners, and how many each has.
type ByName = HashMap<Box<[u8]>, Vec<(u16, usize)>>;

#[derive(Default)]
pub struct Audience {
    /// For each kind of subscription. Guards nothing else.
    listeners: Mutex<[ByName; 3]>,
    /// Listeners that the server does not know of.
    hidden: AtomicUsize,
    /// Subscriptions that the workers hold at the server.
    held: AtomicUsize,
}

impl Audience {
    /// A worker has so many listeners of a name now.
    pub fn set(&self, worker: u16, kind: Subscription, name: &[u8], count: usize) {
        let mut listeners = self.listeners.lock();
        let names = &mut listeners[kind as usize];
        if count == 0 && !names.contains_key(name) {
            return;
        }
        let workers = names.entry(name.into()).or_default();
        let before = match workers.iter().position(|(w, _)| *w == worker) {
            Some(at) if count == 0 => workers.swap_remove(at).1,
            Some(at) => std::mem::replace(&mut workers[at].1, count),
            None if count == 0 => 0,
            None => {
                workers.push((worker, count));
                0
            }
        };
        if workers.is_empty() {
            names.remove(name);
        }
        let hidden = |count: usize| count.saturating_sub(1);
        self.hidden.fetch_add(hidden(count), Relaxed);
        self.hidden.fetch_sub(hidden(before), Relaxed);
        self.held.fetch_add(count.min(1), Relaxed);
        self.held.fetch_sub(before.min(1), Relaxed);
    }

    /// Subscriptions that the workers hold at the server.
    pub fn held(&self) -> usize {
        self.held.load(Relaxed)
    }

    /// Whether any number that the server tells may be too small.
    pub fn has_hidden(&self) -> bool {
        self.hidden.load(Relaxed) > 0
    }

    /// How many of the receivers of a message on this channel the server does not know of.
    pub fn hidden_receivers(&self, is_sharded: bool, channel: &[u8]) -> usize {
        if !self.has_hidden() {
            return 0;
        }
        let listeners = self.listeners.lock();
        let [channels, patterns, shard_channels] = &*listeners;
        let exact = if is_sharded { shard_channels } else { channels };
        let by_name = exact.get(channel).map_or(0, |workers| hidden(workers));
        let by_pattern = patterns
            .iter()
            .filter(|(pattern, _)| !is_sharded && glob::fits(pattern, channel))
            .map(|(_, workers)| hidden(workers));
        by_name + by_pattern.sum::<usize>()
    }

    /// The same for the subscribers of one channel by its name.
    pub fn hidden_subscribers(&self, is_sharded: bool, channel: &[u8]) -> usize {
        let kind = if is_sharded {
            Subscription::Shard
        } else {
            Subscription::Channel
        };
        let listeners = self.listeners.lock();
        listeners[kind as usize]
            .get(channel)
            .map_or(0, |workers| hidden(workers))
    }
}

fn hidden(workers: &[(u16, usize)]) -> usize {
    workers.iter().map(|(_, count)| count - 1).sum()
}
