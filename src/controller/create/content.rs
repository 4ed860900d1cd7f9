//! What a new volume is made of: nothing, a snapshot, or another volume.
//!
//! Lives here: the way from the source's handle to its image, and whether it can be a source.
//! Nothing is changed.

use super::clone::Parent;
use crate::ceph::{Connection, Features, Header, ImageId, Pool};
use crate::config::{ClusterEntry, ConfigFiles};
use crate::controller::snapshot::point::{Source, user_snapshot};
use crate::volume::error::{Error, Kind, Result};
use crate::volume::id::{VolumeId, canonical};
use crate::volume::journal::{Collection, Entry, Journal, Origin};

/// Metadata that say that an image is encrypted, now and in old releases (ceph-csi).
pub const ENCRYPTED: [&str; 2] = ["rbd.csi.ceph.com/encrypted", ".rbd.csi.ceph.com/encrypted"];

/// What a volume is made of.
#[derive(Debug, Clone)]
pub enum Content {
    /// Nothing: it is empty.
    Blank,
    /// A snapshot of this driver or of ceph-csi.
    Snapshot {
        /// As the journal records it.
        origin: Origin,
        /// What is cloned.
        parent: Parent,
        /// The image of the snapshot.
        image: Source,
        /// Its size in bytes.
        size: u64,
    },
    /// A source that need not exist any more: enough to compare a volume that does.
    Gone {
        /// As the journal records it.
        origin: Origin,
        /// The entry of the complete volume.
        complete: Option<Entry>,
    },
    /// Another volume as it is now.
    Volume {
        /// As the journal records it.
        origin: Origin,
        /// The volume's image.
        image: Source,
    },
}

impl Content {
    /// The least size of a volume of it, in bytes.
    pub fn size(&self) -> u64 {
        match self {
            Self::Blank | Self::Gone { .. } => 0,
            Self::Snapshot { size, .. } => *size,
            Self::Volume { image, .. } => image.header.size,
        }
    }

    /// What the journal records of it.
    pub fn origin(&self) -> Option<&Origin> {
        match self {
            Self::Blank => None,
            Self::Snapshot { origin, .. } | Self::Volume { origin, .. } | Self::Gone { origin, .. } => {
                Some(origin)
            }
        }
    }
}

/// Looks sources up in the cluster in which the new volume is to be.
pub struct Lookup<'a> {
    /// config.json.
    pub config: &'a ConfigFiles,
    /// The entry of the new volume's cluster.
    pub cluster: &'a ClusterEntry,
    /// The connection to it.
    pub connection: &'a Connection,
    /// `--instanceid`.
    pub instance: &'a str,
}

impl Lookup<'_> {
    /// The content that a request names.
    ///
    /// # Errors
    /// [`Kind::NotFound`] when there is no such source; [`Kind::InvalidArgument`] for one that
    /// cannot be cloned or is in another cluster; [`Kind::Precondition`] for an encrypted one;
    /// what Ceph answers.
    pub async fn content(&self, origin: Option<&Origin>) -> Result<Content> {
        match origin {
            None => Ok(Content::Blank),
            Some(Origin::Volume(handle)) => {
                let (_, image) = self.image(Collection::Volumes, handle).await?;
                require_layering(handle, &image)?;
                Ok(Content::Volume { origin: Origin::Volume(canonical(handle)), image })
            }
            Some(Origin::Snapshot(handle)) => {
                let (_, image) = self.image(Collection::Snapshots, handle).await?;
                let snapshot = user_snapshot(&image.header, &image.name).ok_or_else(|| {
                    let text = format!(
                        "snapshot {handle}: its image {} has lost the RBD snapshot {}, which volumes are made of",
                        image.pool.describe(&image.name),
                        image.name
                    );
                    Error::new(Kind::Precondition, text)
                })?;
                let parent = Parent {
                    pool: image.pool.clone(),
                    image: image.name.clone(),
                    id: image.id.clone(),
                    snapshot: snapshot.name.clone(),
                    snap_id: snapshot.id,
                };
                let (origin, size) = (Origin::Snapshot(canonical(handle)), snapshot.size);
                Ok(Content::Snapshot { origin, parent, image, size })
            }
        }
    }

    /// The journal's entry and the image of a volume or snapshot that is complete.
    ///
    /// # Errors
    /// As [`Lookup::content`].
    pub async fn image(&self, collection: Collection, handle: &str) -> Result<(Entry, Source)> {
        let noun = collection.noun();
        let absent = || Error::new(Kind::NotFound, format!("source {noun} {handle} does not exist"));
        let id = VolumeId::parse(handle).ok_or_else(absent)?;
        let namespace = self.namespace(&id.cluster_id, handle)?;
        let pool = self.connection.pool_by_id(id.pool_id, &namespace).await?.ok_or_else(absent)?;
        let journal = Journal::new(&pool, collection, self.instance);
        let entry = journal.entry(id.uuid).await?.ok_or_else(absent)?;
        let name = entry.image(collection);
        let (image_id, header) = found(&pool, &name, &entry).await?.ok_or_else(absent)?;
        refuse_encrypted(collection, handle, &entry, &header)?;
        if header.features.contains(Features::MIGRATING) {
            let text = format!("image {} of {noun} {handle} is being migrated", pool.describe(&name));
            return Err(Error::new(Kind::Precondition, text));
        }
        Ok((entry, Source { pool, name, id: image_id, header }))
    }

    /// The RADOS namespace of the source's cluster entry, which must be of the same cluster.
    fn namespace(&self, cluster_id: &str, handle: &str) -> Result<String> {
        if cluster_id == self.cluster.cluster_id {
            return Ok(self.cluster.rados_namespace.clone());
        }
        let other = self.config.cluster(cluster_id).map_err(|error| match error.kind {
            Kind::NotFound => error.of_kind(Kind::Precondition),
            _ => error,
        })?;
        if other.monitors != self.cluster.monitors {
            let text = format!(
                "{handle} is in cluster {cluster_id}, and nothing can be cloned from there into cluster {}: \
                 use a class of the same cluster, and copy the data if need be",
                self.cluster.cluster_id
            );
            return Err(Error::new(Kind::InvalidArgument, text));
        }
        Ok(other.rados_namespace)
    }
}

/// The image of a complete entry, by its name: the kernel and librbd open by name.
async fn found(pool: &Pool, name: &str, entry: &Entry) -> Result<Option<(ImageId, Header)>> {
    let Some(id) = pool.image_id(name).await? else { return Ok(None) };
    if entry.image_id.as_ref().is_some_and(|recorded| *recorded != id) {
        return Ok(None);
    }
    Ok(pool.image_header(&id, &ENCRYPTED).await?.map(|header| (id, header)))
}

/// Refuses what is encrypted, by its journal or by its image, before anything is written.
///
/// # Errors
/// [`Kind::Precondition`].
pub fn refuse_encrypted(collection: Collection, handle: &str, entry: &Entry, header: &Header) -> Result<()> {
    if entry.kms.is_none() && ENCRYPTED.iter().all(|key| !header.metadata.contains_key(*key)) {
        return Ok(());
    }
    let text = format!(
        "{} {handle} is encrypted, and this version of the driver has no encryption yet: nothing was changed",
        collection.noun()
    );
    Err(Error::new(Kind::Precondition, text))
}

/// # Errors
/// [`Kind::InvalidArgument`] for an image that cannot be cloned.
pub fn require_layering(handle: &str, image: &Source) -> Result<()> {
    if image.header.features.contains(Features::LAYERING) {
        return Ok(());
    }
    let text = format!(
        "volume({handle}) has not snapshot feature(layering): its image {} was made without it. Make a volume of a \
         class whose imageFeatures has layering and copy the data over; the feature cannot be added later",
        image.pool.describe(&image.name)
    );
    Err(Error::new(Kind::InvalidArgument, text))
}
