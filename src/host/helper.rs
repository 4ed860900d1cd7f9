//! The helper process: what runs behind `rbd-csi internal helper`.
//!
//! One thread, one fork a job, so that a job that the kernel holds hurts nobody
//! else. Ends with its socket, that is, with the driver. The driver's side and
//! the jobs' meaning are in `child` and `job`.

use std::collections::HashMap;
use std::ffi::{CString, OsString};
use std::os::fd::{AsFd as _, AsRawFd as _, FromRawFd as _, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::process::ExitCode;

use nix::errno::Errno;
use nix::mount::{MntFlags, umount2};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::socket::{MsgFlags, recv, send};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, fork};
use sys_mount::{Mount, MountFlags};

use super::job::{Job, LARGEST, News, Order};
use super::{probe, replay};

/// The socket to the driver is the standard input.
const SOCKET: RawFd = 0;

type Jobs = HashMap<Pid, u64>;

/// Runs when this program is started as `rbd-csi internal …`; `args` are those behind `internal`.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    match args.into_iter().next() {
        Some(arg) if arg == "helper" => serve(),
        _ => ExitCode::from(2),
    }
}

/// Serves the driver until it is gone.
fn serve() -> ExitCode {
    match try_serve() {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn try_serve() -> nix::Result<()> {
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGCHLD);
    signals.thread_block()?;
    let deaths = SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
    // SAFETY: the driver gave its socket as standard input; nothing else here owns or closes it.
    let socket = unsafe { OwnedFd::from_raw_fd(SOCKET) };
    let mut jobs = Jobs::new();
    loop {
        let mut fds =
            [PollFd::new(socket.as_fd(), PollFlags::POLLIN), PollFd::new(deaths.as_fd(), PollFlags::POLLIN)];
        match poll(&mut fds, PollTimeout::NONE) {
            Err(Errno::EINTR) => continue,
            other => other?,
        };
        let (orders, died) = (ready(&fds[0]), ready(&fds[1]));
        if died {
            while let Ok(Some(_)) = deaths.read_signal() {}
            bury(&mut jobs);
        }
        if orders && !obey(&mut jobs, &signals)? {
            return Ok(());
        }
    }
}

fn ready(fd: &PollFd<'_>) -> bool {
    fd.any().unwrap_or(true)
}

fn tell(news: &News) {
    if let Ok(message) = serde_json::to_vec(news) {
        // The driver is gone when this fails, and this process ends at its next order.
        let _ = send(SOCKET, &message, MsgFlags::MSG_NOSIGNAL);
    }
}

/// Tells of every job whose process has ended.
fn bury(jobs: &mut Jobs) {
    while let Ok(status) = waitpid(None, Some(WaitPidFlag::WNOHANG)) {
        if status == WaitStatus::StillAlive {
            return;
        }
        if let Some(id) = status.pid().and_then(|pid| jobs.remove(&pid)) {
            tell(&News::Gone(id));
        }
    }
}

/// Reads one order and carries it out; `false` when the driver is gone.
fn obey(jobs: &mut Jobs, signals: &SigSet) -> nix::Result<bool> {
    let mut message = vec![0; LARGEST];
    let length = recv(SOCKET, &mut message, MsgFlags::empty())?;
    if length == 0 {
        return Ok(false);
    }
    match serde_json::from_slice(&message[..length]) {
        Ok(Order::Run(id, job)) => begin(id, &job, jobs, signals),
        Ok(Order::Kill(id)) => {
            // A process that is in the map has not been waited for, so its number is still its own.
            for (pid, _) in jobs.iter().filter(|(_, job)| **job == id) {
                let _ = kill(*pid, Signal::SIGKILL);
            }
        }
        Err(_) => return Err(Errno::EPROTO),
    }
    Ok(true)
}

fn begin(id: u64, job: &Job, jobs: &mut Jobs, signals: &SigSet) {
    // SAFETY: this process has one thread, so its copy may do all that it may do.
    match unsafe { fork() } {
        Err(errno) => {
            tell(&News::Failed(id, errno as i32, Some("fork of the helper process".into())));
            tell(&News::Gone(id));
        }
        Ok(ForkResult::Parent { child }) => {
            jobs.insert(child, id);
            tell(&News::Started(id, child.as_raw()));
        }
        Ok(ForkResult::Child) => {
            let _ = signals.thread_unblock();
            // SAFETY: no pointers; lets the job die with the helper.
            unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
            tell(&match work(job) {
                Ok(answer) => News::Done(id, answer),
                Err((errno, detail)) => News::Failed(id, errno as i32, detail),
            });
            // SAFETY: ends this copy without running what belongs to the helper.
            unsafe { libc::_exit(0) }
        }
    }
}

type Failure = (Errno, Option<String>);

fn plain(errno: Errno) -> Failure {
    (errno, None)
}

fn work(job: &Job) -> Result<serde_json::Value, Failure> {
    match job {
        Job::Mount { source, target, fs_type, flags, data } => {
            let place = open_beneath(target).map_err(plain)?;
            let place = format!("/proc/self/fd/{}", place.as_raw_fd());
            // Its type is given: without one, sys-mount would try every file system.
            let mounted = Mount::builder()
                .fstype(fs_type.as_str())
                .flags(MountFlags::from_bits_retain(*flags))
                .data(data)
                .mount(source, place);
            mounted.map_err(|error| plain(Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO))))?;
            Ok(serde_json::Value::Null)
        }
        Job::Unmount { target } => {
            unmount_here(target).map_err(plain)?;
            Ok(serde_json::Value::Null)
        }
        Job::Look { device } => answer(probe::look_here(device)),
        Job::Replay { device } => {
            replay::replay_xfs_here(device).map_err(plain)?;
            Ok(serde_json::Value::Null)
        }
    }
}

/// umount2(2) of an absolute path, following no symlink in it; in whichever process this is.
pub(super) fn unmount_here(target: &Path) -> nix::Result<()> {
    // An open descriptor of the mount itself would keep it busy, so its parent is opened.
    let (Some(parent), Some(name)) = (target.parent(), target.file_name()) else {
        return Err(Errno::EINVAL);
    };
    let parent = open_beneath(parent)?;
    let place = Path::new("/proc/self/fd").join(parent.as_raw_fd().to_string()).join(name);
    umount2(&place, MntFlags::UMOUNT_NOFOLLOW)
}

fn answer(read: std::io::Result<impl serde::Serialize>) -> Result<serde_json::Value, Failure> {
    let value = read.map_err(|error| match error.raw_os_error() {
        Some(errno) => plain(Errno::from_raw(errno)),
        None => (Errno::EIO, Some(error.to_string())),
    })?;
    serde_json::to_value(value).map_err(|error| (Errno::EPROTO, Some(error.to_string())))
}

/// Opens an absolute path as a place (O_PATH), following no symlink anywhere in it.
fn open_beneath(path: &Path) -> nix::Result<OwnedFd> {
    if !path.is_absolute() {
        return Err(Errno::EINVAL);
    }
    let name = CString::new(path.as_os_str().as_bytes()).map_err(|_| Errno::EINVAL)?;
    // SAFETY: all-zero is a valid open_how (openat2(2)).
    let mut how: libc::open_how = unsafe { std::mem::zeroed() };
    how.flags = (libc::O_PATH | libc::O_CLOEXEC).unsigned_abs().into();
    how.resolve = libc::RESOLVE_NO_SYMLINKS;
    // SAFETY: `name` and `how` live through the call, and the size is that of `how`.
    let fd = unsafe {
        libc::syscall(libc::SYS_openat2, libc::AT_FDCWD, name.as_ptr(), &raw const how, size_of_val(&how))
    };
    let fd = RawFd::try_from(Errno::result(fd)?).map_err(|_| Errno::EBADF)?;
    // SAFETY: the kernel has just given this descriptor to us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
