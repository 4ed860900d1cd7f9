//! The Identity service: who this driver is and what it serves.
//!
//! What a reader gets wrong: the capabilities do not depend on which services this
//! process runs. CSI (GetPluginCapabilities): all instances of one version answer
//! the same, "regardless of … which RPCs an instance is serving".

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use tonic::{Request, Response, Status};

use super::proto;
use super::proto::identity_server::Identity;
use super::proto::plugin_capability;
use super::proto::plugin_capability::service::Type;
use super::proto::plugin_capability::volume_expansion::Type as Expansion;
use crate::health::{Health, Unwell};

/// The CSI release that `proto/csi.proto` holds.
const CSI: &str = "1.13.0";

/// The Identity service.
#[derive(Debug, Clone)]
pub struct IdentityService {
    name: String,
    health: Health,
    /// Why the last Probe was answered with "not ready".
    lacked: Arc<Mutex<Option<String>>>,
}

impl IdentityService {
    /// A driver of that name (`--drivername`).
    pub fn new(name: String, health: Health) -> Self {
        Self { name, health, lacked: Arc::default() }
    }

    /// `ready: false` has no words, and the log is where they go: once, since sidecars
    /// that wait ask every second.
    fn tell(&self, lacks: Option<&str>) {
        let mut before = self.lacked.lock().unwrap_or_else(PoisonError::into_inner);
        match lacks {
            Some(why) if before.as_deref() != Some(why) => {
                tracing::warn!(why, "not ready, as Probe is told: sidecars wait until that is mended");
            }
            None if before.is_some() => tracing::info!("ready"),
            Some(_) | None => {}
        }
        *before = lacks.map(str::to_owned);
    }
}

#[tonic::async_trait]
impl Identity for IdentityService {
    async fn get_plugin_info(
        &self,
        _: Request<proto::GetPluginInfoRequest>,
    ) -> Result<Response<proto::GetPluginInfoResponse>, Status> {
        let manifest =
            [("csi", CSI), ("license", env!("CARGO_PKG_LICENSE")), ("url", env!("CARGO_PKG_REPOSITORY"))];
        Ok(Response::new(proto::GetPluginInfoResponse {
            name: self.name.clone(),
            vendor_version: env!("CARGO_PKG_VERSION").to_owned(),
            manifest: BTreeMap::from(manifest.map(|(key, value)| (key.to_owned(), value.to_owned()))),
        }))
    }

    async fn get_plugin_capabilities(
        &self,
        _: Request<proto::GetPluginCapabilitiesRequest>,
    ) -> Result<Response<proto::GetPluginCapabilitiesResponse>, Status> {
        let service = plugin_capability::Service { r#type: Type::ControllerService.into() };
        let growth = plugin_capability::VolumeExpansion { r#type: Expansion::Online.into() };
        let served = [
            plugin_capability::Type::Service(service),
            // Offline besides: a volume that nobody uses can grow in the same way.
            plugin_capability::Type::VolumeExpansion(growth),
        ];
        let capabilities = served.map(|served| proto::PluginCapability { r#type: Some(served) }).into();
        Ok(Response::new(proto::GetPluginCapabilitiesResponse { capabilities }))
    }

    async fn probe(&self, _: Request<proto::ProbeRequest>) -> Result<Response<proto::ProbeResponse>, Status> {
        // CSI: FAILED_PRECONDITION for a plugin that is not healthy or lacks a dependency,
        // `ready: false` for one that is well and has to be waited for.
        let lacks = match self.health.check().await {
            Ok(()) => None,
            Err(Unwell::NotReady(why)) => Some(why),
            Err(Unwell::Failed(why)) => return Err(Status::failed_precondition(why)),
        };
        self.tell(lacks.as_deref());
        Ok(Response::new(proto::ProbeResponse { ready: Some(lacks.is_none()) }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ConfigFiles;

    #[tokio::test]
    async fn it_says_who_it_is_and_whether_it_can_work() {
        let dir = tempfile::tempdir().unwrap();
        let config =
            ConfigFiles { cluster: dir.path().join("config.json"), mapping: dir.path().join("none") };
        let service = IdentityService::new("rbd.csi.ceph.com".into(), Health::new(config.clone(), false));

        let info = service.get_plugin_info(Request::new(Default::default())).await.unwrap().into_inner();
        assert_eq!(
            (info.name.as_str(), info.vendor_version.as_str()),
            ("rbd.csi.ceph.com", env!("CARGO_PKG_VERSION"))
        );
        let answer =
            service.get_plugin_capabilities(Request::new(Default::default())).await.unwrap().into_inner();
        assert_eq!(answer.capabilities.len(), 2);

        // Without a configuration it is waited for, and nobody is told to restart it.
        let waits = service.probe(Request::new(Default::default())).await.unwrap().into_inner();
        assert_eq!(waits.ready, Some(false));
        assert!(service.lacked.lock().unwrap().as_deref().unwrap().contains("config.json"));
        std::fs::write(&config.cluster, "[]").unwrap();
        let well = service.probe(Request::new(Default::default())).await.unwrap().into_inner();
        assert_eq!(well.ready, Some(true));
        assert_eq!(*service.lacked.lock().unwrap(), None);
    }
}
