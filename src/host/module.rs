//! The kernel module `rbd`, loaded when it is absent.
//!
//! What a reader gets wrong: in a container modprobe needs the host's `/lib/modules`,
//! and the kernel loads the ciphers that libceph wants (`cbc(aes)`, `hmac(sha256)`) by
//! itself, with the host's modprobe.

use std::time::Duration;

use super::command::{Command, run_blocking};
use super::error::{HostError, Result};
use super::krbd;
use super::step::step;

/// What a node's operator does about a module that cannot be loaded.
pub const ADVICE: &str = "this node's kernel has no rbd client (module rbd); install it, or let the driver see the \
                          host's /lib/modules";

/// How long modprobe may take; it reads a few files.
const LIMIT: Duration = Duration::from_secs(30);

/// Loads rbd unless the kernel has it. Blocking.
///
/// # Errors
/// ENODEV with modprobe's words when the kernel has no such module.
pub fn ensure_loaded() -> Result<()> {
    if krbd::is_loaded() {
        return Ok(());
    }
    step("host: modprobe", "modprobe", "rbd", || {
        let output = run_blocking(Command::new("modprobe", "rbd", ["rbd"]), LIMIT)?;
        if krbd::is_loaded() {
            return Ok(());
        }
        let words = if output.status.success() { None } else { output.failure().detail };
        let words = words.unwrap_or_else(|| "it was loaded, and /sys/bus/rbd is still absent".to_owned());
        Err(HostError::new("modprobe", "rbd", libc::ENODEV).with(words))
    })
}
