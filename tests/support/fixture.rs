//! What ceph-csi 3.17.0 left in a pool (`tests/fixtures/ceph-csi-journal.json`, recorded),
//! rebuilt in a lab's cluster.
//!
//! What a reader gets wrong: images cannot be made with a given id, so the recorded image
//! ids and pool ids are replaced by those of the rebuilt ones; all else is as recorded.

use std::collections::BTreeSet;

use serde_json::Value;

use super::lab::Cluster;

/// The beginnings of the uuids of the volumes on which nothing depends.
pub const PLAIN: [&str; 4] = ["164658ce", "6150e5e0", "7035ea5b", "dbb59c73"];

/// What was recorded.
pub struct Recorded(Value);

impl Recorded {
    pub fn read() -> Self {
        Self(serde_json::from_str(include_str!("../fixtures/ceph-csi-journal.json")).unwrap())
    }

    pub fn images(&self) -> &serde_json::Map<String, Value> {
        self.0["pools"]["rbd"]["images"].as_object().unwrap()
    }

    /// The recorded handle that has this part, and what was recorded of it.
    pub fn handle(&self, part: &str) -> (&str, &Value) {
        let handles = self.0["handles"].as_object().unwrap();
        let (handle, about) = handles.iter().find(|(handle, _)| handle.contains(part)).unwrap();
        (handle, about)
    }

    /// Makes those images and entries of the journal whose name or uuid is wanted.
    pub fn rebuild(&self, cluster: &Cluster, wanted: impl Fn(&str) -> bool) {
        if !cluster.ceph(&["osd", "pool", "ls"]).lines().any(|pool| pool == "data") {
            super::pool::make(cluster, "data");
        }
        let mut made = BTreeSet::new();
        for name in self.images().keys().filter(|name| wanted(name)) {
            self.image(cluster, name, &mut made);
        }
        for (object, keys) in self.0["pools"]["rbd"]["journal"].as_object().unwrap() {
            for (key, value) in keys.as_object().unwrap() {
                // A directory's keys tell the uuid by their value.
                if wanted(object) || wanted(value.as_str().unwrap()) {
                    let value = current(cluster, key, value, keys);
                    cluster.rados(&["-p", "rbd", "setomapval", object, key, &value]);
                }
            }
        }
    }

    /// Makes an image as recorded, its parent first.
    fn image(&self, cluster: &Cluster, name: &str, made: &mut BTreeSet<String>) {
        if !made.insert(name.to_owned()) {
            return;
        }
        let rbd = |args: &[&str]| cluster.rbd(args);
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
                self.image(cluster, parent, made);
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
}

/// A key's value, with the rebuilt image's id for the recorded one.
fn current(cluster: &Cluster, key: &str, value: &Value, keys: &Value) -> String {
    if key != "csi.imageid" {
        return value.as_str().unwrap().to_owned();
    }
    image_id(cluster, keys["csi.imagename"].as_str().unwrap())
}

/// The id of an image in the pool `rbd`.
pub fn image_id(cluster: &Cluster, name: &str) -> String {
    let info: Value = serde_json::from_str(&cluster.rbd(&["info", "--format", "json", name])).unwrap();
    info["id"].as_str().unwrap().to_owned()
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
