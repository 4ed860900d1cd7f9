//! Bind mounts: the same folder or file, seen at a second place.
//!
//! Lives here: making one, writable or read-only. It goes by [`super::mount::unmount`].
//!
//! What a reader gets wrong: a read-only bind mount made by mount(2) is writable for a
//! moment, and stays so when the process dies between the two calls; whoever repeats the
//! call then finds a mount that differs from what was asked for. So the mount is made
//! detached, made read-only, and only then attached (open_tree, mount_setattr and
//! move_mount; Linux 5.12). Older kernels get the two calls.

use std::ffi::CStr;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd};
use std::path::Path;

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use super::mountinfo::{self, Mount};
use super::place::Place;
use super::step::step_on_thread;
use super::{HostError, Result};

// include/uapi/linux/mount.h; the libc crate has the calls' numbers only.
const OPEN_TREE_CLONE: libc::c_int = 1;
const MOVE_MOUNT_F_EMPTY_PATH: libc::c_int = 0x04;
const MOVE_MOUNT_T_EMPTY_PATH: libc::c_int = 0x40;
const MOUNT_ATTR_RDONLY: u64 = 1;

/// `struct mount_attr`, version 0.
#[repr(C)]
#[derive(Default)]
struct MountAttributes {
    set: u64,
    clear: u64,
    propagation: u64,
    user_namespace: u64,
}

/// Shows `source` at `target` too; both exist, and are both folders or both files.
/// On a thread of its own. No symlink is followed in either.
///
/// # Errors
/// The kernel's answer; nothing is mounted then.
pub async fn bind(source: &Path, target: &Path, read_only: bool) -> Result<()> {
    bind_checked(source, target, read_only, |_| Ok(())).await
}

/// Shows what is mounted at `target` too, as [`bind`] does. It is that very mount, whatever its
/// path leads to by now.
///
/// # Errors
/// ESTALE when it is not at its path any more; as [`bind`].
pub async fn bind_mount(source: &Mount, target: &Path, read_only: bool) -> Result<()> {
    let wanted = source.clone();
    let check = move |place: &Place| {
        // The opened place keeps the mount, and with it its number.
        let now = mountinfo::of(place)?;
        if now.is_some_and(|now| now.id == wanted.id && now.shows_the_same_as(&wanted)) {
            return Ok(());
        }
        let point = wanted.point.display().to_string();
        Err(HostError::new("bind", point, libc::ESTALE).with("what was mounted there is not there any more"))
    };
    bind_checked(&source.point, target, read_only, check).await
}

async fn bind_checked(
    source: &Path,
    target: &Path,
    read_only: bool,
    check: impl FnOnce(&Place) -> Result<()> + Send + 'static,
) -> Result<()> {
    let object = format!("{} at {}", source.display(), target.display());
    let (source, target) = (source.to_owned(), target.to_owned());
    step_on_thread("host: bind", "bind", object.clone(), move || {
        let (source, target) = (Place::require(&source)?, Place::require(&target)?);
        check(&source)?;
        bind_here(&source, &target, read_only).map_err(|errno| HostError::new("bind", object, errno as i32))
    })
    .await
}

fn bind_here(source: &Place, target: &Place, read_only: bool) -> nix::Result<()> {
    let tree = match clone(source.as_fd(), read_only) {
        Err(Errno::ENOSYS) => return bind_in_two_calls(source, target, read_only),
        other => other?,
    };
    // SAFETY: both descriptors are open and both names end with NUL; all live through the call.
    let moved = unsafe {
        libc::syscall(
            libc::SYS_move_mount,
            tree.as_raw_fd(),
            c"".as_ptr(),
            target.as_fd().as_raw_fd(),
            c"".as_ptr(),
            MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH,
        )
    };
    Errno::result(moved).map(drop)
}

/// A detached copy of the mount; it is gone with the descriptor unless it is attached.
fn clone(source: BorrowedFd<'_>, read_only: bool) -> nix::Result<OwnedFd> {
    const EMPTY: &CStr = c"";
    let flags = OPEN_TREE_CLONE | libc::O_CLOEXEC | libc::AT_EMPTY_PATH;
    // SAFETY: the descriptor is open and the name ends with NUL.
    let fd = unsafe { libc::syscall(libc::SYS_open_tree, source.as_raw_fd(), EMPTY.as_ptr(), flags) };
    let fd = RawFd::try_from(Errno::result(fd)?).map_err(|_| Errno::EBADF)?;
    // SAFETY: the kernel has just given this descriptor to us.
    let tree = unsafe { OwnedFd::from_raw_fd(fd) };
    if read_only {
        let attributes = MountAttributes { set: MOUNT_ATTR_RDONLY, ..MountAttributes::default() };
        // SAFETY: `attributes` lives through the call, and the size is its own.
        let answer = unsafe {
            libc::syscall(
                libc::SYS_mount_setattr,
                tree.as_raw_fd(),
                EMPTY.as_ptr(),
                libc::AT_EMPTY_PATH,
                &raw const attributes,
                size_of_val(&attributes),
            )
        };
        Errno::result(answer)?;
    }
    Ok(tree)
}

fn bind_in_two_calls(source: &Place, target: &Place, read_only: bool) -> nix::Result<()> {
    const NOTHING: Option<&str> = None;
    let point = target.name();
    mount(Some(&source.name()), &point, NOTHING, MsFlags::MS_BIND, NOTHING)?;
    if !read_only {
        return Ok(());
    }
    // The opened place is below the new mount, so the path is opened anew.
    let point = std::fs::read_link(&point).map_err(|_| Errno::ENOENT)?;
    let flags = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY;
    mount(NOTHING, &point, NOTHING, flags, NOTHING).inspect_err(|_| {
        // Nothing may stay writable; what cannot be undone is found by the repeat.
        let _ = umount2(&point, MntFlags::UMOUNT_NOFOLLOW);
    })
}
