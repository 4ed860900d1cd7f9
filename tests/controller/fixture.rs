//! What ceph-csi 3.17.0 left in a pool, rebuilt there: found, and deleted or refused.

use std::collections::BTreeMap;

use rbd_csi::csi::proto;
use serde_json::Value;
use tonic::Code;

use crate::support::bench::Bench;
use crate::support::driver::{self, Driver};
use crate::support::fixture::{PLAIN, Recorded};

/// The other volumes and the snapshot, in an order in which each has something that depends on
/// it: the source, its snapshot, the snapshot's restore, the source's clone with its image beside.
const CHAINED: [&str; 4] = ["6661b721", "884eed67", "7029532b", "a15cbf66"];
/// The one of them that is a snapshot.
const SNAPSHOT: &str = "884eed67";

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

fn delete(bench: &Bench, driver: &Driver, part: &str, handle: &str) {
    let answer =
        if part == SNAPSHOT { bench.delete_snapshot(driver, handle) } else { bench.delete(driver, handle) };
    answer.unwrap_or_else(|error| panic!("{part}: {error}"));
}

#[test]
fn volumes_of_ceph_csi_are_found_and_nothing_is_changed() {
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
    for part in CHAINED.into_iter().filter(|part| *part != SNAPSHOT) {
        let (handle, about) = site.handle(part);
        validate(&bench, &driver, &handle, about).unwrap_or_else(|error| panic!("{part}: {error}"));
    }
    // A handle of the one kind is none of the other.
    let (snapshot, _) = site.handle(SNAPSHOT);
    let status = bench.delete(&driver, &snapshot).unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition, "{status}");
    assert!(status.message().contains("DeleteSnapshot"), "{status}");
    let (volume, _) = site.handle(PLAIN[0]);
    let status = bench.delete_snapshot(&driver, &volume).unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition, "{status}");
    assert_eq!(site.everything(), before, "nothing of all that changed anything");
    for part in CHAINED.into_iter().chain(PLAIN) {
        delete(&bench, &driver, part, &site.handle(part).0);
    }
    bench.wait_until_empty("of ceph-csi's volumes");
}

#[test]
fn what_ceph_csi_made_is_deleted_to_the_last_object_in_any_order() {
    let bench = Bench::new();
    let driver = bench.start();
    let mut order: Vec<&str> = CHAINED.into_iter().chain(PLAIN).collect();
    for turn in 0..4 {
        let site = Site::rebuild(&bench);
        for part in &order {
            delete(&bench, &driver, part, &site.handle(part).0);
            // Again is fine, whether it waits for others or not.
            delete(&bench, &driver, part, &site.handle(part).0);
        }
        bench.wait_until_empty(&format!("turn {turn}: {order:?}"));
        let data = bench.cluster().rados(&["-p", "data", "ls"]);
        let data: Vec<_> = data.lines().filter(|name| name.starts_with("rbd_data")).collect();
        assert_eq!(data, Vec::<&str>::new(), "turn {turn}: data of a volume with a data pool");
        if turn % 2 == 0 {
            order.reverse();
        } else {
            order.rotate_left(3);
        }
    }
}
