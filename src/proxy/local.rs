//! What the proxy answers itself, upstream or no upstream: who the client is and how it wants to be spoken to. Texts are
//! those of Redis 7.0.

use std::rc::Rc;
use std::sync::atomic::Ordering::Relaxed;

use super::client::{Access, Client, Words};
use super::request::{Reason, Request, Step, pin};
use super::worker::Worker;
use super::{client_command, info, nearcache, pubsub, request};
use crate::command::{Local, Spec, WrongSubcommand};
use crate::config::Auth;
use crate::resp::convert::{self, Rule};
use crate::resp::request::Args;
use crate::resp::{Version, encode};
use crate::upstream::facts::Facts;

pub fn answer(worker: &Rc<Worker>, client: &Rc<Client>, request: &Request<'_>, which: Local) -> Step {
    let args = request.args;
    worker.counters().local_total.add(1);
    match which {
        // A server that is busy with a script says so, and whoever asks then wants to know. So does whoever monitors it,
        // and whoever has paused it.
        Local::Ping | Local::Echo
            if (worker.may_be_busy(request.now_us)
                || worker.shared.has_monitors()
                || worker.shared.pause.holds_all_back(request.now_us))
                && request::is_up(worker, client)
                && client.state.borrow().listening.is_none() =>
        {
            return request::shared(worker, client, request);
        }
        Local::Ping => ping(client, args),
        Local::Echo => client
            .state
            .borrow_mut()
            .outbox
            .answer_now(|ready| encode::bulk(&mut ready.bytes, args.arg(1))),
        Local::Select => return select(worker, client, request),
        Local::Hello => return hello(worker, client, request),
        Local::Auth => return auth(worker, client, request),
        Local::Client => return client_command::answer(worker, client, request),
        Local::Reset => return reset(worker, client),
        Local::Quit => {
            let mut state = client.state.borrow_mut();
            state.ok();
            state.is_closing = true;
        }
        Local::Info => return info::answer(worker, client, request),
        Local::Nearcache => return nearcache::answer(worker, client, request),
    }
    Step::DONE
}

/// `ERR unknown command …`, for clients that may not reach the server, which says the same.
pub fn unknown_command(args: Args<'_>) -> Vec<u8> {
    let mut text = [
        b"ERR unknown command '",
        c_string(args.arg(0)),
        b"', with args beginning with: ",
    ]
    .concat();
    for arg in args.iter().skip(1) {
        if text.len() >= 128 + 46 {
            break;
        }
        text.extend_from_slice(&[b"'", c_string(arg), b"' "].concat());
    }
    text
}

/// What is wrong with a subcommand, for clients that the server is not asked for.
pub fn wrong_subcommand(spec: &Spec, args: Args<'_>) -> Option<Vec<u8>> {
    Some(match spec.wrong_subcommand(args)? {
        WrongSubcommand::Unknown => unknown_subcommand(&spec.name, args),
        WrongSubcommand::Arity => wrong_arity(&spec.full_name(args)).into_bytes(),
    })
}

pub fn unknown_subcommand(name: &str, args: Args<'_>) -> Vec<u8> {
    let container = name.to_ascii_uppercase();
    [
        b"ERR unknown subcommand '",
        c_string(args.arg(1)),
        b"'. Try ",
        container.as_bytes(),
        b" HELP.",
    ]
    .concat()
}

/// As the server prints an argument: to the first NUL, and no more than 128 bytes.
pub fn c_string(bytes: &[u8]) -> &[u8] {
    let text = bytes.split(|&b| b == 0).next().unwrap_or_default();
    &text[..text.len().min(128)]
}

pub fn wrong_arity(name: &str) -> String {
    format!("ERR wrong number of arguments for '{name}' command")
}

fn ping(client: &Client, args: Args<'_>) {
    let mut state = client.state.borrow_mut();
    let is_listening = state.listening.as_ref().is_some_and(|listening| listening.is_any());
    match args.len() {
        // RESP2 has no pushes: while messages may come the reply has their form.
        1 | 2 if is_listening && state.version == Version::Resp2 => state.outbox.answer_now(|ready| {
            encode::array_header(&mut ready.bytes, 2);
            encode::bulk(&mut ready.bytes, "pong");
            encode::bulk(&mut ready.bytes, args.arg(1));
        }),
        1 => state
            .outbox
            .answer_now(|ready| encode::simple(&mut ready.bytes, "PONG")),
        2 => state
            .outbox
            .answer_now(|ready| encode::bulk(&mut ready.bytes, args.arg(1))),
        _ => state.error(wrong_arity("ping")),
    }
}

/// Each database has a connection of its own, so a change waits for the earlier answers, as every change of path does.
fn select(worker: &Worker, client: &Client, request: &Request<'_>) -> Step {
    let mut state = client.state.borrow_mut();
    let index = integer(request.args.arg(1)).and_then(|index| i32::try_from(index).ok());
    match index {
        None if integer(request.args.arg(1)).is_some() => {
            state.error("ERR value is out of range, value must between -2147483648 and 2147483647");
        }
        None => state.error("ERR value is not an integer or out of range"),
        Some(index) if index != 0 && worker.cluster.is_some() => {
            state.error("ERR SELECT is not allowed in cluster mode");
        }
        Some(index) => match u32::try_from(index) {
            Ok(db) if db < request.facts.databases => {
                if db != state.db && !state.outbox.is_all_answered() {
                    return Step::Wait;
                }
                state.db = db;
                client.meta.db.store(db, Relaxed);
                state.ok();
            }
            _ => state.error("ERR DB index is out of range"),
        },
    }
    Step::DONE
}

/// An integer as Redis reads one: no sign but a minus, no leading zeros.
pub fn integer(text: &[u8]) -> Option<i64> {
    let number = std::str::from_utf8(text).ok()?.parse::<i64>().ok()?;
    (itoa::Buffer::new().format(number).as_bytes() == text).then_some(number)
}

/// What a client's credentials are worth.
pub enum Verdict {
    Own,
    /// Only the upstream can tell.
    Foreign,
    Wrong,
}

/// `user: None` is the one-argument form of AUTH.
pub fn verify(worker: &Worker, user: &[u8], password: &[u8]) -> Verdict {
    let config = &worker.shared.config;
    match worker.shared.client_credentials() {
        // Compared in constant time; a wrong user name is no faster.
        Some(own) if own.password.matches(password) & (own.user.as_bytes() == user) => Verdict::Own,
        // Without a password the default user takes any, as in Redis.
        None if user == b"default" => Verdict::Own,
        _ if config.auth == Auth::Upstream => Verdict::Foreign,
        _ => Verdict::Wrong,
    }
}

pub const WRONG_PASSWORD: &str = "WRONGPASS invalid username-password pair or user is disabled.";
const NO_PASSWORD: &str = "ERR AUTH <password> called without any password configured for the default user. Are you sure your configuration is correct?";

fn auth(worker: &Rc<Worker>, client: &Rc<Client>, request: &Request<'_>) -> Step {
    let args = request.args;
    let (user, password) = match args.len() {
        2 => (&b"default"[..], args.arg(1)),
        3 => (args.arg(1), args.arg(2)),
        _ => {
            client.state.borrow_mut().error("ERR syntax error");
            return Step::DONE;
        }
    };
    if asks_the_server(worker, client, user) {
        return pin(client, Reason::Anywhere);
    }
    if args.len() == 2 && worker.shared.client_credentials().is_none() {
        client.state.borrow_mut().error(NO_PASSWORD);
        return Step::DONE;
    }
    match verify(worker, user, password) {
        Verdict::Own => {
            become_own(client, user);
            client.state.borrow_mut().ok();
            Step::DONE
        }
        Verdict::Foreign if worker.cluster.is_none() => pin(client, Reason::Foreign),
        Verdict::Foreign | Verdict::Wrong => {
            client.state.borrow_mut().error(WRONG_PASSWORD);
            Step::DONE
        }
    }
}

/// Whether the server judges the password of the default user: the proxy needs none, and the server may have got one, or is
/// known to have.
fn asks_the_server(worker: &Rc<Worker>, client: &Client, user: &[u8]) -> bool {
    let config = &worker.shared.config;
    config.auth == Auth::Upstream
        && worker.shared.client_credentials().is_none()
        && user == b"default"
        && (worker.target.is_locked() || request::is_up(worker, client))
}

fn become_own(client: &Client, user: &[u8]) {
    client.state.borrow_mut().access = Access::Own;
    client.meta.words.lock().user = String::from_utf8_lossy(user).into();
}

fn hello(worker: &Rc<Worker>, client: &Rc<Client>, request: &Request<'_>) -> Step {
    let args = request.args;
    let hello = match Hello::parse(args) {
        Ok(hello) => hello,
        Err(error) => {
            client.state.borrow_mut().error(&error);
            return Step::DONE;
        }
    };
    // What is sent again after a loss must not find a server that speaks another version than the client did.
    let speaks_less = hello.version == Some(Version::Resp2) && client.state.borrow().version == Version::Resp3;
    if speaks_less && !client.state.borrow().outbox.is_all_answered() {
        return Step::Wait;
    }
    let spoken = worker.target.spoken();
    // Before anything else is looked at, as a server that has no RESP3 does.
    let has_no_resp3 = hello.version == Some(Version::Resp3) && spoken.version() == Version::Resp2;
    if let Some((user, password)) = hello.credentials {
        if asks_the_server(worker, client, user) {
            return pin(client, Reason::Anywhere);
        }
        match verify(worker, user, password) {
            Verdict::Own if has_no_resp3 => {}
            Verdict::Own => become_own(client, user),
            Verdict::Foreign if worker.cluster.is_none() => return pin(client, Reason::Foreign),
            Verdict::Foreign | Verdict::Wrong => {
                client.state.borrow_mut().error(WRONG_PASSWORD);
                return Step::DONE;
            }
        }
    }
    let mut state = client.state.borrow_mut();
    if has_no_resp3 {
        state.error(NO_SUCH_VERSION);
        return Step::DONE;
    }
    if state.access == Access::Unauthenticated {
        state.error("NOAUTH HELLO must be called with the client already authenticated, otherwise the HELLO AUTH <user> <pass> option can be used to authenticate the client and select the RESP protocol version at the same time");
        return Step::DONE;
    }
    if let Some(version) = hello.version {
        if !state.speak(version, spoken) {
            state.error(NO_SUCH_VERSION);
            return Step::DONE;
        }
        client.meta.is_resp3.store(version == Version::Resp3, Relaxed);
    }
    if let Some(name) = hello.name {
        client.meta.words.lock().name = String::from_utf8_lossy(name).into();
    }
    let version = state.version;
    let mode = match worker.cluster {
        Some(_) => "cluster",
        None => "standalone",
    };
    state
        .outbox
        .answer_now(|ready| write_hello(&mut ready.bytes, version, client.meta.id, mode, request.facts));
    Step::DONE
}

/// What a `HELLO` asks for.
pub struct Hello<'a> {
    pub version: Option<Version>,
    pub credentials: Option<(&'a [u8], &'a [u8])>,
    pub name: Option<&'a [u8]>,
}

impl<'a> Hello<'a> {
    pub fn parse(args: Args<'a>) -> Result<Hello<'a>, String> {
        let mut hello = Hello {
            version: None,
            credentials: None,
            name: None,
        };
        if args.len() > 1 {
            hello.version = Some(match integer(args.arg(1)) {
                Some(2) => Version::Resp2,
                Some(3) => Version::Resp3,
                Some(_) => return Err(NO_SUCH_VERSION.into()),
                None => return Err("ERR Protocol version is not an integer or out of range".into()),
            });
        }
        let mut i = 2;
        while i < args.len() {
            let option = args.arg(i);
            if option.eq_ignore_ascii_case(b"AUTH") && i + 2 < args.len() {
                hello.credentials = Some((args.arg(i + 1), args.arg(i + 2)));
                i += 3;
            } else if option.eq_ignore_ascii_case(b"SETNAME") && i + 1 < args.len() {
                if !is_valid_name(args.arg(i + 1)) {
                    return Err(INVALID_NAME.into());
                }
                hello.name = Some(args.arg(i + 1));
                i += 2;
            } else {
                return Err(format!(
                    "ERR Syntax error in HELLO option '{}'",
                    String::from_utf8_lossy(c_string(option))
                ));
            }
        }
        Ok(hello)
    }
}

const NO_SUCH_VERSION: &str = "NOPROTO unsupported protocol version";

pub const INVALID_NAME: &str = "ERR Client names cannot contain spaces, newlines or special characters.";

/// Printable ASCII without spaces (`validateClientName`).
pub fn is_valid_name(name: &[u8]) -> bool {
    name.iter().all(|b| (b'!'..=b'~').contains(b))
}

fn write_hello(out: &mut Vec<u8>, version: Version, id: u64, mode: &str, facts: &Facts) {
    encode::map_header(out, version, 7);
    for (field, value) in [("server", &*facts.server), ("version", &*facts.version)] {
        encode::bulk(out, field);
        encode::bulk(out, value);
    }
    encode::bulk(out, "proto");
    encode::integer(out, if version == Version::Resp3 { 3 } else { 2 });
    encode::bulk(out, "id");
    encode::integer(out, id as i64);
    for (field, value) in [("mode", mode), ("role", &*facts.role)] {
        encode::bulk(out, field);
        encode::bulk(out, value);
    }
    encode::bulk(out, "modules");
    match version {
        Version::Resp3 => out.extend_from_slice(&facts.modules),
        // It was a complete frame when it was learned.
        Version::Resp2 => drop(convert::to_resp2(&Rule::General, &facts.modules, out)),
    }
}

/// Everything the client has said about itself is forgotten.
fn reset(worker: &Worker, client: &Rc<Client>) -> Step {
    let is_another = {
        let state = client.state.borrow();
        state.db != worker.initial_db() || state.version == Version::Resp3
    };
    if is_another && !client.state.borrow().outbox.is_all_answered() {
        return Step::Wait;
    }
    let listened = client.meta.is_subscribed();
    forget(worker, client);
    if !listened || !pubsub::answer_behind_ends(worker, client, b"+RESET\r\n") {
        client
            .state
            .borrow_mut()
            .outbox
            .answer_now(|ready| encode::simple(&mut ready.bytes, "RESET"));
    }
    Step::DONE
}

pub fn forget(worker: &Worker, client: &Client) {
    pubsub::forget(worker, client);
    let mut state = client.state.borrow_mut();
    let _always = state.speak(Version::Resp2, worker.target.spoken());
    state.db = worker.initial_db();
    state.access = worker.initial_access();
    client.meta.db.store(state.db, Relaxed);
    client.meta.is_resp3.store(false, Relaxed);
    let mut words = client.meta.words.lock();
    *words = Words {
        user: "default".into(),
        ..std::mem::take(&mut *words)
    };
    words.name = "".into();
}

impl Worker {
    /// As whom a new client speaks.
    pub fn initial_access(&self) -> Access {
        if self.shared.client_credentials().is_some() {
            Access::Unauthenticated
        } else {
            Access::Own
        }
    }

    /// The database in which clients begin: that of the upstream URL.
    pub fn initial_db(&self) -> u32 {
        self.shared.initial_db
    }
}
