//! What the tests do in Ceph by hand, as an administrator would.

use super::support::lab::succeed;
use super::world::World;

/// An image with an ext4 file system, so many MiB large.
pub fn make_image(world: &World, spec: &str, mib: u32) {
    let cluster = world.cluster();
    let file = world.lab.dir.join("image-to-import");
    let path = file.to_str().unwrap();
    succeed(world.lab.command("truncate").args(["-s", &format!("{mib}M"), path]));
    succeed(world.lab.command("mkfs.ext4").args(["-q", path]));
    cluster.rbd(&["import", "--no-progress", "--image-feature", "layering", path, spec]);
    std::fs::remove_file(&file).unwrap();
}

/// Removes an image; who still has it open is told by `rbd`.
pub fn remove_image(world: &World, spec: &str) {
    world.cluster().rbd(&["rm", "--no-progress", spec]);
}
