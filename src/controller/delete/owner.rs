//! Who purges an image: one process at a time. librbd 16 stops its whole process by an assertion
//! (TrimRequest.cc) when two clients remove one image.
//!
//! The lock (class `lock`) is named as the image's record and lies on the same object. It is
//! held for a minute and renewed; whoever loses it stops librbd. This process may have several
//! clients, and what one of them holds is no dead predecessor's.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::record;
use crate::ceph::{ImageId, KeepGoing, WriteOp, lock};
use crate::volume::error::{Error, Kind, Result};
use crate::volume::journal::Journal;
use crate::volume::journal::creator::Creator;

/// How long a purge is one process's own.
const OURS_FOR: Duration = Duration::from_secs(60);
const HOLD_ON_EVERY: Duration = Duration::from_secs(15);
/// librbd is stopped so long before somebody else may take the lock: it stops at the next object.
const STOP_BEFORE: Duration = Duration::from_secs(10);
/// Locks that are swept by one write.
const SWEPT_AT_ONCE: usize = 32;

/// The right to purge one image.
pub struct Owner<'a> {
    journal: &'a Journal,
    lock: String,
    identity: &'a str,
    held: Arc<Mutex<Instant>>,
}

impl<'a> Owner<'a> {
    /// Takes the lock.
    ///
    /// # Errors
    /// [`Kind::Busy`] naming another process that purges the image; what Ceph answers.
    pub async fn take(journal: &'a Journal, id: &ImageId, creator: &'a Creator) -> Result<Self> {
        let held = Arc::new(Mutex::new(Instant::now()));
        let this = Self { journal, lock: record::key(id), identity: creator.identity(), held };
        creator.know(journal.pool().connection());
        let pool = journal.pool();
        match this.write().await {
            Err(error) if error.is(libc::EBUSY) => {}
            taken => return Ok(taken.map(|()| this)?),
        }
        if let Some(holder) = pool.lock_holder(journal.directory(), &this.lock).await? {
            if !creator.is_us(&holder) || creator.is_own_client(&holder) {
                let text = format!("image id {} is being purged by {}", id.as_str(), holder.address);
                return Err(Error::new(Kind::Busy, text));
            }
            match pool.break_lock(journal.directory(), &this.lock, &holder).await {
                Err(error) if !error.is(libc::ENOENT) => return Err(error.into()),
                _ => {}
            }
        }
        Ok(this.write().await.map(|()| this)?)
    }

    async fn write(&self) -> crate::ceph::Result<()> {
        let asked = Instant::now();
        let op = lock::take_for(WriteOp::new().assert_exists(), &self.lock, self.identity, OURS_FOR);
        self.journal.pool().write("journal own purge", self.journal.directory(), op).await?;
        *self.held.lock().unwrap_or_else(PoisonError::into_inner) = asked;
        Ok(())
    }

    /// Tells librbd to stop when the lock is about to be lost: this process may have stood still.
    pub fn keep_going(&self) -> KeepGoing {
        let held = self.held.clone();
        KeepGoing::new(move |_, _| {
            let held = held.lock().unwrap_or_else(PoisonError::into_inner);
            held.elapsed() < OURS_FOR.saturating_sub(STOP_BEFORE)
        })
    }

    /// Holds on to the lock; ends when it is lost, and librbd stops at its next object.
    pub async fn hold_on(&self) -> Error {
        loop {
            tokio::time::sleep(HOLD_ON_EVERY).await;
            match self.write().await {
                Err(error) if error.is(libc::EBUSY) => {
                    let long_ago = Instant::now().checked_sub(OURS_FOR);
                    let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
                    *held = long_ago.unwrap_or(*held);
                    return error.into();
                }
                Err(error) => tracing::debug!(%error, lock = self.lock, "a purge's lock was not renewed"),
                Ok(()) => {}
            }
        }
    }

    /// Forgets the record and gives the lock back, in one write.
    ///
    /// # Errors
    /// What Ceph answers.
    pub async fn forget(self) -> Result<()> {
        let op = WriteOp::new().omap_remove([self.lock.as_str()]);
        self.end("journal forget purge", op).await
    }

    /// Gives the lock back; the record stays. What fails is ended by its time.
    pub async fn give_back(self) {
        if let Err(error) = self.end("journal disown purge", WriteOp::new().assert_exists()).await {
            tracing::debug!(%error, "a purge's lock was not given back");
        }
    }

    async fn end(&self, what: &'static str, op: WriteOp) -> Result<()> {
        let op = lock::give_back(op, &self.lock, self.identity);
        match self.journal.pool().write(what, self.journal.directory(), op).await {
            // Not ours any more: somebody who took it over goes on.
            Err(error) if !error.is(libc::ENOENT) => Err(error.into()),
            _ => Ok(()),
        }
    }
}

/// Removes the extended attributes of locks that nobody holds and whose records are gone: older
/// versions left one behind each purge, and a process that dies in one leaves one.
///
/// # Errors
/// What Ceph answers.
pub async fn sweep(journal: &Journal, recorded: &[ImageId]) -> Result<()> {
    let attributes = match journal.pool().list_xattrs("journal list locks", journal.directory()).await {
        Err(error) if error.is(libc::ENOENT) => return Ok(()),
        attributes => attributes?,
    };
    let recorded: HashSet<String> = recorded.iter().map(record::key).collect();
    let old: Vec<&str> = attributes
        .keys()
        .filter_map(|name| lock::of_xattr(name))
        .filter(|lock| lock.starts_with(record::PREFIX) && !recorded.contains(*lock))
        .collect();
    for some in old.chunks(SWEPT_AT_ONCE) {
        if !swept(journal, some).await? {
            // One of them is held: the others go one by one.
            for one in some {
                swept(journal, &[one]).await?;
            }
        }
    }
    if !old.is_empty() {
        tracing::info!(object = journal.directory(), locks = old.len(), "swept locks of purges that ended");
    }
    Ok(())
}

async fn swept(journal: &Journal, locks: &[&str]) -> Result<bool> {
    let op = locks.iter().fold(WriteOp::new().assert_exists(), |op, one| lock::sweep(op, one));
    match journal.pool().write("journal sweep locks", journal.directory(), op).await {
        Ok(()) => Ok(true),
        Err(error) if [libc::EBUSY, libc::EEXIST, libc::ENOENT].iter().any(|errno| error.is(*errno)) => {
            Ok(false)
        }
        Err(error) => Err(error.into()),
    }
}
