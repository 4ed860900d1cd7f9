//! A volume as a CO knows it, and what its pods read and write.

use std::collections::BTreeMap;
use std::io::{Read as _, Seek as _, Write as _};
use std::ops::{Deref, DerefMut};
use std::path::Path;

use rbd_csi::csi::proto::VolumeCapability;
use rbd_csi::csi::proto::volume_capability::access_mode::Mode;
use rbd_csi::csi::proto::volume_capability::{AccessMode, AccessType, BlockVolume, MountVolume};

use super::process::secrets;
use super::support;

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

/// A volume with what a CO says of it in each call.
#[derive(Debug, Clone)]
pub struct Volume {
    here: support::volume::Volume,
    pub secrets: BTreeMap<String, String>,
    pub capability: VolumeCapability,
}

impl Volume {
    pub fn new(
        id: String,
        context: BTreeMap<String, String>,
        cluster: &str,
        capability: VolumeCapability,
    ) -> Self {
        let image = format!("csi-vol-{}", &id[id.len() - 36..]);
        let here = support::volume::Volume::new(Path::new("/var/lib/kubelet"), id, image, context);
        Self { here, secrets: secrets(cluster), capability }
    }
}

impl Deref for Volume {
    type Target = support::volume::Volume;

    fn deref(&self) -> &Self::Target {
        &self.here
    }
}

impl DerefMut for Volume {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.here
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
