//! config.json and cluster-mapping.json, as ceph-csi mounts them.
//!
//! Lives here: the files, read anew on each call (an edited ConfigMap needs no
//! restart) and never trusted. Not here: options (`options`), ceph.conf (librados
//! reads it). What a reader gets wrong: a missing file is no reason not to start;
//! it is told to each call that needs it.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, Once, PoisonError};

use crate::metrics;
use crate::volume::error::{Error, Kind};

mod cluster;
mod error;
mod json;

pub use cluster::{ClusterEntry, SecretRef};
pub use error::ConfigError;

/// Where the configuration is.
#[derive(Debug, Clone)]
pub struct ConfigFiles {
    /// config.json: the clusters.
    pub cluster: PathBuf,
    /// cluster-mapping.json: which cluster took over from which; may be absent.
    pub mapping: PathBuf,
}

impl ConfigFiles {
    /// The cluster of that id, as the file says now; the first one when several have it.
    ///
    /// # Errors
    /// [`Kind::Precondition`] when config.json is missing or broken, or the cluster
    /// has no monitors; [`Kind::NotFound`] when it does not have the cluster: whether
    /// that is the caller's mistake depends on the call.
    pub fn cluster(&self, cluster_id: &str) -> crate::volume::Result<ClusterEntry> {
        let clusters = self.clusters()?;
        self.warn_of_a_mapping();
        let Some(found) = clusters.iter().find(|parsed| parsed.entry.cluster_id == cluster_id) else {
            // It may be the one whose id cannot be read.
            let nameless = clusters.iter().find(|parsed| parsed.entry.cluster_id.is_empty());
            if let Some(fault) = nameless.and_then(|parsed| parsed.fault.clone()) {
                return Err(ConfigError::invalid(&self.cluster, fault).into());
            }
            return Err(Error::new(Kind::NotFound, unknown(cluster_id, &clusters)));
        };
        if let Some(fault) = found.fault.clone() {
            return Err(ConfigError::invalid(&self.cluster, fault).into());
        }
        if found.entry.monitors.is_empty() {
            let text =
                format!("empty monitor list for cluster ID {cluster_id} in {}", self.cluster.display());
            return Err(Error::new(Kind::Precondition, text));
        }
        if found.read_affinity {
            warn_of_read_affinity(cluster_id);
        }
        Ok(found.entry.clone())
    }

    /// All clusters, as the file says now.
    ///
    /// # Errors
    /// config.json is missing or broken, if only in one entry.
    pub fn entries(&self) -> Result<Vec<ClusterEntry>, ConfigError> {
        let mut clusters = self.clusters()?;
        match clusters.iter_mut().find_map(|parsed| parsed.fault.take()) {
            Some(fault) => Err(ConfigError::invalid(&self.cluster, fault)),
            None => Ok(clusters.into_iter().map(|parsed| parsed.entry).collect()),
        }
    }

    /// The clusters whose entries can be understood.
    ///
    /// # Errors
    /// config.json is missing or no JSON.
    pub fn usable(&self) -> Result<Vec<ClusterEntry>, ConfigError> {
        let clusters = self.clusters()?.into_iter();
        Ok(clusters.filter(|parsed| parsed.fault.is_none()).map(|parsed| parsed.entry).collect())
    }

    /// Whether config.json can be read and is JSON. What is wrong within an entry concerns its own
    /// cluster; it is told in the log, and counted.
    ///
    /// # Errors
    /// The file, the place and what is wrong.
    pub fn check(&self) -> Result<(), ConfigError> {
        static TOLD: Mutex<String> = Mutex::new(String::new());
        let faults: Vec<_> = self.clusters()?.into_iter().filter_map(|parsed| parsed.fault).collect();
        metrics::config_faults(i64::try_from(faults.len()).unwrap_or(i64::MAX));
        let faults = faults.into_iter().map(|fault| ConfigError::invalid(&self.cluster, fault).to_string());
        let text = faults.collect::<Vec<_>>().join("; ");
        let mut told = TOLD.lock().unwrap_or_else(PoisonError::into_inner);
        if *told != text {
            if !text.is_empty() {
                tracing::warn!(
                    faults = text,
                    "volumes of these entries' clusters are not served; the others are"
                );
            }
            *told = text;
        }
        Ok(())
    }

    fn clusters(&self) -> Result<Vec<cluster::Parsed>, ConfigError> {
        let text = read(&self.cluster).map_err(|error| ConfigError::unreadable(&self.cluster, error))?;
        cluster::parse(&text).map_err(|fault| ConfigError::invalid(&self.cluster, fault))
    }

    fn warn_of_a_mapping(&self) {
        static WARNED: Once = Once::new();
        if WARNED.is_completed() || !self.has_mapping() {
            return;
        }
        WARNED.call_once(|| {
            tracing::warn!(
                file = %self.mapping.display(),
                "cluster mapping is not followed by this version: a volume is looked for only in the cluster and pool of its handle"
            );
        });
    }

    fn has_mapping(&self) -> bool {
        let Ok(text) = read(&self.mapping) else { return false };
        // A file that nobody follows is no reason to fail when it is broken.
        let empty = json::Document::parse(&text).and_then(|document| Ok(document.root().list()?.is_empty()));
        !empty.unwrap_or(false)
    }
}

fn warn_of_read_affinity(cluster_id: &str) {
    static WARNED: Once = Once::new();
    WARNED.call_once(|| {
        tracing::warn!(
            cluster_id,
            "readAffinity is not followed by this version: reads go to the primary OSDs"
        );
    });
}

/// Go replaces what is no UTF-8; so does this.
fn read(file: &Path) -> std::io::Result<String> {
    Ok(String::from_utf8_lossy(&std::fs::read(file)?).into_owned())
}

fn unknown(cluster_id: &str, clusters: &[cluster::Parsed]) -> String {
    /// An error's text must fit into a gRPC status.
    const NAMED: usize = 8;
    let ids: Vec<&str> = clusters.iter().map(|parsed| parsed.entry.cluster_id.as_str()).collect();
    let has = match ids.len() {
        0 => "no clusters".to_owned(),
        count if count > NAMED => format!("{} and {} more", ids[..NAMED].join(", "), count - NAMED),
        _ => ids.join(", "),
    };
    format!("missing configuration for cluster ID {cluster_id}; config.json has: {has}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(config: &[u8]) -> (tempfile::TempDir, ConfigFiles) {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("config.json"), config).unwrap();
        let at = |name| dir.path().join(name);
        let files = ConfigFiles { cluster: at("config.json"), mapping: at("cluster-mapping.json") };
        (dir, files)
    }

    #[test]
    fn an_edit_is_seen_by_the_next_call() {
        let (_dir, files) = files(br#"[{"clusterID":"a","monitors":["m"]}]"#);
        assert_eq!(files.cluster("a").unwrap().monitors, ["m"]);
        std::fs::write(&files.cluster, r#"[{"clusterID":"a","monitors":["n"]},{"clusterID":"a"}]"#).unwrap();
        assert_eq!(files.cluster("a").unwrap().monitors, ["n"]);
    }

    #[test]
    fn an_unknown_cluster_is_told_with_the_known_ones() {
        let (_dir, config) = files(br#"[{"clusterID":"a"},{"clusterID":"b"}]"#);
        let error = config.cluster("x").unwrap_err();
        assert_eq!(error.kind, Kind::NotFound);
        assert_eq!(error.to_string(), "missing configuration for cluster ID x; config.json has: a, b");
        let many: Vec<String> = (0..1000).map(|n| format!(r#"{{"clusterID":"{n:036}"}}"#)).collect();
        let (_dir, config) = files(format!("[{}]", many.join(",")).as_bytes());
        let text = config.cluster("x").unwrap_err().to_string();
        assert!(text.len() < 600 && text.ends_with("and 992 more"), "{text}");
    }

    #[test]
    fn a_file_that_is_missing_or_broken_is_named_with_the_place() {
        let (dir, config) = files(b"[{\"clusterID\":\"a\",\n \"monitors\":{}}]");
        let error = config.cluster("a").unwrap_err();
        assert_eq!(error.kind, Kind::Precondition);
        assert!(
            error.to_string().ends_with("config.json:2:13: [0].monitors: expected a list, found an object"),
            "{error}"
        );
        assert!(config.entries().is_err());
        assert!(config.check().is_ok() && config.usable().unwrap().is_empty(), "it is that cluster's alone");
        std::fs::write(&config.cluster, "[{").unwrap();
        assert!(config.check().is_err());
        std::fs::remove_file(dir.path().join("config.json")).unwrap();
        let error = config.cluster("a").unwrap_err();
        assert_eq!(error.kind, Kind::Precondition);
        assert!(error.to_string().contains("config.json: No such file"), "{error}");
    }

    #[test]
    fn a_wrong_entry_is_its_own_cluster_s_alone() {
        let text = br#"[{"clusterID":"a","monitors":["m"]},{"clusterID":"x","monitors":"10.0.0.1:6789"},
            {"clusterID":["y"],"monitors":["n"]}]"#;
        let (_dir, config) = files(text);
        assert_eq!(config.cluster("a").unwrap().monitors, ["m"]);
        let error = config.cluster("x").unwrap_err();
        assert_eq!(error.kind, Kind::Precondition);
        assert!(error.to_string().contains("config.json:1:65: [1].monitors: expected a list"), "{error}");
        // Whose id cannot be read may be any that is asked for.
        let error = config.cluster("y").unwrap_err();
        assert!(error.kind == Kind::Precondition && error.to_string().contains("[2].clusterID"), "{error}");
        assert_eq!(config.usable().unwrap().len(), 1);
    }

    #[test]
    fn a_cluster_without_monitors_is_of_no_use() {
        let (_dir, config) = files(br#"[{"clusterID":"a","monitors":[]}]"#);
        let error = config.cluster("a").unwrap_err();
        assert_eq!(error.kind, Kind::Precondition);
        assert!(error.to_string().starts_with("empty monitor list for cluster ID a"), "{error}");
    }

    #[test]
    fn bytes_that_are_no_text_and_any_mapping_are_accepted() {
        let (_dir, config) = files(b"[{\"clusterID\":\"a\",\"monitors\":[\"m\"],\"note\":\"\xff\"}]");
        assert!(!config.has_mapping());
        for (mapping, counts) in
            [("[]", false), ("null", false), (r#"[{"clusterIDMapping":{"a":"b"}}]"#, true)]
        {
            std::fs::write(&config.mapping, mapping).unwrap();
            assert_eq!(config.has_mapping(), counts, "{mapping}");
        }
        std::fs::write(&config.mapping, "broken").unwrap();
        assert!(config.cluster("a").is_ok());
    }
}
