//! A lab by its script alone, also one of another checkout; and what it leaves behind.

use std::collections::HashMap;
use std::fs::{File, Metadata};
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{SigHandler, Signal, signal};

use crate::support::lab::exports;

/// A checkout with a lab of some name in it.
pub struct Checkout {
    pub folder: PathBuf,
    pub name: String,
    variables: Vec<(&'static str, String)>,
    _copy: Option<tempfile::TempDir>,
}

impl Checkout {
    /// This one.
    pub fn here(name: &str) -> Self {
        let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
        // Its number, so that two runs of this test do not share a lab.
        let name = format!("{name}-{}", std::process::id());
        Self { folder, name, variables: Vec::new(), _copy: None }
    }

    /// Another one with a lab of the same name: the scripts are all that a lab needs.
    pub fn copy(&self) -> Self {
        let copy = tempfile::tempdir().unwrap();
        let scripts = copy.path().join("scripts");
        std::fs::create_dir(&scripts).unwrap();
        let lab = self.folder.join("scripts/lab");
        let copied = Command::new("cp").arg("-a").args([&lab, &scripts]).status().unwrap();
        assert!(copied.success());
        let folder = copy.path().canonicalize().unwrap();
        Self { folder, name: self.name.clone(), variables: self.variables.clone(), _copy: Some(copy) }
    }

    /// With a variable of the lab's.
    pub fn with(mut self, name: &'static str, value: &str) -> Self {
        self.variables.push((name, value.to_owned()));
        self
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(self.folder.join("scripts/lab/lab"));
        command.env_remove("LAB_DIR").env("LAB_NAME", &self.name).args(arguments).stdin(Stdio::null());
        command.envs(self.variables.iter().map(|(name, value)| (*name, value.as_str())));
        command
    }

    pub fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// Runs what must succeed; gives its output.
    pub fn succeed(&self, arguments: &[&str]) -> String {
        crate::support::lab::succeed(&mut self.command(arguments))
    }

    /// Begins a start in a process group of its own, as a terminal does.
    pub fn begin(&self, arguments: &[&str]) -> Child {
        let mut command = self.command(arguments);
        // Who starts the tests in the background has them ignore an interrupt, and a shell
        // cannot trap what was ignored when it began.
        let listen = || {
            // SAFETY: the default handler is no function of ours that could run.
            unsafe { signal(Signal::SIGINT, SigHandler::SigDfl) }?;
            Ok(())
        };
        // SAFETY: signal(2) may be called after fork, and nothing is allocated.
        unsafe { command.pre_exec(listen) };
        command.stdout(Stdio::null()).stderr(Stdio::piped()).process_group(0).spawn().unwrap()
    }

    /// What is this lab's, while it exists.
    pub fn traces(&self) -> Option<Traces> {
        let output = self.run(&["env"]);
        let env = exports(&String::from_utf8_lossy(&output.stdout));
        Traces::of(&env).filter(|_| output.status.success())
    }
}

impl Drop for Checkout {
    fn drop(&mut self) {
        // A test that failed in the middle leaves nothing either.
        let _ = self.run(&["down"]);
    }
}

fn is_same(one: &Metadata, other: &Metadata) -> bool {
    (one.dev(), one.ino()) == (other.dev(), other.ino())
}

/// Where a lab shows.
#[derive(Debug)]
pub struct Traces {
    netns: PathBuf,
    /// The namespace itself, which outlives its name as long as a process is in it. Held
    /// open, since its number would be another lab's otherwise.
    network: File,
    run: PathBuf,
    dir: PathBuf,
}

impl Traces {
    fn of(env: &HashMap<String, String>) -> Option<Self> {
        let netns = PathBuf::from(env.get("LAB_NETNS_FILE")?);
        let network = File::open(&netns).ok()?;
        // The name is a plain file of that folder until the namespace is mounted there.
        let folder = std::fs::metadata(netns.parent()?).ok()?;
        if network.metadata().ok()?.dev() == folder.dev() {
            return None;
        }
        let run = Path::new("/tmp").join(env.get("LAB_NETNS")?);
        Some(Self { netns, network, run, dir: PathBuf::from(env.get("LAB_DIR")?) })
    }

    /// The processes that live in its network, or work in its folders.
    fn processes(&self) -> Vec<String> {
        let own = self.network.metadata().unwrap();
        let places = [self.run.to_str().unwrap(), self.dir.to_str().unwrap()];
        let mut found = Vec::new();
        for process in std::fs::read_dir("/proc").unwrap().flatten() {
            let argv = std::fs::read(process.path().join("cmdline")).unwrap_or_default();
            let argv = String::from_utf8_lossy(&argv).replace('\0', " ");
            let inside =
                std::fs::metadata(process.path().join("ns/net")).is_ok_and(|net| is_same(&net, &own));
            if inside || places.iter().any(|place| argv.contains(place)) {
                found.push(format!("{} {argv}", process.path().display()));
            }
        }
        found
    }

    pub fn run_dir(&self) -> &Path {
        &self.run
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Asserts that nothing is left of it; its processes may take a moment to be reaped.
    pub fn are_gone(&self, at: &str) {
        for place in [&self.netns, &self.run, &self.dir] {
            assert!(!place.exists(), "{at}: {} is left", place.display());
        }
        let until = Instant::now() + Duration::from_secs(10);
        while let found = self.processes()
            && !found.is_empty()
        {
            assert!(Instant::now() < until, "{at}: {found:#?}");
            std::thread::sleep(Duration::from_millis(50));
        }
        // Nor does anything come back that was still being made.
        std::thread::sleep(Duration::from_millis(300));
        for place in [&self.netns, &self.run, &self.dir] {
            assert!(!place.exists(), "{at}: {} has come back", place.display());
        }
    }
}
