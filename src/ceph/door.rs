//! The one function through which every call to librados and librbd goes.
//!
//! Lives here: what is done at each call besides the call: the fault of a test
//! build, the metric, the trace event. Not here: how a call is made (`aio`,
//! `Connection::blocking`). What a reader gets wrong: the door stands on the
//! asynchronous side, so a call whose future is dropped still runs in the
//! library but is not counted; state-changing work therefore runs in a task of
//! its own (`volume::operation`).

use std::future::Future;
use std::time::Instant;

use super::error::{CephError, Result};
use crate::{fault, metrics};

/// Makes the call `op` on `object`: `call` yields what C returned (a negative
/// errno is a failure) and the values that came with it.
pub(super) async fn pass<T>(
    op: &'static str,
    object: &str,
    call: impl Future<Output = (i64, T)>,
) -> Result<(i64, T)> {
    let started = Instant::now();
    let outcome = attempt(op, object, call).await;
    let (time, errno) = (started.elapsed(), outcome.as_ref().err().copied());
    metrics::ceph_call(op, time, errno);
    let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
    tracing::trace!(target: "rbd_csi::ceph", op, object, errno, micros, "ceph call");
    outcome.map_err(|errno| CephError::new(op, object, errno))
}

async fn attempt<T>(
    op: &'static str,
    object: &str,
    call: impl Future<Output = (i64, T)>,
) -> std::result::Result<(i64, T), i32> {
    strike(fault::before, op, object).await?;
    let (code, value) = call.await;
    // An answer such as ENOENT is an answer: a fault behind the call strikes all the same.
    let struck = strike(fault::after, op, object).await;
    if code < 0 {
        return Err(i32::try_from(code.unsigned_abs()).unwrap_or(libc::EIO));
    }
    struck.map(|()| (code, value))
}

type Fault = fn(&str, &str) -> std::result::Result<(), i32>;

#[cfg(not(feature = "fault-injection"))]
async fn strike(fault: Fault, op: &str, object: &str) -> std::result::Result<(), i32> {
    fault(op, object)
}

/// A fault may sleep: it does so on a thread where nobody else waits.
#[cfg(feature = "fault-injection")]
async fn strike(fault: Fault, op: &'static str, object: &str) -> std::result::Result<(), i32> {
    let object = object.to_owned();
    tokio::task::spawn_blocking(move || fault(op, &object)).await.unwrap_or(Err(libc::EIO))
}
