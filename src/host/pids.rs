//! The container's limit of processes (`pids.max` of its cgroup).
//!
//! A container runtime's default is too small for a node plugin whose Ceph
//! clients and file system tools have many threads; `--pidlimit` raises it.

use std::fs;
use std::path::{Path, PathBuf};

use super::error::{HostError, Result};
use super::step::step;

/// Sets the limit; a negative one means none.
///
/// # Errors
/// The errno of reading `/proc/self/cgroup` or of writing `pids.max`.
pub fn limit(most: i64) -> Result<()> {
    let failed = |op: &'static str, path: &Path, error: &std::io::Error| {
        HostError::new(op, path.display().to_string(), error.raw_os_error().unwrap_or(libc::EIO))
    };
    let own = Path::new("/proc/self/cgroup");
    let groups = fs::read_to_string(own).map_err(|error| failed("read", own, &error))?;
    let file = file(&groups, Path::new("/sys/fs/cgroup"));
    let text = if most < 0 { "max".to_owned() } else { most.to_string() };
    step("host: pids.max", "write", &file.display().to_string(), || {
        fs::write(&file, text).map_err(|error| failed("write", &file, &error))
    })
}

/// `pids.max` of the process's own cgroup: version 1 names the controller in its
/// line, version 2 has one line with number 0 (cgroups(7)).
fn file(groups: &str, root: &Path) -> PathBuf {
    let lines = || groups.lines().filter_map(|line| line.split_once(':')?.1.split_once(':'));
    let v1 = lines().find(|(controllers, _)| controllers.split(',').any(|name| name == "pids"));
    let v2 = lines().find(|(controllers, _)| controllers.is_empty());
    let (root, path) = match (v1, v2) {
        (Some((_, path)), _) => (root.join("pids"), path),
        (None, Some((_, path))) => (root.to_owned(), path),
        (None, None) => (root.to_owned(), "/"),
    };
    let own = root.join(path.trim_start_matches('/')).join("pids.max");
    // With a cgroup namespace or a mount of its own the container sees its group as the root.
    if own.exists() { own } else { root.join("pids.max") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_is_found_in_both_versions() {
        let root = tempfile::tempdir().unwrap();
        let one = root.path().join("pids/kubepods/pod1");
        let two = root.path().join("kubepods/pod2");
        for folder in [&one, &two] {
            fs::create_dir_all(folder).unwrap();
            fs::write(folder.join("pids.max"), "max").unwrap();
        }
        let v1 = "12:cpu,cpuacct:/x\n9:pids:/kubepods/pod1\n0::/y\n";
        assert_eq!(file(v1, root.path()), one.join("pids.max"));
        assert_eq!(file("0::/kubepods/pod2\n", root.path()), two.join("pids.max"));
        assert_eq!(file("0::/elsewhere\n", root.path()), root.path().join("pids.max"));
        assert_eq!(file("9:pids:/elsewhere\n", root.path()), root.path().join("pids/pids.max"));
    }
}
