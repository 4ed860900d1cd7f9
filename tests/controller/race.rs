//! One name from two controllers at once, as during a rolling update or a split brain.

use std::time::{Duration, Instant};

use nix::unistd::Pid;
use rbd_csi::csi::proto;
use tonic::Code;

use crate::support::bench::{Bench, SOON};
use crate::support::driver::{self, Driver};
use crate::support::lab::Stopped;
use crate::support::snapshots::Of;

const NAME: &str = "pvc-race";

/// Repeats as the CO does, until the answer is OK.
fn create_until_ok(bench: &Bench, driver: &Driver, at: &str) -> String {
    let until = Instant::now() + Duration::from_secs(20);
    loop {
        match bench.create(driver, NAME) {
            Ok(id) => return id,
            Err(status) => assert!(Instant::now() < until, "{at}: {status}"),
        }
    }
}

#[test]
fn one_name_from_two_processes_is_one_volume() {
    let bench = Bench::new();
    let drivers =
        [bench.site.controller_at(bench.lab, "a.sock"), bench.site.controller_at(bench.lab, "b.sock")];
    for round in 0..100 {
        let at = format!("round {round}");
        let ids = std::thread::scope(|scope| {
            let callers = drivers.each_ref().map(|driver| {
                let (bench, at) = (&bench, &at);
                scope.spawn(move || create_until_ok(bench, driver, at))
            });
            callers.map(|caller| caller.join().unwrap())
        });
        assert_eq!(ids[0], ids[1], "{at}");
        assert_eq!(bench.images(), [format!("csi-vol-{}", &ids[0][ids[0].len() - 36..])], "{at}");
        std::thread::scope(|scope| {
            for driver in &drivers {
                let (bench, id) = (&bench, &ids[0]);
                scope.spawn(move || bench.delete(driver, id).unwrap());
            }
        });
        assert_eq!(bench.reserved(NAME), None, "{at}");
    }
    bench.wait_until_empty("after 100 rounds");
}

/// What another controller does to the volume while the first is stopped in its create.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Meanwhile {
    Create,
    CreateAndDelete,
    Delete,
}

/// Stops one controller at this step of its create, lets another go to work, and lets the
/// first go on: never a second image, never a leak.
fn stopped_at(step: &str, meanwhile: Meanwhile) {
    let at = format!("stopped at {step}, meanwhile {meanwhile:?}");
    let mut bench = Bench::new();
    bench.site.flag("--takeover-grace=1s");
    let first = bench.site.controller_at(bench.lab, "a.sock");
    bench.delete(&first, &bench.nothing()).unwrap();
    let (late, stopped) = stop_in_create(&bench, &first, step);

    let second = bench.site.controller_without_faults(bench.lab, "b.sock");
    let id = match meanwhile {
        Meanwhile::Delete => bench.handle(&bench.reserved(NAME).unwrap()),
        _ => create_until_ok(&bench, &second, &at),
    };
    if meanwhile != Meanwhile::Create {
        bench.delete(&second, &id).unwrap_or_else(|error| panic!("{at}: {error}"));
    }
    drop(stopped);
    let late = bench.wait(late).unwrap().map(|answer| answer.into_inner().volume.unwrap().volume_id);
    // It may have been fenced, so that it needs a new connection; then it agrees.
    let again = create_until_ok(&bench, &first, &at);
    assert!(late.as_ref().ok().is_none_or(|late| *late == again), "{at}: {late:?}, then {again}");
    assert!(meanwhile != Meanwhile::Create || again == id, "{at}: {id}, then {again}");
    assert_eq!(bench.images(), [format!("csi-vol-{}", &again[again.len() - 36..])], "{at}: {late:?}");
    bench.delete(&first, &again).unwrap();
    bench.wait_until_empty(&at);
}

type Late = tokio::task::JoinHandle<Result<tonic::Response<proto::CreateVolumeResponse>, tonic::Status>>;

fn stop_in_create(bench: &Bench, driver: &Driver, step: &str) -> (Late, Stopped) {
    bench.site.arm(&format!("delay=1500:before:{step}"));
    let mut client = bench.wait(driver.client());
    let request = driver::create(&bench.site, NAME, 1 << 30);
    let late = bench.runtime.spawn(async move { client.create_volume(request).await });
    let until = Instant::now() + Duration::from_secs(10);
    while !bench.site.steps().iter().any(|seen| seen.starts_with(step)) {
        assert!(Instant::now() < until, "{step} is not reached: {:?}", bench.site.steps());
        std::thread::sleep(Duration::from_millis(2));
    }
    (late, Stopped::new(Pid::from_raw(i32::try_from(driver.pid()).unwrap())))
}

#[test]
fn a_creator_that_stops_is_fenced_and_makes_no_second_image() {
    for step in ["journal write entry", "journal enter", "rbd_create4", "metadata set", "journal complete"] {
        stopped_at(step, Meanwhile::Create);
    }
}

/// ceph-csi knows no intents: it takes a name that a creator of ours was about to take when it
/// stopped. What that one wrote goes with the volume.
#[test]
fn an_intent_beside_ceph_csi_s_key_goes_with_the_volume() {
    let bench = Bench::new();
    let driver = bench.start();
    let id = bench.create(&driver, NAME).unwrap();
    let other = uuid::Uuid::new_v4().to_string();
    bench.set_keys(&format!("csi.volume.{other}"), &[("csi.volname", NAME), ("csi.imagename", "csi-vol-x")]);
    bench.set_keys("csi.volumes.default", &[(&format!("rbd-csi.intent.{NAME}"), &other)]);
    bench.delete(&driver, &id).unwrap();
    bench.wait_until_empty("both");
}

#[test]
fn a_creator_that_stops_while_its_volume_comes_and_goes_leaves_nothing() {
    for step in ["journal write entry", "journal enter", "rbd_create4", "journal complete"] {
        stopped_at(step, Meanwhile::CreateAndDelete);
    }
}

#[test]
fn a_creator_that_stops_while_its_volume_is_deleted_takes_its_image_back() {
    for step in ["rbd_create4", "metadata set", "journal complete"] {
        stopped_at(step, Meanwhile::Delete);
    }
}

/// A volume that goes while another controller begins a snapshot or a clone of it: the beginning
/// stands on an image that lies in the trash by then.
#[test]
fn a_source_that_goes_while_something_of_it_is_begun_goes_to_the_last_object() {
    let bench = Bench::new();
    let slow = bench.site.controller_at(bench.lab, "a.sock");
    let other = bench.start_beside();
    type Begin = fn(&Bench, &Driver, &str) -> Result<(), tonic::Status>;
    let begins: [(&str, Begin); 2] = [
        ("snapshot", |bench, driver, id| bench.snapshot(driver, "snapshot-1", id).map(drop)),
        ("clone", |bench, driver, id| bench.create_of(driver, "pvc-clone", Of::Volume(id)).map(drop)),
    ];
    for (at, begin) in begins {
        let id = create_until_ok(&bench, &other, at);
        // With that the image waits in the trash.
        let kept = bench.snapshot(&other, "snapshot-kept", &id).unwrap().snapshot_id;
        bench.site.arm("delay=1500:before:rbd_open_by_id");
        std::thread::scope(|scope| {
            let late = scope.spawn(|| begin(&bench, &slow, &id));
            bench.wait_until("it is about to begin", || {
                bench.site.steps().iter().any(|step| step.starts_with("rbd_open_by_id"))
            });
            bench.delete(&other, &id).unwrap();
            let status = late.join().unwrap().unwrap_err();
            assert!([Code::Unavailable, Code::NotFound].contains(&status.code()), "{at}: {status}");
        });
        bench.site.arm("");
        assert_eq!(begin(&bench, &slow, &id).unwrap_err().code(), Code::NotFound, "{at}");
        bench.delete_snapshot(&other, &kept).unwrap();
        bench.wait_until_empty_for(at, SOON * 2);
    }
}

/// Two who delete one volume: the slow one is about to move the image to the trash when the other
/// has moved and purged it.
#[test]
fn an_image_that_another_has_purged_meanwhile_is_not_put_into_the_trash_again() {
    let bench = Bench::new();
    let slow = bench.site.controller_at(bench.lab, "a.sock");
    let other = bench.start_beside();
    let id = create_until_ok(&bench, &other, "at the beginning");
    bench.site.arm("delay=1500:before:trash add");
    std::thread::scope(|scope| {
        let late = scope.spawn(|| bench.delete(&slow, &id));
        bench.wait_until("it is about to move the image", || {
            bench.site.steps().iter().any(|step| step.starts_with("trash add"))
        });
        let stopped = Stopped::new(Pid::from_raw(i32::try_from(slow.pid()).unwrap()));
        bench.delete(&other, &id).unwrap();
        bench.wait_until_empty("the other has purged it");
        drop(stopped);
        late.join().unwrap().unwrap();
    });
    bench.wait_until_empty("after both");
}
