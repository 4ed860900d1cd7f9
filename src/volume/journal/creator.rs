//! The creator's lock: only its holder may make the image of a reservation, or
//! clear away the pieces of one that was never finished.
//!
//! librbd's create is several operations long and cannot be resumed: whoever
//! finds its pieces must know that their maker is not at work any more. So the
//! creator holds an exclusive RADOS lock (cls_lock) on the uuid object from the
//! reservation to the recorded image id; taking and giving it back ride on
//! operations that are there anyway. A holder that is our own predecessor (same
//! pod, same socket) is dead, since a live one would still own the socket. But this
//! process may have several clients (users, keys, the background's), and one of those lives:
//! its lock is taken away without a fence, which would cut off all that it does. Any
//! other holder is left alone for a while, then fenced on the cluster's blocklist, as
//! rbd itself breaks a lock: after that nothing it still sends takes effect.
//!
//! ceph-csi takes no lock and cannot be fenced: an unfinished reservation without one is left
//! alone while it is young.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use uuid::Uuid;

use super::{Entry, IMAGE_ID, Journal, Reservation};
use crate::ceph::lock::{self, Holder};
use crate::ceph::{CephError, Connection, WriteOp};
use crate::volume::error::{Error, Kind, Result};
use crate::volume::operation::Progress;

/// The lock's name.
pub const LOCK: &str = "rbd-csi.create";
const POLL: Duration = Duration::from_millis(250);

/// Who creates: this process, told from every other that lives.
#[derive(Debug, Clone)]
pub struct Creator {
    identity: String,
    /// How long another holder is left alone before it is fenced.
    grace: Duration,
    /// What this process is making: the lock tells clients apart, not operations.
    making: Arc<Mutex<HashSet<Uuid>>>,
    /// The numbers of all Ceph clients that this process has had.
    clients: Arc<Mutex<HashSet<u64>>>,
}

/// One creation of this process; ends when dropped.
pub struct Making {
    creator: Creator,
    uuid: Uuid,
}

impl Drop for Making {
    fn drop(&mut self) {
        self.creator.making().remove(&self.uuid);
    }
}

impl Creator {
    /// `identity` must differ between any two processes that run at once, and be
    /// the same for a process and the one that is started in its place.
    pub fn new(identity: impl Into<String>, grace: Duration) -> Self {
        Self { identity: identity.into(), grace, making: Arc::default(), clients: Arc::default() }
    }

    /// What tells this process from others.
    pub fn identity(&self) -> &str {
        &self.identity
    }

    /// Remembers a client as this process's own; before it takes its first lock.
    pub fn know(&self, connection: &Connection) {
        self.clients.lock().unwrap_or_else(PoisonError::into_inner).insert(connection.instance_id());
    }

    /// Whether the holder of a lock is this process, or the one in whose place it was started.
    pub fn is_us(&self, holder: &Holder) -> bool {
        holder.cookie == self.identity
    }

    /// Whether the holder is a client of this very process.
    pub fn is_own_client(&self, holder: &Holder) -> bool {
        let number = holder.client.strip_prefix("client.").and_then(|number| number.parse().ok());
        let clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        self.is_us(holder) && number.is_some_and(|number| clients.contains(&number))
    }

    fn making(&self) -> MutexGuard<'_, HashSet<Uuid>> {
        self.making.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// To be held while an image is made or its pieces are cleared away.
    ///
    /// # Errors
    /// [`Kind::Busy`] while another operation of this process does so.
    pub fn begin(&self, uuid: Uuid) -> Result<Making> {
        if !self.making().insert(uuid) {
            let text = format!("another call is making or removing the image of {uuid}");
            return Err(Error::new(Kind::Busy, text));
        }
        Ok(Making { creator: self.clone(), uuid })
    }

    /// Adds taking the lock to an operation on the uuid object; the whole
    /// operation fails with EBUSY while another holds it.
    pub fn lock(&self, op: WriteOp) -> WriteOp {
        lock::take(op, LOCK, &self.identity)
    }

    /// Adds giving the lock back; the whole operation fails with ENOENT when it is not ours.
    pub fn unlock(&self, op: WriteOp) -> WriteOp {
        lock::give_back(op, LOCK, &self.identity)
    }
}

impl Journal {
    /// Makes us the only creator of a reservation whose image is not recorded yet.
    /// `false`: another creator finished it, or it does not stand any more.
    ///
    /// # Errors
    /// What Ceph answers; [`Kind::Busy`] while another creator is at work that
    /// may not be fenced yet, or whom our key may not fence, and while the reservation is young
    /// and may be ceph-csi's.
    pub async fn claim(
        &self,
        reservation: &Reservation,
        creator: &Creator,
        progress: &Progress,
    ) -> Result<bool> {
        if reservation.locked {
            return Ok(true);
        }
        let entry = &reservation.entry;
        let object = self.object(entry.uuid);
        if entry.is_young() && self.pool.lock_holder(&object, LOCK).await?.is_none() {
            return Err(self.in_other_hands(entry));
        }
        let since = Instant::now();
        creator.know(self.pool.connection());
        loop {
            // Only on an entry that stands and is not complete: on that the lock would stay.
            let op = WriteOp::new()
                .assert_exists()
                .omap_equals(self.collection.name_key(), entry.name.as_bytes())
                .omap_equals(IMAGE_ID, b"");
            match self.pool.write("journal claim", &object, creator.lock(op)).await {
                Ok(()) => return Ok(true),
                Err(error) if error.is(libc::ENOENT) || error.is(libc::ECANCELED) => return Ok(false),
                Err(error) if !error.is(libc::EBUSY) => return Err(error.into()),
                Err(_) => {}
            }
            let Some(holder) = self.pool.lock_holder(&object, LOCK).await? else { continue };
            if creator.is_own_client(&holder) {
                // `begin` has proven that no operation of this process is at work on it.
                self.break_lock_of(&object, &holder).await?;
            } else if creator.is_us(&holder) {
                // Our predecessor is gone, but what it sent last may still be under way.
                self.fence_or_break(&object, &holder).await?;
            } else if !self.unfinished(reservation).await? {
                return Ok(false);
            } else if since.elapsed() >= creator.grace {
                progress.step(format!("fencing {}, which stopped while creating {object}", holder.address));
                self.fence(&object, &holder).await?;
            } else if progress.deadline.left() < POLL * 4 {
                return Err(busy(&object, &holder));
            } else {
                progress.step(format!("waiting for {}, which is creating {object}", holder.address));
                tokio::time::sleep(POLL).await;
            }
        }
    }

    pub(super) fn in_other_hands(&self, entry: &Entry) -> Error {
        let (object, noun) = (self.pool.describe(&self.object(entry.uuid)), self.collection.noun());
        Error::new(
            Kind::Busy,
            format!(
                "{noun} {} was begun less than a minute ago by another driver, without a lock, and a ceph-csi may \
                 be at work on it: {object} is finished here once it is older; no ceph-csi controller should run \
                 beside this one",
                entry.name
            ),
        )
    }

    async fn unfinished(&self, reservation: &Reservation) -> Result<bool> {
        let entry = self.entry(reservation.entry.uuid).await?;
        Ok(entry.is_some_and(|entry| entry.image_id.is_none() && entry.name == reservation.entry.name))
    }

    async fn fence_or_break(&self, object: &str, holder: &Holder) -> Result<()> {
        match self.fence(object, holder).await {
            Err(error) if error.kind == Kind::Busy => self.break_lock_of(object, holder).await,
            fenced => fenced,
        }
    }

    async fn break_lock_of(&self, object: &str, holder: &Holder) -> Result<()> {
        match self.pool.break_lock(object, LOCK, holder).await {
            Err(CephError { errno: libc::ENOENT, .. }) | Ok(()) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    async fn fence(&self, object: &str, holder: &Holder) -> Result<()> {
        tracing::warn!(object, address = holder.address, "fencing a creator that does not go on");
        match self.pool.connection().blocklist(&holder.address).await {
            Ok(()) => {}
            Err(error) if error.is(libc::EACCES) || error.is(libc::EPERM) => {
                return Err(busy(object, holder).because(error));
            }
            Err(error) => return Err(error.into()),
        }
        self.break_lock_of(object, holder).await
    }
}

fn busy(object: &str, holder: &Holder) -> Error {
    Error::new(
        Kind::Busy,
        format!(
            "client {} at {} holds the creator's lock of {object}; if it is gone for good, \
             `ceph osd blocklist add {}` and `rados lock break` let this go on",
            holder.client, holder.address, holder.address
        ),
    )
}
