//! `VolumeCapability`, from protobuf to the domain.

use super::limits::{invalid, list, present, string};
use super::proto;
use super::proto::volume_capability::AccessType;
use super::proto::volume_capability::access_mode::Mode;
use crate::volume::capability::{Access, AccessMode, Capability};
use crate::volume::error::Result;

/// A required capability.
pub(super) fn capability(field: &str, value: Option<proto::VolumeCapability>) -> Result<Capability> {
    let value = present(field, value)?;
    let mode = present(&format!("{field}.access_mode"), value.access_mode)?;
    let access = match present(&format!("{field}.access_type"), value.access_type)? {
        AccessType::Block(_) => Access::Block,
        AccessType::Mount(mount) => Access::Mount {
            fs_type: string(&format!("{field}.mount.fs_type"), mount.fs_type)?,
            flags: list(&format!("{field}.mount.mount_flags"), mount.mount_flags)?,
            group: string(&format!("{field}.mount.volume_mount_group"), mount.volume_mount_group)?,
        },
    };
    Ok(Capability { access, mode: access_mode(field, mode.mode)? })
}

/// At least one capability.
pub(super) fn capabilities(field: &str, values: Vec<proto::VolumeCapability>) -> Result<Vec<Capability>> {
    if values.is_empty() {
        return Err(invalid(format!("{field} is empty")));
    }
    let numbered = values.into_iter().enumerate();
    numbered.map(|(n, value)| capability(&format!("{field}[{n}]"), Some(value))).collect()
}

fn access_mode(field: &str, number: i32) -> Result<AccessMode> {
    match Mode::try_from(number) {
        Ok(Mode::SingleNodeWriter) => Ok(AccessMode::SingleNodeWriter),
        Ok(Mode::SingleNodeReaderOnly) => Ok(AccessMode::SingleNodeReaderOnly),
        Ok(Mode::MultiNodeReaderOnly) => Ok(AccessMode::MultiNodeReaderOnly),
        Ok(Mode::MultiNodeSingleWriter) => Ok(AccessMode::MultiNodeSingleWriter),
        Ok(Mode::MultiNodeMultiWriter) => Ok(AccessMode::MultiNodeMultiWriter),
        Ok(Mode::SingleNodeSingleWriter) => Ok(AccessMode::SingleNodeSingleWriter),
        Ok(Mode::SingleNodeMultiWriter) => Ok(AccessMode::SingleNodeMultiWriter),
        // A mode that a later CSI adds is refused, never guessed.
        Ok(Mode::Unknown) | Err(_) => Err(invalid(format!(
            "{field}.access_mode.mode is {number}, which is no mode that this driver knows"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::volume_capability::{AccessMode as ProtoMode, BlockVolume, MountVolume};

    fn of(access_type: Option<AccessType>, mode: Option<i32>) -> Result<Capability> {
        let access_mode = mode.map(|mode| ProtoMode { mode });
        capability("c", Some(proto::VolumeCapability { access_mode, access_type }))
    }

    #[test]
    fn each_mode_keeps_its_name() {
        for number in 1..=7 {
            let found = of(Some(AccessType::Block(BlockVolume {})), Some(number)).unwrap();
            assert_eq!(found.mode.name(), Mode::try_from(number).unwrap().as_str_name());
            assert!(found.is_block());
        }
    }

    #[test]
    fn what_is_missing_or_unknown_is_named() {
        let block = || Some(AccessType::Block(BlockVolume {}));
        let text = |result: Result<Capability>| result.unwrap_err().to_string();
        assert_eq!(text(capability("c", None)), "c is missing");
        assert_eq!(text(of(block(), None)), "c.access_mode is missing");
        assert_eq!(text(of(None, Some(1))), "c.access_type is missing");
        for mode in [0, 8, -1] {
            assert!(text(of(block(), Some(mode))).starts_with("c.access_mode.mode is "));
        }
        assert_eq!(capabilities("cs", Vec::new()).unwrap_err().to_string(), "cs is empty");
    }

    #[test]
    fn a_mount_is_held_to_the_limits() {
        let mount = |fs_type: &str, mount_flags: Vec<String>| {
            let mount = MountVolume { fs_type: fs_type.into(), mount_flags, volume_mount_group: "7".into() };
            of(Some(AccessType::Mount(mount)), Some(1))
        };
        let expected =
            Access::Mount { fs_type: "xfs".into(), flags: vec!["noatime".into()], group: "7".into() };
        assert_eq!(mount("xfs", vec!["noatime".into()]).unwrap().access, expected);
        assert!(mount(&"x".repeat(129), Vec::new()).is_err());
        assert!(mount("", vec!["x".repeat(4097)]).is_err());
    }
}
