//! DeleteVolume and DeleteSnapshot: the journal entry outlives the image, never the reverse.
//!
//! 1. Read the journal entry; find the image by its name, else by its recorded id.
//! 2. Take back what was begun with it and given up (`half_done`).
//! 3. Prove the right to delete: nobody has it open, nothing that a person made depends on it,
//!    and it is nothing that this version cannot take apart (`dependents`).
//! 4. What stands beside a cloned volume, then the image itself: recorded for its purge, and moved
//!    to the trash (`discard`).
//! 5. Take the reservation back: directory key, then uuid object.
//! 6. Answer. The purge goes on in the background (`purge`), and waits for clones.
//!
//! "It is gone already" is believed only when the cluster itself said so of
//! journal, image and trash.

pub mod dependents;
pub mod discard;
pub mod purge;
pub mod record;

mod attempt;
mod call;
mod damaged;
mod group;
mod half_done;
mod mgr;
mod parent;
mod queue;

use std::time::Duration;

use uuid::Uuid;

use crate::ceph::{Header, ImageId, Pool};
use crate::controller::create::leftover;
use crate::controller::recent::Recent;
use crate::controller::snapshot::point::{Source, user_snapshot};
use crate::volume::error::{Error, Kind, Result};
use crate::volume::image::{name, watch};
use crate::volume::journal::creator::Creator;
use crate::volume::journal::{Collection, Entry, Journal, Reservation};
use crate::volume::operation::Progress;
use discard::Discard;
use purge::Purger;

/// How a deletion ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deleted {
    /// The volume or snapshot was there and is gone now.
    Removed,
    /// There was nothing to delete.
    Absent,
}

/// How often an image is looked at again after something was taken back.
const TURNS: usize = 4;

/// One deletion, of a volume or of a snapshot as the journal keeps the one or the other.
pub struct Deletion<'a> {
    /// The journal of its pool.
    pub journal: &'a Journal,
    /// Who clears away the pieces of an unfinished image.
    pub creator: &'a Creator,
    /// Where the image goes after the answer.
    pub purger: &'a Purger,
    /// rbd-mirror daemons that may watch a mirrored image (`mirrorDaemonCount`).
    pub mirror_daemons: u32,
    /// `--instanceid`, for other journals.
    pub instance: &'a str,
    /// What tells this deletion from others of this process.
    pub key: &'a str,
    /// Deletions that this process has seen to their end.
    pub gone: &'a Recent,
    /// Tells the step.
    pub progress: &'a Progress,
}

/// What is left of an image.
enum Image {
    Whole(ImageId, Box<Header>),
    Pieces,
    Gone,
}

impl Deletion<'_> {
    /// Deletes the volume or snapshot of this uuid.
    ///
    /// # Errors
    /// [`Kind::InUse`] naming who has the image open; [`Kind::Precondition`] with
    /// what depends on it or what this version lacks; [`Kind::Busy`] while something is being
    /// made of it; what Ceph answers.
    pub async fn run(&self, uuid: Uuid) -> Result<Deleted> {
        self.progress.step(format!("reading the journal entry of {uuid}"));
        let deleted = match self.journal.entry(uuid).await? {
            Some(entry) => self.of_entry(entry).await?,
            None => self.without_entry(uuid).await?,
        };
        self.gone.add(self.key);
        Ok(deleted)
    }

    async fn of_entry(&self, entry: Entry) -> Result<Deleted> {
        self.refuse_what_is_not_here_yet(&entry).await?;
        let name = self.image_name(&entry).await?;
        self.progress.step(format!("looking at image {}", self.pool().describe(&name)));
        if self.take_unfinished_snapshot_back(&entry, &name).await? {
            return Ok(Deleted::Removed);
        }
        let image = self.find_or_finish(&entry, &name).await?;
        let beside = self.beside(&name).await?;
        self.prove_the_right(&name, &image, &beside).await?;
        // First what the volume was cloned from: as long as that is left, it can be found by
        // the volume's name.
        let temp = name::beside(&name);
        self.remove(&entry, &temp, beside).await?;
        self.remove(&entry, &name, image).await?;
        self.progress.step(format!("removing {} from the journal", entry.name));
        self.journal.release(entry.uuid, &entry.name).await.map_err(Error::unsettled)?;
        Ok(Deleted::Removed)
    }

    fn pool(&self) -> &Pool {
        self.journal.pool()
    }

    /// Step 1. An image that an earlier call has brought to the trash is seen to its end there.
    async fn find_or_finish(&self, entry: &Entry, name: &str) -> Result<Image> {
        let pool = self.pool();
        let found = match entry.image_id {
            None => pool.named_id(name).await?,
            Some(_) => pool.image_id(name).await?,
        };
        let Some(id) = found.clone().or_else(|| entry.image_id.clone()) else { return Ok(Image::Gone) };
        match (pool.image_header(&id, &[]).await?, found) {
            (Some(header), Some(_)) => Ok(Image::Whole(id, Box::new(header))),
            (Some(header), None) => {
                self.refuse_renamed(&id, name).await?;
                // An earlier call came so far; its purge may have the image open.
                if pool.trash_entry(&id).await?.is_some() && record::is_recorded(self.journal, &id).await? {
                    self.discard(entry, name, &id, Some(&header)).await?;
                    return Ok(Image::Gone);
                }
                Ok(Image::Whole(id, Box::new(header)))
            }
            (None, Some(_)) => Ok(Image::Pieces),
            (None, None) => {
                // The purge may have stopped between the header and the trash entry.
                if pool.trash_entry(&id).await?.is_some() {
                    self.discard(entry, name, &id, None).await?;
                }
                Ok(Image::Gone)
            }
        }
    }

    /// What stands beside a volume that was cloned from another, also when it was flattened, and
    /// also when the volume itself was never made.
    async fn beside(&self, name: &str) -> Result<Image> {
        if self.journal.collection() != Collection::Volumes {
            return Ok(Image::Gone);
        }
        let pool = self.pool();
        let Some(id) = pool.image_id(&name::beside(name)).await? else { return Ok(Image::Gone) };
        Ok(match pool.image_header(&id, &[]).await? {
            Some(header) => Image::Whole(id, Box::new(header)),
            None => Image::Pieces,
        })
    }

    /// Steps 2 and 3, for both images before the first of them goes.
    async fn prove_the_right(&self, name: &str, image: &Image, beside: &Image) -> Result<()> {
        let snapshot = self.journal.collection() == Collection::Snapshots;
        if let Image::Whole(id, header) = image {
            let own = snapshot.then_some(name);
            self.prove_the_right_to(name, id, header, own).await?;
        }
        if let Image::Whole(id, header) = beside {
            self.prove_the_right_to(&name::beside(name), id, header, Some(name)).await?;
        }
        Ok(())
    }

    async fn prove_the_right_to(
        &self,
        name: &str,
        id: &ImageId,
        header: &Header,
        own: Option<&str>,
    ) -> Result<()> {
        let pool = self.pool();
        let (name_text, id_of) = (name.to_owned(), id.clone());
        let mut source = Source { pool: pool.clone(), name: name_text, id: id_of, header: header.clone() };
        for _ in 0..TURNS {
            if own.is_some() || !self.take_back_half_done(&source).await? {
                break;
            }
            let header = pool.image_header(id, &[]).await?;
            source.header = header.ok_or_else(|| {
                let text = format!("image {} vanished while it was looked at", pool.describe(name));
                Error::new(Kind::Unavailable, text)
            })?;
        }
        dependents::refuse(pool, name, id, &source.header, own).await?;
        let unwatched =
            |patience| watch::until_unwatched(pool, name, id, (patience, self.mirror_daemons), self.progress);
        match unwatched(Duration::ZERO).await {
            Err(error) if error.kind == Kind::InUse => {}
            looked => return looked,
        }
        // A controller that flattens the image has it open. Nobody needs its data any more.
        self.purger.flattener().cancel(pool, id).await?;
        unwatched(watch::PATIENCE).await
    }

    async fn refuse_renamed(&self, id: &ImageId, name: &str) -> Result<()> {
        let pool = self.pool();
        match pool.directory_name(id).await? {
            Some(other) if other != name => Err(Error::new(
                Kind::Precondition,
                format!(
                    "image {} (id {}) was renamed to {}: rename it back, or remove it by hand",
                    pool.describe(name),
                    id.as_str(),
                    pool.describe(&other)
                ),
            )),
            _ => Ok(()),
        }
    }

    /// Step 4.
    async fn remove(&self, entry: &Entry, name: &str, image: Image) -> Result<()> {
        match image {
            Image::Whole(id, header) => self.discard(entry, name, &id, Some(&header)).await,
            Image::Pieces => {
                if let Some(id) = &entry.image_id {
                    let (image, id) = (self.pool().describe(name), id.as_str());
                    tracing::warn!(
                        image,
                        id,
                        "the image had lost its header: its names are removed, and its data objects, if there are any, \
                         stay; `rados ls` shows them as rbd_data.{id}.* in the volume's data pool"
                    );
                }
                self.clear(entry, name).await
            }
            Image::Gone => Ok(()),
        }
    }

    async fn discard(&self, entry: &Entry, name: &str, id: &ImageId, header: Option<&Header>) -> Result<()> {
        let pool = self.pool();
        self.progress.step(format!("moving {} to the trash", pool.describe(name)));
        let discard = Discard { journal: self.journal, pool, name, id, header, entry };
        discard.run(self.purger).await.map_err(Error::unsettled)
    }

    /// The pieces of an image that was never finished; its creator may be at work.
    async fn clear(&self, entry: &Entry, name: &str) -> Result<()> {
        let unfinished = !entry.name.is_empty() && entry.image_id.is_none();
        let _making = if unfinished { Some(self.creator.begin(entry.uuid)?) } else { None };
        let reservation = Reservation::of(entry.clone());
        if unfinished && !self.journal.claim(&reservation, self.creator, self.progress).await? {
            let noun = self.journal.collection().noun();
            let text = format!("{noun} {} was finished while it was deleted; call again", entry.name);
            return Err(Error::new(Kind::Busy, text));
        }
        leftover::clear(self.pool(), name, leftover::Origin::Blank, self.progress).await
    }

    /// A snapshot that was given up while its source still has the snapshot that it begins with.
    async fn take_unfinished_snapshot_back(&self, entry: &Entry, name: &str) -> Result<bool> {
        let (Collection::Snapshots, None, Some(source)) =
            (self.journal.collection(), &entry.image_id, &entry.source)
        else {
            return Ok(false);
        };
        let pool = self.pool();
        let Some(id) = pool.image_id(source).await? else { return Ok(false) };
        let Some(header) = pool.image_header(&id, &[]).await? else { return Ok(false) };
        let Some(mark) = user_snapshot(&header, name).cloned() else { return Ok(false) };
        let source = Source { pool: pool.clone(), name: source.clone(), id, header };
        self.take_snapshot_back(&source, &mark, entry, name).await?;
        Ok(true)
    }

    async fn refuse_what_is_not_here_yet(&self, entry: &Entry) -> Result<()> {
        let noun = self.journal.collection().noun();
        let lacks = |fact: String, feature: &str| {
            let text =
                format!("{fact}, and this version of the driver has no {feature} yet: nothing was changed");
            Err(Error::new(Kind::Precondition, text))
        };
        if entry.kms.is_some() {
            return lacks(format!("{noun} {} is encrypted", entry.name), "encryption");
        }
        match (&entry.group, self.journal.collection()) {
            (None, _) => Ok(()),
            (Some(group), Collection::Volumes) => {
                lacks(format!("volume {} belongs to group {group}", entry.name), "volume groups")
            }
            (Some(group), Collection::Snapshots) => self.refuse_member(entry, group).await,
        }
    }
}

async fn exists(pool: &Pool, object: &str) -> Result<bool> {
    match pool.stat("journal stat", object).await {
        Ok(_) => Ok(true),
        Err(error) if error.is(libc::ENOENT) => Ok(false),
        Err(error) => Err(error.into()),
    }
}
