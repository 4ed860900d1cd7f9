//! The Controller service: volumes and snapshots are created, changed, deleted and asked about.
//!
//! Lives here: from a call to the domain's `Controller` and back. What a reader gets
//! wrong: a call that is not served must not be announced either, since the sidecars
//! start a worker for each capability.

use tonic::{Request, Response, Status};

use super::proto;
use super::proto::controller_server::Controller;
use super::proto::controller_service_capability::rpc::Type;
use super::proto::controller_service_capability::{Rpc, Type as Capability};
use super::proto::list_snapshots_response::Entry;
use super::proto::validate_volume_capabilities_response::Confirmed;
use super::unserved::unserved;
use super::{deadline, request};
use crate::controller as domain;
use crate::controller::ask::attach::Attacher;
use crate::volume::request::Snapshot;

const LIST: &str = "ControllerGetCapabilities";

/// What is served. SINGLE_NODE_MULTI_WRITER says that the two finer single-node modes
/// are understood. ceph-csi announces it on its nodes only, and CSI does not demand
/// it of both; but a CO that reads one list must not conclude the opposite, and
/// either mix of modes is accepted anyway.
const SERVED: [Type; 5] = [
    Type::CreateDeleteVolume,
    Type::CreateDeleteSnapshot,
    Type::CloneVolume,
    Type::ExpandVolume,
    Type::SingleNodeMultiWriter,
];
/// Served besides where a Kubernetes API can be asked about nodes. Elsewhere the CO has no
/// attaching to wait for, and nobody could say which nodes exist.
const SERVED_WITH_KUBERNETES: Type = Type::PublishUnpublishVolume;
/// Served besides where each cluster has a key of its own (`Controller::lists_snapshots`),
/// and announced only there.
const SERVED_WITH_KEYS: [Type; 2] = [Type::ListSnapshots, Type::GetSnapshot];

type Answer<T> = Result<Response<T>, Status>;

/// The Controller service.
#[derive(Clone)]
pub struct ControllerService {
    controller: domain::Controller,
    attacher: Option<Attacher>,
}

impl ControllerService {
    /// Serves this controller, and attaching if there is somebody to do it.
    pub fn new(controller: domain::Controller, attacher: Option<Attacher>) -> Self {
        Self { controller, attacher }
    }
}

#[tonic::async_trait]
impl Controller for ControllerService {
    async fn create_volume(
        &self,
        call: Request<proto::CreateVolumeRequest>,
    ) -> Answer<proto::CreateVolumeResponse> {
        let deadline = deadline::deadline(call.metadata(), deadline::CONTROLLER);
        let call = call.into_inner();
        let content_source = call.volume_content_source.clone();
        let volume = self.controller.create(request::create(call)?, deadline).await?;
        let volume = proto::Volume {
            capacity_bytes: signed(volume.capacity),
            volume_id: volume.id,
            volume_context: volume.context,
            content_source,
            ..Default::default()
        };
        Ok(Response::new(proto::CreateVolumeResponse { volume: Some(volume) }))
    }

    async fn delete_volume(
        &self,
        call: Request<proto::DeleteVolumeRequest>,
    ) -> Answer<proto::DeleteVolumeResponse> {
        let deadline = deadline::deadline(call.metadata(), deadline::CONTROLLER);
        let request = request::delete(call.into_inner())?;
        // Removed or absent: CSI answers OK to both.
        self.controller.delete(request, deadline).await?;
        Ok(Response::new(proto::DeleteVolumeResponse {}))
    }

    async fn validate_volume_capabilities(
        &self,
        call: Request<proto::ValidateVolumeCapabilitiesRequest>,
    ) -> Answer<proto::ValidateVolumeCapabilitiesResponse> {
        let deadline = deadline::deadline(call.metadata(), deadline::CONTROLLER);
        let asked = call.get_ref().clone();
        let request = request::validate(call.into_inner())?;
        let refusal = self.controller.validate(request, deadline).await?;
        Ok(Response::new(verdict(asked, refusal)))
    }

    async fn controller_get_capabilities(
        &self,
        _: Request<proto::ControllerGetCapabilitiesRequest>,
    ) -> Answer<proto::ControllerGetCapabilitiesResponse> {
        let capability = |served: Type| proto::ControllerServiceCapability {
            r#type: Some(Capability::Rpc(Rpc { r#type: served.into() })),
        };
        let listing = self.controller.lists_snapshots().await.then_some(SERVED_WITH_KEYS);
        let served = SERVED
            .into_iter()
            .chain(self.attacher.as_ref().map(|_| SERVED_WITH_KUBERNETES))
            .chain(listing.into_iter().flatten());
        let capabilities = served.map(capability).collect();
        Ok(Response::new(proto::ControllerGetCapabilitiesResponse { capabilities }))
    }

    async fn controller_publish_volume(
        &self,
        call: Request<proto::ControllerPublishVolumeRequest>,
    ) -> Answer<proto::ControllerPublishVolumeResponse> {
        let Some(attacher) = &self.attacher else { return unserved("ControllerPublishVolume", LIST) };
        let deadline = deadline::deadline(call.metadata(), deadline::CONTROLLER);
        attacher.attach(&request::attach(call.into_inner())?, deadline).await?;
        // The node needs to know nothing more: it finds the image by the handle.
        Ok(Response::new(proto::ControllerPublishVolumeResponse::default()))
    }

    async fn controller_unpublish_volume(
        &self,
        call: Request<proto::ControllerUnpublishVolumeRequest>,
    ) -> Answer<proto::ControllerUnpublishVolumeResponse> {
        let Some(attacher) = &self.attacher else { return unserved("ControllerUnpublishVolume", LIST) };
        attacher.detach(&request::detach(call.into_inner())?);
        Ok(Response::new(proto::ControllerUnpublishVolumeResponse {}))
    }

    async fn list_volumes(
        &self,
        _: Request<proto::ListVolumesRequest>,
    ) -> Answer<proto::ListVolumesResponse> {
        unserved("ListVolumes", LIST)
    }

    async fn get_capacity(
        &self,
        _: Request<proto::GetCapacityRequest>,
    ) -> Answer<proto::GetCapacityResponse> {
        unserved("GetCapacity", LIST)
    }

    async fn create_snapshot(
        &self,
        call: Request<proto::CreateSnapshotRequest>,
    ) -> Answer<proto::CreateSnapshotResponse> {
        let deadline = deadline::deadline(call.metadata(), deadline::CONTROLLER);
        let request = request::create_snapshot(call.into_inner())?;
        let made = self.controller.create_snapshot(request, deadline).await?;
        Ok(Response::new(proto::CreateSnapshotResponse { snapshot: Some(snapshot(made)) }))
    }

    async fn delete_snapshot(
        &self,
        call: Request<proto::DeleteSnapshotRequest>,
    ) -> Answer<proto::DeleteSnapshotResponse> {
        let deadline = deadline::deadline(call.metadata(), deadline::CONTROLLER);
        let request = request::delete_snapshot(call.into_inner())?;
        // Removed or absent: CSI answers OK to both.
        self.controller.delete_snapshot(request, deadline).await?;
        Ok(Response::new(proto::DeleteSnapshotResponse {}))
    }

    async fn list_snapshots(
        &self,
        call: Request<proto::ListSnapshotsRequest>,
    ) -> Answer<proto::ListSnapshotsResponse> {
        let deadline = deadline::deadline(call.metadata(), deadline::CONTROLLER);
        let request = request::list_snapshots(call.into_inner())?;
        let page = self.controller.list_snapshots(request, deadline).await?;
        let entry = |found| Entry { snapshot: Some(snapshot(found)) };
        Ok(Response::new(proto::ListSnapshotsResponse {
            entries: page.snapshots.into_iter().map(entry).collect(),
            next_token: page.next.unwrap_or_default(),
        }))
    }

    async fn get_snapshot(
        &self,
        call: Request<proto::GetSnapshotRequest>,
    ) -> Answer<proto::GetSnapshotResponse> {
        let deadline = deadline::deadline(call.metadata(), deadline::CONTROLLER);
        let (id, secrets) = request::get_snapshot(call.into_inner())?;
        let found = self.controller.get_snapshot(id, secrets, deadline).await?;
        Ok(Response::new(proto::GetSnapshotResponse { snapshot: Some(snapshot(found)) }))
    }

    async fn controller_expand_volume(
        &self,
        call: Request<proto::ControllerExpandVolumeRequest>,
    ) -> Answer<proto::ControllerExpandVolumeResponse> {
        let deadline = deadline::deadline(call.metadata(), deadline::CONTROLLER);
        let expanded = self.controller.expand(request::expand(call.into_inner())?, deadline).await?;
        Ok(Response::new(proto::ControllerExpandVolumeResponse {
            capacity_bytes: signed(expanded.capacity),
            node_expansion_required: expanded.node_expansion_required,
        }))
    }

    async fn controller_get_volume(
        &self,
        _: Request<proto::ControllerGetVolumeRequest>,
    ) -> Answer<proto::ControllerGetVolumeResponse> {
        unserved("ControllerGetVolume", LIST)
    }

    async fn controller_modify_volume(
        &self,
        _: Request<proto::ControllerModifyVolumeRequest>,
    ) -> Answer<proto::ControllerModifyVolumeResponse> {
        unserved("ControllerModifyVolume", LIST)
    }

    async fn controller_list_volume_health(
        &self,
        _: Request<proto::ControllerListVolumeHealthRequest>,
    ) -> Answer<proto::ControllerListVolumeHealthResponse> {
        unserved("ControllerListVolumeHealth", LIST)
    }

    async fn controller_get_volume_health(
        &self,
        _: Request<proto::ControllerGetVolumeHealthRequest>,
    ) -> Answer<proto::ControllerGetVolumeHealthResponse> {
        unserved("ControllerGetVolumeHealth", LIST)
    }
}

/// A snapshot that the domain knows is complete, so it can be restored at once.
fn snapshot(found: Snapshot) -> proto::Snapshot {
    let created = prost_types::Timestamp {
        seconds: signed(found.created.as_secs()),
        nanos: i32::try_from(found.created.subsec_nanos()).unwrap_or_default(),
    };
    proto::Snapshot {
        size_bytes: signed(found.size),
        snapshot_id: found.id,
        source_volume_id: found.source_volume_id,
        creation_time: Some(created),
        ready_to_use: true,
        ..Default::default()
    }
}

fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// Confirms what was looked at, and only that: the capabilities, and the context by
/// which the volume was found. Parameters are not kept with a volume, so they cannot
/// be confirmed (CSI: a field that is not set was not validated).
fn verdict(
    asked: proto::ValidateVolumeCapabilitiesRequest,
    refusal: Option<String>,
) -> proto::ValidateVolumeCapabilitiesResponse {
    let refusal = refusal.or_else(|| {
        let key = asked.mutable_parameters.keys().next()?;
        Some(format!("mutable parameter {key}: no parameter of a volume can be changed in this version"))
    });
    match refusal {
        Some(message) => proto::ValidateVolumeCapabilitiesResponse { confirmed: None, message },
        None => proto::ValidateVolumeCapabilitiesResponse {
            confirmed: Some(Confirmed {
                volume_context: asked.volume_context,
                volume_capabilities: asked.volume_capabilities,
                ..Default::default()
            }),
            message: String::new(),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn asked(mutable: &[&str]) -> proto::ValidateVolumeCapabilitiesRequest {
        let map = |keys: &[&str]| keys.iter().map(|key| ((*key).to_owned(), "v".to_owned())).collect();
        proto::ValidateVolumeCapabilitiesRequest {
            volume_id: "v".into(),
            volume_context: map(&["pool"]),
            volume_capabilities: vec![proto::VolumeCapability::default()],
            parameters: map(&["clusterID"]),
            secrets: BTreeMap::from([("userKey".to_owned(), "canary".to_owned())]),
            mutable_parameters: map(mutable),
        }
    }

    #[test]
    fn only_what_was_looked_at_is_confirmed() {
        let confirmed = verdict(asked(&[]), None).confirmed.unwrap();
        assert_eq!((confirmed.volume_capabilities.len(), confirmed.volume_context.len()), (1, 1));
        assert!(confirmed.parameters.is_empty() && confirmed.mutable_parameters.is_empty());
    }

    #[test]
    fn a_refusal_has_a_reason_and_confirms_nothing() {
        let refused = verdict(asked(&[]), Some("no".into()));
        assert_eq!((refused.confirmed, refused.message.as_str()), (None, "no"));
        let refused = verdict(asked(&["iops"]), None);
        assert!(refused.confirmed.is_none() && refused.message.contains("iops"));
    }
}
