//! What is left when somebody's hand, or an old release, took a part of a volume away: deleted
//! whole where the rest proves what it was, named in an error where it does not, never an OK
//! that leaves something behind.

use rbd_csi::ceph::WriteOp;
use tonic::{Code, Status};

use crate::support::bench::Bench;
use crate::support::driver::Driver;

const NAME: &str = "pvc-damaged";
const SHOP: [(&str, &str); 1] = [("volumeNamePrefix", "shop-")];

fn uuid(id: &str) -> &str {
    &id[id.len() - 36..]
}

fn make(bench: &Bench, driver: &Driver, parameters: &[(&str, &str)]) -> String {
    bench.send(driver, bench.request(NAME, parameters)).unwrap().volume_id
}

fn lose_entry(bench: &Bench, id: &str) {
    bench.wait(bench.rados.remove("damage", &format!("csi.volume.{}", uuid(id)))).unwrap();
}

fn lose_keys(bench: &Bench, object: &str, keys: &[&str]) {
    let op = WriteOp::new().omap_remove(keys.iter().copied());
    bench.wait(bench.rados.write("damage", object, op)).unwrap();
}

fn refused(answer: Result<(), Status>, words: &[&str]) {
    let status = answer.unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition, "{status}");
    assert!(words.iter().all(|word| status.message().contains(word)), "{words:?}: {status}");
}

/// An image with a class's prefix is not told from one that a person has renamed to keep it.
#[test]
fn an_image_that_an_entry_does_not_name_is_not_deleted_on_a_guess() {
    let bench = Bench::new();
    let driver = bench.start();
    for keys in [&["csi.imagename", "csi.imageid"][..], &["csi.imagename"]] {
        let id = make(&bench, &driver, &SHOP);
        let (entry, image) = (format!("csi.volume.{}", uuid(&id)), format!("shop-{}", uuid(&id)));
        lose_keys(&bench, &entry, keys);
        refused(bench.delete(&driver, &id), &[&image]);
        bench.set_keys(&entry, &[("csi.imagename", &image)]);
        bench.delete(&driver, &id).unwrap_or_else(|error| panic!("{keys:?}: {error}"));
        bench.wait_until_empty("with its name");
    }
}

#[test]
fn a_lost_entry_is_found_by_its_directory_key() {
    let bench = Bench::new();
    let driver = bench.start();
    let id = make(&bench, &driver, &[]);
    lose_entry(&bench, &id);
    bench.delete(&driver, &id).unwrap();
    bench.delete(&driver, &id).unwrap();
    bench.wait_until_empty("with its key");
    let id = bench.handle(&uuid::Uuid::new_v4().to_string());
    bench.set_keys("csi.volumes.default", &[(&format!("csi.volume.{NAME}"), uuid(&id))]);
    bench.delete(&driver, &id).unwrap();
    bench.wait_until_empty("of a key alone");
    let source = make(&bench, &driver, &[]);
    let snapshot = bench.snapshot(&driver, "snapshot-1", &source).unwrap().snapshot_id;
    bench.wait(bench.rados.remove("damage", &format!("csi.snap.{}", uuid(&snapshot)))).unwrap();
    bench.delete_snapshot(&driver, &snapshot).unwrap();
    bench.delete(&driver, &source).unwrap();
    bench.wait_until_empty("of a snapshot");
}

#[test]
fn what_a_lost_entry_leaves_open_is_named_and_left_alone() {
    let bench = Bench::new();
    let driver = bench.start();
    let unchanged = |id: &str, words: &[&str]| {
        let before = bench.contents();
        refused(bench.delete(&driver, id), words);
        assert_eq!(bench.contents(), before);
    };
    let id = make(&bench, &driver, &[]);
    let image = format!("csi-vol-{}", uuid(&id));
    lose_entry(&bench, &id);
    bench.cluster().rbd(&["image-meta", "set", &image, "rbd.csi.ceph.com/encrypted", "encrypted"]);
    unchanged(&id, &["encrypted"]);
    bench.cluster().rbd(&["image-meta", "remove", &image, "rbd.csi.ceph.com/encrypted"]);
    // What a person has copied stays, and is in nobody's way.
    let copy = format!("backup-{image}");
    bench.cluster().rbd(&["cp", "--no-progress", &image, &copy]);
    bench.delete(&driver, &id).unwrap();
    bench.delete(&bench.start_beside(), &id).unwrap();
    bench.wait_until("the copy alone is left", || bench.images() == [copy.clone()]);
    bench.cluster().rbd(&["rm", "--no-progress", &copy]);

    let id = make(&bench, &driver, &SHOP);
    let (image, key) = (format!("shop-{}", uuid(&id)), format!("csi.volume.{NAME}"));
    let lost = format!("csi.volume.{}", uuid(&id));
    lose_entry(&bench, &id);
    unchanged(&id, &[&image, &key, &lost]);
    lose_keys(&bench, "csi.volumes.default", &[&key]);
    unchanged(&id, &[&image, &lost]);
    bench.cluster().rbd(&["rm", "--no-progress", &image]);
    bench.delete(&driver, &id).unwrap();
    bench.wait_until_empty("by hand");
}

/// Saved by another name from a deletion that its person did not mean.
#[test]
fn an_image_that_was_renamed_to_be_kept_stays() {
    let bench = Bench::new();
    let driver = bench.start();
    let id = make(&bench, &driver, &[]);
    let image = format!("csi-vol-{}", uuid(&id));
    lose_keys(&bench, &format!("csi.volume.{}", uuid(&id)), &["csi.imagename"]);
    let kept = format!("keep-{image}");
    bench.cluster().rbd(&["mv", &image, &kept]);
    refused(bench.delete(&driver, &id), &[&kept]);
    bench.cluster().rbd(&["mv", &kept, &image]);
    bench.delete(&driver, &id).unwrap();
    bench.wait_until_empty("at the end");
}

#[test]
fn a_trash_entry_that_cannot_be_read_is_in_nobody_s_way_but_its_own() {
    let bench = Bench::new();
    let driver = bench.start();
    let id = bench.handle(&uuid::Uuid::new_v4().to_string());
    bench.set_keys("rbd_trash", &[("id_damaged", "?")]);
    bench.delete(&driver, &id).unwrap();
    let id = bench.handle(&uuid::Uuid::new_v4().to_string());
    bench.set_keys("rbd_trash", &[("id_damaged", &format!("?shop-{}", uuid(&id)))]);
    assert_eq!(bench.delete(&driver, &id).unwrap_err().code(), Code::Internal);
    lose_keys(&bench, "rbd_trash", &["id_damaged"]);
    bench.delete(&driver, &id).unwrap();
}

#[test]
fn a_header_that_is_lost_is_told_with_the_names_of_its_data() {
    let bench = Bench::new();
    let driver = bench.start();
    let id = make(&bench, &driver, &[]);
    let image = bench.wait(bench.rados.image_id(&format!("csi-vol-{}", uuid(&id)))).unwrap().unwrap();
    bench.wait(bench.rados.remove("damage", &image.header_object())).unwrap();
    bench.delete(&driver, &id).unwrap();
    bench.wait_until_empty("but for data");
    assert!(bench.site.log().contains(&format!("rbd_data.{}.*", image.as_str())), "{}", bench.site.log());
}

#[test]
fn an_order_that_no_image_has_is_a_difference() {
    let bench = Bench::new();
    let driver = bench.start();
    let parameters = [("objectSize", "8388608"), ("stripeUnit", "65536"), ("stripeCount", "4")];
    let id = make(&bench, &driver, &parameters);
    let image = bench.wait(bench.rados.image_id(&format!("csi-vol-{}", uuid(&id)))).unwrap().unwrap();
    let order = |order: u8| {
        let op = WriteOp::new().omap_set([("order", vec![order])]);
        bench.wait(bench.rados.write("damage", &image.header_object(), op)).unwrap();
    };
    order(200);
    let status = bench.send(&driver, bench.request(NAME, &parameters)).unwrap_err();
    assert_eq!(status.code(), Code::AlreadyExists, "{status}");
    order(23);
    bench.delete(&driver, &id).unwrap();
    bench.wait_until_empty("at the end");
}
