//! A clone gets all data of its own: background work of this driver, without the mgr.
//!
//! A flatten is recorded before it begins (`rbd-csi.flatten.<image id>` in the directory object of
//! the volumes of the image's pool), so that a restart goes on with it, and the record goes when the image
//! has no parent any more. Done again, a flatten copies only what is not there yet. Of several
//! controllers one does it (`owner`). A deletion takes the record away, which ends the flatten
//! wherever it runs. An image is never taken for gone because it is being flattened: it is looked
//! up by its header, which stays where it is.
//!
//! What a reader gets wrong: without `deep-flatten` the image's snapshots keep their parent.
//! Those that CSI snapshots and clones have left (in the snapshot trash) go when the images that
//! were cloned from them are flattened too, so those come first. And if the image has not
//! `exclusive-lock` either, librbd does not see a snapshot that is taken meanwhile: at the end it
//! takes the image from its parent's clones though the snapshot reads from there, and the parent
//! may be purged. So no snapshot is taken of such an image while it is flattened ([`is_blind`]).
//!
//! And a kernel that has a volume mapped keeps its ancestors as they were when it was mapped, with
//! the object maps of their snapshots: what a flatten copies into one of them later is not there
//! for it, and it reads zeros when the parent has gone ([`changes_descendants`]). So an image
//! is flattened only while no volume is below it. A flatten for the soft limit gives up where one
//! is, and is cancelled for one that is made; one for the hard limit has those below flattened
//! first, and while it works none is made.

mod below;
mod thin;
mod work;

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, Semaphore};

use crate::ceph::{Features, Header, ImageId, Pool, WriteOp};
use crate::controller::delete::purge::Purger;
use crate::controller::delete::record::ParentImage;
use crate::controller::reach::Reach;
use crate::controller::snapshot::point::Source;
use crate::metrics;
use crate::volume::error::{Error, Kind, Result};
use crate::volume::image::chain::{self, Ancestor};
use crate::volume::image::watch::FOR_THE_ANSWER;
use crate::volume::journal::creator::Creator;
use crate::volume::journal::{Collection, Journal};
use crate::volume::operation::Progress;
use work::Work;

/// How often it is looked whether a cancelled flatten has stopped.
const PAUSE: Duration = Duration::from_millis(100);

/// What a record's key begins with; behind it stands the image id.
pub const PREFIX: &str = "rbd-csi.flatten.";

/// The key of an image's record; also the name of the lock of whoever flattens it.
pub fn key(id: &ImageId) -> String {
    format!("{PREFIX}{}", id.as_str())
}

/// Whether librbd's flatten of the image would not see a snapshot that is taken meanwhile.
pub fn is_blind(header: &Header) -> bool {
    let either = [Features::EXCLUSIVE_LOCK, Features::DEEP_FLATTEN];
    either.iter().all(|feature| !header.features.contains(*feature))
}

/// Whether a flatten of the image changes what a kernel reads that has a volume below it mapped.
/// Without an object map it asks for each object; without `deep-flatten` the snapshots keep
/// their parent.
pub fn changes_descendants(header: &Header) -> bool {
    let both = [Features::OBJECT_MAP, Features::DEEP_FLATTEN];
    both.iter().all(|feature| header.features.contains(*feature))
}

/// Why an image is flattened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// It would be good; not at the price of other volumes.
    Soft,
    /// A call waits for it.
    Hard,
}

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

impl Target {
    /// The image that something is made of.
    pub fn of(image: &Source) -> Self {
        Self { pool: image.pool.clone(), id: image.id.clone(), name: image.name.clone() }
    }
}

/// What is written down of a flatten.
struct Record {
    /// The image's name, for people.
    image: String,
    need: Need,
}

impl Record {
    fn encode(&self) -> Vec<u8> {
        serde_json::json!({ "image": self.image, "hard": self.need == Need::Hard }).to_string().into_bytes()
    }

    /// Reads a value; what is not there or not understood is left out.
    fn decode(value: &[u8]) -> Self {
        let value: serde_json::Value = serde_json::from_slice(value).unwrap_or_default();
        let hard = value["hard"].as_bool().unwrap_or(false);
        Self {
            image: value["image"].as_str().unwrap_or_default().to_owned(),
            need: if hard { Need::Hard } else { Need::Soft },
        }
    }
}

/// How far a flatten is, and the hand on it.
#[derive(Debug, Clone, Default)]
pub struct Far(Arc<State>);

#[derive(Debug, Default)]
struct State {
    done: AtomicU64,
    total: AtomicU64,
    /// It does not go on: what it waits for.
    waits_for: Mutex<Option<String>>,
    /// librbd is to stop.
    cancelled: AtomicBool,
    /// A call waits for it.
    hard: AtomicBool,
    /// Something has changed that it waits for.
    changed: Notify,
}

impl Far {
    fn set(&self, done: u64, total: u64) {
        let left = |done: u64, total: u64| i64::try_from(total.saturating_sub(done)).unwrap_or(i64::MAX);
        let before =
            left(self.0.done.swap(done, Ordering::Relaxed), self.0.total.swap(total, Ordering::Relaxed));
        metrics::flatten_objects_left(left(done, total) - before);
    }

    fn wait_for(&self, what: Option<String>) {
        *self.0.waits_for.lock().unwrap_or_else(PoisonError::into_inner) = what;
    }

    fn needs(&self, need: Need) {
        self.0.hard.fetch_or(need == Need::Hard, Ordering::Relaxed);
    }

    fn is_hard(&self) -> bool {
        self.0.hard.load(Ordering::Relaxed)
    }

    fn is_cancelled(&self) -> bool {
        self.0.cancelled.load(Ordering::Relaxed)
    }
}

impl std::fmt::Display for Far {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let waits_for = self.0.waits_for.lock().unwrap_or_else(PoisonError::into_inner);
        match (waits_for.as_ref(), self.0.done.load(Ordering::Relaxed), self.0.total.load(Ordering::Relaxed))
        {
            (Some(what), _, _) => f.write_str(what),
            (None, _, 0) => f.write_str("not begun yet"),
            (None, done, total) => write!(f, "{done} of {total} objects"),
        }
    }
}

/// The cluster, and in it pool, namespace and image.
type Place = (String, i64, String, ImageId);

/// The flattens of this process.
#[derive(Clone)]
pub struct Flattener {
    creator: Creator,
    instance: String,
    slots: Arc<Semaphore>,
    running: Arc<Mutex<HashMap<Place, Far>>>,
    /// The images whose clones are being looked through.
    thinned: Arc<Mutex<HashSet<Place>>>,
    purger: Arc<OnceLock<Purger>>,
}

impl Flattener {
    /// `at_once`: how many images are flattened side by side (`--flatten-concurrency`). `creator`
    /// tells this process's locks from others'; `instance` is `--instanceid`.
    pub fn new(at_once: usize, creator: &Creator, instance: &str) -> Self {
        Self {
            creator: creator.clone(),
            instance: instance.to_owned(),
            slots: Arc::new(Semaphore::new(at_once.max(1))),
            running: Arc::default(),
            thinned: Arc::default(),
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
    pub async fn start(&self, reach: &Reach, target: Target, need: Need) -> Result<Far> {
        let running = self.running().get(&place(&target.pool, &target.id)).cloned();
        let joins = |far: &Far| !far.is_cancelled() && (far.is_hard() || need == Need::Soft);
        if let Some(far) = running.filter(joins) {
            return Ok(far);
        }
        let record = Record { image: target.name.clone(), need };
        let (journal, key) = (self.journal(&target.pool), key(&target.id));
        let mut op = WriteOp::new().create();
        if need == Need::Soft {
            // One that a call waits for stays as it is.
            op = op.omap_equals(key.as_str(), b"");
        }
        let op = op.omap_set([(key, record.encode())]);
        match journal.pool().write("journal record flatten", journal.directory(), op).await {
            Err(error) if error.is(libc::ECANCELED) => {}
            recorded => recorded?,
        }
        Ok(self.begin(reach, target, need))
    }

    /// Goes on with what a record in this pool names.
    pub fn resume(&self, pool: &Pool, reach: &Reach, id: &ImageId, value: &[u8]) {
        let Record { image: name, need } = Record::decode(value);
        self.begin(reach, Target { pool: pool.clone(), id: id.clone(), name }, need);
    }

    /// How far the flatten of an image is, whichever controller does it; `None` when none is
    /// recorded. One operation at most.
    ///
    /// # Errors
    /// What Ceph answers.
    pub async fn under_way(&self, pool: &Pool, id: &ImageId) -> Result<Option<Far>> {
        let far = self.running().get(&place(pool, id)).cloned();
        if far.is_some() {
            return Ok(far);
        }
        let recorded = record(&self.journal(pool), id).await?;
        Ok(recorded.map(|_| {
            let far = Far::default();
            far.wait_for(Some("by another controller".to_owned()));
            far
        }))
    }

    /// Ends the flatten of an image that is about to go, in whichever process it runs; with it goes
    /// the watch on the image, a little later.
    ///
    /// # Errors
    /// What Ceph answers.
    pub async fn cancel(&self, pool: &Pool, id: &ImageId) -> Result<()> {
        let far = self.running().get(&place(pool, id)).cloned();
        if let Some(far) = far {
            far.0.cancelled.store(true, Ordering::Relaxed);
            far.0.changed.notify_one();
        }
        let (journal, op) = (self.journal(pool), WriteOp::new().omap_remove([key(id)]));
        match pool.write("journal forget flatten", journal.directory(), op).await {
            Err(error) if !error.is(libc::ENOENT) => Err(error.into()),
            _ => Ok(()),
        }
    }

    /// Keeps flattens away from a volume that was just made of a clone, before anybody maps it: an
    /// ancestor's flatten that nobody waits for is cancelled, and its end awaited. Three operations
    /// for each ancestor.
    ///
    /// # Errors
    /// [`Kind::Busy`] with how far the flatten is that comes first; what Ceph answers.
    pub async fn keep_off(&self, pool: &Pool, header: &Header, progress: &Progress) -> Result<()> {
        for ancestor in chain::ancestors(pool, header).await? {
            if changes_descendants(&ancestor.header) {
                self.keep_off_from(&ancestor, progress).await?;
            }
        }
        Ok(())
    }

    /// Who works holds the lock, also for a moment after its record was taken away.
    async fn keep_off_from(&self, ancestor: &Ancestor, progress: &Progress) -> Result<()> {
        let Ancestor { pool, id, .. } = ancestor;
        let (journal, key) = (self.journal(pool), key(id));
        let mut cancelled = false;
        loop {
            let (value, holder) =
                tokio::join!(record(&journal, id), pool.lock_holder(journal.directory(), &key));
            let (value, holder) = (value?, holder?);
            let need = value.as_deref().map(|value| Record::decode(value).need);
            let Some(holder) = holder else {
                if need == Some(Need::Soft) {
                    self.cancel(pool, id).await?;
                    cancelled = true;
                }
                break;
            };
            let image = format!("id {} in pool {}", id.as_str(), pool.name());
            if need == Some(Need::Hard) || progress.deadline.left() < FOR_THE_ANSWER {
                let text = format!(
                    "flatten is in progress for image {image} by {} at {}, of which this volume is a clone; \
                     calling again goes on when it is done",
                    holder.client, holder.address
                );
                return Err(Error::new(Kind::Busy, text));
            }
            progress.step(format!("waiting for the flatten of image {image} to stop"));
            if need == Some(Need::Soft) {
                self.cancel(pool, id).await?;
            }
            cancelled = true;
            tokio::time::sleep(PAUSE).await;
        }
        // It may have come so far that its end is owed.
        if cancelled && let Some(header) = pool.image_header(id, &[]).await? {
            work::finish(pool, id, &header).await?;
        }
        Ok(())
    }

    /// A clone of this image is gone, or has all data of its own: a flatten that waited for
    /// that goes on.
    pub fn wake(&self, cluster: &Pool, image: &ParentImage) {
        let fsid = cluster.connection().fsid_text().to_owned();
        let place = (fsid, image.pool_id, image.namespace.clone(), image.id.clone());
        if let Some(far) = self.running().get(&place) {
            far.0.changed.notify_one();
        }
    }

    /// Where the flattens of a pool's images are recorded.
    fn journal(&self, pool: &Pool) -> Journal {
        Journal::new(pool, Collection::Volumes, &self.instance)
    }

    fn begin(&self, reach: &Reach, target: Target, need: Need) -> Far {
        let (new, place) = (Far::default(), place(&target.pool, &target.id));
        {
            let mut running = self.running();
            // One that was cancelled is about to end, and its record is another.
            let known = running.get(&place).filter(|far| !far.is_cancelled()).cloned();
            let far = known.as_ref().unwrap_or(&new);
            far.needs(need);
            if let Some(known) = known {
                known.0.changed.notify_one();
                return known;
            }
            running.insert(place, new.clone());
        }
        metrics::flatten_backlog(1);
        tokio::spawn(Work::new(self, reach, target, &new).until_done());
        new
    }

    fn ended(&self, target: &Target, far: &Far) {
        let (mut running, place) = (self.running(), place(&target.pool, &target.id));
        if running.get(&place).is_some_and(|running| Arc::ptr_eq(&running.0, &far.0)) {
            running.remove(&place);
        }
        metrics::flatten_backlog(-1);
    }

    fn running(&self) -> MutexGuard<'_, HashMap<Place, Far>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn place(pool: &Pool, id: &ImageId) -> Place {
    (pool.connection().fsid_text().to_owned(), pool.id(), pool.namespace().to_owned(), id.clone())
}

/// The record of an image, if there is one.
async fn record(journal: &Journal, id: &ImageId) -> Result<Option<Vec<u8>>> {
    let key = key(id);
    match journal.pool().omap_get("journal read flatten", journal.directory(), &[&key]).await {
        Err(error) if error.is(libc::ENOENT) => Ok(None),
        values => Ok(values?.remove(&key)),
    }
}
