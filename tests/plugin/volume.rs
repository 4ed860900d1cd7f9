//! A volume as a CO knows it, and what the node shows of it.

use std::collections::BTreeMap;
use std::io::{Read as _, Seek as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use rbd_csi::csi::proto::VolumeCapability;
use rbd_csi::csi::proto::volume_capability::access_mode::Mode;
use rbd_csi::csi::proto::volume_capability::{AccessMode, AccessType, BlockVolume, MountVolume};
use rbd_csi::host::krbd::{self, Mapping};
use rbd_csi::host::mountinfo::{self, Mount};

use super::process::secrets;

/// What a volume is to its pods.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    Ext4,
    Xfs,
    Block,
}

impl Form {
    /// As Kubernetes' ReadWriteOnce asks for it.
    pub fn capability(self) -> VolumeCapability {
        let mount =
            |fs_type: &str| AccessType::Mount(MountVolume { fs_type: fs_type.into(), ..Default::default() });
        VolumeCapability {
            access_mode: Some(AccessMode { mode: Mode::SingleNodeMultiWriter.into() }),
            access_type: Some(match self {
                Self::Ext4 => mount("ext4"),
                Self::Xfs => mount("xfs"),
                Self::Block => AccessType::Block(BlockVolume {}),
            }),
        }
    }

    /// A small size that mkfs takes.
    pub fn mib(self) -> i64 {
        match self {
            Self::Ext4 => 32,
            Self::Xfs => 300,
            Self::Block => 8,
        }
    }
}

/// A volume and where it is staged.
#[derive(Debug, Clone)]
pub struct Volume {
    pub id: String,
    pub image: String,
    pub context: BTreeMap<String, String>,
    pub secrets: BTreeMap<String, String>,
    pub capability: VolumeCapability,
    pub staging: PathBuf,
}

impl Volume {
    pub fn new(
        id: String,
        context: BTreeMap<String, String>,
        cluster: &str,
        capability: VolumeCapability,
    ) -> Self {
        let staging = Path::new("/var/lib/kubelet").join(&id).join("globalmount");
        std::fs::create_dir_all(&staging).unwrap();
        let image = format!("csi-vol-{}", &id[id.len() - 36..]);
        Self { id, image, context, secrets: secrets(cluster), capability, staging }
    }

    /// `<staging>/<volume id>`.
    pub fn entry(&self) -> PathBuf {
        self.staging.join(&self.id)
    }

    /// A pod's path, whose parent the kubelet would have made.
    pub fn target(&self, pod: &str) -> PathBuf {
        let parent = self.staging.parent().unwrap().join("pods").join(pod);
        std::fs::create_dir_all(&parent).unwrap();
        parent.join("mount")
    }

    /// Its devices, on whichever cluster its image is.
    pub fn mappings(&self) -> Vec<Mapping> {
        krbd::find(None, "rbd", "", &self.image).unwrap()
    }

    /// What is mounted at its staging path and its pods' paths.
    pub fn mounts(&self) -> Vec<Mount> {
        let folder = self.staging.parent().unwrap();
        let mut mounts = mountinfo::all().unwrap();
        mounts.retain(|mount| mount.point.starts_with(folder));
        mounts
    }

    /// One device, one mount, one stash.
    #[track_caller]
    pub fn is_staged_once(&self, at: &str) {
        let (mappings, mounts) = (self.mappings(), self.mounts());
        assert_eq!(mappings.len(), 1, "{at}: {mappings:?}");
        assert!(mounts.len() == 1 && mounts[0].point == self.entry(), "{at}: {mounts:?}");
        let mut entries: Vec<_> =
            std::fs::read_dir(&self.staging).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        entries.sort();
        assert_eq!(entries, [self.id.as_str(), "image-meta.json"], "{at}");
    }

    /// Nothing of it is on this node.
    #[track_caller]
    pub fn is_gone(&self, at: &str) {
        let (mappings, mounts) = (self.mappings(), self.mounts());
        assert!(mappings.is_empty() && mounts.is_empty(), "{at}: {mappings:?} {mounts:?}");
        let left: Vec<_> = std::fs::read_dir(&self.staging).unwrap().map(|e| e.unwrap().path()).collect();
        assert!(left.is_empty(), "{at}: {left:?}");
    }
}

/// The first bytes of a pod's raw device, or of a file in its file system.
#[track_caller]
pub fn write(place: &Path, text: &str) {
    let path = if place.is_dir() { place.join("file") } else { place.to_owned() };
    let mut file = std::fs::File::options().create(place.is_dir()).write(true).open(path).unwrap();
    file.write_all(text.as_bytes()).unwrap();
    file.sync_all().unwrap();
}

/// What [`write`] wrote, `length` bytes of it.
#[track_caller]
pub fn read(place: &Path, length: usize) -> String {
    let path = if place.is_dir() { place.join("file") } else { place.to_owned() };
    let mut file = std::fs::File::open(path).unwrap();
    file.rewind().unwrap();
    let mut text = vec![0; length];
    file.read_exact(&mut text).unwrap();
    String::from_utf8(text).unwrap()
}

/// Runs a line for the shell that must succeed; gives its output.
#[track_caller]
pub fn run(line: &str) -> String {
    let output = Command::new("sh").args(["-ec", line]).output().unwrap();
    assert!(output.status.success(), "{line}: {output:?}");
    String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
}
