//! What a user gets to see when something is configured wrongly: the event names the thing
//! and tells what to do.

use serde_json::json;

use super::objects::{claim_with, class, on, pod};
use super::run::Test;
use super::space::{PROMPTLY, Space};
use super::wait::seconds;
use super::world::{NODES, POOL};

pub const TESTS: &[Test] = &[
    Test::new(
        "missing_pool",
        "a claim of a pool that is not there: the event tells what to do",
        missing_pool,
    ),
    Test::new(
        "wrong_key",
        "a wrong key, in the controller and on the node: the events tell what to do",
        wrong_key,
    ),
    Test::new(
        "missing_secret",
        "a class that names no secret that exists: the event says which",
        missing_secret,
    ),
];

/// An event comes with the first try.
const SOON: std::time::Duration = seconds(60);

fn claim_of(name: &str, class: &str) -> serde_json::Value {
    claim_with(name, "storageClassName", class.into())
}

fn missing_pool(space: &Space) {
    space.apply_wide(&[class("e2e-no-pool", &[("pool", "nowhere")])]);
    space.apply(&[claim_of("disk", "e2e-no-pool")]);
    let text = space.event("disk", &["pool nowhere does not exist", "create it", "StorageClass"], SOON);
    println!("  {text}");
    // The pool is there now, but the user of the examples may use the examples' pool only.
    let cluster = space.world.cluster();
    cluster.ceph(&["osd", "pool", "create", "nowhere", "8"]);
    cluster.rbd(&["pool", "init", "nowhere"]);
    space.apply(&[claim_of("again", "e2e-no-pool")]);
    let text = space.event("again", &["nowhere", "Operation not permitted"], SOON);
    println!("  {text}");
    space.delete(&["pvc/disk", "pvc/again"]);
    cluster.ceph(&["osd", "pool", "rm", "nowhere", "nowhere", "--yes-i-really-really-mean-it"]);
    for words in ["client.kubernetes", "caps"] {
        assert!(
            text.contains(words),
            "the event does not say {words:?}, which would tell what to do: {text}"
        );
    }
}

/// A key of the right form that the cluster does not know.
const WRONG_KEY: &str = "AQAAZu5fAAAAABAAbm90LXRoaXMtY2x1c3Rlcg==";

fn wrong_key(space: &Space) {
    let secret = json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": { "name": "wrong" },
        "stringData": { "userID": "kubernetes", "userKey": WRONG_KEY },
    });
    let name = |what: &str| format!("csi.storage.k8s.io/{what}-secret-name");
    let namespace = |what: &str| format!("csi.storage.k8s.io/{what}-secret-namespace");
    let wrong_in = |class_name: &str, what: &str| {
        class(class_name, &[(&name(what), "wrong"), (&namespace(what), &space.name)])
    };
    space.apply(&[secret]);
    space.apply_wide(&[
        wrong_in("e2e-wrong-key", "provisioner"),
        wrong_in("e2e-wrong-node-key", "node-stage"),
    ]);

    space.apply(&[claim_of("disk", "e2e-wrong-key")]);
    let text = space.event("disk", &["cannot connect"], SOON);
    println!("  {text}");
    tells_of_the_key(&text);
    space.delete(&["pvc/disk"]);

    space.apply(&[claim_of("disk", "e2e-wrong-node-key"), on(pod("user", "disk"), NODES[0])]);
    space.bound("disk", PROMPTLY);
    let text = space.event("user", &["MountVolume.MountDevice failed", "cannot connect"], seconds(120));
    println!("  {text}");
    tells_of_the_key(&text);
}

/// Who was refused and what to compare; never the key.
fn tells_of_the_key(text: &str) {
    assert!(text.contains("client.kubernetes") && text.contains("with this key"), "{text}");
    assert!(!text.contains(WRONG_KEY), "{text}");
}

fn missing_secret(space: &Space) {
    let name = "csi.storage.k8s.io/provisioner-secret-name";
    space.apply_wide(&[class("e2e-no-secret", &[(name, "not-there"), ("pool", POOL)])]);
    space.apply(&[claim_of("disk", "e2e-no-secret")]);
    let text = space.event("disk", &["not-there"], SOON);
    println!("  {text}");
}
