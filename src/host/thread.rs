//! Blocking work on a thread of its own.
//!
//! sysfs writes, bind mounts and statfs may hang for as long as a cluster does. A
//! pool of threads would fill up with hanging ones and then stop volumes that have
//! nothing to do with it, so each such call gets a thread. What a reader gets wrong:
//! dropping the future stops waiting, not the work.

use tokio::sync::oneshot;

use super::error::{HostError, Result};

/// Runs `work` on a new thread and waits for it.
///
/// # Errors
/// The work's own; EAGAIN when no thread can be started; EIO when the work panicked.
pub async fn on_thread<T, F>(op: &'static str, object: &str, work: F) -> Result<T>
where
    T: Send + 'static,
    F: FnOnce() -> Result<T> + Send + 'static,
{
    let (sender, receiver) = oneshot::channel();
    let span = tracing::Span::current();
    std::thread::Builder::new()
        .name(op.to_owned())
        .spawn(move || {
            let _entered = span.enter();
            // Nobody may be waiting any more; the work is done all the same.
            let _ = sender.send(work());
        })
        .map_err(|error| HostError::io(op, object, &error).with("cannot start a thread"))?;
    let ended = receiver.await;
    ended.unwrap_or_else(|_| Err(HostError::new(op, object, libc::EIO).with("the thread panicked")))
}
