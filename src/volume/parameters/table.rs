//! Every parameter of a StorageClass and of a VolumeSnapshotClass, with what people are told of it.
//!
//! `names` checks by this list, and docs/parameters.md is made from it (`make reference`).
//! Not here: what a value means for an image (`super`).

/// Whose parameters they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// A StorageClass'.
    Storage,
    /// A VolumeSnapshotClass'.
    Snapshot,
}

impl Class {
    /// Kubernetes' name of the kind.
    pub fn name(self) -> &'static str {
        match self {
            Self::Storage => "StorageClass",
            Self::Snapshot => "VolumeSnapshotClass",
        }
    }

    /// Its parameters that the driver itself reads.
    pub fn parameters(self) -> &'static [Parameter] {
        match self {
            Self::Storage => PARAMETERS,
            Self::Snapshot => SNAPSHOT_PARAMETERS,
        }
    }
}

/// What this version makes of a parameter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// It has the meaning that it has in ceph-csi.
    Works,
    /// Refused when it asks for something; `false`, empty or zero passes where that means "off".
    NotYet,
    /// Accepted, carried along, and without effect.
    NoEffect,
    /// For the sidecars, which do not hand it on.
    Sidecars,
}

/// A parameter.
#[derive(Debug, Clone, Copy)]
pub struct Parameter {
    /// Its name, exactly as it must be written.
    pub name: &'static str,
    /// Which values it takes.
    pub values: &'static str,
    /// What holds without it.
    pub default: &'static str,
    /// What this version makes of it.
    pub state: State,
    /// What it means.
    pub meaning: &'static str,
}

const fn row(
    name: &'static str,
    values: &'static str,
    default: &'static str,
    state: State,
    meaning: &'static str,
) -> Parameter {
    Parameter { name, values, default, state, meaning }
}

use State::{NoEffect, NotYet, Sidecars, Works};

/// Every parameter of ceph-csi's StorageClasses, old releases' included, but for [`LIMITS`].
#[rustfmt::skip]
pub const PARAMETERS: &[Parameter] = &[
    row("clusterID", "text", "required", Works, "the entry of config.json: the cluster, its monitors and its RADOS namespace"),
    row("pool", "a pool's name", "required", Works, "the pool of images and journal"),
    row("dataPool", "a pool's name", "none", Works, "the pool of the data; an erasure-coded pool needs `allow_ec_overwrites`"),
    row("volumeNamePrefix", "text without `/`, `@` and blanks", "`csi-vol-`", Works, "what stands before the uuid in an image's name"),
    row("imageFeatures", "comma list: `layering`, `exclusive-lock`, `object-map` (needs exclusive-lock), `fast-diff` (needs object-map), `deep-flatten`", "Ceph's own", Works, "the image's features; `journaling` needs rbd-nbd and is refused"),
    row("objectSize", "bytes: a power of two, 4096 to 33554432", "4194304", Works, "the size of the objects that an image is cut into"),
    row("stripeUnit", "bytes; divides the object size", "none", Works, "how much goes to one object before the next; needs `stripeCount`"),
    row("stripeCount", "a number", "none", Works, "over how many objects is striped; needs `stripeUnit`"),
    row("mapOptions", "`krbd:a,b;nbd:c`; without a prefix they are krbd's", "none", Works, "options of the kernel's mapping; `secret`, `key`, `name`, `ip`, `fsid` and `_pool_ns` are the driver's own"),
    row("unmapOptions", "as `mapOptions`", "none", Works, "options of the unmapping, such as `force`"),
    row("mkfsOptions", "options, split at blanks", "see below", Works, "replaces the options of mkfs; none may name a file or a device"),
    row("mounter", "`rbd`", "`rbd`", Works, "krbd; `rbd-nbd` is not there yet and refused; another word means krbd, with a warning"),
    row("tryOtherMounters", "`true`, `false`", "`false`", NoEffect, "there is no other mounter yet"),
    row("encrypted", "`true`, `false`", "`false`", NotYet, "encryption of the volume"),
    row("encryptionType", "`block`, `file`", "–", NoEffect, "has a meaning only with `encrypted`"),
    row("encryptionKMSID", "text", "–", NoEffect, "has a meaning only with `encrypted`"),
    row("encryptionCipher", "text", "–", NoEffect, "has a meaning only with `encrypted`"),
    row("encryptionKeySize", "bits", "–", NoEffect, "has a meaning only with `encrypted`"),
    row("encryptionSectorSize", "bytes", "–", NoEffect, "has a meaning only with `encrypted`"),
    row("integrityMode", "text", "–", NoEffect, "has a meaning only with `encrypted`"),
    row("topologyConstrainedPools", "JSON", "none", NotYet, "a pool for each failure domain"),
    row("cephLogDir", "a folder", "–", NoEffect, "rbd-nbd's"),
    row("cephLogStrategy", "`remove`, `compress`, `preserve`", "–", NoEffect, "rbd-nbd's"),
    row("radosNamespace", "text, not empty", "–", NoEffect, "the namespace is `rbd.radosNamespace` of config.json"),
    row("thickProvision", "`false`", "`false`", NoEffect, "volumes are thin, ceph-csi's too since 3.6; `true` is refused"),
    row("imageFormat", "`2`", "`2`", NoEffect, "there is only format 2; `1` is refused"),
];

/// Limits of I/O, which only librbd can keep: krbd has none of its own. Zero passes.
pub const LIMITS: &[&str] = &[
    "baseIops",
    "maxIops",
    "baseReadIops",
    "maxReadIops",
    "baseWriteIops",
    "maxWriteIops",
    "baseBps",
    "maxBps",
    "baseReadBps",
    "maxReadBps",
    "baseWriteBps",
    "maxWriteBps",
    "iopsPerGiB",
    "readIopsPerGiB",
    "writeIopsPerGiB",
    "bpsPerGiB",
    "readBpsPerGiB",
    "writeBpsPerGiB",
    "baseVolSizeBytes",
];

/// Every parameter of ceph-csi's VolumeSnapshotClasses.
#[rustfmt::skip]
pub const SNAPSHOT_PARAMETERS: &[Parameter] = &[
    row("clusterID", "text", "the volume's", Works, "the entry of config.json that the snapshot's handle names; it must be the cluster of the volume"),
    row("snapshotNamePrefix", "text without `/`, `@` and blanks", "`csi-snap-`", Works, "what stands before the uuid in the name of a snapshot's image"),
    row("pool", "text, not empty", "–", NoEffect, "a snapshot's image is in the pool of its volume"),
];

/// What a VolumeSnapshotClass says to csi-snapshotter, by the prefix `csi.storage.k8s.io/`.
#[rustfmt::skip]
pub const SNAPSHOT_SIDECARS: &[Parameter] = &[
    row("csi.storage.k8s.io/snapshotter-secret-name", "a secret's name", "required", Sidecars, "the user who makes and deletes snapshots; with `…-namespace`"),
    row("csi.storage.k8s.io/snapshotter-list-secret-name", "a secret's name", "none", Sidecars, "the user who lists snapshots, where the driver announces that it can; with `…-namespace`"),
];

/// What a StorageClass says to the sidecars, by the prefix `csi.storage.k8s.io/`.
#[rustfmt::skip]
pub const SIDECARS: &[Parameter] = &[
    row("csi.storage.k8s.io/fstype", "`ext4`, `xfs`; `ext3` and `ext2` work, too", "`ext4`", Sidecars, "the file system of a volume that is not raw block"),
    row("fsType", "as `csi.storage.k8s.io/fstype`", "none", Sidecars, "its old name, in any case, which csi-provisioner reads, too; refused where the volume would get another type"),
    row("csi.storage.k8s.io/provisioner-secret-name", "a secret's name", "required", Sidecars, "the user who creates and deletes; with `…-namespace`"),
    row("csi.storage.k8s.io/node-stage-secret-name", "a secret's name", "required", Sidecars, "the user who maps; with `…-namespace`"),
    row("csi.storage.k8s.io/controller-publish-secret-name", "a secret's name", "none", Sidecars, "accepted at attaching, which asks Ceph nothing yet; with `…-namespace`"),
    row("csi.storage.k8s.io/controller-expand-secret-name", "a secret's name", "none", Sidecars, "the user who grows; without it a claim cannot grow, and a class cannot be given one later; with `…-namespace`"),
];
