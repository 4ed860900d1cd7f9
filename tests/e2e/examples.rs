//! Every file of examples/rbd/, applied as it stands, in the order of a user.
//!
//! What a reader gets wrong: secret, class and config maps are applied by the deployment
//! of all tests; they need no test of their own here.

use std::collections::BTreeSet;

use serde_json::Value;

use super::ceph;
use super::deployment;
use super::run::Test;
use super::space::{GONE, POD, PROMPTLY, SNAPSHOT, Space};
use super::wait::until;
use super::world::{NODES, POOL, checkout};

pub const TESTS: &[Test] =
    &[Test::new("examples", "every example file works as it stands, and goes away again", steps)];

const FOLDER: &str = "examples/rbd";
/// What belongs together, in the order in which it is applied.
const SETS: [&[&str]; 6] = [
    &[
        "pvc",
        "pod",
        "snapshot",
        "pvc-restore",
        "pod-restore",
        "pvc-clone",
        "pod-clone",
        "pvc-rox",
        "pod-rox",
        "pvc-grown",
    ],
    &[
        "raw-block-pvc",
        "raw-block-pod",
        "snapshot-block",
        "pvc-block-restore",
        "pod-block-restore",
        "pvc-block-clone",
        "block-pod-clone",
    ],
    &["pvc-rwop", "pod-rwop"],
    &["pod-ephemeral"],
    &["static-pv", "static-pod"],
    &["statefulset"],
];

/// What changes the object of another file, with which it goes.
const CHANGES: [&str; 1] = ["pvc-grown"];

fn steps(space: &Space) {
    no_file_is_forgotten();
    for set in SETS {
        println!("  {}", set.join(", "));
        for file in set {
            let objects = objects(space, file);
            objects.iter().for_each(|object| prepare(space, object));
            space.world.kubectl.apply_file(&path(file));
            objects.iter().for_each(|object| wait_for(space, object));
        }
        for file in set.iter().rev().filter(|file| !CHANGES.contains(file)) {
            let objects = objects(space, file);
            space.world.kubectl.delete(GONE, &["-f", path(file).to_str().unwrap()]);
            objects.iter().for_each(|object| finish(space, object));
        }
    }
}

fn path(file: &str) -> std::path::PathBuf {
    checkout(FOLDER).join(format!("{file}.yaml"))
}

fn no_file_is_forgotten() {
    let in_sets = SETS.iter().copied().flatten().map(|file| path(file));
    let known: Vec<_> = in_sets.chain(deployment::FILES.map(checkout)).collect();
    for entry in std::fs::read_dir(checkout(FOLDER)).unwrap().flatten() {
        let file = entry.path();
        if file.extension().is_some_and(|extension| extension == "yaml") {
            assert!(known.contains(&file), "no test applies {}", file.display());
        }
    }
}

/// What the file holds, as Kubernetes reads it.
fn objects(space: &Space, file: &str) -> Vec<Value> {
    let arguments = ["create", "--dry-run=client", "-o", "json", "-f"];
    let path = path(file);
    let text = space.world.kubectl.run(&[&arguments[..], &[path.to_str().unwrap()]].concat());
    // One object after the other, or one list.
    let objects = serde_json::Deserializer::from_str(&text).into_iter::<Value>();
    let flat = |object: Value| match object["items"].as_array() {
        Some(items) => items.clone(),
        None => vec![object],
    };
    objects.map(|object| object.unwrap()).flat_map(flat).collect()
}

fn name(object: &Value) -> &str {
    object["metadata"]["name"].as_str().unwrap()
}

/// What the file's own text asks for first: a static volume's image, with a file system.
fn prepare(space: &Space, object: &Value) {
    if object["kind"] == "PersistentVolume" {
        let image = object["spec"]["csi"]["volumeHandle"].as_str().unwrap();
        ceph::make_image(space.world, &format!("{POOL}/{image}"), 1024);
    }
}

fn wait_for(space: &Space, object: &Value) {
    let kubectl = &space.world.kubectl;
    let name = name(object);
    match object["kind"].as_str().unwrap() {
        "PersistentVolumeClaim" => {
            kubectl.wait(PROMPTLY, &["--for=jsonpath={.status.phase}=Bound", &format!("pvc/{name}")]);
            // Of a claim that is new, at once.
            let asked = object["spec"]["resources"]["requests"]["storage"].as_str().unwrap();
            let capacity = format!("--for=jsonpath={{.status.capacity.storage}}={asked}");
            kubectl.wait(POD, &[&capacity, &format!("pvc/{name}")]);
        }
        "VolumeSnapshot" => {
            let ready = "--for=jsonpath={.status.readyToUse}=true";
            kubectl.wait(SNAPSHOT, &[ready, &format!("volumesnapshot/{name}")]);
        }
        "Deployment" => readers(space, name, object),
        "Pod" => {
            kubectl.wait(POD, &["--for=condition=Ready", &format!("pod/{name}")]);
            writes(space, name, object);
        }
        "StatefulSet" => {
            let count = object["spec"]["replicas"].as_u64().unwrap();
            let ready = format!("--for=jsonpath={{.status.readyReplicas}}={count}");
            kubectl.wait(POD, &[&ready, &format!("statefulset/{name}")]);
            (0..count).for_each(|i| writes(space, &format!("{name}-{i}"), &object["spec"]["template"]));
        }
        _ => {}
    }
}

/// The pods of a Deployment, on as many nodes as there are, read what others wrote.
fn readers(space: &Space, name: &str, object: &Value) {
    let kubectl = &space.world.kubectl;
    let count = object["spec"]["replicas"].as_u64().unwrap();
    let ready = format!("--for=jsonpath={{.status.readyReplicas}}={count}");
    kubectl.wait(POD, &[&ready, &format!("deployment/{name}")]);
    let pods = kubectl.items(&["pods", "-l", &format!("app={name}")]);
    let nodes: BTreeSet<&str> = pods.iter().filter_map(|pod| pod["spec"]["nodeName"].as_str()).collect();
    assert_eq!(nodes, BTreeSet::from(NODES), "one on each node");
    pods.iter().for_each(|pod| writes(space, self::name(pod), &object["spec"]["template"]));
}

/// The example pods write dates to /data/log, or to the head of their device.
fn writes(space: &Space, pod: &str, template: &Value) {
    let device = &template["spec"]["containers"][0]["volumeDevices"][0]["devicePath"];
    let file = device.as_str().unwrap_or("/data/log");
    until(&format!("{pod} writes to {file}"), PROMPTLY, || {
        let text = space.world.kubectl.try_run(&[
            "exec",
            pod,
            "--",
            "sh",
            "-c",
            &format!("head -n 1 {file} | head -c 99"),
        ])?;
        // "Sat Nov 21 …": both begin with a date.
        if text.contains(':') { Ok(()) } else { Err(format!("it holds {text:?}")) }
    });
}

/// What a user has to do besides deleting what the file made.
fn finish(space: &Space, object: &Value) {
    match object["kind"].as_str().unwrap() {
        "PersistentVolume" => {
            let image = object["spec"]["csi"]["volumeHandle"].as_str().unwrap();
            ceph::remove_image(space.world, &format!("{POOL}/{image}"));
        }
        "StatefulSet" => {
            let (set, count) = (name(object), object["spec"]["replicas"].as_u64().unwrap());
            for i in 0..count {
                space.world.kubectl.delete(GONE, &["pvc", &format!("data-{set}-{i}")]);
            }
        }
        _ => {}
    }
}
