//! What is in a pool, as an operator would look: with `rbd` and `rados`.

use std::time::{Duration, Instant};

use super::lab::{Cluster, succeed};

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

/// Makes an erasure-coded pool that the lab's one OSD serves: one shard of two is there, and enough.
/// Its crush rule is given back the sizes that Ceph 16 gets wrong for so few shards.
pub fn make_erasure_coded(cluster: &Cluster, pool: &str) {
    let profile = ["plugin=shec", "k=1", "m=1", "c=1", "crush-failure-domain=osd"];
    let words = ["osd", "erasure-code-profile", "set", "one-of-two", "--force"];
    cluster.ceph(&words.into_iter().chain(profile).collect::<Vec<_>>());
    cluster.ceph(&["osd", "crush", "rule", "create-erasure", "one-of-two", "one-of-two"]);
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (map, text) = (file("map"), file("text"));
    cluster.ceph(&["osd", "getcrushmap", "-o", &map]);
    succeed(cluster.command("crushtool").args(["-d", &map, "-o", &text]));
    let rules = std::fs::read_to_string(&text).unwrap();
    let rules = rules.replace("min_size 3\n\tmax_size 2", "min_size 1\n\tmax_size 2");
    std::fs::write(&text, rules).unwrap();
    succeed(cluster.command("crushtool").args(["-c", &text, "-o", &map]));
    cluster.ceph(&["osd", "setcrushmap", "-i", &map]);
    cluster.ceph(&["osd", "pool", "create", pool, "8", "8", "erasure", "one-of-two", "one-of-two"]);
    cluster.ceph(&["osd", "pool", "set", pool, "min_size", "1"]);
}

/// Lets clients overwrite data in an erasure-coded pool, although the lab keeps it in memory.
pub fn allow_overwrites(cluster: &Cluster, pool: &str) {
    let setting = "mon_debug_no_require_bluestore_for_ec_overwrites";
    cluster.ceph(&["config", "set", "mon", setting, "true"]);
    cluster.ceph(&["osd", "pool", "set", pool, "allow_ec_overwrites", "true"]);
}
