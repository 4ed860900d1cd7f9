//! One flatten of this process: tried until the image has all data of its own, or is gone.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::below::{self, Below};
use super::{Far, Flattener, Need, Record, Target, changes_descendants, key, record};
use crate::ceph::{Features, Header, ImageId, KeepGoing, OpenMode, Pool};
use crate::controller::delete::record::ParentImage;
use crate::controller::owner::Owner;
use crate::controller::reach::Reach;
use crate::controller::snapshot::point::close;
use crate::volume::error::{Error, Kind, Result};
use crate::volume::image::{chain, lock_owner};
use crate::volume::journal::Journal;

const FIRST_PAUSE: Duration = Duration::from_secs(5);
const LONGEST_PAUSE: Duration = Duration::from_secs(600);
/// How often the log tells how far a flatten is.
const TELL_EVERY: Duration = Duration::from_secs(30);

/// One flatten.
pub struct Work {
    flattener: Flattener,
    reach: Reach,
    target: Target,
    far: Far,
    /// What the image was cloned from.
    parent: Mutex<Option<ParentImage>>,
}

/// What a try has come to.
enum Outcome {
    /// The image and its snapshots have no parent any more, or the image is on its way out.
    Done,
    /// Others come first: what they are to it, and they.
    First(&'static str, Vec<Target>),
    /// Something else has to happen before.
    Later(String),
}

impl Work {
    /// The flatten of an image, which is recorded.
    pub fn new(flattener: &Flattener, reach: &Reach, target: Target, far: &Far) -> Self {
        Self {
            flattener: flattener.clone(),
            reach: reach.clone(),
            target,
            far: far.clone(),
            parent: Mutex::default(),
        }
    }

    /// Tries it again and again.
    pub async fn until_done(self) {
        let mut pause = FIRST_PAUSE;
        while !self.far.is_cancelled() {
            let Ok(slot) = self.flattener.slots.acquire().await else { break };
            let outcome = self.attempt().await;
            drop(slot);
            let waits_for = match outcome {
                Ok(Outcome::Done) => break,
                Ok(Outcome::First(what, others)) => self.first(what, others).await,
                Ok(Outcome::Later(text)) => text,
                Err(_) if self.far.is_cancelled() => break,
                Err(error) => {
                    let image = self.target.pool.describe(&self.target.name);
                    tracing::warn!(image, %error, pause_secs = pause.as_secs(), "an image is not flattened yet");
                    format!("it will be tried again: {error}")
                }
            };
            self.far.wait_for(Some(waits_for));
            pause = tokio::select! {
                () = tokio::time::sleep(pause) => (pause * 2).min(LONGEST_PAUSE),
                () = self.far.0.changed.notified() => FIRST_PAUSE,
            };
            self.far.wait_for(None);
        }
        self.far.set(0, 0);
        self.flattener.ended(&self.target, &self.far);
    }

    async fn first(&self, what: &str, others: Vec<Target>) -> String {
        let names: Vec<_> = others.iter().map(|other| other.pool.describe(&other.name)).collect();
        for target in others {
            if let Err(error) = self.flattener.start(&self.reach, target, self.need()).await {
                tracing::warn!(%error, "an image that has to be flattened first was not recorded");
            }
        }
        format!("which waits for {what} {}", names.join(", "))
    }

    fn need(&self) -> Need {
        if self.far.is_hard() { Need::Hard } else { Need::Soft }
    }

    /// The record is the right to work: who takes it away ends the work.
    async fn attempt(&self) -> Result<Outcome> {
        let Some(pool) = self.reach.background(&self.target.pool).await? else { return Ok(Outcome::Done) };
        let (journal, key) = (self.flattener.journal(&pool), key(&self.target.id));
        let Some(value) = record(&journal, &self.target.id).await? else { return Ok(Outcome::Done) };
        let owner = match Owner::of_flatten(&journal, &key, &value, &self.flattener.creator).await {
            Err(error) if error.kind == Kind::Busy => {
                return Ok(Outcome::Later(format!("by another controller: {error}")));
            }
            owner => owner?,
        };
        let Some(owner) = owner else {
            return Ok(Outcome::Later("whose record somebody else has changed".to_owned()));
        };
        self.far.needs(Record::decode(&value).need);
        let outcome = self.attempt_as(&owner, &pool).await;
        if !matches!(outcome, Ok(Outcome::Done)) {
            owner.give_back().await;
            return outcome;
        }
        if let Err(error) = self.wake_parent(&journal).await {
            owner.give_back().await;
            return Err(error);
        }
        owner.forget().await?;
        Ok(Outcome::Done)
    }

    async fn attempt_as(&self, owner: &Owner<'_>, pool: &Pool) -> Result<Outcome> {
        let id = &self.target.id;
        let (header, deleted) = tokio::join!(pool.image_header(id, &[]), pool.trash_entry(id));
        let Some(header) = header? else { return Ok(Outcome::Done) };
        if deleted?.is_some() {
            return Ok(Outcome::Done);
        }
        if let Some(parent) = ParentImage::of(&header) {
            *self.parent() = Some(parent);
        }
        if !finish(pool, id, &header).await? {
            if let Some(others) = self.below(pool, &header).await? {
                return Ok(others);
            }
            if header.parent.is_some() {
                self.flatten(pool, &header, owner).await?;
            }
        }
        let Some(header) = pool.image_header(id, &[]).await? else { return Ok(Outcome::Done) };
        if header.features.contains(Features::DEEP_FLATTEN) || header.snapshots.is_empty() {
            return Ok(Outcome::Done);
        }
        // They keep the image's snapshots.
        let clones: Vec<_> = below::clones(pool, id).await?.into_iter().map(|(_, clone)| clone).collect();
        if clones.is_empty() {
            return Ok(Outcome::Done);
        }
        let below = below::look(pool, id, &self.flattener.instance).await?;
        match self.need() {
            Need::Soft if !below.is_empty() => self.give_up(pool, &below),
            _ => Ok(Outcome::First("clones of its snapshots", clones)),
        }
    }

    /// What volumes below the image make of this try, if anything.
    async fn below(&self, pool: &Pool, header: &Header) -> Result<Option<Outcome>> {
        if !changes_descendants(header) {
            return Ok(None);
        }
        let below = below::look(pool, &self.target.id, &self.flattener.instance).await?;
        if below.is_empty() {
            return Ok(None);
        }
        if self.need() == Need::Soft {
            return self.give_up(pool, &below).map(Some);
        }
        // Those in the making are made to the end, and flattened then.
        let making = below.in_the_making.iter().map(|volume| volume.pool.describe(&volume.name));
        let making = making.collect::<Vec<_>>().join(", ");
        Ok(Some(match below.volumes.is_empty() {
            true => Outcome::Later(format!("which waits for volumes that are being made of it: {making}")),
            false => Outcome::First("volumes below it", below.volumes),
        }))
    }

    fn give_up(&self, pool: &Pool, below: &Below) -> Result<Outcome> {
        let volumes = || below.volumes.iter().chain(&below.in_the_making);
        tracing::info!(
            image = pool.describe(&self.target.name),
            volumes = volumes().count(),
            first = volumes().next().map(|volume| volume.pool.describe(&volume.name)),
            "an image at a soft limit is not flattened: volumes are clones of it, and may be mapped"
        );
        Ok(Outcome::Done)
    }

    /// A parent that was deleted may have waited for this, and so may a parent's own flatten.
    async fn wake_parent(&self, journal: &Journal) -> Result<()> {
        let Some(parent) = self.parent().clone() else { return Ok(()) };
        self.flattener.wake(journal.pool(), &parent);
        let Some(purger) = self.flattener.purger.get() else { return Ok(()) };
        purger.parent_left(journal, &self.target.name, parent).await
    }

    fn parent(&self) -> MutexGuard<'_, Option<ParentImage>> {
        self.parent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Dropping a future does not stop librbd: it is told to stop, and waited for.
    async fn flatten(&self, pool: &Pool, header: &Header, owner: &Owner<'_>) -> Result<()> {
        let Target { id, name, .. } = &self.target;
        lock_owner::refuse_dead(pool, name, id, header).await?;
        let shown = pool.describe(name);
        tracing::info!(image = shown, "flattening");
        let image = pool.open_image(id, OpenMode::ReadWrite).await?;
        let keep_going = self.keep_going(owner, shown.clone());
        let flattened = {
            let flatten = image.flatten(keep_going);
            tokio::pin!(flatten);
            tokio::select! {
                flattened = &mut flatten => flattened.map_err(|error| (error, None)),
                lost = owner.hold_on() => flatten.await.map_err(|error| (error, Some(lost))),
            }
        };
        close(image).await;
        match flattened {
            Ok(()) => tracing::info!(image = shown, "flattened"),
            // librbd: it has no parent.
            Err((error, _)) if error.is(libc::EINVAL) => {}
            Err((error, Some(lost))) => return Err(lost.because(error)),
            Err((error, None)) => return Err(Error::from(error).while_doing(format!("flattening {shown}"))),
        }
        Ok(())
    }

    fn keep_going(&self, owner: &Owner<'_>, shown: String) -> KeepGoing {
        let (far, told, owned) = (self.far.clone(), Mutex::new(Instant::now()), owner.lasts());
        KeepGoing::new(move |done, total| {
            far.set(done, total);
            let mut told = told.lock().unwrap_or_else(PoisonError::into_inner);
            if told.elapsed() >= TELL_EVERY {
                *told = Instant::now();
                tracing::info!(image = shown, done, total, "flattening");
            }
            owned() && !far.is_cancelled()
        })
    }
}

/// Finishes a flatten that was stopped behind its copying: librbd takes the image out of its
/// parent's header then, and the parent out of the image's a little later. In between the image
/// cannot be opened if the parent's snapshot is gone. `false`: it is not in that state. Only for
/// images that are complete: a clone that was never attached looks the same.
///
/// # Errors
/// What Ceph answers.
pub async fn finish(pool: &Pool, id: &ImageId, header: &Header) -> Result<bool> {
    let Some(parent) = &header.parent else { return Ok(false) };
    // A pool that is gone took data along that nobody has copied for sure.
    if chain::is_listed(pool, id, parent).await?.unwrap_or(true) {
        return Ok(false);
    }
    tracing::info!(image_id = id.as_str(), "a flatten that had copied all is finished");
    pool.detach_parent(id).await?;
    // Who has it open may read on from a parent that is gone.
    if let Err(error) = pool.notify_header_update(id).await {
        tracing::debug!(%error, "a client was not told that an image has no parent any more");
    }
    Ok(true)
}
