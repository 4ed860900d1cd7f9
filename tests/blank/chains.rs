//! Blankness down a chain of snapshots and clones, laid out as ceph-csi lays them out.

use rbd_csi::ceph::Pool;
use rbd_csi::host::fs_kind::FsKind;
use rbd_csi::node::blank::FsState;
use rbd_csi::node::blank::format_mark::KEY;
use rbd_csi::volume::{Error, Kind};

use crate::in_the_node;
use crate::interrupted::nearly_made;
use crate::volume::{MAPPED, MIB, PLAIN, Volume, Wish, leave, pool, run};

fn rbd(arguments: &str) -> String {
    run("rbd", &arguments.split(' ').collect::<Vec<_>>())
}

/// A CSI snapshot of an image: an image of its own with one snapshot, both of that name. The
/// source's snapshot goes to its snapshot trash.
fn snapshot(source: &str, name: &str, features: &str) {
    let features: String = features.split(',').map(|feature| format!(" --image-feature {feature}")).collect();
    rbd(&format!("snap create --no-progress {source}@{name}"));
    rbd(&format!("clone --rbd-default-clone-format 2{features} {source}@{name} {name}"));
    rbd(&format!("snap rm --no-progress {source}@{name}"));
    rbd(&format!("snap create --no-progress {name}@{name}"));
}

/// A volume restored from a CSI snapshot.
async fn restore(pool: &Pool, snapshot: &str, name: &str, features: &str) -> Volume {
    let features: String = features.split(',').map(|feature| format!(" --image-feature {feature}")).collect();
    rbd(&format!("clone --rbd-default-clone-format 2{features} {snapshot}@{snapshot} {name}"));
    Volume::existing(pool, name, "").await
}

async fn formatted(volume: &Volume, kind: FsKind) {
    let made = volume.make(Wish::of(kind.name())).await;
    assert_eq!(made.unwrap_or_else(|error| panic!("{}: {error}", volume.name)), FsState::Created(kind));
    assert!(!volume.is_marked().await);
    volume.is_usable(kind.name());
}

async fn refused(volume: &Volume, words: &str) -> Error {
    let error = volume.refused(Wish::default()).await;
    println!("{}: {error}", volume.name);
    assert_eq!(error.kind, Kind::Precondition, "{error}");
    assert!(error.to_string().contains(words), "{words} is missing: {error}");
    error
}

#[tokio::test]
async fn what_was_snapshotted_before_its_first_use_is_formatted() {
    if in_the_node("chains::what_was_snapshotted_before_its_first_use_is_formatted") {
        return;
    }
    let pool = pool().await;
    for (features, kind) in [(PLAIN, FsKind::Ext4), (MAPPED, FsKind::Xfs)] {
        let name = |what: &str| format!("{what}-{kind}");
        let source = Volume::new(&pool, &name("source"), 320 * MIB, features).await;
        snapshot(&source.name, &name("snap"), features);
        let early = restore(&pool, &name("snap"), &name("early"), features).await;
        snapshot(&early.name, &name("second"), features);
        formatted(&source, kind).await;
        formatted(&early, kind).await;
        // The sources hold files by now, but their snapshots do not.
        let late = restore(&pool, &name("snap"), &name("late"), features).await;
        let third = restore(&pool, &name("second"), &name("third"), features).await;
        rbd(&format!("trash mv {}", name("second")));
        formatted(&late, kind).await;
        formatted(&third, kind).await;
        // And now they do.
        snapshot(&third.name, &name("full"), features);
        let full = restore(&pool, &name("full"), &name("restored"), features).await;
        assert_eq!(full.make(Wish::of(kind.name())).await.unwrap(), FsState::Found { kind, can_grow: false });
        full.is_usable(kind.name());
        for volume in [source, early, late, third, full] {
            volume.unmap();
        }
    }
    leave(pool).await;
}

/// A source whose data are gone from its head, and a clone that still shows them.
#[tokio::test]
async fn a_parents_data_are_never_formatted_over() {
    if in_the_node("chains::a_parents_data_are_never_formatted_over") {
        return;
    }
    let pool = pool().await;
    for (features, mark) in [(PLAIN, "p"), (MAPPED, "m")] {
        let name = |what: &str| format!("{what}-{mark}");
        let source = Volume::new(&pool, &name("data"), 64 * MIB, features).await;
        source.write(&[0xdb; 8192], 50 * MIB);
        snapshot(&source.name, &name("held"), features);
        run("blkdiscard", &[source.device()]);
        let head = format!("{}.000000000000000c", source.header().await.object_prefix);
        run("sh", &["-c", &format!("! rados -p rbd stat {head}")]);
        formatted(&source, FsKind::Ext4).await;

        let clone = restore(&pool, &name("held"), &name("clone"), features).await;
        let error = refused(&clone, "shows its parent's data").await;
        assert!(error.to_string().contains(".000000000000000c of image id rbd/"), "{error}");
        // A generation later, with nothing in between, and in the trash.
        snapshot(&clone.name, &name("again"), features);
        let child = restore(&pool, &name("again"), &name("child"), features).await;
        let mut ids = Vec::new();
        for image in ["again", "held"] {
            ids.push(pool.image_id(&name(image)).await.unwrap().unwrap());
            rbd(&format!("trash mv {}", name(image)));
        }
        refused(&child, "shows its parent's data").await;
        // Without maps of what the snapshots hold, each object is asked for.
        let objects = run("rados", &["-p", "rbd", "ls"]);
        let is_map =
            |object: &&str| ids.iter().any(|id| object.starts_with(&format!("{}.", id.object_map_object())));
        let maps: Vec<_> = objects.lines().filter(is_map).collect();
        assert_eq!(maps.len(), if features == MAPPED { 2 } else { 0 }, "{maps:?}");
        for map in &maps {
            run("rados", &["-p", "rbd", "cp", map, &format!("kept-{map}")]);
            run("rados", &["-p", "rbd", "rm", map]);
        }
        refused(&child, "shows its parent's data").await;
        for map in &maps {
            run("rados", &["-p", "rbd", "cp", &format!("kept-{map}"), map]);
        }
        // Flattened, they are the child's own.
        rbd(&format!("flatten --no-progress {}", name("child")));
        refused(&child, "holds 1 data objects").await;

        // What lies behind the overlap does not show.
        clone.unmap();
        rbd(&format!("resize --no-progress --allow-shrink -s 32M {}", name("clone")));
        rbd(&format!("resize --no-progress -s 64M {}", name("clone")));
        let clone = Volume::existing(&pool, &name("clone"), "").await;
        formatted(&clone, FsKind::Ext4).await;
        for volume in [source, clone, child] {
            volume.unmap();
        }
    }
    leave(pool).await;
}

#[tokio::test]
async fn ancestors_are_found_in_other_pools_and_namespaces() {
    if in_the_node("chains::ancestors_are_found_in_other_pools_and_namespaces") {
        return;
    }
    let pool = pool().await;
    for other in ["other", "bulk"] {
        run("ceph", &["osd", "pool", "create", other, "8"]);
        rbd(&format!("pool init {other}"));
    }
    rbd("namespace create other/tenant");
    for (name, is_blank) in [("blank", true), ("data", false)] {
        let source = format!("other/tenant/{name}");
        rbd(&format!("create -s 64M --image-feature layering --data-pool bulk {source}"));
        if !is_blank {
            rbd(&format!("bench --io-type write --io-size 4096 --io-total 4096 {source}"));
        }
        rbd(&format!("snap create --no-progress {source}@s"));
        if is_blank {
            rbd(&format!("bench --io-type write --io-size 4096 --io-total 4096 {source}"));
        }
        let clone = format!("across-{name}");
        rbd(&format!("clone --rbd-default-clone-format 2 --image-feature layering {source}@s rbd/{clone}"));
        let clone = Volume::existing(&pool, &clone, "").await;
        if is_blank {
            formatted(&clone, FsKind::Ext4).await;
        } else {
            refused(&clone, "image id other/tenant/").await;
        }
        clone.unmap();
    }
    // Nobody can say what an ancestor held that is gone.
    let clone = Volume::existing(&pool, "across-data", "").await;
    run("ceph", &["osd", "pool", "delete", "other", "other", "--yes-i-really-really-mean-it"]);
    let error = clone.make(Wish::default()).await.unwrap_err();
    assert!(error.kind != Kind::Internal, "{error}");
    println!("{error}");
    clone.unmap();
    leave(pool).await;
}

/// Half a mkfs is no proof of anything but on the image on which it runs.
#[tokio::test]
async fn a_clone_of_half_a_mkfs_is_refused_and_the_source_goes_on() {
    if in_the_node("chains::a_clone_of_half_a_mkfs_is_refused_and_the_source_goes_on") {
        return;
    }
    let pool = pool().await;
    for (features, kind) in [(PLAIN, FsKind::Ext4), (MAPPED, FsKind::Xfs), (MAPPED, FsKind::Ext4)] {
        let name = |what: &str| format!("half-{what}-{kind}-{}", features.len());
        let mib = if kind == FsKind::Xfs { 320 } else { 64 };
        let source = Volume::new(&pool, &name("source"), mib * MIB, features).await;
        nearly_made(&source, kind).await;
        snapshot(&source.name, &name("snap"), features);
        let clone = restore(&pool, &name("snap"), &name("clone"), features).await;
        assert!(!clone.is_marked().await, "librbd does not copy what begins with .rbd");
        let error = refused(&clone, "restore or clone again").await;
        assert!(error.to_string().contains("The source goes on"), "{error}");
        // Copied all the same, as it is and as the first drivers wrote it.
        let text = source.header().await.metadata[KEY].clone();
        clone.pool.set_metadata(&clone.id, &[(KEY.to_owned(), text.clone())]).await.unwrap();
        refused(&clone, "restore or clone again").await;
        let mut old: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(old["image"], source.id.as_str());
        old.as_object_mut().unwrap().remove("image");
        clone.pool.set_metadata(&clone.id, &[(KEY.to_owned(), old.to_string())]).await.unwrap();
        refused(&clone, "restore or clone again").await;
        clone.pool.set_metadata(&clone.id, &[(KEY.to_owned(), text)]).await.unwrap();
        rbd(&format!("flatten --no-progress {}", name("clone")));
        refused(&clone, "restore or clone again").await;

        // The source has a snapshot now, and its own mark.
        formatted(&source, kind).await;
        snapshot(&source.name, &name("whole"), features);
        let whole = restore(&pool, &name("whole"), &name("restored"), features).await;
        whole.make(Wish::of(kind.name())).await.unwrap();
        for volume in [source, clone, whole] {
            volume.unmap();
        }
    }
    leave(pool).await;
}

/// A clone of a whole file system from before its mark was taken off.
#[tokio::test]
async fn a_foreign_mark_on_a_whole_file_system_goes() {
    if in_the_node("chains::a_foreign_mark_on_a_whole_file_system_goes") {
        return;
    }
    let pool = pool().await;
    let source = Volume::new(&pool, "marked-source", 64 * MIB, MAPPED).await;
    nearly_made(&source, FsKind::Ext4).await;
    let text = source.header().await.metadata[KEY].clone();
    formatted(&source, FsKind::Ext4).await;
    source.pool.set_metadata(&source.id, &[(KEY.to_owned(), text)]).await.unwrap();
    snapshot(&source.name, "marked-snap", MAPPED);
    let clone = restore(&pool, "marked-snap", "marked-clone", MAPPED).await;
    let text = source.header().await.metadata[KEY].clone();
    clone.pool.set_metadata(&clone.id, &[(KEY.to_owned(), text)]).await.unwrap();
    assert!(matches!(clone.make(Wish::default()).await.unwrap(), FsState::Found { .. }));
    assert!(!clone.is_marked().await && source.is_marked().await);
    clone.is_usable("ext4");
    clone.unmap();
    source.unmap();
    leave(pool).await;
}
