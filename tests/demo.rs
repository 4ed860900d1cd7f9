//! `make demo`: the driver's whole job, told for somebody who has never heard of CSI.
//!
//! Not a test harness: a program that plays the container orchestrator, prints what
//! it does and why, and fails when anything is not as it says. `make test` runs it too.

#![allow(clippy::print_stdout, clippy::unwrap_used)]

mod support;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use rbd_csi::csi::proto;
use support::driver::{self, Driver, Site};
use support::lab::{Cluster, Lab, LabSpec, Node, Running};
use support::snapshots::{self, Of};
use support::{pool, requests};
use tokio::runtime::Runtime;

const GIB: i64 = 1 << 30;
const STAGING: &str = "/var/lib/kubelet/plugins/kubernetes.io/csi/rbd.csi.ceph.com/demo/globalmount";
const PODS: [&str; 2] = [
    "/var/lib/kubelet/pods/first/volumes/kubernetes.io~csi/disk/mount",
    "/var/lib/kubelet/pods/second/volumes/kubernetes.io~csi/disk/mount",
];
const RESTORED_STAGING: &str =
    "/var/lib/kubelet/plugins/kubernetes.io/csi/rbd.csi.ceph.com/restored/globalmount";
const RESTORED_POD: &str = "/var/lib/kubelet/pods/third/volumes/kubernetes.io~csi/disk/mount";

fn title(text: &str) {
    println!("\n== {text}");
}

fn say(text: &str) {
    println!("   {text}");
}

/// What an operator would type, and what it prints.
fn look(command: &str, output: &str) {
    println!("   $ {command}");
    for line in output.lines() {
        println!("     {line}");
    }
}

struct Demo {
    lab: Lab,
    site: Site,
    runtime: Runtime,
    times: Vec<(String, Duration)>,
}

impl Demo {
    fn cluster(&self) -> &Cluster {
        self.lab.cluster(0)
    }

    fn node(&self) -> &Node {
        self.lab.node(0)
    }

    /// One call of the driver; its time is kept for the table at the end.
    fn call<T>(
        &mut self,
        what: &str,
        call: impl AsyncFnOnce(&Site) -> Result<T, tonic::Status>,
    ) -> Result<T, tonic::Status> {
        let started = Instant::now();
        let answer = self.runtime.block_on(call(&self.site));
        let time = started.elapsed();
        let verdict = answer.as_ref().map_or_else(|status| status.message().to_owned(), |_| "OK".to_owned());
        println!("   -> {what}: {verdict} ({:.0} ms)", time.as_secs_f64() * 1000.0);
        if answer.is_ok() {
            self.times.push((what.to_owned(), time));
        }
        answer
    }

    fn create(&mut self, driver: &Driver, name: &str) -> Result<proto::Volume, tonic::Status> {
        self.create_of(driver, name, GIB, None)
    }

    fn create_of(
        &mut self,
        driver: &Driver,
        name: &str,
        size: i64,
        of: Option<Of<'_>>,
    ) -> Result<proto::Volume, tonic::Status> {
        self.call(&format!("CreateVolume {name}"), async |site| {
            let mut request = driver::create(site, name, size);
            request.volume_content_source = of.map(Of::content);
            let answer = driver.client().await.create_volume(request).await?;
            Ok(answer.into_inner().volume.unwrap())
        })
    }

    fn delete(&mut self, driver: &Driver, volume: &proto::Volume) {
        self.call("DeleteVolume", async |site| {
            driver.client().await.delete_volume(driver::delete(site, &volume.volume_id)).await
        })
        .unwrap();
    }

    fn stage(&mut self, driver: &Driver, volume: &proto::Volume, path: &str) -> Result<(), tonic::Status> {
        self.call("NodeStageVolume", async |site| {
            let request = requests::stage(site, volume, path);
            driver.node().await.node_stage_volume(request).await.map(drop)
        })
    }

    fn publish(&mut self, driver: &Driver, volume: &proto::Volume, path: &str, target: &str) {
        self.node().exec(&["mkdir", "-p", target.strip_suffix("/mount").unwrap()]);
        self.call("NodePublishVolume", async |_| {
            let request = requests::publish(volume, path, target);
            driver.node().await.node_publish_volume(request).await
        })
        .unwrap();
    }

    fn unpublish(&mut self, driver: &Driver, volume: &proto::Volume, target: &str) {
        self.call("NodeUnpublishVolume", async |_| {
            let request = requests::unpublish(volume, target);
            driver.node().await.node_unpublish_volume(request).await
        })
        .unwrap();
    }

    fn unstage(&mut self, driver: &Driver, volume: &proto::Volume, path: &str) {
        self.call("NodeUnstageVolume", async |_| {
            let request = requests::unstage(volume, path);
            driver.node().await.node_unstage_volume(request).await
        })
        .unwrap();
    }

    fn show_rbd(&self, args: &[&str]) {
        look(&format!("rbd {}", args.join(" ")), &self.cluster().rbd(args));
    }

    fn show_node(&self, command: &str) {
        look(&format!("{command}    (on the node)"), &self.node().shell(command));
    }
}

fn main() {
    title("3. A real Ceph and a real krbd node");
    let lab = Lab::start(LabSpec { clusters: 1, nodes: 1 });
    lab.enter();
    let site = Site::new(&lab, lab.cluster(0));
    let runtime = lab.runtime();
    let mut demo = Demo { lab, site, runtime, times: Vec::new() };
    let kernel = demo.node().exec(&["uname", "-sr"]);
    say(&format!("Ceph: {}", demo.cluster().ceph(&["--version"])));
    say(&format!("node: {kernel}, with the kernel's own rbd driver"));
    let controller = demo.site.controller(&demo.lab);
    let mut node = demo.site.node(demo.node());
    demo.node().exec(&["mkdir", "-p", STAGING, RESTORED_STAGING]);

    let volume = a_volume(&mut demo, &controller);
    a_mount(&mut demo, &node, &volume);
    node = killed_under_running_pods(&mut demo, node);
    let pod = Writer::start(&demo);
    let snapshot = a_snapshot(&mut demo, &controller, &volume, &pod);
    let copies = two_copies(&mut demo, &node, &controller, &volume, &snapshot);
    growth(&mut demo, &node, &controller, &volume, pod);
    out_of_the_pods(&mut demo, &node, &controller, [&volume, &copies[0]]);
    the_way_back(&mut demo, &controller, &volume, &snapshot, &copies);
    killed_while_working(&mut demo, controller, node);
    summary(demo);
}

fn a_volume(demo: &mut Demo, controller: &Driver) -> proto::Volume {
    title("4. A claim becomes an image");
    say("Somebody asked Kubernetes for 1 GiB. Its provisioner calls the driver's controller:");
    let volume = demo.create(controller, "pvc-demo").unwrap();
    say(&format!("the volume's handle: {}", volume.volume_id));
    let image = volume.volume_context["imageName"].clone();
    demo.show_rbd(&["ls", "--long", "rbd"]);
    demo.show_rbd(&["image-meta", "list", &image]);
    let keys = demo.cluster().rados(&["-p", "rbd", "listomapvals", "csi.volumes.default"]);
    look("rados -p rbd listomapvals csi.volumes.default", &keys);
    say("That is the journal: it remembers which name has which image. The same call again");
    say("finds it and gives the same volume, not a second one:");
    assert_eq!(demo.create(controller, "pvc-demo").unwrap().volume_id, volume.volume_id);
    volume
}

fn a_mount(demo: &mut Demo, node: &Driver, volume: &proto::Volume) {
    title("5. The image becomes a file system in two pods");
    say("Staging maps the image with krbd, proves that it is blank, formats and mounts it:");
    demo.stage(node, volume, STAGING).unwrap();
    demo.show_node("cd /sys/bus/rbd/devices/0; grep . pool name size client_addr");
    let image = &volume.volume_context["imageName"];
    let info: serde_json::Value =
        serde_json::from_str(&demo.cluster().rbd(&["info", "--format", "json", image])).unwrap();
    let header = format!("rbd_header.{}", info["id"].as_str().unwrap());
    let watchers = demo.cluster().rados(&["-p", "rbd", "listwatchers", &header]);
    look(&format!("rados -p rbd listwatchers {header}"), &watchers);
    assert!(watchers.contains(&demo.node().ip), "the node is the image's watcher");
    say("The node's address stands there: this is how one sees who uses an image.");
    say("Publishing shows the mount inside each pod's folder:");
    for target in PODS {
        demo.publish(node, volume, STAGING, target);
    }
    demo.node().shell(&format!("echo 'written by the first pod' > {}/file; sync", PODS[0]));
    let read = demo.node().shell(&format!("cat {}/file", PODS[1]));
    say(&format!("the second pod reads: {read}"));
    assert_eq!(read, "written by the first pod");
}

fn killed_under_running_pods(demo: &mut Demo, node: Driver) -> Driver {
    title("6. The driver is killed under running pods");
    node.kill();
    let read = demo.node().shell(&format!("cat {}/file", PODS[0]));
    say(&format!("kill -9 of the node plugin; the first pod still reads: {read}"));
    demo.site.node(demo.node())
}

/// The first pod, which saves number after number and never stops for anybody.
struct Writer {
    saved: PathBuf,
    stop: PathBuf,
    process: Running,
}

impl Writer {
    fn start(demo: &Demo) -> Self {
        // The node sees this folder, too.
        let (saved, stop) = (demo.site.path("saved"), demo.site.path("stop"));
        let line = format!(
            "n=0; until [ -e {} ]; do n=$((n + 1)); echo $n >>{pod}/log; sync {pod}/log || exit 1; echo $n >{}; done",
            stop.display(),
            saved.display(),
            pod = PODS[0]
        );
        let process = demo.node().spawn(&["sh", "-ec", &line]);
        let this = Self { saved, stop, process };
        this.goes_on(3);
        this
    }

    /// The last number that it has saved for certain.
    fn saved(&self) -> u32 {
        std::fs::read_to_string(&self.saved).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0)
    }

    /// Waits until it has saved so many more.
    fn goes_on(&self, more: u32) -> u32 {
        let (since, enough) = (Instant::now(), self.saved() + more);
        while self.saved() < enough {
            assert!(since.elapsed() < Duration::from_secs(20), "the pod does not go on");
            std::thread::sleep(Duration::from_millis(5));
        }
        enough
    }

    fn end(mut self) {
        std::fs::write(&self.stop, "").unwrap();
        assert!(self.process.0.wait().unwrap().success(), "the pod met an error");
    }
}

/// A snapshot's handle, and the numbers that were saved before the call and begun after it.
struct Snapshot {
    id: String,
    between: (u32, u32),
}

fn a_snapshot(demo: &mut Demo, controller: &Driver, volume: &proto::Volume, pod: &Writer) -> Snapshot {
    title("7. A snapshot while the pod writes");
    say("The first pod saves number after number into a file, and does not stop for what follows.");
    let before = pod.goes_on(1);
    let id = demo.call("CreateSnapshot", async |site| {
        let request = snapshots::request(site, "snap-demo", &volume.volume_id);
        Ok(controller
            .client()
            .await
            .create_snapshot(request)
            .await?
            .into_inner()
            .snapshot
            .unwrap()
            .snapshot_id)
    });
    let id = id.unwrap();
    let after = demo.node().shell(&format!("tail -n 1 {}/log", PODS[0])).parse().unwrap();
    say(&format!("the pod had saved {before} before the call, and was at {after} after the answer"));
    pod.goes_on(3);
    say("Then somebody makes a mistake:");
    demo.show_node(&format!("rm {}/file", PODS[0]));
    Snapshot { id, between: (before, after) }
}

fn two_copies(
    demo: &mut Demo,
    node: &Driver,
    controller: &Driver,
    volume: &proto::Volume,
    snapshot: &Snapshot,
) -> [proto::Volume; 2] {
    title("8. A new and larger volume from the snapshot");
    let of = Some(Of::Snapshot(&snapshot.id));
    let restored = demo.create_of(controller, "pvc-restored", 2 * GIB, of).unwrap();
    say("No data was copied. The new image looks up in the snapshot's what it does not have itself:");
    let image = &restored.volume_context["imageName"];
    let info = demo.cluster().rbd(&["info", image]);
    let parent = info.lines().find(|line| line.trim_start().starts_with("parent:")).unwrap();
    look(&format!("rbd info {image} | grep parent"), parent.trim());
    demo.stage(node, &restored, RESTORED_STAGING).unwrap();
    demo.publish(node, &restored, RESTORED_STAGING, RESTORED_POD);
    let read = demo.node().shell(&format!("cat {RESTORED_POD}/file"));
    say(&format!("what was removed is there again: {read}"));
    assert_eq!(read, "written by the first pod");
    let log = demo.node().shell(&format!("cat {RESTORED_POD}/log"));
    let numbers: Vec<u32> = log.lines().map(|line| line.parse().unwrap()).collect();
    let last = u32::try_from(numbers.len()).unwrap();
    assert_eq!(numbers, (1..=last).collect::<Vec<_>>(), "a number is missing");
    let (before, after) = snapshot.between;
    assert!((before..=after).contains(&last), "{last} is not between {before} and {after}");
    say(&format!("and the pod's numbers from 1 to {last}, none missing: one moment during the call"));
    demo.show_node(
        "cd /var/lib/kubelet/pods; df -h --output=size first/volumes/*/disk/mount third/volumes/*/disk/mount",
    );
    assert!(room(demo, RESTORED_POD) > GIB && room(demo, PODS[0]) < GIB);
    say("A volume can be copied directly, too, with a moment of its own:");
    let of = Some(Of::Volume(&volume.volume_id));
    let clone = demo.create_of(controller, "pvc-clone", GIB, of).unwrap();
    [restored, clone]
}

/// The size of a pod's file system in bytes.
fn room(demo: &Demo, pod: &str) -> i64 {
    demo.node().shell(&format!("df -B1 --output=size {pod} | tail -n 1")).trim().parse().unwrap()
}

fn growth(demo: &mut Demo, node: &Driver, controller: &Driver, volume: &proto::Volume, pod: Writer) {
    title("9. More room under the running pod");
    say("The image grows in Ceph, then the file system on the node; the pod still writes:");
    let size = 3 * GIB;
    demo.call("ControllerExpandVolume", async |site| {
        let request = driver::grow(site, &volume.volume_id, size);
        controller.client().await.controller_expand_volume(request).await
    })
    .unwrap();
    demo.call("NodeExpandVolume", async |_| {
        let request = requests::grow(volume, STAGING, PODS[0], size);
        node.node().await.node_expand_volume(request).await
    })
    .unwrap();
    demo.show_node("cd /var/lib/kubelet/pods; df -h --output=size first/volumes/*/disk/mount");
    assert!(room(demo, PODS[0]) > 2 * GIB);
    say(&format!("and the pod is at {}: it has waited, and met no error", pod.goes_on(3)));
    pod.end();
}

fn out_of_the_pods(demo: &mut Demo, node: &Driver, controller: &Driver, used: [&proto::Volume; 2]) {
    title("10. The way back");
    let [volume, restored] = used;
    say("Deleting a volume that is in use is refused, and says by whom:");
    let refused = demo.call("DeleteVolume", async |site| {
        let mut request = tonic::Request::new(driver::delete(site, &volume.volume_id));
        request.set_timeout(Duration::from_secs(5));
        controller.client().await.delete_volume(request).await
    });
    assert!(refused.unwrap_err().message().contains(&demo.node().ip));
    say("So first out of the pods, then off the node, then out of Ceph:");
    for target in PODS {
        demo.unpublish(node, volume, target);
    }
    demo.unstage(node, volume, STAGING);
    demo.unpublish(node, restored, RESTORED_POD);
    demo.unstage(node, restored, RESTORED_STAGING);
    demo.show_node("ls /sys/bus/rbd/devices | wc -l");
}

fn the_way_back(
    demo: &mut Demo,
    controller: &Driver,
    volume: &proto::Volume,
    snapshot: &Snapshot,
    copies: &[proto::Volume],
) {
    demo.delete(controller, volume);
    say(
        "Any order will do: what a snapshot or a copy still needs waits in the trash, and goes with the last:",
    );
    demo.show_rbd(&["trash", "ls", "rbd"]);
    demo.call("DeleteSnapshot", async |site| {
        controller.client().await.delete_snapshot(snapshots::delete(site, &snapshot.id)).await
    })
    .unwrap();
    for copy in copies {
        demo.delete(controller, copy);
    }
    pool::wait_until_empty(demo.cluster(), "rbd", Duration::from_secs(20));
}

fn killed_while_working(demo: &mut Demo, mut controller: Driver, mut node: Driver) {
    title("11. The driver is killed in the middle of its work");
    say("The controller gets kill -9 right after it made an image, before it could write that down:");
    demo.site.arm("kill:after:rbd_create4");
    demo.create(&controller, "pvc-crash").unwrap_err();
    assert!(controller.was_killed(Duration::from_secs(5)));
    demo.site.arm("");
    demo.show_rbd(&["ls", "rbd"]);
    say("It is started again, and Kubernetes calls again:");
    controller = demo.site.controller(&demo.lab);
    let volume = demo.create(&controller, "pvc-crash").unwrap();
    demo.show_rbd(&["ls", "rbd"]);
    assert_eq!(pool::images(demo.cluster(), "rbd").len(), 1, "one image, not two");
    say("One image, not two. Now the node plugin, between the format and the mount:");
    demo.site.arm("kill:after:host: mkfs");
    demo.stage(&node, &volume, STAGING).unwrap_err();
    assert!(node.was_killed(Duration::from_secs(10)));
    demo.site.arm("");
    node = demo.site.node(demo.node());
    demo.stage(&node, &volume, STAGING).unwrap();
    demo.show_node("ls /sys/bus/rbd/devices | wc -l");
    assert_eq!(demo.node().shell("ls /sys/bus/rbd/devices | wc -l"), "1", "one mapping, not two");
    say("One mapping, not two. And everything goes again:");
    demo.unstage(&node, &volume, STAGING);
    demo.delete(&controller, &volume);
    say("(the answer does not wait for the image's objects: they are purged in the background)");
    pool::wait_until_empty(demo.cluster(), "rbd", Duration::from_secs(20));
}

fn summary(demo: Demo) {
    title("12. What is left");
    assert_eq!(pool::contents(demo.cluster(), "rbd"), Vec::<String>::new());
    demo.show_rbd(&["ls", "rbd"]);
    demo.show_rbd(&["trash", "ls", "rbd"]);
    for directory in ["csi.volumes.default", "csi.snaps.default"] {
        let keys = demo.cluster().rados(&["-p", "rbd", "listomapkeys", directory]);
        look(&format!("rados -p rbd listomapkeys {directory}"), &keys);
        assert_eq!(keys, "");
    }
    demo.show_node("ls /sys/bus/rbd/devices | wc -l");
    assert_eq!(demo.node().shell("ls /sys/bus/rbd/devices | wc -l"), "0");
    say("Nothing: no image, no snapshot, no journal entry, no mapped device.");
    title("How long each call took (in the node: in an emulated kernel, so many times slower than real)");
    for (what, time) in &demo.times {
        println!("   {:>8.1} ms  {what}", time.as_secs_f64() * 1000.0);
    }
    println!("\n   `make lab` leaves such a lab running to play with; README.md says how to deploy.\n");
}
