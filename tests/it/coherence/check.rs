//! What must hold. The numbers stand in every complaint:
//! 1. every entry of L1 equals the server's value, or a push for it is under way on the connection that filled it;
//! 2. a read shows at least every write that was acknowledged to any client of the proxy before the read was issued;
//! 3. in the order of a session's requests a key never goes back; a read before an own write does not see it, not even
//!    if that write failed; a read after it does;
//! 4. the same for replies that do not come from L1;
//! 5. what is shown was overwritten less than the staleness bound before the read was decided, and what is shown as stale less
//!    than the time for which that is allowed;
//! 6. no hit after the deadline;
//! 7. at most one standing lease for a reply; in the end nobody waits, and no lease is left;
//! 8. nothing that a lost connection filled is a hit (by 1: its entries have nobody to tell of changes);
//! 9. several keys in one reply were equal to that at one moment;
//! 10. nothing is shown as stale while the connection of its client is there;
//! 11. nor what its client has overwritten by a write of unknown outcome;
//! 12. nothing is left on the disk, should the process be killed now, that a write has overwritten of which a client was told.

use std::ops::Range;

use nearcache::cache::{Asker, Expiry, JOINT, L1, Own, Query, ViewValue, name_hash};
use nearcache::proxy::Follower;
use nearcache::resp::reply;

use super::disk::Left;
use super::plan::{Op, Part};
use super::server::{KEYS, Server};
use super::wire::{Seen, Shape, Token};

pub type Checked = Result<(), String>;

/// One reply that a session waits for.
pub struct Expected {
    pub op: Op,
    pub part: Part,
    /// Of the write, if it is one.
    pub token: Token,
    /// What was acknowledged when it was issued: an older version must not be shown.
    pub least: [usize; KEYS],
    /// When it was decided (or is not yet).
    pub decided_us: u64,
    pub is_hit: bool,
    /// It was shown from an entry for which nobody vouched.
    pub is_stale: bool,
    /// Where its reads wait for the disk.
    pub places: Range<u64>,
    /// The last reply of its operation.
    pub is_last: bool,
}

/// What one client was shown.
#[derive(Default)]
pub struct Shown {
    /// The newest version that its replies so far admit, per key.
    floor: [usize; KEYS],
    /// What its writes left that were executed and failed all the same, per key.
    unknown: [usize; KEYS],
}

pub struct Judge<'a> {
    pub server: &'a Server,
    pub bound_us: u64,
    pub max_stale_us: u64,
    /// Newest acknowledged version, per key.
    pub acked: &'a mut [usize; KEYS],
    pub judges_pairs: bool,
    pub may_fail: bool,
}

impl Judge<'_> {
    /// A client receives a reply.
    pub fn show(&mut self, shown: &mut Shown, expected: &Expected, frame: &[u8]) -> Checked {
        if reply::is_error(frame) {
            if !self.may_fail {
                return Err(format!(
                    "{:?}: unexpected error {}",
                    expected.op,
                    String::from_utf8_lossy(frame)
                ));
            }
            return match &expected.part {
                Part::Exec(parts) => parts.iter().try_for_each(|part| self.failed(shown, expected, part)),
                part => self.failed(shown, expected, part),
            };
        }
        self.part(shown, expected, &expected.part, frame)
    }

    fn part(&mut self, shown: &mut Shown, expected: &Expected, part: &Part, frame: &[u8]) -> Checked {
        let odd = || format!("{:?}: {part:?} got {}", expected.op, String::from_utf8_lossy(frame));
        match part {
            Part::Status => Ok(()),
            Part::Read(shape, k) => {
                let seen = shape.seen(frame).ok_or_else(odd)?;
                self.read(shown, expected, *k, seen)
            }
            Part::Both => {
                let elements: Vec<&[u8]> = reply::elements(frame).ok_or_else(odd)?.collect();
                let seen: Vec<Seen> = elements
                    .iter()
                    .filter_map(|element| Shape::Value.seen(element))
                    .collect();
                let [a, b] = seen[..] else { return Err(odd()) };
                self.read(shown, expected, 0, a)?;
                self.read(shown, expected, 1, b)?;
                if self.judges_pairs
                    && !self
                        .server
                        .pairs
                        .iter()
                        .any(|&(i, j)| self.is(0, i, a) && self.is(1, j, b))
                {
                    return Err(format!(
                        "(9) {:?} shows {a:?} and {b:?}, which never existed together",
                        expected.op
                    ));
                }
                Ok(())
            }
            Part::Wrote(keys) => keys.iter().try_for_each(|&k| self.acknowledge(shown, expected, k)),
            Part::Exec(parts) => {
                let elements: Vec<&[u8]> = reply::elements(frame).ok_or_else(odd)?.collect();
                if elements.len() != parts.len() {
                    return Err(odd());
                }
                parts
                    .iter()
                    .zip(elements)
                    .try_for_each(|(part, element)| self.part(shown, expected, part, element))
            }
        }
    }

    fn is(&self, k: usize, version: usize, seen: Seen) -> bool {
        match (seen, self.server.keys[k].versions[version].token) {
            (Seen::Token(token), held) => held == Some(token),
            (Seen::Absent, held) => held.is_none(),
            (Seen::Exists, held) => held.is_some(),
        }
    }

    /// A reply may fit several versions: it is wrong if none of them would be right, and the oldest right one is remembered.
    fn read(&mut self, shown: &mut Shown, expected: &Expected, k: usize, seen: Seen) -> Checked {
        let versions = &self.server.keys[k].versions;
        let mut fitting: Vec<usize> = (0..versions.len())
            .filter(|&version| self.is(k, version, seen))
            .collect();
        let what = format!("{:?} shows {seen:?} of key {k}", expected.op);
        if fitting.is_empty() {
            return Err(format!("{what}, which it never was"));
        }
        fitting.retain(|&version| version >= shown.floor[k]);
        if fitting.is_empty() {
            return Err(format!(
                "(3,4) {what}, after version {} was shown or written by this client",
                shown.floor[k]
            ));
        }
        fitting.retain(|&version| !expected.is_stale || version >= shown.unknown[k]);
        if fitting.is_empty() {
            return Err(format!(
                "(11) {what} as stale, after this client has written version {}, of which it was told that it may have",
                shown.unknown[k]
            ));
        }
        fitting.retain(|&version| version >= expected.least[k]);
        if fitting.is_empty() {
            return Err(format!(
                "(2) {what}, version {} was acknowledged before it was issued",
                expected.least[k]
            ));
        }
        let ages = |version: usize| versions[version].overwritten_us;
        let most_us = if expected.is_stale {
            self.max_stale_us
        } else {
            self.bound_us
        };
        fitting.retain(|&version| ages(version).is_none_or(|at_us| at_us + most_us > expected.decided_us));
        if fitting.is_empty() {
            return Err(format!(
                "(5) {what}, overwritten too long before {}",
                expected.decided_us
            ));
        }
        let is_over =
            |version: usize| versions[version].has_expired && ages(version).is_some_and(|us| us <= expected.decided_us);
        fitting.retain(|&version| !expected.is_hit || !is_over(version));
        let Some(&oldest) = fitting.first() else {
            return Err(format!("(6) {what}, a hit after its deadline"));
        };
        shown.floor[k] = oldest;
        Ok(())
    }

    fn acknowledge(&mut self, shown: &mut Shown, expected: &Expected, k: usize) -> Checked {
        let Some(version) = self.server.keys[k].version_of(expected.token) else {
            return Ok(());
        };
        if version <= shown.floor[k] {
            return Err(format!(
                "(3) a read before {:?} saw version {version} of key {k}, which it wrote",
                expected.op
            ));
        }
        shown.floor[k] = version;
        self.acked[k] = self.acked[k].max(version);
        Ok(())
    }

    /// Its outcome is unknown.
    fn failed(&self, shown: &mut Shown, expected: &Expected, part: &Part) -> Checked {
        let Part::Wrote(keys) = part else { return Ok(()) };
        for &k in keys {
            let version = self.server.keys[k].version_of(expected.token);
            shown.unknown[k] = shown.unknown[k].max(version.unwrap_or(0));
            if version.is_some_and(|version| version <= shown.floor[k]) {
                return Err(format!(
                    "(3) a read before the failed {:?} of key {k} saw what it wrote",
                    expected.op
                ));
            }
        }
        Ok(())
    }
}

/// What a client was told is not contradicted by what the next process would find.
pub fn left(all: &[Left], server: &Server, acked: &[usize; KEYS]) -> Checked {
    for Left { name, variant, value } in all {
        let Some(k) = server.keys.iter().position(|key| key.name == *name) else {
            continue;
        };
        let seen = seen(value.as_deref(), variant);
        let is_over = |version: usize| version < acked[k];
        let versions = 0..server.keys[k].versions.len();
        let fits = |version: &usize| match (seen, server.keys[k].versions[*version].token) {
            (Some(Seen::Token(token)), held) => held == Some(token),
            (Some(Seen::Absent), held) => held.is_none(),
            (Some(Seen::Exists), held) => held.is_some(),
            (None, _) => false,
        };
        if versions.filter(fits).all(is_over) {
            return Err(format!(
                "(12) {seen:?} of key {k} would be found after a kill, and version {} was acknowledged",
                acked[k]
            ));
        }
    }
    Ok(())
}

/// What an entry says.
fn seen(value: Option<&[u8]>, variant: &[u8]) -> Option<Seen> {
    if variant.get(1).is_some_and(|byte| byte & JOINT != 0)
        && let Some(part) = value
    {
        // The number of the read, and in the part of the first key the reply behind it.
        let number = reply::frame_len(part).ok()??;
        return match reply::elements(&part[number..]) {
            Some(mut both) => Shape::Value.seen(both.next()?),
            None => Some(Seen::Exists),
        };
    }
    match (value, variant.is_empty()) {
        (None, _) => Some(Seen::Absent),
        (Some(payload), true) => super::wire::token(payload).map(Seen::Token),
        // An EXISTS; no STRLEN is that short.
        (Some(b":1\r\n"), false) => Some(Seen::Exists),
        (Some(frame), false) => [Shape::Fields, Shape::Value, Shape::Length]
            .iter()
            .find_map(|shape| shape.seen(frame)),
    }
}

/// In every state. `links` are those of the workers, by connection.
pub fn state(
    cache: &L1<Follower>,
    server: &Server,
    links: &[nearcache::cache::LinkId],
    told: impl Fn(usize, usize) -> bool,
) -> Checked {
    for (k, key) in server.keys.iter().enumerate() {
        let hash = name_hash(&key.name);
        let all = cache.explain(hash, server.now_us);
        let standing = |variant: &[u8]| {
            all.iter()
                .filter(|e| e.is_lease && e.is_epoch_current && e.variant == variant)
                .count()
        };
        if let Some(doubled) = all.iter().find(|e| e.is_lease && standing(&e.variant) > 1) {
            return Err(format!(
                "(7) {} standing leases for key {k}",
                standing(&doubled.variant)
            ));
        }
        for entry in all.iter().filter(|e| !e.is_lease && e.is_epoch_current) {
            let Some(c) = links.iter().position(|link| *link == entry.link) else {
                continue;
            };
            let query = Query {
                hash,
                db: 0,
                name: &key.name,
                variant: &entry.variant,
            };
            // At the first moment of all everything is fresh, and no deadline is over.
            let asker = Asker {
                now_us: 1,
                link: entry.link,
                own: Own::Clear,
                floor_us: 0,
                takes_stale: false,
            };
            let held = cache.peek(&query, &asker, |view| {
                let is_over = matches!(view.expiry, Expiry::At(at_us) if at_us <= server.now_us);
                let bytes = match view.value {
                    ViewValue::Absent(_) => None,
                    ViewValue::Small(bytes) => Some(bytes.to_vec()),
                    ViewValue::Large(bytes) => Some(bytes.to_vec()),
                    ViewValue::Packed { .. } => view.value.packed()?.unpack().map(Vec::from),
                };
                (!is_over).then_some(bytes)
            });
            let Some(Some(bytes)) = held else { continue };
            let seen = seen(bytes.as_deref(), &entry.variant);
            let agrees = match (seen, key.now()) {
                (Some(Seen::Token(token)), now) => now == Some(token),
                (Some(Seen::Absent), now) => now.is_none(),
                (Some(Seen::Exists), now) => now.is_some(),
                (None, _) => false,
            };
            if !agrees && !told(c, k) {
                return Err(format!(
                    "(1) L1 has {seen:?} of key {k} from worker {c}, the server has {:?}, and nothing under way will tell",
                    key.now()
                ));
            }
        }
    }
    Ok(())
}
