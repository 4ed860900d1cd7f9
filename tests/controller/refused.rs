//! What the cluster refuses: the user, the pool, the space. The right code, a message with
//! object and errno, and nothing left.

use std::time::Instant;

use rbd_csi::csi::proto::volume_capability::{AccessType, MountVolume};
use rbd_csi::csi::proto::{CapacityRange, VolumeCapability};
use tonic::{Code, Status};

use super::expand::grow;
use crate::support::bench::{Bench, GIB, SOON};
use crate::support::driver::Driver;
use crate::support::pool::{allow_overwrites, make_erasure_coded, remove};
use crate::support::snapshots::{Of, image_of};

const NAME: &str = "pvc-refused";
/// A well-formed key that no user has.
const WRONG_KEY: &str = "AQDqZ2BlAAAAABAAAAAAAAAAAAAAAAAAAAAAAA==";

fn login(bench: &mut Bench, user: &str, key: &str) {
    bench.site.secrets.insert("userID".into(), user.to_owned());
    bench.site.secrets.insert("userKey".into(), key.to_owned());
}

fn refused(answer: Result<String, Status>, code: Code, words: &[&str]) {
    let status = answer.unwrap_err();
    assert_eq!(status.code(), code, "{status}");
    for word in words {
        assert!(status.message().contains(word), "{word}: {status}");
    }
}

/// Both RPCs refuse; a deletion never says OK of what it could not look at.
fn both(bench: &Bench, driver: &Driver, code: Code, words: &[&str]) {
    refused(bench.create(driver, NAME), code, words);
    let deleted = bench.delete(driver, &bench.nothing()).map(|()| "OK".to_owned());
    refused(deleted, code, &words[words.len() - 1..]);
    assert_eq!(bench.contents(), Vec::<String>::new(), "{words:?}");
}

#[test]
fn a_wrong_key_and_an_unknown_user() {
    let mut bench = Bench::new();
    let driver = bench.start();
    for (user, key) in [("admin", WRONG_KEY), ("nobody", WRONG_KEY)] {
        login(&mut bench, user, key);
        both(&bench, &driver, Code::Unauthenticated, &[user, "EACCES"]);
    }
    let key = bench.cluster().admin_key.clone();
    login(&mut bench, "admin", &key);
    let id = bench.create(&driver, NAME).unwrap();
    bench.delete(&driver, &id).unwrap();
    bench.wait_until_empty("with the right key");
    bench.site.check_that_no_file_holds(WRONG_KEY);
}

#[test]
fn a_user_without_caps_and_one_of_another_pool() {
    let mut bench = Bench::new();
    let driver = bench.start();
    let caps = [("blind", "profile rbd pool=other"), ("reader", "profile rbd-read-only")];
    for (user, osd) in caps {
        let key = bench.cluster().user(user, &[("mon", "profile rbd"), ("osd", osd)]);
        login(&mut bench, user, &key);
        refused(bench.create(&driver, NAME), Code::PermissionDenied, &["csi.volumes.default", "EPERM"]);
        assert_eq!(bench.contents(), Vec::<String>::new(), "{user}");
    }
    // Who may not read is never told that nothing is there.
    let key = bench.cluster().user("blind", &[("mon", "profile rbd"), ("osd", "profile rbd pool=other")]);
    login(&mut bench, "blind", &key);
    let deleted = bench.delete(&driver, &bench.nothing()).map(|()| "OK".to_owned());
    refused(deleted, Code::PermissionDenied, &["EPERM"]);
}

/// A sidecar forgets a deleted claim after a final code: none may come while an earlier try of the
/// same name has left something, whatever is wrong now.
#[test]
fn nothing_is_final_while_an_earlier_try_has_left_something() {
    let mut bench = Bench::new();
    let driver = bench.start();
    let (monitors, key) = (bench.cluster().monitors.clone(), bench.cluster().admin_key.clone());
    let begin = |bench: &Bench| {
        bench.site.arm("fail=110:before:journal complete");
        bench.create(&driver, NAME).unwrap_err();
        bench.site.arm("");
    };
    let open_at = |bench: &Bench, driver: &Driver, words: &str| {
        refused(bench.create(driver, NAME), Code::Unavailable, &[words, "calling again goes on"]);
    };
    let open = |bench: &Bench, words: &str| open_at(bench, &driver, words);
    begin(&bench);
    let uuid = bench.reserved(NAME).unwrap();
    login(&mut bench, "admin", WRONG_KEY);
    open(&bench, "EACCES");
    // Of a name that was never begun it is said as it is.
    refused(bench.create(&driver, "pvc-other"), Code::Unauthenticated, &["EACCES"]);
    let caps = [("mon", "profile rbd"), ("osd", "profile rbd pool=elsewhere")];
    let blind = bench.cluster().user("blinder", &caps);
    login(&mut bench, "blinder", &blind);
    open(&bench, "EPERM");
    login(&mut bench, "admin", &key);
    std::fs::write(bench.site.path("config.json"), "[]").unwrap();
    open(&bench, "lab-cluster");
    bench.site.configure(&monitors, "");
    // A driver that has just been started asks the journal.
    drop(driver);
    let driver = bench.start();
    let reader =
        bench.cluster().user("just-reader", &[("mon", "profile rbd"), ("osd", "profile rbd-read-only")]);
    login(&mut bench, "just-reader", &reader);
    refused(bench.create(&driver, NAME), Code::Unavailable, &["EPERM"]);
    login(&mut bench, "admin", &key);
    let id = bench.create(&driver, NAME).unwrap();
    assert!(id.ends_with(&uuid), "{id} {uuid}");
    // What is complete is answered without writing; whoever asks for it again may not have had the answer.
    login(&mut bench, "just-reader", &reader);
    assert_eq!(bench.create(&driver, NAME).unwrap(), id);
    login(&mut bench, "admin", WRONG_KEY);
    open_at(&bench, &driver, "EACCES");
    login(&mut bench, "admin", &key);
    bench.delete(&driver, &id).unwrap();
    bench.wait_until_empty("at the end");
}

#[test]
fn a_snapshot_s_earlier_try_keeps_errors_from_being_final() {
    let mut bench = Bench::new();
    let driver = bench.start();
    let source = bench.create(&driver, NAME).unwrap();
    bench.site.arm("fail=110:before:journal complete");
    bench.snapshot(&driver, "snapshot-1", &source).unwrap_err();
    bench.site.arm("");
    let key = bench.cluster().admin_key.clone();
    login(&mut bench, "admin", WRONG_KEY);
    let code = |name: &str| bench.snapshot(&driver, name, &source).unwrap_err().code();
    assert_eq!((code("snapshot-1"), code("snapshot-2")), (Code::Unavailable, Code::Unauthenticated));
    login(&mut bench, "admin", &key);
    let snapshot = bench.snapshot(&driver, "snapshot-1", &source).unwrap().snapshot_id;
    bench.delete_snapshot(&driver, &snapshot).unwrap();
    bench.delete(&driver, &source).unwrap();
    bench.wait_until_empty("at the end");
}

/// A PersistentVolume cannot be changed: what no node would format is not made.
#[test]
fn what_no_node_would_format() {
    let bench = Bench::new();
    let driver = bench.start();
    let send = |fs_type: &str, bytes: i64, parameters: &[(&str, &str)]| {
        let mut request = bench.request(NAME, parameters);
        request.capacity_range = Some(CapacityRange { required_bytes: bytes, limit_bytes: bytes });
        let mount = VolumeCapability { ..request.volume_capabilities[0].clone() };
        request.volume_capabilities = vec![VolumeCapability {
            access_type: Some(AccessType::Mount(MountVolume {
                fs_type: fs_type.into(),
                ..Default::default()
            })),
            ..mount
        }];
        bench.send(&driver, request).map(|volume| volume.volume_id)
    };
    for (fs_type, words) in [
        ("btrfs", &["btrfs", "ext4, xfs"][..]),
        ("XFS", &["did you mean xfs?"]),
        ("ext4 ", &["did you mean ext4?"]),
    ] {
        refused(send(fs_type, GIB, &[]), Code::InvalidArgument, words);
    }
    refused(send("xfs", 100 << 20, &[]), Code::OutOfRange, &["104857600", "314572800", "xfs"]);
    refused(send("", 8192, &[]), Code::OutOfRange, &["ext4", "1048576"]);
    for options in ["-m0; rm -rf /", "-d /etc", "somebody's"] {
        refused(send("", GIB, &[("mkfsOptions", options)]), Code::InvalidArgument, &["mkfsOptions"]);
    }
    // The in-tree drivers' name of the type: csi-provisioner, unlike other COs, makes the capability's of it.
    for (fs_type, name, value) in [("", "fsType", "xfs"), ("ext4", "fstype", "xfs"), ("xfs", "FSTYPE", "XFS")]
    {
        let words = [name, value, "csi.storage.k8s.io/fstype"];
        refused(send(fs_type, GIB, &[(name, value)]), Code::InvalidArgument, &words);
    }
    assert_eq!(bench.contents(), Vec::<String>::new());
    for (fs_type, name, value) in [("xfs", "fsType", "xfs"), ("", "fstype", "ext4"), ("ext4", "fsType", "")] {
        let id = send(fs_type, GIB, &[(name, value)]).unwrap();
        bench.delete(&driver, &id).unwrap();
    }
    for (fs_type, bytes) in [("xfs", 300 << 20), ("", 4 << 20), ("ext3", 4 << 20)] {
        let id = send(fs_type, bytes, &[("mkfsOptions", "-L name")]).unwrap();
        bench.delete(&driver, &id).unwrap();
    }
    bench.wait_until_empty("at the end");
}

#[test]
fn a_missing_pool() {
    let bench = Bench::new();
    let driver = bench.start();
    let request = bench.request(NAME, &[("pool", "no-such-pool")]);
    let answer = bench.send(&driver, request).map(|volume| volume.volume_id);
    refused(answer, Code::InvalidArgument, &["no-such-pool", "ENOENT"]);
    let request = bench.request(NAME, &[("pool", "rbd/ns1")]);
    let answer = bench.send(&driver, request).map(|volume| volume.volume_id);
    refused(answer, Code::InvalidArgument, &["rbd/ns1", "`rbd.radosNamespace` in config.json"]);
    let request = bench.request(NAME, &[("dataPool", "no-such-data")]);
    let answer = bench.send(&driver, request).map(|volume| volume.volume_id);
    refused(answer, Code::InvalidArgument, &["no-such-data"]);
    assert_eq!(bench.contents(), Vec::<String>::new());
}

/// As the pool of the images, and as the data pool before and after its flag is set; of nothing, of
/// a volume and of its snapshot.
#[test]
fn an_erasure_coded_pool() {
    const EC: &str = "erasure-coded";
    let bench = Bench::new();
    let driver = bench.start();
    let source = bench.create(&driver, "pvc-source").unwrap();
    let snapshot = bench.snapshot(&driver, "snapshot-1", &source).unwrap().snapshot_id;
    let of = [None, Some(Of::Volume(&source)), Some(Of::Snapshot(&snapshot))];
    let send = |name: &str, of: &Option<Of<'_>>, parameters: &[(&str, &str)]| {
        let request = match of {
            None => bench.request(name, parameters),
            Some(of) => bench.request_of(name, *of, parameters),
        };
        bench.send(&driver, request).map(|volume| volume.volume_id)
    };
    make_erasure_coded(bench.cluster(), EC);
    let objects = |pool: &str| -> Vec<String> {
        let inert = |object: &String| !object.ends_with("/rbd_info");
        bench.cluster().objects(pool).into_iter().filter(inert).collect()
    };
    let before = objects("rbd");
    for of in &of {
        refused(
            send(NAME, of, &[("pool", EC)]),
            Code::InvalidArgument,
            &["pool erasure-coded is", "dataPool"],
        );
        let words = ["ceph osd pool set erasure-coded allow_ec_overwrites true"];
        refused(send(NAME, of, &[("dataPool", EC)]), Code::InvalidArgument, &words);
        bench.wait_until("nothing is left in the pool", || objects("rbd") == before);
        assert_eq!(objects(EC), Vec::<String>::new(), "librbd tries the pool by rbd_info, and leaves that");
        assert_eq!(bench.reserved(NAME), None);
    }
    allow_overwrites(bench.cluster(), EC);
    for (number, of) in of.iter().enumerate() {
        let id = send(&format!("{NAME}-{number}"), of, &[("dataPool", EC)]).unwrap();
        bench.delete(&driver, &id).unwrap();
    }
    bench.delete_snapshot(&driver, &snapshot).unwrap();
    bench.delete(&driver, &source).unwrap();
    bench.wait_until_empty("of erasure-coded pools");
    remove(bench.cluster(), EC);
}

/// More objects than an object map has; without a map there is no such limit.
#[test]
fn more_objects_than_an_object_map_has() {
    let bench = Bench::new();
    let driver = bench.start();
    let send = |bytes: i64, parameters: &[(&str, &str)], unset: bool| {
        let mut request = bench.request(NAME, parameters);
        request.capacity_range = Some(CapacityRange { required_bytes: bytes, limit_bytes: 0 });
        if unset {
            request.parameters.remove("imageFeatures");
        }
        bench.send(&driver, request).map(|volume| volume.volume_id)
    };
    let small = [("objectSize", "4096")];
    let most = "1048576000000";
    for (bytes, parameters, unset, largest) in [
        (GIB << 20, &[][..], false, "1073741824000000"),
        (GIB << 20, &[], true, "1073741824000000"),
        (GIB << 10, &small, false, most),
    ] {
        let words = [&*bytes.to_string(), largest, "object-map"];
        refused(send(bytes, parameters, unset), Code::OutOfRange, &words);
        assert_eq!(bench.contents(), Vec::<String>::new());
    }
    let id = send(GIB, &small, false).unwrap();
    let image = format!("rbd/{}", image_of(&id));
    let answer = grow(&bench, &driver, &id, GIB << 10).map(|_| String::new());
    refused(answer, Code::OutOfRange, &[&image, most, "object-map"]);
    assert_eq!(bench.info(&image)["size"], GIB);
    let larger = [("objectSize", "4096"), ("imageFeatures", "layering")];
    let mut request = bench.request("pvc-larger", &larger);
    request.capacity_range = Some(CapacityRange { required_bytes: GIB << 10, limit_bytes: 0 });
    let other = bench.send(&driver, request).unwrap().volume_id;
    // Its deletion would ask for each object; it has none.
    let name = image_of(&other);
    let image_id = bench.wait(bench.rados.image_id(&name)).unwrap().unwrap();
    bench.wait(bench.rados.remove_partial_image(&name, &image_id)).unwrap();
    for id in [id, other] {
        bench.delete(&driver, &id).unwrap();
    }
    bench.wait_until_empty("at the end");
}

/// Only the cluster's word that there is no such pool is final.
#[test]
fn a_look_for_the_data_pool_that_fails_is_no_absence() {
    let bench = Bench::new();
    let driver = bench.start();
    bench.delete(&driver, &bench.nothing()).unwrap();
    let request = || bench.request(NAME, &[("dataPool", "no-such-data")]);
    bench.site.arm("fail=110:before:rados_pool_lookup#2");
    let status = bench.send(&driver, request()).unwrap_err();
    let looked =
        bench.site.steps().iter().filter(|step| step.starts_with("rados_pool_lookup\tno-such")).count();
    bench.site.arm("");
    assert_eq!((status.code(), looked), (Code::DeadlineExceeded, 1), "{status}");
    assert!(status.message().contains("no-such-data"), "{status}");
    assert_eq!(bench.send(&driver, request()).unwrap_err().code(), Code::InvalidArgument);
    bench.wait_until_empty("at the end");
}

#[test]
fn a_full_pool() {
    let bench = Bench::new();
    // As in a pool from which nothing was ever deleted.
    bench.wait(bench.rados.remove_if_there("prepare", "rbd_trash")).unwrap();
    let driver = bench.start();
    let kept = bench.create(&driver, "pvc-kept").unwrap();
    let until = Instant::now() + SOON;
    while bench.wait(bench.rados.stat("look", "rbd_trash")).is_err() {
        assert!(Instant::now() < until, "nothing could be deleted when the pool is full");
    }
    let before = bench.contents();
    bench.set_quota("1");
    refused(bench.create(&driver, NAME), Code::ResourceExhausted, &["EDQUOT", "rbd/"]);
    assert_eq!(bench.contents(), before);
    // A full pool is emptied by deleting; that must work.
    bench.delete(&driver, &kept).unwrap();
    bench.wait_until_empty("from a full pool");
    bench.set_quota("0");
    let id = bench.create(&driver, NAME).unwrap();
    bench.delete(&driver, &id).unwrap();
    bench.wait_until_empty("after the quota");
}
