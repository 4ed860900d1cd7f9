//! An image's exclusive lock without an open image, and growth under it.

use std::time::Duration;

use rbd_csi::ceph::{Features, HeldBy, ImageId, ImageLock, OpenMode, Pool, Taking, WriteOp, lock};

use crate::image::{FIVE, create};
use crate::{Client, errno, in_lab, with_pool};

const MIB: u64 = 1 << 20;
const PATIENCE: Duration = Duration::from_secs(10);

async fn take(pool: &Pool, id: &ImageId) -> Taking {
    let header = pool.image_header(id, &[]).await.unwrap().unwrap();
    pool.take_image_lock(id, &header, PATIENCE).await.unwrap()
}

async fn taken(pool: &Pool, id: &ImageId) -> ImageLock {
    match take(pool, id).await {
        Taking::Ours(lock) => lock,
        other => panic!("{other:?}"),
    }
}

async fn nobody_has(pool: &Pool, id: &ImageId) {
    assert_eq!(pool.image_watchers(id).await.unwrap(), []);
    assert_eq!(pool.image_lock_owner(id).await.unwrap(), None);
}

#[test]
fn an_image_grows_without_being_opened() {
    with_pool(async |cluster, pool| {
        for features in [Features::LAYERING, Features(5), Features(13), FIVE] {
            let id = create(&pool, "grown", features).await;
            let header = pool.image_header(&id, &[]).await.unwrap().unwrap();
            assert!(header.grows_unopened());
            let lock = match features.contains(Features::EXCLUSIVE_LOCK) {
                true => Some(taken(&pool, &id).await),
                false => None,
            };
            if lock.is_some() {
                assert_eq!(
                    errno(pool.grow_image(&id, &header, 64 * MIB, None).await),
                    libc::EINVAL,
                    "no lock"
                );
            }
            for size in [0, header.size - 1, header.size] {
                let grown = pool.grow_image(&id, &header, size, lock.as_ref()).await;
                assert_eq!(errno(grown), libc::EINVAL, "never smaller: {size}");
            }
            pool.grow_image(&id, &header, 64 * MIB, lock.as_ref()).await.unwrap();
            let now = pool.image_header(&id, &[]).await.unwrap().unwrap();
            assert_eq!((now.size, now.features, now.flags), (64 * MIB, header.features, header.flags));
            if let Some(lock) = lock {
                lock.release().await.unwrap();
            }
            nobody_has(&pool, &id).await;
            let left = pool.list_xattrs("look", &id.header_object()).await.unwrap();
            assert!(left.is_empty(), "{left:?}");
            if features.contains(Features::OBJECT_MAP) {
                assert_eq!(pool.object_map(&id).await.unwrap().unwrap().len(), now.data_objects());
                cluster.rbd(&["object-map", "check", "grown"]);
            }
            // librbd takes it as its own, and writes to what is new.
            cluster.rbd(&["bench", "--io-type", "write", "--io-size", "1M", "--io-total", "64M", "grown"]);
            cluster.rbd(&["rm", "--no-progress", "grown"]);
        }
    });
}

#[test]
fn a_size_that_has_changed_is_left_alone() {
    with_pool(async |cluster, pool| {
        let id = create(&pool, "raced", FIVE).await;
        let before = pool.image_header(&id, &[]).await.unwrap().unwrap();
        cluster.rbd(&["resize", "--no-progress", "--size", "96M", "raced"]);
        let late = pool.take_image_lock(&id, &before, PATIENCE).await.unwrap();
        assert!(matches!(late, Taking::Changed), "{late:?}");
        nobody_has(&pool, &id).await;
        assert_eq!(pool.object_map(&id).await.unwrap().unwrap().len(), 24);
        cluster.rbd(&["rm", "--no-progress", "raced"]);
        let id = create(&pool, "raced", Features::LAYERING).await;
        let before = pool.image_header(&id, &[]).await.unwrap().unwrap();
        cluster.rbd(&["resize", "--no-progress", "--size", "96M", "raced"]);
        assert_eq!(errno(pool.grow_image(&id, &before, 64 * MIB, None).await), libc::ECANCELED);
        assert_eq!(pool.image_header(&id, &[]).await.unwrap().unwrap().size, 96 * MIB);
        cluster.rbd(&["rm", "--no-progress", "raced"]);
        assert_eq!(errno(pool.take_image_lock(&id, &before, PATIENCE).await), libc::ENOENT);
        assert_eq!(errno(pool.grow_image(&id, &before, 64 * MIB, None).await), libc::ENOENT);
    });
}

#[test]
fn what_takes_more_is_librbd_s() {
    with_pool(async |cluster, pool| {
        let id = create(&pool, "more", FIVE).await;
        let grows = async || pool.image_header(&id, &[]).await.unwrap().unwrap().grows_unopened();
        assert!(grows().await);
        cluster.rbd(&["feature", "enable", "more", "journaling"]);
        assert!(!grows().await, "a journal hears of each growth");
        cluster.rbd(&["feature", "disable", "more", "journaling"]);
        let flag = [1u64.to_le_bytes(), 1u64.to_le_bytes()].concat();
        let set = WriteOp::new().exec(c"rbd", c"set_flags", flag);
        pool.write("set", &id.header_object(), set).await.unwrap();
        assert!(!grows().await, "its object map is not valid");
        cluster.rbd(&["rm", "--no-progress", "more"]);
    });
}

#[test]
fn who_has_the_lock_keeps_it_and_a_librbd_client_waits_for_ours() {
    in_lab(async |lab| {
        let cluster = lab.cluster(0);
        let (one, other) = (Client::new(cluster, ""), Client::new(cluster, ""));
        let (pool, beside) = (one.pool("rbd").await, other.pool("rbd").await);
        let id = create(&pool, "owned", FIVE).await;

        // librbd's, a person's, a dead kernel's: each is left alone.
        let image = beside.open_image(&id, OpenMode::ReadWrite).await.unwrap();
        image.create_snapshot("s").await.unwrap();
        let librbds = take(&pool, &id).await;
        assert!(matches!(&librbds, Taking::HeldBy(_, HeldBy::Other)), "{librbds:?}");
        image.close().await.unwrap();
        cluster.rbd(&["lock", "add", "owned", "by hand"]);
        let by_hand = take(&pool, &id).await;
        assert!(matches!(&by_hand, Taking::HeldBy(_, HeldBy::Other)), "{by_hand:?}");
        let owner = pool.image_lock_owner(&id).await.unwrap().unwrap();
        cluster.rbd(&["lock", "rm", "owned", "by hand", &owner.client]);
        // That has blocklisted the client of `rbd lock add`, which is gone.
        let blocklist = cluster.ceph(&["osd", "blocklist", "ls"]);
        let dead = "auto 18446462598732840961";
        let op = lock::take(WriteOp::new().assert_exists(), "rbd_lock", dead);
        beside.write("lock", &id.header_object(), op).await.unwrap();
        let silent = take(&pool, &id).await;
        assert!(matches!(&silent, Taking::HeldBy(_, HeldBy::SilentKernel)), "{silent:?}");
        assert_eq!(pool.image_watchers(&id).await.unwrap(), [], "and no watch is left");
        let op = lock::give_back(WriteOp::new(), "rbd_lock", dead);
        beside.write("unlock", &id.header_object(), op).await.unwrap();

        // Ours is one for librbd too: it asks, waits, and has it as soon as it is free.
        let lock = taken(&pool, &id).await;
        let image = beside.open_image(&id, OpenMode::ReadWrite).await.unwrap();
        let mut snapshot = Box::pin(image.create_snapshot("late"));
        let early = tokio::time::timeout(Duration::from_secs(2), &mut snapshot).await;
        assert!(early.is_err(), "librbd has waited for it: {early:?}");
        lock.release().await.unwrap();
        tokio::time::timeout(PATIENCE, snapshot).await.expect("librbd has it").unwrap();
        image.close().await.unwrap();

        // A lock that is dropped goes back, too.
        drop(taken(&pool, &id).await);
        let until = std::time::Instant::now() + PATIENCE;
        while pool.image_lock_owner(&id).await.unwrap().is_some()
            || !pool.image_watchers(&id).await.unwrap().is_empty()
        {
            assert!(std::time::Instant::now() < until, "it is given back");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert_eq!(cluster.ceph(&["osd", "blocklist", "ls"]), blocklist, "nobody was fenced");
        cluster.rbd(&["snap", "purge", "--no-progress", "owned"]);
        cluster.rbd(&["rm", "--no-progress", "owned"]);
        drop((pool, beside));
        one.end().await;
        other.end().await;
    });
}

#[test]
fn the_cost_of_growth() {
    in_lab(async |lab| {
        let client = Client::new(lab.cluster(0), "");
        let pool = client.pool("rbd").await;
        let plain = create(&pool, "plain", Features::LAYERING).await;
        let mapped = create(&pool, "mapped", FIVE).await;
        let header = async |id| pool.image_header(id, &[]).await.unwrap().unwrap();
        let (plain_header, mapped_header) = (header(&plain).await, header(&mapped).await);
        let before = client.sent();
        pool.grow_image(&plain, &plain_header, 64 * MIB, None).await.unwrap();
        let alone = client.sent() - before;
        let before = client.sent();
        let lock = taken_with(&pool, &mapped, &mapped_header).await;
        pool.grow_image(&mapped, &mapped_header, 64 * MIB, Some(&lock)).await.unwrap();
        lock.release().await.unwrap();
        let locked = client.sent() - before;
        eprintln!("growth: {alone} without a lock, {locked} with lock and object map");
        assert!(alone <= 2 && locked <= 9, "{alone}, {locked}");
        for name in ["plain", "mapped"] {
            lab.cluster(0).rbd(&["rm", "--no-progress", name]);
        }
        drop(pool);
        client.end().await;
    });
}

async fn taken_with(pool: &Pool, id: &ImageId, header: &rbd_csi::ceph::Header) -> ImageLock {
    match pool.take_image_lock(id, header, PATIENCE).await.unwrap() {
        Taking::Ours(lock) => lock,
        other => panic!("{other:?}"),
    }
}
