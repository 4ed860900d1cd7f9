//! The driver, the kubelet and the API server killed and stopped under running work.

use serde_json::Value;

use super::deployment::wait_until_registered;
use super::objects::{DATA, claim, on, pod, ticking_pod};
use super::run::Test;
use super::space::{GONE, POD, PROMPTLY, Space};
use super::support::pool::images;
use super::wait::{seconds, until};
use super::world::{DRIVER_NAMESPACE, NODES, POOL, World};

pub const TESTS: &[Test] = &[
    Test::new(
        "controller_killed",
        "the controller killed while claims are made: each gets one image",
        controller,
    ),
    Test::new(
        "node_plugin_killed",
        "the node plugin killed under running pods and pods that start",
        node_plugin,
    ),
    Test::new("kubelet_restarted", "the kubelet restarted under a running pod", kubelet),
    Test::new("api_server_away", "the API server away for a minute: pods write on, claims go on", api_server),
];

const CLAIMS: usize = 12;
/// Leader election and the sidecars' growing pauses.
const RECOVERED: std::time::Duration = seconds(240);

/// The driver's processes, by a word of their command lines.
const CONTROLLER: &str = "controllerserver=true";
const NODE_PLUGIN: &str = "nodeserver=true";

/// Sends a signal to the driver's processes in all nodes; gives how many there were.
fn signal(world: &World, name: &str, word: &str) -> usize {
    // The brackets keep pkill's own shell out.
    let pattern = format!("[c]ephcsi.*{word}|[r]bd-csi.*{word}");
    let line = format!("pkill -{name} -c -f '{pattern}' || true");
    NODES.iter().map(|node| world.node(node).shell(&line).trim().parse().unwrap_or(0)).sum()
}

fn kill(world: &World, word: &str) -> usize {
    signal(world, "KILL", word)
}

/// The same as soon as one runs: the kubelet starts what was killed twice only after a pause.
fn kill_running(world: &World, word: &str) {
    until(&format!("what runs with {word} is killed"), seconds(60), || match kill(world, word) {
        0 => Err("none runs".into()),
        _ => Ok(()),
    });
}

/// What the pool has gained is an image for each claim and no other.
fn one_image_each(space: &Space, before: &[String]) {
    let mut gained = images(space.world.cluster(), POOL);
    gained.retain(|image| !before.contains(image));
    let claims = space.kubectl.items(&["pvc"]);
    let volumes = claims.iter().map(|claim| claim["spec"]["volumeName"].as_str().unwrap());
    let mut named: Vec<String> = volumes.map(|volume| space.image_of(volume)).collect();
    gained.sort();
    named.sort();
    assert_eq!(gained, named, "the images that came, and those that the volumes name");
}

/// Killed as a process by the kernel, and as pods by force, while claims are made and deleted.
fn controller(space: &Space) {
    let before = images(space.world.cluster(), POOL);
    let names: Vec<String> = (0..CLAIMS).map(|i| format!("n{i}")).collect();
    let claims: Vec<Value> = names.iter().map(|name| claim(name)).collect();
    for part in claims.chunks(CLAIMS / 3) {
        space.apply(part);
        kill_running(space.world, CONTROLLER);
    }
    let force = ["--force", "--grace-period=0", "--wait=false", "-l", "app=csi-rbdplugin-provisioner"];
    space.world.kubectl.run(&[&["delete", "pods", "-n", DRIVER_NAMESPACE][..], &force].concat());
    space.kubectl.wait(RECOVERED, &["--for=jsonpath={.status.phase}=Bound", "pvc", "--all"]);
    one_image_each(space, &before);

    space.kubectl.run(&["delete", "pvc", "--all", "--wait=false"]);
    kill_running(space.world, CONTROLLER);
    space.kubectl.wait(RECOVERED, &["--for=delete", "pv", "--all"]);
}

/// How often a ticking pod has written.
fn ticks(space: &Space, pod: &str) -> Result<u32, String> {
    let text = space.try_sh(pod, &format!("tail -n 1 {DATA}/ticks"))?;
    text.trim().parse().map_err(|_| format!("{pod} has written {text:?}"))
}

/// Waits until a pod that ran all the time has written more; it was never started again.
pub fn goes_on_writing(space: &Space, pod: &str) {
    let mut before = None;
    until(&format!("{pod} goes on writing"), seconds(60), || {
        let now = ticks(space, pod)?;
        let before = *before.get_or_insert(now);
        if now > before { Ok(()) } else { Err(format!("{now} ticks")) }
    });
    let object = space.kubectl.get(&["pod", pod]);
    assert_eq!(object["status"]["containerStatuses"][0]["restartCount"], 0, "{pod} runs as it did");
}

fn node_plugin(space: &Space) {
    space.apply(&[claim("old"), on(ticking_pod("old", "old"), NODES[0])]);
    space.ready("old");
    space.apply(&[claim("new"), on(pod("new", "new"), NODES[0])]);
    space.bound("new", PROMPTLY);
    for _ in 0..2 {
        kill_running(space.world, NODE_PLUGIN);
    }
    space.ready("new");
    goes_on_writing(space, "old");
    space.kubectl.run(&["delete", "pod", "old", "new", "--wait=false"]);
    kill(space.world, NODE_PLUGIN);
    space.kubectl.wait(RECOVERED, &["--for=delete", "pod", "--all"]);
    wait_until_registered(space.world);
}

fn kubelet(space: &Space) {
    space.apply(&[claim("disk"), on(ticking_pod("user", "disk"), NODES[0])]);
    space.ready("user");
    let number = &space.world.node(NODES[0]).number;
    space.world.lab.lab(&["kubelet-restart", number]);
    space.kubectl.wait(POD, &["--for=condition=Ready", &format!("node/{}", NODES[0])]);
    wait_until_registered(space.world);
    goes_on_writing(space, "user");
    // Deleted while the kubelet is being started: it finds the volume again by what is on the disk.
    space.kubectl.run(&["delete", "pod", "user", "--wait=false"]);
    space.world.lab.lab(&["kubelet-restart", number]);
    space.kubectl.wait(RECOVERED, &["--for=delete", "pod/user"]);
    space.apply(&[on(pod("user", "disk"), NODES[1])]);
    space.ready("user");
    assert!(ticks(space, "user").unwrap() > 0, "what was written is there on the other node");
}

/// Steps: 1 a pod writes, 2 claims that the driver, stopped, does not answer, 3 the API
/// server goes, 4 the driver goes on and makes the volumes, of which nobody can be told,
/// 5 after a minute the API server comes back.
fn api_server(space: &Space) {
    let before = images(space.world.cluster(), POOL);
    space.apply(&[claim("old"), on(ticking_pod("old", "old"), NODES[0])]);
    space.ready("old");
    let ticks_before = ticks(space, "old").unwrap();
    let world = space.world;
    space.if_it_fails_first(|| _ = signal(world, "CONT", CONTROLLER));
    space.if_it_fails_first(|| _ = world.lab.lab(&["kube-start", "apiserver"]));
    assert!(signal(space.world, "STOP", CONTROLLER) > 0, "no controller runs");
    let names: Vec<String> = (0..CLAIMS).map(|i| format!("n{i}")).collect();
    space.apply(&names.iter().map(|name| claim(name)).collect::<Vec<_>>());
    let pending = space.kubectl.items(&["pvc"]).iter().filter(|c| c["status"]["phase"] == "Pending").count();
    assert_eq!(pending, CLAIMS, "nobody can have made their volumes");
    space.world.lab.lab(&["kube-stop", "apiserver"]);
    signal(space.world, "CONT", CONTROLLER);
    std::thread::sleep(seconds(60));
    space.world.lab.lab(&["kube-start", "apiserver"]);
    space.kubectl.wait(RECOVERED, &["--for=jsonpath={.status.phase}=Bound", "pvc", "--all"]);
    one_image_each(space, &before);
    assert!(ticks(space, "old").unwrap() > ticks_before + 30, "the pod wrote while nobody could be asked");
    goes_on_writing(space, "old");
    space.delete(&["pod/old"]);
    space.kubectl.delete(GONE, &["pvc", "--all"]);
}
