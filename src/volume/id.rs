//! Volume handles, as ceph-csi composes them (its `CSIIdentifier`):
//! `0001-<length of cluster id, 4 hex>-<cluster id>-<pool id, 16 hex>-<uuid>`.
//!
//! Lives here: the text and its parts. What is not such a text is no error of
//! the caller's: it is the id of nothing, or of a volume that somebody else made.

use std::fmt;

use uuid::Uuid;

/// The longest volume id that CSI allows (csi.proto, "Size Limits"), in bytes.
const LONGEST: usize = 128;

/// The handle of a volume that a journal knows.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct VolumeId {
    /// The entry of config.json.
    pub cluster_id: String,
    /// Ceph's number of the pool that holds image and journal.
    pub pool_id: i64,
    /// Names the journal object and, behind the prefix, the image.
    pub uuid: Uuid,
}

impl VolumeId {
    /// Reads a handle; `None` when the text cannot be one.
    pub fn parse(text: &str) -> Option<Self> {
        if text.len() > LONGEST || !text.is_ascii() {
            return None;
        }
        let (version, rest) = text.split_at_checked(4)?;
        hexadecimal(version)?;
        let (length, rest) = rest.strip_prefix('-')?.split_at_checked(4)?;
        let length = usize::try_from(hexadecimal(length)?).ok()?;
        let (cluster_id, rest) = rest.strip_prefix('-')?.split_at_checked(length)?;
        let (pool, rest) = rest.strip_prefix('-')?.split_at_checked(16)?;
        let pool_id = i64::try_from(hexadecimal(pool)?).ok()?;
        let uuid = rest.strip_prefix('-')?;
        if cluster_id.is_empty() || uuid.len() != 36 {
            return None;
        }
        let uuid = Uuid::try_parse(uuid).ok()?;
        Some(Self { cluster_id: cluster_id.to_owned(), pool_id, uuid })
    }

    /// Whether the handle fits CSI's limit; a longer cluster id must be refused
    /// before anything is made.
    pub fn fits(&self) -> bool {
        self.to_string().len() <= LONGEST
    }
}

impl fmt::Display for VolumeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { cluster_id, pool_id, uuid } = self;
        write!(f, "0001-{:04x}-{cluster_id}-{pool_id:016x}-{uuid}", cluster_id.len())
    }
}

/// Digits alone: Rust's own parser also takes a sign.
fn hexadecimal(text: &str) -> Option<u64> {
    let digits = text.bytes().all(|byte| byte.is_ascii_hexdigit());
    u64::from_str_radix(text, 16).ok().filter(|_| digits)
}

/// The one spelling of a handle; of what no driver composed, the text itself.
pub fn canonical(handle: &str) -> String {
    VolumeId::parse(handle).map_or_else(|| handle.to_owned(), |id| id.to_string())
}

/// Whether the handle is one of the in-tree migration (`mig_mons-…_image-…_…`).
pub fn is_migration(text: &str) -> bool {
    text.starts_with("mig_mons-") && text.contains("_image-")
}

#[cfg(test)]
mod tests {
    use super::*;

    const HANDLE: &str = "0001-0009-rook-ceph-0000000000000002-b0285c97-a0ce-11eb-8c66-0242ac110002";

    #[test]
    fn reads_what_it_writes() {
        let id = VolumeId::parse(HANDLE).unwrap();
        assert_eq!((id.cluster_id.as_str(), id.pool_id), ("rook-ceph", 2));
        assert_eq!(id.to_string(), HANDLE);
    }

    #[test]
    fn a_cluster_id_may_contain_anything_that_its_length_covers() {
        let id = VolumeId { cluster_id: "a-0001-b".into(), pool_id: 1, uuid: Uuid::from_u128(7) };
        assert_eq!(VolumeId::parse(&id.to_string()), Some(id));
    }

    #[test]
    fn what_no_composer_made_is_nothing() {
        for text in [
            "",
            "fake-vol-id",
            "0001-ffff-x",
            "../../etc",
            &HANDLE[1..],
            &format!("{HANDLE}0"),
            "ü".repeat(40).as_str(),
        ] {
            assert_eq!(VolumeId::parse(text), None, "{text}");
        }
    }

    #[test]
    fn the_longest_cluster_id_is_64_bytes() {
        let id = |length| VolumeId { cluster_id: "c".repeat(length), pool_id: 1, uuid: Uuid::nil() };
        assert!(id(64).fits() && !id(65).fits());
    }
}
