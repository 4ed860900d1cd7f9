//! Whether a mapping is of another cluster than a volume's handle names, when nothing on
//! the node has noted which cluster the volume is on.
//!
//! What a reader gets wrong: images of one name on two clusters are no accident; a mirror
//! or a restored backup makes them, journal and all. And no cluster may be asked here. So
//! the monitors that the kernel was given are looked for in config.json; a mapping counts
//! as another's only if another entry has one of them and the volume's own has none.

use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use crate::config::{ClusterEntry, ConfigFiles};
use crate::host::krbd::{self, Mapping};
use crate::host::thread::on_thread;
use crate::node::mapping::monitors;

/// For host names in config.json; without an answer nothing is known.
const LOOK_UP: Duration = Duration::from_secs(5);

/// Whether the mapping was made from another entry of config.json than `cluster_id`.
pub async fn is_of_another(mapping: &Mapping, cluster_id: &str, config: &ConfigFiles) -> bool {
    let device = mapping.device().display().to_string();
    let (mapping, cluster_id, config) = (mapping.clone(), cluster_id.to_owned(), config.clone());
    let look = move || {
        let mapped = krbd::monitors(&mapping);
        // A file that cannot be read says nothing of other clusters.
        Ok(config.usable().is_ok_and(|entries| others_only(&mapped, &cluster_id, &entries)))
    };
    let looked = tokio::time::timeout(LOOK_UP, on_thread("look up monitors", &device, look)).await;
    matches!(looked, Ok(Ok(true)))
}

/// Addresses are compared without ports: a monitor has one for each protocol.
fn others_only(mapped: &[SocketAddr], cluster_id: &str, entries: &[ClusterEntry]) -> bool {
    let mapped: HashSet<IpAddr> = mapped.iter().map(SocketAddr::ip).collect();
    let has_one = |entry: &ClusterEntry| {
        let configured = monitors::from_config(&entry.monitors);
        let mut addresses = configured.iter().flat_map(|monitor| [monitor.v1, monitor.v2]).flatten();
        addresses.any(|address| mapped.contains(&address.ip()))
    };
    let (own, others): (Vec<_>, Vec<_>) = entries.iter().partition(|entry| entry.cluster_id == cluster_id);
    others.into_iter().any(has_one) && !own.into_iter().any(has_one)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_another_entry_alone_explains_is_anothers() {
        let entry = |id: &str, monitors: &[&str]| ClusterEntry {
            cluster_id: id.into(),
            monitors: monitors.iter().map(|&monitor| monitor.to_owned()).collect(),
            ..ClusterEntry::default()
        };
        let entries = [
            entry("a", &["10.0.0.1:6789", "10.0.0.2:6789"]),
            entry("b", &["[v2:10.0.1.1:3300,v1:10.0.1.1:6789]"]),
            entry("a-namespace", &["10.0.0.1"]),
        ];
        let anothers = |mapped: &[&str], id| {
            let mapped: Vec<SocketAddr> = mapped.iter().map(|address| address.parse().unwrap()).collect();
            others_only(&mapped, id, &entries)
        };
        assert!(anothers(&["10.0.1.1:3300"], "a") && anothers(&["10.0.0.2:3300"], "b"));
        assert!(!anothers(&["10.0.0.1:3300"], "a"), "another protocol's port");
        assert!(!anothers(&["10.0.0.1:6789"], "a-namespace"), "one cluster under two ids");
        assert!(!anothers(&["10.0.9.9:6789"], "a"), "a monitor that nobody has configured");
        assert!(!anothers(&[], "a"), "a kernel that does not tell");
        assert!(anothers(&["10.0.1.1:6789"], "unknown"));
    }
}
