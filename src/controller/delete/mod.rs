//! DeleteVolume: the journal entry outlives the image, never the reverse.
//!
//! 1. Read the journal entry; find the image by its name, else by its recorded id.
//! 2. Prove the right to delete: nobody has it open, nothing depends on it, and
//!    it is nothing that this version cannot take apart.
//! 3. Record it for its purge, then move it to the trash.
//! 4. Take the reservation back: directory key, then uuid object.
//! 5. Answer. The purge goes on in the background (`purge`).
//!
//! "It is gone already" is believed only when the cluster itself said so of
//! journal, image and trash.

pub mod purge;

use uuid::Uuid;

use crate::ceph::{Features, Header, ImageId, Pool};
use crate::controller::create::leftover;
use crate::volume::error::{Error, Kind, Result};
use crate::volume::image::watch;
use crate::volume::journal::creator::Creator;
use crate::volume::journal::{Entry, Journal, Reservation};
use crate::volume::operation::Progress;
use purge::Purger;

/// How a deletion ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deleted {
    /// The volume was there and is gone now.
    Removed,
    /// There was nothing to delete.
    Absent,
}

/// The prefix of images whose journal entry has no name (ceph-csi's default).
const DEFAULT_PREFIX: &str = "csi-vol-";

/// `RBD_OPERATION_FEATURE_GROUP`.
const IN_GROUP: u64 = 4;

/// One deletion.
pub struct Deletion<'a> {
    /// The journal of the volume's pool.
    pub journal: &'a Journal,
    /// Who clears away the pieces of an unfinished image.
    pub creator: &'a Creator,
    /// Where the image goes after the answer.
    pub purger: &'a Purger,
    /// rbd-mirror daemons that may watch a mirrored image (`mirrorDaemonCount`).
    pub mirror_daemons: u32,
    /// Tells the step.
    pub progress: &'a Progress,
}

impl Deletion<'_> {
    /// Deletes the volume of this uuid.
    ///
    /// # Errors
    /// [`Kind::InUse`] naming who has the image open; [`Kind::Precondition`] with
    /// what depends on it or what this version lacks; what Ceph answers.
    pub async fn run(&self, uuid: Uuid) -> Result<Deleted> {
        self.progress.step(format!("reading the journal entry of {uuid}"));
        match self.journal.entry(uuid).await? {
            Some(entry) => self.of_entry(entry).await,
            None => self.without_entry(uuid).await,
        }
    }

    async fn of_entry(&self, entry: Entry) -> Result<Deleted> {
        refuse_what_is_not_here_yet(&entry)?;
        let name = entry.image_name.clone().unwrap_or_else(|| format!("{DEFAULT_PREFIX}{}", entry.uuid));
        self.progress.step(format!("looking at image {}", self.pool().describe(&name)));
        match self.find_or_finish(&entry, &name).await? {
            Image::Whole(id, header) => self.remove(&entry, &name, &id, &header).await?,
            Image::Pieces => self.clear(&entry, &name).await?,
            Image::Gone => {}
        }
        self.progress.step(format!("removing {} from the journal", entry.name));
        self.journal.release(entry.uuid, &entry.name).await.map_err(Error::unsettled)?;
        Ok(Deleted::Removed)
    }

    /// No entry: either all is gone, or the journal was damaged. An image or a
    /// trash entry of that uuid is not deleted on a guess, but it is not denied either.
    async fn without_entry(&self, uuid: Uuid) -> Result<Deleted> {
        let pool = self.pool();
        let name = format!("{DEFAULT_PREFIX}{uuid}");
        if pool.image_id(&name).await?.is_some() || pool.directory_id(&name).await?.is_some() {
            return Err(Error::new(
                Kind::Precondition,
                format!(
                    "image {} exists but its journal entry {} does not: look at the image, then remove it by hand \
                     (`rbd rm`) or restore the entry",
                    pool.describe(&name),
                    self.journal.object(uuid)
                ),
            ));
        }
        if exists(pool, &format!("csi.snap.{uuid}")).await? {
            return Err(lacks(&format!("{uuid} is a snapshot"), "snapshots"));
        }
        for (id, image) in pool.trash_find(&uuid.to_string()).await? {
            // Its purge may have ended since the list was read.
            if !purge::is_recorded(self.journal, &id).await? && pool.trash_entry(&id).await?.is_some() {
                return Err(Error::new(
                    Kind::Precondition,
                    format!(
                        "image {image} (id {}) is in the trash of pool {} without a journal entry: \
                         `rbd trash rm` or `rbd trash restore` it",
                        id.as_str(),
                        pool.name()
                    ),
                ));
            }
            self.purger.start(self.journal, id);
        }
        Ok(Deleted::Absent)
    }

    fn pool(&self) -> &Pool {
        self.journal.pool()
    }

    async fn find_or_finish(&self, entry: &Entry, name: &str) -> Result<Image> {
        let pool = self.pool();
        let mut found = pool.image_id(name).await?;
        if found.is_none() && entry.image_id.is_none() {
            found = pool.directory_id(name).await?;
        }
        let Some(id) = found.clone().or_else(|| entry.image_id.clone()) else { return Ok(Image::Gone) };
        let header = pool.image_header(&id, &[]).await?;
        match header {
            Some(header) => {
                if found.is_none() {
                    self.refuse_renamed(&id, name).await?;
                    // An earlier call came so far; its purge may have the image open.
                    if pool.trash_entry(&id).await?.is_some() && purge::is_recorded(self.journal, &id).await?
                    {
                        pool.trash_move(name, &id).await?;
                        self.purger.start(self.journal, id);
                        return Ok(Image::Gone);
                    }
                }
                Ok(Image::Whole(id, Box::new(header)))
            }
            None if found.is_some() => Ok(Image::Pieces),
            None => {
                // The purge may have stopped between the header and the trash entry.
                if pool.trash_entry(&id).await?.is_some() {
                    purge::record(self.journal, &id, name, entry).await?;
                    self.purger.start(self.journal, id);
                }
                Ok(Image::Gone)
            }
        }
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

    async fn remove(&self, entry: &Entry, name: &str, id: &ImageId, header: &Header) -> Result<()> {
        let pool = self.pool();
        refuse_dependents(pool, name, id, header).await?;
        watch::until_unwatched(pool, name, id, (watch::PATIENCE, self.mirror_daemons), self.progress).await?;
        self.progress.step(format!("moving {} to the trash", pool.describe(name)));
        purge::record(self.journal, id, name, entry).await.map_err(Error::unsettled)?;
        pool.trash_move(name, id).await.map_err(|error| Error::from(error).unsettled())?;
        self.purger.start(self.journal, id.clone());
        Ok(())
    }

    /// The pieces of an image that was never finished; its creator may be at work.
    async fn clear(&self, entry: &Entry, name: &str) -> Result<()> {
        let reservation = Reservation {
            entry: entry.clone(),
            other_pool: None,
            locked: false,
            fresh: false,
            deleting: None,
        };
        let unfinished = !entry.name.is_empty() && entry.image_id.is_none();
        let _making = if unfinished { Some(self.creator.begin(entry.uuid)?) } else { None };
        if unfinished && !self.journal.claim(&reservation, self.creator, self.progress).await? {
            let text = format!("volume {} was finished while it was deleted; call again", entry.name);
            return Err(Error::new(Kind::Busy, text));
        }
        leftover::clear(self.pool(), name, leftover::Origin::Blank, self.progress).await
    }
}

/// What is left of a volume's image.
enum Image {
    Whole(ImageId, Box<Header>),
    Pieces,
    Gone,
}

fn refuse_what_is_not_here_yet(entry: &Entry) -> Result<()> {
    if entry.kms.is_some() {
        return Err(lacks(&format!("volume {} is encrypted", entry.name), "encryption"));
    }
    if let Some(group) = &entry.group {
        return Err(lacks(&format!("volume {} belongs to group {group}", entry.name), "volume groups"));
    }
    Ok(())
}

fn lacks(fact: &str, feature: &str) -> Error {
    let text = format!("{fact}, and this version of the driver has no {feature} yet: nothing was changed");
    Error::new(Kind::Precondition, text)
}

/// Refuses to delete an image on which something depends that its deletion would take along.
///
/// # Errors
/// [`Kind::Precondition`] with what depends on it; what Ceph answers.
pub async fn refuse_dependents(pool: &Pool, name: &str, id: &ImageId, header: &Header) -> Result<()> {
    let image = pool.describe(name);
    if !header.snapshots.is_empty() {
        let children = pool.children(id).await?;
        let snapshots: Vec<_> = header.snapshots.iter().map(|snapshot| snapshot.name.as_str()).collect();
        let mut text =
            format!("image {image} has {} snapshot(s) ({})", snapshots.len(), snapshots.join(", "));
        if !children.is_empty() {
            text.push_str(&format!(", and on them depend: {}", children.join(", ")));
        }
        text.push_str("; delete what depends on it first, nothing was changed");
        return Err(Error::new(Kind::Precondition, text));
    }
    if header.parent.is_some() {
        return Err(lacks(&format!("image {image} is a clone"), "clones"));
    }
    // What ceph-csi keeps beside a clone until it is deleted, also when it was flattened.
    if pool.image_id(&format!("{name}-temp")).await?.is_some() {
        return Err(lacks(
            &format!("image {image} was made as a clone, with {name}-temp beside it"),
            "clones",
        ));
    }
    // Before anything is recorded: the trash would refuse both.
    if header.op_features & IN_GROUP != 0 {
        return Err(lacks(&format!("image {image} is in an rbd group"), "volume groups"));
    }
    if header.features.contains(Features::MIGRATING) {
        let text =
            format!("image {image} is being migrated: end that first (`rbd migration`), nothing was changed");
        return Err(Error::new(Kind::Precondition, text));
    }
    Ok(())
}

async fn exists(pool: &Pool, object: &str) -> Result<bool> {
    match pool.stat("journal stat", object).await {
        Ok(_) => Ok(true),
        Err(error) if error.is(libc::ENOENT) => Ok(false),
        Err(error) => Err(error.into()),
    }
}
