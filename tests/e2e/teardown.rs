//! plugin-teardown.sh while there are volumes.

use super::deployment;
use super::objects::{DATA, claim, claim_of, pod, snapshot};
use super::run::Test;
use super::scripts;
use super::space::{GONE, PROMPTLY, Space};
use super::world::CLASS;

pub const TESTS: &[Test] = &[
    Test::new(
        "teardown_refused",
        "plugin-teardown.sh refuses while a volume is in use, names it, and harms nothing",
        refused,
    ),
    Test::new(
        "volumes_kept",
        "plugin-teardown.sh --keep-volumes, the driver deployed again: the volumes are used and deleted",
        kept,
    ),
    Test::new(
        "snapshots_kept",
        "plugin-teardown.sh refuses while a snapshot is left, names it, and keeps it on --keep-volumes",
        snapshots_kept,
    ),
];

fn refused(space: &Space) {
    space.apply(&[claim("disk"), pod("user", "disk")]);
    let volume = space.bound("disk", PROMPTLY);
    space.ready("user");
    let text = scripts::try_teardown(space.world, &[]).expect_err("a pod uses a volume");
    assert!(text.contains(&volume) && text.contains("user"), "names volume {volume} and pod user:\n{text}");
    space.sh("user", &format!("echo still >{DATA}/mark"));
    assert!(space.world.kubectl.try_get(&["storageclass", CLASS]).is_ok(), "the class is still there");
    // The driver is still there for it.
    space.delete(&["pod/user"]);
    let text = scripts::try_teardown(space.world, &[]).expect_err("there is a claim");
    assert!(text.contains(&volume) && text.contains("disk"), "names volume {volume} and its claim:\n{text}");
    space.apply(&[pod("user", "disk")]);
    space.ready("user");
}

/// The volume that it was taken of is gone: the snapshot alone is in the way.
fn snapshots_kept(space: &Space) {
    space.apply(&[claim("disk"), pod("writer", "disk")]);
    let volume = space.bound("disk", PROMPTLY);
    space.ready("writer");
    space.sh("writer", &format!("echo kept >{DATA}/mark; sync"));
    space.apply(&[snapshot("moment", "disk")]);
    let content = space.snapshot_ready("moment");
    space.delete(&["pod/writer", "pvc/disk"]);
    space.kubectl.wait(GONE, &["--for=delete", &format!("pv/{volume}")]);
    let text = scripts::try_teardown(space.world, &[]).expect_err("there is a snapshot");
    let line = format!("snapshot content {content} (Delete), of snapshot {}/moment", space.name);
    assert!(text.contains(&line) && text.contains("nothing was removed"), "no line {line:?} in:\n{text}");

    space.if_it_fails(|| deployment::deploy(space.world));
    scripts::teardown(space.world, &["--keep-volumes"]);
    deployment::deploy(space.world);
    space.apply(&[claim_of("restored", "VolumeSnapshot", "moment"), pod("reader", "restored")]);
    space.ready("reader");
    assert_eq!(space.sh("reader", &format!("cat {DATA}/mark")), "kept");
}

fn kept(space: &Space) {
    space.apply(&[claim("disk"), pod("user", "disk")]);
    space.bound("disk", PROMPTLY);
    space.ready("user");
    space.sh("user", &format!("echo kept >{DATA}/mark; sync"));
    space.delete(&["pod/user"]);
    space.if_it_fails(|| deployment::deploy(space.world));
    scripts::teardown(space.world, &["--keep-volumes"]);
    assert!(deployment::in_csinodes(space.world).is_err(), "no kubelet has a driver");
    deployment::deploy(space.world);
    space.apply(&[pod("user", "disk")]);
    space.ready("user");
    assert_eq!(space.sh("user", &format!("cat {DATA}/mark")), "kept");
}
