//! The driver deployed and removed as a user does it: with the scripts of examples/rbd/.

use serde_json::Value;

use super::support::lab::succeed;
use super::wait::{seconds, until};
use super::world::{CLASS, DRIVER, DRIVER_NAMESPACE, NODES, World, checkout};

const DEPLOY: &str = "examples/rbd/plugin-deploy.sh";
const TEARDOWN: &str = "examples/rbd/plugin-teardown.sh";
/// What a user fills in for the cluster. As it stands it is the lab's.
const CONFIG: &str = "examples/rbd/csi-config-map-sample.yaml";
/// What a user may apply before the driver, and removes after it.
const SETTINGS: &str = "examples/rbd/ceph-conf.yaml";
/// What a user applies after the driver and takes away before it goes.
pub const USERS: [&str; 2] = ["examples/rbd/secret.yaml", "examples/rbd/storageclass.yaml"];
/// All files of examples/rbd/ that are applied here.
pub const FILES: [&str; 4] = [CONFIG, SETTINGS, USERS[0], USERS[1]];

/// Where the node plugin of our manifests has its metrics.
const METRICS_PORT: u16 = 8690;

/// Deploys the driver, the secret and the class.
pub fn deploy(world: &World) {
    world.kubectl.apply_file(&checkout(SETTINGS));
    deploy_with(world, &["--config", checkout(CONFIG).to_str().unwrap()]);
    for file in USERS {
        world.kubectl.apply_file(&checkout(file));
    }
}

/// Runs plugin-deploy.sh: the first time, or to update the driver.
pub fn deploy_with(world: &World, options: &[&str]) {
    println!("{}", indented(&succeed(world.script(DEPLOY).args(options))));
}

/// Waits until the plugins that run are known to their kubelets: says the kubelet in its
/// CSINode, and say they themselves, since a CSINode also keeps what was registered before.
pub fn wait_until_registered(world: &World) {
    until("the driver is registered on all nodes", seconds(90), || {
        in_csinodes(world)?;
        let pods = world.kubectl.try_get(&["pods", "-n", DRIVER_NAMESPACE, "-l", "app=csi-rbdplugin"])?;
        let pods = pods["items"].as_array().cloned().unwrap_or_default();
        let names: Vec<&str> = pods.iter().filter_map(|pod| pod["metadata"]["name"].as_str()).collect();
        for name in &names {
            let metrics = metrics(world, name, METRICS_PORT)?;
            if !metrics.lines().any(|line| line == "rbd_csi_kubelet_registered 1") {
                return Err(format!("{name} has not been registered"));
            }
        }
        if names.len() == NODES.len() { Ok(()) } else { Err(format!("there are {names:?}")) }
    });
}

/// The kubelets of all nodes know the driver.
pub fn in_csinodes(world: &World) -> Result<(), String> {
    let nodes = world.kubectl.try_get(&["csinodes"])?;
    let has = |node: &&Value| {
        node["spec"]["drivers"].as_array().is_some_and(|drivers| drivers.iter().any(|d| d["name"] == DRIVER))
    };
    let count = nodes["items"].as_array().into_iter().flatten().filter(has).count();
    if count == NODES.len() { Ok(()) } else { Err(format!("{count} CSINodes have the driver")) }
}

/// What a pod of the driver tells of itself.
pub fn metrics(world: &World, pod: &str, port: u16) -> Result<String, String> {
    let path = format!("/api/v1/namespaces/{DRIVER_NAMESPACE}/pods/{pod}:{port}/proxy/metrics");
    world.kubectl.try_run(&["get", "--raw", &path])
}

/// Removes what [`deploy`] made.
pub fn teardown(world: &World) {
    for file in USERS {
        world.kubectl.delete(seconds(30), &["-f", checkout(file).to_str().unwrap()]);
    }
    teardown_with(world, &[]);
    world.kubectl.delete(seconds(30), &["-f", checkout(SETTINGS).to_str().unwrap()]);
}

/// Runs plugin-teardown.sh.
pub fn teardown_with(world: &World, options: &[&str]) {
    println!("{}", indented(&succeed(world.script(TEARDOWN).args(options))));
}

/// Runs plugin-teardown.sh where it must refuse; gives what it says.
pub fn refused_teardown(world: &World) -> String {
    let output = world.script(TEARDOWN).output().unwrap();
    let text =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(
        !output.status.success(),
        "plugin-teardown.sh removed a driver whose volumes are in use:\n{text}"
    );
    assert!(world.kubectl.try_get(&["storageclass", CLASS]).is_ok(), "the class is still there");
    text
}

fn indented(text: &str) -> String {
    text.lines().map(|line| format!("    {line}")).collect::<Vec<_>>().join("\n")
}
