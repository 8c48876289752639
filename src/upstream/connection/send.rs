//! What sessions of the worker give a connection to send: appended to its queue, and its task woken unless it runs anyway.

use super::{Connection, Sink};

impl<S: Sink> Connection<S> {
    /// Queues one request, complete and well-formed. The caller has asked `availability`.
    pub fn send(&self, request: &[u8], now_us: u64, waiter: S::Waiter) {
        self.queue.borrow_mut().push_one(now_us, request, waiter);
        self.wake();
    }

    /// Queues the requests that `next` gives, one by one, until there is none or no room.
    pub fn send_each<'a>(&self, now_us: u64, mut next: impl FnMut() -> Option<(&'a [u8], S::Waiter)>) {
        let mut queue = self.queue.borrow_mut();
        while !queue.is_full()
            && let Some((request, waiter)) = next()
        {
            queue.push_one(now_us, request, waiter);
        }
        drop(queue);
        self.wake();
    }

    /// Queues requests that the closure writes, with one `expect` for each.
    pub fn send_with(&self, now_us: u64, write: impl FnOnce(&mut Vec<u8>, &mut dyn FnMut(S::Waiter))) {
        self.queue.borrow_mut().push(now_us, write);
        self.wake();
    }

    /// The same for what has waited elsewhere since an earlier time, from which its deadline is counted.
    pub fn send_begun(&self, now_us: u64, begun_us: u64, write: impl FnOnce(&mut Vec<u8>, &mut dyn FnMut(S::Waiter))) {
        self.send_with(now_us, write);
        self.last_began(begun_us);
    }

    /// The deadline of what was queued last is counted from this time.
    pub fn last_began(&self, begun_us: u64) {
        self.queue.borrow_mut().last_began(begun_us);
    }

    /// Once for all requests of a turn.
    pub(super) fn wake(&self) {
        if !self.is_woken.replace(true)
            && let Some(waker) = &*self.waker.borrow()
        {
            waker.wake_by_ref();
        }
    }
}
