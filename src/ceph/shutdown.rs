//! The end of a client and of an image that nobody closed, off everybody's threads.
//!
//! `rados_shutdown` waits for what is under way and for its own threads, `rbd_close` for
//! the cluster. So they may be called neither from librados' callbacks (they would wait for
//! themselves) nor from the async threads (they block).

use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

use super::ffi;

static RUNNING: Mutex<usize> = Mutex::new(0);
static ENDED: Condvar = Condvar::new();

/// Counts one end that is under way.
struct Running;

impl Running {
    fn new() -> Self {
        *RUNNING.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        Self
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        *RUNNING.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
        ENDED.notify_all();
    }
}

struct Handle(ffi::rados_t);

// SAFETY: librados' cluster handle is of no thread.
unsafe impl Send for Handle {}

impl Handle {
    fn end(self) {
        // SAFETY: the last user of the handle is gone; called once.
        unsafe { ffi::rados_shutdown(self.0) };
    }
}

/// Shuts the client down on a thread of its own and returns at once.
pub(super) fn begin(cluster: ffi::rados_t) {
    let handle = Handle(cluster);
    on_thread("rados-shutdown", move || handle.end());
}

/// Ends something on a thread of its own and returns at once.
pub(super) fn on_thread(name: &str, end: impl FnOnce() + Send + 'static) {
    let running = Running::new();
    let end = move || {
        end();
        drop(running);
    };
    if let Err(error) = std::thread::Builder::new().name(name.into()).spawn(end) {
        // No thread to be had: memory is lost, and what the cluster keeps for a client ends
        // with its time-outs.
        tracing::warn!(%error, thread = name, "no thread to end a Ceph client or an image");
    }
}

/// Waits until no end is under way any more; `false` after `most`.
pub(super) fn wait(most: Duration) -> bool {
    let running = RUNNING.lock().unwrap_or_else(PoisonError::into_inner);
    let (running, _) = ENDED
        .wait_timeout_while(running, most, |running| *running > 0)
        .unwrap_or_else(PoisonError::into_inner);
    *running == 0
}
