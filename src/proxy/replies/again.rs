//! Which reads of a lost connection are sent again.

use super::LinkSink;
use crate::cache::LeaseId;
use crate::proxy::outbox::Touched;
use crate::proxy::waiter::{Effect, Waiter};
use crate::upstream::connection::Failure;

impl LinkSink {
    /// Whether these, which were sent together, are reads that change nothing if they are executed a second time, and behind which
    /// nobody who waits for them has sent more on their keys.
    pub(super) fn is_repeatable(&self, lost: &[Waiter]) -> bool {
        let Some(worker) = self.worker.upgrade() else {
            return false;
        };
        let lost = match lost {
            [asking, rest @ ..] if asking.is_of_nobody() && !rest.is_empty() => rest,
            lost => lost,
        };
        let one;
        let flight;
        let none = [];
        // Who asks for what, and the flights that others have joined, each by the place of its key.
        let Some((first, rest)) = lost.split_first() else {
            return false;
        };
        let (asked, touched, flights): (_, _, &[(usize, LeaseId)]) = match (first.effect.own(), rest) {
            (Effect::Read(touched), []) => (first, touched, &none),
            (Effect::Followed { touched, followers }, [])
                if followers
                    .iter()
                    .all(|follower| follower.worker != worker.index || worker.may_follow_again(follower, touched)) =>
            {
                (first, touched, &none)
            }
            (Effect::Mget { touched, leases }, _) => (first, touched, leases),
            (Effect::Joint(parts), []) => (first, &parts.touched, &none),
            (fill @ (Effect::FillRead(..) | Effect::FillDigest(_)), [ttl]) => {
                let (lease, hash) = match fill {
                    Effect::FillRead(lease, hash) => (*lease, *hash),
                    Effect::FillDigest(check) => (check.lease, check.hash),
                    _ => return false,
                };
                one = Touched::One(hash);
                flight = [(0, lease)];
                (ttl, &one, &flight)
            }
            _ => return false,
        };
        let Some((client, sequence)) = asked.client() else {
            return false;
        };
        if !client.state.borrow().outbox.may_go_again(sequence, touched) {
            return false;
        }
        for (key, lease) in flights {
            let touched = Touched::from_hashes(touched.hashes().get(*key..=*key).unwrap_or_default());
            // Clients of other workers send nothing on the key while they follow.
            let late = worker.shared.cache.dismiss(*lease, |follower| {
                follower.worker == worker.index && !worker.may_follow_again(follower, &touched)
            });
            let error = worker.unavailable_on(self, &Failure::Lost("the read that it waited for was lost".into()));
            worker.fail_followers(&late, &error);
        }
        worker.counters().repeats_total.add(1);
        true
    }
}
