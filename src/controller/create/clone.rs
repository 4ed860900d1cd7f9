//! A clone of a snapshot: made, and told from the pieces of one.
//!
//! What a reader gets wrong: librbd makes the clone first and attaches it to its parent
//! later, so a stop in between leaves an image that looks like a whole, empty one
//! (`ceph::clone` has the table). It is whole when its header names the parent and the
//! parent names it.

use std::future::Future;
use std::time::Duration;

use crate::ceph::{Header, ImageId, ImageSpec, Pool};
use crate::controller::create::refusal;
use crate::volume::error::{Error, Kind, Result};

/// How often a call is made again that met a flatten at its end, and how long after.
const TRIES: usize = 8;
const PAUSE: Duration = Duration::from_millis(250);

/// The snapshot that an image is cloned from.
#[derive(Debug, Clone)]
pub struct Parent {
    /// The pool of the image that was snapshotted.
    pub pool: Pool,
    /// Its name.
    pub image: String,
    /// Its id.
    pub id: ImageId,
    /// The snapshot's name.
    pub snapshot: String,
    /// The snapshot's id.
    pub snap_id: u64,
}

impl Parent {
    /// Whether a header names this parent.
    pub fn is_of(&self, header: &Header) -> bool {
        header.parent.as_ref().is_some_and(|parent| {
            parent.pool_id == self.pool.id()
                && parent.namespace == self.pool.namespace()
                && parent.image_id == self.id.as_str()
                && parent.snap_id == self.snap_id
        })
    }

    /// Whether the parent names the image as its clone. One operation.
    ///
    /// # Errors
    /// What Ceph answers.
    pub async fn names(&self, pool: &Pool, id: &ImageId) -> Result<bool> {
        let children = self.pool.children_of(&self.id, Some(self.snap_id)).await?;
        Ok(children.iter().any(|child| child.is(pool, id)))
    }
}

/// Makes the clone; nothing of that name is there.
///
/// # Errors
/// What Ceph answers; after an error any part of the clone may exist.
pub async fn make(pool: &Pool, name: &str, parent: &Parent, spec: &ImageSpec) -> Result<(ImageId, Header)> {
    let clone_now = || parent.pool.clone_image(&parent.image, &parent.snapshot, pool, name, spec);
    let cloned = unless_flattened(&parent.pool, &parent.id, clone_now).await;
    let cloned = match cloned {
        // An id that another image has; see `Maker::create`.
        Err(error) if error.is(libc::EBADF) && pool.directory_id(name).await?.is_none() => {
            parent.pool.clone_image(&parent.image, &parent.snapshot, pool, name, spec).await
        }
        cloned => cloned,
    };
    if let Err(error) = cloned {
        return Err(refusal::of_clone(error, spec, pool, name).await);
    }
    let vanished = || {
        let text = format!("image {} vanished right after it was cloned", pool.describe(name));
        Error::new(Kind::Unavailable, text)
    };
    let id = pool.image_id(name).await?.ok_or_else(vanished)?;
    let header = pool.image_header(&id, &[]).await?.ok_or_else(vanished)?;
    Ok((id, header))
}

/// Makes a call that opens an image, again for a moment while it answers ENOENT though the image
/// is there: at the end of a flatten, of this image or of one that it is a clone of, librbd
/// takes a snapshot away before the header that names it.
///
/// # Errors
/// What the call answers in the end.
pub async fn unless_flattened<T, Call>(
    pool: &Pool,
    id: &ImageId,
    call: impl Fn() -> Call,
) -> crate::ceph::Result<T>
where
    Call: Future<Output = crate::ceph::Result<T>>,
{
    for _ in 0..TRIES {
        match call().await {
            Err(error) if error.is(libc::ENOENT) && pool.image_header(id, &[]).await?.is_some() => {}
            answered => return answered,
        }
        tokio::time::sleep(PAUSE).await;
    }
    call().await
}

/// The prefixes of metadata that belong to one volume or snapshot and to no clone of it.
/// librbd's clone copies all keys of the parent but those that begin with `.rbd`.
const NOT_INHERITED: [&str; 3] = ["csi.storage.k8s.io/", "csi.ceph.com/", "rbd.csi.ceph.com/"];

/// Takes from a clone what librbd has copied of its parent's names, and writes its own.
/// Two operations.
///
/// # Errors
/// What Ceph answers.
pub async fn describe(pool: &Pool, id: &ImageId, own: &[(String, String)]) -> Result<()> {
    let inherited = pool.image_metadata(id).await?;
    let foreign = inherited
        .into_keys()
        .filter(|key| NOT_INHERITED.iter().any(|prefix| key.starts_with(prefix)))
        .filter(|key| own.iter().all(|(name, _)| name != key));
    let foreign: Vec<String> = foreign.collect();
    if !foreign.is_empty() || !own.is_empty() {
        pool.change_metadata(id, &foreign, own).await?;
    }
    Ok(())
}
