//! What all tests share: the lab, kubectl, and the names that the deployment gives.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::kubectl::Kubectl;
use super::residue::Residue;
use super::support::lab::{Cluster, Lab, Node};
use super::wait::{seconds, until};

pub const DRIVER: &str = "rbd.csi.ceph.com";
/// The StorageClass of examples/rbd/storageclass.yaml.
pub const CLASS: &str = "csi-rbd-sc";
/// The VolumeSnapshotClass of examples/rbd/snapshotclass.yaml.
pub const SNAPSHOT_CLASS: &str = "csi-rbdplugin-snapclass";
/// The cluster id that the examples are written for.
pub const CLUSTER_ID: &str = "b9127830-b0cc-4e34-aa47-9d1a2e9949a8";
/// The pool of the examples.
pub const POOL: &str = "rbd";
/// Where the manifests put the driver.
pub const DRIVER_NAMESPACE: &str = "default";
/// Where one test's kubelets have their things, instead of /var/lib/kubelet.
pub const OTHER_KUBELET: &str = "/srv/kubelet";
pub const NODES: [&str; 2] = ["node1", "node2"];
/// The only workload image.
pub const BUSYBOX: &str = "docker.io/library/busybox:1.36";

pub struct World {
    pub lab: Lab,
    pub kubectl: Kubectl,
}

impl World {
    /// Starts the lab, or takes the one that E2E_LAB names, and loads the driver's image.
    /// Kubernetes' own suite needs further images in it.
    pub fn start(suite: bool) -> Self {
        let archive = checkout("target/image/rbd-csi.tar");
        assert!(archive.is_file(), "{} is not there: `make image` writes it", archive.display());
        let lab = match std::env::var("E2E_LAB") {
            Ok(name) => Lab::borrow(&name),
            Err(_) => Lab::start_kubernetes(suite),
        };
        lab.lab(&["image-load", archive.to_str().unwrap()]);
        let kubectl = Kubectl::new(lab.kubectl().to_owned(), DRIVER_NAMESPACE);
        Self { lab, kubectl }
    }

    pub fn cluster(&self) -> &Cluster {
        self.lab.cluster(0)
    }

    /// The lab's node of that Kubernetes name.
    pub fn node(&self, name: &str) -> &Node {
        self.lab.node(NODES.iter().position(|known| *known == name).expect("a node of the lab"))
    }

    /// One of our scripts, by its path in the checkout, with kubectl as it is to be used.
    pub fn script(&self, path: &str) -> Command {
        let mut command = Command::new("timeout");
        command.args(["--kill-after=5", "400"]).arg(checkout(path)).env("KUBECTL", self.kubectl.program());
        // Any folder is good enough for them.
        command.current_dir("/").stdin(std::process::Stdio::null());
        command
    }

    /// What is there now of volumes.
    pub fn residue(&self) -> Residue {
        Residue::look(self)
    }

    /// Waits until no more is there than was before.
    pub fn wait_until_left(&self, before: &Residue) {
        // A purge waits for nothing; a watch of a killed node lives for 30 s.
        until("nothing is left of the test", seconds(120), || {
            let left = self.residue().beyond(before);
            if left.is_empty() { Ok(()) } else { Err(left.join("\n  ")) }
        });
    }
}

/// A path of the checkout.
pub fn checkout(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// The driver's image, by the name that `make image` gives it.
pub fn image() -> String {
    format!("quay.io/rbd-csi/rbd-csi:v{}", env!("CARGO_PKG_VERSION"))
}
