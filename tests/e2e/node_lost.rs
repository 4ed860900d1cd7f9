//! A node whose plug is pulled, and what somebody who knows that it is dead does about it.
//!
//! What a reader gets wrong: Kubernetes detaches a dead node's volumes only when that node
//! is tainted `out-of-service`, by which somebody vouches that it is off. Until then its
//! pods are not started elsewhere, and rightly so.

use super::deployment::wait_until_registered;
use super::objects::{DATA, stateful_set};
use super::run::Test;
use super::space::{GONE, POD, Space};
use super::wait::{seconds, until};
use super::world::NODES;

pub const TESTS: &[Test] = &[Test::new(
    "stateful_set",
    "a StatefulSet of three: a node is killed and tainted, its pods come up elsewhere with their data",
    steps,
)];

const NAME: &str = "trio";
const TAINT: &str = "node.kubernetes.io/out-of-service";

/// Steps: 1 three pods write, 2 the plug of a node that has one or more of them, 3 the
/// taint, 4 all three again, with their data, 5 the node back.
fn steps(space: &Space) {
    let world = space.world;
    space.apply(&[stateful_set(NAME)]);
    let all_ready = || {
        let ready = "--for=jsonpath={.status.readyReplicas}=3";
        space.kubectl.wait(POD, &[ready, &format!("statefulset/{NAME}")]);
    };
    all_ready();
    let pods: Vec<String> = (0..3).map(|i| format!("{NAME}-{i}")).collect();
    for pod in &pods {
        space.sh(pod, &format!("echo {pod} >{DATA}/name; sync"));
    }
    let dead = space.node_of(&pods[0]);
    let other = NODES.into_iter().find(|node| *node != dead).unwrap();
    let victims: Vec<&String> = pods.iter().filter(|pod| space.node_of(pod) == dead).collect();
    println!("  {dead} has {victims:?}");

    let (lost, taint) = (dead.clone(), format!("{TAINT}-"));
    space.if_it_fails_first(move || drop(world.kubectl.try_run(&["taint", "node", &lost, &taint])));
    let lost = dead.clone();
    space.if_it_fails_first(move || world.node(&lost).start());
    world.node(&dead).kill();
    let taken = until(&format!("{dead} is not ready"), seconds(120), || {
        let node = world.kubectl.try_get(&["node", &dead])?;
        let conditions = node["status"]["conditions"].as_array().cloned().unwrap_or_default();
        let ready = conditions.iter().find(|condition| condition["type"] == "Ready");
        match ready {
            Some(ready) if ready["status"] != "True" => Ok(()),
            _ => Err(node["status"]["conditions"].to_string()),
        }
    });
    println!("  {dead} is not ready after {:.0} s", taken.as_secs_f64());
    world.kubectl.run(&["taint", "node", &dead, &format!("{TAINT}=nodeshutdown:NoExecute")]);
    let taken = until("all pods are on the other node", seconds(300), || {
        let pods = space.kubectl.try_items(&["pods"])?;
        let there = pods.iter().filter(|pod| pod["spec"]["nodeName"] == other).count();
        if pods.len() == 3 && there == 3 { Ok(()) } else { Err(format!("{there} of {}", pods.len())) }
    });
    println!("  all pods are on {other} after {:.0} s", taken.as_secs_f64());
    all_ready();
    for pod in &pods {
        assert_eq!(&space.sh(pod, &format!("cat {DATA}/name")), pod, "each has its own data");
        space.sh(pod, &format!("echo again >>{DATA}/name; sync"));
    }

    world.node(&dead).start();
    world.kubectl.wait(POD, &["--for=condition=Ready", &format!("node/{dead}")]);
    world.kubectl.run(&["taint", "node", &dead, &format!("{TAINT}-")]);
    wait_until_registered(world);
    space.kubectl.delete(GONE, &["statefulset", NAME]);
}
