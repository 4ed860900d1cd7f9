//! The mark that an image carries while a file system is made on it.
//!
//! Put before mkfs and removed after it, it tells a later call, perhaps on
//! another node, that what it finds may be an unfinished mkfs of ours, and which.
//! It lives in the image's metadata: a key with a leading dot, which ceph-csi
//! ignores and mirroring does not copy.
//!
//! Easily missed: it speaks of what an mkfs left, so it has to go before anybody
//! else's data may come: before a mount, and before a device is given out raw. And a
//! clone is born with its source's metadata (librbd leaves out keys such as this one, but
//! that is its own affair), so a mark says which image it is of; on another it proves nothing.

use serde::{Deserialize, Serialize};

use crate::ceph::{Header, ImageId, Pool};
use crate::host::boot::boot_id;
use crate::host::fs_kind::FsKind;
use crate::volume::error::{Error, Kind, Result};

/// The metadata key.
pub const KEY: &str = ".rbd.csi.formatting";

/// What was about to be made, by whom.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// The node's name.
    pub node: String,
    /// The node's boot.
    pub boot: String,
    /// What is made.
    pub filesystem: FsKind,
    /// mkfs's arguments before the device.
    pub arguments: Vec<String>,
    /// When, in seconds since 1970.
    pub time: u64,
    /// The id of the image. The first drivers did not note it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
}

impl Mark {
    /// A mark of this node for that image, of now.
    ///
    /// # Errors
    /// When the node does not tell its boot.
    pub fn new(node: &str, image: &ImageId, filesystem: FsKind, arguments: Vec<String>) -> Result<Self> {
        let time = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        Ok(Self {
            node: node.to_owned(),
            boot: boot_id()?,
            filesystem,
            arguments,
            time: time.as_secs(),
            image: Some(image.as_str().to_owned()),
        })
    }

    /// Whether it was put onto this image, and not copied from another by a clone. The first
    /// drivers, which noted no image, never formatted one with a parent.
    pub fn is_of(&self, image: &ImageId, header: &Header) -> bool {
        match &self.image {
            Some(marked) => marked == image.as_str(),
            None => header.parent.is_none(),
        }
    }

    /// The mark in a header that was read with [`KEY`].
    ///
    /// # Errors
    /// When somebody else wrote something there.
    pub fn of(header: &Header) -> Result<Option<Self>> {
        let Some(text) = header.metadata.get(KEY) else { return Ok(None) };
        serde_json::from_str(text).map(Some).map_err(|error| {
            Error::new(
                Kind::Precondition,
                format!("the image's metadata key {KEY} is not one that this version wrote: {text:?}"),
            )
            .because(error)
        })
    }

    fn text(&self) -> Result<String> {
        serde_json::to_string(self)
            .map_err(|error| Error::new(Kind::Internal, "a mark cannot be written as JSON").because(error))
    }

    /// Puts it on the image in place of what the header had, which was read with [`KEY`].
    ///
    /// # Errors
    /// [`Kind::Busy`] when the image's mark is another by now; Ceph's.
    pub async fn put(&self, pool: &Pool, image: &ImageId, header: &Header) -> Result<()> {
        let old = header.metadata.get(KEY).map_or("", String::as_str);
        let put = pool.replace_metadata(image, KEY, old, &self.text()?).await;
        put.map_err(|error| match error.errno {
            libc::ECANCELED => {
                let text = "another node makes a file system on the image, or has just made one";
                Error::new(Kind::Busy, text).because(error)
            }
            _ => error.into(),
        })
    }

    /// Takes just this mark off the image.
    ///
    /// # Errors
    /// Ceph's; ECANCELED when the image's mark is another by now.
    pub async fn take_back(&self, pool: &Pool, image: &ImageId) -> Result<()> {
        Ok(pool.remove_metadata_of(image, KEY, &self.text()?).await?)
    }

    /// Takes any mark off the image; gives whether there was one.
    ///
    /// # Errors
    /// Ceph's.
    pub async fn clear(pool: &Pool, image: &ImageId) -> Result<bool> {
        let header = pool.image_header(image, &[KEY]).await?;
        if !header.is_some_and(|header| header.metadata.contains_key(KEY)) {
            return Ok(false);
        }
        Self::remove(pool, image).await.map(|()| true)
    }

    /// Takes the mark off the image.
    ///
    /// # Errors
    /// Ceph's.
    pub async fn remove(pool: &Pool, image: &ImageId) -> Result<()> {
        Ok(pool.remove_metadata(image, KEY).await?)
    }
}

impl std::fmt::Display for Mark {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { node, filesystem, arguments, time, .. } = self;
        write!(f, "{} {} on node {node} at second {time}", filesystem.mkfs(), arguments.join(" "))
    }
}
