//! The stash: `image-meta.json` in the staging folder, by which a volume is unstaged
//! without secrets, context or cluster.
//!
//! Lives here: ceph-csi's format (its Version 3), read and written, so that each driver
//! unstages what the other staged. Files are written by `host::place`.
//!
//! What a reader gets wrong: it is a note, not a truth. A file left from before a reboot
//! says nothing of what is mounted now; whoever acts on it compares it with the kernel.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::host::krbd::{self, Mapping};
use crate::host::thread::on_thread;
use crate::host::{place, step_on_thread};
use crate::node::staged::at_path;
use crate::volume::error::{Error, Kind, Result};
use crate::volume::map_options::UnmapOptions;

/// The file's name in the staging folder.
pub const FILE: &str = "image-meta.json";
/// A stash has a few hundred bytes.
const LONGEST: u64 = 64 << 10;

/// What a staging folder remembers of its volume. Names and order are ceph-csi's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Stash {
    #[serde(rename = "Version")]
    version: u32,
    /// The pool's name.
    pub pool: String,
    /// The RADOS namespace, empty for none.
    #[serde(rename = "radosNamespace")]
    pub namespace: String,
    /// The image's name.
    pub image: String,
    #[serde(rename = "unmapOptions")]
    unmap_options: String,
    /// Mapped with rbd-nbd.
    #[serde(rename = "accessType")]
    nbd: bool,
    encrypted: bool,
    device: String,
    #[serde(rename = "logDir")]
    log_dir: String,
    #[serde(rename = "logFileStrategy")]
    log_file_strategy: String,
    /// The cluster, which ceph-csi does not note and does not mind; empty when unknown.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub fsid: String,
    /// The image's id, which a rename does not change; as the cluster, ours alone.
    #[serde(rename = "imageId", skip_serializing_if = "String::is_empty")]
    pub image_id: String,
}

impl Default for Stash {
    fn default() -> Self {
        Self {
            version: 3,
            pool: String::new(),
            namespace: String::new(),
            image: String::new(),
            unmap_options: String::new(),
            nbd: false,
            encrypted: false,
            device: String::new(),
            log_dir: String::new(),
            log_file_strategy: String::new(),
            fsid: String::new(),
            image_id: String::new(),
        }
    }
}

/// What was found in a staging folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// A stash.
    Stash(Box<Stash>),
    /// A file that says nothing, such as ceph-csi leaves when it dies while writing.
    Damaged,
    /// No file.
    Nothing,
}

impl Stash {
    /// Of an image that is about to be mapped.
    pub fn new(pool: &str, namespace: &str, image: &str, unmap: UnmapOptions) -> Self {
        Self {
            pool: pool.into(),
            namespace: namespace.into(),
            image: image.into(),
            unmap_options: unmap.to_stash().into(),
            ..Self::default()
        }
    }

    /// Of an image that is mapped, where the file was lost.
    pub fn of_mapping(mapping: &Mapping) -> Self {
        Self::new(&mapping.pool, &mapping.namespace, &mapping.image, UnmapOptions::default())
            .on(&mapping.cluster_fsid, &mapping.image_id)
    }

    /// The same, of the image with that id on that cluster.
    pub fn on(mut self, fsid: &str, image_id: &str) -> Self {
        fsid.clone_into(&mut self.fsid);
        image_id.clone_into(&mut self.image_id);
        self
    }

    /// Whether both may be of one image: what one of them does not note does not count.
    pub fn is_same_image(&self, other: &Self) -> bool {
        let same = |one: &str, other: &str| one.is_empty() || other.is_empty() || one == other;
        self.spec() == other.spec() && same(&self.fsid, &other.fsid) && same(&self.image_id, &other.image_id)
    }

    /// Whether the mapping may be on this stash's cluster.
    pub fn is_on_cluster_of(&self, mapping: &Mapping) -> bool {
        self.fsid.is_empty() || self.fsid == mapping.cluster_fsid
    }

    /// How its device is to be unmapped.
    pub fn unmap(&self) -> UnmapOptions {
        UnmapOptions::from_stash(&self.unmap_options)
    }

    /// Whether the device maps this stash's image.
    pub fn is_of(&self, mapping: &Mapping) -> bool {
        self.is_on_cluster_of(mapping) && mapping.is_image(&self.pool, &self.namespace, &self.image)
    }

    /// `pool/[namespace/]image`.
    pub fn spec(&self) -> String {
        krbd::spec(&self.pool, &self.namespace, &self.image)
    }

    /// Refuses what this version cannot take apart.
    ///
    /// # Errors
    /// [`Kind::Precondition`] for an encrypted volume or one mapped with rbd-nbd.
    fn check(&self, folder: &Path) -> Result<()> {
        let what = match (self.encrypted, self.nbd) {
            (true, _) => "is encrypted",
            (_, true) => "is mapped with rbd-nbd",
            _ => return Ok(()),
        };
        Err(Error::new(
            Kind::Precondition,
            format!(
                "{} {what}, says {}, which this version of the driver does not serve; nothing was changed. \
                 Unstage it with the driver that staged it",
                self.spec(),
                file(folder).display()
            ),
        ))
    }
}

/// Reads the stash of a staging folder.
///
/// # Errors
/// The file or a folder above it cannot be read.
pub async fn read(folder: &Path) -> Result<Found> {
    let path = file(folder);
    let object = path.display().to_string();
    let read = on_thread("read", &object, move || place::read(&path, LONGEST));
    let Some(bytes) = read.await.map_err(at_path)? else { return Ok(Found::Nothing) };
    Ok(parse(&bytes).map_or_else(
        || {
            tracing::warn!(file = object, "the stash is damaged and is ignored");
            Found::Damaged
        },
        |stash| Found::Stash(Box::new(stash)),
    ))
}

/// The stash by which a volume can be taken apart; none where none says anything.
///
/// # Errors
/// As [`read`], and [`Kind::Precondition`] for what this version does not serve.
pub async fn usable(folder: &Path) -> Result<Option<Stash>> {
    match read(folder).await? {
        Found::Stash(stash) => stash.check(folder).map(|()| Some(*stash)),
        Found::Damaged | Found::Nothing => Ok(None),
    }
}

fn parse(bytes: &[u8]) -> Option<Stash> {
    serde_json::from_slice(bytes)
        .ok()
        .filter(|stash: &Stash| !stash.pool.is_empty() && !stash.image.is_empty())
}

/// Writes the stash: durably, and whole or not at all.
///
/// # Errors
/// The node's own, such as ENOSPC.
pub async fn write(folder: &Path, stash: &Stash) -> Result<()> {
    let path = file(folder);
    let text = serde_json::to_vec(stash)
        .map_err(|error| Error::new(Kind::Internal, "composing the stash").because(error))?;
    let object = path.display().to_string();
    let write = move || place::write_whole(&path, &text, 0o600);
    step_on_thread("host: write stash", "write", object, write).await.map_err(at_path)
}

/// Removes the stash; none is no error.
///
/// # Errors
/// The node's own.
pub async fn remove(folder: &Path) -> Result<()> {
    let path = file(folder);
    let object = path.display().to_string();
    let remove = move || place::remove(&path);
    step_on_thread("host: remove stash", "remove", object, remove).await.map(drop).map_err(at_path)
}

fn file(folder: &Path) -> PathBuf {
    folder.join(FILE)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As ceph-csi 3.15 writes it.
    const CEPH_CSI: &str = r#"{"Version":3,"pool":"p","radosNamespace":"","image":"csi-vol-1","unmapOptions":"","accessType":false,"encrypted":false,"device":"","logDir":"","logFileStrategy":""}"#;

    #[test]
    fn is_ceph_csis_to_the_byte() {
        let stash = Stash::new("p", "", "csi-vol-1", UnmapOptions::default());
        assert_eq!(serde_json::to_string(&stash).unwrap(), CEPH_CSI);
        assert_eq!(parse(CEPH_CSI.as_bytes()), Some(stash));
    }

    #[test]
    fn old_and_new_files_are_read_and_damaged_ones_are_not() {
        let old = parse(br#"{"Version":1,"pool":"p","image":"i","accessType":true,"later":[1]}"#).unwrap();
        assert!(old.nbd && old.namespace.is_empty());
        assert_eq!(old.check(Path::new("/s")).unwrap_err().kind, Kind::Precondition);
        for damaged in ["", "{", "{}", r#"{"Version":3,"pool":"p","image":""}"#, &CEPH_CSI[..80]] {
            assert_eq!(parse(damaged.as_bytes()), None, "{damaged}");
        }
    }

    #[test]
    fn an_encrypted_one_is_refused_untouched() {
        let stash = Stash { encrypted: true, ..Stash::new("p", "n", "i", UnmapOptions::default()) };
        let error = stash.check(Path::new("/s")).unwrap_err();
        assert_eq!(error.kind, Kind::Precondition);
        assert!(error.to_string().contains("p/n/i is encrypted"), "{error}");
    }
}
