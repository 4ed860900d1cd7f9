//! `--type=liveness` beside a driver that lives, dies and comes back.

use nix::sys::signal::Signal;

use super::http::get;
use super::page::free_port;
use super::program::Place;

#[test]
fn the_gauge_follows_the_driver() {
    let place = Place::new();
    let mut driver = place.serve(&["--controllerserver=true"]);
    let port = free_port();
    let arguments = [
        "--type=liveness".to_owned(),
        format!("--endpoint=unix://{}", place.socket().display()),
        format!("--metricsport={port}"),
        "--polltime=100ms".to_owned(),
        "--timeout=1s".to_owned(),
    ];
    let liveness = place.run(arguments);
    let shows = |value: &str| {
        let line = format!("csi_liveness {value}");
        std::net::TcpStream::connect(("127.0.0.1", port)).is_ok()
            && get(port, "/metrics").1.lines().any(|shown| shown == line)
    };
    liveness.wait_until("the driver lives", || shows("1"));

    driver.signal(Signal::SIGSTOP);
    liveness.wait_until("a driver that hangs is told", || shows("0"));
    driver.signal(Signal::SIGCONT);
    liveness.wait_until("it answers again", || shows("1"));

    driver.signal(Signal::SIGKILL);
    driver.ended();
    liveness.wait_until("a driver that is gone is told", || shows("0"));
    let driver = place.serve(&["--controllerserver=true"]);
    liveness.wait_until("the new one lives", || shows("1"));

    assert_eq!(get(port, "/healthz").0, 200);
    liveness.stop_within(5);
    driver.stop_within(5);
}

#[test]
fn a_driver_that_is_not_well_is_not_alive() {
    let place = Place::new();
    let driver = place.serve(&["--controllerserver=true"]);
    std::fs::remove_file(place.path("config.json")).unwrap();
    let port = free_port();
    let liveness = place.run([
        "--type=liveness".to_owned(),
        format!("--endpoint=unix://{}", place.socket().display()),
        format!("--metricsport={port}"),
        "--polltime=100ms".to_owned(),
    ]);
    liveness.wait_for_log("not ready");
    driver.wait_for_log("config.json");
    assert!(get(port, "/metrics").1.contains("csi_liveness 0"));
    liveness.stop_within(5);
}
