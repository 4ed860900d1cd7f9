//! Are the parameters' names known (`table` has them), and what to say of the ones that have none here.

use std::collections::BTreeMap;

use super::table::{Class, LIMITS};
use super::{SIDECAR_PREFIX, invalid};
use crate::spelling::distance;
use crate::volume::error::Result;

/// Refuses near misses of known names; warns of other unknown ones, or refuses them when strict.
pub fn check(all: &BTreeMap<String, String>, class: Class, strict: bool) -> Result<()> {
    for name in all.keys().filter(|name| !name.starts_with(SIDECAR_PREFIX) && !is_known(name, class)) {
        if let Some(near) = nearest(name, class) {
            return Err(invalid(format!("unknown parameter {name}: {near} is meant?")));
        }
        if strict {
            return Err(invalid(format!("unknown parameter {name} (--strict-parameters)")));
        }
        tracing::warn!(parameter = name, "unknown {} parameter, without effect", class.name());
    }
    Ok(())
}

/// What this version cannot do yet must not be made as if it could.
pub fn refuse_what_is_not_here_yet(all: &BTreeMap<String, String>) -> Result<()> {
    let value = |name: &str| all.get(name).map(|value| value.trim()).filter(|value| !value.is_empty());
    match all.get("encrypted").map(|given| (given, is_true(given))) {
        None | Some((_, Some(false))) => {}
        Some((_, Some(true))) => return Err(absent("encrypted", "encryption")),
        Some((given, None)) => {
            return Err(invalid(format!("encrypted is {given:?}, neither true nor false")));
        }
    }
    if value("topologyConstrainedPools").is_some() {
        return Err(absent("topologyConstrainedPools", "topology"));
    }
    match value("mounter") {
        Some("rbd-nbd") => return Err(absent("mounter", "rbd-nbd")),
        None | Some("rbd") => {}
        Some(other) => tracing::warn!(mounter = other, "unknown mounter: krbd is used, as ceph-csi does"),
    }
    if all.get("thickProvision").is_some_and(|given| is_true(given) == Some(true)) {
        return Err(invalid(
            "thickProvision: every volume is thin, ceph-csi's too since its release 3.6; use a StorageClass without \
             it, or with \"false\"",
        ));
    }
    if value("imageFormat") == Some("1") {
        return Err(invalid(
            "imageFormat 1 is of old Ceph releases, and all images have format 2; use a StorageClass with \"2\" or \
             without it",
        ));
    }
    if let Some(name) = LIMITS.iter().find(|name| value(name).is_some_and(|value| value != "0")) {
        return Err(absent(name, "limits of I/O"));
    }
    Ok(())
}

/// What a switch such as `encrypted` says, of a class or in a volume's context, where nothing is
/// false; `None` for a word that is neither. ceph-csi takes Go's spellings of a boolean and refuses
/// other words, so only a clear "false" may count as unencrypted.
pub fn is_true(value: &str) -> Option<bool> {
    match value.trim().to_ascii_lowercase().as_str() {
        "" | "false" | "f" | "0" => Some(false),
        "true" | "t" | "1" => Some(true),
        _ => None,
    }
}

fn absent(parameter: &str, feature: &str) -> crate::volume::Error {
    invalid(format!(
        "{parameter}: this version of the driver has no {feature} yet; use a StorageClass without it"
    ))
}

fn is_known(name: &str, class: Class) -> bool {
    // Older releases capitalised the limits' names.
    class.parameters().iter().any(|known| known.name == name)
        || (class == Class::Storage
            && (is_fs_type(name) || LIMITS.iter().any(|known| known.eq_ignore_ascii_case(name))))
}

/// Whether a parameter is the in-tree drivers' name of `csi.storage.k8s.io/fstype`, which
/// csi-provisioner still reads, in whatever case, and hands on.
pub fn is_fs_type(name: &str) -> bool {
    name.eq_ignore_ascii_case("fsType")
}

fn nearest(name: &str, class: Class) -> Option<&'static str> {
    let lower = name.to_ascii_lowercase();
    let known = class.parameters().iter();
    known
        .map(|known| (distance(&lower, &known.name.to_ascii_lowercase()), known.name))
        .filter(|(distance, known)| *distance <= 2 && *distance * 3 < known.len())
        .min()
        .map(|(_, known)| known)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_is_two_letters_or_another_case() {
        let nearest = |name| nearest(name, Class::Storage);
        assert_eq!(nearest("ClusterId"), Some("clusterID"));
        assert_eq!(nearest("imageFeature"), Some("imageFeatures"));
        assert_eq!(nearest("mkfsOpts"), None);
        assert_eq!(nearest("poool"), Some("pool"));
        assert_eq!(nearest("tool"), Some("pool"));
        assert_eq!(nearest("retention"), None);
    }
}
