//! What is mounted where: `/proc/self/mountinfo` (proc(5)).
//!
//! Lives here: reading it, and finding the mount at exactly one path. What other
//! processes have mounted is [`super::processes`]'.
//!
//! What a reader gets wrong: several mounts may be stacked on one path, and a mount may
//! be hidden below another one. So the mount at a path is found by the number of the
//! mount that the opened path is in, not by comparing names. And a device file's bind
//! mount shows the numbers of the file system that the file lies on (devtmpfs), not the
//! device's.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};

use super::place::Place;
use super::{HostError, Result};

const FILE: &str = "/proc/self/mountinfo";
/// How often a mount that is not listed is looked for.
const LOOKS: usize = 5;

/// One mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// The kernel's number of it.
    pub id: u32,
    /// Major and minor number of its file system's device.
    pub device: (u32, u32),
    /// Which folder or file of the file system is seen.
    pub root: PathBuf,
    /// Where it is mounted.
    pub point: PathBuf,
    /// Whether this mount refuses writes.
    pub read_only: bool,
    /// The file system type.
    pub fs_type: String,
    /// What was given as the device.
    pub source: PathBuf,
    /// Whether the file system refuses writes, wherever it is mounted.
    pub read_only_filesystem: bool,
    /// Whether an error makes it refuse writes (ext: `errors=remount-ro`). Kernels from 6.1.130 to
    /// 6.14 do not show that it has happened.
    pub stops_at_errors: bool,
}

impl Mount {
    /// Whether both show the same folder or file of the same file system.
    pub fn shows_the_same_as(&self, other: &Self) -> bool {
        self.device == other.device && self.root == other.root
    }
}

/// All mounts of this process's namespace.
///
/// # Errors
/// procfs cannot be read or understood.
pub fn all() -> Result<Vec<Mount>> {
    let text = std::fs::read(FILE).map_err(|error| HostError::io("read", FILE, &error))?;
    let lines = text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    lines
        .map(|line| {
            parse(line).ok_or_else(|| {
                HostError::new("read", FILE, libc::EPROTO).with(String::from_utf8_lossy(line).into_owned())
            })
        })
        .collect()
}

/// The topmost mount at exactly this absolute path, if one is there.
///
/// # Errors
/// As [`Place::open`] and [`all`].
pub fn at(path: &Path) -> Result<Option<Mount>> {
    let look = || Place::open(path)?.map(|place| Ok((place.mount_id()?, all()?))).transpose();
    Ok(find(look)?.filter(|mount| mount.point == path))
}

/// The mount that an opened place is in, as long as it is mounted anywhere.
///
/// # Errors
/// As [`all`].
pub fn of(place: &Place) -> Result<Option<Mount>> {
    find(|| Ok(Some((place.mount_id()?, all()?))))
}

/// The mount of the number that `look` gives, among those that it gives. One that is not listed
/// says nothing yet: before Linux 5.8 a line may be left out while others come and go, and a mount
/// may have ended between the two. A process whose root is no mount point never sees that one.
fn find(mut look: impl FnMut() -> Result<Option<(u32, Vec<Mount>)>>) -> Result<Option<Mount>> {
    for _ in 0..LOOKS {
        let Some((id, mounts)) = look()? else { return Ok(None) };
        let found = mounts.into_iter().find(|mount| mount.id == id);
        if found.is_some() {
            return Ok(found);
        }
    }
    Ok(None)
}

/// `36 35 98:0 /root /point rw,noatime shared:1 - ext4 /dev/root rw,errors=continue`
fn parse(line: &[u8]) -> Option<Mount> {
    let mut fields = line.split(|byte| *byte == b' ');
    let id = text(fields.next()?).parse().ok()?;
    let device = text(fields.nth(1)?);
    let (major, minor) = device.split_once(':')?;
    let root = path(fields.next()?);
    let point = path(fields.next()?);
    let options = fields.next()?;
    // Any number of optional fields, ended by a lone hyphen.
    fields.by_ref().find(|field| *field == b"-")?;
    let (fs_type, source, fs_options) = (fields.next()?, fields.next()?, fields.next()?);
    Some(Mount {
        id,
        device: (major.parse().ok()?, minor.parse().ok()?),
        root,
        point,
        read_only: has(options, b"ro"),
        fs_type: text(fs_type),
        source: path(source),
        read_only_filesystem: READ_ONLY.iter().any(|name| has(fs_options, name)),
        stops_at_errors: has(fs_options, b"errors=remount-ro"),
    })
}

/// What a file system that refuses writes shows among its options: mounted so; turned so by an
/// error (before Linux 6.15 and since, ext4); shut down.
const READ_ONLY: [&[u8]; 3] = [b"ro", b"emergency_ro", b"shutdown"];

fn has(options: &[u8], name: &[u8]) -> bool {
    options.split(|byte| *byte == b',').any(|option| option == name)
}

fn text(field: &[u8]) -> String {
    String::from_utf8_lossy(field).into_owned()
}

/// The kernel writes blank, tab, line end and backslash as `\` and three octal digits.
pub(super) fn path(field: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, behind)) = rest.split_first() {
        let octal = (first == b'\\').then(|| behind.get(..3)).flatten();
        let value = octal.and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok());
        bytes.push(value.unwrap_or(first));
        rest = if value.is_some() { &behind[3..] } else { behind };
    }
    PathBuf::from(OsString::from_vec(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_a_line_with_optional_fields_and_without() {
        // From Linux 6.1 (UML): a volume, and a raw device bound onto a file.
        let mount = parse(b"44 29 252:0 / /var/lib/kubelet/p\\040v/x\\134y ro,relatime shared:7 master:1 - ext4 /dev/rbd0 rw,stripe=16").unwrap();
        assert_eq!(mount.id, 44);
        assert_eq!(mount.device, (252, 0));
        assert_eq!(mount.point, Path::new("/var/lib/kubelet/p v/x\\y"));
        assert!(mount.read_only && !mount.read_only_filesystem);
        assert_eq!((mount.fs_type.as_str(), mount.source.as_path()), ("ext4", Path::new("/dev/rbd0")));
        let block = parse(b"45 29 0:6 /rbd0 /staging/x rw,relatime - devtmpfs devtmpfs rw,size=4k").unwrap();
        assert_eq!(block.root, Path::new("/rbd0"));
        assert!(!block.read_only && !block.shows_the_same_as(&mount));
        for (options, refuses) in
            [("rw", false), ("ro", true), ("rw,emergency_ro", true), ("rw,shutdown", true)]
        {
            let line = format!("44 29 252:0 / /x rw - ext4 /dev/rbd0 {options}");
            assert_eq!(parse(line.as_bytes()).unwrap().read_only_filesystem, refuses, "{options}");
        }
        assert_eq!(parse(b"45 29 0:6 /rbd0"), None);
    }

    #[test]
    fn a_backslash_without_digits_stays() {
        assert_eq!(path(b"a\\9\\04\\"), Path::new("a\\9\\04\\"));
    }

    #[test]
    fn a_mount_that_the_list_left_out_is_looked_for_again() {
        let listed = all().unwrap();
        let wanted = listed.last().cloned().unwrap();
        let without = listed[..listed.len() - 1].to_vec();
        let mut lists = vec![listed, without.clone(), without.clone()];
        let found = find(|| Ok(Some((wanted.id, lists.pop().unwrap())))).unwrap();
        assert_eq!(found.as_ref(), Some(&wanted));
        assert_eq!(find(|| Ok(Some((wanted.id, without.clone())))).unwrap(), None, "nor for ever");
        assert_eq!(find(|| Ok(None)).unwrap(), None);
    }

    #[test]
    fn finds_what_is_mounted_here_and_only_that() {
        assert_eq!(at(Path::new("/proc")).unwrap().unwrap().fs_type, "proc");
        assert_eq!(at(Path::new("/proc/1/none")).unwrap(), None);
        assert_eq!(at(Path::new("/usr/bin")).unwrap(), None);
    }
}
