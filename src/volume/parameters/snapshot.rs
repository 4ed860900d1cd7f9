//! The parameters of a VolumeSnapshotClass.
//!
//! ceph-csi reads as little of them as this: a snapshot's image is in the pool of its volume and
//! has its volume's features.

use std::collections::BTreeMap;

use super::table::Class;
use super::{Given, names};
use crate::volume::error::Result;
use crate::volume::journal::Collection;

/// What csi-snapshotter adds (`--extra-create-metadata`) and what is written onto the image, in
/// ceph-csi's order.
const METADATA: [&str; 3] = [
    "csi.storage.k8s.io/volumesnapshot/name",
    "csi.storage.k8s.io/volumesnapshot/namespace",
    "csi.storage.k8s.io/volumesnapshotcontent/name",
];

/// A parsed set of parameters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotParameters {
    /// The entry of config.json that the class names. ceph-csi cannot do without; here the
    /// volume's handle has one, too.
    pub cluster_id: Option<String>,
    /// What stands before the uuid in the image's name.
    pub prefix: String,
    /// What is written onto the image for people: names of the VolumeSnapshot and its content.
    pub metadata: Vec<(String, String)>,
}

impl SnapshotParameters {
    /// Checks all that can be checked without the cluster. `strict` refuses unknown names.
    ///
    /// # Errors
    /// [`Kind::InvalidArgument`](crate::volume::error::Kind::InvalidArgument) naming the parameter.
    pub fn parse(all: &BTreeMap<String, String>, strict: bool) -> Result<Self> {
        names::check(all, Class::Snapshot, strict)?;
        let given = Given(all);
        given.not_empty("pool", "empty pool name in which rbd image will be created")?;
        let written = METADATA.into_iter().filter_map(|key| Some((key.to_owned(), all.get(key)?.clone())));
        Ok(Self {
            cluster_id: given.not_empty("clusterID", "empty cluster ID to provision snapshot from")?,
            prefix: given.prefix(
                "snapshotNamePrefix",
                "empty snapshot name prefix to provision snapshot from",
                Collection::Snapshots,
            )?,
            metadata: written.collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::volume::error::Kind;

    fn parse(given: &[(&str, &str)], strict: bool) -> Result<SnapshotParameters> {
        let all = given.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        SnapshotParameters::parse(&all, strict)
    }

    #[test]
    fn a_class_of_ceph_csi_is_read() {
        let found = parse(
            &[
                ("clusterID", "c"),
                ("snapshotNamePrefix", "snap-"),
                ("pool", "anything"),
                ("csi.storage.k8s.io/volumesnapshotcontent/name", "snapcontent-1"),
                ("csi.storage.k8s.io/volumesnapshot/name", "monday"),
                ("csi.storage.k8s.io/volumesnapshot/namespace", "shop"),
                ("csi.storage.k8s.io/snapshotter-secret-name", "consumed by the sidecar"),
            ],
            true,
        )
        .unwrap();
        assert_eq!((found.cluster_id.as_deref(), found.prefix.as_str()), (Some("c"), "snap-"));
        let values: Vec<_> = found.metadata.iter().map(|(_, value)| value.as_str()).collect();
        assert_eq!(values, ["monday", "shop", "snapcontent-1"]);
        let nothing = parse(&[], true).unwrap();
        assert_eq!((nothing.cluster_id, nothing.prefix.as_str()), (None, "csi-snap-"));
    }

    #[test]
    fn what_is_empty_unfit_or_nearly_right_is_refused() {
        for (given, text) in [
            (("clusterID", ""), "empty cluster ID"),
            (("snapshotNamePrefix", ""), "empty snapshot name prefix"),
            (("snapshotNamePrefix", "a/b"), "snapshotNamePrefix \"a/b\" contains '/'"),
            (("pool", ""), "empty pool name"),
            (("clusterId", "c"), "clusterID is meant?"),
            (("snapshotNamePrefx", "c"), "snapshotNamePrefix is meant?"),
        ] {
            let error = parse(&[given], false).unwrap_err();
            assert_eq!(error.kind, Kind::InvalidArgument);
            assert!(error.to_string().contains(text), "{error}");
        }
        // A StorageClass' parameter means nothing here; it hurts nobody either.
        assert!(parse(&[("imageFeatures", "layering")], false).is_ok());
        assert!(parse(&[("imageFeatures", "layering")], true).is_err());
    }
}
