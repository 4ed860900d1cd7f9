//! Volumes that live as they should.

use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rbd_csi::host::mountinfo;
use rbd_csi::node::mapping::MapWith;
use rbd_csi::volume::Kind;
use rbd_csi::volume::capability::{AccessMode, Capability};
use rbd_csi::volume::request::Usage;
use uuid::Uuid;

use super::driver::{Driver, block, file_system, mount};
use super::support::inside::{run, variable};
use super::support::volume::{Volume, refused};

#[test]
#[ignore = "runs inside a node"]
fn ext4_from_stage_to_unstage() {
    let mut driver = Driver::start();
    let volume = driver.create(64);
    let capability = mount("ext4", &["noatime,_netdev"], AccessMode::SingleNodeMultiWriter);
    driver.stage(&volume, &capability).unwrap();
    let staged = mountinfo::at(&volume.entry()).unwrap().unwrap();
    assert_eq!(staged.fs_type, "ext4");
    assert_eq!(volume.stash().metadata().unwrap().permissions().mode() & 0o777, 0o600);
    let stash = std::fs::read_to_string(volume.stash()).unwrap();
    assert_eq!(
        stash,
        format!(
            r#"{{"Version":3,"pool":"rbd","radosNamespace":"","image":"{}","unmapOptions":"","accessType":false,"encrypted":false,"device":"","logDir":"","logFileStrategy":"","fsid":"{}","imageId":"{}"}}"#,
            volume.image,
            volume.mappings()[0].cluster_fsid,
            volume.mappings()[0].image_id
        )
    );
    assert!(run(&format!("grep ' {} ' /proc/self/mountinfo", volume.entry().display())).contains("noatime"));

    // The same again, also for a driver that knows nothing.
    driver.restart();
    driver.stage(&volume, &capability).unwrap();
    assert_eq!(mountinfo::at(&volume.entry()).unwrap().unwrap(), staged);
    assert_eq!(volume.mappings().len(), 1);
    refused(driver.stage(&volume, &file_system("xfs")), Kind::AlreadyExists, &["ext4"]);
    refused(
        driver.stage(&volume, &block(AccessMode::SingleNodeWriter)),
        Kind::AlreadyExists,
        &["file system"],
    );

    // Two pods and a reader.
    driver.restart();
    let (one, two, reader) = (volume.target("one"), volume.target("two"), volume.target("reader"));
    driver.publish(&volume, &one, &capability, false).unwrap();
    driver.publish(&volume, &one, &capability, false).unwrap();
    let plain = file_system("");
    driver.publish(&volume, &two, &plain, false).unwrap();
    driver.publish(&volume, &reader, &capability, true).unwrap();
    driver.publish(&volume, &reader, &capability, true).unwrap();
    refused(driver.publish(&volume, &one, &capability, true), Kind::AlreadyExists, &["writable"]);
    refused(driver.publish(&volume, &reader, &capability, false), Kind::AlreadyExists, &["read-only"]);
    std::fs::write(one.join("file"), "written").unwrap();
    assert_eq!(std::fs::read_to_string(two.join("file")).unwrap(), "written");
    assert_eq!(std::fs::read_to_string(reader.join("file")).unwrap(), "written");
    let denied = std::fs::write(reader.join("file"), "x").unwrap_err();
    assert_eq!(denied.raw_os_error(), Some(libc::EROFS));

    // Figures.
    let health = driver.stats(&volume, &one).unwrap();
    let Some(Usage::Filesystem { bytes, inodes }) = health.usage else { panic!("{health:?}") };
    assert!(bytes.total > 40 << 20 && bytes.total < 64 << 20 && bytes.available > 0, "{bytes:?}");
    assert!(inodes.total > 0 && inodes.used >= 12, "{inodes:?}");
    assert!(driver.stats(&volume, &volume.entry()).unwrap().usage.is_some());

    // Down again, each step twice.
    let listed = [one.to_str().unwrap(), two.to_str().unwrap(), reader.to_str().unwrap()];
    refused(driver.unstage(&volume), Kind::InUse, &listed);
    assert!(mountinfo::at(&volume.entry()).unwrap().is_some());
    for target in [&one, &two, &reader] {
        driver.unpublish(&volume, target).unwrap();
        assert!(!target.exists());
        driver.unpublish(&volume, target).unwrap();
        driver.restart();
    }
    driver.unstage(&volume).unwrap();
    volume.is_gone();
    driver.unstage(&volume).unwrap();

    // What was written is there, and the file system is not made anew.
    driver.stage(&volume, &capability).unwrap();
    assert_eq!(std::fs::read_to_string(volume.entry().join("file")).unwrap(), "written");
    driver.unstage(&volume).unwrap();
    volume.is_gone();
}

#[test]
#[ignore = "runs inside a node"]
fn xfs_grows_with_its_image() {
    let mut driver = Driver::start();
    let volume = driver.create(512);
    driver.stage(&volume, &file_system("xfs")).unwrap();
    let size = || {
        let Some(Usage::Filesystem { bytes, .. }) = driver.stats(&volume, &volume.entry()).unwrap().usage
        else {
            panic!("no figures")
        };
        bytes.total
    };
    let before = size();
    std::fs::write(volume.entry().join("file"), "written").unwrap();
    driver.unstage(&volume).unwrap();
    run(&format!("rbd resize --no-progress -s 640M {}", volume.image));
    driver.stage(&volume, &file_system("xfs")).unwrap();
    assert!(size() > before + (100 << 20), "{before} {}", size());
    assert_eq!(std::fs::read_to_string(volume.entry().join("file")).unwrap(), "written");
    // Nothing is asked for: what is there is taken, and a repeat grows no further.
    driver.stage(&volume, &file_system("")).unwrap();
    driver.restart();
    driver.unstage(&volume).unwrap();
    driver.stage(&volume, &mount("", &[], AccessMode::SingleNodeReaderOnly)).unwrap();
    let staged = mountinfo::at(&volume.entry()).unwrap().unwrap();
    assert!(staged.fs_type == "xfs" && staged.read_only_filesystem && volume.mappings()[0].read_only);
    refused(driver.stage(&volume, &file_system("xfs")), Kind::AlreadyExists, &["read-only"]);
    driver.unstage(&volume).unwrap();
    volume.is_gone();
}

#[test]
#[ignore = "runs inside a node"]
fn a_raw_device_is_a_file_of_the_node() {
    let mut driver = Driver::start();
    let volume = driver.create(16);
    let capability = block(AccessMode::SingleNodeWriter);
    driver.stage(&volume, &capability).unwrap();
    driver.stage(&volume, &capability).unwrap();
    let number = volume.mappings()[0].device().metadata().unwrap().rdev();
    let of = |path: &Path| {
        let file = path.metadata().unwrap();
        assert!(file.file_type().is_block_device());
        file.rdev()
    };
    assert_eq!(of(&volume.entry()), number);
    driver.restart();
    let (one, two) = (volume.target("one"), volume.target("two"));
    driver.publish(&volume, &one, &capability, false).unwrap();
    driver.publish(&volume, &one, &capability, false).unwrap();
    driver.publish(&volume, &two, &capability, false).unwrap();
    assert_eq!((of(&one), of(&two)), (number, number));
    run(&format!("printf pattern | dd of={} conv=notrunc,fsync status=none", one.display()));
    assert_eq!(run(&format!("head -c 7 {}", two.display())), "pattern");
    let health = driver.stats(&volume, &one).unwrap();
    assert_eq!(health.usage, Some(Usage::Block { total: 16 << 20 }));
    refused(
        driver.publish(&volume, &volume.target("dir"), &file_system("ext4"), false),
        Kind::Precondition,
        &["block device"],
    );
    refused(driver.unstage(&volume), Kind::InUse, &[one.to_str().unwrap(), two.to_str().unwrap()]);
    for target in [&one, &two, &volume.target("dir")] {
        driver.unpublish(&volume, target).unwrap();
        assert!(!target.exists());
    }
    driver.unstage(&volume).unwrap();
    volume.is_gone();
    // It has data now, and is never formatted.
    refused(driver.stage(&volume, &file_system("ext4")), Kind::Precondition, &["not blank", &volume.image]);
    volume.is_gone();
    let data = run(&format!("rbd export --no-progress {} - | head -c 7", volume.image));
    assert_eq!(data, "pattern");
}

#[test]
#[ignore = "runs inside a node"]
fn either_mapper_takes_down_what_the_other_has_staged() {
    let mut driver = Driver::start();
    let (volume, capability) = (driver.create(64), file_system("ext4"));
    driver.stage(&volume, &capability).unwrap();
    driver.unstage(&volume).unwrap();
    for (up, down) in [(MapWith::Kernel, MapWith::Rbd), (MapWith::Rbd, MapWith::Kernel)] {
        driver.restart_with(up);
        let since = Instant::now();
        driver.stage(&volume, &capability).unwrap();
        println!("staged with {up:?} in {:?}", since.elapsed());
        driver.stage(&volume, &capability).unwrap();
        assert_eq!(volume.mappings().len(), 1);
        driver.restart_with(down);
        driver.stage(&volume, &capability).unwrap();
        driver.unstage(&volume).unwrap();
        volume.is_gone();
    }
}

#[test]
#[ignore = "runs inside a node"]
fn one_writer_has_one_place() {
    let driver = Driver::start();
    for capability in
        [mount("ext4", &[], AccessMode::SingleNodeSingleWriter), block(AccessMode::SingleNodeSingleWriter)]
    {
        let volume = driver.create(32);
        has_one_place(&driver, &volume, &capability);
    }
}

#[test]
#[ignore = "runs inside a node"]
fn one_reader_has_one_place() {
    let driver = Driver::start();
    let volume = driver.create(32);
    // Somebody has written it before.
    driver.stage(&volume, &file_system("ext4")).unwrap();
    driver.unstage(&volume).unwrap();
    has_one_place(&driver, &volume, &mount("ext4", &[], AccessMode::SingleNodeReaderOnly));
    has_one_place(&driver, &driver.create(32), &block(AccessMode::SingleNodeReaderOnly));
}

/// A second target is refused while there is the first one.
fn has_one_place(driver: &Driver, volume: &Volume, capability: &Capability) {
    driver.stage(volume, capability).unwrap();
    let (one, two) = (volume.target("one"), volume.target("two"));
    driver.publish(volume, &one, capability, false).unwrap();
    driver.publish(volume, &one, capability, false).unwrap();
    let words = [one.to_str().unwrap(), capability.mode.name()];
    refused(driver.publish(volume, &two, capability, false), Kind::Precondition, &words);
    assert!(!two.exists());
    driver.unpublish(volume, &one).unwrap();
    driver.publish(volume, &two, capability, false).unwrap();
    driver.unpublish(volume, &two).unwrap();
    driver.unstage(volume).unwrap();
    volume.is_gone();
}

const BEFORE: Uuid = Uuid::from_u128(0x1111_0000_0000_4000_8000_0000_0000_0001);

fn kept() -> PathBuf {
    Path::new(&variable("LAB_DIR")).join("kubelet")
}

#[test]
#[ignore = "runs inside a node"]
fn before_the_reboot() {
    let driver = Driver::start_at(&kept());
    let volume = driver.create_as(BEFORE, 64);
    driver.stage(&volume, &file_system("ext4")).unwrap();
    let target = volume.target("one");
    driver.publish(&volume, &target, &file_system("ext4"), false).unwrap();
    run(&format!("echo written >{}/file; sync", target.display()));
}

#[test]
#[ignore = "runs inside a node"]
fn after_the_reboot() {
    let driver = Driver::start_at(&kept());
    let (volume, capability) = (driver.volume(BEFORE), file_system("ext4"));
    let target = volume.target("one");
    assert!(volume.entry().is_dir() && volume.stash().exists() && target.is_dir(), "the disk is as before");
    refused(
        driver.publish(&volume, &target, &capability, false),
        Kind::Precondition,
        &["not staged", "nothing is mounted"],
    );
    refused(driver.stats(&volume, &target), Kind::NotFound, &["nothing is mounted"]);
    assert_eq!(std::fs::read_dir(&target).unwrap().count(), 0);
    driver.stage(&volume, &capability).unwrap();
    driver.publish(&volume, &target, &capability, false).unwrap();
    assert_eq!(std::fs::read_to_string(target.join("file")).unwrap(), "written\n");
    driver.unpublish(&volume, &target).unwrap();
    driver.unstage(&volume).unwrap();
    volume.is_gone();
}

fn ask(wish: &str, answer: &str) {
    let ready = PathBuf::from(variable("READY"));
    std::fs::write(ready.with_extension(wish), "").unwrap();
    let until = Instant::now() + Duration::from_secs(60);
    while !ready.with_extension(answer).exists() {
        assert!(Instant::now() < until, "no answer to {wish}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
#[ignore = "runs inside a node"]
fn cut_off_and_back() {
    let driver = Driver::start();
    let (volume, other) = (driver.create(64), driver.create(64));
    let capability = file_system("ext4");
    driver.stage(&other, &capability).unwrap();
    let target = other.target("one");
    // Staging cannot go on; what needs no cluster does.
    ask("cut", "is-cut");
    let since = Instant::now();
    refused(driver.stage_within(&volume, &capability, 6), Kind::Timeout, &["NodeStageVolume"]);
    assert!(since.elapsed() < Duration::from_secs(8), "{:?}", since.elapsed());
    let since = Instant::now();
    driver.publish(&other, &target, &capability, false).unwrap();
    driver.stats(&other, &target).unwrap();
    driver.unpublish(&other, &target).unwrap();
    assert!(since.elapsed() < Duration::from_secs(5), "{:?}", since.elapsed());
    ask("join", "is-joined");
    let until = Instant::now() + Duration::from_secs(120);
    while let Err(error) = driver.stage_within(&volume, &capability, 30) {
        assert!(matches!(error.kind, Kind::Timeout | Kind::Unavailable | Kind::Busy), "{error}");
        assert!(Instant::now() < until, "{error}");
        std::thread::sleep(Duration::from_secs(1));
    }
    // An umount has something to write, and waits.
    run(&format!("head -c 1000000 /dev/urandom >{}/file", volume.entry().display()));
    ask("cut-again", "is-cut-again");
    let since = Instant::now();
    let error = refused(driver.unstage_within(&volume, 6), Kind::Timeout, &["unmounting"]);
    assert!(since.elapsed() < Duration::from_secs(8), "{error}");
    driver.stats(&other, &other.entry()).unwrap();
    ask("join-again", "is-joined-again");
    let until = Instant::now() + Duration::from_secs(120);
    while let Err(error) = driver.unstage_within(&volume, 30) {
        assert!(matches!(error.kind, Kind::Timeout | Kind::Unavailable | Kind::Busy), "{error}");
        assert!(Instant::now() < until, "{error}");
        std::thread::sleep(Duration::from_secs(1));
    }
    volume.is_gone();
    driver.unstage(&other).unwrap();
    other.is_gone();
}
