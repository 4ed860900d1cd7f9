//! Snapshots, restored volumes and clones, asked for as a CO does.

use std::io::Read as _;

use rbd_csi::csi::proto;
use rbd_csi::csi::proto::volume_content_source::{SnapshotSource, Type, VolumeSource};
use tonic::Status;

use super::bench::Bench;
use super::driver::{self, Driver, Site};

/// What a volume is made of: a snapshot's handle, or a volume's.
#[derive(Clone, Copy)]
pub enum Of<'a> {
    Snapshot(&'a str),
    Volume(&'a str),
}

impl Of<'_> {
    /// As protobuf has it.
    pub fn content(self) -> proto::VolumeContentSource {
        let r#type = match self {
            Self::Snapshot(id) => Type::Snapshot(SnapshotSource { snapshot_id: id.to_owned() }),
            Self::Volume(id) => Type::Volume(VolumeSource { volume_id: id.to_owned() }),
        };
        proto::VolumeContentSource { r#type: Some(r#type) }
    }
}

/// What a CreateSnapshot asks, as csi-snapshotter does.
pub fn request(site: &Site, name: &str, volume: &str) -> proto::CreateSnapshotRequest {
    let parameter = |key: &str, value: &str| (key.to_owned(), value.to_owned());
    proto::CreateSnapshotRequest {
        source_volume_id: volume.to_owned(),
        name: name.to_owned(),
        secrets: site.secrets.clone(),
        parameters: [
            parameter("clusterID", driver::CLUSTER_ID),
            parameter("csi.storage.k8s.io/volumesnapshot/name", &format!("snap-of-{name}")),
            parameter("csi.storage.k8s.io/volumesnapshot/namespace", "shop"),
            parameter("csi.storage.k8s.io/volumesnapshotcontent/name", &format!("content-of-{name}")),
        ]
        .into(),
        ..Default::default()
    }
}

/// DeleteSnapshot.
pub fn delete(site: &Site, id: &str) -> proto::DeleteSnapshotRequest {
    proto::DeleteSnapshotRequest { snapshot_id: id.to_owned(), secrets: site.secrets.clone() }
}

impl Bench {
    /// What a CreateSnapshot asks.
    pub fn snapshot_request(&self, name: &str, volume: &str) -> proto::CreateSnapshotRequest {
        request(&self.site, name, volume)
    }

    /// CreateSnapshot.
    pub fn snapshot(&self, driver: &Driver, name: &str, volume: &str) -> Result<proto::Snapshot, Status> {
        let request = self.snapshot_request(name, volume);
        let answer = self.wait(async { driver.client().await.create_snapshot(request).await });
        answer.map(|answer| answer.into_inner().snapshot.unwrap())
    }

    /// DeleteSnapshot.
    pub fn delete_snapshot(&self, driver: &Driver, id: &str) -> Result<(), Status> {
        let request = delete(&self.site, id);
        self.wait(async { driver.client().await.delete_snapshot(request).await }).map(drop)
    }

    /// CreateVolume of a content source, 1 GiB.
    pub fn create_of(&self, driver: &Driver, name: &str, of: Of<'_>) -> Result<proto::Volume, Status> {
        self.send(driver, self.request_of(name, of, &[]))
    }

    /// What it asks, with further parameters.
    pub fn request_of(
        &self,
        name: &str,
        of: Of<'_>,
        parameters: &[(&str, &str)],
    ) -> proto::CreateVolumeRequest {
        let mut request = self.request(name, parameters);
        request.volume_content_source = Some(of.content());
        request
    }

    /// Writes into a volume's image; gives the image's name.
    pub fn fill(&self, id: &str, mib: u32) -> String {
        let image = image_of(id);
        let total = format!("{mib}M");
        let spec = format!("rbd/{image}");
        self.cluster().rbd(&["bench", "--io-type", "write", "--io-size", "1M", "--io-total", &total, &spec]);
        image
    }

    /// The checksum of an image's first 64 MiB.
    pub fn checksum(&self, spec: &str) -> String {
        let exported = self.site.path("exported");
        let file = exported.to_str().unwrap();
        self.cluster().rbd(&["export", "--no-progress", "--rbd-concurrent-management-ops", "20", spec, file]);
        let mut data = Vec::new();
        std::fs::File::open(&exported).unwrap().take(64 << 20).read_to_end(&mut data).unwrap();
        std::fs::remove_file(&exported).unwrap();
        let mut hash = std::hash::DefaultHasher::new();
        std::hash::Hash::hash(&data, &mut hash);
        format!("{:016x} of {} bytes", std::hash::Hasher::finish(&hash), data.len())
    }

    /// What `rbd info` says of an image.
    pub fn info(&self, spec: &str) -> serde_json::Value {
        serde_json::from_str(&self.cluster().rbd(&["info", "--format", "json", spec])).unwrap()
    }

    /// All snapshots of an image, those in its trash too.
    pub fn snapshots(&self, spec: &str) -> Vec<serde_json::Value> {
        serde_json::from_str(&self.cluster().rbd(&["snap", "ls", "--all", "--format", "json", spec])).unwrap()
    }

    /// The metadata of an image.
    pub fn metadata(&self, spec: &str) -> std::collections::BTreeMap<String, String> {
        let text = self.cluster().rbd(&["image-meta", "list", "--format", "json", spec]);
        if text.trim().is_empty() { Default::default() } else { serde_json::from_str(&text).unwrap() }
    }
}

/// The image of a volume with ceph-csi's default prefix.
pub fn image_of(volume: &str) -> String {
    format!("csi-vol-{}", &volume[volume.len() - 36..])
}

/// The image of a snapshot with ceph-csi's default prefix.
pub fn image_of_snapshot(snapshot: &str) -> String {
    format!("csi-snap-{}", &snapshot[snapshot.len() - 36..])
}
