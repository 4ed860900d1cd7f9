//! What the writer writes: records of one size, each known by its number to the last byte,
//! and where they lie in a file system and on a raw device.
//!
//! What a reader gets wrong: nothing here remembers what was written. What a place should
//! hold is computed again from the number, and compared byte for byte.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

/// Bytes of a record: a page, so that a raw device takes it at once.
pub const RECORD: usize = 4096;
/// Records of a file; the writer then begins the next one.
const OF_A_FILE: u64 = 512;
/// Full files that are kept behind the one that is being written.
const KEPT: u64 = 3;
/// Records of a raw device before the first is overwritten.
const SLOTS: u64 = 2048;
/// Ceph's objects over which the slots are spread, so that neighbours in time lie in different ones.
const OBJECTS: u64 = 8;
const OBJECT: u64 = 4 << 20;
/// Bytes that are written once and never again.
const STILL: usize = 4 << 20;

/// A buffer that O_DIRECT takes.
#[repr(C, align(4096))]
struct Page([u8; RECORD]);

/// Fills it with bytes that no other seed gives.
fn fill(seed: u64, bytes: &mut [u8]) {
    let mut state = seed;
    for word in bytes.chunks_exact_mut(8) {
        // SplitMix64.
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word.copy_from_slice(&(mixed ^ (mixed >> 31)).to_le_bytes());
    }
}

fn record(number: u64) -> Box<Page> {
    let mut page = Box::new(Page([0; RECORD]));
    fill(number.wrapping_mul(0xd134_2543_de82_ef95), &mut page.0);
    page.0[..8].copy_from_slice(&number.to_le_bytes());
    page
}

/// The number of a record, if every byte is that record's.
fn number(page: &[u8]) -> Option<u64> {
    let number = u64::from_le_bytes(page.get(..8)?.try_into().ok()?);
    (page == &record(number).0[..]).then_some(number)
}

/// What a volume holds: all records of `first..=last`, and perhaps a piece of the next one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Held {
    pub first: u64,
    pub last: u64,
    pub torn: bool,
}

/// Where records lie.
#[derive(Debug, Clone)]
pub enum Place {
    /// A mounted file system.
    Folder(PathBuf),
    /// A raw device.
    Device(PathBuf),
}

impl Place {
    /// As a path says it: a device is no folder.
    pub fn at(path: &str) -> Self {
        let path = PathBuf::from(path);
        if path.is_dir() { Self::Folder(path) } else { Self::Device(path) }
    }

    /// Bytes that its user has: the file system's, or the device's.
    pub fn size(&self) -> std::io::Result<u64> {
        match self {
            Self::Folder(path) => {
                let figures = nix::sys::statvfs::statvfs(path)?;
                Ok(figures.blocks() * figures.fragment_size())
            }
            Self::Device(path) => std::io::Seek::seek(&mut File::open(path)?, std::io::SeekFrom::End(0)),
        }
    }

    /// What of the writer's is there; an error says which record is not as it must be.
    pub fn held(&self) -> Result<Held, String> {
        match self {
            Self::Folder(path) => held_by_files(path),
            Self::Device(path) => held_by_device(path),
        }
    }

    /// Writes bytes that stay, and syncs them: a file of that number, or the device at that offset.
    pub fn write_still(&self, number: u64, offset: u64) -> std::io::Result<()> {
        let bytes = still(number);
        match self {
            Self::Folder(path) => {
                let file = File::create(path.join(format!("still-{number}")))?;
                file.write_all_at(&bytes, 0)?;
                file.sync_all()?;
                File::open(path)?.sync_all()
            }
            Self::Device(path) => {
                let file = OpenOptions::new().write(true).open(path)?;
                file.write_all_at(&bytes, offset)?;
                file.sync_all()
            }
        }
    }

    /// Whether these bytes are there.
    pub fn has_still(&self, number: u64, offset: u64) -> Result<bool, String> {
        let (path, offset) = match self {
            Self::Folder(path) => (path.join(format!("still-{number}")), 0),
            Self::Device(path) => (path.clone(), offset),
        };
        let mut bytes = vec![0; STILL];
        let read = File::open(&path).and_then(|file| file.read_exact_at(&mut bytes, offset));
        read.map_err(|error| format!("{} at {offset}: {error}", path.display()))?;
        Ok(bytes == still(number))
    }
}

fn still(number: u64) -> Vec<u8> {
    let mut bytes = vec![0; STILL];
    fill(!number, &mut bytes);
    bytes
}

/// Writes one record after another, each synced before the next is begun.
pub struct Writer {
    place: Place,
    file: Option<File>,
}

impl Writer {
    pub fn new(place: Place) -> Self {
        Self { place, file: None }
    }

    /// Writes the record of that number, the one after the last.
    pub fn write(&mut self, number: u64) -> std::io::Result<()> {
        let at = match &self.place {
            Place::Folder(path) => {
                if (number - 1).is_multiple_of(OF_A_FILE) {
                    self.file = Some(next_file(path, (number - 1) / OF_A_FILE)?);
                }
                (number - 1) % OF_A_FILE * RECORD as u64
            }
            Place::Device(path) => {
                if self.file.is_none() {
                    let mut options = OpenOptions::new();
                    self.file = Some(options.write(true).custom_flags(libc::O_DIRECT).open(path)?);
                }
                offset(number)
            }
        };
        let file = self.file.as_ref().ok_or(std::io::ErrorKind::NotFound)?;
        file.write_all_at(&record(number).0, at)?;
        file.sync_all()
    }
}

fn file_of(folder: &Path, index: u64) -> PathBuf {
    folder.join(format!("records-{index:06}"))
}

/// Begins a file, and removes one that is old enough.
fn next_file(folder: &Path, index: u64) -> std::io::Result<File> {
    let file = File::create(file_of(folder, index))?;
    File::open(folder)?.sync_all()?;
    if let Some(old) = index.checked_sub(KEPT + 1) {
        std::fs::remove_file(file_of(folder, old))?;
    }
    Ok(file)
}

fn held_by_files(folder: &Path) -> Result<Held, String> {
    let failed = |error: std::io::Error| format!("{}: {error}", folder.display());
    let mut indices = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name();
        let index = name.to_str().and_then(|name| name.strip_prefix("records-"));
        indices.extend(index.and_then(|index| index.parse::<u64>().ok()));
    }
    indices.sort_unstable();
    let begin = *indices.first().ok_or("no records")?;
    let (mut last, mut torn) = (begin * OF_A_FILE, false);
    for (index, expected) in indices.iter().zip(begin..) {
        if *index != expected {
            return Err(format!("the files {indices:?} have a gap"));
        }
        let bytes = std::fs::read(file_of(folder, *index)).map_err(failed)?;
        for piece in bytes.chunks(RECORD) {
            if torn || number(piece) != Some(last + 1) {
                if torn || Some(index) != indices.last() {
                    return Err(format!("after record {last} comes {}, files {indices:?}", seen(piece)));
                }
                torn = true;
            } else {
                last += 1;
            }
        }
        if Some(index) != indices.last() && last != (index + 1) * OF_A_FILE {
            return Err(format!("file {index} of {indices:?} ends with record {last}"));
        }
    }
    Ok(Held { first: begin * OF_A_FILE + 1, last, torn })
}

fn offset(number: u64) -> u64 {
    let slot = (number - 1) % SLOTS;
    slot % OBJECTS * OBJECT + slot / OBJECTS * RECORD as u64
}

fn held_by_device(path: &Path) -> Result<Held, String> {
    let failed = |error: std::io::Error| format!("{}: {error}", path.display());
    // Not by the page cache: what the writer has written around it is not in there.
    let device = OpenOptions::new().read(true).custom_flags(libc::O_DIRECT).open(path).map_err(failed)?;
    let mut slots = vec![Vec::new(); usize::try_from(SLOTS).map_err(|error| error.to_string())?];
    for object in 0..OBJECTS {
        let length = slots.len() / OBJECTS as usize * RECORD;
        let mut buffer = vec![0; length + RECORD];
        let begin = buffer.as_ptr().align_offset(RECORD);
        let bytes = &mut buffer[begin..begin + length];
        device.read_exact_at(bytes, object * OBJECT).map_err(failed)?;
        for (slot, page) in (object as usize..).step_by(OBJECTS as usize).zip(bytes.chunks(RECORD)) {
            slots[slot] = page.to_vec();
        }
    }
    let last = slots.iter().filter_map(|page| number(page)).max().ok_or("no records")?;
    let mut torn = false;
    for (page, slot) in slots.iter().zip(1..) {
        // The newest of this slot that is not after the last.
        let expected = last.checked_sub((last + SLOTS - slot) % SLOTS).filter(|number| *number > 0);
        let right = match expected {
            Some(expected) => number(page) == Some(expected),
            None => page.iter().all(|byte| *byte == 0),
        };
        if !right && slot == last % SLOTS + 1 {
            torn = true;
        } else if !right {
            let seen = seen(page);
            return Err(format!("with {last} as the last, slot {slot} has {seen} for {expected:?}"));
        }
    }
    Ok(Held { first: (last + 1).saturating_sub(SLOTS).max(1), last, torn })
}

/// For an error: what stands there.
fn seen(piece: &[u8]) -> String {
    match number(piece) {
        Some(number) => format!("record {number}"),
        None => format!("{} bytes that are no record: {:02x?}…", piece.len(), piece.get(..16)),
    }
}
