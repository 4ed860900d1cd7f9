//! Protobuf to the domain's requests, once: after this nobody checks a field again.
//!
//! Lives here: which field is required and which rule of `limits` it obeys. Not
//! here: what a parameter or an id means. What a reader gets wrong: an id is
//! refused only when it is empty, and NodeGetVolumeStats' path not even when it is
//! relative: nothing is there, which the domain says.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::capability::{capabilities, capability};
use super::limits::{bytes, context, invalid, map, name, path, present, required};
use super::proto;
use crate::volume::error::{Error, Kind, Result};
use crate::volume::journal::Origin;
use crate::volume::request::{
    AttachRequest, CreateRequest, CreateSnapshotRequest, DeleteRequest, DeleteSnapshotRequest, DetachRequest,
    ExpandOnNodeRequest, ExpandRequest, ListSnapshotsRequest, PublishRequest, Secrets, StageRequest,
    StatsRequest, UnpublishRequest, UnstageRequest, ValidateRequest,
};
use crate::volume::size::CapacityRange;

/// CreateVolume.
pub(super) fn create(request: proto::CreateVolumeRequest) -> Result<CreateRequest> {
    let range = request.capacity_range.unwrap_or_default();
    Ok(CreateRequest {
        name: name("name", request.name)?,
        required: bytes("capacity_range.required_bytes", range.required_bytes)?,
        limit: bytes("capacity_range.limit_bytes", range.limit_bytes)?,
        capabilities: capabilities("volume_capabilities", request.volume_capabilities)?,
        parameters: map("parameters", request.parameters)?,
        mutable_parameters: map("mutable_parameters", request.mutable_parameters)?,
        secrets: secrets(request.secrets)?,
        source: request.volume_content_source.map(source).transpose()?,
        has_topology: request.accessibility_requirements.is_some(),
    })
}

fn source(source: proto::VolumeContentSource) -> Result<Origin> {
    use proto::volume_content_source::Type;
    Ok(match present("volume_content_source.type", source.r#type)? {
        Type::Snapshot(snapshot) => {
            Origin::Snapshot(required("volume_content_source.snapshot.snapshot_id", snapshot.snapshot_id)?)
        }
        Type::Volume(volume) => {
            Origin::Volume(required("volume_content_source.volume.volume_id", volume.volume_id)?)
        }
    })
}

/// DeleteVolume.
pub(super) fn delete(request: proto::DeleteVolumeRequest) -> Result<DeleteRequest> {
    Ok(DeleteRequest { volume_id: volume_id(request.volume_id)?, secrets: secrets(request.secrets)? })
}

/// CreateSnapshot.
pub(super) fn create_snapshot(request: proto::CreateSnapshotRequest) -> Result<CreateSnapshotRequest> {
    if request.accessibility_requirements.is_some() {
        return Err(invalid("accessibility_requirements: no snapshot has a topology here"));
    }
    Ok(CreateSnapshotRequest {
        name: name("name", request.name)?,
        source_volume_id: required("source_volume_id", request.source_volume_id)?,
        parameters: map("parameters", request.parameters)?,
        secrets: secrets(request.secrets)?,
    })
}

/// DeleteSnapshot.
pub(super) fn delete_snapshot(request: proto::DeleteSnapshotRequest) -> Result<DeleteSnapshotRequest> {
    Ok(DeleteSnapshotRequest {
        snapshot_id: required("snapshot_id", request.snapshot_id)?,
        secrets: secrets(request.secrets)?,
    })
}

/// ListSnapshots.
pub(super) fn list_snapshots(request: proto::ListSnapshotsRequest) -> Result<ListSnapshotsRequest> {
    let given = |text: String| Some(text).filter(|text| !text.is_empty());
    Ok(ListSnapshotsRequest {
        snapshot_id: given(request.snapshot_id),
        source_volume_id: given(request.source_volume_id),
        max_entries: usize::try_from(request.max_entries)
            .map_err(|_| invalid(format!("max_entries is negative: {}", request.max_entries)))?,
        starting_token: request.starting_token,
        secrets: secrets(request.secrets)?,
    })
}

/// GetSnapshot: the snapshot's handle and the secret.
pub(super) fn get_snapshot(request: proto::GetSnapshotRequest) -> Result<(String, Secrets)> {
    Ok((required("snapshot_id", request.snapshot_id)?, secrets(request.secrets)?))
}

/// ControllerExpandVolume.
pub(super) fn expand(request: proto::ControllerExpandVolumeRequest) -> Result<ExpandRequest> {
    let volume_id = volume_id(request.volume_id)?;
    let range = present("capacity_range", request.capacity_range)?;
    let given = request.volume_capability;
    Ok(ExpandRequest {
        volume_id,
        required: bytes("capacity_range.required_bytes", range.required_bytes)?,
        limit: bytes("capacity_range.limit_bytes", range.limit_bytes)?,
        capability: given.map(|given| capability("volume_capability", Some(given))).transpose()?,
        secrets: secrets(request.secrets)?,
    })
}

/// ValidateVolumeCapabilities.
pub(super) fn validate(request: proto::ValidateVolumeCapabilitiesRequest) -> Result<ValidateRequest> {
    map("mutable_parameters", request.mutable_parameters)?;
    Ok(ValidateRequest {
        volume_id: volume_id(request.volume_id)?,
        context: context("volume_context", request.volume_context)?,
        capabilities: capabilities("volume_capabilities", request.volume_capabilities)?,
        parameters: map("parameters", request.parameters)?,
        secrets: secrets(request.secrets)?,
    })
}

/// ControllerPublishVolume. `readonly` is the node's business: NodePublishVolume is told it
/// again, and mounts so.
pub(super) fn attach(request: proto::ControllerPublishVolumeRequest) -> Result<AttachRequest> {
    secrets(request.secrets)?;
    Ok(AttachRequest {
        volume_id: volume_id(request.volume_id)?,
        node: required("node_id", request.node_id)?,
        capability: capability("volume_capability", request.volume_capability)?,
        context: context("volume_context", request.volume_context)?,
    })
}

/// ControllerUnpublishVolume. The secrets are not even held to the limits: nothing about
/// them may keep a volume attached.
pub(super) fn detach(request: proto::ControllerUnpublishVolumeRequest) -> Result<DetachRequest> {
    Ok(DetachRequest { volume_id: volume_id(request.volume_id)?, node: request.node_id })
}

/// NodeStageVolume.
pub(super) fn stage(request: proto::NodeStageVolumeRequest) -> Result<StageRequest> {
    Ok(StageRequest {
        volume_id: volume_id(request.volume_id)?,
        staging_path: path("staging_target_path", request.staging_target_path)?,
        capability: capability("volume_capability", request.volume_capability)?,
        secrets: secrets(request.secrets)?,
        context: context("volume_context", request.volume_context)?,
        publish_context: map("publish_context", request.publish_context)?,
    })
}

/// NodeUnstageVolume.
pub(super) fn unstage(request: proto::NodeUnstageVolumeRequest) -> Result<UnstageRequest> {
    Ok(UnstageRequest {
        volume_id: volume_id(request.volume_id)?,
        staging_path: path("staging_target_path", request.staging_target_path)?,
    })
}

/// NodePublishVolume.
pub(super) fn publish(request: proto::NodePublishVolumeRequest) -> Result<PublishRequest> {
    let mut attached = map("publish_context", request.publish_context)?;
    secrets(request.secrets)?;
    Ok(PublishRequest {
        volume_id: volume_id(request.volume_id)?,
        staging_path: optional_path("staging_target_path", request.staging_target_path)?,
        target_path: path("target_path", request.target_path)?,
        capability: capability("volume_capability", request.volume_capability)?,
        read_only: request.readonly,
        context: context("volume_context", request.volume_context)?,
        service_accounts: attached.remove("serviceAccount").unwrap_or_default(),
    })
}

/// NodeUnpublishVolume.
pub(super) fn unpublish(request: proto::NodeUnpublishVolumeRequest) -> Result<UnpublishRequest> {
    Ok(UnpublishRequest {
        volume_id: volume_id(request.volume_id)?,
        target_path: path("target_path", request.target_path)?,
    })
}

/// NodeGetVolumeStats.
pub(super) fn stats(request: proto::NodeGetVolumeStatsRequest) -> Result<StatsRequest> {
    Ok(StatsRequest {
        volume_id: volume_id(request.volume_id)?,
        path: PathBuf::from(required("volume_path", request.volume_path)?),
        staging_path: optional_path("staging_target_path", request.staging_target_path)?,
    })
}

/// NodeExpandVolume. Its secrets are not needed: the controller has made the image larger.
pub(super) fn expand_on_node(request: proto::NodeExpandVolumeRequest) -> Result<ExpandOnNodeRequest> {
    secrets(request.secrets)?;
    let range = request.capacity_range.unwrap_or_default();
    let range = CapacityRange {
        required: bytes("capacity_range.required_bytes", range.required_bytes)?,
        limit: bytes("capacity_range.limit_bytes", range.limit_bytes)?,
    };
    if range.limit != 0 && range.required > range.limit {
        let text = "capacity_range: required_bytes is above limit_bytes";
        return Err(Error::new(Kind::OutOfRange, text));
    }
    let given = request.volume_capability.is_some();
    Ok(ExpandOnNodeRequest {
        volume_id: volume_id(request.volume_id)?,
        path: PathBuf::from(required("volume_path", request.volume_path)?),
        staging_path: optional_path("staging_target_path", request.staging_target_path)?,
        range,
        capability: given.then(|| capability("volume_capability", request.volume_capability)).transpose()?,
    })
}

fn volume_id(value: String) -> Result<String> {
    required("volume_id", value)
}

fn secrets(value: BTreeMap<String, String>) -> Result<Secrets> {
    map("secrets", value).map(Secrets::new)
}

fn optional_path(field: &str, value: String) -> Result<Option<PathBuf>> {
    if value.is_empty() { Ok(None) } else { path(field, value).map(Some) }
}

#[cfg(test)]
mod tests;
