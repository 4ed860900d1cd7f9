//! Snapshots, restored volumes and clones of a volume that a pod writes to without a pause:
//! what they hold is one moment between the call and its answer, byte for byte.
//!
//! What a reader gets wrong: the writer syncs each record before it begins the next. So a
//! moment is right when it holds every record up to some number that was not yet synced at
//! the call (else it is older than the call) and was begun at the answer.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

#[path = "moments/inside.rs"]
mod inside;
#[path = "moments/records.rs"]
mod records;
mod support;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rbd_csi::csi::proto;
use rbd_csi::csi::proto::volume_capability::{AccessType, BlockVolume, MountVolume};

use inside::Mouth;
use records::Held;
use support::bench::{Bench, GIB};
use support::driver::{self, Driver};
use support::lab::{Lab, LabSpec, Node};
use support::random;
use support::requests;
use support::snapshots::Of;

/// Moments of each kind of volume, with `SWEEP=full` (`make soak`), and without.
const ROUNDS: [u64; 2] = [20, 4];
const STEP: i64 = 256 << 20;
/// The bytes that stay lie in the last of them that the volume has when they are written.
const STILL: u64 = 8 << 20;
const KUBELET: &str = "/var/lib/kubelet/moments";

/// What a claim asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    FileSystem(&'static str),
    Block,
}

impl Kind {
    fn capability(self) -> proto::VolumeCapability {
        let access_type = match self {
            Self::FileSystem(name) => {
                AccessType::Mount(MountVolume { fs_type: name.to_owned(), ..Default::default() })
            }
            Self::Block => AccessType::Block(BlockVolume {}),
        };
        proto::VolumeCapability { access_type: Some(access_type), ..driver::mount() }
    }
}

/// How a moment is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// A snapshot, restored.
    Snapshot,
    /// The same, the snapshot deleted before somebody uses what was restored.
    GoneSnapshot,
    /// A clone of the volume.
    Clone,
}

/// A volume in a pod of the node.
struct Volume {
    volume: proto::Volume,
    staging: String,
    target: String,
}

/// One kind's world.
struct World {
    kind: Kind,
    bench: Bench,
    controller: Driver,
    plugin: Driver,
    times: RefCell<BTreeMap<&'static str, Vec<Duration>>>,
}

impl World {
    fn new(kind: Kind) -> Self {
        let lab = Lab::shared(LabSpec { clusters: 1, nodes: 1 });
        // It takes the lab that is there.
        let bench = Bench::new();
        let (controller, plugin) = (bench.start(), bench.site.node(lab.node(0)));
        let this = Self { kind, bench, controller, plugin, times: RefCell::default() };
        this.prepare_node();
        this
    }

    /// With the folders that the kubelet would make, all at once.
    fn prepare_node(&self) {
        let rounds = (0..rounds()).map(|round| format!("round-{round}"));
        let names = rounds.chain(["source".to_owned(), "further".to_owned()]);
        let folders: Vec<String> = names
            .flat_map(|name| ["globalmount", "pod"].map(|part| format!("{KUBELET}/{name}/{part}")))
            .collect();
        self.node().shell(&format!("mkdir -p {}", folders.join(" ")));
        // How often XFS writes what its journal has: each second, not each half minute.
        self.node().shell("echo 100 >/proc/sys/fs/xfs/xfssyncd_centisecs");
    }

    fn node(&self) -> &Node {
        self.bench.lab.node(0)
    }

    /// Does something and keeps how long it took.
    fn timed<T>(&self, what: &'static str, work: impl FnOnce() -> T) -> T {
        let since = Instant::now();
        let done = work();
        self.times.borrow_mut().entry(what).or_default().push(since.elapsed());
        done
    }

    fn create(&self, name: &str, of: Option<Of<'_>>, size: i64) -> Volume {
        let mut request = driver::create(&self.bench.site, name, size);
        request.volume_capabilities = vec![self.kind.capability()];
        request.volume_content_source = of.map(Of::content);
        let volume = self.bench.send(&self.controller, request).unwrap();
        assert_eq!(volume.capacity_bytes, size, "{name}");
        let staging = format!("{KUBELET}/{name}/globalmount");
        let target = format!("{KUBELET}/{name}/pod/mount");
        Volume { volume, staging, target }
    }

    /// Stages and publishes it.
    fn enter(&self, volume: &Volume) {
        let mut stage = requests::stage(&self.bench.site, &volume.volume, &volume.staging);
        stage.volume_capability = Some(self.kind.capability());
        let mut publish = requests::publish(&volume.volume, &volume.staging, &volume.target);
        publish.volume_capability = Some(self.kind.capability());
        self.timed("NodeStageVolume", || {
            self.bench.wait(async { self.plugin.node().await.node_stage_volume(stage).await }).unwrap();
        });
        self.bench.wait(async { self.plugin.node().await.node_publish_volume(publish).await }).unwrap();
    }

    fn leave(&self, volume: &Volume) {
        let unpublish = requests::unpublish(&volume.volume, &volume.target);
        let unstage = requests::unstage(&volume.volume, &volume.staging);
        self.bench.wait(async { self.plugin.node().await.node_unpublish_volume(unpublish).await }).unwrap();
        self.timed("NodeUnstageVolume", || {
            self.bench.wait(async { self.plugin.node().await.node_unstage_volume(unstage).await }).unwrap();
        });
    }

    fn delete(&self, volume: &Volume) {
        self.timed("DeleteVolume", || {
            self.bench.delete(&self.controller, &volume.volume.volume_id).unwrap();
        });
    }

    fn snapshot(&self, name: &str, volume: &Volume) -> String {
        let snapshot = self.timed("CreateSnapshot", || {
            self.bench.snapshot(&self.controller, name, &volume.volume.volume_id).unwrap()
        });
        assert!(snapshot.ready_to_use);
        snapshot.snapshot_id
    }

    fn delete_snapshot(&self, id: &str) {
        self.timed("DeleteSnapshot", || self.bench.delete_snapshot(&self.controller, id).unwrap());
    }

    fn restore(&self, name: &str, snapshot: &str, size: i64) -> Volume {
        self.timed("CreateVolume of a snapshot", || self.create(name, Some(Of::Snapshot(snapshot)), size))
    }

    /// As the resizer and the kubelet do it.
    fn grow(&self, volume: &Volume, size: i64) {
        let id = &volume.volume.volume_id;
        let range = Some(proto::CapacityRange { required_bytes: size, limit_bytes: 0 });
        let controller = proto::ControllerExpandVolumeRequest {
            volume_id: id.clone(),
            capacity_range: range,
            secrets: self.bench.site.secrets.clone(),
            volume_capability: Some(self.kind.capability()),
        };
        let answer = self.timed("ControllerExpandVolume", || {
            self.bench
                .wait(async { self.controller.client().await.controller_expand_volume(controller).await })
                .unwrap()
        });
        assert_eq!(answer.get_ref().capacity_bytes, size);
        let node = proto::NodeExpandVolumeRequest {
            volume_id: id.clone(),
            volume_path: volume.target.clone(),
            staging_target_path: volume.staging.clone(),
            capacity_range: range,
            volume_capability: Some(self.kind.capability()),
            ..Default::default()
        };
        self.timed("NodeExpandVolume", || {
            self.bench.wait(async { self.plugin.node().await.node_expand_volume(node).await }).unwrap();
        });
    }

    fn print_times(&self) {
        for (what, times) in self.times.borrow().iter() {
            let (sum, most) = (times.iter().sum::<Duration>(), times.iter().max().unwrap());
            let mean = sum / u32::try_from(times.len()).unwrap();
            println!("{:?}: {what}: {} times, {mean:.0?} each, {most:.0?} at most", self.kind, times.len());
        }
    }
}

/// The volume that is written to, and what is known of it.
struct Source<'a> {
    world: &'a World,
    volume: Volume,
    mouth: Mouth,
    size: i64,
    /// The offsets of what was written once, by number.
    still: Vec<u64>,
    longest: Duration,
}

impl<'a> Source<'a> {
    fn start(world: &'a World) -> Self {
        let volume = world.create("source", None, GIB);
        world.enter(&volume);
        let mouth = Mouth::start(world.bench.lab, &volume.target);
        let mut source = Self { world, volume, mouth, size: GIB, still: Vec::new(), longest: Duration::ZERO };
        source.write_still();
        source
    }

    /// Bytes that all later moments have; on a raw device near its end.
    fn write_still(&mut self) {
        let offset = u64::try_from(self.size).unwrap() - STILL;
        self.mouth.write_still(&self.volume.target, self.still.len() as u64, offset);
        self.still.push(offset);
    }

    /// Looks where the writer is; it has gone on since the last look.
    #[track_caller]
    fn begun(&mut self) -> u64 {
        let (begun, longest) = self.mouth.begun();
        self.longest = self.longest.max(longest);
        begun
    }

    /// Grows it under the writer; what is new is used at once.
    fn grow(&mut self) {
        let (world, target) = (self.world, self.volume.target.clone());
        let before = self.mouth.size(&target);
        self.size += STEP;
        world.grow(&self.volume, self.size);
        let after = self.mouth.size(&target);
        assert_grown(before, after);
        self.write_still();
        if world.kind == Kind::FileSystem("xfs") {
            self.wait_until_xfs_has_written_its_size();
        }
    }

    /// A kernel such as 6.1 cannot replay a journal that alone knows of the new size.
    fn wait_until_xfs_has_written_its_size(&self) {
        let device = self.world.node().exec(&["findmnt", "-no", "SOURCE", &self.volume.target]);
        // sb_dblocks of the superblock; mkfs has made blocks of 4 KiB.
        let look = format!(
            "dd if={device} iflag=direct bs=4k count=1 2>/dev/null | od -A n -t u8 --endian=big -j 8 -N 8"
        );
        let until = Instant::now() + Duration::from_secs(60);
        while self.world.node().shell(&look).trim().parse::<i64>().unwrap() * 4096 != self.size {
            assert!(Instant::now() < until, "the kernel has not written the new size");
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    /// Makes a volume of one moment, in a pod; and says between which records that is.
    fn moment(&mut self, round: u64, way: Way, size: i64) -> (Volume, Option<String>, (u64, u64)) {
        let (world, name) = (self.world, format!("round-{round}"));
        let before = self.begun();
        if way == Way::Clone {
            let of = Some(Of::Volume(&self.volume.volume.volume_id));
            let volume = world.timed("CreateVolume of a volume", || world.create(&name, of, size));
            return (volume, None, (before, self.begun()));
        }
        let snapshot = world.snapshot(&name, &self.volume);
        let bounds = (before, self.begun());
        let volume = world.restore(&name, &snapshot, size);
        if way == Way::Snapshot {
            return (volume, Some(snapshot), bounds);
        }
        world.delete_snapshot(&snapshot);
        (volume, None, bounds)
    }

    /// The volume holds all that was synced before, nothing that was begun after.
    fn check(&self, round: u64, volume: &Volume, (before, after): (u64, u64)) -> Held {
        let held = self.mouth.held(&volume.target);
        assert!(held.last + 1 >= before, "{round}: {held:?} lacks what was synced before {before}");
        let seen = held.last + u64::from(held.torn);
        assert!(seen <= after, "{round}: {held:?} has what was begun after {after}");
        for (number, offset) in (0..).zip(&self.still) {
            assert!(self.mouth.has_still(&volume.target, number, *offset), "{round}: {number} at {offset}");
        }
        held
    }

    fn round(&mut self, round: u64) {
        let world = self.world;
        if round.is_multiple_of(5) {
            self.grow();
        }
        let way =
            [Way::Snapshot, Way::Clone, Way::GoneSnapshot, Way::Clone][usize::try_from(round % 4).unwrap()];
        let more = if round % 5 > 2 { STEP } else { 0 };
        let source = self.mouth.size(&self.volume.target);
        let (volume, snapshot, bounds) = self.moment(round, way, self.size + more);
        world.enter(&volume);
        let held = world.timed("reading", || self.check(round, &volume, bounds));
        let seen = self.mouth.size(&volume.target);
        if more > 0 {
            assert_grown(source, seen)
        } else {
            assert_eq!(seen, source, "{round}")
        }
        println!("{:?} {round} {way:?}: {bounds:?} {held:?}, {seen} bytes", world.kind);
        world.leave(&volume);
        world.delete(&volume);
        if let Some(snapshot) = snapshot {
            world.delete_snapshot(&snapshot);
        }
    }

    /// A snapshot of what was restored is that, with what its own pod wrote; also after images
    /// below it were flattened, and the restored volume and its snapshot are gone.
    fn generations(&mut self, round: u64) {
        let (world, own, offset) = (self.world, 1000 + round, self.still[0] - STILL);
        let (restored, snapshot, bounds) = self.moment(round, Way::Snapshot, self.size);
        world.enter(&restored);
        let held = Held { torn: false, ..self.check(round, &restored, bounds) };
        self.mouth.write_still(&restored.target, own, offset);
        // So late that the node has mapped the further volume by then.
        let flatten = |nth: u64| format!("delay=8000:before:rbd_flatten_with_progress#{nth}");
        world.bench.site.arm(&format!("{};{}", flatten(1), flatten(2)));
        let second = world.snapshot("further", &restored);
        let volume = world.restore("further", &second, self.size);
        world.enter(&volume);
        assert_eq!(self.mouth.held(&volume.target), held, "{round}");
        world.bench.wait_until("flattened", || {
            let keys = world.bench.keys("csi.volumes.default");
            !keys.keys().any(|key| key.starts_with("rbd-csi.flatten."))
        });
        world.leave(&restored);
        world.delete(&restored);
        for snapshot in snapshot.iter().chain([&second]) {
            world.delete_snapshot(snapshot);
        }
        assert_eq!(self.mouth.held(&volume.target), held, "{round}, after the flatten");
        assert!(self.mouth.has_still(&volume.target, own, offset), "{round}");
        world.leave(&volume);
        world.delete(&volume);
    }

    /// The source has all that was ever written to it.
    fn end(mut self) {
        self.mouth.stop();
        let last = self.begun();
        let held = self.check(rounds(), &self.volume, (last + 1, last));
        println!("{:?}: {held:?}; the longest record took {:?}", self.world.kind, self.longest);
        self.mouth.end();
        self.world.leave(&self.volume);
        self.world.delete(&self.volume);
    }
}

/// By the most of a step: the file system needs some of it for itself.
#[track_caller]
fn rounds() -> u64 {
    ROUNDS[usize::from(!random::full())]
}

fn assert_grown(before: u64, after: u64) {
    let step = u64::try_from(STEP).unwrap();
    assert!(after > before + step * 8 / 10 && after <= before + step, "{before} {after}");
}

fn moments_of(kind: Kind) {
    let world = World::new(kind);
    let since = Instant::now();
    let mut source = Source::start(&world);
    for round in 0..rounds() {
        source.round(round);
    }
    source.end();
    world.bench.wait_until_empty("at the end");
    println!("{kind:?}: {:?} in all", since.elapsed());
    world.print_times();
    assert_eq!(world.node().shell("ls /sys/bus/rbd/devices | wc -l"), "0");
}

#[test]
fn what_was_restored_is_a_source_as_good_as_any() {
    let world = World::new(Kind::Block);
    let mut source = Source::start(&world);
    for round in 0..2 {
        source.generations(round);
    }
    source.end();
    world.bench.wait_until_empty("at the end");
}

#[test]
fn volumes_of_an_ext4_hold_a_moment() {
    moments_of(Kind::FileSystem("ext4"));
}

#[test]
fn volumes_of_an_xfs_hold_a_moment() {
    moments_of(Kind::FileSystem("xfs"));
}

#[test]
fn volumes_of_a_raw_device_hold_a_moment() {
    moments_of(Kind::Block);
}
