//! One client of one cluster, shared by all who need it.
//!
//! Lives here: the cluster handle, its threads, and what is asked of the cluster
//! as a whole. Not here: how it is set up (`connect`) and kept (`connections`), and
//! what its maps say (`maps`).
//! What a reader gets wrong: a blocklisted client looks alive: pools are found
//! and maps arrive, but each object operation answers ESHUTDOWN (108). The first
//! such answer marks the connection, and [`super::Connections`] makes a new one.

use std::collections::HashSet;
use std::ffi::CStr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::door;
use super::error::{CephError, Result};
use super::ffi;
use super::shutdown;

/// Threads that one cluster's blocking calls may hold: enough for librbd's
/// creates to be bound by the cluster, few enough for a dead one not to matter.
const CALLS: usize = 16;
/// Calls that may take minutes (purges), apart so that they delay no create.
const LONG_CALLS: usize = 4;
/// Flattens, apart from the purges: each of them may take hours.
const FLATTENS: usize = 16;
/// Notifications, which are sent while an image's lock is held: they must not queue behind calls that
/// wait for locks themselves.
const NOTIFICATIONS: usize = 8;
/// Images that are open side by side. Whoever has one open waits for a thread before each call, so
/// without a limit all callers would have theirs open at once: 0.3 MB each, and a watch.
const OPEN_IMAGES: usize = CALLS + FLATTENS;
/// Calls that may wait for a monitor, apart because nothing in librados ends the
/// wait for a new map: without a monitor these threads, and only these, stand still.
const MAP_CALLS: usize = 4;

/// A share of this cluster's threads, and how long anybody waits for one of its calls.
struct Share {
    threads: Arc<Semaphore>,
    limit: Option<Duration>,
}

pub(super) struct Inner {
    cluster: ffi::rados_t,
    fsid: String,
    /// `client.<user>@<monitors>`.
    label: String,
    dead: AtomicBool,
    calls: Share,
    long_calls: Share,
    flattens: Share,
    notifications: Share,
    open_images: Arc<Semaphore>,
    map_calls: Share,
    known_map_calls: Share,
    known: Mutex<HashSet<String>>,
    serial: u64,
}

// SAFETY: librados' cluster handle may be used by any number of threads.
unsafe impl Send for Inner {}
// SAFETY: as above.
unsafe impl Sync for Inner {}

impl Drop for Inner {
    fn drop(&mut self) {
        shutdown::begin(self.cluster);
    }
}

/// A connected client; clones share it. Shut down when the last one is gone.
#[derive(Clone)]
pub struct Connection(Arc<Inner>);

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Connection({})", self.0.label)
    }
}

static SERIAL: AtomicU64 = AtomicU64::new(1);

impl Connection {
    /// Takes a handle over that `rados_connect` succeeded on.
    pub(super) fn adopt(cluster: ffi::rados_t, label: String) -> Result<Self> {
        let limit = monitor_limit(cluster);
        let calls = Arc::new(Semaphore::new(CALLS));
        let mut inner = Inner {
            cluster,
            fsid: String::new(),
            label,
            dead: AtomicBool::new(false),
            // librados and librbd end their own calls by `rados_osd_op_timeout`.
            long_calls: Share { threads: Arc::new(Semaphore::new(LONG_CALLS)), limit: None },
            flattens: Share { threads: Arc::new(Semaphore::new(FLATTENS)), limit: None },
            notifications: Share { threads: Arc::new(Semaphore::new(NOTIFICATIONS)), limit: None },
            open_images: Arc::new(Semaphore::new(OPEN_IMAGES)),
            map_calls: Share { threads: Arc::new(Semaphore::new(MAP_CALLS)), limit },
            known_map_calls: Share { threads: calls.clone(), limit },
            calls: Share { threads: calls, limit: None },
            known: Mutex::default(),
            serial: SERIAL.fetch_add(1, Ordering::Relaxed),
        };
        let mut buffer = [0u8; 37];
        // SAFETY: a live handle and a buffer of the length that is given.
        let length = unsafe { ffi::rados_cluster_fsid(cluster, buffer.as_mut_ptr().cast(), buffer.len()) };
        let length = usize::try_from(length)
            .map_err(|_| CephError::new("rados_cluster_fsid", &*inner.label, length))?;
        inner.fsid = String::from_utf8_lossy(&buffer[..length.min(36)]).into_owned();
        Ok(Self(Arc::new(inner)))
    }

    /// For C calls while the connection lives.
    pub(super) fn cluster(&self) -> ffi::rados_t {
        self.0.cluster
    }

    /// Our own watcher id: what `Watcher::client` says of watches of this client
    /// (`rados_get_instance_id`).
    pub fn instance_id(&self) -> u64 {
        // SAFETY: a live, connected handle.
        unsafe { ffi::rados_get_instance_id(self.0.cluster) }
    }

    /// The cluster's fsid, asked for at the connect (`rados_cluster_fsid`).
    pub async fn fsid(&self) -> Result<String> {
        Ok(self.0.fsid.clone())
    }

    /// The same without waiting: it is known since the connect.
    pub fn fsid_text(&self) -> &str {
        &self.0.fsid
    }

    /// A number of this connection in this process: a replaced one has another.
    pub fn serial(&self) -> u64 {
        self.0.serial
    }

    /// Whether the cluster no longer serves this client (it was blocklisted).
    pub fn is_dead(&self) -> bool {
        self.0.dead.load(Ordering::Relaxed)
    }

    /// Notes an answer that says that this client is done for.
    pub(super) fn judge<T>(&self, result: Result<T>) -> Result<T> {
        if let Err(error) = &result
            && error.is(libc::ESHUTDOWN)
            && !self.0.dead.swap(true, Ordering::Relaxed)
        {
            tracing::warn!(client = self.0.label, %error, "this Ceph client was blocklisted; the next call connects anew");
        }
        result
    }

    /// Makes a blocking call on a thread of this cluster's share.
    pub(super) async fn blocking<T: Send + 'static>(
        &self,
        op: &'static str,
        object: String,
        call: impl FnOnce(ffi::rados_t) -> (i64, T) + Send + 'static,
    ) -> Result<(i64, T)> {
        self.on_thread(&self.0.calls, op, object, call).await
    }

    /// The same for calls that may take minutes.
    pub(super) async fn blocking_long<T: Send + 'static>(
        &self,
        op: &'static str,
        object: String,
        call: impl FnOnce(ffi::rados_t) -> (i64, T) + Send + 'static,
    ) -> Result<(i64, T)> {
        self.on_thread(&self.0.long_calls, op, object, call).await
    }

    /// The same for a notification.
    pub(super) async fn blocking_notification<T: Send + 'static>(
        &self,
        op: &'static str,
        object: String,
        call: impl FnOnce(ffi::rados_t) -> (i64, T) + Send + 'static,
    ) -> Result<(i64, T)> {
        self.on_thread(&self.0.notifications, op, object, call).await
    }

    /// The same for a flatten, which may take hours.
    pub(super) async fn blocking_flatten<T: Send + 'static>(
        &self,
        op: &'static str,
        object: String,
        call: impl FnOnce(ffi::rados_t) -> (i64, T) + Send + 'static,
    ) -> Result<(i64, T)> {
        self.on_thread(&self.0.flattens, op, object, call).await
    }

    /// Waits until one more image may be open; it may as long as the answer is kept. Nobody may wait for
    /// it who has an image open.
    pub(super) async fn room_for_image(&self) -> Option<OwnedSemaphorePermit> {
        // The semaphore is never closed.
        self.0.open_images.clone().acquire_owned().await.ok()
    }

    /// A blocking call with a question to the osdmap about `subject`, which may have to
    /// wait for a new map: ETIMEDOUT after `rados_mon_op_timeout`, while the
    /// thread goes on waiting. What was found before is likely found at once, so
    /// it does not queue behind those who wait.
    pub(super) async fn blocking_map<T: Send + 'static>(
        &self,
        op: &'static str,
        subject: String,
        call: impl FnOnce(ffi::rados_t) -> (i64, T) + Send + 'static,
    ) -> Result<(i64, T)> {
        let lock = || self.0.known.lock().unwrap_or_else(PoisonError::into_inner);
        let share = if lock().contains(&subject) { &self.0.known_map_calls } else { &self.0.map_calls };
        let answer = self.on_thread(share, op, subject.clone(), call).await;
        match &answer {
            Ok(_) => lock().insert(subject),
            Err(_) => lock().remove(&subject),
        };
        answer
    }

    /// A question that always needs a monitor.
    pub(super) async fn blocking_monitor<T: Send + 'static>(
        &self,
        op: &'static str,
        call: impl FnOnce(ffi::rados_t) -> (i64, T) + Send + 'static,
    ) -> Result<T> {
        let answer = self.on_thread(&self.0.map_calls, op, self.0.label.clone(), call).await;
        answer.map(|(_, value)| value)
    }

    async fn on_thread<T: Send + 'static>(
        &self,
        share: &Share,
        op: &'static str,
        object: String,
        call: impl FnOnce(ffi::rados_t) -> (i64, T) + Send + 'static,
    ) -> Result<(i64, T)> {
        let connection = self.clone();
        let threads = share.threads.clone();
        let work = async move {
            let Ok(permit) = threads.acquire_owned().await else {
                return (-i64::from(libc::ESHUTDOWN), None);
            };
            let thread = tokio::task::spawn_blocking(move || {
                let (code, value) = call(connection.0.cluster);
                // The thread, not the future, holds the permit: a dropped future
                // leaves the call running.
                drop(permit);
                (code, Some(value))
            });
            thread.await.unwrap_or((-i64::from(libc::EIO), None))
        };
        let limited = async {
            match share.limit {
                Some(limit) => {
                    let late = |_| (-i64::from(libc::ETIMEDOUT), None);
                    tokio::time::timeout(limit, work).await.unwrap_or_else(late)
                }
                None => work.await,
            }
        };
        match self.judge(door::pass(op, &object, limited).await)? {
            (code, Some(value)) => Ok((code, value)),
            (_, None) => Err(CephError::new(op, object, libc::EIO)),
        }
    }
}

/// `rados_mon_op_timeout` as it is configured; 0 is none.
fn monitor_limit(cluster: ffi::rados_t) -> Option<Duration> {
    let mut buffer = [0u8; 32];
    // SAFETY: a live handle, a C string and a buffer of the length that is given.
    let code = unsafe {
        ffi::rados_conf_get(
            cluster,
            c"rados_mon_op_timeout".as_ptr(),
            buffer.as_mut_ptr().cast(),
            buffer.len(),
        )
    };
    let text = CStr::from_bytes_until_nul(&buffer).ok().filter(|_| code >= 0)?;
    let seconds: f64 = text.to_str().ok()?.parse().ok()?;
    Duration::try_from_secs_f64(seconds).ok().filter(|limit| !limit.is_zero())
}
