//! How many RADOS operations the RPCs cost, counted in the driver's own librados client:
//! exact, the same on every cluster and with any number of volumes.

use std::collections::BTreeMap;

use super::expand;
use crate::support::bench::{Bench, GIB};
use crate::support::driver::Driver;
use crate::support::ops;

const MOST_FOR_CREATE: u64 = 14;
const MOST_FOR_REPLAY: u64 = 4;
/// By a driver that does not know the name.
const MOST_FOR_ANOTHER_S_REPLAY: u64 = 5;
const MOST_FOR_DELETE: u64 = 17;
/// Among 2,000 volumes: five, and two pages of each directory.
const MOST_FOR_ABSENT: u64 = 9;
const MOST_FOR_DELETE_SNAPSHOT: u64 = 25;
/// librbd alone takes 26 for an image of the default features (open 11, resize 10, close 5).
const MOST_FOR_GROWTH: u64 = 14;
const MOST_FOR_NO_GROWTH: u64 = 4;

fn bench() -> Bench {
    let bench = Bench::new();
    ops::count(&bench.site);
    bench
}

/// A driver whose connection is made, with the purges of others resumed.
fn warm(bench: &Bench) -> Driver {
    let driver = bench.start();
    bench.delete(&driver, &bench.nothing()).unwrap();
    let id = bench.create(&driver, "pvc-warm").unwrap();
    bench.delete(&driver, &id).unwrap();
    bench.wait_until_empty("after warming up");
    std::thread::sleep(std::time::Duration::from_millis(300));
    driver
}

fn cost<T>(bench: &Bench, driver: &Driver, call: impl FnOnce() -> T) -> (T, u64) {
    let before = ops::counted(&bench.site, driver);
    let answer = call();
    (answer, ops::counted(&bench.site, driver) - before)
}

#[test]
fn each_rpc_stays_within_its_operations() {
    let bench = bench();
    let driver = warm(&bench);
    let (id, create) = cost(&bench, &driver, || bench.create(&driver, "pvc-budget").unwrap());
    let (again, replay) = cost(&bench, &driver, || bench.create(&driver, "pvc-budget").unwrap());
    assert_eq!(again, id);
    let other = bench.start_beside();
    let warming = bench.create(&other, "pvc-warm").unwrap();
    bench.delete(&other, &warming).unwrap();
    bench.wait_until("the purge is over", || bench.images().len() == 1 && bench.keys("rbd_trash").is_empty());
    std::thread::sleep(std::time::Duration::from_millis(300));
    let (_, elsewhere) = cost(&bench, &other, || bench.create(&other, "pvc-budget").unwrap());
    drop(other);
    let grow = |size| expand::grow(&bench, &driver, &id, size).unwrap();
    let (_, growth) = cost(&bench, &driver, || grow(2 * GIB));
    let (_, no_growth) = cost(&bench, &driver, || grow(2 * GIB));
    println!("growth {growth}, again {no_growth}");
    assert!(growth <= MOST_FOR_GROWTH, "ControllerExpandVolume took {growth} operations");
    assert!(no_growth <= MOST_FOR_NO_GROWTH, "its replay took {no_growth} operations");
    // The purge is held back until the count is taken.
    bench.site.arm("delay=3000:before:journal read purge");
    let ((), delete) = cost(&bench, &driver, || bench.delete(&driver, &id).unwrap());
    bench.site.arm("");
    bench.wait_until_empty("after the purge");
    println!("create {create}, replay {replay}, elsewhere {elsewhere}, delete {delete}");
    assert!(elsewhere <= MOST_FOR_ANOTHER_S_REPLAY, "another driver's replay took {elsewhere} operations");
    assert!(create <= MOST_FOR_CREATE, "CreateVolume took {create} operations");
    assert!(replay <= MOST_FOR_REPLAY, "its replay took {replay} operations");
    assert!(delete <= MOST_FOR_DELETE, "DeleteVolume took {delete} operations");
}

#[test]
fn two_thousand_volumes_in_the_pool_cost_nothing_more() {
    let bench = bench();
    let driver = warm(&bench);
    let (id, alone) = cost(&bench, &driver, || bench.create(&driver, "pvc-alone").unwrap());
    bench.delete(&driver, &id).unwrap();
    bench.wait_until_empty("before the many");

    let uuids: Vec<_> = (0..2000).map(|_| uuid::Uuid::new_v4().to_string()).collect();
    let keys: Vec<_> = (0..2000).map(|number| format!("csi.volume.pvc-many-{number}")).collect();
    let names: Vec<_> = uuids.iter().map(|uuid| format!("name_csi-vol-{uuid}")).collect();
    let pairs = |keys: &[String]| keys.iter().cloned().zip(uuids.iter().cloned()).collect::<BTreeMap<_, _>>();
    for (object, keys) in [("csi.volumes.default", pairs(&keys)), ("rbd_directory", pairs(&names))] {
        let keys: Vec<_> = keys.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
        bench.set_keys(object, &keys);
    }
    let (id, many) = cost(&bench, &driver, || bench.create(&driver, "pvc-one-more").unwrap());
    let (_, replay) = cost(&bench, &driver, || bench.create(&driver, "pvc-one-more").unwrap());
    bench.site.arm("delay=3000:before:journal read purge");
    let ((), delete) = cost(&bench, &driver, || bench.delete(&driver, &id).unwrap());
    bench.site.arm("");
    // One that the driver does not know is looked for in both directories, a thousand names at a time.
    let unknown = bench.handle(&uuid::Uuid::new_v4().to_string());
    let (_, absent) = cost(&bench, &driver, || bench.delete(&driver, &unknown).unwrap());
    let (_, absent_again) = cost(&bench, &driver, || bench.delete(&driver, &unknown).unwrap());
    println!("absent {absent}, again {absent_again}");
    for (object, keys) in [("csi.volumes.default", &keys), ("rbd_directory", &names)] {
        let op = rbd_csi::ceph::WriteOp::new().omap_remove(keys.iter().map(String::as_str));
        bench.wait(bench.rados.write("clean up", object, op)).unwrap();
    }
    bench.wait_until_empty("after the many");
    assert!(absent <= MOST_FOR_ABSENT, "DeleteVolume of an unknown handle took {absent} operations");
    assert!(absent_again <= 4, "again {absent_again}");
    assert_eq!(many, alone, "CreateVolume among 2,000 volumes");
    assert!(replay <= MOST_FOR_REPLAY && delete <= MOST_FOR_DELETE, "replay {replay}, delete {delete}");
}

#[test]
fn a_snapshot_s_deletion_needs_no_monitor_and_few_operations() {
    let bench = bench();
    let driver = warm(&bench);
    let id = bench.create(&driver, "pvc-budget").unwrap();
    let made = bench.snapshot(&driver, "snapshot-1", &id).unwrap().snapshot_id;
    bench.site.arm("delay=3000:before:journal read purge");
    let ((), delete) = cost(&bench, &driver, || bench.delete_snapshot(&driver, &made).unwrap());
    let steps = bench.site.steps();
    bench.site.arm("");
    let ((), again) = cost(&bench, &driver, || bench.delete_snapshot(&driver, &made).unwrap());
    println!("delete snapshot {delete}, again {again}: {steps:?}");
    assert!(delete <= MOST_FOR_DELETE_SNAPSHOT, "DeleteSnapshot took {delete} operations");
    let commits = steps.iter().filter(|step| step.contains("selfmanaged_snap")).count();
    assert_eq!(commits, 0, "{steps:?}");
    bench.delete(&driver, &id).unwrap();
    bench.wait_until_empty("after the purge");
}

/// What each call of snapshots, restores and clones may cost, and each of them again; the
/// source is mapped by nobody and has the five default features.
const MOST_FOR_SNAPSHOT: u64 = 120;
const MOST_FOR_RESTORE: u64 = 80;
const MOST_FOR_CLONE: u64 = 160;
const MOST_FOR_EACH_AGAIN: u64 = 6;

#[test]
fn snapshots_restores_and_clones_stay_within_their_operations() {
    use crate::support::snapshots::Of;
    let bench = bench();
    let driver = warm(&bench);
    let source = bench.create(&driver, "pvc-source").unwrap();
    let snapshot = || bench.snapshot(&driver, "snapshot-1", &source).unwrap().snapshot_id;
    let (id, first) = cost(&bench, &driver, snapshot);
    let (again, repeated) = cost(&bench, &driver, snapshot);
    assert_eq!(again, id);
    println!("snapshot {first}, again {repeated}");
    let restore = || bench.create_of(&driver, "pvc-restored", Of::Snapshot(&id)).unwrap().volume_id;
    let (restored, restoring) = cost(&bench, &driver, restore);
    let (_, restoring_again) = cost(&bench, &driver, restore);
    println!("restore {restoring}, again {restoring_again}");
    let clone = || bench.create_of(&driver, "pvc-clone", Of::Volume(&source)).unwrap().volume_id;
    let (cloned, cloning) = cost(&bench, &driver, clone);
    let (_, cloning_again) = cost(&bench, &driver, clone);
    println!("clone {cloning}, again {cloning_again}");
    for id in [&source, &restored, &cloned] {
        bench.delete(&driver, id).unwrap();
    }
    bench.delete_snapshot(&driver, &id).unwrap();
    bench.wait_until_empty("after the counts");
    assert!(
        first <= MOST_FOR_SNAPSHOT && repeated <= MOST_FOR_EACH_AGAIN,
        "snapshot {first}, again {repeated}"
    );
    assert!(restoring <= MOST_FOR_RESTORE && restoring_again <= MOST_FOR_EACH_AGAIN, "restore {restoring}");
    assert!(cloning <= MOST_FOR_CLONE && cloning_again <= MOST_FOR_EACH_AGAIN, "clone {cloning}");
}
