//! Many claims and pods at once.

use std::time::Instant;

use super::objects::{DATA, claim, pod};
use super::run::Test;
use super::space::Space;
use super::wait::{seconds, until};
use super::world::{DRIVER_NAMESPACE, NODES};

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
        // The pod writes by itself and tells what it then reads: calls of exec, from here or
        // as probes, would be what takes the time.
        let script = format!("echo {i} >{DATA}/mark; sync; cat {DATA}/mark; while true; do sleep 3600; done");
        pod["spec"]["containers"][0]["command"] = serde_json::json!(["sh", "-c", script]);
        objects.extend([claim(&name(i)), pod]);
    }
    space.apply(&objects);
    space.kubectl.wait(LONG, &["--for=jsonpath={.status.phase}=Bound", "pvc", "--all"]);
    tell("all claims are bound");
    space.kubectl.wait(LONG, &["--for=condition=Ready", "pod", "--all"]);
    for i in 0..COUNT {
        until(&format!("{} has its own mark", name(i)), seconds(60), || {
            let log = space.kubectl.try_run(&["logs", &name(i)])?;
            if log == i.to_string() { Ok(()) } else { Err(format!("{log:?}")) }
        });
    }
    tell("all pods have written");
    memory(space);
    space.kubectl.delete(LONG, &["pods", "--all"]);
    tell("all pods are gone");
    space.kubectl.delete(LONG, &["pvc", "--all"]);
    space.kubectl.wait(LONG, &["--for=delete", "pv", "--all"]);
    tell("all volumes are gone");
}

/// Tells what the driver's containers take, by which their requests and limits are set.
fn memory(space: &Space) {
    for node in NODES {
        let summary = space.world.kubectl.get_raw(&format!("/api/v1/nodes/{node}/proxy/stats/summary"));
        let pods = summary["pods"].as_array().cloned().unwrap_or_default();
        for pod in pods.iter().filter(|pod| pod["podRef"]["namespace"] == DRIVER_NAMESPACE) {
            for container in pod["containers"].as_array().into_iter().flatten() {
                let mib =
                    container["memory"]["workingSetBytes"].as_f64().unwrap_or_default() / f64::from(1 << 20);
                println!("  {node}: {} of {}: {mib:.0} MiB", container["name"], pod["podRef"]["name"]);
            }
        }
    }
}
