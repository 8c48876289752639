//! `CLIENT …`: what concerns connections is answered about the proxy's own clients, since the server knows only the
//! proxy's. What concerns the server (`PAUSE`, `UNPAUSE`, `HELP`) goes there.

mod list;

use std::rc::Rc;
use std::sync::atomic::Ordering::Relaxed;

use super::client::Client;
use super::cluster::NO_SLOT;
use super::local::{self, INVALID_NAME, is_valid_name, unknown_subcommand, wrong_arity};
use super::outbox::Touched;
use super::request::{Reason, Request, Road, Step, available, pin, send};
use super::waiter::Effect;
use super::worker::Worker;
use crate::command::Pin;
use crate::resp::{Version, encode};
use list::{Killed, describe, kill, list, number};

pub fn answer(worker: &Rc<Worker>, client: &Rc<Client>, request: &Request<'_>) -> Step {
    let args = request.args;
    let sub = args.arg(1).to_ascii_lowercase();
    let mut state = client.state.borrow_mut();
    match (&sub[..], args.len()) {
        (b"id", 2) => state
            .outbox
            .answer_now(|ready| encode::integer(&mut ready.bytes, client.meta.id as i64)),
        (b"getname", 2) => {
            let name = client.meta.words.lock().name.clone();
            let version = state.version;
            state.outbox.answer_now(|ready| match &*name {
                "" => encode::null(&mut ready.bytes, version),
                name => encode::bulk(&mut ready.bytes, name),
            });
        }
        (b"setname", 3) => {
            if is_valid_name(args.arg(2)) {
                client.meta.words.lock().name = String::from_utf8_lossy(args.arg(2)).into();
                state.ok();
            } else {
                state.error(INVALID_NAME);
            }
        }
        (b"setinfo", 4) if request.facts.is_at_least(7, 2) => match set_info(client, request) {
            Ok(()) => state.ok(),
            Err(error) => state.error(&error),
        },
        // Whether the server may send this client elsewhere; it never does.
        (b"capa", 3..) if request.facts.is_valkey() => state.ok(),
        (b"getredir", 2) => state.outbox.answer_now(|ready| encode::integer(&mut ready.bytes, -1)),
        (b"trackinginfo", 2) => {
            let version = state.version;
            state
                .outbox
                .answer_now(|ready| write_tracking_info(&mut ready.bytes, version));
        }
        (b"info", 2) => {
            let line = format!("{}\n", describe(&client.meta, request, client));
            let version = state.version;
            state
                .outbox
                .answer_now(|ready| encode::verbatim(&mut ready.bytes, version, "txt", &line));
        }
        (b"list", _) => match list(worker, client, request) {
            Ok(text) => {
                let version = state.version;
                state
                    .outbox
                    .answer_now(|ready| encode::verbatim(&mut ready.bytes, version, "txt", &text));
            }
            Err(error) => state.error(&error),
        },
        (b"kill", 3..) => match kill(worker, client, request) {
            Ok(Killed::Old { is_own }) => {
                state.ok();
                state.is_closing |= is_own;
            }
            Ok(Killed::Count { count, is_own }) => {
                state
                    .outbox
                    .answer_now(|ready| encode::integer(&mut ready.bytes, count as i64));
                state.is_closing |= is_own;
            }
            Ok(Killed::Elsewhere) => {
                drop(state);
                return pin(client, Reason::Anywhere);
            }
            Err(error) => state.error(error),
        },
        (b"unblock", 3..) => {
            drop(state);
            return unblock(worker, client, request);
        }
        (b"pause" | b"unpause" | b"help", _) => {
            drop(state);
            return pin(client, Reason::Anywhere);
        }
        (b"setinfo", _) if request.facts.is_at_least(7, 2) => state.error(wrong_arity("client|setinfo")),
        (b"capa", _) if request.facts.is_valkey() => state.error(wrong_arity("client|capa")),
        (b"id" | b"getname" | b"setname" | b"getredir" | b"trackinginfo" | b"info" | b"kill" | b"unblock", _) => {
            state.error(wrong_arity(&format!("client|{}", String::from_utf8_lossy(&sub))))
        }
        // Of a server that sends clients elsewhere: there is nowhere to send them.
        (b"maint_notifications", _) => state.error(unknown_subcommand("client", args)),
        _ => match local::wrong_subcommand(request.spec, args) {
            Some(error) => state.error(error),
            None if request.spec.has_subcommand(&sub) => {
                drop(state);
                return pin(client, Reason::State(Pin::Client));
            }
            None => state.error(unknown_subcommand("client", args)),
        },
    }
    Step::DONE
}

/// The subcommands that leave the connection as it is, or whose effects on it are followed.
const KNOWN: [&[u8]; 15] = [
    b"id",
    b"info",
    b"list",
    b"getname",
    b"setname",
    b"setinfo",
    b"kill",
    b"trackinginfo",
    b"getredir",
    b"unblock",
    b"pause",
    b"unpause",
    b"help",
    b"capa",
    b"maint_notifications",
];

pub fn is_known(subcommand: &[u8]) -> bool {
    KNOWN.iter().any(|known| subcommand.eq_ignore_ascii_case(known))
}

/// The blocked client has an upstream connection of its own; the server knows it by another id.
fn unblock(worker: &Rc<Worker>, client: &Rc<Client>, request: &Request<'_>) -> Step {
    let args = request.args;
    let upstream_id = number(args.arg(2)).map(|id| {
        worker
            .shared
            .registry
            .lock()
            .get(&id)
            .map_or(0, |meta| meta.upstream_id.load(Relaxed))
    });
    let id = match upstream_id {
        // Nobody of ours, or nobody who is blocked: an id that nobody has at the server.
        Some(0) => i64::MAX.to_string().into_bytes(),
        Some(id) => id.to_string().into_bytes(),
        // The server says what is wrong with it.
        None => args.arg(2).to_vec(),
    };
    let mut raw = Vec::new();
    let mut words = vec![&b"CLIENT"[..], b"UNBLOCK", &id];
    words.extend(args.iter().skip(3));
    encode::command(&mut raw, words.into_iter());
    let link = match available(worker, client, Road::Main, NO_SLOT) {
        Ok(link) => link,
        Err(step) => return step,
    };
    send(
        worker,
        client,
        &link,
        &Request { raw: &raw, ..*request },
        Touched::None,
        Effect::None,
    )
}

fn set_info(client: &Client, request: &Request<'_>) -> Result<(), String> {
    let (attribute, value) = (request.args.arg(2), request.args.arg(3));
    let word = String::from_utf8_lossy(attribute).into_owned();
    let is_name = attribute.eq_ignore_ascii_case(b"lib-name");
    if !is_name && !attribute.eq_ignore_ascii_case(b"lib-ver") {
        return Err(format!("ERR Unrecognized option '{word}'"));
    }
    if !is_valid_name(value) {
        return Err(format!(
            "ERR {word} cannot contain spaces, newlines or special characters."
        ));
    }
    let mut words = client.meta.words.lock();
    let place = if is_name {
        &mut words.library
    } else {
        &mut words.library_version
    };
    *place = String::from_utf8_lossy(value).into();
    Ok(())
}

fn write_tracking_info(out: &mut Vec<u8>, version: Version) {
    encode::map_header(out, version, 3);
    encode::bulk(out, "flags");
    encode::set_header(out, version, 1);
    encode::bulk(out, "off");
    encode::bulk(out, "redirect");
    encode::integer(out, -1);
    encode::bulk(out, "prefixes");
    encode::array_header(out, 0);
}
