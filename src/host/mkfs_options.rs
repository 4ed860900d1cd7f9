//! `mkfsOptions`: which a user may give.
//!
//! Lives here: reading them as the programs' own getopt does, and refusing what
//! reaches beyond the volume: the node's files, another device, another place.
//! What is given when the user gives nothing is `filesystem`'s.
//!
//! Easily missed: options may stand together (`-qd folder`), a value in the same
//! word or the next, and mke2fs finds devices by label, without any path.

use super::fs_kind::FsKind;
use super::{HostError, Result};

/// mke2fs's letters that take a value (1.47, `PRS` in misc/mke2fs.c).
const EXT_VALUES: &str = "bdegilmorstzCEGIJLMNORTU";
/// mkfs.xfs's (6.13, `main` in mkfs/xfs_mkfs.c).
const XFS_VALUES: &str = "bcdilmnprsL";
/// mkfs.xfs's sub-options that name a file or a device, of `-d`, `-l` and `-r`.
const XFS_NAMES: [&str; 4] = ["name", "file", "logdev", "rtdev"];

/// Refuses options that reach outside the device.
///
/// # Errors
/// EINVAL naming the option.
pub(super) fn check(kind: FsKind, arguments: &[String]) -> Result<()> {
    let refuse = |object: &str, why: &str| {
        Err(HostError::new(kind.mkfs(), object, libc::EINVAL)
            .with(format!("mkfsOptions must not name files or devices: {why}")))
    };
    if let Some(path) = arguments.iter().find(|argument| argument.contains(['/', '\0'])) {
        return refuse(path, "it contains a path");
    }
    let with_value = if kind.is_ext() { EXT_VALUES } else { XFS_VALUES };
    let mut words = arguments.iter();
    while let Some(word) = words.next() {
        match word.strip_prefix('-') {
            // What follows `--` is never an option, and long ones take no value.
            Some(long) if long.len() > 1 && long.starts_with('-') => {}
            Some(letters) if !letters.is_empty() && letters != "-" => {
                let Some((letter, value)) = value_in(letters, with_value) else { continue };
                let value = if value.is_empty() { words.next().map_or("", String::as_str) } else { value };
                if reaches_out(kind, letter, value) {
                    return refuse(&format!("-{letter}"), "this option does");
                }
            }
            _ => return refuse(word, "it is not an option, so it would be taken for the device"),
        }
    }
    Ok(())
}

/// The one letter of a word that takes a value, with what stands behind it there.
fn value_in<'a>(letters: &'a str, with_value: &str) -> Option<(char, &'a str)> {
    let (at, letter) = letters.char_indices().find(|(_, letter)| with_value.contains(*letter))?;
    Some((letter, &letters[at + letter.len_utf8()..]))
}

fn reaches_out(kind: FsKind, letter: char, value: &str) -> bool {
    let names = |wanted: &[&str]| {
        value.split(',').any(|item| {
            let name = item.split_once('=').map_or(item, |(name, _)| name).trim();
            wanted.contains(&name)
        })
    };
    match (kind.is_ext(), letter) {
        // A folder to copy from, a list of bad blocks, a file to undo with.
        (true, 'd' | 'l' | 'z') => true,
        // Found by label or UUID among the node's devices.
        (true, 'J') => names(&["device"]),
        // A prototype, which names files to copy.
        (false, 'p') => true,
        (false, 'd' | 'l' | 'r') => names(&XFS_NAMES),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(kind: FsKind, options: &str) -> Result<()> {
        check(kind, &options.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn what_stays_on_the_volume_passes() {
        for options in [
            "",
            "-m0 -Enodiscard,lazy_itable_init=1",
            "-b 4096 -L d -J size=64 -qF -O ^has_journal",
            "-i 16384 -E stride=16 -T largefile",
        ] {
            checked(FsKind::Ext4, options).unwrap();
        }
        for options in
            ["-K -m reflink=1,crc=1", "-fL name -d su=64k,sw=1 -l size=64m", "-c options=lts_6.6.conf"]
        {
            checked(FsKind::Xfs, options).unwrap();
        }
    }

    #[test]
    fn what_reaches_out_is_refused() {
        let ext = [
            "-d etc",
            "-qd etc",
            "-detc",
            "-F -l blocks",
            "-z undo",
            "-J device=LABEL=journal",
            "-Jsize=4,device=UUID=1",
            "-b 4096 sdb",
            "-- sdb",
            "-",
            "-L /x",
        ];
        let xfs = [
            "-p proto",
            "-Kp proto",
            "-d file,name=x",
            "-dname=x",
            "-l logdev=sdb",
            "-r rtdev=sdb",
            "-l size=1m,name=x",
        ];
        let all = ext.map(|options| (FsKind::Ext3, options)).into_iter();
        for (kind, options) in all.chain(xfs.map(|options| (FsKind::Xfs, options))) {
            let error = checked(kind, options).expect_err(options);
            assert!(error.is(libc::EINVAL), "{options}: {error}");
        }
    }
}
