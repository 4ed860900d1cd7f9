//! Volumes of this driver's name that this version cannot serve stop plugin-deploy.sh, which
//! lists them, before anything is changed.
//!
//! What a reader gets wrong: the volumes are API objects alone, as other drivers have made
//! them. Nobody ever asks Ceph for them here.

use serde_json::{Value, json};

use super::objects::{claim, pod, static_volume};
use super::picture::Picture;
use super::run::Test;
use super::scripts;
use super::space::{GONE, PROMPTLY, Space};
use super::world::{DRIVER, DRIVER_NAMESPACE};

pub const TEST: Test = Test::new(
    "unserved_stops_deploy",
    "volumes that cannot be served stop plugin-deploy.sh, which lists them and changes nothing",
    steps,
);

/// Volume and why it cannot be served.
const UNSERVED: [(&str, &str); 4] = [
    ("e2e-encrypted", "encrypted"),
    ("e2e-nbd", "mapped with rbd-nbd"),
    ("e2e-migrated", "of the in-tree driver"),
    ("e2e-in-tree", "of the in-tree driver"),
];
/// Ours, and another driver's.
const SERVED: [&str; 2] = ["e2e-plain", "e2e-foreign"];

/// Steps: 1 the volumes, 2 refused on the bare cluster, 3 deployed with --force, and at work,
/// 4 an update refused, 5 removed with --keep-volumes, the volumes still there.
fn steps(space: &Space) {
    let world = space.world;
    space.if_it_fails(|| {
        scripts::remove_users(world);
        // What --keep-volumes leaves goes with the test's other objects.
        drop(scripts::try_teardown(world, &["--keep-volumes", "--keep-node-residue"]));
    });
    let before = Picture::take(world);
    space.apply_wide(&volumes(&space.name));

    refused(space, &[]);
    before.wait_until_as(world);
    println!("  refused, and nothing was deployed");

    scripts::deploy(world, &["--force"]);
    scripts::apply_users(world);
    space.apply(&[claim("disk"), pod("user", "disk")]);
    let volume = space.bound("disk", PROMPTLY);
    space.ready("user");
    space.sh("user", "echo here >/data/mark");

    let deployed = plugin(space);
    refused(space, &["--image", "example.com/another:v9"]);
    assert_eq!(plugin(space), deployed, "the DaemonSet that runs is as it was");
    println!("  an update is refused, and nothing was changed");

    space.delete(&["pod/user", "pvc/disk"]);
    // Its deletion takes the secret.
    space.kubectl.wait(GONE, &["--for=delete", &format!("pv/{volume}")]);
    scripts::remove_users(world);
    let text = scripts::try_teardown(world, &[]).expect_err("volumes are left");
    assert!(text.contains("volumes are left") && text.contains("volume e2e-encrypted"), "{text}");
    scripts::teardown(world, &["--keep-volumes"]);
    let names = UNSERVED.iter().map(|(name, _)| *name).chain(SERVED);
    names.for_each(|name| drop(space.kubectl.get(&["pv", name])));
    before.wait_until_as(world);
}

/// Every volume that cannot be served is listed with its reason and its claim, and no other.
fn refused(space: &Space, options: &[&str]) {
    let text = scripts::try_deploy(space.world, options).expect_err("plugin-deploy.sh goes on");
    for (name, why) in UNSERVED {
        let line = format!("| {name} ({why}), claim {}/of-{name}", space.name);
        assert!(text.lines().any(|said| said.trim() == line), "no line {line:?} in:\n{text}");
    }
    let foreign = SERVED.iter().find(|name| text.contains(**name));
    assert!(foreign.is_none(), "{foreign:?} is listed, too:\n{text}");
    for words in ["4 PersistentVolume(s)", "--force", "1 check(s) failed; nothing was changed"] {
        assert!(text.contains(words), "does not say {words:?}:\n{text}");
    }
}

fn plugin(space: &Space) -> Value {
    let plugin = space.world.kubectl.get(&["-n", DRIVER_NAMESPACE, "daemonset/csi-rbdplugin"]);
    json!([plugin["spec"], plugin["metadata"]["generation"]])
}

fn volumes(namespace: &str) -> Vec<Value> {
    let volume = |name: &str, attributes: Value| {
        let handle = format!("{name}-handle");
        let mut volume = static_volume(name, &handle, (namespace, &format!("of-{name}")));
        for (key, value) in attributes.as_object().unwrap() {
            volume["spec"]["csi"]["volumeAttributes"][key] = value.clone();
        }
        volume
    };
    let mut migrated = volume("e2e-migrated", json!({}));
    // As Kubernetes' translation of the in-tree driver names its volumes.
    migrated["spec"]["csi"]["volumeHandle"] =
        "mig_mons-b7f67366bb43f32e07d8a261a7840da9_image-e0b45b52-7e09-47d3-8f1b-806995fa4412_706f6f6c"
            .into();
    let mut foreign = volume("e2e-foreign", json!({ "encrypted": "true", "mounter": "rbd-nbd" }));
    foreign["spec"]["csi"]["driver"] = format!("not.{DRIVER}").into();
    vec![
        volume("e2e-encrypted", json!({ "encrypted": "true", "encryptionKMSID": "vault" })),
        volume("e2e-nbd", json!({ "mounter": "rbd-nbd", "tryOtherMounters": "true" })),
        migrated,
        in_tree(namespace),
        volume("e2e-plain", json!({ "encrypted": "false", "mounter": "rbd" })),
        foreign,
    ]
}

/// Made before CSI; Kubernetes asks this driver for it, and says so in the annotation.
fn in_tree(namespace: &str) -> Value {
    let name = "e2e-in-tree";
    json!({
        "apiVersion": "v1", "kind": "PersistentVolume",
        "metadata": { "name": name, "annotations": { "pv.kubernetes.io/migrated-to": DRIVER } },
        "spec": {
            "capacity": { "storage": "64Mi" }, "accessModes": ["ReadWriteOnce"],
            "persistentVolumeReclaimPolicy": "Retain", "storageClassName": "",
            "claimRef": { "namespace": namespace, "name": format!("of-{name}") },
            "rbd": { "image": "from-before", "pool": "rbd", "user": "kubernetes", "monitors": ["10.99.0.1:6789"] },
        },
    })
}
