//! ControllerExpandVolume: what grows, what does not, and that nothing ever shrinks.

use std::io::{BufRead as _, BufReader};
use std::process::Stdio;
use std::time::{Duration, Instant};

use rbd_csi::ceph::{WriteOp, lock};
use rbd_csi::csi::proto;
use rbd_csi::csi::proto::volume_capability::{AccessType, BlockVolume};
use serde_json::Value;
use tonic::{Code, Status};

use super::crash;
use crate::support::bench::{Bench, GIB, SOON};
use crate::support::driver::{self, Driver};
use crate::support::lab::Running;
use crate::support::snapshots::Of;

const NAME: &str = "pvc-growing";
const MIB: i64 = 1 << 20;
/// `osd_client_watch_timeout` and what Ceph needs to notice.
const WATCH: Duration = Duration::from_secs(33);

/// The size that is answered, and whether the node has to do something.
type Grown = Result<(i64, bool), Status>;

fn request(bench: &Bench, id: &str, required: i64, limit: i64) -> proto::ControllerExpandVolumeRequest {
    proto::ControllerExpandVolumeRequest {
        volume_id: id.to_owned(),
        capacity_range: Some(proto::CapacityRange { required_bytes: required, limit_bytes: limit }),
        secrets: bench.site.secrets.clone(),
        volume_capability: Some(driver::mount()),
    }
}

fn send(bench: &Bench, driver: &Driver, request: proto::ControllerExpandVolumeRequest) -> Grown {
    let answer = bench.wait(async { driver.client().await.controller_expand_volume(request).await })?;
    Ok((answer.get_ref().capacity_bytes, answer.get_ref().node_expansion_required))
}

/// Grows a mounted volume to that size.
pub fn grow(bench: &Bench, driver: &Driver, id: &str, size: i64) -> Grown {
    send(bench, driver, request(bench, id, size, 0))
}

#[track_caller]
fn refused(answer: Grown, code: Code, words: &[&str]) {
    let status = answer.unwrap_err();
    assert_eq!(status.code(), code, "{status}");
    for word in words {
        assert!(status.message().contains(word), "{word}: {status}");
    }
}

fn image_of(id: &str) -> String {
    format!("csi-vol-{}", &id[id.len() - 36..])
}

fn info(bench: &Bench, image: &str) -> Value {
    serde_json::from_str(&bench.cluster().rbd(&["info", image, "--format", "json"])).unwrap()
}

fn size(bench: &Bench, id: &str) -> i64 {
    info(bench, &image_of(id))["size"].as_i64().unwrap()
}

/// The clients that the cluster serves no more.
fn blocklist(bench: &Bench) -> String {
    bench.cluster().ceph(&["osd", "blocklist", "ls"])
}

fn clean_up(bench: &Bench, driver: &Driver, id: &str) {
    bench.delete(driver, id).unwrap();
    bench.wait_until_empty("at the end");
}

/// Grows a volume, asks again and for less, and looks at the image each time.
fn grows(bench: &Bench, driver: &Driver, id: &str) {
    let before = info(bench, &image_of(id));
    assert_eq!(grow(bench, driver, id, 2 * GIB).unwrap(), (2 * GIB, true));
    assert_eq!(size(bench, id), 2 * GIB);
    for again in [2 * GIB, GIB, 2 * GIB - 1, 1, 0] {
        assert_eq!(grow(bench, driver, id, again).unwrap(), (2 * GIB, true), "{again}");
    }
    assert_eq!(size(bench, id), 2 * GIB);
    let after = info(bench, &image_of(id));
    for field in ["id", "features", "flags", "object_size", "data_pool", "stripe_unit", "parent"] {
        assert_eq!(after[field], before[field], "{field}");
    }
    if after["features"].as_array().unwrap().contains(&Value::from("object-map")) {
        bench.cluster().rbd(&["object-map", "check", &image_of(id)]);
    }
    // Nobody watches it, and nobody owns its lock.
    assert_eq!(bench.cluster().rbd(&["lock", "ls", &image_of(id)]).trim(), "");
    let status = bench.cluster().rbd(&["status", &image_of(id)]);
    assert!(status.contains("Watchers: none"), "{status}");
}

#[test]
fn images_of_all_features_grow() {
    let bench = Bench::new();
    let driver = bench.start();
    bench.cluster().ceph(&["osd", "pool", "create", "growing-data", "8"]);
    bench.cluster().ceph(&["osd", "pool", "application", "enable", "growing-data", "rbd"]);
    for parameters in [
        &[][..],
        &[("imageFeatures", "layering")],
        &[("imageFeatures", "layering,exclusive-lock")],
        &[("dataPool", "growing-data")],
        &[("stripeUnit", "65536"), ("stripeCount", "4"), ("objectSize", "1048576")],
    ] {
        let volume = bench.send(&driver, bench.request(NAME, parameters)).unwrap();
        grows(&bench, &driver, &volume.volume_id);
        clean_up(&bench, &driver, &volume.volume_id);
    }
    let mut plain = bench.request(NAME, &[]);
    plain.parameters.remove("imageFeatures");
    let id = bench.send(&driver, plain).unwrap().volume_id;
    grows(&bench, &driver, &id);
    clean_up(&bench, &driver, &id);
    bench.cluster().ceph(&[
        "osd",
        "pool",
        "rm",
        "growing-data",
        "growing-data",
        "--yes-i-really-really-mean-it",
    ]);
}

#[test]
fn a_clone_grows_beyond_its_parent() {
    let bench = Bench::new();
    let driver = bench.start();
    let (rbd, id) = (|args: &[&str]| bench.cluster().rbd(args), bench.create(&driver, NAME).unwrap());
    let image = image_of(&id);
    rbd(&["create", "parent", "--size", "1G"]);
    rbd(&["snap", "create", "--no-progress", "parent@moment"]);
    rbd(&["rm", "--no-progress", &image]);
    rbd(&["clone", "--rbd-default-clone-format", "2", "parent@moment", &image]);
    let new = info(&bench, &image)["id"].as_str().unwrap().to_owned();
    bench.set_keys(&format!("csi.volume.{}", &id[id.len() - 36..]), &[("csi.imageid", &new)]);
    grows(&bench, &driver, &id);
    assert_eq!(info(&bench, &image)["parent"]["overlap"], GIB);
    rbd(&["flatten", "--no-progress", &image]);
    rbd(&["snap", "rm", "--no-progress", "parent@moment"]);
    rbd(&["rm", "--no-progress", "parent"]);
    clean_up(&bench, &driver, &id);
}

#[test]
fn a_size_is_within_its_range_and_rounded_as_at_the_creation() {
    let bench = Bench::new();
    let driver = bench.start();
    let id = bench.create(&driver, NAME).unwrap();
    let to =
        |required, limit| send(&bench, &driver, request(&bench, &id, required, limit)).map(|grown| grown.0);
    assert_eq!(to(GIB + 1, 0).unwrap(), GIB + MIB);
    assert_eq!(to(2 * GIB - 5, 2 * GIB).unwrap(), 2 * GIB);
    assert_eq!(to(2 * GIB + 1, 2 * GIB + 8192).unwrap(), 2 * GIB + 4096);
    for (required, limit) in
        [(3 * GIB, GIB), (2 * GIB + 4097, 2 * GIB + 4098), (GIB, GIB + MIB), (i64::MAX, 0)]
    {
        let status = to(required, limit).unwrap_err();
        assert_eq!(status.code(), Code::OutOfRange, "{required} {limit}: {status}");
    }
    for (required, limit) in [(-1, 0), (1, -1)] {
        assert_eq!(to(required, limit).unwrap_err().code(), Code::InvalidArgument);
    }
    assert_eq!(size(&bench, &id), 2 * GIB + 4096);

    // What the node has to do follows from the use; a CO that does not say it may mount it.
    let mut block = driver::mount();
    block.access_type = Some(AccessType::Block(BlockVolume {}));
    for (capability, required) in [(Some(block), false), (Some(driver::mount()), true), (None, true)] {
        for size in [2 * GIB, 3 * GIB] {
            let mut request = request(&bench, &id, size, 0);
            request.volume_capability = capability.clone();
            assert_eq!(send(&bench, &driver, request).unwrap().1, required, "{capability:?}");
        }
    }
    clean_up(&bench, &driver, &id);
}

#[test]
fn what_is_absent_static_encrypted_or_not_primary_does_not_grow() {
    let bench = Bench::new();
    let driver = bench.start();
    let id = bench.create(&driver, NAME).unwrap();
    let image = image_of(&id);
    let object = format!("csi.volume.{}", &id[id.len() - 36..]);
    let grow = |id: &str| grow(&bench, &driver, id, 2 * GIB);

    refused(grow(&bench.nothing()), Code::NotFound, &["does not exist"]);
    refused(
        grow(&bench.nothing().replace(driver::CLUSTER_ID, "lab-clusteR")),
        Code::FailedPrecondition,
        &["lab-clusteR"],
    );
    refused(grow("my-image"), Code::InvalidArgument, &["volume ID my-image does not support expansion"]);
    refused(grow("mig_mons-a_image-b_c"), Code::FailedPrecondition, &["does not support expansion"]);
    refused(grow(""), Code::InvalidArgument, &["volume_id"]);
    let mut nothing = request(&bench, &id, 1, 0);
    nothing.capacity_range = None;
    refused(send(&bench, &driver, nothing), Code::InvalidArgument, &["capacity_range"]);

    // By what ceph-csi writes into the journal, and onto the image today and before.
    bench.set_keys(&object, &[("csi.volume.encryptKMS", "vault")]);
    refused(grow(&id), Code::FailedPrecondition, &["encrypted"]);
    bench
        .wait(bench.rados.write("undo", &object, WriteOp::new().omap_remove(["csi.volume.encryptKMS"])))
        .unwrap();
    for key in ["rbd.csi.ceph.com/encrypted", ".rbd.csi.ceph.com/encrypted"] {
        bench.cluster().rbd(&["image-meta", "set", &image, key, "encrypted"]);
        refused(grow(&id), Code::FailedPrecondition, &["encrypted"]);
        bench.cluster().rbd(&["image-meta", "remove", &image, key]);
    }

    bench.cluster().rbd(&["mirror", "pool", "enable", "rbd", "image"]);
    bench.cluster().rbd(&["mirror", "image", "enable", &image, "snapshot"]);
    assert_eq!(grow(&id).unwrap(), (2 * GIB, true), "a primary one grows");
    bench.cluster().rbd(&["mirror", "image", "demote", &image]);
    let demoted = super::expand::grow(&bench, &driver, &id, 3 * GIB);
    refused(demoted, Code::FailedPrecondition, &[&image, "not primary"]);
    bench.cluster().rbd(&["mirror", "image", "promote", &image]);
    bench.cluster().rbd(&["mirror", "image", "disable", &image]);
    bench.cluster().rbd(&["mirror", "pool", "disable", "rbd"]);
    assert_eq!(size(&bench, &id), 2 * GIB);
    bench.wait(bench.rados.remove_if_there("clean up", "rbd_mirroring")).unwrap();
    clean_up(&bench, &driver, &id);
}

#[test]
fn a_full_pool_lets_nothing_grow() {
    let bench = Bench::new();
    let driver = bench.start();
    let id = bench.create(&driver, NAME).unwrap();
    let plain = bench.request("pvc-plain", &[("imageFeatures", "layering")]);
    let plain = bench.send(&driver, plain).unwrap().volume_id;
    let before = info(&bench, &image_of(&id));
    bench.set_quota("1");
    let answer = grow(&bench, &driver, &id, 400 * GIB);
    refused(answer, Code::ResourceExhausted, &["EDQUOT", &image_of(&id)]);
    // What is large enough needs no room, nor does an image that has no map of its objects.
    assert_eq!(grow(&bench, &driver, &id, GIB).unwrap(), (GIB, true));
    assert_eq!(grow(&bench, &driver, &plain, 2 * GIB).unwrap(), (2 * GIB, true));
    assert_eq!(info(&bench, &image_of(&id)), before);
    bench.set_quota("0");
    bench.delete(&driver, &plain).unwrap();
    assert_eq!(grow(&bench, &driver, &id, 2 * GIB).unwrap(), (2 * GIB, true));
    grows(&bench, &driver, &id);
    clean_up(&bench, &driver, &id);
}

/// There is room for the clone, and then none for the map of its objects at the size that is wanted.
#[test]
fn a_restored_volume_that_finds_no_room_to_grow_is_taken_back() {
    let bench = Bench::new();
    let driver = bench.start();
    let source = bench.create(&driver, NAME).unwrap();
    let snapshot = bench.snapshot(&driver, "snapshot-1", &source).unwrap().snapshot_id;
    let mut larger = bench.request_of("pvc-larger", Of::Snapshot(&snapshot), &[]);
    larger.capacity_range = Some(proto::CapacityRange { required_bytes: 400 * GIB, limit_bytes: 0 });
    bench.site.arm("delay=15000:before:object map size");
    let late = std::thread::scope(|scope| {
        let late = scope.spawn(|| bench.send(&driver, larger.clone()));
        bench.wait_until("it is about to grow", || {
            bench.site.steps().iter().any(|step| step.starts_with("object map size"))
        });
        bench.set_quota("1");
        late.join().unwrap()
    });
    bench.site.arm("");
    let status = late.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
    for word in ["EDQUOT", "cannot grow"] {
        assert!(status.message().contains(word), "{word}: {status}");
    }
    bench.set_quota("0");
    let images = bench.cluster().rbd(&["ls", "rbd"]);
    assert_eq!(images.lines().count(), 2, "the source and the snapshot: {images}");
    let made = bench.send(&driver, larger).unwrap();
    assert_eq!(made.capacity_bytes, 400 * GIB);
    bench.cluster().rbd(&["object-map", "check", &image_of(&made.volume_id)]);
    bench.delete_snapshot(&driver, &snapshot).unwrap();
    bench.delete(&driver, &source).unwrap();
    clean_up(&bench, &driver, &made.volume_id);
}

/// A kernel that got the lock of an image whose object map does not fit its size would fail the
/// pod's writes: whatever becomes of a growth, both fit when the lock is given back.
#[test]
fn a_growth_that_fails_between_its_writes_leaves_a_map_that_fits() {
    let bench = Bench::new();
    let driver = bench.start();
    let id = bench.create(&driver, NAME).unwrap();
    let image_id = info(&bench, &image_of(&id))["id"].as_str().unwrap().to_owned();
    let objects = || {
        let id = rbd_csi::ceph::ImageId::new(image_id.clone());
        bench.wait(bench.rados.object_map(&id)).unwrap().unwrap().len()
    };
    // The answer is lost behind the write, or the write is not made.
    for (plan, code) in [
        ("fail=110:after:object map size", Code::DeadlineExceeded),
        ("fail=5:before:image size", Code::Unavailable),
        ("fail=110:before:image size", Code::DeadlineExceeded),
    ] {
        bench.site.arm(plan);
        let status = grow(&bench, &driver, &id, 2 * GIB).unwrap_err();
        assert!([code, Code::Unavailable].contains(&status.code()), "{plan}: {status}");
        bench.site.arm("");
        assert_eq!((size(&bench, &id), objects()), (GIB, 256), "{plan}");
        assert_eq!(bench.cluster().rbd(&["lock", "ls", &image_of(&id)]).trim(), "", "{plan}");
    }
    // A map that is not there is librbd's to tell of: the volume is not gone.
    bench.wait(bench.rados.remove_if_there("test", &format!("rbd_object_map.{image_id}"))).unwrap();
    assert_eq!(grow(&bench, &driver, &id, 2 * GIB).unwrap(), (2 * GIB, true));
    clean_up(&bench, &driver, &id);
}

/// The lock of a client that lives, and whose watch has ended: nobody else could ever break it but by
/// blocklisting that client.
#[test]
fn a_lock_that_could_not_be_given_back_is_taken_again() {
    let bench = Bench::new();
    let driver = bench.start();
    let id = bench.create(&driver, NAME).unwrap();
    let before = blocklist(&bench);
    bench.site.arm(
        "fail=5:before:image unlock#1;fail=5:before:image unlock#2;fail=5:before:image unlock#3;\
                    fail=5:before:image unlock#4",
    );
    assert_eq!(grow(&bench, &driver, &id, 2 * GIB).unwrap(), (2 * GIB, true), "the size stands");
    bench.site.arm("");
    assert_ne!(bench.cluster().rbd(&["lock", "ls", &image_of(&id)]).trim(), "", "the lock is left");
    assert_eq!(grow(&bench, &driver, &id, 3 * GIB).unwrap(), (3 * GIB, true));
    assert_eq!(bench.cluster().rbd(&["lock", "ls", &image_of(&id)]).trim(), "");
    assert_eq!(blocklist(&bench), before);
    clean_up(&bench, &driver, &id);
}

/// Opens an image with librbd, takes its lock, and stands still.
const OWNER: &str = "
import rados, rbd, sys
cluster = rados.Rados(conffile=sys.argv[1])
cluster.connect()
image = rbd.Image(cluster.open_ioctx('rbd'), sys.argv[2])
image.lock_acquire(rbd.RBD_LOCK_MODE_EXCLUSIVE)
print(cluster.get_instance_id(), flush=True)
sys.stdin.read()
";

#[test]
fn a_dead_node_that_owns_the_lock_is_named_and_never_blocklisted() {
    let bench = Bench::new();
    let driver = bench.start();
    let id = bench.create(&driver, NAME).unwrap();
    let header = format!("rbd_header.{}", info(&bench, &image_of(&id))["id"].as_str().unwrap());
    // The lock as krbd takes it, of a client without a watch: what a dead node leaves.
    let cookie = "auto 18446462598732840961";
    let take = lock::take(WriteOp::new().assert_exists(), "rbd_lock", cookie);
    bench.wait(bench.rados.write("lock", &header, take)).unwrap();
    let before = blocklist(&bench);
    let owner = bench.wait(bench.rados.lock_holder(&header, "rbd_lock")).unwrap().unwrap();
    for _ in 0..2 {
        let refusal = grow(&bench, &driver, &id, 2 * GIB);
        let address = owner.address.trim_start_matches("v1:");
        refused(refusal, Code::Unavailable, &[&image_of(&id), address, "dead or cut off"]);
    }
    // Large enough asks for no lock.
    assert_eq!(grow(&bench, &driver, &id, GIB).unwrap(), (GIB, true));
    assert_eq!((blocklist(&bench), size(&bench, &id)), (before, GIB));
    assert!(bench.wait(bench.rados.lock_holder(&header, "rbd_lock")).unwrap().is_some(), "it keeps the lock");
    // By hand: nobody is to take that away either.
    let give_back = lock::give_back(WriteOp::new(), "rbd_lock", cookie);
    bench.wait(bench.rados.write("unlock", &header, give_back)).unwrap();
    bench.cluster().rbd(&["lock", "add", &image_of(&id), "maintenance"]);
    refused(grow(&bench, &driver, &id, 2 * GIB), Code::Unavailable, &["by hand"]);
    let locks: Value =
        serde_json::from_str(&bench.cluster().rbd(&["lock", "ls", &image_of(&id), "--format", "json"]))
            .unwrap();
    bench.cluster().rbd(&["lock", "rm", &image_of(&id), "maintenance", locks[0]["locker"].as_str().unwrap()]);
    assert_eq!(grow(&bench, &driver, &id, 2 * GIB).unwrap(), (2 * GIB, true));
    clean_up(&bench, &driver, &id);
}

#[test]
fn a_librbd_client_that_died_with_the_lock_is_fenced() {
    let bench = Bench::new();
    let driver = bench.start();
    let id = bench.create(&driver, NAME).unwrap();
    let mut command = bench.lab.command("/usr/bin/python3");
    command.args(["-c", OWNER]).arg(&bench.cluster().conf).arg(image_of(&id));
    let mut owner = Running(command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap());
    let mut number = String::new();
    BufReader::new(owner.0.stdout.take().unwrap()).read_line(&mut number).unwrap();
    assert!(!number.trim().is_empty(), "the owner has the lock");
    let header = format!("rbd_header.{}", info(&bench, &image_of(&id))["id"].as_str().unwrap());
    let held = bench.wait(bench.rados.lock_holder(&header, "rbd_lock")).unwrap().unwrap();
    // A living one gives it up.
    assert_eq!(grow(&bench, &driver, &id, 2 * GIB).unwrap(), (2 * GIB, true));
    assert!(!blocklist(&bench).contains(held.address.trim_start_matches("v1:")));
    drop(owner.0.stdin.take());
    owner.0.wait().unwrap();

    let mut command = bench.lab.command("/usr/bin/python3");
    command.args(["-c", OWNER]).arg(&bench.cluster().conf).arg(image_of(&id));
    let mut owner = Running(command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap());
    BufReader::new(owner.0.stdout.take().unwrap()).read_line(&mut number).unwrap();
    let held = bench.wait(bench.rados.lock_holder(&header, "rbd_lock")).unwrap().unwrap();
    owner.0.kill().unwrap();
    owner.0.wait().unwrap();
    std::thread::sleep(WATCH);
    assert_eq!(grow(&bench, &driver, &id, 3 * GIB).unwrap(), (3 * GIB, true));
    let address = held.address.trim_start_matches("v1:");
    assert!(blocklist(&bench).contains(address), "{address}: {}", blocklist(&bench));
    clean_up(&bench, &driver, &id);
}

#[test]
fn two_controllers_at_once_end_with_the_larger_size() {
    let bench = Bench::new();
    let (one, other) = (bench.start(), bench.start_beside());
    let id = bench.create(&one, NAME).unwrap();
    let before = blocklist(&bench);
    for round in 0..8 {
        let (small, large) = (2 * GIB + round * GIB, 2 * GIB + round * GIB + GIB / 2);
        let sizes = [(&one, small), (&other, large), (&one, large), (&other, small)];
        let answers = std::thread::scope(|scope| {
            let calls: Vec<_> = sizes
                .iter()
                .map(|(driver, size)| scope.spawn(|| (*size, grow(&bench, driver, &id, *size))))
                .collect();
            calls.into_iter().map(|call| call.join().unwrap()).collect::<Vec<_>>()
        });
        for (asked, answer) in answers {
            let (size, _) = answer.unwrap_or_else(|status| panic!("round {round}: {status}"));
            assert!(size >= asked && [small, large].contains(&size), "{round}: {asked}: {size}");
        }
        assert_eq!(size(&bench, &id), large, "round {round}");
    }
    assert_eq!(blocklist(&bench), before, "neither fences the other");
    clean_up(&bench, &one, &id);
}

#[test]
fn a_blocklisted_controller_connects_anew() {
    let bench = Bench::new();
    let driver = bench.start();
    let id = bench.create(&driver, NAME).unwrap();
    let header = format!("rbd_header.{}", info(&bench, &image_of(&id))["id"].as_str().unwrap());
    // As a node's kernel does to the owner of a lock that it has waited for.
    bench.site.arm("delay=4000:before:image unlock");
    let late = std::thread::scope(|scope| {
        let growing = scope.spawn(|| grow(&bench, &driver, &id, 2 * GIB));
        let until = Instant::now() + SOON;
        let holder = loop {
            if let Some(holder) = bench.wait(bench.rados.lock_holder(&header, "rbd_lock")).unwrap() {
                break holder;
            }
            assert!(Instant::now() < until, "the lock is not taken");
        };
        bench.cluster().ceph(&["osd", "blocklist", "add", &holder.address]);
        growing.join().unwrap()
    });
    bench.site.arm("");
    println!("the call that was under way: {late:?}");
    let until = Instant::now() + SOON;
    let mut tries = 0;
    loop {
        tries += 1;
        match grow(&bench, &driver, &id, 3 * GIB) {
            Ok(grown) => break assert_eq!(grown, (3 * GIB, true)),
            Err(status) => {
                assert_eq!(status.code(), Code::Unavailable, "{status}");
                assert!(Instant::now() < until && tries < 5, "{tries} tries: {status}");
            }
        }
    }
    grows_no_more(&bench, &driver, &id, 3 * GIB);
    clean_up(&bench, &driver, &id);
}

fn grows_no_more(bench: &Bench, driver: &Driver, id: &str, at: i64) {
    assert_eq!(grow(bench, driver, id, GIB).unwrap(), (at, true));
    assert_eq!(size(bench, id), at);
}

/// The calls of one growth by a driver that just started.
fn steps_of_growth(bench: &Bench) -> Vec<String> {
    let id = bench.create(&bench.start(), NAME).unwrap();
    let driver = bench.start();
    bench.site.arm("");
    grow(bench, &driver, &id, 2 * GIB).unwrap();
    let steps = bench.site.steps();
    bench.delete(&driver, &id).unwrap();
    bench.wait_until_empty("after the trace");
    assert!(steps.iter().any(|step| step.starts_with("image unlock")), "{steps:?}");
    steps
}

#[test]
fn growth_killed_at_every_call_and_retried_ends_with_the_size() {
    crash::sweep(
        crash::Points::sample(),
        steps_of_growth,
        |bench, driver| {
            let id = bench.create(&bench.start_beside(), NAME).unwrap();
            let _ = grow(bench, driver, &id, 2 * GIB);
            Some(id)
        },
        |bench, driver, id, at| {
            let id = id.unwrap();
            let since = Instant::now();
            let grown = grow(bench, driver, &id, 2 * GIB).unwrap_or_else(|status| panic!("{at}: {status}"));
            assert_eq!(grown, (2 * GIB, true), "{at}");
            assert!(since.elapsed() < WATCH + Duration::from_secs(10), "{at}: {:?}", since.elapsed());
            grows_no_more(bench, driver, &id, 2 * GIB);
            assert_eq!(bench.create(driver, NAME).unwrap(), id, "{at}");
            bench.delete(driver, &id).unwrap_or_else(|status| panic!("{at}: delete: {status}"));
        },
    );
}
