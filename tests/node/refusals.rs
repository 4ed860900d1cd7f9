//! What is refused, and left as it was.

use std::os::unix::fs::symlink;
use std::path::Path;

use rbd_csi::host::{bind, mountinfo};
use rbd_csi::volume::Kind;
use rbd_csi::volume::capability::AccessMode;
use uuid::Uuid;

use super::driver::{Driver, block, file_system, mount};
use super::support::inside::run;
use super::support::volume::{Volume, refused};

#[test]
#[ignore = "runs inside a node"]
fn calls_in_the_wrong_order() {
    let driver = Driver::start();
    let (volume, capability) = (driver.create(32), file_system("ext4"));
    let target = volume.target("one");
    refused(
        driver.publish(&volume, &target, &capability, false),
        Kind::Precondition,
        &["not staged", &volume.id],
    );
    assert!(!target.exists());
    // A folder is no mount (#4762: after a reboot, the node's own disk).
    std::fs::create_dir(volume.entry()).unwrap();
    refused(
        driver.publish(&volume, &target, &capability, false),
        Kind::Precondition,
        &["nothing is mounted"],
    );
    std::fs::write(volume.entry().join("stray"), "kept").unwrap();
    refused(driver.unstage(&volume), Kind::Precondition, &["ENOTEMPTY", volume.entry().to_str().unwrap()]);
    std::fs::remove_file(volume.entry().join("stray")).unwrap();
    driver.unstage(&volume).unwrap();
    driver.unpublish(&volume, &target).unwrap();
    volume.is_gone();

    // Volumes that do not exist.
    let unknown = driver.volume(Uuid::new_v4());
    refused(driver.stage(&unknown, &capability), Kind::NotFound, &[&unknown.id]);
    unknown.is_gone();
    driver.unstage(&unknown).unwrap();
    let fake = driver.named("fake-vol-id", "x");
    refused(driver.stage(&fake, &capability), Kind::NotFound, &["fake-vol-id"]);
    driver.unstage(&fake).unwrap();
    driver.unpublish(&fake, &fake.target("one")).unwrap();
    fake.is_gone();

    // A staging folder that the CO has not made.
    let nowhere = Volume { staging: "/var/lib/kubelet/nowhere".into(), ..volume.clone() };
    refused(driver.stage(&nowhere, &capability), Kind::Precondition, &["must exist", "ENOENT"]);
    driver.unstage(&nowhere).unwrap();
    assert_eq!(volume.mappings(), []);

    // Figures of what is not there.
    for path in ["some/path", "/nowhere", "/proc", "/var/lib/kubelet/../kubelet"] {
        refused(driver.stats(&volume, Path::new(path)), Kind::NotFound, &[path]);
    }
    driver.stage(&volume, &capability).unwrap();
    refused(driver.stats(&fake, &volume.entry()), Kind::NotFound, &[&volume.image]);
    let link = volume.target("link");
    symlink(volume.entry(), &link).unwrap();
    refused(driver.stats(&volume, &link), Kind::NotFound, &["symbolic link"]);
    driver.unstage(&volume).unwrap();
    for path in ["relative", "/a/../b"] {
        refused(driver.unpublish(&volume, Path::new(path)), Kind::InvalidArgument, &["target_path", path]);
    }
}

#[test]
#[ignore = "runs inside a node"]
fn what_is_never_staged() {
    let driver = Driver::start();
    let mut volume = driver.create(32);
    let rwx = mount("ext4", &[], AccessMode::MultiNodeMultiWriter);
    refused(
        driver.stage(&volume, &rwx),
        Kind::InvalidArgument,
        &["RWX access mode request is only valid for volumes with access type `block`"],
    );
    let cases: [(&str, &str); 3] = [("encrypted", "true"), ("mounter", "rbd-nbd"), ("migration", "true")];
    for (name, value) in cases {
        volume.context.insert(name.into(), value.into());
        refused(driver.stage(&volume, &file_system("ext4")), Kind::Precondition, &["nothing was changed"]);
        volume.context.remove(name);
    }
    for flag in ["bind", "noatime,remount", "loop=/etc/shadow", "suid"] {
        let capability = mount("ext4", &[flag], AccessMode::SingleNodeWriter);
        refused(driver.stage(&volume, &capability), Kind::InvalidArgument, &["mount_flags"]);
    }
    refused(driver.stage(&volume, &file_system("btrfs")), Kind::InvalidArgument, &["btrfs"]);
    volume.is_gone();
    // An option that the kernel refuses: the way back leaves nothing.
    let bogus = mount("ext4", &["bogus=1"], AccessMode::SingleNodeWriter);
    refused(driver.stage(&volume, &bogus), Kind::InvalidArgument, &["EINVAL", "mount_flags"]);
    volume.is_gone();
    volume.context.insert("mapOptions".into(), "bogus".into());
    refused(driver.stage(&volume, &file_system("ext4")), Kind::InvalidArgument, &["bogus"]);
    volume.is_gone();
    // RWX is for raw devices.
    volume.context.remove("mapOptions");
    driver.stage(&volume, &block(AccessMode::MultiNodeMultiWriter)).unwrap();
    driver.unstage(&volume).unwrap();
    volume.is_gone();
}

/// ceph-csi 3.17 gives a volume to the pods of some service accounts only, by its image's metadata.
#[test]
#[ignore = "runs inside a node"]
fn a_volume_of_some_service_accounts() {
    const KEY: &str = ".rbd.csi.ceph.com/serviceaccount";
    let driver = Driver::start();
    let (volume, capability) = (driver.create(32), file_system("ext4"));
    let remove = format!("rbd image-meta remove rbd/{} {KEY}", volume.image);
    driver.set_metadata(&volume, KEY, "worker,other");
    refused(driver.stage(&volume, &capability), Kind::Precondition, &["worker,other", &remove]);
    volume.is_gone();
    driver.set_metadata(&volume, KEY, "");
    driver.stage(&volume, &capability).unwrap();
    // One that was staged and published before the driver took over is known by its attachment.
    let (one, other) = (volume.target("one"), volume.target("other"));
    driver.publish(&volume, &one, &capability, false).unwrap();
    driver.publish_to(&volume, &one, &capability, false, "worker").unwrap();
    let refusal = driver.publish_to(&volume, &other, &capability, false, "worker");
    refused(refusal, Kind::Precondition, &["service accounts worker", &remove]);
    assert!(!other.exists());
    driver.unpublish(&volume, &one).unwrap();
    driver.unstage(&volume).unwrap();
    // Of a static volume, ceph-csi does not look either.
    driver.set_metadata(&volume, KEY, "worker");
    let mut fixed = driver.named(&volume.image, &volume.image);
    fixed.context.insert("staticVolume".into(), "true".into());
    driver.stage(&fixed, &capability).unwrap();
    driver.unstage(&fixed).unwrap();
    fixed.is_gone();
}

#[test]
#[ignore = "runs inside a node"]
fn what_is_not_the_volumes_is_not_touched() {
    let driver = Driver::start();
    let (volume, other, capability) = (driver.create(32), driver.create(32), file_system("ext4"));
    driver.stage(&other, &capability).unwrap();
    std::fs::write(other.entry().join("file"), "other's").unwrap();

    // Another volume's mount, and a foreign one, at the staging path.
    std::fs::create_dir(volume.entry()).unwrap();
    let entry = volume.entry().display().to_string();
    for foreign in
        [format!("mount --bind {} {entry}", other.entry().display()), format!("mount -t tmpfs tmpfs {entry}")]
    {
        run(&foreign);
        let before = mountinfo::at(&volume.entry()).unwrap();
        refused(driver.stage(&volume, &capability), Kind::Precondition, &[&entry, "nothing was changed"]);
        refused(
            driver.publish(&volume, &volume.target("one"), &capability, false),
            Kind::Precondition,
            &["not staged"],
        );
        if foreign.contains("--bind") {
            refused(driver.unstage(&volume), Kind::Precondition, &[&other.image]);
        }
        assert_eq!(mountinfo::at(&volume.entry()).unwrap(), before);
        run(&format!("umount {entry}"));
    }
    std::fs::remove_dir(volume.entry()).unwrap();

    // A symlink where a pod's folder should be.
    driver.stage(&volume, &capability).unwrap();
    let target = volume.target("link");
    let elsewhere = volume.target("elsewhere");
    std::fs::create_dir(&elsewhere).unwrap();
    symlink(&elsewhere, &target).unwrap();
    refused(driver.publish(&volume, &target, &capability, false), Kind::Precondition, &["symbolic link"]);
    refused(
        driver.publish(&volume, &target.join("below"), &capability, false),
        Kind::Precondition,
        &["symbolic link"],
    );
    refused(driver.unpublish(&volume, &target), Kind::Precondition, &["symbolic link"]);
    assert!(target.is_symlink() && elsewhere.is_dir() && mountinfo::at(&elsewhere).unwrap().is_none());

    // Something else at the target.
    refused(
        driver.publish(&volume, &other.entry(), &capability, false),
        Kind::AlreadyExists,
        &[&other.image],
    );
    let file = volume.target("file");
    std::fs::write(&file, "kept").unwrap();
    refused(driver.publish(&volume, &file, &capability, false), Kind::AlreadyExists, &["not a folder"]);
    refused(driver.unpublish(&volume, &file), Kind::Precondition, &["empty file"]);
    let folder = volume.target("folder");
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join("file"), "kept").unwrap();
    refused(driver.unpublish(&volume, &folder), Kind::Precondition, &["ENOTEMPTY"]);
    assert_eq!(
        std::fs::read_to_string(&file).unwrap() + &std::fs::read_to_string(folder.join("file")).unwrap(),
        "keptkept"
    );

    // Mounts that are stacked on a target go all; the volume's content stays.
    let stacked = volume.target("stacked");
    for _ in 0..3 {
        std::fs::create_dir_all(&stacked).unwrap();
        run(&format!("mount --bind {} {}", volume.entry().display(), stacked.display()));
    }
    driver.unpublish(&volume, &stacked).unwrap();
    assert!(!stacked.exists());
    driver.unstage(&volume).unwrap();
    volume.is_gone();
    assert_eq!(std::fs::read_to_string(other.entry().join("file")).unwrap(), "other's");
    driver.unstage(&other).unwrap();
    other.is_gone();
}

/// Between the proof and the bind mount, somebody unmounts what was proven: what the path leads to
/// then is never shown to a pod.
#[test]
#[ignore = "runs inside a node"]
fn what_is_bound_is_the_mount_that_was_proven() {
    let driver = Driver::start();
    let (volume, other, capability) = (driver.create(32), driver.create(32), file_system("ext4"));
    driver.stage(&volume, &capability).unwrap();
    driver.stage(&other, &capability).unwrap();
    let target = volume.target("one");
    std::fs::create_dir(&target).unwrap();
    let proven = mountinfo::at(&volume.entry()).unwrap().unwrap();
    let bind = || driver.runtime.block_on(bind::bind_mount(&proven, &target, false));
    bind().unwrap();
    driver.unpublish(&volume, &target).unwrap();
    std::fs::create_dir(&target).unwrap();
    let entry = volume.entry().display().to_string();
    run(&format!("umount {entry}"));
    for instead in ["true".to_owned(), format!("mount --bind {} {entry}", other.entry().display())] {
        run(&instead);
        let error = bind().unwrap_err();
        assert!(error.is(libc::ESTALE), "{error}");
        assert_eq!(mountinfo::at(&target).unwrap(), None);
    }
    run(&format!("umount {entry}"));
    driver.unpublish(&volume, &target).unwrap();
    for volume in [&volume, &other] {
        driver.unstage(volume).unwrap();
        volume.is_gone();
    }
}

/// The volume is unmounted, and its device cannot be unmapped; then a pod comes.
#[test]
#[ignore = "runs inside a node"]
fn a_volume_that_was_half_unstaged_is_staged_again() {
    let mut driver = Driver::start();
    for capability in [file_system("ext4"), block(AccessMode::SingleNodeWriter)] {
        let volume = driver.create(32);
        let target = volume.target("one");
        for lets_go in [true, false] {
            driver.stage(&volume, &capability).unwrap();
            driver.publish(&volume, &target, &capability, false).unwrap();
            driver.unpublish(&volume, &target).unwrap();
            let mut holder = Some(std::fs::File::open(volume.mappings()[0].device()).unwrap());
            let me = format!("pid {} (", std::process::id());
            refused(driver.unstage(&volume), Kind::InUse, &[&me, &volume.image]);
            assert_eq!((volume.mounts().len(), volume.mappings().len()), (0, 1));
            driver.restart();
            refused(driver.unstage(&volume), Kind::InUse, &[&me, &volume.image]);
            refused(
                driver.publish(&volume, &target, &capability, false),
                Kind::Precondition,
                &["not staged", "nothing is mounted"],
            );
            if lets_go {
                holder = None;
            }
            driver.stage(&volume, &capability).unwrap();
            volume.is_staged_once("again");
            driver.publish(&volume, &target, &capability, false).unwrap();
            driver.unpublish(&volume, &target).unwrap();
            drop(holder);
            driver.unstage(&volume).unwrap();
            volume.is_gone();
        }
    }
}

#[test]
#[ignore = "runs inside a node"]
fn who_uses_it_is_named() {
    let driver = Driver::start();
    let (volume, capability) = (driver.create(32), file_system("ext4"));
    driver.stage(&volume, &capability).unwrap();
    let target = volume.target("one");
    driver.publish(&volume, &target, &capability, false).unwrap();
    let mut sleeper = std::process::Command::new("sleep").arg("1000").current_dir(&target).spawn().unwrap();
    let who = format!("pid {} (sleep)", sleeper.id());
    refused(driver.unpublish(&volume, &target), Kind::InUse, &[&who, "EBUSY"]);
    sleeper.kill().unwrap();
    sleeper.wait().unwrap();
    driver.unpublish(&volume, &target).unwrap();
    let open = std::fs::File::create(volume.entry().join("file")).unwrap();
    let me = format!("pid {} (", std::process::id());
    refused(driver.unstage(&volume), Kind::InUse, &[&me, volume.entry().to_str().unwrap()]);
    drop(open);
    driver.unstage(&volume).unwrap();
    volume.is_gone();
    // A raw device that somebody has open, here and as the kernel has it.
    let raw = driver.create(8);
    driver.stage(&raw, &block(AccessMode::SingleNodeWriter)).unwrap();
    let open = std::fs::File::open(raw.entry()).unwrap();
    refused(driver.unstage(&raw), Kind::InUse, &[&me, raw.entry().to_str().unwrap()]);
    drop(open);
    let open = std::fs::File::open(raw.mappings()[0].device()).unwrap();
    refused(driver.unstage(&raw), Kind::InUse, &[&me, &raw.image]);
    drop(open);
    driver.unstage(&raw).unwrap();
    raw.is_gone();
}
