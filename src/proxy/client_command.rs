//! `CLIENT …`: what concerns connections is answered about the proxy's own clients, since the server knows only the
//! proxy's. What concerns the server (`PAUSE`, `UNPAUSE`, `HELP`) goes there.

use std::fmt::Write as _;
use std::rc::Rc;
use std::sync::atomic::Ordering::Relaxed;

use super::client::{Client, ClientMeta};
use super::local::{INVALID_NAME, is_valid_name, wrong_arity};
use super::outbox::Touched;
use super::request::{Reason, Request, Road, Step, available, pin, send};
use super::waiter::Effect;
use super::worker::Worker;
use crate::clock;
use crate::resp::{Version, encode};

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
        (b"setinfo", 4) if request.facts.is_at_least(7, 2) => match set_info(&client.meta, args.arg(2), args.arg(3)) {
            Ok(()) => state.ok(),
            Err(error) => state.error(&error),
        },
        (b"getredir", 2) => state.outbox.answer_now(|ready| encode::integer(&mut ready.bytes, -1)),
        (b"trackinginfo", 2) => {
            let version = state.version;
            state
                .outbox
                .answer_now(|ready| write_tracking_info(&mut ready.bytes, version));
        }
        (b"info", 2) => {
            let line = format!("{}\n", describe(&client.meta));
            let version = state.version;
            state
                .outbox
                .answer_now(|ready| encode::verbatim(&mut ready.bytes, version, "txt", &line));
        }
        (b"list", _) => match list(worker, request) {
            Ok(text) => {
                let version = state.version;
                state
                    .outbox
                    .answer_now(|ready| encode::verbatim(&mut ready.bytes, version, "txt", &text));
            }
            Err(error) => state.error(&error),
        },
        (b"kill", 3..) => match kill(worker, client, request) {
            Ok(Killed::Old) => state.ok(),
            Ok(Killed::Count(n)) => state
                .outbox
                .answer_now(|ready| encode::integer(&mut ready.bytes, n as i64)),
            Err(error) => state.error(error),
        },
        (b"unblock", 3 | 4) => {
            drop(state);
            return unblock(worker, client, request);
        }
        (b"pause" | b"unpause" | b"help", _) => {
            drop(state);
            return pin(client, Reason::Side);
        }
        (b"id" | b"getname" | b"setname" | b"getredir" | b"trackinginfo" | b"info" | b"kill" | b"unblock", _) => {
            state.error(wrong_arity(&format!("client|{}", String::from_utf8_lossy(&sub))))
        }
        _ => {
            // As the server prints it: a C string of at most 128 bytes.
            let sub = args.arg(1).split(|&b| b == 0).next().unwrap_or_default();
            state.error(
                [
                    b"ERR unknown subcommand '",
                    &sub[..sub.len().min(128)],
                    b"'. Try CLIENT HELP.",
                ]
                .concat(),
            );
        }
    }
    Step::DONE
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
        // Nobody of ours, or nobody who is blocked.
        Some(0) => {
            client
                .state
                .borrow_mut()
                .outbox
                .answer_now(|ready| encode::integer(&mut ready.bytes, 0));
            return Step::DONE;
        }
        Some(id) => id.to_string().into_bytes(),
        // The server says what is wrong with it.
        None => args.arg(2).to_vec(),
    };
    let mut raw = Vec::new();
    let mut words = vec![&b"CLIENT"[..], b"UNBLOCK", &id];
    words.extend(args.iter().skip(3));
    encode::command(&mut raw, words.into_iter());
    let link = match available(worker, client, Road::Main) {
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

fn set_info(meta: &ClientMeta, attribute: &[u8], value: &[u8]) -> Result<(), String> {
    let word = String::from_utf8_lossy(attribute).into_owned();
    let is_name = attribute.eq_ignore_ascii_case(b"lib-name");
    if !is_name && !attribute.eq_ignore_ascii_case(b"lib-ver") {
        return Err(format!("ERR Unrecognized option '{word}'"));
    }
    if !is_valid_name(value) {
        return Err(format!(
            "ERR {} cannot contain spaces, newlines or special characters.",
            word.to_lowercase()
        ));
    }
    let mut words = meta.words.lock();
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

/// One line of `CLIENT LIST`, with the fields of Redis that mean something here.
fn describe(meta: &ClientMeta) -> String {
    let words = meta.words.lock().clone();
    let age = clock::now_us().saturating_sub(meta.connected_us) / 1_000_000;
    format!(
        "id={} addr={} laddr={} fd=-1 name={} age={} idle={} flags=N db={} sub=0 psub=0 ssub=0 multi=-1 qbuf=0 qbuf-free=0 argv-mem=0 multi-mem=0 rbs=0 rbp=0 obl=0 oll=0 omem=0 tot-mem=0 events=r cmd=NULL user={} redir=-1 resp={} lib-name={} lib-ver={}",
        meta.id,
        meta.address,
        meta.local_address,
        words.name,
        age,
        meta.idle_seconds(),
        meta.db.load(Relaxed),
        words.user,
        if meta.is_resp3.load(Relaxed) { 3 } else { 2 },
        words.library,
        words.library_version,
    )
}

fn list(worker: &Worker, request: &Request<'_>) -> Result<String, String> {
    let args = request.args;
    let all: Vec<_> = worker
        .shared
        .registry
        .lock()
        .values()
        .map(std::sync::Arc::clone)
        .collect();
    let mut text = String::new();
    let mut write = |meta: &ClientMeta| {
        let _ = writeln!(text, "{}", describe(meta));
    };
    match args.len() {
        2 => all.iter().for_each(|meta| write(meta)),
        4 if args.arg(2).eq_ignore_ascii_case(b"type") => {
            let kind = args.arg(3).to_ascii_lowercase();
            match &kind[..] {
                b"normal" => all.iter().for_each(|meta| write(meta)),
                b"master" | b"replica" | b"slave" | b"pubsub" => {}
                _ => {
                    return Err(format!(
                        "ERR Unknown client type '{}'",
                        String::from_utf8_lossy(args.arg(3))
                    ));
                }
            }
        }
        4.. if args.arg(2).eq_ignore_ascii_case(b"id") => {
            for i in 3..args.len() {
                let id = number(args.arg(i)).ok_or("ERR Invalid client ID")?;
                all.iter().filter(|meta| meta.id == id).for_each(|meta| write(meta));
            }
        }
        _ => return Err("ERR syntax error".into()),
    }
    Ok(text)
}

fn number(text: &[u8]) -> Option<u64> {
    std::str::from_utf8(text).ok()?.parse().ok().filter(|&id| id > 0)
}

enum Killed {
    /// The form with an address alone.
    Old,
    Count(usize),
}

fn kill(worker: &Worker, client: &Client, request: &Request<'_>) -> Result<Killed, &'static str> {
    let args = request.args;
    let own = client.meta.id;
    if args.len() == 3 {
        let address = String::from_utf8_lossy(args.arg(2)).into_owned();
        let killed = worker.shared.kill(|meta| meta.address == address);
        return if killed == 0 {
            Err("ERR No such client")
        } else {
            Ok(Killed::Old)
        };
    }
    if !args.len().is_multiple_of(2) {
        return Err("ERR syntax error");
    }
    let (mut id, mut address, mut local, mut user, mut skip_me, mut is_other_type) =
        (None, None, None, None, true, false);
    for i in (2..args.len()).step_by(2) {
        let value = args.arg(i + 1);
        let word = || String::from_utf8_lossy(value).into_owned();
        match &args.arg(i).to_ascii_lowercase()[..] {
            b"id" => id = Some(number(value).ok_or("ERR client-id should be greater than 0")?),
            b"addr" => address = Some(word()),
            b"laddr" => local = Some(word()),
            b"user" => user = Some(word()),
            b"type" => match &value.to_ascii_lowercase()[..] {
                b"normal" => {}
                b"master" | b"replica" | b"slave" | b"pubsub" => is_other_type = true,
                _ => return Err("ERR Unknown client type"),
            },
            b"skipme" => match &value.to_ascii_lowercase()[..] {
                b"yes" => skip_me = true,
                b"no" => skip_me = false,
                _ => return Err("ERR syntax error"),
            },
            _ => return Err("ERR syntax error"),
        }
    }
    Ok(Killed::Count(worker.shared.kill(|meta| {
        !is_other_type
            && id.is_none_or(|id| meta.id == id)
            && address.as_ref().is_none_or(|a| *a == meta.address)
            && local.as_ref().is_none_or(|a| *a == meta.local_address)
            && user.as_ref().is_none_or(|u| **u == *meta.words.lock().user)
            && !(skip_me && meta.id == own)
    })))
}
