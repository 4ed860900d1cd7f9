//! SIGTERM: at once without calls, with one in 25 s, and what the callers are told.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use rbd_csi::csi::proto::ProbeRequest;
use tonic::Code;

use super::program::{Place, create};

#[tokio::test]
async fn an_idle_driver_ends_at_once_even_with_a_client_connected() {
    let place = Place::new();
    let program = place.serve(&["--controllerserver=true"]);
    let mut identity = place.identity().await;
    identity.probe(ProbeRequest {}).await.unwrap();
    program.stop_within(5);
    identity.probe(ProbeRequest {}).await.unwrap_err();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_hangs_is_answered_and_the_process_ends_with_0() {
    let place = Place::new();
    let mut program = place.serve(&["--controllerserver=true", "--v=4"]);
    let mut controller = place.controller().await;
    let call = tokio::spawn(async move { controller.create_volume(create("pvc-hangs")).await });
    program.wait_for_log("pvc-hangs");
    let since = Instant::now();
    program.signal(Signal::SIGTERM);
    let status = call.await.unwrap().unwrap_err();
    let retried = [Code::Unavailable, Code::DeadlineExceeded, Code::Aborted];
    assert!(retried.contains(&status.code()), "{status:?}: the CO must call again");
    assert!(!status.message().is_empty());
    let (ended, _) = program.ended();
    assert_eq!(ended.code(), Some(0), "{ended}\n{}", program.log());
    assert!(since.elapsed() < Duration::from_secs(25), "{:?}\n{}", since.elapsed(), program.log());
    assert!(!place.socket().exists());
}

#[tokio::test]
async fn no_new_calls_are_taken_while_others_end() {
    let place = Place::new();
    let program = place.serve(&["--controllerserver=true", "--v=4"]);
    let mut controller = place.controller().await;
    let call = tokio::spawn(async move { controller.create_volume(create("pvc-hangs")).await });
    let mut identity = place.identity().await;
    program.wait_for_log("pvc-hangs");
    program.signal(Signal::SIGTERM);
    program.wait_for_log("SIGTERM");
    tokio::time::sleep(Duration::from_millis(500)).await;
    let refused = identity.probe(ProbeRequest {}).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable, "{refused:?}");
    assert!(std::os::unix::net::UnixStream::connect(place.socket()).is_err(), "the socket is still open");
    call.abort();
}
