//! ControllerExpandVolume: a volume grows, whether it is in use or not, and never shrinks.
//!
//! 1. Find the image. Large enough already: that is the answer, and nothing is opened.
//! 2. Refuse what must not be touched: an encrypted volume, a mirror's copy.
//! 3. Let the image grow (`grow`).

use std::collections::BTreeMap;

use crate::ceph::{Header, MirrorState};
use crate::controller::change::grow::{Growing, grow};
use crate::controller::{Controller, with_rights};
use crate::volume::error::{Error, Kind, Result};
use crate::volume::id::{self, VolumeId};
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
            refuse_copy(&volume, progress).await?;
            let journal = Journal::new(&volume.pool, Collection::Volumes, &self.resolver.instance);
            let image = Growing {
                pool: &volume.pool,
                name: &volume.image,
                id: &volume.image_id,
                header: &volume.header,
                entry: volume.entry.as_ref().map(|entry| (&journal, entry.uuid)),
            };
            grow(image, size, progress).await?.ok_or_else(|| absent(handle))
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

async fn refuse_copy(volume: &Resolved, progress: &Progress) -> Result<()> {
    let Resolved { pool, image: name, image_id: id, .. } = volume;
    let image = pool.describe(name);
    progress.step(format!("looking at image {image}"));
    if pool.mirror_state(id).await? == MirrorState::NonPrimary {
        let text = format!("image {image} is a mirror's copy, not primary: grow it where it is primary");
        return Err(Error::new(Kind::Precondition, text));
    }
    Ok(())
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
