//! The driver as a process: started, asked through gRPC, killed, started again.

use std::collections::BTreeMap;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rbd_csi::csi::proto;
use rbd_csi::csi::proto::controller_client::ControllerClient;
use rbd_csi::csi::proto::identity_client::IdentityClient;
use rbd_csi::csi::proto::node_client::NodeClient;
use tonic::transport::{Channel, Endpoint};

use super::lab::{Cluster, Lab, Node};

/// The cluster id that tests configure.
pub const CLUSTER_ID: &str = "lab-cluster";

const DRIVER: &str = env!("CARGO_BIN_EXE_rbd-csi");
const NODE_PORT: u16 = 9000;

/// How a driver is configured.
pub struct Site {
    /// Inside the lab's folder, which its nodes see, too.
    dir: tempfile::TempDir,
    /// In /tmp: the path of a UNIX socket has at most 107 bytes.
    sockets: tempfile::TempDir,
    /// The secrets that its callers send.
    pub secrets: BTreeMap<String, String>,
    extra: Vec<String>,
}

impl Site {
    /// A configuration for the controller of one cluster, with the administrator's key.
    pub fn new(lab: &Lab, cluster: &Cluster) -> Self {
        let dir = tempfile::Builder::new().prefix("site").tempdir_in(&lab.dir).unwrap();
        let sockets = tempfile::Builder::new().prefix("rbdcsi").tempdir_in("/tmp").unwrap();
        let secrets = BTreeMap::from([
            ("userID".to_owned(), "admin".to_owned()),
            ("userKey".to_owned(), cluster.admin_key.clone()),
        ]);
        let site = Self { dir, sockets, secrets, extra: Vec::new() };
        site.configure(&cluster.monitors, "");
        site.ceph_conf("");
        site
    }

    /// Writes config.json anew; it is read on each call.
    pub fn configure(&self, monitors: &str, namespace: &str) {
        self.configure_rbd(monitors, &serde_json::json!({"radosNamespace": namespace}));
    }

    /// The same with what else the section `rbd` can hold.
    pub fn configure_rbd(&self, monitors: &str, rbd: &serde_json::Value) {
        let config = serde_json::json!([{"clusterID": CLUSTER_ID, "monitors": [monitors], "rbd": rbd}]);
        std::fs::write(self.path("config.json"), config.to_string()).unwrap();
    }

    /// Settings for the driver's librados, such as time-outs; read at each connect.
    pub fn ceph_conf(&self, settings: &str) {
        std::fs::write(self.path("ceph.conf"), format!("[global]\n{settings}\n")).unwrap();
    }

    /// A further flag.
    pub fn flag(&mut self, flag: impl Into<String>) {
        self.extra.push(flag.into());
    }

    /// A file of this site.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Arms a fault (src/fault.rs); an empty plan disarms. The count of steps starts anew.
    pub fn arm(&self, plan: &str) {
        // A comment makes each text new, and so starts the count anew.
        static SERIAL: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
        let serial = SERIAL.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let _ = std::fs::remove_file(self.path("faults.trace"));
        let plan = if plan.is_empty() { format!("serial{serial}") } else { format!("{plan};serial{serial}") };
        std::fs::write(self.path("faults.new"), plan).unwrap();
        std::fs::rename(self.path("faults.new"), self.path("faults")).unwrap();
    }

    /// The steps since the plan was armed: `name`, tab, `object`.
    pub fn steps(&self) -> Vec<String> {
        let trace = std::fs::read_to_string(self.path("faults.trace")).unwrap_or_default();
        trace.lines().filter_map(|line| Some(line.split_once(' ')?.1.to_owned())).collect()
    }

    /// Starts the controller on this machine, in the lab's network.
    pub fn controller(&self, lab: &Lab) -> Driver {
        self.controller_at(lab, "csi.sock")
    }

    /// A further controller beside the first.
    pub fn controller_at(&self, lab: &Lab, socket: &str) -> Driver {
        self.start(lab, socket, |command| {
            command.env("RBD_CSI_FAULTS", self.path("faults"));
        })
    }

    /// One on which no fault strikes.
    pub fn controller_without_faults(&self, lab: &Lab, socket: &str) -> Driver {
        self.start(lab, socket, |_| {})
    }

    /// A controller that no flag tells of a ceph.conf, and that sees this folder as `/etc/ceph`.
    pub fn controller_with_etc_ceph(&self, lab: &Lab, folder: &Path) -> Driver {
        let endpoint = format!("unix://{}", self.sockets.path().join("csi.sock").display());
        let mut command = lab.command("unshare");
        command.args(["--mount", "sh", "-ec", r#"mount --bind "$0" /etc/ceph; exec "$@""#]).arg(folder);
        command.args([DRIVER, "--controllerserver=true", "--nodeid=controller"]);
        command.args(self.flags(&endpoint).iter().filter(|flag| !flag.starts_with("--ceph-conf=")));
        Driver::start(command, endpoint, self.path("driver.log"), self.canary())
    }

    fn start(&self, lab: &Lab, socket: &str, finish: impl FnOnce(&mut Command)) -> Driver {
        let socket = self.sockets.path().join(socket);
        let endpoint = format!("unix://{}", socket.display());
        let mut command = lab.command(DRIVER);
        command.args(["--controllerserver=true", "--nodeid=controller"]).args(self.flags(&endpoint));
        finish(&mut command);
        Driver::start(command, endpoint, self.path("driver.log"), self.canary())
    }

    /// Starts controller and node service in a krbd node, reached by TCP.
    pub fn node(&self, node: &Node) -> Driver {
        let endpoint = format!("tcp://{}:{NODE_PORT}", node.ip);
        let mut argv = vec![
            DRIVER.to_owned(),
            "--controllerserver=true".to_owned(),
            "--nodeserver=true".to_owned(),
            format!("--nodeid=node-{}", node.number),
        ];
        argv.extend(self.flags(&endpoint));
        let faults = self.path("faults");
        let command = node.command_with(&[("RBD_CSI_FAULTS", faults.to_str().unwrap())], &argv);
        Driver::start(command, endpoint, self.path("driver.log"), self.canary())
    }

    fn canary(&self) -> String {
        self.secrets.get("userKey").cloned().unwrap_or_default()
    }

    fn flags(&self, endpoint: &str) -> Vec<String> {
        let mut flags = vec![
            "--type=rbd".to_owned(),
            "--drivername=rbd.csi.ceph.com".to_owned(),
            format!("--endpoint={endpoint}"),
            "--pluginpath=/tmp/plugins".to_owned(),
        ];
        for (flag, file) in [
            ("cluster-config", "config.json"),
            ("cluster-mapping", "cluster-mapping.json"),
            ("ceph-conf", "ceph.conf"),
        ] {
            flags.push(format!("--{flag}={}", self.path(file).display()));
        }
        flags.extend(self.extra.iter().cloned());
        flags
    }

    /// Whatever a driver wrote or could have written into this site's folders: logs,
    /// traces, configuration.
    pub fn check_that_no_file_holds(&self, canary: &str) {
        for folder in [self.dir.path(), self.sockets.path()] {
            for file in std::fs::read_dir(folder).unwrap() {
                let path = file.unwrap().path();
                if path.is_file() {
                    let text = std::fs::read(&path).unwrap();
                    assert!(!holds(&text, canary), "{} holds the key", path.display());
                }
            }
        }
    }

    /// All that the drivers of this site have logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.path("driver.log")).unwrap_or_default()
    }
}

fn listens(endpoint: &str) -> bool {
    match endpoint.split_once("://") {
        Some(("unix", path)) => std::os::unix::net::UnixStream::connect(path).is_ok(),
        Some((_, address)) => std::net::TcpStream::connect(address).is_ok(),
        None => false,
    }
}

fn holds(text: &[u8], canary: &str) -> bool {
    !canary.is_empty() && text.windows(canary.len()).any(|window| window == canary.as_bytes())
}

/// A running driver; killed when dropped, after a look at what others see of it.
pub struct Driver {
    child: Child,
    endpoint: String,
    canary: String,
    log: PathBuf,
}

impl Driver {
    fn start(mut command: Command, endpoint: String, log: PathBuf, canary: String) -> Self {
        let path = log;
        let log = std::fs::File::options().create(true).append(true).open(&path).unwrap();
        // One in a node ends a moment after what had started it there.
        let until = Instant::now() + Duration::from_secs(10);
        while endpoint.starts_with("tcp://") && listens(&endpoint) {
            assert!(Instant::now() < until, "another driver listens at {endpoint}");
            std::thread::sleep(Duration::from_millis(20));
        }
        let child = command
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .expect("the driver starts");
        let mut driver = Self { child, endpoint, canary, log: path };
        driver.wait_until_it_listens();
        driver
    }

    fn wait_until_it_listens(&mut self) {
        let until = Instant::now() + Duration::from_secs(20);
        while !listens(&self.endpoint) {
            if let Some(status) = self.child.try_wait().unwrap() {
                panic!("the driver ended at its start: {status}");
            }
            assert!(Instant::now() < until, "the driver does not listen at {}", self.endpoint);
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// A connection of its own.
    pub async fn channel(&self) -> Channel {
        let uri = self.endpoint.replace("tcp://", "http://");
        Endpoint::from_shared(uri).unwrap().connect().await.unwrap_or_else(|error| {
            let state = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap_or_default();
            let log = std::fs::read_to_string(&self.log).unwrap_or_default();
            let log = super::bench::last_lines(&log, 30);
            panic!("{error:?}; process {}: {:?}\n{log}", self.pid(), state.lines().nth(2))
        })
    }

    /// A client of its controller service.
    pub async fn client(&self) -> ControllerClient<Channel> {
        ControllerClient::new(self.channel().await)
    }

    /// A client of its node service.
    pub async fn node(&self) -> NodeClient<Channel> {
        NodeClient::new(self.channel().await)
    }

    /// A client of its identity service.
    pub async fn identity(&self) -> IdentityClient<Channel> {
        IdentityClient::new(self.channel().await)
    }

    /// SIGKILL, and its end.
    pub fn kill(mut self) {
        let _ = self.child.kill();
        self.child.wait().unwrap();
    }

    /// SIGTERM.
    pub fn terminate(&self) {
        nix::sys::signal::kill(
            nix::unistd::Pid::from_raw(i32::try_from(self.pid()).unwrap()),
            nix::sys::signal::Signal::SIGTERM,
        )
        .unwrap();
    }

    /// Waits until it ended by itself; its exit code.
    pub fn ended_within(&mut self, time: Duration) -> Option<i32> {
        let until = Instant::now() + time;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code();
            }
            assert!(Instant::now() < until, "the driver still runs after {time:?}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Waits until a fault killed it; `false` when it still lives after that time.
    pub fn was_killed(&mut self, within: Duration) -> bool {
        let until = Instant::now() + within;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                // A driver in a node is seen through a shell, which says 128 + 9.
                let killed = status.signal() == Some(9) || status.code() == Some(137);
                assert!(killed, "the driver ended by itself: {status}");
                return true;
            }
            if Instant::now() >= until {
                return false;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            for file in ["cmdline", "environ"] {
                let seen = std::fs::read(format!("/proc/{}/{file}", self.pid())).unwrap_or_default();
                assert!(!holds(&seen, &self.canary), "{file} of the driver holds the key");
            }
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A capability: a file system for one node.
pub fn mount() -> proto::VolumeCapability {
    proto::VolumeCapability {
        access_mode: Some(proto::volume_capability::AccessMode {
            mode: proto::volume_capability::access_mode::Mode::SingleNodeWriter.into(),
        }),
        access_type: Some(proto::volume_capability::AccessType::Mount(Default::default())),
    }
}

/// A StorageClass' parameters with claim and PV names, and the five default features.
pub fn parameters(name: &str) -> BTreeMap<String, String> {
    [
        ("clusterID", CLUSTER_ID),
        ("pool", "rbd"),
        ("imageFeatures", "layering,exclusive-lock,object-map,fast-diff,deep-flatten"),
        ("csi.storage.k8s.io/pv/name", name),
        ("csi.storage.k8s.io/pvc/name", "claim"),
        ("csi.storage.k8s.io/pvc/namespace", "shop"),
    ]
    .into_iter()
    .map(|(key, value)| (key.to_owned(), value.to_owned()))
    .collect()
}

/// CreateVolume of `size` bytes.
pub fn create(site: &Site, name: &str, size: i64) -> proto::CreateVolumeRequest {
    proto::CreateVolumeRequest {
        name: name.to_owned(),
        capacity_range: Some(proto::CapacityRange { required_bytes: size, limit_bytes: 0 }),
        volume_capabilities: vec![mount()],
        parameters: parameters(name),
        secrets: site.secrets.clone(),
        ..Default::default()
    }
}

/// DeleteVolume.
pub fn delete(site: &Site, volume_id: &str) -> proto::DeleteVolumeRequest {
    proto::DeleteVolumeRequest { volume_id: volume_id.to_owned(), secrets: site.secrets.clone() }
}

/// ControllerExpandVolume of a mounted volume.
pub fn grow(site: &Site, volume_id: &str, size: i64) -> proto::ControllerExpandVolumeRequest {
    proto::ControllerExpandVolumeRequest {
        volume_id: volume_id.to_owned(),
        capacity_range: Some(proto::CapacityRange { required_bytes: size, limit_bytes: 0 }),
        secrets: site.secrets.clone(),
        volume_capability: Some(mount()),
    }
}
