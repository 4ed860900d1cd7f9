//! The parameters of a StorageClass, and what becomes of them in a volume's context; those of a
//! VolumeSnapshotClass are in `snapshot`.
//!
//! Lives here: ceph-csi's names, their checks and their meaning for an image.
//! A StorageClass cannot be changed, so what ceph-csi let pass must pass here
//! too; but a near miss of a known name is a mistake that would silently give
//! another volume than was meant, and what this version cannot do is refused,
//! not ignored. Not here: what a node does with mount or map options.

use std::collections::BTreeMap;

use crate::ceph::{Features, ImageSpec};
use crate::volume::error::{Error, Kind, Result};
use crate::volume::journal::Collection;
use crate::volume::map_options::{MapOptions, UnmapOptions};

mod names;
pub mod snapshot;
pub mod table;

pub use names::{is_fs_type, is_true};

/// Keys that the provisioner adds (`--extra-create-metadata`) or consumes itself.
const SIDECAR_PREFIX: &str = "csi.storage.k8s.io/";
/// The longest string map that CSI allows, in bytes (csi.proto, "Size Limits").
const LONGEST_MAP: usize = 4096;

/// The features that ceph-csi lets a StorageClass name.
const SETTABLE: [&str; 6] =
    ["layering", "exclusive-lock", "object-map", "fast-diff", "journaling", "deep-flatten"];

/// A parsed set of parameters.
#[derive(Debug, Clone)]
pub struct Parameters {
    /// The entry of config.json.
    pub cluster_id: String,
    /// The pool of image and journal.
    pub pool: String,
    /// What stands before the uuid in the image's name.
    pub prefix: String,
    /// The claim's namespace.
    pub owner: Option<String>,
    /// What is written onto the image for people: names of claim and PV.
    pub metadata: Vec<(String, String)>,
    image: ImageSpec,
    context: BTreeMap<String, String>,
}

impl Parameters {
    /// Checks all that can be checked without the cluster. `strict` refuses
    /// unknown names that ceph-csi would carry along.
    ///
    /// # Errors
    /// [`Kind::InvalidArgument`] naming the parameter.
    pub fn parse(all: &BTreeMap<String, String>, strict: bool) -> Result<Self> {
        names::check(all, table::Class::Storage, strict)?;
        names::refuse_what_is_not_here_yet(all)?;
        let given = Given(all);
        let features = given.features()?;
        let image = ImageSpec {
            size: 0,
            features,
            data_pool: given.not_empty("dataPool", "empty datapool name to provision volume from")?,
            object_size: given.object_size()?,
            stripe: given.stripe()?,
        };
        check_stripe(&image)?;
        given.not_empty("radosNamespace", "empty namespace name to provision volume from")?;
        MapOptions::parse(given.text("mapOptions"))?;
        UnmapOptions::parse(given.text("unmapOptions"))?;
        Ok(Self {
            cluster_id: given.required("clusterID", "empty cluster ID to provision volume from")?,
            pool: given.required("pool", "missing or empty pool name to provision volume from")?,
            prefix: given.prefix(
                "volumeNamePrefix",
                "empty volume name prefix to provision volume from",
                Collection::Volumes,
            )?,
            owner: all.get("csi.storage.k8s.io/pvc/namespace").filter(|owner| !owner.is_empty()).cloned(),
            metadata: [
                "csi.storage.k8s.io/pv/name",
                "csi.storage.k8s.io/pvc/name",
                "csi.storage.k8s.io/pvc/namespace",
            ]
            .into_iter()
            .filter_map(|key| Some((key.to_owned(), all.get(key)?.clone())))
            .chain([("csi.ceph.com/mounter".to_owned(), "rbd".to_owned())])
            .collect(),
            image,
            context: all
                .iter()
                .filter(|(key, _)| !key.starts_with(SIDECAR_PREFIX))
                .map(|(key, value)| (key.clone(), value.clone()))
                .collect(),
        })
    }

    /// The image to make for a volume of so many bytes.
    pub fn image(&self, size: u64) -> ImageSpec {
        ImageSpec { size, ..self.image.clone() }
    }

    /// The volume context that the CO hands to every later call.
    ///
    /// # Errors
    /// [`Kind::InvalidArgument`] when it is longer than CSI allows.
    pub fn context(&self, image_name: &str, rados_namespace: &str) -> Result<BTreeMap<String, String>> {
        let mut context = self.context.clone();
        let mut add = |key: &str, value: &str| context.insert(key.to_owned(), value.to_owned());
        add("pool", &self.pool);
        add("journalPool", &self.pool);
        add("imageName", image_name);
        if !rados_namespace.is_empty() {
            add("radosNamespace", rados_namespace);
        }
        let length: usize = context.iter().map(|(key, value)| key.len() + value.len()).sum();
        if length > LONGEST_MAP {
            let text =
                format!("the parameters make a volume context of {length} bytes; CSI allows {LONGEST_MAP}");
            return Err(Error::new(Kind::InvalidArgument, text));
        }
        Ok(context)
    }
}

/// The parameters as they came.
struct Given<'a>(&'a BTreeMap<String, String>);

impl Given<'_> {
    fn required(&self, name: &str, text: &str) -> Result<String> {
        self.0.get(name).filter(|value| !value.is_empty()).cloned().ok_or_else(|| invalid(text))
    }

    fn not_empty(&self, name: &str, text: &str) -> Result<Option<String>> {
        match self.0.get(name) {
            Some(value) if value.is_empty() => Err(invalid(text)),
            value => Ok(value.cloned()),
        }
    }

    fn text(&self, name: &str) -> &str {
        self.0.get(name).map_or("", String::as_str)
    }

    fn prefix(&self, name: &str, empty: &str, of: Collection) -> Result<String> {
        let prefix = self.not_empty(name, empty)?.unwrap_or_else(|| of.default_prefix().to_owned());
        // '/' and '@' part pool, image and snapshot in every rbd tool; the kernel's
        // `add` interface splits its line at white space.
        match prefix.chars().find(|c| c.is_whitespace() || c.is_control() || matches!(c, '/' | '@')) {
            Some(c) => {
                Err(invalid(format!("{name} {prefix:?} contains {c:?}, which no image name may have")))
            }
            None => Ok(prefix),
        }
    }

    fn features(&self) -> Result<Option<Features>> {
        let Some(list) = self.not_empty("imageFeatures", "empty imageFeatures parameter")? else {
            return Ok(None);
        };
        let mut features = Features(0);
        for name in list.split(',').map(str::trim) {
            let known = SETTABLE.contains(&name).then(|| Features::parse(name).ok()).flatten();
            features = features | known.ok_or_else(|| invalid(format!("invalid feature {name}")))?;
        }
        let needs = [
            (Features::OBJECT_MAP, Features::EXCLUSIVE_LOCK),
            (Features::FAST_DIFF, Features::OBJECT_MAP),
            (Features::JOURNALING, Features::EXCLUSIVE_LOCK),
        ];
        for (feature, needed) in needs {
            if features.contains(feature) && !features.contains(needed) {
                return Err(invalid(format!("feature {feature} requires {needed} to be set")));
            }
        }
        // librbd adds it by itself (librbd/image/CreateRequest), and a repeat compares.
        if features.contains(Features::OBJECT_MAP) {
            features = features | Features::FAST_DIFF;
        }
        if features.contains(Features::JOURNALING) {
            return Err(invalid(
                "feature journaling requires rbd-nbd for mounter, and krbd is the only mounter here",
            ));
        }
        Ok(Some(features))
    }

    fn object_size(&self) -> Result<Option<u64>> {
        let Some(text) = self.0.get("objectSize") else { return Ok(None) };
        let size = number("objectSize", text)?;
        if !size.is_power_of_two() {
            return Err(invalid(format!("objectSize {text} is not power of 2")));
        }
        // librbd: order 12 to 25 (librbd/image/CreateRequest, validate_order).
        if !(4096..=32 << 20).contains(&size) {
            return Err(invalid(format!("objectSize {text} is not between 4096 and {}", 32 << 20)));
        }
        Ok(Some(size))
    }

    fn stripe(&self) -> Result<Option<(u64, u64)>> {
        match (self.0.get("stripeUnit"), self.0.get("stripeCount")) {
            (None, None) => Ok(None),
            (Some(_), None) => Err(invalid("stripeCount must be specified when stripeUnit is specified")),
            (None, Some(_)) => Err(invalid("stripeUnit must be specified when stripeCount is specified")),
            (Some(unit), Some(count)) => {
                Ok(Some((number("stripeUnit", unit)?, number("stripeCount", count)?)))
            }
        }
    }
}

/// A stripe unit must divide the object (librbd/image/CreateRequest, validate_striping).
fn check_stripe(image: &ImageSpec) -> Result<()> {
    let Some((unit, count)) = image.stripe else { return Ok(()) };
    let object = image.object_size.unwrap_or(4 << 20);
    if unit == 0 || count == 0 || !object.is_multiple_of(unit) {
        let text = format!("stripeUnit {unit} and stripeCount {count} do not fit objects of {object} bytes");
        return Err(invalid(text));
    }
    Ok(())
}

fn number(name: &str, text: &str) -> Result<u64> {
    text.parse().map_err(|_| invalid(format!("{name} {text:?} is not a decimal number")))
}

fn invalid(text: impl Into<String>) -> Error {
    Error::new(Kind::InvalidArgument, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(extra: &[(&str, &str)]) -> Result<Parameters> {
        let mut all = BTreeMap::from([("clusterID".into(), "c".into()), ("pool".into(), "rbd".into())]);
        all.extend(extra.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())));
        Parameters::parse(&all, false)
    }

    fn refusal(extra: &[(&str, &str)]) -> String {
        let error = parse(extra).unwrap_err();
        assert_eq!(error.kind, Kind::InvalidArgument);
        error.to_string()
    }

    #[test]
    fn the_texts_are_the_ones_that_people_know() {
        assert!(refusal(&[("pool", "")]).contains("missing or empty pool name"));
        assert!(refusal(&[("clusterID", "")]).contains("empty cluster ID"));
        assert!(refusal(&[("dataPool", "")]).contains("empty datapool name"));
        assert!(refusal(&[("volumeNamePrefix", "")]).contains("empty volume name prefix"));
        assert!(refusal(&[("imageFeatures", "")]).contains("empty imageFeatures"));
        assert!(refusal(&[("imageFeatures", "fast-diff")]).contains("feature fast-diff requires object-map"));
        assert!(refusal(&[("imageFeatures", "layering,")]).contains("invalid feature"));
        assert!(refusal(&[("objectSize", "5000")]).contains("is not power of 2"));
        assert!(refusal(&[("stripeUnit", "4096")]).contains("stripeCount must be specified"));
    }

    #[test]
    fn a_near_miss_is_named_and_an_unknown_name_is_carried() {
        assert!(refusal(&[("imagefeatures", "layering")]).contains("imageFeatures"));
        assert!(refusal(&[("mapOption", "x")]).contains("mapOptions"));
        let context = parse(&[("somethingElse", "1")]).unwrap().context("i", "").unwrap();
        assert_eq!(context["somethingElse"], "1");
        let all = [("clusterID", "c"), ("pool", "rbd"), ("somethingElse", "1")];
        let all = all.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
        let error = Parameters::parse(&all, true).unwrap_err();
        assert!(error.to_string().contains("--strict-parameters"), "{error}");
    }

    #[test]
    fn blanks_between_features_mean_nothing() {
        let features = |list: &str| parse(&[("imageFeatures", list)]).unwrap().image(0).features;
        let meant = features("layering,exclusive-lock");
        assert_eq!(features("layering, exclusive-lock"), meant);
        assert_eq!(features(" layering ,exclusive-lock\n"), meant);
    }

    #[test]
    fn what_is_switched_off_passes_and_what_is_not_here_yet_is_refused() {
        assert!(parse(&[("encrypted", "false"), ("mounter", "rbd"), ("tryOtherMounters", "false")]).is_ok());
        assert!(parse(&[("thickProvision", "false"), ("imageFormat", "2")]).is_ok());
        for extra in [
            ("encrypted", "true"),
            ("encrypted", "1"),
            ("encrypted", "yes"),
            ("mounter", "rbd-nbd"),
            ("topologyConstrainedPools", "[{}]"),
            ("maxIops", "5"),
            ("thickProvision", "true"),
            ("imageFormat", "1"),
        ] {
            assert!(refusal(&[extra]).contains(extra.0), "{extra:?}");
        }
    }

    #[test]
    fn the_context_is_what_ceph_csi_returns() {
        let parameters = parse(&[
            ("csi.storage.k8s.io/pv/name", "pv"),
            ("csi.storage.k8s.io/pvc/namespace", "shop"),
            ("imageFeatures", "layering"),
            ("dataPool", "data"),
        ])
        .unwrap();
        let context = parameters.context("csi-vol-1", "ns").unwrap();
        let pairs: Vec<_> = context.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
        assert_eq!(
            pairs,
            [
                ("clusterID", "c"),
                ("dataPool", "data"),
                ("imageFeatures", "layering"),
                ("imageName", "csi-vol-1"),
                ("journalPool", "rbd"),
                ("pool", "rbd"),
                ("radosNamespace", "ns")
            ]
        );
        assert_eq!(parameters.owner.as_deref(), Some("shop"));
    }
}
