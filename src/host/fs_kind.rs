//! The kinds of file systems that are made and mounted, and what is known of each.

use serde::{Deserialize, Serialize};

/// A kind of file system that is made and mounted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FsKind {
    /// ext2, mounted by the kernel's ext4 code.
    Ext2,
    /// ext3, mounted by the kernel's ext4 code.
    Ext3,
    /// ext4, what is made when nothing is asked for.
    Ext4,
    /// XFS.
    Xfs,
}

impl FsKind {
    /// The kind of that name, `None` for one that is not supported.
    pub fn parse(name: &str) -> Option<Self> {
        match name {
            "ext2" => Some(Self::Ext2),
            "ext3" => Some(Self::Ext3),
            "ext4" => Some(Self::Ext4),
            "xfs" => Some(Self::Xfs),
            _ => None,
        }
    }

    /// The kernel's name, for mount(2).
    pub fn name(self) -> &'static str {
        match self {
            Self::Ext2 => "ext2",
            Self::Ext3 => "ext3",
            Self::Ext4 => "ext4",
            Self::Xfs => "xfs",
        }
    }

    /// Whether it is one of the ext family.
    pub fn is_ext(self) -> bool {
        self != Self::Xfs
    }

    /// The least device, in bytes, on which its mkfs makes it (mkfs.xfs from 5.19 on: 300 MB).
    pub fn smallest(self) -> u64 {
        match self {
            Self::Xfs => 300 << 20,
            Self::Ext2 | Self::Ext3 | Self::Ext4 => 1 << 20,
        }
    }

    /// The program that makes it.
    pub fn mkfs(self) -> &'static str {
        match self {
            Self::Ext2 => "mkfs.ext2",
            Self::Ext3 => "mkfs.ext3",
            Self::Ext4 => "mkfs.ext4",
            Self::Xfs => "mkfs.xfs",
        }
    }
}

impl std::fmt::Display for FsKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}
