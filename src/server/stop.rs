//! The wish to end: SIGTERM or SIGINT, heard by everything that runs.

use std::io;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

/// Tells whoever asks that the process is to end.
#[derive(Debug, Clone)]
pub struct Stop(watch::Receiver<bool>);

impl Stop {
    /// Stops at SIGTERM and SIGINT.
    ///
    /// # Errors
    /// When the handlers cannot be installed.
    pub fn on_signals() -> io::Result<Self> {
        let (mut terminate, mut interrupt) =
            (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        let (sender, receiver) = watch::channel(false);
        tokio::spawn(async move {
            let name = tokio::select! {
                _ = terminate.recv() => "SIGTERM",
                _ = interrupt.recv() => "SIGINT",
            };
            tracing::info!(signal = name, "asked to end");
            // Fails only when nobody listens any more.
            let _ = sender.send(true);
            sender.closed().await;
        });
        Ok(Self(receiver))
    }

    /// Stops when `sender` says true or is dropped; for tests.
    pub fn on(receiver: watch::Receiver<bool>) -> Self {
        Self(receiver)
    }

    /// Returns once the process is to end.
    pub async fn asked(&mut self) {
        // An error means that the sender is gone, and nobody could ask any more.
        let _ = self.0.wait_for(|asked| *asked).await;
    }
}
