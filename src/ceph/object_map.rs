//! Which data objects of an image exist, from its object map.
//!
//! The OSD's own `object_map_load` is asked for it: it checks the checksums.
//! What a reader gets wrong: the map is only true when the header says so
//! ([`super::Header::object_map_valid`]), and a map that is shorter than the
//! image says nothing about the rest.

use super::encoding::{Decoded, Decoder};
use super::error::{CephError, Result};
use super::image::{ImageId, RBD};
use super::pool::Pool;
use super::read_op::{ReadOp, ReadResult};

/// How many objects a map can speak of (`MAX_OBJECT_MAP_OBJECT_COUNT` of Ceph's `cls_rbd_types.h`).
pub const MOST_OBJECTS: u64 = 256_000_000;

/// The largest size, in bytes, of an image with an object map: `object` bytes in each of its
/// objects, and its stripe unit and count unless they are the default.
pub fn largest_mapped(object: u64, stripe: Option<(u64, u64)>) -> u64 {
    let (unit, count) = stripe.unwrap_or((object, 1));
    let (periods, rest) = (MOST_OBJECTS / count.max(1), MOST_OBJECTS % count.max(1));
    // In the last period a round touches as many objects as it has units (see `Header::data_objects`).
    periods.saturating_mul(object.saturating_mul(count)).saturating_add(rest.saturating_mul(unit))
}

/// Two bits an object: 0 not there, 1 there, 2 being written or removed,
/// 3 there and unchanged since the last snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectMap {
    objects: u64,
    bits: Vec<u8>,
}

impl Pool {
    /// The image's object map, one operation; `None` when there is none, or none
    /// that can be read (an empty object, bad checksums).
    pub async fn object_map(&self, id: &ImageId) -> Result<Option<ObjectMap>> {
        self.load_object_map(id.object_map_object()).await
    }

    /// The same of one of the image's snapshots.
    pub async fn snapshot_object_map(&self, id: &ImageId, snap_id: u64) -> Result<Option<ObjectMap>> {
        self.load_object_map(id.snapshot_map_object(snap_id)).await
    }

    async fn load_object_map(&self, object: String) -> Result<Option<ObjectMap>> {
        const OP: &str = "object map";
        let op = ReadOp::new().exec(RBD, c"object_map_load", Vec::new());
        let data = match self.read(OP, &object, op).await {
            Err(error) if error.is(libc::ENOENT) || error.is(libc::EINVAL) => return Ok(None),
            results => results?.next().map(ReadResult::into_bytes).unwrap_or_default(),
        };
        ObjectMap::decode(&data)
            .map(Some)
            .map_err(|_| CephError::new(OP, self.describe(&object), libc::EBADMSG))
    }
}

impl ObjectMap {
    /// `BitVector<2>` of Ceph's `common/bit_vector.hpp`: a header with the
    /// number of elements, four of them a byte, and checksums that are left out.
    fn decode(data: &[u8]) -> Decoded<Self> {
        let mut all = Decoder::new(data);
        let mut header = Decoder::new(all.bytes()?).versioned()?.contents;
        let objects = header.u64()?;
        let length = usize::try_from(objects.div_ceil(4)).map_err(|_| super::encoding::Malformed)?;
        Ok(Self { objects, bits: all.take(length)?.to_vec() })
    }

    /// How many objects the map speaks of.
    pub fn len(&self) -> u64 {
        self.objects
    }

    /// Whether it speaks of none.
    pub fn is_empty(&self) -> bool {
        self.objects == 0
    }

    /// Whether the object may exist; one that the map does not know may.
    pub fn exists(&self, number: u64) -> bool {
        if number >= self.objects {
            return true;
        }
        let byte = usize::try_from(number / 4).ok().and_then(|index| self.bits.get(index));
        // The first object is in the top bits.
        byte.is_none_or(|byte| (byte >> (6 - 2 * (number % 4))) & 3 != 0)
    }

    /// The numbers of the objects that exist, in order.
    pub fn existing(&self) -> impl Iterator<Item = u64> + '_ {
        (0u64..)
            .zip(&self.bits)
            // Most bytes of a big empty image are zero.
            .filter(|(_, byte)| **byte != 0)
            .flat_map(|(index, _)| index * 4..index * 4 + 4)
            .filter(|number| *number < self.objects && self.exists(*number))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_osd_of_16_2_15_answered() {
        // object_map_load of an image of 8 objects, #0 and #3 written, #0 then snapshotted.
        let data = b"\x0e\0\0\0\x01\x01\x08\0\0\0\x08\0\0\0\0\0\0\0\xc1\0\0\0\0\0";
        let map = ObjectMap::decode(data).unwrap();
        assert_eq!((map.len(), map.existing().collect::<Vec<_>>()), (8, vec![0, 3]));
        assert!(map.exists(0) && !map.exists(1) && map.exists(3));
        assert!(map.exists(8), "what the map does not know may exist");
        assert!(ObjectMap::decode(&data[..19]).is_err());
    }

    #[test]
    fn the_largest_size_is_the_last_one_with_few_enough_objects() {
        assert_eq!(largest_mapped(4 << 20, None), MOST_OBJECTS << 22);
        for (order, stripe) in [(22, None), (12, None), (22, Some((64 << 10, 7))), (25, Some((1 << 20, 3)))] {
            let header = |size| super::super::Header {
                size,
                order,
                features: super::super::Features::OBJECT_MAP,
                flags: 0,
                op_features: 0,
                object_prefix: String::new(),
                data_pool_id: None,
                stripe,
                parent: None,
                parent_of_snapshots: None,
                snapshots: Vec::new(),
                metadata: std::collections::BTreeMap::new(),
            };
            let largest = largest_mapped(1 << order, stripe);
            assert_eq!(header(largest).data_objects(), MOST_OBJECTS, "{order} {stripe:?}");
            assert!(header(largest + 1).data_objects() > MOST_OBJECTS, "{order} {stripe:?}");
        }
    }

    #[test]
    fn padding_bits_are_no_objects() {
        let map = ObjectMap { objects: 5, bits: vec![0, 0b0000_0001] };
        assert_eq!(map.existing().count(), 0);
    }
}
