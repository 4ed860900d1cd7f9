//! What forbids the deletion of an image, told with names before anything is written.
//!
//! Not in the way: what the image was cloned from; snapshots in the snapshot trash, which clones
//! of this driver or of ceph-csi keep alive (the purge waits for them); the RBD snapshot that
//! an image of ceph-csi's layout has of its own. What a person made is in the way.

use crate::ceph::{Features, Header, ImageId, MirrorState, Pool, SnapshotKind};
use crate::volume::error::{Error, Kind, Result};

/// `RBD_OPERATION_FEATURE_GROUP`.
const IN_GROUP: u64 = 4;

/// Refuses to delete an image on which something depends that its deletion would take along,
/// or that cannot go to the trash. `own` is the RBD snapshot that goes with it. One operation, and
/// those of a look at a mirrored image.
///
/// # Errors
/// [`Kind::Precondition`] with what is in the way; what Ceph answers.
pub async fn refuse(pool: &Pool, name: &str, id: &ImageId, header: &Header, own: Option<&str>) -> Result<()> {
    let image = pool.describe(name);
    if header.op_features & IN_GROUP != 0 {
        return Err(precondition(format!(
            "image {image} is in an rbd group: take it out first (`rbd group image rm`), nothing was changed"
        )));
    }
    if header.features.contains(Features::MIGRATING) {
        return Err(precondition(format!(
            "image {image} is being migrated: end that first (`rbd migration`), nothing was changed"
        )));
    }
    let mirrored = pool.mirror_state(id).await?;
    if mirrored == MirrorState::NonPrimary {
        return Err(precondition(format!(
            "image {image} is the non-primary side of a mirror: delete the volume at the primary side, or promote \
             the image (`rbd mirror image promote`); nothing was changed"
        )));
    }
    let names: Vec<&str> = header
        .snapshots
        .iter()
        .filter(|snapshot| match &snapshot.kind {
            SnapshotKind::Trash(_) => false,
            SnapshotKind::User => own != Some(snapshot.name.as_str()),
            // librbd takes those of mirroring away when the image goes to the trash.
            SnapshotKind::Mirror => mirrored == MirrorState::NotMirrored,
            SnapshotKind::Group | SnapshotKind::Other(_) => true,
        })
        .map(|snapshot| snapshot.name.as_str())
        .collect();
    if names.is_empty() { Ok(()) } else { Err(in_the_way(pool, &image, id, &names).await?) }
}

async fn in_the_way(pool: &Pool, image: &str, id: &ImageId, snapshots: &[&str]) -> Result<Error> {
    let children = pool.children(id).await?;
    let mut text =
        format!("image {image} has {} snapshot(s) made by hand ({})", snapshots.len(), snapshots.join(", "));
    if !children.is_empty() {
        text.push_str(&format!(", and on it depend: {}", children.join(", ")));
    }
    text.push_str("; delete what depends on it first, nothing was changed");
    Ok(precondition(text))
}

fn precondition(text: String) -> Error {
    Error::new(Kind::Precondition, text)
}
