//! One try to purge one image.
//!
//! 1. Is it ours? The record names the trash entry that it goes with (`record`).
//! 2. May it go now? Nobody has it open, no clone needs it, and librbd need not take a lock away
//!    from a client that is cut off.
//! 3. librbd's removal, under the purge's own lock (`owner`).
//! 4. A look at what it was cloned from (`parent`). Then the record goes: a stop before that
//!    looks at the parent again.

use std::time::Duration;

use super::mgr;
use super::parent;
use super::purge::{Place, Purger};
use super::record::{self, ParentImage, Record, Written};
use crate::ceph::{Features, Header, ImageId, Pool, SnapshotKind, TrashEntry, WriteOp, is_kernels, lock};
use crate::controller::owner::Owner;
use crate::volume::error::{Error, Kind, Result};
use crate::volume::image::watch;
use crate::volume::journal::Journal;

/// librbd's and krbd's own lock on an image's header.
const IMAGE_LOCK: &str = "rbd_lock";
/// How long the owner of an image's lock may be without a watch before the lock of an image in the
/// trash is broken. Another 30 s passed before its watch ended.
const CUT_OFF_FOR: Duration = Duration::from_secs(30);

/// How a try ended.
#[derive(Debug)]
pub enum Outcome {
    /// There is nothing more to do for the image.
    Done,
    /// The journal's pool does not exist any more.
    PoolGone,
    /// Not now; what it waits for.
    Later(Wait, String),
}

/// What an image waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    /// Clones of its snapshots: the last of them wakes it.
    Clones,
    /// Somebody who has it open, a lock, the mgr, a person.
    Blocked,
    /// A client that is cut off owns a lock, which is broken soon.
    CutOff,
}

/// One image, looked at through the background client.
struct Attempt<'a> {
    purger: &'a Purger,
    place: &'a Place,
    journal: Journal,
    pool: Pool,
    id: &'a ImageId,
    written: Written,
}

/// Tries it.
///
/// # Errors
/// What Ceph answers.
pub async fn attempt(purger: &Purger, place: &Place, id: &ImageId) -> Result<Outcome> {
    let Some(journal) = purger.journal(place).await? else { return Ok(Outcome::PoolGone) };
    let Some(written) = record::read(&journal, id).await? else { return without_record(&journal).await };
    let pool = match written.record.pool_id {
        None => Some(journal.pool().clone()),
        Some(id) => journal.pool().connection().pool_by_id(id, journal.pool().namespace()).await?,
    };
    let Some(pool) = pool else {
        forget(&journal, id, &written.value).await?;
        return Ok(Outcome::Done);
    };
    Attempt { purger, place, journal, pool, id, written }.run().await
}

/// Somebody else has purged it; or the pool is gone, which answers as an empty one.
async fn without_record(journal: &Journal) -> Result<Outcome> {
    match journal.pool().confirm().await {
        Ok(()) => Ok(Outcome::Done),
        Err(error) if error.is(libc::ENOENT) => Ok(Outcome::PoolGone),
        Err(error) => Err(error.into()),
    }
}

impl Attempt<'_> {
    async fn run(mut self) -> Result<Outcome> {
        let (entry, header) =
            tokio::join!(self.pool.trash_entry(self.id), self.pool.image_header(self.id, &[]));
        let (entry, header) = (entry?, header?);
        match (&entry, &header) {
            (None, Some(_)) => return self.leave_alone("is not in the trash").await,
            (Some(entry), _) if !self.is_ours(entry, header.as_ref()).await? => {
                return self.leave_alone("was put into the trash by somebody else").await;
            }
            _ => {}
        }
        if let Some(header) = &header
            && let Some(wait) = self.may_not_go(header).await?
        {
            return Ok(wait);
        }
        self.purge().await
    }

    fn record(&self) -> &Record {
        &self.written.record
    }

    /// Step 1. A record of an older version counts when the journal's entry is gone, and gets
    /// the time of the trash entry then.
    async fn is_ours(&mut self, entry: &TrashEntry, header: Option<&Header>) -> Result<bool> {
        let parent = self.record().parent.clone().or_else(|| header.and_then(ParentImage::of));
        match self.record().deleted {
            Some(time) if time == entry.deleted && parent == self.record().parent => return Ok(true),
            Some(time) if time != entry.deleted => return Ok(false),
            Some(_) => {}
            None if self.entry_stands().await? => return Ok(false),
            None => {}
        }
        let record = Record { deleted: Some(entry.deleted), parent, ..self.record().clone() };
        if !record::replace(&self.journal, self.id, &self.written.value, &record).await? {
            let text = format!("the record of image id {} was changed by somebody else", self.id.as_str());
            return Err(Error::new(Kind::Busy, text));
        }
        self.written = Written { value: record.encode(), record };
        Ok(true)
    }

    async fn entry_stands(&self) -> Result<bool> {
        match self.record().uuid {
            Some(uuid) => Ok(self.journal.entry(uuid).await?.is_some()),
            // Damaged: nobody can tell.
            None => Ok(true),
        }
    }

    /// While the journal has the entry, the repeat of the deletion that the CO owes goes on with
    /// the record. After that it would only harm: it goes.
    async fn leave_alone(&self, why: &str) -> Result<Outcome> {
        let image_id = self.id.as_str();
        tracing::info!(
            image_id,
            image = self.record().image,
            "recorded for its purge, but it {why}: left alone"
        );
        if !self.entry_stands().await? {
            forget(&self.journal, self.id, &self.written.value).await?;
        }
        Ok(Outcome::Done)
    }

    /// Step 2.
    async fn may_not_go(&self, header: &Header) -> Result<Option<Outcome>> {
        let blocked = |text: String| Ok(Some(Outcome::Later(Wait::Blocked, text)));
        if self.record().adopted && mgr::has_task(&self.pool, self.id).await? {
            return blocked("the mgr has a task for it (`rbd task list`)".to_owned());
        }
        let watchers = watch::others(&self.pool, self.id).await?;
        let watchers = watch::without_mirroring(&self.pool, watchers).await?;
        if !watchers.is_empty() {
            return blocked(format!("it is still watched by {}", watch::describe(&watchers)));
        }
        let mut clones = 0;
        for snapshot in &header.snapshots {
            match &snapshot.kind {
                SnapshotKind::Trash(_) => {}
                SnapshotKind::User if self.is_driver_s(&snapshot.name) => {
                    // librbd removes it with the image, or with its last clone.
                    self.pool.trash_snapshot(self.id, snapshot.id).await?;
                }
                SnapshotKind::Mirror => {}
                _ => {
                    return blocked(format!("snapshot {} is on it, which somebody has made", snapshot.name));
                }
            }
            clones += snapshot.children;
        }
        if clones > 0 {
            let text = format!("{clones} clone(s) need it");
            return Ok(Some(Outcome::Later(Wait::Clones, text)));
        }
        self.locked_by_the_dead(header).await
    }

    /// Whether a snapshot is the image's own, or what another controller has begun a snapshot or a
    /// clone with while the image went to the trash: nobody can go on with that, since an
    /// image in the trash cannot be cloned.
    fn is_driver_s(&self, snapshot: &str) -> bool {
        self.record().own_snapshot() == Some(snapshot) || parent::is_of_chain(snapshot, self.record())
    }

    /// librbd would take the lock of the image, and of its parent when this is the last clone of a
    /// snapshot in the parent's snapshot trash. What names a parent that does not name it is freed
    /// from it.
    async fn locked_by_the_dead(&self, header: &Header) -> Result<Option<Outcome>> {
        if let Some(later) = self.dead_owner(&self.pool, self.id, header, true).await? {
            return Ok(Some(later));
        }
        let Some(parent) = &header.parent else { return Ok(None) };
        let connection = self.pool.connection();
        let pool = connection.pool_by_id(parent.pool_id, &parent.namespace).await?;
        let id = ImageId::new(&*parent.image_id);
        let of_parent = match &pool {
            Some(pool) => pool.image_header(&id, &[]).await?,
            None => None,
        };
        let (Some(pool), Some(of_parent)) = (pool, of_parent) else {
            self.pool.detach_parent(self.id).await?;
            return Ok(None);
        };
        let children = pool.children_of(&id, Some(parent.snap_id)).await?;
        if !children.iter().any(|child| child.is(&self.pool, self.id)) {
            // A clone that was never finished, or a flatten that stopped behind its copying: the
            // parent's snapshot may be gone, and librbd could not open the image with it.
            self.pool.detach_parent(self.id).await?;
            return Ok(None);
        }
        let last = children.len() == 1;
        let goes_too = of_parent.snapshots.iter().any(|snapshot| {
            snapshot.id == parent.snap_id && last && matches!(snapshot.kind, SnapshotKind::Trash(_))
        });
        if !goes_too {
            return Ok(None);
        }
        let in_trash = pool.trash_entry(&id).await?.is_some();
        self.dead_owner(&pool, &id, &of_parent, in_trash).await
    }

    /// An owner of an image's lock that has no watch. librbd would blocklist it, and with it all
    /// volumes of a node that is only cut off. Of an image in the trash the lock is broken after
    /// a while instead, without a fence: whatever that client still writes when it comes back
    /// belongs to an image that nobody will ever read, and costs a few objects at worst.
    async fn dead_owner(
        &self,
        pool: &Pool,
        id: &ImageId,
        header: &Header,
        in_trash: bool,
    ) -> Result<Option<Outcome>> {
        if !header.features.contains(Features::EXCLUSIVE_LOCK) {
            return Ok(None);
        }
        let Some(owner) = pool.image_lock_owner(id).await? else { return Ok(None) };
        if owner.is_among(&pool.image_watchers(id).await?) {
            return Ok(None);
        }
        // A librbd client, such as a controller that was killed, takes nothing along when librbd
        // fences it; a node's kernel takes all its volumes.
        if owner.watch_cookie().is_some_and(|cookie| !is_kernels(cookie)) {
            return Ok(None);
        }
        let text = format!(
            "the exclusive lock of image id {} is held by {} at {}, which does not watch it any more",
            id.as_str(),
            owner.client,
            owner.address
        );
        if !in_trash || owner.watch_cookie().is_none() {
            return Ok(Some(Outcome::Later(Wait::Blocked, text)));
        }
        if self.purger.seen_for(self.place, self.id, &owner.client) < CUT_OFF_FOR {
            return Ok(Some(Outcome::Later(Wait::CutOff, text)));
        }
        tracing::warn!(image_id = id.as_str(), "{text}: broken, since the image is in the trash");
        match pool.break_lock(&id.header_object(), IMAGE_LOCK, &owner).await {
            Err(error) if !error.is(libc::ENOENT) => Err(error.into()),
            _ => Ok(None),
        }
    }

    /// Steps 3 and 4.
    async fn purge(&self) -> Result<Outcome> {
        let record = record::key(self.id);
        let owner = match Owner::of_purge(&self.journal, &record, self.purger.creator()).await {
            Err(error) if error.kind == Kind::Busy => {
                return Ok(Outcome::Later(Wait::Blocked, format!("another controller purges it: {error}")));
            }
            owner => owner?,
        };
        let parent = self.record().parent.as_ref();
        let leaving = parent.map(|parent| self.purger.leaves(&self.journal, parent));
        let removed = self.remove(&owner).await;
        drop(leaving);
        let next = match removed {
            Ok(()) => parent::after_child(self.purger, &self.journal, self.record()).await,
            Err(error) => Err(error),
        };
        match next {
            Ok(next) => {
                owner.forget().await?;
                if let Some(parent) = parent {
                    self.purger.flattener().wake(&self.pool, parent);
                }
                if let Some((place, id)) = next {
                    self.purger.wake(place, id, self.place);
                }
                Ok(Outcome::Done)
            }
            Err(error) => {
                owner.give_back().await;
                Err(error)
            }
        }
    }

    /// Dropping a future does not stop librbd: it is told to stop, and waited for.
    async fn remove(&self, owner: &Owner<'_>) -> Result<()> {
        let keep_going = owner.keep_going();
        let purge = self.pool.purge_while(self.id, &keep_going);
        tokio::pin!(purge);
        tokio::select! {
            purged = &mut purge => Ok(purged?),
            lost = owner.hold_on() => match purge.await {
                Ok(()) => Ok(()),
                Err(stopped) => Err(lost.because(stopped)),
            },
        }
    }
}

async fn forget(journal: &Journal, id: &ImageId, value: &[u8]) -> Result<()> {
    let key = record::key(id);
    let op = WriteOp::new().omap_equals(key.as_str(), value).omap_remove([key.as_str()]);
    match journal.pool().write("journal forget purge", journal.directory(), op).await {
        Err(error) if !error.is(libc::ECANCELED) && !error.is(libc::ENOENT) => return Err(error.into()),
        _ => {}
    }
    let op = lock::sweep(WriteOp::new().assert_exists(), &key);
    match journal.pool().write("journal sweep locks", journal.directory(), op).await {
        Err(error) if ![libc::EBUSY, libc::EEXIST, libc::ENOENT].iter().any(|errno| error.is(*errno)) => {
            Err(Error::from(error))
        }
        _ => Ok(()),
    }
}
