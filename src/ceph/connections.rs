//! The connections that are kept: one per monitors, user and key, and a second one for the
//! background work if there is any.
//!
//! Lives here: who shares which connection, and when one is given up. What a
//! reader gets wrong: a failed connect is told to all who waited for it, and
//! then forgotten; so a thousand calls against a dead cluster wait for one
//! connect at a time, not each for its own.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::connect;
use super::connection::Connection;
use super::credentials::Credentials;
use super::door;
use super::error::{CephError, Result};
use super::shutdown;
use crate::secret::Secret;

/// Connections that nobody asked for so long go when another is made: those of
/// clusters that were taken out of the configuration.
const IDLE: Duration = Duration::from_secs(15 * 60);

#[derive(Clone, PartialEq, Eq, Hash)]
struct Key {
    monitors: Vec<String>,
    credentials: Credentials,
    background: bool,
}

type Outcome = Option<Result<Connection>>;

enum Entry {
    /// Somebody connects; the outcome comes through here.
    Connecting(watch::Receiver<Outcome>),
    Ready {
        connection: Connection,
        used: Instant,
    },
}

type Entries = HashMap<Key, Entry>;

/// All connections of this process.
#[derive(Clone)]
pub struct Connections(Arc<Shared>);

struct Shared {
    ceph_conf: Option<PathBuf>,
    entries: Mutex<Entries>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Entries> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Connections {
    /// None yet. `ceph_conf` is read at each connect when it is there; its
    /// time-outs win over ours, but never its monitors, user or key.
    pub fn new(ceph_conf: Option<PathBuf>) -> Self {
        Self(Arc::new(Shared { ceph_conf, entries: Mutex::default() }))
    }

    /// The connection of these monitors (`ip`, `ip:port` or `[v2:…,v1:…]`) and
    /// credentials, made when there is none or the one that was is blocklisted.
    /// Bounded by `client_mount_timeout`. EACCES: the cluster refuses the user
    /// or the key; ETIMEDOUT: no monitor answers.
    pub async fn get(&self, monitors: &[String], credentials: &Credentials) -> Result<Connection> {
        self.get_of(monitors, credentials, false).await
    }

    /// A connection of its own for work that takes long (purge, flatten), made on first
    /// need and kept as the others are: librbd does all of a client's work on few threads, so beside
    /// such work every other call of the client would wait.
    pub async fn get_background(&self, monitors: &[String], credentials: &Credentials) -> Result<Connection> {
        self.get_of(monitors, credentials, true).await
    }

    async fn get_of(
        &self,
        monitors: &[String],
        credentials: &Credentials,
        background: bool,
    ) -> Result<Connection> {
        // As they are given to librados: two texts for one key are not two clients.
        let user = credentials.user().to_owned();
        let key = Secret::new(credentials.key.reveal().trim().to_owned());
        let credentials = Credentials { user, key };
        let key = Key { monitors: monitors.to_vec(), credentials, background };
        if key.monitors.is_empty() {
            let object = connect::label(&key.monitors, &key.credentials);
            return Err(CephError::new("rados_connect", object, libc::EINVAL));
        }
        let mut outcome = match self.find_or_begin(&key) {
            Ok(connection) => return Ok(connection),
            Err(receiver) => receiver,
        };
        let outcome = outcome.wait_for(Outcome::is_some).await.ok().and_then(|outcome| outcome.clone());
        // The connecting task sends before it ends; it ends without only with the runtime.
        outcome.unwrap_or_else(|| {
            let object = connect::label(&key.monitors, &key.credentials);
            Err(CephError::new("rados_connect", object, libc::ESHUTDOWN))
        })
    }

    fn find_or_begin(&self, key: &Key) -> std::result::Result<Connection, watch::Receiver<Outcome>> {
        let mut entries = self.0.lock();
        match entries.get_mut(key) {
            Some(Entry::Ready { connection, used }) if !connection.is_dead() => {
                *used = Instant::now();
                return Ok(connection.clone());
            }
            // One whose task has died would never end.
            Some(Entry::Connecting(outcome)) if outcome.has_changed().is_ok() => return Err(outcome.clone()),
            _ => {}
        }
        let (sender, receiver) = watch::channel(None);
        entries.insert(key.clone(), Entry::Connecting(receiver.clone()));
        // A task of its own: the caller may go away, others wait for it.
        tokio::spawn(connect_and_keep(self.0.clone(), key.clone(), sender));
        Err(receiver)
    }

    /// How many connections are kept or being made.
    pub fn len(&self) -> usize {
        self.0.lock().len()
    }

    /// Whether none is kept.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Gives all connections up and waits up to `most` until those that nobody
    /// uses any more are shut down; for the end of the process.
    pub async fn close(&self, most: Duration) -> bool {
        self.0.lock().clear();
        tokio::task::spawn_blocking(move || shutdown::wait(most)).await.unwrap_or(false)
    }
}

async fn connect_and_keep(shared: Arc<Shared>, key: Key, sender: watch::Sender<Outcome>) {
    let outcome = connect_now(&shared, &key).await;
    {
        let mut entries = shared.lock();
        entries.remove(&key);
        if let Ok(connection) = &outcome {
            // The key that has just been proven good replaces the user's older one.
            entries.retain(|other, entry| match entry {
                Entry::Ready { used, .. } => used.elapsed() < IDLE && !other.is_older_key_of(&key),
                Entry::Connecting(_) => true,
            });
            let ready = Entry::Ready { connection: connection.clone(), used: Instant::now() };
            entries.insert(key, ready);
        }
    }
    // Waiters hold receivers of their own; nobody left to hear it is no error.
    let _ = sender.send(Some(outcome));
}

impl Key {
    fn is_older_key_of(&self, other: &Self) -> bool {
        self.monitors == other.monitors
            && self.credentials.user == other.credentials.user
            && self.credentials.key != other.credentials.key
    }
}

async fn connect_now(shared: &Arc<Shared>, key: &Key) -> Result<Connection> {
    const OP: &str = "rados_connect";
    let object = connect::label(&key.monitors, &key.credentials);
    let (conf, wanted) = (shared.ceph_conf.clone(), key.clone());
    let call = async move {
        let connect = move || connect::connect(conf.as_deref(), &wanted.monitors, &wanted.credentials);
        tokio::task::spawn_blocking(connect).await.unwrap_or((-i64::from(libc::EIO), None))
    };
    match door::pass(OP, &object, call).await? {
        (_, Some(connection)) => connection,
        (_, None) => Err(CephError::new(OP, object, libc::EIO)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_connect_whose_task_died_is_begun_anew() {
        let connections = Connections::new(None);
        let monitors = vec!["127.0.0.1:1".to_owned()];
        // Refused before anything is sent.
        let credentials = Credentials { user: "a\0b".into(), key: Secret::new("no key".into()) };
        let key = Key { monitors: monitors.clone(), credentials: credentials.clone(), background: false };
        let (sender, dead) = watch::channel(None);
        connections.0.lock().insert(key, Entry::Connecting(dead));
        drop(sender);
        let error = connections.get(&monitors, &credentials).await.unwrap_err();
        assert!(!error.is(libc::ESHUTDOWN), "{error}");
    }
}
