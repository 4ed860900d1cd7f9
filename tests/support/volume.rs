//! A volume on the node that the test runs in: where it is staged, what shows of it, and
//! how a call for it is refused.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use rbd_csi::host::krbd::{self, Mapping};
use rbd_csi::host::mountinfo::{self, Mount};
use rbd_csi::volume::{Error, Kind, Result};

use super::inside::{KEY, variable};

/// A volume and where it is staged.
#[derive(Debug, Clone)]
pub struct Volume {
    pub id: String,
    pub image: String,
    pub staging: PathBuf,
    pub context: BTreeMap<String, String>,
}

impl Volume {
    /// With a staging folder below that of the kubelet, which would have made it.
    pub fn new(kubelet: &Path, id: String, image: String, context: BTreeMap<String, String>) -> Self {
        let staging = kubelet.join(&id).join("globalmount");
        std::fs::create_dir_all(&staging).unwrap();
        Self { id, image, staging, context }
    }

    /// `<staging>/<volume id>`.
    pub fn entry(&self) -> PathBuf {
        self.staging.join(&self.id)
    }

    /// The stash.
    pub fn stash(&self) -> PathBuf {
        self.staging.join("image-meta.json")
    }

    /// A pod's path, whose parent the kubelet would have made.
    pub fn target(&self, pod: &str) -> PathBuf {
        let parent = self.staging.parent().unwrap().join("pods").join(pod);
        std::fs::create_dir_all(&parent).unwrap();
        parent.join("mount")
    }

    /// Its devices, on whichever cluster its image is.
    pub fn mappings(&self) -> Vec<Mapping> {
        krbd::find("rbd", "", &self.image).unwrap()
    }

    /// What is mounted at its staging path and its pods' paths.
    pub fn mounts(&self) -> Vec<Mount> {
        let folder = self.staging.parent().unwrap();
        let mut mounts = mountinfo::all().unwrap();
        mounts.retain(|mount| mount.point.starts_with(folder));
        mounts
    }

    /// What lies at its staging path, sorted.
    fn entries(&self) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(&self.staging).unwrap();
        let mut entries: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
        entries.sort();
        entries
    }

    /// One device, one mount, one stash.
    #[track_caller]
    pub fn is_staged_once(&self, at: &str) {
        let (mappings, mounts) = (self.mappings(), self.mounts());
        assert_eq!(mappings.len(), 1, "{at}: {mappings:?}");
        assert!(mounts.len() == 1 && mounts[0].point == self.entry(), "{at}: {mounts:?}");
        assert_eq!(self.entries(), [self.entry(), self.stash()], "{at}");
    }

    /// Nothing of it is on this node.
    #[track_caller]
    pub fn is_gone(&self) {
        self.is_gone_at(&self.id);
    }

    /// The same, for a line of a test that is passed more than once.
    #[track_caller]
    pub fn is_gone_at(&self, at: &str) {
        let (mappings, mounts) = (self.mappings(), self.mounts());
        assert!(mappings.is_empty() && mounts.is_empty(), "{at}: {mappings:?} {mounts:?}");
        let left = self.entries();
        assert!(left.is_empty(), "{at}: {left:?}");
    }
}

/// The call failed so, and its text has the words and no secret.
#[track_caller]
pub fn refused<T: std::fmt::Debug>(outcome: Result<T>, kind: Kind, words: &[&str]) -> Error {
    let error = outcome.expect_err("it must be refused");
    assert_eq!(error.kind, kind, "{error}");
    for word in words {
        assert!(error.to_string().contains(word), "{word} is missing: {error}");
    }
    assert!(!error.to_string().contains(&variable(KEY)));
    error
}
