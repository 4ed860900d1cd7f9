//! A controller's tests: one pool, a driver's configuration, and eyes of the test's own.
//!
//! What a reader gets wrong: the eyes are a Ceph client of the test's process, so what they
//! read is not what the driver believes. Every status that a call ends with is searched
//! for the key, and when a bench ends so are the logs and all else that its drivers wrote.

use std::collections::BTreeMap;
use std::future::Future;
use std::time::{Duration, Instant};

use rbd_csi::ceph::{Connections, Credentials, Pool, WriteOp};
use rbd_csi::csi::proto;
use rbd_csi::secret::Secret;
use tonic::Status;

use super::driver::{self, Driver, Site};
use super::lab::{Cluster, Lab, LabSpec};

/// 1 GiB.
pub const GIB: i64 = 1 << 30;

/// Long enough for whatever is done in the background.
pub const SOON: Duration = Duration::from_secs(30);

/// Objects that a pool keeps whether it has volumes or not. What most of them hold is looked at.
const REGISTERS: [&str; 5] =
    ["rbd_directory", "rbd_trash", "rbd_children", "csi.volumes.default", "csi.snaps.default"];
const INERT: [&str; 2] = ["rbd_info", "rbd_namespace"];

/// One test's world.
pub struct Bench {
    pub lab: &'static Lab,
    pub site: Site,
    pub runtime: tokio::runtime::Runtime,
    /// The test's own client.
    pub rados: Pool,
    connections: Connections,
}

impl Bench {
    /// The pool `rbd` of the shared lab, empty.
    pub fn new() -> Self {
        let lab = Lab::shared(LabSpec { clusters: 1, nodes: 0 });
        lab.enter();
        let runtime = lab.runtime();
        let cluster = lab.cluster(0);
        let connections = Connections::new(None);
        let credentials = Credentials { user: "admin".into(), key: Secret::new(cluster.admin_key.clone()) };
        let connection =
            runtime.block_on(connections.get(std::slice::from_ref(&cluster.monitors), &credentials)).unwrap();
        let rados = runtime.block_on(connection.pool("rbd", "")).unwrap();
        drop(connection);
        let mut this = Self { lab, site: Site::new(lab, cluster), rados, runtime, connections };
        if this.contents().is_empty() {
            return this;
        }
        // A test that failed left it full; the next one is not to fail for that.
        super::pool::remove(cluster, "rbd");
        super::pool::make(cluster, "rbd");
        // A client of its own: the other still has the old pool in its map.
        let monitors = std::slice::from_ref(&cluster.monitors);
        this.connections = Connections::new(None);
        let connection = this.wait(this.connections.get(monitors, &credentials)).unwrap();
        this.rados = this.wait(connection.pool("rbd", "")).unwrap();
        this
    }

    /// The cluster.
    pub fn cluster(&self) -> &'static Cluster {
        self.lab.cluster(0)
    }

    /// A controller.
    pub fn start(&self) -> Driver {
        self.site.controller(self.lab)
    }

    /// A controller at another socket of the same site, on which no fault strikes.
    pub fn start_beside(&self) -> Driver {
        self.site.controller_without_faults(self.lab, "beside.sock")
    }

    /// Another pool, seen by the test's own client.
    pub fn pool(&self, name: &str) -> Pool {
        self.wait(self.rados.connection().pool(name, "")).unwrap()
    }

    /// Waits for something of the test's own client.
    pub fn wait<T>(&self, work: impl Future<Output = T>) -> T {
        self.runtime.block_on(work)
    }

    /// CreateVolume of 1 GiB with the five default features, and further parameters.
    pub fn request(&self, name: &str, parameters: &[(&str, &str)]) -> proto::CreateVolumeRequest {
        let mut request = driver::create(&self.site, name, GIB);
        let more = parameters.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        request.parameters.extend(more);
        request
    }

    /// Sends it.
    pub fn send(
        &self,
        driver: &Driver,
        request: proto::CreateVolumeRequest,
    ) -> Result<proto::Volume, Status> {
        let answer = self.wait(async { driver.client().await.create_volume(request).await });
        self.without_key(answer).map(|answer| answer.into_inner().volume.unwrap())
    }

    /// CreateVolume of that name; its handle.
    pub fn create(&self, driver: &Driver, name: &str) -> Result<String, Status> {
        self.send(driver, self.request(name, &[])).map(|volume| volume.volume_id)
    }

    /// DeleteVolume.
    pub fn delete(&self, driver: &Driver, id: &str) -> Result<(), Status> {
        let request = driver::delete(&self.site, id);
        let answer = self.wait(async { driver.client().await.delete_volume(request).await });
        self.without_key(answer).map(drop)
    }

    /// DeleteVolume with a deadline.
    pub fn delete_within(&self, driver: &Driver, id: &str, time: Duration) -> Result<(), Status> {
        let mut request = tonic::Request::new(driver::delete(&self.site, id));
        request.set_timeout(time);
        let answer = self.wait(async { driver.client().await.delete_volume(request).await });
        self.without_key(answer).map(drop)
    }

    /// CreateVolume with a deadline.
    pub fn create_within(&self, driver: &Driver, name: &str, time: Duration) -> Result<String, Status> {
        let mut request = tonic::Request::new(self.request(name, &[]));
        request.set_timeout(time);
        let answer = self.wait(async { driver.client().await.create_volume(request).await });
        self.without_key(answer).map(|answer| answer.into_inner().volume.unwrap().volume_id)
    }

    fn without_key<T>(&self, answer: Result<T, Status>) -> Result<T, Status> {
        if let Err(status) = &answer {
            let text = format!("{status:?}");
            assert!(!text.contains(&self.cluster().admin_key), "a status holds the key");
            // A killed driver's broken connection has no text; the driver's own errors do.
            assert!(!status.message().is_empty() || status.code() == tonic::Code::Unknown, "{text}");
        }
        answer
    }

    /// A handle that names no volume; asking for its deletion makes the driver connect.
    pub fn nothing(&self) -> String {
        self.handle(&uuid::Uuid::nil().to_string())
    }

    /// The handle of a uuid in this pool.
    pub fn handle(&self, uuid: &str) -> String {
        let id = driver::CLUSTER_ID;
        format!("0001-{:04x}-{id}-{:016x}-{uuid}", id.len(), self.rados.id())
    }

    /// The keys of an object, empty when it is absent.
    pub fn keys(&self, object: &str) -> BTreeMap<String, String> {
        match self.wait(self.rados.omap_all("look", object, "")) {
            Ok(keys) => {
                let text = |value: Vec<u8>| String::from_utf8_lossy(&value).into_owned();
                let keys: BTreeMap<_, _> = keys.into_iter().map(|(key, value)| (key, text(value))).collect();
                let secret = keys.values().any(|value| value.contains(&self.cluster().admin_key));
                assert!(!secret, "{object} holds the user's key");
                keys
            }
            Err(error) if error.is(libc::ENOENT) => BTreeMap::new(),
            Err(error) => panic!("{object}: {error}"),
        }
    }

    /// Writes an object's keys; a volume's or snapshot's entry as if that was long ago.
    pub fn set_keys(&self, object: &str, keys: &[(&str, &str)]) {
        let keys = keys.iter().map(|(key, value)| (*key, value.as_bytes()));
        self.wait(self.rados.write("prepare", object, WriteOp::new().create().omap_set(keys))).unwrap();
        if ["csi.volume.", "csi.snap."].iter().any(|prefix| object.starts_with(prefix)) {
            self.age(object, 3600);
        }
    }

    /// Makes an object look as if it was last written to so many seconds ago.
    pub fn age(&self, object: &str, seconds: u64) {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        let time = (now.as_secs() - seconds).to_string();
        self.cluster().rados(&["-p", "rbd", "touch", object, &time]);
    }

    /// The uuid that the journal holds for a name, entered or intended.
    pub fn reserved(&self, name: &str) -> Option<String> {
        let keys = self.keys("csi.volumes.default");
        let value = |prefix: &str| keys.get(&format!("{prefix}{name}")).cloned();
        value("csi.volume.").or_else(|| value("rbd-csi.intent."))
    }

    /// The names of an object's extended attributes; none when it is absent.
    pub fn xattrs(&self, object: &str) -> Vec<String> {
        match self.wait(self.rados.list_xattrs("look", object)) {
            Err(error) if error.is(libc::ENOENT) => Vec::new(),
            found => found.unwrap().into_keys().collect(),
        }
    }

    /// Everything in the pool that belongs to some volume: objects, and keys and extended
    /// attributes of the registers.
    pub fn contents(&self) -> Vec<String> {
        self.contents_of(&["csi.volumes.default"])
    }

    /// The same with the directories of other instances.
    pub fn contents_of(&self, directories: &[&str]) -> Vec<String> {
        let objects = self.cluster().rados(&["-p", "rbd", "ls"]);
        let mut found = Vec::new();
        for object in objects.lines().filter(|object| !INERT.contains(object)) {
            if REGISTERS.contains(&object) || directories.contains(&object) {
                found.extend(self.keys(object).keys().map(|key| format!("{object}: {key}")));
                found.extend(self.xattrs(object).iter().map(|name| format!("{object}: attribute {name}")));
            } else {
                found.push(object.to_owned());
            }
        }
        found.sort();
        found
    }

    /// Waits until the pool is empty: purges go on after the answer.
    pub fn wait_until_empty(&self, what: &str) {
        self.wait_until_empty_for(what, SOON);
    }

    /// The same for purges that take longer.
    pub fn wait_until_empty_for(&self, what: &str, time: Duration) {
        let until = Instant::now() + time;
        loop {
            let left = self.contents();
            if left.is_empty() {
                return;
            }
            assert!(
                Instant::now() < until,
                "{what}: left in the pool: {left:#?}\n{}",
                last_lines(&self.site.log(), 20)
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// The names of the pool's images, from its directory.
    pub fn images(&self) -> Vec<String> {
        let keys = self.keys("rbd_directory");
        keys.keys().filter_map(|key| key.strip_prefix("name_")).map(str::to_owned).collect()
    }

    /// Sets how many objects the pool may have, 0 for any number, and waits until that is felt.
    pub fn set_quota(&self, objects: &str) {
        self.cluster().ceph(&["osd", "pool", "set-quota", "rbd", "max_objects", objects]);
        for _ in 0..200 {
            let dump = self.cluster().ceph(&["osd", "pool", "ls", "detail"]);
            let full = dump.lines().any(|line| line.contains("'rbd'") && line.contains("full_quota"));
            if full == (objects != "0") {
                return;
            }
            std::thread::sleep(Duration::from_millis(250));
        }
        panic!("the quota of {objects} objects has no effect");
    }

    /// Never a directory key without its complete object: ceph-csi could not go on.
    pub fn check_that_ceph_csi_could_go_on(&self, at: &str) {
        self.check_that_ceph_csi_could_go_on_in("csi.volumes.default", at);
    }

    /// The same in the directory of another instance.
    pub fn check_that_ceph_csi_could_go_on_in(&self, directory: &str, at: &str) {
        for (key, uuid) in self.keys(directory) {
            let Some(name) = key.strip_prefix("csi.volume.") else { continue };
            let entry = self.keys(&format!("csi.volume.{uuid}"));
            assert_eq!(entry.get("csi.volname").map(String::as_str), Some(name), "{at}: {entry:?}");
            assert_eq!(entry.get("csi.imagename"), Some(&format!("csi-vol-{uuid}")), "{at}: {entry:?}");
            // The claim's namespace, as `driver::parameters` has it.
            assert_eq!(entry.get("csi.volume.owner").map(String::as_str), Some("shop"), "{at}: {entry:?}");
        }
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.site.check_that_no_file_holds(&self.cluster().admin_key);
        }
        let _ = self.runtime.block_on(self.connections.close(Duration::from_secs(5)));
    }
}

/// The end of a text.
pub fn last_lines(text: &str, count: usize) -> String {
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}

impl Bench {
    /// Waits until something holds that is done in the background.
    pub fn wait_until(&self, what: &str, mut holds: impl FnMut() -> bool) {
        let until = Instant::now() + SOON;
        while !holds() {
            assert!(Instant::now() < until, "not within time: {what}\n{}", last_lines(&self.site.log(), 20));
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}
