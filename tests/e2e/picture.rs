//! The cluster and its nodes as they are: every object, mount, device and folder, to be
//! compared with what is there after the driver was removed.
//!
//! Not a snapshot: that word is Ceph's and Kubernetes'.
//!
//! What a reader gets wrong: objects that Kubernetes itself makes and drops as time goes
//! by (events, leases of nodes) are left out by name, each with its reason; nothing else is.

use std::collections::BTreeSet;

use serde_json::Value;

use super::wait::{seconds, until};
use super::world::{NODES, OTHER_KUBELET, World};

/// One line for each thing.
pub struct Picture(BTreeSet<String>);

/// Mounts, mapped devices, and the folders in which a driver and its pods leave things.
/// Containers' own mounts belong to containerd, which drops them in its own time.
const NODE: &str = r"
cut -d' ' -f5 /proc/self/mountinfo | grep -vE '^/run/containerd|^/run/netns|^/var/lib/containerd' | sed 's/^/mount /'
for device in /sys/bus/rbd/devices/*; do [ -e $device ] && echo device $device; done
# plugins/kubernetes.io/csi is the kubelet's own, for the volumes of all drivers.
for place in plugins plugins_registry pods; do
    find /var/lib/kubelet/$place $OTHER_KUBELET/$place -xdev 2>/dev/null | grep -vxE '.*/plugins/kubernetes.io(/csi)?' | sed 's/^/folder /'
done
find /run/mount -type f -size +0 2>/dev/null | sed 's/^/libmount /'
ls -d /etc/ceph* /etc/ceph-csi* /csi /tmp/csi 2>/dev/null | sed 's/^/folder /'
true";

impl Picture {
    pub fn take(world: &World) -> Self {
        let mut found = BTreeSet::new();
        let kinds = kinds(world);
        let list = world.kubectl.get(&[&kinds.join(","), "--all-namespaces"]);
        for item in list["items"].as_array().unwrap() {
            found.extend(lines(item));
        }
        for name in NODES {
            let text =
                world.node(name).exec(&["env", &format!("OTHER_KUBELET={OTHER_KUBELET}"), "sh", "-c", NODE]);
            found.extend(text.lines().map(|line| format!("{name}: {line}")));
        }
        Self(found)
    }

    /// What is there more and less than then.
    pub fn differences(&self, world: &World) -> Vec<String> {
        let now = Self::take(world);
        let more = now.0.difference(&self.0).map(|line| format!("left: {line}"));
        let less = self.0.difference(&now.0).map(|line| format!("missing: {line}"));
        more.chain(less).collect()
    }

    /// Waits until all is as it was then: the kubelet removes a pod's folders after the pod.
    pub fn wait_until_as(&self, world: &World) {
        until("cluster and nodes are as before", seconds(90), || {
            let differences = self.differences(world);
            if differences.is_empty() { Ok(()) } else { Err(format!("\n  {}", differences.join("\n  "))) }
        });
    }
}

/// All kinds of objects that can be listed.
fn kinds(world: &World) -> Vec<String> {
    let text = world.kubectl.run(&["api-resources", "--verbs=list", "-o", "name"]);
    // Events come and go; a component's status is no object that somebody made.
    let skipped = ["events", "events.events.k8s.io", "componentstatuses"];
    text.lines().filter(|kind| !skipped.contains(kind)).map(str::to_owned).collect()
}

/// An object's line; for nodes also what a driver writes into them.
fn lines(item: &Value) -> Vec<String> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let (kind, name) = (text(&item["kind"]), text(&item["metadata"]["name"]));
    let namespace = text(&item["metadata"]["namespace"]);
    let mut lines = vec![format!("{kind} {namespace}/{name}")];
    // The test's own namespace exists before and after, and fills itself a moment after it was made.
    if namespace.starts_with("e2e-") || name.starts_with("e2e-") {
        return Vec::new();
    }
    match kind.as_str() {
        "CSINode" => {
            let drivers = item["spec"]["drivers"].as_array().cloned().unwrap_or_default();
            lines.extend(drivers.iter().map(|driver| format!("CSINode {name}: {}", driver["name"])));
        }
        "Node" => {
            let annotations = &item["metadata"]["annotations"]["csi.volume.kubernetes.io/nodeid"];
            lines.push(format!("Node {name}: node id {annotations}, taints {}", item["spec"]["taints"]));
            lines.push(format!("Node {name}: labels {}", item["metadata"]["labels"]));
        }
        _ => {}
    }
    lines
}
