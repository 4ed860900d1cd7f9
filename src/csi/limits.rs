//! CSI's general rules for fields: required, not too long, nothing forbidden in it.
//!
//! Lives here: what csi.proto and spec.md demand of any driver ("Size Limits",
//! "Field Requirements"). Not here: what a value means. What a reader gets wrong: a
//! volume id is only required, never refused for its form or length, since one that
//! cannot exist is simply not found.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use crate::volume::error::{Error, Kind, Result};

/// The longest string, in bytes.
const STRING: usize = 128;
/// The most that a map's keys and values, or a list's strings, have together, in bytes.
const COLLECTION: usize = 4096;
/// The most that a volume's context has, in bytes: Kubernetes' limit for the parameters of a class, of
/// which ceph-csi made contexts, topology and all, without looking at CSI's limit. They stand in
/// PersistentVolumes that cannot be changed.
const CONTEXT: usize = 256 << 10;
/// Linux' PATH_MAX without the terminating zero.
const PATH: usize = libc::PATH_MAX as usize - 1;

/// An error of the caller.
pub(super) fn invalid(text: impl Into<String>) -> Error {
    Error::new(Kind::InvalidArgument, text)
}

/// A string that must not be empty.
pub(super) fn required(field: &str, value: String) -> Result<String> {
    if value.is_empty() { Err(missing(field)) } else { Ok(value) }
}

/// A required message.
pub(super) fn present<T>(field: &str, value: Option<T>) -> Result<T> {
    value.ok_or_else(|| missing(field))
}

fn missing(field: &str) -> Error {
    invalid(format!("{field} is missing"))
}

/// A string of at most 128 bytes.
pub(super) fn string(field: &str, value: String) -> Result<String> {
    if value.len() <= STRING {
        return Ok(value);
    }
    Err(invalid(format!("{field} has {} bytes; CSI allows {STRING}", value.len())))
}

/// A name that the CO chose: any Unicode but most control characters.
pub(super) fn name(field: &str, value: String) -> Result<String> {
    let value = string(field, required(field, value)?)?;
    let forbidden = |letter: &char| letter.is_control() && !matches!(letter, '\t' | '\n' | '\r');
    match value.chars().find(forbidden) {
        None => Ok(value),
        Some(letter) => {
            let text = format!(
                "{field} contains the control character U+{:04X}, which CSI forbids",
                u32::from(letter)
            );
            Err(invalid(text))
        }
    }
}

/// A map of at most 4 KiB.
pub(super) fn map(field: &str, value: BTreeMap<String, String>) -> Result<BTreeMap<String, String>> {
    collection(field, size(&value)).map(|()| value)
}

fn size(map: &BTreeMap<String, String>) -> usize {
    map.iter().map(|(key, value)| key.len() + value.len()).sum()
}

/// The context of a volume that exists, which may be longer than CSI has it (see [`CONTEXT`]).
pub(super) fn context(field: &str, value: BTreeMap<String, String>) -> Result<BTreeMap<String, String>> {
    let size = size(&value);
    if size <= CONTEXT {
        return Ok(value);
    }
    Err(invalid(format!("{field} has {size} bytes in total; no volume's has more than {CONTEXT}")))
}

/// A list of strings of at most 4 KiB together.
pub(super) fn list(field: &str, value: Vec<String>) -> Result<Vec<String>> {
    let size = value.iter().map(String::len).sum();
    collection(field, size).map(|()| value)
}

fn collection(field: &str, size: usize) -> Result<()> {
    if size <= COLLECTION {
        return Ok(());
    }
    Err(invalid(format!("{field} has {size} bytes in total; CSI allows {COLLECTION}")))
}

/// A number of bytes, which is not negative.
pub(super) fn bytes(field: &str, value: i64) -> Result<u64> {
    u64::try_from(value).map_err(|_| invalid(format!("{field} is negative: {value}")))
}

/// A path that the CO owns: absolute, and nowhere going up.
pub(super) fn path(field: &str, value: String) -> Result<PathBuf> {
    let value = required(field, value)?;
    let path = Path::new(&value);
    let wrong = if value.len() > PATH {
        "is longer than Linux allows"
    } else if !path.is_absolute() {
        "is not absolute"
    } else if path.components().any(|component| component == Component::ParentDir) {
        "contains '..'"
    } else if value.contains('\0') {
        "contains a zero byte"
    } else {
        return Ok(PathBuf::from(value));
    };
    let shown: String = value.chars().take(100).collect();
    Err(invalid(format!("{field} {wrong}: {shown:?}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_up_to_128_bytes_of_nearly_any_unicode() {
        for good in ["a".repeat(128), "ü".repeat(64), "a/b@c 'd' \"e\"\t\n\r\u{202e}\u{ad}".to_owned()] {
            assert_eq!(name("name", good.clone()).unwrap(), good);
        }
        for bad in [String::new(), "a".repeat(129), "ü".repeat(65)] {
            assert!(name("name", bad).is_err());
        }
        for letter in (0..=0x1f).chain(0x7f..=0x9f).filter_map(char::from_u32) {
            let legal = matches!(letter, '\t' | '\n' | '\r');
            assert_eq!(name("name", format!("a{letter}b")).is_ok(), legal, "{letter:?}");
        }
    }

    #[test]
    fn maps_and_lists_have_up_to_4_kib() {
        let of = |size: usize| BTreeMap::from([("k".to_owned(), "v".repeat(size - 1))]);
        assert!(map("m", of(4096)).is_ok());
        let error = map("m", of(4097)).unwrap_err();
        assert_eq!(error.kind, Kind::InvalidArgument);
        assert_eq!(error.to_string(), "m has 4097 bytes in total; CSI allows 4096");
        assert!(
            list("l", vec!["x".repeat(2048); 2]).is_ok() && list("l", vec!["x".repeat(2049); 2]).is_err()
        );
    }

    #[test]
    fn the_context_of_a_volume_of_ceph_csi_may_be_longer() {
        let of = |size: usize| BTreeMap::from([("k".to_owned(), "v".repeat(size - 1))]);
        assert!(context("c", of(4097)).is_ok() && context("c", of(256 << 10)).is_ok());
        let error = context("c", of((256 << 10) + 1)).unwrap_err();
        assert_eq!(error.to_string(), "c has 262145 bytes in total; no volume's has more than 262144");
    }

    #[test]
    fn a_path_is_absolute_and_goes_nowhere_else() {
        for good in ["/a", "/a/..b/c..", "/a//b/./c/", "/ü b", &format!("/{}", "x/".repeat(2047))] {
            assert!(path("p", good.to_owned()).is_ok(), "{good}");
        }
        for bad in ["", "a", "./a", "/a/../b", "/..", "/a\0b", &format!("/{}", "x".repeat(4095))] {
            let error = path("p", bad.to_owned()).unwrap_err();
            assert_eq!(error.kind, Kind::InvalidArgument);
            assert!(error.to_string().len() < 200, "{error}");
        }
    }

    #[test]
    fn sizes_are_not_negative() {
        assert_eq!(bytes("b", i64::MAX).unwrap(), u64::try_from(i64::MAX).unwrap());
        assert_eq!(bytes("b", -1).unwrap_err().to_string(), "b is negative: -1");
    }
}
