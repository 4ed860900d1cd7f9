//! config.json: which clusters there are (ceph-csi's `util.ClusterInfo`).
//!
//! Lives here: the fields that this driver knows. Those of CephFS and NFS are not
//! even looked at, so a mistake there hurts nobody here.

use std::path::PathBuf;

use super::json::{Document, Fault, Result, Value};

/// One cluster of config.json.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ClusterEntry {
    /// What StorageClasses and volume handles call it.
    pub cluster_id: String,
    /// Addresses as they stand in the file: `host:port`, names, IPv6 in brackets.
    pub monitors: Vec<String>,
    /// The RADOS namespace of images and journal; empty for the pool's default one.
    pub rados_namespace: String,
    /// The network namespace in which the kernel shall map images.
    pub net_namespace_file: Option<PathBuf>,
    /// How many rbd-mirror daemons watch a mirrored primary image; at least 1.
    pub mirror_daemon_count: u32,
    /// A secret with a key for calls that come without one.
    pub secret: Option<SecretRef>,
}

/// Where a secret lies in Kubernetes (`controllerPublishSecretRef`).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SecretRef {
    /// Its name.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
}

/// What the file says of one cluster.
pub(super) struct Parsed {
    pub(super) entry: ClusterEntry,
    pub(super) read_affinity: bool,
    /// What is wrong with this entry; the others are none the worse for it.
    pub(super) fault: Option<Fault>,
}

/// Reads the whole file. A mistake within an entry is that entry's.
pub(super) fn parse(text: &str) -> Result<Vec<Parsed>> {
    Ok(Document::parse(text)?.root().list()?.iter().map(cluster).collect())
}

fn cluster(value: &Value<'_>) -> Parsed {
    let entry = ClusterEntry { mirror_daemon_count: 1, ..ClusterEntry::default() };
    let mut parsed = Parsed { entry, read_affinity: false, fault: None };
    let fields = value.fields().unwrap_or_else(|fault| {
        parsed.fault = Some(fault);
        Vec::new()
    });
    // null never overwrites: Go leaves what an earlier field of the name has set.
    for (name, value) in fields {
        let read = match name.as_str() {
            "clusterid" => value.string().map(|id| set(&mut parsed.entry.cluster_id, id)),
            "monitors" => monitors(&mut parsed.entry, &value),
            "rbd" => rbd(&mut parsed.entry, &value),
            "readaffinity" => read_affinity(&mut parsed, &value),
            _ => Ok(()),
        };
        // The first one is told; the id may still come.
        if let Err(fault) = read {
            parsed.fault.get_or_insert(fault);
        }
    }
    parsed
}

fn monitors(entry: &mut ClusterEntry, value: &Value<'_>) -> Result<()> {
    let mut monitors = Vec::new();
    for monitor in value.list()? {
        let monitor = monitor.string()?.unwrap_or_default();
        if !monitor.trim().is_empty() {
            monitors.push(monitor.trim().to_owned());
        }
    }
    entry.monitors = monitors;
    Ok(())
}

fn rbd(entry: &mut ClusterEntry, value: &Value<'_>) -> Result<()> {
    for (name, value) in value.fields()? {
        match name.as_str() {
            "radosnamespace" => set(&mut entry.rados_namespace, value.string()?),
            "netnamespacefilepath" => {
                if let Some(path) = value.string()? {
                    entry.net_namespace_file = (!path.is_empty()).then(|| PathBuf::from(path));
                }
            }
            "mirrordaemoncount" => {
                if let Some(count) = value.integer()? {
                    entry.mirror_daemon_count = u32::try_from(count.max(1)).unwrap_or(u32::MAX);
                }
            }
            "controllerpublishsecretref" => secret(entry, &value)?,
            _ => {}
        }
    }
    Ok(())
}

/// Half a reference is none, as for ceph-csi; the shipped sample has two empty fields.
fn secret(entry: &mut ClusterEntry, value: &Value<'_>) -> Result<()> {
    let mut found = entry.secret.take().unwrap_or_default();
    for (name, value) in value.fields()? {
        match name.as_str() {
            "name" => set(&mut found.name, value.string()?),
            "namespace" => set(&mut found.namespace, value.string()?),
            _ => {}
        }
    }
    entry.secret = (!found.name.is_empty() && !found.namespace.is_empty()).then_some(found);
    Ok(())
}

fn read_affinity(parsed: &mut Parsed, value: &Value<'_>) -> Result<()> {
    for (name, value) in value.fields()? {
        if name == "enabled" {
            set(&mut parsed.read_affinity, value.boolean()?);
        }
    }
    Ok(())
}

fn set<T>(field: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *field = value;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(text: &str) -> Parsed {
        let mut all = parse(text).unwrap_or_else(|fault| panic!("{text}: {fault:?}"));
        assert_eq!(all.len(), 1, "{text}");
        all.remove(0)
    }

    #[test]
    fn a_whole_entry() {
        let parsed = one(r#"[{"clusterID":"c","monitors":["10.0.0.1:6789","[::1]:3300"],
          "rbd":{"netNamespaceFilePath":"/run/ns","radosNamespace":"tenant","mirrorDaemonCount":3,
                 "controllerPublishSecretRef":{"name":"","namespace":""}},
          "cephFS":{"subvolumeGroup":7},"nfs":null,"later":[{}],
          "readAffinity":{"enabled":true,"crushLocationLabels":["zone"]}}]"#);
        let expected = ClusterEntry {
            cluster_id: "c".into(),
            monitors: vec!["10.0.0.1:6789".into(), "[::1]:3300".into()],
            rados_namespace: "tenant".into(),
            net_namespace_file: Some("/run/ns".into()),
            mirror_daemon_count: 3,
            secret: None,
        };
        assert_eq!(parsed.entry, expected);
        assert!(parsed.read_affinity);
    }

    #[test]
    fn a_secret_has_a_name_and_a_namespace() {
        let of =
            |json: &str| one(&format!(r#"[{{"rbd":{{"controllerPublishSecretRef":{json}}}}}]"#)).entry.secret;
        let expected = SecretRef { name: "csi-rbd-secret".into(), namespace: "ceph".into() };
        assert_eq!(of(r#"{"name":"csi-rbd-secret","namespace":"ceph"}"#), Some(expected));
        for none in ["null", "{}", r#"{"name":"a"}"#, r#"{"name":"","namespace":"b"}"#] {
            assert_eq!(of(none), None, "{none}");
        }
    }

    #[test]
    fn what_is_absent_null_or_zero_is_the_same() {
        let nothing = ClusterEntry { mirror_daemon_count: 1, ..ClusterEntry::default() };
        for text in [
            "[{}]",
            "[null]",
            r#"[{"clusterID":null,"monitors":null,"rbd":null,"readAffinity":null}]"#,
            r#"[{"monitors":[],"rbd":{"radosNamespace":null,"netNamespaceFilePath":"","mirrorDaemonCount":0}}]"#,
            r#"[{"monitors":[""," ",null],"rbd":{"mirrorDaemonCount":-4},"readAffinity":{"enabled":""}}]"#,
        ] {
            let parsed = one(text);
            assert_eq!(parsed.entry, nothing, "{text}");
            assert!(!parsed.read_affinity, "{text}");
        }
        for text in ["null", " [ ] \n"] {
            assert!(parse(text).is_ok_and(|all| all.is_empty()), "{text}");
        }
    }

    #[test]
    fn names_in_any_case_and_the_last_one_wins() {
        let parsed = one(r#"[{"CLUSTERID":"a","clusterId":"b","monitors":["x"],"MONITORS":["y","z"],
            "RBD":{"radosnamespace":"n"},"rbd":{"MirrorDaemonCount":2}}]"#);
        assert_eq!((parsed.entry.cluster_id.as_str(), parsed.entry.monitors.len()), ("b", 2));
        // Two objects of one name add up, as in Go.
        assert_eq!((parsed.entry.rados_namespace.as_str(), parsed.entry.mirror_daemon_count), ("n", 2));
        // Go's fold takes the long s and the Kelvin sign for s and k.
        assert_eq!(one("[{\"clu\u{17f}terID\":\"long\"}]").entry.cluster_id, "long");
        assert_eq!(one(r#"[{"clusterID":"a","clusterID":null}]"#).entry.cluster_id, "a");
    }

    #[test]
    fn read_affinity_is_a_truth_value_or_its_name() {
        for (json, expected) in [("true", true), ("\"true\"", true), ("\"false\"", false), ("false", false)] {
            let text = format!(r#"[{{"readAffinity":{{"enabled":{json}}}}}]"#);
            assert_eq!(one(&text).read_affinity, expected, "{json}");
        }
    }

    #[test]
    fn a_mistake_is_its_entry_s_alone() {
        let text = r#"[{"clusterID":"a","monitors":["x"]},{"monitors":"10.0.0.1","clusterID":"b"},7]"#;
        let all = parse(text).unwrap();
        let ids: Vec<_> = all.iter().map(|parsed| parsed.entry.cluster_id.as_str()).collect();
        assert_eq!(ids, ["a", "b", ""]);
        let faults: Vec<_> = all.iter().map(|parsed| parsed.fault.is_some()).collect();
        assert_eq!(faults, [false, true, true]);
    }

    #[test]
    fn a_mistake_is_told_with_its_place() {
        let fault = |text| match parse(text) {
            Ok(all) => all.into_iter().find_map(|parsed| parsed.fault).unwrap(),
            Err(fault) => fault,
        };
        let found = fault("[{\"clusterID\":\"a\"},\n {\"rbd\": {\"radosNamespace\": 7}}]");
        assert_eq!((found.line, found.column), (2, 29));
        assert_eq!(found.field, "[1].rbd.radosNamespace");
        assert_eq!(found.text, "expected a string, found a number");

        assert_eq!(fault(r#"{"clusterID":"a"}"#).text, "expected a list, found an object");
        assert_eq!(fault(r#"[{"monitors":"a"}]"#).field, "[0].monitors");
        assert_eq!(fault(r#"[{"monitors":["a",1]}]"#).field, "[0].monitors[1]");
        assert_eq!(fault(r#"[{"rbd":{"mirrorDaemonCount":1.5}}]"#).field, "[0].rbd.mirrorDaemonCount");
        assert_eq!(
            fault(r#"[{"readAffinity":{"enabled":"yes"}}]"#).text,
            "expected true or false, found a string"
        );

        let cut = fault("[{\"clusterID\":\n\"a\",}]");
        assert_eq!((cut.line, cut.field.as_str()), (2, ""));
        assert!(cut.text.contains("key must be a string"), "{}", cut.text);
        for broken in ["", "[", "[]]", "\u{feff}[]", "[{'clusterID':1}]", "[{\"cephFS\":{]}]"] {
            assert_eq!(fault(broken).field, "", "{broken}");
        }
    }
}
