//! An mkfs that was killed: the next call finishes it, unless something is there
//! that it did not write.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use rbd_csi::ceph::{Features, ImageSpec};
use rbd_csi::host::filesystem::mkfs_arguments;
use rbd_csi::host::foresight;
use rbd_csi::host::fs_kind::FsKind;
use rbd_csi::node::blank::FsState;
use rbd_csi::node::blank::format_mark::Mark;
use rbd_csi::volume::Kind;
use rbd_csi::volume::image::data_objects::objects_of;

use crate::in_the_node;
use crate::volume::{MAPPED, MIB, PLAIN, Volume, Wish, leave, pool, run};

/// Tells the process that is to be killed which image to format as what.
const VICTIM: &str = "BLANK_TEST_VICTIM";

#[tokio::test]
async fn the_objects_of_an_mkfs_are_foreseen() {
    if in_the_node("interrupted::the_objects_of_an_mkfs_are_foreseen") {
        return;
    }
    let pool = pool().await;
    let layouts = [(22, None), (16, None), (24, None), (22, Some((1 << 16, 5)))];
    for size in [300, 5000] {
        for (order, stripe) in layouts {
            for (kind, options) in [(FsKind::Ext4, ""), (FsKind::Xfs, ""), (FsKind::Ext4, "notrim")] {
                let features = Some(Features::parse(MAPPED).unwrap());
                let object_size = Some(1 << order);
                let spec = ImageSpec { size: size * MIB, features, object_size, stripe, data_pool: None };
                let volume = Volume::with(&pool, "foreseen", spec, options).await;
                let expected = foreseen(&volume, kind, "").await;
                assert!(volume.objects().await.is_empty(), "nothing is written by foreseeing");
                let made = volume.make(Wish::of(kind.name())).await.unwrap();
                assert_eq!(made, FsState::Created(kind));
                let written = volume.objects().await;
                println!(
                    "{kind}{options} {size} bytes, order {order}, stripe {stripe:?}: {} of {}",
                    written.len(),
                    expected.len()
                );
                assert!(written.is_subset(&expected), "{:?}", written.difference(&expected));
                volume.done().await;
            }
        }
    }
    leave(pool).await;
}

/// The device's stripe is in blocks of the file system's own size. Without flex_bg it says where
/// each group's bitmaps are.
#[tokio::test]
async fn the_stripe_of_small_blocks_is_foreseen() {
    if in_the_node("interrupted::the_stripe_of_small_blocks_is_foreseen") {
        return;
    }
    let pool = pool().await;
    let features = Some(Features::parse(MAPPED).unwrap());
    let spec = ImageSpec { size: 300 * MIB, features, object_size: Some(1 << 16), ..ImageSpec::default() };
    let volume = Volume::with(&pool, "small-blocks", spec, "").await;
    let mkfs_options = "-b 1024 -O ^flex_bg,^resize_inode";
    let expected = foreseen(&volume, FsKind::Ext4, mkfs_options).await;
    let made = volume.make(Wish { mkfs_options, ..Wish::of("ext4") }).await.unwrap();
    assert_eq!(made, FsState::Created(FsKind::Ext4));
    let written = volume.objects().await;
    assert!(written.is_subset(&expected), "{:?}", written.difference(&expected));
    volume.done().await;
    leave(pool).await;
}

#[tokio::test]
async fn a_killed_mkfs_is_finished_by_the_next_call() {
    if in_the_node("interrupted::a_killed_mkfs_is_finished_by_the_next_call") {
        return;
    }
    let pool = pool().await;
    if let Ok(victim) = std::env::var(VICTIM) {
        let (name, fs_type, device) = {
            let mut parts = victim.split(' ');
            (parts.next().unwrap(), parts.next().unwrap(), parts.next().unwrap())
        };
        let id = pool.image_id(name).await.unwrap().unwrap();
        let volume = Volume { pool, name: name.into(), id, device: device.into() };
        volume.make(Wish::of(if fs_type == "xfs" { "xfs" } else { "ext4" })).await.unwrap();
        return leave(volume.pool).await;
    }
    let (mut created, mut found) = (0, 0);
    for (fs_type, features) in [("ext4", PLAIN), ("xfs", MAPPED)] {
        for delay in [0, 15, 40, 80, 150] {
            let volume = Volume::new(&pool, "killed", 400 * MIB, features).await;
            kill_after_mark(&volume, fs_type, Duration::from_millis(delay)).await;
            let marked = volume.is_marked().await;
            match volume.make(Wish::of(fs_type)).await.unwrap_or_else(|error| panic!("{fs_type}: {error}")) {
                FsState::Created(_) if marked => created += 1,
                FsState::Found { .. } if marked => found += 1,
                _ => {}
            }
            assert!(!volume.is_marked().await);
            volume.is_usable(fs_type);
            volume.done().await;
        }
    }
    println!("with a mark: {created} made again, {found} taken");
    assert!(created > 0, "no kill struck between the mark and the end of mkfs");
    leave(pool).await;
}

/// Formats in another process.
fn elsewhere(volume: &Volume, fs_type: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", "interrupted::a_killed_mkfs_is_finished_by_the_next_call", "--nocapture"])
        .env(VICTIM, format!("{} {fs_type} {}", volume.name, volume.device()))
        .stdout(Stdio::null());
    command
}

/// Formats in another process, which is killed so long after it has put its mark.
async fn kill_after_mark(volume: &Volume, fs_type: &str, delay: Duration) {
    let mut victim = elsewhere(volume, fs_type).spawn().unwrap();
    while !volume.is_marked().await {
        assert!(victim.try_wait().unwrap().is_none(), "it ended without a mark");
    }
    std::thread::sleep(delay);
    victim.kill().unwrap();
    victim.wait().unwrap();
    // mkfs dies with its driver, as soon as the kernel lets it.
    while Command::new("pgrep").arg("mkfs").stdout(Stdio::null()).status().unwrap().success() {
        std::thread::sleep(Duration::from_millis(10));
    }
}

async fn marked(volume: &Volume, kind: FsKind, arguments: Vec<String>) {
    let mark = Mark::new("node-0", &volume.id, kind, arguments).unwrap();
    mark.put(&volume.pool, &volume.id, &volume.header().await).await.unwrap();
}

/// The state that a kill leaves shortly before the end of mkfs: all is written
/// but the superblock (ext4), or the superblock says that mkfs is under way (XFS).
pub async fn nearly_made(volume: &Volume, kind: FsKind) {
    let arguments = mkfs_arguments(kind, "").await.unwrap();
    marked(volume, kind, arguments.clone()).await;
    let mut all: Vec<&str> = arguments.iter().map(String::as_str).collect();
    all.push(volume.device());
    run(kind.mkfs(), &all);
    match kind {
        FsKind::Xfs => volume.write(&[1], 126),
        _ => volume.write(&[0; 1024], 1024),
    }
}

#[tokio::test]
async fn only_what_the_mkfs_wrote_is_written_over() {
    if in_the_node("interrupted::only_what_the_mkfs_wrote_is_written_over") {
        return;
    }
    let pool = pool().await;
    for (kind, fs_type, features) in [(FsKind::Ext4, "ext4", MAPPED), (FsKind::Xfs, "xfs", PLAIN)] {
        let volume = Volume::new(&pool, "nearly", 300 * MIB, features).await;
        nearly_made(&volume, kind).await;
        assert_eq!(volume.make(Wish::default()).await.unwrap(), FsState::Created(kind));
        assert!(!volume.is_marked().await);
        volume.is_usable(fs_type);
        volume.done().await;

        let volume = Volume::new(&pool, "foreign", 300 * MIB, features).await;
        nearly_made(&volume, kind).await;
        let expected = foreseen(&volume, kind, "").await;
        let number = (1..75).find(|number| !expected.contains(number)).unwrap();
        volume.write(b"somebody's data", number * 4 * MIB);
        let error = volume.refused(Wish::default()).await;
        assert_eq!(error.kind, Kind::Precondition, "{error}");
        assert!(error.to_string().contains(&format!("{number:016x}")), "{error}");
        volume.done().await;
    }
    leave(pool).await;
}

async fn foreseen(volume: &Volume, kind: FsKind, mkfs_options: &str) -> BTreeSet<u64> {
    let header = volume.header().await;
    let arguments = mkfs_arguments(kind, mkfs_options).await.unwrap();
    let scratch = Path::new("/tmp");
    let ranges = foresight::written_by(kind, &arguments, &volume.device, header.size, scratch).await.unwrap();
    objects_of(&header, &ranges)
}

#[tokio::test]
async fn a_mark_alone_binds_nobody() {
    if in_the_node("interrupted::a_mark_alone_binds_nobody") {
        return;
    }
    let pool = pool().await;
    let volume = Volume::new(&pool, "marked", 400 * MIB, MAPPED).await;
    let arguments = mkfs_arguments(FsKind::Xfs, "").await.unwrap();
    let old = volume.header().await;
    marked(&volume, FsKind::Xfs, arguments.clone()).await;
    // Who has not seen it cannot replace it.
    let late = Mark::new("node-1", &volume.id, FsKind::Xfs, arguments).unwrap();
    let error = late.put(&volume.pool, &volume.id, &old).await.unwrap_err();
    assert_eq!(error.kind, Kind::Busy, "{error}");
    assert!(late.take_back(&volume.pool, &volume.id).await.is_err());
    assert_eq!(Mark::of(&volume.header().await).unwrap().unwrap().node, "node-0");
    assert_eq!(volume.make(Wish::of("ext4")).await.unwrap(), FsState::Created(FsKind::Ext4));
    assert!(!volume.is_marked().await);
    volume.done().await;
    leave(pool).await;
}

/// What is written between the proof and the mark is seen behind the mark.
#[cfg(feature = "fault-injection")]
#[tokio::test]
async fn a_writer_between_the_proof_and_the_mark_is_seen() {
    if in_the_node("interrupted::a_writer_between_the_proof_and_the_mark_is_seen") {
        return;
    }
    let pool = pool().await;
    let volume = Volume::new(&pool, "raced", 300 * MIB, PLAIN).await;
    let plan = std::env::temp_dir().join("raced.plan");
    std::fs::write(&plan, "delay=4000:before:metadata replace").unwrap();
    let trace = plan.with_extension("plan.trace");
    let other =
        elsewhere(&volume, "ext4").env("RBD_CSI_FAULTS", &plan).stderr(Stdio::piped()).spawn().unwrap();
    while !std::fs::read_to_string(&trace).is_ok_and(|steps| steps.contains("metadata replace")) {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    volume.write(b"somebody's data", 40 * MIB);
    let digest = volume.digest();
    let output = other.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("000000000000000a"), "{said}");
    assert_eq!(volume.digest(), digest);
    assert!(!volume.is_marked().await, "the mark would speak for somebody's data");
    volume.done().await;
    leave(pool).await;
}
