//! Volumes that grow while they are used, by whichever path the CO names.

use std::path::{Path, PathBuf};

use rbd_csi::host::mountinfo;
use rbd_csi::volume::Kind;
use rbd_csi::volume::capability::{AccessMode, Capability};
use rbd_csi::volume::request::Usage;

use super::driver::{Driver, block, file_system, mount};
use super::support::inside::run;
use super::support::volume::{Volume, refused};

const MIB: u64 = 1 << 20;

fn resize(volume: &Volume, mib: u64) {
    run(&format!("rbd resize --no-progress -s {mib}M {}", volume.image));
}

/// What its user sees: the bytes of the file system, or of the device.
fn seen(driver: &Driver, volume: &Volume) -> u64 {
    match driver.stats(volume, &volume.entry()).unwrap().usage.unwrap() {
        Usage::Filesystem { bytes, .. } => bytes.total,
        Usage::Block { total } => total,
    }
}

/// Grown twice, by each way to name the place, each by another driver and repeated.
fn grows(driver: &mut Driver, capability: &Capability, mib: u64) {
    let volume = driver.create(mib);
    driver.stage(&volume, capability).unwrap();
    let target = volume.target("one");
    driver.publish(&volume, &target, capability, false).unwrap();
    let nowhere = PathBuf::from("some/path");
    let ways: [(&Path, bool, bool); 5] = [
        (&target, true, true),
        (&target, false, false),
        (&volume.entry(), false, true),
        (&volume.staging, false, false),
        (&nowhere, true, false),
    ];
    let mut before = seen(driver, &volume);
    let mut size = mib;
    for (path, with_staging, with_capability) in ways {
        size += 64;
        resize(&volume, size);
        driver.restart();
        let capability = with_capability.then_some(capability);
        for _ in 0..2 {
            let given = driver.expand(&volume, path, with_staging, (size * MIB, 0), capability).unwrap();
            assert_eq!(given, size * MIB, "{path:?}");
        }
        let after = seen(driver, &volume);
        assert!(after > before + 50 * MIB && after <= size * MIB, "{path:?}: {before} {after}");
        before = after;
    }
    driver.unpublish(&volume, &target).unwrap();
    driver.unstage(&volume).unwrap();
    volume.is_gone();
}

#[test]
#[ignore = "runs inside a node"]
fn an_ext4_grows_in_use() {
    grows(&mut Driver::start(), &file_system("ext4"), 64);
}

#[test]
#[ignore = "runs inside a node"]
fn an_xfs_grows_in_use() {
    grows(&mut Driver::start(), &file_system("xfs"), 320);
}

#[test]
#[ignore = "runs inside a node"]
fn a_raw_device_grows_in_use() {
    grows(&mut Driver::start(), &block(AccessMode::SingleNodeMultiWriter), 16);
}

/// A writer that never pauses has all that it wrote and all of the new room.
#[test]
#[ignore = "runs inside a node"]
fn a_file_system_grows_under_a_writer() {
    for (fs_type, mib) in [("ext4", 64), ("xfs", 320)] {
        let driver = Driver::start();
        let (volume, capability) = (driver.create(mib), file_system(fs_type));
        driver.stage(&volume, &capability).unwrap();
        let (entry, before) = (volume.entry(), seen(&driver, &volume));
        let writer = format!(
            "exec 2>/dev/null; i=0; until [ -e /run/enough ]; do i=$((i+1)); \
             dd if=/dev/urandom of={0}/$i bs=64k count=8 conv=fsync || exit 1; \
             sha256sum {0}/$i >>/run/sums || exit 1; rm -f {0}/$((i-40)); done",
            entry.display()
        );
        run("rm -f /run/enough /run/sums");
        let mut writer = std::process::Command::new("sh").args(["-c", &writer]).spawn().unwrap();
        for step in 1..=4 {
            let size = mib + 32 * step;
            resize(&volume, size);
            driver.expand(&volume, &entry, true, (size * MIB, 0), None).unwrap();
        }
        run("sleep 1; touch /run/enough");
        assert!(writer.wait().unwrap().success(), "the writer met an error");
        let checked = run("tail -n 30 /run/sums | sha256sum -c --quiet && tail -n 30 /run/sums | wc -l");
        println!("{fs_type}: {checked} files checked of {}", run("wc -l </run/sums"));
        assert!(seen(&driver, &volume) > before + 100 * MIB);
        driver.unstage(&volume).unwrap();
        let check = if fs_type == "xfs" { "xfs_repair -n" } else { "e2fsck -f -n" };
        let device = run(&format!("rbd map -o noudev {}", volume.image));
        run(&format!("{check} {device}; rbd unmap -o noudev {device}"));
        volume.is_gone();
    }
}

#[test]
#[ignore = "runs inside a node"]
fn what_is_read_only_has_nothing_to_grow() {
    let driver = Driver::start();
    for (fs_type, mib) in [("ext4", 64), ("xfs", 320)] {
        let (volume, writer) = (driver.create(mib), file_system(fs_type));
        driver.stage(&volume, &writer).unwrap();
        // A pod's read-only view of it grows with it.
        let target = volume.target("reader");
        driver.publish(&volume, &target, &writer, true).unwrap();
        let before = seen(&driver, &volume);
        resize(&volume, mib + 64);
        driver.expand(&volume, &target, false, ((mib + 64) * MIB, 0), None).unwrap();
        assert!(seen(&driver, &volume) > before + 50 * MIB);
        driver.unpublish(&volume, &target).unwrap();
        driver.unstage(&volume).unwrap();
        let mut size = mib + 64;
        for reader in [
            mount(fs_type, &[], AccessMode::SingleNodeReaderOnly),
            mount(fs_type, &["ro"], AccessMode::SingleNodeWriter),
        ] {
            driver.stage(&volume, &reader).unwrap();
            let before = seen(&driver, &volume);
            size += 64;
            resize(&volume, size);
            driver.expand(&volume, &volume.entry(), true, (size * MIB, 0), Some(&reader)).unwrap();
            assert_eq!(seen(&driver, &volume), before);
            assert!(mountinfo::at(&volume.entry()).unwrap().unwrap().read_only);
            driver.unstage(&volume).unwrap();
            volume.is_gone();
        }
    }
}

/// What has no watch, and what is not told, sees the new size all the same.
#[test]
#[ignore = "runs inside a node"]
fn the_kernel_is_told_where_it_does_not_hear() {
    let driver = Driver::start();
    let reader = block(AccessMode::MultiNodeReaderOnly);
    let volume = driver.create(16);
    driver.stage(&volume, &reader).unwrap();
    resize(&volume, 32);
    assert_eq!(
        driver.expand(&volume, &volume.entry(), true, (32 * MIB, 0), Some(&reader)).unwrap(),
        32 * MIB
    );
    assert_eq!(seen(&driver, &volume), 32 * MIB);
    driver.unstage(&volume).unwrap();

    let volume = driver.create(32);
    // krbd stops the kernel when an object is not in its object map.
    run(&format!("rbd feature disable {} fast-diff object-map", volume.image));
    driver.stage(&volume, &file_system("ext4")).unwrap();
    driver.set_size_silently(&volume, 96 * MIB);
    assert_eq!(volume.mappings()[0].size, 32 * MIB, "nobody has told the kernel");
    // No size is asked for: all that there is.
    assert_eq!(driver.expand(&volume, &volume.entry(), true, (0, 0), None).unwrap(), 96 * MIB);
    assert!(seen(&driver, &volume) > 80 * MIB);
    driver.unstage(&volume).unwrap();
    volume.is_gone();
}

#[test]
#[ignore = "runs inside a node"]
fn what_cannot_grow_says_why() {
    let driver = Driver::start();
    let (volume, capability) = (driver.create(32), file_system("ext4"));
    let entry = volume.entry();
    let expand = |range, capability| driver.expand(&volume, &entry, true, range, capability);
    refused(expand((0, 0), None), Kind::NotFound, &[&volume.id, "nothing is mounted there"]);
    driver.stage(&volume, &capability).unwrap();
    let other = driver.create(32);
    refused(driver.expand(&other, &entry, false, (0, 0), None), Kind::NotFound, &[&other.id, &volume.image]);
    let nowhere = Path::new("some/path");
    refused(driver.expand(&volume, nowhere, false, (0, 0), None), Kind::NotFound, &["some/path"]);
    refused(driver.expand(&volume, Path::new("/proc"), false, (0, 0), None), Kind::NotFound, &["/proc"]);
    let (raw, xfs) = (block(AccessMode::SingleNodeWriter), file_system("xfs"));
    refused(expand((0, 0), Some(&raw)), Kind::InvalidArgument, &["a file system"]);
    refused(expand((0, 0), Some(&xfs)), Kind::InvalidArgument, &["ext4"]);
    refused(expand((0, 32 * MIB - 1), None), Kind::OutOfRange, &["33554432", "33554431"]);
    assert_eq!(expand((1, 32 * MIB), None).unwrap(), 32 * MIB);
    // The controller has not been there.
    let error = driver.expand_within(&volume, &entry, 4, 64 * MIB);
    refused(error, Kind::Unavailable, &["67108864", "33554432", &volume.image]);
    driver.unstage(&volume).unwrap();
    refused(expand((0, 0), None), Kind::NotFound, &["nothing is mounted there"]);

    // An ext4 without what growing online needs.
    let volume = driver.create(64);
    let mut odd = volume.clone();
    odd.context.insert("mkfsOptions".into(), "-O sparse_super2,^resize_inode".into());
    driver.stage(&odd, &capability).unwrap();
    resize(&volume, 128);
    let answer = driver.expand(&volume, &volume.entry(), true, (128 * MIB, 0), None);
    refused(answer, Kind::Precondition, &["cannot grow while it is mounted", "resize2fs"]);
    driver.unstage(&volume).unwrap();
}
