//! Pods that are refused before there is one, and nodes that are none: plugin-deploy.sh says why,
//! and waits for no node that will never run a pod.
//!
//! What a reader gets wrong: the quota is for pods of the critical classes, as some providers have
//! it. The pods that look at the nodes are of no class, and nothing refuses them.

use serde_json::{Value, json};

use super::picture::Picture;
use super::run::Test;
use super::scripts;
use super::space::Space;
use super::wait::{seconds, until};
use super::world::{DRIVER_NAMESPACE, World};

pub const TEST: Test = Test::new(
    "not_made",
    "a quota refuses the driver's pods: plugin-deploy.sh says so; virtual nodes: it waits for none",
    steps,
);

const QUOTA: &str = "e2e-none";
const DEPLOYMENT: &str = "csi-rbdplugin-provisioner";
/// It looks a few times, and gives up.
const BRIEFLY: [&str; 3] = ["--skip-node-check", "--timeout", "1"];

/// Steps: 1 the nodes and the quota, 2 the controller's pods are refused, 3 the node plugin's alone,
/// 4 none any more, and deployed, 5 removed.
fn steps(space: &Space) {
    let world = space.world;
    let before = Picture::take(world);
    space.if_it_fails(|| drop(scripts::try_teardown(world, &["--keep-volumes", "--keep-node-residue"])));
    space.if_it_fails(|| allow(world));
    space.apply_wide(&[
        node("e2e-fargate", "eks.amazonaws.com/compute-type", "fargate"),
        node("e2e-virtual", "type", "virtual-kubelet"),
    ]);

    refuse(world, &["system-cluster-critical", "system-node-critical"]);
    // Applied; whether it has been tried already is a matter of moments.
    drop(scripts::try_deploy(world, &BRIEFLY));
    let deployment = format!("deployment/{DEPLOYMENT}");
    let failure = ["--for=condition=ReplicaFailure", "-n", DRIVER_NAMESPACE, &deployment];
    world.kubectl.wait(seconds(60), &failure);
    says(
        space,
        &[
            "csi-rbdplugin-provisioner: pods are not made: FailedCreate: ",
            QUOTA,
            "describe replicasets -l app=csi-rbdplugin-provisioner",
        ],
    );

    allow(world);
    refuse(world, &["system-node-critical"]);
    drop(scripts::try_deploy(world, &BRIEFLY));
    world.kubectl.wait_for_rollout(DRIVER_NAMESPACE, &deployment, seconds(240));
    says(
        space,
        &["csi-rbdplugin: pods are not made: FailedCreate: ", QUOTA, "describe daemonset csi-rbdplugin\n"],
    );

    allow(world);
    let text = scripts::try_deploy(world, &[]).unwrap_or_else(|text| panic!("{text}"));
    assert!(text.contains("node plugin: all 2 pods are ready"), "{text}");
    assert!(!text.contains("e2e-fargate") && !text.contains("e2e-virtual"), "{text}");
    println!("  deployed when the quota was gone, and on no virtual node");
    scripts::teardown(world, &[]);
    before.wait_until_as(world);
}

/// plugin-deploy.sh fails, and says all this.
fn says(space: &Space, all: &[&str]) {
    let text = scripts::try_deploy(space.world, &BRIEFLY).expect_err("it is refused");
    for words in all {
        assert!(text.contains(words), "does not say {words:?}:\n{text}");
    }
    println!("  {}", text.lines().find(|line| line.contains(all[0])).unwrap().trim());
}

/// A quota of no pod for these classes, when it is in force.
fn refuse(world: &World, classes: &[&str]) {
    let scope = json!({ "operator": "In", "scopeName": "PriorityClass", "values": classes });
    world.kubectl.apply(&[json!({
        "apiVersion": "v1", "kind": "ResourceQuota",
        "metadata": { "name": QUOTA, "namespace": DRIVER_NAMESPACE },
        "spec": { "hard": { "pods": "0" }, "scopeSelector": { "matchExpressions": [scope] } },
    })]);
    until("the quota is in force", seconds(30), || {
        let quota = world.kubectl.try_get(&["-n", DRIVER_NAMESPACE, "resourcequota", QUOTA])?;
        if quota["status"]["hard"]["pods"] == "0" { Ok(()) } else { Err(quota["status"].to_string()) }
    });
}

fn allow(world: &World) {
    world.kubectl.delete(seconds(30), &["-n", DRIVER_NAMESPACE, "resourcequota", QUOTA]);
}

/// A node that nothing stands behind, with the taint by which others keep off.
fn node(name: &str, label: &str, value: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": { "name": name, "labels": { "kubernetes.io/os": "linux", label: value } },
        "spec": { "taints": [{ "key": "e2e.example.com/virtual", "effect": "NoSchedule" }] },
    })
}
