//! Mount options as people write them (`noatime,errors=remount-ro`), as mount(2) takes
//! them: flags, and the rest for the file system.
//!
//! Lives here: the table of mount(8)'s file-system-independent options. Which options a
//! user may set is the domain's decision.
//!
//! What a reader gets wrong: mount(2) knows nothing of `_netdev`, `nofail` or `x-…`; they
//! are for init systems, and a file system would refuse them. `_netdev` is what every mount of
//! ours is noted with, asked for or not ([`super::utab`]).

/// Flags and data for mount(2).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MountOptions {
    /// MS_….
    pub flags: u64,
    /// The file system's own options, separated by commas.
    pub data: String,
}

impl MountOptions {
    /// From options of the form `name` or `name=value`; a later one wins over an earlier.
    pub fn from_items<'a>(items: impl IntoIterator<Item = &'a str>) -> Self {
        let mut options = Self::default();
        for item in items {
            match meaning(item) {
                Meaning::Set(flag) => options.flags |= flag,
                Meaning::Clear(flag) => options.flags &= !flag,
                Meaning::Nothing => {}
                Meaning::FileSystem => {
                    if !options.data.is_empty() {
                        options.data.push(',');
                    }
                    options.data.push_str(item);
                }
            }
        }
        options
    }
}

enum Meaning {
    Set(u64),
    Clear(u64),
    Nothing,
    FileSystem,
}

/// mount(8), "FILESYSTEM-INDEPENDENT MOUNT OPTIONS".
fn meaning(item: &str) -> Meaning {
    use Meaning::{Clear, Nothing, Set};
    match item {
        "ro" => Set(libc::MS_RDONLY),
        "rw" => Clear(libc::MS_RDONLY),
        "nosuid" => Set(libc::MS_NOSUID),
        "suid" => Clear(libc::MS_NOSUID),
        "nodev" => Set(libc::MS_NODEV),
        "dev" => Clear(libc::MS_NODEV),
        "noexec" => Set(libc::MS_NOEXEC),
        "exec" => Clear(libc::MS_NOEXEC),
        "sync" => Set(libc::MS_SYNCHRONOUS),
        "async" => Clear(libc::MS_SYNCHRONOUS),
        "dirsync" => Set(libc::MS_DIRSYNC),
        "mand" => Set(libc::MS_MANDLOCK),
        "nomand" => Clear(libc::MS_MANDLOCK),
        "noatime" => Set(libc::MS_NOATIME),
        "atime" => Clear(libc::MS_NOATIME),
        "nodiratime" => Set(libc::MS_NODIRATIME),
        "diratime" => Clear(libc::MS_NODIRATIME),
        "relatime" => Set(libc::MS_RELATIME),
        "norelatime" => Clear(libc::MS_RELATIME),
        "strictatime" => Set(libc::MS_STRICTATIME),
        "nostrictatime" => Clear(libc::MS_STRICTATIME),
        "lazytime" => Set(libc::MS_LAZYTIME),
        "nolazytime" => Clear(libc::MS_LAZYTIME),
        "iversion" => Set(libc::MS_I_VERSION),
        "noiversion" => Clear(libc::MS_I_VERSION),
        "silent" => Set(libc::MS_SILENT),
        "loud" => Clear(libc::MS_SILENT),
        "" | "defaults" | "_netdev" | "auto" | "noauto" | "user" | "nouser" | "users" | "owner" | "group"
        | "nofail" => Nothing,
        _ if item.starts_with("x-") || item.starts_with("X-") || item.starts_with("comment=") => Nothing,
        _ => Meaning::FileSystem,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_and_data_are_told_apart() {
        let options = MountOptions::from_items([
            "nouuid",
            "_netdev",
            "noatime",
            "x-systemd.automount",
            "ro",
            "rw",
            "logbsize=256k",
            "defaults",
        ]);
        assert_eq!(options, MountOptions { flags: libc::MS_NOATIME, data: "nouuid,logbsize=256k".into() });
    }
}
