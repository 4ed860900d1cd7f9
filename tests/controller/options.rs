//! What the command line and a StorageClass say beyond the usual, and images in the trash
//! that are not this driver's to purge.

use std::time::{Duration, Instant};

use rbd_csi::csi::proto;
use tonic::Code;

use crate::support::bench::{Bench, GIB, SOON};
use crate::support::driver::Site;

#[test]
fn a_size_is_what_is_asked_for_or_a_gibibyte() {
    let bench = Bench::new();
    let driver = bench.start();
    let range = |required_bytes, limit_bytes| Some(proto::CapacityRange { required_bytes, limit_bytes });
    for (name, asked, expected) in [
        ("pvc-default", None, GIB),
        ("pvc-zero", range(0, 0), GIB),
        ("pvc-mebibyte", range((5 << 20) - 1, 0), 5 << 20),
        // A mebibyte would be too much; 4 KiB are the least that a device counts in.
        ("pvc-tight", range((2 << 20) + 1, (2 << 20) + 9000), (2 << 20) + 4096),
    ] {
        let mut request = bench.request(name, &[]);
        request.capacity_range = asked;
        let volume = bench.send(&driver, request.clone()).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(volume.capacity_bytes, expected, "{name}");
        let info = bench.cluster().rbd(&["info", "--format", "json", &volume.volume_context["imageName"]]);
        let info: serde_json::Value = serde_json::from_str(&info).unwrap();
        assert_eq!(info["size"], expected, "{name}");
        assert_eq!(bench.send(&driver, request).unwrap(), volume, "{name}");
        bench.delete(&driver, &volume.volume_id).unwrap();
    }
    bench.wait_until_empty("at the end");
}

#[test]
fn parameters_without_effect_are_carried_and_refused_on_demand() {
    let mut bench = Bench::new();
    let unusual = [("colour", "blue"), ("mounter", "rbd"), ("encrypted", "false")];
    let driver = bench.start();
    let volume = bench.send(&driver, bench.request("pvc-carried", &unusual)).unwrap();
    for (name, value) in unusual {
        assert_eq!(volume.volume_context[name], value);
    }
    let log = bench.site.log();
    let warned = |line: &&str| line.contains("WARN") && line.contains("colour");
    assert_eq!(log.lines().filter(warned).count(), 1, "{log}");
    drop(driver);

    bench.site.flag("--strict-parameters=true");
    let driver = bench.start();
    let status = bench.send(&driver, bench.request("pvc-strict", &unusual)).unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument, "{status}");
    assert!(status.message().contains("colour"), "{status}");
    let known = bench.send(&driver, bench.request("pvc-strict", &unusual[1..])).unwrap();
    bench.delete(&driver, &known.volume_id).unwrap();
    bench.delete(&driver, &volume.volume_id).unwrap();
    bench.wait_until_empty("at the end");
}

#[test]
fn the_clusters_name_is_on_each_image_and_instances_do_not_share_names() {
    let mut bench = Bench::new();
    bench.site.flag("--clustername=shop-cluster");
    let driver = bench.start();
    let mut other = Site::new(bench.lab, bench.cluster());
    other.flag("--instanceid=other");
    let neighbour = other.controller(bench.lab);

    let first = bench.send(&driver, bench.request("pvc-shared", &[])).unwrap();
    let second = bench.send(&neighbour, bench.request("pvc-shared", &[])).unwrap();
    assert_ne!(first.volume_id, second.volume_id);
    let name = |volume: &proto::Volume| {
        let image = &volume.volume_context["imageName"];
        let metadata = bench.cluster().rbd(&["image-meta", "list", "--format", "json", image]);
        let metadata: serde_json::Value = serde_json::from_str(&metadata).unwrap();
        metadata["csi.ceph.com/cluster/name"].clone()
    };
    assert_eq!(name(&first), "shop-cluster");
    assert!(name(&second).is_null());
    assert_eq!(bench.keys("csi.volumes.default").len(), 1);
    assert!(bench.keys("csi.volumes.other").contains_key("csi.volume.pvc-shared"));
    bench.delete(&driver, &first.volume_id).unwrap();
    bench.delete(&neighbour, &second.volume_id).unwrap();
    // Until its purge, too, is forgotten.
    let until = Instant::now() + SOON;
    while !bench.keys("csi.volumes.other").is_empty() {
        assert!(Instant::now() < until, "{:?}", bench.keys("csi.volumes.other"));
        std::thread::sleep(Duration::from_millis(50));
    }
    bench.wait(bench.rados.remove("clean up", "csi.volumes.other")).unwrap();
    bench.wait_until_empty("at the end");
}

#[test]
fn only_what_is_recorded_and_in_the_trash_is_purged() {
    let bench = Bench::new();
    let rbd = |args: &[&str]| bench.cluster().rbd(args);
    let id_of = |image: &str| bench.wait(bench.rados.image_id(image)).unwrap().unwrap();
    for image in ["somebodys", "taken-back"] {
        rbd(&["create", "--size", "1M", image]);
    }
    let (trashed, alive) = (id_of("somebodys"), id_of("taken-back"));
    rbd(&["trash", "mv", "somebodys"]);
    // The record of a deletion whose image a person has restored.
    let key = format!("rbd-csi.purge.{}", alive.as_str());
    let value = format!(r#"{{"image":"taken-back","uuid":"{}"}}"#, uuid::Uuid::new_v4());
    bench.set_keys("csi.volumes.default", &[(&key, &value)]);

    // Its first call resumes what is recorded; and it purges one of its own.
    let driver = bench.start();
    let id = bench.create(&driver, "pvc-own").unwrap();
    bench.delete(&driver, &id).unwrap();
    let until = Instant::now() + SOON;
    while !bench.keys("csi.volumes.default").is_empty() {
        assert!(Instant::now() < until, "{:?}", bench.keys("csi.volumes.default"));
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(bench.images(), ["taken-back"]);
    assert!(bench.site.log().contains("not in the trash: left alone"));
    let left = rbd(&["trash", "ls"]);
    assert_eq!(left, format!("{} somebodys", trashed.as_str()));
    rbd(&["rm", "--no-progress", "taken-back"]);
    rbd(&["trash", "rm", "--no-progress", trashed.as_str()]);
    bench.wait_until_empty("at the end");
}
