//! The kernel's RBD client, through `/sys/bus/rbd` (Documentation/ABI/testing/sysfs-bus-rbd).
//!
//! Lives here: list, map and unmap, all blocking; callers use a thread of their own.
//! Not here: which image is mapped with which options, and what the kernel's answers
//! mean; that is `node::mapping`.
//!
//! What a reader gets wrong: the kernel does not say which device a map made, and a
//! second map of an image makes a second device. Writing the map line may take as long
//! as `mount_timeout`, and under one lock for all maps of the machine.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;

use super::error::{HostError, Result};
use super::step::step;
use super::{keyring, netns};

pub use super::map_line::{LINE, MapRequest, spec};

const BUS: &str = "/sys/bus/rbd";

/// [`HostError::op`] of the kernel's answer to a map.
pub const MAP: &str = "krbd map";

/// An image that is mapped on this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mapping {
    /// The n of `/dev/rbd<n>`.
    pub number: u32,
    /// The pool's name at the time of the map.
    pub pool: String,
    /// Ceph's number of the pool.
    pub pool_id: i64,
    /// The RADOS namespace, empty for none.
    pub namespace: String,
    /// The image's name at the time of the map.
    pub image: String,
    /// The image's id, which a rename does not change.
    pub image_id: String,
    /// The mapped snapshot, if it is one.
    pub snapshot: Option<String>,
    /// The cluster.
    pub cluster_fsid: String,
    /// The kernel client's address (`ip:port/nonce`), as its watch shows it.
    pub client_address: String,
    /// The kernel client's number (`client.<n>`).
    pub client_id: u64,
    /// Bytes.
    pub size: u64,
    /// Whether the device refuses writes.
    pub read_only: bool,
}

impl Mapping {
    /// The device file.
    pub fn device(&self) -> PathBuf {
        PathBuf::from(format!("/dev/rbd{}", self.number))
    }

    /// Whether both are one device; its number alone may be another image's by now.
    pub fn is_same(&self, other: &Self) -> bool {
        let of = |mapping: &Self| (mapping.number, mapping.pool_id, mapping.client_id);
        of(self) == of(other) && self.image_id == other.image_id && self.cluster_fsid == other.cluster_fsid
    }

    /// Whether this is that image (not a snapshot of it), on whichever cluster.
    pub fn is_image(&self, pool: &str, namespace: &str, image: &str) -> bool {
        self.pool == pool && self.namespace == namespace && self.image == image && self.snapshot.is_none()
    }
}

/// Whether the kernel has its RBD client loaded.
pub fn is_loaded() -> bool {
    Path::new(BUS).exists()
}

/// All images and snapshots that are mapped now. One that is unmapped meanwhile is left out.
///
/// # Errors
/// sysfs cannot be read. A kernel without rbd has no mappings.
pub fn mappings() -> Result<Vec<Mapping>> {
    let folder = format!("{BUS}/devices");
    let failed = |error: &io::Error| HostError::io("list mappings", folder.clone(), error);
    let entries = match fs::read_dir(&folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed(&error)),
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry.map_err(|error| failed(&error))?;
        let Some(number) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        found.extend(Entry::open(number)?.map(|entry| entry.mapping()).transpose()?.flatten());
    }
    found.sort_by_key(|mapping| mapping.number);
    Ok(found)
}

fn is_gone(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENODEV | libc::ENXIO))
}

/// A device's folder in sysfs, opened once. What is read in it is all of one device, and ends with
/// that: its number may be another image's a moment later, and the path would lead there.
#[derive(Debug)]
pub struct Entry {
    number: u32,
    folder: File,
}

impl Entry {
    /// Of the device with that number; `None` when there is none.
    ///
    /// # Errors
    /// sysfs cannot be read.
    pub fn open(number: u32) -> Result<Option<Self>> {
        match File::open(format!("{BUS}/devices/{number}")) {
            Ok(folder) => Ok(Some(Self { number, folder })),
            Err(error) if is_gone(&error) => Ok(None),
            Err(error) => Err(Self::failed(number, &error)),
        }
    }

    /// What the device maps; `None` when it has been unmapped since.
    ///
    /// # Errors
    /// sysfs cannot be read or understood.
    pub fn mapping(&self) -> Result<Option<Mapping>> {
        match self.read_all() {
            Ok(mapping) => Ok(Some(mapping)),
            Err(error) if is_gone(&error) => Ok(None),
            Err(error) => Err(Self::failed(self.number, &error)),
        }
    }

    fn failed(number: u32, error: &io::Error) -> HostError {
        HostError::io("read mapping", format!("{BUS}/devices/{number}"), error)
    }

    fn read(&self, name: &str) -> io::Result<String> {
        let file = openat(&self.folder, name, OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty())?;
        Ok(io::read_to_string(File::from(file))?.trim_end().to_owned())
    }

    fn read_all(&self) -> io::Result<Mapping> {
        let bad = |name: &str| io::Error::other(format!("{name} is not as the kernel documents it"));
        // In another folder, so it comes first: as long as this one is there, the number is its own.
        let read_only = fs::read_to_string(format!("/sys/block/rbd{}/ro", self.number))?;
        let snapshot = self.read("current_snap")?;
        Ok(Mapping {
            number: self.number,
            pool: self.read("pool")?,
            pool_id: self.read("pool_id")?.parse().map_err(|_| bad("pool_id"))?,
            namespace: self.read("pool_ns")?,
            image: self.read("name")?,
            image_id: self.read("image_id")?,
            snapshot: (snapshot != "-").then_some(snapshot),
            cluster_fsid: self.read("cluster_fsid")?,
            client_address: self.read("client_addr")?,
            client_id: self
                .read("client_id")?
                .strip_prefix("client")
                .and_then(|id| id.parse().ok())
                .ok_or_else(|| bad("client_id"))?,
            size: self.read("size")?.parse().map_err(|_| bad("size"))?,
            read_only: read_only.trim() != "0",
        })
    }
}

/// The mappings of images of that name, on whichever cluster.
///
/// # Errors
/// As [`mappings`].
pub fn find(pool: &str, namespace: &str, image: &str) -> Result<Vec<Mapping>> {
    let mut found = mappings()?;
    found.retain(|mapping| mapping.is_image(pool, namespace, image));
    Ok(found)
}

/// The monitors with which the image was mapped; none where the kernel does not tell
/// (before Linux 4.9).
pub fn monitors(mapping: &Mapping) -> Vec<SocketAddr> {
    let file = format!("{BUS}/devices/{}/config_info", mapping.number);
    // The map line as it was written: the monitors come first.
    let line = fs::read_to_string(file).unwrap_or_default();
    let monitors = line.split_whitespace().next().unwrap_or_default().split(',');
    monitors.filter_map(|monitor| monitor.parse().ok()).collect()
}

/// The features that this kernel can map, as librbd's bits; `None` before Linux 4.11,
/// which does not tell.
///
/// # Errors
/// The file cannot be read or understood.
pub fn supported_features() -> Result<Option<u64>> {
    let path = format!("{BUS}/supported_features");
    let failed = |error: &io::Error| HostError::io("read", path.clone(), error);
    match fs::read_to_string(&path) {
        Ok(text) => u64::from_str_radix(text.trim().trim_start_matches("0x"), 16)
            .map(Some)
            .map_err(|_| failed(&io::Error::other(format!("not a hexadecimal number: {}", text.trim())))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed(&error)),
    }
}

/// Maps an image. To be called on a thread that ends afterwards: its keyring and its
/// network namespace are changed.
///
/// # Errors
/// The kernel's answer; EINVAL for a name that cannot stand in a map line.
pub fn map(request: &MapRequest) -> Result<Mapping> {
    let spec = request.spec();
    let line = request.line()?;
    if let Some(path) = &request.netns {
        netns::enter(path)?;
    }
    keyring::add_to_thread(&request.user, &request.key)?;
    // On whichever cluster: the monitors' addresses may lead the kernel to another one.
    let of_image = || find(&request.pool, &request.namespace, &request.image);
    let before = of_image()?;
    step("host: map", MAP, &spec, || write_bus(MAP, &spec, "add", &line))?;
    let mut new = of_image()?;
    new.retain(|mapping| before.iter().all(|old| old.number != mapping.number));
    // One of the same name may be mapped from another cluster at this moment.
    new.sort_by_key(|mapping| mapping.cluster_fsid != request.fsid);
    new.into_iter().next().ok_or_else(|| {
        HostError::new(MAP, spec, libc::ENODEV).with("the new device is not in /sys/bus/rbd/devices")
    })
}

/// Has the kernel read the image's header again: it is told of a new size by its watch, which
/// a read-only mapping does not have, and which may be late.
///
/// # Errors
/// The kernel's answer; ENODEV when the device is not this mapping's any more.
pub fn refresh(mapping: &Mapping) -> Result<()> {
    const OP: &str = "krbd refresh";
    let device = mapping.device().display().to_string();
    let file = format!("{BUS}/devices/{}/refresh", mapping.number);
    require(mapping, OP)?;
    let written = File::options().write(true).open(file).and_then(|mut file| file.write_all(b"1"));
    written.map_err(|error| HostError::io(OP, device, &error))
}

/// The number may be another image's by now.
pub(super) fn require(mapping: &Mapping, op: &'static str) -> Result<()> {
    if mappings()?.iter().any(|now| now.is_same(mapping)) {
        return Ok(());
    }
    Err(HostError::new(op, mapping.device().display().to_string(), libc::ENODEV)
        .with(format!("it does not map image {} any more", mapping.image_id)))
}

/// Unmaps; a mapping that is gone already is no error. `force` lets running requests
/// end and fails later ones, instead of refusing a device that is open.
///
/// # Errors
/// EBUSY while somebody has the device open.
pub fn unmap(mapping: &Mapping, force: bool) -> Result<()> {
    let device = mapping.device().display().to_string();
    let line = if force { format!("{} force", mapping.number) } else { mapping.number.to_string() };
    step("host: unmap", "krbd unmap", &device, || {
        // The number may be another image's by now.
        if !mappings()?.iter().any(|now| now.is_same(mapping)) {
            return Ok(());
        }
        match write_bus("krbd unmap", &device, "remove", &line) {
            Err(error) if error.is(libc::ENOENT) => Ok(()),
            outcome => outcome,
        }
    })
}

/// `add` and `remove` answer EINVAL where the module shares one major number, which is
/// the default; the other pair is absent where it does not.
fn write_bus(op: &'static str, object: &str, file: &str, line: &str) -> Result<()> {
    let shared = PathBuf::from(format!("{BUS}/{file}_single_major"));
    let path = if shared.exists() { shared } else { PathBuf::from(format!("{BUS}/{file}")) };
    let outcome = File::options().write(true).open(&path).and_then(|mut bus| bus.write_all(line.as_bytes()));
    outcome.map_err(|error| {
        let failed = HostError::io(op, object, &error);
        if path.exists() { failed } else { failed.with("the kernel has no rbd module") }
    })
}
