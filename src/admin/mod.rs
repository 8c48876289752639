//! The admin API over HTTP: metrics and health, on the control runtime.

use std::sync::Arc;

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::proxy::shared::Shared;

/// Serves until cancelled.
pub async fn serve(listener: TcpListener, shared: Arc<Shared>, cancel: CancellationToken) {
    let _ = (listener, shared);
    cancel.cancelled().await;
}
