//! config.json and cluster-mapping.json as the running driver reads them: on each call,
//! with warnings of what is not followed yet, and mistakes told with their place.

use rbd_csi::csi::proto::{DeleteVolumeRequest, ProbeRequest};
use tonic::{Code, Status};

use super::program::Place;

const AFFINITY: &str = "readAffinity is not followed by this version";
const MAPPING: &str = "cluster mapping is not followed by this version";

/// A call that comes as far as the configuration: it has no key to go on with.
async fn call(place: &Place) -> Status {
    let request = DeleteVolumeRequest {
        volume_id: "0001-0004-deaf-0000000000000001-164658ce-0000-4000-8000-000000000000".to_owned(),
        ..DeleteVolumeRequest::default()
    };
    place.controller().await.delete_volume(request).await.unwrap_err()
}

/// What is said when the configuration was accepted.
fn accepted(status: &Status) {
    assert_eq!(status.code(), Code::InvalidArgument, "{status}");
    assert!(status.message().contains("secret"), "{status}");
}

/// The cluster of that place with something more.
fn configure(place: &Place, more: &str) {
    let text = std::fs::read_to_string(place.path("config.json")).unwrap();
    let text = text.split_once("]}").unwrap().0.to_owned() + &format!("]{more}}}]");
    std::fs::write(place.path("config.json"), text).unwrap();
}

fn warnings(log: &str, text: &str) -> usize {
    log.lines().filter(|line| line.contains("WARN") && line.contains(text)).count()
}

#[tokio::test]
async fn read_affinity_and_mapping_are_accepted_with_a_warning() {
    for (more, mapping, expected) in [
        ("", None, (0, 0)),
        (r#","readAffinity":{"enabled":true,"crushLocationLabels":["zone"]}"#, None, (1, 0)),
        (r#","readAffinity":{"enabled":"true"}"#, Some(r#"[{"clusterIDMapping":{"a":"b"}}]"#), (1, 1)),
        (r#","readAffinity":{"enabled":"false"}"#, Some("[]"), (0, 0)),
        (r#","readAffinity":{"enabled":false}"#, Some("broken"), (0, 1)),
    ] {
        let place = Place::new();
        configure(&place, more);
        if let Some(mapping) = mapping {
            std::fs::write(place.path("cluster-mapping.json"), mapping).unwrap();
        }
        let program = place.serve(&["--controllerserver=true"]);
        // Twice: once is enough for a log that nobody empties.
        for _ in 0..2 {
            accepted(&call(&place).await);
        }
        let log = program.log();
        assert_eq!(
            (warnings(&log, AFFINITY), warnings(&log, MAPPING)),
            expected,
            "{more} {mapping:?}\n{log}"
        );
    }
}

#[tokio::test]
async fn a_file_that_is_missing_at_the_start_or_broken_is_told_and_read_again() {
    let place = Place::new();
    let config = place.path("config.json");
    let good = std::fs::read_to_string(&config).unwrap();
    std::fs::remove_file(&config).unwrap();
    let program = place.serve(&["--controllerserver=true"]);
    let status = call(&place).await;
    assert_eq!(status.code(), Code::FailedPrecondition, "{status}");
    assert!(status.message().contains("config.json: No such file"), "{status}");
    let ready = async || place.identity().await.probe(ProbeRequest {}).await.unwrap().into_inner().ready;
    assert_eq!(ready().await, Some(false));

    std::fs::write(&config, "[{\"clusterID\": \"deaf\",\n  \"rbd\": {\"radosNamespace\": 7}}]").unwrap();
    let status = call(&place).await;
    assert_eq!(status.code(), Code::FailedPrecondition, "{status}");
    for word in ["config.json:2:", "[0].rbd.radosNamespace", "expected a string, found a number"] {
        assert!(status.message().contains(word), "{word}: {status}");
    }

    std::fs::write(&config, &good).unwrap();
    accepted(&call(&place).await);
    assert_eq!(ready().await, Some(true));
    program.stop_within(25);
}
