//! SIGTERM while a volume is being made: what runs is done, and then the process ends.

use std::time::{Duration, Instant};

use crate::support::bench::Bench;

const NAME: &str = "pvc-stop";

#[test]
fn a_create_that_runs_at_sigterm_is_done_and_answered() {
    let bench = Bench::new();
    let mut driver = bench.start();
    bench.delete(&driver, &bench.nothing()).unwrap();
    // Longer than an idle driver's end, and what a slow cluster may well take.
    bench.site.arm("delay=4000:before:rbd_create4");
    let mut client = bench.wait(driver.client());
    let request = bench.request(NAME, &[]);
    let answer = bench.runtime.spawn(async move { client.create_volume(request).await });
    let until = Instant::now() + Duration::from_secs(20);
    while !bench.site.steps().iter().any(|step| step.starts_with("rbd_create4")) {
        assert!(Instant::now() < until, "the create is not reached: {:?}", bench.site.steps());
        std::thread::sleep(Duration::from_millis(5));
    }
    let since = Instant::now();
    driver.terminate();
    let volume = bench.wait(answer).unwrap().unwrap().into_inner().volume.unwrap();
    assert!(since.elapsed() >= Duration::from_secs(3), "the create was over before SIGTERM came");
    assert_eq!(driver.ended_within(Duration::from_secs(25).saturating_sub(since.elapsed())), Some(0));
    assert_eq!(bench.images(), [volume.volume_context["imageName"].clone()]);
    assert!(volume.volume_id.ends_with(&bench.reserved(NAME).unwrap()));

    bench.site.arm("");
    let driver = bench.start();
    assert_eq!(bench.create(&driver, NAME).unwrap(), volume.volume_id);
    bench.delete(&driver, &volume.volume_id).unwrap();
    bench.wait_until_empty("after the stop");
}
