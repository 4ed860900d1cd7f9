//! The driver deployed and removed as a user does it: with the scripts of examples/rbd/.

use super::support::lab::succeed;
use super::wait::seconds;
use super::world::{CLASS, World, checkout};

const DEPLOY: &str = "examples/rbd/plugin-deploy.sh";
const TEARDOWN: &str = "examples/rbd/plugin-teardown.sh";
/// What a user fills in for the cluster. As it stands it is the lab's.
const CONFIG: &str = "examples/rbd/csi-config-map-sample.yaml";
/// What a user applies after the driver and takes away before it goes.
const USERS: [&str; 2] = ["examples/rbd/secret.yaml", "examples/rbd/storageclass.yaml"];

/// Deploys the driver, the secret and the class.
pub fn deploy(world: &World) {
    let config = checkout(CONFIG);
    let text = succeed(world.script(DEPLOY).args(["--config", config.to_str().unwrap()]));
    println!("{}", indented(&text));
    for file in USERS {
        world.kubectl.apply_file(&checkout(file));
    }
}

/// Removes what [`deploy`] made.
pub fn teardown(world: &World) {
    for file in USERS {
        world.kubectl.delete(seconds(30), &["-f", checkout(file).to_str().unwrap()]);
    }
    println!("{}", indented(&succeed(&mut world.script(TEARDOWN))));
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
