//! Chains of clones get short again: at the soft limit beside the answer, at the hard one before
//! it. A flatten goes on after a kill, is done by one of several controllers, ends with a
//! deletion of its image, and its end frees what was deleted before.

use std::time::{Duration, Instant};

use tonic::{Code, Status};

use crate::support::bench::{Bench, last_lines};
use crate::support::driver::Driver;
use crate::support::snapshots::{Of, image_of, image_of_snapshot};

const DIRECTORIES: [&str; 2] = ["csi.volumes.default", "csi.snaps.default"];

/// A volume, its snapshot and a restored volume: two ancestors, and data of the first one.
struct Chain {
    source: String,
    snapshot: String,
    restored: String,
}

/// From one ancestor on a volume is flattened when a snapshot is taken of it; from `hard` less
/// three on the snapshot has to wait for that.
fn bench(hard: usize) -> Bench {
    let mut bench = Bench::new();
    bench.site.flag(format!("--rbdhardmaxclonedepth={hard}"));
    bench.site.flag("--rbdsoftmaxclonedepth=4");
    bench
}

fn chain(bench: &Bench, driver: &Driver, features: &[(&str, &str)]) -> Chain {
    let source = bench.send(driver, bench.request("pvc-source", features)).unwrap().volume_id;
    bench.fill(&source, 16);
    let snapshot = bench.snapshot(driver, "snapshot-1", &source).unwrap().snapshot_id;
    let request = bench.request_of("pvc-restored", Of::Snapshot(&snapshot), features);
    let restored = bench.send(driver, request).unwrap().volume_id;
    Chain { source, snapshot, restored }
}

impl Chain {
    fn image(&self) -> String {
        image_of(&self.restored)
    }

    fn delete(&self, bench: &Bench, driver: &Driver) {
        for volume in [&self.source, &self.restored] {
            bench.delete(driver, volume).unwrap();
        }
        bench.delete_snapshot(driver, &self.snapshot).unwrap();
    }

    fn delete_ancestors(&self, bench: &Bench, driver: &Driver) {
        bench.delete(driver, &self.source).unwrap();
        bench.delete_snapshot(driver, &self.snapshot).unwrap();
    }
}

/// The records of flattens.
fn recorded(bench: &Bench) -> Vec<String> {
    let keys = DIRECTORIES.iter().flat_map(|directory| bench.keys(directory).into_keys());
    keys.filter(|key| key.starts_with("rbd-csi.flatten.")).collect()
}

/// By the header: at the end of a flatten there is a moment in which librbd cannot open the image.
fn has_parent(bench: &Bench, image: &str) -> bool {
    let id = bench.wait(bench.rados.image_id(image)).unwrap().unwrap();
    bench.wait(bench.rados.image_header(&id, &[])).unwrap().unwrap().parent.is_some()
}

/// Waits until the driver on which faults strike has begun with a flatten.
fn at_work(bench: &Bench) {
    bench.wait_until("it is at work", || {
        bench.site.steps().iter().any(|step| step.starts_with("rbd_flatten_with_progress"))
    });
}

/// The snapshot of the restored volume, asked for until it is there; the refusals before.
fn snapshot_at_last(bench: &Bench, driver: &Driver, of: &str) -> (String, Vec<Status>) {
    snapshot_at_last_named(bench, driver, "snapshot-2", of)
}

fn snapshot_at_last_named(bench: &Bench, driver: &Driver, name: &str, of: &str) -> (String, Vec<Status>) {
    let (mut refusals, until) = (Vec::new(), Instant::now() + Duration::from_secs(60));
    loop {
        match bench.snapshot(driver, name, of) {
            Ok(made) => return (made.snapshot_id, refusals),
            Err(status) => refusals.push(status),
        }
        assert!(Instant::now() < until, "{refusals:?}\n{}", last_lines(&bench.site.log(), 30));
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn at_the_soft_limit_the_answer_does_not_wait_and_the_end_frees_the_parents() {
    let bench = bench(8);
    let driver = bench.start();
    let chain = chain(&bench, &driver, &[]);
    let (image, before) = (chain.image(), bench.checksum(&format!("rbd/{}", chain.image())));
    chain.delete_ancestors(&bench, &driver);
    assert_eq!(bench.images(), std::slice::from_ref(&image));
    bench.site.arm("delay=2000:before:rbd_flatten_with_progress");
    let made = bench.snapshot(&driver, "snapshot-2", &chain.restored).unwrap().snapshot_id;
    assert!(has_parent(&bench, &image), "the answer waited for the flatten");
    bench.wait_until("flattened", || !has_parent(&bench, &image) && recorded(&bench).is_empty());
    bench.wait_until("the parents are purged", || bench.keys("rbd_trash").is_empty());
    assert_eq!(bench.checksum(&format!("rbd/{image}")), before);
    assert_eq!(bench.checksum(&format!("rbd/{}", image_of_snapshot(&made))), before);
    bench.delete_snapshot(&driver, &made).unwrap();
    bench.delete(&driver, &chain.restored).unwrap();
    bench.wait_until_empty("at the end");
}

#[test]
fn at_the_hard_limit_the_call_is_told_what_is_flattened_and_how_far() {
    let bench = bench(4);
    let driver = bench.start();
    let chain = chain(&bench, &driver, &[]);
    let before = bench.checksum(&format!("rbd/{}", chain.image()));
    bench.site.arm("delay=1500:after:rbd_flatten_with_progress");
    let (made, refusals) = snapshot_at_last(&bench, &driver, &chain.restored);
    assert!(!refusals.is_empty());
    for status in &refusals {
        assert_eq!(status.code(), Code::Aborted, "{status}");
        let words = format!("flatten is in progress for image rbd/{}", chain.image());
        assert!(status.message().contains(&words), "{status}");
    }
    let far = refusals.iter().any(|status| status.message().contains("of 256 objects"));
    assert!(far, "{refusals:?}");
    assert_eq!(bench.checksum(&format!("rbd/{}", image_of_snapshot(&made))), before);
    bench.delete_snapshot(&driver, &made).unwrap();
    chain.delete(&bench, &driver);
    bench.wait_until_empty("at the end");
}

#[test]
fn a_flatten_that_is_killed_goes_on_after_the_restart() {
    let bench = bench(4);
    for kill in [
        "kill:after:journal record flatten",
        "kill:before:rbd_flatten_with_progress",
        "kill:after:rbd_flatten_with_progress",
        "kill:before:journal forget flatten",
    ] {
        let mut driver = bench.start();
        let chain = chain(&bench, &driver, &[]);
        let before = bench.checksum(&format!("rbd/{}", chain.image()));
        bench.site.arm(kill);
        let status = bench.snapshot(&driver, "snapshot-2", &chain.restored).unwrap_err();
        assert!(driver.was_killed(Duration::from_secs(15)), "{kill}: {status}");
        bench.site.arm("");
        assert_eq!(recorded(&bench).len(), 1, "{kill}");
        // Any call brings the key.
        let driver = bench.start();
        bench.delete(&driver, &bench.nothing()).unwrap();
        bench.wait_until(kill, || !has_parent(&bench, &chain.image()) && recorded(&bench).is_empty());
        assert_eq!(bench.checksum(&format!("rbd/{}", chain.image())), before, "{kill}");
        chain.delete(&bench, &driver);
        bench.wait_until_empty(kill);
    }
}

#[test]
fn a_deletion_ends_the_flatten_of_its_image_in_this_controller_and_in_another() {
    let bench = bench(4);
    let (driver, other) = (bench.start(), bench.start_beside());
    for (deletes, flattens_for) in [(&driver, 3), (&other, 20)] {
        let chain = chain(&bench, &other, &[]);
        bench.site.arm(&format!("delay={}:before:rbd_flatten_with_progress", flattens_for * 1000));
        bench.snapshot(&driver, "snapshot-2", &chain.restored).unwrap_err();
        at_work(&bench);
        bench.delete(deletes, &chain.restored).unwrap();
        bench.site.arm("");
        assert_eq!(recorded(&bench), Vec::<String>::new());
        chain.delete(&bench, deletes);
        bench.wait_until_empty("deleted");
    }
}

#[test]
fn of_two_controllers_one_flattens() {
    let bench = bench(4);
    let (driver, other) = (bench.start(), bench.start_beside());
    let chain = chain(&bench, &other, &[]);
    bench.site.arm("delay=8000:before:rbd_flatten_with_progress");
    bench.snapshot(&driver, "snapshot-2", &chain.restored).unwrap_err();
    at_work(&bench);
    let (made, refusals) = snapshot_at_last(&bench, &other, &chain.restored);
    let told = refusals.iter().any(|status| status.message().contains("by another controller: client."));
    assert!(told, "{refusals:?}");
    assert_eq!(bench.site.log().matches(" flattening ").count(), 1, "{}", bench.site.log());
    bench.wait_until("both have ended", || recorded(&bench).is_empty());
    bench.delete_snapshot(&driver, &made).unwrap();
    chain.delete(&bench, &driver);
    bench.wait_until_empty("at the end");
}

/// Then the image's snapshots keep their parent, for the images that were cloned from them.
#[test]
fn without_deep_flatten_it_is_done_when_no_snapshot_has_a_parent() {
    let bench = bench(8);
    let driver = bench.start();
    let chain = chain(&bench, &driver, &[("imageFeatures", "layering")]);
    let before = bench.checksum(&format!("rbd/{}", chain.image()));
    chain.delete_ancestors(&bench, &driver);
    let made = bench.snapshot(&driver, "snapshot-2", &chain.restored).unwrap().snapshot_id;
    let kept = image_of_snapshot(&made);
    bench.wait_until("both are flattened", || {
        !has_parent(&bench, &chain.image()) && !has_parent(&bench, &kept) && recorded(&bench).is_empty()
    });
    bench.wait_until("the parents are purged", || bench.keys("rbd_trash").is_empty());
    assert_eq!(bench.snapshots(&format!("rbd/{}", chain.image())), Vec::<serde_json::Value>::new());
    assert_eq!(bench.checksum(&format!("rbd/{}", chain.image())), before);
    assert_eq!(bench.checksum(&format!("rbd/{kept}@{kept}")), before);
    bench.delete_snapshot(&driver, &made).unwrap();
    bench.delete(&driver, &chain.restored).unwrap();
    bench.wait_until_empty("at the end");
}

/// librbd would not see the snapshot, and would cut it off from the data that it reads from the
/// parent.
#[test]
fn no_snapshot_is_kept_that_was_taken_beside_a_flatten_which_does_not_see_it() {
    let bench = bench(8);
    let (one, other) = (bench.start(), bench.site.controller_at(bench.lab, "other.sock"));
    let chain = chain(&bench, &one, &[("imageFeatures", "layering")]);
    let before = bench.checksum(&format!("rbd/{}", chain.image()));
    // Each driver counts for itself: the second snapshot of the one comes late, the first of the
    // other is followed by a long flatten.
    let apart = bench.create(&one, "pvc-apart").unwrap();
    bench.site.arm("delay=6000:before:rbd_snap_create#2;delay=12000:before:rbd_flatten_with_progress");
    let first = bench.snapshot(&one, "snapshot-apart", &apart).unwrap().snapshot_id;
    let (late, early) = std::thread::scope(|scope| {
        let late = scope.spawn(|| bench.snapshot(&one, "snapshot-late", &chain.restored));
        bench.wait_until("it is about to be taken", || {
            bench.site.steps().iter().filter(|step| step.starts_with("rbd_snap_create")).count() == 2
        });
        let early = bench.snapshot(&other, "snapshot-early", &chain.restored).unwrap().snapshot_id;
        (late.join().unwrap(), early)
    });
    let status = late.unwrap_err();
    assert_eq!(status.code(), Code::Aborted, "{status}");
    assert!(status.message().contains("neither exclusive-lock nor deep-flatten"), "{status}");
    let names = bench.snapshots(&format!("rbd/{}", chain.image()));
    assert_eq!(names.len(), 1, "only what the early one needs: {names:?}");
    bench.wait_until("flattened", || !has_parent(&bench, &chain.image()) && recorded(&bench).is_empty());
    let late = bench.snapshot(&one, "snapshot-late", &chain.restored).unwrap().snapshot_id;
    for made in [&early, &late] {
        assert_eq!(bench.checksum(&format!("rbd/{}", image_of_snapshot(made))), before);
    }
    for made in [early, late, first] {
        bench.delete_snapshot(&one, &made).unwrap();
    }
    bench.delete(&one, &apart).unwrap();
    chain.delete(&bench, &one);
    bench.wait_until_empty("at the end");
}

/// A kernel that has mapped the lower one would read zeros once the upper one has no parent.
#[test]
fn an_image_with_a_volume_below_is_flattened_only_when_a_call_needs_it_and_then_after_that() {
    let mut bench = Bench::new();
    let driver = bench.start();
    let chain = chain(&bench, &driver, &[]);
    let (image, before) = (chain.image(), bench.checksum(&format!("rbd/{}", chain.image())));
    bench.site.arm("delay=8000:before:rbd_flatten_with_progress");
    let made = bench.snapshot(&driver, "snapshot-2", &chain.restored).unwrap().snapshot_id;
    at_work(&bench);
    // Nobody waits for that flatten: it makes room for the new volume.
    let lower = bench.create_of(&driver, "pvc-lower", Of::Snapshot(&made)).unwrap().volume_id;
    bench.site.arm("");
    // The snapshot's own image has come to the soft limit, and has a volume below it now.
    bench.wait_until("both given up", || recorded(&bench).is_empty());
    assert!(has_parent(&bench, &image) && has_parent(&bench, &image_of_snapshot(&made)));
    let again = bench.snapshot(&driver, "snapshot-3", &chain.restored).unwrap().snapshot_id;
    bench.wait_until("given up", || {
        recorded(&bench).is_empty()
            && bench.site.log().contains("volumes are clones of it, and may be mapped")
    });
    assert!(has_parent(&bench, &image) && has_parent(&bench, &image_of(&lower)));
    drop(driver);

    // Now a call cannot go on without.
    bench.site.flag("--rbdhardmaxclonedepth=4");
    let driver = bench.start();
    let (last, refusals) = snapshot_at_last_named(&bench, &driver, "snapshot-4", &chain.restored);
    let told = format!("which waits for volumes below it rbd/{}", image_of(&lower));
    assert!(refusals.iter().any(|status| status.message().contains(&told)), "{refusals:?}");
    assert!(!has_parent(&bench, &image) && !has_parent(&bench, &image_of(&lower)));
    for name in [image, image_of(&lower), image_of_snapshot(&made), image_of_snapshot(&last)] {
        assert_eq!(bench.checksum(&format!("rbd/{name}")), before, "{name}");
    }
    for made in [made, again, last] {
        bench.delete_snapshot(&driver, &made).unwrap();
    }
    bench.delete(&driver, &lower).unwrap();
    chain.delete(&bench, &driver);
    bench.wait_until_empty("at the end");
}
