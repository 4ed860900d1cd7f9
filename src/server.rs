//! The gRPC server: its socket (`listen`), clients with a path for authority
//! (`authority`), its limits, and its end (`stop`).
//!
//! What a reader gets wrong: the end is bounded at each step. After the signal no
//! connection is accepted and each client is told to open no new call; calls that
//! run have `FINISH` to end, are then answered UNAVAILABLE, and what still hangs
//! is left behind. Operations of calls that got no result go on while the
//! connections close, and the CO's repeat of the call joins or repeats them.

use std::future::Future;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tonic::service::Routes;
use tonic::transport::Server;

use crate::metrics::in_flight;
use crate::telemetry::calls::CallsLayer;
use authority::Repaired;
use stop::Stop;

pub mod authority;
mod hpack;
pub mod listen;
pub mod stop;

pub use listen::Listener;

/// How long running calls may go on after the signal.
const FINISH: Duration = Duration::from_secs(18);
/// How long the answers may take to leave after that.
const ANSWER: Duration = Duration::from_secs(2);
/// How long clients without a call may take to close.
const IDLE: Duration = Duration::from_secs(1);
/// Calls at once on one connection; a sidecar has one connection for all its workers.
const STREAMS: u32 = 1024;
/// Metadata of a call; the CO's is a few hundred bytes.
const HEADERS: u32 = 16 << 10;
/// HTTP/2's smallest; a large request comes in several.
const FRAME: u32 = 16 << 10;
/// A client behind a broken TCP path is noticed after this, and its calls are dropped.
const KEEPALIVE: Duration = Duration::from_secs(30);

/// Serves until asked to stop, then ends within `FINISH` + `ANSWER`.
///
/// # Errors
/// When the server cannot be set up; failures of single clients are theirs.
pub async fn serve(listener: Listener, routes: Routes, slow: Duration, stop: Stop) -> Result<(), String> {
    let (give_up, given_up) = watch::channel(false);
    let router = limited().layer(CallsLayer::new(slow, given_up)).add_routes(routes);
    let (incoming, accepting) = clients(listener, stop.clone());
    let mut asked = stop.clone();
    let serving = router.serve_with_incoming_shutdown(incoming, async move { asked.asked().await });
    run(serving, end(stop, give_up), accepting).await
}

/// Serves something small beside CSI until asked to stop: its calls are neither counted
/// nor waited for, and its socket goes at once.
///
/// # Errors
/// As [`serve`].
pub async fn serve_beside(listener: Listener, routes: Routes, mut stop: Stop) -> Result<(), String> {
    let router = limited().add_routes(routes);
    let (incoming, accepting) = clients(listener, stop.clone());
    let mut asked = stop.clone();
    let serving = router.serve_with_incoming_shutdown(incoming, async move { asked.asked().await });
    let end = async {
        stop.asked().await;
        tokio::time::sleep(IDLE).await;
    };
    run(serving, end, accepting).await
}

/// Until all calls have ended by themselves, or `end` returns.
async fn run(
    serving: impl Future<Output = Result<(), tonic::transport::Error>>,
    end: impl Future<Output = ()>,
    accepting: JoinHandle<()>,
) -> Result<(), String> {
    tokio::select! {
        served = serving => served.map_err(|error| format!("the gRPC server cannot run: {error}"))?,
        () = end => {}
    }
    // The task owns the socket's file, which is gone when it has ended.
    accepting.await.map_err(|error| format!("accepting clients ended early: {error}"))
}

type Accepted = Result<Repaired<listen::Stream>, std::convert::Infallible>;

/// The clients that come until the process is to end, and the task that accepts them.
fn clients(listener: Listener, stop: Stop) -> (ReceiverStream<Accepted>, JoinHandle<()>) {
    let (clients, incoming) = mpsc::channel(16);
    (ReceiverStream::new(incoming), tokio::spawn(accept(listener, clients, stop)))
}

fn limited() -> Server {
    Server::builder()
        .max_concurrent_streams(STREAMS)
        .http2_max_header_list_size(HEADERS)
        .max_frame_size(FRAME)
        .http2_max_pending_accept_reset_streams(Some(64))
        .http2_keepalive_interval(Some(KEEPALIVE))
        .http2_keepalive_timeout(Some(KEEPALIVE))
}

/// Returns when the process has waited long enough for its calls.
async fn end(mut stop: Stop, give_up: watch::Sender<bool>) {
    stop.asked().await;
    let finished = async {
        while in_flight::count() > 0 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    if tokio::time::timeout(FINISH, finished).await.is_ok() {
        return tokio::time::sleep(IDLE).await;
    }
    tracing::warn!(calls = in_flight::count(), "calls are answered UNAVAILABLE: the process has to end");
    // Fails only when no call listens any more.
    let _ = give_up.send(true);
    tokio::time::sleep(ANSWER).await;
}

async fn accept(listener: Listener, clients: mpsc::Sender<Accepted>, mut stop: Stop) {
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.asked() => return,
        };
        match accepted {
            Ok(stream) => {
                if clients.send(Ok(Repaired::new(stream))).await.is_err() {
                    return;
                }
            }
            Err(error) => {
                tracing::warn!(endpoint = listener.describe(), %error, "a client could not be accepted");
                // Out of file descriptors, most likely: not a busy loop until some are free.
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}
