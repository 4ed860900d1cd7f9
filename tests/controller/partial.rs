//! Every state that librbd's create, trash move and remove pass through, built by hand
//! under a volume of the journal; CreateVolume and DeleteVolume go on from each.
//!
//! What a reader gets wrong: a state is what is *left*: D directory entry, I `rbd_id`,
//! H header (e: without keys, s: without its stripes), M object map, T trash entry
//! (m moving, n normal, r removing). States that nothing names any more (H or M alone) are
//! missing: librbd removes the names last, and nobody could find such pieces.

use std::ffi::CStr;
use std::time::Duration;

use rbd_csi::ceph::{Features, ImageId, ImageSpec, WriteOp};

use crate::support::bench::Bench;
use crate::support::driver::Driver;

const WHAT: &str = "prepare";
const NAME: &str = "pvc-partial";
const STRIPES: [(&str, &str); 2] = [("stripeUnit", "65536"), ("stripeCount", "4")];

const CREATES: [&str; 11] = ["", "D", "DI", "DIH", "DIHs", "DIHM", "DIM", "I", "IHM", "DHM", "DIHeM"];
const TRASHES: [&str; 13] =
    ["DIHMTm", "DHMTm", "IHMTm", "HMTm", "HTm", "HMTn", "DHMTn", "DIHMTn", "HMTr", "MTr", "Tr", "DHMTr", ""];

fn text(value: &str) -> Vec<u8> {
    [&u32::try_from(value.len()).unwrap().to_le_bytes(), value.as_bytes()].concat()
}

struct Pieces<'a>(&'a Bench);

impl Pieces<'_> {
    fn write(&self, object: &str, op: WriteOp) {
        self.0.wait(self.0.rados.write(WHAT, object, op)).unwrap_or_else(|error| panic!("{object}: {error}"));
    }

    fn exec(&self, object: &str, method: &'static CStr, input: Vec<u8>) {
        self.write(object, WriteOp::new().exec(c"rbd", method, input));
    }

    /// A whole image, as the driver would make it.
    fn image(&self, name: &str) -> ImageId {
        let bench = self.0;
        let spec = ImageSpec {
            size: 1 << 30,
            features: Some(Features(61)),
            stripe: Some((65536, 4)),
            ..ImageSpec::default()
        };
        bench.wait(bench.rados.create_image(name, &spec)).unwrap();
        bench.wait(bench.rados.image_id(name)).unwrap().unwrap()
    }

    /// Takes away what the state does not have, and adds its trash entry.
    fn reduce(&self, name: &str, id: &ImageId, state: &str) {
        let (pieces, trash) = state.split_once('T').unwrap_or((state, ""));
        let objects =
            [('I', format!("rbd_id.{name}")), ('H', id.header_object()), ('M', id.object_map_object())];
        for (piece, object) in objects {
            if !pieces.contains(piece) {
                self.write(&object, WriteOp::new().remove());
            }
        }
        if !pieces.contains('D') {
            let input = [text(name), text(id.as_str())].concat();
            self.exec("rbd_directory", c"dir_remove_image", input);
        }
        if pieces.contains('s') {
            self.write(&id.header_object(), WriteOp::new().omap_remove(["stripe_unit", "stripe_count"]));
        }
        if pieces.contains('e') {
            self.write(&id.header_object(), WriteOp::new().remove());
            self.write(&id.header_object(), WriteOp::new().create());
        }
        if !trash.is_empty() {
            let number = u8::try_from("nmr".find(trash).unwrap()).unwrap();
            let fields = [&[0u8][..], &text(name), &[0; 16], &[number]].concat();
            let input = [&text(id.as_str())[..], &[2, 1], &text_length(&fields), &fields].concat();
            self.exec("rbd_trash", c"trash_add", input);
        }
    }
}

fn text_length(fields: &[u8]) -> [u8; 4] {
    u32::try_from(fields.len()).unwrap().to_le_bytes()
}

fn create(bench: &Bench, driver: &Driver) -> Result<String, tonic::Status> {
    bench.send(driver, bench.request(NAME, &STRIPES)).map(|volume| volume.volume_id)
}

/// A reservation whose creator was killed before librbd's create; then that state.
fn unfinished(bench: &Bench, state: &str) -> String {
    bench.site.arm("");
    let mut driver = bench.start();
    bench.site.arm("kill:before:rbd_create4");
    let _ = create(bench, &driver);
    assert!(driver.was_killed(Duration::from_secs(10)), "{state}");
    bench.site.arm("");
    let uuid = bench.reserved(NAME).unwrap();
    if !state.is_empty() {
        let name = format!("csi-vol-{uuid}");
        let id = Pieces(bench).image(&name);
        Pieces(bench).reduce(&name, &id, state);
    }
    uuid
}

#[test]
fn create_goes_on_from_every_state_of_librbds_create() {
    let bench = Bench::new();
    for state in CREATES {
        let uuid = unfinished(&bench, state);
        let driver = bench.start();
        let id = create(&bench, &driver).unwrap_or_else(|error| panic!("state {state}: {error}"));
        assert_eq!(id, bench.handle(&uuid), "state {state}");
        let image = format!("csi-vol-{uuid}");
        assert_eq!(bench.images(), std::slice::from_ref(&image), "state {state}");
        let info = bench.cluster().rbd(&["info", "--format", "json", &image]);
        let info: serde_json::Value = serde_json::from_str(&info).unwrap();
        assert_eq!(info["flags"].as_array().map(Vec::len), Some(0), "state {state}: a valid object map");
        assert_eq!((info["stripe_unit"].as_u64(), info["stripe_count"].as_u64()), (Some(65536), Some(4)));
        bench.delete(&driver, &id).unwrap_or_else(|error| panic!("state {state}: {error}"));
        bench.wait_until_empty(&format!("state {state}"));
    }
}

/// An image of so many objects, none of them there and no map of them: it is counted through.
#[test]
fn a_large_create_that_stopped_before_its_object_map_is_made_anew() {
    let bench = Bench::new();
    let mut large = bench.request("pvc-large", &[]);
    large.capacity_range.as_mut().unwrap().required_bytes = 100 << 30;
    let mut driver = bench.start();
    bench.site.arm("kill:after:rbd_create4");
    bench.send(&driver, large.clone()).unwrap_err();
    assert!(driver.was_killed(crate::support::bench::SOON));
    bench.site.arm("");
    let image = bench.images().remove(0);
    let info: serde_json::Value =
        serde_json::from_str(&bench.cluster().rbd(&["info", "--format", "json", &image])).unwrap();
    let map = format!("rbd_object_map.{}", info["id"].as_str().unwrap());
    bench.wait(bench.rados.remove_if_there(WHAT, &map)).unwrap();
    let driver = bench.start();
    let made = bench.send(&driver, large).unwrap().volume_id;
    bench.cluster().rbd(&["object-map", "check", &image]);
    bench.delete(&driver, &made).unwrap();
    bench.wait_until_empty("at the end");
}

#[test]
fn delete_clears_every_state_of_librbds_create() {
    let bench = Bench::new();
    for state in CREATES {
        let uuid = unfinished(&bench, state);
        let driver = bench.start();
        bench.delete(&driver, &bench.handle(&uuid)).unwrap_or_else(|error| panic!("state {state}: {error}"));
        bench.wait_until_empty(&format!("state {state}"));
    }
}

#[test]
fn pieces_with_data_are_never_cleared_away() {
    let bench = Bench::new();
    let uuid = unfinished(&bench, "");
    let image = format!("csi-vol-{uuid}");
    bench.cluster().rbd(&["create", &image, "--size", "1G", "--image-feature", "layering"]);
    bench.cluster().rbd(&["bench", "--io-type", "write", "--io-total", "8K", "--io-size", "4K", &image]);
    let before = bench.contents();
    let driver = bench.start();
    let status = create(&bench, &driver).unwrap_err();
    assert!(status.message().contains(&image), "{status}");
    let pieces = |contents: Vec<String>| {
        contents.into_iter().filter(|name| !name.contains("csi.")).collect::<Vec<_>>()
    };
    assert_eq!(pieces(bench.contents()), pieces(before), "{status}");
    bench.cluster().rbd(&["rm", "--no-progress", &image]);
    bench.delete(&driver, &bench.handle(&uuid)).unwrap();
    bench.wait_until_empty("after the data");
}

/// A pool that was deleted answers for its objects as an empty one does.
#[test]
fn pieces_whose_data_pool_is_gone_are_left_to_a_person() {
    let bench = Bench::new();
    bench.cluster().ceph(&["osd", "pool", "create", "leaving", "8"]);
    bench.cluster().ceph(&["osd", "pool", "application", "enable", "leaving", "rbd"]);
    let mut driver = bench.start();
    bench.site.arm("kill:after:rbd_create4");
    let parameters = [("dataPool", "leaving"), ("imageFeatures", "layering")];
    let _ = bench.send(&driver, bench.request(NAME, &parameters));
    assert!(driver.was_killed(Duration::from_secs(10)));
    bench.site.arm("");
    let name = format!("csi-vol-{}", bench.reserved(NAME).unwrap());
    let id = bench.wait(bench.rados.image_id(&name)).unwrap().unwrap();
    Pieces(&bench).reduce(&name, &id, "IHM");
    crate::support::pool::remove(bench.cluster(), "leaving");

    let before = bench.contents();
    let driver = bench.start();
    let status = bench.send(&driver, bench.request(NAME, &parameters)).unwrap_err();
    assert_eq!(status.code(), tonic::Code::Unavailable, "{status}");
    for word in ["data pool", "does not exist", &name] {
        assert!(status.message().contains(word), "{word}: {status}");
    }
    assert_eq!(bench.contents(), before);
    // What that person does, who knows that the pool is gone for good.
    bench.wait(bench.rados.remove_partial_image(&name, &id)).unwrap();
    bench.delete(&driver, &bench.handle(&name[name.len() - 36..])).unwrap();
    bench.wait_until_empty("of an image without its data pool");
}

/// A complete volume whose image is in that state.
fn half_deleted(bench: &Bench, driver: &Driver, state: &str) -> String {
    let id = create(bench, driver).unwrap();
    let name = format!("csi-vol-{}", &id[id.len() - 36..]);
    let image = bench.wait(bench.rados.image_id(&name)).unwrap().unwrap();
    Pieces(bench).reduce(&name, &image, state);
    id
}

#[test]
fn delete_goes_on_from_every_state_of_librbds_trash_move_and_remove() {
    let bench = Bench::new();
    let driver = bench.start();
    for state in TRASHES {
        let id = half_deleted(&bench, &driver, state);
        bench.delete(&driver, &id).unwrap_or_else(|error| panic!("state {state}: {error}"));
        bench.delete(&driver, &id).unwrap_or_else(|error| panic!("state {state}, again: {error}"));
        bench.wait_until_empty(&format!("state {state}"));
    }
}

#[test]
fn create_never_answers_with_an_image_that_is_in_the_trash() {
    let bench = Bench::new();
    let driver = bench.start();
    for state in TRASHES.iter().filter(|state| state.contains('T') && !state.contains('I')) {
        let id = half_deleted(&bench, &driver, state);
        match create(&bench, &driver) {
            Ok(other) => assert_ne!(other, id, "state {state}"),
            Err(status) => {
                assert_eq!(status.code(), tonic::Code::FailedPrecondition, "state {state}: {status}");
                bench.delete(&driver, &id).unwrap_or_else(|error| panic!("state {state}: {error}"));
                bench.wait_until_empty(&format!("state {state}"));
                continue;
            }
        }
        panic!("state {state}: somebody else's trash was taken for a deletion of ours");
    }
}
