//! CreateVolume and DeleteVolume on a real Ceph: what they make, what they refuse,
//! and that an operator and ceph-csi find what they expect.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rbd_csi::csi::proto;
use rbd_csi::csi::proto::volume_capability::access_mode::Mode;
use rbd_csi::volume::capability::NO_SINGLE_WRITER_OF_MANY;
use tonic::Code;

use crate::support::bench::{Bench, GIB, SOON};
use crate::support::{driver, lab, pool};

fn json(bench: &Bench, args: &[&str]) -> serde_json::Value {
    let text = bench.cluster().rbd(&[args, &["--format", "json"]].concat());
    serde_json::from_str(&text).unwrap()
}

#[test]
fn a_volume_is_what_ceph_csi_makes_of_the_same_request() {
    let bench = Bench::new();
    let driver = bench.start();
    let volume = bench.send(&driver, bench.request("pvc-plain", &[])).unwrap();
    let uuid = &volume.volume_id[volume.volume_id.len() - 36..];
    let image = format!("csi-vol-{uuid}");
    assert_eq!(volume.capacity_bytes, GIB);
    let context: BTreeMap<_, _> = volume.volume_context.clone();
    assert_eq!(context["imageName"], image);
    assert_eq!((context["pool"].as_str(), context["journalPool"].as_str()), ("rbd", "rbd"));
    assert!(!context.keys().any(|key| key.starts_with("csi.storage.k8s.io/")), "{context:?}");

    let info = json(&bench, &["info", &image]);
    assert_eq!(info["size"], GIB);
    let features: Vec<_> =
        info["features"].as_array().unwrap().iter().map(|name| name.as_str().unwrap()).collect();
    assert_eq!(features, ["layering", "exclusive-lock", "object-map", "fast-diff", "deep-flatten"]);
    let metadata = json(&bench, &["image-meta", "list", &image]);
    assert_eq!(metadata["csi.storage.k8s.io/pvc/namespace"], "shop");
    assert_eq!(metadata["csi.storage.k8s.io/pv/name"], "pvc-plain");
    assert_eq!(metadata["csi.ceph.com/mounter"], "rbd");

    let value =
        |object: &str, key: &str| pool::omap_value(bench.cluster(), "rbd", object, key).unwrap_or_default();
    assert_eq!(value("csi.volumes.default", "csi.volume.pvc-plain"), uuid);
    let object = format!("csi.volume.{uuid}");
    assert_eq!(value(&object, "csi.volname"), "pvc-plain");
    assert_eq!(value(&object, "csi.imagename"), image);
    assert_eq!(value(&object, "csi.imageid"), info["id"].as_str().unwrap());
    assert_eq!(value(&object, "csi.volume.owner"), "shop");

    bench.delete(&driver, &volume.volume_id).unwrap();
    bench.delete(&driver, &volume.volume_id).unwrap();
    bench.wait_until_empty("at the end");
}

#[test]
fn the_same_name_is_the_same_volume_or_says_what_differs() {
    let bench = Bench::new();
    let driver = bench.start();
    let first = bench.send(&driver, bench.request("pvc-same", &[])).unwrap();
    assert_eq!(bench.send(&driver, bench.request("pvc-same", &[])).unwrap(), first);
    let mut larger = bench.request("pvc-same", &[]);
    larger.capacity_range.as_mut().unwrap().required_bytes = 2 * GIB;
    let cases = [
        (larger, "bytes"),
        (bench.request("pvc-same", &[("imageFeatures", "layering")]), "features"),
        (bench.request("pvc-same", &[("objectSize", "8388608")]), "objects"),
        (bench.request("pvc-same", &[("volumeNamePrefix", "shop-")]), "shop-"),
    ];
    for (request, word) in cases {
        let status = bench.send(&driver, request).unwrap_err();
        assert_eq!(status.code(), Code::AlreadyExists, "{status}");
        assert!(status.message().contains(word), "{status}");
    }
    // ceph-csi rounds 1.5 GiB up to 2; that image is the volume that a request for 1.5 GiB finds.
    bench.cluster().rbd(&["resize", "--no-progress", "--size", "2G", &first.volume_context["imageName"]]);
    let mut between = bench.request("pvc-same", &[]);
    between.capacity_range =
        Some(proto::CapacityRange { required_bytes: GIB + GIB / 2, limit_bytes: GIB + GIB / 2 });
    assert_eq!(bench.send(&driver, between).unwrap().capacity_bytes, 2 * GIB);
    bench.delete(&driver, &first.volume_id).unwrap();
    bench.wait_until_empty("at the end");
}

#[test]
fn every_legal_name_is_a_volume() {
    let bench = Bench::new();
    let driver = bench.start();
    let names = [
        "a".repeat(128),
        "é".repeat(64),
        "a/b@c'd\"e f\\g\tnew\nline".to_owned(),
        "\u{202e}rtl %s $(x) ../..".to_owned(),
    ];
    for name in &names {
        let volume =
            bench.send(&driver, bench.request(name, &[])).unwrap_or_else(|error| panic!("{name:?}: {error}"));
        assert_eq!(
            bench.send(&driver, bench.request(name, &[])).unwrap().volume_id,
            volume.volume_id,
            "{name:?}"
        );
        bench.delete(&driver, &volume.volume_id).unwrap();
    }
    for name in [String::new(), "a".repeat(129), "bell\u{7}".to_owned(), "nul\0".to_owned()] {
        assert_eq!(
            bench.send(&driver, bench.request(&name, &[])).unwrap_err().code(),
            Code::InvalidArgument,
            "{name:?}"
        );
    }
    bench.wait_until_empty("at the end");
}

#[test]
fn image_parameters_reach_the_image() {
    let bench = Bench::new();
    let driver = bench.start();
    bench.cluster().ceph(&["osd", "pool", "create", "data", "8"]);
    bench.cluster().ceph(&["osd", "pool", "application", "enable", "data", "rbd"]);
    let parameters = [
        ("dataPool", "data"),
        ("volumeNamePrefix", "shop-"),
        ("objectSize", "8388608"),
        ("stripeUnit", "4096"),
        ("stripeCount", "8"),
        ("mapOptions", "krbd:queue_depth=64"),
        ("mkfsOptions", "-N 1000"),
    ];
    let volume = bench.send(&driver, bench.request("pvc-image", &parameters)).unwrap();
    for (key, value) in parameters {
        assert_eq!(volume.volume_context[key], value);
    }
    let image = &volume.volume_context["imageName"];
    assert!(image.starts_with("shop-"));
    let info = json(&bench, &["info", image]);
    assert_eq!(info["data_pool"], "data");
    assert_eq!(info["object_size"], 8_388_608);
    assert_eq!((info["stripe_unit"].as_u64(), info["stripe_count"].as_u64()), (Some(4096), Some(8)));
    assert_eq!(bench.send(&driver, bench.request("pvc-image", &parameters)).unwrap(), volume);
    bench.delete(&driver, &volume.volume_id).unwrap();
    bench.wait_until_empty("at the end");
}

/// ceph-csi's words: what nobody could ever write would stay empty.
const READ_ONLY: &str = "readOnly accessMode is supported only with content source";

#[test]
fn what_cannot_be_made_is_refused_and_leaves_nothing() {
    let bench = Bench::new();
    let driver = bench.start();
    let snapshot = proto::VolumeContentSource {
        r#type: Some(proto::volume_content_source::Type::Snapshot(
            proto::volume_content_source::SnapshotSource { snapshot_id: "x".into() },
        )),
    };
    let mut from_snapshot = bench.request("pvc-bad", &[]);
    from_snapshot.volume_content_source = Some(snapshot);
    let mut impossible = bench.request("pvc-bad", &[]);
    impossible.capacity_range = Some(proto::CapacityRange { required_bytes: 5000, limit_bytes: 6000 });
    let mode = |mode: Mode| {
        let mut request = bench.request("pvc-bad", &[]);
        request.volume_capabilities[0].access_mode.as_mut().unwrap().mode = mode.into();
        request
    };
    // One that is served beside one that is not.
    let mut either = mode(Mode::MultiNodeSingleWriter);
    either.volume_capabilities.insert(0, driver::mount());
    let mut near = bench.request("pvc-bad", &[]);
    let zone = proto::Topology { segments: [("topology.rbd/zone".to_owned(), "a".to_owned())].into() };
    near.accessibility_requirements =
        Some(proto::TopologyRequirement { requisite: vec![zone.clone()], preferred: vec![zone] });
    let mut anonymous = bench.request("pvc-bad", &[]);
    anonymous.secrets.clear();
    let cases = [
        (bench.request("pvc-bad", &[("pool", "no-such-pool")]), Code::InvalidArgument, "no-such-pool"),
        (bench.request("pvc-bad", &[("dataPool", "no-such-data")]), Code::InvalidArgument, "no-such-data"),
        (bench.request("pvc-bad", &[("clusterID", "elsewhere")]), Code::InvalidArgument, "elsewhere"),
        (bench.request("pvc-bad", &[("encrypted", "true")]), Code::InvalidArgument, "encrypted"),
        (bench.request("pvc-bad", &[("mapOptions", "krbd:secret=x")]), Code::InvalidArgument, "secret"),
        (bench.request("pvc-bad", &[("imagefeatures", "layering")]), Code::InvalidArgument, "imageFeatures"),
        (from_snapshot, Code::NotFound, "source snapshot x does not exist"),
        (impossible, Code::OutOfRange, "4096"),
        (mode(Mode::MultiNodeMultiWriter), Code::InvalidArgument, "RWX"),
        (mode(Mode::MultiNodeSingleWriter), Code::InvalidArgument, NO_SINGLE_WRITER_OF_MANY),
        (either, Code::InvalidArgument, NO_SINGLE_WRITER_OF_MANY),
        (mode(Mode::MultiNodeReaderOnly), Code::InvalidArgument, READ_ONLY),
        (mode(Mode::SingleNodeReaderOnly), Code::InvalidArgument, READ_ONLY),
        (near, Code::InvalidArgument, "accessibility_requirements"),
        (anonymous, Code::InvalidArgument, "secret"),
    ];
    for (request, code, word) in cases {
        let status = bench.send(&driver, request).unwrap_err();
        assert_eq!(status.code(), code, "{status}");
        assert!(status.message().contains(word), "{word}: {status}");
        assert_eq!(bench.contents(), Vec::<String>::new(), "after {word}");
    }
}

#[test]
fn deleting_what_is_not_there_is_ok_only_when_the_cluster_says_so() {
    let bench = Bench::new();
    let driver = bench.start();
    let volume = bench.send(&driver, bench.request("pvc-handle", &[])).unwrap();
    let id = volume.volume_id.clone();
    let other_uuid = format!("{}{}", &id[..id.len() - 36], uuid::Uuid::new_v4());
    let no_pool = id.replace(&id[id.len() - 53..id.len() - 37], "00000000000003e7");
    for absent in ["no-handle-at-all", other_uuid.as_str(), no_pool.as_str()] {
        bench.delete(&driver, absent).unwrap_or_else(|error| panic!("{absent}: {error}"));
    }
    // A pool may be missing by mistake.
    let log = bench.site.log();
    let warned = |line: &&str| line.contains("WARN") && line.contains("no such pool") && line.contains("999");
    assert_eq!(log.lines().filter(warned).count(), 1, "{log}");
    let elsewhere = id.replace("000b-lab-cluster", "000b-not-cluster");
    for refused in [elsewhere.as_str(), "mig_mons-abc_image-def_706f6f6c"] {
        let status = bench.delete(&driver, refused).unwrap_err();
        assert_eq!(status.code(), Code::FailedPrecondition, "{status}");
    }
    assert_eq!(
        bench.runtime.block_on(async {
            let request = proto::DeleteVolumeRequest { volume_id: String::new(), secrets: BTreeMap::new() };
            driver.client().await.delete_volume(request).await.unwrap_err().code()
        }),
        Code::InvalidArgument
    );
    assert_eq!(bench.images().len(), 1);
    bench.delete(&driver, &id).unwrap();
    bench.wait_until_empty("at the end");
}

/// A static volume's handle is an image's name, and whoever made that image keeps it.
#[test]
fn a_static_volume_is_never_deleted() {
    let bench = Bench::new();
    let driver = bench.start();
    bench.cluster().rbd(&["create", "--size", "64M", "by-hand"]);
    let before = bench.contents();
    for handle in ["by-hand", "rbd/by-hand"] {
        bench.delete(&driver, handle).unwrap();
    }
    // Nor by a driver that has work in that pool, whose purges begin with its first call.
    bench.delete(&driver, &bench.nothing()).unwrap();
    assert_eq!(bench.contents(), before);
    assert_eq!(json(&bench, &["info", "by-hand"])["size"], 64 << 20);
    bench.cluster().rbd(&["rm", "--no-progress", "by-hand"]);
    bench.wait_until_empty("at the end");
}

#[test]
fn a_volume_in_use_or_depended_on_is_left_untouched() {
    let bench = Bench::new();
    let driver = bench.start();
    let volume = bench.send(&driver, bench.request("pvc-used", &[])).unwrap();
    let image = volume.volume_context["imageName"].clone();
    bench.cluster().rbd(&["snap", "create", "--no-progress", &format!("{image}@by-hand")]);
    let before = bench.contents();
    let status = bench.delete(&driver, &volume.volume_id).unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition);
    assert!(status.message().contains("by-hand"), "{status}");
    assert_eq!(bench.contents(), before);
    bench.cluster().rbd(&["snap", "rm", "--no-progress", &format!("{image}@by-hand")]);

    let mut watcher = bench.cluster().command("rbd");
    watcher.args(["bench", "--io-type", "write", "--io-total", "100G", "--io-size", "4K", &image]);
    let watcher = lab::Running(watcher.stdout(std::process::Stdio::null()).spawn().unwrap());
    std::thread::sleep(Duration::from_secs(1));
    let status = bench.delete_within(&driver, &volume.volume_id, Duration::from_secs(6)).unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition, "{status}");
    assert!(status.message().contains("10.99.0.1:0/"), "the watcher's address: {status}");
    drop(watcher);
    // Ceph drops a dead client's watch by itself; the deletion waits for it. The client's lock on the
    // image stays; it is librbd's, so librbd may fence it. A node's kernel is never fenced.
    bench.delete(&driver, &volume.volume_id).unwrap();
    bench.wait_until_empty_for("at the end", SOON * 3);
}

#[test]
fn a_namespace_of_rados_holds_image_and_journal() {
    let bench = Bench::new();
    let driver = bench.start();
    bench.cluster().rbd(&["namespace", "create", "rbd/tenant"]);
    bench.site.configure(&bench.cluster().monitors.clone(), "tenant");
    let volume = bench.send(&driver, bench.request("pvc-tenant", &[])).unwrap();
    assert_eq!(volume.volume_context["radosNamespace"], "tenant");
    assert_eq!(bench.cluster().rbd(&["ls", "rbd/tenant"]), volume.volume_context["imageName"]);
    let keys = bench.cluster().rados(&["-p", "rbd", "-N", "tenant", "listomapkeys", "csi.volumes.default"]);
    assert_eq!(keys, "csi.volume.pvc-tenant");
    bench.delete(&driver, &volume.volume_id).unwrap();
    assert_eq!(bench.cluster().rbd(&["ls", "rbd/tenant"]), "");
    // The purge goes on after the answer; a namespace goes when nothing is in it.
    let mut remove = bench.cluster().command("rbd");
    remove.args(["namespace", "rm", "rbd/tenant"]);
    let until = Instant::now() + SOON;
    while !remove.output().unwrap().status.success() {
        assert!(Instant::now() < until, "the namespace is not empty");
    }
}

#[test]
fn capabilities_are_confirmed_for_volumes_that_exist() {
    let bench = Bench::new();
    let driver = bench.start();
    let volume = bench.send(&driver, bench.request("pvc-valid", &[])).unwrap();
    let validate = |id: &str| {
        bench.runtime.block_on(async {
            let request = proto::ValidateVolumeCapabilitiesRequest {
                volume_id: id.to_owned(),
                volume_capabilities: vec![driver::mount()],
                volume_context: volume.volume_context.clone(),
                secrets: bench.site.secrets.clone(),
                ..Default::default()
            };
            driver.client().await.validate_volume_capabilities(request).await
        })
    };
    let confirmed = validate(&volume.volume_id).unwrap().into_inner().confirmed.unwrap();
    assert_eq!(confirmed.volume_capabilities, vec![driver::mount()]);
    assert_eq!(validate("fake-vol-id").unwrap_err().code(), Code::NotFound);
    bench.delete(&driver, &volume.volume_id).unwrap();
    bench.wait_until_empty("at the end");
}
