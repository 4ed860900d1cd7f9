//! Whether this process can do its work: what Probe and `/healthz` answer.
//!
//! Only what a restart or the operator of this node could change: that
//! configuration can be read, that the node has krbd, that the kubelet has not refused
//! this plugin, that the workers run.
//! Never Ceph: an outage there would restart every plugin of the Kubernetes
//! cluster, and help nobody.
//!
//! What a reader gets wrong: what is wrong comes in two kinds, and only Probe tells them
//! apart. An error says to the CO that something has to be done about this process: CSI
//! lets it restart the plugin, and sidecars (csi-lib-utils' ProbeForever) end at any code
//! but DEADLINE_EXCEEDED. A config.json with a typo must not do that: the sidecars of a
//! controller would crash one after the other, and detaching, which needs no
//! configuration, would stand still with them. So that is `ready: false`, which they
//! wait out; the driver reads the file anew at each call.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::config::ConfigFiles;
use crate::host::{krbd, module};
use crate::metrics;

/// How often the workers show that they run.
const BEAT: Duration = Duration::from_secs(1);
/// How late that may be; a busy machine is no reason for a restart.
const LATE: Duration = Duration::from_secs(30);

/// Where the registration with the kubelet stands, if this process sees to it.
#[derive(Debug, Clone, Default)]
pub enum Registration {
    /// Somebody else does, or it is not begun, or over.
    #[default]
    NotOurs,
    /// The kubelet has not decided yet; a restart would not hurry it.
    Waiting(PathBuf),
    /// The kubelet uses this plugin, as long as it sees this socket.
    Done(PathBuf),
    /// The kubelet does not, for this reason.
    Refused(String),
    /// The socket was taken away, and cannot be made again for this reason.
    Lost(String),
}

/// Why this process cannot do its work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unwell {
    /// Something is wrong here: workers stand still, or the node lacks krbd, which is
    /// CSI's "missing required dependency".
    Failed(String),
    /// It is well, and goes to work by itself as soon as others have brought what it needs.
    NotReady(String),
}

impl Unwell {
    /// One line for the operator.
    pub fn words(&self) -> &str {
        let (Self::Failed(words) | Self::NotReady(words)) = self;
        words
    }
}

impl Registration {
    fn check(&self) -> Result<(), String> {
        match self {
            Self::Waiting(socket) | Self::Done(socket) if !socket.exists() => Err(format!(
                "the socket {} is gone, and with it the kubelet's knowledge of this plugin",
                socket.display()
            )),
            Self::Refused(words) => Err(format!("the kubelet refuses this plugin: {words}")),
            Self::Lost(words) => Err(words.clone()),
            Self::NotOurs | Self::Waiting(_) | Self::Done(_) => Ok(()),
        }
    }
}

/// Judges this process.
#[derive(Debug, Clone)]
pub struct Health {
    config: ConfigFiles,
    node: bool,
    started: Instant,
    /// Milliseconds after `started` at which a worker ran last.
    beat: Arc<AtomicU64>,
    registration: Arc<Mutex<Registration>>,
}

impl Health {
    /// For a process with that configuration; `node`: it serves the node too.
    /// Within a tokio runtime.
    pub fn new(config: ConfigFiles, node: bool) -> Self {
        let this = Self {
            config,
            node,
            started: Instant::now(),
            beat: Arc::default(),
            registration: Arc::default(),
        };
        let (beat, started) = (Arc::downgrade(&this.beat), this.started);
        tokio::spawn(async move {
            while let Some(beat) = beat.upgrade() {
                beat.store(
                    u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
                    Ordering::Relaxed,
                );
                drop(beat);
                tokio::time::sleep(BEAT).await;
            }
        });
        this
    }

    /// The registration stands so from now on.
    pub fn registration(&self, now: Registration) {
        if !matches!(now, Registration::NotOurs) {
            metrics::kubelet_registered(matches!(now, Registration::Done(_)));
        }
        *self.registration.lock().unwrap_or_else(PoisonError::into_inner) = now;
    }

    /// Fine, or why not.
    ///
    /// # Errors
    /// In one line for the operator.
    pub async fn check(&self) -> Result<(), Unwell> {
        let silent =
            self.started.elapsed().saturating_sub(Duration::from_millis(self.beat.load(Ordering::Relaxed)));
        if silent > LATE {
            return Err(Unwell::Failed(format!("no worker has run for {} s", silent.as_secs())));
        }
        let registered = self.registration.lock().unwrap_or_else(PoisonError::into_inner).check();
        registered.map_err(Unwell::NotReady)?;
        self.config.check().map_err(|error| Unwell::NotReady(error.to_string()))?;
        if self.node && !krbd::is_loaded() {
            let loaded = tokio::task::spawn_blocking(module::ensure_loaded).await;
            loaded
                .map_err(|error| Unwell::Failed(error.to_string()))?
                .map_err(|error| Unwell::Failed(format!("{}: {error}", module::ADVICE)))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn workers_that_stand_still_are_told() {
        let folder = tempfile::tempdir().unwrap();
        let cluster = folder.path().join("config.json");
        std::fs::write(&cluster, "[]").unwrap();
        let mut health = Health::new(ConfigFiles { cluster, mapping: folder.path().join("m.json") }, false);
        assert_eq!(health.check().await, Ok(()));
        // As if the last beat had been a minute ago.
        health.started -= 2 * LATE;
        let unwell = health.check().await.unwrap_err();
        assert!(
            matches!(&unwell, Unwell::Failed(words) if words.starts_with("no worker has run for 6")),
            "{unwell:?}"
        );
    }

    #[tokio::test]
    async fn a_socket_that_is_gone_is_told_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let cluster = folder.path().join("config.json");
        std::fs::write(&cluster, "[]").unwrap();
        let health = Health::new(ConfigFiles { cluster, mapping: folder.path().join("m.json") }, false);
        let socket = folder.path().join("driver-reg.sock");
        std::fs::write(&socket, "").unwrap();
        health.registration(Registration::Done(socket.clone()));
        assert_eq!(health.check().await, Ok(()));
        std::fs::remove_file(&socket).unwrap();
        assert!(health.check().await.unwrap_err().words().contains("driver-reg.sock is gone"));
    }

    #[tokio::test]
    async fn a_missing_configuration_is_told_and_a_good_one_is_fine() {
        let folder = tempfile::tempdir().unwrap();
        let config =
            ConfigFiles { cluster: folder.path().join("config.json"), mapping: folder.path().join("m.json") };
        let health = Health::new(config.clone(), false);
        let unwell = health.check().await.unwrap_err();
        assert!(matches!(&unwell, Unwell::NotReady(words) if words.contains("config.json")), "{unwell:?}");
        std::fs::write(&config.cluster, "[]").unwrap();
        assert_eq!(health.check().await, Ok(()));
    }
}
