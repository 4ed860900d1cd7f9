//! What a CO sends to a node's service for a volume that the controller's has answered
//! with; what it sends to the controller's is in `driver`.

use rbd_csi::csi::proto;

use super::driver::{Site, mount};

/// NodeStageVolume.
pub fn stage(site: &Site, volume: &proto::Volume, staging: &str) -> proto::NodeStageVolumeRequest {
    proto::NodeStageVolumeRequest {
        volume_id: volume.volume_id.clone(),
        staging_target_path: staging.to_owned(),
        volume_capability: Some(mount()),
        secrets: site.secrets.clone(),
        volume_context: volume.volume_context.clone(),
        ..Default::default()
    }
}

/// NodePublishVolume.
pub fn publish(volume: &proto::Volume, staging: &str, target: &str) -> proto::NodePublishVolumeRequest {
    proto::NodePublishVolumeRequest {
        volume_id: volume.volume_id.clone(),
        staging_target_path: staging.to_owned(),
        target_path: target.to_owned(),
        volume_capability: Some(mount()),
        volume_context: volume.volume_context.clone(),
        ..Default::default()
    }
}

/// NodeUnpublishVolume.
pub fn unpublish(volume: &proto::Volume, target: &str) -> proto::NodeUnpublishVolumeRequest {
    proto::NodeUnpublishVolumeRequest { volume_id: volume.volume_id.clone(), target_path: target.to_owned() }
}

/// NodeUnstageVolume.
pub fn unstage(volume: &proto::Volume, staging: &str) -> proto::NodeUnstageVolumeRequest {
    proto::NodeUnstageVolumeRequest {
        volume_id: volume.volume_id.clone(),
        staging_target_path: staging.to_owned(),
    }
}

/// NodeExpandVolume, as the kubelet asks for it where the volume is published.
pub fn grow(
    volume: &proto::Volume,
    staging: &str,
    target: &str,
    size: i64,
) -> proto::NodeExpandVolumeRequest {
    proto::NodeExpandVolumeRequest {
        volume_id: volume.volume_id.clone(),
        volume_path: target.to_owned(),
        staging_target_path: staging.to_owned(),
        capacity_range: Some(proto::CapacityRange { required_bytes: size, limit_bytes: 0 }),
        volume_capability: Some(mount()),
        ..Default::default()
    }
}
