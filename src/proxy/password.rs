//! A password that the server gets, changes or loses while the proxy runs. Connections that are up are not asked for it, at
//! the server as here; new ones are, and so are new clients. The proxy hears of it when a client sets it (`CONFIG SET
//! requirepass`), or else from the first client that shows it. This concerns the default user only.

use std::time::Duration;

use super::local::{Hello, WRONG_PASSWORD};
use super::worker::Worker;
use crate::config::{Auth, Secret};
use crate::resp::Version;
use crate::resp::first::First;
use crate::resp::request::Args;
use crate::upstream::dial::{DialError, Greeting, Protocol, Role, Target, Tracking};

/// What this `CONFIG` makes the password, if the server takes it; empty: none.
pub fn set_by(args: Args<'_>) -> Option<Secret> {
    let is = |i: usize, word: &[u8]| args.arg(i).eq_ignore_ascii_case(word);
    let name = (2..args.len()).step_by(2).find(|&i| is(i, b"requirepass"))?;
    is(1, b"set").then(|| Secret::new(args.arg(name + 1)))
}

/// A client is about to give the server this one. Whether it is taken may never be told (`CLIENT REPLY OFF`).
pub fn hear(worker: &Worker, password: &Secret) {
    if worker.cluster.is_none() {
        worker.target.hear(password);
    }
}

/// The server has taken it: the proxy's new connections show it, and so must new clients.
pub fn follow(worker: &Worker, password: &Secret) {
    // Each node of a cluster has one of its own.
    if worker.cluster.is_none()
        && let Some(access) = worker.target.access().with_password(password)
    {
        tracing::info!("a client has changed the password of the upstream: new connections show it");
        worker.target.set_access(access);
        look(worker);
    }
}

/// Finds out which of the passwords that were heard of the server has: of two that are given it at the same time over two
/// connections, nobody can tell from the replies which was the last.
pub fn look(worker: &Worker) {
    if worker.cluster.is_none() {
        let target = Target::clone(&worker.target);
        tokio::task::spawn_local(async move {
            if let Err(error) = target.open(greeting(target.connect_timeout)).await {
                tracing::warn!(%error, "after a change of its password the upstream lets the proxy not in");
            }
        });
    }
}

/// In RESP2, where a server without a password refuses one.
fn greeting(answer_within: Duration) -> Greeting {
    Greeting {
        protocol: Protocol::Only(Version::Resp2),
        db: 0,
        tracking: Tracking::Off,
        is_readonly: false,
        answer_within,
    }
}

/// What helps where the server wants a password that it is not shown.
pub fn remedy(worker: &Worker) -> &'static str {
    match learns(worker) && worker.target.access().with_password(&Secret::new("")).is_some() {
        true => "Give the proxy its password and send SIGHUP, or AUTH with it.",
        false => "Give the proxy its password and send SIGHUP.",
    }
}

fn learns(worker: &Worker) -> bool {
    worker.cluster.is_none() && worker.shared.config.auth == Auth::Upstream
}

/// The server has refused the proxy for want of a password. If the first request of this input shows one that the server
/// accepts, it becomes the proxy's own. `None`: it shows none, or nobody could tell.
///
/// # Errors
/// What the server says of it.
pub async fn learn(worker: &Worker, input: &[u8], answer_within: Duration) -> Option<Result<(), String>> {
    if !learns(worker) {
        return None;
    }
    let password = shown(input)?;
    if password.expose().is_empty() {
        return Some(Err(WRONG_PASSWORD.into()));
    }
    let access = worker.target.access().with_password(&password)?;
    let node = worker.target.endpoint()?;
    let turn = tokio::time::timeout(answer_within, worker.target.dials.acquire()).await;
    let _turn = turn.ok()?.ok()?;
    match access
        .open(
            &node,
            Role::Any,
            &greeting(answer_within),
            worker.target.connect_timeout,
        )
        .await
    {
        Ok(_) => {
            tracing::info!("a client has shown the password that the upstream wants: new connections show it");
            worker.target.set_access(access);
            Some(Ok(()))
        }
        Err(DialError::Refused { error, .. }) => Some(Err(error)),
        Err(_) => None,
    }
}

/// The password of the default user in an `AUTH` or `HELLO` at the start of this input.
fn shown(input: &[u8]) -> Option<Secret> {
    shown_by(First::of(input)?.whole()?)
}

fn shown_by(args: Args<'_>) -> Option<Secret> {
    let (user, password) = match args.len() {
        _ if args.arg(0).eq_ignore_ascii_case(b"hello") => Hello::parse(args).ok()?.credentials?,
        _ if !args.arg(0).eq_ignore_ascii_case(b"auth") => return None,
        2 => (&b"default"[..], args.arg(1)),
        3 => (args.arg(1), args.arg(2)),
        _ => return None,
    };
    (user == b"default").then(|| Secret::new(password))
}

#[cfg(test)]
mod tests;
