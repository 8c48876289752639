//! The admin API over HTTP: metrics for Prometheus and for people, and a health probe. Runs on the control runtime, so a
//! scrape never takes a worker's time beyond the locks of L1's shards, one by one.
//!
//! Everything here only reads; nothing needs a password, and nothing says a key or a value. Whatever a peer does is
//! bounded by [`bounded`], and [`guard`] keeps out web pages that point a name of their own at this machine.

mod bounded;
mod collect;
mod guard;
mod health;

use std::sync::Arc;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router, middleware};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use self::bounded::Bounded;
use self::guard::Guard;
use self::health::{Health, Status};
use crate::metrics::expose;
use crate::proxy::shared::Shared;

/// Serves until cancelled; requests that are under way are answered first.
pub async fn serve(listener: TcpListener, shared: Arc<Shared>, cancel: CancellationToken) {
    let bound = match listener.local_addr() {
        Ok(bound) => bound,
        Err(error) => {
            tracing::error!(%error, "the admin API has no address and is not served");
            return;
        }
    };
    let served = axum::serve(Bounded::new(listener), router(shared, Guard::new(bound)))
        .with_graceful_shutdown(cancel.cancelled_owned());
    if let Err(error) = served.await {
        tracing::error!(%error, "the admin API has ended");
    }
}

const PATHS: &str = "\
GET /metrics      for Prometheus
GET /api/metrics  the same as JSON
GET /health       healthy, degraded or unhealthy, and why; the status is 503 when unhealthy
";

fn router(shared: Arc<Shared>, guard: Guard) -> Router {
    Router::new()
        .route("/metrics", get(metrics))
        .route("/api/metrics", get(metrics_json))
        .route("/health", get(health))
        .fallback(no_such_path)
        .method_not_allowed_fallback(no_such_method)
        .layer(middleware::from_fn_with_state(guard, guard::check))
        .with_state(shared)
}

async fn metrics(State(shared): State<Arc<Shared>>) -> Response {
    match collect::collect(&shared).text() {
        Ok(text) => ([(header::CONTENT_TYPE, expose::TEXT_TYPE)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}

async fn metrics_json(State(shared): State<Arc<Shared>>) -> Response {
    Json(collect::collect(&shared).json()).into_response()
}

async fn health(State(shared): State<Arc<Shared>>) -> Response {
    let health = Health::of(&shared);
    let code = match health.status {
        Status::Healthy | Status::Degraded => StatusCode::OK,
        Status::Unhealthy => StatusCode::SERVICE_UNAVAILABLE,
    };
    (code, Json(health)).into_response()
}

async fn no_such_path() -> Response {
    (StatusCode::NOT_FOUND, format!("no such path. There are:\n{PATHS}")).into_response()
}

async fn no_such_method() -> Response {
    (StatusCode::METHOD_NOT_ALLOWED, "only GET is served here\n").into_response()
}
