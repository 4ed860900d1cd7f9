//! ControllerExpandVolume: a volume grows, whether it is in use or not, and never shrinks.
//!
//! 1. Find the image. Large enough already: that is the answer, and nothing is opened.
//! 2. Refuse what must not be touched: an encrypted volume, a mirror's copy, an image whose
//!    exclusive lock a node holds that is cut off (`lock_owner`).
//! 3. An object map takes room in the pool. librbd does without when there is none: it grows
//!    the image and declares the map invalid. So room is proven first.
//! 4. Let librbd grow it, and close it whatever came of that.
//!
//! Where a node has the image mapped, librbd asks its kernel for the exclusive lock and gives it
//! back with the close; the kernel hears of the new size from the header, and takes the lock
//! again with its next write. A controller that is killed in between keeps the lock until its
//! watch ends (30 s, `osd_client_watch_timeout`): the pod's writes stand still so long, then
//! its node takes the lock over and blocklists the dead controller's client, no other.

use std::collections::BTreeMap;

use crate::ceph::{CephError, Header, MirrorState, OpenMode};
use crate::controller::{Controller, with_rights};
use crate::volume::error::{Error, Kind, Result};
use crate::volume::id::{self, VolumeId};
use crate::volume::image::lock_owner;
use crate::volume::image::resolve::{Resolved, absent};
use crate::volume::journal::{Collection, Journal};
use crate::volume::operation::{Deadline, Progress, Request};
use crate::volume::request::{ExpandRequest, Expanded};
use crate::volume::size::CapacityRange;

/// What ceph-csi marks an encrypted image with, in its releases of today and before.
const ENCRYPTED: [&str; 2] = ["rbd.csi.ceph.com/encrypted", ".rbd.csi.ceph.com/encrypted"];

impl Controller {
    /// ControllerExpandVolume.
    ///
    /// # Errors
    /// [`Kind::InvalidArgument`] for a static volume; [`Kind::NotFound`] when there is no such
    /// volume; [`Kind::OutOfRange`] when no size will do; [`Kind::Precondition`] for what this
    /// version cannot grow; [`Kind::Unavailable`] naming the node that holds the image's lock
    /// and is cut off; what Ceph answers.
    pub async fn expand(&self, request: ExpandRequest, deadline: Deadline) -> Result<Expanded> {
        let range = CapacityRange { required: request.required, limit: request.limit };
        if range.required > 0 {
            range.size()?;
        }
        let handle = canonical(&request.volume_id)?;
        let operation = Request {
            key: handle.clone(),
            rpc: "ControllerExpandVolume",
            fingerprint: format!("{range:?}"),
            deadline,
        };
        let node_expansion_required = !request.capability.as_ref().is_some_and(|given| given.is_block());
        let this = self.clone();
        let work = move |progress| async move { this.expand_now(&handle, range, &request, &progress).await };
        let capacity = self.operations.run_with(operation, Vec::new(), work).await?;
        Ok(Expanded { capacity, node_expansion_required })
    }

    async fn expand_now(
        &self,
        handle: &str,
        range: CapacityRange,
        request: &ExpandRequest,
        progress: &Progress,
    ) -> Result<u64> {
        progress.step(format!("looking up volume {handle}"));
        let volume = self.resolver.resolve(handle, &BTreeMap::new(), &request.secrets, &ENCRYPTED).await?;
        self.resolved(&volume);
        refuse_encrypted(&volume, handle)?;
        if let Some(size) = large_enough(range, &volume.header, handle)? {
            return Ok(size);
        }
        let size = range.size()?;
        let (user, pool) = (volume.credentials.user(), volume.pool.name());
        let growing = async {
            refuse_unfit(&volume, progress).await?;
            if let Some(entry) = volume.entry.as_ref().filter(|_| volume.header.object_map_valid()) {
                let journal = Journal::new(&volume.pool, Collection::Volumes, &self.resolver.instance);
                journal.prove_room(entry.uuid).await.map_err(|error| cannot(error, &volume))?;
            }
            grow(&volume, handle, size, progress).await
        };
        growing.await.map_err(|error| with_rights(error, user, pool))
    }
}

/// The handle as its composer wrote it: the key under which all that changes the volume runs.
fn canonical(handle: &str) -> Result<String> {
    if let Some(id) = VolumeId::parse(handle) {
        return Ok(id.to_string());
    }
    let (kind, why) = match id::is_migration(handle) {
        true => (Kind::Precondition, "it is one of the in-tree driver, which this version does not serve"),
        false => (Kind::InvalidArgument, "it is static, made by hand; a provisioner's has another form"),
    };
    Err(Error::new(kind, format!("volume ID {handle} does not support expansion: {why}")))
}

/// The size, if it will do as it is. One above the limit cannot be helped: nothing ever shrinks.
fn large_enough(range: CapacityRange, header: &Header, handle: &str) -> Result<Option<u64>> {
    let size = header.size;
    if size < range.required {
        return Ok(None);
    }
    if range.accepts(size) {
        return Ok(Some(size));
    }
    let limit = range.limit;
    let text = format!("volume {handle} has {size} bytes, and {limit} are the limit: no volume shrinks");
    Err(Error::new(Kind::OutOfRange, text))
}

fn refuse_encrypted(volume: &Resolved, handle: &str) -> Result<()> {
    let kms = volume.entry.as_ref().and_then(|entry| entry.kms.as_deref());
    let marked = || ENCRYPTED.iter().any(|key| volume.header.metadata.contains_key(*key));
    if kms.is_none() && !marked() {
        return Ok(());
    }
    let text = format!(
        "volume {handle} is encrypted, and this version of the driver has no encryption yet: it cannot grow, \
         nothing was changed"
    );
    Err(Error::new(Kind::Precondition, text))
}

async fn refuse_unfit(volume: &Resolved, progress: &Progress) -> Result<()> {
    let Resolved { pool, image: name, image_id: id, header, .. } = volume;
    let image = pool.describe(name);
    progress.step(format!("looking at who uses image {image}"));
    let (mirrored, owner) =
        tokio::join!(pool.mirror_state(id), lock_owner::refuse_dead(pool, name, id, header));
    if mirrored? == MirrorState::NonPrimary {
        let text = format!("image {image} is a mirror's copy, not primary: grow it where it is primary");
        return Err(Error::new(Kind::Precondition, text));
    }
    owner
}

async fn grow(volume: &Resolved, handle: &str, size: u64, progress: &Progress) -> Result<u64> {
    let Resolved { pool, image: name, image_id: id, .. } = volume;
    let image = pool.describe(name);
    progress.step(format!("opening image {image}"));
    let opened = match pool.open_image(id, OpenMode::ReadWrite).await {
        Err(error) if error.is(libc::ENOENT) => return Err(vanished(volume, handle, error).await),
        opened => opened?,
    };
    progress.step(format!("growing image {image} to {size} bytes, which waits for the owner of its lock"));
    let grown = opened.resize(size).await;
    let closed = opened.close().await;
    match grown {
        Ok(()) => {
            if let Err(error) = closed {
                tracing::warn!(%error, image, "grown, but not closed well; its watch ends with this client");
            }
            Ok(size)
        }
        // Somebody else has made it larger in the meantime, which is as good.
        Err(error) if error.is(libc::EINVAL) => match pool.image_header(id, &[]).await? {
            Some(now) if now.size >= size => Ok(now.size),
            _ => Err(Error::from(error)),
        },
        Err(error) => Err(refused(error, volume)),
    }
}

/// The image was deleted since it was found, or what it is a clone of.
async fn vanished(volume: &Resolved, handle: &str, error: CephError) -> Error {
    match volume.pool.image_header(&volume.image_id, &[]).await {
        Ok(None) => absent(handle),
        Ok(Some(_)) => {
            let image = volume.pool.describe(&volume.image);
            let text = format!("image {image} cannot be opened: is the image gone that it is a clone of?");
            Error::new(Kind::Precondition, text).because(error)
        }
        Err(other) => Error::from(other),
    }
}

fn refused(error: CephError, volume: &Resolved) -> Error {
    if error.is(libc::EROFS) {
        let image = volume.pool.describe(&volume.image);
        let text = format!(
            "image {image} cannot grow while it is mapped with krbd's option `exclusive`, which gives its lock to \
             nobody: unmap it first"
        );
        return Error::new(Kind::InUse, text).because(error);
    }
    cannot(error.into(), volume)
}

fn cannot(error: Error, volume: &Resolved) -> Error {
    error.while_doing(format!("image {} cannot grow", volume.pool.describe(&volume.image)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_handle_is_known_by_its_parts_and_no_other_grows() {
        let upper = "0001-0004-deaf-000000000000000A-164658CE-0000-4000-8000-000000000000";
        assert_eq!(canonical(upper).unwrap(), upper.to_lowercase());
        let refused = |handle: &str| canonical(handle).unwrap_err();
        let fixed = refused("my-image");
        assert!(fixed.to_string().starts_with("volume ID my-image does not support expansion"), "{fixed}");
        assert_eq!(fixed.kind, Kind::InvalidArgument);
        assert_eq!(refused("mig_mons-a_image-b_c").kind, Kind::Precondition);
    }
}
