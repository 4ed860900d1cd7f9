//! The images that an image was cloned from, one behind the other.

use crate::ceph::{Header, ImageId, Parent, Pool};
use crate::volume::error::{Error, Kind, Result};

/// Longer chains than this are a circle or a damaged header: librbd opens no more than 16.
const LONGEST: usize = 64;

/// An image in the chain.
#[derive(Debug, Clone)]
pub struct Ancestor {
    /// Its pool.
    pub pool: Pool,
    /// Its id; it may lie in the trash.
    pub id: ImageId,
    /// Its header.
    pub header: Header,
}

/// The ancestors of an image, the nearest first. One operation each.
///
/// # Errors
/// [`Kind::Unavailable`] for a parent that is gone, which may be so for a moment;
/// [`Kind::Precondition`] when its pool is; what Ceph answers.
pub async fn ancestors(pool: &Pool, header: &Header) -> Result<Vec<Ancestor>> {
    let mut found: Vec<Ancestor> = Vec::new();
    let mut next = header.parent.clone();
    while let Some(parent) = next {
        if found.len() >= LONGEST {
            let text = format!("the image has more than {LONGEST} ancestors; look at it with `rbd info`");
            return Err(Error::new(Kind::Precondition, text));
        }
        let ancestor = read(pool, &parent).await?;
        next = ancestor.header.parent.clone();
        found.push(ancestor);
    }
    Ok(found)
}

async fn read(pool: &Pool, parent: &Parent) -> Result<Ancestor> {
    let pool = if parent.pool_id == pool.id() && parent.namespace == pool.namespace() {
        pool.clone()
    } else {
        let other = pool.connection().pool_by_id(parent.pool_id, &parent.namespace).await?;
        other.ok_or_else(|| {
            let text = format!(
                "the image is a clone of an image in pool id {}, which does not exist",
                parent.pool_id
            );
            Error::new(Kind::Precondition, text)
        })?
    };
    let id = ImageId::new(&*parent.image_id);
    let Some(header) = pool.image_header(&id, &[]).await? else {
        // A flatten takes the image out of its parent's header first, and the parent, which may be purged
        // then, out of the image's a little later.
        let text = format!(
            "the image is a clone of image id {} in pool {}, which does not exist: a flatten of the clone may be at \
             its end; calling again looks again. If that stays so, look at the clone with `rbd info`",
            parent.image_id,
            pool.name()
        );
        return Err(Error::new(Kind::Unavailable, text));
    };
    Ok(Ancestor { pool, id, header })
}

/// Whether the parent that an image names has the image among its clones. Not so for a clone that
/// was never attached, nor behind the copying of a flatten. `None`: the parent's pool is gone. One
/// operation.
///
/// # Errors
/// What Ceph answers.
pub async fn is_listed(pool: &Pool, id: &ImageId, parent: &Parent) -> Result<Option<bool>> {
    let Some(of) = pool.connection().pool_by_id(parent.pool_id, &parent.namespace).await? else {
        return Ok(None);
    };
    let children = of.children_of(&ImageId::new(&*parent.image_id), Some(parent.snap_id)).await?;
    Ok(Some(children.iter().any(|child| child.is(pool, id))))
}
