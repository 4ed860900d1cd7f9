//! ceph-csi's place taken over: its deployment with another image, and a volume that was
//! made, attached, mapped and mounted before.
//!
//! Lives here: what is shown. The state of "before" is `dropin/before.rs`, the deployment
//! `dropin/deployed.rs` with the YAML of tests/e2e/ceph-csi/.
//!
//! What a reader gets wrong: no ceph-csi runs here. What it would have left is written by
//! hand from its formats, and the YAML from what its manifests have.

mod before;
mod deployed;

use super::objects::{DATA, claim_of, on, pod, snapshot};
use super::run::Test;
use super::space::{GONE, Space};
use super::wait::until;
use super::world::NODES;
use before::Before;

pub const TEST: Test = Test::new(
    "drop_in",
    "ceph-csi's deployment with our image serves what ceph-csi had made, attached and mounted",
    steps,
);

/// Steps: 1 what ceph-csi left, 2 its deployment with our image, 3 the driver's pods deleted,
/// 4 the volume used where it was mounted, with no second mapping, 5 a snapshot of it restored,
/// and it grown, 6 unstaged and detached, 7 used on the other node, 8 deleted, 9 the deployment
/// removed.
fn steps(space: &Space) {
    let world = space.world;
    let deployment = deployed::Deployment::prepare(world);
    let to_remove = deployment.clone();
    space.if_it_fails(move || to_remove.remove());
    let before = Before::make(space, NODES[0]);
    let attachment = before.attachment_uid(space);
    println!("  before: {}", before.volume);

    deployment.apply();
    deployment.restart_plugins();
    println!("  deployed, registered, restarted and registered again");

    space.apply(&[on(pod("user", before::CLAIM), NODES[0])]);
    space.ready("user");
    assert_eq!(space.sh("user", &format!("cat {DATA}/mark")), before::MARK);
    space.sh("user", &format!("echo after >{DATA}/after; sync"));
    assert_eq!(before.attachment_uid(space), attachment, "it is the attachment of before");
    assert_eq!(before.devices(world).join(" "), before.device, "the mapping of before, and no other");
    println!("  used where it was mounted before");

    restored_and_grown(space);
    println!("  a snapshot of it restored, and it grown");

    space.delete(&["pod/user"]);
    until("the volume is unstaged", GONE, || {
        let left = before.left_on_node(world);
        if left.is_empty() { Ok(()) } else { Err(left) }
    });
    space.kubectl.wait(GONE, &["--for=delete", &format!("volumeattachment/{}", before.attachment)]);
    println!("  unstaged and detached");

    space.apply(&[on(pod("elsewhere", before::CLAIM), NODES[1])]);
    space.ready("elsewhere");
    assert_eq!(
        space.sh("elsewhere", &format!("cat {DATA}/mark {DATA}/after")),
        format!("{}\nafter", before::MARK)
    );
    space.delete(&["pod/elsewhere", &format!("pvc/{}", before::CLAIM)]);
    space.kubectl.wait(GONE, &["--for=delete", &format!("pv/{}", before.volume)]);
    before.is_gone_from_ceph(world);
    println!("  used on the other node, and deleted");
    deployment.runs_quietly();
    deployment.remove();
}

/// By ceph-csi's own csi-snapshotter, csi-provisioner and csi-resizer.
fn restored_and_grown(space: &Space) {
    space.apply(&[snapshot("moment", before::CLAIM)]);
    space.snapshot_ready("moment");
    space.apply(&[claim_of("restored", "VolumeSnapshot", "moment")]);
    space.apply(&[on(pod("restored", "restored"), NODES[1])]);
    space.ready("restored");
    assert_eq!(space.sh("restored", &format!("cat {DATA}/mark")), before::MARK);
    space.grow(before::CLAIM, "128Mi");
    let size = space.sh("user", &format!("df -m {DATA} | tail -n 1 | awk '{{ print $2 }}'"));
    assert!(size.trim().parse::<u32>().unwrap() > 100, "of 128 MiB: {size}");
    space.delete(&["pod/restored", "pvc/restored", "volumesnapshot/moment"]);
}
