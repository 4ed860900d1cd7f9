//! A clone gets all data of its own: background work of this driver, without the mgr.
//!
//! A flatten is recorded before it begins (`rbd-csi.flatten.<image id>` in the journal's
//! directory object), so that a restart goes on with it, and the record goes when the image
//! has no parent any more. Done again, a flatten copies only what is not there yet. An image is
//! never taken for gone because it is being flattened: it is looked up by its header, which
//! stays where it is.
//!
//! What a reader gets wrong: without `deep-flatten` the image's snapshots keep their parent.
//! Those that CSI snapshots and clones have left (in the snapshot trash) go when the images that
//! were cloned from them are flattened too, so those come first.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;

use crate::ceph::{self, Features, Header, ImageId, KeepGoing, OpenMode, Pool, WriteOp};
use crate::controller::delete::purge::Purger;
use crate::controller::delete::record::ParentImage;
use crate::controller::reach::Reach;
use crate::controller::snapshot::point::close;
use crate::metrics;
use crate::volume::error::{Error, Result};
use crate::volume::image::lock_owner;
use crate::volume::journal::Journal;

/// What a record's key begins with; behind it stands the image id.
pub const PREFIX: &str = "rbd-csi.flatten.";

const FIRST_PAUSE: Duration = Duration::from_secs(5);
const LONGEST_PAUSE: Duration = Duration::from_secs(600);
/// How often the log tells how far a flatten is.
const TELL_EVERY: Duration = Duration::from_secs(30);

/// An image that is to be flattened.
#[derive(Debug, Clone)]
pub struct Target {
    /// Its pool.
    pub pool: Pool,
    /// Its id.
    pub id: ImageId,
    /// Its name, for people.
    pub name: String,
}

/// How far a flatten is.
#[derive(Debug, Clone, Default)]
pub struct Far(Arc<(AtomicU64, AtomicU64)>);

impl Far {
    fn set(&self, done: u64, total: u64) {
        self.0.0.store(done, Ordering::Relaxed);
        self.0.1.store(total, Ordering::Relaxed);
    }
}

impl std::fmt::Display for Far {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (self.0.0.load(Ordering::Relaxed), self.0.1.load(Ordering::Relaxed)) {
            (_, 0) => f.write_str("not begun yet"),
            (done, total) => write!(f, "{done} of {total} objects"),
        }
    }
}

/// The cluster, and in it pool, namespace and image.
type Key = (String, i64, String, ImageId);

/// The flattens of this process.
#[derive(Clone)]
pub struct Flattener {
    slots: Arc<Semaphore>,
    running: Arc<Mutex<HashMap<Key, Far>>>,
    purger: Arc<OnceLock<Purger>>,
}

impl Flattener {
    /// `at_once`: how many images are flattened side by side (`--flatten-concurrency`).
    pub fn new(at_once: usize) -> Self {
        Self {
            slots: Arc::new(Semaphore::new(at_once.max(1))),
            running: Arc::default(),
            purger: Arc::default(),
        }
    }

    /// Who is told when an image needs its parent no more.
    pub fn tell(&self, purger: &Purger) {
        let _ = self.purger.set(purger.clone());
    }

    /// Records a flatten and begins it, or tells how far the one is that runs.
    ///
    /// # Errors
    /// What Ceph answers to the record.
    pub async fn start(&self, journal: &Journal, reach: &Reach, target: Target) -> Result<Far> {
        if let Some(far) = self.running().get(&key(&target)) {
            return Ok(far.clone());
        }
        let value = serde_json::json!({
            "pool": target.pool.id(),
            "namespace": target.pool.namespace(),
            "image": target.name,
        });
        let record = format!("{PREFIX}{}", target.id.as_str());
        let op = WriteOp::new().create().omap_set([(record, value.to_string().into_bytes())]);
        journal.pool().write("journal record flatten", journal.directory(), op).await?;
        Ok(self.begin(journal, reach, target))
    }

    /// Goes on with what a record names.
    ///
    /// # Errors
    /// What Ceph answers.
    pub async fn resume(&self, journal: &Journal, reach: &Reach, id: &str, value: &[u8]) -> Result<()> {
        let record: serde_json::Value = serde_json::from_slice(value).unwrap_or_default();
        let pool_id = record["pool"].as_i64().unwrap_or(journal.pool().id());
        let namespace = record["namespace"].as_str().unwrap_or(journal.pool().namespace());
        let pool = journal.pool().connection().pool_by_id(pool_id, namespace).await?;
        let (id, name) = (ImageId::new(id), record["image"].as_str().unwrap_or_default().to_owned());
        match pool {
            Some(pool) => drop(self.begin(journal, reach, Target { pool, id, name })),
            None => forget(journal.pool(), journal, &id).await?,
        }
        Ok(())
    }

    fn begin(&self, journal: &Journal, reach: &Reach, target: Target) -> Far {
        let far = Far::default();
        {
            let mut running = self.running();
            if let Some(other) = running.get(&key(&target)) {
                return other.clone();
            }
            running.insert(key(&target), far.clone());
        }
        metrics::flatten_backlog(1);
        let work = Work {
            flattener: self.clone(),
            journal: journal.clone(),
            reach: reach.clone(),
            target,
            far: far.clone(),
            parent: Mutex::default(),
        };
        tokio::spawn(work.until_done());
        far
    }

    fn running(&self) -> MutexGuard<'_, HashMap<Key, Far>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn key(target: &Target) -> Key {
    let pool = &target.pool;
    (pool.connection().fsid_text().to_owned(), pool.id(), pool.namespace().to_owned(), target.id.clone())
}

/// Takes the record away; `pool` is the journal's, of whichever client.
async fn forget(pool: &Pool, journal: &Journal, id: &ImageId) -> Result<()> {
    let op = WriteOp::new().omap_remove([format!("{PREFIX}{}", id.as_str())]);
    match pool.write("journal forget flatten", journal.directory(), op).await {
        Err(error) if !error.is(libc::ENOENT) => Err(error.into()),
        _ => Ok(()),
    }
}

/// One flatten of this process.
struct Work {
    flattener: Flattener,
    journal: Journal,
    reach: Reach,
    target: Target,
    far: Far,
    /// What the image was cloned from.
    parent: Mutex<Option<ParentImage>>,
}

/// What a try has come to.
enum Outcome {
    /// The image has no parent any more, or is gone.
    Done,
    /// Clones of its snapshots come first.
    First(Vec<Target>),
}

impl Work {
    async fn until_done(self) {
        let mut pause = FIRST_PAUSE;
        loop {
            let Ok(slot) = self.flattener.slots.acquire().await else { break };
            let outcome = self.attempt().await;
            drop(slot);
            match outcome {
                Ok(Outcome::Done) => break,
                Ok(Outcome::First(others)) => {
                    for target in others {
                        if let Err(error) = self.flattener.start(&self.journal, &self.reach, target).await {
                            tracing::warn!(%error, "a clone that has to be flattened first was not recorded");
                        }
                    }
                }
                Err(error) => {
                    let image = self.target.pool.describe(&self.target.name);
                    tracing::warn!(image, %error, pause_secs = pause.as_secs(), "an image is not flattened yet");
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
            }
            tokio::time::sleep(pause).await;
        }
        self.flattener.running().remove(&key(&self.target));
        metrics::flatten_backlog(-1);
    }

    async fn attempt(&self) -> Result<Outcome> {
        let Some(pool) = self.reach.background(&self.target.pool).await? else { return Ok(Outcome::Done) };
        let id = &self.target.id;
        let Some(header) = pool.image_header(id, &[]).await? else { return self.done().await };
        if let Some(parent) = &header.parent {
            *self.parent() = ParentImage::of(&header);
            if self.is_copied(&pool, parent).await? {
                tracing::info!(
                    image = pool.describe(&self.target.name),
                    "a flatten that had copied all is finished"
                );
                pool.detach_parent(id).await?;
                // Who has it open may read on from a parent that is gone.
                if let Err(error) = pool.notify_header_update(id).await {
                    tracing::debug!(%error, "a client was not told that an image has no parent any more");
                }
            } else {
                self.flatten(&pool, &header).await?;
            }
        }
        let Some(header) = pool.image_header(id, &[]).await? else { return self.done().await };
        if header.features.contains(Features::DEEP_FLATTEN) || header.snapshots.is_empty() {
            return self.done().await;
        }
        let children = self.clones(&pool).await?;
        if children.is_empty() { self.done().await } else { Ok(Outcome::First(children)) }
    }

    /// Whether a flatten was stopped behind its copying: librbd takes the image out of its
    /// parent's header then, and the parent out of the image's a little later. In between
    /// the image cannot be opened if the parent's snapshot is gone. Only images that are
    /// complete have a record, so this is no clone that was never attached.
    async fn is_copied(&self, pool: &Pool, parent: &ceph::Parent) -> Result<bool> {
        let of = pool.connection().pool_by_id(parent.pool_id, &parent.namespace).await?;
        // A pool that is gone took data along that nobody has copied for sure.
        let Some(of) = of else { return Ok(false) };
        let children = of.children_of(&ImageId::new(&*parent.image_id), Some(parent.snap_id)).await?;
        Ok(!children.iter().any(|child| {
            child.pool_id == pool.id()
                && child.namespace == pool.namespace()
                && child.image_id == self.target.id
        }))
    }

    async fn done(&self) -> Result<Outcome> {
        let Some(pool) = self.reach.background(self.journal.pool()).await? else { return Ok(Outcome::Done) };
        self.wake_parent(&pool).await?;
        forget(&pool, &self.journal, &self.target.id).await?;
        Ok(Outcome::Done)
    }

    /// A parent that was deleted may have waited for this.
    async fn wake_parent(&self, pool: &Pool) -> Result<()> {
        let parent = self.parent().clone();
        let (Some(purger), Some(parent)) = (self.flattener.purger.get(), parent) else { return Ok(()) };
        let journal = self.journal.through(pool);
        purger.parent_left(&journal, &self.target.name, parent).await
    }

    fn parent(&self) -> MutexGuard<'_, Option<ParentImage>> {
        self.parent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn flatten(&self, pool: &Pool, header: &Header) -> Result<()> {
        let Target { id, name, .. } = &self.target;
        lock_owner::refuse_dead(pool, name, id, header).await?;
        let shown = pool.describe(name);
        tracing::info!(image = shown, "flattening");
        let image = pool.open_image(id, OpenMode::ReadWrite).await?;
        let flattened = image.flatten(self.keep_going(shown.clone())).await;
        close(image).await;
        match flattened {
            Ok(()) => tracing::info!(image = shown, "flattened"),
            // librbd: it has no parent.
            Err(error) if error.is(libc::EINVAL) => {}
            Err(error) => return Err(Error::from(error).while_doing(format!("flattening {shown}"))),
        }
        Ok(())
    }

    fn keep_going(&self, shown: String) -> KeepGoing {
        let (far, told) = (self.far.clone(), Mutex::new(Instant::now()));
        KeepGoing::new(move |done, total| {
            far.set(done, total);
            let mut told = told.lock().unwrap_or_else(PoisonError::into_inner);
            if told.elapsed() >= TELL_EVERY {
                *told = Instant::now();
                tracing::info!(image = shown, done, total, "flattening");
            }
            true
        })
    }

    /// The clones that keep the image's snapshots.
    async fn clones(&self, pool: &Pool) -> Result<Vec<Target>> {
        let mut targets = Vec::new();
        for child in pool.children_of(&self.target.id, None).await? {
            let of = pool.connection().pool_by_id(child.pool_id, &child.namespace).await?;
            let Some(of) = of else { continue };
            if let Some(name) = of.directory_name(&child.image_id).await? {
                targets.push(Target { pool: of, id: child.image_id, name });
            }
        }
        Ok(targets)
    }
}
