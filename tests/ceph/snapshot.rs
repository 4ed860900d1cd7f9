//! Snapshots by the object class: the same as librbd's, to the byte.

use std::collections::BTreeMap;

use rbd_csi::ceph::{Features, ImageId, OpenMode, Pool, SnapshotKind, WriteOp};

use crate::image::create;
use crate::open::bench;
use crate::support::lab::Cluster;
use crate::{Client, errno, in_lab, with_pool};

const WHAT: &str = "test read";
/// layering; with exclusive-lock and object-map; with fast-diff and deep-flatten.
/// Today's librbd makes no object map without fast-diff, so [`made`] takes that away again.
const KINDS: [Features; 3] = [Features::LAYERING, Features(13), Features(61)];

/// What an image's header and maps hold, without what differs between two equal images:
/// times, the id of the image, and the ids and random names of snapshots.
async fn written(pool: &Pool, id: &ImageId) -> BTreeMap<String, Vec<u8>> {
    let mut ids: Vec<u64> = Vec::new();
    let mut all = BTreeMap::new();
    for (key, mut value) in pool.omap_all(WHAT, &id.header_object(), "").await.unwrap() {
        let mut key = key.clone();
        if key.ends_with("_timestamp") || key == "object_prefix" || key == "snap_seq" {
            continue;
        }
        if let Some(number) = key.strip_prefix("snapshot_") {
            ids.push(u64::from_str_radix(number, 16).unwrap());
            value[6..14].fill(0);
            let length = value.len();
            // Behind the time stand the number of children (4 bytes) and one byte that says no parent.
            value[length - 13..length - 5].fill(0);
            if value[14] == 36 {
                value[18..54].fill(b'x');
            }
            key = format!("snapshot number {}", ids.len());
        }
        if let Some(number) = key.strip_prefix("snap_children_") {
            assert!(ids.is_empty() || ids.contains(&u64::from_str_radix(number, 16).unwrap()));
            key = "snap_children".to_owned();
            value.clear();
        }
        all.insert(key, value);
    }
    let map = id.object_map_object();
    let maps = ids.iter().map(|id| format!("{map}.{id:016x}")).chain([map.clone()]);
    for (number, object) in maps.enumerate() {
        if let Ok(data) = pool.read_all(WHAT, &object).await {
            all.insert(format!("map {number}"), data);
        }
    }
    all
}

async fn made(pool: &Pool, image: &str, features: Features) -> ImageId {
    let id = create(pool, image, features).await;
    if features == KINDS[1] {
        let input = [0, Features::FAST_DIFF.0].map(u64::to_le_bytes).concat();
        let op = WriteOp::new().exec(c"rbd", c"set_features", input);
        pool.write(WHAT, &id.header_object(), op).await.unwrap();
    }
    id
}

/// Two equal images.
async fn pair(cluster: &Cluster, pool: &Pool, name: &str, features: Features) -> [(String, ImageId); 2] {
    let mut images = Vec::new();
    for whose in ["ours", "theirs"] {
        let image = format!("{name}-{whose}");
        let id = made(pool, &image, features).await;
        bench(cluster, &image, "12M");
        images.push((image, id));
    }
    images.try_into().unwrap()
}

async fn same(pool: &Pool, images: &[(String, ImageId); 2], when: &str) -> BTreeMap<String, Vec<u8>> {
    let ours = written(pool, &images[0].1).await;
    assert_eq!(ours, written(pool, &images[1].1).await, "{when}");
    ours
}

#[test]
fn what_we_write_for_a_snapshot_is_librbd_s_to_the_byte() {
    with_pool(async |cluster, pool| {
        for compatible in ["mimic", "luminous"] {
            cluster.ceph(&["osd", "set-require-min-compat-client", compatible]);
            for features in KINDS {
                let when = format!("{features} {compatible}");
                let images =
                    pair(cluster, &pool, &format!("bytes-{}-{compatible}", features.0), features).await;
                life(cluster, &pool, &images, &when).await;
            }
        }
    });
}

async fn life(cluster: &Cluster, pool: &Pool, images: &[(String, ImageId); 2], when: &str) {
    let [(ours, id), (theirs, _)] = images;
    let mut ids = Vec::new();
    for name in ["one", "two"] {
        cluster.rbd(&["snap", "create", "--no-progress", &format!("{theirs}@{name}")]);
        let drawn = pool.draw_snapshot_id().await.unwrap();
        let header = pool.image_header(id, &[]).await.unwrap().unwrap();
        pool.add_snapshot(id, &header, drawn, name).await.unwrap();
        let once = same(pool, images, when).await;
        pool.add_snapshot(id, &header, drawn, name).await.unwrap();
        assert_eq!(same(pool, images, when).await, once, "again is fine");
        assert_eq!(errno(pool.add_snapshot(id, &header, drawn, "other").await), libc::EEXIST);
        assert!(cluster.rbd(&["snap", "ls", ours]).contains(name));
        ids.push(drawn);
        bench(cluster, ours, "16M");
        bench(cluster, theirs, "16M");
        same(pool, images, when).await;
    }
    // One with a clone goes to the snapshots' trash.
    for image in [ours, theirs] {
        let child = format!("{image}-child");
        cluster.rbd(&["clone", "--rbd-default-clone-format", "2", &format!("{image}@two"), &child]);
    }
    cluster.rbd(&["snap", "rm", "--no-progress", &format!("{theirs}@two")]);
    for _ in 0..2 {
        pool.trash_snapshot(id, ids[1]).await.unwrap();
        let keys = same(pool, images, when).await;
        assert!(keys["op_features"].starts_with(&[9]), "clone parent, trashed snapshots");
    }
    let header = pool.image_header(id, &[]).await.unwrap().unwrap();
    let trashed = header.snapshots.iter().find(|s| s.id == ids[1]).unwrap();
    assert_eq!((&trashed.kind, trashed.children), (&SnapshotKind::Trash("two".into()), 1));
    assert_eq!(errno(pool.remove_snapshot_entry(id, &header, ids[1]).await), libc::EBUSY);
    // One without goes altogether.
    cluster.rbd(&["snap", "rm", "--no-progress", &format!("{theirs}@one")]);
    for _ in 0..2 {
        pool.remove_snapshot_entry(id, &header, ids[0]).await.unwrap();
        same(pool, images, when).await;
    }
    // The clone's end takes the trashed one away, whoever put it there.
    for image in [ours, theirs] {
        cluster.rbd(&["rm", "--no-progress", &format!("{image}-child")]);
    }
    let keys = same(pool, images, when).await;
    assert!(!keys.keys().any(|key| key.starts_with("snapshot")), "{keys:?}");
    if when.contains("object-map") {
        cluster.rbd(&["object-map", "check", "--no-progress", ours]);
        let flags = cluster.rbd(&["info", ours]);
        assert!(!flags.contains("invalid"), "{flags}");
    }
    for image in [ours, theirs] {
        cluster.rbd(&["rm", "--no-progress", image]);
    }
}

#[test]
fn a_snapshot_of_the_class_keeps_the_bytes_of_its_moment() {
    with_pool(async |cluster, pool| {
        let id = create(&pool, "moment", Features(61)).await;
        bench(cluster, "moment", "8M");
        let before = cluster.rbd(&["export", "--no-progress", "moment", "-"]);
        let drawn = pool.draw_snapshot_id().await.unwrap();
        let header = pool.image_header(&id, &[]).await.unwrap().unwrap();
        pool.add_snapshot(&id, &header, drawn, "then").await.unwrap();
        cluster.rbd(&[
            "bench",
            "--io-type",
            "write",
            "--io-size",
            "64K",
            "--io-total",
            "4M",
            "--io-pattern",
            "rand",
            "moment",
        ]);
        assert_ne!(cluster.rbd(&["export", "--no-progress", "moment", "-"]), before);
        assert_eq!(cluster.rbd(&["export", "--no-progress", "moment@then", "-"]), before);
        let header = pool.image_header(&id, &[]).await.unwrap().unwrap();
        let snapshot = &header.snapshots[0];
        let age =
            std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap() - snapshot.created;
        assert_eq!(snapshot.size, 32 << 20);
        assert!(age.as_secs() < 60, "{age:?}");
        pool.remove_snapshot_entry(&id, &header, drawn).await.unwrap();
        cluster.rbd(&["rm", "--no-progress", "moment"]);
    });
}

#[test]
fn ids_that_are_drawn_at_once_share_a_commit() {
    in_lab(async |lab| {
        let client = Client::new(lab.cluster(0), "");
        let pool = client.pool("rbd").await;
        let epoch = || -> u64 {
            let dump = lab.cluster(0).ceph(&["osd", "stat", "-f", "json"]);
            serde_json::from_str::<serde_json::Value>(&dump).unwrap()["epoch"].as_u64().unwrap()
        };
        let before = epoch();
        let draws: Vec<_> = (0..8)
            .map(|_| {
                let pool = pool.clone();
                tokio::spawn(async move { pool.draw_snapshot_id().await.unwrap() })
            })
            .collect();
        let mut ids = std::collections::BTreeSet::new();
        for draw in draws {
            ids.insert(draw.await.unwrap());
        }
        assert_eq!(ids.len(), 8);
        assert!(epoch() - before < 8, "{before} to {}", epoch());
        for id in &ids {
            pool.return_snapshot_id(*id).await.unwrap();
        }
        pool.return_snapshot_id(*ids.first().unwrap()).await.unwrap();
        drop(pool);
        client.end().await;
    });
}

#[test]
fn who_has_the_image_open_hears_of_a_change() {
    with_pool(async |cluster, pool| {
        let id = create(&pool, "heard", Features::LAYERING).await;
        pool.notify_header_update(&id).await.unwrap();
        let image = pool.open_image(&id, OpenMode::ReadWrite).await.unwrap();
        assert_eq!(image.size().await.unwrap(), 32 << 20);
        // As somebody who grows it without librbd would.
        let grow = WriteOp::new().exec(c"rbd", c"set_size", (64u64 << 20).to_le_bytes().to_vec());
        pool.write(WHAT, &id.header_object(), grow).await.unwrap();
        assert_eq!(image.size().await.unwrap(), 32 << 20, "not told yet");
        pool.notify_header_update(&id).await.unwrap();
        assert_eq!(image.size().await.unwrap(), 64 << 20);
        image.close().await.unwrap();
        cluster.rbd(&["rm", "--no-progress", "heard"]);
        assert_eq!(errno(pool.notify_header_update(&id).await), libc::ENOENT);
    });
}

#[test]
fn what_snapshots_by_the_class_cost() {
    in_lab(async |lab| {
        let client = Client::new(lab.cluster(0), "");
        let pool = client.pool("rbd").await;
        for (features, add, remove) in [(KINDS[0], 1, 1), (KINDS[1], 3, 2), (KINDS[2], 4, 4)] {
            let name = format!("counted-{}", features.0);
            let id = made(&pool, &name, features).await;
            let header = pool.image_header(&id, &[]).await.unwrap().unwrap();
            let mut cost = client.costs();
            let drawn = pool.draw_snapshot_id().await.unwrap();
            cost("an id", 0);
            pool.add_snapshot(&id, &header, drawn, "s").await.unwrap();
            cost("a snapshot", add);
            let header = pool.image_header(&id, &[]).await.unwrap().unwrap();
            cost("a header", 1);
            pool.remove_snapshot_entry(&id, &header, drawn).await.unwrap();
            cost("its removal", remove);
            lab.cluster(0).rbd(&["rm", "--no-progress", &name]);
        }
        drop(pool);
        client.end().await;
    });
}
