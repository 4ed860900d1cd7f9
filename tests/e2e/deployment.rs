//! The driver deployed and removed as a user does it: with the scripts of examples/rbd/.

use serde_json::Value;

use super::scripts::{self, CONFIG, USERS};
use super::wait::{seconds, until};
use super::world::{DRIVER, DRIVER_NAMESPACE, NODES, World, checkout};

/// What a user may apply before the driver, and removes after it.
const SETTINGS: &str = "examples/rbd/ceph-conf.yaml";
/// All files of examples/rbd/ that are applied here.
pub const FILES: [&str; 5] = [CONFIG, SETTINGS, USERS[0], USERS[1], USERS[2]];

/// Where the node plugin of our manifests has its metrics.
const METRICS_PORT: u16 = 8690;

/// Deploys the driver, the secret and the classes.
pub fn deploy(world: &World) {
    world.kubectl.apply_file(&checkout(SETTINGS));
    scripts::deploy(world, &[]);
    scripts::apply_users(world);
}

/// Waits until the plugins that run are known to their kubelets: says the kubelet in its
/// CSINode, and say they themselves, since a CSINode also keeps what was registered before.
pub fn wait_until_registered(world: &World) {
    until("the driver is registered on all nodes", seconds(90), || {
        in_csinodes(world)?;
        let pods = world.kubectl.try_items(&["pods", "-n", DRIVER_NAMESPACE, "-l", "app=csi-rbdplugin"])?;
        let names: Vec<&str> = pods.iter().filter_map(|pod| pod["metadata"]["name"].as_str()).collect();
        for name in &names {
            if !says_yes(world, name, METRICS_PORT, "rbd_csi_kubelet_registered")? {
                return Err(format!("{name} has not been registered"));
            }
        }
        if names.len() == NODES.len() { Ok(()) } else { Err(format!("there are {names:?}")) }
    });
}

/// The kubelets of all nodes know the driver.
pub fn in_csinodes(world: &World) -> Result<(), String> {
    let nodes = world.kubectl.try_items(&["csinodes"])?;
    let has = |node: &&Value| {
        node["spec"]["drivers"].as_array().is_some_and(|drivers| drivers.iter().any(|d| d["name"] == DRIVER))
    };
    let count = nodes.iter().filter(has).count();
    if count == NODES.len() { Ok(()) } else { Err(format!("{count} CSINodes have the driver")) }
}

/// Whether that metric of a pod of the driver is 1.
pub fn says_yes(world: &World, pod: &str, port: u16, metric: &str) -> Result<bool, String> {
    let path = format!("/api/v1/namespaces/{DRIVER_NAMESPACE}/pods/{pod}:{port}/proxy/metrics");
    let metrics = world.kubectl.try_run(&["get", "--raw", &path])?;
    let value = |line: &str| Some(line.strip_prefix(metric)?.trim_start_matches("{}").trim().to_owned());
    let value = metrics.lines().find_map(value);
    value.map(|value| value == "1").ok_or_else(|| format!("{pod} does not tell its {metric}"))
}

/// Removes what [`deploy`] made.
pub fn teardown(world: &World) {
    scripts::remove_users(world);
    scripts::teardown(world, &[]);
    world.kubectl.delete(seconds(30), &["-f", checkout(SETTINGS).to_str().unwrap()]);
}

/// The same after something failed, as far as it goes: what follows begins without a driver.
pub fn remove(world: &World) {
    scripts::remove_users(world);
    let all = ["--keep-volumes", "--purge-node-residue", "--keep-node-residue"];
    drop(scripts::try_teardown(world, &all));
    world.kubectl.delete(seconds(30), &["-f", checkout(SETTINGS).to_str().unwrap()]);
}
