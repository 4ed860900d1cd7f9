//! Which image is staged when names say less than ids, and what a repeat finds.

use rbd_csi::volume::capability::AccessMode;

use super::driver::{Driver, file_system, mount};
use super::support::inside::run;

#[test]
#[ignore = "runs inside a node"]
fn a_replaced_image_is_staged_as_one_and_the_same() {
    let driver = Driver::start();
    let (volume, capability) = (driver.create(32), file_system("ext4"));
    let old = driver.record_id(&volume);
    run(&format!("rbd trash mv {}", volume.image));
    driver.create_image(&volume.image, 32);
    driver.stage(&volume, &capability).unwrap();
    let mappings = volume.mappings();
    assert!(mappings.len() == 1 && mappings[0].image_id != old, "{old}: {mappings:?}");
    driver.unstage(&volume).unwrap();
    volume.is_gone();
}

#[test]
#[ignore = "runs inside a node"]
fn a_read_only_volume_is_published_again() {
    let driver = Driver::start();
    let volume = driver.create(32);
    driver.stage(&volume, &file_system("ext4")).unwrap();
    driver.unstage(&volume).unwrap();
    let reader = mount("ext4", &["ro"], AccessMode::SingleNodeMultiWriter);
    driver.stage(&volume, &reader).unwrap();
    let target = volume.target("one");
    driver.publish(&volume, &target, &reader, false).unwrap();
    driver.publish(&volume, &target, &reader, false).unwrap();
    driver.unpublish(&volume, &target).unwrap();
    driver.unstage(&volume).unwrap();
    volume.is_gone();
}
