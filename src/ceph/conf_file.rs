//! `ceph.conf` as it is given to librados: a checked copy.
//!
//! Ceph's parser ends the whole process (an assertion) when it meets a letter that is no ASCII
//! outside a comment, and refuses a last line without an end; both in a file that people edit by
//! hand, and that is read again at each connect. So the file is read here first.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::path::Path;

use super::error::{CephError, Result};

/// [`CephError::op`] of whatever is wrong with the file.
pub const OP: &str = "ceph.conf";
/// A longer one is no configuration.
const LONGEST: u64 = 1 << 20;

/// The file's text, fit for librados; `None` when there is no file.
///
/// # Errors
/// The file cannot be read; EINVAL with line and column of what Ceph's parser would not survive.
pub(super) fn read(path: &Path) -> Result<Option<Vec<u8>>> {
    let failed = |error: &std::io::Error| {
        CephError::new(OP, path.display().to_string(), error.raw_os_error().unwrap_or(libc::EIO))
    };
    let file = match File::open(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        file => file.map_err(|error| failed(&error))?,
    };
    let mut text = Vec::new();
    file.take(LONGEST + 1).read_to_end(&mut text).map_err(|error| failed(&error))?;
    if text.len() as u64 > LONGEST {
        return Err(CephError::new(OP, path.display().to_string(), libc::EFBIG));
    }
    checked(&text)
        .map(Some)
        .map_err(|what| CephError::new(OP, format!("{}:{what}", path.display()), libc::EINVAL))
}

/// A copy in memory, to be read by its name in `/proc/self/fd`.
///
/// # Errors
/// No memory.
pub(super) fn in_memory(text: &[u8]) -> std::io::Result<File> {
    let flags = nix::sys::memfd::MFdFlags::MFD_CLOEXEC;
    let mut file = File::from(nix::sys::memfd::memfd_create(c"rbd-csi-ceph-conf", flags)?);
    file.write_all(text)?;
    Ok(file)
}

/// The same lines, each with an end, and only ASCII in comments.
fn checked(text: &[u8]) -> std::result::Result<Vec<u8>, String> {
    let mut copy = Vec::with_capacity(text.len() + 1);
    for (number, line) in text.split(|byte| *byte == b'\n').enumerate() {
        let comment = line.iter().position(|byte| matches!(byte, b'#' | b';')).unwrap_or(line.len());
        if let Some(at) = line[..comment].iter().position(|byte| !byte.is_ascii() || *byte == 0) {
            let (row, column) = (number + 1, at + 1);
            return Err(format!(
                "{row}:{column}: {} stands here, and Ceph takes ASCII only",
                shown(&line[at..])
            ));
        }
        copy.extend_from_slice(&line[..comment]);
        copy.extend(
            line[comment..].iter().map(|byte| if byte.is_ascii() && *byte != 0 { *byte } else { b'?' }),
        );
        copy.push(b'\n');
    }
    Ok(copy)
}

/// The letter at the beginning of these bytes, for people: some of them cannot be seen.
fn shown(bytes: &[u8]) -> String {
    let letter = String::from_utf8_lossy(&bytes[..bytes.len().min(4)]).chars().next();
    match letter {
        Some('\u{feff}') => "a byte order mark".to_owned(),
        Some('\u{a0}') => "a no-break space".to_owned(),
        Some(char::REPLACEMENT_CHARACTER) | None => format!("the byte {:#04x}", bytes.first().unwrap_or(&0)),
        Some(letter) => format!("{letter:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(given: &str) -> String {
        String::from_utf8(checked(given.as_bytes()).unwrap()).unwrap()
    }

    #[test]
    fn lines_end_and_comments_are_plain() {
        assert_eq!(text("[global]\na = b"), "[global]\na = b\n");
        assert_eq!(text(""), "\n");
        assert_eq!(text("a = b ; gr\u{fc}n\n# \u{feff}\n"), "a = b ; gr??n\n# ???\n\n");
    }

    #[test]
    fn what_ceph_s_parser_dies_of_is_told_with_its_place() {
        for (given, place, what) in [
            ("[global]\nfoo = gr\u{fc}n\n", "2:9:", "'\u{fc}'"),
            ("\u{feff}[global]\n", "1:1:", "byte order mark"),
            ("[global]\nfoo =\u{a0}1", "2:6:", "no-break space"),
            ("a\0", "1:2:", "'\\0'"),
        ] {
            let error = checked(given.as_bytes()).unwrap_err();
            assert!(error.starts_with(place) && error.contains(what), "{given:?}: {error}");
        }
        assert!(checked(b"a = \xff").unwrap_err().contains("0xff"));
    }
}
