//! ControllerPublishVolume and its opposite, where the Kubernetes API does not answer.
//! What a real API says of real nodes is asked in the cluster tests.
//!
//! `fixtures/ca.crt` is an authority that nobody has the key of: its key was thrown away.

use std::net::TcpListener;
use std::time::{Duration, Instant};

use rbd_csi::csi::proto::controller_service_capability::Type;
use rbd_csi::csi::proto::controller_service_capability::rpc::Type as Rpc;
use rbd_csi::csi::proto::volume_capability::{AccessMode, AccessType, MountVolume};
use rbd_csi::csi::proto::{
    ControllerGetCapabilitiesRequest, ControllerPublishVolumeRequest, ControllerUnpublishVolumeRequest,
    VolumeCapability,
};
use tonic::{Code, Request, Status};

use super::page::free_port;
use super::program::{Place, Program, create};

const CONTROLLER: &str = "--controllerserver=true";
const HANDLE: &str = "0001-0004-deaf-0000000000000001-164658ce-0000-4000-8000-000000000000";
const TOKEN: &str = "CanaryOfATokenThatIsNowhereToBeSeen";

/// A driver in a pod whose API is at that port.
fn in_pod(place: &Place, port: u16) -> Program {
    let account = place.path("account");
    std::fs::create_dir_all(&account).unwrap();
    std::fs::write(account.join("token"), TOKEN).unwrap();
    std::fs::write(account.join("ca.crt"), include_str!("../fixtures/ca.crt")).unwrap();
    in_pod_of(place, port, &format!("--service-account-path={}", account.display()))
}

fn in_pod_of(place: &Place, port: u16, account: &str) -> Program {
    let port = port.to_string();
    let pod = [("KUBERNETES_SERVICE_HOST", "127.0.0.1"), ("KUBERNETES_SERVICE_PORT", port.as_str())];
    let more = [CONTROLLER, "--v=5", account].map(str::to_owned);
    let program = place.run_with(&pod, place.arguments().into_iter().chain(more));
    program.wait_for(&place.socket());
    program
}

fn publish() -> ControllerPublishVolumeRequest {
    ControllerPublishVolumeRequest {
        volume_id: HANDLE.to_owned(),
        node_id: "node1".to_owned(),
        volume_capability: create("x").volume_capabilities.pop(),
        ..Default::default()
    }
}

fn unpublish(volume_id: &str, node_id: &str) -> ControllerUnpublishVolumeRequest {
    ControllerUnpublishVolumeRequest {
        volume_id: volume_id.to_owned(),
        node_id: node_id.to_owned(),
        ..Default::default()
    }
}

/// How a publication is refused within so many seconds.
async fn refused(place: &Place, request: ControllerPublishVolumeRequest, seconds: u64) -> Status {
    let mut request = Request::new(request);
    request.set_timeout(Duration::from_secs(seconds));
    let since = Instant::now();
    let status = place.controller().await.controller_publish_volume(request).await.unwrap_err();
    assert!(since.elapsed() < Duration::from_secs(seconds), "{:?}: {status:?}", since.elapsed());
    assert!(!status.message().is_empty() && status.details().is_empty());
    status
}

async fn offers_attaching(place: &Place) -> bool {
    offers(place).await.contains(&Rpc::PublishUnpublishVolume)
}

async fn offers(place: &Place) -> Vec<Rpc> {
    let answer =
        place.controller().await.controller_get_capabilities(ControllerGetCapabilitiesRequest {}).await;
    let offered = answer.unwrap().into_inner().capabilities;
    let named = offered.into_iter().filter_map(|capability| capability.r#type);
    named.map(|Type::Rpc(rpc)| rpc.r#type()).collect()
}

#[tokio::test]
async fn lists_of_snapshots_are_not_offered_where_no_key_can_be_had_for_them() {
    let place = Place::new();
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let always = [Rpc::CreateDeleteVolume, Rpc::CreateDeleteSnapshot, Rpc::CloneVolume, Rpc::ExpandVolume];
    let lists =
        |offered: &[Rpc]| offered.iter().any(|rpc| [Rpc::ListSnapshots, Rpc::GetSnapshot].contains(rpc));
    let config = |secret: &str| {
        let rbd = format!(r#"{{"controllerPublishSecretRef":{secret}}}"#);
        std::fs::write(
            place.path("config.json"),
            format!(r#"[{{"clusterID":"c","monitors":["m"],"rbd":{rbd}}}]"#),
        )
    };
    // Named, and the API that has it is away or silent: sidecars are not kept waiting for it.
    for port in [free_port(), silent.local_addr().unwrap().port()] {
        let program = in_pod(&place, port);
        for secret in ["null", r#"{"name":"key","namespace":"ceph"}"#] {
            config(secret).unwrap();
            let since = Instant::now();
            let offered = offers(&place).await;
            assert!(since.elapsed() < Duration::from_secs(5), "{:?}", since.elapsed());
            assert!(always.iter().all(|rpc| offered.contains(rpc)) && !lists(&offered), "{offered:?}");
        }
        program.stop_within(5);
    }
    // Without Kubernetes there is nobody who has it.
    let _program = place.serve(&[CONTROLLER]);
    assert!(!lists(&offers(&place).await));
}

#[tokio::test]
async fn without_kubernetes_it_is_neither_offered_nor_served() {
    let place = Place::new();
    let _program = place.serve(&[CONTROLLER]);
    assert!(!offers_attaching(&place).await);
    assert_eq!(refused(&place, publish(), 5).await.code(), Code::Unimplemented);
    let status = place.controller().await.controller_unpublish_volume(unpublish(HANDLE, "node1")).await;
    assert_eq!(status.unwrap_err().code(), Code::Unimplemented);
}

#[tokio::test]
async fn a_request_with_something_wrong_is_refused_without_asking_the_api() {
    let place = Place::new();
    let _program = in_pod(&place, free_port());
    assert!(offers_attaching(&place).await);
    let shared = VolumeCapability {
        access_mode: Some(AccessMode { mode: 5 }),
        access_type: Some(AccessType::Mount(MountVolume::default())),
    };
    for (request, code, word) in [
        (ControllerPublishVolumeRequest { volume_id: String::new(), ..publish() }, 3, "volume_id"),
        (ControllerPublishVolumeRequest { node_id: String::new(), ..publish() }, 3, "node_id"),
        (ControllerPublishVolumeRequest { volume_capability: None, ..publish() }, 3, "volume_capability"),
        (ControllerPublishVolumeRequest { volume_capability: Some(shared), ..publish() }, 3, "RWX"),
        (ControllerPublishVolumeRequest { volume_id: "fake-vol-id".into(), ..publish() }, 5, "fake-vol-id"),
        (ControllerPublishVolumeRequest { node_id: "no/node".into(), ..publish() }, 5, "no/node"),
    ] {
        let status = refused(&place, request, 5).await;
        assert_eq!(i32::from(status.code()), code, "{status:?}");
        assert!(status.message().contains(word), "{status:?}");
    }
}

#[tokio::test]
async fn an_api_that_is_away_is_told_before_the_deadline_and_asked_again() {
    let place = Place::new();
    let port = free_port();
    let program = in_pod(&place, port);
    for _ in 0..2 {
        let status = refused(&place, publish(), 5).await;
        assert_eq!(status.code(), Code::Unavailable, "{status:?}");
        for word in ["node1", &format!("https://127.0.0.1:{port}"), "refused"] {
            assert!(status.message().contains(word), "{word} is not in {status:?}");
        }
    }
    let log = program.stop_within(5);
    assert!(!log.contains(TOKEN) && !log.contains("ERROR"), "{log}");
}

#[tokio::test]
async fn an_api_that_accepts_and_is_silent_is_told_before_the_deadline() {
    let place = Place::new();
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let _program = in_pod(&place, silent.local_addr().unwrap().port());
    for seconds in [2, 12] {
        let status = refused(&place, publish(), seconds).await;
        assert_eq!(status.code(), Code::Unavailable, "{status:?}");
        assert!(status.message().contains("node1"), "{status:?}");
    }
}

#[tokio::test]
async fn a_pod_without_a_service_account_is_told_what_is_missing() {
    let place = Place::new();
    let _program = in_pod_of(&place, free_port(), "--service-account-path=/nowhere");
    let status = refused(&place, publish(), 5).await;
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    assert!(status.message().contains("/nowhere/"), "{status:?}");
}

#[tokio::test]
async fn whatever_is_gone_can_be_detached_while_the_api_is_away() {
    let place = Place::new();
    let program = in_pod(&place, free_port());
    let mut controller = place.controller().await;
    for (volume, node) in [
        (HANDLE, "node1"),
        (HANDLE, ""),
        (HANDLE, "a node that is gone"),
        ("no handle at all", "node1"),
        (&"x".repeat(500), "node1"),
    ] {
        controller.controller_unpublish_volume(unpublish(volume, node)).await.unwrap();
    }
    let secrets = [("userKey".to_owned(), "x".repeat(5000))].into();
    let request = ControllerUnpublishVolumeRequest { secrets, ..unpublish(HANDLE, "node1") };
    controller.controller_unpublish_volume(request).await.unwrap();
    let status = controller.controller_unpublish_volume(unpublish("", "node1")).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
    program.stop_within(5);
}
