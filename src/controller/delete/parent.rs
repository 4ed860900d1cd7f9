//! What an image leaves behind on the image that it was cloned from.
//!
//! librbd takes a clone's link out of its parent, and with the last one the parent's snapshot if
//! that was in the snapshot trash. A stop in between leaves a snapshot that nobody needs and nobody
//! removes. So after each purge the parent is looked at: such a snapshot goes, also from a volume
//! in use; and a parent that lies in the trash itself may be able to go now.
//!
//! A parent in the trash without a record of ours was put there by ceph-csi, or by a person. It is
//! taken for the former's only when its name is exactly of ceph-csi's kind, neither journal knows its
//! uuid, nothing keeps it there for a time, and no snapshot is on it that a person made.

use super::purge::{Place, Purger};
use super::record::{self, Kind, ParentImage, Record};
use crate::ceph::{Header, ImageId, Pool, SnapshotKind, TrashEntry, TrashState};
use crate::volume::error::Result;
use crate::volume::image::name::{belongs_to, beside_which, prefix_of, uuid_of};
use crate::volume::journal::{Collection, Journal};

/// `RBD_OPERATION_FEATURE_CLONE_CHILD`.
const CLONE_CHILD: u64 = 2;

/// The parent of an image that is gone; where its purge is to go on now, if anywhere.
///
/// # Errors
/// What Ceph answers.
pub async fn after_child(
    purger: &Purger,
    journal: &Journal,
    child: &Record,
) -> Result<Option<(Place, ImageId)>> {
    let Some(parent) = &child.parent else { return Ok(None) };
    let connection = journal.pool().connection();
    let Some(pool) = connection.pool_by_id(parent.pool_id, &parent.namespace).await? else {
        return Ok(None);
    };
    let header = pool.image_header(&parent.id, &[]).await?;
    let Some(entry) = pool.trash_entry(&parent.id).await? else {
        if let Some(header) = header {
            remove_orphans(purger, &pool, parent, header, child).await?;
        }
        return Ok(None);
    };
    for collection in [Collection::Volumes, Collection::Snapshots] {
        let journal = Journal::new(&pool, collection, purger.instance());
        if record::is_recorded(&journal, &parent.id).await? {
            return Ok(Some((Place::of(&journal), parent.id.clone())));
        }
    }
    let Some(header) = header else { return Ok(None) };
    adopt(purger, &pool, &parent.id, &entry, &header, child).await
}

/// Takes snapshots away that clones have left on a volume that stays. Whoever has it open is told.
async fn remove_orphans(
    purger: &Purger,
    pool: &Pool,
    parent: &ParentImage,
    mut header: Header,
    child: &Record,
) -> Result<()> {
    let is_orphan = |header: &Header| {
        let orphan = header.snapshots.iter().find(|snapshot| match &snapshot.kind {
            SnapshotKind::Trash(was) => snapshot.children == 0 && is_of_chain(was, child),
            _ => false,
        });
        orphan.map(|snapshot| snapshot.id)
    };
    // Another purge of this process is about to take its link away, and will look in its turn.
    if is_orphan(&header).is_none() || purger.others_leave(pool, parent) {
        return Ok(());
    }
    // A snapshot with a parent that the image itself has no more is a link of its own.
    if header.parent.is_none() && header.op_features & CLONE_CHILD != 0 {
        tracing::warn!(
            image_id = parent.id.as_str(),
            "a snapshot that no clone needs stays until its image goes"
        );
        return Ok(());
    }
    while let Some(snap_id) = is_orphan(&header) {
        match pool.remove_snapshot_entry(&parent.id, &header, snap_id).await {
            // Its object map is not valid, or a clone has come.
            Err(error) if error.is(libc::EINVAL) || error.is(libc::EBUSY) => {
                tracing::warn!(image_id = parent.id.as_str(), %error, "a snapshot that no clone needs stays for now");
                break;
            }
            removed => removed?,
        }
        tracing::info!(image_id = parent.id.as_str(), snap_id, "removed a snapshot that no clone needs");
        header.snapshots.retain(|snapshot| snapshot.id != snap_id);
    }
    if let Err(error) = pool.notify_header_update(&parent.id).await {
        tracing::debug!(%error, "a client that has the image open was not told that a snapshot went");
    }
    Ok(())
}

/// Whether a name is of the kind that this chain's images have.
pub(super) fn is_of_chain(name: &str, child: &Record) -> bool {
    name == child.image || prefix_of(name).is_some_and(|prefix| is_prefix_of_chain(&prefix, child))
}

fn is_prefix_of_chain(prefix: &str, child: &Record) -> bool {
    let defaults = [Collection::Volumes, Collection::Snapshots].map(Collection::default_prefix);
    defaults.contains(&prefix) || child.prefixes.iter().any(|own| own == prefix)
}

async fn adopt(
    purger: &Purger,
    pool: &Pool,
    id: &ImageId,
    entry: &TrashEntry,
    header: &Header,
    child: &Record,
) -> Result<Option<(Place, ImageId)>> {
    let name = entry.name.as_str();
    let Some(prefix) = prefix_of(name).filter(|prefix| is_prefix_of_chain(prefix, child)) else {
        return Ok(None);
    };
    let kept = entry.kept_until > entry.deleted || entry.state != TrashState::Normal;
    let Some(kind) = kind_of(name, &prefix, header).filter(|_| !kept) else { return Ok(None) };
    let Some(uuid) = uuid_of(belongs_to(name)) else { return Ok(None) };
    for collection in [Collection::Volumes, Collection::Snapshots] {
        if Journal::new(pool, collection, purger.instance()).entry(uuid).await?.is_some() {
            return Ok(None);
        }
    }
    let record = Record {
        image: name.to_owned(),
        uuid: Some(uuid),
        pool_id: None,
        deleted: Some(entry.deleted),
        parent: ParentImage::of(header),
        kind,
        adopted: true,
        prefixes: child.prefixes.clone(),
    };
    let collection = if kind == Kind::Snapshot { Collection::Snapshots } else { Collection::Volumes };
    let journal = Journal::new(pool, collection, purger.instance());
    record::write(&journal, id, &record, None).await?;
    tracing::info!(
        image = name,
        image_id = id.as_str(),
        "an image in the trash that nothing needs any more is purged too"
    );
    Ok(Some((Place::of(&journal), id.clone())))
}

/// What the image was; `None` when a person has made a snapshot of it.
fn kind_of(name: &str, prefix: &str, header: &Header) -> Option<Kind> {
    let users =
        || header.snapshots.iter().filter(|snapshot| !matches!(snapshot.kind, SnapshotKind::Trash(_)));
    let (kind, own) = match beside_which(name) {
        Some(volume) => (Kind::Temp, volume),
        None => {
            let is_snapshot = prefix == Collection::Snapshots.default_prefix()
                || users().any(|snapshot| snapshot.name == name);
            (if is_snapshot { Kind::Snapshot } else { Kind::Volume }, name)
        }
    };
    let foreign = users().any(|snapshot| snapshot.kind != SnapshotKind::User || snapshot.name != own);
    (!foreign).then_some(kind)
}
