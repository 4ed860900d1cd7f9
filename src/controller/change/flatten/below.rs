//! The volumes that are clones of an image, of its clones, and so on.

use super::Target;
use crate::ceph::{Header, ImageId, Pool, SnapshotKind};
use crate::volume::error::Result;
use crate::volume::image::name::{belongs_to, uuid_of};
use crate::volume::journal::{Collection, Journal};

/// What hangs below an image; not what keeps a point in time, which nobody maps, nor what lies in
/// the trash.
#[derive(Debug, Default)]
pub struct Below {
    /// Volumes that are complete.
    pub volumes: Vec<Target>,
    /// Volumes that a call is making, or has begun to make.
    pub in_the_making: Vec<Target>,
}

impl Below {
    /// Whether no volume is below.
    pub fn is_empty(&self) -> bool {
        self.volumes.is_empty() && self.in_the_making.is_empty()
    }
}

/// The clones of an image's snapshots, each with the snapshot's id. One without a name is in the
/// trash, and goes with its purge. One operation, and one for each clone.
///
/// # Errors
/// What Ceph answers.
pub async fn clones(pool: &Pool, id: &ImageId) -> Result<Vec<(u64, Target)>> {
    let mut clones = Vec::new();
    for child in pool.children_of(id, None).await? {
        let of = pool.connection().pool_by_id(child.pool_id, &child.namespace).await?;
        let Some(of) = of else { continue };
        if let Some(name) = of.directory_name(&child.image_id).await? {
            clones.push((child.snap_id, Target { pool: of, id: child.image_id, name }));
        }
    }
    Ok(clones)
}

/// Looks; four operations for each image below.
///
/// # Errors
/// What Ceph answers.
pub async fn look(pool: &Pool, id: &ImageId, instance: &str) -> Result<Below> {
    let (mut below, mut next) = (Below::default(), vec![(pool.clone(), id.clone())]);
    while let Some((pool, id)) = next.pop() {
        for child in pool.children_of(&id, None).await? {
            let of = pool.connection().pool_by_id(child.pool_id, &child.namespace).await?;
            let Some(of) = of else { continue };
            let (header, name) =
                tokio::join!(of.image_header(&child.image_id, &[]), of.directory_name(&child.image_id));
            let Some(header) = header? else { continue };
            if let Some(name) = name?.filter(|name| !keeps_a_point_in_time(name, &header)) {
                let begun = is_begun(&of, &name, instance).await?;
                let kind = if begun { &mut below.in_the_making } else { &mut below.volumes };
                kind.push(Target { pool: of.clone(), id: child.image_id.clone(), name });
            }
            next.push((of, child.image_id));
        }
    }
    Ok(below)
}

/// By its layout (`snapshot::point`): its own snapshot has its name, or the name of the volume that
/// it stands beside.
fn keeps_a_point_in_time(name: &str, header: &Header) -> bool {
    let own = belongs_to(name);
    header.snapshots.iter().any(|snapshot| snapshot.kind == SnapshotKind::User && snapshot.name == own)
}

/// Whether the journal has the image's name and not its id yet. The point in time that stands beside
/// such a volume is in the making with it.
async fn is_begun(pool: &Pool, name: &str, instance: &str) -> Result<bool> {
    let Some(uuid) = uuid_of(belongs_to(name)) else { return Ok(false) };
    for collection in [Collection::Volumes, Collection::Snapshots] {
        if let Some(entry) = Journal::new(pool, collection, instance).entry(uuid).await? {
            return Ok(entry.image_id.is_none());
        }
    }
    Ok(false)
}
