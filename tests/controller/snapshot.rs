//! Snapshots, and volumes that are made of snapshots and of volumes: what stands in the
//! cluster afterwards is ceph-csi's, and the bytes are those of the moment.

use tonic::Code;

use crate::support::bench::{Bench, GIB};
use crate::support::driver::Driver;
use crate::support::snapshots::{Of, image_of, image_of_snapshot};

/// Small, for its bytes are read again and again.
const SIZE: i64 = 64 << 20;

/// A volume with 8 MiB of data.
fn volume(bench: &Bench, driver: &Driver, name: &str, parameters: &[(&str, &str)]) -> (String, String) {
    let mut request = bench.request(name, parameters);
    request.capacity_range.as_mut().unwrap().required_bytes = SIZE;
    let id = bench.send(driver, request).unwrap().volume_id;
    let image = bench.fill(&id, 8);
    (id, format!("rbd/{image}"))
}

#[test]
fn a_snapshot_is_as_ceph_csi_makes_it() {
    for features in ["layering", "layering,exclusive-lock,object-map,fast-diff,deep-flatten"] {
        let bench = Bench::new();
        let driver = bench.start();
        let (id, source) = volume(&bench, &driver, "pvc-source", &[("imageFeatures", features)]);
        let before = bench.checksum(&source);

        let made = bench.snapshot(&driver, "snapshot-1", &id).unwrap();
        assert!(made.ready_to_use && made.size_bytes == SIZE && made.source_volume_id == id, "{made:?}");
        let uuid = &made.snapshot_id[made.snapshot_id.len() - 36..];
        let image = image_of_snapshot(&made.snapshot_id);
        let spec = format!("rbd/{image}");

        assert_eq!(bench.keys("csi.snaps.default"), [("csi.snap.snapshot-1".into(), uuid.into())].into());
        let entry = bench.keys(&format!("csi.snap.{uuid}"));
        let info = bench.info(&spec);
        for (key, value) in [
            ("csi.snapname", "snapshot-1"),
            ("csi.imagename", image.as_str()),
            ("csi.source", image_of(&id).as_str()),
            ("csi.imageid", info["id"].as_str().unwrap()),
        ] {
            assert_eq!(entry.get(key).map(String::as_str), Some(value), "{key}: {entry:?}");
        }
        // The source's snapshot has gone to its trash, and the clone hangs on it.
        let left = bench.snapshots(&source);
        assert_eq!(left.len(), 1, "{left:?}");
        assert_eq!(left[0]["namespace"]["type"], "trash", "{left:?}");
        assert_eq!(left[0]["namespace"]["original_name"], image, "{left:?}");
        assert_eq!(info["parent"]["image"], image_of(&id), "{info}");
        let own = bench.snapshots(&spec);
        assert_eq!((own.len(), &own[0]["name"]), (1, &image.as_str().into()), "{own:?}");
        for feature in ["layering", "deep-flatten"] {
            assert!(info["features"].as_array().unwrap().contains(&feature.into()), "{info}");
        }
        let metadata = bench.metadata(&spec);
        assert_eq!(
            metadata.keys().map(String::as_str).collect::<Vec<_>>(),
            [
                "csi.storage.k8s.io/volumesnapshot/name",
                "csi.storage.k8s.io/volumesnapshot/namespace",
                "csi.storage.k8s.io/volumesnapshotcontent/name"
            ],
            "the claim's names are not carried along"
        );
        assert_eq!(bench.checksum(&format!("{spec}@{image}")), before);

        // Again, also with a driver that knows nothing of it, and when the source has changed.
        bench.cluster().rbd(&[
            "bench",
            "--io-type",
            "write",
            "--io-size",
            "4K",
            "--io-total",
            "64K",
            &source,
        ]);
        assert_eq!(bench.snapshot(&driver, "snapshot-1", &id).unwrap(), made);
        assert_eq!(bench.snapshot(&bench.start(), "snapshot-1", &id).unwrap(), made);
        assert_eq!(bench.checksum(&format!("{spec}@{image}")), before);
    }
}

#[test]
fn a_snapshot_of_nothing_or_of_another_volume_is_refused() {
    let bench = Bench::new();
    let driver = bench.start();
    let missing = bench.handle(&uuid::Uuid::new_v4().to_string());
    for source in [missing.as_str(), "no-handle-at-all"] {
        let refused = bench.snapshot(&driver, "snapshot-1", source).unwrap_err();
        assert_eq!(refused.code(), Code::NotFound, "{refused}");
        assert!(refused.message().contains("not found"), "{refused}");
    }
    let (one, _) = volume(&bench, &driver, "pvc-one", &[]);
    let (other, _) = volume(&bench, &driver, "pvc-other", &[]);
    let made = bench.snapshot(&driver, "snapshot-1", &one).unwrap();
    let refused = bench.snapshot(&driver, "snapshot-1", &other).unwrap_err();
    assert_eq!(refused.code(), Code::AlreadyExists, "{refused}");
    assert!(refused.message().contains(&image_of(&one)), "{refused}");
    assert_eq!(bench.snapshot(&driver, "snapshot-1", &one).unwrap(), made);
}

#[test]
fn a_source_without_layering_is_refused_with_the_way_out() {
    let bench = Bench::new();
    let driver = bench.start();
    let (id, image) = volume(&bench, &driver, "pvc-source", &[("imageFeatures", "exclusive-lock")]);
    let before = bench.contents();
    let refused = bench.snapshot(&driver, "snapshot-1", &id).unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
    assert!(refused.message().contains("layering") && refused.message().contains(&image), "{refused}");
    let refused = bench.create_of(&driver, "pvc-clone", Of::Volume(&id)).unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
    assert_eq!(bench.contents(), before);
}

#[test]
fn a_restored_volume_has_the_bytes_of_the_moment() {
    let bench = Bench::new();
    let driver = bench.start();
    let (id, source) = volume(&bench, &driver, "pvc-source", &[]);
    let snapshot = bench.snapshot(&driver, "snapshot-1", &id).unwrap().snapshot_id;
    let before = bench.checksum(&source);
    bench.cluster().rbd(&["bench", "--io-type", "write", "--io-size", "4K", "--io-total", "4M", &source]);
    bench.delete(&driver, &id).unwrap();

    let mut larger = bench.request_of("pvc-restored", Of::Snapshot(&snapshot), &[]);
    larger.capacity_range.as_mut().unwrap().required_bytes = 2 * GIB;
    let restored = bench.send(&driver, larger.clone()).unwrap();
    assert_eq!(restored.capacity_bytes, 2 * GIB);
    assert_eq!(restored.content_source, larger.volume_content_source);
    let spec = format!("rbd/{}", image_of(&restored.volume_id));
    assert_eq!(bench.checksum(&spec), before);
    let info = bench.info(&spec);
    assert_eq!(info["size"], 2 * GIB);
    assert_eq!(info["parent"]["image"], image_of_snapshot(&snapshot));
    let metadata = bench.metadata(&spec);
    assert_eq!(metadata["csi.storage.k8s.io/pv/name"], "pvc-restored");
    assert!(metadata.keys().all(|key| !key.contains("snapshot")), "{metadata:?}");

    // Again; the same name of nothing, and of another snapshot, is another volume.
    assert_eq!(bench.send(&driver, larger.clone()).unwrap(), restored);
    let other = bench.snapshot(&driver, "snapshot-2", &restored.volume_id).unwrap().snapshot_id;
    let mut of_other = larger.clone();
    of_other.volume_content_source = Some(Of::Snapshot(&other).content());
    let mut of_nothing = larger;
    of_nothing.volume_content_source = None;
    for wrong in [of_other, of_nothing] {
        let refused = bench.send(&driver, wrong).unwrap_err();
        assert_eq!(refused.code(), Code::AlreadyExists, "{refused}");
        assert!(refused.message().contains(&snapshot), "{refused}");
    }
}

#[test]
fn a_source_that_is_missing_or_too_large_is_told() {
    let bench = Bench::new();
    let driver = bench.start();
    let missing = bench.handle(&uuid::Uuid::new_v4().to_string());
    for of in [Of::Snapshot(&missing), Of::Volume(&missing), Of::Snapshot("x"), Of::Volume("x")] {
        let refused = bench.create_of(&driver, "pvc-restored", of).unwrap_err();
        assert_eq!(refused.code(), Code::NotFound, "{refused}");
    }
    let mut large = bench.request("pvc-large", &[]);
    large.capacity_range.as_mut().unwrap().required_bytes = 2 * GIB;
    let id = bench.send(&driver, large).unwrap().volume_id;
    let snapshot = bench.snapshot(&driver, "snapshot-1", &id).unwrap().snapshot_id;
    let before = bench.contents();
    for of in [Of::Snapshot(&snapshot), Of::Volume(&id)] {
        let refused = bench.create_of(&driver, "pvc-restored", of).unwrap_err();
        assert_eq!(refused.code(), Code::OutOfRange, "{refused}");
        assert!(refused.message().contains(&(2 * GIB).to_string()), "{refused}");
        // Without a size it is as large as its source.
        let mut any = bench.request_of("pvc-any", of, &[]);
        any.capacity_range = None;
        let made = bench.send(&driver, any).unwrap();
        assert_eq!(made.capacity_bytes, 2 * GIB);
        bench.delete(&driver, &made.volume_id).unwrap();
    }
    bench.wait_until("what was restored is gone", || bench.contents() == before);
}

#[test]
fn a_clone_is_as_ceph_csi_makes_it() {
    let bench = Bench::new();
    let driver = bench.start();
    let (id, source) = volume(&bench, &driver, "pvc-source", &[]);
    let before = bench.checksum(&source);
    let clone = bench.create_of(&driver, "pvc-clone", Of::Volume(&id)).unwrap();
    bench.cluster().rbd(&["bench", "--io-type", "write", "--io-size", "4K", "--io-total", "4M", &source]);
    let image = image_of(&clone.volume_id);
    let temp = format!("{image}-temp");
    assert_eq!(bench.checksum(&format!("rbd/{image}")), before);
    let info = bench.info(&format!("rbd/{image}"));
    assert_eq!(
        (&info["parent"]["image"], &info["parent"]["snapshot"]),
        (&temp.as_str().into(), &image.as_str().into())
    );
    assert_eq!(bench.info(&format!("rbd/{temp}"))["parent"]["image"], image_of(&id));
    let left = bench.snapshots(&source);
    assert_eq!(left[0]["namespace"]["original_name"], temp, "{left:?}");
    assert!(bench.metadata(&format!("rbd/{temp}")).keys().all(|key| !key.starts_with("csi.storage")));
    assert_eq!(bench.metadata(&format!("rbd/{image}"))["csi.storage.k8s.io/pv/name"], "pvc-clone");
    assert_eq!(bench.create_of(&driver, "pvc-clone", Of::Volume(&id)).unwrap(), clone);
    // A source that is gone is no reason to refuse what stands.
    bench.delete(&driver, &id).unwrap();
    assert_eq!(bench.create_of(&driver, "pvc-clone", Of::Volume(&id)).unwrap(), clone);
    bench.delete(&driver, &clone.volume_id).unwrap();
    bench.wait_until_empty("after source and clone");
}

#[test]
fn volumes_of_snapshots_go_to_other_pools_with_other_features() {
    let bench = Bench::new();
    let cluster = bench.cluster();
    for pool in ["fast", "bulk"] {
        crate::support::pool::make(cluster, pool);
    }
    let driver = bench.start();
    let (id, source) = volume(&bench, &driver, "pvc-source", &[]);
    let before = bench.checksum(&source);
    let snapshot = bench.snapshot(&driver, "snapshot-1", &id).unwrap().snapshot_id;
    let class = [
        ("pool", "fast"),
        ("dataPool", "bulk"),
        ("imageFeatures", "layering"),
        ("volumeNamePrefix", "shop-"),
    ];
    for (name, of) in [("pvc-a", Of::Snapshot(&snapshot)), ("pvc-b", Of::Volume(&id))] {
        let made = bench.send(&driver, bench.request_of(name, of, &class)).unwrap();
        let spec = format!("fast/shop-{}", &made.volume_id[made.volume_id.len() - 36..]);
        let info = bench.info(&spec);
        assert_eq!(info["data_pool"], "bulk", "{info}");
        let features: Vec<_> =
            info["features"].as_array().unwrap().iter().filter_map(|f| f.as_str()).collect();
        assert!(features.contains(&"layering") && !features.contains(&"object-map"), "{features:?}");
        assert_eq!(bench.checksum(&spec), before);
        bench.delete(&driver, &made.volume_id).unwrap();
    }
    bench.delete_snapshot(&driver, &snapshot).unwrap();
    bench.delete(&driver, &id).unwrap();
    bench.wait_until_empty("the pool of the source");
    for pool in ["fast", "bulk"] {
        crate::support::pool::wait_until_empty(cluster, pool, std::time::Duration::from_secs(30));
        crate::support::pool::remove(cluster, pool);
    }
}

#[test]
fn clones_need_no_setting_of_the_cluster() {
    let bench = Bench::new();
    let cluster = bench.cluster();
    let release = |name: &str| {
        cluster.ceph(&["osd", "set-require-min-compat-client", name, "--yes-i-really-mean-it"]);
    };
    release("luminous");
    let driver = bench.start();
    let (id, source) = volume(&bench, &driver, "pvc-source", &[]);
    let before = bench.checksum(&source);
    let snapshot = bench.snapshot(&driver, "snapshot-1", &id).unwrap();
    assert_eq!(bench.snapshot(&driver, "snapshot-1", &id).unwrap(), snapshot);
    let restored = bench.create_of(&driver, "pvc-restored", Of::Snapshot(&snapshot.snapshot_id)).unwrap();
    assert_eq!(bench.checksum(&format!("rbd/{}", image_of(&restored.volume_id))), before);
    for id in [&id, &restored.volume_id] {
        bench.delete(&driver, id).unwrap();
    }
    bench.delete_snapshot(&driver, &snapshot.snapshot_id).unwrap();
    bench.wait_until_empty("with min-compat-client luminous");
    release("mimic");
}
