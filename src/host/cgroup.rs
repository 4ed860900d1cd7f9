//! The limits of the container that the driver runs in (cgroups(7)).

use std::fs;
use std::path::{Path, PathBuf};

const ROOT: &str = "/sys/fs/cgroup";
const OWN: &str = "/proc/self/cgroup";
/// Version 1 tells "no limit" as the largest number of whole pages.
const NO_LIMIT: u64 = 1 << 62;

/// A file of a controller, by its name in each version.
#[derive(Debug, Clone, Copy)]
pub struct Limit {
    /// The controller, such as `pids`.
    pub controller: &'static str,
    /// Its file in version 1.
    pub v1: &'static str,
    /// Its file in version 2.
    pub v2: &'static str,
}

/// How many processes and threads there may be.
pub const PIDS: Limit = Limit { controller: "pids", v1: "pids.max", v2: "pids.max" };

const MEMORY: Limit = Limit { controller: "memory", v1: "memory.limit_in_bytes", v2: "memory.max" };

impl Limit {
    /// Where this process's own limit stands.
    ///
    /// # Errors
    /// The one of reading `/proc/self/cgroup`.
    pub fn file(self) -> std::io::Result<PathBuf> {
        Ok(self.file_in(&fs::read_to_string(OWN)?, Path::new(ROOT)))
    }

    /// Version 1 names the controller in its line, version 2 has one line with number 0.
    fn file_in(self, groups: &str, root: &Path) -> PathBuf {
        let lines = || groups.lines().filter_map(|line| line.split_once(':')?.1.split_once(':'));
        let v1 = lines().find(|(controllers, _)| controllers.split(',').any(|name| name == self.controller));
        let v2 = lines().find(|(controllers, _)| controllers.is_empty());
        let (root, path, name) = match (v1, v2) {
            (Some((_, path)), _) => (root.join(self.controller), path, self.v1),
            (None, Some((_, path))) => (root.to_owned(), path, self.v2),
            (None, None) => (root.to_owned(), "/", self.v2),
        };
        let own = root.join(path.trim_start_matches('/')).join(name);
        // With a cgroup namespace or a mount of its own the container sees its group as the root.
        if own.exists() { own } else { root.join(name) }
    }
}

/// The container's limit of memory in bytes; `None` where there is none, or it cannot be told.
pub fn memory() -> Option<u64> {
    let text = fs::read_to_string(MEMORY.file().ok()?).ok()?;
    text.trim().parse().ok().filter(|bytes| *bytes < NO_LIMIT)
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
        let file = |groups| PIDS.file_in(groups, root.path());
        assert_eq!(file("12:cpu,cpuacct:/x\n9:pids:/kubepods/pod1\n0::/y\n"), one.join("pids.max"));
        assert_eq!(file("0::/kubepods/pod2\n"), two.join("pids.max"));
        assert_eq!(file("0::/elsewhere\n"), root.path().join("pids.max"));
        assert_eq!(file("9:pids:/elsewhere\n"), root.path().join("pids/pids.max"));
        let v1 = MEMORY.file_in("4:memory:/x\n", root.path());
        assert_eq!(v1, root.path().join("memory/memory.limit_in_bytes"));
    }
}
