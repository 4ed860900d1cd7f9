//! A point in time of an image, kept as an image of its own that nobody writes to.
//!
//! A CSI snapshot is one, and a volume that is cloned from another has one beside it. The
//! layout is ceph-csi's, and all names follow from one uuid, so that whoever comes back after
//! a stop, this driver or ceph-csi, finds each step again:
//! 1. a snapshot of the source (`mark`): from here on the point in time stands
//! 2. the image, a clone of it
//! 3. the mark goes to the source's snapshot trash, where it lives as long as the clone needs it
//! 4. a snapshot of the image (`own`), which restores are cloned from
//!
//! The id of the second snapshot is drawn from the monitors beside the first, so that both
//! share one commit. The caller holds the creator's lock of the uuid.

use crate::ceph::{
    CephError, Features, Header, Image, ImageId, ImageSpec, OpenMode, Pool, Snapshot, SnapshotKind,
};
use crate::controller::change::{depth, flatten};
use crate::controller::create::clone::{self, Parent};
use crate::controller::create::leftover::{self, Origin};
use crate::controller::delete::discard::Discard;
use crate::controller::delete::purge::Purger;
use crate::volume::error::{Error, Kind, Result};
use crate::volume::image::{chain, lock_owner, name};
use crate::volume::journal::{Entry, Journal};
use crate::volume::operation::Progress;

/// The image that the point in time is taken of.
#[derive(Debug, Clone)]
pub struct Source {
    /// Its pool.
    pub pool: Pool,
    /// Its name.
    pub name: String,
    /// Its id.
    pub id: ImageId,
    /// Its header.
    pub header: Header,
}

/// What everything is called.
#[derive(Debug, Clone)]
pub struct Names {
    /// The image that keeps the point in time.
    pub image: String,
    /// The snapshot of the source.
    pub mark: String,
    /// The snapshot of the image.
    pub own: String,
}

impl Names {
    /// Those of a CSI snapshot whose image has this name.
    pub fn of_snapshot(image: &str) -> Self {
        Self { image: image.to_owned(), mark: image.to_owned(), own: image.to_owned() }
    }

    /// Those beside a volume that is cloned from another and whose image has this name.
    pub fn beside_clone(image: &str) -> Self {
        let temp = name::beside(image);
        Self { image: temp.clone(), mark: temp, own: image.to_owned() }
    }
}

/// A point in time in the making.
pub struct Point<'a> {
    /// What it is taken of.
    pub source: &'a Source,
    /// Where its image goes.
    pub pool: &'a Pool,
    /// What everything is called.
    pub names: Names,
    /// What its image is to be like; the size is the source's.
    pub spec: ImageSpec,
    /// Where an image goes that is not to be, and who flattens images.
    pub purger: &'a Purger,
    /// Tells the step.
    pub progress: &'a Progress,
}

/// A point in time that stands.
#[derive(Debug, Clone)]
pub struct Made {
    /// The image that keeps it.
    pub id: ImageId,
    /// Its snapshot, which restores are cloned from; with size and time.
    pub own: Snapshot,
}

impl Point<'_> {
    /// Makes it, or goes on where an earlier try has stopped; `fresh`: there was none.
    ///
    /// # Errors
    /// [`Kind::InUse`] where a client keeps the source's lock to itself; [`Kind::Unavailable`]
    /// where the lock's owner is dead; what Ceph answers.
    pub async fn make(&self, fresh: bool) -> Result<Made> {
        let image = if fresh { None } else { self.find().await? };
        if let Some((id, header)) = &image
            && let Some(own) = user_snapshot(header, &self.names.own)
        {
            let (own, id) = (own.clone(), id.clone());
            self.settle_source(None).await?;
            // A try that stopped behind the snapshot has perhaps not written its object map,
            // without which nobody could open it.
            self.pool.add_snapshot(&id, header, own.id, &own.name).await?;
            return Ok(Made { id, own });
        }
        let (drawn, image) = tokio::join!(self.pool.draw_snapshot_id(), self.image(image, fresh));
        let added = match image {
            Ok((id, header)) => self.add_own(id, header, drawn.clone()?).await,
            Err(error) => Err(error),
        };
        if let (Err(_), Ok(unused)) = (&added, drawn) {
            // A number that nobody uses harms nobody; it only should not be left out of laziness.
            if let Err(error) = self.pool.return_snapshot_id(unused).await {
                tracing::debug!(%error, "a snapshot id that was drawn in vain was not given back");
            }
        }
        added
    }

    /// Steps 1 to 3.
    async fn image(&self, image: Option<(ImageId, Header)>, fresh: bool) -> Result<(ImageId, Header)> {
        if let Some(found) = image {
            self.settle_source(None).await?;
            return Ok(found);
        }
        let mark = self.mark(fresh).await?;
        self.progress.step(format!("cloning {}@{}", self.source.pool.describe(&self.source.name), mark.name));
        let parent = self.parent(&mark);
        let (id, header) = clone::make(self.pool, &self.names.image, &parent, &self.spec).await?;
        self.settle_source(Some(mark.id)).await?;
        Ok((id, header))
    }

    /// Step 1; one that an earlier try has made is taken.
    async fn mark(&self, fresh: bool) -> Result<Snapshot> {
        let mark = match if fresh { None } else { self.standing_mark().await? } {
            Some(mark) if mark.children > 0 || self.has_map(&mark).await? => mark,
            found => {
                if let Some(mark) = found {
                    // Nobody was told of that moment yet, so a later one will do.
                    self.remove_mark(&mark).await?;
                }
                self.take_mark().await?
            }
        };
        if flatten::is_blind(&self.source.header)
            && let Err(error) = self.refuse_unseen(&mark).await
        {
            self.remove_mark(&mark).await?;
            return Err(error);
        }
        Ok(mark)
    }

    /// A flatten of the source that began while the snapshot was taken has perhaps not seen it, and
    /// has taken the source from its parent's clones, or will: then the snapshot is worth nothing.
    async fn refuse_unseen(&self, mark: &Snapshot) -> Result<()> {
        let Source { pool, name, id, .. } = self.source;
        let Some(header) = pool.image_header(id, &[]).await? else { return Ok(()) };
        let source = Source { header, ..self.source.clone() };
        depth::refuse_blind(self.purger.flattener(), &source).await?;
        let header = &source.header;
        let parent = header.parent.as_ref().or(header.parent_of_snapshots.as_ref());
        let mark = user_snapshot(header, &mark.name).unwrap_or(mark);
        let Some(parent) = parent.filter(|_| mark.has_parent) else { return Ok(()) };
        if chain::is_listed(pool, id, parent).await? == Some(true) {
            return Ok(());
        }
        let text = format!(
            "image {} was flattened while its snapshot {} was taken, which is taken back; call again",
            pool.describe(name),
            mark.name
        );
        Err(Error::new(Kind::Busy, text))
    }

    async fn take_mark(&self) -> Result<Snapshot> {
        let Source { pool, name, id, header } = self.source;
        lock_owner::refuse_dead(pool, name, id, header).await?;
        self.progress.step(format!("taking a snapshot of {}", pool.describe(name)));
        let open = || pool.open_image(id, OpenMode::ReadWrite);
        let image = clone::unless_flattened(pool, id, open).await?;
        let taken = image.create_snapshot(&self.names.mark).await;
        close(image).await;
        match taken {
            // A try whose answer was lost.
            Err(error) if error.is(libc::EEXIST) => {}
            Err(error) => return Err(self.not_taken(error)),
            Ok(()) => {}
        }
        self.standing_mark().await?.ok_or_else(|| {
            let text = format!("the snapshot of {} vanished right after it was taken", pool.describe(name));
            Error::new(Kind::Unavailable, text)
        })
    }

    /// Whether a snapshot of the source has its object map, if it needs one. librbd writes it after
    /// the snapshot; a stop in between leaves one that cannot be opened by those who only read, and
    /// so never be cloned.
    async fn has_map(&self, mark: &Snapshot) -> Result<bool> {
        let Source { pool, id, header, .. } = self.source;
        if !header.features.contains(Features::OBJECT_MAP) {
            return Ok(true);
        }
        match pool.stat("snapshot object map", &id.snapshot_map_object(mark.id)).await {
            Err(error) if error.is(libc::ENOENT) => Ok(false),
            found => Ok(found.map(|_| true)?),
        }
    }

    fn not_taken(&self, error: CephError) -> Error {
        let image = self.source.pool.describe(&self.source.name);
        if error.is(libc::EROFS) {
            let text = format!(
                "image {image} is mapped by a client that keeps its exclusive lock to itself (map option \
                 `exclusive`), so no snapshot of it can be taken; map it without that option"
            );
            return Error::new(Kind::InUse, text).because(error);
        }
        Error::from(error).while_doing(format!("taking a snapshot of {image}"))
    }

    async fn standing_mark(&self) -> Result<Option<Snapshot>> {
        let header = self.source.pool.image_header(&self.source.id, &[]).await?;
        Ok(header.and_then(|header| user_snapshot(&header, &self.names.mark).cloned()))
    }

    fn parent(&self, mark: &Snapshot) -> Parent {
        Parent {
            pool: self.source.pool.clone(),
            image: self.source.name.clone(),
            id: self.source.id.clone(),
            snapshot: mark.name.clone(),
            snap_id: mark.id,
        }
    }

    /// The image of an earlier try, if it is whole; pieces of one are cleared away.
    async fn find(&self) -> Result<Option<(ImageId, Header)>> {
        self.progress.step(format!("looking for {}", self.pool.describe(&self.names.image)));
        let header = self.source.pool.image_header(&self.source.id, &[]).await?;
        let marks = header.iter().flat_map(|header| &header.snapshots);
        let marks = marks.filter(|snapshot| was_called(snapshot, &self.names.mark));
        let parents: Vec<Parent> = marks.map(|mark| self.parent(mark)).collect();
        let origin = Origin::Clone(&parents);
        leftover::take_over_or_clear(self.pool, &self.names.image, &self.spec, origin, self.progress).await
    }

    /// Step 3. The node that has the source mapped is told, but nothing depends on its answer.
    async fn settle_source(&self, mark: Option<u64>) -> Result<()> {
        let Source { pool, id, .. } = self.source;
        let mark = match mark {
            Some(mark) => mark,
            None => match self.standing_mark().await? {
                Some(mark) => mark.id,
                None => return Ok(()),
            },
        };
        pool.trash_snapshot(id, mark).await?;
        if let Err(error) = pool.notify_header_update(id).await {
            tracing::debug!(%error, "a client that has the source open was not told of its snapshot's move");
        }
        Ok(())
    }

    /// Step 4.
    async fn add_own(&self, id: ImageId, header: Header, snap_id: u64) -> Result<Made> {
        let name = &self.names.own;
        self.progress.step(format!("finishing {}", self.pool.describe(&self.names.image)));
        self.pool.add_snapshot(&id, &header, snap_id, name).await?;
        let header = self.pool.image_header(&id, &[]).await?;
        match header.as_ref().and_then(|header| user_snapshot(header, name)) {
            Some(own) => Ok(Made { id, own: own.clone() }),
            None => {
                let text = format!("image {} has lost its snapshot", self.pool.describe(&self.names.image));
                Err(Error::new(Kind::Unavailable, text))
            }
        }
    }
}

impl Point<'_> {
    /// Takes back what was made of a point in time whose reservation is given up: its image
    /// goes to the trash to be purged, and its snapshot of the source goes. The caller holds the
    /// creator's lock and takes the reservation back afterwards.
    ///
    /// # Errors
    /// What Ceph answers; calling again goes on.
    pub async fn roll_back(&self, journal: &Journal, entry: &Entry) -> Result<()> {
        let image = self.find().await?;
        if let Some((id, header)) = &image {
            let (pool, name) = (self.pool, self.names.image.as_str());
            let discard = Discard { journal, pool, name, id, header: Some(header), entry };
            discard.run(self.purger).await?;
        }
        if let Some(mark) = self.standing_mark().await? {
            self.remove_mark(&mark).await?;
        }
        Ok(())
    }

    /// One that a clone needs goes to the snapshot trash, and with the clone's purge.
    async fn remove_mark(&self, mark: &Snapshot) -> Result<()> {
        if mark.children > 0 {
            return self.settle_source(Some(mark.id)).await;
        }
        let Source { pool, name, id, header } = self.source;
        lock_owner::refuse_dead(pool, name, id, header).await?;
        let image = pool.open_image(id, OpenMode::ReadWrite).await?;
        let removed = image.remove_snapshot(&mark.name).await;
        close(image).await;
        match removed {
            Err(error) if error.is(libc::ENOENT) => Ok(()),
            removed => Ok(removed?),
        }
    }
}

/// The features of an image that keeps a point in time: the source's that a kernel can use, and
/// what makes it a clone that can be flattened with its snapshots.
pub fn features(source: Features) -> Features {
    let kept = [
        Features::LAYERING,
        Features::EXCLUSIVE_LOCK,
        Features::OBJECT_MAP,
        Features::FAST_DIFF,
        Features::DEEP_FLATTEN,
    ];
    kept.into_iter()
        .filter(|feature| source.contains(*feature))
        .fold(Features::LAYERING | Features::DEEP_FLATTEN, |all, feature| all | feature)
}

/// The snapshot of that name that is not in the snapshot trash.
pub fn user_snapshot<'a>(header: &'a Header, name: &str) -> Option<&'a Snapshot> {
    header.snapshots.iter().find(|snapshot| snapshot.kind == SnapshotKind::User && snapshot.name == name)
}

fn was_called(snapshot: &Snapshot, name: &str) -> bool {
    match &snapshot.kind {
        SnapshotKind::User => snapshot.name == name,
        SnapshotKind::Trash(original) => original == name,
        _ => false,
    }
}

/// Closes an image whose work is done: a close that fails takes nothing back.
pub async fn close(image: Image) {
    if let Err(error) = image.close().await {
        tracing::warn!(%error, "an image was not closed well; its watch ends by itself");
    }
}
