//! The door over a real socket: fields, ids and codes, without any cluster.
//!
//! What these calls ask for is decided before Ceph is reached, or while it cannot
//! be. What a reader gets wrong: the ids and paths are those of csi-sanity, which
//! takes INVALID_ARGUMENT for an id that merely does not exist as a failure.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::path::Path;
use std::time::{Duration, Instant};

use rbd_csi::ceph::Connections;
use rbd_csi::config::ConfigFiles;
use rbd_csi::controller::{Controller, ControllerOptions};
use rbd_csi::csi;
use rbd_csi::csi::proto::controller_client::ControllerClient;
use rbd_csi::csi::proto::identity_client::IdentityClient;
use rbd_csi::csi::proto::node_client::NodeClient;
use rbd_csi::csi::proto::volume_capability::access_mode::Mode;
use rbd_csi::csi::proto::volume_capability::{AccessMode, AccessType, MountVolume};
use rbd_csi::csi::proto::*;
use rbd_csi::health::Health;
use rbd_csi::node::mapping::MapWith;
use rbd_csi::node::{Node, NodeOptions};
use rbd_csi::volume::image::resolve::Resolver;
use rbd_csi::volume::operation::Operations;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::{Channel, Endpoint, Server};
use tonic::{Code, Request};

/// A well-formed key, refused by nobody but a monitor.
const KEY: &str = "AQAA8VNlAAAAABAAY2FuYXJ5Y2FuYXJ5Y2FuYQ==";
/// Nobody listens there.
const DEAD_MONITOR: &str = "127.0.0.1:1";
const FAKE: &str = "fake-vol-id";
/// A handle of a cluster that is not configured.
const FOREIGN: &str = "0001-0005-other-0000000000000002-b0285c97-a0ce-11eb-8c66-0242ac110002";

struct Door {
    dir: tempfile::TempDir,
    channel: Channel,
}

impl Door {
    async fn open() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let config = ConfigFiles { cluster: at("config.json"), mapping: at("cluster-mapping.json") };
        let text = format!(r#"[{{"clusterID":"dead","monitors":["{DEAD_MONITOR}"]}}]"#);
        std::fs::write(&config.cluster, text).unwrap();
        std::fs::write(at("ceph.conf"), "[global]\nclient_mount_timeout = 2\n").unwrap();
        let routes = routes(&at("ceph.conf"), config, dir.path());
        let listener = tokio::net::UnixListener::bind(at("csi.sock")).unwrap();
        tokio::spawn(
            Server::builder().add_routes(routes).serve_with_incoming(UnixListenerStream::new(listener)),
        );
        let endpoint = Endpoint::from_shared(format!("unix://{}", at("csi.sock").display())).unwrap();
        let channel = endpoint.connect().await.unwrap();
        Self { dir, channel }
    }

    fn controller(&self) -> ControllerClient<Channel> {
        ControllerClient::new(self.channel.clone())
    }

    fn node(&self) -> NodeClient<Channel> {
        NodeClient::new(self.channel.clone())
    }

    fn path(&self, name: &str) -> String {
        self.dir.path().join(name).to_str().unwrap().to_owned()
    }
}

fn routes(ceph_conf: &Path, config: ConfigFiles, scratch: &Path) -> tonic::service::Routes {
    let connections = Connections::new(Some(ceph_conf.to_owned()));
    let health = Health::new(config.clone(), false);
    let resolver = Resolver { connections, config, instance: "default".into() };
    let operations = Operations::default();
    let controller = ControllerOptions {
        cluster_name: None,
        strict_parameters: false,
        identity: "door".into(),
        takeover_grace: Duration::from_secs(1),
        clone_limits: Default::default(),
        flatten_concurrency: 1,
    };
    let node =
        NodeOptions { node_id: "node-a".into(), map_with: MapWith::Kernel, scratch: scratch.to_owned() };
    let controller = Controller::new(controller, resolver.clone(), operations.clone());
    csi::routes(
        "rbd.csi.ceph.com",
        Some(controller),
        None,
        Some(Node::new(node, resolver, operations)),
        health,
    )
}

fn capability(mode: Mode) -> VolumeCapability {
    VolumeCapability {
        access_mode: Some(AccessMode { mode: mode.into() }),
        access_type: Some(AccessType::Mount(MountVolume::default())),
    }
}

fn texts<const N: usize>(pairs: [(&str, &str); N]) -> std::collections::BTreeMap<String, String> {
    pairs.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
}

fn secrets() -> std::collections::BTreeMap<String, String> {
    texts([("userID", "admin"), ("userKey", KEY)])
}

fn creation(cluster_id: &str) -> CreateVolumeRequest {
    CreateVolumeRequest {
        name: "pvc-1".into(),
        volume_capabilities: vec![capability(Mode::SingleNodeWriter)],
        parameters: texts([("clusterID", cluster_id), ("pool", "rbd"), ("imageFeatures", "layering")]),
        secrets: secrets(),
        ..Default::default()
    }
}

fn refused<T: std::fmt::Debug>(answer: Result<tonic::Response<T>, tonic::Status>, code: Code) -> String {
    let status = answer.unwrap_err();
    assert_eq!(status.code(), code, "{status:?}");
    assert!(!status.message().is_empty() && status.details().is_empty(), "{status:?}");
    assert!(!status.message().contains(KEY), "{status:?}");
    status.message().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn who_it_is_and_what_it_serves() {
    let door = Door::open().await;
    let mut identity = IdentityClient::new(door.channel.clone());
    assert_eq!(
        identity.get_plugin_info(GetPluginInfoRequest {}).await.unwrap().get_ref().name,
        "rbd.csi.ceph.com"
    );
    assert_eq!(identity.probe(ProbeRequest {}).await.unwrap().get_ref().ready, Some(true));
    let info = door.node().node_get_info(NodeGetInfoRequest {}).await.unwrap().into_inner();
    assert_eq!((info.node_id.as_str(), info.max_volumes_per_node), ("node-a", 0));

    let text =
        refused(door.controller().list_volumes(ListVolumesRequest::default()).await, Code::Unimplemented);
    assert!(text.contains("ListVolumes") && text.contains("ControllerGetCapabilities"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_configured_is_the_callers_mistake_only_when_creating() {
    let door = Door::open().await;
    let text = refused(door.controller().create_volume(creation("other")).await, Code::InvalidArgument);
    assert_eq!(text, "missing configuration for cluster ID other; config.json has: dead");
    let delete = DeleteVolumeRequest { volume_id: FOREIGN.into(), secrets: secrets() };
    let text = refused(door.controller().delete_volume(delete.clone()).await, Code::FailedPrecondition);
    assert!(text.contains("cluster ID other"), "{text}");

    std::fs::write(door.path("config.json"), "[{]").unwrap();
    let text = refused(door.controller().create_volume(creation("dead")).await, Code::FailedPrecondition);
    assert!(text.contains("config.json:1:3"), "{text}");
    refused(door.controller().delete_volume(delete).await, Code::FailedPrecondition);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_id_that_nobody_made_does_not_exist() {
    let door = Door::open().await;
    let delete = DeleteVolumeRequest { volume_id: FAKE.into(), secrets: secrets() };
    door.controller().delete_volume(delete).await.unwrap();
    let validate = ValidateVolumeCapabilitiesRequest {
        volume_id: FAKE.into(),
        volume_capabilities: vec![capability(Mode::SingleNodeWriter)],
        secrets: secrets(),
        ..Default::default()
    };
    refused(door.controller().validate_volume_capabilities(validate).await, Code::NotFound);

    let stage = NodeStageVolumeRequest {
        volume_id: FAKE.into(),
        staging_target_path: door.path("staging"),
        volume_capability: Some(capability(Mode::SingleNodeMultiWriter)),
        secrets: secrets(),
        ..Default::default()
    };
    refused(door.node().node_stage_volume(stage).await, Code::NotFound);
    for (volume_path, code) in [
        ("some/path".to_owned(), Code::NotFound),
        (door.path("none"), Code::NotFound),
        (String::new(), Code::InvalidArgument),
    ] {
        let stats = NodeGetVolumeStatsRequest { volume_id: FAKE.into(), volume_path, ..Default::default() };
        refused(door.node().node_get_volume_stats(stats.clone()).await, code);
        let NodeGetVolumeStatsRequest { volume_id, volume_path, .. } = stats;
        let expand = NodeExpandVolumeRequest { volume_id, volume_path, ..Default::default() };
        refused(door.node().node_expand_volume(expand).await, code);
    }
    let range = CapacityRange { required_bytes: 2 << 30, limit_bytes: 1 << 30 };
    let expand = NodeExpandVolumeRequest {
        volume_id: FAKE.into(),
        volume_path: door.path("none"),
        capacity_range: Some(range),
        ..Default::default()
    };
    refused(door.node().node_expand_volume(expand).await, Code::OutOfRange);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_publish_without_its_stage_is_out_of_order() {
    let door = Door::open().await;
    let publish = |staging_target_path: String| NodePublishVolumeRequest {
        volume_id: FOREIGN.into(),
        staging_target_path,
        target_path: door.path("target"),
        volume_capability: Some(capability(Mode::SingleNodeMultiWriter)),
        ..Default::default()
    };
    refused(door.node().node_publish_volume(publish(String::new())).await, Code::FailedPrecondition);
    refused(door.node().node_publish_volume(publish(door.path("staging"))).await, Code::FailedPrecondition);
    refused(door.node().node_publish_volume(publish("staging".into())).await, Code::InvalidArgument);
    assert!(!Path::new(&door.path("target")).exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_served_is_refused_before_any_cluster_is_asked() {
    let door = Door::open().await;
    let mut shared = creation("dead");
    shared.volume_capabilities = vec![capability(Mode::MultiNodeMultiWriter)];
    let text = refused(door.controller().create_volume(shared).await, Code::InvalidArgument);
    assert!(text.contains("RWX"), "{text}");
    let mut impossible = creation("dead");
    impossible.capacity_range = Some(CapacityRange { required_bytes: 2 << 30, limit_bytes: 1 << 30 });
    refused(door.controller().create_volume(impossible).await, Code::OutOfRange);
    let mut anonymous = creation("dead");
    anonymous.secrets.clear();
    let text = refused(door.controller().create_volume(anonymous).await, Code::InvalidArgument);
    assert_eq!(text, "provided secret is empty");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_answer_comes_before_the_callers_deadline_and_says_what_hangs() {
    let door = Door::open().await;
    let mut call = Request::new(creation("dead"));
    call.set_timeout(Duration::from_millis(1000));
    let began = Instant::now();
    let text = refused(door.controller().create_volume(call).await, Code::DeadlineExceeded);
    assert!(began.elapsed() < Duration::from_millis(1000), "{:?}", began.elapsed());
    assert!(text.contains("connecting to cluster dead"), "{text}");
}
