//! What an image can do: the feature bits and their names.
//!
//! Names and numbers are those of `rbd/features.h`. What a reader gets wrong:
//! some bits are set by librbd alone (`operations`, `data-pool`, `striping`), so
//! an image may have more than it was made with.

/// A set of image features.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Features(pub u64);

/// By name, in the order of their bits.
const NAMES: [(&str, Features); 12] = [
    ("layering", Features::LAYERING),
    ("striping", Features::STRIPING),
    ("exclusive-lock", Features::EXCLUSIVE_LOCK),
    ("object-map", Features::OBJECT_MAP),
    ("fast-diff", Features::FAST_DIFF),
    ("deep-flatten", Features::DEEP_FLATTEN),
    ("journaling", Features::JOURNALING),
    ("data-pool", Features::DATA_POOL),
    ("operations", Features::OPERATIONS),
    ("migrating", Features::MIGRATING),
    ("non-primary", Features::NON_PRIMARY),
    ("dirty-cache", Features::DIRTY_CACHE),
];

/// A name that is no feature's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown image feature {0:?}")]
pub struct UnknownFeature(pub String);

impl Features {
    /// Clones.
    pub const LAYERING: Self = Self(1);
    /// A stripe unit other than the object size.
    pub const STRIPING: Self = Self(2);
    /// One writer at a time, on request.
    pub const EXCLUSIVE_LOCK: Self = Self(4);
    /// A map of the objects that exist; needs the exclusive lock.
    pub const OBJECT_MAP: Self = Self(8);
    /// Differences from the object map.
    pub const FAST_DIFF: Self = Self(16);
    /// Flattening reaches the snapshots too.
    pub const DEEP_FLATTEN: Self = Self(32);
    /// All writes go through a journal (for mirroring); krbd cannot.
    pub const JOURNALING: Self = Self(64);
    /// The data are in another pool.
    pub const DATA_POOL: Self = Self(128);
    /// Some operation feature is in use (a clone's parent, a group…).
    pub const OPERATIONS: Self = Self(256);
    /// A migration is under way.
    pub const MIGRATING: Self = Self(512);
    /// A mirrored image that is not the primary one.
    pub const NON_PRIMARY: Self = Self(1024);
    /// A client's persistent cache holds writes.
    pub const DIRTY_CACHE: Self = Self(2048);

    /// Parses names with commas between; blanks around them are ignored.
    pub fn parse(list: &str) -> Result<Self, UnknownFeature> {
        list.split(',').map(str::trim).filter(|name| !name.is_empty()).try_fold(Self(0), |all, name| {
            NAMES
                .iter()
                .find(|(known, _)| *known == name)
                .map(|(_, feature)| Self(all.0 | feature.0))
                .ok_or_else(|| UnknownFeature(name.to_owned()))
        })
    }

    /// Whether all of `other` are among these.
    pub fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Those of these that `other` lacks.
    pub fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// The names in the order of their bits; a bit without a name as hexadecimal number.
    pub fn names(self) -> Vec<String> {
        let known = NAMES.iter().fold(0, |all, (_, feature)| all | feature.0);
        let named =
            NAMES.iter().filter(|(_, feature)| self.contains(*feature)).map(|(name, _)| (*name).to_owned());
        let nameless = (0..64)
            .map(|bit| 1u64 << bit)
            .filter(|bit| self.0 & !known & bit != 0)
            .map(|bit| format!("{bit:#x}"));
        named.chain(nameless).collect()
    }
}

impl std::ops::BitOr for Features {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl std::fmt::Display for Features {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.names().join(","))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_bits_are_ceph_s() {
        let five = Features::parse("layering, exclusive-lock,object-map,fast-diff,deep-flatten").unwrap();
        assert_eq!(five, Features(61));
        assert_eq!(five.to_string(), "layering,exclusive-lock,object-map,fast-diff,deep-flatten");
        assert_eq!(Features::parse(""), Ok(Features(0)));
        assert_eq!(Features::parse("layering,fast"), Err(UnknownFeature("fast".into())));
        assert_eq!(Features(0x1_0000_0041).to_string(), "layering,journaling,0x100000000");
        assert_eq!(five.without(Features(0x1f)).to_string(), "deep-flatten");
        assert!(five.contains(Features::OBJECT_MAP) && !five.contains(Features::JOURNALING));
    }
}
