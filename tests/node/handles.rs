//! One image has one device and one mount on a node, whatever handles lead to it and whoever
//! else has mapped it.

use std::fs::File;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use rbd_csi::volume::Kind;
use rbd_csi::volume::capability::{AccessMode, Capability};

use super::driver::{Driver, block, file_system};
use super::support::inside::run;
use super::support::volume::{Volume, refused};

const ROUNDS: usize = 12;

/// A static volume of another volume's image: what adoption, rescue and backup tools make.
fn static_one(driver: &Driver, image: &str) -> Volume {
    let mut volume = driver.named(image, image);
    volume.context.insert("staticVolume".into(), "true".into());
    volume
}

/// A volume with a file system, which is staged nowhere.
fn formatted(driver: &Driver) -> Volume {
    let volume = driver.create(32);
    driver.stage(&volume, &file_system("ext4")).unwrap();
    driver.unstage(&volume).unwrap();
    volume.is_gone();
    volume
}

fn unmap(device: &Path) {
    run(&format!("rbd unmap -o noudev {}", device.display()));
}

fn map(image: &str) -> String {
    run(&format!("rbd map -o noudev rbd/{image}"))
}

/// What refuses the second one: its code is final, and nothing of it is left.
fn second_is_refused(driver: &Driver, first: &Volume, second: &Volume, capability: &Capability) {
    let at = first.entry().display().to_string();
    refused(driver.stage(second, capability), Kind::InUse, &["on this node already", &at]);
    assert!(!second.stash().exists() && second.mounts().is_empty(), "nothing of it");
    first.is_staged_once("beside the refused one");
    driver.unstage(second).unwrap();
    first.is_staged_once("after the refused one's end");
}

#[test]
#[ignore = "runs inside a node"]
fn two_handles_of_one_image_are_staged_one_after_the_other() {
    let driver = Driver::start();
    for capability in [file_system("ext4"), block(AccessMode::SingleNodeWriter)] {
        let one = formatted(&driver);
        let other = static_one(&driver, &one.image);
        for (first, second) in [(&one, &other), (&other, &one)] {
            driver.stage(first, &capability).unwrap();
            second_is_refused(&driver, first, second, &capability);
            // The raw device of a pod is in use too, though nobody has it open.
            driver.publish(first, &first.target("pod"), &capability, false).unwrap();
            refused(driver.stage(second, &capability), Kind::InUse, &["on this node already"]);
            driver.unpublish(first, &first.target("pod")).unwrap();
            driver.unstage(first).unwrap();
            first.is_gone();
        }
    }
}

/// Both look before either has mapped; the second must not get a device of its own, nor run
/// e2fsck on what the first has mounted.
#[test]
#[ignore = "runs inside a node"]
fn two_handles_of_one_image_at_the_same_moment_give_one_device() {
    let driver = Driver::start();
    let one = formatted(&driver);
    let other = static_one(&driver, &one.image);
    let capability = file_system("ext4");
    for round in 0..ROUNDS {
        let outcomes = std::thread::scope(|scope| {
            let stage = |volume| {
                let (driver, capability) = (&driver, &capability);
                scope.spawn(move || driver.stage(volume, capability))
            };
            [stage(&one), stage(&other)].map(|call| call.join().unwrap())
        });
        let (winner, loser) = match (&outcomes[0], &outcomes[1]) {
            (Ok(()), Err(_)) => (&one, &other),
            (Err(_), Ok(())) => (&other, &one),
            both => panic!("round {round}: {both:?}"),
        };
        let [first, second] = outcomes;
        refused(first.and(second), Kind::InUse, &["on this node already"]);
        winner.is_staged_once("the winner");
        driver.unstage(loser).unwrap();
        winner.is_staged_once("after the loser's end");
        driver.unstage(winner).unwrap();
        winner.is_gone();
        loser.is_gone();
    }
}

#[test]
#[ignore = "runs inside a node"]
fn what_a_person_uses_is_neither_taken_over_nor_away() {
    let driver = Driver::start();
    let volume = formatted(&driver);
    let capability = file_system("ext4");
    let device = map(&volume.image);
    // Mounted.
    run(&format!("mkdir -p /tmp/rescue && mount {device} /tmp/rescue"));
    refused(driver.stage(&volume, &capability), Kind::InUse, &["/tmp/rescue", &device]);
    assert_eq!(volume.mappings().len(), 1, "it stays");
    run("umount /tmp/rescue");
    // Claimed, as by fsck, LVM or multipath.
    let claimed = File::options().read(true).custom_flags(libc::O_EXCL).open(&device).unwrap();
    refused(driver.stage(&volume, &capability), Kind::InUse, &["held by pid", &device]);
    drop(claimed);
    // Read-only, which is not what the pod wants, and bound somewhere.
    unmap(Path::new(&device));
    let device = run(&format!("rbd map --read-only -o noudev rbd/{}", volume.image));
    run(&format!("touch /tmp/bound && mount --bind {device} /tmp/bound"));
    refused(driver.stage(&volume, &capability), Kind::InUse, &["/tmp/bound"]);
    assert_eq!(volume.mappings().len(), 1, "it stays");
    run("umount /tmp/bound");
    // Nobody uses them: what a killed driver leaves looks the same. Two become one.
    let second = map(&volume.image);
    assert_ne!(second, device);
    driver.stage(&volume, &capability).unwrap();
    volume.is_staged_once("after the person");
    driver.unstage(&volume).unwrap();
    volume.is_gone();
}

#[test]
#[ignore = "runs inside a node"]
fn a_mount_whose_device_is_gone_is_staged_anew() {
    let driver = Driver::start();
    for capability in [file_system("ext4"), file_system("xfs"), block(AccessMode::SingleNodeWriter)] {
        let volume = driver.create(300);
        driver.stage(&volume, &capability).unwrap();
        // As people do after a blocklist.
        run(&format!("rbd unmap -o noudev,force {}", volume.mappings()[0].device().display()));
        assert_eq!((volume.mappings().len(), volume.mounts().len()), (0, 1));
        driver.stage(&volume, &capability).unwrap();
        volume.is_staged_once("anew");
        let target = volume.target("pod");
        driver.publish(&volume, &target, &capability, false).unwrap();
        driver.unpublish(&volume, &target).unwrap();
        driver.unstage(&volume).unwrap();
        volume.is_gone();
    }
    // A file system without a device is nobody's volume: it stays, for both.
    let volume = driver.create(32);
    let entry = volume.entry();
    run(&format!("mkdir -p {0} && mount -t tmpfs none {0}", entry.display()));
    refused(driver.stage(&volume, &file_system("ext4")), Kind::Precondition, &["tmpfs"]);
    refused(driver.unstage(&volume), Kind::Precondition, &["tmpfs"]);
    assert_eq!(volume.mounts().len(), 1);
    run(&format!("umount {0} && rmdir {0}", entry.display()));
}

/// A container that sees the node's mounts by itself holds one of them; or somebody unmounts the
/// staging path under running pods. The volume's own stash says that it is still itself.
#[test]
#[ignore = "runs inside a node"]
fn a_volume_that_is_still_in_use_as_itself_is_staged_beside_it() {
    let driver = Driver::start();
    for capability in [file_system("ext4"), file_system("xfs"), block(AccessMode::SingleNodeWriter)] {
        let volume = driver.create(300);
        driver.stage(&volume, &capability).unwrap();
        let target = volume.target("pod");
        driver.publish(&volume, &target, &capability, false).unwrap();
        run(&format!("umount {}", volume.entry().display()));
        driver.stage(&volume, &capability).unwrap();
        driver.publish(&volume, &target, &capability, false).unwrap();
        assert_eq!((volume.mappings().len(), volume.mounts().len()), (1, 2));
        // Another handle stays out all the same, also with a stash of its own from before.
        let other = static_one(&driver, &volume.image);
        std::fs::copy(volume.stash(), other.stash()).unwrap();
        let refusal = driver.stage(&other, &capability).unwrap_err();
        assert!(refusal.to_string().contains("on this node already"), "{refusal}");
        driver.unstage(&other).unwrap();
        driver.unpublish(&volume, &target).unwrap();
        driver.unstage(&volume).unwrap();
        volume.is_gone();
    }
    let volume = formatted(&driver);
    driver.stage(&volume, &file_system("ext4")).unwrap();
    // The kernel takes a mount away with its folder, in whatever view, unless somebody is in it.
    run(&format!(
        "rm -f /tmp/ready; unshare --mount --propagation private sh -c 'cd {}; touch /tmp/ready; exec sleep 60' \
         >/dev/null 2>&1 & while [ ! -e /tmp/ready ]; do sleep 0.1; done",
        volume.entry().display()
    ));
    refused(driver.unstage(&volume), Kind::InUse, &["cannot be unmapped"]);
    assert!(volume.stash().exists());
    driver.stage(&volume, &file_system("ext4")).unwrap();
    std::fs::write(volume.entry().join("file"), "written").unwrap();
    run("pkill sleep; true");
    driver.unstage(&volume).unwrap();
    volume.is_gone();
}

#[test]
#[ignore = "runs inside a node"]
fn an_image_with_another_name_is_known_by_its_id() {
    let mut driver = Driver::start();
    let named = driver.volume(uuid::Uuid::new_v4());
    // As after a restore, an import, or `rbd rename` and a mended journal.
    let volume = driver.named(&named.id, &format!("restored-{}", std::process::id()));
    driver.create_image(&volume.image, 32);
    driver.record(&volume);
    for capability in [file_system("ext4"), block(AccessMode::SingleNodeWriter)] {
        driver.stage(&volume, &capability).unwrap();
        driver.stage(&volume, &capability).unwrap();
        let target = volume.target("pod");
        driver.publish(&volume, &target, &capability, false).unwrap();
        assert!(driver.stats(&volume, &target).unwrap().usage.is_some());
        driver.unpublish(&volume, &target).unwrap();
        driver.unstage(&volume).unwrap();
        volume.is_gone();
        // Killed behind the map, as it were: there is no mount by which to know it.
        driver.stage(&volume, &capability).unwrap();
        run(&format!("umount {}", volume.entry().display()));
        driver.restart();
        driver.unstage(&volume).unwrap();
        volume.is_gone();
    }
}

#[test]
#[ignore = "runs inside a node"]
fn a_static_volume_of_another_pool_is_another_one() {
    let driver = Driver::start();
    let image = formatted(&driver).image;
    let volume = static_one(&driver, &image);
    let mut other = volume.clone();
    other.context.insert("pool".into(), "other".into());
    let capability = file_system("ext4");
    driver.stage(&volume, &capability).unwrap();
    driver.stage(&volume, &capability).unwrap();
    let from = format!("from image rbd/{image}");
    refused(driver.stage(&other, &capability), Kind::AlreadyExists, &[&from]);
    volume.is_staged_once("as before");
    driver.unstage(&volume).unwrap();
    volume.is_gone();
}
