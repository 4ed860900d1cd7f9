//! What `node::mapping` decides before and after the kernel is asked: taking a mapping
//! over, waiting for another client, naming who is in the way, never hanging.
//!
//! What a reader gets wrong: the functions of `inside` run in the lab's node, each in a
//! process of its own, so each starts as a restarted driver does.

// A test says by a panic that the lab is not as it must be.
#![allow(clippy::unwrap_used, clippy::panic)]

mod support;

use std::process::Stdio;
use std::time::{Duration, Instant};

use support::inside::Inside;
use support::lab::{Cluster, Lab, LabSpec, Running};

fn lab() -> &'static Lab {
    Lab::shared(LabSpec { clusters: 1, nodes: 1 })
}

fn image(name: &str) {
    lab().cluster(0).rbd(&["create", "--size", "64M", "--image-feature", "layering,exclusive-lock", name]);
}

fn inside() -> Inside<'static> {
    Inside::new(lab()).of(lab().cluster(0))
}

fn run(test: &str) {
    inside().run(&format!("inside::{test}"));
}

/// A client on this machine that watches the image.
fn watch(cluster: &Cluster, image: &str) -> Running {
    // It watches for as long as its input is open.
    let watching = Running(
        cluster
            .command("rbd")
            .args(["watch", image])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap(),
    );
    let until = Instant::now() + Duration::from_secs(20);
    while !cluster.rbd(&["status", image]).contains("watcher=") {
        assert!(Instant::now() < until, "no watch on {image}");
    }
    watching
}

#[test]
fn a_repeat_gives_the_same_device() {
    image("repeat");
    run("a_repeat_gives_the_same_device");
}

#[test]
fn all_mappings_of_an_image_are_unmapped() {
    image("several");
    run("all_mappings_of_an_image_are_unmapped");
}

#[test]
fn what_the_kernel_lacks_is_named() {
    let features = "layering,exclusive-lock,journaling";
    lab().cluster(0).rbd(&["create", "--size", "8M", "--image-feature", features, "journal"]);
    run("what_the_kernel_lacks_is_named");
}

#[test]
fn another_client_is_named() {
    image("watched");
    let _watching = watch(lab().cluster(0), "watched");
    run("another_client_is_named");
}

#[test]
fn an_rbd_mirror_daemon_is_no_obstacle() {
    image("mirrored");
    let cluster = lab().cluster(0);
    cluster.rbd(&["mirror", "pool", "enable", "rbd", "image"]);
    cluster.rbd(&["mirror", "image", "enable", "mirrored", "snapshot"]);
    // It stands for the daemon, which watches in the same way.
    let _watching = watch(cluster, "mirrored");
    run("an_rbd_mirror_daemon_is_no_obstacle");
}

#[test]
fn a_dead_clients_watch_is_waited_for() {
    image("abandoned");
    drop(watch(lab().cluster(0), "abandoned"));
    run("a_dead_clients_watch_is_waited_for");
}

/// Such as a backup's `rbd`, with a client older than the node's: it wants no device.
#[test]
fn who_opens_an_image_while_it_is_mapped_is_waited_for() {
    image("looked-at");
    let plan = lab().dir.join("looked-at.plan");
    std::fs::write(&plan, "delay=3000:before:host: map").unwrap();
    let part = inside().with("RBD_CSI_FAULTS", plan.to_str().unwrap());
    let mut mapping = part.command("inside::maps_though_somebody_looks").spawn().unwrap();
    let until = Instant::now() + Duration::from_secs(60);
    let trace = plan.with_extension("plan.trace");
    while !std::fs::read_to_string(&trace).unwrap_or_default().contains("host: map") {
        assert!(Instant::now() < until && mapping.try_wait().unwrap().is_none(), "it is not about to map");
        std::thread::sleep(Duration::from_millis(20));
    }
    let mut looking = watch(lab().cluster(0), "looked-at");
    while lab().cluster(0).rbd(&["status", "looked-at"]).matches("watcher=").count() < 2 {
        assert!(Instant::now() < until && mapping.try_wait().unwrap().is_none(), "both are there at once");
        std::thread::sleep(Duration::from_millis(50));
    }
    // The end of its input ends it in order.
    drop(looking.0.stdin.take());
    looking.0.wait().unwrap();
    assert!(mapping.wait().unwrap().success());
}

#[test]
fn a_client_that_was_fenced_keeps_no_other_volume_from_being_mapped() {
    image("fenced");
    image("beside-fenced");
    let said = inside().run("inside::maps_with_a_client_that_is_shared");
    let address = said.lines().find_map(|line| line.strip_prefix("ADDRESS ")).unwrap();
    lab().cluster(0).ceph(&["osd", "blocklist", "add", address, "600"]);
    inside().with("OLD", address).run("inside::a_volume_beside_a_fenced_one");
}

#[test]
fn a_late_map_is_joined() {
    image("late");
    let plan = lab().dir.join("late.plan");
    std::fs::write(&plan, "delay=4000:before:host: map").unwrap();
    inside().with("RBD_CSI_FAULTS", plan.to_str().unwrap()).run("inside::a_late_map_is_joined");
}

#[test]
fn a_kill_at_the_map_leaves_one_mapping_at_most() {
    for (number, at) in ["before", "after"].into_iter().enumerate() {
        let name = format!("killed-{number}");
        image(&name);
        let plan = lab().dir.join(format!("{name}.plan"));
        std::fs::write(&plan, format!("kill:{at}:host: map")).unwrap();
        let part = inside().with("IMAGE", &name);
        let killed = part.clone().with("RBD_CSI_FAULTS", plan.to_str().unwrap());
        assert!(!killed.command("inside::maps").output().unwrap().status.success(), "killed {at} the map");
        part.run("inside::one_mapping_after_a_kill");
    }
}

#[test]
fn a_dropped_client_is_not_used_again() {
    image("dropped");
    let cluster = lab().cluster(0);
    let said = inside().run("inside::maps_for_others");
    let address = said.lines().find_map(|line| line.strip_prefix("ADDRESS ")).unwrap();
    cluster.ceph(&["osd", "blocklist", "add", address, "600"]);
    let until = Instant::now() + Duration::from_secs(60);
    while cluster.rbd(&["status", "dropped"]).contains("watcher=") {
        assert!(Instant::now() < until, "the watch of a blocklisted client ends");
        std::thread::sleep(Duration::from_millis(500));
    }
    inside().with("OLD", address).run("inside::a_dropped_client_is_not_used_again");
}

#[test]
fn a_kernel_that_reaches_nobody_is_bounded() {
    image("bounded");
    run("a_kernel_that_reaches_nobody_is_bounded");
}

#[test]
fn the_kernel_is_not_asked_while_the_cluster_is_silent() {
    // A lab of its own: here the monitor stands still.
    let lab = Lab::start(LabSpec { clusters: 1, nodes: 1 });
    let cluster = lab.cluster(0);
    cluster.rbd(&["create", "--size", "8M", "silent"]);
    let part = Inside::new(&lab).of(cluster).with("READY", lab.dir.join("ready").to_str().unwrap());
    let mut running =
        part.command("inside::the_kernel_is_not_asked_while_the_cluster_is_silent").spawn().unwrap();
    let until = Instant::now() + Duration::from_secs(60);
    while !lab.dir.join("ready").exists() {
        assert!(Instant::now() < until && running.try_wait().unwrap().is_none(), "the part inside connects");
        std::thread::sleep(Duration::from_millis(50));
    }
    let silent = cluster.stop_monitor();
    std::fs::write(lab.dir.join("ready.stopped"), "").unwrap();
    let status = running.wait().unwrap();
    drop(silent);
    assert!(status.success(), "{status}");
}

#[test]
fn a_cluster_without_v1_addresses_is_mapped_with_prefer_crc() {
    let lab = Lab::start(LabSpec { clusters: 1, nodes: 1 });
    let cluster = lab.cluster(0);
    cluster.rbd(&["create", "--size", "8M", "modern"]);
    cluster.ceph(&["mon", "set-addrs", "a", &format!("[v2:{}:3300]", cluster.ip)]);
    let part = Inside::new(&lab).of(cluster).with("LAB_MONITORS", &format!("{}:3300", cluster.ip));
    part.run("inside::a_cluster_without_v1_addresses_is_mapped_with_prefer_crc");
}

mod inside {
    use std::future::Future;
    use std::path::{Path, PathBuf};
    use std::time::{Duration, Instant};

    use rbd_csi::ceph::{Connection, Connections, Credentials, Header, ImageId, Pool};
    use rbd_csi::host::krbd::{self, Mapping};
    use rbd_csi::node::mapping::{MapWith, Mapper, Target};
    use rbd_csi::secret::Secret;
    use rbd_csi::volume::map_options::UnmapOptions;
    use rbd_csi::volume::operation::{Deadline, Operations, Progress, Request};
    use rbd_csi::volume::{Kind, Result};

    use super::support::inside::{KEY, variable};
    use super::support::lonely::Lonely;
    use super::support::volume::refused;

    /// What a StorageClass and a request say.
    #[derive(Debug, Clone)]
    struct Volume {
        image: String,
        with: MapWith,
        options: &'static str,
        read_only: bool,
        many: bool,
        mirror_daemons: u32,
        netns: Option<PathBuf>,
    }

    impl Volume {
        fn new(image: impl Into<String>) -> Self {
            Self {
                image: image.into(),
                with: MapWith::Kernel,
                options: "",
                read_only: false,
                many: false,
                mirror_daemons: 0,
                netns: None,
            }
        }
    }

    /// The driver's node side, as far as it maps.
    struct Node {
        runtime: tokio::runtime::Runtime,
        connections: Connections,
        connection: Option<Connection>,
        credentials: Credentials,
        operations: Operations,
    }

    impl Node {
        fn start() -> Self {
            let runtime = tokio::runtime::Runtime::new().unwrap();
            let credentials = Credentials { user: "admin".into(), key: Secret::new(variable(KEY)) };
            let connections = Connections::new(None);
            let connection =
                runtime.block_on(connections.get(&[variable("LAB_MONITORS")], &credentials)).unwrap();
            let connection = Some(connection);
            Self { runtime, connections, connection, credentials, operations: Operations::default() }
        }

        fn look_up(&self, image: &str) -> (Pool, ImageId, Header) {
            self.runtime.block_on(async {
                let pool = self.connection.as_ref().unwrap().pool("rbd", "").await.unwrap();
                let id = pool.image_id(image).await.unwrap().unwrap();
                let header = pool.image_header(&id, &[]).await.unwrap().unwrap();
                (pool, id, header)
            })
        }

        fn operate<T, F, W>(&self, what: &str, seconds: u64, work: W) -> Result<T>
        where
            T: Clone + Send + Sync + 'static,
            F: Future<Output = Result<T>> + Send + 'static,
            W: FnOnce(Progress) -> F,
        {
            let request = Request {
                key: "volume".into(),
                rpc: "NodeStageVolume",
                fingerprint: what.into(),
                deadline: Deadline::after(Duration::from_secs(seconds)),
            };
            self.runtime.block_on(self.operations.run(request, work))
        }

        fn map(&self, volume: &Volume, seconds: u64) -> Result<Mapping> {
            let (pool, id, header) = self.look_up(&volume.image);
            let (volume, credentials) = (volume.clone(), self.credentials.clone());
            self.operate("map", seconds, |progress| async move {
                let target = Target {
                    own_client: false,
                    pool: &pool,
                    monitors: &[variable("LAB_MONITORS")],
                    credentials: &credentials,
                    image: &volume.image,
                    image_id: &id,
                    header: &header,
                    map_options: volume.options,
                    read_only: volume.read_only,
                    netns: volume.netns.as_deref(),
                    multi_node_block: volume.many,
                    mirror_daemons: volume.mirror_daemons,
                };
                Mapper::new(volume.with).map(&target, &progress).await
            })
        }

        fn unmap(&self, volume: &Volume) -> Result<()> {
            let volume = volume.clone();
            self.operate("unmap", 30, |progress| async move {
                let mappings = mappings_of(&volume);
                Mapper::new(volume.with).unmap(&mappings, UnmapOptions::default(), &progress).await
            })
        }
    }

    impl Drop for Node {
        fn drop(&mut self) {
            // Ceph's threads must be gone before the process exits, as in the driver.
            self.connection = None;
            self.runtime.block_on(self.connections.close(Duration::from_secs(10)));
        }
    }

    fn mappings_of(volume: &Volume) -> Vec<Mapping> {
        krbd::find("rbd", "", &volume.image).unwrap()
    }

    fn me() -> String {
        format!("pid {} (", std::process::id())
    }

    #[test]
    #[ignore = "runs inside a node"]
    fn a_repeat_gives_the_same_device() {
        let node = Node::start();
        for with in [MapWith::Kernel, MapWith::Rbd] {
            let volume = Volume { with, ..Volume::new("repeat") };
            let mapping = node.map(&volume, 60).unwrap();
            assert_eq!(node.map(&volume, 60).unwrap(), mapping);
            assert_eq!(mappings_of(&volume).len(), 1);

            // Read-only is another device; one that is open is not taken away.
            let reader = Volume { read_only: true, ..volume.clone() };
            let open = std::fs::File::open(mapping.device()).unwrap();
            refused(node.map(&reader, 60), Kind::InUse, &["read-only", &me()]);
            drop(open);
            let read_only = node.map(&reader, 60).unwrap();
            assert!(read_only.read_only);
            assert_eq!(mappings_of(&volume), [read_only]);
            node.unmap(&volume).unwrap();
            assert_eq!(mappings_of(&volume), []);
            node.unmap(&volume).unwrap();
        }
        let user = Volume { options: "krbd:ro,lock_on_read;nbd:x", ..Volume::new("repeat") };
        let mapping = node.map(&user, 60).unwrap();
        assert!(mapping.read_only);
        assert_eq!(node.map(&user, 60).unwrap(), mapping);
        let info =
            std::fs::read_to_string(format!("/sys/bus/rbd/devices/{}/config_info", mapping.number)).unwrap();
        assert!(
            info.contains(" name=admin,key=client.admin,ro,lock_on_read,mount_timeout=45 rbd repeat -"),
            "{info}"
        );
        node.unmap(&user).unwrap();
        let mapping = node.map(&Volume::new("repeat"), 120).unwrap();
        let info =
            std::fs::read_to_string(format!("/sys/bus/rbd/devices/{}/config_info", mapping.number)).unwrap();
        assert!(info.contains(" name=admin,key=client.admin rbd repeat -"), "no option by default: {info}");
        node.unmap(&user).unwrap();
        for options in ["secret=x", "exclusive lock_on_read", "zfs:x"] {
            refused(
                node.map(&Volume { options, ..user.clone() }, 60),
                Kind::InvalidArgument,
                &["mapOptions"],
            );
        }
        let unknown = Volume { options: "bogus", ..user };
        refused(node.map(&unknown, 60), Kind::InvalidArgument, &["bogus", "EINVAL"]);
        refused(node.map(&Volume { with: MapWith::Rbd, ..unknown }, 60), Kind::InvalidArgument, &["bogus"]);
    }

    #[test]
    #[ignore = "runs inside a node"]
    fn all_mappings_of_an_image_are_unmapped() {
        let node = Node::start();
        let volume = Volume::new("several");
        let first = node.map(&volume, 60).unwrap();
        let mut rbd = std::process::Command::new("rbd");
        assert!(rbd.args(["map", "-o", "noudev,noshare", "several"]).status().unwrap().success());
        assert_eq!(mappings_of(&volume).len(), 2);
        let open = std::fs::File::open(first.device()).unwrap();
        refused(node.unmap(&volume), Kind::InUse, &["rbd/several", &me(), "EBUSY"]);
        assert_eq!(mappings_of(&volume), [first], "what nobody holds is gone");
        drop(open);
        node.unmap(&volume).unwrap();
        assert_eq!(mappings_of(&volume), []);
    }

    #[test]
    #[ignore = "runs inside a node"]
    fn what_the_kernel_lacks_is_named() {
        let node = Node::start();
        refused(
            node.map(&Volume::new("journal"), 60),
            Kind::Precondition,
            &["lacks journaling", "rbd/journal"],
        );
    }

    #[test]
    #[ignore = "runs inside a node"]
    fn another_client_is_named() {
        let node = Node::start();
        let volume = Volume::new("watched");
        let (pool, id, _) = node.look_up("watched");
        let watchers = node.runtime.block_on(pool.image_watchers(&id)).unwrap();
        let who = format!("client.{} at {}", watchers[0].client, watchers[0].address);
        let since = Instant::now();
        refused(node.map(&volume, 4), Kind::InUse, &[&who, "rbd/watched"]);
        assert!(since.elapsed() >= Duration::from_secs(3), "it waits within the deadline");
        // One rbd-mirror daemon may watch, but this image is not mirrored.
        let mirrored = Volume { mirror_daemons: 1, ..volume.clone() };
        refused(node.map(&mirrored, 3), Kind::InUse, &[&who]);
        let many = Volume { many: true, ..volume.clone() };
        node.map(&many, 30).unwrap();
        node.unmap(&many).unwrap();
    }

    #[test]
    #[ignore = "runs inside a node"]
    fn an_rbd_mirror_daemon_is_no_obstacle() {
        let node = Node::start();
        let volume = Volume::new("mirrored");
        refused(node.map(&volume, 3), Kind::InUse, &["rbd/mirrored"]);
        let mirrored = Volume { mirror_daemons: 1, ..volume };
        node.map(&mirrored, 30).unwrap();
        node.unmap(&mirrored).unwrap();
    }

    #[test]
    #[ignore = "runs inside a node"]
    fn a_dead_clients_watch_is_waited_for() {
        let node = Node::start();
        let volume = Volume::new("abandoned");
        node.map(&volume, 100).unwrap();
        node.unmap(&volume).unwrap();
    }

    #[test]
    #[ignore = "runs inside a node"]
    fn a_late_map_is_joined() {
        let node = Node::start();
        let volume = Volume::new("late");
        refused(node.map(&volume, 2), Kind::Timeout, &["mapping rbd/late with the kernel", "calling again"]);
        assert_eq!(mappings_of(&volume), []);
        let mapping = node.map(&volume, 20).unwrap();
        assert_eq!(mappings_of(&volume), [mapping]);
        node.unmap(&volume).unwrap();
    }

    #[test]
    #[ignore = "runs inside a node"]
    fn maps() {
        Node::start().map(&Volume::new(variable("IMAGE")), 60).unwrap();
    }

    #[test]
    #[ignore = "runs inside a node"]
    fn one_mapping_after_a_kill() {
        let node = Node::start();
        let volume = Volume::new(variable("IMAGE"));
        let left = mappings_of(&volume);
        let mapping = node.map(&volume, 60).unwrap();
        assert!(left.is_empty() || left == [mapping.clone()], "{left:?}");
        assert_eq!(mappings_of(&volume), [mapping]);
        node.unmap(&volume).unwrap();
    }

    #[test]
    #[ignore = "runs inside a node"]
    fn maps_for_others() {
        // A client of its own: other tests' mappings must not be struck with it.
        let volume = Volume { options: "noshare", ..Volume::new("dropped") };
        println!("\nADDRESS {}", Node::start().map(&volume, 60).unwrap().client_address);
    }

    /// Of no other test.
    const SHARED: &str = "osd_idle_ttl=59";

    #[test]
    #[ignore = "runs inside a node"]
    fn maps_with_a_client_that_is_shared() {
        let volume = Volume { options: SHARED, ..Volume::new("fenced") };
        println!("\nADDRESS {}", Node::start().map(&volume, 60).unwrap().client_address);
    }

    #[test]
    #[ignore = "runs inside a node"]
    fn a_volume_beside_a_fenced_one() {
        let node = Node::start();
        let beside = Volume { options: SHARED, ..Volume::new("beside-fenced") };
        // The kernel notices at its next osdmap.
        let until = Instant::now() + Duration::from_secs(60);
        let mut mapping = node.map(&beside, 60).unwrap();
        while mapping.client_address == variable("OLD") {
            assert!(Instant::now() < until, "the fence reaches the kernel");
            node.unmap(&beside).unwrap();
            mapping = node.map(&beside, 60).unwrap();
        }
        std::fs::write(mapping.device(), [7; 4096]).unwrap();
        node.unmap(&beside).unwrap();
        node.unmap(&Volume { options: SHARED, ..Volume::new("fenced") }).unwrap();
    }

    #[test]
    #[ignore = "runs inside a node"]
    fn maps_though_somebody_looks() {
        let node = Node::start();
        let volume = Volume { options: "noshare", ..Volume::new("looked-at") };
        node.map(&volume, 110).unwrap();
        node.unmap(&volume).unwrap();
    }

    #[test]
    #[ignore = "runs inside a node"]
    fn a_dropped_client_is_not_used_again() {
        let node = Node::start();
        let volume = Volume { options: "noshare", ..Volume::new("dropped") };
        let mapping = node.map(&volume, 60).unwrap();
        assert_ne!(mapping.client_address, variable("OLD"));
        assert_eq!(mappings_of(&volume), std::slice::from_ref(&mapping));
        std::fs::write(mapping.device(), [7; 4096]).unwrap();
        node.unmap(&volume).unwrap();
    }

    #[test]
    #[ignore = "runs inside a node"]
    fn a_kernel_that_reaches_nobody_is_bounded() {
        let node = Node::start();
        let lonely = Lonely::new();
        let volume = Volume { netns: Some(lonely.path()), ..Volume::new("bounded") };
        let since = Instant::now();
        let words = [variable("LAB_MONITORS"), "the kernel would reach none".into(), "ETIMEDOUT".into()];
        refused(node.map(&volume, 9), Kind::Unavailable, &words.each_ref().map(String::as_str));
        assert!(since.elapsed() < Duration::from_secs(9));
        assert_eq!(mappings_of(&volume), []);
        drop(lonely);
        let missing = Volume { netns: Some("/run/netns/missing".into()), ..volume };
        refused(node.map(&missing, 30), Kind::Precondition, &["/run/netns/missing"]);
    }

    #[test]
    #[ignore = "runs inside a node"]
    fn the_kernel_is_not_asked_while_the_cluster_is_silent() {
        let node = Node::start();
        let volume = Volume::new("silent");
        node.look_up("silent");
        let ready = variable("READY");
        std::fs::write(&ready, "").unwrap();
        let until = Instant::now() + Duration::from_secs(60);
        while !Path::new(&format!("{ready}.stopped")).exists() {
            assert!(Instant::now() < until);
            std::thread::sleep(Duration::from_millis(50));
        }
        let since = Instant::now();
        let outcome = node.map(&volume, 8);
        assert!(since.elapsed() < Duration::from_secs(9), "{:?}", since.elapsed());
        refused(outcome, Kind::Timeout, &["asking the monitors"]);
        assert_eq!(mappings_of(&volume), []);
    }

    #[test]
    #[ignore = "runs inside a node"]
    fn a_cluster_without_v1_addresses_is_mapped_with_prefer_crc() {
        let node = Node::start();
        for with in [MapWith::Kernel, MapWith::Rbd] {
            let volume = Volume { with, ..Volume::new("modern") };
            let mapping = node.map(&volume, 60).unwrap();
            let info =
                std::fs::read_to_string(format!("/sys/bus/rbd/devices/{}/config_info", mapping.number))
                    .unwrap();
            assert!(info.contains(":3300 ") && info.contains("ms_mode=prefer-crc"), "{info}");
            node.unmap(&volume).unwrap();
        }
        let legacy = Volume { options: "ms_mode=legacy", ..Volume::new("modern") };
        refused(node.map(&legacy, 60), Kind::Precondition, &["legacy"]);
    }
}
