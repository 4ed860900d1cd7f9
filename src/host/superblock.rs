//! What a superblock itself says: the file system's size, and whether mkfs finished it.
//!
//! Read raw, by `probe`'s look at a device: `df` counts differently, and an XFS
//! whose mkfs was killed carries its magic already.

use std::fs::File;
use std::io::{Result, Seek as _, SeekFrom};
use std::os::unix::fs::FileExt as _;

use serde::{Deserialize, Serialize};

/// What the superblock says, and how large the device is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Superblock {
    /// The file system's size in bytes.
    pub size: u64,
    /// Its block size in bytes.
    pub block: u64,
    /// The device's size in bytes.
    pub device: u64,
    /// mkfs did not get to its end (XFS: `sb_inprogress`; the kernel refuses to
    /// mount such a one).
    pub unfinished: bool,
    /// An ext file system that was unmounted in good order, has met no error and
    /// is not due for a look: `e2fsck -p` would say so and look no further
    /// (e2fsck's `check_if_skip`). Never said of XFS.
    pub clean: bool,
}

impl Superblock {
    /// Whether the file system leaves room that growing could use.
    pub fn can_grow(&self) -> bool {
        self.device.saturating_sub(self.size) >= self.block.max(1)
    }
}

/// Reads the superblock of an ext or XFS file system, in this thread, which may hang
/// with the device; `None` when it is neither's.
pub(super) fn read(mut file: &File) -> Result<Option<Superblock>> {
    let size = file.seek(SeekFrom::End(0))?;
    let mut start = [0; 4096];
    if size < start.len() as u64 {
        return Ok(None);
    }
    file.read_exact_at(&mut start, 0)?;
    Ok(parse(&start, size))
}

/// Offsets: ext4 (kernel documentation, ext4/super.html, superblock at 1024) and
/// XFS (xfs_dsb in the kernel's xfs_format.h, big endian).
fn parse(start: &[u8; 4096], device: u64) -> Option<Superblock> {
    if start.starts_with(b"XFSB") {
        let block = u64::from(u32::from_be_bytes(field(start, 4)?));
        let blocks = u64::from_be_bytes(field(start, 8)?);
        let unfinished = start.get(126).is_some_and(|in_progress| *in_progress != 0);
        return Some(Superblock {
            size: blocks.checked_mul(block)?,
            block,
            device,
            unfinished,
            clean: false,
        });
    }
    let ext = start.get(1024..2048)?;
    if field::<2>(ext, 0x38)? != [0x53, 0xef] {
        return None;
    }
    let is_64bit = u32::from_le_bytes(field(ext, 0x60)?) & 0x80 != 0;
    let high = if is_64bit { u32::from_le_bytes(field(ext, 0x150)?) } else { 0 };
    let blocks = u64::from(high) << 32 | u64::from(u32::from_le_bytes(field(ext, 4)?));
    let block =
        1024u64.checked_shl(u32::from_le_bytes(field(ext, 0x18)?)).filter(|block| *block <= 1 << 16)?;
    let clean = is_clean(ext, now())?;
    Some(Superblock { size: blocks.checked_mul(block)?, block, device, unfinished: false, clean })
}

/// `s_state`, the journal's need of recovery, the orphan list, and whether the
/// file system is due by its count of mounts or by time.
fn is_clean(ext: &[u8], now: u64) -> Option<bool> {
    const VALID: u16 = 1;
    const RECOVER: u32 = 4;
    const ORPHAN_PRESENT: u32 = 0x1_0000;
    let short = |at| field(ext, at).map(u16::from_le_bytes);
    let word = |at| field(ext, at).map(u32::from_le_bytes);
    let (mounts, most_mounts) = (short(0x34)?, short(0x36)?);
    let (last_check, interval) = (u64::from(word(0x40)?), u64::from(word(0x44)?));
    // A negative or zero maximum means that mounts do not count.
    let counted_out = (1..=0x7fff).contains(&most_mounts) && mounts >= most_mounts;
    let overdue = interval != 0 && !(last_check..last_check.saturating_add(interval)).contains(&now);
    let recover = word(0x60)? & RECOVER != 0;
    // On the list, or in the file that newer ones have for it.
    let orphans = word(0xe8)? != 0 || word(0x64)? & ORPHAN_PRESENT != 0;
    let errors = word(0x194)? != 0;
    let noted = recover || orphans || errors || counted_out || overdue;
    Some(short(0x3a)? == VALID && !noted && is_whole(ext)?)
}

/// Whether the superblock has a checksum (feature metadata_csum) and it is right.
fn is_whole(ext: &[u8]) -> Option<bool> {
    const METADATA_CSUM: u32 = 0x400;
    let features = u32::from_le_bytes(field(ext, 0x64)?);
    let written = u32::from_le_bytes(field(ext, 0x3fc)?);
    Some(features & METADATA_CSUM != 0 && written == crc32c(ext.get(..0x3fc)?))
}

/// CRC-32C as ext4 uses it: begun with all ones, not inverted at the end.
fn crc32c(bytes: &[u8]) -> u32 {
    const CASTAGNOLI: u32 = 0x82f6_3b78;
    bytes.iter().fold(u32::MAX, |sum, byte| {
        (0..8).fold(sum ^ u32::from(*byte), |sum, _| (sum >> 1) ^ if sum & 1 == 1 { CASTAGNOLI } else { 0 })
    })
}

fn now() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default().as_secs()
}

fn field<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at + N)?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};
    use std::time::Duration;

    use super::*;
    use crate::host::command::{Command, run_blocking};

    fn read_here(image: &Path) -> Option<Superblock> {
        read(&File::open(image).unwrap()).unwrap()
    }

    fn made(program: &'static str, size: u64) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let image = folder.path().join("image");
        File::create(&image).unwrap().set_len(size).unwrap();
        let arguments = ["-q".as_ref(), image.as_os_str()];
        run_blocking(Command::new(program, "test", arguments), Duration::from_secs(30))
            .unwrap()
            .success()
            .unwrap();
        (folder, image)
    }

    #[test]
    fn knows_sizes_and_what_can_grow() {
        for program in ["mkfs.ext4", "mkfs.xfs"] {
            let (_folder, image) = made(program, 512 << 20);
            let superblock = read_here(&image).unwrap();
            assert_eq!(superblock.size, 512 << 20);
            assert!(!superblock.can_grow() && !superblock.unfinished);
            File::options().write(true).open(&image).unwrap().set_len(600 << 20).unwrap();
            assert!(read_here(&image).unwrap().can_grow());
        }
    }

    #[test]
    fn an_xfs_that_mkfs_did_not_finish_says_so() {
        let (_folder, image) = made("mkfs.xfs", 512 << 20);
        File::options().write(true).open(&image).unwrap().write_at(&[1], 126).unwrap();
        assert!(read_here(&image).unwrap().unfinished);
    }

    #[test]
    fn an_ext4_is_clean_until_something_is_noted_in_it() {
        let (_folder, image) = made("mkfs.ext4", 64 << 20);
        assert!(read_here(&image).unwrap().clean);
        let mut ext = [0; 1024];
        File::open(&image).unwrap().read_exact_at(&mut ext, 1024).unwrap();
        let clean_with = |at: usize, value: u8, sum: bool| {
            let mut changed = ext;
            changed[at] = value;
            if sum {
                let right = crc32c(&changed[..0x3fc]).to_le_bytes();
                changed[0x3fc..].copy_from_slice(&right);
            }
            is_clean(&changed, now()).unwrap()
        };
        assert!(clean_with(0x88, 0, true) && !clean_with(0x88, 0xff, false), "the checksum counts");
        // s_state, the journal's flag, an orphan, orphans in their file, an error's count.
        for (at, value) in [(0x3a, 3), (0x60, 0xc6), (0xe8, 12), (0x66, 1), (0x194, 1)] {
            assert!(!clean_with(at, value, true), "offset {at:#x}");
        }
        assert_eq!(is_clean(&[0; 1024], 0), Some(false));
    }

    #[test]
    fn nothing_has_no_superblock() {
        assert_eq!(parse(&[0; 4096], 1 << 30), None);
    }
}
