//! A transaction that arrived whole, `MULTI` to `EXEC` in one buffer, with nothing in it that blocks or changes the
//! connection, travels contiguously on the shared connection. This is what the default pipelines of most clients are.
//! Every other transaction gets a connection of its own.

use std::rc::Rc;

use super::client::Client;
use super::cluster::gather::Whole;
use super::cluster::{self, Aim, DETOUR, NO_SLOT};
use super::outbox::{Source, Touched};
use super::request::{Request, Road, Step, available, touched};
use super::waiter::{Effect, Waiter};
use super::worker::Worker;
use crate::command::{Access, Path};
use crate::resp::convert::Rule;
use crate::resp::limits::Limits;
use crate::resp::request::{Args, Scan, Scanner, Span};

/// Most commands that are looked at for an `EXEC`.
const MOST_COMMANDS: usize = 8192;

/// `None`: not whole, or not plain.
pub fn whole(worker: &Rc<Worker>, client: &Rc<Client>, multi: &Request<'_>) -> Option<Step> {
    if worker.shared.pause.is_on(multi.now_us) {
        return None;
    }
    let limits = Limits::AUTHENTICATED;
    let mut spans: Vec<Span> = Vec::new();
    let mut rules = Vec::new();
    let mut read = Hashes::default();
    let mut written = Hashes::default();
    let mut bytes = 0;
    let mut road = Road::Main;
    let mut slot = NO_SLOT;
    let is_executed = loop {
        let rest = multi.rest.get(bytes..)?;
        spans.clear();
        let Ok(Scan::Complete { len }) = Scanner::default().scan(rest, &limits, &mut spans) else {
            return None;
        };
        let args = Args {
            buf: rest,
            spans: &spans,
        };
        let spec = multi.facts.table.find(args.arg(0))?;
        bytes += len;
        match &*spec.name {
            "exec" if args.len() == 1 => break true,
            "discard" if args.len() == 1 => break false,
            "exec" | "discard" | "multi" | "watch" | "unwatch" => return None,
            _ => {}
        }
        if spec.path(args) != Path::Shared || spec.is_likely_large(args) || rules.len() == MOST_COMMANDS {
            return None;
        }
        if spec.counts_listeners() && worker.shared.audience.has_hidden() {
            return None;
        }
        rules.push(spec.rule(args));
        if spec.runs_code() {
            road = Road::Scripts;
        }
        if worker.cluster.is_some() {
            match cluster::aim(spec, args) {
                Aim::Slot(own) if slot == NO_SLOT || slot == own => slot = own,
                Aim::Anywhere => {}
                // Refused command by command.
                Aim::Slot(_) | Aim::Several => return None,
            }
        }
        let keys = touched(worker, spec, args);
        match spec.access {
            Access::Read => read.add(&keys),
            Access::Write => written.add(&keys),
            Access::None => {}
        }
    };
    let is_alone = worker.is_moving(slot);
    if is_alone && !client.state.borrow().outbox.is_all_answered() {
        return Some(Step::Wait);
    }
    let link = match available(worker, client, road, slot) {
        Ok(link) => link,
        // The commands behind MULTI would each get the same error; they were never queued anywhere.
        Err(Step::Done { .. }) => return Some(refused(client, rules.len(), bytes)),
        Err(step) => return Some(step),
    };
    let (read, written) = (read.touched(), written.touched());
    let both = Hashes::of(&[&read, &written]);
    let mut state = client.state.borrow_mut();
    if state.outbox.must_wait_for_flight(&both) {
        return Some(Step::Wait);
    }
    let version = state.version;
    let commands = rules.len();
    let first = state.outbox.expect(Touched::None, Source::Sent);
    for _ in 0..commands {
        state.outbox.expect(Touched::None, Source::Sent);
    }
    // Nothing is read or written before EXEC.
    let last = state.outbox.expect(both, Source::Sent);
    drop(state);
    if slot != NO_SLOT {
        let whole = Whole {
            raw: [multi.raw, &multi.rest[..bytes]].concat().into(),
            slot,
            road,
            rules: is_executed.then(|| rules.into()),
            commands,
            read,
            written,
            first_us: multi.now_us,
            tries: 0,
        };
        whole.send(worker, &link, (client, first, version), false, multi.now_us);
        if is_alone {
            client.state.borrow_mut().path = DETOUR;
        }
        return Some(Step::Done { also: bytes });
    }
    worker.counters().shared_total.add(commands as u64 + 2);
    link.send_with(multi.now_us, |out, expect| {
        out.extend_from_slice(multi.raw);
        out.extend_from_slice(&multi.rest[..bytes]);
        for sequence in first..last {
            expect(Waiter {
                to: Some((Rc::clone(client), sequence)),
                version,
                rule: Rule::General,
                effect: Effect::None,
            });
        }
        let effect = if is_executed {
            Effect::Exec { read, written }
        } else {
            Effect::None
        };
        let rule = if is_executed {
            Rule::Exec(rules.into())
        } else {
            Rule::General
        };
        expect(Waiter {
            to: Some((Rc::clone(client), last)),
            version,
            rule,
            effect,
        });
    });
    Some(Step::Done { also: bytes })
}

/// MULTI has its error already; each command and the EXEC get one as well.
fn refused(client: &Client, commands: usize, bytes: usize) -> Step {
    let mut state = client.state.borrow_mut();
    for _ in 0..commands {
        state.error("ERR nearcache: not queued, the upstream is unavailable");
    }
    state.error("EXECABORT Transaction discarded because of previous errors.");
    Step::Done { also: bytes }
}

/// Beyond so many keys it is cheaper to void everything than to remember them.
const MOST_HASHES: usize = 16_384;

/// The union of what several commands touch.
#[derive(Default)]
pub struct Hashes {
    known: Vec<u64>,
    is_all: bool,
}

impl Hashes {
    pub fn of(parts: &[&Touched]) -> Touched {
        let mut union = Hashes::default();
        parts.iter().for_each(|part| union.add(part));
        union.touched()
    }

    pub fn add(&mut self, touched: &Touched) {
        self.is_all |= *touched == Touched::All;
        self.known.extend_from_slice(touched.hashes());
        if self.known.len() > MOST_HASHES {
            self.is_all = true;
            self.known = Vec::new();
        }
    }

    pub fn touched(mut self) -> Touched {
        if self.is_all {
            return Touched::All;
        }
        self.known.sort_unstable();
        self.known.dedup();
        Touched::from_hashes(&self.known)
    }
}
