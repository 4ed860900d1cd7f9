//! What is at a volume's paths on this node, told by the kernel.
//!
//! Lives here: the paths of a request, checked; what is mounted at one; whose image that
//! is. It changes nothing and asks no cluster.
//!
//! What a reader gets wrong: that a folder exists, or that something is mounted on it,
//! proves nothing. After a reboot `<staging>/<volume id>` is a plain folder on the node's
//! own disk, and a device number may be another image's by now. So a path is followed to
//! its mount, to the device, to the image in sysfs, and that is compared with the volume.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use crate::host::HostError;
use crate::host::device::{self, Device};
use crate::host::filesystem;
use crate::host::fs_kind::FsKind;
use crate::host::krbd::{self, Mapping};
use crate::host::mountinfo::{self, Mount};
use crate::host::thread::on_thread;
use crate::node::stash::{self, Found, Stash};
use crate::volume::error::{Error, Kind, Result};
use crate::volume::id::VolumeId;

/// The longest path that the kernel takes, without its NUL (PATH_MAX).
const LONGEST_PATH: usize = 4095;
/// A healthy file system makes a file in milliseconds.
const ASK: Duration = Duration::from_secs(5);
/// The longest name of a file (NAME_MAX).
const LONGEST_NAME: usize = 255;

/// Where a volume is staged.
#[derive(Debug, Clone)]
pub struct StagingPath {
    /// The volume.
    pub volume_id: String,
    /// `staging_target_path`: made by the CO; the stash lies here.
    pub folder: PathBuf,
    /// `<staging_target_path>/<volume id>`: the file system, or the device file.
    pub entry: PathBuf,
}

impl StagingPath {
    /// Checks the request's path.
    ///
    /// # Errors
    /// [`Kind::InvalidArgument`] for the path, and for an id that is the stash's name;
    /// [`Kind::NotFound`] for an id that cannot be a file's name and so is no volume's.
    pub fn new(volume_id: &str, staging_path: &Path) -> Result<Self> {
        let folder = path("staging_target_path", staging_path)?;
        let named = !volume_id.is_empty() && volume_id.len() <= LONGEST_NAME;
        if !named || volume_id == "." || volume_id == ".." || volume_id.contains(['/', '\0']) {
            return Err(Error::new(Kind::NotFound, format!("volume {volume_id:?} does not exist")));
        }
        // An image may have that name, and a static volume's handle is its image's name.
        if volume_id == stash::FILE {
            let text = format!(
                "volume {volume_id:?} cannot be staged: the driver keeps a file of that name beside it; rename its image"
            );
            return Err(Error::new(Kind::InvalidArgument, text));
        }
        let entry = folder.join(volume_id);
        Ok(Self { volume_id: volume_id.to_owned(), entry: path("staging_target_path", &entry)?, folder })
    }
}

/// A path of a request: absolute, without `..`, and not too long.
///
/// # Errors
/// [`Kind::InvalidArgument`] naming the field.
pub fn path(field: &str, path: &Path) -> Result<PathBuf> {
    let wrong = |what: &str| Err(Error::new(Kind::InvalidArgument, format!("{field} {what}: {path:?}")));
    let bytes = path.as_os_str().as_bytes();
    match () {
        () if bytes.contains(&0) => wrong("contains a NUL byte"),
        () if !path.is_absolute() => wrong("is not an absolute path"),
        () if path.components().any(|part| part == Component::ParentDir) => wrong("contains `..`"),
        () if bytes.len() > LONGEST_PATH => wrong("is longer than the kernel takes"),
        // mountinfo has paths without doubled or trailing slashes.
        () => Ok(path.components().collect()),
    }
}

/// Something that is mounted at a path.
#[derive(Debug, Clone)]
pub struct Occupant {
    /// The topmost mount there.
    pub mount: Mount,
    /// The numbers of the device behind it.
    pub number: Option<(u32, u32)>,
    /// That device.
    pub device: Device,
    /// How many errors the kernel has met in its ext file system since the last repair.
    pub errors: u64,
}

impl Occupant {
    /// Whether a device file is bound there, not a file system mounted.
    pub fn is_block(&self) -> bool {
        self.mount.root != Path::new("/")
    }

    /// The mapping, when the device is one of that volume's image.
    pub fn of_volume(&self, volume_id: &str, stash: Option<&Stash>) -> Option<&Mapping> {
        match &self.device {
            Device::Image(mapping) if belongs(mapping, volume_id, stash) => Some(mapping),
            _ => None,
        }
    }

    /// Whether the file system takes no writes though it was mounted for them: an error made the
    /// kernel stop them, which the mount itself does not show. Where not even the file system shows
    /// it, one that has met errors is asked; one that does not answer has not said so.
    pub async fn went_read_only(&self) -> bool {
        if self.is_block() || self.mount.read_only {
            return false;
        }
        if self.mount.read_only_filesystem {
            return true;
        }
        if self.errors == 0 || !self.mount.stops_at_errors {
            return false;
        }
        let (path, object) = (self.mount.point.clone(), self.mount.point.display().to_string());
        let asked = on_thread("try to write", &object, move || filesystem::try_to_write(&path));
        let answer = tokio::time::timeout(ASK, asked).await;
        matches!(answer, Ok(Err(error)) if [libc::EROFS, libc::EIO, libc::ESHUTDOWN].contains(&error.errno))
    }

    /// What is wrong with the file system, for people; `None` for one that is well.
    pub async fn trouble(&self) -> Option<String> {
        let (kind, place) = (&self.mount.fs_type, self.mount.point.display());
        let what = match (self.went_read_only().await, self.errors) {
            (true, _) => "has gone read-only after an error".to_owned(),
            (false, 0) => return None,
            (false, count) => format!("is damaged: the kernel has met {count} error(s) in it"),
        };
        Some(format!(
            "the {kind} file system at {place} {what}; the kernel's log (dmesg) of this node says more. End its pods \
             here, so that it is unstaged and checked, before it is used again"
        ))
    }

    /// Whether it is what is left of the volume when its device has gone: a file system whose
    /// device no longer exists, or the file of one whose number nobody has or another image has.
    pub fn is_stale(&self, volume_id: &str, stash: Option<&Stash>) -> bool {
        match &self.device {
            Device::Gone => self.number.is_some(),
            // Only a stash can tell a number that was used again from a handle that is not understood.
            Device::Image(mapping) => {
                let another = stash.is_some_and(|stash| !stash.is_of(mapping));
                self.is_block() && another && self.of_volume(volume_id, stash).is_none()
            }
            Device::Other(_) => false,
        }
    }

    /// What it is, for people.
    pub fn describe(&self) -> String {
        match &self.device {
            Device::Image(mapping) => {
                let spec = krbd::spec(&mapping.pool, &mapping.namespace, &mapping.image);
                format!("{} ({spec})", mapping.device().display())
            }
            Device::Other(name) => format!("the device {name}"),
            Device::Gone if self.number.is_none() => format!("a {} file system", self.mount.fs_type),
            Device::Gone => "a device that is gone".to_owned(),
        }
    }
}

/// What is mounted at exactly this path.
///
/// # Errors
/// A symlink in the path; procfs or sysfs cannot be read.
pub async fn at(path: &Path) -> Result<Option<Occupant>> {
    let look = {
        let path = path.to_owned();
        move || {
            let Some(mount) = mountinfo::at(&path)? else { return Ok(None) };
            let number = device::of_mount(&mount)?;
            let device = number.map_or(Ok(Device::Gone), Device::of_number)?;
            let errors = match &device {
                Device::Image(mapping) if mount.root == Path::new("/") => {
                    filesystem::errors_met(mapping.number)
                }
                _ => 0,
            };
            Ok(Some(Occupant { mount, number, device, errors }))
        }
    };
    on_thread("look", &path.display().to_string(), look).await.map_err(at_path)
}

/// What went wrong at a path that the caller chose.
pub fn at_path(error: HostError) -> Error {
    let kind = match error.errno {
        // A symlink or a missing folder is the caller's to put right.
        libc::ELOOP | libc::ENOENT | libc::ENOTDIR => Kind::Precondition,
        libc::ENAMETOOLONG => Kind::InvalidArgument,
        _ => return error.into(),
    };
    Error::new(kind, "").because(error)
}

/// Whether the mapped image is that volume's. The stash knows the image's id; ceph-csi's does not.
/// Then a handle that a journal composed carries the uuid with which the image's name ends, unless
/// somebody has renamed it; a static volume's is the image's name, and only its stash knows the pool.
pub fn belongs(mapping: &Mapping, volume_id: &str, stash: Option<&Stash>) -> bool {
    if let Some(known) = stash.filter(|stash| !stash.image_id.is_empty()) {
        let same = known.image_id == mapping.image_id && known.is_on_cluster_of(mapping);
        let pool =
            VolumeId::parse(volume_id).map_or(known.pool == mapping.pool, |id| id.pool_id == mapping.pool_id);
        return same && pool && known.namespace == mapping.namespace && mapping.snapshot.is_none();
    }
    let named = match VolumeId::parse(volume_id) {
        Some(id) => {
            mapping.image.ends_with(&id.uuid.to_string())
                && mapping.pool_id == id.pool_id
                && stash.is_none_or(|stash| stash.is_on_cluster_of(mapping))
        }
        None => mapping.image == volume_id && stash.is_none_or(|stash| stash.is_of(mapping)),
    };
    named && mapping.snapshot.is_none()
}

/// Whether a file system of the one type may be had for the other: the kernel's ext4 code
/// mounts all of its family.
pub fn same_family(asked: &str, found: &str) -> bool {
    match (FsKind::parse(asked), FsKind::parse(found)) {
        (Some(asked), Some(found)) => asked == found || (asked.is_ext() && found.is_ext()),
        _ => asked == found,
    }
}

/// Where else the mapped image is mounted in this mount namespace. Copies of `but`, such
/// as a container's view of the host's root shows, do not count.
///
/// # Errors
/// procfs or sysfs cannot be read.
pub async fn elsewhere(mapping: &Mapping, but: &[&Path]) -> Result<Vec<PathBuf>> {
    let mapping = mapping.clone();
    let name = mapping.device().display().to_string();
    let mounts = on_thread("look for mounts", &name, move || device::mounts_of(&mapping)).await?;
    let copy = |point: &Path| {
        but.iter().any(|but| but.strip_prefix("/").is_ok_and(|relative| point.ends_with(relative)))
    };
    Ok(mounts.into_iter().map(|mount| mount.point).filter(|point| !copy(point)).collect())
}

/// What stashes say beside the device's mounts, with the names of those: where a volume is staged,
/// the name is its id.
///
/// # Errors
/// procfs, sysfs or a stash cannot be read.
pub async fn noted(mapping: &Mapping, but: &[&Path]) -> Result<Vec<(OsString, Stash)>> {
    let mut noted = Vec::new();
    for entry in elsewhere(mapping, but).await? {
        let (Some(folder), Some(name)) = (entry.parent(), entry.file_name()) else { continue };
        if let Found::Stash(stash) = stash::read(folder).await? {
            noted.push((name.to_owned(), *stash));
        }
    }
    Ok(noted)
}

/// A list of paths for an error.
pub fn list(paths: &[PathBuf]) -> String {
    let texts: Vec<_> = paths.iter().map(|path| path.display().to_string()).collect();
    texts.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::volume::map_options::UnmapOptions;

    fn mapping(image: &str) -> Mapping {
        Mapping {
            number: 0,
            pool: "p".into(),
            pool_id: 2,
            namespace: String::new(),
            image: image.into(),
            image_id: "1".into(),
            snapshot: None,
            cluster_fsid: "f".into(),
            client_address: String::new(),
            client_id: 1,
            size: 1,
            read_only: false,
        }
    }

    #[test]
    fn a_journals_volume_is_known_by_its_uuid_and_a_static_one_by_its_stash() {
        let id = "0001-0001-a-0000000000000002-164658ce-0000-4000-8000-000000000001";
        let uuid = "164658ce-0000-4000-8000-000000000001";
        assert!(belongs(&mapping(&format!("csi-vol-{uuid}")), id, None));
        assert!(!belongs(&mapping("csi-vol-other"), id, None));
        assert!(!belongs(&Mapping { snapshot: Some("s".into()), ..mapping(uuid) }, id, None));
        let of_volume = mapping(&format!("csi-vol-{uuid}"));
        assert!(!belongs(&Mapping { pool_id: 3, ..of_volume.clone() }, id, None), "another pool");
        let on = |fsid| Stash::new("p", "", &of_volume.image, UnmapOptions::default()).on(fsid, "");
        assert!(belongs(&of_volume, id, Some(&on("f"))) && belongs(&of_volume, id, Some(&on(""))));
        assert!(!belongs(&of_volume, id, Some(&on("g"))), "another cluster");
        let renamed = Stash::new("p", "", "before", UnmapOptions::default()).on("f", "1");
        assert!(belongs(&mapping("after"), id, Some(&renamed)), "the image's id says it");
        assert!(!belongs(&Mapping { image_id: "2".into(), ..of_volume.clone() }, id, Some(&renamed)));
        let stash = |pool| Stash::new(pool, "", "data", UnmapOptions::default());
        assert!(belongs(&mapping("data"), "data", Some(&stash("p"))));
        assert!(!belongs(&mapping("data"), "data", Some(&stash("q"))));
    }

    #[test]
    fn paths_are_absolute_and_stay_where_they_say() {
        for (text, what) in [("some/path", "absolute"), ("", "absolute"), ("/a/../b", ".."), ("/a\0b", "NUL")]
        {
            let error = path("target_path", Path::new(text)).unwrap_err();
            assert_eq!(error.kind, Kind::InvalidArgument);
            assert!(error.to_string().contains(what), "{error}");
        }
        assert_eq!(path("target_path", Path::new("/a//b/./c/")).unwrap(), Path::new("/a/b/c"));
        assert!(path("target_path", Path::new(&format!("/{}", "a/".repeat(2047)))).is_ok());
        assert!(path("target_path", Path::new(&format!("/{}", "a/".repeat(2048)))).is_err());
        assert_eq!(StagingPath::new("../x", Path::new("/s")).unwrap_err().kind, Kind::NotFound);
        let error = StagingPath::new("image-meta.json", Path::new("/s")).unwrap_err();
        assert!(error.kind == Kind::InvalidArgument && error.to_string().contains("rename"), "{error}");
        assert_eq!(StagingPath::new("id", Path::new("/s/")).unwrap().entry, Path::new("/s/id"));
    }
}
