//! The driver's node side as these tests use it, in the lab's node: through the domain,
//! with a journal entry and an image made as the controller makes them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rbd_csi::ceph::{Connections, Credentials, Features, ImageSpec, Pool, WriteOp};
use rbd_csi::config::ConfigFiles;
use rbd_csi::host::child;
use rbd_csi::node::mapping::MapWith;
use rbd_csi::node::stats::Health;
use rbd_csi::node::{Node, NodeOptions};
use rbd_csi::secret::Secret;
use rbd_csi::volume::Result;
use rbd_csi::volume::capability::{Access, AccessMode, Capability};
use rbd_csi::volume::id::VolumeId;
use rbd_csi::volume::image::resolve::Resolver;
use rbd_csi::volume::operation::{Deadline, Operations};
use rbd_csi::volume::request::{
    ExpandOnNodeRequest, PublishRequest, Secrets, StageRequest, StatsRequest, UnpublishRequest,
    UnstageRequest,
};
use rbd_csi::volume::size::CapacityRange;
use uuid::Uuid;

use super::support::inside::{KEY, variable};
use super::support::volume::Volume;

/// The clusterID of the tests' config.json.
pub const CLUSTER: &str = "lab";

/// A started driver.
pub struct Driver {
    pub runtime: tokio::runtime::Runtime,
    pool: Option<Pool>,
    root: PathBuf,
    map_with: MapWith,
    resolver: Resolver,
    node: Node,
}

impl Driver {
    /// With a kubelet's folder in this boot's memory.
    pub fn start() -> Self {
        Self::start_at(Path::new("/var/lib/kubelet"))
    }

    pub fn start_at(root: &Path) -> Self {
        child::use_program(env!("CARGO_BIN_EXE_rbd-csi").into());
        let config = std::env::temp_dir().join("config.json");
        let monitors = variable("LAB_MONITORS");
        let text = serde_json::json!([{"clusterID": CLUSTER, "monitors": [monitors]}]).to_string();
        std::fs::write(&config, text).unwrap();
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let resolver = Resolver {
            connections: Connections::new(None),
            config: ConfigFiles { cluster: config, mapping: "/nowhere".into() },
            instance: "default".into(),
        };
        let credentials = Credentials { user: "admin".into(), key: Secret::new(variable(KEY)) };
        let pool = runtime.block_on(async {
            let connection = resolver.connections.get(&[monitors], &credentials).await.unwrap();
            connection.pool("rbd", "").await.unwrap()
        });
        let map_with = MapWith::Kernel;
        let node = new_node(&resolver, map_with);
        Self { runtime, pool: Some(pool), root: root.to_owned(), map_with, resolver, node }
    }

    fn pool(&self) -> &Pool {
        self.pool.as_ref().unwrap()
    }

    /// Another driver in the place of this one, which knows nothing of it.
    pub fn restart(&mut self) {
        self.runtime.block_on(self.resolver.connections.close(Duration::from_secs(10)));
        self.resolver.connections = Connections::new(None);
        self.node = new_node(&self.resolver, self.map_with);
    }

    /// A driver with another `--map-with` in the place of this one.
    pub fn restart_with(&mut self, map_with: MapWith) {
        self.map_with = map_with;
        self.restart();
    }

    /// A new volume of that many MiB.
    pub fn create(&self, mib: u64) -> Volume {
        self.create_as(Uuid::new_v4(), mib)
    }

    pub fn create_as(&self, uuid: Uuid, mib: u64) -> Volume {
        let volume = self.volume(uuid);
        self.create_image(&volume.image, mib);
        self.record(&volume);
        volume
    }

    /// Writes the journal's entry of a volume whose image is there.
    pub fn record(&self, volume: &Volume) {
        let uuid = VolumeId::parse(&volume.id).unwrap().uuid;
        let keys = [("csi.volname", "pvc-1"), ("csi.imagename", &volume.image)];
        let write = WriteOp::new().create().omap_set(keys.map(|(key, value)| (key, value.as_bytes())));
        let object = format!("csi.volume.{uuid}");
        self.runtime.block_on(self.pool().write("test", &object, write)).unwrap();
    }

    /// As the controller does: the journal knows the image's id, which is given.
    pub fn record_id(&self, volume: &Volume) -> String {
        let uuid = VolumeId::parse(&volume.id).unwrap().uuid;
        self.runtime.block_on(async {
            let id = self.pool().image_id(&volume.image).await.unwrap().unwrap();
            let write = WriteOp::new().omap_set([("csi.imageid", id.as_str().as_bytes())]);
            self.pool().write("test", &format!("csi.volume.{uuid}"), write).await.unwrap();
            id.as_str().to_owned()
        })
    }

    pub fn create_image(&self, name: &str, mib: u64) {
        let features = "layering,exclusive-lock,object-map,fast-diff,deep-flatten";
        let spec = ImageSpec {
            size: mib << 20,
            features: Some(Features::parse(features).unwrap()),
            ..ImageSpec::default()
        };
        self.runtime.block_on(self.pool().create_image(name, &spec)).unwrap();
    }

    /// The volume of that uuid, whether it exists or not.
    pub fn volume(&self, uuid: Uuid) -> Volume {
        let id = VolumeId { cluster_id: CLUSTER.into(), pool_id: self.pool().id(), uuid };
        self.named(&id.to_string(), &format!("csi-vol-{uuid}"))
    }

    /// A volume of another kind of handle.
    pub fn named(&self, id: &str, image: &str) -> Volume {
        let context = BTreeMap::from([("clusterID".into(), CLUSTER.into()), ("pool".into(), "rbd".into())]);
        Volume::new(&self.root, id.into(), image.into(), context)
    }

    pub fn stage(&self, volume: &Volume, capability: &Capability) -> Result<()> {
        self.stage_within(volume, capability, 110)
    }

    pub fn stage_within(&self, volume: &Volume, capability: &Capability, seconds: u64) -> Result<()> {
        let secrets = [("userID".to_owned(), "admin".to_owned()), ("userKey".to_owned(), variable(KEY))];
        let request = StageRequest {
            volume_id: volume.id.clone(),
            staging_path: volume.staging.clone(),
            capability: capability.clone(),
            secrets: Secrets::new(secrets),
            context: volume.context.clone(),
            publish_context: BTreeMap::from([("device".into(), "/dev/mock".into())]),
        };
        self.runtime.block_on(self.node.stage(request, deadline(seconds)))
    }

    pub fn unstage(&self, volume: &Volume) -> Result<()> {
        self.unstage_within(volume, 110)
    }

    pub fn unstage_within(&self, volume: &Volume, seconds: u64) -> Result<()> {
        let request = UnstageRequest { volume_id: volume.id.clone(), staging_path: volume.staging.clone() };
        self.runtime.block_on(self.node.unstage(request, deadline(seconds)))
    }

    pub fn publish(
        &self,
        volume: &Volume,
        target: &Path,
        capability: &Capability,
        read_only: bool,
    ) -> Result<()> {
        self.publish_to(volume, target, capability, read_only, "")
    }

    /// As for a volume that ceph-csi has attached for these service accounts.
    pub fn publish_to(
        &self,
        volume: &Volume,
        target: &Path,
        capability: &Capability,
        read_only: bool,
        service_accounts: &str,
    ) -> Result<()> {
        let request = PublishRequest {
            volume_id: volume.id.clone(),
            staging_path: Some(volume.staging.clone()),
            target_path: target.to_owned(),
            capability: capability.clone(),
            read_only,
            context: volume.context.clone(),
            service_accounts: service_accounts.to_owned(),
        };
        self.runtime.block_on(self.node.publish(request, deadline(30)))
    }

    pub fn unpublish(&self, volume: &Volume, target: &Path) -> Result<()> {
        let request = UnpublishRequest { volume_id: volume.id.clone(), target_path: target.to_owned() };
        self.runtime.block_on(self.node.unpublish(request, deadline(30)))
    }

    /// `range` is what is required and the limit.
    pub fn expand(
        &self,
        volume: &Volume,
        path: &Path,
        with_staging: bool,
        range: (u64, u64),
        capability: Option<&Capability>,
    ) -> Result<u64> {
        let request = ExpandOnNodeRequest {
            volume_id: volume.id.clone(),
            path: path.to_owned(),
            staging_path: with_staging.then(|| volume.staging.clone()),
            range: CapacityRange { required: range.0, limit: range.1 },
            capability: capability.cloned(),
        };
        self.runtime.block_on(self.node.expand(request, deadline(60)))
    }

    pub fn expand_within(&self, volume: &Volume, path: &Path, seconds: u64, required: u64) -> Result<u64> {
        let request = ExpandOnNodeRequest {
            volume_id: volume.id.clone(),
            path: path.to_owned(),
            staging_path: None,
            range: CapacityRange { required, limit: 0 },
            capability: None,
        };
        self.runtime.block_on(self.node.expand(request, deadline(seconds)))
    }

    /// Makes the image larger as librbd does, but without telling those who watch it.
    pub fn set_size_silently(&self, volume: &Volume, bytes: u64) {
        self.runtime.block_on(async {
            let id = self.pool().image_id(&volume.image).await.unwrap().unwrap();
            let write = WriteOp::new().omap_set([("size", bytes.to_le_bytes())]);
            self.pool().write("test", &id.header_object(), write).await.unwrap();
        });
    }

    /// Sets a key of the image's metadata.
    pub fn set_metadata(&self, volume: &Volume, key: &str, value: &str) {
        self.runtime.block_on(async {
            let id = self.pool().image_id(&volume.image).await.unwrap().unwrap();
            self.pool().set_metadata(&id, &[(key.to_owned(), value.to_owned())]).await.unwrap();
        });
    }

    pub fn stats(&self, volume: &Volume, path: &Path) -> Result<Health> {
        let request =
            StatsRequest { volume_id: volume.id.clone(), path: path.to_owned(), staging_path: None };
        self.runtime.block_on(self.node.stats(request, deadline(10)))
    }
}

/// A process that ends while librados has threads of its own may crash there.
impl Drop for Driver {
    fn drop(&mut self) {
        self.pool = None;
        self.runtime.block_on(self.resolver.connections.close(Duration::from_secs(10)));
    }
}

fn deadline(seconds: u64) -> Deadline {
    Deadline::after(Duration::from_secs(seconds))
}

fn new_node(resolver: &Resolver, map_with: MapWith) -> Node {
    let options = NodeOptions { node_id: "node1".into(), map_with, scratch: std::env::temp_dir() };
    Node::new(options, resolver.clone(), Operations::default())
}

pub fn mount(fs_type: &str, flags: &[&str], mode: AccessMode) -> Capability {
    let flags = flags.iter().map(|flag| (*flag).to_owned()).collect();
    Capability { access: Access::Mount { fs_type: fs_type.into(), flags, group: String::new() }, mode }
}

/// A file system as Kubernetes' ReadWriteOnce asks for it.
pub fn file_system(fs_type: &str) -> Capability {
    mount(fs_type, &[], AccessMode::SingleNodeMultiWriter)
}

pub fn block(mode: AccessMode) -> Capability {
    Capability { access: Access::Block, mode }
}
