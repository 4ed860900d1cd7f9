//! The lab (`scripts/lab/lab`) as a value: started by a test, gone with it.
//!
//! Lives here: clusters, nodes, and running programs beside them. How they are made is
//! the scripts' business.
//!
//! What a reader gets wrong: Ceph is reachable only inside the lab's network namespace.
//! [`Lab::enter`] moves one thread there, so it comes first in a test, before any runtime
//! or client makes threads; `#[tokio::test(flavor = "multi_thread")]` is too late, take
//! [`Lab::runtime`]. Programs are started there by the `command` methods from any thread.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use nix::sched::{CloneFlags, setns};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::ops;

/// Seconds after which a command that must end by itself is killed.
const LIMIT_SECS: &str = "120";

/// Only the benchmark follows a caller's `LAB_KERNEL=host`: tests break nodes on purpose,
/// and must never do so to this machine's own kernel.
const MAY_USE_THE_HOST: bool = matches!(env!("CARGO_CRATE_NAME").as_bytes(), b"volumes");

/// What a test needs.
#[derive(Clone, Copy, Debug)]
pub struct LabSpec {
    /// Ceph clusters, 0 to 9.
    pub clusters: u32,
    /// krbd nodes, 0 to 9; each takes 512 MiB.
    pub nodes: u32,
}

/// A running lab; dropping it removes every trace of it.
pub struct Lab {
    name: String,
    netns: PathBuf,
    /// The lab's folder: seen by its nodes, too, and writable there.
    pub dir: PathBuf,
    clusters: Vec<Cluster>,
    nodes: Vec<Node>,
    kubectl: Option<PathBuf>,
    kubeconfig: Option<PathBuf>,
    /// Somebody else's: it stays when this is dropped.
    borrowed: bool,
}

impl Lab {
    /// Starts a lab. It also ends when this process does, however it ends.
    pub fn start(spec: LabSpec) -> Self {
        assert!(nix::unistd::geteuid().is_root(), "the lab's tests need root: run them by `make test`");
        let (clusters, nodes) = (spec.clusters.to_string(), spec.nodes.to_string());
        Self::up(&["--clusters", &clusters, "--nodes", &nodes])
    }

    /// Starts a lab with one Ceph, a Kubernetes control plane and two nodes of it; for
    /// Kubernetes' own suite with the images that it needs.
    pub fn start_kubernetes(suite: bool) -> Self {
        assert!(nix::unistd::geteuid().is_root(), "the lab needs root: run this by `make e2e`");
        let arguments = ["--clusters", "1", "--nodes", "2", "--kubernetes", "--e2e"];
        Self::up(&arguments[..if suite { 6 } else { 5 }])
    }

    /// A lab that runs already, such as `make k8s-lab` leaves; it is not ended here.
    pub fn borrow(name: &str) -> Self {
        let mut lab = Self::find(name.to_owned());
        lab.borrowed = true;
        lab
    }

    fn up(arguments: &[&str]) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("{}-{}-{number}", env!("CARGO_CRATE_NAME"), std::process::id());
        let owner = std::process::id().to_string();
        succeed(script(&name).arg("up").args(arguments).args(["--owner", &owner]));
        Self::find(name)
    }

    /// One lab for all the tests of this process, ended when it exits. The first caller's
    /// wishes count: give the same ones everywhere.
    pub fn shared(spec: LabSpec) -> &'static Self {
        static SHARED: OnceLock<Lab> = OnceLock::new();
        extern "C" fn end() {
            if let Some(lab) = SHARED.get() {
                lab.down();
            }
        }
        SHARED.get_or_init(|| {
            let lab = Self::start(spec);
            // SAFETY: `end` is a plain function that does not unwind: `down` reports by status.
            unsafe { libc::atexit(end) };
            lab
        })
    }

    fn find(name: String) -> Self {
        let env = exports(&succeed(script(&name).arg("env")));
        let list = |key: &str| env[key].split(' ').filter(|s| !s.is_empty()).map(str::to_owned).collect();
        let (clusters, nodes): (Vec<String>, Vec<String>) = (list("LAB_CLUSTERS"), list("LAB_NODES"));
        Self {
            netns: PathBuf::from(&env["LAB_NETNS_FILE"]),
            dir: PathBuf::from(&env["LAB_DIR"]),
            clusters: clusters.iter().map(|cluster| Cluster::find(&env, cluster)).collect(),
            nodes: nodes.iter().map(|node| Node::find(&env, &name, node)).collect(),
            kubectl: env.get("LAB_KUBECTL").map(PathBuf::from),
            kubeconfig: env.get("LAB_KUBECONFIG").map(PathBuf::from),
            borrowed: false,
            name,
        }
    }

    /// The i-th cluster, from 0.
    pub fn cluster(&self, i: usize) -> &Cluster {
        &self.clusters[i]
    }

    /// The i-th node, from 0.
    pub fn node(&self, i: usize) -> &Node {
        &self.nodes[i]
    }

    /// Moves the calling thread, and those that it will start, into the lab's network.
    pub fn enter(&self) {
        enter(&self.netns);
    }

    /// A multi-thread runtime whose every thread is in the lab's network. The calling
    /// thread must have entered it too.
    pub fn runtime(&self) -> tokio::runtime::Runtime {
        let netns = self.netns.clone();
        tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .on_thread_start(move || enter(&netns))
            .build()
            .unwrap()
    }

    /// A program on this machine, in the lab's network; the child's pid is the program's.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        within(&self.netns, program)
    }

    /// kubectl with the administrator's rights, to be run from anywhere; only of a Kubernetes lab.
    pub fn kubectl(&self) -> &Path {
        self.kubectl.as_deref().expect("the lab has a Kubernetes")
    }

    /// The administrator's kubeconfig, for programs in the lab's network.
    pub fn kubeconfig(&self) -> &Path {
        self.kubeconfig.as_deref().expect("the lab has a Kubernetes")
    }

    /// A subcommand of `scripts/lab/lab`, which must succeed; gives its output.
    pub fn lab(&self, arguments: &[&str]) -> String {
        succeed(script(&self.name).args(arguments))
    }

    /// Ends the lab. Dropping does the same; here a failure is an answer.
    pub fn down(&self) -> bool {
        script(&self.name).arg("down").status().is_ok_and(|status| status.success())
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if !self.borrowed && !self.down() && !std::thread::panicking() {
            panic!("the lab {} could not be removed", self.name);
        }
    }
}

/// One Ceph cluster with a pool `rbd`.
pub struct Cluster {
    name: String,
    netns: PathBuf,
    run: PathBuf,
    lab: String,
    pub fsid: String,
    /// The monitor for config.json: `address:port`, messenger v1.
    pub monitors: String,
    /// The address on which the cluster's daemons listen.
    pub ip: String,
    /// A ceph.conf with monitors and the administrator's keyring, for clients.
    pub conf: PathBuf,
    /// The key of `client.admin`.
    pub admin_key: String,
}

impl Cluster {
    fn find(env: &HashMap<String, String>, name: &str) -> Self {
        let of = |what: &str| env[&format!("LAB_{}_{what}", name.to_uppercase())].clone();
        let keyring = std::fs::read_to_string(of("KEYRING")).unwrap();
        let key = keyring.lines().find_map(|line| line.trim().strip_prefix("key = "));
        Self {
            name: name.to_owned(),
            netns: PathBuf::from(&env["LAB_NETNS_FILE"]),
            run: PathBuf::from(of("RUN")),
            lab: env["LAB_NAME"].clone(),
            fsid: of("FSID"),
            monitors: of("MONITORS"),
            ip: of("IP"),
            conf: PathBuf::from(of("CONF")),
            admin_key: key.expect("a key in the admin keyring").to_owned(),
        }
    }

    /// A program with this cluster as its default, for the cases that may fail.
    pub fn command(&self, program: &str) -> Command {
        let mut command = within(&self.netns, program);
        command.env("CEPH_CONF", &self.conf);
        command
    }

    fn limited(&self, program: &str, args: &[&str]) -> String {
        succeed(self.command("timeout").args(["--kill-after=5", LIMIT_SECS, program]).args(args))
    }

    /// `ceph …`, which must succeed; gives its output without the last line end.
    pub fn ceph(&self, args: &[&str]) -> String {
        self.limited("ceph", args)
    }

    /// `rbd …`, as with [`Cluster::ceph`].
    pub fn rbd(&self, args: &[&str]) -> String {
        self.limited("rbd", args)
    }

    /// `rados …`, as with [`Cluster::ceph`].
    pub fn rados(&self, args: &[&str]) -> String {
        self.limited("rados", args)
    }

    /// Every object of a pool, in any namespace, as `namespace/object`, sorted.
    pub fn objects(&self, pool: &str) -> Vec<String> {
        let listing = self.rados(&["-p", pool, "--all", "ls"]);
        let mut objects: Vec<String> = listing.lines().map(|line| line.replacen('\t', "/", 1)).collect();
        objects.sort();
        objects
    }

    /// Makes a user, `client.<name>`, with capabilities such as `("mon", "profile rbd")`;
    /// gives its key.
    pub fn user(&self, name: &str, caps: &[(&str, &str)]) -> String {
        let entity = format!("client.{name}");
        let mut args = vec!["auth", "get-or-create-key", &entity];
        args.extend(caps.iter().flat_map(|(service, capability)| [*service, *capability]));
        self.ceph(&args)
    }

    /// RADOS operations that clients have sent to the OSD since it started: exact.
    pub fn osd_ops(&self) -> u64 {
        ops::counter(&self.run.join("osd.0.asok"), "osd", "op")
    }

    /// Stops all client I/O until the answer is dropped.
    pub fn pause(&self) -> Paused<'_> {
        self.ceph(&["osd", "pause"]);
        Paused(self)
    }

    /// Makes the monitor accept connections and say nothing, until the answer is dropped.
    pub fn stop_monitor(&self) -> Stopped {
        Stopped::new(self.pid("mon.a"))
    }

    /// Stops the daemons in order; the data comes back with [`Cluster::start`].
    pub fn stop(&self) {
        succeed(script(&self.lab).args(["ceph-stop", &self.name]));
    }

    /// Starts them again.
    pub fn start(&self) {
        succeed(script(&self.lab).args(["ceph-start", &self.name]));
    }

    fn pid(&self, daemon: &str) -> Pid {
        let file = self.run.join(format!("{daemon}.pid"));
        let text = std::fs::read_to_string(&file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
        Pid::from_raw(text.trim().parse().unwrap())
    }
}

/// A cluster whose client I/O stands still; dropping it lets it go on.
pub struct Paused<'a>(&'a Cluster);

impl Drop for Paused<'_> {
    fn drop(&mut self) {
        self.0.ceph(&["osd", "unpause"]);
    }
}

/// A process that got SIGSTOP; dropping it sends SIGCONT.
pub struct Stopped(Pid);

impl Stopped {
    /// Stops a process.
    pub fn new(pid: Pid) -> Self {
        kill(pid, Signal::SIGSTOP).unwrap();
        Self(pid)
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        // It may have ended meanwhile; that is no failure of whoever stopped it.
        let _ = kill(self.0, Signal::SIGCONT);
    }
}

/// One krbd node. It sees this machine's programs, the checkout (read-only) and the lab's
/// folder; whatever else it writes is lost with it.
pub struct Node {
    lab: String,
    /// Its number in the lab, from 1.
    pub number: String,
    /// Its address in the cluster's network; a driver's TCP endpoint can listen there.
    pub ip: String,
    /// Its address on the lab's own wire, which works while the node is cut off.
    pub control_ip: String,
}

impl Node {
    fn find(env: &HashMap<String, String>, lab: &str, number: &str) -> Self {
        Self {
            lab: lab.to_owned(),
            number: number.to_owned(),
            ip: env[&format!("LAB_NODE{number}_IP")].clone(),
            control_ip: env[&format!("LAB_NODE{number}_CONTROL_IP")].clone(),
        }
    }

    /// A program in the node: output, status and signals (but for SIGKILL, which ends it
    /// all the same) are the program's. For what may fail or runs on.
    pub fn command<S: AsRef<OsStr>>(&self, argv: &[S]) -> Command {
        self.command_with(&[], argv)
    }

    /// The same with variables of the environment.
    pub fn command_with<S: AsRef<OsStr>>(&self, env: &[(&str, &str)], argv: &[S]) -> Command {
        let mut command = script(&self.lab);
        command.arg("node-exec");
        for (name, value) in env {
            command.args(["--env", &format!("{name}={value}")]);
        }
        command.args([&self.number, "--"]).args(argv).stdin(Stdio::null());
        command
    }

    /// Runs a program that must succeed within two minutes; gives its output.
    pub fn exec(&self, argv: &[&str]) -> String {
        let mut limited = vec!["timeout", "--kill-after=5", LIMIT_SECS];
        limited.extend(argv);
        succeed(&mut self.command(&limited))
    }

    /// A line for the shell, run as [`Node::exec`] does.
    pub fn shell(&self, line: &str) -> String {
        self.exec(&["sh", "-ec", line])
    }

    /// Starts a program that runs until the answer is dropped.
    pub fn spawn(&self, argv: &[&str]) -> Running {
        Running(self.command(argv).spawn().unwrap())
    }

    /// Boots the node after [`Node::kill`] or [`Node::stop`].
    pub fn start(&self) {
        self.lab("node-start");
    }

    /// Shuts the node down.
    pub fn stop(&self) {
        self.lab("node-stop");
    }

    /// Pulls the node's plug.
    pub fn kill(&self) {
        self.lab("node-kill");
    }

    /// Takes the node off the cluster's network; commands still reach it.
    pub fn cut(&self) {
        self.lab("node-cut");
    }

    /// Puts it back.
    pub fn join(&self) {
        self.lab("node-join");
    }

    fn lab(&self, subcommand: &str) {
        succeed(script(&self.lab).args([subcommand, &self.number]));
    }
}

/// A program that is killed when this is dropped.
pub struct Running(pub Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs a command that must succeed; gives its output without the last line end.
#[track_caller]
pub fn succeed(command: &mut Command) -> String {
    let Output { status, stdout, stderr } = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    let (stdout, stderr) = (String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
    assert!(status.success(), "{command:?}: {status}\n{stdout}{stderr}");
    stdout.trim_end_matches('\n').to_owned()
}

/// The lab's script for the lab of this name.
pub fn script(lab: &str) -> Command {
    let mut command = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/lab/lab"));
    // Else a LAB_DIR in the caller's environment would be every lab's folder.
    command.env_remove("LAB_DIR").env("LAB_NAME", lab).stdin(Stdio::null());
    if !MAY_USE_THE_HOST {
        command.env_remove("LAB_KERNEL");
    }
    command
}

fn within(netns: &Path, program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new("nsenter");
    command.arg(format!("--net={}", netns.display())).arg("--").arg(program).stdin(Stdio::null());
    command
}

fn enter(netns: &Path) {
    let file = File::open(netns).unwrap_or_else(|e| panic!("{}: {e}", netns.display()));
    setns(file, CloneFlags::CLONE_NEWNET).unwrap();
}

/// Reads `lab env`. Its values have no character that the shell would have to quote.
pub fn exports(text: &str) -> HashMap<String, String> {
    let lines = text.lines().filter_map(|line| line.strip_prefix("export "));
    lines
        .filter_map(|line| line.split_once('='))
        .map(|(key, value)| (key.to_owned(), value.replace('\\', "").trim_matches('\'').to_owned()))
        .collect()
}
