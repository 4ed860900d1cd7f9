//! Images: made, found, read and marked, and what `rbd` says about them.

use rbd_csi::ceph::{Features, ImageId, ImageSpec, Pool, SnapshotKind};

use crate::support::lab::Cluster;
use crate::{Client, errno, in_lab, with_pool};

/// ceph-csi's usual five.
pub const FIVE: Features = Features(61);

pub fn spec(size: u64, features: Features) -> ImageSpec {
    ImageSpec { size, features: Some(features), ..ImageSpec::default() }
}

pub async fn create(pool: &Pool, name: &str, features: Features) -> ImageId {
    pool.create_image(name, &spec(32 << 20, features)).await.unwrap();
    pool.image_id(name).await.unwrap().unwrap()
}

fn info(cluster: &Cluster, image: &str) -> serde_json::Value {
    serde_json::from_str(&cluster.rbd(&["info", "--format", "json", image])).unwrap()
}

#[test]
fn what_we_make_rbd_describes_and_the_other_way_round() {
    with_pool(async |cluster, pool| {
        let all = ImageSpec {
            size: 30 << 20,
            features: Some(FIVE),
            data_pool: Some("data".into()),
            object_size: Some(1 << 20),
            stripe: Some((64 << 10, 4)),
        };
        assert_eq!(errno(pool.create_image("made", &all).await), libc::ENOENT, "no data pool");
        assert_eq!(pool.image_id("made").await.unwrap(), None);
        crate::support::pool::make(cluster, "data");
        pool.create_image("made", &all).await.unwrap();
        assert_eq!(errno(pool.create_image("made", &all).await), libc::EEXIST);
        let id = pool.image_id("made").await.unwrap().unwrap();
        let header = pool.image_header(&id, &["absent"]).await.unwrap().unwrap();
        let told = info(cluster, "made");
        assert_eq!((told["id"].as_str(), told["size"].as_u64()), (Some(id.as_str()), Some(30 << 20)));
        assert_eq!(told["order"].as_u64(), Some(header.order.into()));
        assert_eq!(told["stripe_unit"].as_u64().zip(told["stripe_count"].as_u64()), header.stripe);
        assert_eq!(told["data_pool"].as_str(), Some("data"));
        assert_eq!(told["block_name_prefix"].as_str(), Some(header.object_prefix.as_str()));
        assert_eq!(told["objects"].as_u64(), Some(header.data_objects()));
        let names: Vec<_> =
            told["features"].as_array().unwrap().iter().map(|f| f.as_str().unwrap()).collect();
        assert_eq!(names, header.features.names());
        assert!(header.features.contains(FIVE | Features::STRIPING | Features::DATA_POOL));
        assert!(header.object_map_valid() && header.metadata.is_empty() && header.parent.is_none());
        let data = pool.connection().pool("data", "").await.unwrap();
        assert_eq!(header.data_pool_id, Some(data.id()));
        assert_eq!(header.data_objects(), 32, "four objects are filled in turn");
        assert_eq!(pool.object_map(&id).await.unwrap().unwrap().len(), header.data_objects());
        assert_eq!(pool.directory_id("made").await.unwrap(), Some(id.clone()));
        assert_eq!(pool.directory_name(&id).await.unwrap().as_deref(), Some("made"));
        cluster.rbd(&["rm", "--no-progress", "made"]);
        assert_eq!(pool.image_header(&id, &[]).await.unwrap(), None);
        assert_eq!(pool.object_map(&id).await.unwrap(), None);
        assert_eq!(pool.directory_id("made").await.unwrap(), None);

        cluster.rbd(&["create", "--size", "20M", "--image-feature", "layering", "theirs"]);
        let id = pool.image_id("theirs").await.unwrap().unwrap();
        let header = pool.image_header(&id, &[]).await.unwrap().unwrap();
        assert_eq!((header.size, header.order, header.features), (20 << 20, 22, Features::LAYERING));
        assert_eq!((header.data_objects(), header.object_map_valid()), (5, false));
        cluster.rbd(&["rm", "--no-progress", "theirs"]);
        for odd in [(Some(3 << 20), None), (None, Some((5000, 4)))] {
            let odd = ImageSpec { object_size: odd.0, stripe: odd.1, ..spec(1 << 20, FIVE) };
            assert_eq!(errno(pool.create_image("odd", &odd).await), libc::EINVAL);
        }
    });
}

#[test]
fn metadata_are_librbd_s() {
    with_pool(async |cluster, pool| {
        let id = create(&pool, "marked", FIVE).await;
        let pairs = [("csi.storage.k8s.io/pvc/name", "claim"), ("a b", "größer")];
        let pairs: Vec<_> = pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        pool.set_metadata(&id, &pairs).await.unwrap();
        let listed = cluster.rbd(&["image-meta", "list", "--format", "json", "marked"]);
        let listed: std::collections::BTreeMap<String, String> = serde_json::from_str(&listed).unwrap();
        assert_eq!(listed, pairs.iter().cloned().collect());
        cluster.rbd(&["image-meta", "set", "marked", "theirs", "x"]);
        let header = pool.image_header(&id, &["theirs", "a b", "absent"]).await.unwrap().unwrap();
        let expected = [("a b".to_owned(), "größer".to_owned()), ("theirs".to_owned(), "x".to_owned())];
        assert_eq!(header.metadata, expected.into());
        pool.remove_metadata(&id, "theirs").await.unwrap();
        pool.remove_metadata(&id, "theirs").await.unwrap();
        assert!(!cluster.rbd(&["image-meta", "list", "marked"]).contains("theirs"));
        cluster.rbd(&["rm", "--no-progress", "marked"]);
        // An image that is gone stays gone.
        assert_eq!(errno(pool.set_metadata(&id, &pairs).await), libc::ENOENT);
        assert_eq!(errno(pool.remove_metadata(&id, "x").await), libc::ENOENT);
        assert_eq!(errno(pool.stat("test stat", &id.header_object()).await), libc::ENOENT);
        assert_eq!(pool.image_watchers(&id).await.unwrap(), []);
    });
}

#[test]
fn the_object_map_tells_what_is_written() {
    with_pool(async |cluster, pool| {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(36 << 20).unwrap();
        for offset in [0u64, 13 << 20] {
            std::os::unix::fs::FileExt::write_at(file.as_file(), b"data", offset).unwrap();
        }
        let path = file.path().to_str().unwrap();
        cluster.rbd(&[
            "import",
            "--no-progress",
            "--image-feature",
            "layering,exclusive-lock,object-map",
            path,
            "mapped",
        ]);
        let id = pool.image_id("mapped").await.unwrap().unwrap();
        let header = pool.image_header(&id, &[]).await.unwrap().unwrap();
        let map = pool.object_map(&id).await.unwrap().unwrap();
        assert_eq!((map.len(), header.data_objects()), (9, 9));
        assert_eq!(map.existing().collect::<Vec<_>>(), [0, 3]);
        pool.stat("test stat", &header.data_object(3)).await.unwrap();
        assert_eq!(errno(pool.stat("test stat", &header.data_object(4)).await), libc::ENOENT);
        // What cannot be read is no map: changed data, then no data.
        let object = id.object_map_object();
        let mut bytes = pool.read_all("test read", &object).await.unwrap();
        bytes[18] ^= 0x40;
        std::fs::write(file.path(), &bytes).unwrap();
        cluster.rados(&["-p", "rbd", "put", &object, path]);
        assert_eq!(pool.object_map(&id).await.unwrap(), None);
        cluster.rados(&["-p", "rbd", "truncate", &object, "0"]);
        assert_eq!(pool.object_map(&id).await.unwrap(), None);
        cluster.rbd(&["rm", "--no-progress", "mapped"]);
    });
}

#[test]
fn snapshots_parents_and_children_are_in_the_header() {
    with_pool(async |cluster, pool| {
        let id = create(&pool, "parent", FIVE).await;
        cluster.rbd(&["snap", "create", "--no-progress", "parent@one"]);
        cluster.rbd(&["snap", "create", "--no-progress", "parent@two"]);
        cluster.rbd(&["clone", "--rbd-default-clone-format", "2", "parent@one", "child"]);
        let header = pool.image_header(&id, &[]).await.unwrap().unwrap();
        let found: Vec<_> = header.snapshots.iter().map(|s| (s.name.as_str(), &s.kind, s.children)).collect();
        assert_eq!(found, [("one", &SnapshotKind::User, 1), ("two", &SnapshotKind::User, 0)]);
        let child = pool.image_id("child").await.unwrap().unwrap();
        let parent = pool.image_header(&child, &[]).await.unwrap().unwrap().parent.unwrap();
        assert_eq!((parent.pool_id, parent.image_id.as_str()), (pool.id(), id.as_str()));
        assert_eq!(parent.snap_id, header.snapshots[0].id);
        assert_eq!(pool.children(&id).await.unwrap(), ["rbd/child"]);
        // A snapshot that a clone needs goes to the snapshots' trash.
        cluster.rbd(&["snap", "rm", "--no-progress", "parent@one"]);
        let header = pool.image_header(&id, &[]).await.unwrap().unwrap();
        assert!(header.snapshots.iter().any(|s| s.kind == SnapshotKind::Trash("one".into())), "{header:?}");
        cluster.rbd(&["flatten", "--no-progress", "child"]);
        assert_eq!(pool.image_header(&child, &[]).await.unwrap().unwrap().parent, None);
        cluster.rbd(&["snap", "purge", "--no-progress", "parent"]);
        assert_eq!(pool.image_header(&id, &[]).await.unwrap().unwrap().snapshots, []);
        cluster.rbd(&["rm", "--no-progress", "child"]);
        cluster.rbd(&["rm", "--no-progress", "parent"]);
    });
}

#[test]
fn a_namespace_of_its_own() {
    with_pool(async |cluster, pool| {
        let team = pool.connection().pool("rbd", "team").await.unwrap();
        let spec = spec(1 << 20, FIVE);
        assert_eq!(errno(team.create_image("inside", &spec).await), libc::ENOENT, "no such namespace");
        cluster.rbd(&["namespace", "create", "rbd/team"]);
        team.create_image("inside", &spec).await.unwrap();
        assert_eq!(cluster.rbd(&["ls", "rbd/team"]), "inside");
        let id = team.image_id("inside").await.unwrap().unwrap();
        assert_eq!(pool.image_id("inside").await.unwrap(), None);
        team.trash_move("inside", &id).await.unwrap();
        team.purge(&id).await.unwrap();
        cluster.rbd(&["namespace", "rm", "rbd/team"]);
    });
}

#[test]
fn what_images_cost() {
    in_lab(async |lab| {
        let client = Client::new(lab.cluster(0), "");
        let pool = client.pool("rbd").await;
        create(&pool, "first-of-this-client", FIVE).await;
        let mut cost = client.costs();
        pool.create_image("cheap", &spec(1 << 30, FIVE)).await.unwrap();
        cost("a create", 8);
        let id = pool.image_id("cheap").await.unwrap().unwrap();
        cost("an id", 1);
        let pairs: Vec<_> = (0..5).map(|i| (format!("key{i}"), format!("value{i}"))).collect();
        pool.set_metadata(&id, &pairs).await.unwrap();
        cost("five metadata keys", 1);
        let keys: Vec<_> = pairs.iter().map(|(key, _)| key.as_str()).collect();
        assert_eq!(pool.image_header(&id, &keys).await.unwrap().unwrap().metadata.len(), 5);
        cost("a header with five metadata keys", 1);
        pool.image_watchers(&id).await.unwrap();
        cost("an image's watchers", 1);
        pool.object_map(&id).await.unwrap().unwrap();
        cost("an object map", 1);
        pool.trash_move("cheap", &id).await.unwrap();
        cost("a trash move", 6);
        pool.trash_entry(&id).await.unwrap().unwrap();
        cost("an entry of the trash", 1);
        pool.purge(&id).await.unwrap();
        let first = pool.image_id("first-of-this-client").await.unwrap().unwrap();
        pool.trash_move("first-of-this-client", &first).await.unwrap();
        pool.purge(&first).await.unwrap();
        drop((pool, cost));
        client.end().await;
    });
}
