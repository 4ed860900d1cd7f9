//! Secrets are nowhere: not in the log at its loudest, not in metrics, argv,
//! environment, answers, or files.

use std::collections::HashMap;
use std::path::Path;
use std::time::Duration;

use rbd_csi::csi::proto::node_client::NodeClient;
use rbd_csi::csi::proto::volume_capability::AccessType;
use rbd_csi::csi::proto::{
    DeleteVolumeRequest, NodePublishVolumeRequest, NodeStageVolumeRequest, ValidateVolumeCapabilitiesRequest,
};
use tonic::{Request, Status};

use super::http::get;
use super::page::free_port;
use super::program::{CANARY_KEY, Place, create};

/// In every canary here, so that one search finds all.
const CANARY: &str = "Canary";
const HANDLE: &str = "0001-0004-deaf-0000000000000001-164658ce-0000-4000-8000-000000000000";

fn secrets() -> HashMap<String, String> {
    let pairs = [
        ("userID", "admin"),
        ("userKey", CANARY_KEY),
        ("encryptionPassphrase", "CanaryPass"),
        ("x", "Canary"),
    ];
    pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).into()
}

fn soon<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(Duration::from_millis(1500));
    request
}

fn files(folder: &Path, found: &mut Vec<String>) {
    for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            files(&entry.path(), found);
        } else if kind.is_file() {
            found.push(String::from_utf8_lossy(&std::fs::read(entry.path()).unwrap()).into_owned());
        }
    }
}

/// Makes calls with secrets of every sort; the texts of all their errors.
async fn call_everything(place: &Place) -> Vec<String> {
    let mut capability = create("x").volume_capabilities.remove(0);
    if let Some(AccessType::Mount(mount)) = &mut capability.access_type {
        mount.mount_flags = vec!["context=\"CanaryFlag\"".to_owned()];
    }
    let mut creation = create("pvc-canary");
    creation.secrets = secrets().into_iter().collect();
    creation.volume_capabilities = vec![capability.clone()];
    let context = [("csi.storage.k8s.io/serviceAccount.tokens".to_owned(), "CanaryToken".to_owned())];
    let stage = NodeStageVolumeRequest {
        volume_id: HANDLE.to_owned(),
        staging_target_path: place.path("staging").display().to_string(),
        volume_capability: Some(capability.clone()),
        secrets: secrets().into_iter().collect(),
        volume_context: context.clone().into(),
        ..Default::default()
    };
    let publish = NodePublishVolumeRequest {
        volume_id: HANDLE.to_owned(),
        staging_target_path: place.path("staging").display().to_string(),
        target_path: place.path("target").display().to_string(),
        volume_capability: Some(capability.clone()),
        secrets: secrets().into_iter().collect(),
        volume_context: context.into(),
        ..Default::default()
    };
    let deletion =
        DeleteVolumeRequest { volume_id: HANDLE.to_owned(), secrets: secrets().into_iter().collect() };
    let validation = ValidateVolumeCapabilitiesRequest {
        volume_id: HANDLE.to_owned(),
        volume_capabilities: vec![capability],
        secrets: secrets().into_iter().collect(),
        ..Default::default()
    };
    // A key that is none is told of, without its text.
    let mut wrong_key = creation.clone();
    wrong_key.name = "pvc-wrong-key".to_owned();
    wrong_key.secrets.insert("userKey".to_owned(), "Canary is no key".to_owned());

    let mut controller = place.controller().await;
    let mut node = NodeClient::new(place.connect().await);
    let answers: [Result<(), Status>; 6] = [
        controller.create_volume(soon(creation)).await.map(drop),
        controller.create_volume(soon(wrong_key)).await.map(drop),
        controller.delete_volume(soon(deletion)).await.map(drop),
        controller.validate_volume_capabilities(soon(validation)).await.map(drop),
        node.node_stage_volume(soon(stage)).await.map(drop),
        node.node_publish_volume(soon(publish)).await.map(drop),
    ];
    answers.into_iter().map(|answer| format!("{:?}", answer.unwrap_err())).collect()
}

#[tokio::test]
async fn a_secret_is_nowhere() {
    for format in ["text", "json"] {
        let place = Place::new();
        let port = free_port();
        let program = place.serve(&[
            "--controllerserver=true",
            "--nodeserver=true",
            "--v=5",
            &format!("--metricsport={port}"),
            &format!("--log-format={format}"),
        ]);
        let mut seen = call_everything(&place).await;
        seen.push(get(port, "/metrics").1);
        for file in ["cmdline", "environ"] {
            let path = format!("/proc/{}/{file}", program.id());
            // Another user may not read it at all; that is fine too.
            seen.push(String::from_utf8_lossy(&std::fs::read(path).unwrap_or_default()).into_owned());
        }
        let log = program.log();
        assert!(log.contains("CreateVolume") && log.contains("***"), "the log is not loud:\n{log}");
        files(place.folder.path(), &mut seen);
        for text in seen {
            assert!(!text.contains(CANARY), "{format}: {text}");
        }
    }
}
