//! Block devices by their numbers, as sysfs shows them.
//!
//! Lives here: which image a number is, where it is mounted, and its size. What is
//! mapped is [`super::krbd`]'s, who holds it [`super::holders`]'.
//!
//! What a reader gets wrong: a device file keeps its numbers when the device behind it
//! is unmapped, and another image may get them then. So a number is looked up anew each
//! time, down to the image that it maps now.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

use super::krbd::{self, Mapping};
use super::mountinfo::{self, Mount};
use super::place::{Kind, Place};
use super::{HostError, Result};

/// What a block device is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Device {
    /// `/dev/rbd<n>`, and the image that it maps now.
    Image(Mapping),
    /// Another device, by its name in `/sys`.
    Other(String),
    /// No device has these numbers any more.
    Gone,
}

impl Device {
    /// What has these numbers now.
    ///
    /// # Errors
    /// sysfs cannot be read.
    pub fn of_number(device: (u32, u32)) -> Result<Self> {
        let file = format!("/sys/dev/block/{}:{}", device.0, device.1);
        let link = match fs::read_link(&file) {
            Ok(link) => link,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Self::Gone),
            Err(error) => return Err(HostError::io("read", file, &error)),
        };
        let name = link.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let Some(number) = name.strip_prefix("rbd").and_then(|number| number.parse::<u32>().ok()) else {
            return Ok(Self::Other(name));
        };
        let mapping = krbd::mappings()?.into_iter().find(|mapping| mapping.number == number);
        // Unmapped between the two looks.
        Ok(mapping.map_or(Self::Gone, Self::Image))
    }
}

/// The numbers of the device behind a mount: that of its file system, or the device file
/// itself that is bound there; `None` when there is neither.
///
/// # Errors
/// The mount point cannot be opened.
pub fn of_mount(mount: &Mount) -> Result<Option<(u32, u32)>> {
    if mount.root != Path::new("/") {
        let kind = Place::open(&mount.point)?.map(|place| place.kind()).transpose()?;
        return Ok(match kind {
            Some(Kind::BlockDevice(device)) => Some(device),
            _ => None,
        });
    }
    // Major 0 is no device: tmpfs, overlay and their like.
    Ok((mount.device.0 != 0).then_some(mount.device))
}

/// Where the mapped image is mounted in this namespace: its file system, or its device
/// file bound somewhere.
///
/// # Errors
/// mountinfo or sysfs cannot be read.
pub fn mounts_of(mapping: &Mapping) -> Result<Vec<Mount>> {
    let file = format!("/sys/block/rbd{}/dev", mapping.number);
    let text = match fs::read_to_string(&file) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(HostError::io("read", file, &error)),
    };
    let numbers = text
        .trim()
        .split_once(':')
        .and_then(|(major, minor)| Some((major.parse().ok()?, minor.parse().ok()?)));
    let numbers: (u32, u32) = numbers.ok_or_else(|| HostError::new("read", file, libc::EPROTO))?;
    // devtmpfs makes the file, so its name there is the kernel's.
    let device_file = Path::new("/").join(format!("rbd{}", mapping.number));
    let mut mounts = mountinfo::all()?;
    mounts.retain(|mount| {
        mount.device == numbers || (mount.fs_type == "devtmpfs" && mount.root == device_file)
    });
    Ok(mounts)
}

/// Opens the mapping's device, proven to be that image's. While it is open the kernel
/// refuses to unmap it, so its name stays what it is.
///
/// # Errors
/// ENOENT without the file; ESTALE when the name or the number is another device's.
pub fn hold(mapping: &Mapping) -> Result<File> {
    let path = mapping.device();
    let name = path.display().to_string();
    let failed = |error: &std::io::Error| HostError::io("open", &*name, error);
    let device = File::open(&path).map_err(|error| failed(&error))?;
    let inode = device.metadata().map_err(|error| failed(&error))?;
    let now = if inode.file_type().is_block_device() {
        Device::of_number((libc::major(inode.rdev()), libc::minor(inode.rdev())))?
    } else {
        Device::Other("no block device".to_owned())
    };
    match now {
        Device::Image(found) if found.is_same(mapping) => Ok(device),
        other => {
            let text = format!("it is not image {} any more, but {other:?}", mapping.image_id);
            Err(HostError::new("open", name, libc::ESTALE).with(text))
        }
    }
}

/// Whether somebody has claimed the device for itself: a mount in whatever namespace, a device on
/// top of it (LVM, multipath, a loop device), mkfs or fsck. Who has merely opened it has not.
///
/// # Errors
/// ENOENT without the file; what the device answers to an open.
pub fn is_claimed(path: &Path) -> Result<bool> {
    match File::options().read(true).custom_flags(libc::O_EXCL).open(path) {
        Ok(_) => Ok(false),
        Err(error) if error.raw_os_error() == Some(libc::EBUSY) => Ok(true),
        Err(error) => Err(HostError::io("open", path.display().to_string(), &error)),
    }
}

/// The device's size in bytes.
///
/// # Errors
/// There is no such device.
pub fn size(device: (u32, u32)) -> Result<u64> {
    read_size(format!("/sys/dev/block/{}:{}/size", device.0, device.1))
}

/// The size of the mapping's device in bytes: what a program that opens it sees.
///
/// # Errors
/// ENODEV when the device is not this mapping's any more.
pub fn size_of(mapping: &Mapping) -> Result<u64> {
    krbd::require(mapping, "read size")?;
    read_size(format!("/sys/block/rbd{}/size", mapping.number))
}

fn read_size(file: String) -> Result<u64> {
    let text = fs::read_to_string(&file).map_err(|error| HostError::io("read", &*file, &error))?;
    // In sectors of 512 bytes, whatever the device's own are (Documentation/ABI/stable/sysfs-block).
    let sectors: Option<u64> = text.trim().parse().ok();
    sectors.map(|sectors| sectors * 512).ok_or_else(|| HostError::new("read", file, libc::EPROTO))
}
