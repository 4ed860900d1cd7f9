//! The container's limit of processes (`pids.max` of its cgroup).
//!
//! A container runtime's default is too small for a node plugin whose Ceph
//! clients and file system tools have many threads; `--pidlimit` raises it.

use std::fs;
use std::path::Path;

use super::cgroup;
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
    let file = cgroup::PIDS.file().map_err(|error| failed("read", Path::new("/proc/self/cgroup"), &error))?;
    let text = if most < 0 { "max".to_owned() } else { most.to_string() };
    step("host: pids.max", "write", &file.display().to_string(), || {
        fs::write(&file, text).map_err(|error| failed("write", &file, &error))
    })
}
