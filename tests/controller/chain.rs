//! Families of volumes, snapshots, restores and clones are deleted in any order: what others
//! need stays, and when the last one goes nothing is left. What a person made, or put into the
//! trash, is never touched.

use std::time::{Duration, Instant};

use rbd_csi::ceph::{ImageId, WriteOp};
use tonic::Code;

use crate::crash::{Points, goes_on, sweep_at};
use crate::support::bench::{Bench, SOON, last_lines};
use crate::support::driver::Driver;
use crate::support::random::{self, Random};
use crate::support::snapshots::{Of, image_of, image_of_snapshot};
use crate::support::whole::Whole;

/// Something to be deleted.
#[derive(Debug, Clone)]
enum One {
    Volume(String),
    Snapshot(String),
}

impl One {
    fn delete(&self, bench: &Bench, driver: &Driver) {
        match self {
            Self::Volume(id) => bench.delete(driver, id),
            Self::Snapshot(id) => bench.delete_snapshot(driver, id),
        }
        .unwrap_or_else(|error| panic!("{self:?}: {error}"));
    }
}

fn volume(bench: &Bench, driver: &Driver, name: &str) -> String {
    bench.create(driver, name).unwrap()
}

fn snapshot(bench: &Bench, driver: &Driver, name: &str, of: &str) -> String {
    bench.snapshot(driver, name, of).unwrap().snapshot_id
}

fn made_of(bench: &Bench, driver: &Driver, name: &str, of: Of<'_>) -> String {
    bench.create_of(driver, name, of).unwrap().volume_id
}

/// The other pool of a family.
const SECOND: &str = "family-second";

/// Three generations: a volume with data, its snapshot, a restore of that in another pool, a clone
/// of the restore in the first pool again, with data of its own, its snapshot, and a restore of
/// that in the other.
fn family(bench: &Bench, driver: &Driver) -> Vec<One> {
    let first = volume(bench, driver, "pvc-first");
    bench.fill(&first, 4);
    let early = snapshot(bench, driver, "snapshot-early", &first);
    let elsewhere = |name: &str, of: Of<'_>| {
        let request = bench.request_of(name, of, &[("pool", SECOND)]);
        bench.send(driver, request).unwrap().volume_id
    };
    let restored = elsewhere("pvc-restored", Of::Snapshot(&early));
    let cloned = made_of(bench, driver, "pvc-cloned", Of::Volume(&restored));
    bench.fill(&cloned, 4);
    let late = snapshot(bench, driver, "snapshot-late", &cloned);
    let last = elsewhere("pvc-last", Of::Snapshot(&late));
    let volumes = [first, restored, cloned, last].map(One::Volume);
    volumes.into_iter().chain([early, late].map(One::Snapshot)).collect()
}

#[test]
fn a_family_of_three_generations_in_two_pools_goes_in_any_order() {
    let bench = Bench::new();
    let cluster = bench.cluster();
    crate::support::pool::make(cluster, SECOND);
    let second = bench.pool(SECOND);
    let pools = [&bench.rados, &second];
    let driver = bench.start();
    // What a pool keeps for ever comes with the first family.
    for one in family(&bench, &driver) {
        one.delete(&bench, &driver);
    }
    bench.wait_until_empty("the first family, in the first pool");
    crate::support::pool::wait_until_empty(cluster, SECOND, SOON);
    let before = Whole::of(&bench, &pools);
    let mut random = Random::new(random::seed("the orders of deletion"));
    let mut longest = Duration::ZERO;
    for turn in 0..if random::full() { 50 } else { 3 } {
        let order = random.shuffled(family(&bench, &driver));
        for one in &order {
            one.delete(&bench, &driver);
        }
        let at = format!("order {turn}: {order:?}");
        longest = longest.max(before.wait_until_again(&bench, &pools, Duration::from_secs(60), &at));
    }
    eprintln!("the longest wait for a pool as before: {longest:.1?}");
    assert!(!bench.site.log().contains("WARN"), "{}", last_lines(&bench.site.log(), 20));
    crate::support::pool::remove(cluster, SECOND);
}

#[test]
fn what_a_clone_needs_waits_and_goes_with_the_clone_after_a_restart_too() {
    let bench = Bench::new();
    let driver = bench.start();
    let source = volume(&bench, &driver, "pvc-source");
    let kept = snapshot(&bench, &driver, "snapshot-kept", &source);
    let restored = made_of(&bench, &driver, "pvc-restored", Of::Snapshot(&kept));
    bench.delete(&driver, &source).unwrap();
    bench.delete_snapshot(&driver, &kept).unwrap();
    let until = Instant::now() + SOON;
    while bench.site.log().matches("1 clone(s) need it").count() < 2 {
        assert!(Instant::now() < until, "{}", last_lines(&bench.site.log(), 20));
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(bench.images(), [image_of(&restored)]);
    // Not tried again and again.
    bench.site.arm("");
    std::thread::sleep(Duration::from_secs(12));
    assert_eq!(bench.site.steps(), Vec::<String>::new());
    assert_eq!(bench.site.log().matches("clone(s) need it").count(), 2);
    drop(driver);
    let driver = bench.start();
    bench.delete(&driver, &restored).unwrap();
    bench.wait_until_empty("with the last clone");
}

/// A snapshot that is deleted at once, for the sweep.
fn snapshot_of_source(bench: &Bench) -> (String, String) {
    let beside = bench.start_beside();
    let source = volume(bench, &beside, "pvc-source");
    let snapshot = snapshot(bench, &beside, "snapshot-1", &source);
    (source, snapshot)
}

/// A clone of a volume.
fn clone_of_source(bench: &Bench) -> (String, String) {
    let beside = bench.start_beside();
    let source = volume(bench, &beside, "pvc-source");
    let clone = made_of(bench, &beside, "pvc-clone", Of::Volume(&source));
    (source, clone)
}

/// The calls of one deletion by a driver that has just started, with those of the purge.
fn steps_of(bench: &Bench, images: usize, delete: impl FnOnce(&Driver)) -> Vec<String> {
    let driver = bench.start();
    bench.site.arm("");
    delete(&driver);
    let until = Instant::now() + SOON;
    let purged = || bench.site.steps().iter().filter(|step| step.starts_with("journal forget purge")).count();
    while purged() < images {
        assert!(Instant::now() < until, "{:?}", bench.site.steps());
        std::thread::sleep(Duration::from_millis(50));
    }
    std::thread::sleep(Duration::from_millis(200));
    bench.site.steps()
}

#[test]
fn a_snapshot_s_deletion_killed_at_any_call_is_ended_by_its_repeat() {
    sweep_at(
        Points::sample(),
        |bench| {
            let (source, snapshot) = snapshot_of_source(bench);
            let steps = steps_of(bench, 1, |driver| bench.delete_snapshot(driver, &snapshot).unwrap());
            let beside = bench.start_beside();
            bench.delete(&beside, &source).unwrap();
            bench.wait_until_empty("after the trace");
            steps
        },
        snapshot_of_source,
        |bench, driver, (_, snapshot)| drop(bench.delete_snapshot(driver, snapshot)),
        |bench, driver, (source, snapshot), at| {
            goes_on(bench.delete_snapshot(driver, &snapshot), "delete snapshot", at);
            // The source lives on, and nothing of the snapshot is left on it.
            let until = Instant::now() + SOON * 2;
            while !bench.snapshots(&image_of(&source)).is_empty() {
                assert!(Instant::now() < until, "{at}: {:?}", bench.snapshots(&image_of(&source)));
                std::thread::sleep(Duration::from_millis(50));
            }
            goes_on(bench.delete(driver, &source), "delete", at);
        },
    );
}

#[test]
fn a_clone_s_deletion_killed_at_any_call_is_ended_by_its_repeat() {
    sweep_at(
        Points::sample(),
        |bench| {
            let (source, clone) = clone_of_source(bench);
            let steps = steps_of(bench, 2, |driver| bench.delete(driver, &clone).unwrap());
            let beside = bench.start_beside();
            bench.delete(&beside, &source).unwrap();
            bench.wait_until_empty("after the trace");
            steps
        },
        clone_of_source,
        |bench, driver, (_, clone)| drop(bench.delete(driver, clone)),
        |bench, driver, (source, clone), at| {
            goes_on(bench.delete(driver, &clone), "delete", at);
            goes_on(bench.delete(driver, &source), "delete the source", at);
        },
    );
}

#[test]
fn what_a_person_made_refuses_by_name_and_is_left_as_it_is() {
    let bench = Bench::new();
    let driver = bench.start();
    let source = volume(&bench, &driver, "pvc-source");
    let made = snapshot(&bench, &driver, "snapshot-1", &source);
    let clone = made_of(&bench, &driver, "pvc-clone", Of::Volume(&source));
    let rbd = |args: &[&str]| bench.cluster().rbd(args);
    let images = [image_of(&source), image_of_snapshot(&made), format!("{}-temp", image_of(&clone))];
    let deletions = [One::Volume(source), One::Snapshot(made), One::Volume(clone)];
    for (image, one) in images.iter().zip(&deletions) {
        let by_hand = format!("{image}@by-hand");
        rbd(&["snap", "create", "--no-progress", &by_hand]);
        rbd(&["clone", "--rbd-default-clone-format", "2", &by_hand, "by-hand"]);
        let before = bench.contents();
        let status = match one {
            One::Volume(id) => bench.delete(&driver, id),
            One::Snapshot(id) => bench.delete_snapshot(&driver, id),
        }
        .unwrap_err();
        assert_eq!(status.code(), Code::FailedPrecondition, "{image}: {status}");
        for word in [image.as_str(), "by-hand", "rbd/by-hand"] {
            assert!(status.message().contains(word), "{word}: {status}");
        }
        assert_eq!(bench.contents(), before, "{image}");
        rbd(&["rm", "--no-progress", "by-hand"]);
        rbd(&["snap", "rm", "--no-progress", &by_hand]);
    }
    for one in &deletions {
        one.delete(&bench, &driver);
    }
    bench.wait_until_empty("at the end");
}

#[test]
fn a_member_of_a_group_snapshot_goes_with_its_group() {
    let bench = Bench::new();
    let driver = bench.start();
    let source = volume(&bench, &driver, "pvc-source");
    let made = snapshot(&bench, &driver, "snapshot-1", &source);
    let group = uuid::Uuid::new_v4().to_string();
    let object = format!("csi.volume.group.{group}");
    bench.set_keys(&object, &[("csi.groupname", "csi-vol-group"), (&made, &image_of_snapshot(&made))]);
    let handle = bench.handle(&group);
    bench.set_keys(&format!("csi.snap.{}", &made[made.len() - 36..]), &[("csi.groupid", &handle)]);
    let before = bench.contents();
    let status = bench.delete_snapshot(&driver, &made).unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument, "{status}");
    assert!(status.message().contains(&handle), "{status}");
    assert_eq!(bench.contents(), before);
    bench.wait(bench.rados.remove("the group is deleted", &object)).unwrap();
    bench.delete_snapshot(&driver, &made).unwrap();
    bench.delete(&driver, &source).unwrap();
    bench.wait_until_empty("at the end");
}

/// A snapshot in the snapshot trash that nothing needs: what a stop inside of librbd's removal of
/// the last clone leaves.
fn orphan(bench: &Bench, image: &str, name: &str) {
    let id = bench.wait(bench.rados.image_id(image)).unwrap().unwrap();
    bench.cluster().rbd(&["snap", "create", "--no-progress", &format!("{image}@{name}")]);
    let header = bench.wait(bench.rados.image_header(&id, &[])).unwrap().unwrap();
    let snapshot = header.snapshots.iter().find(|snapshot| snapshot.name == name).unwrap();
    bench.wait(bench.rados.trash_snapshot(&id, snapshot.id)).unwrap();
}

#[test]
fn a_stop_in_the_removal_of_a_snapshot_leaves_no_data() {
    for step in ["snapshot remove", "rados_aio_ioctx_selfmanaged_snap_remove"] {
        let bench = Bench::new();
        let beside = bench.start_beside();
        let source = volume(&bench, &beside, "pvc-source");
        let image = bench.fill(&source, 4);
        let made = snapshot(&bench, &beside, "snapshot-1", &source);
        beside.kill();
        orphan(&bench, &image, &format!("csi-snap-{}", uuid::Uuid::new_v4()));
        // Now the snapshots alone have what was there before.
        bench.fill(&source, 4);
        let mut driver = bench.start();
        bench.site.arm(&format!("kill:after:{step}"));
        let _ = bench.delete_snapshot(&driver, &made);
        assert!(driver.was_killed(SOON), "{step}: it was not killed");
        bench.site.arm("");
        let driver = bench.start();
        goes_on(bench.delete_snapshot(&driver, &made), "delete snapshot", step);
        goes_on(bench.delete(&driver, &source), "delete", step);
        bench.wait_until_empty_for(step, SOON * 2);
    }
}

#[test]
fn a_snapshot_whose_younger_one_has_no_map_is_taken_away() {
    let bench = Bench::new();
    let driver = bench.start();
    let source = volume(&bench, &driver, "pvc-source");
    let image = bench.fill(&source, 4);
    let made = snapshot(&bench, &driver, "snapshot-1", &source);
    orphan(&bench, &image, &format!("csi-snap-{}", uuid::Uuid::new_v4()));
    // As a removal leaves it that stopped half-way, of a name that no chain has.
    orphan(&bench, &image, "by-hand");
    let id = bench.wait(bench.rados.image_id(&image)).unwrap().unwrap();
    let header = bench.wait(bench.rados.image_header(&id, &[])).unwrap().unwrap();
    let youngest = header.snapshots.iter().map(|snapshot| snapshot.id).max().unwrap();
    bench.wait(bench.rados.remove("as a stop leaves it", &id.snapshot_map_object(youngest))).unwrap();
    bench.delete_snapshot(&driver, &made).unwrap();
    bench.wait_until("what no clone needs is gone", || bench.snapshots(&image).len() == 1);
    bench.delete(&driver, &source).unwrap();
    bench.wait_until_empty("at the end");
}

#[test]
fn a_snapshot_that_no_clone_needs_is_taken_from_a_living_volume() {
    let bench = Bench::new();
    let driver = bench.start();
    let source = volume(&bench, &driver, "pvc-source");
    let image = image_of(&source);
    let made = snapshot(&bench, &driver, "snapshot-1", &source);
    orphan(&bench, &image, &format!("csi-snap-{}", uuid::Uuid::new_v4()));
    // The same by hand.
    orphan(&bench, &image, "by-hand");
    assert_eq!(bench.snapshots(&image).len(), 3);
    bench.delete_snapshot(&driver, &made).unwrap();
    let until = Instant::now() + SOON;
    while bench.snapshots(&image).len() > 1 {
        assert!(Instant::now() < until, "{:?}", bench.snapshots(&image));
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(bench.snapshots(&image)[0]["namespace"]["original_name"], "by-hand");
    bench.cluster().rbd(&["object-map", "check", "--no-progress", &image]);
    bench.delete(&driver, &source).unwrap();
    bench.wait_until_empty("with a volume that had it");
}

/// What ceph-csi does when it deletes a volume that others were made of.
fn deleted_by_ceph_csi(bench: &Bench, name: &str, id: &str) -> ImageId {
    let uuid = &id[id.len() - 36..];
    let image = bench.wait(bench.rados.image_id(&image_of(id))).unwrap().unwrap();
    bench.cluster().rbd(&["trash", "mv", &image_of(id)]);
    let op = WriteOp::new().omap_remove([format!("csi.volume.{name}")]);
    bench.wait(bench.rados.write("as ceph-csi", "csi.volumes.default", op)).unwrap();
    bench.wait(bench.rados.remove("as ceph-csi", &format!("csi.volume.{uuid}"))).unwrap();
    image
}

#[test]
fn an_ancestor_that_ceph_csi_left_in_the_trash_goes_with_its_last_clone() {
    let bench = Bench::new();
    let driver = bench.start();
    let source = volume(&bench, &driver, "pvc-source");
    let made = snapshot(&bench, &driver, "snapshot-1", &source);
    let image = deleted_by_ceph_csi(&bench, "pvc-source", &source);
    // The mgr has it in its list: it is the mgr's, until it is not.
    let refs = serde_json::json!({"action": "trash remove", "pool_name": "rbd", "pool_namespace": "",
        "image_id": image.as_str()});
    let task = serde_json::json!({"sequence": 1, "id": "x", "message": "m", "refs": refs}).to_string();
    bench.set_keys("rbd_task", &[("0000000000000001", &task)]);
    bench.delete_snapshot(&driver, &made).unwrap();
    let until = Instant::now() + SOON;
    while !bench.site.log().contains("the mgr has a task for it") {
        assert!(Instant::now() < until, "{}", last_lines(&bench.site.log(), 20));
        std::thread::sleep(Duration::from_millis(50));
    }
    assert!(bench.wait(bench.rados.trash_entry(&image)).unwrap().is_some());
    bench.wait(bench.rados.remove("the mgr gives it up", "rbd_task")).unwrap();
    bench.wait_until_empty("after the mgr");
}

/// Puts a volume's image into the trash.
type Put = fn(&Bench, &str);

#[test]
fn what_a_person_put_into_the_trash_is_never_purged() {
    let bench = Bench::new();
    let driver = bench.start();
    let rbd = |args: &[&str]| bench.cluster().rbd(args);
    // A volume that stands in the journal; one of another name; one to be kept for a while.
    let cases: [(&str, Put); 3] = [
        ("pvc-in-journal", |bench, id| {
            bench.cluster().rbd(&["trash", "mv", &image_of(id)]);
        }),
        ("pvc-renamed", |bench, id| {
            bench.cluster().rbd(&["rename", &image_of(id), "by-hand"]);
            bench.cluster().rbd(&["trash", "mv", "by-hand"]);
        }),
        ("pvc-kept", |bench, id| {
            bench.cluster().rbd(&["trash", "mv", "--expires-at", "tomorrow", &image_of(id)]);
        }),
    ];
    for (name, put) in cases {
        let id = volume(&bench, &driver, name);
        let image = bench.wait(bench.rados.image_id(&image_of(&id))).unwrap().unwrap();
        let made = snapshot(&bench, &driver, "snapshot-1", &id);
        put(&bench, &id);
        let uuid = id[id.len() - 36..].to_owned();
        let object = format!("csi.volume.{uuid}");
        let entry = bench.keys(&object);
        if name != "pvc-in-journal" {
            let op = WriteOp::new().omap_remove([format!("csi.volume.{name}")]);
            bench.wait(bench.rados.write("prepare", "csi.volumes.default", op)).unwrap();
            bench.wait(bench.rados.remove("prepare", &object)).unwrap();
        }
        bench.delete_snapshot(&driver, &made).unwrap();
        let until = Instant::now() + SOON;
        while bench.contents().iter().any(|left| left.contains("rbd-csi.purge") || left.contains("csi-snap"))
        {
            assert!(Instant::now() < until, "{name}: {:?}", bench.contents());
            std::thread::sleep(Duration::from_millis(50));
        }
        // It is there as it was, and comes back.
        assert!(bench.wait(bench.rados.trash_entry(&image)).unwrap().is_some(), "{name}");
        rbd(&["trash", "restore", image.as_str(), "--image", &image_of(&id)]);
        if name != "pvc-in-journal" {
            let keys: Vec<_> = entry.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
            bench.set_keys(&object, &keys);
            bench.set_keys("csi.volumes.default", &[(&format!("csi.volume.{name}"), &uuid)]);
        }
        assert_eq!(bench.create(&driver, name).unwrap(), id);
        bench.delete(&driver, &id).unwrap();
        bench.wait_until_empty(name);
    }
}

#[test]
fn a_snapshot_in_the_making_holds_a_deletion_up_and_one_that_was_given_up_does_not() {
    let bench = Bench::new();
    let driver = bench.start();
    let source = volume(&bench, &driver, "pvc-source");
    let image = image_of(&source);
    // As ceph-csi has it when it has taken the snapshot of the source, before the clone.
    let uuid = uuid::Uuid::new_v4().to_string();
    let name = format!("csi-snap-{uuid}");
    let entry = [("csi.snapname", "snapshot-1"), ("csi.imagename", name.as_str()), ("csi.source", &image)];
    bench.set_keys(&format!("csi.snap.{uuid}"), &entry);
    bench.set_keys("csi.snaps.default", &[("csi.snap.snapshot-1", &uuid)]);
    bench.cluster().rbd(&["snap", "create", "--no-progress", &format!("{image}@{name}")]);
    let before = bench.contents();
    let status = bench.delete(&driver, &source).unwrap_err();
    assert_eq!(status.code(), Code::Aborted, "{status}");
    assert!(status.message().contains("snapshot-1"), "{status}");
    assert_eq!(bench.contents(), before);
    std::thread::sleep(Duration::from_secs(61));
    bench.delete(&driver, &source).unwrap();
    bench.wait_until_empty("after a snapshot that was given up");
}

#[test]
fn what_a_clone_that_was_given_up_has_beside_it_goes_with_its_name() {
    let bench = Bench::new();
    let driver = bench.start();
    let source = volume(&bench, &driver, "pvc-source");
    let image = image_of(&source);
    // As ceph-csi leaves it when it stops before the clone itself.
    let uuid = uuid::Uuid::new_v4().to_string();
    let name = format!("csi-vol-{uuid}");
    let temp = format!("{name}-temp");
    bench.set_keys(&format!("csi.volume.{uuid}"), &[("csi.volname", "pvc-clone"), ("csi.imagename", &name)]);
    bench.set_keys("csi.volumes.default", &[("csi.volume.pvc-clone", &uuid)]);
    let mark = format!("{image}@{temp}");
    bench.cluster().rbd(&["snap", "create", "--no-progress", &mark]);
    bench.cluster().rbd(&["clone", "--rbd-default-clone-format", "2", &mark, &temp]);
    bench.cluster().rbd(&["snap", "rm", "--no-progress", &mark]);
    bench.cluster().rbd(&["snap", "create", "--no-progress", &format!("{temp}@{name}")]);
    bench.delete(&driver, &bench.handle(&uuid)).unwrap();
    bench.delete(&driver, &source).unwrap();
    bench.wait_until_empty("at the end");
}
