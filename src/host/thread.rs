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

/// Something whose end may hang, such as an open block device: its last close writes what is in the
/// page cache. It ends on a thread of its own, whether it is let go or just dropped.
#[derive(Debug)]
pub struct EndsElsewhere<T: Send + 'static>(Option<T>);

impl<T: Send + 'static> EndsElsewhere<T> {
    /// Sees to the end of `what`.
    pub fn new(what: T) -> Self {
        Self(Some(what))
    }

    /// Ends it, and waits until that is done.
    pub async fn let_go(mut self, op: &'static str, object: &str) {
        let what = self.0.take();
        let ended = on_thread(op, object, move || {
            drop(what);
            Ok(())
        });
        if let Err(error) = ended.await {
            tracing::warn!(%error, "it may not be closed yet");
        }
    }
}

impl<T: Send + 'static> Drop for EndsElsewhere<T> {
    fn drop(&mut self) {
        if let Some(what) = self.0.take() {
            // Without a thread the closure ends here, and what it holds with it.
            let _ = std::thread::Builder::new().name("close".into()).spawn(move || drop(what));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, Sender, channel};

    use super::*;

    /// Tells on which thread it ends, and ends when it is allowed to.
    struct Slow(Sender<std::thread::ThreadId>, Receiver<()>);

    impl Drop for Slow {
        fn drop(&mut self) {
            self.0.send(std::thread::current().id()).unwrap();
            let _ = self.1.recv();
        }
    }

    #[tokio::test]
    async fn an_end_that_hangs_hangs_no_thread_of_the_runtime() {
        let (told, tells) = channel();
        let (end, ends) = channel();
        drop(EndsElsewhere::new(Slow(told.clone(), ends)));
        assert_ne!(tells.recv().unwrap(), std::thread::current().id());
        end.send(()).unwrap();
        let (end, ends) = channel();
        end.send(()).unwrap();
        EndsElsewhere::new(Slow(told, ends)).let_go("close", "test").await;
        assert_ne!(tells.try_recv().unwrap(), std::thread::current().id());
    }
}
