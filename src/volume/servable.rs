//! What no node would ever serve, told from the request alone.
//!
//! Asked by ControllerPublishVolume, so that a pod does not start in vain, and by
//! NodeStageVolume.

use std::collections::BTreeMap;

use crate::volume::capability::{Access, AccessMode, Capability, NO_SINGLE_WRITER_OF_MANY};
use crate::volume::error::{Error, Kind, Result};
use crate::volume::map_options::{MapOptions, UnmapOptions};
use crate::volume::mount_flags;

/// What can be said of a request before anything is looked at.
///
/// # Errors
/// [`Kind::InvalidArgument`] and [`Kind::Precondition`] for what is never staged.
pub fn check(capability: &Capability, context: &BTreeMap<String, String>) -> Result<()> {
    if capability.mode == AccessMode::MultiNodeSingleWriter {
        return Err(Error::new(Kind::Precondition, NO_SINGLE_WRITER_OF_MANY));
    }
    if let Access::Mount { flags, .. } = &capability.access {
        if capability.mode == AccessMode::MultiNodeMultiWriter {
            let text = "rbd: RWX access mode request is only valid for volumes with access type `block`";
            return Err(Error::new(Kind::InvalidArgument, text));
        }
        mount_flags::parse(flags)?;
    }
    MapOptions::parse(context.get("mapOptions").map_or("", String::as_str))?;
    UnmapOptions::parse(context.get("unmapOptions").map_or("", String::as_str))?;
    Ok(())
}
