//! What the tests do in Ceph by hand, as an administrator would.

use super::support::lab::{Node, succeed};
use super::support::pool::omap_value;
use super::world::{POOL, World, checkout};

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

/// Removes a volume of which the cluster knows nothing any more: its image and its journal.
pub fn remove_volume(world: &World, image: &str) {
    let cluster = world.cluster();
    let object = format!("csi.volume.{}", image.strip_prefix("csi-vol-").unwrap());
    let name = omap_value(cluster, POOL, &object, "csi.volname").unwrap();
    remove_image(world, &format!("{POOL}/{image}"));
    cluster.rados(&["-p", POOL, "rm", &object]);
    cluster.rados(&["-p", POOL, "rmomapkey", "csi.volumes.default", &format!("csi.volume.{name}")]);
}

/// The Ceph user of examples/rbd/secret.yaml: its id and its key.
pub fn user() -> (String, String) {
    let secret = std::fs::read_to_string(checkout("examples/rbd/secret.yaml")).unwrap();
    let of = |name: &str| secret.lines().find_map(|line| line.trim().strip_prefix(name)).unwrap();
    (of("userID: ").trim().to_owned(), of("userKey: ").trim().to_owned())
}

/// Maps an image in a node, with that user; gives the device.
pub fn map(node: &Node, spec: &str) -> String {
    let (id, key) = user();
    node.shell(&format!(
        "printf '%s' '{key}' >/tmp/keyfile-e2e
         rbd --id {id} -m 10.99.0.1:6789 --keyfile=/tmp/keyfile-e2e map {spec} --options noudev
         rm /tmp/keyfile-e2e"
    ))
}

pub fn unmap(node: &Node, device: &str) {
    node.shell(&format!("rbd unmap --options noudev {device}"));
}
