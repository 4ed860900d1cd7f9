//! Another image of the driver rolled out under running pods, and back, as a user does it:
//! plugin-deploy.sh once more.

use super::deployment::wait_until_registered;
use super::disturbed::goes_on_writing;
use super::objects::{claim, on, pod, ticking_pod};
use super::run::Test;
use super::scripts;
use super::space::Space;
use super::wait::seconds;
use super::world::{DRIVER_NAMESPACE, NODES, World, image};

pub const TESTS: &[Test] = &[
    Test::new("upgraded", "driver and node plugin rolled out anew under running pods, and back", rolled_out),
    Test::new(
        "upgraded_on_delete",
        "the same under OnDelete: each node's pod when somebody deletes it",
        on_delete,
    ),
];

const ROLLED_OUT: std::time::Duration = seconds(240);
const PLUGIN: &str = "daemonset/csi-rbdplugin";
const PARTS: [&str; 2] = [PLUGIN, "deployment/csi-rbdplugin-provisioner"];
const CONTAINER: &str = "csi-rbdplugin";

/// The same image under the name of the next version.
fn next_version(world: &World) -> String {
    let next = format!("{}-next", image());
    for node in NODES {
        world.node(node).exec(&["ctr", "-n", "k8s.io", "images", "tag", "--force", &image(), &next]);
    }
    next
}

fn set_image(world: &World, part: &str, image: &str) {
    let change = format!("{CONTAINER}={image}");
    world.kubectl.run(&["-n", DRIVER_NAMESPACE, "set", "image", part, &change]);
}

fn image_of(world: &World, part: &str) -> String {
    let part = world.kubectl.get(&["-n", DRIVER_NAMESPACE, part]);
    let containers = part["spec"]["template"]["spec"]["containers"].as_array().unwrap();
    let driver = containers.iter().find(|container| container["name"] == CONTAINER).unwrap();
    driver["image"].as_str().unwrap().to_owned()
}

fn wait_for(world: &World, part: &str) {
    world.kubectl.wait_for_rollout(DRIVER_NAMESPACE, part, ROLLED_OUT);
}

fn running(space: &Space) {
    for node in NODES {
        space.apply(&[claim(node), on(ticking_pod(node, node), node)]);
    }
    for node in NODES {
        space.ready(node);
    }
}

fn still_running(space: &Space) {
    wait_until_registered(space.world);
    NODES.iter().for_each(|node| goes_on_writing(space, node));
    // What was mounted by the old one is taken down by the new one; and it mounts.
    space.delete(&["pod/node1"]);
    space.apply(&[on(pod("after", NODES[0]), NODES[1])]);
    space.ready("after");
    space.delete(&["pod/after", "pod/node2"]);
}

fn rolled_out(space: &Space) {
    let world = space.world;
    running(space);
    space.if_it_fails(|| scripts::update(world, &[]));
    let next = next_version(world);
    for image in [next, image()] {
        scripts::update(world, &["--image", &image]);
        for part in PARTS {
            assert_eq!(image_of(world, part), image);
            wait_for(world, part);
        }
        NODES.iter().for_each(|node| goes_on_writing(space, node));
    }
    still_running(space);
}

fn on_delete(space: &Space) {
    let world = space.world;
    running(space);
    let strategy = |value: &str| {
        let patch = format!(r#"[{{"op":"replace","path":"/spec/updateStrategy","value":{value}}}]"#);
        world.kubectl.run(&["-n", DRIVER_NAMESPACE, "patch", PLUGIN, "--type=json", "-p", &patch]);
    };
    let plugin = world.kubectl.get(&["-n", DRIVER_NAMESPACE, PLUGIN]);
    let before = plugin["spec"]["updateStrategy"].to_string();
    space.if_it_fails(|| scripts::update(world, &[]));
    strategy(r#"{"type":"OnDelete"}"#);
    set_image(world, PLUGIN, &next_version(world));
    for node in NODES {
        let field = format!("spec.nodeName={node}");
        let select = ["-l", "app=csi-rbdplugin", "--field-selector", &field];
        let delete = ["delete", "pods", "-n", DRIVER_NAMESPACE, "--timeout=60s"];
        world.kubectl.run(&[&delete[..], &select].concat());
        // `rollout status` knows no OnDelete.
        let ready = ["--for=condition=Ready", "pods", "-n", DRIVER_NAMESPACE];
        std::thread::sleep(seconds(2));
        world.kubectl.wait(seconds(120), &[&ready[..], &select].concat());
        goes_on_writing(space, node);
    }
    set_image(world, PLUGIN, &image());
    strategy(&before);
    wait_for(world, PLUGIN);
    still_running(space);
}
