//! Who owns an image's exclusive lock, asked before librbd may ask for it.
//!
//! librbd takes the lock for a snapshot, for growth and for a flatten. A living owner gives it
//! up on request: krbd does, and takes it again with its next write. An owner that does not
//! watch the image any more is dead or cut off; librbd would blocklist it, and with it
//! every other image that this node's kernel has mapped (krbd shares one client).

use crate::ceph::{Features, Header, ImageId, Pool};
use crate::volume::error::{Error, Kind, Result};

/// Refuses to go on while the owner of the lock does not watch the image. Two operations
/// for an image with `exclusive-lock` that somebody owns, one when nobody does.
///
/// What is left is the moment between this look and librbd's own: an owner that dies in it
/// still has a watch for 30 s (`osd_client_watch_timeout`), and librbd asks those that watch.
///
/// # Errors
/// [`Kind::Unavailable`] naming the owner; what Ceph answers.
pub async fn refuse_dead(pool: &Pool, name: &str, id: &ImageId, header: &Header) -> Result<()> {
    if !header.features.contains(Features::EXCLUSIVE_LOCK) {
        return Ok(());
    }
    let Some(owner) = pool.image_lock_owner(id).await? else { return Ok(()) };
    if owner.watch_cookie().is_none() {
        let text = format!(
            "somebody has locked image {} by hand ({} at {}): `rbd lock remove` it first; nothing was changed",
            pool.describe(name),
            owner.client,
            owner.address
        );
        return Err(Error::new(Kind::Unavailable, text));
    }
    if owner.is_among(&pool.image_watchers(id).await?) {
        return Ok(());
    }
    let text = format!(
        "the exclusive lock of image {} is held by {} at {}, which does not watch the image any more: its node is \
         dead or cut off from Ceph. Taking the lock would blocklist that node's kernel client and cut off all its \
         volumes, so nothing was changed; bring the node back, or fence it (`ceph osd blocklist add {}`)",
        pool.describe(name),
        owner.client,
        owner.address,
        owner.address
    );
    Err(Error::new(Kind::Unavailable, text))
}
