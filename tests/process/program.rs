//! A running rbd-csi in a folder of its own, and how to talk to it.
//!
//! What a reader gets wrong: the cluster in its configuration exists, in that its
//! monitor accepts connections, and never answers. So a call that needs Ceph hangs
//! as long as the driver lets it, which is what several tests want.

use std::net::TcpListener;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rbd_csi::csi::proto::controller_client::ControllerClient;
use rbd_csi::csi::proto::identity_client::IdentityClient;
use rbd_csi::csi::proto::volume_capability::{AccessMode, AccessType, MountVolume};
use rbd_csi::csi::proto::{CreateVolumeRequest, VolumeCapability};
use tonic::transport::{Channel, Endpoint};

/// A cephx key of the right form, which must not be seen anywhere.
pub const CANARY_KEY: &str = "AQAAEF5fAAAAABAACanaryCanaryCanaryCanA==";

/// What the driver needs around it.
pub struct Place {
    pub folder: tempfile::TempDir,
    /// Accepts and never answers.
    _monitor: TcpListener,
}

/// A running program; killed when it is dropped.
pub struct Program {
    child: Child,
    log: PathBuf,
}

impl Place {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let monitor = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = monitor.local_addr().unwrap();
        let config = format!(r#"[{{"clusterID":"deaf","monitors":["{address}"]}}]"#);
        std::fs::write(folder.path().join("config.json"), config).unwrap();
        std::fs::write(folder.path().join("ceph.conf"), "[global]\nclient_mount_timeout = 60\n").unwrap();
        Self { folder, _monitor: monitor }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn socket(&self) -> PathBuf {
        self.path("csi.sock")
    }

    /// The arguments that every driver here has.
    pub fn arguments(&self) -> Vec<String> {
        let at = |name: &str| self.path(name).display().to_string();
        vec![
            "--type=rbd".to_owned(),
            "--nodeid=node-1".to_owned(),
            format!("--endpoint=unix://{}", at("csi.sock")),
            format!("--cluster-config={}", at("config.json")),
            format!("--cluster-mapping={}", at("cluster-mapping.json")),
            format!("--ceph-conf={}", at("ceph.conf")),
            format!("--pluginpath={}", at("plugins")),
        ]
    }

    /// Starts a driver and waits until it serves.
    pub fn serve(&self, more: &[&str]) -> Program {
        let program = self.start(more);
        program.wait_for(&self.socket());
        program
    }

    /// Starts a driver.
    pub fn start(&self, more: &[&str]) -> Program {
        let more = more.iter().map(|argument| (*argument).to_owned());
        self.run(self.arguments().into_iter().chain(more))
    }

    /// Starts the program with just these arguments.
    pub fn run(&self, arguments: impl IntoIterator<Item = String>) -> Program {
        self.run_with(&[], arguments)
    }

    /// As [`Place::run`], with more in its environment.
    pub fn run_with(
        &self,
        environment: &[(&str, &str)],
        arguments: impl IntoIterator<Item = String>,
    ) -> Program {
        static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let number = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let log = self.path(&format!("log.{number}"));
        let child = Command::new(env!("CARGO_BIN_EXE_rbd-csi"))
            .args(arguments)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("POD_IP", "127.0.0.1")
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(&log).unwrap())
            .spawn()
            .unwrap();
        Program { child, log }
    }

    /// A connection to the driver; tonic's own client over the socket.
    pub async fn connect(&self) -> Channel {
        let endpoint = format!("unix://{}", self.socket().display());
        Endpoint::from_shared(endpoint).unwrap().connect().await.unwrap()
    }

    pub async fn identity(&self) -> IdentityClient<Channel> {
        IdentityClient::new(self.connect().await)
    }

    pub async fn controller(&self) -> ControllerClient<Channel> {
        ControllerClient::new(self.connect().await)
    }
}

impl Program {
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }

    pub fn id(&self) -> i32 {
        i32::try_from(self.child.id()).unwrap()
    }

    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Waits until somebody listens at the socket.
    pub fn wait_for(&self, socket: &Path) {
        self.wait_until("it serves", || UnixStream::connect(socket).is_ok());
    }

    /// Waits until its log has the text.
    pub fn wait_for_log(&self, text: &str) {
        self.wait_until(text, || self.log().contains(text));
    }

    pub fn wait_until(&self, what: &str, mut is_so: impl FnMut() -> bool) {
        let until = Instant::now() + Duration::from_secs(30);
        while !is_so() {
            assert!(Instant::now() < until, "not within 30 s: {what}\n{}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Sends a signal.
    pub fn signal(&self, signal: nix::sys::signal::Signal) {
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(self.id()), signal).unwrap();
    }

    /// Waits for the end; the status and how long it took.
    pub fn ended(&mut self) -> (ExitStatus, Duration) {
        let since = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return (status, since.elapsed());
            }
            assert!(since.elapsed() < Duration::from_secs(60), "it does not end\n{}", self.log());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// SIGTERM; it must end with 0 within so many seconds.
    pub fn stop_within(mut self, seconds: u64) -> String {
        self.signal(nix::sys::signal::Signal::SIGTERM);
        let (status, time) = self.ended();
        let log = self.log();
        assert_eq!(status.code(), Some(0), "{status}\n{log}");
        assert!(time < Duration::from_secs(seconds), "it took {time:?}\n{log}");
        log
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A request that the driver cannot answer without the cluster, which is deaf.
pub fn create(name: &str) -> CreateVolumeRequest {
    let mount = MountVolume { fs_type: "ext4".to_owned(), ..MountVolume::default() };
    let capability = VolumeCapability {
        access_mode: Some(AccessMode { mode: 1 }),
        access_type: Some(AccessType::Mount(mount)),
    };
    let map = |pairs: &[(&str, &str)]| {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    };
    CreateVolumeRequest {
        name: name.to_owned(),
        volume_capabilities: vec![capability],
        parameters: map(&[("clusterID", "deaf"), ("pool", "rbd")]),
        secrets: map(&[("userID", "admin"), ("userKey", CANARY_KEY)]),
        ..CreateVolumeRequest::default()
    }
}
