//! What ceph-csi 3.17.0 left in a pool, rebuilt there: found, and deleted or refused.

use std::collections::BTreeMap;

use rbd_csi::csi::proto;
use serde_json::Value;
use tonic::Code;

use crate::support::bench::Bench;
use crate::support::driver::{self, Driver};
use crate::support::fixture::{PLAIN, Recorded};

/// The other volumes, and what the refusal of their deletion names.
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
    recorded: Recorded,
}

impl<'a> Site<'a> {
    fn rebuild(bench: &'a Bench) -> Self {
        let this = Self { bench, recorded: Recorded::read() };
        this.recorded.rebuild(bench.cluster(), |_| true);
        this
    }

    /// The handle of now for a recorded one that has this part, and what was recorded of it.
    fn handle(&self, part: &str) -> (String, &Value) {
        let (handle, about) = self.recorded.handle(part);
        (self.bench.handle(&handle[handle.len() - 36..]), about)
    }

    /// The CreateVolume that made it.
    fn request(&self, handle: &str, about: &Value) -> proto::CreateVolumeRequest {
        let uuid = &handle[handle.len() - 36..];
        let entry = self.bench.keys(&format!("csi.volume.{uuid}"));
        let image = entry["csi.imagename"].as_str();
        let mut request =
            driver::create(&self.bench.site, &entry["csi.volname"], about["capacity"].as_i64().unwrap());
        let metadata = self.recorded.images()[image]["metadata"].as_object().unwrap();
        let context = about["context"].as_object().unwrap();
        let given = metadata.iter().filter(|(key, _)| key.starts_with("csi.storage.k8s.io/")).chain(context);
        let answers = ["imageName", "journalPool"];
        request.parameters = given
            .filter(|(key, _)| !answers.contains(&key.as_str()))
            .map(|(key, value)| (key.clone(), value.as_str().unwrap().to_owned()))
            .collect();
        request
    }

    /// Every key of every object, but for an empty trash: a driver prepares it when it first
    /// uses a pool.
    fn everything(&self) -> BTreeMap<String, BTreeMap<String, String>> {
        let objects = self.bench.cluster().rados(&["-p", "rbd", "ls"]);
        let all = objects.lines().map(|object| (object.to_owned(), self.bench.keys(object)));
        all.filter(|(object, keys)| object != "rbd_trash" || !keys.is_empty()).collect()
    }
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
