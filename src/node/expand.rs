//! NodeExpandVolume: what a volume's user sees becomes as large as its image is by now.
//!
//! Lives here: where the volume is, waiting for the kernel to see the new size, and the
//! growth of a mounted file system. The image itself was made larger by the controller,
//! and no cluster is asked here but by the kernel.
//!
//! What a reader gets wrong: the path may be a pod's, a staging folder or what is in it,
//! and a pod's path may be read-only where the file system is not. So the path only tells
//! which device it is; the file system is grown where it is mounted writable.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::host::fs_kind::FsKind;
use crate::host::krbd::{self, Mapping};
use crate::host::mountinfo::Mount;
use crate::host::thread::on_thread;
use crate::host::{HostError, device, growth, step_on_thread};
use crate::node::staged::{self, Occupant, StagingPath};
use crate::node::stash;
use crate::volume::capability::{Access, Capability};
use crate::volume::error::{Error, Kind, Result};
use crate::volume::image::watch::FOR_THE_ANSWER;
use crate::volume::operation::Progress;
use crate::volume::size::CapacityRange;

/// A refresh reads the size that the image has, so more than a few are for a cluster that
/// is slow to agree.
const PATIENCE: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(500);

/// A volume whose image may have grown.
#[derive(Debug, Clone)]
pub struct Expansion {
    /// The volume.
    pub volume_id: String,
    /// Where it is staged, when the CO says so.
    pub staging: Option<StagingPath>,
    /// `volume_path`, which may be no path at all.
    pub path: PathBuf,
    /// The size that it shall have.
    pub range: CapacityRange,
    /// How it is used, when the CO says so.
    pub capability: Option<Capability>,
}

/// Makes the volume as large as its image; gives its bytes. Steps:
/// 1. Where it is. 2. The kernel sees the image's size. 3. The file system grows.
///
/// What is mapped or mounted read-only has nothing to grow, which is no error.
///
/// # Errors
/// [`Kind::NotFound`] when the volume is not at any of the paths; [`Kind::OutOfRange`] when it
/// is larger than the limit; [`Kind::Unavailable`] while the image is smaller than asked for.
pub async fn expand(expansion: &Expansion, progress: &Progress) -> Result<u64> {
    // 1.
    progress.step(format!("looking for volume {}", expansion.volume_id));
    let (occupant, mapping) = expansion.find().await?;
    expansion.check_capability(&occupant)?;
    let grown = if occupant.is_block() { None } else { Some(writable(&mapping).await?) };
    // 2.
    let size = match grown {
        // Readers have no watch, so the kernel hears of nothing; its size is as good as any.
        Some(None) => size_of(&mapping).await?,
        _ if mapping.read_only => refreshed(&mapping, progress).await?,
        _ => expansion.wait_for_size(&mapping, progress).await?,
    };
    expansion.check_limit(size)?;
    // 3.
    if let Some(Some(mount)) = grown {
        expansion.grow(&mapping, &mount, progress).await?;
    }
    Ok(size)
}

impl Expansion {
    /// The volume's device, by the first path at which the volume is.
    async fn find(&self) -> Result<(Occupant, Mapping)> {
        let stash = match &self.staging {
            Some(staging) => stash::usable(&staging.folder).await?,
            None => None,
        };
        let mut tried = Vec::new();
        for path in self.candidates() {
            let seen = match staged::at(&path).await {
                Ok(None) => "nothing is mounted there".to_owned(),
                Ok(Some(occupant)) => match occupant.of_volume(&self.volume_id, stash.as_ref()).cloned() {
                    Some(mapping) => return Ok((occupant, mapping)),
                    None => format!("{} is", occupant.describe()),
                },
                // Such as a symlink: the volume is not mounted at it.
                Err(error) if error.kind == Kind::Precondition => error.to_string(),
                Err(error) => return Err(error),
            };
            tried.push(format!("{}: {seen}", path.display()));
        }
        if tried.is_empty() {
            tried.push(format!("{:?} is no path where a volume could be", self.path));
        }
        let text = format!("volume {} is not on this node ({})", self.volume_id, tried.join("; "));
        Err(Error::new(Kind::NotFound, text))
    }

    /// Where it is staged, a pod's path, or the folder in which it is staged.
    fn candidates(&self) -> Vec<PathBuf> {
        let given = staged::path("volume_path", &self.path).ok();
        let within = given.as_ref().and_then(|path| StagingPath::new(&self.volume_id, path).ok());
        let staged = self.staging.iter().chain(&within).map(|staging| staging.entry.clone());
        let mut paths: Vec<PathBuf> = staged.collect();
        paths.splice(self.staging.iter().len()..self.staging.iter().len(), given);
        paths
    }

    fn check_capability(&self, occupant: &Occupant) -> Result<()> {
        let asked = self.capability.as_ref().map(|capability| &capability.access);
        let differs = match asked {
            Some(Access::Block) if !occupant.is_block() => "a file system",
            Some(Access::Mount { .. }) if occupant.is_block() => "a block device",
            Some(Access::Mount { fs_type, .. })
                if !fs_type.is_empty() && !staged::same_family(fs_type, &occupant.mount.fs_type) =>
            {
                &*occupant.mount.fs_type
            }
            _ => return Ok(()),
        };
        let text = format!("volume_capability: volume {} is used as {differs}", self.volume_id);
        Err(Error::new(Kind::InvalidArgument, text))
    }

    fn check_limit(&self, size: u64) -> Result<()> {
        let CapacityRange { limit, .. } = self.range;
        if limit == 0 || size <= limit {
            return Ok(());
        }
        let text = format!(
            "volume {} has {size} bytes already, more than the limit of {limit}; volumes are never made smaller",
            self.volume_id
        );
        Err(Error::new(Kind::OutOfRange, text))
    }

    /// Waits until the kernel's device has the size that is asked for, or the size that its
    /// image has when none is. The kernel hears of a new size by its watch, and is told to
    /// look for itself where that did not come.
    async fn wait_for_size(&self, mapping: &Mapping, progress: &Progress) -> Result<u64> {
        let required = self.range.required;
        if required == 0 {
            return refreshed(mapping, progress).await;
        }
        let until = Instant::now() + time_left(progress).min(PATIENCE);
        let mut size = size_of(mapping).await?;
        while size < required {
            size = refreshed(mapping, progress).await?;
            if size >= required {
                break;
            }
            if Instant::now() + PAUSE >= until {
                let text = format!(
                    "volume {} shall have {required} bytes, but its image {} has {size}; the controller \
                     makes the image larger first (ControllerExpandVolume)",
                    self.volume_id,
                    krbd::spec(&mapping.pool, &mapping.namespace, &mapping.image)
                );
                return Err(Error::new(Kind::Unavailable, text));
            }
            tokio::time::sleep(PAUSE).await;
        }
        Ok(size)
    }

    async fn grow(&self, mapping: &Mapping, mount: &Mount, progress: &Progress) -> Result<()> {
        let Some(kind) = FsKind::parse(&mount.fs_type) else {
            let text =
                format!("volume {}: a file system of type {} is not grown", self.volume_id, mount.fs_type);
            return Err(Error::new(Kind::Precondition, text));
        };
        let device = mapping.device();
        progress.step(format!("growing the {kind} file system on {}", device.display()));
        growth::grow(kind, &device, &mount.point).await.map_err(|error| cannot_grow(error, kind))
    }
}

fn cannot_grow(error: HostError, kind: FsKind) -> Error {
    // resize2fs, for a file system made without what growing online needs.
    let never = error.detail.as_deref().is_some_and(|words| words.contains("does not support"));
    if !never {
        return Error::from(error);
    }
    let text = format!(
        "this {kind} file system cannot grow while it is mounted; unmount it everywhere, map the image and run \
         resize2fs on it"
    );
    Error::new(Kind::Precondition, text).because(error)
}

/// Where the device's file system is mounted as a whole and writable.
async fn writable(mapping: &Mapping) -> Result<Option<Mount>> {
    let (this, name) = (mapping.clone(), mapping.device().display().to_string());
    let mounts = on_thread("look for mounts", &name, move || device::mounts_of(&this)).await?;
    let fits = |mount: &Mount| {
        mount.root == Path::new("/")
            && mount.fs_type != "devtmpfs"
            && !mount.read_only
            && !mount.read_only_filesystem
    };
    Ok(mounts.into_iter().find(fits).filter(|_| !mapping.read_only))
}

fn time_left(progress: &Progress) -> Duration {
    progress.deadline.left().saturating_sub(FOR_THE_ANSWER)
}

/// The device's size after the kernel has read its image's.
async fn refreshed(mapping: &Mapping, progress: &Progress) -> Result<u64> {
    let name = mapping.device().display().to_string();
    progress.step(format!("waiting for the kernel to read the size of {name}'s image"));
    let this = mapping.clone();
    let refresh = step_on_thread("host: refresh", "krbd refresh", name.clone(), move || krbd::refresh(&this));
    match tokio::time::timeout(time_left(progress), refresh).await {
        Ok(refreshed) => refreshed?,
        Err(_) => {
            let text = format!("{name}: the kernel has not read its image's size; does the cluster answer?");
            return Err(Error::new(Kind::Timeout, text));
        }
    }
    size_of(mapping).await
}

async fn size_of(mapping: &Mapping) -> Result<u64> {
    let (this, name) = (mapping.clone(), mapping.device().display().to_string());
    Ok(on_thread("read size", &name, move || device::size_of(&this)).await?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_volume_is_looked_for_where_it_may_be() {
        let of = |staging: Option<&str>, path: &str| {
            let staging = staging.map(|folder| StagingPath::new("id", Path::new(folder)).unwrap());
            let range = CapacityRange { required: 0, limit: 0 };
            let path = PathBuf::from(path);
            Expansion { volume_id: "id".into(), staging, path, range, capability: None }.candidates()
        };
        assert_eq!(of(Some("/s"), "/t"), ["/s/id", "/t", "/t/id"].map(PathBuf::from));
        assert_eq!(of(None, "/t"), ["/t", "/t/id"].map(PathBuf::from));
        assert_eq!(of(Some("/s"), "some/path"), ["/s/id"].map(PathBuf::from));
        assert!(of(None, "some/path").is_empty());
    }
}
