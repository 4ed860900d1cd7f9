//! The image of a new volume: empty, or a clone.
//!
//! Lives here: what is done once the name is reserved and the creator's lock is ours, and how
//! it is undone when the cluster refuses it for good.

use super::clone::{self, Parent};
use super::content::Content;
use super::leftover::{self, Origin};
use super::{Maker, compare, refusal};
use crate::ceph::{CephError, Header, ImageId, ImageSpec};
use crate::controller::change::grow::{Growing, grow};
use crate::controller::delete::discard::Discard;
use crate::controller::snapshot::point::{self, Names, Point, Source, user_snapshot};
use crate::volume::error::{Error, Kind, Result};
use crate::volume::journal::{Entry, Reservation};

impl Maker<'_> {
    /// The image, made now or taken over from an earlier try, with its names on it.
    pub(super) async fn image(&self, reservation: &Reservation, name: &str) -> Result<(ImageId, u64)> {
        let made = match &self.wanted.content {
            Content::Blank => return self.blank_image(reservation, name).await,
            Content::Gone { origin, .. } => {
                return Err(Error::new(Kind::NotFound, format!("source {origin} does not exist")));
            }
            Content::Snapshot { parent, .. } => self.clone_image(reservation, name, parent).await,
            Content::Volume { image, .. } => self.clone_volume(reservation, name, image).await,
        };
        match made {
            Err(error) if error.is_refusal() => Err(self.undo_clone(reservation, name, error).await),
            made => made,
        }
    }

    /// A clone of a volume as it is now, by way of an image that keeps the moment.
    async fn clone_volume(
        &self,
        reservation: &Reservation,
        name: &str,
        source: &Source,
    ) -> Result<(ImageId, u64)> {
        let point = self.point(source, name);
        let made = point.make(reservation.fresh).await?;
        clone::describe(self.pool, &made.id, &[]).await?;
        let parent = Parent {
            pool: self.pool.clone(),
            image: point.names.image,
            id: made.id,
            snapshot: made.own.name,
            snap_id: made.own.id,
        };
        self.clone_image(reservation, name, &parent).await
    }

    /// A clone of a snapshot, made now or taken over, as large as it is asked for.
    async fn clone_image(
        &self,
        reservation: &Reservation,
        name: &str,
        parent: &Parent,
    ) -> Result<(ImageId, u64)> {
        let spec = self.spec();
        let found = if reservation.fresh {
            None
        } else {
            let origin = Origin::Clone(std::slice::from_ref(parent));
            leftover::take_over_or_clear(self.pool, name, &spec, origin, self.progress).await?
        };
        self.progress.step(format!("cloning image {}", self.pool.describe(name)));
        let (id, header) = match found {
            Some(found) => found,
            None => clone::make(self.pool, name, parent, &spec).await?,
        };
        let flattener = self.means.purger.flattener();
        flattener.keep_off(self.pool, &header, self.progress).await?;
        let entry = Some((self.journal, reservation.entry.uuid));
        let growing = Growing { pool: self.pool, name, id: &id, header: &header, entry };
        let size = grow(growing, self.size, self.progress).await?;
        let size = size.ok_or_else(|| self.vanished(name, "cloned"))?;
        compare::image(&Header { size, ..header }, self.wanted, self.pool, name).await?;
        clone::describe(self.pool, &id, &self.metadata()).await?;
        Ok((id, size))
    }

    /// What keeps the moment of the volume that is cloned.
    fn point<'b>(&'b self, source: &'b Source, name: &str) -> Point<'b> {
        let spec = self.spec();
        let features = spec.features.unwrap_or(source.header.features);
        let spec = ImageSpec { features: Some(point::features(features)), ..spec };
        let names = Names::beside_clone(name);
        Point { source, pool: self.pool, names, spec, purger: self.means.purger, progress: self.progress }
    }

    /// A clone that the cluster refuses for good is undone, so that the answer may be final:
    /// the clone, what keeps the moment, then the reservation.
    async fn undo_clone(&self, reservation: &Reservation, name: &str, error: Error) -> Error {
        let undone: Result<()> = async {
            let parent = self.made_parent(name).await?;
            let origin =
                parent.as_ref().map_or(Origin::Blank, |parent| Origin::Clone(std::slice::from_ref(parent)));
            let spec = self.spec();
            let whole = leftover::take_over_or_clear(self.pool, name, &spec, origin, self.progress).await?;
            if let Some((id, header)) = whole {
                self.discard(&reservation.entry, name, &id, Some(&header)).await?;
            }
            if let Content::Volume { image, .. } = &self.wanted.content {
                let point = self.point(image, name);
                point.roll_back(self.journal, &reservation.entry).await?;
            }
            self.journal.retract(reservation.entry.uuid, &reservation.entry.name).await
        }
        .await;
        match undone {
            Ok(()) => error.settled(),
            Err(undo) => {
                tracing::warn!(%undo, image = name, "could not take back a clone that was refused");
                error
            }
        }
    }

    /// Sends an image away that is not to be.
    pub(super) async fn discard(
        &self,
        entry: &Entry,
        name: &str,
        id: &ImageId,
        header: Option<&Header>,
    ) -> Result<()> {
        let discard = Discard { journal: self.journal, pool: self.pool, name, id, header, entry };
        discard.run(self.means.purger).await
    }

    /// What the clone of that name was made from, as far as it was made.
    async fn made_parent(&self, name: &str) -> Result<Option<Parent>> {
        match &self.wanted.content {
            Content::Blank | Content::Gone { .. } => Ok(None),
            Content::Snapshot { parent, .. } => Ok(Some(parent.clone())),
            Content::Volume { .. } => {
                let Names { image, own, .. } = Names::beside_clone(name);
                let Some(id) = self.pool.image_id(&image).await? else { return Ok(None) };
                let Some(header) = self.pool.image_header(&id, &[]).await? else { return Ok(None) };
                let parent =
                    |snap_id| Parent { pool: self.pool.clone(), image, id, snapshot: own.clone(), snap_id };
                Ok(user_snapshot(&header, &own).map(|own| own.id).map(parent))
            }
        }
    }

    /// An empty image, made now or taken over.
    async fn blank_image(&self, reservation: &Reservation, name: &str) -> Result<(ImageId, u64)> {
        if !reservation.fresh
            && let Some((id, header)) =
                leftover::take_over_or_clear(self.pool, name, &self.spec(), Origin::Blank, self.progress)
                    .await?
        {
            compare::image(&header, self.wanted, self.pool, name).await?;
            self.pool.set_metadata(&id, &self.metadata()).await?;
            return Ok((id, header.size));
        }
        if let Err(error) = self.create(name).await {
            return Err(self.create_failed(reservation, name, error).await);
        }
        let id = self.pool.image_id(name).await?.ok_or_else(|| self.vanished(name, "created"))?;
        self.pool.set_metadata(&id, &self.metadata()).await?;
        Ok((id, self.size))
    }

    fn vanished(&self, name: &str, after: &str) -> Error {
        let text = format!("image {} vanished right after it was {after}", self.pool.describe(name));
        Error::new(Kind::Unavailable, text)
    }

    /// librbd draws image ids of 32 random bits a client; one that another image of the
    /// pool has is refused with EBADF by the directory (cls rbd `dir_add_image`) before
    /// anything is written, and another draw helps. Seen once in some 20,000 images.
    async fn create(&self, name: &str) -> crate::ceph::Result<()> {
        match self.pool.create_image(name, &self.spec()).await {
            Err(error) if error.is(libc::EBADF) && self.pool.directory_id(name).await?.is_none() => {
                self.pool.create_image(name, &self.spec()).await
            }
            created => created,
        }
    }

    /// A create that the cluster refuses for good is undone, so that the answer
    /// may be final: the pieces of the image, then the reservation.
    async fn create_failed(&self, reservation: &Reservation, name: &str, error: CephError) -> Error {
        let error = refusal::of_create(error, &self.spec(), self.pool, name).await;
        if !error.is_refusal() {
            return error;
        }
        let undone: Result<()> = async {
            leftover::clear(self.pool, name, Origin::Blank, self.progress).await?;
            self.journal.retract(reservation.entry.uuid, &reservation.entry.name).await
        }
        .await;
        match undone {
            // `make` turns every other kind into one that keeps the CO calling.
            Ok(()) => error.settled(),
            Err(undo) => {
                tracing::warn!(%undo, image = name, "could not take back an image that could not be created");
                error
            }
        }
    }
}
