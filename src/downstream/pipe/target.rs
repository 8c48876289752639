//! The client to which another one wants its invalidations to go (`CLIENT TRACKING … REDIRECT`). The server can only send
//! them to a connection that is this client's alone, so it gets one before the request is sent.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use tokio::time::Instant;

use crate::downstream::session::Session;
use crate::proxy::client::ClientMeta;
use crate::proxy::pinned;
use crate::resp::first::First;

/// How long its session is waited for, and how often it is looked at. A client that is busy for longer is, to the server,
/// nobody.
const WITHIN: Duration = Duration::from_secs(1);
const PERIOD: Duration = Duration::from_millis(1);

/// Calls the client that the request at the start of the session's input names: it is to have a connection of its own, and to keep it.
pub async fn call(session: &Session) {
    let Some(meta) = named(session) else { return };
    let shared = &session.worker.shared;
    shared.call(&meta);
    let deadline = Instant::now() + WITHIN;
    while meta.upstream_id.load(Relaxed) == 0 && Instant::now() < deadline {
        tokio::time::sleep(PERIOD).await;
    }
    if meta.upstream_id.load(Relaxed) == 0 {
        // Nobody redirects to it any more.
        meta.is_called.store(false, Relaxed);
    }
}

fn named(session: &Session) -> Option<Arc<ClientMeta>> {
    pinned::target(&session.worker, &session.client, First::of(&session.input)?.whole()?)
}
