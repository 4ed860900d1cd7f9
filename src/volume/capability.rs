//! How a volume is asked for: as a file system or as a device, and by whom at once.
//!
//! Lives here: CSI's `VolumeCapability` without protobuf, and what a mode means.
//! Not here: which combinations a driver serves (`provision`, `stage`). What a
//! reader gets wrong: the plain `SINGLE_NODE_WRITER` says nothing about how many
//! pods of that one node write; kubelets send the two finer modes only to a driver
//! that announces `SINGLE_NODE_MULTI_WRITER`.

use std::fmt;

/// Who uses the volume at once, and how (csi.proto, `VolumeCapability.AccessMode.Mode`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AccessMode {
    /// One node reads and writes.
    SingleNodeWriter,
    /// One node reads.
    SingleNodeReaderOnly,
    /// Many nodes read.
    MultiNodeReaderOnly,
    /// Many nodes read, one of them writes.
    MultiNodeSingleWriter,
    /// Many nodes read and write.
    MultiNodeMultiWriter,
    /// One target path on one node reads and writes.
    SingleNodeSingleWriter,
    /// Many target paths on one node read and write.
    SingleNodeMultiWriter,
}

impl AccessMode {
    /// The mode's name in csi.proto.
    pub fn name(self) -> &'static str {
        match self {
            Self::SingleNodeWriter => "SINGLE_NODE_WRITER",
            Self::SingleNodeReaderOnly => "SINGLE_NODE_READER_ONLY",
            Self::MultiNodeReaderOnly => "MULTI_NODE_READER_ONLY",
            Self::MultiNodeSingleWriter => "MULTI_NODE_SINGLE_WRITER",
            Self::MultiNodeMultiWriter => "MULTI_NODE_MULTI_WRITER",
            Self::SingleNodeSingleWriter => "SINGLE_NODE_SINGLE_WRITER",
            Self::SingleNodeMultiWriter => "SINGLE_NODE_MULTI_WRITER",
        }
    }
}

impl fmt::Display for AccessMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// In which form a pod sees the volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Access {
    /// As a device file.
    Block,
    /// As a directory.
    Mount {
        /// The file system's kind; empty leaves the choice to the driver.
        fs_type: String,
        /// Options for the staging mount. They may be sensitive (csi.proto,
        /// `MountVolume.mount_flags`), so they are not for logs.
        flags: Vec<String>,
        /// `volume_mount_group`: the group that shall own the files; empty when
        /// none is asked for.
        group: String,
    },
}

/// One way in which a volume is, or shall be, used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Capability {
    /// File system or device.
    pub access: Access,
    /// Who at once.
    pub mode: AccessMode,
}

/// Why no volume is used in the mode `MULTI_NODE_SINGLE_WRITER`.
pub const NO_SINGLE_WRITER_OF_MANY: &str =
    "access mode MULTI_NODE_SINGLE_WRITER is not served: nothing would keep a second writer out";

impl Capability {
    /// Whether the pod gets the device itself.
    pub fn is_block(&self) -> bool {
        matches!(self.access, Access::Block)
    }

    /// Whether several nodes may use it at once.
    pub fn multi_node(&self) -> bool {
        match self.mode {
            AccessMode::MultiNodeReaderOnly
            | AccessMode::MultiNodeSingleWriter
            | AccessMode::MultiNodeMultiWriter => true,
            AccessMode::SingleNodeWriter
            | AccessMode::SingleNodeReaderOnly
            | AccessMode::SingleNodeSingleWriter
            | AccessMode::SingleNodeMultiWriter => false,
        }
    }

    /// Whether several nodes may write at once.
    pub fn multi_node_writer(&self) -> bool {
        self.mode == AccessMode::MultiNodeMultiWriter
    }

    /// Whether nobody writes.
    pub fn read_only(&self) -> bool {
        matches!(self.mode, AccessMode::SingleNodeReaderOnly | AccessMode::MultiNodeReaderOnly)
    }

    /// Whether one node at most uses it.
    pub fn single_node(&self) -> bool {
        !self.multi_node()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_mode_says_how_many_nodes_and_whether_they_write() {
        let of = |mode| {
            let capability = Capability { access: Access::Block, mode };
            assert_ne!(capability.single_node(), capability.multi_node());
            (capability.multi_node(), capability.multi_node_writer(), capability.read_only())
        };
        for (mode, expected) in [
            (AccessMode::SingleNodeWriter, (false, false, false)),
            (AccessMode::SingleNodeReaderOnly, (false, false, true)),
            (AccessMode::MultiNodeReaderOnly, (true, false, true)),
            (AccessMode::MultiNodeSingleWriter, (true, false, false)),
            (AccessMode::MultiNodeMultiWriter, (true, true, false)),
            (AccessMode::SingleNodeSingleWriter, (false, false, false)),
            (AccessMode::SingleNodeMultiWriter, (false, false, false)),
        ] {
            assert_eq!(of(mode), expected, "{mode}");
        }
    }
}
