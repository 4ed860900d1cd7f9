//! External programs: the one place that starts them.
//!
//! A program gets its arguments as a list (never a shell), an empty environment
//! but for what is said here, its input as bytes, and a process group of its own
//! that ends with the driver. At the limit it is asked to end (SIGTERM: e2fsck stops
//! between two writes), and killed when it does not; one that the kernel does not let
//! die (state D: it waits for a device) is left to a reaper, and the caller is told so.
//! What it prints is kept only up to a bound.
//!
//! Not here: which program, with which arguments (`filesystem`, `krbd`), and the
//! driver's own helper process (`child`).
//!
//! PR_SET_PDEATHSIG strikes when the *thread* that forked ends, not its process, so every
//! program is started by one thread that never ends.

use std::collections::HashSet;
use std::ffi::OsString;
use std::fs::File;
use std::io::Write as _;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::Path;
use std::process::{Child, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::{Pid, SysconfVar, sysconf};

use super::thread::on_thread;
use super::{HostError, Result};

/// What is kept of a program's output; what comes after it is read and dropped.
const MOST_OUTPUT: usize = 1 << 20;
/// What is kept of its errors; the end is what explains a failure.
const MOST_ERRORS: usize = 16 << 10;
/// Input goes into the pipe before the program reads it, so it has to fit.
const MOST_INPUT: usize = 48 << 10;
/// How long a program may take to end when it is asked to.
const TO_END: Duration = Duration::from_secs(5);
/// How long a killed program may take to be gone.
const GRACE: Duration = Duration::from_secs(1);
/// A folder of the kernel's that is always empty and where nothing can be made, so that a
/// name without a path, given by a user, means nothing (`proc_tty_init`, with CONFIG_TTY).
const EMPTY: &str = "/proc/tty/ldisc";
/// A thread's stack in a program whose memory is limited.
const STACK: u64 = 2 << 20;
/// Where programs are looked for; the driver's own PATH does not matter.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A program to run.
#[derive(Debug, Clone)]
pub struct Command {
    /// The program's name, also in errors.
    pub program: &'static str,
    /// What it works on, for errors, such as `/dev/rbd0`.
    pub object: String,
    /// Its arguments. Never secrets: everybody on the node can read them.
    pub args: Vec<OsString>,
    /// Its standard input, at most 48 KiB.
    pub stdin: Vec<u8>,
    /// An open file as its standard input instead, for it as `/proc/self/fd/0`.
    pub file: Option<Arc<File>>,
    /// Environment on top of PATH and LC_ALL=C.
    pub env: Vec<(String, OsString)>,
    /// The most memory of its own, in bytes (RLIMIT_DATA, Linux 4.7), besides its threads' stacks: more
    /// is refused to it.
    pub memory: Option<u64>,
}

impl Command {
    /// A program with its arguments, without input.
    pub fn new<A: Into<OsString>>(
        program: &'static str,
        object: impl Into<String>,
        args: impl IntoIterator<Item = A>,
    ) -> Self {
        let args = args.into_iter().map(Into::into).collect();
        let (stdin, env) = (Vec::new(), Vec::new());
        Self { program, object: object.into(), args, stdin, file: None, env, memory: None }
    }
}

/// What a program left.
#[derive(Debug, Clone)]
pub struct Output {
    program: &'static str,
    object: String,
    /// How it ended.
    pub status: ExitStatus,
    /// The first MiB that it printed.
    pub stdout: Vec<u8>,
    /// The last 16 KiB of its errors.
    pub stderr: Vec<u8>,
}

impl Output {
    /// Itself when the program ended with 0.
    ///
    /// # Errors
    /// EIO with the exit code or signal and the last line of its errors.
    pub fn success(self) -> Result<Self> {
        if self.status.success() { Ok(self) } else { Err(self.failure()) }
    }

    /// The error that tells how the program ended.
    pub fn failure(&self) -> HostError {
        let end = match (self.status.code(), self.status.signal()) {
            (Some(code), _) => format!("exit code {code}"),
            (None, Some(signal)) => format!("killed by signal {signal}"),
            (None, None) => "ended in an unknown way".to_owned(),
        };
        let words = reason(&self.stderr).or_else(|| reason(&self.stdout));
        let detail = words.map_or(end.clone(), |words| format!("{end}: {words}"));
        HostError::new(self.program, self.object.clone(), libc::EIO).with(detail)
    }

    /// What it printed, as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }
}

/// Runs the program to its end, on a thread of its own: it may hang as long as a cluster does.
///
/// # Errors
/// When it cannot be started (ENOENT says which program is missing), or
/// ETIMEDOUT with its pid and the time when it has not ended after `limit`. Its
/// exit code is no error here: see [`Output::success`].
pub async fn run(command: Command, limit: Duration) -> Result<Output> {
    let (program, object) = (command.program, command.object.clone());
    on_thread(program, &object, move || run_blocking(command, limit)).await
}

/// As [`run`], for callers on a thread of their own.
///
/// # Errors
/// As [`run`].
pub fn run_blocking(command: Command, limit: Duration) -> Result<Output> {
    let fail = |error: &std::io::Error| match error.raw_os_error() {
        Some(libc::ENOENT) => HostError::io(command.program, &*command.object, error)
            .with(format!("no program {} in {PATH}", command.program)),
        _ => HostError::io(command.program, &*command.object, error),
    };
    if command.stdin.len() > MOST_INPUT {
        return Err(HostError::new(command.program, command.object, libc::E2BIG));
    }
    let since = Instant::now();
    let prepared = prepare(&command).map_err(|error| fail(&error))?;
    let (mut child, _running) = RUNNING.start(prepared).map_err(|error| fail(&error))?;
    if let Some(mut stdin) = child.stdin.take() {
        // A program that does not read its input says why by itself.
        let _ = stdin.write_all(&command.stdin);
    }
    let mut printed = Printed::default();
    let status = follow(&mut child, &mut printed, since + limit).map_err(|error| fail(&error))?;
    match status {
        Some(status) => Ok(Output {
            program: command.program,
            object: command.object,
            status,
            stdout: printed.stdout,
            stderr: printed.stderr,
        }),
        None => Err(end(child, &command, since, &printed)),
    }
}

fn prepare(command: &Command) -> std::io::Result<std::process::Command> {
    let stdin = match &command.file {
        Some(file) => Stdio::from(file.try_clone()?),
        None if command.stdin.is_empty() => Stdio::null(),
        None => Stdio::piped(),
    };
    let mut prepared = std::process::Command::new(command.program);
    prepared
        .args(&command.args)
        .env_clear()
        .env("PATH", PATH)
        .env("LC_ALL", "C")
        .envs(command.env.iter().map(|(name, value)| (name, value)))
        .current_dir(if Path::new(EMPTY).is_dir() { EMPTY } else { "/" })
        .stdin(stdin)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0);
    end_with_the_driver(&mut prepared, Signal::SIGTERM);
    if let Some(memory) = command.memory {
        limit_memory(&mut prepared, memory);
    }
    Ok(prepared)
}

fn limit_memory(command: &mut std::process::Command, memory: u64) {
    // The stacks of its threads count, used or not, and e2fsck starts one for each processor of the node.
    let processors = sysconf(SysconfVar::_NPROCESSORS_CONF).ok().flatten().unwrap_or(1);
    let data = memory.saturating_add(STACK * u64::try_from(processors).unwrap_or(1));
    let prepare = move || {
        setrlimit(Resource::RLIMIT_DATA, data, data)?;
        setrlimit(Resource::RLIMIT_STACK, STACK, STACK)?;
        Ok(())
    };
    // SAFETY: the closure makes system calls and allocates nothing.
    unsafe { command.pre_exec(prepare) };
}

/// Lets the program have this signal when the driver ends, however it ends.
pub(super) fn end_with_the_driver(command: &mut std::process::Command, signal: Signal) {
    let driver = std::process::id();
    let prepare = move || {
        // SAFETY: no pointers, and all of it may be called after fork.
        unsafe {
            libc::prctl(libc::PR_SET_PDEATHSIG, signal as libc::c_int);
            // What it says on its way out may be read by nobody any more, and must not end it sooner.
            libc::signal(libc::SIGPIPE, libc::SIG_IGN);
            // The driver may have ended between fork and prctl.
            if libc::getppid().unsigned_abs() != driver {
                libc::_exit(1);
            }
        }
        Ok(())
    };
    // SAFETY: the closure makes system calls and allocates nothing.
    unsafe { command.pre_exec(prepare) };
}

type Start = (std::process::Command, Sender<std::io::Result<Child>>);

static STARTER: LazyLock<std::io::Result<Mutex<Sender<Start>>>> = LazyLock::new(|| {
    let (sender, starts) = channel::<Start>();
    std::thread::Builder::new().name("starter".into()).spawn(move || {
        for (mut command, answer) in starts {
            let _ = answer.send(command.spawn());
        }
    })?;
    Ok(Mutex::new(sender))
});

/// Starts the program on the thread that never ends.
pub(super) fn spawn(command: std::process::Command) -> std::io::Result<Child> {
    let gone = || std::io::Error::from_raw_os_error(libc::EAGAIN);
    let starter = STARTER.as_ref().map_err(|_| gone())?;
    let (sender, answer) = channel();
    starter.lock().unwrap_or_else(PoisonError::into_inner).send((command, sender)).map_err(|_| gone())?;
    answer.recv().map_err(|_| gone())?
}

/// The programs that run now, by the process that leads each one's group.
#[derive(Default)]
struct Running {
    pids: Mutex<HashSet<u32>>,
    ending: AtomicBool,
}

static RUNNING: LazyLock<Running> = LazyLock::new(Running::default);

/// Takes a program out of those that run when it has ended.
struct Registered<'a>(&'a Running, u32);

impl Drop for Registered<'_> {
    fn drop(&mut self) {
        self.0.lock().remove(&self.1);
    }
}

impl Running {
    fn start(&self, command: std::process::Command) -> std::io::Result<(Child, Registered<'_>)> {
        if self.ending.load(Ordering::Relaxed) {
            return Err(std::io::Error::from_raw_os_error(libc::ECANCELED));
        }
        // Without the lock: a program's file may be on a disk that hangs.
        let child = spawn(command)?;
        let pid = child.id();
        let mut pids = self.lock();
        pids.insert(pid);
        if self.ending.load(Ordering::Relaxed) {
            signal(pid, Signal::SIGTERM);
        }
        Ok((child, Registered(self, pid)))
    }

    fn end(&self, limit: Duration) -> usize {
        let until = Instant::now() + limit;
        {
            let pids = self.lock();
            self.ending.store(true, Ordering::Relaxed);
            pids.iter().for_each(|pid| signal(*pid, Signal::SIGTERM));
        }
        loop {
            let left = self.lock().len();
            if left == 0 || Instant::now() >= until {
                return left;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashSet<u32>> {
        self.pids.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Asks all programs to end, waits up to `limit` until they have, and lets no other start
/// (ECANCELED): what the driver does before it ends itself. Gives how many still run.
pub fn end_all(limit: Duration) -> usize {
    RUNNING.end(limit)
}

/// Signals a program and what it has started.
fn signal(pid: u32, signal: Signal) {
    if let Ok(group) = i32::try_from(pid) {
        let _ = killpg(Pid::from_raw(group), signal);
    }
}

#[derive(Default)]
struct Printed {
    stdout: Vec<u8>,
    stderr: Vec<u8>,
}

/// Reads what the program prints until it has ended; `None` when it has not by `until`.
fn follow(child: &mut Child, printed: &mut Printed, until: Instant) -> std::io::Result<Option<ExitStatus>> {
    let (mut stdout, mut stderr) = (child.stdout.take(), child.stderr.take());
    let fds = [stdout.as_ref().map(|out| out.as_fd()), stderr.as_ref().map(|err| err.as_fd())];
    fds.into_iter().flatten().try_for_each(unblock)?;
    let mut pause = Duration::from_millis(1);
    loop {
        // Seen before the pipes are read, so that nothing printed before its end is missed.
        let status = child.try_wait()?;
        drain(&mut stdout, |part| {
            let room = MOST_OUTPUT.saturating_sub(printed.stdout.len());
            printed.stdout.extend_from_slice(&part[..part.len().min(room)]);
        });
        drain(&mut stderr, |part| {
            printed.stderr.extend_from_slice(part);
            let excess = printed.stderr.len().saturating_sub(MOST_ERRORS);
            printed.stderr.drain(..excess);
        });
        let left = until.saturating_duration_since(Instant::now());
        if status.is_some() || left.is_zero() {
            return Ok(status);
        }
        // A program's end closes its pipes and so wakes this; one that closed
        // them earlier is looked at again after a growing pause.
        pause = if stdout.is_none() && stderr.is_none() {
            (pause * 2).min(Duration::from_millis(50))
        } else {
            pause
        };
        let wait = if stdout.is_none() && stderr.is_none() { pause } else { Duration::from_millis(250) };
        wait_for(
            [stdout.as_ref().map(|out| out.as_fd()), stderr.as_ref().map(|err| err.as_fd())],
            wait.min(left),
        );
    }
}

fn unblock(fd: BorrowedFd<'_>) -> std::io::Result<()> {
    let flags = OFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFL)?);
    fcntl(fd, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    Ok(())
}

/// Takes what is in the pipe; `None` afterwards when its other end is closed.
fn drain<R: std::io::Read>(pipe: &mut Option<R>, mut keep: impl FnMut(&[u8])) {
    let mut part = [0; 8192];
    while let Some(open) = pipe {
        match open.read(&mut part) {
            Ok(0) => *pipe = None,
            Ok(length) => keep(&part[..length]),
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return,
            Err(_) => *pipe = None,
        }
    }
}

fn wait_for(fds: [Option<BorrowedFd<'_>>; 2], time: Duration) {
    let mut fds: Vec<_> = fds.into_iter().flatten().map(|fd| PollFd::new(fd, PollFlags::POLLIN)).collect();
    let time = PollTimeout::try_from(time.as_millis().max(1)).unwrap_or(PollTimeout::MAX);
    // An interrupted wait only looks again sooner.
    let _ = poll(&mut fds, time);
}

/// Ends a program at its limit and says what became of it.
fn end(mut child: Child, command: &Command, since: Instant, printed: &Printed) -> HostError {
    let pid = child.id();
    let state = state(pid);
    let seconds = since.elapsed().as_secs_f64();
    let mut ended_by = |with: Signal, within: Duration| {
        signal(pid, with);
        matches!(follow(&mut child, &mut Printed::default(), Instant::now() + within), Ok(Some(_)))
    };
    let fate = if ended_by(Signal::SIGTERM, TO_END) {
        "it was ended"
    } else if ended_by(Signal::SIGKILL, GRACE) {
        "it was killed"
    } else {
        // Nobody can end a process that waits in the kernel; it goes when its device answers.
        let _ = std::thread::Builder::new().name("reaper".into()).spawn(move || child.wait());
        "it was killed but waits in the kernel, and goes when its device answers or is gone"
    };
    let words = reason(&printed.stderr).map(|words| format!("; its last words: {words}")).unwrap_or_default();
    HostError::new(command.program, command.object.clone(), libc::ETIMEDOUT)
        .with(format!("{} (pid {pid}, state {state}) ran for {seconds:.1} s; {fate}{words}", command.program))
}

/// The kernel's letter for a process's state, `?` when it is gone: D waits for a device.
pub(super) fn state(pid: u32) -> char {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next()).unwrap_or('?')
}

/// The last line, which says why, unless the program prints its usage behind the reason
/// (mkfs.xfs): then the last line before that.
fn reason(bytes: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(bytes);
    let said: Vec<_> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let usage = said.iter().position(|line| line.starts_with("Usage:")).filter(|at| *at > 0);
    let line = said.get(usage.unwrap_or(said.len()).checked_sub(1)?)?;
    Some(line.chars().take(300).collect())
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    fn sh(script: &str) -> Command {
        Command::new("sh", "test", ["-c", script])
    }

    const LIMIT: Duration = Duration::from_secs(10);

    #[test]
    fn gives_input_and_takes_output() {
        let mut command = Command::new("cat", "test", [""; 0]);
        command.stdin = b"words".to_vec();
        assert_eq!(run_blocking(command, LIMIT).unwrap().success().unwrap().stdout, b"words");
    }

    #[test]
    fn the_environment_is_ours() {
        let output = run_blocking(Command::new("env", "test", [""; 0]), LIMIT).unwrap();
        assert_eq!(output.text().lines().count(), 2, "{}", output.text());
    }

    #[test]
    fn its_folder_is_empty_and_stays_so() {
        let output = run_blocking(sh("ls -A | wc -l; touch file"), LIMIT).unwrap();
        assert_eq!(output.text().trim(), "0");
        assert!(!output.status.success(), "a file was made");
    }

    #[test]
    fn a_failure_has_its_code_and_its_last_words() {
        let output = run_blocking(sh("echo one >&2; echo two >&2; exit 3"), LIMIT).unwrap();
        let error = output.success().unwrap_err();
        assert_eq!(error.detail.as_deref(), Some("exit code 3: two"));
    }

    #[test]
    fn a_missing_program_is_named() {
        let error = run_blocking(Command::new("no-such-program", "test", [""; 0]), LIMIT).unwrap_err();
        assert!(error.is(libc::ENOENT) && error.to_string().contains("no-such-program"), "{error}");
    }

    #[test]
    fn endless_output_is_bounded() {
        let output =
            run_blocking(sh("head -c 3000000 /dev/zero; head -c 100000 /dev/zero >&2"), LIMIT).unwrap();
        assert_eq!((output.stdout.len(), output.stderr.len()), (MOST_OUTPUT, MOST_ERRORS));
    }

    #[test]
    fn a_late_program_may_end_in_order() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("done");
        // Nobody reads any more what it says then.
        let trap = format!("trap 'echo going; echo going >&2; touch {}; exit 0' TERM", file.display());
        let error =
            run_blocking(sh(&format!("{trap}; sleep 77 & wait")), Duration::from_millis(300)).unwrap_err();
        assert!(error.to_string().contains("it was ended") && file.exists(), "{error}");
        let stubborn =
            run_blocking(sh("trap '' TERM; echo begun >&2; exec sleep 77"), Duration::from_millis(300));
        let error = stubborn.unwrap_err();
        assert!(error.to_string().contains("it was killed"), "{error}");
    }

    #[test]
    fn all_programs_are_asked_to_end_and_no_other_starts() {
        let running = Running::default();
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("words");
        let script =
            format!("trap 'echo in order >{}; exit 0' TERM; echo >&2; sleep 77 & wait", file.display());
        let (mut child, registered) = running.start(prepare(&sh(&script)).unwrap()).unwrap();
        // It has set its trap once it speaks.
        child.stderr.take().unwrap().read_exact(&mut [0]).unwrap();
        std::thread::scope(|scope| {
            let left = scope.spawn(|| running.end(LIMIT));
            assert!(child.wait().unwrap().success());
            drop(registered);
            assert_eq!(left.join().unwrap(), 0);
        });
        assert_eq!(std::fs::read_to_string(file).unwrap(), "in order\n");
        let refused = running.start(prepare(&sh("true")).unwrap()).map(drop).unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(libc::ECANCELED));
    }

    #[test]
    fn a_program_gets_no_more_memory_than_it_may_have() {
        let mut command = sh("ulimit -d");
        command.memory = Some(64 << 20);
        let kibibytes: u64 = run_blocking(command, LIMIT).unwrap().text().trim().parse().unwrap();
        let stacks = kibibytes - (64 << 10);
        assert!(stacks > 0 && stacks.is_multiple_of(STACK >> 10), "{kibibytes}");
    }

    #[test]
    fn a_late_program_dies_with_its_children() {
        let since = Instant::now();
        let error =
            run_blocking(sh("echo hm >&2; sleep 77.77 & wait"), Duration::from_millis(300)).unwrap_err();
        assert!(error.is(libc::ETIMEDOUT) && since.elapsed() < Duration::from_secs(3), "{error}");
        assert!(error.to_string().contains("(pid ") && error.to_string().contains("hm"), "{error}");
        let left = run_blocking(Command::new("pgrep", "test", ["-f", "^sleep 77.77$"]), LIMIT).unwrap();
        assert_eq!(left.text(), "");
    }

    #[test]
    fn a_program_that_closes_its_pipes_is_still_waited_for() {
        let output = run_blocking(sh("exec >&- 2>&-; sleep 0.2; exit 5"), LIMIT).unwrap();
        assert_eq!(output.status.code(), Some(5));
    }
}
