//! Entering another network namespace, for the mapping thread only.
//!
//! The kernel client opens its connections in the namespace of the thread that maps.
//! What a reader gets wrong: `setns` moves one thread. It must be one that ends
//! afterwards, never one of the runtime's.

use std::fs::File;
use std::path::Path;

use nix::sched::{CloneFlags, setns};

use super::error::{HostError, Result};

/// [`HostError::op`] of a file that cannot be opened.
pub const OPEN: &str = "open network namespace";

/// [`HostError::op`] of a file that is no network namespace.
pub const ENTER: &str = "setns";

/// Whether a thread could be moved there, tried with one that ends at once.
///
/// # Errors
/// As [`enter`]'s.
pub fn check(path: &Path) -> Result<()> {
    let file = path.to_owned();
    let tried = std::thread::Builder::new().name(ENTER.to_owned()).spawn(move || enter(&file));
    let failed = |error: &std::io::Error| HostError::io(ENTER, path.display().to_string(), error);
    let tried = tried.map_err(|error| failed(&error).with("cannot start a thread"))?;
    tried.join().unwrap_or_else(|_| Err(failed(&std::io::Error::other("the thread panicked"))))
}

/// ` (in network namespace …)`, for an error's text; nothing without one.
pub fn suffix(path: Option<&Path>) -> String {
    path.map_or_else(String::new, |path| format!(" (in network namespace {})", path.display()))
}

fn open(path: &Path) -> Result<File> {
    File::open(path).map_err(|error| HostError::io(OPEN, path.display().to_string(), &error))
}

/// Moves this thread into the network namespace that the file stands for
/// (`netNamespaceFilePath`, such as `/run/netns/x` or `/proc/123/ns/net`).
///
/// # Errors
/// The file cannot be opened, or is no network namespace (EINVAL).
pub fn enter(path: &Path) -> Result<()> {
    let file = open(path)?;
    setns(&file, CloneFlags::CLONE_NEWNET)
        .map_err(|errno| HostError::new(ENTER, path.display().to_string(), errno as i32))
}
