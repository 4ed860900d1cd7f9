//! Growing a mounted file system to its device's size.
//!
//! Not here: the decision (`superblock::Superblock::can_grow`, asked before the
//! mount) and growing the image itself.

use std::ffi::OsString;
use std::path::Path;
use std::time::Duration;

use super::Result;
use super::command::{self, Command};
use super::filesystem::step;
use super::fs_kind::FsKind;

/// A grow of many terabytes takes minutes; a repeated call joins it.
const LONGEST: Duration = Duration::from_secs(2 * 3600);

/// Grows the file system on `device`, mounted at `mount_point`; one that is
/// large enough already is left as it is.
///
/// # Errors
/// The program's last words.
pub async fn grow(kind: FsKind, device: &Path, mount_point: &Path) -> Result<()> {
    // resize2fs takes the device and finds its mount point; xfs_growfs takes the mount point.
    let (program, argument): (_, OsString) = match kind {
        FsKind::Xfs => ("xfs_growfs", mount_point.into()),
        FsKind::Ext2 | FsKind::Ext3 | FsKind::Ext4 => ("resize2fs", device.into()),
    };
    let object = device.display().to_string();
    step("host: grow file system", &object.clone(), async {
        command::run(Command::new(program, object, [argument]), LONGEST).await?.success()?;
        Ok(())
    })
    .await
}
