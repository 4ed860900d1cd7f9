//! Many claims and pods at once.

use std::time::Instant;

use super::objects::{DATA, claim, pod};
use super::run::Test;
use super::space::Space;
use super::wait::seconds;

pub const TESTS: &[Test] =
    &[Test::new("fifty", "50 claims and pods at once, each with its own data, and all gone after", fifty)];

const COUNT: usize = 50;
/// Two kernels of one CPU each start all these containers.
const LONG: std::time::Duration = seconds(900);

fn fifty(space: &Space) {
    let started = Instant::now();
    let tell = |what: &str| println!("  {:5.0} s  {what}", started.elapsed().as_secs_f64());
    let name = |i: usize| format!("n{i}");
    let mut objects = Vec::new();
    for i in 0..COUNT {
        let mut pod = pod(&name(i), &name(i));
        // The pod writes by itself: 50 calls of exec would be what takes the time.
        let script =
            format!("echo {i} >{DATA}/mark; sync; touch /tmp/written; while true; do sleep 3600; done");
        pod["spec"]["containers"][0]["command"] = serde_json::json!(["sh", "-c", script]);
        pod["spec"]["containers"][0]["readinessProbe"] = serde_json::json!({
            "exec": { "command": ["cat", "/tmp/written"] }, "periodSeconds": 2,
        });
        objects.extend([claim(&name(i)), pod]);
    }
    space.apply(&objects);
    space.kubectl.wait(LONG, &["--for=jsonpath={.status.phase}=Bound", "pvc", "--all"]);
    tell("all claims are bound");
    space.kubectl.wait(LONG, &["--for=condition=Ready", "pod", "--all"]);
    tell("all pods write");
    for i in (0..COUNT).step_by(7) {
        assert_eq!(space.sh(&name(i), &format!("cat {DATA}/mark")), i.to_string());
    }
    space.kubectl.delete(LONG, &["pods", "--all"]);
    tell("all pods are gone");
    space.kubectl.delete(LONG, &["pvc", "--all"]);
    space.kubectl.wait(LONG, &["--for=delete", "pv", "--all"]);
    tell("all volumes are gone");
}
