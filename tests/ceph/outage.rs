//! Clusters that are not there, do not answer, or are full.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rbd_csi::ceph::{Connections, ImageSpec, ReadOp, WriteOp};

use crate::image::FIVE;
use crate::{Client, admin, errno, in_lab};

/// The second cluster is paused by one test at a time.
static PAUSES: Mutex<()> = Mutex::new(());

#[test]
fn nobody_at_the_monitor_s_address_is_known_in_time() {
    in_lab(async |lab| {
        let nobody = vec!["10.99.0.250:6789".to_owned()];
        let credentials = admin(lab.cluster(0));
        let short = Client::new(lab.cluster(0), "client_mount_timeout = 2");
        let default = Connections::new(None);
        let started = Instant::now();
        let slow = tokio::spawn({
            let (nobody, credentials) = (nobody.clone(), credentials.clone());
            async move { (errno(default.get(&nobody, &credentials).await), started.elapsed()) }
        });
        // All who wait share one connect: ten of them wait no longer than one.
        let gets: Vec<_> = (0..10)
            .map(|_| {
                let (connections, nobody) = (short.connections().clone(), nobody.clone());
                let credentials = credentials.clone();
                tokio::spawn(async move { errno(connections.get(&nobody, &credentials).await) })
            })
            .collect();
        // Nor does anybody else wait.
        short.connection().await;
        assert!(started.elapsed() < Duration::from_secs(2));
        for get in gets {
            assert_eq!(get.await.unwrap(), libc::ETIMEDOUT);
        }
        let waited = started.elapsed();
        assert!(waited > Duration::from_millis(1500) && waited < Duration::from_secs(6), "{waited:?}");
        assert_eq!(short.connections().len(), 1, "a failed connect is not kept");
        let (code, waited) = slow.await.unwrap();
        assert_eq!(code, libc::ETIMEDOUT);
        assert!(waited > Duration::from_secs(12) && waited < Duration::from_secs(20), "{waited:?}");
    });
}

#[test]
fn a_cluster_that_stands_still_times_out_and_holds_nobody_else() {
    let _alone = PAUSES.lock().unwrap_or_else(PoisonError::into_inner);
    in_lab(async |lab| {
        let still = Client::new(lab.cluster(1), "rados_osd_op_timeout = 2");
        let (pool, other) = (still.pool("rbd").await, Client::new(lab.cluster(0), ""));
        let other_pool = other.pool("rbd").await;
        let paused = lab.cluster(1).pause();
        // Else the first operations leave under the map from before the pause.
        pool.confirm().await.unwrap();
        let mut blocked: Vec<_> = (0..100)
            .map(|_| {
                let pool = pool.clone();
                tokio::spawn(async move { errno(pool.watchers("still").await) })
            })
            .collect();
        for _ in 0..100 {
            let pool = pool.clone();
            blocked.push(tokio::spawn(async move {
                errno(pool.write("test write", "still", WriteOp::new().create()).await)
            }));
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
        let started = Instant::now();
        other_pool.image_watchers(&rbd_csi::ceph::ImageId::new("none")).await.unwrap();
        other_pool.image_id("none").await.unwrap();
        assert!(started.elapsed() < Duration::from_secs(1), "{:?}", started.elapsed());
        for call in blocked {
            assert_eq!(call.await.unwrap(), libc::ETIMEDOUT);
        }
        drop(paused);
        // It serves again, with the same client.
        pool.write("test write", "still", WriteOp::new().create()).await.unwrap();
        pool.remove("test remove", "still").await.unwrap();
        drop((pool, other_pool));
        still.end().await;
    });
}

#[test]
fn futures_that_are_dropped_leave_the_library_its_buffers() {
    let _alone = PAUSES.lock().unwrap_or_else(PoisonError::into_inner);
    in_lab(async |lab| {
        let client = Client::new(lab.cluster(1), "rados_osd_op_timeout = 2");
        let pool = client.pool("rbd").await;
        let keys = |n: usize| (0..n).map(|i| (format!("key{i}"), vec![b'v'; 1000]));
        pool.write("test write", "dropped", WriteOp::new().omap_set(keys(200))).await.unwrap();
        for round in 0..3 {
            let paused = (round == 1).then(|| lab.cluster(1).pause());
            for _ in 0..200 {
                let read = ReadOp::new().omap_range("", "", 1000).stat().read(0, 1 << 20);
                let write = WriteOp::new().omap_set(keys(20));
                let short = Duration::from_micros(200);
                let _ = tokio::time::timeout(short, pool.read("test read", "dropped", read)).await;
                let _ = tokio::time::timeout(short, pool.write("test write", "dropped", write)).await;
                let _ = tokio::time::timeout(short, pool.watchers("dropped")).await;
            }
            drop(paused);
        }
        // The last users of the client are librados' own callbacks.
        let again = client.pool("rbd").await;
        assert_eq!(again.omap_all("test read", "dropped", "key").await.unwrap().len(), 200);
        again.remove("test remove", "dropped").await.unwrap();
        drop((pool, again));
        client.end().await;
    });
}

#[test]
fn a_full_pool_answers_instead_of_blocking() {
    in_lab(async |lab| {
        let cluster = lab.cluster(0);
        crate::support::pool::make(cluster, "full");
        let client = Client::new(cluster, "");
        let pool = client.pool("full").await;
        pool.write("test write", "there", WriteOp::new().omap_set([("k", "v")])).await.unwrap();
        cluster.ceph(&["osd", "pool", "set-quota", "full", "max_objects", "1"]);
        let started = Instant::now();
        loop {
            match pool.write("test write", "more", WriteOp::new().create()).await {
                Ok(()) => pool.remove("test remove", "more").await.unwrap(),
                Err(error) => break assert_eq!(error.errno, libc::EDQUOT, "{error}"),
            }
            assert!(started.elapsed() < Duration::from_secs(60), "the quota never counted");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        let spec = ImageSpec { size: 1 << 20, ..ImageSpec::default() };
        let started = Instant::now();
        assert_eq!(errno(pool.create_image("none", &spec).await), libc::EDQUOT);
        // What takes nothing goes on.
        pool.write("test write", "there", WriteOp::new().omap_set([("k2", "v")])).await.unwrap();
        pool.remove("test remove", "there").await.unwrap();
        assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
        assert!(pool.image_id("none").await.unwrap().is_none());
        drop(pool);
        client.end().await;
        let delete = ["osd", "pool", "delete", "full", "full", "--yes-i-really-really-mean-it"];
        cluster.ceph(&delete);
    });
}

#[test]
fn without_a_monitor_maps_time_out_and_images_go_on() {
    let _alone = PAUSES.lock().unwrap_or_else(PoisonError::into_inner);
    in_lab(async |lab| {
        let client = Client::new(lab.cluster(1), "rados_mon_op_timeout = 2");
        let pool = client.pool("rbd").await;
        let silent = lab.cluster(1).stop_monitor();
        let started = Instant::now();
        let asked: Vec<_> = (0..20)
            .map(|_| {
                let pool = pool.clone();
                tokio::spawn(async move {
                    let missing = errno(pool.connection().pool("missing", "").await);
                    (errno(pool.confirm().await), missing, errno(pool.connection().monitors().await))
                })
            })
            .collect();
        for asked in asked {
            assert_eq!(asked.await.unwrap(), (libc::ETIMEDOUT, libc::ETIMEDOUT, libc::ETIMEDOUT));
        }
        assert!(started.elapsed() < Duration::from_secs(15), "{:?}", started.elapsed());
        // Those that are known are found all the same, and serve.
        let pool = pool.connection().pool("rbd", "").await.unwrap();
        let spec = ImageSpec { size: 1 << 20, features: Some(FIVE), ..ImageSpec::default() };
        pool.create_image("unwatched", &spec).await.unwrap();
        let id = pool.image_id("unwatched").await.unwrap().unwrap();
        pool.trash_move("unwatched", &id).await.unwrap();
        drop(silent);
        pool.purge(&id).await.unwrap();
        pool.confirm().await.unwrap();
        drop(pool);
        client.end().await;
    });
}
