//! The driver as a process of the node: started, killed, asked, and the faults that are
//! armed in it.
//!
//! What a reader gets wrong: volumes are made and deleted by a process of their own (the
//! maker), so that the traced steps are those of the node's calls alone.

use std::collections::BTreeMap;
use std::future::Future;
use std::io::BufRead as _;
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rbd_csi::csi::proto;
use rbd_csi::csi::proto::controller_client::ControllerClient;
use rbd_csi::csi::proto::node_client::NodeClient;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};

use super::support::inside::{KEY, variable};
use super::support::ops;
use super::volume::{Form, Volume, write};

/// What begins a line by which a part inside asks for something.
pub const WISH: &str = "WISH ";

/// The folder of configuration, sockets, logs and fault plans.
const HOME: &str = "/run/plugin";

/// Has something done outside and waits until it is.
pub fn ask(wish: &str) {
    // The harness has begun a line with the test's name.
    println!("\n{WISH}{wish}");
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer).unwrap();
    assert_eq!(answer, "done\n", "{wish}");
}

/// A running driver.
pub struct Plugin {
    child: Child,
    name: &'static str,
    flags: Vec<String>,
    runtime: tokio::runtime::Runtime,
}

impl Plugin {
    /// The node's plugin.
    pub fn node() -> Self {
        Self::start("node", &["--nodeserver=true"])
    }

    /// A controller, which makes and deletes volumes.
    pub fn maker() -> Self {
        Self::start("maker", &["--controllerserver=true"])
    }

    /// A driver of that name, with these flags.
    pub fn start(name: &'static str, flags: &[&str]) -> Self {
        configure();
        let flags: Vec<String> = flags.iter().map(|flag| (*flag).to_owned()).collect();
        let runtime = tokio::runtime::Runtime::new().unwrap();
        Self { child: spawn(name, &flags), name, flags, runtime }
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// A SIGKILL, and another driver in its place.
    pub fn restart(&mut self) {
        self.child.kill().unwrap();
        self.start_again();
    }

    /// Another driver in the place of one that has ended.
    pub fn start_again(&mut self) {
        self.child.wait().unwrap();
        self.child = spawn(self.name, &self.flags);
    }

    /// A fault killed it.
    pub fn was_killed(&mut self) -> bool {
        let until = Instant::now() + Duration::from_secs(5);
        while Instant::now() < until {
            if let Some(status) = self.child.try_wait().unwrap() {
                assert_eq!(status.signal(), Some(libc::SIGKILL), "{status}\n{}", self.log());
                return true;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        false
    }

    /// Arms a fault (src/fault.rs) and starts a new trace; nothing is armed by nothing.
    pub fn arm(&self, plan: &str) {
        // A text of its own each time, so that the count starts anew.
        static SERIAL: AtomicU64 = AtomicU64::new(0);
        let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
        let _ = std::fs::remove_file(file(&format!("{}.faults.trace", self.name)));
        let (new, armed) =
            (file(&format!("{}.faults.new", self.name)), file(&format!("{}.faults", self.name)));
        std::fs::write(&new, format!("{plan};serial{serial}")).unwrap();
        std::fs::rename(new, armed).unwrap();
    }

    /// The steps since then, each as `name#k`, the k-th of that name.
    pub fn steps(&self) -> Vec<String> {
        let trace = std::fs::read_to_string(file(&format!("{}.faults.trace", self.name))).unwrap();
        let names = trace.lines().filter_map(|line| line.split_once(' ')?.1.split('\t').next());
        let mut count = BTreeMap::new();
        names
            .map(|name| {
                let number = count.entry(name).or_insert(0);
                *number += 1;
                format!("{name}#{number}")
            })
            .collect()
    }

    /// Waits until a step of that name has begun.
    #[track_caller]
    pub fn wait_for(&self, step: &str) {
        let until = Instant::now() + Duration::from_secs(60);
        let trace = file(&format!("{}.faults.trace", self.name));
        let begun = |text: String| text.lines().any(|line| line.contains(&format!(" {step}\t")));
        while !std::fs::read_to_string(&trace).is_ok_and(begun) {
            assert!(Instant::now() < until, "{step} does not begin");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// How often drivers of this name have loaded the kernel module at their start.
    pub fn loads(&self) -> usize {
        self.log().matches("kernel module rbd loaded").count()
    }

    /// All that drivers of this name have said.
    pub fn log(&self) -> String {
        std::fs::read_to_string(file(&format!("{}.log", self.name))).unwrap()
    }

    async fn channel(&self) -> Channel {
        let endpoint = format!("unix://{}", socket(self.name).display());
        Endpoint::from_shared(endpoint).unwrap().connect().await.unwrap()
    }

    /// One call of the node service, with a deadline.
    fn call<M, F, T>(
        &self,
        seconds: u64,
        message: M,
        call: impl FnOnce(NodeClient<Channel>, Request<M>) -> F,
    ) -> Result<T, Status>
    where
        F: Future<Output = Result<tonic::Response<T>, Status>>,
    {
        let mut request = Request::new(message);
        request.set_timeout(Duration::from_secs(seconds));
        let answer =
            self.runtime.block_on(async { call(NodeClient::new(self.channel().await), request).await });
        if let Err(status) = &answer {
            assert!(!status.message().contains(&variable(KEY)), "{status}");
        }
        answer.map(tonic::Response::into_inner)
    }

    pub fn stage(&self, volume: &Volume) -> Result<(), Status> {
        self.stage_within(volume, 110)
    }

    pub fn stage_within(&self, volume: &Volume, seconds: u64) -> Result<(), Status> {
        let message = proto::NodeStageVolumeRequest {
            volume_id: volume.id.clone(),
            staging_target_path: volume.staging.display().to_string(),
            volume_capability: Some(volume.capability.clone()),
            secrets: volume.secrets.clone(),
            volume_context: volume.context.clone(),
            ..Default::default()
        };
        let call = |mut node: NodeClient<_>, request| async move { node.node_stage_volume(request).await };
        self.call(seconds, message, call).map(drop)
    }

    pub fn unstage(&self, volume: &Volume) -> Result<(), Status> {
        self.unstage_within(volume, 110)
    }

    pub fn unstage_within(&self, volume: &Volume, seconds: u64) -> Result<(), Status> {
        let message = proto::NodeUnstageVolumeRequest {
            volume_id: volume.id.clone(),
            staging_target_path: volume.staging.display().to_string(),
        };
        let call = |mut node: NodeClient<_>, request| async move { node.node_unstage_volume(request).await };
        self.call(seconds, message, call).map(drop)
    }

    /// Stages a volume, writes into it as a pod does, and unstages it.
    pub fn fill(&self, volume: &Volume, text: &str) {
        self.stage(volume).unwrap();
        write(&volume.entry(), text);
        self.unstage(volume).unwrap();
    }

    pub fn publish(&self, volume: &Volume, target: &Path) -> Result<(), Status> {
        self.publish_as(volume, target, false)
    }

    pub fn publish_as(&self, volume: &Volume, target: &Path, readonly: bool) -> Result<(), Status> {
        let message = proto::NodePublishVolumeRequest {
            volume_id: volume.id.clone(),
            staging_target_path: volume.staging.display().to_string(),
            target_path: target.display().to_string(),
            volume_capability: Some(volume.capability.clone()),
            readonly,
            volume_context: volume.context.clone(),
            ..Default::default()
        };
        let call = |mut node: NodeClient<_>, request| async move { node.node_publish_volume(request).await };
        self.call(10, message, call).map(drop)
    }

    pub fn unpublish(&self, volume: &Volume, target: &Path) -> Result<(), Status> {
        let message = proto::NodeUnpublishVolumeRequest {
            volume_id: volume.id.clone(),
            target_path: target.display().to_string(),
        };
        let call =
            |mut node: NodeClient<_>, request| async move { node.node_unpublish_volume(request).await };
        self.call(10, message, call).map(drop)
    }

    /// NodeExpandVolume to all that there is, by the path alone.
    pub fn expand(&self, volume: &Volume, path: &Path) -> Result<(), Status> {
        let message = proto::NodeExpandVolumeRequest {
            volume_id: volume.id.clone(),
            volume_path: path.display().to_string(),
            ..Default::default()
        };
        let call = |mut node: NodeClient<_>, request| async move { node.node_expand_volume(request).await };
        self.call(60, message, call).map(drop)
    }

    /// The total of bytes, of the file system or of the device.
    pub fn total_bytes(&self, volume: &Volume, path: &Path) -> Result<i64, Status> {
        let message = proto::NodeGetVolumeStatsRequest {
            volume_id: volume.id.clone(),
            volume_path: path.display().to_string(),
            ..Default::default()
        };
        let call =
            |mut node: NodeClient<_>, request| async move { node.node_get_volume_stats(request).await };
        let stats = self.call(10, message, call)?;
        assert!(stats.volume_condition.is_none(), "{stats:?}");
        Ok(stats.usage[0].total)
    }

    /// CreateVolume in the cluster of that clusterID.
    pub fn create(&self, cluster: &str, form: Form, mib: i64) -> Volume {
        static SERIAL: AtomicU64 = AtomicU64::new(0);
        let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
        let mut parameters = super::support::driver::parameters(&format!("claim-{serial}"));
        parameters.insert("clusterID".into(), cluster.into());
        let message = proto::CreateVolumeRequest {
            name: format!("pvc-{}-{serial}", std::process::id()),
            capacity_range: Some(proto::CapacityRange { required_bytes: mib << 20, limit_bytes: 0 }),
            volume_capabilities: vec![form.capability()],
            parameters,
            secrets: secrets(cluster),
            ..Default::default()
        };
        let answer = self.runtime.block_on(async {
            ControllerClient::new(self.channel().await).create_volume(message).await.unwrap()
        });
        let volume = answer.into_inner().volume.unwrap();
        Volume::new(volume.volume_id, volume.volume_context, cluster, form.capability())
    }

    /// DeleteVolume.
    pub fn delete(&self, volume: &Volume) {
        let message =
            proto::DeleteVolumeRequest { volume_id: volume.id.clone(), secrets: volume.secrets.clone() };
        let answer = self
            .runtime
            .block_on(async { ControllerClient::new(self.channel().await).delete_volume(message).await });
        answer.unwrap_or_else(|status| panic!("{}: {status}", volume.id));
        let _ = std::fs::remove_dir_all(volume.staging.parent().unwrap());
    }
}

impl Drop for Plugin {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<_> = log.lines().collect();
            println!("{}'s log:\n{}", self.name, lines[lines.len().saturating_sub(40)..].join("\n"));
        }
    }
}

/// A file of the plugins' folder.
pub fn file(name: &str) -> PathBuf {
    Path::new(HOME).join(name)
}

/// The administrator's key of that cluster, as a CO gives it.
pub fn secrets(cluster: &str) -> BTreeMap<String, String> {
    let key = variable(if cluster == "b" { "B_KEY" } else { KEY });
    BTreeMap::from([("userID".into(), "admin".into()), ("userKey".into(), key)])
}

/// The clusters of the lab as `a` (also by the name that recorded volumes have) and `b`. A
/// test's own files in the folder stay.
fn configure() {
    std::fs::create_dir_all(file("sockets")).unwrap();
    let clusters = [("a", "LAB_MONITORS"), ("lab-cluster", "LAB_MONITORS"), ("b", "B_MONITORS")];
    let clusters =
        clusters.map(|(id, monitors)| serde_json::json!({"clusterID": id, "monitors": [variable(monitors)]}));
    std::fs::write(file("config.json"), serde_json::json!(clusters).to_string()).unwrap();
    // Sockets through which librados tells what it has sent.
    let settings = format!("[global]\n{}\n", ops::sockets_in(&file("sockets")));
    std::fs::write(file("ceph.conf"), settings).unwrap();
}

fn socket(name: &str) -> PathBuf {
    file(&format!("{name}.sock"))
}

fn spawn(name: &str, flags: &[String]) -> Child {
    let log = std::fs::File::options().create(true).append(true).open(file(&format!("{name}.log"))).unwrap();
    let mut child = Command::new(env!("CARGO_BIN_EXE_rbd-csi"))
        .args(["--type=rbd", "--drivername=rbd.csi.ceph.com", "--nodeid=node-1", "--v=5"])
        .args([
            format!("--endpoint=unix://{}", socket(name).display()),
            format!("--cluster-config={}", file("config.json").display()),
            format!("--cluster-mapping={}", file("mapping.json").display()),
            format!("--ceph-conf={}", file("ceph.conf").display()),
            format!("--pluginpath={}", file("plugins").display()),
        ])
        .args(flags)
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap())
        .env("RBD_CSI_FAULTS", file(&format!("{name}.faults")))
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .unwrap();
    let until = Instant::now() + Duration::from_secs(20);
    while UnixStream::connect(socket(name)).is_err() {
        assert!(child.try_wait().unwrap().is_none() && Instant::now() < until, "{name} does not serve");
        std::thread::sleep(Duration::from_millis(2));
    }
    child
}
