//! What is not blank is never formatted, and stays as it is to the byte.

use rbd_csi::ceph::{Features, ImageSpec, Pool, WriteOp};
use rbd_csi::volume::{Error, Kind};

use crate::in_the_node;
use crate::volume::{MAPPED, MIB, PLAIN, Volume, Wish, leave, pool, run};

/// Fills an image and calls for a file system on it, which must be refused.
async fn refused(pool: &Pool, what: &str, features: &str, wish: Wish, fill: impl Fn(&Volume)) -> Error {
    let volume = Volume::new(pool, what, 64 * MIB, features).await;
    fill(&volume);
    let error = volume.refused(wish).await;
    println!("{what}: {error}");
    volume.done().await;
    error
}

#[tokio::test]
async fn what_has_a_signature_is_not_formatted() {
    if in_the_node("foreign::what_has_a_signature_is_not_formatted") {
        return;
    }
    let pool = pool().await;
    for (features, fs_type) in [(PLAIN, ""), (MAPPED, "xfs")] {
        let says = async |what, fill: &dyn Fn(&Volume), words: &str| {
            let error = refused(&pool, what, features, Wish::of(fs_type), fill).await;
            assert_eq!(error.kind, Kind::Precondition, "{error}");
            assert!(error.to_string().contains(words), "{error}");
        };
        says("swap", &|volume| drop(run("mkswap", &[volume.device()])), "swap").await;
        says("table", &partition_table, "partition table of type dos").await;
        says("luks", &luks, "crypto_LUKS").await;
        says("lvm", &lvm, "LVM2_member").await;
        says("vfat", &|volume| drop(run("mkfs.vfat", &[volume.device()])), "vfat").await;
        let btrfs = ["--quiet", "--mixed", "--nodiscard"];
        says("btrfs", &|volume| drop(run("mkfs.btrfs", &[&btrfs[..], &[volume.device()]].concat())), "btrfs")
            .await;
    }
    let ext4 = |volume: &Volume| drop(run("mkfs.ext4", &["-q", volume.device()]));
    let error = refused(&pool, "ext4", PLAIN, Wish::of("xfs"), ext4).await;
    assert!(error.to_string().contains("type ext4, but xfs is asked for"), "{error}");
    leave(pool).await;
}

fn partition_table(volume: &Volume) {
    let mut sector = [0; 512];
    sector[446..462].copy_from_slice(&[0, 0, 2, 0, 0x83, 0, 2, 0, 0, 8, 0, 0, 0, 16, 0, 0]);
    sector[510..].copy_from_slice(&[0x55, 0xaa]);
    volume.write(&sector, 0);
}

fn luks(volume: &Volume) {
    let key = "/tmp/luks-key";
    std::fs::write(key, "a passphrase of a test").unwrap();
    let format =
        "cryptsetup -q luksFormat --type luks2 --pbkdf pbkdf2 --pbkdf-force-iterations 1000 --key-file";
    run("sh", &["-c", &format!("modprobe dm-crypt; {format} {key} {}", volume.device())]);
}

/// A physical volume's label (lvm2's `format_text/layout.h`).
fn lvm(volume: &Volume) {
    let mut sector = [0; 512];
    sector[..8].copy_from_slice(b"LABELONE");
    sector[8] = 1; // its own sector number
    sector[20] = 32; // where the header begins
    sector[24..32].copy_from_slice(b"LVM2 001");
    sector[32..64].copy_from_slice(b"0123456789abcdefghijklmnopqrstuv");
    volume.write(&sector, 512);
}

#[tokio::test]
async fn what_has_no_signature_but_data_is_not_formatted() {
    if in_the_node("foreign::what_has_no_signature_but_data_is_not_formatted") {
        return;
    }
    let pool = pool().await;
    for features in [PLAIN, MAPPED] {
        let database = |volume: &Volume| volume.write(&[0xdb; 8192], 50 * MIB);
        let error = refused(&pool, "database", features, Wish::default(), database).await;
        assert_eq!(error.kind, Kind::Precondition, "{error}");
        assert!(error.to_string().contains("holds 1 data objects"), "{error}");
        assert!(error.to_string().contains(".000000000000000c)"), "{error}");

        // Its magic is gone, its backups are not.
        let headless = |volume: &Volume| {
            run("mkfs.ext4", &["-q", volume.device()]);
            volume.write(&[0; 2], 1024 + 0x38);
        };
        let error = refused(&pool, "headless", features, Wish::default(), headless).await;
        assert!(error.to_string().contains("not blank"), "{error}");
    }
    leave(pool).await;
}

/// An object map that says of nothing that it exists, in the place of the true one.
async fn replace_object_map(volume: &Volume, size: u64) {
    let Volume { pool, .. } = volume;
    let features = Some(Features::parse(MAPPED).unwrap());
    pool.create_image("blank", &ImageSpec { size, features, ..ImageSpec::default() }).await.unwrap();
    let blank = pool.image_id("blank").await.unwrap().unwrap();
    run("rados", &["-p", "rbd", "cp", &blank.object_map_object(), &volume.id.object_map_object()]);
    pool.trash_move("blank", &blank).await.unwrap();
    pool.purge(&blank).await.unwrap();
    assert_eq!(pool.object_map(&volume.id).await.unwrap().unwrap().existing().count(), 0, "it is a lie");
}

/// Sets the header's flags; 1 is that the object map is invalid.
async fn set_flags(volume: &Volume, flags: u64) {
    let op = WriteOp::new().omap_set([("flags", flags.to_le_bytes())]);
    volume.pool.write("prepare", &volume.id.header_object(), op).await.unwrap();
    assert_eq!(volume.header().await.flags, flags);
}

#[tokio::test]
async fn an_object_map_that_may_lie_is_not_believed() {
    if in_the_node("foreign::an_object_map_that_may_lie_is_not_believed") {
        return;
    }
    let pool = pool().await;
    for (case, flags, size) in [("invalid", 1, 64 * MIB), ("too short", 0, 32 * MIB)] {
        let volume = Volume::new(&pool, "database", 64 * MIB, MAPPED).await;
        volume.write(&[0xdb; 8192], 50 * MIB);
        replace_object_map(&volume, size).await;
        set_flags(&volume, flags).await;
        let error = volume.refused(Wish::default()).await;
        assert_eq!(error.kind, Kind::Precondition, "{case}: {error}");
        assert!(error.to_string().contains("holds 1 data objects"), "{case}: {error}");
        // Nothing else than the flag, or the length, has kept it from being formatted. The
        // kernel has to read the new map, too, or it refuses its updates.
        volume.unmap();
        set_flags(&volume, 0).await;
        replace_object_map(&volume, 64 * MIB).await;
        let volume = Volume::existing(&pool, "database", "").await;
        volume.make(Wish::default()).await.unwrap();
        volume.done().await;
    }
    leave(pool).await;
}

#[tokio::test]
async fn a_damaged_file_system_is_neither_formatted_nor_mounted() {
    if in_the_node("foreign::a_damaged_file_system_is_neither_formatted_nor_mounted") {
        return;
    }
    let pool = pool().await;
    let damaged = |volume: &Volume| {
        run("mkfs.ext4", &["-q", volume.device()]);
        volume.write(&[0xff; 64], 1024 + 0x88); // the superblock's checksum covers this
    };
    let error = refused(&pool, "checksum", PLAIN, Wish::default(), damaged).await;
    assert!(error.to_string().contains("e2fsck"), "{error}");

    // Here e2fsck repairs what it may before it says that the rest needs a person.
    let volume = Volume::new(&pool, "rootless", 64 * MIB, PLAIN).await;
    run("mkfs.ext4", &["-q", volume.device()]);
    std::fs::write("/tmp/debugfs", "clri <2>\nset_super_value state 2\n").unwrap();
    run("debugfs", &["-w", "-f", "/tmp/debugfs", volume.device()]);
    let uuid = run("blkid", &["-p", "-s", "UUID", volume.device()]);
    let error = volume.make(Wish::default()).await.unwrap_err();
    assert_eq!(error.kind, Kind::Precondition, "{error}");
    assert!(error.to_string().contains("e2fsck -f"), "{error}");
    assert_eq!(
        run("blkid", &["-p", "-s", "UUID", volume.device()]),
        uuid,
        "it is still the same file system"
    );
    volume.done().await;
    leave(pool).await;
}

#[tokio::test]
async fn what_may_not_be_formatted_is_not() {
    if in_the_node("foreign::what_may_not_be_formatted_is_not") {
        return;
    }
    let pool = pool().await;
    let nothing = |_: &Volume| ();
    let wish = Wish { is_static: true, ..Wish::default() };
    let error = refused(&pool, "static", PLAIN, wish, nothing).await;
    assert!(error.to_string().contains("static volume is never formatted"), "{error}");
    let wish = Wish { read_only: true, ..Wish::default() };
    assert!(refused(&pool, "read-only", PLAIN, wish, nothing).await.to_string().contains("read-only"));
    leave(pool).await;
}
