//! What an image, or a snapshot of it, takes from its parent, and what a snapshot holds.
//!
//! Asked of class `rbd` by number of snapshot, since an image and its snapshots may have
//! different overlaps, and a flattened image's snapshots may still have a parent that
//! the image itself has no more. What a reader gets wrong: an object's head says nothing
//! of what a snapshot holds, and a snapshot in the trash holds what it held.

use super::encoding::{Decoded, Decoder, Encoder};
use super::error::{CephError, Result};
use super::image::{ImageId, RBD};
use super::pool::Pool;
use super::read_op::{ReadOp, ReadResult};

/// `CEPH_NOSNAP`: the image itself.
const HEAD: u64 = u64::MAX - 1;
/// `RBD_FLAG_OBJECT_MAP_INVALID`.
const OBJECT_MAP_INVALID: u64 = 1;

/// An image at one moment: now, or when a snapshot was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Moment {
    /// Where what it does not hold itself comes from.
    pub origin: Option<Origin>,
    flags: u64,
}

/// The snapshot of a parent that shows through.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// The pool of the parent image.
    pub pool_id: i64,
    /// Its RADOS namespace.
    pub namespace: String,
    /// Its image id.
    pub image_id: ImageId,
    /// The snapshot's id.
    pub snap_id: u64,
    /// Up to which byte it shows through.
    pub overlap: u64,
}

impl Moment {
    /// Whether the object map of that moment tells the truth, if there is one.
    pub fn object_map_valid(&self) -> bool {
        self.flags & OBJECT_MAP_INVALID == 0
    }
}

impl Pool {
    /// What the image, or that snapshot of it, takes from a parent; one operation. `None`
    /// when there is no such image or snapshot.
    pub async fn moment(&self, id: &ImageId, snapshot: Option<u64>) -> Result<Option<Moment>> {
        const OP: &str = "image parent";
        let object = id.header_object();
        let of = || Encoder::default().u64(snapshot.unwrap_or(HEAD)).finish();
        let op = ReadOp::new()
            .exec(RBD, c"parent_get", Vec::new())
            .exec(RBD, c"parent_overlap_get", of())
            .exec(RBD, c"get_flags", of());
        let mut results = match self.read(OP, &object, op).await {
            Err(error) if error.is(libc::ENOENT) => return Ok(None),
            results => results?,
        };
        let mut next = || results.next().map(ReadResult::into_bytes).unwrap_or_default();
        decode(&next(), &next(), &next())
            .map(Some)
            .map_err(|_| CephError::new(OP, self.describe(&object), libc::EBADMSG))
    }
}

/// The answers of `parent_get` (`cls::rbd::ParentImageSpec`), `parent_overlap_get`
/// (`std::optional<uint64_t>`) and `get_flags`.
fn decode(parent: &[u8], overlap: &[u8], flags: &[u8]) -> Decoded<Moment> {
    let mut fields = Decoder::new(parent).versioned()?.contents;
    let (pool_id, namespace) = (fields.i64()?, fields.text()?);
    let (image_id, snap_id) = (ImageId::new(fields.text()?), fields.u64()?);
    let mut overlap = Decoder::new(overlap);
    let overlap = if overlap.u8()? == 0 { 0 } else { overlap.u64()? };
    let origin =
        (pool_id >= 0 && overlap > 0).then_some(Origin { pool_id, namespace, image_id, snap_id, overlap });
    Ok(Moment { origin, flags: Decoder::new(flags).u64()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parent(pool_id: i64) -> Vec<u8> {
        let fields = Encoder::default().u64(pool_id.cast_unsigned()).text("ns").text("abc").u64(7);
        Encoder::default().versioned(1, 1, fields).finish()
    }

    #[test]
    fn a_parent_counts_only_with_an_overlap() {
        let overlap = |bytes| Encoder::default().u8(1).u64(bytes).finish();
        let flags = 0u64.to_le_bytes();
        let moment = decode(&parent(3), &overlap(4096), &flags).unwrap();
        let origin = moment.origin.clone().unwrap();
        assert_eq!((origin.pool_id, origin.namespace.as_str(), origin.snap_id), (3, "ns", 7));
        assert!(origin.overlap == 4096 && moment.object_map_valid());
        for (parent, overlap) in [(parent(-1), overlap(1)), (parent(3), overlap(0)), (parent(3), vec![0])] {
            assert_eq!(decode(&parent, &overlap, &flags).unwrap().origin, None);
        }
        assert!(!decode(&parent(3), &[0], &1u64.to_le_bytes()).unwrap().object_map_valid());
        assert!(decode(&parent(3)[..9], &[0], &flags).is_err());
    }
}
