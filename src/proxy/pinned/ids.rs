//! Ids and numbers of clients on their way between a pinned client and the server: to clients they are the proxy's, the
//! server knows its own.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use super::kind::Kind;
use crate::proxy::client::{Client, ClientMeta};
use crate::proxy::local::integer;
use crate::proxy::pubsub;
use crate::proxy::worker::Worker;
use crate::resp::encode;
use crate::resp::reply;
use crate::resp::request::Args;

/// The other client to which this `CLIENT TRACKING … REDIRECT` wants invalidations to go.
pub fn target(worker: &Worker, client: &Client, args: Args<'_>) -> Option<Arc<ClientMeta>> {
    let is = |i: usize, word: &[u8]| args.arg(i).eq_ignore_ascii_case(word);
    if worker.cluster.is_some() || !is(0, b"client") || !is(1, b"tracking") {
        return None;
    }
    let (_, id) = redirect_of(args)?;
    let registry = worker.shared.registry.lock();
    let meta = registry.get(&(id as u64)).filter(|meta| meta.id != client.meta.id)?;
    Some(Arc::clone(meta))
}

/// Where the id stands, and the id.
fn redirect_of(args: Args<'_>) -> Option<(usize, i64)> {
    let at = (3..args.len().checked_sub(1)?).find(|&i| args.arg(i).eq_ignore_ascii_case(b"redirect"))? + 1;
    let id = integer(args.arg(at)).filter(|id| *id > 0)?;
    Some((at, id))
}

/// The client that a `CLIENT TRACKING … REDIRECT id` names, and the request as the server understands it.
pub fn redirection(worker: &Worker, client: &Client, args: Args<'_>) -> Option<(i64, Vec<u8>)> {
    let (at, id) = redirect_of(args)?;
    let upstream_id = if id == client.meta.id as i64 {
        client.meta.upstream_id.load(Relaxed)
    } else {
        let registry = worker.shared.registry.lock();
        registry
            .get(&(id as u64))
            .map_or(0, |meta| meta.upstream_id.load(Relaxed))
    };
    // Nobody of ours, or nobody with a connection of his own: an id that nobody has at the server.
    let upstream_id = if upstream_id > 0 { upstream_id } else { i64::MAX };
    let number = itoa::Buffer::new().format(upstream_id).to_owned();
    let mut request = Vec::new();
    let words: Vec<&[u8]> = args
        .iter()
        .enumerate()
        .map(|(i, arg)| if i == at { number.as_bytes() } else { arg })
        .collect();
    encode::command(&mut request, words.into_iter());
    Some((id, request))
}

/// A reply in which the server tells an id, with the proxy's in its place; `None`: there is none in it.
pub fn translated(worker: &Worker, client: &Client, kind: &Kind, frame: &[u8]) -> Option<Vec<u8>> {
    let own = client.meta.id as i64;
    let redirect = client.meta.redirect.load(Relaxed);
    match kind {
        Kind::Receivers { is_sharded, channel } => {
            let hidden = worker.shared.audience.hidden_receivers(*is_sharded, channel);
            pubsub::with_receivers(frame, hidden)
        }
        Kind::Subscribers { is_sharded } => pubsub::with_subscribers(worker, *is_sharded, frame),
        Kind::ClientId => with_integer(frame, b"", own),
        Kind::Hello { .. } => with_integer(frame, b"$2\r\nid\r\n", own),
        Kind::Redirection if redirect > 0 => with_integer(frame, b"", redirect),
        Kind::TrackingInfo if redirect > 0 => with_integer(frame, b"$8\r\nredirect\r\n", redirect),
        _ => None,
    }
}

/// The frame with another positive integer behind the label.
fn with_integer(frame: &[u8], label: &[u8], value: i64) -> Option<Vec<u8>> {
    let start = frame.windows(label.len() + 1).position(|part| {
        let (front, mark) = part.split_at(label.len());
        front == label && mark == b":"
    })? + label.len();
    let end = start + frame[start..].iter().position(|&b| b == b'\r')? + 2;
    reply::integer(&frame[start..end]).filter(|old| *old > 0)?;
    let mut out = frame[..start].to_vec();
    encode::integer(&mut out, value);
    out.extend_from_slice(&frame[end..]);
    Some(out)
}

/// The reply of an `EXEC` with the replies of what was queued translated.
pub fn translated_all<'a>(
    worker: &Worker,
    client: &Client,
    queued: impl Iterator<Item = &'a Kind>,
    frame: &[u8],
) -> Option<Vec<u8>> {
    let elements = reply::elements(frame)?;
    let header = frame.iter().position(|&b| b == b'\n')? + 1;
    let mut out = frame[..header].to_vec();
    let mut is_changed = false;
    for (kind, element) in queued.zip(elements) {
        match translated(worker, client, kind, element) {
            Some(element) => {
                is_changed = true;
                out.extend_from_slice(&element);
            }
            None => out.extend_from_slice(element),
        }
    }
    is_changed.then_some(out)
}
