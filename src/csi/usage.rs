//! The figures of NodeGetVolumeStats, from the domain to protobuf.

use super::proto::VolumeUsage;
use super::proto::volume_usage::Unit;
use crate::volume::request::{Amount, Usage};

/// One entry per unit that is known.
pub(super) fn usage(found: Usage) -> Vec<VolumeUsage> {
    match found {
        Usage::Filesystem { bytes, inodes } => {
            let mut entries = vec![entry(Unit::Bytes, bytes)];
            // A file system without a fixed number of inodes says 0 of 0, which
            // monitoring would take for full.
            if inodes.total > 0 {
                entries.push(entry(Unit::Inodes, inodes));
            }
            entries
        }
        Usage::Block { total } => {
            // Unset is 0: used and available of a device are not known.
            vec![VolumeUsage { total: signed(total), unit: Unit::Bytes.into(), ..Default::default() }]
        }
    }
}

fn entry(unit: Unit, amount: Amount) -> VolumeUsage {
    VolumeUsage {
        available: signed(amount.available),
        total: signed(amount.total),
        used: signed(amount.used),
        unit: unit.into(),
    }
}

fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_system_has_bytes_and_inodes_a_device_its_size() {
        let amount = |total| Amount { total, used: 1, available: 2 };
        let both = usage(Usage::Filesystem { bytes: amount(10), inodes: amount(20) });
        let shown: Vec<_> =
            both.iter().map(|entry| (entry.unit(), entry.total, entry.used, entry.available)).collect();
        assert_eq!(shown, [(Unit::Bytes, 10, 1, 2), (Unit::Inodes, 20, 1, 2)]);
        assert_eq!(usage(Usage::Filesystem { bytes: amount(10), inodes: amount(0) }).len(), 1);
        let device = usage(Usage::Block { total: u64::MAX });
        assert_eq!((device.len(), device[0].total, device[0].available), (1, i64::MAX, 0));
    }
}
