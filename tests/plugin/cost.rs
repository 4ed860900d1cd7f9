//! What the calls that come by the thousand cost: no RADOS operation and no process.
//!
//! What a reader gets wrong: a process that lived for a moment is not seen by looking. But
//! who has waited for a child carries that child's page faults (`cminflt`, proc(5)), and
//! no process lives without one. Both the driver and its helper wait for theirs.

use super::process::{Plugin, file};
use super::support::ops::{self, Sent};
use super::volume::{Form, Volume};

const ROUNDS: usize = 10;
const NOTHING: Sent = Sent { operations: 0, clients: 0 };

/// Processes: those that are there, and the page faults of those that were.
#[derive(Debug, PartialEq, Eq)]
struct Processes {
    children: Vec<u32>,
    faults: u64,
}

impl Processes {
    /// Of a driver and the helper below it.
    fn of(pid: u32) -> Self {
        let mut all = Self { children: Vec::new(), faults: 0 };
        all.add(pid);
        all
    }

    fn add(&mut self, pid: u32) {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        // Behind the name, which may hold blanks: state is field 3, cminflt field 11.
        let fields = stat.rsplit_once(") ").unwrap().1;
        self.faults += fields.split(' ').nth(8).unwrap().parse::<u64>().unwrap();
        for task in std::fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten() {
            let children = std::fs::read_to_string(task.path().join("children")).unwrap_or_default();
            for child in children.split_whitespace() {
                self.children.push(child.parse().unwrap());
                self.add(child.parse().unwrap());
            }
        }
    }
}

/// What the driver has sent to Ceph.
fn sent(plugin: &Plugin) -> Sent {
    ops::sent(&file("sockets"), plugin.pid())
}

fn publish_measure_unpublish(plugin: &Plugin, volume: &Volume) {
    let target = volume.target("one");
    for read_only in [false, true] {
        plugin.publish_as(volume, &target, read_only).unwrap();
        plugin.publish_as(volume, &target, read_only).unwrap();
        plugin.total_bytes(volume, &target).unwrap();
        plugin.total_bytes(volume, &volume.entry()).unwrap();
        plugin.unpublish(volume, &target).unwrap();
        plugin.unpublish(volume, &target).unwrap();
    }
}

#[test]
#[ignore = "runs inside a node"]
fn publishing_and_measuring_costs_no_operation_and_no_process() {
    let (maker, mut plugin) = (Plugin::maker(), Plugin::node());
    let volumes = [Form::Ext4, Form::Xfs, Form::Block].map(|form| maker.create("a", form, form.mib()));
    assert_eq!(sent(&plugin), NOTHING);
    let unused = Processes::of(plugin.pid());
    for volume in &volumes {
        plugin.stage(volume).unwrap();
    }
    let staging = sent(&plugin);
    assert!(staging.operations > 10 && staging.clients == 1, "staging is counted: {staging:?}");
    let before = Processes::of(plugin.pid());
    assert!(before.faults > unused.faults && before.children.len() == 1, "mkfs is counted: {before:?}");
    for _ in 0..ROUNDS {
        for volume in &volumes {
            publish_measure_unpublish(&plugin, volume);
        }
    }
    assert_eq!(sent(&plugin), staging);
    assert_eq!(Processes::of(plugin.pid()), before);

    // One that was just started does it without a helper process and without a client.
    plugin.restart();
    let before = Processes::of(plugin.pid());
    assert_eq!(before, Processes { children: vec![], faults: 0 });
    for volume in &volumes {
        publish_measure_unpublish(&plugin, volume);
    }
    assert_eq!(Processes::of(plugin.pid()), before);
    assert_eq!(sent(&plugin), NOTHING);
    for volume in &volumes {
        plugin.unstage(volume).unwrap();
        volume.is_gone_at("the end");
    }
    let after = Processes::of(plugin.pid());
    assert!(after.children.len() == 1 && after.faults > 0, "the helper's forks are counted: {after:?}");
}
