//! The whole path of a user, with the files of examples/rbd/ as they stand: deployed, a
//! claim, a pod, the pod on the other node, all deleted, the driver removed. Afterwards
//! cluster and nodes are as before.

use std::time::Instant;

use super::deployment;
use super::kubectl::Kubectl;
use super::run::Test;
use super::snapshot::Snapshot;
use super::space::{GONE, POD, PROMPTLY, Space};
use super::wait::until;
use super::world::{NODES, checkout};

pub const TEST: Test = Test::new(
    "short",
    "deployed, claim, pod, the pod on the other node, deleted, removed: nothing left",
    steps,
);

const POD_NAME: &str = "csi-rbd-demo-pod";
const CLAIM: &str = "rbd-pvc";

/// Steps: 1 a picture of the bare cluster, 2 the driver, 3 a claim, 4 a pod, 5 the pod on
/// the other node, 6 pod and claim deleted, 7 the driver removed, 8 the picture again.
fn steps(space: &Space) {
    let world = space.world;
    let kubectl = &world.kubectl;
    let before = Snapshot::take(world);
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

    kubectl.delete(GONE, &["pod", POD_NAME]);
    kubectl.delete(GONE, &["pvc", CLAIM]);
    until("the volume is gone", GONE, || {
        let volumes = kubectl.try_items(&["persistentvolumes"])?;
        if volumes.is_empty() { Ok(()) } else { Err(format!("{volumes:?}")) }
    });
    clock.tell("pod, claim and volume gone");
    deployment::teardown(world);
    clock.tell("driver removed");
    before.wait_until_as(world);
    clock.tell("objects, mounts, devices and folders as before");
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
