//! The way out of a deleted image: recorded, moved to the trash, purged later.
//!
//! A purge record (`rbd-csi.purge.<image id>` in the journal's directory object)
//! is written before the image goes to the trash, so that no crash leaves an
//! image there that nobody takes out; with it the name is marked
//! (`rbd-csi.delete.<name>`), so that a CreateVolume that comes in between does
//! not answer with an image that is about to go. The purge is background work without the
//! mgr, some at a time and by one process at a time, resumed with the first RPC that brings credentials for
//! the pool. Only recorded images are purged, and only out of the trash; one
//! that cannot go yet (a watcher, a clone made by somebody else) stays recorded
//! and is tried again, more and more slowly.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;
use uuid::Uuid;

use crate::ceph::{ImageId, WriteOp, lock};
use crate::metrics;
use crate::volume::error::{Error, Kind, Result};
use crate::volume::image::watch;
use crate::volume::journal::{Entry, Journal};

const PREFIX: &str = "rbd-csi.purge.";
/// Purges that run at once; each may send many deletes to the cluster.
const AT_ONCE: usize = 4;
const FIRST_PAUSE: Duration = Duration::from_secs(5);
/// One operation in the background, at an RPC.
const LOOK_AGAIN: Duration = Duration::from_secs(600);
const LONGEST_PAUSE: Duration = Duration::from_secs(600);

fn key(id: &ImageId) -> String {
    format!("{PREFIX}{}", id.as_str())
}

/// Records the image of a volume for its purge, and marks the volume's name as being
/// deleted if it is this volume's still; the record's value tells people what it was.
///
/// # Errors
/// What Ceph answers.
pub async fn record(journal: &Journal, id: &ImageId, image: &str, entry: &Entry) -> Result<()> {
    let value = serde_json::json!({ "image": image, "uuid": entry.uuid.to_string() }).to_string();
    let purge = key(id);
    let record = || WriteOp::new().create().omap_set([(purge.as_str(), value.as_bytes())]);
    let write = async |op| journal.pool().write("journal record purge", journal.directory(), op).await;
    // Another who deletes it too may have freed the name meanwhile; a mark that is written
    // after that would stand for ever.
    match write(journal.mark_deletion(record(), entry, id)).await {
        Err(error) if error.is(libc::ECANCELED) => Ok(write(record()).await?),
        written => Ok(written?),
    }
}

/// Whether an image is recorded for its purge.
///
/// # Errors
/// What Ceph answers.
pub async fn is_recorded(journal: &Journal, id: &ImageId) -> Result<bool> {
    let key = key(id);
    match journal.pool().omap_get("journal read purge", journal.directory(), &[&key]).await {
        Ok(values) => Ok(values.contains_key(&key)),
        Err(error) if error.is(libc::ENOENT) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// How long a purge is one process's own; it holds on while it works.
const OURS_FOR: Duration = Duration::from_secs(60);
const HOLD_ON_EVERY: Duration = Duration::from_secs(15);

/// The purges of this process.
#[derive(Clone)]
pub struct Purger {
    identity: Arc<str>,
    slots: Arc<Semaphore>,
    queued: Arc<Mutex<HashSet<Queued>>>,
    seen: Arc<Mutex<HashMap<Place, Instant>>>,
    ready: Arc<Mutex<HashSet<Place>>>,
}

/// A journal, told from all others of this process.
/// A new connection looks again: the old one may have died in the middle.
type Place = (u64, i64, String, String);
type Queued = (Place, ImageId);

fn place(journal: &Journal) -> Place {
    let pool = journal.pool();
    (pool.connection().serial(), pool.id(), pool.namespace().to_owned(), journal.directory().to_owned())
}

impl Purger {
    /// `identity` as a creator's (`journal::creator`): a holder of the same identity is dead.
    pub fn new(identity: &str) -> Self {
        Self {
            identity: identity.into(),
            slots: Arc::new(Semaphore::new(AT_ONCE)),
            queued: Arc::default(),
            seen: Arc::default(),
            ready: Arc::default(),
        }
    }

    /// Resumes what other processes left to purge in this journal: at the first call, and
    /// again after a while, for another controller may have died since.
    pub fn resume(&self, journal: &Journal) {
        let mut seen = guard(&self.seen);
        if seen.get(&place(journal)).is_some_and(|looked| looked.elapsed() < LOOK_AGAIN) {
            return;
        }
        seen.insert(place(journal), Instant::now());
        drop(seen);
        let (purger, journal) = (self.clone(), journal.clone());
        tokio::spawn(async move {
            match journal.pool().omap_all("journal list purges", journal.directory(), PREFIX).await {
                Ok(records) => {
                    for key in records.keys().filter_map(|key| key.strip_prefix(PREFIX)) {
                        purger.start(&journal, ImageId::new(key));
                    }
                }
                Err(error) if error.is(libc::ENOENT) => {}
                Err(error) => {
                    tracing::warn!(%error, "could not read which images wait for their purge");
                    guard(&purger.seen).remove(&place(&journal));
                }
            }
        });
    }

    /// Makes sure, once and in the background, that a volume that is about to be created
    /// can be deleted from a full pool.
    pub fn make_ready(&self, journal: &Journal) {
        if !guard(&self.ready).insert(place(journal)) {
            return;
        }
        let (purger, journal) = (self.clone(), journal.clone());
        tokio::spawn(async move {
            if let Err(error) = journal.pool().prepare_trash().await {
                tracing::debug!(%error, "the pool's trash could not be prepared");
                guard(&purger.ready).remove(&place(&journal));
            }
        });
    }

    /// Purges a recorded image in the background.
    pub fn start(&self, journal: &Journal, id: ImageId) {
        let queued = (place(journal), id);
        if !guard(&self.queued).insert(queued.clone()) {
            return;
        }
        metrics::purge_backlog(1);
        let (purger, journal) = (self.clone(), journal.clone());
        tokio::spawn(async move {
            purger.until_gone(&journal, &queued.1).await;
            guard(&purger.queued).remove(&queued);
            metrics::purge_backlog(-1);
        });
    }

    async fn until_gone(&self, journal: &Journal, id: &ImageId) {
        let mut pause = FIRST_PAUSE;
        loop {
            let Ok(slot) = self.slots.acquire().await else { return };
            let outcome = purge(journal, id, &self.identity).await;
            drop(slot);
            let Err(error) = outcome else { return };
            tracing::warn!(image_id = id.as_str(), %error, pause_secs = pause.as_secs(), "a deleted image stays in the trash for now");
            if journal.pool().connection().is_dead() {
                // The next RPC for this pool brings a live connection and resumes.
                return;
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }
}

/// Out of the trash, then out of the record.
///
/// A record whose image is not in the trash was written by a DeleteVolume that stopped
/// before the move; its repeat goes on with it, as long as the journal has the volume.
/// When it has not, somebody took the image back out of the trash: the record goes, so
/// that the image is not purged when that person deletes it one day.
async fn purge(journal: &Journal, id: &ImageId, identity: &str) -> Result<()> {
    let pool = journal.pool();
    if pool.trash_entry(id).await?.is_none() && pool.image_header(id, &[]).await?.is_some() {
        tracing::info!(image_id = id.as_str(), "recorded for its purge but not in the trash: left alone");
        return forget_restored(journal, id).await;
    }
    // librbd would wait half a minute for the lock of a dead client, and hold a slot meanwhile.
    let watchers = watch::without_mirroring(pool, watch::others(pool, id).await?).await?;
    if !watchers.is_empty() {
        let text = format!("image id {} is still watched by {}", id.as_str(), watch::describe(&watchers));
        return Err(Error::new(Kind::InUse, text));
    }
    take(journal, id, identity).await?;
    tokio::select! {
        purged = pool.purge(id) => purged?,
        lost = hold_on(journal, id, identity) => return Err(lost),
    }
    let op = WriteOp::new().omap_remove([key(id).as_str()]);
    let op = lock::give_back(op, &key(id), identity);
    match pool.write("journal forget purge", journal.directory(), op).await {
        // Not ours any more: somebody who took it over forgets it.
        Err(error) if !error.is(libc::ENOENT) => Err(error.into()),
        _ => Ok(()),
    }
}

async fn forget_restored(journal: &Journal, id: &ImageId) -> Result<()> {
    let key = key(id);
    let values = journal.pool().omap_get("journal read purge", journal.directory(), &[&key]).await?;
    let Some(value) = values.get(&key) else { return Ok(()) };
    let record: serde_json::Value = serde_json::from_slice(value).unwrap_or_default();
    let Some(uuid) = record["uuid"].as_str().and_then(|text| Uuid::try_parse(text).ok()) else {
        return Ok(());
    };
    if journal.entry(uuid).await?.is_some() {
        return Ok(());
    }
    let op = WriteOp::new().omap_equals(key.as_str(), value.as_slice()).omap_remove([key.as_str()]);
    match journal.pool().write("journal forget purge", journal.directory(), op).await {
        Err(error) if !error.is(libc::ECANCELED) => Err(error.into()),
        _ => Ok(()),
    }
}

/// Makes this the only process that purges the image. librbd 16 stops its whole process
/// by an assertion (TrimRequest.cc) when two of them remove one image.
async fn take(journal: &Journal, id: &ImageId, identity: &str) -> Result<()> {
    let (pool, directory, lock) = (journal.pool(), journal.directory(), key(id));
    let op = || lock::take_for(WriteOp::new().assert_exists(), &lock, identity, OURS_FOR);
    match pool.write("journal own purge", directory, op()).await {
        Err(error) if error.is(libc::EBUSY) => {}
        taken => return Ok(taken?),
    }
    if let Some(holder) = pool.lock_holder(directory, &lock).await? {
        if holder.cookie != identity {
            let text = format!("image id {} is being purged by {}", id.as_str(), holder.address);
            return Err(Error::new(Kind::Busy, text));
        }
        pool.break_lock(directory, &lock, &holder).await?;
    }
    Ok(pool.write("journal own purge", directory, op()).await?)
}

/// Never returns while the purge stays ours.
async fn hold_on(journal: &Journal, id: &ImageId, identity: &str) -> Error {
    loop {
        tokio::time::sleep(HOLD_ON_EVERY).await;
        let op = lock::take_for(WriteOp::new().assert_exists(), &key(id), identity, OURS_FOR);
        if let Err(error) = journal.pool().write("journal own purge", journal.directory(), op).await
            && error.is(libc::EBUSY)
        {
            return error.into();
        }
    }
}

fn guard<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
