//! The two things that a journal keeps, and where it keeps each (ceph-csi's names).

use uuid::Uuid;

/// What a journal keeps: the one or the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Collection {
    /// Volumes: `csi.volumes.<instance>`, `csi.volume.<uuid>`.
    Volumes,
    /// Snapshots, each an image of its own: `csi.snaps.<instance>`, `csi.snap.<uuid>`.
    Snapshots,
}

impl Collection {
    /// The object with the directory keys.
    pub fn directory(self, instance: &str) -> String {
        match self {
            Self::Volumes => format!("csi.volumes.{instance}"),
            Self::Snapshots => format!("csi.snaps.{instance}"),
        }
    }

    /// What each directory key begins with; behind it stands the CO's name.
    pub fn key_prefix(self) -> &'static str {
        match self {
            Self::Volumes => "csi.volume.",
            Self::Snapshots => "csi.snap.",
        }
    }

    /// The directory key of a name.
    pub fn directory_key(self, name: &str) -> String {
        format!("{}{name}", self.key_prefix())
    }

    /// The object of one volume or snapshot.
    pub fn object(self, uuid: Uuid) -> String {
        format!("{}{uuid}", self.key_prefix())
    }

    /// The key of the object that holds the CO's name.
    pub(super) fn name_key(self) -> &'static str {
        match self {
            Self::Volumes => "csi.volname",
            Self::Snapshots => "csi.snapname",
        }
    }

    /// The name of an image of that uuid with the default prefix.
    pub fn default_image(self, uuid: Uuid) -> String {
        format!("{}{uuid}", self.default_prefix())
    }

    /// What the names of images begin with where nobody has asked for anything else.
    pub fn default_prefix(self) -> &'static str {
        match self {
            Self::Volumes => "csi-vol-",
            Self::Snapshots => "csi-snap-",
        }
    }

    /// What one of them is called in a sentence.
    pub fn noun(self) -> &'static str {
        match self {
            Self::Volumes => "volume",
            Self::Snapshots => "snapshot",
        }
    }
}
