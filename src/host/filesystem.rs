//! File systems on a device: which kinds, made with which options, checked how.
//!
//! Lives here: the allow-list, the argument lists (ceph-csi's) and the
//! programs' verdicts. Not here: whether a device may be formatted
//! (`node::blank`), growing (`growth`), what mkfs would write (`foresight`).
//!
//! Easily missed: kernels' file system code trusts what it mounts, and a tenant
//! can write any image, so kinds beyond the list are refused, not tried.

use std::ffi::OsString;
use std::future::Future;
use std::path::Path;
use std::time::Duration;

use tokio::sync::OnceCell;

use super::command::{self, Command, Output};
use super::fs_kind::FsKind;
use super::{HostError, Result, cgroup, mkfs_options};
use crate::fault;

/// mkfs and fsck of a large or slow volume take long; a repeated call joins them.
/// The limit only frees the volume of a program that will never end.
const LONGEST: Duration = Duration::from_secs(2 * 3600);
/// e2fsck's words when it gets no memory (`EXT2_ET_NO_MEMORY`), or none for a thread's stack (EAGAIN).
const NO_MEMORY: [&str; 2] = ["Memory allocation failed", "Resource temporarily unavailable"];
/// Looking at a program's own help takes no time.
const HELP: Duration = Duration::from_secs(20);

/// Takes the user's options of mkfs apart, and refuses those that reach outside the device; asks
/// no program.
///
/// # Errors
/// EINVAL naming the option.
pub fn check_mkfs_options(kind: FsKind, options: &str) -> Result<Vec<String>> {
    let arguments: Vec<String> = options.split_whitespace().map(str::to_owned).collect();
    mkfs_options::check(kind, &arguments)?;
    Ok(arguments)
}

/// mkfs's arguments before the device: the user's, else those that ceph-csi uses.
///
/// Nothing is zeroed or discarded by default: the caller has proven that the
/// device holds nothing, so all of it reads as zeros. And features are left out that
/// new tools turn on but kernels and tools in use do not know: a volume moves to nodes
/// with other kernels, and to ceph-csi. That is ext4's `orphan_file` (e2fsprogs 1.47,
/// Linux 5.15) and XFS' `nrext64` (xfsprogs 5.19, Linux 5.19).
///
/// # Errors
/// EINVAL for options that reach outside the device, else a missing program.
pub async fn mkfs_arguments(kind: FsKind, options: &str) -> Result<Vec<String>> {
    let mut arguments = check_mkfs_options(kind, options)?;
    match (kind.is_ext(), arguments.is_empty()) {
        (true, true) => {
            let defaults: &[&str] = match mke2fs_is_1_47().await? {
                true => &["-m0", "-Enodiscard,assume_storage_prezeroed=1", "-O^orphan_file"],
                false => &["-m0", "-Enodiscard,lazy_itable_init=1,lazy_journal_init=1"],
            };
            arguments = defaults.iter().map(|&argument| argument.to_owned()).collect();
        }
        (true, false) => {}
        (false, none) => {
            let knows = mkfs_xfs_knows().await?;
            if none {
                arguments.push("-K".into());
                if knows.nrext64 {
                    arguments.extend(["-i".into(), "nrext64=0".into()]);
                }
            }
            if knows.reflink && !arguments.iter().any(|argument| argument.contains("reflink=")) {
                arguments.extend(["-m".into(), "reflink=0".into()]);
            }
        }
    }
    Ok(arguments)
}

/// Whether it is 1.47 or newer, told by an option that came with it.
async fn mke2fs_is_1_47() -> Result<bool> {
    static IS: OnceCell<bool> = OnceCell::const_new();
    // An extended option that does not exist makes mke2fs list those that do, once it
    // has seen a device that is not empty: its own file will do, it is only looked at.
    let help = Command::new("mke2fs", "its help", ["-n", "-E", "help", "/proc/self/exe"]);
    let is = async { Ok(printed(help).await?.contains("assume_storage_prezeroed")) };
    IS.get_or_try_init(|| is).await.copied()
}

/// Options that only some releases of mkfs.xfs have.
#[derive(Clone, Copy)]
struct XfsOptions {
    reflink: bool,
    nrext64: bool,
}

async fn mkfs_xfs_knows() -> Result<XfsOptions> {
    static KNOWS: OnceCell<XfsOptions> = OnceCell::const_new();
    let look = async {
        // Without a device it prints its usage.
        let usage = printed(Command::new("mkfs.xfs", "its help", [""; 0])).await?;
        Ok(XfsOptions { reflink: usage.contains("reflink="), nrext64: usage.contains("nrext64=") })
    };
    KNOWS.get_or_try_init(|| look).await.copied()
}

async fn printed(help: Command) -> Result<String> {
    let output = command::run(help, HELP).await?;
    Ok(String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
}

/// Makes a file system on a device that the caller has proven to be its to format.
///
/// # Errors
/// mkfs's last words.
pub async fn mkfs(kind: FsKind, arguments: &[String], device: &Path) -> Result<()> {
    let object = device.display().to_string();
    let mut all: Vec<OsString> = arguments.iter().map(OsString::from).collect();
    all.push(device.into());
    step("host: mkfs", &object.clone(), async {
        command::run(Command::new(kind.mkfs(), object, all), LONGEST).await?.success()?;
        Ok(())
    })
    .await
}

/// How many errors the kernel has met in the ext file system on `/dev/rbd<number>` since it was
/// last repaired; none where it has no such file system or does not tell.
pub fn errors_met(number: u32) -> u64 {
    let count = std::fs::read_to_string(format!("/sys/fs/ext4/rbd{number}/errors_count"));
    count.ok().and_then(|count| count.trim().parse().ok()).unwrap_or(0)
}

/// Makes a file without a name in the file system's root folder and lets it go (`O_TMPFILE`, open(2)):
/// nothing of it is ever seen.
///
/// # Errors
/// EROFS, EIO and the like when the file system takes no writes any more.
pub fn try_to_write(path: &Path) -> Result<()> {
    use std::os::unix::fs::OpenOptionsExt as _;
    let made = std::fs::File::options().write(true).custom_flags(libc::O_TMPFILE).mode(0o600).open(path);
    made.map(drop).map_err(|error| HostError::io("open", path.display().to_string(), &error))
}

/// How careful a check is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Care {
    /// Looks no further: [`super::superblock::Superblock::clean`] was just seen, and what
    /// e2fsck itself would skip costs no process, a tenth of a second of each staging.
    Clean,
    /// Replays the journal, and looks closer only when the file system says that it is needed.
    Usual,
    /// Looks at everything.
    Full,
}

/// Checks a file system before it is mounted, and repairs what can be repaired
/// without a decision (ext: `e2fsck -p`; XFS replays its log when it is mounted).
///
/// # Errors
/// EUCLEAN when errors are left that a person has to decide about, with the command for it; EBUSY
/// when somebody has claimed the device; EOPNOTSUPP for a feature that this e2fsck does not know.
pub async fn fsck(kind: FsKind, device: &Path, care: Care) -> Result<()> {
    if !kind.is_ext() {
        return Ok(());
    }
    let object = device.display().to_string();
    let mut arguments: Vec<OsString> = vec!["-p".into()];
    if care == Care::Full {
        arguments.push("-f".into());
    }
    arguments.push(device.into());
    step("host: fsck", &object.clone(), async {
        if care == Care::Clean {
            return Ok(());
        }
        let mut check = Command::new("e2fsck", object, arguments);
        let memory = memory_of_a_check();
        check.memory = memory;
        let output = command::run(check, LONGEST).await?;
        match output.status.code() {
            // fsck(8): 1 corrected; 2 corrected, and a mounted root would need a reboot.
            Some(0..=2) => {
                tracing::debug!(device = %device.display(), code = output.status.code(), "checked");
                Ok(())
            }
            // 32: somebody told it to stop; what else is set is of a check that was not ended.
            Some(code) if code & 32 != 0 => {
                Err(HostError { errno: libc::EINTR, ..output.failure() }.with("it was told to stop before its end"))
            }
            // 4: errors are left.
            Some(code) if code & 4 != 0 => {
                let failure = output.failure();
                let words = failure.detail.clone().unwrap_or_default();
                Err(HostError { errno: libc::EUCLEAN, ..failure }.with(format!(
                    "the file system has damage that needs a decision; map the image where nobody else uses it and \
                     run `e2fsck -f` on it, or restore a backup: {words}"
                )))
            }
            // 8: it could not work, and judges nothing.
            Some(8) => Err(not_checked(&output, memory)),
            _ => Err(output.failure()),
        }
    })
    .await
}

/// A full check of millions of files needs much memory. The kernel ends the whole container, and with
/// it the work on all volumes, when one of its programs passes the container's limit.
fn memory_of_a_check() -> Option<u64> {
    cgroup::memory().map(|most| most / 2)
}

/// Why e2fsck did not get to look: its last words alone do not say it.
fn not_checked(output: &Output, memory: Option<u64>) -> HostError {
    let said = String::from_utf8_lossy(&[&*output.stdout, &*output.stderr].concat()).into_owned();
    let lines = || said.lines().map(str::trim).filter(|line| !line.is_empty());
    let says = |words: &[&str]| lines().any(|line| words.iter().any(|word| line.contains(word)));
    let failure = output.failure();
    let told = lines().map(|line| line.chars().take(120).collect::<String>()).collect::<Vec<_>>().join("; ");
    let told: String = told.chars().take(400).collect();
    if says(&["is in use", "is mounted"]) {
        return HostError { errno: libc::EBUSY, ..failure }.with(told);
    }
    if let Some(bytes) = memory.filter(|_| says(&NO_MEMORY)) {
        let mebibytes = bytes >> 20;
        return HostError { errno: libc::ENOMEM, ..failure }.with(format!(
            "e2fsck needs more than the {mebibytes} MiB that it may have, half of the container's limit; raise the \
             memory limit of the container csi-rbdplugin: {told}"
        ));
    }
    if says(&["Get a newer version of e2fsck", "unsupported feature"]) {
        let why = "the file system has features that this driver's e2fsck does not know, so it was not checked; use \
                   an image of the driver with newer e2fsprogs";
        return HostError { errno: libc::EOPNOTSUPP, ..failure }.with(format!("{why}: {told}"));
    }
    failure.with(told)
}

/// Lets a test build strike before and after a step that waits.
pub(super) async fn step<T>(
    name: &'static str,
    object: &str,
    work: impl Future<Output = Result<T>>,
) -> Result<T> {
    fault::before(name, object).map_err(|errno| HostError::new(name, object, errno))?;
    let done = work.await?;
    fault::after(name, object).map_err(|errno| HostError::new(name, object, errno))?;
    Ok(done)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_defaults_are_those_of_ceph_csi_without_features_that_few_kernels_know() {
        let ext = mkfs_arguments(FsKind::Ext4, "").await.unwrap();
        let help = command::run(Command::new("mke2fs", "test", ["-V"]), HELP).await.unwrap();
        let version = String::from_utf8_lossy(&help.stderr).split_whitespace().nth(1).unwrap().to_owned();
        let minor: u32 = version.split('.').nth(1).unwrap().parse().unwrap();
        let expected: &[&str] = if minor >= 47 {
            &["-m0", "-Enodiscard,assume_storage_prezeroed=1", "-O^orphan_file"]
        } else {
            &["-m0", "-Enodiscard,lazy_itable_init=1,lazy_journal_init=1"]
        };
        assert_eq!(ext, expected);
        let usage = printed(Command::new("mkfs.xfs", "test", [""; 0])).await.unwrap();
        let nrext64: &[&str] = if usage.contains("nrext64") { &["-i", "nrext64=0"] } else { &[] };
        let expected = [&["-K"], nrext64, &["-m", "reflink=0"]].concat();
        assert_eq!(mkfs_arguments(FsKind::Xfs, "").await.unwrap(), expected);
    }

    #[tokio::test]
    async fn the_users_options_replace_them_but_for_reflink() {
        let ext = mkfs_arguments(FsKind::Ext4, " -b 4096  -L name ").await.unwrap();
        assert_eq!(ext, ["-b", "4096", "-L", "name"]);
        let xfs = mkfs_arguments(FsKind::Xfs, "-K -L name").await.unwrap();
        assert_eq!(xfs, ["-K", "-L", "name", "-m", "reflink=0"]);
        let chosen = mkfs_arguments(FsKind::Xfs, "-m reflink=1").await.unwrap();
        assert_eq!(chosen, ["-m", "reflink=1"]);
    }

    #[tokio::test]
    async fn options_cannot_name_files() {
        for options in ["-d /etc", "-Jdevice=LABEL=journal", "somebody's"] {
            assert!(mkfs_arguments(FsKind::Ext4, options).await.unwrap_err().is(libc::EINVAL));
        }
    }

    #[tokio::test]
    async fn a_check_that_gets_too_little_memory_says_so() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("disk");
        std::fs::File::create(&file).unwrap().set_len(200 << 30).unwrap();
        let words = ["-q", "-F", "-E", "lazy_itable_init=1,lazy_journal_init=1"].map(OsString::from);
        let make = Command::new("mkfs.ext4", "disk", words.into_iter().chain([file.clone().into()]));
        command::run(make, LONGEST).await.unwrap().success().unwrap();
        // As the limit does it, but without room for the threads' stacks, of which each machine has others.
        let script = format!("ulimit -d 1500; exec e2fsck -p -f {}", file.display());
        let output = command::run(Command::new("sh", "disk", ["-c", &script]), LONGEST).await.unwrap();
        assert_eq!(output.status.code(), Some(8), "{}", output.text());
        let error = not_checked(&output, Some(4 << 20));
        assert!(error.is(libc::ENOMEM) && error.to_string().contains("more than the 4 MiB"), "{error}");
        fsck(FsKind::Ext4, &file, Care::Full).await.unwrap();
    }

    #[test]
    fn exotic_kinds_are_not_supported() {
        assert_eq!(FsKind::parse("btrfs"), None);
        assert_eq!(FsKind::parse("xfs").map(FsKind::name), Some("xfs"));
    }
}
