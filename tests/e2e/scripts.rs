//! plugin-deploy.sh and plugin-teardown.sh with options, also where they refuse.

use std::process::Command;

use super::wait::seconds;
use super::world::{World, checkout};

const DEPLOY: &str = "examples/rbd/plugin-deploy.sh";
const TEARDOWN: &str = "examples/rbd/plugin-teardown.sh";
/// What a user fills in for the cluster. As it stands it is the lab's.
pub const CONFIG: &str = "examples/rbd/csi-config-map-sample.yaml";
/// What a user applies after the driver and takes away before it goes.
pub const USERS: [&str; 3] =
    ["examples/rbd/secret.yaml", "examples/rbd/storageclass.yaml", "examples/rbd/snapshotclass.yaml"];

/// Runs plugin-deploy.sh with the config map of the examples and these options, and shows
/// what it says.
pub fn deploy(world: &World, options: &[&str]) {
    show(&try_deploy(world, options).unwrap_or_else(|text| panic!("{text}")));
}

/// The same where it may refuse; gives what it says.
pub fn try_deploy(world: &World, options: &[&str]) -> Result<String, String> {
    let config = checkout(CONFIG);
    answer(world.script(DEPLOY).args(["--config", config.to_str().unwrap()]).args(options))
}

/// Runs plugin-deploy.sh once more, with the config map that the cluster has.
pub fn update(world: &World, options: &[&str]) {
    show(&answer(world.script(DEPLOY).args(options)).unwrap_or_else(|text| panic!("{text}")));
}

/// Runs plugin-teardown.sh with these options, and shows what it says.
pub fn teardown(world: &World, options: &[&str]) {
    show(&try_teardown(world, options).unwrap_or_else(|text| panic!("{text}")));
}

/// The same where it may refuse; gives what it says.
pub fn try_teardown(world: &World, options: &[&str]) -> Result<String, String> {
    answer(world.script(TEARDOWN).args(options))
}

/// Secret and classes, as they stand.
pub fn apply_users(world: &World) {
    USERS.iter().for_each(|file| world.kubectl.apply_file(&checkout(file)));
}

/// Takes them away.
pub fn remove_users(world: &World) {
    for file in USERS {
        world.kubectl.delete(seconds(30), &["-f", checkout(file).to_str().unwrap()]);
    }
}

/// What a script says in both of its streams, as an error when it fails.
fn answer(script: &mut Command) -> Result<String, String> {
    let output = script.output().unwrap();
    let text =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    if output.status.success() { Ok(text) } else { Err(format!("{text}({})", output.status)) }
}

fn show(text: &str) {
    text.lines().for_each(|line| println!("    {line}"));
}
