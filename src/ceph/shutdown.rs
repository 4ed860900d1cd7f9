//! The end of a client: `rados_shutdown`, off everybody's threads.
//!
//! It waits for what is under way and for its own threads, so it may be called
//! neither from librados' callbacks (it would wait for itself) nor from the
//! async threads (it blocks).

use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

use super::ffi;

static RUNNING: Mutex<usize> = Mutex::new(0);
static ENDED: Condvar = Condvar::new();

struct Handle(ffi::rados_t);

// SAFETY: librados' cluster handle is of no thread.
unsafe impl Send for Handle {}

impl Handle {
    fn end(self) {
        // SAFETY: the last user of the handle is gone; called once.
        unsafe { ffi::rados_shutdown(self.0) };
        *RUNNING.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
        ENDED.notify_all();
    }
}

/// Shuts the client down on a thread of its own and returns at once.
pub(super) fn begin(cluster: ffi::rados_t) {
    *RUNNING.lock().unwrap_or_else(PoisonError::into_inner) += 1;
    let handle = Handle(cluster);
    let thread = std::thread::Builder::new().name("rados-shutdown".into()).spawn(move || handle.end());
    if let Err(error) = thread {
        // No thread to be had: the client's memory is lost, nothing else is.
        *RUNNING.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
        tracing::warn!(%error, "no thread to shut a Ceph client down");
    }
}

/// Waits until no shutdown runs any more; `false` after `most`.
pub(super) fn wait(most: Duration) -> bool {
    let running = RUNNING.lock().unwrap_or_else(PoisonError::into_inner);
    let (running, _) = ENDED
        .wait_timeout_while(running, most, |running| *running > 0)
        .unwrap_or_else(PoisonError::into_inner);
    *running == 0
}
