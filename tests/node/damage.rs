//! File systems that are not as they should be: damaged, too new, gone read-only, not growing.
//! What is wrong is said, nothing is made worse, and what can be used is used.

use std::path::Path;
use std::time::Duration;

use rbd_csi::volume::Kind;
use rbd_csi::volume::capability::AccessMode;

use super::driver::{Driver, file_system, mount};
use super::support::inside::run;
use super::support::volume::{Volume, refused};

fn device(volume: &Volume) -> String {
    volume.mappings()[0].device().display().to_string()
}

/// What the image holds, as far as it was written.
fn content(volume: &Volume) -> String {
    run(&format!("rbd export --no-progress rbd/{} - | md5sum", volume.image))
}

/// A file system whose last writer died: what it had synced is in the journal.
fn abandoned(driver: &Driver, fs_type: &str) -> Volume {
    let volume = driver.create(300);
    driver.stage(&volume, &file_system(fs_type)).unwrap();
    std::fs::write(volume.entry().join("file"), "synced").unwrap();
    run(&format!("sync; rbd unmap -o noudev,force {}", device(&volume)));
    driver.unstage(&volume).unwrap();
    volume.is_gone();
    volume
}

#[test]
#[ignore = "runs inside a node"]
fn who_looks_without_the_journal_changes_nothing() {
    let driver = Driver::start();
    for (fs_type, option) in [("ext4", "noload"), ("xfs", "norecovery")] {
        let volume = abandoned(&driver, fs_type);
        let before = content(&volume);
        for capability in [
            mount(fs_type, &["ro", option], AccessMode::SingleNodeWriter),
            mount(fs_type, &[option], AccessMode::MultiNodeReaderOnly),
        ] {
            for _ in 0..2 {
                driver.stage(&volume, &capability).unwrap();
            }
            assert!(volume.mappings()[0].read_only, "{fs_type}: {capability:?}");
            driver.unstage(&volume).unwrap();
            volume.is_gone();
        }
        assert_eq!(content(&volume), before, "{fs_type}: nothing was written");
        let writer = mount(fs_type, &[option], AccessMode::SingleNodeWriter);
        refused(driver.stage(&volume, &writer), Kind::InvalidArgument, &[option, "only together with ro"]);
        // With the journal, what was synced is there.
        driver.stage(&volume, &file_system(fs_type)).unwrap();
        assert_eq!(std::fs::read_to_string(volume.entry().join("file")).unwrap(), "synced");
        driver.unstage(&volume).unwrap();
        volume.is_gone();
    }
}

#[test]
#[ignore = "runs inside a node"]
fn a_too_new_file_system_is_not_called_damaged() {
    let driver = Driver::start();
    let volume = driver.create(32);
    driver.stage(&volume, &file_system("ext4")).unwrap();
    driver.unstage(&volume).unwrap();
    let image = &volume.image;
    let on_device = |work: &str| {
        run(&format!("d=$(rbd map -o noudev rbd/{image}) && {work}; rbd unmap -o noudev $d"));
    };
    // A feature that nobody has yet, and not cleanly unmounted, so that it is checked.
    on_device("debugfs -w -R 'ssv state 0' $d && debugfs -w -R 'ssv feature_incompat 0x800002c2' $d");
    let error = refused(
        driver.stage(&volume, &file_system("ext4")),
        Kind::Precondition,
        &["does not know", "newer e2fsprogs", image],
    );
    assert!(!error.to_string().contains("backup"), "{error}");
    volume.is_gone();
}

#[test]
#[ignore = "runs inside a node"]
fn a_file_system_that_cannot_grow_is_used_as_it_is() {
    let driver = Driver::start();
    let mut volume = driver.create(64);
    volume.context.insert("mkfsOptions".into(), "-O sparse_super2,^resize_inode".into());
    let capability = file_system("ext4");
    driver.stage(&volume, &capability).unwrap();
    driver.unstage(&volume).unwrap();
    run(&format!("rbd resize --no-progress --size 128M rbd/{}", volume.image));
    // Once when it is mounted, once when it is there already.
    for _ in 0..2 {
        driver.stage(&volume, &capability).unwrap();
        std::fs::write(volume.entry().join("file"), "used").unwrap();
    }
    driver.unstage(&volume).unwrap();
    volume.is_gone();
}

#[test]
#[ignore = "runs inside a node"]
fn one_that_went_read_only_is_told_and_goes_to_no_further_pod() {
    let driver = Driver::start();
    let volume = driver.create(64);
    let capability = mount("ext4", &["errors=remount-ro"], AccessMode::SingleNodeMultiWriter);
    driver.stage(&volume, &capability).unwrap();
    let (one, two, reader) = (volume.target("one"), volume.target("two"), volume.target("reader"));
    driver.publish(&volume, &one, &capability, false).unwrap();
    driver.publish(&volume, &reader, &capability, true).unwrap();
    for path in [&one, &reader, &volume.entry()] {
        assert_eq!(driver.stats(&volume, path).unwrap().trouble, None);
    }
    let name = device(&volume).trim_start_matches("/dev/").to_owned();
    run(&format!("echo lost > /sys/fs/ext4/{name}/trigger_fs_error"));
    let refused_write = std::fs::write(one.join("file"), "x").unwrap_err();
    assert_eq!(refused_write.raw_os_error(), Some(libc::EROFS), "the kernel has stopped writes");
    let health = driver.stats(&volume, &one).unwrap();
    assert!(health.trouble.as_ref().is_some_and(|trouble| trouble.contains("gone read-only")), "{health:?}");
    assert!(health.usage.is_some(), "it can still be read");
    refused(driver.publish(&volume, &two, &capability, false), Kind::Precondition, &["gone read-only"]);
    assert!(!two.exists());
    for target in [&one, &reader] {
        driver.unpublish(&volume, target).unwrap();
    }
    // Unstaged and staged, it is checked and writable again.
    driver.unstage(&volume).unwrap();
    driver.stage(&volume, &capability).unwrap();
    driver.publish(&volume, &two, &capability, false).unwrap();
    std::fs::write(two.join("file"), "written").unwrap();
    driver.unpublish(&volume, &two).unwrap();
    driver.unstage(&volume).unwrap();
    volume.is_gone();
}

#[test]
#[ignore = "runs inside a node"]
fn a_device_that_is_gone_is_the_volume_s_trouble() {
    let driver = Driver::start();
    let volume = driver.create(64);
    let capability = file_system("ext4");
    driver.stage(&volume, &capability).unwrap();
    let target = volume.target("pod");
    driver.publish(&volume, &target, &capability, false).unwrap();
    run(&format!("rbd unmap -o noudev,force {}", device(&volume)));
    let health = driver.stats(&volume, &target).unwrap();
    assert!(health.trouble.as_ref().is_some_and(|trouble| trouble.contains("gone")), "{health:?}");
    driver.unpublish(&volume, &target).unwrap();
    driver.unstage(&volume).unwrap();
    volume.is_gone();
}

/// By ext's default the kernel goes on after an error: pods do, too, and it is told.
#[test]
#[ignore = "runs inside a node"]
fn an_error_in_a_file_system_is_told() {
    let driver = Driver::start();
    let (volume, capability) = (driver.create(64), file_system("ext4"));
    driver.stage(&volume, &capability).unwrap();
    let name = device(&volume).trim_start_matches("/dev/").to_owned();
    run(&format!("echo met > /sys/fs/ext4/{name}/trigger_fs_error"));
    let health = driver.stats(&volume, &volume.entry()).unwrap();
    assert!(health.trouble.as_ref().is_some_and(|trouble| trouble.contains("1 error(s)")), "{health:?}");
    let target = volume.target("pod");
    driver.publish(&volume, &target, &capability, false).unwrap();
    std::fs::write(target.join("file"), "written").unwrap();
    driver.unpublish(&volume, &target).unwrap();
    driver.unstage(&volume).unwrap();
    // It was marked for a check, which is made before it is mounted again.
    driver.stage(&volume, &capability).unwrap();
    assert_eq!(driver.stats(&volume, &volume.entry()).unwrap().trouble, None);
    driver.unstage(&volume).unwrap();
    volume.is_gone();
}

/// statfs of a volume's path holds its mount for as long as it lasts.
#[test]
#[ignore = "runs inside a node"]
fn who_looks_for_a_moment_is_waited_for() {
    use std::os::unix::fs::OpenOptionsExt as _;
    let driver = Driver::start();
    let volume = driver.create(32);
    let capability = file_system("ext4");
    driver.stage(&volume, &capability).unwrap();
    let target = volume.target("pod");
    driver.publish(&volume, &target, &capability, false).unwrap();
    let look =
        |path: &Path| std::fs::File::options().read(true).custom_flags(libc::O_PATH).open(path).unwrap();
    let takes_down: [&dyn Fn(); 2] =
        [&|| driver.unpublish(&volume, &target).unwrap(), &|| driver.unstage(&volume).unwrap()];
    for (path, take_down) in [&target, &volume.entry()].into_iter().zip(takes_down) {
        let held = look(path);
        std::thread::scope(|scope| {
            scope.spawn(move || {
                std::thread::sleep(Duration::from_millis(800));
                drop(held);
            });
            take_down();
        });
    }
    volume.is_gone();
}
