//! The driver under a name of its own, in a namespace of its own, on nodes whose kubelet has
//! another folder: what deploy/rbd/README.md says is all that differs between clusters.
//!
//! What a reader gets wrong: the kubelets are really started with that folder, and have
//! nothing in it of what was in the usual one; so this needs a cluster without pods.

use std::path::PathBuf;

use super::objects::{DATA, claim, on, pod};
use super::picture::Picture;
use super::run::Test;
use super::scripts::{self, USERS};
use super::space::{GONE, PROMPTLY, Space};
use super::support::lab::Node;
use super::wait::{seconds, until};
use super::world::{CLASS, DRIVER, NODES, OTHER_KUBELET, SNAPSHOT_CLASS, World, checkout};

pub const TEST: Test = Test::new(
    "other_names",
    "another namespace, driver name and kubelet folder: deployed, used and removed the same way",
    steps,
);

const NAMESPACE: &str = "storage";
const NAME: &str = "disks.example.com";
const OPTIONS: [&str; 6] = ["--namespace", NAMESPACE, "--driver-name", NAME, "--kubelet-dir", OTHER_KUBELET];

/// Steps: 1 the kubelets, 2 the driver, the secret and the classes, 3 a claim, a pod that writes,
/// the pod on the other node, 4 refused under the usual names, 5 removed, 6 all as before.
fn steps(space: &Space) {
    let world = space.world;
    space.if_it_fails(|| kubelets(world, &[]));
    space.if_it_fails(|| world.kubectl.delete(GONE, &["namespace", NAMESPACE]));
    space.if_it_fails(|| {
        world.kubectl.delete(GONE, &["storageclass", CLASS]);
        world.kubectl.delete(GONE, &["volumesnapshotclass", SNAPSHOT_CLASS]);
        let keep = ["--keep-volumes", "--keep-node-residue"];
        drop(scripts::try_teardown(world, &[&OPTIONS[..], &keep].concat()));
    });
    kubelets(world, &[OTHER_KUBELET]);
    world.kubectl.run(&["create", "namespace", NAMESPACE]);
    until("the namespace has its own objects", seconds(30), || {
        world
            .kubectl
            .try_run(&["-n", NAMESPACE, "get", "serviceaccount/default", "configmap/kube-root-ca.crt"])
            .map(drop)
    });
    let kubectl = world.kubectl.within(NAMESPACE);
    let before = Picture::take(world);
    scripts::deploy(world, &OPTIONS);
    USERS.iter().for_each(|file| drop(kubectl.feed(&["apply", "-f", "-"], &renamed(file))));

    space.apply(&[claim("disk")]);
    let volume = space.bound("disk", PROMPTLY);
    assert_eq!(space.kubectl.get(&["pv", &volume])["spec"]["csi"]["driver"], NAME);
    for (node, found) in [(NODES[0], ""), (NODES[1], "node1")] {
        space.apply(&[on(pod("user", "disk"), node)]);
        space.ready("user");
        assert_eq!(space.sh("user", &format!("cat {DATA}/log 2>/dev/null || true")), found);
        space.sh("user", &format!("echo {node} >>{DATA}/log; sync"));
        let mounts = mounts(world.node(node));
        let folder = format!("{OTHER_KUBELET}/plugins/kubernetes.io/csi/{NAME}/");
        assert!(mounts.iter().any(|at| at.starts_with(&folder)), "in the kubelet's folder: {mounts:#?}");
        assert!(mounts.iter().all(|at| at.starts_with(OTHER_KUBELET)), "nowhere else: {mounts:#?}");
        let text = scripts::try_teardown(world, &OPTIONS).expect_err("a pod uses a volume");
        assert!(text.contains(&format!("pod {}/user on {node}", space.name)), "{text}");
        space.delete(&["pod/user"]);
        println!("  used on {node}");
    }
    let text = scripts::try_teardown(world, &[]).expect_err("the driver of the usual name is none");
    assert!(text.contains(&format!("for namespace {NAMESPACE}")) && text.contains("--namespace"), "{text}");

    space.delete(&["pvc/disk"]);
    space.kubectl.wait(GONE, &["--for=delete", &format!("pv/{volume}")]);
    USERS.iter().for_each(|file| drop(kubectl.feed(&["delete", "-f", "-"], &renamed(file))));
    scripts::teardown(world, &OPTIONS);
    before.wait_until_as(world);
    world.kubectl.delete(GONE, &["namespace", NAMESPACE]);
    kubelets(world, &[]);
    for node in NODES {
        world.node(node).exec(&["rm", "-r", "--one-file-system", OTHER_KUBELET]);
    }
}

/// Restarts them, with that folder or the usual one.
fn kubelets(world: &World, folder: &[&str]) {
    for node in NODES {
        let number = &world.node(node).number;
        world.lab.lab(&[&["kubelet-restart", number], folder].concat());
    }
}

/// A file of the examples as the manifests are renamed.
fn renamed(file: &str) -> String {
    let path: PathBuf = checkout(file);
    let text = std::fs::read_to_string(path).unwrap();
    text.replace("namespace: default", &format!("namespace: {NAMESPACE}")).replace(DRIVER, NAME)
}

/// Where images are mounted in a node.
fn mounts(node: &Node) -> Vec<String> {
    let text = node.shell("grep ' /dev/rbd' /proc/self/mountinfo | cut -d' ' -f5");
    text.lines().map(str::to_owned).collect()
}
