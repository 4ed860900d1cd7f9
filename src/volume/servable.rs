//! What no node would ever serve, told from the request alone.
//!
//! Asked by ControllerPublishVolume, so that a pod does not start in vain, and by
//! NodeStageVolume.

use std::collections::BTreeMap;

use crate::host::filesystem::check_mkfs_options;
use crate::host::fs_kind::FsKind;
use crate::volume::capability::{Access, AccessMode, Capability, NO_SINGLE_WRITER_OF_MANY};
use crate::volume::error::{Error, Kind, Result};
use crate::volume::map_options::{MapOptions, UnmapOptions};
use crate::volume::mount_flags;
use crate::volume::parameters::is_fs_type;

/// The file systems that a node mounts, for the error of another one.
const KINDS: &str = "ext4, xfs, ext3 and ext2";

/// Refuses a file system type that no node mounts: a PersistentVolume's cannot be changed.
///
/// # Errors
/// [`Kind::InvalidArgument`] with the right spelling, where there is one.
pub fn fs_type(capability: &Capability) -> Result<()> {
    let Access::Mount { fs_type, .. } = &capability.access else { return Ok(()) };
    if fs_type.is_empty() || FsKind::parse(fs_type).is_some() {
        return Ok(());
    }
    Err(unknown_type(fs_type))
}

/// Refuses a class whose `fsType` is not what the volume would get: csi-provisioner makes the
/// capability's type of it, and another CO may not know that name.
///
/// # Errors
/// [`Kind::InvalidArgument`] with the name that every CO knows.
pub fn fs_type_parameter(capability: &Capability, parameters: &BTreeMap<String, String>) -> Result<()> {
    let Access::Mount { fs_type, .. } = &capability.access else { return Ok(()) };
    let meant = parameters.iter().find(|(name, value)| is_fs_type(name) && !value.is_empty());
    let gets = if fs_type.is_empty() { "ext4" } else { fs_type };
    match meant {
        Some((name, value)) if value != gets => {
            let text = format!(
                "parameter {name}: {value} is meant, but the volume would get {gets}; the parameter's name is \
                 csi.storage.k8s.io/fstype"
            );
            Err(Error::new(Kind::InvalidArgument, text))
        }
        _ => Ok(()),
    }
}

/// The refusal of a file system type, with the one that is meant where that can be told.
pub fn unknown_type(fs_type: &str) -> Error {
    let near = fs_type.trim().to_ascii_lowercase();
    let meant = FsKind::parse(&near).map_or_else(String::new, |kind| format!("; did you mean {kind}?"));
    let text = format!("file system type {fs_type:?} is not supported; {KINDS} are{meant}");
    Error::new(Kind::InvalidArgument, text)
}

/// What a new volume of so many bytes would be refused for by each node that is to format it.
///
/// # Errors
/// [`Kind::OutOfRange`] for a size that the file system cannot have; [`Kind::InvalidArgument`] for
/// mkfs options that reach outside the volume.
pub fn format(capability: &Capability, size: u64, mkfs_options: &str) -> Result<()> {
    let Access::Mount { fs_type, .. } = &capability.access else { return Ok(()) };
    let kind = if fs_type.is_empty() { Some(FsKind::Ext4) } else { FsKind::parse(fs_type) };
    let Some(kind) = kind else { return Ok(()) };
    if size < kind.smallest() {
        let other = if kind == FsKind::Ext4 { "" } else { ", or for ext4" };
        let text = format!(
            "a volume of {size} bytes is too small for {kind}, which needs {}: ask for more{other}",
            kind.smallest()
        );
        return Err(Error::new(Kind::OutOfRange, text));
    }
    check_mkfs_options(kind, mkfs_options)
        .map(drop)
        .map_err(|error| Error::new(Kind::InvalidArgument, "mkfsOptions").because(error))
}

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
        mount_flags::parse(flags, capability.read_only())?;
    }
    fs_type(capability)?;
    MapOptions::parse(context.get("mapOptions").map_or("", String::as_str))?;
    UnmapOptions::parse(context.get("unmapOptions").map_or("", String::as_str))?;
    Ok(())
}
