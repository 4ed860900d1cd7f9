//! The volumes that are clones of an image, of its clones, and so on.

use super::Target;
use crate::ceph::{Header, ImageId, Pool, SnapshotKind};
use crate::volume::error::Result;

/// All volumes below an image; not what keeps a point in time, which nobody maps, nor what lies in
/// the trash. Three operations for each image below.
///
/// # Errors
/// What Ceph answers.
pub async fn volumes(pool: &Pool, id: &ImageId) -> Result<Vec<Target>> {
    let (mut volumes, mut next) = (Vec::new(), vec![(pool.clone(), id.clone())]);
    while let Some((pool, id)) = next.pop() {
        for child in pool.children_of(&id, None).await? {
            let of = pool.connection().pool_by_id(child.pool_id, &child.namespace).await?;
            let Some(of) = of else { continue };
            let (header, name) =
                tokio::join!(of.image_header(&child.image_id, &[]), of.directory_name(&child.image_id));
            let Some(header) = header? else { continue };
            if let Some(name) = name?.filter(|name| !keeps_a_point_in_time(name, &header)) {
                volumes.push(Target { pool: of.clone(), id: child.image_id.clone(), name });
            }
            next.push((of, child.image_id));
        }
    }
    Ok(volumes)
}

/// By its layout (`snapshot::point`): its own snapshot has its name, or the name of the volume that
/// it stands beside.
fn keeps_a_point_in_time(name: &str, header: &Header) -> bool {
    let own = name.strip_suffix("-temp").unwrap_or(name);
    header.snapshots.iter().any(|snapshot| snapshot.kind == SnapshotKind::User && snapshot.name == own)
}
