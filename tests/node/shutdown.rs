//! What the node's systemd knows of a volume's mounts when the node is shut down: libmount's
//! table beside the kernel's.

use std::fs::{self, File};
use std::path::Path;

use rbd_csi::volume::capability::AccessMode;

use super::driver::{Driver, block, file_system};
use super::support::inside::run;

const FOLDER: &str = "/run/mount";
const TABLE: &str = "/run/mount/utab";
/// Two lines of others: what mount(8) writes, and one that nobody has ended.
const FOREIGN: &str = "SRC=/dev/sda1 TARGET=/mnt/a\\040b ROOT=/ BINDSRC=/mnt OPTS=_netdev\n\
    ID=77 SRC=host:/share TARGET=/media/x ROOT=/ ATTRS=a OPTS=user=jo\n";

fn table() -> String {
    fs::read_to_string(TABLE).unwrap()
}

/// Whether libmount, and so systemd, finds the option at this mount.
fn is_network(path: &Path) -> bool {
    run(&format!("findmnt -n --mtab -o OPTIONS --mountpoint {}", path.display())).contains("_netdev")
}

#[test]
#[ignore = "runs inside a node"]
fn systemd_is_told_what_needs_the_network() {
    let mut driver = Driver::start();
    fs::create_dir_all(FOLDER).unwrap();
    fs::write(TABLE, FOREIGN).unwrap();
    for capability in [file_system("ext4"), block(AccessMode::SingleNodeWriter)] {
        let volume = driver.create(32);
        let target = volume.target("a pod");
        driver.stage(&volume, &capability).unwrap();
        assert!(is_network(&volume.entry()), "{}", table());
        driver.publish(&volume, &target, &capability, false).unwrap();
        let both = table();
        assert!(both.starts_with(FOREIGN) && both.contains("TARGET=/var/lib/kubelet/"), "{both}");
        let escaped = target.display().to_string().replace(' ', "\\040");
        assert!(both.contains(&format!(" TARGET={escaped} ")), "{both}");

        // Repeats double nothing, and add what a driver that was killed could not.
        driver.restart();
        driver.stage(&volume, &capability).unwrap();
        driver.publish(&volume, &target, &capability, false).unwrap();
        assert_eq!(table(), both);
        fs::write(TABLE, FOREIGN).unwrap();
        driver.stage(&volume, &capability).unwrap();
        driver.publish(&volume, &target, &capability, false).unwrap();
        assert_eq!(table(), both);

        driver.unpublish(&volume, &target).unwrap();
        assert_eq!(table().lines().count(), 3, "{}", table());
        driver.unstage(&volume).unwrap();
        assert_eq!(table(), FOREIGN);
        volume.is_gone();

        // A mount that somebody else has ended leaves no line either.
        driver.stage(&volume, &capability).unwrap();
        run(&format!("umount -n -i {}", volume.entry().display()));
        assert_eq!(table().lines().count(), 3, "{}", table());
        driver.unstage(&volume).unwrap();
        assert_eq!(table(), FOREIGN);
        volume.is_gone();
    }
}

#[test]
#[ignore = "runs inside a node"]
fn a_node_without_the_table_or_with_its_lock_held_stages() {
    let driver = Driver::start();
    let (volume, capability) = (driver.create(32), file_system("ext4"));
    let target = volume.target("one");
    let lives = || {
        driver.stage(&volume, &capability).unwrap();
        driver.publish(&volume, &target, &capability, false).unwrap();
        driver.unpublish(&volume, &target).unwrap();
        driver.unstage(&volume).unwrap();
        volume.is_gone();
    };
    let _ = fs::remove_dir_all(FOLDER);
    lives();
    assert!(!Path::new(FOLDER).exists(), "it is the node's to make");
    // Something else in its place, and a file that would not let go of who opens it.
    fs::write(FOLDER, "").unwrap();
    lives();
    fs::remove_file(FOLDER).unwrap();
    fs::create_dir(FOLDER).unwrap();
    run(&format!("mkfifo {TABLE} {TABLE}.lock {TABLE}.event"));
    lives();
    run(&format!("rm {TABLE} {TABLE}.lock {TABLE}.event"));

    // A mount(8) that was stopped holds the lock.
    fs::write(TABLE, FOREIGN).unwrap();
    let lock = File::create(format!("{TABLE}.lock")).unwrap();
    lock.lock().unwrap();
    lives();
    assert_eq!(table(), FOREIGN);
    drop(lock);
    lives();
    assert_eq!(table(), FOREIGN);
}
