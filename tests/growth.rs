//! Growth and flatten of a volume that a node has mapped and writes to: the writer goes on, and
//! nobody ever blocklists the node, also when it is cut off or the controller dies in the middle.
//!
//! What a reader gets wrong: the exclusive lock is the node's when it writes, so every growth
//! takes it from the node for a moment, and a flatten again and again. The writer is in the node, and says in a file on
//! the host's file system, which the node shares, how far it is.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

mod support;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use rbd_csi::csi::proto;
use tonic::{Code, Status};

use support::driver::{self, Driver, Site};
use support::lab::{Cluster, Lab, LabSpec, Node, Running};
use support::ops;
use support::snapshots::{self, Of};

const GIB: i64 = 1 << 30;
/// Of a growth of what a node has mapped and writes to.
const MOST_OPERATIONS: u64 = 20;
/// After that time without a sign of life a watch is gone.
const WATCH: Duration = Duration::from_secs(33);

struct Bench {
    lab: Lab,
    site: Site,
    runtime: tokio::runtime::Runtime,
}

/// A volume that the node writes to, block after block.
struct Written {
    id: String,
    image: String,
    device: String,
    counter: PathBuf,
    writer: Running,
}

impl Bench {
    fn new() -> Self {
        let lab = Lab::start(LabSpec { clusters: 1, nodes: 1 });
        lab.enter();
        let (site, runtime) = (Site::new(&lab, lab.cluster(0)), lab.runtime());
        Self { lab, site, runtime }
    }

    fn cluster(&self) -> &Cluster {
        self.lab.cluster(0)
    }

    fn node(&self) -> &Node {
        self.lab.node(0)
    }

    fn start(&self) -> Driver {
        self.site.controller(&self.lab)
    }

    fn create(&self, driver: &Driver, name: &str, of: Option<Of<'_>>) -> proto::Volume {
        let mut request = driver::create(&self.site, name, GIB);
        request.volume_content_source = of.map(Of::content);
        let volume = self.runtime.block_on(async { driver.client().await.create_volume(request).await });
        volume.unwrap().into_inner().volume.unwrap()
    }

    fn snapshot(&self, driver: &Driver, name: &str, of: &str) -> String {
        let request = snapshots::request(&self.site, name, of);
        let made = self.runtime.block_on(async { driver.client().await.create_snapshot(request).await });
        made.unwrap().into_inner().snapshot.unwrap().snapshot_id
    }

    fn delete_snapshot(&self, driver: &Driver, id: &str) {
        let request = snapshots::delete(&self.site, id);
        self.runtime.block_on(async { driver.client().await.delete_snapshot(request).await }).unwrap();
    }

    fn delete(&self, driver: &Driver, id: &str) {
        let request = driver::delete(&self.site, id);
        self.runtime.block_on(async { driver.client().await.delete_volume(request).await }).unwrap();
    }

    /// What the cluster's clients have read since it was started, in bytes.
    fn read(&self) -> u64 {
        let dump = self.cluster().ceph(&["tell", "osd.0", "perf", "dump"]);
        let dump: serde_json::Value = serde_json::from_str(&dump).unwrap();
        dump["osd"]["op_r_out_bytes"].as_u64().unwrap()
    }

    fn written(&self, driver: &Driver) -> Written {
        self.written_to(self.create(driver, "pvc-written", None))
    }

    fn written_to(&self, volume: proto::Volume) -> Written {
        let (id, image) = (volume.volume_id, volume.volume_context["imageName"].clone());
        let device = self.node().exec(&["rbd", "map", "-o", "noudev", &format!("rbd/{image}")]);
        let (counter, pause, stop) =
            (self.site.path("counter"), self.site.path("pause"), self.site.path("stop"));
        // dd fails when the device does, and then the counter stands still.
        let line = format!(
            "n=0; while [ ! -e {} ]; do [ ! -e {} ] || {{ sleep 0.1; continue; }}; \
             dd if=/dev/zero of={device} bs=4k count=1 seek=$((n % 1000)) oflag=direct conv=notrunc 2>/dev/null \
             || break; n=$((n + 1)); echo $n >{}; done",
            stop.display(),
            pause.display(),
            counter.display()
        );
        let writer = self.node().spawn(&["sh", "-c", &line]);
        let written = Written { id, image, device, counter, writer };
        written.goes_on("at the beginning");
        written
    }

    fn grow(&self, driver: &Driver, id: &str, gib: i64) -> Result<i64, Status> {
        let request = driver::grow(&self.site, id, gib * GIB);
        let answer =
            self.runtime.block_on(async { driver.client().await.controller_expand_volume(request).await });
        answer.map(|answer| answer.into_inner().capacity_bytes)
    }

    /// The size of the device in the node, as soon as it is that or the time is up.
    fn device_has(&self, written: &Written, gib: i64) {
        let blocks = format!("/sys/class/block/{}/size", written.device.trim_start_matches("/dev/"));
        let until = Instant::now() + Duration::from_secs(10);
        while self.node().exec(&["cat", &blocks]).parse::<i64>().unwrap() * 512 != gib * GIB {
            assert!(Instant::now() < until, "the node does not see {gib} GiB");
        }
    }

    fn check_that_the_node_is_served(&self) {
        let blocklist = self.cluster().ceph(&["osd", "blocklist", "ls"]);
        assert!(!blocklist.contains(&self.node().ip), "{blocklist}");
    }

    fn clean_up(&self, driver: &Driver, mut written: Written) {
        std::fs::write(self.site.path("stop"), "").unwrap();
        written.writer.0.wait().unwrap();
        let until = Instant::now() + Duration::from_secs(10);
        let unmap = ["rbd", "unmap", "-o", "noudev", &written.device];
        while !self.node().command(&unmap).output().unwrap().status.success() {
            assert!(Instant::now() < until, "the device is still in use");
        }
        self.delete(driver, &written.id);
    }
}

impl Written {
    fn count(&self) -> u64 {
        std::fs::read_to_string(&self.counter).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0)
    }

    /// How long it takes until the writer has gone on.
    fn goes_on(&self, at: &str) -> Duration {
        let (since, before) = (Instant::now(), self.count());
        while self.count() < before + 3 {
            assert!(since.elapsed() < Duration::from_secs(60), "{at}: the writer does not go on");
            std::thread::sleep(Duration::from_millis(5));
        }
        since.elapsed()
    }
}

#[test]
fn a_volume_grows_under_its_writer() {
    let bench = Bench::new();
    ops::count(&bench.site);
    let driver = bench.start();
    let written = bench.written(&driver);
    let (mut longest, mut counts) = (Duration::ZERO, Vec::new());
    for gib in 2..12 {
        let before = ops::counted(&bench.site, &driver);
        assert_eq!(bench.grow(&driver, &written.id, gib).unwrap(), gib * GIB);
        counts.push(ops::counted(&bench.site, &driver) - before);
        bench.device_has(&written, gib);
        longest = longest.max(written.goes_on("after growth"));
    }
    println!("the writer stood still for {longest:?} at most; operations: {counts:?}");
    assert!(longest < Duration::from_secs(5), "{longest:?}");
    // Three of them get the lock from the kernel, two tell it that the lock is free again. librados
    // also counts a sign of life every five seconds, so one growth may have more of them.
    let least = counts.iter().min().unwrap();
    assert!(*least <= MOST_OPERATIONS, "{counts:?}");
    bench.check_that_the_node_is_served();
    bench.cluster().rbd(&["object-map", "check", &written.image]);
    bench.clean_up(&driver, written);
}

/// The image is a clone of a snapshot's, so the snapshot of it begins a flatten (ceph-csi's
/// default depths), whose client and the node take the lock from each other by turns.
#[test]
fn a_volume_is_flattened_under_its_writer_and_no_work_is_done_twice() {
    const DATA: u64 = 128 << 20;
    let bench = Bench::new();
    let driver = bench.start();
    let source = bench.create(&driver, "pvc-source", None);
    let spec = format!("rbd/{}", source.volume_context["imageName"]);
    let total = format!("{}", DATA);
    bench.cluster().rbd(&["bench", "--io-type", "write", "--io-size", "4M", "--io-total", &total, &spec]);
    let first = bench.snapshot(&driver, "snapshot-1", &source.volume_id);
    let restored = bench.create(&driver, "pvc-written", Some(Of::Snapshot(&first)));
    let written = bench.written_to(restored);
    let (read, since) = (bench.read(), Instant::now());
    let second = bench.snapshot(&driver, "snapshot-2", &written.id);
    let has_parent = || bench.cluster().rbd(&["info", &written.image]).contains("parent:");
    let (mut longest, mut count, mut moved, mut looked) = (Duration::ZERO, 0, Instant::now(), since);
    loop {
        if written.count() != count {
            (longest, count, moved) = (longest.max(moved.elapsed()), written.count(), Instant::now());
        }
        if looked.elapsed() > Duration::from_secs(1) {
            if !has_parent() {
                break;
            }
            looked = Instant::now();
        }
        assert!(since.elapsed() < Duration::from_secs(180), "it is not flattened: {}", bench.site.log());
        std::thread::sleep(Duration::from_millis(5));
    }
    let read = bench.read() - read;
    println!(
        "flattened {} MiB in {:?}, reading {} MiB, while the writer wrote {count} blocks and stood still for \
         {longest:?} at most",
        DATA >> 20,
        since.elapsed(),
        read >> 20
    );
    assert!(longest < Duration::from_secs(5), "{longest:?}");
    assert!(read < DATA * 3 / 2, "{read} bytes were read to copy {DATA}");
    bench.check_that_the_node_is_served();
    bench.cluster().rbd(&["object-map", "check", &written.image]);
    bench.delete_snapshot(&driver, &second);
    bench.clean_up(&driver, written);
    bench.delete_snapshot(&driver, &first);
    bench.delete(&driver, &source.volume_id);
}

#[test]
fn a_node_that_is_cut_off_is_named_at_once_and_later_and_goes_on() {
    let bench = Bench::new();
    let driver = bench.start();
    let written = bench.written(&driver);
    bench.node().cut();
    // Its watch is still there, then it is not.
    for wait in [Duration::ZERO, WATCH] {
        std::thread::sleep(wait);
        let status = bench.grow(&driver, &written.id, 2).unwrap_err();
        assert_eq!(status.code(), Code::Unavailable, "{status}");
        for word in [bench.node().ip.as_str(), written.image.as_str(), "dead or cut off"] {
            assert!(status.message().contains(word), "{word}: {status}");
        }
    }
    bench.node().join();
    println!("back after {:?}", written.goes_on("back on the network"));
    bench.check_that_the_node_is_served();
    let until = Instant::now() + Duration::from_secs(60);
    while let Err(status) = bench.grow(&driver, &written.id, 2) {
        assert!(Instant::now() < until && status.code() == Code::Unavailable, "{status}");
    }
    bench.device_has(&written, 2);
    bench.check_that_the_node_is_served();
    bench.clean_up(&driver, written);
}

#[test]
fn a_controller_that_is_killed_with_the_lock_holds_the_writer_up_until_its_watch_ends() {
    let bench = Bench::new();
    let mut driver = bench.start();
    let written = bench.written(&driver);
    // A writer that waits would have the lock back before the close; one that has nothing to
    // write leaves it to the controller.
    let pause = bench.site.path("pause");
    std::fs::write(&pause, "").unwrap();
    std::thread::sleep(Duration::from_secs(1));
    bench.site.arm("kill:before:image unlock");
    bench.grow(&driver, &written.id, 2).unwrap_err();
    assert!(driver.was_killed(Duration::from_secs(15)));
    bench.site.arm("");
    let locks = bench.cluster().rbd(&["lock", "ls", &written.image]);
    assert!(locks.contains("10.99.0.1:"), "the dead controller owns it: {locks}");
    std::fs::remove_file(pause).unwrap();
    let stood = written.goes_on("after the controller's death");
    println!("the writer stood still for {stood:?}");
    assert!((Duration::from_secs(5)..Duration::from_secs(45)).contains(&stood), "{stood:?}");
    bench.check_that_the_node_is_served();
    bench.device_has(&written, 2);
    let driver = bench.start();
    for gib in [2, 3] {
        assert_eq!(bench.grow(&driver, &written.id, gib).unwrap(), gib * GIB);
        written.goes_on("with the next controller");
    }
    bench.check_that_the_node_is_served();
    bench.clean_up(&driver, written);
}

#[test]
fn a_mapping_that_gives_its_lock_to_nobody_is_told_as_the_reason() {
    let bench = Bench::new();
    let driver = bench.start();
    let volume = bench.create(&driver, "pvc-exclusive", None);
    let spec = format!("rbd/{}", volume.volume_context["imageName"]);
    let device = bench.node().exec(&["rbd", "map", "-o", "noudev,exclusive", &spec]);
    let status = bench.grow(&driver, &volume.volume_id, 2).unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition, "{status}");
    assert!(status.message().contains("krbd's option `exclusive`"), "{status}");
    bench.check_that_the_node_is_served();
    bench.node().exec(&["rbd", "unmap", "-o", "noudev", &device]);
    assert_eq!(bench.grow(&driver, &volume.volume_id, 2).unwrap(), 2 * GIB);
}
