//! The parameters `mapOptions` and `unmapOptions`: `krbd:a,b;nbd:c,d`.
//!
//! Lives here: whose options they are (no prefix: krbd's; the last of several wins, as in
//! ceph-csi) and which of them a user may set. The kernel judges names and values; new
//! kernels bring new ones. Not here: the options that the driver adds by itself.
//!
//! What a reader gets wrong: errors never show a value. Somebody who writes `secret=…`
//! here is told so without the secret going into a log.

use crate::volume::error::{Error, Kind, Result};

/// Options that say which cluster, user and namespace this is; those are the driver's own.
const RESERVED: [&str; 7] = ["secret", "key", "name", "ip", "fsid", "pool_ns", "_pool_ns"];

/// The user's options for a map.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MapOptions {
    items: Vec<String>,
}

impl MapOptions {
    /// Reads the parameter.
    ///
    /// # Errors
    /// An unknown mounter, an option that the driver sets itself, or one that would
    /// break out of its place in the kernel's map line.
    pub fn parse(raw: &str) -> Result<Self> {
        let items = kernel_part("mapOptions", raw)?;
        for item in &items {
            let name = name_of(item);
            if RESERVED.contains(&name) || name.starts_with('_') {
                return Err(invalid(
                    "mapOptions",
                    format!("{name} is set by the driver and cannot be given"),
                ));
            }
        }
        // Words of the rbd program, not of the kernel; the driver never waits for udev.
        let items = items.into_iter().filter(|item| !matches!(item.as_str(), "udev" | "noudev")).collect();
        Ok(Self { items })
    }

    /// The options, `name` or `name=value`, in the user's order.
    pub fn items(&self) -> &[String] {
        &self.items
    }

    /// Whether they make the device read-only; the last word counts, as for the kernel.
    pub fn read_only(&self) -> bool {
        let word = |item: &&String| matches!(item.as_str(), "ro" | "read_only" | "rw" | "read_write");
        self.items.iter().rfind(word).is_some_and(|word| word == "ro" || word == "read_only")
    }

    /// The value of an option; the last counts, as for the kernel.
    pub fn value(&self, name: &str) -> Option<&str> {
        self.items.iter().rev().find_map(|item| item.strip_prefix(name)?.strip_prefix('='))
    }
}

/// The user's options for an unmap.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct UnmapOptions {
    /// Unmap also while the device is open: running requests end, later ones fail.
    pub force: bool,
}

impl UnmapOptions {
    /// Reads the parameter, when a volume is staged.
    ///
    /// # Errors
    /// An unknown mounter or option; `force`, `udev` and `noudev` are known.
    pub fn parse(raw: &str) -> Result<Self> {
        let items = kernel_part("unmapOptions", raw)?;
        match items.iter().find(|item| !matches!(item.as_str(), "force" | "udev" | "noudev")) {
            Some(item) => {
                Err(invalid("unmapOptions", format!("{} is no unmap option; there is force", name_of(item))))
            }
            None => Ok(Self { force: items.iter().any(|item| item == "force") }),
        }
    }

    /// Reads what a stash file holds, which may be ceph-csi's: the kernel's part alone,
    /// or everything. What is not known there is left out; an unstage must not fail for it.
    pub fn from_stash(text: &str) -> Self {
        let part = text.split(';').find(|part| !part.trim().starts_with("nbd:")).unwrap_or_default();
        let part = part.trim().strip_prefix("krbd:").unwrap_or(part);
        Self { force: part.split(',').any(|item| item.trim() == "force") }
    }

    /// What a stash file holds.
    pub fn to_stash(self) -> &'static str {
        if self.force { "force" } else { "" }
    }
}

fn invalid(parameter: &str, what: impl std::fmt::Display) -> Error {
    Error::new(Kind::InvalidArgument, format!("{parameter}: {what}"))
}

fn name_of(item: &str) -> &str {
    item.split_once('=').map_or(item, |(name, _)| name).trim()
}

/// The options of the kernel's client among those of all mounters.
fn kernel_part(parameter: &str, raw: &str) -> Result<Vec<String>> {
    let mut options = "";
    for part in raw.split(';').map(str::trim).filter(|part| !part.is_empty()) {
        match part.split_once(':') {
            None => options = part,
            Some((mounter, of_it)) => match mounter.trim().to_ascii_lowercase().as_str() {
                "krbd" => options = of_it,
                "nbd" => {}
                _ => {
                    return Err(invalid(
                        parameter,
                        "before the first ':' stands the mounter, krbd or nbd; an option that contains \
                         ':' needs it too (krbd:crush_location=host:a)",
                    ));
                }
            },
        }
    }
    let items: Vec<_> =
        options.split(',').map(str::trim).filter(|item| !item.is_empty()).map(str::to_owned).collect();
    for (index, item) in items.iter().enumerate() {
        let name = name_of(item);
        let named = !name.is_empty() && name.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'_');
        if !named || !item.bytes().all(|c| c.is_ascii_graphic()) {
            return Err(invalid(
                parameter,
                format!("option {} is not of the form name or name=value, without blanks", index + 1),
            ));
        }
    }
    Ok(items)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(raw: &str) -> Vec<String> {
        MapOptions::parse(raw).unwrap().items
    }

    #[test]
    fn prefixes_say_whose_options_they_are() {
        assert_eq!(parsed(""), [""; 0]);
        assert_eq!(parsed("lock_on_read,queue_depth=1024"), ["lock_on_read", "queue_depth=1024"]);
        assert_eq!(parsed("krbd:a,b;nbd:c,d"), ["a", "b"]);
        assert_eq!(parsed("nbd:c; KRBD: a , ,b "), ["a", "b"]);
        assert_eq!(parsed("nbd:c"), [""; 0]);
        assert_eq!(parsed("krbd:a;b"), ["b"]);
        assert_eq!(parsed("krbd:crush_location=host:a|rack:b,noudev"), ["crush_location=host:a|rack:b"]);
    }

    #[test]
    fn the_last_value_counts() {
        let options = MapOptions::parse("ms_mode=crc,ms_mode=secure").unwrap();
        assert_eq!(options.value("ms_mode"), Some("secure"));
        assert_eq!(options.value("ms"), None);
        let read_only = |raw| MapOptions::parse(raw).unwrap().read_only();
        assert!(read_only("rw,read_only") && !read_only("ro,rw") && !read_only(""));
    }

    #[test]
    fn what_belongs_to_the_driver_is_refused_and_not_shown() {
        for raw in [
            "secret=CANARY",
            "a,key=CANARY",
            "krbd:name=CANARY",
            "krbd:a, secret =CANARY",
            "ip=CANARY",
            "fsid=CANARY",
            "_pool_ns=CANARY",
            "a secret=CANARY",
            "a=b\tCANARY",
            "zfs:CANARY",
            "crush_location=host:CANARY",
            "a,krbd:CANARY",
            "=CANARY",
            "a=\u{a0}CANARY",
        ] {
            let error = MapOptions::parse(raw).unwrap_err();
            assert_eq!(error.kind, Kind::InvalidArgument, "{raw}");
            assert!(!error.to_string().contains("CANARY"), "{error}");
        }
    }

    #[test]
    fn an_unmap_knows_force() {
        assert!(UnmapOptions::parse("krbd:force,noudev;nbd:x").unwrap().force);
        assert!(!UnmapOptions::parse("").unwrap().force);
        assert!(UnmapOptions::parse("forced").is_err());
        assert!(UnmapOptions::from_stash("force").force);
        assert!(UnmapOptions::from_stash("nbd:x;krbd:what,force").force);
        assert!(!UnmapOptions::from_stash("nbd:force").force);
    }
}
