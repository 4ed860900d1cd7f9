//! What an mkfs would write, seen without writing it to the device.
//!
//! The same program with the same arguments runs on a sparse file of the
//! device's size; where the file has data afterwards, the device would have.
//! Used when an earlier mkfs was interrupted: what it left may be overwritten,
//! anything else may not.
//!
//! Easily missed: on a device mkfs lays things out by the device's io sizes,
//! which a file does not have, so what mkfs makes of them is put into its arguments.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::ops::Range;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;
use nix::unistd::{Whence, lseek};

use super::command::{self, Command};
use super::fs_kind::FsKind;
use super::{HostError, Result};

/// As long as mkfs itself may take.
const LONGEST: Duration = Duration::from_secs(2 * 3600);

/// The byte ranges that this mkfs would write on that device, if it read as
/// zeros. `size` is the device's; `scratch` is a folder for the sparse file,
/// which has no name and is gone with this call.
///
/// # Errors
/// mkfs's last words, or the scratch folder's errno; EOPNOTSUPP when its file
/// system does not tell holes from data.
pub async fn written_by(
    kind: FsKind,
    arguments: &[String],
    device: &Path,
    size: u64,
    scratch: &Path,
) -> Result<Vec<Range<u64>>> {
    let layout = layout_on(kind, arguments, device).await?;
    let fail =
        |error: &std::io::Error| HostError::io("scratch file in", scratch.display().to_string(), error);
    let file = nameless(scratch).map_err(|error| fail(&error))?;
    file.set_len(size).map_err(|error| fail(&error))?;
    if !data_ranges(&file, size).map_err(|error| fail(&error.into()))?.is_empty() {
        // All of it would count as mkfs's, and so would anybody's data.
        return Err(fail(&std::io::Error::from_raw_os_error(libc::EOPNOTSUPP))
            .with("its file system has no holes (SEEK_DATA); the scratch folder must be on one that has"));
    }
    let mut all = with_layout(kind, arguments, layout);
    all.push("/proc/self/fd/0".to_owned());
    let file = Arc::new(file);
    let mut plan = Command::new(kind.mkfs(), "a sparse file of the device's size", all);
    plan.file = Some(file.clone());
    command::run(plan, LONGEST).await?.success()?;
    let mut ranges = data_ranges(&file, size).map_err(|error| fail(&error.into()))?;
    // Zeroed at the end for the sake of old RAID superblocks: a hole in a file,
    // but data on a device that cannot punch holes (krbd's `notrim`).
    ranges.push(size.saturating_sub(128 << 10)..size);
    Ok(ranges)
}

/// A new empty file without a name.
fn nameless(folder: &Path) -> std::io::Result<File> {
    let mut options = File::options();
    options.read(true).write(true).mode(0o600);
    match options.clone().custom_flags(libc::O_TMPFILE).open(folder) {
        // Overlayfs before Linux 6.2, which a container's /tmp may be, cannot do it (open(2)).
        Err(error) if matches!(error.raw_os_error(), Some(libc::EOPNOTSUPP | libc::EISDIR)) => {
            unnamed(&mut options, folder)
        }
        other => other,
    }
}

/// A new file whose name is taken away again.
fn unnamed(options: &mut OpenOptions, folder: &Path) -> std::io::Result<File> {
    let path = folder.join(format!(".rbd-csi-{}", uuid::Uuid::new_v4()));
    let file = options.create_new(true).open(&path)?;
    std::fs::remove_file(&path)?;
    Ok(file)
}

/// The stripe that mkfs takes from the device, in blocks of the file system.
#[derive(Debug, Clone, Copy)]
struct Layout {
    unit: u64,
    width: u64,
    block: u64,
}

/// The stripe that mkfs would take from the device.
/// It is asked itself (`-n`, `-N`: nothing is written), since each of its
/// versions has its own idea of which io sizes count.
async fn layout_on(kind: FsKind, arguments: &[String], device: &Path) -> Result<Option<Layout>> {
    let mut all: Vec<OsString> = arguments.iter().map(OsString::from).collect();
    // Forced, since the device may carry what an interrupted mkfs left.
    // mke2fs tells the stripe only when it is to be verbose.
    let dry: &[&str] = if kind.is_ext() { &["-n", "-v", "-F"] } else { &["-N", "-f"] };
    all.extend(dry.iter().map(OsString::from));
    all.push(device.into());
    let plan = Command::new(kind.mkfs(), device.display().to_string(), all);
    let text = command::run(plan, LONGEST).await?.success()?.text();
    let (unit, width, block) = if kind.is_ext() {
        ("Stride=", "Stripe width=", "Block size=")
    } else {
        ("sunit=", "swidth=", "data     =                       bsize=")
    };
    let number = |name| number_after(&text, name);
    Ok(match (number(unit), number(width), number(block)) {
        (Some(unit), Some(width), Some(block)) if unit > 0 && width > 0 => {
            Some(Layout { unit, width, block })
        }
        _ => None,
    })
}

/// The first number behind a word.
fn number_after(text: &str, word: &str) -> Option<u64> {
    let rest = text.split_once(word)?.1;
    rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

/// mkfs's arguments with the stripe that a file cannot tell it.
fn with_layout(kind: FsKind, arguments: &[String], layout: Option<Layout>) -> Vec<String> {
    let mut all = arguments.to_vec();
    let given =
        |words: &[&str]| arguments.iter().any(|argument| words.iter().any(|word| argument.contains(word)));
    if kind.is_ext() {
        let (Some(layout), false) = (layout, given(&["stride=", "stripe_width="])) else { return all };
        let layout = format!("stride={},stripe_width={}", layout.unit, layout.width);
        // The last -E counts, so the layout joins it; it is -Evalue or -E value.
        match all.iter().rposition(|argument| argument.starts_with("-E")) {
            Some(at) => {
                let at = if all[at] == "-E" { at + 1 } else { at };
                if let Some(value) = all.get_mut(at) {
                    value.push(',');
                    value.push_str(&layout);
                }
            }
            None => all.extend(["-E".to_owned(), layout]),
        }
    } else if !given(&["su=", "sunit=", "noalign"]) {
        let layout = layout.map_or("noalign".to_owned(), |Layout { unit, width, block }| {
            format!("su={},sw={}", unit * block, width / unit)
        });
        all.extend(["-d".to_owned(), layout]);
    }
    all
}

/// Where a sparse file has data.
fn data_ranges(file: &File, size: u64) -> nix::Result<Vec<Range<u64>>> {
    let mut ranges = Vec::new();
    let mut at = 0;
    let seek = |at: u64, whence| {
        let at = i64::try_from(at).map_err(|_| Errno::EOVERFLOW)?;
        lseek(file, at, whence).and_then(|at| u64::try_from(at).map_err(|_| Errno::EOVERFLOW))
    };
    while at < size {
        let start = match seek(at, Whence::SeekData) {
            // No data behind this place.
            Err(Errno::ENXIO) => break,
            other => other?,
        };
        let end = seek(start, Whence::SeekHole)?;
        ranges.push(start..end.min(size));
        at = end;
    }
    Ok(ranges)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arguments(kind: FsKind, given: &[&str], layout: Option<Layout>) -> Vec<String> {
        let given: Vec<_> = given.iter().map(|argument| (*argument).to_owned()).collect();
        with_layout(kind, &given, layout)
    }

    #[test]
    fn the_devices_stripe_joins_the_arguments() {
        let stripe = Some(Layout { unit: 16, width: 32, block: 4096 });
        let ext = |given: &[&str]| arguments(FsKind::Ext4, given, stripe);
        assert_eq!(ext(&["-m0", "-Ea=1"]), ["-m0", "-Ea=1,stride=16,stripe_width=32"]);
        assert_eq!(ext(&["-E", "a", "-q"]), ["-E", "a,stride=16,stripe_width=32", "-q"]);
        assert_eq!(ext(&[]), ["-E", "stride=16,stripe_width=32"]);
        let small = Some(Layout { unit: 64, width: 64, block: 1024 });
        let with_small = ["-b", "1024", "-E", "stride=64,stripe_width=64"];
        assert_eq!(arguments(FsKind::Ext4, &["-b", "1024"], small), with_small);
        assert_eq!(arguments(FsKind::Xfs, &["-K"], stripe), ["-K", "-d", "su=65536,sw=2"]);
        assert_eq!(arguments(FsKind::Xfs, &["-K"], None), ["-K", "-d", "noalign"]);
    }

    #[test]
    fn the_users_own_layout_stays() {
        let stripe = Some(Layout { unit: 16, width: 16, block: 4096 });
        assert_eq!(arguments(FsKind::Ext4, &["-Estride=4"], stripe), ["-Estride=4"]);
        assert_eq!(arguments(FsKind::Xfs, &["-d", "noalign"], stripe), ["-d", "noalign"]);
    }

    #[test]
    fn reads_what_the_programs_plan() {
        let ext = "Block size=4096 (log=2)\nStride=16 blocks, Stripe width=16 blocks\n";
        assert_eq!(number_after(ext, "Stripe width="), Some(16));
        assert_eq!(number_after("= sunit=0      swidth=0 blks", "sunit="), Some(0));
        assert_eq!(number_after(ext, "sunit="), None);
    }

    #[test]
    fn without_nameless_files_a_name_is_taken_away() {
        let folder = tempfile::tempdir().unwrap();
        let file = unnamed(File::options().read(true).write(true), folder.path()).unwrap();
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
        file.set_len(1 << 20).unwrap();
        // As a program opens it that has it as its standard input.
        let again = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&file));
        std::fs::write(again, "x").unwrap();
        assert_eq!(data_ranges(&file, 1 << 20).unwrap().len(), 1);
    }

    #[tokio::test]
    async fn sees_what_mkfs_writes() {
        const SIZE: u64 = 1 << 30;
        let folder = tempfile::tempdir().unwrap();
        let device = folder.path().join("device");
        File::create(&device).unwrap().set_len(SIZE).unwrap();
        for kind in [FsKind::Ext4, FsKind::Xfs] {
            let ranges = written_by(kind, &[], &device, SIZE, folder.path()).await.unwrap();
            assert_eq!(ranges[0].start, 0, "the superblock");
            let written: u64 = ranges.iter().map(|range| range.end - range.start).sum();
            assert!(written > 8192 && written < SIZE / 4, "{kind}: {written}");
        }
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
        assert!(data_ranges(&File::open(&device).unwrap(), SIZE).unwrap().is_empty(), "nothing was written");
    }
}
