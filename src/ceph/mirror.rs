//! Whether an image is mirrored, and which side of the mirror it is.

use super::encoding::text;
use super::error::Result;
use super::ffi;
use super::image::{ImageId, RBD};
use super::open::OpenMode;
use super::pool::Pool;
use super::read_op::ReadOp;

const MIRRORING: &str = "rbd_mirroring";

/// An image's part in mirroring.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MirrorState {
    /// It has none.
    NotMirrored,
    /// Others copy it; it may be written, and deleted.
    Primary,
    /// It is another's copy, or was demoted: librbd refuses every change (EROFS, EINVAL).
    NonPrimary,
}

impl Pool {
    /// One operation for an image that is not mirrored, as nearly all are; a mirrored one is
    /// opened (read-only) and librbd asked (`rbd_mirror_image_get_info`).
    pub async fn mirror_state(&self, id: &ImageId) -> Result<MirrorState> {
        if !self.is_mirrored(id).await? {
            return Ok(MirrorState::NotMirrored);
        }
        let image = self.open_image(id, OpenMode::ReadOnly).await?;
        let primary = image.on_image("rbd_mirror_image_get_info", |image| {
            let mut info =
                ffi::rbd_mirror_image_info_t { global_id: std::ptr::null_mut(), state: 0, primary: false };
            // SAFETY: an open image and room of the size that is told; what it gave is freed once.
            unsafe {
                let code = ffi::rbd_mirror_image_get_info(image, &mut info, size_of_val(&info));
                if code >= 0 {
                    ffi::rbd_mirror_image_get_info_cleanup(&mut info);
                }
                (code.into(), info.primary)
            }
        });
        let primary = primary.await;
        image.close().await?;
        Ok(if primary? { MirrorState::Primary } else { MirrorState::NonPrimary })
    }

    /// Whether the image takes part in mirroring; one operation.
    pub(super) async fn is_mirrored(&self, id: &ImageId) -> Result<bool> {
        let op = ReadOp::new().exec(RBD, c"mirror_image_get", text(id.as_str()));
        match self.read("mirror get", MIRRORING, op).await {
            Ok(_) => Ok(true),
            Err(error) if error.is(libc::ENOENT) => Ok(false),
            Err(error) => Err(error),
        }
    }
}
