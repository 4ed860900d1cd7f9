//! `/metrics` and `/healthz`, for Prometheus and for probes over HTTP.
//!
//! What a reader gets wrong: a port that cannot be bound is a warning. A driver
//! that serves volumes without metrics is worth more than one that does not run,
//! and with hostNetwork two pods of a node may want one port for a moment. So it is
//! tried again: the probes of manifests are at this port, and where they fail for good
//! the kubelet restarts the driver again and again.

use std::time::Duration;

use axum::Router;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;

use crate::health::Health;
use crate::metrics;

/// The content type of Prometheus' text format with OpenMetrics' end mark.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const HEALTHZ: &str = "/healthz";
/// How long to wait before a port that is taken is tried again.
const AGAIN: Duration = Duration::from_secs(1);

/// Serves the process's metrics at `path`, and `health` (fine when none judges).
pub async fn start(address: Option<&str>, port: u16, path: &str, health: Option<Health>) {
    serve(address, port, path, metrics::registry, health).await;
}

/// As [`start`], with the metrics of a registry that `registry` makes for each reader.
pub async fn serve(
    address: Option<&str>,
    port: u16,
    path: &str,
    registry: fn() -> Registry,
    health: Option<Health>,
) {
    let address = address.unwrap_or_else(|| {
        tracing::warn!("POD_IP is not set: metrics are served on all addresses");
        "0.0.0.0"
    });
    let address = address.trim_matches(['[', ']']).to_owned();
    let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
    // The first attempt before the return: by the time that CSI is served this is, too.
    let bound = TcpListener::bind((address.as_str(), port)).await;
    tokio::spawn(async move {
        let listener = match bound {
            Ok(listener) => listener,
            Err(error) => {
                tracing::warn!(address, port, %error, "metrics and health are not served: the port cannot be bound; tried again every {AGAIN:?}");
                bind_again(&address, port).await
            }
        };
        tracing::info!(address, port, path, "serving metrics");
        if let Err(error) = axum::serve(listener, router(path, registry, health)).await {
            tracing::warn!(%error, "metrics are served no longer");
        }
    });
}

/// In silence: whoever reads the log knows from the first attempt.
async fn bind_again(address: &str, port: u16) -> TcpListener {
    loop {
        tokio::time::sleep(AGAIN).await;
        if let Ok(listener) = TcpListener::bind((address, port)).await {
            return listener;
        }
    }
}

/// A fallback instead of routes: the path is the operator's, and a router panics at some.
fn router(path: String, registry: fn() -> Registry, health: Option<Health>) -> Router {
    let answer = move |uri: axum::http::Uri| async move {
        match uri.path() {
            HEALTHZ => healthy(health).await,
            asked if asked == path => shown(&registry()),
            _ => StatusCode::NOT_FOUND.into_response(),
        }
    };
    Router::new().fallback(get(answer))
}

async fn healthy(health: Option<Health>) -> Response {
    let judged = match health {
        Some(health) => health.check().await,
        None => Ok(()),
    };
    match judged {
        Ok(()) => "ok\n".into_response(),
        Err(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("{}\n", why.words())).into_response(),
    }
}

fn shown(registry: &Registry) -> Response {
    let mut text = String::new();
    match encode(&mut text, registry) {
        Ok(()) => ([(header::CONTENT_TYPE, OPEN_METRICS)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}
