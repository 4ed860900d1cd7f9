//! NodePublish and NodeUnpublish: a staged volume at a pod's path, and its end there.
//!
//! Lives here: what may be published where (CSI's table for a second target), and the
//! bind mounts. No cluster is asked and no program started.
//!
//! What a reader gets wrong: what is at the staging path is proven to be this volume's
//! own mount before it is shown to a pod. After a reboot it is a folder on the node's
//! disk, and a pod that got that would write there.

use std::path::{Path, PathBuf};

use crate::host::krbd::{self, Mapping};
use crate::host::place::Kind as PlaceKind;
use crate::host::thread::on_thread;
use crate::host::{bind, place, step};
use crate::node::staged::{self, Occupant, StagingPath};
use crate::node::stash;
use crate::node::unstage;
use crate::volume::capability::{Access, AccessMode, Capability};
use crate::volume::error::{Error, Kind, Result};
use crate::volume::image::resolve::restricted;
use crate::volume::operation::Progress;

/// A volume to be shown at a pod's path.
#[derive(Debug, Clone)]
pub struct Publication {
    /// Where it is staged.
    pub staging: StagingPath,
    /// `target_path`.
    pub target: PathBuf,
    /// How it may be used.
    pub capability: Capability,
    /// Whether the pod may only read.
    pub read_only: bool,
    /// The service accounts whose pods alone may have it; empty for all.
    pub service_accounts: String,
}

/// Shows the staged volume at the target. Steps:
/// 1. What is staged is this volume, as the capability wants it.
/// 2. The target: the same is there already, or something else, or nothing.
/// 3. Whether a further target is allowed.
/// 4. The target is made. 5. The bind mount.
///
/// # Errors
/// [`Kind::Precondition`] when the volume is not staged, is restricted to some service accounts, or
/// already published where its mode allows one place; [`Kind::AlreadyExists`] when the target shows something else.
pub async fn publish(publication: &Publication, progress: &Progress) -> Result<()> {
    let (staging, target) = (&publication.staging, &publication.target);
    // 1.
    progress.step(format!("looking at {}", staging.entry.display()));
    let (staged, mapping) = require_staged(staging).await?;
    let is_block = matches!(publication.capability.access, Access::Block);
    if staged.is_block() != is_block {
        let text = format!(
            "volume {} is staged as a {}, and cannot be published as a {}",
            staging.volume_id,
            kind(staged.is_block()),
            kind(is_block)
        );
        return Err(Error::new(Kind::Precondition, text));
    }
    if !publication.read_only
        && staged.went_read_only().await
        && let Some(trouble) = staged.trouble().await
    {
        let text = format!("volume {} is not published: {trouble}", staging.volume_id);
        return Err(Error::new(Kind::Precondition, text));
    }
    // A bind mount of what is mounted read-only is read-only, whatever is asked.
    // Of a device file the kernel does not ask the mount: a raw device that is mapped writable and
    // published read-only is kept from writes by the container's device cgroup (the kubelet,
    // makeBlockVolumes: permission `r`), not by this. Refusing it would refuse such pods.
    let read_only = publication.read_only || publication.capability.read_only() || staged.mount.read_only;
    // 2.
    if let Some(found) = staged::at(target).await? {
        return compare(&found, &staged, read_only, target);
    }
    if !publication.service_accounts.is_empty() {
        let image = krbd::spec(&mapping.pool, &mapping.namespace, &mapping.image);
        return Err(restricted(&staging.volume_id, &publication.service_accounts, &image));
    }
    // 3.
    check_second_target(publication, &mapping).await?;
    // 4. and 5.
    progress.step(format!("mounting volume {} at {}", staging.volume_id, target.display()));
    let made = make_target(target, is_block).await?;
    let bound = bind::bind_mount(&staged.mount, target, read_only).await;
    if let Err(error) = bound {
        if made && let Err(left) = unstage::remove(target).await {
            tracing::warn!(target = %target.display(), error = %left, "an unused target stays");
        }
        return Err(match error.errno {
            libc::ESTALE => not_staged(staging, "it was unmounted just now").because(error),
            _ => error.into(),
        });
    }
    Ok(())
}

/// The volume's own mount at its staging path.
async fn require_staged(staging: &StagingPath) -> Result<(Occupant, Mapping)> {
    let stash = stash::usable(&staging.folder).await?;
    let Some(occupant) = staged::at(&staging.entry).await? else {
        return Err(not_staged(staging, "nothing is mounted there"));
    };
    match occupant.of_volume(&staging.volume_id, stash.as_ref()).cloned() {
        Some(mapping) => Ok((occupant, mapping)),
        None => Err(not_staged(staging, &format!("{} is mounted there", occupant.describe()))),
    }
}

fn not_staged(staging: &StagingPath, what: &str) -> Error {
    let (volume, entry) = (&staging.volume_id, staging.entry.display());
    let text = format!("volume {volume} is not staged at {entry}: {what}; it has to be staged first");
    Error::new(Kind::Precondition, text)
}

fn compare(found: &Occupant, staged: &Occupant, read_only: bool, target: &Path) -> Result<()> {
    let differs = if !found.mount.shows_the_same_as(&staged.mount) {
        format!("{} is mounted there", found.describe())
    } else if found.mount.read_only != read_only {
        let now = if found.mount.read_only { "read-only" } else { "writable" };
        format!("the volume is published there already, {now}")
    } else {
        return Ok(());
    };
    Err(Error::new(Kind::AlreadyExists, format!("target_path {}: {differs}", target.display())))
}

/// CSI, NodePublishVolume: a further target on the same node is for the modes of many
/// nodes and SINGLE_NODE_MULTI_WRITER. SINGLE_NODE_WRITER is what a Kubernetes that does
/// not know the newer modes gives for two pods on one node, which it expects to work; it
/// never gives SINGLE_NODE_READER_ONLY, so there the table stands as it is.
async fn check_second_target(publication: &Publication, mapping: &Mapping) -> Result<()> {
    let mode = publication.capability.mode;
    if !matches!(mode, AccessMode::SingleNodeSingleWriter | AccessMode::SingleNodeReaderOnly) {
        return Ok(());
    }
    let others = staged::elsewhere(mapping, &[&publication.staging.entry, &publication.target]).await?;
    if others.is_empty() {
        return Ok(());
    }
    let text = format!(
        "volume {} is published at {} and its access mode {mode} allows one place only",
        publication.staging.volume_id,
        staged::list(&others)
    );
    Err(Error::new(Kind::Precondition, text))
}

/// Makes the folder or file to mount on; `false` when it was there.
async fn make_target(target: &Path, is_block: bool) -> Result<bool> {
    let object = target.display().to_string();
    let path = target.to_owned();
    let work = move || {
        let made = step("host: make target", "make", &object, || {
            if is_block { place::make_file(&path, 0o640) } else { place::make_directory(&path, 0o750) }
        })?;
        Ok((made, place::Place::require(&path)?.kind()?))
    };
    let made = on_thread("make", &target.display().to_string(), work).await;
    let (made, found) = made.map_err(staged::at_path)?;
    let wanted = if is_block { PlaceKind::File } else { PlaceKind::Directory };
    if found == wanted {
        return Ok(made);
    }
    let text = format!(
        "target_path {} exists and is not a {} on which a {} could be mounted",
        target.display(),
        if is_block { "file" } else { "folder" },
        kind(is_block)
    );
    Err(Error::new(Kind::AlreadyExists, text))
}

fn kind(is_block: bool) -> &'static str {
    if is_block { "block device" } else { "file system" }
}

/// Ends the volume at the target: unmounts whatever is stacked there and removes the
/// empty folder or file. Nothing there is no error.
///
/// # Errors
/// [`Kind::InUse`] with who uses it; [`Kind::Precondition`] when there is content where
/// nothing is mounted, or a symlink.
pub async fn unpublish(target: &Path, progress: &Progress) -> Result<()> {
    progress.step(format!("looking at {}", target.display()));
    unstage::unmount(target, progress).await?;
    unstage::remove(target).await
}
