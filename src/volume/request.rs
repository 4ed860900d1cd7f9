//! What the CO asks for and what it gets, in the domain's own types.
//!
//! Lives here: plain values. The door (`csi::request`) makes them of protobuf once
//! and holds CSI's general limits: required fields are there, sizes are not
//! negative, paths are absolute without `..`. What a reader gets wrong: a volume
//! id is any text; one that no driver composed is the id of nothing, which the
//! domain decides.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

pub use crate::volume::capability::{Access, AccessMode, Capability};
use crate::volume::journal::Origin;
pub use crate::volume::secrets::Secrets;
use crate::volume::size::CapacityRange;

/// CreateVolume.
#[derive(Debug, Clone)]
pub struct CreateRequest {
    /// The CO's name for the volume: at most 128 bytes of Unicode, no control
    /// characters but tab and line ends.
    pub name: String,
    /// The least size in bytes; 0 when none is asked for.
    pub required: u64,
    /// The greatest size in bytes; 0 when there is none.
    pub limit: u64,
    /// All ways in which it shall be usable; at least one.
    pub capabilities: Vec<Capability>,
    /// The StorageClass' parameters.
    pub parameters: BTreeMap<String, String>,
    /// The VolumeAttributesClass' parameters.
    pub mutable_parameters: BTreeMap<String, String>,
    /// The provisioner's secret.
    pub secrets: Secrets,
    /// The snapshot or the other volume whose content it shall have.
    pub source: Option<Origin>,
    /// Whether the volume is asked for in some topology.
    pub has_topology: bool,
}

/// DeleteVolume.
#[derive(Debug, Clone)]
pub struct DeleteRequest {
    /// The volume's handle.
    pub volume_id: String,
    /// The provisioner's secret.
    pub secrets: Secrets,
}

/// CreateSnapshot.
#[derive(Debug, Clone)]
pub struct CreateSnapshotRequest {
    /// The CO's name for the snapshot, with the limits of a volume's.
    pub name: String,
    /// The handle of the volume that it is taken of.
    pub source_volume_id: String,
    /// The VolumeSnapshotClass' parameters.
    pub parameters: BTreeMap<String, String>,
    /// The snapshotter's secret.
    pub secrets: Secrets,
}

/// DeleteSnapshot.
#[derive(Debug, Clone)]
pub struct DeleteSnapshotRequest {
    /// The snapshot's handle.
    pub snapshot_id: String,
    /// The snapshotter's secret.
    pub secrets: Secrets,
}

/// ListSnapshots, and GetSnapshot with `snapshot_id` alone.
#[derive(Debug, Clone)]
pub struct ListSnapshotsRequest {
    /// Only this one.
    pub snapshot_id: Option<String>,
    /// Only those of this volume.
    pub source_volume_id: Option<String>,
    /// No more than so many; 0 for no limit.
    pub max_entries: usize,
    /// Where the page before ended; empty for the first.
    pub starting_token: String,
    /// The secret for listing; few COs give one.
    pub secrets: Secrets,
}

/// ControllerExpandVolume.
#[derive(Debug, Clone)]
pub struct ExpandRequest {
    /// The volume's handle.
    pub volume_id: String,
    /// The least size in bytes; 0 when none is asked for.
    pub required: u64,
    /// The greatest size in bytes; 0 when there is none.
    pub limit: u64,
    /// How it is used, when the CO says so.
    pub capability: Option<Capability>,
    /// The expander's secret.
    pub secrets: Secrets,
}

/// ValidateVolumeCapabilities.
#[derive(Debug, Clone)]
pub struct ValidateRequest {
    /// The volume's handle.
    pub volume_id: String,
    /// The context that CreateVolume answered, or a static PV's attributes.
    pub context: BTreeMap<String, String>,
    /// What is asked about; at least one.
    pub capabilities: Vec<Capability>,
    /// The parameters that it was created with.
    pub parameters: BTreeMap<String, String>,
    /// The provisioner's secret.
    pub secrets: Secrets,
}

/// ControllerPublishVolume.
#[derive(Debug, Clone)]
pub struct AttachRequest {
    /// The volume's handle.
    pub volume_id: String,
    /// The node's name.
    pub node: String,
    /// How it will be used there.
    pub capability: Capability,
    /// The context that CreateVolume answered, or a static PV's attributes.
    pub context: BTreeMap<String, String>,
}

/// ControllerUnpublishVolume.
#[derive(Debug, Clone)]
pub struct DetachRequest {
    /// The volume's handle.
    pub volume_id: String,
    /// The node's name; empty for all nodes.
    pub node: String,
}

/// NodeStageVolume.
#[derive(Debug, Clone)]
pub struct StageRequest {
    /// The volume's handle.
    pub volume_id: String,
    /// The directory that the CO made for it, absolute.
    pub staging_path: PathBuf,
    /// How it will be used.
    pub capability: Capability,
    /// The node-stage secret.
    pub secrets: Secrets,
    /// The context that CreateVolume answered, or a static PV's attributes.
    pub context: BTreeMap<String, String>,
    /// What ControllerPublishVolume answered; foreign keys are ignored.
    pub publish_context: BTreeMap<String, String>,
}

/// NodeUnstageVolume.
#[derive(Debug, Clone)]
pub struct UnstageRequest {
    /// The volume's handle.
    pub volume_id: String,
    /// Where it was staged, absolute.
    pub staging_path: PathBuf,
}

/// NodePublishVolume.
#[derive(Debug, Clone)]
pub struct PublishRequest {
    /// The volume's handle.
    pub volume_id: String,
    /// Where it was staged, absolute; `None` when the CO does not say, which is
    /// an order of calls that cannot be (CSI: FAILED_PRECONDITION).
    pub staging_path: Option<PathBuf>,
    /// Where the pod shall find it, absolute.
    pub target_path: PathBuf,
    /// How the pod will use it.
    pub capability: Capability,
    /// Whether this pod must not write.
    pub read_only: bool,
    /// The context that CreateVolume answered, or a static PV's attributes.
    pub context: BTreeMap<String, String>,
    /// The service accounts whose pods alone may have it, as ceph-csi's ControllerPublishVolume
    /// answered; empty for all.
    pub service_accounts: String,
}

/// NodeUnpublishVolume.
#[derive(Debug, Clone)]
pub struct UnpublishRequest {
    /// The volume's handle.
    pub volume_id: String,
    /// Where the pod found it, absolute.
    pub target_path: PathBuf,
}

/// NodeGetVolumeStats.
#[derive(Debug, Clone)]
pub struct StatsRequest {
    /// The volume's handle.
    pub volume_id: String,
    /// A path where it is staged or published. It may be relative, and then it is
    /// no path of any volume.
    pub path: PathBuf,
    /// Where it was staged, when the CO says so.
    pub staging_path: Option<PathBuf>,
}

/// NodeExpandVolume.
#[derive(Debug, Clone)]
pub struct ExpandOnNodeRequest {
    /// The volume's handle.
    pub volume_id: String,
    /// A path where it is staged or published. It may be relative, and then it is
    /// no path of any volume.
    pub path: PathBuf,
    /// Where it was staged, when the CO says so.
    pub staging_path: Option<PathBuf>,
    /// The size that it shall have.
    pub range: CapacityRange,
    /// How it is used, when the CO says so.
    pub capability: Option<Capability>,
}

/// A volume that exists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Volume {
    /// Its handle.
    pub id: String,
    /// Its size in bytes.
    pub capacity: u64,
    /// What the node needs to know of it, without secrets.
    pub context: BTreeMap<String, String>,
}

/// A snapshot that exists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// Its handle.
    pub id: String,
    /// The handle of the volume that it was taken of.
    pub source_volume_id: String,
    /// The size of the volume at that moment, in bytes.
    pub size: u64,
    /// When it was taken, since 1970, the same in every answer.
    pub created: Duration,
}

/// A volume that has grown, or was large enough.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Expanded {
    /// Its size in bytes.
    pub capacity: u64,
    /// Whether the node has to grow a file system on it.
    pub node_expansion_required: bool,
}

/// How full a volume is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Usage {
    /// A file system, as statfs tells it.
    Filesystem {
        /// Its bytes.
        bytes: Amount,
        /// Its inodes; all zero where the file system has no fixed number of them.
        inodes: Amount,
    },
    /// A device: what of it is in use, only its user knows.
    Block {
        /// Its size in bytes.
        total: u64,
    },
}

/// How much there is of bytes or of inodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Amount {
    /// All.
    pub total: u64,
    /// What is in use.
    pub used: u64,
    /// What an unprivileged user can still take.
    pub available: u64,
}
