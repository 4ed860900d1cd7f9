//! ControllerPublishVolume and ControllerUnpublishVolume against the real API server: by
//! VolumeAttachments, and by calls of a client of ours beside a controller's own socket.
//!
//! What a reader gets wrong: that socket is in a pod's folder on a node. So the client is
//! this test's own program, started in that node with the word [`INSIDE`].

use std::process::ExitCode;

use rbd_csi::csi::proto;
use rbd_csi::csi::proto::controller_client::ControllerClient;
use serde_json::json;
use tonic::transport::Endpoint;

use super::objects::{claim, pod};
use super::run::Test;
use super::space::{GONE, PROMPTLY, Space};
use super::wait::{seconds, until};
use super::world::{DRIVER, DRIVER_NAMESPACE, NODES};

pub const TESTS: &[Test] = &[
    Test::new(
        "publish",
        "publish to a node that is not there is NOT_FOUND; unpublish of what is gone is OK",
        publish,
    ),
    Test::new(
        "attachment_of_gone",
        "an attachment with the attacher's finalizer goes though its volume has gone",
        gone,
    ),
];

/// The first argument of the program inside a node.
pub const INSIDE: &str = "inside-publish";

fn publish(space: &Space) {
    space.apply(&[claim("disk"), pod("user", "disk")]);
    let volume = space.bound("disk", PROMPTLY);
    space.ready("user");
    let handle =
        space.kubectl.get(&["pv", &volume])["spec"]["csi"]["volumeHandle"].as_str().unwrap().to_owned();
    let (node, socket) = controller(space);
    let program = std::env::current_exe().unwrap();
    let call = |what: &str, node_id: &str, handle: &str| {
        let program = program.to_str().unwrap();
        space.world.node(&node).exec(&[program, INSIDE, &socket, what, node_id, handle])
    };
    assert_eq!(call("publish", NODES[1], &handle), "Ok");
    let answer = call("publish", "no-such-node", &handle);
    assert!(answer.starts_with("NotFound") && answer.contains("no-such-node"), "{answer}");
    assert_eq!(call("unpublish", NODES[1], &handle), "Ok");
    assert_eq!(call("unpublish", "no-such-node", &handle), "Ok");
    assert_eq!(call("unpublish", NODES[1], &format!("{}0", &handle[..handle.len() - 1])), "Ok");
}

/// A pod of the controller: its node, and its socket there.
fn controller(space: &Space) -> (String, String) {
    let pods =
        space.world.kubectl.items(&["pods", "-n", DRIVER_NAMESPACE, "-l", "app=csi-rbdplugin-provisioner"]);
    let pod = pods.iter().find(|pod| pod["status"]["phase"] == "Running").expect("a controller runs");
    let (node, uid) = (pod["spec"]["nodeName"].as_str().unwrap(), pod["metadata"]["uid"].as_str().unwrap());
    let folder = format!("/var/lib/kubelet/pods/{uid}/volumes/kubernetes.io~empty-dir");
    let socket = space.world.node(node).exec(&["find", &folder, "-name", "csi-provisioner.sock"]);
    assert!(!socket.is_empty(), "a socket below {folder} on {node}");
    (node.to_owned(), socket)
}

/// As ceph-csi ≥ 3.15 leaves them, and nothing but a driver with the capability can end
/// them: deleted, while neither the volume's image nor its node is there any more.
fn gone(space: &Space) {
    let handle = "0001-0024-b9127830-b0cc-4e34-aa47-9d1a2e9949a8-0000000000000001-00000000-dead-4000-8000-000000000000";
    let name = "e2e-attachment-of-gone";
    let mut volume = super::objects::static_volume(name, handle, (&space.name, "none"));
    volume["spec"]["csi"]["volumeAttributes"] = json!({ "clusterID": super::world::CLUSTER_ID });
    let attachment = json!({
        "apiVersion": "storage.k8s.io/v1", "kind": "VolumeAttachment",
        "metadata": { "name": name, "finalizers": ["external-attacher/rbd-csi-ceph-com"] },
        "spec": { "attacher": DRIVER, "nodeName": "gone-node", "source": { "persistentVolumeName": name } },
    });
    space.apply_wide(&[volume, attachment]);
    space.kubectl.mark_attached(name);
    space.kubectl.run(&["annotate", "volumeattachment", name, "csi.alpha.kubernetes.io/node-id=gone-node"]);
    space.kubectl.run(&["delete", "volumeattachment", name, "--wait=false"]);
    until("the attachment is gone", GONE.max(seconds(60)), || {
        match space.kubectl.try_get(&["volumeattachment", name]) {
            Err(text) if text.contains("NotFound") => Ok(()),
            Err(text) => Err(text),
            Ok(attachment) => Err(attachment["status"].to_string()),
        }
    });
}

/// In the node: SOCKET publish|unpublish NODE HANDLE; prints the code and the text.
pub fn inside(arguments: &[&str]) -> ExitCode {
    let [socket, what, node, handle] = arguments[..] else { return ExitCode::from(2) };
    // A socket's path ends at 107 bytes, and a pod's folder's is longer.
    let short = format!("/run/e2e-{}.sock", std::process::id());
    std::os::unix::fs::symlink(socket, &short).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let answer = runtime.block_on(async {
        let channel = Endpoint::from_shared(format!("unix://{short}")).unwrap().connect().await.unwrap();
        let mut client = ControllerClient::new(channel);
        let (volume_id, node_id) = (handle.to_owned(), node.to_owned());
        if what == "publish" {
            let request = proto::ControllerPublishVolumeRequest {
                volume_id,
                node_id,
                volume_capability: Some(writer()),
                ..Default::default()
            };
            client.controller_publish_volume(request).await.map(drop)
        } else {
            let request =
                proto::ControllerUnpublishVolumeRequest { volume_id, node_id, ..Default::default() };
            client.controller_unpublish_volume(request).await.map(drop)
        }
    });
    std::fs::remove_file(&short).unwrap();
    match answer {
        Ok(()) => println!("Ok"),
        Err(status) => println!("{:?}: {}", status.code(), status.message()),
    }
    ExitCode::SUCCESS
}

fn writer() -> proto::VolumeCapability {
    use proto::volume_capability::access_mode::Mode;
    use proto::volume_capability::{AccessMode, AccessType, MountVolume};
    proto::VolumeCapability {
        access_mode: Some(AccessMode { mode: Mode::SingleNodeWriter.into() }),
        access_type: Some(AccessType::Mount(MountVolume::default())),
    }
}
