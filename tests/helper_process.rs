//! The helper process and its jobs, on this machine's kernel. Needs root.
#![allow(clippy::unwrap_used)]

use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use rbd_csi::host::child;
use rbd_csi::host::foresight::written_by;
use rbd_csi::host::fs_kind::FsKind;
use rbd_csi::host::job::Job;
use rbd_csi::host::probe::{Content, probe};

const LIMIT: Duration = Duration::from_secs(20);

/// One test at a time: they share one helper, and one of them kills it.
static TURN: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

async fn turn() -> (tempfile::TempDir, tokio::sync::MutexGuard<'static, ()>) {
    child::use_program(PathBuf::from(env!("CARGO_BIN_EXE_rbd-csi")));
    (tempfile::tempdir().unwrap(), TURN.lock().await)
}

fn sparse(folder: &Path, size: u64) -> PathBuf {
    let path = folder.join("image");
    std::fs::File::create(&path).unwrap().set_len(size).unwrap();
    path
}

fn run(program: &str, args: &[&str]) {
    let output = Command::new(program).args(args).output().unwrap();
    assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
}

fn helpers() -> Vec<i32> {
    let me = std::process::id().to_string();
    let output = Command::new("pgrep").args(["-P", &me, "-f", "internal helper"]).output().unwrap();
    String::from_utf8_lossy(&output.stdout).lines().map(|line| line.trim().parse().unwrap()).collect()
}

#[tokio::test]
async fn the_probe_tells_things_apart() {
    let (folder, _turn) = turn().await;
    let image = sparse(folder.path(), 256 << 20);
    let text = image.to_str().unwrap();
    assert_eq!(probe(&image, LIMIT).await.unwrap(), Content::Nothing);
    run("mkfs.ext4", &["-q", text]);
    assert_eq!(probe(&image, LIMIT).await.unwrap(), Content::Filesystem("ext4".into()));

    let image = sparse(folder.path(), 512 << 20);
    run("mkfs.xfs", &["-q", text]);
    assert_eq!(probe(&image, LIMIT).await.unwrap(), Content::Filesystem("xfs".into()));
    let image = sparse(folder.path(), 256 << 20);
    run("mkswap", &[text]);
    assert_eq!(probe(&image, LIMIT).await.unwrap(), Content::Other("swap (other)".into()));

    let image = sparse(folder.path(), 256 << 20);
    let mut sector = [0; 512];
    sector[446..462].copy_from_slice(&[0, 0, 2, 0, 0x83, 0, 2, 0, 0, 8, 0, 0, 0, 16, 0, 0]); // 2 MiB from 1 MiB on
    sector[510..].copy_from_slice(&[0x55, 0xaa]);
    std::fs::File::options().write(true).open(&image).unwrap().write_at(&sector, 0).unwrap();
    assert_eq!(probe(&image, LIMIT).await.unwrap(), Content::PartitionTable("dos".into()));

    let missing = probe(folder.path().join("absent"), LIMIT).await.unwrap_err();
    assert!(missing.is(libc::ENOENT) && missing.to_string().contains("absent"), "{missing}");
}

#[tokio::test]
async fn a_job_that_hangs_is_killed_and_named_and_the_next_one_runs() {
    let (folder, _turn) = turn().await;
    let pipe = folder.path().join("pipe");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
    // Warms the helper up, so that the limit below is the job's alone.
    let image = sparse(folder.path(), 1 << 20);
    probe(&image, LIMIT).await.unwrap();
    let since = Instant::now();
    let error = probe(&pipe, Duration::from_millis(400)).await.unwrap_err();
    assert!(error.is(libc::ETIMEDOUT) && error.to_string().contains("was killed"), "{error}");
    assert!(since.elapsed() < Duration::from_secs(2));
    assert_eq!(probe(&image, LIMIT).await.unwrap(), Content::Nothing);
}

#[tokio::test]
async fn mounts_and_unmounts_and_follows_no_symlink() {
    let (folder, _turn) = turn().await;
    let place = folder.path().canonicalize().unwrap().join("place");
    std::fs::create_dir(&place).unwrap();
    let link = place.with_file_name("link");
    std::os::unix::fs::symlink(&place, &link).unwrap();
    let mount = |target: &Path| Job::Mount {
        source: "none".into(),
        target: target.to_owned(),
        fs_type: "tmpfs".into(),
        flags: libc::MS_NOSUID,
        data: "size=4096".into(),
    };
    let refused = child::call::<()>(mount(&link), LIMIT).await.unwrap_err();
    assert!(refused.is(libc::ELOOP), "{refused}");
    child::call::<()>(mount(&place), LIMIT).await.unwrap();
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(mounts.contains(place.to_str().unwrap()));
    let unmount = |target: &Path| Job::Unmount { target: target.to_owned() };
    assert!(child::call::<()>(unmount(&link), LIMIT).await.is_err());
    let open = std::fs::File::open(&place).unwrap();
    assert!(child::call::<()>(unmount(&place), LIMIT).await.unwrap_err().is(libc::EBUSY));
    drop(open);
    child::call::<()>(unmount(&place), LIMIT).await.unwrap();
    assert!(child::call::<()>(unmount(&place), LIMIT).await.unwrap_err().is(libc::EINVAL));
}

#[tokio::test]
async fn a_helper_that_was_killed_is_replaced() {
    let (folder, _turn) = turn().await;
    let image = sparse(folder.path(), 1 << 20);
    probe(&image, LIMIT).await.unwrap();
    let before = helpers();
    assert_eq!(before.len(), 1, "one helper a process");
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(before[0]), nix::sys::signal::Signal::SIGKILL).unwrap();
    // The first call after it may still have reached the dying one.
    let again = probe(&image, LIMIT).await;
    assert!(again.is_ok() || probe(&image, LIMIT).await.is_ok());
    assert_ne!(helpers(), before);
}

#[tokio::test]
async fn a_killed_helper_is_noticed_while_somebody_else_holds_its_socket() {
    let (folder, _turn) = turn().await;
    let image = sparse(folder.path(), 1 << 20);
    let pipe = folder.path().join("pipe");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
    probe(&image, LIMIT).await.unwrap();
    let helper = helpers()[0];
    // As a job does that the kernel does not let die.
    let _held = descriptor_of(helper, 0);
    let hanging = tokio::spawn(async move { probe(&pipe, LIMIT).await });
    tokio::time::sleep(Duration::from_millis(200)).await;
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(helper), nix::sys::signal::Signal::SIGKILL).unwrap();
    let since = Instant::now();
    let error = hanging.await.unwrap().unwrap_err();
    assert!(error.to_string().contains("killed from outside"), "{error}");
    assert!(since.elapsed() < Duration::from_secs(2), "{:?}", since.elapsed());
    assert_eq!(probe(&image, LIMIT).await.unwrap(), Content::Nothing);
}

#[tokio::test]
async fn a_helper_that_reads_nothing_is_replaced() {
    let (folder, _turn) = turn().await;
    let image = sparse(folder.path(), 1 << 20);
    probe(&image, LIMIT).await.unwrap();
    let stopped = nix::unistd::Pid::from_raw(helpers()[0]);
    nix::sys::signal::kill(stopped, nix::sys::signal::Signal::SIGSTOP).unwrap();
    let since = Instant::now();
    let probes: Vec<_> = (0..1000)
        .map(|_| {
            let image = image.clone();
            tokio::spawn(async move { probe(&image, LIMIT).await })
        })
        .collect();
    let mut good = 0;
    for probe in probes {
        match probe.await.unwrap() {
            Ok(_) => good += 1,
            Err(error) => assert!(error.to_string().contains("killed from outside"), "{error}"),
        }
    }
    // Those that the full queue had no room for.
    assert!(good > 0);
    assert_eq!(probe(&image, LIMIT).await.unwrap(), Content::Nothing);
    while helpers().contains(&stopped.as_raw()) {
        assert!(since.elapsed() < LIMIT, "the stopped one is still there");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A copy of another process's descriptor.
fn descriptor_of(pid: i32, number: i32) -> OwnedFd {
    // SAFETY: no pointers; what comes back is a descriptor of ours alone, or an error.
    unsafe {
        let process = nix::errno::Errno::result(libc::syscall(libc::SYS_pidfd_open, pid, 0)).unwrap();
        let process = OwnedFd::from_raw_fd(i32::try_from(process).unwrap());
        let copy = libc::syscall(libc::SYS_pidfd_getfd, process.as_raw_fd(), number, 0);
        OwnedFd::from_raw_fd(i32::try_from(nix::errno::Errno::result(copy).unwrap()).unwrap())
    }
}

/// A file system of that kind, mounted on a folder of its own until it is dropped.
struct Mounted(PathBuf);

impl Mounted {
    fn at(folder: &Path, args: &[&str]) -> Self {
        let place = folder.join("mounted");
        std::fs::create_dir(&place).unwrap();
        run("mount", &[args, &[place.to_str().unwrap()]].concat());
        Self(place)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        run("umount", &[self.0.to_str().unwrap()]);
    }
}

#[tokio::test]
async fn nothing_is_foreseen_where_files_have_no_holes() {
    const SIZE: u64 = 64 << 20;
    let (folder, _turn) = turn().await;
    let device = sparse(folder.path(), SIZE);
    // It takes a file's whole length for data, as it has no pages to look for.
    let place = Mounted::at(folder.path(), &["-t", "ramfs", "none"]);
    let refused = written_by(FsKind::Ext4, &[], &device, SIZE, &place.0).await.unwrap_err();
    assert!(refused.is(libc::EOPNOTSUPP) && refused.to_string().contains("holes"), "{refused}");
    assert_eq!(std::fs::read_dir(&place.0).unwrap().count(), 0);
}
