//! ceph-csi's deployment, with our image in the place of its.

use std::path::PathBuf;

use serde_json::Value;

use crate::deployment::{in_csinodes, says_yes};
use crate::scripts;
use crate::support::lab::succeed;
use crate::wait::{seconds, until};
use crate::world::{DRIVER, NODES, World, checkout, image};

const FOLDER: &str = "tests/e2e/ceph-csi";
const FILES: [&str; 6] =
    ["csidriver", "config", "nodeplugin-rbac", "provisioner-rbac", "provisioner", "nodeplugin"];
/// Where ceph-csi's liveness containers have their metrics.
const LIVENESS_PORT: u16 = 8680;

#[derive(Clone)]
pub struct Deployment<'a> {
    world: &'a World,
    text: String,
}

impl<'a> Deployment<'a> {
    /// The files with the images changed: ours for ceph-csi's, and of the sidecars the
    /// versions that the lab has, of which csi-resizer ends when it is given a gate that it
    /// does not know any more.
    pub fn prepare(world: &'a World) -> Self {
        let read = |name: &&str| std::fs::read_to_string(checkout(&format!("{FOLDER}/{name}.yaml"))).unwrap();
        let text: String = FILES.iter().map(read).collect();
        let text = text
            .replace("quay.io/cephcsi/cephcsi:v3.17.0", &image())
            .replace("csi-provisioner:v6.2.0", "csi-provisioner:v6.3.0")
            .replace("csi-snapshotter:v8.5.0", "csi-snapshotter:v8.7.0")
            .replace("csi-attacher:v4.11.0", "csi-attacher:v4.13.0")
            .replace("csi-resizer:v2.1.0", "csi-resizer:v2.3.0")
            .replace("            - \"--feature-gates=RecoverVolumeExpansionFailure=true\"\n", "");
        scripts::apply_users(world);
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
        self.wait_until_registered();
    }

    /// The kubelets know the driver, and each registrar that runs has been told so.
    fn wait_until_registered(&self) {
        until("the driver is registered on all nodes", seconds(90), || {
            in_csinodes(self.world)?;
            let plugins = self.pods("csi-rbdplugin")?;
            for name in plugins.iter().map(|pod| text(&pod["metadata"]["name"])) {
                let said = self.world.kubectl.try_run(&["logs", &name, "-c", "driver-registrar"])?;
                if !said.contains("registered: true") {
                    return Err(format!("the registrar of {name} says {said:?}"));
                }
            }
            if plugins.len() == NODES.len() { Ok(()) } else { Err(format!("{} plugins run", plugins.len())) }
        });
    }

    fn pods(&self, app: &str) -> Result<Vec<Value>, String> {
        self.world.kubectl.try_items(&["pods", "-l", &format!("app={app}")])
    }

    /// No container of our image ended by itself (a sidecar ends when it loses its lease),
    /// and those that watch the driver's liveness find it alive.
    pub fn runs_quietly(&self) {
        let pods = ["csi-rbdplugin", "csi-rbdplugin-provisioner"].map(|app| self.pods(app).unwrap());
        for pod in pods.iter().flatten().filter(|pod| pod["status"]["phase"] == "Running") {
            let name = text(&pod["metadata"]["name"]);
            let containers = pod["status"]["containerStatuses"].as_array().unwrap();
            for container in containers.iter().filter(|container| container["image"] == image()) {
                let restarts = &container["restartCount"];
                assert_eq!(*restarts, 0, "{} of {name} was started again", container["name"]);
            }
            let alive = says_yes(self.world, &name, LIVENESS_PORT, "csi_liveness");
            assert_eq!(alive, Ok(true), "{name}");
        }
    }

    /// The plugins' pods deleted: the kubelets lose the driver and get it again.
    pub fn restart_plugins(&self) {
        let kubectl = &self.world.kubectl;
        kubectl.delete(seconds(90), &["pods", "-l", "app=csi-rbdplugin"]);
        kubectl.wait_for_rollout("default", "daemonset/csi-rbdplugin", seconds(180));
        self.wait_until_registered();
    }

    /// With what ceph-csi's own removal leaves, too: leases, and folders of the nodes.
    pub fn remove(&self) {
        let kubectl = &self.world.kubectl;
        kubectl.feed(&["delete", "--ignore-not-found", "--wait", "--timeout=60s", "-f", "-"], &self.text);
        scripts::remove_users(self.world);
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
            self.world.node(node).shell(&format!(
                "cd /var/lib/kubelet/plugins; rm -rf {DRIVER}; rmdir kubernetes.io/csi/{DRIVER} 2>/dev/null || true"
            ));
        }
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// The stand-in, which `scripts/e2e` builds beside this program.
fn registrar() -> PathBuf {
    let program = std::env::current_exe().unwrap();
    let path = program.parent().and_then(std::path::Path::parent).unwrap().join("examples/registrar");
    assert!(path.is_file(), "{} is not there: scripts/e2e builds it", path.display());
    path
}
