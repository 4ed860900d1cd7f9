//! The Node service: volumes are staged, published and measured on this node.
//!
//! Lives here: from a call to the domain's `Node` and back. What a reader gets wrong:
//! SINGLE_NODE_MULTI_WRITER changes what the kubelet sends. With it, ReadWriteOnce
//! arrives as SINGLE_NODE_MULTI_WRITER and ReadWriteOncePod as
//! SINGLE_NODE_SINGLE_WRITER; older ones send SINGLE_NODE_WRITER for both.

use tonic::{Request, Response, Status};

use super::proto;
use super::proto::node_server::Node;
use super::proto::node_service_capability::rpc::Type;
use super::proto::node_service_capability::{Rpc, Type as Capability};
use super::unserved::unserved;
use super::usage::usage;
use super::{deadline, request};
use crate::node as domain;

const LIST: &str = "NodeGetCapabilities";

/// What is served.
const SERVED: [Type; 4] =
    [Type::StageUnstageVolume, Type::GetVolumeStats, Type::ExpandVolume, Type::SingleNodeMultiWriter];

type Answer<T> = Result<Response<T>, Status>;

/// The Node service.
#[derive(Clone)]
pub struct NodeService(domain::Node);

impl NodeService {
    /// Serves this node.
    pub fn new(node: domain::Node) -> Self {
        Self(node)
    }
}

#[tonic::async_trait]
impl Node for NodeService {
    async fn node_stage_volume(
        &self,
        call: Request<proto::NodeStageVolumeRequest>,
    ) -> Answer<proto::NodeStageVolumeResponse> {
        let deadline = deadline::deadline(call.metadata(), deadline::NODE);
        let request = request::stage(call.into_inner())?;
        self.0.stage(request, deadline).await?;
        Ok(Response::new(proto::NodeStageVolumeResponse {}))
    }

    async fn node_unstage_volume(
        &self,
        call: Request<proto::NodeUnstageVolumeRequest>,
    ) -> Answer<proto::NodeUnstageVolumeResponse> {
        let deadline = deadline::deadline(call.metadata(), deadline::NODE);
        let request = request::unstage(call.into_inner())?;
        self.0.unstage(request, deadline).await?;
        Ok(Response::new(proto::NodeUnstageVolumeResponse {}))
    }

    async fn node_publish_volume(
        &self,
        call: Request<proto::NodePublishVolumeRequest>,
    ) -> Answer<proto::NodePublishVolumeResponse> {
        let deadline = deadline::deadline(call.metadata(), deadline::NODE);
        let request = request::publish(call.into_inner())?;
        self.0.publish(request, deadline).await?;
        Ok(Response::new(proto::NodePublishVolumeResponse {}))
    }

    async fn node_unpublish_volume(
        &self,
        call: Request<proto::NodeUnpublishVolumeRequest>,
    ) -> Answer<proto::NodeUnpublishVolumeResponse> {
        let deadline = deadline::deadline(call.metadata(), deadline::NODE);
        let request = request::unpublish(call.into_inner())?;
        self.0.unpublish(request, deadline).await?;
        Ok(Response::new(proto::NodeUnpublishVolumeResponse {}))
    }

    async fn node_get_volume_stats(
        &self,
        call: Request<proto::NodeGetVolumeStatsRequest>,
    ) -> Answer<proto::NodeGetVolumeStatsResponse> {
        let deadline = deadline::deadline(call.metadata(), deadline::NODE);
        let request = request::stats(call.into_inner())?;
        let found = self.0.stats(request, deadline).await?;
        Ok(Response::new(proto::NodeGetVolumeStatsResponse {
            usage: found.usage.map(usage).unwrap_or_default(),
            // Only with trouble: for a healthy volume there is nothing to say, and
            // consumers of CSI 1.13 do not know the field.
            volume_condition: found.trouble.map(|message| proto::VolumeCondition { abnormal: true, message }),
        }))
    }

    async fn node_get_capabilities(
        &self,
        _: Request<proto::NodeGetCapabilitiesRequest>,
    ) -> Answer<proto::NodeGetCapabilitiesResponse> {
        let capability = |served: Type| proto::NodeServiceCapability {
            r#type: Some(Capability::Rpc(Rpc { r#type: served.into() })),
        };
        let capabilities = SERVED.map(capability).to_vec();
        Ok(Response::new(proto::NodeGetCapabilitiesResponse { capabilities }))
    }

    async fn node_get_info(
        &self,
        _: Request<proto::NodeGetInfoRequest>,
    ) -> Answer<proto::NodeGetInfoResponse> {
        // krbd has no limit of its own that is worth telling: 0, the CO decides.
        Ok(Response::new(proto::NodeGetInfoResponse {
            node_id: self.0.id().to_owned(),
            ..Default::default()
        }))
    }

    async fn node_expand_volume(
        &self,
        call: Request<proto::NodeExpandVolumeRequest>,
    ) -> Answer<proto::NodeExpandVolumeResponse> {
        let deadline = deadline::deadline(call.metadata(), deadline::NODE);
        let request = request::expand_on_node(call.into_inner())?;
        let size = self.0.expand(request, deadline).await?;
        let capacity_bytes = i64::try_from(size).unwrap_or(i64::MAX);
        Ok(Response::new(proto::NodeExpandVolumeResponse { capacity_bytes }))
    }

    async fn node_get_volume_health(
        &self,
        _: Request<proto::NodeGetVolumeHealthRequest>,
    ) -> Answer<proto::NodeGetVolumeHealthResponse> {
        unserved("NodeGetVolumeHealth", LIST)
    }

    async fn node_get_storage_health(
        &self,
        _: Request<proto::NodeGetStorageHealthRequest>,
    ) -> Answer<proto::NodeGetStorageHealthResponse> {
        unserved("NodeGetStorageHealth", LIST)
    }
}
