//! Two clusters with the same names on one node, and two nodes with the same volume.

use std::path::Path;

use rbd_csi::host::krbd;
use rbd_csi::volume::id::VolumeId;
use tonic::Code;

use super::process::{Plugin, ask};
use super::support::inside::variable;
use super::volume::{Form, Volume, read, write};

/// The volume of that uuid on a cluster; both clusters have its journal entry and image.
pub fn twin(cluster: &str, uuid: &str, form: Form) -> Volume {
    let pool_id = variable("POOL_ID").parse().unwrap();
    let id = VolumeId { cluster_id: cluster.into(), pool_id, uuid: uuid.parse().unwrap() };
    let context = [("clusterID".to_owned(), cluster.to_owned()), ("pool".to_owned(), "rbd".to_owned())];
    Volume::new(id.to_string(), context.into(), cluster, form.capability())
}

/// Of two volumes whose pool, image and uuid are the same only the cluster differs.
#[test]
#[ignore = "runs inside a node"]
fn twins_are_kept_apart() {
    let mut plugin = Plugin::node();
    let uuid = variable("TWINS");
    for (form, text) in [(Form::Ext4, ["file of a", "file of b"]), (Form::Block, ["raw of a.", "raw of b."])]
    {
        let twins = ["a", "b"].map(|cluster| twin(cluster, &format!("{uuid}{}", form as u8), form));
        // At the same moment.
        std::thread::scope(|scope| {
            twins.iter().for_each(|twin| drop(scope.spawn(|| plugin.stage(twin).unwrap())));
        });
        let mappings = twins[0].mappings();
        assert!(mappings.len() == 2 && mappings[0].cluster_fsid != mappings[1].cluster_fsid, "{mappings:?}");
        for (twin, text) in twins.iter().zip(text) {
            plugin.publish(twin, &twin.target("pod")).unwrap();
            write(&twin.target("pod"), text);
        }
        let show = |which: usize| read(&twins[which].target("pod"), text[which].len());
        assert_eq!([show(0), show(1)], text);

        // The one goes, unasked and asked again; the other stays as it is.
        let (gone, stays) = (&twins[0], &twins[1]);
        plugin.restart();
        for _ in 0..2 {
            plugin.unpublish(gone, &gone.target("pod")).unwrap();
            plugin.unstage(gone).unwrap();
            assert!(gone.mounts().is_empty(), "{:?}", gone.mounts());
            assert_eq!(show(1), text[1]);
            assert_eq!(krbd::mappings().unwrap().len(), 1);
        }
        // The same with a stash that does not say which cluster, as ceph-csi leaves it.
        let stash = format!(
            r#"{{"Version":3,"pool":"rbd","radosNamespace":"","image":"{}","unmapOptions":"","accessType":false,"encrypted":false,"device":"","logDir":"","logFileStrategy":""}}"#,
            gone.image
        );
        std::fs::write(gone.staging.join("image-meta.json"), stash).unwrap();
        plugin.unstage(gone).unwrap();
        assert_eq!(std::fs::read_dir(&gone.staging).unwrap().count(), 0);
        assert_eq!(show(1), text[1]);
        // It comes back with what it had, and the other goes.
        plugin.stage(gone).unwrap();
        plugin.publish(gone, &gone.target("pod")).unwrap();
        assert_eq!([show(0), show(1)], text);
        assert!(plugin.total_bytes(stays, &stays.target("pod")).unwrap() > 0);
        for twin in [stays, gone] {
            plugin.unpublish(twin, &twin.target("pod")).unwrap();
            plugin.unstage(twin).unwrap();
        }
        twins.iter().for_each(|twin| twin.is_gone_at("the end"));
    }
}

/// Stages a volume at the moment at which another node does. Prints who won.
#[test]
#[ignore = "runs inside a node"]
fn one_of_two_nodes_wins() {
    let plugin = Plugin::node();
    let (me, other) = (variable("MY_IP"), variable("OTHER_IP"));
    for form in [Form::Ext4, Form::Block] {
        let volume = twin("a", &format!("{}{}", variable("TWINS"), form as u8), form);
        // Both have looked for other clients before either maps, both have mapped before
        // either looks again, and both have seen the other before either lets go.
        plugin.arm(
            "delay=5000:before:host: map;delay=5000:before:list_watchers#2;delay=5000:after:list_watchers#2",
        );
        ask("start");
        let answer = plugin.stage_within(&volume, 60);
        plugin.arm("");
        println!("{me}: {answer:?}");
        ask(if answer.is_ok() { "won" } else { "lost" });
        match answer {
            Ok(()) => {
                volume.is_staged_once("won");
                ask("the winner is known");
                ask("the loser has been refused");
                plugin.unstage(&volume).unwrap();
                ask("the winner is gone");
            }
            Err(status) => {
                assert_eq!(status.code(), Code::FailedPrecondition, "{status}");
                assert!(status.message().contains(&other), "{other} is missing: {status}");
                volume.is_gone_at("lost");
                ask("the winner is known");
                // It waits, and then names it again.
                let status = plugin.stage_within(&volume, 5).unwrap_err();
                println!("{me}: {status}");
                assert_eq!(status.code(), Code::FailedPrecondition, "{status}");
                assert!(status.message().contains(&other), "{other} is missing: {status}");
                ask("the loser has been refused");
                ask("the winner is gone");
                plugin.stage(&volume).unwrap();
                plugin.unstage(&volume).unwrap();
            }
        }
        volume.is_gone_at("the end");
        assert!(!Path::new("/sys/bus/rbd/devices/0").exists());
        ask("next");
    }
}
