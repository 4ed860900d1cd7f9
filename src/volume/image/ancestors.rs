//! Which data objects of its ancestors an image shows.
//!
//! A clone shows its parent's snapshot wherever it has no object of its own, up to the
//! overlap; that snapshot may show one of another image, and so on. Ancestors may be in
//! other pools and namespaces, and in the trash: they are found by id. A snapshot never
//! changes, so what it holds is told by its own object map if that is valid, else by
//! asking for each object as of the snapshot.
//!
//! What a reader gets wrong: flattening carries data from an ancestor to its descendant and
//! then lets go of the ancestor. Whoever looks at the image first and at its ancestors
//! afterwards may find neither. So the oldest is looked at first, and the image last,
//! which is the caller's.

use std::collections::BTreeSet;

use crate::ceph::{Features, Header, ImageId, Moment, ObjectMap, Origin, Pool};
use crate::volume::error::{Error, Kind, Result};
use crate::volume::image::data_objects::{data_pool, scan};
use crate::volume::operation::Progress;

/// librbd opens no longer chain (16); one that is longer is no chain.
const DEEPEST: usize = 64;
/// How often a chain may change under the look at it.
const ATTEMPTS: usize = 3;

/// A data object of an ancestor that shows through.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inherited {
    /// The object.
    pub object: String,
    /// The ancestor, as `pool/image id`.
    pub ancestor: String,
    /// The id of its snapshot.
    pub snap_id: u64,
}

impl std::fmt::Display for Inherited {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "object {} of image id {}, snapshot {}", self.object, self.ancestor, self.snap_id)
    }
}

/// A snapshot of an ancestor, and what of it shows through.
struct Layer {
    pool: Pool,
    image: ImageId,
    snap_id: u64,
    moment: Moment,
    /// With the overlap as its size: it counts and names just the objects that show through.
    header: Header,
}

/// A data object that the image shows though it is an ancestor's, if there is any.
///
/// # Errors
/// [`Kind::Precondition`] when an ancestor is missing: then nobody can say. What Ceph answers.
pub async fn inherited(pool: &Pool, image: &ImageId, progress: &Progress) -> Result<Option<Inherited>> {
    for layer in layers(pool, image).await?.iter().rev() {
        let found = layer.first_object(progress).await?;
        if found.is_some() {
            return Ok(found);
        }
    }
    Ok(None)
}

/// The image's ancestors, the youngest first. One that goes while they are followed is no
/// longer an ancestor: then they are followed anew.
async fn layers(pool: &Pool, image: &ImageId) -> Result<Vec<Layer>> {
    let mut missing = String::new();
    for _ in 0..ATTEMPTS {
        match follow(pool, image).await? {
            Ok(layers) => return Ok(layers),
            Err(ancestor) => missing = ancestor,
        }
    }
    let text = format!(
        "image id {} has an ancestor that does not exist ({missing}), so nobody can say what it holds",
        pool.describe(image.as_str())
    );
    Err(Error::new(Kind::Precondition, text))
}

/// The layers, or the ancestor that is missing.
async fn follow(pool: &Pool, image: &ImageId) -> Result<std::result::Result<Vec<Layer>, String>> {
    let mut layers: Vec<Layer> = Vec::new();
    let mut seen_through = u64::MAX;
    let Some(mut moment) = pool.moment(image, None).await? else { return Ok(Err(image.to_string())) };
    while let Some(origin) = moment.origin.clone() {
        seen_through = seen_through.min(origin.overlap);
        let missing = format!("image id {} in pool {}", origin.image_id, origin.pool_id);
        let Some(layer) = layer(pool, &origin, seen_through).await? else { return Ok(Err(missing)) };
        moment = layer.moment.clone();
        layers.push(layer);
        if layers.len() > DEEPEST {
            return Ok(Err(format!("{missing} is one of more than {DEEPEST}")));
        }
    }
    Ok(Ok(layers))
}

async fn layer(pool: &Pool, origin: &Origin, seen_through: u64) -> Result<Option<Layer>> {
    let Some(pool) = pool.connection().pool_by_id(origin.pool_id, &origin.namespace).await? else {
        return Ok(None);
    };
    let (image, snap_id) = (origin.image_id.clone(), origin.snap_id);
    let (header, moment) = (pool.image_header(&image, &[]).await?, pool.moment(&image, Some(snap_id)).await?);
    let Some((mut header, moment)) = header.zip(moment) else { return Ok(None) };
    header.size = seen_through;
    Ok(Some(Layer { pool, image, snap_id, moment, header }))
}

impl Layer {
    async fn first_object(&self, progress: &Progress) -> Result<Option<Inherited>> {
        let ancestor = self.pool.describe(self.image.as_str());
        progress.step(format!("looking at what snapshot {} of image id {ancestor} holds", self.snap_id));
        let objects = self.header.data_objects();
        let found = match self.valid_map().await? {
            Some(map) => map.existing().find(|number| *number < objects),
            None => self.ask(progress).await?,
        };
        Ok(found.map(|number| Inherited {
            object: self.header.data_object(number),
            ancestor,
            snap_id: self.snap_id,
        }))
    }

    async fn valid_map(&self) -> Result<Option<ObjectMap>> {
        // Nothing says more of a snapshot's features than the image's.
        if !self.header.features.contains(Features::OBJECT_MAP) || !self.moment.object_map_valid() {
            return Ok(None);
        }
        let map = self.pool.snapshot_object_map(&self.image, self.snap_id).await?;
        Ok(map.filter(|map| map.len() >= self.header.data_objects()))
    }

    async fn ask(&self, progress: &Progress) -> Result<Option<u64>> {
        let data_pool = data_pool(&self.pool, &self.header).await?;
        let as_of = data_pool.at_snapshot(self.snap_id)?;
        let found = scan(&as_of, &self.header, &BTreeSet::new(), 1, progress).await?;
        if found.is_empty() {
            // A pool that was deleted answers as absent objects do.
            data_pool.confirm().await?;
        }
        Ok(found.first().copied())
    }
}
