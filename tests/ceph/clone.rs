//! Clones: format 2 whatever the cluster is set to, and what is copied.

use rbd_csi::ceph::{Child, Features, ImageSpec};

use crate::image::{FIVE, create, spec};
use crate::open::bench;
use crate::{Client, errno, in_lab, with_pool};

/// `RBD_OPERATION_FEATURE_CLONE_PARENT` and `_CHILD`.
const PARENT: u64 = 1;
const CHILD: u64 = 2;

#[test]
fn a_clone_is_of_format_2_whatever_the_cluster_wants() {
    with_pool(async |cluster, pool| {
        for compatible in ["luminous", "mimic"] {
            cluster.ceph(&["osd", "set-require-min-compat-client", compatible]);
            let (source, child) = (format!("source-{compatible}"), format!("child-{compatible}"));
            let id = create(&pool, &source, FIVE).await;
            bench(cluster, &source, "8M");
            let image = pool.open_image(&id, rbd_csi::ceph::OpenMode::ReadWrite).await.unwrap();
            image.create_snapshot("s").await.unwrap();
            image.resize(64 << 20).await.unwrap();
            image.close().await.unwrap();
            pool.clone_image(&source, "s", &pool, &child, &ImageSpec::default()).await.unwrap();
            let (mut header, snap_id) = {
                let header = pool.image_header(&id, &[]).await.unwrap().unwrap();
                let snap_id = header.snapshots[0].id;
                (header, snap_id)
            };
            assert_eq!((header.op_features & PARENT, header.snapshots[0].children), (PARENT, 1));
            let child_id = pool.image_id(&child).await.unwrap().unwrap();
            let expected =
                Child { pool_id: pool.id(), namespace: String::new(), image_id: child_id.clone(), snap_id };
            assert_eq!(pool.children_of(&id, None).await.unwrap(), std::slice::from_ref(&expected));
            assert_eq!(pool.children_of(&id, Some(snap_id)).await.unwrap(), [expected]);
            assert_eq!(pool.children_of(&id, Some(snap_id + 1)).await.unwrap(), []);
            header = pool.image_header(&child_id, &[]).await.unwrap().unwrap();
            let parent = header.parent.clone().unwrap();
            assert_eq!(
                (parent.image_id.as_str(), parent.snap_id, parent.overlap),
                (id.as_str(), snap_id, 32 << 20)
            );
            assert_eq!((header.size, header.op_features), (32 << 20, CHILD));
            assert!(header.features.contains(FIVE));
            for image in [&child, &source] {
                cluster.rbd(&["snap", "purge", "--no-progress", image]);
                cluster.rbd(&["rm", "--no-progress", image]);
            }
            assert_eq!(pool.children_of(&id, None).await.unwrap(), []);
        }
    });
}

#[test]
fn a_clone_takes_all_metadata_of_its_parent_but_librbd_s_own() {
    with_pool(async |cluster, pool| {
        let id = create(&pool, "marked-source", FIVE).await;
        let snapshot = ["snap", "create", "--no-progress", "marked-source@s"];
        cluster.rbd(&snapshot);
        let pairs: Vec<_> =
            [("csi.x/pvc", "1"), ("conf_rbd_cache", "false"), (".rbd-own", "2"), ("rbd-csi.format", "3")]
                .map(|(key, value)| (key.to_owned(), value.to_owned()))
                .into();
        // Set behind the snapshot: librbd copies what there is now.
        pool.set_metadata(&id, &pairs).await.unwrap();
        crate::support::pool::make(cluster, "clone-data");
        let elsewhere = pool.connection().pool("clone-data", "").await.unwrap();
        let asked = ImageSpec {
            data_pool: Some("rbd".into()),
            object_size: Some(1 << 20),
            stripe: Some((64 << 10, 4)),
            ..spec(1, Features::LAYERING)
        };
        pool.clone_image("marked-source", "s", &elsewhere, "marked-clone", &asked).await.unwrap();
        let child = elsewhere.image_id("marked-clone").await.unwrap().unwrap();
        let keys: Vec<_> = pairs.iter().map(|(key, _)| key.as_str()).collect();
        let header = elsewhere.image_header(&child, &keys).await.unwrap().unwrap();
        let copied: Vec<_> = header.metadata.keys().map(String::as_str).collect();
        assert_eq!(copied, ["conf_rbd_cache", "csi.x/pvc", "rbd-csi.format"]);
        assert_eq!((header.order, header.stripe, header.size), (20, Some((64 << 10, 4)), 32 << 20));
        assert_eq!(header.data_pool_id, Some(pool.id()));
        assert_eq!(pool.children_of(&id, None).await.unwrap()[0].pool_id, elsewhere.id());
        let again = pool.clone_image("marked-source", "s", &elsewhere, "marked-clone", &asked).await;
        assert_eq!(errno(again), libc::EEXIST);
        for (source, snapshot) in [("marked-source", "none"), ("none", "s")] {
            let missing = pool.clone_image(source, snapshot, &pool, "none", &asked).await;
            assert_eq!(errno(missing), libc::ENOENT);
        }
        cluster.rbd(&["rm", "--no-progress", "clone-data/marked-clone"]);
        cluster.rbd(&["snap", "purge", "--no-progress", "marked-source"]);
        cluster.rbd(&["rm", "--no-progress", "marked-source"]);
    });
}

#[test]
fn a_source_without_layering_and_a_pool_of_another_client_are_refused() {
    in_lab(async |lab| {
        let (client, other) = (Client::new(lab.cluster(0), ""), Client::new(lab.cluster(0), ""));
        let (pool, foreign) = (client.pool("rbd").await, other.pool("rbd").await);
        create(&pool, "flat", Features::EXCLUSIVE_LOCK).await;
        lab.cluster(0).rbd(&["snap", "create", "--no-progress", "flat@s"]);
        let plain = ImageSpec::default();
        assert_eq!(errno(pool.clone_image("flat", "s", &pool, "unmade", &plain).await), libc::ENOSYS);
        assert_eq!(errno(pool.clone_image("flat", "s", &foreign, "unmade", &plain).await), libc::EXDEV);
        assert_eq!(pool.directory_id("unmade").await.unwrap(), None);
        lab.cluster(0).rbd(&["snap", "purge", "--no-progress", "flat"]);
        lab.cluster(0).rbd(&["rm", "--no-progress", "flat"]);
        drop((pool, foreign));
        client.end().await;
        other.end().await;
    });
}
