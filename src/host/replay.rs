//! Replaying a file system's journal on a device, without leaving it mounted anywhere.
//!
//! ext's is replayed by e2fsck. XFS' only the kernel replays, when it mounts; so the file
//! system is brought up and let go of again without a mount point (fsopen(2), Linux 5.2):
//! no kill leaves a mount behind, and no path is needed.
//!
//! Not here: whether anybody may write to the image.

use std::ffi::{CStr, CString};
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::ptr::null;
use std::time::Duration;

use nix::errno::Errno;

use super::Result;
use super::child;
use super::filesystem::{self, Care, step};
use super::fs_kind::FsKind;
use super::job::Job;

// include/uapi/linux/mount.h; the libc crate has the calls' numbers only.
const FSOPEN_CLOEXEC: libc::c_uint = 1;
const FSCONFIG_SET_FLAG: libc::c_uint = 0;
const FSCONFIG_SET_STRING: libc::c_uint = 1;
const FSCONFIG_CMD_CREATE: libc::c_uint = 6;

/// Replays the journal of the file system on the device, which must be writable and mounted
/// nowhere.
///
/// # Errors
/// The kernel's or e2fsck's; EUCLEAN where a person has to decide.
pub async fn replay(kind: FsKind, device: &Path, limit: Duration) -> Result<()> {
    let object = device.display().to_string();
    step("host: replay journal", &object, async {
        if kind.is_ext() {
            return filesystem::fsck(kind, device, Care::Usual).await;
        }
        child::call(Job::Replay { device: device.to_owned() }, limit).await
    })
    .await
}

/// Brings an XFS up, writable, and lets it go; in whichever process this is.
pub(super) fn replay_xfs_here(device: &Path) -> nix::Result<()> {
    let device = CString::new(device.as_os_str().as_bytes()).map_err(|_| Errno::EINVAL)?;
    // SAFETY: the name ends with NUL and lives through the call.
    let fd = unsafe { libc::syscall(libc::SYS_fsopen, c"xfs".as_ptr(), FSOPEN_CLOEXEC) };
    let fd = RawFd::try_from(Errno::result(fd)?).map_err(|_| Errno::EBADF)?;
    // SAFETY: the kernel has just given this descriptor to us.
    let context = unsafe { OwnedFd::from_raw_fd(fd) };
    configure(&context, FSCONFIG_SET_STRING, Some(c"source"), Some(&device))?;
    // A clone has its source's uuid, which may be mounted here.
    configure(&context, FSCONFIG_SET_FLAG, Some(c"nouuid"), None)?;
    configure(&context, FSCONFIG_CMD_CREATE, None, None)
    // With the context the file system goes, cleanly unmounted.
}

fn configure(
    context: &OwnedFd,
    command: libc::c_uint,
    key: Option<&CStr>,
    value: Option<&CStr>,
) -> nix::Result<()> {
    let pointer = |text: Option<&CStr>| text.map_or(null(), CStr::as_ptr);
    // SAFETY: the descriptor is open; the texts end with NUL and live through the call.
    let answer = unsafe {
        libc::syscall(libc::SYS_fsconfig, context.as_raw_fd(), command, pointer(key), pointer(value), 0)
    };
    Errno::result(answer).map(drop)
}
