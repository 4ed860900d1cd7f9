//! Our own helper process, for system calls that may never return.
//!
//! Mounting, unmounting and reading a device whose cluster is gone wait in the
//! kernel, where no signal but a process's end reaches them. They run in a
//! process of their own, which can be killed and which, if even that does not
//! help, is not the driver. Lives here: the jobs and the driver's side. The
//! helper's side is `helper`.
//!
//! Easily missed: linking librbd makes starting this program slow, so there is
//! one helper (this program again, as `rbd-csi internal helper`), started at the
//! first job, which forks for each job. It has one thread, so a fork of it may do
//! anything. Jobs and answers go through a socket: nothing of them is in an argv.

use std::collections::HashMap;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::Signal;
use nix::sys::socket::{
    AddressFamily, MsgFlags, Shutdown, SockFlag, SockType, recv, send, shutdown, socketpair,
};
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::Pid;
use serde::de::DeserializeOwned;

use super::job::{Job, LARGEST, News, Order};
use super::thread::on_thread;
use super::{HostError, Result, command};

/// How long a helper may leave its orders unread: it forks in between, and never waits.
const BUSY: Duration = Duration::from_secs(2);
/// How long a killed job may take to be gone.
const GRACE: Duration = Duration::from_secs(1);
type Waiting = Arc<Mutex<HashMap<u64, Sender<News>>>>;

/// The running helper, seen from the driver.
#[derive(Clone)]
struct Helper {
    socket: Arc<OwnedFd>,
    waiting: Waiting,
    process: Arc<Mutex<Child>>,
}

static HELPER: Mutex<Option<Helper>> = Mutex::new(None);
static NEXT: AtomicU64 = AtomicU64::new(1);
static PROGRAM: OnceLock<PathBuf> = OnceLock::new();

/// Names the rbd-csi program, for programs that use this library without being it.
pub fn use_program(program: PathBuf) {
    // Only the first call counts: the helper may be running.
    let _ = PROGRAM.set(program);
}

/// Runs the job in the helper process and gives its answer.
///
/// # Errors
/// The job's own errno; ETIMEDOUT with the process's id and state when it has
/// not ended after `limit`: it was killed then, or will be gone when the kernel
/// lets it.
pub async fn call<A>(job: Job, limit: Duration) -> Result<A>
where
    A: DeserializeOwned + Send + 'static,
{
    on_thread(job.op(), &job.object(), move || call_blocking(&job, limit)).await
}

/// As [`call`], for callers on a thread of their own.
///
/// # Errors
/// As [`call`].
pub fn call_blocking<A: DeserializeOwned>(job: &Job, limit: Duration) -> Result<A> {
    let fail = |errno| HostError::new(job.op(), job.object(), errno);
    let since = Instant::now();
    let id = NEXT.fetch_add(1, Ordering::Relaxed);
    let (helper, news) = order(id, job).map_err(|error| {
        HostError::io(job.op(), job.object(), &error).with("the driver's helper process cannot be started")
    })?;
    let mut pid = None;
    let answer = loop {
        match news.recv_timeout((since + limit).saturating_duration_since(Instant::now())) {
            Ok(News::Started(_, number)) => pid = Some(number),
            Ok(News::Done(_, answer)) => break Ok(answer),
            Ok(News::Failed(_, errno, detail)) => break Err(HostError { detail, ..fail(errno) }),
            Ok(News::Gone(_)) | Err(RecvTimeoutError::Disconnected) => {
                break Err(fail(libc::EIO).with("the helper process was killed from outside"));
            }
            Err(RecvTimeoutError::Timeout) => {
                let fate = helper.kill(id, pid, &news);
                let seconds = since.elapsed().as_secs_f64();
                break Err(fail(libc::ETIMEDOUT).with(format!("it ran for {seconds:.1} s; {fate}")));
            }
        }
    };
    lock(&helper.waiting).remove(&id);
    serde_json::from_value(answer?).map_err(|error| fail(libc::EPROTO).with(error.to_string()))
}

/// Sends the job to the helper; one that has gone is replaced once.
fn order(id: u64, job: &Job) -> std::io::Result<(Helper, Receiver<News>)> {
    let mut running = lock(&HELPER);
    for _ in 0..2 {
        let helper = match &*running {
            Some(helper) => helper.clone(),
            None => running.insert(Helper::start()?).clone(),
        };
        let (sender, news) = channel();
        lock(&helper.waiting).insert(id, sender);
        match helper.send(&Order::Run(id, job.clone())) {
            Ok(()) => return Ok((helper, news)),
            Err(error) if matches!(error.raw_os_error(), Some(libc::EMSGSIZE)) => return Err(error),
            Err(_) => {
                // Its jobs die with it, and their callers are told.
                helper.close();
                let _ = lock(&helper.process).kill();
                *running = None;
            }
        }
    }
    Err(std::io::Error::from_raw_os_error(libc::EPIPE))
}

impl Helper {
    fn start() -> std::io::Result<Self> {
        let (ours, theirs) =
            socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?;
        let program = PROGRAM.get().cloned().unwrap_or_else(|| PathBuf::from("/proc/self/exe"));
        let mut prepared = std::process::Command::new(program);
        prepared
            .arg0("rbd-csi")
            .args(["internal", "helper"])
            .env_clear()
            .env("LC_ALL", "C")
            .current_dir("/")
            .stdin(Stdio::from(theirs))
            .stdout(Stdio::null())
            .process_group(0);
        command::end_with_the_driver(&mut prepared, Signal::SIGKILL);
        let child = command::spawn(prepared)?;
        let pid = Pid::from_raw(i32::try_from(child.id()).unwrap_or(i32::MAX));
        let process = Arc::new(Mutex::new(child));
        let helper = Self { socket: Arc::new(ours), waiting: Waiting::default(), process };
        let (listener, dead) = (helper.clone(), helper.clone());
        std::thread::Builder::new().name("helper".into()).spawn(move || listener.listen())?;
        // A job that the kernel holds has the helper's end of the socket open, so that
        // the socket alone does not tell of the helper's end.
        std::thread::Builder::new().name("helper's end".into()).spawn(move || {
            // Its number stays its own until the second wait.
            while waitid(Id::Pid(pid), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT) == Err(Errno::EINTR) {}
            dead.close();
            let _ = lock(&dead.process).wait();
        })?;
        Ok(helper)
    }

    /// Ends the conversation: what it has told is still heard, and then the listener ends.
    fn close(&self) {
        // One that has been closed already is as closed as it can be.
        let _ = shutdown(self.socket.as_raw_fd(), Shutdown::Both);
    }

    fn send(&self, order: &Order) -> std::io::Result<()> {
        let message = serde_json::to_vec(order)?;
        if message.len() > LARGEST {
            return Err(std::io::Error::from_raw_os_error(libc::EMSGSIZE));
        }
        let until = Instant::now() + BUSY;
        loop {
            match send(self.socket.as_raw_fd(), &message, MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT) {
                Ok(_) => return Ok(()),
                // Its queue is full (net.unix.max_dgram_qlen, 10): it is about to read, or never will.
                Err(Errno::EAGAIN) if Instant::now() < until => {
                    std::thread::sleep(Duration::from_millis(2));
                }
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    /// Passes the helper's news on until it ends; whoever still waits then is told by the closed channel.
    fn listen(&self) {
        let mut message = vec![0; LARGEST];
        loop {
            match recv(self.socket.as_raw_fd(), &mut message, MsgFlags::empty()) {
                Err(Errno::EINTR) => {}
                Ok(0) | Err(_) => break,
                Ok(length) => match serde_json::from_slice::<News>(&message[..length]) {
                    Ok(news) => {
                        if let Some(sender) = lock(&self.waiting).get(&news.job()) {
                            let _ = sender.send(news);
                        }
                    }
                    Err(error) => tracing::warn!(%error, "unreadable message of the helper process"),
                },
            }
        }
        lock(&self.waiting).clear();
    }

    /// Kills a job at its limit and says what became of it.
    fn kill(&self, id: u64, pid: Option<i32>, news: &Receiver<News>) -> String {
        let Some(pid) = pid else { return "the helper process did not begin it".to_owned() };
        let state = command::state(pid.unsigned_abs());
        let _ = self.send(&Order::Kill(id));
        let until = Instant::now() + GRACE;
        loop {
            match news.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(News::Gone(_)) | Err(RecvTimeoutError::Disconnected) => {
                    return format!("its process {pid} (state {state}) was killed");
                }
                Ok(_) => {}
                Err(RecvTimeoutError::Timeout) => {
                    return format!(
                        "its process {pid} (state {state}) was killed but waits in the kernel, \
                         and goes when its device answers or is gone"
                    );
                }
            }
        }
    }
}

/// The maps stay consistent when a thread panics: nothing panics between two changes.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
