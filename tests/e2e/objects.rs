//! Claims, pods and classes as the tests need them: the least that shows a thing.
//!
//! What a reader gets wrong: the workload's shell is the container's first process and
//! takes no SIGTERM, so pods have a grace of one second, not Kubernetes' thirty.

use serde_json::{Value, json};

use super::world::{BUSYBOX, CLASS, CLUSTER_ID, DRIVER, DRIVER_NAMESPACE, POOL, SNAPSHOT_CLASS};

/// Where pods have their volume.
pub const DATA: &str = "/data";
/// … or, when it is a raw one, their device.
pub const DISK: &str = "/dev/disk";
const SLEEP: &str = "while true; do sleep 3600; done";

/// A claim of 64 MiB in the class of the examples, for one node.
pub fn claim(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": { "name": name },
        "spec": {
            "accessModes": ["ReadWriteOnce"], "storageClassName": CLASS,
            "resources": { "requests": { "storage": "64Mi" } },
        },
    })
}

pub fn claim_with(name: &str, key: &str, value: Value) -> Value {
    let mut claim = claim(name);
    claim["spec"][key] = value;
    claim
}

/// The same claim with what a `VolumeSnapshot` or another `PersistentVolumeClaim` has.
pub fn claim_of(name: &str, kind: &str, source: &str) -> Value {
    let group = if kind == "VolumeSnapshot" { json!("snapshot.storage.k8s.io") } else { Value::Null };
    claim_with(name, "dataSource", json!({ "apiGroup": group, "kind": kind, "name": source }))
}

/// That claim so large, as Kubernetes writes it.
pub fn sized(mut claim: Value, size: &str) -> Value {
    claim["spec"]["resources"]["requests"]["storage"] = size.into();
    claim
}

/// A snapshot of a claim, in the class of the examples.
pub fn snapshot(name: &str, claim: &str) -> Value {
    json!({
        "apiVersion": "snapshot.storage.k8s.io/v1", "kind": "VolumeSnapshot", "metadata": { "name": name },
        "spec": {
            "volumeSnapshotClassName": SNAPSHOT_CLASS, "source": { "persistentVolumeClaimName": claim },
        },
    })
}

/// A pod that sleeps with a claim's file system at [`DATA`].
pub fn pod(name: &str, claim: &str) -> Value {
    let mut pod = bare_pod(name, claim);
    pod["spec"]["containers"][0]["volumeMounts"] = json!([{ "name": "data", "mountPath": DATA }]);
    pod
}

/// A pod that sleeps with a claim's device at [`DISK`].
pub fn block_pod(name: &str, claim: &str) -> Value {
    let mut pod = bare_pod(name, claim);
    pod["spec"]["containers"][0]["volumeDevices"] = json!([{ "name": "data", "devicePath": DISK }]);
    pod
}

/// A pod that writes a number a second to [`DATA`]`/ticks`, and ends when it cannot.
pub fn ticking_pod(name: &str, claim: &str) -> Value {
    let mut pod = pod(name, claim);
    let script =
        format!("i=0; while true; do i=$((i + 1)); echo $i >>{DATA}/ticks || exit 1; sync; sleep 1; done");
    pod["spec"]["containers"][0]["command"] = json!(["sh", "-c", script]);
    pod["spec"]["restartPolicy"] = "Never".into();
    pod
}

fn bare_pod(name: &str, claim: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": { "name": name, "labels": { "app": name } },
        "spec": {
            "terminationGracePeriodSeconds": 1,
            // The lab has no DNS.
            "dnsPolicy": "Default",
            "containers": [{
                "name": "main", "image": BUSYBOX, "imagePullPolicy": "IfNotPresent",
                "command": ["sh", "-c", SLEEP],
            }],
            "volumes": [{ "name": "data", "persistentVolumeClaim": { "claimName": claim } }],
        },
    })
}

/// The same pod, to be scheduled to that node.
pub fn on(mut pod: Value, node: &str) -> Value {
    pod["spec"]["nodeSelector"] = json!({ "kubernetes.io/hostname": node });
    pod
}

/// A StatefulSet of three, spread as far as the nodes allow, each with a claim of its own.
pub fn stateful_set(name: &str) -> Value {
    let mut spec = pod(name, "none")["spec"].take();
    spec.as_object_mut().unwrap().remove("volumes");
    // Two nodes and three pods: so both nodes have some.
    spec["topologySpreadConstraints"] = json!([{
        "maxSkew": 1, "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "ScheduleAnyway",
        "labelSelector": { "matchLabels": { "app": name } },
    }]);
    json!({
        "apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": { "name": name },
        "spec": {
            "replicas": 3, "serviceName": name, "podManagementPolicy": "Parallel",
            "selector": { "matchLabels": { "app": name } },
            "template": { "metadata": { "labels": { "app": name } }, "spec": spec },
            "volumeClaimTemplates": [{
                "metadata": { "name": "data" }, "spec": claim("data")["spec"].take(),
            }],
        },
    })
}

/// A class like the examples', with other parameters; cluster-wide, so its name is the test's.
pub fn class(name: &str, parameters: &[(&str, &str)]) -> Value {
    let mut class = json!({
        "apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": { "name": name },
        "provisioner": DRIVER, "reclaimPolicy": "Delete", "volumeBindingMode": "Immediate",
        "allowVolumeExpansion": true,
        "parameters": {
            "clusterID": CLUSTER_ID, "pool": POOL, "imageFeatures": "layering",
            "csi.storage.k8s.io/provisioner-secret-name": "csi-rbd-secret",
            "csi.storage.k8s.io/provisioner-secret-namespace": DRIVER_NAMESPACE,
            "csi.storage.k8s.io/controller-expand-secret-name": "csi-rbd-secret",
            "csi.storage.k8s.io/controller-expand-secret-namespace": DRIVER_NAMESPACE,
            "csi.storage.k8s.io/node-stage-secret-name": "csi-rbd-secret",
            "csi.storage.k8s.io/node-stage-secret-namespace": DRIVER_NAMESPACE,
            "csi.storage.k8s.io/fstype": "ext4",
        },
    });
    for (key, value) in parameters {
        class["parameters"][*key] = (*value).into();
    }
    class
}

/// A volume that was made by hand: an image of that name in the pool, no journal.
pub fn static_volume(name: &str, image: &str, claim: (&str, &str)) -> Value {
    let secret = json!({ "name": "csi-rbd-secret", "namespace": DRIVER_NAMESPACE });
    json!({
        "apiVersion": "v1", "kind": "PersistentVolume", "metadata": { "name": name },
        "spec": {
            "capacity": { "storage": "64Mi" }, "accessModes": ["ReadWriteOnce"], "volumeMode": "Filesystem",
            "persistentVolumeReclaimPolicy": "Retain", "storageClassName": "",
            "claimRef": { "namespace": claim.0, "name": claim.1 },
            "csi": {
                "driver": DRIVER, "volumeHandle": image, "fsType": "ext4",
                "nodeStageSecretRef": secret,
                "volumeAttributes": {
                    "clusterID": CLUSTER_ID, "pool": POOL, "staticVolume": "true", "imageFeatures": "layering",
                },
            },
        },
    })
}
