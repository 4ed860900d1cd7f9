//! An image's header, read without opening the image.
//!
//! Lives here: the omap of `rbd_header.<id>` as a value, with what follows from
//! it by arithmetic. What a reader gets wrong: `flags` and `op_features` are
//! absent until they are first set, and a header *object* may exist without any
//! of these keys (a metadata write makes one); that is no header.

use std::collections::BTreeMap;
use std::time::Duration;

use super::encoding::{Decoded, Decoder, Malformed};
use super::features::Features;
use super::read_op::Omap;

/// The omap keys that describe an image, besides snapshots and metadata.
pub(super) const KEYS: [&str; 9] = [
    "size",
    "order",
    "features",
    "object_prefix",
    "flags",
    "op_features",
    "data_pool_id",
    "stripe_unit",
    "stripe_count",
];
pub(super) const PARENT: &str = "parent";
pub(super) const SNAPSHOTS: &str = "snapshot_";
pub(super) const METADATA: &str = "metadata_";

/// `RBD_FLAG_OBJECT_MAP_INVALID`.
const OBJECT_MAP_INVALID: u64 = 1;

/// What an image's header says, all of one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// Bytes.
    pub size: u64,
    /// Objects are of 2^order bytes.
    pub order: u8,
    /// What the image can do.
    pub features: Features,
    /// `RBD_FLAG_*`.
    pub flags: u64,
    /// `RBD_OPERATION_FEATURE_*`: 1 clone parent, 2 clone child, 4 group, 8 trashed snapshots.
    pub op_features: u64,
    /// What each data object's name begins with, such as `rbd_data.10226b8b4567`.
    pub object_prefix: String,
    /// The pool of the data objects, when it is another one.
    pub data_pool_id: Option<i64>,
    /// Stripe unit in bytes and stripe count, unless they are the default.
    pub stripe: Option<(u64, u64)>,
    /// What the image is a clone of.
    pub parent: Option<Parent>,
    /// What its snapshots are clones of, when the image itself has all data of its own.
    pub parent_of_snapshots: Option<Parent>,
    /// All snapshots, those in the snapshot trash too, by id.
    pub snapshots: Vec<Snapshot>,
    /// Those of the metadata keys asked for that exist.
    pub metadata: BTreeMap<String, String>,
}

/// The snapshot that an image was cloned from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parent {
    /// The pool of the parent image.
    pub pool_id: i64,
    /// Its RADOS namespace.
    pub namespace: String,
    /// Its image id.
    pub image_id: String,
    /// The snapshot's id.
    pub snap_id: u64,
    /// So many bytes from the beginning are the parent's where the image has no objects of
    /// its own. Growth does not change it; a shrink made it smaller for ever.
    pub overlap: u64,
}

/// A snapshot of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// Its number.
    pub id: u64,
    /// Its name; one in the trash has a random one, and its old one in `kind`.
    pub name: String,
    /// Bytes of the image when it was made.
    pub size: u64,
    /// When it was made, since 1970, by the OSD's clock; zero before Ceph 13.
    pub created: Duration,
    /// Who made it.
    pub kind: SnapshotKind,
    /// How many clones (v2) it has.
    pub children: u32,
    /// It reads from the image's parent what had no object of the image when it was made.
    pub has_parent: bool,
}

/// What a snapshot is for (`SnapshotNamespace` in `cls_rbd_types.h`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SnapshotKind {
    /// Somebody's own.
    User,
    /// Of a group snapshot.
    Group,
    /// Deleted, but still needed by a clone; with its old name.
    Trash(String),
    /// Of mirroring.
    Mirror,
    /// Of a Ceph newer than this program.
    Other(u32),
}

impl Header {
    /// `Ok(None)` when the object has no header in it.
    pub(super) fn decode(omap: &Omap, snapshots: &Omap) -> Decoded<Option<Self>> {
        let number = |key: &str| omap.get(key).map(|value| Decoder::new(value).u64()).transpose();
        let (Some(size), Some(order), Some(features), Some(prefix)) =
            (number("size")?, omap.get("order"), number("features")?, omap.get("object_prefix"))
        else {
            return Ok(None);
        };
        let (parent, parent_of_snapshots) =
            match omap.get(PARENT).map(|value| parent(value)).transpose()?.flatten() {
                Some((parent, true)) => (Some(parent), None),
                Some((parent, false)) => (None, Some(parent)),
                None => (None, None),
            };
        let data_pool = omap.get("data_pool_id").map(|value| Decoder::new(value).i64()).transpose()?;
        Ok(Some(Self {
            size,
            order: Decoder::new(order).u8()?,
            features: Features(features),
            flags: number("flags")?.unwrap_or(0),
            op_features: number("op_features")?.unwrap_or(0),
            object_prefix: Decoder::new(prefix).text()?,
            data_pool_id: data_pool.filter(|id| *id >= 0),
            stripe: number("stripe_unit")?.zip(number("stripe_count")?),
            parent,
            parent_of_snapshots,
            snapshots: snapshots.values().map(|value| snapshot(value)).collect::<Decoded<_>>()?,
            metadata: omap
                .iter()
                .filter_map(|(key, value)| {
                    let key = key.strip_prefix(METADATA)?;
                    Some((key.to_owned(), String::from_utf8_lossy(value).into_owned()))
                })
                .collect(),
        }))
    }

    /// Whether the object map tells the truth.
    pub fn object_map_valid(&self) -> bool {
        self.features.contains(Features::OBJECT_MAP) && self.flags & OBJECT_MAP_INVALID == 0
    }

    /// Bytes of a data object.
    pub fn object_size(&self) -> u64 {
        1u64.checked_shl(self.order.into()).unwrap_or(u64::MAX)
    }

    /// How many data objects an image of this size can have: their numbers are
    /// below this (`Striper::get_num_objects` in Ceph's `osdc/Striper.cc`).
    pub fn data_objects(&self) -> u64 {
        let object = self.object_size();
        let (unit, count) = self.stripe.unwrap_or((object, 1));
        let (unit, count) = (unit.max(1), count.max(1));
        let period = object.saturating_mul(count);
        let rest = self.size % period;
        // In the last period a round touches as many objects as it has units.
        let untouched =
            if rest > 0 && rest < count.saturating_mul(unit) { count - rest.div_ceil(unit) } else { 0 };
        self.size.div_ceil(period).saturating_mul(count) - untouched
    }

    /// The name of a data object.
    pub fn data_object(&self, number: u64) -> String {
        format!("{}.{number:016x}", self.object_prefix)
    }
}

/// `cls_rbd_parent`: version 1 had no namespace and always an overlap. Without
/// an overlap only snapshots still need the parent: the image itself has none. Whether it has
/// stands beside it.
fn parent(value: &[u8]) -> Decoded<Option<(Parent, bool)>> {
    let mut outer = Decoder::new(value).versioned()?;
    let fields = &mut outer.contents;
    let pool_id = fields.i64()?;
    let namespace = if outer.version >= 2 { fields.text()? } else { String::new() };
    let (image_id, snap_id) = (fields.text()?, fields.u64()?);
    let attached = outer.version < 2 || fields.u8()? != 0;
    let overlap = if attached { fields.u64()? } else { 0 };
    let parent = Parent { pool_id, namespace, image_id, snap_id, overlap };
    Ok((pool_id >= 0).then_some((parent, attached)))
}

/// `cls_rbd_snap`: what is compatible below 8 also has features and a parent.
fn snapshot(value: &[u8]) -> Decoded<Snapshot> {
    let mut outer = Decoder::new(value).versioned()?;
    let (version, compatible) = (outer.version, outer.compatible);
    let fields = &mut outer.contents;
    let (id, name, size) = (fields.u64()?, fields.text()?, fields.u64()?);
    let mut has_parent = false;
    if compatible < 8 {
        fields.u64()?;
        if version >= 2 {
            has_parent = fields.versioned()?.contents.i64()? >= 0;
        }
    }
    let (mut kind, mut created, mut children) = (SnapshotKind::User, Duration::ZERO, 0);
    if version >= 3 {
        fields.u8()?;
    }
    if version >= 4 {
        fields.u64()?;
    }
    if version >= 5 {
        kind = snapshot_kind(fields)?;
    }
    if version >= 6 {
        created = fields.time()?;
    }
    if version >= 7 {
        children = fields.u32()?;
    }
    if version >= 8 {
        has_parent |= fields.u8()? != 0;
    }
    Ok(Snapshot { id, name, size, created, kind, children, has_parent })
}

fn snapshot_kind(fields: &mut Decoder<'_>) -> Decoded<SnapshotKind> {
    let mut contents = fields.versioned()?.contents;
    Ok(match contents.u32()? {
        0 => SnapshotKind::User,
        1 => SnapshotKind::Group,
        // Behind the name stands what kind it was before.
        2 => SnapshotKind::Trash(contents.text()?),
        3 => SnapshotKind::Mirror,
        other => SnapshotKind::Other(other),
    })
}

/// `rbd_id.<name>`'s data: the id as an encoded text; `None` when it is empty.
pub(super) fn decode_id(data: &[u8]) -> Decoded<Option<String>> {
    if data.is_empty() {
        return Ok(None);
    }
    match Decoder::new(data).text()? {
        id if id.is_empty() => Err(Malformed),
        id => Ok(Some(id)),
    }
}

#[cfg(test)]
mod tests {
    use super::super::encoding::Encoder;
    use super::*;

    fn base(size: u64, order: u8) -> Omap {
        let prefix = Encoder::default().text("rbd_data.10226b8b4567").finish();
        [
            ("size".to_owned(), size.to_le_bytes().to_vec()),
            ("order".to_owned(), vec![order]),
            ("features".to_owned(), 61u64.to_le_bytes().to_vec()),
            ("object_prefix".to_owned(), prefix),
        ]
        .into()
    }

    #[test]
    fn a_header_has_at_least_its_four_keys() {
        let header = Header::decode(&base(20 << 20, 22), &Omap::new()).unwrap().unwrap();
        assert!(header.object_map_valid() && header.parent.is_none() && header.snapshots.is_empty());
        assert_eq!(
            (header.data_objects(), header.data_object(18)),
            (5, "rbd_data.10226b8b4567.0000000000000012".into())
        );
        let mut without = base(1, 22);
        without.remove("order");
        assert_eq!(Header::decode(&without, &Omap::new()), Ok(None));
        let mut flagged = base(1, 22);
        flagged.insert("flags".into(), 3u64.to_le_bytes().to_vec());
        flagged.insert("metadata_a/b".into(), b"value".to_vec());
        let header = Header::decode(&flagged, &Omap::new()).unwrap().unwrap();
        assert!(!header.object_map_valid());
        assert_eq!(header.metadata, [("a/b".to_owned(), "value".to_owned())].into());
        assert_eq!(Header::decode(&[("size".to_owned(), vec![1])].into(), &Omap::new()), Err(Malformed));
    }

    #[test]
    fn striped_objects_are_counted_as_ceph_does() {
        // 20 MiB, objects of 4 MiB, 64 KiB units over 4 objects: two periods of 16 MiB.
        let mut header = Header::decode(&base(20 << 20, 22), &Omap::new()).unwrap().unwrap();
        header.stripe = Some((64 << 10, 4));
        assert_eq!(header.data_objects(), 8);
        header.size = (16 << 20) + 1;
        assert_eq!(header.data_objects(), 5);
        header.size = 0;
        assert_eq!(header.data_objects(), 0);
    }

    #[test]
    fn parents_of_both_versions_and_detached_ones() {
        let tail = |encoder: Encoder| encoder.text("abc").u64(7);
        let new = |has: u8| {
            let fields = tail(Encoder::default().u64(3).text("ns")).u8(has).u64(1);
            Encoder::default().versioned(2, 2, fields).finish()
        };
        let expected = |namespace: &str| Parent {
            pool_id: 3,
            namespace: namespace.into(),
            image_id: "abc".into(),
            snap_id: 7,
            overlap: if namespace.is_empty() { 9 } else { 1 },
        };
        assert_eq!(parent(&new(1)), Ok(Some((expected("ns"), true))));
        assert_eq!(parent(&new(0)), Ok(Some((Parent { overlap: 0, ..expected("ns") }, false))));
        let old = Encoder::default().versioned(1, 1, tail(Encoder::default().u64(3)).u64(9)).finish();
        assert_eq!(parent(&old), Ok(Some((expected(""), true))));
        assert_eq!(parent(&old[..20]), Err(Malformed));
    }

    #[test]
    fn snapshots_of_all_ages_and_in_the_trash() {
        // Written by librbd 16.2.15: "one", deleted while a clone needed it.
        let trashed = [
            b"\x08\x08\x63\0\0\0\x04\0\0\0\0\0\0\0\x24\0\0\0".as_slice(),
            b"2dae0d33-2063-48c2-be2b-de8af6b36e59",
            b"\0\0\0\x02\0\0\0\0\0\0\0\0\0\0\0\0\0\x01\x01\x0f\0\0\0\x02\0\0\0\x03\0\0\0one\0\0\0\0",
            b"\x13\x87\x01\x6b\x94\xa1\x5d\x35\x01\0\0\0\0",
        ]
        .concat();
        let expected = Snapshot {
            id: 4,
            name: "2dae0d33-2063-48c2-be2b-de8af6b36e59".into(),
            size: 32 << 20,
            created: Duration::new(0x6b01_8713, 0x355d_a194),
            kind: SnapshotKind::Trash("one".into()),
            children: 1,
            has_parent: false,
        };
        assert_eq!(snapshot(&trashed), Ok(expected));
        // Of a clone: the last field is the overlap with its parent.
        let (end, mut of_clone) = (trashed.len() - 1, [&trashed[..], &[0; 8]].concat());
        of_clone[2] += 8;
        of_clone[end] = 1;
        assert!(snapshot(&of_clone).unwrap().has_parent);
        // As written while clients before mimic are allowed.
        let parent = Encoder::default().u64(u64::MAX).text("").u64(u64::MAX).u64(0);
        let fields =
            Encoder::default().u64(4).text("snap").u64(1).u64(61).versioned(1, 1, parent).u8(0).u64(0);
        let old = Encoder::default().versioned(4, 1, fields).finish();
        let expected = Snapshot {
            id: 4,
            name: "snap".into(),
            size: 1,
            created: Duration::ZERO,
            kind: SnapshotKind::User,
            children: 0,
            has_parent: false,
        };
        assert_eq!(snapshot(&old), Ok(expected));
    }
}
