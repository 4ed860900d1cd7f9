//! The lab itself: a cluster and a node come up, krbd works between them, and nothing
//! stays behind. When this fails, no other result of the integration tests counts.

// A test says by a panic that the lab is not as it must be.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic)]

#[path = "lab/checkout.rs"]
mod checkout;
#[path = "lab/ends.rs"]
mod ends;
mod support;

use std::io::{BufRead as _, BufReader};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use support::lab::{Lab, LabSpec, script};

/// They break what they run on; `LAB_KERNEL=host make test` must not mean this machine.
#[test]
fn tests_do_not_inherit_the_choice_of_a_kernel() {
    let lab = script("none");
    let kernel = lab.get_envs().find(|(name, _)| *name == "LAB_KERNEL");
    assert_eq!(kernel.map(|(_, value)| value), Some(None), "it is taken out of the environment");
}

#[test]
fn a_node_maps_an_image_and_nothing_is_left() {
    let lab = Lab::start(LabSpec { clusters: 1, nodes: 1 });
    let (cluster, node) = (lab.cluster(0), lab.node(0));
    let before = cluster.osd_ops();
    cluster.rbd(&["create", "--size", "64M", "smoke"]);
    assert!(cluster.osd_ops() > before, "creating an image costs operations");

    let device = node.exec(&["rbd", "map", "-o", "noudev", "rbd/smoke"]);
    assert!(device.starts_with("/dev/rbd"), "{device}");
    let watchers = cluster.rbd(&["status", "smoke"]);
    assert!(watchers.contains(&format!("watcher={}:0/", node.ip)), "{watchers}");

    node.shell(&format!("mkfs.ext4 -q {device}; mount {device} /mnt; echo written >/mnt/file; umount /mnt"));
    let read = node.shell(&format!("mount -o ro {device} /mnt; cat /mnt/file; umount /mnt"));
    assert_eq!(read, "written");
    node.exec(&["rbd", "unmap", "-o", "noudev", &device]);
    cluster.rbd(&["rm", "--no-progress", "smoke"]);
    assert!(!cluster.objects("rbd").iter().any(|object| object.contains("rbd_data")));

    let folder = lab.dir.clone();
    drop(lab);
    assert!(!folder.exists(), "{} is left", folder.display());
    let name = folder.file_name().unwrap().to_str().unwrap();
    for process in std::fs::read_dir("/proc").unwrap().flatten() {
        let arguments = std::fs::read(process.path().join("cmdline")).unwrap_or_default();
        assert!(!String::from_utf8_lossy(&arguments).contains(name), "{:?} is left", process.path());
    }
}

#[test]
fn a_node_that_is_cut_off_still_takes_commands() {
    let lab = Lab::start(LabSpec { clusters: 1, nodes: 1 });
    let node = lab.node(0);
    node.cut();
    let listing = node.command(&["timeout", "3", "rbd", "ls"]).output().unwrap();
    assert_eq!(listing.status.code(), Some(124), "no cluster can be reached: {listing:?}");
    node.join();
    assert_eq!(node.exec(&["rbd", "ls"]), "");

    // A power failure: what ran is gone, the node boots again as another boot.
    let boot = node.exec(&["cat", "/proc/sys/kernel/random/boot_id"]);
    let mut command = node.command(&["sh", "-c", "echo running; exec sleep 1000"]);
    let mut running = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut said = String::new();
    BufReader::new(running.stdout.take().unwrap()).read_line(&mut said).unwrap();
    assert_eq!(said, "running\n");
    node.kill();
    assert_eq!(running.wait().unwrap().code(), Some(255), "the node died under the command");
    node.start();
    assert_ne!(node.exec(&["cat", "/proc/sys/kernel/random/boot_id"]), boot);
}

#[test]
fn a_cluster_pauses_stops_and_comes_back() {
    let lab = Lab::start(LabSpec { clusters: 2, nodes: 0 });
    assert_ne!(lab.cluster(0).fsid, lab.cluster(1).fsid);
    let cluster = lab.cluster(1);
    let stuck = |limit: &str| {
        let mut command = cluster.command("timeout");
        command.args([limit, "rados", "-p", "rbd", "put", "object", "/etc/hostname"]);
        command.output().unwrap().status.code() == Some(124)
    };
    let paused = cluster.pause();
    assert!(stuck("2"));
    drop(paused);
    assert!(!stuck("30"));
    let silent = cluster.stop_monitor();
    assert!(stuck("2"));
    drop(silent);

    cluster.stop();
    cluster.start();
    assert_eq!(cluster.rados(&["-p", "rbd", "ls"]).lines().filter(|name| *name == "object").count(), 1);

    let key = cluster.user("reader", &[("mon", "profile rbd"), ("osd", "profile rbd-read-only")]);
    assert_eq!(key.len(), 40);
    lab.enter();
    let monitor = cluster.monitors.parse().unwrap();
    TcpStream::connect_timeout(&monitor, Duration::from_secs(2)).unwrap();
}

#[test]
fn a_lab_ends_with_its_owner() {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/lab/lab");
    let name = format!("owned-{}", std::process::id());
    let lab = |arguments: &[&str]| {
        let mut command = Command::new(&script);
        command.env_remove("LAB_DIR").env("LAB_NAME", &name).args(arguments);
        command.output().unwrap().status.success()
    };
    let mut owner = Command::new("sleep").arg("1000").spawn().unwrap();
    let pid = owner.id().to_string();
    assert!(lab(&["up", "--clusters", "0", "--nodes", "1", "--owner", &pid]));
    assert!(lab(&["status"]));
    owner.kill().unwrap();
    owner.wait().unwrap();
    let end = Instant::now() + Duration::from_secs(20);
    while lab(&["status"]) {
        assert!(Instant::now() < end, "the lab outlives its owner");
        std::thread::sleep(Duration::from_millis(200));
    }
}
