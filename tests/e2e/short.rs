//! The whole path of a user, with the files of examples/rbd/ as they stand: deployed, a
//! claim, a pod, a snapshot of it restored, the claim grown, the pod on the other node, all
//! deleted, the driver removed. Afterwards cluster and nodes are as before.

use std::time::Instant;

use super::deployment;
use super::kubectl::Kubectl;
use super::picture::Picture;
use super::run::Test;
use super::space::{GONE, POD, PROMPTLY, SNAPSHOT, Space};
use super::wait::until;
use super::world::{NODES, checkout};

pub const TEST: Test = Test::new(
    "short",
    "deployed, claim, pod, snapshot, restore, growth, the pod moved, deleted, removed: nothing left",
    steps,
);

const POD_NAME: &str = "csi-rbd-demo-pod";
const CLAIM: &str = "rbd-pvc";
const SNAPSHOT_NAME: &str = "rbd-pvc-snapshot";
const RESTORED_CLAIM: &str = "rbd-pvc-restore";
const RESTORED_POD: &str = "csi-rbd-restore-demo-pod";

/// Steps: 1 a picture of the bare cluster, 2 the driver, 3 a claim, 4 a pod, 5 a snapshot,
/// restored, 6 the claim grown under its pod, 7 the pod on the other node, 8 all deleted, 9 the
/// driver removed, 10 the picture again.
fn steps(space: &Space) {
    let world = space.world;
    let kubectl = &world.kubectl;
    let before = Picture::take(world);
    let clock = Clock::new();
    deployment::deploy(world);
    clock.tell("deployed");

    kubectl.apply_file(&checkout("examples/rbd/pvc.yaml"));
    kubectl.wait(PROMPTLY, &["--for=jsonpath={.status.phase}=Bound", &format!("pvc/{CLAIM}")]);
    clock.tell("claim bound");

    let pod = checkout("examples/rbd/pod.yaml");
    kubectl.apply_file(&pod);
    kubectl.wait(POD, &["--for=condition=Ready", &format!("pod/{POD_NAME}")]);
    let first_node = node_of(kubectl);
    until("the pod has written", PROMPTLY, || log(kubectl).map(drop));
    kubectl.run(&["exec", POD_NAME, "--", "sh", "-c", "echo kept >/data/mark && sync"]);
    clock.tell(&format!("pod writes on {first_node}"));

    restore(kubectl);
    clock.tell("snapshot taken, restored and read");
    kubectl.apply_file(&checkout("examples/rbd/pvc-grown.yaml"));
    kubectl.wait(POD, &["--for=jsonpath={.status.capacity.storage}=2Gi", &format!("pvc/{CLAIM}")]);
    let size = kubectl.run(&["exec", POD_NAME, "--", "sh", "-c", "df -m /data | tail -n 1"]);
    let mib = size.split_whitespace().nth(1).and_then(|mib| mib.parse::<u32>().ok());
    assert!(mib.is_some_and(|mib| mib > 1500), "of 2048 MiB: {size}");
    clock.tell("claim grown under its pod");

    kubectl.delete(GONE, &["pod", POD_NAME]);
    let second_node = NODES.into_iter().find(|node| *node != first_node).unwrap();
    kubectl.run(&["cordon", &first_node]);
    kubectl.apply_file(&pod);
    kubectl.run(&["wait", "--for=jsonpath={.spec.nodeName}", "--timeout=20s", &format!("pod/{POD_NAME}")]);
    kubectl.run(&["uncordon", &first_node]);
    kubectl.wait(POD, &["--for=condition=Ready", &format!("pod/{POD_NAME}")]);
    assert_eq!(node_of(kubectl), second_node);
    assert_eq!(kubectl.run(&["exec", POD_NAME, "--", "cat", "/data/mark"]), "kept");
    clock.tell(&format!("pod with its data on {second_node}"));

    kubectl.delete(GONE, &["pod", POD_NAME, RESTORED_POD]);
    kubectl.delete(GONE, &["pvc", CLAIM, RESTORED_CLAIM]);
    kubectl.delete(GONE, &["volumesnapshot", SNAPSHOT_NAME]);
    until("volumes and snapshot are gone", GONE, || {
        let left = kubectl.try_items(&["persistentvolumes,volumesnapshotcontents"])?;
        if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
    });
    clock.tell("pods, claims, volumes and snapshot gone");
    deployment::teardown(world);
    clock.tell("driver removed");
    before.wait_until_as(world);
    clock.tell("objects, mounts, devices and folders as before");
}

/// What the pod has written so far is in the restored claim.
fn restore(kubectl: &Kubectl) {
    let apply = |file: &str| kubectl.apply_file(&checkout(&format!("examples/rbd/{file}.yaml")));
    apply("snapshot");
    let ready = "--for=jsonpath={.status.readyToUse}=true";
    kubectl.wait(SNAPSHOT, &[ready, &format!("volumesnapshot/{SNAPSHOT_NAME}")]);
    kubectl.run(&["exec", POD_NAME, "--", "sh", "-c", "echo later >/data/later && sync"]);
    apply("pvc-restore");
    apply("pod-restore");
    kubectl.wait(POD, &["--for=condition=Ready", &format!("pod/{RESTORED_POD}")]);
    let files = kubectl.run(&["exec", RESTORED_POD, "--", "sh", "-c", "cat /data/mark; ls /data"]);
    assert!(files.starts_with("kept\n") && !files.contains("later"), "{files}");
}

fn node_of(kubectl: &Kubectl) -> String {
    kubectl.get(&["pod", POD_NAME])["spec"]["nodeName"].as_str().unwrap_or_default().to_owned()
}

fn log(kubectl: &Kubectl) -> Result<String, String> {
    kubectl.try_run(&["exec", POD_NAME, "--", "tail", "-n", "3", "/data/log"])
}

/// Tells what was done and when.
struct Clock(Instant);

impl Clock {
    fn new() -> Self {
        Self(Instant::now())
    }

    fn tell(&self, what: &str) {
        println!("  {:6.1} s  {what}", self.0.elapsed().as_secs_f64());
    }
}
