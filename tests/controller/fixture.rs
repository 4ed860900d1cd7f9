//! What ceph-csi 3.17.0 left in a pool, rebuilt there: found, used as if it were ours, and deleted.

use std::collections::BTreeMap;

use rbd_csi::csi::proto;
use serde_json::Value;
use tonic::Code;

use crate::expand::grow;
use crate::support::bench::{Bench, GIB, SOON};
use crate::support::driver::{self, Driver};
use crate::support::fixture::{PLAIN, Recorded};
use crate::support::random::{self, Random};
use crate::support::snapshots::{Of, image_of};
use crate::support::whole::Whole;

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

/// What `rbd` calls an image of a handle that was recorded.
fn spec(site: &Site<'_>, handle: &str) -> String {
    let uuid = &handle[handle.len() - 36..];
    let image = site.recorded.images().keys().find(|name| name.ends_with(uuid)).unwrap();
    format!("rbd/{image}")
}

/// Each call that made a volume or the snapshot, sent again, is answered with what stands.
fn repeated(site: &Site<'_>, driver: &Driver) {
    let bench = site.bench;
    let [source, snapshot, restored, cloned] = CHAINED.map(|part| site.handle(part).0);
    for part in PLAIN.into_iter().chain(CHAINED).filter(|part| *part != SNAPSHOT) {
        let (handle, about) = site.handle(part);
        let mut request = site.request(&handle, about);
        request.volume_content_source = match &handle {
            handle if *handle == restored => Some(Of::Snapshot(&snapshot).content()),
            handle if *handle == cloned => Some(Of::Volume(&source).content()),
            _ => None,
        };
        let content = request.volume_content_source.clone();
        let answer = bench.send(driver, request).unwrap_or_else(|error| panic!("{part}: {error}"));
        assert_eq!((&answer.volume_id, &answer.content_source), (&handle, &content), "{part}");
    }
    let (handle, about) = site.handle(SNAPSHOT);
    let entry = bench.keys(&format!("csi.snap.{}", &handle[handle.len() - 36..]));
    let answer = bench.snapshot(driver, &entry["csi.snapname"], &source).unwrap();
    assert_eq!((&answer.snapshot_id, &answer.source_volume_id), (&handle, &source));
    assert_eq!((answer.size_bytes, answer.ready_to_use), (about["size"].as_i64().unwrap(), true));
    assert_eq!(bench.snapshot(driver, &entry["csi.snapname"], &source).unwrap(), answer);
}

/// Makes a snapshot, a restore and a clone of each volume, two restores of the recorded
/// snapshot, and grows each volume; what was made of them.
fn used(site: &Site<'_>, driver: &Driver) -> Vec<(String, bool)> {
    let bench = site.bench;
    let restore = |name: &str, of: Of<'_>| {
        let made = bench.create_of(driver, name, of).unwrap_or_else(|error| panic!("{name}: {error}"));
        (made.volume_id, false)
    };
    let kept = site.handle(SNAPSHOT).0;
    let mut made =
        vec![restore("pvc-of-kept-1", Of::Snapshot(&kept)), restore("pvc-of-kept-2", Of::Snapshot(&kept))];
    for part in PLAIN.into_iter().chain(CHAINED).filter(|part| *part != SNAPSHOT) {
        let (handle, _) = site.handle(part);
        let image = spec(site, &handle);
        // Those have data.
        let bytes = |image: &str| PLAIN.contains(&part).then(|| bench.checksum(image));
        let before = bytes(&image);
        let snapshot = bench.snapshot(driver, &format!("snapshot-of-{part}"), &handle).unwrap();
        let size = i64::try_from(bench.info(&image)["size"].as_u64().unwrap()).unwrap();
        assert_eq!(snapshot.size_bytes, size, "{part}");
        let mut request =
            bench.request_of(&format!("pvc-of-{part}"), Of::Snapshot(&snapshot.snapshot_id), &[]);
        request.capacity_range = None;
        let restored = bench.send(driver, request.clone()).unwrap();
        request.name = format!("pvc-clone-{part}");
        request.volume_content_source = Some(Of::Volume(&handle).content());
        let cloned = bench.send(driver, request).unwrap();
        for volume in [&restored, &cloned] {
            assert_eq!(volume.capacity_bytes, size, "{part}");
            assert_eq!(bytes(&format!("rbd/{}", image_of(&volume.volume_id))), before, "{part}");
        }
        assert_eq!(grow(bench, driver, &handle, size + GIB).unwrap(), (size + GIB, true), "{part}");
        assert_eq!(bench.info(&image)["size"], size + GIB, "{part}");
        assert_eq!(bytes(&image), before, "{part}");
        made.extend([(snapshot.snapshot_id, true), (restored.volume_id, false), (cloned.volume_id, false)]);
    }
    made
}

#[test]
fn what_ceph_csi_made_is_used_and_deleted_to_the_last_object_in_any_order() {
    let bench = Bench::new();
    let driver = bench.start();
    let mut random = Random::new(random::seed("the orders of deletion"));
    let mut before = None;
    for turn in 0..if random::full() { 8 } else { 1 } {
        let site = Site::rebuild(&bench);
        let data = bench.pool("data");
        let pools = [&bench.rados, &data];
        for part in PLAIN {
            let image = spec(&site, &site.handle(part).0);
            bench.cluster().rbd(&[
                "bench",
                "--io-type",
                "write",
                "--io-size",
                "1M",
                "--io-total",
                "4M",
                &image,
            ]);
        }
        let everything = site.everything();
        repeated(&site, &driver);
        assert_eq!(site.everything(), everything, "a repeat changes nothing");
        let recorded = CHAINED.into_iter().chain(PLAIN).map(|part| (site.handle(part).0, part == SNAPSHOT));
        let mut all: Vec<_> = recorded.collect();
        // The first turn deletes what ceph-csi has left and nothing else.
        if turn > 0 {
            all.extend(used(&site, &driver));
        }
        let order = random.shuffled(all);
        for (handle, is_snapshot) in &order {
            // Again is fine, whether it waits for others or not.
            for _ in 0..2 {
                let answer = match is_snapshot {
                    true => bench.delete_snapshot(&driver, handle),
                    false => bench.delete(&driver, handle),
                };
                answer.unwrap_or_else(|error| panic!("turn {turn}, {handle}: {error}"));
            }
        }
        let at = format!("turn {turn}: {order:?}");
        let Some(before) = &before else {
            // What a pool keeps for ever comes with the first turn.
            bench.wait_until_empty(&at);
            let data_objects = bench.cluster().rados(&["-p", "data", "ls"]);
            assert!(!data_objects.contains("rbd_data"), "{at}: {data_objects}");
            before = Some(Whole::of(&bench, &pools));
            continue;
        };
        before.wait_until_again(&bench, &pools, SOON * 2, &at);
    }
}
