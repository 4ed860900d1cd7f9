//! What happens around each call, whichever service it is for: it is numbered,
//! counted, timed, logged in one line, and a panic in it is answered.
//!
//! Lives here: the tower layer and its order. How a request is read is in
//! `redact`; the counters are in `metrics`.
//!
//! What a reader gets wrong: the request is read to its end before the service is
//! called. All requests of CSI are one message of a few kilobytes, and the line of
//! a call names its volume even when the call is refused or dropped.

use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use http_body_util::{BodyExt as _, Full, Limited};
use tokio::sync::watch;
use tokio::time::{Instant, interval_at};
use tonic::body::Body;
use tonic::codegen::{Bytes, http};
use tonic::{Code, Status};
use tower::{Layer, Service};
use tracing::Instrument as _;

use super::redact::{self, Method};
use crate::metrics::{self, in_flight::InFlight};

type Request = http::Request<Body>;
type Response = http::Response<Body>;

/// The largest request; gRPC's own default.
const LARGEST: usize = 4 << 20;
/// gRPC's prefix of a message: compressed or not, and its length.
const PREFIX: usize = 5;

/// Wraps all services.
#[derive(Debug, Clone)]
pub struct CallsLayer {
    slow: Duration,
    given_up: watch::Receiver<bool>,
}

impl CallsLayer {
    /// Every `slow` a call that is not answered is told of (zero: never); once
    /// `given_up` is true, calls that still run are answered UNAVAILABLE.
    pub fn new(slow: Duration, given_up: watch::Receiver<bool>) -> Self {
        Self { slow, given_up }
    }
}

impl<S> Layer<S> for CallsLayer {
    type Service = Calls<S>;

    fn layer(&self, inner: S) -> Calls<S> {
        Calls { inner, layer: self.clone() }
    }
}

/// The services within the layer.
#[derive(Debug, Clone)]
pub struct Calls<S> {
    inner: S,
    layer: CallsLayer,
}

impl<S> Service<Request> for Calls<S>
where
    S: Service<Request, Response = Response, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
{
    type Response = Response;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request) -> Self::Future {
        // The clone is not the one that was polled ready: the ready one is used up.
        let clone = self.inner.clone();
        let inner = std::mem::replace(&mut self.inner, clone);
        let layer = self.layer.clone();
        let call = Call::start(request.uri().path());
        let span = tracing::info_span!("rpc", id = call.id, method = call.name());
        Box::pin(layer.run(inner, request, call).instrument(span))
    }
}

impl CallsLayer {
    async fn run<S>(mut self, inner: S, request: Request, mut call: Call) -> Result<Response, Infallible>
    where
        S: Service<Request, Response = Response, Error = Infallible>,
    {
        let answer = {
            let mut answer = pin!(answer(inner, request, call.method, call.subject.clone()));
            let mut slow = interval_at(
                Instant::now() + self.slow.max(Duration::from_millis(1)),
                self.slow.max(Duration::from_millis(1)),
            );
            loop {
                tokio::select! {
                    answer = &mut answer => break answer,
                    _ = slow.tick(), if !self.slow.is_zero() => call.tell_slow(),
                    true = given_up(&mut self.given_up) => {
                        let text = "the driver is being stopped and this call is not done: repeat it";
                        break Status::unavailable(text).into_http();
                    }
                }
            }
        };
        call.answered(&answer);
        Ok(answer)
    }
}

async fn given_up(asked: &mut watch::Receiver<bool>) -> bool {
    let ended = asked.wait_for(|asked| *asked).await.is_err();
    if ended {
        // Nobody will ask any more; the call goes on.
        std::future::pending::<()>().await;
    }
    true
}

async fn answer<S>(
    mut inner: S,
    request: Request,
    method: Option<&'static Method>,
    subject: Subject,
) -> Response
where
    S: Service<Request, Response = Response, Error = Infallible>,
{
    let (parts, body) = request.into_parts();
    let bytes = match Limited::new(body, LARGEST + PREFIX).collect().await {
        Ok(body) => body.to_bytes(),
        Err(error) if error.is::<http_body_util::LengthLimitError>() => {
            return Status::resource_exhausted(format!("the request is larger than {LARGEST} bytes"))
                .into_http();
        }
        Err(_) => return Status::cancelled("the request ended early").into_http(),
    };
    if let (Some(method), Some(message)) = (method, message(&bytes)) {
        if let Some(text) = method.subject(message) {
            let _ = subject.set(text);
        }
        if tracing::enabled!(tracing::Level::DEBUG) {
            tracing::debug!(request = method.show(message), "call");
        }
    }
    let request = Request::from_parts(parts, Body::new(Full::new(bytes)));
    match caught(async move { inner.call(request).await }).await {
        Some(Ok(response)) => response,
        Some(Err(never)) => match never {},
        // The panic's text is in the log, with its place; it may hold anything.
        None => Status::internal("a mistake in the driver: its log has the details").into_http(),
    }
}

/// Where a call's volume is put when it is known.
type Subject = std::sync::Arc<std::sync::OnceLock<String>>;

/// The message of a unary request; none when it is compressed, which no service announces.
fn message(bytes: &Bytes) -> Option<&[u8]> {
    match bytes.split_at_checked(PREFIX)? {
        ([0, ..], message) => Some(message),
        _ => None,
    }
}

/// The future's value; none when it panicked.
async fn caught<F: Future>(future: F) -> Option<F::Output> {
    let mut future = pin!(future);
    poll_fn(|cx| match catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(cx))) {
        Ok(poll) => poll.map(Some),
        Err(_) => Poll::Ready(None),
    })
    .await
}

/// A call from its start to its line in the log.
struct Call {
    id: u64,
    method: Option<&'static Method>,
    subject: Subject,
    in_flight: InFlight,
    answered: bool,
}

impl Call {
    fn start(path: &str) -> Self {
        static LAST: AtomicU64 = AtomicU64::new(0);
        let id = LAST.fetch_add(1, Ordering::Relaxed) + 1;
        let method = redact::method(path);
        Self { id, method, subject: Subject::default(), in_flight: InFlight::start(id), answered: false }
    }

    /// One name for all unknown methods: a caller must not fill the metrics.
    fn name(&self) -> &'static str {
        self.method.map_or("unknown", |method| &method.name)
    }

    fn volume(&self) -> &str {
        self.subject.get().map(String::as_str).unwrap_or_default()
    }

    fn tell_slow(&self) {
        let seconds = self.in_flight.age().as_secs_f64();
        tracing::warn!(volume = self.volume(), seconds, "not answered yet");
    }

    fn answered(&mut self, response: &Response) {
        // A failed unary call is answered by headers alone, a successful one has
        // its code behind the body.
        match Status::from_header_map(response.headers()) {
            None => self.end(Code::Ok, ""),
            Some(status) => self.end(status.code(), status.message()),
        }
    }

    fn end(&mut self, code: Code, error: &str) {
        self.answered = true;
        let (time, volume, code) = (self.in_flight.age(), self.volume(), name(code));
        metrics::rpc(self.name(), code, time);
        let seconds = time.as_secs_f64();
        if error.is_empty() {
            tracing::info!(volume, code, seconds, "answered");
        } else {
            tracing::warn!(volume, code, seconds, error, "answered");
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        if !self.answered {
            let _span = tracing::info_span!("rpc", id = self.id, method = self.name()).entered();
            self.end(Code::Cancelled, "the caller went away");
        }
    }
}

/// The code's name in gRPC's specification.
fn name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layer(slow: Duration) -> (watch::Sender<bool>, CallsLayer) {
        let (sender, receiver) = watch::channel(false);
        (sender, CallsLayer::new(slow, receiver))
    }

    fn probe() -> Request {
        let body = Body::new(Full::new(Bytes::from_static(&[0, 0, 0, 0, 0])));
        http::Request::builder().uri("/csi.v1.Identity/Probe").body(body).unwrap()
    }

    fn code(response: &Response) -> Code {
        Status::from_header_map(response.headers()).map_or(Code::Ok, |status| status.code())
    }

    #[tokio::test]
    async fn a_panic_is_answered_without_its_text() {
        let (_sender, layer) = layer(Duration::ZERO);
        let mut service = layer.layer(tower::service_fn(|_: Request| async {
            assert!(std::env::args().count() > 1_000_000, "canary of a panic");
            Ok::<_, Infallible>(Response::new(Body::empty()))
        }));
        let answer = service.call(probe()).await.unwrap();
        let status = Status::from_header_map(answer.headers()).unwrap();
        assert_eq!(status.code(), Code::Internal);
        assert!(!status.message().contains("canary"));
    }

    #[tokio::test]
    async fn a_call_that_does_not_end_is_given_up() {
        let (sender, layer) = layer(Duration::from_millis(1));
        let mut service = layer
            .layer(tower::service_fn(|_: Request| std::future::pending::<Result<Response, Infallible>>()));
        let call = tokio::spawn(service.call(probe()));
        tokio::time::sleep(Duration::from_millis(20)).await;
        sender.send(true).unwrap();
        assert_eq!(code(&call.await.unwrap().unwrap()), Code::Unavailable);
    }

    #[tokio::test]
    async fn too_large_a_request_is_refused_before_the_service() {
        let (_sender, layer) = layer(Duration::ZERO);
        let mut service = layer.layer(tower::service_fn(|_: Request| async {
            Ok::<_, Infallible>(Response::new(Body::empty()))
        }));
        let mut request = probe();
        *request.body_mut() = Body::new(Full::new(Bytes::from(vec![0; LARGEST + PREFIX + 1])));
        assert_eq!(code(&service.call(request).await.unwrap()), Code::ResourceExhausted);
        assert_eq!(code(&service.call(probe()).await.unwrap()), Code::Ok);
    }
}
