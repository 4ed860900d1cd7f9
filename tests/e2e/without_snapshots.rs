//! A cluster without the kinds of snapshots, and what comes with them later.
//!
//! What a reader gets wrong: the lab's own snapshot-controller runs where kubectl does not see it,
//! as some providers have it. Here it is stopped, and one runs in the cluster.

use std::path::PathBuf;

use serde_json::{Value, json};

use super::kubectl::Kubectl;
use super::objects::{DATA, claim, claim_of, pod, snapshot};
use super::picture::Picture;
use super::run::Test;
use super::scripts::{self, USERS};
use super::space::{GONE, PROMPTLY, Space};
use super::wait::{seconds, until};
use super::world::{DRIVER_NAMESPACE, World, checkout};

pub const TEST: Test = Test::new(
    "without_snapshots",
    "no kinds of snapshots: deployed without csi-snapshotter; with it when they and a controller come",
    steps,
);

const GROUPS: [&str; 2] = ["snapshot.storage.k8s.io", "groupsnapshot.storage.k8s.io"];
const CONTROLLER: &str = "snapshot-controller";

/// Steps: 1 the kinds taken away, 2 deployed, and at work, 3 the kinds and a controller given,
/// 4 deployed again, 5 a snapshot, restored, 6 removed, 7 all as before.
fn steps(space: &Space) {
    let world = space.world;
    let before = Picture::take(world);
    let kinds = kinds(&world.kubectl);
    assert_eq!(kinds.len(), 6, "{kinds:#?}");
    world.lab.lab(&["kube-stop", CONTROLLER]);
    let again = kinds.clone();
    space.if_it_fails_first(move || give_back(world, &again));
    space.if_it_fails(|| drop(scripts::try_teardown(world, &["--keep-volumes", "--keep-node-residue"])));
    space.if_it_fails(|| scripts::remove_users(world));
    for kind in &kinds {
        world
            .kubectl
            .delete(seconds(60), &["customresourcedefinition", kind["metadata"]["name"].as_str().unwrap()]);
    }

    let text = scripts::try_deploy(world, &[]).unwrap_or_else(|text| panic!("{text}"));
    for words in ["lacks kinds of snapshots", "without csi-snapshotter", "client/config/crd?ref=v8.7.0"] {
        assert!(text.contains(words), "does not say {words:?}:\n{text}");
    }
    assert!(!containers(world).contains(&"csi-snapshotter".to_owned()));
    USERS[..2].iter().for_each(|file| world.kubectl.apply_file(&checkout(file)));
    space.apply(&[claim("disk"), pod("writer", "disk")]);
    space.bound("disk", PROMPTLY);
    space.ready("writer");
    space.grow("disk", "128Mi");
    space.sh("writer", &format!("echo kept >{DATA}/mark; sync"));
    println!("  deployed without csi-snapshotter: volumes are made, used and grown");

    world.kubectl.create(&kinds);
    run_controller(world);
    let text = scripts::try_deploy(world, &[]).unwrap_or_else(|text| panic!("{text}"));
    assert!(text.contains("the snapshot-controller kube-system/snapshot-controller"), "{text}");
    assert!(containers(world).contains(&"csi-snapshotter".to_owned()));
    world.kubectl.apply_file(&checkout(USERS[2]));
    space.apply(&[snapshot("moment", "disk")]);
    space.snapshot_ready("moment");
    let mut restored = claim_of("restored", "VolumeSnapshot", "moment");
    restored["spec"]["resources"]["requests"]["storage"] = "128Mi".into();
    space.apply(&[restored, pod("reader", "restored")]);
    space.ready("reader");
    assert_eq!(space.sh("reader", &format!("cat {DATA}/mark")), "kept");
    println!("  deployed with it, and a snapshot restored");

    space.delete(&["pod/reader", "pod/writer", "pvc/restored", "volumesnapshot/moment", "pvc/disk"]);
    until("volumes and snapshots are gone", GONE, || {
        let left = world.kubectl.try_run(&["get", "pv,volumesnapshotcontents", "-o", "name"])?;
        if left.is_empty() { Ok(()) } else { Err(left) }
    });
    scripts::remove_users(world);
    scripts::teardown(world, &[]);
    end_controller(world);
    before.wait_until_as(world);
}

/// The kinds as they can be created again.
fn kinds(kubectl: &Kubectl) -> Vec<Value> {
    let all = kubectl.items(&["customresourcedefinitions"]);
    let ours = all.into_iter().filter(|kind| GROUPS.iter().any(|group| kind["spec"]["group"] == *group));
    ours.map(|kind| {
        json!({
            "apiVersion": kind["apiVersion"], "kind": kind["kind"], "spec": kind["spec"],
            "metadata": { "name": kind["metadata"]["name"], "annotations": kind["metadata"]["annotations"] },
        })
    })
    .collect()
}

/// The containers of the controller's Deployment.
fn containers(world: &World) -> Vec<String> {
    let deployment = world.kubectl.get(&["-n", DRIVER_NAMESPACE, "deployment/csi-rbdplugin-provisioner"]);
    let containers = deployment["spec"]["template"]["spec"]["containers"].as_array().unwrap();
    containers.iter().map(|one| one["name"].as_str().unwrap().to_owned()).collect()
}

fn part(world: &World, file: &str) -> PathBuf {
    PathBuf::from(world.lab.lab(&["k8s-tools"]).lines().last().unwrap()).join("snapshots").join(file)
}

/// A snapshot-controller in the cluster, as its own project deploys it.
fn run_controller(world: &World) {
    world.lab.lab(&["image-load", part(world, "controller.tar").to_str().unwrap()]);
    world.kubectl.run(&[
        "apply",
        "-n",
        "kube-system",
        "-f",
        part(world, "controller.yaml").to_str().unwrap(),
    ]);
    // It is available when it has been ready for 35 s.
    world.kubectl.wait_for_rollout("kube-system", "deployment/snapshot-controller", seconds(180));
}

/// The lab's own in its place.
fn end_controller(world: &World) {
    world.kubectl.delete(seconds(60), &["-n", "kube-system", "deployment/snapshot-controller"]);
    until("the controller's pods are gone", seconds(90), || {
        let pods = world.kubectl.try_run(&["get", "pods", "-n", "kube-system", "-o", "name"])?;
        if pods.contains(CONTROLLER) { Err(pods) } else { Ok(()) }
    });
    world.kubectl.delete(seconds(30), &["-n", "kube-system", "lease/snapshot-controller-leader"]);
    world.lab.lab(&["kube-start", CONTROLLER]);
}

fn give_back(world: &World, kinds: &[Value]) {
    world.kubectl.apply(kinds);
    end_controller(world);
}
