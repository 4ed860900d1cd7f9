//! The cluster does not answer, or the caller does not wait: an answer before the
//! deadline with the right code and the object's name, and later the same volume.

use std::time::{Duration, Instant};

use nix::unistd::Pid;
use rbd_csi::csi::proto;
use rbd_csi::csi::proto::controller_client::ControllerClient;
use tonic::{Code, Status};

use crate::support::bench::{Bench, GIB};
use crate::support::driver::{self, Driver};
use crate::support::lab::Stopped;

const NAME: &str = "pvc-outage";
/// What the caller waits.
const DEADLINE: Duration = Duration::from_secs(6);
/// Short enough that Ceph's own time-outs end before the deadline.
const TIMEOUTS: &str = "rados_osd_op_timeout = 2\nrados_mon_op_timeout = 2\nclient_mount_timeout = 3";

fn bench(settings: &str) -> Bench {
    let bench = Bench::new();
    bench.site.ceph_conf(settings);
    bench
}

/// An answer in time that makes the CO call again, and names what did not answer.
fn check<T: std::fmt::Debug>(answer: &Result<T, Status>, since: Instant, object: &str) {
    let status = answer.as_ref().unwrap_err();
    assert!(since.elapsed() < DEADLINE, "{:?}: {status}", since.elapsed());
    assert!([Code::DeadlineExceeded, Code::Unavailable, Code::Aborted].contains(&status.code()), "{status}");
    assert!(status.message().contains(object), "{object}: {status}");
}

fn until_ok<T>(mut call: impl FnMut() -> Result<T, Status>) -> T {
    let until = Instant::now() + Duration::from_secs(40);
    loop {
        match call() {
            Ok(answer) => return answer,
            Err(status) => assert!(Instant::now() < until, "it does not recover: {status}"),
        }
        std::thread::sleep(Duration::from_millis(200));
    }
}

fn paused(settings: &str) {
    let bench = bench(settings);
    let driver = bench.start();
    bench.delete(&driver, &bench.nothing()).unwrap();
    let pause = bench.cluster().pause();
    let since = Instant::now();
    let answer = bench.create_within(&driver, NAME, DEADLINE);
    check(&answer, since, "in pool rbd");
    // Since Ceph 18 that is how a user fares who has no OSD capabilities.
    let told =
        answer.unwrap_err().message().contains("does client.admin have osd caps \"profile rbd pool=rbd\"?");
    assert_eq!(told, !settings.is_empty(), "where Ceph's own time-out ended it");
    drop(pause);
    let id = until_ok(|| bench.create(&driver, NAME));
    assert_eq!(bench.images().len(), 1);

    let pause = bench.cluster().pause();
    let since = Instant::now();
    let answer = validate(&bench, &driver, &id);
    check(&answer, since, &id[id.len() - 36..]);
    assert_eq!(
        answer.unwrap_err().message().contains("does client.admin have osd caps"),
        !settings.is_empty()
    );
    drop(pause);
    until_ok(|| validate(&bench, &driver, &id));

    let pause = bench.cluster().pause();
    let since = Instant::now();
    check(&bench.delete_within(&driver, &id, DEADLINE), since, &id[id.len() - 36..]);
    drop(pause);
    until_ok(|| bench.delete(&driver, &id));
    bench.wait_until_empty("after the pauses");
}

fn validate(bench: &Bench, driver: &Driver, id: &str) -> Result<(), Status> {
    let mut request = tonic::Request::new(proto::ValidateVolumeCapabilitiesRequest {
        volume_id: id.to_owned(),
        volume_capabilities: vec![driver::mount()],
        secrets: bench.site.secrets.clone(),
        ..Default::default()
    });
    request.set_timeout(DEADLINE);
    bench.wait(async { driver.client().await.validate_volume_capabilities(request).await.map(drop) })
}

#[test]
fn a_pause_that_outlasts_cephs_time_outs() {
    paused(TIMEOUTS);
}

#[test]
fn a_pause_that_outlasts_the_caller() {
    paused("");
}

/// Runs a call and pauses the cluster when it is about to take this step; gives its answer.
/// The driver stands still until the pause holds, however long `ceph` takes for it.
fn paused_at<T: Send>(
    bench: &Bench,
    driver: &Driver,
    step: &str,
    call: impl Fn() -> Result<T, Status> + Sync,
) -> Result<T, Status> {
    bench.site.arm(&format!("delay=1500:before:{step}"));
    let since = Instant::now();
    let answer = std::thread::scope(|scope| {
        let answer = scope.spawn(&call);
        while !bench.site.steps().iter().any(|seen| seen.starts_with(step)) {
            assert!(since.elapsed() < DEADLINE, "{step} is not reached: {:?}", bench.site.steps());
            std::thread::sleep(Duration::from_millis(2));
        }
        let stopped = Stopped::new(Pid::from_raw(i32::try_from(driver.pid()).unwrap()));
        let pause = bench.cluster().pause();
        drop(stopped);
        let answer = answer.join().unwrap();
        drop(pause);
        answer
    });
    bench.site.arm("");
    answer
}

#[test]
fn a_pause_in_the_middle_of_a_create() {
    let bench = bench(TIMEOUTS);
    let driver = bench.start();
    bench.delete(&driver, &bench.nothing()).unwrap();
    for step in ["journal enter", "rbd_create4", "metadata set", "journal complete"] {
        let since = Instant::now();
        let answer = paused_at(&bench, &driver, step, || bench.create_within(&driver, NAME, DEADLINE));
        check(&answer, since, "");
        let id = until_ok(|| bench.create(&driver, NAME));
        assert_eq!(bench.images().len(), 1, "{step}");
        bench.delete(&driver, &id).unwrap();
        bench.wait_until_empty(step);
    }
}

#[test]
fn a_pause_in_the_middle_of_a_delete() {
    let bench = bench(TIMEOUTS);
    let driver = bench.start();
    for step in ["image header", "trash add", "journal remove entry"] {
        let id = bench.create(&driver, NAME).unwrap();
        let since = Instant::now();
        let answer = paused_at(&bench, &driver, step, || bench.delete_within(&driver, &id, DEADLINE));
        check(&answer, since, "");
        until_ok(|| bench.delete(&driver, &id));
        bench.wait_until_empty(step);
    }
    // The purge comes after the answer; a pause holds it up, and it goes on by itself.
    let id = bench.create(&driver, NAME).unwrap();
    paused_at(&bench, &driver, "rbd_trash_remove_with_progress", || bench.delete(&driver, &id)).unwrap();
    bench.wait_until_empty("after a pause of the purge");
}

#[test]
fn a_monitor_that_does_not_answer() {
    let bench = bench(TIMEOUTS);
    let driver = bench.start();
    let monitor = bench.cluster().stop_monitor();
    let since = Instant::now();
    check(&bench.create_within(&driver, NAME, DEADLINE), since, &bench.cluster().monitors);
    let since = Instant::now();
    check(&bench.delete_within(&driver, &bench.nothing(), DEADLINE), since, &bench.cluster().monitors);
    let since = Instant::now();
    check(&validate(&bench, &driver, &bench.nothing()), since, &bench.cluster().monitors);
    drop(monitor);
    let id = until_ok(|| bench.create(&driver, NAME));
    let other = bench.create(&driver, "pvc-deleted-meanwhile").unwrap();
    // A client that is connected needs the monitor only for what its map does not have.
    let monitor = bench.cluster().stop_monitor();
    assert_eq!(bench.create_within(&driver, NAME, DEADLINE).unwrap(), id);
    validate(&bench, &driver, &id).unwrap();
    bench.delete_within(&driver, &other, DEADLINE).unwrap();
    assert_eq!(bench.images(), [format!("csi-vol-{}", &id[id.len() - 36..])]);
    let mut elsewhere = bench.request(NAME, &[("pool", "not-known-yet")]);
    elsewhere.name = "pvc-elsewhere".to_owned();
    let mut request = tonic::Request::new(elsewhere);
    request.set_timeout(DEADLINE);
    let since = Instant::now();
    let answer = bench.wait(async { driver.client().await.create_volume(request).await });
    check(&answer, since, "not-known-yet");
    // A volume of a pool that no map of this client has is not said to be absent.
    let unknown = bench.nothing().replace(&format!("{:016x}", bench.rados.id()), "00000000000003e7");
    let since = Instant::now();
    check(&validate(&bench, &driver, &unknown), since, "");
    drop(monitor);
    assert_eq!(validate(&bench, &driver, &bench.nothing()).unwrap_err().code(), Code::NotFound);
    until_ok(|| bench.delete(&driver, &id));
    bench.wait_until_empty("after the monitor's rest");
}

#[test]
fn replies_are_lost_and_calls_repeated() {
    let bench = Bench::new();
    let driver = bench.start();
    bench.delete(&driver, &bench.nothing()).unwrap();
    let mut late = 0;
    for round in 0..10 {
        // Whoever gives up first: the caller, whose connection is dropped in the middle.
        let times = [1, 5, 10, 20, 40].map(Duration::from_millis);
        for time in times {
            late += usize::from(abandoned(&bench, &driver, None, time));
        }
        let id = bench.create(&driver, NAME).unwrap();
        assert_eq!(bench.create(&driver, NAME).unwrap(), id, "round {round}");
        assert_eq!(bench.images().len(), 1, "round {round}");
        for time in times {
            late += usize::from(abandoned(&bench, &driver, Some(&id), time));
        }
        bench.delete(&driver, &id).unwrap();
    }
    assert!(late > 10, "only {late} replies were lost");
    bench.wait_until_empty("after the lost replies");
}

/// A call whose caller is gone after that time; whether it went before the reply came.
fn abandoned(bench: &Bench, driver: &Driver, delete: Option<&str>, time: Duration) -> bool {
    bench.wait(async {
        let mut client = driver.client().await;
        let call = async {
            match delete {
                Some(id) => client.delete_volume(driver::delete(&bench.site, id)).await.map(drop),
                None => client.create_volume(bench.request(NAME, &[])).await.map(drop),
            }
        };
        tokio::time::timeout(time, call).await.is_err()
    })
}

#[test]
fn two_hundred_volumes_by_32_callers_leave_the_pool_as_it_was() {
    let bench = Bench::new();
    let driver = bench.start();
    bench.wait(async {
        let channel = driver.channel().await;
        let callers = (0..32).map(|caller| {
            let mut client = ControllerClient::new(channel.clone());
            let numbers = (0..200).filter(move |number| number % 32 == caller);
            let requests: Vec<_> = numbers
                .map(|number| driver::create(&bench.site, &format!("pvc-many-{number}"), GIB))
                .collect();
            let delete = driver::delete(&bench.site, "");
            tokio::spawn(async move {
                for request in requests {
                    let volume = client.create_volume(request).await.unwrap().into_inner().volume.unwrap();
                    let mut delete = delete.clone();
                    delete.volume_id = volume.volume_id;
                    client.delete_volume(delete).await.unwrap();
                }
            })
        });
        for caller in callers.collect::<Vec<_>>() {
            caller.await.unwrap();
        }
    });
    bench.wait_until_empty("after 200 volumes");
}
