//! Who does the background work that a record asks for: one process at a time. librbd 16 stops
//! its whole process by an assertion (TrimRequest.cc) when two clients remove one image, and two
//! that flatten one image take its lock away from each other again and again.
//!
//! The lock (class `lock`) is named as the record and lies on the same object. It is
//! held for a minute and renewed; whoever loses it stops librbd. It may depend on the record:
//! who takes that away ends the work, in whichever process it is. This process may have several
//! clients, and what one of them holds is no dead predecessor's.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::change::flatten;
use super::delete::record::{self, Left};
use crate::ceph::{ImageId, KeepGoing, WriteOp, lock};
use crate::volume::error::{Error, Kind, Result};
use crate::volume::journal::Journal;
use crate::volume::journal::creator::Creator;

/// How long the work is one process's own.
const OURS_FOR: Duration = Duration::from_secs(60);
/// librbd is stopped so long before somebody else may take the lock: it stops at the next object.
const STOP_BEFORE: Duration = Duration::from_secs(10);
/// Locks that are swept by one write.
const SWEPT_AT_ONCE: usize = 32;

/// What a record asks for, and what the log and tests call the writes that it takes.
struct Steps {
    own: &'static str,
    forget: &'static str,
    disown: &'static str,
    /// How often the lock is renewed.
    every: Duration,
}

const PURGE: Steps = Steps {
    own: "journal own purge",
    forget: "journal forget purge",
    disown: "journal disown purge",
    every: Duration::from_secs(15),
};
/// More often: a call may wait for the end of one that was cancelled.
const FLATTEN: Steps = Steps {
    own: "journal own flatten",
    forget: "journal forget flatten",
    disown: "journal disown flatten",
    every: Duration::from_secs(3),
};

/// The right to do what a record asks for.
pub struct Owner<'a> {
    journal: &'a Journal,
    /// The record's key, and the lock's name.
    lock: &'a str,
    /// What the record has to say for the right to last.
    value: Option<&'a [u8]>,
    steps: &'static Steps,
    identity: &'a str,
    held: Arc<Mutex<Instant>>,
}

impl<'a> Owner<'a> {
    /// Takes the lock of a purge's record.
    ///
    /// # Errors
    /// [`Kind::Busy`] naming another process that does the work; what Ceph answers.
    pub async fn of_purge(journal: &'a Journal, record: &'a str, creator: &'a Creator) -> Result<Self> {
        let this = Self::new(journal, record, None, &PURGE, creator);
        if this.take_now(creator).await? {
            return Ok(this);
        }
        let text = format!("object {} vanished while {record} was looked at", journal.directory());
        Err(Error::new(Kind::Unavailable, text))
    }

    /// Takes the lock of a flatten's record, which lasts while the record has this value. `None`:
    /// it has another, or is gone.
    ///
    /// # Errors
    /// As [`Owner::of_purge`].
    pub async fn of_flatten(
        journal: &'a Journal,
        record: &'a str,
        value: &'a [u8],
        creator: &'a Creator,
    ) -> Result<Option<Self>> {
        let this = Self::new(journal, record, Some(value), &FLATTEN, creator);
        Ok(this.take_now(creator).await?.then_some(this))
    }

    fn new(
        journal: &'a Journal,
        lock: &'a str,
        value: Option<&'a [u8]>,
        steps: &'static Steps,
        creator: &'a Creator,
    ) -> Self {
        let held = Arc::new(Mutex::new(Instant::now()));
        Self { journal, lock, value, steps, identity: creator.identity(), held }
    }

    /// `false`: there is no such record.
    async fn take_now(&self, creator: &Creator) -> Result<bool> {
        let pool = self.journal.pool();
        creator.know(pool.connection());
        match self.write().await {
            Err(error) if error.is(libc::EBUSY) => {}
            taken => return stands(taken),
        }
        if let Some(holder) = pool.lock_holder(self.journal.directory(), self.lock).await? {
            if !creator.is_us(&holder) || creator.is_own_client(&holder) {
                let text = format!("{} at {} does it ({})", holder.client, holder.address, self.lock);
                return Err(Error::new(Kind::Busy, text));
            }
            match pool.break_lock(self.journal.directory(), self.lock, &holder).await {
                Err(error) if !error.is(libc::ENOENT) => return Err(error.into()),
                _ => {}
            }
        }
        stands(self.write().await)
    }

    async fn write(&self) -> crate::ceph::Result<()> {
        let asked = Instant::now();
        let mut op = WriteOp::new().assert_exists();
        if let Some(value) = self.value {
            op = op.omap_equals(self.lock, value);
        }
        let op = lock::take_for(op, self.lock, self.identity, OURS_FOR);
        self.journal.pool().write(self.steps.own, self.journal.directory(), op).await?;
        *self.held.lock().unwrap_or_else(PoisonError::into_inner) = asked;
        Ok(())
    }

    /// Tells librbd to stop when the lock is about to be lost: this process may have stood still.
    pub fn keep_going(&self) -> KeepGoing {
        let lasts = self.lasts();
        KeepGoing::new(move |_, _| lasts())
    }

    /// Whether the lock is not about to be lost.
    pub fn lasts(&self) -> impl Fn() -> bool + Send + Sync + use<> {
        let held = self.held.clone();
        move || {
            let held = held.lock().unwrap_or_else(PoisonError::into_inner);
            held.elapsed() < OURS_FOR.saturating_sub(STOP_BEFORE)
        }
    }

    /// Holds on to the lock; ends when it is lost, and librbd stops at its next object.
    pub async fn hold_on(&self) -> Error {
        loop {
            tokio::time::sleep(self.steps.every).await;
            match self.write().await {
                Err(error) if error.is(libc::EBUSY) || error.is(libc::ECANCELED) => {
                    let long_ago = Instant::now().checked_sub(OURS_FOR);
                    let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
                    *held = long_ago.unwrap_or(*held);
                    return error.into();
                }
                Err(error) => {
                    tracing::debug!(%error, lock = self.lock, "the lock of a record was not renewed")
                }
                Ok(()) => {}
            }
        }
    }

    /// Forgets the record and gives the lock back, in one write. With a purge goes what a flatten
    /// of the image has left.
    ///
    /// # Errors
    /// What Ceph answers.
    pub async fn forget(self) -> Result<()> {
        let mut op = WriteOp::new().omap_remove([self.lock]);
        if let Some(id) = self.lock.strip_prefix(record::PREFIX) {
            // Whoever flattened the image, alive or dead, has nothing left to flatten.
            let flatten = flatten::key(&ImageId::new(id));
            op = op.omap_remove([flatten.as_str()]).remove_xattr(&lock::xattr(&flatten));
        }
        self.end(self.steps.forget, op).await
    }

    /// Gives the lock back; the record stays. What fails is ended by its time.
    pub async fn give_back(self) {
        if let Err(error) = self.end(self.steps.disown, WriteOp::new().assert_exists()).await {
            tracing::debug!(%error, "the lock of a record was not given back");
        }
    }

    async fn end(&self, what: &'static str, op: WriteOp) -> Result<()> {
        let op = lock::give_back(op, self.lock, self.identity);
        match self.journal.pool().write(what, self.journal.directory(), op).await {
            // Not ours any more: somebody who took it over goes on.
            Err(error) if !error.is(libc::ENOENT) => Err(error.into()),
            _ => Ok(()),
        }
    }
}

/// What the write says of the record that it depends on.
fn stands(written: crate::ceph::Result<()>) -> Result<bool> {
    match written {
        Ok(()) => Ok(true),
        Err(error) if error.is(libc::ECANCELED) || error.is(libc::ENOENT) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Removes the extended attributes of locks that nobody holds and whose records are gone: older
/// versions left one behind each purge, and a process that dies in its work leaves one.
///
/// # Errors
/// What Ceph answers.
pub async fn sweep(journal: &Journal, left: &Left) -> Result<()> {
    let attributes = match journal.pool().list_xattrs("journal list locks", journal.directory()).await {
        Err(error) if error.is(libc::ENOENT) => return Ok(()),
        attributes => attributes?,
    };
    let purges = left.purges.iter().map(record::key);
    let recorded: HashSet<String> =
        purges.chain(left.flattens.iter().map(|(id, _)| flatten::key(id))).collect();
    let old: Vec<&str> = attributes
        .keys()
        .filter_map(|name| lock::of_xattr(name))
        .filter(|lock| lock.starts_with(record::PREFIX) || lock.starts_with(flatten::PREFIX))
        .filter(|lock| !recorded.contains(*lock))
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
        tracing::info!(object = journal.directory(), locks = old.len(), "swept locks of work that has ended");
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
