//! The controller killed before and after the calls of snapshots, restores and clones: the
//! repeat gives the same answer, and when all is deleted nothing is left.
//!
//! What a reader gets wrong: these sweeps draw a sample of the calls anew in each run, and
//! print their seed; `SWEEP=full` runs all of them (`make soak`).

use std::time::{Duration, Instant};

use tonic::Code;

use crate::crash::{KILLED, Points, goes_on, sweep_at};
use crate::support::bench::Bench;
use crate::support::driver::Driver;
use crate::support::snapshots::{Of, image_of};

const SOURCE: &str = "pvc-source";
/// What is written when a clone is taken back.
const TAKING_BACK: [&str; 8] = [
    "journal claim",
    "lock break",
    "journal record purge",
    "trash add",
    "trash unlink",
    "trash settle",
    "journal retract",
    "journal remove",
];
/// What a purge had open when it was killed is watched for 30 s, and looked at after growing pauses.
const WATCHED: Duration = Duration::from_secs(90);

/// The source of the sweep's snapshots and clones; made by a driver on which no fault strikes.
fn source(bench: &Bench) -> String {
    let mut request = bench.request(SOURCE, &[]);
    request.capacity_range.as_mut().unwrap().required_bytes = 64 << 20;
    bench.send(&bench.start_beside(), request).unwrap().volume_id
}

fn snapshot_of_source(bench: &Bench) -> String {
    let beside = bench.start_beside();
    bench.snapshot(&beside, "snapshot-0", &source(bench)).unwrap().snapshot_id
}

/// The calls of one RPC by a driver that has just started.
fn steps_of(bench: &Bench, call: impl FnOnce(&Driver)) -> Vec<String> {
    let driver = bench.start();
    bench.site.arm("");
    call(&driver);
    let steps = bench.site.steps();
    assert!(steps.len() > 8, "the trace: {steps:?}");
    steps
}

/// Deletes all that there can be, in the order in which a CO may.
fn delete_all(bench: &Bench, driver: &Driver, snapshots: &[String], volumes: &[String], at: &str) {
    for id in volumes {
        goes_on(bench.delete(driver, id), "delete", at);
    }
    for id in snapshots {
        goes_on(bench.delete_snapshot(driver, id), "delete snapshot", at);
    }
}

/// The calls of one CreateSnapshot.
fn steps_of_snapshot(bench: &Bench) -> Vec<String> {
    let source = source(bench);
    let steps = steps_of(bench, |driver| drop(bench.snapshot(driver, "snapshot-1", &source).unwrap()));
    let driver = bench.start_beside();
    let made = bench.snapshot(&driver, "snapshot-1", &source).unwrap().snapshot_id;
    delete_all(bench, &driver, &[made], &[source], "after the trace");
    bench.wait_until_empty("after the trace");
    steps
}

/// What is to be true after a kill, of what was prepared for it.
type Then = fn(&Bench, &Driver, String, &str);

fn kill_snapshot(then: Then) {
    let attempt = |bench: &Bench, driver: &Driver, source: &String| {
        drop(bench.snapshot(driver, "snapshot-1", source));
    };
    sweep_at(Points::sample(), steps_of_snapshot, source, attempt, then);
}

fn kill_restore(then: Then) {
    let attempt = |bench: &Bench, driver: &Driver, snapshot: &String| {
        drop(bench.create_of(driver, "pvc-restored", Of::Snapshot(snapshot)));
    };
    sweep_at(Points::sample(), steps_of_restore, snapshot_of_source, attempt, then);
}

fn kill_clone(then: Then) {
    let attempt = |bench: &Bench, driver: &Driver, source: &String| {
        drop(bench.create_of(driver, "pvc-clone", Of::Volume(source)));
    };
    sweep_at(Points::sample(), steps_of_clone, source, attempt, then);
}

#[test]
fn a_snapshot_killed_at_any_call_is_made_once() {
    kill_snapshot(|bench, driver, source, at| {
        let made = goes_on(bench.snapshot(driver, "snapshot-1", &source), "snapshot", at);
        assert_eq!(bench.snapshot(driver, "snapshot-1", &source).unwrap(), made, "{at}: repeated");
        assert_eq!(bench.images().len(), 2, "{at}");
        delete_all(bench, driver, &[made.snapshot_id], &[source], at);
    });
}

#[test]
fn a_snapshot_that_is_given_up_goes_with_its_volume() {
    kill_snapshot(|bench, driver, source, at| {
        // Without the answer, the CO deletes the volume, and asks for the snapshot once more.
        goes_on(bench.delete(driver, &source), "delete", at);
        match bench.snapshot(driver, "snapshot-1", &source) {
            // It was complete.
            Ok(made) => delete_all(bench, driver, &[made.snapshot_id], &[], at),
            Err(status) => assert_eq!(status.code(), Code::NotFound, "{at}: {status}"),
        }
    });
}

/// The calls of one CreateVolume from a snapshot.
fn steps_of_restore(bench: &Bench) -> Vec<String> {
    let snapshot = snapshot_of_source(bench);
    let of = Of::Snapshot(&snapshot);
    let steps = steps_of(bench, |driver| drop(bench.create_of(driver, "pvc-restored", of).unwrap()));
    let driver = bench.start_beside();
    let made = bench.create_of(&driver, "pvc-restored", of).unwrap().volume_id;
    let source = source(bench);
    delete_all(bench, &driver, &[snapshot], &[source, made], "after the trace");
    bench.wait_until_empty("after the trace");
    steps
}

/// The calls of one CreateVolume from a volume.
fn steps_of_clone(bench: &Bench) -> Vec<String> {
    let source = source(bench);
    let of = Of::Volume(&source);
    let steps = steps_of(bench, |driver| drop(bench.create_of(driver, "pvc-clone", of).unwrap()));
    let driver = bench.start_beside();
    let made = bench.create_of(&driver, "pvc-clone", of).unwrap().volume_id;
    delete_all(bench, &driver, &[], &[source, made], "after the trace");
    bench.wait_until_empty("after the trace");
    steps
}

/// The CO asks once more for what is made of something that is gone: it was complete, or the
/// answer is final, and the CO forgets it.
fn given_up(bench: &Bench, driver: &Driver, name: &str, of: Of<'_>, at: &str) {
    // What the dead client has open is open for 30 s, and what it left without a lock is young for 60.
    let until = Instant::now() + WATCHED;
    loop {
        match bench.create_of(driver, name, of) {
            Ok(made) => return delete_all(bench, driver, &[], &[made.volume_id], at),
            Err(status) if status.code() == Code::NotFound => return,
            Err(status) => {
                let again = [Code::Unavailable, Code::Aborted].contains(&status.code());
                assert!(again && Instant::now() < until, "{at}: {status}");
            }
        }
        std::thread::sleep(Duration::from_millis(200));
    }
}

#[test]
fn a_restore_whose_snapshot_went_meanwhile_leaves_nothing() {
    kill_restore(|bench, driver, snapshot, at| {
        let source = source(bench);
        delete_all(bench, driver, std::slice::from_ref(&snapshot), &[source], at);
        given_up(bench, driver, "pvc-restored", Of::Snapshot(&snapshot), at);
    });
}

#[test]
fn a_clone_whose_source_went_meanwhile_leaves_nothing() {
    kill_clone(|bench, driver, source, at| {
        delete_all(bench, driver, &[], std::slice::from_ref(&source), at);
        given_up(bench, driver, "pvc-clone", Of::Volume(&source), at);
    });
}

/// A clone that was begun, and whose source was deleted then; gives the source.
fn clone_without_source(bench: &Bench) -> String {
    let source = source(bench);
    let mut driver = bench.start();
    bench.site.arm("kill:before:journal complete");
    bench.create_of(&driver, "pvc-clone", Of::Volume(&source)).unwrap_err();
    assert!(driver.was_killed(KILLED), "it was not killed");
    bench.site.arm("");
    goes_on(bench.delete(&bench.start(), &source), "delete", "the source");
    assert_eq!(bench.images().len(), 2, "the clone and what stands beside it");
    source
}

/// The calls of one CreateVolume that takes back what an earlier one has begun.
fn steps_of_taking_back(bench: &Bench) -> Vec<String> {
    let source = clone_without_source(bench);
    let mut steps = steps_of(bench, |driver| {
        let status = bench.create_of(driver, "pvc-clone", Of::Volume(&source)).unwrap_err();
        assert_eq!(status.code(), Code::NotFound, "{status}");
    });
    // The purge of the source goes its own way beside it.
    steps.retain(|step| TAKING_BACK.iter().any(|name| step.starts_with(name)));
    let driver = bench.start();
    given_up(bench, &driver, "pvc-clone", Of::Volume(&source), "after the trace");
    bench.wait_until_empty_for("after the trace", WATCHED);
    steps
}

#[test]
fn a_clone_that_is_given_up_leaves_nothing_whatever_stops_that() {
    let attempt = |bench: &Bench, driver: &Driver, source: &String| {
        bench.create_of(driver, "pvc-clone", Of::Volume(source)).unwrap_err();
    };
    sweep_at(
        Points::sample(),
        steps_of_taking_back,
        clone_without_source,
        attempt,
        |bench, driver, source, at| {
            given_up(bench, driver, "pvc-clone", Of::Volume(&source), at);
            bench.wait_until_empty_for(at, WATCHED);
        },
    );
}

#[test]
fn a_restore_killed_at_any_call_is_made_once() {
    kill_restore(|bench, driver, snapshot, at| {
        let of = Of::Snapshot(&snapshot);
        let made = goes_on(bench.create_of(driver, "pvc-restored", of), "restore", at);
        assert_eq!(bench.create_of(driver, "pvc-restored", of).unwrap(), made, "{at}: repeated");
        assert_eq!(bench.images().len(), 3, "{at}");
        let source = source(bench);
        delete_all(bench, driver, &[snapshot], &[source, made.volume_id], at);
    });
}

#[test]
fn a_clone_killed_at_any_call_is_made_once() {
    kill_clone(|bench, driver, source, at| {
        let of = Of::Volume(&source);
        let made = goes_on(bench.create_of(driver, "pvc-clone", of), "clone", at);
        assert_eq!(bench.create_of(driver, "pvc-clone", of).unwrap(), made, "{at}: repeated");
        assert_eq!(bench.images().len(), 3, "{at}");
        delete_all(bench, driver, &[], &[source, made.volume_id], at);
    });
}

/// What a stop inside of librbd's snapshot leaves: an entry, the snapshot of the source, and no
/// object map of that.
fn snapshot_without_map(bench: &Bench, source: &str, mark: &str) {
    let image = image_of(source);
    let id = bench.wait(bench.rados.image_id(&image)).unwrap().unwrap();
    bench.cluster().rbd(&["snap", "create", "--no-progress", &format!("{image}@{mark}")]);
    let header = bench.wait(bench.rados.image_header(&id, &[])).unwrap().unwrap();
    let map = id.snapshot_map_object(header.snapshots[0].id);
    bench.wait(bench.rados.remove("as a stop leaves it", &map)).unwrap();
}

#[test]
fn a_snapshot_that_stopped_before_its_object_map_is_taken_anew() {
    let bench = Bench::new();
    let driver = bench.start();
    let source = source(&bench);
    let uuid = uuid::Uuid::new_v4().to_string();
    let image = format!("csi-snap-{uuid}");
    let of = image_of(&source);
    let entry =
        [("csi.snapname", "snapshot-1"), ("csi.imagename", image.as_str()), ("csi.source", of.as_str())];
    bench.set_keys(&format!("csi.snap.{uuid}"), &entry);
    bench.set_keys("csi.snaps.default", &[("csi.snap.snapshot-1", &uuid)]);
    snapshot_without_map(&bench, &source, &image);
    let made = bench.snapshot(&driver, "snapshot-1", &source).unwrap().snapshot_id;
    assert!(made.ends_with(&uuid), "{made}");
    delete_all(&bench, &driver, &[made], &[], "of the snapshot");
    bench.wait_until("the snapshot is gone", || bench.images().len() == 1);

    let uuid = uuid::Uuid::new_v4().to_string();
    let image = format!("csi-vol-{uuid}");
    let entry = [("csi.volname", "pvc-clone"), ("csi.imagename", image.as_str())];
    bench.set_keys(&format!("csi.volume.{uuid}"), &entry);
    bench.set_keys("csi.volumes.default", &[("csi.volume.pvc-clone", &uuid)]);
    bench.wait_until("the source has no snapshot", || bench.snapshots(&of).is_empty());
    snapshot_without_map(&bench, &source, &format!("{image}-temp"));
    let made = bench.create_of(&driver, "pvc-clone", Of::Volume(&source)).unwrap().volume_id;
    assert!(made.ends_with(&uuid), "{made}");
    delete_all(&bench, &driver, &[], &[source, made], "at the end");
    bench.wait_until_empty("at the end");
}
