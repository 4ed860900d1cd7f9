//! Taking a staged volume down: NodeUnstage, and the way back of a NodeStage that failed.
//!
//! What a reader gets wrong: the stash goes last. Whatever interrupts this, the repeat
//! finds in it which image may still be mapped. And nothing here asks the cluster: its
//! key is not among NodeUnstage's arguments, and it may be the cluster that is gone.

use std::path::Path;
use std::time::Duration;

use crate::config::ConfigFiles;
use crate::host::device::Device;
use crate::host::krbd::{self, Mapping};
use crate::host::thread::on_thread;
use crate::host::{HostError, holders, mount, place, step_on_thread, utab};
use crate::node::mapping::Mapper;
use crate::node::mapping::on_node::{self, ImageKey};
use crate::node::mapping::other_cluster;
use crate::node::staged::{self, Occupant, StagingPath};
use crate::node::stash::{self, Stash};
use crate::volume::error::{Error, Kind, Result};
use crate::volume::id::VolumeId;
use crate::volume::operation::Progress;

/// An umount that waits for its cluster is not given up before this: the repeated call
/// joins it, and giving up would not end it.
const LONGEST: Duration = Duration::from_secs(3600);
/// An umount is tried again for this long: who asks how full it is holds it for a moment.
const BUSY_FOR: Duration = Duration::from_secs(3);
const PAUSE: Duration = Duration::from_millis(100);

/// Removes every trace of the volume from this node but what is published. Steps:
/// 1. The stash; what another driver has to take apart is refused.
/// 2. What is mounted; what is not this volume's is refused, a lost stash written anew. The turn
///    with the image.
/// 3. Nobody else has it mounted; what another volume has staged is left to that.
/// 4. Unmount. 5. The empty folder or file. 6. Unmap. 7. The stash.
///
/// # Errors
/// [`Kind::Precondition`] for what is not ours; [`Kind::InUse`] with who is in the way.
pub async fn take_down(
    place: &StagingPath,
    mapper: &Mapper,
    config: &ConfigFiles,
    progress: &Progress,
) -> Result<()> {
    // 1.
    progress.step(format!("looking at {}", place.folder.display()));
    let mut stash = stash::usable(&place.folder).await?;
    // 2.
    let occupant = staged::at(&place.entry).await?;
    if let Some(occupant) = &occupant {
        refuse_foreign(occupant, place, stash.as_ref())?;
    }
    let mut images = find_images(place, occupant.as_ref(), stash.as_ref(), config).await?;
    let mut turn = None;
    if let Some(mapping) = images.first() {
        turn = Some(mapper.turn(ImageKey::of_mapping(mapping), progress).await?);
        images = find_images(place, occupant.as_ref(), stash.as_ref(), config).await?;
    }
    if stash.is_none()
        && let Some(mapping) = images.first()
    {
        let found = Stash::of_mapping(mapping);
        tracing::warn!(image = found.spec(), folder = %place.folder.display(), "the stash was lost and is written anew");
        match stash::write(&place.folder, &found).await {
            // The folder is gone, and with it what a repeat would read.
            Err(error) if error.kind == Kind::Precondition => {
                tracing::warn!(%error, "the stash cannot be written");
            }
            written => written?,
        }
        stash = Some(found);
    }
    // 3.
    if occupant.is_none() && is_anothers(&images, place).await? {
        tracing::info!(volume = place.volume_id, "its image is staged here as another volume, and stays so");
        images.clear();
    }
    for mapping in &images {
        refuse_published(mapping, place).await?;
    }
    // 4. and 5.
    unmount(&place.entry, progress).await?;
    let removed = remove(&place.entry).await;
    // 6.
    let mut unmapped = Ok(());
    for mapping in &images {
        let mut options = stash.as_ref().map(Stash::unmap).unwrap_or_default();
        // Force is for the volume's own use, never for whoever else has claimed the device.
        options.force = options.force && (occupant.is_some() || on_node::user_of(mapping).await?.is_none());
        unmapped = unmapped.and(mapper.unmap(std::slice::from_ref(mapping), options, progress).await);
    }
    drop(turn);
    unmapped?;
    // What is in the way of the removal is no reason to keep the device.
    removed?;
    // 7.
    stash::remove(&place.folder).await
}

/// A file system must be the volume's own. A device file may be bound to a number that
/// is another image's by now; then only the bind mount is ours.
fn refuse_foreign(occupant: &Occupant, place: &StagingPath, stash: Option<&Stash>) -> Result<()> {
    let foreign = match &occupant.device {
        Device::Image(_) => !occupant.is_block() && occupant.of_volume(&place.volume_id, stash).is_none(),
        Device::Other(_) => true,
        // A file system without a device (tmpfs, overlay) never was a volume.
        Device::Gone => !occupant.is_block() && occupant.number.is_none(),
    };
    if !foreign {
        return Ok(());
    }
    let text = format!(
        "what is mounted at {} is {}, not volume {} as this driver stages it; nothing was changed",
        place.entry.display(),
        occupant.describe(),
        place.volume_id
    );
    Err(Error::new(Kind::Precondition, text))
}

/// The mappings of the volume's image on this node. Without stash and mount a volume of
/// a journal is still known by its uuid; an image that only has a static volume's name
/// may be somebody else's.
async fn find_images(
    place: &StagingPath,
    occupant: Option<&Occupant>,
    stash: Option<&Stash>,
    config: &ConfigFiles,
) -> Result<Vec<Mapping>> {
    let mounted = occupant.and_then(|occupant| occupant.of_volume(&place.volume_id, stash)).cloned();
    let mut all = on_thread("list mappings", "/sys/bus/rbd", krbd::mappings).await?;
    let known = stash.is_some() || VolumeId::parse(&place.volume_id).is_some();
    all.retain(|mapping| match &mounted {
        Some(mounted) => {
            mapping.image_id == mounted.image_id
                && mapping.pool_id == mounted.pool_id
                && mapping.cluster_fsid == mounted.cluster_fsid
        }
        None => known && staged::belongs(mapping, &place.volume_id, stash),
    });
    let noted = stash.is_some_and(|stash| !stash.fsid.is_empty());
    if let (None, false, Some(id)) = (&mounted, noted, VolumeId::parse(&place.volume_id)) {
        all = without_others(all, &id, config).await;
    }
    require_one_cluster(&all, place)?;
    Ok(all)
}

/// Nothing has noted the cluster (ceph-csi's stash does not): an image of the same name on
/// another one is not touched.
async fn without_others(found: Vec<Mapping>, id: &VolumeId, config: &ConfigFiles) -> Vec<Mapping> {
    let mut own = Vec::new();
    for mapping in found {
        if !other_cluster::is_of_another(&mapping, &id.cluster_id, config).await {
            own.push(mapping);
        }
    }
    own
}

/// Which of two clusters' images of one name is the volume's, nothing says.
fn require_one_cluster(mappings: &[Mapping], place: &StagingPath) -> Result<()> {
    let mut fsids: Vec<&str> = mappings.iter().map(|mapping| mapping.cluster_fsid.as_str()).collect();
    fsids.dedup();
    if fsids.len() < 2 {
        return Ok(());
    }
    let text = format!(
        "volume {}: its image is mapped from the clusters {}, and no stash in {} says which is the volume's; \
         nothing was changed. Unmap the one that is not with `rbd unmap`",
        place.volume_id,
        fsids.join(" and "),
        place.folder.display()
    );
    Err(Error::new(Kind::Precondition, text))
}

/// Before a volume is mounted over it: what is in the folder lies on the node's own disk,
/// would be hidden, and could not be removed afterwards.
///
/// # Errors
/// [`Kind::Precondition`] for a folder with content.
pub async fn refuse_content(entry: &Path) -> Result<()> {
    let object = entry.display().to_string();
    let path = entry.to_owned();
    let look = move || Ok(std::fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_some()));
    if on_thread("look", &object, look).await? {
        let text = format!("{object} has content on the node's own disk; look whose it is, and move it away");
        return Err(Error::new(Kind::Precondition, text));
    }
    Ok(())
}

/// Whether the image, of which nothing is mounted at this staging path, is staged at another one as
/// another volume: this one was refused for that, or was stopped before it had mapped anything.
///
/// # Errors
/// procfs, sysfs or a stash cannot be read.
pub async fn is_anothers(mappings: &[Mapping], place: &StagingPath) -> Result<bool> {
    for mapping in mappings {
        let noted = staged::noted(mapping, &[&place.entry]).await?;
        if noted.iter().any(|(name, stash)| name != place.volume_id.as_str() && stash.is_of(mapping)) {
            return Ok(true);
        }
    }
    Ok(false)
}

async fn refuse_published(mapping: &Mapping, place: &StagingPath) -> Result<()> {
    let others = staged::elsewhere(mapping, &[&place.entry]).await?;
    if others.is_empty() {
        return Ok(());
    }
    let text = format!(
        "volume {} cannot be unstaged while it is mounted at {}: unpublish it there first",
        place.volume_id,
        staged::list(&others)
    );
    Err(Error::new(Kind::InUse, text))
}

/// Unmounts everything at the path, and takes back what systemd was told of it.
///
/// # Errors
/// [`Kind::InUse`] with the processes that use it.
pub async fn unmount(path: &Path, progress: &Progress) -> Result<()> {
    unmount_all(path, progress).await?;
    utab::remove(path).await;
    Ok(())
}

async fn unmount_all(path: &Path, progress: &Progress) -> Result<()> {
    let Some(occupant) = staged::at(path).await? else { return Ok(()) };
    progress.step(format!("unmounting {} from {}", occupant.describe(), path.display()));
    let again = tokio::time::Instant::now() + progress.deadline.left_at_most(BUSY_FOR);
    loop {
        match mount::unmount(path, LONGEST).await {
            Ok(_) => return Ok(()),
            Err(error) if error.is(libc::EBUSY) && tokio::time::Instant::now() >= again => {
                return Err(busy(path, &occupant, error).await);
            }
            Err(error) if error.is(libc::EBUSY) => tokio::time::sleep(PAUSE).await,
            Err(error) => return Err(error.into()),
        }
    }
}

async fn busy(path: &Path, occupant: &Occupant, error: HostError) -> Error {
    let number = occupant.number.unwrap_or(occupant.mount.device);
    let object = path.display().to_string();
    let held = holders::told(&object, move || holders::of_number(number)).await;
    Error::new(Kind::InUse, format!("{} cannot be unmounted: {held}", path.display())).because(error)
}

/// Removes the empty folder or file that a mount was on; nothing there is no error.
///
/// # Errors
/// [`Kind::Precondition`] for a folder with content: that is on the node's own disk, and
/// nobody but a person knows whose it is.
pub async fn remove(path: &Path) -> Result<()> {
    let object = path.display().to_string();
    let path = path.to_owned();
    let remove = move || place::remove_mount_point(&path);
    let removed = step_on_thread("host: remove mount point", "remove", object, remove).await;
    removed.map(drop).map_err(|error| match error.errno {
        libc::ENOTEMPTY | libc::EEXIST | libc::ELOOP | libc::EINVAL => {
            let text = "nothing may be removed but the empty folder or file that a volume was mounted on; \
                        look what this is, and move it away";
            Error::new(Kind::Precondition, text).because(error)
        }
        _ => error.into(),
    })
}
