//! The clones that hang on an image's snapshots.
//!
//! Only clones of format 2, whose links are in the parent's own header
//! (`snap_children_<snapshot>`); a clone of format 1 needs a protected snapshot,
//! which is told by itself.

use super::encoding::{Decoded, Decoder};
use super::error::{CephError, Result};
use super::image::ImageId;
use super::pool::Pool;
use super::read_op::{Omap, ReadOp, ReadResult};

const OP: &str = "children list";
const PREFIX: &str = "snap_children_";

/// A clone of a snapshot, as the parent's header names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Child {
    /// The pool that the clone is in.
    pub pool_id: i64,
    /// Its RADOS namespace.
    pub namespace: String,
    /// Its image id.
    pub image_id: ImageId,
    /// The parent's snapshot that it was made from.
    pub snap_id: u64,
}

impl Child {
    /// Whether it is this image.
    pub fn is(&self, pool: &Pool, id: &ImageId) -> bool {
        self.pool_id == pool.id() && self.namespace == pool.namespace() && self.image_id == *id
    }
}

impl Pool {
    /// The clones of one snapshot, or of all (`None`), in the trash or not; none when
    /// there is no image. One operation (for all: one per thousand snapshots that have
    /// clones). A link may outlive its clone, and may be missing for a clone that
    /// stopped half-way: see [`Pool::clone_image`].
    pub async fn children_of(&self, id: &ImageId, snapshot: Option<u64>) -> Result<Vec<Child>> {
        let object = id.header_object();
        let links = match snapshot {
            Some(snap_id) => {
                let op = ReadOp::new().omap_keys([format!("{PREFIX}{snap_id:016x}")]);
                self.read(OP, &object, op).await.map(|mut found| found.next().map(ReadResult::into_omap))
            }
            None => self.omap_all(OP, &object, PREFIX).await.map(Some),
        };
        match links {
            Err(error) if error.is(libc::ENOENT) => Ok(Vec::new()),
            links => all(&links?.unwrap_or_default())
                .map_err(|_| CephError::new(OP, self.describe(&object), libc::EBADMSG)),
        }
    }

    /// The names of the clones, as `pool/image`; an image that cannot be named
    /// (in the trash, or in a pool that the key may not read) by its id.
    pub async fn children(&self, id: &ImageId) -> Result<Vec<String>> {
        let mut names = Vec::new();
        for child in self.children_of(id, None).await? {
            names.push(self.child_name(&child).await?);
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

fn all(links: &Omap) -> Decoded<Vec<Child>> {
    let mut children = Vec::new();
    for (key, value) in links {
        let number = key.trim_start_matches(PREFIX);
        let snap_id = u64::from_str_radix(number, 16).map_err(|_| super::encoding::Malformed)?;
        children.extend(decode(snap_id, value)?);
    }
    Ok(children)
}

/// A set of `cls::rbd::ChildImageSpec`; version 1 (Ceph 13) had no namespace.
fn decode(snap_id: u64, data: &[u8]) -> Decoded<Vec<Child>> {
    let mut links = Decoder::new(data);
    (0..links.u32()?)
        .map(|_| {
            let mut outer = links.versioned()?;
            let fields = &mut outer.contents;
            let (pool_id, image_id) = (fields.i64()?, fields.text()?);
            let namespace = if outer.version >= 2 { fields.text()? } else { String::new() };
            Ok(Child { pool_id, namespace, image_id: ImageId::new(image_id), snap_id })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::encoding::{Encoder, Malformed};
    use super::*;

    #[test]
    fn links_of_both_versions() {
        // Written by an OSD of 16.2.15.
        let now = b"\x01\0\0\0\x02\x01\x1c\0\0\0\x01\0\0\0\0\0\0\0\x0c\0\0\x0010224faaa4a7\0\0\0\0";
        let child = Child {
            pool_id: 1,
            namespace: String::new(),
            image_id: ImageId::new("10224faaa4a7"),
            snap_id: 4,
        };
        let links = |value: &[u8]| [(format!("{PREFIX}0000000000000004"), value.to_vec())].into();
        assert_eq!(all(&links(now)), Ok(vec![child.clone()]));
        assert_eq!(all(&links(&now[..30])), Err(Malformed));
        let fields = Encoder::default().u64(1).text("10224faaa4a7");
        let one = Encoder::default().versioned(1, 1, fields).finish();
        let old = [&1u32.to_le_bytes()[..], &one].concat();
        assert_eq!(all(&links(&old)), Ok(vec![child]));
    }
}
