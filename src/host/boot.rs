//! Which boot of this node it is.

use super::{HostError, Result};

/// The kernel's id of this boot, another one after each boot.
///
/// # Errors
/// When /proc does not tell.
pub fn boot_id() -> Result<String> {
    const FILE: &str = "/proc/sys/kernel/random/boot_id";
    let text = std::fs::read_to_string(FILE).map_err(|error| HostError::io("read", FILE, &error))?;
    Ok(text.trim().to_owned())
}
