//! Volumes for readers, restored from a snapshot of a file system that was being written.

use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use rbd_csi::csi::proto::volume_capability::AccessMode;
use rbd_csi::csi::proto::volume_capability::access_mode::Mode;
use rbd_csi::host::mountinfo;

use super::clusters::twin;
use super::process::{Plugin, ask};
use super::support::inside::{run, variable};
use super::volume::{Form, Volume};

/// So many files are synced before the snapshot is asked for.
const SYNCED: usize = 40;

pub const FORMS: [Form; 2] = [Form::Ext4, Form::Xfs];

/// The volume of this form whose uuid begins as the variable says.
fn volume(beginning: &str, form: Form) -> Volume {
    twin("a", &format!("{}{}", variable(beginning), form as u8), form)
}

/// The same for readers on many nodes.
pub fn for_readers(mut volume: Volume) -> Volume {
    volume.capability.access_mode = Some(AccessMode { mode: Mode::MultiNodeReaderOnly.into() });
    volume
}

fn content(number: usize) -> Vec<u8> {
    format!("file {number}\n").repeat(2000).into_bytes()
}

/// Writes a file as a database does: nothing counts before it is synced.
fn write_synced(folder: &Path, number: usize) {
    let mut file = File::create(folder.join(number.to_string())).unwrap();
    file.write_all(&content(number)).unwrap();
    file.sync_all().unwrap();
}

/// Every file that was synced is there.
#[track_caller]
pub fn has_all(folder: &Path, at: &str) {
    for number in 0..SYNCED {
        let read = std::fs::read(folder.join(number.to_string()));
        let read = read.unwrap_or_else(|error| panic!("{at}: file {number}: {error}"));
        assert!(read == content(number), "{at}: file {number} has {} bytes", read.len());
    }
}

/// Writes the files and goes on writing others while `then` is done.
pub fn write_during(plugin: &Plugin, volume: &Volume, then: impl FnOnce()) {
    plugin.stage(volume).unwrap();
    let entry = volume.entry();
    // Nothing of what follows may have been written back by an unmount.
    (0..SYNCED).for_each(|number| write_synced(&entry, number));
    let enough = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for number in SYNCED.. {
                if enough.load(Ordering::Relaxed) {
                    break;
                }
                write_synced(&entry, number % 20 + SYNCED);
            }
        });
        then();
        enough.store(true, Ordering::Relaxed);
    });
    plugin.unstage(volume).unwrap();
}

#[test]
#[ignore = "runs inside a node"]
fn write() {
    let plugin = Plugin::node();
    for form in FORMS {
        write_during(&plugin, &volume("SOURCES", form), || ask(&format!("snapshot {}", form as u8)));
    }
}

/// Stages the restored volumes at the moment at which the other nodes do.
#[test]
#[ignore = "runs inside a node"]
fn read() {
    let mut plugin = Plugin::node();
    for form in FORMS {
        let volume = for_readers(volume("RESTORED", form));
        plugin.arm("");
        ask("start");
        plugin.stage(&volume).unwrap_or_else(|status| panic!("{form:?}: {status}"));
        let replays = plugin.steps().iter().filter(|step| step.starts_with("host: replay journal")).count();
        println!("\nREPLAYS {form:?} {replays}");
        for at in ["at first", "again", "by another driver"] {
            has_all(&volume.entry(), at);
            let mount = mountinfo::at(&volume.entry()).unwrap().unwrap();
            assert!(mount.read_only_filesystem && volume.mappings()[0].read_only, "{mount:?}");
            plugin.restart();
            plugin.stage(&volume).unwrap();
            volume.is_staged_once(at);
        }
        ask("all have read it");
        plugin.unstage(&volume).unwrap();
        volume.is_gone_at("the end");
    }
}

/// Begins to replay and gets no further; a while later it goes on.
#[test]
#[ignore = "runs inside a node"]
fn stops_in_the_middle() {
    let plugin = Plugin::node();
    let volume = for_readers(volume("RESTORED", Form::Ext4));
    plugin.arm("delay=100000:before:host: replay journal");
    std::thread::scope(|scope| {
        let staging = scope.spawn(|| plugin.stage_within(&volume, 200));
        plugin.wait_for("host: replay journal");
        ask("cut");
        let status = staging.join().unwrap().unwrap_err();
        println!("{status}");
    });
    plugin.arm("");
    // What it had of the image is fenced; it is a reader like any other now.
    let until = std::time::Instant::now() + std::time::Duration::from_secs(120);
    while let Err(status) = plugin.stage_within(&volume, 60) {
        assert!(std::time::Instant::now() < until, "{status}");
    }
    has_all(&volume.entry(), "after the cut");
    plugin.unstage(&volume).unwrap();
    volume.is_gone_at("the end");
}

/// Takes over from a node that has stopped.
#[test]
#[ignore = "runs inside a node"]
fn takes_over() {
    let plugin = Plugin::node();
    let volume = for_readers(volume("RESTORED", Form::Ext4));
    plugin.arm("");
    let since = std::time::Instant::now();
    plugin.stage(&volume).unwrap();
    println!("taken over after {:.1?}", since.elapsed());
    assert!(plugin.steps().iter().any(|step| step.starts_with("host: replay journal")));
    has_all(&volume.entry(), "taken over");
    ask("taken over");
    run("echo 3 >/proc/sys/vm/drop_caches");
    has_all(&volume.entry(), "when the other is back");
    plugin.unstage(&volume).unwrap();
    volume.is_gone_at("the end");
}

/// What this driver does not write to by itself, and what somebody writes to.
#[test]
#[ignore = "runs inside a node"]
fn refused() {
    let plugin = Plugin::node();
    let volume = for_readers(volume("RESTORED", Form::Xfs));
    let mut by_options = volume.clone();
    by_options.context.insert("mapOptions".into(), "ro".into());
    let status = plugin.stage(&by_options).unwrap_err();
    assert!(status.message().contains("ro,norecovery"), "{status}");
    let mut fixed = volume.clone();
    fixed.id.clone_from(&volume.image);
    fixed.staging = volume.staging.parent().unwrap().join("static");
    std::fs::create_dir_all(&fixed.staging).unwrap();
    fixed.context.insert("staticVolume".into(), "true".into());
    let status = plugin.stage(&fixed).unwrap_err();
    assert!(status.message().contains("static volume"), "{status}");
    fixed.is_gone_at("static");
    volume.is_gone_at("refused");
}
