//! NodeGetVolumeStats: how full a published volume is.
//!
//! What a reader gets wrong: this is asked every minute for every volume, also while a
//! cluster is gone. It asks no cluster, takes no lock, and a kernel that does not answer
//! costs a thread, not the caller's time.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::host::device::{self, Device};
use crate::host::mount::{self, Fill};
use crate::host::thread::on_thread;
use crate::node::staged::{self, Occupant};
use crate::volume::error::{Error, Kind, Result};
use crate::volume::operation::Deadline;
use crate::volume::request::{Amount, Usage};

/// statfs of a healthy file system takes microseconds.
const LONGEST: Duration = Duration::from_secs(10);

/// A volume's figures, and what is wrong with it, if anything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    /// `None` when the kernel could not tell because of `trouble`.
    pub usage: Option<Usage>,
    /// Why the volume cannot be used at this path.
    pub trouble: Option<String>,
}

/// The figures of the volume at the path, which may be a target or a staged one.
///
/// # Errors
/// [`Kind::NotFound`] when the volume is not at that path; [`Kind::Timeout`] when the
/// kernel does not answer.
pub async fn stats(volume_id: &str, volume_path: &Path, deadline: Deadline) -> Result<Health> {
    let limit = deadline.left_at_most(LONGEST);
    let absent = |what: String| {
        Error::new(Kind::NotFound, format!("volume {volume_id} is not at {volume_path:?}: {what}"))
    };
    // A path that cannot be one is a place where no volume is.
    let path = staged::path("volume_path", volume_path).map_err(|error| absent(error.to_string()))?;
    let found = tokio::time::timeout(limit, staged::at(&path)).await;
    let found = found.map_err(|_| {
        let text = format!(
            "{}: the kernel has not said in {:.1} s what is mounted there",
            path.display(),
            limit.as_secs_f64()
        );
        Error::new(Kind::Timeout, text)
    })?;
    let found = found.map_err(|error| match error.kind {
        // A symlink in the path: nothing that is at its end was published there.
        Kind::Precondition => absent(error.to_string()),
        _ => error,
    })?;
    let Some(occupant) = found else { return Err(absent("nothing is mounted there".to_owned())) };
    if occupant.of_volume(volume_id, None).is_none() && !is_noted(&occupant, volume_id).await? {
        // Nothing tells any more whose it was; the CO says that it is this volume's path.
        if occupant.is_stale(volume_id, None) && matches!(occupant.device, Device::Gone) {
            let trouble = format!("{} is at {}", occupant.describe(), path.display());
            return Ok(Health { usage: None, trouble: Some(trouble) });
        }
        return Err(absent(format!("{} is", occupant.describe())));
    }
    let health = measure(path, &occupant, deadline.left_at_most(LONGEST)).await?;
    let trouble = match health.trouble {
        Some(trouble) => Some(trouble),
        None => occupant.trouble().await,
    };
    Ok(Health { trouble, ..health })
}

/// Whether the stash where the same device is staged says that it is this volume's: an image with
/// another name than the handle's uuid.
async fn is_noted(occupant: &Occupant, volume_id: &str) -> Result<bool> {
    let Device::Image(mapping) = &occupant.device else { return Ok(false) };
    let noted = staged::noted(mapping, &[]).await?;
    Ok(noted
        .iter()
        .any(|(name, stash)| name == volume_id && staged::belongs(mapping, volume_id, Some(stash))))
}

async fn measure(path: PathBuf, occupant: &Occupant, limit: Duration) -> Result<Health> {
    let measured = match occupant.number {
        Some(number) if occupant.is_block() => {
            let object = path.display().to_string();
            let size = on_thread("read size", &object, move || device::size(number)).await;
            size.map(|total| Usage::Block { total })
        }
        _ => mount::usage(path, limit)
            .await
            .map(|usage| Usage::Filesystem { bytes: amount(usage.bytes), inodes: amount(usage.inodes) }),
    };
    match measured {
        Ok(usage) => Ok(Health { usage: Some(usage), trouble: None }),
        // A file system that has shut itself down, or whose device is gone.
        Err(error)
            if matches!(
                error.errno,
                libc::EIO | libc::ESHUTDOWN | libc::ENODEV | libc::ENXIO | libc::ESTALE
            ) =>
        {
            Ok(Health { usage: None, trouble: Some(error.to_string()) })
        }
        Err(error) => Err(error.into()),
    }
}

fn amount(fill: Fill) -> Amount {
    Amount { total: fill.total, used: fill.used, available: fill.available }
}
