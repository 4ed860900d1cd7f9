//! A volume as ceph-csi leaves it on a node: journal and image in Ceph, PV, PVC and
//! VolumeAttachment in Kubernetes, on the node mapping, file system, mount and stash.

use std::process::Command;

use serde_json::{Value, json};

use crate::ceph;
use crate::objects::claim;
use crate::space::{PROMPTLY, Space};
use crate::support::lab::{Node, succeed};
use crate::support::pool;
use crate::world::{CLASS, CLUSTER_ID, DRIVER, DRIVER_NAMESPACE, POOL, World};

pub const CLAIM: &str = "from-before";
/// What a pod of then had written.
pub const MARK: &str = "before";
const SIZE: &str = "64Mi";
const UUID: &str = "7c9e6679-7425-40de-944b-e07fc1f90ae7";

pub struct Before {
    /// The PV.
    pub volume: String,
    pub attachment: String,
    pub device: String,
    node: String,
    image: String,
    staging: String,
}

impl Before {
    /// Steps: 1 the claim, whose uid names all else, 2 journal and image, 3 the volume,
    /// bound to the claim, 4 the attachment, 5 the node.
    pub fn make(space: &Space, node: &str) -> Self {
        let world = space.world;
        space.apply(&[claim_of_then()]);
        let uid = space.kubectl.get(&["pvc", CLAIM])["metadata"]["uid"].as_str().unwrap().to_owned();
        let volume = format!("pvc-{uid}");
        let image = format!("csi-vol-{UUID}");
        make_in_ceph(world, &volume, &image, &space.name);
        let handle = handle(world);
        space.kubectl.create(&[volume_of_then(space, &volume, &uid, &handle, &image)]);
        space.bound(CLAIM, PROMPTLY);
        let attachment = format!("csi-{}", sha256(&format!("{handle}{DRIVER}{node}")));
        attach(space, &attachment, &volume, node);
        let folder = format!("/var/lib/kubelet/plugins/kubernetes.io/csi/{DRIVER}/{}", sha256(&handle));
        let device = stage(world.node(node), &folder, &handle, &image);
        Self {
            volume,
            attachment,
            device,
            node: node.into(),
            image,
            staging: format!("{folder}/globalmount"),
        }
    }

    pub fn attachment_uid(&self, space: &Space) -> Value {
        space.kubectl.get(&["volumeattachment", &self.attachment])["metadata"]["uid"].clone()
    }

    /// The devices that map the image on that node.
    pub fn devices(&self, world: &World) -> Vec<String> {
        let line = "for d in /sys/bus/rbd/devices/*; do [ -e $d ] && echo $(cat $d/name) /dev/rbd${d##*/}; done; true";
        let text = world.node(&self.node).shell(line);
        let of_image = |line: &str| line.strip_prefix(&self.image).map(|device| device.trim().to_owned());
        text.lines().filter_map(of_image).collect()
    }

    /// What is still there of mapping, mount and stash.
    pub fn left_on_node(&self, world: &World) -> String {
        let line = format!("grep {0} /proc/self/mountinfo || true; ls {0} 2>/dev/null || true", self.staging);
        format!("{}{}", self.devices(world).join(" "), world.node(&self.node).shell(&line))
    }

    pub fn is_gone_from_ceph(&self, world: &World) {
        assert!(!pool::images(world.cluster(), POOL).contains(&self.image));
        let left = pool::contents(world.cluster(), POOL);
        assert!(!left.iter().any(|object| object.contains(UUID)), "{left:#?}");
    }
}

/// Bound by hand, so no provisioner may take it for its own work.
fn claim_of_then() -> Value {
    let mut claim = claim(CLAIM);
    claim["metadata"]["annotations"] = json!({ "volume.kubernetes.io/storage-provisioner": DRIVER });
    claim["spec"]["resources"]["requests"]["storage"] = SIZE.into();
    claim
}

fn volume_of_then(space: &Space, name: &str, uid: &str, handle: &str, image: &str) -> Value {
    let secret = json!({ "name": "csi-rbd-secret", "namespace": DRIVER_NAMESPACE });
    json!({
        "apiVersion": "v1", "kind": "PersistentVolume",
        "metadata": {
            "name": name,
            "annotations": {
                "pv.kubernetes.io/provisioned-by": DRIVER,
                "volume.kubernetes.io/provisioner-deletion-secret-name": "csi-rbd-secret",
                "volume.kubernetes.io/provisioner-deletion-secret-namespace": DRIVER_NAMESPACE,
            },
            "finalizers": ["external-provisioner.volume.kubernetes.io/finalizer", "kubernetes.io/pv-protection"],
        },
        "spec": {
            "accessModes": ["ReadWriteOnce"], "capacity": { "storage": SIZE }, "volumeMode": "Filesystem",
            "persistentVolumeReclaimPolicy": "Delete", "storageClassName": CLASS,
            "claimRef": {
                "apiVersion": "v1", "kind": "PersistentVolumeClaim", "namespace": space.name, "name": CLAIM, "uid": uid,
            },
            "csi": {
                "driver": DRIVER, "volumeHandle": handle, "fsType": "ext4",
                "controllerExpandSecretRef": secret, "nodeStageSecretRef": secret,
                "volumeAttributes": {
                    "clusterID": CLUSTER_ID, "pool": POOL, "journalPool": POOL, "imageName": image,
                    "imageFeatures": "layering,exclusive-lock,object-map,fast-diff,deep-flatten",
                    "storage.kubernetes.io/csiProvisionerIdentity": format!("1700000000000-1234-{DRIVER}"),
                },
            },
        },
    })
}

/// With the attacher's finalizer, as every attachment of ceph-csi ≥ 3.15 has.
fn attach(space: &Space, name: &str, volume: &str, node: &str) {
    space.kubectl.create(&[json!({
        "apiVersion": "storage.k8s.io/v1", "kind": "VolumeAttachment",
        "metadata": {
            "name": name, "finalizers": ["external-attacher/rbd-csi-ceph-com"],
            "annotations": { "csi.alpha.kubernetes.io/node-id": node },
        },
        "spec": { "attacher": DRIVER, "nodeName": node, "source": { "persistentVolumeName": volume } },
    })]);
    space.kubectl.mark_attached(name);
}

fn handle(world: &World) -> String {
    let pools: Value =
        serde_json::from_str(&world.cluster().ceph(&["osd", "lspools", "-f", "json"])).unwrap();
    let pool = pools.as_array().unwrap().iter().find(|pool| pool["poolname"] == POOL).unwrap();
    let id = pool["poolnum"].as_u64().unwrap();
    format!("0001-{:04x}-{CLUSTER_ID}-{id:016x}-{UUID}", CLUSTER_ID.len())
}

/// In ceph-csi's order: uuid object, directory key, its keys, image, image id, metadata.
fn make_in_ceph(world: &World, name: &str, image: &str, namespace: &str) {
    let cluster = world.cluster();
    let object = format!("csi.volume.{UUID}");
    let set = |object: &str, key: &str, value: &str| {
        cluster.rados(&["-p", POOL, "setomapval", object, key, value]);
    };
    cluster.rados(&["-p", POOL, "create", &object]);
    set("csi.volumes.default", &format!("csi.volume.{name}"), UUID);
    set(&object, "csi.volname", name);
    set(&object, "csi.imagename", image);
    set(&object, "csi.volume.owner", namespace);
    let spec = format!("{POOL}/{image}");
    let features = "layering,exclusive-lock,object-map,fast-diff,deep-flatten";
    cluster.rbd(&["create", &spec, "--size", "64M", "--image-feature", features]);
    let info: Value = serde_json::from_str(&cluster.rbd(&["info", &spec, "--format", "json"])).unwrap();
    set(&object, "csi.imageid", info["id"].as_str().unwrap());
    for (key, value) in [("pv/name", name), ("pvc/name", CLAIM), ("pvc/namespace", namespace)] {
        cluster.rbd(&["image-meta", "set", &spec, &format!("csi.storage.k8s.io/{key}"), value]);
    }
}

/// On the node, with the programs and options that ceph-csi uses; gives the device.
fn stage(node: &Node, folder: &str, handle: &str, image: &str) -> String {
    let stash = json!({
        "Version": 3, "pool": POOL, "radosNamespace": "", "image": image, "unmapOptions": "", "accessType": false,
        "encrypted": false, "device": "", "logDir": "", "logFileStrategy": "",
    });
    let data = json!({ "driverName": DRIVER, "volumeHandle": handle });
    let device = ceph::map(node, &format!("{POOL}/{image}"));
    node.shell(&format!(
        "mkdir -p {folder}/globalmount && cd {folder}
         printf '%s' '{data}' >vol_data.json
         printf '%s' '{stash}' >globalmount/image-meta.json && chmod 600 globalmount/image-meta.json
         mkfs.ext4 -q -m0 -Enodiscard,lazy_itable_init=1,lazy_journal_init=1 {device}
         mkdir -m 750 globalmount/{handle}
         mount -t ext4 -o _netdev {device} globalmount/{handle}
         echo {MARK} >globalmount/{handle}/mark
         sync"
    ));
    device
}

fn sha256(text: &str) -> String {
    let sum = succeed(Command::new("sh").args(["-c", "printf %s \"$0\" | sha256sum | cut -d' ' -f1", text]));
    sum.trim().to_owned()
}
