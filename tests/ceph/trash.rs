//! Into the trash and out of the world; what librbd's own tools make of it.

use std::time::Duration;

use rbd_csi::ceph::{Features, MirrorState, Pool, TrashState, WriteOp};

use crate::image::{FIVE, create};
use crate::support::lab::{Cluster, Running};
use crate::{errno, objects_of, with_pool};

async fn written(cluster: &Cluster, pool: &Pool, name: &str) -> rbd_csi::ceph::ImageId {
    let id = create(pool, name, FIVE).await;
    let bench = ["bench", "--io-type", "write", "--io-size", "4M", "--io-total", "32M", "--io-threads", "1"];
    cluster.rbd(&[&bench[..], &[name]].concat());
    assert_eq!(objects_of(cluster, &[&format!("rbd_data.{id}")]).len(), 8);
    id
}

#[test]
fn rbd_sees_lists_restores_and_purges_what_we_moved() {
    with_pool(async |cluster, pool| {
        let id = written(cluster, &pool, "moved").await;
        pool.trash_move("moved", &id).await.unwrap();
        assert!(cluster.rbd(&["trash", "ls"]).contains(&format!("{id} moved")));
        assert!(!cluster.rbd(&["ls"]).lines().any(|line| line == "moved"));
        let entry = pool.trash_entry(&id).await.unwrap().unwrap();
        assert_eq!((entry.name.as_str(), entry.state, entry.source), ("moved", TrashState::Normal, 0));
        assert_eq!(pool.trash_find("ved").await.unwrap(), [(id.clone(), "moved".to_owned())]);
        assert_eq!(pool.trash_find("nonesuch").await.unwrap(), []);
        cluster.rbd(&["trash", "restore", id.as_str()]);
        assert_eq!(pool.image_id("moved").await.unwrap().as_ref(), Some(&id));
        // Somebody took it back: it is not ours to purge any more.
        assert_eq!(errno(pool.purge(&id).await), libc::EEXIST);
        cluster.rbd(&["info", "moved"]);
        pool.trash_move("moved", &id).await.unwrap();
        pool.trash_move("moved", &id).await.unwrap();
        cluster.rbd(&["trash", "rm", "--no-progress", id.as_str()]);
        pool.purge(&id).await.unwrap();
        assert_eq!(objects_of(cluster, &[id.as_str(), "rbd_id.moved"]), Vec::<String>::new());
    });
}

#[test]
fn we_purge_what_rbd_moved_but_not_before_its_time() {
    with_pool(async |cluster, pool| {
        let id = written(cluster, &pool, "theirs").await;
        cluster.rbd(&["trash", "mv", "--expires-at", "tomorrow", "theirs"]);
        assert_eq!(errno(pool.purge(&id).await), libc::EPERM);
        assert_eq!(objects_of(cluster, &[&format!("rbd_data.{id}")]).len(), 8);
        cluster.rbd(&["trash", "restore", id.as_str()]);
        cluster.rbd(&["trash", "mv", "theirs"]);
        pool.purge(&id).await.unwrap();
        pool.purge(&id).await.unwrap();
        assert_eq!(objects_of(cluster, &[id.as_str()]), Vec::<String>::new());
        assert_eq!(pool.trash_entry(&id).await.unwrap(), None);
    });
}

#[test]
fn data_that_a_snapshot_or_a_clone_needs_stay() {
    with_pool(async |cluster, pool| {
        let id = written(cluster, &pool, "kept").await;
        cluster.rbd(&["snap", "create", "--no-progress", "kept@snap"]);
        pool.trash_move("kept", &id).await.unwrap();
        assert_eq!(errno(pool.purge(&id).await), libc::ENOTEMPTY);
        assert_eq!(pool.trash_entry(&id).await.unwrap().unwrap().state, TrashState::Normal);
        let digest = || cluster.rbd(&["export", "--no-progress", "kept@snap", "-"]).len();
        cluster.rbd(&["trash", "restore", id.as_str()]);
        assert!(digest() > 1 << 20, "the snapshot's data are there");
        // The same for a header that neither directory nor trash names.
        for object in ["rbd_id.kept"] {
            pool.remove("test remove", object).await.unwrap();
        }
        let input = [4u32.to_le_bytes().as_slice(), b"kept"].concat();
        let length = u32::try_from(id.as_str().len()).unwrap().to_le_bytes();
        let input = [input.as_slice(), &length, id.as_str().as_bytes()].concat();
        let remove = rbd_csi::ceph::WriteOp::new().exec(c"rbd", c"dir_remove_image", input);
        pool.write("test remove", "rbd_directory", remove).await.unwrap();
        assert_eq!(errno(pool.purge(&id).await), libc::ENOTEMPTY);
        assert!(!objects_of(cluster, &[&format!("rbd_data.{id}")]).is_empty());
        cluster.rbd(&["trash", "restore", "--image", "kept", id.as_str()]);
        cluster.rbd(&["snap", "purge", "--no-progress", "kept"]);
        pool.trash_move("kept", &id).await.unwrap();
        pool.purge(&id).await.unwrap();
        assert_eq!(objects_of(cluster, &[id.as_str()]), Vec::<String>::new());
    });
}

#[test]
fn what_somebody_watches_is_not_purged() {
    with_pool(async |cluster, pool| {
        let id = written(cluster, &pool, "watched").await;
        let mut rbd = cluster.command("rbd");
        rbd.args(["watch", "watched"])
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::null());
        let watching = Running(rbd.spawn().unwrap());
        for _ in 0..100 {
            if !pool.image_watchers(&id).await.unwrap().is_empty() {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
        let watchers = pool.image_watchers(&id).await.unwrap();
        assert_eq!(watchers.len(), 1);
        assert!(cluster.rbd(&["status", "watched"]).contains(&format!("watcher={}", watchers[0].address)));
        pool.trash_move("watched", &id).await.unwrap();
        assert_eq!(errno(pool.purge(&id).await), libc::EBUSY);
        assert_eq!(objects_of(cluster, &[&format!("rbd_data.{id}")]).len(), 8);
        drop(watching);
        // A killed client's watch lives on for up to 30 s.
        for _ in 0..400 {
            if pool.image_watchers(&id).await.unwrap().is_empty() {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
        pool.purge(&id).await.unwrap();
        assert_eq!(objects_of(cluster, &[id.as_str()]), Vec::<String>::new());
    });
}

#[test]
fn an_image_in_a_group_and_a_mirrored_one() {
    with_pool(async |cluster, pool| {
        let id = create(&pool, "member", FIVE).await;
        cluster.rbd(&["group", "create", "rbd/team"]);
        cluster.rbd(&["group", "image", "add", "rbd/team", "rbd/member"]);
        assert_eq!(errno(pool.trash_move("member", &id).await), libc::EMLINK);
        assert_eq!(pool.trash_entry(&id).await.unwrap(), None);
        cluster.rbd(&["group", "rm", "rbd/team"]);

        cluster.rbd(&["mirror", "pool", "enable", "rbd", "image"]);
        assert_eq!(pool.mirror_state(&id).await.unwrap(), MirrorState::NotMirrored);
        cluster.rbd(&["mirror", "image", "enable", "member", "snapshot"]);
        assert_eq!(pool.mirror_state(&id).await.unwrap(), MirrorState::Primary);
        cluster.rbd(&["mirror", "image", "demote", "member"]);
        assert_eq!(pool.mirror_state(&id).await.unwrap(), MirrorState::NonPrimary);
        assert_eq!(pool.trash_entry(&id).await.unwrap(), None);
        cluster.rbd(&["mirror", "image", "promote", "member"]);
        assert_eq!(pool.mirror_state(&id).await.unwrap(), MirrorState::Primary);
        pool.trash_move("member", &id).await.unwrap();
        assert_eq!(pool.trash_entry(&id).await.unwrap().unwrap().state, TrashState::Normal);
        pool.purge(&id).await.unwrap();
        cluster.rbd(&["mirror", "pool", "disable", "rbd"]);
        assert_eq!(objects_of(cluster, &[id.as_str(), "member"]), Vec::<String>::new());
    });
}

#[test]
fn an_entry_has_the_callers_time_and_an_image_that_is_restored_keeps_its_names() {
    with_pool(async |cluster, pool| {
        let id = create(&pool, "stamped", FIVE).await;
        let time = Duration::new(1_700_000_000, 123_456_789);
        pool.trash_move_at("stamped", &id, time).await.unwrap();
        assert_eq!(pool.trash_entry(&id).await.unwrap().unwrap().deleted, time);
        pool.trash_move_at("stamped", &id, time * 2).await.unwrap();
        assert_eq!(pool.trash_entry(&id).await.unwrap().unwrap().deleted, time, "the first one's");
        cluster.rbd(&["trash", "restore", id.as_str()]);

        // A restore that stopped before its last step: the names are there, and the entry.
        let text = |text: &str| [&u32::try_from(text.len()).unwrap().to_le_bytes(), text.as_bytes()].concat();
        let fields = [&[0u8][..], &text("stamped"), &[0; 16], &[3]].concat();
        let length = u32::try_from(fields.len()).unwrap().to_le_bytes();
        let input = [&text(id.as_str())[..], &[2, 1], &length, &fields].concat();
        pool.write("test", "rbd_trash", WriteOp::new().exec(c"rbd", c"trash_add", input)).await.unwrap();
        assert_eq!(errno(pool.trash_move("stamped", &id).await), libc::EBUSY);
        assert_eq!(pool.image_id("stamped").await.unwrap().as_ref(), Some(&id));
        assert_eq!(pool.directory_id("stamped").await.unwrap().as_ref(), Some(&id));
        let remove = WriteOp::new().exec(c"rbd", c"trash_remove", text(id.as_str()));
        pool.write("test", "rbd_trash", remove).await.unwrap();
        pool.trash_move("stamped", &id).await.unwrap();
        pool.purge(&id).await.unwrap();
    });
}

#[test]
fn a_name_that_is_used_again_is_not_touched() {
    with_pool(async |cluster, pool| {
        let old = create(&pool, "again", Features::LAYERING).await;
        pool.trash_move("again", &old).await.unwrap();
        let new = create(&pool, "again", Features::LAYERING).await;
        pool.trash_move("again", &old).await.unwrap();
        pool.remove_partial_image("again", &old).await.unwrap();
        pool.purge(&old).await.unwrap();
        assert_eq!(pool.image_id("again").await.unwrap().as_ref(), Some(&new));
        cluster.rbd(&["info", "again"]);
        pool.trash_move("again", &new).await.unwrap();
        pool.purge(&new).await.unwrap();
        assert_eq!(objects_of(cluster, &[old.as_str(), new.as_str()]), Vec::<String>::new());
    });
}
