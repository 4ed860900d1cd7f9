//! How big an image becomes for a request, and whether one that exists will do.

use crate::ceph::{MOST_OBJECTS, largest_mapped};
use crate::volume::error::{Error, Kind, Result};

/// One mebibyte: sizes are rounded up to it where the limit allows.
pub const MIB: u64 = 1 << 20;
/// One gibibyte: what a request without a size gets.
pub const GIB: u64 = 1 << 30;
/// What every file system and block user can live with; used where a limit forbids a whole MiB.
const SECTOR: u64 = 4096;

/// The capacity that a CO asks for, in bytes; zero means that it does not care.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CapacityRange {
    /// The volume must hold at least so much.
    pub required: u64,
    /// The volume must not be larger.
    pub limit: u64,
}

impl CapacityRange {
    /// The size for a new image.
    ///
    /// # Errors
    /// [`Kind::OutOfRange`] when no size satisfies both ends.
    pub fn size(self) -> Result<u64> {
        let Self { required, limit } = self;
        if limit != 0 && required > limit {
            return Err(self.impossible("the required size is above the limit"));
        }
        if required == 0 {
            return match limit {
                0 => Ok(GIB),
                limit if limit >= GIB => Ok(GIB),
                limit if limit >= MIB => Ok(limit - limit % MIB),
                limit if limit >= SECTOR => Ok(limit - limit % SECTOR),
                _ => Err(self.impossible("an image has at least 4096 bytes")),
            };
        }
        // CSI's sizes are int64: a rounded one must stay one.
        let fits = |size: &u64| *size <= i64::MAX as u64 && (limit == 0 || *size <= limit);
        [MIB, SECTOR]
            .into_iter()
            .filter_map(|unit| required.checked_next_multiple_of(unit))
            .find(fits)
            .ok_or_else(|| self.impossible("images are whole multiples of 4096 bytes"))
    }

    /// Whether an image of `size` bytes is what this request asks for.
    ///
    /// ceph-csi rounds up to whole GiB (to MiB below one GiB) and ignores the
    /// limit; an image that it made for the same request is the same volume.
    pub fn accepts(self, size: u64) -> bool {
        let unit = if self.required < GIB { MIB } else { GIB };
        let of_ceph_csi = match self.required {
            0 => Some(GIB),
            required => required.checked_next_multiple_of(unit),
        };
        size >= self.required && (self.limit == 0 || size <= self.limit || Some(size) == of_ceph_csi)
    }

    fn impossible(self, why: &str) -> Error {
        let Self { required, limit } = self;
        Error::new(
            Kind::OutOfRange,
            format!("no volume can have at least {required} and at most {limit} bytes: {why}"),
        )
    }
}

/// Refuses a size for an image with an object map, which librbd neither makes nor grows to so many
/// objects; `object` and `stripe` as for [`largest_mapped`].
///
/// # Errors
/// [`Kind::OutOfRange`] with the largest size.
pub fn check_mapped(image: &str, size: u64, object: u64, stripe: Option<(u64, u64)>) -> Result<()> {
    let largest = largest_mapped(object, stripe);
    if size <= largest {
        return Ok(());
    }
    let text = format!(
        "image {image} cannot have {size} bytes: the feature object-map keeps track of {MOST_OBJECTS} objects, so \
         {largest} bytes are the most with objects of {object} bytes. A class with a larger objectSize allows more, \
         as does one with imageFeatures without object-map"
    );
    Err(Error::new(Kind::OutOfRange, text))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size(required: u64, limit: u64) -> Option<u64> {
        CapacityRange { required, limit }.size().ok()
    }

    #[test]
    fn rounds_up_to_a_mebibyte_or_as_the_limit_demands() {
        assert_eq!(size(0, 0), Some(GIB));
        assert_eq!(size(1, 0), Some(MIB));
        assert_eq!(size(GIB + 1, 0), Some(GIB + MIB));
        assert_eq!(size(GIB + 1, GIB + 8192), Some(GIB + 4096));
        assert_eq!(size(GIB, GIB), Some(GIB));
        assert_eq!(size(0, 3 * MIB + 5), Some(3 * MIB));
        assert_eq!(size(5000, 8191), None);
        assert_eq!(size(2, 1), None);
        assert_eq!(size(i64::MAX as u64, 0), None);
    }

    #[test]
    fn an_image_that_ceph_csi_rounded_up_is_the_same_volume() {
        let range = CapacityRange { required: GIB + 1, limit: GIB + MIB };
        assert!(range.accepts(GIB + MIB) && range.accepts(2 * GIB));
        assert!(!range.accepts(3 * GIB) && !range.accepts(GIB));
        assert!(CapacityRange { required: 5, limit: 0 }.accepts(7 * GIB));
    }

    proptest::proptest! {
        #[test]
        fn a_size_is_within_its_range(required in 0..(1u64 << 62), limit in 0..(1u64 << 62)) {
            let range = CapacityRange { required, limit };
            if let Ok(size) = range.size() {
                proptest::prop_assert!(size >= required && (limit == 0 || size <= limit) && range.accepts(size));
            }
        }
    }
}
