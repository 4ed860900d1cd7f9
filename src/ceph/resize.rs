//! Growth of an image without opening it, in librbd's order (`ResizeRequest`).
//!
//! 1. With `object-map`, under the exclusive lock: the object map gets room for the new objects,
//!    none of which is there.
//! 2. The header gets the size, if it still has the one that was read.
//! 3. All who have the image open read the header anew.
//!
//! Not here: images that take more than that (a journal, an invalid object map, a feature of a
//! newer Ceph): those librbd grows ([`super::Image::resize`]). What a reader gets wrong: a
//! kernel refuses an object map that does not have just the objects of the header's size (and fails
//! the pod's write), so between the first step and the third nobody else may get the lock.

use std::time::Duration;

use super::encoding::Encoder;
use super::error::{CephError, Result};
use super::features::Features;
use super::header::Header;
use super::image::{ImageId, RBD};
use super::image_lock::ImageLock;
use super::pool::Pool;
use super::write_op::WriteOp;

/// The features of which this module knows that growth needs nothing more.
const KNOWN: Features = Features(
    Features::LAYERING.0
        | Features::STRIPING.0
        | Features::EXCLUSIVE_LOCK.0
        | Features::OBJECT_MAP.0
        | Features::FAST_DIFF.0
        | Features::DEEP_FLATTEN.0
        | Features::DATA_POOL.0
        | Features::OPERATIONS.0,
);
/// [`CephError::op`] of the object map's growth.
pub const OBJECT_MAP_SIZE: &str = "object map size";
/// How often, and how long after, an object map is made to fit: longer than an OSD takes to fail over.
const FITS: usize = 60;
const PAUSE: Duration = Duration::from_secs(1);
/// An object that is not there, in an object map.
const ABSENT: u8 = 0;

impl Header {
    /// Whether the image can grow by [`Pool::grow_image`].
    pub fn grows_unopened(&self) -> bool {
        let mapped = self.features.contains(Features::OBJECT_MAP);
        self.features.without(KNOWN) == Features::default() && (!mapped || self.object_map_valid())
    }
}

impl Pool {
    /// Grows an image that [`Header::grows_unopened`]; `lock` is its exclusive lock, which one with
    /// that feature needs. ECANCELED when it no longer has the header's size (nothing was changed);
    /// EINVAL when `size` is not larger; ENOSPC or EDQUOT when there is no room for the object map
    /// (nothing was changed). One operation, with an object map two, and two for those who have the
    /// image open.
    pub async fn grow_image(
        &self,
        id: &ImageId,
        header: &Header,
        size: u64,
        lock: Option<&ImageLock>,
    ) -> Result<()> {
        const OP: &str = "image size";
        let object = id.header_object();
        let needed = header.features.contains(Features::EXCLUSIVE_LOCK);
        if size <= header.size || (needed && lock.is_none()) {
            return Err(CephError::new(OP, self.describe(&object), libc::EINVAL));
        }
        let mapped = header.features.contains(Features::OBJECT_MAP);
        if mapped && let Err(error) = self.resize_object_map(id, header, size).await {
            // These say that nothing was done; any other may have been done all the same.
            if ![libc::ENOENT, libc::EINVAL, libc::ESTALE, libc::ENOSPC, libc::EDQUOT].contains(&error.errno)
            {
                self.fit_object_map(id).await;
            }
            return Err(error);
        }
        let op = WriteOp::new().assert_exists().omap_equals("size", header.size.to_le_bytes());
        let op = lock.map_or(op.clone(), |lock| lock.assert(op));
        let op = op.exec(RBD, c"set_size", Encoder::default().u64(size).finish());
        if let Err(error) = self.write(OP, &object, op).await {
            if mapped {
                self.fit_object_map(id).await;
            }
            return Err(error);
        }
        match lock {
            Some(lock) => lock.notify_header_update().await,
            None => self.notify_header_update(id).await,
        }
    }

    async fn resize_object_map(&self, id: &ImageId, header: &Header, size: u64) -> Result<()> {
        let objects = Header { size, ..header.clone() }.data_objects();
        let input = Encoder::default().u64(objects).u8(ABSENT).finish();
        let op = WriteOp::new().assert_exists().exec(RBD, c"object_map_resize", input);
        self.write(OBJECT_MAP_SIZE, &id.object_map_object(), op).await
    }

    /// Makes the object map fit the header again, whatever was done of a growth that failed: a
    /// kernel that got the lock before that would fail its pod's writes.
    async fn fit_object_map(&self, id: &ImageId) {
        for tried in 1..=FITS {
            let fitted = async {
                match self.image_header(id, &[]).await? {
                    Some(header) => self.resize_object_map(id, &header, header.size).await,
                    None => Ok(()),
                }
            };
            match fitted.await {
                Ok(()) => return,
                // Whoever takes the lock does so by fencing this client first.
                Err(error) if error.is(libc::ESHUTDOWN) => return,
                Err(error) if tried == FITS => {
                    let image = self.describe(id.as_str());
                    tracing::error!(%error, image, "its object map does not fit its size: `rbd object-map rebuild` it");
                }
                Err(_) => tokio::time::sleep(PAUSE).await,
            }
        }
    }
}
