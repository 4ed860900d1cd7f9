//! What is in a pool, as an operator would look: with `rbd` and `rados`.

use std::time::{Duration, Instant};

use super::lab::Cluster;

/// Objects that a pool keeps whether it has volumes or not. What they hold is looked at too.
const REGISTERS: [&str; 6] =
    ["rbd_directory", "rbd_info", "rbd_trash", "csi.volumes.default", "csi.snaps.default", "rbd_children"];

/// Everything in the pool that belongs to some volume: objects, and keys of the registers.
pub fn contents(cluster: &Cluster, pool: &str) -> Vec<String> {
    let objects = cluster.rados(&["-p", pool, "ls"]);
    let mut found: Vec<String> =
        objects.lines().filter(|object| !REGISTERS.contains(object)).map(str::to_owned).collect();
    for register in objects.lines().filter(|object| REGISTERS.contains(object) && *object != "rbd_info") {
        let keys = cluster.rados(&["-p", pool, "listomapkeys", register]);
        found.extend(keys.lines().map(|key| format!("{register}: {key}")));
    }
    found.sort();
    found
}

/// Waits until the pool is empty: purges go on after the answer.
pub fn wait_until_empty(cluster: &Cluster, pool: &str, within: Duration) {
    let until = Instant::now() + within;
    loop {
        let left = contents(cluster, pool);
        if left.is_empty() {
            return;
        }
        assert!(Instant::now() < until, "left in pool {pool}: {left:#?}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// The images of a pool.
pub fn images(cluster: &Cluster, pool: &str) -> Vec<String> {
    cluster.rbd(&["ls", pool]).lines().map(str::to_owned).collect()
}

/// The value of an omap key.
pub fn omap_value(cluster: &Cluster, pool: &str, object: &str, key: &str) -> Option<String> {
    let file = tempfile::NamedTempFile::new().unwrap();
    let path = file.path().to_str().unwrap();
    let mut command = cluster.command("rados");
    command.args(["-p", pool, "getomapval", object, key, path]);
    let output = command.output().unwrap();
    output.status.success().then(|| std::fs::read_to_string(path).unwrap())
}

/// Makes a pool for images.
pub fn make(cluster: &Cluster, pool: &str) {
    cluster.ceph(&["osd", "pool", "create", pool, "8"]);
    cluster.rbd(&["pool", "init", pool]);
}

/// Removes a pool with all that is in it.
pub fn remove(cluster: &Cluster, pool: &str) {
    cluster.ceph(&["osd", "pool", "rm", pool, pool, "--yes-i-really-really-mean-it"]);
}
