//! The chart, installed, upgraded and uninstalled by Helm's own library.
//!
//! What a reader gets wrong: Helm knows only what it has made. The sidecars' leases and the
//! folders that the kubelet made for the driver stay, and are plugin-teardown.sh's to take.

use serde_json::{Value, json};

use super::ceph;
use super::disturbed::goes_on_writing;
use super::objects::{DATA, claim_with, on, pod, snapshot, ticking_pod};
use super::picture::Picture;
use super::run::Test;
use super::scripts;
use super::space::{GONE, PROMPTLY, Space};
use super::support::lab::succeed;
use super::wait::{seconds, until};
use super::world::{CLUSTER_ID, DRIVER, NODES, POOL, World, checkout};

pub const TEST: Test = Test::new(
    "helm",
    "the chart installed, used, upgraded under a running pod and uninstalled by Helm",
    steps,
);

/// As deploy/rbd/README.md calls them.
const NAMESPACE: &str = "rbd-csi";
const RELEASE: &str = "rbd-csi";
const CLASS: &str = "of-the-chart";

/// Steps: 1 installed, with classes and secret, 2 a claim, a pod that writes, 3 the scripts keep
/// off, 4 upgraded under the pod, 5 a snapshot, and growth, 6 the pod on the other node, 7
/// uninstalled, 8 what Helm does not know of, 9 all is as before.
fn steps(space: &Space) {
    let world = space.world;
    space.if_it_fails(|| world.kubectl.delete(GONE, &["namespace", NAMESPACE]));
    space.if_it_fails(|| {
        let all = ["--namespace", NAMESPACE, "--keep-volumes", "--keep-node-residue"];
        drop(scripts::try_teardown(world, &all));
    });
    space.if_it_fails(|| release(world, "uninstall", None));
    let before = Picture::take(world);
    world.kubectl.run(&["create", "namespace", NAMESPACE]);
    world.kubectl.run(&["label", "namespace", NAMESPACE, "pod-security.kubernetes.io/enforce=privileged"]);
    release(world, "install", Some(&values(4)));
    println!("  installed");

    space.apply(&[claim_with("disk", "storageClassName", CLASS.into())]);
    let volume = space.bound("disk", PROMPTLY);
    space.apply(&[on(ticking_pod("user", "disk"), NODES[0])]);
    space.ready("user");

    let namespace = ["--namespace", NAMESPACE];
    for text in [scripts::try_deploy(world, &namespace), scripts::try_teardown(world, &namespace)] {
        let text = text.expect_err("it is Helm's");
        assert!(text.contains(&format!("belongs to Helm release {RELEASE}")), "{text}");
    }

    assert_eq!(log_levels(world), ["--v=4"; 2]);
    release(world, "upgrade", Some(&values(5)));
    assert_eq!(log_levels(world), ["--v=5"; 2]);
    goes_on_writing(space, "user");
    println!("  upgraded under a running pod");

    let mut moment = snapshot("moment", "disk");
    moment["spec"]["volumeSnapshotClassName"] = CLASS.into();
    space.apply(&[moment]);
    space.snapshot_ready("moment");
    space.grow("disk", "128Mi");
    space.delete(&["volumesnapshot/moment"]);
    println!("  a snapshot in the chart's class, and growth in its other one");

    // What was mounted before the upgrade is taken down after it; and it mounts.
    space.delete(&["pod/user"]);
    space.apply(&[on(pod("elsewhere", "disk"), NODES[1])]);
    space.ready("elsewhere");
    space.sh("elsewhere", &format!("test -s {DATA}/ticks"));
    space.delete(&["pod/elsewhere", "pvc/disk"]);
    space.kubectl.wait(GONE, &["--for=delete", &format!("pv/{volume}")]);

    release(world, "uninstall", None);
    until("Helm leaves nothing of its own", seconds(90), || {
        let left: Vec<String> =
            before.differences(world).into_iter().filter(|line| !left_by_helm(line)).collect();
        if left.is_empty() { Ok(()) } else { Err(left.join("\n  ")) }
    });
    println!("  uninstalled");
    scripts::teardown(world, &namespace);
    world.kubectl.delete(GONE, &["namespace", NAMESPACE]);
    before.wait_until_as(world);
}

/// The namespace, which was made for Helm; the sidecars' leases; the kubelet's folders for the
/// driver.
fn left_by_helm(line: &str) -> bool {
    let objects = [
        format!("Namespace /{NAMESPACE}"),
        format!("ServiceAccount {NAMESPACE}/default"),
        format!("ConfigMap {NAMESPACE}/kube-root-ca.crt"),
        format!("Lease {NAMESPACE}/{}", DRIVER.replace('.', "-")),
        format!("Lease {NAMESPACE}/external-attacher-leader-{}", DRIVER.replace('.', "-")),
        format!("Lease {NAMESPACE}/external-snapshotter-leader-{}", DRIVER.replace('.', "-")),
        format!("Lease {NAMESPACE}/external-resizer-{}", DRIVER.replace('.', "-")),
    ];
    let folders = ["plugins", "plugins/kubernetes.io/csi"];
    let folders = folders.map(|folder| format!("folder /var/lib/kubelet/{folder}/{DRIVER}"));
    let Some(what) = line.strip_prefix("left: ") else { return false };
    objects.iter().any(|object| object == what) || folders.iter().any(|folder| what.ends_with(folder))
}

/// What a user writes into my-values.yaml.
fn values(log_level: u8) -> Value {
    let (id, key) = ceph::user();
    json!({
        "csiConfig": [{ "clusterID": CLUSTER_ID, "monitors": ["10.99.0.1:6789"] }],
        "logLevel": log_level,
        "storageClass": { "create": true, "name": CLASS, "clusterID": CLUSTER_ID, "pool": POOL },
        "volumeSnapshotClass": { "create": true, "name": CLASS, "clusterID": CLUSTER_ID },
        "secret": { "create": true, "userID": id, "userKey": key },
    })
}

/// Helm in the lab's network.
fn release(world: &World, verb: &str, values: Option<&Value>) {
    let file = tempfile::NamedTempFile::new().unwrap();
    let mut helm = world.lab.command("timeout");
    helm.args(["--kill-after=5", "400"]).arg(checkout("scripts/chart-python"));
    helm.arg(checkout("tests/e2e/helm/release.py")).arg(verb).arg(world.lab.kubeconfig());
    helm.args([NAMESPACE, RELEASE]);
    if let Some(values) = values {
        std::fs::write(file.path(), values.to_string()).unwrap();
        helm.arg(file.path());
    }
    println!("  helm {verb}: {}", succeed(&mut helm));
}

/// How much the node plugins that run log, as their arguments say.
fn log_levels(world: &World) -> Vec<String> {
    let pods = world.kubectl.items(&["pods", "-n", NAMESPACE, "-l", "app=csi-rbdplugin"]);
    let arguments = pods.iter().flat_map(|pod| pod["spec"]["containers"][0]["args"].as_array().unwrap());
    arguments.filter_map(Value::as_str).filter(|text| text.starts_with("--v=")).map(str::to_owned).collect()
}
