//! What is on a device: libblkid's answer, told apart.
//!
//! "Nothing", "something", "several things" and "cannot be read" are four
//! answers; whoever takes one of the last three for the first formats data away.
//! So is a superblock whose checksum is wrong: it is something.
//!
//! Not here: whether a device may be formatted. An empty probe proves nothing
//! (raw data has no signature); `node::blank` does the proving.

use std::fs::File;
use std::io::{Error, Result};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use libblkid_rs::{BlkidProbe, BlkidSafeprobeRet, BlkidSublks, BlkidSublksFlags};
use serde::{Deserialize, Serialize};

use super::child;
use super::job::Job;
use super::superblock::{self, Superblock};

/// What a device holds, as far as its signatures tell.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Content {
    /// No signature that libblkid knows. Raw data may still be there.
    Nothing,
    /// A file system, by its kernel name (`ext4`, `xfs`, …).
    Filesystem(String),
    /// A partition table, by its kind (`gpt`, `dos`, …).
    PartitionTable(String),
    /// Something else: LUKS, LVM, RAID, swap…, or a damaged superblock.
    Other(String),
    /// Several signatures, so that nobody can say which one counts.
    Ambivalent,
}

impl std::fmt::Display for Content {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Nothing => f.write_str("nothing that is known"),
            Self::Filesystem(kind) => write!(f, "a file system of type {kind}"),
            Self::PartitionTable(kind) => write!(f, "a partition table of type {kind}"),
            Self::Other(kind) => f.write_str(kind),
            Self::Ambivalent => f.write_str("several signatures that contradict each other"),
        }
    }
}

/// What one look at a device tells.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Look {
    /// What is there.
    pub content: Content,
    /// What the superblock of an ext or XFS file system says, when one is there.
    pub superblock: Option<Superblock>,
}

/// Looks at the device, in the helper process: once for all that a staging wants to
/// know, since each job there costs a fork.
///
/// # Errors
/// When it cannot be read, or not within `limit`.
pub async fn look(device: impl Into<PathBuf>, limit: Duration) -> super::Result<Look> {
    child::call(Job::Look { device: device.into() }, limit).await
}

/// As [`look`], when only the content matters.
///
/// # Errors
/// As [`look`].
pub async fn probe(device: impl Into<PathBuf>, limit: Duration) -> super::Result<Content> {
    Ok(look(device, limit).await?.content)
}

/// Looks at the device in this thread, which may hang with it.
pub(super) fn look_here(device: &Path) -> Result<Look> {
    let file = File::open(device)?;
    read_ends(&file)?;
    let content = content(&file)?;
    let superblock = match &content {
        Content::Filesystem(_) => superblock::read(&file)?,
        _ => None,
    };
    Ok(Look { content, superblock })
}

fn content(file: &File) -> Result<Content> {
    let failed = |error: libblkid_rs::BlkidErr| Error::other(format!("libblkid: {error}"));
    let mut probe = BlkidProbe::new().map_err(failed)?;
    probe.set_device(file.as_raw_fd(), 0, 0).map_err(failed)?;
    probe.enable_superblocks(true).map_err(failed)?;
    let wanted = [BlkidSublks::Type, BlkidSublks::Usage, BlkidSublks::Badcsum];
    probe.set_superblock_flags(BlkidSublksFlags::new(wanted.into())).map_err(failed)?;
    probe.enable_partitions(true).map_err(failed)?;
    match probe.do_safeprobe().map_err(failed)? {
        BlkidSafeprobeRet::Success => Ok(name(&probe)),
        BlkidSafeprobeRet::None => Ok(Content::Nothing),
        BlkidSafeprobeRet::Ambiguous => Ok(Content::Ambivalent),
    }
}

/// Reads where signatures are, since some of libblkid's probers take a failed
/// read for "not mine".
fn read_ends(file: &File) -> Result<()> {
    const START: u64 = 256 << 10;
    const END: u64 = 128 << 10;
    let size = std::io::Seek::seek(&mut &*file, std::io::SeekFrom::End(0))?;
    let mut part = vec![0; 64 << 10];
    for range in [0..size.min(START), size.saturating_sub(END)..size] {
        let mut at = range.start;
        while at < range.end {
            match file.read_at(&mut part, at)? {
                0 => break,
                length => at += length as u64,
            }
        }
    }
    Ok(())
}

fn name(probe: &BlkidProbe) -> Content {
    let value = |name| probe.lookup_value(name).ok();
    let table = value("PTTYPE");
    let Some(kind) = value("TYPE") else {
        return table.map_or(Content::Other("an unnamed signature".into()), Content::PartitionTable);
    };
    if value("SBBADCSUM").is_some() {
        return Content::Other(format!("a damaged {kind} superblock (its checksum is wrong)"));
    }
    match (value("USAGE").as_deref(), table) {
        (Some("filesystem"), None) => Content::Filesystem(kind),
        (Some("filesystem"), Some(table)) => {
            Content::Other(format!("a file system of type {kind} and a partition table of type {table}"))
        }
        (Some(usage), _) => Content::Other(format!("{kind} ({usage})")),
        (None, _) => Content::Other(kind),
    }
}
