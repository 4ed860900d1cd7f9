//! The driver, the kubelet and the API server killed and stopped under running work.

use serde_json::Value;

use super::objects::{DATA, claim, on, pod, ticking_pod};
use super::run::Test;
use super::space::{GONE, POD, PROMPTLY, Space};
use super::support::pool::images;
use super::wait::{seconds, until};
use super::world::{DRIVER, DRIVER_NAMESPACE, NODES, POOL, World};

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

/// Kills a program of ours in the nodes, by a word of its command line; gives how many.
fn kill(world: &World, word: &str) -> usize {
    // The brackets keep pkill's own shell out.
    let pattern = format!("[c]ephcsi.*{word}|[r]bd-csi.*{word}");
    let line = format!("pkill -KILL -c -f '{pattern}' || true");
    NODES.iter().map(|node| world.node(node).shell(&line).trim().parse().unwrap_or(0)).sum()
}

/// The same as soon as one runs: the kubelet starts what was killed twice only after a pause.
fn kill_running(world: &World, word: &str) {
    until(&format!("what runs with {word} is killed"), seconds(60), || match kill(world, word) {
        0 => Err("none runs".into()),
        _ => Ok(()),
    });
}

/// Killed as a process by the kernel, and as pods by force, while claims are made and deleted.
fn controller(space: &Space) {
    let names: Vec<String> = (0..CLAIMS).map(|i| format!("n{i}")).collect();
    let claims: Vec<Value> = names.iter().map(|name| claim(name)).collect();
    for part in claims.chunks(CLAIMS / 3) {
        space.apply(part);
        kill_running(space.world, "controllerserver=true");
    }
    let force = ["--force", "--grace-period=0", "--wait=false", "-l", "app=csi-rbdplugin-provisioner"];
    space.world.kubectl.run(&[&["delete", "pods", "-n", DRIVER_NAMESPACE][..], &force].concat());
    space.kubectl.wait(RECOVERED, &["--for=jsonpath={.status.phase}=Bound", "pvc", "--all"]);
    let images = images(space.world.cluster(), POOL);
    assert_eq!(images.len(), CLAIMS, "one image a claim: {images:?}");

    space.kubectl.run(&["delete", "pvc", "--all", "--wait=false"]);
    kill_running(space.world, "controllerserver=true");
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

/// The kubelets know the driver.
pub fn registered(world: &World) {
    until("the driver is registered on all nodes", seconds(90), || {
        let nodes = world.kubectl.try_get(&["csinodes"])?;
        let nodes = nodes["items"].as_array().cloned().unwrap_or_default();
        let has = |node: &Value| {
            node["spec"]["drivers"]
                .as_array()
                .is_some_and(|drivers| drivers.iter().any(|d| d["name"] == DRIVER))
        };
        let count = nodes.iter().filter(|node| has(node)).count();
        if count == NODES.len() { Ok(()) } else { Err(format!("it is on {count}")) }
    });
}

fn node_plugin(space: &Space) {
    space.apply(&[claim("old"), on(ticking_pod("old", "old"), NODES[0])]);
    space.ready("old");
    space.apply(&[claim("new"), on(pod("new", "new"), NODES[0])]);
    space.bound("new", PROMPTLY);
    for _ in 0..2 {
        kill_running(space.world, "nodeserver=true");
    }
    space.ready("new");
    goes_on_writing(space, "old");
    space.kubectl.run(&["delete", "pod", "old", "new", "--wait=false"]);
    kill(space.world, "nodeserver=true");
    space.kubectl.wait(RECOVERED, &["--for=delete", "pod", "--all"]);
    registered(space.world);
}

fn kubelet(space: &Space) {
    space.apply(&[claim("disk"), on(ticking_pod("user", "disk"), NODES[0])]);
    space.ready("user");
    let number = &space.world.node(NODES[0]).number;
    space.world.lab.lab(&["kubelet-restart", number]);
    space.kubectl.wait(POD, &["--for=condition=Ready", &format!("node/{}", NODES[0])]);
    registered(space.world);
    goes_on_writing(space, "user");
    // Deleted while the kubelet is being started: it finds the volume again by what is on the disk.
    space.kubectl.run(&["delete", "pod", "user", "--wait=false"]);
    space.world.lab.lab(&["kubelet-restart", number]);
    space.kubectl.wait(RECOVERED, &["--for=delete", "pod/user"]);
    space.apply(&[on(pod("user", "disk"), NODES[1])]);
    space.ready("user");
    assert!(ticks(space, "user").unwrap() > 0, "what was written is there on the other node");
}

fn api_server(space: &Space) {
    space.apply(&[claim("old"), on(ticking_pod("old", "old"), NODES[0])]);
    space.ready("old");
    let before = ticks(space, "old").unwrap();
    let names: Vec<String> = (0..CLAIMS).map(|i| format!("n{i}")).collect();
    space.apply(&names.iter().map(|name| claim(name)).collect::<Vec<_>>());
    space.world.lab.lab(&["kube-stop", "apiserver"]);
    std::thread::sleep(seconds(60));
    space.world.lab.lab(&["kube-start", "apiserver"]);
    space.kubectl.wait(RECOVERED, &["--for=jsonpath={.status.phase}=Bound", "pvc", "--all"]);
    assert_eq!(images(space.world.cluster(), POOL).len(), CLAIMS + 1, "one image a claim");
    assert!(ticks(space, "old").unwrap() > before + 30, "the pod wrote while nobody could be asked");
    goes_on_writing(space, "old");
    space.delete(&["pod/old"]);
    space.kubectl.delete(GONE, &["pvc", "--all"]);
}
