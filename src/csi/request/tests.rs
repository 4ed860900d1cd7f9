//! Every request with one thing wrong at a time.

use super::*;
use crate::volume::error::Kind;
use proto::volume_capability::access_mode::Mode;
use proto::volume_capability::{AccessMode, AccessType, BlockVolume};
use proto::{
    CapacityRange, ControllerPublishVolumeRequest, CreateVolumeRequest, NodePublishVolumeRequest,
    NodeStageVolumeRequest,
};

fn block() -> proto::VolumeCapability {
    proto::VolumeCapability {
        access_mode: Some(AccessMode { mode: Mode::SingleNodeWriter.into() }),
        access_type: Some(AccessType::Block(BlockVolume {})),
    }
}

fn creation() -> CreateVolumeRequest {
    CreateVolumeRequest { name: "pvc-1".into(), volume_capabilities: vec![block()], ..Default::default() }
}

fn staging() -> NodeStageVolumeRequest {
    NodeStageVolumeRequest {
        volume_id: "v".into(),
        staging_target_path: "/staging".into(),
        volume_capability: Some(block()),
        ..Default::default()
    }
}

fn publication() -> NodePublishVolumeRequest {
    NodePublishVolumeRequest {
        volume_id: "v".into(),
        staging_target_path: "/staging".into(),
        target_path: "/target".into(),
        volume_capability: Some(block()),
        ..Default::default()
    }
}

fn attachment() -> ControllerPublishVolumeRequest {
    ControllerPublishVolumeRequest {
        volume_id: "v".into(),
        node_id: "n".into(),
        volume_capability: Some(block()),
        ..Default::default()
    }
}

fn big() -> BTreeMap<String, String> {
    BTreeMap::from([("k".to_owned(), "v".repeat(4096))])
}

/// The text of the refusal, which must be the caller's fault.
fn refused<T: std::fmt::Debug>(result: Result<T>) -> String {
    let error = result.unwrap_err();
    assert_eq!(error.kind, Kind::InvalidArgument);
    error.to_string()
}

#[test]
fn the_least_that_a_creation_needs() {
    let request = create(creation()).unwrap();
    assert_eq!((request.name.as_str(), request.required, request.limit), ("pvc-1", 0, 0));
    assert!(request.source.is_none() && !request.has_topology);
}

#[test]
fn each_mistake_of_a_creation_is_named() {
    let mut wrong: Vec<(CreateVolumeRequest, &str)> = Vec::new();
    wrong.push((CreateVolumeRequest { name: String::new(), ..creation() }, "name is missing"));
    wrong.push((CreateVolumeRequest { name: "a\u{7}".into(), ..creation() }, "name contains"));
    wrong.push((
        CreateVolumeRequest { volume_capabilities: Vec::new(), ..creation() },
        "volume_capabilities is empty",
    ));
    let range = |required_bytes, limit_bytes| Some(CapacityRange { required_bytes, limit_bytes });
    wrong.push((
        CreateVolumeRequest { capacity_range: range(-1, 0), ..creation() },
        "capacity_range.required_bytes",
    ));
    wrong.push((
        CreateVolumeRequest { capacity_range: range(1, -5), ..creation() },
        "capacity_range.limit_bytes",
    ));
    wrong.push((CreateVolumeRequest { parameters: big(), ..creation() }, "parameters has 4097"));
    wrong.push((CreateVolumeRequest { mutable_parameters: big(), ..creation() }, "mutable_parameters has"));
    wrong.push((CreateVolumeRequest { secrets: big(), ..creation() }, "secrets has"));
    let source = Some(proto::VolumeContentSource { r#type: None });
    wrong.push((
        CreateVolumeRequest { volume_content_source: source, ..creation() },
        "volume_content_source.type",
    ));
    for (request, expected) in wrong {
        let text = refused(create(request));
        assert!(text.starts_with(expected), "{text}");
    }
}

#[test]
fn each_mistake_of_a_snapshot_is_named() {
    let snapshot = || proto::CreateSnapshotRequest {
        name: "snapshot-1".into(),
        source_volume_id: "fake-vol-id".into(),
        ..Default::default()
    };
    let made = create_snapshot(snapshot()).unwrap();
    assert_eq!((made.name.as_str(), made.source_volume_id.as_str()), ("snapshot-1", "fake-vol-id"));
    let topology = Some(proto::TopologyRequirement::default());
    for (request, expected) in [
        (proto::CreateSnapshotRequest { name: String::new(), ..snapshot() }, "name is missing"),
        (proto::CreateSnapshotRequest { name: "x".repeat(129), ..snapshot() }, "name has 129"),
        (
            proto::CreateSnapshotRequest { source_volume_id: String::new(), ..snapshot() },
            "source_volume_id is",
        ),
        (proto::CreateSnapshotRequest { parameters: big(), ..snapshot() }, "parameters has"),
        (proto::CreateSnapshotRequest { secrets: big(), ..snapshot() }, "secrets has"),
        (
            proto::CreateSnapshotRequest { accessibility_requirements: topology, ..snapshot() },
            "accessibility_requirements",
        ),
    ] {
        let text = refused(create_snapshot(request));
        assert!(text.starts_with(expected), "{text}");
    }
    assert_eq!(refused(delete_snapshot(Default::default())), "snapshot_id is missing");
    assert_eq!(refused(get_snapshot(Default::default())), "snapshot_id is missing");
}

#[test]
fn a_list_may_ask_for_nothing_in_particular() {
    let all = list_snapshots(Default::default()).unwrap();
    assert_eq!((all.snapshot_id, all.source_volume_id, all.max_entries), (None, None, 0));
    let negative = proto::ListSnapshotsRequest { max_entries: -1, ..Default::default() };
    assert_eq!(refused(list_snapshots(negative)), "max_entries is negative: -1");
    let secrets = proto::ListSnapshotsRequest { secrets: big(), ..Default::default() };
    assert!(refused(list_snapshots(secrets)).starts_with("secrets has"));
}

#[test]
fn growth_needs_a_volume_and_a_size() {
    let growth = || proto::ControllerExpandVolumeRequest {
        volume_id: "v".into(),
        capacity_range: Some(CapacityRange { required_bytes: 5, limit_bytes: 7 }),
        ..Default::default()
    };
    let asked = expand(growth()).unwrap();
    assert_eq!((asked.required, asked.limit, asked.capability), (5, 7, None));
    let range = |required_bytes, limit_bytes| Some(CapacityRange { required_bytes, limit_bytes });
    let half = Some(proto::VolumeCapability::default());
    for (request, expected) in [
        (
            proto::ControllerExpandVolumeRequest { volume_id: String::new(), ..growth() },
            "volume_id is missing",
        ),
        (
            proto::ControllerExpandVolumeRequest { capacity_range: None, ..growth() },
            "capacity_range is missing",
        ),
        (
            proto::ControllerExpandVolumeRequest { capacity_range: range(-1, 0), ..growth() },
            "capacity_range.required_bytes",
        ),
        (
            proto::ControllerExpandVolumeRequest { capacity_range: range(0, -1), ..growth() },
            "capacity_range.limit_bytes",
        ),
        (
            proto::ControllerExpandVolumeRequest { volume_capability: half, ..growth() },
            "volume_capability.access",
        ),
        (proto::ControllerExpandVolumeRequest { secrets: big(), ..growth() }, "secrets has"),
    ] {
        let text = refused(expand(request));
        assert!(text.starts_with(expected), "{text}");
    }
}

#[test]
fn an_id_of_any_form_and_length_passes_but_not_an_empty_one() {
    for id in ["fake-vol-id".to_owned(), "x".repeat(10_000), "../../etc".to_owned(), "\0".to_owned()] {
        let request = proto::DeleteVolumeRequest { volume_id: id.clone(), ..Default::default() };
        assert_eq!(delete(request).unwrap().volume_id, id);
    }
    assert_eq!(refused(delete(Default::default())), "volume_id is missing");
    assert_eq!(refused(validate(Default::default())), "volume_id is missing");
    assert_eq!(refused(stage(Default::default())), "volume_id is missing");
    assert_eq!(refused(unstage(Default::default())), "volume_id is missing");
    assert_eq!(refused(publish(Default::default())), "volume_id is missing");
    assert_eq!(refused(unpublish(Default::default())), "volume_id is missing");
    assert_eq!(refused(stats(Default::default())), "volume_id is missing");
}

#[test]
fn paths_of_the_node_are_absolute() {
    assert!(stage(staging()).is_ok() && publish(publication()).is_ok());
    for path in ["", "staging", "/a/../b"] {
        let staged = NodeStageVolumeRequest { staging_target_path: path.into(), ..staging() };
        assert!(refused(stage(staged)).starts_with("staging_target_path"), "{path}");
        let published = NodePublishVolumeRequest { target_path: path.into(), ..publication() };
        assert!(refused(publish(published)).starts_with("target_path"), "{path}");
    }
}

#[test]
fn publishing_without_staging_path_is_the_domains_to_judge() {
    let request = NodePublishVolumeRequest { staging_target_path: String::new(), ..publication() };
    assert_eq!(publish(request).unwrap().staging_path, None);
}

#[test]
fn stats_take_any_path_but_none() {
    let of = |path: &str| {
        stats(proto::NodeGetVolumeStatsRequest {
            volume_id: "v".into(),
            volume_path: path.into(),
            ..Default::default()
        })
    };
    assert_eq!(of("some/path").unwrap().path, PathBuf::from("some/path"));
    assert_eq!(refused(of("")), "volume_path is missing");
}

#[test]
fn attaching_needs_a_volume_a_node_and_a_capability() {
    assert!(attach(attachment()).is_ok());
    for (request, expected) in [
        (ControllerPublishVolumeRequest { volume_id: String::new(), ..attachment() }, "volume_id is missing"),
        (ControllerPublishVolumeRequest { node_id: String::new(), ..attachment() }, "node_id is missing"),
        (ControllerPublishVolumeRequest { volume_capability: None, ..attachment() }, "volume_capability is"),
        (ControllerPublishVolumeRequest { secrets: big(), ..attachment() }, "secrets has"),
    ] {
        let text = refused(attach(request));
        assert!(text.starts_with(expected), "{text}");
    }
}

#[test]
fn the_context_of_a_volume_that_exists_may_be_longer_than_csi_has_it() {
    let volume_context = big();
    let asked = proto::ValidateVolumeCapabilitiesRequest {
        volume_id: "v".into(),
        volume_capabilities: vec![block()],
        volume_context: volume_context.clone(),
        ..Default::default()
    };
    assert!(validate(asked).is_ok());
    let volume_context = || volume_context.clone();
    assert!(
        attach(ControllerPublishVolumeRequest { volume_context: volume_context(), ..attachment() }).is_ok()
    );
    assert!(stage(NodeStageVolumeRequest { volume_context: volume_context(), ..staging() }).is_ok());
    assert!(publish(NodePublishVolumeRequest { volume_context: volume_context(), ..publication() }).is_ok());
}

#[test]
fn what_ceph_csi_has_attached_for_some_service_accounts_is_published_as_such() {
    let publish_context = BTreeMap::from([("serviceAccount".into(), "a,b".into())]);
    let request = NodePublishVolumeRequest { publish_context, ..publication() };
    assert_eq!(publish(request).unwrap().service_accounts, "a,b");
    assert_eq!(publish(publication()).unwrap().service_accounts, "");
}

#[test]
fn detaching_needs_a_volume_alone() {
    let of = |volume_id: &str| {
        detach(proto::ControllerUnpublishVolumeRequest {
            volume_id: volume_id.into(),
            secrets: big(),
            ..Default::default()
        })
    };
    assert_eq!(refused(of("")), "volume_id is missing");
    assert_eq!(of("v").unwrap().node, "");
}
