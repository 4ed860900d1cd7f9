//! Paths that a caller chose, used without following a symlink anywhere in them.
//!
//! Lives here: opening, making, reading and removing one file or folder by an absolute
//! path. Mounting on it is [`super::mount`]'s. Nothing here removes a tree.
//!
//! What a reader gets wrong: a check of a path says nothing about the path a moment
//! later. So a path is opened once, as a place (O_PATH, which touches no device), and
//! what is done then is done to the descriptor: through `/proc/self/fd`, or by a name in
//! the opened parent folder.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, OpenHow, ResolveFlag, openat, openat2, renameat};
use nix::sys::stat::{Mode, SFlag, fstat, mkdirat};
use nix::unistd::{UnlinkatFlags, fsync, unlinkat};

use super::device_numbers::split;
use super::step::step;
use super::{HostError, Result};

/// Whether this kernel can open a path without following a symlink: openat2(2), Linux 5.6.
///
/// # Errors
/// ENOSYS when it is older.
pub fn require_kernel() -> Result<()> {
    let opened = step("host: openat2", "openat2", "/", || Place::open(Path::new("/")));
    match opened {
        Err(error) if error.is(libc::ENOSYS) => Err(error.with(
            "this node's kernel is older than Linux 5.6, which the driver needs (openat2): no volume could be \
             staged here",
        )),
        // Whatever else is wrong with it is told where it matters.
        _ => Ok(()),
    }
}

/// What is at a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A folder.
    Directory,
    /// A regular file.
    File,
    /// A block device with its major and minor number.
    BlockDevice((u32, u32)),
    /// Anything else: a socket, a pipe, a character device.
    Other,
}

/// An opened place.
#[derive(Debug)]
pub struct Place {
    fd: OwnedFd,
    path: PathBuf,
}

impl Place {
    /// Opens an absolute path; `None` when nothing is there.
    ///
    /// # Errors
    /// ELOOP when a symlink is in the path, and the kernel's other answers to openat2(2).
    pub fn open(path: &Path) -> Result<Option<Self>> {
        let how =
            OpenHow::new().flags(OFlag::O_PATH | OFlag::O_CLOEXEC).resolve(ResolveFlag::RESOLVE_NO_SYMLINKS);
        if !path.is_absolute() {
            return Err(failed("open", path)(Errno::EINVAL).with("the path is not absolute"));
        }
        match openat2(AT_FDCWD, path, how) {
            Ok(fd) => Ok(Some(Self { fd, path: path.to_owned() })),
            Err(Errno::ENOENT | Errno::ENOTDIR) => Ok(None),
            Err(Errno::ELOOP) => Err(failed("open", path)(Errno::ELOOP)
                .with("a symbolic link is in this path, and the driver follows none")),
            Err(errno) => Err(failed("open", path)(errno)),
        }
    }

    /// As [`Place::open`], where nothing being there is an error (ENOENT).
    ///
    /// # Errors
    /// As [`Place::open`].
    pub fn require(path: &Path) -> Result<Self> {
        Self::open(path)?.ok_or_else(|| failed("open", path)(Errno::ENOENT))
    }

    /// The name by which system calls reach this very place.
    pub fn name(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.fd.as_raw_fd()))
    }

    /// What is there.
    ///
    /// # Errors
    /// The answer of fstat(2).
    pub fn kind(&self) -> Result<Kind> {
        let status = fstat(&self.fd).map_err(failed("stat", &self.path))?;
        let format = SFlag::from_bits_truncate(status.st_mode) & SFlag::S_IFMT;
        Ok(match format {
            SFlag::S_IFDIR => Kind::Directory,
            SFlag::S_IFREG => Kind::File,
            SFlag::S_IFBLK => Kind::BlockDevice(split(status.st_rdev)),
            _ => Kind::Other,
        })
    }

    /// The kernel's number of the mount that the place belongs to, as in mountinfo.
    ///
    /// # Errors
    /// procfs does not tell.
    pub fn mount_id(&self) -> Result<u32> {
        let file = format!("/proc/self/fdinfo/{}", self.fd.as_raw_fd());
        let text = std::fs::read_to_string(&file).map_err(|error| HostError::io("read", &*file, &error))?;
        let id = text.lines().find_map(|line| line.strip_prefix("mnt_id:")?.trim().parse().ok());
        id.ok_or_else(|| HostError::new("read", file, libc::EPROTO).with("it has no mnt_id"))
    }
}

impl AsFd for Place {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Makes a folder; `false` when something is there already.
///
/// # Errors
/// The parent is missing or behind a symlink, or mkdirat(2) refuses.
pub fn make_directory(path: &Path, mode: u32) -> Result<bool> {
    let (parent, name) = parent(path)?;
    match mkdirat(&parent, name, Mode::from_bits_truncate(mode)) {
        Ok(()) => Ok(true),
        Err(Errno::EEXIST) => Ok(false),
        Err(errno) => Err(failed("mkdir", path)(errno)),
    }
}

/// Makes an empty file; `false` when something is there already.
///
/// # Errors
/// As [`make_directory`].
pub fn make_file(path: &Path, mode: u32) -> Result<bool> {
    let (parent, name) = parent(path)?;
    let flags = OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    match openat(&parent, name, flags, Mode::from_bits_truncate(mode)) {
        Ok(_) => Ok(true),
        Err(Errno::EEXIST) => Ok(false),
        Err(errno) => Err(failed("create", path)(errno)),
    }
}

/// Removes an empty folder or a file, whichever is there; a symlink itself, never what
/// it points to. `false` when nothing was there.
///
/// # Errors
/// ENOTEMPTY for a folder with content, EBUSY for a mount point.
pub fn remove(path: &Path) -> Result<bool> {
    let (parent, name) = match parent(path) {
        Err(error) if error.is(libc::ENOENT) => return Ok(false),
        other => other?,
    };
    let removed = match unlinkat(&parent, name, UnlinkatFlags::NoRemoveDir) {
        Err(Errno::EISDIR) => unlinkat(&parent, name, UnlinkatFlags::RemoveDir),
        other => other,
    };
    match removed {
        Ok(()) => Ok(true),
        Err(Errno::ENOENT) => Ok(false),
        Err(errno) => Err(failed("remove", path)(errno)),
    }
}

/// Removes what a mount was on: an empty folder or an empty file; `false` when nothing
/// was there.
///
/// # Errors
/// EINVAL for a symlink, a file with content and what else is never a mount point of
/// ours; as [`remove`].
pub fn remove_mount_point(path: &Path) -> Result<bool> {
    let Some(place) = Place::open(path)? else { return Ok(false) };
    let status = fstat(&place).map_err(failed("stat", path))?;
    match place.kind()? {
        Kind::Directory => remove(path),
        Kind::File if status.st_size == 0 => remove(path),
        _ => Err(failed("remove", path)(Errno::EINVAL).with("it is neither a folder nor an empty file")),
    }
}

/// Reads a small regular file; `None` when nothing is there.
///
/// # Errors
/// EFBIG when it is longer than `most` bytes, EINVAL when it is no regular file.
pub fn read(path: &Path, most: u64) -> Result<Option<Vec<u8>>> {
    let Some(place) = Place::open(path)? else { return Ok(None) };
    if place.kind()? != Kind::File {
        return Err(failed("read", path)(Errno::EINVAL).with("it is not a regular file"));
    }
    let io = |error: std::io::Error| HostError::io("read", path.display().to_string(), &error);
    let mut bytes = Vec::new();
    File::open(place.name()).map_err(io)?.take(most + 1).read_to_end(&mut bytes).map_err(io)?;
    if bytes.len() as u64 > most {
        return Err(failed("read", path)(Errno::EFBIG));
    }
    Ok(Some(bytes))
}

/// Writes a file that is there as a whole or not at all, and durably so: a temporary
/// one beside it is written, synced and renamed.
///
/// # Errors
/// The node's own, such as ENOSPC; nothing is left of the temporary file then.
pub fn write_whole(path: &Path, bytes: &[u8], mode: u32) -> Result<()> {
    let (parent, name) = parent(path)?;
    let mut temporary = OsStr::new(".").to_owned();
    temporary.push(name);
    temporary.push(".tmp");
    let write = || -> std::io::Result<()> {
        let flags = OFlag::O_CREAT | OFlag::O_TRUNC | OFlag::O_WRONLY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let fd = openat(&parent, &*temporary, flags, Mode::from_bits_truncate(mode))?;
        let mut file = File::from(fd);
        file.write_all(bytes)?;
        file.sync_all()?;
        renameat(&parent, &*temporary, &parent, name)?;
        Ok(fsync(&parent)?)
    };
    write().map_err(|error| {
        // It may not have been made; the next write replaces it otherwise.
        let _ = unlinkat(&parent, &*temporary, UnlinkatFlags::NoRemoveDir);
        HostError::io("write", path.display().to_string(), &error)
    })
}

/// The opened parent folder and the last name. Opened for reading, since a folder
/// that is opened as a place only cannot be synced.
fn parent(path: &Path) -> Result<(OwnedFd, &OsStr)> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(failed("open", path)(Errno::EINVAL).with("the path has no parent folder"));
    };
    let place = Place::require(parent)?;
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let folder = nix::fcntl::open(&place.name(), flags, Mode::empty()).map_err(failed("open", parent))?;
    Ok((folder, name))
}

fn failed(op: &'static str, path: &Path) -> impl Fn(Errno) -> HostError {
    move |errno| HostError::new(op, path.display().to_string(), errno as i32)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    #[test]
    fn no_symlink_is_followed_anywhere() {
        let folder = tempfile::tempdir().unwrap();
        let (real, link) = (folder.path().join("real"), folder.path().join("link"));
        std::fs::create_dir(&real).unwrap();
        std::fs::write(real.join("file"), "x").unwrap();
        symlink(&real, &link).unwrap();
        for path in [link.clone(), link.join("file")] {
            let error = Place::open(&path).unwrap_err();
            assert!(error.is(libc::ELOOP) && error.to_string().contains("symbolic link"), "{error}");
        }
        assert!(make_directory(&link.join("new"), 0o750).unwrap_err().is(libc::ELOOP));
        assert!(write_whole(&link.join("new"), b"x", 0o600).unwrap_err().is(libc::ELOOP));
        assert!(remove(&link).unwrap(), "the link itself goes");
        assert!(real.join("file").exists());
    }

    #[test]
    fn writes_whole_files_and_reads_bounded_ones() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("image-meta.json");
        assert_eq!(read(&path, 10).unwrap(), None);
        write_whole(&path, b"old and long", 0o600).unwrap();
        write_whole(&path, b"new", 0o600).unwrap();
        assert_eq!(read(&path, 3).unwrap().unwrap(), b"new");
        assert!(read(&path, 2).unwrap_err().is(libc::EFBIG));
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn making_and_removing_say_what_was_there() {
        let folder = tempfile::tempdir().unwrap();
        let (directory, file) = (folder.path().join("d"), folder.path().join("f"));
        assert!(make_directory(&directory, 0o750).unwrap());
        assert!(!make_directory(&directory, 0o750).unwrap());
        assert!(make_file(&file, 0o600).unwrap());
        assert!(!make_file(&file, 0o600).unwrap());
        assert_eq!(Place::require(&directory).unwrap().kind().unwrap(), Kind::Directory);
        assert_eq!(Place::require(&file).unwrap().kind().unwrap(), Kind::File);
        std::fs::write(directory.join("data"), "x").unwrap();
        assert!(remove(&directory).unwrap_err().is(libc::ENOTEMPTY));
        assert!(remove_mount_point(&directory.join("data")).unwrap_err().is(libc::EINVAL));
        std::fs::remove_file(directory.join("data")).unwrap();
        assert!(remove(&directory).unwrap() && remove(&file).unwrap());
        assert!(!remove(&directory).unwrap() && !remove(&directory.join("below")).unwrap());
    }

    #[test]
    fn a_relative_path_is_refused() {
        assert!(Place::open(Path::new("some/path")).unwrap_err().is(libc::EINVAL));
    }
}
