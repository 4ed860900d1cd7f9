//! The steps of a CreateSnapshot.

use super::point::{self, Made, Names, Point, Source, user_snapshot};
use crate::ceph::{ImageSpec, Pool};
use crate::controller::Controller;
use crate::controller::change::depth;
use crate::controller::create::clone;
use crate::controller::create::content::{Lookup, require_layering};
use crate::controller::create::given_up::GivenUp;
use crate::controller::create::{leftover, unless_told};
use crate::controller::reach::Reach;
use crate::controller::recent::Attempt;
use crate::volume::error::{Error, Kind, Result};
use crate::volume::id::VolumeId;
use crate::volume::journal::{Collection, Entry, Journal, Plan, Reservation};
use crate::volume::operation::Progress;
use crate::volume::parameters::snapshot::SnapshotParameters;
use crate::volume::request::{CreateSnapshotRequest, Snapshot};

/// How often a name is looked up when others change it meanwhile.
const TURNS: usize = 3;

/// Makes the snapshot, or finds it made.
///
/// # Errors
/// As [`Controller::create_snapshot`].
pub async fn create(
    controller: &Controller,
    request: &CreateSnapshotRequest,
    source: &VolumeId,
    parameters: &SnapshotParameters,
    attempt: &Attempt,
    progress: &Progress,
) -> Result<Snapshot> {
    progress.step(format!("connecting to cluster {}", source.cluster_id));
    let resolver = &controller.resolver;
    let (cluster, credentials, connection) =
        resolver.connect_for(&source.cluster_id, &request.secrets, Kind::Precondition).await?;
    let absent = || Error::new(Kind::NotFound, format!("source Volume ID {source} not found"));
    let pool = connection.pool_by_id(source.pool_id, &cluster.rados_namespace).await?.ok_or_else(absent)?;
    let reach = Reach::new(&resolver.connections, &cluster, &credentials);
    let journal = controller.open_journal(&pool, Collection::Snapshots, &reach);
    let lookup = Lookup {
        config: &resolver.config,
        cluster: &cluster,
        connection: &connection,
        instance: &resolver.instance,
    };
    let making = Making {
        controller,
        request,
        source,
        parameters,
        journal: &journal,
        reach: &reach,
        attempt,
        progress,
    };
    making
        .run(&lookup)
        .await
        .map_err(|error| crate::controller::with_rights(error, credentials.user(), pool.name()))
}

/// One snapshot in the making.
struct Making<'a> {
    controller: &'a Controller,
    request: &'a CreateSnapshotRequest,
    source: &'a VolumeId,
    parameters: &'a SnapshotParameters,
    journal: &'a Journal,
    reach: &'a Reach,
    attempt: &'a Attempt,
    progress: &'a Progress,
}

impl Making<'_> {
    async fn run(&self, lookup: &Lookup<'_>) -> Result<Snapshot> {
        let name = &self.request.name;
        self.progress.step(format!("looking up snapshot {name}"));
        if let Some(entry) = self.journal.find(name).await?.filter(|entry| entry.image_id.is_some())
            && let Some(found) = self.existing(&entry).await.map_err(unless_told)?
        {
            return Ok(found);
        }
        let handle = self.source.to_string();
        let image = match lookup.image(Collection::Volumes, &handle).await {
            Ok((_, image)) => image,
            Err(error) if error.kind == Kind::NotFound => {
                // The volume went while its snapshot was being made: nobody can ever finish it.
                self.give_up().await.map_err(Error::unsettled)?;
                let text = format!("source Volume ID {handle} not found");
                return Err(Error::new(Kind::NotFound, text).settled());
            }
            Err(error) => return Err(error),
        };
        require_layering(&handle, &image)?;
        let look = depth::Look { controller: self.controller, reach: self.reach, progress: self.progress };
        let deep = look.before_snapshot(&image).await?;
        let made = self.reserved(&image).await?;
        self.controller.flatten_later(self.reach, deep).await;
        Ok(made)
    }

    async fn reserved(&self, image: &Source) -> Result<Snapshot> {
        let name = &self.request.name;
        let known = self.attempt.begin();
        for _ in 0..TURNS {
            let plan = Plan {
                name,
                prefix: &self.parameters.prefix,
                owner: None,
                source: Some(&image.name),
                origin: None,
                creator: &self.controller.creator,
                known,
            };
            let reserving = || format!("cannot reserve snapshot {name} in pool {}", self.pool().name());
            let reservation = self
                .journal
                .reserve(&plan)
                .await
                .map_err(|error| error.while_doing(reserving()).unsettled())?;
            if reservation.deleting.is_some() {
                let text = format!("snapshot {name} is being deleted; call again");
                return Err(Error::new(Kind::Busy, text));
            }
            let made = match &reservation.entry.image_id {
                Some(_) => self.existing(&reservation.entry).await.map_err(unless_told)?,
                None => self.make(&reservation, image).await?,
            };
            if let Some(made) = made {
                return Ok(made);
            }
        }
        let text = format!("{name} was finished or released by others {TURNS} times while it was looked at");
        Err(Error::new(Kind::Unavailable, text))
    }

    /// Takes back what an earlier try has left of a snapshot of this source.
    async fn give_up(&self) -> Result<()> {
        let given_up = GivenUp {
            name: &self.request.name,
            journal: self.journal,
            creator: &self.controller.creator,
            purger: &self.controller.purger,
            progress: self.progress,
        };
        given_up.take_back(|entry| self.compare(entry).is_ok(), |entry| vec![self.image_name(entry)]).await
    }

    fn pool(&self) -> &Pool {
        self.journal.pool()
    }

    fn image_name(&self, entry: &Entry) -> String {
        entry.image_or(&self.parameters.prefix)
    }

    /// A complete snapshot, if it is of the same source. `None`: its image is gone, and the
    /// reservation with it.
    async fn existing(&self, entry: &Entry) -> Result<Option<Snapshot>> {
        self.compare(entry)?;
        let Some(id) = &entry.image_id else { return Ok(None) };
        let name = self.image_name(entry);
        let keys: Vec<&str> = self.parameters.metadata.iter().map(|(key, _)| key.as_str()).collect();
        let (header, named) = tokio::join!(self.pool().image_header(id, &keys), self.pool().image_id(&name));
        let named = named?;
        let Some(header) = header?.filter(|_| named.as_ref() == Some(id)) else {
            leftover::forget_vanished(self.journal, self.pool(), entry, id).await?;
            return Ok(None);
        };
        let own = user_snapshot(&header, &name).ok_or_else(|| {
            let text = format!(
                "snapshot {} exists, but its image {} has lost the RBD snapshot of that name",
                entry.name,
                self.pool().describe(&name)
            );
            Error::new(Kind::Precondition, text)
        })?;
        let missing: Vec<_> = self
            .parameters
            .metadata
            .iter()
            .filter(|(key, _)| !header.metadata.contains_key(key))
            .cloned()
            .collect();
        if !missing.is_empty() {
            self.pool().set_metadata(id, &missing).await?;
        }
        Ok(Some(self.answer(entry, own)))
    }

    /// The names of images end with the uuid that the handle has, whatever made them.
    fn compare(&self, entry: &Entry) -> Result<()> {
        let uuid = self.source.uuid.to_string();
        match &entry.source {
            Some(source) if !source.ends_with(&uuid) => {
                let text = format!(
                    "snapshot {} exists and differs: it was taken of image {source}, not of volume {}",
                    entry.name, self.source
                );
                Err(Error::new(Kind::AlreadyExists, text))
            }
            _ if entry.kms.is_some() => {
                let text = format!(
                    "snapshot {} is encrypted, and this version of the driver has no encryption yet: nothing was changed",
                    entry.name
                );
                Err(Error::new(Kind::Precondition, text))
            }
            _ => Ok(()),
        }
    }

    fn answer(&self, entry: &Entry, own: &crate::ceph::Snapshot) -> Snapshot {
        let id = VolumeId { uuid: entry.uuid, ..self.source.clone() };
        Snapshot {
            id: id.to_string(),
            source_volume_id: self.request.source_volume_id.clone(),
            size: own.size,
            created: own.created,
        }
    }

    /// Steps 4 to 6. `None`: another creator finished or released it.
    async fn make(&self, reservation: &Reservation, image: &Source) -> Result<Option<Snapshot>> {
        self.compare(&reservation.entry).map_err(Error::settled)?;
        let creator = &self.controller.creator;
        let _making = creator.begin(reservation.entry.uuid)?;
        let claimed = self.journal.claim(reservation, creator, self.progress).await;
        if !claimed.map_err(Error::unsettled)? {
            return Ok(None);
        }
        let name = self.image_name(&reservation.entry);
        let spec = self.spec(image).await.map_err(Error::unsettled)?;
        let point = Point {
            source: image,
            pool: self.pool(),
            names: Names::of_snapshot(&name),
            spec,
            purger: &self.controller.purger,
            progress: self.progress,
        };
        match self.finish(reservation, &point).await {
            Err(error) if error.is_refusal() => Err(self.undo(reservation, &point, error).await.unsettled()),
            made => made.map_err(Error::unsettled),
        }
    }

    async fn finish(&self, reservation: &Reservation, point: &Point<'_>) -> Result<Option<Snapshot>> {
        let entry = &reservation.entry;
        let Made { id, own } = point.make(reservation.fresh).await?;
        clone::describe(self.pool(), &id, &self.parameters.metadata).await?;
        self.progress.step(format!("recording {} as complete", self.pool().describe(&point.names.image)));
        if self.journal.complete(entry, &id, Some(&self.controller.creator)).await?
            && (reservation.locked || self.journal.stands(entry).await?)
        {
            return Ok(Some(self.answer(entry, &own)));
        }
        match self.journal.entry(entry.uuid).await? {
            // Another creator recorded the same image: it is complete.
            Some(current) if current.image_id.as_ref() == Some(&id) => return Ok(None),
            Some(current) if current.name == entry.name => {
                let text = format!("another client took over the creation of snapshot {}", entry.name);
                return Err(Error::new(Kind::Busy, text));
            }
            _ => {}
        }
        point.roll_back(self.journal, entry).await?;
        let text = format!("snapshot {} was deleted while it was being made; it was taken back", entry.name);
        Err(Error::new(Kind::Unavailable, text))
    }

    /// The source's data pool and object size; features that a kernel can use.
    async fn spec(&self, image: &Source) -> Result<ImageSpec> {
        let data_pool = match image.header.data_pool_id {
            Some(id) => {
                let pool = image.pool.connection().pool_by_id(id, image.pool.namespace()).await?;
                pool.map(|pool| pool.name().to_owned())
            }
            None => None,
        };
        let features = Some(point::features(image.header.features));
        Ok(ImageSpec { features, data_pool, ..ImageSpec::default() })
    }

    /// What the cluster refuses for good is undone, so that the answer may be final.
    async fn undo(&self, reservation: &Reservation, point: &Point<'_>, error: Error) -> Error {
        let entry = &reservation.entry;
        let undone: Result<()> = async {
            point.roll_back(self.journal, entry).await?;
            self.journal.retract(entry.uuid, &entry.name).await
        }
        .await;
        match undone {
            Ok(()) => error.settled(),
            Err(undo) => {
                tracing::warn!(%undo, snapshot = entry.name, "could not take back a snapshot that was refused");
                error
            }
        }
    }
}
