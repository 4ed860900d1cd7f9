//! What volumes leave when something goes wrong, in Kubernetes, in Ceph and on the nodes.

use std::collections::BTreeSet;

use super::support::pool;
use super::world::{DRIVER, NODES, POOL, World};

/// Everything that exists only as long as a volume does, one line each.
pub struct Residue(BTreeSet<String>);

/// Mapped images, mounts of them, and what is in the kubelet's folders for our volumes.
/// A folder that cannot be listed is none.
const NODE: &str = r"
for device in /sys/bus/rbd/devices/*; do
    [ -e $device ] && echo device: $(cat $device/pool)/$(cat $device/name)
done
grep -E ' /dev/rbd[0-9]|kubernetes.io~csi|kubernetes.io/csi|volumeDevices' /proc/self/mountinfo |
    cut -d' ' -f5 | sed 's/^/mount: /'
kubelet=/var/lib/kubelet
find $kubelet/plugins/kubernetes.io/csi $kubelet/pods/*/volumes/kubernetes.io~csi -xdev -mindepth 2 2>/dev/null |
    grep -vE '/volumeDevices/(publish|staging)$' | sed 's/^/folder: /'
true";

impl Residue {
    pub fn look(world: &World) -> Self {
        let mut found = BTreeSet::new();
        kubernetes(world, &mut found);
        let contents = pool::contents(world.cluster(), POOL);
        found.extend(contents.into_iter().map(|object| format!("Ceph: {object}")));
        for name in NODES {
            let listing = world.node(name).command(&["sh", "-c", NODE]).output().unwrap();
            let text = String::from_utf8_lossy(&listing.stdout).into_owned();
            // What cannot be looked at is told, and differs from whatever was there before.
            if !listing.status.success() {
                found.insert(format!("{name}: could not be looked at"));
            }
            found.extend(text.lines().map(|line| format!("{name}: {line}")));
        }
        Self(found)
    }

    /// What is here and not there.
    pub fn beyond(&self, before: &Self) -> Vec<String> {
        self.0.difference(&before.0).cloned().collect()
    }
}

fn kubernetes(world: &World, found: &mut BTreeSet<String>) {
    let kinds = "persistentvolumes,volumeattachments,volumesnapshotcontents";
    let items = match world.kubectl.try_items(&[kinds]) {
        Ok(items) => items,
        Err(text) => {
            found.insert(format!("Kubernetes could not be asked: {text}"));
            return;
        }
    };
    for item in items {
        let spec = &item["spec"];
        let ours = [&spec["csi"]["driver"], &spec["attacher"], &spec["driver"]].contains(&&DRIVER.into());
        if ours {
            let (kind, name) = (item["kind"].as_str().unwrap(), item["metadata"]["name"].as_str().unwrap());
            found.insert(format!("Kubernetes: {kind} {name}"));
        }
    }
}
