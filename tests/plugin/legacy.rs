//! Volumes that ceph-csi made, on a node: staged, used and deleted as one's own.

use super::process::{Plugin, ask};
use super::support::fixture::{PLAIN, Recorded};
use super::support::inside::variable;
use super::volume::{Form, Volume, read, write};

/// The clusterID under which they were recorded.
const CLUSTER: &str = "lab-cluster";
const TEXT: &str = "written by a pod";

/// A recorded volume with the context that its PersistentVolume has.
fn volume(recorded: &Recorded, part: &str, form: Form) -> Volume {
    let (handle, about) = recorded.handle(part);
    // All but the pool's id is as recorded.
    let (beginning, uuid) = handle.split_at(handle.len() - 36);
    let pool_id: u64 = variable("POOL_ID").parse().unwrap();
    let handle = format!("{}{pool_id:016x}-{uuid}", &beginning[..beginning.len() - 17]);
    let context = about["context"].as_object().unwrap().iter();
    let context = context.map(|(key, value)| (key.clone(), value.as_str().unwrap().to_owned())).collect();
    let mut volume = Volume::new(handle, context, CLUSTER, form.capability());
    volume.image = about["context"]["imageName"].as_str().unwrap().to_owned();
    volume
}

/// Twice: blank, and with what was written the first time. Each call is another driver's.
fn lives(plugin: &mut Plugin, volume: &Volume) {
    let target = volume.target("pod");
    for is_blank in [true, false] {
        plugin.stage(volume).unwrap_or_else(|status| panic!("{}: {status}", volume.image));
        volume.is_staged_once(&volume.image);
        plugin.restart();
        plugin.publish(volume, &target).unwrap();
        assert!(plugin.total_bytes(volume, &target).unwrap() > 900 << 20, "{}", volume.image);
        if is_blank {
            write(&target, TEXT);
        }
        assert_eq!(read(&target, TEXT.len()), TEXT, "{}", volume.image);
        plugin.restart();
        plugin.unpublish(volume, &target).unwrap();
        plugin.unstage(volume).unwrap();
        volume.is_gone_at(&volume.image);
    }
}

#[test]
#[ignore = "runs inside a node"]
fn volumes_of_ceph_csi_are_used_and_deleted() {
    let (maker, mut plugin) = (Plugin::maker(), Plugin::node());
    let recorded = Recorded::read();
    let forms = [Form::Ext4, Form::Xfs, Form::Block, Form::Ext4];
    let volumes: Vec<_> = PLAIN.iter().zip(forms).map(|(part, form)| volume(&recorded, part, form)).collect();
    volumes.iter().for_each(|volume| lives(&mut plugin, volume));
    ask("see the data objects");
    volumes.iter().for_each(|volume| maker.delete(volume));
    // The purge is this driver's: it must not end before it is done.
    ask("see nothing");
}
