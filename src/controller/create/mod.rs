//! CreateVolume: a name becomes a volume, once, whatever dies in between.
//!
//! 1. Reserve the name in the journal (`journal`): uuid and image name stand.
//! 2. Make the image, under the creator's lock. What an earlier try left of it
//!    is taken over when it is whole, cleared away when it is provably blank.
//! 3. Write the names of claim and PV onto the image.
//! 4. Record the image's id in the journal: the volume is complete. If the
//!    reservation does not stand any more, the image is taken back.
//!
//! A volume is complete when its id is recorded, so a call that finds the id
//! only compares. Until then every error keeps the CO calling
//! ([`Error::unsettled`]), unless everything was taken back.

pub mod clone;
mod compare;
pub mod content;
pub mod given_up;
mod image;
pub mod leftover;
mod refusal;
mod wanted;

use std::time::Duration;

use content::Content;
pub use wanted::Wanted;

use crate::ceph::{Header, ImageId, ImageSpec, Pool};
use crate::controller::delete::dependents;
use crate::controller::delete::purge::Purger;
use crate::controller::recent::Attempt;
use crate::volume::capability::{AccessMode, Capability, NO_SINGLE_WRITER_OF_MANY};
use crate::volume::error::{Error, Kind, Result};
use crate::volume::id::VolumeId;
use crate::volume::image::watch;
use crate::volume::journal::creator::Creator;
use crate::volume::journal::{Entry, Journal, Plan, Reservation};
use crate::volume::operation::Progress;
use crate::volume::request::Volume;
use crate::volume::servable;

/// How often a name is looked up when others change it meanwhile.
const TURNS: usize = 3;

/// Who and what a CreateVolume works with, whatever is asked for.
#[derive(Clone, Copy)]
pub struct Means<'a> {
    /// This process, as the maker of images.
    pub creator: &'a Creator,
    /// Where an image goes that is not to be.
    pub purger: &'a Purger,
    /// The call, as one of those for its name.
    pub attempt: &'a Attempt,
    /// rbd-mirror daemons that may watch a mirrored image (`mirrorDaemonCount`).
    pub mirror_daemons: u32,
}

/// Whether this driver can serve a volume of these capabilities at all.
///
/// # Errors
/// [`Kind::InvalidArgument`] with ceph-csi's text.
pub fn check_capabilities(capabilities: &[Capability], has_content: bool) -> Result<()> {
    for capability in capabilities {
        // Else the volume would be made, and every node would refuse it.
        if capability.mode == AccessMode::MultiNodeSingleWriter {
            return Err(Error::new(Kind::InvalidArgument, NO_SINGLE_WRITER_OF_MANY));
        }
        servable::fs_type(capability)?;
        if !capability.is_block() && capability.multi_node_writer() {
            let text = "rbd: RWX access mode request is only valid for volumes with access type `block`";
            return Err(Error::new(Kind::InvalidArgument, text));
        }
        if capability.read_only() && !has_content {
            let text = "readOnly accessMode is supported only with content source";
            return Err(Error::new(Kind::InvalidArgument, text));
        }
    }
    Ok(())
}

/// Makes the volume, or finds it made.
///
/// # Errors
/// [`Kind::AlreadyExists`] with what differs; what Ceph answers, final only when
/// nothing is left behind.
pub async fn provision(
    wanted: &Wanted,
    journal: &Journal,
    means: Means<'_>,
    cluster_id: &str,
    progress: &Progress,
) -> Result<Volume> {
    let size = wanted.size()?;
    progress.step(format!("reserving {} in pool {}", wanted.name, journal.pool().name()));
    let plan = Plan {
        name: &wanted.name,
        prefix: &wanted.parameters.prefix,
        owner: wanted.parameters.owner.as_deref(),
        source: None,
        origin: wanted.content.origin(),
        creator: means.creator,
        known: means.attempt.begin(),
    };
    // A name that was looked up already and is complete needs no reservation to be compared.
    let mut known = match &wanted.content {
        Content::Gone { complete, .. } => complete.clone(),
        _ => None,
    };
    // Further turns: a volume whose image is gone or going makes room for a new one, and
    // one that another creator finished is looked at again.
    for _ in 0..TURNS {
        let reserving = || format!("cannot reserve {} in pool {}", wanted.name, journal.pool().name());
        let reservation = match known.take() {
            Some(entry) => Reservation::of(entry),
            None => {
                let reserved = journal.reserve(&plan).await.map_err(|error| error.while_doing(reserving()));
                reserved.map_err(|error| refusal::of_journal(error, journal.pool()).unsettled())?
            }
        };
        let pool = image_pool(journal, &reservation).await.map_err(unless_told)?;
        let maker = Maker { wanted, journal, pool: &pool, means, progress, size };
        let image_name = maker.image_name(&reservation.entry);
        let made = match (&reservation.deleting, &reservation.entry.image_id) {
            (Some(id), _) => maker.finish_deletion(&reservation.entry, id).await.map_err(Error::unsettled)?,
            (None, Some(id)) => maker.check_existing(&reservation.entry, id).await.map_err(unless_told)?,
            (None, None) => maker.make(&reservation, &image_name).await?,
        };
        if let Some(capacity) = made {
            let id = VolumeId {
                cluster_id: cluster_id.to_owned(),
                pool_id: pool.id(),
                uuid: reservation.entry.uuid,
            };
            let context = wanted.parameters.context(&image_name, pool.namespace())?;
            return Ok(Volume { id: id.to_string(), capacity, context });
        }
    }
    let text =
        format!("{} was finished or released by others {TURNS} times while it was looked at", wanted.name);
    Err(Error::new(Kind::Unavailable, text))
}

/// A complete volume or snapshot stands behind these errors, which a reply that was lost may
/// have told nobody of: only what a person has to act on is final.
pub fn unless_told(error: Error) -> Error {
    match error.kind {
        Kind::AlreadyExists | Kind::Precondition => error.settled(),
        _ => error.unsettled(),
    }
}

/// A topology volume of an old ceph-csi has its image in another pool than its name.
async fn image_pool(journal: &Journal, reservation: &Reservation) -> Result<Pool> {
    let pool = journal.pool();
    let Some(id) = reservation.other_pool else { return Ok(pool.clone()) };
    let other = pool.connection().pool_by_id(id, pool.namespace()).await?;
    other.ok_or_else(|| {
        Error::new(
            Kind::Precondition,
            format!("the image of {} is in pool {id}, which does not exist", reservation.entry.name),
        )
    })
}

/// One image in the making.
struct Maker<'a> {
    wanted: &'a Wanted,
    journal: &'a Journal,
    pool: &'a Pool,
    means: Means<'a>,
    progress: &'a Progress,
    size: u64,
}

impl Maker<'_> {
    fn image_name(&self, entry: &Entry) -> String {
        entry.image_or(&self.wanted.parameters.prefix)
    }

    fn spec(&self) -> ImageSpec {
        self.wanted.parameters.image(self.size)
    }

    fn metadata(&self) -> Vec<(String, String)> {
        let mut metadata = self.wanted.parameters.metadata.clone();
        if let Some(name) = &self.wanted.cluster_name {
            metadata.push(("csi.ceph.com/cluster/name".to_owned(), name.clone()));
        }
        metadata
    }

    /// A complete volume is compared with what is asked for. `None`: its image
    /// is gone, and the reservation with it.
    async fn check_existing(&self, entry: &Entry, id: &ImageId) -> Result<Option<u64>> {
        self.progress.step(format!("comparing {} with what is asked for", self.image_name(entry)));
        compare::entry(entry, self.wanted, self.pool)?;
        let name = self.image_name(entry);
        let (header, named) = tokio::join!(self.header(id), self.pool.image_id(&name));
        let named = named?;
        // In the trash it keeps its header, and loses its name.
        let header = header?.filter(|_| named.as_ref() == Some(id));
        let Some(header) = header else {
            leftover::forget_vanished(self.journal, self.pool, entry, id).await?;
            return Ok(None);
        };
        compare::image(&header, self.wanted, self.pool, &self.image_name(entry)).await?;
        self.describe(id, &header).await?;
        Ok(Some(header.size))
    }

    /// A DeleteVolume of this name stopped on the image's way to the trash: the rest of it is done,
    /// and the name is free. One that stopped before it began to move the image is left to its
    /// repeat: the caller may never have meant to go on, and the image is whole.
    async fn finish_deletion(&self, entry: &Entry, id: &ImageId) -> Result<Option<u64>> {
        let name = self.image_name(entry);
        self.progress.step(format!("finishing the deletion of {}", self.pool.describe(&name)));
        let (named, moving) = tokio::join!(self.pool.image_id(&name), self.pool.trash_entry(id));
        let named = named?.as_ref() == Some(id);
        if named && moving?.is_none() {
            let text = format!(
                "volume {} is being deleted: its DeleteVolume has stopped, and its repeat goes on with it",
                entry.name
            );
            return Err(Error::new(Kind::Busy, text));
        }
        let header = self.pool.image_header(id, &[]).await?;
        // Whoever opened it since the record was written, or made a snapshot, keeps it.
        if let Some(header) = header.as_ref().filter(|_| named) {
            dependents::refuse(self.pool, &name, id, header, None).await?;
        }
        let patience = (Duration::ZERO, self.means.mirror_daemons);
        watch::until_unwatched(self.pool, &name, id, patience, self.progress).await?;
        self.discard(entry, &name, id, header.as_ref()).await?;
        self.journal.release(entry.uuid, &entry.name).await?;
        Ok(None)
    }

    async fn header(&self, id: &ImageId) -> Result<Option<Header>> {
        let metadata = self.metadata();
        let keys: Vec<&str> = metadata.iter().map(|(key, _)| key.as_str()).collect();
        Ok(self.pool.image_header(id, &keys).await?)
    }

    /// Names that are not on the image yet are written; ceph-csi may have stopped before it did.
    async fn describe(&self, id: &ImageId, header: &Header) -> Result<()> {
        let missing: Vec<_> =
            self.metadata().into_iter().filter(|(key, _)| !header.metadata.contains_key(key)).collect();
        if !missing.is_empty() {
            self.pool.set_metadata(id, &missing).await?;
        }
        Ok(())
    }

    /// Steps 2 to 4 for a reservation without an image id.
    /// `None`: another creator finished or released it.
    async fn make(&self, reservation: &Reservation, name: &str) -> Result<Option<u64>> {
        self.make_steps(reservation, name).await.map_err(|error| {
            if error.kind == Kind::AlreadyExists { error.settled() } else { error.unsettled() }
        })
    }

    async fn make_steps(&self, reservation: &Reservation, name: &str) -> Result<Option<u64>> {
        let entry = &reservation.entry;
        compare::entry(entry, self.wanted, self.pool)?;
        let _making = self.means.creator.begin(entry.uuid)?;
        if !self.journal.claim(reservation, self.means.creator, self.progress).await? {
            return Ok(None);
        }
        self.progress.step(format!("creating image {}", self.pool.describe(name)));
        let (id, size) = self.image(reservation, name).await?;
        self.progress.step(format!("recording {} as complete", self.pool.describe(name)));
        if self.journal.complete(entry, &id, Some(self.means.creator)).await?
            && (reservation.locked || self.journal.stands(entry).await?)
        {
            return Ok(Some(size));
        }
        self.take_back(entry, name, &id).await
    }

    /// The volume was deleted while its image was being made: the image goes too.
    async fn take_back(&self, entry: &Entry, name: &str, id: &ImageId) -> Result<Option<u64>> {
        match self.journal.entry(entry.uuid).await? {
            // Another creator recorded the same image: it is complete.
            Some(current) if current.image_id.as_ref() == Some(id) => return Ok(None),
            // The reservation stands and the lock is another's: so is what has the name now.
            Some(current) if current.name == entry.name => {
                let text = format!("another client took over the creation of {}", entry.name);
                return Err(Error::new(Kind::Busy, text));
            }
            _ => {}
        }
        let header = self.pool.image_header(id, &[]).await?;
        self.discard(entry, name, id, header.as_ref()).await?;
        let text =
            format!("volume {} was deleted while it was being created; its image was taken back", entry.name);
        Err(Error::new(Kind::Unavailable, text))
    }
}
