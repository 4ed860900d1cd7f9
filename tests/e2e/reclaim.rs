//! What becomes of the image when its claim is deleted.

use serde_json::json;

use super::objects::{DATA, claim, claim_with, class, pod};
use super::run::Test;
use super::space::{GONE, PROMPTLY, Space};
use super::support::pool::images;
use super::world::POOL;

pub const TESTS: &[Test] = &[
    Test::new("reclaim_delete", "reclaim policy Delete: the image goes with its claim", deleted),
    Test::new(
        "reclaim_retain",
        "reclaim policy Retain: volume and data stay, can be bound again, and deleted",
        kept,
    ),
];

fn deleted(space: &Space) {
    space.apply(&[claim("disk")]);
    let volume = space.bound("disk", PROMPTLY);
    let image = space.image_of(&volume);
    assert!(images(space.world.cluster(), POOL).contains(&image));
    space.delete(&["pvc/disk"]);
    space.kubectl.wait(GONE, &["--for=delete", &format!("pv/{volume}")]);
    assert!(!images(space.world.cluster(), POOL).contains(&image));
}

fn kept(space: &Space) {
    let mut class = class("e2e-retain", &[]);
    class["reclaimPolicy"] = "Retain".into();
    space.apply_wide(&[class]);
    space.apply(&[claim_with("disk", "storageClassName", "e2e-retain".into()), pod("writer", "disk")]);
    let volume = space.bound("disk", PROMPTLY);
    let image = space.image_of(&volume);
    space.ready("writer");
    space.sh("writer", &format!("echo kept >{DATA}/mark; sync"));
    space.delete(&["pod/writer", "pvc/disk"]);
    let released = ["--for=jsonpath={.status.phase}=Released", &format!("pv/{volume}")];
    space.kubectl.wait(GONE, &released);
    assert!(images(space.world.cluster(), POOL).contains(&image));

    // An administrator gives it to a new claim.
    space.kubectl.run(&[
        "patch",
        "pv",
        &volume,
        "--type=json",
        "-p",
        r#"[{"op":"remove","path":"/spec/claimRef"}]"#,
    ]);
    let mut again = claim_with("again", "storageClassName", "e2e-retain".into());
    again["spec"]["volumeName"] = json!(volume);
    space.apply(&[again, pod("reader", "again")]);
    space.ready("reader");
    assert_eq!(space.sh("reader", &format!("cat {DATA}/mark")), "kept");
    space.delete(&["pod/reader", "pvc/again"]);
    space.kubectl.wait(GONE, &released);

    // … and has it deleted.
    let policy = r#"{"spec":{"persistentVolumeReclaimPolicy":"Delete"}}"#;
    space.kubectl.run(&["patch", "pv", &volume, "-p", policy]);
    space.kubectl.wait(GONE, &["--for=delete", &format!("pv/{volume}")]);
    assert!(!images(space.world.cluster(), POOL).contains(&image));
}
