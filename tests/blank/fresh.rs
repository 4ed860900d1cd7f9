//! Blank volumes get their file system, and an existing one is taken as it is.

use rbd_csi::ceph::{Features, ImageSpec};
use rbd_csi::host::fs_kind::FsKind;
use rbd_csi::node::blank::FsState;
use rbd_csi::volume::Kind;
use rbd_csi::volume::operation::Operations;

use crate::in_the_node;
use crate::volume::{MAPPED, MIB, PLAIN, Volume, Wish, leave, pool};

#[tokio::test]
async fn a_blank_volume_is_formatted_once() {
    if in_the_node("fresh::a_blank_volume_is_formatted_once") {
        return;
    }
    let pool = pool().await;
    for (fs_type, kind) in [("ext4", FsKind::Ext4), ("xfs", FsKind::Xfs), ("ext3", FsKind::Ext3)] {
        for features in [PLAIN, MAPPED] {
            let volume = Volume::new(&pool, "fresh", 400 * MIB, features).await;
            assert_eq!(volume.make(Wish::of(fs_type)).await.unwrap(), FsState::Created(kind));
            assert!(!volume.is_marked().await);
            let since = std::time::Instant::now();
            assert_eq!(
                volume.make(Wish::of(fs_type)).await.unwrap(),
                FsState::Found { kind, can_grow: false }
            );
            println!("a {fs_type} that is there: {:?}", since.elapsed());
            volume.is_usable(fs_type);
            assert_eq!(volume.make(Wish::of("")).await.unwrap(), FsState::Found { kind, can_grow: false });
            volume.done().await;
        }
    }
    leave(pool).await;
}

#[tokio::test]
async fn the_users_options_count() {
    if in_the_node("fresh::the_users_options_count") {
        return;
    }
    let pool = pool().await;
    let volume = Volume::new(&pool, "options", 64 * MIB, PLAIN).await;
    let wish = |mkfs_options| Wish { mkfs_options, ..Wish::default() };
    let error = volume.refused(wish("-J device=/dev/sda")).await;
    assert_eq!(error.kind, Kind::InvalidArgument, "{error}");
    assert_eq!(volume.refused(Wish::of("btrfs")).await.kind, Kind::InvalidArgument);
    assert_eq!(volume.make(wish("-L chosen -E nodiscard")).await.unwrap(), FsState::Created(FsKind::Ext4));
    assert_eq!(crate::volume::run("e2label", &[volume.device()]), "chosen");
    volume.done().await;
    leave(pool).await;
}

#[tokio::test]
async fn a_long_count_tells_how_far_it_is_and_is_joined() {
    if in_the_node("fresh::a_long_count_tells_how_far_it_is_and_is_joined") {
        return;
    }
    let pool = pool().await;
    let features = Some(Features::LAYERING);
    let spec = ImageSpec { size: 1024 * MIB, features, object_size: Some(1 << 16), ..ImageSpec::default() };
    let volume = Volume::with(&pool, "long", spec, "").await;
    let operations = Operations::default();
    let late = volume.make_among(&operations, Wish { patience: 700, ..Wish::default() }).await.unwrap_err();
    assert_eq!(late.kind, Kind::Busy, "{late}");
    assert!(late.to_string().contains("of 16384 objects looked at"), "{late}");
    let joined = volume.make_among(&operations, Wish { patience: 300_000, ..Wish::default() }).await;
    assert_eq!(joined.unwrap(), FsState::Created(FsKind::Ext4));
    volume.done().await;
    leave(pool).await;
}

#[tokio::test]
async fn the_data_pool_is_looked_at() {
    if in_the_node("fresh::the_data_pool_is_looked_at") {
        return;
    }
    let pool = pool().await;
    crate::volume::run("ceph", &["osd", "pool", "create", "data", "8"]);
    crate::volume::run("rbd", &["pool", "init", "data"]);
    let spec = ImageSpec {
        size: 64 * MIB,
        features: Some(Features::LAYERING),
        data_pool: Some("data".into()),
        ..ImageSpec::default()
    };
    let volume = Volume::with(&pool, "elsewhere", spec, "").await;
    volume.write(&[7; 512], 40 * MIB);
    let error = volume.refused(Wish::default()).await;
    assert!(error.to_string().contains("holds 1 data objects"), "{error}");
    crate::volume::run("blkdiscard", &[volume.device()]);
    assert_eq!(volume.make(Wish::default()).await.unwrap(), FsState::Created(FsKind::Ext4));
    volume.done().await;
    leave(pool).await;
}
