//! Mounting and unmounting file systems, and how full they are.
//!
//! Lives here: a device's file system on a folder, the end of whatever is mounted on a
//! path, statfs. Bind mounts are [`super::bind`]'s, what is mounted where
//! [`super::mountinfo`]'s.
//!
//! What a reader gets wrong: mount and umount of a device's file system read and write
//! the device, so they wait for ever when its cluster is gone. They run in the helper
//! process, which can be killed. That costs a fork, so the end of a bind mount, which only
//! goes out of sight, is not given to it. Never lazy and never forced: a file system that
//! is only out of sight still writes to a device that somebody else may map.

use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::statvfs::fstatvfs;

use super::child::call_blocking;
use super::helper::unmount_here;
use super::job::Job;
use super::mount_options::MountOptions;
use super::mountinfo::Mount;
use super::place::Place;
use super::step::{step, step_on_thread};
use super::thread::on_thread;
use super::{HostError, Result, mountinfo};

/// More mounts than this on one path are no accident of ours.
const MOST_STACKED: usize = 32;

/// Mounts the device's file system on an existing folder, in the helper process.
///
/// # Errors
/// The kernel's answer; ETIMEDOUT at the limit.
pub async fn mount(
    device: &Path,
    target: &Path,
    fs_type: &str,
    options: &MountOptions,
    limit: Duration,
) -> Result<()> {
    let object = format!("{} at {}", device.display(), target.display());
    let job = Job::Mount {
        source: device.to_owned(),
        target: target.to_owned(),
        fs_type: fs_type.to_owned(),
        flags: options.flags,
        data: options.data.clone(),
    };
    step_on_thread("host: mount", "mount", object, move || call_blocking(&job, limit)).await
}

/// Unmounts whatever is mounted at exactly this path, however often; gives how many mounts
/// that were. The last mount of a file system goes in the helper process.
///
/// # Errors
/// EBUSY while somebody uses it; ETIMEDOUT at the limit.
pub async fn unmount(target: &Path, limit: Duration) -> Result<usize> {
    let path = target.to_owned();
    on_thread("unmount", &target.display().to_string(), move || {
        for count in 0..MOST_STACKED {
            let Some(top) = mountinfo::at(&path)? else { return Ok(count) };
            let object = path.display().to_string();
            step("host: unmount", "unmount", &object, || unmount_top(&path, &top, limit))?;
        }
        Err(HostError::new("unmount", path.display().to_string(), libc::EBUSY)
            .with(format!("more than {MOST_STACKED} mounts are stacked on it")))
    })
    .await
}

fn unmount_top(path: &Path, top: &Mount, limit: Duration) -> Result<()> {
    let unmounted = if is_seen_elsewhere(top)? {
        let failed = |errno| HostError::new("unmount", path.display().to_string(), errno as i32);
        unmount_here(path).map_err(failed)
    } else {
        call_blocking(&Job::Unmount { target: path.to_owned() }, limit)
    };
    match unmounted {
        // Somebody else was faster.
        Err(error) if error.is(libc::EINVAL) && mountinfo::at(path)?.is_none() => Ok(()),
        other => other,
    }
}

/// Whether the file system stays mounted without this mount: then its end reads and writes
/// nothing (`deactivate_super` ends the file system with its last mount).
fn is_seen_elsewhere(mount: &Mount) -> Result<bool> {
    let mounts = mountinfo::all()?;
    Ok(mounts.iter().any(|other| other.id != mount.id && other.device == mount.device))
}

/// How full a file system is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fill {
    /// All there is.
    pub total: u64,
    /// What users may still take.
    pub available: u64,
    /// What is taken.
    pub used: u64,
}

/// Bytes and inodes of a file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// In bytes.
    pub bytes: Fill,
    /// In inodes.
    pub inodes: Fill,
}

/// How full the file system at the path is; on a thread of its own, for at most `limit`.
///
/// # Errors
/// The kernel's answer; ETIMEDOUT when it gives none.
pub async fn usage(path: PathBuf, limit: Duration) -> Result<Usage> {
    let object = path.display().to_string();
    let asked = step_on_thread("host: statfs", "statfs", object.clone(), move || usage_here(&path));
    tokio::time::timeout(limit, asked).await.unwrap_or_else(|_| {
        Err(HostError::new("statfs", object, libc::ETIMEDOUT)
            .with(format!("the kernel has not answered in {:.1} s", limit.as_secs_f64())))
    })
}

fn usage_here(path: &Path) -> Result<Usage> {
    let place = Place::require(path)?;
    let failed = |errno| HostError::new("statfs", path.display().to_string(), errno as i32);
    let status = fstatvfs(&place).map_err(failed)?;
    let unit = status.fragment_size();
    // As df shows them: what only root may take counts neither as used nor as available.
    let (blocks, free, available) = (status.blocks(), status.blocks_free(), status.blocks_available());
    let (files, free_files, available_files) =
        (status.files(), status.files_free(), status.files_available());
    Ok(Usage {
        bytes: Fill {
            total: blocks * unit,
            available: available * unit,
            used: blocks.saturating_sub(free) * unit,
        },
        inodes: Fill { total: files, available: available_files, used: files.saturating_sub(free_files) },
    })
}
