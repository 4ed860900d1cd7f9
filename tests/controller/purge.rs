//! The purge among others: several users of one process, refused deletions, stolen locks,
//! pools that go.

use std::time::{Duration, Instant};

use rbd_csi::ceph::{ImageId, WriteOp, lock};
use tonic::Code;

use crate::support::bench::{Bench, SOON, last_lines};
use crate::support::snapshots::image_of;

const NAME: &str = "pvc-purge";

fn image_id(bench: &Bench, id: &str) -> ImageId {
    bench.wait(bench.rados.image_id(&image_of(id))).unwrap().unwrap()
}

fn wait_until(bench: &Bench, what: &str, within: Duration, is_so: impl Fn() -> bool) {
    let until = Instant::now() + within;
    while !is_so() {
        assert!(Instant::now() < until, "{what}: not yet\n{}", last_lines(&bench.site.log(), 20));
        std::thread::sleep(Duration::from_millis(30));
    }
}

/// Another user of the same pool, as when a class's secret is changed.
fn login(bench: &mut Bench, user: &str) {
    let key = bench.cluster().user(user, &[("mon", "profile rbd"), ("osd", "profile rbd")]);
    bench.site.secrets.insert("userID".into(), user.to_owned());
    bench.site.secrets.insert("userKey".into(), key);
}

fn blocklisted(bench: &Bench) -> String {
    bench.cluster().ceph(&["osd", "blocklist", "ls"])
}

/// A controller that dies in a flatten leaves its lock, which nobody asks for again once the image
/// is gone.
#[test]
fn with_an_image_goes_what_a_flatten_has_left_of_it() {
    let bench = Bench::new();
    let driver = bench.start();
    let id = bench.create(&driver, NAME).unwrap();
    let key = format!("rbd-csi.flatten.{}", image_id(&bench, &id).as_str());
    let op = lock::take(WriteOp::new().create(), &key, "dead");
    bench.wait(bench.rados.write("prepare", "csi.volumes.default", op)).unwrap();
    bench.delete(&driver, &id).unwrap();
    bench.wait_until_empty("with the lock");
}

#[test]
fn locks_that_older_versions_left_are_swept_and_those_that_are_held_are_not() {
    let bench = Bench::new();
    for (name, held) in [("rbd-csi.purge.1", false), ("rbd-csi.purge.2", false), ("rbd-csi.purge.3", true)] {
        let op = lock::take(WriteOp::new().create(), name, "older");
        bench.wait(bench.rados.write("prepare", "csi.volumes.default", op)).unwrap();
        if !held {
            // As class `lock` leaves it: without a holder, and there.
            bench.cluster().rados(&[
                "-p",
                "rbd",
                "lock",
                "break",
                "csi.volumes.default",
                name,
                &format!("client.{}", bench.rados.connection().instance_id()),
                "--lock-cookie",
                "older",
            ]);
        }
    }
    assert_eq!(bench.xattrs("csi.volumes.default").len(), 3);
    let driver = bench.start();
    bench.delete(&driver, &bench.nothing()).unwrap();
    wait_until(&bench, "swept", SOON, || bench.xattrs("csi.volumes.default") == ["lock.rbd-csi.purge.3"]);
    let op = lock::give_back(WriteOp::new(), "rbd-csi.purge.3", "older");
    bench.wait(bench.rados.write("clean up", "csi.volumes.default", op)).unwrap();
    bench.wait_until_empty("at the end");
}

#[test]
fn two_users_of_one_process_purge_an_image_once() {
    let mut bench = Bench::new();
    let driver = bench.start();
    let id = bench.create(&driver, NAME).unwrap();
    bench.site.arm("delay=3000:before:rbd_trash_remove_with_progress");
    bench.delete(&driver, &id).unwrap();
    login(&mut bench, "second");
    bench.delete(&driver, &bench.nothing()).unwrap();
    bench.wait_until_empty("beside a second user");
    let steps = bench.site.steps();
    let count = |name: &str| steps.iter().filter(|step| step.starts_with(name)).count();
    assert_eq!((count("rbd_trash_remove"), count("lock break")), (1, 0), "{steps:?}");
}

#[test]
fn a_lock_of_a_client_of_this_process_is_taken_over_without_a_fence() {
    let mut bench = Bench::new();
    let before = blocklisted(&bench);
    let driver = bench.start();
    let kept = bench.create(&driver, "pvc-bystander").unwrap();
    // The create stops with a time-out, and the creator's lock stays with the first user's client.
    bench.site.arm("fail=110:after:rbd_create4");
    bench.create(&driver, NAME).unwrap_err();
    bench.site.arm("");
    let first = bench.site.secrets.clone();
    login(&mut bench, "second");
    let id = bench.create(&driver, NAME).unwrap();
    assert_eq!(blocklisted(&bench), before);
    bench.site.secrets = first;
    bench.delete(&driver, &kept).unwrap();
    bench.delete(&driver, &id).unwrap();
    bench.wait_until_empty("at the end");
}

#[test]
fn a_deletion_that_is_refused_for_good_leaves_neither_record_nor_mark() {
    let bench = Bench::new();
    bench.cluster().rbd(&["mirror", "pool", "enable", "rbd", "image"]);
    let driver = bench.start();
    let id = bench.create(&driver, NAME).unwrap();
    let image = image_of(&id);
    let rbd = |args: &[&str]| bench.cluster().rbd(args);
    rbd(&["feature", "enable", &image, "journaling"]);
    rbd(&["mirror", "image", "enable", &image, "journal"]);
    rbd(&["mirror", "image", "demote", &image]);
    let ours =
        || bench.keys("csi.volumes.default").into_keys().filter(|key| key.starts_with("rbd-csi")).count();
    let status = bench.delete(&driver, &id).unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition, "{status}");
    assert!(status.message().contains("non-primary") && status.message().contains(&image), "{status}");
    assert_eq!(ours(), 0, "asked before anything is written");
    rbd(&["mirror", "image", "promote", &image]);
    // The promoted image is the volume still, with a feature that was not asked for.
    let status = bench.create(&driver, NAME).unwrap_err();
    assert_eq!(status.code(), Code::AlreadyExists, "{status}");
    assert_eq!(bench.images(), std::slice::from_ref(&image));
    // The same when librbd says so at the move itself.
    rbd(&["mirror", "image", "disable", "--force", &image]);
    assert_eq!(bench.create(&driver, NAME).unwrap(), id);
    for errno in [libc::EINVAL, libc::EROFS, libc::EMLINK, libc::EBUSY] {
        bench.site.arm(&format!("fail={errno}:before:trash add"));
        let status = bench.delete(&driver, &id).unwrap_err();
        bench.site.arm("");
        assert_eq!(status.code(), Code::FailedPrecondition, "{status}");
        assert_eq!(ours(), 0, "{errno}: {:?}", bench.keys("csi.volumes.default"));
        assert_eq!(bench.create(&driver, NAME).unwrap(), id, "{errno}");
    }
    bench.delete(&driver, &id).unwrap();
    rbd(&["mirror", "pool", "disable", "rbd"]);
    bench.wait(bench.rados.remove_if_there("clean up", "rbd_mirroring")).unwrap();
    wait_until(&bench, "nothing of mirroring counts", SOON, || {
        bench.contents().iter().all(|left| left.starts_with("rbd_mirror"))
    });
    for left in bench.contents() {
        bench.wait(bench.rados.remove("clean up", &left)).unwrap();
    }
}

#[test]
fn an_image_that_a_person_saves_after_a_deletion_that_stopped_stays_in_the_trash() {
    let bench = Bench::new();
    let driver = bench.start();
    let id = bench.create(&driver, NAME).unwrap();
    let image = image_id(&bench, &id);
    bench.site.arm(&format!("fail={}:before:trash add", libc::ETIMEDOUT));
    bench.delete(&driver, &id).unwrap_err();
    bench.site.arm("");
    assert!(bench.keys("csi.volumes.default").contains_key(&format!("rbd-csi.purge.{}", image.as_str())));
    // The CO does not come back: somebody has patched the PV to Retain, and saves the image.
    bench.cluster().rbd(&["trash", "mv", &image_of(&id)]);
    drop(driver);
    let driver = bench.start();
    let other = bench.create(&driver, "pvc-other").unwrap();
    wait_until(&bench, "looked at", SOON, || bench.site.log().contains("left alone"));
    assert!(bench.wait(bench.rados.trash_entry(&image)).unwrap().is_some());
    assert!(bench.wait(bench.rados.image_header(&image, &[])).unwrap().is_some());
    // Deleted after all.
    bench.delete(&driver, &id).unwrap();
    bench.delete(&driver, &other).unwrap();
    bench.wait_until_empty("at the end");
}

#[test]
fn a_record_of_an_older_version_counts_when_its_deletion_was_carried_to_its_end() {
    let bench = Bench::new();
    let old = |id: &str, image: &ImageId| {
        let uuid = &id[id.len() - 36..];
        let value = serde_json::json!({"image": image_of(id), "uuid": uuid}).to_string();
        bench.set_keys("csi.volumes.default", &[(&format!("rbd-csi.purge.{}", image.as_str()), &value)]);
        bench.cluster().rbd(&["trash", "mv", &image_of(id)]);
    };
    let maker = bench.start();
    let (ended, open) = (bench.create(&maker, NAME).unwrap(), bench.create(&maker, "pvc-open").unwrap());
    let (ended_image, open_image) = (image_id(&bench, &ended), image_id(&bench, &open));
    drop(maker);
    old(&ended, &ended_image);
    old(&open, &open_image);
    let op = WriteOp::new().omap_remove([format!("csi.volume.{NAME}")]);
    bench.wait(bench.rados.write("prepare", "csi.volumes.default", op)).unwrap();
    bench.wait(bench.rados.remove("prepare", &format!("csi.volume.{}", &ended[ended.len() - 36..]))).unwrap();

    let driver = bench.start();
    bench.delete(&driver, &bench.nothing()).unwrap();
    wait_until(&bench, "the one that was ended", SOON, || {
        bench.wait(bench.rados.trash_entry(&ended_image)).unwrap().is_none()
    });
    assert!(bench.wait(bench.rados.trash_entry(&open_image)).unwrap().is_some(), "its deletion is owed");
    bench.delete(&driver, &open).unwrap();
    bench.wait_until_empty("at the end");
}

/// Objects to remove that take the lab about a minute: 32 MiB each, without an object map.
const LONG: &str = "6T";

#[test]
fn librbd_stops_when_its_purge_is_another_s() {
    let bench = Bench::new();
    let driver = bench.start();
    let id = bench.create(&driver, NAME).unwrap();
    let name = image_of(&id);
    bench.cluster().rbd(&["rm", "--no-progress", &name]);
    let options = ["--image-feature", "layering", "--object-size", "32M", "--size", LONG];
    bench.cluster().rbd(&[&["create", name.as_str()][..], &options].concat());
    let image = image_id(&bench, &id);
    bench.set_keys(&format!("csi.volume.{}", &id[id.len() - 36..]), &[("csi.imageid", image.as_str())]);
    bench.delete(&driver, &id).unwrap();
    let watched = || !bench.wait(bench.rados.image_watchers(&image)).unwrap().is_empty();
    wait_until(&bench, "librbd is at work", SOON, watched);

    let (object, lock_name) = ("csi.volumes.default", format!("rbd-csi.purge.{}", image.as_str()));
    let holder = bench.wait(bench.rados.lock_holder(object, &lock_name)).unwrap().unwrap();
    bench.wait(bench.rados.break_lock(object, &lock_name, &holder)).unwrap();
    let op = lock::take(WriteOp::new().assert_exists(), &lock_name, "another");
    bench.wait(bench.rados.write("take over", object, op)).unwrap();
    wait_until(&bench, "librbd has stopped", SOON, || !watched());
    assert!(bench.wait(bench.rados.trash_entry(&image)).unwrap().is_some(), "it stopped before its end");
    assert!(bench.wait(bench.rados.image_header(&image, &[])).unwrap().is_some());
    let op = lock::give_back(WriteOp::new(), &lock_name, "another");
    bench.wait(bench.rados.write("give back", object, op)).unwrap();
    bench.wait_until_empty_for("after the other", Duration::from_secs(240));
}

#[test]
fn a_purge_ends_with_its_pool() {
    let bench = Bench::new();
    let driver = bench.start();
    crate::support::pool::make(bench.cluster(), "leaving");
    let made = bench.send(&driver, bench.request(NAME, &[("pool", "leaving")])).unwrap();
    bench.site.arm(&format!("fail={}:before:rbd_trash_remove_with_progress", libc::EIO));
    bench.delete(&driver, &made.volume_id).unwrap();
    wait_until(&bench, "the first try", SOON, || bench.site.log().contains("stays in the trash for now"));
    crate::support::pool::remove(bench.cluster(), "leaving");
    wait_until(&bench, "the end", SOON, || bench.site.log().contains("a pool is gone"));
}
