//! Snapshots, restored claims, clones and growth, through their objects in Kubernetes.
//!
//! What a reader gets wrong: a snapshot has what is on the volume. What a pod has written is there
//! from its `sync` on, and without one when the node's kernel comes to it.

use serde_json::{Value, json};

use super::objects::{
    DATA, DISK, block_pod, claim, claim_of, claim_with, class, on, pod, sized, snapshot, ticking_pod,
};
use super::run::Test;
use super::space::{GONE, POD, PROMPTLY, Space};
use super::support::pool;
use super::wait::until;
use super::world::{DRIVER, DRIVER_NAMESPACE, NODES, POOL, SNAPSHOT_CLASS};

pub const TESTS: &[Test] = &[
    Test::new(
        "restored",
        "a snapshot under a writer, restored larger on the other node, its source gone",
        restored,
    ),
    Test::new(
        "cloned",
        "an xfs claim in use cloned, both mounted on one node, the source deleted first",
        cloned,
    ),
    Test::new(
        "before_first_use",
        "a claim without a file system yet: its snapshot and clone get one each",
        before_first_use,
    ),
    Test::new(
        "grown",
        "a file system grown under its writer, then without a pod; a raw device under its pod",
        grown,
    ),
    Test::new(
        "read_by_all",
        "a ReadOnlyMany claim of a snapshot: read on both nodes, written on none",
        read_by_all,
    ),
    Test::new(
        "brought_back",
        "a snapshot kept by Retain, brought back by its handle, restored and deleted",
        brought_back,
    ),
];

const MARK: &str = "cat /data/mark";

fn write(space: &Space, pod: &str, text: &str) {
    space.sh(pod, &format!("echo {text} >>{DATA}/mark; sync"));
}

/// The size of a pod's file system, in MiB.
fn size_of(space: &Space, pod: &str) -> u64 {
    let text = space.sh(pod, &format!("df -m {DATA} | tail -n 1 | awk '{{ print $2 }}'"));
    text.trim().parse().unwrap_or_else(|_| panic!("a number of MiB: {text:?}"))
}

/// Steps: 1 a snapshot of what is written, 2 restored while the source is written to, 3 the
/// source deleted, 4 restored again, 5 the snapshot deleted before what was restored of it.
fn restored(space: &Space) {
    space.apply(&[claim("disk"), on(pod("writer", "disk"), NODES[0])]);
    let source = space.bound("disk", PROMPTLY);
    space.ready("writer");
    write(space, "writer", "before");
    space.apply(&[snapshot("moment", "disk")]);
    space.snapshot_ready("moment");
    write(space, "writer", "after");

    let larger = sized(claim_of("larger", "VolumeSnapshot", "moment"), "128Mi");
    space.apply(&[larger, on(pod("larger", "larger"), NODES[1])]);
    space.ready("larger");
    assert_eq!(space.sh("larger", MARK), "before");
    assert_eq!(space.sh("writer", MARK), "before\nafter");
    let (small, large) = (size_of(space, "writer"), size_of(space, "larger"));
    assert!(large > small + 40, "of 64 MiB it has {small}, of 128 MiB {large}");
    println!("  restored larger beside its source");

    space.delete(&["pod/writer", "pvc/disk"]);
    space.kubectl.wait(GONE, &["--for=delete", &format!("pv/{source}")]);
    space.apply(&[claim_of("again", "VolumeSnapshot", "moment"), on(pod("again", "again"), NODES[0])]);
    space.ready("again");
    assert_eq!(space.sh("again", MARK), "before");
    space.delete(&["volumesnapshot/moment"]);
    write(space, "again", "more");
    write(space, "larger", "more");
    println!("  restored without its source, used without the snapshot");
}

/// Two file systems of one uuid on a node: xfs refuses that unless it is told.
fn cloned(space: &Space) {
    let of_class = |claim: Value| {
        let mut claim = sized(claim, "512Mi");
        claim["spec"]["storageClassName"] = "e2e-cloned".into();
        claim
    };
    space.apply_wide(&[class("e2e-cloned", &[("csi.storage.k8s.io/fstype", "xfs")])]);
    space.apply(&[of_class(claim("disk")), on(pod("writer", "disk"), NODES[0])]);
    let source = space.bound("disk", PROMPTLY);
    space.ready("writer");
    write(space, "writer", "before");
    space.apply(&[of_class(claim_of("clone", "PersistentVolumeClaim", "disk"))]);
    space.bound("clone", PROMPTLY);
    write(space, "writer", "after");
    space.apply(&[on(pod("beside", "clone"), NODES[0])]);
    space.ready("beside");
    assert_eq!(space.sh("beside", MARK), "before");
    space.delete(&["pod/beside", "pod/writer", "pvc/disk"]);
    space.kubectl.wait(GONE, &["--for=delete", &format!("pv/{source}")]);
    space.apply(&[on(pod("elsewhere", "clone"), NODES[1])]);
    space.ready("elsewhere");
    assert_eq!(space.sh("elsewhere", MARK), "before");
}

fn before_first_use(space: &Space) {
    space.apply(&[claim("disk")]);
    space.bound("disk", PROMPTLY);
    space.apply(&[snapshot("blank", "disk")]);
    space.snapshot_ready("blank");
    space.apply(&[claim_of("restored", "VolumeSnapshot", "blank")]);
    space.apply(&[claim_of("clone", "PersistentVolumeClaim", "disk")]);
    let names = ["disk", "restored", "clone"];
    names.iter().for_each(|name| space.apply(&[pod(name, name)]));
    for name in names {
        space.ready(name);
        write(space, name, name);
        assert_eq!(space.sh(name, MARK), name, "each has a file system of its own");
    }
}

/// Without a pod the file system grows when one comes, and until then the claim says so.
fn grown(space: &Space) {
    space.apply(&[claim("disk"), ticking_pod("writer", "disk")]);
    space.ready("writer");
    let before = size_of(space, "writer");
    let took = space.grow("disk", "128Mi");
    let after = size_of(space, "writer");
    assert!(after > before + 40, "of 64 MiB it had {before}, of 128 MiB it has {after}");
    println!("  under its writer in {:.1} s", took.as_secs_f64());
    space.delete(&["pod/writer"]);

    let asked = r#"{"spec":{"resources":{"requests":{"storage":"256Mi"}}}}"#;
    space.kubectl.run(&["patch", "pvc", "disk", "--type=merge", "-p", asked]);
    space.kubectl.wait(POD, &["--for=condition=FileSystemResizePending", "pvc/disk"]);
    space.apply(&[pod("user", "disk")]);
    space.ready("user");
    space.grown("disk", "256Mi");
    let last = size_of(space, "user");
    assert!(last > after + 80, "of 128 MiB it had {after}, of 256 MiB it has {last}");
    space.sh("user", &format!("test -s {DATA}/ticks"));

    space.apply(&[claim_with("raw", "volumeMode", "Block".into()), block_pod("raw", "raw")]);
    space.ready("raw");
    space.grow("raw", "128Mi");
    until("the pod sees its larger device", POD, || {
        let size = space.try_sh("raw", &format!("blockdev --getsize64 {DISK}"))?;
        if size.trim() == "134217728" { Ok(()) } else { Err(size) }
    });
}

fn read_by_all(space: &Space) {
    space.apply(&[claim("disk"), pod("writer", "disk")]);
    space.ready("writer");
    write(space, "writer", "before");
    space.apply(&[snapshot("moment", "disk")]);
    space.snapshot_ready("moment");
    let mut shared = claim_of("shared", "VolumeSnapshot", "moment");
    shared["spec"]["accessModes"] = json!(["ReadOnlyMany"]);
    space.apply(&[shared]);
    for node in NODES {
        let mut reader = on(pod(node, "shared"), node);
        reader["spec"]["volumes"][0]["persistentVolumeClaim"]["readOnly"] = true.into();
        space.apply(&[reader]);
    }
    for node in NODES {
        space.ready(node);
        assert_eq!(space.sh(node, MARK), "before");
        let refused = space.try_sh(node, &format!("echo more >>{DATA}/mark")).unwrap_err();
        assert!(refused.contains("Read-only file system"), "{refused}");
    }
}

/// As docs/snapshots.md tells it. Steps: 1 a snapshot, kept although its objects are deleted, 2
/// objects for it, made by hand from its handle, 3 restored, 4 deleted with them.
fn brought_back(space: &Space) {
    space.apply(&[claim("disk"), pod("writer", "disk")]);
    space.ready("writer");
    write(space, "writer", "before");
    space.apply(&[snapshot("moment", "disk")]);
    let content = space.snapshot_ready("moment");
    let handle = space.kubectl.get(&["volumesnapshotcontent", &content])["status"]["snapshotHandle"].take();
    let retain = r#"{"spec":{"deletionPolicy":"Retain"}}"#;
    space.kubectl.run(&["patch", "volumesnapshotcontent", &content, "--type=merge", "-p", retain]);
    space.delete(&["volumesnapshot/moment", &format!("volumesnapshotcontent/{content}")]);
    let image = format!("csi-snap-{}", &handle.as_str().unwrap()[handle.as_str().unwrap().len() - 36..]);
    let images = pool::images(space.world.cluster(), POOL);
    assert!(images.contains(&image), "it is kept: no {image} among {images:?}");

    space.apply_wide(&[kept_content(space, &handle)]);
    space.apply(&[json!({
        "apiVersion": "snapshot.storage.k8s.io/v1", "kind": "VolumeSnapshot", "metadata": { "name": "kept" },
        "spec": {
            "volumeSnapshotClassName": SNAPSHOT_CLASS, "source": { "volumeSnapshotContentName": "e2e-kept" },
        },
    })]);
    space.snapshot_ready("kept");
    space.apply(&[claim_of("restored", "VolumeSnapshot", "kept"), pod("reader", "restored")]);
    space.ready("reader");
    assert_eq!(space.sh("reader", MARK), "before");
    space.delete(&["pod/reader", "pvc/restored", "volumesnapshot/kept"]);
    space.kubectl.wait(GONE, &["--for=delete", "volumesnapshotcontent/e2e-kept"]);
}

/// The secret for its deletion, which Kubernetes notes on contents that it makes itself.
fn kept_content(space: &Space, handle: &Value) -> Value {
    json!({
        "apiVersion": "snapshot.storage.k8s.io/v1", "kind": "VolumeSnapshotContent",
        "metadata": { "name": "e2e-kept", "annotations": {
            "snapshot.storage.kubernetes.io/deletion-secret-name": "csi-rbd-secret",
            "snapshot.storage.kubernetes.io/deletion-secret-namespace": DRIVER_NAMESPACE,
        } },
        "spec": {
            "deletionPolicy": "Delete", "driver": DRIVER, "volumeSnapshotClassName": SNAPSHOT_CLASS,
            "source": { "snapshotHandle": handle },
            "volumeSnapshotRef": { "name": "kept", "namespace": space.name },
        },
    })
}
