//! Images opened through librbd: what is done with them, what it costs, and their end.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use rbd_csi::ceph::{Features, ImageId, KeepGoing, OpenMode, Pool};

use crate::image::{FIVE, create};
use crate::support::lab::Cluster;
use crate::{Client, errno, in_lab, objects_of, with_pool};

/// Writes so many bytes from the image's beginning.
pub fn bench(cluster: &Cluster, image: &str, total: &str) {
    let size = ["--io-size", "4M", "--io-total", total, "--io-threads", "1"];
    cluster.rbd(&[&["bench", "--io-type", "write"], &size[..], &[image]].concat());
}

#[test]
fn snapshots_growth_and_what_is_refused() {
    with_pool(async |cluster, pool| {
        let id = create(&pool, "opened", FIVE).await;
        let image = pool.open_image(&id, OpenMode::ReadWrite).await.unwrap();
        assert_eq!(pool.image_watchers(&id).await.unwrap().len(), 1);
        image.create_snapshot("one").await.unwrap();
        assert_eq!(errno(image.create_snapshot("one").await), libc::EEXIST);
        assert_eq!(errno(image.create_snapshot("o\0ne").await), libc::EINVAL);
        image.resize(64 << 20).await.unwrap();
        image.resize(64 << 20).await.unwrap();
        assert_eq!(errno(image.resize(32 << 20).await), libc::EINVAL, "never smaller");
        assert_eq!(image.size().await.unwrap(), 64 << 20);
        let header = pool.image_header(&id, &[]).await.unwrap().unwrap();
        assert_eq!((header.size, header.snapshots[0].size), (64 << 20, 32 << 20));
        assert!(header.object_map_valid());
        assert_eq!(pool.object_map(&id).await.unwrap().unwrap().len(), 16);
        assert_eq!(errno(image.flatten(KeepGoing::always()).await), libc::EINVAL, "no parent");
        image.remove_snapshot("one").await.unwrap();
        assert_eq!(errno(image.remove_snapshot("one").await), libc::ENOENT);
        image.close().await.unwrap();
        assert_eq!(pool.image_watchers(&id).await.unwrap(), []);
        let seen = pool.open_image(&id, OpenMode::ReadOnly).await.unwrap();
        assert_eq!(pool.image_watchers(&id).await.unwrap(), [], "a look has no watch");
        assert_eq!(errno(seen.create_snapshot("two").await), libc::EROFS);
        assert_eq!(errno(seen.resize(96 << 20).await), libc::EROFS);
        seen.close().await.unwrap();
        cluster.rbd(&["rm", "--no-progress", "opened"]);
        assert_eq!(errno(pool.open_image(&id, OpenMode::ReadWrite).await), libc::ENOENT);
        assert_eq!(errno(pool.open_image(&id, OpenMode::ReadOnly).await), libc::ENOENT);
    });
}

#[test]
fn a_dropped_image_is_closed_and_its_client_ends() {
    in_lab(async |lab| {
        let client = Client::new(lab.cluster(0), "");
        let pool = client.pool("rbd").await;
        let other = Client::new(lab.cluster(0), "");
        let watching = other.pool("rbd").await;
        let id = create(&pool, "dropped", FIVE).await;
        let image = pool.open_image(&id, OpenMode::ReadWrite).await.unwrap();
        // A call whose future is dropped goes on; the image is closed behind it.
        let grow = tokio::time::timeout(Duration::from_micros(1), image.resize(640 << 20)).await;
        drop((grow, image));
        // So is an open whose future is dropped.
        let _ =
            tokio::time::timeout(Duration::from_micros(1), pool.open_image(&id, OpenMode::ReadWrite)).await;
        for _ in 0..100 {
            if watching.image_watchers(&id).await.unwrap().is_empty() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let last = pool.open_image(&id, OpenMode::ReadWrite).await.unwrap();
        drop(last);
        drop(pool);
        client.end().await;
        assert_eq!(watching.image_watchers(&id).await.unwrap(), [], "ended in order");
        lab.cluster(0).rbd(&["rm", "--no-progress", "dropped"]);
        drop(watching);
        other.end().await;
    });
}

async fn clone_of(cluster: &Cluster, pool: &Pool, name: &str, megabytes: u64) -> ImageId {
    let spec = rbd_csi::ceph::ImageSpec {
        size: megabytes << 20,
        features: Some(FIVE),
        object_size: Some(1 << 20),
        ..Default::default()
    };
    pool.create_image(&format!("{name}-parent"), &spec).await.unwrap();
    let total = format!("{megabytes}M");
    let size = ["--io-size", "1M", "--io-total", &total, "--io-threads", "4"];
    cluster.rbd(&[&["bench", "--io-type", "write"], &size[..], &[&format!("{name}-parent")]].concat());
    cluster.rbd(&["snap", "create", "--no-progress", &format!("{name}-parent@s")]);
    pool.clone_image(&format!("{name}-parent"), "s", pool, name, &spec).await.unwrap();
    pool.image_id(name).await.unwrap().unwrap()
}

#[test]
fn a_flatten_stops_when_it_is_told_to_and_goes_on_later() {
    with_pool(async |cluster, pool| {
        let id = clone_of(cluster, &pool, "flattened", 60).await;
        let copied = || objects_of(cluster, &[&format!("rbd_data.{id}")]).len();
        let digest = |image: &str| cluster.rbd(&["export", "--no-progress", image, "-"]);
        let before = digest("flattened-parent@s");
        let image = pool.open_image(&id, OpenMode::ReadWrite).await.unwrap();
        let calls = Arc::new(AtomicU64::new(0));
        let seen = calls.clone();
        let stop = KeepGoing::new(move |done, total| {
            assert_eq!(total, 60);
            seen.fetch_add(1, Ordering::Relaxed);
            done < 20
        });
        assert_eq!(errno(image.flatten(stop).await), libc::ECANCELED);
        let (calls, part) = (calls.load(Ordering::Relaxed), copied());
        assert!(calls <= 31 && (10..45).contains(&part), "{calls} calls, {part} objects");
        assert!(pool.image_header(&id, &[]).await.unwrap().unwrap().parent.is_some());
        image.flatten(KeepGoing::always()).await.unwrap();
        image.close().await.unwrap();
        assert_eq!(copied(), 60);
        assert_eq!(pool.image_header(&id, &[]).await.unwrap().unwrap().parent, None);
        assert!(digest("flattened") == before, "the parent's bytes");
        cluster.rbd(&["rm", "--no-progress", "flattened"]);
        cluster.rbd(&["snap", "purge", "--no-progress", "flattened-parent"]);
        cluster.rbd(&["rm", "--no-progress", "flattened-parent"]);
    });
}

#[test]
fn a_purge_stops_when_it_is_told_to() {
    with_pool(async |cluster, pool| {
        let id = clone_of(cluster, &pool, "stopped", 60).await;
        cluster.rbd(&["flatten", "--no-progress", "stopped"]);
        let left = || objects_of(cluster, &[&format!("rbd_data.{id}")]).len();
        assert_eq!(left(), 60);
        pool.trash_move("stopped", &id).await.unwrap();
        let going = Arc::new(AtomicBool::new(true));
        let asked = going.clone();
        let stop = KeepGoing::new(move |done, _| {
            // The lock is lost in the middle.
            if done == 10 {
                asked.store(false, Ordering::Relaxed);
            }
            asked.load(Ordering::Relaxed)
        });
        assert_eq!(errno(pool.purge_while(&id, &stop).await), libc::ECANCELED);
        assert!((30..60).contains(&left()), "{} objects are left", left());
        let entry = pool.trash_entry(&id).await.unwrap().unwrap();
        assert_eq!(entry.name, "stopped");
        going.store(true, Ordering::Relaxed);
        pool.purge_while(&id, &KeepGoing::always()).await.unwrap();
        assert_eq!(objects_of(cluster, &[id.as_str()]), Vec::<String>::new());
        cluster.rbd(&["snap", "purge", "--no-progress", "stopped-parent"]);
        cluster.rbd(&["rm", "--no-progress", "stopped-parent"]);
    });
}

/// Opened, one thing done, closed: so many operations for each of the three.
async fn price(client: &Client, pool: &Pool, id: &ImageId, act: &str) -> [u64; 3] {
    let mut at = vec![client.sent()];
    let mode = if act == "look" { OpenMode::ReadOnly } else { OpenMode::ReadWrite };
    let image = pool.open_image(id, mode).await.unwrap();
    at.push(client.sent());
    match act {
        "look" => assert!(image.size().await.unwrap() > 0),
        "snapshot" => image.create_snapshot("s").await.unwrap(),
        "grow" => image.resize(64 << 20).await.unwrap(),
        "again" => image.resize(64 << 20).await.unwrap(),
        "remove" => image.remove_snapshot("s").await.unwrap(),
        other => panic!("{other}"),
    }
    at.push(client.sent());
    image.close().await.unwrap();
    at.push(client.sent());
    [at[1] - at[0], at[2] - at[1], at[3] - at[2]]
}

#[test]
fn what_an_open_image_costs() {
    in_lab(async |lab| {
        let client = Client::new(lab.cluster(0), "");
        let pool = client.pool("rbd").await;
        // At most, all together: librbd reads the header anew once or twice, as it happens to hear
        // of its own changes.
        let acts = ["look", "snapshot", "grow", "again", "remove"];
        for (features, most) in [(Features::LAYERING, [11, 20, 17, 16, 19]), (FIVE, [12, 34, 29, 27, 33])] {
            let name = format!("priced-{}", features.0);
            let id = create(&pool, &name, features).await;
            for (act, most) in acts.iter().zip(most) {
                let parts = price(&client, &pool, &id, act).await;
                eprintln!("{features}: {act} {parts:?}");
                assert!(parts.iter().sum::<u64>() <= most, "{features}: {act} {parts:?}");
            }
            let before = client.sent();
            pool.open_image(&id, OpenMode::ReadWrite).await.unwrap().create_snapshot("c").await.unwrap();
            let middle = client.sent();
            pool.clone_image(&name, "c", &pool, &format!("{name}-clone"), &Default::default()).await.unwrap();
            eprintln!("{features}: clone {} (snapshot {})", client.sent() - middle, middle - before);
            assert!(client.sent() - middle <= 50, "{} for a clone", client.sent() - middle);
            for image in [format!("{name}-clone"), name] {
                lab.cluster(0).rbd(&["snap", "purge", "--no-progress", &image]);
                lab.cluster(0).rbd(&["rm", "--no-progress", &image]);
            }
        }
        drop(pool);
        client.end().await;
    });
}
