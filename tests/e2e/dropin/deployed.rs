//! ceph-csi's deployment, with our image in the place of its.

use std::path::PathBuf;

use crate::disturbed::registered;
use crate::support::lab::succeed;
use crate::wait::{seconds, until};
use crate::world::{DRIVER, NODES, World, checkout, image};

const FOLDER: &str = "tests/e2e/ceph-csi";
const FILES: [&str; 6] =
    ["csidriver", "config", "nodeplugin-rbac", "provisioner-rbac", "provisioner", "nodeplugin"];
/// What a user of the driver applies besides.
const USERS: [&str; 2] = ["examples/rbd/secret.yaml", "examples/rbd/storageclass.yaml"];

pub struct Deployment<'a> {
    world: &'a World,
    text: String,
}

impl<'a> Deployment<'a> {
    /// The files with the images changed: ours for ceph-csi's, and of the sidecars the
    /// versions that the lab has.
    pub fn prepare(world: &'a World) -> Self {
        let read = |name: &&str| std::fs::read_to_string(checkout(&format!("{FOLDER}/{name}.yaml"))).unwrap();
        let text: String = FILES.iter().map(read).collect();
        let text = text
            .replace("quay.io/cephcsi/cephcsi:v3.17.0", &image())
            .replace("csi-provisioner:v6.2.0", "csi-provisioner:v6.3.0")
            .replace("csi-attacher:v4.11.0", "csi-attacher:v4.13.0");
        for file in USERS {
            world.kubectl.apply_file(&checkout(file));
        }
        let registrar = registrar();
        let archive = checkout("target/image/registrar.tar");
        let make = checkout("tests/e2e/registrar/image");
        succeed(std::process::Command::new(make).args([&registrar, &archive]));
        world.lab.lab(&["image-load", archive.to_str().unwrap()]);
        Self { world, text }
    }

    pub fn apply(&self) {
        let kubectl = &self.world.kubectl;
        kubectl.feed(&["apply", "-f", "-"], &self.text);
        kubectl.wait_for_rollout("default", "daemonset/csi-rbdplugin", seconds(180));
        // Of its three replicas, which want a node each, the third has none here.
        let available = "--for=jsonpath={.status.availableReplicas}=2";
        kubectl.wait(seconds(180), &[available, "deployment/csi-rbdplugin-provisioner"]);
        registered(self.world);
    }

    /// The plugins' pods deleted: the kubelets lose the driver and get it again.
    pub fn restart_plugins(&self) {
        let kubectl = &self.world.kubectl;
        kubectl.delete(seconds(90), &["pods", "-l", "app=csi-rbdplugin"]);
        kubectl.wait_for_rollout("default", "daemonset/csi-rbdplugin", seconds(180));
        registered(self.world);
    }

    /// With what ceph-csi's own removal leaves, too: leases, and folders of the nodes.
    pub fn remove(&self) {
        let kubectl = &self.world.kubectl;
        kubectl.feed(&["delete", "--wait", "--timeout=60s", "-f", "-"], &self.text);
        for file in USERS {
            kubectl.delete(seconds(30), &["-f", checkout(file).to_str().unwrap()]);
        }
        until("the driver's pods are gone", seconds(90), || {
            let pods = kubectl.try_run(&["get", "pods", "-o", "name"])?;
            if pods.contains("csi-rbdplugin") { Err(pods) } else { Ok(()) }
        });
        for lease in kubectl.run(&["get", "leases", "-o", "name"]).lines() {
            if lease.contains("rbd-csi-ceph-com") {
                kubectl.delete(seconds(30), &[lease]);
            }
        }
        for node in NODES {
            self.world.node(node).shell(&format!("rm -rf /var/lib/kubelet/plugins/{DRIVER}"));
        }
    }
}

/// The stand-in, which `scripts/e2e` builds beside this program.
fn registrar() -> PathBuf {
    let program = std::env::current_exe().unwrap();
    let path = program.parent().and_then(std::path::Path::parent).unwrap().join("examples/registrar");
    assert!(path.is_file(), "{} is not there: scripts/e2e builds it", path.display());
    path
}
