//! A volume through its pods: deleted and made again, moved, raw, ephemeral, made by hand.

use serde_json::json;

use super::ceph;
use super::objects::{DATA, DISK, block_pod, claim, claim_with, on, pod, static_volume};
use super::run::Test;
use super::space::{GONE, PROMPTLY, Space};
use super::wait::until;
use super::world::{CLASS, NODES, POOL};

pub const TESTS: &[Test] = &[
    Test::new("same_node", "a pod deleted and made again at once on its node, 20 times", same_node),
    Test::new("moved", "a pod on one node, on the other, and back, each time with its data", moved),
    Test::new("raw_block", "a raw device written on one node and read on the other", raw_block),
    Test::new("ephemeral", "a generic ephemeral volume comes and goes with its pod", ephemeral),
    Test::new("static_volume", "an image made by hand: used, and still there afterwards", static_image),
];

const ROUNDS: u32 = 20;

/// Every other time by force: the new pod then starts while the old one's volume is still
/// being unmounted.
fn same_node(space: &Space) {
    space.apply(&[claim("disk")]);
    space.bound("disk", PROMPTLY);
    let pod = on(pod("writer", "disk"), NODES[0]);
    let mut slowest = std::time::Duration::ZERO;
    for round in 1..=ROUNDS {
        space.kubectl.create(std::slice::from_ref(&pod));
        slowest = slowest.max(space.ready("writer"));
        let count = space.sh("writer", &format!("echo round >>{DATA}/log; sync; wc -l <{DATA}/log"));
        assert_eq!(count.trim(), round.to_string(), "each round finds the lines of those before");
        if round % 2 == 0 {
            space.kubectl.delete(GONE, &["pod", "writer", "--force", "--grace-period=0"]);
        } else {
            space.delete(&["pod/writer"]);
        }
    }
    println!("  the slowest of {ROUNDS} starts took {:.1} s", slowest.as_secs_f64());
}

fn moved(space: &Space) {
    space.apply(&[claim("disk")]);
    let mut written = String::new();
    for node in [NODES[0], NODES[1], NODES[0]] {
        space.apply(&[on(pod("traveller", "disk"), node)]);
        let time = space.ready("traveller");
        assert_eq!(space.sh("traveller", &format!("cat {DATA}/log 2>/dev/null || true")), written.trim_end());
        written += &format!("{node}\n");
        space.sh("traveller", &format!("echo {node} >>{DATA}/log; sync"));
        space.delete(&["pod/traveller"]);
        println!("  ready on {node} after {:.1} s", time.as_secs_f64());
    }
}

fn raw_block(space: &Space) {
    space.apply(&[claim_with("disk", "volumeMode", "Block".into())]);
    space.apply(&[on(block_pod("writer", "disk"), NODES[0])]);
    space.ready("writer");
    // 64 MiB, as claimed, and something at both of its ends.
    let script = format!(
        "[ $(blockdev --getsize64 {DISK}) = 67108864 ]
         echo head | dd of={DISK} bs=512 count=1 conv=sync,notrunc,fsync
         echo tail | dd of={DISK} bs=512 count=1 seek=131071 conv=sync,notrunc,fsync"
    );
    space.sh("writer", &script);
    space.delete(&["pod/writer"]);
    space.apply(&[on(block_pod("reader", "disk"), NODES[1])]);
    space.ready("reader");
    assert_eq!(space.sh("reader", &format!("dd if={DISK} bs=512 count=1 2>/dev/null | tr -d '\\0'")), "head");
    let tail = format!("dd if={DISK} bs=512 skip=131071 2>/dev/null | tr -d '\\0'");
    assert_eq!(space.sh("reader", &tail), "tail");
    let behind = format!("dd if={DISK} bs=512 skip=131072 2>/dev/null | wc -c");
    assert_eq!(space.sh("reader", &behind), "0", "behind it the device ends");
}

fn ephemeral(space: &Space) {
    let mut pod = pod("short-lived", "none");
    pod["spec"]["volumes"] = json!([{ "name": "data", "ephemeral": { "volumeClaimTemplate": {
        "spec": claim_with("none", "storageClassName", CLASS.into())["spec"],
    } } }]);
    space.apply(&[pod]);
    space.ready("short-lived");
    space.sh("short-lived", &format!("echo here >{DATA}/mark"));
    let volume = space.bound("short-lived-data", PROMPTLY);
    space.delete(&["pod/short-lived"]);
    space.kubectl.wait(GONE, &["--for=delete", "pvc/short-lived-data"]);
    space.kubectl.wait(GONE, &["--for=delete", &format!("pv/{volume}")]);
}

fn static_image(space: &Space) {
    let image = "made-by-hand";
    let spec = format!("{POOL}/{image}");
    ceph::make_image(space.world, &spec, 64);
    space.apply_wide(&[static_volume("e2e-static", image, (&space.name, "disk"))]);
    let mut claim = claim_with("disk", "storageClassName", "".into());
    claim["spec"]["volumeName"] = "e2e-static".into();
    space.apply(&[claim]);
    space.bound("disk", PROMPTLY);
    for (node, text) in [(NODES[0], ""), (NODES[1], "kept")] {
        space.apply(&[on(pod("user", "disk"), node)]);
        space.ready("user");
        assert_eq!(space.sh("user", &format!("cat {DATA}/mark 2>/dev/null || true")), text);
        space.sh("user", &format!("echo kept >{DATA}/mark; sync"));
        space.delete(&["pod/user"]);
    }
    space.delete(&["pvc/disk", "pv/e2e-static"]);
    assert!(space.world.cluster().rbd(&["ls", POOL]).contains(image), "nobody deletes a static image");
    until("nobody has the image open", GONE, || {
        let status = space.world.cluster().rbd(&["status", &spec]);
        if status.contains("Watchers: none") { Ok(()) } else { Err(status) }
    });
    ceph::remove_image(space.world, &spec);
}
