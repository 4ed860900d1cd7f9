//! Who owns an image's exclusive lock, asked before librbd may ask for it.
//!
//! librbd takes the lock for a snapshot, for growth and for a flatten. A living owner gives it
//! up on request: krbd does, and takes it again with its next write. One that is dead or cut
//! off does not; librbd waits until its watch ends (30 s), and then blocklists it. That must not
//! happen to a node's kernel, whose one client serves all images that the node has mapped. A
//! librbd client is one process with nothing else to lose, such as a controller that was
//! killed while it grew the image: without the fence nobody could ever go on in its place.

use std::time::Duration;

use crate::ceph::lock::Holder;
use crate::ceph::{Features, Header, ImageId, Pool, is_kernels};
use crate::volume::error::{Error, Kind, Result};

/// A kernel that lives answers in milliseconds; a loaded node may take its time.
const ANSWER: Duration = Duration::from_secs(5);

/// Refuses to go on while a node's kernel owns the lock and does not answer, whether its watch
/// has ended or not. One operation for an image with `exclusive-lock`, and two more when a
/// kernel owns it.
///
/// What is left is the moment between this answer and librbd's own request: a node that is cut
/// off just then is blocklisted half a minute later, as by any client that wants its lock.
///
/// # Errors
/// [`Kind::Unavailable`] naming the owner; what Ceph answers.
pub async fn refuse_dead(pool: &Pool, name: &str, id: &ImageId, header: &Header) -> Result<()> {
    if !header.features.contains(Features::EXCLUSIVE_LOCK) {
        return Ok(());
    }
    let Some(owner) = pool.image_lock_owner(id).await? else { return Ok(()) };
    let image = pool.describe(name);
    let Some(watch) = owner.watch() else {
        let text = format!(
            "somebody has locked image {image} by hand ({} at {}): `rbd lock rm` it first; nothing was changed",
            owner.client,
            address(&owner)
        );
        return Err(Error::new(Kind::Unavailable, text));
    };
    if !is_kernels(watch.1) || pool.who_answers(id, ANSWER).await?.contains(&watch) {
        return Ok(());
    }
    // It may have given the lock up meanwhile.
    if pool.image_lock_owner(id).await?.as_ref() != Some(&owner) {
        return Ok(());
    }
    Err(silent(&image, &owner))
}

/// What to say of the owner of an image's lock that is a kernel and does not answer.
pub fn silent(image: &str, owner: &Holder) -> Error {
    let (client, address) = (&owner.client, address(owner));
    let text = format!(
        "the exclusive lock of image {image} is held by the kernel of the node at {address} ({client}), which does \
         not answer: it is dead or cut off from Ceph. Taking the lock would blocklist it and with it all its \
         volumes, so nothing was changed; bring the node back, or fence it (`ceph osd blocklist add {address}`) and \
         use the volume elsewhere"
    );
    Error::new(Kind::Unavailable, text)
}

/// The owner's address as the blocklist and krbd's `client_addr` have it.
pub fn address(owner: &Holder) -> &str {
    let address = owner.address.as_str();
    ["v1:", "v2:", "any:"].iter().find_map(|kind| address.strip_prefix(kind)).unwrap_or(address)
}
