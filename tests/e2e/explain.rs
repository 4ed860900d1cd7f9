//! What a person would look at when a test failed: the objects, the events, the logs.
//!
//! What a reader gets wrong: nothing here may fail; what cannot be had is told as such.

use std::fmt::Write as _;

use super::space::Space;
use super::support::bench::last_lines;
use super::world::{DRIVER_NAMESPACE, NODES, World};

/// Lines of each log.
const TAIL: &str = "40";

pub fn explain(world: &World, space: Option<&Space>) -> String {
    let mut text = String::new();
    if let Some(space) = space {
        for arguments in [
            &["get", "pods,pvc,statefulsets,volumesnapshots", "-o", "wide"][..],
            &["describe", "pods,pvc,volumesnapshots"],
            &["events", "--types=Warning"],
        ] {
            section(&mut text, arguments, space.kubectl.try_run(arguments));
        }
    }
    for arguments in [
        &["get", "nodes,csinodes", "-o", "wide"][..],
        &[
            "get",
            "pv,volumeattachments,storageclasses,volumesnapshotcontents,volumesnapshotclasses",
            "-o",
            "wide",
        ],
        &["describe", "volumeattachments,volumesnapshotcontents"],
        &["get", "pods,deployments,daemonsets", "-o", "wide"],
    ] {
        section(&mut text, arguments, world.kubectl.try_run(arguments));
    }
    let events = ["get", "events", "--sort-by=.lastTimestamp"];
    section(&mut text, &events, world.kubectl.try_run(&events).map(|all| last_lines(&all, 15)));
    logs(world, &mut text);
    for name in NODES {
        let line = "ls /sys/bus/rbd/devices; grep /dev/rbd /proc/self/mountinfo; dmesg | tail -15";
        let seen = world.node(name).command(&["timeout", "20", "sh", "-c", line]).output();
        let seen = seen.map_or_else(
            |error| error.to_string(),
            |output| String::from_utf8_lossy(&output.stdout).into_owned(),
        );
        let _ = writeln!(text, "-- {name}: devices, mounts, kernel\n{seen}");
    }
    text
}

fn section(text: &mut String, arguments: &[&str], answer: Result<String, String>) {
    let _ = writeln!(text, "-- kubectl {}\n{}", arguments.join(" "), answer.unwrap_or_else(|error| error));
}

/// The ends of the logs of driver and sidecars, and of containers that ended before.
fn logs(world: &World, text: &mut String) {
    let pods = world.kubectl.try_items(&["pods", "-n", DRIVER_NAMESPACE]).unwrap_or_default();
    for pod in pods {
        let name = pod["metadata"]["name"].as_str().unwrap_or_default();
        if !name.starts_with("csi-") {
            continue;
        }
        let statuses = pod["status"]["containerStatuses"].as_array().cloned().unwrap_or_default();
        for status in statuses {
            let container = status["name"].as_str().unwrap_or_default();
            let mut arguments = vec!["logs", "-n", DRIVER_NAMESPACE, name, "-c", container, "--tail", TAIL];
            section(text, &arguments, world.kubectl.try_run(&arguments));
            if status["restartCount"].as_u64().is_some_and(|count| count > 0) {
                arguments.push("--previous");
                section(text, &arguments, world.kubectl.try_run(&arguments));
            }
        }
    }
}
