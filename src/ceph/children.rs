//! The clones that hang on an image's snapshots.
//!
//! Only clones of version 2, whose links are in the parent's own header
//! (`snap_children_<snapshot>`); a clone of version 1 needs a protected snapshot,
//! which is told by itself.

use super::encoding::{Decoded, Decoder};
use super::error::{CephError, Result};
use super::image::ImageId;
use super::pool::Pool;

const OP: &str = "children list";

struct Child {
    pool_id: i64,
    namespace: String,
    image_id: ImageId,
}

impl Pool {
    /// The names of the clones, as `pool/image`; an image that cannot be named
    /// (in the trash, or in a pool that the key may not read) by its id.
    pub async fn children(&self, id: &ImageId) -> Result<Vec<String>> {
        let object = id.header_object();
        let mut names = Vec::new();
        for links in self.omap_all(OP, &object, "snap_children_").await?.values() {
            let children =
                decode(links).map_err(|_| CephError::new(OP, self.describe(&object), libc::EBADMSG))?;
            for child in children {
                names.push(self.child_name(&child).await?);
            }
        }
        Ok(names)
    }

    async fn child_name(&self, child: &Child) -> Result<String> {
        let Some(pool) = self.connection().pool_by_id(child.pool_id, &child.namespace).await? else {
            return Ok(format!("image id {} in pool id {}", child.image_id.as_str(), child.pool_id));
        };
        Ok(match pool.directory_name(&child.image_id).await {
            Ok(Some(name)) => pool.describe(&name),
            _ => format!("image id {} of pool {}", child.image_id.as_str(), pool.name()),
        })
    }
}

/// A set of `cls::rbd::ChildImageSpec`.
fn decode(data: &[u8]) -> Decoded<Vec<Child>> {
    let mut links = Decoder::new(data);
    (0..links.u32()?)
        .map(|_| {
            let mut fields = links.versioned()?.contents;
            let (pool_id, image_id, namespace) = (fields.i64()?, fields.text()?, fields.text()?);
            Ok(Child { pool_id, namespace, image_id: ImageId::new(image_id) })
        })
        .collect()
}
