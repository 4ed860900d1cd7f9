//! The processes that hold a device: by open files, mapped files, a working or root
//! folder, or by a mount in their mount namespace.
//!
//! What a reader gets wrong: a mount keeps a device busy in every mount namespace that
//! has a copy of it, so the namespaces of all processes are read, each once; and asking
//! for a file's attributes may hang on a dead network file system, so they are asked
//! for as the kernel has them cached.

use std::collections::{BTreeMap, HashSet};
use std::ffi::CString;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::time::Instant;

use super::device_numbers::Devices;

/// Adds every process that holds one of the devices, and after them the mounts; `false`
/// when the time was up first. Mounts come last because whoever keeps a mount from going
/// is a process, and one mount is in many namespaces: the node's, this plugin's, and those
/// of all pods that see the folder.
pub fn search(devices: &Devices, until: Instant, found: &mut Vec<String>) -> bool {
    let own = namespace(Path::new("/proc/self"));
    let mut namespaces = HashSet::new();
    let mut seen = Mounts::default();
    let mut complete = true;
    for process in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = process.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        if Instant::now() >= until {
            complete = false;
            break;
        }
        let folder = process.path();
        let who = || format!("pid {pid} ({})", command(&folder));
        if let Some(path) = open_file(&folder, devices) {
            found.push(format!("{} has {} open", who(), path.display()));
        } else if let Some(use_) = other_use(&folder, devices) {
            found.push(format!("{} {use_}", who()));
        }
        let Some(space) = namespace(&folder) else { continue };
        if namespaces.insert(space.clone()) {
            let place = (Some(space) != own).then(|| format!(" in the mount namespace of {}", who()));
            seen.add(mounts(&folder, devices), place);
        }
    }
    found.extend(seen.told());
    complete
}

/// Mount points, each with the namespaces that have it.
#[derive(Default)]
struct Mounts(BTreeMap<String, Vec<Option<String>>>);

impl Mounts {
    /// Mounts of one namespace; `place` is none for this process's own.
    fn add(&mut self, points: Vec<String>, place: Option<String>) {
        for point in points {
            let places = self.0.entry(point).or_default();
            // A mount upon a mount shows the same point twice.
            if !places.contains(&place) {
                places.push(place.clone());
            }
        }
    }

    fn told(self) -> impl Iterator<Item = String> {
        self.0.into_iter().map(|(point, mut places)| {
            // Its own namespace needs no name, and comes first.
            places.sort();
            let others = places.len() - 1;
            let first = places.into_iter().next().flatten().unwrap_or_default();
            let more = match others {
                0 => String::new(),
                1 => " and 1 other mount namespace".to_owned(),
                _ => format!(" and {others} other mount namespaces"),
            };
            format!("a mount at {point}{first}{more}")
        })
    }
}

fn command(folder: &Path) -> String {
    fs::read_to_string(folder.join("comm")).unwrap_or_default().trim_end().to_owned()
}

fn namespace(folder: &Path) -> Option<PathBuf> {
    fs::read_link(folder.join("ns/mnt")).ok()
}

fn open_file(folder: &Path, devices: &Devices) -> Option<PathBuf> {
    let open = fs::read_dir(folder.join("fd")).ok()?.flatten().find(|fd| holds(&fd.path(), devices))?;
    fs::read_link(open.path()).ok()
}

fn other_use(folder: &Path, devices: &Devices) -> Option<&'static str> {
    if holds(&folder.join("cwd"), devices) {
        return Some("has its working folder there");
    }
    if holds(&folder.join("root"), devices) {
        return Some("has its root folder there");
    }
    let maps = fs::read_to_string(folder.join("maps")).ok()?;
    maps.lines().any(|line| mapped(line, devices)).then_some("has a file there mapped into its memory")
}

/// `address perms offset dev inode path`, proc(5); dev is hexadecimal.
fn mapped(line: &str, devices: &Devices) -> bool {
    let device = line.split_whitespace().nth(3).and_then(|text| text.split_once(':'));
    let number = device.and_then(|(major, minor)| {
        Some((u32::from_str_radix(major, 16).ok()?, u32::from_str_radix(minor, 16).ok()?))
    });
    number.is_some_and(|number| number != (0, 0) && devices.contains(number))
}

/// The mount points of the devices in that process's namespace: `id parent major:minor
/// root point …`, proc(5). A block volume is a device file's bind mount and shows the
/// numbers of devtmpfs, so it is no mount of the device; whoever opens it is seen above.
fn mounts(folder: &Path, devices: &Devices) -> Vec<String> {
    let text = fs::read_to_string(folder.join("mountinfo")).unwrap_or_default();
    let of_device = |line: &&str| {
        let (major, minor) = line.split(' ').nth(2)?.split_once(':')?;
        devices.contains((major.parse().ok()?, minor.parse().ok()?)).then_some(())
    };
    let lines = text.lines().filter(|line| of_device(line).is_some());
    lines.filter_map(|line| line.split(' ').nth(4)).map(str::to_owned).collect()
}

/// Whether the path is one of the devices, or a file on one.
pub(super) fn holds(path: &Path, devices: &Devices) -> bool {
    let Ok(path) = CString::new(path.as_os_str().as_bytes()) else { return false };
    // SAFETY: all zeroes is a valid statx, which only has integers.
    let mut file: libc::statx = unsafe { std::mem::zeroed() };
    // SAFETY: the path ends with NUL and `file` is writable; both outlive the call.
    let answer = unsafe {
        libc::statx(libc::AT_FDCWD, path.as_ptr(), libc::AT_STATX_DONT_SYNC, libc::STATX_TYPE, &mut file)
    };
    let is_block = u32::from(file.stx_mode) & libc::S_IFMT == libc::S_IFBLK;
    answer == 0
        && (devices.contains((file.stx_dev_major, file.stx_dev_minor))
            || is_block && devices.contains((file.stx_rdev_major, file.stx_rdev_minor)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_mount_in_many_namespaces_is_told_once() {
        let mut mounts = Mounts::default();
        mounts.add(vec!["/a".into(), "/b".into()], Some(" in the mount namespace of pid 7 (x)".into()));
        mounts.add(vec!["/a".into(), "/a".into()], None);
        mounts.add(vec!["/a".into()], Some(" in the mount namespace of pid 8 (y)".into()));
        let told: Vec<_> = mounts.told().collect();
        let expected = [
            "a mount at /a and 2 other mount namespaces",
            "a mount at /b in the mount namespace of pid 7 (x)",
        ];
        assert_eq!(told, expected);
    }

    #[test]
    fn reads_the_devices_of_mapped_files() {
        let devices = Devices { numbers: vec![(254, 16)] };
        let line = |device: &str| format!("7f00-7f01 r--p 00000000 {device} 131 /data/lib.so");
        assert!(mapped(&line("fe:10"), &devices));
        assert!(!mapped(&line("fe:00"), &devices));
        assert!(!mapped("7f00-7f01 rw-p 00000000 00:00 0", &devices));
    }
}
