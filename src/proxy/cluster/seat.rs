//! Which node a client gets a connection of its own to: that of the first key it names. A `MULTI` that comes alone names
//! none, so it is answered here and sent with what follows.

use super::NO_SLOT;
use crate::command::slot::slot;
use crate::command::{Path, Pin};
use crate::proxy::client::Client;
use crate::proxy::local::integer;
use crate::proxy::pinned;
use crate::proxy::request::{Road, Step};
use crate::proxy::subscriptions::Subscription;
use crate::resp::first::First;
use crate::resp::request::Args;
use crate::upstream::facts::Facts;

/// Answers a `MULTI` whose node is not known yet.
pub fn hold(client: &Client) -> Step {
    let mut state = client.state.borrow_mut();
    if !state.outbox.is_all_answered() {
        return Step::Wait;
    }
    state.road = Road::Held { is_doomed: false };
    state.ok();
    Step::DONE
}

/// The slot of the first request of this input, which need not be complete; [`NO_SLOT`]: any node will do.
///
/// # Errors
/// Why it cannot be sent to any node, for the client.
pub fn slot_of(facts: &Facts, input: &[u8]) -> Result<u16, String> {
    match First::of(input) {
        Some(first) => of_args(facts, first.args(), first.len.is_some()),
        None => Ok(NO_SLOT),
    }
}

fn of_args(facts: &Facts, args: Args<'_>, is_whole: bool) -> Result<u16, String> {
    let Some(spec) = facts.table.find(args.arg(0)) else {
        return Ok(NO_SLOT);
    };
    if &*spec.name == "cluster" {
        // `COUNTKEYSINSLOT` and `GETKEYSINSLOT`, as was seen before.
        let named = integer(args.arg(2)).and_then(|slot| u16::try_from(slot).ok());
        return Ok(named.unwrap_or(NO_SLOT));
    }
    if is_whole && spec.path(args) == Path::Pin(Pin::Subscribe) {
        return match Subscription::of_command(&spec.name) {
            Some((Subscription::Shard, _)) if args.len() > 1 => Ok(slot(args.arg(1))),
            _ => Ok(NO_SLOT),
        };
    }
    if is_whole {
        // Of several it says itself that they do not go together, and remembers it until EXEC.
        let mut first = NO_SLOT;
        let _ = spec.keys(args, &mut |key| {
            if first == NO_SLOT {
                first = slot(key);
            }
        });
        return Ok(first);
    }
    // Only what has come so far: the key stands first, or nothing can be said.
    match args.len() {
        2.. if pinned::has_key_first(spec) => Ok(slot(args.arg(1))),
        _ => Err(TOO_LARGE.to_owned()),
    }
}

const TOO_LARGE: &str = "ERR nearcache: a request of this size, which is passed on while it comes, must have one key, in its first argument, to be sent to a Redis Cluster";
