//! Locks: nothing of them stays, and the image's own lock has an owner who lives or not.

use std::time::Duration;

use rbd_csi::ceph::{OpenMode, Pool, WriteOp, lock};

use crate::image::{FIVE, create};
use crate::{Client, errno, in_lab, with_pool};

const WHAT: &str = "test lock";

async fn locks(pool: &Pool, object: &str) -> Vec<String> {
    let xattrs = pool.list_xattrs(WHAT, object).await.unwrap();
    xattrs.keys().filter_map(|name| lock::of_xattr(name)).map(str::to_owned).collect()
}

#[test]
fn nothing_is_left_of_a_lock_that_was_given_back_broken_or_swept() {
    in_lab(async |lab| {
        let (client, rival) = (Client::new(lab.cluster(0), ""), Client::new(lab.cluster(0), ""));
        let (pool, other) = (client.pool("rbd").await, rival.pool("rbd").await);
        let object = "locked";
        let write = async |pool: &Pool, op: WriteOp| pool.write(WHAT, object, op).await;
        write(&pool, lock::take(WriteOp::new().create(), "a", "me")).await.unwrap();
        assert_eq!(locks(&pool, object).await, ["a"]);
        assert_eq!(errno(write(&other, lock::take(WriteOp::new(), "a", "me")).await), libc::EBUSY);
        assert_eq!(errno(write(&other, lock::give_back(WriteOp::new(), "a", "me")).await), libc::ENOENT);
        assert_eq!(errno(write(&other, lock::sweep(WriteOp::new(), "a")).await), libc::EBUSY);
        let holder = other.lock_holder(object, "a").await.unwrap().unwrap();
        write(&pool, lock::give_back(WriteOp::new(), "a", "me")).await.unwrap();
        assert_eq!(locks(&pool, object).await, Vec::<String>::new());
        assert_eq!(errno(other.break_lock(object, "a", &holder).await), libc::ENOENT);

        // Broken: gone; and whoever took it meanwhile keeps it.
        write(&pool, lock::take(WriteOp::new(), "a", "me")).await.unwrap();
        other.break_lock(object, "a", &holder).await.unwrap();
        assert_eq!(locks(&pool, object).await, Vec::<String>::new());
        write(&other, lock::take(WriteOp::new(), "a", "you")).await.unwrap();
        assert_eq!(errno(other.break_lock(object, "a", &holder).await), libc::ENOENT);
        assert_eq!(other.lock_holder(object, "a").await.unwrap().unwrap().cookie, "you");
        write(&other, lock::give_back(WriteOp::new(), "a", "you")).await.unwrap();

        // One whose time ran out, and one that an older version has left.
        let short = lock::take_for(WriteOp::new(), "a", "me", Duration::from_secs(1));
        write(&pool, short).await.unwrap();
        let swept = loop {
            match write(&other, lock::sweep(WriteOp::new(), "a")).await {
                Err(error) if error.is(libc::EBUSY) => tokio::time::sleep(Duration::from_millis(100)).await,
                swept => break swept,
            }
        };
        swept.unwrap();
        lab.cluster(0).rados(&["-p", "rbd", "lock", "get", object, "b", "--lock-cookie", "x"]);
        let left = lab.cluster(0).rados(&["-p", "rbd", "lock", "list", object]);
        assert!(left.contains('b'), "{left}");
        let holder = pool.lock_holder(object, "b").await.unwrap().unwrap();
        lab.cluster(0).rados(&[
            "-p",
            "rbd",
            "lock",
            "break",
            object,
            "b",
            &holder.client,
            "--lock-cookie",
            "x",
        ]);
        assert_eq!(locks(&pool, object).await, ["b"]);
        write(&pool, lock::sweep(WriteOp::new(), "b")).await.unwrap();
        assert_eq!(locks(&pool, object).await, Vec::<String>::new());
        pool.remove(WHAT, object).await.unwrap();
        drop((pool, other));
        client.end().await;
        rival.end().await;
    });
}

#[test]
fn the_owner_of_an_image_lives_or_not() {
    with_pool(async |cluster, pool| {
        let id = create(&pool, "owned", FIVE).await;
        assert_eq!(pool.image_lock_owner(&id).await.unwrap(), None);
        let image = pool.open_image(&id, OpenMode::ReadWrite).await.unwrap();
        assert_eq!(pool.image_lock_owner(&id).await.unwrap(), None, "opening takes no lock");
        image.resize(33 << 20).await.unwrap();
        let owner = pool.image_lock_owner(&id).await.unwrap().unwrap();
        let watchers = pool.image_watchers(&id).await.unwrap();
        assert!(owner.is_among(&watchers), "{owner:?} {watchers:?}");
        assert_eq!(owner.client, format!("client.{}", pool.connection().instance_id()));
        assert!(!owner.is_among(&[]));
        image.close().await.unwrap();
        assert_eq!(pool.image_lock_owner(&id).await.unwrap(), None);
        cluster.rbd(&["lock", "add", "owned", "by hand"]);
        let person = pool.image_lock_owner(&id).await.unwrap().unwrap();
        assert_eq!((person.cookie.as_str(), person.watch_cookie()), ("by hand", None));
        cluster.rbd(&["lock", "rm", "owned", "by hand", &person.client]);
        cluster.rbd(&["rm", "--no-progress", "owned"]);
        assert_eq!(pool.image_lock_owner(&id).await.unwrap(), None);
    });
}
