//! What ceph-csi 3.17.0 left in a pool (`tests/fixtures/ceph-csi-journal.json`, recorded):
//! rebuilt here, found, and deleted or refused.
//!
//! What a reader gets wrong: images cannot be made with a given id, so the recorded image
//! ids and pool ids are replaced by those of the rebuilt ones; all else is as recorded.

use std::collections::{BTreeMap, BTreeSet};

use rbd_csi::csi::proto;
use serde_json::Value;
use tonic::Code;

use crate::support::bench::Bench;
use crate::support::driver::{self, Driver};

const PLAIN: [&str; 4] = ["164658ce", "6150e5e0", "7035ea5b", "dbb59c73"];
/// The others, and what the refusal of their deletion names.
const OTHERS: [(&str, &[&str]); 4] = [
    (
        "6661b721",
        &[
            "csi-snap-884eed67-aa77-4dd6-b074-f265fb4a3aef",
            "csi-vol-a15cbf66-c4cd-4b29-a6e2-ad1acd9887fd-temp",
        ],
    ),
    ("7029532b", &["clone"]),
    ("a15cbf66", &["clone"]),
    ("884eed67", &["snapshot"]),
];

struct Site<'a> {
    bench: &'a Bench,
    recorded: Value,
}

impl<'a> Site<'a> {
    fn rebuild(bench: &'a Bench) -> Self {
        let text = include_str!("../fixtures/ceph-csi-journal.json");
        let this = Self { bench, recorded: serde_json::from_str(text).unwrap() };
        if !bench.cluster().ceph(&["osd", "pool", "ls"]).lines().any(|pool| pool == "data") {
            bench.cluster().ceph(&["osd", "pool", "create", "data", "8"]);
            bench.cluster().rbd(&["pool", "init", "data"]);
        }
        let mut made = BTreeSet::new();
        for name in this.images().keys() {
            this.image(name, &mut made);
        }
        for (object, keys) in this.recorded["pools"]["rbd"]["journal"].as_object().unwrap() {
            let keys: BTreeMap<_, _> = keys
                .as_object()
                .unwrap()
                .iter()
                .map(|(key, value)| (key.as_str(), this.current(key, value, keys)))
                .collect();
            let keys: Vec<_> = keys.iter().map(|(key, value)| (*key, value.as_str())).collect();
            bench.set_keys(object, &keys);
        }
        this
    }

    fn images(&self) -> &serde_json::Map<String, Value> {
        self.recorded["pools"]["rbd"]["images"].as_object().unwrap()
    }

    /// A key's value, with the rebuilt image's id for the recorded one.
    fn current(&self, key: &str, value: &Value, keys: &Value) -> String {
        if key != "csi.imageid" {
            return value.as_str().unwrap().to_owned();
        }
        let name = keys["csi.imagename"].as_str().unwrap();
        self.bench.wait(self.bench.rados.image_id(name)).unwrap().unwrap().as_str().to_owned()
    }

    /// Makes an image as recorded, its parent first.
    fn image(&self, name: &str, made: &mut BTreeSet<String>) {
        if !made.insert(name.to_owned()) {
            return;
        }
        let rbd = |args: &[&str]| self.bench.cluster().rbd(args);
        let image = &self.images()[name];
        let info = &image["info"];
        match info["parent"]["image"].as_str() {
            None => {
                let mut args = options(info);
                args.extend([
                    "create".into(),
                    name.to_owned(),
                    "--size".into(),
                    format!("{}B", info["size"]),
                ]);
                rbd(&args.iter().map(String::as_str).collect::<Vec<_>>());
            }
            Some(parent) => {
                self.image(parent, made);
                let recorded = info["parent"]["snapshot"].as_str().unwrap();
                let (snapshot, trashed) = self.snapshot(parent, recorded);
                let from = format!("{parent}@{snapshot}");
                if trashed || !rbd(&["snap", "ls", parent]).contains(&snapshot) {
                    rbd(&["snap", "create", "--no-progress", &from]);
                }
                rbd(&["clone", "--rbd-default-clone-format", "2", &from, name]);
                if trashed {
                    rbd(&["snap", "rm", "--no-progress", &from]);
                }
            }
        }
        for (key, value) in image["metadata"].as_object().into_iter().flatten() {
            rbd(&["image-meta", "set", name, key, value.as_str().unwrap()]);
        }
    }

    /// The name under which a recorded snapshot was made, and whether it was removed since.
    fn snapshot(&self, image: &str, name: &str) -> (String, bool) {
        let all = self.images()[image]["snapshots"].as_array().unwrap();
        let found = all.iter().find(|snapshot| snapshot["name"] == name).unwrap();
        match found["namespace"]["original_name"].as_str() {
            Some(original) => (original.to_owned(), true),
            None => (name.to_owned(), false),
        }
    }

    /// The handle of now for a recorded one that has this part, and what was recorded of it.
    fn handle(&self, part: &str) -> (String, &Value) {
        let handles = self.recorded["handles"].as_object().unwrap();
        let (handle, about) = handles.iter().find(|(handle, _)| handle.contains(part)).unwrap();
        (self.bench.handle(&handle[handle.len() - 36..]), about)
    }

    /// The CreateVolume that made it.
    fn request(&self, handle: &str, about: &Value) -> proto::CreateVolumeRequest {
        let uuid = &handle[handle.len() - 36..];
        let entry = self.bench.keys(&format!("csi.volume.{uuid}"));
        let image = entry["csi.imagename"].as_str();
        let mut request =
            driver::create(&self.bench.site, &entry["csi.volname"], about["capacity"].as_i64().unwrap());
        let metadata = self.images()[image]["metadata"].as_object().unwrap();
        let context = about["context"].as_object().unwrap();
        let given = metadata.iter().filter(|(key, _)| key.starts_with("csi.storage.k8s.io/")).chain(context);
        let answers = ["imageName", "journalPool"];
        request.parameters = given
            .filter(|(key, _)| !answers.contains(&key.as_str()))
            .map(|(key, value)| (key.clone(), value.as_str().unwrap().to_owned()))
            .collect();
        request
    }

    /// Every key of every object.
    fn everything(&self) -> BTreeMap<String, BTreeMap<String, String>> {
        let objects = self.bench.cluster().rados(&["-p", "rbd", "ls"]);
        objects.lines().map(|object| (object.to_owned(), self.bench.keys(object))).collect()
    }
}

/// What makes `rbd create` make an image as recorded.
fn options(info: &Value) -> Vec<String> {
    let automatic = ["striping", "data-pool", "operations"];
    let features = info["features"].as_array().unwrap().iter().map(|feature| feature.as_str().unwrap());
    let mut options: Vec<String> = features
        .filter(|feature| !automatic.contains(feature))
        .flat_map(|feature| ["--image-feature".to_owned(), feature.to_owned()])
        .collect();
    let named = [
        ("object_size", "--object-size"),
        ("stripe_unit", "--stripe-unit"),
        ("stripe_count", "--stripe-count"),
    ];
    for (field, option) in named {
        if !info[field].is_null() {
            options.extend([option.to_owned(), info[field].to_string()]);
        }
    }
    if let Some(pool) = info["data_pool"].as_str() {
        options.extend(["--data-pool".to_owned(), pool.to_owned()]);
    }
    options
}

fn validate(bench: &Bench, driver: &Driver, handle: &str, about: &Value) -> Result<(), tonic::Status> {
    let context = about["context"].as_object().unwrap().iter();
    let request = proto::ValidateVolumeCapabilitiesRequest {
        volume_id: handle.to_owned(),
        volume_capabilities: vec![driver::mount()],
        volume_context: context
            .map(|(key, value)| (key.clone(), value.as_str().unwrap().to_owned()))
            .collect(),
        secrets: bench.site.secrets.clone(),
        ..Default::default()
    };
    bench.wait(async {
        let answer = driver.client().await.validate_volume_capabilities(request).await?;
        assert!(answer.get_ref().confirmed.is_some(), "{handle}: {answer:?}");
        Ok(())
    })
}

#[test]
fn plain_volumes_of_ceph_csi_are_found_and_deleted_and_the_others_left_as_they_are() {
    let bench = Bench::new();
    let site = Site::rebuild(&bench);
    let driver = bench.start();
    let before = site.everything();
    for part in PLAIN {
        let (handle, about) = site.handle(part);
        let volume = bench
            .send(&driver, site.request(&handle, about))
            .unwrap_or_else(|error| panic!("{part}: {error}"));
        assert_eq!(volume.volume_id, handle);
        let context: BTreeMap<_, _> = about["context"]
            .as_object()
            .unwrap()
            .iter()
            .map(|(key, value)| (key.as_str(), value.as_str().unwrap()))
            .collect();
        let answered: BTreeMap<_, _> =
            volume.volume_context.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
        assert_eq!(answered, context, "{part}");
        validate(&bench, &driver, &handle, about).unwrap();
    }
    for (part, words) in OTHERS {
        let (handle, about) = site.handle(part);
        if about["context"].is_object() {
            validate(&bench, &driver, &handle, about).unwrap_or_else(|error| panic!("{part}: {error}"));
        }
        let status = bench.delete(&driver, &handle).unwrap_err();
        assert_eq!(status.code(), Code::FailedPrecondition, "{part}: {status}");
        for word in words {
            assert!(status.message().contains(word), "{part}: {word}: {status}");
        }
    }
    assert_eq!(site.everything(), before, "nothing of all that changed anything");

    for part in PLAIN {
        let (handle, _) = site.handle(part);
        bench.delete(&driver, &handle).unwrap_or_else(|error| panic!("{part}: {error}"));
    }
    let until = std::time::Instant::now() + crate::support::bench::SOON;
    let of_plain = |text: &str| PLAIN.iter().any(|part| text.contains(part));
    while bench.contents().iter().any(|object| of_plain(object)) || !bench.keys("rbd_trash").is_empty() {
        assert!(std::time::Instant::now() < until, "left: {:?}", bench.contents());
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    // To the last object: what is left belongs to the volumes that were refused.
    let after = site.everything();
    let ids: Vec<_> = before["rbd_directory"]
        .iter()
        .filter(|(key, value)| key.starts_with("id_") && of_plain(value))
        .map(|(key, _)| key.trim_start_matches("id_").to_owned())
        .collect();
    assert_eq!(ids.len(), PLAIN.len());
    assert!(
        !after.keys().any(|object| of_plain(object) || ids.iter().any(|id| object.ends_with(id.as_str())))
    );
    for (object, keys) in &after {
        let registers = ["rbd_directory", "csi.volumes.default", "rbd_trash"];
        if !registers.contains(&object.as_str()) {
            assert_eq!(Some(keys), before.get(object), "{object}");
        }
    }
}
