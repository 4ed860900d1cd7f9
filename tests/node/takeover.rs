//! What ceph-csi, a crash or a hand has left.

use rbd_csi::volume::Kind;
use rbd_csi::volume::capability::AccessMode;

use super::driver::{Driver, block, file_system};
use super::support::inside::run;
use super::support::volume::refused;

/// ceph-csi's stash, as its release 3.15 writes it.
fn stash(image: &str, encrypted: bool) -> String {
    format!(
        r#"{{"Version":3,"pool":"rbd","radosNamespace":"","image":"{image}","unmapOptions":"","accessType":false,"encrypted":{encrypted},"device":"","logDir":"","logFileStrategy":""}}"#
    )
}

#[test]
#[ignore = "runs inside a node"]
fn what_ceph_csi_staged_is_taken_over() {
    let driver = Driver::start();
    let (volume, capability) = (driver.create(64), file_system("ext4"));
    // What its NodeStage and NodePublish do.
    run("modprobe rbd");
    let target = volume.target("one");
    let (entry, place) = (volume.entry(), target.display());
    run(&format!("rbd map -o noudev rbd/{}", volume.image));
    let device = volume.mappings()[0].device();
    run(&format!(
        "mkfs.ext4 -q -m0 -Enodiscard {device}; mkdir -p {entry} {place}; mount -o _netdev {device} {entry}; \
         echo theirs >{entry}/file; mount --bind {entry} {place}",
        device = device.display(),
        entry = entry.display()
    ));
    std::fs::write(volume.stash(), stash(&volume.image, false)).unwrap();

    driver.stage(&volume, &capability).unwrap();
    driver.publish(&volume, &target, &capability, false).unwrap();
    driver.publish(&volume, &volume.target("two"), &capability, false).unwrap();
    assert_eq!(std::fs::read_to_string(volume.target("two").join("file")).unwrap(), "theirs\n");
    assert_eq!(volume.mappings().len(), 1);
    for pod in ["one", "two"] {
        driver.unpublish(&volume, &volume.target(pod)).unwrap();
    }
    driver.unstage(&volume).unwrap();
    volume.is_gone();

    // Mapped twice, as after a crash of theirs: both go.
    let spec = format!("rbd/{}", volume.image);
    run(&format!("rbd map -o noudev {spec}; rbd map -o noudev {spec}"));
    std::fs::write(volume.stash(), stash(&volume.image, false)).unwrap();
    assert_eq!(volume.mappings().len(), 2);
    driver.unstage(&volume).unwrap();
    volume.is_gone();

    // What this version cannot take apart stays as it is.
    run(&format!("rbd map -o noudev {spec}"));
    let text = stash(&volume.image, true);
    std::fs::write(volume.stash(), &text).unwrap();
    refused(driver.unstage(&volume), Kind::Precondition, &["is encrypted"]);
    refused(driver.stage(&volume, &capability), Kind::Precondition, &["is encrypted"]);
    refused(
        driver.publish(&volume, &volume.target("one"), &capability, false),
        Kind::Precondition,
        &["is encrypted"],
    );
    assert_eq!(std::fs::read_to_string(volume.stash()).unwrap(), text);
    assert_eq!(volume.mappings().len(), 1);
    std::fs::write(volume.stash(), stash(&volume.image, false)).unwrap();
    driver.unstage(&volume).unwrap();
    volume.is_gone();
}

#[test]
#[ignore = "runs inside a node"]
fn a_lost_stash_is_found_again() {
    let mut driver = Driver::start();
    for capability in [file_system("ext4"), block(AccessMode::SingleNodeWriter)] {
        let volume = driver.create(32);
        for damage in ["", "{\"Version\":3,\"pool\":\"rb"] {
            driver.stage(&volume, &capability).unwrap();
            std::fs::write(volume.stash(), damage).unwrap();
            driver.publish(&volume, &volume.target("one"), &capability, false).unwrap();
            driver.unpublish(&volume, &volume.target("one")).unwrap();
            driver.restart();
            driver.unstage(&volume).unwrap();
            volume.is_gone();
        }
        driver.stage(&volume, &capability).unwrap();
        std::fs::remove_file(volume.stash()).unwrap();
        driver.stage(&volume, &capability).unwrap();
        assert!(volume.stash().exists(), "written anew");
        // Neither stash nor mount: the image is known by the handle's uuid.
        std::fs::remove_file(volume.stash()).unwrap();
        run(&format!("umount {}", volume.entry().display()));
        driver.unstage(&volume).unwrap();
        volume.is_gone();
        if matches!(
            capability,
            rbd_csi::volume::capability::Capability {
                access: rbd_csi::volume::capability::Access::Block,
                ..
            }
        ) {
            // A device file of a number that nothing has any more.
            driver.stage(&volume, &capability).unwrap();
            run(&format!("rbd unmap -o noudev {}", volume.mappings()[0].device().display()));
            refused(
                driver.publish(&volume, &volume.target("one"), &capability, false),
                Kind::Precondition,
                &["gone"],
            );
            driver.unstage(&volume).unwrap();
            volume.is_gone();
        }
    }
}

#[test]
#[ignore = "runs inside a node"]
fn static_volumes_are_staged_and_never_formatted() {
    let driver = Driver::start();
    let name = format!("by-hand-{}", std::process::id());
    driver.create_image(&name, 64);
    let mut volume = driver.named(&name, &name);
    volume.context.insert("staticVolume".into(), "true".into());
    let capability = file_system("ext4");
    refused(driver.stage(&volume, &capability), Kind::Precondition, &["never formatted"]);
    volume.is_gone();
    run(&format!("modprobe rbd; d=$(rbd map -o noudev rbd/{name}); mkfs.ext4 -q $d; rbd unmap -o noudev $d"));
    driver.stage(&volume, &capability).unwrap();
    driver.stage(&volume, &capability).unwrap();
    driver.publish(&volume, &volume.target("one"), &capability, false).unwrap();
    driver.stats(&volume, &volume.target("one")).unwrap();
    driver.unpublish(&volume, &volume.target("one")).unwrap();
    driver.unstage(&volume).unwrap();
    volume.is_gone();
    // An image of that name that was mapped by hand is not the driver's to unmap.
    let device = run(&format!("rbd map -o noudev rbd/{name}"));
    driver.unstage(&volume).unwrap();
    assert_eq!(volume.mappings().len(), 1);
    run(&format!("rbd unmap -o noudev {device}"));
}

/// A mark speaks of an mkfs' remains; what is given out may be anybody's data.
#[test]
#[ignore = "runs inside a node"]
fn no_format_mark_stays_on_what_is_given_out() {
    let driver = Driver::start();
    let key = ".rbd.csi.formatting";
    for capability in [block(AccessMode::SingleNodeWriter), file_system("ext4")] {
        let volume = driver.create(32);
        let is_marked = || run(&format!("rbd image-meta ls {}", volume.image)).contains(key);
        let mark = || {
            let text = r#"{"node":"n","boot":"b","filesystem":"ext4","arguments":["-m0"],"time":1}"#;
            run(&format!("rbd image-meta set {} {key} '{text}'", volume.image));
            assert!(is_marked());
        };
        mark();
        driver.stage(&volume, &capability).unwrap();
        assert!(!is_marked(), "staged");
        // As if the one who staged it knew nothing of marks.
        mark();
        driver.stage(&volume, &capability).unwrap();
        assert!(!is_marked(), "taken over");
        driver.unstage(&volume).unwrap();
        volume.is_gone();
    }
    // Who only reads it puts nothing there, and may not write its header either.
    let volume = driver.create(32);
    driver.stage(&volume, &file_system("ext4")).unwrap();
    driver.unstage(&volume).unwrap();
    run(&format!("rbd image-meta set {} {key} unreadable", volume.image));
    let reader = block(AccessMode::SingleNodeReaderOnly);
    driver.stage(&volume, &reader).unwrap();
    driver.stage(&volume, &reader).unwrap();
    assert!(run(&format!("rbd image-meta ls {}", volume.image)).contains(key));
    driver.unstage(&volume).unwrap();
    volume.is_gone();
}
