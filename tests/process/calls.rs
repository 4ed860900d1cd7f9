//! What holds for every call: the deadline, the limits, the line in the log.

use std::time::{Duration, Instant};

use rbd_csi::csi::proto::{DeleteVolumeRequest, GetPluginInfoRequest};
use tonic::{Code, Request};

use super::program::{Place, create};

#[tokio::test]
async fn a_caller_is_answered_before_its_deadline_and_told_what_hangs() {
    let place = Place::new();
    let _program = place.serve(&["--controllerserver=true"]);
    let mut controller = place.controller().await;
    for seconds in [3, 5] {
        let mut request = Request::new(create("pvc-late"));
        request.set_timeout(Duration::from_secs(seconds));
        let since = Instant::now();
        let status = controller.create_volume(request).await.unwrap_err();
        assert!(since.elapsed() < Duration::from_secs(seconds), "{:?}", since.elapsed());
        assert_eq!(status.code(), Code::DeadlineExceeded, "{status:?}");
        assert!(status.message().len() > 30, "it does not say what hangs: {}", status.message());
        assert!(status.details().is_empty());
    }
}

#[tokio::test]
async fn a_call_that_takes_long_is_told_of_and_so_is_a_caller_that_goes_away() {
    let place = Place::new();
    let program = place.serve(&["--controllerserver=true", "--logslowopinterval=100ms"]);
    let mut controller = place.controller().await;
    let call = tokio::spawn(async move { controller.create_volume(create("pvc-left-alone")).await });
    tokio::time::sleep(Duration::from_millis(700)).await;
    let slow = |line: &&str| line.contains("not answered yet") && line.contains("pvc-left-alone");
    assert!(program.log().lines().filter(slow).count() >= 2, "{}", program.log());
    call.abort();
    tokio::time::sleep(Duration::from_millis(700)).await;
    let log = program.log();
    let left = |line: &str| line.contains("pvc-left-alone") && line.contains("CANCELLED");
    assert!(log.lines().any(left), "{log}");
}

#[tokio::test]
async fn too_large_a_request_is_refused_and_the_next_is_served() {
    let place = Place::new();
    let _program = place.serve(&["--controllerserver=true"]);
    let mut controller = place.controller().await;
    let large = create(&"x".repeat(5 << 20));
    let status = controller.create_volume(large).await.unwrap_err();
    assert!(matches!(status.code(), Code::ResourceExhausted | Code::OutOfRange), "{:?}", status.code());
    place.identity().await.get_plugin_info(GetPluginInfoRequest {}).await.unwrap();
}

#[tokio::test]
async fn a_service_that_was_not_asked_for_is_not_served() {
    let place = Place::new();
    let _program = place.serve(&[]);
    let info = place.identity().await.get_plugin_info(GetPluginInfoRequest {}).await.unwrap();
    assert_eq!(info.into_inner().name, "rbd.csi.ceph.com");
    let status = place.controller().await.create_volume(create("pvc")).await.unwrap_err();
    assert_eq!(status.code(), Code::Unimplemented);
}

#[tokio::test]
async fn each_call_has_one_line_with_id_method_volume_code_and_time() {
    let place = Place::new();
    let program = place.serve(&["--controllerserver=true", "--log-format=json"]);
    let mut controller = place.controller().await;
    let request = DeleteVolumeRequest { volume_id: "no handle\nat all".to_owned(), ..Default::default() };
    controller.delete_volume(request.clone()).await.unwrap();
    let nothing = DeleteVolumeRequest::default();
    assert_eq!(controller.delete_volume(nothing).await.unwrap_err().code(), Code::InvalidArgument);
    let log = program.stop_within(5);
    let lines: Vec<serde_json::Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let answered: Vec<_> = lines.iter().filter(|line| line["message"] == "answered").collect();
    assert_eq!(answered.len(), 2, "{log}");
    for (line, volume, code) in
        [(answered[0], "no handle\nat all", "OK"), (answered[1], "", "INVALID_ARGUMENT")]
    {
        assert_eq!((line["volume"].as_str(), line["code"].as_str()), (Some(volume), Some(code)), "{line}");
        assert!(line["seconds"].as_f64().unwrap() < 5.0);
        assert_eq!(line["span"]["method"], "DeleteVolume");
        assert!(line["span"]["id"].is_number());
    }
    assert_ne!(answered[0]["span"]["id"], answered[1]["span"]["id"]);
}
