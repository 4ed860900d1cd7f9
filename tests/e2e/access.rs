//! Who may use a volume, how, and as whom.

use serde_json::json;

use super::objects::{DATA, claim, claim_with, on, pod};
use super::run::Test;
use super::space::{PROMPTLY, Space};
use super::wait::{seconds, until};
use super::world::NODES;

pub const TESTS: &[Test] = &[
    Test::new("shared_claim", "two pods on one node share a ReadWriteOnce claim", shared_claim),
    Test::new(
        "one_pod_only",
        "a ReadWriteOncePod claim is refused to a second pod until the first has gone",
        one_pod,
    ),
    Test::new("fs_group", "fsGroup: a user that is not root writes, and its files have the group", fs_group),
    Test::new("read_only", "a read-only mount shows the data and takes no write", read_only),
];

fn shared_claim(space: &Space) {
    space.apply(&[claim("disk"), on(pod("first", "disk"), NODES[0]), on(pod("second", "disk"), NODES[0])]);
    space.ready("first");
    space.ready("second");
    space.sh("first", &format!("echo from-first >{DATA}/mark"));
    assert_eq!(space.sh("second", &format!("cat {DATA}/mark")), "from-first");
    space.delete(&["pod/first"]);
    // What the first one's end must not take away.
    space.sh("second", &format!("echo from-second >>{DATA}/mark; sync"));
    assert_eq!(space.sh("second", &format!("cat {DATA}/mark")), "from-first\nfrom-second");
    space.delete(&["pod/second"]);
}

/// Refused twice over: by the scheduler, and by the kubelet where a pod names its node itself.
fn one_pod(space: &Space) {
    space.apply(&[claim_with("disk", "accessModes", json!(["ReadWriteOncePod"]))]);
    space.apply(&[on(pod("first", "disk"), NODES[0])]);
    space.ready("first");
    space.apply(&[pod("second", "disk")]);
    space.event("second", &["ReadWriteOncePod"], seconds(30));
    let mut third = pod("third", "disk");
    third["spec"]["nodeName"] = NODES[0].into();
    space.apply(&[third]);
    space.event("third", &["ReadWriteOncePod"], seconds(60));
    let phase = |name: &str| space.kubectl.get(&["pod", name])["status"]["phase"].clone();
    assert_eq!((phase("second"), phase("third")), ("Pending".into(), "Pending".into()));
    space.delete(&["pod/third"]);
    space.delete(&["pod/first"]);
    space.ready("second");
}

fn fs_group(space: &Space) {
    let mut user = pod("user", "disk");
    user["spec"]["securityContext"] = json!({ "runAsUser": 1234, "runAsGroup": 1234, "fsGroup": 5678 });
    space.apply(&[claim("disk"), user]);
    space.ready("user");
    space.sh("user", &format!("echo mine >{DATA}/mark; mkdir {DATA}/folder"));
    assert_eq!(space.sh("user", &format!("stat -c '%u %g' {DATA}/mark")), "1234 5678");
    assert_eq!(space.sh("user", &format!("stat -c '%g %a' {DATA}")), "5678 2775");
}

fn read_only(space: &Space) {
    space.apply(&[claim("disk"), pod("writer", "disk")]);
    space.ready("writer");
    space.sh("writer", &format!("echo data >{DATA}/mark; sync"));
    space.delete(&["pod/writer"]);
    let mut reader = pod("reader", "disk");
    reader["spec"]["volumes"][0]["persistentVolumeClaim"]["readOnly"] = true.into();
    space.apply(&[reader]);
    space.ready("reader");
    assert_eq!(space.sh("reader", &format!("cat {DATA}/mark")), "data");
    let refused = space.try_sh("reader", &format!("echo more >>{DATA}/mark")).unwrap_err();
    assert!(refused.contains("Read-only file system"), "{refused}");
    space.delete(&["pod/reader"]);
    // And afterwards it can be written again.
    space.apply(&[pod("writer", "disk")]);
    space.ready("writer");
    until("the volume is writable again", PROMPTLY, || {
        space.try_sh("writer", &format!("echo more >>{DATA}/mark")).map(drop)
    });
}
