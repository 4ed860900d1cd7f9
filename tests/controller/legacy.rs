//! Journal entries as old releases of ceph-csi, or one that was killed, left them.

use std::collections::BTreeMap;

use crate::support::bench::Bench;

const NAME: &str = "pvc-legacy";

/// A complete volume whose journal entry has only some of its keys; its handle.
fn volume_with(bench: &Bench, keys: &[&str]) -> String {
    let id = bench.create(&bench.start(), NAME).unwrap();
    let object = format!("csi.volume.{}", &id[id.len() - 36..]);
    let entry: BTreeMap<_, _> = bench.keys(&object);
    let gone = entry.keys().filter(|key| !keys.contains(&key.as_str())).cloned();
    let op = rbd_csi::ceph::WriteOp::new().omap_remove(gone);
    bench.wait(bench.rados.write("prepare", &object, op)).unwrap();
    bench.age(&object, 3600);
    id
}

#[test]
fn entries_without_image_name_or_id_are_found_completed_and_deleted() {
    let bench = Bench::new();
    for keys in [&["csi.volname"][..], &["csi.volname", "csi.imagename"], &["csi.volname", "csi.imageid"]] {
        let id = volume_with(&bench, keys);
        let driver = bench.start();
        assert_eq!(bench.create(&driver, NAME).unwrap(), id, "{keys:?}");
        let entry = bench.keys(&format!("csi.volume.{}", &id[id.len() - 36..]));
        assert!(entry.contains_key("csi.imageid"), "{keys:?}: {entry:?}");
        bench.delete(&driver, &id).unwrap();
        bench.wait_until_empty("found and deleted");

        let id = volume_with(&bench, keys);
        bench.delete(&bench.start(), &id).unwrap_or_else(|error| panic!("{keys:?}: {error}"));
        bench.wait_until_empty("deleted at once");
    }
}

#[test]
fn an_empty_entry_is_written_by_the_next_create_and_removed_by_a_delete() {
    let bench = Bench::new();
    let driver = bench.start();
    // ceph-csi stopped after the directory key, before the entry's keys and the image.
    let uuid = uuid::Uuid::new_v4().to_string();
    let prepare = || {
        bench.set_keys(&format!("csi.volume.{uuid}"), &[]);
        bench.set_keys("csi.volumes.default", &[(&format!("csi.volume.{NAME}"), &uuid)]);
    };
    prepare();
    let id = bench.create(&driver, NAME).unwrap();
    assert_eq!(id, bench.handle(&uuid));
    bench.check_that_ceph_csi_could_go_on("after an empty entry");
    bench.delete(&driver, &id).unwrap();
    bench.wait_until_empty("created and deleted");

    prepare();
    bench.delete(&driver, &bench.handle(&uuid)).unwrap();
    bench.wait_until_empty("deleted at once");

    // Only the key: its object is lost.
    bench.set_keys("csi.volumes.default", &[(&format!("csi.volume.{NAME}"), &uuid)]);
    let id = bench.create(&driver, NAME).unwrap();
    assert_eq!(id, bench.handle(&uuid));
    bench.delete(&driver, &id).unwrap();
    bench.wait_until_empty("created for a lost entry and deleted");
}

/// ceph-csi takes no lock: what it may still be making is neither finished nor cleared away.
#[test]
fn what_a_living_ceph_csi_may_be_making_is_left_alone() {
    let bench = Bench::new();
    let driver = bench.start();
    let uuid = uuid::Uuid::new_v4().to_string();
    let (object, image) = (format!("csi.volume.{uuid}"), format!("csi-vol-{uuid}"));
    for entry in [&[][..], &[("csi.volname", NAME), ("csi.imagename", &image)]] {
        bench.set_keys(&object, entry);
        bench.set_keys("csi.volumes.default", &[(&format!("csi.volume.{NAME}"), &uuid)]);
        for seconds in [0, 40] {
            bench.age(&object, seconds);
            let before = bench.contents();
            let status = bench.create(&driver, NAME).unwrap_err();
            assert_eq!(status.code(), tonic::Code::Aborted, "{entry:?}: {status}");
            assert!(
                [NAME, "ceph-csi", &object].iter().all(|word| status.message().contains(word)),
                "{status}"
            );
            assert_eq!(bench.contents(), before, "{entry:?}");
        }
        bench.age(&object, 90);
        let id = bench.create(&driver, NAME).unwrap();
        assert_eq!(id, bench.handle(&uuid), "{entry:?}");
        bench.delete(&driver, &id).unwrap();
        bench.wait_until_empty("finished and deleted");
    }
    let entry = [("csi.snapname", "snapshot-1"), ("csi.imagename", &*format!("csi-snap-{uuid}"))];
    bench.set_keys(&format!("csi.snap.{uuid}"), &entry);
    bench.set_keys("csi.snaps.default", &[("csi.snap.snapshot-1", &uuid)]);
    bench.age(&format!("csi.snap.{uuid}"), 0);
    let source = bench.create(&driver, NAME).unwrap();
    let status = bench.snapshot(&driver, "snapshot-1", &source).unwrap_err();
    assert_eq!(status.code(), tonic::Code::Aborted, "{status}");
    bench.age(&format!("csi.snap.{uuid}"), 90);
    let snapshot = bench.snapshot(&driver, "snapshot-1", &source).unwrap().snapshot_id;
    bench.delete_snapshot(&driver, &snapshot).unwrap();
    bench.delete(&driver, &source).unwrap();
    bench.wait_until_empty("with its snapshot");
}

/// A ceph-csi that was slower than that undoes its reservation without a look: first the object,
/// then the key. Its volume is not answered then, and the next try makes another.
#[test]
fn a_reservation_that_ceph_csi_takes_back_is_not_answered() {
    let bench = Bench::new();
    let driver = bench.start();
    bench.delete(&driver, &bench.nothing()).unwrap();
    let uuid = uuid::Uuid::new_v4().to_string();
    let object = format!("csi.volume.{uuid}");
    bench.set_keys(&object, &[("csi.volname", NAME), ("csi.imagename", &format!("csi-vol-{uuid}"))]);
    bench.set_keys("csi.volumes.default", &[(&format!("csi.volume.{NAME}"), &uuid)]);
    bench.site.arm("delay=3000:after:journal complete");
    let mut client = bench.wait(driver.client());
    let request = bench.request(NAME, &[]);
    let late = bench.runtime.spawn(async move { client.create_volume(request).await });
    bench.wait_until("the volume is complete", || bench.keys(&object).contains_key("csi.imageid"));
    bench.wait(bench.rados.remove("as ceph-csi", &object)).unwrap();
    let op = rbd_csi::ceph::WriteOp::new().omap_remove([format!("csi.volume.{NAME}")]);
    bench.wait(bench.rados.write("as ceph-csi", "csi.volumes.default", op)).unwrap();
    let status = bench.wait(late).unwrap().unwrap_err();
    assert_eq!(status.code(), tonic::Code::Unavailable, "{status}");
    bench.site.arm("");
    let id = bench.create(&driver, NAME).unwrap();
    assert_ne!(id, bench.handle(&uuid));
    bench.delete(&driver, &id).unwrap();
    bench.wait_until_empty("of both");
}

#[test]
fn a_key_with_the_pools_id_is_read() {
    let bench = Bench::new();
    let driver = bench.start();
    let id = bench.create(&driver, NAME).unwrap();
    let pooled = format!("{:016x}/{}", bench.rados.id(), &id[id.len() - 36..]);
    bench.set_keys("csi.volumes.default", &[(&format!("csi.volume.{NAME}"), &pooled)]);
    assert_eq!(bench.create(&driver, NAME).unwrap(), id);
    bench.delete(&driver, &id).unwrap();
    bench.wait_until_empty("with the pool's id in the key");
}

#[test]
fn a_topology_volume_is_found_in_its_own_pool() {
    let bench = Bench::new();
    let driver = bench.start();
    bench.cluster().ceph(&["osd", "pool", "create", "zone", "1"]);
    bench.cluster().rbd(&["pool", "init", "zone"]);
    let zone = bench.wait(bench.rados.connection().pool("zone", "")).unwrap();
    // As ceph-csi up to 3.10 wrote it: keys in the journal pool, an empty object and the image in the other.
    let uuid = uuid::Uuid::new_v4().to_string();
    let image = format!("csi-vol-{uuid}");
    let features = "layering,exclusive-lock,object-map,fast-diff,deep-flatten";
    bench.cluster().rbd(&["create", &format!("zone/{image}"), "--size", "1G", "--image-feature", features]);
    let pooled = format!("{:016x}/{uuid}", zone.id());
    bench.set_keys("csi.volumes.default", &[(&format!("csi.volume.{NAME}"), &pooled)]);
    let image_id = bench.wait(zone.image_id(&image)).unwrap().unwrap();
    let entry = [("csi.volname", NAME), ("csi.imagename", &image), ("csi.imageid", image_id.as_str())];
    bench.set_keys(&format!("csi.volume.{uuid}"), &entry);
    let empty = rbd_csi::ceph::WriteOp::new().create();
    bench.wait(zone.write("prepare", &format!("csi.volume.{uuid}"), empty)).unwrap();

    let id = bench.create(&driver, NAME).unwrap();
    assert!(id.ends_with(&format!("-{:016x}-{uuid}", zone.id())), "{id}");
    bench.delete(&driver, &id).unwrap();
    assert_eq!(bench.cluster().rbd(&["ls", "zone"]), "");
    assert!(!bench.cluster().rados(&["-p", "zone", "ls"]).contains(&uuid));
    // A DeleteVolume is not told the journal's pool. What is left there is the name of a
    // volume that is gone; clean it up here.
    let key = format!("csi.volume.{NAME}");
    let op = rbd_csi::ceph::WriteOp::new().omap_remove([key.as_str()]);
    bench.wait(bench.rados.write("clean up", "csi.volumes.default", op)).unwrap();
    bench.wait(bench.rados.remove("clean up", &format!("csi.volume.{uuid}"))).unwrap();
    bench.wait_until_empty("of a topology volume");
    crate::support::pool::remove(bench.cluster(), "zone");
}
