//! Volumes restored from a snapshot: larger than their source, beside it on one node, and
//! while their parent is taken away from under them.

use std::path::Path;

use rbd_csi::host::mountinfo;
use rbd_csi::volume::capability::AccessMode;
use rbd_csi::volume::request::Usage;
use uuid::Uuid;

use super::driver::{Driver, file_system, mount};
use super::support::inside::run;
use super::support::volume::Volume;

const MIB: u64 = 1 << 20;

/// A CSI snapshot as ceph-csi lays it out: an image with one snapshot, both of its name.
fn snapshot(source: &Volume) -> String {
    let name = format!("csi-snap-{}", Uuid::new_v4());
    run(&format!(
        "rbd snap create --no-progress {0}@{name}; \
         rbd clone --rbd-default-clone-format 2 {0}@{name} {name}; \
         rbd snap rm --no-progress {0}@{name}; rbd snap create --no-progress {name}@{name}",
        source.image
    ));
    name
}

/// A volume of that size restored from it.
fn restore(driver: &Driver, snapshot: &str, mib: u64) -> Volume {
    let volume = driver.volume(Uuid::new_v4());
    run(&format!(
        "rbd clone --rbd-default-clone-format 2 {snapshot}@{snapshot} {0}; \
         rbd resize --no-progress -s {mib}M {0} || true",
        volume.image
    ));
    driver.record(&volume);
    volume
}

fn bytes(driver: &Driver, volume: &Volume) -> u64 {
    let Some(Usage::Filesystem { bytes, .. }) = driver.stats(volume, &volume.entry()).unwrap().usage else {
        panic!("{} has no figures", volume.id)
    };
    bytes.total
}

fn reads(volume: &Volume, text: &str) {
    assert_eq!(std::fs::read_to_string(volume.entry().join("file")).unwrap(), text, "{}", volume.id);
}

/// Of one snapshot two volumes, one of them larger, mounted beside their source.
#[test]
#[ignore = "runs inside a node"]
fn restored_volumes_are_as_large_as_their_image_and_live_beside_their_source() {
    let driver = Driver::start();
    for (fs_type, mib) in [("ext4", 64), ("xfs", 320)] {
        let (source, capability) = (driver.create(mib), file_system(fs_type));
        driver.stage(&source, &capability).unwrap();
        std::fs::write(source.entry().join("file"), "before").unwrap();
        run(&format!("sync -f {}", source.entry().display()));
        let snapshot = snapshot(&source);
        std::fs::write(source.entry().join("file"), "after").unwrap();
        let (same, larger) = (restore(&driver, &snapshot, mib), restore(&driver, &snapshot, mib + 256));
        for volume in [&same, &larger] {
            driver.stage(volume, &capability).unwrap();
            reads(volume, "before");
        }
        reads(&source, "after");
        let of_source = bytes(&driver, &source);
        assert_eq!(bytes(&driver, &same), of_source);
        assert!(bytes(&driver, &larger) > of_source + 230 * MIB, "{fs_type}: {}", bytes(&driver, &larger));
        // Each is written for itself.
        std::fs::write(larger.entry().join("file"), "larger").unwrap();
        for (volume, text) in [(&source, "after"), (&same, "before"), (&larger, "larger")] {
            driver.unstage(volume).unwrap();
            driver.stage(volume, &capability).unwrap();
            reads(volume, text);
            driver.unstage(volume).unwrap();
            volume.is_gone();
        }

        // Readers do not grow it.
        let reader = mount(fs_type, &[], AccessMode::MultiNodeReaderOnly);
        let readers = restore(&driver, &snapshot, mib + 256);
        driver.stage(&readers, &reader).unwrap();
        reads(&readers, "before");
        assert_eq!(bytes(&driver, &readers), of_source);
        assert!(mountinfo::at(&readers.entry()).unwrap().unwrap().read_only_filesystem);
        driver.unstage(&readers).unwrap();
        readers.is_gone();
    }
}

/// An XFS has its new size in the journal alone for a while, and older kernels cannot replay
/// what lies beyond the old one.
#[test]
#[ignore = "runs inside a node"]
fn what_grew_when_it_was_staged_can_be_snapshotted_at_once() {
    let driver = Driver::start();
    for (fs_type, mib) in [("ext4", 64), ("xfs", 320)] {
        let (source, capability) = (driver.create(mib), file_system(fs_type));
        driver.stage(&source, &capability).unwrap();
        driver.unstage(&source).unwrap();
        let larger = restore(&driver, &snapshot(&source), mib + 256);
        driver.stage(&larger, &capability).unwrap();
        // Each folder goes into the next of the file system's parts, old and new.
        let entry = larger.entry();
        run(&format!(
            "cd {0}; for i in $(seq 40); do mkdir $i; echo x >$i/file; done; echo content >file; sync -f {0}",
            entry.display()
        ));
        let restored = restore(&driver, &snapshot(&larger), mib + 256);
        driver.stage(&restored, &capability).unwrap_or_else(|error| panic!("{fs_type}: {error}"));
        reads(&restored, "content\n");
        assert_eq!(run(&format!("cat {}/*/file | wc -l", restored.entry().display())), "40");
        for volume in [&larger, &restored] {
            driver.unstage(volume).unwrap();
            volume.is_gone();
        }
    }
}

/// A claim that is snapshotted before its first pod, and what is restored from that.
#[test]
#[ignore = "runs inside a node"]
fn what_was_snapshotted_before_its_first_pod_is_formatted_at_its_own() {
    let driver = Driver::start();
    for (fs_type, mib) in [("ext4", 64), ("xfs", 320)] {
        let (source, capability) = (driver.create(mib), file_system(fs_type));
        let snapshot = snapshot(&source);
        let volumes = [source, restore(&driver, &snapshot, mib), restore(&driver, &snapshot, mib + 64)];
        for volume in &volumes {
            driver.stage(volume, &capability).unwrap_or_else(|error| panic!("{fs_type}: {error}"));
            std::fs::write(volume.entry().join("file"), "content").unwrap();
            driver.unstage(volume).unwrap();
            driver.stage(volume, &capability).unwrap();
            reads(volume, "content");
            driver.unstage(volume).unwrap();
            volume.is_gone();
        }
    }
}

/// Checksums of files that were synced while the parent's data were copied.
#[test]
#[ignore = "runs inside a node"]
fn a_volume_is_flattened_under_its_writer() {
    let driver = Driver::start();
    for (fs_type, mib) in [("ext4", 128), ("xfs", 320)] {
        let (source, capability) = (driver.create(mib), file_system(fs_type));
        driver.stage(&source, &capability).unwrap();
        let fill =
            |entry: &Path| format!("dd if=/dev/urandom of={}/old bs=1M count=48 conv=fsync", entry.display());
        run(&fill(&source.entry()));
        let sum = run(&format!("sha256sum <{}/old", source.entry().display()));
        let snapshot = snapshot(&source);
        driver.unstage(&source).unwrap();
        let volume = restore(&driver, &snapshot, mib);
        driver.stage(&volume, &capability).unwrap();
        let entry = volume.entry();
        run("rm -f /run/enough /run/sums");
        let writer = format!(
            "exec 2>/dev/null; i=0; until [ -e /run/enough ]; do i=$(((i+1)%16)); \
             dd if=/dev/urandom of={0}/$i bs=64k count=16 conv=fsync || exit 1; \
             sed -i \"/\\/$i$/d\" /run/sums; sha256sum {0}/$i >>/run/sums || exit 1; done",
            entry.display()
        );
        run("touch /run/sums");
        let mut writer = std::process::Command::new("sh").args(["-c", &writer]).spawn().unwrap();
        run(&format!("sleep 1; rbd flatten --no-progress {}; sleep 1; touch /run/enough", volume.image));
        assert!(writer.wait().unwrap().success(), "the writer met an error");
        assert!(!run(&format!("rbd info {}", volume.image)).contains("parent:"));
        for at in ["beside it", "staged again"] {
            run("echo 3 >/proc/sys/vm/drop_caches");
            assert_eq!(run(&format!("sha256sum <{}/old", entry.display())), sum, "{fs_type} {at}");
            run("test -s /run/sums && sha256sum -c --quiet /run/sums");
            driver.unstage(&volume).unwrap();
            driver.stage(&volume, &capability).unwrap();
        }
        driver.unstage(&volume).unwrap();
        volume.is_gone();
    }
}
