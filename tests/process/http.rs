//! `/metrics` and `/healthz`.

use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use rbd_csi::csi::proto::ProbeRequest;

use super::page::{self, free_port};
use super::program::{Place, create};

/// The status and body of a page on this machine.
pub fn get(port: u16, path: &str) -> (u16, String) {
    // A driver's CSI socket, for which tests wait, is there a moment before this port.
    let until = Instant::now() + Duration::from_secs(10);
    while TcpStream::connect(("127.0.0.1", port)).is_err() && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(20));
    }
    page::get(("127.0.0.1", port), path)
}

#[tokio::test]
async fn calls_are_counted_by_method_and_code() {
    let place = Place::new();
    let port = free_port();
    let program =
        place.serve(&["--controllerserver=true", &format!("--metricsport={port}"), "--metricspath=/here"]);
    place.identity().await.probe(ProbeRequest {}).await.unwrap();
    let (status, text) = get(port, "/here");
    assert_eq!(status, 200);
    let counted = |line: &&str| {
        line.starts_with("rbd_csi_rpc_seconds_count{")
            && line.contains("\"Probe\"")
            && line.contains("\"OK\"")
    };
    let line = text.lines().find(counted).unwrap_or_else(|| panic!("no Probe in\n{text}"));
    assert!(line.ends_with(" 1"), "{line}");
    assert!(text.contains("rbd_csi_rpc_seconds_bucket{"), "{text}");
    for word in ["in_flight", "oldest"] {
        assert!(text.contains(word), "{word} is not in\n{text}");
    }
    assert_eq!(get(port, "/metrics").0, 404);
    program.stop_within(5);
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_in_flight_and_the_age_of_the_oldest_are_shown() {
    let place = Place::new();
    let port = free_port();
    let program = place.serve(&["--controllerserver=true", &format!("--metricsport={port}"), "--v=4"]);
    let shown = |name: &str| page::value(&get(port, "/metrics").1, name, &[]).unwrap();
    let now = || (shown("rbd_csi_rpcs_in_flight"), shown("rbd_csi_oldest_rpc_seconds"));
    assert_eq!(now(), (0.0, 0.0));
    let mut calls = Vec::new();
    for name in ["pvc-oldest", "pvc-second"] {
        let mut controller = place.controller().await;
        calls.push(tokio::spawn(async move { controller.create_volume(create(name)).await }));
        program.wait_until(name, || shown("rbd_csi_rpcs_in_flight") == calls.len() as f64);
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    let (count, age) = now();
    assert!(count == 2.0 && age > 0.6 && age < 30.0, "{count}, {age} s");
    calls.remove(0).abort();
    program.wait_until("the oldest is gone", || shown("rbd_csi_rpcs_in_flight") == 1.0);
    let younger = shown("rbd_csi_oldest_rpc_seconds");
    calls.remove(0).abort();
    program.wait_until("nobody waits", || now() == (0.0, 0.0));
    assert!(younger > 0.3, "{younger} s");
}

#[tokio::test]
async fn health_follows_the_configuration_and_not_the_cluster() {
    let place = Place::new();
    let port = free_port();
    let program = place.serve(&["--controllerserver=true", &format!("--metricsport={port}")]);
    let mut identity = place.identity().await;
    // The cluster is deaf, and all is well.
    assert_eq!(get(port, "/healthz").0, 200);
    identity.probe(ProbeRequest {}).await.unwrap();

    let config = place.path("config.json");
    std::fs::rename(&config, place.path("elsewhere")).unwrap();
    let (status, text) = get(port, "/healthz");
    assert_eq!(status, 503);
    assert!(text.contains("config.json"), "{text}");
    // Asked twice, told once; an error would end the sidecars, this they wait out.
    for _ in 0..2 {
        assert_eq!(identity.probe(ProbeRequest {}).await.unwrap().into_inner().ready, Some(false));
    }
    let log = program.log();
    let told = |line: &&str| line.contains("WARN") && line.contains("config.json");
    assert_eq!(log.lines().filter(told).count(), 1, "{log}");

    std::fs::rename(place.path("elsewhere"), &config).unwrap();
    assert_eq!(get(port, "/healthz").0, 200);
    assert_eq!(identity.probe(ProbeRequest {}).await.unwrap().into_inner().ready, Some(true));
}

#[tokio::test]
async fn a_port_that_is_taken_is_a_warning_and_served_once_it_is_free() {
    let place = Place::new();
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = other.local_addr().unwrap().port();
    let program = place.serve(&["--controllerserver=true", &format!("--metricsport={port}")]);
    place.identity().await.probe(ProbeRequest {}).await.unwrap();
    let told = |log: &str, level: &str| {
        log.lines().filter(|line| line.contains(level) && line.contains(&port.to_string())).count()
    };
    // Some attempts, of which one is told.
    std::thread::sleep(Duration::from_millis(2500));
    let log = program.log();
    assert_eq!((told(&log, "WARN"), told(&log, "INFO")), (1, 0), "{log}");

    drop(other);
    program.wait_until("the port is served", || TcpStream::connect(("127.0.0.1", port)).is_ok());
    assert_eq!(get(port, "/healthz").0, 200);
    assert_eq!(get(port, "/metrics").0, 200);
    let log = program.stop_within(5);
    assert_eq!((told(&log, "WARN"), told(&log, "INFO")), (1, 1), "{log}");
}

#[test]
fn nothing_listens_unless_it_is_asked_for() {
    let place = Place::new();
    let before = TcpStream::connect("127.0.0.1:8080").is_ok();
    let program = place.serve(&["--controllerserver=true"]);
    assert_eq!(TcpStream::connect("127.0.0.1:8080").is_ok(), before);
    assert!(!program.stop_within(5).contains("metrics"));
}
